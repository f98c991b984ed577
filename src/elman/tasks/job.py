"""What a job is to the training loop: how its data is read, its model, its loss, its results.

    files -> Source -> Data -> batches -> model -> loss -> run -> Trained

A job derives from `Job` and says what differs from the others, in that order. The loop, in
`elman.tasks.learner`, gives all else. A job keeps nothing between calls: what it is told of a
training is in its arguments, so that a resumed training needs no more than a checkpoint.

How a trained model answers is `elman.runtime.jobs`'; what files its input comes from, and how its
answers are written, is said in `answers.py` beside each job.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from elman.runtime import jobs
from elman.tasks.processes import Processes
from elman.tasks.settings import Settings, Source

__all__ = [
    "Coloured",
    "Conclusion",
    "Data",
    "Example",
    "Job",
    "Loss",
    "State",
    "Table",
    "Trained",
]

State: TypeAlias = Tensor | tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Data:
    """What was read.

    Args:
        training: what is learnt from, as the job wants it.
        held_out: what is judged, as the job wants it.
        units: how many units are learnt from in an epoch, such as characters; see `Job.unit`.
        knowledge: what a model must know of the data to be used without it, such as its symbols:
            a value for JSON, kept in every checkpoint.
        about: counts for config.json and the report: a value for JSON.
        notes: what was understood and done to the data, a sentence each.
        digest: SHA-256 of the bytes of all files, in hexadecimal.
    """

    training: Any
    held_out: Any
    units: int
    knowledge: dict[str, Any]
    about: dict[str, Any]
    notes: tuple[str, ...]
    digest: str


class Loss(NamedTuple):
    """The loss of a batch.

    Args:
        total: the sum over what was predicted.
        units: over how much it was summed, in the job's units.
        state: what is carried to the next batch of the epoch, or None.
    """

    total: Tensor
    units: int
    state: State = None


@dataclass(frozen=True)
class Trained:
    """A model, and what belongs to it.

    Args:
        job: what it was trained for.
        model: the module.
        source: what it was trained on.
        settings: how it was trained.
        knowledge: what it knows of its data; see `Data`.
    """

    job: "Job"
    model: nn.Module
    source: Any
    settings: Any
    knowledge: dict[str, Any]

    @property
    def shipped(self) -> Any:
        """The same model as `elman.runtime` has it, which answers as what is exported does."""
        run = {
            **{"job": self.job.name, "source": asdict(self.source)},
            **{"settings": asdict(self.settings), "knowledge": self.knowledge},
        }
        weights = {name: w.detach().cpu().numpy() for name, w in self.model.state_dict().items()}
        return jobs.of_run(run, weights, torch.get_num_threads())


@dataclass(frozen=True)
class Table:
    """A table for the report.

    Args:
        title: what it shows.
        columns: the heads of the columns.
        rows: the cells, words or numbers, as many in each row as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True)
