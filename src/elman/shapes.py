"""Every rule about sizes, dtypes, devices and arguments, each with its one error text.

A message says who was called, with which argument, the rule in symbols and in the numbers of this
call, what came instead, and what to do. The checks on the way of a call are comparisons; a message
is only built when one has failed. Nothing is changed by a call that fails.

Symbols: L time steps, N sequences in the batch, D directions, H_in = input_size, H_out = proj_size
or else hidden_size.
"""

import operator
import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman.cells import CELLS, Cell
from elman.language import say

__all__ = [
    "KindError",
    "LazyError",
    "Recurrence",
    "Resets",
    "ShapeError",
    "UnreadableError",
    "check_cell_input",
    "check_dropout",
    "check_dtype",
    "check_given",
    "check_input",
    "check_lengths",
    "check_nested",
    "check_no_lengths",
    "check_no_resets",
    "check_operands",
    "check_operator",
    "check_packed",
    "check_plain",
    "check_range",
    "check_resets",
    "check_sizes",
    "check_states",
    "check_traceable",
    "check_weights",
    "flag",
    "gru_cell",
    "projection",
    "refuse_memory",
    "rnn_cell",
    "size",
    "truth",
]


class ShapeError(ValueError, RuntimeError):
    """A size, dtype, device or value disagrees with the rest of the call.

    torch.nn raises now ValueError and now RuntimeError for these, so code that catches either
    catches this.
    """


class KindError(ShapeError, TypeError, AttributeError, IndexError):
    """An argument has the wrong type.

    Such as a list where a tensor goes, a tensor where a pair goes, or a state without a batch axis.

    torch.nn raises TypeError, AttributeError or IndexError for these, by which line of it fails
    first.
    """


class UnreadableError(ShapeError):
    """A tensor is not, or not any more, the plain memory that a computation is to read."""


class LazyError(UnreadableError):
    """A tensor has no memory of its own, but PyTorch may know what it stands for."""


class Resets(NamedTuple):
    """Where sequences of a padded batch start anew.

    Attributes:
        mask: (L, N) bool or uint8, true before the steps that a sequence begins with a new state.
        to: What it begins with, (width,) for each state; none for zeros.
    """

    mask: Tensor
    to: tuple[Tensor, ...] = ()


class Recurrence(NamedTuple):
    """What acts in the recurrence of a layer at every step, beyond its cell.

    None for what does not act; where nothing does, there is no Recurrence.

    Attributes:
        drop: (D, N, H_out), factors of h in the recurrent product: 0, or 1 / (1 - p). With a reset
            gate before the product, factors of the h that it leaves.
        zone_h: Where h stays as it was before the step: bool, (D, L, N, H_out), or (D, rows, H_out)
            of a packed batch. Or a number p, for p times h before and 1 - p times h after it.
        zone_c: The same for c, with hidden_size features.
        clip: The largest absolute value of c, from which h is then made.
    """

    drop: Tensor | None = None
    zone_h: Tensor | float | None = None
    zone_c: Tensor | float | None = None
    clip: float | None = None


class Layer(Protocol):
    """What the checks read from a layer."""

    input_size: int
    batch_first: bool


class StepCell(Protocol):
    """What the checks read from a cell module."""

    input_size: int


# --- constructors -----------------------------------------------------------------------------


def size(who: object, name: str, value: Any, least: int) -> int:
    """Return a size as an int; anything with __index__ goes, as a NumPy integer or a tensor does.

    Raises:
        KindError: it is no integer.
        ShapeError: it is less than `least`.
    """
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        _fail(
            who,
            "{name} must be an int, got {got} ({kind})",
            KindError,
            name=name,
            got=repr(value),
            kind=_name(value),
        )
    if number < least:
        _fail(who, "{name} must be at least {least}, got {got}", name=name, least=least, got=number)
    if isinstance(value, bool):
        _warn(
            "{who}: {name} must be a number, got {got}, which counts as {number}",
            who=_name(who),
            name=name,
            got=value,
            number=number,
        )
    if name == "hidden_size" and number == 0:
        _warn(
            "{who}: hidden_size must be at least 1, got 0: the state has no features",
            who=_name(who),
        )
    return number


def projection(who: object, cell: Cell, value: Any, hidden_size: int) -> int:
    """Return proj_size as an int, 0 for no projection.

    Raises:
        KindError: it is no integer.
        ShapeError: it is not less than hidden_size, or the cell cannot project its state.
    """
    proj_size = size(who, "proj_size", value, 0)
    if cell.name != "lstm" and proj_size != 0:
        _fail(who, "proj_size must be 0, got {got}: only LSTM can project its state", got=proj_size)
    if proj_size >= hidden_size:
        _fail(
            who,
            "proj_size must be from 1 to hidden_size - 1 = {most}, or 0 for no projection, got "
            "{got}",
            most=hidden_size - 1,
            got=proj_size,
        )
    return proj_size


