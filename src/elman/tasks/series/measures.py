"""How good forecasts are: errors in the units of the data, scaled errors, and intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forecasts", "measure", "per_step", "pinball"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of windows, beside what came. N windows, H steps, Q quantiles.

    Args:
        actual: (N, H) what came, in the units of the data; NaN where it is missing.
        quantiles: (N, H, Q) what was forecast; Q = 1 for a forecast without an interval.
        levels: the Q quantiles, as numbers between 0 and 1; 0.5 is among them.
        std: (N,) standard deviation of the training part of the series that a window is from.
        mase: (N,) the unit of the scaled error; see `elman.tasks.series.data.Scale`.
    """

    actual: Floats
    quantiles: Floats
    levels: tuple[float, ...]
    std: Floats
    mase: Floats

    @property
    def point(self) -> Floats:
        """(N, H) the forecast itself, the median."""
        return self.quantiles[..., self.levels.index(0.5)]

    def replaced(self, point: Floats) -> "Forecasts":
        """Return another forecast of the same windows, without an interval."""
        return Forecasts(self.actual, point[..., None], (0.5,), self.std, self.mase)


def measure(of: Forecasts) -> dict[str, float]:
    """Return all measures by name, over what came.

    mae and rmse are in the units of the data; smape and, if nothing that came is near zero, mape in
    percent; mase in errors of the
    seasonal naive forecast of one step in the training part; mse_standardised and
    mae_standardised are of values less the mean of the training part, over its standard deviation.
    coverage is the share of what came between the lowest and the highest quantile.

    Example:
        >>> actual, forecast = np.array([[1.0, 2.0]]), np.array([[[2.0], [4.0]]])
        >>> found = measure(Forecasts(actual, forecast, (0.5,), np.ones(1), np.ones(1)))
        >>> found["mae"], found["mase"], round(found["rmse"], 2)
        (1.5, 1.5, 1.58)
    """
    error = of.point - of.actual
    size, scaled = np.abs(error), error / of.std[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = 200 * size / (np.abs(of.actual) + np.abs(of.point))
    relative = np.where(size == 0, 0.0, relative)
    found = {
        "mae": size,
        "mse": error**2,
        "mase": size / of.mase[:, None],
        "smape": relative,
        "mse_standardised": scaled**2,
        "mae_standardised": np.abs(scaled),
    }
    measures = {name: float(np.nanmean(values)) for name, values in found.items()}
    # The error in percent means nothing where what came is near zero.
    if np.nanmin(np.abs(of.actual) / of.std[:, None]) > 0.01:
        measures["mape"] = float(np.nanmean(100 * size / np.abs(of.actual)))
    measures["rmse"] = measures["mse"] ** 0.5
    measures["pinball"] = float(np.nanmean(pinball(of.quantiles, of.actual, of.levels)))
    if len(of.levels) > 1:
        low, high = of.quantiles[..., 0], of.quantiles[..., -1]
        inside = (of.actual >= low) & (of.actual <= high)
        measures["coverage"] = float(inside[~np.isnan(of.actual)].mean())
    return measures


def pinball(quantiles: Floats, actual: Floats, levels: tuple[float, ...]) -> Floats:
    """Return the pinball loss of each step, the mean over quantiles: (N, H, Q), (N, H) -> (N, H).

    Example:
        >>> pinball(np.array([[[2.0]]]), np.array([[5.0]]), (0.9,)).tolist()
        [[2.7]]
    """
    short, level = actual[..., None] - quantiles, np.array(levels)
    return np.maximum(level * short, (level - 1) * short).mean(-1)  # type: ignore[no-any-return]


def per_step(of: Forecasts) -> list[dict[str, float]]:
    """Return the measures of each step of the horizon."""
    return [
        measure(
            Forecasts(
                of.actual[:, step : step + 1],
                of.quantiles[:, step : step + 1],
                of.levels,
                of.std,
                of.mase,
            )
        )
        for step in range(of.actual.shape[1])
        if not np.isnan(of.actual[:, step]).all()
    ]
