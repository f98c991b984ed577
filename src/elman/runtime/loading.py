"""Models from files and from the directories of runs."""

import os
from pathlib import Path
from typing import Any

from elman.runtime.file import read
from elman.runtime.model import Model

__all__ = ["load"]


def load(path: str | os.PathLike[str], threads: int = 1) -> Any:
    """Load a model.

    Args:
        path: a file that `elman.save` or `elman export` wrote, or the directory of a run of `elman
            train`, whose best weights are taken.
        threads: how many threads a call over many steps may use, from 1 to 1024. A step of a
            session uses the caller's alone; results do not depend on it.

    Returns:
        A `Model`; and of what a job trained the model of that job: `Text` (a `Model` too),
        `Series`, `Labels`, `Tags` or `Pairs`.

    Raises:
        FileError: it is no model file, or damaged, or of a newer format; or the directory is not
            one of a run with a model.
        InputError: threads is out of range.
        OSError: it cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        from elman.runtime import jobs, run

        tensors, saved = run.read(path)
        return jobs.of_run(saved, tensors, threads)
    description, stored, digest = read(path)
    if "job" in description:
        from elman.runtime import jobs

        return jobs.make(description, stored, digest, threads)
    return Model(description, stored, digest, threads)
