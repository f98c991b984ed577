"""The native core, csrc/module.cpp. Addresses are those of dense tensors, 0 for none."""

from collections.abc import Sequence

def forward(*args: int | Sequence[int]) -> None:
    """Run a layer; the arguments stand in csrc/module.cpp and are made in elman.ops."""

def backward(*args: int | Sequence[int]) -> None:
    """Run its backward pass; the arguments stand there too."""

def make_dense(
    from_: int, to: int, element: int, sizes: Sequence[int], strides: Sequence[int], threads: int
) -> None:
    """Copy an array of elements of so many bytes, strides counted in elements, to lie row-major."""

def activations(is_double: bool, x: int, tanh: int, sigmoid: int, n: int) -> None:
    """Write tanh and sigmoid of n values, as the cells compute them."""

def cells() -> dict[str, tuple[int, str, str, int]]:
    """Return {name: (index, gates, states, kept vectors)} of the compiled cells."""

def isa() -> str:
    """Return the instruction set in use."""

def isas() -> list[str]:
    """Return the instruction sets this machine can use, the best first."""

def set_isa(name: str) -> None:
    """Use the kernels of this instruction set from now on."""

def compiler() -> str:
    """Return the compiler that built the core."""

def fma_peak(threads: int, seconds: float) -> float:
    """Return the GFLOP/s of float32 multiply-adds that this many threads reach together."""

def read_bandwidth(bytes: int, seconds: float) -> float:
    """Return the GB/s at which one thread reads a buffer of this size again and again."""
