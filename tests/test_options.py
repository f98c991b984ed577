"""The options of layers, each against a loop over time written from the equations of its paper.

The loop reads one sequence after the other, one step after the other, from the masks that the layer
drew; whoever computes the layer, it is what is to come out.
"""

import copy
import io
import math
import pickle
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import elman
from elman import options
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
            given[f"{letter}_0"] = random(2 * directions, count, width)
        given[f"{letter}_to"] = given[f"{letter}_0"] if learns else random(2, width)
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
