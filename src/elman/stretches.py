"""A layer that keeps the states between stretches of steps, and computes the rest again.

What `elman.core` keeps of every step for the backward pass is several times the output: five
vectors of an LSTM, four of a GRU. Here only the states that a stretch begins with are kept. The
backward pass takes the stretches one after another from the last, runs each forward once more and
then backward, and needs the kept values of one stretch at a time. That costs one more forward pass.

The results, and the gradients of input and initial states, have the bits of `elman.core`, since a
sequence cut into pieces has. The gradients of the weights, and of what resets start from, are sums
over stretches, the last stretch first, and so may differ from its own by rounding.

A second direction is computed as a first one, on the rows of each sequence from its last to its
first. Here the steps of a direction are numbered in its own order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elman import core
from elman.cells import Cell

__all__ = ["backward", "forward"]

# A stretch has at least so many kept values, below which calls of the core would cost more than
# memory is worth.
_KEPT_VALUES = 1 << 20


def forward(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    mask: Tensor | None,
    to: Sequence[Tensor],
    bf16: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a layer; arguments as those of `core.forward`.

    Returns:
        The output and the final states, and what `backward` needs: the states, (1, N, .) each, that
        the stretches after the first begin with, stretch after stretch of each direction.

    Raises:
        UnreadableError: a tensor is not plain memory of the right dtype and size.
    """
    has_c = len(cell.states) > 1
    call = cell, input, batch_sizes, lengths, states, weights
    output, *finals = core.forward(*call, False, mask, to, has_c, bf16=bf16)
    c = finals.pop() if has_c else None
    marks = []
    for d in range(len(weights) // 5):
        each = output.chunk(len(weights) // 5, -1)[d], *(() if c is None else (c[d],))
        rows = _Rows(cell, input, batch_sizes, lengths, weights, d)
        for begin, _ in rows.stretches[1:]:
            last, running = rows.index(begin - 1, begin), rows.running(begin)
            marks += [
                value[last].reshape(1, -1, value.shape[-1])[:, :running].clone() for value in each
            ]
    return [output, *finals], marks


def backward(
    cell: Cell,
    input: Tensor,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    states: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    marks: Sequence[Tensor],
    upstream: Sequence[Tensor | None],
    wanted: Sequence[bool],
    mask: Tensor | None,
    to: Sequence[Tensor],
    bf16: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of what `forward` was given; the other arguments as `core.backward`."""
    directions, count = len(weights) // 5, len(states)
    d_output, *d_finals = upstream
    of_states, of_sums = wanted[1 : 1 + count], wanted[1 + count :]
    of_to = of_sums[len(weights) :]
    d_input = torch.empty_like(input, memory_format=torch.contiguous_format) if wanted[0] else None
    sums: list[Tensor | None] = [None] * (len(weights) + len(to))
    d_initial: list[list[Tensor]] = [[] for _ in states]
    for d in range(directions):
        rows = _Rows(cell, input, batch_sizes, lengths, weights, d)
        own = slice(5 * d, 5 * d + 5)
        flowing = [
            input.new_zeros(1, rows.batch, width) if above is None else above[d : d + 1].clone()
            for above, width in zip(d_finals, rows.widths, strict=True)
        ]
        marks_of_d = marks[len(marks) // directions * d :]
        for i, (begin, end) in reversed([*enumerate(rows.stretches)]):
            index, running = rows.index(begin, end), rows.running(begin)
            given = (
                marks_of_d[(i - 1) * count : i * count]
                if i
                else [None if state is None else state[d : d + 1] for state in states]
            )
            call = cell, input[index], *rows.ragged(begin, end), given, weights[own]
            of_stretch = None if mask is None else mask[begin:end]
            output, *_, kept = core.forward(*call, True, of_stretch, to, is_read=False, bf16=bf16)
            above = None if d_output is None else d_output.chunk(directions, -1)[d][index]
            found = core.backward(
                *(*call, output, kept, [above, *(f[:, :running] for f in flowing)]),
                [wanted[0], *([True] * count if i else of_states), *of_sums[own], *of_to],
                mask=of_stretch,
                to=to,
                bf16=bf16,
            )
            if d_input is not None and found[0] is not None:
                d_input[index] = found[0] if d == 0 else d_input[index] + found[0]
            for flow, gradient in zip(flowing, found[1 : 1 + count], strict=True):
                if gradient is not None:
                    flow[:, :running] = gradient
            places = [*range(own.start, own.stop), *range(len(weights), len(sums))]
            for place, gradient in zip(places, found[1 + count :], strict=True):
                so_far = sums[place]
                sums[place] = gradient if so_far is None else so_far.add_(gradient)
        for gradients, flow in zip(d_initial, flowing, strict=True):
            gradients.append(flow)
    d_states = [
        torch.cat(gradients) if want else None
        for gradients, want in zip(d_initial, of_states, strict=True)
    ]
    return d_input, *d_states, *sums


class _Rows:
    """Where the rows of a direction's steps lie in the arrays of a layer."""

    def __init__(
        self,
        cell: Cell,
        input: Tensor,
        batch_sizes: Tensor | None,
        lengths: Tensor | None,
        weights: Sequence[Tensor | None],
        direction: int,
    ) -> None:
        w_hh = weights[1]
        assert w_hh is not None
        hidden_size = len(w_hh) // len(cell.gates)
        self.widths = (w_hh.shape[1], hidden_size)[: len(cell.states)]
        lengths = None if lengths is None else lengths.to("cpu", torch.int64)
        self.lengths, self.batch_sizes = lengths, batch_sizes
        if batch_sizes is None:
            seq_len, self.batch = input.shape[:2]
            self.first = [*range(seq_len + 1)]
        else:
            seq_len, self.batch = len(batch_sizes), int(batch_sizes[0])
            self.first = [0, *batch_sizes.cumsum(0).tolist()]
        width = core.kept_width(cell, hidden_size)
        steps = max(math.isqrt(seq_len), _KEPT_VALUES // max(1, self.batch * width))
        begins = range(0, seq_len, steps)
        self.stretches = [(begin, min(seq_len, begin + steps)) for begin in begins]
        self.order = None
        if direction:
            self.order = _from_the_last(seq_len, self.batch, batch_sizes, lengths)

    def running(self, step: int) -> int:
        """How many rows the arrays of a stretch have for its first step."""
        return self.batch if self.batch_sizes is None else self.first[step + 1] - self.first[step]

    def index(self, begin: int, end: int) -> Any:
        """What reads or writes the rows of steps [begin, end) in arrays like the input."""
        rows = slice(self.first[begin], self.first[end])
        if self.order is None:
            return rows
        return tuple(part[rows] for part in self.order)

    def ragged(self, begin: int, end: int) -> tuple[Tensor | None, Tensor | None]:
        """batch_sizes and lengths of steps [begin, end)."""
        if self.batch_sizes is not None:
            return self.batch_sizes[begin:end], None
        return None, None if self.lengths is None else (self.lengths - begin).clamp(0, end - begin)


# Where the rows lie of which each sequence is read from its last step: the index of an array in
# padded form, (L, N) each, or packed, (rows,). Padding stays where it is.
def _from_the_last(
    seq_len: int, batch: int, batch_sizes: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, ...]:
    time = torch.arange(seq_len)[:, None]
    columns = torch.arange(batch).expand(seq_len, batch)
    if batch_sizes is not None:
        lengths = (batch_sizes > columns[:1].T).sum(1)
    if lengths is None:
        return (seq_len - 1 - time).expand(seq_len, batch), columns
    runs = time < lengths
    times = torch.where(runs, lengths - 1 - time, time)
    if batch_sizes is None:
        return times, columns
    first = batch_sizes.cumsum(0) - batch_sizes
    return ((first[times] + columns)[runs],)
