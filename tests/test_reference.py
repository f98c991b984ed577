"""The reference: torch.nn to float64 rounding, in every structure, to any derivative."""

from itertools import product

import pytest
import torch
from conftest import FORMS, LAYERS, Problem, reference_layer, solve
from torch import Tensor

import elman
from elman import ops, reference
from elman.cells import CELLS, Cell


@pytest.fixture
def by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "layer", reference_layer)
    monkeypatch.setattr(ops, "step", reference.step)
    monkeypatch.setattr(ops, "at_once", lambda *_: None)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.usefixtures("by_reference")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_equal_torch_in_float64(kind: str, form: str) -> None:
    for bidirectional, bias, with_hx in product((False, True), repeat=3):
        options = {
            "input_size": 3,
            "hidden_size": 4,
            "num_layers": 2,
            "bidirectional": bidirectional,
            "bias": bias,
        }
        if kind == "LSTM":
            options["proj_size"] = 2 * with_hx
        problem = Problem(kind, options, form=form, with_hx=with_hx, batch=4)
        assert_same(solve(problem, elman, torch.float64), solve(problem, torch.nn, torch.float64))


@pytest.mark.usefixtures("by_reference")
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_equal_torch_in_float64(kind: str) -> None:
    for form, bias, with_hx in product(("time_first", "unbatched"), (False, True), (False, True)):
        options = {"input_size": 3, "hidden_size": 4, "bias": bias}
        problem = Problem(kind, options, form=form, with_hx=with_hx)
        assert_same(solve(problem, elman, torch.float64), solve(problem, torch.nn, torch.float64))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_derivatives_of_derivatives_are_right(cell: Cell) -> None:
    torch.manual_seed(0)
    rows = len(cell.gates) * 2
    shapes = [(3, 1, 2), *[(1, 1, 2)] * len(cell.states), (rows, 2), (rows, 2), (rows,), (rows,)]
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    count = len(cell.states)

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return reference.layer(cell, x, None, rest[:count], [*rest[count:], None])

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_results_have_the_dtype_of_the_input(cell: Cell, dtype: torch.dtype) -> None:
    rows = len(cell.gates) * 2
    weights = [torch.ones(rows, 3, dtype=dtype), torch.ones(rows, 2, dtype=dtype), None, None]
    results = reference.layer(cell, torch.ones(4, 1, 3, dtype=dtype), None, None, [*weights, None])
    results += reference.step(cell, torch.ones(1, 3, dtype=dtype), None, weights)
    assert {result.dtype for result in results} == {dtype}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_final_states_share_no_memory_with_the_output(cell: Cell) -> None:
    rows = len(cell.gates) * 2
    weights = [torch.randn(rows, 2), torch.randn(rows, 2), None, None, None]
    output, h_n, *_ = reference.layer(cell, torch.randn(3, 1, 2), None, None, weights)
    before = h_n.clone()
    output.zero_()
    torch.testing.assert_close(h_n, before, rtol=0, atol=0)
