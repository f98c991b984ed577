"""Layers that keep little for the backward pass: same results, same gradients, less memory."""

import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import elman
from elman import core, ops, stretches
from elman.cells import CELLS, Cell
from elman.shapes import Resets

STEPS, BATCH, INPUTS, HIDDEN = 11, 5, 3, 4
LENGTHS = torch.tensor([4, 0, 11, 1, 6], dtype=torch.uint8)
CELL_LIST = sorted(CELLS.values(), key=lambda cell: cell.name)
FORMS = ("padded", "lengths", "packed", "resets")


@pytest.fixture(params=CELL_LIST, ids=lambda cell: cell.name)
def cell(request: pytest.FixtureRequest) -> Cell:
    return request.param


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "_KEPT_VALUES", 0)  # of 3, 3, 3 and 2 steps


class Problem:
    """Leaves drawn at random, and what a layer makes of them."""

    def __init__(self, cell: Cell, form: str, directions: int, projection: int = 0) -> None:
        torch.manual_seed(7)
        rows, width = HIDDEN * len(cell.gates), projection or HIDDEN
        self.cell = cell
        self.lengths = LENGTHS if form == "lengths" else None
        self.batch_sizes = self.resets = None
        x = torch.randn(STEPS, BATCH, INPUTS)
        if form == "packed":
            x, self.batch_sizes, *_ = pack_padded_sequence(x, torch.tensor([11, 11, 6, 3, 1]))
        self.weights: list[Any] = []
        for _ in range(directions):
            shapes = (rows, INPUTS), (rows, width), (rows,), (rows,)
            self.weights += [(torch.randn(shape) / 2).requires_grad_() for shape in shapes]
            self.weights.append(
                torch.randn(projection, HIDDEN).requires_grad_() if projection else None
            )
        widths = (width, HIDDEN)[: len(cell.states)]
        self.hx = tuple(torch.randn(directions, BATCH, w).requires_grad_() for w in widths)
        if form == "resets":
            to = tuple(torch.randn(w).requires_grad_() for w in widths)
            self.resets = Resets(torch.rand(STEPS, BATCH) < 0.3, to)
        self.x = x.requires_grad_()

    def run(self, recompute: bool, hx: bool = True) -> tuple[Tensor, ...]:
        """The output and the final states."""
        return ops.layer(
            *(self.cell, self.x, self.batch_sizes, self.hx if hx else None, self.weights),
            *(self.lengths, self.resets),
            recompute=recompute,
        )

    def leaves(self, hx: bool = True) -> list[Tensor]:
        """Input and initial states, then the others."""
        to = self.resets.to if self.resets else ()
        others = [w for w in (*self.weights, *to) if w is not None]
        return [self.x, *(self.hx if hx else ()), *others]

    def solve(self, recompute: bool, hx: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """Results with the gradients of input and initial states, and the other gradients."""
        results = self.run(recompute, hx)
        torch.manual_seed(8)
        upstream = [torch.randn_like(result) for result in results]
        found = torch.autograd.grad(results, self.leaves(hx), upstream)
        first = 1 + len(self.hx) * hx
        return [*results, *found[:first]], [*found[first:]]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("hx", [True, False], ids=["h_0", "zeros"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_results_are_the_same_bits_and_sums_over_time_are_close(
    cell: Cell, form: str, directions: int, hx: bool
) -> None:
    if form == "resets" and directions == 2:
        pytest.skip("one direction alone starts anew")
    problem = Problem(cell, form, directions)
    (bits, sums), (expected_bits, expected_sums) = problem.solve(True, hx), problem.solve(False, hx)
    torch.testing.assert_close(bits, expected_bits, rtol=0, atol=0)
    torch.testing.assert_close(sums, expected_sums)


@pytest.mark.parametrize("form", FORMS)
def test_a_projection_is_computed_again(form: str) -> None:
    problem = Problem(CELLS["lstm"], form, 1 if form == "resets" else 2, projection=2)
    (bits, sums), (expected_bits, expected_sums) = problem.solve(True), problem.solve(False)
    torch.testing.assert_close(bits, expected_bits, rtol=0, atol=0)
    torch.testing.assert_close(sums, expected_sums)


def test_only_states_between_stretches_are_kept(cell: Cell) -> None:
    if core._native is None or not core.kept_width(cell, 1):
        pytest.skip("keeps nothing anyway")
    problem = Problem(cell, "padded", 2)

    def kept(recompute: bool) -> int:
        found: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t.numel()), id):
            problem.run(recompute)
        given = sum(leaf.numel() for leaf in problem.leaves())
        return sum(found) - given

    of_a_step = 2 * BATCH * HIDDEN
    assert kept(True) == 3 * of_a_step * len(cell.states)
    assert kept(False) == STEPS * of_a_step * (1 + core.kept_width(cell, 1))


def test_a_changed_output_changes_no_gradient(cell: Cell) -> None:
    problem = Problem(cell, "padded", 2)

    def gradients(change: bool) -> tuple[Tensor, ...]:
        output, *_ = problem.run(True)
        total = (output * 3).sum()
        if change:
            output.detach().zero_()
        return torch.autograd.grad(total, problem.leaves())

    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["padded", "lengths", "packed"])
