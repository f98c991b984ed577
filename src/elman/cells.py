"""The definition of the cells: what each gate and state is called, and one step in time.

A cell is two projections and a pointwise step. With x the input and h the hidden state,

    gx = W_ih x + b_ih          for all time steps at once
    gh = W_hh h + b_hh          at each time step
    state' = step(gx, gh, state)

and `step` is all that differs between cells. gx and gh stay apart, not summed, so that the GRU,
whose reset gate acts on one part of gh, is an ordinary cell.

One cell asks for more: the GRU of the paper resets h before the product. Its gates in `late` take
their gh from what `reset` makes of h, once the other gates have theirs.

And some ask for less, or for more parameters: a cell without a recurrent product is given None for
gh, and a cell may have vectors, parameters with one number for each unit, which its step is given.

Layer normalisation is a fact of a cell too, for it brings parameters; but its step stays free of
it (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450). With `norms` of "x", "h" and "c"

    gx = norm(W_ih x) * gain_ih + b_ih
    gh = norm(W_hh h) * gain_hh + b_hh
    h' is made of norm(c') * gain_c + bias_c, and c' itself goes on

where norm(a) = (a - mean(a)) / sqrt(var(a) + 1e-5), over all units of all gates, but that the gates
in `apart` are normalised on their own. `normalised` makes that variant of a cell. What else people
put into the recurrence has its equations in `elman.options`.

Everything else follows from the definition of a cell: the shapes of the parameters (one block of
hidden_size rows per gate, in the order of `gates`), the structure of hx (one tensor per letter of
`states`), the reference loop, the order of rows in ONNX. Layers, directions, dropout, projections
and packed sequences are facts of the loop over time and never of a cell. `CELLS` has the cells of
torch.nn, and the GRU of the paper; `MORE_CELLS` has those that `elman.Recurrent` takes by name.
The decorator `cell` makes them, as it makes anybody's.

The steps are written over a namespace `m` of array operations, so that the same lines run on
PyTorch tensors, on NumPy arrays, and on the values of an ONNX graph; this module imports neither.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol, TypeAlias

from elman.language import say

__all__ = [
    "CELLS",
    "MORE_CELLS",
    "Array",
    "Cell",
    "Math",
    "cell",
    "gru",
    "gru_reset_before",
    "indrnn",
    "ligru",
    "lstm",
    "mingru",
    "minlstm",
    "normalised",
    "reset_before",
    "rnn_relu",
    "rnn_tanh",
    "slstm",
    "sru",
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

    def exp(self, x: Array, /) -> Array:
        """Return the exponential of x, element-wise."""

    def softplus(self, x: Array, /) -> Array:
        """Return log(1 + exp(x)), element-wise."""

    def maximum(self, x: Array, y: Array, /) -> Array:
        """Return the larger of two, element-wise."""

    def where(self, condition: Array, x: Array, y: Array, /) -> Array:
        """Return x where the condition holds, y elsewhere."""

    def norm(self, x: Array, /) -> Array:
        """Return x less its mean and over its standard deviation, along the last axis."""


Step: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """One kind of recurrent cell.

    Attributes:
        name: The name of its step function, and its key in `CELLS` or `MORE_CELLS` if it is there.
        gates: One letter per gate, in the order in which the parameters store their rows.
        states: One letter per state: "h", or "hc" with a cell state. The first is the output.
        step: `step(m, gx, gh, state)`, where gx and gh are (..., len(gates) * hidden_size) and
            state holds one (..., hidden_size) array per letter of `states`; returns the next state.
            A cell with vectors is given them too, `step(m, gx, gh, state, vectors)`, a mapping.
        onnx_op: The name of the ONNX operator that computes the same, if there is one.
        onnx_gates: The same letters as `gates`, in the order in which ONNX stores them.
        paper: Where the cell comes from.
        onnx_attributes: What the ONNX operator needs to be told, beyond sizes and direction.
        late: The last letters of `gates` whose gh is made of the h that `reset` returns, if any.
        reset: `reset(m, gx, gh, state)`, with gh of the gates before `late`, returns that h.
        recurrent: Whether there is a recurrent product; without one gh is None.
        vectors: How many blocks of hidden_size numbers each further parameter has, by its name.
        initial: What a vector starts from, by its name, if not from random numbers.
        compiles: Whether torch.compile makes the step where the core does not have the cell.
        values: `values(m, gx, gh, state)`, what each gate is after its nonlinearity, if the cell
            tells it: one array per letter of `gates` that is not the name of a state too.
        is_known: Whether its name stands for it in the core and to PyTorch: another cell may have
            the same name.
        bounded: Whether h, before a projection, is from -1 to 1 if the one before it is.
        norms: What is normalised, of "x", "h" and "c". The gains are among the vectors, and are not
            given to the step.
        apart: The last letters of `gates` that are normalised on their own.
        hidden: `hidden(m, gx, gh, c)`, the h that the step makes of its new c, so that the loop can
            bound or normalise c in between. Of a cell with c that tells it.

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
    onnx_op: str = ""
    onnx_gates: str = ""
    paper: str = ""
    onnx_attributes: Mapping[str, Any] = field(default_factory=dict)
    late: str = ""
    reset: Step | None = None
    recurrent: bool = True
    vectors: Mapping[str, int] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    compiles: bool = False
    values: Step | None = None
    is_known: bool = True
    bounded: bool = True
    norms: str = ""
    apart: str = ""
    hidden: Step | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the vectors that the step is given: all but those of the normalisation."""
        return tuple(name for name in self.vectors if name not in _of_norms(self.norms, 1))

    # A copy of a cell is the cell itself, also in another process: it goes by where it is found.
    def __reduce__(self) -> tuple[Callable[..., "Cell"], tuple[str, ...]]:
        return _find, (self.step.__module__, self.step.__qualname__, self.name, self.norms)

    def __deepcopy__(self, memo: Any) -> "Cell":
        return self


def _find(module: str, path: str, name: str, norms: str = "") -> Cell:
    """Return the cell of a module under a name; those of torch.nn go by their names alone."""
    found: Any
    if module == __name__ and name in CELLS:
        found = CELLS[name]
    else:
        __import__(module)
        found = sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part, None)
    if not isinstance(found, Cell):
        raise ImportError(
            say(
                "elman.cell: {module}.{path} must be the cell {name}, got {got}: define "
                "it at the top of a module, under the name of its function",
                module=module,
                path=path,
                name=repr(name),
                got=repr(found),
            )
        )
    return found if found.norms == norms else normalised(found)


# The vectors of what is normalised, with how many blocks each, in a cell of so many gates.
def _of_norms(norms: str, gates: int) -> dict[str, int]:
    found = {"gain_ih": gates} if "x" in norms else {}
    found |= {"gain_hh": gates} if "h" in norms else {}
    return found | ({"gain_c": 1, "bias_c": 1} if "c" in norms else {})


# What they start from.
def _of_norms_at_first(norms: str) -> dict[str, float]:
    return {name: float(name != "bias_c") for name in _of_norms(norms, 1)}


@cache
def normalised(cell: Cell) -> Cell:
    """Return the same cell with layer normalisation of gx, of gh and of c, as far as it has them.

    Example:
        >>> from elman.cells import CELLS, normalised
        >>> normalised(CELLS["lstm"]).norms, normalised(CELLS["gru"]).norms
        ('xhc', 'xh')
    """
    norms = "x" + ("h" if cell.recurrent else "") + ("c" if cell.hidden else "")
    if cell.norms == norms:
        return cell
    own = {name: cell.vectors[name] for name in cell.given}
    return replace(
        cell,
        norms=norms,
        vectors={**own, **_of_norms(norms, len(cell.gates))},
        initial={**cell.initial, **_of_norms_at_first(norms)},
    )


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
    i, f, g, o = lstm_values(m, gx, gh, state)
    c = f * state[1] + i * g
    return o * m.tanh(c), c


def lstm_values(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gates i, f, g and o of `lstm`."""
    i, f, g, o = m.split(gx + gh, 4)
    return m.sigmoid(i), m.sigmoid(f), m.tanh(g), m.sigmoid(o)


