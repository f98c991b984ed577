"""Modules written to model files, and read back: what `elman.runtime` runs without PyTorch.

A model file holds a chain: modules of which each takes what the one before gives. What can stand in
a chain is in `_ENTRIES`; torch.nn.Sequential is taken apart, and a recurrent layer hands on its
output. A module with a forward of its own has no such description, and is refused by name.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman import options, runtime
from elman.cells import CELLS
from elman.language import say
from elman.nn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from elman.runtime.file import FileError, Stored, read, write
from elman.runtime.modules import MOST_TERMS, SCALES, Matrix, make, quantise, widen
from elman.shapes import KindError, ShapeError

__all__ = ["WEIGHTS", "load", "recurrent_entry", "reduced", "save", "stored"]

WEIGHTS = ("float32", "bf16", "int8")


def save(
    module: nn.Module,
    path: str | os.PathLike[str],
    weights: str = "float32",
) -> None:
    """Write a module to a file that `elman.runtime.load` runs with NumPy alone.

    Args:
        module: a recurrent layer or cell, ours or torch.nn's, or torch.nn.Sequential of such and
            of Embedding, Linear, LayerNorm, Dropout, activations and softmax. It is written as in
            evaluation mode, so dropout is left out.
        path: the file; it is replaced wholly or not at all.
        weights: how matrices are stored: "float32" as they are; "bf16" in half the space, rounded
            to 8 bits of precision, with the arithmetic of float32; or "int8" in a quarter, as
            integers from -127 to 127 with a scale for each row, by which inputs and hidden states
            are multiplied as such integers too. Biases and layer norms stay as they are, and so do
            matrices that are bfloat16 or quantised already.

    Raises:
        ShapeError: `weights` is misspelt, or a module is of a dtype that cannot be stored, does
            not take what the one before gives or, for int8, has weights that are not finite or
            more than 131,072 inputs.
        KindError: a module cannot stand in a chain.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/model.elman"
        >>> save(nn.Sequential(LSTM(3, 4, batch_first=True), nn.Linear(4, 2)), path)
        >>> load(path)
        Sequential(
          (0): LSTM(3, 4, batch_first=True)
          (1): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    _check_weights(weights)
    entries, tensors = [], dict[str, Stored]()
    width: int | None = None
    for name, part in _chain(module, ""):
        if isinstance(part, nn.Dropout):
            continue
        entry = _ENTRIES_OF[_kind(part)](part, width)
        entries.append({"name": name or "0", **entry})
        width = entry["width"] if entry["kind"] != "recurrent" else _output_width(entry)
        for parameter, tensor in part.state_dict().items():
            tensors.update(stored(f"{name or '0'}.{parameter}{_end(entry)}", tensor, weights))
    if not entries:
        raise KindError(
            say("save: the module has nothing that computes: give it a recurrent layer")
        )
    try:
        make(entries, tensors)
    except FileError as error:
        raise ShapeError(f"save: {error}") from error
    first, last = entries[0], width
    takes = ["L", "N"] if first["kind"] == "embedding" else ["L", "N", first.get("inputs", last)]
    write(
        path,
        {
            "format": 1,
            "weights": weights,
            "modules": entries,
            "inputs": {"x": takes},
            "outputs": {"y": ["L", "N", last]},
        },
        tensors,
    )


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Read a model file back into modules of PyTorch, in evaluation mode.

    Args:
        path: what `save` wrote.

    Returns:
        The one module, or torch.nn.Sequential of them; the layers are ours. Weights that were
        stored in less than float32 are float32, with the values that were stored.

    Raises:
        FileError: it is no model file, or damaged, or of a newer format.
        OSError: it cannot be opened.
    """
    description, tensors, digest = read(path)
    runtime.Model(description, tensors, digest)  # refuses what does not fit
    is_double = any(stored.dtype == "F64" for stored in tensors.values())
    parts = []
    for entry in description["modules"]:
        part = _made(entry).to(torch.float64 if is_double else torch.float32)
        prefix = f"{entry['name']}."
        part.load_state_dict(
            {
                parameter: torch.from_numpy(_floats(tensors, prefix + parameter + _end(entry)))
                for parameter in part.state_dict()
            }
        )
        parts.append(part)
    whole = parts[0] if len(parts) == 1 else _Chain(*parts)
    return whole.eval()


def reduced(tensors: Mapping[str, Stored], weights: str) -> dict[str, Stored]:
    """Store the tensors of a model file in fewer bits, as `save` does.

    Args:
        tensors: the tensors by name, of float32.
        weights: as `save` takes it.

    Raises:
        ShapeError: `weights` is misspelt, or a tensor cannot be stored so.
    """
    _check_weights(weights)
    found = dict[str, Stored]()
    for name, kept in tensors.items():
        found |= stored(name, torch.from_numpy(np.array(kept.array)), weights)
    return found


class _Chain(nn.Sequential):
    """Modules in a row; a recurrent one hands its output on, and its state is left out."""

    def forward(self, input: Tensor) -> Tensor:
        """Run the modules from zeros."""
        for part in self:
            input = part(input)
            input = input[0] if isinstance(input, tuple) else input
        return input

    def _get_name(self) -> str:
        return "Sequential"


def _chain(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Go through the modules in order, with their names in the whole."""
    if isinstance(module, nn.Sequential):
        for name, part in module.named_children():
            yield from _chain(part, f"{prefix}.{name}" if prefix else name)
    elif isinstance(module, nn.Dropout) or _kind(module) in _ENTRIES_OF:
        yield prefix, module
    else:
        raise KindError(
            say(
                "save: {name} is {kind}, whose forward cannot be stored: write a chain "
                "of torch.nn.Sequential, or a file of ONNX with elman.onnx.export",
                name=prefix or say("the module"),
                kind=type(module).__name__,
            )
        )


def _kind(module: nn.Module) -> type | None:
    if hasattr(module, "stored_as"):  # a quantised layer, whose matrices are stored as they are
        return next(kind for kind in (RNN, LSTM, GRU) if isinstance(module, kind))
    return next((kind for kind in _ENTRIES_OF if type(module) is kind), None)


# --- what stands in a description ---------------------------------------------------------------


def recurrent_entry(layer: Any, width: int | None = None) -> dict[str, Any]:
    """Return what a description says of a recurrent layer.

    Args:
        layer: ours, quantised or not, or torch.nn's.
        width: how many numbers the module before it gives; it is not asked for.

    Raises:
        ShapeError: it has an option that the runtime has not.
    """
    options.refuse("save", layer)
    if layer.mode.startswith("RNN"):
        cell = layer.mode.lower()
    elif layer.mode == "GRU":
        cell = _gru(layer)
    else:
        cell = "lstm"
    return {
        "kind": "recurrent",
        "cell": cell,
        "inputs": layer.input_size,
        "hidden_size": layer.hidden_size,
        "num_layers": layer.num_layers,
        "proj_size": layer.proj_size,
        "bidirectional": bool(layer.bidirectional),
        "bias": bool(layer.bias),
        "batch_first": bool(layer.batch_first),
    }


def _gru(module: Any) -> str:
    return "gru" if getattr(module, "reset_after", True) else "gru_reset_before"


def _cell_entry(module: Any, width: int | None) -> dict[str, Any]:
    """Return what a description says of a cell: that it is a layer, of which a step was kept."""
    if isinstance(module, nn.LSTMCell):
        cell = "lstm"
    elif isinstance(module, nn.GRUCell):
        cell = _gru(module)
    else:
        cell = f"rnn_{module.nonlinearity}"
    return {
        "kind": "recurrent",
        "cell": cell,
        "inputs": module.input_size,
        "hidden_size": module.hidden_size,
        "num_layers": 1,
        "proj_size": 0,
        "bidirectional": False,
        "bias": bool(module.bias),
        "batch_first": False,
        "of_cell": True,
    }


def _end(entry: Mapping[str, Any]) -> str:
    """Return what a file adds to the names of parameters: those of a cell become a layer's."""
    return "_l0" if entry.get("of_cell") is True else ""


def _output_width(entry: Mapping[str, Any]) -> int:
    return int(entry["proj_size"] or entry["hidden_size"]) * (2 if entry["bidirectional"] else 1)


def _embedding(module: Any, width: int | None) -> dict[str, Any]:
    if module.max_norm is not None:
        raise KindError(
            say("save: Embedding with max_norm changes its weights in use: take it away")
        )
    return {"kind": "embedding", "symbols": module.num_embeddings, "width": module.embedding_dim}


def _linear(module: Any, width: int | None) -> dict[str, Any]:
    return {
        "kind": "linear",
        "inputs": module.in_features,
        "width": module.out_features,
        "bias": module.bias is not None,
    }


def _layer_norm(module: Any, width: int | None) -> dict[str, Any]:
    if len(module.normalized_shape) != 1:
        raise KindError(say("save: LayerNorm must be over the features alone, one axis"))
    return {
        "kind": "layer_norm",
        "width": module.normalized_shape[0],
        "eps": module.eps,
        "weight": module.weight is not None,
        "bias": module.bias is not None,
    }


def _function(name: str) -> Callable[[Any, int | None], dict[str, Any]]:
    def entry(module: Any, width: int | None) -> dict[str, Any]:
        if width is None:
            raise KindError(
                say(
                    "save: {kind} cannot be the first module of a chain", kind=type(module).__name__
                )
            )
        if getattr(module, "dim", -1) not in (-1, 2):
            raise KindError(
                say("save: {kind} must be over the features, dim=-1", kind=type(module).__name__)
            )
        if (getattr(module, "beta", 1), getattr(module, "threshold", 20)) != (1, 20):
            raise KindError(
                say("save: {kind} must have its default arguments", kind=type(module).__name__)
            )
        return {"kind": "function", "function": name, "width": width}

    return entry


_FUNCTIONS = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.SiLU: "silu",
    nn.Softplus: "softplus",
    nn.Identity: "identity",
}
_ENTRIES_OF: dict[Any, Callable[[Any, int | None], dict[str, Any]]] = {
    **dict.fromkeys((RNN, LSTM, GRU, nn.RNN, nn.LSTM, nn.GRU), recurrent_entry),
    **dict.fromkeys((RNNCell, LSTMCell, GRUCell), _cell_entry),
    **dict.fromkeys((nn.RNNCell, nn.LSTMCell, nn.GRUCell), _cell_entry),
    nn.Embedding: _embedding,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    **{kind: _function(name) for kind, name in _FUNCTIONS.items()},
}


