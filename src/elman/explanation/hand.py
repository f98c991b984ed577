"""The recurrence by hand: every state of every step by the equations, and one step gate by gate.

Each step is that of the definition in `elman.cells`; the loop over time, layers, directions and
lengths stands here in the plainest form, so that a layer can be compared with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from elman import reference
from elman.explanation.call import Call, States

__all__ = ["MOST", "Step", "advance", "by_hand", "take_step"]

MOST = 128
"""Steps that are computed one by one, at most."""


def by_hand(call: Call) -> list[list[States]]:
    """Return the states after every step, each (L, N, width), for each layer and direction.

    Of long sequences it is the first `MOST` steps, as if there were no more.
    """
    rows = call.rows[:MOST].to(call.dtype)
    runs = _masks(call)
    found = []
    for layer in range(call.num_layers):
        directions = []
        for direction in range(call.directions):
            weights = call.weights(layer, direction)
            place = layer * call.directions + direction
            state = tuple(start[place].to(call.dtype) for start in call.start)
            after: list[States] = [state] * len(rows)
            times = range(len(rows))
            for t in reversed(times) if direction else times:
                new = advance(call, rows[t], state, weights)
                state = tuple(torch.where(runs[t], a, s) for a, s in zip(new, state, strict=True))
                after[t] = state
            directions.append(tuple(torch.stack(s) for s in zip(*after, strict=True)))
        found.append(directions)
        output = torch.cat([states[0] for states in directions], -1)
        rows = torch.where(runs, output, 0)
    return found


def advance(call: Call, x: Tensor, state: States, weights: list[Tensor | None]) -> States:
    """Return the states after one step, (N, width) each, by the equations."""
    begin = tuple(s.unsqueeze(0) for s in state)
    _, *after = reference.layer(call.cell, x.unsqueeze(0), None, begin, weights)
    return tuple(s.squeeze(0) for s in after)


# (L, N, 1): which sequences take which step
def _masks(call: Call) -> Tensor:
    steps = torch.tensor(call.steps, device=call.device)
    return (torch.arange(min(call.seq_len, MOST), device=call.device)[:, None] < steps)[..., None]


@dataclass(frozen=True)
class Step:
    """One step of one sequence in one layer and direction.

    Attributes:
        values: What the equations give, by symbol, from the input to the new state.
        module: What the module gives for the states, by symbol.
        error: The largest difference between the two.
    """

    t: int
    n: int
    layer: int
    direction: int
    values: dict[str, Tensor]
    module: dict[str, Tensor]
    error: float


def take_step(call: Call, t: int, n: int, layer: int, direction: int) -> Step:
    """Compute one step gate by gate, and what the module makes of it.

    The module's states at that step are where a run ends that ends there: one over the steps until
    t, or, in the reverse direction, from t to the end.
    """
    below = call.rows.to(call.dtype)
    if layer:
        lower = call.rebuilt(range(layer))
        places = slice(0, layer * call.directions)
        start = tuple(state[places] for state in call.start)
        below, _ = call.run(below, start, call.steps, lower)
    place = layer * call.directions + direction
    weights = call.weights(layer, direction)
    start = tuple(state[place, n : n + 1] for state in call.start)
    one = None if call.is_cell else call.rebuilt([layer], ["_reverse" if direction else ""])
    # A layer with the weights of the reverse direction reads the sequence turned round.
    row = below[: call.steps[n], n : n + 1]
    row, last = (row.flip(0), call.steps[n] - 1 - t) if direction else (row, t)

    def until(count: int) -> States:
        if not count:
            return start
        begin = tuple(state.unsqueeze(0) for state in start)
        return tuple(state[0] for state in call.run(row[:count], begin, None, one)[1])

    before = until(last)
    after = until(last + 1)
    x = row[last]
    values = {"x": x[0]}
    for letter, state in zip(call.cell.states, before, strict=True):
        values[f"{letter}_prev"] = state[0]
    values |= {name: value[0] for name, value in _gates(call, x, before, weights).items()}
    module = dict(zip(call.cell.states, (state[0] for state in after), strict=True))
    error = max(float((values[s] - module[s]).abs().max()) for s in module)
    return Step(t, n, layer, direction, values, module, error)


# The gates, where the cell tells them, and then the states after the step, as they are computed.
def _gates(call: Call, x: Tensor, state: States, weights: list[Tensor | None]) -> dict[str, Tensor]:
    cell = call.cell
    gates = cell.gates if cell.values is not None else ""
    letters = "".join(dict.fromkeys(gates + cell.states[::-1]))
    begin = tuple(s.unsqueeze(0) for s in state)
    _, values = reference.inside(cell, x.unsqueeze(0), begin, weights, None, None, letters)
    return {letter: values[letter][0, 0] for letter in letters}
