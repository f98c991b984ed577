"""A layer as operators of torch.library, for all that looks at operators.

That is torch.compile, torch.export and torch.func, dispatch modes such as make_fx, FakeTensorMode
and FlopCounterMode, and tensors that are more than memory of their own, which say themselves what
an operator makes of them.

    elman::layer            forward; `kept` is what the backward pass needs besides
    elman::layer_backward   its gradients

Each is one opaque node of a graph, whatever the number of steps. `compiled` calls the first where a
graph is being made, and `gradients` the second. `transformed` does so under transforms of
torch.func: vmap over sequences adds them to the batch, with the gradients of the weights still
apart for each; vmap over weights is a loop. What differentiates more than once, or forwards, goes
to the reference.

The operators know only what the core computes. A cell without c has an empty c_n.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _has_storage
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_functorch_wrapped_tensor,
)
from torch.utils.flop_counter import register_flop_formula

from elman import core, reference, shapes
from elman.cells import CELLS, Cell
from elman.language import say
from elman.shapes import Resets

__all__ = ["compiled", "gradients", "mapped", "times", "transformed"]

_READ = "Tensor input, Tensor? batch_sizes, Tensor? lengths, Tensor? resets"
for _name in ("h_0", "c_0", "h_to", "c_to"):
    _READ += f", Tensor? {_name}"
for _suffix in ("", "_reverse"):
    for _name in ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr"):
        _always = _suffix == "" and _name in ("w_ih", "w_hh")
        _READ += f", Tensor{'' if _always else '?'} {_name}{_suffix}"

# Positions among these.
_INPUT, _BATCH_SIZES, _RESETS = 0, 1, 3
_STATES, _TO, _WEIGHTS = slice(4, 6), slice(6, 8), slice(8, 18)
_DIFFERENTIABLE = [0, *range(4, 18)]


def compiled(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    resets: Resets | None = None,
    recompute: bool = False,
) -> tuple[Tensor, ...]:
    """Run a layer as a node of a graph; arguments and results as `elman.reference.layer`.

    With recompute, nothing is kept for the backward pass, which runs the layer once more.
    """
    arguments = _arguments(input, batch_sizes, lengths, hx, weights, resets)
    trains = (
        torch.is_grad_enabled()
        and not torch.compiler.is_exporting()  # most often for inference
        and any(tensor is not None and tensor.requires_grad for tensor in arguments)
    )
    output, *results = torch.ops.elman.layer(*arguments, cell.name, trains and not recompute)
    if trains and not torch.compiler.is_compiling():
        output = output.clone()  # which the caller may change in place before the backward pass
    return output, *results[: len(cell.states)]


def transformed(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    resets: Resets | None = None,
) -> tuple[Tensor, ...]:
    """Run a layer under transforms; arguments and results as `elman.reference.layer`."""
    call = cell, input, batch_sizes, hx, weights, lengths, resets
    transforms = [level.key() for level in get_interpreter_stack() or ()]
    if {*transforms} == {TransformType.Functionalize}:
        return compiled(*call)
    others = {TransformType.Jvp, TransformType.Functionalize}
    if transforms.count(TransformType.Grad) > 1 or not others.isdisjoint(transforms):
        return reference.layer(*call)
    arguments = _arguments(input, batch_sizes, lengths, hx, weights, resets)
    output, *results = _Transformed.apply(*arguments, cell.name, True)  # type: ignore[no-untyped-call]
    if TransformType.Grad in transforms:
        output = output.clone()  # which the caller may change in place before the backward pass
    return output, *results[: len(cell.states)]


def gradients(
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
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a layer or a step; arguments and results as `core.backward`."""
    num_states = len(states)
    is_step = batch_sizes is None and input.dim() == 2
    if is_step:
        # a sequence of length 1
        input, output, kept = input.unsqueeze(0), output.unsqueeze(0), kept.unsqueeze(1)
        states = [state if state is None else state.unsqueeze(0) for state in states]
        first, *rest = (u if u is None else u.unsqueeze(0) for u in upstream)
        upstream = first, None, *rest
    read = _arguments(input, batch_sizes, lengths, states, weights)
    of_states = [*wanted[1 : 1 + num_states], False][:2]
    of_weights = [*wanted[1 + num_states :], *[False] * 5][:10]
    asked = [wanted[0], *of_states, False, False, *of_weights]

    def run(*upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        above = [*upstream, None][:3]
        found = torch.ops.elman.layer_backward(*(*read, cell.name, output, kept, *above, asked, 1))
        rest = iter(found)
        return tuple(next(rest) if want else None for want in wanted)

    results = mapped(run, upstream)
    if is_step:
        squeezed = (g if g is None else g.squeeze(0) for g in results[: 1 + num_states])
        results = *squeezed, *results[1 + num_states :]
    return results


def mapped(
    function: Callable[..., tuple[Tensor | None, ...]], upstream: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Call a function of upstream gradients, some of which may be mapped by is_grads_batched.

    torch.autograd.grad(is_grads_batched=True) and jacobian(vectorize=True) map by a predecessor of
    torch.func.vmap, which has no rules for operators; here its axis becomes one of torch.func.vmap.
    """
    old = [
        u is not None and not (_has_storage(u) or is_functorch_wrapped_tensor(u)) for u in upstream
    ]
    if not any(old):
        return function(*upstream)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    # The size, 1, is of those that are not mapped at this level, and stay as they are.
    opened = [
        torch._remove_batch_dim(u, level, 1, 0) if u is not None and is_old else u
        for u, is_old in zip(upstream, old, strict=True)
    ]
    there: list[bool] = []

    def run(*upstream: Tensor | None) -> tuple[Tensor, ...]:
        results = function(*upstream)
        there[:] = [result is not None for result in results]
        return tuple(result for result in results if result is not None)

    in_dims = tuple(0 if is_old else None for is_old in old)
    found = iter(torch.func.vmap(run, in_dims)(*opened))
    return tuple(
        torch._add_batch_dim(next(found), 0, level) if is_there else None for is_there in there
    )


def _arguments(
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    hx: Sequence[Tensor | None] | None,
    weights: Sequence[Tensor | None],
    resets: Resets | None = None,
) -> list[Any]:
    mask, to = resets or (None, ())
    states = [*[*(hx or ()), None, None][:2], *[*to, None, None][:2]]
    return [input, batch_sizes, lengths, mask, *states, *[*weights, *[None] * 5][:10]]


# --- the operators ------------------------------------------------------------------------------


@torch.library.custom_op(
    "elman::layer",
    mutates_args=(),
    schema=f"({_READ}, str cell, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
def layer(*arguments: Any) -> tuple[Tensor, ...]:
    """Run a layer: output, h_n, c_n and, if keep, what its backward pass needs besides."""
    *read, name, keep = arguments
    _check("elman::layer", name, read)
    results = core.forward(*_call(name, read), keep, *_resets(name, read))
    return _four(CELLS[name], results, keep)


@layer.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *read, name, keep = arguments
    cell, input, states = CELLS[name], read[_INPUT], read[_STATES]
    _, w_hh, _, _, w_hr, w_ih_reverse, *_ = read[_WEIGHTS]
    directions, hidden_size = 1 if w_ih_reverse is None else 2, w_hh.shape[0] // len(cell.gates)
    output_size = hidden_size if w_hr is None else w_hr.shape[0]
    if read[_BATCH_SIZES] is None:
        batch = input.shape[1]
    elif states[0] is not None:
        batch = states[0].shape[1]
    else:
        batch = torch.library.get_ctx().new_dynamic_size()
    new = input.new_empty
    results = [new((*input.shape[:-1], directions * output_size))]
    results += [new((directions, batch, width)) for width in (output_size, hidden_size)]
    results = results[: 1 + len(cell.states)]
    if keep:
        width = core.kept_width(cell, hidden_size)
        results.append(new((directions, *input.shape[:-1], width)))
    return _four(cell, results, keep)


@torch.library.custom_op(
    "elman::layer_backward",
    mutates_args=(),
    schema=f"({_READ}, str cell, Tensor output, Tensor kept, Tensor? d_output, Tensor? d_h_n,"
    " Tensor? d_c_n, bool[] wanted, int groups) -> Tensor[]",
)
def layer_backward(*arguments: Any) -> list[Tensor]:
    """Return, in order, the wanted gradients of input, states and weights."""
    *read, name, output, kept, d_output, d_h_n, d_c_n, wanted, groups = arguments
    _check_backward(arguments)
    call = cell, _, _, _, states, weights = _call(name, read)
    if kept.numel() == 0 and core.kept_width(cell, 1):  # nobody expected a backward pass
        kept = core.forward(*call, True, *_resets(name, read))[-1]
    upstream = (d_output, d_h_n, d_c_n)[: 1 + len(states)]
    mask, to = _resets(name, read)
    asked = _of_the_core(wanted, states, weights, to)
    found = core.backward(*call, output, kept, upstream, asked, groups, mask=mask, to=to)
    return [gradient for gradient in _of_the_operator(found, states, to) if gradient is not None]


@layer_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    *_, wanted, groups = arguments
    differentiable = [arguments[i] for i in _DIFFERENTIABLE]
    return [
        tensor.new_empty(tensor.shape if groups == 1 or i < 5 else (groups, *tensor.shape))
        for i, (tensor, want) in enumerate(zip(differentiable, wanted, strict=True))
        if want
    ]


def _check_backward(arguments: Sequence[Any]) -> None:
    *read, name, output, kept, d_output, d_h_n, d_c_n, wanted, groups = arguments
    who, input = "elman::layer_backward", read[_INPUT]
    expected = _check(who, name, read)
    shapes.check_given(who, output=output, kept=kept)
    directions, _, hidden_size = expected["c_n"]
    width = core.kept_width(CELLS[name], hidden_size)
    operands = [
        ("input", input, tuple(input.shape)),
        ("output", output, expected["output"]),
        ("d_output", d_output, expected["output"]),
        ("d_h_n", d_h_n, expected["h_n"]),
        ("d_c_n", d_c_n, expected["c_n"] if len(CELLS[name].states) > 1 else (0,)),
    ]
    if kept.numel():
        operands.append(("kept", kept, (directions, *input.shape[:-1], width)))
    shapes.check_operands(who, operands)
    present = [read[i] is not None for i in _DIFFERENTIABLE]
    if len(wanted) != len(present) or any(
        w and not p for w, p in zip(wanted, present, strict=True)
    ):
        raise shapes.ShapeError(
            say(
                "{who}: wanted must be {count} flags, False for what is None, got {got}",
                who=who,
                count=len(present),
                got=wanted,
            )
        )
    batch = expected["h_n"][1]
    is_whole = read[_BATCH_SIZES] is not None or read[_TO.start] is not None
    if groups < 1 or (groups > 1 and (batch % groups or is_whole)):
        raise shapes.ShapeError(
            say(
                "{who}: groups must be 1, or divide the {batch} sequences of a padded "
                "batch, got {got}",
                who=who,
                batch=batch,
                got=groups,
            )
        )


# For those who call an operator themselves.
def _check(who: str, name: str, read: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    expected = shapes.check_operator(who, name, read)
    input = read[_INPUT]
    if not core.computes(CELLS[name], input):
        raise shapes.ShapeError(
            say(
                "{who}: input must be float32 or float64 on the CPU, with the native "
                "core, got {got} on {device}: call the layer, which knows what else "
                "computes it",
                who=who,
                got=input.dtype,
                device=input.device,
            )
        )
    return expected


# How many steps the longest of a jagged batch has is a value of a tensor, and becomes a size here:
# in a graph only an operator can make one of it.
@torch.library.custom_op("elman::times", mutates_args=(), schema="(Tensor lengths) -> Tensor")
def times(lengths: Tensor) -> Tensor:
    """Return 0, 1, ... up to the last step of the longest sequence, but at least 0."""
    return torch.arange(max(1, *lengths.tolist(), 0), device=lengths.device)


@times.register_fake
def _(lengths: Tensor) -> Tensor:
    return lengths.new_empty(torch.library.get_ctx().new_dynamic_size(min=1))


# The first arguments of `core.forward` and `core.backward`, from those of the operators.
def _call(name: str, read: Sequence[Any]) -> tuple[Cell, Tensor, Any, Any, list[Any], list[Any]]:
    input, batch_sizes, lengths = read[:3]
    cell, weights = CELLS[name], read[_WEIGHTS]
    states, directions = read[_STATES][: len(cell.states)], 1 if weights[5] is None else 2
    return cell, input, batch_sizes, lengths, [*states], [*weights[: 5 * directions]]


# Where sequences start anew and from what, likewise.
def _resets(name: str, read: Sequence[Any]) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    to = read[_TO][: len(CELLS[name].states)]
    return read[_RESETS], tuple(state for state in to if state is not None)


# Of what is wanted of input, states, what is reset to, and ten weights, that of those which the
# core has, in its order.
def _of_the_core(
    wanted: Sequence[bool], states: Sequence[Any], weights: Sequence[Any], to: Sequence[Any]
) -> list[bool]:
    of_states, of_weights = wanted[: 1 + len(states)], wanted[5 : 5 + len(weights)]
    return [*of_states, *of_weights, *wanted[3 : 3 + len(to)]]


# Gradients in the core's order -> in the operator's: those of what is reset to before the weights'.
def _of_the_operator(
    found: Sequence[Tensor | None], states: Sequence[Any], to: Sequence[Any]
) -> tuple[Tensor | None, ...]:
    first, last = 1 + len(states), len(found) - len(to)
    return *found[:first], *found[last:], *found[first:last]


# Results of the core -> output, h_n, c_n, kept, empty where there are none.
def _four(cell: Cell, results: Sequence[Tensor], keep: bool) -> tuple[Tensor, ...]:
    output, h_n, *rest = results
    c_n = rest[0] if len(cell.states) > 1 else output.new_empty(0)
    return output, h_n, c_n, rest[-1] if keep else output.new_empty(0)


# --- how many operations ------------------------------------------------------------------------
# As torch.utils.flop_counter counts: the products of matrices, of padded steps too.


def _products(read: Sequence[Any]) -> tuple[int, int, int]:
    """Return the operations of the products with w_ih, w_hh and w_hr, in all directions."""
    input, weights = read[_INPUT], read[_WEIGHTS]
    w_ih, w_hh, w_hr = weights[0], weights[1], weights[4]
    rows: int = 2 * math.prod(input[:-1]) * (1 if weights[5] is None else 2)
    return (
        rows * math.prod(w_ih),
        rows * math.prod(w_hh),
        0 if w_hr is None else rows * math.prod(w_hr),
    )


@register_flop_formula(torch.ops.elman.layer)
def _(*shapes: Any, **_: Any) -> int:
    return sum(_products(shapes))


@register_flop_formula(torch.ops.elman.layer_backward)
def _(*shapes: Any, **_: Any) -> int:
    wanted: list[bool] = shapes[-2]
    of_input, of_state, of_projection = _products(shapes)
    return (
        of_input * (wanted[0] + wanted[5])
        + of_state * (1 + wanted[6])
        + of_projection * (1 + wanted[9])
    )


# --- autograd -----------------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *read, ctx.name, _ = inputs
    ctx.save_for_backward(*read, output[0], output[3])
    ctx.mark_non_differentiable(output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, upstream, torch.ops.elman.layer_backward)


def _gradients(
    ctx: Any, upstream: Sequence[Tensor | None], backward: Any
) -> tuple[Tensor | None, ...]:
    *read, output, kept = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[i] for i in _DIFFERENTIABLE]

    def run(*upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        results = iter(backward(*read, ctx.name, output, kept, *upstream, wanted, 1))
        return tuple(next(results) if want else None for want in wanted)

    d_input, *others = mapped(run, upstream[:3])
    return d_input, None, None, None, *others, None, None


layer.register_autograd(_backward, setup_context=_setup_context)


# torch.func looks into an autograd.Function, and not into the autograd of an operator.
class _Transformed(torch.autograd.Function):
    """The same for torch.func."""

    generate_vmap_rule = True
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = torch.ops.elman.layer(*arguments)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, upstream, _TransformedBackward.apply)


class _TransformedBackward(torch.autograd.Function):
    """The gradients for torch.func; their own, by the reference."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(torch.ops.elman.layer_backward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *read, ctx.name, _, _, d_output, d_h_n, d_c_n, ctx.wanted, _ = inputs
        ctx.save_for_backward(*read, d_output, d_h_n, d_c_n)

    @staticmethod
    def backward(ctx: Any, *d_gradients: Tensor) -> tuple[Tensor | None, ...]:
        end = _WEIGHTS.stop
        needed = [*ctx.needs_input_grad[:end], *ctx.needs_input_grad[end + 3 : end + 6]]
        asked = [t for t, need in zip(ctx.saved_tensors, needed, strict=True) if need]

        def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            all_tensors = [
                next(given) if need else tensor
                for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            cell, input, batch_sizes, lengths, states, weights = _call(ctx.name, all_tensors)
            mask, to = _resets(ctx.name, all_tensors)
            found = reference.gradients(
                *(cell, input, batch_sizes, states, weights, lengths),
                _of_the_core(ctx.wanted, states, weights, to),
                all_tensors[end : end + 1 + len(states)],
                *(mask, to),
            )
            results = _of_the_operator(found, states, to)
            return tuple(result for result in results if result is not None)

        found = iter(torch.func.vjp(gradients, *asked)[1](d_gradients))
        results = [next(found) if need else None for need in needed]
        # between them the name of the cell, output and kept, which follow from the others
        return *results[:end], None, None, None, *results[end:], None, None


# --- vmap ---------------------------------------------------------------------------------------
# An axis that is mapped joins the batch where all of it meets the same weights.


@layer.register_vmap
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    size = info.batch_size
    if size == 0:
        raise shapes.ShapeError(
            say(
                "elman::layer: vmap must map over an axis of at least 1, got 0: leave "
                "out empty batches"
            )
        )
    if not _joins_the_batch(arguments, in_dims):
        return _loop(torch.ops.elman.layer, size, in_dims, arguments)
    output, h_n, c_n, kept = torch.ops.elman.layer(
        *_join(arguments[: _WEIGHTS.start], in_dims, size), *arguments[_WEIGHTS.start :]
    )
    results = [_part(output, 1, size), _part(h_n, 1, size)]
    results += [_part(t, axis, size) if t.numel() else t for t, axis in ((c_n, 1), (kept, 2))]
    return tuple(results), (1, 1, 1 if c_n.numel() else None, 2 if kept.numel() else None)


@layer_backward.register_vmap
def _(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> Any:
    *_, wanted, groups = arguments
    if groups > 1 or not _joins_the_batch(arguments, in_dims):
        return _loop(torch.ops.elman.layer_backward, info.batch_size, in_dims, arguments)
    size = info.batch_size
    # after the weights: the name of the cell, output, kept, three upstream gradients
    first, name = _WEIGHTS.start, _WEIGHTS.stop
    joined = _join(arguments[:first], in_dims, size)
    later = _join(arguments[name + 1 : -2], in_dims[name + 1 : -2], size, axes=(1, 2, 1, 1, 1))
    results = torch.ops.elman.layer_backward(
        *joined, *arguments[first : name + 1], *later, wanted, size
    )
    of_batch = sum(wanted[:3])
    if size == 1:
        results = [*results[:of_batch], *(gradient[None] for gradient in results[of_batch:])]
    parts = [_part(gradient, 1, size) for gradient in results[:of_batch]]
    parts += results[of_batch:]
    return parts, [1] * of_batch + [0] * (len(parts) - of_batch)


def _joins_the_batch(arguments: Sequence[Any], in_dims: Sequence[int | None]) -> bool:
    mapped_weights = any(dim is not None for dim in in_dims[_WEIGHTS])
    # What is reset to is one state for the batch, as its gradient is.
    is_whole = arguments[_BATCH_SIZES] is not None or arguments[_TO.start] is not None
    return not is_whole and not mapped_weights


# Each tensor with what is mapped, `size` times, beside its batch axis: before it, and in one.
def _join(
    tensors: Sequence[Tensor | None],
    in_dims: Sequence[int | None],
    size: int,
    axes: Sequence[int] = (1, 0, 0, 1, 1, 1, 1, 1),
) -> list[Tensor | None]:
    joined = []
    for tensor, dim, axis in zip(tensors, in_dims, axes, strict=False):
        if tensor is not None and tensor.numel():
            if dim is None:
                tensor = tensor.unsqueeze(axis).repeat_interleave(size, axis)
            else:
                tensor = tensor.movedim(dim, axis)
            tensor = tensor.flatten(axis, axis + 1)
        joined.append(tensor)
    return joined


# The opposite of joining: the mapped axis is `axis`, and the batch follows it.
def _part(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = tensor.shape
    return tensor.view(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])


def _loop(
    operator: Any, size: int, in_dims: Sequence[int | None], arguments: Sequence[Any]
) -> tuple[list[Tensor], list[int]]:
    runs = [
        operator(
            *(
                argument.select(dim, i) if isinstance(dim, int) else argument
                for argument, dim in zip(arguments, in_dims, strict=True)
            )
        )
        for i in range(size)
    ]
    results = [torch.stack(parts) for parts in zip(*runs, strict=True)]
    return results, [0] * len(results)
