"""What is seen of a training: a bar that moves on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

__all__ = ["Display", "printable"]

_LINE_EVERY_S = 10.0  # where there is no bar


class Display:
    """Show the records of a training as they come; use it in a `with` statement.

    Args:
        console: where to show them; the process's output if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Choose between bar and lines by whether the console is a terminal."""
        self.console = console or Console(highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=1.0)
        self._printed = time.monotonic()

    def __enter__(self) -> "Display":
        """Start to show."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        """Show one record."""
        match record["kind"]:
            case "start":
                self._print(_start(record))
            case "train":
                self._bar.update(
                    self._task, completed=record["progress"], description=_state(record)
                )
                if self._bar.disable and time.monotonic() - self._printed > _LINE_EVERY_S:
                    self._print(f"{_where(record)}  {_state(record)}")
            case "evaluation":
                mark = " (best)" if record["best"] else ""
                self._print(f"{_where(record)}  held-out text: {_loss(record)}{mark}")
                self._print(printable(record["sample"]).strip("\n"), style="dim", indent=4)
            case "result":
                self._print(
                    f"{_where(record)}  held-out text, all of it, best weights: {_loss(record)}"
                )

    def _print(self, text: str, style: str = "", indent: int = 0) -> None:
        # On a terminal lines are folded at its width; into a file they go as they are.
        for line in text.split("\n"):
            if self.console.is_terminal:
                self.console.print(Padding(Text(line, style), (0, 0, 0, indent), expand=False))
            else:
                self.console.print(Text(" " * indent + line), soft_wrap=True)
        self._printed = time.monotonic()


def printable(text: str) -> str:
    """Replace what would disturb a terminal or cannot be shown: control codes and bare bytes.

    Example:
        >>> printable("a\\x1b[31m\\n\\udcff")
        'a\\ufffd[31m\\n\\ufffd'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _start(record: dict[str, Any]) -> str:
    config, text = record["config"], record["text"]
    layers = f"{config['layers']} layers" if config["layers"] > 1 else "1 layer"
    budgets = []
    if config["epochs"] is not None:
        budgets.append(f"{config['epochs']} epochs")
    if config["max_time"] is not None:
        budgets.append(_duration(config["max_time"]))
    resumed = f", going on from update {record['step']}" if record["step"] else ""
    return (
        f"{text['characters']:,} characters, {text['symbols']} different, the last"
        f" {text['held_out']:,} held out\n"
        f"{config['cell'].upper()}, {layers} of {config['hidden']}: {record['weights']:,} weights;"
        f" {config['batch']} rows x {config['chunk']} characters an update\n"
        f"{' or '.join(budgets)} of training into {record['run']}{resumed}"
    )


def _where(record: dict[str, Any]) -> str:
    return f"update {record['step']:>6,}  epoch {record['epoch']:.2f}"


def _loss(record: dict[str, Any]) -> str:
    return f"loss {record['loss']:.4f}, {record['bits_per_character']:.3f} bits/char"


def _state(record: dict[str, Any]) -> str:
    clock = record["clock"]
    return (
        f"loss {record['loss']:.3f}  {record['bits_per_character']:.2f} bits/char"
        f"  {clock['characters_per_second']:,.0f} chars/s  {_duration(clock['seconds_left'])} left"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
