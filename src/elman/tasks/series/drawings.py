"""Pictures of forecasts: beside what came, by the step ahead, and from the end of the data on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.tasks.plot import new_figure, save_figure
from elman.tasks.series.data import Panel
from elman.tasks.series.measures import Forecasts, per_step

if TYPE_CHECKING:
    from torch import Tensor

    from elman.tasks.series.windows import Windows

__all__ = ["backtest", "errors", "forecast"]

_SERIES = 4  # drawn, at most


def backtest(windows: "Windows", origins: "Tensor", found: Forecasts, path: Path) -> Path:
    """Draw forecasts of the test one after the other, each from the end of the one before."""
    horizon = windows.panel.horizon
    of = windows.of(origins)
    shown = [int(i) for i in dict.fromkeys(of.tolist())][:_SERIES]
    figure = new_figure(9, 0.6 + 2.4 * len(shown))
    for axes, position in zip(_axes(figure, len(shown)), shown, strict=True):
        one = windows.panel.series[position]
        rows = np.flatnonzero(of == position)
        steps = origins.numpy()[rows] - windows.offsets[position]
        first, end = int(steps[0]), int(steps[-1]) + horizon
        # At most ten horizons, or the lines are too close to be told apart.
        begin = max(first, end - 10 * horizon)
        index = one.start + np.arange(begin, end)
        _history(axes, windows.panel, index, one.values[begin:end], one.name)
        ends = range(end - horizon, begin - 1, -horizon)
        for row in (rows[steps == step] for step in ends):
            if len(row):
                start = int(origins[row[0]]) - int(windows.offsets[position])
                _fan(axes, windows.panel, one.start + start, found, int(row[0]), horizon)
        axes.legend(loc="upper left", fontsize="small")
    figure.suptitle("Forecasts of the test, beside what came")
    save_figure(figure, path)
    return path


def forecast(
    panel: Panel, of: Sequence[int], found: Forecasts, path: Path, horizon: int | None = None
) -> Path:
    """Draw the forecast from the end of series on, after the last of what came.

    Args:
        panel: the series.
        of: which of them each forecast is of.
        found: the forecasts.
        path: where the picture goes.
        horizon: steps to draw; all if None.
    """
    horizon = horizon or panel.horizon
    shown = list(range(min(_SERIES, len(of))))
    figure = new_figure(9, 0.6 + 2.4 * len(shown))
    for axes, row in zip(_axes(figure, len(shown)), shown, strict=True):
        one = panel.series[of[row]]
        length = len(one.values)
        begin = max(0, length - 4 * horizon)
        index = one.start + np.arange(begin, length)
        _history(axes, panel, index, one.values[begin:], one.name)
        _fan(axes, panel, one.start + length, found, row, horizon)
        axes.legend(loc="upper left", fontsize="small")
    figure.suptitle("Forecast")
    save_figure(figure, path)
    return path


def errors(found: Forecasts, path: Path) -> Path:
    """Draw the error by the step ahead."""
    steps = per_step(found)
    figure = new_figure(9, 3)
    axes = figure.subplots()
    axes.plot(range(1, len(steps) + 1), [step["mase"] for step in steps])
    axes.set(xlabel="steps ahead", ylabel="MASE", ylim=(0, None))
    axes.set_title("Error of the test by the step ahead")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
    return path


def _axes(figure: Any, count: int) -> list[Any]:
    return list(np.atleast_1d(figure.subplots(count, 1)))


def _history(axes: Any, panel: Panel, index: Any, values: Any, name: str) -> None:
    axes.plot(panel.grid.moments(index), values, color="0.35", linewidth=1, label=name)
    axes.grid(alpha=0.3)
    if panel.grid.form:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        form = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(form)


def _fan(axes: Any, panel: Panel, start: int, found: Forecasts, row: int, horizon: int) -> None:
    """Draw one forecast: its middle as a line, the quantiles around as bands."""
    times = panel.grid.moments(start + np.arange(horizon))
    quantiles, count = found.quantiles[row, :horizon], len(found.levels)
    is_first = not any(line.get_label() == "forecast" for line in axes.lines)
    for low in range(count // 2):
        axes.fill_between(
            times,
            quantiles[:, low],
            quantiles[:, count - 1 - low],
            color="tab:blue",
            alpha=0.2,
            linewidth=0,
        )
    axes.plot(
        times,
        found.point[row, :horizon],
        color="tab:blue",
        linewidth=1.2,
        label="forecast" if is_first else None,
    )
