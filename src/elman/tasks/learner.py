"""The one training loop of all jobs.

A job says how its data is read, its batches, model, loss and measures; see `elman.tasks.job`. The
loop gives the rest: budget and schedule, clipping, evaluation, the best and the last checkpoint,
exact resuming, several processes, and the name of what diverged.

Everything that training needs to go on stands in the tensors of a `Learner` and its `Position`, and
a checkpoint is those two. So a training that was killed and resumed is the one that never stopped,
bit for bit, on the same machine with the same number of threads and processes. With a budget in
seconds, the seconds that were trained count on from the checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import elman
from elman.checkpoint import over, under
from elman.tasks import DivergenceError, InputError
from elman.tasks.budget import machine_memory, schedule
from elman.tasks.job import Data, Job, State, Trained
from elman.tasks.processes import Processes
from elman.tasks.run import Run
from elman.tasks.settings import Settings
from elman.tasks.trained import load

__all__ = [
    "LOG_EVERY",
    "Learner",
    "Position",
    "Report",
    "Result",
    "computing",
    "learn",
    "refuse_what_fits_no_memory",
    "remarks",
]

Report: TypeAlias = Callable[[dict[str, Any]], None]

LOG_EVERY = 10  # updates
_CHECKPOINT_EVERY_S = 3.0
_CHECKPOINT_SHARE = 0.01  # of the time, at most


@dataclass(frozen=True)
class Result:
    """How a training ended.

    Args:
        finished: whether the budget is used up; False if it was stopped before.
        step: updates of the weights.
        seconds: time in training.
        metrics: measures of the best weights on all that was held out; empty if stopped.
        baselines: for each baseline its measures by name.
        lines: what is to be said of the result, in plain words.
    """

    finished: bool
    step: int
    seconds: float
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    lines: tuple[str, ...]


@contextmanager
def computing(settings: Settings) -> Iterator[None]:
    """Let PyTorch, and with it the layers, compute with these threads and in this precision."""
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(settings.threads or before)
    if settings.precision == "bf16":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(precision)


def learn(learner: "Learner", report: Report, stop: Callable[[], bool]) -> Result:
    """Train from the run's last checkpoint, or from the start if it has none, to the end."""
    speak = report if learner.processes.is_first else lambda record: None
    with torch.random.fork_rng(devices=[]), computing(learner.settings):
        learner.begin()
        learner.restore()
        speak(learner.describe())
        while not learner.is_over and not learner.is_told(stop):
            before = learner.progress
            speak(learner.update())
            due = learner.job.evaluations
            evaluated = int(learner.progress * due) > int(before * due)
            if evaluated:
                speak(learner.evaluate())
            learner.save(at_once=evaluated)
        concluded: dict[str, Any] = {}
        if finished := learner.is_over:
            speak(concluded := learner.conclude())
        else:
            learner.save(at_once=True)
    if learner.processes.is_first:
        learner.draw("loss.png", learner.run.draw)
        for note in learner.notes:
            speak({"kind": "note", "note": note})
    return Result(
        finished,
        learner.at.step,
        learner.at.seconds,
        concluded.get("metrics", {}),
        concluded.get("baselines", {}),
        tuple(concluded.get("lines", ())),
    )


def refuse_what_fits_no_memory(job: Job, settings: Any, data: Data) -> None:
    """Refuse a model whose weights alone are more than the machine can hold.

    Raises:
        InputError: they are.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        weights = sum(w.numel() for w in job.build(settings, data.knowledge).parameters())
    needed, there = 16 * weights, machine_memory()  # bytes: weight, gradient and two moments
    if needed > there:
        raise InputError(
            f"a model of {weights:,} weights needs {needed / 1e9:,.0f} GB to be trained, and this"
            f" machine has {there / 1e9:,.0f}: lower hidden or layers",
            "hidden",
            "layers",
        )


def remarks(records: Iterable[Mapping[str, Any]], metrics: Mapping[str, float]) -> list[str]:
    """Return what a user should know of a result, in plain words.

    Args:
        records: those of metrics.jsonl.
        metrics: of the best weights on all that is held out.

    Example:
        >>> losses = enumerate([2.0, 1.5, 1.9], start=1)
        >>> told = [{"kind": "evaluation", "step": 10 * k, "loss": x, "best": k < 3,
        ...          "metrics": {"loss": x}} for k, x in losses]
        >>> for line in remarks(told, {"loss": 1.51}):
        ...     print(line)
        Evaluations judge a part of what is held out, with the weights of that moment; this is all \
of it, with the weights that were best, of update 20.
        This is overfitting: from update 20 on the loss on what is held out rose from 1.5 to 1.9, \
