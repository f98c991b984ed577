"""What an explanation is made of before it is drawn: sections of blocks, for terminal and page.

In texts, code stands between backticks.
"""

from dataclasses import dataclass
from typing import TypeAlias

from elman.explanation.checks import Check

__all__ = ["Block", "Box", "Checks", "Code", "Equations", "Picture", "Section", "Table", "Text"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first column being names."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Code:
    """Lines of Python, with what they are for."""

    title: str
    text: str


@dataclass(frozen=True)
class Checks:
    """Equations that hold or do not, under a title or none."""

    title: str
    checks: list[Check]


@dataclass(frozen=True)
class Equations:
    """Lines of terms, each with the size that stands under it, and what the line computes."""

    lines: list[tuple[list[tuple[str, str]], str]]


@dataclass(frozen=True)
class Box:
    """A box of the picture: one layer at one time step.

    Attributes:
        layer: Which layer.
        t: Which time step.
        values: What the box has, for one sequence: its states by direction, as text.
        ends: Whether h_n is taken here, for each direction.
        is_padding: Whether the sequence whose values are shown has ended before.
    """

    layer: int
    t: int
    values: tuple[str, ...]
    ends: tuple[bool, ...]
    is_padding: bool


@dataclass(frozen=True)
class Picture:
    """The layer unrolled over time, for one sequence; long axes are abridged.

    Attributes:
        states: The letters of the states.
        times: The time steps that are drawn; between two that are not neighbours is a gap.
        layers: The layers that are drawn, from below.
        directions: 1 or 2.
        boxes: One for each drawn layer and time step.
        input: What stands below.
        output: What stands above.
        begins: What comes in at the side of each layer and direction, by (layer, direction).
        ends: What goes out there.
        rows: The number and length of each drawn sequence, if they have lengths.
        has_more_rows: Whether there are sequences that are not drawn.
        seq_len: L.
        words: What is written into the picture, by what it is for.
        caption: What the picture says.
    """

    states: str
    times: tuple[int, ...]
    layers: tuple[int, ...]
    directions: int
    boxes: tuple[Box, ...]
    input: str
    output: str
    begins: dict[tuple[int, int], str]
    ends: dict[tuple[int, int], str]
    rows: tuple[tuple[int, int], ...]
    has_more_rows: bool
    seq_len: int
    words: dict[str, str]
    caption: str

    def box(self, layer: int, t: int) -> Box:
        """Return the box of a drawn layer and time step."""
        return next(box for box in self.boxes if (box.layer, box.t) == (layer, t))


Block: TypeAlias = Text | Table | Code | Checks | Equations | Picture


@dataclass(frozen=True)
class Section:
    """A part of an explanation."""

    title: str
    blocks: list[Block]
