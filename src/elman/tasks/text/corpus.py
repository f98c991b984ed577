"""Text as numbers, and how it is cut for training and judging."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from elman.runtime.jobs.levels import Vocabulary, learn
from elman.tasks import InputError
from elman.tasks.files import check, read_text
from elman.tasks.text.blocks import Blocks

__all__ = ["Corpus", "HeldOut", "training_rows"]

_LEAST = 10  # characters, of which one can be held out
_CONTEXT = 128  # symbols read, and not judged, before what is judged
_ROWS = 32  # of a text that is judged as a whole, at most ...
_ROW = 128  # ... and no shorter than this


@dataclass(frozen=True)
class HeldOut:
    """What a model is judged on.

    Args:
        rows: (context + L, N) N parts of a text side by side, each after the text that comes before
            it, so that the state is that of a reader of the whole text.
        context: how many symbols at the start of each row are read and not judged.
        characters: for each symbol, on average.
    """

    rows: Tensor
    context: int
    characters: float

    @property
    def judged(self) -> int:
        """How many symbols are judged."""
        return self.rows[self.context :].numel()


@dataclass(frozen=True)
class Corpus:
    """A text as numbers.

    Args:
        files: where the text came from.
        vocabulary: what the numbers stand for.
        ids: (symbols,) the text.
        characters: the length of the text in characters.
        digest: SHA-256 of the bytes of all the files, in hexadecimal.
        notes: what is to be said of the files, a sentence each.
    """

    files: tuple[str, ...]
    vocabulary: Vocabulary
    ids: Tensor
    characters: int
    digest: str
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(
        files: Iterable[str | Path], level: str = "chars", vocabulary: Vocabulary | None = None
    ) -> "Corpus":
        """Read the files as one text, in the order given.

        Args:
            files: paths of files of text, see `elman.tasks.files.read_text`; at the level of bytes
                of any files.
            level: what the text is made of: "chars", "bytes", "words" or "bpe".
            vocabulary: that of a model; None to make one from the text.

        Returns:
            The text as numbers.

        Raises:
            InputError: a file cannot be read, is empty or no text, or the text has fewer than ten
                characters, only one symbol, or one that the vocabulary does not have.

        Example:
            >>> import tempfile
            >>> path = Path(tempfile.mkdtemp()) / "song.txt"
            >>> _ = path.write_bytes(b"la la la l\\xff")
            >>> corpus = Corpus.read([path])
            >>> corpus.vocabulary.symbols, corpus.ids.tolist()
            (' al\\udcff', [2, 1, 0, 2, 1, 0, 2, 1, 0, 2, 3])
        """
        names = tuple(str(file) for file in files)
        texts: list[str] = []
        notes: list[str] = []
        digest = hashlib.sha256()
        level = level if vocabulary is None else vocabulary.level
        for name in names:
            if level == "bytes":
                check(name)
                content = Path(name).read_bytes()
                text = content.decode("utf-8", "surrogateescape")
            else:
                file = read_text(name)
                content, text = file.content, file.text
                notes.extend(file.notes)
            texts.append(text)
            digest.update(content)
        text = "".join(texts)
        if len(text) < _LEAST:
            raise InputError(
                f"cannot learn from {' '.join(names)}: the text is too short, {len(text)}"
                f" characters; give {_LEAST} at the very least, and thousands to learn something"
            )
        try:
            vocabulary = vocabulary or learn(level, text)
            ids = vocabulary.encode(text)
        except InputError as error:
            raise InputError(f"cannot learn from {' '.join(names)}: {error}") from error
        return Corpus(
            files=names,
            vocabulary=vocabulary,
            ids=torch.from_numpy(ids),
            characters=len(text),
            digest=digest.hexdigest(),
            notes=tuple(notes),
        )

    @property
    def blocks(self) -> Blocks:
        """Which parts are held out, if a part of this text is."""
        return Blocks(len(self.ids))

    @property
    def training(self) -> Tensor:
        """The text without the blocks that are held out."""
        return self.blocks.training(self.ids)

    @property
    def held_out(self) -> HeldOut:
        """The blocks that are held out."""
        rows = self.blocks.rows(self.ids, _CONTEXT)
        return HeldOut(rows, len(rows) - self.blocks.length, self._characters)

    @property
    def whole(self) -> HeldOut:
        """All of the text, to be judged, but for the first symbols, which are only read."""
        context = min(_CONTEXT, len(self.ids) // 4)
        count = max(1, min(_ROWS, (len(self.ids) - context) // _ROW))
        length = (len(self.ids) - context) // count
        starts = [i * length for i in range(count)]
        rows = torch.stack([self.ids[s : s + context + length] for s in starts], dim=1)
        return HeldOut(rows, context, self._characters)

    @property
    def _characters(self) -> float:
        return self.characters / len(self.ids)


def training_rows(text: Tensor, batch: int, shift: int) -> Tensor:
    """Cut a text into rows that are read side by side.

    The text is taken as a ring that starts at `shift`, so that each epoch can cut it at other
    places; fewer than `batch` symbols are left over.

    Args:
        text: (symbols,) the text.
        batch: the number of rows, N.
        shift: where the first row starts.

    Returns:
        (L + 1, N) with L = symbols // N: row n starts where row n - 1 ends, and its last symbol,
        the first of row n + 1, is only there to be predicted.

    Example:
        >>> training_rows(torch.arange(6), batch=2, shift=1)
        tensor([[1, 4],
                [2, 5],
                [3, 0],
                [4, 1]])
    """
    length = len(text) // batch
    ring = torch.cat([text[shift:], text[: shift + 1]])
    return ring.as_strided((length + 1, batch), (1, length)).contiguous()
