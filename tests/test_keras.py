"""Keras layers and ours: the same outputs and states, from Keras and to Keras, or a clear no."""

import os
import subprocess
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations

import elman
from elman.shapes import KindError, ShapeError

# Keras' variables on PyTorch, of their own accord, when NumPy reads them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNN, LSTM, GRU = keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU
H_IN, H, N, L = 3, 5, 2, 7

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SimpleRNN": (RNN, {}),
    "SimpleRNN, relu": (RNN, {"activation": "relu"}),
    "LSTM": (LSTM, {}),
    "GRU": (GRU, {}),
    "GRU, reset before": (GRU, {"reset_after": False}),
}
each_case = pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, options | {"use_bias": bias}, id=f"{name}, use_bias={bias}")
        for name, (kind, options) in CASES.items()
        for bias in (True, False)
    ],
)
both = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


INPUT = rng(1).standard_normal((N, L, H_IN)).astype("float32")


def built(kind: Any, bidirectional: bool = False, **options: Any) -> Any:
    """A Keras layer with random distinct weights, biases among them."""
    layer = kind(H, return_sequences=True, return_state=True, **options)
    if bidirectional:
        layer = keras.layers.Bidirectional(layer)
    layer(INPUT)
    generator = rng()
    layer.set_weights([0.5 * generator.standard_normal(w.shape) for w in layer.get_weights()])
    return layer


def assert_same(layer: Any, ours: Any) -> None:
    """Both give the same output and final states, from the same random initial ones."""
    per_direction = 2 if isinstance(ours, elman.LSTM) else 1
    rows = (1 + ours.bidirectional) * per_direction
    initial = torch.from_numpy(rng(2).standard_normal((rows, N, H)).astype("float32"))
    wanted, *final = layer(INPUT, initial_state=[*initial])
    # Keras has the states of one direction, h and c, and then those of the other.
    hx = [initial[i::per_direction] for i in range(per_direction)]
    output, state = ours(torch.from_numpy(INPUT), hx[0] if per_direction == 1 else hx)
    state = torch.stack(state, 1).flatten(0, 1) if per_direction == 2 else state
    near(output, wanted)
    near(state, torch.stack(final))


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=1e-5)


def drawn(kind: Any, options: dict[str, Any], **more: Any) -> Any:
    """The same layer of ours, with random distinct weights, both biases among them."""
    torch.manual_seed(0)
    name = {RNN: "RNN", LSTM: "LSTM", GRU: "GRU"}[kind]
    mine = {"bias": options.get("use_bias", True), "batch_first": True} | more
    if kind is RNN:
        mine["nonlinearity"] = options.get("activation", "tanh")
    if kind is GRU:
        mine["reset_after"] = options.get("reset_after", True)
    return getattr(elman, name)(H_IN, H, **mine)


@both
@each_case
def test_a_keras_layer_comes_over_whole(kind: Any, options: Any, bidirectional: bool) -> None:
    layer = built(kind, bidirectional, **options)
    ours = elman.from_keras(layer)
    assert type(ours) is type(drawn(kind, options))
    assert ours.batch_first
    assert ours.bias == options["use_bias"]
    assert_same(layer, ours)


@both
@each_case
def test_a_layer_of_ours_goes_to_keras(kind: Any, options: Any, bidirectional: bool) -> None:
    ours = drawn(kind, options, bidirectional=bidirectional)
    layer = built(kind, bidirectional, **options)
    layer.set_weights(elman.to_keras(ours))
    assert_same(layer, ours)


