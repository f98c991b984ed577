"""Sequences of different lengths: the last output of each, and batches of similar ones.

What is left out: padding, packing and sorting themselves, which are PyTorch's
(torch.nn.utils.rnn, torch.nested), and the layers, which take lengths as they are.

Symbols: L time steps, N sequences in the batch, F features, both directions side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Sampler

from elman import shapes
from elman.language import say
from elman.shapes import KindError, ShapeError

__all__ = ["BucketBatchSampler", "last"]

# --- the last output ----------------------------------------------------------------------------

# (..., f) some features of every step -> (N, f) or (f,), those of one step of each row
_Pick: TypeAlias = Callable[[Tensor], Tensor]


def last(
    output: Any, lengths: Any = None, bidirectional: bool = False, batch_first: bool = False
) -> Tensor:
    """Return the last output of each sequence: one vector computed from all of its steps.

    Of a ragged batch that is not `output[-1]`, which is padding for all but the longest rows; and
    of two directions the one that reads backwards has seen all at the first step, not at the last.
    The result is h_n of the last layer: `h_n[-1]`, or `torch.cat((h_n[-2], h_n[-1]), -1)` if
    bidirectional.

    A row of length 0 has no output, so its result is zeros, as padding is. Its h_n is another
    thing: a state that no step has changed, and so the initial one.

    Args:
        output: What a layer returned first: (L, N, F), or (N, L, F) if batch_first, or (L, F) of
            one sequence, or a PackedSequence, or a jagged nested tensor (N, L, F).
        lengths: (N,) the number of steps of each row, from 0 to L: a list or a tensor of integers
            on any device. None if all have L. Packed and jagged output have lengths of their own.
        bidirectional: Whether the layer is: then the first half of the features is taken at the
            end of each row, and the second half, of the reverse direction, at its start.
        batch_first: Whether output with three axes is (N, L, F), as the layer's option of that
            name. A tensor of numbers cannot tell, so say what the layer was told.

    Returns:
        (N, F), or (F,) of one sequence. Gradients flow to the outputs that were taken.

    Raises:
        KindError: output is no such tensor, or lengths are not integers.
        ShapeError: lengths do not belong to output, or F is odd and bidirectional is asked for.

    Example:
        >>> import elman, torch
        >>> gru = elman.GRU(input_size=3, hidden_size=4, bidirectional=True)
        >>> output, h_n = gru(torch.randn(5, 2, 3))
        >>> summary = elman.last(output, bidirectional=True)
        >>> torch.equal(summary, torch.cat((h_n[-2], h_n[-1]), -1))
        True
    """
    if isinstance(output, PackedSequence):
        shapes.check_no_lengths("last", lengths, is_nested=False)
        features, at_end, at_start = _packed(output)
    elif not isinstance(output, Tensor):
        raise KindError(
            say(
                "last: output must be a tensor or a PackedSequence, got {got}: a layer "
                "returns output first and the state second, so call output, hx = "
                "layer(input), and give the first",
                got=type(output).__name__,
            )
        )
    elif output.is_nested:
        shapes.check_no_lengths("last", lengths, is_nested=True)
        features, at_end, at_start = _jagged(output)
    elif output.dim() in (2, 3):
        features, at_end, at_start = _padded(output, lengths, batch_first)
    else:
        raise ShapeError(
            say(
                "last: output must be {axes} or, of one sequence, (L, F), got {got}: "
                "give all steps of the layer's output",
                axes="(N, L, F)" if batch_first else "(L, N, F)",
                got=tuple(output.shape),
            )
        )
    if not bidirectional:
        return at_end(features)
    width = features.shape[-1]
    if width % 2:
        raise ShapeError(
            say(
                "last: output of a bidirectional layer must have an even number of "
                "features, 2 * H_out, got {got}: leave out bidirectional if the layer "
                "has one direction",
                got=width,
            )
        )
    ahead, reverse = features[..., : width // 2], features[..., width // 2 :]
    return torch.cat((at_end(ahead), at_start(reverse)), -1)


def _padded(output: Tensor, lengths: Any, batch_first: bool) -> tuple[Tensor, _Pick, _Pick]:
    batched = output.dim() == 3
    time = int(batched and batch_first)
    if output.shape[time] == 0:
        raise ShapeError(
            say(
                "last: output must have at least one time step, got L = 0 in {shape}",
                shape=tuple(output.shape),
            )
        )
    if lengths is None:
        return output, lambda x: x.select(time, -1), lambda x: x.select(time, 0)
    rows = (output.shape[1 - time],) if batched else ()
    steps = shapes.check_lengths("last", lengths, rows, output.shape[time]).to(output.device)
    empty = (steps == 0).unsqueeze(-1)
    # Not steps - 1 clamped: in a compiled graph it is gather that finds what is out of range.
    place = torch.where(steps == 0, 0, steps - 1).unsqueeze(time).unsqueeze(-1)

    def at_end(x: Tensor) -> Tensor:
        index = place.expand(*place.shape[:2], x.shape[-1])
        return x.gather(time, index).squeeze(time).masked_fill(empty, 0)

    return output, at_end, lambda x: x.select(time, 0).masked_fill(empty, 0)


def _packed(output: PackedSequence) -> tuple[Tensor, _Pick, _Pick]:
    data, sizes, _, inverse = output
    rows = torch.arange(int(sizes[0]))
    steps = (sizes.unsqueeze(1) > rows).sum(0)  # of each row, in the sorted order
    end = (sizes.cumsum(0) - sizes)[steps - 1] + rows
    end, start = end.to(data.device), rows.to(data.device)
    if inverse is not None:
        end, start = end[inverse], start[inverse]
    return data, lambda x: x.index_select(0, end), lambda x: x.index_select(0, start)


def _jagged(output: Any) -> tuple[Tensor, _Pick, _Pick]:
    if output.layout is not torch.jagged or output.dim() != 3 or output._ragged_idx != 1:
        raise KindError(
            say(
                "last: a nested tensor must be jagged, (N, L, F), got layout {layout} of "
                "{axes} axes: use torch.nested.nested_tensor(rows, layout=torch.jagged)",
                layout=output.layout,
                axes=output.dim(),
            )
        )
    offsets, steps = output.offsets(), output.lengths()
    start = offsets[:-1]
    end = offsets[1:] if steps is None else start + steps
    data = output.values()
    if not data.shape[0]:  # all rows are empty: there has to be something to take and mask
        data = data.new_zeros(1, data.shape[-1])
    empty = end == start
    start = start.masked_fill(empty, 0)
    end = (end - 1).masked_fill(empty, 0)
    mask = empty.unsqueeze(-1)
    return (
        data,
        lambda x: x.index_select(0, end).masked_fill(mask, 0),
        lambda x: x.index_select(0, start).masked_fill(mask, 0),
    )


# --- batches of similar lengths -----------------------------------------------------------------


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of rows of similar lengths, so that batches contain little padding.

    In each epoch the rows are shuffled and dealt into pools of many batches, a pool is sorted by
    length and cut into batches, and the batches of all pools are shuffled. Every row comes once per
    epoch, in other company each time. Give it to a DataLoader as batch_sampler; how many workers
    that has does not matter, since the order is made in the main process.

    Each iteration is the epoch after the one before, so that no two are alike even where nobody
    calls `set_epoch`. The order depends on seed and epoch alone.

    Args:
        lengths: (rows,) the number of steps of each row of the data set: integers, at least 0.
        batch_size: Rows per batch. Give either this or max_steps.
        max_steps: Steps per batch, padding included: rows times the longest of them. Batches of
            short rows have many, those of long rows few, and all take about the same time and
            memory. A row of length 0 counts as one step.
        pool: Batches that are sorted together. More make less padding, fewer make the company of a
            row more random.
        drop_last: Whether to leave out the rows that fill no batch, other ones in each epoch, and
            with several ranks the batches that fill no round. Only with batch_size, since with
            max_steps every batch is as full as it gets.
        seed: Another seed is another order.
        num_replicas: Processes that share an epoch, as in torch.utils.data.DistributedSampler: each
            has every num_replicas-th batch, and all equally many. Without drop_last the first
            batches come once more to fill the last round.
        rank: Which of them this is, from 0.

    Raises:
        KindError: an argument has the wrong type.
        ShapeError: a number is out of range, a row is longer than max_steps, or both of batch_size
            and max_steps are given, or none.

    Example:
        >>> import elman, torch
        >>> from torch.nn.utils.rnn import pad_sequence
        >>> from torch.utils.data import DataLoader
        >>> rows = [torch.randn(length, 3) for length in (2, 9, 1, 8, 2, 9)]
        >>> sampler = elman.BucketBatchSampler([len(row) for row in rows], batch_size=2)
        >>> loader = DataLoader(rows, batch_sampler=sampler, collate_fn=pad_sequence)
        >>> sorted(batch.shape[0] for batch in loader)  # L of each: the longest of two alike
        [2, 8, 9]
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor | np.ndarray[Any, Any],
        batch_size: int | None = None,
        *,
        max_steps: int | None = None,
        pool: int = 100,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if (batch_size is None) == (max_steps is None):
            raise ShapeError(
                say(
                    "BucketBatchSampler: either batch_size or max_steps must be given, got "
                    "batch_size={batch_size} and max_steps={max_steps}",
                    batch_size=batch_size,
                    max_steps=max_steps,
                )
            )
        for name, number, least in (
            ("batch_size", batch_size, 1) if max_steps is None else ("max_steps", max_steps, 1),
            ("pool", pool, 1),
            ("seed", seed, 0),
            ("num_replicas", num_replicas, 1),
            ("rank", rank, 0),
        ):
            _check_int(name, number, least)
        if rank >= num_replicas:
            raise ShapeError(
                say(
                    "BucketBatchSampler: rank must be below num_replicas = {num_replicas}, "
                    "got {got}",
                    num_replicas=num_replicas,
                    got=rank,
                )
            )
        if drop_last and max_steps is not None:
            raise ShapeError(
                say(
                    "BucketBatchSampler: drop_last must be False with max_steps, got True: "
                    "every batch is as full as it gets"
                )
            )
        if isinstance(lengths, Tensor):
            lengths = lengths.cpu()
        try:
            steps = np.asarray(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            raise KindError(
                say(
                    "BucketBatchSampler: lengths must be (rows,) integers, got {got}: give "
                    "[len(row) for row in rows]",
                    got=type(lengths).__name__,
                )
            ) from error
        if steps.ndim != 1 or (steps.size and steps.dtype.kind not in "iu"):
            raise KindError(
                say(
                    "BucketBatchSampler: lengths must be (rows,) integers, got {got} of "
                    "shape {shape}: give [len(row) for row in rows]",
                    got=steps.dtype,
                    shape=steps.shape,
                )
            )
        steps = steps.astype(np.int64)
        if steps.size and steps.min() < 0:
            row = int(steps.argmin())
            raise ShapeError(
                say(
                    "BucketBatchSampler: lengths must be at least 0, got {got} for row {row}",
                    got=steps[row],
                    row=row,
                )
            )
        if max_steps is not None and steps.size and steps.max() > max_steps:
            row = int(steps.argmax())
            raise ShapeError(
                say(
                    "BucketBatchSampler: no row may be longer than max_steps = {max_steps}, "
                    "got {got} steps in row {row}: raise max_steps, or cut the row",
                    max_steps=max_steps,
                    got=steps[row],
                    row=row,
                )
            )
        self.lengths = steps
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.pool = pool
        self.drop_last = drop_last
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        # A batch costs its rows times the dearest of them, and at most the budget.
        self._budget = batch_size or max_steps or 0
        self._cost = np.ones_like(steps) if batch_size else steps.clip(min=1)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; call it once when a training is resumed.

        Args:
            epoch: At least 0.

        Raises:
            KindError: epoch is not an int.
            ShapeError: epoch is negative.

        Example:
            >>> import elman
            >>> sampler = elman.BucketBatchSampler(range(100), batch_size=8)
            >>> first, second = list(sampler), list(sampler)
            >>> sampler.set_epoch(1)
            >>> list(sampler) == second != first
            True
        """
        _check_int("epoch", epoch, 0)
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the batches of the next iteration; with max_steps epochs may differ in it."""
        return len(self._batches())

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        self.epoch += 1
        for batch in batches:
            yield batch.tolist()

    def _batches(self) -> list[np.ndarray[Any, Any]]:
        """Return this rank's batches of the epoch, each some row numbers."""
        chance = np.random.default_rng((self.seed, self.epoch))
        order = chance.permutation(len(self.lengths))
        if self.drop_last and self.batch_size is not None:
            order = order[: len(order) // self.batch_size * self.batch_size]
        # So many rows fill a pool's batches, in the mean.
        size = max(1, self.pool * self._budget * len(self.lengths) // max(1, int(self._cost.sum())))
        batches = [
            batch
            for start in range(0, len(order), size)
            for batch in self._cut(order[start : start + size])
        ]
        batches = [batches[i] for i in chance.permutation(len(batches))]
        over = len(batches) % self.num_replicas
        if over and self.drop_last:
            batches = batches[:-over]
        elif over:
            missing = self.num_replicas - over
            batches += (batches * missing)[:missing]
        return batches[self.rank :: self.num_replicas]

    def _cut(self, rows: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """Sort the rows of a pool, at least one, by length, and cut them into batches."""
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        first = 0
        for row, cost in enumerate(self._cost[rows].tolist()):
            if (row - first + 1) * cost > self._budget:
                yield rows[first:row]
                first = row
        yield rows[first:]


def _check_int(name: str, number: object, least: int) -> None:
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise KindError(
            say("BucketBatchSampler: {name} must be an int, got {got}", name=name, got=repr(number))
        )
    if number < least:
        raise ShapeError(
            say(
                "BucketBatchSampler: {name} must be at least {least}, got {got}",
                name=name,
                least=least,
                got=number,
            )
        )
