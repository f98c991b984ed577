"""The recurrent layers and cells of torch.nn in a model, exchanged for ours, and back.

A module is exchanged by giving it the other class, `module.__class__ = elman.LSTM`, as PyTorch does
itself when it parametrizes a module. The object stays: its parameters and their optimisers, its
hooks with their order and handles, its flags and names, what users attached to it, and whoever
else refers to it, several parents or none. So a model that is itself an LSTM is no special case,
nor is one under torch.compile, DataParallel or DistributedDataParallel: they hold the same module,
and compiled code notices a change of class and is compiled again.

This is sound because both classes mean the same by the public attributes and by the names of the
parameters, and because what else an instance keeps is derived from these: lists of names and shapes
here, the list of flat weights there. The lists come from a fresh instance of the new class, made on
the meta device, where tensors have no memory; those of the old class are removed.

Exchanged are modules of exactly torch.nn's classes, parametrized ones among them. A subclass is
left: its methods may reach for what only torch.nn's has. What is left is in the report, with the
reason. Not dealt with are recurrent modules that do not come from torch.nn.

Our layers are instances of torch.nn.RNNBase and not of torch.nn.RNN, LSTM or GRU, for torch.compile
refuses whatever is an instance of these. Code that asks for them is out of reach but for that of
the model's own classes, which is read for it.
"""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from elman import nn, options
from elman.asks import asked_for
from elman.language import say
from elman.nn.layers import Layer
from elman.shapes import KindError

__all__ = ["Entry", "Report", "convert", "revert"]

_OURS: Mapping[type[Module], type[Module]] = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__ if hasattr(torch.nn, name)
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


@dataclass(frozen=True)
class Entry:
    """One recurrent module of a model, and whether it was replaced.

    Attributes:
        name: Where it is in the model, the first such place if it is shared; "" is the model.
        before: Its class as it was.
        after: Its class as it is; the same if it was left.
        reason: Why it was left; empty if it was replaced.
    """

    name: str
    before: str
    after: str
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Report:
    """A report of what `convert` or `revert` did; it prints as a table.

    Attributes:
        replaced: The modules that have their new class now.
        left: The recurrent modules that are as they were, each with the reason.

    Example:
        >>> import elman, torch
        >>> report = elman.convert(torch.nn.GRUCell(3, 4))
        >>> [entry.after for entry in report.replaced], report.left
        (['elman.GRUCell'], ())
    """

    replaced: tuple[Entry, ...]
    left: tuple[Entry, ...]

    def __repr__(self) -> str:
        entries = (*self.replaced, *self.left)
        if not entries:
            return say("nothing to replace")
        names = [entry.name or say("(the model)") for entry in entries]
        whats = [
            say("left: {kind}, {reason}", kind=entry.before, reason=entry.reason)
            if entry.reason
            else f"{entry.before} -> {entry.after}"
            for entry in entries
        ]
        width = max(map(len, names))
        lines = [f"{name:{width}}  {what}" for name, what in zip(names, whats, strict=True)]
        counts = say(
            "{replaced} replaced, {left} left", replaced=len(self.replaced), left=len(self.left)
        )
        return "\n".join([counts, *lines])


def convert(model: Module) -> Report:
    """Replace the recurrent layers and cells of torch.nn in a model by ours, in place.

    The modules keep their parameters, so optimisers go on, and their hooks, flags, names and
    attributes. Modules that are in several places, or in compiled or parallel wrappers, are
    replaced there too. `revert` is the way back.

    A module that would not compute the same is left as it is, and the report says why. Where a
    class of the model asks by isinstance or type for one of torch.nn's that was replaced, there is
    a warning: the answer has become no.

    Args:
        model: Any module; it may itself be a recurrent layer or cell.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        KindError: model is not a module. It is a TypeError.

    Example:
        >>> import elman, torch
        >>> model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(3, 4), "head": torch.nn.Tanh()})
        >>> elman.convert(model)
        1 replaced, 0 left
        encoder  torch.nn.LSTM -> elman.LSTM
        >>> model.encoder
        LSTM(3, 4)
        >>> elman.revert(model)
        1 replaced, 0 left
        encoder  elman.LSTM -> torch.nn.LSTM
    """
    report, exchanged = _exchange("convert", model, _OURS, _why_not_ours)
    for text in _questions(model, exchanged):
        warnings.warn(text, stacklevel=2)
    return report


