"""How a layer lies in the core, where that is not how PyTorch has it.

The core knows two states, h and c, and directions whose recurrent matrices are square. So the
states of a cell with more than two lie side by side as one c. And of a layer whose recurrent matrix
is block-diagonal each block is a direction of its own: it reads the whole input, and its own part
of h.

Weights of a direction are five, or all that there can be: the five, two vectors of the cell, and
what normalises gx, gh and c.

Symbols: D directions, N sequences, H hidden_size, G gates, K heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from elman.cells import Cell
from elman.shapes import Recurrence

__all__ = ["Form", "heads_of", "parts_of", "slots"]

Tensors: TypeAlias = Sequence[Tensor | None]

_NORMS = ("gain_ih", "gain_hh", "gain_c", "bias_c")
_VECTORS = 2


def parts_of(cell: Cell) -> int:
    """Return how many weights a direction has, of which any may be None."""
    return 5 + len(cell.vectors)


def heads_of(cell: Cell, weights: Tensors) -> int:
    """Return into how many blocks the recurrent product of a layer is cut."""
    w_ih, w_hh, _, _, w_hr = weights[:5]
    if w_hh is None or w_hr is not None:
        return 1
    assert w_ih is not None
    return w_ih.shape[0] // len(cell.gates) // w_hh.shape[1]


@cache
def slots(cell: Cell) -> tuple[int | None, ...] | None:
    """Return where among the weights of a direction those are that the core wants, in its order.

    None if it is given the five as they are.

    Example:
        >>> from elman.cells import CELLS, normalised, sru
        >>> slots(CELLS["lstm"]), slots(sru)
        (None, (0, 1, 2, 3, 4, 5, 6, None, None, None, None))
        >>> slots(normalised(CELLS["gru"]))
        (0, 1, 2, 3, 4, None, None, 5, 6, None, None)
    """
    if not cell.vectors:
        return None
    place = {name: 5 + i for i, name in enumerate(cell.vectors)}
    own = [place[name] for name in cell.given]
    vectors = [*own, *[None] * (_VECTORS - len(own))]
    return *range(5), *vectors, *(place.get(name) for name in _NORMS)


@dataclass(frozen=True)
class Form:
    """The form in which the core takes a layer, and what it gives back in PyTorch's.

    Attributes:
        cell: That of the layer.
        heads: K.
    """

    cell: Cell
    heads: int

    def states(self, states: Tensors) -> Tensors:
        """Return (D * K, N, .) of h and of the states after it, from (D, N, H) of each.

        There may be none, or None for each.
        """
        split = [s if s is None else self._by_head(s) for s in states]
        return _side_by_side(split)

    def to(self, to: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return (K, .) of the same two, from (H,) of each state."""
        return _side_by_side([state.view(self.heads, -1) for state in to])  # type: ignore[return-value]

    def weights(self, weights: Tensors) -> Tensors:
        """Return the weights of each direction and head in turn, from those of the directions."""
        if self.heads == 1:
            return weights
        parts = parts_of(self.cell)
        found: list[Tensor | None] = []
        for start in range(0, len(weights), parts):
            blocks = [
                [None] * self.heads if weight is None else self._rows_of_heads(weight, count)
                for weight, count in zip(weights[start : start + parts], self._blocks, strict=True)
            ]
            found += [block[head] for head in range(self.heads) for block in blocks]
        return found

    def recurrence(self, recurrence: Recurrence | None) -> Recurrence | None:
        """Return the same for each direction and head."""
        if recurrence is None:
            return None
        drop, zone_h, zone_c, _ = recurrence
        return recurrence._replace(
            drop=drop if drop is None else self._by_head(drop),
            zone_h=self._by_head(zone_h) if isinstance(zone_h, Tensor) else zone_h,
            zone_c=self._by_head(zone_c) if isinstance(zone_c, Tensor) else zone_c,
        )

    def wanted(self, wanted: Sequence[bool], num_states: int, num_to: int) -> list[bool]:
        """Return which gradients are wanted of the core: those of each part of what is wanted."""
        parts, at = parts_of(self.cell), 1 + num_states
        of_weights = wanted[at : len(wanted) - num_to]
        found = [wanted[0], *_any_after_first(wanted[1:at])]
        for start in range(0, len(of_weights), parts):
            found += [*of_weights[start : start + parts]] * self.heads
        return found + _any_after_first(wanted[len(wanted) - num_to :])

    def results(self, results: list[Tensor]) -> list[Tensor]:
        """Return what `core.forward` returns, of the output, the final states and what is kept."""
        num_results = 1 + min(len(self.cell.states), 2)
        finals = self._apart(results[1:num_results])
        return [results[0], *map(self._joined, finals), *results[num_results:]]

    def gradients(
        self, found: Tensors, wanted: Sequence[bool], num_states: int, num_to: int
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of what PyTorch has, from those of what the core had."""
        parts, few = parts_of(self.cell), min(num_states, 2)
        at, end = 1 + few, len(found) - min(num_to, 2)
        of_states = [g if g is None else self._joined(g) for g in self._apart(found[1:at])]
        of_to = [g if g is None else g.flatten() for g in self._apart(found[end:])]
        of_weights: list[Tensor | None] = []
        for start in range(at, end, parts * self.heads):
            for i, count in enumerate(self._blocks):
                of_heads = [found[start + head * parts + i] for head in range(self.heads)]
                of_weights.append(self._rows_joined(of_heads, count))
        all_of_them = found[0], *of_states, *of_weights, *of_to
        return tuple(g if want else None for g, want in zip(all_of_them, wanted, strict=True))

    # How many blocks of H rows each weight of a direction has; a projection is not cut.
    @property
    def _blocks(self) -> list[int]:
        return [len(self.cell.gates)] * 4 + [1] + [*self.cell.vectors.values()]

    def _rows_of_heads(self, weight: Tensor, blocks: int) -> list[Tensor]:
        rows = weight.view(blocks, self.heads, -1, *weight.shape[1:])
        return [rows[:, head].flatten(0, 1) for head in range(self.heads)]

    def _rows_joined(self, of_heads: Tensors, blocks: int) -> Tensor | None:
        there = [weight for weight in of_heads if weight is not None]
        if self.heads == 1 or not there:
            return of_heads[0]
        rows = [weight.view(blocks, -1, *weight.shape[1:]) for weight in there]
        return torch.stack(rows, 1).flatten(0, 2)

    # (D, ..., H) -> (D * K, ..., H / K), and back
    def _by_head(self, state: Tensor) -> Tensor:
        if self.heads == 1:
            return state
        split = state.reshape(*state.shape[:-1], self.heads, -1)
        return split.movedim(-2, 1).flatten(0, 1)

    def _joined(self, state: Tensor) -> Tensor:
        if self.heads == 1:
            return state
        split = state.unflatten(0, (-1, self.heads))  # type: ignore[no-untyped-call]
        joined: Tensor = split.movedim(1, -2).flatten(-2)
        return joined

    # h and c -> each state by itself; there may be none, or None
    def _apart(self, states: Tensors) -> list[Any]:
        count = len(self.cell.states) - 1
        if count <= 1 or not states:
            return [*states]
        h, after_h = states
        if after_h is None:
            return [h, *[None] * count]
        return [h, *(state.contiguous() for state in after_h.chunk(count, -1))]


def _side_by_side(states: Tensors) -> Tensors:
    if len(states) <= 2:
        return states
    h, *after_h = states
    there = [state for state in after_h if state is not None]
    return h, torch.cat(there, -1) if there else None


def _any_after_first(wanted: Sequence[bool]) -> list[bool]:
    return [*wanted] if len(wanted) <= 2 else [wanted[0], any(wanted[1:])]
