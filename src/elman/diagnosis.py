"""Whether a hand-written step is the cell that it is meant to be, and if not, what is wrong.

The step is run on random numbers, and what it computes on the way is watched (`elman.watching`).
The equations of the cell are then read backwards. In c' = f c + i g, f is what c' changes by when c
changes; i and g are two of the values that passed by and whose product is what is left. Of each
gate, the value that it was made of and the function are found the same way, and from that value the
weights of x and h and the bias by least squares, since it must be W x + U h + b. So the names, the
order and the form of the parameters do not matter.

Left out: whether a step is stable or fast, and layers, which hold several cells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from elman import reference
from elman.cells import CELLS, Cell
from elman.language import say
from elman.shapes import KindError, ShapeError
from elman.watching import Batch, Run, Step

__all__ = ["CellReport", "Finding", "check_cell"]

_Array: TypeAlias = np.ndarray[Any, Any]
# The units whose weights are solved for: these tell, and more take long.
_UNITS = 16


@dataclass(frozen=True)
class Finding:
    """One way in which a step is not the cell.

    Attributes:
        key: A name for the mistake that is the same in every language, such as "wrong_activation".
        gate: The letter of the gate in `elman.cells`, or "h" or "c" for a state, or "" for all.
        sentence: What was found, and what belongs there.
    """

    key: str
    gate: str
    sentence: str


@dataclass(frozen=True)
class CellReport:
    """What `elman.check_cell` found. It prints as sentences, and is true if the step is the cell.

    Attributes:
        kind: The name of the cell in `elman.cells`.
        holds: Whether the step is that cell.
        findings: What is wrong, in the order of the equations; empty if it holds.
        notes: What is no mistake but good to know.
    """

    kind: str
    holds: bool
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cause(self) -> str | None:
        """The key of the first finding, or None."""
        return self.findings[0].key if self.findings else None

    @property
    def gate(self) -> str | None:
        """The gate of the first finding, or None."""
        return self.findings[0].gate if self.findings else None

    @property
    def text(self) -> str:
        """All of it as sentences, one a line."""
        name = _NAMES[self.kind]
        if self.holds:
            lines = [say("This step is the cell {name}.", name=name)]
        else:
            lines = [say("This step is not the cell {name}:", name=name)]
        lines += [f"- {finding.sentence}" for finding in self.findings]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def __bool__(self) -> bool:
        return self.holds

    def __repr__(self) -> str:
        return self.text


_NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU(reset_after=False)",
    "rnn_tanh": "RNN(tanh)",
    "rnn_relu": "RNN(relu)",
}


def check_cell(
    step: Any, kind: Any, *, input_size: int | None = None, hidden_size: int | None = None
) -> CellReport:
    """Check a hand-written step of a recurrent cell, and say what is wrong with it.

    Args:
        step: A function or a module (x, h) -> h, and for the LSTM (x, h, c) -> (h, c) or
            (x, (h, c)) -> (h, c), in PyTorch or NumPy. x is (N, input_size), and each state
            (N, hidden_size); columns, or vectors without N, do too. What it returns before the
            states is not looked at. A module is copied, and neither it nor a generator of random
            numbers changes.
        kind: "lstm", "gru", "gru_reset_before", "rnn_tanh" or "rnn_relu". Or a module of torch.nn
            or elman, a cell or a layer, whose weights the step uses: then the values are compared
            too, with those of the first layer and direction, and the order of its gates.
        input_size: The width of x. Found from the parameters if None.
        hidden_size: The width of the states. Found from the parameters if None.

    Returns:
        A `elman.diagnosis.CellReport`: it prints, and is true if the step is that cell.

    Raises:
        KindError: step cannot be called, or kind is no such name or module.
        ShapeError: no sizes were found with which step works; the message has its own error.

    Example:
        >>> import elman, torch
        >>> W, U = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)
        >>> elman.check_cell(lambda x, h: torch.tanh(W(x) + U(h)), "rnn_tanh")
        This step is the cell RNN(tanh).
        >>> report = elman.check_cell(lambda x, h: torch.sigmoid(W(x) + U(h)), "rnn_tanh")
        >>> print(report)
        This step is not the cell RNN(tanh):
        - h: the activation is sigmoid where tanh belongs.
        >>> report.cause, report.gate
        ('wrong_activation', 'h')
    """
    cell, model = _meant(kind)
    if model is not None:
        input_size = model.input_size if input_size is None else input_size
        hidden_size = model.hidden_size if hidden_size is None else hidden_size
    if isinstance(step, nn.RNNCellBase):  # the core's own steps cannot be watched
        own = _Model(*_meant_module(step))
        step, input_size, hidden_size = own.step, own.input_size, own.hidden_size
    tried = Step(step, len(cell.states), input_size, hidden_size)
    batch = tried.draw()
    run = tried(batch)
    notes = []
    if tried.takes_one_sequence:
        notes.append(say("It takes one sequence at a time, and no batch."))
    if model is not None and all(
        _close(ours, theirs, tried.tolerance)
        for ours, theirs in zip(run.results, model(batch), strict=True)
    ):
        return CellReport(cell.name, True, (), tuple(notes))
    # Values that are the same at this moment may be different parameters, and zeros a bias.
    if model is None:
        tried = Step(step, len(cell.states), tried.input_size, tried.hidden_size, renewed=True)
        run = tried(batch)
    reading = _READINGS[cell.gates](cell, tried, batch, run)
    if _mixes_rows(tried, batch, run):
        reading.find(
            "batch_axis",
            "",
            say(
                "the result of a row depends on the other rows of the batch: an operation acts "
                "along the batch axis (dim=0 where dim=-1 belongs, or a sum over all)."
            ),
        )
    else:
        reading.read()
        if model is not None:
            reading.compare(model)
        else:
            reading.judge_biases()
    notes += reading.notes
    return CellReport(cell.name, not reading.findings, tuple(reading.findings), tuple(notes))


# --- what the step is meant to be -----------------------------------------------------------------


class _Model:
    """A cell with the weights of a module: those of its first layer and direction."""

    def __init__(self, cell: Cell, module: Any) -> None:
        end = "_l0" if isinstance(module, nn.RNNBase) else ""
        self.cell = cell
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        tensors = [
            getattr(module, f"{name}{end}", None)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        self.weights: list[Any] = [
            None if t is None else t.detach().cpu().double() for t in tensors
        ]

    def __call__(self, batch: Batch) -> tuple[_Array, ...]:
        results = self.step(*map(torch.from_numpy, (batch.x, *batch.states)))
        return tuple(result.numpy() for result in results)

    def step(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute one step in PyTorch's operations."""
        return tuple(reference.step(self.cell, x, states, self.weights))

    def gate(self, letter: str, transposed: bool = False) -> list[_Array]:
        """Return rows of a gate of weight_ih, weight_hh, bias_ih and bias_hh.

        Transposed, weight_hh is what `h @ weight_hh` makes of it.
        """
        place = self.cell.gates.index(letter)
        first, count = place * self.hidden_size, min(self.hidden_size, _UNITS)
        rows, zeros = slice(first, first + count), np.zeros(count)
        found = [zeros if w is None else w[rows].numpy() for w in self.weights]
        if transposed:
            block = self.weights[1][first : first + self.hidden_size]
            found[1] = block.T[:count].numpy()
        return found


