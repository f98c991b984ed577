"""Who computes: the choice of the backend, and what autograd asks of it."""

import ast
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import medium
from torch import Tensor

import elman
from elman import core, ops, reference
from elman.cells import CELLS, Cell


@pytest.fixture(params=sorted(CELLS))
def cell(request: pytest.FixtureRequest) -> Cell:
    return CELLS[request.param]


def make_problem(
    cell: Cell, dtype: torch.dtype = torch.float64, projection: int = 0
) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor | None]]:
    """Return input (4, 3, 5), states and weights of two directions of 6 units, all leaves."""
    torch.manual_seed(11)
    out, rows = projection or 6, 6 * len(cell.gates)

    def leaf(*shape: int) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64) / math.sqrt(6)).to(dtype).requires_grad_()

    weights: list[Tensor | None] = []
    for _ in range(2):
        weights += [leaf(rows, 5), leaf(rows, out), leaf(rows), leaf(rows)]
        weights.append(leaf(projection, 6) if projection else None)
    hx = tuple(leaf(2, 3, 6 if i else out) for i in range(len(cell.states)))
    return leaf(4, 3, 5), hx, weights


@pytest.fixture(params=[0, 4], ids=["plain", "projected"])
def projection(request: pytest.FixtureRequest, cell: Cell) -> int:
    if request.param and cell.name != "lstm":
        return 0
    return request.param


@pytest.mark.usefixtures("isa")
def test_first_derivatives_are_right(cell: Cell, projection: int) -> None:
    x, hx, weights = make_problem(cell, projection=projection)
    present = [w for w in weights if w is not None]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = iter(rest[len(hx) :])
        all_weights = [None if w is None else next(given) for w in weights]
        return ops.layer(cell, x, None, rest[: len(hx)], all_weights)

    assert torch.autograd.gradcheck(run, (x, *hx, *present))


