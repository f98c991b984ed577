"""A trained model, loaded from its run and used: measured on other data, asked for answers."""

import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman import runtime
from elman.checkpoint import under
from elman.language import say
from elman.runtime.run import read_config, weights
from elman.tasks import InputError, find
from elman.tasks.run import Run
from elman.tasks.settings import build

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion, Job, Trained

__all__ = ["described", "evaluate", "load", "predict", "use"]


def described(run: Run) -> "tuple[Job, Any, Any]":
    """Return the job, the source and the settings that a run's config.json describes.

    Raises:
        InputError: it is not complete, or something in it is out of range.
    """
    try:
        job = find(run.config["job"])
        source, settings = run.config["source"], run.config["settings"]
        return job, build(job.Source, source), build(job.Settings, settings)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            say("{path} is not a run: {error} in its config.json", path=run.path, error=error)
        ) from error


def load(path: Path) -> "Trained":
    """Load the model of a run, ready to be used.

    Args:
        path: the directory of the run; its best weights are used, or the last if it was stopped
            before it was first evaluated.

    Raises:
        InputError: there is none.
    """
    import torch

    from elman.tasks.job import Trained

    run = Run.open(path)
    file = weights(path)
    tensors, extra = run.load(file)
    try:
        job, knowledge = find(extra["job"]), extra["knowledge"]
        source, settings = (
            build(kind, extra[name])
            for kind, name in ((job.Source, "source"), (job.Settings, "settings"))
        )
        with torch.random.fork_rng(devices=[]):
            model = job.build(settings, knowledge)
        model.load_state_dict(under("model.", tensors))
    except (InputError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            say("{file} is not a checkpoint of a model: {error}", file=file, error=error)
        ) from error
    return Trained(job, model.eval(), source, settings, knowledge)


def evaluate(run: Path, files: Iterable[str | Path]) -> "Conclusion":
    """Measure the model of a run on other data.

    Args:
        run: the directory of the run.
        files: the data.

    Returns:
        What the model is worth there, beside the baselines.

    Raises:
        InputError: there is no trained model, or the data cannot be used with it.
    """
    import torch

    trained = load(run)
    held_out = trained.job.read_held_out(trained, tuple(map(str, files)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return trained.job.conclude(trained, held_out)


def use(path: Path) -> Any:
    """Load a model of a job for its answers, without PyTorch.

    Args:
        path: the directory of a run, or a file that `elman export` wrote.

    Returns:
        What `elman.runtime.load` gives.

    Raises:
        InputError: there is none.
    """
    if not path.exists():
        raise InputError(
            say(
                "there is no run at {path}: give the directory of one, or an export of it",
                path=path,
            )
        )
    try:
        model = runtime.load(path, threads=os.cpu_count() or 1)
    except OSError as error:
        raise InputError(
            say("cannot read {file}: {reason}", file=path, reason=error.strerror or error)
        ) from error
    if not hasattr(model, "job"):
        raise InputError(
            say(
                "{path} is a chain of modules, and no job knows its input: run it with "
                "elman.runtime.load",
                path=path,
            )
        )
    return model


def predict(path: Path, given: str | None, **options: Any) -> Iterator[str]:
    """Answer for new input with a trained model, without PyTorch.

    Args:
        path: the directory of a run, or a file that `elman export` wrote.
        given: a file, "-" for standard input, or for jobs on text the text itself; None where the
            job goes on from its own data.
        options: under the names of the job's `Prediction`.

    Returns:
        The lines of the output, without their ends.

    Raises:
        InputError: there is no trained model, the input cannot be used, or an option is not one of
            the job's or out of range.
    """
    model = use(path)
    kind = import_module(f"elman.tasks.{model.job}.settings").PREDICTION
    try:
        how = build(kind, options)
    except InputError as error:
        raise InputError(
            say("{path} is a model of {job}: {error}", path=path, job=model.job, error=error)
        ) from error
    answers = import_module(f"elman.tasks.{model.job}.answers")
    if given is None and path.is_dir() and getattr(answers, "GOES_ON", False):
        given = read_config(path)["source"]["files"][0]
    yield from answers.lines(model, given, how)