def _meant(kind: Any) -> tuple[Cell, _Model | None]:
    if isinstance(kind, str) and kind in _NAMES:
        return CELLS[kind], None
    if isinstance(kind, (nn.RNNBase, nn.RNNCellBase)):
        cell, module = _meant_module(kind)
        return cell, _Model(cell, module)
    raise _unknown(kind)


def _unknown(kind: Any) -> KindError:
    return KindError(
        say(
            "check_cell: kind must be one of {known}, or an RNN, LSTM or GRU or a cell of theirs, "
            "got {got}",
            known=", ".join(map(repr, _NAMES)),
            got=repr(kind) if isinstance(kind, str) else type(kind).__name__,
        )
    )


def _meant_module(module: Any) -> tuple[Cell, nn.Module]:
    if getattr(module, "proj_size", 0):
        raise ShapeError(
            say(
                "check_cell: a module to compare with must have no projection, got proj_size={got}",
                got=module.proj_size,
            )
        )
    if isinstance(module, nn.RNNBase):
        name = module.mode.lower()
    else:
        kinds = {nn.LSTMCell: "lstm", nn.GRUCell: "gru", nn.RNNCell: "rnn"}
        name = next((name for kind, name in kinds.items() if isinstance(module, kind)), "")
        name += f"_{module.nonlinearity}" if name == "rnn" else ""
    if name == "gru" and not getattr(module, "reset_after", True):
        name = "gru_reset_before"
    if name not in _NAMES:
        raise _unknown(module)
    return CELLS[name], module


