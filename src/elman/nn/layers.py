"""The layers: RNN, LSTM and GRU, and what they share, with a stack of layers and directions."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Module, Parameter
from torch.nn.functional import dropout as apply_dropout
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.overrides import has_torch_function_unary
from typing_extensions import Unpack

from elman import library, ops, options, shapes
from elman.cells import CELLS, Cell, normalised
from elman.nn.modules import (
    GRUS,
    RecurrentModule,
    as_hx,
    asking,
    call_of_a_stand_in,
    cast,
    override,
)
from elman.options import HasOptions, Options, checked, documented
from elman.shapes import Resets

__all__ = ["GRU", "LSTM", "RNN", "Layer"]

# `mode` of a layer, as torch.nn writes it -> its cell
_MODES = {cell.name.upper(): cell for cell in CELLS.values()}


# The part of resets that is for one layer of a stack.
def _of_layer(resets: Resets | None, layer: int) -> Resets | None:
    if resets is None or not resets.to:
        return resets
    return Resets(resets.mask, tuple(state[layer] for state in resets.to))


@documented
class Layer(RecurrentModule, HasOptions, torch.nn.RNNBase):
    """What RNN, LSTM and GRU share; what determines `_plain_cell` is set before its constructor."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        cell = self._plain_cell
        input_size = shapes.size(self, "input_size", input_size, 1)
        hidden_size = shapes.size(self, "hidden_size", hidden_size, 1)
        num_layers = shapes.size(self, "num_layers", num_layers, 1)
        proj_size = shapes.projection(self, cell, proj_size, hidden_size)
        bias = shapes.flag(self, "bias", bias)
        batch_first = shapes.flag(self, "batch_first", batch_first)
        bidirectional = shapes.truth(self, "bidirectional", bidirectional)
        shapes.check_dtype(self, dtype)
        shapes.check_dropout(self, dropout, num_layers)
        chosen = checked(self, cell, bias, options)
        super().__init__(torch.nn.RNNBase)
        self.mode = "GRU" if cell.onnx_op == "GRU" else cell.name.upper()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        vars(self).update(chosen)

        width = proj_size or hidden_size
        suffixes = ("", "_reverse") if bidirectional else ("",)
        self._num_directions = len(suffixes)
        self._state_widths = (width, *[hidden_size] * (len(cell.states) - 1))
        for layer in range(num_layers):
            parameters = self._shapes(self._cell, width * len(suffixes) if layer else input_size)
            self._parts = len(parameters)
            for suffix in suffixes:
                for name, shape in parameters.items():
                    self._add(f"{name}_l{layer}{suffix}", shape, device, dtype)
        for name, shape in self._initial_layout:
            weight = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, Parameter(weight))
        self.reset_parameters()

    # The parameters of one layer and direction, of which there are `_parts`, in the order in which
    # `elman.ops` takes them; None for one that there is not.
    def _shapes(self, cell: Cell, features: int) -> dict[str, tuple[int, ...] | None]:
        rows, width = len(cell.gates) * self.hidden_size, self._state_widths[0]
        found: dict[str, tuple[int, ...] | None] = {
            "weight_ih": (rows, features),
            "weight_hh": (rows, width),
            "bias_ih": (rows,) if self.bias else None,
            "bias_hh": (rows,) if self.bias else None,
            "weight_hr": (width, self.hidden_size) if self.proj_size else None,
        }
        vectors = {name: (count * self.hidden_size,) for name, count in cell.vectors.items()}
        if "bias_c" in vectors and not self.bias:
            return {**found, **vectors, "bias_c": None}
        return {**found, **vectors}

    # The parameters that are the state before the first step, if it is learnt.
    @property
    def _initial_layout(self) -> list[tuple[str, tuple[int, ...]]]:
        if not self.learn_initial_state:
            return []
        rows = self.num_layers * self._num_directions
        each = zip(self._plain_cell.states, self._state_widths, strict=True)
        return [(f"{letter}_0", (rows, width)) for letter, width in each]

    @property
    def _plain_cell(self) -> Cell:
        """The definition of the cell, without layer normalisation."""
        return _MODES[self.mode]

    @property
    def _cell(self) -> Cell:
        """The definition of the cell, as it is at this call."""
        return normalised(self._plain_cell) if self.layer_norm else self._plain_cell

    def reset_parameters(self) -> None:
        """Draw new parameters from U(-k, k) with k = 1 / sqrt(hidden_size), or as `init` says.

        Gains start from 1 and learnt states from 0; a vector of a cell from what the cell says.
        """
        super().reset_parameters()
        options.initialise(self)

    # RNNBase keeps a list of the parameters beside them, and methods that keep it true. Here what
    # programs read of it is made when it is asked for, and there is nothing to keep.

    @property
    def _all_weights(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """The names of the parameters of each layer and direction."""
        names = [name for name, _ in self._layout]
        starts = range(0, len(names), self._parts)
        return tuple(tuple(filter(None, names[i : i + self._parts])) for i in starts)

    @property
    def _flat_weights_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of all parameters."""
        return tuple(name for name, _ in self._layout if name is not None)

    @property  # type: ignore[override]
    def _flat_weights(self) -> tuple[Any, ...]:
        """The parameters in the order of their names, or what is in their place."""
        return tuple(getattr(self, name, None) for name in self._flat_weights_names)

    @_flat_weights.setter
    def _flat_weights(self, weights: Any) -> None:
        for name, weight in zip(self._flat_weights_names, weights, strict=True):
            if getattr(self, name, None) is not weight:
                setattr(self, name, weight)

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters of each layer and direction, in the order of their names."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing: there is no flat copy of the parameters to update."""

    _init_flat_weights = _update_flat_weights = flatten_parameters

    def _weights_have_changed(self) -> bool:
        return False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()

    __setstate__ = Module.__setstate__
    __setattr__ = Module.__setattr__  # type: ignore[assignment]
    _apply = Module._apply
    _replicate_for_data_parallel = Module._replicate_for_data_parallel

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults, as torch.nn prints them."""
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
            ("reset_after", True),
            *options.DEFAULTS.items(),
        ):
            value = getattr(self, name, default)
            if value != default:
                text += f", {name}={value}"
        return text

    def forward(
        self,
        input: Any,
        hx: Any = None,
        lengths: Any = None,
        reset: Any = None,
        reset_to: Any = None,
    ) -> tuple[Any, Any]:
        """Run over whole sequences.

        Every call starts from hx, or from zeros: a layer does not remember the last one.

        Args:
            input: (L, N, H_in), or (N, L, H_in) if batch_first, or (L, H_in) for one sequence. For
                sequences of different lengths: padded, with their lengths, or a
                torch.nn.utils.rnn.PackedSequence, or a jagged nested tensor (N, L, H_in), whatever
                batch_first. L is at least 1, N may be 0.
            hx: The initial state, zeros if None. h_0 is (D * num_layers, N, H_out), or
                (D * num_layers, H_out) for one sequence; batch_first does not change it. The LSTM
                takes the pair (h_0, c_0), with c_0 (D * num_layers, N, hidden_size).
            lengths: (N,) steps of each sequence of a padded input, integers from 0 to L in any
                order, as a tensor of any integer dtype and device or a list. None if all have L.
                What the input holds past the end of a sequence is not read.
            reset: Where sequences start anew, such as at the first step of an episode: (L, N), laid
                out as input is without its features, bool or 0 and 1. Where it is true, the state
                before that step is the initial one, in every layer, and no gradient flows past.
                None for nowhere. For padded input and one direction.
            reset_to: With reset, what they start from: hx of one sequence, without its batch axis;
                gradients flow to it. Zeros if None.

        Returns:
            output, h_n, or for the LSTM output, (h_n, c_n). output has the last layer's h at every
            step: (L, N, D * H_out), laid out as input is, or packed, or nested; zeros past the end
            of a sequence. h_n and c_n are shaped as hx: each layer, direction and sequence at its
            own last step, in the caller's order, and of a sequence of length 0 its initial state.
            The second direction begins at each sequence's own end. No two of them share memory,
            and gradients flow through all.

        Raises:
            ShapeError: a shape, dtype or device disagrees with the layer or the rest of the call.
                It is a ValueError and a RuntimeError.
            KindError: input is no tensor, or hx has not the structure above. It is also a
                TypeError, an AttributeError and an IndexError.
        """
        if (
            lengths is None
            and reset is None
            and reset_to is None
            and self.num_layers == 1
            and options.is_plain(self)
            and not is_compiling()
        ):
            found = ops.at_once(
                self._cell,
                self._parameters,
                self._layout,
                input,
                hx,
                self.input_size,
                self._state_widths,
                self._num_directions,
                self.batch_first,
            )
            if found is not None:
                has_graph, (output, *final) = found
                if self.batch_first:
                    output = output.transpose(0, 1)
                return output, self._as_state(hx, final) if has_graph else as_hx(final)
        if torch.is_autocast_enabled("cpu"):
            return self._autocast(input, hx, lengths, reset, reset_to)  # type: ignore[no-any-return]
        weights = self._weights()
        if isinstance(input, PackedSequence):
            shapes.check_no_lengths(self, lengths, is_nested=False)
            shapes.check_no_resets(self, reset, is_nested=False)
            return self._forward_packed(input, hx, weights)
        if not isinstance(input, Tensor):
            if has_torch_function_unary(input):
                given = input, hx, lengths, reset, reset_to
                return call_of_a_stand_in(self, *given)  # type: ignore[no-any-return]
        elif input.is_nested:
            shapes.check_no_lengths(self, lengths, is_nested=True)
            shapes.check_no_resets(self, reset, is_nested=True)
            return self._forward_nested(input, hx, weights)

        batch, input, states, lengths, resets = self._padded(
            input, hx, lengths, reset, reset_to, weights
        )
        results = self._run(input, None, states, weights, lengths, resets)
        if not batch:
            results = tuple(result.squeeze(1) for result in results)
        elif self.batch_first:
            results = (results[0].transpose(0, 1), *results[1:])
        return results[0], self._as_state(hx, results[1:])

    # The arguments of a call on padded input, checked: the batch axis, if there is one, and the
    # rest time-major, with that axis.
    def _padded(
        self, input: Tensor, hx: Any, lengths: Any, reset: Any, reset_to: Any, weights: list[Any]
    ) -> tuple[tuple[int, ...], Tensor, tuple[Tensor, ...] | None, Tensor | None, Resets | None]:
        shape = shapes.check_input(self, input, weights[0])
        batch = () if len(shape) == 2 else shape[:1] if self.batch_first else shape[1:2]
        states = self._states(hx, weights[0], batch, shape)
        if lengths is not None:
            seq_len = shape[1 if batch and self.batch_first else 0]
            lengths = shapes.check_lengths(self, lengths, batch, seq_len)
        resets = None
        if reset is not None or reset_to is not None:
            widths = self._state_widths
            resets = shapes.check_resets(self, reset, reset_to, shape, weights[0], widths)
            if resets is not None and reset_to is None and self.learn_initial_state:
                resets = resets._replace(to=self._learnt())
        if not batch:
            if states is not None:
                states = tuple(state.unsqueeze(1) for state in states)
            return batch, input.unsqueeze(1), states, lengths, resets
        if self.batch_first:
            input = input.transpose(0, 1)
        return batch, input, states, lengths, resets

    def burn_in(
        self, input: Tensor, hx: Any = None, reset: Any = None, reset_to: Any = None
    ) -> Any:
        """Return the state after some steps, without gradients, to go on from.

        It brings a state that was stored with older weights up to date (Kapturowski et al. 2019,
        "Recurrent experience replay in distributed reinforcement learning").

        Args:
            input: The first steps, as in a call of the layer, like the others.
            hx: The state before them, zeros if None.
            reset: Where sequences start anew.
            reset_to: What they start from.

        Returns:
            The state after them, shaped as hx.

        Example:
            >>> import elman, torch
            >>> lstm, x = elman.LSTM(3, 4), torch.randn(50, 8, 3)  # 50 steps of 8 sequences
            >>> output, state = lstm(x[10:], lstm.burn_in(x[:10]))
            >>> output.shape
            torch.Size([40, 8, 4])
        """
        with torch.no_grad():
            return self(input, hx, reset=reset, reset_to=reset_to)[1]

    def states(
        self,
        input: Tensor,
        hx: Any = None,
        lengths: Any = None,
        reset: Any = None,
        reset_to: Any = None,
    ) -> dict[str, Tensor]:
        """Return every state of every layer, direction and time step.

        Args:
            input: As in a call of the layer, but not packed or nested; like the others.
            hx: The initial state.
            lengths: The steps of each sequence.
            reset: Where sequences start anew.
            reset_to: What they start from.

        Returns:
            For each letter of the cell's states, "h" and for the LSTM "c",
            (num_layers, D, L, N, .), or (num_layers, D, N, L, .) if batch_first, without N for one
            sequence; the state after each step, and zeros past the end of a sequence. Gradients
            flow through all.

        Raises:
            ShapeError: as in a call of the layer.
            KindError: the same, or input is packed or nested.

        Example:
            >>> import elman, torch
            >>> lstm, x = elman.LSTM(3, 4, num_layers=2), torch.randn(5, 16, 3)
            >>> states = lstm.states(x)
            >>> states["c"].shape
            torch.Size([2, 1, 5, 16, 4])
            >>> torch.equal(states["h"][-1, 0], lstm(x)[0])
            True
        """
        return self._inside(self._cell.states, input, hx, lengths, reset, reset_to)

    # States and gates by their letters, as `states` returns them.
    def _inside(
        self, letters: str, input: Any, hx: Any, lengths: Any, reset: Any, reset_to: Any
    ) -> dict[str, Tensor]:
        cell, directions = self._cell, self._num_directions
        shapes.check_plain(self, input)
        lowered = torch.is_autocast_enabled("cpu")
        may_round = asking(torch.get_autocast_dtype("cpu")) if lowered else nullcontext()
        with torch.autocast("cpu", enabled=False), may_round:
            weights = self._weights()
            if lowered:
                input, hx, reset_to = cast((input, hx, reset_to), weights[0].dtype)
            batch, x, states, lengths, resets = self._padded(
                input, hx, lengths, reset, reset_to, weights
            )
            weights = options.thinned(self, weights)
            found: list[dict[str, Tensor]] = []
            for layer in range(self.num_layers):
                below = x
                if layer and self.dropout and self.training:
                    x = apply_dropout(x, self.dropout)
                rows = slice(layer * directions, (layer + 1) * directions)
                (x, *_), values = ops.inside(
                    cell,
                    x,
                    None if states is None else tuple(state[rows] for state in states),
                    weights[self._parts * rows.start : self._parts * rows.stop],
                    lengths,
                    _of_layer(resets, layer),
                    letters,
                    options.recurrence(self, x, x.shape[1]),
                )
                if layer and self.residual:
                    x = x + below
                found.append(values)
        stacked = {
            letter: found[0][letter].unsqueeze(0)
            if self.num_layers == 1
            else torch.stack([values[letter] for values in found])
            for letter in letters
        }
        if not batch:
            return {letter: value.squeeze(3) for letter, value in stacked.items()}
        if self.batch_first:
            return {letter: value.transpose(2, 3) for letter, value in stacked.items()}
        return stacked

    def _forward_packed(
        self, input: PackedSequence, hx: Any, weights: list[Any]
    ) -> tuple[PackedSequence, Any]:
        data, batch_sizes, order, inverse = input
        batch = shapes.check_packed(self, input, hx, weights[0])
        states = self._states(hx, weights[0], (batch,))
        if states is not None and order is not None:
            states = tuple(state.index_select(1, order) for state in states)
        # A copy, which the caller cannot change before the backward pass.
        output, *final = self._run(data, batch_sizes.clone(), states, weights)
        if inverse is not None:
            final = [state.index_select(1, inverse) for state in final]
        return PackedSequence(output, batch_sizes, order, inverse), as_hx(final)

    def _forward_nested(self, input: Any, hx: Any, weights: list[Any]) -> tuple[Tensor, Any]:
        shapes.check_nested(self, input, weights[0])
        values, offsets = input.values(), input.offsets()
        lengths = offsets.diff()
        batch, seq_len = len(lengths), len(library.times(lengths))
        states = self._states(hx, weights[0], (batch,))
        # Where each row of values stands among the rows of a padded batch, which is time-major.
        sequence = torch.repeat_interleave(lengths, output_size=len(values))
        step = torch.arange(len(values), device=offsets.device) - offsets[sequence]
        place = step * batch + sequence
        padded = values.new_zeros(seq_len, batch, self.input_size).flatten(0, 1)
        padded = padded.index_copy(0, place, values).view(seq_len, batch, self.input_size)
        output, *final = self._run(padded, None, states, weights, lengths)
        values = output.flatten(0, 1).index_select(0, place)
        # It says how long it is, for without that PyTorch pads it to the number of its rows.
        result = torch.nested.nested_tensor_from_jagged(values, offsets, max_seqlen=seq_len)
        return result, as_hx(final)

    # hx as the user gave it -> one (D * num_layers, *batch, .) for each state of the cell; None for
    # zeros
    def _states(
        self, hx: Any, weight: Tensor, batch: tuple[int, ...], input: torch.Size | None = None
    ) -> tuple[Tensor, ...] | None:
        if hx is None:
            if not self.learn_initial_state:
                return None
            learnt = self._learnt()
            return tuple(s.unsqueeze(1).expand(-1, *batch, -1) for s in learnt) if batch else learnt
        outer = (self.num_layers * self._num_directions, *batch)
        axes = "D * num_layers, N, " if batch else "D * num_layers, "
        return shapes.check_states(self, hx, outer, axes, self._state_widths, weight, input)

    # the parameters that are the state before the first step, (D * num_layers, .) each
    def _learnt(self) -> tuple[Tensor, ...]:
        layout = [self._layout[0], *self._initial_layout]  # of one dtype and device
        weight, *states = (getattr(self, str(name)) for name, _ in layout)
        shapes.check_weights(self, layout, [weight, *states])
        return tuple(states)

    # the stack: (L, N, H_in) or (rows, H_in), hx -> output, h_n and, for the LSTM, c_n
    def _run(
        self,
        input: Tensor,
        batch_sizes: Tensor | None,
        states: tuple[Tensor, ...] | None,
        weights: list[Any],
        lengths: Tensor | None = None,
        resets: Resets | None = None,
    ) -> tuple[Tensor, ...]:
        cell = self._cell
        if ops.is_tracing():  # for any length, as the kernels are recorded
            shapes.check_traceable(self, cell, resets, options.acting(self, self.training))
            return self._run_elsewhere(cell, input, batch_sizes, states, weights, lengths)
        is_torchs = cell.is_known and not cell.reset and resets is None
        if (
            is_torchs
            and (not input.is_cpu or override(weights))
            and not options.acting(self, self.training)
        ):
            call = cell, input, batch_sizes, states, weights, lengths
            if self.recompute:
                return tuple(ops.checkpointed(self._run_elsewhere, *call))
            return self._run_elsewhere(*call)
        weights = options.thinned(self, weights)
        batch: Any = 0
        if self.recurrent_dropout and self.training:
            batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
        if self.num_layers == 1:
            more = _of_layer(resets, 0), options.recurrence(self, input, batch), self.recompute
            return ops.layer(cell, input, batch_sizes, states, weights, lengths, *more)
        directions = self._num_directions
        finals = []
        for layer in range(self.num_layers):
            below = input
            if layer and self.dropout and self.training:
                input = apply_dropout(input, self.dropout)
            rows = slice(layer * directions, (layer + 1) * directions)
            input, *final = ops.layer(
                cell,
                input,
                batch_sizes,
                None if states is None else tuple(state[rows] for state in states),
                weights[self._parts * rows.start : self._parts * rows.stop],
                lengths,
                _of_layer(resets, layer),
                options.recurrence(self, input, batch),
                self.recompute,
            )
            if layer and self.residual:
                input = input + below
            finals.append(final)
        return input, *(torch.cat(layers) for layers in zip(*finals, strict=True))

    # the same by PyTorch's own kernels
    def _run_elsewhere(
        self,
        cell: Cell,
        input: Tensor,
        batch_sizes: Tensor | None,
        states: tuple[Tensor, ...] | None,
        weights: list[Any],
        lengths: Tensor | None,
    ) -> tuple[Tensor, ...]:
        if states is None:
            batch: Any = input.shape[1] if batch_sizes is None else batch_sizes[0]
            if not ops.is_tracing():
                batch = int(batch)
            rows = self.num_layers * self._num_directions
            states = tuple(input.new_zeros(rows, batch, width) for width in self._state_widths)
        if lengths is not None and not input.is_meta:  # they do not change what has only a shape
            return self._pack_elsewhere(cell, input, states, weights, lengths)
        options = (
            as_hx(states),
            [weight for weight in weights if weight is not None],
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            bool(self.bidirectional),
        )
        kernel = getattr(torch, cell.name)
        if batch_sizes is None:
            return tuple(kernel(input, *options, False))  # time-major, so not batch_first
        return tuple(kernel(input, batch_sizes, *options))

    # the same for padded sequences, which are packed for it; those that have no step run for one
    # that nobody sees
    def _pack_elsewhere(
        self,
        cell: Cell,
        input: Tensor,
        states: tuple[Tensor, ...],
        weights: list[Any],
        lengths: Tensor,
    ) -> tuple[Tensor, ...]:
        packed = pack_padded_sequence(input, lengths.cpu().clamp(min=1), enforce_sorted=False)
        data, batch_sizes, order, inverse = packed
        assert order is not None
        assert inverse is not None
        states_in_order = tuple(state.index_select(1, order) for state in states)
        output, *final = self._run_elsewhere(
            cell, data, batch_sizes, states_in_order, weights, None
        )
        output, _ = pad_packed_sequence(packed._replace(data=output), total_length=input.shape[0])
        lived = (lengths > 0).to(input.device)[:, None]
        return (
            torch.where(lived, output, 0),
            *(
                torch.where(lived, after.index_select(1, inverse), before)
                for after, before in zip(final, states, strict=True)
            ),
        )


@documented
class RNN(Layer):
    """An Elman network of one or more layers, with tanh or ReLU, as torch.nn.RNN.

    The equations are those of `elman.cells.rnn_tanh` and `elman.cells.rnn_relu`. Parameters, for
    layer k and with the suffix _reverse for the second direction: weight_ih_l{k}
    (hidden_size, H_in), weight_hh_l{k} (hidden_size, hidden_size), bias_ih_l{k} and bias_hh_l{k}
    (hidden_size,), where H_in of the layers after the first is D * hidden_size.

    Args:
        input_size: H_in, the number of features of the input at each step.
        hidden_size: H_out, the number of features of the state.
        num_layers: Layers stacked on each other.
        nonlinearity: "tanh" or "relu".
        bias: Whether there are bias_ih and bias_hh.
        batch_first: Whether input and output are (N, L, features) and not (L, N, features). The
            state is (D * num_layers, N, H_out) either way.
        dropout: The probability of zeroing an element between layers, in training.
        bidirectional: Whether a second set of parameters runs backwards in time; output has both
            side by side.
        proj_size: For LSTM only, so 0.
        device: Where the parameters are made.
        dtype: The type of the parameters.
        **options: The keyword arguments of `elman.options.Options`, all off by default.

    Raises:
        ShapeError: a size is not positive, dropout is not in [0, 1], nonlinearity is misspelt, or
            proj_size is given. It is a ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> rnn = elman.RNN(input_size=3, hidden_size=2, batch_first=True)
        >>> output, h_n = rnn(torch.randn(16, 5, 3))  # 16 sequences of 5 steps
        >>> output.shape, h_n.shape
        (torch.Size([16, 5, 2]), torch.Size([1, 16, 2]))
        >>> torch.equal(output[:, -1], h_n[0])
        True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.mode = shapes.rnn_cell(self, nonlinearity).name.upper()
        shared = input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        super().__init__(*shared, proj_size, device, dtype, **options)
        self.nonlinearity = nonlinearity


@documented
class LSTM(Layer):
    """A long short-term memory of one or more layers, as torch.nn.LSTM.

    The equations are those of `elman.cells.lstm`. Parameters, for layer k and with the suffix
    _reverse for the second direction: weight_ih_l{k} (4 * hidden_size, H_in), weight_hh_l{k}
    (4 * hidden_size, H_out), bias_ih_l{k} and bias_hh_l{k} (4 * hidden_size,), each with the rows
    of the gates i, f, g, o in turn, and with a projection weight_hr_l{k} (proj_size, hidden_size).
    H_in of the layers after the first is D * H_out.

    Args:
        input_size: H_in, the number of features of the input at each step.
        hidden_size: The number of features of the cell state, and of h without a projection.
        num_layers: Layers stacked on each other.
        bias: Whether there are bias_ih and bias_hh.
        batch_first: Whether input and output are (N, L, features) and not (L, N, features). The
            state is (D * num_layers, N, .) either way.
        dropout: The probability of zeroing an element between layers, in training.
        bidirectional: Whether a second set of parameters runs backwards in time; output has both
            side by side.
        proj_size: If not 0, h is projected to this many features, fewer than hidden_size.
        device: Where the parameters are made.
        dtype: The type of the parameters.
        **options: The keyword arguments of `elman.options.Options`, all off by default.

    Raises:
        ShapeError: a size is out of range, or dropout is not in [0, 1]. It is a ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> lstm = elman.LSTM(input_size=3, hidden_size=4, num_layers=2, bidirectional=True)
        >>> output, (h_n, c_n) = lstm(torch.randn(5, 16, 3))  # 5 steps of 16 sequences
        >>> output.shape, h_n.shape, c_n.shape
        (torch.Size([5, 16, 8]), torch.Size([4, 16, 4]), torch.Size([4, 16, 4]))
    """

    mode = "LSTM"

    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]


