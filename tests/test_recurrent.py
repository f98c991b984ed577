"""Layers of any cell: each from the equations of its paper, and what holds for all of them."""

import copy
import importlib.util
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman.cells import CELLS, MORE_CELLS, Cell
from elman.shapes import KindError, ShapeError

L, N, F, H = 7, 3, 4, 6
LENGTHS = [7, 0, 4]


@elman.cell(gates="zn")
def leaky(m: Any, gx: Any, gh: Any, state: Any) -> Any:
    """A cell of one's own, in a few lines."""
    z, n = m.split(gx + gh, 2)
    z = m.sigmoid(z)
    return (1 - z) * state[0] + z * m.tanh(n)


OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in (*MORE_CELLS, "lstm", "gru_reset_before")},
    **{f"{name}, 3 heads": {"heads": 3} for name in ("slstm", "ligru", "lstm", "leaky")},
    "leaky": {},
}


def make(option: str, **further: Any) -> elman.Recurrent:
    name = option.split(",")[0]
    cell = leaky if name == "leaky" else name
    torch.manual_seed(0)
    layer = elman.Recurrent(cell, F, H, **OPTIONS[option], **further)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return layer.double()


def given(layer: elman.Recurrent) -> tuple[Tensor, Any]:
    torch.manual_seed(1)
    rows = layer.num_layers * (1 + layer.bidirectional)
    states = [torch.randn(rows, N, H, dtype=torch.float64) for _ in layer.cell.states]
    if layer.cell is MORE_CELLS["slstm"]:
        states[2] = states[2].abs() + 1  # n, over exp(m)
    return torch.randn(L, N, F, dtype=torch.float64), tuple(states) if len(states) > 1 else states[
        0
    ]


def flat(results: Any) -> list[Tensor]:
    output, states = results
    return [output, *(states if isinstance(states, tuple) else (states,))]


