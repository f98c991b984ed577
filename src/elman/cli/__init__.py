"""The command line: what the user typed, handed to the task that does it.

    elman train text FILE...    learn to write like a text
    elman sample RUN            write with what was learnt
    elman demo                  see it all at work, with no file needed
    elman bench                 time the layers beside torch.nn's

A mistake of the user ends with exit code 2 and one line that says what to do; nothing is written
over. Commands import what they need when they run, so that help and mistakes are told at once.
"""

import itertools
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

import elman
from elman.cli.bench import bench
from elman.environment import SettingError
from elman.tasks import DivergenceError, InputError
from elman.tasks.config import TextConfig

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train = typer.Typer(help="Train a model on your own files.")
app.add_typer(train, name="train")
app.command()(bench)


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
        return int(app(words, standalone_mode=False, prog_name="elman") or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "elman"
        return _fail(f"{error.format_message()} (see: {command} --help)")
    except (InputError, SettingError) as error:
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


def seconds(text: str) -> float:
    """Read a duration such as 90s, 3m or 1h30m; a bare number is seconds.

    Raises:
        typer.BadParameter: it is none.

    Example:
        >>> seconds("3m"), seconds("1h30m"), seconds("2.5")
        (180.0, 5400.0, 2.5)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text)
    if not text or not found:
        raise typer.BadParameter(f"must be a time such as 90s, 3m or 1h30m, got {text!r}")
    hours, minutes, rest = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + rest


@train.command("text")
def train_text(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="The text, in UTF-8; several are read as one."),
    ] = None,
    cell: Annotated[
        str | None, typer.Option(help=f"lstm, gru or rnn. (default: {TextConfig.cell})")
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(help="Units of each layer. (default: what suits the budget)")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help=f"Recurrent layers. (default: {TextConfig.layers})")
    ] = None,
    embed: Annotated[
        int | None, typer.Option(help=f"Numbers for a character. (default: {TextConfig.embed})")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Rows of text read side by side. (default: chosen)")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Characters between two updates. (default: chosen)")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the text.")] = None,
    max_time: Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            help="Such as 90s, 3m, 1h30m. (default: 3m, if no --epochs)",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. (default: chosen)")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share zeroed in training. (default: chosen)")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help=f"Most of a gradient's norm. (default: {TextConfig.clip})")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Where chance starts. (default: {TextConfig.seed})")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Directory of the run. (default: runs/NAME-OF-FILE)"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN stopped.")] = False,
) -> int:
    """Learn to write like a text, one character at a time.

    What is not given is chosen to suit the text, the time and the machine. Ctrl-C saves, and
    --resume goes on exactly there; so it does from the last checkpoint after a crash.
    """
    from elman.tasks import text
    from elman.tasks.corpus import Corpus
    from elman.tasks.display import Display

    settings = context.params.keys() - {"files", "out", "resume"}
    given = {name: context.params[name] for name in settings if context.params[name] is not None}
    if files:
        given["files"] = tuple(map(str, files))
    elif not (resume and out):
        raise InputError("FILE is missing: name the text, or go on with --resume --out RUN")
    run = out or Path("runs", Path(given["files"][0]).stem)
    with Display() as display, stopped_by_signals() as stop:
        if resume:
            result = text.resume(run, report=display, stop=stop, **given)
        else:
            corpus = Corpus.read(given.pop("files"))
            config = text.configure(corpus, **given)
            result = text.train(config, corpus, run, report=display, stop=stop)
    if result.finished:
        print(f"Kept in {run}; see {run / 'loss.png'}. Write with: elman sample {run}")
        return 0
    return _fail(
        f"stopped at update {result.step}; all is saved."
        f" Go on with: elman train text --resume --out {run}",
        130,
    )


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C, or a request to terminate, stop training between two updates.

    Yields:
        What to ask whether to stop. The first signal makes it say so; a second Ctrl-C stops the
        program at once.
    """
    stopping = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
