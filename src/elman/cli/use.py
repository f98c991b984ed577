"""The commands that use a run: predict and evaluate."""

import dataclasses
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.flags import flag, set_parameters
from elman.tasks import JOBS, InputError

__all__ = ["evaluate", "predict"]


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    files: Annotated[list[Path], typer.Argument(metavar="DATA...", help="What to judge it on.")],
) -> None:
    """Measure the model of a run on other data, beside the baselines."""
    from elman.tasks import learner
    from elman.tasks.display import conclusion

    print(conclusion(learner.evaluate(run, files)))


def predict(context: typer.Context, **given: Any) -> None:
    """Answer for new input with the best weights of a run.

    A series is forecast on from its end, a text or file gets its labels, tags or counterparts.
    Nothing but the answer goes to standard output.
    """
    run, data, out = given.pop("run"), given.pop("data"), given.pop("out")
    options = {n: v for n, v in given.items() if v is not None and v is not False}
    if out is not None and out.exists():
        raise InputError(f"{out} exists: name a new file, it is not written over")

    from elman.checkpoint import write_atomically
    from elman.tasks import learner

    lines = learner.predict(run, data, **options)
    if out is not None:
        write_atomically(out, "".join(f"{line}\n" for line in lines).encode("utf-8", _BYTES))
        return
    for line in lines:
        sys.stdout.buffer.write(f"{line}\n".encode("utf-8", _BYTES))
        sys.stdout.buffer.flush()


_BYTES = "surrogateescape"  # as they were read
_OPTIONS = {
    field.name: flag(field)
    for job in JOBS
    for field in dataclasses.fields(import_module(f"elman.tasks.{job}.settings").PREDICTION)
}
set_parameters(
    predict,
    {
        "context": typer.Context,
        "run": Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
        "data": Annotated[
            str | None,
            typer.Argument(metavar="[DATA]", help="A file, - for standard input, or a text."),
        ],
        **_OPTIONS,
        "out": Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write there. (default: standard output)"),
        ],
    },
)
