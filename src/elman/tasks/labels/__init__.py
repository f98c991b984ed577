"""Learn to give each sequence, a text or a series of numbers, one of several labels.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "tones").mkdir()
    >>> for label, sounds in {"high": "eiy", "low": "aou"}.items():
    ...     words = [f"b{x}d{y}" for x in sounds for y in sounds] * 5
    ...     _ = (folder / "tones" / f"{label}.txt").write_text("\\n".join(words))
    >>> result = train([folder / "tones"], out=folder / "run", epochs=4, batch=6, lr=0.02)
    >>> result.metrics["accuracy"]
    1.0
    >>> [line.split("\\t")[0] for line in predict(folder / "run", "bidy")]
    ['high']
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion
    from elman.tasks.learner import Result

__all__ = ["evaluate", "predict", "train"]


def train(files: Iterable[str | Path], *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on labelled sequences and keep all of it in a directory.

    Args:
        files: directories of texts, tables, or files of series; see the page on labels.
        out: the directory of the run, not there yet, or empty.
        options: settings under the names of `elman.tasks.labels.settings.LabelsSource` and
            `LabelsSettings`, and `init_from`, `report` and `stop` as in
            `elman.tasks.training.train`.

    Returns:
        How it ended, with the measures on what was held out.

    Raises:
        InputError: the data cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import training
    from elman.tasks.labels.job import JOB

    return training.train(JOB, Path(out), files=tuple(map(str, files)), **options)


def predict(run: str | Path, given: str | Path, *, top: int = 1) -> Iterator[str]:
    """Give the likeliest labels of new sequences.

    Args:
        run: the directory of a training.
        given: a text, a file, or "-" for standard input.
        top: so many of the likeliest labels are given.

    Returns:
        A line for each sequence: label, probability, next label, its probability and so on,
        with tabs between.

    Raises:
        InputError: there is no trained model, or the input cannot be used.
    """
    from elman.tasks import trained

    return trained.predict(Path(run), str(given), top=top)


def evaluate(run: str | Path, files: Iterable[str | Path]) -> "Conclusion":
    """Measure the model of a run on other labelled sequences, beside the baselines.

    Args:
        run: the directory of a training.
        files: data of the kind that it was trained on.

    Returns:
        Its measures, and those of the baselines.

    Raises:
        InputError: there is no trained model, or the data cannot be used with it.
    """
    from elman.tasks import trained

    return trained.evaluate(Path(run), files)
