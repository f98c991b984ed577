"""The definition of the cells: what each gate and state is called, and one step in time.

A cell is two projections and a pointwise step. With x the input and h the hidden state,

    gx = W_ih x + b_ih          for all time steps at once
    gh = W_hh h + b_hh          at each time step
    state' = step(gx, gh, state)

and `step` is all that differs between cells. gx and gh stay apart, not summed, so that the GRU,
whose reset gate acts on one part of gh, is an ordinary cell.

One cell asks for more: the GRU of the paper resets h before the product. Its gates in `late` take
their gh from what `reset` makes of h, once the other gates have theirs.

Everything else follows from the table `CELLS`: the shapes of the parameters (one block of
hidden_size rows per gate, in the order of `gates`), the structure of hx (one tensor per letter of
`states`), the reference loop, the order of rows in ONNX. Layers, directions, dropout, projections
and packed sequences are facts of the loop over time and never of a cell.

The steps are written over a namespace `m` of array operations, so that the same lines run on
PyTorch tensors and on NumPy arrays; this module imports neither.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

__all__ = [
    "CELLS",
    "Array",
    "Cell",
    "Math",
    "gru",
    "gru_reset_before",
    "lstm",
    "reset_before",
    "rnn_relu",
    "rnn_tanh",
]

Array: TypeAlias = Any
"""A torch.Tensor or a numpy.ndarray."""


class Math(Protocol):
    """The array operations that a step is written in."""

    def split(self, x: Array, parts: int, /) -> Sequence[Array]:
        """Cut the last axis of x into equal parts."""

    def sigmoid(self, x: Array, /) -> Array:
        """Return 1 / (1 + exp(-x)), element-wise."""

    def tanh(self, x: Array, /) -> Array:
        """Return the hyperbolic tangent of x, element-wise."""

    def relu(self, x: Array, /) -> Array:
        """Return max(x, 0), element-wise."""


Step: TypeAlias = Callable[[Math, Array, Array, Sequence[Array]], tuple[Array, ...]]


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent cell.

    Attributes:
        name: The key in `CELLS`, in lower case.
        gates: One letter per gate, in the order in which the parameters store their rows.
        states: One letter per state: "h", or "hc" with a cell state. The first is the output.
        step: `step(m, gx, gh, state)`, where gx and gh are (..., len(gates) * hidden_size) and
            state holds one (..., hidden_size) array per letter of `states`; returns the next state.
        onnx_op: The name of the ONNX operator that computes the same.
        onnx_gates: The same letters as `gates`, in the order in which ONNX stores them.
        paper: Where the cell comes from.
        onnx_attributes: What the ONNX operator needs to be told, beyond sizes and direction.
        late: The last letters of `gates` whose gh is made of the h that `reset` returns, if any.
        reset: `reset(m, gx, gh, state)`, with gh of the gates before `late`, returns that h.
        bounded: Whether h, before a projection, is from -1 to 1 if the one before it is.

    Example:
        >>> from elman.cells import CELLS
        >>> lstm = CELLS["lstm"]
        >>> [lstm.gates.index(gate) for gate in lstm.onnx_gates]  # row blocks in ONNX's order
        [0, 3, 1, 2]
    """

    name: str
    gates: str
    states: str
    step: Step
    onnx_op: str
    onnx_gates: str
    paper: str
    onnx_attributes: Mapping[str, Any] = field(default_factory=dict)
    late: str = ""
    reset: Callable[[Math, Array, Array, Sequence[Array]], Array] | None = None
    bounded: bool = True


def rnn_tanh(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance an Elman network by one step: h' = tanh(gx + gh).

    Elman 1990, "Finding structure in time", https://doi.org/10.1207/s15516709cog1402_1.
    """
    return (m.tanh(gx + gh),)


def rnn_relu(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance an Elman network with rectified units by one step: h' = max(gx + gh, 0).

    Le, Jaitly and Hinton 2015, https://arxiv.org/abs/1504.00941. Departs from the paper in the
    initial weights, which are uniform and not the identity.
    """
    return (m.relu(gx + gh),)


def lstm(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance a long short-term memory by one step.

        i = σ(gx_i + gh_i)      input gate
        f = σ(gx_f + gh_f)      forget gate
        g = tanh(gx_g + gh_g)   candidate
        o = σ(gx_o + gh_o)      output gate
        c' = f c + i g
        h' = o tanh(c')

    Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget
    gate of Gers, Schmidhuber and Cummins 2000, https://doi.org/10.1162/089976600300015015. A
    projection h' = W_hr o tanh(c'), Sak, Senior and Beaufays 2014,
    https://arxiv.org/abs/1402.1128, is applied by the loop.
    """
    i, f, g, o = m.split(gx + gh, 4)
    c = m.sigmoid(f) * state[1] + m.sigmoid(i) * m.tanh(g)
    return m.sigmoid(o) * m.tanh(c), c


def gru(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance a gated recurrent unit by one step.

        r = σ(gx_r + gh_r)          reset gate
        z = σ(gx_z + gh_z)          update gate
        n = tanh(gx_n + r gh_n)     candidate
        h' = (1 - z) n + z h

    Cho et al. 2014, https://arxiv.org/abs/1406.1078. Departs from the paper in applying the reset
    gate after the product, to gh_n = W_hn h + b_hn, and not to h before it: all of gh is then one
    matrix product. PyTorch and cuDNN do the same; ONNX calls it linear_before_reset = 1.
    """
    xr, xz, xn = m.split(gx, 3)
    hr, hz, hn = m.split(gh, 3)
    n = m.tanh(xn + m.sigmoid(xr + hr) * hn)
    z = m.sigmoid(xz + hz)
    return (n + z * (state[0] - n),)


def gru_reset_before(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance the gated recurrent unit of the paper by one step.

        r = σ(gx_r + gh_r)          reset gate
        z = σ(gx_z + gh_z)          update gate
        n = tanh(gx_n + gh_n)       candidate, gh_n = W_hn (r h) + b_hn
        h' = (1 - z) n + z h

    Cho et al. 2014, https://arxiv.org/abs/1406.1078. Keras calls it reset_after=False, ONNX
    linear_before_reset = 0.
    """
    _, xz, xn = m.split(gx, 3)
    _, hz, hn = m.split(gh, 3)
    n = m.tanh(xn + hn)
    z = m.sigmoid(xz + hz)
    return (n + z * (state[0] - n),)


def reset_before(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> Array:
    """Return r h, of which `gru_reset_before` takes gh_n; gh has the gates r and z."""
    return m.sigmoid(m.split(gx, 3)[0] + m.split(gh, 2)[0]) * state[0]


CELLS: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("rnn_tanh", "h", "h", rnn_tanh, "RNN", "h", "Elman 1990", {"activations": ["Tanh"]}),
        Cell(
            *("rnn_relu", "h", "h", rnn_relu, "RNN", "h", "Le, Jaitly and Hinton 2015"),
            {"activations": ["Relu"]},
            bounded=False,
        ),
        Cell("lstm", "ifgo", "hc", lstm, "LSTM", "iofg", "Hochreiter and Schmidhuber 1997"),
        Cell("gru", "rzn", "h", gru, "GRU", "zrn", "Cho et al. 2014", {"linear_before_reset": 1}),
        Cell(
            *("gru_reset_before", "rzn", "h", gru_reset_before, "GRU", "zrn", "Cho et al. 2014"),
            {"linear_before_reset": 0},
            late="n",
            reset=reset_before,
        ),
    )
}
"""Every cell by its name."""
