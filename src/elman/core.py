"""The native core on tensors: makes its results, hands over addresses, and counts its threads.

Nothing here is differentiated, and arguments arrive checked by `elman.shapes`. Names and layouts
are those of `elman.reference.layer`, whose results `forward` gives, and with them `kept` for the
backward pass: for each direction and row of the input some vectors of hidden_size, private to the
core. A step of a cell is a sequence of length 1 whose tensors lack the axes for time and for
directions: the same kernel, hence the same bits.

All that the core reads passes `_addresses`, the one gate between tensors and addresses. It looks at
their memory at every call, and in `backward` at their dtypes, devices and sizes once more, for all
of these may have changed since `forward`. What is not plain memory that is there is an
`UnreadableError`, and nothing is read.
"""

import math
import operator
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from elman import environment, shapes
from elman.cells import Cell
from elman.language import say
from elman.shapes import LazyError, UnreadableError

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
    "kept_width",
    "set_num_threads",
    "show_config",
]

# name -> (index in the core, gates, states, vectors kept per row); empty without the core
_compiled: dict[str, tuple[int, str, str, int]] = environment.read(_native)
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


def computes(cell: Cell, input: Tensor) -> bool:
    """Return whether the core has this cell for tensors of this kind."""
    return (
        input.is_cpu
        and (input.dtype is torch.float32 or input.dtype is torch.float64)
        and cell.is_known
        and cell.name in _compiled
    )


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
) -> list[Tensor]:
    """Run a layer, or one step of a cell.

    Args:
        cell: One that the core `computes`.
        input: (L, N, H_in), or (rows, H_in) of a packed batch, or (N, H_in) for one step.
        batch_sizes: (L,) of a packed batch.
        lengths: (N,) of a padded batch of unequal sequences, integers from 0 to L.
        states: The initial states, (D, N, .), or (N, .) for one step; none, or None each, for
            zeros.
        weights: Five for each direction.
        keep: Whether `backward` will follow, or the kept values are read.
        mask: (L, N) bool, before which steps a sequence of a padded batch starts anew, in one
            direction; None for nowhere.
        to: With mask, what it starts from, (width,) for each state; none for zeros.
        cells: Whether the cell state of every step is read.

    Returns:
        The output and the final states, or the next states of a step; then, if keep, `kept`; then,
        if cells, (D, L, N, hidden_size).

    Raises:
        UnreadableError: a tensor is not plain memory of the right dtype and size.
    """
    if batch_sizes is None and lengths is None and mask is None and not cells:
        index, *_ = _compiled[cell.name]
        found = _native.forward_of(_ASK, index, input, states, weights, keep, get_num_threads())
        if found is not None:
            return found  # type: ignore[no-any-return]
    sizes, ragged, copies = _sizes(cell, input, batch_sizes, lengths, weights)
    _, _, _, batch, _, hidden_size, projection = sizes
    directions, is_step = len(weights) // 5, batch_sizes is None and input.dim() == 2
    names = _names(len(states), directions, is_step)
    addresses = _addresses(cell, names, [input, *states, *weights], input.dtype, copies)
    resets = (0, 0, 0) if mask is None else _resets(cell, mask, to, input, copies)
    output_size = projection or hidden_size
    new = input.new_empty  # which is faster with numbers than with a tuple of them
    results = [new(*input.shape[:-1], directions * output_size)]
    if not is_step:
        results.append(new(directions, batch, output_size))
    if len(cell.states) > 1:
        outer = (batch,) if is_step else (directions, batch)
        results.append(new(*outer, hidden_size))
    c_n = results[-1]  # read as such by cells that have one
    if keep:
        results.append(new(directions, *input.shape[:-1], kept_width(cell, hidden_size)))
    where = results[-1].data_ptr() if keep else 0
    if cells:
        results.append(new(directions, *input.shape[:-1], hidden_size))
    _native.forward(
        *sizes,
        *ragged,
        *_in_order(addresses, len(states)),
        *resets,
        results[0].data_ptr(),
        where,
        results[-1].data_ptr() if cells else 0,
        results[0 if is_step else 1].data_ptr(),
        c_n.data_ptr(),
        get_num_threads(),
    )
    return results


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

    Returns:
        The gradients in the same order, None where not wanted.

    Raises:
        UnreadableError: a tensor is not plain memory of the right dtype and size.
    """
    if batch_sizes is None and lengths is None and mask is None and d_kept is None and groups == 1:
        index, *_ = _compiled[cell.name]
        call = input, states, weights, output, kept, upstream, wanted
        found = _native.backward_of(_ASK, index, *call, get_num_threads())
        if found is not None:
            return found  # type: ignore[no-any-return]
    sizes, ragged, copies = _sizes(cell, input, batch_sizes, lengths, weights)
    _, _, _, batch, input_size, hidden_size, projection = sizes
    output_size, directions = projection or hidden_size, len(weights) // 5
    is_step = len(upstream) == len(states)

    rows = math.prod(input.shape[:-1])
    ends = directions * batch * output_size, directions * batch * hidden_size
    gate_rows = len(cell.gates) * hidden_size
    of_weights = gate_rows * input_size, gate_rows * output_size, gate_rows, gate_rows
    counts = [
        *(rows * input_size, *ends[: len(states)]),
        *(*of_weights, projection * hidden_size) * directions,
        *(rows * directions * output_size, rows * directions * kept_width(cell, hidden_size)),
        *(rows * directions * output_size, *ends[1 if is_step else 0 : len(states)]),
    ]
    names = _names(len(states), directions, is_step)
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
        for i, (tensor, want) in enumerate(
            zip((input, *states, *weights, *to), wanted, strict=True)
        )
    ]
    results = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
    read = 1 + len(states) + len(weights)
    dkeep = 0 if d_kept is None else addresses.pop()
    resets = (0, 0, 0) if mask is None else _resets(cell, mask, to, input, copies)
    dy, *dfinals = addresses[read + 2 :]
    dh_n, dc_n = [*([0] if is_step else []), *dfinals, 0][:2]
    _native.backward(
        *sizes,
        *ragged,
        *_in_order(addresses[:read], len(states)),
        *resets,
        *addresses[read : read + 2],
        *(dy, dh_n, dc_n, dkeep),
        *_in_order(results[:read], len(states)),
        *[*results[read:], 0, 0][:2],
        groups,
        get_num_threads(),
    )
    return tuple(gradients)


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
) -> tuple[tuple[Any, ...], tuple[int, int], list[Tensor]]:
    _, w_hh, _, _, w_hr = weights[:5]
    assert w_hh is not None
    index, gates, _, _ = _compiled[cell.name]
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
        w_hh.shape[0] // len(gates),
        0 if w_hr is None else w_hr.shape[0],
    )
    return sizes, (where_sizes, where_lengths), copies


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


# Addresses of input, states and weights as the core takes them: always two states, and a list.
def _in_order(addresses: list[int], num_states: int) -> tuple[Any, ...]:
    h_0 = addresses[1] if num_states else 0
    c_0 = addresses[2] if num_states > 1 else 0
    return addresses[0], h_0, c_0, addresses[1 + num_states :]


# What the tensors of a call are called, in their order.
@cache
def _names(num_states: int, directions: int, is_step: bool) -> tuple[str, ...]:
    weights = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr") * directions
    upstream = [f"the gradient of {name}" for name in ("output", "h_n", "c_n")]
    if is_step:
        del upstream[1]
    of_kept = "the gradient of what is kept"
    return "input", *("h_0", "c_0")[:num_states], *weights, "output", "kept", *upstream, of_kept


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
        _address(cell, names[i], tensors[i], dtype, copies, counts and counts[i])
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