def revert(model: Module) -> Report:
    """Replace our layers and cells in a model by torch.nn's, in place: undo `convert`.

    A GRU or GRUCell with reset_after=False is left, as torch.nn has none, and so is a layer with an
    option such as layer_norm.

    Args:
        model: Any module; it may itself be a recurrent layer or cell.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        KindError: model is not a module. It is a TypeError.

    Example:
        >>> import elman
        >>> model = elman.GRU(3, 4)
        >>> elman.revert(model)
        1 replaced, 0 left
        (the model)  elman.GRU -> torch.nn.GRU
        >>> type(model)
        <class 'torch.nn.modules.rnn.GRU'>
    """
    return _exchange("revert", model, _THEIRS, _why_not_theirs)[0]


def _exchange(
    who: str,
    model: Module,
    pairs: Mapping[type[Module], type[Module]],
    why_not: Callable[[Module], str | None],
) -> tuple[Report, dict[Module, type[Module]]]:
    """Return the report, and each module that was exchanged with its class before."""
    if not isinstance(model, Module):
        raise KindError(
            say(
                "{who}: model must be a torch.nn.Module, got {got}: pass the module that "
                "has the layers",
                who=who,
                got=type(model).__name__,
            )
        )
    replaced, left, changes = [], [], []
    for name, module in model.named_modules():
        reason = why_not(module)
        if reason is None:
            continue
        before = type_before_parametrizations(module)
        change = reason or _change(module, before, pairs[before])
        if isinstance(change, str):
            left.append(Entry(name, _title(before), _title(before), change))
        else:
            replaced.append(Entry(name, _title(before), _title(change.after)))
            changes.append(change)
    was = [(change.module, type(change.module), vars(change.module).copy()) for change in changes]
    try:
        for change in changes:
            change.make()
    except BaseException:  # a model is exchanged as a whole or not at all
        for module, kind, attributes in was:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        raise
    return Report(tuple(replaced), tuple(left)), {c.module: c.before for c in changes}


@dataclass(frozen=True)
class _Change:
    """A module and its new class, with what differs between instances of the two."""

    module: Module
    before: type[Module]
    after: type[Module]
    gone: frozenset[str]  # attributes
    new: dict[str, Any]

    def make(self) -> None:
        module, cls = self.module, self.after
        if is_parametrized(module):
            # It has a class of its own, or shared with its deep copies, on which each computed
            # tensor is a property.
            members = {k: v for k, v in vars(type(module)).items() if k not in _OF_EVERY_CLASS}
            cls = type(type(module).__name__, (self.after,), members)
        own = vars(module)
        for name in self.gone:
            own.pop(name, None)
        own |= self.new
        module.__class__ = cls
        if isinstance(module, torch.nn.RNNBase):  # from its parameters, as after a move
            module._init_flat_weights()


# How a module becomes one of the class after, or the reason why it does not.
def _change(module: Any, before: type[Module], after: type[Module]) -> _Change | str:
    try:
        sizes = ["input_size", "hidden_size"]
        flags = ["bias"]
        if issubclass(after, torch.nn.RNNBase):
            sizes += ["num_layers"]
            flags += ["bidirectional"]
        if getattr(module, "proj_size", 0):  # torch.nn.RNN and GRU do not take it, even 0
            sizes += ["proj_size"]
        # A cell of torch.nn keeps them as they were given.
        arguments: dict[str, Any] = {name: operator.index(getattr(module, name)) for name in sizes}
        arguments |= {name: bool(getattr(module, name)) for name in flags}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            old, new = (kind(**arguments, device="meta") for kind in (before, after))
    except Exception as error:
        return say("a {kind} of its sizes cannot be made: {error}", kind=_title(after), error=error)
    if issubclass(after, torch.nn.RNNCellBase) and not arguments["bias"]:
        for name in ("bias_ih", "bias_hh"):
            if getattr(module, name, None) is not None:
                return say("it has a {name}, and is constructed without", name=name)
    for name, expected in new.named_parameters():
        if is_parametrized(module, name):
            continue  # computed, perhaps from what changes as it is read
        weight = getattr(module, name, None)
        if not isinstance(weight, Tensor):
            return say("it has no tensor {name}", name=name)
        if weight.shape != expected.shape:
            return say(
                "its {name} is {got} and not {shape}",
                name=name,
                got=tuple(weight.shape),
                shape=tuple(expected.shape),
            )
    had, has = vars(old), vars(new)
    added = {name: has[name] for name in has.keys() - had.keys()}
    return _Change(module, before, after, frozenset(had.keys() - has.keys()), arguments | added)


