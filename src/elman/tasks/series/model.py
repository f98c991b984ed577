"""The model of series: it reads segments, and forecasts all segments of the future at once.

segment -> linear -> recurrent layers -> state -> one step for each future segment -> linear

A window's values are taken less its last one, so the level may drift. The step for a future segment
starts from the state after the past, and reads which segment it is and what is known of it; so a
forecast is never fed with forecasts. What comes out is added to a linear guess from the past and
from what is known.
After SegRNN (Lin et al. 2023, arXiv:2308.11200); departs from it in the linear guess, in what is
known ahead, in LSTMs and several layers, and in quantiles.
"""

import torch
from torch import Tensor, nn

import elman
from elman.tasks.series.settings import SeriesSettings

__all__ = ["SeriesModel"]


class SeriesModel(nn.Module):
    """A recurrent layer over segments.

    Args:
        horizon: H, the steps that are forecast.
        features: F, numbers known of each segment.
        settings: cell, hidden, layers, dropout, context, segment and quantiles.

    Example:
        >>> settings = SeriesSettings(
        ...     hidden=8, batch=4, lr=0.01, dropout=0.0, epochs=1, context=24, segment=6
        ... )
        >>> model = SeriesModel(10, 4, settings)
        >>> past, known, base = torch.randn(3, 4, 6), torch.randn(3, 2, 4), torch.zeros(3, 10)
        >>> model(past, torch.randn(3, 4, 4), known, base).shape
        torch.Size([3, 10, 3])
    """

    def __init__(self, horizon: int, features: int, settings: SeriesSettings) -> None:
        """Draw all weights from PyTorch's generator."""
        super().__init__()
        hidden, segment = settings.hidden, settings.segment
        self.horizon, self.segment = horizon, segment
        self.quantiles = len(settings.levels)
        self.segments = -(-horizon // segment)
        layers = {"lstm": elman.LSTM, "gru": elman.GRU, "rnn": elman.RNN}[settings.cell]
        self.embedding = nn.Linear(segment + features, hidden)
        self.recurrent = layers(
            hidden,
            hidden,
            settings.layers,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.position = nn.Parameter(0.1 * torch.randn(self.segments, hidden))
        self.ahead = nn.Linear(features, hidden) if features else None
        self.dropout = nn.Dropout(settings.dropout)
        self.output = nn.Linear(hidden, segment * self.quantiles)
        self.linear = nn.Linear(settings.context, horizon)
        self.effect = nn.Linear(features, segment, bias=False) if features else None
        # So that the first forecast is the guess that it starts from.
        for layer in (self.output, self.linear, self.effect):
            for weight in layer.parameters() if layer is not None else ():
                nn.init.zeros_(weight)

    def forward(self, past: Tensor, past_known: Tensor, known: Tensor, base: Tensor) -> Tensor:
        """Forecast.

        Args:
            past: (N, P, segment) values before the forecast.
            past_known: (N, P, F) what is known of each segment of the past.
            known: (N, S, F) what is known of each segment of the future.
            base: (N, H) a first guess, to which all else is added.

        Returns:
            (N, H, Q) quantiles.
        """
        batch, last = len(past), past[:, -1, -1:]
        past = past - last[..., None]
        read = torch.relu(self.embedding(torch.cat([past, past_known], dim=2)))
        _, state = self.recurrent(self.dropout(read).transpose(0, 1))
        asked = self.position.expand(batch, -1, -1)
        if self.ahead is not None:
            asked = asked + self.ahead(known)
        asked = torch.relu(asked).flatten(0, 1)[None]
        parts = state if isinstance(state, tuple) else (state,)
        spread = tuple(
            part[:, :, None].expand(-1, -1, self.segments, -1).flatten(1, 2) for part in parts
        )
        output, _ = self.recurrent(asked, spread if isinstance(state, tuple) else spread[0])
        changes = self.output(self.dropout(output[0]))
        changes = changes.view(batch, self.segments * self.segment, self.quantiles)
        guess = base + self.linear(past.flatten(1))
        if self.effect is not None:
            guess = guess + self.effect(known).flatten(1)[:, : self.horizon]
        forecast: Tensor = guess[..., None] + changes[:, : self.horizon]
        return forecast
