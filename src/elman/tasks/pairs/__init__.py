"""Learn to turn one sequence into another, such as spelling into sounds.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> rows = [f"{i}\\t{' '.join(str(i))} ." for i in range(100, 160)]
    >>> _ = (folder / "digits.tsv").write_text("\\n".join(rows))
    >>> result = train([folder / "digits.tsv"], out=folder / "run", epochs=2, hidden=16)
    >>> result.finished, len(list(predict(folder / "run", "123", n_best=3)))
    (True, 1)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion
    from elman.tasks.learner import Result

__all__ = ["evaluate", "predict", "train"]


def train(files: Iterable[str | Path], *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on pairs and keep all of it in a directory.

    Args:
        files: the pairs: in each row a source, a tab and its target; several files are read as one.
        out: the directory of the run, not there yet, or empty.
        options: settings under the names of `elman.tasks.pairs.settings.PairsSource` and
            `PairsSettings`, and `init_from`, `report` and `stop` as in
            `elman.tasks.training.train`.

    Returns:
        How it ended, with the measures on the held-out pairs.

    Raises:
        InputError: the pairs cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import training
    from elman.tasks.pairs.job import JOB

    return training.train(JOB, Path(out), files=tuple(map(str, files)), **options)


def predict(
    run: str | Path, given: str, *, n_best: int = 1, beam: int | None = None
) -> Iterator[str]:
    """Answer sources with targets.

    Args:
        run: the directory of a training.
        given: a file with a source in each row, "-" for standard input, or a source itself.
        n_best: answers for each source, the likeliest first.
        beam: candidates that are kept in the search; that of the training if None.

    Returns:
        A line for each source: its answers, tabs between them.

    Raises:
        InputError: there is no trained model, or a source cannot be used.
    """
    from elman.tasks import trained

    options = {"n_best": n_best} | ({} if beam is None else {"beam": beam})
    return trained.predict(Path(run), given, **options)


def evaluate(run: str | Path, files: Iterable[str | Path]) -> "Conclusion":
    """Measure a model on other pairs.

    Args:
        run: the directory of a training.
        files: the pairs.

    Returns:
        What the model is worth there, beside the copy of the source.

    Raises:
        InputError: there is no trained model, or the pairs cannot be used.
    """
    from elman.tasks import trained

    return trained.evaluate(Path(run), files)
