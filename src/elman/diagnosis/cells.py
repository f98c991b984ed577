"""The equations of the three kinds of cells, each read backwards."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from elman.diagnosis.meant import UNITS, Array
from elman.diagnosis.reading import NONE, Gate, Reading, close, sigmoid
from elman.language import say
from elman.watching import Batch

__all__ = ["READINGS"]


class RnnReading(Reading):
    """h' = tanh(W x + U h + b), or ReLU."""

    def read(self) -> None:
        if self.is_returned_as_given():
            return
        (after,) = self.run.results
        self.read_gate("h", after, "ReLU" if self.cell.name == "rnn_relu" else "tanh")
        self.judge_sharing()


class LstmReading(Reading):
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
        place = 0 if c_after is self.run.results[0] else 1
        self.read_cell(c, c_after, place)
        self.read_output(output)
        self.gates = {letter: self.gates[letter] for letter in "ifgo" if letter in self.gates}
        self.judge_sharing()
        order = "ifgcoh"
        self.findings.sort(key=lambda finding: order.find(finding.gate))

    def read_cell(self, c: Array, c_after: Array, place: int) -> None:
        """Read c' = f c + i g; place is where the step returns c'."""
        slopes = []
        for change in (1.0, -2.0):
            states = (self.h, c + change)
            changed = self.step(Batch(self.x, states)).results[place]
            slopes.append((changed - c_after) / change)
        forget = slopes[0]
        if not close(slopes[0], slopes[1], 100 * self.tolerance):
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
            near = [v for v in self.values if close(v, forget, 100 * self.tolerance)]
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
                    Gate("i" if is_gate else "g", added, activation, *solved),
                    "sigmoid" if is_gate else "tanh",
                )
                return
        self.find(
            "not_recognised",
            "c",
            say("what is added to c is not the product of a gate and a candidate."),
        )

    def find_pair(self, added: Array) -> tuple[Any, Any, bool]:
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
                if second >= first and close(values[second] * value, added, 100 * self.tolerance)
            ]
        ranked: list[tuple[int, int, Array, Array]] = []
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

    def activation_of(self, value: Array) -> str | None:
        """Return the function that made a value of one that is linear in x and h, or None."""
        for activation, before in self.origins(value):
            if self.solve_gate(before) is not None:
                return activation
        return NONE if self.solve_gate(value) is not None else None

    def find_output(self, h_after: Array, c_after: Array) -> tuple[str, Array] | None:
        """Return what the output gate is multiplied by, and the gate, in h' = o tanh(c')."""
        c = self.batch.states[1]
        shapes = {
            "tanh(c')": np.tanh(c_after),
            "c'": c_after,
            "sigmoid(c')": sigmoid(c_after),
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

    def read_output(self, output: tuple[str, Array] | None) -> None:
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


class GruReading(Reading):
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

    def find_update(self, after: Array) -> tuple[str, Array, Array] | None:
        """Return how h' is made of z, n and h, with z and n."""
        h = self.h
        forms: dict[str, Callable[[Array, Array, Array], Array]] = {
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

    def first_origin(self, value: Array) -> int | None:
        """Return the place of the first value that a gate was made of, or None."""
        for _, before in self.origins(value):
            if self.solve_gate(before) is not None:
                places = [i for i, other in enumerate(self.values) if other is before]
                return places[0] if places else len(self.values)
        return None

    def read_alone(self, after: Array) -> bool:
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

    def candidates(self, value: Array) -> Iterator[tuple[str, str, Array, list[Array]]]:
        """Yield (form, activation, r, weights) of how a candidate can be made."""
        makers = [*self.origins(value), (NONE, value)]
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

    def solve_reset(self, form: str, value: Array, r: Array) -> list[Array] | None:
        """Return W, U, b_i and b_h of a candidate with the reset gate in one of its places."""
        x, h, ones = self.x, self.h, self.ones
        if form == "before":
            return self.solve(value[:, :UNITS], x, r * h, ones)
        # The other forms have a matrix for each unit, so the first tells whether to go on.
        rows = []
        for unit in range(value.shape[1])[:UNITS]:
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

    def read_candidate(self, value: Array) -> None:
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
        gate = Gate("n", value, activation, *weights[:3])
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


READINGS: dict[str, type[Reading]] = {"h": RnnReading, "ifgo": LstmReading, "rzn": GruReading}
