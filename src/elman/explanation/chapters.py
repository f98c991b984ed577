"""The sections of an explanation, from the facts of a call and in a language."""

from dataclasses import dataclass
from math import prod
from typing import Any

from elman.explanation.advice import Advice, advise
from elman.explanation.blocks import Block, Checks, Code, Equations, Section, Table, Text
from elman.explanation.call import Call
from elman.explanation.checks import Check, check
from elman.explanation.equations import (
    activation,
    equations,
    gate_names,
    of_biases,
    parameters,
    parts,
)
from elman.explanation.hand import Step, take_step
from elman.explanation.picture import picture
from elman.language import say

__all__ = ["Facts", "gather", "sections", "step_blocks", "with_axes"]

_SMALL = 6

Sizes = dict[str, tuple[tuple[str, ...], tuple[Any, ...]]]


@dataclass(frozen=True)
class Facts:
    """What is known of a call.

    Attributes:
        call: The call.
        shapes: The names of the axes and the size of each argument and result.
        parameters: The same of each parameter.
        checks: What is equal and what is not.
        advice: What to do next.
        sections: The same as it is told.
    """

    call: Call
    shapes: Sizes
    parameters: Sizes
    checks: list[Check]
    advice: list[Advice]
    sections: list[Section]


def gather(call: Call, language: str | None) -> Facts:
    """Compute all that is told of a call."""
    groups, advice = check(call, language), advise(call, language)
    shapes = _shapes(call)
    told = sections(call, shapes, groups, advice, language)
    checks = [found for group in groups.values() for found in group]
    return Facts(call, shapes, parameters(call), checks, advice, told)


def with_axes(axes: tuple[str, ...], size: tuple[Any, ...]) -> str:
    """Return a size with the names of its axes.

    Example:
        >>> with_axes(("N", "L", "H_in"), (16, 5, 3))
        '(N=16, L=5, H_in=3)'
    """
    return f"({', '.join(f'{a}={s}' for a, s in zip(axes, size, strict=True))})"


# --- shapes -------------------------------------------------------------------------------------


def _shapes(call: Call) -> Sizes:
    out = "D*H_out"
    found: Sizes = {}
    if call.is_cell:
        batch = () if call.form == "single" else ("N",)
        found["input"] = (*batch, "H_in"), tuple(call.input.shape)
        for letter, state in zip(call.cell.states, call.states, strict=True):
            found[f"{letter}_0"] = (*batch, "hidden_size"), tuple(state.shape)
        for letter, state in zip(call.cell.states, call.states, strict=True):
            found[f"{letter}_1"] = (*batch, "hidden_size"), tuple(state.shape)
        return found
    batch = () if call.form == "single" else ("N",)
    if call.form == "packed":
        found["input.data"] = ("steps", "H_in"), tuple(call.input.data.shape)
        found["input.batch_sizes"] = ("L",), tuple(call.input.batch_sizes.shape)
    elif call.form == "nested":
        found["input"] = ("N", "L", "H_in"), (call.batch, call.seq_len, call.input_size)
    else:
        outer = ("L",) if not batch else ("N", "L") if call.batch_first else ("L", "N")
        found["input"] = (*outer, "H_in"), tuple(call.input.shape)
    letters = call.cell.states
    names = [(f"{s}_0", "hidden_size" if i else "H_out") for i, s in enumerate(letters)]
    for (name, last), state in zip(names, call.states, strict=False):
        found[name] = ("D*num_layers", *batch, last), tuple(state.shape)
    if call.lengths is not None and call.form in ("padded", "single"):
        found["lengths"] = batch, (call.batch,)[: len(batch)]
    width = call.directions * call.width
    if call.form == "packed":
        found["output.data"] = ("steps", out), tuple(call.output.data.shape)
        found["output.batch_sizes"] = ("L",), tuple(call.output.batch_sizes.shape)
    elif call.form == "nested":
        found["output"] = ("N", "L", out), (call.batch, call.seq_len, width)
    else:
        found["output"] = (*found["input"][0][:-1], out), tuple(call.output.shape)
    for (name, last), state in zip(names, call.states, strict=False):
        found[f"{name[0]}_n"] = ("D*num_layers", *batch, last), tuple(state.shape)
    return found


