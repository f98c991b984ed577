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

from elman.runtime.file import FileError
from elman.runtime.model import InputError, Model, Session, State, Streams, load

__all__ = ["FileError", "InputError", "Model", "Session", "State", "Streams", "load"]