def flag(who: object, name: str, value: Any) -> bool:
    """Return an argument that must be True or False.

    Raises:
        KindError: it is neither.
    """
    if not isinstance(value, bool):
        _fail(who, "{name} must be True or False, got {got}", KindError, name=name, got=repr(value))
    return value


def truth(who: object, name: str, value: Any) -> bool:
    """Return the truth of an argument for which torch.nn takes whatever has one.

    1, 0 and None are in use; what else is not equal to True or False is surely a mistake, such as a
    word or a number of layers, and is warned of.

    Raises:
        KindError: it has no truth.
    """
    try:
        result, is_meant = bool(value), value is None or value in (True, False)
    except (TypeError, ValueError, RuntimeError):  # an array
        _fail(who, "{name} must be True or False, got {got}", KindError, name=name, got=repr(value))
    if not is_meant:
        _warn(
            "{who}: {name} must be True or False, got {got}, which counts as {result}",
            who=_name(who),
            name=name,
            got=repr(value),
            result=result,
        )
    return result


def check_dtype(who: object, dtype: torch.dtype | None) -> None:
    """Check the type of the parameters.

    Raises:
        ShapeError: it cannot carry gradients.
    """
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        _fail(
            who,
            "dtype must be a floating point type, got {got}: integers have no gradients",
            got=dtype,
        )


def check_dropout(who: object, dropout: float, num_layers: int) -> None:
    """Check the dropout of a layer, and warn if there is nowhere to apply it.

    Raises:
        KindError: dropout is not a number.
        ShapeError: dropout is not in [0, 1].
    """
    if not isinstance(dropout, Number) or isinstance(dropout, bool):
        _fail(who, "dropout must be a number in [0, 1], got {got}", KindError, got=repr(dropout))
    if not 0 <= dropout <= 1:
        _fail(
            who,
            "dropout must be in [0, 1], got {got}: it is the probability of zeroing elements",
            got=dropout,
        )
    if dropout > 0 and num_layers == 1:
        _warn(
            "{who}: dropout acts between layers, so dropout={dropout} does nothing with "
            "num_layers=1: add layers, or apply torch.nn.Dropout to the output",
            who=_name(who),
            dropout=dropout,
        )


def rnn_cell(who: object, nonlinearity: str) -> Cell:
    """Return the cell of the given nonlinearity.

    Raises:
        ShapeError: nonlinearity is neither "tanh" nor "relu".
    """
    cell = CELLS.get(f"rnn_{nonlinearity}")
    if cell is None:
        _fail(who, "nonlinearity must be 'tanh' or 'relu', got {got}", got=repr(nonlinearity))
    return cell


def gru_cell(who: object, reset_after: bool) -> Cell:
    """Return the GRU whose reset gate acts after or before the product.

    Raises:
        KindError: reset_after is not a bool.
    """
    if not isinstance(reset_after, bool):
        _fail(who, "reset_after must be True or False, got {got}", KindError, got=repr(reset_after))
    return CELLS["gru" if reset_after else "gru_reset_before"]


# At the line of the caller: the first that is not elman's.
def _warn(sentence: str, /, **values: Any) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("elman."):
        level, frame = level + 1, frame.f_back
    warnings.warn(say(sentence, **values), stacklevel=level)


# --- calls ------------------------------------------------------------------------------------


def check_weights(
    who: object,
    layout: Sequence[tuple[str | None, tuple[int, ...] | None]],
    weights: Sequence[Tensor | None],
) -> None:
    """Check that the parameters, as they are now, have their shapes and one dtype and device.

    A parameter that was replaced or reassigned may have any. `layout` has the name and shape of
    each, None for a parameter that the module does not have.

    Raises:
        KindError: a parameter is not a tensor.
        ShapeError: a shape, dtype or device is not the module's.
    """
    first: Tensor | None = None
    for (name, shape), weight in zip(layout, weights, strict=True):
        if shape is None:
            continue
        if not isinstance(weight, Tensor):
            _fail(
                who, "{name} must be a tensor, got {got}", KindError, name=name, got=_name(weight)
            )
        if weight.shape != shape:
            _fail(
                who,
                "{name} must be {shape}, got {got}",
                name=name,
                shape=shape,
                got=tuple(weight.shape),
            )
        if first is None:
            first, dtype, device = weight, weight.dtype, weight.device
        elif weight.dtype is not dtype or weight.device != device:
            _check_kind(who, str(name), weight, first, str(layout[0][0]))