# A sentence for each class of the model that asks for what modules in it were before, and are no
# more.
def _questions(model: Module, before: Mapping[Module, type[Module]]) -> Iterator[str]:
    within: dict[type, set[type[Module]]] = {}  # each class of the model -> classes before
    for container in model.modules():
        found = {before[module] for module in container.modules() if module in before}
        within.setdefault(type_before_parametrizations(container), set()).update(found)
    for kind, exchanged in within.items():
        where: dict[type, dict[str, None]] = {}  # what is asked for -> the functions that ask
        for function, theirs, is_exact in asked_for(kind) if exchanged else ():
            if theirs in exchanged and (is_exact or not issubclass(_OURS[theirs], theirs)):
                where.setdefault(theirs, {})[function] = None
        for theirs, functions in where.items():
            ours = _OURS[theirs]
            base = theirs if issubclass(ours, theirs) else torch.nn.RNNBase
            yield say(
                "convert: {kind} asks in {functions} for {theirs}, and {ours} is none: let it ask "
                "for isinstance(module, torch.nn.{base}), or go back by elman.revert",
                kind=_title(kind),
                functions=", ".join(functions),
                theirs=_title(theirs),
                ours=_title(ours),
                base=base.__name__,
            )


_OF_EVERY_CLASS = ("__dict__", "__weakref__")


# Why a module cannot become ours: "" if it can, None if there is nothing to exchange.
def _why_not_ours(module: Module) -> str | None:
    if isinstance(module, tuple(_THEIRS)):
        return None
    # A scripted module tells the class that it was made of.
    if getattr(module, "original_name", type(module).__name__) in nn.__all__:
        if isinstance(module, torch.jit.ScriptModule):
            return say("its code is fixed by TorchScript")
        if type(module).__module__.startswith("torch.ao.nn."):
            return say("it is quantized, or made to be")
    return _why_not(module, _OURS)


def _why_not_theirs(module: Module) -> str | None:
    if isinstance(module, (nn.GRU, nn.GRUCell)) and not module.reset_after:
        return say("torch.nn has no GRU with reset_after=False")
    if isinstance(module, Layer):
        for option in options.acting(module, training=False):
            return say("torch.nn has no {option}", option=option)
    return _why_not(module, _THEIRS)


def _why_not(module: Module, kinds: Mapping[type[Module], Any]) -> str | None:
    kind: Any = type_before_parametrizations(module)
    if kind not in kinds:
        base = next((base for base in kinds if isinstance(module, base)), None)
        if base is None:
            return None
        if kind.forward is base.forward:
            return say("a subclass of {kind}", kind=_title(base))
        return say("a subclass of {kind} that overrides forward", kind=_title(base))
    if "forward" in vars(module):
        return say("its forward was replaced on the instance, perhaps by one that calls the old")
    for name, parameter in module.named_parameters(recurse=False):
        if type(parameter) not in (Parameter, Tensor):
            return say(
                "its {name} is a {kind} and no plain tensor",
                name=name,
                kind=type(parameter).__name__,
            )
    return ""


def _title(kind: type) -> str:
    if kind in _OURS:
        return f"torch.nn.{kind.__name__}"
    return f"elman.{kind.__name__}" if kind in _THEIRS else f"{kind.__module__}.{kind.__qualname__}"
