"""A small file for each job, made here or from Python's own library: for a first try of each.

Example:
    >>> import tempfile
    >>> path = write("pairs", Path(tempfile.mkdtemp()))
    >>> path.read_text().splitlines()[0]
    '9 May 1973\\t1973-05-09'
"""

import argparse
import csv
import inspect
import io
import keyword
import math
import random
import textwrap
import tokenize
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

__all__ = ["write"]


def write(job: str, folder: Path) -> Path:
    """Write the sample of a job.

    Args:
        job: "series", "labels", "tags" or "pairs".
        folder: where it goes; the directory exists.

    Returns:
        The file or directory that `elman train` takes.
    """
    return _MAKERS[job](folder)


def _series(folder: Path) -> Path:
    """Visitors of a museum on each day of four years: a week, a year, a trend, and chance."""
    path, chance = folder / "visitors.csv", random.Random(0)
    level = 0.0
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["date", "visitors"])
        for day in range(4 * 365):
            when = date(2022, 1, 1) + timedelta(day)
            level = 0.9 * level + chance.gauss(0, 12)
            year = 60 * math.cos(2 * math.pi * (when.timetuple().tm_yday - 200) / 365)
            week = (-80, 10, 0, 5, 20, 90, 70)[when.weekday()]
            table.writerow([when, round(max(0.0, 300 + day / 20 + year + week + level))])
    return path


def _labels(folder: Path) -> Path:
    """Lines of Python, and lines of English about it, from Python's own documentation."""
    from pydoc_data.topics import topics

    place = folder / "lines"
    place.mkdir()
    chance = random.Random(0)
    english = [
        line
        for text in topics.values()
        for line in textwrap.wrap(" ".join(text.split()), 40)
        if line[0].isalpha()
    ]
    code = [line.strip()[:40] for line in _source() if line.strip() and line.strip()[0].isalpha()]
    for name, lines in (("english", english), ("python", code)):
        kept = chance.sample(sorted(set(lines)), min(1000, len(set(lines))))
        (place / f"{name}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return place


def _tags(folder: Path) -> Path:
    """Lines of Python, each token with what it is."""
    kinds = {tokenize.NUMBER: "NUMBER", tokenize.STRING: "STRING", tokenize.OP: "OPERATOR"}
    path, rows = folder / "code.conll", list[str]()
    for token in tokenize.generate_tokens(io.StringIO("\n".join(_source())).readline):
        text = token.string
        if token.type == tokenize.NAME:
            rows.append(f"{text} {'KEYWORD' if keyword.iskeyword(text) else 'NAME'}")
        elif token.type in kinds and not set(text) & set(" \t\n"):
            rows.append(f"{text} {kinds[token.type]}")
        elif token.type == tokenize.NEWLINE and rows and rows[-1]:
            rows.append("")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def _pairs(folder: Path) -> Path:
    """Dates as people write them, and as computers do."""
    path, chance = folder / "dates.tsv", random.Random(0)
    lines = []
    for _ in range(4000):
        when = date(1950, 1, 1) + timedelta(chance.randrange(36_500))
        lines.append(f"{when.day} {when:%B} {when.year}\t{when:%Y-%m-%d}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _source() -> list[str]:
    """Return the lines of a module of Python's library."""
    return inspect.getsource(argparse).splitlines()


_MAKERS: dict[str, Callable[[Path], Path]] = {
    "series": _series,
    "labels": _labels,
    "tags": _tags,
    "pairs": _pairs,
}
