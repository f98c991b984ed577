"""A trained model, loaded from its run and used: measured on other data, asked for answers."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from elman.extras import needed

with needed("a trained model", "train"):
    import torch

from elman.checkpoint import under
from elman.tasks import InputError, find
from elman.tasks.job import Conclusion, Job, Trained
from elman.tasks.run import Run
from elman.tasks.settings import build

__all__ = ["described", "evaluate", "load", "predict"]


def described(run: Run) -> tuple[Job, Any, Any]:
    """Return the job, the source and the settings that a run's config.json describes.

    Raises:
        InputError: it is not complete, or something in it is out of range.
    """
    try:
        job = find(run.config["job"])
        source, settings = run.config["source"], run.config["settings"]
        return job, build(job.Source, source), build(job.Settings, settings)
    except (KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{run.path} is not a run: {error} in its config.json") from error


def load(path: Path) -> Trained:
    """Load the model of a run, ready to be used.

    Args:
        path: the directory of the run; its best weights are used, or the last if it was stopped
            before it was first evaluated.

    Raises:
        InputError: there is none.
    """
    run = Run.open(path)
    file = run.best if run.best.exists() else run.last
    if not file.exists():
        raise InputError(f"{path} has no checkpoint yet: train it first, with --resume")
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
        raise InputError(f"{file} is not a checkpoint of a model: {error}") from error
    return Trained(job, model.eval(), source, settings, knowledge)


def evaluate(run: Path, files: Iterable[str | Path]) -> Conclusion:
    """Measure the model of a run on other data.

    Args:
        run: the directory of the run.
        files: the data.

    Returns:
        What the model is worth there, beside the baselines.

    Raises:
        InputError: there is no trained model, or the data cannot be used with it.
    """
    trained = load(run)
    held_out = trained.job.read_held_out(trained, tuple(map(str, files)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return trained.job.conclude(trained, held_out)


def predict(run: Path, given: str | None, **options: Any) -> Iterator[str]:
    """Answer for new input with the model of a run.

    Args:
        run: the directory of the run.
        given: a file, "-" for standard input, or for jobs on text the text itself; None where the
            job goes on from its own data.
        options: under the names of the job's `Prediction`.

    Returns:
        The lines of the output, without their ends.

    Raises:
        InputError: there is no trained model, the input cannot be used, or an option is not one of
            the job's or out of range.
    """
    trained = load(run)
    try:
        how = build(trained.job.Prediction, options)
    except InputError as error:
        raise InputError(f"{run} is a run of {trained.job.name}: {error}") from error
    with torch.no_grad():
        yield from trained.job.predict(trained, given, how)
