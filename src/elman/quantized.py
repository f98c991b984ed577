"""Recurrent layers in int8 or bfloat16 inside any model, for inference, on the runtime's kernels.

A quantised layer is one of ours whose matrices are buffers of the stored dtype, under the names of
the parameters that they were, each in int8 beside its scales. So state dicts and model files hold
what is stored. What computes is made of them at the first call, and anew when one has changed.
"""

import copy
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from elman import core, ops, options
from elman.language import say
from elman.nn import GRU, LSTM, RNN
from elman.runtime import native
from elman.runtime.file import Stored
from elman.runtime.modules import Recurrent, make
from elman.saved import recurrent_entry, stored
from elman.shapes import KindError, Resets, ShapeError
from elman.swap import convert

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["QuantizedGRU", "QuantizedLSTM", "QuantizedRNN", "quantize"]

_DTYPES = {"I8": torch.int8, "BF16": torch.bfloat16, "F32": torch.float32}


def quantize(model: nn.Module, weights: str = "int8") -> nn.Module:
    """Return a copy of a model for inference whose recurrent layers have smaller weights.

    Layers are ours or torch.nn's, with every option; they take and give what they did: packed
    sequences, `lengths=`, `batch_first`, initial states. They compute as the same layer in a file
    of `elman.save` does: a sequence's result does not depend on the others of its batch, and has
    the same bits alone. All other modules stay as they are, and so do recurrent cells and
    subclasses of layers, of which there is a warning.

    Args:
        model: any module; it may itself be a recurrent layer. It stays as it is.
        weights: "int8", with a scale for each row of a matrix, or "bf16", whose arithmetic is that
            of float32.

    Returns:
        The copy, in evaluation mode, of which nothing requires a gradient. A quantised layer
        refuses to be trained. Its state dict holds the smaller weights; `elman.save` stores them.

    Raises:
        KindError: the model is no module, or has no recurrent layer of floats.
        ShapeError: `weights` is misspelt, or a layer is not float32 on the CPU, or has weights that
            int8 cannot hold.

    Example:
        >>> import elman, torch
        >>> model = torch.nn.ModuleDict({"encoder": torch.nn.LSTM(3, 4), "head": torch.nn.Tanh()})
        >>> elman.quantize(model).encoder
        QuantizedLSTM(3, 4, weights=int8)
    """
    if weights not in ("int8", "bf16"):
        raise ShapeError(
            say("quantize: weights must be int8 or bf16, got {got}", got=f"{weights!r:.40}")
        )
    if not isinstance(model, nn.Module):
        raise KindError(
            say("quantize: model must be a torch.nn.Module, got {got}", got=type(model).__name__)
        )
    model = copy.deepcopy(model)
    left = {entry.name: f"{entry.before}, {entry.reason}" for entry in convert(model).left}
    layers = [(name, module) for name, module in model.named_modules() if type(module) in _KINDS]
    if not layers:
        raise KindError(
            say("quantize: the model must have a recurrent layer of floats, and has none")
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNCellBase):
            left[name] = say("it is a cell")
    for name, reason in left.items():
        warnings.warn(
            say(
                "quantize: {name} stays as it is: {reason}",
                name=name or say("the model"),
                reason=reason,
            ),
            stacklevel=2,
        )
    with torch.inference_mode(False), torch.no_grad():
        for name, layer in layers:
            _change(name or say("the model"), layer, weights)
    return model.requires_grad_(False).eval()


def _change(name: str, layer: Any, weights: str) -> None:
    """Make a layer a quantised one."""
    options.refuse("quantize", layer)
    smaller: dict[str, Tensor] = {}
    for parameter, tensor in layer.state_dict().items():
        if tensor.dtype is not torch.float32 or not tensor.is_cpu:
            raise ShapeError(
                say(
                    "quantize: {name} must be float32 on the CPU, got {dtype} on {device}: use"
                    " .float() and .cpu() first",
                    name=name,
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    device=tensor.device,
                )
            )
        for full, form in stored(parameter, tensor, weights, "quantize", f"{name}.").items():
            array = torch.from_numpy(
                np.array(form.array.view(np.int16) if form.dtype == "BF16" else form.array)
            )
            smaller[full] = array.view(_DTYPES[form.dtype])
    for parameter in list(layer._parameters):
        del layer._parameters[parameter]
    layer.__class__ = _KINDS[type(layer)]
    layer.stored_as = weights
    for full, array in smaller.items():
        layer.register_buffer(full, array)


