"""Small data for the jobs, so that what every job promises is tested over all that stand here."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A job on small data.

    Attributes:
        make: Writes data into a directory that is there, drawn from a seed; returns what to name.
        small: Settings of a training that takes no time, with dropout.
        no_chance: What to add for a training in which no chance is drawn but from the seed.
        best: The measure that says how good a model is, the higher the better.
    """

    make: Callable[[Path, int], Path]
    small: dict[str, Any]
    no_chance: dict[str, Any]
    best: str


def words_of_two_tongues(folder: Path, seed: int) -> Path:
    """A file for each of two labels, a word in each line: one has high vowels, the other low."""
    chance = random.Random(seed)
    place = folder / f"tongues{seed}"
    place.mkdir()
    for label, vowels in {"high": "ei", "low": "aou"}.items():
        words = [
            "".join(chance.choice("bdgkt") + chance.choice(vowels) for _ in range(n % 4 + 1))
            for n in range(40)
        ]
        (place / f"{label}.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return place


def tagged_sentences(folder: Path, seed: int) -> Path:
    """Sentences in which what ends in s is a verb and stands after a noun."""
    chance = random.Random(seed)
    path = folder / f"pets{seed}.conll"
    lines = []
    for _ in range(60):
        for _ in range(chance.randint(1, 3)):
            noun = "".join(chance.choices("abdo", k=3))
            verb = "".join(chance.choices("ekr", k=3)) + "s"
            lines += ["the DET", f"{noun} NOUN", f"{verb} VERB"]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


CASES = {
    "labels": Case(
        words_of_two_tongues,
        {"hidden": 6, "embed": 5, "batch": 9, "epochs": 3, "lr": 0.02, "dropout": 0.2},
        {"dropout": 0.0},
        "accuracy",
    ),
    "tags": Case(
        tagged_sentences,
        {
            **{"hidden": 6, "embed": 5, "characters": 4, "batch": 7},
            **{"epochs": 3, "lr": 0.02, "dropout": 0.2},
        },
        {"dropout": 0.0, "word_dropout": 0.0},
        "accuracy",
    ),
}
