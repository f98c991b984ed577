"""ONNX files of our layers, written node by node.

`export` writes a layer or a cell as the RNN, LSTM or GRU nodes that ONNX has for it, with states
and lengths as inputs, for any number of sequences and steps. Nothing is traced: the order of the
gates, the operator and its attributes come from the one definition of the cell. A projection feeds
back into the recurrence, which ONNX's LSTM node cannot hold, so a projected LSTM is written as a
Scan whose body is the definition of the cell once more. A model that contains our layers goes
through torch.onnx.export, to which `translation_table` teaches the same nodes.

Left out: training, and with it dropout; packed input, for which the files take lengths. The package
onnx is imported when a function here first needs it.

Symbols: L time steps, N sequences in the batch, D = 2 if bidirectional else 1, H_in = input_size,
H_out = proj_size or else hidden_size, G gates. The equations are in `elman.cells`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from elman import options
from elman.cells import CELLS, Cell
from elman.checkpoint import write_atomically
from elman.exchange import package, rows
from elman.language import say
from elman.nn.modules import RecurrentModule
from elman.nn.steps import StepCell
from elman.shapes import KindError, ShapeError

__all__ = ["export", "translation_table"]

# The version of the operators that are written, and that of the format, as old as they are.
_OPSET, _IR_VERSION = 18, 8

# A file is one protobuf message, which is at most 2 GiB; the room is for all but the weights.
_MAX_BYTES = 2**31 - 2**20

_DTYPES = (torch.float16, torch.float32, torch.float64)

_DIRECTIONS = ("forward", "bidirectional")
_SUFFIXES = ("", "_reverse")

_DOCS = {
    "input": "The sequences, or one step of each.",
    "sequence_lens": "How many steps of each sequence count; output is 0 beyond, and the final "
    "states are those of each sequence's own last step. All are L for sequences of full length.",
    "initial_h": "The hidden state before the first step; zeros to begin with.",
    "initial_c": "The cell state before the first step; zeros to begin with.",
    "output": "The last layer's h at every step.",
    "final_h": "The hidden state after the last step.",
    "final_c": "The cell state after the last step.",
}


# --- a graph in the making --------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """A value of a graph, by name, with the operators that the steps of cells are written in."""

    graph: "_Graph"
    name: str

    def __add__(self, other: "_Known") -> "_Value":
        return self.graph.op("Add", self, other)

    def __sub__(self, other: "_Known") -> "_Value":
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: "_Known") -> "_Value":
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: "_Known") -> "_Value":
        return self.graph.op("Div", self, other)

    def __radd__(self, other: "_Known") -> "_Value":
        return self.graph.op("Add", other, self)

    def __rsub__(self, other: "_Known") -> "_Value":
        return self.graph.op("Sub", other, self)

    def __rmul__(self, other: "_Known") -> "_Value":
        return self.graph.op("Mul", other, self)

    def __rtruediv__(self, other: "_Known") -> "_Value":
        return self.graph.op("Div", other, self)

    def __neg__(self) -> "_Value":
        return self.graph.op("Neg", self)

    def __gt__(self, other: "_Known") -> "_Value":
        return self.graph.op("Greater", self, other)

    def __lt__(self, other: "_Known") -> "_Value":
        return self.graph.op("Less", self, other)

    def __getattr__(self, name: str) -> NoReturn:
        _unknown(f".{name}")


# A tensor or a number is a value that is known: it becomes a constant of the graph where a node
# takes it.
_Known: TypeAlias = _Value | Tensor | float


class _Graph:
    """Nodes, constants, inputs and outputs, in the order in which they are added.

    It is also the namespace of operations that the step of a cell is written over. What is done to
    known values by `concat`, `take`, `unsqueeze` and `turned` is done at once, by no node.
    """

    def __init__(self, dtype: torch.dtype, prefix: str = "") -> None:
        onnx = package("onnx")
        self._make, self._from_array = onnx.helper, onnx.numpy_helper.from_array
        self.dtype, self._prefix, self._count = dtype, prefix, 0
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def proto(self, name: str) -> Any:
        """Return the onnx.GraphProto of what has been added."""
        return self._make.make_graph(
            self._nodes, name, self._inputs, self._outputs, self._constants
        )

    def input(
        self, name: str, shape: Sequence[int | str | None], dtype: torch.dtype | None = None
    ) -> _Value:
        """Add an input, of the graph's dtype if no other is named."""
        self._inputs.append(self._declare(name, shape, dtype))
        return _Value(self, name)

    def output(self, value: _Value, name: str, shape: Sequence[int | str] | None) -> None:
        """Make what a node returns an output of the graph, by a name of its own."""
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [name if used == value.name else used for used in names]
        self._outputs.append(self._declare(name, shape, None))

    def op(self, op: str, *inputs: _Known | None, **attributes: Any) -> _Value:
        """Add a node and return its one output."""
        return self.node(op, *inputs, outputs=1, **attributes)[0]

    def node(
        self, op: str, *inputs: _Known | None, outputs: int, name: str = "", **attributes: Any
    ) -> list[_Value]:
        """Add a node and return its outputs."""
        taken = ["" if value is None else self.named(value).name for value in inputs]
        given = [self.unique(op) for _ in range(outputs)]
        self._nodes.append(self._make.make_node(op, taken, given, name or given[0], **attributes))
        return [_Value(self, result) for result in given]

    def named(self, value: _Known) -> _Value:
        """Return the value under a name."""
        if isinstance(value, _Value):
            return value
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=self.dtype)
        name = self.unique("constant")
        self._constants.append(self._from_array(value.detach().cpu().numpy(), name))
        return _Value(self, name)

    def unique(self, kind: str) -> str:
        """Return a name that no other value has."""
        self._count += 1
        return f"{self._prefix}{kind}_{self._count}"

    def _declare(
        self, name: str, shape: Sequence[int | str | None] | None, dtype: torch.dtype | None
    ) -> Any:
        kind = self._make.np_dtype_to_tensor_dtype(
            torch.empty(0, dtype=dtype or self.dtype).numpy().dtype
        )
        return self._make.make_tensor_value_info(name, kind, shape, _DOCS.get(name, ""))

    def concat(self, values: Sequence[_Known], axis: int) -> _Known:
        """Join values at an axis."""
        if len(values) == 1:
            return values[0]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) == len(values):
            return torch.cat(tensors, axis)
        return self.op("Concat", *values, axis=axis)

    def take(self, value: _Known, rows: Tensor) -> _Known:
        """Return these rows of a matrix, or elements of a vector."""
        return value[rows] if isinstance(value, Tensor) else self.op("Gather", value, rows)

    def stack(self, values: Sequence[_Known]) -> _Known:
        """Join values at a new first axis."""
        return self.concat([self.unsqueeze(value, 0) for value in values], 0)

    def unsqueeze(self, value: _Known, axis: int) -> _Known:
        """Add an axis of size 1."""
        if isinstance(value, Tensor):
            return value.unsqueeze(axis)
        return self.op("Unsqueeze", value, torch.tensor([axis]))

    def turned(self, matrix: _Known) -> _Known:
        """Return the transpose of a matrix."""
        return matrix.T if isinstance(matrix, Tensor) else self.op("Transpose", matrix)

    # --- the namespace of a step: elman.cells.Math

    def split(self, x: _Value, parts: int, /, axis: int = -1) -> list[_Value]:
        """Cut an axis into equal parts."""
        if parts == 1:
            return [x]
        return self.node("Split", x, outputs=parts, axis=axis, num_outputs=parts)

    def sigmoid(self, x: _Value, /) -> _Value:
        """Return 1 / (1 + exp(-x)), element-wise."""
        return self.op("Sigmoid", x)

    def tanh(self, x: _Value, /) -> _Value:
        """Return the hyperbolic tangent, element-wise."""
        return self.op("Tanh", x)

    def relu(self, x: _Value, /) -> _Value:
        """Return max(x, 0), element-wise."""
        return self.op("Relu", x)

    def exp(self, x: _Value, /) -> _Value:
        """Return the exponential, element-wise."""
        return self.op("Exp", x)

    def softplus(self, x: _Value, /) -> _Value:
        """Return log(1 + exp(x)), element-wise."""
        return self.op("Softplus", x)

    def maximum(self, x: _Known, y: _Known, /) -> _Value:
        """Return the larger of two, element-wise."""
        return self.op("Max", x, y)

    def where(self, condition: _Value, x: _Known, y: _Known, /) -> _Value:
        """Return x where the condition holds, y elsewhere."""
        return self.op("Where", condition, x, y)

    def norm(self, x: _Value, /) -> _Value:
        """Return x less its mean and over its standard deviation, along the last axis."""
        one = torch.ones(1, dtype=self.dtype)
        return self.op("LayerNormalization", x, one, axis=-1)

    def __getattr__(self, name: str) -> NoReturn:
        _unknown(f"m.{name}")


