"""A hand-written step of a recurrent cell, run on random numbers and watched while it computes.

Learners write steps in every way there is: a Linear for each gate or one for all, on x and h apart
or side by side, matrices and biases of their own, PyTorch or NumPy, rows or columns or one vector
at a time. What all have in common is that the values of the gates pass by. So nothing is asked of
the code: its intermediate results are written down, and `elman.diagnosis` finds the gates among
them by what they are worth.

What is left out: steps that compute outside PyTorch and NumPy, of which only the result is seen.
"""

import copy
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elman.language import say
from elman.shapes import KindError, ShapeError

__all__ = ["Batch", "Run", "Step"]

_SEED = 0
# Rows of a block that are several gates side by side: a layer with one matrix for x and h of an
# LSTM has 8 at most.
_MOST_BLOCKS = 8


@dataclass(frozen=True)
class Batch:
    """What a step is given: x (N, input_size), and one (N, hidden_size) for each of its states."""

    x: np.ndarray
    states: tuple[np.ndarray, ...]

    def rows(self, rows: Any) -> "Batch":
        """Return some of the rows."""
        return Batch(self.x[rows], tuple(state[rows] for state in self.states))


@dataclass
class Run:
    """What a step made of a batch.

    Attributes:
        results: The states that it returned, each (N, hidden_size).
        values: Everything it computed on the way that is (N, hidden_size), in order; of wider
            results each part of that width.
    """

    results: tuple[np.ndarray, ...]
    values: list[np.ndarray] = field(default_factory=list)


# The same one each time, and from no generator of the caller's.
def _draw(rows: int, input_size: int, hidden_size: int, states: int) -> Batch:
    random = np.random.default_rng(_SEED)
    x = random.standard_normal((rows, input_size))
    return Batch(x, tuple(random.standard_normal((rows, hidden_size)) for _ in range(states)))


