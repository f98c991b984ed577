"""How targets are looked for: the likeliest candidates are kept at each step, for many sources.

All candidates of all sources are rows of one batch. A step reads the last symbol of each from the
state that its row carries; then each row goes on from the state of the candidate it came from.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from elman.tasks.pairs.batches import padded
from elman.tasks.pairs.data import BOUNDARY, UNKNOWN
from elman.tasks.pairs.model import PairsModel

__all__ = ["Answer", "answer"]

_BATCH = 128  # sources
_SPARE = 10  # symbols


class Answer(NamedTuple):
    """A target that was found.

    Args:
        symbols: their numbers.
        score: the mean logarithm of their probabilities, that of the end included.
    """

    symbols: list[int]
    score: float


@torch.no_grad()
def answer(
    model: PairsModel, sources: Sequence[Sequence[int]], longest: float, beam: int
) -> list[list[Answer]]:
    """Look for the targets of sources.

    Args:
        model: in evaluation mode.
        sources: the numbers of their symbols; none is empty.
        longest: a target has no more symbols than this for each of its source's, and 10 more.
        beam: candidates that are kept at each step; 1 takes the likeliest symbol each time.

    Returns:
        For each source up to `beam` answers, the best first.
    """
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    answers: list[list[Answer]] = [[] for _ in sources]
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        found = _search(model, [sources[i] for i in rows], longest, beam)
        for i, best in zip(rows, found, strict=True):
            answers[i] = best
    return answers


def _search(
    model: PairsModel, sources: Sequence[Sequence[int]], longest: float, beam: int
) -> list[list[Answer]]:
    batch = len(sources)
    lengths = torch.tensor([len(source) for source in sources])
    limits = (lengths * longest).ceil().long() + _SPARE
    memory, state = model.encode(padded(sources, BOUNDARY), lengths)
    state = _rows(state, torch.arange(batch).repeat_interleave(beam))
    first = beam * torch.arange(batch)[:, None]  # the row of each source's first candidate

    # Of each candidate, (N, K): its symbols, how many with the end, their log probability, and
    # whether it has ended. At first there is one, empty; the others are impossible.
    symbols = torch.full((batch, beam, 0), BOUNDARY)
    count = torch.zeros(batch, beam, dtype=torch.int64)
    likely = torch.full((batch, beam), -math.inf)
    likely[:, 0] = 0.0
    ended = torch.zeros(batch, beam, dtype=torch.bool)
    last = torch.full((batch, beam), BOUNDARY)
    while not ended.all():
        logits, _, state = model.decode(last.reshape(1, -1), memory, state)
        logits = logits.reshape(batch, beam, -1)
        logits[..., UNKNOWN] = -math.inf
        if not symbols.shape[-1]:
            logits[..., BOUNDARY] = -math.inf  # no target is empty
        gains = logits.log_softmax(-1)
        # What has ended stays as it is: it goes on with nothing, at no cost.
        gains[ended] = -math.inf
        gains[ended, BOUNDARY] = 0.0
        totals = likely[..., None] + gains
        counts = count + ~ended
        means = totals / counts[..., None]
        chosen = means.flatten(1).topk(beam).indices
        came_from, last = chosen // gains.shape[-1], chosen % gains.shape[-1]

        likely = totals.flatten(1).gather(1, chosen)
        count, ended = counts.gather(1, came_from), ended.gather(1, came_from)
        ended = ended | (last == BOUNDARY) | (symbols.shape[-1] + 1 >= limits)[:, None]
        before = symbols.gather(1, came_from[..., None].expand(-1, -1, symbols.shape[-1]))
        symbols = torch.cat((before, last[..., None]), -1)
        state = _rows(state, (first + came_from).flatten())

    scores = (likely / count).tolist()
    return [
        [
            Answer([symbol for symbol in row if symbol != BOUNDARY], score)
            for row, score in zip(rows, of, strict=True)
            if score > -math.inf
        ]
        for rows, of in zip(symbols.tolist(), scores, strict=True)
    ]


# The rows of a state, (layers, N, H) each part of it.
def _rows(state: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(part[:, rows] for part in state)
