"""What `elman predict` reads and writes with a model of series."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from elman.runtime import Series
from elman.runtime.jobs.series import Window
from elman.tasks import InputError
from elman.tasks.series import data as reading
from elman.tasks.series.data import Panel
from elman.tasks.series.measures import Forecasts
from elman.tasks.series.settings import SeriesPrediction

__all__ = ["GOES_ON", "lacks_known", "lines", "window_before"]

GOES_ON = True  # from the table of the run, if no other is given


def lines(model: Series, given: str | None, options: SeriesPrediction) -> Iterator[str]:
    """Forecast on from the end of each series, as CSV.

    Args:
        model: the model.
        given: a table with the columns of the one that was learnt from.
        options: how many steps, and what is drawn.

    Raises:
        InputError: the table cannot be used.
    """
    horizon = model.check_horizon(options.horizon)
    plot = Path(options.plot) if options.plot is not None else None
    if plot is not None and plot.exists():
        raise InputError(f"{plot} exists: name a new file, it is not written over")
    if given is None:
        columns = model.knowledge["columns"]
        names = ", ".join(filter(None, [columns["time"], columns["group"], *columns["target"]]))
        raise InputError(f"say what to forecast from: a table with the columns {names}")
    panel = reading.read_again(given, model.knowledge)
    if lacking := lacks_known(panel, horizon):
        raise InputError(lacking)
    for one in panel.series:
        if len(one.values) < model.context:
            raise InputError(
                f"{one.name} has {len(one.values)} steps, and the model reads {model.context}"
                " before a forecast: give more of the past"
            )
    windows = [window_before(model, panel, one, len(one.values)) for one in panel.series]
    found = model.forecast(windows)
    if plot is not None:
        from elman.tasks.series import drawings

        none, ones = np.full(found.shape[:2], np.nan), np.ones(len(found))
        forecasts = Forecasts(none, found, model.levels, ones, ones)
        drawings.forecast(panel, range(len(found)), forecasts, plot, horizon)
    is_alone = len(model.levels) == 1
    yield _line(["time", "series", *(["forecast"] if is_alone else map(str, model.levels))])
    for one, quantiles in zip(panel.series, found, strict=True):
        for step in range(horizon):
            time = panel.grid.write(one.start + len(one.values) + step)
            yield _line([time, one.name, *(f"{value:.6g}" for value in quantiles[step])])


def window_before(model: Series, panel: Panel, one: reading.Series, origin: int) -> Window:
    """Return what the model reads of a series before a forecast that starts at a step."""
    return model.window(
        one.values[:origin], panel.grid, one.start, one.known, one.scale.mean, one.scale.std
    )


def lacks_known(panel: Panel, horizon: int | None = None) -> str | None:
    """Say what is not known of the future though the model needs it; None if nothing is."""
    if not panel.known:
        return None
    horizon = horizon or panel.horizon
    for one in panel.series:
        ahead = len(one.known) - len(one.values)
        if ahead < horizon:
            last = panel.grid.write(one.start + len(one.values) - 1)
            return (
                f"{one.name}: {', '.join(panel.known)} must be known for {horizon} steps after"
                f" {last}, got {max(0, ahead)}: add rows with the target left empty"
            )
    return None


def _line(cells: Sequence[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return written.getvalue()
