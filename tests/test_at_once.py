"""Calls as most are, which are checked and computed at once: who is one, and what it gives."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations

import elman
from elman import core, ops

pytestmark = pytest.mark.skipif(not core._compiled, reason="needs the native core")

MODULES = (*LAYERS, *STEP_CELLS)
tree_leaves = torch.utils._pytree.tree_leaves


def make(kind: str, hx: bool = True, batch_first: bool = False, **options: Any) -> Any:
    """Return a module and the arguments of a call of it."""
    torch.manual_seed(1)
    if kind in STEP_CELLS:
        module, x, shape = getattr(elman, kind)(3, 4, **options), torch.randn(2, 3), (2, 4)
    else:
        module = getattr(elman, kind)(3, 4, batch_first=batch_first, **options)
        x = torch.randn(2, 5, 3) if batch_first else torch.randn(5, 2, 3)
        shape = (2 if options.get("bidirectional") else 1, 2, 4)
    h = torch.randn(*shape[:-1], options.get("proj_size") or 4)
    states = (h, torch.randn(shape)) if kind.startswith("LSTM") else h
    return module, (x, states) if hx else (x,)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was computed at once."""
    found: list[bool] = []
    at_once = ops.at_once

    def recorded(*args: Any) -> Any:
        results = at_once(*args)
        found.append(results is not None)
        return results

    monkeypatch.setattr(ops, "at_once", recorded)
    return found


OPTIONS: list[dict[str, Any]] = [
    {},
    {"hx": False},
    {"bias": False},
    {"dtype": torch.float64},
    {"batch_first": True},
    {"bidirectional": True},
    {"bidirectional": True, "proj_size": 2, "batch_first": True},
]


def cases() -> Iterator[Any]:
    for kind in MODULES:
        for options in OPTIONS:
            is_cell = kind in STEP_CELLS
            if is_cell and not {*options}.isdisjoint({"batch_first", "bidirectional"}):
                continue
            if "proj_size" in options and kind != "LSTM":
                continue
            yield pytest.param(kind, options, id=f"{kind}-{'-'.join(options) or 'plain'}")