class _Quantized(nn.Module):
    """What quantised layers share: their weights, and who computes."""

    stored_as: str
    _made: Any = None  # the buffers and versions it was made of, the module, and the core's chain

    def _weights(self: Any) -> list[Any]:
        some = next(iter(self._buffers.values()))
        return [some.new_empty(0, dtype=torch.float32)]  # the dtype and device of what comes in

    def _run(
        self: Any,
        input: Tensor,
        batch_sizes: Tensor | None,
        states: tuple[Tensor, ...] | None,
        weights: list[Any],
        lengths: Tensor | None = None,
        resets: Resets | None = None,
    ) -> tuple[Tensor, ...]:
        if resets is not None:
            raise KindError(
                say(
                    "{layer} takes no reset: call it for each piece, or use the layer that it was"
                    " made of",
                    layer=type(self).__name__,
                )
            )
        if torch.is_grad_enabled() and any(t.requires_grad for t in (input, *(states or ()))):
            raise KindError(
                say(
                    "{layer} is for inference and has no gradient, but its input requires one: call"
                    " it under torch.no_grad(), or train the layer that it was made of",
                    layer=type(self).__name__,
                )
            )
        if ops.is_tracing() or not input.is_cpu:
            raise KindError(
                say(
                    "{layer} computes on the CPU and cannot be traced: use the layer that it was"
                    " made of",
                    layer=type(self).__name__,
                )
            )
        if batch_sizes is not None:
            padded, lengths = pad_packed_sequence(PackedSequence(input, batch_sizes))
            output, *final = self._run(padded, None, states, weights, lengths)
            return pack_padded_sequence(output, lengths).data, *final
        return cast("tuple[Tensor, ...]", self._computed(input, states, lengths))

    def _inside(self: Any, *_: Any) -> dict[str, Tensor]:
        raise KindError(
            say(
                "{layer} does not tell its states and gates: ask the layer that it was made of",
                layer=type(self).__name__,
            )
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _computed(
        self: Any, input: Tensor, states: tuple[Tensor, ...] | None, lengths: Tensor | None
    ) -> tuple[Tensor, ...]:
        module, chain = self._core()
        seq_len, batch = input.shape[:2]
        rows = module.num_layers * module.directions
        final = [
            input.new_zeros(rows, batch, width)
            if states is None
            else states[i].detach().clone(memory_format=torch.contiguous_format)
            for i, width in enumerate(module.state_widths)
        ]
        x = input.detach().contiguous().numpy()
        steps = None if lengths is None else lengths.cpu().contiguous().numpy()
        if chain is None:
            y, after = module.run(x, [state.numpy() for state in final], steps)
            return torch.from_numpy(y), *map(torch.from_numpy, after)
        output = input.new_empty(seq_len, batch, module.width)
        parts = [
            state[row : row + module.directions].numpy()
            for row in range(0, rows, module.directions)
            for state in final
        ]
        if not chain.run(x, steps, output.numpy(), core.get_num_threads(), parts):
            raise ShapeError(
                say(
                    "{layer}: its input must stay as it is during the call, and was changed: give"
                    " another thread a copy",
                    layer=type(self).__name__,
                )
            )
        return output, *final

    def _core(self: Any) -> tuple[Recurrent, Any]:
        """Return what computes, made of the buffers as they are now."""
        of = [(b, 0 if b.is_inference() else b._version) for b in self._buffers.values()]
        made = self._made
        if (
            made is None
            or len(made[0]) != len(of)
            or not all(a is b and v == w for (a, v), (b, w) in zip(of, made[0], strict=True))
        ):
            tensors: dict[str, Stored] = {}
            for name, tensor in self._buffers.items():
                tensors |= stored(f"layer.{name}", tensor, "float32")
            (module,) = make([{"name": "layer", **recurrent_entry(self)}], tensors)
            made = self._made = of, module, native.chain([module], np.dtype(np.float32))
        return made[1], made[2]

    def train(self, mode: bool = True) -> "Self":
        """Stay in evaluation mode.

        Raises:
            KindError: mode is true: a quantised layer cannot be trained.
        """
        if mode:
            self._refuse_training("train()")
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> "Self":
        """Stay without gradients.

        Raises:
            KindError: requires_grad is true: a quantised layer cannot be trained.
        """
        if requires_grad:
            self._refuse_training("requires_grad_()")
        return self

    def reset_parameters(self) -> None:
        """Refuse to draw weights anew.

        Raises:
            KindError: always.
        """
        self._refuse_training("reset_parameters()")

    def _refuse_training(self, call: str) -> None:
        raise KindError(
            say(
                "{layer} is for inference, and {call} was called: train the model that it was made"
                " of, and quantise that again",
                layer=type(self).__name__,
                call=call,
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_made"}

    def extra_repr(self) -> str:
        """Return the arguments as the layer prints them, and how its weights are stored."""
        return f"{super().extra_repr()}, weights={self.stored_as}"


class QuantizedRNN(_Quantized, RNN):
    """An `elman.RNN` with smaller weights, for inference; `elman.quantize` makes it."""


class QuantizedLSTM(_Quantized, LSTM):
    """An `elman.LSTM` with smaller weights, for inference; `elman.quantize` makes it."""


class QuantizedGRU(_Quantized, GRU):
    """An `elman.GRU` with smaller weights, for inference; `elman.quantize` makes it."""


_KINDS: dict[type, type] = {RNN: QuantizedRNN, LSTM: QuantizedLSTM, GRU: QuantizedGRU}
