"""Models at work: whole sequences, sessions that keep a state, and named streams.

A model is read once and never changes. A session is one state, or one for each row of a batch; any
number of sessions share the weights of their model. Nothing here imports PyTorch.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime import native
from elman.runtime.file import FileError, Stored
from elman.runtime.modules import Embedding, Floats, Module, Recurrent, make

__all__ = ["InputError", "Model", "Session", "State", "Streams", "check_format"]

_FORMAT = 1
_MARK = b"elman-state\n"
_MOST_THREADS = 1024
_MOST_ROWS = 2**31 - 1


def check_format(description: Mapping[str, Any]) -> None:
    """Refuse the description of a file of another format.

    Raises:
        FileError: it is one.
    """
    form = description.get("format")
    if type(form) is not int or form != _FORMAT:
        raise FileError(
            say(
                "the format of the file must be {format}, got {got}: it was written by a "
                "newer elman, or is none; update elman",
                format=_FORMAT,
                got=f"{form!r:.40}",
            )
        )


class Model:
    """A chain of modules with its weights.

    Args:
        description: what the file says of it.
        tensors: its weights.
        digest: the checksum of both, to which the states of its sessions belong.
        threads: as `load` takes it.

    Raises:
        FileError: the description is not complete, or does not fit the weights.
        InputError: threads is out of range.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        tensors: Mapping[str, Stored],
        digest: str,
        threads: int = 1,
    ) -> None:
        """Make the modules."""
        if type(threads) is not int or not 1 <= threads <= _MOST_THREADS:
            raise InputError(
                say(
                    "threads must be from 1 to {most}, got {got}",
                    most=_MOST_THREADS,
                    got=f"{threads!r:.40}",
                )
            )
        self._threads = threads
        check_format(description)
        entries = description.get("modules")
        if entries is None and "chains" in description:
            raise FileError(
                say(
                    "the file is a model of {job}, of several chains: load it with "
                    "elman.runtime.load",
                    job=f"{description.get('job')!r:.40}",
                )
            )
        if not isinstance(entries, list):
            raise FileError(
                say("the file must describe modules, got {got}", got=f"{entries!r:.80}")
            )
        self.description, self.digest = dict(description), digest
        self.modules: list[Module] = make(entries, tensors)
        self._recurrent = [
            (f"{i}", module)
            for i, module in enumerate(self.modules)
            if isinstance(module, Recurrent)
        ]
        self.takes_integers = isinstance(self.modules[0], Embedding)
        self.inputs: int | None = getattr(self.modules[0], "inputs", None)
        self.width = self.modules[-1].width
        self.dtype = np.dtype(
            np.float64 if any(s.dtype == "F64" for s in tensors.values()) else np.float32
        )
        self._chain = native.chain(self.modules, self.dtype)

    def run(self, x: Any, lengths: Any = None) -> Floats:
        """Run over whole sequences from zeros; no state is kept.

        Args:
            x: (L, N, inputs) numbers, or (L, N) integers where the model begins with an embedding.
            lengths: (N,) steps of each sequence, from 0 to L; None if all have L.

        Returns:
            (L, N, width). Past the end of a sequence it holds what the modules after the recurrent
            ones make of zeros.

        Raises:
            InputError: x or lengths do not fit.
        """
        return self.read(x, lengths)[0]

    def read(self, x: Any, lengths: Any = None) -> "tuple[Floats, State]":
        """Run over whole sequences from zeros, and return the state that each ends in too.

        Args:
            x: as `run` takes it.
            lengths: as `run` takes them.

        Returns:
            What `run` returns, and the state after the last step of each sequence: with two
            directions each part of it is (layers * 2, N, .), the directions of a layer in turn.

        Raises:
            InputError: x or lengths do not fit.
        """
        x = self._checked(x, ("L", "N"))
        steps = self._lengths(lengths, x.shape[0], x.shape[1])
        states = [module.zeros(x.shape[1], self.dtype) for _, module in self._recurrent]
        named = State(self.digest, dict(self._named(states)))
        if self._chain is not None:
            out = np.empty((*x.shape[:2], self.width), self.dtype)
            layers = self._layers(states)
            return _done(self._chain.run(x, steps, out, self._threads, layers), out), named
        each = iter(states)
        for module in self.modules:
            if isinstance(module, Recurrent):
                state = next(each)
                x, after = module.run(x, state, steps)
                for part, value in zip(state, after, strict=True):
                    part[...] = value
            else:
                x = module(x)
        return np.asarray(x), named

    def _named(self, states: Sequence[Sequence[Floats]]) -> Iterator[tuple[str, Floats]]:
        """Go through the parts of the states, with their names."""
        for (name, module), state in zip(self._recurrent, states, strict=True):
            for letter, part in zip(module.cell.states, state, strict=True):
                yield f"{name}.{letter}", part

    def _layers(self, states: Sequence[Sequence[Floats]]) -> list[Floats]:
        """Return the states as the core takes them, those of each layer by themselves."""
        return [
            part[layer * module.directions :][: module.directions]
            for (_, module), state in zip(self._recurrent, states, strict=True)
            for layer in range(module.num_layers)
            for part in state
        ]

    def session(self, batch: int = 1) -> "Session":
        """Return a new session, its state zeros.

        Args:
            batch: how many sequences run side by side, N.

        Raises:
            InputError: a module reads sequences from their end, or batch is not positive.
        """
        return Session(self, batch)

    def _checked(self, x: Any, axes: tuple[str, ...], batch: int | None = None) -> NDArray[Any]:
        """Return x as the modules take it; the last of `axes` is that of the batch."""
        array = _array("x", x)
        names = (*axes, *([] if self.takes_integers else [f"inputs = {self.inputs}"]))
        if array.ndim != len(names) or not (self.takes_integers or array.shape[-1] == self.inputs):
            raise InputError(
                say("x must be ({axes}), got {got}", axes=", ".join(names), got=array.shape)
            )
        if batch is not None and array.shape[len(axes) - 1] != batch:
            raise InputError(
                say(
                    "x must have a batch of {batch}, as the session, got {got}",
                    batch=batch,
                    got=array.shape,
                )
            )
        if self.takes_integers:
            symbols = self.modules[0].symbols  # type: ignore[attr-defined]
            if array.dtype.kind not in "iu":
                raise InputError(say("x must be integers, got {got}", got=array.dtype))
            if array.size and not (array.min() >= 0 and array.max() < symbols):
                raise InputError(
                    say(
                        "x must be from 0 to {most}, got {least_got} to {most_got}",
                        most=symbols - 1,
                        least_got=array.min(),
                        most_got=array.max(),
                    )
                )
            return np.require(array, np.int64, ["C", "A"])
        if array.dtype.kind not in "fiu":
            raise InputError(say("x must be numbers, got {got}", got=array.dtype))
        return np.require(array, self.dtype, ["C", "A"])

    def _lengths(self, lengths: Any, seq_len: int, batch: int) -> NDArray[np.int64] | None:
        if lengths is None:
            return None
        steps = _array("lengths", lengths)
        if steps.shape != (batch,) or steps.dtype.kind not in "iu":
            raise InputError(
                say(
                    "lengths must be (N,) = ({batch},) integers, got {got} {dtype}",
                    batch=batch,
                    got=steps.shape,
                    dtype=steps.dtype,
                )
            )
        if steps.size and not (steps.min() >= 0 and steps.max() <= seq_len):
            raise InputError(
                say(
                    "lengths must be from 0 to L = {seq_len}, got {least_got} to {most_got}",
                    seq_len=seq_len,
                    least_got=steps.min(),
                    most_got=steps.max(),
                )
            )
        return np.require(steps, np.int64, ["C", "A"])


