"""What `elman predict` reads and writes with a model of pairs."""

from collections.abc import Iterator

from elman.runtime import Pairs
from elman.tasks import InputError
from elman.tasks.pairs.data import read_sources
from elman.tasks.pairs.settings import PairsPrediction

__all__ = ["lines"]

_AT_ONCE = 1024  # sources whose answers are looked for before the first is told


def lines(model: Pairs, given: str | None, options: PairsPrediction) -> Iterator[str]:
    """Answer each row with a target, or with `n_best` of them, tabs between.

    Args:
        model: the model.
        given: a file with a source in each row, "-" for standard input, or a source itself.
        options: how many answers, and the search.

    Raises:
        InputError: the input cannot be used.
    """
    if given is None:
        raise InputError("there is nothing to answer: give a text, a file, or -")
    sources = read_sources(given, model.source)
    for start in range(0, len(sources), _AT_ONCE):
        some = sources[start : start + _AT_ONCE]
        for answers in model.predict(some, options.n_best, options.beam):
            yield "\t".join(answers)
