"""The modules of a chain, in NumPy: what they are made of, and what they compute.

A chain is a list of modules, each of which takes what the one before gives: (L, N, .) over whole
sequences. A recurrent module has a state besides. This is the definition of what the runtime
computes, and the path where the native core is not there; the core computes the same chain faster.

Each kind of module is made from its entry in the description of a file and the tensors it names,
and refuses what does not fit.

A matrix in int8 is q[j, k] * scales[j], with integers q from -127 to 127. The rows x that it is
multiplied by are rounded to such integers too, each for itself:

    range = max(least, max |x[k]|)
    p[k] = nearest integer of x[k] * (127 / range), the even one of two
    y[j] = (sum of p[k] q[j, k]) * ((range / 127) * scales[j])

The sum is one of integers, and exact; everything else is float32, rounded after each operation, and
a bias is added last. A row below 2^-100 counts as zeros; one with a NaN or an infinity gives NaN.
`least` is 0, but 1 where x is an h that is from -1 to 1 by its cell: its scale is then 1/127 at
every step, and only an initial h beyond 1, while it lasts, has one of its own. So a row's result
depends on nothing but the row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elman.cells import CELLS, Cell
from elman.language import say
from elman.runtime.facts import Facts
from elman.runtime.file import FileError, Stored

__all__ = [
    "KINDS",
    "MOST_TERMS",
    "SCALES",
    "Floats",
    "Matrix",
    "Module",
    "Recurrent",
    "log_softmax",
    "make",
    "quantise",
    "softmax",
    "widen",
]

Floats = NDArray[np.floating[Any]]
MOST_TERMS = 2**17  # of a sum of products of integers up to 127, which stays below 2^31
SCALES = "_scale"  # after the name of a matrix in int8, where its scales are
_NOTHING = np.float32(2.0**-100)


class Module(ABC):
    """One module of a chain.

    Attributes:
        kind: What it is called in a description.
        width: How many numbers it gives at each step.
    """

    kind: ClassVar[str]
    width: int

    @abstractmethod
    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Compute (..., inputs) -> (..., width), each step for itself."""

    @abstractmethod
    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add the module to a chain of the native core that computes with this dtype."""


def _dense(array: NDArray[Any] | None, dtype: Any) -> NDArray[Any] | None:
    return None if array is None else np.require(array, dtype, ["C", "A"])


class _Reader(Facts):
    """The entry of a module in a description, and the tensors of a file."""

    def __init__(self, entry: Mapping[str, Any], tensors: Mapping[str, Stored]) -> None:
        where = say(
            "module {name} ({kind})",
            name=f"{entry.get('name')!r:.80}",
            kind=f"{entry.get('kind')!r:.40}",
        )
        super().__init__(where, entry)
        self.entry, self.tensors = entry, tensors

    def weight(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return a tensor of the file as floats, of the shape that the sizes ask for."""
        stored = self._stored(name, shape)
        if stored.dtype == "I8":
            raise FileError(
                say("{module}: {name} must be floating point, got int8", module=self, name=name)
            )
        return widen(stored)

    def matrix(self, name: str, shape: tuple[int, int]) -> "Matrix":
        """Return a matrix of the file, of the shape that the sizes ask for."""
        stored = self._stored(name, shape)
        if stored.dtype != "I8":
            return Matrix(widen(stored))
        scales = self.weight(f"{name}{SCALES}", shape[:1])
        if scales.dtype != np.float32 or any(s.dtype == "F64" for s in self.tensors.values()):
            raise FileError(
                say(
                    "{module}: beside {name} in int8 all must be float32, got float64",
                    module=self,
                    name=name,
                )
            )
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FileError(
                say(
                    "{module}: the scales of {name} must be finite and not negative",
                    module=self,
                    name=name,
                )
            )
        if shape[1] > MOST_TERMS:
            raise FileError(
                say(
                    "{module}: {name} in int8 must have at most {most} columns, got {got}",
                    module=self,
                    name=name,
                    most=MOST_TERMS,
                    got=shape[1],
                )
            )
        if stored.array.size and stored.array.min() < -127:
            raise FileError(
                say("{module}: {name} must be from -127 to 127, got -128", module=self, name=name)
            )
        return Matrix(stored.array, scales)

    def _stored(self, name: str, shape: tuple[int, ...]) -> Stored:
        full = f"{self.entry.get('name')}.{name}"
        stored = self.tensors.get(full)
        if stored is None:
            raise FileError(
                say(
                    "{module}: the tensor {name} is missing",
                    module=self,
                    name=f"{full!r:.80}",
                )
            )
        if stored.array.shape != shape:
            raise FileError(
                say(
                    "{module}: {name} must be {shape}, got {got}",
                    module=self,
                    name=f"{full!r:.80}",
                    shape=shape,
                    got=stored.array.shape,
                )
            )
        return stored

    def __str__(self) -> str:
        return self.where


