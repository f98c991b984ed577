"""An explanation on a terminal, or as plain text: sections drawn by rich."""

import io
import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table as RichTable
from rich.text import Text as RichText

from elman.explanation.blocks import Block, Checks, Code, Equations, Picture, Section, Table, Text
from elman.explanation.picture import characters

__all__ = ["as_text", "renderables"]

_STYLES = {
    "output": "bold blue",
    "state": "bold dark_orange",
    "input": "bold green",
    "line": "dim",
    "dim": "dim",
    "box": "",
    "": "",
}


def as_text(title: str, sections: Sequence[Section], colour: bool = False, width: int = 80) -> str:
    """Return an explanation as text of a width, with the colours of a terminal if asked for."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        force_jupyter=False,
        no_color=not colour,
        highlight=False,
        legacy_windows=False,
        color_system="256" if colour else None,
    )
    console.print(Group(*renderables(title, sections)))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def renderables(title: str, sections: Sequence[Section]) -> Iterator[ConsoleRenderable]:
    """Return what rich prints of an explanation."""
    yield RichText(title, style="bold")
    for section in sections:
        yield RichText()
        yield Rule(RichText(section.title, style="bold"), align="left", style="dim")
        for block in section.blocks:
            yield _drawn(block)


def _drawn(block: Block) -> ConsoleRenderable:
    if isinstance(block, Text):
        return Padding(marked(block.text), (1, 0, 0, 0))
    if isinstance(block, Table):
        return Padding(_table(block), (1, 0, 0, 2))
    if isinstance(block, Code):
        code = Syntax(
            block.text, "python", theme="ansi_dark", background_color="default", word_wrap=True
        )
        return Padding(Group(marked(block.title + ":"), Padding(code, (0, 0, 0, 2))), (1, 0, 0, 0))
    if isinstance(block, Checks):
        return _checks(block)
    if isinstance(block, Equations):
        return Padding(Group(*_equations(block)), (1, 0, 0, 2))
    return Padding(Group(*_picture(block), RichText(), marked(block.caption)), (1, 0, 0, 0))


def marked(text: str) -> "Wrapped":
    """Return a text with what stands between backticks as code."""
    result = RichText()
    for i, part in enumerate(re.split(r"`([^`]*)`", text)):
        result.append(part, "bold" if i % 2 else "")
    return Wrapped(result)


# A word with the marks at its sides, or a Chinese letter with those that may not leave it.
_PIECES = re.compile(
    r"\s+|[（“]*[\u2e80-\u9fff][，。：；、）”？！]*|[^\s\u2e80-\u9fff，。：；、（）“”？！]+[，。：；、）”？！]*|."
)


class Wrapped:
    """Text in lines, which break between words and between Chinese letters."""

    def __init__(self, text: RichText) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RichText]:
        for line in self.text.split("\n"):
            for piece in line.divide(_breaks(line.plain, options.max_width)):
                piece.rstrip()
                piece.no_wrap, piece.overflow = True, "crop"
                yield piece

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((cell_len(line) for line in self.text.plain.split("\n")), default=0)
        return Measurement(min(longest, 10), longest)


def _breaks(text: str, width: int) -> list[int]:
    offsets, used = [], 0
    for found in _PIECES.finditer(text):
        size = cell_len(found[0].rstrip())
        if used and used + size > width and not found[0].isspace():
            offsets.append(found.start())
            used = 0
        if size > width:  # a word that is longer than a line
            offsets += range(found.start() + width, found.end(), width)
            used = size % width
        else:
            used += cell_len(found[0])
    return offsets


def _table(block: Table) -> RichTable:
    table = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for i, name in enumerate(block.head):
        table.add_column(
            name,
            style="bold cyan" if i == 0 else "",
            min_width=max((cell_len(row[0]) for row in block.rows), default=0) if i == 0 else None,
        )
    for row in block.rows:
        table.add_row(*(Wrapped(RichText(cell)) for cell in row))
    return table


def _checks(block: Checks) -> ConsoleRenderable:
    table = RichTable(box=None, padding=(0, 1, 0, 0), show_header=False, show_edge=False)
    table.add_column(no_wrap=True, width=1)
    table.add_column()
    for check in block.checks:
        sign = RichText("✓", "bold green") if check.holds else RichText("✗", "bold red")
        said = RichText()
        said.append(check.code, "bold")
        said.append(f": {check.holds}\n", "green" if check.holds else "red")
        said.append_text(marked(check.why).text)
        table.add_row(sign, Wrapped(said))
    title = [RichText(block.title, style="bold underline")] if block.title else []
    return Padding(Group(*title, table), (1, 0, 0, 0))


def _equations(block: Equations) -> Iterator[RichText]:
    for terms, meaning in block.lines:
        upper, lower = RichText(), RichText()
        for term, size in terms:
            width = max(len(term), len(size))
            upper.append(term.ljust(width) + " ", "bold" if size else "")
            lower.append(size.ljust(width) + " ", "dim cyan")
        yield upper
        lower.append(f"  {meaning}", "dim italic")
        yield lower


def _picture(block: Picture) -> Iterator[RichText]:
    for pieces in characters(block):
        yield RichText.assemble(
            *((text, _STYLES[kind]) for text, kind in pieces), no_wrap=True, overflow="crop"
        )
