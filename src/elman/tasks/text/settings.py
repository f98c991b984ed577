"""What a training on text is told beside what every job is: its settings, and how they are chosen.

Nothing here imports PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path

from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = [
    "FILES",
    "PREDICTION",
    "SETTINGS",
    "SOURCE",
    "SUMMARY",
    "TextSettings",
    "TextSource",
    "recognises",
]

SUMMARY = "Learn a text, and continue it."
FILES = "The text, in UTF-8; several files are read as one."


@dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """A text: one or more files, read as one in the order given.

    Args:
        level: what the text is made of: "chars", "bytes", "words" or "bpe", pieces of words.

    Example:
        >>> TextSource(files=("book.txt",)).level
        'chars'
    """

    level: str = setting(
        "What the text is made of: chars, bytes, words or bpe.",
        "chars",
        choices=("chars", "bytes", "words", "bpe"),
    )


@dataclass(frozen=True, kw_only=True)
class TextSettings(Settings):
    """The settings of one training on text; with the text itself they say all about its result.

    `batch` counts the rows of text that are read side by side. The others are those of
    `elman.tasks.settings.Settings`, and:

    Args:
        chunk: symbols of a row between two updates of the weights.
        embed: numbers that stand for one symbol.

    Example:
        >>> TextSettings(hidden=128, batch=16, chunk=64, lr=3e-3, dropout=0.1, epochs=5).embed
        64
    """

    chunk: int = setting("Time steps of each row between two updates.", least=1, most=2**20)
    embed: int = setting("Size of the embedding of a symbol.", 64, least=1, most=16384)


SOURCE, SETTINGS, PREDICTION = TextSource, TextSettings, Prediction


def recognises(path: Path) -> str | None:
    """Return what makes a file one for this job, or None: any file is a text."""
    return "is read as text" if path.is_file() else None
