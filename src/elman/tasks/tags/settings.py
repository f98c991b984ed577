"""What a training on tagged tokens is told beside what every job is.

Nothing here imports PyTorch.
"""

from dataclasses import dataclass

from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = ["FILES", "PREDICTION", "SETTINGS", "SOURCE", "SUMMARY", "TagsSettings", "TagsSource"]

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

    embed: int = setting("Numbers that stand for a word.", 100, least=1, most=16384)
    characters: int = setting("Units that read a word's characters.", 64, least=1, most=16384)
    word_dropout: float = setting("Share of words hidden in training.", 0.2, least=0, below=1)


SOURCE, SETTINGS, PREDICTION = TagsSource, TagsSettings, Prediction