# Python asks for names of its own, to copy and to print.
def _unknown(name: str) -> NoReturn:
    if "__" in name:
        raise AttributeError(name)
    _fail(
        "a cell must be written in the operations of elman.cells.Math, got {got}: those are what a "
        "file can hold; leave the model in PyTorch, or write the cell without it",
        got=name,
    )


# --- a layer as nodes -------------------------------------------------------------------------


# One layer in all its directions. As `elman.reference.layer`, but for lengths, int32 (N,) or None:
# (L, N, H_in) and (D, N, width) per state -> (L, N, D * H_out) and (D, N, width) per state.
# The last of widths is hidden_size.
def _layer(
    graph: _Graph,
    cell: Cell,
    input: _Value,
    lengths: _Value | None,
    states: Sequence[_Value] | None,
    weights: Sequence[_Known | None],
    widths: Sequence[int],
    name: str = "",
) -> tuple[_Value, list[_Value]]:
    if weights[4] is not None or cell.norms or not cell.is_known:
        return _scans(graph, cell, input, lengths, states, weights, widths, name)

    directions, hidden_size = len(weights) // 5, widths[-1]
    order = rows(cell.gates, cell.onnx_gates, hidden_size)
    w_ih, w_hh, b_ih, b_hh = (
        [graph.take(weight, order) for weight in weights[position::5] if weight is not None]
        for position in range(4)
    )
    biases = [graph.concat(pair, 0) for pair in zip(b_ih, b_hh, strict=True)]
    output, *final = graph.node(
        cell.onnx_op,
        input,
        graph.stack(w_ih),
        graph.stack(w_hh),
        graph.stack(biases) if biases else None,
        lengths,
        *(states or ()),
        outputs=1 + len(cell.states),
        name=name,
        hidden_size=hidden_size,
        direction=_DIRECTIONS[directions - 1],
        **{  # functions are listed for each direction
            key: value * directions if isinstance(value, list) else value
            for key, value in cell.onnx_attributes.items()
        },
    )
    if directions == 1:
        output = graph.op("Squeeze", output, torch.tensor([1]))
    else:
        output = graph.op("Transpose", output, perm=[0, 2, 1, 3])
        output = graph.op("Reshape", output, torch.tensor([0, 0, directions * hidden_size]))
    if lengths is not None and states is not None:
        # ONNX does not say what the final state of an empty sequence is. Ours is the initial one,
        # ONNX Runtime's is zero.
        none = graph.op("Equal", lengths, torch.tensor(0, dtype=torch.int32))
        empty = graph.unsqueeze(none, 1)
        final = [graph.op("Where", empty, s, f) for s, f in zip(states, final, strict=True)]
    return output, final


