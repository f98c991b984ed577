"""Inside a call: sequences that start anew, every state, every gate, against pieces and loops."""

import copy
import itertools
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from conftest import medium
from torch import Tensor

import elman
from elman import core, ops, reference
from elman.cells import MORE_CELLS
from elman.nn.layers import Layer
from elman.shapes import KindError, ShapeError

L, N, F, H = 9, 4, 3, 5
KINDS: dict[str, dict[str, Any]] = {
    "RNN": {},
    "LSTM": {},
    "GRU": {},
    "RNN, relu": {"nonlinearity": "relu"},
    "GRU, reset before": {"reset_after": False},
    "LSTM, projected": {"proj_size": 2},
}
# Each option with each other, of which one call may have several.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layers": {"num_layers": 3},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "float32": {"dtype": torch.float32},
}


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"dtype": torch.float64, **KINDS[kind], **options}
    return getattr(elman, kind.split(",")[0])(F, H, **given)


def tensors(layer: Layer, hx: bool, lengths: bool, reset_to: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    dtype = next(layer.parameters()).dtype
    x = torch.randn(L, N, F, dtype=dtype, requires_grad=True)
    mask = torch.rand(L, N) < 0.3
    mask[0, 0], mask[1, 0], mask[:, 3] = True, True, False  # at the start, twice in a row, never
    call: dict[str, Any] = {"input": x, "reset": mask}

    def state(*outer: int) -> Any:
        made = [
            torch.randn(*outer, width, dtype=dtype, requires_grad=True)
            for width in layer._state_widths
        ]
        return made[0] if len(made) == 1 else tuple(made)

    if hx:
        call["hx"] = state(layer.num_layers, N)
    if lengths:
        call["lengths"] = [9, 0, 4, 7]
    if reset_to:
        call["reset_to"] = state(layer.num_layers)
    return call


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in flat(part)]
    return [value] if isinstance(value, Tensor) and value.is_floating_point() else []


def run(layer: Layer, call: dict[str, Any]) -> Any:
    """The layer's answer, time-major, whatever its layout."""
    if not layer.batch_first:
        return layer(**call)
    given = {**call, "input": call["input"].transpose(0, 1), "reset": call["reset"].T}
    output, state = layer(**given)
    return output.transpose(0, 1), state


def in_pieces(layer: Layer, call: dict[str, Any]) -> Any:
    """The same, a sequence and a piece of it at a time."""
    plain = make_like(layer)
    x, mask = call["input"], call["reset"]
    outputs, finals = [], []
    for n in range(N):
        length = call["lengths"][n] if "lengths" in call else L
        start = [torch.zeros(layer.num_layers, w, dtype=x.dtype) for w in layer._state_widths]
        fresh = flat(call["reset_to"]) if "reset_to" in call else start
        state = [s[:, n] for s in flat(call["hx"])] if "hx" in call else start
        pieces = [torch.zeros(0, layer._state_widths[0], dtype=x.dtype)]
        cuts = [t for t in range(length) if mask[t, n]]
        for begin, end in itertools.pairwise(sorted({0, *cuts, length})):
            if begin in cuts:
                state = fresh
            given = tuple(s.contiguous() for s in state)
            piece, after = plain(x[begin:end, n], given if len(given) > 1 else given[0])
            pieces.append(piece)
            state = flat(after)
        pieces.append(torch.zeros(L - length, layer._state_widths[0], dtype=x.dtype))
        outputs.append(torch.cat(pieces))
        finals.append(state)
    states = [torch.stack(parts, 1) for parts in zip(*finals, strict=True)]
    return torch.stack(outputs, 1), tuple(states)


def make_like(layer: Layer) -> Layer:
    """The layer with the same parameters, time-major."""
    if not layer.batch_first:
        return layer
    other = copy.copy(layer)
    other.batch_first = False
    return other


