from pathlib import Path

import pytest
import torch

import elman
from elman.cli import main
from elman.tasks import demo


@pytest.mark.parametrize("way", list(demo.ways_to_spell()))
def test_each_way_learns_to_spell_with_either_library(way: str) -> None:
    for layers in (elman, torch.nn):
        torch.manual_seed(demo.SEED)
        told = demo.spell(demo.ways_to_spell(layers)[way]())
        assert told[-1][0] == "ohlol"
        assert told[-1][1] < told[0][1]


@pytest.mark.parametrize("way", list(demo.ways_to_spell()))
def test_each_way_is_the_same_with_either_library(way: str) -> None:
    told = []
    for layers in (elman, torch.nn):
        torch.manual_seed(0)
        told.append(demo.spell(demo.ways_to_spell(layers)[way]()))
    for (mine, my_loss), (theirs, their_loss) in zip(*told, strict=True):
        assert mine == theirs
        assert my_loss == pytest.approx(their_loss, rel=1e-4)


def test_the_lstm_by_hand_is_the_layer() -> None:
    torch.manual_seed(0)
    hand, layer = demo.LSTMByHand(), elman.LSTM(10, 8)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(hand.of_input.weight)
        layer.bias_ih_l0.copy_(hand.of_input.bias)
        layer.weight_hh_l0.copy_(hand.of_state.weight)
        layer.bias_hh_l0.copy_(hand.of_state.bias)
    input = torch.randn(7, 10)
    output, (h, c) = hand(input)
    expected, (h_n, c_n) = layer(input)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close((h, c), (h_n[0], c_n[0]))


def test_a_wave_is_forecast_far_better_than_by_guessing() -> None:
    foretold, truth = demo.forecast(updates=600)
    assert foretold.shape == truth.shape == (200,)
    assert (foretold - truth).square().mean().sqrt() < 0.2 * truth.square().mean().sqrt()


JOBS = ("seasonal naive", "commonest label", "commonest tag", "copy of the source")


def test_the_quick_demo_shows_all_its_parts_and_keeps_its_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert main(["demo", "--quick"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert "\x1b" not in output
    assert output.startswith("Everything made here is kept in runs/demo-2.")
    for part in ("ohlol", "root-mean-square error", "held out", "times faster", "torch.nn", *JOBS):
        assert part in output
    for plot in ("hello.png", "sine.png", "text/loss.png", "series/forecast.png"):
        assert f"runs/demo-2/{plot}" in output
        assert (tmp_path / "runs" / "demo-2" / plot).read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "runs" / "demo").iterdir())
