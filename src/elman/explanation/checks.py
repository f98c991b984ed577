"""What is equal in this call and what is not, though many expect it: each computed on the spot.

A check has a key that does not depend on the language, the equation as a line of code, whether it
holds, and the reason. The reason is chosen by what was computed, so none is printed that does not
fit: where a result is not the one that the equations give, the check says that.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman.explanation.call import Call, States
from elman.explanation.hand import MOST, by_hand
from elman.language import say
from elman.ragged import last

__all__ = ["Check", "check"]


@dataclass(frozen=True)
class Check:
    """An equation about a call.

    Attributes:
        key: Its name for programs, the same in every language.
        code: The equation as a line of code.
        holds: Whether it holds in this call.
        why: The reason, and where it does not hold, what does.
    """

    key: str
    code: str
    holds: bool
    why: str

    @property
    def sentence(self) -> str:
        """The equation, its truth and its reason in one line."""
        return f"{self.code}: {self.holds}. {self.why}"


def check(call: Call, language: str | None = None) -> dict[str, list[Check]]:
    """Compute all that can be checked on a call, in groups by their titles."""
    states = say("Output and state", language=language)
    lengths = say("The sequences of a batch", language=language)
    calls = say("From call to call", language=language)
    axes = say("Axes and sizes", language=language)
    inside = say("Layers, directions and units", language=language)
    groups: dict[str, list[Check]] = {}
    if call.is_cell:
        groups[states] = list(_cell(call, language))
    else:
        groups[states] = list(_output_and_h_n(call, language))
        groups[lengths] = list(_lengths(call, language))
        groups[axes] = list(_axes(call, language))
    groups[calls] = [*_calls(call, language), *_graph(call, language)]
    groups[inside] = [
        *(() if call.is_cell else (*_stack(call, language), *_dropout(call, language))),
        *_units(call, language),
    ]
    return {title: found for title, found in groups.items() if found}


def joined(sentences: Iterable[str], language: str | None) -> str:
    """Return sentences one after the other; Chinese has no space between them."""
    return ("" if language == "zh" else " ").join(sentences)


# What of two reasons fits; a result that no equation explains is said to be one.
def _checked(
    key: str, code: str, holds: bool, yes: str = "", no: str = "", language: str | None = None
) -> Check:
    why = (yes if holds else no) or say(
        "That is not what the equations lead to expect: the class of the module computes "
        "something else, or numbers are equal by chance.",
        language=language,
    )
    return Check(key, code, holds, why)


_ERRORS = {torch.float64: 1e-9, torch.float32: 3e-5}


# Equal but for rounding; tensors of other sizes are not.
def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same size and, but for rounding, the same numbers."""
    if a.shape != b.shape:
        return False
    error = _ERRORS.get(a.dtype, 3e-2)
    return torch.allclose(a.double(), b.double(), rtol=error, atol=error)


def _near(a: Any, b: Any) -> bool:
    plain = (
        v.data if isinstance(v, PackedSequence) else v.values() if v.is_nested else v
        for v in (a, b)
    )
    x, y = (v.double() for v in plain)
    return torch.allclose(x, y, rtol=2e-2, atol=2e-2)


def _all_same(a: States, b: States) -> bool:
    return all(same(x, y) for x, y in zip(a, b, strict=True))


def _ragged(call: Call) -> bool:
    return len(set(call.steps)) > 1 or call.steps[:1] != [call.seq_len]


# --- what output and h_n are --------------------------------------------------------------------


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


