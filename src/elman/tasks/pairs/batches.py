"""Pairs side by side: the tensors that an update reads.

Symbols: S and T steps of source and target, N pairs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elman.runtime.jobs.pairs import BOUNDARY, UNKNOWN
from elman.tasks.pairs.data import Encoded

__all__ = ["Batch", "Batches", "padded"]


class Batch(NamedTuple):
    """Pairs side by side.

    Args:
        source: (S, N) symbols of the sources, padded.
        lengths: (N,) the lengths of the sources.
        so_far: (T, N) symbols of the targets, after the boundary.
        following: (T, N) the symbol after each, the boundary at the end; UNKNOWN where there is
            none, and where it is in no alphabet: neither is learnt.
    """

    source: Tensor
    lengths: Tensor
    so_far: Tensor
    following: Tensor

    @staticmethod
    def of(pairs: Sequence[Encoded]) -> "Batch":
        """Put pairs side by side."""
        return Batch(
            padded([source for source, _ in pairs], BOUNDARY),
            torch.tensor([len(source) for source, _ in pairs], dtype=torch.int64),
            padded([[BOUNDARY, *target] for _, target in pairs], BOUNDARY),
            padded([[*target, BOUNDARY] for _, target in pairs], UNKNOWN),
        )


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """The batches of an epoch.

    Args:
        pairs: all that is trained on.
        groups: the numbers of the pairs of each batch.
        unread: the share of the symbols of sources that is replaced by UNKNOWN.
        seed: where that chance starts.
    """

    pairs: Sequence[Encoded]
    groups: Sequence[Sequence[int]]
    unread: float
    seed: str

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        """Return a batch."""
        pairs = [self.pairs[i] for i in self.groups[index]]
        if self.unread:
            chance = random.Random(f"{self.seed}/{index}")
            pairs = [
                ([UNKNOWN if chance.random() < self.unread else s for s in source], target)
                for source, target in pairs
            ]
        return Batch.of(pairs)


def padded(rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Put rows of numbers side by side.

    Returns:
        (L, N), L the length of the longest, with the padding after the shorter ones.

    Example:
        >>> padded([[5, 6, 7], [8]], 0)
        tensor([[5, 8],
                [6, 0],
                [7, 0]])
    """
    length = max(map(len, rows), default=1)
    full = [[*row, *[padding] * (length - len(row))] for row in rows]
    return torch.tensor(full, dtype=torch.int64).reshape(len(rows), length).T
