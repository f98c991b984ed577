"""Text as numbers: what characters there are, and how a text is cut for training and judging."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elman.tasks import InputError
from elman.tasks.files import read_text
from elman.tasks.text.blocks import Blocks

__all__ = ["Corpus", "decode", "encode"]

_LEAST = 10  # characters, of which one can be held out
_CODE_POINTS = 0x110000


@dataclass(frozen=True)
class Corpus:
    """A text as numbers, a tenth of it held out, in blocks: see `elman.tasks.text.blocks`.

    A symbol is a character of the text. A byte that is not UTF-8 is a symbol too, in Python's own
    way of keeping such bytes (the error handler "surrogateescape"), so any file can be read, and
    what is sampled turns into the very bytes that were learnt.

    Args:
        files: where the text came from.
        symbols: every symbol of the text once, in the order of their code points.
        ids: (characters,) the text: positions in `symbols`.
        digest: SHA-256 of the bytes of all the files, in hexadecimal.
        notes: what is to be said of the files, a sentence each.
    """

    files: tuple[str, ...]
    symbols: str
    ids: Tensor
    digest: str
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(files: Iterable[str | Path]) -> "Corpus":
        """Read the files as one text, in the order given.

        Args:
            files: paths of files of text; see `elman.tasks.files.read_text`.

        Returns:
            The text as numbers.

        Raises:
            InputError: a file cannot be read, is empty or no text, or the text has fewer than ten
                characters or only one symbol.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp()) / "song.txt"
            >>> _ = path.write_bytes(b"la la la l\\xff")
            >>> corpus = Corpus.read([path])
            >>> corpus.symbols, corpus.ids.tolist()
            (' al\\udcff', [2, 1, 0, 2, 1, 0, 2, 1, 0, 2, 3])
        """
        names = tuple(str(file) for file in files)
        read = [read_text(name) for name in names]
        text = "".join(file.text for file in read)
        if len(text) < _LEAST:
            raise InputError(
                f"cannot learn from {' '.join(names)}: the text is too short, {len(text)}"
                f" characters; give {_LEAST} at the very least, and thousands to learn something"
            )
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        present = np.zeros(_CODE_POINTS, bool)
        present[codes] = True
        points = np.flatnonzero(present)
        if len(points) < 2:
            raise InputError(
                f"cannot learn from {' '.join(names)}: the text has only one symbol,"
                f" {chr(points[0])!r}"
            )
        ids = np.empty(_CODE_POINTS, np.uint8 if len(points) <= 256 else np.int32)
        ids[points] = np.arange(len(points))
        return Corpus(
            files=names,
            symbols="".join(map(chr, points)),
            ids=torch.from_numpy(ids[codes]),
            digest=hashlib.sha256(b"".join(file.content for file in read)).hexdigest(),
            notes=tuple(note for file in read for note in file.notes),
        )

    @property
    def blocks(self) -> Blocks:
        """Which parts are held out."""
        return Blocks(len(self.ids))

    @property
    def held_out(self) -> int:
        """How many characters are held out: about a tenth of the text, at most 2**18."""
        return self.blocks.held_out

    @cached_property
    def training(self) -> Tensor:
        """The text to learn from: all but the blocks that are held out."""
        return self.blocks.training(self.ids)

    def training_rows(self, batch: int, shift: int) -> Tensor:
        """Cut the training text into rows that are read side by side.

        The text is taken as a ring that starts at `shift`, so that each epoch can cut it at other
        places; fewer than `batch` characters are left over.

        Args:
            batch: the number of rows, N.
            shift: where the first row starts.

        Returns:
            (L + 1, N) with L = training characters // N: row n starts where row n - 1 ends, and
            its last character, the first of row n + 1, is only there to be predicted.
        """
        text = self.training
        length = len(text) // batch
        ring = torch.cat([text[shift:], text[: shift + 1]])
        return ring.as_strided((length + 1, batch), (1, length)).contiguous()

    def held_out_rows(self, context: int) -> Tensor:
        """Return the held-out blocks side by side, each after the text that comes before it.

        Args:
            context: how many characters before its own each row starts with: read to have the
                state that reading the whole text would have, not to be judged. A short text may
                have fewer.

        Returns:
            (context + L, N) with L characters in each of the N blocks.
        """
        return self.blocks.rows(self.ids, context)


def encode(text: str, symbols: str) -> Tensor:
    """Turn text into numbers.

    Args:
        text: characters that are all among the symbols.
        symbols: the symbols that a model knows.

    Returns:
        (characters,) positions in `symbols`.

    Raises:
        InputError: there are characters that the model does not know.

    Example:
        >>> encode("cab", "abc")
        tensor([2, 0, 1])
    """
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    if unknown := sorted(set(text) - ids.keys()):
        raise InputError(
            f"the model has never seen {', '.join(map(repr, unknown))}: give text made of the"
            f" characters it was trained on"
        )
    return torch.tensor([ids[symbol] for symbol in text], dtype=torch.int64)


def decode(ids: Iterable[int], symbols: str) -> str:
    """Turn numbers back into text.

    Example:
        >>> decode([2, 0, 1], "abc")
        'cab'
    """
    return "".join(symbols[index] for index in ids)
