"""Axes, sizes and memory, and the sequences of different lengths in a batch."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from elman.explanation.call import Call
from elman.explanation.checks.equal import Check, all_same, checked, is_ragged, same
from elman.language import say

__all__ = ["sequences", "sizes"]


def sizes(call: Call, language: str | None) -> Iterator[Check]:
    """Check axes and sizes, and what lies next in memory."""
    rows = call.rows
    yield checked(
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
    yield checked(
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
        yield checked(
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
        yield checked(
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
        yield checked(
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


def sequences(call: Call, language: str | None) -> Iterator[Check]:
    """Check what holds of sequences of different lengths, and of each alone."""
    if not is_ragged(call):
        if call.batch > 1:
            yield from _alone(call, language)
        return
    steps = torch.tensor(call.steps, device=call.device)
    padding = torch.arange(call.seq_len, device=call.device)[:, None] >= steps
    padded = "output" if call.form in ("padded", "single") else "padded"
    at = "[n, lengths[n]:]" if call.batch_first or call.form == "nested" else "[lengths[n]:, n]"
    yield checked(
        "padding_is_zero",
        f"{padded}{at} == 0",
        not call.outputs[padding].any(),
        say("output is zero past the end of a sequence.", language=language),
        language=language,
    )
    noise = torch.where(padding[..., None], torch.full_like(call.rows, 7), call.rows)
    output, states = call.run(noise, call.start, call.steps)
    yield checked(
        "padding_is_not_read",
        f"{call.name}(x.masked_fill(padding, 7)) == {call.name}(x)",
        same(output, call.outputs) and all_same(states, call.finals),
        say("What the input holds past the end of a sequence is not read.", language=language),
        language=language,
    )
    _, states = call.run(noise, call.start)
    yield checked(
        "lengths_do_not_matter",
        f"{call.name}(x, lengths=None)[1] == {call.name}(x, lengths={call.steps})[1]",
        all_same(states, call.finals),
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
            holds = holds and all_same(states, mine)
    yield checked(
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
