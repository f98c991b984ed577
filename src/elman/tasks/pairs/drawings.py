"""The attention of examples, as a picture: which symbols of the source each symbol came from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Attention", "draw_attention"]

_COLUMNS = 3


class Attention(NamedTuple):
    """What a model looked at.

    Args:
        source: the symbols of the source.
        answer: the symbols of the answer.
        weights: for each symbol of the answer, and its end, the share that each of the source had.
    """

    source: list[str]
    answer: list[str]
    weights: list[list[float]]


def draw_attention(examples: Sequence[Attention], path: Path) -> None:
    """Draw examples beside each other.

    Args:
        examples: at least one.
        path: where the picture goes.
    """
    from matplotlib.figure import Figure

    lines = -(-len(examples) // _COLUMNS)
    figure = Figure(figsize=(9, 3 * lines), layout="constrained")
    for place, (source, answer, weights) in enumerate(examples, 1):
        axes = figure.add_subplot(lines, _COLUMNS, place)
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        size = max(4, min(9, 140 // max(len(source), len(answer))))
        # Dollars would be read as formulas.
        names = [[s.replace("$", r"\$") for s in side] for side in (source, [*answer, "end"])]
        axes.set_xticks(range(len(source)), names[0], fontsize=size)
        axes.set_yticks(range(len(weights)), names[1], fontsize=size)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        if max(map(len, source)) > 2:
            axes.tick_params(axis="x", rotation=60)
    figure.savefig(path, dpi=100)
