"""What a training on tagged tokens is told beside what every job is.

Nothing here imports PyTorch.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = [
    "FILES",
    "PREDICTION",
    "SETTINGS",
    "SOURCE",
    "SUMMARY",
    "TagsSettings",
    "TagsSource",
    "recognises",
]

_LOOKED_AT = 200  # lines

SUMMARY = "Learn to give each token of a sentence a tag, such as a part of speech or an entity."
FILES = (
    "Sentences with a token in each line and a blank line after each sentence: .conllu, or columns"
    " parted by tabs or spaces (.conll, .tsv)."
)


@dataclass(frozen=True, kw_only=True)
class TagsSource(Source):
    """Tagged sentences.

    Args:
        column: the column of the tags: its name, or its number from 1. By default upos of .conllu,
            and the last column of other files.

    Example:
        >>> TagsSource(files=("train.conllu",), column="xpos").column
        'xpos'
    """

    column: str | None = setting(
        "Column of the tags, a name or a number from 1.",
        None,
        metavar="COL",
        chosen="upos of .conllu, else the last",
    )


@dataclass(frozen=True, kw_only=True)
class TagsSettings(Settings):
    """The settings of one training on tagged sentences.

    `batch` counts sentences. The others are those of `elman.tasks.settings.Settings`, and:

    Args:
        embed: numbers that stand for a word.
        characters: units of the layer that reads the characters of a word, in each direction.
        word_dropout: the share of words that are taken for unknown in training, so that the model
            learns to do without.

    Example:
        >>> TagsSettings(hidden=64, batch=16, lr=3e-3, dropout=0.3, epochs=5).embed
        100
    """

    embed: int = setting("Size of the embedding of a word.", 100, least=1, most=16384)
    characters: int = setting(
        "Hidden units of the layer that reads the characters of a word.", 64, least=1, most=16384
    )
    word_dropout: float = setting("Fraction of words hidden in training.", 0.2, least=0, below=1)


SOURCE, SETTINGS, PREDICTION = TagsSource, TagsSettings, Prediction


def recognises(path: Path) -> str | None:
    """Return what makes a file one for this job, or None: a token in each line, with columns.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pets.tsv"
        >>> _ = path.write_text("the\\tDET\\ncat\\tNOUN\\n\\na\\tDET\\ndog\\tNOUN\\n")
        >>> recognises(path)
        'has a token in each line, and empty lines between sentences'
    """
    if not path.is_file():
        return None
    if path.suffix in (".conllu", ".conll", ".iob", ".bio"):
        return "has a token in each line"
    if path.suffix not in (".tsv", ".txt"):
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\r\n") for line in islice(file, _LOOKED_AT)]
    tokens = [line for line in lines if line.strip() and not line.startswith("#")]
    widths = {line.count("\t") for line in tokens}
    if tokens and "" in lines[1:-1] and len(widths) == 1 and widths != {0}:
        return "has a token in each line, and empty lines between sentences"
    return None
