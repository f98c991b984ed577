"""What a step is meant to be: a cell by its name, or with the weights of a module."""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from elman import reference
from elman.cells import CELLS, Cell
from elman.language import say
from elman.shapes import KindError, ShapeError
from elman.watching import Batch

__all__ = ["NAMES", "UNITS", "Array", "Model", "meant", "meant_module"]


Array: TypeAlias = np.ndarray[Any, Any]
# The units whose weights are solved for: these tell, and more take long.
UNITS = 16

NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU(reset_after=False)",
    "rnn_tanh": "RNN(tanh)",
    "rnn_relu": "RNN(relu)",
}


class Model:
    """A cell with the weights of a module: those of its first layer and direction."""

    def __init__(self, cell: Cell, module: Any) -> None:
        end = "_l0" if isinstance(module, nn.RNNBase) else ""
        self.cell = cell
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        tensors = [
            getattr(module, f"{name}{end}", None)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        self.weights: list[Any] = [
            None if t is None else t.detach().cpu().double() for t in tensors
        ]

    def __call__(self, batch: Batch) -> tuple[Array, ...]:
        """Return the states after one step."""
        results = self.step(*map(torch.from_numpy, (batch.x, *batch.states)))
        return tuple(result.numpy() for result in results)

    def step(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute one step in PyTorch's operations."""
        return tuple(reference.step(self.cell, x, states, self.weights))

    def gate(self, letter: str, transposed: bool = False) -> list[Array]:
        """Return rows of a gate of weight_ih, weight_hh, bias_ih and bias_hh.

        Transposed, weight_hh is what `h @ weight_hh` makes of it.
        """
        place = self.cell.gates.index(letter)
        first, count = place * self.hidden_size, min(self.hidden_size, UNITS)
        rows, zeros = slice(first, first + count), np.zeros(count)
        found = [zeros if w is None else w[rows].numpy() for w in self.weights]
        if transposed:
            block = self.weights[1][first : first + self.hidden_size]
            found[1] = block.T[:count].numpy()
        return found


def meant(kind: Any) -> tuple[Cell, Model | None]:
    """Return the cell that kind names, and its weights if kind is a module."""
    if isinstance(kind, str) and kind in NAMES:
        return CELLS[kind], None
    if isinstance(kind, (nn.RNNBase, nn.RNNCellBase)):
        cell, module = meant_module(kind)
        return cell, Model(cell, module)
    raise _unknown(kind)


def _unknown(kind: Any) -> KindError:
    return KindError(
        say(
            "check_cell: kind must be one of {known}, or an RNN, LSTM or GRU or a cell of theirs, "
            "got {got}",
            known=", ".join(map(repr, NAMES)),
            got=repr(kind) if isinstance(kind, str) else type(kind).__name__,
        )
    )


def meant_module(module: Any) -> tuple[Cell, nn.Module]:
    """Return the cell of a module, and the module."""
    if getattr(module, "proj_size", 0):
        raise ShapeError(
            say(
                "check_cell: a module to compare with must have no projection, got proj_size={got}",
                got=module.proj_size,
            )
        )
    if isinstance(module, nn.RNNBase):
        name = module.mode.lower()
    else:
        kinds = {nn.LSTMCell: "lstm", nn.GRUCell: "gru", nn.RNNCell: "rnn"}
        name = next((name for kind, name in kinds.items() if isinstance(module, kind)), "")
        name += f"_{module.nonlinearity}" if name == "rnn" else ""
    if name == "gru" and not getattr(module, "reset_after", True):
        name = "gru_reset_before"
    if name not in NAMES:
        raise _unknown(module)
    return CELLS[name], module
