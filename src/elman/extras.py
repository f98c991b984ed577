"""What elman can do without until it is used: packages that come with an extra.

`pip install elman` brings NumPy alone. Whatever else a function imports, it imports under `needed`,
which says what is missing and which extra brings it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from elman.language import say

__all__ = ["MissingError", "needed"]


class MissingError(ModuleNotFoundError):
    """A package is not installed; the message names what needs it, and the extra that brings it."""


@contextmanager
def needed(by: str, extra: str) -> Iterator[None]:
    """Import something that comes with an extra; if it is missing, say so in one sentence.

    Args:
        by: what needs it, as the user knows it, such as "elman.LSTM".
        extra: the extra of elman that brings it.

    Raises:
        MissingError: a package that is imported inside is not installed.

    Example:
        >>> with needed("elman.tea", "torch"):
        ...     import samovar
        Traceback (most recent call last):
        ...
        elman.extras.MissingError: elman.tea needs samovar: pip install 'elman[torch]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "elman"):
            raise
        # What is nearest to a package knows best what it is for; but PyTorch comes with every
        # extra, and which one is wanted the outermost knows.
        if isinstance(error, MissingError) and package != "torch":
            raise
        raise MissingError(
            say(
                "{by} needs {package}: pip install 'elman[{extra}]'",
                by=by,
                package=_NAMES.get(package, package),
                extra=extra,
            ),
            name=error.name,
        ) from error


_NAMES = {"matplotlib": "Matplotlib", "torch": "PyTorch", "sklearn": "scikit-learn"}
