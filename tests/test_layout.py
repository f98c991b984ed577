"""What the core computes beyond the five cells as PyTorch has them, against the reference.

Other cells, recurrent matrices in blocks, layer normalisation, and what acts in the recurrence: in
float64, with gradients of all that there is, for one thread and for two.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import elman
from elman import core, layout, ops, reference
from elman.cells import CELLS, MORE_CELLS, Cell, normalised
from elman.shapes import Recurrence, Resets

KNOWN = [*CELLS.values(), *MORE_CELLS.values()]
IN_BLOCKS = [replace(cell, is_known=False) for cell in KNOWN if cell.recurrent and not cell.late]

needs_core = pytest.mark.skipif(not core._compiled, reason="the native core is not in use")

# How a batch lies and what it begins with. Of the LSTM every second has a projection.
FORMS: dict[str, dict[str, bool | int]] = {
    "dense": {},
    "one sequence": {"batch": 1, "hidden_size": 9},
    "both directions, lengths": {"directions": 2, "lengths": True, "projection": 2},
    "both directions, packed": {"directions": 2, "packed": True, "bias": False},
    "resets": {"resets": True, "projection": 3},
    "resets, lengths, from zeros": {"resets": True, "lengths": True, "hx": False},
}


class Problem:
    """Random arguments of a layer, the same ones for the same seed."""

    seq_len, input_size = 7, 5

    def __init__(
        self,
        cell: Cell,
        acting: Sequence[str] = (),
        heads: int = 1,
        *,
        batch: int = 4,
        hidden_size: int = 6,
        directions: int = 1,
        projection: int = 0,
        bias: bool = True,
        lengths: bool = False,
        packed: bool = False,
        resets: bool = False,
        hx: bool = True,
    ) -> None:
        self.random = torch.Generator().manual_seed(7)
        self.cell, units = cell, hidden_size
        projection = projection if cell.name == "lstm" and heads == 1 else 0
        widths = [projection or units, *[units] * (len(cell.states) - 1)]
        rows = len(cell.gates) * units
        self.weights: list[Tensor | None] = []
        for _ in range(directions):
            self.weights += [
                self.draw(rows, self.input_size),
                self.draw(rows, widths[0] // heads) if cell.recurrent else None,
                self.draw(rows) if bias else None,
                self.draw(rows) if bias and cell.recurrent else None,
                self.draw(projection, units) if projection else None,
            ]
            for name, blocks in cell.vectors.items():
                absent = name == "bias_c" and not bias
                self.weights.append(None if absent else self.draw(blocks * units))
        self.batch_sizes = torch.tensor([4, 4, 3, 2, 2, 1, 1]) if packed else None
        steps = (17,) if packed else (self.seq_len, batch)
        self.x = self.draw(*steps, self.input_size)
        self.lengths = torch.tensor([7, 0, 3, 5]) if lengths else None
        self.hx = tuple(self.state(i, directions, batch, w) for i, w in enumerate(widths))
        self.to = tuple(self.state(i, w) for i, w in enumerate(widths)) if resets else ()
        self.mask = self.chance(self.seq_len, batch) if resets else None
        if not hx:
            self.hx = ()
        self.recurrence = None
        if acting:
            self.recurrence = Recurrence(
                drop=self.factors(directions, batch, widths[0]) if "drop" in acting else None,
                zone_h=self.zone("h", acting, directions, *steps, widths[0]),
                zone_c=self.zone("c", acting, directions, *steps, units),
                clip=0.3 if "clip" in acting else None,
            )

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random, dtype=torch.float64) * 0.5

    def chance(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random) < 0.4

    def factors(self, *shape: int) -> Tensor:
        return self.chance(*shape).double() * 1.6

    # Of an sLSTM the normaliser is positive.
    def state(self, i: int, *shape: int) -> Tensor:
        state = self.draw(*shape)
        return state.abs() + 0.1 if self.cell.states[i] == "n" else state

    def zone(self, letter: str, acting: Sequence[str], *shape: int) -> Tensor | float | None:
        if f"zone {letter}" in acting:
            return self.chance(*shape)
        return 0.3 if f"share {letter}" in acting else None

    def run(self, compute: Callable[..., tuple[Tensor, ...]]) -> list[Tensor]:
        """Results, and then gradients of everything."""
        given = [self.x, *self.hx, *self.weights, *self.to]
        leaves = [t if t is None else t.clone().requires_grad_() for t in given]
        x, *others = leaves
        hx = tuple(others[: len(self.hx)]) or None
        weights = others[len(self.hx) : len(self.hx) + len(self.weights)]
        to = tuple(others[len(self.hx) + len(self.weights) :])
        resets = None if self.mask is None else Resets(self.mask, to)
        call = self.batch_sizes, hx, weights, self.lengths, resets, self.recurrence
        results = compute(self.cell, x, *call)
        random = torch.Generator().manual_seed(8)
        above = [torch.randn(r.shape, generator=random, dtype=torch.float64) for r in results]
        asked = [t for t in leaves if t is not None]
        found = torch.autograd.grad(results, asked, above, allow_unused=True)
        zeros = [torch.zeros_like(t) if g is None else g for t, g in zip(asked, found, strict=True)]
        return [*results, *zeros]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    yield
    elman.set_num_threads(None)


def check(problem: Problem) -> None:
    call = problem.cell, problem.x, problem.weights, problem.recurrence
    assert core.computes(*call)
    expected = problem.run(reference.layer)
    elman.set_num_threads(1)
    alone = problem.run(ops.layer)
    elman.set_num_threads(2)
    for found, same, right in zip(alone, problem.run(ops.layer), expected, strict=True):
        assert found.shape == right.shape
        assert_close(found, right, rtol=1e-10, atol=1e-11)
        assert torch.equal(found, same), "bits depend on the threads"


def acting_on(cell: Cell) -> list[str]:
    """What can act in the recurrence of a cell, that the core computes."""
    found = ["zone h", "share h"] + (["drop"] if cell.recurrent else [])
    found += ["zone c", "share c"] if cell.states == "hc" else []
    return found + (["clip"] if cell.hidden else [])


@needs_core
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_a_cell_is_computed_as_by_the_reference(cell: Cell, norms: bool, form: str) -> None:
    check(Problem(normalised(cell) if norms else cell, **FORMS[form]))


@needs_core
@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_pairs_of_what_acts_are_computed_as_by_the_reference(cell: Cell, norms: bool) -> None:
    which = normalised(cell) if norms else cell
    all_of_them = acting_on(cell)
    pairs = [(one,) for one in all_of_them] + [*combinations(all_of_them, 2), tuple(all_of_them)]
    for i, acting in enumerate(pairs):
        form = [*FORMS.values()][i % len(FORMS)]
        check(Problem(which, acting, **form))


@needs_core
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", IN_BLOCKS, ids=lambda cell: cell.name)
def test_blocks_of_the_recurrent_matrix_are_computed_as_by_the_reference(
    cell: Cell, form: str
) -> None:
    if not cell.norms:
        check(Problem(cell, heads=3, **FORMS[form]))
        check(Problem(cell, [a for a in acting_on(cell) if "share" not in a], 3, **FORMS[form]))


@needs_core
def test_the_core_does_not_take_what_it_cannot_compute() -> None:
    x = torch.zeros(1, 1, 1)
    assert not core.computes(MORE_CELLS["mingru"], x, (), Recurrence(drop=torch.ones(1, 1, 1)))
    assert not core.computes(MORE_CELLS["slstm"], x, (), Recurrence(zone_c=0.5))
    assert not core.computes(MORE_CELLS["sru"], x, (), Recurrence(clip=1.0))
    assert not core.computes(replace(CELLS["gru"], step=lambda *args: args), x)
    in_blocks = [torch.zeros(16, 3), torch.zeros(16, 2), None, None, None]
    assert not core.computes(normalised(CELLS["lstm"]), x, in_blocks)


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("cell", [CELLS["lstm"], *MORE_CELLS.values()], ids=lambda cell: cell.name)
def test_the_form_of_the_core_is_undone(cell: Cell, heads: int) -> None:
    form = layout.Form(cell, heads)
    problem = Problem(cell, heads=heads if cell.recurrent else 1, directions=2)
    states = form.states(problem.hx)
    assert math.prod(states[0].shape) == math.prod(problem.hx[0].shape)
    given = problem.x, *states, *form.weights(problem.weights)
    wanted = [True] * (1 + len(problem.hx) + len(problem.weights))
    back = form.gradients(given, wanted, len(problem.hx), 0)
    for found, right in zip(back, [problem.x, *problem.hx, *problem.weights], strict=True):
        assert (found is None) == (right is None)
        if right is not None:
            assert_close(found, right, rtol=0, atol=0)


@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_states_and_gates_of_the_core_are_those_of_the_reference(cell: Cell) -> None:
    problem = Problem(cell, lengths=True)
    letters = "".join(dict.fromkeys("h" + ops._told(cell)))

    def run(compute: Callable[..., tuple[tuple[Tensor, ...], dict[str, Tensor]]]) -> list[Tensor]:
        def flat(cell: Cell, x: Tensor, _: None, hx: object, *rest: object) -> tuple[Tensor, ...]:
            weights, lengths, resets, recurrence = rest
            call = cell, x, hx, weights, lengths, resets, letters, recurrence
            results, values = compute(*call)
            return *results, *(values[letter] for letter in letters)

        return problem.run(flat)

    for found, right in zip(run(ops.inside), run(reference.inside), strict=True):
        assert_close(found, right, rtol=1e-10, atol=1e-11)
