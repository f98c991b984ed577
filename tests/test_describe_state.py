"""A state printed as what it is, of layers and cells, ours and torch.nn's, in both languages."""

from typing import Any

import pytest
import torch

import elman
from elman import language


@pytest.mark.parametrize("nn", [elman, torch.nn], ids=["elman", "torch.nn"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_each_row_is_the_layer_and_direction_that_it_is_called(
    nn: Any, kind: str, bidirectional: bool, layers: int
) -> None:
    module = getattr(nn, kind)(3, 4, num_layers=layers, bidirectional=bidirectional)
    output, state = module(torch.randn(5, 2, 3))
    found = elman.describe_state(module, state)
    rows = layers * (1 + bidirectional)
    assert found.shapes["h_n"] == (("D * num_layers", "N", "H_out"), (rows, 2, 4))
    assert list(found.shapes) == (["h_n", "c_n"] if kind == "LSTM" else ["h_n"])
    assert f"h_n[{rows - 1}]: layer {layers - 1}" in found.text
    # what the text says of the last layer is so
    h_n = state[0] if kind == "LSTM" else state
    for row, line in enumerate(line for line in found.text.splitlines() if "  h_n[" in line):
        if f"layer {layers - 1}, forward" in line:
            torch.testing.assert_close(h_n[row], output[-1, :, :4])
        if f"layer {layers - 1}, reverse" in line:
            torch.testing.assert_close(h_n[row], output[0, :, 4:])


def test_cells_projections_and_single_sequences_are_named() -> None:
    cell = elman.LSTMCell(3, 4)
    assert elman.describe_state(cell, cell(torch.randn(2, 3))).shapes["c'"][1] == (2, 4)
    lstm = elman.LSTM(3, 4, proj_size=2)
    found = elman.describe_state(lstm, lstm(torch.randn(5, 3))[1])
    assert found.shapes["h_n"] == (("D * num_layers", "H_out"), (1, 2))
    assert found.shapes["c_n"] == (("D * num_layers", "hidden_size"), (1, 4))


def test_what_is_no_state_is_refused_in_one_sentence() -> None:
    lstm = elman.LSTM(3, 4)
    with pytest.raises(TypeError, match=r"state must be \(h_n, c_n\), got Tensor"):
        elman.describe_state(lstm, torch.zeros(1, 2, 4))
    with pytest.raises(TypeError, match=r"state must be h_n, got \(Tensor, Tensor\): give the"):
        elman.describe_state(elman.GRU(3, 4), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    with pytest.raises(TypeError, match=r"module must be an RNN, LSTM or GRU .* got Linear"):
        elman.describe_state(torch.nn.Linear(2, 2), torch.zeros(1, 2, 4))
    rule = r"h_n must be \(D \* num_layers, N, H_out\) = \(1, N, 4\), got \(2, 5, 4\)"
    with pytest.raises(ValueError, match=rule):
        elman.describe_state(elman.GRU(3, 4), torch.zeros(2, 5, 4))


def test_the_same_facts_stand_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    gru = elman.GRU(3, 4, bidirectional=True)
    state = gru(torch.zeros(5, 2, 3))[1]
    english = elman.describe_state(gru, state)
    monkeypatch.setattr(language, "_chosen", "zh")
    chinese = elman.describe_state(gru, state)
    assert chinese.shapes == english.shapes
    assert chinese.text.splitlines()[0] == english.text.splitlines()[0]
    assert "第 0 层\uff0c反向" in chinese.text


@pytest.mark.parametrize("cell", ["slstm", "sru", "minlstm", "lstm"])
def test_layers_of_other_cells_have_their_own_states(cell: str) -> None:
    layer = elman.Recurrent(cell, 4, 4, num_layers=2)
    state = layer(torch.randn(5, 2, 4))[1]
    found = elman.describe_state(layer, state)
    assert list(found.shapes) == [f"{letter}_n" for letter in layer.cell.states]
    assert {size for _, size in found.shapes.values()} == {(2, 2, 4)}
