"""Text on a terminal: what may reach it as it is, and names that a shell takes as they are."""

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from unicodedata import category

__all__ = ["printable", "printable_pieces", "quoted"]

_JOINERS = "\u200c\u200d\u00ad"  # of letters and of emoji, and the soft hyphen: they move nothing
_UNKNOWN = "\ufffd"


def printable(text: str, breaks: str = "\n\t") -> str:
    """Replace what would disturb a terminal or cannot be shown: control codes and bare bytes.

    Spaces of every width and joined emoji stay as they are; the end of a line in files of Windows,
    CR LF, becomes LF. What turns the direction of writing is replaced.

    Args:
        text: any text.
        breaks: the control codes that may stay.

    Example:
        >>> printable("a\\x1b[31m\\r\\n\\udcff")
        'a\\ufffd[31m\\n\\ufffd'
        >>> printable("no\\u00a0break") == "no\\u00a0break"
        True
    """
    return "".join(
        c if c.isprintable() or c in breaks or c in _JOINERS or category(c) == "Zs" else _UNKNOWN
        for c in text.replace("\r\n", "\n")
    )


def printable_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Make each piece of a text printable as it comes; CR LF may come in two.

    Example:
        >>> "".join(printable_pieces(["a\\r", "\\n", "b", "\\r", "c"]))
        'a\\nb�c'
    """
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""
        yield printable(text.removesuffix("\r"))
    yield printable(held)


def quoted(path: str | Path) -> str:
    """Return a name as one types it in a shell.

    Example:
        >>> quoted("runs/book"), quoted("my book"), quoted("a\\x1b[2Jb")
        ('runs/book', "'my book'", "$'a\\\\x1b[2Jb'")
    """
    name = str(path)
    if name.isprintable():
        return shlex.quote(name)
    escaped = "".join(
        c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in os.fsencode(c))
        for c in name
    )
    return f"$'{escaped}'"
