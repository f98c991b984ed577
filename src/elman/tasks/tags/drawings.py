"""The picture of a model of tags: its commonest errors."""

from collections.abc import Sequence
from pathlib import Path

from elman.tasks.plot import new_figure, save_figure

__all__ = ["draw_errors"]

_SHOWN = 15


def draw_errors(errors: Sequence[tuple[str, str, int, str]], path: Path) -> None:
    """Draw how often what was taken for what, the commonest at the top.

    Args:
        errors: true tag, given tag, how often, and a word; the commonest first.
        path: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    shown = errors[:_SHOWN]
    figure = new_figure(8, 1.2 + 0.28 * max(1, len(shown)))
    total = sum(times for _, _, times, _ in errors)
    axes = figure.add_subplot(xlabel="tokens", title=f"{total:,} tokens held out are tagged wrong")
    # A dollar would begin a formula.
    names = [f"{true} taken for {given}".replace("$", r"\$") for true, given, _, _ in shown]
    axes.barh(range(len(shown)), [times for _, _, times, _ in shown])
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)
