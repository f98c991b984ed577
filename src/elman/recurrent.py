"""Layers of any cell: those that are not in torch.nn, and cells of one's own.

`Recurrent` is to a cell what `elman.LSTM` is to the LSTM: its parameters, layers, directions,
lengths, packed and nested input, dropout, state dicts, gradients of samples, ONNX. A cell that the
core has is computed by it. Any other is computed by the reference, PyTorch operation by operation,
or, with `compile=True`, by what torch.compile makes of its step.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from typing_extensions import Unpack

from elman import shapes
from elman.cells import CELLS, MORE_CELLS, Cell
from elman.language import say
from elman.nn.layers import Layer
from elman.options import Options, documented
from elman.shapes import KindError, ShapeError

__all__ = ["Recurrent"]

_KNOWN = {**CELLS, **MORE_CELLS}


@documented
class Recurrent(Layer):
    """One or more layers of any cell, a known one by its name or one of your own.

    Known are "slstm", "indrnn", "mingru", "minlstm", "sru" and "ligru"; "lstm", "gru", "rnn_tanh"
    and "rnn_relu", as in torch.nn; and "gru_reset_before". Their equations are those of the
    functions of the same names in `elman.cells`. `elman.cell` makes another of a function.

    Parameters, for layer k and with the suffix _reverse for the second direction: weight_ih_l{k}
    (G * hidden_size, H_in) and bias_ih_l{k} (G * hidden_size,), with a block of rows for each of
    the G gates of the cell; for a cell with a recurrent product weight_hh_l{k}
    (G * hidden_size, hidden_size / heads) and bias_hh_l{k} (G * hidden_size,); and the vectors of
    the cell under their own names, such as u_l{k}. H_in of the layers after the first is
    D * hidden_size.

    The state hx is one tensor (D * num_layers, N, hidden_size) for a cell with one state, and a
    tuple of as many for a cell with several, in the order of `cell.states`.

    Args:
        cell: What to compute at each step: a name, or what `elman.cell` made.
        input_size: H_in, the number of features of the input at each step.
        hidden_size: H_out, the number of features of each state.
        num_layers: Layers stacked on each other.
        bias: Whether there are bias_ih and bias_hh.
        batch_first: Whether input and output are (N, L, features) and not (L, N, features).
        dropout: The probability of zeroing an element between layers, in training.
        bidirectional: Whether a second set of parameters runs backwards in time.
        device: Where the parameters are made.
        dtype: The type of the parameters.
        heads: Into how many blocks the recurrent product is cut, each of which reads its own part
            of h alone. 1 is a full matrix.
        compile: Whether torch.compile makes the steps of a cell that the core does not have. It
            needs a C++ compiler where the layer runs, and some seconds at the first call of each
            shape.
        **options: The keyword arguments of `elman.options.Options`, all off by default.

    Raises:
        ShapeError: There is no cell of that name, a size is out of range, hidden_size is not a
            multiple of heads, or the cell has no recurrent product to cut into heads.
        KindError: An argument has the wrong type.

    Example:
        >>> import elman, torch
        >>> layer = elman.Recurrent("slstm", 3, 8, heads=2, bidirectional=True)
        >>> output, (h_n, c_n, n_n, m_n) = layer(torch.randn(5, 16, 3))  # 5 steps of 16 sequences
        >>> output.shape, h_n.shape
        (torch.Size([5, 16, 16]), torch.Size([2, 16, 8]))
    """

    _keeps_state_dtype = True

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        heads: int = 1,
        compile: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if isinstance(cell, str):
            if cell not in _KNOWN:
                raise ShapeError(
                    say(
                        "Recurrent: cell must be one of {known}, or what elman.cell made of a "
                        "function, got {got}",
                        known=", ".join(_KNOWN),
                        got=repr(cell),
                    )
                )
            cell = _KNOWN[cell]
        if not isinstance(cell, Cell):
            raise KindError(
                say(
                    "Recurrent: cell must be a name or a cell, got {got}: put @elman.cell(...) "
                    "before the function that makes a step",
                    got=type(cell).__name__,
                )
            )
        heads = shapes.size(self, "heads", heads, 1)
        if heads > 1 and (not cell.recurrent or cell.late):
            raise ShapeError(
                say(
                    "Recurrent: heads must be 1, got {heads}: {cell} has no recurrent product that "
                    "could be cut into heads",
                    heads=heads,
                    cell=cell.name,
                )
            )
        self.cell, self.heads = cell, heads
        self._compiles = shapes.flag(self, "compile", compile)
        hidden_size = shapes.size(self, "hidden_size", hidden_size, 1)
        if hidden_size % heads:
            raise ShapeError(
                say(
                    "Recurrent: hidden_size must be a multiple of heads = {heads}, got {got}",
                    heads=heads,
                    got=hidden_size,
                )
            )
        shared = input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        super().__init__(*shared, 0, device, dtype, **options)

    @property
    def _plain_cell(self) -> Cell:
        """The cell as it is computed: neither PyTorch nor ONNX has one whose product is cut."""
        if self.heads == 1 and (self.cell.is_known or not self._compiles):
            return self.cell
        return _variant(self.cell, self._compiles)

    def _shapes(self, cell: Cell, features: int) -> dict[str, tuple[int, ...] | None]:
        found = super()._shapes(cell, features)
        if cell.recurrent:
            rows = len(cell.gates) * self.hidden_size
            found["weight_hh"] = (rows, self.hidden_size // self.heads)
        else:
            found["weight_hh"] = found["bias_hh"] = None
        return found

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, as torch.nn prints them."""
        text = f"{self.cell.name}, {super().extra_repr()}"
        text += f", heads={self.heads}" if self.heads > 1 else ""
        return text + ", compile=True" if self._compiles else text


# A cell that neither PyTorch nor ONNX takes for its own, with the same step.
@cache
def _variant(cell: Cell, compiles: bool) -> Cell:
    return replace(cell, compiles=compiles, is_known=False)