def _meanings(call: Call, language: str | None) -> dict[str, str]:
    begin = (
        say("the state before the first step: zeros, since hx was not given", language=language)
        if call.hx is None
        else say("the state before the first step, as it was given", language=language)
    )
    cell_state = say("the same for the cell state c", language=language)
    more = {
        f"{letter}_{end}": say("the same for the state {letter}", language=language, letter=letter)
        for letter in call.cell.states[2:]
        for end in "0n"
    }
    if call.is_cell:
        return {
            "input": say("one time step of each sequence", language=language),
            "h_0": begin,
            "c_0": cell_state,
            "h_1": say("the state after this step; it is the output too", language=language),
            "c_1": say(
                "the cell state after this step; pass both on, as (h, c)", language=language
            ),
        }
    ragged = call.lengths is not None
    rows = say("what you feed in, at every step", language=language)
    if call.form == "packed":
        rows = say("the steps of all sequences, without padding, step by step", language=language)
    output = say("the last layer's h at every step", language=language)
    if call.directions == 2:
        output = say(
            "the last layer's h at every step, forward and reverse side by side", language=language
        )
    last = (
        say("each layer's h at each sequence's own last step", language=language)
        if ragged
        else say("each layer's h at the last step", language=language)
    )
    if call.directions == 2:
        last = say("each layer's h in each direction, where that direction ends", language=language)
    return more | {
        "input": rows,
        "input.data": rows,
        "input.batch_sizes": say("how many sequences run at each step", language=language),
        "h_0": begin,
        "c_0": cell_state,
        "lengths": say("the steps of each sequence", language=language),
        "output": output,
        "output.data": output,
        "output.batch_sizes": say("as in the input", language=language),
        "h_n": last,
        "c_n": say("the same for the cell state c, which output does not have", language=language),
    }


