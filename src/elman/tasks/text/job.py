"""Text as a job: the data, batches, loss and measures that the training loop asks for.

Training is truncated backpropagation through time: the text is cut into rows that are read side by
side, a chunk at a time; the state is carried from chunk to chunk, and zero where an epoch starts.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import elman
from elman.runtime import Text
from elman.runtime.jobs.levels import recall
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_dropout, fit_hidden
from elman.tasks.job import Coloured, Conclusion, Data, Example, Job, Loss, State, Trained
from elman.tasks.processes import Processes
from elman.tasks.text.blocks import Blocks
from elman.tasks.text.corpus import Corpus, HeldOut, training_rows
from elman.tasks.text.model import TextModel
from elman.tasks.text.settings import SUMMARY, TextSettings, TextSource
from elman.tasks.text.units import respond

__all__ = ["JOB", "TextJob", "judge"]

_JUDGED = 2**14  # symbols in an evaluation; the last one judges all that was held out
_JUDGED_CHUNK = 128  # symbols read at once
_SAMPLE = 160  # characters
_READ = 20_000  # characters in which units are watched
_UNITS = {"chars": "characters", "bytes": "bytes", "words": "words", "bpe": "pieces of words"}


class TextJob(Job):
    """A model of the characters of a text."""

    name = "text"
    summary = SUMMARY
    unit = "symbols"
    loss_name = "loss (nats per symbol)"
    Source = TextSource
    Settings = TextSettings
    shapes = frozenset({"embed"})

    def read(self, source: TextSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the files as one text, a tenth of it held out, or `valid` instead."""
        known = None if knowledge is None else recall(knowledge)
        corpus = Corpus.read(source.files, source.level, known)
        digest, notes = corpus.digest, corpus.notes
        if source.valid is None:
            training, held_out = corpus.training, corpus.held_out
            where = f"{held_out.judged:,}, {_where(corpus.blocks)}"
        else:
            other = Corpus.read([source.valid], vocabulary=corpus.vocabulary)
            training, held_out = corpus.ids, other.whole
            digest, notes = digest + other.digest, (*notes, *other.notes)
            where = f"{source.valid}, {held_out.judged:,}"
        unit = _UNITS[corpus.vocabulary.level]
        return Data(
            training=training,
            held_out=held_out,
            units=len(training),
            knowledge=corpus.vocabulary.knowledge,
            about={
                "characters": corpus.characters,
                "held_out": held_out.judged,
                "symbols": len(corpus.vocabulary),
            },
            notes=(
                *notes,
                f"{len(corpus.ids):,} {unit}, {len(corpus.vocabulary):,} different;"
                f" held out: {where}",
            ),
            digest=digest,
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> HeldOut:
        """Read a text to judge a model on, all of it but the first symbols."""
        return Corpus.read(files, vocabulary=recall(trained.knowledge)).whole

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> TextSettings:
        """Complete the settings with what suits the text, the time and the machine."""
        return choose(data.units, data.about["symbols"], speed, given)

    def describe_batch(self, settings: TextSettings) -> str:
        """Say what an update reads."""
        return f"{settings.batch} rows x {settings.chunk} symbols an update"

    def build(self, settings: TextSettings, knowledge: Mapping[str, Any]) -> TextModel:
        """Make the model."""
        return TextModel(len(recall(knowledge)), settings)

    def batches(
        self, data: Data, settings: TextSettings, epoch: int, processes: Processes
    ) -> "Chunks":
        """Cut the text into rows, at other places in each epoch, and the rows into chunks."""
        chance = random.Random(f"{settings.seed}/{epoch}")
        shift = chance.randrange(len(data.training))
        rows = training_rows(data.training, settings.batch, shift)
        # So that the last chunk is about as long as the others.
        chunks = math.ceil((len(rows) - 1) / settings.chunk)
        return Chunks(
            rows[:, processes.rank :: processes.count], math.ceil((len(rows) - 1) / chunks)
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State) -> Loss:
        """Return the sum of nats over the symbols of a chunk."""
        ids, following = batch
        logits, state = model(ids, state)
        total = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum")
        return Loss(total, ids.numel(), state)

    def blind(self, data: Data) -> float:
        """Guessing evenly costs log V."""
        return math.log(data.about["symbols"])

    def evaluate(self, trained: Trained, held_out: HeldOut, *, quick: bool) -> dict[str, float]:
        """Return the loss on the held-out text."""
        loss = judge(trained.model, held_out, _JUDGED if quick else None)
        return {
            "loss": loss,
            "nats_per_character": loss / held_out.characters,
            "bits_per_character": loss / held_out.characters / math.log(2),
            "perplexity": math.exp(min(loss, 700.0)),
        }

    def preview(self, trained: Trained, data: Data, step: int) -> str:
        """Return a sample."""
        seed = (trained.settings.seed + step) % 2**63
        shown = trained.shipped.sample(length=10**12, temperature=0.8, seed=seed)
        text = ""
        while len(text) < _SAMPLE:
            text += next(shown)
        return text

    def conclude(self, trained: Trained, held_out: HeldOut) -> Conclusion:
        """Judge the model on all of the held-out text, and find what its units follow."""
        assert isinstance(trained.model, TextModel)
        vocabulary = recall(trained.knowledge)
        details: tuple[Coloured, ...] = ()
        if vocabulary.level == "chars":
            ids = held_out.rows[held_out.context :].T.flatten()[:_READ].long()
            details = respond(trained.model, ids, "".join(vocabulary.decode(ids.tolist())))
        return Conclusion(self.evaluate(trained, held_out, quick=False), details=details)

    def example(self, trained: Trained) -> Example:
        """Read five symbols of two texts, from a state that goes in and out."""
        settings = trained.settings
        zeros = torch.zeros(settings.layers, 2, settings.hidden)
        parts = ("h", "c") if settings.cell == "lstm" else ("h",)
        steps, rows = torch.export.Dim("L"), torch.export.Dim("N")
        free = tuple({1: rows} for _ in parts)
        state = tuple(zeros.clone() for _ in parts)
        return Example(
            trained.model,
            (torch.zeros(5, 2, dtype=torch.int64), state if len(parts) > 1 else state[0]),
            {
                "input_names": ["ids", *(f"{part}_0" for part in parts)],
                "output_names": ["logits", *(f"{part}_n" for part in parts)],
                "dynamic_shapes": {
                    "ids": {0: steps, 1: rows},
                    "hx": free if len(parts) > 1 else free[0],
                },
            },
        )

    def measure(self, model: Text, held_out: HeldOut) -> dict[str, float]:
        """Return the loss on the held-out text."""
        nats = model.nats(held_out.rows.long().numpy(), held_out.context)
        return {"nats per character": nats / held_out.characters}


JOB = TextJob()


@dataclass(frozen=True)
class Chunks(Sequence[tuple[Tensor, Tensor]]):
    """The chunks of an epoch, in the order of the text.

    Args:
        rows: (L + 1, N) rows of text.
        length: steps of all chunks but the last.
    """

    rows: Tensor
    length: int

    def __len__(self) -> int:
        """Count the chunks."""
        return math.ceil((len(self.rows) - 1) / self.length)

    def __getitem__(self, index: Any) -> Any:
        """Return the symbols of a chunk, and the one after each, both (L, N)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.length
        chunk = self.rows[start : start + self.length + 1].long()
        return chunk[:-1], chunk[1:]


@torch.no_grad()
def judge(model: nn.Module, held_out: HeldOut, most: int | None = None) -> float:
    """Return the loss on the held-out text, in nats per symbol.

    Args:
        model: in evaluation mode.
        held_out: the text.
        most: judge no more than about so many symbols, the first of each row.
    """
    rows, context = held_out.rows.long(), held_out.context
    if most is not None:
        rows = rows[: context + max(1, most // rows.shape[1])]
    carry, total = elman.Carry(model), 0.0
    if context > 1:
        carry(rows[: context - 1])
    rows = rows[context - 1 :]
    for ids, following in Chunks(rows, _JUDGED_CHUNK):
        logits, _ = carry(ids)
        total += F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum").item()
    return total / rows[1:].numel()


def _where(blocks: Blocks) -> str:
    """Say where the held-out blocks lie."""
    if blocks.count == 1:
        return "the end of the text"
    return f"in {blocks.count} blocks of {blocks.length:,} from all parts of the text"


def choose(characters: int, symbols: int, speed: float, given: Mapping[str, Any]) -> TextSettings:
    """Complete the settings that the user gave; see `elman.tasks.job.Job.choose`.

    Args:
        characters: the length of the text that is trained on.
        symbols: the number of different characters.
        speed: additions and multiplications per second in training.
        given: the settings that the user gave.

    Raises:
        InputError: something given is out of range, or the text is too short for it.

    Example:
        >>> small = choose(10_000, 60, math.inf, {"epochs": 10})
        >>> large = choose(10_000_000, 60, math.inf, {"epochs": 10})
        >>> small.hidden < large.hidden
        True
        >>> choose(10_000, 60, math.inf, {"epochs": 10, "hidden": 77}).hidden
        77
    """
    chosen = dict(given)
    if chosen.get("epochs") is None and chosen.get("max_time") is None:
        chosen["max_time"] = 180.0
    # At least 50 updates an epoch, if the text is long enough for chunks worth their name.
    chunk = chosen.setdefault("chunk", max(16, min(64, characters // 800)))
    if isinstance(chunk, int) and chunk > 0:
        chosen.setdefault("batch", max(1, min(16, characters // (50 * chunk))))
    chosen.setdefault("lr", 2e-3 if chosen.get("cell") == "rnn" else 6e-3)
    settings = TextSettings(**{"batch": 1, "hidden": 1, "dropout": 0.0} | chosen)
    needed = settings.batch * settings.chunk
    if characters < needed:
        raise InputError(
            f"the text is too short: {characters} symbols to train on, at least batch * chunk ="
            f" {settings.batch} * {settings.chunk} = {needed} are needed; lower them, or give more"
            " text"
        )

    def weights(settings: TextSettings) -> int:
        inputs = settings.embed + (settings.layers - 1) * settings.hidden
        recurrent = inputs + settings.layers * settings.hidden
        return settings.hidden * (GATES[settings.cell] * recurrent + symbols)

    if "hidden" not in given:
        hidden = fit_hidden(
            settings,
            characters,
            speed,
            weights,
            sizes=(64, *range(96, 2049, 32)),
            units_per_weight=7,  # best of 2 to 20 on small budgets
            weights_per_unit=4,
        )
        settings = replace(settings, hidden=hidden)
    if "dropout" not in given:
        dropout = fit_dropout(settings, characters, speed, weights(settings))
        settings = replace(settings, dropout=dropout)
    return settings
