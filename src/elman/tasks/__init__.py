"""Whole jobs, from the user's files to a trained model: what the command line does, from Python.

A job is a package here, named as in `elman train NAME`: its functions in __init__.py, the settings
of its own in settings.py, and in job.py what the training loop, `elman.tasks.learner`, asks of it.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from elman.errors import InputError

if TYPE_CHECKING:
    from elman.tasks.job import Job

__all__ = ["JOBS", "DivergenceError", "InputError", "find"]

# The names of the jobs: of the packages here.
JOBS = tuple(sorted(module.name for module in iter_modules(__path__) if module.ispkg))


class DivergenceError(ArithmeticError):
    """In training the loss or a gradient grew without bound, or is no number."""


def find(name: str) -> "Job":
    """Return the job of a name.

    Raises:
        InputError: there is none.

    Example:
        >>> find("text").unit
        'symbols'
    """
    if name not in JOBS:
        raise InputError(f"there is no job {name!r}: use {', '.join(JOBS)}")
    job: Job = import_module(f"elman.tasks.{name}.job").JOB
    return job
