"""What a training on series is told beside what every job is: its settings, without PyTorch."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from elman.tasks import InputError
from elman.tasks.settings import Prediction, Settings, Source, setting

__all__ = [
    "FILES",
    "PREDICTION",
    "SETTINGS",
    "SOURCE",
    "SUMMARY",
    "SeriesPrediction",
    "SeriesSettings",
    "SeriesSource",
    "recognises",
]

SUMMARY = "Learn to forecast measurements over time."
FILES = "A table with a head, as .csv, .tsv or .parquet; a row for each time."


@dataclass(frozen=True, kw_only=True)
class SeriesSource(Source):
    """A table, and what is to be forecast from it.

    Args:
        time: the column of the time; None finds it.
        target: the columns that are forecast; empty for all with numbers.
        group: the column that says which series a row belongs to, for a table that has several
            series below each other; None finds it.
        known: columns known ahead, such as holidays; rows after the last target give the future.
        horizon: steps that are forecast at once; None chooses.
        season: steps after which the values repeat, roughly; 1 for none; None finds it.
        split: shares of training, validation and test such as "0.8/0.1/0.1", or the first time of
            validation and that of the test, "2020-01-01/2021-01-01"; None holds out twice a tenth,
            and at least a horizon each.

    Example:
        >>> SeriesSource(files=("sales.csv",), split="0.7/0.1/0.1")
        Traceback (most recent call last):
        ...
        elman.errors.InputError: the shares of split must add up to 1, got 0.7/0.1/0.1
    """

    time: str | None = setting("Column of the time.", None, metavar="COL", chosen="found")
    target: tuple[str, ...] = setting(
        "Column to forecast; may be repeated.", (), metavar="COL", chosen="all with numbers"
    )
    group: str | None = setting(
        "Column with the name of each row's series.", None, metavar="COL", chosen="found"
    )
    known: tuple[str, ...] = setting(
        "Column known in advance; may be repeated.", (), metavar="COL", chosen="the calendar alone"
    )
    horizon: int | None = setting("Steps to forecast.", None, least=1, most=2**16)
    season: int | None = setting(
        "Steps in a season, 1 for none.", None, least=1, most=2**20, chosen="found"
    )
    split: str | None = setting(
        "Fractions of training, validation and test, or the first times of the last two.",
        None,
        metavar="A/B/C|TIME/TIME",
        chosen="0.8/0.1/0.1",
    )

    def __post_init__(self) -> None:
        """Refuse what is out of range, and shares that are none."""
        super().__post_init__()
        if self.split is not None and not self.times and not self.shares:
            raise InputError(
                f"split must be three shares such as 0.8/0.1/0.1 or two times such as"
                f" 2020-01-01/2021-01-01, got {self.split}"
            )
        if self.shares and abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(f"the shares of split must add up to 1, got {self.split}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of the split; empty if it is none of shares."""
        parts = (self.split or "").split("/")
        if len(parts) != 3 or not all(re.fullmatch(r"0?\.\d+", part.strip()) for part in parts):
            return ()
        return tuple(map(float, parts))

    @property
    def times(self) -> tuple[str, ...]:
        """The times of the split; empty if it is none of times."""
        parts = tuple(part.strip() for part in (self.split or "").split("/"))
        return parts if len(parts) == 2 and all(parts) else ()


@dataclass(frozen=True, kw_only=True)
class SeriesSettings(Settings):
    """The settings of one training on series.

    `batch` counts windows: a piece of one series, from which what follows it is forecast. The
    others are those of `elman.tasks.settings.Settings`, and:

    Args:
        context: steps that are read before a forecast.
        segment: steps that are read at once; it divides the context.
        quantiles: what is forecast, separated by commas; 0.5 is the forecast itself.

    Example:
        >>> SeriesSettings(
        ...     hidden=8, batch=4, lr=0.01, dropout=0.0, epochs=1, context=24, segment=6
        ... ).levels
        (0.1, 0.5, 0.9)
    """

    cell: str = setting("lstm, gru or rnn.", "gru", choices=("lstm", "gru", "rnn"))
    clip: float = setting("Largest norm of the gradient.", 1.0, above=0)
    context: int = setting("Steps read before a forecast.", least=1, most=2**20)
    segment: int = setting("Steps in one segment.", least=1, most=2**16)
    quantiles: str = setting("Quantiles to forecast; 0.5 for the forecast only.", "0.1,0.5,0.9")

    def __post_init__(self) -> None:
        """Refuse what is out of range or does not go together."""
        super().__post_init__()
        if self.context % self.segment:
            raise InputError(f"segment must divide context = {self.context}, got {self.segment}")
        try:
            levels = [float(part) for part in self.quantiles.split(",")]
        except ValueError:
            levels = []
        if not levels or not all(0 < level < 1 for level in levels) or 0.5 not in levels:
            raise InputError(
                "quantiles must be numbers between 0 and 1 separated by commas, 0.5 among them,"
                f" got {self.quantiles}"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles as numbers, in order."""
        return tuple(sorted({float(part) for part in self.quantiles.split(",")}))


@dataclass(frozen=True, kw_only=True)
class SeriesPrediction(Prediction):
    """How a forecast is made.

    Args:
        horizon: steps that are forecast, at most those of the training; None for all of these.
        plot: a file into which the forecast is drawn, as PNG.
    """

    horizon: int | None = setting(
        "series: steps to forecast.", None, least=1, chosen="those trained for"
    )
    plot: str | None = setting(
        "series: draw the forecast into this PNG.", None, metavar="FILE", chosen="none"
    )


SOURCE, SETTINGS, PREDICTION = SeriesSource, SeriesSettings, SeriesPrediction


def recognises(path: Path) -> str | None:
    """Return what makes a file one for this job, or None: a table with a column of times.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sales.csv"
        >>> _ = path.write_text("day,sold\\n2024-01-01,3\\n2024-01-02,5\\n")
        >>> recognises(path)
        "has times in its column 'day'"
    """
    if path.suffix.lower() == ".parquet":
        return "is a table of columns"
    if path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        sample = [file.readline() for _ in range(3)]
    separator = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in sample[0] else ","
    rows = list(csv.reader(sample, delimiter=separator))
    if len(rows) < 2:
        return None
    for index, name in enumerate(rows[0]):
        cells = [row[index].strip() for row in rows[1:] if index < len(row)]
        if cells and all(
            re.match(r"\d{1,4}[-/.](Q?\d)", cell) and not _is_number(cell) for cell in cells
        ):
            return f"has times in its column {name.strip()!r}"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
