"""Small data for the jobs, so that what every job promises is tested over all that stand here."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A job on small data.

    Attributes:
        make: Writes data into a directory that is there, drawn from a seed; returns what to name.
        small: Settings of a training that takes no time, with dropout.
        no_chance: What to add for a training in which no chance is drawn but from the seed.
        best: The measure that says how good a model is.
        enough: A model that has learnt is at least as good as this.
        learns: What to add for a training in which it learns so much.
        is_error: Whether the measure is the lower the better.
    """

    make: Callable[[Path, int], Path]
    small: dict[str, Any]
    no_chance: dict[str, Any]
    best: str
    enough: float
    learns: dict[str, Any]
    is_error: bool = False


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


def numbers_read_out(folder: Path, seed: int) -> Path:
    """Numbers of one to three digits, and how their digits are read out."""
    chance, names = random.Random(seed), ["nil", "one", "two", "six"]
    path = folder / f"numbers{seed}.tsv"
    made = sorted({"".join(chance.choices("0126", k=chance.randint(1, 4))) for _ in range(220)})
    rows = (f"{digits}\t{' '.join(names['0126'.index(d)] for d in digits)}" for digits in made)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def sales_of_a_week(folder: Path, seed: int) -> Path:
    """Sales of each day of a year: a week, a trend, and chance."""
    chance = random.Random(seed)
    path = folder / f"sales{seed}.csv"
    rows = ["day,sold"]
    for day in range(300):
        sold = 50 + day / 10 + (-20, 0, 3, 4, 6, 25, 18)[day % 7] + chance.gauss(0, 3)
        rows.append(f"{date(2023, 1, 2) + timedelta(day)},{sold:.2f}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


CASES = {
    "labels": Case(
        words_of_two_tongues,
        {"hidden": 6, "embed": 5, "batch": 9, "epochs": 3, "lr": 0.02, "dropout": 0.2},
        {"dropout": 0.0},
        "accuracy",
        0.95,
        {"epochs": 20, "hidden": 16, "dropout": 0.1},
    ),
    "tags": Case(
        tagged_sentences,
        {
            **{"hidden": 6, "embed": 5, "characters": 4, "batch": 7},
            **{"epochs": 3, "lr": 0.02, "dropout": 0.2},
        },
        {"dropout": 0.0, "word_dropout": 0.0},
        "accuracy",
        0.95,
        {"epochs": 20, "hidden": 16, "dropout": 0.1},
    ),
    "pairs": Case(
        numbers_read_out,
        {"hidden": 12, "embed": 8, "batch": 16, "epochs": 2, "lr": 0.02, "dropout": 0.2},
        {"dropout": 0.0},
        "symbol_error_rate",
        0.1,
        {"epochs": 14, "hidden": 32, "dropout": 0.0},
        is_error=True,
    ),
    "series": Case(
        sales_of_a_week,
        {
            **{"horizon": 6, "context": 21, "segment": 7, "hidden": 8, "batch": 32, "epochs": 2},
            **{"lr": 0.01, "dropout": 0.2},
        },
        {"dropout": 0.0},
        "mase",
        0.9,
        {"epochs": 60, "hidden": 16, "dropout": 0.1},
        is_error=True,
    ),
}
