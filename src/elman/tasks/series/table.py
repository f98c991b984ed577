"""Tables as they come in files, as columns of cells; every mistake is told with its row and column.

polars reads files of Parquet. Cells stay words until it is known what a column is for, so that the
first one that is no number can be named as it stands there.
"""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.extras import needed
from elman.tasks import InputError
from elman.tasks.files import check, read_text

__all__ = ["Table"]

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "-", "?", ".", "missing"})
_SUFFIXES = (".csv", ".tsv", ".parquet")
_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Args:
        name: of the file.
        columns: the cells of each column as words, without spaces around them.
        rows: for each row its number in the file.
        decimal_comma: whether numbers have a comma before their fractions.
        content: the bytes of the file.
    """

    name: str
    columns: dict[str, list[str]]
    rows: list[int]
    decimal_comma: bool
    content: bytes

    @staticmethod
    def read(name: str) -> "Table":
        """Read a file by its ending; "-" is standard input, as CSV.

        Raises:
            InputError: it cannot be read, is of another kind, has no rows or ragged ones, or is of
                Parquet and polars is not installed.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp()) / "sales.csv"
            >>> _ = path.write_text("day,sold\\n2024-01-01,3\\n2024-01-02,5\\n")
            >>> Table.read(str(path)).numbers("sold").tolist()
            [3.0, 5.0]
        """
        suffix = ".csv" if name == "-" else Path(name).suffix.lower()
        if suffix not in _SUFFIXES:
            raise InputError(
                f"cannot read {name} as a table: its name must end in {', '.join(_SUFFIXES)}"
            )
        if suffix == ".parquet":
            return _read_parquet(name)
        if name == "-":
            content = sys.stdin.buffer.read()
            text = content.decode("utf-8", "replace")
            if not text.strip():
                raise InputError("cannot read a table from standard input: it is empty")
        else:
            file = read_text(name)
            content, text = file.content, file.text
        return _read_text(name, text, content, "\t" if suffix == ".tsv" else None)

    def place(self, row: int, column: str) -> str:
        """Say where a cell is."""
        return f"{self.name}, row {self.rows[row]}, column {column}"

    def need(self, column: str) -> str:
        """Return the name of a column that there must be.

        Raises:
            InputError: there is none.
        """
        if column not in self.columns:
            raise InputError(
                f"{self.name} has no column {column}: it has {', '.join(self.columns)}"
            )
        return column

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where they are missing.

        Raises:
            InputError: a cell is neither a number nor a usual word for a missing one.
        """
        values, wrong = self._convert(column)
        if wrong:
            cell = self.columns[column][wrong[0]]
            raise InputError(
                f"{self.place(wrong[0], column)}: {cell[:40]!r} is not a number; correct it, leave"
                f" the cell empty if the value is missing, or name other columns"
            )
        return values

    def is_numeric(self, column: str) -> bool:
        """Return whether at least half of the cells that are not empty are numbers."""
        values, wrong = self._convert(column)
        return int((~np.isnan(values)).sum()) >= max(1, len(wrong))

    def _convert(self, column: str) -> tuple[NDArray[np.float64], list[int]]:
        """Return a column as numbers, and the rows of the cells that are none."""
        values, wrong = np.full(len(self), np.nan), []
        for row, cell in enumerate(self.columns[column]):
            if cell.lower() in _MISSING:
                continue
            if cell.lower() in _FLAGS:
                values[row] = _FLAGS[cell.lower()]
                continue
            try:
                values[row] = float(cell.replace(",", ".") if self.decimal_comma else cell)
            except ValueError:
                wrong.append(row)
                continue
            if not np.isfinite(values[row]) or "_" in cell:
                wrong.append(row)
                values[row] = np.nan
        return values, wrong


def _polars() -> Any:
    with needed("reading Parquet", "series"):
        import polars
    return polars


def _read_text(name: str, text: str, content: bytes, separator: str | None) -> Table:
    kept = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip(" \t,;")]
    if len(kept) < 2:
        raise InputError(f"{name} has no rows: below the head it needs one for each time")
    head = kept[0][1]
    if separator is None:
        separator = next((s for s in ",;\t" if s in head), ",")
    lines = [f"{line}\n" for _, line in kept]
    rows = [number for number, _ in kept[1:]]
    found: list[list[str]] = []
    reader = csv.reader(lines, delimiter=separator)
    try:
        for cells in reader:
            if not found:
                _check_head(name, cells)
            elif len(cells) != len(found[0]):
                missing = min(len(cells), len(found[0]))
                raise InputError(
                    f"{name}, row {kept[reader.line_num - 1][0]}, column {missing + 1}: the row has"
                    f" {len(cells)} cells, the head {len(found[0])}; each row needs as many"
                )
            found.append([cell.strip() for cell in cells])
    except csv.Error as error:
        raise InputError(
            f"cannot read {name}, row {kept[reader.line_num - 1][0]}: {error}"
        ) from error
    if len(found) != len(lines):  # cells of several lines
        rows = list(range(2, len(found) + 1))
    columns = dict(zip(found[0], map(list, zip(*found[1:], strict=True)), strict=True))
    return Table(name, columns, rows, separator == ";", content)


def _check_head(name: str, cells: list[str]) -> None:
    titles = [cell.strip() for cell in cells]
    for position, title in enumerate(titles, 1):
        if not title:
            raise InputError(f"{name}, row 1, column {position}: the column has no name; give one")
        if title in titles[: position - 1]:
            raise InputError(
                f"{name}, row 1, column {position}: there is another column {title}; rename one"
            )
    try:
        for title in titles:
            float(title)
    except ValueError:
        return
    raise InputError(f"{name}, row 1: it has numbers and no names of columns; put a head above")


def _read_parquet(name: str) -> Table:
    check(name)
    polars = _polars()
    try:
        content = Path(name).read_bytes()
        frame = polars.read_parquet(io.BytesIO(content))
    except (OSError, polars.exceptions.PolarsError) as error:
        raise InputError(f"cannot read {name}: {str(error).splitlines()[0]}") from error
    columns = {}
    for title in frame.columns:
        column = frame[title]
        if column.dtype == polars.Date:
            column = column.dt.strftime("%Y-%m-%d")
        elif column.dtype == polars.Datetime:
            column = column.dt.strftime("%Y-%m-%d %H:%M:%S")
        columns[title] = ["" if cell is None else str(cell).strip() for cell in column.to_list()]
    if not len(frame):
        raise InputError(f"{name} has no rows: it needs one for each time")
    return Table(name, columns, list(range(1, len(frame) + 1)), False, content)
