"""The native core, csrc/module.cpp. Addresses are those of dense tensors, 0 for none."""

from collections.abc import Mapping, Sequence
from typing import Any

def forward(*args: int | Sequence[int] | Sequence[float]) -> None:
    """Run a layer; the arguments stand in csrc/module.cpp and are made in elman.ops."""

def backward(*args: int | Sequence[int] | Sequence[float]) -> None:
    """Run its backward pass; the arguments stand there too."""

def addresses(
    ask: tuple[object, ...],
    tensors: Sequence[object],
    dtype: object,
    item_size: int,
    counts: Sequence[int | None] | None,
) -> list[int | None]:
    """Return the addresses of tensors, 0 for None; None of what is not plain memory that is there.

    Args:
        ask: The unbound methods is_contiguous, is_neg, storage_offset, untyped_storage and data_ptr
            of tensors, and nbytes of storages.
        tensors: A list or tuple of tensors, of which any may be None.
        dtype: What the tensors must be of, with counts.
        item_size: Bytes of a value.
        counts: How many values each must have, on the CPU; None if that is known.
    """

def usual(
    modes: tuple[object, ...],
    parameters: Mapping[str, Any],
    layout: Sequence[tuple[str | None, tuple[int, ...] | None]],
    input: Any,
    hx: Any,
    features: Any,
    widths: tuple[Any, ...],
    directions: int,
    batch_first: Any,
) -> tuple[bool, list[Any], list[Any]] | None:
    """Check the call of a module, and return None if it is not as most are.

    The rules are those of elman.shapes for input with a batch axis, and stricter: all are plain
    tensors of float32 or float64 on the CPU, the parameters are in their places, and PyTorch
    computes as it reads.

    Args:
        modes: What tells how PyTorch computes, see elman.ops.
        parameters: Those of the module, by their names.
        layout: Their names and shapes, five for each direction or four for a cell.
        input: What the user gave.
        hx: What the user gave.
        features: The last axis of input.
        widths: The last axis of each state.
        directions: 0 for the module of a cell.
        batch_first: Whether input is (N, L, H_in).

    Returns:
        Whether gradients are asked for; the states, None each for zeros; and the weights, five for
        each direction.
    """

def forward_of(
    ask: tuple[object, ...],
    cell: int,
    input: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    keep: bool,
    in_bf16: bool,
    threads: int,
) -> list[Any] | None:
    """Run a layer or a step on a dense batch, as elman.core.forward.

    None, with nothing done, if a tensor is not plain memory of its size.
    """

def backward_of(
    ask: tuple[object, ...],
    cell: int,
    input: Any,
    states: Sequence[Any],
    weights: Sequence[Any],
    output: Any,
    kept: Any,
    upstream: Sequence[Any],
    wanted: Sequence[bool],
    in_bf16: bool,
    threads: int,
) -> tuple[Any, ...] | None:
    """Run its backward pass, as elman.core.backward.

    None, with nothing done, if a tensor is not plain memory of its dtype and size on the CPU.
    """

def make_dense(
    from_: int, to: int, element: int, sizes: Sequence[int], strides: Sequence[int], threads: int
) -> None:
    """Copy an array of elements of so many bytes, strides counted in elements, to lie row-major."""

def activations(is_double: bool, x: int, tanh: int, sigmoid: int, n: int) -> None:
    """Write tanh and sigmoid of n values, as the cells compute them."""

def stage_width(
    cell: int,
    hidden_size: int,
    projection: int,
    gains: Sequence[int],
    beside: Sequence[int],
    numbers: Sequence[float],
) -> int:
    """Return how many values `forward` keeps of a row for what acts beside the cell.

    gains: whether gx, gh and c are normalised.
    """

def cells() -> dict[str, tuple[int, str, str, int, int, bool]]:
    """Return the compiled cells by name.

    Of each: index, gates, states, kept vectors, vectors of its own, whether there is a product.
    """

def isa() -> str:
    """Return the instruction set in use."""

def isas() -> list[str]:
    """Return the instruction sets this machine can use, the best first."""

def bf16() -> str:
    """Return how products in bfloat16 are formed: "none", "pairs" or "tiles"."""

def use_bf16(best: str) -> None:
    """Form them so from now on, or in the best way before that which this machine has."""

def set_isa(name: str) -> None:
    """Use the kernels of this instruction set from now on."""

def compiler() -> str:
    """Return the compiler that built the core."""

def fma_peak(threads: int, seconds: float) -> float:
    """Return the GFLOP/s of float32 multiply-adds that this many threads reach together."""

def read_bandwidth(bytes: int, seconds: float) -> float:
    """Return the GB/s at which one thread reads a buffer of this size again and again."""

class Chain32:
    """Modules of float32 and their weights, csrc/sessions.cpp; none is added once it has run."""

    def __init__(self, may_dot: bool = True) -> None:
        """Begin without modules; may_dot: use the processor's instructions for int8."""

    def add_embedding(self, table: Any, symbols: int, width: int) -> None:
        """Begin with a row of the table for each symbol."""

    def add_linear(self, weight: Any, bias: Any, inputs: int, width: int, scales: Any) -> None:
        """Add y = x W^T + b; bias may be None, and so may the scales of a matrix in int8."""

    def add_layer_norm(self, scale: Any, shift: Any, eps: float, width: int) -> None:
        """Add a layer norm; scale and shift may be None."""

    def add_function(self, name: str, width: int) -> None:
        """Add a function of the features."""

    def add_layer(
        self, cell: str, inputs: int, hidden_size: int, projection: int, directions: list[Any]
    ) -> None:
        """Add a recurrent layer.

        For each direction w_ih, w_hh, b_ih, b_hh, w_hr and, in int8, the scales of w_ih, w_hh and
        w_hr; None for what is not there.
        """

    def run(
        self, x: Any, lengths: Any, out: Any, threads: int, states: list[Any] | None = None
    ) -> bool:
        """Run whole sequences from zeros, or from states, which are replaced by those after it.

        False, with nothing done, if an array does not fit.
        """

class Session32:
    """A state of a Chain32, in arrays of the caller's.

    Each call returns False, with nothing done, if an array does not fit.
    """

    def __init__(self, chain: Chain32, batch: int, states: list[Any]) -> None:
        """Hold the states, (directions, batch, .) each, those of each layer in turn."""

    def step(self, x: Any, out: Any, /) -> bool:
        """Advance by one step."""

    def run(self, x: Any, out: Any, threads: int, /) -> bool:
        """Advance by several steps."""

    def step_named(self, places: dict[Any, int], inputs: dict[Any, Any], out: Any, /) -> bool:
        """Advance by one step the rows that have a place, each its own, for the names in inputs."""

class Chain64(Chain32):
    """The same of float64."""

class Session64(Session32):
    """The same of float64."""
