"""Tensors printed as what they are: with their axes named, and a state with its layers.

A state that a layer returns cannot print so by itself. A tuple of a class of its own is no longer
loaded by torch.load, does not fit where torch.func and torch.utils._pytree want a tuple, and takes
longer to make; a tensor of a class of its own makes each operation on it several times slower.

What is left out: the names themselves, which only the reader of a tensor knows. Works on whatever
NumPy can look at, tensors of PyTorch too, without importing PyTorch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from elman.language import say

__all__ = ["Axes", "StateDescription", "axes", "describe_state"]

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
        names: A name for each axis, outermost first, with spaces between, or one letter for each:
            "N L F" or "NLF".

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


@dataclass(frozen=True)
class StateDescription:
    """What `elman.describe_state` returns: it prints as its text.

    Attributes:
        shapes: For each state, "h_n" and "c_n", the names of its axes and its size.
        text: What each state is, and each of its rows.
    """

    shapes: dict[str, tuple[tuple[str, ...], tuple[int, ...]]]
    text: str

    def __repr__(self) -> str:
        return self.text


def describe_state(module: Any, state: Any) -> StateDescription:
    """Print a state that a layer or a cell returned as what it is: which layer, which direction.

    The state itself stays what torch.nn returns, a tensor or a pair.

    Args:
        module: An RNN, LSTM or GRU, or a cell of theirs, of elman or torch.nn, or an
            `elman.Recurrent`.
        state: What it returned as its state: h_n, or of an LSTM the pair (h_n, c_n).

    Returns:
        A `elman.printing.StateDescription`, which prints, and has the text.

    Raises:
        TypeError: If module is no such module, or state has not as many tensors as it has states.
        ValueError: If a tensor has not the shape of a state of module.

    Example:
        >>> import elman, torch
        >>> lstm = elman.LSTM(3, 4, num_layers=2, bidirectional=True)
        >>> output, state = lstm(torch.zeros(5, 16, 3))
        >>> elman.describe_state(lstm, state)
        h_n: (D * num_layers, N, H_out) = (4, 16, 4)
          h_n[0]: layer 0, forward
          h_n[1]: layer 0, reverse
          h_n[2]: layer 1, forward
          h_n[3]: layer 1, reverse
        c_n: (D * num_layers, N, hidden_size) = (4, 16, 4)
          c_n[0]: layer 0, forward
          c_n[1]: layer 0, reverse
          c_n[2]: layer 1, forward
          c_n[3]: layer 1, reverse
        Each row of N is one sequence at its own last step (of the reverse direction: its first).
        For all layers: h_n.view(num_layers, D, N, H_out)[layer, direction].
    """
    is_layer = hasattr(module, "num_layers")
    if not hasattr(module, "hidden_size"):
        raise TypeError(
            say(
                "describe_state: module must be an RNN, LSTM or GRU or a cell of theirs, got {got}",
                got=type(module).__name__,
            )
        )
    mode = getattr(module, "mode", type(module).__name__.upper())
    known = "hc" if mode.startswith("LSTM") else "h"
    letters = getattr(getattr(module, "cell", None), "states", known)
    given = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if len(given) != len(letters) or not all(hasattr(one, "shape") for one in given):
        raise TypeError(
            say(
                "describe_state: state must be {wanted}, got {got}: give the state that module "
                "returned",
                wanted="h_n"
                if len(letters) == 1
                else f"({', '.join(f'{letter}_n' for letter in letters)})",
                got=f"({', '.join(type(one).__name__ for one in given)})"
                if isinstance(state, (tuple, list))
                else type(state).__name__,
            )
        )
    directions = 2 if getattr(module, "bidirectional", False) else 1
    shapes, lines = {}, []
    for letter, one in zip(letters, given, strict=True):
        projected = getattr(module, "proj_size", 0) if letter == "h" else 0
        width = projected or module.hidden_size
        name, size = (f"{letter}_n" if is_layer else f"{letter}'"), tuple(one.shape)
        last = "H_out" if is_layer and letter == "h" else "hidden_size"
        rows = directions * module.num_layers if is_layer else 0
        outer = ("D * num_layers",) if is_layer else ()
        names = (*outer, *(("N",) if len(size) == len(outer) + 2 else ()), last)
        if len(size) != len(names) or size[-1] != width or (is_layer and size[0] != rows):
            wanted = (*((rows,) if is_layer else ()), "N", width)
            raise ValueError(
                say(
                    "describe_state: {name} must be ({axes}) = ({wanted}), got {got}",
                    name=name,
                    axes=", ".join((*outer, "N", last)),
                    wanted=", ".join(map(str, wanted)),
                    got=size,
                )
            )
        shapes[name] = (names, size)
        lines.append(f"{name}: ({', '.join(names)}) = ({', '.join(map(str, size))})")
        for row in range(rows):
            layer, direction = divmod(row, directions)
            text = (
                say("layer {layer}, reverse", layer=layer)
                if direction
                else say("layer {layer}, forward", layer=layer)
            )
            lines.append(f"  {name}[{row}]: {text}")
    if not is_layer:
        lines.append(say("Each row of N is one sequence after this step."))
    elif directions == 2:
        lines.append(
            say(
                "Each row of N is one sequence at its own last step (of the reverse direction: its "
                "first)."
            )
        )
    else:
        lines.append(say("Each row of N is one sequence at its own last step."))
    if is_layer and directions * module.num_layers > 1:
        lines.append(say("For all layers: h_n.view(num_layers, D, N, H_out)[layer, direction]."))
    return StateDescription(shapes, "\n".join(lines))


def _array(x: Any) -> np.ndarray[Any, Any]:
    try:
        if hasattr(x, "detach"):  # a tensor, of a dtype that NumPy may not have
            x = x.detach().cpu().resolve_conj().resolve_neg()
            x = x.double() if x.is_floating_point() else x
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # no numbers, or none to copy out
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
        yield "  " + " | ".join(groups) + (" ..." if array.size > _FIRST else "")


def _place(words: list[str], place: tuple[int, ...]) -> str:
    return ", ".join(f"{word}={index}" for word, index in zip(words, place, strict=False))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, np.inexact) else str(value)