# The same with a projection, or of a cell that ONNX does not have: a Scan per direction, whose body
# is the definition of the cell.
def _scans(
    graph: _Graph,
    cell: Cell,
    input: _Value,
    lengths: _Value | None,
    states: Sequence[_Value] | None,
    weights: Sequence[_Known | None],
    widths: Sequence[int],
    name: str,
) -> tuple[_Value, list[_Value]]:
    parts, first = 5 + len(cell.vectors), torch.tensor([0])
    directions = len(weights) // parts
    if states is None:
        batch, zero = graph.op("Shape", input, start=1, end=2), torch.zeros((), dtype=graph.dtype)
        shapes = [graph.concat([batch, torch.tensor([width])], 0) for width in widths]
        initial = [[graph.op("Expand", zero, shape)] * directions for shape in shapes]
    else:
        given = [graph.split(state, directions, axis=0) for state in states]
        initial = [[graph.op("Squeeze", part, first) for part in state] for state in given]

    running = []  # (L, N, 1): whether a sequence has that step
    if lengths is not None:
        seq_len = graph.op("Squeeze", graph.op("Shape", input, start=0, end=1), first)
        times = graph.op("Range", torch.tensor(0), seq_len, torch.tensor(1))
        times = graph.op("Unsqueeze", times, torch.tensor([1, 2]))
        count = graph.op("Cast", lengths, to=package("onnx").TensorProto.INT64)
        running = [graph.op("Less", times, graph.unsqueeze(count, 1))]

    outputs, finals = [], []
    for direction in range(directions):
        w_ih, w_hh, b_ih, b_hh, *rest = weights[parts * direction : parts * (direction + 1)]
        assert w_ih is not None
        gx = graph.op("MatMul", input, graph.turned(w_ih))  # (L, N, G * hidden_size)
        if "x" in cell.norms:
            gains = dict(zip(cell.vectors, rest[1:], strict=True))
            gx = _normalised(graph, cell, gx, widths[-1]) * gains["gain_ih"]
        gx = gx if b_ih is None else gx + b_ih
        if isinstance(w_hh, Tensor) and w_hh.shape[1] < widths[0]:  # block-diagonal
            blocks = widths[0] // w_hh.shape[1]
            rows = w_hh.view(len(cell.gates), blocks, -1, w_hh.shape[1]).permute(1, 3, 0, 2)
            w_hh = rows.flatten(2).contiguous()  # (blocks, features, G * units)
        shared = [None if w is None else graph.named(w) for w in (w_hh, b_hh, *rest)]
        blocks = w_hh.shape[0] if isinstance(w_hh, Tensor) and w_hh.dim() == 3 else 1
        body = _body(graph, cell, shared, blocks, widths, bool(running))
        *final, output = graph.node(
            "Scan",
            *(state[direction] for state in initial),
            *(gx, *running),
            outputs=len(widths) + 1,
            name=f"{name}{_SUFFIXES[direction]}" if name else "",
            body=body,
            num_scan_inputs=1 + len(running),
            scan_input_directions=[direction] * (1 + len(running)),  # 1 is backwards
            scan_output_directions=[direction],
        )
        outputs.append(output)
        finals.append(final)
    stacked = [graph.stack(state) for state in zip(*finals, strict=True)]
    return graph.named(graph.concat(outputs, -1)), [graph.named(state) for state in stacked]


