"""Text as a job: the data, batches, loss and measures that the training loop asks for.

Training is truncated backpropagation through time: the text is cut into rows that are read side by
side, a chunk at a time; the state is carried from chunk to chunk, and zero where an epoch starts.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import elman
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_dropout, fit_hidden
from elman.tasks.job import Conclusion, Data, Job, Loss, State, Trained
from elman.tasks.processes import Processes
from elman.tasks.settings import Prediction
from elman.tasks.text.blocks import Blocks
from elman.tasks.text.corpus import Corpus
from elman.tasks.text.model import TextModel, write
from elman.tasks.text.settings import SUMMARY, TextSettings, TextSource

__all__ = ["JOB", "TextJob", "judge"]

_JUDGED = 2**14  # characters in an evaluation; the last one judges all that was held out
_CONTEXT = 128  # characters read, and not judged, before each row that is judged
_SAMPLE = 160  # characters


class TextJob(Job):
    """A model of the characters of a text."""

    name = "text"
    summary = SUMMARY
    unit = "characters"
    loss_name = "loss (nats per character)"
    Source = TextSource
    Settings = TextSettings
    shapes = frozenset({"embed"})

    def read(self, source: TextSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the files as one text, a tenth of it held out."""
        corpus = Corpus.read(source.files)
        return Data(
            training=corpus,
            held_out=corpus,
            units=len(corpus.training),
            knowledge={"symbols": corpus.symbols},
            about={
                "characters": len(corpus.ids),
                "held_out": corpus.held_out,
                "symbols": len(corpus.symbols),
            },
            notes=(
                *corpus.notes,
                f"{len(corpus.ids):,} characters, {len(corpus.symbols):,} different; held out:"
                f" {corpus.held_out:,}, {_where(corpus.blocks)}",
            ),
            digest=corpus.digest,
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> Corpus:
        """Read a text to judge a model on."""
        raise InputError("not yet")

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> TextSettings:
        """Complete the settings with what suits the text, the time and the machine."""
        return choose(data.units, len(data.knowledge["symbols"]), speed, given)

    def describe_batch(self, settings: TextSettings) -> str:
        """Say what an update reads."""
        return f"{settings.batch} rows x {settings.chunk} characters an update"

    def build(self, settings: TextSettings, knowledge: Mapping[str, Any]) -> TextModel:
        """Make the model."""
        return TextModel(len(knowledge["symbols"]), settings)

    def batches(
        self, data: Data, settings: TextSettings, epoch: int, processes: Processes
    ) -> "Chunks":
        """Cut the text into rows, at other places in each epoch, and the rows into chunks."""
        text = data.training
        chance = random.Random(f"{settings.seed}/{epoch}")
        rows = text.training_rows(settings.batch, chance.randrange(len(text.training)))
        # So that the last chunk is about as long as the others.
        chunks = math.ceil((len(rows) - 1) / settings.chunk)
        return Chunks(
            rows[:, processes.rank :: processes.count], math.ceil((len(rows) - 1) / chunks)
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State) -> Loss:
        """Return the sum of nats over the characters of a chunk."""
        ids, following = batch
        logits, state = model(ids, state)
        total = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum")
        return Loss(total, ids.numel(), state)

    def blind(self, data: Data) -> float:
        """Guessing evenly costs log V."""
        return math.log(len(data.knowledge["symbols"]))

    def evaluate(self, trained: Trained, held_out: Corpus, *, quick: bool) -> dict[str, float]:
        """Return the loss on the held-out text."""
        loss = judge(trained.model, held_out, _JUDGED if quick else None)
        return {
            "loss": loss,
            "nats_per_character": loss,
            "bits_per_character": loss / math.log(2),
        }

    def preview(self, trained: Trained, data: Data, step: int) -> str:
        """Return a sample."""
        generator = torch.Generator().manual_seed(trained.settings.seed + step)
        start = torch.empty(0, dtype=torch.int64)
        symbols = trained.knowledge["symbols"]
        written = write(trained.model, symbols, start, 0.8, None, generator)  # type: ignore[arg-type]
        return "".join(itertools.islice(written, _SAMPLE))

    def conclude(self, trained: Trained, held_out: Corpus) -> Conclusion:
        """Judge the model on all of the held-out text."""
        return Conclusion(self.evaluate(trained, held_out, quick=False))

    def predict(self, trained: Trained, given: str | None, options: Prediction) -> Iterator[str]:
        """Text is sampled and not predicted."""
        raise InputError("a model of text writes: use elman sample")


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
        """Return the characters of a chunk, and the one after each, both (L, N)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.length
        chunk = self.rows[start : start + self.length + 1].long()
        return chunk[:-1], chunk[1:]


@torch.no_grad()
def judge(model: nn.Module, corpus: Corpus, most: int | None = None) -> float:
    """Return the loss on the held-out text, in nats per character.

    The blocks are read side by side, the state carried; each is read after the text before it,
    unjudged, so that the state is as if all had been read in one go.

    Args:
        model: in evaluation mode.
        corpus: the text.
        most: judge no more than about so many characters, the first of each block.
    """
    rows = corpus.held_out_rows(_CONTEXT).long()
    context = len(rows) - corpus.blocks.length
    if most is not None:
        rows = rows[: context + max(1, most // corpus.blocks.count)]
    carry, total = elman.Carry(model), 0.0
    if context > 1:
        carry(rows[: context - 1])
    rows = rows[context - 1 :]
    for ids, following in Chunks(rows, _CONTEXT):
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
            f"the text is too short: {characters} characters to train on, at least batch * chunk ="
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
