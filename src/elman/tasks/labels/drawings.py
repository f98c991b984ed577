"""The picture of a model of labels: what is taken for what."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from elman.tasks.measures import Counts
from elman.tasks.plot import new_figure, save_figure

__all__ = ["draw_confusion"]

_NUMBERED = 20  # labels: of more there is no place for numbers
_SHOWN = 60  # labels: the others would be too small to see


def draw_confusion(counts: Counts, names: Sequence[str], path: Path) -> None:
    """Draw how often each label was given in the place of each, as a share of the true ones.

    Args:
        counts: (labels, labels), a row for each true label.
        names: the labels.
        path: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:_SHOWN])
    counts = counts[shown][:, shown]
    size = min(12.0, 3.5 + 0.35 * len(shown))
    figure = new_figure(size, size)
    axes = figure.add_subplot(xlabel="given", ylabel="true")
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks, texts = range(len(shown)), [_short(names[label]) for label in shown]
    axes.set_xticks(ticks, texts, rotation=90)
    axes.set_yticks(ticks, texts)
    if len(shown) <= _NUMBERED:
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = f"{counts[row, column]}"
            axes.text(column, row, number, color=colour, ha="center", va="center", fontsize=7)
    right = 100 * counts.diagonal().sum() / max(1, counts.sum())
    axes.set_title(f"{right:.1f} % of what is held out is right")
    save_figure(figure, path)


def _short(name: str) -> str:
    # A dollar would begin a formula.
    return (name if len(name) <= 16 else f"{name[:15]}…").replace("$", r"\$")