def compare(ours: Any, theirs: Any, wanted: list[Tensor], bits: bool) -> None:
    torch.manual_seed(2)
    ours, theirs = flat(ours), flat(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if bits:
            assert torch.equal(a, b)
        torch.testing.assert_close(a, b)
    upstream = [torch.randn_like(a) for a in ours]
    found = torch.autograd.grad(ours, wanted, upstream, allow_unused=True)
    expected = torch.autograd.grad(theirs, wanted, upstream, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        zeros = torch.zeros(())
        torch.testing.assert_close(zeros if a is None else a, zeros if b is None else b)


def wanted(layer: Layer, call: dict[str, Any]) -> list[Tensor]:
    return [*layer.parameters(), *(t for t in flat(call) if t.requires_grad)]


# --- resets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_is_a_call_of_each_piece(kind: str, option: str, call: Any) -> None:
    layer = make(kind, **OPTIONS[option])
    given = tensors(layer, *call)
    compare(run(layer, given), in_pieces(layer, given), wanted(layer, given), bits=True)


@pytest.mark.parametrize("kind", KINDS)
def test_resets_have_the_same_bits_for_any_threads(kind: str) -> None:
    layer = make(kind, num_layers=2, dtype=torch.float32)
    torch.manual_seed(3)
    x, mask = torch.randn(60, 33, F), torch.rand(60, 33) < 0.1
    to = [torch.randn(2, w, requires_grad=True) for w in layer._state_widths]
    given = tuple(to) if len(to) > 1 else to[0]
    found = []
    for threads in (1, 2, 5):
        elman.set_num_threads(threads)
        output, _ = layer(x, reset=mask, reset_to=given)
        found.append([output, *torch.autograd.grad(output.sum(), [*layer.parameters(), *to])])
    elman.set_num_threads(None)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_flows_past_a_reset(kind: str) -> None:
    layer = make(kind, num_layers=2)
    x = torch.randn(6, 2, F, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(6, 2)
    mask[3, 0] = 1
    output, _ = layer(x, reset=mask)
    output[3:].sum().backward()
    assert x.grad is not None
    assert not x.grad[:3, 0].any()
    assert x.grad[:3, 1].abs().sum(-1).all()


def test_every_row_may_start_anew_at_once_and_one_row_alone_may() -> None:
    for batch in (1, 3):
        layer = make("LSTM")
        x = torch.randn(6, batch, F, dtype=torch.float64)
        mask = torch.zeros(6, batch, dtype=torch.bool)
        mask[4] = True
        output, (h_n, c_n) = layer(x, reset=mask)
        tail, (h, c) = layer(x[4:])
        assert torch.equal(output[4:], tail)
        assert torch.equal(h_n, h)
        assert torch.equal(c_n, c)  # both of the states, not h alone


def test_a_reset_at_the_first_step_replaces_the_given_state() -> None:
    layer = make("GRU")
    x, h = torch.randn(3, 2, F, dtype=torch.float64), torch.randn(1, 2, H, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    output, _ = layer(x, h, reset=mask)
    assert torch.equal(output[:, 0], layer(x)[0][:, 0])
    assert torch.equal(output[:, 1], layer(x, h)[0][:, 1])


def test_truncation_and_resets_go_together() -> None:
    layer = make("LSTM", num_layers=2)
    x, mask = torch.randn(12, 3, F, dtype=torch.float64), torch.rand(12, 3) < 0.2
    state, outputs = None, []
    for start in (0, 5, 6):
        end = {0: 5, 5: 6, 6: 12}[start]
        output, state = layer(x[start:end], state, reset=mask[start:end])
        outputs.append(output)
    assert torch.equal(torch.cat(outputs), layer(x, reset=mask)[0])


def test_burn_in_leaves_no_gradient_and_the_right_state() -> None:
    layer = make("LSTM", num_layers=2)
    x = torch.randn(8, 3, F, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(8, 3) < 0.2
    state = layer.burn_in(x[:3], reset=mask[:3])
    assert not any(s.requires_grad for s in state)
    output, _ = layer(x[3:], state, reset=mask[3:])
    assert torch.equal(output, layer(x, reset=mask)[0][3:])
    output.sum().backward()
    assert x.grad is not None
    assert not x.grad[:3].any()
    assert x.grad[3:].any()


@pytest.mark.parametrize("name", MORE_CELLS)
def test_resets_work_for_other_cells(name: str) -> None:
    layer = elman.Recurrent(name, F, H, num_layers=2).double()
    x = torch.randn(6, 2, F, dtype=torch.float64)
    mask = torch.zeros(6, 2, dtype=torch.bool)
    mask[2, 0] = True
    output, _ = layer(x, reset=mask)
    torch.testing.assert_close(output[2:, 0], layer(x[2:, 0])[0])
    torch.testing.assert_close(output[:, 1], layer(x[:, 1])[0])
    states = layer.states(x, reset=mask)
    assert list(states) == list(layer.cell.states)
    torch.testing.assert_close(states["h"][-1, 0], output)


def test_samples_have_gradients_and_graphs_are_made_with_resets() -> None:
    layer = make("LSTM", batch_first=True)
    x, mask = torch.randn(N, L, F, dtype=torch.float64), torch.rand(N, L) < 0.3
    expected = layer(x, reset=mask)[0]

    def loss(parameters: dict[str, Tensor], x: Tensor, mask: Tensor) -> Tensor:
        given = (x[None],), {"reset": mask[None]}
        return torch.func.functional_call(layer, parameters, *given)[0].square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    together = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, mask)
    for n in range(N):
        alone = torch.func.grad(loss)(parameters, x[n], mask[n])
        for name in parameters:
            torch.testing.assert_close(together[name][n], alone[name])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, reset=mask)[0], expected)
        program = torch.export.export(layer, (x,), {"reset": mask})
        torch.testing.assert_close(program.module()(x, reset=mask)[0], expected)


def test_second_derivatives_of_a_call_with_resets() -> None:
    layer = make("LSTM")
    x = torch.randn(4, 2, F, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0]])
    to = tuple(torch.randn(1, H, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def call(x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        inside = elman.gates(layer, x, reset=mask, reset_to=(h, c))
        return inside["f"].sum() + inside["c"].square().sum() + inside["h"].sum()

    assert torch.autograd.gradcheck(call, (x, *to))
    assert torch.autograd.gradgradcheck(call, (x, *to))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_is_computed_wide(dtype: torch.dtype) -> None:
    layer = make("LSTM").to(dtype)
    x, mask = torch.randn(L, N, F, dtype=dtype), torch.rand(L, N) < 0.3
    to = tuple(torch.randn(1, H, dtype=dtype) for _ in range(2))
    output, _ = layer(x, reset=mask, reset_to=to)
    with medium(dtype is torch.bfloat16):
        wide, _ = layer.float()(x.float(), reset=mask, reset_to=tuple(t.float() for t in to))
    assert torch.equal(output, wide.to(dtype))
    inside = elman.gates(layer.to(dtype), x, reset=mask)
    assert all(value.dtype is dtype for value in inside.values())


@pytest.mark.parametrize(
    ("options", "call", "error", "says"),
    [
        ({"bidirectional": True}, {}, ShapeError, "None for two directions"),
        ({}, {"reset": torch.zeros(N, L)}, ShapeError, r"\(L, N\) = \(9, 4\), one for each"),
        ({"batch_first": True}, {}, ShapeError, r"\(N, L\) = \(9, 4\)"),
        ({}, {"reset": torch.full((L, N), 2)}, ShapeError, "0 and 1, got other numbers"),
        ({}, {"reset": torch.full((L, N), torch.nan)}, ShapeError, "0 and 1, got other numbers"),
        ({}, {"reset": "done"}, KindError, "tensor of bool, got str"),
        ({}, {"reset": None, "reset_to": torch.zeros(1, H)}, KindError, "must come with reset"),
        ({}, {"reset_to": torch.zeros(1, H)}, KindError, "reset_to must be a pair of tensors"),
        ({}, {"reset_to": (torch.zeros(1, N, H),) * 2}, KindError, "without a batch axis"),
        ({}, {"reset_to": (torch.zeros(2, H),) * 2}, ShapeError, r"h_0 of reset_to must be \(num"),
    ],
)
def test_a_wrong_reset_is_refused(
    options: dict[str, Any], call: dict[str, Any], error: type[Exception], says: str
) -> None:
    layer = make("LSTM", dtype=torch.float32, **options)
    given = {"reset": torch.zeros(L, N, dtype=torch.bool), **call}
    if options.get("batch_first"):
        given["reset"] = torch.zeros(N, L)
    with pytest.raises(error, match=says):
        layer(torch.zeros(L, N, F), **given)


def test_packed_and_nested_input_take_no_resets() -> None:
    layer = make("LSTM", dtype=torch.float32)
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, F)])
    with pytest.raises(KindError, match="reset must be None for a PackedSequence"):
        layer(packed, reset=torch.zeros(3, 1))
    for tell in (layer.states, lambda x: elman.gates(layer, x)):
        with pytest.raises(KindError, match="padded tensor here, got PackedSequence"):
            tell(packed)


