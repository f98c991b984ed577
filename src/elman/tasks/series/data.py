"""From a table to series on one grid of times: which columns, steps, gaps and season it has.

    Table -> columns -> Grid -> Series, each with its parts for training, validation and test

A wide table gives a series for each target, a long one a series for each group (and target). Gaps
and missing values are NaN here; whatever is done to the data is said in `Panel.notes`.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.runtime.jobs.series import forward_filled
from elman.runtime.jobs.times import Grid, parse
from elman.tasks import InputError
from elman.tasks.series.settings import SeriesSource
from elman.tasks.series.table import Table

__all__ = ["Panel", "Scale", "Series", "read", "read_again"]

Floats = NDArray[np.float64]

_HORIZONS = {"hour": 24, "day": 14, "week": 8, "month": 12, "minute": 60, "workdays": 10}
_SHARES = (0.8, 0.1, 0.1)
_SHORT = 10_000  # steps to learn from; on fewer, forecasts start from the seasonal naive one
_SEASONAL = 0.9  # a season must make errors smaller than this share of those without
_TIME_NAMES = ("time", "date", "datetime", "timestamp", "ds", "month", "year", "day", "week")


@dataclass(frozen=True)
class Scale:
    """What is known of the training part of a series.

    Args:
        mean: of its values.
        std: their standard deviation, over all of them.
        mase: the mean error there of the seasonal naive forecast of one step; the unit of MASE.
    """

    mean: float
    std: float
    mase: float


@dataclass(frozen=True)
class Series:
    """One series.

    Args:
        name: its target, its group, or both as group/target.
        start: the step of the grid at which it starts.
        values: (T,) its values; NaN where they are missing.
        known: (T + future, K) what is known ahead.
        validation: the step, from its own start, at which its validation part starts.
        test: the step at which its test part starts.
        scale: of its training part.
    """

    name: str
    start: int
    values: Floats
    known: Floats
    validation: int
    test: int
    scale: Scale

    @property
    def filled(self) -> Floats:
        """The values, each missing one as the one before it."""
        return forward_filled(self.values)


@dataclass(frozen=True)
class Panel:
    """All series of a table.

    Args:
        series: in the order of the table.
        grid: the times of the steps.
        horizon: steps that are forecast.
        season: steps in a season, 1 for none.
        base: how many steps back the guess lies that the model's forecasts start from: the season
            where there is little data, else 1 for the last value; each was best there.
        cycles: the cycles of the calendar that the training part shows at least twice.
        known: the columns known ahead, each with the mean and the deviation it is scaled by.
        columns: the names of the columns: time, target, group.
        is_judged_whole: whether the series are held out from their start to their end.
        notes: what was understood and done, a sentence each.
        digest: SHA-256 of the file, in hexadecimal.
    """

    series: tuple[Series, ...]
    grid: Grid
    horizon: int
    season: int
    base: int
    cycles: tuple[str, ...]
    known: dict[str, tuple[float, float]]
    columns: dict[str, Any]
    is_judged_whole: bool = False
    notes: tuple[str, ...] = ()
    digest: str = ""

    @property
    def knowledge(self) -> dict[str, Any]:
        """What a model must know to be used without the data, as a value for JSON."""
        return {
            "columns": self.columns,
            "grid": {"kind": self.grid.kind, "step": self.grid.step, "form": self.grid.form},
            "horizon": self.horizon,
            "season": self.season,
            "base": self.base,
            "cycles": list(self.cycles),
            "known": {name: list(scale) for name, scale in self.known.items()},
            "scales": {
                one.name: [one.scale.mean, one.scale.std, one.scale.mase] for one in self.series
            },
        }


@dataclass
class _Reading:
    """A table whose columns are understood, before its series are cut."""

    table: Table
    time: str | None
    targets: list[str]
    group: str | None
    known: list[str]
    grid: Grid
    index: NDArray[np.int64]  # of each row
    notes: list[str] = field(default_factory=list)


def read(source: SeriesSource, knowledge: Mapping[str, Any] | None = None) -> Panel:
    """Read a table to train on.

    Args:
        source: the file and what is known of it.
        knowledge: that of a model that is trained further; see `Panel.knowledge`.

    Raises:
        InputError: the table cannot be used; the message names file, row and column.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "sales.csv"
        >>> rows = [f"2024-{1 + i // 28:02}-{1 + i % 28:02},{i % 7}" for i in range(28)]
        >>> _ = path.write_text("\\n".join(["day,sold", *rows]))
        >>> panel = read(SeriesSource(files=(str(path),), horizon=2))
        >>> panel.season, panel.grid.name, [one.name for one in panel.series]
        (7, '1 day', ['sold'])
    """
    if len(source.files) != 1:
        raise InputError(
            f"series learns from one table, got {len(source.files)} files: put them into one, with"
            " --group for a column that tells its series apart"
        )
    given = _given(source, knowledge)
    reading = _understand(Table.read(source.files[0]), given)
    horizon = source.horizon or _horizon(reading.grid)
    if knowledge is not None and horizon != knowledge["horizon"]:
        raise InputError(
            f"the model forecasts {knowledge['horizon']} steps, got horizon {horizon}: leave it out"
        )
    raw = _cut(reading)
    parts = [_split(one, source, horizon, reading) for one in raw]
    for one, (validation, _) in zip(raw, parts, strict=True):
        _check_training(one, validation, horizon, reading)
    training = [one.values[:v] for one, (v, _) in zip(raw, parts, strict=True)]
    season = source.season
    if knowledge is not None:
        season, cycles = knowledge["season"], tuple(knowledge["cycles"])
    else:
        longest = max(map(len, training))
        cycles = tuple(n for n, length in reading.grid.cycles.items() if 2 * length <= longest)
        if season is None:
            season = _find_season(training, reading)
        else:
            reading.notes.append(f"season: {season} steps, as given")
    known = {} if knowledge is None else knowledge["known"]
    stacked = [one.known[:v] for one, (v, _) in zip(raw, parts, strict=True)]
    for position, name in enumerate(reading.known):
        column = np.concatenate([part[:, position] for part in stacked])
        if name not in known:
            known[name] = (float(np.nanmean(column)), float(np.nanstd(column)) or 1.0)
    assert season is not None
    base = season if sum(map(len, training)) < _SHORT else 1
    if knowledge is not None:
        base = knowledge["base"]
    series = []
    for one, (validation, test) in zip(raw, parts, strict=True):
        scale = _scale(one.values[:validation], season)
        series.append(Series(one.name, one.start, one.values, one.known, validation, test, scale))
    reading.notes.append(_tell_split(source, series, reading.grid))
    panel = Panel(
        tuple(series),
        reading.grid,
        horizon,
        season,
        base,
        cycles,
        {name: (float(a), float(b)) for name, (a, b) in known.items()},
        {"time": reading.time, "target": reading.targets, "group": reading.group},
        notes=tuple(reading.notes),
        digest=hashlib.sha256(reading.table.content).hexdigest(),
    )
    return panel


def read_again(file: str, knowledge: Mapping[str, Any]) -> Panel:
    """Read a table for a model that is trained already, all of it held out.

    Args:
        file: the table; it has the columns that the model was trained on.
        knowledge: that of the model; see `Panel.knowledge`.

    Raises:
        InputError: the table cannot be used with the model.
    """
    source = SeriesSource(files=(file,))
    reading = _understand(Table.read(file), _given(source, knowledge))
    series = []
    for one in _cut(reading):
        if one.name in knowledge["scales"]:
            scale = Scale(*knowledge["scales"][one.name])
        else:
            scale = _scale(one.values, knowledge["season"])
        length = len(one.values)
        series.append(Series(one.name, one.start, one.values, one.known, 0, length, scale))
    return Panel(
        tuple(series),
        reading.grid,
        knowledge["horizon"],
        knowledge["season"],
        knowledge["base"],
        tuple(knowledge["cycles"]),
        {name: (a, b) for name, (a, b) in knowledge["known"].items()},
        dict(knowledge["columns"]),
        is_judged_whole=True,
        notes=tuple(reading.notes),
        digest=hashlib.sha256(reading.table.content).hexdigest(),
    )


# --- which columns -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """What the user, or the model that is used, says of the columns; None or empty: find them."""

    time: str | None
    target: tuple[str, ...]
    group: str | None
    known: tuple[str, ...]
    grid: Mapping[str, Any] | None = None


def _given(source: SeriesSource, knowledge: Mapping[str, Any] | None) -> _Given:
    if knowledge is None:
        return _Given(source.time, source.target, source.group, source.known)
    columns = knowledge["columns"]
    return _Given(
        source.time or columns["time"],
        tuple(source.target or columns["target"]),
        source.group or columns["group"],
        tuple(knowledge["known"]),
        knowledge["grid"],
    )


def _understand(table: Table, given: _Given) -> _Reading:
    """Find the columns, the grid and the step of each row."""
    for name in (given.time, given.group, *given.target, *given.known):
        if name is not None:
            table.need(name)
    notes: list[str] = []
    time = given.time or (None if given.grid is not None else _find_time(table, given))
    others = [n for n in table.columns if n not in (time, given.group, *given.known)]
    group = given.group
    if group is None and given.grid is None and time is not None:
        words = [n for n in others if not table.is_numeric(n) and n not in given.target]
        cells = table.columns[time]
        if len(words) == 1 and len(set(cells)) < len(cells):
            pairs = set(zip(cells, table.columns[words[0]], strict=True))
            if len(pairs) == len(cells):
                group = words[0]
                notes.append(f"column {group} tells series apart, since times repeat")
    targets = list(given.target) or [n for n in others if n != group and table.is_numeric(n)]
    if not targets:
        seen = f": {others[0]} has {_first(table.columns[others[0]])!r}" if others else ""
        raise InputError(f"{table.name} has no column of numbers to forecast{seen}")
    if twice := {n for n in targets if n in (time, group) or n in given.known}:
        raise InputError(
            f"column {min(twice)} cannot be a target and the time, group or known as well"
        )
    unused = [n for n in others if n not in targets and n != group]
    if unused and not given.target:
        notes.append(f"not numbers, and not used: {', '.join(unused)}")
    values, grid = _times(table, time, given)
    exact = grid.index(values)
    index = np.rint(exact).astype(np.int64)
    _check_times(table, time, group, exact, values, grid)
    reading = _Reading(table, time, targets, group, list(given.known), grid, index, notes)
    where = f"time: column {time}" if time is not None else "no column of times: rows are steps"
    steps = f", a step is {grid.name}" if time is not None else ""
    reading.notes.insert(
        0,
        f"{table.name}: {len(table):,} rows; {where}{steps};"
        f" target{'s' if len(targets) > 1 else ''}: {_listed(targets)}"
        + (f"; groups: column {group}" if group else ""),
    )
    return reading


def _first(cells: Sequence[str]) -> str:
    return next((cell for cell in cells if cell), "")[:40]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _find_time(table: Table, given: _Given) -> str | None:
    """Return the column of the time: dates, or numbers by the name of a time."""
    free = [n for n in table.columns if n not in (given.group, *given.target, *given.known)]
    for name in sorted(free, key=lambda n: n.lower() not in _TIME_NAMES):
        cells = table.columns[name]
        found = parse(cells[:50])
        if found is None or np.isnan(found.values).mean() > 0.2:
            continue
        if found.form or name.lower() in _TIME_NAMES:
            return name
    return None


def _times(table: Table, time: str | None, given: _Given) -> tuple[Floats, Grid]:
    """Return the time of each row, and their grid."""
    if time is None:
        values = np.arange(1, len(table) + 1, dtype=np.float64)
        return values, Grid("number", 1.0, 1.0, "")
    cells = table.columns[time]
    found = parse(cells)
    if found is None:
        raise InputError(
            f"{table.place(0, time)}: {cells[0][:40]!r} is not a time that is understood; write"
            " times such as 2024-01-31 or 2024-01-31 23:59:00"
        )
    wrong = np.flatnonzero(np.isnan(found.values))
    if len(wrong):
        row = int(wrong[0])
        other = 0 if row else int(np.flatnonzero(~np.isnan(found.values))[0])
        raise InputError(
            f"{table.place(row, time)}: {cells[row][:40]!r} is not a time as"
            f" {cells[other]!r} is; correct it, or take the row out"
        )
    grid = Grid.find(found)
    if given.grid is not None:
        is_same = grid.kind == given.grid["kind"] and math.isclose(grid.step, given.grid["step"])
        known = Grid(given.grid["kind"], given.grid["step"], grid.start, grid.form, grid.last_day)
        if not is_same and len(cells) > 2:
            raise InputError(
                f"{table.name}: a step of its column {time} is {grid.name}, the model was trained"
                f" with steps of {known.name}"
            )
        grid = known
    return found.values, grid


def _check_times(
    table: Table,
    time: str | None,
    group: str | None,
    exact: Floats,
    values: Floats,
    grid: Grid,
) -> None:
    """Refuse times that repeat, go back, or are between two steps."""
    if time is None:
        return
    cells = table.columns[time]
    names = table.columns[group] if group is not None else [""] * len(cells)
    before: dict[str, int] = {}
    for row, name in enumerate(names):
        last = before.get(name)
        of = f" of {name}" if name else ""
        if last is not None and values[row] == values[last]:
            hint = (
                "take one of the two rows out"
                if group is not None
                else "take one of the two rows out, or name the column that tells series apart with"
                " --group"
            )
            raise InputError(
                f"{table.place(row, time)}: {cells[row]}{of} is there twice, first in row"
                f" {table.rows[last]}; {hint}"
            )
        if last is not None and values[row] < values[last]:
            raise InputError(
                f"{table.place(row, time)}: {cells[row]}{of} comes after {cells[last]}; sort the"
                " rows by time"
                + (
                    ""
                    if group is not None
                    else ", or name the column that tells series apart with --group"
                )
            )
        before[name] = row
    between = np.flatnonzero(exact != np.rint(exact))
    if len(between):
        row = int(between[0])
        raise InputError(
            f"{table.place(row, time)}: {cells[row]} is between two steps, where a step is"
            f" {grid.name}; bring the times to regular steps first"
        )


# --- which series --------------------------------------------------------------------------------


def _cut(reading: _Reading) -> list[Series]:
    """Return each series by itself, NaN in the gaps; what is after the last value is the future."""
    table = reading.table
    columns = [table.numbers(name) for name in reading.targets]
    known = [table.numbers(name) for name in reading.known]
    if reading.group is None:
        groups = {"": np.arange(len(table))}
    else:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(table.columns[reading.group]):
            if not name:
                raise InputError(
                    f"{table.place(row, reading.group)}: the cell is empty; name the series there"
                )
            rows.setdefault(name, []).append(row)
        groups = {name: np.array(found) for name, found in rows.items()}
    made, gaps, missing, filled_known = [], 0, 0, 0
    for name, chosen in groups.items():
        index = reading.index[chosen]
        start, length = int(index[0]), int(index[-1] - index[0]) + 1
        if length > 50 * len(index) + 1000:
            raise InputError(
                f"{table.place(int(chosen[0]), reading.time or '')}: of {length:,} steps of"
                f" {reading.grid.name} only {len(index):,} have a row; a time is wrong, or steps"
                " are irregular"
            )
        gaps += length - len(index)
        ahead = np.full((length, len(known)), np.nan)
        for position, column in enumerate(known):
            ahead[index - start, position] = column[chosen]
            filled_known += int(np.isnan(ahead[:, position]).sum())
            ahead[:, position] = forward_filled(ahead[:, position])
        every = np.full((length, len(columns)), np.nan)
        for position, column in enumerate(columns):
            every[index - start, position] = column[chosen]
        present = np.flatnonzero(~np.isnan(every).all(axis=1))
        end = int(present[-1]) + 1 if len(present) else length
        for position, target in enumerate(reading.targets):
            label = "/".join(part for part in (name, target if len(columns) > 1 else "") if part)
            values = every[:end, position]
            if np.isnan(values).all():
                raise InputError(
                    f"{table.place(int(chosen[0]), target)}: there is no value"
                    f"{' of ' + name if name else ''}; leave the series out"
                )
            # A series starts with its first value.
            first = int((~np.isnan(values)).argmax())
            missing += int(np.isnan(values[first:]).sum())
            made.append(
                Series(
                    label or target,
                    start + first,
                    values[first:],
                    ahead[first:],
                    0,
                    0,
                    Scale(0.0, 1.0, 1.0),
                )
            )
    if gaps:
        reading.notes.append(f"{gaps:,} steps have no row: they count as missing")
    if missing:
        reading.notes.append(
            f"{missing:,} values are missing: read as the last value before them, and never judged"
        )
    if filled_known:
        reading.notes.append(f"{filled_known:,} cells known ahead are missing: as the one before")
    if len(made) > 1:
        reading.notes.append(
            f"{len(made)} series of {min(len(one.values) for one in made):,} to"
            f" {max(len(one.values) for one in made):,} steps, one model for all"
        )
    return made


def _horizon(grid: Grid) -> int:
    word = grid.name.split()[-1].rstrip("s") if grid.kind != "workdays" else "workdays"
    return _HORIZONS.get(word, 12)


def _split(one: Series, source: SeriesSource, horizon: int, reading: _Reading) -> tuple[int, int]:
    """Return where validation and test of a series start."""
    length = len(one.values)
    if source.valid is not None:
        return length, length
    if source.times:
        found = parse(source.times, None)
        wanted = parse(source.times, reading.grid.form) if found is not None else None
        if wanted is None or np.isnan(wanted.values).any():
            # A date will do where times have hours.
            wanted = found
        if (
            wanted is None
            or np.isnan(wanted.values).any()
            or bool(wanted.form) != bool(reading.grid.form)
        ):
            raise InputError(
                f"split must have times as the column {reading.time} has, such as"
                f" {reading.grid.write(one.start)}, got {source.split}"
            )
        bounds = np.ceil(reading.grid.index(wanted.values)).astype(int) - one.start
        validation, test = (int(min(length, max(0, bound))) for bound in bounds)
    else:
        shares = source.shares or _SHARES
        least = 0 if source.shares else horizon
        test = length - max(least, round(shares[2] * length))
        validation = test - max(least, round(shares[1] * length))
    if not source.shares and not source.times and validation < horizon + 2:
        raise InputError(
            f"{reading.table.name}: {one.name} has {length:,} steps, and a horizon of {horizon}"
            f" needs {3 * horizon + 2:,}: to learn from, to choose the best weights, and for the"
            " test; lower --horizon, or give more data"
        )
    if length - test < horizon or test - validation < horizon:
        raise InputError(
            f"{reading.table.name}: {one.name} has {length:,} steps,"
            f" {max(0, test - validation):,} of them for validation and {max(0, length - test):,}"
            f" for the test, and a horizon of {horizon} needs as many in each; lower --horizon, or"
            " choose another --split"
        )
    return validation, test


def _check_training(one: Series, validation: int, horizon: int, reading: _Reading) -> None:
    """Refuse a series from whose training part nothing can be learnt."""
    table = reading.table
    values = one.values[:validation]
    if validation < horizon + 2:
        raise InputError(
            f"{table.name}: {one.name} has {validation:,} steps to learn from, and a horizon of"
            f" {horizon} needs at least {horizon + 2}; lower --horizon, or give more data"
        )
    present = values[~np.isnan(values)]
    if len(present) < 2 or np.ptp(present) == 0:
        raise InputError(
            f"{table.name}, column {one.name}: it is constant"
            f"{f' ({present[0]:g})' if len(present) else ''} in the part to learn from, and there"
            " is nothing to learn; leave it out with --target"
        )


def _scale(values: Floats, season: int) -> Scale:
    present = values[~np.isnan(values)]
    std = float(present.std())
    mase = math.nan
    for lag in (season, 1):
        if lag < len(values):
            changes = np.abs(values[lag:] - values[:-lag])
            changes = changes[~np.isnan(changes)]
            mase = float(changes.mean()) if len(changes) else math.nan
            if mase > 1e-9 * std:
                break
    return Scale(float(present.mean()), std or 1.0, mase if mase > 0 else 1.0)


def _find_season(training: Sequence[Floats], reading: _Reading) -> int:
    """Return the season with which the value a season ago is the best guess, 1 if none is good."""
    candidates = dict.fromkeys(reading.grid.seasons)
    if not candidates and (guess := _periodic(max(training, key=len))):
        candidates[guess] = None
    best, least = 1, _SEASONAL
    for season in sorted(candidates):
        ratios = [_gain(values, season) for values in training if len(values) >= 2 * season + 2]
        if not ratios:
            continue
        ratio = float(np.mean(ratios))
        if ratio < least - (0.02 if best > 1 else 0):
            best, least = season, ratio
    if best > 1:
        reading.notes.append(
            f"season: {best} steps; the value a season ago is nearer by {1 - least:.0%} than others"
        )
    else:
        reading.notes.append("season: none found")
    return best


def _gain(values: Floats, season: int) -> float:
    """Return the error of the value a season ago, over the mean error of all values since then."""
    lags = range(1, season + 1) if season <= 64 else np.linspace(1, season, 64).astype(int)
    errors = [float(np.nanmean(np.abs(values[lag:] - values[:-lag]))) for lag in lags]
    return errors[-1] / max(1e-12, float(np.mean(errors)))


def _periodic(values: Floats) -> int | None:
    """Return the first high peak of the autocorrelation of a series, where there is no calendar."""
    filled = forward_filled(values)
    filled = filled - filled.mean()
    size = 2 ** math.ceil(math.log2(2 * len(filled)))
    spectrum = np.fft.rfft(filled, size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, size)[: len(filled) // 3]
    correlation = correlation / correlation[0]
    peaks = [
        lag
        for lag in range(2, len(correlation) - 1)
        if correlation[lag - 1] < correlation[lag] >= correlation[lag + 1]
    ]
    highest = max((correlation[lag] for lag in peaks), default=0.0)
    return next((lag for lag in peaks if correlation[lag] > max(0.3, 0.9 * highest)), None)


def _tell_split(source: SeriesSource, series: Sequence[Series], grid: Grid) -> str:
    if source.valid is not None:
        return f"held out: {source.valid}, for validation and test alike"
    one = max(series, key=lambda one: len(one.values))
    first, second = grid.write(one.start + one.validation), grid.write(one.start + one.test)
    return (
        f"{one.validation:,} steps to learn from; held out: {one.test - one.validation:,} from"
        f" {first} to choose the best weights, {len(one.values) - one.test:,} from {second} for the"
        " test"
    )
