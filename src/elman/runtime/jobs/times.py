"""Times as whole numbers: what they were written as, the regular steps between them, the calendar.

A `Grid` counts the steps of a table: of so many seconds, months, working days or plain numbers. The
rest of the job knows indices alone.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say

__all__ = ["FORMS", "KINDS", "Grid", "Times", "parse"]

KINDS = ("number", "months", "workdays", "time")  # of grids

_DAY = 86_400_000_000  # in microseconds
_FORMS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S%z",
    "%Y-%m",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%b %Y",
    "%Y %b",
    "%d %b %Y",
    "%YQ",
)
FORMS = ("", "%Y%m%d", *_FORMS)  # numbers first
_ZERO = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NAMES = {
    1_000_000: "second", 60_000_000: "minute", 3_600_000_000: "hour", _DAY: "day", 7 * _DAY: "week"
}  # fmt: skip


@dataclass(frozen=True)
class Times:
    """A column of times that was understood.

    Args:
        values: microseconds since 1970, or plain numbers, as float64; NaN where the form does not
            fit.
        form: how they are written: a format of strftime, "%YQ" for quarters, "" for numbers.
    """

    values: NDArray[np.float64]
    form: str


def parse(cells: Sequence[str], form: str | None = None) -> Times | None:
    """Understand a column of times.

    Args:
        cells: what stands in it.
        form: how they are written; None finds the first form that fits the most cells.

    Returns:
        The times; None if no form fits half of them.

    Example:
        >>> parse(["1949-01", "1949-02"]).form, parse(["1956.25", "1956.5"]).values.tolist()
        ('%Y-%m', [1956.25, 1956.5])
    """
    best: Times | None = None
    most = len(cells) // 2 if form is None else -1
    # A few cells tell most forms apart.
    probe = cells[:: max(1, len(cells) // 50)]
    is_compact = all(re.fullmatch(r"(19|20)\d{6}", cell.strip()) for cell in probe)
    forms = ("%Y%m%d", "", *_FORMS) if is_compact else ("", *_FORMS)
    for tried in forms if form is None else (form,):
        if form is None and sum(not math.isnan(_read(cell, tried)) for cell in probe) * 2 < len(
            probe
        ):
            continue
        values = np.array([_read(cell, tried) for cell in cells], dtype=np.float64)
        fitting = len(values) - int(np.isnan(values).sum())
        if fitting > most:
            best, most = Times(values, tried), fitting
        if fitting == len(cells):
            break
    return best


def _read(cell: str, form: str) -> float:
    cell = cell.strip()
    try:
        if form == "":
            value = float(cell)
            return value if math.isfinite(value) else math.nan
        if form == "%YQ":
            found = re.fullmatch(r"(\d{4})[- ]?Q([1-4])", cell)
            return _micros(datetime(int(found[1]), 3 * int(found[2]) - 2, 1)) if found else math.nan
        return _micros(datetime.strptime(cell, form))
    except ValueError:
        return math.nan


def _micros(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return float((moment - _ZERO) // timedelta(microseconds=1))


@dataclass(frozen=True)
class Grid:
    """Regular steps of time.

    Args:
        kind: what a step is counted in: "time" (microseconds), "months", "workdays" or "number".
        step: how many of these a step is.
        start: the time of index 0, as in `Times`.
        form: how times are written, as in `Times`.
        last_day: for months, whether times are the last days of theirs.

    Example:
        >>> grid = Grid.find(parse(["2024-01-31", "2024-02-29", "2024-04-30"]))
        >>> grid.name, grid.write(2)
        ('1 month', '2024-03-31')
    """

    kind: str
    step: float
    start: float
    form: str
    last_day: bool = False

    @staticmethod
    def find(times: Times) -> "Grid":
        """Return the steps of some times, in any order; the commonest difference is one step."""
        values = np.unique(times.values[~np.isnan(times.values)])
        start = float(values[0])
        if len(values) == 1:
            return Grid(
                "number" if times.form == "" else "time",
                1.0 if times.form == "" else _DAY,
                start,
                times.form,
            )
        gaps = np.diff(values)
        if times.form == "":
            least = float(np.min(gaps))
            whole = round(1 / least) if least < 1 else 0
            step = 1 / whole if whole and abs(whole * least - 1) < 0.01 * whole else least
            return Grid("number", step, start, "")
        months, days, ends = _months(values)
        if len(values) > 1 and gaps.min() >= 28 * _DAY and (np.all(days == 1) or np.all(ends)):
            step = float(np.gcd.reduce(np.diff(months)))
            return Grid("months", step, start, times.form, bool(np.all(ends)) and days.max() > 1)
        sizes, counts = np.unique(gaps, return_counts=True)
        common = float(sizes[counts.argmax()])
        weekday = (values // _DAY + 3) % 7
        if common == _DAY and not np.any(weekday >= 5) and np.any(gaps >= 3 * _DAY):
            return Grid("workdays", 1.0, start, times.form)
        return Grid("time", common, start, times.form)

    @property
    def name(self) -> str:
        """A step in words."""
        if self.kind == "time":
            unit = max((size for size in _NAMES if self.step % size == 0), default=0)
            if not unit:
                return f"{self.step / 1e6:g} seconds"
            word, count = _NAMES[unit], self.step / unit
        else:
            word = {"months": "month", "workdays": "working day", "number": ""}[self.kind]
            count = self.step
        return f"{count:g} {word}{'s' if count != 1 and word else ''}".strip()

    def index(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return at which step each time is; not a whole number where it is between two."""
        if self.kind == "months":
            months, days, ends = _months(values)
            first = _months(np.array([self.start]))[0][0]
            count = (months - first) / self.step
            fits = ends if self.last_day else days == 1
            fits = fits & (values % _DAY == 0)
            return np.asarray(np.where(fits, count, count + 0.5), dtype=np.float64)
        if self.kind == "workdays":
            days = (values // _DAY).astype("datetime64[D]")
            count = np.busday_count(np.datetime64(int(self.start // _DAY), "D"), days)
            fits = np.is_busday(days) & (values % _DAY == self.start % _DAY)
            return np.where(fits, count, count + 0.5).astype(np.float64)
        count = (values - self.start) / self.step
        return np.where(np.abs(count - np.rint(count)) < 0.01, np.rint(count), count)

    def times(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the time of each step."""
        if self.kind == "months":
            first = _months(np.array([self.start]))[0][0]
            months = (first + index * int(self.step)).astype(np.int64)
            ahead = (months + 1 if self.last_day else months).astype("datetime64[M]")
            days = ahead.astype("datetime64[D]").astype(np.int64) - int(self.last_day)
            return np.asarray(days * float(_DAY))
        if self.kind == "workdays":
            first_day = np.datetime64(int(self.start // _DAY), "D")
            days = np.busday_offset(first_day, index, roll="forward").astype(np.int64)
            return days.astype(np.float64) * _DAY + self.start % _DAY
        return np.asarray(self.start + index * self.step, dtype=np.float64)

    def write(self, index: int) -> str:
        """Write the time of a step as the times of the table are written.

        Raises:
            InputError: it is out of the range of dates.
        """
        value = float(self.times(np.array([index]))[0])
        if self.form == "":
            return f"{round(value, 6):.12g}"
        try:
            moment = _ZERO + timedelta(microseconds=round(value))
            if self.form == "%YQ":
                return f"{moment.year} Q{(moment.month + 2) // 3}"
            return moment.strftime(self.form)
        except (OverflowError, ValueError) as error:
            raise InputError(
                say(
                    "step {index} is after all dates, or before them: {error}",
                    index=index,
                    error=error,
                )
            ) from error

    def moments(self, index: NDArray[np.int64]) -> list[float | datetime]:
        """Return the times of steps for the axis of a plot."""
        values: list[float] = self.times(index).tolist()
        if self.form == "":
            return list(values)
        return [(_ZERO + timedelta(microseconds=v)).replace(tzinfo=None) for v in values]

    @property
    def seasons(self) -> tuple[int, ...]:
        """The numbers of steps in the cycles of the calendar."""
        if self.kind == "months":
            cycles = [12 / self.step]
        elif self.kind == "workdays":
            cycles = [5, 261]
        elif self.kind == "time":
            cycles = [_DAY / self.step, 7 * _DAY / self.step]
            cycles.append(round(365.25 * _DAY / self.step) if self.step >= _DAY else 0)
        else:
            cycles = [1 / self.step if self.step < 1 else 0]
        return tuple(round(c) for c in cycles if c >= 2 and abs(c - round(c)) < 0.01)

    @property
    def cycles(self) -> dict[str, float]:
        """The cycles of the calendar that steps are finer than, with their lengths in steps."""
        if self.kind == "months":
            found = {"year": 12 / self.step}
        elif self.kind == "workdays":
            found = {"week": 5.0, "year": 261.0}
        elif self.kind == "time":
            lengths = {"hour": 1 / 24, "day": 1.0, "week": 7.0, "year": 365.25}
            found = {name: length * _DAY / self.step for name, length in lengths.items()}
        else:
            found = {"one": 1 / self.step}
        return {name: length for name, length in found.items() if length >= 2}

    def phase(self, cycle: str, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return where in a cycle of the calendar each step is, from 0 to 1."""
        values = self.times(index)
        if cycle == "one":
            return values % 1
        if cycle == "year":
            days = (values // _DAY).astype(np.int64).astype("datetime64[D]")
            begin = days.astype("datetime64[Y]")
            length = (begin + 1).astype("datetime64[D]") - begin.astype("datetime64[D]")
            into = (days - begin.astype("datetime64[D]")).astype(np.float64)
            return np.asarray((into + values % _DAY / _DAY) / length.astype(np.float64))
        length = {"hour": _DAY / 24, "day": _DAY, "week": 7 * _DAY}[cycle]
        return (values + 3 * _DAY) % length / length


def _months(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the months since 1970, the days in them from 1, and whether these are the last."""
    days = (values // _DAY).astype(np.int64).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    is_last = (days + 1).astype("datetime64[M]") != months
    return months.astype(np.int64), day, is_last
