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

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.tasks import InputError
from elman.tasks.settings import check, setting

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


@dataclass(frozen=True)
class _Writing:
    """What may be said of how a text is written."""

    length: int = setting("Characters to write.", 500, least=0, most=10**12)
    temperature: float = setting("Boldness.", 1.0, least=0)
    top_k: int | None = setting("Choose among the likeliest.", None, least=1)
    seed: int | None = setting("Seed of the random numbers.", None, least=0, below=2**63)


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
            before it was first evaluated.
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
    check(_Writing, {"length": length, "temperature": temperature, "top_k": top_k, "seed": seed})
    import torch

    from elman.tasks.text.levels import recall
    from elman.tasks.text.model import TextModel, write
    from elman.tasks.trained import load

    trained = load(Path(run))
    if not isinstance(trained.model, TextModel):
        raise InputError(f"{run} is a run of {trained.job.name}, not of text: use elman predict")
    vocabulary = recall(trained.knowledge)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    start = vocabulary.encode(prime) if prime else vocabulary.new_line
    ids = torch.from_numpy(start).long()
    written = write(trained.model, ids, temperature, top_k, generator)
    return vocabulary.decode(itertools.islice(written, length))
