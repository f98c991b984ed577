"""From what the user gave to a training: a new one, one that goes on, or the plan of one.

given -> source and settings -> data -> run -> `elman.tasks.learner`, which trains
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from elman.extras import needed
from elman.language import say

with needed("training", "train"):
    import torch
from torch import Tensor, nn

import elman
from elman.tasks import InputError
from elman.tasks.budget import OPERATIONS_PER_WEIGHT, measure_speed
from elman.tasks.job import Data, Job
from elman.tasks.learner import (
    LOG_EVERY,
    Learner,
    Report,
    Result,
    computing,
    learn,
    refuse_what_fits_no_memory,
)
from elman.tasks.processes import Processes, together
from elman.tasks.run import FREE, Run
from elman.tasks.settings import build
from elman.tasks.trained import described, load

__all__ = ["configure", "plan", "prepare", "resume", "train"]


def configure(job: Job, data: Data, given: Mapping[str, Any]) -> Any:
    """Complete the settings that the user gave.

    If the budget is a time and the size or the dropout is left open, this takes a second or two:
    what suits the peak speed of the machine is tried, and chosen again by the speed that its first
    updates have, on this data and beside whatever else the machine does.

    Args:
        job: the job.
        data: what was read.
        given: settings under the names of the job's.

    Raises:
        InputError: something given is out of range.
    """
    timed = given.get("max_time") is not None or given.get("epochs") is None
    known = not timed or given.keys() >= {"hidden", "dropout"}
    if known:
        return job.choose(data, math.inf, given)
    settings = job.choose(data, measure_speed(), given)
    for _ in range(2):
        tried = settings
        settings = job.choose(data, _speed_of_updates(job, data, tried), given)
        if settings.hidden == tried.hidden:
            break
    return settings


def _speed_of_updates(job: Job, data: Data, settings: Any, seconds: float = 0.3) -> float:
    """Measure additions and multiplications per second in a few updates; nothing is kept."""
    learner = Learner(job, None, settings, data, Run(Path(), {}), Processes(), {})
    with torch.random.fork_rng(devices=[]), computing(settings):
        learner.begin()
        learner.update()  # the first one takes longer
        learner._units_per_second = 0.0
        end = time.perf_counter() + seconds
        while learner.at.step < 3 or (
            time.perf_counter() < end and learner.at.step < LOG_EVERY - 1
        ):
            learner.update()
    weights = sum(
        weight.numel()
        for layer in learner.model.modules()
        if not isinstance(layer, nn.Embedding)  # which is looked up
        for weight in layer.parameters(recurse=False)
        if weight.dim() > 1
    )
    return OPERATIONS_PER_WEIGHT * weights * learner._units_per_second


def train(
    job: Job,
    out: Path,
    *,
    init_from: Path | None = None,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    **given: Any,
) -> Result:
    """Train a new model and keep all of it in a directory.

    Args:
        job: what to train for.
        out: the directory of the run, not there yet, or empty.
        init_from: the directory of another run of this job, whose best weights are trained further.
        report: called with a record of the start, each update, each evaluation and the result; the
            records are those of metrics.jsonl, where of the updates only every tenth is kept.
        stop: asked before each update; True saves a checkpoint and ends the training.
        clock: tells the seconds that are trained, from any start.
        given: what is read, and settings, under the names of the job's `Source` and `Settings`.

    Returns:
        How it ended.

    Raises:
        InputError: the data cannot be used, a setting is out of range, there is something at `out`
            already, or it cannot be made.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    with together() as processes:
        data, settings, source, tensors = prepare(job, init_from, given)
        settings = processes.from_first(settings)  # the clocks of processes differ
        refuse_what_fits_no_memory(job, settings, data)
        config = {
            "job": job.name,
            "loss": job.loss_name,
            "init_from": init_from and str(init_from.absolute()),
            "source": asdict(source),
            "settings": asdict(settings),
            "data": data.about | {"digest": data.digest},
            "version": elman.__version__,
        }
        if processes.is_first:
            Run.create(out, config)
        processes.total(0)  # the others wait until it is there
        run = Run.open(out)
        with _locked(run, processes):
            learner = Learner(job, source, settings, data, run, processes, tensors, clock)
            return learn(learner, report, stop)


