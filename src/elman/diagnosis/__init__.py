"""Whether a hand-written step is the cell that it is meant to be, and if not, what is wrong.

The step is run on random numbers, and what it computes on the way is watched (`elman.watching`).
The equations of the cell are then read backwards. In c' = f c + i g, f is what c' changes by when c
changes; i and g are two of the values that passed by and whose product is what is left. Of each
gate, the value that it was made of and the function are found the same way, and from that value the
weights of x and h and the bias by least squares, since it must be W x + U h + b. So the names, the
order and the form of the parameters do not matter.

Left out: whether a step is stable or fast, and layers, which hold several cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from elman.diagnosis.cells import READINGS
from elman.diagnosis.meant import NAMES, Model, meant, meant_module
from elman.diagnosis.reading import Finding, close
from elman.language import say
from elman.shapes import ShapeError
from elman.watching import Batch, Run, Step

__all__ = ["CellReport", "Finding", "check_cell"]


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
        name = NAMES[self.kind]
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
        ShapeError: no sizes were found with which step works; the message has its own error. Or
            step is a module of a cell with other states.

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
    cell, model = meant(kind)
    if model is not None:
        input_size = model.input_size if input_size is None else input_size
        hidden_size = model.hidden_size if hidden_size is None else hidden_size
    if isinstance(step, nn.RNNCellBase):  # the core's own steps cannot be watched
        own = Model(*meant_module(step))
        if own.cell.states != cell.states:
            raise ShapeError(
                say(
                    "check_cell: step must have the states of {name}, {wanted}, got {got}, whose "
                    "states are {states}",
                    name=NAMES[cell.name],
                    wanted=", ".join(cell.states),
                    got=type(step).__name__,
                    states=", ".join(own.cell.states),
                )
            )
        step, input_size, hidden_size = own.step, own.input_size, own.hidden_size
    tried = Step(step, len(cell.states), input_size, hidden_size)
    batch = tried.draw()
    run = tried(batch)
    notes = []
    if tried.takes_one_sequence:
        notes.append(say("It takes one sequence at a time, and no batch."))
    if model is not None and all(
        close(ours, theirs, tried.tolerance)
        for ours, theirs in zip(run.results, model(batch), strict=True)
    ):
        return CellReport(cell.name, True, (), tuple(notes))
    # Values that are the same at this moment may be different parameters, and zeros a bias.
    if model is None:
        tried = Step(step, len(cell.states), tried.input_size, tried.hidden_size, renewed=True)
        run = tried(batch)
    reading = READINGS[cell.gates](cell, tried, batch, run)
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


def _mixes_rows(step: Step, batch: Batch, run: Run) -> bool:
    rows = np.arange(12)[::-1]
    alone = step(batch.rows(rows)).results
    return not all(
        close(some, whole[rows], 10 * step.tolerance)
        for some, whole in zip(alone, run.results, strict=True)
    )
