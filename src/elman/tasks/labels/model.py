"""The model of labelled sequences.

symbols, embedded -> recurrent layers,  -> a summary -> linear -> labels
series, convolved -> both directions       of all steps
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import elman
from elman.tasks.labels.settings import LabelsSettings

__all__ = ["LabelsModel"]


class LabelsModel(nn.Module):
    """Reads whole sequences in both directions, and says how likely each label is.

    A symbol is embedded. Of a series, a convolution looks at each step and its neighbours, and the
    largest of what it finds in each window becomes one step. The summary of a sequence is the last
    output of each direction, and the mean and the maximum of all outputs.

    Args:
        settings: cell, hidden, layers, embed, window and dropout.
        knowledge: the labels, and the symbols or the features.

    Example:
        >>> settings = LabelsSettings(hidden=8, batch=1, lr=0.1, dropout=0.0, epochs=1)
        >>> knowledge = {"level": "chars", "symbols": ["a", "b"], "labels": {"x": 1, "y": 1}}
        >>> model = LabelsModel(settings, knowledge)
        >>> model(torch.tensor([[0, 1], [2, 0]]), torch.tensor([2, 1])).shape
        torch.Size([2, 2])
    """

    def __init__(self, settings: LabelsSettings, knowledge: Mapping[str, Any]) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        layers = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}[settings.cell]
        self.embedding: Symbols | Windows
        if knowledge["level"] == "series":
            self.embedding = Windows(len(knowledge["mean"]), settings.embed, settings.window)
        else:
            self.embedding = Symbols(1 + len(knowledge["symbols"]), settings.embed)
        self.recurrent = layers(
            settings.embed,
            settings.hidden,
            settings.layers,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
            bidirectional=True,
        )
        self.output = nn.Linear(3 * 2 * settings.hidden, len(knowledge["labels"]))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
        """Read sequences.

        Args:
            input: (L, N) numbers of symbols, or (L, N, F) features.
            lengths: (N,) steps of each, at least 1.

        Returns:
            (N, labels) logits.
        """
        embedded, lengths = self.embedding(input, lengths)
        output, _ = self.recurrent(self.dropout(embedded), lengths=lengths)
        return self.output(self.dropout(summary(output, lengths)))  # type: ignore[no-any-return]


class Symbols(nn.Embedding):
    """(L, N) numbers of symbols -> (L, N, embed)."""

    def forward(self, input: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Embed each symbol; the lengths stay."""
        return super().forward(input), lengths


class Windows(nn.Module):
    """(L, N, features) series -> (ceil(L / window), N, embed).

    Args:
        features: numbers in a step.
        embed: numbers that stand for a window.
        window: steps of which the largest is taken.
    """

    def __init__(self, features: int, embed: int, window: int) -> None:
        super().__init__()
        self.window, reach = window, 2 * window
        self.convolution = nn.Conv1d(features, embed, 2 * reach + 1, padding=reach)

    def forward(self, input: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows of each series, whatever the padding, and how many there are."""
        found = self.convolution(input.permute(1, 2, 0)).relu()
        padding = torch.arange(len(input)) >= lengths[:, None]
        found = found.masked_fill(padding[:, None], 0)
        largest = nn.functional.max_pool1d(found, self.window, ceil_mode=True)
        return largest.permute(2, 0, 1), (lengths + self.window - 1) // self.window


def summary(output: Tensor, lengths: Tensor) -> Tensor:
    """Sum up the outputs of a layer with two directions, whatever the padding.

    Args:
        output: (L, N, F).
        lengths: (N,) steps of each, at least 1.

    Returns:
        (N, 3 F): the last output of each direction, the mean and the maximum over the steps.
    """
    padding = (torch.arange(len(output))[:, None] >= lengths)[:, :, None]
    mean = output.masked_fill(padding, 0).sum(0) / lengths[:, None]
    largest = output.masked_fill(padding, -1).amax(0)  # no output is below -1
    return torch.cat((elman.last(output, lengths, bidirectional=True), mean, largest), -1)
