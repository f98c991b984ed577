"""Layers, directions, dropout, parameters and units."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from elman.explanation.call import Call, States
from elman.explanation.checks.equal import Check, all_same, checked, near, same
from elman.explanation.equations import of_biases
from elman.language import say

__all__ = ["dropout", "stack", "units"]


def stack(call: Call, language: str | None) -> Iterator[Check]:
    """Check a layer of several layers or directions against single ones."""
    d = call.directions
    if call.num_layers > 1 and call.rebuilt([0]) is not None:
        lower, upper = call.rebuilt([0]), call.rebuilt(range(1, call.num_layers))
        begin = tuple(state[:d] for state in call.start)
        rest = tuple(state[d:] for state in call.start)
        middle, first = call.run(call.rows, begin, call.steps, lower)
        output, others = call.run(middle, rest, call.steps, upper)
        states = tuple(torch.cat(pair) for pair in zip(first, others, strict=True))
        yield checked(
            "layers_are_stacked_modules",
            f"upper(lower(x)[0]) == {call.name}(x)",
            same(output, call.outputs) and all_same(states, call.finals),
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
        yield checked(
            "backward_is_forward_of_the_reversed_input",
            f"forward(x.flip(0))[1] == {call.name}(x)[1][-1]",
            same(ahead[0][0], call.finals[0][1]),
            no=say(
                "The reverse direction has weights of its own, with _reverse in their names.",
                language=language,
            ),
            language=language,
        )
        yield checked(
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


def dropout(call: Call, language: str | None) -> Iterator[Check]:
    """Check where dropout acts."""
    if not call.dropout:
        return
    module = copy.deepcopy(call.module).train()
    if call.num_layers == 1:
        trained, _ = call.run(call.rows, call.start, call.steps, _time_major(module))
        yield checked(
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
    yield checked(
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


def units(call: Call, language: str | None) -> Iterator[Check]:
    """Check biases, the range of units, the update gate and autocast."""
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
        said = of_biases(call, language)
        yield checked(
            "biases_act_by_their_sum",
            f"{call.name}(x; b_ih + b_hh, 0) == {call.name}(x; b_ih, b_hh)",
            same(output, call.outputs),
            said,
            said if call.cell.name == "gru" else "",
            language,
        )
    if _is_bounded(call):
        loud = call.run(1000 * call.rows, None, None if call.is_cell else call.steps)[0]
        yield checked(
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
        yield checked(
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
        yield checked(
            "bfloat16_autocast_gives_the_same",
            f"torch.autocast('cpu', torch.bfloat16): {call.name}(x)",
            near(lowered, call.output),
            say(
                "Equal to two digits, which is what bfloat16 holds. elman rounds what it "
                "multiplies, on processors that have instructions for such products, and computes "
                "all else in float32, on any processor.",
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
    yield checked(
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
        yield checked(
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
        yield checked(
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
        yield checked(
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
