"""Samples as numbers, and batches of samples of similar lengths."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import elman
from elman.runtime.jobs import labels as of_runtime
from elman.runtime.jobs.labels import tokens
from elman.tasks.labels.data import Samples, counted
from elman.tasks.processes import Processes

__all__ = ["Batch", "Batches", "Encoded", "collate", "encode", "learn"]

_LONG = 100  # characters: longer texts are cut into words


def learn(samples: Samples, level: str | None) -> dict[str, Any]:
    """Return what a model must know of the data that it learns from; see `Data.knowledge`.

    Texts: the symbols that occur more than once; the others stand for all that is never seen. If
    none does, all of them. Series: the mean and the scale of each feature.
    """
    found: dict[str, Any] = {
        "labels": counted(samples.labels),
        "whole_files": samples.whole_files,
    }
    if not samples.is_text:
        steps = np.concatenate([np.asarray(row, np.float64) for row in samples.inputs])
        known = ~np.isnan(steps)
        count = known.sum(0).clip(min=1)
        mean = np.where(known, steps, 0).sum(0) / count
        scale = np.sqrt((np.where(known, steps - mean, 0) ** 2).sum(0) / count)
        return found | {
            "level": "series",
            "mean": mean.tolist(),
            "scale": np.where(scale > 0, scale, 1.0).tolist(),
        }
    texts = samples.inputs
    level = level or ("words" if np.mean([len(text) for text in texts]) > _LONG else "chars")
    count = Counter(token for text in texts for token in tokens(text, level))
    often = sorted(token for token, times in count.items() if times > 1)
    return found | {"level": level, "symbols": often or sorted(count)}


@dataclass(frozen=True)
class Encoded:
    """Samples as a model takes them.

    Args:
        inputs: for each sample (L,) numbers of symbols, 0 for what is unknown, or (L, F) features
            with a mean of 0 and a standard deviation of 1.
        labels: (samples,) the number of the label of each; empty if there are none.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor

    @property
    def lengths(self) -> list[int]:
        """The steps of each sample."""
        return [len(row) for row in self.inputs]


def encode(samples: Samples, knowledge: Mapping[str, Any]) -> Encoded:
    """Turn samples into numbers; their labels must be known.

    Example:
        >>> samples = Samples(("abc", "b"), ("x", "y"), ("", ""))
        >>> knowledge = {"level": "chars", "symbols": ["a", "b"], "labels": {"x": 1, "y": 1}}
        >>> encode(samples, knowledge)
        Encoded(inputs=(tensor([1, 2, 0]), tensor([2])), labels=tensor([0, 1]))
    """
    names = {label: number for number, label in enumerate(knowledge["labels"])}
    labels = torch.tensor([names[label] for label in samples.labels], dtype=torch.int64)
    rows = of_runtime.encode(samples.inputs, knowledge)
    return Encoded(tuple(map(torch.from_numpy, rows)), labels)


class Batch(NamedTuple):
    """Samples of similar lengths.

    Args:
        input: (L, N) numbers of symbols, or (L, N, F) features; padded with zeros.
        lengths: (N,) steps of each.
        labels: (N,) numbers of labels.
        weights: (N,) how much each counts.
    """

    input: Tensor
    lengths: Tensor
    labels: Tensor
    weights: Tensor


def collate(encoded: Encoded, rows: Sequence[int], weights: Tensor) -> Batch:
    """Put samples side by side.

    Args:
        encoded: all samples.
        rows: the numbers of those taken; may be none.
        weights: (labels,) how much a sample of each label counts.
    """
    labels = encoded.labels[list(rows)] if len(encoded.labels) else torch.zeros(len(rows)).long()
    inputs = [encoded.inputs[row] for row in rows]
    if not inputs:  # a step of nothing, of the same kind
        first = encoded.inputs[0]
        padded = first.new_zeros((1, 0, *first.shape[1:]))
    else:
        padded = pad_sequence(inputs)
    lengths = torch.tensor([len(row) for row in inputs], dtype=torch.int64)
    return Batch(padded, lengths, labels, weights[labels])


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """The batches of an epoch, this process's share of each.

    Args:
        encoded: the samples.
        rows: the numbers of the samples of each batch.
        weights: (labels,) how much a sample of each label counts.
        noise: the standard deviation of what is added to series.
        seed: seed and epoch, where the noise starts.
    """

    encoded: Encoded
    rows: list[Sequence[int]]
    weights: Tensor
    noise: float
    seed: tuple[int, int]

    @staticmethod
    def of(
        encoded: Encoded,
        weights: Tensor,
        settings: Any,
        epoch: int,
        processes: Processes,
    ) -> "Batches":
        """Shuffle the samples into batches of similar lengths, others in each epoch."""
        sampler = elman.BucketBatchSampler(encoded.lengths, settings.batch, seed=settings.seed)
        sampler.set_epoch(epoch)
        rows = [processes.share(batch) for batch in sampler]
        return Batches(encoded, rows, weights, settings.noise, (settings.seed, epoch))

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """Return a batch; its noise depends on seed, epoch and sample alone."""
        rows = self.rows[index]
        batch = collate(self.encoded, rows, self.weights)
        if not (self.noise and batch.input.is_floating_point()):
            return batch
        input = batch.input.clone()
        for column, row in enumerate(rows):
            steps = self.encoded.inputs[row]
            chance = np.random.default_rng((*self.seed, row))
            drawn = chance.normal(0, self.noise, steps.shape).astype(np.float32)
            input[: len(steps), column] += torch.from_numpy(drawn)
        return batch._replace(input=input)