def _array(what: str, given: Any) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            say("{what} must be an array, got {got}: {error}", what=what, got=f"{given!r:.80}",
                error=error)
        ) from error  # fmt: skip


def _done(has_run: bool, out: Floats) -> Floats:
    """Return what the core wrote; what was checked can only have been changed meanwhile."""
    if not has_run:
        raise InputError(say("x must stay as it is during the call, but another thread changed it"))
    return out


class Session:
    """A stream with its own state: `step` and `run` continue where the last call ended.

    A session is for one thread at a time; sessions of one model may run in many.

    Args:
        model: the model.
        batch: how many sequences run side by side, N.

    Raises:
        InputError: a module reads sequences from their end, or batch is not positive.
    """

    def __init__(self, model: Model, batch: int = 1) -> None:
        """Begin with zeros."""
        if type(batch) is not int or not 1 <= batch <= _MOST_ROWS:
            raise InputError(
                say(
                    "{what} must be an integer from 1 to {most}, got {got}",
                    what="batch",
                    most=_MOST_ROWS,
                    got=f"{batch!r:.40}",
                )
            )
        for _, module in model._recurrent:
            if module.directions == 2:
                raise InputError(
                    say(
                        "a session goes forwards, and this model reads sequences from their end "
                        "too: use model.run for whole sequences"
                    )
                )
        self.model, self.batch = model, batch
        self._states = [module.zeros(batch, model.dtype) for _, module in model._recurrent]
        self._native = None
        if model._chain is not None:
            self._native = native.session(model._chain, batch, model._layers(self._states))
        self._shape, self._dtype = (batch, model.width), model.dtype

    def step(self, x: Any, out: Floats | None = None) -> Floats:
        """Advance by one step.

        Args:
            x: (N, inputs) numbers, or (N,) integers where the model begins with an embedding.
            out: (N, width) where the result goes; None for a new array.

        Returns:
            (N, width), `out` if it was given.

        Raises:
            InputError: x or out does not fit; the state is as before.
        """
        if self._native is not None:  # the core looks at the arrays; all but the usual goes on
            y = np.empty(self._shape, self._dtype) if out is None else out
            if self._native.step(x, y):
                return y
        x = self.model._checked(x, ("N",), self.batch)
        self._check_out(out, self._shape)
        if self._native is None:
            y = self._run(x[None])[0]
        else:
            y = np.empty(self._shape, self._dtype)
            _done(self._native.step(x, y), y)
        return _into(out, y)

    def run(self, x: Any, out: Floats | None = None) -> Floats:
        """Advance by several steps, with the same bits as one step at a time.

        Args:
            x: (L, N, inputs), or (L, N) integers where the model begins with an embedding.
            out: (L, N, width) where the result goes; None for a new array.

        Returns:
            (L, N, width), `out` if it was given.

        Raises:
            InputError: x or out does not fit; the state is as before.
        """
        x = self.model._checked(x, ("L", "N"), self.batch)
        shape = (len(x), *self._shape)
        self._check_out(out, shape)
        if self._native is None:
            return _into(out, self._run(x))
        if out is not None and self._native.run(x, out, self.model._threads):
            return out
        y = np.empty(shape, self._dtype)
        return _into(out, _done(self._native.run(x, y, self.model._threads), y))

    def _check_out(self, out: Floats | None, shape: tuple[int, ...]) -> None:
        if out is None:
            return
        if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != self._dtype:
            raise InputError(
                say(
                    "out must be {shape} of {dtype}, got {got}",
                    shape=shape,
                    dtype=self._dtype,
                    got=f"{out!r:.80}",
                )
            )
        if not out.flags.writeable:
            raise InputError(say("out must be writeable, got an array that is not"))

    def _run(self, x: NDArray[Any]) -> Floats:
        """Advance by NumPy alone."""
        states = iter(self._states)
        after = []
        for module in self.model.modules:
            if isinstance(module, Recurrent):
                x, state = module.run(x, next(states), None)
                after.append(state)
            else:
                x = module(x)
        for state, new in zip(self._states, after, strict=True):
            for part, value in zip(state, new, strict=True):
                part[...] = value
        return np.asarray(x)

    def reset(self, rows: Any = None) -> None:
        """Set the state to zeros.

        Args:
            rows: (N,) booleans, the sequences to reset; None for all.

        Raises:
            InputError: rows does not fit.
        """
        mask = np.ones(self.batch, bool) if rows is None else _array("rows", rows)
        if mask.shape != (self.batch,) or mask.dtype != bool:
            raise InputError(
                say(
                    "rows must be ({batch},) booleans, got {got} {dtype}",
                    batch=self.batch,
                    got=mask.shape,
                    dtype=mask.dtype,
                )
            )
        for state in self._states:
            for part in state:
                part[:, mask] = 0

    def state(self) -> "State":
        """Return a copy of the state, for `State.tobytes` and `load_state`."""
        return State(self.model.digest, {name: part.copy() for name, part in self._named()})

    def load_state(self, state: "State | Mapping[str, Any] | bytes") -> None:
        """Continue from a state of a session of the same model and batch.

        Args:
            state: what `state` returned, a mapping of its arrays, or its bytes.

        Raises:
            InputError: it is of another model, batch or dtype, or damaged; the state is as before.
        """
        if isinstance(state, (bytes, bytearray, memoryview)):
            state = State.frombytes(bytes(state))
        if isinstance(state, State) and state.digest != self.model.digest:
            raise InputError(say("the state belongs to another model: its checksum differs"))
        if not isinstance(state, Mapping):
            raise InputError(
                say("the state must be a mapping of arrays, or bytes, got {got}",
                    got=f"{state!r:.80}")
            )  # fmt: skip
        own = dict(self._named())
        if set(state) != set(own):
            raise InputError(
                say(
                    "the state must have {names}, got {got}",
                    names=", ".join(own),
                    got=", ".join(map(str, state)),
                )
            )
        parts = {name: _array(name, state[name]) for name in own}
        for name, part in own.items():
            given = parts[name]
            if given.shape != part.shape or given.dtype != part.dtype:
                raise InputError(
                    say(
                        "{name} must be {shape} of {dtype}, got {got} of {got_dtype}",
                        name=name,
                        shape=part.shape,
                        dtype=part.dtype,
                        got=given.shape,
                        got_dtype=given.dtype,
                    )
                )
        for name, part in own.items():
            part[...] = parts[name]

    def fork(self) -> "Session":
        """Return a session of the same model with a copy of this state."""
        twin = Session(self.model, self.batch)
        for (_, part), (_, own) in zip(twin._named(), self._named(), strict=True):
            part[...] = own
        return twin

    def _named(self) -> Iterator[tuple[str, Floats]]:
        return self.model._named(self._states)


