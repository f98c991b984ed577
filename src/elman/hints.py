"""Hints: what is legal and nearly always a mistake, said once where it is seen, and never an error.

One line turns them off: ``warnings.simplefilter("ignore", elman.Hint)``.

Only what can be told for certain from what a layer sees is hinted at. What is left out for that
reason: data (N, L, F) given to a layer that is not batch_first. A first axis that changes from call
to call while the second stays is also what training in chunks of different length looks like.
"""

import os
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from elman.language import say

__all__ = ["CHAIN", "Hint", "follow"]

CHAIN = 1000
"""How many calls may pass their state on with its graph, in evaluation mode, without a hint."""

_SKIPPED = tuple(f"{Path(str(file)).parent}{os.sep}" for file in (__file__, torch.__file__))


class Hint(UserWarning):
    """Something that is legal, and nearly always a mistake.

    Example:
        >>> import warnings, elman
        >>> warnings.simplefilter("ignore", elman.Hint)  # no hints from here on
    """


def follow(module: Any, before: Any, after: Any) -> None:
    """Count the calls in evaluation mode that passed on their state with its graph.

    Such a graph grows with each call, and with it the memory. In training a backward pass follows
    in the end, and a chain may be as long as the sequence; in evaluation mode none does.

    Args:
        module: who was called, for the hint to name.
        before: the state that it was given.
        after: the state that it returned.
    """
    # isinstance takes long of a tensor that is none of the classes asked for
    first = before if type(before) is Tensor else before[0]
    if type(first) is not Tensor or not first.requires_grad or torch.compiler.is_compiling():
        return
    last: Any = after if type(after) is Tensor else after[0]
    if first.grad_fn is None or last.grad_fn is None:
        return
    calls = getattr(first, "_calls_with_graph", 1) + 1
    last._calls_with_graph = calls
    if calls == CHAIN:
        _hint(
            say(
                "{who}: {count} calls in evaluation mode passed their state on with its graph, "
                "which grows with each call: use torch.no_grad(), or detach the state",
                who=type(module).__name__,
                count=calls,
            )
        )


# Warns at the line of the caller that is neither ours nor PyTorch's, once for each such line.
def _hint(text: str) -> None:
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, Hint, stacklevel=level)
