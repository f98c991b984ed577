"""Our layers, read from the recurrent nodes of ONNX files, whoever wrote them.

A file is hostile until it is read. `_parsed` takes it through the checks of the package onnx, and
converts that package's errors; `_Graph` computes the constants that are asked for, within a bound
on memory and number; `_Reader` says what a recurrent node is in our terms. All that is wrong with a
file is an `OnnxError`.

Left out: reading a Scan back. The package onnx is imported when a function here first needs it.

Symbols: L time steps, N sequences in the batch, D = 2 if bidirectional else 1, H_in = input_size,
H = hidden_size, G gates.
"""

import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from elman.cells import CELLS, Cell
from elman.exchange import package, rows
from elman.language import say
from elman.nn.layers import GRU, LSTM, RNN, Layer
from elman.shapes import ShapeError

__all__ = ["OnnxError", "load"]

# A file is one protobuf message, which is at most 2 GiB.
_MAX_BYTES = 2**31 - 1

# How many bytes may be computed from the constants of a file, for each of its bytes and for none:
# weights of int8 that become float32 and are turned a few times stay far below.
_GROWTH, _ROOM = 64, 2**24

# How many constants may be computed. Each costs about a millisecond.
_MAX_COMPUTED = 4096

# How deeply functions of a file may call each other.
_MAX_DEPTH = 64

# The names of the domain of ONNX's own operators.
_DOMAINS = ("", "ai.onnx")

