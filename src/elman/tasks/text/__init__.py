"""Learn to write like a text, one character at a time.

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
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman.tasks import InputError

if TYPE_CHECKING:
    from elman.tasks.learner import Result

__all__ = ["sample", "train"]


def train(files: Iterable[str | Path], *, out: str | Path, **options: Any) -> "Result":
    """Train a new model on a text and keep all of it in a directory.

    Args:
        files: the text, read as one in the order given.
        out: the directory of the run, not there yet, or empty.
        options: settings under the names of `elman.tasks.text.settings.TextSettings`, and
            `init_from`, `report` and `stop` as in `elman.tasks.learner.train`.

    Returns:
        How it ended, with the measures on the held-out text.

    Raises:
        InputError: the text cannot be used, a setting is out of range, or `out` is taken.
        DivergenceError: the loss became NaN or exploded.
    """
    from elman.tasks import learner
    from elman.tasks.text.job import JOB

    return learner.train(JOB, Path(out), files=tuple(map(str, files)), **options)


def sample(
    run: str | Path,
    *,
    prime: str = "",
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Write on from a text, one character at a time.

    Args:
        run: the directory of a training; its best weights are used, or the last if it was stopped
            before it was first evaluated.
        prime: the text to go on from; it is not repeated.
        length: characters to write.
        temperature: below 1 the likely becomes likelier, above 1 less so; 0 takes the likeliest.
        top_k: choose among so many of the likeliest characters only.
        seed: the same seed writes the same text; None writes another each time.

    Returns:
        The characters, as they are made.

    Raises:
        InputError: there is no trained model, it has never seen a character of `prime`, or an
            argument is out of range.
    """
    for name, value, least in (("length", length, 0), ("temperature", temperature, 0)):
        if not least <= value < math.inf:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    import torch

    from elman.tasks.learner import load
    from elman.tasks.text.corpus import encode
    from elman.tasks.text.model import write

    trained = load(Path(run))
    if trained.job.name != "text":
        raise InputError(f"{run} is a run of {trained.job.name}, not of text: use elman predict")
    symbols = trained.knowledge["symbols"]
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    start = encode(prime, symbols)
    written = write(trained.model, symbols, start, temperature, top_k, generator)  # type: ignore[arg-type]
    return itertools.islice(written, length)
