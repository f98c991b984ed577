"""Hand-written cells: right ones are accepted in every form, and each mistake is named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman
from elman import language
from elman.diagnosis import CellReport
from elman.shapes import KindError, ShapeError

IN, H = 3, 4
GATES = {"lstm": "ifgo", "gru": "rzn", "gru_reset_before": "rzn", "rnn_tanh": "h", "rnn_relu": "h"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- the ways in which cells are written ------------------------------------------------------
#
# A style says how the pre-activation of a gate is written: x(gate, x) and h(gate, h) are its parts,
# and both(gate, x, h) their sum. `shared` makes one weight serve x and h, `same` one all gates,
# `unbiased` leaves out the bias of some gates.


class Style(nn.Module):
    m: Any = torch

    def __init__(
        self,
        gates: str,
        features: int = IN,
        shared: bool = False,
        same: bool = False,
        unbiased: str = "",
    ) -> None:
        super().__init__()
        self.gates, self.shared, self.same, self.unbiased = gates, shared, same, unbiased
        self.features = features
        self.make()

    def make(self) -> None:
        raise NotImplementedError

    def own(self, gate: str) -> str:
        return self.gates[0] if self.same else gate

    def both(self, gate: str, x: Any, h: Any) -> Any:
        return self.x(gate, x) + self.h(gate, h)


class PerGate(Style):
    """A Linear for each gate and each of x and h."""

    def make(self) -> None:
        self.of_x, self.of_h = nn.ModuleDict(), nn.ModuleDict()
        for gate in self.gates:
            bias = gate not in self.unbiased
            self.of_x[gate] = nn.Linear(self.features, H, bias=bias)
            self.of_h[gate] = self.of_x[gate] if self.shared else nn.Linear(H, H, bias=bias)

    def x(self, gate: str, x: Tensor) -> Tensor:
        return self.of_x[self.own(gate)](x)

    def h(self, gate: str, h: Tensor) -> Tensor:
        return self.of_h[self.own(gate)](h)


class Parameters(Style):
    """Matrices and biases as in the formulas, x @ W + h @ U + b."""

    def make(self) -> None:
        for gate in self.gates:
            of_x, of_h = (nn.Parameter(torch.randn(n, H) / 2) for n in (self.features, H))
            setattr(self, f"W_{gate}", of_x)
            setattr(self, f"U_{gate}", of_x if self.shared else of_h)
            if gate not in self.unbiased:
                setattr(self, f"b_{gate}", nn.Parameter(torch.zeros(H)))
                setattr(self, f"c_{gate}", nn.Parameter(torch.zeros(H)))

    def x(self, gate: str, x: Tensor) -> Tensor:
        gate = self.own(gate)
        return x @ getattr(self, f"W_{gate}") + getattr(self, f"b_{gate}", 0)

    def h(self, gate: str, h: Tensor) -> Tensor:
        gate = self.own(gate)
        return h @ getattr(self, f"U_{gate}") + getattr(self, f"c_{gate}", 0)


class Stacked(Style):
    """One Linear for x and one for h, all gates side by side, cut in an order of their own."""

    def make(self) -> None:
        assert not self.unbiased
        wide = len(self.gates) * H
        self.of_x = nn.Linear(self.features, wide)
        self.of_h = self.of_x if self.shared else nn.Linear(H, wide)

    def cut(self, gate: str, wide: Tensor) -> Tensor:
        return wide.chunk(len(self.gates), dim=-1)[self.gates.index(self.own(gate))]

    def x(self, gate: str, x: Tensor) -> Tensor:
        return self.cut(gate, self.of_x(x))

    def h(self, gate: str, h: Tensor) -> Tensor:
        return self.cut(gate, self.of_h(h))


class Side(Style):
    """A Linear for each gate, on x and h side by side."""

    def make(self) -> None:
        assert not self.shared
        self.of = nn.ModuleDict(
            {g: nn.Linear(H + self.features, H, bias=g not in self.unbiased) for g in self.gates}
        )

    def both(self, gate: str, x: Tensor, h: Tensor) -> Tensor:
        return self.of[self.own(gate)](torch.cat([h, x], dim=1))


class NumpyMath:
    tanh = staticmethod(np.tanh)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    @staticmethod
    def relu(x: Any) -> Any:
        return np.maximum(0, x)


class Arrays:
    """NumPy arrays in a dictionary, as rows."""

    m: Any = NumpyMath

    def __init__(
        self,
        gates: str,
        features: int = IN,
        shared: bool = False,
        same: bool = False,
        unbiased: str = "",
    ) -> None:
        random = np.random.default_rng(0)
        self.gates, self.same = gates, same
        self.p = {}
        for gate in gates:
            self.p["W" + gate] = random.normal(size=(features, H)) / 2
            self.p["U" + gate] = self.p["W" + gate] if shared else random.normal(size=(H, H)) / 2
            for bias in "bc":
                if gate not in unbiased:
                    self.p[bias + gate] = random.normal(size=H)

    def own(self, gate: str) -> str:
        return self.gates[0] if self.same else gate

    def x(self, gate: str, x: Any) -> Any:
        gate = self.own(gate)
        return np.dot(x, self.p["W" + gate]) + self.p.get("b" + gate, 0)

    def h(self, gate: str, h: Any) -> Any:
        gate = self.own(gate)
        return h @ self.p["U" + gate] + self.p.get("c" + gate, 0)

    def both(self, gate: str, x: Any, h: Any) -> Any:
        return self.x(gate, x) + self.h(gate, h)


STYLES = [PerGate, Parameters, Stacked, Side, Arrays]


# --- the cells, each with its possible mistakes -------------------------------------------------


def lstm(w: Any, wrong: str = "") -> Callable[..., Any]:
    m = w.m

    def function(gate: str) -> Callable[[Any], Any]:
        usual = m.tanh if gate == "g" else m.sigmoid
        other = m.sigmoid if gate == "g" else m.tanh
        return other if wrong == f"{gate} activation" else usual

    def step(x: Any, h: Any, c: Any) -> Any:
        i, f, g, o = (function(gate)(w.both(gate, x, h)) for gate in "ifgo")
        if wrong == "no activation":
            g = w.both("g", x, h)
        if wrong == "coupled":
            i = 1 - f
        added = {"candidate alone": g, "gate alone": i}.get(wrong, i * g)
        kept = {"no forget": c, "no old c": 0 * c}.get(wrong, f * c)
        after = kept + added
        if wrong == "tanh of c missing":
            new_h = o * after
        elif wrong == "old c in h":
            new_h = o * m.tanh(c)
        elif wrong == "no output gate":
            new_h = m.tanh(after)
        else:
            new_h = o * m.tanh(after)
        if wrong == "swapped":
            return after, new_h
        if wrong == "old h":
            return h, after
        if wrong == "old c":
            return new_h, c
        return new_h, after

    return step


def gru(w: Any, wrong: str = "") -> Callable[..., Any]:
    m = w.m

    def step(x: Any, h: Any) -> Any:
        r = (m.tanh if wrong == "r activation" else m.sigmoid)(w.both("r", x, h))
        z = (m.tanh if wrong == "z activation" else m.sigmoid)(w.both("z", x, h))
        act = m.sigmoid if wrong == "n activation" else m.tanh
        if wrong == "reset before":
            n = act(w.both("n", x, r * h))
        elif wrong == "reset on x":
            n = act(r * w.x("n", x) + w.h("n", h))
        elif wrong == "reset on both":
            n = act(r * w.both("n", x, h))
        elif wrong == "no reset":
            n = act(w.both("n", x, h))
        else:
            n = act(w.x("n", x) + r * w.h("n", h))
        if wrong == "no update":
            return n
        if wrong == "swapped":
            return z * n + (1 - z) * h
        if wrong == "swapped otherwise":
            return h + z * (n - h)
        if wrong == "no h":
            return (1 - z) * n
        if wrong == "n whole":
            return n + z * h
        return h if wrong == "old h" else (1 - z) * n + z * h

    return step


def rnn(w: Any, wrong: str = "") -> Callable[..., Any]:
    m = w.m

    def step(x: Any, h: Any) -> Any:
        if wrong in ("no h", "no x"):
            total = w.x("h", x) if wrong == "no h" else w.h("h", h)
        else:
            total = w.both("h", x, h)
        act = {
            "sigmoid": m.sigmoid,
            "relu": m.relu,
            "tanh": m.tanh,
            "none": lambda value: value,
            "twice": lambda value: m.tanh(m.sigmoid(value)),
        }.get(wrong, m.tanh)
        return h if wrong == "old h" else act(total)

    return step


CELLS = {
    "lstm": lambda w, wrong="": lstm(w, wrong),
    "gru": lambda w, wrong="": gru(w, wrong),
    "gru_reset_before": lambda w, wrong="": gru(w, wrong or "reset before"),
    "rnn_tanh": lambda w, wrong="": rnn(w, wrong),
    "rnn_relu": lambda w, wrong="": rnn(w, wrong or "relu"),
}


class AsModule(nn.Module):
    """A step as a module that holds its weights."""

    def __init__(self, cell: Callable[..., Any], style: nn.Module, wrong: str) -> None:
        super().__init__()
        self.cell, self.style, self.wrong = cell, style, wrong

    def forward(self, *args: Any) -> Any:
        return self.cell(self.style, self.wrong)(*args)


def check(kind: str, style: type, wrong: str = "", meant: Any = None, **options: Any) -> CellReport:
    weights = style(GATES[kind], **options)
    if isinstance(weights, nn.Module):
        step: Any = AsModule(CELLS[kind], weights, wrong)
    else:
        step = CELLS[kind](weights, wrong)
    return elman.check_cell(step, meant or kind)


# --- right cells --------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_right_cell_is_accepted_however_it_is_written(kind: str, style: type) -> None:
    if kind == "gru" and style is Side:
        pytest.skip("side by side the reset gate can only act on h")
    report = check(kind, style)
    assert report.holds, report.text
    assert report
    assert report.findings == ()
    assert report.notes == ()


@pytest.mark.parametrize("kind", CELLS)
def test_equal_sizes_of_x_and_h_are_no_shared_weight(kind: str) -> None:
    assert check(kind, Parameters, features=H)


@pytest.mark.parametrize("module", [nn, elman], ids=["torch.nn", "elman"])
def test_the_cells_of_libraries_are_what_they_are_called(module: Any) -> None:
    for name, kind in (("LSTMCell", "lstm"), ("GRUCell", "gru"), ("RNNCell", "rnn_tanh")):
        cell = getattr(module, name)(IN, H)
        assert elman.check_cell(cell, kind)
        assert elman.check_cell(cell, cell)
        report = elman.check_cell(cell, getattr(module, name)(IN, H))
        assert report.cause == "other_values"


def test_the_two_grus_of_elman_are_told_apart() -> None:
    before = elman.GRUCell(IN, H, reset_after=False)
    assert elman.check_cell(before, "gru_reset_before")
    assert elman.check_cell(before, "gru").cause == "reset_side"


def test_columns_vectors_and_packed_states_are_found() -> None:
    random = np.random.default_rng(0)
    w, u = random.normal(size=(H, IN)), random.normal(size=(H, H))
    b = random.normal(size=(H, 1))
    assert elman.check_cell(lambda x, h: np.tanh(w @ x + u.dot(h) + b), "rnn_tanh")
    flat = b[:, 0]
    report = elman.check_cell(lambda x, h: np.tanh(np.dot(w, x) + u @ h + flat), "rnn_tanh")
    assert report
    assert "one sequence at a time" in report.text
    both = Stacked("ifgo")

    def step(x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        h, c = lstm(both)(x, *state)
        return h, (h, c)

    assert elman.check_cell(step, "lstm")


def test_what_is_computed_out_of_sight_is_read_from_the_results() -> None:
    w, u = np.random.default_rng(0).normal(size=(2, 2, 2))

    def step(x: Any, h: Any) -> Any:
        rows = zip(x.tolist(), h.tolist(), strict=True)
        return np.array([np.tanh(w @ np.array(a) + u @ np.array(b)) for a, b in rows])

    assert elman.check_cell(step, "rnn_tanh")
    assert elman.check_cell(step, "rnn_relu").cause == "wrong_activation"


# --- wrong cells --------------------------------------------------------------------------------

MISTAKES = [
    *(("lstm", f"{gate} activation", "wrong_activation", gate) for gate in "ifgo"),
    ("lstm", "no activation", "wrong_activation", "g"),
    ("lstm", "coupled", "coupled_gates", "i"),
    ("lstm", "candidate alone", "candidate_not_multiplied", "i"),
    ("lstm", "gate alone", "candidate_not_multiplied", "g"),
    ("lstm", "no forget", "forget_missing", "f"),
    ("lstm", "no old c", "forget_missing", "f"),
    ("lstm", "tanh of c missing", "output_tanh_missing", "h"),
    ("lstm", "old c in h", "old_cell_in_output", "h"),
    ("lstm", "no output gate", "output_gate_missing", "o"),
    ("lstm", "swapped", "results_swapped", ""),
    ("lstm", "old h", "old_state_returned", "h"),
    ("lstm", "old c", "old_state_returned", "c"),
    ("gru", "r activation", "wrong_activation", "r"),
    ("gru", "z activation", "wrong_activation", "z"),
    ("gru", "n activation", "wrong_activation", "n"),
    ("gru", "reset before", "reset_side", "n"),
    ("gru", "reset on x", "reset_side", "n"),
    ("gru", "reset on both", "reset_side", "n"),
    ("gru", "no reset", "reset_unused", "r"),
    ("gru", "no update", "update_incomplete", "z"),
    ("gru", "swapped", "update_swapped", "z"),
    ("gru", "swapped otherwise", "update_swapped", "z"),
    ("gru", "no h", "update_incomplete", "z"),
    ("gru", "n whole", "update_incomplete", "z"),
    ("gru", "old h", "old_state_returned", "h"),
    ("rnn_tanh", "sigmoid", "wrong_activation", "h"),
    ("rnn_tanh", "relu", "wrong_activation", "h"),
    ("rnn_tanh", "none", "wrong_activation", "h"),
    ("rnn_tanh", "twice", "activation_twice", "h"),
    ("rnn_tanh", "no h", "h_unused", "h"),
    ("rnn_tanh", "no x", "x_unused", "h"),
    ("rnn_tanh", "old h", "old_state_returned", "h"),
    ("rnn_relu", "tanh", "wrong_activation", "h"),
    ("rnn_relu", "sigmoid", "wrong_activation", "h"),
]


@pytest.mark.parametrize("style", [PerGate, Parameters, Stacked, Arrays])
@pytest.mark.parametrize(("kind", "wrong", "cause", "gate"), MISTAKES)
def test_a_mistake_is_named(kind: str, wrong: str, cause: str, gate: str, style: type) -> None:
    report = check(kind, style, wrong)
    assert not report
    assert (report.cause, report.gate) == (cause, gate), report.text
    assert len(report.findings) == 1, report.text
    assert str(report) == report.text


@pytest.mark.parametrize("style", [PerGate, Parameters, Stacked, Arrays])
@pytest.mark.parametrize("kind", CELLS)
def test_one_linear_for_x_and_h_is_named(kind: str, style: type) -> None:
    report = check(kind, style, shared=True, features=H)
    assert report.cause == "shared_linear", report.text
    assert ", ".join(GATES[kind]) in report.text


@pytest.mark.parametrize("style", [PerGate, Parameters, Stacked, Side, Arrays])
@pytest.mark.parametrize("kind", ["lstm", "gru_reset_before"])
def test_one_weight_for_all_gates_is_named(kind: str, style: type) -> None:
    report = check(kind, style, same=True)
    assert report.cause == "shared_gates", report.text


@pytest.mark.parametrize("style", [PerGate, Parameters, Side, Arrays])
@pytest.mark.parametrize(
    ("kind", "gate"), [("lstm", "o"), ("lstm", "f"), ("gru_reset_before", "z")]
)
def test_a_missing_bias_is_named(kind: str, gate: str, style: type) -> None:
    report = check(kind, style, unbiased=gate)
    assert (report.cause, report.gate) == ("missing_bias", gate), report.text
    assert f"b_{gate}" in report.text


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_without_any_bias_is_one_with_bias_false(kind: str) -> None:
    report = check(kind, PerGate, unbiased=GATES[kind])
    assert report
    assert "bias=False" in report.text


def test_the_bias_inside_the_reset_product_is_looked_for() -> None:
    class OneBias(nn.Module):
        def __init__(self, inside: bool) -> None:
            super().__init__()
            self.of_x = nn.Linear(IN, 3 * H, bias=not inside)
            self.of_h = nn.Linear(H, 3 * H, bias=inside)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            xr, xz, xn = self.of_x(x).chunk(3, -1)
            hr, hz, hn = self.of_h(h).chunk(3, -1)
            n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            z = torch.sigmoid(xz + hz)
            return (1 - z) * n + z * h

    for inside, name in ((False, "b_hn"), (True, "b_in")):
        report = elman.check_cell(OneBias(inside), "gru")
        assert (report.cause, report.gate) == ("missing_bias", "n")
        assert name in report.text


def test_zeros_that_wait_for_training_are_no_mistake() -> None:
    arrays = Arrays("ifgo")
    for name in arrays.p:
        if name[0] in "bc":
            arrays.p[name][:] = 1 if name == "bf" else 0
    report = elman.check_cell(lstm(arrays), "lstm")
    assert report
    assert "b_i, b_g, b_o" in report.text


def test_a_cell_state_that_enters_a_gate_is_named() -> None:
    w, peep = PerGate("ifgo"), torch.randn(H)

    def step(x: Tensor, h: Tensor, c: Tensor) -> Any:
        i, f = (torch.sigmoid(w.both(gate, x, h)) for gate in "if")
        after = f * c + i * torch.tanh(w.both("g", x, h))
        o = torch.sigmoid(w.both("o", x, h) + peep * c)
        return o * torch.tanh(after), after

    report = elman.check_cell(step, "lstm", input_size=IN, hidden_size=H)
    assert (report.cause, report.gate) == ("peephole", "o")


@pytest.mark.parametrize(
    "mix",
    [
        lambda value: torch.softmax(value, dim=0),
        lambda value: value.sum(dim=0, keepdim=True).expand_as(value),
        lambda value: value.flatten().reshape(value.shape[1], value.shape[0]).T.contiguous(),
    ],
)
def test_a_batch_axis_that_is_mixed_is_named(mix: Callable[[Tensor], Tensor]) -> None:
    class Mixed(PerGate):
        def both(self, gate: str, x: Tensor, h: Tensor) -> Tensor:
            return mix(super().both(gate, x, h))

    for kind in ("lstm", "gru", "rnn_tanh"):
        assert check(kind, Mixed).cause == "batch_axis"


# --- with the weights of a module ---------------------------------------------------------------


def written(module: Any, order: str, leave: str = "", transposed: bool = False) -> Any:
    """A step by hand with a module's own weights, its rows read in an order."""

    def wide(x: Tensor, h: Tensor) -> Tensor:
        of_h = module.weight_hh.T
        if transposed:
            of_h = torch.cat([block.T for block in of_h.chunk(len(order), 1)], 1)
        total = x @ module.weight_ih.T + h @ of_h
        for name in ("bias_ih", "bias_hh"):
            if name not in leave:
                total = total + getattr(module, name)
        return total

    def step(x: Tensor, h: Tensor, c: Tensor) -> Any:
        by = dict(zip(order, wide(x, h).chunk(4, -1), strict=True))
        after = by["f"].sigmoid() * c + by["i"].sigmoid() * by["g"].tanh()
        return by["o"].sigmoid() * after.tanh(), after

    def rnn(x: Tensor, h: Tensor) -> Any:
        return torch.tanh(wide(x, h))

    return step if len(order) == 4 else rnn


