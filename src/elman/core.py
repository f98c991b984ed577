"""The native core on tensors: makes its results, hands over addresses, and counts its threads.

Nothing here is differentiated, and arguments arrive checked by `elman.shapes`. Names and layouts
are those of `elman.reference.layer`, whose results `forward` gives, and with them `kept` for the
backward pass: for each direction and row of the input some vectors of hidden_size, private to the
core. A step of a cell is a sequence of length 1 whose tensors lack the axes for time and for
directions: the same kernel, hence the same bits.

All that the core reads passes one gate between tensors and addresses, csrc/memory.cpp, and what
that doubts passes `_address`. It looks at their memory at every call, and in `backward` at their
dtypes, devices and sizes once more, for all of these may have changed since `forward`. What is not
plain memory that is there is an `UnreadableError`, and nothing is read.
"""

import math
import operator
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from elman import environment, layout, shapes
from elman.cells import CELLS, MORE_CELLS, Cell
from elman.language import say
from elman.shapes import LazyError, Recurrence, UnreadableError

try:
    from elman import _native as _native
except ImportError as error:
    warnings.warn(
        say(
            "elman: the native core could not be loaded ({error}); layers are "
            "computed by the slow reference. Reinstall elman on a machine with a "
            "C++20 compiler to build the core.",
            error=error,
        ),
        stacklevel=2,
    )
    _native = None  # type: ignore[assignment]

__all__ = [
    "LazyError",
    "UnreadableError",
    "backward",
    "computes",
    "forward",
    "get_num_threads",
    "has_plain_weights",
    "kept_width",
    "set_num_threads",
    "show_config",
]

# name -> (index in the core, gates, states, vectors kept per row, ...); empty without the core
_compiled = environment.read(_native)
# By these the core knows a cell: another may have the same name.
_steps = {cell.step for cell in (*CELLS.values(), *MORE_CELLS.values()) if cell.name in _compiled}
_num_threads: int | None = None  # None: as many as PyTorch uses
_MOST_THREADS = 1024  # more than any machine gains by, fewer than a process fails to start


def get_num_threads() -> int:
    """Return the number of threads that a call may use.

    Returns:
        The number given to `set_num_threads` or, without one, `torch.get_num_threads()`.

    Example:
        >>> import elman, torch
        >>> elman.get_num_threads() == torch.get_num_threads()
        True
    """
    return _num_threads or torch.get_num_threads()


def set_num_threads(num_threads: SupportsIndex | None) -> None:
    """Set the number of threads that a call may use; PyTorch's own setting does not change.

    Results do not depend on it.

    Args:
        num_threads: An integer from 1 to 1024, or None to follow `torch.get_num_threads()`, which
            is the default.

    Raises:
        TypeError: If num_threads is no integer; True and False are none.
        ValueError: If it is out of range.

    Example:
        >>> import elman
        >>> elman.set_num_threads(1)
        >>> elman.get_num_threads()
        1
        >>> elman.set_num_threads(None)
    """
    global _num_threads
    if num_threads is None:
        _num_threads = None
        return
    remedy = say("pass None to follow torch.get_num_threads()")
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(
            say(
                "set_num_threads: num_threads must be an integer, got {got} of type "
                "{kind}: {remedy}",
                got=repr(num_threads),
                kind=type(num_threads).__name__,
                remedy=remedy,
            )
        )
    count = operator.index(num_threads)
    if not 1 <= count <= _MOST_THREADS:
        raise ValueError(
            say(
                "set_num_threads: num_threads must be from 1 to {most}, got {got}: {remedy}",
                most=_MOST_THREADS,
                got=count,
                remedy=remedy,
            )
        )
    _num_threads = count


def show_config() -> None:
    """Print the instruction set, the versions and the number of threads, for bug reports.

    Example:
        >>> import elman
        >>> elman.show_config()  # doctest: +ELLIPSIS
        elman ...
    """
    import elman

    lines = [f"elman {elman.__version__} (torch {torch.__version__})"]
    if _native is None:
        lines.append("backend: reference (the native core could not be loaded)")
    elif not _compiled:
        lines.append("backend: reference (ELMAN_BACKEND)")
    else:
        available = ", ".join(_native.isas())
        lines.append("backend: native")
        lines.append(f"instruction set: {_native.isa()} (of {available}; ELMAN_ISA overrides)")
        lines.append(f"compiler: {_native.compiler()}")
    lines.append(f"threads: {get_num_threads()}")
    print("\n".join(lines))


