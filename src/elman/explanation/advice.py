"""What to do next with a layer, as lines of code that fit its configuration and have been run.

Each piece of code is run on the call that is explained, so what is printed works as it stands;
`x` is the input, `hx` the initial state if one was given, `lengths` the lengths.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import elman
from elman.explanation.call import Call
from elman.explanation.checks import call_of_last, summary
from elman.language import say
from elman.recurrent import Recurrent

__all__ = ["Advice", "advise", "run"]


@dataclass(frozen=True)
class Advice:
    """A purpose and the code for it.

    Attributes:
        key: Its name for programs.
        title: What it is for, and what to know of it.
        code: Lines of Python.
    """

    key: str
    title: str
    code: str


def advise(call: Call, language: str | None) -> list[Advice]:
    """Return what fits a call, each piece of code having been run."""
    pieces = _for_a_cell if call.is_cell else _for_a_layer
    return [advice for advice in pieces(call, language) if run(call, advice.code)]


def run(call: Call, code: str) -> bool:
    """Run code on a copy of the module of a call; whether it ran to its end."""
    names: dict[str, Any] = {
        "torch": torch,
        "elman": elman,
        call.name: copy.deepcopy(call.module),
        "x": call.input,
        "hx": call.hx,
        "lengths": call.lengths,
        "output": call.output,
        **{f"{s}_n": state for s, state in zip(call.cell.states, call.states, strict=True)},
    }
    before = torch.get_default_dtype()
    if call.dtype is not before:
        torch.set_default_dtype(call.dtype)
    try:
        with torch.enable_grad(), torch.device(call.device):
            exec(compile(code, "<elman.explain>", "exec"), names)
    except Exception:  # a class of the user's own may refuse anything
        return False
    finally:
        if call.dtype is not before:
            torch.set_default_dtype(before)
    return True


def _for_a_layer(call: Call, language: str | None) -> Iterator[Advice]:
    yield _one_vector(call, language)
    yield _loss(call, language)
    yield _other_length(call, language)
    yield _carried(call, language)
    if call.directions == 1 and call.form == "padded" and call.lengths is None:
        yield _next_value(call, language)
        yield _several_values(call, language)
    yield _learnt_start(call, language)
    if call.num_layers > 1:
        yield _lower_layers(call, language)
    yield _inside(call, language)


# --- pieces -------------------------------------------------------------------------------------


def _one_vector(call: Call, language: str | None) -> Advice:
    size = (call.batch, call.directions * call.width)[call.form == "single" :]
    axes = "N, D*H_out" if call.form != "single" else "D*H_out"
    code = f"summary = {call_of_last(call)}\n# ({axes}) = {size}"
    if min(call.steps, default=0) and call.form != "nested":
        code += f"\nassert torch.allclose(summary, {summary(call)}, atol=1e-3)"
    title = say(
        "One vector for each sequence (many to one; return_sequences=False in Keras)",
        language=language,
    )
    return Advice("last", title, code)


def _loss(call: Call, language: str | None) -> Advice:
    width = call.directions * call.width
    lines = ["classes = 7", f"head = torch.nn.Linear({width}, classes)"]
    ignored = ""
    if call.form in ("packed", "nested"):
        rows = "output.data" if call.form == "packed" else "output.values()"
        count = sum(call.steps)
        lines += [
            f"logits = head({rows})  # ({count}, 7)",
            f"targets = torch.randint(classes, ({count},))  # one for each step",
        ]
    else:
        outer = tuple(call.output.shape[:-1])
        lines += [
            f"logits = head(output)  # {(*outer, 7)}",
            f"targets = torch.randint(classes, {outer})",
        ]
        if call.form == "padded":
            lines.append("logits, targets = logits.reshape(-1, classes), targets.reshape(-1)")
        ignored = ", ignore_index=-100" if call.lengths is not None else ""
    lines.append(f"loss = torch.nn.functional.cross_entropy(logits, targets{ignored})")
    title = say(
        "A class for each step: CrossEntropyLoss takes logits (rows, classes) and targets "
        "(rows,). It has the softmax inside, so give it the output of a Linear as it is",
        language=language,
    )
    if ignored:
        title += say("; where there is padding, let targets be -100", language=language)
    return Advice("loss", title, "\n".join(lines))


def _other_length(call: Call, language: str | None) -> Advice:
    k, d, w = call.num_layers, call.directions, call.width
    hidden = d * w
    first = call.batch_first and call.form != "single"
    lines = [f"decoder = elman.GRU(7, {hidden}, num_layers={k}, batch_first={first})"]
    if d == 2:
        lines.append("start = torch.cat((h_n[0::2], h_n[1::2]), -1)  # (num_layers, N, 2*H_out)")
    else:
        lines.append("start = h_n")
    steps = call.seq_len + 2
    if call.form == "single":
        shape: tuple[int, ...] = (steps, 7)
    else:
        shape = (call.batch, steps, 7) if first else (steps, call.batch, 7)
    lines += [
        f"y = torch.zeros({shape})  # {steps} steps of what is written so far",
        "out, _ = decoder(y, start)",
    ]
    title = say(
        "Another length out than in (sequence to sequence): an encoder, whose state starts a "
        "decoder. The decoder writes one step after the other, so it has one direction",
        language=language,
    )
    if d == 2:
        title += say("; the encoder's two directions are put side by side", language=language)
    return Advice("encoder_decoder", title, "\n".join(lines))


def _carried(call: Call, language: str | None) -> Advice:
    name = call.name
    if call.directions == 2:
        title = say(
            "A stream cannot be continued in two directions: the reverse one starts at the end. "
            "Give the whole sequence, or make a layer of one direction",
            language=language,
        )
        return Advice(
            "carry",
            title,
            f"one_way = {_made(call, call.input_size)})\ncarry = elman.Carry(one_way)",
        )
    given = ", lengths=lengths" if call.lengths is not None and call.form == "padded" else ""
    lines = [
        f"carry = elman.Carry({name})",
        f"output, _ = carry(x{given})  # from zeros",
        f"output, _ = carry(x{given})  # from where the last call ended, detached",
        "carry.reset()  # an episode ends: nothing resets by itself",
    ]
    title = say(
        "State from call to call (streams, truncated backpropagation, episodes)", language=language
    )
    return Advice("carry", title, "\n".join(lines))


def _next_value(call: Call, language: str | None) -> Advice:
    size, width, name = call.input_size, call.width, call.name
    early, late = ("[:, :-1]", "[:, 1:]") if call.batch_first else ("[:-1]", "[1:]")
    step = "[:, -1:]" if call.batch_first else "[-1:]"
    lines = [f"head = torch.nn.Linear({width}, {size})"]
    if call.seq_len > 1:
        lines += [
            f"loss = torch.nn.functional.mse_loss(head(output{early}), x{late})",
            "# step t is compared with x of step t + 1; the last step has no target yet",
        ]
    states = [f"{s}_n" for s in call.cell.states]
    hx = states[0] if len(states) == 1 else f"({', '.join(states)})"
    lines += [
        f"value, hx = head(output{step}), {hx}",
        "for _ in range(3):  # beyond the data: each prediction is the next input",
        f"    out, hx = {name}(value, hx)",
        "    value = head(out)",
    ]
    title = say(
        "The next value, and further: one step ahead looks good in a plot even if it only repeats "
        "the last value, so compare with that",
        language=language,
    )
    return Advice("next_value", title, "\n".join(lines))


def _several_values(call: Call, language: str | None) -> Advice:
    lines = [
        f"head = torch.nn.Linear({call.width}, 5 * {call.input_size})",
        f"values = head(h_n[-1]).reshape({call.batch}, 5, {call.input_size})  # (N, 5, features)",
    ]
    title = say(
        "Five values at once (direct). The loop above is recursive: its errors add up. A decoder "
        "(sequence to sequence) is the third way",
        language=language,
    )
    return Advice("several_values", title, "\n".join(lines))


def _learnt_start(call: Call, language: str | None) -> Advice:
    rows, name = call.num_layers * call.directions, call.name
    names = [f"{s}_0" for s in call.cell.states]
    lines, given = [], []
    for letter, width in zip(names, call.widths, strict=True):
        lines.append(f"{letter} = torch.nn.Parameter(torch.zeros({rows}, 1, {width}))")
        given.append(
            f"{letter}[:, 0]"
            if call.form == "single"
            else f"{letter}.expand(-1, {call.batch}, -1).contiguous()"
        )
    begins = ["hx = ", *["      "] * (len(given) - 1)]
    hx = ",\n".join(begin + state for begin, state in zip(begins, given, strict=True))
    lines.append(hx if len(given) == 1 else f"hx = ({hx.removeprefix('hx = ')})")
    lengths = ", lengths" if call.lengths is not None and call.form in ("padded", "single") else ""
    lines.append(f"output, state = {name}(x, hx{lengths})")
    title = say(
        "Another initial state than zeros: it may be learnt, one for all sequences",
        language=language,
    )
    return Advice("learnt_start", title, "\n".join(lines))


# The beginning of the call that makes such a layer, for an input of a size
def _made(call: Call, size: int) -> str:
    sizes = f"{size}, {call.hidden_size}"
    if isinstance(call.module, Recurrent):
        heads = f", heads={call.heads}" if call.heads > 1 else ""
        return f"elman.Recurrent({call.name}.cell, {sizes}{heads}"
    options = f", proj_size={call.proj_size}" if call.proj_size else ""
    options += ', nonlinearity="relu"' if call.cell.name == "rnn_relu" else ""
    options += ", reset_after=False" if call.cell.reset else ""
    return f"elman.{call.title}({sizes}{options}"


def _lower_layers(call: Call, language: str | None) -> Advice:
    d, w, size = call.directions, call.width, call.input_size
    options = ", bidirectional=True" if d == 2 else ""
    options += ", batch_first=True" if call.batch_first else ""
    lengths = ", lengths=lengths" if call.lengths is not None and call.form == "padded" else ""
    lines = [
        f"lower = {_made(call, size)}{options})",
        f"upper = {_made(call, d * w)}{options})",
        f"below, _ = lower(x{lengths})  # the lower layer at every step",
        f"output, _ = upper(below{lengths})",
    ]
    title = say("The lower layers at every step: one module for each layer", language=language)
    return Advice("lower_layers", title, "\n".join(lines))


def _inside(call: Call, language: str | None) -> Advice:
    cell, is_single = call.cell, call.form == "single"
    given = f"x{', hx' * (call.hx is not None)}{', lengths=lengths' * (call.lengths is not None)}"
    lines = []
    if call.is_ours:
        lines.append(f"states = {call.name}.states({given})  # {', '.join(cell.states)}")
    if cell.values is not None or set(cell.gates) <= set(cell.states):
        letters = ", ".join(dict.fromkeys(cell.gates + cell.states))
        lines.append(f"gates = elman.gates({call.name}, {given})  # {letters}")
        if not is_single:
            first = ", batch_first=True" * call.batch_first
            lines.append(f"# elman.plot_gates(gates{first}) draws them")
    axes = "L" if is_single else "N, L" if call.batch_first else "L, N"
    lines.append(f"# each (num_layers, D, {axes}, hidden_size)")
    title = say(
        "What is inside, at every step: the states and gates of each layer and direction",
        language=language,
    )
    return Advice("inside", title, "\n".join(lines))


def _for_a_cell(call: Call, language: str | None) -> Iterator[Advice]:
    states = "h" if len(call.widths) == 1 else "h, c"
    hx = "h" if len(call.widths) == 1 else "(h, c)"
    single = call.form == "single"
    size = f"(5, {call.input_size})" if single else f"(5, {call.batch}, {call.input_size})"
    zeros = f"torch.zeros({'' if single else f'{call.batch}, '}{call.hidden_size})"
    start = zeros if len(call.widths) == 1 else f"{zeros}, {zeros}"
    lines = [
        f"steps = torch.randn{size}  # L = 5 time steps",
        f"{states} = {start}",
        "outputs = []",
        "for x_t in steps:",
        f"    {states} = {call.name}(x_t, {hx})",
        "    outputs.append(h)",
        "output = torch.stack(outputs)",
    ]
    title = say(
        "A sequence with a cell is a loop: right where each step needs the result of the last, as "
        "in a decoder. Where all steps are known, the layer is one call and faster",
        language=language,
    )
    yield Advice("loop", title, "\n".join(lines))
    kind = call.title.removesuffix("Cell")
    layer = f"layer = elman.{kind}({call.input_size}, {call.hidden_size})"
    code = f"{lines[0]}\n{layer}\noutput, hx = layer(steps)"
    yield Advice("layer", say("The same as a layer", language=language), code)