def test_many_upstream_gradients_and_second_derivatives(cell: Cell, form: str) -> None:
    problem = Problem(cell, form, 2)
    leaves = problem.leaves()

    def derivatives(recompute: bool) -> list[Tensor]:
        output, *_ = problem.run(recompute)
        torch.manual_seed(9)
        upstream = torch.randn(3, *output.shape)
        options: Any = {"retain_graph": True}
        many = torch.autograd.grad(output, leaves, upstream, is_grads_batched=True, **options)
        first = torch.autograd.grad(output, leaves, upstream[0], create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), leaves)
        return [*many, *first, *second]

    torch.testing.assert_close(derivatives(True), derivatives(False))


def test_lower_precision_and_the_reference_compute_again_too(cell: Cell) -> None:
    problem = Problem(cell, "lengths", 2)
    leaves = problem.leaves()
    for dtype in (torch.bfloat16, torch.float16):

        def solve(recompute: bool, dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
            lower = [None if w is None else w.to(dtype) for w in problem.weights]
            call = cell, problem.x.to(dtype), None, None, lower, problem.lengths
            output, *_ = ops.layer(*call, recompute=recompute)
            return output, *torch.autograd.grad(output.float().sum(), leaves, allow_unused=True)

        torch.testing.assert_close(solve(True), solve(False))


def test_a_graph_keeps_nothing_either(cell: Cell) -> None:
    problem = Problem(cell, "padded", 2)
    plain = problem.solve(False)
    torch._dynamo.reset()
    run = torch.compile(lambda: problem.run(True), backend="aot_eager", fullgraph=True)
    results = run()
    torch.manual_seed(8)
    upstream = [torch.randn_like(result) for result in results]
    found = [*results, *torch.autograd.grad(results, problem.leaves(), upstream)]
    torch.testing.assert_close(found, [*plain[0], *plain[1]])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "slstm"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_take_it_as_an_option(kind: str, device: str) -> None:
    made = getattr(elman, kind) if hasattr(elman, kind) else partial(elman.Recurrent, kind)
    options: Any = {"num_layers": 2, "bidirectional": True, "dropout": 0.4, "zoneout": 0.2}

    def solve(recompute: bool, options: Any) -> list[Tensor]:
        torch.manual_seed(3)
        layer = made(3, 4, **options, recompute=recompute)
        x = torch.randn(STEPS, BATCH, 3).to(device).requires_grad_()
        output, _ = layer.to(device)(x)
        torch.manual_seed(4)
        results = torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()])
        return [output, *results]

    for chosen in (options, {**options, "zoneout": 0.0}):
        torch.testing.assert_close(solve(True, chosen), solve(False, chosen))


def test_it_is_printed_and_saved_with_the_layer() -> None:
    layer = elman.LSTM(3, 4, recompute=True)
    assert repr(layer) == "LSTM(3, 4, recompute=True)"
    assert pickle.loads(pickle.dumps(layer)).recompute
    with pytest.raises(TypeError, match="LSTM: recompute must be True or False, got 'yes'"):
        elman.LSTM(3, 4, recompute="yes")  # type: ignore[arg-type]
