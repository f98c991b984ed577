"""The model of labelled sequences: symbols or windows of a series, read in both directions.

    symbols, embedded -> recurrent layers,  -> a summary -> linear -> labels
    series, convolved -> both directions       of all steps

The model that is trained is `elman.tasks.labels.model`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime.file import FileError
from elman.runtime.jobs.job import (
    JobModel,
    check_integer,
    embedding,
    function,
    largest,
    last_outputs,
    linear,
    padded,
    recurrent,
)
from elman.runtime.modules import Floats, log_softmax

__all__ = ["Labels", "describe", "encode", "tokens"]

_WORD = re.compile(r"\w+|[^\w\s]")
_TOGETHER = 128  # sequences
_CONVOLVED = 2**22  # numbers that are multiplied at once


def tokens(text: str, level: str) -> Sequence[str]:
    """Cut a text into characters, or into words and marks in lower case.

    Example:
        >>> tokens("It's on.", "words")
        ['it', "'", 's', 'on', '.']
    """
    return text if level == "chars" else _WORD.findall(text.casefold())


def encode(inputs: Sequence[Any], knowledge: Mapping[str, Any]) -> list[NDArray[Any]]:
    """Turn sequences into numbers.

    Args:
        inputs: texts, or series as (L, F).
        knowledge: the level, and the symbols or the mean and scale of each feature.

    Returns:
        For each sequence (L,) numbers of symbols, 0 for what is unknown, or (L, F) features with a
        mean of 0 and a standard deviation of 1.
    """
    if knowledge["level"] == "series":
        mean, scale = (np.asarray(knowledge[name], np.float32) for name in ("mean", "scale"))
        return [np.nan_to_num((row - mean) / scale, nan=0.0) for row in inputs]
    ids = {symbol: number for number, symbol in enumerate(knowledge["symbols"], 1)}
    cut = (tokens(str(text), knowledge["level"]) for text in inputs)
    return [np.array([ids.get(t, 0) for t in row] or [0], np.int64) for row in cut]


class Labels(JobModel):
    """A model that gives each sequence one label; see `JobModel`.

    Attributes:
        labels: the labels, in order.
    """

    job: ClassVar[str] = "labels"

    def _know(self) -> None:
        facts = self.facts
        self.labels = facts.texts("labels", least=1)
        self._level = facts.word("level", ("chars", "words", "series"))
        facts.truth("whole_files")
        facts.text_or_none("text")
        if self._level == "series":
            self._mean = facts.numbers("mean", facts.values.get("mean"))
            self._scale = facts.numbers("scale", facts.values.get("scale"), above=0)
            if not len(self._mean) == len(self._scale) > 0:
                raise FileError(
                    say("a model of series must know a mean and a scale of each feature")
                )
            self._window = facts.size("window", most=2**16)
            kernel = 4 * self._window + 1
            self._convolve = self.chain("windows", len(self._mean) * kernel)
            self._reader = self.chain("reader", self._convolve.width)
        else:
            symbols = facts.texts("symbols")
            self._reader = self.chain("reader", 1 + len(symbols), symbols=True)
        if self.layers("reader").directions != 2:
            raise FileError(say("the chain 'reader' must have two directions"))
        self._output = self.chain("output", 3 * self._reader.width, len(self.labels))

    def predict(self, inputs: Sequence[Any], top: int = 1) -> list[list[tuple[str, float]]]:
        """Give the likeliest labels of sequences.

        Args:
            inputs: texts, or for a model of series arrays (L, F) of numbers, NaN for a missing one.
            top: so many of the likeliest labels are given.

        Returns:
            For each sequence its labels with their probabilities, the likeliest first.

        Raises:
            InputError: a sequence is of another kind, or empty, or top is out of range.
        """
        check_integer("top", top, 1, 2**20)
        rows = encode([self._checked(i, given) for i, given in enumerate(inputs)], self.knowledge)
        if not rows:
            return []
        likely = np.exp(self.log_probabilities(rows))
        order = largest(likely, min(top, len(self.labels)))
        return [
            [(self.labels[n], float(of[n])) for n in numbers]
            for of, numbers in zip(likely, order, strict=True)
        ]

    def _checked(self, number: int, given: Any) -> Any:
        if self._level != "series":
            if not isinstance(given, str) or not given.strip():
                raise InputError(
                    say(
                        "sequence {number} must be a text, got {got}",
                        number=number,
                        got=f"{given!r:.40}",
                    )
                )
            return given
        row = np.asarray(given)
        features = len(self._mean)
        if row.dtype.kind not in "fiu" or row.ndim != 2 or row.shape[1] != features or not len(row):
            raise InputError(
                say(
                    "sequence {number} must be (L, F) = (L, {features}) numbers, got {got} {dtype}",
                    number=number,
                    features=features,
                    got=row.shape,
                    dtype=row.dtype,
                )
            )
        if np.isinf(row).any():
            raise InputError(
                say(
                    "sequence {number} has an infinite number: give NaN for a missing one",
                    number=number,
                )
            )
        return row.astype(np.float32)

    def log_probabilities(self, rows: Sequence[NDArray[Any]]) -> Floats:
        """Return (sequences, labels) logarithms of probabilities.

        Args:
            rows: what `encode` gave, at least one.
        """
        found = np.empty((len(rows), len(self.labels)), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), _TOGETHER):
            chosen = order[start : start + _TOGETHER]
            x, lengths = padded([rows[i] for i in chosen])
            if self._level == "series":
                x, lengths = self._windows(x, lengths)
            summary = _summary(self._reader.run(x, lengths), lengths)
            found[chosen] = log_softmax(self._output.run(summary[None])[0])
        return found

    def _windows(
        self, x: NDArray[Any], lengths: NDArray[np.int64]
    ) -> tuple[Floats, NDArray[np.int64]]:
        """(L, N, F) series -> (ceil(L / window), N, embed), the largest found in each window."""
        window, reach = self._window, 2 * self._window
        seq_len, batch, features = x.shape
        wide = np.pad(x, ((reach, reach), (0, 0), (0, 0)))
        near = np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=0)
        width = features * (2 * reach + 1)
        steps = max(1, _CONVOLVED // (batch * width))
        parts = [
            self._convolve.run(near[at : at + steps].reshape(-1, batch, width))
            for at in range(0, seq_len, steps)
        ]
        found = np.concatenate(parts)
        found[np.arange(seq_len)[:, None] >= lengths] = 0
        count = -(-seq_len // window)
        found = np.pad(found, ((0, count * window - seq_len), (0, 0), (0, 0)))
        largest = found.reshape(count, window, batch, -1).max(1)
        return largest, (lengths + window - 1) // window


def _summary(output: Floats, lengths: NDArray[np.int64]) -> Floats:
    """(L, N, F) outputs of two directions -> (N, 3 F): last of each, mean and maximum."""
    padding = (np.arange(len(output))[:, None] >= lengths)[:, :, None]
    mean = np.where(padding, 0, output).sum(0) / lengths[:, None].astype(output.dtype)
    largest = np.where(padding, output.dtype.type(-1), output).max(0)  # no output is below -1
    return np.concatenate([last_outputs(output, lengths), mean, largest], -1)


def describe(run: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the model of a run; see `elman.runtime.jobs.describe`."""
    settings, knowledge = run["settings"], run["knowledge"]
    hidden, embed = settings["hidden"], settings["embed"]
    layers = recurrent("recurrent", settings, embed, hidden, settings["layers"], both=True)
    known = {name: knowledge[name] for name in ("level", "whole_files")}
    known |= {"labels": list(knowledge["labels"]), "text": run["source"]["text"]}
    chains = {"output": [linear("output", 3 * 2 * hidden, len(knowledge["labels"]))]}
    if knowledge["level"] != "series":
        known |= {"symbols": knowledge["symbols"]}
        table = embedding("embedding", 1 + len(knowledge["symbols"]), embed)
        return {"chains": {"reader": [table, layers], **chains}, "knowledge": known}
    known |= {name: knowledge[name] for name in ("mean", "scale")} | {"window": settings["window"]}
    # A convolution is a linear map of the numbers that lie near a step.
    weight = tensors.pop("embedding.convolution.weight").reshape(embed, -1)
    bias = tensors.pop("embedding.convolution.bias")
    tensors |= {"convolution.weight": weight, "convolution.bias": bias}
    found = [linear("convolution", weight.shape[1], embed), function("relu", "relu", embed)]
    return {"chains": {"windows": found, "reader": [layers], **chains}, "knowledge": known}
