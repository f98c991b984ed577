"""The command line: what the user typed, handed to the task that does it.

    elman train JOB FILE...     train a model on your own files
    elman predict RUN [DATA]    answer for new input with what was learnt
    elman evaluate RUN DATA     measure it on other data
    elman info RUN              tell of a run; elman compare RUN RUN tells what differs
    elman report RUN            tell of it in one HTML page
    elman sample RUN            write with a model of text
    elman demo                  see it all at work, with no file needed
    elman bench                 time the layers beside torch.nn's

A mistake of the user ends with exit code 2 and one line that says what to do; nothing is written
over. Commands import what they need when they run, so that help and mistakes are told at once.
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

import elman
from elman.cli.bench import bench
from elman.cli.train import train, with_job
from elman.cli.use import compare, evaluate, info, predict, report
from elman.tasks import DivergenceError, InputError

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train, name="train")
for _command in (predict, evaluate, info, compare, report, bench):
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `elman`; those of the process if None.

    Returns:
        The exit code: 0 if all went well, 1 if training diverged or a file cannot be written, 2 for
        a mistake of the user's, 130 after Ctrl-C (a training was saved, and can go on).

    Example:
        >>> main(["sample", "no-such-run"])
        2
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        words = with_job(words)
        return int(app(words, standalone_mode=False, prog_name="elman") or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "elman"
        return _fail(f"{error.format_message()} (see: {command} --help)")
    except InputError as error:
        return _fail(str(error))
    except (DivergenceError, OSError) as error:
        return _fail(str(error), 1)


def _fail(message: str, code: int = 2) -> int:
    print("elman:", " ".join(message.split()), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train recurrent networks on your own files, on the CPU, fast."""
    if version:
        print("elman", elman.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")],
    prime: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    length: Annotated[int, typer.Option(help="Characters to write.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 is safer, above 1 bolder, 0 the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(help="Choose among the K likeliest. (default: all)")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed writes the same. (default: another)")
    ] = None,
) -> None:
    """Write with the best weights of a run."""
    from elman.tasks import text
    from elman.tasks.display import printable

    written = text.sample(
        run, prime=prime, length=length, temperature=temperature, top_k=top_k, seed=seed
    )
    # Into a file or a pipe goes what was learnt, byte for byte; to a terminal what it can show.
    show = printable if sys.stdout.isatty() else str
    for piece in itertools.chain([prime], written, ["\n"]):
        sys.stdout.buffer.write(show(piece).encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


@app.command("demo")
def show_demo(
    quick: Annotated[bool, typer.Option("--quick", help="The same, smaller.")] = False,
) -> None:
    """See it all at work in about a minute, with no file needed."""
    from elman.tasks import demo

    demo.show(quick=quick)
