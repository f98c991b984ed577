"""Recurrent networks, drop-in for those of torch.nn, on a small and fast C++ core.

Importing elman is cheap: the layers, and with them PyTorch, are loaded when first asked for; where
PyTorch is not installed they say so then. `elman.runtime` never needs it.

Example:
    >>> import elman, torch
    >>> lstm = elman.LSTM(input_size=3, hidden_size=4)
    >>> output, (h_n, c_n) = lstm(torch.zeros(5, 2, 3))  # 5 steps of 2 sequences
    >>> output.shape, h_n.shape
    (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from elman.extras import needed

if TYPE_CHECKING:
    from elman import onnx as onnx
    from elman import runtime as runtime
    from elman.carry import Carry, tbptt
    from elman.cells import cell
    from elman.core import get_num_threads, set_num_threads, show_config
    from elman.diagnosis import check_cell
    from elman.drawing import plot_gates
    from elman.exchange.keras import from_keras, to_keras
    from elman.exchange.sru import from_sru
    from elman.explanation import explain
    from elman.hints import Hint
    from elman.inside import gates
    from elman.language import get_language, set_language
    from elman.nn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
    from elman.printing import axes, describe_state
    from elman.quantized import quantize
    from elman.ragged import BucketBatchSampler, last
    from elman.recurrent import Recurrent
    from elman.saved import load, save
    from elman.swap import convert, revert
    from elman.transforms import per_sample_grads
    from elman.verification import verify

    __version__: str

# The module that each public name comes from.
_HOMES = {
    "BucketBatchSampler": "ragged",
    "Carry": "carry",
    "GRU": "nn",
    "GRUCell": "nn",
    "Hint": "hints",
    "LSTM": "nn",
    "LSTMCell": "nn",
    "RNN": "nn",
    "RNNCell": "nn",
    "Recurrent": "recurrent",
    "cell": "cells",
    "axes": "printing",
    "check_cell": "diagnosis",
    "convert": "swap",
    "describe_state": "printing",
    "explain": "explanation",
    "from_keras": "exchange.keras",
    "from_sru": "exchange.sru",
    "gates": "inside",
    "get_language": "language",
    "get_num_threads": "core",
    "last": "ragged",
    "load": "saved",
    "per_sample_grads": "transforms",
    "plot_gates": "drawing",
    "quantize": "quantized",
    "revert": "swap",
    "save": "saved",
    "set_language": "language",
    "set_num_threads": "core",
    "show_config": "core",
    "tbptt": "carry",
    "to_keras": "exchange.keras",
    "verify": "verification",
}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BucketBatchSampler",
    "Carry",
    "GRUCell",
    "Hint",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "__version__",
    "axes",
    "cell",
    "check_cell",
    "convert",
    "describe_state",
    "explain",
    "from_keras",
    "from_sru",
    "gates",
    "get_language",
    "get_num_threads",
    "last",
    "load",
    "onnx",
    "per_sample_grads",
    "plot_gates",
    "quantize",
    "revert",
    "runtime",
    "save",
    "set_language",
    "set_num_threads",
    "show_config",
    "tbptt",
    "to_keras",
    "verify",
]


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        value = import_module("importlib.metadata").version("elman")
    elif name == "runtime":
        value = import_module("elman.runtime")
    elif name == "onnx":
        with needed("elman.onnx", "onnx"):
            value = import_module("elman.onnx")
    elif name in _HOMES:
        with needed(f"elman.{name}", "torch"):
            value = getattr(import_module(f"elman.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
