"""Run what was trained with NumPy alone; PyTorch is never imported.

Example:
    >>> import elman, elman.runtime, tempfile, torch
    >>> path = tempfile.mkdtemp() + "/model.elman"
    >>> elman.save(torch.nn.Sequential(elman.GRU(3, 4), torch.nn.Linear(4, 2)), path)
    >>> model = elman.runtime.load(path)
    >>> session = model.session()
    >>> session.step([[0.1, 0.2, 0.3]]).shape
    (1, 2)
"""

from elman.errors import InputError
from elman.runtime.file import FileError
from elman.runtime.jobs.labels import Labels
from elman.runtime.jobs.pairs import Pairs
from elman.runtime.jobs.series import Forecast, Series
from elman.runtime.jobs.tags import Tags
from elman.runtime.jobs.text import Text
from elman.runtime.loading import load
from elman.runtime.model import Model, Session, State, Streams

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