def _into(out: Floats | None, y: Floats) -> Floats:
    if out is None:
        return y
    out[...] = y
    return out


class State(Mapping[str, Floats]):
    """The parts of a state by name, "0.h" and "0.c" for an LSTM that is module 0.

    Each part is (layers, N, .). It belongs to a model, whose checksum it carries.

    Args:
        digest: the checksum of the model.
        parts: the arrays by name.
    """

    def __init__(self, digest: str, parts: Mapping[str, Floats]) -> None:
        """Keep the parts."""
        self.digest, self._parts = digest, dict(parts)

    def __getitem__(self, name: str) -> Floats:
        """Return a part."""
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._parts)

    def __len__(self) -> int:
        """Count the parts."""
        return len(self._parts)

    def tobytes(self) -> bytes:
        """Return the state as bytes that `Session.load_state` takes, on any machine."""
        head = {
            "model": self.digest,
            "parts": [[n, list(p.shape), p.dtype.newbyteorder("<").str] for n, p in self.items()],
        }
        return b"".join(
            (
                _MARK,
                json.dumps(head).encode(),
                b"\n",
                *(
                    np.ascontiguousarray(p, p.dtype.newbyteorder("<")).tobytes()
                    for p in self._parts.values()
                ),
            )
        )

    @staticmethod
    def frombytes(content: bytes) -> "State":
        """Read what `tobytes` wrote.

        Raises:
            InputError: it is something else, or damaged.
        """
        mark, _, rest = content.partition(b"\n")
        text, _, data = rest.partition(b"\n")
        try:
            if mark + b"\n" != _MARK:
                raise ValueError(say("it does not begin as one"))
            head = json.loads(text)
            parts, at = {}, 0
            for name, shape, dtype in head["parts"]:
                if dtype not in ("<f4", "<f8") or not all(type(n) is int and n >= 0 for n in shape):
                    raise ValueError(
                        say(
                            "its part {name} is of no kind that a state has",
                            name=f"{name!r:.40}",
                        )
                    )
                size = int(np.prod([int(n) for n in shape], dtype=object)) * int(dtype[-1])
                if at + size > len(data):
                    raise ValueError(say("it is cut short"))
                part = np.frombuffer(data[at : at + size], dtype).reshape(shape)
                parts[str(name)], at = part.astype(dtype[1:]), at + size
            if at != len(data):
                raise ValueError(say("it is too long"))
            return State(str(head["model"]), parts)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise InputError(
                say("the bytes are not a state of a session: {error}", error=error)
            ) from error


