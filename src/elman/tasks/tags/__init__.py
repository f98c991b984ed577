"""Learn to give each token of a sentence a tag, such as a part of speech or an entity.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> said = "the DET\\ncat NOUN\\nsleeps VERB\\n\\na DET\\ndog NOUN\\nbarks VERB\\n\\n" * 20
    >>> _ = (folder / "pets.conll").write_text(said)
    >>> result = train([folder / "pets.conll"], out=folder / "run", epochs=8, lr=0.02)
    >>> result.metrics["accuracy"]
    1.0
    >>> _ = (folder / "new.conll").write_text("the\\ndog\\nsleeps\\n")
    >>> list(predict(folder / "run", folder / "new.conll"))
    ['the DET', 'dog NOUN', 'sleeps VERB']
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion
    from elman.tasks.learner import Result

__all__ = ["evaluate", "predict", "train"]


def train(files: Iterable[str | Path], *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on tagged sentences and keep all of it in a directory.

    Args:
        files: sentences, a token in each line; see the page on tags.
        out: the directory of the run, not there yet, or empty.
        options: settings under the names of `elman.tasks.tags.settings.TagsSource` and
            `TagsSettings`, and `init_from`, `report` and `stop` as in `elman.tasks.training.train`.

    Returns:
        How it ended, with the measures on what was held out.

    Raises:
        InputError: the data cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import training
    from elman.tasks.tags.job import JOB

    return training.train(JOB, Path(out), files=tuple(map(str, files)), **options)


def predict(run: str | Path, given: str | Path) -> Iterator[str]:
    """Tag the tokens of a file.

    Args:
        run: the directory of a training.
        given: a file with the columns of those that were learnt from, or "-" for standard input;
            the column of the tags may be missing, if it is the last.

    Returns:
        The lines of the file, with that column filled in and nothing else changed.

    Raises:
        InputError: there is no trained model, or the file cannot be used.
    """
    from elman.tasks import trained

    return trained.predict(Path(run), str(given))


def evaluate(run: str | Path, files: Iterable[str | Path]) -> "Conclusion":
    """Measure the model of a run on other tagged sentences, beside a lookup of each word.

    Args:
        run: the directory of a training.
        files: sentences with the columns of those that it was trained on.

    Returns:
        Its measures, and those of the lookup.

    Raises:
        InputError: there is no trained model, or the data cannot be used with it.
    """
    from elman.tasks import trained

    return trained.evaluate(Path(run), files)
