"""Weights and files of other programs: Keras, sru, and ONNX, whose reading and writing are apart.

Here stands what they share.

Example:
    >>> rows("ifgo", "iofg", hidden_size=2)
    tensor([0, 1, 6, 7, 2, 3, 4, 5])
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from elman.extras import needed

__all__ = ["package", "rows"]


def package(name: str) -> Any:
    """Return a package of the extra "onnx".

    Raises:
        MissingError: It is missing; the message says how to install it.
    """
    with needed("elman.onnx", "onnx"):
        return import_module(name)


def rows(stored: str, wanted: str, hidden_size: int) -> Tensor:
    """Return which row of a parameter goes where if its gates are to be in another order.

    A parameter is a block of hidden_size rows for each gate.
    """
    blocks = torch.arange(len(stored) * hidden_size).view(len(stored), hidden_size)
    return blocks[[stored.index(gate) for gate in wanted]].flatten()
