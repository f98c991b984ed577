"""What output and h_n are, and what is carried from call to call."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from elman.explanation.call import Call, States
from elman.explanation.checks.equal import Check, all_same, checked, is_ragged, joined, same
from elman.explanation.hand import MOST, by_hand
from elman.language import say
from elman.ragged import last

__all__ = ["call_of_last", "calls", "graph", "output_and_h_n", "summary"]


def at_last_step(call: Call) -> str:
    """Return the code for the last step of the output as a learner writes it."""
    name = "output" if call.form in ("padded", "single") else "padded"
    first = (call.batch_first and call.form == "padded") or call.form == "nested"
    return f"{name}[:, -1]" if first else f"{name}[-1]"


def summary(call: Call) -> str:
    """Return the code for what has seen all of a sequence, of the last layer."""
    return "h_n[-1]" if call.directions == 1 else "torch.cat((h_n[-2], h_n[-1]), -1)"


def call_of_last(call: Call) -> str:
    """Return the code for the same by `elman.last`."""
    words = ["output"]
    if call.lengths is not None and call.form in ("padded", "single"):
        words.append("lengths")
    if call.directions == 2:
        words.append("bidirectional=True")
    if call.batch_first and call.form == "padded":
        words.append("batch_first=True")
    return f"elman.last({', '.join(words)})"


def _summary(call: Call, h_n: Tensor) -> Tensor:
    return h_n[-1] if call.directions == 1 else torch.cat((h_n[-2], h_n[-1]), -1)


def output_and_h_n(call: Call, language: str | None) -> Iterator[Check]:
    """Check output against h_n, and both against the equations."""
    output, h_n = call.outputs, call.finals[0]
    at_end, end = at_last_step(call), summary(call)
    ragged, two = is_ragged(call), call.directions == 2
    reasons = []
    if two:
        reasons.append(
            say(
                "At the last step the reverse direction has read one input only. It ends at the "
                "first step, and its state there is `h_n[-1]`.",
                language=language,
            )
        )
    if ragged:
        reasons.append(
            say(
                "output has zeros past the end of a sequence. The last step of the sequence is "
                "earlier, and h_n is taken there.",
                language=language,
            )
        )
    no = joined(reasons, language)
    yes = say(
        "The last layer at the last step stands in both. output has that layer at all steps, h_n "
        "has all layers at one step.",
        language=language,
    )
    holds = same(output[-1], _summary(call, h_n))
    yield checked("output_last_is_h_n", f"{at_end} == {end}", holds, yes, no, language)
    if two or ragged:
        live = [n for n, count in enumerate(call.steps) if count]
        lengths = call.steps if ragged else None
        found = last(output, lengths, bidirectional=two)
        yes = say(
            "This is the one vector that has seen all of a sequence, in each direction.",
            language=language,
        )
        if len(live) < call.batch:
            more = say(
                "A sequence of length 0 has no output and keeps its initial state.",
                language=language,
            )
            yes = joined((yes, more), language)
        yield checked(
            "last_is_h_n",
            f"{call_of_last(call)} == {end}",
            same(found[live], _summary(call, h_n)[live]),
            yes,
            language=language,
        )
    if two:
        live = [n for n, count in enumerate(call.steps) if count]
        start = at_end.replace("-1", "0")
        half = call.width
        yield checked(
            "reverse_ends_at_the_first_step",
            f"{start}[:, {half}:] == h_n[-1]"
            if call.form != "single"
            else f"{start}[{half}:] == h_n[-1]",
            same(output[0][live][:, half:], h_n[-1][live]),
            say("The reverse direction reads from the end to the start.", language=language),
            language=language,
        )
    if two and call.num_layers > 1:
        wrong = torch.cat((h_n[2], h_n[1]), -1)
        yield checked(
            "h_n_2_and_1_is_the_summary",
            f"torch.cat((h_n[2], h_n[1]), -1) == {end}",
            same(wrong, _summary(call, h_n)),
            no=say(
                "This is advice in print, and it mixes two layers. The last layer's two "
                "directions are `h_n[-2]` and `h_n[-1]`.",
                language=language,
            ),
            language=language,
        )
    most = min(call.seq_len, MOST)
    hand = by_hand(call)
    finals = _finals_by_hand(call, hand)
    if most < call.seq_len:
        output, after = call.run(call.rows[:most], call.start, [min(most, s) for s in call.steps])
        h_n = after[0]
    else:
        after = call.finals
    d, k, n, w = call.directions, call.num_layers, call.batch, call.width
    if d * k > 1:
        viewed = h_n.reshape(k, d, n, w)
        holds = all(same(viewed[i, j], finals[0][i * d + j]) for i in range(k) for j in range(d))
        yield checked(
            "h_n_is_layers_by_directions",
            f"h_n.view({k}, {d}, {f'{n}, ' * (call.form != 'single')}{w})[k, d] == "
            f"h_n[{'k' if d == 1 else '2 * k + d'}]",
            holds,
            say(
                "This is layer k, direction d, compared with that layer by hand: h_n has the "
                "directions of one layer next to each other, layer by layer, each at its own end.",
                language=language,
            ),
            language=language,
        )
    if k > 1 and d == 1:
        yield checked(
            "output_last_is_the_first_layer",
            f"{at_end} == h_n[0]",
            same(output[-1], h_n[0]),
            no=say(
                "`h_n[0]` is the lowest layer. output has the last layer only; what the layers "
                "below have at the earlier steps is not returned.",
                language=language,
            ),
            language=language,
        )
    yield checked(
        "len_of_h_n_is_the_batch",
        f"len(h_n) == N == {n}" if call.form != "single" else f"len(h_n) == L == {call.seq_len}",
        len(call.states[0]) == (n if call.form != "single" else call.seq_len),
        say(
            "By chance: the first axis of h_n is D * num_layers = {rows}, also with batch_first.",
            language=language,
            rows=d * k,
        ),
        say(
            "The first axis of h_n is D * num_layers = {rows}, also with batch_first.",
            language=language,
            rows=d * k,
        ),
        language,
    )
    name = call.name
    top = torch.cat([states[0] for states in hand[-1]], -1)
    steps = torch.tensor(call.steps, device=call.device)
    live_at = (torch.arange(most, device=call.device)[:, None] < steps)[..., None]
    holds = same(output, torch.where(live_at, top, 0)) and all_same(after, finals)
    loop = "for x_t in x: h = step(x_t, h)"
    yield checked(
        "cell_by_hand_equals_layer",
        f"{loop}  ==  {name}(x)",
        holds,
        say(
            "A cell stepped by hand over the time steps, in each layer and direction, gives the "
            "same output and states. A layer is that loop.",
            language=language,
        ),
        language=language,
    )


# (D * num_layers, N, width) of each state, at each sequence's own last step
def _finals_by_hand(call: Call, hand: list[list[States]]) -> States:
    ends = [
        tuple(states[i][0 if d else -1] for i in range(len(call.widths)))
        for layer in hand
        for d, states in enumerate(layer)
    ]
    return tuple(torch.stack(state) for state in zip(*ends, strict=True))


# --- what is carried from call to call ----------------------------------------------------------


def calls(call: Call, language: str | None) -> Iterator[Check]:
    """Check what a call keeps for the next, and what continues one."""
    name = call.name
    rows, start, steps = call.rows, call.start, call.steps
    lengths = None if call.is_cell else steps
    first = call.run(rows, None, lengths)
    second = call.run(rows, None, lengths)
    yield checked(
        "second_call_starts_from_zeros",
        f"{name}(x) == {name}(x)",
        same(first[0], second[0]) and all_same(first[1], second[1]),
        say(
            "Nothing is kept from one call to the next: without hx each starts from zeros, "
            "whether the calls are batches or epochs.",
            language=language,
        ),
        language=language,
    )
    zeros = tuple(torch.zeros_like(state) for state in start)
    pair = "zeros" if len(start) == 1 else f"({', '.join(['zeros'] * len(start))})"
    holds = same(call.run(rows, zeros, lengths)[0], call.run(rows, None, lengths)[0])
    yield checked(
        "zeros_are_the_default_state",
        f"{name}(x, {pair}) == {name}(x)",
        holds,
        say("Without hx the initial state is zeros of that size.", language=language),
        language=language,
    )
    yield from _in_parts(call, language)


# One step after the other, as a stream comes; a single step is taken twice.
def _in_parts(call: Call, language: str | None) -> Iterator[Check]:
    rows, steps = call.rows[:MOST], [min(MOST, n) for n in call.steps]
    if len(rows) == 1:
        rows, steps = torch.cat((rows, rows)), [2 * n for n in steps]
    name, two = call.name, call.directions == 2
    whole, end = call.run(rows, call.start, None if call.is_cell else steps)
    state, outputs, forgotten = call.start, [], []
    for t, x in enumerate(rows):
        now = None if call.is_cell else [int(t < n) for n in steps]
        output, state = call.run(x.unsqueeze(0), state, now)
        outputs.append(output)
        output, _ = call.run(x.unsqueeze(0), None, now)
        forgotten.append(output)
    holds = same(torch.cat(outputs), whole) and all_same(state, end)
    yield checked(
        "state_passed_on_continues",
        f"for x_t in x: out, hx = {name}(x_t, hx)  ==  {name}(x)",
        holds,
        say(
            "Passing on the state that came back continues the sequence: one step at a time, in "
            "pieces or all at once.",
            language=language,
        ),
        say(
            "The reverse direction starts at the end of the sequence, so it cannot be continued "
            "piece by piece. Use one direction for streams and for decoders.",
            language=language,
        )
        if two
        else "",
        language,
    )
    if not two:
        yield checked(
            "state_not_passed_on_continues",
            f"for x_t in x: out, _ = {name}(x_t)  ==  {name}(x)",
            same(torch.cat(forgotten), whole),
            no=say(
                "Without hx each piece starts from zeros: what came before is lost, and a stream "
                "sounds choppy.",
                language=language,
            ),
            language=language,
        )


def graph(call: Call, language: str | None) -> Iterator[Check]:
    """Check that a state carries its graph."""
    module = copy.deepcopy(call.module).train(call.module.training)
    rows = call.rows[:2, :1]  # enough to have a graph
    rows = rows[0] if call.is_cell else rows.transpose(0, 1) if call.batch_first else rows
    with torch.enable_grad():
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        errors = []
        for detach in (False, True):
            hx, error = None, ""
            try:
                for _ in range(2):
                    result = module(rows, hx)
                    hx = result if call.is_cell else result[1]
                    first = hx[0] if isinstance(hx, tuple) else hx
                    first.sum().backward()
                    if detach:
                        hx = tuple(s.detach() for s in hx) if isinstance(hx, tuple) else hx.detach()
            except RuntimeError as raised:
                error = str(raised)
            errors.append(error)
    each = [f"hx[{i}].detach()" for i in range(len(call.widths))]
    detached = "hx.detach()" if len(each) == 1 else f"({', '.join(each)})"
    yield checked(
        "state_passed_on_carries_its_graph",
        f"backward(); hx = {detached}; backward()",
        "backward through the graph a second time" in errors[0] and not errors[1],
        say(
            "A state that is passed on carries the graph of the calls before. From the same hx "
            "without "
            'detach() PyTorch raises "Trying to backward through the graph a second time". Detach '
            "once for each backward(), so once per chunk, and not at every step.",
            language=language,
        ),
        language=language,
    )