def _output_and_h_n(call: Call, language: str | None) -> Iterator[Check]:
    output, h_n = call.outputs, call.finals[0]
    at_end, end = at_last_step(call), summary(call)
    ragged, two = _ragged(call), call.directions == 2
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
    yield _checked("output_last_is_h_n", f"{at_end} == {end}", holds, yes, no, language)
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
        yield _checked(
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
        yield _checked(
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
        yield _checked(
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
        yield _checked(
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
        yield _checked(
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
    yield _checked(
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
    holds = same(output, torch.where(live_at, top, 0)) and _all_same(after, finals)
    loop = "for x_t in x: h = step(x_t, h)"
    yield _checked(
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


def _calls(call: Call, language: str | None) -> Iterator[Check]:
    name = call.name
    rows, start, steps = call.rows, call.start, call.steps
    lengths = None if call.is_cell else steps
    first = call.run(rows, None, lengths)
    second = call.run(rows, None, lengths)
    yield _checked(
        "second_call_starts_from_zeros",
        f"{name}(x) == {name}(x)",
        same(first[0], second[0]) and _all_same(first[1], second[1]),
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
    yield _checked(
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
    joined = torch.cat(outputs)
    holds = same(joined, whole) and _all_same(state, end)
    yield _checked(
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
        yield _checked(
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


def _graph(call: Call, language: str | None) -> Iterator[Check]:
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
    yield _checked(
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


# --- axes ---------------------------------------------------------------------------------------


def _axes(call: Call, language: str | None) -> Iterator[Check]:
    rows = call.rows
    yield _checked(
        "as_many_steps_out_as_in",
        f"output L = {len(call.outputs)} == input L = {call.seq_len}",
        len(call.outputs) == call.seq_len,
        say(
            "As many steps come out as go in. For one vector take the summary, for another length "
            "use an encoder and a decoder (see What next).",
            language=language,
        ),
        language=language,
    )
    longer = torch.cat((rows, rows[:1]))
    output, states = call.run(longer)
    yield _checked(
        "parameters_do_not_depend_on_the_length",
        f"L = {call.seq_len + 1}: output L = {len(output)}, h_n.shape == {_size(states[0])}",
        len(output) == call.seq_len + 1 and states[0].shape == call.finals[0].shape,
        say(
            "The same parameters run at every step, so any length goes. output grows with it; h_n "
            "does not, for it is one step. num_layers is the height of the picture, L its width.",
            language=language,
        ),
        language=language,
    )
    if call.form == "padded":
        module = copy.deepcopy(call.module)
        module.batch_first = not call.batch_first
        turned = call.input.transpose(0, 1)
        hx = call.hx
        given = (turned, hx) if call.lengths is None else (turned, hx, call.lengths)
        output, state = module(*given)
        state = state[0] if isinstance(state, tuple) else state
        yield _checked(
            "batch_first_leaves_the_states_alone",
            f"h_n.shape[batch_first=False] == h_n.shape[batch_first=True] == {_size(state)}",
            same(output.transpose(0, 1), call.output) and same(state, call.states[0]),
            say(
                "batch_first turns input and output, (N, L, F) instead of (L, N, F), and leaves "
                "h_0 and h_n alone: their batch is the second axis either way.",
                language=language,
            ),
            language=language,
        )
    if call.form == "padded" and min(call.input.shape[:2]) > 1:
        outer, inner = ("n", "t") if call.batch_first else ("t", "n")
        features = call.input.contiguous().reshape(-1)
        size = call.input_size
        yield _checked(
            "the_second_axis_is_next_in_memory",
            f"x.flatten()[{size}:{2 * size}] == x[{outer}=0, {inner}=1]",
            same(features[size : 2 * size], call.input[0, 1]),
            say(
                "In memory the features of one step lie together. After them comes the next step "
                "of the same sequence.",
                language=language,
            )
            if call.batch_first
            else say(
                "In memory the features of one step lie together. After them comes the same step "
                "of the next sequence: all that one step needs is one block, which is why this "
                "order is the default.",
                language=language,
            ),
            language=language,
        )
    if call.form == "padded" and call.output.numel():
        width = call.output.shape[-1]
        flat = call.output.reshape(-1, width)
        outer, inner = call.output.shape[:2]
        place = (outer - 1) * inner + inner - 1
        yield _checked(
            "view_lists_the_steps",
            f"output.reshape(-1, {width})[{place}] == output[{outer - 1}, {inner - 1}]",
            same(flat[place], call.output[outer - 1, inner - 1]) and len(flat) == outer * inner,
            say(
                "view(-1, {width}) puts the steps of all sequences one under the other, {rows} "
                "rows, so that a loss sees a list of vectors. It mixes nothing.",
                language=language,
                width=width,
                rows=outer * inner,
            ),
            language=language,
        )


def _size(x: Tensor) -> str:
    return str(tuple(x.shape))


# --- sequences of different lengths -------------------------------------------------------------


def _lengths(call: Call, language: str | None) -> Iterator[Check]:
    if not _ragged(call):
        if call.batch > 1:
            yield from _alone(call, language)
        return
    steps = torch.tensor(call.steps, device=call.device)
    padding = torch.arange(call.seq_len, device=call.device)[:, None] >= steps
    padded = "output" if call.form in ("padded", "single") else "padded"
    at = "[n, lengths[n]:]" if call.batch_first or call.form == "nested" else "[lengths[n]:, n]"
    yield _checked(
        "padding_is_zero",
        f"{padded}{at} == 0",
        not call.outputs[padding].any(),
        say("output is zero past the end of a sequence.", language=language),
        language=language,
    )
    noise = torch.where(padding[..., None], torch.full_like(call.rows, 7), call.rows)
    output, states = call.run(noise, call.start, call.steps)
    yield _checked(
        "padding_is_not_read",
        f"{call.name}(x.masked_fill(padding, 7)) == {call.name}(x)",
        same(output, call.outputs) and _all_same(states, call.finals),
        say("What the input holds past the end of a sequence is not read.", language=language),
        language=language,
    )
    _, states = call.run(noise, call.start)
    yield _checked(
        "lengths_do_not_matter",
        f"{call.name}(x, lengths=None)[1] == {call.name}(x, lengths={call.steps})[1]",
        _all_same(states, call.finals),
        no=say(
            "Without the lengths the padding is read as if it were data, and h_n of the shorter "
            "sequences is what came of it.",
            language=language,
        ),
        language=language,
    )
    yield from _alone(call, language)


def _alone(call: Call, language: str | None) -> Iterator[Check]:
    holds = True
    for n, count in enumerate(call.steps[:8]):
        if count:
            start = tuple(state[:, n : n + 1].contiguous() for state in call.start)
            _, states = call.run(call.rows[:count, n : n + 1], start)
            mine = tuple(state[:, n : n + 1] for state in call.finals)
            holds = holds and _all_same(states, mine)
    yield _checked(
        "a_row_alone_gives_the_same",
        f"h_n[:, n] == {call.name}(x_n)[1], n = 0, ..., {call.batch - 1}",
        holds,
        say(
            "h_n has each sequence of the batch at its own last step, in your order, as if it "
            "were alone.",
            language=language,
        ),
        language=language,
    )


# --- layers and directions ----------------------------------------------------------------------


def _stack(call: Call, language: str | None) -> Iterator[Check]:
    d = call.directions
    if call.num_layers > 1 and call.rebuilt([0]) is not None:
        lower, upper = call.rebuilt([0]), call.rebuilt(range(1, call.num_layers))
        begin = tuple(state[:d] for state in call.start)
        rest = tuple(state[d:] for state in call.start)
        middle, first = call.run(call.rows, begin, call.steps, lower)
        output, others = call.run(middle, rest, call.steps, upper)
        states = tuple(torch.cat(pair) for pair in zip(first, others, strict=True))
        yield _checked(
            "layers_are_stacked_modules",
            f"upper(lower(x)[0]) == {call.name}(x)",
            same(output, call.outputs) and _all_same(states, call.finals),
            say(
                "{number} layers are {number} {kind} modules, stacked: each reads the output of "
                "the one below. lower(x)[0] is the lowest layer at every step.",
                language=language,
                number=call.num_layers,
                kind=call.title,
            ),
            language=language,
        )
    if d == 2 and call.num_layers == 1 and call.rebuilt([0]) is not None:
        begin = tuple(state[:1] for state in call.start)
        back = tuple(state[1:] for state in call.start)
        flipped = _flipped(call, call.rows)
        forward, reverse = call.rebuilt([0], [""]), call.rebuilt([0], ["_reverse"])
        _, ahead = call.run(flipped, begin, call.steps, forward)
        _, behind = call.run(flipped, back, call.steps, reverse)
        yield _checked(
            "backward_is_forward_of_the_reversed_input",
            f"forward(x.flip(0))[1] == {call.name}(x)[1][-1]",
            same(ahead[0][0], call.finals[0][1]),
            no=say(
                "The reverse direction has weights of its own, with _reverse in their names.",
                language=language,
            ),
            language=language,
        )
        yield _checked(
            "backward_is_its_own_weights_on_the_reversed_input",
            f"reverse(x.flip(0))[1] == {call.name}(x)[1][-1]",
            same(behind[0][0], call.finals[0][1]),
            say(
                "With the reverse weights it is the same, if each sequence is reversed within its "
                "own length.",
                language=language,
            ),
            language=language,
        )


def _flipped(call: Call, rows: Tensor) -> Tensor:
    columns = [torch.cat((rows[:n, i].flip(0), rows[n:, i])) for i, n in enumerate(call.steps)]
    return torch.stack(columns, 1) if columns else rows


def _dropout(call: Call, language: str | None) -> Iterator[Check]:
    if not call.dropout:
        return
    module = copy.deepcopy(call.module).train()
    if call.num_layers == 1:
        trained, _ = call.run(call.rows, call.start, call.steps, _time_major(module))
        yield _checked(
            "dropout_does_nothing_with_one_layer",
            f"{call.name}.train()(x) == {call.name}.eval()(x)",
            same(trained, call.outputs),
            say(
                "dropout acts between layers, so with num_layers=1 it does nothing.",
                language=language,
            ),
            language=language,
        )
        return
    module.dropout = 1.0
    output, states = call.run(call.rows, call.start, call.steps, _time_major(module))
    spared = bool(output.any()) and same(states[0][: call.directions], _lowest(call))
    yield _checked(
        "dropout_acts_between_layers",
        f"dropout=1: {call.name}.train()(x)[0].any() == True",
        spared,
        say(
            "dropout zeroes what goes from a layer to the one above, at every step, and never "
            "what goes from step to step, nor the last layer's output. After eval() it does "
            "nothing.",
            language=language,
        ),
        language=language,
    )


def _time_major(module: torch.nn.Module) -> torch.nn.Module:
    module.batch_first = False  # type: ignore[assignment]
    return module


def _lowest(call: Call) -> Tensor:
    return call.finals[0][: call.directions]


# --- parameters and units -----------------------------------------------------------------------


def _units(call: Call, language: str | None) -> Iterator[Check]:
    if call.bias and call.is_known:
        module = copy.deepcopy(call.module)
        for name, parameter in list(module.named_parameters()):
            if "bias_ih" in name:
                other = dict(module.named_parameters()).get(name.replace("bias_ih", "bias_hh"))
                if other is not None:
                    parameter.copy_(parameter + other)
                    other.zero_()
        runner = module if call.is_cell else _time_major(module)
        output = _with(call, runner)
        gru = call.cell.name == "gru"
        yield _checked(
            "biases_act_by_their_sum",
            f"{call.name}(x; b_ih + b_hh, 0) == {call.name}(x; b_ih, b_hh)",
            same(output, call.outputs),
            say(
                "Two biases: only the sum of b_ih and b_hh acts, and both are added at every "
                "step. There are two because cuDNN has two.",
                language=language,
            ),
            say(
                "b_hn is inside the product with the reset gate, so it is not the same as b_in. "
                "For r and z only the sum of the two biases acts. Both are added at every step.",
                language=language,
            )
            if gru
            else "",
            language,
        )
    if _is_bounded(call):
        loud = call.run(1000 * call.rows, None, None if call.is_cell else call.steps)[0]
        yield _checked(
            "units_are_bounded",
            f"{call.name}(1000 * x): -1 <= h <= 1",
            bool(loud.abs().max() <= 1) if loud.numel() else True,
            say(
                "Each unit stays between -1 and 1, so a rising line soon saturates it. Scale the "
                "input, or take differences, and let a Linear give the output its scale.",
                language=language,
            ),
            language=language,
        )
    if call.is_known and "z" in call.cell.gates and call.bias:
        module = copy.deepcopy(call.module)
        h = call.hidden_size
        for name, parameter in module.named_parameters():
            if "bias_ih" in name:
                parameter[h : 2 * h] = 1000.0
        start = tuple(torch.full_like(state, 0.5) for state in call.start)
        output = _with(call, module if call.is_cell else _time_major(module), start)
        live = torch.arange(call.seq_len, device=call.device)[:, None] < torch.tensor(
            call.steps, device=call.device
        )
        yield _checked(
            "update_gate_of_one_keeps_h",
            "z = 1: h_t == h_(t-1)",
            same(output[live], torch.full_like(output[live], 0.5)),
            say(
                "Here z keeps the old state and 1 - z takes the candidate, as in PyTorch, Keras, "
                "ONNX and Cho et al. 2014. Some papers and encyclopaedias write z and 1 - z the "
                "other way round; with the same letters exchanged it is the same cell.",
                language=language,
            ),
            language=language,
        )
    if call.is_ours and call.dtype is torch.float32:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = call.module(*call.given)
        result = result if call.is_cell else result[0]
        lowered = result[0] if isinstance(result, tuple) else result
        yield _checked(
            "bfloat16_autocast_gives_the_same",
            f"torch.autocast('cpu', torch.bfloat16): {call.name}(x)",
            _near(lowered, call.output),
            say(
                "Equal to two digits, which is what bfloat16 holds. elman computes in float32 all "
                "the same, on any processor, and lowers the results alone.",
                language=language,
            ),
            language=language,
        )
    yield from _health(call, language)


def _is_bounded(call: Call) -> bool:
    return call.is_known and call.cell.name != "rnn_relu" and not call.proj_size


def _with(call: Call, module: torch.nn.Module, start: States | None = None) -> Tensor:
    begin = call.start if start is None else start
    if not call.is_cell:
        return call.run(call.rows, begin, call.steps, module)[0]
    hx = tuple(state[0] for state in begin)
    result = module(call.rows[0], hx if len(hx) > 1 else hx[0])
    h: Tensor = result[0] if isinstance(result, tuple) else result
    return h.unsqueeze(0)


# What to look at first when all results are alike, or the loss stays.
def _health(call: Call, language: str | None) -> Iterator[Check]:
    parameters = list(call.module.parameters())
    yield _checked(
        "all_parameters_learn",
        "all(p.requires_grad for p in parameters())",
        all(p.requires_grad for p in parameters),
        say(
            "If a loss stays the same, look whether the optimiser was given these parameters, "
            "whether zero_grad, backward and step are called, and whether targets are aligned.",
            language=language,
        ),
        say("Some parameters are frozen: an optimiser does not change them.", language=language),
        language,
    )
    h = call.outputs
    if not h.numel():
        return
    if call.cell.name == "rnn_relu":
        share = float((h.flatten(0, -2).abs().amax(0) == 0).double().mean())
        yield _checked(
            "few_units_are_dead",
            f"(output == 0).all((0, 1)).mean() = {share:.2f} < 0.5",
            share < 0.5,
            say("Most units answer to this input.", language=language),
            say(
                "Half of the units or more are zero at every step: smaller weights or a smaller "
                "learning rate bring them back.",
                language=language,
            ),
            language,
        )
    elif _is_bounded(call):
        share = float((h.abs() > 0.99).double().mean())
        yield _checked(
            "few_units_are_saturated",
            f"(output.abs() > 0.99).mean() = {share:.2f} < 0.5",
            share < 0.5,
            say("Most units are in the range where they have a gradient.", language=language),
            say(
                "Half of the units or more stand at -1 or 1, where their gradient is nearly zero: "
                "scale the input.",
                language=language,
            ),
            language,
        )
    live = [n for n, count in enumerate(call.steps) if count]
    if len(live) > 1:
        rows = [call.finals[0][:, n] for n in live]
        distinct = [call.rows[:, n] for n in live]
        same_input = all(torch.equal(distinct[0], row) for row in distinct)
        yield _checked(
            "rows_of_the_batch_differ",
            "h_n[:, 0] != h_n[:, 1]",
            not all(same(rows[0], row) for row in rows[1:]),
            say("Each sequence of the batch has a state of its own.", language=language),
            say("The sequences of the input are equal, so the states are.", language=language)
            if same_input
            else say(
                "All sequences end in the same state, though their inputs differ: look for units "
                "that are dead or saturated, and for an input that is scaled to nothing.",
                language=language,
            ),
            language,
        )


# --- cells --------------------------------------------------------------------------------------


def _cell(call: Call, language: str | None) -> Iterator[Check]:
    layer = call.rebuilt([0], [""])
    rows = torch.stack([call.rows[0], call.rows[0].flip(-1), -call.rows[0]])
    if layer is not None:
        output, states = call.run(rows, call.start, None, layer)
        stepped = call.run(rows, call.start)
        yield _checked(
            "cell_by_hand_equals_layer",
            f"for x_t in x: {_state(call)} = {call.name}(x_t, {_state(call)})  ==  layer(x)",
            same(stepped[0], output) and _all_same(stepped[1], states),
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
    yield _checked(
        "equations_equal_the_cell",
        f"{_state(call)} = equations(x) == {call.name}(x)",
        _all_same(finals, call.finals),
        say("The equations below give the state that the cell returned.", language=language),
        language=language,
    )
    refused = _raises(lambda: call.module(rows))
    yield _checked(
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
