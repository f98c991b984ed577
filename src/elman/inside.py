"""What is inside a layer while it runs: its gates, beside its states.

The core keeps the gates of every step for the backward pass. They are read from there, and
gradients flow back through them. Where the core does not compute, the reference tells them.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from elman.language import say
from elman.nn.layers import Layer
from elman.shapes import KindError
from elman.swap import convert

__all__ = ["gates"]


def gates(
    layer: torch.nn.Module,
    input: Tensor,
    hx: Any = None,
    lengths: Any = None,
    reset: Any = None,
    reset_to: Any = None,
) -> dict[str, Tensor]:
    """Return every gate and state of every layer, direction and time step.

    Args:
        layer: An RNN, LSTM or GRU, of elman or of torch.nn, or an `elman.Recurrent` of such a cell.
        input: As in a call of the layer, but not packed or nested; like the others.
        hx: The initial state.
        lengths: The steps of each sequence.
        reset: Where sequences start anew.
        reset_to: What they start from.

    Returns:
        The gates after their nonlinearities and the states after each step, by the letters of the
        equations: "i", "f", "g", "o", "h" and "c" of an LSTM, "r", "z", "n" and "h" of a GRU, "h"
        of an RNN. Each is (num_layers, D, L, N, hidden_size), or
        (num_layers, D, N, L, hidden_size) if batch_first, without N for one sequence; with a
        projection h has proj_size features. Zeros past the end of a sequence. Gradients flow
        through all.

    Raises:
        KindError: layer is none of these, or input is packed or nested.
        ShapeError: as in a call of the layer.

    Example:
        >>> import elman, torch
        >>> lstm, x = elman.LSTM(3, 4), torch.randn(5, 16, 3)  # 5 steps of 16 sequences
        >>> inside = elman.gates(lstm, x)
        >>> list(inside), inside["f"].shape
        (['i', 'f', 'g', 'o', 'h', 'c'], torch.Size([1, 1, 5, 16, 4]))
        >>> torch.allclose(inside["h"], inside["o"] * inside["c"].tanh())
        True
    """
    if isinstance(layer, torch.nn.RNNBase) and not isinstance(layer, Layer):
        holder = torch.nn.Sequential(copy.copy(layer))  # of the same parameters
        convert(holder)
        layer = holder[0]
    if not isinstance(layer, Layer):
        raise KindError(
            say(
                "gates: layer must be an RNN, LSTM or GRU, got {got}: of a model pass the layer "
                "that it holds",
                got=type(layer).__name__,
            )
        )
    cell = layer._cell
    if cell.values is None and not set(cell.gates) <= set(cell.states):
        raise KindError(
            say(
                "gates: the cell {cell} does not tell its gates: give elman.cell the function "
                "values=, or read layer.states(...)",
                cell=cell.name,
            )
        )
    letters = "".join(dict.fromkeys(cell.gates + cell.states))
    return layer._inside(letters, input, hx, lengths, reset, reset_to)
