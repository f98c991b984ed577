"""The recurrence in PyTorch operations: slow, plain, and right for every dtype and device.

It is the oracle of the tests, and it computes what the native core does not: other cells, dtypes
and devices, and derivatives of derivatives. `layer`, `inside` and `step` have the same signatures
in `elman.ops`, which chooses between the two; `gradients` are those of all three, as tensors that
can be differentiated again. Sizes are not checked here; `elman.shapes` has done it.

Symbols: L time steps, N sequences in the batch, D directions, H_in and H_out features per step in
and out, G gates.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, softplus

from elman.cells import Cell, Math
from elman.language import say
from elman.shapes import Recurrence, Resets

__all__ = ["TorchMath", "gradients", "inside", "layer", "step"]


class TorchMath:
    """The operations of a cell's step on tensors."""

    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    relu = staticmethod(torch.relu)
    exp = staticmethod(torch.exp)
    softplus = staticmethod(softplus)
    maximum = staticmethod(torch.maximum)

    @staticmethod
    def where(condition: Tensor, x: Any, y: Any) -> Tensor:
        """Return x where the condition holds, y elsewhere."""
        return torch.where(condition, x, y)

    @staticmethod
    def norm(x: Tensor) -> Tensor:
        """Return x less its mean and over its standard deviation, along the last axis."""
        return layer_norm(x, x.shape[-1:])

    @staticmethod
    def split(x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Cut the last axis of x into equal parts."""
        return x.chunk(parts, -1)


MATH = TorchMath()


def layer(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None = None,
    resets: Resets | None = None,
    recurrence: Recurrence | None = None,
) -> tuple[Tensor, ...]:
    """Run one layer, in all its directions, over a batch of sequences.

    Args:
        cell: What to compute at each step.
        input: (L, N, H_in), or (rows, H_in) if batch_sizes is given.
        batch_sizes: (L,) sequences still running at each step, never growing, as in
            torch.nn.utils.rnn.PackedSequence; None if all have length L.
        hx: The initial state, (D, N, H_out) per state of the cell, (D, N, hidden_size) for the
            states after the first. Zeros if None.
        weights: w_ih, w_hh, b_ih, b_hh, w_hr for each direction; the biases and the projection
            w_hr may be None, and w_hh of a cell without a recurrent product. Then the vectors of
            the cell, if it has any. A w_hh of fewer columns than there are features of h is
            block-diagonal: each block of h has its own rows of each gate.
        lengths: (N,) steps of each sequence of a padded input, from 0 to L; None if all have L.
        resets: Before which steps of a padded input a sequence starts anew, in one direction.
        recurrence: What acts at every step beyond the cell.

    Returns:
        The output, (L, N, D * H_out) or (rows, D * H_out), zeros past the end of a sequence, and
        the final states, shaped as hx, each sequence's at its own last step, or its initial state
        if it has no step. No two of them share memory.

    Example:
        >>> import torch
        >>> from elman.cells import CELLS
        >>> w_ih, w_hh = torch.ones(2, 3), torch.zeros(2, 2)
        >>> weights = [w_ih, w_hh, None, None, None]
        >>> output, h_n = layer(CELLS["rnn_relu"], torch.ones(4, 1, 3), None, None, weights)
        >>> output.shape, h_n
        (torch.Size([4, 1, 2]), tensor([[[3., 3.]]]))
    """
    call = cell, input, batch_sizes, hx, weights, lengths, resets, recurrence
    return _results(*_directions(*call), input)


def inside(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    resets: Resets | None,
    letters: str,
    recurrence: Recurrence | None = None,
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Run one layer as `layer` does, and tell states and gates of every step.

    Args:
        cell: As in `layer`, like the others.
        input: Not packed.
        hx: As in `layer`.
        weights: As in `layer`.
        lengths: As in `layer`.
        resets: As in `layer`.
        letters: Of which states and gates.
        recurrence: As in `layer`.

    Returns:
        What `layer` returns, and (D, L, N, .) for each of the letters; zeros past the end of a
        sequence.
    """
    told = _telling(cell) if set(letters) - set(cell.states) else cell
    more = len(told.states) - len(cell.states)
    if hx is not None and more:
        assert weights[0] is not None
        hidden_size = weights[0].shape[0] // len(cell.gates)
        hx = (*hx, *[hx[-1].new_zeros(*hx[-1].shape[:-1], hidden_size)] * more)
    if resets is not None and resets.to and more:
        resets = resets._replace(to=(*resets.to, *[resets.to[0].new_zeros(())] * more))
    outputs, final = _directions(told, input, None, hx, weights, lengths, resets, recurrence)
    results = _results(outputs, final, input)[: 1 + len(cell.states)]
    each = zip(told.states, zip(*outputs, strict=True), strict=True)
    values = {
        letter: torch.stack(directions).unflatten(1, input.shape[:2])  # type: ignore[no-untyped-call]
        for letter, directions in each
        if letter in letters
    }
    return results, values


# What `layer` returns, of what `_directions` does.
def _results(
    outputs: list[list[Tensor]], final: list[Sequence[Tensor]], input: Tensor
) -> tuple[Tensor, ...]:
    output = torch.cat([direction[0] for direction in outputs], -1)
    if input.dim() == 3:
        output = output.reshape(*input.shape[:2], output.shape[-1])
    return output, *(torch.stack(directions) for directions in zip(*final, strict=True))


# A cell whose gates are states beside its own, which its step sets and does not read.
@cache
def _telling(cell: Cell) -> Cell:
    values, count = cell.values, len(cell.states)
    assert values is not None
    gates = "".join(gate for gate in cell.gates if gate not in cell.states)

    def step(
        m: Math, gx: Tensor, gh: Tensor, state: Sequence[Tensor], *vectors: Any
    ) -> tuple[Tensor, ...]:
        before = state[:count]
        after = cell.step(m, gx, gh, before, *vectors)
        after = after if isinstance(after, tuple) else (after,)
        return *after, *values(m, gx, gh, before, *vectors)

    return replace(cell, states=cell.states + gates, step=step, is_known=False)


# For each direction, every state at every step, (rows, .), and the final states, (N, .).
def _directions(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    resets: Resets | None,
    recurrence: Recurrence | None,
) -> tuple[list[list[Tensor]], list[Sequence[Tensor]]]:
    runs_at, parts = None, 5 + len(cell.vectors)
    if batch_sizes is None:
        sizes = [input.shape[1]] * input.shape[0]
        if lengths is not None:
            time = torch.arange(len(sizes), device=input.device)
            runs_at = (time[:, None] < lengths.to(input.device))[..., None]
            input = torch.where(runs_at, input, 0)  # what is there, NaN or not, is not read
        rows = input.flatten(0, 1)
    else:
        sizes = batch_sizes.tolist()
        rows = input
    runs = [
        _direction(
            cell,
            rows,
            sizes,
            runs_at,
            None if hx is None else [state[d] for state in hx],
            weights[parts * d : parts * (d + 1)],
            resets,
            _of_direction(recurrence, d, sizes),
            reverse=d == 1,
        )
        for d in range(len(weights) // parts)
    ]
    return [outputs for outputs, _ in runs], [final for _, final in runs]


def step(
    cell: Cell,
    input: Tensor,
    hx: tuple[Tensor, ...] | None,
    weights: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Run a cell over one time step.

    Args:
        cell: What to compute.
        input: (N, H_in).
        hx: (N, hidden_size) per state of the cell. Zeros if None.
        weights: w_ih, w_hh, b_ih, b_hh; the biases may be None.

    Returns:
        The next states, shaped as hx.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    state = _zeros(cell, input, input.shape[0], w_ih, None) if hx is None else hx
    return _advance(cell, linear(input, w_ih, b_ih), w_hh, b_hh, state, (), _Acts())


# What acts in the recurrence of one direction: factors of h in the product, (N, H_out), what holds
# h and c at each step, a mask (N, .), a probability, or None, and the bound of c.
class _Acts(NamedTuple):
    drop: Tensor | None = None
    zones: Sequence[tuple[Any, Any]] = ()
    clip: float | None = None


def _of_direction(recurrence: Recurrence | None, direction: int, sizes: Sequence[int]) -> _Acts:
    if recurrence is None:
        return _Acts()

    def by_step(zone: Tensor | float | None) -> Sequence[Any]:
        if not isinstance(zone, Tensor):
            return [zone] * len(sizes)
        return zone[direction].view(sum(sizes), -1).split_with_sizes(list(sizes))

    drop, zone_h, zone_c, clip = recurrence
    zones = list(zip(by_step(zone_h), by_step(zone_c), strict=True))
    return _Acts(None if drop is None else drop[direction], zones, clip)


# One step of the cell from gx, (N, G * hidden_size), and the state.
def _advance(
    cell: Cell,
    gx: Tensor,
    w_hh: Tensor | None,
    b_hh: Tensor | None,
    state: Sequence[Tensor],
    vectors: Sequence[Tensor | None],
    acts: _Acts,
) -> tuple[Tensor, ...]:
    named: dict[str, Any] = dict(zip(cell.vectors, vectors, strict=True)) if vectors else {}
    given = ({name: named[name] for name in cell.given},) if cell.given else ()
    drop = None if acts.drop is None else acts.drop[: len(gx)]
    gh = None
    if w_hh is not None:
        gh = _gh(cell, gx, w_hh, b_hh, named.get("gain_hh"), state, drop)
    after = cell.step(MATH, gx, gh, state, *given)
    after = after if isinstance(after, tuple) else (after,)
    if acts.clip is None and "c" not in cell.norms:
        return after
    assert cell.hidden is not None
    _, c, *others = after
    c = shown = c if acts.clip is None else c.clamp(-acts.clip, acts.clip)
    if "c" in cell.norms:
        shown = _affine(MATH.norm(c), named["gain_c"], named["bias_c"])
    return cell.hidden(MATH, gx, gh, shown, *given), c, *others


# gh of one step, with the norm if there is a gain; that of the late gates from another h.
def _gh(
    cell: Cell,
    gx: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    gain: Tensor | None,
    state: Sequence[Tensor],
    drop: Tensor | None,
) -> Tensor:
    h, gates, late = state[0], len(cell.gates), len(cell.late)
    if cell.reset is None:
        return _product(_times(h, drop), w_hh, b_hh, gain, gates, len(cell.apart))
    at = w_hh.shape[0] - w_hh.shape[0] * late // gates
    b_early, b_late = (None, None) if b_hh is None else (b_hh[:at], b_hh[at:])
    gain_early, gain_late = (None, None) if gain is None else (gain[:at], gain[at:])
    early = _product(_times(h, drop), w_hh[:at], b_early, gain_early, gates - late)
    h = cell.reset(MATH, gx, early, state)
    return torch.cat((early, _product(_times(h, drop), w_hh[at:], b_late, gain_late, late)), -1)


# W_hh h + b_hh of some gates, with the norm in between if there is a gain. W_hh may be
# block-diagonal: then it has the columns of one block.
def _product(
    h: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    gain: Tensor | None,
    gates: int,
    apart: int = 0,
) -> Tensor:
    if w_hh.shape[1] == h.shape[-1]:
        if gain is None:
            return linear(h, w_hh, b_hh)
        gh = linear(h, w_hh)
    else:
        blocks = h.shape[-1] // w_hh.shape[1]
        rows = w_hh.view(gates, blocks, -1, w_hh.shape[1])
        parts = h.view(h.shape[0], blocks, w_hh.shape[1])
        gh = torch.einsum("nbk,gbuk->ngbu", parts, rows).flatten(1)
    if gain is not None:
        return _affine(_normalised(gh, gates, apart), gain, b_hh)
    return gh if b_hh is None else gh + b_hh


# A product of gates, normalised, the last of them on their own.
def _normalised(product: Tensor, gates: int, apart: int) -> Tensor:
    if apart in (0, gates):
        return MATH.norm(product)
    units = product.shape[-1] // gates
    parts = product.split_with_sizes([units * (gates - apart), units * apart], -1)
    return torch.cat([MATH.norm(part) for part in parts], -1)


def _affine(x: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    return x * gain if bias is None else x * gain + bias


def _times(h: Tensor, drop: Tensor | None) -> Tensor:
    return h if drop is None else h * drop


# (rows, H_in), N per step, which of them run (L, N, 1), (N, .) per state
# -> (rows, .) per state, (N, .) per state
def _direction(
    cell: Cell,
    rows: Tensor,
    sizes: Sequence[int],
    runs_at: Tensor | None,
    hx: Sequence[Tensor] | None,
    weights: Sequence[Tensor | None],
    resets: Resets | None,
    acts: _Acts,
    reverse: bool,
) -> tuple[list[Tensor], Sequence[Tensor]]:
    w_ih, w_hh, b_ih, b_hh, w_hr, *vectors = weights
    assert w_ih is not None
    state: Sequence[Tensor] = _zeros(cell, rows, sizes[0], w_ih, w_hr) if hx is None else hx
    if "x" in cell.norms:
        gain = dict(zip(cell.vectors, vectors, strict=True))["gain_ih"]
        assert gain is not None
        normal = _normalised(linear(rows, w_ih), len(cell.gates), len(cell.apart))
        products = _affine(normal, gain, b_ih)
    else:
        products = linear(rows, w_ih, b_ih)
    gx = products.split_with_sizes(list(sizes))
    times = range(len(gx))[::-1] if reverse else range(len(gx))
    # What torch.compile makes is for so many steps of one batch size; the rest is computed without.
    compiles = cell.compiles and sizes[0] == sizes[-1]
    steps_so_far: list[Sequence[Tensor]] = []
    for start in range(0, len(times), _STRETCH if compiles else len(times)):
        stretch = times[start : start + _STRETCH] if compiles else times
        steps = _compiled(cell) if compiles and len(stretch) == _STRETCH else _steps
        runs = None if runs_at is None else [runs_at[t] for t in stretch]
        anew = None
        if resets is not None:
            anew = [resets.mask[t].to(rows.device, torch.bool)[:, None] for t in stretch]
        to = () if resets is None else resets.to
        now = acts._replace(zones=[acts.zones[t] for t in stretch]) if acts.zones else acts
        given = [gx[t] for t in stretch], runs, anew, to, w_hh, b_hh, w_hr, vectors, state
        after, state = steps(cell, *given, now)
        steps_so_far += after
    each = zip(*(steps_so_far[::-1] if reverse else steps_so_far), strict=True)
    return [torch.cat(states) for states in each], state


# Some steps in a row: gx of each, which sequences run, which start anew and from what, the state,
# and what acts beyond the cell -> the states after each, and the state.
def _steps(
    cell: Cell,
    gx: Sequence[Tensor],
    runs: Sequence[Tensor] | None,
    anew: Sequence[Tensor] | None,
    to: Sequence[Tensor],
    w_hh: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    vectors: Sequence[Tensor | None],
    state: Sequence[Tensor],
    acts: _Acts,
) -> tuple[list[Sequence[Tensor]], Sequence[Tensor]]:
    outputs: list[Sequence[Tensor]] = []
    for i, gx_t in enumerate(gx):
        if anew is not None:
            fresh: Sequence[Any] = to or [0.0] * len(state)
            starts = anew[i] if runs is None else anew[i] & runs[i]
            state = [torch.where(starts, f, s) for f, s in zip(fresh, state, strict=True)]
        # The first n sequences take this step. The others have ended, or, in reverse, have not
        # begun: either way their state waits.
        n = gx_t.shape[0]
        before = [s[:n] for s in state]
        after = _advance(cell, gx_t, w_hh, b_hh, before, vectors, acts)
        if w_hr is not None:
            after = (linear(after[0], w_hr), *after[1:])
        if acts.zones:
            after = tuple(map(_held, before, after, (*acts.zones[i], *[None] * len(after))))
        if runs is not None:
            outputs.append([torch.where(runs[i], a, 0) for a in after])
            state = [torch.where(runs[i], a, s) for a, s in zip(after, state, strict=True)]
            continue
        outputs.append(after)
        waits = n < state[0].shape[0]
        state = (
            [torch.cat((a, s[n:])) for a, s in zip(after, state, strict=True)] if waits else after
        )
    return outputs, state


# Zoneout: the state before a step where the zone is true, or that much of it.
def _held(before: Tensor, after: Tensor, zone: Tensor | float | None) -> Tensor:
    if zone is None:
        return after
    if isinstance(zone, Tensor):
        return torch.where(zone, before, after)
    return zone * before + (1 - zone) * after


_STRETCH = 8  # steps that are compiled together: more take longer to compile and gain little


# `_steps` of a cell, compiled; and as they are where they cannot be, which is said once.
@cache
def _compiled(cell: Cell) -> Callable[..., tuple[list[Sequence[Tensor]], Sequence[Tensor]]]:
    compiled, failed = torch.compile(_steps), False

    def run(*args: Any) -> tuple[list[Sequence[Tensor]], Sequence[Tensor]]:
        nonlocal failed
        if failed or torch._C._are_functorch_transforms_active():
            return _steps(*args)
        try:
            return compiled(*args)
        except (RuntimeError, OSError) as error:
            failed = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                say(
                    "Recurrent: {cell} could not be compiled, and is computed without: {reason}",
                    cell=cell.name,
                    reason=reason,
                ),
                stacklevel=2,
            )
            return _steps(*args)

    return run


# the state before the first step: (N, H_out), then (N, hidden_size) for each state after the first
def _zeros(
    cell: Cell, like: Tensor, batch: int, w_ih: Tensor, w_hr: Tensor | None
) -> tuple[Tensor, ...]:
    hidden_size = w_ih.shape[0] // len(cell.gates)
    width = hidden_size if w_hr is None else w_hr.shape[0]
    widths = [width, *[hidden_size] * (len(cell.states) - 1)]
    return tuple(like.new_zeros(batch, width) for width in widths)


def gradients(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    lengths: Tensor | None,
    wanted: Sequence[bool],
    upstream: Sequence[Tensor | None],
    mask: Tensor | None = None,
    to: Sequence[Tensor] = (),
    recurrence: Recurrence | None = None,
    told: str = "",
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a layer, or of a step of a cell, that can be differentiated again.

    Args:
        cell: As in `layer`, like the next five; states may be None each, for zeros.
        input: As in `layer`, or (N, H_in) without batch_sizes for a step.
        batch_sizes: As in `layer`; not read if there are lengths.
        states: As in `layer`.
        weights: As in `layer`, five also for a step.
        lengths: As in `layer`.
        wanted: For input, each state, each weight and each of `to`, whether its gradient is asked
            for.
        upstream: The gradients of the results, None for zeros; after those of `layer` may come that
            of what is told, side by side.
        mask: As in `elman.shapes.Resets`, like `to`.
        to: What the sequences start anew from.
        recurrence: As in `layer`.
        told: The letters of the states and gates of every step of which there is a gradient.

    Returns:
        The gradients in the order of `wanted`, None where not wanted.
    """
    tensors = (input, *states, *weights, *to)
    asked = [t for t, want in zip(tensors, wanted, strict=True) if want and t is not None]
    used = [i for i, gradient in enumerate(upstream) if gradient is not None]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        rest = iter(given)
        x, *others = (next(rest) if want else t for t, want in zip(tensors, wanted, strict=True))
        assert x is not None
        hx = tuple(state for state in others[: len(states)] if state is not None) or None
        of_weights = others[len(states) : len(states) + len(weights)]
        resets = None
        if mask is not None:
            resets = Resets(
                mask, tuple(t for t in others[len(states) + len(weights) :] if t is not None)
            )
        if len(upstream) > 1 + len(cell.states):
            call = cell, x, hx, of_weights, lengths, resets
            results, values = inside(*call, told, recurrence)
            results = *results, torch.cat([values[letter] for letter in told], -1)
        elif x.dim() == 3:
            results = layer(cell, x, None, hx, of_weights, lengths, resets, recurrence)
        elif batch_sizes is not None:
            results = layer(cell, x, batch_sizes, hx, of_weights, recurrence=recurrence)
        else:
            results = step(cell, x, hx, of_weights[:4])
        return tuple(results[i] for i in used)

    cotangents = tuple(gradient for gradient in upstream if gradient is not None)
    found = iter(torch.func.vjp(run, *asked)[1](cotangents))
    return tuple(next(found) if want else None for want in wanted)