class Coloured:
    """A text for the report, each part of it coloured by a number.

    Args:
        title: what the colours show.
        parts: characters or words, in order.
        values: a number from -1 to 1 for each.
    """

    title: str
    parts: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Conclusion:
    """What a model is worth.

    Args:
        metrics: its measures by name, all of them numbers.
        baselines: for each baseline its measures by name.
        lines: what is to be said of them, in plain words, a sentence each.
        details: what the report shows beside.
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    details: tuple[Table | Coloured, ...] = ()


class Example(NamedTuple):
    """A call of a model, from which `elman.onnx.export` writes it.

    Args:
        module: what is written.
        args: arguments of a call.
        options: what else torch.onnx.export is told: the names, and which sizes are free.
    """

    module: nn.Module
    args: tuple[Any, ...]
    options: dict[str, Any]


class Job(ABC):
    """What differs from one job to another."""

    name: ClassVar[str]  # as in `elman train NAME`
    summary: ClassVar[str]  # one line for the help
    unit: ClassVar[str]  # what is counted, in the plural: characters
    loss_name: ClassVar[str]  # with its unit: loss (nats per character)
    Source: ClassVar[type[Source]] = Source
    Settings: ClassVar[type[Settings]] = Settings
    shapes: ClassVar[frozenset[str]] = frozenset()  # own settings that shape the model
    evaluations: ClassVar[int] = 10  # in the whole budget

    @abstractmethod
    def read(self, source: Any, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the files.

        Args:
            source: what is read and how, of the type of `Source`.
            knowledge: that of a model that is to be trained further on this data; None for a new
                model.

        Raises:
            InputError: a file cannot be read or used; the message names file, row and column.
        """

    @abstractmethod
    def read_held_out(self, trained: Trained, files: Sequence[str]) -> Any:
        """Read files to judge a trained model on, all of them; the result is as `Data.held_out`.

        Raises:
            InputError: a file cannot be read, or is not of the kind that the model was trained on.
        """

    @abstractmethod
    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> Any:
        """Complete the settings that the user gave with what suits data, time and machine.

        Args:
            data: what was read.
            speed: additions and multiplications per second in training; infinite if not measured.
            given: settings under the names of those of `Settings`.

        Returns:
            Settings in which everything given is as given.

        Raises:
            InputError: something given is out of range, or does not go with the data.
        """

    def describe_batch(self, settings: Any) -> str:
        """Say what an update reads, for the first lines of a training."""
        return f"{settings.batch} sequences an update"

    @abstractmethod
    def build(self, settings: Any, knowledge: Mapping[str, Any]) -> nn.Module:
        """Make the model, its weights drawn from PyTorch's generator."""

    @abstractmethod
    def batches(self, data: Data, settings: Any, epoch: int, processes: Processes) -> Sequence[Any]:
        """Cut one epoch into batches.

        Args:
            data: what was read.
            settings: the settings; all that is random depends on their seed and the epoch alone.
            epoch: the number of the epoch, from 0.
            processes: who takes part; a batch has this process's share of each global batch.

        Returns:
            The batches in order; as many in each epoch and for each process.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, state: State) -> Loss:
        """Return the loss of a batch.

        Args:
            model: what `build` made, to be called and not looked into: it may be wrapped.
            batch: one of `batches`, also one without any sequence.
            state: what the batch before left, None where an epoch starts.
        """

    def blind(self, data: Data) -> float:
        """Return the loss of a guess without knowledge; ten times as much is divergence."""
        return float("inf")

    @abstractmethod
    def evaluate(self, trained: Trained, held_out: Any, *, quick: bool) -> dict[str, float]:
        """Measure a model, in evaluation mode and without gradients.

        Args:
            trained: the model.
            held_out: what it is judged on.
            quick: whether a part of the data will do, as often in training.

        Returns:
            The measures by name; "loss" is among them.
        """

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the number by which the best weights are chosen: the lower, and then the later."""
        return metrics["loss"]

    def preview(self, trained: Trained, data: Data, step: int) -> str:
        """Return a few lines that show what the model can do by now; empty for none."""
        return ""

    @abstractmethod
    def conclude(self, trained: Trained, held_out: Any) -> Conclusion:
        """Measure a model on all that is held out, beside the baselines."""

    def example(self, trained: Trained) -> Example | None:
        """Return a call from which the model is written as ONNX; None if no graph can hold it."""
        return None

    @abstractmethod
    def measure(self, model: Any, held_out: Any) -> dict[str, float]:
        """Measure what was made of a model for `elman.runtime`, by its own computation.

        Args:
            model: what `elman.runtime.load` gives.
            held_out: what it is judged on.

        Returns:
            The measures that tell what weights of fewer bits cost, under the names that are shown.
        """

    def draw(self, trained: Trained, held_out: Any, out: Path) -> list[Path]:
        """Draw pictures of the results into a directory, and return their paths."""
        return []