def plan(job: Job, out: Path, *, init_from: Path | None = None, **given: Any) -> dict[str, Any]:
    """Return what `train` would report at its start, and the time of an update; keep nothing.

    Args:
        job: as in `train`.
        out: as in `train`.
        init_from: as in `train`.
        given: as in `train`.

    Raises:
        InputError: as in `train`.
    """
    data, settings, source, tensors = prepare(job, init_from, given)
    learner = Learner(job, source, settings, data, Run(out, {}), Processes(), tensors)
    with torch.random.fork_rng(devices=[]):
        learner.begin()
        record = learner.describe()
        batch = learner._batches[0]
        times: list[float] = []
        while len(times) < 2 or (sum(times) < 0.5 and len(times) < 20):
            begun = time.perf_counter()
            job.loss(learner.model.train(), batch, None).total.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - begun)
    return record | {"seconds_per_update": sorted(times)[len(times) // 2]}


def prepare(
    job: Job, init_from: Path | None, given: Mapping[str, Any]
) -> tuple[Data, Any, Any, dict[str, Tensor]]:
    """Read the data and complete the settings; the last result is the weights to start from."""
    names = {field.name for field in dataclasses.fields(job.Source)}
    source_given = {name: value for name, value in given.items() if name in names}
    given = {name: value for name, value in given.items() if name not in names}
    # A run is resumed from any directory.
    if "files" in source_given:
        source_given["files"] = tuple(str(Path(f).absolute()) for f in source_given["files"])
    if init_from is None:
        source = build(job.Source, source_given)
        data = job.read(source)
        return data, configure(job, data, given), source, {}
    old = load(init_from)
    if old.job.name != job.name:
        raise InputError(
            say(
                "{init_from} was trained for {job}, not for {other}",
                init_from=init_from,
                job=old.job.name,
                other=job.name,
            )
        )
    source = build(job.Source, asdict(old.source) | {"valid": None} | source_given)
    data = job.read(source, old.knowledge)
    kept = {"cell", "hidden", "layers", *job.shapes}
    for name in sorted(kept & given.keys()):
        if given[name] != getattr(old.settings, name):
            raise InputError(
                say(
                    "{init_from} was trained with {name} {had}, got {got}: leave it out, "
                    "for its weights are trained further",
                    init_from=init_from,
                    name=name,
                    had=getattr(old.settings, name),
                    got=given[name],
                )
            )
    given = {**given, **{name: getattr(old.settings, name) for name in kept}}
    return data, configure(job, data, given), source, old.model.state_dict()


def resume(
    out: Path,
    *,
    job: Job | None = None,
    report: Report = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    **given: Any,
) -> Result:
    """Go on with a training that was stopped, or killed, from its last checkpoint.

    Args:
        out: the directory of the run.
        job: the job that the run is expected to be of; any if None.
        report: as in `train`.
        stop: as in `train`.
        clock: as in `train`.
        given: as in `train`. A new budget (epochs, max_time, patience) replaces the old one, in
            which what was trained before counts; `threads` may be others, and `files` says where
            the data is now; any other must be what the run has.

    Returns:
        How it ended. A training whose budget is used up is only judged again.

    Raises:
        InputError: there is no run at `out`, its data has changed, or a setting differs.
        DivergenceError: the loss became NaN or exploded; the last checkpoint is from before.
    """
    with together() as processes:
        run = Run.open(out)
        with _locked(run, processes):
            found, source, settings = described(run)
            if job is not None and job.name != found.name:
                raise InputError(
                    say(
                        "{out} is a run of {job}, not of {other}",
                        out=out,
                        job=found.name,
                        other=job.name,
                    )
                )
            for name, value in given.items():
                if name in FREE:
                    continue
                had = getattr(source if hasattr(source, name) else settings, name, None)
                if value != had:
                    raise InputError(
                        say(
                            "{out} was trained with {name} {had}, got {got}: leave it out to go "
                            "on, or start another run",
                            out=out,
                            name=name,
                            had=had,
                            got=value,
                        ),
                        name,
                    )
            changed = {name: given[name] for name in given if name in FREE and name != "files"}
            if changed.keys() & {"epochs", "max_time"}:
                changed = {"epochs": None, "max_time": None} | changed
            settings = build(type(settings), asdict(settings) | changed)
            source = build(
                type(source), asdict(source) | {"files": given.get("files", source.files)}
            )
            known = None
            if run.config.get("init_from") and run.last.exists():
                known = run.load(run.last)[1]["knowledge"]  # which is not of this data
            data = found.read(source, known)
            if data.digest != run.config.get("data", {}).get("digest"):
                raise InputError(
                    say(
                        "{out} was trained on other data: {names} must be as it was",
                        out=out,
                        names=" ".join(source.files),
                    )
                )
            config = run.config | {"source": asdict(source), "settings": asdict(settings)}
            if processes.is_first and json.loads(json.dumps(config)) != run.config:
                run.configure(config)
            learner = Learner(found, source, settings, data, run, processes, {}, clock)
            return learn(learner, report, stop)


def _locked(run: Run, processes: Processes) -> AbstractContextManager[None]:
    """Keep others out of the run; of the processes that train together the first does."""
    return run.lock() if processes.is_first else nullcontext()