@pytest.mark.parametrize("nn_", [nn, elman], ids=["torch.nn", "elman"])
def test_a_step_with_the_weights_of_a_module_is_compared_in_values(nn_: Any) -> None:
    cell = nn_.LSTMCell(IN, H)
    assert elman.check_cell(written(cell, "ifgo"), cell)
    for order, gate in (("figo", "i"), ("ifog", "g"), ("igfo", "f")):
        report = elman.check_cell(written(cell, order), cell)
        assert (report.cause, report.gate) == ("gate_order", gate), report.text
        assert "i, f, g, o" in report.text
    for leave in ("bias_ih", "bias_hh", "bias_ih, bias_hh"):
        report = elman.check_cell(written(cell, "ifgo", leave), cell)
        assert (report.cause, report.gate) == ("missing_bias", "i"), report.text
        assert f"missing: {leave}." in report.text
    report = elman.check_cell(written(cell, "ifgo", transposed=True), cell)
    assert report.cause == "transposed", report.text


def test_the_first_layer_of_a_layer_is_compared() -> None:
    layer = elman.RNN(IN, H, num_layers=2, bidirectional=True)
    cell = elman.RNNCell(IN, H)
    cell.load_state_dict({name: getattr(layer, f"{name}_l0") for name in cell.state_dict()})
    assert elman.check_cell(written(cell, "h"), layer)
    assert elman.check_cell(written(cell, "h", "bias_hh"), layer).cause == "missing_bias"