# One step, (N, .): the states, gx and whether each sequence runs -> the states and the output.
# w_hh, b_hh, w_hr and the vectors are values of the graph around it.
def _body(
    graph: _Graph,
    cell: Cell,
    shared: Sequence[_Value | None],
    blocks: int,
    widths: Sequence[int],
    masked: bool,
) -> Any:
    w_hh, b_hh, w_hr, *vectors = shared
    name = graph.unique("step")
    step = _Graph(graph.dtype, f"{name}_")  # names are unique in a graph and all those within it
    before = [step.input(step.unique("state"), ["N", width]) for width in widths]
    gx = step.input(step.unique("gx"), ["N", len(cell.gates) * widths[-1]])
    gh = None
    # The values of the graph around are taken by what is done in this one.
    named = {n: replace(v, graph=step) for n, v in zip(cell.vectors, vectors, strict=True) if v}
    bias = None if "h" in cell.norms else b_hh
    if w_hh is not None and blocks == 1:
        gh = step.op("Gemm", before[0], w_hh, bias, transB=1)
    elif w_hh is not None:
        gh = _product_in_blocks(step, before[0], w_hh, bias, blocks, len(cell.gates))
    if "h" in cell.norms:
        gh = _normalised(step, cell, gh, widths[-1]) * named["gain_hh"]
        gh = gh if b_hh is None else gh + b_hh
    given = [{name: named[name] for name in cell.given}] if cell.given else []
    after = cell.step(step, gx, gh, before, *given)
    after = after if isinstance(after, tuple) else (after,)
    if "c" in cell.norms:
        assert cell.hidden is not None
        shown = step.norm(after[1]) * named["gain_c"]
        shown = shown + named["bias_c"] if "bias_c" in named else shown
        after = cell.hidden(step, gx, gh, shown, *given), after[1]
    if w_hr is not None:
        after = (step.op("Gemm", after[0], w_hr, transB=1), *after[1:])
    output = step.op("Identity", after[0])
    if masked:
        runs = step.input(step.unique("runs"), ["N", 1], torch.bool)
        after = tuple(step.op("Where", runs, a, b) for a, b in zip(after, before, strict=True))
        output = step.op("Where", runs, output, torch.zeros((), dtype=graph.dtype))
    for value, width in zip((*after, output), (*widths, widths[0]), strict=True):
        step.output(value, step.unique("out"), ["N", width])
    return step.proto(name)


