"""Products of operands in bfloat16: who asks for them, how exact they are, and their bits.

The oracle of the sums is NumPy: a product of two numbers of bfloat16 is exact in float32, so that
each step of a sum can be made one by one in the order that `csrc/bf16.hpp` states.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS, STEP_CELLS, _native, medium
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

import elman

HAS_BF16 = _native is not None and _native.bf16() != "none"
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="needs AVX512-BF16")
L, N, F, H = 7, 37, 21, 45


@pytest.fixture(params=["pairs", "tiles"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Form products in one of the ways of this machine."""
    if _native is None:
        pytest.skip("needs the native core")
    _native.use_bf16(request.param)
    found = _native.bf16()
    if found == request.param:
        yield found
    _native.use_bf16("tiles")
    if found != request.param:
        pytest.skip(f"needs a machine that multiplies by {request.param}")


@pytest.fixture
def asked() -> Iterator[None]:
    """Ask for such products in modules of float32."""
    with medium():
        yield


def layer(kind: str, namespace: Any = elman, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(namespace, kind)(F, H, **options)


def states(kind: str, rows: int, batch: int = N) -> Any:
    h = torch.randn(rows, batch, H)
    return (h, torch.randn(rows, batch, H)) if "LSTM" in kind else h


def rounded(values: Tensor) -> np.ndarray[Any, Any]:
    return values.bfloat16().float().numpy()


def in_order(way: str, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sums of x @ w.T in the order of the core."""
    zero = np.zeros((len(x), len(w)), np.float32)

    def product(k: int) -> np.ndarray[Any, Any]:
        return x[:, k, None] * w[:, k] if k < x.shape[1] else zero

    total = zero
    if way == "pairs":
        for k in range(0, x.shape[1], 2):
            total = total + product(k + 1) + product(k)
        return total
    for block in range(0, x.shape[1], 32):
        even, odd = zero, zero
        for k in range(block, block + 32, 2):
            even, odd = even + product(k), odd + product(k + 1)
        total = total + (even + odd)
    return total


@pytest.mark.parametrize("inputs", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("units", [1, 17, 40, 64, 130])
@pytest.mark.parametrize("batch", [1, 5, 16, 17, 33, 150])
@pytest.mark.usefixtures("asked")
def test_sums_have_the_order_that_is_stated(way: str, batch: int, units: int, inputs: int) -> None:
    cell = elman.RNNCell(inputs, units, bias=False, nonlinearity="relu")
    x = torch.randn(batch, inputs)
    with torch.no_grad():
        ours = cell(x).numpy()
    expected = in_order(way, rounded(x), rounded(cell.weight_ih.detach()))
    np.testing.assert_array_equal(ours, np.maximum(expected, 0))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.usefixtures("asked")
def test_a_sequence_has_the_same_bits_alone_in_pieces_and_for_any_number_of_threads(
    way: str, kind: str
) -> None:
    module, x, hx = layer(kind), torch.randn(L, N, F), states(kind, 1)
    results = []
    for threads in (1, 2, 3):
        elman.set_num_threads(threads)
        results.append(tree_leaves(module(x, hx)))
    elman.set_num_threads(None)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    output, *finals = results[0]
    first, state = module(x[:3], hx)
    second, state = module(x[3:], state)
    assert torch.equal(torch.cat([first, second]), output)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(state), finals, strict=True))
    for n in (0, 8, N - 1):
        of_n = [state[:, n : n + 1] for state in tree_leaves(hx)]
        alone = module(x[:, n : n + 1], tuple(of_n) if kind == "LSTM" else of_n[0])
        assert torch.equal(alone[0][:, 0], output[:, n])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.usefixtures("asked")
def test_steps_of_a_cell_have_the_bits_of_the_layer(way: str, kind: str) -> None:
    module, x, hx = layer(kind), torch.randn(L, N, F), states(kind, 1)
    cell = getattr(elman, kind + "Cell")(F, H)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in module.state_dict().items()})
    output, _ = module(x, hx)
    state = torch.utils._pytree.tree_map(lambda s: s[0], hx)
    for t in range(L):
        state = cell(x[t], state)
        assert torch.equal(tree_leaves(state)[0], output[t])


def gradients(module: Any, *call: Any, **more: Any) -> list[Tensor]:
    """Of all parameters, the input and the states, of random gradients into every result."""
    leaves = [t.requires_grad_() for t in tree_leaves(call) if isinstance(t, Tensor)]
    results = tree_leaves(module(*call, **more))
    torch.manual_seed(1)
    upstream = [torch.randn(r.shape, dtype=torch.float64).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, [*leaves, *module.parameters()], upstream))


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "bias": False}])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.usefixtures("asked")
def test_gradients_have_the_same_bits_for_any_number_of_threads_and_are_near(
    way: str, kind: str, options: dict[str, Any]
) -> None:
    module = layer(kind, **options)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    x, hx = torch.randn(L, N, F), states(kind, rows)
    found = []
    for threads in (1, 2, 3):
        elman.set_num_threads(threads)
        found.append(gradients(module, x, hx))
    elman.set_num_threads(None)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    torch.set_float32_matmul_precision("highest")
    exact = gradients(module, x, hx)
    for ours, theirs in zip(found[0], exact, strict=True):
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@needs_bf16
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_more_precise_products_are_as_ever(precision: str) -> None:
    module, x = layer("LSTM"), torch.randn(L, N, F)
    expected = module(x)[0]
    try:
        torch.set_float32_matmul_precision("medium")
        lower = module(x)[0]
        torch.set_float32_matmul_precision(precision)
        assert torch.equal(module(x)[0], expected)
        assert not torch.equal(lower, expected)
        torch.testing.assert_close(lower, expected, rtol=0, atol=0.02)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("asked")
def test_the_backward_pass_rounds_what_the_forward_pass_did(way: str) -> None:
    module, x, hx = layer("LSTM"), torch.randn(L, N, F), states("LSTM", 1)
    expected = gradients(module, x, hx)
    results = tree_leaves(module(x, hx))
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(1)
    upstream = [torch.randn(r.shape, dtype=torch.float64).to(r.dtype) for r in results]
    found = torch.autograd.grad(results, [x, *hx, *module.parameters()], upstream)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_is_as_accurate_as_torchs(kind: str) -> None:
    ours, theirs = layer(kind), layer(kind, torch.nn)
    theirs.load_state_dict(ours.state_dict())
    x, hx = torch.randn(50, N, F), states(kind, 1)
    double = torch.utils._pytree.tree_map(lambda s: s.detach().double(), (x, hx))
    exact = tree_leaves(layer(kind, torch.nn).double()(*double))
    exact_gradients = gradients(layer(kind, torch.nn).double(), *double)

    class Lowered(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *call: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(*call)

    for get, reference in (
        (lambda m: tree_leaves(Lowered(m)(x, hx)), exact),
        (lambda m: gradients(Lowered(m), x, hx), exact_gradients),
    ):
        for a, b, right in zip(get(ours), get(theirs), reference, strict=True):
            assert a.dtype is b.dtype
            errors = [(t.double() - right).norm() / right.norm() for t in (a, b)]
            assert errors[0] <= 2 * errors[1] + 2**-8


@needs_bf16
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_autocast_a_module_of_bfloat16_and_medium_are_one_rule(kind: str) -> None:
    is_cell = kind in STEP_CELLS
    module = layer(kind).bfloat16().float()
    x = torch.randn(*(() if is_cell else (L,)), N, F).bfloat16().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = tree_leaves(module(x))
    with medium():
        expected = tree_leaves(module(x))
    converted = tree_leaves(module.bfloat16()(x.bfloat16()))
    for a, b, c in zip(expected, lowered, converted, strict=True):
        assert torch.equal(a.to(b.dtype), b)
        assert torch.equal(a.bfloat16(), c)


@pytest.mark.parametrize("options", [{}, {"proj_size": 19}, {"bidirectional": True}])
@pytest.mark.usefixtures("asked")
def test_ragged_sequences_have_the_bits_of_those_alone(way: str, options: dict[str, Any]) -> None:
    module, x = layer("LSTM", **options), torch.randn(L, 5, F)
    lengths = [7, 1, 3, 7, 2]
    padded, _ = module(x, lengths=lengths)
    packed, _ = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    assert torch.equal(unpacked, padded)
    for n, length in enumerate(lengths):
        assert torch.equal(module(x[:length, n : n + 1])[0][:, 0], padded[:length, n])