def test_gates_of_a_gru_in_the_order_of_keras_are_named() -> None:
    cell = nn.GRUCell(IN, H)

    def step(x: Tensor, h: Tensor) -> Tensor:
        xz, xr, xn = nn.functional.linear(x, cell.weight_ih, cell.bias_ih).chunk(3, -1)
        hz, hr, hn = nn.functional.linear(h, cell.weight_hh, cell.bias_hh).chunk(3, -1)
        n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        z = torch.sigmoid(xz + hz)
        return (1 - z) * n + z * h

    report = elman.check_cell(step, cell)
    assert (report.cause, report.gate) == ("gate_order", "r"), report.text
    assert "r, z, n" in report.text


# --- the notes of learners ----------------------------------------------------------------------


class SharedAndSigmoid(nn.Module):
    """An LSTM whose gates share one Linear for x and h and whose candidate uses sigmoid."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.forget = nn.Linear(size, size)
        self.input = nn.Linear(size, size)
        self.cell = nn.Linear(size, size)
        self.output = nn.Linear(size, size)
        self.sigmoid, self.tanh = nn.Sigmoid(), nn.Tanh()

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> Any:
        forget = self.sigmoid(self.forget(x) + self.forget(hidden))
        gate = self.sigmoid(self.input(x) + self.input(hidden))
        candidate = self.sigmoid(self.cell(x) + self.cell(hidden))
        cell = forget * cell + gate * candidate
        output = self.sigmoid(self.output(x) + self.output(hidden))
        return output * self.tanh(cell), cell


def test_the_lstm_of_a_learner_has_both_mistakes_named() -> None:
    report = elman.check_cell(SharedAndSigmoid(4), "lstm")
    assert [finding.key for finding in report.findings] == ["shared_linear", "wrong_activation"]
    assert "x and h share one weight (gates: i, f, g, o)" in report.text
    assert "g: the activation is sigmoid where tanh belongs" in report.text


def test_the_lstm_of_a_learner_behind_an_embedding_has_both_mistakes_named() -> None:
    embedding, model = nn.Embedding(4, 4), SharedAndSigmoid(4)
    hidden = embedding(torch.tensor([[0], [1]]))[0]  # computed once, outside the loop
    assert hidden.requires_grad

    def step(x: Tensor, state: Any) -> Any:
        hidden, cell = state
        return model.double()(x, hidden, cell)

    report = elman.check_cell(step, "lstm")
    assert {finding.key for finding in report.findings} == {"shared_linear", "wrong_activation"}


# --- what is left as it was, and what is refused ------------------------------------------------


def test_nothing_of_the_caller_changes() -> None:
    module = SharedAndSigmoid(4).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    elman.check_cell(module, "lstm")
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert module.training
    assert all(parameter.dtype is torch.float32 for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_wrong_arguments_are_refused_in_one_sentence() -> None:
    with pytest.raises(KindError, match=r"kind must be one of 'lstm', .* got 'lstn'"):
        elman.check_cell(lstm(PerGate("ifgo")), "lstn")
    with pytest.raises(KindError, match="got Linear"):
        elman.check_cell(lstm(PerGate("ifgo")), nn.Linear(2, 2))
    with pytest.raises(KindError, match="step must be a function or a module"):
        elman.check_cell(3, "lstm")
    with pytest.raises(ShapeError, match="no projection, got proj_size=2"):
        elman.check_cell(lstm(PerGate("ifgo")), nn.LSTM(3, 4, proj_size=2))

    def step(x: Any, h: Any) -> Any:
        raise NotImplementedError("no")

    with pytest.raises(ShapeError, match=r"x \(N, input_size\) and h, .* NotImplementedError: no"):
        elman.check_cell(step, "gru", input_size=2, hidden_size=3)
    with pytest.raises(ShapeError, match="say input_size= and hidden_size="):
        elman.check_cell(lambda x, h: None, "gru")


def test_the_diagnosis_is_the_same_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    report = check("lstm", PerGate, "g activation")
    monkeypatch.setattr(language, "_chosen", "zh")
    again = check("lstm", PerGate, "g activation")
    assert [(f.key, f.gate) for f in again.findings] == [(f.key, f.gate) for f in report.findings]
    assert "g\uff1a" in again.text
    assert "sigmoid" in again.text
    assert "tanh" in again.text


@pytest.mark.parametrize("library", [elman, nn])
@pytest.mark.parametrize(("module", "kind"), [("GRUCell", "lstm"), ("LSTMCell", "gru")])
def test_a_module_of_a_cell_with_other_states_is_refused(
    library: Any, module: str, kind: str
) -> None:
    with pytest.raises(ShapeError, match=f"step must have the states of {kind.upper()}.*{module}"):
        elman.check_cell(getattr(library, module)(3, 4), kind)
