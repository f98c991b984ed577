"""Measures a call inside which sequences start anew, beside what people do without such a call.

One step in 200 is a start. The others: the loop over steps, which multiplies the state by 0 before
a start (sb3-contrib, CleanRL); a call for each segment between steps at which any sequence starts
(rl_games); and one call for all the pieces as a packed batch, from indices that are made of the
mask (Sample Factory). All give the same numbers, which is seen to before anything is timed.

Times are those of the one thread that computes: what others do on the machine is not counted.

Symbols: L time steps, N sequences in the batch, F features, H hidden features.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import promises
import torch
from promises import Promise
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import elman
from elman.bench import MODES, Mode, markdown_table

__all__ = ["SIZES", "Row", "measure", "promised", "table"]

SIZES = (
    *((8, 128, 64, 64), (1, 128, 64, 64), (64, 32, 64, 64)),
    *((8, 128, 512, 128), (8, 128, 64, 256)),
)
RATE = 1 / 200
SECONDS = 1.0  # for the calls of ours and of one other
CLOCK = time.thread_time

State = tuple[Tensor, ...]
Results = tuple[Tensor, State]


def whole(state: State) -> Any:
    """A state as a layer takes it."""
    return state if len(state) > 1 else state[0]


def parts(state: Any) -> State:
    return state if isinstance(state, tuple) else (state,)


def plain(layer: Any, x: Tensor, state: State, mask: Tensor) -> Results:
    """One call that starts nothing anew."""
    output, after = layer(x, whole(state))
    return output, parts(after)


def one_call(layer: Any, x: Tensor, state: State, mask: Tensor) -> Results:
    output, after = layer(x, whole(state), reset=mask)
    return output, parts(after)


def loop(layer: Any, x: Tensor, state: State, mask: Tensor) -> Results:
    """A call for each step."""
    keep = (~mask).to(x.dtype).unsqueeze(-1)
    outputs = []
    for t in range(len(x)):
        output, after = layer(x[t : t + 1], whole(tuple(keep[t] * s for s in state)))
        state = parts(after)
        outputs.append(output)
    return torch.cat(outputs), state


def segments(layer: Any, x: Tensor, state: State, mask: Tensor) -> Results:
    """A call for each run of steps between those at which any sequence starts anew."""
    keep = (~mask).to(x.dtype).unsqueeze(-1)
    cuts = [0, *(t for t in mask.any(1).nonzero().flatten().tolist() if t), len(x)]
    outputs = []
    for begin, end in itertools.pairwise(cuts):
        output, after = layer(x[begin:end], whole(tuple(keep[begin] * s for s in state)))
        state = parts(after)
        outputs.append(output)
    return torch.cat(outputs), state


def packed(layer: Any, x: Tensor, state: State, mask: Tensor) -> Results:
    """One call whose sequences are the pieces."""
    seq_len, batch = mask.shape
    begins = mask.T.clone()
    begins[:, 0] = True
    first = begins.flatten().nonzero().flatten()  # of each piece, among the rows of a batch-first x
    ends = torch.cat([first[1:], first.new_tensor([batch * seq_len])])
    order = (ends - first).argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    step = torch.arange(batch * seq_len) - first.repeat_interleave(ends - first)
    place = (step * len(order) + rank.repeat_interleave(ends - first)).argsort()

    row, time = first[order] // seq_len, first[order] % seq_len
    keep = (~mask[time, row]).logical_and(time == 0).to(x.dtype).unsqueeze(-1)
    data = x.transpose(0, 1).flatten(0, 1)[place]
    pieces = PackedSequence(data, step.bincount())
    output, after = layer(pieces, whole(tuple(keep * s[:, row] for s in state)))
    back = torch.empty_like(place)
    back[place] = torch.arange(len(place))
    last = rank[begins.sum(1).cumsum(0) - 1]
    flat = output.data[back].view(batch, seq_len, -1)
    return flat.transpose(0, 1), tuple(s[:, last] for s in parts(after))


# name -> whose layer, and how; ours first
WAYS: dict[str, tuple[Any, Callable[..., Results]]] = {
    "elman, reset=": (elman, one_call),
    "elman without resets": (elman, plain),
    "torch.nn, loop": (nn, loop),
    "elman, loop": (elman, loop),
    "torch.nn, segments": (nn, segments),
    "elman, segments": (elman, segments),
    "torch.nn, packed": (nn, packed),
}

# How many times as long as ours each of these takes at least, in training at the first of SIZES;
# the others, and elsewhere, as long. And how many times as long ours may take as without resets.
LEAST: dict[Callable[..., Results], float] = {loop: 10.0, segments: 1.5}
MOST = 1.1


@dataclass(frozen=True)
class Row:
    """The times of one work.

    Attributes:
        case: The cell and (N, L, F, H).
        size: (N, L, F, H).
        mode: Inference or training.
        ours: Microseconds of our call with resets.
        ratios: How many times as long the others take, by the names of WAYS.
    """

    case: str
    size: tuple[int, int, int, int]
    mode: Mode
    ours: float
    ratios: dict[str, float]


def prepare(
    cell: str, size: tuple[int, int, int, int], mode: Mode
) -> dict[str, Callable[[], list[Tensor]]]:
    """Each way's call, and what it computes: results, or gradients of input, state and weights."""
    batch, seq_len, features, hidden_size = size
    torch.manual_seed(0)
    given = getattr(nn, cell)(features, hidden_size)
    is_training = mode == "training"
    x = torch.randn(seq_len, batch, features, requires_grad=is_training)
    state = tuple(
        torch.randn(1, batch, hidden_size, requires_grad=is_training)
        for _ in range(2 if cell == "LSTM" else 1)
    )
    mask = torch.rand(seq_len, batch) < RATE
    mask[seq_len // 2, 0] = True  # so that there is one
    upstream = torch.randn(seq_len, batch, hidden_size)

    def of(namespace: Any, way: Callable[..., Results]) -> Callable[[], list[Tensor]]:
        layer = getattr(namespace, cell)(features, hidden_size)
        layer.load_state_dict(given.state_dict())

        def call() -> list[Tensor]:
            output, after = way(layer, x, state, mask)
            if not is_training:
                return [output, *after]
            return list(torch.autograd.grad(output, [x, *state, *layer.parameters()], upstream))

        return call

    return {name: of(*way) for name, way in WAYS.items()}


def timed(call: Callable[[], Any]) -> float:
    """Microseconds of a call, after one that warms the caches."""
    call()
    start = CLOCK()
    call()
    return (CLOCK() - start) * 1e6


def compare(ours: Callable[[], Any], other: Callable[[], Any], seconds: float) -> list[float]:
    """Microseconds of ours, and how many times as long the other takes: medians over turns."""
    pairs = []
    end = time.perf_counter() + seconds
    while not pairs or time.perf_counter() < end:
        pairs.append((timed(ours), timed(other)))
    return [statistics.median(x) for x in zip(*((a, b / a) for a, b in pairs), strict=True)]


def measure(
    sizes: tuple[tuple[int, int, int, int], ...] = SIZES, seconds: float = SECONDS
) -> list[Row]:
    """A row for each cell, size and mode."""
    torch.set_num_threads(1)
    rows = []
    for cell, size, mode in itertools.product(("LSTM", "GRU"), sizes, MODES):
        calls = prepare(cell, size, mode)
        with torch.set_grad_enabled(mode == "training"):
            results = {name: call() for name, call in calls.items() if WAYS[name][1] is not plain}
            first, *others = results.values()
            for name, values in zip(list(results)[1:], others, strict=True):
                torch.testing.assert_close(
                    values, first, rtol=1e-3, atol=1e-4, msg=f"{name} differs"
                )
            ours, *others = calls.values()
            found = [compare(ours, other, seconds) for other in others]
        ratios = dict(zip(list(WAYS)[1:], (ratio for _, ratio in found), strict=True))
        time_of_ours = statistics.median(time for time, _ in found)
        rows.append(Row(f"{cell} {size}", size, mode, time_of_ours, ratios))
        print(" ".join(table(rows[-1:])[1][0]), flush=True)
    return rows


def promised(rows: list[Row]) -> Iterator[Promise]:
    """What is promised: little more than no resets cost, and less than any other way."""
    for row in rows:
        for way, ratio in row.ratios.items():
            is_first = row.size == SIZES[0] and row.mode == "training"
            least = LEAST.get(WAYS[way][1], 1.0) if is_first else 1.0
            limit = MOST if WAYS[way][1] is plain else 1 / least
            yield Promise(f"resets, over {way}", row.case, row.mode, "x", 1 / ratio, None, limit)


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The titles and the cells: our time, and how many times as long each other way takes."""
    first, *others = WAYS
    return ["(N, L, F, H)", "mode", f"{first} µs", *others], [
        [r.case, r.mode, f"{r.ours:,.0f}", *(f"{ratio:.2f}x" for ratio in r.ratios.values())]
        for r in rows
    ]


if __name__ == "__main__":
    found = measure()
    broken = [promise for promise in promised(found) if not promise.kept]
    for part in (table(found), promises.table(broken)):
        print(markdown_table(*part), end="\n\n")