# --- values ---------------------------------------------------------------------------------------


def _sigmoid(x: _Array) -> _Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


_ACTIVATIONS: dict[str, Callable[[_Array], _Array]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "hard sigmoid (x / 6 + 1 / 2)": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard sigmoid (x / 5 + 1 / 2)": lambda x: np.clip(x / 5 + 0.5, 0, 1),
}
_NONE = "none"


def _close(some: _Array, other: _Array, tolerance: float) -> bool:
    if some.shape != other.shape or not np.isfinite(some).all():
        return False
    return bool(np.abs(some - other).max(initial=0) <= tolerance * (1 + np.abs(other).max()))


def _mixes_rows(step: Step, batch: Batch, run: Run) -> bool:
    rows = np.arange(12)[::-1]
    alone = step(batch.rows(rows)).results
    return not all(
        _close(some, whole[rows], 10 * step.tolerance)
        for some, whole in zip(alone, run.results, strict=True)
    )


@dataclass
class _Gate:
    """A gate as it was read: activation(W x + U h + b); b_h is inside a GRU's reset product."""

    letter: str
    value: _Array
    activation: str
    W: _Array
    U: _Array
    b: _Array
    b_h: _Array | None = None


# --- the equations, read backwards ----------------------------------------------------------------


class _Reading:
    """What the readings of all cells share: values, gates and what was found."""

    def __init__(self, cell: Cell, step: Step, batch: Batch, run: Run) -> None:
        self.cell, self.step, self.batch, self.run = cell, step, batch, run
        self.tolerance = step.tolerance
        largest = max(np.abs(value).max(initial=0) for value in (*batch.states, *run.results))
        self.margin = 100 * self.tolerance * (1 + largest)
        self.x, self.h = batch.x, batch.states[0]
        self.gates: dict[str, _Gate] = {}
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        # The basis of what is linear in x and h, to solve for many values.
        affine = np.concatenate([self.x, self.h, self.ones[:, None]], 1)
        self.basis, self.triangle = np.linalg.qr(affine)
        given = (*batch.states, *run.results)
        self.values: list[_Array] = []
        for value in run.values:
            if not any(self.same(value, known) for known in (*given, *self.values)):
                self.values.append(value)

    def read(self) -> None:
        """Find the gates, and what is wrong with them."""
        raise NotImplementedError

    def find(self, key: str, gate: str, sentence: str) -> None:
        """Note a mistake."""
        text = say("{gate}: {sentence}", gate=gate, sentence=sentence) if gate else sentence
        self.findings.append(Finding(key, gate, text))

    def same(self, some: _Array, other: _Array) -> bool:
        """Return whether two values are equal, but for rounding."""
        return self.begins_as(some[:4], other) and _close(some, other, self.tolerance)

    def begins_as(self, first: _Array, value: _Array) -> bool:
        """Return whether value has these first rows, which is quick to see."""
        return bool(np.abs(first - value[: len(first)]).max(initial=0) <= self.margin)

    def is_returned_as_given(self) -> bool:
        """Note a state that comes back unchanged."""
        for letter, before, after in zip(
            self.cell.states, self.batch.states, self.run.results, strict=True
        ):
            if self.same(before, after):
                self.find(
                    "old_state_returned",
                    letter,
                    say("the state that is returned is the one that was given, not the new one."),
                )
                return True
        return False

    def solve(self, value: _Array, *terms: _Array) -> list[_Array] | None:
        """Return the matrices of the terms (N, .) of which value (N, H) is the sum, or None."""
        columns = [term if term.ndim == 2 else term[:, None] for term in terms]
        basis, triangle = np.linalg.qr(np.concatenate(columns, 1))
        coefficients = basis.T @ value
        diagonal = np.abs(np.diag(triangle))
        if diagonal.min() <= 1e-9 * diagonal.max() or not _close(
            basis @ coefficients, value, 10 * self.tolerance
        ):
            return None
        solution = np.linalg.solve(triangle, coefficients)
        ends = np.cumsum([column.shape[1] for column in columns])
        return np.split(solution.T, ends[:-1], axis=1)

    def solve_gate(self, value: _Array) -> list[_Array] | None:
        """Return W, U and b (H, 1) of value = W x + U h + b, or None."""
        coefficients = self.basis.T @ value
        if not _close(self.basis @ coefficients, value, 10 * self.tolerance):
            return None
        solution = np.linalg.solve(self.triangle, coefficients).T[:_UNITS]
        width = self.x.shape[1]
        return [solution[:, :width], solution[:, width:-1], solution[:, -1:]]

    @property
    def ones(self) -> _Array:
        """A column of ones, whose matrix is the bias."""
        return np.ones(len(self.x))

    def origins(self, value: _Array) -> Iterator[tuple[str, _Array]]:
        """Yield the functions and values that value can have been made of, the first ones first."""
        for before in self.values:
            for name, function in _ACTIVATIONS.items():
                if name == "ReLU" and before.min() >= 0:
                    continue
                if self.begins_as(function(before[:4]), value) and self.same(
                    function(before), value
                ):
                    yield name, before
        # A step that computes by itself, or in one function, shows its results alone.
        if value.min() > 0 and value.max() < 1:
            yield "sigmoid", np.log(value) - np.log1p(-value)
        if -1 < value.min() < 0 < value.max() < 1:
            yield "tanh", np.arctanh(value)

    def read_gate(self, letter: str, value: _Array, wanted: str) -> bool:
        """Find what a gate is made of, and note what is wrong; return whether that was found."""
        for activation, before in self.origins(value):
            solved = self.solve_gate(before)
            if solved is not None:
                self.add(_Gate(letter, value, activation, *solved), wanted)
                return True
        solved = self.solve_gate(value)
        if solved is not None:
            self.add(_Gate(letter, value, _NONE, *solved), wanted)
            return True
        for activation, before in self.origins(value):
            if len(self.batch.states) > 1 and self.solve(
                before, self.x, self.h, self.batch.states[1], self.ones
            ):
                self.find("peephole", letter, say("the cell state c enters the gate (a peephole)."))
                return False
            for inner, innermost in self.origins(before):
                if self.solve_gate(innermost):
                    self.find(
                        "activation_twice",
                        letter,
                        say(
                            "two activations, {inner} and then {outer}, where {wanted} alone "
                            "belongs.",
                            inner=inner,
                            outer=activation,
                            wanted=wanted,
                        ),
                    )
                    return False
        self.find(
            "not_recognised",
            letter,
            say("the gate is not {wanted} of W x + U h + b.", wanted=wanted),
        )
        return False

    def add(self, gate: _Gate, wanted: str) -> None:
        """Keep a gate, and note what is wrong with it by itself."""
        gate.b = gate.b[:, 0]
        letter = gate.letter
        self.gates[letter] = gate
        if gate.activation != wanted:
            self.find(
                "wrong_activation",
                letter,
                say("there is no activation where {wanted} belongs.", wanted=wanted)
                if gate.activation == _NONE
                else say(
                    "the activation is {got} where {wanted} belongs.",
                    got=gate.activation,
                    wanted=wanted,
                ),
            )
        if self.is_zero(gate.U):
            self.find("h_unused", letter, say("h does not enter: the term U h is missing."))
        if self.is_zero(gate.W):
            self.find("x_unused", letter, say("x does not enter: the term W x is missing."))

    def is_zero(self, weights: _Array) -> bool:
        """Return whether all weights are zero, but for rounding."""
        return bool(np.abs(weights).max(initial=0) <= 100 * self.tolerance)

    def are_equal(self, some: _Array, other: _Array) -> bool:
        """Return whether weights are the same, but for rounding."""
        return some.shape == other.shape and self.is_zero(some - other)

    def judge_sharing(self) -> None:
        """Note weights that are used twice."""
        shared = [
            gate.letter
            for gate in self.gates.values()
            if self.are_equal(gate.W, gate.U) and not self.is_zero(gate.W)
        ]
        if shared:
            self.find(
                "shared_linear",
                shared[0] if len(shared) < len(self.gates) else "",
                say(
                    "x and h share one weight (gates: {gates}): each needs a Linear of its own, "
                    "one for x and one for h.",
                    gates=", ".join(shared),
                ),
            )
        groups: list[list[_Gate]] = []
        for gate in self.gates.values():
            for group in groups:
                if self.are_equal(gate.W, group[0].W) and self.are_equal(gate.U, group[0].U):
                    group.append(gate)
                    break
            else:
                groups.append([gate])
        for group in groups:
            if len(group) > 1:
                self.find(
                    "shared_gates",
                    group[1].letter,
                    say(
                        "the gates {gates} share one weight: each needs its own.",
                        gates=", ".join(gate.letter for gate in group),
                    ),
                )

    def biases(self) -> list[tuple[str, str, _Array]]:
        """Return (name, gate, values) of each bias that acts."""
        found = []
        for letter, gate in self.gates.items():
            name = f"b_{letter}"
            if gate.b_h is None:
                found.append((name, letter, gate.b))
            else:
                found += [(f"b_i{letter}", letter, gate.b), (f"b_h{letter}", letter, gate.b_h)]
        return found

    def judge_biases(self) -> None:
        """Note biases that are missing while others are there."""
        biases = self.biases()
        missing = [(name, gate) for name, gate, values in biases if self.is_zero(values)]
        names = ", ".join(name for name, _ in missing)
        if not missing:
            return
        # The zeros of an untrained function may be a bias all the same.
        drawn = self.step.holds_parameters or any(
            np.ptp(values) > 100 * self.tolerance for _, _, values in biases
        )
        if len(missing) == len(biases):
            self.notes.append(say("It has no bias, as with bias=False, or all are zero."))
        elif drawn:
            self.find(
                "missing_bias", missing[0][1], say("a bias is missing: {names}.", names=names)
            )
        else:
            self.notes.append(say("A bias is zero, or missing: {names}.", names=names))

    def compare(self, model: _Model) -> None:
        """Note where the weights of the gates are not those of a module."""
        taken = {}
        for letter, gate in self.gates.items():
            of_x, of_h, b_i, b_h = model.gate(letter)
            owners = [
                other
                for other in self.cell.gates
                if self.are_equal(gate.W, model.gate(other)[0])
                and self.are_equal(gate.U, model.gate(other)[1])
            ]
            taken[letter] = letter if letter in owners else "".join(owners[:1])
            if self.are_equal(gate.W, of_x) and self.are_equal(gate.U, of_h):
                self.compare_bias(gate, b_i, b_h)
            elif (
                not owners
                and self.are_equal(gate.U, model.gate(letter, transposed=True)[1])
                and self.are_equal(gate.W, of_x)
            ):
                self.find(
                    "transposed",
                    letter,
                    say("weight_hh is used transposed: h @ weight_hh.T belongs there."),
                )
        order = "".join(taken.values())
        if len(order) == len(self.cell.gates) > 1 and order != "".join(self.gates):
            self.find(
                "gate_order",
                next(letter for letter, owner in taken.items() if letter != owner),
                say(
                    "the gates stand in another order: {pairs}. The rows of the module are "
                    "{order}.",
                    pairs=", ".join(
                        say("{gate} reads the rows of {owner}", gate=letter, owner=owner)
                        for letter, owner in taken.items()
                        if letter != owner
                    ),
                    order=", ".join(self.cell.gates),
                ),
            )
        elif not self.findings:
            wrong = [letter for letter, owner in taken.items() if letter != owner]
            self.find(
                "other_values",
                wrong[0] if wrong else "",
                say(
                    "it is the cell {name}, but its weights are not those of the module.",
                    name=_NAMES[self.cell.name],
                ),
            )

    def compare_bias(self, gate: _Gate, b_i: _Array, b_h: _Array) -> None:
        """Note the biases of a module that a gate leaves out."""
        letter = gate.letter
        missing = []
        if gate.b_h is not None:
            if not self.are_equal(gate.b, b_i) and self.is_zero(gate.b):
                missing.append("bias_ih")
            if not self.are_equal(gate.b_h, b_h) and self.is_zero(gate.b_h):
                missing.append("bias_hh")
        elif not self.are_equal(gate.b, b_i + b_h):
            if self.are_equal(gate.b, b_i):
                missing = ["bias_hh"]
            elif self.are_equal(gate.b, b_h):
                missing = ["bias_ih"]
            elif self.is_zero(gate.b):
                missing = ["bias_ih", "bias_hh"]
        if missing:
            self.find(
                "missing_bias",
                letter,
                say("a bias is missing: {names}.", names=", ".join(missing)),
            )


