"""The recurrence in PyTorch operations: slow, plain, and right for every dtype and device.

It is the oracle of the tests, and it computes what the native core does not: other dtypes and
devices, and derivatives of derivatives. `layer` and `step` have the same signatures in `elman.ops`,
which chooses between the two; `gradients` are theirs, as tensors that can be differentiated again.
Sizes are not checked here; `elman.shapes` has done it.

Symbols: L time steps, N sequences in the batch, D directions, H_in and H_out features per step in
and out, G gates.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, softplus

from elman.cells import Cell
from elman.language import say

__all__ = ["TorchMath", "gradients", "layer", "step"]


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
            reverse=d == 1,
        )
        for d in range(len(weights) // parts)
    ]
    outputs, states = zip(*runs, strict=True)
    output = torch.cat(outputs, -1)
    if batch_sizes is None:
        output = output.reshape(*input.shape[:2], output.shape[-1])
    return output, *(torch.stack(directions) for directions in zip(*states, strict=True))


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
    return _advance(cell, linear(input, w_ih, b_ih), w_hh, b_hh, state, ())


# One step of the cell from gx, (N, G * hidden_size), and the state.
def _advance(
    cell: Cell,
    gx: Tensor,
    w_hh: Tensor | None,
    b_hh: Tensor | None,
    state: Sequence[Tensor],
    vectors: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    given = (dict(zip(cell.vectors, vectors, strict=True)),) if vectors else ()
    if w_hh is None:
        after = cell.step(MATH, gx, None, state, *given)
    elif cell.reset is None:
        after = cell.step(MATH, gx, _product(state[0], w_hh, b_hh, len(cell.gates)), state, *given)
    else:
        early = w_hh.shape[0] * (len(cell.gates) - len(cell.late)) // len(cell.gates)
        b_early, b_late = (None, None) if b_hh is None else (b_hh[:early], b_hh[early:])
        gh = linear(state[0], w_hh[:early], b_early)
        late = linear(cell.reset(MATH, gx, gh, state), w_hh[early:], b_late)
        after = cell.step(MATH, gx, torch.cat((gh, late), -1), state)
    return after if isinstance(after, tuple) else (after,)


# W_hh h + b_hh, where W_hh may be block-diagonal: then it has the columns of one block.
def _product(h: Tensor, w_hh: Tensor, b_hh: Tensor | None, gates: int) -> Tensor:
    if w_hh.shape[1] == h.shape[-1]:
        return linear(h, w_hh, b_hh)
    blocks = h.shape[-1] // w_hh.shape[1]
    rows = w_hh.view(gates, blocks, -1, w_hh.shape[1])
    parts = h.view(h.shape[0], blocks, w_hh.shape[1])
    gh = torch.einsum("nbk,gbuk->ngbu", parts, rows).flatten(1)
    return gh if b_hh is None else gh + b_hh


# (rows, H_in), N per step, which of them run (L, N, 1), (N, .) per state
# -> (rows, H_out), (N, .) per state
def _direction(
    cell: Cell,
    rows: Tensor,
    sizes: Sequence[int],
    runs_at: Tensor | None,
    hx: Sequence[Tensor] | None,
    weights: Sequence[Tensor | None],
    reverse: bool,
) -> tuple[Tensor, Sequence[Tensor]]:
    w_ih, w_hh, b_ih, b_hh, w_hr, *vectors = weights
    assert w_ih is not None
    state: Sequence[Tensor] = _zeros(cell, rows, sizes[0], w_ih, w_hr) if hx is None else hx
    gx = linear(rows, w_ih, b_ih).split_with_sizes(list(sizes))
    times = range(len(gx))[::-1] if reverse else range(len(gx))
    # What torch.compile makes is for so many steps of one batch size; the rest is computed without.
    compiles = cell.compiles and sizes[0] == sizes[-1]
    outputs: list[Tensor] = []
    for start in range(0, len(times), _STRETCH if compiles else len(times)):
        stretch = times[start : start + _STRETCH] if compiles else times
        steps = _compiled(cell) if compiles and len(stretch) == _STRETCH else _steps
        runs = None if runs_at is None else [runs_at[t] for t in stretch]
        after, state = steps(cell, [gx[t] for t in stretch], runs, w_hh, b_hh, w_hr, vectors, state)
        outputs += after
    return torch.cat(outputs[::-1] if reverse else outputs), state


# Some steps in a row: gx of each and which sequences run, and the state -> the output of each, and
# the state.
def _steps(
    cell: Cell,
    gx: Sequence[Tensor],
    runs: Sequence[Tensor] | None,
    w_hh: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    vectors: Sequence[Tensor | None],
    state: Sequence[Tensor],
) -> tuple[list[Tensor], Sequence[Tensor]]:
    outputs: list[Tensor] = []
    for i, gx_t in enumerate(gx):
        # The first n sequences take this step. The others have ended, or, in reverse, have not
        # begun: either way their state waits.
        n = gx_t.shape[0]
        before = [s[:n] for s in state]
        after = _advance(cell, gx_t, w_hh, b_hh, before, vectors)
        if w_hr is not None:
            after = (linear(after[0], w_hr), *after[1:])
        if runs is not None:
            outputs.append(torch.where(runs[i], after[0], 0))
            state = [torch.where(runs[i], a, s) for a, s in zip(after, state, strict=True)]
            continue
        outputs.append(after[0])
        waits = n < state[0].shape[0]
        state = (
            [torch.cat((a, s[n:])) for a, s in zip(after, state, strict=True)] if waits else after
        )
    return outputs, state


_STRETCH = 8  # steps that are compiled together: more take longer to compile and gain little


# `_steps` of a cell, compiled; and as they are where they cannot be, which is said once.
@cache
def _compiled(cell: Cell) -> Callable[..., tuple[list[Tensor], Sequence[Tensor]]]:
    compiled, failed = torch.compile(_steps), False

    def run(*args: Any) -> tuple[list[Tensor], Sequence[Tensor]]:
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
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a layer, or of a step of a cell, that can be differentiated again.

    Args:
        cell: As in `layer`, like the next five; states may be None each, for zeros.
        input: As in `layer`, or (N, H_in) without batch_sizes for a step.
        batch_sizes: As in `layer`; not read if there are lengths.
        states: As in `layer`.
        weights: As in `layer`, five also for a step.
        lengths: As in `layer`.
        wanted: For input, each state and each weight, whether its gradient is asked for.
        upstream: The gradients of the results, None for zeros.

    Returns:
        The gradients in the same order, None where not wanted.
    """
    tensors = (input, *states, *weights)
    asked = [t for t, want in zip(tensors, wanted, strict=True) if want and t is not None]
    used = [i for i, gradient in enumerate(upstream) if gradient is not None]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        rest = iter(given)
        x, *others = (next(rest) if want else t for t, want in zip(tensors, wanted, strict=True))
        assert x is not None
        hx = tuple(state for state in others[: len(states)] if state is not None) or None
        if x.dim() == 3:
            results = layer(cell, x, None, hx, others[len(states) :], lengths)
        elif batch_sizes is not None:
            results = layer(cell, x, batch_sizes, hx, others[len(states) :])
        else:
            results = step(cell, x, hx, others[len(states) :][:4])
        return tuple(results[i] for i in used)

    cotangents = tuple(gradient for gradient in upstream if gradient is not None)
    found = iter(torch.func.vjp(run, *asked)[1](cotangents))
    return tuple(next(found) if want else None for want in wanted)