@pytest.fixture(params=OPTIONS)
def option(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- from the equations of the papers ---------------------------------------------------------


def blocks(w: Tensor, gates: int) -> list[Tensor]:
    return list(w.chunk(gates))


def slstm(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Without the stabiliser: c and n themselves, which are what is kept times exp(m)."""
    h, c, n, m = state
    a = [
        wi @ x + ri @ h + bi + bh
        for wi, ri, bi, bh in zip(*(blocks(p[k], 4) for k in ORDER), strict=True)
    ]
    c, n = c * m.exp(), n * m.exp()
    i, f = a[0].exp(), a[1].sigmoid()
    c = f * c + i * a[2].tanh()
    n = f * n + i
    m = torch.maximum(f.log() + m, a[0])
    return [a[3].sigmoid() * c / n, c / m.exp(), n / m.exp(), m]


def indrnn(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    return [(p["weight_ih"] @ x + p["bias_ih"] + p["u"] * state[0]).clamp(min=0)]


def mingru(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    z, n = (p["weight_ih"] @ x + p["bias_ih"]).chunk(2)
    return [(1 - z.sigmoid()) * state[0] + z.sigmoid() * n]


def minlstm(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    f, i, n = (p["weight_ih"] @ x + p["bias_ih"]).chunk(3)
    f, i = f.sigmoid(), i.sigmoid()
    return [f / (f + i) * state[0] + i / (f + i) * n]


def sru(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    t, f, r, k = (p["weight_ih"] @ x + p["bias_ih"]).chunk(4)
    f, r = (f + p["v_f"] * state[1]).sigmoid(), (r + p["v_r"] * state[1]).sigmoid()
    c = f * state[1] + (1 - f) * t
    return [r * c + (1 - r) * k, c]


def ligru(p: dict[str, Tensor], x: Tensor, state: list[Tensor]) -> list[Tensor]:
    gx = p["weight_ih"] @ x
    gx = (gx - gx.mean()) / (gx.var(correction=0) + 1e-5).sqrt() * p["gain_ih"] + p["bias_ih"]
    z, n = (gx + p["weight_hh"] @ state[0] + p["bias_hh"]).chunk(2)
    z, n = z.sigmoid(), n.clamp(min=0)
    return [z * state[0] + (1 - z) * n]


ORDER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
PAPERS: dict[str, Callable[..., list[Tensor]]] = {
    f.__name__: f for f in (slstm, indrnn, mingru, minlstm, sru, ligru)
}


@pytest.mark.parametrize("name", MORE_CELLS)
def test_a_cell_is_that_of_its_paper(name: str) -> None:
    layer = make(name)
    x, hx = given(layer)
    parameters = {n.removesuffix("_l0"): p for n, p in layer.named_parameters()}
    states = [s[0] for s in (hx if isinstance(hx, tuple) else (hx,))]
    outputs, finals = [], []
    for n in range(N):
        state = [s[n] for s in states]
        outputs.append([])
        for t in range(L):
            state = PAPERS[name](parameters, x[t, n], state)
            outputs[-1].append(state[0])
        finals.append(state)
    by_hand = [torch.stack([torch.stack(o) for o in outputs], 1)]
    by_hand += [torch.stack(s)[None] for s in zip(*finals, strict=True)]
    results = flat(layer(x, hx))
    upstream = [torch.randn_like(r) for r in results]
    wanted = list(layer.parameters())
    theirs = torch.autograd.grad(by_hand, wanted, upstream)
    for ours, expected in zip(results, by_hand, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for ours, expected in zip(torch.autograd.grad(results, wanted, upstream), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)


def test_heads_are_a_block_diagonal_matrix() -> None:
    for option in OPTIONS:
        if "heads" not in option:
            continue
        cut, (x, hx) = make(option), given(make(option))
        gates, heads, width = len(cut.cell.gates), cut.heads, H // cut.heads
        whole = elman.Recurrent(cut.cell, F, H).double()
        weights = dict(cut.state_dict())
        full = torch.zeros(gates, H, H, dtype=torch.float64)
        for gate in range(gates):
            for head in range(heads):
                at = slice(head * width, (head + 1) * width)
                full[gate, at, at] = weights["weight_hh_l0"][gate * H :][at]
        weights["weight_hh_l0"] = full.flatten(0, 1)
        whole.load_state_dict(weights)
        for ours, expected in zip(flat(cut(x, hx)), flat(whole(x, hx)), strict=True):
            torch.testing.assert_close(ours, expected)


def test_a_new_row_of_an_slstm_does_not_depend_on_an_old_one() -> None:
    layer = elman.Recurrent("slstm", 1, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_ih_l0[:2] = 1.0  # the input gate's logarithm is the input
    old = torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.zeros(1, 1, 2)
    both = tuple(torch.cat((s, torch.zeros_like(s)), 1) for s in old)
    x = torch.full((3, 2, 1), -120.0, requires_grad=True)
    output, _ = layer(x, both)
    alone, _ = layer(x[:, 1:])
    assert torch.equal(output[:, 1:], alone)
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# --- what holds for every cell ----------------------------------------------------------------


def test_lengths_are_sequences_alone(option: str) -> None:
    layer = make(option, num_layers=2, bidirectional=True)
    x, hx = given(layer)
    states = hx if isinstance(hx, tuple) else (hx,)
    output, *finals = flat(layer(x, hx, lengths=LENGTHS))
    for n, length in enumerate(LENGTHS):
        assert not output[length:, n].any()
        if length == 0:
            expected = [output[:0, n], *(s[:, n] for s in states)]
        else:
            alone = tuple(s[:, n].contiguous() for s in states)
            expected = flat(layer(x[:length, n], alone if len(alone) > 1 else alone[0]))
        for ours, theirs in zip(
            (output[:length, n], *(f[:, n] for f in finals)), expected, strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_packed_input_is_padded_input(option: str) -> None:
    layer = make(option, bidirectional=True)
    x, hx = given(layer)
    lengths = [5, 7, 2]
    padded = flat(layer(x, hx, lengths=lengths))
    packed, states = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False), hx)
    for ours, theirs in zip(flat((pad_packed_sequence(packed)[0], states)), padded, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_state_goes_on_where_a_call_ended(option: str) -> None:
    layer = make(option, num_layers=2)
    x, hx = given(layer)
    first, state = layer(x[:3], hx)
    second, state = layer(x[3:], state)
    for ours, theirs in zip(
        flat((torch.cat((first, second)), state)), flat(layer(x, hx)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_carry_keeps_the_state(option: str) -> None:
    layer = make(option, num_layers=2)
    x, _ = given(layer)
    carry = elman.Carry(layer)
    pieces = torch.cat([carry(x[:3])[0], carry(x[3:])[0]])
    torch.testing.assert_close(pieces, layer(x)[0])


def test_a_copy_is_the_same_layer(option: str) -> None:
    layer = make(option, num_layers=2, bidirectional=True, batch_first=True)
    x, _ = given(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.cell is layer.cell
        assert torch.equal(other(x.transpose(0, 1))[0], layer(x.transpose(0, 1))[0])
        assert repr(other) == repr(layer)
    other = make(option, num_layers=2, bidirectional=True)
    assert list(other.state_dict()) == list(layer.state_dict())


def test_gradients_of_each_sample(option: str) -> None:
    layer = make(option)
    x, _ = given(layer)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (sample[:, None],))[0].square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    together = torch.func.vmap(torch.func.grad(loss), (None, 1))(parameters, x)
    for n in range(N):
        alone = torch.func.grad(loss)(parameters, x[:, n])
        for name in parameters:
            torch.testing.assert_close(together[name][n], alone[name])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_onnx_files_compute_the_same(option: str, bidirectional: bool, tmp_path: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = make(option, num_layers=2, bidirectional=bidirectional).float()
    x, hx = given(layer)
    path = str(tmp_path / "layer.onnx")
    elman.onnx.export(layer, path)
    session = onnxruntime.InferenceSession(path)
    states = [s.float() for s in (hx if isinstance(hx, tuple) else (hx,))]
    lengths = [7, 1, 4]
    feeds = {"input": x.float().numpy(), "sequence_lens": np.array(lengths, np.int32)}
    for letter, state in zip(layer.cell.states, states, strict=True):
        feeds[f"initial_{letter}"] = state.numpy()
    hx = tuple(states) if len(states) > 1 else states[0]
    ours = flat(layer(x.float(), hx, lengths=lengths))
    for result, expected in zip(session.run(None, feeds), ours, strict=True):
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-5, atol=1e-5)


def test_a_cell_of_torch_is_computed_by_the_core() -> None:
    for name, kind in (("lstm", elman.LSTM), ("gru", elman.GRU)):
        torch.manual_seed(0)
        layer = elman.Recurrent(name, F, H)
        other = kind(F, H)
        other.load_state_dict(layer.state_dict())
        x = torch.randn(L, N, F)
        assert torch.equal(layer(x)[0], other(x)[0])


def test_a_cell_of_ones_own_with_the_name_of_another_is_itself() -> None:
    @elman.cell(gates="ifgo", states="hc")
    def lstm(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        return m.tanh(gx[..., :H] + gh[..., :H]), state[1]

    layer = elman.Recurrent(lstm, F, H)
    x = torch.randn(L, N, F)
    assert not torch.allclose(layer(x)[0], elman.Recurrent("lstm", F, H)(x)[0])
    with pytest.raises(ImportError, match="at the top of a module"):
        pickle.loads(pickle.dumps(layer))


# What PyTorch says of its own code.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_step_computes_the_same() -> None:
    plain, compiled = (
        make("leaky", bidirectional=True),
        make("leaky", bidirectional=True, compile=True),
    )
    x = torch.randn(
        19, N, F, dtype=torch.float64
    )  # two stretches that are compiled, and three steps
    for call in ({}, {"lengths": [19, 0, 11]}):
        results, expected = flat(compiled(x, **call)), flat(plain(x, **call))
        for ours, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(results[0])
    ours = torch.autograd.grad(results[0], list(compiled.parameters()), upstream)
    theirs = torch.autograd.grad(expected[0], list(plain.parameters()), upstream)
    torch.testing.assert_close(ours, theirs)


def test_what_cannot_be_compiled_is_computed_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda _: fails)

    @elman.cell(gates="h")
    def mine(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        return m.tanh(gx + gh)

    layer, x = elman.Recurrent(mine, F, H, compile=True), torch.randn(17, N, F)
    with pytest.warns(UserWarning, match="mine could not be compiled.*No working C"):
        output, _ = layer(x)
    assert torch.equal(layer(x)[0], output)  # and says no more


def test_an_slstm_is_that_of_the_package_xlstm() -> None:
    spec = importlib.util.find_spec("xlstm")
    if spec is None or spec.origin is None:
        pytest.skip("the package xlstm is not installed")
    file = Path(spec.origin).parent / "blocks/slstm/src/vanilla/slstm.py"
    step = runpy.run_path(str(file))["slstm_forward_pointwise"]
    layer = make("slstm")
    x, _ = given(layer)
    state = torch.zeros(4, N, H, dtype=torch.float64)
    for t in range(L):
        wx = x[t] @ layer.weight_ih_l0.T + layer.bias_ih_l0
        state, _ = step(wx, state[0] @ layer.weight_hh_l0.T, layer.bias_hh_l0[None], state, {})
    for ours, theirs in zip(layer(x)[1], state, strict=True):
        torch.testing.assert_close(ours[0], theirs)


# --- weights of the package sru ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # it compiles, and says what it could not
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"rescale": True}, {"v1": True}])
@pytest.mark.parametrize("input_size", [F, H, 2 * H])
def test_weights_of_sru_compute_what_they_did(input_size: int, options: dict[str, bool]) -> None:
    package = pytest.importorskip("sru")
    torch.manual_seed(0)
    theirs = package.SRU(input_size, H, num_layers=2, highway_bias=-1.0, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    x, layer = torch.randn(L, N, input_size), elman.from_sru(theirs)
    output, (_, c_n) = layer(x)
    expected, state = theirs(x)
    torch.testing.assert_close(output, expected)
    directions = 2 if layer.bidirectional else 1
    state = state.view(2, N, directions, H).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(c_n, state)


class _Sru:
    """What an sru.SRU is read by, with made weights."""

    def __init__(self, **changed: Any) -> None:
        torch.manual_seed(0)
        facts = {
            "input_size": F,
            "hidden_size": H,
            "bidirectional": False,
            "projection_size": 0,
            "layer_norm": None,
            "activation_type": 0,
            "custom_m": None,
            "has_skip_term": True,
            "rescale": False,
            "weight": torch.randn(F, 4 * H),
            "weight_c": torch.randn(2 * H),
            "bias": torch.randn(2 * H),
            **changed,
        }
        self.rnn_lst = [type("SRUCell", (), facts)]


def test_the_gates_of_sru_stand_in_their_places() -> None:
    source = _Sru()
    (cell,), layer = source.rnn_lst, elman.from_sru(source)
    x = torch.randn(1, 1, F)
    u = (x[0, 0] @ cell.weight).view(H, 4)
    f, r = (u[:, 1] + cell.bias[:H]).sigmoid(), (u[:, 2] + cell.bias[H:]).sigmoid()
    c = (1 - f) * u[:, 0]
    torch.testing.assert_close(layer(x)[0][0, 0], r * c + (1 - r) * u[:, 3])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"projection_size": 3}, "without n_proj"),
        ({"layer_norm": object()}, "without layer_norm"),
        ({"activation_type": 1}, "without use_tanh"),
        ({"custom_m": object()}, "without custom_m"),
        ({"has_skip_term": False}, "without has_skip_term=False"),
    ],
)
def test_what_our_sru_has_not_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        elman.from_sru(_Sru(**changed))
    with pytest.raises(KindError, match=r"must be an sru\.SRU, got LSTM"):
        elman.from_sru(torch.nn.LSTM(2, 3))


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        (
            ("lstmm", F, H),
            {},
            ShapeError,
            "must be one of .*got 'lstmm'",
        ),
        ((lambda: 0, F, H), {}, KindError, "got function: put @elman.cell"),
        (("mingru", F, H), {"heads": 2}, ShapeError, "heads must be 1, got 2: mingru has no"),
        (("gru_reset_before", F, H), {"heads": 2}, ShapeError, "heads must be 1"),
        (("slstm", F, H), {"heads": 4}, ShapeError, "multiple of heads = 4, got 6"),
        (("slstm", F, H), {"heads": 0}, ShapeError, "heads must be at least 1"),
        (("slstm", F, H), {"compile": 1}, KindError, "compile must be"),
        (("slstm", 0, H), {}, ShapeError, "input_size must be at least 1"),
    ],
)
def test_a_wrong_layer_is_refused(
    arguments: Any, options: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        elman.Recurrent(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gates": ""}, "gates must be distinct letters, at least one, got ''"),
        ({"gates": "zz"}, "gates must be distinct"),
        ({"gates": "z", "states": "hh"}, "states must be distinct"),
        ({"gates": "z", "vectors": {"weight_ih": 1}}, "a name of its own, got 'weight_ih'"),
        ({"gates": "z", "vectors": {"a b": 1}}, "a name of its own"),
        (
            {"gates": "z", "vectors": {"gain": 1}, "initial": {"gian": 1.0}},
            "initial must have names of vectors, got 'gian'",
        ),
    ],
)
def test_a_wrong_cell_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        elman.cell(**options)


def test_keras_has_none_of_these() -> None:
    with pytest.raises(KindError, match="must be an RNN, LSTM or GRU of elman, got Recurrent"):
        elman.to_keras(elman.Recurrent("slstm", F, H))


def test_a_state_of_four_is_asked_for_by_name() -> None:
    layer = elman.Recurrent("slstm", F, H)
    x = torch.randn(L, N, F)
    with pytest.raises(
        KindError, match=r"a tuple of 4 tensors, \(h_0, c_0, n_0, m_0\), got Tensor"
    ):
        layer(x, torch.zeros(1, N, H))
    with pytest.raises(ShapeError, match="n_0 must be"):
        layer(x, (*[torch.zeros(1, N, H)] * 2, torch.zeros(1, N, 5), torch.zeros(1, N, H)))


def test_a_cell_outside_of_math_cannot_be_written_to_onnx(tmp_path: Any) -> None:
    @elman.cell(gates="h")
    def bessel(m: Any, gx: Any, gh: Any, state: Any) -> Any:
        return m.bessel_j0(gx + gh)

    pytest.importorskip("onnx")
    with pytest.raises(ShapeError, match=r"got m\.bessel_j0"):
        elman.onnx.export(elman.Recurrent(bessel, F, H), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_every_cell_tells_its_equations_and_paper() -> None:
    for name, cell in MORE_CELLS.items():
        assert isinstance(cell, Cell)
        assert cell.name == name
        assert name not in CELLS
        assert cell.step.__doc__ is not None
        assert cell.paper.split()[0] in cell.step.__doc__
