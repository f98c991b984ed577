"""What holds of a cell, which takes one step."""

from collections.abc import Callable, Iterator

import torch

from elman.explanation.call import Call
from elman.explanation.checks.equal import Check, all_same, checked, same
from elman.explanation.hand import by_hand
from elman.language import say

__all__ = ["a_cell"]


def a_cell(call: Call, language: str | None) -> Iterator[Check]:
    """Check one step of a cell against its layer and its equations."""
    layer = call.rebuilt([0], [""])
    rows = torch.stack([call.rows[0], call.rows[0].flip(-1), -call.rows[0]])
    if layer is not None:
        output, states = call.run(rows, call.start, None, layer)
        stepped = call.run(rows, call.start)
        yield checked(
            "cell_by_hand_equals_layer",
            f"for x_t in x: {_state(call)} = {call.name}(x_t, {_state(call)})  ==  layer(x)",
            same(stepped[0], output) and all_same(stepped[1], states),
            say(
                "A cell takes one step. Over a sequence it is called in a loop, and a layer of "
                "the same weights, {layer}, is that loop in one call.",
                language=language,
                layer=type(layer).__name__,
            ),
            language=language,
        )
    hand = by_hand(call)
    finals = tuple(state[-1].unsqueeze(0) for state in hand[0][0])
    yield checked(
        "equations_equal_the_cell",
        f"{_state(call)} = equations(x) == {call.name}(x)",
        all_same(finals, call.finals),
        say("The equations below give the state that the cell returned.", language=language),
        language=language,
    )
    refused = _raises(lambda: call.module(rows))
    yield checked(
        "a_cell_takes_a_sequence",
        f"{call.name}(torch.randn{tuple(rows.shape)})",
        not refused,
        no=say(
            "A cell refuses a sequence: it takes (N, H_in) or (H_in,), one time step. Use a "
            "layer, or a loop.",
            language=language,
        ),
        language=language,
    )


def _state(call: Call) -> str:
    return ", ".join(call.cell.states) if len(call.widths) == 1 else "(h, c)"


def _raises(run: Callable[[], object]) -> bool:
    try:
        run()
    except (ValueError, RuntimeError, TypeError):
        return True
    return False
