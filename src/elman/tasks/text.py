"""Learn to write like a text, one character at a time.

    embedding -> recurrent layers -> linear -> how likely each character comes next

Training is truncated backpropagation through time: the text is cut into rows that are read side by
side, a chunk at a time; the state is carried from chunk to chunk, and zero where an epoch starts.

Everything that training needs to go on stands in `Learner.tensors` and in its `Position`, and a
checkpoint is those two. So a training that was killed and resumed is the one that never stopped,
bit for bit, on the same machine with the same number of threads. With a budget in seconds, the
seconds that were trained count on from the checkpoint.

Example:
    >>> import tempfile
    >>> from elman.tasks.corpus import Corpus
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> song = "row, row, row your boat, gently down the stream, " * 20
    >>> _ = (folder / "song.txt").write_text(song)
    >>> corpus = Corpus.read([folder / "song.txt"])
    >>> result = train(configure(corpus, epochs=1, hidden=16), corpus, folder / "run")
    >>> result.finished, len("".join(sample(folder / "run", length=40)))
    (True, 40)
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import elman
from elman import checkpoint
from elman.tasks import DivergenceError, InputError
from elman.tasks.config import TextConfig, choose
from elman.tasks.corpus import Corpus, encode
from elman.tasks.run import Run

__all__ = ["Result", "TextModel", "configure", "resume", "sample", "train"]

State: TypeAlias = Tensor | tuple[Tensor, ...] | None
Report: TypeAlias = Callable[[dict[str, Any]], None]

_LOG_EVERY = 10  # updates
_EVALUATIONS = 10  # in the whole budget
_JUDGED = 2**14  # characters in each of them; the last one judges all that was held out
_CONTEXT = 128  # characters read, and not judged, before each row that is judged
_SAMPLE = 160  # characters
_CHECKPOINT_EVERY_S = 3.0
_CHECKPOINT_SHARE = 0.01  # of the time, at most


@dataclass(frozen=True)
class Result:
    """How a training ended.

    Args:
        finished: whether the budget is used up; False if it was stopped before.
        step: updates of the weights.
        seconds: time in training.
        loss: nats per character on all of the held-out text, by the best weights; None if stopped.
    """

    finished: bool
    step: int
    seconds: float
    loss: float | None


class TextModel(nn.Module):
    """Embedding, recurrent layers, linear; dropout before, between and after the layers.

    Args:
        symbols: V, the number of different characters.
        config: cell, hidden, layers, embed and dropout.

    Example:
        >>> config = choose(10_000, files=(), epochs=1, hidden=16)
        >>> model = TextModel(5, config)
        >>> logits, state = model(torch.tensor([[0, 4], [1, 3], [2, 2]]))
        >>> logits.shape
        torch.Size([3, 2, 5])
    """

    def __init__(self, symbols: int, config: TextConfig) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        layers = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}[config.cell]
        self.embedding = nn.Embedding(symbols, config.embed)
        self.recurrent = layers(
            config.embed,
            config.hidden,
            config.layers,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.output = nn.Linear(config.hidden, symbols)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, hx: State = None) -> tuple[Tensor, State]:
        """Read on.

        Args:
            ids: (L, N) characters, as numbers.
            hx: the state after the characters before, or None for none.

        Returns:
            (L, N, V) logits of the character that follows each, and the state after the last.
        """
        output, hx = self.recurrent(self.dropout(self.embedding(ids)), hx)
        return self.output(self.dropout(output)), hx


def configure(corpus: Corpus, **given: Any) -> TextConfig:
    """Complete the settings that the user gave; see `elman.tasks.config.choose`.

    If the budget is a time and the size or the dropout is left open, this takes most of a second
    to measure the machine.

    Args:
        corpus: the text.
        given: settings under the names of TextConfig's, except for `files`.

    Raises:
        InputError: something given is out of range.
    """
    characters = len(corpus.training)
    timed = given.get("max_time") is not None or given.get("epochs") is None
    known = not timed or given.keys() >= {"hidden", "dropout"}
    speed = math.inf if known else measure_speed()
    return choose(characters, speed, files=corpus.files, **given)


def measure_speed(seconds: float = 0.6) -> float:
    """Measure additions and multiplications per second in training a middling LSTM.

    Args:
        seconds: how long to measure.
    """
    with torch.random.fork_rng(devices=[]):
        embed, hidden, seq_len, batch = 64, 384, 32, 32
        lstm = elman.LSTM(embed, hidden)
        input = torch.randn(seq_len, batch, embed, requires_grad=True)
        weights = 4 * hidden * (embed + hidden)
        best = math.inf
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or best == math.inf:
            lstm(input)[0].sum().backward()
            best = min(best, time.perf_counter() - start)
    return 6 * weights * seq_len * batch / best


def train(
    config: TextConfig,
    corpus: Corpus,
    out: Path,
    *,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a new model and keep all of it in a directory.

    Args:
        config: the settings; `configure` completes those that are not given.
        corpus: the text.
        out: the directory of the run, not there yet, or empty.
        report: called with a record of the start, each update, each evaluation and the result; the
            records are those of metrics.jsonl, where of the updates only every tenth is kept.
        stop: asked before each update; True saves a checkpoint and ends the training.

    Returns:
        How it ended.

    Raises:
        InputError: the text is too short for the settings, there is something at `out` already, or
            it cannot be made.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    characters, needed = len(corpus.training), config.batch * config.chunk
    if characters < needed:
        raise InputError(
            f"the text is too short: {characters} characters to train on, at least batch * chunk ="
            f" {config.batch} * {config.chunk} = {needed} are needed; lower them, or give more text"
        )
    about = {"config": asdict(config), "text": _about(corpus)}
    return _train(config, corpus, Run.create(out, about), report, stop)


def resume(
    out: Path,
    *,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    **given: Any,
) -> Result:
    """Go on with a training that was stopped, or killed, from its last checkpoint.

    Args:
        out: the directory of the run.
        report: as in `train`.
        stop: as in `train`.
        given: settings as in `configure`. A new budget (epochs, max_time) replaces the old one,
            `files` says where the text is now; any other must be what the run has.

    Returns:
        How it ended. A training whose budget is used up is only judged again.

    Raises:
        InputError: there is no run at `out`, its text has changed, or a setting differs.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    run = Run.open(out)
    try:
        config = _config(run.config["config"])
        digest = run.config["text"]["digest"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{out} is not a run on text: {error} in its config.json") from error
    free = {"files", "epochs", "max_time"}
    for name, value in given.items():
        if name not in free and value != getattr(config, name):
            raise InputError(
                f"{out} was trained with {name} {getattr(config, name)}, got {value}:"
                f" leave it out to go on, or start another run"
            )
    if given.keys() & {"epochs", "max_time"}:
        given = {"epochs": None, "max_time": None} | given
    config = TextConfig(**asdict(config) | given)
    corpus = Corpus.read(config.files)
    if corpus.digest != digest:
        raise InputError(
            f"{out} was trained on another text: {' '.join(config.files)} must be as it was"
        )
    if config != _config(run.config["config"]):
        run.configure(run.config | {"config": asdict(config)})
    return _train(config, corpus, run, report, stop)


def sample(
    run: Path,
    *,
    prime: str = "",
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Write on from a text, one character at a time.

    Args:
        run: the directory of a training; its best weights are used, or the last if it was stopped
            before it was first evaluated.
        prime: the text to go on from; it is not repeated.
        length: characters to write.
        temperature: below 1 the likely becomes likelier, above 1 less so; 0 takes the likeliest.
        top_k: choose among so many of the likeliest characters only.
        seed: the same seed writes the same text; None writes another each time.

    Returns:
        The characters, as they are made.

    Raises:
        InputError: there is no trained model, it has never seen a character of `prime`, or an
            argument is out of range.
    """
    for name, value, least in (("length", length, 0), ("temperature", temperature, 0)):
        if not least <= value < math.inf:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    model, symbols = load(run)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    written = write(model, symbols, encode(prime, symbols), temperature, top_k, generator)
    return itertools.islice(written, length)


def load(run: Path) -> tuple[TextModel, str]:
    """Load the model of a run, ready to read and write, and the symbols it knows.

    Raises:
        InputError: there is none.
    """
    found = Run.open(run)
    path = found.best if found.best.exists() else found.last
    if not path.exists():
        raise InputError(f"{run} has no checkpoint yet: train it first, with --resume")
    try:
        tensors, extra = checkpoint.load(path)
        model = TextModel(len(extra["symbols"]), _config(extra["config"]))
        model.load_state_dict(_under("model.", tensors))
    except (checkpoint.CheckpointError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is not a checkpoint of a text model: {error}") from error
    return model.eval(), extra["symbols"]


@torch.no_grad()
def write(
    model: TextModel,
    symbols: str,
    ids: Tensor,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Iterator[str]:
    """Write on from the characters `ids`, (characters,), without end; none stands for a new line.

    The other arguments are those of `sample`; the model is in evaluation mode.
    """
    if len(ids) == 0:
        ids = torch.tensor([max(0, symbols.find("\n"))])
    hx = None
    while True:
        logits, hx = model(ids[:, None], hx)
        logits = logits[-1, 0]
        if temperature == 0:
            ids = logits.argmax(keepdim=True)
        else:
            if top_k is not None and top_k < len(symbols):
                logits = logits.where(logits >= logits.topk(top_k).values[-1], -math.inf)
            likely = (logits / temperature).softmax(0)
            ids = torch.multinomial(likely, 1, generator=generator)
        yield symbols[int(ids)]


@torch.no_grad()
def judge(model: TextModel, corpus: Corpus, most: int | None = None) -> float:
    """Return the loss on the held-out text, in nats per character.

    The text is read in rows side by side, the state carried; each row first reads the characters
    before it, unjudged, so that its state is as if all had been read in one go.

    Args:
        model: in evaluation mode.
        corpus: the text.
        most: judge no more than about so many characters, the first of each row.
    """
    batch = max(1, min(32, corpus.held_out // _CONTEXT))
    context = min(_CONTEXT, len(corpus.training))
    rows = corpus.held_out_rows(batch, context).long()
    if most is not None:
        rows = rows[: context + max(1, most // batch)]
    carry, total = elman.Carry(model), 0.0
    if context > 1:
        carry(rows[: context - 1])
    rows = rows[context - 1 :]
    chunks = (torch.split(part, _CONTEXT) for part in (rows[:-1], rows[1:]))
    for ids, following in zip(*chunks, strict=True):
        logits, _ = carry(ids)
        total += F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum").item()
    return total / ((len(rows) - 1) * batch)


def _train(
    config: TextConfig, corpus: Corpus, run: Run, report: Report, stop: Callable[[], bool]
) -> Result:
    """Train from the run's last checkpoint, or from the start if it has none, to the end."""
    with torch.random.fork_rng(devices=[]):
        learner = Learner(config, corpus, run)
        report(learner.describe())
        while (before := learner.progress) < 1 and not stop():
            report(learner.update())
            evaluated = int(learner.progress * _EVALUATIONS) > int(before * _EVALUATIONS)
            if evaluated:
                report(learner.evaluate())
            learner.save(at_once=evaluated)
        finished = learner.progress >= 1
        loss = None
        if finished:
            report(result := learner.conclude())
            loss = result["loss"]
        else:
            learner.save(at_once=True)
    run.draw()
    return Result(finished, learner.at.step, learner.at.seconds, loss)


@dataclass
class Position:
    """Where a training stands, beside its tensors.

    Args:
        epoch: whole passes over the text.
        chunk: chunks read since.
        step: updates of the weights.
        seconds: time in training.
        loss_sum: the sum of the losses of the updates that are not in metrics.jsonl yet.
        losses: their number.
        best: the lowest loss in an evaluation, or None before the first.
    """

    epoch: int = 0
    chunk: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    losses: int = 0
    best: float | None = None


class Learner:
    """A model in training: all that a checkpoint holds, and the steps that change it."""

    def __init__(self, config: TextConfig, corpus: Corpus, run: Run) -> None:
        """Start from the run's last checkpoint, or from the seed if it has none."""
        self.config, self.corpus, self.run = config, corpus, run
        torch.manual_seed(config.seed)
        self.model = TextModel(len(corpus.symbols), config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.carry = elman.Carry(self.model)
        self.at = Position()
        self._reading = self._read()
        self._characters_per_second = 0.0
        self._save_took = 0.0
        if run.last.exists():
            self._restore()
        run.rewind(self.at.step)
        self._started = time.perf_counter() - self.at.seconds
        self._saved = time.perf_counter()
        length = len(corpus.training) // config.batch
        self._chunks = math.ceil(length / config.chunk)  # per epoch
        self._chunk = math.ceil(length / self._chunks)  # steps of all but the last

    @property
    def progress(self) -> float:
        """The share of the budget that is used up; at 1 or more training is over."""
        by_text, by_time = 0.0, 0.0
        if self.config.epochs is not None:
            by_text = (self.at.epoch * self._chunks + self.at.chunk) / (
                self.config.epochs * self._chunks
            )
        if self.config.max_time is not None:
            by_time = self.at.seconds / self.config.max_time
        return max(by_text, by_time)

    def describe(self) -> dict[str, Any]:
        """Return what is about to be trained; unlike the other records it is not kept."""
        return {
            "kind": "start",
            "run": str(self.run.path),
            "step": self.at.step,
            "config": asdict(self.config),
            "text": _about(self.corpus),
            "weights": sum(weight.numel() for weight in self.model.parameters()),
        }

    def update(self) -> dict[str, Any]:
        """Read one chunk and change the weights; return the record of it.

        Raises:
            DivergenceError: the loss or a gradient is too large, or no number.
        """
        at, config = self.at, self.config
        begun = time.perf_counter()
        ids, following = (part.long() for part in next(self._reading))
        start = self.carry.state_dict()
        rate = config.lr * schedule(self.progress, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.model.train()
        logits, _ = self.carry(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip).item()
        nats = loss.item()
        # Guessing evenly costs log V; no model that learns is ever so sure of what is wrong.
        if not (nats < 10 * math.log(len(self.corpus.symbols)) and norm < math.inf):
            raise DivergenceError(
                f"training diverged at update {at.step + 1}: the loss is {nats:.4g}, the gradient's"
                f" norm {norm:.4g}, first seen in {self._culprit(ids, start)};"
                f" start again with a lower --lr than {config.lr:g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()

        at.step += 1
        at.chunk += 1
        if at.chunk == self._chunks:
            at.epoch, at.chunk = at.epoch + 1, 0
        at.loss_sum += nats
        at.losses += 1
        record = self._record("train", at.loss_sum / at.losses, lr=rate, gradient_norm=norm)
        speed = ids.numel() / (time.perf_counter() - begun)
        self._characters_per_second += (speed - self._characters_per_second) * (
            0.1 if self._characters_per_second else 1.0
        )
        if at.step % _LOG_EVERY == 0:
            self.run.log(record)
            at.loss_sum, at.losses = 0.0, 0
        return record

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Read on from the position, epoch after epoch: chunks, and the characters after each."""
        config, corpus = self.config, self.corpus
        while True:
            chance = random.Random(f"{config.seed}/{self.at.epoch}")
            rows = corpus.training_rows(config.batch, chance.randrange(len(corpus.training)))
            yield from elman.tbptt(
                self.carry, rows[:-1], rows[1:], chunk=self._chunk, start=self.at.chunk
            )

    def evaluate(self) -> dict[str, Any]:
        """Judge the weights on a part of the held-out text, keep them if best; return the record.

        Raises:
            DivergenceError: the loss is no number.
        """
        self.model.eval()
        loss = judge(self.model, self.corpus, _JUDGED)
        if not math.isfinite(loss):
            raise DivergenceError(
                f"training diverged at update {self.at.step}: the loss on the held-out text is"
                f" {loss}; start again with a lower --lr than {self.config.lr:g}"
            )
        best = self.at.best is None or loss < self.at.best
        if best:
            self.at.best = loss
            checkpoint.save(self.run.best, _over("model.", self.model.state_dict()), self._extra())
        generator = torch.Generator().manual_seed(self.config.seed + self.at.step)
        symbols, start = self.corpus.symbols, torch.empty(0, dtype=torch.int64)
        written = write(self.model, symbols, start, 0.8, None, generator)
        text = "".join(itertools.islice(written, _SAMPLE))
        record = self._record("evaluation", loss, best=best, sample=text)
        self.run.log(record)
        return record

    def conclude(self) -> dict[str, Any]:
        """Judge the best weights on all of the held-out text; return the record."""
        model, _ = load(self.run.path)
        record = self._record("result", judge(model, self.corpus))
        self.run.log(record)
        return record

    def save(self, *, at_once: bool) -> None:
        """Write the last checkpoint: at once, or if the one before is old enough by now."""
        interval = max(_CHECKPOINT_EVERY_S, self._save_took / _CHECKPOINT_SHARE)
        begun = time.perf_counter()
        if not at_once and begun - self._saved < interval:
            return
        tensors = _over("model.", self.model.state_dict())
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= _over(f"optimizer.{index}.", state)
        tensors |= _over("state.", self.carry.state_dict())
        tensors["generator"] = torch.get_rng_state()
        self.run.flush()
        checkpoint.save(self.run.last, tensors, self._extra())
        self._saved = time.perf_counter()
        self._save_took = self._saved - begun

    def _restore(self) -> None:
        try:
            tensors, extra = checkpoint.load(self.run.last)
            self.at = Position(**extra["position"])
            self.model.load_state_dict(_under("model.", tensors))
            optimizer = self.optimizer.state_dict()
            for index in range(len(optimizer["param_groups"][0]["params"])):
                if state := _under(f"optimizer.{index}.", tensors):
                    optimizer["state"][index] = state
            self.optimizer.load_state_dict(optimizer)
            self.carry.load_state_dict(_under("state.", tensors))
            torch.set_rng_state(tensors["generator"])
        except (checkpoint.CheckpointError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"cannot resume from {self.run.last}: {error}") from error

    def _extra(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "symbols": self.corpus.symbols,
            "position": asdict(self.at),
        }

    def _record(self, kind: str, loss: float, **more: Any) -> dict[str, Any]:
        """Set the clock; return what metrics.jsonl says of this moment.

        All that depends on the time of day and not on the training alone is under "clock".
        """
        self.at.seconds = seconds = time.perf_counter() - self._started
        progress = self.progress
        return {
            "kind": kind,
            "step": self.at.step,
            "epoch": self.at.epoch + self.at.chunk / self._chunks,
            "progress": progress,
            "loss": loss,
            "bits_per_character": loss / math.log(2),
            **more,
            "clock": {
                "seconds": seconds,
                "seconds_left": seconds * max(0.0, 1 - progress) / progress,
                "characters_per_second": self._characters_per_second,
            },
        }

    def _culprit(self, ids: Tensor, state: dict[str, Tensor]) -> str:
        """Name the weight or layer that is the first, in the order of the model, to be out of hand.

        Args:
            ids: (L, N) the characters of the update that went wrong.
            state: what was carried when they were read.
        """
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                return f"the weights of {name}"
        broken: list[str] = []

        def watch(name: str, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not first.isfinite().all():
                broken.append(name)

        for name, layer in self.model.named_children():
            layer.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
        self.carry.load_state_dict(state)
        with torch.no_grad():
            self.carry(ids)
        if broken:
            return f"the output of {broken[0]}"
        sizes = {
            name: weight.grad.norm().nan_to_num(math.inf).item()
            for name, weight in self.model.named_parameters()
            if weight.grad is not None
        }
        return f"the gradient of {max(sizes, key=sizes.__getitem__)}"


def schedule(progress: float, warmup: float) -> float:
    """Return the learning rate as a share of its highest: up for `warmup`, then down to zero.

    Args:
        progress: the share of the budget that is used up.
        warmup: the share in which the rate rises.

    Example:
        >>> [round(schedule(p, 0.1), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))


def _about(corpus: Corpus) -> dict[str, Any]:
    return {
        "characters": len(corpus.ids),
        "held_out": corpus.held_out,
        "symbols": len(corpus.symbols),
        "digest": corpus.digest,
    }


def _config(values: dict[str, Any]) -> TextConfig:
    return TextConfig(**values | {"files": tuple(values["files"])})


def _over(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
