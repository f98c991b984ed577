"""The options of layers, each against a loop over time written from the equations of its paper.

The loop reads one sequence after the other, one step after the other, from the masks that the layer
drew; whoever computes the layer, it is what is to come out.
"""

import copy
import inspect
import io
import math
import pickle
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from conftest import medium
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman import ops, options
from elman.options import DEFAULTS, Options
from elman.shapes import KindError, Recurrence, ShapeError

L, N, F, H = 4, 3, 5, 6
LENGTHS = [4, 1, 3]

CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn_tanh": (elman.RNN, {}),
    "rnn_relu": (elman.RNN, {"nonlinearity": "relu"}),
    "lstm": (elman.LSTM, {}),
    "projected lstm": (elman.LSTM, {"proj_size": 4}),
    "gru": (elman.GRU, {}),
    "gru_reset_before": (elman.GRU, {"reset_after": False}),
    "ligru": (lambda *sizes, **more: elman.Recurrent("ligru", *sizes, **more), {}),
}
OPTIONS: dict[str, Any] = {
    "recurrent_dropout": 0.4,
    "zoneout": 0.3,
    "weight_dropout": 0.5,
    "layer_norm": True,
    "cell_clip": 0.2,
    "residual": True,
    "learn_initial_state": True,
}
FORMS: dict[str, dict[str, Any]] = {
    "padded": {"num_layers": 2},
    "one layer": {"bidirectional": True},
    "lengths": {"num_layers": 2, "bidirectional": True},
    "packed": {"num_layers": 2, "bidirectional": True},
    "reset": {"num_layers": 2, "batch_first": True},
    "one sequence": {"num_layers": 2, "bias": False},
}


def has_c(cell: str) -> bool:
    return "lstm" in cell


def make(cell: str, form: str, **chosen: Any) -> Any:
    kind, own = CELLS[cell]
    torch.manual_seed(0)
    layer = kind(F, H, **own, **FORMS[form], **chosen)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return layer


# --- the loop over time -----------------------------------------------------------------------


def norm(a: Tensor) -> Tensor:
    """Ba, Kiros and Hinton 2016, equation 4."""
    return (a - a.mean()) / ((a - a.mean()).square().mean() + 1e-5).sqrt()


def affine(p: dict[str, Tensor], side: str, v: Tensor, rows: slice = slice(None)) -> Tensor:
    """W v + b of some gates, or with layer normalisation norm(W v) * gain + b."""
    a = p[f"weight_{side}"][rows] @ v
    if f"gain_{side}" in p:
        a = norm(a) * p[f"gain_{side}"][rows]
    return a + p[f"bias_{side}"][rows] if f"bias_{side}" in p else a


def step(
    cell: str, p: dict[str, Tensor], x: Tensor, state: list[Tensor], *, drop: Any, clip: Any
) -> list[Tensor]:
    h, rz, n = state[0], slice(2 * H), slice(2 * H, None)
    if cell.startswith("rnn"):
        a = affine(p, "ih", x) + affine(p, "hh", h * drop)
        return [a.tanh() if cell == "rnn_tanh" else a.clamp(min=0)]
    if cell == "ligru":
        z, n_ = (affine(p, "ih", x) + affine(p, "hh", h * drop)).chunk(2)
        return [z.sigmoid() * h + (1 - z.sigmoid()) * n_.clamp(min=0)]
    if "lstm" in cell:
        i, f, g, o = (affine(p, "ih", x) + affine(p, "hh", h * drop)).chunk(4)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        if clip is not None:
            c = c.clamp(-clip, clip)
        shown = norm(c) * p["gain_c"] + p.get("bias_c", 0) if "gain_c" in p else c
        h = o.sigmoid() * shown.tanh()
        return [p["weight_hr"] @ h if "weight_hr" in p else h, c]
    r, z = (affine(p, "ih", x, rz) + affine(p, "hh", h * drop, rz)).sigmoid().chunk(2)
    if cell == "gru":
        n_ = (affine(p, "ih", x, n) + r * affine(p, "hh", h * drop, n)).tanh()
    else:
        n_ = (affine(p, "ih", x, n) + affine(p, "hh", r * h * drop, n)).tanh()
    return [(1 - z) * n_ + z * h]