def _axes(call: Call, language: str | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if call.form != "single":
        rows.append((f"N = {call.batch}", say("batch: sequences side by side", language=language)))
    if not call.is_cell:
        longest = call.lengths is not None
        text = (
            say("sequence length: time steps of the longest", language=language)
            if longest
            else say("sequence length: time steps, from your data", language=language)
        )
        rows.append((f"L = {call.seq_len}", text))
    rows.append(
        (f"H_in = {call.input_size}", say("features of each step, input_size", language=language))
    )
    if call.is_cell:
        rows.append(
            (f"hidden_size = {call.hidden_size}", say("features of the state", language=language))
        )
        return rows
    text = (
        say("features of h, proj_size", language=language)
        if call.proj_size
        else say("features of h, hidden_size", language=language)
    )
    rows.append((f"H_out = {call.width}", text))
    if call.proj_size:
        rows.append((f"hidden_size = {call.hidden_size}", say("features of c", language=language)))
    text = (
        say("directions: forward and reverse", language=language)
        if call.directions == 2
        else say("directions: forward only", language=language)
    )
    rows.append((f"D = {call.directions}", text))
    rows.append((f"num_layers = {call.num_layers}", say("layers, stacked", language=language)))
    return rows


# --- sections -----------------------------------------------------------------------------------


def sections(
    call: Call,
    shapes: Sizes,
    groups: dict[str, list[Check]],
    advice: list[Advice],
    language: str | None,
) -> list[Section]:
    """Return the explanation of a call."""
    told = [_in_and_out(call, shapes, language)]
    if not call.is_cell:
        told.append(Section(say("The picture", language=language), [picture(call, language)]))
    told.append(
        Section(
            say("Checked on this call", language=language),
            [
                Text(
                    say(
                        "Each line was computed just now; equal means equal but for rounding. "
                        "False stands where many expect an equation that does not hold.",
                        language=language,
                    )
                ),
                *(Checks(title, found) for title, found in groups.items()),
            ],
        )
    )
    told.append(_equations(call, language))
    told.append(_parameters(call, language))
    blocks: list[Block] = [Code(piece.title, piece.code) for piece in advice]
    if blocks:
        text = say("Each piece was run on this call.", language=language)
        told.append(Section(say("What next", language=language), [Text(text), *blocks]))
    return told


def _in_and_out(call: Call, shapes: Sizes, language: str | None) -> Section:
    blocks: list[Block] = []
    if call.is_own:
        blocks.append(
            Text(
                say(
                    "No input was given, so the sizes N and L are made up. Give yours: `{call}`.",
                    language=language,
                    call=f"elman.explain({call.name}, x)",
                )
            )
        )
    if call.was_packed:
        blocks.append(
            Text(
                say(
                    "torch.nn takes no lengths, so the input was packed with "
                    "pack_padded_sequence. elman takes lengths as they are.",
                    language=language,
                )
            )
        )
    meanings = _meanings(call, language)
    head = (
        say("name", language=language),
        say("axes and size", language=language),
        say("what it is", language=language),
    )
    arguments: list[tuple[str, ...]] = [
        (name, with_axes(*size), meanings[name])
        for name, size in shapes.items()
        if not name.endswith(("_n", "_1")) and not name.startswith("output")
    ]
    results: list[tuple[str, ...]] = [
        (name, with_axes(*size), meanings[name])
        for name, size in shapes.items()
        if name.endswith(("_n", "_1")) or name.startswith("output")
    ]
    blocks += [
        Text(say("In:", language=language)),
        Table(head, arguments),
        Text(say("Out:", language=language)),
        Table(head, results),
        Table(
            (say("axis", language=language), say("what it is", language=language)),
            _axes(call, language),
        ),
    ]
    if len(call.widths) > 1 and not call.is_cell:
        blocks.append(
            Text(
                say(
                    "The state is the tuple {names}: {count} tensors, so len() of it is {count}.",
                    language=language,
                    names=f"({', '.join(f'{s}_n' for s in call.cell.states)})",
                    count=len(call.widths),
                )
            )
        )
    return Section(say("What goes in and comes out", language=language), blocks)


def _equations(call: Call, language: str | None) -> Section:
    title = say("The equations", language=language)
    if not call.is_known:
        return Section(title, [Code(call.cell.paper, (call.cell.step.__doc__ or "").strip())])
    gates = len(call.cell.gates)
    blocks: list[Block] = [
        Text(
            say(
                "One step of the lowest layer, for one sequence, with the size of each term under "
                "it. W x is a matrix product, * is element by element, σ(a) = 1 / (1 + exp(-a)).",
                language=language,
            )
        ),
        Equations(equations(call, language)),
    ]
    if call.cell.name == "lstm":
        blocks.append(
            Text(
                say(
                    "An LSTM has {activations} activations and {gates} * hidden_size = {rows} "
                    "rows: the last tanh, of c, has no weights.",
                    language=language,
                    activations=parts(call),
                    gates=gates,
                    rows=gates * call.hidden_size,
                )
            )
        )
    if call.num_layers > 1:
        blocks.append(
            Text(
                say(
                    "In the layers above, x_t is the output of the layer below: D * H_out = "
                    "{width} features.",
                    language=language,
                    width=call.directions * call.width,
                )
            )
        )
    blocks.append(
        Text(
            say(
                "There is no y_t: the layer gives h, and a Linear after it makes the output that "
                "you want.",
                language=language,
            )
        )
    )
    live = [n for n, steps in enumerate(call.steps) if steps]
    if max(call.hidden_size, call.input_size) <= _SMALL and live and call.seq_len:
        t = 0 if call.steps[live[0]] == 1 else 1
        if call.is_cell or call.rebuilt([0]) is not None:
            blocks += step_blocks(take_step(call, t, live[0], 0, 0), call, language)
    return Section(title, blocks)


def step_blocks(step: Step, call: Call, language: str | None) -> list[Block]:
    """Return one step by hand as it is told."""
    names = gate_names(call, language)
    names |= {
        "x": say("input of this step", language=language),
        "h_prev": say("hidden state before", language=language),
        "c_prev": say("cell state before", language=language),
        "h": say("hidden state, the output", language=language),
        "c": say("cell state, kept beside h", language=language),
    }
    rows: list[tuple[str, ...]] = [
        (
            f"{symbol.removesuffix('_prev')}_(t-1)" if symbol.endswith("_prev") else f"{symbol}_t",
            names.get(symbol, ""),
            numbers(values),
        )
        for symbol, values in step.values.items()
    ]
    rows += [
        (
            f"{symbol}_t",
            say("of the module", language=language),
            numbers(values),
        )
        for symbol, values in step.module.items()
    ]
    where = f"t={step.t}, n={step.n}"
    where += "" if call.is_cell else f", layer={step.layer}, direction={step.direction}"
    return [
        Text(
            say(
                "One step by hand ({where}), gate by gate. Largest difference from the module: "
                "{error}.",
                language=language,
                where=where,
                error=f"{step.error:.0e}" if step.error else "0",
            )
        ),
        Table(
            (
                say("symbol", language=language),
                say("what it is", language=language),
                say("numbers", language=language),
            ),
            rows,
        ),
    ]


def numbers(values: Any, most: int = 6) -> str:
    """Return the first numbers of a vector.

    Example:
        >>> import torch
        >>> numbers(torch.tensor([0.5, -0.25]))
        ' 0.500 -0.250'
    """
    shown = " ".join(f"{float(v):6.3f}" for v in values[:most])
    return shown + (" ..." if len(values) > most else "")


def _parameters(call: Call, language: str | None) -> Section:
    sizes = parameters(call)
    gates, h = len(call.cell.gates), call.hidden_size
    names = gate_names(call, language)
    blocks: list[Block] = []
    if gates > 1:
        blocks.append(
            Text(
                say(
                    "Each weight and bias has one block of rows for each gate, hidden_size = "
                    "{size} rows in a block:",
                    language=language,
                    size=h,
                )
            )
        )
        blocks.append(
            Table(
                (
                    say("rows", language=language),
                    say("gate", language=language),
                    say("function", language=language),
                ),
                [
                    (
                        f"{i * h} ... {(i + 1) * h - 1}",
                        f"{gate}, {name}" if name else gate,
                        activation(call, gate),
                    )
                    for i, (gate, name) in enumerate(names.items())
                ],
            )
        )
    blocks.append(
        Table(
            (
                say("name", language=language),
                say("axes and size", language=language),
                say("how many", language=language),
            ),
            [(name, with_axes(*size), f"{prod(size[1]):,}") for name, size in sizes.items()],
        )
    )
    total = sum(prod(size) for _, size in sizes.values())
    products = sum(prod(size) for axes, size in sizes.values() if len(axes) == 2)
    blocks.append(
        Text(
            say(
                "{total} numbers, whatever the length. One step of one sequence takes {products} "
                "multiply-adds; this call has {steps} such steps.",
                language=language,
                total=f"{total:,}",
                products=f"{products:,}",
                steps=f"{sum(call.steps):,}",
            )
        )
    )
    if call.bias and call.is_known:
        blocks.append(Text(of_biases(call, language)))
    bound = h**-0.5 if h else 0.0
    blocks.append(
        Text(
            say(
                "A new module draws all of them from U(-k, k), k = 1 / sqrt(hidden_size) = "
                "{bound}. Keras begins otherwise: orthogonal recurrent weights, and 1 as the "
                "forget gate's bias; elman.from_keras takes trained weights over.",
                language=language,
                bound=f"{bound:.3f}",
            )
        )
    )
    return Section(say("The parameters", language=language), blocks)
