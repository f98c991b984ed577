"""What the readings of all cells share: values that passed by, gates, and what was found."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from elman.cells import Cell
from elman.diagnosis.meant import NAMES, UNITS, Array, Model
from elman.language import say
from elman.watching import Batch, Run, Step

__all__ = ["NONE", "Finding", "Gate", "Reading", "close", "sigmoid"]


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


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "hard sigmoid (x / 6 + 1 / 2)": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard sigmoid (x / 5 + 1 / 2)": lambda x: np.clip(x / 5 + 0.5, 0, 1),
}
NONE = "none"


def close(some: Array, other: Array, tolerance: float) -> bool:
    """Return whether two arrays are equal but for an error relative to the larger."""
    if some.shape != other.shape or not np.isfinite(some).all():
        return False
    return bool(np.abs(some - other).max(initial=0) <= tolerance * (1 + np.abs(other).max()))


@dataclass
class Gate:
    """A gate as it was read: activation(W x + U h + b); b_h is inside a GRU's reset product."""

    letter: str
    value: Array
    activation: str
    W: Array
    U: Array
    b: Array
    b_h: Array | None = None


class Reading(ABC):
    """What the readings of all cells share: values, gates and what was found."""

    def __init__(self, cell: Cell, step: Step, batch: Batch, run: Run) -> None:
        self.cell, self.step, self.batch, self.run = cell, step, batch, run
        self.tolerance = step.tolerance
        largest = max(np.abs(value).max(initial=0) for value in (*batch.states, *run.results))
        self.margin = 100 * self.tolerance * (1 + largest)
        self.x, self.h = batch.x, batch.states[0]
        self.gates: dict[str, Gate] = {}
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        # The basis of what is linear in x and h, to solve for many values.
        affine = np.concatenate([self.x, self.h, self.ones[:, None]], 1)
        self.basis, self.triangle = np.linalg.qr(affine)
        given = (*batch.states, *run.results)
        self.values: list[Array] = []
        for value in run.values:
            if not any(self.same(value, known) for known in (*given, *self.values)):
                self.values.append(value)

    @abstractmethod
    def read(self) -> None:
        """Find the gates, and what is wrong with them."""

    def find(self, key: str, gate: str, sentence: str) -> None:
        """Note a mistake."""
        text = say("{gate}: {sentence}", gate=gate, sentence=sentence) if gate else sentence
        self.findings.append(Finding(key, gate, text))

    def same(self, some: Array, other: Array) -> bool:
        """Return whether two values are equal, but for rounding."""
        return self.begins_as(some[:4], other) and close(some, other, self.tolerance)

    def begins_as(self, first: Array, value: Array) -> bool:
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

    def solve(self, value: Array, *terms: Array) -> list[Array] | None:
        """Return the matrices of the terms (N, .) of which value (N, H) is the sum, or None."""
        columns = [term if term.ndim == 2 else term[:, None] for term in terms]
        basis, triangle = np.linalg.qr(np.concatenate(columns, 1))
        coefficients = basis.T @ value
        diagonal = np.abs(np.diag(triangle))
        if diagonal.min() <= 1e-9 * diagonal.max() or not close(
            basis @ coefficients, value, 10 * self.tolerance
        ):
            return None
        solution = np.linalg.solve(triangle, coefficients)
        ends = np.cumsum([column.shape[1] for column in columns])
        return np.split(solution.T, ends[:-1], axis=1)

    def solve_gate(self, value: Array) -> list[Array] | None:
        """Return W, U and b (H, 1) of value = W x + U h + b, or None."""
        coefficients = self.basis.T @ value
        if not close(self.basis @ coefficients, value, 10 * self.tolerance):
            return None
        solution = np.linalg.solve(self.triangle, coefficients).T[:UNITS]
        width = self.x.shape[1]
        return [solution[:, :width], solution[:, width:-1], solution[:, -1:]]

    @property
    def ones(self) -> Array:
        """A column of ones, whose matrix is the bias."""
        return np.ones(len(self.x))

    def origins(self, value: Array) -> Iterator[tuple[str, Array]]:
        """Yield the functions and values that value can have been made of, the first ones first."""
        for before in self.values:
            for name, function in ACTIVATIONS.items():
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

    def read_gate(self, letter: str, value: Array, wanted: str) -> bool:
        """Find what a gate is made of, and note what is wrong; return whether that was found."""
        for activation, before in self.origins(value):
            solved = self.solve_gate(before)
            if solved is not None:
                self.add(Gate(letter, value, activation, *solved), wanted)
                return True
        solved = self.solve_gate(value)
        if solved is not None:
            self.add(Gate(letter, value, NONE, *solved), wanted)
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

    def add(self, gate: Gate, wanted: str) -> None:
        """Keep a gate, and note what is wrong with it by itself."""
        gate.b = gate.b[:, 0]
        letter = gate.letter
        self.gates[letter] = gate
        if gate.activation != wanted:
            self.find(
                "wrong_activation",
                letter,
                say("there is no activation where {wanted} belongs.", wanted=wanted)
                if gate.activation == NONE
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

    def is_zero(self, weights: Array) -> bool:
        """Return whether all weights are zero, but for rounding."""
        return bool(np.abs(weights).max(initial=0) <= 100 * self.tolerance)

    def are_equal(self, some: Array, other: Array) -> bool:
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
        groups: list[list[Gate]] = []
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

    def biases(self) -> list[tuple[str, str, Array]]:
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

    def compare(self, model: Model) -> None:
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
                    name=NAMES[self.cell.name],
                ),
            )

    def compare_bias(self, gate: Gate, b_i: Array, b_h: Array) -> None:
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
