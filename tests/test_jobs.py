"""What every job promises: exact resuming, processes that train as one, runs that are used."""

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import forks
import pytest
import torch
from jobs import CASES

from elman import checkpoint
from elman.cli import main
from elman.tasks import InputError, find, learner, trained, training
from elman.tasks.processes import Processes
from elman.tasks.run import Run
from elman.tasks.settings import build

every_job = pytest.mark.parametrize("name", CASES)


class CrashError(Exception):
    """Stands for a power cut: nothing is saved after it."""


def train(name: str, out: Path, *files: Path, **changes: Any) -> Any:
    settings = CASES[name].small | changes
    return training.train(find(name), out, files=tuple(map(str, files)), **settings)


def what_is_kept(run: Path) -> tuple[Any, ...]:
    """The metrics, the tensors and the positions of a run, without the times of day."""
    metrics = Run.open(run).records()
    for record in metrics:
        del record["clock"]
    found = [checkpoint.load(run / f"{name}.safetensors") for name in ("best", "last")]
    positions = [extra["position"] for _, extra in found]
    for position in positions:
        del position["seconds"]
    return metrics, positions, [tensors for tensors, _ in found]


@every_job
def test_a_run_that_crashed_again_and_again_is_the_one_that_never_did(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CASES[name].make(tmp_path, 0)
    whole = train(name, tmp_path / "whole", data)
    monkeypatch.setattr(learner, "_CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(learner, "_CHECKPOINT_SHARE", math.inf)
    chance = random.Random(name)
    countdown = 0

    def report(record: dict[str, Any]) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise CrashError

    out, result, crashes = tmp_path / "broken", None, 0
    while result is None:
        countdown = chance.randint(3, 12)
        try:
            if out.exists():
                result = training.resume(out, report=report)
            else:
                result = train(name, out, data, report=report)
        except CrashError:
            crashes += 1
    assert crashes >= 2
    assert (result.step, result.metrics) == (whole.step, whole.metrics)
    mine, theirs = what_is_kept(out), what_is_kept(tmp_path / "whole")
    assert mine[:2] == theirs[:2]
    for found, expected in zip(mine[2], theirs[2], strict=True):
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            assert torch.equal(tensor, expected[key]), key


@every_job
def test_two_processes_train_what_one_does(name: str, tmp_path: Path) -> None:
    data = CASES[name].make(tmp_path, 0)
    settings = CASES[name].small | CASES[name].no_chance
    flags = [word for n, v in settings.items() for word in (f"--{n.replace('_', '-')}", str(v))]
    forks.together("train", name, str(data), *flags, "--out", str(tmp_path / "two"))
    one = train(name, tmp_path / "one", data, **CASES[name].no_chance)
    two = json.loads((tmp_path / "two" / "result.json").read_text())["metrics"]
    assert one.metrics == pytest.approx(two, rel=1e-3)
    weights = [checkpoint.load(tmp_path / run / "last.safetensors")[0] for run in ("one", "two")]
    shared = {key for key in weights[0] if not key.startswith("process.")}
    assert any(key.startswith("model.") for key in shared)
    for key in shared:
        torch.testing.assert_close(weights[1][key], weights[0][key], rtol=1e-3, atol=1e-4)


@every_job
def test_processes_share_each_batch_and_one_without_a_sequence_counts_nothing(
    name: str, tmp_path: Path
) -> None:
    job, data = find(name), CASES[name].make(tmp_path, 0)
    given = CASES[name].small | CASES[name].no_chance
    of_source = {field.name for field in dataclasses.fields(job.Source)}
    source = {n: v for n, v in given.items() if n in of_source} | {"files": [str(data)]}
    read = job.read(build(job.Source, source))
    settings = job.choose(read, math.inf, {n: v for n, v in given.items() if n not in of_source})
    torch.manual_seed(0)
    model = job.build(settings, read.knowledge)
    for epoch in (0, 1):
        whole = job.batches(read, settings, epoch, Processes())
        parts = [job.batches(read, settings, epoch, Processes(rank, 4)) for rank in range(4)]
        assert {len(part) for part in parts} == {len(whole)}
        assert len(whole) == len(job.batches(read, settings, 0, Processes()))
        for index in range(len(whole)):
            found = [job.loss(model, part[index], None) for part in parts]
            expected = job.loss(model, whole[index], None)
            assert sum(loss.units for loss in found) == expected.units
            total = sum(loss.total.item() for loss in found)
            assert total == pytest.approx(expected.total.item(), rel=1e-4)
    none = job.batches(read, settings, 0, Processes(1000, 1001))[0]
    loss = job.loss(model, none, None)
    assert (loss.total.item(), loss.units) == (0.0, 0)
    loss.total.backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert not weight.grad.any(), key


@every_job
def test_a_run_begins_with_the_best_weights_of_another(name: str, tmp_path: Path) -> None:
    make, small = CASES[name].make, {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}
    data = make(tmp_path, 0)
    old = train(name, tmp_path / "old", data)
    again = {n: v for n, v in CASES[name].small.items() if n in ("batch", "dropout")} | small
    same = training.train(
        find(name), tmp_path / "same", files=(str(data),), init_from=tmp_path / "old", **again
    )
    assert same.metrics == pytest.approx(old.metrics, rel=1e-5)
    # Other data, but what the model knows of its own stays.
    train(name, tmp_path / "other", make(tmp_path, 1), init_from=tmp_path / "old", epochs=1)
    knowledge = [trained.load(tmp_path / run).knowledge for run in ("old", "other")]
    for known in knowledge:
        known.pop("scales", None)  # of a series, which are those of its own data
    assert knowledge[0] == knowledge[1]


@every_job
def test_a_file_of_ones_own_is_held_out_and_any_can_be_judged(name: str, tmp_path: Path) -> None:
    make = CASES[name].make
    data, valid = make(tmp_path, 0), make(tmp_path, 1)
    result = train(name, tmp_path / "run", data, valid=str(valid))
    judged = trained.evaluate(tmp_path / "run", [valid])
    assert judged.metrics == pytest.approx(result.metrics)
    assert judged.baselines == result.baselines
    assert trained.evaluate(tmp_path / "run", [data]).metrics != judged.metrics


@every_job
def test_a_model_learns_and_beats_its_baselines(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    data, best, sign = case.make(tmp_path, 0), case.best, -1 if case.is_error else 1
    result = train(name, tmp_path / "run", data, **case.learns)
    mine = sign * result.metrics[best]
    assert mine > sign * case.enough
    others = [of[best] for of in result.baselines.values() if best in of]
    assert others
    assert all(mine >= sign * other for other in others)
    details = json.loads((tmp_path / "run" / "details.json").read_text())
    assert all(len(row) == len(table["columns"]) for table in details for row in table["rows"])
    assert len(list((tmp_path / "run").glob("*.png"))) >= 2


@every_job
def test_of_equal_weights_the_later_are_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(find(name)), "score", lambda job, metrics: 0.0)
    train(name, tmp_path / "run", CASES[name].make(tmp_path, 0))
    best, last = (
        checkpoint.load(tmp_path / "run" / f"{which}.safetensors")[0] for which in ("best", "last")
    )
    for key, weight in best.items():
        torch.testing.assert_close(weight, last[key], rtol=0, atol=0)


@every_job
def test_a_dry_run_keeps_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CASES[name].make(tmp_path, 0)
    horizon = ["--horizon", "6"] if name == "series" else []
    command = ["train", name, str(data), *horizon, "--dry-run", "--epochs", "2", "--out"]
    assert main([*command, str(tmp_path / "run")]) == 0
    assert "ms an update" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@every_job
@pytest.mark.parametrize("changed", ["data", "valid"])
def test_a_run_is_resumed_on_the_same_data_only(name: str, tmp_path: Path, changed: str) -> None:
    make = CASES[name].make
    files = {"data": make(tmp_path, 0), "valid": make(tmp_path, 1)}
    train(name, tmp_path / "run", files["data"], valid=str(files["valid"]), epochs=1)
    assert training.resume(tmp_path / "run").finished
    file = files[changed] if files[changed].is_file() else min(files[changed].iterdir())
    file.write_text("\n".join(file.read_text().splitlines()[:-2]) + "\n")
    with pytest.raises(InputError, match="was trained on other data"):
        training.resume(tmp_path / "run")