def check_input(layer: Layer, input: Tensor, weight: Tensor) -> torch.Size:
    """Check the input of a layer, (L, N, H_in) or (N, L, H_in) if batch_first, or (L, H_in).

    Returns:
        The shape of input.

    Raises:
        KindError: input is not a tensor.
        ShapeError: its rank, features, length, dtype or device is wrong.
    """
    if not isinstance(input, Tensor):
        _not_a_tensor(layer, input, say("a tensor or a PackedSequence"))
    shape = input.shape
    rank = len(shape)
    if rank != 3 and rank != 2:
        remedy = say("reshape it")
        if rank == 1:
            remedy = say("use input.unsqueeze(-1) for one feature")
        _fail(
            layer,
            "input must be {axes} or, for one sequence, (L, H_in), got {got}: {remedy}",
            axes="(N, L, H_in)" if layer.batch_first else "(L, N, H_in)",
            got=tuple(shape),
            remedy=remedy,
        )
    if shape[-1] != layer.input_size:
        _wrong_features(layer, shape, layer.input_size)
    if shape[1 if rank == 3 and layer.batch_first else 0] == 0:
        _fail(
            layer,
            "input must have at least one time step, got L = 0 in {shape}",
            shape=tuple(shape),
        )
    if input.dtype is not weight.dtype or input.device != weight.device:
        _check_kind(layer, "input", input, weight)
    return shape


def check_resets(
    who: Any,
    reset: Any,
    reset_to: Any,
    shape: torch.Size,
    weight: Tensor,
    widths: tuple[int, ...],
) -> Resets | None:
    """Check where sequences start anew, and from what.

    Args:
        who: The layer.
        reset: A mask of the time steps, bool or 0 and 1 of any dtype, laid out as the input is
            without its features; None for nowhere.
        reset_to: What they start from, as hx of one sequence; None for zeros.
        shape: That of the input.
        weight: A parameter: the states have its dtype and device.
        widths: The last axis of each state.

    Returns:
        The mask, (L, N) bool, and each state as (num_layers, .); None for nowhere.

    Raises:
        KindError: reset is no tensor, or there is reset_to without it.
        ShapeError: a shape, dtype or value is wrong, or the layer has two directions.
    """
    if reset is None:
        if reset_to is not None:
            _fail(who, "reset_to must come with reset, got none: pass both", KindError)
        return None
    if who.bidirectional:
        _fail(
            who,
            "reset must be None for two directions, got a mask: the second direction reads each "
            "piece from its end, which one call does not know; pass the pieces as sequences",
        )
    try:
        # An array is copied: the backward pass reads the mask, and would not see it change.
        mask = reset if isinstance(reset, Tensor) else torch.tensor(reset)
    except (TypeError, ValueError, RuntimeError):
        _fail(who, "reset must be a tensor of bool, got {got}", KindError, got=_name(reset))
    if mask.shape != shape[:-1]:
        axes = "(L,)" if len(shape) == 2 else "(N, L)" if who.batch_first else "(L, N)"
        _fail(
            who,
            "reset must be {axes} = {shape}, one for each time step, got {got}",
            axes=axes,
            shape=tuple(shape[:-1]),
            got=tuple(mask.shape),
        )
    if mask.dtype is not torch.bool:
        is_known = not (_is_recorded() or torch._C._are_functorch_transforms_active())
        if is_known and not ((mask == 0) | (mask == 1)).all():
            _fail(who, "reset must be bool, or 0 and 1, got other numbers: use reset > 0")
        mask = mask != 0
    if len(shape) == 2:
        mask = mask.unsqueeze(1)
    elif who.batch_first:
        mask = mask.transpose(0, 1)
    if reset_to is None:
        return Resets(mask)
    outer, axes = (who.num_layers,), "num_layers, "
    return Resets(mask, check_states(who, reset_to, outer, axes, widths, weight, what="reset_to"))


def check_lengths(who: object, lengths: Any, batch: tuple[int, ...], seq_len: int) -> Tensor:
    """Check the lengths of a padded input, a list or a tensor (N,) of integers from 0 to L.

    Returns:
        The lengths, int64. Where a graph is made of the call, or functions are transformed, their
        values are not looked at: `check_range` does it when they are known.

    Raises:
        KindError: lengths are not integers, or the input has no batch axis.
        ShapeError: there are not N of them, or one is out of range.
    """
    if not batch:
        _fail(
            who,
            "lengths must be None for one sequence without a batch axis, got {got}: cut the input, "
            "input[:length]",
            KindError,
            got=_name(lengths),
        )
    try:
        steps = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        _fail(
            who,
            "lengths must be integers, got {got}: {error}",
            KindError,
            got=repr(lengths),
            error=error,
        )
    if steps.numel() and not _is_integer(steps):
        _fail(
            who,
            "lengths must be integers, got {got}: use a list of int, or lengths.long()",
            KindError,
            got=steps.dtype,
        )
    if steps.shape != batch:
        _fail(
            who,
            "lengths must be (N,) = {batch}, one for each sequence, got {got}: {remedy}",
            batch=tuple(batch),
            got=tuple(steps.shape),
            remedy=_lengths(),
        )
    # A copy, which the caller cannot change before the backward pass.
    steps = steps.to(torch.int64, copy=True)
    if not (_is_recorded() or torch._C._are_functorch_transforms_active()):
        check_range(who, steps, seq_len)
    return steps


