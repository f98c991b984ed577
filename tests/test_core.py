"""The core on tensors: how ragged batches run, groups of gradients, and what it reads."""

import gc
import math
from typing import Any

import pytest
import torch
from conftest import needs_proc, resident
from torch import Tensor

from elman import core
from elman.cells import CELLS, Cell

pytestmark = pytest.mark.skipif(core._native is None, reason="needs the native core")

LENGTHS = torch.tensor([4, 0, 5, 1, 5, 3])


@pytest.fixture(params=sorted(CELLS))
def cell(request: pytest.FixtureRequest) -> Cell:
    return CELLS[request.param]


# input (5, 6, 3), states and weights of so many directions of 4 units, without gradients
def make_problem(cell: Cell, directions: int = 1) -> tuple[Tensor, list[Tensor], list[Any]]:
    torch.manual_seed(0)
    rows = 4 * len(cell.gates)
    weights: list[Any] = []
    for _ in range(directions):
        weights += [torch.randn(*shape) / 2 for shape in ((rows, 3), (rows, 4), (rows,), (rows,))]
        weights.append(None)
    return torch.randn(5, 6, 3), [torch.randn(directions, 6, 4) for _ in cell.states], weights


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("is_ragged", [False, True], ids=["dense", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_gradients_of_groups_are_those_of_separate_calls(
    cell: Cell, groups: int, directions: int, is_ragged: bool
) -> None:
    x, states, weights = make_problem(cell, directions)
    wanted = [True] * (1 + len(states)) + [w is not None for w in weights]
    upstream = [torch.randn(5, 6, 4 * directions)] + [torch.randn(directions, 6, 4) for _ in states]

    def gradients(columns: slice, groups: int = 1) -> tuple[Tensor | None, ...]:
        lengths = LENGTHS[columns] if is_ragged else None
        call = x[:, columns], None, lengths, [state[:, columns] for state in states], weights
        output, *_, kept = core.forward(cell, *call, True)
        above = [u[:, columns] for u in upstream]
        return core.backward(cell, *call, output, kept, above, wanted, groups)

    together = gradients(slice(None), groups)
    size = 6 // groups
    apart = [gradients(slice(i * size, (i + 1) * size)) for i in range(groups)]
    for i, (ours, *theirs) in enumerate(zip(together, *apart, strict=True)):
        if ours is None:
            assert theirs == [None] * groups
        elif i <= len(states):
            torch.testing.assert_close(ours, torch.cat(theirs, 1), rtol=0, atol=0)
        else:
            torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("directions", [1, 2])
def test_what_backward_alone_reads_has_no_padding(cell: Cell, directions: int) -> None:
    x, states, weights = make_problem(cell, directions)
    wanted = [True] * (1 + len(states)) + [w is not None for w in weights]
    upstream = [torch.randn(5, 6, 4 * directions)] + [torch.randn(directions, 6, 4) for _ in states]
    call = x, None, LENGTHS, states, weights

    def solve(is_read: bool) -> tuple[torch.Size, list[Tensor]]:
        output, *finals, kept = core.forward(cell, *call, True, is_read=is_read)
        found = core.backward(cell, *call, output, kept, upstream, wanted)
        return kept.shape, [output, *finals, *(g for g in found if g is not None)]

    (padded, expected), (packed, actual) = solve(True), solve(False)
    assert padded == (directions, 5, 6, core.kept_width(cell, 4))
    assert packed == (directions, 18, core.kept_width(cell, 4))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# A view of every second value; between them stands what must not be read.
def strided(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    other = math.nan if tensor.is_floating_point() else 1 << 40
    return torch.stack((tensor, torch.full_like(tensor, other)), -1)[..., 0]


# A function of the core that begins by writing over memory which nobody holds any more.
def after_reusing_memory(original: Any) -> Any:
    def call(*arguments: Any) -> None:
        gc.collect()
        reused = [torch.full((n,), math.nan) for n in range(1, 600) for _ in range(2)]
        original(*arguments)
        del reused

    return call


def test_copies_of_strided_arguments_outlive_the_call(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, states, weights = make_problem(cell, 2)
    sizes = torch.tensor([6, 5, 4, 4, 2])
    rows = x.flatten(0, 1)[: sizes.sum()]
    wanted = [tensor is not None for tensor in (rows, *states, *weights)]

    def solve(lay: Any) -> list[Tensor | None]:
        call = lay(rows), lay(sizes), None, [*map(lay, states)], [*map(lay, weights)]
        output, *finals, kept = core.forward(cell, *call, True)
        upstream = [lay(result.sin()) for result in (output, *finals)]
        gradients = core.backward(cell, *call, lay(output), lay(kept), upstream, wanted)
        return [output, *finals, *(g for g in gradients if g is not None)]

    expected = solve(lambda tensor: tensor)
    for name in ("forward", "backward"):
        monkeypatch.setattr(core._native, name, after_reusing_memory(getattr(core._native, name)))
    torch.testing.assert_close(solve(strided), expected, rtol=0, atol=0)


@needs_proc
def test_memory_stays_flat_over_many_shapes(cell: Cell) -> None:
    _, _, weights = make_problem(cell)
    sizes = torch.randint(1, 40, (5500, 2), generator=torch.Generator().manual_seed(9)).tolist()

    def run(sizes: list[list[int]]) -> None:
        for seq_len, batch in sizes:
            call = torch.randn(seq_len, batch, 3), None, None, [None] * len(cell.states), weights
            output, *_, kept = core.forward(cell, *call, True)
            upstream, wanted = [output] + [None] * len(cell.states), [True] * (6 + len(cell.states))
            core.backward(cell, *call, output, kept, upstream, wanted)

    run(sizes[:500])
    before = resident()
    run(sizes[500:])
    assert resident() - before < 16 << 20, "memory grew by over 16 MiB in 5,000 calls"
