import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from elman import checkpoint
from elman.tasks import InputError
from elman.tasks.run import Run


def line(kind: str, step: int) -> dict[str, object]:
    return {"kind": kind, "step": step, "loss": 1 / (step + 1)}


def test_a_run_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"n": 1})
    with pytest.raises(InputError, match="run exists: add --resume"):
        Run.create(tmp_path / "run", {"n": 2})
    assert Run.open(tmp_path / "run").config["n"] == 1


def test_any_directory_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(InputError, match="exists"):
        Run.create(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["letter"]


def test_an_empty_directory_and_missing_parents_will_do(tmp_path: Path) -> None:
    Run.create(tmp_path, {})
    Run.create(tmp_path / "a" / "b", {})


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match=r"cannot make the run .*run: File exists"):
        Run.create(tmp_path / "run", {})


def test_what_a_run_that_was_killed_while_it_was_made_has_left_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda path: None)  # not even tidied up
    with pytest.raises(KeyboardInterrupt):
        Run.create(tmp_path / "run", {"n": 1})
    monkeypatch.undo()
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert len(left) == 2
    with pytest.raises(InputError, match=r"is not a run: it has no config\.json"):
        Run.open(tmp_path / "run")
    Run.create(tmp_path / "run", {"n": 2})
    assert Run.open(tmp_path / "run").config["n"] == 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "config.json"]


def test_a_full_disk_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    run = Run.create(tmp_path / "old", {})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot make the run .*new: .*; free some space"):
        Run.create(tmp_path / "new", {})
    run.log(line("train", 10))
    with pytest.raises(OSError, match=r"cannot write .*metrics\.jsonl: No space left"):
        run.flush()
    monkeypatch.undo()
    Run.create(tmp_path / "new", {})


@pytest.mark.parametrize(
    "content", [b"", b'{"half', b"[]", b"3", b"{}", b"\xff", b"[" * 10**5, b"9" * 5000]
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"there is no run at .*none: give"):
        Run.open(tmp_path / "none")
    with pytest.raises(InputError, match=r"is not a run: it has no config\.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"is not a run: its config\.json is damaged"):
        Run.open(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*: File name too long"):
        Run.open(tmp_path / ("long" * 1000))


HOLD = """
import sys, time
from pathlib import Path
from elman.tasks.run import Run
with Run.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_works_in_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    words = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="run is in use, another process"), run.lock():
            pass
        other.kill()  # the lock ends with its process
        other.wait()
    again = Run.open(run.path)
    with run.lock(), pytest.raises(InputError, match="run is in use"), again.lock():
        pass
    with again.lock():
        pass


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    (run.path / ".elman-1-0.new").write_text("half")
    with run.lock():
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.json"]


def made(path: Path, **config: object) -> Run:
    settings = {"files": ["a"], "lr": 0.1, "epochs": 1}
    run = Run.create(path, {"config": settings, "text": {"digest": "ab"}} | config)
    run.save(run.last, {"w": torch.ones(1)}, {"step": 3})
    return run


def test_a_checkpoint_is_taken_for_its_own_run_only(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    tensors, extra = Run.open(one.path).load(one.last)
    assert (tensors["w"].item(), extra["step"]) == (1.0, 3)
    one.last.write_bytes(other.last.read_bytes())
    with pytest.raises(InputError, match=r"last\.safetensors belongs to another run"):
        one.load(one.last)
    checkpoint.save(one.last, tensors, [])
    with pytest.raises(InputError, match=r"last\.safetensors belongs to another run"):
        one.load(one.last)
    one.last.write_bytes(b"?")
    with pytest.raises(InputError, match=r"last\.safetensors must be a checkpoint"):
        one.load(one.last)
    one.last.unlink()
    with pytest.raises(InputError, match=r"cannot read .*last\.safetensors: No such file"):
        one.load(one.last)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("config", "lr", 0.2, "it says lr 0.2, but last.safetensors was made with 0.1; put"),
        ("config", "new", 1, "it says new 1, but last.safetensors was made with None"),
        ("text", "digest", "cd", "it says digest cd, but last.safetensors was made with ab"),
    ],
)
def test_a_checkpoint_is_taken_with_its_own_settings_and_data_only(
    tmp_path: Path, part: str, name: str, value: object, message: str
) -> None:
    run = made(tmp_path / "run")
    run.config[part][name] = value
    with pytest.raises(InputError, match=re.escape(message)):
        run.load(run.last)


def test_another_budget_or_place_of_the_files_is_not_another_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    run.config["config"] |= {"files": ("b", "c"), "epochs": 7, "max_time": 3.0}
    run.configure(run.config)
    assert Run.open(run.path).load(run.last)[1]["step"] == 3


def test_records_come_back_up_to_an_unfinished_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    assert run.records() == []
    run.log(line("train", 10))
    run.log(line("train", 20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert run.records() == [line("train", 10), line("train", 20)]


@pytest.mark.parametrize(
    "damage",
    [b'{"kind": "tr\xffin", "step": 20}', b"", b"[]", b'{"kind": "train"}', b"[" * 10**5, b"\0"],
)
def test_a_damaged_line_is_skipped_and_told_and_what_follows_is_kept(
    tmp_path: Path, damage: bytes
) -> None:
    run = Run.create(tmp_path, {})
    run.log(line("train", 10))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage + b"\n")
    run.log(line("train", 30))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"unfinished')
    assert run.records() == [line("train", 10), line("train", 30)]
    assert run.rewind(30) == [2]
    assert run.records() == [line("train", 10), line("train", 30)]
    assert run.rewind(30) == []


def test_rewinding_drops_what_came_later_and_the_result(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    for record in (line("train", 10), line("evaluation", 12), line("train", 20)):
        run.log(record)
    run.log(line("result", 12))
    run.rewind(12)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in lines] == [line("train", 10), line("evaluation", 12)]


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_the_plot_is_drawn_from_however_little_there_is(tmp_path: Path, steps: int) -> None:
    run = Run.create(tmp_path, {})
    for step in range(steps):
        run.log(line("train", step))
        run.log(line("evaluation", step))
    run.draw()
    assert run.plot.read_bytes().startswith(b"\x89PNG")


def test_the_best_evaluation_is_marked(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    for step, loss, is_best in ((10, 2.0, True), (1020, 1.25, True), (1030, 1.5, False)):
        run.log({"kind": "evaluation", "step": step, "loss": loss, "best": is_best})
    titles = []

    def watched(figure: Figure, path: Path) -> None:
        titles.append(figure.axes[0].get_title())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elman.tasks.run.save_figure", watched)
        run.draw()
    assert titles == ["Best on what is held out: 1.2500, after 1,020 updates"]


def test_a_loss_that_is_no_number_is_left_out_of_the_plot(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    run.log({"kind": "train", "step": 1, "loss": "high"})
    run.log({"kind": "train", "step": 1})
    run.draw()
    assert run.plot.exists()


@pytest.mark.parametrize("backend", ["nonsense", "module://none", "qtagg", "agg"])
def test_no_setting_of_the_screen_keeps_a_plot_from_its_file(tmp_path: Path, backend: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from elman.tasks.run import Run;"
        "Run.create(Path(sys.argv[1]), {}).draw();"
        "assert os.environ['MPLBACKEND'] == sys.argv[2]"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run"), backend]
    done = subprocess.run(
        words, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "loss.png").exists()