def widen(stored: Stored) -> Floats:
    """Return a stored tensor as floats: bfloat16 is the upper half of a float32."""
    if stored.dtype == "BF16":
        bits: Floats = (stored.array.astype(np.uint32) << 16).view(np.float32)
        return bits
    return stored.array


@dataclass(frozen=True)
class Matrix:
    """A matrix of weights, as torch stores it: a row for each output.

    Args:
        values: (rows, columns) floats or, with scales, int8 from -127 to 127.
        scales: (rows,) float32, or None.
    """

    values: NDArray[Any]
    scales: Floats | None = None

    @property
    def dense(self) -> Floats:
        """The values as floats; those beyond float32 are infinite."""
        with np.errstate(over="ignore"):
            return self.values if self.scales is None else self.values * self.scales[:, None]

    def __getitem__(self, rows: slice) -> "Matrix":
        """Return some rows."""
        return Matrix(self.values[rows], None if self.scales is None else self.scales[rows])

    def times(self, x: Floats, least: float = 0) -> Floats:
        """Multiply rows, (..., columns) -> (..., rows).

        Args:
            x: the rows.
            least: of int8, the magnitude that every row is taken to have at least.
        """
        if self.scales is None:
            return np.asarray(x @ self.values.T)
        integers, scales = quantise(x, least)
        sums = integers.astype(np.float64) @ self.values.T.astype(np.float64)  # exact
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(sums.astype(np.float32) * (scales * self.scales))


def quantise(x: Floats, least: float = 0) -> tuple[NDArray[np.int32], Floats]:
    """Round each row to integers from -127 to 127 of a scale of its own.

    Args:
        x: (..., n) float32.
        least: the magnitude that every row is taken to have at least.

    Returns:
        (..., n) integers and (..., 1) scales, NaN where a row is not finite.

    Example:
        >>> import numpy as np
        >>> integers, scales = quantise(np.array([[0.0, -1.0, 2.0]], np.float32))
        >>> integers, scales * 127
        (array([[  0, -64, 127]], dtype=int32), array([[2.]], dtype=float32))
    """
    ranges = np.maximum(np.abs(x).max(-1, keepdims=True, initial=0), np.float32(least))
    is_finite, is_nothing = np.isfinite(ranges), ranges < _NOTHING
    divisor = np.where(is_finite & ~is_nothing, ranges, np.float32(127))
    integers = np.rint(np.where(is_finite, x, 0) * (np.float32(127) / divisor))
    scales = np.where(is_nothing, np.float32(0), divisor / np.float32(127))
    return (
        np.where(is_nothing, 0, integers).astype(np.int32),
        np.where(is_finite, scales, np.float32(np.nan)),
    )


class Embedding(Module):
    """A row of a table for each number; beside int8, what follows gets floats."""

    kind = "embedding"

    def __init__(self, read: _Reader) -> None:
        """Read the table."""
        self.symbols, self.width = read.size("symbols"), read.size("width")
        self.weight = read.matrix("weight", (self.symbols, self.width)).dense

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Look rows up: (...,) integers -> (..., width)."""
        return np.asarray(self.weight[x])

    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add the table."""
        chain.add_embedding(_dense(self.weight, dtype), self.symbols, self.width)


class Linear(Module):
    """y = x W^T + b."""

    kind = "linear"

    def __init__(self, read: _Reader) -> None:
        """Read weight and bias."""
        self.inputs, self.width = read.size("inputs"), read.size("width")
        self.weight = read.matrix("weight", (self.width, self.inputs))
        self.bias = read.weight("bias", (self.width,)) if read.truth("bias") else None

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Multiply."""
        y = self.weight.times(x)
        return y if self.bias is None else np.asarray(y + self.bias)

    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add weight and bias."""
        weight, bias = _dense(self.weight.dense, dtype), _dense(self.bias, dtype)
        chain.add_linear(weight, bias, self.inputs, self.width, _dense(self.weight.scales, dtype))


class LayerNorm(Module):
    """The features of a step with mean 0 and variance 1, then scaled and shifted."""

    kind = "layer_norm"

    def __init__(self, read: _Reader) -> None:
        """Read scale and shift, if it has them."""
        self.inputs = self.width = read.size("width")
        self.eps = read.number("eps")
        self.weight = read.weight("weight", (self.width,)) if read.truth("weight") else None
        self.bias = read.weight("bias", (self.width,)) if read.truth("bias") else None

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Normalise."""
        centred = x - x.mean(-1, keepdims=True)
        y: Floats = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add scale and shift."""
        weight, bias = _dense(self.weight, dtype), _dense(self.bias, dtype)
        chain.add_layer_norm(weight, bias, self.eps, self.width)


