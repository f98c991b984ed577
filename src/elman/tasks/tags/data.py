"""Sentences in columns: a token in each line, a blank line after each sentence.

What is not a token, such as comments, is kept as it is, line by line: a file is written again with
its tags filled in and nothing else changed.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from elman.language import say
from elman.runtime.facts import Facts
from elman.runtime.file import FileError
from elman.tasks import InputError
from elman.tasks.files import read_text

__all__ = ["Document", "Layout", "Sentence", "split"]

_CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_GLOBAL = "# global.columns ="  # of CoNLL-U Plus
_NO_WORD = re.compile(r"\d+[-.]\d+")  # a multiword token, and an empty node
_COMMON = 0.01  # of the lines: fewer of one width are mistakes
_HELD_OUT = 10  # every tenth sentence


@dataclass(frozen=True)
class Layout:
    """Which columns there are.

    Args:
        word: the number of the column of the words, from 0.
        tag: the number of the column of the tags, from 0; -1 for the last, wherever that is.
        width: the number of columns, or None if lines differ.
        by_tabs: whether tabs part the columns, and not spaces.
        numbered: whether the first column numbers the tokens, as in CoNLL-U.
        named: whether the first line names the columns.
    """

    word: int
    tag: int
    width: int | None
    by_tabs: bool
    numbered: bool
    named: bool

    @staticmethod
    def known(knowledge: Any) -> "Layout":
        """Make it again of what `asdict` made of it.

        Raises:
            FileError: it is something else.
        """
        facts = Facts(say("the columns of the file"), knowledge)
        width = None if facts.values.get("width") is None else facts.size("width", 2)
        last = 2**20 if width is None else width - 1
        flags = {name: facts.truth(name) for name in ("by_tabs", "numbered", "named")}
        word, tag = facts.size("word", 0, last), facts.size("tag", -1, last)
        if width is None and (word, tag) != (0, -1):
            raise FileError(
                say("the columns of the file must have a width where word or tag has a place")
            )
        return Layout(word, tag, width, **flags)

    def cells(self, line: str) -> list[str]:
        """Part a line into its columns."""
        return line.rstrip("\r\n").split("\t") if self.by_tabs else line.split()

    def filled(self, line: str, tag: str) -> str:
        """Return a line with its tag replaced, or added where the last column is missing.

        Example:
            >>> Layout(0, 1, 2, by_tabs=False, numbered=False, named=False).filled("the  x", "DET")
            'the  DET'
        """
        body = line.rstrip("\r\n")
        parts = re.split(r"(\t)" if self.by_tabs else r"(\s+)", body)
        cells = [i for i in range(0, len(parts), 2) if self.by_tabs or parts[i]]
        last = -1 if self.width is None else self.width - 1
        if len(cells) == last or len(cells) == 1:
            return body + ("\t" if self.by_tabs else " ") + tag + line[len(body) :]
        parts[cells[self.tag]] = tag
        return "".join(parts) + line[len(body) :]


@dataclass(frozen=True)
class Sentence:
    """The tokens of a sentence.

    Args:
        words: each as it is written.
        tags: the tag of each; empty if there are none.
        lines: the number of the line of each, from 0.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Document:
    """A file of sentences.

    Args:
        name: of the file.
        lines: all of its lines, without their ends.
        layout: its columns.
        sentences: its sentences.
        content: its bytes.
        notes: what is to be said of it, a sentence each.
    """

    name: str
    lines: tuple[str, ...]
    layout: Layout
    sentences: tuple[Sentence, ...]
    content: bytes = b""
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(name: str, column: str | None = None) -> "Document":
        """Read tagged sentences.

        Args:
            name: a file; one that ends in .conllu has the ten columns of CoNLL-U.
            column: the column of the tags, a name or a number from 1; None for the usual one.

        Raises:
            InputError: it cannot be read, has no such column, or a line has other columns.

        Example:
            >>> import tempfile, pathlib
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "pets.tsv"
            >>> _ = path.write_text("cats\\tNOUN\\nsleep\\tVERB\\n\\ndogs\\tNOUN\\n")
            >>> [sentence.tags for sentence in Document.read(str(path)).sentences]
            [('NOUN', 'VERB'), ('NOUN',)]
        """
        read = read_text(name)
        lines = _lines(read.text)
        layout = _layout(name, lines, column)
        sentences = _sentences(name, lines, layout)
        return Document(name, lines, layout, sentences, read.content, read.notes)

    @staticmethod
    def read_like(name: str, text: str, knowledge: Mapping[str, Any]) -> "Document":
        """Read sentences that are to be tagged, with the columns of those that a model learnt from.

        The column of the tags may be missing, if it is the last.

        Args:
            name: of the file, for messages.
            text: what it holds.
            knowledge: what `asdict` made of the layout of the training data.

        Raises:
            InputError: a line has other columns.
        """
        lines = _lines(text)
        layout = Layout.known(knowledge)
        return Document(name, lines, layout, _sentences(name, lines, layout, False))

    @property
    def described(self) -> dict[str, Any]:
        """The layout as a value for JSON."""
        return asdict(self.layout)

    def place(self, sentence: Sentence, token: int) -> str:
        """Name the line of a token, for a message."""
        return f"{self.name}, line {sentence.lines[token] + 1}"

    def tagged(self, tags: Sequence[Sequence[str]]) -> list[str]:
        """Return the lines with other tags.

        Args:
            tags: those of each sentence.
        """
        lines = list(self.lines)
        for sentence, found in zip(self.sentences, tags, strict=True):
            for number, tag in zip(sentence.lines, found, strict=True):
                lines[number] = self.layout.filled(lines[number], tag)
        return lines


