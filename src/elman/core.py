"""The native core on tensors: makes its results, hands over addresses, and counts its threads.

Nothing here is differentiated, and nothing looks at a size twice: arguments arrive checked by
`elman.shapes`. Names and layouts are those of `elman.reference.layer`, whose results `forward`
gives, and with them `kept` for the backward pass: for each direction and row of the input some
vectors of hidden_size, private to the core. A step of a cell is a sequence of length 1 whose
tensors lack the axes for time and for directions: the same kernel, hence the same bits.
"""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from elman import environment
from elman.cells import Cell

try:
    from elman import _native as _native
except ImportError as error:
    warnings.warn(
        f"elman: the native core could not be loaded ({error}); layers are computed by the slow "
        "reference. Reinstall elman on a machine with a C++20 compiler to build the core.",
        stacklevel=2,
    )
    _native = None  # type: ignore[assignment]

__all__ = [
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
    """Return how many threads a call may use.

    Returns:
        The number given to `set_num_threads` or, without one, `torch.get_num_threads()`.

    Example:
        >>> import elman, torch
        >>> elman.get_num_threads() == torch.get_num_threads()
        True
    """
    return _num_threads or torch.get_num_threads()


def set_num_threads(num_threads: SupportsIndex | None) -> None:
    """Set how many threads a call may use; PyTorch's own setting is left alone.

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
    remedy = "pass None to follow torch.get_num_threads()"
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(
            "set_num_threads: num_threads must be an integer, got "
            f"{num_threads!r} of type {type(num_threads).__name__}: {remedy}"
        )
    count = operator.index(num_threads)
    if not 1 <= count <= _MOST_THREADS:
        raise ValueError(
            f"set_num_threads: num_threads must be from 1 to {_MOST_THREADS}, got {count}: {remedy}"
        )
    _num_threads = count


def show_config() -> None:
    """Print what computes the layers in this process, for bug reports and the curious.

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
        keep: Whether `backward` will follow.

    Returns:
        The output and the final states, or the next states of a step; then, if keep, `kept`.
    """
    # What is read must outlive the call: its copies have names here.
    lengths = None if lengths is None else lengths.to("cpu", torch.int64)
    input, batch_sizes, lengths = _dense((input, batch_sizes, lengths))
    states, weights = _dense(states), _dense(weights)
    problem = _problem(cell, input, batch_sizes, lengths, states, weights)
    _, _, _, batch, _, hidden_size, projection, *_ = problem
    output_size, directions = projection or hidden_size, len(weights) // 5
    is_step = batch_sizes is None and input.dim() == 2
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
    _native.forward(
        *problem,
        results[0].data_ptr(),
        results[-1].data_ptr() if keep else 0,
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
        kept: The last of its results.
        upstream: The gradients of the others, None for zeros.
        wanted: For input, each state and each weight, whether its gradient is asked for.
        groups: If more than 1, the batch is that many equal groups of neighbouring sequences, and
            the gradients of the weights are stacked, (groups, ...), one for each.

    Returns:
        The gradients in the same order, None where not wanted.
    """
    lengths = None if lengths is None else lengths.to("cpu", torch.int64)
    input, batch_sizes, lengths = _dense((input, batch_sizes, lengths))
    output, kept = _dense((output, kept))
    states, weights, upstream = _dense(states), _dense(weights), _dense(upstream)
    gradients = [
        None
        if tensor is None or not want
        else torch.empty_like(tensor)
        if i <= len(states) or groups == 1
        else tensor.new_empty(groups, *tensor.shape)
        for i, (tensor, want) in enumerate(zip((input, *states, *weights), wanted, strict=True))
    ]
    is_step = len(upstream) == len(states)
    dfinals = [None, *upstream[1:]] if is_step else upstream[1:]
    dstates = gradients[1 : 1 + len(states)]
    _native.backward(
        *_problem(cell, input, batch_sizes, lengths, states, weights),
        output.data_ptr(),
        kept.data_ptr(),
        _address(upstream[0]),
        _address(dfinals[0]),
        _address(dfinals[1]) if len(states) > 1 else 0,
        _address(gradients[0]),
        _address(dstates[0]),
        _address(dstates[1]) if len(states) > 1 else 0,
        [_address(gradient) for gradient in gradients[1 + len(states) :]],
        groups,
        get_num_threads(),
    )
    return tuple(gradients)


# The tensors in the one layout that the core reads; None stays None.
def _dense(tensors: Sequence[Any]) -> list[Any]:
    return [t if t is None or t.is_contiguous() else _copy(t) for t in tensors]


# PyTorch shares a copy of this many elements out among threads, for which a forked child would wait
# for ever.
_SHARED_OUT = 1 << 15


def _copy(tensor: Tensor) -> Tensor:
    if tensor.numel() < _SHARED_OUT:
        return tensor.contiguous()
    tensor = tensor.resolve_neg()
    dense = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    size, shape, strides = tensor.element_size(), tensor.shape, tensor.stride()
    _native.make_dense(tensor.data_ptr(), dense.data_ptr(), size, shape, strides, get_num_threads())
    return dense


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# What the core is to compute, from dense tensors: its sizes, and the addresses of what it reads.
def _problem(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
) -> tuple[Any, ...]:
    _, w_hh, _, _, w_hr = weights[:5]
    assert w_hh is not None
    index, gates, _, _ = _compiled[cell.name]
    shape = input.shape
    if len(shape) == 3:
        seq_len, batch, _ = shape
    elif batch_sizes is not None:
        seq_len, batch = len(batch_sizes), int(batch_sizes[0])
    else:
        seq_len, batch = 1, shape[0]
    return (
        index,
        input.dtype is torch.float64,
        seq_len,
        batch,
        shape[-1],
        w_hh.shape[0] // len(gates),
        0 if w_hr is None else w_hr.shape[0],
        0 if batch_sizes is None else batch_sizes.data_ptr(),
        0 if lengths is None else lengths.data_ptr(),
        input.data_ptr(),
        _address(states[0]) if states else 0,
        _address(states[1]) if len(states) > 1 else 0,
        [0 if weight is None else weight.data_ptr() for weight in weights],
    )