def _made(entry: Mapping[str, Any]) -> nn.Module:
    """Return a new module of PyTorch for an entry that was checked."""
    if entry["kind"] == "embedding":
        return nn.Embedding(entry["symbols"], entry["width"])
    if entry["kind"] == "linear":
        return nn.Linear(entry["inputs"], entry["width"], bias=entry["bias"])
    if entry["kind"] == "layer_norm":
        return nn.LayerNorm(
            entry["width"], entry["eps"], elementwise_affine=entry["weight"], bias=entry["bias"]
        )
    if entry["kind"] == "function":
        kind = next(k for k, name in _FUNCTIONS.items() if name == entry["function"])
        return kind(-1) if kind in (nn.Softmax, nn.LogSoftmax) else kind()
    cell = CELLS[entry["cell"]]
    if entry.get("of_cell") is True:
        few = (entry["inputs"], entry["hidden_size"], entry["bias"])
        if cell.onnx_op == "LSTM":
            return LSTMCell(*few)
        if cell.onnx_op == "GRU":
            return GRUCell(*few, reset_after=cell.reset is None)
        return RNNCell(*few, nonlinearity=cell.name.removeprefix("rnn_"))
    options: dict[str, Any] = {
        "bias": entry["bias"],
        "bidirectional": entry["bidirectional"],
        "batch_first": bool(entry.get("batch_first", False)),
    }
    sizes = (entry["inputs"], entry["hidden_size"], entry["num_layers"])
    if cell.onnx_op == "LSTM":
        return LSTM(*sizes, proj_size=entry["proj_size"], **options)
    if cell.onnx_op == "GRU":
        return GRU(*sizes, reset_after=cell.reset is None, **options)
    return RNN(*sizes, nonlinearity=cell.name.removeprefix("rnn_"), **options)