# --- states and gates -------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_core_tells_what_the_reference_tells(
    kind: str, option: str, bidirectional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not core._compiled:
        pytest.skip("needs the native core")
    layer = make(kind, bidirectional=bidirectional, **OPTIONS[option])
    x = torch.randn(L, N, F, dtype=next(layer.parameters()).dtype, requires_grad=True)
    given = x.transpose(0, 1) if layer.batch_first else x
    ours = elman.gates(layer, given, lengths=[9, 0, 4, 7])
    monkeypatch.setattr(ops, "inside", reference.inside)
    theirs = elman.gates(layer, given, lengths=[9, 0, 4, 7])
    assert list(ours) == list(theirs) == list(dict.fromkeys(layer._cell.gates + layer._cell.states))
    compare(ours, theirs, [x, *layer.parameters()], bits=False)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_what_a_call_of_each_length_ends_with(kind: str) -> None:
    layer = make(kind, num_layers=2, bidirectional=True)
    x = torch.randn(L, N, F, dtype=torch.float64)
    states = layer.states(x)
    layers_up = layer(x)[0].unflatten(-1, (2, -1)).movedim(2, 0)
    assert torch.equal(states["h"][-1], layers_up)
    one = make(kind, bidirectional=True)
    found = one.states(x)
    for t in range(L):
        ends = flat(one(x[: t + 1])[1])
        starts = flat(one(x[t:])[1])
        for letter, end, start in zip(found, ends, starts, strict=True):
            assert torch.equal(found[letter][0, 0, t], end[0])  # forwards, after step t
            assert torch.equal(found[letter][0, 1, t], start[1])  # backwards, likewise


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layouts_of_states(kind: str) -> None:
    layer = make(kind, num_layers=2, batch_first=True)
    x = torch.randn(N, L, F, dtype=torch.float64)
    for call in (layer.states, partial(elman.gates, layer)):
        values, alone = call(x), call(x[1])
        assert {tuple(v.shape) for v in values.values()} == {(2, 1, N, L, H)}
        assert list(values) == list(alone)
        assert all(torch.equal(alone[k], v[:, :, 1]) for k, v in values.items())


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_gates_of_torchs_layers(kind: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(F, H, num_layers=2)
    x = torch.randn(L, N, F)
    inside = elman.gates(theirs, x)
    torch.testing.assert_close(inside["h"][-1, 0], theirs(x)[0])
    assert type(theirs) is getattr(torch.nn, kind)
    inside["h"].sum().backward()
    assert theirs.weight_hh_l0.grad is not None


def test_the_gates_of_a_cell_of_ones_own_are_those_it_tells() -> None:
    def values(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        return (m.sigmoid(gx + gh),)

    def step(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        (z,) = values(m, gx, gh, state)
        return z * state[0] + 1

    x = torch.randn(L, N, F)
    told = elman.Recurrent(elman.cell(gates="z", values=values)(step), F, H)
    assert list(elman.gates(told, x)) == ["z", "h"]
    silent = elman.Recurrent(elman.cell(gates="z")(step), F, H)
    with pytest.raises(KindError, match="the cell step does not tell its gates"):
        elman.gates(silent, x)
    assert list(silent.states(x)) == ["h"]
    with pytest.raises(KindError, match="must be an RNN, LSTM or GRU, got Linear"):
        elman.gates(torch.nn.Linear(2, 3), x)


def test_a_gate_with_the_name_of_a_state_is_that_state() -> None:
    def values(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        return (m.sigmoid(m.split(gx + gh, 2)[0]),)

    @elman.cell(gates="zh", values=values)
    def leaky(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        (z,) = values(m, gx, gh, state)
        return (1 - z) * state[0] + z * m.tanh(m.split(gx + gh, 2)[1])

    layer, x = elman.Recurrent(leaky, F, H), torch.randn(L, N, F)
    inside = elman.gates(layer, x)
    assert list(inside) == ["z", "h"]
    assert torch.equal(inside["h"][0, 0], layer(x)[0])
    assert (inside["z"] != inside["h"]).any()


def test_a_gate_that_is_changed_in_place_is_no_silent_wrong_gradient() -> None:
    layer = make("LSTM")
    x = torch.randn(L, N, F, dtype=torch.float64, requires_grad=True)
    inside = elman.gates(layer, x)
    inside["f"].mul_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        inside["h"].sum().backward()


def test_what_autocast_has_lowered_may_be_reset_to() -> None:
    layer, x = make("LSTM", dtype=torch.float32), torch.randn(L, N, F)
    mask = torch.rand(L, N) < 0.3
    to = tuple(torch.randn(1, H, dtype=torch.bfloat16) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x, lengths=[9, 0, 4, 7], reset=mask, reset_to=to)
        states = layer.states(x, lengths=[9, 0, 4, 7], reset=mask, reset_to=to)
    wide = tuple(t.float() for t in to)
    with medium():
        expected, _ = layer(x, lengths=[9, 0, 4, 7], reset=mask, reset_to=wide)
    assert torch.equal(output, expected.bfloat16())
    assert torch.equal(states["h"][0, 0], expected)


def test_autocast_leaves_states_in_the_dtype_of_the_weights() -> None:
    layer = make("LSTM", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        of_inputs = [
            layer.states(torch.randn(L, N, F).to(d)) for d in (torch.float32, torch.bfloat16)
        ]
    assert all(s.dtype is torch.float32 for states in of_inputs for s in states.values())
