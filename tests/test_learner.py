"""The frame of all jobs, tried on text: what `tests/test_text.py` does not say of text itself."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import forks
import pytest
import torch

from elman import checkpoint
from elman.cli import main
from elman.tasks import InputError, find, text, trained, training
from elman.tasks.facts import compare, read
from elman.tasks.report import write

WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "with", "his")
SMALL: dict[str, Any] = {
    "hidden": 12, "embed": 6, "batch": 4, "chunk": 16, "epochs": 2, "lr": 0.01, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture
def book(tmp_path: Path) -> Path:
    chance = random.Random(0)
    path = tmp_path / "book.txt"
    path.write_text(" ".join(chance.choice(WORDS) for _ in range(500)) + "\n", encoding="utf-8")
    return path


def flags(**settings: Any) -> list[str]:
    return [word for n, v in settings.items() for word in (f"--{n.replace('_', '-')}", str(v))]


def torchrun(*words: str, count: int = 2) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)),
            *("--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("-m", "elman", "train", *words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_two_processes_train_what_one_does(book: Path, tmp_path: Path) -> None:
    words = ["text", str(book), *flags(**SMALL)]
    together = torchrun(*words, "--out", str(tmp_path / "two"))
    output, errors = together.communicate()
    assert together.returncode == 0, errors
    assert output.count("Kept in") == 1  # the first process speaks alone
    one = text.train([book], out=tmp_path / "one", **SMALL)
    two = training.resume(tmp_path / "one")  # only judged again
    assert one.metrics == two.metrics
    mine, theirs = (
        checkpoint.load(tmp_path / name / "best.safetensors")[0] for name in ("one", "two")
    )
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5)
    found = json.loads((tmp_path / "two" / "result.json").read_text())
    assert found["metrics"]["loss"] == pytest.approx(one.metrics["loss"], rel=1e-5)


def test_two_processes_that_were_stopped_go_on_as_two(book: Path, tmp_path: Path) -> None:
    words = ["train", "text", str(book), *flags(**SMALL | {"dropout": 0.2, "layers": 2})]
    forks.together(*words, "--out", str(tmp_path / "whole"))
    forks.together(*words, "--max-time", "1", "--out", str(tmp_path / "broken"))
    forks.together("train", "text", "--resume", "--epochs", "2", "--out", str(tmp_path / "broken"))
    with pytest.raises(InputError, match="was trained by 2 processes"):
        training.resume(tmp_path / "whole")


def test_the_weights_of_a_run_are_trained_further(book: Path, tmp_path: Path) -> None:
    first = text.train([book], out=tmp_path / "first", **SMALL)
    again = text.train(
        [book], out=tmp_path / "again", init_from=tmp_path / "first", epochs=1, batch=4, chunk=16
    )
    fresh = text.train([book], out=tmp_path / "fresh", **SMALL | {"epochs": 1})
    assert again.metrics["loss"] < fresh.metrics["loss"]
    assert trained.load(tmp_path / "again").settings.hidden == 12
    assert first.metrics["loss"] > again.metrics["loss"] - 0.5
    with pytest.raises(InputError, match="was trained with hidden 12, got 13: leave it out"):
        text.train([book], out=tmp_path / "x", init_from=tmp_path / "first", hidden=13)


def test_patience_ends_a_training(book: Path, tmp_path: Path) -> None:
    impatient = text.train(
        [book], out=tmp_path / "run", **SMALL | {"epochs": 50, "lr": 1e-30, "patience": 2}
    )
    assert impatient.finished
    records = [r for r in read(tmp_path / "run").records if r["kind"] == "evaluation"]
    assert len(records) < 10


def test_flags_may_stand_in_a_file_and_those_given_win(book: Path, tmp_path: Path) -> None:
    lines = [f"{n} = {json.dumps(v)}" for n, v in SMALL.items()]
    (tmp_path / "run.toml").write_text("\n".join([f'files = "{book}"', 'max-time = "1h"', *lines]))
    words = ["train", "text", "--config", str(tmp_path / "run.toml"), "--hidden", "9"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    settings = read(tmp_path / "run").settings
    assert (settings["hidden"], settings["embed"], settings["max_time"]) == (9, 6, 3600.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hiden = 3", "there is no setting 'hiden'"),
        ("hidden = ", "is not TOML"),
        ('hidden = "3"', "hidden must be of type int, got '3'"),
        ("lr = true", "lr must be of type float, got True"),
    ],
)
def test_mistakes_in_a_file_of_flags_are_named(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "run.toml").write_text(content)
    words = ["train", "text", str(book), "--config", str(tmp_path / "run.toml")]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_it_would_do_and_leaves_nothing(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "text", str(book), *flags(**SMALL), "--out", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 0
    output = capsys.readouterr().out
    for part in ("characters", "LSTM, 1 layer of 12", "2 epochs", "ms an update"):
        assert part in output
    assert not (tmp_path / "run").exists()


def test_a_run_is_told_of_compared_and_reported(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in ("lstm", "gru"):
        text.train([book], out=tmp_path / cell, **SMALL | {"cell": cell})
    assert main(["info", str(tmp_path / "gru")]) == 0
    told = capsys.readouterr().out
    for part in ("recurrent.weight_ih_l0", "36 x 6", "finished", "bits_per_character"):
        assert part in told
    settings, metrics = compare([read(tmp_path / "lstm"), read(tmp_path / "gru")])
    assert settings == {"cell": ["lstm", "gru"]}
    assert {"loss", "nats_per_character", "bits_per_character"} <= set(metrics)
    assert main(["compare", str(tmp_path / "lstm")]) == 2
    page = write(tmp_path / "gru").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    for part in ("<!doctype html>", "36 \u00d7 6", "GRU", "bits per character"):
        assert part in page
    assert "http" not in page  # it opens offline


def test_text_from_a_run_cannot_break_the_report(book: Path, tmp_path: Path) -> None:
    book.write_text("<script>alert(1)</script> & so on, and on; " * 60)
    text.train([book], out=tmp_path / "<b>run", **SMALL)
    page = write(tmp_path / "<b>run").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>run" not in page


def test_results_are_written_for_programs(book: Path, tmp_path: Path) -> None:
    result = text.train([book], out=tmp_path / "run", **SMALL)
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["job"] == "text"
    assert found["metrics"] == result.metrics
    assert found["settings"]["hidden"] == 12
    assert found["data"]["digest"]
    assert found["seconds"] > 0
    assert set(found) == {"job", "metrics", "baselines", "settings", "data", "seconds", "version"}


def test_an_unknown_job_is_named() -> None:
    with pytest.raises(InputError, match="there is no job 'tagging': use "):
        find("tagging")
