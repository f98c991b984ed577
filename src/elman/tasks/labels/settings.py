"""What a training on labelled sequences is told beside what every job is.

Nothing here imports PyTorch.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = [
    "FILES",
    "PREDICTION",
    "SETTINGS",
    "SOURCE",
    "SUMMARY",
    "LabelsPrediction",
    "LabelsSettings",
    "LabelsSource",
    "recognises",
]

_HEAD = 4096  # characters of the first line that are looked at

SUMMARY = "Learn to give each sequence, a text or a series of numbers, one of several labels."
FILES = (
    "A directory with a file for each label and a sample in each line, or a directory for each"
    " label with a file for each sample; a table (.csv, .tsv, .jsonl) with --text and --label; or"
    " series of numbers (.npz, .ts)."
)


@dataclass(frozen=True, kw_only=True)
class LabelsSource(Source):
    """Labelled sequences: directories of texts, tables, or files of series.

    Args:
        text: the column of a table that has the text.
        label: the column of a table that has the label.
        level: what a text is cut into, "chars" or "words".

    Example:
        >>> LabelsSource(files=("reviews.csv",), text="review", label="stars").level is None
        True
    """

    text: str | None = setting("Column with the texts.", "text", metavar="COL")
    label: str | None = setting("Column with the labels.", "label", metavar="COL")
    level: str | None = setting(
        "chars or words: what a text is cut into.",
        None,
        choices=("chars", "words"),
        chosen="words for long texts",
    )


@dataclass(frozen=True, kw_only=True)
class LabelsSettings(Settings):
    """The settings of one training on labelled sequences.

    `batch` counts sequences. The others are those of `elman.tasks.settings.Settings`, and:

    Args:
        embed: numbers that stand for a character, a word, or a window of a series.
        window: steps of a series that become one step of the recurrent layers.
        noise: how much each series is changed at random in training, in standard deviations.
        class_weights: whether each label counts as much as any other, however rare it is.

    Example:
        >>> settings = LabelsSettings(hidden=64, batch=16, lr=3e-3, dropout=0.3, epochs=5)
        >>> settings.embed, settings.window
        (64, 1)
    """

    embed: int = setting("Size of the embedding of a step.", 64, least=1, most=16384)
    window: int = setting(
        "Steps of a series that are joined into one time step.", 1, least=1, most=2**16
    )
    noise: float = setting("Noise added to series in training.", 0.0, least=0)
    class_weights: bool = setting("Give rare labels the same weight as common ones.", False)


@dataclass(frozen=True, kw_only=True)
class LabelsPrediction(Prediction):
    """How labels are predicted.

    Args:
        top: so many of the likeliest labels are given.

    Example:
        >>> LabelsPrediction().top
        1
    """

    top: int = setting("Number of labels to print, the most likely first.", 1, least=1, most=2**20)


SOURCE, SETTINGS, PREDICTION = LabelsSource, LabelsSettings, LabelsPrediction


def recognises(path: Path) -> str | None:
    """Return what makes a file or directory one for this job, or None.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "reviews.csv"
        >>> _ = path.write_text("text,label\\nI like it,good\\n")
        >>> recognises(path)
        'has the columns text and label'
    """
    if path.is_dir():
        inside = [part for part in path.iterdir() if not part.name.startswith(".")]
        if len(inside) > 1 and all(part.is_dir() for part in inside):
            return "has a directory for each label"
        if len(inside) > 1 and all(part.is_file() for part in inside):
            return "has a file for each label"
        return None
    if path.suffix in (".npz", ".ts"):
        return "has series of numbers with a label each"
    if path.suffix in (".csv", ".tsv", ".jsonl") and path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            head = set(re.findall(r"\w+", file.readline(_HEAD)))
        if {"text", "label"} <= head:
            return "has the columns text and label"
    return None