def lstm_hidden(m: Math, gx: Array, gh: Array, c: Array) -> Array:
    """Return the h' that `lstm` makes of c'."""
    return m.sigmoid(m.split(gx + gh, 4)[3]) * m.tanh(c)


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
    _, z, n = gru_values(m, gx, gh, state)
    return (n + z * (state[0] - n),)


def gru_values(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gates r, z and n of `gru`."""
    xr, xz, xn = m.split(gx, 3)
    hr, hz, hn = m.split(gh, 3)
    r = m.sigmoid(xr + hr)
    return r, m.sigmoid(xz + hz), m.tanh(xn + r * hn)


def gru_reset_before(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance the gated recurrent unit of the paper by one step.

        r = σ(gx_r + gh_r)          reset gate
        z = σ(gx_z + gh_z)          update gate
        n = tanh(gx_n + gh_n)       candidate, gh_n = W_hn (r h) + b_hn
        h' = (1 - z) n + z h

    Cho et al. 2014, https://arxiv.org/abs/1406.1078. Keras calls it reset_after=False, ONNX
    linear_before_reset = 0.
    """
    _, z, n = gru_reset_before_values(m, gx, gh, state)
    return (n + z * (state[0] - n),)


def gru_reset_before_values(
    m: Math, gx: Array, gh: Array, state: Sequence[Array]
) -> tuple[Array, ...]:
    """Return the gates r, z and n of `gru_reset_before`."""
    xr, xz, xn = m.split(gx, 3)
    hr, hz, hn = m.split(gh, 3)
    return m.sigmoid(xr + hr), m.sigmoid(xz + hz), m.tanh(xn + hn)


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
        Cell(
            *("lstm", "ifgo", "hc", lstm, "LSTM", "iofg", "Hochreiter and Schmidhuber 1997"),
            values=lstm_values,
            hidden=lstm_hidden,
        ),
        Cell(
            *("gru", "rzn", "h", gru, "GRU", "zrn", "Cho et al. 2014", {"linear_before_reset": 1}),
            values=gru_values,
            apart="n",
        ),
        Cell(
            *("gru_reset_before", "rzn", "h", gru_reset_before, "GRU", "zrn", "Cho et al. 2014"),
            {"linear_before_reset": 0},
            late="n",
            reset=reset_before,
            values=gru_reset_before_values,
            apart="n",
        ),
    )
}
"""The cells that have a layer of their own, by name."""