def check_range(who: object, lengths: Tensor, seq_len: int) -> None:
    """Check that lengths are from 0 to seq_len.

    Raises:
        ShapeError: one of them is not.
    """
    if lengths.is_meta or not lengths.numel():
        return
    least, most = (int(bound) for bound in torch.aminmax(lengths))
    if least < 0 or most > seq_len:
        wrong = least if least < 0 else most
        _fail(
            who,
            "lengths must be from 0 to L = {seq_len}, got {got}: {remedy}",
            seq_len=seq_len,
            got=wrong,
            remedy=_lengths(),
        )


def check_no_lengths(who: object, lengths: Any, is_nested: bool) -> None:
    """Check that an input which says its lengths itself, nested or packed, comes without others.

    Raises:
        ShapeError: there are lengths.
    """
    if lengths is None:
        return
    got = _name(lengths)
    if is_nested:
        _fail(who, "lengths must be None with a nested tensor, got {got}: it has its own", got=got)
    _fail(who, "lengths must be None with a PackedSequence, got {got}: it has its own", got=got)


def check_nested(layer: Layer, input: Any, weight: Tensor) -> None:
    """Check a nested input: jagged, (N, L, H_in), its rows one after another.

    Raises:
        ShapeError: its layout, rank, features, dtype or device is wrong.
    """
    if input.layout is not torch.jagged:
        _fail(
            layer,
            "a nested input must have layout torch.jagged, got {got}: {remedy}",
            got=input.layout,
            remedy=_nest(),
        )
    if input.dim() != 3:
        _fail(
            layer,
            "a nested input must be (N, L, H_in), ragged in L, and contiguous, got rank {got}: "
            "{remedy}",
            got=input.dim(),
            remedy=_nest(),
        )
    if not input.is_contiguous():
        _fail(
            layer,
            "a nested input must be (N, L, H_in), ragged in L, and contiguous, got rank {got}, not "
            "contiguous: {remedy}",
            got=input.dim(),
            remedy=_nest(),
        )
    values = input.values()
    if values.shape[-1] != layer.input_size:
        _wrong_features(layer, values.shape, layer.input_size, "input.values()")
    _check_kind(layer, "input", values, weight)


def check_packed(layer: Layer, input: PackedSequence, hx: Any, weight: Tensor) -> int:
    """Check a packed input: data (rows, H_in), and batch_sizes that add up to rows.

    Returns:
        N, the number of sequences. Where a graph is made of the call, the values of batch_sizes are
        not looked at: `check_sizes` does it when they are known, and N is what sorted_indices or hx
        make it.

    Raises:
        ShapeError: data or batch_sizes is wrong, or they do not belong together.
    """
    data, batch_sizes, order, _ = input
    if data.dim() != 2:
        _fail(
            layer,
            "input.data must be (rows, H_in), got {got}: {remedy}",
            got=tuple(data.shape),
            remedy=_pack(),
        )
    if data.shape[1] != layer.input_size:
        _wrong_features(layer, data.shape, layer.input_size, "input.data")
    if batch_sizes.dtype is not torch.int64 or batch_sizes.dim() != 1 or not len(batch_sizes):
        _fail(
            layer,
            "input.batch_sizes must be int64 of shape (L,) with L at least 1, got {got} of shape "
            "{shape}: {remedy}",
            KindError,
            got=batch_sizes.dtype,
            shape=tuple(batch_sizes.shape),
            remedy=_pack(),
        )
    if not _is_recorded():
        batch = check_sizes(layer, batch_sizes, len(data))
    elif order is not None:
        batch = len(order)
    else:
        state = hx[0] if isinstance(hx, (tuple, list)) and hx else hx
        batch = state.shape[1] if isinstance(state, Tensor) and state.dim() == 3 else 0
    if order is not None and order.shape != (batch,):
        _fail(
            layer,
            "input.sorted_indices must be (N,) = ({batch},), got {got}: {remedy}",
            batch=batch,
            got=tuple(order.shape),
            remedy=_pack(),
        )
    _check_kind(layer, "input", data, weight)
    return batch


