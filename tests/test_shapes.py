"""Wrong calls: each is refused with a sentence, as something that code for torch.nn catches."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from elman.shapes import KindError, ShapeError


def zeros(*shape: int, **options: Any) -> torch.Tensor:
    return torch.zeros(*shape, **options)


def error_of(function: Callable[[], object]) -> Exception | None:
    try:
        function()
    except Exception as error:
        return error
    return None


# torch.nn's class for this mistake, where it sees it, is among those of our error.
def assert_refused(wrong: Callable[[Any], object]) -> None:
    ours, theirs = error_of(lambda: wrong(elman)), error_of(lambda: wrong(torch.nn))
    assert isinstance(ours, ShapeError), (ours, theirs)
    if theirs is not None:
        assert isinstance(ours, type(theirs)), (ours, theirs)
    assert ": " in str(ours)
    assert "got" in str(ours)


# --- constructors -------------------------------------------------------------------------------

WRONG_SIZES = [(3, -1), (-1, 3), (3.0, 4), (3, 4.5), ("3", 4), (3, None), (3, "4"), (3, [4])]
WRONG_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "layers": [
        {"num_layers": 0},
        {"num_layers": -1},
        {"num_layers": 1.5},
        {"num_layers": "2"},
        {"bias": 1},
        {"bias": None},
        {"bias": np.ones(2)},
        {"batch_first": 1},
        {"batch_first": "yes"},
        {"bidirectional": np.ones(2)},
        {"dropout": True, "num_layers": 2},
        {"dropout": 1.5, "num_layers": 2},
        {"dropout": -0.1, "num_layers": 2},
        {"dropout": float("nan"), "num_layers": 2},
        {"dropout": "0.5", "num_layers": 2},
        {"dropout": "a"},
        {"dropout": None},
        {"dropout": torch.tensor(0.5)},
        {"proj_size": 4},
        {"proj_size": 7},
        {"proj_size": -1},
        {"proj_size": 1.5},
        {"dtype": torch.int64},
    ],
    "cells": [{"bias": np.ones(2)}, {"dtype": torch.int32}],
}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        *((kind, sizes) for kind in LAYERS + STEP_CELLS for sizes in WRONG_SIZES),
        *((kind, sizes) for kind in LAYERS for sizes in ((3, 0), (0, 3))),
    ],
    ids=str,
)
def test_wrong_sizes_are_refused(kind: str, sizes: tuple[Any, Any]) -> None:
    assert_refused(lambda namespace: getattr(namespace, kind)(*sizes))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, options) for kind in LAYERS for options in WRONG_OPTIONS["layers"]),
        *((kind, options) for kind in STEP_CELLS for options in WRONG_OPTIONS["cells"]),
        ("RNN", {"nonlinearity": "tahn"}),
        ("RNN", {"nonlinearity": None}),
        ("RNNCell", {"nonlinearity": "tahn"}),
        ("RNN", {"proj_size": 2}),
        ("GRU", {"proj_size": 2}),
        ("GRU", {"proj_size": "cpu"}),
    ],
    ids=str,
)
def test_wrong_options_are_refused(kind: str, options: dict[str, Any]) -> None:
    assert_refused(lambda namespace: getattr(namespace, kind)(3, 4, **options))


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_a_missing_or_unknown_argument_is_a_type_error(kind: str) -> None:
    for namespace in (torch.nn, elman):
        for args, options in (((), {}), ((3,), {}), ((3, 4), {"hiden": 5})):
            with pytest.raises(TypeError):
                getattr(namespace, kind)(*args, **options)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_with_nowhere_to_act_is_warned_of_at_the_callers_line(kind: str) -> None:
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing with num_layers=1") as record:
        getattr(elman, kind)(3, 4, dropout=0.5)
    assert record[0].filename == __file__


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor], ids=str)
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_numbers_that_are_not_pythons_own_are_taken_as_these(kind: str, integer: Any) -> None:
    more: dict[str, Any] = {"bias": np.bool_(False)}
    if kind in LAYERS:
        more = {"num_layers": integer(2), "dropout": np.float32(0.5), "bidirectional": np.True_}
        more |= {"proj_size": integer(2 * (kind == "LSTM"))}
    module = getattr(elman, kind)(integer(3), integer(4), **more)
    expected = getattr(elman, kind)(3, 4, **{k: np.asarray(v).item() for k, v in more.items()})
    assert repr(module) == repr(expected)
    for name, value in vars(expected).items():
        if not name.startswith("_"):
            assert vars(module)[name] == value, name
            assert type(vars(module)[name]) is type(value), name
    x = zeros(2, 3) if kind in STEP_CELLS else zeros(2, 1, 3)
    assert module(x)[0].shape == expected(x)[0].shape


@pytest.mark.parametrize(("bias", "truth"), [(1, True), (0, False), (None, False), (1.0, True)])
@pytest.mark.parametrize("kind", STEP_CELLS)
def test_the_bias_of_a_cell_is_whatever_has_a_truth(kind: str, bias: Any, truth: bool) -> None:
    cell, theirs = getattr(elman, kind)(3, 4, bias), getattr(torch.nn, kind)(3, 4, bias)
    assert cell.bias is truth
    assert list(cell.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("kind", "args", "options", "message"),
    [
        ("GRUCell", (3, 4, 2), {}, "bias must be True or False, got 2, which counts as True"),
        ("LSTMCell", (3, 4, "relu"), {}, "bias must be True or False, got 'relu', which counts as"),
        ("LSTM", (3, 4), {"bidirectional": "no"}, "bidirectional must be True or False, got 'no'"),
        ("GRU", (3, 4, True), {}, "num_layers must be a number, got True, which counts as 1"),
        ("RNNCell", (3, 0), {}, "hidden_size must be at least 1, got 0: the state has no features"),
    ],
    ids=str,
)
def test_what_torch_takes_and_is_surely_a_mistake_is_warned_of(
    kind: str, args: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.warns(UserWarning, match=f"{kind}: {message}") as record:
        ours = getattr(elman, kind)(*args, **options)
    assert [warning.filename for warning in record] == [__file__]
    theirs = getattr(torch.nn, kind)(*args, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, ("3", 4)) for kind in LAYERS + STEP_CELLS),
        *((kind, (3, 4, 1, "tahn")) for kind in ("RNN",)),
        *((kind, (3, 1 << 40)) for kind in LAYERS + STEP_CELLS),  # more memory than there is
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [False, True])
def test_what_a_constructor_refused_can_be_printed(kind: str, wrong: Any, base: bool) -> None:
    ours = getattr(elman, kind)
    module = ours.__new__(type("Own", (ours,), {}) if base else ours)
    assert error_of(lambda: module.__init__(*wrong)) is not None
    assert repr(module).startswith(f"{type(module).__name__}(")


def test_a_nonlinearity_spoilt_later_is_refused_at_the_call() -> None:
    cell = elman.RNNCell(3, 4)
    cell.nonlinearity = "tahn"
    with pytest.raises(RuntimeError, match="nonlinearity must be 'tanh' or 'relu', got 'tahn'"):
        cell(zeros(2, 3))


# --- calls --------------------------------------------------------------------------------------


def layer_calls(kind: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    def hx(*shape: int, **options: Any) -> Any:
        h = zeros(*shape, **options)
        return (h, h) if kind == "LSTM" else h

    x, h = zeros(5, 2, 3), zeros(1, 2, 4)
    yield "a scalar", (torch.tensor(0.0),)
    yield "one axis", (zeros(3),)
    yield "four axes", (zeros(1, 5, 2, 3),)
    yield "other features", (zeros(5, 2, 7),)
    yield "other features, unbatched", (zeros(5, 7),)
    yield "no time steps", (zeros(0, 2, 3),)
    yield "no time steps, unbatched", (zeros(0, 3),)
    yield "nothing at all", (zeros(0, 0, 3),)
    yield "indices", (x.long(),)
    yield "booleans", (x.bool(),)
    yield "float64", (x.double(),)
    yield "bfloat16", (x.bfloat16(),)
    yield "everything float64", (x.double(), hx(1, 2, 4, dtype=torch.float64))
    yield "input elsewhere", (zeros(5, 2, 3, device="meta"),)
    yield "a list", ([[1.0, 2.0, 3.0]],)
    yield "an array", (x.numpy(),)
    yield "None", (None,)
    yield "a tuple", ((x,),)
    yield "state of another batch", (x, hx(1, 3, 4))
    yield "state of another size", (x, hx(1, 2, 5))
    yield "state of two layers", (x, hx(2, 2, 4))
    yield "state without batch", (x, hx(1, 4))
    yield "state with batch for one sequence", (zeros(5, 3), hx(1, 1, 4))
    yield "state of one axis", (zeros(5, 3), hx(4))
    yield "state in float64", (x, hx(1, 2, 4, dtype=torch.float64))
    yield "state elsewhere", (x, hx(1, 2, 4, device="meta"))
    yield "state of the other kind", (x, h if kind == "LSTM" else (h, h))
    yield "state alone in a tuple", (x, (h,))
    yield "three states", (x, (h, h, h))
    yield "states of None", (x, (None, None))
    yield "a state and None", (x, (h, None))
    yield "state as a word", (x, "zeros")
    yield "state as a number", (x, 0)
    yield "state as an array", (x, h.numpy())
    if kind == "LSTM":
        yield "both states in one tensor", (x, zeros(2, 1, 2, 4))
        yield "c in float64", (x, (h, h.double()))
        yield "c of another size", (x, (h, zeros(1, 2, 5)))

    packed = pack_sequence([zeros(3, 3), zeros(2, 3)])
    sizes = packed.batch_sizes
    unsorted = pack_sequence([zeros(2, 3), zeros(3, 3)], enforce_sorted=False)
    yield "packed, other features", (pack_sequence([zeros(3, 7)]),)
    yield "packed, three axes", (PackedSequence(zeros(5, 1, 3), sizes),)
    yield "packed, extra rows", (PackedSequence(zeros(9, 3), sizes),)
    yield "packed, missing rows", (PackedSequence(zeros(4, 3), sizes),)
    yield "packed, growing", (PackedSequence(zeros(5, 3), torch.tensor([2, 1, 2])),)
    yield "packed, sizes of two axes", (PackedSequence(zeros(5, 3), sizes[None]),)
    yield "packed, no sizes", (PackedSequence(zeros(0, 3), sizes[:0]),)
    yield "packed, a step of none", (PackedSequence(zeros(2, 3), torch.tensor([2, 0])),)
    yield "packed, int32 sizes", (PackedSequence(zeros(5, 3), sizes.int()),)
    yield "packed, one index", (PackedSequence(zeros(5, 3), sizes, torch.tensor([0])),)
    yield "packed, float64", (pack_sequence([zeros(3, 3).double()]),)
    yield "packed, state of a larger batch", (packed, hx(1, 3, 4))
    yield "packed, state of a smaller batch", (packed, hx(1, 1, 4))
    yield "packed, state of two axes", (packed, hx(1, 4))
    yield "packed, state of another size", (packed, hx(1, 2, 5))
    yield "packed, state of the other kind", (packed, h if kind == "LSTM" else (h, h))
    yield "packed, state in float64", (packed, hx(1, 2, 4, dtype=torch.float64))
    yield "unsorted, state of a larger batch", (unsorted, hx(1, 3, 4))
    yield "unsorted, state of a smaller batch", (unsorted, hx(1, 1, 4))


def cell_calls(kind: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    def hx(*shape: int, **options: Any) -> Any:
        h = zeros(*shape, **options)
        return (h, h) if kind == "LSTMCell" else h

    x, h = zeros(2, 3), zeros(2, 4)
    yield "a scalar", (torch.tensor(0.0),)
    yield "a sequence", (zeros(5, 2, 3),)
    yield "other features", (zeros(2, 7),)
    yield "other features, unbatched", (zeros(7),)
    yield "indices", (x.long(),)
    yield "float64", (x.double(),)
    yield "input elsewhere", (zeros(2, 3, device="meta"),)
    yield "a list", ([1.0],)
    yield "an array", (x.numpy(),)
    yield "None", (None,)
    yield "a packed sequence", (pack_sequence([zeros(3, 3)]),)
    yield "state of another batch", (x, hx(3, 4))
    yield "state of a batch of one", (x, hx(1, 4))
    yield "state of another size", (x, hx(2, 5))
    yield "state without batch", (x, hx(4))
    yield "state with batch for one sequence", (zeros(3), hx(1, 4))
    yield "state of a layer", (x, hx(1, 2, 4))
    yield "state in float64", (x, hx(2, 4, dtype=torch.float64))
    yield "state of the other kind", (x, h if kind == "LSTMCell" else (h, h))
    yield "state alone in a tuple", (x, (h,))
    yield "three states", (x, (h, h, h))
    yield "states of None", (x, (None, None))
    yield "state as a word", (x, "zeros")
    yield "state as a number", (x, 0)
    if kind == "LSTMCell":
        yield "c in float64", (x, (h, h.double()))
        yield "c of another size", (x, (h, zeros(2, 5)))
        yield "c of another batch", (x, (h, zeros(3, 4)))


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        pytest.param(kind, args, id=f"{kind}: {name}")
        for kinds, calls in ((LAYERS, layer_calls), (STEP_CELLS, cell_calls))
        for kind in kinds
        for name, args in calls(kind)
    ],
)
def test_a_wrong_call_is_refused_and_changes_nothing(kind: str, args: tuple[Any, ...]) -> None:
    modules = {namespace: getattr(namespace, kind)(3, 4) for namespace in (elman, torch.nn)}
    ours = modules[elman]
    right = zeros(2, 3) if kind in STEP_CELLS else zeros(5, 2, 3)
    before, attributes = ours(right)[0], {**vars(ours)}
    assert_refused(lambda namespace: modules[namespace](*args))
    assert vars(ours) == attributes
    torch.testing.assert_close(ours(right)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sparse_input_is_an_error(kind: str) -> None:
    with pytest.raises(RuntimeError):
        getattr(elman, kind)(3, 4)(zeros(5, 2, 3).to_sparse())


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda m: setattr(m.weight_hh_l0, "data", zeros(16, 3)), "weight_hh_l0 must be (16, 4)"),
        (lambda m: setattr(m.bias_hh_l0, "data", zeros(16).double()), "dtype of weight_ih_l0"),
        (lambda m: setattr(m, "bias_ih_l0", None), "bias_ih_l0 must be a tensor, got NoneType"),
        (
            lambda m: setattr(m, "bias_hh_l0", torch.nn.Parameter(zeros(16, device="meta"))),
            "bias_hh_l0 must be on the device of weight_ih_l0, cpu, got meta",
        ),
    ],
)
def test_a_spoilt_parameter_is_refused(spoil: Callable[[Any], None], text: str) -> None:
    lstm = elman.LSTM(3, 4)
    spoil(lstm)
    with pytest.raises(ShapeError) as caught:
        lstm(zeros(5, 2, 3))
    assert text in str(caught.value)


def test_a_missing_parameter_is_an_attribute_error() -> None:
    lstm = elman.LSTM(3, 4)
    del lstm.weight_hh_l0
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        lstm(zeros(5, 2, 3))


# --- what the sentences say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: elman.LSTM(3, 0),
            "LSTM: hidden_size must be at least 1, got 0",
        ),
        (
            lambda: elman.GRU(3, 4.0),
            "GRU: hidden_size must be an int, got 4.0 (float)",
        ),
        (
            lambda: elman.LSTM(3, 4, proj_size=4),
            "LSTM: proj_size must be from 1 to hidden_size - 1 = 3, or 0 for no projection, got 4",
        ),
        (
            lambda: elman.GRU(3, 4, proj_size=2),
            "GRU: proj_size must be 0, got 2: only LSTM can project its state",
        ),
        (
            lambda: elman.RNN(3, 4, nonlinearity="tahn"),
            "RNN: nonlinearity must be 'tanh' or 'relu', got 'tahn'",
        ),
        (
            lambda: elman.RNN(3, 4, 2, dropout=1.5),
            "RNN: dropout must be in [0, 1], got 1.5: it is the probability of zeroing elements",
        ),
        (
            lambda: elman.LSTM(3, 20)(zeros(7, 5, 3), (zeros(1, 4, 20), zeros(1, 4, 20))),
            "LSTM: h_0 must be (D * num_layers, N, H_out) = (1, 5, 20), got (1, 4, 20): a state "
            "goes on with the same sequences; start new ones with None, for zeros",
        ),
        (
            lambda: elman.GRU(3, 4)(zeros(5, 7, 3), zeros(1, 5, 4)),
            "GRU: h_0 must be (D * num_layers, N, H_out) = (1, 7, 4), got (1, 5, 4): input "
            "(5, 7, 3) is read as (L, N, H_in); if it is (N, L, H_in), construct it with "
            "batch_first=True",
        ),
        (
            lambda: elman.GRU(3, 4, batch_first=True)(zeros(7, 5, 3), zeros(1, 5, 4)),
            "GRU: h_0 must be (D * num_layers, N, H_out) = (1, 7, 4), got (1, 5, 4): input "
            "(7, 5, 3) is read as (N, L, H_in); if it is (L, N, H_in), construct it without "
            "batch_first",
        ),
        (
            lambda: elman.GRU(3, 4, batch_first=True)(zeros(2, 5, 3), zeros(2, 1, 4)),
            "GRU: h_0 must be (D * num_layers, N, H_out) = (1, 2, 4), got (2, 1, 4): batch_first "
            "leaves the state alone; use h_0.transpose(0, 1)",
        ),
        (
            lambda: elman.LSTM(3, 4)(zeros(5, 3), (zeros(1, 4), zeros(1, 5))),
            "LSTM: c_0 must be (D * num_layers, hidden_size) = (1, 4), got (1, 5): a state of this "
            "size comes from another module",
        ),
        (
            lambda: elman.LSTM(3, 4)(zeros(5, 2, 3), zeros(1, 2, 4)),
            "LSTM: hx must be a pair of tensors, (h_0, c_0), got Tensor: pass both, or neither for "
            "zeros",
        ),
        (
            lambda: elman.GRU(3, 4)(zeros(5, 2, 3), (zeros(1, 2, 4), zeros(1, 2, 4))),
            "GRU: hx must be one tensor, h_0, got tuple of Tensor, Tensor: only the LSTM has a "
            "cell state c_0",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(5, 2, 7)),
            "RNN: input must have H_in = input_size = 3 features on its last axis, got 7 in "
            "(5, 2, 7): construct it with input_size=7, or give it 3 features",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(5, 3, 2)),
            "RNN: input must have H_in = input_size = 3 features on its last axis, got 2 in "
            "(5, 3, 2): use input.transpose(1, -1) if the features are on axis 1",
        ),
        (
            lambda: elman.RNN(1, 4)(zeros(5)),
            "RNN: input must be (L, N, H_in) or, for one sequence, (L, H_in), got (5,): use "
            "input.unsqueeze(-1) for one feature",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(0, 2, 3)),
            "RNN: input must have at least one time step, got L = 0 in (0, 2, 3)",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(5, 2, 3).long()),
            "RNN: input must have the dtype of the weights, torch.float32, got torch.int64: use "
            "input.to(torch.float32), or torch.nn.Embedding first if these are indices",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(5, 2, 3).double()),
            "RNN: input must have the dtype of the weights, torch.float32, got torch.float64: use "
            "input.to(torch.float32), or .to(torch.float64) on the module",
        ),
        (
            lambda: elman.RNN(3, 4)(zeros(5, 2, 3, device="meta")),
            "RNN: input must be on the device of the weights, cpu, got meta: use .to('cpu') on it, "
            "or .to('meta') on the module",
        ),
        (
            lambda: elman.RNN(3, 4)(PackedSequence(zeros(9, 3), torch.tensor([2, 2, 1]))),
            "RNN: input.data must have one row per step of a sequence, sum(batch_sizes) = 5 rows, "
            "got 9: build it with torch.nn.utils.rnn.pack_padded_sequence or pack_sequence",
        ),
        (
            lambda: elman.GRUCell(3, 4)(zeros(5, 2, 3)),
            "GRUCell: input must be (N, H_in) or (H_in,), got (5, 2, 3): a cell takes one time "
            "step; call it for each, or use GRU for whole sequences",
        ),
        (
            lambda: elman.GRUCell(3, 4)(zeros(2, 3), zeros(3, 4)),
            "GRUCell: h_0 must be (N, H_out) = (2, 4), got (3, 4): a state goes on with the same "
            "sequences; start new ones with None, for zeros",
        ),
    ],
)
def test_the_sentence_names_who_what_the_rule_and_the_remedy(
    call: Callable[[], object], text: str
) -> None:
    with pytest.raises(ShapeError) as caught:
        call()
    assert str(caught.value) == text


def test_the_errors_are_what_torch_raises() -> None:
    assert issubclass(ShapeError, ValueError)
    assert issubclass(ShapeError, RuntimeError)
    for base in (ShapeError, TypeError, AttributeError, IndexError):
        assert issubclass(KindError, base)