# A product of all gates, normalised, those in `apart` on their own.
def _normalised(graph: _Graph, cell: Cell, product: Any, hidden_size: int) -> Any:
    alone = len(cell.apart)
    if alone in (0, len(cell.gates)):
        return graph.norm(product)
    sizes = torch.tensor([(len(cell.gates) - alone) * hidden_size, alone * hidden_size])
    parts = graph.node("Split", product, sizes, outputs=2, axis=-1)
    return graph.concat([graph.norm(part) for part in parts], -1)


# gh where each block of h has its own rows of each gate: of (N, H) and (blocks, H / blocks, rows).
def _product_in_blocks(
    step: _Graph, h: _Value, w_hh: _Value, b_hh: _Value | None, blocks: int, gates: int
) -> _Value:
    h = step.op("Transpose", step.op("Reshape", h, torch.tensor([0, blocks, -1])), perm=[1, 0, 2])
    product = step.op("Transpose", step.op("MatMul", h, w_hh), perm=[1, 0, 2])
    product = step.op("Reshape", product, torch.tensor([0, blocks, gates, -1]))
    product = step.op("Transpose", product, perm=[0, 2, 1, 3])
    gh = step.op("Reshape", product, torch.tensor([0, -1]))
    return gh if b_hh is None else gh + b_hh


# --- export -----------------------------------------------------------------------------------


def export(
    module: Module,
    path: str | os.PathLike[str],
    mode: str = "sequence",
    *,
    args: tuple[Any, ...] | None = None,
    **options: Any,
) -> None:
    """Write a layer, a cell, or a model that contains layers to an ONNX file.

    A layer or a cell alone is written by its definition, and needs no example input. The file has
    these inputs, all of which have to be fed, and outputs; sizes in quotes are free:

    | | mode="sequence" | mode="step" |
    | :-- | :-- | :-- |
    | input | ("L", "N", H_in) or, if batch_first, ("N", "L", H_in) | ("N", H_in) |
    | sequence_lens | ("N",), int32, L for sequences of full length | |
    | initial_h, initial_c | as hx of the module: zeros to begin with | the same |
    | output | ("L", "N", D * H_out) or, if batch_first, ("N", "L", D * H_out) | ("N", H_out) |
    | final_h, final_c | shaped as initial_h and initial_c | the same |

    initial_c and final_c are there for cells that have a cell state. Feed the final states of a
    call as the initial ones of the next to go on with the same sequences. A cell module is a layer
    of one direction, with states (N, hidden_size). Each layer is one node, named after its operator
    and its number, such as LSTM_l0; a projected LSTM is a Scan.

    With `args` the module, which may be any model, goes through torch.onnx.export instead, and the
    file has the inputs of that call and no others.

    The file is for inference: dropout between layers is not in it. It appears at `path` whole or
    not at all.

    Args:
        module: RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell of elman, or with `args` any module.
        path: Where the file goes; its directory exists.
        mode: "sequence" for whole sequences, "step" for one time step per call.
        args: Example arguments of a call, for torch.onnx.export. It needs the package onnxscript.
        options: With `args`, what else torch.onnx.export is to be told, such as dynamic_shapes.

    Raises:
        ImportError: The package onnx is missing.
        KindError: The module is none of ours and `args` is missing, or options came without `args`.
        ShapeError: The mode is none of the two or cannot be had, or the weights do not fit: their
            dtype is unknown to ONNX's operators, or they are more than 2 GiB.

    Example:
        >>> import elman, onnxruntime, tempfile, torch
        >>> lstm = elman.LSTM(input_size=3, hidden_size=4)
        >>> path = f"{tempfile.mkdtemp()}/lstm.onnx"
        >>> elman.onnx.export(lstm, path)
        >>> session = onnxruntime.InferenceSession(path)
        >>> x, state = torch.randn(7, 2, 3), torch.zeros(1, 2, 4)  # 2 sequences of 7 steps
        >>> lengths = torch.tensor([7, 5], dtype=torch.int32)
        >>> feeds = {"input": x, "sequence_lens": lengths, "initial_h": state, "initial_c": state}
        >>> output, h_n, c_n = session.run(None, {name: feeds[name].numpy() for name in feeds})
        >>> torch.testing.assert_close(torch.from_numpy(output)[:, 0], lstm(x)[0][:, 0])
    """
    onnx = package("onnx")
    if args is not None:
        if mode != "sequence":
            _fail(
                "mode must be left out where args are given, got {got}: args say it", got=repr(mode)
            )
        model = _through_torch(module, args, options)
    elif not isinstance(module, RecurrentModule):
        if not isinstance(module, Module):
            _fail(
                "module must be a torch.nn.Module, got {got}: pass the module",
                KindError,
                got=type(module).__name__,
            )
        _fail(
            "module must be an RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell of elman, got {got}: "
            "for another model pass example inputs, args=(x,)",
            KindError,
            got=type(module).__name__,
        )
    elif options:
        what = ", ".join(options)
        _fail("{what} must come with args, got none: pass args=(x,)", KindError, what=what)
    else:
        model = _written(module, mode)
    version = model.metadata_props.add()
    version.key, version.value = "elman_version", _version()
    onnx.checker.check_model(model)
    write_atomically(Path(path), model.SerializeToString())


