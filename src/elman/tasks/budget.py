"""What a budget is worth on this machine, and how it is spent: sizes, and the learning rate.

A model that is too small stops learning early, and one that is too big sees too little data in its
time. For a fixed amount of arithmetic the best size is one that sees a fixed number of units
(characters, tokens, steps) for each of its weights, so the size follows from the budget.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import elman
from elman.tasks.settings import Settings

__all__ = [
    "GATES",
    "OPERATIONS_PER_WEIGHT",
    "fit_dropout",
    "fit_hidden",
    "machine_memory",
    "measure_speed",
    "schedule",
]

_S = TypeVar("_S", bound=Settings)

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
OPERATIONS_PER_WEIGHT = 6  # and unit: one product forward, two backward, of two each


def machine_memory() -> float:
    """Return the bytes of memory of the machine, or of the container; infinite if not known."""
    found = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def measure_speed(seconds: float = 0.6) -> float:
    """Measure additions and multiplications per second in training a middling LSTM.

    Args:
        seconds: how long to measure.
    """
    with torch.random.fork_rng(devices=[]):
        embed, hidden, seq_len, batch = 64, 384, 32, 32
        lstm = elman.LSTM(embed, hidden)
        input = torch.randn(seq_len, batch, embed, requires_grad=True)
        weights = GATES["lstm"] * hidden * (embed + hidden)
        best = math.inf
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or best == math.inf:
            lstm(input)[0].sum().backward()
            best = min(best, time.perf_counter() - start)
    return OPERATIONS_PER_WEIGHT * weights * seq_len * batch / best


def fit_hidden(
    settings: _S,
    units: int,
    speed: float,
    count: Callable[[_S], int],
    *,
    sizes: Iterable[int],
    units_per_weight: float,
    weights_per_unit: float,
) -> int:
    """Return the largest hidden size that suits the budget and the data.

    Args:
        settings: all settings; `hidden` is to be replaced.
        units: units in an epoch.
        speed: additions and multiplications per second in training.
        count: counts the weights that are multiplied for each unit.
        sizes: the sizes to choose from; the smallest is taken if none suits.
        units_per_weight: units that are to be seen, repeated or not, for each weight.
        weights_per_unit: no more weights than this for each unit in the data, for a short text that
            is read many times is learnt by heart.
    """
    most = float(weights_per_unit * units)
    if settings.epochs is not None:
        most = min(most, settings.epochs * units / units_per_weight)
    if settings.max_time is not None:
        # operations = 6 * weights * seen, and seen is to be units_per_weight * weights
        operations = speed * settings.max_time
        most = min(most, math.sqrt(operations / OPERATIONS_PER_WEIGHT / units_per_weight))
    smallest, *larger = sorted(sizes)
    fitting = (size for size in larger if count(replace(settings, hidden=size)) <= most)
    return max(fitting, default=smallest)


def fit_dropout(settings: Any, units: int, speed: float, weights: int) -> float:
    """Return the dropout: none for data that is read once or twice, more the more often.

    Args:
        settings: all settings but the dropout.
        units: units in an epoch.
        speed: additions and multiplications per second in training.
        weights: those that are multiplied for each unit.
    """
    passes = math.inf
    if settings.max_time is not None:
        passes = speed * settings.max_time / OPERATIONS_PER_WEIGHT / weights / units
    if settings.epochs is not None:
        passes = min(passes, settings.epochs)
    return round(min(0.5, max(0.0, 0.025 * (passes - 2))), 2)


def schedule(progress: float, warmup: float) -> float:
    """Return the learning rate as a share of its highest: up for `warmup`, then down to zero.

    Args:
        progress: the share of the budget that is used up.
        warmup: the share in which the rate rises.

    Example:
        >>> [round(schedule(p, 0.1), 3) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))
