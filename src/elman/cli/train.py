"""The commands `elman train JOB`: one for each job, its flags made from the job's settings.

A flag has the name, type, range, default and help of a field of the job's `Source` or `Settings`;
see `elman.tasks.settings`. What every job has besides, such as --out and --resume, stands here.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.cli.flags import Command, flag, seconds, set_parameters
from elman.cli.process import stopped_by_signals
from elman.extras import needed
from elman.tasks import JOBS, InputError
from elman.tasks.files import check
from elman.tasks.run import Run
from elman.tasks.settings import check as check_settings
from elman.tasks.terminal import printable, quoted

__all__ = ["train", "with_job"]

train = typer.Typer(
    help="Train a model on your own files.",
    epilog="Without a job, it is guessed from the file: elman train FILE.",
)


def with_job(words: list[str]) -> list[str]:
    """Name the job in `elman train FILE`, where the user left it out, and say which and why.

    Args:
        words: what was typed after `elman`.

    Raises:
        InputError: the file is of no kind that a job recognises.
    """
    if words[:1] != ["train"] or len(words) < 2 or words[1] in JOBS or words[1].startswith("-"):
        return words
    path = Path(words[1])
    if not path.exists():
        return words  # a mistyped job, most likely: typer tells which there are
    for job in sorted(JOBS, key=lambda job: job == "text"):  # which takes any file
        reason = import_module(f"elman.tasks.{job}.settings").recognises(path)
        if reason:
            print(printable(f"{words[1]} {reason}: elman train {job}", breaks=""), file=sys.stderr)
            return ["train", job, *words[1:]]
    raise InputError(f"{words[1]} is of no kind known here: name a job, {', '.join(JOBS)}")


def _command(job: str) -> Callable[..., int]:
    """Return the function of `elman train JOB`, with a parameter for each flag."""
    settings = import_module(f"elman.tasks.{job}.settings")

    def command(**given: Any) -> int:
        return _train(job, {n: v for n, v in given.items() if v is not None and v is not False})

    made = [
        field
        for kind in (settings.SOURCE, settings.SETTINGS)
        for field in dataclasses.fields(kind)
        if field.name != "files"
    ]
    parameters = {
        "files": Annotated[list[Path] | None, typer.Argument(metavar="FILE", help=settings.FILES)],
        **{field.name: flag(field) for field in made},
        "out": Annotated[
            Path | None,
            typer.Option(metavar="RUN", help="Directory of the run. (default: runs/NAME-OF-FILE)"),
        ],
        "resume": Annotated[bool, typer.Option("--resume", help="Continue where RUN stopped.")],
        "init_from": Annotated[
            Path | None,
            typer.Option(metavar="RUN", help="Start from the best weights of this run."),
        ],
        "config": Annotated[
            Path | None,
            typer.Option(
                metavar="FILE.toml", help="Read flags from a file; flags given here override it."
            ),
        ],
        "tensorboard": Annotated[
            bool, typer.Option("--tensorboard", help="Write the curves for TensorBoard too.")
        ],
        "dry_run": Annotated[
            bool,
            typer.Option("--dry-run", help="Print what was read and chosen, and stop."),
        ],
    }
    set_parameters(command, parameters)
    command.__doc__ = (
        f"{settings.SUMMARY}\n\nSettings that are not given are chosen from the data, the time and"
        " the machine. Ctrl-C saves, and --resume continues exactly there; after a crash, it"
        " continues from the last checkpoint."
    )
    return command


def _train(job: str, given: dict[str, Any]) -> int:
    """Train as the flags say; return the exit code."""
    given = _with_config(job, given)
    out, resume = given.pop("out", None), given.pop("resume", False)
    with_tensorboard, dry_run = given.pop("tensorboard", False), given.pop("dry_run", False)
    if "files" in given:
        given["files"] = tuple(map(str, given["files"]))
    elif not (resume and out):
        raise InputError("FILE is missing: name the data, or go on with --resume --out RUN")
    run = Path(out or Path("runs", Path(given["files"][0]).stem))
    _refuse_mistakes(job, run, resume, given)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        # A thread of PyTorch's that waits for another one keeps its core busy if not told
        # otherwise. Beside another busy process the other thread has no core of its own, and waits
        # for this one in turn: in five seconds two threads made 6 updates, and one thread 221.
        os.environ["GOMP_SPINCOUNT"] = "1000"

    from elman.tasks import find, training
    from elman.tasks.display import Display

    if dry_run:
        with Display() as display:
            display(training.plan(find(job), run, **given))
        return 0
    with (
        Display() as display,
        stopped_by_signals() as stop,
        _recorder(run, with_tensorboard) as record,
    ):

        def report(what: dict[str, Any]) -> None:
            stop.begin()
            try:
                display(what)
            except OSError:  # the terminal was closed, or whoever read
                stop.tell("the output was closed")
            record(what)

        how: dict[str, Any] = {"report": report, "stop": stop, "clock": stop.clock}
        if resume:
            result = training.resume(run, job=find(job), **how, **given)
        else:
            result = training.train(find(job), run, **how, **given)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        return 0 if result.finished else stop.code
    if result.finished:
        use = "sample" if job == "text" else "predict"
        plot = f"; see {run / 'loss.png'}" if (run / "loss.png").exists() else ""
        print(printable(f"Kept in {run}{plot}. Use it with: elman {use} {quoted(run)}"))
        return 0
    print(
        f"elman: stopped at update {result.step} ({stop.reason}); all is saved."
        f" Go on with: elman train {job} --resume --out {quoted(run)}",
        file=sys.stderr,
    )
    return stop.code


def _refuse_mistakes(job: str, run: Path, resume: bool, given: dict[str, Any]) -> None:
    """Refuse what can be seen to be wrong without PyTorch, which takes seconds to load."""
    settings = import_module(f"elman.tasks.{job}.settings")
    for kind in (settings.SOURCE, settings.SETTINGS):
        check_settings(kind, given)
    for name in given.get("files", ()):
        if not Path(name).is_dir():
            check(name)
    if resume:
        Run.open(run)
    else:
        Run.refuse_to_overwrite(run)


def _with_config(job: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given, and what stands in the --config file beside."""
    path = given.pop("config", None)
    if path is None:
        return given
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        read = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    settings = import_module(f"elman.tasks.{job}.settings")
    fields = {
        field.name: field
        for kind in (settings.SOURCE, settings.SETTINGS)
        for field in dataclasses.fields(kind)
    }
    values: dict[str, Any] = {}
    for key, value in read.items():
        name = key.replace("-", "_")
        if name not in {*fields, "out", "init_from", "tensorboard"}:
            raise InputError(f"{path}: there is no setting {key!r}; see elman train {job} --help")
        if name == "max_time" and isinstance(value, str):
            value = seconds(value)
        if isinstance(value, list):
            value = tuple(value)
        values[name] = [value] if name == "files" and isinstance(value, str) else value
    return values | given


@contextmanager
def _recorder(run: Path, wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what takes each record to TensorBoard, or nowhere."""
    if not wanted:
        yield lambda record: None
        return
    with needed("--tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    made: list[Any] = []

    def record(what: dict[str, Any]) -> None:
        if what["kind"] == "start":  # when the run's directory is there
            made.append(SummaryWriter(str(run / "tensorboard"), purge_step=what["step"]))
            return
        numbers = {"loss": what.get("loss"), "lr": what.get("lr"), **what.get("metrics", {})}
        for name, number in numbers.items():
            if number is not None:
                made[0].add_scalar(f"{what['kind']}/{name}", number, what["step"])

    try:
        yield record
    finally:
        for writer in made:
            writer.close()


_EXAMPLES = """\b
Examples:
  elman train {job} FILE                     three minutes, all else chosen
  elman train {job} FILE --max-time 1h --out runs/long
  elman train {job} --resume --out runs/long --max-time 2h"""

for _job in JOBS:
    train.command(_job, cls=Command, epilog=_EXAMPLES.format(job=_job))(_command(_job))
