"""The recurrent modules of a model in the order of their calls, and what goes between them.

A copy of the model is run once and its innermost modules are listened to. What one of them is given
is compared with what the others returned and with what users make of that (the last step, the last
layer's state, ...), so that its axes can be named.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from elman.explanation.blocks import Block, Checks, Section, Table, Text
from elman.explanation.call import Call, is_explainable
from elman.explanation.chapters import with_axes
from elman.explanation.checks import Check
from elman.language import say

__all__ = ["Record", "flow", "listen", "recurrent_modules"]

Axes = tuple[str, ...]


@dataclass
class Record:
    """One call of an innermost module.

    Attributes:
        name: Its name in the model.
        module: The module.
        args: What it was given by position.
        kwargs: What it was given by name.
        result: What it returned.
        axes: The names of the axes of its input and output, as far as known.
        origin: Where its input comes from.
        call: The explained call, of a recurrent module.
        count: How often it was called.
        last: What its last call returned, if it was called again.
    """

    name: str
    module: Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    axes: list[Axes | None] = field(default_factory=lambda: [None, None])
    origin: str = ""
    call: Call | None = None
    count: int = 1
    last: Any = None

    @property
    def input(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else self.kwargs.get("input")

    @property
    def has_resets(self) -> bool:
        """Whether sequences start anew within the call, which the explained call leaves out."""
        reset = self.kwargs.get("reset", self.args[3] if len(self.args) > 3 else None)
        return reset is not None


def recurrent_modules(model: Module) -> dict[str, Module]:
    """Return the recurrent layers and cells of a model by their names, each once."""
    return {name: m for name, m in model.named_modules() if is_explainable(m)}


def listen(model: Module, given: Any) -> list[Record]:
    """Run a model, a copy, and return what its innermost modules were given and returned."""
    records: list[Record] = []
    names = {
        module: name
        for name, module in model.named_modules()
        if is_explainable(module) or not any(module.children())
    }

    def heard(module: Module, args: Any, kwargs: Any, result: Any) -> None:
        known = next((r for r in records if r.module is module), None)
        if known is not None:
            known.count += 1
            known.last = torch.utils._pytree.tree_map(_kept, result)
            return
        args, kwargs, result = (
            torch.utils._pytree.tree_map(_kept, v) for v in (args, kwargs, result)
        )
        records.append(Record(names[module], module, args, kwargs, result))

    handles = [m.register_forward_hook(heard, with_kwargs=True) for m in names]
    try:
        if isinstance(given, dict):
            model(**given)
        elif isinstance(given, (tuple, list)):
            model(*given)
        else:
            model(given)
    finally:
        for handle in handles:
            handle.remove()
    return records


# What may be changed in place later on
def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) and not value.is_nested else value


def guesses(model: Module) -> Iterator[Any]:
    """Yield inputs that a model may take, judged by its first modules."""
    leaves = [m for m in model.modules() if is_explainable(m) or not any(m.children())]
    generator = torch.Generator().manual_seed(0)
    first: Any
    for first in leaves[:3]:
        if isinstance(first, nn.Embedding):
            yield torch.randint(first.num_embeddings, (3, 5), generator=generator)
        elif isinstance(first, nn.Linear):
            yield torch.randn(3, 5, first.in_features, generator=generator)
            yield torch.randn(3, first.in_features, generator=generator)
        elif is_explainable(first):
            size = first.input_size
            yield torch.randn(3, 5, size, generator=generator)
            yield torch.randn(3, size, generator=generator)
            yield torch.randn(3, 5, generator=generator)


# --- what goes between --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Known:
    """A tensor that is known, and what to call it."""

    tensor: Tensor
    axes: Axes
    text: str
    verdict: str = ""  # the key of what is to be said of whoever reads it


def _results(record: Record) -> Iterator[_Known]:
    call, name = record.call, record.name
    if call is None:
        if isinstance(record.result, Tensor) and record.axes[1] is not None:
            yield _Known(record.result, record.axes[1], _of("", name))
        return
    states = call.states
    if record.has_resets:
        states = record.result[1] if len(states) > 1 else (record.result[1],)
    if call.is_cell:
        axes = ("N", "hidden_size") if call.form != "single" else ("hidden_size",)
        for letter, state in zip("hc", states, strict=False):
            yield _Known(state, axes, _of(letter, name))
        again = record.last if isinstance(record.last, tuple) else (record.last,)
        for letter, state in zip("hc", again, strict=False):
            if state is not None:
                yield _Known(state, axes, _of(letter, name))
        return
    batch = () if call.form == "single" else ("N",)
    if call.form == "packed":
        yield _Known(call.output.data, ("steps", "D*H_out"), _of("output.data", name))
    if call.form in ("padded", "packed"):
        first = call.batch_first
        outer = ("N", "L") if first else ("L", "N")
        output = call.outputs.transpose(0, 1) if first else call.outputs
        output = record.result[0] if record.has_resets else output
        time = 1 if first else 0
        yield _Known(output, (*outer, "D*H_out"), _of("output", name))
        yield _Known(
            output.transpose(0, 1), (*outer[::-1], "D*H_out"), _of("output.transpose(0, 1)", name)
        )
        last, begin = ("[:, -1]", "[:, 0]") if first else ("[-1]", "[0]")
        verdict = (
            "two" if call.directions == 2 else "ragged" if len(set(call.steps)) > 1 else "last"
        )
        yield _Known(output.select(time, -1), ("N", "D*H_out"), _of(f"output{last}", name), verdict)
        if call.batch > 1:
            wrong = "[-1]" if first else "[:, -1]"
            yield _Known(
                output.select(1 - time, -1), ("L", "D*H_out"), _of(f"output{wrong}", name), "axis"
            )
        yield _Known(output.select(time, 0), ("N", "D*H_out"), _of(f"output{begin}", name))
        yield _Known(output.mean(time), ("N", "D*H_out"), _of(f"output.mean({time})", name))
        yield _Known(output.amax(time), ("N", "D*H_out"), _of(f"output.amax({time})", name))
        yield _Known(
            output.reshape(-1, output.shape[-1]),
            ("N*L" if first else "L*N", "D*H_out"),
            _of("output.reshape(-1, D*H_out)", name),
        )
    elif call.form == "single":
        yield _Known(call.output, ("L", "D*H_out"), _of("output", name))
        yield _Known(call.output[-1], ("D*H_out",), _of("output[-1]", name))
    for letter, state in zip(("h_n", "c_n"), states, strict=False):
        if call.directions == 2:
            both = torch.cat((state[-2], state[-1]), -1)
            yield _Known(
                both,
                (*batch, "D*H_out"),
                f"torch.cat(({name}.{letter}[-2], {name}.{letter}[-1]), -1)",
                "last",
            )
        yield _Known(state[-1], (*batch, "H_out"), _of(f"{letter}[-1]", name), "last")
        if call.num_layers * call.directions > 1:
            yield _Known(state[0], (*batch, "H_out"), _of(f"{letter}[0]", name), "lowest")
        yield _Known(state, ("D*num_layers", *batch, "H_out"), _of(letter, name), "state")


def _of(what: str, name: str) -> str:
    return f"{name}.{what}" if what else name


def connect(records: list[Record]) -> list[tuple[Record, _Known]]:
    """Name the axes of what the modules read and return; return who reads what."""
    known: list[_Known] = []
    read = []
    for record in records:
        x = record.input
        if record.call is not None:
            call = record.call
            if call.is_cell:
                record.axes[0] = ("N", "H_in") if call.form != "single" else ("H_in",)
            elif call.form == "single":
                record.axes[0] = ("L", "H_in")
            elif call.form == "padded":
                record.axes[0] = ("N", "L", "H_in") if call.batch_first else ("L", "N", "H_in")
        if isinstance(x, Tensor):
            source = next((k for k in known if _equal(k.tensor, x)), None)
            if source is not None:
                record.origin = source.text
                record.axes[0] = record.axes[0] or source.axes
                read.append((record, source))
        _forward(record)
        known += _results(record)
    for later in reversed(range(len(records))):
        for earlier in records[:later]:
            if earlier.axes[1] is None and _equal(earlier.result, records[later].input):
                earlier.axes[1] = records[later].axes[0]
                records[later].origin = earlier.name
                _backward(earlier)
    return read


def _equal(a: Any, b: Any) -> bool:
    plain = isinstance(a, Tensor) and isinstance(b, Tensor) and not a.is_nested and not b.is_nested
    return plain and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


# The last axis is what a module like Linear changes, and an Embedding adds.
def _forward(record: Record) -> None:
    axes, result = record.axes[0], record.result
    if record.call is None and axes is not None and isinstance(result, Tensor):
        if isinstance(record.module, nn.Embedding):
            record.axes[1] = (*axes, "features")
        elif result.dim() == len(axes):
            record.axes[1] = (*axes[:-1], "features")


def _backward(record: Record) -> None:
    axes = record.axes[1]
    if axes is None or not isinstance(record.input, Tensor):
        return
    if isinstance(record.module, nn.Embedding):
        record.axes[0] = axes[:-1]
    elif record.input.dim() == len(axes):
        record.axes[0] = (*axes[:-1], "features")


def flow(records: list[Record], language: str | None) -> tuple[Section, list[Check]]:
    """Return the calls of a model as they are told, and what was checked between them."""
    read = connect(records)
    rows: list[tuple[str, ...]] = []
    for record in records:
        count = f" × {record.count}" if record.count > 1 else ""
        rows.append(
            (
                f"{record.name}{count}",
                type(record.module).__name__,
                _size(record.input, record.axes[0]),
                _result_size(record),
                record.origin,
            )
        )
    checks = [check for pair in read for check in _verdicts(*pair, language)]
    checks += [check for record in records for check in _embedding(record, language)]
    blocks: list[Block] = [
        Text(
            say(
                "The modules in the order of their calls. A Linear acts on the last axis alone: "
                "the others, batch and time, go through as they are.",
                language=language,
            )
        ),
        Table(
            (
                say("name", language=language),
                say("class", language=language),
                say("in", language=language),
                say("out", language=language),
                say("from", language=language),
            ),
            rows,
        ),
    ]
    anew = [record.name for record in records if record.has_resets and record.call is not None]
    if anew:
        text = say(
            "Called with reset, where sequences start anew; explained below without: {names}.",
            language=language,
            names=", ".join(anew),
        )
        blocks.append(Text(text))
    if checks:
        blocks.append(Checks("", checks))
    return Section(say("The calls of the model", language=language), blocks), checks


def _size(value: Any, axes: Axes | None) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested:
        return f"({', '.join(axes or ('?',))})"
    if axes is None or len(axes) != value.dim():
        return str(tuple(value.shape))
    return with_axes(axes, tuple(value.shape))


def _result_size(record: Record) -> str:
    result, axes = record.result, record.axes[1]
    if record.call is not None:
        call = record.call
        result = call.output
        if call.is_cell:
            axes = ("hidden_size",) if call.form == "single" else ("N", "hidden_size")
        elif record.axes[0] is not None:
            axes = (*record.axes[0][:-1], "D*H_out")
    return _size(result, axes)


def _verdicts(record: Record, source: _Known, language: str | None) -> Iterator[Check]:
    key = f"{record.name}.reads_all_of_a_sequence"
    code = f"{record.name}({source.text})"
    reasons: dict[str, tuple[bool, Callable[[], str]]] = {
        "last": (
            True,
            lambda: say("It reads one vector that has seen all of a sequence.", language=language),
        ),
        "two": (
            False,
            lambda: say(
                "At the last step the reverse direction has read one input only: give "
                "elman.last(output, bidirectional=True), or the last two rows of h_n.",
                language=language,
            ),
        ),
        "ragged": (
            False,
            lambda: say(
                "Shorter sequences have padding there: give elman.last(output, lengths), or "
                "`h_n[-1]`.",
                language=language,
            ),
        ),
        "axis": (
            False,
            lambda: say(
                "This is the last sequence of the batch with all its steps, not the last step: "
                "mind batch_first.",
                language=language,
            ),
        ),
        "lowest": (
            False,
            lambda: say(
                "This is the lowest layer and its forward direction alone; the last layer is "
                "`h_n[-1]`.",
                language=language,
            ),
        ),
    }
    if source.verdict in reasons and record.call is None:
        holds, why = reasons[source.verdict]
        yield Check(key, code, holds, why())


def _embedding(record: Record, language: str | None) -> Iterator[Check]:
    module: Any = record.module
    if not isinstance(module, nn.Embedding) or not isinstance(record.input, Tensor):
        return
    one_hot = nn.functional.one_hot(record.input.long(), module.num_embeddings)
    product = one_hot.to(module.weight.dtype) @ module.weight
    holds = isinstance(record.result, Tensor) and torch.allclose(product, record.result, atol=1e-5)
    why = say(
        "An Embedding is a one-hot vector times its weight, without the product. It learns only "
        "if it is called inside the training loop and is given to the optimiser.",
        language=language,
    )
    yield Check(
        f"{record.name}.embedding_is_one_hot_times_weight",
        f"one_hot(x) @ {record.name}.weight == {record.name}(x)",
        holds,
        why,
    )


def call_of(record: Record, language: str | None) -> Call:
    """Return the call of a recurrent module as it was in the model."""
    hx = record.kwargs.get("hx", record.args[1] if len(record.args) > 1 else None)
    lengths = record.kwargs.get("lengths", record.args[2] if len(record.args) > 2 else None)
    module = copy.deepcopy(record.module)
    return Call(module, record.input, hx, lengths, record.name, language)