def split(sentences: Sequence[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """Part sentences into those to learn from and the tenth that is held out.

    The choice is a function of their number; a sentence with a tag that would not be learnt stays.

    Example:
        >>> said = [Sentence(("a",), ("X",), (0,))] * 20 + [Sentence(("b",), ("Y",), (1,))]
        >>> learnt, held_out = split(said)
        >>> len(learnt), len(held_out)
        (19, 2)
    """
    chance = np.random.default_rng(0)
    chosen = chance.permutation(len(sentences))[: max(1, round(len(sentences) / _HELD_OUT))]
    known = {tag for i in set(range(len(sentences))) - set(chosen) for tag in sentences[i].tags}
    held_out = {int(i) for i in chosen if known.issuperset(sentences[i].tags)}
    learnt = [sentence for i, sentence in enumerate(sentences) if i not in held_out]
    return learnt, [sentences[i] for i in sorted(held_out)]


# --- lines --------------------------------------------------------------------------------------


def _lines(text: str) -> tuple[str, ...]:
    lines = text.split("\n")
    return tuple(lines if lines[-1] else lines[:-1])


def _layout(name: str, lines: Sequence[str], column: str | None) -> Layout:
    if name.endswith(".conllu"):
        names: Sequence[str] = _CONLLU
        if lines and lines[0].lower().startswith(_GLOBAL):
            names = lines[0].lower().removeprefix(_GLOBAL).split()
        tag = _find(name, names, column or "upos")
        return Layout(_find(name, names, "form"), tag, len(names), True, True, named=False)
    tokens = {n: lines[n] for rows in _token_lines(lines, numbered=False) for n in rows}
    if not tokens:
        raise InputError(f"cannot learn from {name}: there is no token in it")
    first = next(iter(tokens.values()))
    by_tabs = "\t" in first
    layout = Layout(0, -1, None, by_tabs, numbered=False, named=False)
    names = [cell.lower() for cell in layout.cells(first)]
    widths = Counter(len(layout.cells(line)) for line in tokens.values())
    width = widths.most_common(1)[0][0] if len(widths) == 1 or column is not None else None
    if width is None:  # all that is common is meant, and the last column is that of the tags
        _refuse_rare(name, tokens, layout, widths)
        if min(widths) < 2:
            width = max(widths)
    if width == 1:
        raise InputError(
            f"{name} has only one column: give words and tags, parted by tabs or spaces"
        )
    if column is None:
        return Layout(0, -1, width, by_tabs, numbered=False, named=False)
    if column.isdecimal():
        numbers = [str(number) for number in range(1, len(names) + 1)]
        return Layout(0, _find(name, numbers, column), width, by_tabs, False, named=False)
    tag = _find(name, names, column)
    word = next((names.index(n) for n in ("form", "word", "token", "text") if n in names), 0)
    return Layout(word, tag, width, by_tabs, False, named=True)


def _find(name: str, names: Sequence[str], column: str) -> int:
    if column.lower() not in names:
        raise InputError(f"{name} has no column {column!r}: use --column {', '.join(names)}")
    return list(names).index(column.lower())


def _token_lines(lines: Sequence[str], *, numbered: bool, named: bool = False) -> list[list[int]]:
    """Return the numbers of the lines of each sentence's tokens, from 0.

    Notes begin with # and stand before a sentence; -DOCSTART- stands between documents.
    """
    note = "#" if numbered else "# "
    found: list[list[int]] = [[]]
    for number in range(int(named), len(lines)):
        line = lines[number]
        if not line.strip():
            found.append([])
        elif line.startswith("-DOCSTART-") or (
            not found[-1] and (line.startswith(note) or line.strip() == "#")
        ):
            continue
        elif not (numbered and _NO_WORD.fullmatch(line.split("\t")[0])):
            found[-1].append(number)
    return [numbers for numbers in found if numbers]


def _refuse_rare(
    name: str, lines: Mapping[int, str], layout: Layout, widths: Mapping[int, int]
) -> None:
    usual = max(widths, key=widths.__getitem__)
    for number, line in lines.items():
        width = len(layout.cells(line))
        if widths[width] < _COMMON * len(lines):
            raise InputError(_other_width(name, number, width, usual))


def _other_width(name: str, number: int, width: int, usual: int) -> str:
    return (
        f"{name}, line {number + 1}: it has {width} column{'s' * (width != 1)}, the others have"
        f" {usual}: mend the line"
    )


def _sentences(
    name: str, lines: Sequence[str], layout: Layout, is_tagged: bool = True
) -> tuple[Sentence, ...]:
    is_short = not is_tagged and layout.tag in (-1, (layout.width or 0) - 1)
    least = (layout.width or 2) - is_short
    found = []
    for numbers in _token_lines(lines, numbered=layout.numbered, named=layout.named):
        words, tags = [], []
        for number in numbers:
            cells = layout.cells(lines[number])
            if len(cells) < least or (layout.width and len(cells) > layout.width):
                raise InputError(_other_width(name, number, len(cells), layout.width or 2))
            if layout.numbered and not cells[0].isdecimal():
                raise InputError(
                    f"{name}, line {number + 1}: the first column must number the token, got"
                    f" {cells[0]!r}: is it CoNLL-U? Other files must not end in .conllu"
                )
            if not cells[layout.word]:
                raise InputError(f"{name}, line {number + 1}: the word is empty: fill it in")
            words.append(cells[layout.word])
            if is_tagged and not cells[layout.tag].strip():
                raise InputError(f"{name}, line {number + 1}: the tag is empty: fill it in")
            tags += [cells[layout.tag]] * is_tagged
        found.append(Sentence(tuple(words), tuple(tags), tuple(numbers)))
    if not found:
        raise InputError(f"{name} has no sentence: give a token in each line")
    return tuple(found)