def test_second_derivatives_are_right(cell: Cell) -> None:
    x, hx, weights = make_problem(cell)
    small = x[:2, :1].detach().requires_grad_()
    states = tuple(s[:1, :1].detach().requires_grad_() for s in hx)
    one_direction = [None if w is None else w.detach() for w in weights[:5]]

    def run(x: Tensor, bias: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        w_ih, w_hh, _, b_hh, w_hr = one_direction
        return ops.layer(cell, x, None, states, [w_ih, w_hh, bias, b_hh, w_hr])

    assert torch.autograd.gradgradcheck(run, (small, weights[2], *states))


def test_every_subset_of_arguments_may_want_gradients(cell: Cell) -> None:
    x, hx, weights = make_problem(cell)
    leaves = [x, *hx, *(w for w in weights if w is not None)]
    outputs = reference.layer(cell, x, None, hx, weights)
    upstream = [torch.randn_like(output) for output in outputs]
    expected = torch.autograd.grad(outputs, leaves, upstream)
    for i, leaf in enumerate(leaves):
        for other in leaves:
            other.requires_grad_(other is leaf)
        outputs = ops.layer(cell, x, None, hx, weights)
        (actual,) = torch.autograd.grad(outputs, [leaf], upstream)
        torch.testing.assert_close(actual, expected[i])


@pytest.mark.parametrize("used", [0, 1, -1], ids=["output", "h_n", "last state"])
def test_each_output_alone_carries_gradient(cell: Cell, used: int) -> None:
    x, hx, weights = make_problem(cell)
    leaves = [x, *hx, *(w for w in weights if w is not None)]
    results = []
    for backend in (ops, reference):
        output = backend.layer(cell, x, None, hx, weights)[used]
        upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        results.append(torch.autograd.grad(output, leaves, upstream))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_backward_may_run_twice_over_a_retained_graph(cell: Cell) -> None:
    x, hx, weights = make_problem(cell)
    output = ops.layer(cell, x, None, hx, weights)[0].square().sum()
    first = torch.autograd.grad(output, [x, *hx], retain_graph=True)
    second = torch.autograd.grad(output, [x, *hx])
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_tied_weights_add_their_gradients(cell: Cell) -> None:
    x, _, weights = make_problem(cell)
    tied = weights[:5] * 2  # both directions share every parameter
    results = []
    for backend in (ops, reference):
        loss = backend.layer(cell, x, None, None, tied)[0].square().sum()
        results.append(torch.autograd.grad(loss, [w for w in tied[:5] if w is not None]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_strided_arguments_are_read_as_they_are(cell: Cell) -> None:
    x, hx, weights = make_problem(cell, torch.float32)
    expected = ops.layer(cell, x, None, hx, weights)

    def strided(t: Tensor | None) -> Tensor | None:
        return None if t is None else torch.stack((t, t), -1)[..., 0]

    actual = ops.layer(
        cell, strided(x), None, tuple(strided(s) for s in hx), [strided(w) for w in weights]
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_strided_batch_sizes_are_read_as_they_are(cell: Cell) -> None:
    x, _, weights = make_problem(cell)
    rows, sizes = x.reshape(12, 5)[:6], torch.tensor([[3, 9], [2, 9], [1, 9]])[:, 0]
    results = []
    for batch_sizes in (sizes, sizes.clone()):
        output = ops.layer(cell, rows, batch_sizes, None, weights)[0]
        results.append((output, *torch.autograd.grad(output.sum(), [x, weights[0]])))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_the_computation_and_not_its_result(cell: Cell) -> None:
    x, hx, weights = make_problem(cell)
    constants = [None if w is None else w.detach() for w in weights]
    hx = tuple(state.detach() for state in hx)

    def run(x: Tensor) -> Tensor:
        return ops.layer(cell, x, None, hx, constants)[0]

    traced = torch.jit.trace(run, (x.detach(),))
    other = torch.randn_like(x)
    torch.testing.assert_close(traced(other), run(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32_and_rounded(cell: Cell, dtype: torch.dtype) -> None:
    x, hx, weights = make_problem(cell, dtype)
    actual = ops.layer(cell, x, None, hx, weights)
    with medium(dtype is torch.bfloat16):
        wide = ops.layer(cell, x.float(), None, ops._widen(hx), ops._widen(weights))
    for ours, exact in zip(actual, wide, strict=True):
        assert ours.dtype is dtype
        torch.testing.assert_close(ours, exact.to(dtype), rtol=0, atol=0)
    actual[0].float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is dtype


def test_an_empty_batch_gives_empty_results_and_zero_gradients(cell: Cell) -> None:
    _, _, weights = make_problem(cell, torch.float32)
    output, *finals = ops.layer(cell, torch.zeros(4, 0, 5), None, None, weights)
    assert output.shape == (4, 0, 12)
    assert finals[0].shape == (2, 0, 6)
    output.sum().backward()
    assert weights[0] is not None
    torch.testing.assert_close(weights[0].grad, torch.zeros_like(weights[0]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_and_function_transforms_are_served_by_the_reference(cell: Cell) -> None:
    x, hx, weights = make_problem(cell)
    x, direction = x.detach(), torch.randn_like(x)

    def run(x: Tensor) -> Tensor:
        return ops.layer(cell, x, None, hx, weights)[0]

    _, tangent = torch.func.jvp(run, (x,), (direction,))
    step = 1e-6
    expected = (run(x + step * direction) - run(x - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(run(dual)).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-8)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_backend_can_be_forced_to_the_reference() -> None:
    result = run_python("import elman; elman.show_config()", ELMAN_BACKEND="reference")
    assert "backend: reference (ELMAN_BACKEND)" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("variable", "text"),
    [("ELMAN_BACKEND", "ELMAN_BACKEND must be one of"), ("ELMAN_ISA", "ELMAN_ISA must be one of")],
)
def test_a_misspelt_environment_variable_is_an_error(variable: str, text: str) -> None:
    result = run_python("import elman.ops", **{variable: "natvie"})
    assert result.returncode != 0
    assert text in result.stderr
    assert "natvie" in result.stderr


@pytest.mark.parametrize("variable", ["ELMAN_BACKEND", "ELMAN_ISA"])
def test_the_command_line_names_a_misspelt_environment_variable_in_one_line(variable: str) -> None:
    code = "import sys; from elman.cli import main; sys.exit(main(['demo', '--quick']))"
    result = run_python(code, **{variable: "natvie"})
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"elman: {variable} must be one of"), result.stderr


def test_isa_can_be_chosen_by_the_environment() -> None:
    result = run_python("import elman; elman.show_config()", ELMAN_ISA="baseline")
    assert "instruction set: baseline" in result.stdout, result.stderr


def test_without_the_extension_the_reference_serves_with_one_warning() -> None:
    code = (
        "import sys, warnings; sys.modules['elman._native'] = None\n"
        "import torch\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import elman\n"
        "    layer = elman.GRU(2, 3)\n"
        "    layer(torch.zeros(4, 1, 2)); layer(torch.zeros(4, 1, 2))\n"
        "mine = [str(w.message) for w in seen if 'elman' in str(w.message)]\n"
        "assert len(mine) == 1 and 'native core could not be loaded' in mine[0], mine\n"
        "elman.show_config()\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "backend: reference (the native core could not be loaded)" in result.stdout


def test_the_number_of_threads_follows_torch_unless_set() -> None:
    before = torch.get_num_threads()
    try:
        core.set_num_threads(3)
        assert core.get_num_threads() == 3
        assert torch.get_num_threads() == before
        core.set_num_threads(None)
        assert core.get_num_threads() == before
    finally:
        core.set_num_threads(None)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        *((value, ValueError, "from 1 to 1024, got") for value in (0, -1, 1025, 2**31, 10**30)),
        *((value, TypeError, "must be an integer") for value in (1.0, 1.5, math.nan, math.inf)),
        *((value, TypeError, "must be an integer") for value in (True, False, "2", b"2", [2])),
        *((value, TypeError, "must be an integer") for value in (np.bool_(True), np.float64(2))),
    ],
    ids=repr,
)
def test_what_is_no_number_of_threads_is_refused_and_changes_nothing(
    value: Any, error: type[Exception], text: str
) -> None:
    core.set_num_threads(2)
    try:
        with pytest.raises(error, match=text):
            core.set_num_threads(value)
        assert core.get_num_threads() == 2
    finally:
        core.set_num_threads(None)


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), torch.tensor(2)], ids=repr)
def test_any_integer_is_a_number_of_threads(value: Any) -> None:
    core.set_num_threads(value)
    try:
        assert type(core.get_num_threads()) is int
        assert core.get_num_threads() == 2
        elman.GRU(3, 4)(torch.randn(5, 2, 3))
    finally:
        core.set_num_threads(None)


@pytest.mark.skipif(core._native is None, reason="needs the native core")
def test_the_stub_declares_what_the_core_has() -> None:
    stub = Path(core.__file__).with_name("_native.pyi").read_text(encoding="utf-8")
    kinds = ast.FunctionDef | ast.ClassDef
    declared = {node.name for node in ast.parse(stub).body if isinstance(node, kinds)}
    assert declared == {name for name in dir(core._native) if not name.startswith("_")}
