"""The call that is explained: a copy of the module, its arguments in one form, and its results.

Nothing of the caller is touched: the module is copied without its hooks, and computed in evaluation
mode, without gradients, and with a random generator that is put back. What the caller gave (padded,
packed, nested, one sequence) is kept as it came, and beside it stands the one form in which all is
checked: (L, N, features), with the number of steps of each sequence.

Symbols: L time steps, N sequences in the batch, D directions, H_in and H_out features per step in
and out.
"""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from elman import nn as ours
from elman import options
from elman.cells import CELLS, Cell
from elman.language import say
from elman.nn.layers import Layer
from elman.nn.steps import StepCell
from elman.recurrent import Recurrent
from elman.shapes import KindError, ShapeError

__all__ = ["RECURRENT", "Call", "base_of", "is_explainable", "isolated", "undisturbed"]

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
# where the classes stand whose equations are known
_MODULES = {kind.__module__ for kind in (Layer, StepCell, Recurrent, nn.RNNBase)}
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
# cell -> the class of layers that compute it, in elman and in torch.nn
_LAYERS = {
    **{"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM"},
    **{"gru": "GRU", "gru_reset_before": "GRU"},
}

States = tuple[Tensor, ...]


# --- leaving the caller alone -------------------------------------------------------------------


@contextmanager
def undisturbed(module: Module) -> Iterator[None]:
    """Compute without gradients and without lowering, and put the random generators back."""
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.random.fork_rng(devices=list(devices)),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def isolated(module: Module) -> Module:
    """Return a copy in evaluation mode, without hooks but those that compute weights."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    memo: dict[int, Any] = {}
    for part in module.modules():
        for name in _HOOKS:
            hooks = getattr(part, name, None)
            if hooks is not None:
                memo[id(hooks)] = OrderedDict(
                    (key, hook)
                    for key, hook in hooks.items()
                    if name == "_forward_pre_hooks"
                    and type(hook).__module__.startswith("torch.nn.utils.")
                )
        for value in vars(part).values():
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                # Weights that were computed belong to a graph, and are not copied with it.
                if isinstance(tensor, Tensor) and not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(module, memo).eval()


# A subclass may return anything: what is explained is the layer that it is made of.
def _as_its_base(module: Any) -> None:
    vars(module).pop("forward", None)  # replaced on the instance
    base = base_of(module)
    if type(module).forward is not base.forward:
        module.__class__ = base


def base_of(module: Module) -> type[Module]:
    """Return the class of elman or torch.nn whose layer or cell a module is."""
    return next(kind for kind in type(module).__mro__ if kind.__module__ in _MODULES)


# --- the call -----------------------------------------------------------------------------------


def _cell_of(module: Module) -> Cell | None:
    if hasattr(type(module), "_cell"):
        return module._cell  # type: ignore[return-value]
    if isinstance(module, nn.RNNBase):
        return CELLS.get(module.mode.lower())
    if isinstance(module, nn.RNNCell):
        return CELLS.get(f"rnn_{module.nonlinearity}")
    kinds = ((nn.LSTMCell, "lstm"), (nn.GRUCell, "gru"))
    return next((CELLS[name] for kind, name in kinds if isinstance(module, kind)), None)


def is_explainable(module: Module) -> bool:
    """Whether a module is a recurrent layer or cell whose equations are known."""
    return isinstance(module, RECURRENT) and _cell_of(module) is not None


class Call:
    """One call of a layer or cell.

    Attributes:
        module: the module that was called, a copy that is isolated.
        cell: the definition of its cell.
        title: the name of its class.
        name: what it is called in a line of code.
        is_own: whether the input was made up, since none was given.
        form: how the module took the input: "padded", "single" (one sequence), "packed" or
            "nested".
        was_packed: whether the input was packed here, for a layer that takes no lengths.
        lengths: the steps of each sequence, if the caller gave them in one way or another.
        input: the input as it was given to the module.
        hx: the initial state as it was given, or None.
        given: the arguments of the call.
        output: what the module returned first; of a cell its h.
        states: h_n and, if there is one, c_n, as the module returned them.
        rows: (L, N, H_in), the input in the one form; L = 1 for a cell.
        steps: N lengths, also if all are L.
        start: (D * num_layers, N, width) for each state, in the one form; zeros if none was given.
    """

    def __init__(
        self, module: Module, input: Any, hx: Any, lengths: Any, name: str, language: str | None
    ) -> None:
        options.refuse("explain", module)
        m: Any = module
        _as_its_base(m)
        self.module = m
        cell = _cell_of(module)
        assert cell is not None
        self.cell = cell
        self.title = base_of(module).__name__
        self.is_ours = isinstance(module, (Layer, StepCell))
        self.is_cell = isinstance(module, nn.RNNCellBase)
        self.input_size: int = m.input_size
        self.hidden_size: int = m.hidden_size
        self.num_layers: int = getattr(m, "num_layers", 1)
        self.directions = 2 if getattr(m, "bidirectional", False) else 1
        self.batch_first: bool = getattr(m, "batch_first", False)
        self.bias = bool(m.bias)
        self.dropout = float(getattr(m, "dropout", 0.0))
        self.proj_size: int = getattr(m, "proj_size", 0)
        self.width = self.proj_size or self.hidden_size
        self.widths = (self.width, *[self.hidden_size] * (len(cell.states) - 1))
        # Whether it is one of torch.nn's cells, or the GRU of the paper; of others, which users may
        # have made, less can be said.
        self.is_known = cell.is_known and cell.name in CELLS
        self.heads: int = getattr(m, "heads", 1)
        last = name.rsplit(".", 1)[-1]
        self.path = name
        self.name = last if last.isidentifier() else self.title.lower()

        weight = self.weights(0, 0)[0]
        assert weight is not None
        if weight.device.type == "meta":
            raise ShapeError(
                say(
                    "explain: the parameters of {who} must have values, and they are on the "
                    "device meta: move it with to_empty(device='cpu') and load its weights",
                    language=language,
                    who=self.title,
                )
            )
        self.dtype, self.device = weight.dtype, weight.device
        self.is_own = input is None
        if self.is_cell and lengths is not None:
            raise ShapeError(
                say(
                    "explain: a cell takes one time step and no lengths, got lengths for {who}",
                    language=language,
                    who=self.title,
                )
            )
        if input is None:
            input = self._made_up(lengths)
        self.form = "padded"
        if not isinstance(input, (Tensor, PackedSequence)):
            raise KindError(
                say(
                    "explain: input must be a tensor or a PackedSequence, got {kind}",
                    language=language,
                    kind=type(input).__name__,
                )
            )
        input = input.detach() if isinstance(input, Tensor) else _detached(input)
        self.was_packed = lengths is not None and not self.is_ours and isinstance(input, Tensor)
        if self.was_packed:
            input = self._packed(input, lengths, language)
            lengths = None
        self.input: Any = input
        self.hx = None if hx is None else _detached(hx)
        self.given = (input, self.hx) if lengths is None else (input, self.hx, lengths)
        result = module(*self.given)
        if self.is_cell:
            self.states: States = result if isinstance(result, tuple) else (result,)
            self.output: Any = self.states[0]
        else:
            self.output, state = result
            self.states = state if isinstance(state, tuple) else (state,)
        self.lengths: list[int] | None = None
        self._bring_into_one_form(lengths)

    # Sizes of its own, and no two alike where that can be.
    def _made_up(self, lengths: Any) -> Tensor:
        taken = {self.input_size, self.hidden_size, self.width, self.num_layers * self.directions}
        count = next((n for n in (3, 4, 5, 6) if n not in taken), 3)
        steps = next(n for n in (5, 6, 7, 4, 8) if n not in taken | {count} or n == 8)
        if lengths is not None:
            lengths = [int(n) for n in lengths]
            count, steps = len(lengths), max([1, *lengths])
        shape = [count, self.input_size]
        if not self.is_cell:
            shape.insert(int(self.batch_first), steps)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(
            device=self.device, dtype=self.dtype
        )

    # torch.nn's layers take no lengths: packing is their way.
    def _packed(self, input: Tensor, lengths: Any, language: str | None) -> PackedSequence:
        lengths = torch.as_tensor(lengths).cpu()
        if input.dim() == 3 and lengths.numel() and int(lengths.min()) < 1:
            raise ShapeError(
                say(
                    "explain: torch.nn.{who} takes no sequence of length 0, got lengths {got}: "
                    "use elman.{who}, which does, or leave the sequence out",
                    language=language,
                    who=self.title,
                    got=lengths.tolist(),
                )
            )
        return pack_padded_sequence(
            input, lengths, batch_first=self.batch_first, enforce_sorted=False
        )

    def _bring_into_one_form(self, lengths: Any) -> None:
        x, out, states = self.input, self.output, self.states
        if isinstance(x, PackedSequence):
            self.form = "packed"
            x, counts = pad_packed_sequence(x)
            out, _ = pad_packed_sequence(out)
            self.lengths = counts.tolist()
        elif x.is_nested:
            self.form = "nested"
            self.lengths = x.offsets().diff().tolist()
            x, out = (torch.nested.to_padded_tensor(v, 0.0).transpose(0, 1) for v in (x, out))
        elif x.dim() == (1 if self.is_cell else 2):
            self.form = "single"
            if lengths is not None:
                self.lengths = [int(torch.as_tensor(lengths))]
            side = 0 if self.is_cell else 1
            x, out = x.unsqueeze(side), out.unsqueeze(side)
            states = tuple(state.unsqueeze(side) for state in states)
        else:
            if lengths is not None:
                self.lengths = [int(n) for n in lengths]
            if self.batch_first:
                x, out = x.transpose(0, 1), out.transpose(0, 1)
        if self.is_cell:
            x, out = x.unsqueeze(0), out.unsqueeze(0)
            states = tuple(state.unsqueeze(0) for state in states)
        self.rows: Tensor = x
        self.outputs: Tensor = out
        self.finals: States = states
        self.seq_len, self.batch = x.shape[:2]
        self.steps = self.lengths or [self.seq_len] * self.batch
        self.start = self._start()

    def _start(self) -> States:
        if self.hx is None:
            outer = (self.num_layers * self.directions, self.batch)
            return tuple(self.rows.new_zeros(*outer, w, dtype=self.dtype) for w in self.widths)
        states = self.hx if isinstance(self.hx, tuple) else (self.hx,)
        if self.form == "single":
            states = tuple(state.unsqueeze(0 if self.is_cell else 1) for state in states)
        return tuple(state.unsqueeze(0) for state in states) if self.is_cell else states

    # --- parameters -----------------------------------------------------------------------------

    def kinds(self) -> tuple[str, ...]:
        """Return what parameters a layer and direction may have, without their places."""
        vectors = tuple(self.cell.vectors)
        return ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", *vectors)

    def names(self, layer: int, direction: int) -> dict[str, str]:
        """Return the names of the parameters of one layer and direction that there are, by kind."""
        weights = zip(self.kinds(), self.weights(layer, direction), strict=True)
        end = self._end(layer, direction)
        return {kind: kind + end for kind, weight in weights if weight is not None}

    def weights(self, layer: int, direction: int) -> list[Tensor | None]:
        """Return the parameters of one layer and direction in the order of `kinds`, or None."""
        end = self._end(layer, direction)
        return [getattr(self.module, kind + end, None) for kind in self.kinds()]

    def _end(self, layer: int, direction: int) -> str:
        return "" if self.is_cell else f"_l{layer}{'_reverse' if direction else ''}"

    # --- running again --------------------------------------------------------------------------

    def run(
        self,
        rows: Tensor,
        states: States | None = None,
        steps: Sequence[int] | None = None,
        module: Any = None,
    ) -> tuple[Tensor, States]:
        """Run the layer, or another one that is time-major, over input in the one form.

        Args:
            rows: (L, N, H_in).
            states: (D * num_layers, N, width) each; zeros if None.
            steps: The length of each sequence; all L if None.
            module: A time-major layer to run instead.

        Returns:
            The output, (L, N, D * H_out), and the final states, shaped as `states`.
        """
        if self.is_cell and module is None:
            return self._run_cell(rows, states)
        turned = module is None and self.batch_first
        layer = self.module if module is None else module
        hx = None if states is None else states if len(self.widths) > 1 else states[0]
        if steps is not None and any(n != len(rows) for n in steps):
            if not isinstance(layer, Layer):
                return self._run_packed(layer, rows, states, steps)
            x = rows.transpose(0, 1) if turned else rows
            output, final = layer(x, hx, list(steps))
        else:
            output, final = layer(rows.transpose(0, 1) if turned else rows, hx)
        output = output.transpose(0, 1) if turned else output
        return output, final if isinstance(final, tuple) else (final,)

    def _run_cell(self, rows: Tensor, states: States | None) -> tuple[Tensor, States]:
        hx: Any = None
        if states is not None:
            hx = tuple(state[0] for state in states)
            hx = hx if len(hx) > 1 else hx[0]
        outputs = []
        for x in rows:
            hx = self.module(x, hx)
            outputs.append(hx[0] if isinstance(hx, tuple) else hx)
        final = hx if isinstance(hx, tuple) else (hx,)
        return torch.stack(outputs), tuple(state.unsqueeze(0) for state in final)

    # Sequences without a step cannot be packed: they are left out, and keep their state.
    def _run_packed(
        self, layer: Any, rows: Tensor, states: States | None, steps: Sequence[int]
    ) -> tuple[Tensor, States]:
        live = [n for n, count in enumerate(steps) if count]
        begin = states or tuple(
            rows.new_zeros(layer.num_layers * (1 + layer.bidirectional), rows.shape[1], w)
            for w in self.widths
        )
        width = self.width * (1 + layer.bidirectional)
        output = rows.new_zeros(*rows.shape[:2], width)
        final = tuple(state.clone() for state in begin)
        if live:
            packed = pack_padded_sequence(
                rows[:, live], [steps[n] for n in live], enforce_sorted=False
            )
            hx = tuple(state[:, live].contiguous() for state in begin)
            out, after = layer(packed, hx if len(hx) > 1 else hx[0])
            padded = pad_packed_sequence(out)[0]
            output[: len(padded), live] = padded
            for state, new in zip(
                final, after if isinstance(after, tuple) else (after,), strict=True
            ):
                state[:, live] = new
        return output, final

    def rebuilt(self, layers: Sequence[int], suffixes: Sequence[str] | None = None) -> Any:
        """Return a new time-major layer that has the weights of some layers, in some directions.

        None if there is no class for it.

        Args:
            layers: Which layers, from below, one on the other.
            suffixes: "" or "_reverse" for each direction of the new layer; those of this one if
                None.
        """
        suffixes = suffixes or ("", "_reverse")[: self.directions]
        first = self.weights(layers[0], 0)[0]
        assert first is not None
        options: dict[str, Any] = {"num_layers": len(layers), "bias": self.bias}
        options |= {"bidirectional": len(suffixes) == 2, "device": self.device, "dtype": self.dtype}
        kind = _LAYERS.get(self.cell.name)
        layer: Any
        if isinstance(self.module, Recurrent):
            cell = self.module.cell
            layer = Recurrent(cell, first.shape[1], self.hidden_size, heads=self.heads, **options)
        elif kind is None:
            return None
        else:
            if kind == "RNN":
                options["nonlinearity"] = self.cell.name[4:]
            if self.cell.name == "gru_reset_before":
                options["reset_after"] = False
            if self.proj_size:
                options["proj_size"] = self.proj_size
            namespace: Any = ours if self.is_ours else nn
            layer = getattr(namespace, kind)(first.shape[1], self.hidden_size, **options)
        for new, old in enumerate(layers):
            for suffix, source in zip(("", "_reverse"), suffixes, strict=False):
                weights = self.weights(old, int(source == "_reverse"))
                for name, weight in zip(self.kinds(), weights, strict=True):
                    if weight is not None:
                        getattr(layer, f"{name}_l{new}{suffix}").copy_(weight)
        return layer.eval()


def _detached(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach())
    if isinstance(value, (tuple, list)):
        return tuple(_detached(v) for v in value)
    return value.detach() if isinstance(value, Tensor) else value
