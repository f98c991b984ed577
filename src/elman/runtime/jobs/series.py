"""The model of series: it reads segments, and forecasts all segments of the future at once.

    segment -> linear -> recurrent layers -> state -> one step for each future segment -> linear

The model that is trained is `elman.tasks.series.model`, which says more of it.

Symbols: N windows, P and S segments of the past and the future, F numbers known of a segment, H
steps of the horizon, Q quantiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    linear,
    recurrent,
)
from elman.runtime.jobs.times import FORMS, KINDS, Grid, parse
from elman.runtime.modules import Floats

__all__ = ["Forecast", "Series", "Window", "calendar", "describe", "features", "forward_filled"]

_HARMONICS = 2
_TOGETHER = 512  # windows

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """What a forecast is made from.

    Args:
        past: (context,) the values before it, none of them missing.
        calendar: (context + S * segment, C) where each step is in each cycle; see `calendar`.
        known: (context + S * segment, K) what is known ahead, scaled, zero where it is missing.
        mean: of the values, for all forecasts of a series.
        std: their standard deviation.
    """

    past: Doubles
    calendar: Doubles
    known: Doubles
    mean: float
    std: float


@dataclass(frozen=True)
class Forecast:
    """A forecast of a series.

    Args:
        times: (H,) the time of each step, written as in the table that was learnt from.
        levels: (Q,) the quantiles, in order; 0.5 is the forecast itself.
        quantiles: (H, Q) what is forecast.
    """

    times: tuple[str, ...]
    levels: tuple[float, ...]
    quantiles: Doubles

    @property
    def point(self) -> Doubles:
        """(H,) the forecast itself, the median."""
        return self.quantiles[:, self.levels.index(0.5)]


class Series(JobModel):
    """A model that forecasts series; see `JobModel`.

    Attributes:
        horizon: steps that it forecasts at most.
        context: steps that it reads before a forecast.
        levels: the quantiles that it forecasts.
    """

    job: ClassVar[str] = "series"

    def _know(self) -> None:
        facts = self.facts
        self.horizon = facts.size("horizon", most=2**16)
        self.context = facts.size("context", most=2**20)
        self._segment = facts.size("segment", most=2**16)
        self._season, self._base = facts.size("season"), facts.size("base")
        self.levels = facts.numbers("levels", facts.values.get("levels"), above=0)
        grid = facts.part("grid")
        self._kind = grid.word("kind", KINDS)
        self._step, self._form = grid.number("step", above=0), grid.word("form", FORMS)
        cycles = Grid(self._kind, self._step, 0.0, self._form).cycles
        self._cycles = facts.texts("cycles", least=0)
        known = facts.part("known")
        self._known = {
            str(name): self._pair(f"known {name!r:.40}", scale)
            for name, scale in known.values.items()
        }
        scales = facts.part("scales")
        self._scales = {
            str(name): scales.numbers(f"{name!r:.40}", scale)
            for name, scale in scales.values.items()
        }
        columns = facts.part("columns")
        columns.text_or_none("time"), columns.text_or_none("group"), columns.texts("target")
        if self.context % self._segment:
            raise FileError(say("the context of the file must be a multiple of its segment"))
        if 0.5 not in self.levels or list(self.levels) != sorted({*self.levels, 0.5}):
            raise FileError(say("the quantiles of the file must be in order, 0.5 among them"))
        if not all(level < 1 for level in self.levels):
            raise FileError(say("the quantiles of the file must be below 1"))
        if not set(self._cycles) <= set(cycles):
            raise FileError(
                say("the cycles of the file must be among {names}", names=", ".join(cycles))
            )
        if not all(
            len(scale) == 3 and scale[1] > 0 and scale[2] > 0 for scale in self._scales.values()
        ):
            raise FileError(say("the file must have a mean and two scales of each series"))
        count = features(len(self._cycles), len(self._known), self._segment)
        self._segments = -(-self.horizon // self._segment)
        self._reader = self.chain("reader", self._segment + count)
        self._position = self.chain("position", self._segments, symbols=True)
        hidden = self._position.width
        self._writer = self.chain("writer", hidden, self._segment * len(self.levels))
        self._linear = self.chain("linear", self.context, self.horizon)
        self._ahead = self.chain("ahead", count, hidden) if count else None
        self._effect = self.chain("effect", count, self._segment) if count else None
        reader, writer = self.layers("reader"), self.layers("writer")
        if not (
            (reader.cell, reader.state_widths) == (writer.cell, writer.state_widths)
            and (reader.num_layers, reader.directions) == (writer.num_layers, writer.directions)
            and reader.directions == 1
        ):
            raise FileError(
                say("the layers of the file that read and write must be of one kind and size")
            )

    def _pair(self, name: str, scale: Any) -> tuple[float, float]:
        found = self.facts.numbers(name, scale)
        if len(found) != 2 or found[1] <= 0:
            raise FileError(
                say("the file must have a mean and a scale of what is {name}", name=name)
            )
        return found[0], found[1]

    def predict(
        self,
        values: Any,
        last: str | None = None,
        *,
        series: str | None = None,
        known: Any = None,
        horizon: int | None = None,
    ) -> Forecast:
        """Forecast on from the end of a series.

        Args:
            values: (T,) the values, oldest first; the last `context` of them are read. NaN stands
                for a missing one.
            last: the time of the last value, written as in the table that was learnt from; where
                that had no times, the number of steps is counted.
            series: which of the series that were learnt from it is, for its mean and scale; None
                takes the only one, or those of `values` if there are several.
            known: (T + horizon or more, K) the columns that are known ahead, if the model has any.
            horizon: steps to forecast, at most those trained for; all of these if None.

        Returns:
            The forecast.

        Raises:
            InputError: something does not fit the model.
        """
        horizon = self.check_horizon(horizon)
        array = np.asarray(values, np.float64) if _is_numbers(values) else np.zeros((0, 0))
        if array.ndim != 1 or len(array) < self.context or np.isinf(array).any():
            raise InputError(
                say(
                    "values must be (T,) numbers, T at least {context}, NaN where one is "
                    "missing; got {got}",
                    context=self.context,
                    got=np.shape(values),
                )
            )
        if np.isnan(array).all():
            raise InputError(say("values must have a number among them, got NaN alone"))
        mean, std = self._scale(array, series)
        grid = self._grid(last, len(array))
        window = self.window(
            array, grid, 1 - len(array), self._checked_known(known, len(array) + horizon), mean, std
        )
        times = tuple(grid.write(step) for step in range(1, horizon + 1))
        return Forecast(times, self.levels, self.forecast([window])[0, :horizon])

    def check_horizon(self, horizon: int | None) -> int:
        """Return how many steps are forecast.

        Raises:
            InputError: it is none, or more than the model forecasts.
        """
        if horizon is None:
            return self.horizon
        check_integer("horizon", horizon, 1)
        if horizon > self.horizon:
            raise InputError(
                say(
                    "the model forecasts {horizon} steps, got horizon {got}: train one "
                    "with --horizon {got}",
                    horizon=self.horizon,
                    got=horizon,
                )
            )
        return horizon

    def _scale(self, values: Doubles, series: str | None) -> tuple[float, float]:
        if series is None and len(self._scales) == 1:
            (series,) = self._scales
        if series is not None:
            if series not in self._scales:
                names = ", ".join([*self._scales][:10])
                raise InputError(
                    say(
                        "series must be one of {names}, got {got}",
                        names=names,
                        got=f"{series!r:.40}",
                    )
                )
            return self._scales[series][:2]  # type: ignore[return-value]
        present = values[~np.isnan(values)]
        return float(present.mean()), float(present.std()) or 1.0

    def _grid(self, last: str | None, count: int) -> Grid:
        """Return the grid on which the last value is step 0."""
        if last is None:
            if self._form or self.knowledge["columns"]["time"] is not None:
                raise InputError(say("last must be the time of the last value, got None"))
            return Grid(self._kind, self._step, float(count), self._form)
        found = parse([last], self._form) if isinstance(last, str) else None
        if found is None or np.isnan(found.values[0]):
            example = Grid(self._kind, self._step, 0.0, self._form).write(0)
            raise InputError(
                say(
                    "last must be a time such as {example}, got {got}",
                    example=example,
                    got=f"{last!r:.40}",
                )
            )
        first = Grid.find(found)
        return Grid(self._kind, self._step, float(found.values[0]), self._form, first.last_day)

    def _checked_known(self, known: Any, least: int) -> Doubles:
        if known is None and not self._known:
            return np.zeros((0, 0))
        array = np.asarray(known, np.float64) if _is_numbers(known) else np.zeros(0)
        columns = len(self._known)
        if array.ndim != 2 or array.shape[1] != columns or len(array) < least:
            raise InputError(
                say(
                    "known must be ({least} or more, {columns}) numbers, one column for each "
                    "of {names}, got {got}",
                    least=least,
                    columns=columns,
                    names=", ".join(self._known) or say("none"),
                    got=np.shape(known),
                )
            )
        return array

    def window(
        self, values: Doubles, grid: Grid, start: int, known: Doubles, mean: float, std: float
    ) -> Window:
        """Return what is read of a series before a forecast from its end.

        Args:
            values: (T,) the values; NaN where one is missing.
            grid: the times of the steps.
            start: the step of the grid of the first value.
            known: (T + future, K) what is known ahead.
            mean: of the series.
            std: of the series.
        """
        first, ahead = len(values) - self.context, self._segments * self._segment
        scaled = np.zeros((self.context + ahead, len(self._known)))
        if self._known:
            scaling = np.array(list(self._known.values()))
            given = known[first : first + len(scaled)]
            scaled[: len(given)] = np.nan_to_num((given - scaling[:, 0]) / scaling[:, 1])
        steps = start + first + np.arange(self.context + ahead)
        return Window(
            forward_filled(values)[first:], calendar(grid, self._cycles, steps), scaled, mean, std
        )

    def forecast(self, windows: Sequence[Window]) -> Doubles:
        """Return the forecasts for windows.

        Returns:
            (N, H, Q) quantiles in order, in the units of the data.
        """
        parts = [
            self._forecast(windows[start : start + _TOGETHER])
            for start in range(0, len(windows), _TOGETHER)
        ]
        mean, std = (np.array([getattr(w, name) for w in windows]) for name in ("mean", "std"))
        found = np.sort(np.concatenate(parts), -1).astype(np.float64)
        return np.asarray(found * std[:, None, None] + mean[:, None, None])

    def _forecast(self, windows: Sequence[Window]) -> Floats:
        """(N, H, Q) quantiles of standardised values."""
        batch, segment, segments = len(windows), self._segment, self._segments
        values = np.stack([(w.past - w.mean) / w.std for w in windows]).astype(np.float32)
        of_segment = self._features(windows)
        past = values - values[:, -1:]
        read = np.concatenate(
            [past.reshape(batch, -1, segment), of_segment[:, : self.context // segment]], 2
        )
        _, state = self._reader.read(np.ascontiguousarray(read.transpose(1, 0, 2)))
        known = of_segment[:, self.context // segment :]
        asked = self._position.run(np.arange(segments)[:, None])[:, 0]
        asked = np.broadcast_to(asked, (batch, *asked.shape))
        if self._ahead is not None:
            asked = asked + self._ahead.run(known)
        session = self._writer.session(batch * segments)
        spread = [part.repeat(segments, axis=1) for part in state.values()]
        session.load_state(dict(zip(session.state(), spread, strict=True)))
        changes = session.step(np.maximum(asked, 0).reshape(batch * segments, -1))
        changes = changes.reshape(batch, segments * segment, -1)[:, : self.horizon]
        guess = values[:, -1:].repeat(self.horizon, 1)
        if 1 < self._base <= self.context:
            at = self.context - self._base + np.arange(self.horizon) % self._base
            guess = values[:, at]
        guess = guess + self._linear.run(past[None])[0]
        if self._effect is not None:
            guess = guess + self._effect.run(known).reshape(batch, -1)[:, : self.horizon]
        return np.asarray(guess[..., None] + changes)

    def _features(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """(N, P + S, F) what is known of each segment."""
        cycles = np.stack([w.calendar[:: self._segment] for w in windows])
        known = np.stack([w.known for w in windows])
        known = known.reshape(*cycles.shape[:2], self._segment * known.shape[-1])
        return np.concatenate([cycles, known], 2).astype(np.float32)


def _is_numbers(values: Any) -> bool:
    try:
        return np.asarray(values).dtype.kind in "fiu"
    except ValueError:  # rows of different lengths
        return False


def features(cycles: int, known: int, segment: int) -> int:
    """Return F: numbers known of a segment, of the calendar at its start and of all its steps."""
    return 2 * _HARMONICS * cycles + known * segment


def calendar(grid: Grid, cycles: Sequence[str], index: NDArray[np.int64]) -> Doubles:
    """Return (T, 2 * harmonics * cycles): sine and cosine of where each step is in each cycle."""
    phases = [2 * np.pi * grid.phase(cycle, index) for cycle in cycles]
    waves = [
        wave(harmonic * phase)
        for phase in phases
        for harmonic in range(1, _HARMONICS + 1)
        for wave in (np.sin, np.cos)
    ]
    return np.stack(waves, axis=1) if waves else np.zeros((len(index), 0))


def forward_filled(values: Doubles) -> Doubles:
    """Return values in which each missing one is the one before it, the first ones the next.

    Example:
        >>> forward_filled(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
        [1.0, 1.0, 1.0, 3.0]
    """
    present = ~np.isnan(values)
    if present.all() or not present.any():
        return values
    last = np.maximum.accumulate(np.where(present, np.arange(len(values)), -1))
    first = int(present.argmax())
    return np.asarray(values[np.where(last < 0, first, last)])


def describe(run: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the model of a run; see `elman.runtime.jobs.describe`."""
    settings, knowledge = run["settings"], run["knowledge"]
    hidden, segment, horizon = settings["hidden"], settings["segment"], knowledge["horizon"]
    levels = sorted({float(level) for level in settings["quantiles"].split(",")})
    known = features(len(knowledge["cycles"]), len(knowledge["known"]), segment)
    layers = recurrent("recurrent", settings, hidden, hidden, settings["layers"], both=False)
    tensors["position.weight"] = tensors.pop("position")
    chains = {
        "reader": [
            linear("embedding", segment + known, hidden),
            function("relu", "relu", hidden),
            layers,
        ],
        "writer": [layers, linear("output", hidden, segment * len(levels))],
        "position": [embedding("position", -(-horizon // segment), hidden)],
        "linear": [linear("linear", settings["context"], horizon)],
    }
    if known:
        chains["ahead"] = [linear("ahead", known, hidden)]
        chains["effect"] = [linear("effect", known, segment, bias=False)]
    return {
        "chains": chains,
        "knowledge": {
            **knowledge,
            **{"context": settings["context"], "segment": segment, "levels": levels},
        },
    }
