"""Windows: what is read before a forecast, what is known ahead, and what then came.

All series lie one behind the other in flat arrays, each with a horizon of the future after it. A
window is the place in them at which its forecast starts, its origin; a batch of windows is gathered
by adding steps to origins. Values are standardised: (value - mean) / std of the training part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.runtime.jobs.series import calendar
from elman.tasks.series.data import Panel
from elman.tasks.series.settings import SeriesSettings

__all__ = ["Batch", "Batches", "Windows"]


class Batch(NamedTuple):
    """Windows, side by side. P: steps of context over those of a segment; F: see `features`.

    Args:
        past: (N, P, segment) values before the origin.
        past_known: (N, P, F) what is known of each segment of the past.
        known: (N, S, F) what is known of each segment of the future.
        base: (N, H) a first guess of the future.
        future: (N, H) what came; zero where it is missing.
        present: (N, H) one where a value came, zero where it is missing.
        levels: (Q,) the quantiles that are asked for.
    """

    past: Tensor
    past_known: Tensor
    known: Tensor
    base: Tensor
    future: Tensor
    present: Tensor
    levels: Tensor


class Windows:
    """The windows of a panel.

    Args:
        panel: the series.
        settings: context and segment.
    """

    def __init__(self, panel: Panel, settings: SeriesSettings) -> None:
        """Lay the series out, one behind the other."""
        self.panel, self.settings = panel, settings
        room = panel.horizon + settings.segment
        lengths = [len(one.values) + room for one in panel.series]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        scaling = np.array(list(panel.known.values()), dtype=np.float64).reshape(-1, 2)
        values, present = np.zeros(sum(lengths)), np.zeros(sum(lengths))
        known, calendars = np.zeros((sum(lengths), len(scaling))), []
        for one, at, length in zip(panel.series, self.offsets, lengths, strict=True):
            end = at + len(one.values)
            values[at:end] = (one.filled - one.scale.mean) / one.scale.std
            present[at:end] = ~np.isnan(one.values)
            calendars.append(calendar(panel.grid, panel.cycles, one.start + np.arange(length)))
            given = one.known[:length]
            known[at : at + len(given)] = (given - scaling[:, 0]) / scaling[:, 1]
        self.values, self.present, self.known, self.calendar = (
            torch.from_numpy(array).float()
            for array in (values, present, np.nan_to_num(known), np.concatenate(calendars))
        )

    def origins(self, part: str) -> Tensor:
        """Return the origins in a part: "training", "validation", "test", or "end" for forecasts.

        Of the held-out parts those whose whole horizon lies inside them.
        """
        found = [np.zeros(0, dtype=np.int64)]
        horizon, context = self.panel.horizon, self.settings.context
        for offset, one in zip(self.offsets, self.panel.series, strict=True):
            length = len(one.values)
            first, end = {
                "training": (0, one.validation),
                "validation": (one.validation, one.test),
                "test": (one.test, length),
                "end": (length, length + horizon),
            }[part]
            if part in ("validation", "test") and self.panel.is_judged_whole:
                first, end = 0, length
            first = max(first, context)
            found.append(offset + np.arange(first, max(first, end - horizon + 1)))
        origins = torch.from_numpy(np.concatenate(found))
        if part == "end":
            return origins
        reach = origins[:, None] + torch.arange(horizon)
        return origins[self.present[reach].any(1)]

    def of(self, origins: Tensor) -> NDArray[np.int64]:
        """Return which series each origin belongs to."""
        return np.searchsorted(self.offsets, origins.numpy(), side="right") - 1

    def gather(self, origins: Tensor) -> Batch:
        """Return the windows with some origins."""
        context, segment, horizon = self.settings.context, self.settings.segment, self.panel.horizon
        back = origins[:, None] - context + torch.arange(context)
        ahead = origins[:, None] + torch.arange(horizon)
        past_starts = origins[:, None] - context + torch.arange(0, context, segment)
        starts = origins[:, None] + torch.arange(0, horizon, segment)
        season = self.panel.base
        base_at = origins[:, None] - 1 + torch.zeros(horizon, dtype=torch.int64)
        if 1 < season <= context:
            base_at = origins[:, None] - season + torch.arange(horizon) % season
        return Batch(
            self.values[back].view(len(origins), context // segment, segment),
            self._known(past_starts),
            self._known(starts),
            self.values[base_at],
            self.values[ahead] * self.present[ahead],
            self.present[ahead],
            torch.tensor(self.settings.levels),
        )

    def _known(self, starts: Tensor) -> Tensor:
        """(N, S) places of segments -> (N, S, F) what is known of them."""
        calendar = self.calendar[starts]
        if not self.known.shape[1]:
            return calendar
        steps = starts[..., None] + torch.arange(self.settings.segment)
        return torch.cat([calendar, self.known[steps].flatten(2)], dim=2)


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """Batches of windows, gathered when they are asked for.

    Args:
        windows: where they come from.
        origins: those of each batch.
    """

    windows: Windows
    origins: Sequence[Tensor]

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.origins)

    def __getitem__(self, index: Any) -> Any:
        """Return a batch."""
        return self.windows.gather(self.origins[index])
