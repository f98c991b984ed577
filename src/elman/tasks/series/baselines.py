"""Forecasts that need no learning, for the same windows as the model's.

Each is a function of all that lies before the origin, however far back: last value, seasonal naive,
drift, mean, and exponential smoothing by statsmodels where it is installed.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from elman.tasks.series.data import Series

__all__ = ["BASELINES", "smoothing"]

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

_LONGEST_SEASON = 24  # that exponential smoothing is given
_MOST_STEPS = 3000  # of the training part that it is fitted to


def last_value(values: Floats, origins: Steps, horizon: int, season: int) -> Floats:
    """Return the last value before each origin for all steps.

    Args:
        values: (T,) the series, without gaps.
        origins: (N,) where forecasts start; at least 1.
        horizon: H, steps that are forecast.
        season: steps in a season.

    Returns:
        (N, H) forecasts.

    Example:
        >>> last_value(np.array([1.0, 2.0, 4.0]), np.array([2, 3]), 2, 1).tolist()
        [[2.0, 2.0], [4.0, 4.0]]
    """
    return np.repeat(values[origins - 1][:, None], horizon, axis=1)


def seasonal_naive(values: Floats, origins: Steps, horizon: int, season: int) -> Floats:
    """Return the values of the last season before each origin; arguments as in `last_value`.

    Example:
        >>> seasonal_naive(np.array([1.0, 2.0, 4.0]), np.array([3]), 3, 2).tolist()
        [[2.0, 4.0, 2.0]]
    """
    back = origins[:, None] - season + np.arange(horizon) % season
    # Before a whole season has passed: the last value.
    return np.asarray(values[np.where(back < 0, origins[:, None] - 1, back)])


def drift(values: Floats, origins: Steps, horizon: int, season: int) -> Floats:
    """Return the line through the first and the last value; arguments as in `last_value`.

    Example:
        >>> drift(np.array([1.0, 2.0, 4.0]), np.array([3]), 2, 1).tolist()
        [[5.5, 7.0]]
    """
    last = values[origins - 1]
    slope = (last - values[0]) / np.maximum(1, origins - 1)
    return np.asarray(last[:, None] + slope[:, None] * np.arange(1, horizon + 1))


def mean(values: Floats, origins: Steps, horizon: int, season: int) -> Floats:
    """Return the mean of all values before each origin; arguments as in `last_value`.

    Example:
        >>> mean(np.array([1.0, 2.0, 6.0]), np.array([2, 3]), 1, 1).tolist()
        [[1.5], [3.0]]
    """
    return np.repeat((np.cumsum(values)[origins - 1] / origins)[:, None], horizon, axis=1)


BASELINES: dict[str, Callable[[Floats, Steps, int, int], Floats]] = {
    "last value": last_value,
    "seasonal naive": seasonal_naive,
    "drift": drift,
    "mean": mean,
}


def smoothing(one: Series, origins: Steps, horizon: int, season: int) -> Floats | None:
    """Return forecasts by exponential smoothing, with a damped trend and a season up to 24 steps.

    Its weights are fitted to the training part (its end, if that is long); then the whole series
    is smoothed with them once, and each forecast starts from what is known at its origin.

    Args:
        one: the series.
        origins: (N,) where forecasts start.
        horizon: H, steps that are forecast.
        season: steps in a season.

    Returns:
        (N, H) forecasts, or None where statsmodels is not installed or finds no fit.
    """
    try:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing  # type: ignore[import-untyped]
    except ImportError:
        return None
    values = one.filled
    cycle = season if 1 < season <= _LONGEST_SEASON else 0
    training = values[: one.validation or len(values)][-_MOST_STEPS:]
    if len(training) < max(10, 2 * cycle + 1):
        return None
    kind = {"trend": "add", "damped_trend": True}
    if cycle:
        kind |= {"seasonal": "add", "seasonal_periods": cycle}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = ExponentialSmoothing(training, **kind).fit().params
            names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
            # What a model has not, such as the weight of a season, is None or NaN.
            chosen = {n: fitted[n] for n in names if math.isfinite(_number(fitted[n]))}
            whole = ExponentialSmoothing(values, **kind, initialization_method="heuristic").fit(
                **chosen, optimized=False
            )
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return None
    damping = float(fitted["damping_trend"])
    steps = np.arange(1, horizon + 1)
    damped = np.cumsum(damping**steps)
    last = origins - 1
    found = np.asarray(whole.level)[last][:, None] + np.asarray(whole.trend)[last][:, None] * damped
    if cycle:
        season_at = np.asarray(whole.season)
        back = last[:, None] + 1 - cycle + np.arange(horizon) % cycle
        found = found + season_at[np.maximum(0, back)]
    return found if np.isfinite(found).all() else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
