"""The models of the jobs of `elman train`, run with NumPy and the core alone.

A module for each job has its model, a class with the name of the job, and `describe`, which says
what a file has of a run. It is imported when that job is first met.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.language import say
from elman.runtime.file import FileError, Stored, digest

__all__ = ["describe", "make", "of_run"]

_JOBS = ("text", "series", "labels", "tags", "pairs")


# The module of a job.
def _module(job: str) -> Any:
    if job not in _JOBS:
        raise KeyError(job)
    return import_module(f"elman.runtime.jobs.{job}")


def make(
    description: Mapping[str, Any], tensors: Mapping[str, Stored], digest: str, threads: int = 1
) -> Any:
    """Make the model of a job.

    Args:
        description: what the file says of it.
        tensors: its weights.
        digest: the checksum of both.
        threads: how many threads a call over many steps may use.

    Raises:
        FileError: there is no such job, or the description does not fit the weights or itself.
        InputError: threads is out of range.
    """
    job = description.get("job")
    if not isinstance(job, str) or job not in _JOBS:
        raise FileError(
            say(
                "the job of the file must be one of {names}, got {got}",
                names=", ".join(_JOBS),
                got=f"{job!r:.40}",
            )
        )
    return getattr(_module(job), job.capitalize())(description, tensors, digest, threads)


def describe(
    run: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return what a file has of a run: its description and its tensors.

    Args:
        run: what was saved beside the weights: the job, source, settings and knowledge.
        tensors: the weights, by the names of the model that was trained.

    Raises:
        FileError: what was saved is not complete.
    """
    arrays = dict(tensors)
    try:
        said = _module(run["job"]).describe(run, arrays)
        known = {"format": 1, "weights": "float32", "job": run["job"], **said}
        stored = {name: Stored(_kind(array), array) for name, array in arrays.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            say("what was saved of the run is not complete: {error}", error=repr(error))
        ) from error
    return known, stored


def _kind(array: NDArray[Any]) -> str:
    return {"float32": "F32", "float64": "F64"}[np.dtype(array.dtype).name]


def of_run(run: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], threads: int = 1) -> Any:
    """Make the model of a run, in memory; see `describe`."""
    description, stored = describe(run, tensors)
    return make(description, stored, digest(description, stored), threads)