def check_sizes(who: object, batch_sizes: Tensor, rows: int, batch: int | None = None) -> int:
    """Check that batch_sizes are those of a packed batch of so many rows, and of N if it is known.

    Returns:
        N, the number of sequences.

    Raises:
        ShapeError: one is not positive or larger than the one before, or the sum is not rows, or
            the first is not N.
    """
    sizes = batch_sizes.tolist()
    if sizes[-1] < 1 or sizes != sorted(sizes, reverse=True):
        _fail(
            who,
            "input.batch_sizes must be positive and never grow, got {got}: {remedy}",
            got=sizes,
            remedy=_pack(),
        )
    if sum(sizes) != rows:
        _fail(
            who,
            "input.data must have one row per step of a sequence, sum(batch_sizes) = {sizes} rows, "
            "got {got}: {remedy}",
            sizes=sum(sizes),
            got=rows,
            remedy=_pack(),
        )
    if batch is not None and sizes[0] != batch:
        _fail(
            who,
            "input.batch_sizes must begin with N = {batch}, the sequences of hx, got {got}: "
            "{remedy}",
            batch=batch,
            got=sizes[0],
            remedy=_pack(),
        )
    return int(sizes[0])


def check_cell_input(cell: StepCell, input: Tensor, weight: Tensor) -> torch.Size:
    """Check the input of a cell module, (N, H_in) or (H_in,).

    Returns:
        The shape of input.

    Raises:
        KindError: input is not a tensor.
        ShapeError: its rank, features, dtype or device is wrong.
    """
    if not isinstance(input, Tensor):
        _not_a_tensor(cell, input, say("a tensor"))
    shape = input.shape
    rank = len(shape)
    if rank != 2 and rank != 1:
        layer = _name(cell).removesuffix("Cell")
        _fail(
            cell,
            "input must be (N, H_in) or (H_in,), got {got}: a cell takes one time step; call it "
            "for each, or use {layer} for whole sequences",
            got=tuple(shape),
            layer=layer,
        )
    if shape[-1] != cell.input_size:
        _wrong_features(cell, shape, cell.input_size)
    if input.dtype is not weight.dtype or input.device != weight.device:
        _check_kind(cell, "input", input, weight)
    return shape


def check_states(
    who: object,
    hx: Any,
    outer: tuple[int, ...],
    axes: str,
    widths: tuple[int, ...],
    weight: Tensor,
    input: torch.Size | None = None,
    what: str = "hx",
) -> tuple[Tensor, ...]:
    """Check the initial state, or what is given in its place.

    Args:
        who: The module.
        hx: A tensor, or for the LSTM two, as the user gave it.
        outer: The shape of every state but for its last axis.
        axes: The same in symbols, such as "D * num_layers, N, ".
        widths: The last axis of each state.
        weight: A parameter: the states have its dtype and device.
        input: The shape of a batched input, to recognise a batch that came the other way round.
        what: The argument: "hx", or "reset_to", which has no batch axis.

    Returns:
        The states as a tuple.

    Raises:
        KindError: hx is not a tensor, or not a pair of tensors, or has another number of axes.
        ShapeError: the shape, dtype or device of a state is wrong.
    """
    states: tuple[Any, ...]
    if len(widths) == 1:
        states = (hx,)
    elif isinstance(hx, (tuple, list)) and len(hx) == len(widths):
        states = tuple(hx)
    else:
        _wrong_structure(who, hx, len(widths), what)
    for i, state in enumerate(states):
        if not isinstance(state, Tensor):
            _wrong_structure(who, hx, len(widths), what)
        if state.shape != (*outer, widths[i]):
            name, shape = _initial(who, what)[i], (*outer, widths[i])
            _wrong_state(who, name, tuple(state.shape), shape, axes, input, what)
        if state.dtype is not weight.dtype or state.device != weight.device:
            _check_kind(who, _initial(who, what)[i], state, weight)
    return states


def check_plain(who: object, input: Any) -> None:
    """Check that an input is neither packed nor nested.

    Raises:
        KindError: it is.
    """
    if not isinstance(input, Tensor) or input.is_nested:
        _fail(
            who,
            "input must be a padded tensor here, got {got}: pass the padded input and lengths=",
            KindError,
            got=say("a nested tensor") if isinstance(input, Tensor) else _name(input),
        )


def check_no_resets(who: object, reset: Any, is_nested: bool) -> None:
    """Check that there is no reset, for input that has not a step of every sequence at every time.

    Raises:
        KindError: there is one.
    """
    if reset is None:
        return
    if is_nested:
        _fail(
            who,
            "reset must be None for a nested tensor, got {got}: pass the padded input and lengths=",
            KindError,
            got=_name(reset),
        )
    else:
        _fail(
            who,
            "reset must be None for a PackedSequence, got {got}: pass the padded input and "
            "lengths=",
            KindError,
            got=_name(reset),
        )