def softmax(x: Floats) -> Floats:
    """Return probabilities, over the last axis of (..., M) logits."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def log_softmax(x: Floats) -> Floats:
    """Return the logarithms of probabilities, over the last axis of (..., M) logits."""
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


class _Math:
    """The array operations in which `elman.cells` writes a step."""

    @staticmethod
    def split(x: Floats, parts: int) -> list[Floats]:
        return np.split(x, parts, axis=-1)

    @staticmethod
    def sigmoid(x: Floats) -> Floats:
        return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)  # which cannot overflow

    tanh = staticmethod(np.tanh)

    @staticmethod
    def relu(x: Floats) -> Floats:
        return np.maximum(x, 0)


_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": _Math.relu,
    "tanh": np.tanh,
    "sigmoid": _Math.sigmoid,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "silu": lambda x: x * _Math.sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "identity": lambda x: x,
}


class Function(Module):
    """A function of the features of a step: an activation, or softmax."""

    kind = "function"

    def __init__(self, read: _Reader) -> None:
        """Find the function."""
        self.inputs = self.width = read.size("width")
        self.function = read.word("function", tuple(_FUNCTIONS))

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Apply it."""
        return _FUNCTIONS[self.function](x)

    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add the function."""
        chain.add_function(self.function, self.width)


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer and direction; see `elman.cells`."""

    w_ih: Matrix
    w_hh: Matrix
    b_ih: Floats | None
    b_hh: Floats | None
    w_hr: Matrix | None

    def in_order(self, dtype: Any) -> tuple[Any, ...]:
        """Return matrices and biases, and then the scales, as the core takes them."""
        matrices = (self.w_ih, self.w_hh, self.w_hr)
        w_ih, w_hh, w_hr = (None if m is None else _dense(m.dense, dtype) for m in matrices)
        scales = (None if m is None else _dense(m.scales, dtype) for m in matrices)
        return w_ih, w_hh, _dense(self.b_ih, dtype), _dense(self.b_hh, dtype), w_hr, *scales