for what was learnt by heart. More data, more dropout, a smaller model or a shorter training helps.
    """
    judged = [r for r in records if r["kind"] == "evaluation" and isinstance(r.get("loss"), float)]
    best = [record for record in judged if record.get("best") is True]
    if not best:
        return []
    told, last = best[-1], judged[-1]
    lines = []
    if last is not told or dict(told.get("metrics", metrics)) != dict(metrics):
        lines.append(
            "Evaluations judge a part of what is held out, with the weights of that moment; this is"
            f" all of it, with the weights that were best, of update {told['step']:,}."
        )
    if last["loss"] > 1.02 * told["loss"] > 0:
        lines.append(
            f"This is overfitting: from update {told['step']:,} on the loss on what is held out"
            f" rose from {told['loss']:.4g} to {last['loss']:.4g}, for what was learnt by heart."
            " More data, more dropout, a smaller model or a shorter training helps."
        )
    return lines


@dataclass
class Position:
    """Where a training stands, beside its tensors.

    Args:
        epoch: whole passes over the data.
        batch: batches read since.
        step: updates of the weights.
        seconds: time in training.
        loss_sum: the sum of the losses of the updates that are not in metrics.jsonl yet.
        losses: their number.
        best: the lowest score in an evaluation, or None before the first.
        stale: evaluations since then.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    losses: int = 0
    best: float | None = None
    stale: int = 0


