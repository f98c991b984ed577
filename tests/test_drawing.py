"""The picture of gates: what is drawn is what was given, on scales that fit, in both languages."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

import elman
from elman import language

TEXT = "hello world\nagain"


def traced(steps: int = len(TEXT), hidden: int = 40, batch: int = 2) -> dict[str, torch.Tensor]:
    """The gates of an LSTM cell, from its equations: (1, 1, L, N, hidden)."""
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(6, hidden)
    h = c = torch.zeros(batch, hidden)
    found: dict[str, list[torch.Tensor]] = {letter: [] for letter in "ifgohc"}
    for x in 2 * torch.randn(steps, batch, 6):
        total = x @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh
        i, f, g, o = total.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        for letter, value in zip("ifgohc", (i, f, g, o, h, c), strict=True):
            found[letter].append(value)
    return {letter: torch.stack(values)[None, None] for letter, values in found.items()}


def panels(figure: Any) -> dict[str, Any]:
    return {
        axes.get_title(loc="left").split()[0]: axes.images[0] for axes in figure.axes if axes.images
    }


def test_each_gate_has_a_panel_with_its_values_and_a_scale_that_fits() -> None:
    gates = traced()
    figure = elman.plot_gates(gates, TEXT, sequence=1, units=100)
    found = panels(figure)
    assert list(found) == list("ifgohc")
    order = None
    for letter, image in found.items():
        wanted = gates[letter][0, 0, :, 1].detach().numpy().T
        shown = np.asarray(image.get_array())
        assert shown.shape == wanted.shape
        if order is None:
            order = [int(np.abs(wanted - row).sum(1).argmin()) for row in shown]
            assert sorted(order) == list(range(40))
        np.testing.assert_allclose(shown, wanted[order], rtol=1e-6)  # the same units in all
        low, high = image.get_clim()
        assert (low, high) == (0, 1) if letter in "ifo" else low == -high <= -1
    labels = [label.get_text() for label in figure.axes[5].get_xticklabels()]
    assert labels == list(TEXT.replace(" ", "␣").replace("\n", "⏎"))


def test_batch_first_is_the_other_layout_of_the_same() -> None:
    gates = {"h": traced()["h"]}
    turned = {"h": gates["h"].transpose(2, 3)}
    one = panels(elman.plot_gates(gates))["h"].get_array()
    other = panels(elman.plot_gates(turned, batch_first=True))["h"].get_array()
    np.testing.assert_array_equal(one, other)


def test_of_many_units_those_are_drawn_that_change_and_of_padding_nothing() -> None:
    h = np.zeros((2, 2, 10, 1, 50))
    h[1, 1, :6, 0, 7] = np.linspace(-1, 1, 6)
    figure = elman.plot_gates({"h": h}, "padded", direction=1, units=3)
    shown = np.asarray(panels(figure)["h"].get_array())
    assert shown.shape == (3, 6)
    assert sorted(np.abs(shown).sum(1) > 0) == [False, False, True]


def test_a_symbol_is_shown_as_it_is(tmp_path: Any) -> None:
    figure = elman.plot_gates({"h": traced(3)["h"]}, ["$a_", "$b", "\\frac"])
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("steps", [1, 7, 300])
def test_any_length_can_be_drawn(steps: int, tmp_path: Any) -> None:
    figure = elman.plot_gates(traced(steps, hidden=1))
    figure.savefig(tmp_path / "x.png")
    assert figure.get_figwidth() <= 14
    assert len(elman.plot_gates(traced(steps, 3), "x" * steps).axes[5].get_xticklabels()) <= 48


def test_wrong_arguments_are_refused_in_one_sentence() -> None:
    gates = traced(3)
    with pytest.raises(ValueError, match="symbols must be from 1 to L = 3, got 4"):
        elman.plot_gates(gates, "abcd")
    with pytest.raises(ValueError, match="got none"):
        elman.plot_gates({})
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        elman.plot_gates(gates, units=0)
    with pytest.raises(ValueError, match=r"gates\['h'\] must be \(num_layers, D, L, N, hidden_si"):
        elman.plot_gates({"h": gates["h"][0, 0]})
    with pytest.raises(IndexError):
        elman.plot_gates(gates, sequence=2)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^elman.plot_gates needs Matplotlib: pip install"):
        elman.plot_gates(traced(3))


def test_the_panels_are_named_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_chosen", "zh")
    figure = elman.plot_gates(traced(3))
    assert figure.axes[0].get_title(loc="left") == "i  输入门"


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gates_of_one_sequence_are_drawn_without_a_batch_axis(batch_first: bool) -> None:
    layer = elman.LSTM(3, 4, batch_first=batch_first)
    x = torch.randn(5, 3)
    figure = elman.plot_gates(elman.gates(layer, x), "hello", batch_first=batch_first)
    batch = elman.gates(layer, x.unsqueeze(0 if batch_first else 1))
    whole = elman.plot_gates(batch, "hello", batch_first=batch_first)
    for one, other in zip(figure.axes, whole.axes, strict=True):
        for drawn, expected in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(drawn.get_array(), expected.get_array())