class Recurrent(Module):
    """Layers of a recurrent cell on top of each other, in one or both directions."""

    kind = "recurrent"

    def __init__(self, read: _Reader) -> None:
        """Read the parameters of each layer and direction."""
        self.cell: Cell = CELLS[read.word("cell", tuple(CELLS))]
        self.inputs, self.hidden_size = read.size("inputs"), read.size("hidden_size")
        self.num_layers = read.size("num_layers")
        if self.num_layers > 1024:
            raise FileError(
                say(
                    "{module}: num_layers must be at most 1024, got {got}",
                    module=read,
                    got=self.num_layers,
                )
            )
        self.proj_size = read.size("proj_size", least=0)
        if self.proj_size and (self.cell.name != "lstm" or self.proj_size >= self.hidden_size):
            raise FileError(
                say(
                    "{module}: proj_size must be 0, or of an LSTM and below hidden_size",
                    module=read,
                )
            )
        self.directions = 2 if read.truth("bidirectional") else 1
        bias = read.truth("bias")
        out = self.proj_size or self.hidden_size
        self.width, rows = self.directions * out, len(self.cell.gates) * self.hidden_size
        # The size of each state, of one layer and sequence.
        self.state_widths = (out, self.hidden_size)[: len(self.cell.states)]
        self.weights: list[Weights] = []
        for layer in range(self.num_layers):
            inputs = self.width if layer else self.inputs
            for suffix in ("", "_reverse")[: self.directions]:
                end = f"_l{layer}{suffix}"
                self.weights.append(
                    Weights(
                        read.matrix(f"weight_ih{end}", (rows, inputs)),
                        read.matrix(f"weight_hh{end}", (rows, out)),
                        read.weight(f"bias_ih{end}", (rows,)) if bias else None,
                        read.weight(f"bias_hh{end}", (rows,)) if bias else None,
                        read.matrix(f"weight_hr{end}", (out, self.hidden_size))
                        if self.proj_size
                        else None,
                    )
                )
        matrices = [m for w in self.weights for m in (w.w_ih, w.w_hh, w.w_hr) if m is not None]
        if len({m.scales is None for m in matrices}) > 1:
            raise FileError(say("{module}: all of its matrices must be int8, or none", module=read))
        # h and what a projection makes of it: the least that a row counts, see above.
        self._least_hidden = float(self.cell.bounded)
        self._least_h = 0.0 if self.proj_size else self._least_hidden

    def __call__(self, x: NDArray[Any]) -> Floats:
        """Run over whole sequences, (L, N, inputs) -> (L, N, width), from zeros."""
        return self.run(x, self.zeros(x.shape[1], x.dtype), None)[0]

    def add_to(self, chain: Any, dtype: Any) -> None:
        """Add each layer."""
        for layer in range(self.num_layers):
            first = layer * self.directions
            directions = [w.in_order(dtype) for w in self.weights[first : first + self.directions]]
            inputs = self.width if layer else self.inputs
            chain.add_layer(self.cell.name, inputs, self.hidden_size, self.proj_size, directions)

    def zeros(self, batch: int, dtype: Any) -> list[Floats]:
        """Return the state before the first step: (layers * directions, batch, .) each."""
        rows = self.num_layers * self.directions
        return [np.zeros((rows, batch, width), dtype) for width in self.state_widths]

    def run(
        self, x: Floats, state: Sequence[Floats], lengths: NDArray[np.int64] | None
    ) -> tuple[Floats, list[Floats]]:
        """Run over whole sequences.

        Args:
            x: (L, N, inputs).
            state: as `zeros` gives it, with the values to start from.
            lengths: (N,) steps of each sequence, or None if all have L.

        Returns:
            (L, N, width), zeros past the end of a sequence, and the state after it.
        """
        after = [part.copy() for part in state]
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self.directions):
                row = layer * self.directions + direction
                output, final = self._layer(
                    self.weights[row], x, [part[row] for part in state], lengths, direction
                )
                outputs.append(output)
                for part, value in zip(after, final, strict=True):
                    part[row] = value
            x = np.concatenate(outputs, axis=-1)
        return x, after

    def _layer(
        self,
        w: Weights,
        x: Floats,
        state: Sequence[Floats],
        lengths: NDArray[np.int64] | None,
        direction: int,
    ) -> tuple[Floats, Sequence[Floats]]:
        seq_len = len(x)
        output = np.zeros((*x.shape[:2], self.state_widths[0]), x.dtype)
        gx = w.w_ih.times(x)
        gx = gx if w.b_ih is None else gx + w.b_ih
        for t in range(seq_len)[:: -1 if direction else 1]:
            after = self._step(w, gx[t], state)
            if lengths is not None:
                runs = (t < lengths)[:, None]
                after = [np.where(runs, new, old) for new, old in zip(after, state, strict=True)]
                output[t] = np.where(runs, after[0], 0)
            else:
                output[t] = after[0]
            state = after
        return output, state

    def _step(self, w: Weights, gx: Floats, state: Sequence[Floats]) -> Sequence[Floats]:
        """Advance by one step; gx is (N, gates * hidden_size)."""
        cell, h = self.cell, state[0]
        if cell.reset is None:
            gh = w.w_hh.times(h, self._least_h)
            gh = gh if w.b_hh is None else gh + w.b_hh
        else:
            early = (len(cell.gates) - len(cell.late)) * self.hidden_size
            first = w.w_hh[:early].times(h, self._least_h)
            first = first if w.b_hh is None else first + w.b_hh[:early]
            reset = cell.reset(_Math, gx, first, state)
            late = w.w_hh[early:].times(reset, self._least_h)
            late = late if w.b_hh is None else late + w.b_hh[early:]
            gh = np.concatenate([first, late], axis=-1)
        after: Sequence[Floats] = cell.step(_Math, gx, gh, state)
        if w.w_hr is None:
            return after
        return w.w_hr.times(after[0], self._least_hidden), *after[1:]


KINDS: dict[str, Callable[[_Reader], Module]] = {
    kind.kind: kind for kind in (Embedding, Linear, LayerNorm, Function, Recurrent)
}


def make(entries: Sequence[Mapping[str, Any]], tensors: Mapping[str, Stored]) -> list[Module]:
    """Make the modules of a description, and check that each takes what the one before gives.

    Args:
        entries: the modules, in order.
        tensors: the tensors of the file.

    Raises:
        FileError: an entry is not complete, or does not fit its tensors or its neighbours.
    """
    modules: list[Module] = []
    width: int | None = None
    for entry in entries:
        kind = entry.get("kind") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            raise FileError(
                say(
                    "a module must be one of {names}, got {got}",
                    names=", ".join(KINDS),
                    got=f"{entry!r:.80}",
                )
            )
        read = _Reader(entry, tensors)
        module = KINDS[entry["kind"]](read)
        inputs = getattr(module, "inputs", None)
        if inputs is None and modules:
            raise FileError(say("{module} must be the first, for it takes integers", module=read))
        if width is not None and inputs != width:
            raise FileError(
                say(
                    "{module} must take {width} numbers, as the one before gives, got {got}",
                    module=read,
                    width=width,
                    got=inputs,
                )
            )
        modules.append(module)
        width = module.width
    if not modules:
        raise FileError(say("a model must have at least one module, got none"))
    return modules