class Learner:
    """A model in training: all that a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        job: Job,
        source: Any,
        settings: Any,
        data: Data,
        run: Run,
        processes: Processes,
        tensors: Mapping[str, Tensor],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what is needed; `begin` makes the model.

        Args:
            job: what is trained for.
            source: what was read.
            settings: how it is trained.
            data: what was read from it.
            run: where it is kept.
            processes: who takes part.
            tensors: the weights to start from; none for those that the seed draws.
            clock: tells the seconds that are trained, from any start.
        """
        self.job, self.source, self.settings, self.data = job, source, settings, data
        self.run, self.processes = run, processes
        self._first_weights = tensors
        self._clock = clock
        self.notes: list[str] = []  # what is to be said when there is an occasion

    def begin(self) -> None:
        """Make the model, with the first weights, and stand at the start of the first epoch."""
        settings = self.settings
        refuse_what_fits_no_memory(self.job, settings, self.data)
        torch.manual_seed(settings.seed)
        self.model = self.job.build(settings, self.data.knowledge)
        if self._first_weights:
            self.model.load_state_dict(self._first_weights)
        if self.processes.rank:  # whose dropout is not that of process 0
            torch.manual_seed(settings.seed + 2**32 * self.processes.rank)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.state: State = None
        self.at = Position()
        self._units_per_second = 0.0
        self._save_took, self._is_save_due = 0.0, False
        self._parallel = self.processes.wrap(self.model)
        self._open_epoch()
        self._started = self._saved = self._clock()

    def _open_epoch(self) -> None:
        self._batches = self.job.batches(self.data, self.settings, self.at.epoch, self.processes)

    @property
    def progress(self) -> float:
        """The share of the budget that is used up; at 1 or more training is over."""
        by_data, by_time = 0.0, 0.0
        if self.settings.epochs is not None:
            passes = self.at.epoch + self.at.batch / len(self._batches)
            by_data = passes / self.settings.epochs
        if self.settings.max_time is not None:
            by_time = self.at.seconds / self.settings.max_time
        return max(by_data, by_time)

    @property
    def is_over(self) -> bool:
        """Whether the budget or the patience is used up."""
        patience = self.settings.patience
        return self.progress >= 1 or (patience is not None and self.at.stale >= patience)

    def is_told(self, stop: Callable[[], bool]) -> bool:
        """Return whether any of the processes is told to stop."""
        return self.processes.total(stop())[0] > 0

    @property
    def trained(self) -> Trained:
        """The model as it is now, with what belongs to it."""
        return Trained(self.job, self.model, self.source, self.settings, self.data.knowledge)

    def describe(self) -> dict[str, Any]:
        """Return what is about to be trained; unlike the other records it is not kept."""
        notes, self.notes = (*self.data.notes, *self.notes), []
        return {
            "kind": "start",
            "run": str(self.run.path),
            "job": self.job.name,
            "step": self.at.step,
            "settings": asdict(self.settings),
            "notes": notes,
            "batch": self.job.describe_batch(self.settings),
            "weights": sum(weight.numel() for weight in self.model.parameters()),
        }

    def update(self) -> dict[str, Any]:
        """Read one batch and change the weights; return the record of it.

        Raises:
            DivergenceError: the loss or a gradient is too large, or no number.
        """
        at, settings = self.at, self.settings
        begun = self._clock()
        batch, before = self._batches[at.batch], self.state
        rate = settings.lr * schedule(self.progress, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.model.train()
        total, count, self.state = self.job.loss(self._parallel, batch, before)
        self.state = _detached(self.state)
        loss_sum, units = self.processes.total(total.item(), count)
        # DistributedDataParallel divides the gradients by the number of processes.
        (total * (self.processes.count / units)).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip).item()
        loss = loss_sum / units
        # No model that learns is ever so much worse than a blind guess.
        if not (loss < 10 * self.job.blind(self.data) and math.isfinite(loss) and norm < math.inf):
            raise DivergenceError(
                f"training diverged at update {at.step + 1}: the loss is {loss:.4g}, the gradient's"
                f" norm {norm:.4g}, first seen in {self._culprit(batch, before)};"
                f" start again with a lower --lr than {settings.lr:g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()

        at.step += 1
        at.batch += 1
        if at.batch == len(self._batches):
            at.epoch, at.batch, self.state = at.epoch + 1, 0, None
            self._open_epoch()
        at.loss_sum += loss
        at.losses += 1
        speed = units / max(1e-9, self._clock() - begun)
        self._units_per_second += (speed - self._units_per_second) * (
            0.1 if self._units_per_second else 1.0
        )
        record = self._record("train", loss=at.loss_sum / at.losses, lr=rate, gradient_norm=norm)
        if at.step % LOG_EVERY == 0:
            self._log(record)
            at.loss_sum, at.losses = 0.0, 0
        return record

    def evaluate(self) -> dict[str, Any]:
        """Judge the weights on what is held out, keep them if best; return the record.

        Raises:
            DivergenceError: the loss is no number.
        """
        metrics: dict[str, float] = {}
        if self.processes.is_first:
            metrics = self._judged(
                lambda: self.job.evaluate(self.trained, self.data.held_out, quick=True)
            )
        metrics = self.processes.from_first(metrics)
        score = self.job.score(metrics)
        if not math.isfinite(score):
            raise DivergenceError(
                f"training diverged at update {self.at.step}: the loss on what is held out is"
                f" {score}; start again with a lower --lr than {self.settings.lr:g}"
            )
        is_best = self.at.best is None or score <= self.at.best  # of equals the later
        self.at.stale = 0 if self.at.best is None or score < self.at.best else self.at.stale + 1
        if is_best:
            self.at.best = score
        preview = ""
        if self.processes.is_first:
            if is_best:
                tensors = over("model.", self.model.state_dict())
                self.run.save(self.run.best, tensors, self._extra())
            preview = self._judged(lambda: self.job.preview(self.trained, self.data, self.at.step))
        record = self._record(
            "evaluation",
            **{"loss": metrics["loss"], "metrics": metrics, "best": is_best},
            preview=preview,
        )
        self._log(record)
        return record

    def conclude(self) -> dict[str, Any]:
        """Judge the best weights on all that is held out; return the record, write the results."""
        record: dict[str, Any] = {}
        if self.processes.is_first:
            trained = load(self.run.path)
            found = self._judged(lambda: self.job.conclude(trained, self.data.held_out))
            record = self._record(
                "result",
                metrics=found.metrics,
                baselines=found.baselines,
                lines=(*found.lines, *remarks(self.run.records(), found.metrics)),
            )
            self._log(record)
            self.run.conclude(
                {
                    "job": self.job.name,
                    "metrics": found.metrics,
                    "baselines": found.baselines,
                    "settings": asdict(self.source) | asdict(self.settings),
                    "data": self.run.config["data"],
                    "seconds": self.at.seconds,
                    "version": elman.__version__,
                },
                [{"kind": type(part).__name__.lower(), **asdict(part)} for part in found.details],
            )
            self.draw(
                "the plots",
                lambda: self._judged(
                    lambda: self.job.draw(trained, self.data.held_out, self.run.path)
                ),
            )
        return self.processes.from_first(record)  # type: ignore[no-any-return]

    def draw(self, name: str, draw: Callable[[], Any]) -> None:
        """Call what draws; a training does not fail for want of a plot, but a note says so."""
        try:
            draw()
        except Exception as error:  # fonts, caches and settings of Matplotlib: anything
            self.notes.append(f"{name} could not be drawn: {error}")

    def _judged(self, measure: Callable[[], Any]) -> Any:
        """Return what a job's function gives while nothing is learnt, and chance stands still."""
        self.model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return measure()

    def save(self, *, at_once: bool) -> None:
        """Write the last checkpoint: at once, or if the one before is old enough by now."""
        if not at_once and not self._is_save_due:
            return
        begun = self._clock()
        own = {"generator": torch.get_rng_state()}
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        own |= {f"state.{i}": state for i, state in enumerate(states) if state is not None}
        each = self.processes.gather(own)
        if self.processes.is_first:
            tensors = over("model.", self.model.state_dict())
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= over(f"optimizer.{index}.", moments)
            for rank, owned in enumerate(each):
                tensors |= over(f"process.{rank}.", owned)
            self.run.flush()
            self.run.save(self.run.last, tensors, self._extra())
        self._saved, self._is_save_due = self._clock(), False
        self._save_took = self._saved - begun

    def restore(self) -> None:
        """Go on from the run's last checkpoint; write it if there is none yet.

        So a run that has measured anything has a last checkpoint, or has lost it.

        Raises:
            InputError: it is damaged, of another training or lost.
        """
        if self.run.last.exists():
            self._read_checkpoint()
        elif self.run.has_begun:
            raise InputError(
                f"{self.run.path} has lost its {self.run.last.name}, and cannot go on: put it back,"
                " or train anew with another --out; its best weights are still of use"
            )
        else:
            self.save(at_once=True)
        if self.processes.is_first and (damaged := self.run.rewind(self.at.step)):
            lines = ", ".join(map(str, damaged))
            self.notes.append(
                f"metrics.jsonl was damaged in line {lines}: what stood there is lost"
            )
        self._open_epoch()
        self._saved = self._clock()
        self._started = self._saved - self.at.seconds
        if self.at.step and self.progress >= 1:
            self.notes.append(
                "the budget is used up: it counts from the start (epochs trained:"
                f" {self.at.epoch}, seconds: {self.at.seconds:.0f}); give a larger one to train on"
            )

    def _read_checkpoint(self) -> None:
        tensors, extra = self.run.load(self.run.last)
        try:
            if extra["processes"] != self.processes.count:
                raise InputError(
                    f"{self.run.path} was trained by {extra['processes']} processes, and goes on"
                    f" with as many, got {self.processes.count}: say so to torchrun"
                )
            self.at = Position(**extra["position"])
            self.model.load_state_dict(under("model.", tensors))
            optimizer = self.optimizer.state_dict()
            for index in range(len(optimizer["param_groups"][0]["params"])):
                if state := under(f"optimizer.{index}.", tensors):
                    optimizer["state"][index] = state
            self.optimizer.load_state_dict(optimizer)
            own = under(f"process.{self.processes.rank}.", tensors)
            states = tuple(under("state.", own).values())
            self.state = states if len(states) > 1 else states[0] if states else None
            torch.set_rng_state(own["generator"])
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise InputError(f"cannot resume from {self.run.last}: {error}") from error

    def _extra(self) -> dict[str, Any]:
        return {
            "job": self.job.name,
            "source": asdict(self.source),
            "settings": asdict(self.settings),
            "knowledge": self.data.knowledge,
            "position": asdict(self.at),
            "processes": self.processes.count,
        }

    def _record(self, kind: str, **more: Any) -> dict[str, Any]:
        """Set the clock; return what metrics.jsonl says of this moment.

        All that depends on the time of day and not on the training alone is under "clock".
        """
        now = self._clock()
        interval = max(_CHECKPOINT_EVERY_S, self._save_took / _CHECKPOINT_SHARE)
        seconds, due = now - self._started, float(now - self._saved >= interval)
        if kind != "result":  # which the first process makes alone
            # The clock of the first is that of all.
            first = self.processes.is_first
            seconds, due = self.processes.total(seconds if first else 0.0, due * first)
        self.at.seconds, self._is_save_due = seconds, due > 0
        progress = self.progress
        return {
            "kind": kind,
            "step": self.at.step,
            "epoch": self.at.epoch + self.at.batch / len(self._batches),
            "progress": progress,
            **more,
            "clock": {
                "seconds": seconds,
                "seconds_left": seconds * max(0.0, 1 - progress) / progress,
                "units_per_second": self._units_per_second,
                "unit": self.job.unit,
            },
        }

    def _log(self, record: dict[str, Any]) -> None:
        if self.processes.is_first:
            self.run.log(record)

    def _culprit(self, batch: Any, state: State) -> str:
        """Name the weight or layer that is the first, in the order of the model, to be out of hand.

        Args:
            batch: what was read in the update that went wrong.
            state: what was carried when it was read.
        """
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                return f"the weights of {name}"
        broken: list[str] = []

        def watch(name: str, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not first.data.isfinite().all():
                broken.append(name)

        for name, layer in self.model.named_children():
            layer.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
        with torch.no_grad():
            self.job.loss(self.model, batch, state)
        if broken:
            return f"the output of {broken[0]}"
        sizes = {
            name: weight.grad.norm().nan_to_num(math.inf).item()
            for name, weight in self.model.named_parameters()
            if weight.grad is not None
        }
        return f"the gradient of {max(sizes, key=sizes.__getitem__)}"


def _detached(state: State) -> State:
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return None if state is None else state.detach()