def _fail(sentence: str, error: type[ShapeError] = ShapeError, /, **values: Any) -> NoReturn:
    raise error(say("elman.onnx.export: {text}", text=say(sentence, **values)))


def _version() -> str:
    import elman

    return elman.__version__


def _check_size(module: Module) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > _MAX_BYTES:
        _fail(
            "the weights must be at most {limit} bytes, the limit of an ONNX file, got {got}: "
            "export it in halves, or call torch.onnx.export with external_data=True and "
            "custom_translation_table=elman.onnx.translation_table()",
            limit=_MAX_BYTES,
            got=size,
        )


# An onnx.ModelProto of a layer or a cell.
def _written(module: Any, mode: str) -> Any:
    onnx = package("onnx")
    who, is_cell = type(module).__name__, isinstance(module, StepCell)
    directions = 1 if is_cell else module._num_directions
    if mode not in ("sequence", "step"):
        _fail("mode must be 'sequence' or 'step', got {got}: choose one", got=repr(mode))
    if mode == "step" and directions == 2:
        _fail(
            "mode must be 'sequence' for a bidirectional {who}, got 'step': its second direction "
            "begins at the end of the sequence, which a step does not know",
            who=who,
        )
    options.refuse("elman.onnx.export", module)
    _check_size(module)
    weights = module._weights()
    dtype = weights[0].dtype
    if dtype not in _DTYPES:
        _fail(
            "the weights of {who} must be float16, float32 or float64, got {got}: ONNX's operators "
            "have no other, use .float()",
            who=who,
            got=dtype,
        )

    cell = module._cell
    if is_cell:
        weights, widths, layers = [*weights, None], (module.hidden_size,) * len(cell.states), 1
        parts = 5
    else:
        widths, layers, parts = module._state_widths, module.num_layers, module._parts
    width = widths[0] * directions
    axes: tuple[int | str, ...] = ("N",)
    if mode == "sequence":
        axes = ("N", "L") if not is_cell and module.batch_first else ("L", "N")
    rows = () if is_cell else (layers * directions,)

    graph, first = _Graph(dtype), torch.tensor([0])
    x = graph.input("input", [*axes, module.input_size])
    lengths = graph.input("sequence_lens", ["N"], torch.int32) if mode == "sequence" else None
    states = [
        graph.input(f"initial_{letter}", [*rows, "N", size])
        for letter, size in zip(cell.states, widths, strict=True)
    ]
    if mode == "step":
        x = graph.op("Unsqueeze", x, first)
    elif axes[0] == "N":
        x = graph.op("Transpose", x, perm=[1, 0, 2])
    if is_cell:
        states = [graph.op("Unsqueeze", state, first) for state in states]
    initial = [graph.split(state, layers, axis=0) for state in states]
    finals = []
    for layer in range(layers):
        x, final = _layer(
            graph,
            cell,
            x,
            lengths,
            [state[layer] for state in initial],
            weights[parts * directions * layer : parts * directions * (layer + 1)],
            widths,
            f"{cell.onnx_op or cell.name}_l{layer}",
        )
        finals.append(final)
    if mode == "step":
        x = graph.op("Squeeze", x, first)
    elif axes[0] == "N":
        x = graph.op("Transpose", x, perm=[1, 0, 2])
    graph.output(x, "output", [*axes, width])
    for letter, size, ends in zip(cell.states, widths, zip(*finals, strict=True), strict=True):
        state = graph.named(graph.concat(ends, 0))
        state = graph.op("Squeeze", state, first) if is_cell else state
        graph.output(state, f"final_{letter}", [*rows, "N", size])

    return onnx.helper.make_model(
        graph.proto(who),
        producer_name="elman",
        producer_version=_version(),
        doc_string=f"elman.{module!r}, mode={mode!r}",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )


