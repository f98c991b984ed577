import math
from dataclasses import asdict
from typing import Any

import pytest

from elman.tasks import InputError
from elman.tasks.text import job
from elman.tasks.text.settings import TextSettings

FAST, SLOW = 200e9, 20e9  # operations per second


def choose(characters: int, speed: float = math.inf, **given: Any) -> TextSettings:
    return job.choose(characters, 60, speed, given)


def config(**changes: Any) -> TextSettings:
    settings: dict[str, Any] = {
        "hidden": 8,
        "batch": 2,
        "chunk": 4,
        "lr": 0.01,
        "dropout": 0.0,
        "epochs": 1,
    }
    return TextSettings(**settings | changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cell", "lsmt", "cell must be lstm, gru or rnn, got 'lsmt'"),
        ("hidden", 0, "hidden must be at least 1 and at most 16384, got 0"),
        ("layers", 0, "layers must be at least 1 and at most 64, got 0"),
        ("embed", -1, "embed must be at least 1 and at most 16384, got -1"),
        ("batch", 0, "batch must be at least 1 and at most 1048576, got 0"),
        ("chunk", 0, "chunk must be at least 1 and at most 1048576, got 0"),
        ("epochs", 0, "epochs must be at least 1 and at most 1000000000, got 0"),
        ("epochs", None, "the budget is missing: give epochs or max_time"),
        ("max_time", 0.0, "max_time must be above 0, got 0.0"),
        ("seed", -1, f"seed must be at least 0 and below {2**63}, got -1"),
        ("lr", 0.0, "lr must be above 0, got 0.0"),
        ("lr", float("nan"), "lr must be above 0, got nan"),
        ("clip", -1.0, "clip must be above 0, got -1.0"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1, got 1.0"),
        ("warmup", -0.1, "warmup must be at least 0 and below 1, got -0.1"),
        ("weight_decay", -1.0, "weight_decay must be at least 0, got -1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        config(**{name: value})
    assert str(refused.value) == message


def test_all_that_is_given_is_kept() -> None:
    given = asdict(config(cell="gru", layers=3, embed=5, clip=0.5, seed=7, max_time=9.0))
    assert asdict(choose(1000, **given)) == given


def test_without_a_budget_three_minutes_are_taken() -> None:
    chosen = choose(1_000_000, FAST)
    assert (chosen.epochs, chosen.max_time) == (None, 180.0)


def test_more_time_or_a_faster_machine_or_more_text_never_gives_a_smaller_model() -> None:
    by_time = [choose(10**7, FAST, max_time=60.0 * 4**k).hidden for k in range(6)]
    by_speed = [choose(10**7, SLOW * 2**k, max_time=180.0).hidden for k in range(6)]
    by_text = [choose(10**k, FAST, max_time=180.0).hidden for k in range(2, 9)]
    for sizes in (by_time, by_speed, by_text):
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 3])
def test_cells_and_depths_get_models_of_about_one_size(cell: str, layers: int) -> None:
    def weights(chosen: TextSettings) -> int:
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[chosen.cell]
        rows = gates * chosen.hidden
        return rows * (chosen.embed + chosen.hidden + (chosen.layers - 1) * 2 * chosen.hidden)

    base = weights(choose(10**7, FAST, max_time=180.0))
    other = weights(choose(10**7, FAST, max_time=180.0, cell=cell, layers=layers))
    assert 0.75 * base < other < 1.25 * base


@pytest.mark.parametrize("characters", [16, 20, 100, 1000, 20_000])
def test_a_short_text_is_cut_small_enough_to_be_learnt(characters: int) -> None:
    chosen = choose(characters, epochs=1)
    assert chosen.batch * chosen.chunk <= characters


def test_the_more_often_a_text_is_read_the_more_dropout() -> None:
    by_epochs = [choose(10**6, epochs=epochs).dropout for epochs in (1, 5, 20, 100)]
    by_time = [choose(10**6, FAST, hidden=256, max_time=20.0 * 8**k).dropout for k in range(4)]
    for shares in (by_epochs, by_time):
        assert shares == sorted(shares)
        assert shares[0] < shares[-1] == 0.5
    assert by_epochs[0] == 0.0
