"""Figures for files: Matplotlib without a screen, and whatever the user's screen is set to."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from elman.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure"]


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure that fits its own contents.

    Args:
        width: in inches.
        height: in inches.

    Example:
        >>> new_figure(8, 4.5).axes
        []
    """
    _import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, wholly or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())


def _import_matplotlib() -> None:
    """Import Matplotlib, which refuses to be imported where MPLBACKEND names what it has not.

    A figure that goes into a file needs no such backend.
    """
    if "matplotlib" in sys.modules or "MPLBACKEND" not in os.environ:
        return
    backend = os.environ.pop("MPLBACKEND")
    try:
        import matplotlib

        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    finally:
        os.environ["MPLBACKEND"] = backend