def computes(
    cell: Cell,
    input: Tensor,
    weights: Sequence[Tensor | None] = (),
    recurrence: Recurrence | None = None,
) -> bool:
    """Return whether the core has this cell, and what acts beside it, for tensors of this kind."""
    if not (
        input.is_cpu
        and (input.dtype is torch.float32 or input.dtype is torch.float64)
        and cell.step in _steps
    ):
        return False
    if cell.norms and layout.heads_of(cell, weights) > 1:  # they are normalised together
        return False
    if recurrence is None:
        return True
    has_c, has_product = cell.states == "hc", cell.recurrent
    return (
        (has_product or recurrence.drop is None)
        and (has_c or recurrence.zone_c is None)
        and (cell.hidden is not None or recurrence.clip is None)
    )


def has_plain_weights(cell: Cell) -> bool:
    """Return whether the core has this cell, with five weights for each direction."""
    return cell.is_known and not cell.vectors and cell.name in _compiled


def kept_width(cell: Cell, hidden_size: int) -> int:
    """Return how many values `forward` keeps of each row and direction."""
    return _compiled[cell.name][3] * hidden_size


def forward(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    keep: bool,
    mask: Tensor | None = None,
    to: Sequence[Tensor] = (),
    cells: bool = False,
    recurrence: Recurrence | None = None,
    is_read: bool = True,
    bf16: bool = False,
) -> list[Tensor]:
    """Run a layer, or one step of a cell.

    Args:
        cell: One that the core `computes`.
        input: (L, N, H_in), or (rows, H_in) of a packed batch, or (N, H_in) for one step.
        batch_sizes: (L,) of a packed batch.
        lengths: (N,) of a padded batch of unequal sequences, integers from 0 to L.
        states: The initial states, (D, N, .), or (N, .) for one step; none, or None each, for
            zeros.
        weights: `layout.parts_of(cell)` for each direction.
        keep: Whether `backward` will follow, or the kept values are read.
        mask: (L, N) bool, before which steps a sequence of a padded batch starts anew, in one
            direction; None for nowhere.
        to: With mask, what it starts from, (width,) for each state; none for zeros.
        cells: Whether the states after h of every step are read.
        recurrence: What acts at every step beyond the cell.
        is_read: Whether others than `backward` read the kept values. If not, those of unequal
            sequences of a padded batch have no padding: they are (D, sum of lengths, .).
        bf16: Whether the operands of all products are rounded to bfloat16, where the machine has
            instructions for such products; of float32 alone. Their sums, and all else, stay
            float32.

    Returns:
        The output and the final states, or the next states of a step; then, if keep, `kept`; then,
        if cells, (D, L, N, .) of the states after h side by side; then, if keep and something acts
        beyond the cell, what is kept for that.

    Raises:
        UnreadableError: a tensor is not plain memory of the right dtype and size.
    """
    is_dense = batch_sizes is None and lengths is None and mask is None and recurrence is None
    if is_dense and not cells and has_plain_weights(cell):
        index = _compiled[cell.name][0]
        how = keep, bf16, get_num_threads()
        found = _native.forward_of(_ASK, index, input, states, weights, *how)
        if found is not None:
            return found
    form, heads = None if cell.is_known else layout.Form(cell, layout.heads_of(cell, weights)), 1
    if form is not None:
        states, weights, to = form.states(states), form.weights(weights), form.to(to)
        recurrence, heads = form.recurrence(recurrence), form.heads
    sizes, ragged, copies = _sizes(cell, input, batch_sizes, lengths, weights, heads)
    _, _, _, batch, _, hidden_size, projection, _ = sizes
    parts, is_step = layout.parts_of(cell), batch_sizes is None and input.dim() == 2
    directions = len(weights) // parts
    names = _names(cell, len(states), directions, is_step)
    addresses = _addresses(cell, names, [input, *states, *weights], input.dtype, copies)
    beside, numbers, width = _beside(cell, mask, to, recurrence, input, sizes, copies)
    output_size, after_h = projection or hidden_size, (len(cell.states) - 1) * hidden_size
    new = input.new_empty  # which is faster with numbers than with a tuple of them
    results = [new(*input.shape[:-1], directions * output_size)]
    if not is_step:
        results.append(new(directions, batch, output_size))
    if after_h:
        outer = (batch,) if is_step else (directions, batch)
        results.append(new(*outer, after_h))
    c_n = results[-1]  # read as such by cells that have one
    keeps_packed = keep and not is_read and lengths is not None
    if keep:
        rows = (int(copies[0].sum()),) if keeps_packed else input.shape[:-1]
        results.append(new(directions, *rows, kept_width(cell, hidden_size)))
    where = results[-1].data_ptr() if keep else 0
    if cells:
        results.append(new(directions, *input.shape[:-1], after_h))
    where_cells = results[-1].data_ptr() if cells else 0
    if keep and width:
        results.append(new(directions, *input.shape[:-1], width))
        beside[-1] = results[-1].data_ptr()
    _native.forward(
        *sizes,
        *ragged,
        *_in_order(cell, addresses, len(states)),
        beside,
        numbers,
        results[0].data_ptr(),
        where,
        keeps_packed,
        where_cells,
        results[0 if is_step else 1].data_ptr(),
        c_n.data_ptr(),
        bf16,
        get_num_threads(),
    )
    return results if form is None else form.results(results)


