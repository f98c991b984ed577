"""The cells of one step: RNNCell, LSTMCell and GRUCell."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import has_torch_function_unary

from elman import ops, shapes
from elman.cells import CELLS, Cell
from elman.nn.modules import GRUS, RecurrentModule, as_hx, call_of_a_stand_in, override

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "StepCell"]


class StepCell(RecurrentModule, torch.nn.RNNCellBase):
    """What RNNCell, LSTMCell and GRUCell share, which is all but their constructors."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        # torch.nn has cells without inputs or units, if hardly on purpose.
        input_size = shapes.size(self, "input_size", input_size, 0)
        hidden_size = shapes.size(self, "hidden_size", hidden_size, 0)
        bias = shapes.truth(self, "bias", bias)
        shapes.check_dtype(self, dtype)
        super().__init__(torch.nn.RNNCellBase)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = len(cell.gates) * hidden_size
        self._add("weight_ih", (rows, input_size), device, dtype)
        self._add("weight_hh", (rows, hidden_size), device, dtype)
        for name in ("bias_ih", "bias_hh"):
            self._add(name, (rows,) if bias else None, device, dtype)
            if not bias:  # as in torch.nn, whose cells have these as None and whose layers have not
                self.register_parameter(name, None)
        self.reset_parameters()

    @property
    @abstractmethod
    def _cell(self) -> Cell:
        """The definition of the cell, as it is at this call."""

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, as torch.nn prints them."""
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias else text + ", bias=False"

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run one time step.

        Args:
            input: (N, H_in), or (H_in,) for one sequence.
            hx: The state before the step, (N, hidden_size), or (hidden_size,) for one sequence;
                for LSTMCell the pair (h, c). Zeros if None.

        Returns:
            The state after the step, shaped as hx: h, or for LSTMCell (h, c).

        Raises:
            ShapeError: a shape, dtype or device disagrees with the cell or the rest of the call.
                It is a ValueError and a RuntimeError.
            KindError: input is no tensor, or hx has not the structure above. It is also a
                TypeError, an AttributeError and an IndexError.
        """
        cell = self._cell
        widths = (self.hidden_size,) * len(cell.states)
        if not is_compiling():
            found = ops.at_once(
                cell, self._parameters, self._layout, input, hx, self.input_size, widths
            )
            if found is not None:
                has_graph, after = found
                return self._as_state(hx, after) if has_graph else as_hx(after)
        if torch.is_autocast_enabled("cpu"):
            return self._autocast(input, hx)
        if has_torch_function_unary(input) and not isinstance(input, Tensor):
            return call_of_a_stand_in(self, input, hx)
        weights = self._weights()
        shape = shapes.check_cell_input(self, input, weights[0])
        states = None
        if hx is not None:
            axes = "N, " if len(shape) == 2 else ""
            states = shapes.check_states(self, hx, shape[:-1], axes, widths, weights[0])
        if len(shape) == 2:
            return self._as_state(hx, self._run(cell, input, states, weights))
        if states is not None:
            states = tuple(state.unsqueeze(0) for state in states)
        results = self._run(cell, input.unsqueeze(0), states, weights)
        return self._as_state(hx, [result.squeeze(0) for result in results])

    # (N, H_in), hx -> the next states
    def _run(
        self, cell: Cell, input: Tensor, states: tuple[Tensor, ...] | None, weights: list[Any]
    ) -> Sequence[Tensor]:
        if cell.reset or (input.is_cpu and not override(weights)):
            return ops.step(cell, input, states, weights)
        if states is None:
            states = (input.new_zeros(len(input), self.hidden_size),) * len(cell.states)
        result = getattr(torch, cell.name + "_cell")(input, as_hx(states), *weights)
        return (result,) if isinstance(result, Tensor) else result


