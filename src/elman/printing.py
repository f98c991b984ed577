"""A tensor printed with its axes named, which bracket is which, and what lies where in memory.

What is left out: the names themselves, which only the reader of a tensor knows. Works on whatever
NumPy can look at, tensors of PyTorch too, without importing PyTorch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from elman.language import say

__all__ = ["Axes", "axes"]

# More numbers than these are not printed one by one.
_MOST = 64
_FIRST = 12


@dataclass(frozen=True)
class Axes:
    """What `elman.axes` returns: it prints as its text.

    Attributes:
        names: The name of each axis.
        shape: The size of each axis.
        text: The tensor, bracket by bracket.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    text: str

    def __repr__(self) -> str:
        return self.text


def axes(x: Any, names: str) -> Axes:
    """Print a tensor with its axes named: which bracket is which.

    Of a large tensor the first numbers are printed. Where the names have both L (time steps) and N
    (the batch), the order of the numbers in memory is printed too, for both layouts: batch first,
    and time first.

    Args:
        x: A tensor, an array, or nested lists of numbers.
        names: A name for each axis, outermost first, with spaces between: "N L F".

    Returns:
        An `elman.printing.Axes`, which prints, and has the text.

    Raises:
        ValueError: If there are not as many names as axes.
        TypeError: If x is not made of numbers.

    Example:
        >>> import elman
        >>> elman.axes([[[1, 2], [3, 4], [5, 6]]], "N L F")
        N = 1, L = 3, F = 2
        [            N = 1
          [          N=0: L = 3
            [1, 2]   N=0, L=0: F = 2
            [3, 4]   N=0, L=1: F = 2
            [5, 6]   N=0, L=2: F = 2
          ]
        ]
        In memory, batch first (N, L, F):
          N=0, L=0: 1 2 | N=0, L=1: 3 4 | N=0, L=2: 5 6
        In memory, time first (L, N, F):
          L=0, N=0: 1 2 | L=1, N=0: 3 4 | L=2, N=0: 5 6
    """
    array = _array(x)
    words = names.replace(",", " ").split()
    if len(words) == 1 and len(names) == array.ndim:
        words = list(words[0])
    if len(words) != array.ndim:
        raise ValueError(
            say(
                "axes: names must have a name for each of the {axes} axes of x, got {got}",
                axes=array.ndim,
                got=repr(names),
            )
        )
    lines = [", ".join(f"{word} = {size}" for word, size in zip(words, array.shape, strict=True))]
    if array.size <= _MOST and array.ndim and array.size:
        rows = list(_brackets(array, words, ()))
        width = max(len(left) for left, _ in rows) + 3
        lines += [f"{left:{width}}{right}".rstrip() for left, right in rows]
    else:
        first = array.reshape(-1)[:_FIRST]
        if len(first):
            lines.append(
                say(
                    "The first {count} of {size} numbers: {numbers}",
                    count=len(first),
                    size=array.size,
                    numbers=", ".join(map(_number, first)),
                )
            )
    lines += _memory(array, words)
    return Axes(tuple(words), array.shape, "\n".join(lines))


def _array(x: Any) -> np.ndarray[Any, Any]:
    try:
        if hasattr(x, "detach"):  # a tensor, of a dtype that NumPy may not have
            x = x.detach().cpu().resolve_conj().resolve_neg()
            x = x.double() if x.is_floating_point() else x
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        raise TypeError(_refusal(x)) from error
    if array.dtype.kind not in "biufc":
        raise TypeError(_refusal(x))
    return array


def _refusal(x: Any) -> str:
    return say(
        "axes: x must be a tensor, an array or nested lists of numbers of equal length, got {got}",
        got=type(x).__name__,
    )


# The lines of a tensor, bracket by bracket: the numbers, and which they are.
def _brackets(
    array: np.ndarray[Any, Any], words: list[str], place: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    indent = "  " * len(place)
    here = _place(words, place)
    what = f"{here}: {words[len(place)]} = {len(array)}" if here else f"{words[0]} = {len(array)}"
    if array.ndim == 1:
        yield f"{indent}[{', '.join(map(_number, array))}]", what
        return
    yield f"{indent}[", what
    for index, part in enumerate(array):
        yield from _brackets(part, words, (*place, index))
    yield f"{indent}]", ""


# The first numbers as they follow each other in memory, batch first and time first.
def _memory(array: np.ndarray[Any, Any], words: list[str]) -> Iterator[str]:
    batch = next((i for i, word in enumerate(words) if word in ("N", "B")), None)
    time = next((i for i, word in enumerate(words) if word in ("L", "T")), None)
    if batch is None or time is None or not array.size:
        return
    rest = [i for i in range(array.ndim) if i not in (batch, time)]
    for order, sentence in (
        ([batch, time, *rest], say("In memory, batch first")),
        ([time, batch, *rest], say("In memory, time first")),
    ):
        named = [words[i] for i in order]
        turned = array.transpose(order)
        yield f"{sentence} ({', '.join(named)}):"
        groups, left = [], _FIRST
        for place in product(*map(range, turned.shape[:2])):
            numbers = turned[place].reshape(-1)[:left]
            groups.append(f"{_place(named, place)}: {' '.join(map(_number, numbers))}")
            left -= len(numbers)
            if not left:
                break
        yield "  " + " | ".join(groups) + (" ..." if _FIRST < array.size else "")


def _place(words: list[str], place: tuple[int, ...]) -> str:
    return ", ".join(f"{word}={index}" for word, index in zip(words, place, strict=False))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, np.inexact) else str(value)
