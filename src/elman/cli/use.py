"""The commands that use a run: predict, evaluate, export, info, compare and report."""

import dataclasses
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.flags import flag, set_parameters
from elman.tasks import JOBS, InputError
from elman.tasks.terminal import printable

__all__ = ["compare", "evaluate", "export", "info", "predict", "report"]

_RUN = "The directory of a run, or a file exported from one."


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    files: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Data to evaluate on.")],
) -> None:
    """Evaluate the model of a run on other data, with the baselines."""
    from elman.tasks import trained
    from elman.tasks.display import conclusion

    print(conclusion(trained.evaluate(run, files)))


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file: OUT.elman, or OUT.onnx.")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="float32|bf16|int8", help="How matrices are stored. (default: float32)"
        ),
    ] = "float32",
) -> None:
    """Write the best weights of a run to one file, with all that its answers need.

    OUT.elman is used by sample, predict and elman.runtime, where NumPy alone is installed. What
    weights of fewer bits cost is measured on what the run held out.
    """
    from elman.tasks.exporting import export as write

    for line in write(run, out, weights):
        print(printable(line))


def predict(**given: Any) -> None:
    """Predict for new input with the best weights of a run, or with an exported file.

    Forecasts a series after its end, or finds the labels, tags or targets of a text or file.
    Only the answer is written to standard output.
    """
    run, data, out = given.pop("run"), given.pop("data"), given.pop("out")
    options = {n: v for n, v in given.items() if v is not None and v is not False}
    if out is not None and out.exists():
        raise InputError(f"{out} exists: name a new file, it is not written over")

    from elman.checkpoint import write_atomically
    from elman.tasks import trained

    lines = trained.predict(run, data, **options)
    if out is not None:
        write_atomically(out, "".join(f"{line}\n" for line in lines).encode("utf-8", _BYTES))
        return
    for line in lines:
        if sys.stdout.isatty():
            print(printable(line), flush=True)
            continue
        sys.stdout.buffer.write(f"{line}\n".encode("utf-8", _BYTES))
        sys.stdout.buffer.flush()


def info(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
) -> None:
    """Print the job, data, settings, weights, time and measures of a run.

    Of a file: its job, its modules, and what it knows.
    """
    from elman.tasks.facts import read, read_file

    if run.is_file():
        _tell(run, *read_file(run))
        return
    facts = read(run)
    state = "finished" if facts.finished else "not finished"
    told = {
        "job": facts.job,
        **facts.source,
        **facts.data,
        **facts.settings,
        "updates": facts.step,
        "seconds": round(facts.seconds, 1),
        "state": state,
        **facts.metrics,
    }
    _tell(run, told, facts.weights)
    for line in facts.lines:
        print(printable(line))


def _tell(path: Path, told: Mapping[str, Any], weights: Mapping[str, tuple[int, ...]]) -> None:
    """Print what is told of a run or a file, and the shapes of its weights."""
    from rich.console import Console

    from elman.tasks.display import table

    rows = [[printable(name), _shown(value)] for name, value in told.items() if value is not None]
    console = Console(highlight=False, markup=False)
    console.print(table(["", printable(str(path))], rows))
    shapes = [[printable(name), " x ".join(map(str, of))] for name, of in weights.items()]
    console.print(table(["weight", "shape"], shapes))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more runs.")],
) -> None:
    """Print the settings that differ between runs, and their measures side by side."""
    from rich.console import Console

    from elman.tasks import facts
    from elman.tasks.display import table

    if len(runs) < 2:
        raise InputError("compare needs two runs or more: elman compare RUN RUN")
    settings, metrics = facts.compare([facts.read(run) for run in runs])
    heads = ["", *(printable(str(run)) for run in runs)]
    console = Console(highlight=False, markup=False)
    for columns in (settings, metrics):
        rows = [[name, *map(_shown, values)] for name, values in columns.items()]
        if rows:
            console.print(table(heads, rows))


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write there. (default: RUN/report.html)")
    ] = None,
) -> None:
    """Write one HTML page about a run; it works offline, and on a phone."""
    from elman.tasks.report import write

    print(printable(str(write(run, out))))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value)))
    return "" if value is None else printable(str(value))


_BYTES = "surrogateescape"  # as they were read
_OPTIONS = {
    field.name: flag(field)
    for job in JOBS
    for field in dataclasses.fields(import_module(f"elman.tasks.{job}.settings").PREDICTION)
}
set_parameters(
    predict,
    {
        "run": Annotated[Path, typer.Argument(metavar="RUN", help=_RUN)],
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