class Streams:
    """Named streams that come and go, their steps gathered into batches.

    Each stream has a state of its own, and gets the same bits as in a session by itself. Calls are
    safe from many threads; each waits for the one before.

    Args:
        model: the model.
        capacity: how many streams there may be at once.

    Raises:
        InputError: capacity is not positive, or the model cannot run as a session.
    """

    def __init__(self, model: Model, capacity: int) -> None:
        """Make room for the states."""
        self._session = Session(model, capacity)
        self._rows: dict[str, int] = {}
        self._dropped: list[int] = []
        self._unused = iter(range(capacity))
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count the streams."""
        return len(self._rows)

    def step(self, inputs: Mapping[str, Any]) -> dict[str, Floats]:
        """Advance some streams by one step; a new name begins a stream.

        Args:
            inputs: for each stream (inputs,) numbers, or an integer where the model begins with an
                embedding. A dense array of the model's dtype is read where it lies.

        Returns:
            For each stream (width,).

        Raises:
            InputError: an input does not fit, or there are more streams than capacity; all streams
                are as before.
        """
        if not isinstance(inputs, Mapping):
            raise InputError(
                say("inputs must be a mapping from names to arrays, got {got}",
                    got=f"{inputs!r:.80}")
            )  # fmt: skip
        given = dict(inputs)
        if not given:
            return {}
        with self._lock:
            native, y = self._session._native, self._outputs(len(given))
            if native is not None and native.step_named(self._rows, given, y):
                return dict(zip(given, y, strict=True))
            x = self._gathered(given)
            begun = self._begin([name for name in given if name not in self._rows])
            try:
                self._advance(self._rows | begun, dict(zip(given, x, strict=True)), y)
            except BaseException:
                self._dropped.extend(begun.values())
                raise
            self._rows.update(begun)
            return dict(zip(given, y, strict=True))

    def _outputs(self, count: int) -> Floats:
        return np.empty((count, self._session.model.width), self._session.model.dtype)

    def _gathered(self, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Return all inputs, one after another, as the model takes them."""
        model = self._session.model
        shape = () if model.takes_integers else (model.inputs,)
        arrays = [_array("x", x) for x in inputs.values()]
        for name, array in zip(inputs, arrays, strict=True):
            if array.shape != shape:
                raise InputError(
                    say(
                        "x of each stream must be {shape}, got {got} of {name}",
                        shape=shape,
                        got=array.shape,
                        name=f"{name!r:.80}",
                    )
                )
        x = model._checked(np.stack(arrays), ("N",), len(arrays))
        return x.tolist() if model.takes_integers else list(x)

    def _begin(self, names: Sequence[str]) -> dict[str, int]:
        """Return a row of zeros for each name."""
        capacity = self._session.batch
        if len(names) > capacity - len(self._rows):
            raise InputError(
                say(
                    "there is room for {capacity} streams, and {more} more than {count} "
                    "were given: drop some, or ask for more capacity",
                    capacity=capacity,
                    more=len(names),
                    count=len(self._rows),
                )
            )
        rows = [self._dropped.pop() if self._dropped else next(self._unused) for _ in names]
        for _, part in self._session._named():
            part[:, rows] = 0
        return dict(zip(names, rows, strict=True))

    def _advance(self, places: dict[str, int], inputs: dict[str, Any], out: Floats) -> None:
        """Advance the rows that have the places of the names in `inputs` by one step."""
        session = self._session
        if session._native is not None:
            _done(session._native.step_named(places, inputs, out), out)
            return
        rows = [places[name] for name in inputs]
        part = Session(session.model, len(rows))
        for (_, of_part), (_, of_all) in zip(part._named(), session._named(), strict=True):
            of_part[...] = of_all[:, rows]
        part.step(np.array(list(inputs.values())), out)
        for (_, of_part), (_, of_all) in zip(part._named(), session._named(), strict=True):
            of_all[:, rows] = of_part

    def drop(self, name: str) -> None:
        """End a stream and forget its state.

        Raises:
            InputError: there is none of that name.
        """
        with self._lock:
            self._dropped.append(self._row(name))
            del self._rows[name]

    def state(self, name: str) -> State:
        """Return a copy of a stream's state, as of a session with a batch of 1.

        Raises:
            InputError: there is none of that name.
        """
        with self._lock:
            row = self._row(name)
            parts = {n: part[:, row : row + 1].copy() for n, part in self._session._named()}
            return State(self._session.model.digest, parts)

    def load_state(self, name: str, state: State | Mapping[str, Any] | bytes) -> None:
        """Begin a stream, or set one back, with a state that a stream or session had.

        Args:
            name: the stream.
            state: as `Session.load_state` takes it, with a batch of 1.

        Raises:
            InputError: it does not fit, or there is no room; all streams are as before.
        """
        with self._lock:
            single = Session(self._session.model)
            single.load_state(state)
            begun = self._begin([] if self._has(name) else [name])
            row = begun[name] if begun else self._rows[name]
            for (_, of_all), (_, of_one) in zip(
                self._session._named(), single._named(), strict=True
            ):
                of_all[:, row] = of_one[:, 0]
            self._rows.update(begun)

    def _has(self, name: str) -> bool:
        try:
            return name in self._rows
        except TypeError as error:
            raise InputError(
                say("the name of a stream must be hashable, got {got}", got=f"{name!r:.80}")
            ) from error

    def _row(self, name: str) -> int:
        if not self._has(name):
            raise InputError(say("there is no stream {name}", name=f"{name!r:.80}"))
        return self._rows[name]