def cell(
    gates: str,
    states: str = "h",
    *,
    recurrent: bool = True,
    vectors: Mapping[str, int] | None = None,
    initial: Mapping[str, float] | None = None,
    values: Step | None = None,
    norms: str = "",
    hidden: Step | None = None,
    paper: str = "",
) -> Callable[[Step], Cell]:
    """Make a cell of a function that advances the state by one step, for `elman.Recurrent`.

    The function is `step(m, gx, gh, state)`: gx = W_ih x + b_ih and gh = W_hh h + b_hh are
    (N, len(gates) * hidden_size), to be cut by `m.split(gx, len(gates))`; state holds one
    (N, hidden_size) array per letter of states. It returns the next state, in the same order, or
    one array if there is one. Written in +, -, *, /, comparisons and the operations of `Math` it
    runs on tensors and can be written to ONNX files; what else `torch` has runs on tensors alone.

    Args:
        gates: One letter per gate, each a block of hidden_size rows of the weights.
        states: One letter per state; the first is the output.
        recurrent: Whether there is a recurrent product W_hh h + b_hh. Without one gh is None.
        vectors: Further parameters with one number per unit: how many blocks of hidden_size numbers
            each has, by its name. The function is given them as a fifth argument, a mapping.
        initial: The number that a vector starts from, by its name; those not named are drawn as the
            weights are.
        values: `values(m, gx, gh, state)`, called as the function is, returns what each gate is
            after its nonlinearity, for `elman.gates`: one array per letter of gates that is not
            the name of a state too.
        norms: What has layer normalisation: "x" for W_ih x, "h" for W_hh h, "c" for the c that h is
            made of. Their gains are parameters gain_ih, gain_hh, gain_c and bias_c.
        hidden: `hidden(m, gx, gh, c)`, with the vectors as the function has them, returns the h
            that the function makes of its new c. A cell that tells it can have c bounded or
            normalised; its states are "hc".
        paper: Where the cell comes from.

    Raises:
        ValueError: The letters of gates or states are not distinct or there are none, a vector has
            the name of another parameter, initial has a name that is no vector's, norms has what
            the cell has not, or hidden is of a cell without c.

    Example:
        >>> import elman, torch
        >>> @elman.cell(gates="zn")
        ... def leaky(m, gx, gh, state):
        ...     z, n = m.split(gx + gh, 2)
        ...     z = m.sigmoid(z)
        ...     return (1 - z) * state[0] + z * m.tanh(n)
        >>> layer = elman.Recurrent(leaky, input_size=3, hidden_size=4)
        >>> output, h_n = layer(torch.randn(5, 2, 3))
        >>> output.shape
        torch.Size([5, 2, 4])
    """
    for what, letters in (("gates", gates), ("states", states)):
        if not letters or len(set(letters)) != len(letters):
            raise ValueError(
                say(
                    "elman.cell: {what} must be distinct letters, at least one, got {got}",
                    what=what,
                    got=repr(letters),
                )
            )
    if hidden is not None and states != "hc":
        raise ValueError(
            say(
                "elman.cell: hidden must come with states='hc', got states={got}: it makes h of c",
                got=repr(states),
            )
        )
    may = "x" + ("h" if recurrent else "") + ("c" if hidden else "")
    if norms != "".join(letter for letter in may if letter in norms):
        raise ValueError(
            say(
                "elman.cell: norms must be letters of {may}, in this order, got {got}: h is there "
                "with a recurrent product, and c with the function hidden",
                may=repr(may),
                got=repr(norms),
            )
        )
    for name in vectors or ():
        taken = name.startswith(("weight_", "bias_")) or name in _of_norms("xhc", 1)
        if not name.isidentifier() or taken:
            raise ValueError(
                say(
                    "elman.cell: a vector must have a name of its own, got {got}: call it by what "
                    "it does, such as 'gain'",
                    got=repr(name),
                )
            )

    for name in initial or ():
        if name not in (vectors or ()):
            raise ValueError(
                say(
                    "elman.cell: initial must have names of vectors, got {got}: name it in vectors "
                    "too",
                    got=repr(name),
                )
            )

    def made(step: Step) -> Cell:
        return Cell(
            name=step.__name__,
            gates=gates,
            states=states,
            step=step,
            paper=paper,
            recurrent=recurrent,
            vectors={**(vectors or {}), **_of_norms(norms, len(gates))},
            initial={**(initial or {}), **_of_norms_at_first(norms)},
            values=values,
            norms=norms,
            hidden=hidden,
            is_known=False,
        )

    return made


