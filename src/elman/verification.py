"""Whether this machine computes what the machine of the release did, bit for bit.

A fixed problem for each cell is computed forward and, where PyTorch is, backward, and as steps of a
session with weights in int8. The hashes of the results are compared with those in `bits.json`, made
where the release was built. The problems come from an integer generator, so they depend on no
version of anything.

What is the same for one instruction set: results depend on neither the number of threads nor the
batch, and tanh and sigmoid are the core's own, not those of the C library. What may be another
without a fault: a core that another compiler made, since compilers choose for themselves which
products they fuse with the sum that follows. So a difference says first to look at the compiler.
"""

import hashlib
import itertools
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman import environment, runtime
from elman.cells import CELLS
from elman.runtime import native
from elman.runtime.file import Stored, write
from elman.runtime.modules import SCALES, quantise

__all__ = ["Check", "machine", "record", "verify"]

_BITS = "bits.json"
_INPUTS, _HIDDEN, _LAYERS, _STEPS, _BATCH = 13, 37, 2, 11, 5  # no multiples of a vector's lanes
_DTYPES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Check:
    """One fixed computation, and whether it gave what it gave where the release was made.

    Attributes:
        cell: The name of the cell.
        what: "forward" or "backward" and the type of the numbers, or "step int8".
        found: The SHA-256 of the results in hexadecimal, its first 16 digits.
        expected: The same of the release; None if nothing is known for this instruction set.
    """

    cell: str
    what: str
    found: str
    expected: str | None

    @property
    def is_same(self) -> bool | None:
        """Whether the bits are those of the release; None if that is not known."""
        return None if self.expected is None else self.found == self.expected


def verify() -> list[Check]:
    """Compute fixed problems, and compare their bits with those of the release.

    Without PyTorch the backward pass is left out; the runtime computes the rest.

    Returns:
        A check for each cell and type: of the forward and the backward pass, and of steps of a
        session with weights in int8.

    Example:
        >>> import elman
        >>> checks = elman.verify()
        >>> checks[0].cell, checks[0].what
        ('rnn_tanh', 'forward float32')
    """
    known = json.loads(files("elman").joinpath(_BITS).read_text("utf-8")).get(machine(), {})
    return [
        Check(cell, what, found, known.get(f"{cell} {what}")) for cell, what, found in _computed()
    ]


def machine() -> str:
    """Return the kind of processor, and the instruction set that the core uses on it.

    Example:
        >>> machine().split()[0] == platform.machine().lower()  # doctest: +SKIP
        True
    """
    kind = platform.machine().lower()
    kind = {"amd64": "x86_64", "arm64": "aarch64"}.get(kind, kind)
    if native._native is None or not environment.read(native._native):
        return f"{kind} numpy"
    return f"{kind} {native._native.isa()}"


def record(path: Path) -> None:
    """Write the hashes of every instruction set of this machine, beside those of other kinds."""
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    before = native._native.isa()
    try:
        for isa in native._native.isas():
            native._native.set_isa(isa)
            known[machine()] = {f"{cell} {what}": found for cell, what, found in _computed()}
    finally:
        native._native.set_isa(before)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


def _computed() -> Iterator[tuple[str, str, str]]:
    """Compute every problem; yield the cell, what was computed, and its hash."""
    try:
        import torch  # noqa: F401

        has_torch = True
    except ModuleNotFoundError:
        has_torch = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.elman")
        for cell in CELLS:
            for dtype in _DTYPES:
                x = _numbers((_STEPS, _BATCH, _INPUTS), seed=1, dtype=dtype)
                _write(path, cell, dtype, directions=2)
                y = runtime.load(path).run(x)
                yield cell, f"forward {dtype}", _hash([y])
                if has_torch:
                    yield cell, f"backward {dtype}", _hash(_backward(path, x, y.shape))
            _write(path, cell, "int8", directions=1)
            session = runtime.load(path).session(_BATCH)
            steps = _numbers((_STEPS, _BATCH, _INPUTS), seed=1, dtype="float32")
            yield cell, "step int8", _hash([session.step(x) for x in steps])


def _write(path: Path, cell: str, weights: str, directions: int) -> None:
    """Write a model of two layers, its weights float32, float64 or, the matrices, int8."""
    entry = {
        "name": "0",
        "kind": "recurrent",
        "cell": cell,
        "inputs": _INPUTS,
        "hidden_size": _HIDDEN,
        "num_layers": _LAYERS,
        "proj_size": 0,
        "bidirectional": directions == 2,
        "bias": True,
        "batch_first": False,
    }
    rows, tensors = len(CELLS[cell].gates) * _HIDDEN, dict[str, Stored]()
    dtype, seeds = "float32" if weights == "int8" else weights, itertools.count(2)
    for layer in range(_LAYERS):
        width = directions * _HIDDEN if layer else _INPUTS
        for direction in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, _HIDDEN)}
            for name, shape in {**shapes, "bias_ih": (rows,), "bias_hh": (rows,)}.items():
                place = f"0.{name}_l{layer}{direction}"
                values = _numbers(shape, seed=next(seeds), dtype=dtype) / 4
                if weights == "int8" and name in shapes:
                    integers, scales = quantise(values)
                    tensors[place] = Stored("I8", integers.astype(np.int8))
                    tensors[place + SCALES] = Stored("F32", scales[:, 0])
                else:
                    tensors[place] = Stored(_DTYPES[dtype], values)
    description = {
        "format": 1,
        "weights": "int8" if weights == "int8" else "float32",
        "modules": [entry],
        "inputs": {"x": ["L", "N", _INPUTS]},
        "outputs": {"y": ["L", "N", directions * _HIDDEN]},
    }
    write(path, description, tensors)


def _backward(path: Path, x: NDArray[Any], shape: tuple[int, ...]) -> list[NDArray[Any]]:
    """Return the gradients of the input and of the weights, for a fixed one of the output."""
    import torch

    from elman.saved import load

    layer, input = load(path), torch.from_numpy(x).requires_grad_()
    output, _ = layer(input)
    output.backward(torch.from_numpy(_numbers(shape, seed=0, dtype=str(x.dtype))))
    return [part.grad.numpy() for part in (input, *layer.parameters()) if part.grad is not None]


def _numbers(shape: tuple[int, ...], seed: int, dtype: str) -> NDArray[Any]:
    """Return numbers from [-1, 1), multiples of 2**-23: SplitMix64 of the seed and the place."""
    state = np.arange(1, np.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed << 32)
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    whole = (state >> np.uint64(40)).astype(np.int64) - 2**23
    return (whole / 2**23).astype(dtype).reshape(shape)


def _hash(arrays: list[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()[:16]
