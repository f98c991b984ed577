"""Hints: once per place, off with one line, where a mistake is certain and nowhere else."""

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elman
from elman import hints, language

KINDS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "CHAIN", 20)


def chain(
    module: torch.nn.Module, calls: int, change: Callable[[Any], Any] = lambda state: state
) -> Any:
    state = None
    torch.manual_seed(0)
    is_layer = hasattr(module, "num_layers")
    x = torch.randn(1, 2, 3) if is_layer else torch.randn(2, 3)
    for _ in range(calls):
        result = module(x) if state is None else module(x, state)
        state = change(result[1] if is_layer else result)
    return state


def detached(state: Any) -> Any:
    return state.detach() if isinstance(state, Tensor) else tuple(s.detach() for s in state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_grows_in_evaluation_is_hinted_at_once_at_the_callers_line(kind: str) -> None:
    module = getattr(elman, kind)(3, 4).eval()
    with pytest.warns(elman.Hint, match=f"^{kind}: 20 calls in evaluation mode") as caught:
        chain(module, 100)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_is_not_hinted_at(kind: str) -> None:
    module = getattr(elman, kind)(3, 4)
    chain(module, 50)  # training: a backward pass may follow
    chain(module.eval(), 50, detached)
    with torch.no_grad():
        chain(module, 50)
    chain(module.requires_grad_(False), 50)
    chain(getattr(elman, kind)(3, 4).eval(), 19)


def test_one_line_turns_hints_off() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", elman.Hint)
        chain(elman.GRU(3, 4).eval(), 50)


def test_a_state_that_is_counted_is_what_it_was() -> None:
    gru = elman.GRU(3, 4).eval()
    plain = chain(gru, 3, detached)
    counted = chain(gru, 3)
    assert type(counted) is Tensor
    torch.testing.assert_close(counted.detach(), plain, rtol=0, atol=0)
    loaded = pickle.loads(pickle.dumps(counted.detach()))
    torch.testing.assert_close(loaded, plain, rtol=0, atol=0)


def test_a_hint_is_a_warning_and_said_in_chinese_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(elman.Hint, UserWarning)
    monkeypatch.setattr(language, "_chosen", "zh")
    with pytest.warns(elman.Hint, match=r"^GRU\uff1a.*20"):
        chain(elman.GRU(3, 4).eval(), 20)
