"""What `elman predict` does with a model of text: it says what does instead."""

from collections.abc import Iterator
from typing import Any

from elman.runtime import Text
from elman.tasks import InputError

__all__ = ["lines"]


def lines(model: Text, given: str | None, options: Any) -> Iterator[str]:
    """Text is sampled and not predicted."""
    raise InputError("a model of text writes: use elman sample")
