"""The gates of a layer over time, as a picture: a panel for each gate, a row for each unit.

What is left out: computing the gates, which `elman.gates` does, and writing files, which the figure
does by itself (`figure.savefig`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.extras import needed
from elman.language import say
from elman.tasks.plot import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_gates"]

# What lies between 0 and 1, and needs another scale of colours than what lies around 0.
_FROM_ZERO = frozenset("iforz")
_SEQUENTIAL, _DIVERGING = "YlGnBu", "RdBu_r"
# Characters that nobody would see on an axis.
_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "": "∅"}
_MOST_LABELS = 48
# Fonts with Chinese characters, which Matplotlib's own has not.
_CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
)


def plot_gates(
    gates: Mapping[str, Any],
    symbols: Sequence[str] | None = None,
    *,
    sequence: int = 0,
    layer: int = -1,
    direction: int = 0,
    batch_first: bool = False,
    units: int = 24,
) -> "Figure":
    """Draw the gates and states of one sequence over time.

    Each panel is a gate or a state, each column a time step, each row a unit, the same one in all
    panels. Units that behave alike are neighbours. Gates, between 0 and 1, go from light (closed)
    to dark (open); candidates and states are red where positive and blue where negative.

    Args:
        gates: What `elman.gates` returned: for each letter of `elman.cells`, (num_layers, D, L, N,
            hidden_size), or (num_layers, D, N, L, hidden_size) if batch_first, without N for one
            sequence.
        symbols: What the input was at each step, such as the characters of a text, for the axis of
            time. Only as many steps are drawn, so that padding is left out. Numbers if None.
        sequence: Which sequence of the batch.
        layer: Which layer; the last one by default.
        direction: 0, or 1 for the reverse direction.
        batch_first: Whether the layer was.
        units: The most rows of a panel. Of more units those are drawn that change the most.

    Returns:
        A Matplotlib figure: a notebook shows it, and `figure.savefig("gates.png")` writes it.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If gates is empty, an array has other axes, there are more symbols than steps
            or none, or units is less than 1.
        IndexError: If there is no such sequence, layer or direction.

    Example:
        >>> import elman, numpy as np
        >>> h = np.tanh(np.random.default_rng(0).normal(size=(1, 1, 5, 1, 8)))
        >>> figure = elman.plot_gates({"h": h}, "hello")
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['h', 'e', 'l', 'l', 'o']
    """
    traces = {
        letter: _trace(letter, value, layer, direction, sequence, batch_first)
        for letter, value in gates.items()
    }
    if not traces:
        raise ValueError(say("plot_gates: gates must have a gate at least, got none"))
    if units < 1:
        raise ValueError(say("plot_gates: units must be at least 1, got {got}", got=units))
    steps = min(len(trace) for trace in traces.values())
    if symbols is not None:
        if not 0 < len(symbols) <= steps:
            raise ValueError(
                say(
                    "plot_gates: symbols must be from 1 to L = {steps}, got {got}",
                    steps=steps,
                    got=len(symbols),
                )
            )
        steps = len(symbols)
    traces = {letter: trace[:steps] for letter, trace in traces.items()}
    rows = _order(traces.get("h", next(iter(traces.values()))), units)
    with needed("elman.plot_gates", "train"):
        new_figure(1, 1)  # which imports Matplotlib whatever the user's screen is set to
        import matplotlib
        from matplotlib.font_manager import fontManager
    here = {font.name for font in fontManager.ttflist}
    chinese = [name for name in _CHINESE if name in here]
    family = [*matplotlib.rcParams["font.family"], *chinese]
    with matplotlib.rc_context({"font.family": family}):
        return _draw(traces, rows, symbols, steps, None if chinese else "en")


# (L, hidden_size) of one sequence, layer and direction
def _trace(
    letter: str, value: Any, layer: int, direction: int, sequence: int, batch_first: bool
) -> np.ndarray[Any, Any]:
    value = value.detach().cpu().double() if hasattr(value, "detach") else value
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 4:  # of one sequence
        array = np.expand_dims(array, 2 if batch_first else 3)
    if array.ndim != 5:
        outer = "N, L" if batch_first else "L, N"
        raise ValueError(
            say(
                "plot_gates: gates[{letter}] must be ({axes}), got {got}",
                letter=repr(letter),
                axes=f"num_layers, D, {outer}, hidden_size",
                got=array.shape,
            )
        )
    one = array[layer, direction]
    return np.asarray(one[sequence] if batch_first else one[:, sequence])


# Which units are drawn: those that change the most, and beside each other those that change alike,
# by their angle in the plane in which the trace varies most.
def _order(trace: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    spread = trace.std(axis=0)
    chosen = np.sort(np.argsort(-spread, kind="stable")[:most])
    centred = trace[:, chosen] - trace[:, chosen].mean(axis=0)
    if min(centred.shape) < 2:
        return chosen
    _, _, plane = np.linalg.svd(centred, full_matrices=False)
    angle = np.arctan2(plane[1], plane[0])
    return np.asarray(chosen[np.argsort(angle, kind="stable")])


def _draw(
    traces: Mapping[str, np.ndarray[Any, Any]],
    rows: np.ndarray[Any, Any],
    symbols: Sequence[str] | None,
    steps: int,
    language: str | None,
) -> "Figure":
    titles = {
        "i": say("input gate", language=language),
        "f": say("forget gate", language=language),
        "g": say("candidate", language=language),
        "o": say("output gate", language=language),
        "r": say("reset gate", language=language),
        "z": say("update gate", language=language),
        "n": say("candidate", language=language),
        "c": say("cell state", language=language),
        "h": say("hidden state", language=language),
    }
    width = min(max(4.5, 1.6 + 0.24 * steps), 14)
    height = min(max(0.7, 0.075 * len(rows)), 1.6)
    figure = new_figure(width, 0.8 + (height + 0.3) * len(traces))
    panels = figure.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (letter, trace) in zip(panels, traces.items(), strict=True):
        values = trace[:, rows].T
        if letter in _FROM_ZERO:
            low, high, colours = 0.0, 1.0, _SEQUENTIAL
        else:
            high = max(1.0, float(np.abs(values).max(initial=0)))
            low, colours = -high, _DIVERGING
        image = axes.imshow(
            values, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high
        )
        axes.set_title(f"{letter}  {titles.get(letter, '')}", loc="left", fontsize=11, pad=3)
        axes.set_yticks([])
        axes.tick_params(axis="x", length=0)
        bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.05, aspect=8)
        bar.set_ticks([low, high] if low == 0 else [low, 0, high])
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
        bar.ax.tick_params(labelsize=9, length=0)
        bar.outline.set_visible(False)
        for side in axes.spines.values():
            side.set_visible(False)
    last = panels[-1]
    every = max(1, steps // 8) if symbols is None else -(-steps // _MOST_LABELS)
    places = range(0, steps, every)
    if symbols is None:
        labels = [str(place) for place in places]
    else:
        labels = [_VISIBLE.get(str(symbols[place]), str(symbols[place])) for place in places]
    # A symbol is a letter of the user's: it must not be read as mathematics.
    last.set_xticks(list(places), labels, fontsize=11, parse_math=False)
    if any(len(label) > 2 for label in labels) and symbols is not None:
        last.tick_params(axis="x", rotation=60)
    last.set_xlabel(say("time step", language=language))
    panels[0].set_ylabel(say("{count} units", language=language, count=len(rows)))
    return figure