def backward(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    output: Tensor,
    kept: Tensor,
    upstream: Sequence[Tensor | None],
    wanted: Sequence[bool],
    groups: int = 1,
    mask: Tensor | None = None,
    to: Sequence[Tensor] = (),
    d_kept: Tensor | None = None,
    recurrence: Recurrence | None = None,
    staged: Tensor | None = None,
    bf16: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of what `forward` was given.

    Args:
        cell: As in `forward`, like the next five.
        input: As in `forward`.
        batch_sizes: As in `forward`.
        lengths: As in `forward`.
        states: As in `forward`.
        weights: As in `forward`.
        output: The first of its results.
        kept: Its `kept`.
        upstream: The gradients of the others, None for zeros.
        wanted: For input, each state, each weight and each of `to`, whether its gradient is asked
            for.
        groups: If more than 1, the batch is that many equal groups of neighbouring sequences, and
            the gradients of the weights are stacked, (groups, ...), one for each.
        mask: As in `forward`, like `to`.
        to: What the sequences start anew from.
        d_kept: The gradient of kept, None for zeros.
        recurrence: As in `forward`.
        staged: What `forward` kept for that, the last of its results.
        bf16: As in `forward`.

    Returns:
        The gradients in the same order, None where not wanted.

    Raises:
        UnreadableError: a tensor is not plain memory of the right dtype and size.
    """
    is_dense = batch_sizes is None and lengths is None and mask is None and recurrence is None
    if is_dense and d_kept is None and groups == 1 and has_plain_weights(cell):
        index = _compiled[cell.name][0]
        call = input, states, weights, output, kept, upstream, wanted
        found = _native.backward_of(_ASK, index, *call, bf16, get_num_threads())
        if found is not None:
            return found
    counted, asked, heads = (len(states), len(to)), wanted, 1
    form = None if cell.is_known else layout.Form(cell, layout.heads_of(cell, weights))
    if form is not None:
        upstream = upstream[0], *form.states(_or_zeros(upstream[1:]))
        states, weights, to = form.states(states), form.weights(weights), form.to(to)
        asked, recurrence = form.wanted(wanted, *counted), form.recurrence(recurrence)
        heads = form.heads
    is_step = len(upstream) == len(states)
    sizes, ragged, copies = _sizes(cell, input, batch_sizes, lengths, weights, heads)
    _, _, _, batch, input_size, hidden_size, projection, _ = sizes
    parts, output_size = layout.parts_of(cell), projection or hidden_size
    directions, after_h = len(weights) // parts, (len(cell.states) - 1) * hidden_size

    rows = math.prod(input.shape[:-1])
    ends = directions * batch * output_size, directions * batch * after_h
    gate_rows = len(cell.gates) * hidden_size
    keeps_packed = lengths is not None and kept.dim() == 3
    kept_rows = int(copies[0].sum()) if keeps_packed else rows
    of_weights = [gate_rows * input_size, gate_rows * output_size, gate_rows, gate_rows]
    of_weights.append(projection * hidden_size)
    of_weights += [blocks * hidden_size for blocks in cell.vectors.values()]
    counts = [
        *(rows * input_size, *ends[: len(states)]),
        *of_weights * directions,
        *(rows * directions * output_size, kept_rows * directions * kept_width(cell, hidden_size)),
        *(rows * directions * output_size, *ends[1 if is_step else 0 : len(states)]),
    ]
    names = _names(cell, len(states), directions, is_step)
    tensors = [input, *states, *weights, output, kept, *upstream]
    if d_kept is not None:
        tensors.append(d_kept)
        counts.append(kept.numel())
    addresses = _addresses(cell, names, tensors, input.dtype, copies, counts)
    dense = torch.contiguous_format
    gradients = [
        None
        if tensor is None or not want
        else torch.empty_like(tensor, memory_format=dense)
        if i <= len(states) or groups == 1
        else tensor.new_empty(groups, *tensor.shape)
        for i, (tensor, want) in enumerate(zip((input, *states, *weights, *to), asked, strict=True))
    ]
    results = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
    read = 1 + len(states) + len(weights)
    dkeep = 0 if d_kept is None else addresses.pop()
    beside, numbers, width = _beside(cell, mask, to, recurrence, input, sizes, copies)
    if width:
        count = [rows * directions * width]
        beside[-1:] = _addresses(cell, ["kept"], [staged], input.dtype, copies, count)
    dy, *dfinals = addresses[read + 2 :]
    dh_n, dc_n = [*([0] if is_step else []), *dfinals, 0][:2]
    _native.backward(
        *sizes,
        *ragged,
        *_in_order(cell, addresses[:read], len(states)),
        beside,
        numbers,
        *addresses[read : read + 2],
        keeps_packed,
        *(dy, dh_n, dc_n, dkeep),
        *_in_order(cell, results[:read], len(states))[:-1],
        *[*results[read:], 0, 0][:2],
        groups,
        bf16,
        get_num_threads(),
    )
    return tuple(gradients) if form is None else form.gradients(gradients, wanted, *counted)


# What is None where others are not, as zeros.
def _or_zeros(tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    like = next((tensor for tensor in tensors if tensor is not None), None)
    if like is None:
        return tensors
    return [torch.zeros_like(like) if tensor is None else tensor for tensor in tensors]


# PyTorch shares a copy of this many elements out among threads, for which a forked child would wait
# for ever.
_SHARED_OUT = 1 << 15


# A tensor in the one layout that the core reads; its memory has been looked at.
def _copy(tensor: Tensor) -> Tensor:
    tensor = tensor.resolve_neg()
    if tensor.numel() < _SHARED_OUT or tensor.is_contiguous():
        return tensor.contiguous()
    dense = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    size, shape, strides = tensor.element_size(), tensor.shape, tensor.stride()
    _native.make_dense(tensor.data_ptr(), dense.data_ptr(), size, shape, strides, get_num_threads())
    return dense


# The sizes of a call, the addresses of batch_sizes and lengths, and the tensors that have been
# copied to have one: they must outlive the call.
def _sizes(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    weights: Sequence[Tensor | None],
    heads: int,
) -> tuple[tuple[Any, ...], tuple[int, int], list[Tensor]]:
    w_ih, w_hr = weights[0], weights[4]
    assert w_ih is not None
    index, gates, *_ = _compiled[cell.name]
    shape, copies = input.shape, list[Tensor]()
    where_sizes = where_lengths = 0
    if len(shape) == 3:
        seq_len, batch, _ = shape
    elif batch_sizes is not None:
        (where_sizes,) = _addresses(cell, ["batch_sizes"], [batch_sizes], torch.int64, copies)
        seq_len, batch = len(batch_sizes), int(batch_sizes[0])
    else:
        seq_len, batch = 1, shape[0]
    if lengths is not None:
        copies.append(lengths.to("cpu", torch.int64))
        (where_lengths,) = _addresses(cell, ["lengths"], copies[:], torch.int64, copies, [batch])
    sizes = (
        index,
        input.dtype is torch.float64,
        seq_len,
        batch,
        shape[-1],
        w_ih.shape[0] // len(gates),
        0 if w_hr is None else w_hr.shape[0],
        heads,
    )
    return sizes, (where_sizes, where_lengths), copies


# What a call asks for beside the cell: addresses of where sequences start anew and from what, and
# of what acts at every step; numbers of that; and how many values are kept of a row for it, whose
# address comes last.
def _beside(
    cell: Cell,
    mask: Tensor | None,
    to: Sequence[Tensor],
    recurrence: Recurrence | None,
    input: Tensor,
    sizes: tuple[Any, ...],
    copies: list[Tensor],
) -> tuple[list[int], list[float], int]:
    if mask is None and recurrence is None and not cell.norms:
        return [], [], 0
    resets = [0, 0, 0] if mask is None else _resets(cell, mask, to, input, copies)
    drop, zone_h, zone_c, clip = recurrence or (None, None, None, None)
    masks = [zone if isinstance(zone, Tensor) else None for zone in (zone_h, zone_c)]
    acting = [
        *_addresses(cell, ["the factors of h"], [drop], input.dtype, copies),
        *_addresses(cell, ["zone_h", "zone_c"], masks, torch.bool, copies),
    ]
    stays = [0.0 if zone is None or isinstance(zone, Tensor) else zone for zone in (zone_h, zone_c)]
    numbers = [*stays, clip or 0.0]
    gains = [int(letter in cell.norms) for letter in "xhc"]
    index, _, _, _, _, hidden_size, projection, _ = sizes
    beside = [*resets, *acting, 0]
    width = _native.stage_width(index, hidden_size, projection, gains, beside, numbers)
    return beside, numbers, width


# The addresses of what says where sequences start anew, and from what.
def _resets(
    cell: Cell, mask: Tensor, to: Sequence[Tensor], input: Tensor, copies: list[Tensor]
) -> list[int]:
    copies.append(mask.to("cpu", torch.bool))
    shape = input.shape[:2]
    where = _addresses(cell, ["reset"], copies[-1:], torch.bool, copies, [shape.numel()])
    if not to:
        return [*where, 0, 0]
    names = ("h of reset_to", "c of reset_to")[: len(to)]
    return [*where, *_addresses(cell, names, to, input.dtype, copies), 0, 0][:3]


# Addresses of input, states and weights as the core takes them: always two states, a list, and how
# many of it are of a direction.
def _in_order(cell: Cell, addresses: list[int], num_states: int) -> tuple[Any, ...]:
    h_0 = addresses[1] if num_states else 0
    c_0 = addresses[2] if num_states > 1 else 0
    weights, slots = addresses[1 + num_states :], layout.slots(cell)
    if slots is None:
        return addresses[0], h_0, c_0, weights, 5
    of_all = [
        0 if slot is None else weights[start + slot]
        for start in range(0, len(weights), layout.parts_of(cell))
        for slot in slots
    ]
    return addresses[0], h_0, c_0, of_all, len(slots)


# What the tensors of a call are called, in their order.
@cache
def _names(cell: Cell, num_states: int, directions: int, is_step: bool) -> tuple[str, ...]:
    weights = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", *cell.vectors
    upstream = [f"the gradient of {name}" for name in ("output", "h_n", "c_n")]
    if is_step:
        del upstream[1]
    of_kept = "the gradient of what is kept"
    states = ("h_0", "c_0")[:num_states]
    return "input", *states, *weights * directions, "output", "kept", *upstream, of_kept


# What the core asks of a tensor and of its storage, and what it makes its results by.
_ASK = (
    Tensor.is_contiguous,
    Tensor.is_neg,
    Tensor.storage_offset,
    Tensor.untyped_storage,
    Tensor.data_ptr,
    torch.UntypedStorage.nbytes,
    Tensor.new_empty,
    torch.empty_like,
    torch.float32,
    torch.float64,
)


# The gate: the addresses of tensors, 0 for None. What is strided or has the other sign in memory is
# copied, into `copies`. With `counts`, each must have so many values of this dtype, on the CPU;
# without, that has just been checked. First all at once in C++, for that is quick, then those in
# doubt.
def _addresses(
    cell: Cell,
    names: Sequence[str],
    tensors: Sequence[Tensor | None],
    dtype: torch.dtype,
    copies: list[Tensor],
    counts: Sequence[int] | None = None,
) -> list[int]:
    found = _native.addresses(_ASK, tensors, dtype, dtype.itemsize, counts)
    return [
        _address(cell, names[i], tensors[i], dtype, copies, None if counts is None else counts[i])
        if address is None
        else address
        for i, address in enumerate(found)
    ]


# The same for one. Memory that a fake tensor, a wrapper, a tensor of zeros by definition or a freed
# storage lacks shows as a small storage or as address 0.
def _address(
    cell: Cell,
    name: str,
    tensor: Any,
    dtype: torch.dtype,
    copies: list[Tensor],
    count: int | None,
) -> int:
    try:
        number = tensor.numel()
        if tensor.dtype is dtype and tensor.is_cpu and (count is None or number == count):
            if not number:
                return 0
            axes = zip(tensor.shape, tensor.stride(), strict=True)
            last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in axes)
            if (last + 1) * dtype.itemsize <= tensor.untyped_storage().nbytes():
                copies.append(_copy(tensor))
                address = copies[-1].data_ptr()
                if address:
                    return address
    except (RuntimeError, TypeError):
        pass
    shapes.refuse_memory(cell.onnx_op, name, tensor, dtype, count)