# --- torch.onnx.export ------------------------------------------------------------------------


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what torch.onnx.export has to know to export a model that contains our layers.

    `export` with `args` does the same in one call. The nodes are those that `export` writes.

    Returns:
        A table to be passed as custom_translation_table.

    Example:
        >>> import elman
        >>> options = {"dynamo": True, "custom_translation_table": elman.onnx.translation_table()}
        >>> list(options["custom_translation_table"])  # torch.onnx.export(model, args, **options)
        [<OpOverload(op='elman.layer', overload='default')>]
    """
    return {torch.ops.elman.layer.default: _translate}


# An onnx.ModelProto of any model, by way of torch.export.
def _through_torch(module: Module, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    package("onnxscript")
    _check_size(module)
    own = {"verbose": False, **options}
    table = {**translation_table(), **own.pop("custom_translation_table", {})}
    program = torch.onnx.export(module, args, dynamo=True, custom_translation_table=table, **own)
    assert program is not None
    return program.model_proto


# torch.ops.elman.layer in the graph that torch.onnx.export is making: the nodes that `_layer`
# writes, between values of that graph.
def _translate(
    input: Any,
    batch_sizes: Any,
    lengths: Any,
    resets: Any,
    h_0: Any,
    c_0: Any,
    h_to: Any,
    c_to: Any,
    *weights_and_options: Any,
) -> tuple[Any, ...]:
    onnx, ir = package("onnx"), package("onnx_ir")
    *weights, cell_name, _ = weights_and_options
    if batch_sizes is not None:
        _fail(
            "input must be padded, got a PackedSequence, whose rows ONNX's operators cannot read: "
            "pass the padded input and lengths=",
            KindError,
        )
    if resets is not None:
        _fail(
            "reset must be None, got a mask: ONNX's recurrent operators have none; export a call "
            "of one step, and give it zeros as its state where a sequence starts anew",
            KindError,
        )
    cell, dtype = CELLS[cell_name], torch.from_numpy(np.empty(0, input.dtype.numpy())).dtype
    weights = weights[: 5 if weights[5] is None else 10]
    rows, output_size = weights[1].shape
    widths = (output_size, rows // len(cell.gates))[: len(cell.states)]

    graph = _Graph(dtype)
    given: dict[str, Any] = {}

    def formal(value: Any, dtype: torch.dtype | None = None) -> _Value:
        name = graph.unique("input")
        given[name] = value
        return graph.input(name, [None] * len(value.shape), dtype)

    x, counts = formal(input), None
    if lengths is not None:
        kind = onnx.TensorProto.INT32
        counts = graph.op("Cast", formal(lengths, torch.int64), to=kind)
    states = [formal(state) for state in (h_0, c_0) if state is not None]
    parameters = [None if weight is None else formal(weight) for weight in weights]
    output, final = _layer(graph, cell, x, counts, states or None, parameters, widths)
    # no c, and `kept`, which is for training
    final += [graph.op("Identity", torch.zeros(0, dtype=dtype)) for _ in range(3 - len(final))]
    for i, value in enumerate((output, *final)):
        graph.output(value, f"output_{i}", None)

    proto = graph.proto(cell.name)
    for constant in reversed(proto.initializer):
        node = onnx.helper.make_node("Constant", [], [constant.name], value=constant)
        proto.node.insert(0, node)
    del proto.initializer[:]
    part = ir.from_proto(proto)
    for value in part.inputs:
        ir.convenience.replace_all_uses_with(value, given[value.name])
    results, nodes = tuple(part.outputs), list(part)
    part.outputs.clear()
    part.remove(nodes)
    for node in nodes:
        node.name = None  # the exporter finds names that are free
        for value in node.outputs:
            value.name = None
    package("onnxscript").evaluator.default().nodes.extend(nodes)
    return results