@cell(gates="ifzo", states="hcnm", paper="Beck et al. 2024")
def slstm(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> tuple[Array, ...]:
    """Advance an sLSTM by one step: an LSTM with exponential gates.

        i = exp(gx_i + gh_i), f = σ(gx_f + gh_f)    input and forget gate
        z = tanh(gx_z + gh_z), o = σ(gx_o + gh_o)   candidate and output gate
        c' = f c + i z
        n' = f n + i
        h' = o c' / n'

    c and n are kept over exp(m), where m' = max(log i, log f + m), so that nothing overflows. A
    unit with n = 0 has no past, and m' = log i: this is decided for each unit alone.

    Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", https://arxiv.org/abs/2405.04517.
    Its recurrent matrix is block-diagonal: give `elman.Recurrent` the number of heads.
    """
    i, f, z, o = m.split(gx + gh, 4)
    _, c, n, before = state
    past = m.where(n > 0, before - m.softplus(-f), i)  # log f + m, where there is a past
    after = m.maximum(i, past)
    i, f = m.exp(i - after), m.exp(past - after)
    c = f * c + i * m.tanh(z)
    n = f * n + i
    return m.sigmoid(o) * (c / n), c, n, after


@cell(gates="h", recurrent=False, vectors={"u": 1}, paper="Li et al. 2018")
def indrnn(
    m: Math, gx: Array, gh: None, state: Sequence[Array], vectors: Mapping[str, Array]
) -> Array:
    """Advance an independently recurrent network by one step: h' = max(gx + u h, 0).

    Each unit hears itself alone, through one number u.

    Li et al. 2018, https://arxiv.org/abs/1803.04831. Departs from the paper in the initial u, which
    is drawn as the weights are; for long sequences the paper keeps abs(u) below 2^(1/L).
    """
    return m.relu(gx + vectors["u"] * state[0])


@cell(gates="zn", recurrent=False, paper="Feng et al. 2024")
def mingru(m: Math, gx: Array, gh: None, state: Sequence[Array]) -> Array:
    """Advance a minGRU by one step, whose gates come from the input alone.

        z = σ(gx_z)             update gate
        n = gx_n                candidate
        h' = (1 - z) h + z n

    Feng et al. 2024, "Were RNNs all we needed?", https://arxiv.org/abs/2410.01201, algorithm 2. The
    variant in logarithms, whose state is positive, is another cell.
    """
    z, n = m.split(gx, 2)
    return state[0] + m.sigmoid(z) * (n - state[0])


@cell(gates="fin", recurrent=False, paper="Feng et al. 2024")
def minlstm(m: Math, gx: Array, gh: None, state: Sequence[Array]) -> Array:
    """Advance a minLSTM by one step, whose gates come from the input alone.

        f = σ(gx_f), i = σ(gx_i)    forget and input gate
        n = gx_n                    candidate
        h' = f / (f + i) h + i / (f + i) n

    f / (f + i) is computed as σ(log f - log i), which stays right where both are tiny.

    Feng et al. 2024, https://arxiv.org/abs/2410.01201, algorithm 4.
    """
    f, i, n = m.split(gx, 3)
    return n + m.sigmoid(m.softplus(-i) - m.softplus(-f)) * (state[0] - n)


@cell(*("xfrk", "hc"), recurrent=False, vectors={"v_f": 1, "v_r": 1}, paper="Lei et al. 2018")
def sru(
    m: Math, gx: Array, gh: None, state: Sequence[Array], vectors: Mapping[str, Array]
) -> tuple[Array, ...]:
    """Advance a simple recurrent unit by one step.

        f = σ(gx_f + v_f c)         forget gate
        r = σ(gx_r + v_r c)         highway gate
        c' = f c + (1 - f) gx_x
        h' = r c' + (1 - r) gx_k

    Lei et al. 2018, https://arxiv.org/abs/1709.02755. gx_k is what goes past the cell: in the paper
    the input itself where it has hidden_size features, and a projection of it where it has not;
    here always a projection, which can be the identity.
    """
    x, f, r, k = m.split(gx, 4)
    c = state[1]
    after = x + m.sigmoid(f + vectors["v_f"] * c) * (c - x)
    return k + m.sigmoid(r + vectors["v_r"] * c) * (after - k), after


@cell(gates="zn", norms="x", paper="Ravanelli et al. 2018")
def ligru(m: Math, gx: Array, gh: Array, state: Sequence[Array]) -> Array:
    """Advance a light gated recurrent unit by one step.

        z = σ(gx_z + gh_z)          update gate
        n = max(gx_n + gh_n, 0)     candidate
        h' = (1 - z) n + z h

    gx = norm(W_ih x) gain_ih + b_ih, with layer normalisation over both gates.

    Ravanelli et al. 2018, https://arxiv.org/abs/1803.10225. Departs from the paper in normalising
    over the features and not over the batch, so that a sequence does not depend on its neighbours.
    """
    z, n = m.split(gx + gh, 2)
    n = m.relu(n)
    return n + m.sigmoid(z) * (state[0] - n)


MORE_CELLS: Mapping[str, Cell] = {
    more.name: more for more in (slstm, indrnn, mingru, minlstm, sru, ligru)
}
"""The cells that `elman.Recurrent` takes by name."""
