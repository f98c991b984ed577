"""The model of labelled sequences.

embedding -> recurrent layers, both directions -> a summary of the steps -> linear -> labels
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

    A symbol is embedded; of a series, a window of steps is projected. The summary of a sequence is
    the last output of each direction, and the mean and the maximum of all outputs.

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
        self.is_series = knowledge["level"] == "series"
        self.window = settings.window if self.is_series else 1
        self.embedding: nn.Module
        if self.is_series:
            self.embedding = nn.Linear(self.window * len(knowledge["mean"]), settings.embed)
        else:
            self.embedding = nn.Embedding(1 + len(knowledge["symbols"]), settings.embed)
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
        if self.is_series:
            input, lengths = self._windows(input, lengths)
        output, _ = self.recurrent(self.dropout(self.embedding(input)), lengths=lengths)
        return self.output(self.dropout(summary(output, lengths)))  # type: ignore[no-any-return]

    # (L, N, F) -> (ceil(L / window), N, window * F), the last filled up with zeros
    def _windows(self, input: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        missing = -len(input) % self.window
        input = nn.functional.pad(input, (0, 0, 0, 0, 0, missing))
        steps, batch, features = input.shape
        cut = input.view(steps // self.window, self.window, batch, features)
        return cut.transpose(1, 2).flatten(2), (lengths + self.window - 1) // self.window


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