class Step:
    """A step that can be called with NumPy arrays, whatever it takes itself.

    Args:
        step: a function or a module.
        states: how many states it is to take and return.
        input_size: the width of x; found by trying if None.
        hidden_size: the width of h; found by trying if None.
        renewed: whether the parameters of a module are drawn anew, in a copy. Zeros that wait for
            training, or equal values, would hide what they do.

    Raises:
        KindError: step cannot be called.
        ShapeError: no sizes were found with which it can be called.
    """

    def __init__(
        self,
        step: Any,
        states: int,
        input_size: int | None = None,
        hidden_size: int | None = None,
        renewed: bool = False,
    ) -> None:
        if not callable(step):
            raise KindError(
                say(
                    "check_cell: step must be a function or a module (x, h) -> h, got {got}",
                    got=type(step).__name__,
                )
            )
        self.holds_parameters = isinstance(step, nn.Module)
        self.states = states
        if isinstance(step, nn.Module):
            step = copy.deepcopy(step).eval().double()
            if renewed:
                _renew(step)
        self._step = step
        self._held = list(_held(step))
        self._failure: Exception | None = None
        self._call, self.input_size, self.hidden_size = self._find(input_size, hidden_size)

    @property
    def tolerance(self) -> float:
        """How much two values may differ that are the same, relative to their size."""
        return 1e-4 if self._call.kind == "float32" else 1e-8

    def draw(self) -> Batch:
        """Draw a batch with as many rows as it takes to solve for the weights of a gate."""
        widths = self.input_size + 2 * self.hidden_size
        rows = _rows(self.input_size, self.hidden_size, 2 * widths + 12)
        return _draw(rows, self.input_size, self.hidden_size, self.states)

    @property
    def takes_one_sequence(self) -> bool:
        """Whether the step takes vectors only, and no batch."""
        return self._call.layout == "vector"

    def __call__(self, batch: Batch) -> Run:
        """Run the step over a batch."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return self._call(batch, self.hidden_size)

    # The way to call the step: the first that gives states of the right shape. What gives others is
    # taken where nothing else works, for `elman.diagnosis` to say so.
    def _find(self, input_size: int | None, hidden_size: int | None) -> "tuple[_Call, int, int]":
        sizes = list(self._sizes(input_size, hidden_size))
        for layout in ("rows", "vector", "columns"):
            for (features, units), call in product(sizes, self._calls(layout)):
                batch = _draw(_rows(features, units), features, units, self.states)
                try:
                    with torch.no_grad(), torch.random.fork_rng(devices=[]):
                        run = call(batch, units)
                except Exception as error:  # whatever the step of someone else raises
                    self._failure = self._failure or error
                    continue
                if all(result.shape == batch.states[0].shape for result in run.results):
                    return call, features, units
        known = input_size is not None and hidden_size is not None
        text = say(
            "check_cell: step must take x (N, input_size) and {states}, each (N, hidden_size), and "
            "return the same states, got {got}",
            states="h" if self.states == 1 else "h, c",
            got=f"{type(self._failure).__name__}: {self._failure}"
            if self._failure
            else say("states of another shape"),
        )
        if not known:
            text += say(": say input_size= and hidden_size=")
        raise ShapeError(text) from self._failure

    def _calls(self, layout: str) -> "Iterator[_Call]":
        arrays = any(isinstance(value, np.ndarray) for value in self._held)
        tensors = any(isinstance(value, Tensor) for value in self._held)
        kinds = ["numpy"] if arrays and not tensors else ["float64", "float32", "numpy"]
        for kind in kinds:
            for packed in (False, True) if self.states > 1 else (False,):
                yield _Call(self._step, self.states, kind, layout, packed)

    def _sizes(self, input_size: int | None, hidden_size: int | None) -> Iterator[tuple[int, int]]:
        own = [getattr(self._step, name, None) for name in ("input_size", "hidden_size")]
        features, units = (
            given if given is not None else found if isinstance(found, int) else None
            for given, found in zip((input_size, hidden_size), own, strict=True)
        )
        sizes = sorted({size for value in self._held for size in value.shape if size})
        all_units = [units] if units is not None else _with_parts(sizes)
        for unit in all_units:
            both = (size - unit for size in sizes if size > unit)  # of one matrix for x and h
            all_features = [features] if features is not None else [*sizes, *both]
            for feature in dict.fromkeys(all_features):
                yield feature, unit


# Widths of one gate, if the sizes are those of one or of several.
def _with_parts(sizes: Sequence[int]) -> list[int]:
    parts = (size // part for size in sizes for part in (1, 3, 4) if size % part == 0)
    return sorted(dict.fromkeys(parts))


# How many rows show what `elman.diagnosis` solves for; a multiple of what a batch axis may be cut
# into by mistake, and no number that could be taken for a width.
def _rows(input_size: int, hidden_size: int, least: int = 12) -> int:
    rows = 12 * math.ceil(least / 12)
    widths = {input_size, input_size + hidden_size}
    widths |= {part * hidden_size for part in range(1, _MOST_BLOCKS + 1)}
    while rows in widths:
        rows += 12
    return rows


def _renew(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(_SEED)
    for parameter in module.parameters():
        bound = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


# The arrays and tensors that a step reads: a module's own, or those that a function finds where
# it was written, in itself, or in the object whose method it is.
def _held(step: Any, depth: int = 3) -> Iterator[Any]:
    if isinstance(step, (Tensor, np.ndarray)):
        yield step
    elif isinstance(step, nn.Module):
        yield from step.parameters()
        yield from step.buffers()
    elif depth == 0:
        return
    elif isinstance(step, functools.partial):
        for value in (step.func, *step.args, *step.keywords.values()):
            yield from _held(value, depth)
    elif isinstance(step, types.MethodType):
        yield from _held(step.__self__, depth)
        yield from _held(step.__func__, depth)
    elif isinstance(step, types.FunctionType):
        names = inspect.getclosurevars(step)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            yield from _held(value, depth - 1)
        for value in step.__defaults__ or ():
            yield from _held(value, depth - 1)
    elif isinstance(step, dict):
        for value in step.values():
            yield from _held(value, depth - 1)
    elif isinstance(step, (list, tuple)):
        for value in step:
            yield from _held(value, depth - 1)
    elif hasattr(step, "__dict__") and not isinstance(step, (type, types.ModuleType)):
        yield from _held(vars(step), depth)


@dataclass(frozen=True)
class _Call:
    """One way of calling a step.

    Attributes:
        step: The function.
        states: How many states it takes.
        kind: "numpy", or the dtype of the tensors it takes.
        layout: "rows" (N, F), "columns" (F, N), or "vector" (F,), once for each row.
        packed: Whether it takes its states as one tuple.
    """

    step: Callable[..., Any]
    states: int
    kind: str
    layout: str
    packed: bool

    def __call__(self, batch: Batch, units: int) -> Run:
        if self.layout == "vector":
            runs = [self._once(batch.rows(row), units) for row in range(len(batch.x))]
            return Run(
                tuple(map(np.stack, zip(*(run.results for run in runs), strict=True))),
                [np.stack(values) for values in zip(*(run.values for run in runs), strict=True)],
            )
        if self.layout == "columns":
            batch = Batch(batch.x.T, tuple(state.T for state in batch.states))
        return self._once(batch, units)

    def _once(self, batch: Batch, units: int) -> Run:
        given = (batch.x, *batch.states)
        seen: list[np.ndarray] = []
        if self.kind == "numpy":
            watched = _watched(seen)
            values = [np.array(value).view(watched) for value in given]
            results = self._apply(values)
        else:
            dtype = getattr(torch, self.kind)
            tensors = [torch.tensor(value, dtype=dtype) for value in given]
            with _Watch(seen):
                results = self._apply(tensors)
        found = [
            np.asarray(leaf.detach() if isinstance(leaf, Tensor) else leaf, dtype=np.float64)
            for leaf in tree_leaves(results)
            if isinstance(leaf, (Tensor, np.ndarray))
        ]
        # A step may return an output before its states.
        states = tuple(found[-self.states :])
        if self.layout == "columns":
            states = tuple(state.T for state in states)
        lead = batch.x.shape[:-1] if self.layout != "columns" else batch.x.shape[-1:]
        return Run(states, list(self._parts(seen, lead, units)))

    def _apply(self, values: list[Any]) -> Any:
        x, *states = values
        return self.step(x, tuple(states)) if self.packed else self.step(x, *states)

    def _parts(
        self, seen: list[np.ndarray], lead: tuple[int, ...], units: int
    ) -> Iterator[np.ndarray]:
        for value in seen:
            value = value.squeeze() if value.ndim > len(lead) + 1 else value
            value = value.T if self.layout == "columns" else value
            if value.ndim == len(lead) + 1 and value.shape[:-1] == lead:
                count, rest = divmod(value.shape[-1], units)
                if not rest and 1 <= count <= _MOST_BLOCKS:
                    yield from np.split(value, count, axis=-1)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what PyTorch computes."""

    def __init__(self, seen: list[np.ndarray]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.seen.append(leaf.detach().cpu().double().numpy().copy())
        return result


# The same for NumPy: arrays that write down what is made of them, and make more of their kind.
def _watched(seen: list[np.ndarray]) -> type[np.ndarray]:
    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(plain(item) for item in value)
        return value.view(np.ndarray) if isinstance(value, Watched) else value

    def noted(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(noted(item) for item in value)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            seen.append(np.array(value, dtype=np.float64))
            return value.view(Watched)
        return value

    class Watched(np.ndarray):
        __array_priority__ = 1000

        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
            if "out" in options:
                options["out"] = plain(options["out"])
            return noted(getattr(ufunc, method)(*plain(inputs), **options))

        def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
            named = {name: plain(value) for name, value in kwargs.items()}
            return noted(func(*plain(args), **named))

    return Watched
