"""Values of a file's description, checked when they are asked for: a file is hostile until read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from elman.language import say
from elman.runtime.file import FileError

__all__ = ["Facts"]

_MOST = 2**31 - 1  # of a size
_SHOWN = 80  # characters of what is wrong


class Facts:
    """A mapping from a file, and what it is called in messages.

    Args:
        where: what it is part of.
        values: what was found there, which should be a mapping.

    Raises:
        FileError: it is none.

    Example:
        >>> facts = Facts("the file", {"beam": 4, "level": "chars"})
        >>> facts.size("beam"), facts.word("level", ("chars", "words"))
        (4, 'chars')
        >>> facts.size("longest")
        Traceback (most recent call last):
        elman.runtime.file.FileError: the file: longest must be an integer from 1, got None
    """

    def __init__(self, where: str, values: Any) -> None:
        """Look at the mapping."""
        if not isinstance(values, Mapping):
            raise FileError(
                say("{where} must be an object, got {got}", where=where, got=_short(values))
            )
        self.where, self.values = where, values

    def part(self, name: str) -> "Facts":
        """Return a mapping within."""
        return Facts(f"{self.where}: {name}", self.values.get(name))

    def size(self, name: str, least: int = 1, most: int = _MOST) -> int:
        """Return an integer."""
        value = self.values.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, say("an integer from {least}", least=least), value)
        return value

    def truth(self, name: str) -> bool:
        """Return a truth value."""
        value = self.values.get(name)
        if type(value) is not bool:
            raise self._wrong(name, say("true or false"), value)
        return value

    def number(self, name: str, above: float = -math.inf) -> float:
        """Return a number."""
        return self.numbers(name, [self.values.get(name)], above)[0]

    def numbers(self, name: str, values: Any, above: float = -math.inf) -> tuple[float, ...]:
        """Return numbers that were found under a name."""
        if not isinstance(values, (list, tuple)):
            raise self._wrong(name, say("a list of numbers"), values)
        for value in values:
            if type(value) not in (int, float) or not abs(value) < 1e30 or not value > above:
                rule = say("a number")
                if math.isfinite(above):
                    rule = say("a number above {least}", least=f"{above:g}")
                raise self._wrong(name, rule, value)
        return tuple(map(float, values))

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, say("a text"), value)
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None if it is null."""
        return None if self.values.get(name) is None else self.text(name)

    def texts(self, name: str, least: int = 1, *, distinct: bool = True) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.values.get(name)
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise self._wrong(name, say("a list of texts"), value)
        if len(value) < least:
            raise self._wrong(name, say("a list of {least} texts or more", least=least), value)
        if distinct and len(set(value)) < len(value):
            raise self._wrong(name, say("a list of texts of which no two are the same"), value)
        return tuple(value)

    def word(self, name: str, known: Sequence[str]) -> str:
        """Return one of several words."""
        value = self.values.get(name)
        if not isinstance(value, str) or value not in known:
            raise self._wrong(name, say("one of {known}", known=", ".join(map(repr, known))), value)
        return value

    def _wrong(self, name: str, rule: str, value: Any) -> FileError:
        return FileError(
            say(
                "{where}: {name} must be {rule}, got {got}",
                where=self.where,
                name=name,
                rule=rule,
                got=_short(value),
            )
        )


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
