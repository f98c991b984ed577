"""Run what was trained with NumPy alone; PyTorch is never imported.

Importing it is cheap: the models of the jobs are loaded when a file or a program first names one.

Example:
    >>> import elman, elman.runtime, tempfile, torch
    >>> path = tempfile.mkdtemp() + "/model.elman"
    >>> elman.save(torch.nn.Sequential(elman.GRU(3, 4), torch.nn.Linear(4, 2)), path)
    >>> model = elman.runtime.load(path)
    >>> session = model.session()
    >>> session.step([[0.1, 0.2, 0.3]]).shape
    (1, 2)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from elman.errors import InputError
from elman.runtime.file import FileError
from elman.runtime.loading import load
from elman.runtime.model import Model, Session, State, Streams

if TYPE_CHECKING:
    from elman.runtime.jobs.labels import Labels
    from elman.runtime.jobs.pairs import Pairs
    from elman.runtime.jobs.series import Forecast, Series
    from elman.runtime.jobs.tags import Tags
    from elman.runtime.jobs.text import Text

# The module that each name comes from which is loaded when asked for.
_HOMES = {
    "Forecast": "series",
    "Labels": "labels",
    "Pairs": "pairs",
    "Series": "series",
    "Tags": "tags",
    "Text": "text",
}

__all__ = [
    "FileError",
    "Forecast",
    "InputError",
    "Labels",
    "Model",
    "Pairs",
    "Series",
    "Session",
    "State",
    "Streams",
    "Tags",
    "Text",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"elman.runtime.jobs.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
