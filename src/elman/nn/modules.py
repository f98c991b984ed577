"""What layers and cells of one step share: parameters and their reading, states, and autocast."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.fx import Proxy
from torch.nn import Module, Parameter, init
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import handle_torch_function, has_torch_function

from elman import hints, ops, shapes
from elman.cells import CELLS

__all__ = [
    "GRUS",
    "RecurrentModule",
    "as_hx",
    "asking",
    "call_of_a_stand_in",
    "cast",
    "override",
]

_PLAIN = (Tensor, Parameter)
GRUS = {True: CELLS["gru"], False: CELLS["gru_reset_before"]}
"""The cell of a GRU by its reset_after."""


class RecurrentModule(Module):
    """Parameters and their reading, for layers and cells alike."""

    hidden_size: int

    # Whether the state stays in its own dtype under autocast.
    _keeps_state_dtype = False

    # `base` is torch.nn's class of which this is one, and whose constructor is left out.
    def __init__(self, base: type[Module]) -> None:
        super(base, self).__init__()
        # Name and shape of each tensor that ops wants, None where this module has none.
        self._layout: list[tuple[str | None, tuple[int, ...] | None]] = []

    def __repr__(self) -> str:
        # What its constructor refused is printed too, by debuggers and in tracebacks.
        is_made = "_layout" in vars(self)
        return super().__repr__() if is_made else f"{type(self).__name__}(not constructed)"

    def reset_parameters(self) -> None:
        """Draw new parameters from U(-k, k) with k = 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _add(
        self, name: str, shape: tuple[int, ...] | None, device: Any, dtype: torch.dtype | None
    ) -> None:
        self._layout.append((name if shape else None, shape))
        if shape:
            weight = torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, Parameter(weight))

    def _weights(self) -> list[Any]:
        own = self._parameters
        weights: list[Any] = []
        try:
            # The usual case, on the way of every call: all in place, on the CPU.
            dtype = own[self._layout[0][0]].dtype  # type: ignore[index, union-attr]
            for name, shape in self._layout:
                if name is None:
                    weights.append(None)
                    continue
                weight: Any = own[name]
                if weight.shape != shape or weight.dtype is not dtype or not weight.is_cpu:
                    break
                weights.append(weight)
            else:
                return weights
        except (KeyError, AttributeError, RuntimeError):
            pass
        # Wrong, elsewhere, or replaced by a property or by a tensor that is not a Parameter.
        weights = [None if name is None else getattr(self, name) for name, _ in self._layout]
        shapes.check_weights(self, self._layout, weights)
        return weights

    # The state after a call as users see it; hx is what the call was given.
    def _as_state(self, hx: Any, states: Sequence[Tensor]) -> Any:
        state = as_hx(states)
        if hx is not None and not self.training and torch.is_grad_enabled():
            hints.follow(self, hx, state)
        return state

    def _autocast(self, input: Any, hx: Any, *ragged: Any) -> Any:
        # The core takes float32 and itself rounds what it multiplies, so lowering the inputs and
        # the weights before would cost time and accuracy.
        lower = torch.get_autocast_dtype("cpu")
        may_round = asking(lower)
        if self._keeps_state_dtype:
            state = input if hx is None else hx[0] if isinstance(hx, (tuple, list)) else hx
            if isinstance(state, (Tensor, PackedSequence)):
                lower = torch.promote_types(lower, state.data.dtype)
        with torch.autocast("cpu", enabled=False), may_round:  # also for weights that are computed
            dtype = self._weights()[0].dtype
            given = (cast(value, dtype) for value in (input, hx, *ragged))
            return cast(self.forward(*given), lower)


def asking(lower: torch.dtype) -> AbstractContextManager[None]:
    """Ask for products in bfloat16 where results are lowered to it, but in a graph."""
    if lower is torch.bfloat16 and not torch.compiler.is_compiling():
        return ops.asking_for_bf16()
    return nullcontext()


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast tensors as autocast does, which lets alone what is double, integer or elsewhere."""
    if isinstance(value, (Tensor, PackedSequence)):
        data = value.data
        castable = data.is_cpu and data.is_floating_point() and data.dtype is not torch.float64
        return value.to(dtype) if castable else value
    if isinstance(value, (tuple, list)):
        return tuple(cast(v, dtype) for v in value)
    return value


def override(weights: list[Any]) -> bool:
    """Return whether weights override PyTorch's functions, so that these must be given them.

    Not where they stand for others while a graph is made.
    """
    return (
        type(weights[0]) not in _PLAIN
        and has_torch_function(tuple(weights))
        and not (is_compiling() or torch._C._len_torch_dispatch_stack())
    )


def call_of_a_stand_in(module: Module, *args: Any) -> Any:
    """Return what stands for the results of a module, where something stands for its input.

    That decides by __torch_function__ what the call is; to torch.fx it is one node, as for modules
    of torch.nn.
    """
    while args[-1] is None:
        args = args[:-1]
    for value in args:
        if isinstance(value, Proxy):
            path = value.tracer.path_of_module(module)  # type: ignore[attr-defined]
            return value.tracer.create_proxy("call_module", path, args, {})
    return handle_torch_function(type(module).__call__, args, module, *args)


def as_hx(states: Sequence[Tensor]) -> Any:
    """Return a state as users see it: one tensor, or for the LSTM a pair."""
    return states[0] if len(states) == 1 else tuple(states)
