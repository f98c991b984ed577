"""The command line: what the user typed, handed to the task that does it.

    elman train JOB FILE...     train a model on your own files
    elman predict RUN [DATA]    answer for new input with what was learnt
    elman export RUN OUT        write it to one file, for NumPy alone or as ONNX
    elman evaluate RUN DATA     measure it on other data
    elman info RUN              tell of a run; elman compare RUN RUN tells what differs
    elman report RUN            tell of it in one HTML page
    elman sample RUN            write with a model of text
    elman demo                  see it all at work, with no file needed
    elman explain lstm          axes, states and equations of a layer of your sizes
    elman bench                 time the layers beside torch.nn's
    elman verify                compare this machine's bits with those of the release

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
from elman.cli.explain import explain
from elman.cli.flags import Group, with_flags
from elman.cli.process import EarlyStopError, end_streams, interruptible, prepare_streams
from elman.cli.train import train, with_job
from elman.cli.use import compare, evaluate, export, info, predict, report
from elman.cli.verify import verify
from elman.environment import SettingError
from elman.extras import MissingError, needed
from elman.tasks import JOBS, DivergenceError, InputError
from elman.tasks.terminal import printable, printable_pieces

__all__ = ["main"]

app = typer.Typer(
    cls=Group,
    epilog="""\b
Examples:
  elman demo                              show everything, in a minute
  elman train text book.txt               train for three minutes
  elman train text --resume --out runs/book --max-time 10m
  elman sample runs/book --prime "The " --temperature 0.7""",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train, name="train")
_COMMANDS = predict, evaluate, export, info, compare, report, bench, explain, verify
for _command in _COMMANDS:
    app.command()(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `elman`; those of the process if None.

    Returns:
        The exit code: 0 if all went well, 1 if training diverged or a file cannot be written, 2 for
        a mistake of the user's, 130 after Ctrl-C and 128 + N after signal N (a training was
        saved, and can go on).

    Example:
        >>> main(["sample", "no-such-run"])
        2
    """
    if argv is not None:
        return _run(list(argv))
    prepare_streams()
    try:
        return _run(sys.argv[1:])
    finally:
        end_streams()


def _run(words: list[str]) -> int:
    """Run the command that the words say; return its exit code."""
    try:
        words = with_job(words)
        with needed(*_what_needs(words)):
            return int(app(words, standalone_mode=False, prog_name="elman") or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "elman"
        return _fail(f"{error.format_message()} (see: {command} --help)")
    except InputError as error:
        return _fail(with_flags(str(error), error.settings))
    except (MissingError, SettingError) as error:
        return _fail(str(error))
    except EarlyStopError as error:
        return _fail("stopped before the training began; nothing is lost", 128 + error.number)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read has seen enough
        return 1
    except DivergenceError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(error.strerror or str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return _fail("there is not enough memory: take a smaller model, or smaller batches", 1)


def _what_needs(words: list[str]) -> tuple[str, str]:
    """Return a command as it is called, and the extra that brings all that it imports."""
    if words[:1] == ["train"] and words[1:2] and words[1] in JOBS:
        return f"elman train {words[1]}", words[1]
    return " ".join(["elman", *words[:1]]), "train"


def _fail(message: str, code: int = 2) -> int:
    print("elman:", printable(" ".join(message.split())), file=sys.stderr)
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
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The directory of a run, or an exported file.")
    ],
    prime: Annotated[str, typer.Option(help="Text to continue.")] = "",
    length: Annotated[int, typer.Option(help="Characters to write.")] = 500,
    temperature: Annotated[
        float,
        typer.Option(
            help="Below 1: more predictable; above 1: more varied; 0: always the most likely."
        ),
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(help="Choose among the K most likely symbols. (default: all)")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed writes the same text. (default: another)")
    ] = None,
) -> None:
    """Write text with the best weights of a run, or with an exported file."""
    from elman.tasks import text

    written = text.sample(
        run, prime=prime, length=length, temperature=temperature, top_k=top_k, seed=seed
    )
    # Into a file or a pipe goes what was learnt, byte for byte; to a terminal what it can show.
    pieces = itertools.chain([prime], written, ["\n"])
    if sys.stdout.isatty():
        for piece in printable_pieces(pieces):
            print(piece, end="", flush=True)
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


@app.command("demo")
def show_demo(
    quick: Annotated[bool, typer.Option("--quick", help="The same, smaller.")] = False,
) -> None:
    """Show everything in about a minute; no file is needed."""
    from elman.tasks import demo

    interruptible()
    demo.show(quick=quick)
