"""Chooses who computes a layer.

`layer` and `step` take and return what `elman.reference.layer` and `step` do. CPU tensors of
float32 and float64 go to the native core, forward and backward: straight where PyTorch computes as
it reads, and as the operators of `elman.library` where it compiles, exports or transforms, where a
dispatch mode watches operations, and where a tensor is not memory that the core can read as it is.
bfloat16 and float16 are computed in float32 and rounded at the end. What the core does not do goes
to the reference: other devices, forward-mode derivatives, derivatives of derivatives, tracing.

Arguments arrive checked by `elman.shapes`; nothing here looks at a size twice.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elman import core, library, reference
from elman.cells import Cell

__all__ = ["is_tracing", "layer", "step"]

Weights: TypeAlias = Sequence[Tensor | None]

_PLAIN = (Tensor, torch.nn.Parameter)
_WIDENED = (torch.bfloat16, torch.float16)


def layer(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run one layer, in all its directions; arguments and results as `elman.reference.layer`."""
    if not core.computes(cell, input):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            wide = _widen(hx), _widen(weights)
            results = layer(cell, input.float(), batch_sizes, *wide, lengths)
            return tuple(result.to(input.dtype) for result in results)
        return reference.layer(cell, input, batch_sizes, hx, weights, lengths)
    compiling, watched, transforming = _modes(input)
    if transforming and not compiling:
        return library.transformed(cell, input, batch_sizes, hx, weights, lengths)
    if transforming or (not compiling and _is_beyond_the_core()):
        return reference.layer(cell, input, batch_sizes, hx, weights, lengths)
    if not watched:
        try:
            return _run(cell, input, batch_sizes, lengths, hx, weights)
        except core.LazyError:
            pass  # the dispatcher knows what the tensor stands for
    return library.compiled(cell, input, batch_sizes, hx, weights, lengths)


def step(
    cell: Cell, input: Tensor, hx: tuple[Tensor, ...] | None, weights: Weights
) -> tuple[Tensor, ...]:
    """Run a cell over one time step; arguments and results as `elman.reference.step`."""
    if not core.computes(cell, input):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            after = step(cell, input.float(), _widen(hx), _widen(weights))
            return tuple(state.to(input.dtype) for state in after)
        return reference.step(cell, input, hx, weights)
    if not any(_modes(input)):
        if _is_beyond_the_core():
            return reference.step(cell, input, hx, weights)
        try:
            return _run(cell, input, None, None, hx, (*weights, None))
        except core.LazyError:
            pass
    states = None if hx is None else tuple(state.unsqueeze(0) for state in hx)
    results = layer(cell, input.unsqueeze(0), None, states, (*weights, None))
    return tuple(state.squeeze(0) for state in results[1:])


def is_tracing() -> bool:
    """Return whether torch.jit.trace records what is computed."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


# Whether a graph is being made; whether operations are watched, so that they have to be operators;
# and whether functions are being transformed.
def _modes(input: Tensor) -> tuple[bool, bool, bool]:
    compiling = torch.compiler.is_compiling()
    watched = compiling or torch._C._len_torch_dispatch_stack() > 0 or type(input) not in _PLAIN
    return compiling, watched, torch._C._are_functorch_transforms_active()


# Whether derivatives are pushed forward, or calls are recorded with what they return: a trace would
# hold the empty results, not the call that fills them.
def _is_beyond_the_core() -> bool:
    return forward_ad._current_level >= 0 or is_tracing()


def _widen(tensors: Any) -> Any:
    return tensors and tuple(None if t is None else t.float() for t in tensors)


def _run(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() and _requires_grad(input, hx, weights):
        states = hx or (None,) * len(cell.states)
        return _Layer.apply(cell, batch_sizes, lengths, len(states), input, *states, *weights)  # type: ignore[no-untyped-call, no-any-return]
    return tuple(core.forward(cell, input, batch_sizes, lengths, hx or (), weights, False))


def _requires_grad(input: Tensor, hx: tuple[Tensor, ...] | None, weights: Weights) -> bool:
    if input.requires_grad:
        return True
    for tensor in weights:
        if tensor is not None and tensor.requires_grad:
            return True
    return hx is not None and any(state.requires_grad for state in hx)


# The caller may change the output in place, and the backward pass reads it as it was. So each call
# has a witness, which shares the output's count of changes and not its memory, and an output that
# was changed is computed again. That costs nothing where nobody changes it.
class _Layer(torch.autograd.Function):
    """A layer or a step of the core, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: Cell,
        batch_sizes: Tensor | None,
        lengths: Tensor | None,
        num_states: int,
        input: Tensor,
        *tensors: Tensor | None,  # the initial states, then the weights
    ) -> tuple[Tensor, ...]:
        states, weights = tensors[:num_states], tensors[num_states:]
        *outputs, kept = core.forward(cell, input, batch_sizes, lengths, states, weights, True)
        ctx.cell, ctx.num_states = cell, num_states
        ctx.set_materialize_grads(False)
        ctx.witness = outputs[0].detach()
        ctx.witness.data = _NOTHING
        # As data, so that PyTorch does not refuse an output that was changed.
        ctx.save_for_backward(batch_sizes, lengths, input, *tensors, outputs[0].data, kept)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        batch_sizes, lengths, input, *tensors, output, kept = ctx.saved_tensors
        cell, wanted = ctx.cell, ctx.needs_input_grad[4:]
        states, weights = tensors[: ctx.num_states], tensors[ctx.num_states :]
        call = cell, input, batch_sizes, lengths, states, weights
        if torch.is_grad_enabled():  # derivatives of these derivatives are asked for

            def again(*upstream: Tensor | None) -> tuple[Tensor | None, ...]:
                return reference.gradients(
                    cell, input, batch_sizes, states, weights, lengths, wanted, upstream
                )

            return (None,) * 4 + library.mapped(again, upstream)
        if ctx.witness._version:
            output = _output(*call)
        if not any(_modes(input)):
            try:
                return (None,) * 4 + core.backward(*call, output, kept, upstream, wanted)
            except core.LazyError:
                pass
        return (None,) * 4 + library.gradients(*call, output, kept, upstream, wanted)


_NOTHING = torch.empty(0, device="cpu")  # also where the first import is under another device


def _output(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Weights,
    weights: Weights,
) -> Tensor:
    hx = None if states[0] is None else tuple(state for state in states if state is not None)
    if batch_sizes is None and input.dim() == 2:
        return step(cell, input, hx, weights[:4])[0]
    return layer(cell, input, batch_sizes, hx, weights, lengths)[0]
