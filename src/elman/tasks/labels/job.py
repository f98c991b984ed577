"""Labels as a job: the data, batches, loss and measures that the training loop asks for."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman.runtime import Labels
from elman.tasks import InputError
from elman.tasks.budget import GATES, fit_hidden
from elman.tasks.job import Conclusion, Data, Example, Job, Loss, State, Table, Trained
from elman.tasks.labels.baselines import baselines
from elman.tasks.labels.batches import Batch, Batches, Encoded, collate, encode, learn
from elman.tasks.labels.data import Samples, read_samples, split
from elman.tasks.labels.drawings import draw_confusion
from elman.tasks.labels.model import LabelsModel
from elman.tasks.labels.settings import (
    SUMMARY,
    LabelsSettings,
    LabelsSource,
)
from elman.tasks.measures import Counts, confusion, measure, per_label
from elman.tasks.processes import Processes

__all__ = ["JOB", "LabelsJob"]

_JUDGED = 2000  # samples in an evaluation; the last one judges all that was held out
_JUDGED_AT_ONCE = 128
_SMOOTHING = 0.1  # of the labels in training, so that no model grows too sure
_FEW = 100  # samples held out: of fewer the loss is a matter of chance
_UPDATES = 1000  # that are enough, if no time is given
_MISTAKES = 20  # that the report shows
_MATRIX = 40  # labels, at most, for a table of confusions
_SHOWN = 60  # characters of a text


@dataclass(frozen=True)
class HeldOut:
    """What is judged.

    Args:
        samples: the samples.
        encoded: the same as numbers.
        training: what the baselines learn from; None if it is no longer there.
    """

    samples: Samples
    encoded: Encoded
    training: Samples | None


class LabelsJob(Job):
    """A model that gives each sequence one label."""

    name = "labels"
    summary = SUMMARY
    unit = "sequences"
    loss_name = "loss (nats per sequence)"
    Source = LabelsSource
    Settings = LabelsSettings
    shapes = frozenset({"embed", "window"})

    def read(self, source: LabelsSource, knowledge: Mapping[str, Any] | None = None) -> Data:
        """Read the samples, a tenth of each label held out."""
        samples = read_samples(source.files, source)
        training, held_out, split_as = _split(samples, source)
        if len(set(training.labels)) < 2:
            raise InputError(
                f"cannot learn from {' '.join(source.files)}: all samples have the one label"
                f" {training.labels[0]!r}: give samples of two labels at least"
            )
        if knowledge is None:
            knowledge = learn(training, source.level)
        _check_known(training, knowledge)
        _check_known(held_out, knowledge)
        counts = knowledge["labels"]
        steps = [len(row) for row in samples.inputs]
        things = "texts" if samples.is_text else "series"
        return Data(
            training=(training, encode(training, knowledge)),
            held_out=HeldOut(held_out, encode(held_out, knowledge), training),
            units=len(training),
            knowledge=dict(knowledge),
            about={
                "samples": len(training) + len(held_out),
                "held_out": len(held_out),
                "labels": len(counts),
                "level": knowledge["level"],
            },
            notes=(
                *samples.notes,
                f"{len(training):,} {things} to learn from, {len(held_out):,} held out{split_as}",
                f"{len(counts)} labels, from {min(counts.values()):,} to"
                f" {max(counts.values()):,} {things} each",
                f"read as {knowledge['level']}, {min(steps):,} to {max(steps):,}"
                f" {'steps' if knowledge['level'] == 'series' else 'characters'}",
            ),
            digest=sha256(f"{training.digest}{held_out.digest}".encode()).hexdigest(),
        )

    def read_held_out(self, trained: Trained, files: Sequence[str]) -> HeldOut:
        """Read labelled samples to judge a model on."""
        samples = read_samples(files, trained.source)
        _check_known(samples, trained.knowledge)
        training: Samples | None = None
        try:
            training = _split(read_samples(trained.source.files, trained.source), trained.source)[0]
        except InputError:  # which a model can be judged without
            training = None
        return HeldOut(samples, encode(samples, trained.knowledge), training)

    def choose(self, data: Data, speed: float, given: Mapping[str, Any]) -> LabelsSettings:
        """Complete the settings with what suits the samples, the time and the machine."""
        lengths = data.training[1].lengths
        return choose(lengths, data.knowledge, speed, given)

    def build(self, settings: LabelsSettings, knowledge: Mapping[str, Any]) -> LabelsModel:
        """Make the model."""
        return LabelsModel(settings, knowledge)

    def batches(
        self, data: Data, settings: LabelsSettings, epoch: int, processes: Processes
    ) -> Batches:
        """Shuffle the samples into batches of similar lengths."""
        weights = _weights(data.knowledge, even=settings.class_weights)
        return Batches.of(data.training[1], weights, settings, epoch, processes)

    def loss(self, model: nn.Module, batch: Batch, state: State) -> Loss:
        """Return the sum of nats over the sequences of a batch."""
        logits = model(batch.input, batch.lengths)
        nats = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=_SMOOTHING)
        return Loss((nats * batch.weights).sum(), len(batch.labels))

    def blind(self, data: Data) -> float:
        """Guessing evenly costs log(labels); a small batch may by chance cost ten times as much."""
        return 10 * math.log(len(data.knowledge["labels"]))

    def evaluate(self, trained: Trained, held_out: HeldOut, *, quick: bool) -> dict[str, float]:
        """Return the loss, accuracy and F1 on the held-out samples."""
        encoded = held_out.encoded
        if quick and len(encoded.inputs) > _JUDGED:
            rows = range(0, len(encoded.inputs), math.ceil(len(encoded.inputs) / _JUDGED))
            encoded = Encoded(tuple(encoded.inputs[r] for r in rows), encoded.labels[list(rows)])
        return _measured(_log_probabilities(trained.model, encoded), encoded.labels)

    def score(self, metrics: Mapping[str, float]) -> float:
        """The best weights are those of the lowest loss; few samples cannot tell, so the last."""
        return metrics["loss"] if metrics["samples"] >= _FEW else 0.0

    def conclude(self, trained: Trained, held_out: HeldOut) -> Conclusion:
        """Judge the model on all held-out samples, beside the baselines."""
        logs = _log_probabilities(trained.model, held_out.encoded)
        names = list(trained.knowledge["labels"])
        counts = _confusion(logs, held_out.encoded.labels)
        metrics = _measured(logs, held_out.encoded.labels)
        beside = baselines(held_out.samples, held_out.training, trained.knowledge)
        tables = [
            Table(
                "Each label",
                ("label", "precision", "recall", "F1", "samples"),
                tuple((n, *row) for n, row in zip(names, per_label(counts), strict=True)),
            ),
            _mistakes(logs, held_out, names),
        ]
        if len(names) <= _MATRIX:
            rows = ((n, *row) for n, row in zip(names, counts.tolist(), strict=True))
            tables.append(Table("What is taken for what", ("true \\ given", *names), tuple(rows)))
        lines = (_verdict(metrics, beside), *_confused(counts, names))
        return Conclusion(metrics, beside, lines, tuple(tables))

    def draw(self, trained: Trained, held_out: HeldOut, out: Path) -> list[Path]:
        """Draw what is taken for what."""
        logs = _log_probabilities(trained.model, held_out.encoded)
        counts = _confusion(logs, held_out.encoded.labels)
        path = out / "confusion.png"
        draw_confusion(counts, list(trained.knowledge["labels"]), path)
        return [path]

    def example(self, trained: Trained) -> Example:
        """Read three sequences of five steps and fewer."""
        features, window = len(trained.knowledge.get("mean", ())), trained.settings.window
        seq_len = 5 * window
        input = torch.ones(seq_len, 3, dtype=torch.int64)
        if features:
            input = torch.ones(seq_len, 3, features)
        steps, rows = torch.export.Dim("L"), torch.export.Dim("N")
        return Example(
            trained.model,
            (input, torch.tensor([seq_len, 3, 2])),
            {
                "input_names": ["input", "lengths"],
                "output_names": ["logits"],
                "dynamic_shapes": {"input": {0: steps, 1: rows}, "lengths": {0: rows}},
            },
        )

    def measure(self, model: Labels, held_out: HeldOut) -> dict[str, float]:
        """Return the accuracy and the loss on the held-out samples."""
        rows = [row.numpy() for row in held_out.encoded.inputs]
        logs = torch.from_numpy(model.log_probabilities(rows))
        found = _measured(logs, held_out.encoded.labels)
        return {"accuracy": found["accuracy"], "nats per sequence": found["loss"]}


JOB = LabelsJob()


# What is learnt from, what is held out, and how the note says so.
def _split(samples: Samples, source: LabelsSource) -> tuple[Samples, Samples, str]:
    if source.valid is not None:
        return samples, read_samples((source.valid,), source), f" in {source.valid}"
    learnt, held_out = split(samples.labels)
    if not held_out:
        raise InputError(
            f"cannot learn from {' '.join(source.files)}: no label has five samples or more, of"
            " which one could be held out: give more, or a file with --valid"
        )
    return samples.take(learnt), samples.take(held_out), ", a tenth of each label"


def _check_known(samples: Samples, knowledge: Mapping[str, Any]) -> None:
    if samples.is_text != (knowledge["level"] != "series"):
        wanted = "series of numbers" if samples.is_text else "texts"
        raise InputError(f"{samples.places[0]}: the model was trained on {wanted}: give such")
    if samples.whole_files != knowledge["whole_files"] and samples.whole_files:
        raise InputError(f"{samples.places[0]}: the model was trained on lines, not on whole files")
    if not samples.is_text and samples.inputs[0].shape[1] != len(knowledge["mean"]):
        raise InputError(
            f"{samples.places[0]}: it has {samples.inputs[0].shape[1]} features,"
            f" but the model was trained on {len(knowledge['mean'])}"
        )
    for place, label in zip(samples.places, samples.labels, strict=True):
        if label not in knowledge["labels"]:
            raise InputError(
                f"{place}: the label {label!r} is not among those that are learnt from: take the"
                f" row out, or use {', '.join(knowledge['labels'])}"
            )


# (labels,) how much a sample counts; 1 in the mean over all that is learnt from.
def _weights(knowledge: Mapping[str, Any], *, even: bool) -> Tensor:
    counts = torch.tensor(list(knowledge["labels"].values()), dtype=torch.float32)
    return counts.sum() / (len(counts) * counts) if even else torch.ones(len(counts))


# (samples, labels), in the order of the samples
@torch.no_grad()
def _log_probabilities(model: nn.Module, encoded: Encoded) -> Tensor:
    order = sorted(range(len(encoded.inputs)), key=lambda row: len(encoded.inputs[row]))
    found = []
    ones = torch.ones(1 + int(encoded.labels.max()) if len(encoded.labels) else 1)
    for start in range(0, len(order), _JUDGED_AT_ONCE):
        batch = collate(encoded, order[start : start + _JUDGED_AT_ONCE], ones)
        found.append(model(batch.input, batch.lengths).log_softmax(-1))
    return torch.cat(found)[torch.tensor(order).argsort()]


def _confusion(logs: Tensor, labels: Tensor) -> Counts:
    return confusion(labels.tolist(), logs.argmax(-1).tolist(), logs.shape[-1])


def _measured(logs: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "loss": F.nll_loss(logs, labels).item(),
        **measure(_confusion(logs, labels)),
        "samples": len(labels),
    }


def _mistakes(logs: Tensor, held_out: HeldOut, names: Sequence[str]) -> Table:
    sure, given = logs.exp().max(-1)
    wrong = (given != held_out.encoded.labels).nonzero().flatten()
    rows = []
    for index in wrong[sure[wrong].argsort(descending=True, stable=True)][:_MISTAKES].tolist():
        sample = held_out.samples.inputs[index]
        place = held_out.samples.places[index]
        shown = sample[:_SHOWN] if isinstance(sample, str) else f"{len(sample)} steps"
        true = held_out.samples.labels[index]
        rows.append((place, shown, true, names[int(given[index])], sure[index].item()))
    heads = ("from", "sequence", "true label", "given label", "probability")
    return Table("The surest mistakes", heads, tuple(rows))


def _verdict(metrics: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]) -> str:
    best = max(beside, key=lambda name: beside[name]["accuracy"])
    points = 100 * (metrics["accuracy"] - beside[best]["accuracy"])
    if points > 0:
        return f"The model is better than {best} by {points:.1f} points of accuracy."
    if points == 0:
        return f"The model is no better than {best}: use that, or train longer."
    return f"{best} wins by {-points:.1f} points of accuracy: use it, or train longer."


# What is taken for what most often, if anything is.
def _confused(counts: Counts, names: Sequence[str]) -> Iterator[str]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    true, given = divmod(int(wrong.argmax()), len(names))
    if times := int(wrong[true, given]):
        yield (
            f"The commonest mistake: {names[true]} is taken for {names[given]},"
            f" {times:,} of {counts[true].sum():,} times."
        )


def choose(
    lengths: Sequence[int], knowledge: Mapping[str, Any], speed: float, given: Mapping[str, Any]
) -> LabelsSettings:
    """Complete the settings that the user gave; see `elman.tasks.job.Job.choose`."""
    chosen = dict(given)
    samples, steps = len(lengths), sum(lengths)
    chosen.setdefault("batch", max(4, min(64, samples // 16)))
    if chosen.get("epochs") is None and chosen.get("max_time") is None:
        chosen["max_time"] = 180.0
        batch = chosen["batch"] if isinstance(chosen["batch"], int) else 1
        chosen["epochs"] = max(5, _UPDATES * batch // samples)
    chosen.setdefault("lr", 2e-3 if chosen.get("cell") == "rnn" else 4e-3)
    chosen.setdefault("dropout", 0.5 if samples < 5000 else 0.3)
    if knowledge["level"] == "series":
        chosen.setdefault("window", max(1, round(steps / samples / 40)))
        chosen.setdefault("noise", 0.1)
    settings = LabelsSettings(**{"hidden": 1} | chosen)

    def weights(settings: LabelsSettings) -> int:
        inputs = settings.embed + (settings.layers - 1) * 2 * settings.hidden
        recurrent = inputs + settings.layers * settings.hidden
        return 2 * settings.hidden * GATES[settings.cell] * recurrent

    if "hidden" not in given:
        hidden = fit_hidden(
            settings,
            steps,
            speed,
            weights,
            sizes=(64, 96, 128, 192, 256, 384, 512),
            units_per_weight=7,
            weights_per_unit=4,
        )
        settings = replace(settings, hidden=hidden)
    return settings
