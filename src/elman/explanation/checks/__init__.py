"""What is equal in this call and what is not, though many expect it: each computed on the spot.

A check has a key that does not depend on the language, the equation as a line of code, whether it
holds, and the reason. The reason is chosen by what was computed, so none is printed that does not
fit: where a result is not the one that the equations give, the check says that.
"""

from elman.explanation.call import Call
from elman.explanation.checks import axes, cell, states, units
from elman.explanation.checks.equal import Check, joined
from elman.explanation.checks.states import call_of_last, summary
from elman.language import say

__all__ = ["Check", "call_of_last", "check", "joined", "summary"]


def check(call: Call, language: str | None = None) -> dict[str, list[Check]]:
    """Compute all that can be checked on a call, in groups by their titles."""
    is_layer = not call.is_cell
    groups = {
        say("Output and state", language=language): (
            (states.output_and_h_n,) if is_layer else (cell.a_cell,)
        ),
        say("The sequences of a batch", language=language): (axes.sequences,) if is_layer else (),
        say("Axes and sizes", language=language): (axes.sizes,) if is_layer else (),
        say("From call to call", language=language): (states.calls, states.graph),
        say("Layers, directions and units", language=language): (
            (units.stack, units.dropout, units.units) if is_layer else (units.units,)
        ),
    }
    found = {
        title: [one for part in parts for one in part(call, language)]
        for title, parts in groups.items()
    }
    return {title: checks for title, checks in found.items() if checks}