class _RnnReading(_Reading):
    """h' = tanh(W x + U h + b), or ReLU."""

    def read(self) -> None:
        if self.is_returned_as_given():
            return
        (after,) = self.run.results
        self.read_gate("h", after, "ReLU" if self.cell.name == "rnn_relu" else "tanh")
        self.judge_sharing()


class _LstmReading(_Reading):
    """c' = f c + i g, h' = o tanh(c')."""

    def read(self) -> None:
        if self.is_returned_as_given():
            return
        c = self.batch.states[1]
        h_after, c_after = self.run.results
        output = self.find_output(h_after, c_after)
        if output is None and self.find_output(c_after, h_after):
            self.find(
                "results_swapped",
                "",
                say("c and h are swapped in the result: return h', c' in this order."),
            )
            h_after, c_after = c_after, h_after
            output = self.find_output(h_after, c_after)
        place = self.run.results.index(c_after) if c_after is self.run.results[0] else 1
        self.read_cell(c, c_after, place)
        self.read_output(output)
        self.gates = {letter: self.gates[letter] for letter in "ifgo" if letter in self.gates}
        self.judge_sharing()
        order = "ifgcoh"
        self.findings.sort(key=lambda finding: order.find(finding.gate))

    def read_cell(self, c: _Array, c_after: _Array, place: int) -> None:
        """Read c' = f c + i g; place is where the step returns c'."""
        slopes = []
        for change in (1.0, -2.0):
            states = (self.h, c + change)
            changed = self.step(Batch(self.x, states)).results[place]
            slopes.append((changed - c_after) / change)
        forget = slopes[0]
        if not _close(slopes[0], slopes[1], 100 * self.tolerance):
            self.find(
                "not_recognised",
                "c",
                say("c' is not f c + i g: it is no multiple of c and a rest."),
            )
            return
        if self.is_zero(forget) or self.is_zero(forget - 1):
            self.find(
                "forget_missing",
                "f",
                say("the old c does not enter: c' = f c + i g needs the term f c.")
                if self.is_zero(forget)
                else say("the forget gate is missing: c is added as it is, not f c."),
            )
        else:
            # The value that passed by is the exact one.
            near = [v for v in self.values if _close(v, forget, 100 * self.tolerance)]
            forget = near[0] if near else forget
            self.read_gate("f", forget, "sigmoid")
        added = c_after - forget * c
        gate, candidate, is_known = self.find_pair(added)
        if is_known or (gate is not None and self.activation_of(added) is None):
            if "f" in self.gates and self.same(gate, 1 - forget):
                self.find(
                    "coupled_gates",
                    "i",
                    say("the input gate is 1 - f: it needs weights of its own."),
                )
            else:
                self.read_gate("i", gate, "sigmoid")
            self.read_gate("g", candidate, "tanh")
            return
        for activation, before in self.origins(added):
            solved = self.solve_gate(before)
            if solved is not None:
                is_gate = activation == "sigmoid"
                self.find(
                    "candidate_not_multiplied",
                    "i" if not is_gate else "g",
                    say("the input gate is added by itself: it must be multiplied by g.")
                    if is_gate
                    else say("the candidate g is not multiplied by the input gate: c' needs i g."),
                )
                self.add(
                    _Gate("i" if is_gate else "g", added, activation, *solved),
                    "sigmoid" if is_gate else "tanh",
                )
                return
        self.find(
            "not_recognised",
            "c",
            say("what is added to c is not the product of a gate and a candidate."),
        )

    def find_pair(self, added: _Array) -> tuple[Any, Any, bool]:
        """Return the input gate and the candidate of which added is the product, or None for both.

        The third says whether each is a function of what is linear in x and h; other values may
        have this product by chance.
        """
        values = [*self.values]
        if "f" in self.gates:
            values.append(1 - self.gates["f"].value)
        found = []
        few = np.stack([value[:4] for value in values]) if values else np.zeros((0,))
        for first, value in enumerate(values):
            near = np.abs(few * value[:4] - added[:4]).max(axis=(1, 2))
            limit = self.tolerance * 100 * (1 + np.abs(added).max())
            found += [
                (value, values[second])
                for second in np.flatnonzero(near <= limit)
                if second >= first and _close(values[second] * value, added, 100 * self.tolerance)
            ]
        ranked: list[tuple[int, int, _Array, _Array]] = []
        for pair in found:
            kinds = [self.activation_of(value) for value in pair]
            for gate, candidate in ((0, 1), (1, 0)):
                known = None not in kinds
                score = 3 * (not known) + (kinds[gate] != "sigmoid") + (kinds[candidate] != "tanh")
                ranked.append((score, len(ranked), pair[gate], pair[candidate]))
        if not ranked:
            return None, None, False
        score, _, gate_value, candidate_value = min(ranked, key=lambda entry: entry[:2])
        return gate_value, candidate_value, score < 3

    def activation_of(self, value: _Array) -> str | None:
        """Return the function that made a value of one that is linear in x and h, or None."""
        for activation, before in self.origins(value):
            if self.solve_gate(before) is not None:
                return activation
        return _NONE if self.solve_gate(value) is not None else None

    def find_output(self, h_after: _Array, c_after: _Array) -> tuple[str, _Array] | None:
        """Return what the output gate is multiplied by, and the gate, in h' = o tanh(c')."""
        c = self.batch.states[1]
        shapes = {
            "tanh(c')": np.tanh(c_after),
            "c'": c_after,
            "sigmoid(c')": _sigmoid(c_after),
            "relu(c')": np.maximum(c_after, 0),
            "tanh(c)": np.tanh(c),
            "c": c,
        }
        for name, factor in shapes.items():
            if name != "c" and self.same(factor, h_after):
                return name, np.ones_like(factor)
            for value in self.values:
                if self.same(value * factor, h_after):
                    return name, value
        # A step that shows no values: o can still be divided out.
        factor = shapes["tanh(c')"]
        gate = h_after / np.where(np.abs(factor) < 1e-6, 1, factor)
        far = np.abs(factor).min(axis=1) >= 1e-3
        if not self.values and far.any() and gate[far].min() > 0 and gate[far].max() < 1:
            return "tanh(c')", gate
        return None

    def read_output(self, output: tuple[str, _Array] | None) -> None:
        """Read h' = o tanh(c')."""
        if output is None:
            self.find("not_recognised", "h", say("h' is not o tanh(c')."))
            return
        factor, gate = output
        if factor in ("tanh(c)", "c"):
            self.find(
                "old_cell_in_output",
                "h",
                say("h' is made of the old c: it needs the new one, h' = o tanh(c')."),
            )
        elif factor != "tanh(c')":
            self.find(
                "output_tanh_missing",
                "h",
                say("h' is o {got}: it must be o tanh(c').", got=factor),
            )
        if self.is_zero(gate - 1):
            self.find(
                "output_gate_missing",
                "o",
                say("the output gate is missing: h' must be o tanh(c')."),
            )
        else:
            self.read_gate("o", gate, "sigmoid")