# --- how a tensor is stored ---------------------------------------------------------------------


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS:
        raise ShapeError(
            say(
                "save: weights must be one of {names}, got {got}",
                names=", ".join(WEIGHTS),
                got=repr(weights),
            )
        )


def stored(
    name: str, tensor: Tensor, weights: str, who: str = "save", within: str = ""
) -> dict[str, Stored]:
    """Return what a file holds of a tensor: itself and, beside integers, their scales.

    Args:
        name: its name in the file.
        tensor: a parameter. A matrix of integers, which has its scales beside it already, and one
            of bfloat16 are held as they are.
        weights: how matrices of floats are held, as `save` takes it.
        who: the function that was called, for an error to name.
        within: where its name stands in the whole, with a dot behind, for the same.

    Raises:
        ShapeError: it cannot be held so.
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.int8:
        return {name: Stored("I8", tensor.numpy())}
    if tensor.dtype is torch.float64 and weights == "float32":
        return {name: Stored("F64", tensor.numpy())}
    if not tensor.is_floating_point():
        raise ShapeError(
            say(
                "{who}: {within}weights must be floating point, got {got}",
                who=who,
                within=within,
                got=tensor.dtype,
            )
        )
    if tensor.dim() < 2 or (weights == "float32" and tensor.dtype is not torch.bfloat16):
        return {name: Stored("F32", tensor.float().numpy())}
    if weights != "int8":
        bits = tensor.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return {name: Stored("BF16", bits)}
    if not tensor.isfinite().all():
        raise ShapeError(
            say(
                "{who}: {name} must be finite to be stored in int8, got NaN or infinity: store "
                "float32",
                who=who,
                name=within + name,
            )
        )
    if tensor.shape[1] > MOST_TERMS:
        raise ShapeError(
            say(
                "{who}: {name} in int8 must have at most {most} columns, got {got}: store bf16",
                who=who,
                name=within + name,
                most=MOST_TERMS,
                got=tensor.shape[1],
            )
        )
    integers, scales = quantise(tensor.float().numpy())
    return {
        name: Stored("I8", integers.astype(np.int8)),
        name + SCALES: Stored("F32", scales[:, 0]),
    }


def _floats(tensors: Mapping[str, Stored], name: str) -> NDArray[Any]:
    stored = tensors[name]
    if stored.dtype != "I8":
        return np.array(widen(stored))
    return Matrix(stored.array, widen(tensors[name + SCALES])).dense