@documented
class GRU(Layer):
    """A gated recurrent unit of one or more layers, as torch.nn.GRU.

    The equations are those of `elman.cells.gru`. Parameters, for layer k and with the suffix
    _reverse for the second direction: weight_ih_l{k} (3 * hidden_size, H_in), weight_hh_l{k}
    (3 * hidden_size, hidden_size), bias_ih_l{k} and bias_hh_l{k} (3 * hidden_size,), each with the
    rows of the gates r, z, n in turn. H_in of the layers after the first is D * hidden_size.

    Args:
        input_size: H_in, the number of features of the input at each step.
        hidden_size: H_out, the number of features of the state.
        num_layers: Layers stacked on each other.
        bias: Whether there are bias_ih and bias_hh.
        batch_first: Whether input and output are (N, L, features) and not (L, N, features). The
            state is (D * num_layers, N, H_out) either way.
        dropout: The probability of zeroing an element between layers, in training.
        bidirectional: Whether a second set of parameters runs backwards in time; output has both
            side by side.
        proj_size: For LSTM only, so 0.
        device: Where the parameters are made.
        dtype: The type of the parameters.
        reset_after: Whether the reset gate acts on W_hn h + b_hn, as in PyTorch, or, if False, on h
            before the product, as in the paper: `elman.cells.gru_reset_before`.
        **options: The keyword arguments of `elman.options.Options`, all off by default.

    Raises:
        ShapeError: a size is not positive, dropout is not in [0, 1], or proj_size is given. It is a
            ValueError.
        KindError: an argument has the wrong type. It is a TypeError too.

    Example:
        >>> import elman, torch
        >>> from torch.nn.utils.rnn import pack_sequence
        >>> gru = elman.GRU(input_size=3, hidden_size=4)
        >>> sequences = [torch.randn(2, 3), torch.randn(5, 3)]
        >>> output, h_n = gru(pack_sequence(sequences, enforce_sorted=False))
        >>> torch.testing.assert_close(h_n[0, 0], gru(sequences[0])[1][0])  # at its own last step
    """

    _keeps_state_dtype = True
    reset_after = True  # of those that were pickled by torch.nn

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        **options: Unpack[Options],
    ) -> None:
        shapes.gru_cell(self, reset_after)
        self.reset_after = reset_after
        shared = input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        super().__init__(*shared, proj_size, device, dtype, **options)

    @property
    def _plain_cell(self) -> Cell:
        return GRUS[self.reset_after]
