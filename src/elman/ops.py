"""Chooses who computes a layer, and hands the native core its addresses.

`layer` and `step` take and return what `elman.reference.layer` and `step` do. CPU tensors of
float32 and float64 go to the native core, forward and backward. bfloat16 and float16 are computed
in float32 and rounded at the end. What the core does not do goes to the reference: other devices,
an empty batch, forward-mode derivatives, function transforms, tracing, and derivatives of
derivatives.

Arguments arrive checked by `elman.shapes`; nothing here looks at a size twice.

Environment:
    ELMAN_BACKEND: "native", the default, or "reference" to compute everything by the reference.
    ELMAN_ISA: the instruction set to use, one of those that `show_config` names.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elman import reference
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

__all__ = ["get_num_threads", "layer", "set_num_threads", "show_config", "step"]

Weights: TypeAlias = Sequence[Tensor | None]

_BACKENDS = ("native", "reference")
_WIDENED = (torch.bfloat16, torch.float16)

_backend = os.environ.get("ELMAN_BACKEND") or "native"
if _backend not in _BACKENDS:
    raise ValueError(
        f"elman: ELMAN_BACKEND must be one of {_BACKENDS}, got {_backend!r}: unset it for the "
        "native core"
    )
# name -> (index in the core, gates, states, vectors kept per row); empty without the core
_compiled: dict[str, tuple[int, str, str, int]] = (
    {} if _native is None or _backend == "reference" else _native.cells()
)
_num_threads: int | None = None  # None: as many as PyTorch uses


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


def set_num_threads(num_threads: int | None) -> None:
    """Set how many threads a call may use; PyTorch's own setting is left alone.

    Results do not depend on it.

    Args:
        num_threads: At least 1, or None to follow `torch.get_num_threads()`, which is the default.

    Raises:
        ValueError: If num_threads is less than 1.

    Example:
        >>> import elman
        >>> elman.set_num_threads(1)
        >>> elman.get_num_threads()
        1
        >>> elman.set_num_threads(None)
    """
    global _num_threads
    if num_threads is not None and num_threads < 1:
        raise ValueError(
            f"set_num_threads: num_threads must be at least 1, got {num_threads}: pass None to "
            "follow torch.get_num_threads()"
        )
    _num_threads = num_threads


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


def layer(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
) -> tuple[Tensor, ...]:
    """Run one layer, in all its directions; arguments and results as `elman.reference.layer`."""
    if not _is_native(cell, input):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            wide = _widen(hx), _widen(weights)
            outputs = layer(cell, input.float(), batch_sizes, *wide)
            return tuple(output.to(input.dtype) for output in outputs)
        return reference.layer(cell, input, batch_sizes, hx, weights)
    if torch.is_grad_enabled() and _requires_grad(input, hx, weights):
        states = hx or (None,) * len(cell.states)
        return _Layer.apply(cell, batch_sizes, len(states), input, *states, *weights)  # type: ignore[no-untyped-call, no-any-return]
    return _forward(cell, input, batch_sizes, hx or (), weights, None)


def step(
    cell: Cell, input: Tensor, hx: tuple[Tensor, ...] | None, weights: Weights
) -> tuple[Tensor, ...]:
    """Run a cell over one time step; arguments and results as `elman.reference.step`."""
    if not _is_native(cell, input):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            after = step(cell, input.float(), _widen(hx), _widen(weights))
            return tuple(state.to(input.dtype) for state in after)
        return reference.step(cell, input, hx, weights)
    if torch.is_grad_enabled() and _requires_grad(input, hx, weights):
        states = hx or (None,) * len(cell.states)
        return _Layer.apply(cell, None, len(states), input, *states, *weights, None)  # type: ignore[no-untyped-call, no-any-return]
    return _forward(cell, input, None, hx or (), (*weights, None), None)


def _is_native(cell: Cell, input: Tensor) -> bool:
    return (
        cell.name in _compiled
        and (input.dtype is torch.float32 or input.dtype is torch.float64)
        and input.device.type == "cpu"
        and input.numel() > 0
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._is_tracing()  # a trace would hold the empty outputs, not the call
    )


def _widen(tensors: Any) -> Any:
    return tensors and tuple(None if t is None else t.float() for t in tensors)


def _requires_grad(input: Tensor, hx: tuple[Tensor, ...] | None, weights: Weights) -> bool:
    if input.requires_grad:
        return True
    for tensor in weights:
        if tensor is not None and tensor.requires_grad:
            return True
    return hx is not None and any(state.requires_grad for state in hx)


# None, or the tensor in the one layout that the core reads
def _dense(tensor: Tensor | None) -> Tensor | None:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# The call of the core, given dense tensors: what to compute, its sizes, and the addresses of what
# it reads. A step of a cell is a sequence of length 1, whose tensors have no axis for time and
# directions: the same kernel, hence the same bits.
def _problem(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Weights,
) -> tuple[Any, ...]:
    _, w_hh, _, _, w_hr = weights[:5]
    assert w_hh is not None
    index, gates, _, _ = _compiled[cell.name]
    shape = input.shape
    if batch_sizes is not None:
        seq_len, batch = len(batch_sizes), int(batch_sizes[0])
    elif len(shape) == 3:
        seq_len, batch, _ = shape
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
        input.data_ptr(),
        _address(states[0]) if states else 0,
        _address(states[1]) if len(states) > 1 else 0,
        [0 if weight is None else weight.data_ptr() for weight in weights],
    )


# The output and the final states, or the next states of a step. What the backward pass needs
# besides is appended to `kept`, if given.
def _forward(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Weights,
    kept: list[Tensor] | None,
) -> tuple[Tensor, ...]:
    input = input if input.is_contiguous() else input.contiguous()
    states = [_dense(state) for state in states]
    weights = [_dense(weight) for weight in weights]
    batch_sizes = _dense(batch_sizes)
    problem = _problem(cell, input, batch_sizes, states, weights)
    _, _, _, batch, input_size, hidden_size, projection, *_ = problem
    output_size, directions = projection or hidden_size, len(weights) // 5
    is_step = batch_sizes is None and input.dim() == 2
    new = input.new_empty
    outputs = [new((*input.shape[:-1], directions * output_size))]
    if not is_step:
        outputs.append(new((directions, batch, output_size)))
    if len(cell.states) > 1:
        outputs.append(new((batch, hidden_size) if is_step else (directions, batch, hidden_size)))
    keep = 0
    if kept is not None:
        rows = input.numel() // input_size
        kept.append(new(directions * rows * _compiled[cell.name][3] * hidden_size))
        keep = kept[0].data_ptr()
    assert _native is not None
    _native.forward(
        *problem,
        outputs[0].data_ptr(),
        keep,
        outputs[0 if is_step else 1].data_ptr(),
        outputs[-1].data_ptr(),  # read as c_n by cells that have one
        get_num_threads(),
    )
    return tuple(outputs)


class _Layer(torch.autograd.Function):
    """A layer or a step of the core, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        batch_sizes: Tensor | None,
        num_states: int,
        input: Tensor,
        *tensors: Tensor | None,  # the initial states, then the weights
    ) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        states, weights = tensors[:num_states], tensors[num_states:]
        outputs = _forward(cell, input, batch_sizes, states, weights, kept)
        ctx.cell, ctx.num_states = cell, num_states
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(batch_sizes, input, *tensors, outputs[0], *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        batch_sizes, input, *tensors, output, keep = ctx.saved_tensors
        batch_sizes = _dense(batch_sizes)
        cell, num_states, wanted = ctx.cell, ctx.num_states, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # derivatives of these derivatives are asked for
            return (None,) * 3 + _reference_gradients(
                cell, batch_sizes, num_states, [input, *tensors], wanted, upstream
            )
        dense = [_dense(tensor) for tensor in (input, *tensors)]
        states, weights = dense[1 : 1 + num_states], dense[1 + num_states :]
        upstream = tuple(_dense(gradient) for gradient in upstream)
        gradients = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) if want else None
            for tensor, want in zip((input, *tensors), wanted, strict=True)
        ]
        is_step = len(upstream) == num_states
        dfinals = (None, *upstream[1:]) if is_step else upstream[1:]
        dstates = gradients[1 : 1 + num_states]
        assert _native is not None
        assert dense[0] is not None
        _native.backward(
            *_problem(cell, dense[0], batch_sizes, states, weights),
            output.data_ptr(),
            keep.data_ptr(),
            _address(upstream[0]),
            _address(dfinals[0]),
            _address(dfinals[1]) if num_states > 1 else 0,
            _address(gradients[0]),
            _address(dstates[0]),
            _address(dstates[1]) if num_states > 1 else 0,
            [_address(gradient) for gradient in gradients[1 + num_states :]],
            get_num_threads(),
        )
        return None, None, None, *gradients


# The same gradients by differentiating the reference, as tensors that can be differentiated again.
def _reference_gradients(
    cell: Cell,
    batch_sizes: Tensor | None,
    num_states: int,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    upstream: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    # Views make each argument its own node: a weight tied to two names still gets two gradients.
    views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
    input, states, weights = views[0], views[1 : 1 + num_states], views[1 + num_states :]
    assert input is not None
    hx = None if states[0] is None else tuple(state for state in states if state is not None)
    if batch_sizes is None and input.dim() == 2:
        outputs = reference.step(cell, input, hx, weights[:4])
    else:
        outputs = reference.layer(cell, input, batch_sizes, hx, weights)
    used = [(o, g) for o, g in zip(outputs, upstream, strict=True) if g is not None]
    asked = [view for view, want in zip(views, wanted, strict=True) if want and view is not None]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in used],
            asked,
            [gradient for _, gradient in used],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if want else None for want in wanted)
