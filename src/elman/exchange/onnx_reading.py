"""Our layers, read from the recurrent nodes of ONNX files, whoever wrote them.

Left out: reading a Scan back. The package onnx is imported when a function here first needs it.

Symbols: N sequences in the batch, D = 2 if bidirectional else 1, H_in = input_size.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from elman.cells import CELLS, Cell
from elman.exchange import package, rows
from elman.nn import GRU, LSTM, RNN, _Layer
from elman.shapes import ShapeError

__all__ = ["load"]

# The attributes that a recurrent node may have, and what they are where it does not say.
_DEFAULTS: Mapping[str, Any] = {
    "activations": [],
    "direction": b"forward",
    "hidden_size": 0,
    "input_forget": 0,
    "layout": 0,
    "linear_before_reset": 0,
}
_ACTIVATIONS = {
    "GRU": ["Sigmoid", "Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "RNN": ["Tanh"],
}

# The layers that there are: each cell is that of one of these.
_KINDS: tuple[Callable[..., _Layer], ...] = (
    RNN,
    partial(RNN, nonlinearity="relu"),
    LSTM,
    GRU,
    partial(GRU, reset_after=False),
)


def load(path: str | os.PathLike[str]) -> dict[str, _Layer]:
    """Build layers from the RNN, LSTM and GRU nodes of an ONNX file, whoever wrote it.

    A layer here is what its node is: the parameters, and how they are used. What surrounds the node
    is not looked at, with one exception: nodes that are alike, and of which each feeds the next and
    nothing else, become one layer with num_layers. A node with layout = 1 becomes a layer with
    batch_first; what is transposed around a node stays the caller's to transpose. Initial states
    and lengths are arguments of the layer's call.

    Args:
        path: An ONNX file; its weights may stand in a file beside it.

    Returns:
        The layers by the name of their (first) node, in the order of the file. A node without a
        name is called by its operator and its number among the recurrent nodes, such as LSTM_0.

    Raises:
        ImportError: The package onnx is missing.
        OSError: The file cannot be read.
        ShapeError: The file is no ONNX file or has no recurrent node, or a node asks for what no
            layer does: peepholes, clip, input_forget, other activations, direction = "reverse", or
            weights, states or lengths that are not where a layer has them.

    Example:
        >>> import elman, tempfile, torch
        >>> gru = elman.GRU(input_size=3, hidden_size=4, num_layers=2)
        >>> path = f"{tempfile.mkdtemp()}/gru.onnx"
        >>> elman.onnx.export(gru, path)
        >>> elman.onnx.load(path)
        {'GRU_l0': GRU(3, 4, num_layers=2)}
        >>> (again,) = elman.onnx.load(path).values()
        >>> x = torch.randn(5, 2, 3)
        >>> torch.equal(again(x)[0], gru(x)[0])
        True
    """
    onnx = package("onnx")
    try:
        model = onnx.load(os.fspath(path))
    except package("google.protobuf.message").DecodeError as error:
        _fail(f"{path} must be an ONNX file, got something else: {error}")
    if model.functions:
        model = package("onnx.inliner").inline_local_functions(model)
    file = _File(path, model)
    stacks: list[list[_Read]] = []
    for read in file.recurrent():
        below = file.below(read)
        stack = next((s for s in stacks if s[-1].output == below), None) if below else None
        if stack is not None and read.continues(stack[-1]):
            stack.append(read)
        else:
            stacks.append([read])
    if not stacks:
        _fail(
            f"{path} must have an RNN, LSTM or GRU node, got none: what other nodes compute, such "
            "as the Scan of a projected LSTM, is not read",
        )
    return {stack[0].name: _build(stack) for stack in stacks}


# One recurrent node in our terms; input, lengths and output are names of values of the file.
@dataclass(frozen=True)
class _Read:
    name: str
    cell: Cell
    batch_first: bool
    input: str
    lengths: str
    output: str
    weights: Sequence[Tensor | None]  # as of `elman.reference.layer`

    @property
    def sizes(self) -> tuple[int, int, int]:
        """H_in, hidden_size, D."""
        w_ih, w_hh = self.weights[:2]
        assert w_ih is not None
        assert w_hh is not None
        return w_ih.shape[1], w_hh.shape[1], len(self.weights) // 5

    @property
    def form(self) -> tuple[Any, ...]:
        """What the layers of a stack have in common, but for sizes."""
        w_ih, _, b_ih = self.weights[:3]
        assert w_ih is not None
        return self.cell, self.batch_first, self.lengths, w_ih.dtype, b_ih is None

    def continues(self, below: "_Read") -> bool:
        """Whether this is one more layer of what is below it."""
        _, hidden_size, directions = below.sizes
        stacked = (directions * hidden_size, hidden_size, directions)
        return self.form == below.form and self.sizes == stacked


def _build(stack: Sequence[_Read]) -> _Layer:
    read = stack[0]
    input_size, hidden_size, directions = read.sizes
    assert read.weights[0] is not None
    # On no device there are no initial values to draw.
    kind = next(kind for kind in _KINDS if kind(1, 1, device="meta")._cell is read.cell)
    layer = kind(
        input_size,
        hidden_size,
        num_layers=len(stack),
        bias=read.weights[2] is not None,
        batch_first=read.batch_first,
        bidirectional=directions == 2,
        device="meta",
        dtype=read.weights[0].dtype,
    )
    weights = [weight for read in stack for weight in read.weights]
    names = [name for name, _ in layer._layout]
    named = {name: w for name, w in zip(names, weights, strict=True) if name}
    layer.load_state_dict(named, assign=True)
    return layer


class _File:
    """A model: its recurrent nodes, what feeds what, and which of its values are constants."""

    def __init__(self, path: str | os.PathLike[str], model: Any) -> None:
        self._onnx, self._path, self._opsets = package("onnx"), path, model.opset_import
        self._nodes = list(model.graph.node)
        self._producers = {name: node for node in self._nodes for name in node.output}
        readers = [node for top in self._nodes for node in (top, *_within(top))]
        self._uses = Counter(name for node in readers for name in node.input)
        self._uses.update(output.name for output in model.graph.output)
        self._known = {
            tensor.name: self._onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
        }
        self._constants = {"", *self._known}
        for node in self._nodes:
            if self._constants.issuperset(node.input) and not any(_within(node)):
                self._constants.update(node.output)

    def recurrent(self) -> Iterator[_Read]:
        """Return the recurrent nodes, in the order of the file."""
        named, count = Counter(node.name for node in self._nodes), 0
        for node in self._nodes:
            if _is_recurrent(node):
                is_named = node.name and named[node.name] == 1
                yield self._read(node, node.name if is_named else f"{node.op_type}_{count}")
                count += 1
            for inner in filter(_is_recurrent, _within(node)):
                self._refuse(
                    inner, f"it must not stand in another node, got it in a {node.op_type}"
                )

    def below(self, read: _Read) -> str:
        """Return the output Y of a node if it is all of a node's input, and nothing else; or ""."""
        width = read.sizes[0]
        found = self._back(read.input, "Squeeze", [[2 if read.batch_first else 1]])
        if not found:
            found = self._back(read.input, "Reshape", [[0, 0, -1], [0, 0, width]])
            if not read.batch_first:
                found = self._back(found, "Transpose", [[0, 2, 1, 3]])
        return found if self._uses[found] == 1 else ""

    # What a value was before the node that made it, if the node says one of these and only one
    # other node reads the value.
    def _back(self, name: str, op: str, says: Sequence[Sequence[int]]) -> str:
        node = self._producers.get(name)
        if node is None or node.op_type != op or self._uses[name] != 1:
            return ""
        said = [list(a.ints) for a in node.attribute if a.name in ("axes", "perm", "shape")]
        said += [self._value(more).tolist() for more in node.input[1:] if more in self._constants]
        return str(node.input[0]) if said and said[0] in says else ""

    # The value of a constant, stored or computed from others.
    def _value(self, name: str) -> Any:
        if name not in self._known:
            node, make = self._producers[name], self._onnx.helper
            given, made = ([n for n in names if n] for names in (node.input, node.output))
            inputs = [make.make_empty_tensor_value_info(n) for n in given]
            outputs = [make.make_empty_tensor_value_info(n) for n in made]
            graph = make.make_graph([node], "constant", inputs, outputs)
            model = make.make_model(graph, opset_imports=self._opsets)
            run = package("onnx.reference").ReferenceEvaluator(model).run
            results = run(None, {n: self._value(n) for n in given})
            self._known.update(zip(made, results, strict=True))
        return self._known[name]

    def _refuse(self, node: Any, text: str) -> NoReturn:
        _fail(f"{self._path}, node {node.name or '(no name)'} ({node.op_type}): {text}")

    def _read(self, node: Any, name: str) -> _Read:
        x, w, r, b, lengths, *states, peepholes = [*node.input, *[""] * 8][:8]
        given = {a.name: self._onnx.helper.get_attribute_value(a) for a in node.attribute}
        for key, value in given.items():
            if key not in _DEFAULTS or (key == "input_forget" and value):
                self._refuse(node, f"{key} must be left out, got {value}: no layer has it")
        if peepholes:
            self._refuse(node, "P must be left out, got peepholes: no layer has them")
        if given.get("direction") == b"reverse":
            self._refuse(
                node,
                "direction must be 'forward' or 'bidirectional', got 'reverse': no layer runs "
                "backwards only",
            )
        for what, state in zip(("initial_h", "initial_c"), states, strict=True):
            if state and state in self._constants and self._value(state).any():
                self._refuse(
                    node,
                    f"{what} must be zeros or an input of the model, got constants: a layer keeps "
                    "no initial state",
                )
        if lengths and lengths in self._constants:
            self._refuse(
                node,
                "sequence_lens must be an input of the model, got a constant: a layer keeps no "
                "lengths",
            )
        attributes = {**_DEFAULTS, **given}
        directions = 2 if attributes["direction"] == b"bidirectional" else 1
        cell = self._cell(node, attributes, directions)
        weights = self._weights(node, cell, directions, attributes["hidden_size"], (w, r, b))
        batch_first = attributes["layout"] == 1
        return _Read(name, cell, batch_first, x, lengths, node.output[0], weights)

    # The cell whose operator, functions and way of resetting are the node's.
    def _cell(self, node: Any, attributes: Mapping[str, Any], directions: int) -> Cell:
        usual, asked = _ACTIVATIONS[node.op_type], attributes["activations"]
        functions = [name.decode() for name in asked] or usual * directions
        reset = int(attributes["linear_before_reset"] != 0)
        rules = []
        for cell in CELLS.values():
            if cell.onnx_op == node.op_type:
                own = {"activations": usual, "linear_before_reset": 0, **cell.onnx_attributes}
                rules.append(own["activations"] * directions)
                # Their case is free, and RNN's default has two whatever the direction.
                given = functions[: len(rules[-1])]
                is_same = [f.lower() for f in given] == [f.lower() for f in rules[-1]]
                if is_same and own["linear_before_reset"] == reset:
                    return cell
        rule = " or ".join(dict.fromkeys(map(str, rules)))
        self._refuse(node, f"activations must be {rule}, got {functions}: no layer has others")

    # W, R and B -> w_ih, w_hh, b_ih, b_hh, w_hr of each direction, in our order of gates
    def _weights(
        self, node: Any, cell: Cell, directions: int, hidden_size: int, names: Sequence[str]
    ) -> list[Tensor | None]:
        for letter, name in zip("WRB", names, strict=True):
            if name not in self._constants or not (name or letter == "B"):
                self._refuse(node, f"{letter} must be a constant of the file, got {name!r}")
        arrays = {letter: self._value(n) for letter, n in zip("WRB", names, strict=True) if n}
        kinds = {array.dtype.name for array in arrays.values()}
        if len(kinds) > 1 or not kinds <= {"float16", "float32", "float64"}:
            rule = "W, R and B must all be float16, float32 or float64"
            self._refuse(node, f"{rule}, got {', '.join(sorted(kinds))}")
        hidden_size = hidden_size or (0, *arrays["R"].shape)[-1]
        height = len(cell.gates) * hidden_size
        wanted = {
            "W": (directions, height, (*arrays["W"].shape[2:], 1)[0]),
            "R": (directions, height, hidden_size),
            "B": (directions, 2 * height),
        }
        for letter, array in arrays.items():
            if array.shape != wanted[letter]:
                self._refuse(node, f"{letter} must be {wanted[letter]}, got {array.shape}")
        w, r, b = (torch.tensor(arrays[x]) if x in arrays else None for x in "WRB")
        assert w is not None
        assert r is not None

        order = rows(cell.onnx_gates, cell.gates, hidden_size)
        weights: list[Tensor | None] = []
        for d in range(directions):
            biases = (None, None) if b is None else (half[order] for half in b[d].chunk(2))
            weights += [w[d][order], r[d][order], *biases, None]
        return weights


def _is_recurrent(node: Any) -> bool:
    return node.op_type in _ACTIVATIONS and node.domain in ("", "ai.onnx")


# The nodes in the bodies of a node, and those in theirs.
def _within(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _within(inner)


def _fail(text: str) -> NoReturn:
    raise ShapeError(f"elman.onnx.load: {text}")
