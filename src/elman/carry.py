"""State that is carried from call to call, and training on long sequences a chunk at a time.

A layer remembers nothing: each call starts from zeros unless it is given hx. A `Carry` is a memory
beside the model, for one stream of data. What it keeps is the state in which each recurrent layer
ended its last call, one per row of the batch; each layer starts its next call from there. The
values are handed over, and the graph is not: no gradient flows from one call into the one before,
which is why memory does not grow. The state is zero, or the initial one, until the first call, and
again after `Carry.reset`, wholly or for some rows. Nothing else resets it: no epoch, no eval().

torch.utils.checkpoint computes a call once more in the backward pass, when the state has long gone
on. So a call with gradients leaves what it began with at its graph, to be found there by its input;
what cannot be told for certain is refused.

What is left out: state that a model keeps in modules of its own, which only it knows; resets in
the middle of a call; and torch.utils.checkpoint inside a carried model, which computes layers once
more without the Carry.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from numbers import Integral
from threading import get_ident
from types import FrameType
from typing import Any, TypeAlias
from weakref import ReferenceType, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.weak import WeakTensorKeyDictionary

from elman import shapes
from elman.language import say
from elman.nn import LSTM
from elman.ragged import BucketBatchSampler
from elman.shapes import KindError, ShapeError

__all__ = ["Carry", "tbptt"]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_WITH_C = (LSTM, nn.LSTM, nn.LSTMCell)

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler, BucketBatchSampler)

_States: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Layer:
    """A module whose state is carried, and what the carry has to know of it."""

    module: Module
    title: str
    is_cell: bool
    names: tuple[str, ...]  # of its states, in a state dict
    sizes: tuple[tuple[int, ...], ...]  # of its states, of one sequence

    @staticmethod
    def of(name: str, module: Any) -> "_Layer":
        is_cell = isinstance(module, nn.RNNCellBase)
        letters = "hc" if isinstance(module, _WITH_C) else "h"
        outer = () if is_cell else (module.num_layers,)
        widths = (getattr(module, "proj_size", 0) or module.hidden_size, module.hidden_size)
        return _Layer(
            module,
            title=f"{name!r} ({_kind(module)})" if name else _kind(module),
            is_cell=is_cell,
            names=tuple(f"{name}.{letter}" if name else letter for letter in letters),
            sizes=tuple((*outer, width) for _, width in zip(letters, widths, strict=False)),
        )

    def batch(self, states: _States) -> int | None:
        """Return N of a state, None if it has no batch axis."""
        state = states[0]
        return state.shape[-2] if state.dim() > len(self.sizes[0]) else None


@dataclass(eq=False)
class _Call:
    """A call whose graph is alive, so that it may be computed once more."""

    inputs: list[ReferenceType[Tensor]]
    states: dict[str, _States]  # that it began with
    is_pending: bool = True  # no backward pass has used its graph up, or part of it
    is_known: bool = True  # no other call can be meant by its inputs

    def had(self, inputs: list[Tensor]) -> bool:
        return len(self.inputs) == len(inputs) and all(
            before() is now for before, now in zip(self.inputs, inputs, strict=True)
        )


class Carry:
    """The state of a model's recurrent layers, kept between calls of the model.

    Call the carry instead of the model: it calls the model, with the same arguments and the same
    result, and within that call each recurrent layer of the model, elman's or torch.nn's, starts
    from the state it ended the last one with. The model itself is not changed: called directly, it
    starts from zeros as ever. One model may have several carries, such as one per stream, also in
    several threads.

    Any form of input goes, with lengths, packed or not, with a batch axis or without. Row n of a
    call goes on with row n of the call before, so the batch keeps its size until it is reset. A row
    of length 0 keeps its state. The model calls each layer without hx, since the carry gives it;
    where it calls one again, as it does a cell in a loop over time, it passes the state on itself,
    and what is carried is how the last of these calls ended. A call that raises leaves the carry as
    it was.

    A call may be given to torch.utils.checkpoint, as checkpoint(carry, x, use_reentrant=False): in
    the backward pass it begins once more with the state it began with, and changes nothing.

    Args:
        module: A recurrent layer or cell, or a model that has some.
        layers: Those whose state is carried; all that module has if None. The others stay as they
            are: each call starts as the model says.
        initial: The state to start from where it is reset, instead of zeros: for each tensor under
            its name in `state_dict` that of one sequence, (num_layers, features) of a layer,
            (features,) of a cell. Gradients flow to it, so it may be learnt.

    Raises:
        KindError: module or one of layers is no such module.
        ShapeError: a layer is bidirectional, so that its reverse direction would have to start from
            what comes after; there is nothing to carry; or initial does not fit the layers.

    Example:
        >>> import elman, torch
        >>> gru = elman.GRU(input_size=3, hidden_size=4)
        >>> x = torch.randn(50, 2, 3)
        >>> carry = elman.Carry(gru)
        >>> pieces = [carry(piece)[0] for piece in x.split(10)]
        >>> torch.testing.assert_close(torch.cat(pieces), gru(x)[0])
    """

    def __init__(
        self,
        module: Module,
        layers: Iterable[Module] | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not isinstance(module, Module):
            raise KindError(
                say("Carry: module must be a torch.nn.Module, got {got}", got=_kind(module))
            )
        found: dict[str, Module] = {
            name: layer for name, layer in module.named_modules() if isinstance(layer, _RECURRENT)
        }
        if layers is not None:
            wanted = list(layers)
            names = {id(layer): name for name, layer in found.items()}
            for layer in wanted:
                if id(layer) not in names:
                    raise KindError(
                        say(
                            "Carry: layers must be recurrent layers or cells within {kind}, got "
                            "{got}: they are {known}",
                            kind=_kind(module),
                            got=_kind(layer),
                            known=", ".join(map(repr, found)) or say("none"),
                        )
                    )
            found = {names[id(layer)]: layer for layer in wanted}
        if not found:
            raise ShapeError(
                say(
                    "Carry: module must have recurrent layers or cells, got {got} with none",
                    got=_kind(module),
                )
            )
        self.module = module
        self._layers = {name: _Layer.of(name, layer) for name, layer in found.items()}
        for carried in self._layers.values():
            if getattr(carried.module, "bidirectional", False):
                raise ShapeError(
                    say(
                        "Carry: {title} must have one direction, got bidirectional: the reverse "
                        "one starts where the sequence ends; leave it out of layers to start "
                        "both anew in each call",
                        title=carried.title,
                    )
                )
        self._initial = {} if initial is None else self._by_layer(initial, rows=False)
        self._states: dict[str, _States] = {}
        self._calls = 0
        # The first input of a call -> the calls with it whose graphs are alive.
        self._alive: MutableMapping[Tensor, WeakSet[_Call]] = WeakTensorKeyDictionary()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, each layer going on from where it was; return what the module returns.

        Raises:
            ShapeError: the batch, the dtype or the device is not that of the carried state, the
                model gives a layer another state, or it calls a layer twice without one; a layer
                is called by torch.utils.checkpoint within the model; or a backward pass computes
                once more what cannot be told.
        """
        is_again = torch._C._current_graph_task_id() >= 0  # a backward pass runs in this thread
        began = self._recall(_tensors((args, kwargs))) if is_again else dict(self._states)
        ended: dict[str, Any] = {}
        handles = []
        try:
            for name, layer in self._layers.items():
                give, take = self._hooks(name, began, ended)
                handles.append(layer.module.register_forward_pre_hook(give, with_kwargs=True))
                handles.append(layer.module.register_forward_hook(take))
            result = self.module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if missed := [repr(name) for name in self._layers if name not in ended]:
            raise ShapeError(
                say(
                    "Carry: {kind} must call all the layers whose state is carried, and did "
                    "not call {names}: give layers those that it calls; or, if it was "
                    "compiled and called without a carry before, call it by the carry first",
                    kind=_kind(self.module),
                    names=", ".join(missed),
                )
            )
        if is_again:
            return result
        if torch.is_grad_enabled() or len(self._alive):
            self._remember(_tensors((args, kwargs)), began, (result, ended))
        # A copy: the caller may write into what the model returned. Out of inference mode, that a
        # training can go on from it.
        with torch.inference_mode(False):
            for name, hx in ended.items():
                states = hx if isinstance(hx, tuple) else (hx,)
                self._states[name] = tuple(state.detach().clone() for state in states)
        self._calls += 1
        return result

    def reset(self, rows: Any = None) -> None:
        """Reset the state to zeros or to the initial state.

        Args:
            rows: (N,) True for each row of the batch that starts anew, the others going on. All if
                None, and then the next batch may have another size.

        Raises:
            KindError: rows are not bools.
            ShapeError: there are not N of them, or the carried state has no batch axis.

        Example:
            >>> import elman, torch
            >>> carry = elman.Carry(elman.GRU(input_size=3, hidden_size=4))
            >>> output, h_n = carry(torch.randn(5, 2, 3))
            >>> carry.reset(rows=[True, False])
            >>> torch.equal(carry.state_dict()["h"][:, 0], torch.zeros(1, 4))
            True
        """
        if rows is None:
            self._states.clear()
            return
        mask = torch.as_tensor(rows)
        if mask.dtype is not torch.bool or mask.dim() != 1:
            raise KindError(
                say(
                    "Carry: rows must be (N,) bools, got {got} of shape {shape}: give True "
                    "for each row that starts anew",
                    got=mask.dtype,
                    shape=tuple(mask.shape),
                )
            )
        fresh: dict[str, _States] = {}
        for name, states in self._states.items():
            layer = self._layers[name]
            batch = layer.batch(states)
            if batch != len(mask):
                raise ShapeError(
                    say(
                        "Carry: rows must be (N,) bools with {batch}, as the state of {title} has, "
                        "got {got}: call reset() to start it anew",
                        batch=_many(batch),
                        title=layer.title,
                        got=_many(len(mask)),
                    )
                    if batch is None
                    else say(
                        "Carry: rows must be (N,) bools with {batch}, as the state of {title} has, "
                        "got {got}",
                        batch=_many(batch),
                        title=layer.title,
                        got=_many(len(mask)),
                    )
                )
            chosen = mask.to(states[0].device).unsqueeze(1)
            starts = self._start(name, batch) or tuple(map(torch.zeros_like, states))
            fresh[name] = tuple(
                torch.where(chosen, start, state)
                for start, state in zip(starts, states, strict=True)
            )
        self._states |= fresh

    def state_dict(self) -> dict[str, Tensor]:
        """Return the carried state for a checkpoint: a tensor for each h and each c.

        Their names are those of the layers in the module and the letter, such as "rnn.h", or the
        letter alone if the module is the layer. Layers that were not called yet have none.
        """
        return {
            name: state.detach()
            for layer, states in self._states.items()
            for name, state in zip(self._layers[layer].names, states, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned.

        Args:
            state: All of the state; layers that are not in it start anew. Each tensor is copied to
                the device of its layer.

        Raises:
            KindError: something in it is not a tensor.
            ShapeError: it belongs to other layers, or is not whole; the carry is as it was.
        """
        loaded = self._by_layer(state, rows=True)
        devices = {name: next(self._layers[name].module.parameters()).device for name in loaded}
        self._states = {
            name: tuple(state.detach().clone().to(devices[name]) for state in states)
            for name, states in loaded.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_alive"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _alive=WeakTensorKeyDictionary())  # a copy has no graphs

    # Keep what a call began with for as long as there is a graph through its results.
    def _remember(self, inputs: list[Tensor], began: dict[str, _States], results: Any) -> None:
        if not inputs:
            return
        others = self._alive.setdefault(inputs[0], WeakSet())
        for other in others:
            if other.had(inputs) and not _are_same(other.states, began):
                other.is_known = False
        nodes: set[Any] = {tensor.grad_fn for tensor in _tensors(results)} - {None}
        if nodes:
            call = _Call([ref(tensor) for tensor in inputs], began)
            others.add(call)
            for node in nodes:
                node.metadata.setdefault("elman.Carry", []).append(call)

    # What the call began with that a backward pass computes once more.
    def _recall(self, inputs: list[Tensor]) -> dict[str, _States]:
        alive = self._alive.get(inputs[0], ()) if inputs else ()
        calls = [call for call in alive if call.had(inputs)]
        calls = [call for call in calls if call.is_pending] or calls
        if not calls or not all(call.is_known for call in calls):
            found = say("several that began with different states") if calls else say("none")
            raise ShapeError(
                say(
                    "Carry: a call that a backward pass computes once more must be the only "
                    "one with this input and with gradients enabled, got {got}: use "
                    "checkpoint(carry, x, use_reentrant=False), with a tensor x of its own "
                    "for each call",
                    got=found,
                )
            )
        if len(calls) == 1:  # else it began as the others did
            calls[0].is_pending = torch._C._autograd._get_current_graph_task_keep_graph()
        return calls[0].states

    # What a layer is called with and what it ended with, in this call of the module and thread.
    def _hooks(
        self, name: str, began: dict[str, _States], ended: dict[str, Any]
    ) -> tuple[Callable[..., Any], ...]:
        layer, thread = self._layers[name], get_ident()

        def is_anothers() -> bool:  # which a compiled model does not ask
            return not torch.compiler.is_compiling() and get_ident() != thread

        def give(module: Module, args: Any, kwargs: Any) -> Any:
            if is_anothers():
                return None
            given = args[1] if len(args) > 1 else kwargs.get("hx")
            if name in ended:
                if given is None:
                    raise ShapeError(
                        say(
                            "Carry: {title} must be given hx where the model calls it a second "
                            "time, got none: pass on the state it returned, or leave it out of "
                            "layers to start each call anew",
                            title=layer.title,
                        )
                    )
                return None
            if given is not None:
                raise ShapeError(
                    say(
                        "Carry: {title} must be called without hx at first, since the carry "
                        "gives it, got {got}: leave hx to the carry, or leave the layer out of "
                        "layers",
                        title=layer.title,
                        got=_kind(given),
                    )
                )
            if not torch.compiler.is_compiling() and _is_within_checkpoint():
                raise ShapeError(
                    say(
                        "Carry: {title} must not be called by torch.utils.checkpoint within the "
                        "model, since it is computed once more without the carry: give the call "
                        "of the carry to it, checkpoint(carry, x, use_reentrant=False), or leave "
                        "the layer out of layers",
                        title=layer.title,
                    )
                )
            states = self._begin(name, args[0] if args else kwargs.get("input"), began)
            if states is None:
                return None
            hx = states if len(states) > 1 else states[0]
            if len(args) > 1:
                return (args[0], hx, *args[2:]), kwargs
            return args, kwargs | {"hx": hx}

        def take(module: Module, args: Any, output: Any) -> None:
            if not is_anothers():
                ended[name] = output if layer.is_cell else output[1]

        return give, take

    # The state that a layer goes on from with this input, None for zeros.
    def _begin(self, name: str, input: Any, began: dict[str, _States]) -> _States | None:
        layer = self._layers[name]
        axes = 2 if layer.is_cell else 3  # of a batch
        batch: int | None
        if isinstance(input, PackedSequence):
            batch, input = int(input.batch_sizes[0]), input.data
        elif not isinstance(input, Tensor) or input.dim() not in (axes - 1, axes):
            return None  # the layer says what is wrong
        elif input.dim() < axes:
            batch = None
        else:
            by_row = layer.is_cell or layer.module.batch_first or input.is_nested
            batch = input.shape[0 if by_row else 1]
        states = began.get(name)
        if states is None:
            return self._start(name, batch)
        carried, state = layer.batch(states), states[0]
        if batch != carried:
            raise ShapeError(
                say(
                    "Carry: input of {title} must have {carried}, which it goes on with, got "
                    "{got}: call reset() where other sequences start, and leave out a "
                    "smaller last batch (drop_last=True)",
                    title=layer.title,
                    carried=_many(carried),
                    got=_many(batch),
                )
            )
        if state.device != input.device:
            raise ShapeError(
                say(
                    "Carry: input of {title} must have the device of the state it goes on "
                    "with, {device}, got {got}: carry.load_state_dict(carry.state_dict()) "
                    "moves that to the layer's",
                    title=layer.title,
                    device=state.device,
                    got=input.device,
                )
            )
        # Under autocast a state and an input that are not of one dtype may meet.
        if state.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise ShapeError(
                say(
                    "Carry: input of {title} must have the dtype of the state it goes on "
                    "with, {dtype}, got {got}: call reset() to start anew in another",
                    title=layer.title,
                    dtype=state.dtype,
                    got=input.dtype,
                )
            )
        return states

    # The initial state of a layer, None for zeros.
    def _start(self, name: str, batch: int | None) -> _States | None:
        states, module = self._initial.get(name), self._layers[name].module
        if states is None and getattr(module, "learn_initial_state", False):
            states = module._learnt()  # type: ignore[operator]
        if states is None or batch is None:
            return states
        return tuple(
            state.unsqueeze(-2).expand(*state.shape[:-1], batch, state.shape[-1])
            for state in states
        )

    # A state dict -> the states of each layer; with rows they may have a batch axis.
    def _by_layer(self, state: Mapping[str, Tensor], *, rows: bool) -> dict[str, _States]:
        left = dict(state)
        found: dict[str, _States] = {}
        for key, layer in self._layers.items():
            there = tuple(name for name in layer.names if name in left)
            if not there:
                continue
            if there != layer.names:
                raise ShapeError(
                    say(
                        "Carry: a state of {title} must be {names}, got {got} alone",
                        title=layer.title,
                        names=say(" and ").join(layer.names),
                        got=there[0],
                    )
                )
            for name, sizes in zip(layer.names, layer.sizes, strict=True):
                tensor = left[name]
                if not isinstance(tensor, Tensor):
                    raise KindError(
                        say(
                            "Carry: {name} must be a tensor, got {got}",
                            name=name,
                            got=_kind(tensor),
                        )
                    )
                shape = tuple(tensor.shape)
                if shape != sizes and not (rows and (*shape[:-2], *shape[-1:]) == sizes):
                    if not rows:
                        text = say(
                            "Carry: {name} must be {shape}, of one sequence, got {got}",
                            name=name,
                            shape=sizes,
                            got=shape,
                        )
                    else:
                        text = say(
                            "Carry: {name} must be {batched} or {shape}, got {got}",
                            name=name,
                            batched=str((*sizes[:-1], "N", sizes[-1])).replace("'", ""),
                            shape=sizes,
                            got=shape,
                        )
                    raise ShapeError(text)
            found[key] = tuple(left.pop(name) for name in layer.names)
        if left:
            known = ", ".join(name for layer in self._layers.values() for name in layer.names)
            raise ShapeError(
                say(
                    "Carry: the names of states must be among {known}, got {got}: they come "
                    "from another model",
                    known=known,
                    got=", ".join(map(str, left)),
                )
            )
        return found


def tbptt(
    carry: Carry,
    *data: Any,
    chunk: int,
    batch_first: bool | None = None,
    lengths: Any = None,
    resets: Any = None,
    start: int = 0,
) -> Iterator[Any]:
    """Cut long sequences into chunks, for truncated backpropagation through time.

    One pass over the data: it starts anew, by `carry.reset()`, and goes from chunk to chunk, each
    starting with the state that the one before ended with. What to do with a chunk is the body of
    the loop; it calls the carry once, and that is checked, since a chunk that went through the
    model alone would not go on.

    Args:
        carry: Calls the model, and keeps its state.
        data: Tensors (L, N, ...), or (L, ...) of one sequence, with equal L, which are cut alike;
            (N, L, ...) if batch_first. Or one DataLoader, or other iterator, of batches, each a
            tensor or several, where row n of a batch goes on with row n of the batch before: the
            state is then carried through all of them.
        chunk: Steps per chunk, the last one of a batch being shorter if need be.
        batch_first: Whether data are (N, L, ...). As the carried layers have it if None.
        lengths: (N,) the steps of each row, from 0 to L: integers. None if all have L. The steps
            left of each row, from 0 to those of the chunk, then come last in each chunk: give them
            to the layers as lengths, and rows that have ended keep their state.
        resets: (L, N), or (N, L) if batch_first, or (L,): True where a row starts anew before that
            step, as after the end of a document or an episode. A chunk ends before each, and those
            rows are reset.
        start: Chunks to leave out, to go on in the middle, with the state that `carry` then has:
            load it first.

    Returns:
        An iterator over the chunks: a tensor if data is one and there are no lengths, otherwise a
        tuple of tensors, each a view of the data.

    Raises:
        KindError: an argument has the wrong type.
        ShapeError: the data do not belong together, a number is out of range, a DataLoader
            shuffles, or the body of the loop did not call the carry once.

    Example:
        >>> import elman, torch
        >>> lstm, head = elman.LSTM(input_size=3, hidden_size=4), torch.nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD([*lstm.parameters(), *head.parameters()], lr=0.1)
        >>> input, target = torch.randn(100, 2, 3), torch.randn(100, 2, 1)
        >>> carry = elman.Carry(lstm)
        >>> for x, y in elman.tbptt(carry, input, target, chunk=35):
        ...     output, _ = carry(x)
        ...     loss = torch.nn.functional.mse_loss(head(output), y)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> len(x)  # steps of the last chunk
        30
    """
    if not isinstance(carry, Carry):
        raise KindError(
            say("tbptt: carry must be an elman.Carry, got {got}: wrap the model", got=_kind(carry))
        )
    for name, number, least in (("chunk", chunk, 1), ("start", start, 0)):
        if not isinstance(number, Integral) or isinstance(number, bool):
            raise KindError(
                say("tbptt: {name} must be an int, got {got}", name=name, got=repr(number))
            )
        if number < least:
            raise ShapeError(
                say(
                    "tbptt: {name} must be at least {least}, got {got}",
                    name=name,
                    least=least,
                    got=number,
                )
            )
    if batch_first is None:
        said = {getattr(layer.module, "batch_first", None) for layer in carry._layers.values()} - {
            None
        }
        if len(said) > 1:
            raise ShapeError(
                say(
                    "tbptt: batch_first must be given, since the carried layers differ in "
                    "it: is the data (N, L, ...)?"
                )
            )
        batch_first = said == {True}
    time = int(batch_first)
    pieces: Iterator[_Piece]
    if len(data) == 1 and isinstance(data[0], (DataLoader, Iterator)):
        if lengths is not None or resets is not None:
            raise ShapeError(
                say(
                    "tbptt: lengths and resets must be None with a loader, since each batch "
                    "would have its own, got one: call tbptt for each batch, or "
                    "carry.reset(rows) in the loop"
                )
            )
        _check_order(data[0])
        pieces = chain.from_iterable(_cut(batch, time, chunk) for batch in data[0])
    else:
        pieces = _cut(data[0] if len(data) == 1 else data, time, chunk, lengths, resets)
    return _walk(carry, pieces, start)


# A chunk, and the rows that start anew before it.
_Piece: TypeAlias = tuple[Any, Tensor | None]


def _walk(carry: Carry, pieces: Iterator[_Piece], start: int) -> Iterator[Any]:
    if not start:
        carry.reset()
    elif not carry.state_dict():
        raise ShapeError(
            say(
                "tbptt: start must be 0 where the carry has no state to go on with, got "
                "{got}: load it first, with carry.load_state_dict",
                got=start,
            )
        )
    for chunk, rows in islice(pieces, start, None):
        if rows is not None:
            carry.reset(rows if rows.dim() else None)
        before = carry._calls
        yield chunk
        if carry._calls != before + 1:
            raise ShapeError(
                say(
                    "tbptt: the body of the loop must call the carry once for each chunk, "
                    "got {got} calls: use carry(...) there instead of the model",
                    got=carry._calls - before,
                )
            )


def _cut(
    batch: Any, time: int, chunk: int, lengths: Any = None, resets: Any = None
) -> Iterator[_Piece]:
    tensors = batch if isinstance(batch, (tuple, list)) else (batch,)
    if not tensors or not all(isinstance(t, Tensor) and not t.is_nested for t in tensors):
        raise KindError(
            say(
                "tbptt: data must be tensors, or one DataLoader or iterator of batches "
                "of them, got {got}: convert arrays with torch.as_tensor",
                got=", ".join(map(_kind, tensors)) or say("nothing"),
            )
        )
    given = [tuple(tensor.shape) for tensor in tensors]
    sizes = {shape[time] if len(shape) > time else -1 for shape in given}
    if len(sizes) > 1 or -1 in sizes:
        raise ShapeError(
            say(
                "tbptt: data must be {axes} with equal L, got {got}",
                axes="(N, L, ...)" if time else "(L, ...)",
                got=", ".join(map(str, given)),
            )
        )
    (seq_len,) = sizes
    starts = {0}
    if resets is not None:
        resets = torch.as_tensor(resets)
        if resets.dtype is not torch.bool or resets.dim() not in (1, 2):
            raise KindError(
                say(
                    "tbptt: resets must be bools of two axes, or one for one sequence, got "
                    "{got} of shape {shape}",
                    got=resets.dtype,
                    shape=tuple(resets.shape),
                )
            )
        if resets.dim() == 2:
            resets = resets.transpose(0, time)  # (L, N)
        if len(resets) != seq_len:
            raise ShapeError(
                say(
                    "tbptt: resets must have L = {seq_len} steps, got {got}",
                    seq_len=seq_len,
                    got=len(resets),
                )
            )
        starts |= set(resets.reshape(len(resets), -1).any(1).nonzero().flatten().tolist())
    if lengths is not None:
        batch_size = tensors[0].shape[1 - time : 2 - time]
        lengths = shapes.check_lengths("tbptt", lengths, batch_size, seq_len)
        seq_len = int(lengths.max()) if len(lengths) else 0  # after that there is only padding

    several = isinstance(batch, (tuple, list)) or lengths is not None

    def pieces() -> Iterator[_Piece]:
        ends = sorted({step for step in starts if step < seq_len} | {seq_len})
        for begin, end in pairwise(ends):
            for first in range(begin, end, chunk):
                count = min(chunk, end - first)
                cut = tuple(tensor.narrow(time, first, count) for tensor in tensors)
                if lengths is not None:
                    cut += ((lengths - first).clamp(0, count),)
                rows = resets[first] if resets is not None and first in starts else None
                yield cut if several else cut[0], rows

    return pieces()


def _check_order(loader: Any) -> None:
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (batches, getattr(batches, "sampler", None), getattr(loader, "sampler", None)):
        # torch.utils.data.DistributedSampler has it as an attribute.
        if isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False) is True:
            raise ShapeError(
                say(
                    "tbptt: the loader must give batches in order, row n of each going on "
                    "where row n of the one before ended, got one that shuffles by {kind}: "
                    "use shuffle=False, or call tbptt for each batch, which then starts anew",
                    kind=_kind(sampler),
                )
            )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _are_same(some: dict[str, _States], other: dict[str, _States]) -> bool:
    return some.keys() == other.keys() and all(some[name] is other[name] for name in some)


# Whether torch.utils.checkpoint is between the call of a carry and here.
def _is_within_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not Carry.__call__.__code__:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


def _kind(value: object) -> str:
    return type(value).__name__


def _many(batch: int | None) -> str:
    return say("no batch axis") if batch is None else f"N = {batch}"
