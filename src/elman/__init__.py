"""Recurrent networks, drop-in for those of torch.nn, on a small and fast C++ core.

Importing elman is cheap: the layers, and with them PyTorch, are loaded when first asked for.

Example:
    >>> import elman, torch
    >>> lstm = elman.LSTM(input_size=3, hidden_size=4)
    >>> output, (h_n, c_n) = lstm(torch.zeros(5, 2, 3))  # 5 steps of 2 sequences
    >>> output.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elman.nn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from elman.ops import get_num_threads, set_num_threads, show_config

    __version__: str

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "__version__",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("elman")
    else:  # classes live in nn, functions in ops
        value = getattr(import_module("elman.nn" if name[0].isupper() else "elman.ops"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
