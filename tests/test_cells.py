"""The definition of the cells: one step for every array library, tied to the core and to ONNX."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman import cells, reference
from elman.cells import CELLS, MORE_CELLS, Cell


class NumpyMath:
    """The operations of a step on arrays."""

    @staticmethod
    def split(x: NDArray[np.float64], parts: int) -> list[NDArray[np.float64]]:
        return np.split(x, parts, -1)

    @staticmethod
    def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-x))

    @staticmethod
    def relu(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(x, 0)

    tanh = staticmethod(np.tanh)


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> Cell:
    return CELLS[request.param]


def test_a_step_is_the_same_in_numpy_and_in_torch(cell: Cell) -> None:
    rng = np.random.default_rng(0)
    gx, gh = rng.standard_normal((2, 5, len(cell.gates) * 3))
    state = rng.standard_normal((len(cell.states), 5, 3))
    ours = cell.step(NumpyMath(), gx, gh, list(state))
    tensors = [torch.from_numpy(array) for array in (gx, gh, *state)]
    theirs = cell.step(reference.MATH, tensors[0], tensors[1], tensors[2:])
    assert len(ours) == len(theirs) == len(cell.states)
    for array, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "torch_cell"),
    [
        ("rnn_tanh", torch.rnn_tanh_cell),
        ("rnn_relu", torch.rnn_relu_cell),
        ("lstm", torch.lstm_cell),
        ("gru", torch.gru_cell),
    ],
)
def test_a_step_is_torchs(name, torch_cell) -> None:
    cell = CELLS[name]
    torch.manual_seed(0)
    x, *state = torch.randn(1 + len(cell.states), 5, 3, dtype=torch.float64)
    rows = len(cell.gates) * 3
    weights = [torch.randn(s, dtype=torch.float64) for s in ((rows, 3), (rows, 3), rows, rows)]
    theirs = torch_cell(x, state if len(state) > 1 else state[0], *weights)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for a, b in zip(reference.step(cell, x, tuple(state), weights), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


def test_the_table_is_keyed_by_name_and_names_every_gate_once(cell: Cell) -> None:
    assert CELLS[cell.name] is cell
    assert len(set(cell.gates)) == len(cell.gates)
    assert sorted(cell.onnx_gates) == sorted(cell.gates)
    assert cell.states[0] == "h"
    assert cell.step.__doc__ is not None
    assert cell.paper.split()[0] in cell.step.__doc__


def test_the_core_has_the_same_gates_and_states() -> None:
    native = pytest.importorskip("elman._native", exc_type=ImportError)
    ours = {
        cell.name: (cell.gates, cell.states, len(cell.given), cell.recurrent)
        for cell in (*CELLS.values(), *MORE_CELLS.values())
    }
    theirs = native.cells().items()
    assert {name: (*about[1:3], *about[4:]) for name, about in theirs} == ours


def test_the_definition_needs_no_array_library() -> None:
    code = (
        f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None; import {cells.__name__}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
