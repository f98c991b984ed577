"""What a training on pairs is told beside what every job is: how a side is cut, and the search.

Nothing here imports PyTorch.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from elman.tasks import InputError
from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = [
    "FILES",
    "PREDICTION",
    "SETTINGS",
    "SOURCE",
    "SUMMARY",
    "PairsPrediction",
    "PairsSettings",
    "PairsSource",
    "recognises",
]

SUMMARY = "Learn to turn one sequence into another: spelling into sounds, a sentence into another."
FILES = "The pairs, in UTF-8: a row has a source, a tab and its target."

_LEVELS = ("chars", "words")
_LOOKED_AT = 20  # rows


@dataclass(frozen=True, kw_only=True)
class PairsSource(Source):
    """Files of pairs, and what their symbols are.

    Args:
        files: read as one, in the order given.
        valid: a file of pairs that are held out, instead of a tenth of the sources.
        level: "chars" if the symbols of a side are its characters, "words" if they are what stands
            between blanks. Where it is not given, a side with three words a row or more has words.
        target_level: the same, of the targets alone.

    Example:
        >>> PairsSource(files=("sounds.tsv",), target_level="words").level is None
        True
    """

    level: str | None = setting(
        "Symbols are chars or words.", None, choices=_LEVELS, chosen="words from 3 a row on"
    )
    target_level: str | None = setting(
        "The same, of the targets.", None, choices=_LEVELS, chosen="as --level, or guessed"
    )


@dataclass(frozen=True, kw_only=True)
class PairsSettings(Settings):
    """The settings of one training on pairs; with the pairs they say all about its result.

    The others are those of `elman.tasks.settings.Settings`, and:

    Args:
        embed: numbers that stand for one symbol.
        beam: candidates that are kept at each step when a target is looked for; 1 is greedy.

    Example:
        >>> PairsSettings(hidden=128, batch=64, lr=3e-3, dropout=0.1, epochs=5).beam
        4
    """

    embed: int = setting("Size of the embedding of a symbol.", 128, least=1, most=16384)
    beam: int = setting("Candidates kept in the beam search; 1 is greedy.", 4, least=1, most=1000)

    def __post_init__(self) -> None:
        """Refuse also an odd number of units: each direction of the encoder has half of them."""
        super().__post_init__()
        if self.hidden % 2:
            raise InputError(
                f"hidden must be even, got {self.hidden}: half of it reads in each direction"
            )


@dataclass(frozen=True, kw_only=True)
class PairsPrediction(Prediction):
    """How targets are looked for.

    Args:
        n_best: answers for each source, the likeliest first.
        beam: as in `PairsSettings`; that of the training if not given, and at least `n_best`.

    Raises:
        InputError: one is out of its range, or there are more answers than candidates.

    Example:
        >>> PairsPrediction(n_best=5, beam=2)
        Traceback (most recent call last):
        ...
        elman.errors.InputError: n_best must be at most beam = 2, got 5
    """

    n_best: int = setting(
        "Number of answers per line, the most likely first.", 1, least=1, most=1000
    )
    beam: int | None = setting(
        "Candidates kept in the beam search.",
        None,
        least=1,
        most=1000,
        chosen="that of the training",
    )

    def __post_init__(self) -> None:
        """Refuse more answers than candidates."""
        super().__post_init__()
        if self.beam is not None and self.n_best > self.beam:
            raise InputError(f"n_best must be at most beam = {self.beam}, got {self.n_best}")


SOURCE, SETTINGS, PREDICTION = PairsSource, PairsSettings, PairsPrediction


def recognises(path: Path) -> str | None:
    """Return what makes a file one for this job, or None: its first rows are two texts each."""
    if path.suffix not in (".tsv", ".txt") or not path.is_file():
        return None
    with path.open("rb") as file:
        rows = [line.rstrip(b"\r\n").split(b"\t") for line in islice(file, _LOOKED_AT)]
    are_pairs = rows and all(len(row) == 2 and all(map(bytes.strip, row)) for row in rows)
    # With numbers beside times or numbers it would be a table of measurements.
    if not are_pairs or all(_is_number(target) for _, target in rows[1:] or rows):
        return None
    return "has two columns of text, a source and a target"


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