@both
@each_case
def test_weights_come_back_as_they_went(kind: Any, options: Any, bidirectional: bool) -> None:
    layer = built(kind, bidirectional, **options)
    back = elman.to_keras(elman.from_keras(layer))
    for mine, theirs in zip(back, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@both
@each_case
def test_bare_weights_make_the_layer(kind: Any, options: Any, bidirectional: bool) -> None:
    layer = built(kind, bidirectional, **options)
    told = {"bidirectional": True} if bidirectional else {}
    if "activation" in options:
        told["activation"] = options["activation"]
    if kind is GRU and not options["use_bias"]:
        told["reset_after"] = options.get("reset_after", True)
    assert_same(layer, elman.from_keras(layer.get_weights(), **told))


@both
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_stacks_go_both_ways(kind: Any, bidirectional: bool) -> None:
    def layer() -> Any:
        one = kind(H, return_sequences=True)
        return keras.layers.Bidirectional(one) if bidirectional else one

    model = keras.Sequential([layer(), layer()])
    model(INPUT)
    ours = drawn(kind, {}, num_layers=2, bidirectional=bidirectional)
    model.set_weights(elman.to_keras(ours))
    again = elman.from_keras(model.get_weights(), num_layers=2, bidirectional=bidirectional)
    for mine in (ours, again):
        near(mine(torch.from_numpy(INPUT))[0], model(INPUT))


def test_without_return_sequences_keras_returns_our_final_states() -> None:
    layer = keras.layers.Bidirectional(GRU(H))
    wanted = layer(INPUT)
    _, h_n = elman.from_keras(layer)(torch.from_numpy(INPUT))
    near(torch.cat([*h_n], -1), wanted)


def test_a_flipped_input_stands_for_go_backwards() -> None:
    layer = LSTM(H, go_backwards=True, return_sequences=True)
    wanted = layer(INPUT)
    output, _ = elman.from_keras(layer.get_weights())(torch.from_numpy(INPUT).flip(1))
    near(output, wanted)


def test_computed_weights_go_to_keras_as_they_act() -> None:
    ours = drawn(GRU, {})
    parametrizations.weight_norm(ours, "weight_hh_l0")
    with torch.no_grad():
        ours.parametrizations.weight_hh_l0.original0.mul_(2)
    layer = built(GRU)
    layer.set_weights(elman.to_keras(ours))
    assert_same(layer, ours)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    arrays = elman.to_keras(elman.LSTM(H_IN, H, dtype=dtype))
    assert {torch.from_numpy(array).dtype for array in arrays} == {dtype}
    assert elman.from_keras(arrays).weight_ih_l0.dtype is dtype


def test_bfloat16_is_widened() -> None:
    arrays = elman.to_keras(elman.LSTM(H_IN, H, dtype=torch.bfloat16))
    assert {array.dtype.name for array in arrays} == {"float32"}


def test_arrays_share_no_memory_with_the_layer() -> None:
    ours = elman.RNN(1, 1, bias=False)
    before = ours.weight_ih_l0.detach().clone()
    arrays = elman.to_keras(ours)
    for array in arrays:
        array += 1
    again = elman.from_keras(arrays)
    arrays[0] += 1
    torch.testing.assert_close(ours.weight_ih_l0.detach(), before, rtol=0, atol=0)
    torch.testing.assert_close(again.weight_ih_l0.detach(), before + 1)


def test_arrays_that_are_read_only_are_read() -> None:
    arrays = elman.to_keras(drawn(LSTM, {}))
    for array in arrays:
        array.flags.writeable = False
    elman.from_keras(arrays)


def test_a_layer_from_keras_trains() -> None:
    ours = elman.from_keras(elman.to_keras(drawn(GRU, {"reset_after": False})))
    ours(torch.from_numpy(INPUT))[0].sum().backward()
    assert all(p.is_leaf and p.grad is not None for p in ours.parameters())


def test_reading_weights_draws_no_random_numbers() -> None:
    arrays = elman.to_keras(drawn(LSTM, {}))
    before = torch.get_rng_state()
    elman.from_keras(arrays)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


# --- what is refused ----------------------------------------------------------------------------


def refused(source: Any, error: type[Exception] = ShapeError, **told: Any) -> str:
    with pytest.raises(error) as caught:
        elman.from_keras(source, **told)
    return str(caught.value)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            RNN(H, activation="sigmoid"),
            "SimpleRNN: activation must be 'tanh' or 'relu', got 'sigmoid': ours have no other",
        ),
        (
            LSTM(H, activation="relu"),
            "LSTM: activation must be 'tanh', got 'relu': ours have no other",
        ),
        (
            GRU(H, recurrent_activation="hard_sigmoid"),
            "GRU: recurrent_activation must be 'sigmoid', got 'hard_sigmoid': ours have no other",
        ),
        (
            LSTM(H, go_backwards=True),
            "LSTM: go_backwards must be False, got True: flip the input in time, and pass "
            "layer.get_weights()",
        ),
        (
            LSTM(H, stateful=True),
            "LSTM: stateful must be False, got True: pass layer.get_weights(), and with each call "
            "the last state as hx",
        ),
        (
            keras.layers.Bidirectional(LSTM(H), merge_mode="sum"),
            "Bidirectional: merge_mode must be 'concat', got 'sum': pass layer.get_weights() with "
            "bidirectional=True, and merge the two halves of the output",
        ),
        (GRU(H), "GRU has no weights yet: call it once, or build it"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_what_ours_do_not_compute_is_refused(layer: Any, text: str) -> None:
    assert refused(layer) == f"from_keras: {text}"


def test_directions_of_different_kinds_are_refused() -> None:
    layer = keras.layers.Bidirectional(
        GRU(H), backward_layer=GRU(H, go_backwards=True, reset_after=False)
    )
    assert refused(layer).startswith(
        "from_keras: Bidirectional: both directions must be of one kind, got ('GRU', "
    )


@pytest.mark.parametrize(
    ("source", "start"),
    [
        (keras.layers.Dense(3), "source must be a SimpleRNN, LSTM, GRU or Bidirectional of Keras"),
        (keras.layers.LSTMCell(3), "source must be a SimpleRNN, LSTM, GRU or Bidirectional"),
        ("lstm.h5", "source must be a Keras layer or the list of its weights, got str"),
        (np.zeros((3, 3)), "source must be a Keras layer or the list of its weights, got ndarray"),
        ([np.zeros((3, 4), int), np.zeros((4, 4))], "weights must be arrays of float16 or float32"),
    ],
)
def test_what_is_no_layer_is_refused(source: Any, start: str) -> None:
    assert refused(source, KindError).startswith(f"from_keras: {start}")


def test_what_the_layer_tells_is_not_told_twice() -> None:
    assert refused(GRU(H), KindError, reset_after=True) == (
        "from_keras: with a layer, reset_after must not be given: the layer tells it; to read its "
        "weights otherwise, pass layer.get_weights()"
    )


KERNEL, RECURRENT, BIAS = np.zeros((3, 20)), np.zeros((5, 20)), np.zeros(20)


def gru(*bias: int) -> list[np.ndarray]:
    return [np.zeros((3, 15)), np.zeros((5, 15)), *([np.zeros(bias)] if bias else [])]


@pytest.mark.parametrize(
    ("weights", "told", "text"),
    [
        (
            [KERNEL],
            {},
            "weights must be kernel, recurrent_kernel and, with use_bias, bias for num_layers * D "
            "= 1 * 1 runs, 2 or 3 arrays, got 1: (3, 20): say num_layers and bidirectional",
        ),
        (
            [KERNEL, RECURRENT, BIAS, BIAS],
            {},
            "weights must be kernel, recurrent_kernel and, with use_bias, bias for num_layers * D "
            "= 1 * 1 runs, 2 or 3 arrays, got 4: (3, 20), (5, 20), (20,), (20,): say num_layers "
            "and bidirectional",
        ),
        (
            [],
            {},
            "weights must be kernel, recurrent_kernel and, with use_bias, bias for num_layers * D "
            "= 1 * 1 runs, 2 or 3 arrays, got 0: nothing: say num_layers and bidirectional",
        ),
        (
            [KERNEL.T, RECURRENT.T, BIAS],
            {},
            "weights must begin with kernel (H_in, G * H) and recurrent_kernel (H, G * H), G = 1 "
            "for SimpleRNN, 3 for GRU and 4 for LSTM, got (20, 3), (20, 5), (20,): pass "
            "layer.get_weights()",
        ),
        (
            [KERNEL, RECURRENT, np.zeros(40)],
            {},
            "weights of this LSTM(3, 5, batch_first=True) must be (3, 20), (5, 20), (20,), got "
            "(3, 20), (5, 20), (40,): pass layer.get_weights()",
        ),
        (
            [KERNEL, RECURRENT, BIAS] * 2,
            {"num_layers": 2},
            "weights of this LSTM(3, 5, num_layers=2, batch_first=True) must be (3, 20), (5, 20), "
            "(20,), (5, 20), (5, 20), (20,), got (3, 20), (5, 20), (20,), (3, 20), (5, 20), (20,): "
            "pass layer.get_weights()",
        ),
        (
            gru(2, 15),
            {"reset_after": False},
            "weights of this GRU(3, 5, batch_first=True, reset_after=False) must be (3, 15), "
            "(5, 15), (15,), got (3, 15), (5, 15), (2, 15): pass layer.get_weights()",
        ),
        (
            gru(),
            {},
            "reset_after must be given for the weights of a GRU without bias: Keras' default is "
            "True",
        ),
        (
            [KERNEL, RECURRENT],
            {"activation": "relu"},
            "LSTM: activation must be 'tanh', got 'relu': only SimpleRNN has another",
        ),
        (
            [KERNEL, RECURRENT],
            {"reset_after": True},
            "LSTM: reset_after must not be given: it is a choice of the GRU",
        ),
        (
            [KERNEL, RECURRENT.astype("float32")],
            {},
            "weights must have one dtype, got torch.float32 and torch.float64: use astype",
        ),
        ([KERNEL, RECURRENT], {"num_layers": 0}, "num_layers must be an int of at least 1, got 0"),
    ],
)
def test_weights_that_do_not_fit_are_listed(weights: Any, told: Any, text: str) -> None:
    assert refused(weights, **told) == f"from_keras: {text}"


def test_what_acts_in_training_only_is_named_in_a_warning() -> None:
    options = {"dropout": 0.2, "kernel_regularizer": "l2", "bias_constraint": "non_neg"}
    layer = built(LSTM, bidirectional=True, **options)
    with pytest.warns(UserWarning, match="^from_keras") as caught:
        ours = elman.from_keras(layer)
    (warning,) = [w for w in caught if w.category is UserWarning]
    assert str(warning.message) == (
        "from_keras: kernel_regularizer, bias_constraint, dropout of the Bidirectional will not "
        "act: what it computes is the same but in training; to train on, apply them yourself"
    )
    assert warning.filename == __file__
    assert_same(layer, ours)


@pytest.mark.parametrize(
    ("layer", "error", "text"),
    [
        (
            torch.nn.LSTM(3, 4),
            KindError,
            "layer must be an RNN, LSTM or GRU of elman, got LSTM: elman.convert makes those of "
            "torch.nn ours",
        ),
        (
            elman.LSTM(3, 4, proj_size=2),
            ShapeError,
            "proj_size must be 0, got 2: Keras has no projection",
        ),
    ],
)
def test_what_keras_cannot_hold_is_refused(layer: Any, error: Any, text: str) -> None:
    with pytest.raises(error) as caught:
        elman.to_keras(layer)
    assert str(caught.value) == f"to_keras: {text}"


def test_bare_weights_do_not_need_keras() -> None:
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "import elman; elman.from_keras(elman.to_keras(elman.GRU(3, 4)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_bias_in_one_direction_only_is_named() -> None:
    layer = keras.layers.Bidirectional(
        LSTM(H), backward_layer=LSTM(H, go_backwards=True, use_bias=False)
    )
    layer.build((N, L, H_IN))
    text = "use_bias must be the same in both directions, got True forward and False backward"
    with pytest.raises(ShapeError, match=text):
        elman.from_keras(layer)