@pytest.mark.parametrize(("kind", "options"), list(cases()))
def test_a_usual_call_has_the_bits_of_the_checked_way(
    kind: str, options: dict[str, Any], taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, given = make(kind, **options)
    given = torch.utils._pytree.tree_map(lambda t: t.to(options.get("dtype")), given)
    tensors = tree_leaves(given)
    upstream: list[Tensor] = []

    def solve() -> list[Tensor]:
        with torch.no_grad():
            found = [*tree_leaves(module(*given))]
        for tensor in tensors:
            tensor.requires_grad_()
        results = tree_leaves(module(*given))
        if not upstream:
            upstream.extend(torch.randn_like(result) for result in results)
        gradients = torch.autograd.grad(results, [*tensors, *module.parameters()], upstream)
        for tensor in tensors:
            tensor.requires_grad_(False)
        return [*found, *results, *gradients]

    at_once = solve()
    assert taken == [True, True]
    monkeypatch.setattr(ops, "at_once", lambda *args: None)
    monkeypatch.setattr(
        core, "_ASK", (*(lambda tensor: None for _ in range(6)), *core._ASK[6:])
    )  # and the core reads every tensor for itself
    torch.testing.assert_close(at_once, solve(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", MODULES)
def test_results_of_a_usual_call_share_no_memory(kind: str) -> None:
    module, given = make(kind)
    with torch.no_grad():
        results = tree_leaves(module(*given))
    assert len({r.untyped_storage().data_ptr() for r in results}) == len(results)
    assert all(
        r.untyped_storage().data_ptr() not in map(Tensor.data_ptr, given[:1]) for r in results
    )


ACTING: dict[str, Any] = {
    "recurrent_dropout": 0.5,
    "zoneout": 0.5,
    "weight_dropout": 0.5,
    "layer_norm": True,
    "cell_clip": 0.1,
    "learn_initial_state": True,
    "recompute": True,
}
INERT = {"residual": True, "init": "orthogonal", "forget_bias": 1.0}


def test_a_layer_with_an_option_that_acts_is_not_computed_at_once(taken: list[bool]) -> None:
    assert {*ACTING, *INERT} == {*elman.options.DEFAULTS}
    for name, value in {**ACTING, **INERT}.items():
        layer, given = make("LSTM", **{name: value})
        del taken[:]
        layer(*given)
        assert taken == ([True] if name in INERT else []), name


class Marked(Tensor):
    """A tensor of another class."""


def parametrized(module: Any, given: Any) -> Any:
    name = next(iter(module._parameters))
    parametrizations.weight_norm(module, name)
    return module(*given)


def replaced(module: Any, given: Any) -> Any:
    name, weight = next(iter(module._parameters.items()))
    delattr(module, name)
    setattr(module, name, weight.detach())
    return module(*given)


def pushed(module: Any, given: Any) -> Any:
    with forward_ad.dual_level():
        return module(forward_ad.make_dual(given[0], torch.ones_like(given[0])), *given[1:])


def lowered(module: Any, given: Any) -> Any:
    with torch.autocast("cpu"):
        return module(*given)


UNUSUAL: dict[str, Callable[[Any, Any], Any]] = {
    "half": lambda m, given: m.bfloat16()(given[0].bfloat16()),
    "subclass": lambda m, given: m(given[0].as_subclass(Marked), *given[1:]),
    "one sequence": lambda m, given: m(given[0].select(-2, 0)),
    "parametrized": parametrized,
    "replaced": replaced,
    "forward AD": pushed,
    "autocast": lowered,
    "transform": lambda m, given: torch.func.vmap(lambda x: tree_leaves(m(x)))(given[0][None]),
    "trace": lambda m, given: torch.jit.trace(m, given[0], check_trace=False),
    "zeros by definition": lambda m, given: m(torch._efficientzerotensor(given[0].shape)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("call", UNUSUAL)
@pytest.mark.parametrize("kind", MODULES)
def test_an_unusual_call_goes_the_checked_way(kind: str, call: str, taken: list[bool]) -> None:
    module, given = make(kind)
    module(*given)
    UNUSUAL[call](module, given)
    assert taken[:2] == [True, False]


# Each argument or parameter in turn of another shape, dtype or kind.
def wrong_calls(kind: str) -> Iterator[tuple[Any, Any]]:
    for wrong in (
        lambda t: t[..., :-1],
        lambda t: t[:-1],
        lambda t: t.unsqueeze(0),
        lambda t: t.double(),
        lambda t: t.int(),
        lambda t: t.tolist(),
        lambda t: t.to("meta"),
    ):
        module, (x, hx) = make(kind)
        yield module, (wrong(x), hx)
        if isinstance(hx, tuple):
            for other in (
                (wrong(hx[0]), hx[1]),
                (hx[0], wrong(hx[1])),
                hx[:1],
                hx[0],
                (*hx, hx[0]),
            ):
                yield module, (x, other)
        else:
            yield module, (x, wrong(hx))
            yield module, (x, (hx, hx))
        for name, weight in list(module.named_parameters()):
            module, given = make(kind)
            value = wrong(weight.detach())
            delattr(module, name)
            if isinstance(value, Tensor) and value.is_floating_point():
                module.register_parameter(name, torch.nn.Parameter(value))
            else:
                setattr(module, name, value)
            yield module, given
    for name in ("input_size", "hidden_size", "batch_first", "bidirectional"):
        for value in (7, -1, None, "3", 3.0):
            module, given = make(kind)
            setattr(module, name, value)
            yield module, given


def error_of(module: Any, given: Any) -> str:
    try:
        module(*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("kind", MODULES)
def test_a_wrong_call_has_the_error_of_the_checked_way(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[list[str]] = []
    for at_once in (ops.at_once, lambda *args: None):
        monkeypatch.setattr(ops, "at_once", at_once)
        errors.append([])
        for module, given in wrong_calls(kind):
            errors[-1].append(error_of(module, given))
    assert errors[0] == errors[1]
    assert sum(map(bool, errors[0])) > 35


@pytest.mark.parametrize("kind", MODULES)
def test_a_graph_in_evaluation_mode_is_still_followed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elman.hints, "CHAIN", 3)
    module, (x, state) = make(kind)
    module.eval()
    for _ in range(2):
        result = module(x, state)
        state = result if kind in STEP_CELLS else result[1]
    with pytest.warns(elman.Hint, match=r"3 calls in evaluation mode"):
        module(x, state)