def check_traceable(
    who: object, cell: Cell, resets: Resets | None, options: Mapping[str, Any]
) -> None:
    """Check that torch.jit.trace can record a layer, with such options, for any number of steps.

    Raises:
        ShapeError: PyTorch has no kernel of the cell, and a trace would hold so many steps.
    """
    if cell.reset is not None:
        _fail(
            who,
            "reset_after must be True in torch.jit.trace, got False: a trace would hold for one "
            "number of steps; use torch.export, or elman.onnx.export",
        )
    for option, value in options.items():
        _fail(
            who,
            "{option} must be off in torch.jit.trace, got {got}: a trace would hold for one number "
            "of steps; use torch.export",
            option=option,
            got=value,
        )
    if resets is not None:
        _fail(
            who,
            "reset must be None in torch.jit.trace, got a mask: a trace would hold for one number "
            "of steps; use torch.compile",
        )
    if not cell.is_known:
        _fail(
            who,
            "the cell must be one of torch.nn in torch.jit.trace, got {got}: a trace would hold "
            "for one number of steps; use torch.export, or elman.onnx.export",
            got=cell.name,
        )


def refuse_memory(
    who: object, what: str, tensor: Tensor, dtype: torch.dtype, count: int | None
) -> NoReturn:
    """Say why a tensor cannot be read as `count` values of this dtype in memory of the CPU.

    `count` is None if any number will do.

    Raises:
        UnreadableError: always.
    """
    error = UnreadableError
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and torch._C._has_storage(tensor)
    remedy = say("leave the tensors of a call as they are until its backward pass")
    if tensor.dtype is not dtype:
        got = str(tensor.dtype)
    elif tensor.device.type != "cpu":
        got = say("a tensor on {device}", device=tensor.device)
    elif count is not None and tensor.numel() != count:
        got = str(tuple(tensor.shape))
    elif is_plain and not tensor._is_zerotensor():
        got = say("a storage of {count} bytes", count=tensor.untyped_storage().nbytes())
        remedy = say("it was freed, as FSDP frees weights between their uses; call what it wraps")
    else:
        got = say("{kind} without any", kind=_name(tensor))
        remedy, error = say("use a plain tensor"), LazyError
    if count is None:
        _fail(
            who,
            "{what} must be values of {dtype} in memory of the CPU, got {got}: {remedy}",
            error,
            what=what,
            dtype=dtype,
            got=got,
            remedy=remedy,
        )
    else:
        _fail(
            who,
            "{what} must be {count} values of {dtype} in memory of the CPU, got {got}: {remedy}",
            error,
            what=what,
            count=count,
            dtype=dtype,
            got=got,
            remedy=remedy,
        )


