"""Chooses who computes a layer.

`layer` and `step` take and return what `elman.reference.layer` and `step` do. CPU tensors of
float32 and float64 go to the native core, forward and backward: straight where PyTorch computes as
it reads, and as the operators of `elman.library` where it compiles, exports or transforms, where a
dispatch mode watches operations, and where a tensor is not memory that the core can read as it is.
bfloat16 and float16 are computed in float32 and rounded at the end; of bfloat16 the operands of all
products too, as autocast and torch.set_float32_matmul_precision("medium") ask for. What the core
does not do goes to the reference: other devices, forward-mode derivatives, derivatives of
derivatives, tracing.

Arguments arrive checked by `elman.shapes`; nothing here looks at a size twice.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from elman import core, layout, library, reference, stretches
from elman.cells import Cell
from elman.shapes import Recurrence, Resets

__all__ = [
    "asking_for_bf16",
    "at_once",
    "checkpointed",
    "inside",
    "is_tracing",
    "layer",
    "step",
]

Weights: TypeAlias = Sequence[Tensor | None]

_PLAIN = (Tensor, torch.nn.Parameter)
_WIDENED = (torch.bfloat16, torch.float16)


# How PyTorch computes at this moment, as the core asks it.
_MODES = (
    torch._C._are_functorch_transforms_active,
    torch._C._len_torch_dispatch_stack,
    torch._C._is_tracing,
    torch._C._is_any_autocast_enabled,
    torch.is_grad_enabled,
    *_PLAIN,
    forward_ad,
    torch.float32,
    torch.float64,
)


def at_once(
    cell: Cell,
    parameters: Mapping[str, Tensor | None],
    named: Sequence[tuple[str | None, tuple[int, ...] | None]],
    input: Any,
    hx: Any,
    features: int,
    widths: tuple[int, ...],
    directions: int = 0,
    batch_first: bool = False,
) -> tuple[bool, Sequence[Tensor]] | None:
    """Run a call of a module if it is as most are, which is known at once.

    All of a batch is there, in float32 or float64 on the CPU, with the parameters in their places,
    and nothing but autograd watches. It is checked in C++, by the rules of `elman.shapes`, and goes
    the way of `layer` and `step` to the core.

    Args:
        cell: What to compute.
        parameters: Those of the module, by their names.
        named: Their names and shapes in the order of `layer`, None for what there is not.
        input: What the user gave; anything else than a tensor with a batch axis is not usual.
        hx: What the user gave.
        features: The last axis of input.
        widths: The last axis of each state.
        directions: Those of a layer, 0 for the module of a cell.
        batch_first: Whether input is (N, L, H_in).

    Returns:
        Whether there is a graph for gradients, and the results of `layer`, time-major, or of
        `step`; or None: nothing is done, and nothing is known of what was given.
    """
    if not core.has_plain_weights(cell):
        return None
    bf16 = _asks_for_bf16()
    found = core._native.usual(
        _MODES, parameters, named, input, hx, features, widths, directions, batch_first
    )
    if found is None:
        return None
    has_graph, states, weights = found
    if batch_first:
        input = input.transpose(0, 1)
    try:
        if has_graph:
            sizes = len(states), len(weights), 0
            how = cell, None, None, None, None, False, False, bf16, sizes
            return True, _apply(how, input, *states, *weights)
        return False, core.forward(cell, input, None, None, states, weights, False, bf16=bf16)
    except core.LazyError:
        return None


def layer(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    lengths: Tensor | None = None,
    resets: Resets | None = None,
    recurrence: Recurrence | None = None,
    recompute: bool = False,
    bf16: bool | None = None,
) -> tuple[Tensor, ...]:
    """Run one layer, in all its directions; arguments and results as `elman.reference.layer`.

    With recompute, little is kept for the backward pass, which computes the rest again. With bf16,
    the core rounds the operands of products, as `core.forward` says; None asks PyTorch for it.
    """
    if not core.computes(cell, input, weights, recurrence):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            wide = _widen(hx), _widen(weights), lengths, _widen_resets(resets)
            beyond = _widen_recurrence(recurrence), recompute, input.dtype is torch.bfloat16
            results = layer(cell, input.float(), batch_sizes, *wide, *beyond)
            return tuple(result.to(input.dtype) for result in results)
        given = cell, input, batch_sizes, hx, weights, lengths, resets, recurrence
        return checkpointed(reference.layer, *given) if recompute else reference.layer(*given)
    if bf16 is None:
        bf16 = _asks_for_bf16()
    compiling, watched, transforming = _modes(input)
    call = cell, input, batch_sizes, hx, weights, lengths, resets
    is_operator = recurrence is None and core.has_plain_weights(cell)
    if recompute and not is_operator:
        return checkpointed(layer, *call, recurrence, False, bf16)  # type: ignore[no-any-return]
    if transforming and not compiling and is_operator:
        return library.transformed(*call)
    if transforming or (not compiling and _is_beyond_the_core()):
        return reference.layer(*call, recurrence)
    if not watched:
        try:
            ragged = batch_sizes, lengths, hx, weights, resets, "", recurrence
            return _run(cell, input, *ragged, recompute, bf16)
        except core.LazyError:
            pass  # the dispatcher knows what the tensor stands for
    if not is_operator:
        return reference.layer(*call, recurrence)
    return library.compiled(*call, recompute=recompute)


def inside(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    lengths: Tensor | None,
    resets: Resets | None,
    letters: str,
    recurrence: Recurrence | None = None,
    bf16: bool | None = None,
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Run one layer and tell its states, or gates too, by their letters.

    Arguments and results are those of `elman.reference.inside`.
    """
    is_plain = not any(_modes(input)) and not _is_beyond_the_core()
    tells = recurrence is None and not set(letters) - set("h" + _told(cell))
    if is_plain and tells and not cell.norms and core.computes(cell, input):
        try:
            found = _run(cell, input, None, lengths, hx, weights, resets, letters, bf16=bf16)
        except core.LazyError:
            pass
        else:
            count = 1 + len(cell.states)
            told = found[count] if len(found) > count else None
            return found[:count], _values(cell, letters, found[0], told, weights)
    elif input.dtype in _WIDENED and input.device.type == "cpu":
        wide = _widen(hx), _widen(weights), lengths, _widen_resets(resets)
        call = cell, input.float(), *wide, letters, _widen_recurrence(recurrence)
        results, values = inside(*call, input.dtype is torch.bfloat16)
        lower = input.dtype
        return tuple(r.to(lower) for r in results), {k: v.to(lower) for k, v in values.items()}
    return reference.inside(cell, input, hx, weights, lengths, resets, letters, recurrence)


