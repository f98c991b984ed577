"""Learn a text, and continue it.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> song = "row, row, row your boat, gently down the stream, " * 20
    >>> _ = (folder / "song.txt").write_text(song)
    >>> result = train([folder / "song.txt"], out=folder / "run", epochs=1, hidden=16)
    >>> result.finished, len("".join(sample(folder / "run", length=40)))
    (True, 40)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.tasks import InputError

if TYPE_CHECKING:
    from elman.tasks.job import Conclusion
    from elman.tasks.learner import Result

__all__ = ["evaluate", "sample", "train"]


def train(files: Iterable[str | Path], *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on a text and keep all of it in a directory.

    Args:
        files: the text, read as one in the order given.
        out: the directory of the run, not there yet, or empty.
        options: settings under the names of `elman.tasks.text.settings.TextSettings`, and
            `init_from`, `report` and `stop` as in `elman.tasks.training.train`.

    Returns:
        How it ended, with the measures on the held-out text.

    Raises:
        InputError: the text cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import training
    from elman.tasks.text.job import JOB

    return training.train(JOB, Path(out), files=tuple(map(str, files)), **options)


def evaluate(run: str | Path, files: Iterable[str | Path]) -> "Conclusion":
    """Measure a model on another text, all of it but the first symbols.

    Args:
        run: the directory of a training.
        files: the text, read as one in the order given.

    Returns:
        Its measures: nats_per_character, bits_per_character, and the perplexity of a symbol.

    Raises:
        InputError: there is no trained model, or it does not know a character of the text.
    """
    from elman.tasks import trained

    return trained.evaluate(Path(run), files)


def sample(
    run: str | Path,
    *,
    prime: str = "",
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Write on from a text, one symbol at a time.

    Args:
        run: the directory of a training; its best weights are used, or the last if it was stopped
            before it was first evaluated. Or a file that `elman export` wrote.
        prime: the text to go on from; it is not repeated.
        length: symbols to write: characters, unless the model is of another level.
        temperature: below 1 the likely becomes likelier, above 1 less so; 0 takes the likeliest.
        top_k: choose among so many of the likeliest symbols only.
        seed: the same seed writes the same text; None writes another each time.

    Returns:
        The text, piece by piece as it is made.

    Raises:
        InputError: there is no trained model, it has never seen a character of `prime`, or an
            argument is out of range.
    """
    from elman.runtime.jobs.text import Text, check_sampling
    from elman.tasks import trained

    check_sampling(length, temperature, top_k, seed)
    model = trained.use(Path(run))
    if not isinstance(model, Text):
        raise InputError(f"{run} is a model of {model.job}, not of text: use elman predict")
    return model.sample(prime, length, temperature, top_k, seed)