class RNNCell(StepCell, torch.nn.RNNCell):
    """One step of an Elman network, with tanh or ReLU, as torch.nn.RNNCell.

    The equations are those of `elman.cells.rnn_tanh` and `elman.cells.rnn_relu`. Parameters:
    weight_ih (hidden_size, H_in), weight_hh (hidden_size, hidden_size), bias_ih and bias_hh
    (hidden_size,), which are None without bias.

    Args:
        input_size: H_in, the number of features of the input.
        hidden_size: The number of features of the state.
        bias: Whether there are bias_ih and bias_hh.
        nonlinearity: "tanh" or "relu".
        device: Where the parameters are made.
        dtype: The type of the parameters.

    Raises:
        ShapeError: a size is not positive, or nonlinearity is misspelt. It is a ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> cell, h = elman.RNNCell(input_size=3, hidden_size=4), None
        >>> for x in torch.randn(5, 16, 3):  # 5 steps of 16 sequences
        ...     h = cell(x, h)
        >>> h.shape
        torch.Size([16, 4])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        cell = shapes.rnn_cell(self, nonlinearity)
        self.nonlinearity = nonlinearity  # before what can fail, for it is printed
        super().__init__(cell, input_size, hidden_size, bias, device, dtype)

    @property
    def _cell(self) -> Cell:
        if self.nonlinearity == "tanh":  # as most are: found without making a word
            return CELLS["rnn_tanh"]
        return shapes.rnn_cell(self, self.nonlinearity)

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, as torch.nn prints them."""
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


class LSTMCell(StepCell, torch.nn.LSTMCell):
    """One step of a long short-term memory, as torch.nn.LSTMCell.

    The equations are those of `elman.cells.lstm`. Parameters: weight_ih (4 * hidden_size, H_in),
    weight_hh (4 * hidden_size, hidden_size), bias_ih and bias_hh (4 * hidden_size,), each with the
    rows of the gates i, f, g, o in turn; the biases are None without bias.

    Args:
        input_size: H_in, the number of features of the input.
        hidden_size: The number of features of each state.
        bias: Whether there are bias_ih and bias_hh.
        device: Where the parameters are made.
        dtype: The type of the parameters.

    Raises:
        ShapeError: a size is not positive. It is a ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> cell, state = elman.LSTMCell(input_size=3, hidden_size=4), None
        >>> for x in torch.randn(5, 16, 3):  # 5 steps of 16 sequences
        ...     state = h, c = cell(x, state)
        >>> h.shape, c.shape
        (torch.Size([16, 4]), torch.Size([16, 4]))
    """

    _keeps_state_dtype = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(CELLS["lstm"], input_size, hidden_size, bias, device, dtype)

    @property
    def _cell(self) -> Cell:
        return CELLS["lstm"]


class GRUCell(StepCell, torch.nn.GRUCell):
    """One step of a gated recurrent unit, as torch.nn.GRUCell.

    The equations are those of `elman.cells.gru`. Parameters: weight_ih (3 * hidden_size, H_in),
    weight_hh (3 * hidden_size, hidden_size), bias_ih and bias_hh (3 * hidden_size,), each with the
    rows of the gates r, z, n in turn; the biases are None without bias.

    Args:
        input_size: H_in, the number of features of the input.
        hidden_size: The number of features of the state.
        bias: Whether there are bias_ih and bias_hh.
        device: Where the parameters are made.
        dtype: The type of the parameters.
        reset_after: As of `GRU`.

    Raises:
        ShapeError: a size is not positive. It is a ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> cell = elman.GRUCell(input_size=3, hidden_size=4)
        >>> cell(torch.randn(16, 3), torch.zeros(16, 4)).shape
        torch.Size([16, 4])
    """

    _keeps_state_dtype = True
    reset_after = True  # of those that were pickled by torch.nn

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        cell = shapes.gru_cell(self, reset_after)
        super().__init__(cell, input_size, hidden_size, bias, device, dtype)
        self.reset_after = reset_after

    @property
    def _cell(self) -> Cell:
        return GRUS[self.reset_after]

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, as torch.nn prints them."""
        text = super().extra_repr()
        return text if self.reset_after else f"{text}, reset_after=False"
