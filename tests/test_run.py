import json
from pathlib import Path

import pytest

from elman.tasks import InputError
from elman.tasks.run import Run


def line(kind: str, step: int) -> dict[str, object]:
    return {"kind": kind, "step": step, "loss": 1 / (step + 1)}


def test_a_run_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"n": 1})
    with pytest.raises(InputError, match="run exists: add --resume"):
        Run.create(tmp_path / "run", {"n": 2})
    assert Run.open(tmp_path / "run").config == {"n": 1}


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


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: cannot read its config\.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"half')
    with pytest.raises(InputError, match=r"is not a run: its config\.json is damaged"):
        Run.open(tmp_path)


def test_records_come_back_up_to_an_unfinished_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {})
    assert run.records() == []
    run.log(line("train", 10))
    run.log(line("train", 20))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert run.records() == [line("train", 10), line("train", 20)]


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
