"""How libraries for reinforcement learning run a layer over episodes that end within a batch.

Each function takes a layer, its input (L, N, H_in), its state, and where episodes begin (L, N)
bool, and returns the output (L, N, H_out), computed by calls that know of no resets.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["WAYS", "loop", "pieces", "segments"]


def _cleared(state: Any, at: Tensor) -> Any:
    goes_on = (~at)[None, :, None]
    return tuple(goes_on * s for s in state) if isinstance(state, tuple) else goes_on * state


def loop(layer: Any, x: Tensor, state: Any, at: Tensor) -> Tensor:
    """A call for each step, as sb3-contrib and CleanRL."""
    outputs = []
    for x_t, at_t in zip(x, at, strict=True):
        output, state = layer(x_t[None], _cleared(state, at_t))
        outputs.append(output)
    return torch.cat(outputs)


def segments(layer: Any, x: Tensor, state: Any, at: Tensor) -> Tensor:
    """A call for the steps between any two resets, as rl_games."""
    cuts = sorted({0, *at.any(1).nonzero().flatten().tolist()})
    outputs = []
    for start, end in zip(cuts, [*cuts[1:], len(x)], strict=True):
        output, state = layer(x[start:end], _cleared(state, at[start]))
        outputs.append(output)
    return torch.cat(outputs)


def pieces(layer: Any, x: Tensor, state: Any, at: Tensor) -> Tensor:
    """The pieces between resets as a packed batch of as many sequences, as Sample Factory."""
    length, batch = at.shape
    begins = at.clone()
    begins[0] = True
    column, start = begins.T.nonzero().unbind(1)  # column by column
    ends = torch.cat((start[1:], start.new_zeros(1)))
    ends[ends == 0] = length
    lengths, order = (ends - start).sort(descending=True, stable=True)
    column, start = column[order], start[order]
    steps = torch.arange(int(lengths[0]))
    running = steps[:, None] < lengths  # (longest, pieces)
    place = ((start + steps[:, None]) * batch + column)[running]
    goes_on = ~at[start, column]
    parts = state if isinstance(state, tuple) else (state,)
    parts = tuple((goes_on[:, None] * s[:, column]).contiguous() for s in parts)
    rows = PackedSequence(x.flatten(0, 1)[place], running.sum(1))
    output, _ = layer(rows, parts if isinstance(state, tuple) else parts[0])
    result = torch.zeros(length * batch, output.data.shape[1])
    return result.index_copy(0, place, output.data).view(length, batch, -1)


WAYS = {
    "a call for each step (sb3-contrib, CleanRL)": loop,
    "a call between resets (rl_games)": segments,
    "packed pieces (Sample Factory)": pieces,
}