# The operators by which weights, sizes and zeros are computed in the files that there are. The time
# of each is in proportion to what it reads and writes, and none is random.
_COMPUTED = frozenset(
    (
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "Div",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "QuantizeLinear",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)

# onnx's evaluator has these from this version on; what they did before is a part of it.
_QUANTISED = {"DequantizeLinear": 19, "QuantizeLinear": 19}

# The operators whose output is the values of their first input, moved.
_MOVED = frozenset(
    (
        "Cast",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)

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
_KINDS: tuple[Callable[..., Layer], ...] = (
    RNN,
    partial(RNN, nonlinearity="relu"),
    LSTM,
    GRU,
    partial(GRU, reset_after=False),
)


class OnnxError(ShapeError):
    """An ONNX file is damaged, breaks the rules of its format, or holds what no layer is.

    It is a ValueError and a RuntimeError.

    Example:
        >>> import elman, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "notes.onnx")
        >>> _ = path.write_text("something else")
        >>> try:
        ...     elman.onnx.load(path)
        ... except elman.onnx.OnnxError:
        ...     print("no ONNX file")
        no ONNX file
    """


def load(path: str | os.PathLike[str]) -> dict[str, Layer]:
    """Build layers from the RNN, LSTM and GRU nodes of an ONNX file, whoever wrote it.

    A layer here is what its node is: the parameters, and how they are used. What surrounds the node
    is not looked at, with one exception: nodes that are alike, and of which each feeds the next and
    nothing else, become one layer with num_layers. Weights may be computed from constants of the
    file by operators that move, join, scale or quantise values. A node with layout = 1 becomes a
    layer with batch_first; what is transposed around a node stays the caller's to transpose.
    Initial states and lengths are arguments of the layer's call; a file that keeps some of its
    own is refused.

    Args:
        path: An ONNX file; its weights may stand in a file beside it.

    Returns:
        The layers by the name of their (first) node, in the order of the file. A node without a
        name is called by its operator and its number among the recurrent nodes, such as LSTM_0.

    Raises:
        ImportError: The package onnx is missing.
        OSError: The file cannot be opened.
        OnnxError: Whatever is wrong with the file. It is no ONNX file, breaks the format's rules,
            asks for more memory or time than a file of its size may, or has no recurrent node; or a
            node asks for what no layer does: peepholes, clip, input_forget, other activations,
            direction = "reverse", or weights, states or lengths that are not where a layer has
            them. It is a ValueError.

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
    model = _parsed(path)
    reader = _Reader(os.fsdecode(path), _Graph(os.fsdecode(path), model))
    stacks: list[list[_Read]] = []
    tops: dict[str, list[_Read]] = {}  # by the output of the last node
    for read in reader.recurrent():
        stack = tops.pop(reader.below(read), None)
        if stack is not None and read.continues(stack[-1]):
            stack.append(read)
        else:
            stack = [read]
            stacks.append(stack)
        tops[read.output] = stack
    if not stacks:
        _fail(
            "{path} must have an RNN, LSTM or GRU node, got none: what other nodes compute, such "
            "as the Scan of a projected LSTM, is not read",
            path=path,
        )
    return {stack[0].name: _build(stack) for stack in stacks}


def _fail(sentence: str, cause: Exception | None = None, /, **values: Any) -> NoReturn:
    raise OnnxError(say("elman.onnx.load: {text}", text=say(sentence, **values))) from cause


# --- a file that keeps the rules --------------------------------------------------------------


# An onnx.ModelProto without functions, checked. All errors of the package are converted here.
def _parsed(path: str | os.PathLike[str]) -> Any:
    onnx, checker = package("onnx"), package("onnx.checker")
    is_file, size = stat.S_ISREG(os.stat(path).st_mode), os.stat(path).st_size
    if not is_file:
        _fail(
            "{path} must be a regular file, got a directory, pipe or device: pass a file's path",
            path=path,
        )
    if size > _MAX_BYTES:
        _fail(
            "{path} must be at most {limit} bytes, the limit of the format, got {got}",
            path=path,
            limit=_MAX_BYTES,
            got=size,
        )
    content = Path(path).read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except package("google.protobuf.message").DecodeError as error:
        _fail(
            "{path} must be an ONNX file, got something else: {error}",
            error,
            path=path,
            error=error,
        )
    try:
        _check_opset(path, model)
        _check(path, model)
        if model.functions:
            _check_functions(path, model, _GROWTH * size + _ROOM)
            model = package("onnx.inliner").inline_local_functions(model)
            _check(path, model)
        _check_names(path, model.graph, set())
    except UnicodeDecodeError as error:
        _fail(
            "{path}: names must be UTF-8, got other bytes: {error}", error, path=path, error=error
        )
    except (checker.ValidationError, RuntimeError, ValueError) as error:
        if isinstance(error, OnnxError):
            raise
        _fail(
            "{path} must keep the rules of ONNX, but onnx says: {error}",
            error,
            path=path,
            error=_short(error),
        )
    return model


# The checker's verdict. It looks for external data beside the file, if it knows where that is; it
# wants a shape of each input and output, which the format does not.
def _check(path: Any, model: Any) -> None:
    checker = package("onnx.checker")
    if any(tensor.HasField("data_location") for tensor in model.graph.initializer):
        checker.check_model(os.fsdecode(path))
        return
    types = [value.type for value in (*model.graph.input, *model.graph.output)]
    bare = [t.tensor_type for t in types if t.HasField("tensor_type")]
    bare = [tensor for tensor in bare if not tensor.HasField("shape")]
    for tensor in bare:
        tensor.shape.SetInParent()
    checker.check_model(model)
    for tensor in bare:
        tensor.ClearField("shape")


def _check_opset(path: Any, model: Any) -> None:
    newest = package("onnx").defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in _DOMAINS]
    if len(versions) > 1 or any(not 1 <= version <= newest for version in versions):
        _fail(
            "{path}: the opset must be one from 1 to {newest}, got {got}: a newer package onnx may "
            "know it",
            path=path,
            newest=newest,
            got=", ".join(map(str, versions)),
        )


# Functions call each other within a bound on depth, and their nodes, written out at every call,
# stay within a number of bytes.
def _check_functions(path: Any, model: Any, limit: int) -> None:
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[Any], depth: int) -> int:
        if depth > _MAX_DEPTH:
            _fail(
                "{path}: functions must call each other at most {limit} deep, got more, or a "
                "function that calls itself",
                path=path,
                limit=_MAX_DEPTH,
            )
        total = 0
        for top in nodes:
            total += top.ByteSize()
            for node in (top, *_within(top)):
                key = (node.domain, node.op_type)
                if key in functions:
                    if key not in sizes:
                        sizes[key] = size(functions[key].node, depth + 1)
                    total += sizes[key]
        return total

    total = size(model.graph.node, 0)
    if total > limit:
        _fail(
            "{path}: the functions' nodes must be at most {limit} bytes where they are called, got "
            "{got}",
            path=path,
            limit=limit,
            got=total,
        )


# No value of a graph has two definitions, nor one in the graphs around it. The checker looks at
# outputs of nodes alone.
def _check_names(path: Any, graph: Any, outer: set[str]) -> None:
    inputs = [value.name for value in graph.input]
    stored = [tensor.name for tensor in graph.initializer]
    stored += [tensor.values.name for tensor in graph.sparse_initializer]
    made = [name for node in graph.node for name in node.output if name]
    # An initializer may be the default of an input.
    defined = Counter([*dict.fromkeys(inputs), *stored, *made])
    defined.subtract(set(inputs) & set(stored))
    twice = [name for name, count in defined.items() if count > 1 or name in outer]
    if twice:
        _fail(
            "{path}: a value must be defined once, got two of {name}",
            path=path,
            name=repr(twice[0]),
        )
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                _check_names(path, inner, outer | set(defined))


def _graphs(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


# The nodes in the bodies of a node, and those in theirs. The parser bounds their depth.
def _within(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            for inner in graph.node:
                yield inner
                yield from _within(inner)


# What is said of a file in a message: one line, not long.
def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- values -----------------------------------------------------------------------------------


class _Graph:
    """The nodes of a file, what feeds what, and the values that do not depend on its inputs.

    `fixed` are computed from the file alone, `sized` from the sizes of its inputs too.
    """

    def __init__(self, path: str, model: Any) -> None:
        self._onnx, self._path = package("onnx"), path
        self._opset = max(
            (o.version for o in model.opset_import if o.domain in _DOMAINS), default=1
        )
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        # Who reads only the size of a value does not use it.
        readers = [n for top in self.nodes for n in (top, *_within(top)) if n.op_type != "Shape"]
        self.uses = Counter(name for node in readers for name in node.input)
        self.uses.update(output.name for output in model.graph.output)
        self.shapes = {
            value.name: [axis.dim_value or axis.dim_param for axis in tensor.shape.dim]
            for value in (*model.graph.input, *model.graph.value_info)
            for tensor in [value.type.tensor_type]
            if tensor.HasField("shape")
        }
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._known: dict[str, np.ndarray[Any, Any]] = {}
        self._left = _GROWTH * model.ByteSize() + _ROOM
        self._computed = 0
        self.fixed, self.sized = {"", *self._stored}, {"", *self._stored}
        for node in self.nodes:
            if any(_within(node)):
                continue
            if self.fixed.issuperset(node.input):
                self.fixed.update(node.output)
            if node.op_type in ("Shape", "Size") or self.sized.issuperset(node.input):
                self.sized.update(node.output)

    def take(self, size: int, what: str) -> None:
        """Take so many bytes of the room there is for what is computed."""
        self._left -= size
        if self._left < 0:
            _fail(
                "{path}: what is computed from the file's constants must be at most {growth} times "
                "the file and {room} bytes, got more, in {what}",
                path=self._path,
                growth=_GROWTH,
                room=_ROOM,
                what=what,
            )

    def value(self, name: str) -> np.ndarray[Any, Any]:
        """Return the value of something fixed."""
        return self.computed(name, self._known)

    def computed(self, name: str, known: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Return a value, computed from those that are known and those stored in the file."""
        waiting = [name]  # no recursion: a chain of nodes may be long
        while waiting:
            last = waiting[-1]
            if last in known or last in self._known:
                waiting.pop()
            elif last in self._stored:
                self._known[last] = self._array(self._stored[last])
            else:
                node = self.producers.get(last)
                if node is None or node.op_type not in _COMPUTED or node.domain not in _DOMAINS:
                    got = (
                        say("an input")
                        if node is None
                        else say("what {op_type} makes", op_type=node.op_type)
                    )
                    _fail(
                        "{path}: {name} must be a constant, got {got}",
                        path=self._path,
                        name=repr(last),
                        got=got,
                    )
                missing = [n for n in node.input if n and n not in known and n not in self._known]
                waiting += missing
                if not missing:
                    inputs = {n: known.get(n, self._known.get(n)) for n in node.input if n}
                    known.update(self._run(node, inputs))
        return known[name] if name in known else self._known[name]

    def _array(self, tensor: Any) -> np.ndarray[Any, Any]:
        where = str(Path(self._path).parent)
        size = math.prod(max(0, axis) for axis in tensor.dims)
        self.take(8 * size if tensor.HasField("data_location") else 0, repr(tensor.name))
        try:
            return np.asarray(self._onnx.numpy_helper.to_array(tensor, where))
        except Exception as error:  # what the package raises for a tensor is of many kinds
            _fail(
                "{path}: {name} must be a tensor: {error}",
                error,
                path=self._path,
                name=repr(tensor.name),
                error=_short(error),
            )

    # The outputs of one node, by name. The size of each is known before it is made.
    def _run(self, node: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        self._computed += 1
        if self._computed > _MAX_COMPUTED:
            _fail(
                "{path}: at most {limit} constants must be computed, got more, in {name}",
                path=self._path,
                limit=_MAX_COMPUTED,
                name=repr(node.output[0]),
            )
        helper, numpy_helper = self._onnx.helper, self._onnx.numpy_helper
        outputs = [name for name in node.output if name]
        opset = max(self._opset, _QUANTISED.get(node.op_type, 1))
        try:
            # Sizes and axes are small; shapes follow from them and from the shapes of the others.
            small = {n: a for n, a in inputs.items() if a.size <= 64}
            graph = helper.make_graph(
                [node],
                "constant",
                [
                    helper.make_tensor_value_info(
                        n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
                    )
                    for n, a in inputs.items()
                ],
                [helper.make_empty_tensor_value_info(n) for n in outputs],
                [numpy_helper.from_array(np.asarray(a), n) for n, a in small.items()],
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
            inferred = package("onnx.shape_inference").infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
            sizes = []
            for value in inferred.graph.output:
                tensor = value.type.tensor_type
                axes = tensor.shape.dim
                if not tensor.HasField("shape") or not all(a.HasField("dim_value") for a in axes):
                    raise ValueError(say("the size of what it makes is not known"))
                width = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
                sizes.append(max(1, width) * math.prod(a.dim_value for a in axes))
        except Exception as error:  # what the package raises for a node is of many kinds
            self._refuse(node, error)
        self.take(sum(sizes), repr(outputs[0]))
        try:
            del graph.initializer[:]
            run = package("onnx.reference").ReferenceEvaluator(model).run
            with np.errstate(all="ignore"):
                results = run(None, dict(inputs))
        except Exception as error:  # the same
            self._refuse(node, error)
        return dict(zip(outputs, map(np.asarray, results), strict=True))

    def _refuse(self, node: Any, error: Exception) -> NoReturn:
        _fail(
            "{path}: {name} must be what {op_type} can compute: {error}",
            error,
            path=self._path,
            name=repr(node.output[0]),
            op_type=node.op_type,
            error=_short(error),
        )

    def sources(self, name: str) -> Iterator[str]:
        """Return the values whose elements this one has, moved or repeated by other nodes."""
        waiting, seen = [name], {name}
        while waiting:
            name = waiting.pop()
            node = self.producers.get(name)
            if node is not None and node.op_type == "Concat":
                more = list(node.input)
            elif node is not None and node.op_type in _MOVED:
                more = list(node.input[:1])
            else:
                yield name
                continue
            waiting += [n for n in more if n not in seen]
            seen.update(more)

    def keeps(self, name: str) -> bool:
        """Whether a value has elements of the file's own, other than zeros."""
        for source in self.sources(name):
            node = self.producers.get(source)
            if node is not None and node.op_type == "ConstantOfShape":
                filled = [a.t for a in node.attribute if a.name == "value"]
                if filled and self._array(filled[0]).any():
                    return True
            elif source in self.fixed:
                computed = node is None or node.op_type in _COMPUTED
                if not computed or self.value(source).any():
                    return True
            elif source in self.sized:
                return True
        return False


# --- nodes ------------------------------------------------------------------------------------


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


def _build(stack: Sequence[_Read]) -> Layer:
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


class _Reader:
    """What the recurrent nodes of a graph are in our terms."""

    def __init__(self, path: str, graph: _Graph) -> None:
        self._path, self._graph = path, graph

    def recurrent(self) -> Iterator[_Read]:
        """Return the recurrent nodes, in the order of the file."""
        nodes = self._graph.nodes
        named = Counter(node.name for node in nodes)
        taken, count = {name for name in named if named[name] == 1}, 0
        for node in nodes:
            if _is_recurrent(node):
                name = node.name
                if not name or named[name] > 1:
                    while (name := f"{node.op_type}_{count}") in taken:
                        count += 1
                    taken.add(name)
                yield self._read(node, name)
                count += 1
            for inner in filter(_is_recurrent, _within(node)):
                self._refuse(
                    inner,
                    say(
                        "it must not stand in another node, got it in a {op_type}",
                        op_type=node.op_type,
                    ),
                )

    def below(self, read: _Read) -> str:
        """Return the output Y of a node if it is all of a node's input, and nothing else; or ""."""
        uses, producers = self._graph.uses, self._graph.producers
        width, hidden_size, directions = read.sizes
        node = producers.get(read.input)
        if node is None or uses[read.input] != 1:
            return ""
        # What is beneath may be of one direction or two; whether it fits is for `continues`.
        if node.op_type == "Squeeze":
            found = node.input[0] if self._says(node) == [2 if read.batch_first else 1] else ""
        elif node.op_type == "Reshape":
            found = node.input[0]
            if not self._flattens(node, width, directions, hidden_size):
                return ""
            if not read.batch_first:
                turned = producers.get(found)
                if turned is None or turned.op_type != "Transpose" or uses[found] != 1:
                    return ""
                found = turned.input[0] if self._says(turned) == [0, 2, 1, 3] else ""
        else:
            return ""
        return str(found) if uses[found] == 1 else ""

    # The axes or the order of a node that moves values.
    def _says(self, node: Any) -> list[int] | None:
        for attribute in node.attribute:
            if attribute.name in ("axes", "perm"):
                return list(attribute.ints)
        more = node.input[1] if len(node.input) > 1 else ""
        return _sizes(self._graph.value(more)) if more and more in self._graph.fixed else None

    # Whether a Reshape joins the last two axes of (L, N, D, H) or (N, L, D, H), width in all.
    def _flattens(self, node: Any, width: int, directions: int, hidden_size: int) -> bool:
        graph, source = self._graph, node.input[0]
        if len(node.input) < 2 or width != directions * hidden_size:
            return False
        shape = node.input[1]
        if shape in graph.fixed:
            has_zero = all(a.i == 0 for a in node.attribute if a.name == "allowzero")
            declared = [*graph.shapes.get(source, [])[:2], width]
            asked = _sizes(graph.value(shape))
            # One axis may be left to what remains. Two are those of the source, copied or repeated.
            if len(asked) != 3 or asked.count(-1) > 1:
                return False
            if len(declared) != 3:
                declared = ["", "", width]
            return all(
                size in (-1, known) or (size == 0 and has_zero and axis < 2)
                for axis, (size, known) in enumerate(zip(asked, declared, strict=True))
            )
        # A shape that follows from that of the source is tried with sizes that nothing else has.
        for seq_len, batch in ((10007, 10009), (20011, 20021)):
            if not self._follows(shape, source):
                return False
            probe = np.broadcast_to(np.float32(0), (seq_len, batch, directions, hidden_size))
            asked = _sizes(graph.computed(shape, {source: probe}))
            if asked not in ([seq_len, batch, width], [seq_len, batch, -1]):
                return False
        return True

    # Whether a value can be computed from constants and the shape of another value.
    def _follows(self, name: str, source: str) -> bool:
        graph, waiting, seen = self._graph, [name], {name}
        while waiting:
            name = waiting.pop()
            if name in graph.fixed or name == source:
                continue
            node = graph.producers.get(name)
            if node is None or node.op_type not in _COMPUTED:
                return False
            if source in node.input and node.op_type != "Shape":
                return False
            waiting += [n for n in node.input if n not in seen]
            seen.update(node.input)
        return True

    def _refuse(self, node: Any, text: str) -> NoReturn:
        name = node.name if node.name.isprintable() else ascii(node.name)
        _fail(
            "{path}, node {name} ({op_type}): {text}",
            path=self._path,
            name=name or say("(no name)"),
            op_type=node.op_type,
            text=text,
        )

    def _read(self, node: Any, name: str) -> _Read:
        x, w, r, b, lengths, *states, peepholes = [*node.input, *[""] * 8][:8]
        attributes = self._attributes(node)
        if peepholes:
            self._refuse(node, say("P must be left out, got peepholes: no layer has them"))
        for what, state in zip(("initial_h", "initial_c"), states, strict=True):
            if state and self._graph.keeps(state):
                self._refuse(
                    node,
                    say(
                        "{what} must be zeros or an input of the model, got constants: a layer "
                        "keeps no initial state",
                        what=what,
                    ),
                )
        if lengths and not self._graph.fixed.isdisjoint(self._graph.sources(lengths)):
            self._refuse(
                node,
                say(
                    "sequence_lens must be an input of the model, got a constant: a layer keeps no "
                    "lengths"
                ),
            )
        directions = 2 if attributes["direction"] == b"bidirectional" else 1
        cell = self._cell(node, attributes, directions)
        weights = self._weights(node, cell, directions, attributes["hidden_size"], (w, r, b))
        assert weights[0] is not None
        declared = self._graph.shapes.get(x, ["", "", ""])
        size = weights[0].shape[1]
        if len(declared) != 3 or (declared[2] != size and isinstance(declared[2], int)):
            axes = f"[L, N, {size}]" if attributes["layout"] == 0 else f"[N, L, {size}]"
            self._refuse(node, say("X must be {axes}, as W is, got {got}", axes=axes, got=declared))
        batch_first = attributes["layout"] == 1
        return _Read(name, cell, batch_first, x, lengths, node.output[0], weights)

    # The attributes of a recurrent node, all of them, each of the type and within the values that
    # the format gives it.
    def _attributes(self, node: Any) -> dict[str, Any]:
        attributes = dict(_DEFAULTS)
        for attribute in node.attribute:
            name = attribute.name
            value = package("onnx").helper.get_attribute_value(attribute)
            if name not in _DEFAULTS or (name == "input_forget" and value):
                self._refuse(
                    node,
                    say(
                        "{name} must be left out, got {got}: no layer has it",
                        name=name,
                        got=_short(value),
                    ),
                )
            attributes[name] = value
        if attributes["direction"] == b"reverse":
            self._refuse(
                node,
                say(
                    "direction must be 'forward' or 'bidirectional', got 'reverse': no layer runs "
                    "backwards only"
                ),
            )
        if attributes["direction"] not in (b"forward", b"bidirectional"):
            direction = attributes["direction"].decode(errors="replace")
            self._refuse(
                node,
                say(
                    "direction must be 'forward' or 'bidirectional', got {got}",
                    got=_short(repr(direction)),
                ),
            )
        for name in ("layout", "linear_before_reset"):
            if attributes[name] not in (0, 1):
                self._refuse(
                    node, say("{name} must be 0 or 1, got {got}", name=name, got=attributes[name])
                )
        return attributes

    # The cell whose operator, functions and way of resetting are the node's.
    def _cell(self, node: Any, attributes: Mapping[str, Any], directions: int) -> Cell:
        usual, asked = _ACTIVATIONS[node.op_type], attributes["activations"]
        functions = [name.decode(errors="replace") for name in asked] or usual * directions
        reset, rules = attributes["linear_before_reset"], []
        # RNN's default has two, whatever the direction.
        lengths = {directions * len(usual), 2 if node.op_type == "RNN" else 0}
        for cell in CELLS.values():
            if cell.onnx_op == node.op_type:
                own = {"activations": usual, "linear_before_reset": 0, **cell.onnx_attributes}
                rule = own["activations"] * directions
                rules.append(rule)
                given = [f.lower() for f in functions[: len(rule)]]  # their case is free
                is_same = len(functions) in lengths and given == [f.lower() for f in rule]
                if is_same and own["linear_before_reset"] == reset:
                    return cell
        known = say(" or ").join(dict.fromkeys(map(str, rules)))
        self._refuse(
            node,
            say(
                "activations must be {known}, got {got}: no layer has others",
                known=known,
                got=_short(functions),
            ),
        )

    # W, R and B -> w_ih, w_hh, b_ih, b_hh, w_hr of each direction, in our order of gates
    def _weights(
        self, node: Any, cell: Cell, directions: int, hidden_size: int, names: Sequence[str]
    ) -> list[Tensor | None]:
        graph = self._graph
        for letter, name in zip("WRB", names, strict=True):
            if name not in graph.fixed or not (name or letter == "B"):
                self._refuse(
                    node,
                    say(
                        "{letter} must be a constant of the file, got {got}",
                        letter=letter,
                        got=repr(name),
                    ),
                )
            maker = graph.producers.get(name)
            if maker is not None and maker.op_type not in _COMPUTED:
                self._refuse(
                    node,
                    say(
                        "{letter} must be a constant of the file, got what {op_type} makes",
                        letter=letter,
                        op_type=maker.op_type,
                    ),
                )
        arrays = {letter: graph.value(n) for letter, n in zip("WRB", names, strict=True) if n}
        kinds = {array.dtype.name for array in arrays.values()}
        if len(kinds) > 1 or not kinds <= {"float16", "float32", "float64"}:
            self._refuse(
                node,
                say(
                    "W, R and B must all be float16, float32 or float64, got {got}",
                    got=", ".join(sorted(kinds)),
                ),
            )
        if arrays["W"].ndim != 3 or not arrays["W"].shape[2]:
            self._refuse(
                node,
                say(
                    "W must be ({directions}, {gates} * hidden_size, input_size), got {got}",
                    directions=directions,
                    gates=len(cell.gates),
                    got=arrays["W"].shape,
                ),
            )
        hidden_size = hidden_size or (0, *arrays["R"].shape)[-1]
        if hidden_size < 1:
            self._refuse(node, say("hidden_size must be at least 1, got {got}", got=hidden_size))
        height = len(cell.gates) * hidden_size
        wanted = {
            "W": (directions, height, arrays["W"].shape[2]),
            "R": (directions, height, hidden_size),
            "B": (directions, 2 * height),
        }
        for letter, array in arrays.items():
            if array.shape != wanted[letter]:
                self._refuse(
                    node,
                    say(
                        "{letter} must be {shape}, got {got}",
                        letter=letter,
                        shape=wanted[letter],
                        got=array.shape,
                    ),
                )
        # Many nodes may share what the file has once.
        graph.take(sum(array.nbytes for array in arrays.values()), say("the weights of its layers"))
        w, r, b = (torch.tensor(arrays[x]) if x in arrays else None for x in "WRB")
        assert w is not None
        assert r is not None

        order = rows(cell.onnx_gates, cell.gates, hidden_size)
        weights: list[Tensor | None] = []
        for d in range(directions):
            biases = (None, None) if b is None else (half[order] for half in b[d].chunk(2))
            weights += [w[d][order], r[d][order], *biases, None]
        return weights


# Sizes or axes as a list, which is empty if the file has something else in their place.
def _sizes(value: np.ndarray[Any, Any]) -> list[int]:
    return value.tolist() if value.ndim == 1 and value.dtype == np.int64 else []


def _is_recurrent(node: Any) -> bool:
    return node.op_type in _ACTIVATIONS and node.domain in _DOMAINS
