"""Pairs as numbers: how files are read, what symbols there are, which sources are held out.

Each side has an `Alphabet` of `elman.runtime.jobs.pairs`: the symbols of the pairs that are trained
on. A symbol is a character or a word.
"""

import csv
import dataclasses
import hashlib
import io
import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from elman.runtime.jobs.pairs import Alphabet
from elman.tasks import InputError
from elman.tasks.files import read_text

__all__ = [
    "Encoded",
    "Knowledge",
    "Pair",
    "References",
    "collect",
    "guess_level",
    "read_pairs",
    "read_sources",
    "some",
    "split",
]

_EXAMPLES = 2000
_HELD_OUT = 10  # a tenth of the sources is held out ...
_HELD_OUT_MOST = 2000  # ... and no more of them than this
_WORDS_FROM = 3  # words a row, on average, for a side to be read as words


class Pair(NamedTuple):
    """A source and its target, as they stand in the file."""

    source: str
    target: str


# The numbers of the symbols of a source and its target.
Encoded: TypeAlias = tuple[list[int], list[int]]
# Sources with all their targets: any of them is right.
References: TypeAlias = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Knowledge:
    """What a model must know of its pairs to be used without them.

    Args:
        source: the symbols of the sources.
        target: the symbols of the targets.
        longest: the most symbols that a target has for each symbol of its source.
        examples: at most 2,000 of the pairs that were trained on, to be looked up.

    Example:
        >>> pairs = [Pair("cat", "K AE1 T"), Pair("tea", "T IY1")]
        >>> known = Knowledge.of(pairs, None, "words")
        >>> known.source.level, known.target.level, known.longest
        ('chars', 'words', 1.0)
        >>> known.encode(pairs[1])
        ([5, 4, 2], [5, 3])
    """

    source: Alphabet
    target: Alphabet
    longest: float
    examples: tuple[Pair, ...]

    @staticmethod
    def of(
        pairs: Sequence[Pair], level: str | None = None, target_level: str | None = None
    ) -> "Knowledge":
        """Learn it from the pairs that a model is trained on; a level that is None is guessed."""
        sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
        source = Alphabet.of(level or guess_level(sources), sources)
        target = Alphabet.of(target_level or level or guess_level(targets), targets)
        longest = max(len(target.cut(t)) / len(source.cut(s)) for s, t in pairs)
        examples = pairs
        if len(pairs) > _EXAMPLES:
            examples = random.Random(0).sample(pairs, _EXAMPLES)
        return Knowledge(source, target, longest, tuple(examples))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Knowledge":
        """Make it again of what `as_json` returned."""
        source, target = (
            Alphabet(value[side]["level"], tuple(value[side]["symbols"]))
            for side in ("source", "target")
        )
        examples = tuple(Pair(*pair) for pair in value["examples"])
        return Knowledge(source, target, value["longest"], examples)

    def as_json(self) -> dict[str, Any]:
        """Return it as a value for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    def encode(self, pair: Pair) -> Encoded:
        """Turn a pair into numbers."""
        return self.source.encode(pair.source), self.target.encode(pair.target)


def collect(pairs: Iterable[Pair]) -> References:
    """Collect the targets of each source.

    Example:
        >>> collect([Pair("a", "b"), Pair("c", "d"), Pair("a", "e")])
        {'a': ('b', 'e'), 'c': ('d',)}
    """
    found: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        found.setdefault(source, {})[target] = None
    return {source: tuple(targets) for source, targets in found.items()}


def some(references: References, count: int) -> References:
    """Return so many of the sources, from all over the file.

    Example:
        >>> list(some({source: ("x",) for source in "abcdefg"}, 3))
        ['a', 'c', 'e']
    """
    step = max(1, len(references) // count)
    return dict(list(references.items())[::step][:count])


def read_pairs(files: Sequence[str]) -> tuple[list[Pair], int, str]:
    """Read files of pairs.

    Args:
        files: paths. A row has a source, a tab and a target; further columns are left alone, and
            so are blank rows, and blanks at either end of a side.

    Returns:
        The pairs, the number of columns, and the SHA-256 of all bytes in hexadecimal.

    Raises:
        InputError: a file cannot be read, a row has no tab, an empty side or other columns than
            the first; the message names file and row.
    """
    pairs: list[Pair] = []
    columns, digest = 0, hashlib.sha256()
    for name in files:
        file = read_text(name)
        digest.update(file.content)
        read_before = len(pairs)
        for row, cells in _rows(name, file.text):
            where = f"{name}, row {row}"
            if len(cells) < 2:
                raise InputError(
                    f"{where}: a pair needs a tab between source and target, got"
                    f" {_short(cells[0])}: put one in, or take the row out"
                )
            columns = columns or len(cells)
            if len(cells) != columns:
                raise InputError(
                    f"{where}: expected {columns} columns as in the rows before, got {len(cells)}:"
                    f" look for a tab too many or too few in {_short(cells[0])}"
                )
            pair = Pair(cells[0].strip(), cells[1].strip())
            for side, text in zip(("source", "target"), pair, strict=True):
                if not text:
                    raise InputError(
                        f"{where}: the {side} is empty: fill it in, or take the row out"
                    )
            pairs.append(pair)
        if len(pairs) == read_before:
            raise InputError(f"cannot learn from {name}: there is no pair in it")
    return pairs, columns, digest.hexdigest()


def read_sources(given: str, alphabet: Alphabet) -> list[str]:
    """Read what is to be answered.

    Args:
        given: a file, "-" for standard input, or the text itself. What stands after a tab is left
            alone, so that a file of pairs will do.
        alphabet: the symbols that the model knows of a source.

    Returns:
        A source for each row.

    Raises:
        InputError: a file cannot be read, a row is empty, or has characters that the model has
            never seen; the message names file and row. Words that it has never seen are let
            through: a model of words knows that there are others.
    """
    if given == "-":
        name, text = "standard input", sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    elif _is_file(given):
        name, text = given, read_text(given).text
    else:
        name, text = "the text", given
    sources = []
    for row, cells in _rows(name, text, blank=True):
        where = f"{name}, row {row}"
        source = cells[0].strip() if cells else ""
        alphabet.check(source, where)
        sources.append(source)
    if not sources:
        raise InputError(f"{name} is empty: there is nothing to answer")
    return sources


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long, or with a zero byte: no name of a file
        return False


# The rows that are not blank, with their numbers from 1; blank ones too if wanted, without cells.
def _rows(name: str, text: str, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), "excel-tab", quoting=csv.QUOTE_NONE)
    try:
        for row, cells in enumerate(reader, 1):
            if any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
                raise InputError(f"{name}, row {row} is not UTF-8: save the file as UTF-8")
            if blank or any(cell.strip() for cell in cells):
                yield row, cells
    except csv.Error as error:
        raise InputError(f"{name}, row {reader.line_num} cannot be read: {error}") from error


def _short(text: str, most: int = 40) -> str:
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def guess_level(texts: Sequence[str]) -> str:
    """Return "words" for texts of three words or more on average, else "chars".

    Example:
        >>> guess_level(["New York", "Rome"]), guess_level(["K AE1 T", "T IY1", "R OW1 M"])
        ('chars', 'chars')
        >>> guess_level(["where are you", "we are at home now"])
        'words'
    """
    words = sum(len(text.split()) for text in texts)
    return "words" if words >= _WORDS_FROM * len(texts) else "chars"


def split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Hold a tenth of the sources out, at most 2,000, each with all its targets.

    Which these are is decided by the sources alone, by a hash of each: neither the order of the
    rows nor a seed changes it, and a few new rows change little.

    Returns:
        The pairs to train on, and those that are held out, in the order of the file.

    Raises:
        InputError: there are fewer than ten sources.
    """
    sources = sorted({s for s, _ in pairs}, key=lambda s: hashlib.sha256(s.encode()).digest())
    if len(sources) < _HELD_OUT:
        raise InputError(
            f"there are only {len(sources)} different sources: give {_HELD_OUT} at the very least,"
            " and thousands to learn something"
        )
    chosen = set(sources[: min(len(sources) // _HELD_OUT, _HELD_OUT_MOST)])
    return [p for p in pairs if p.source not in chosen], [p for p in pairs if p.source in chosen]
