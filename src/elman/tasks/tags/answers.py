"""What `elman predict` reads and writes with a model of tags."""

import sys
from collections.abc import Iterator
from typing import Any

from elman.runtime import Tags
from elman.tasks import InputError
from elman.tasks.files import read_text
from elman.tasks.tags.data import Document

__all__ = ["lines"]


def lines(model: Tags, given: str | None, options: Any) -> Iterator[str]:
    """Return the lines of a file with the column of the tags filled in.

    Args:
        model: the model.
        given: the file, or "-" for standard input.
        options: none.

    Raises:
        InputError: the input cannot be used.
    """
    if given is None:
        raise InputError("say what to tag: a file, or - for standard input")
    if given == "-":
        name = "standard input"
        text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    else:
        name, text = given, read_text(given).text
    document = Document.read_like(name, text, model.knowledge["layout"])
    yield from document.tagged(model.predict([s.words for s in document.sentences]))