def check_operator(who: str, name: str, read: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """Check what an operator of `elman.library` reads, as the modules check it for themselves.

    Also the values of lengths and batch_sizes, which nobody could look at while a graph was made.

    Returns:
        The shapes of output, h_n and c_n, whether the cell has a c or not.

    Raises:
        ShapeError: a size, dtype, device or value is wrong.
    """
    if name not in CELLS:
        _fail(who, "cell must be one of {names}, got {got}", names=", ".join(CELLS), got=repr(name))
    cell = CELLS[name]
    input, batch_sizes, lengths, resets, h_0, c_0, h_to, c_to, *weights = read
    w_ih, w_hh, _, _, w_hr = weights[:5]
    check_given(who, input=input, w_ih=w_ih, w_hh=w_hh)
    if input.dim() != (3 if batch_sizes is None else 2) or len(input) == 0:
        got = tuple(input.shape)
        if batch_sizes is None:
            _fail(who, "input must be (L, N, H_in) of at least one step, got {got}", got=got)
        else:
            _fail(
                who,
                "input must be (rows, H_in), with batch_sizes, of at least one step, got {got}",
                got=got,
            )
    if batch_sizes is None:
        batch = input.shape[1]
        if lengths is not None:
            check_range(who, check_lengths(who, lengths, (batch,), len(input)), len(input))
    elif lengths is not None:
        _fail(who, "lengths must be None with batch_sizes, got both")
    elif batch_sizes.dtype is not torch.int64 or batch_sizes.dim() != 1 or not len(batch_sizes):
        _fail(
            who,
            "batch_sizes must be int64 of shape (L,) with L at least 1, got {got} of shape {shape}",
            got=batch_sizes.dtype,
            shape=tuple(batch_sizes.shape),
        )
    else:
        known = h_0.shape[1] if h_0 is not None and h_0.dim() == 3 else None
        batch = check_sizes(who, batch_sizes, len(input), known)

    directions = 1 if weights[5] is None else 2
    gates, features = len(cell.gates), input.shape[-1]
    rows = w_hh.shape[0] if w_hh.dim() else 0
    hidden_size = rows // gates
    projection = w_hr.shape[0] if w_hr is not None and w_hr.dim() else None
    width = hidden_size if projection is None else projection
    if rows % gates:
        _fail(
            who,
            "w_hh must have {gates} * hidden_size rows for {name}, got {got}",
            gates=gates,
            name=name,
            got=rows,
        )
    if (h_0 is None) != (c_0 is None) and len(cell.states) > 1:
        _fail(who, "h_0 and c_0 must both be given, or neither, got one")
    if (h_to is None) != (c_to is None) and len(cell.states) > 1:
        _fail(who, "h_to and c_to must both be given, or neither, got one")
    if resets is None and h_to is not None:
        _fail(who, "h_to must be None without resets, got a tensor")
    if resets is not None:
        if batch_sizes is not None or directions == 2:
            _fail(who, "resets must be None for packed rows and for two directions, got a tensor")
        if resets.dtype is not torch.bool or resets.shape != input.shape[:2]:
            _fail(
                who,
                "resets must be bool of shape {shape}, got {got} of shape {got_shape}",
                shape=tuple(input.shape[:2]),
                got=resets.dtype,
                got_shape=tuple(resets.shape),
            )
    has_c = c_0 is not None or c_to is not None
    if (has_c and len(cell.states) == 1) or (w_hr is not None and name != "lstm"):
        _fail(
            who, "c_0 and w_hr must be None for {name}, got a tensor: only lstm has them", name=name
        )
    each = {
        "w_ih": (rows, features),
        "w_hh": (rows, width),
        "b_ih": (rows,),
        "b_hh": (rows,),
        "w_hr": (width, hidden_size),
    }
    ends = {"h": (directions, batch, width), "c": (directions, batch, hidden_size)}
    operands = [("input", input, tuple(input.shape))]
    operands += [("h_0", h_0, ends["h"]), ("c_0", c_0, ends["c"])]
    operands += [("h_to", h_to, (width,)), ("c_to", c_to, (hidden_size,))]
    for weight, other, (what, shape) in zip(weights[:5], weights[5:], each.items(), strict=True):
        if (directions == 1 and other is not None) or (
            directions == 2 and (weight is None) != (other is None)
        ):
            _fail(
                who, "{what} and {what}_reverse must both be given, or neither, got one", what=what
            )
        operands += [(what, weight, shape), (f"{what}_reverse", other, shape)]
    check_operands(who, operands)
    return {
        "output": (*input.shape[:-1], directions * width),
        "h_n": ends["h"],
        "c_n": ends["c"],
    }


def check_given(who: str, **tensors: Tensor | None) -> None:
    """Check that tensors are there.

    Raises:
        KindError: one of them is None.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            _fail(who, "{name} must be a tensor, got None", KindError, name=name)


def check_operands(who: str, operands: Sequence[tuple[str, Any, tuple[int, ...]]]) -> None:
    """Check the tensors of an operator, each with its name and shape, against the first.

    None stands for a tensor that was left out.

    Raises:
        ShapeError: a shape, dtype or device is wrong.
    """
    _, first, _ = operands[0]
    for name, tensor, shape in operands:
        if tensor is None:
            continue
        if tensor.shape != shape:
            _fail(
                who,
                "{name} must be {shape}, got {got}",
                name=name,
                shape=tuple(shape),
                got=tuple(tensor.shape),
            )
        if tensor.dtype is not first.dtype or tensor.device != first.device:
            _check_kind(who, name, tensor, first, operands[0][0])


# --- messages ---------------------------------------------------------------------------------


def _lengths() -> str:
    return say("give the steps of each sequence before padding")


def _nest() -> str:
    return say("build it with torch.nested.nested_tensor(sequences, layout=torch.jagged)")


def _pack() -> str:
    return say("build it with torch.nn.utils.rnn.pack_padded_sequence or pack_sequence")


def _name(who: object) -> str:
    return type(who).__name__


# Of a module, or of a function by its name.
def _fail(
    who: object, sentence: str, error: type[ShapeError] = ShapeError, /, **values: Any
) -> NoReturn:
    name, text = who if isinstance(who, str) else _name(who), say(sentence, **values)
    raise error(say("{who}: {text}", who=name, text=text))


# Whether the values of this call are those of others too.
def _is_recorded() -> bool:
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)


def _not_a_tensor(who: object, got: object, expected: str) -> NoReturn:
    if isinstance(got, PackedSequence):
        remedy = say("a cell takes one time step; a layer takes a PackedSequence")
    else:
        remedy = say("convert it with torch.as_tensor")
    _fail(
        who,
        "input must be {expected}, got {got}: {remedy}",
        KindError,
        expected=expected,
        got=_name(got),
        remedy=remedy,
    )


def _wrong_features(
    who: object, shape: torch.Size, input_size: int, what: str = "input"
) -> NoReturn:
    if input_size in shape[:-1]:
        remedy = say(
            "use {what}.transpose({axis}, -1) if the features are on axis {axis}",
            what=what,
            axis=list(shape).index(input_size),
        )
    else:
        remedy = say(
            "construct it with input_size={got}, or give it {input_size} features",
            got=shape[-1],
            input_size=input_size,
        )
    _fail(
        who,
        "{what} must have H_in = input_size = {input_size} features on its last axis, got {got} in "
        "{shape}: {remedy}",
        what=what,
        input_size=input_size,
        got=shape[-1],
        shape=tuple(shape),
        remedy=remedy,
    )


# the names of the initial states of a module, or of what is given in their place
def _initial(who: Any, what: str = "hx") -> list[str]:
    return [
        f"{letter}_0" if what == "hx" else f"{letter}_0 of {what}" for letter in who._cell.states
    ]


def _wrong_structure(who: object, hx: object, count: int, what: str) -> NoReturn:
    got = _name(hx)
    if isinstance(hx, (tuple, list)):
        kinds = ", ".join(map(_name, hx)) or say("nothing")
        got = say("{kind} of {kinds}", kind=got, kinds=kinds)
    if count == 1:
        _fail(
            who,
            "{what} must be one tensor, h_0, got {got}: only the LSTM has a cell state c_0",
            KindError,
            what=what,
            got=got,
        )
    elif count == 2:
        _fail(
            who,
            "{what} must be a pair of tensors, (h_0, c_0), got {got}: pass both, or neither for "
            "zeros",
            KindError,
            what=what,
            got=got,
        )
    else:
        _fail(
            who,
            "{what} must be a tuple of {count} tensors, ({names}), got {got}: pass them all, or "
            "none for zeros",
            KindError,
            count=count,
            names=", ".join(_initial(who)),
            what=what,
            got=got,
        )


def _wrong_state(
    who: object,
    name: str,
    got: tuple[int, ...],
    shape: tuple[int, ...],
    axes: str,
    input: torch.Size | None,
    what: str,
) -> NoReturn:
    batch_first = getattr(who, "batch_first", False)
    error = ShapeError
    if (
        input is not None
        and len(shape) == 3
        and got == (shape[0], input[1 if batch_first else 0], shape[2])
    ):
        if batch_first:
            remedy = say(
                "input {input} is read as (N, L, H_in); if it is (L, N, H_in), construct it "
                "without batch_first",
                input=tuple(input),
            )
        else:
            remedy = say(
                "input {input} is read as (L, N, H_in); if it is (N, L, H_in), construct it with "
                "batch_first=True",
                input=tuple(input),
            )
    elif len(got) != len(shape):
        error = KindError
        if what == "hx":
            remedy = say("the state has a batch axis exactly if the input has one")
        else:
            remedy = say("give the state of one sequence, without a batch axis")
    elif len(shape) == 3 and got == (shape[1], shape[0], shape[2]):
        remedy = say("batch_first leaves the state alone; use {name}.transpose(0, 1)", name=name)
    elif got[-1] != shape[-1] or (len(shape) == 3 and got[0] != shape[0]):
        remedy = say("a state of this size comes from another module")
    else:
        remedy = say("a state goes on with the same sequences; start new ones with None, for zeros")
    width = "H_out" if name.startswith("h_0") else "hidden_size"
    _fail(
        who,
        "{name} must be ({axes}{width}) = {shape}, got {got}: {remedy}",
        error,
        name=name,
        axes=axes,
        width=width,
        shape=shape,
        got=got,
        remedy=remedy,
    )


def _check_kind(
    who: object, what: str, tensor: Tensor, weight: Tensor, owner: str | None = None
) -> None:
    dtype, device = weight.dtype, weight.device
    if tensor.dtype is not dtype:
        if tensor.dtype.is_floating_point:
            remedy = say(
                "use {what}.to({dtype}), or .to({got}) on the module",
                what=what,
                dtype=dtype,
                got=tensor.dtype,
            )
        elif what == "input":
            remedy = say(
                "use {what}.to({dtype}), or torch.nn.Embedding first if these are indices",
                what=what,
                dtype=dtype,
            )
        else:
            remedy = say("use {what}.to({dtype})", what=what, dtype=dtype)
        _fail(
            who,
            "{what} must have the dtype of {owner}, {dtype}, got {got}: {remedy}",
            what=what,
            owner=owner or say("the weights"),
            dtype=dtype,
            got=tensor.dtype,
            remedy=remedy,
        )
    if tensor.device != device:
        _fail(
            who,
            "{what} must be on the device of {owner}, {device}, got {got}: use .to('{device}') on "
            "it, or .to('{got}') on the module",
            what=what,
            owner=owner or say("the weights"),
            device=device,
            got=tensor.device,
        )