class _GruReading(_Reading):
    """h' = (1 - z) n + z h, and n with the reset gate in it."""

    def read(self) -> None:
        if self.is_returned_as_given():
            return
        (after,) = self.run.results
        found = self.find_update(after)
        if found is None:
            if self.read_alone(after):
                return
            self.find(
                "not_recognised",
                "h",
                say("h' is not (1 - z) n + z h for any z and n that the step computes."),
            )
            return
        form, update, candidate = found
        if form == "z n + (1 - z) h":
            self.find(
                "update_swapped",
                "z",
                say("z and 1 - z are swapped: h' must be (1 - z) n + z h, and is z n + (1 - z) h."),
            )
        elif form != "(1 - z) n + z h":
            self.find(
                "update_incomplete",
                "z",
                say("h' must be (1 - z) n + z h, and is {got}.", got=form),
            )
        self.read_gate("z", update, "sigmoid")
        self.read_candidate(candidate)
        self.gates = {letter: self.gates[letter] for letter in "rzn" if letter in self.gates}
        self.judge_sharing()
        self.findings.sort(key=lambda finding: "rznh".find(finding.gate))

    def find_update(self, after: _Array) -> tuple[str, _Array, _Array] | None:
        """Return how h' is made of z, n and h, with z and n."""
        h = self.h
        forms: dict[str, Callable[[_Array, _Array, _Array], _Array]] = {
            "(1 - z) n + z h": lambda z, n, h: (1 - z) * n + z * h,
            "z n + (1 - z) h": lambda z, n, h: z * n + (1 - z) * h,
            "(1 - z) n": lambda z, n, h: (1 - z) * n,
            "z n": lambda z, n, h: z * n,
            "n + z h": lambda z, n, h: n + z * h,
            "z n + z h": lambda z, n, h: z * n + z * h,
        }
        # Values that can be a gate or a candidate first, for z n is also some other product.
        made = [(value, self.first_origin(value)) for value in self.values]
        gates = sorted(
            ((place, value) for value, place in made if place is not None),
            key=lambda entry: entry[0],
        )
        for names in (list(forms)[:2], list(forms)[2:]):
            for _, z in gates:
                for name in names:
                    for n in self.values:
                        first = forms[name](z[:4], n[:4], h[:4])
                        if (
                            n is not z
                            and self.begins_as(first, after)
                            and self.same(forms[name](z, n, h), after)
                        ):
                            return name, z, n
        return None

    def first_origin(self, value: _Array) -> int | None:
        """Return the place of the first value that a gate was made of, or None."""
        for _, before in self.origins(value):
            if self.solve_gate(before) is not None:
                places = [i for i, other in enumerate(self.values) if other is before]
                return places[0] if places else len(self.values)
        return None

    def read_alone(self, after: _Array) -> bool:
        """Note a step without an update gate: h' = n."""
        if next(self.candidates(after), None) is None:
            return False
        self.find(
            "update_incomplete",
            "z",
            say("the update gate is missing: h' must be (1 - z) n + z h, and is n."),
        )
        self.read_candidate(after)
        return True

    def candidates(self, value: _Array) -> Iterator[tuple[str, str, _Array, list[_Array]]]:
        """Yield (form, activation, r, weights) of how a candidate can be made."""
        makers = [*self.origins(value), (_NONE, value)]
        resets = [before for before in self.values if self.first_origin(before) is not None]
        for activation, before in makers:
            plain = self.solve_gate(before)
            if plain is not None:
                yield "unused", activation, value, plain
        wanted = "before" if self.cell.late else "after"
        for form in sorted(("after", "before", "input", "both"), key=lambda form: form != wanted):
            for activation, before in makers:
                for r in resets:
                    weights = self.solve_reset(form, before, r)
                    if weights is not None:
                        yield form, activation, r, weights

    def solve_reset(self, form: str, value: _Array, r: _Array) -> list[_Array] | None:
        """Return W, U, b_i and b_h of a candidate with the reset gate in one of its places."""
        x, h, ones = self.x, self.h, self.ones
        if form == "before":
            return self.solve(value[:, :_UNITS], x, r * h, ones)
        # The other forms have a matrix for each unit, so the first tells whether to go on.
        rows = []
        for unit in range(value.shape[1])[:_UNITS]:
            one, gate = value[:, [unit]], r[:, [unit]]
            if form == "after":
                weights = self.solve(one, x, gate * h, ones, gate)
            elif form == "input":
                weights = self.solve(one, gate * x, h, gate, ones)
            else:
                weights = self.solve(one, gate * x, gate * h, gate)
            if weights is None:
                return None
            rows.append(weights)
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def read_candidate(self, value: _Array) -> None:
        """Read n, whose reset gate has a place that tells the two GRUs apart."""
        wanted = "before" if self.cell.late else "after"
        found = next(self.candidates(value), None)
        if found is None:
            self.find(
                "not_recognised",
                "n",
                say("the candidate is not tanh of W x, r and U h with a bias."),
            )
            return
        form, activation, r, weights = found
        gate = _Gate("n", value, activation, *weights[:3])
        if form == "after":
            gate.b_h = weights[3][:, 0]
        if form == "unused":
            self.find("reset_unused", "r", say("the reset gate does not enter the candidate."))
        else:
            self.read_gate("r", r, "sigmoid")
            if form != wanted:
                self.find("reset_side", "n", self.say_side(form, wanted))
        self.add(gate, "tanh")

    def say_side(self, form: str, wanted: str) -> str:
        """Return the sentence about a reset gate in the wrong place."""
        forms = {
            "before": "tanh(W x + b + U (r h))",
            "after": "tanh(W x + b_i + r (U h + b_h))",
            "input": "tanh(r (W x + b) + U h)",
            "both": "tanh(r (W x + U h + b))",
        }
        text = say(
            "the reset gate is on the other side: n is {got}, and must be {wanted}.",
            got=forms[form],
            wanted=forms[wanted],
        )
        if {form, wanted} == {"before", "after"}:
            text += say(
                " That is another GRU: reset_after=False is the one of the paper, reset_after=True "
                "that of PyTorch and cuDNN."
            )
        return text


_READINGS: dict[str, type[_Reading]] = {"h": _RnnReading, "ifgo": _LstmReading, "rzn": _GruReading}
