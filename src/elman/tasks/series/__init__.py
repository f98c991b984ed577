"""Learn to forecast measurements over time.

Example:
    >>> import math, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> sold = [100 + i + 20 * math.sin(math.pi * i / 6) for i in range(120)]
    >>> rows = [f"{2010 + i // 12}-{1 + i % 12:02},{value:.1f}" for i, value in enumerate(sold)]
    >>> _ = (folder / "sales.csv").write_text("\\n".join(["month,sold", *rows]))
    >>> result = train(folder / "sales.csv", out=folder / "run", horizon=6, epochs=2, hidden=8)
    >>> result.finished
    True
    >>> lines = list(predict(folder / "run", horizon=2))
    >>> lines[0], [line.split(",")[:2] for line in lines[1:]]
    ('time,series,0.1,0.5,0.9', [['2020-01', 'sold'], ['2020-02', 'sold']])
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion
    from elman.tasks.learner import Result

__all__ = ["evaluate", "predict", "train"]


def train(file: str | Path, *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on a table of series and keep all of it in a directory.

    Args:
        file: the table, as .csv, .tsv or .parquet, with a row for each time.
        out: the directory of the run, not there yet, or empty.
        options: what is read, under the names of `elman.tasks.series.settings.SeriesSource`;
            settings under those of `SeriesSettings` there; `init_from`, `report` and `stop` as in
            `elman.tasks.training.train`.

    Returns:
        How it ended, with the measures on the test part beside those of the baselines.

    Raises:
        InputError: the table cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import training
    from elman.tasks.series.job import JOB

    return training.train(JOB, Path(out), files=(str(file),), **options)


def predict(
    run: str | Path,
    file: str | Path | None = None,
    *,
    horizon: int | None = None,
    plot: str | Path | None = None,
) -> Iterator[str]:
    """Forecast on from the end of each series.

    Args:
        run: the directory of a training.
        file: a table with the columns of the one that was learnt from; that one itself if None.
        horizon: steps to forecast, at most those trained for; all of these if None.
        plot: a file into which the forecast is drawn, as PNG.

    Returns:
        Lines of CSV: time, series, and a column for each quantile.

    Raises:
        InputError: there is no trained model of series, or the table cannot be used with it.
    """
    from elman.tasks import trained

    options = {"horizon": horizon, "plot": None if plot is None else str(plot)}
    return trained.predict(Path(run), None if file is None else str(file), **options)


def evaluate(run: str | Path, file: str | Path) -> "Conclusion":
    """Measure a model on another table, over all windows in it.

    Args:
        run: the directory of a training.
        file: a table with the columns of the one that was learnt from.

    Returns:
        Its measures, beside those of the baselines.

    Raises:
        InputError: there is no trained model, or the table cannot be used with it.
    """
    from elman.tasks import trained

    return trained.evaluate(Path(run), [file])