def zoned(before: Tensor, after: Tensor, zone: Any) -> Tensor:
    """Krueger et al. 2017, equation 2, and its expectation."""
    if zone is None:
        return after
    if isinstance(zone, Tensor):
        return zone * before + ~zone * after
    return zone * before + (1 - zone) * after


class Drawn:
    """The masks of one call: what acts in each layer, and which elements of weight_hh are left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[Recurrence] = []
        self.left: list[Tensor] = []
        monkeypatch.setattr(options, "recurrence", self.watched(options.recurrence, self.layers))
        monkeypatch.setattr(options, "thinned", self.watched(options.thinned, self.left))
        monkeypatch.setattr(ops, "at_once", lambda *_: None)  # which has no masks to draw

    @staticmethod
    def watched(function: Any, into: list[Any]) -> Any:
        def call(*args: Any) -> Any:
            result = function(*args)
            into[len(into) :] = result if isinstance(result, list) else [result or Recurrence()]
            return result

        return call


def by_hand(
    cell: str,
    layer: Any,
    given: dict[str, Tensor],
    drawn: Drawn,
    lengths: list[int],
    reset: Tensor,
    rows: dict[tuple[int, int], int],
) -> list[Tensor]:
    """Output and final states: (L, N, D * H_out), and (D * num_layers, N, .) for each state."""
    letters = "hc" if has_c(cell) else "h"
    directions = 1 + layer.bidirectional
    x, starts = given["x"], [given[f"{letter}_0"] for letter in letters]
    finals: list[list[list[Tensor]]] = [[] for _ in letters]
    for k in range(layer.num_layers):
        outputs = []
        for d in range(directions):
            end = f"_l{k}{'_reverse' if d else ''}"
            p = {n.removesuffix(end): w for n, w in given.items() if n.endswith(end)}
            if layer.weight_dropout and layer.training:
                kept = drawn.left[layer._parts * (k * directions + d) + 1] != 0
                p["weight_hh"] = p["weight_hh"] * kept / (1 - layer.weight_dropout)
            acts, columns, ends = drawn.layers[k], [], []
            for n in range(x.shape[1]):
                begin = [s[k * directions + d] for s in starts]
                begin = [b[n] if b.dim() > 1 else b for b in begin]
                state, column = begin, [x.new_zeros(len(begin[0]))] * len(x)
                for t in range(lengths[n])[:: -1 if d else 1]:
                    if reset[t, n]:
                        state = [given[f"{letter}_to"][k] for letter in letters]
                    drop = 1.0 if acts.drop is None else acts.drop[d, rows[0, n]].double()
                    after = step(cell, p, x[t, n], state, drop=drop, clip=acts.clip)
                    zones = [
                        zone[d].flatten(0, -2)[rows[t, n]] if isinstance(zone, Tensor) else zone
                        for zone in (acts.zone_h, acts.zone_c)
                    ]
                    state = [zoned(*each) for each in zip(state, after, zones, strict=False)]
                    column[t] = state[0]
                columns.append(torch.stack(column))
                ends.append(state)
            outputs.append(torch.stack(columns, 1))
            for letter, of_letter in enumerate(zip(*ends, strict=True)):
                finals[letter].append(torch.stack(of_letter))
        output = torch.cat(outputs, -1)
        x = output + x if k and layer.residual else output
    return [x, *(torch.stack(final) for final in finals)]


def compare(
    cell: str, form: str, chosen: dict[str, Any], training: bool, dtype: torch.dtype
) -> None:
    layer = make(cell, form, **chosen).to(dtype).train(training)
    generator = torch.Generator().manual_seed(1)
    count = 1 if form == "one sequence" else N
    lengths = LENGTHS if form in ("lengths", "packed") else [L] * count
    directions = 1 + layer.bidirectional
    widths = (layer.proj_size or H, H)[: 1 + has_c(cell)]
    given = {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters()}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double().requires_grad_()

    given["x"] = random(L, count, F)
    learns = layer.learn_initial_state
    for letter, width in zip("hc", widths, strict=False):
        if not learns:
            given[f"{letter}_0"] = random(layer.num_layers * directions, count, width)
        given[f"{letter}_to"] = given[f"{letter}_0"] if learns else random(layer.num_layers, width)
    reset = torch.zeros(L, count, dtype=torch.bool)
    if form == "reset":
        reset[0, 0] = reset[2, 0] = reset[3] = True

    leaves = {n: t.detach().to(dtype).requires_grad_() for n, t in given.items()}
    leaves |= dict(layer.named_parameters())
    with pytest.MonkeyPatch.context() as patch:
        drawn = Drawn(patch)
        torch.manual_seed(2)
        results, rows = call(layer, form, leaves, lengths, reset, widths)
    expected = by_hand(cell, layer, given, drawn, lengths, reset, rows)

    names = [n for n in given if not (n.endswith("_to") and (form != "reset" or learns))]
    upstream = [torch.randn(e.shape, generator=generator).double() for e in expected]
    if form in ("lengths", "packed"):
        for n, length in enumerate(lengths):
            upstream[0][length:, n] = 0
    ours = torch.autograd.grad(results, [leaves[n] for n in names], [u.to(dtype) for u in upstream])
    theirs = torch.autograd.grad(expected, [given[n] for n in names], upstream)
    tolerance = 1e-9 if dtype is torch.float64 else 2e-4
    for name, a, b in zip(
        ["output", "h_n", "c_n"][: len(results)] + names,
        [*results, *ours],
        [*expected, *theirs],
        strict=True,
    ):
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(
            a.double(),
            b,
            rtol=0,
            atol=tolerance * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def call(
    layer: Any, form: str, leaves: dict[str, Tensor], lengths: list[int], reset: Tensor, widths: Any
) -> tuple[list[Tensor], dict[tuple[int, int], int]]:
    """The results in the form of `by_hand`, and which row of a mask each step of a sequence has."""

    def structured(tensors: list[Tensor]) -> Any:
        return tuple(tensors) if len(tensors) > 1 else tensors[0]

    letters = "hc"[: len(widths)]
    hx = None if layer.learn_initial_state else structured([leaves[f"{c}_0"] for c in letters])
    x, count = leaves["x"], len(lengths)
    rows = {(t, n): t * count + n for t in range(L) for n in range(count)}
    if form == "lengths":
        output, state = layer(x, hx, lengths=lengths)
    elif form == "packed":
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        assert packed.sorted_indices is not None
        order, row = packed.sorted_indices.tolist(), 0
        for t, size in enumerate(packed.batch_sizes.tolist()):
            for n in order[:size]:
                rows[t, n] = row
                row += 1
        output, state = layer(packed, hx)
        output = pad_packed_sequence(output)[0]
    elif form == "reset":
        to = None if layer.learn_initial_state else structured([leaves[f"{c}_to"] for c in letters])
        output, state = layer(x.transpose(0, 1), hx, reset=reset.T, reset_to=to)
        output = output.transpose(0, 1)
    elif form == "one sequence":
        if hx is not None:
            hx = structured([leaves[f"{c}_0"][:, 0] for c in letters])
        output, state = layer(x[:, 0], hx)
        output = output[:, None]
        state = structured([s[:, None] for s in (state if isinstance(state, tuple) else (state,))])
    else:
        output, state = layer(x, hx)
    return [output, *(state if isinstance(state, tuple) else (state,))], rows


def cases() -> Iterator[Any]:
    forms = list(FORMS)
    count = 0
    for cell in CELLS:
        may = [o for o in OPTIONS if o != "cell_clip" or has_c(cell)]
        for names in [*((o,) for o in may), *combinations(may, 2), tuple(may)]:
            count += 1
            yield pytest.param(
                cell, names, forms[count % len(forms)], id=f"{cell}-{'+'.join(names)}"
            )


@pytest.mark.parametrize(("cell", "names", "form"), [*cases()])
def test_options_are_what_their_papers_say(cell: str, names: tuple[str, ...], form: str) -> None:
    chosen = {name: OPTIONS[name] for name in names}
    if has_c(cell) and "zoneout" in chosen:
        chosen["zoneout"] = (0.4, 0.2)
    compare(cell, form, chosen, True, torch.float64)
    compare(cell, form, chosen, False, torch.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_all_options_together_in_every_form(cell: str, form: str) -> None:
    chosen = {name: OPTIONS[name] for name in OPTIONS if name != "cell_clip" or has_c(cell)}
    compare(cell, form, chosen, False, torch.float64)
    compare(cell, form, chosen, True, torch.float32)


# --- masks ------------------------------------------------------------------------------------


def large(**chosen: Any) -> elman.LSTM:
    torch.manual_seed(0)
    return elman.LSTM(4, 40, **chosen)


def test_masks_are_drawn_with_their_probabilities() -> None:
    with pytest.MonkeyPatch.context() as patch:
        drawn = Drawn(patch)
        layer = large(recurrent_dropout=0.3, zoneout=(0.2, 0.1), weight_dropout=0.4)
        layer(torch.randn(30, 50, 4))
    acts = drawn.layers[0]
    assert isinstance(acts.drop, Tensor)
    assert isinstance(acts.zone_h, Tensor)
    assert isinstance(acts.zone_c, Tensor)
    assert acts.drop.shape == (1, 50, 40)  # one for each sequence, whatever the time step
    assert acts.zone_h.shape == acts.zone_c.shape == (1, 30, 50, 40)
    assert acts.drop.unique().tolist() == pytest.approx([0, 1 / 0.7])
    dropped = drawn.left[1] == 0
    torch.testing.assert_close(drawn.left[1][~dropped], layer.weight_hh_l0[~dropped] / 0.6)
    for p, mask in ((0.3, acts.drop == 0), (0.1, acts.zone_h), (0.2, acts.zone_c), (0.4, dropped)):
        deviation = math.sqrt(p * (1 - p) / mask.numel())
        assert abs(mask.double().mean().item() - p) < 5 * deviation
        rows = mask.flatten(0, -2)
        assert not torch.equal(rows[0], rows[1])  # each is drawn alone


def test_masks_are_drawn_anew_by_each_call_and_decided_by_the_seed() -> None:
    x = torch.randn(5, 3, 4)
    for chosen in ({"recurrent_dropout": 0.5}, {"zoneout": 0.5}, {"weight_dropout": 0.5}):
        layer = large(**chosen)
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(layer(x)[0])
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])


def test_a_probability_of_1_drops_all() -> None:
    x = torch.randn(5, 3, 4)
    for name in ("recurrent_dropout", "weight_dropout"):
        layer = large(**{name: 1.0})
        alone = torch.cat([copy.deepcopy(layer).eval()(x[:1])[0]])
        torch.testing.assert_close(layer(x)[0][:1], alone)
        layer(x)[0].sum().backward()
        assert not layer.weight_hh_l0.grad.any()
    assert not large(zoneout=1.0)(x)[0].any()


def test_dropout_does_nothing_in_evaluation() -> None:
    layer, x = large(recurrent_dropout=0.5, weight_dropout=0.5).eval(), torch.randn(5, 3, 4)
    plain = large().eval()
    assert torch.equal(layer(x)[0], plain(x)[0])


def test_zoneout_computes_its_expectation_in_evaluation() -> None:
    layer = large(zoneout=(0.3, 0.6))
    count = 4000
    x = torch.randn(1, 1, 4).expand(1, count, 4)
    hx = tuple(torch.randn(1, 1, 40).expand(1, count, 40) for _ in "hc")
    drawn, expected = layer(x, hx)[1], layer.eval()(x, hx)[1]
    for mean, exact in zip(drawn, expected, strict=True):
        torch.testing.assert_close(mean.mean(1), exact[:, 0], rtol=0, atol=0.06)


def test_zoneout_of_one_number_is_of_h_and_c() -> None:
    x = torch.randn(5, 3, 4)
    one, two = large(zoneout=0.3).eval(), large(zoneout=(0.3, 0.3)).eval()
    assert torch.equal(one(x)[0], two(x)[0])


def test_each_sample_draws_its_own_masks() -> None:
    layer = large(recurrent_dropout=0.5, zoneout=0.2, weight_dropout=0.5, layer_norm=True)
    x = torch.randn(5, 1, 4).expand(5, 8, 4)

    def loss(results: Any) -> Tensor:
        return results[0].square().sum()  # type: ignore[no-any-return]

    drawn = elman.per_sample_grads(layer, x, loss, in_dims=1)
    assert not torch.allclose(drawn["weight_hh_l0"][0], drawn["weight_hh_l0"][1])
    layer.eval()
    for name, gradient in elman.per_sample_grads(layer, x, loss, in_dims=1).items():
        alone = torch.autograd.grad(loss(layer(x[:, :1])), layer.get_parameter(name))[0]
        torch.testing.assert_close(gradient[3], alone, rtol=1e-4, atol=1e-5)


# --- the other forms of a call ----------------------------------------------------------------

ALL: Options = {
    "recurrent_dropout": 0.4,
    "zoneout": (0.4, 0.2),
    "weight_dropout": 0.5,
    "layer_norm": True,
    "cell_clip": 0.2,
    "residual": True,
    "learn_initial_state": True,
}


def test_nested_input_is_padded_input_with_lengths() -> None:
    layer = make("lstm", "lengths", **ALL).eval()
    x = torch.randn(L, N, F)
    sequences = [x[:length, n] for n, length in enumerate(LENGTHS)]
    nested, state = layer(torch.nested.nested_tensor(sequences, layout=torch.jagged))
    output, expected = layer(x, lengths=LENGTHS)
    torch.testing.assert_close(state, expected)
    for n, sequence in enumerate(nested.unbind()):
        torch.testing.assert_close(sequence, output[: LENGTHS[n], n])


@pytest.mark.parametrize("cell", CELLS)
def test_states_and_gates_are_those_of_the_call(cell: str) -> None:
    chosen: dict[str, Any] = {"zoneout": 0.3, "layer_norm": True, "recurrent_dropout": 0.3}
    layer, x = make(cell, "lengths", **chosen), torch.randn(L, N, F)
    results = []
    for function in (layer, layer.states):
        torch.manual_seed(3)
        results.append(function(x, lengths=LENGTHS))
    (output, final), states = results
    torch.testing.assert_close(torch.cat([*states["h"][-1]], -1), output)
    final = final if isinstance(final, tuple) else (final,)
    last = torch.stack([states["h"][:, 0, n - 1, i] for i, n in enumerate(LENGTHS)], 1)
    torch.testing.assert_close(last, final[0][::2])
    if cell != "ligru":
        torch.manual_seed(3)
        inside = elman.gates(layer, x, lengths=LENGTHS)
        torch.testing.assert_close(inside["h"], states["h"])
        assert set(inside) == {*layer._cell.gates, *layer._cell.states}


def test_autocast_lowers_the_results_alone() -> None:
    layer, x = make("lstm", "padded", **ALL).eval(), torch.randn(L, N, F)
    with torch.autocast("cpu"):
        lowered = layer(x)[0]
    assert lowered.dtype is torch.bfloat16
    with medium():
        torch.testing.assert_close(lowered, layer(x)[0].bfloat16())


def test_half_precision_is_computed_in_float32() -> None:
    layer, x = make("lstm", "padded", **ALL).eval().bfloat16(), torch.randn(L, N, F).bfloat16()
    expected = copy.deepcopy(layer).float()(x.float())[0]
    torch.testing.assert_close(layer(x)[0], expected.bfloat16(), rtol=0.02, atol=0.02)


def test_derivatives_of_derivatives() -> None:
    layer = make("lstm", "padded", layer_norm=True, cell_clip=5.0).double()
    x = torch.randn(2, 1, F, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


def test_a_layer_without_memory_tells_the_shapes() -> None:
    layer = elman.LSTM(F, H, 2, device="meta", init="keras", **ALL)
    assert layer(torch.empty(L, N, F, device="meta"))[0].shape == (L, N, H)


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["padded", "lengths", "one sequence"])
@pytest.mark.parametrize("cell", CELLS)
def test_all_is_kept_by_state_dicts_copies_and_pickles(cell: str, form: str) -> None:
    chosen = {name: ALL[name] for name in ("layer_norm", "learn_initial_state")}  # type: ignore[literal-required]
    chosen["zoneout"] = 0.2
    layer = make(cell, form, **chosen).eval()
    other = make(cell, form, **chosen).eval()
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.randn(L, N, F)
    for same in (other, loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(same) == repr(layer)
        assert torch.equal(same(x)[0], layer(x)[0])
    assert "layer_norm=True, " in repr(layer)
    gains = {"gain_ih_l0", "gain_hh_l1"} | ({"gain_c_l0"} if has_c(cell) else set())
    assert gains | {"h_0"} <= set(layer.state_dict())
    assert ("bias_c_l0" in layer.state_dict()) == (has_c(cell) and form != "one sequence")


def test_a_layer_without_options_is_as_it_was() -> None:
    layer = elman.LSTM(F, H)
    assert not set(vars(layer)) & set(DEFAULTS)  # so those of an old pickle are at their defaults
    assert set(Options.__annotations__) == set(DEFAULTS)
    assert repr(layer) == f"LSTM({F}, {H})"


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Recurrent"])
def test_signature_and_help_show_every_option(kind: str) -> None:
    cls = getattr(elman, kind)
    parameters = inspect.signature(cls).parameters
    for name, default in DEFAULTS.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default
        assert f"\n        {name}: " in cls.__doc__
    assert "options" not in parameters


def test_gains_start_from_1_and_learnt_states_from_0() -> None:
    layer = elman.LSTM(F, H, layer_norm=True, learn_initial_state=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("gain"):
            assert (parameter == 1).all()
        elif name.startswith("bias_c") or name in ("h_0", "c_0"):
            assert not parameter.any()
        else:
            assert parameter.unique().numel() == parameter.numel()


def test_a_learnt_initial_state_is_where_sequences_start() -> None:
    layer = make("lstm", "reset", learn_initial_state=True)
    x, reset = torch.randn(N, L, F), torch.rand(N, L) < 0.5
    learnt = layer.h_0, layer.c_0
    spread = tuple(s[:, None].expand(-1, N, -1).contiguous() for s in learnt)
    result, (h_n, _) = layer(x, reset=reset)
    expected, (other, _) = layer(x, spread, reset=reset, reset_to=learnt)
    assert torch.equal(result, expected)
    assert torch.equal(h_n, other)
    with pytest.raises(ShapeError, match=r"h_0 must be \(2, 6\), got \(2, 5\)"):
        torch.func.functional_call(layer, {"h_0": torch.zeros(2, 5)}, (x,))


def test_a_carry_starts_anew_from_the_learnt_state() -> None:
    layer = make("gru", "padded", learn_initial_state=True)
    x, carry = torch.randn(L, N, F), elman.Carry(layer)
    carry(x)
    carry.reset([False, True, False])
    result = carry(x)[0]
    torch.testing.assert_close(result[:, 1:2], layer(x[:, 1:2])[0])
    assert not torch.allclose(result[:, :1], layer(x[:, :1])[0])


# --- initial values ---------------------------------------------------------------------------


def assert_orthogonal(block: Tensor) -> None:
    rows, columns = block.shape
    product = block.T @ block if rows >= columns else block @ block.T
    torch.testing.assert_close(product, torch.eye(min(rows, columns)), rtol=0, atol=1e-5)


def test_keras_initial_values() -> None:
    layer = elman.LSTM(30, 20, proj_size=7, init="keras", bidirectional=True)
    for end in ("_l0", "_l0_reverse"):
        p = {n.removesuffix(end): w for n, w in layer.named_parameters() if n.endswith(end)}
        bound = math.sqrt(6 / (30 + 4 * 20))
        assert 0.98 * bound < p["weight_ih"].abs().max() <= bound
        assert_orthogonal(p["weight_hh"])
        assert p["bias_ih"].tolist() == [0.0] * 20 + [1.0] * 20 + [0.0] * 40
        assert not p["bias_hh"].any()
    assert not elman.GRU(3, 4, init="keras").bias_ih_l0.any()


def test_orthogonal_initial_values() -> None:
    layers = elman.GRU(3, 8, init="orthogonal"), elman.LSTM(3, 8, proj_size=5, init="orthogonal")
    for layer in (*layers, elman.GRU(3, 8, init="orthogonal", dtype=torch.float16)):
        for block in layer.weight_hh_l0.chunk(len(layer._cell.gates)):
            if block.dtype is torch.float32:
                assert_orthogonal(block)
        assert layer.weight_ih_l0.abs().max() <= 1 / math.sqrt(8)
    heads = elman.Recurrent("slstm", 3, 8, heads=2, init="orthogonal")
    for block in heads.weight_hh_l0.view(8, 4, 4):
        assert_orthogonal(block)


def test_chrono_initial_values() -> None:
    lstm = elman.LSTM(3, 200, init="chrono(100)")
    i, f, g, _ = lstm.bias_ih_l0.chunk(4)
    assert torch.equal(i, -f)
    assert f.min() >= 0
    assert math.log(90) < f.max() <= math.log(99)
    assert f.exp().mean().item() == pytest.approx(50, abs=10)
    assert not lstm.bias_hh_l0[:400].any()
    assert g.abs().max() <= 1 / math.sqrt(200)
    for reset_after in (True, False):
        gru = elman.GRU(3, 200, init="chrono(100)", reset_after=reset_after)
        assert math.log(90) < gru.bias_ih_l0[200:400].max() <= math.log(99)
        assert gru.bias_ih_l0[:200].abs().max() <= 1 / math.sqrt(200)


def test_forget_bias() -> None:
    for init in ("torch", "keras", "orthogonal", "chrono(9)"):
        layer = elman.LSTM(3, 5, init=init, forget_bias=2.5)
        assert layer.bias_ih_l0[5:10].tolist() == [2.5] * 5
        assert not layer.bias_hh_l0[5:10].any()


def test_other_parameters_are_those_of_torch() -> None:
    torch.manual_seed(0)
    plain = elman.LSTM(3, 5)
    torch.manual_seed(0)
    layer = elman.LSTM(3, 5, forget_bias=1.0, layer_norm=True)
    assert torch.equal(layer.weight_hh_l0, plain.weight_hh_l0)
    assert torch.equal(layer.bias_ih_l0[10:], plain.bias_ih_l0[10:])


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "chosen", "error", "text"),
    [
        ("GRU", {"cell_clip": 1.0}, ShapeError, "GRU: cell_clip must be None, got 1.0: it b"),
        ("GRU", {"zoneout": (0.1, 0.1)}, ShapeError, "GRU: zoneout must be one probability, got"),
        ("RNN", {"forget_bias": 1.0}, ShapeError, "RNN: forget_bias must be None, got 1.0: only"),
        ("RNN", {"init": "chrono(9)"}, ShapeError, "RNN: init must be 'torch', 'keras' or 'ort"),
        ("LSTM", {"init": "chrono(2)"}, ShapeError, "LSTM: init must be 'torch', 'keras', 'ortho"),
        ("LSTM", {"init": "he"}, ShapeError, "LSTM: init must be 'torch', 'keras', 'orthogonal'"),
        ("LSTM", {"init": None}, KindError, "LSTM: init must be a string, got None"),
        ("LSTM", {"forget_bias": 1.0, "bias": False}, ShapeError, "forget_bias must be left out"),
        ("LSTM", {"init": "chrono(9)", "bias": False}, ShapeError, "init must be left out with"),
        ("LSTM", {"zoneout": 1.5}, ShapeError, r"LSTM: zoneout must be a probability in \[0, 1\]"),
        ("LSTM", {"zoneout": (0.1,)}, KindError, "LSTM: zoneout must be one probability or"),
        ("LSTM", {"recurrent_dropout": True}, KindError, "recurrent_dropout must be a number, got"),
        (
            "LSTM",
            {"weight_dropout": -0.1},
            ShapeError,
            "LSTM: weight_dropout must be a probability",
        ),
        ("LSTM", {"cell_clip": 0}, ShapeError, "LSTM: cell_clip must be above 0, or None for no"),
        ("LSTM", {"cell_clip": math.inf}, ShapeError, "LSTM: cell_clip must be finite, got inf"),
        ("LSTM", {"layer_norm": 1}, KindError, "LSTM: layer_norm must be True or False, got 1"),
        ("LSTM", {"layernorm": True}, TypeError, "unexpected keyword argument 'layernorm'"),
        ("mingru", {"recurrent_dropout": 0.1}, ShapeError, "must be 0, got 0.1: mingru has no rec"),
        ("mingru", {"weight_dropout": 0.1}, ShapeError, "must be 0, got 0.1: mingru has no recurr"),
        (
            "slstm",
            {"cell_clip": 0.1},
            ShapeError,
            "cell_clip must be None, got 0.1: it bounds the c of an LSTM",
        ),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    kind: str, chosen: dict[str, Any], error: type[Exception], text: str
) -> None:
    made = getattr(elman, kind) if hasattr(elman, kind) else partial(elman.Recurrent, kind)
    with pytest.raises(error, match=text):
        made(3, 4, **chosen)


KEPT = {
    "layer_norm": True,
    "cell_clip": 1.0,
    "zoneout": 0.1,
    "residual": True,
    "learn_initial_state": True,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", KEPT)
def test_where_an_option_would_be_lost_it_is_refused_by_name(name: str, tmp_path: Any) -> None:
    layer = elman.LSTM(3, 4, 2, **{name: KEPT[name]})  # type: ignore[arg-type]
    exits: dict[str, Any] = {
        "elman.onnx.export": lambda: elman.onnx.export(layer, tmp_path / "layer.onnx"),
        "to_keras": lambda: elman.to_keras(layer),
        "save": lambda: elman.save(layer, tmp_path / "layer.elman"),
        "quantize": lambda: elman.quantize(layer),
        "explain": lambda: elman.explain(layer),
    }
    for who, leave in exits.items():
        with pytest.raises(ShapeError, match=f"{who}: {name} must be .* here, got"):
            leave()
    (entry,) = elman.revert(layer).left
    assert entry.reason == f"torch.nn has no {name}"
    with pytest.raises(ShapeError, match=f"LSTM: {name} must be off in torch.jit.trace"):
        torch.jit.trace(layer, torch.randn(5, 2, 3))


def test_what_acts_in_training_alone_is_refused_nowhere(tmp_path: Any) -> None:
    layer = elman.LSTM(3, 4, recurrent_dropout=0.1, weight_dropout=0.1, init="keras", forget_bias=2)
    elman.to_keras(layer)
    elman.save(layer, tmp_path / "layer.elman")
    elman.quantize(layer)
    x = torch.randn(5, 2, 3)
    expected = layer.eval()(x)[0]
    assert elman.revert(layer).replaced
    torch.testing.assert_close(layer(x)[0], expected)


# --- cells of one's own -----------------------------------------------------------------------


def mine_hidden(m: Any, gx: Any, gh: Any, c: Any) -> Any:
    return m.tanh(c)


@elman.cell(gates="zn", states="hc", norms="xhc", hidden=mine_hidden)
def mine(m: Any, gx: Any, gh: Any, state: Any) -> Any:
    """A cell that is normalised by its own definition."""
    z, n = m.split(gx + gh, 2)
    c = state[1] + m.sigmoid(z) * (n - state[1])
    return mine_hidden(m, gx, gh, c), c


def test_a_cell_of_ones_own_is_normalised(tmp_path: Any) -> None:
    layer = elman.Recurrent(mine, F, H)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    p = {name.removesuffix("_l0"): w for name, w in layer.named_parameters()}
    x, (h, c) = torch.randn(L, F), (torch.zeros(H), torch.zeros(H))
    expected = []
    for x_t in x:
        z, n = (affine(p, "ih", x_t) + affine(p, "hh", h)).chunk(2)
        c = c + z.sigmoid() * (n - c)
        h = (norm(c) * p["gain_c"] + p["bias_c"]).tanh()
        expected.append(h)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected))
    same = pickle.loads(pickle.dumps(elman.cells.normalised(mine)))
    assert same is elman.cells.normalised(mine)

    onnxruntime = pytest.importorskip("onnxruntime")
    elman.onnx.export(layer, tmp_path / "mine.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "mine.onnx"))
    feeds = {
        "input": x[:, None],
        "initial_h": torch.zeros(1, 1, H),
        "initial_c": torch.zeros(1, 1, H),
    }
    feeds["sequence_lens"] = torch.tensor([L], dtype=torch.int32)
    output = session.run(None, {name: value.numpy() for name, value in feeds.items()})[0]
    torch.testing.assert_close(
        torch.from_numpy(output)[:, 0], torch.stack(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"norms": "hx"}, "norms must be letters of 'xh', in this order, got 'hx'"),
        ({"norms": "xc"}, "norms must be letters of 'xh', in this order, got 'xc'"),
        ({"norms": "h", "recurrent": False}, "norms must be letters of 'x', in this order"),
        ({"hidden": mine_hidden}, "hidden must come with states='hc', got states='h'"),
        ({"vectors": {"gain_ih": 1}}, "a vector must have a name of its own, got 'gain_ih'"),
    ],
)
def test_a_cell_that_cannot_be_normalised_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        elman.cell(gates="zn", **arguments)
