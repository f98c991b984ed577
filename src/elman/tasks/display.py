"""What is seen of a training: a bar that moves on a terminal, plain lines anywhere else."""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from elman.tasks.terminal import printable

if TYPE_CHECKING:  # importing it imports PyTorch, which a table of what is in a file does not need
    from elman.tasks.job import Conclusion

__all__ = ["Display", "conclusion", "table"]

_LINE_EVERY_S = 10.0  # where there is no bar


class _Console(Console):
    """A console that leaves it to the caller what to do when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Let the error be seen; Rich would end the process."""
        raise


class Display:
    """Show the records of a training as they come; use it in a `with` statement.

    Args:
        console: where to show them; the process's output if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Choose between bar and lines by whether the console is a terminal that can move back."""
        self.console = console or _Console(highlight=False, markup=False)
        self._bar = Progress(
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal or self.console.is_dumb_terminal,
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
        """Take the bar away, if there still is a terminal."""
        with suppress(OSError):
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
                self._print(f"{_where(record)}  held out: {_measures(record['metrics'])}{mark}")
                if record["preview"]:
                    self._print(record["preview"].strip("\r\n"), style="dim", indent=4)
            case "result":
                from elman.tasks.job import Conclusion

                found = Conclusion(record["metrics"], record["baselines"], record["lines"])
                self._print(
                    f"{_where(record)}  all that is held out, best weights: {conclusion(found)}"
                )
            case "note":
                self._print(record["note"])

    def _print(self, text: str, style: str = "", indent: int = 0) -> None:
        # On a terminal lines are folded at its width; into a file they go as they are.
        for line in printable(text).split("\n"):
            if self.console.is_terminal:
                self.console.print(Padding(Text(line, style), (0, 0, 0, indent), expand=False))
            else:
                self.console.print(Text(" " * indent + line), soft_wrap=True)
        self._printed = time.monotonic()


def conclusion(found: "Conclusion") -> str:
    """Return in plain text what a model is worth: its measures, the baselines', and what it means.

    Example:
        >>> from elman.tasks.job import Conclusion
        >>> found = Conclusion({"mae": 1.5}, {"mean": {"mae": 2.0}}, ("The model wins.",))
        >>> print(conclusion(found))
        mae 1.5
                      mae
        model         1.5
        mean            2
        The model wins.
    """
    lines = [_measures(found.metrics)]
    if found.baselines:
        lines.append(_beside(found.metrics, found.baselines))
    return "\n".join([*lines, *found.lines])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a plain table: the first column to the left, the others to the right."""
    made = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        made.add_column(Text(head), justify="right" if index else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _start(record: dict[str, Any]) -> str:
    settings = record["settings"]
    layers = f"{settings['layers']} layers" if settings["layers"] > 1 else "1 layer"
    budgets = []
    if settings["epochs"] is not None:
        budgets.append(f"{settings['epochs']} epochs")
    if settings["max_time"] is not None:
        budgets.append(_duration(settings["max_time"]))
    resumed = f", going on from update {record['step']}" if record["step"] else ""
    return "\n".join(
        (
            *record["notes"],
            f"{settings['cell'].upper()}, {layers} of {settings['hidden']}:"
            f" {record['weights']:,} weights; {record['batch']}",
            f"{' or '.join(budgets)} of training into {record['run']}{resumed}",
            *(
                [f"{1000 * record['seconds_per_update']:.1f} ms an update"]
                if "seconds_per_update" in record
                else []
            ),
        )
    )


def _where(record: dict[str, Any]) -> str:
    return f"update {record['step']:>6,}  epoch {record['epoch']:.2f}"


def _measures(metrics: dict[str, float]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:,}' if isinstance(value, int) else f'{value:.4g}'}"
        for name, value in metrics.items()
    )


_WIDTH = 80  # of a table in plain text


# The measures of the model and of the baselines as tables in plain text, next to each other as far
# as a terminal is wide.
def _beside(metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> str:
    rows = {"model": metrics, **baselines}
    first = max(map(len, rows))
    heads = {n: n.replace("_", " ") for n in metrics if any(n in of for of in baselines.values())}
    lines: list[str] = []
    while heads:
        names: list[str] = []
        width = first
        for name, head in heads.items():
            width += 2 + max(10, len(head))
            if names and width > _WIDTH:
                break
            names.append(name)
        columns = {name: heads.pop(name) for name in names}
        shown = [("", columns)] + [
            (row, {n: f"{of[n]:.4g}" if n in of else "" for n in names}) for row, of in rows.items()
        ]
        for row, cells in shown:
            padded = (f"  {cells[n]:>{max(10, len(columns[n]))}}" for n in names)
            lines.append(f"{row:<{first}}" + "".join(padded))
    return "\n".join(lines)


def _state(record: dict[str, Any]) -> str:
    clock = record["clock"]
    return (
        f"loss {record['loss']:.3f}  {clock['units_per_second']:,.0f} {clock['unit']}/s"
        f"  {_duration(clock['seconds_left'])} left"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