# What the core can tell of a step besides h: the gates, if they have a meaning to users, and the
# states after h.
def _told(cell: Cell) -> str:
    return (cell.gates if cell.values is not None else "") + cell.states[1:]


# Where among the vectors that the core keeps of a row those letters are: the gates come first, the
# states last.
def _places(cell: Cell) -> dict[str, int]:
    after_h = cell.states[1:]
    places = {letter: i for i, letter in enumerate(cell.gates) if letter in _told(cell)}
    last = core.kept_width(cell, 1) - len(after_h)
    return places | {letter: last + i for i, letter in enumerate(after_h)}


# The states and gates by their letters, (D, L, N, .), from the output and what `_run` adds.
def _values(
    cell: Cell, letters: str, output: Tensor, told: Tensor | None, weights: Weights
) -> dict[str, Tensor]:
    assert weights[0] is not None
    hidden_size, parts = len(weights[0]) // len(cell.gates), layout.parts_of(cell)
    by_direction = output.unflatten(-1, (len(weights) // parts, -1))  # type: ignore[no-untyped-call]
    values = {"h": by_direction.movedim(2, 0)}
    if told is not None:
        count = told.shape[-1] // hidden_size
        vectors = told.unflatten(-1, (count, -1))  # type: ignore[no-untyped-call]
        is_kept = count == core.kept_width(cell, 1)
        places = _places(cell) if is_kept else {c: i for i, c in enumerate(cell.states[1:])}
        values |= {letter: vectors[..., i, :] for letter, i in places.items()}
    return {letter: values[letter] for letter in letters}


def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, which the backward pass calls once more as a whole."""
    return checkpoint(function, *args, use_reentrant=False)


def step(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    bf16: bool | None = None,
) -> tuple[Tensor, ...]:
    """Run a cell over one time step; arguments and results as `elman.reference.step`."""
    if not core.computes(cell, input):
        if input.dtype in _WIDENED and input.device.type == "cpu":
            wide = _widen(hx), _widen(weights), input.dtype is torch.bfloat16
            after = step(cell, input.float(), *wide)
            return tuple(state.to(input.dtype) for state in after)
        return reference.step(cell, input, hx, weights)
    if not any(_modes(input)):
        if _is_beyond_the_core():
            return reference.step(cell, input, hx, weights)
        try:
            return _run(cell, input, None, None, hx, (*weights, None), bf16=bf16)
        except core.LazyError:
            pass
    states = None if hx is None else tuple(state.unsqueeze(0) for state in hx)
    results = layer(cell, input.unsqueeze(0), None, states, (*weights, None), bf16=bf16)
    return tuple(state.squeeze(0) for state in results[1:])


class _Asked(threading.local):
    bf16 = False


_asked = _Asked()


@contextmanager
def asking_for_bf16() -> Iterator[None]:
    """Let the calls of this thread round the operands of products, as autocast asks for."""
    before, _asked.bf16 = _asked.bf16, True
    try:
        yield
    finally:
        _asked.bf16 = before


def _asks_for_bf16() -> bool:
    if torch.compiler.is_compiling():
        return False  # the operators compute in float32
    return _asked.bf16 or torch.get_float32_matmul_precision() == "medium"


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


def _widen_resets(resets: Resets | None) -> Resets | None:
    return resets and resets._replace(to=_widen(resets.to))


def _widen_recurrence(recurrence: Recurrence | None) -> Recurrence | None:
    if recurrence is None or recurrence.drop is None:
        return recurrence
    return recurrence._replace(drop=recurrence.drop.float())


# The results of the core and, if the letters ask for more than h, one tensor more: all values that
# it keeps for the backward pass or, where neither that nor gates are wanted, the cell states alone.
def _run(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Weights,
    resets: Resets | None = None,
    letters: str = "",
    recurrence: Recurrence | None = None,
    recompute: bool = False,
    bf16: bool | None = None,
) -> tuple[Tensor, ...]:
    mask, to = resets or (None, ())
    if bf16 is None:
        bf16 = _asks_for_bf16()
    recompute = recompute and core.kept_width(cell, 1) > 0
    beyond_h = bool(letters.strip("h"))
    if torch.is_grad_enabled() and _requires_grad(input, hx, weights, to):
        states = hx or (None,) * len(cell.states)
        sizes = len(states), len(weights), len(to)
        how = cell, batch_sizes, lengths, mask, recurrence, beyond_h, recompute, bf16, sizes
        return _Layer.apply(how, input, *states, *weights, *to)  # type: ignore[no-untyped-call, no-any-return]
    call = cell, input, batch_sizes, lengths, hx or (), weights
    gates = bool(set(letters) - set(cell.states))
    cells = beyond_h and not gates
    return tuple(core.forward(*call, gates, mask, to, cells, recurrence, bf16=bf16))


def _requires_grad(
    input: Tensor, hx: tuple[Tensor, ...] | None, weights: Weights, to: tuple[Tensor, ...]
) -> bool:
    if input.requires_grad:
        return True
    for tensor in (*to, *weights):
        if tensor is not None and tensor.requires_grad:
            return True
    return hx is not None and any(state.requires_grad for state in hx)


# What a call is besides its differentiable tensors: the cell, batch_sizes, lengths, the mask of
# resets, what acts beyond the cell, whether what is kept is told, whether little is kept, whether
# operands are rounded to bfloat16, and how many states, weights and states to reset to there are.
_How: TypeAlias = tuple[
    Cell,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Recurrence | None,
    bool,
    bool,
    bool,
    tuple[int, int, int],
]


# The caller may change the output in place, and the backward pass reads it as it was. So each call
# has a witness, which shares the output's count of changes and not its memory, and an output that
# was changed is computed again. That costs nothing where nobody changes it.
class _Layer(torch.autograd.Function):
    """A layer or a step of the core, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        how: _How,
        input: Tensor,
        *tensors: Tensor | None,  # the initial states, the weights, and what resets start from
    ) -> tuple[Tensor, ...]:
        cell, batch_sizes, lengths, mask, recurrence, tells, recompute, bf16, sizes = how
        states, weights, to, _ = _parts(tensors, sizes)
        call = cell, input, batch_sizes, lengths, states, weights
        ctx.how = cell, recurrence, tells, recompute, bf16, sizes
        ctx.set_materialize_grads(False)
        if recompute:
            outputs, marks = stretches.forward(*call, mask, to, bf16)
            ctx.save_for_backward(batch_sizes, lengths, mask, None, None, input, *tensors, *marks)
            return tuple(outputs)
        found = core.forward(*call, True, mask, to, False, recurrence, tells, bf16)
        num_outputs = len(states) + (input.dim() == 3 or batch_sizes is not None)
        outputs, (kept, *staged) = found[:num_outputs], found[num_outputs:]
        ctx.staged = staged[0] if staged else None
        witness = ctx.witness = outputs[0].detach()
        witness.data = _NOTHING
        # As data, so that PyTorch does not refuse an output that was changed.
        saved = batch_sizes, lengths, mask, outputs[0].data, kept
        ctx.save_for_backward(*saved, input, *tensors)
        return (*outputs, kept) if tells else tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        batch_sizes, lengths, mask, output, kept, input, *tensors = ctx.saved_tensors
        cell, recurrence, tells, recompute, bf16, sizes = ctx.how
        states, weights, to, marks = _parts(tensors, sizes)
        call = cell, input, batch_sizes, lengths, states, weights
        wanted = ctx.needs_input_grad[1:]
        d_kept = None
        if tells:
            *upstream, d_kept = upstream  # type: ignore[assignment]
        if not torch.is_grad_enabled():  # no derivatives of these derivatives are asked for
            if not recompute and ctx.witness._version:
                output = _output(*call, mask, to, recurrence, bf16)
            if not any(_modes(input)):
                try:
                    if recompute:
                        given = marks, upstream, wanted, mask, to, bf16
                        return None, *stretches.backward(*call, *given)
                    beside = mask, to, d_kept, recurrence, ctx.staged, bf16
                    found = core.backward(*call, output, kept, upstream, wanted, 1, *beside)
                    return None, *found
                except core.LazyError:
                    pass
            is_operator = mask is None and recurrence is None and core.has_plain_weights(cell)
            if is_operator and d_kept is None:
                if recompute:
                    output = _output(*call, mask, to, recurrence, bf16)
                if recompute or lengths is not None:  # the operator's have padding: made anew
                    kept = input.new_empty(0)
                return None, *library.gradients(*call, output, kept, upstream, wanted)

        def again(*upstream: Tensor | None) -> tuple[Tensor | None, ...]:
            given = cell, input, batch_sizes, states, weights, lengths, wanted, upstream
            return reference.gradients(*given, mask, to, recurrence, _told(cell))

        of_kept = []
        if d_kept is not None:  # what is kept and has no letter has no gradient
            of_each, places = d_kept.chunk(core.kept_width(cell, 1), -1), _places(cell)
            of_kept = [torch.cat([of_each[places[letter]] for letter in _told(cell)], -1)]
        return None, *library.mapped(again, (*upstream, *of_kept))


# `_Layer.apply` but for its search for tensors that ended transforms have left behind: these are no
# memory, so that `at_once` leaves them to the other way.
_apply: Any = super(torch.autograd.Function, _Layer).apply


# The initial states, the weights, and what resets start from, of the tensors of a call, and others.
def _parts(tensors: Sequence[Any], sizes: tuple[int, int, int]) -> list[Sequence[Any]]:
    a, b, c = itertools.accumulate(sizes)
    return [tensors[:a], tensors[a:b], tensors[b:c], tensors[c:]]


_NOTHING = torch.empty(0, device="cpu")  # also where the first import is under another device


def _output(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Weights,
    weights: Weights,
    mask: Tensor | None,
    to: Sequence[Tensor],
    recurrence: Recurrence | None,
    bf16: bool,
) -> Tensor:
    hx = None if states[0] is None else tuple(state for state in states if state is not None)
    if batch_sizes is None and input.dim() == 2:
        return step(cell, input, hx, weights[:4], bf16)[0]
    resets = None if mask is None else Resets(mask, tuple(to))
    call = cell, input, batch_sizes, hx, weights, lengths, resets, recurrence
    return layer(*call, bf16=bf16)[0]
