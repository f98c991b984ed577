"""A tensor printed with its axes named, which bracket is which, and what lies where in memory.

What is left out: the names themselves, which only the reader of a tensor knows. Works on whatever
NumPy can look at, tensors of PyTorch too, without importing PyTorch.
"""

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
        [                N: 1 entries, each (L, F)
          [              N=0: L = 3 entries, each (F,)
            [1, 2]       N=0, L=0: F = 2 numbers
            [3, 4]       N=0, L=1: F = 2 numbers
            [5, 6]       N=0, L=2: F = 2 numbers
          ]
        ]
    """
    raise NotImplementedError
