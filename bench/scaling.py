"""Measures how the cost of a call grows when one size doubles, and draws it.

All sizes along an axis take turns, so that a machine which slows down slows them alike: what is
promised is the ratio of neighbours.

Symbols: L time steps, N sequences in the batch, H features, in and hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from promises import CELLS, Promise, medians

from elman.bench import ELMAN, MODES, TORCH, Case, Machine, Mode, Work, bound
from elman.core import _native

__all__ = ["AXES", "Series", "draw", "measure"]


@dataclass(frozen=True)
class Axis:
    """A size that grows while the others stand.

    Attributes:
        name: As the plot names it.
        field: Of `Case`.
        sizes: Each twice the one before.
        fixed: The other sizes: batch, seq_len, hidden_size.
        limit: How many times longer a call may take when the size doubles.
    """

    name: str
    field: str
    sizes: tuple[int, ...]
    fixed: tuple[int, int, int]
    limit: float

    def case(self, cell: str, size: int) -> Case:
        sizes = dict(zip(("batch", "seq_len", "hidden_size"), self.fixed, strict=True))
        return Case(cell, **(sizes | {self.field: size}))

    def __str__(self) -> str:
        fields = ("batch", "seq_len", "hidden_size")
        letters = zip("NLH", fields, self.fixed, strict=True)
        return ", ".join(f"{x} = {n}" for x, field, n in letters if field != self.field)


DOUBLINGS = tuple(2**power for power in range(4, 12))
AXES = (
    Axis("L, time steps", "seq_len", DOUBLINGS, (8, 0, 64), 2.1),
    Axis("N, sequences", "batch", DOUBLINGS, (0, 16, 64), 2.1),
    Axis("layers", "num_layers", (1, 2, 4, 8, 16), (8, 64, 64), 2.1),
    Axis("H, features", "hidden_size", DOUBLINGS, (16, 16, 0), 4.3),
)


@dataclass(frozen=True)
class Series:
    """The times along an axis, in microseconds, on one thread.

    Attributes:
        axis: Its field.
        cell: The name of the class.
        mode: Inference or training.
        sizes: Along the axis.
        ours: Our times.
        theirs: torch.nn's.
        bound: What the machine could do, see `elman.bench.bound`.
    """

    axis: str
    cell: str
    mode: Mode
    sizes: Sequence[int]
    ours: Sequence[float]
    theirs: Sequence[float]
    bound: Sequence[float]

    def promise(self) -> Promise:
        """The largest cost of a doubling."""
        (axis,) = (axis for axis in AXES if axis.field == self.axis)
        figures = (worst_doubling(times) for times in (self.ours, self.theirs))
        name = f"doubling {axis.name}, {self.sizes[0]} to {self.sizes[-1]}"
        return Promise(name, f"{self.cell}, {axis}", self.mode, "x", *figures, axis.limit)


def worst_doubling(times: Sequence[float]) -> float:
    return max(after / before for before, after in pairwise(times))


def measure(machine: Machine) -> list[Series]:
    """Time every axis for every cell."""
    torch.set_num_threads(1)
    series = []
    for axis in AXES:
        for cell in CELLS:
            works = [Work.of(axis.case(cell, size)) for size in axis.sizes]
            for mode in MODES:
                times = [
                    medians([layers.prepare(work, mode) for work in works], mode)
                    for layers in (ELMAN, TORCH)
                ]
                peak = _native.fma_peak(1, 0.02)
                bounds = [bound(work.case, mode, 1, peak, machine) for work in works]
                line = Series(axis.field, cell, mode, axis.sizes, *times, bounds)
                series.append(line)
                print(f"{line.promise().ours:.2f}x {line.promise().name}", flush=True)
    return series


COLORS = {"RNN": "#0072b2", "GRU": "#009e73", "LSTM": "#d55e00"}  # told apart by all eyes
STYLES = {  # of a line, and what it is called
    "ours": ({"marker": "o", "markersize": 3.5, "linewidth": 1.5}, "elman"),
    "theirs": ({"linestyle": "--", "linewidth": 1.0, "alpha": 0.7}, "torch.nn"),
    "bound": ({"linestyle": ":", "linewidth": 1.2}, "bound of the machine"),
}


def draw(series: Sequence[Series], title: str) -> bytes:
    """A PNG with a panel per axis and mode; each tells the worst doubling and its limit."""
    figure = Figure(figsize=(13, 6.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(len(MODES), len(AXES), sharex="col", sharey="row")
    for row, mode in zip(panels, MODES, strict=True):
        for panel, axis in zip(row, AXES, strict=True):
            lines = [s for s in series if (s.axis, s.mode) == (axis.field, mode)]
            for line in lines:
                for name, (style, _) in STYLES.items():
                    times = [time / 1000 for time in getattr(line, name)]
                    panel.plot(line.sizes, times, color=COLORS[line.cell], **style)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(axis.sizes, [str(size) for size in axis.sizes])
            panel.minorticks_off()
            panel.grid(alpha=0.25)
            if lines:
                worst = max(worst_doubling(line.ours) for line in lines)
                text = f"doubling costs {worst:.2f}x at most (limit {axis.limit}x)"
                panel.set_title(text, fontsize=9)
        row[0].set_ylabel(f"{mode}, ms per call")
    for panel, axis in zip(panels[-1], AXES, strict=True):
        panel.set_xlabel(f"{axis.name}\n({axis})")
    handles = [Line2D([], [], color=color, label=cell) for cell, color in COLORS.items()]
    handles += [Line2D([], [], color="0.3", label=label, **s) for s, label in STYLES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
