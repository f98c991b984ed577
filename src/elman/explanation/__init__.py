"""Explanations: what goes in and comes out of a recurrent module, checked on the call itself.

Facts come first, in the order of the files: `call` runs the module and brings the call into one
form, `hand` computes the recurrence by its equations, `equations` has them as lines, `checks` says
what is equal and what is not, `advice` has the next lines of code, `model` the calls of a whole
model. `chapters` tells the facts in a language, as `blocks`; `picture`, `terminal` and `page` draw
them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import Module

from elman.explanation.blocks import Section, Text
from elman.explanation.call import Call, base_of, is_explainable, isolated, undisturbed
from elman.explanation.chapters import Facts, Sizes, gather, step_blocks
from elman.explanation.hand import take_step
from elman.explanation.model import call_of, flow, guesses, listen, recurrent_modules
from elman.explanation.page import fragment, page
from elman.explanation.terminal import as_text, renderables
from elman.language import get_language, known, say
from elman.quantized import QuantizedGRU, QuantizedLSTM, QuantizedRNN
from elman.shapes import KindError, ShapeError

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

__all__ = ["Explanation", "explain"]


class Explanation:
    """What `explain` returns: facts for programs, and their rendering for readers.

    Printed it is text, with colours in a terminal; a notebook shows it as a page.

    Attributes:
        shapes: The names of the axes and the size of each argument and result, by its name, such as
            {"h_n": (("D*num_layers", "N", "H_out"), (1, 16, 32))}. Of sequences that are nested, L
            is the longest. Of a model, names begin with that of the module: "encoder.h_n".
        parameters: The same of the parameters.
        checks: What was computed on this call: (key, sentence, holds). The keys are the same in
            every language.
        parts: Of a model, the explanation of each recurrent module, in the order of the calls.
        text: All of it as plain text, 80 characters wide.
        html: All of it as one page that needs nothing else.

    Example:
        >>> import elman, torch
        >>> told = elman.explain(elman.GRU(3, 4, batch_first=True), torch.randn(16, 5, 3))
        >>> told.shapes["output"]
        (('N', 'L', 'D*H_out'), (16, 5, 4))
        >>> {key: holds for key, _, holds in told.checks}["output_last_is_h_n"]
        True
    """

    def __init__(
        self,
        title: str,
        language: str,
        facts: Facts | None,
        sections: list[Section],
        parts: dict[str, "Explanation"],
        checks: list[tuple[str, str, bool]],
    ) -> None:
        self.title = title
        self.language = language
        self.parts: tuple[Explanation, ...] = tuple(parts.values())
        self._facts = facts
        self._sections = sections
        self.checks: list[tuple[str, str, bool]] = list(checks)
        self.shapes: Sizes = {}
        self.parameters: Sizes = {}
        if facts is not None:
            self.checks += [(c.key, c.sentence, c.holds) for c in facts.checks]
            self.shapes, self.parameters = dict(facts.shapes), dict(facts.parameters)
        for name, part in parts.items():
            self.checks += [(f"{name}.{key}", said, holds) for key, said, holds in part.checks]
            self.shapes |= {f"{name}.{key}": size for key, size in part.shapes.items()}
            self.parameters |= {f"{name}.{key}": size for key, size in part.parameters.items()}

    @property
    def text(self) -> str:
        """All of it as plain text, 80 characters wide."""
        return as_text(self.title, self._sections)

    @property
    def html(self) -> str:
        """All of it as one page."""
        return page(self.title, self._sections, self.language)

    def save(self, path: str | Path) -> None:
        """Write the page to a file; it needs no network and nothing beside it.

        Args:
            path: The file, which is written over.

        Raises:
            OSError: It cannot be written.

        Example:
            >>> import elman, pathlib, tempfile
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "page.html"
            >>> elman.explain(elman.RNN(3, 4)).save(path)
            >>> path.read_text(encoding="utf-8")[:15]
            '<!doctype html>'
        """
        Path(path).write_text(self.html, encoding="utf-8")

    def step(self, t: int, n: int = 0, layer: int = 0, direction: int = 0) -> "Explanation":
        """Compute one step of one sequence gate by gate, beside the numbers of the module.

        Args:
            t: Which time step, from 0; of a cell there is one, 0.
            n: Which sequence of the batch.
            layer: Which layer, 0 is the lowest.
            direction: 0 for forward, 1 for reverse.

        Returns:
            An explanation of that step, whose checks have "step_by_hand_equals_module".

        Raises:
            ShapeError: there is no such step.

        Example:
            >>> import elman
            >>> print(elman.explain(elman.RNN(3, 2)).step(t=1).checks[0][:1])
            ('step_by_hand_equals_module',)
        """
        if self._facts is None:
            raise ShapeError(
                say(
                    "explain: step is asked of one module, got a model: take one of .parts",
                    language=self.language,
                )
            )
        call = self._facts.call
        limits = {
            "n": (n, call.batch),
            "t": (t, call.steps[n] if 0 <= n < call.batch else call.seq_len),
            "layer": (layer, call.num_layers),
            "direction": (direction, call.directions),
        }
        for name, (value, limit) in limits.items():
            if not 0 <= value < limit:
                raise ShapeError(
                    say(
                        "explain: {name} must be from 0 to {most}, got {got}",
                        language=self.language,
                        name=name,
                        most=limit - 1,
                        got=value,
                    )
                )
        with undisturbed(call.module):
            step = take_step(call, t, n, layer, direction)
            blocks = step_blocks(step, call, self.language)
        said = blocks[0].text if isinstance(blocks[0], Text) else ""
        checks = [("step_by_hand_equals_module", said, step.error < 1e-4)]
        section = Section(say("One step by hand", language=self.language), blocks)
        return Explanation(self.title, self.language, None, [section], {}, checks)

    def __repr__(self) -> str:
        is_terminal = bool(getattr(sys.stdout, "isatty", bool)())
        return as_text(self.title, self._sections, colour=is_terminal).rstrip("\n")

    def __rich_console__(self, console: Any, options: Any) -> Iterator["ConsoleRenderable"]:
        yield from renderables(self.title, self._sections)

    def _repr_html_(self) -> str:
        return fragment(self.title, self._sections)


def explain(
    module: Module,
    input: Any = None,
    hx: Any = None,
    lengths: Any = None,
    lang: str | None = None,
) -> Explanation:
    """Explain a recurrent module with your own sizes: axes, states, equations, and what next.

    The module is run on the input, in evaluation mode and as a copy: its parameters, buffers, hooks
    and mode, and the random generators, are left as they are. All that is said of equal results was
    computed on this call.

    Args:
        module: A layer or cell of elman or torch.nn, or a model that has some: then each is
            explained in the order of the calls, with what goes between them.
        input: What the layer or cell takes: a tensor, a PackedSequence, a jagged nested tensor.
            For a model what it takes, several arguments as a tuple, or by name as a dictionary. If
            None, small sizes are made up.
        hx: The initial state, as the layer takes it; zeros if None.
        lengths: (N,) the steps of each sequence of a padded input. For layers of torch.nn, which
            take none, the input is packed with them.
        lang: "en" or "zh"; the chosen language if None.

    Returns:
        An `Explanation`: print it, show it in a notebook, or save it as a page.

    Raises:
        KindError: module has no recurrent layer or cell, or a quantised one, or an argument has the
            wrong type.
        ShapeError: the sizes do not fit, as the layer itself would say.
        ValueError: there is no such language.

    Example:
        >>> import elman, torch
        >>> lstm = elman.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
        >>> told = elman.explain(lstm, torch.randn(3, 5, 10), lengths=[5, 3, 0])
        >>> told.shapes["h_n"]
        (('D*num_layers', 'N', 'H_out'), (4, 3, 20))
        >>> [holds for key, _, holds in told.checks if key == "padding_is_zero"]
        [True]
    """
    language = get_language() if lang is None else known(lang)
    if not isinstance(module, Module):
        raise KindError(
            say(
                "explain: module must be a torch.nn.Module, got {kind}: give a layer, a cell, or "
                "a model that has some",
                language=language,
                kind=type(module).__name__,
            )
        )
    module = getattr(module, "_orig_mod", module)
    for name, part in module.named_modules():
        if isinstance(part, (QuantizedRNN, QuantizedLSTM, QuantizedGRU)):
            raise KindError(
                say(
                    "explain: {name} must not be quantised, since its numbers are rounded: explain "
                    "what elman.quantize was given",
                    language=language,
                    name=name or "module",
                )
            )
    if is_explainable(module):
        with undisturbed(module):
            return _of_a_module(isolated(module), input, hx, lengths, "", language)
    if not recurrent_modules(module):
        raise KindError(
            say(
                "explain: module must be a recurrent layer or cell, or have one, got {kind} "
                "without any",
                language=language,
                kind=type(module).__name__,
            )
        )
    if hx is not None or lengths is not None:
        raise KindError(
            say(
                "explain: hx and lengths are arguments of a layer, got them for {kind}: give all "
                "arguments of the model as a tuple, or by name as a dictionary",
                language=language,
                kind=type(module).__name__,
            )
        )
    with undisturbed(module):
        return _of_a_model(module, input, language)


def _of_a_module(
    module: Module, input: Any, hx: Any, lengths: Any, name: str, language: str
) -> Explanation:
    return _told(Call(module, input, hx, lengths, name, language), language)


def _told(call: Call, language: str) -> Explanation:
    facts = gather(call, language)
    return Explanation(_title(call.module, call.path), language, facts, facts.sections, {}, [])


def _title(module: Module, name: str) -> str:
    base = base_of(module)
    home = "torch.nn" if base.__module__.startswith("torch.") else "elman"
    made = f"{home}.{base.__name__}({module.extra_repr()})"
    return f"{name}: {made}" if name else made


def _of_a_model(module: Module, input: Any, language: str) -> Explanation:
    records, is_own = [], input is None
    if input is not None:
        records = listen(isolated(module), input)
    else:
        for guess in guesses(module):
            try:
                records = listen(isolated(module), guess)
            except Exception:  # whatever a model raises for what it does not take
                continue
            if any(is_explainable(record.module) for record in records):
                break
            records = []
    parts: dict[str, Explanation] = {}
    for record in records:
        if is_explainable(record.module):
            record.call = call_of(record, language)
            parts[record.name] = _told(record.call, language)
    sections: list[Section] = []
    checks: list[tuple[str, str, bool]] = []
    if parts:
        section, found = flow(records, language)
        if is_own:
            text = say(
                "No input was given, so one was made up that the model takes.", language=language
            )
            section.blocks.insert(0, Text(text))
        sections.append(section)
        checks = [(c.key, c.sentence, c.holds) for c in found]
    missing = {name: part for name, part in recurrent_modules(module).items() if name not in parts}
    for name, part in missing.items():
        parts[name] = _of_a_module(isolated(part), None, None, None, name, language)
    if missing:
        text = say(
            "Not called here, and so explained with sizes that are made up: {names}. Give explain "
            "an input that the model takes.",
            language=language,
            names=", ".join(missing),
        )
        sections.append(Section(say("What was not called", language=language), [Text(text)]))
    for name, explained in parts.items():
        sections.append(Section(f"{explained.title}", []))
        sections += [Section(f"{name}: {s.title}", s.blocks) for s in explained._sections]
    return Explanation(type(module).__name__, language, None, sections, parts, checks)
