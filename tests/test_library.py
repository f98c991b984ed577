"""Layers as operators: what torch.compile and torch.export make of them.

Graphs are made by torch.compile's aot_eager, which is quick; its default is tried once. What
torch.func makes of the operators is in test_transforms.py.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from elman import core
from elman.cells import CELLS
from elman.shapes import ShapeError

pytestmark = [
    pytest.mark.skipif(not core._compiled, reason="needs the native core"),
    # what PyTorch's own compiler says of itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

tree_leaves = torch.utils._pytree.tree_leaves


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counter:
    """A backend that keeps the graphs it is given, and compiles them by aot_eager."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def layers(self, number: int = -1) -> int:
        return count_layers(self.graphs[number].graph)


def count_layers(graph: torch.fx.Graph) -> int:
    return sum(str(node.target).startswith("elman.layer") for node in graph.nodes)


def same(ours: Any, theirs: Any) -> None:
    ours, theirs = tree_leaves(ours), tree_leaves(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# results and, of random gradients upon all of them, the gradients of every leaf
def solve(call: Callable[..., Any], inputs: list[Any], parameters: list[Tensor]) -> list[Tensor]:
    results = [t for t in tree_leaves(call(*inputs)) if t is not None and t.is_floating_point()]
    leaves = [t for t in tree_leaves(inputs) if t is not None and t.requires_grad]
    upstream = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in results]
    return [*results, *torch.autograd.grad(results, [*leaves, *parameters], upstream)]


def initial(layer: Any, batch: int) -> Any:
    rows = layer.num_layers * (1 + layer.bidirectional)
    states = [torch.randn(rows, batch, layer.hidden_size, requires_grad=True) for _ in "hc"]
    return tuple(states) if layer.mode == "LSTM" else states[0]


# --- the operators ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["padded", "ragged", "packed", "reset"])
@pytest.mark.parametrize("name", CELLS)
def test_the_operators_are_what_torch_library_asks_of_them(name: str, form: str) -> None:
    cell = CELLS[name]
    torch.manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    rows, width = 4 * len(cell.gates), 2 if name == "lstm" else 4
    sizes = torch.tensor([3, 2, 1]) if form == "packed" else None
    lengths = torch.tensor([4, 0, 2]) if form == "ragged" else None
    weights = []
    for _ in range(2):
        weights += [leaf(rows, 3), leaf(rows, width), leaf(rows), leaf(rows)]
        weights.append(leaf(2, 4) if name == "lstm" else None)
    states = [leaf(2, 3, width), leaf(2, 3, 4) if name == "lstm" else None]
    x = leaf(6, 3) if form == "packed" else leaf(4, 3, 3)
    resets, to = None, [None, None]
    if form == "reset":  # in one direction
        weights[5:], states = [None] * 5, [s if s is None else leaf(*s[:1].shape) for s in states]
        resets, to = torch.rand(4, 3) < 0.4, [leaf(width), leaf(4) if name == "lstm" else None]
    read = (x, sizes, lengths, resets, *states, *to, *weights)
    torch.library.opcheck(torch.ops.elman.layer, (*read, name, True))
    plainly = ("test_schema", "test_faketensor")  # the others are slow
    torch.library.opcheck(torch.ops.elman.layer, (*read, name, False), test_utils=plainly)
    plain = tuple(t.detach() if isinstance(t, Tensor) else t for t in read)
    output, h_n, c_n, kept = torch.ops.elman.layer(*plain, name, True)
    upstream = [t.sin() if t.numel() else None for t in (output, h_n, c_n)]
    present = [t is not None for t in (read[0], *read[4:])]
    for wanted in (present, [True] + [False] * 14):
        arguments = (*plain, name, output, kept, *upstream, wanted, 1)
        torch.library.opcheck(torch.ops.elman.layer_backward, arguments, test_utils=plainly)


@pytest.mark.parametrize("name", CELLS)
def test_a_backward_pass_that_nobody_expected_computes_again_what_it_needs(name: str) -> None:
    rows = 4 * len(CELLS[name].gates)
    weights = [torch.randn(*shape) for shape in ((rows, 3), (rows, 4), (rows,), (rows,))]
    x = torch.randn(5, 2, 3, requires_grad=True)
    gradients = []
    for keep in (False, True):
        absent = [None] * 7
        output, *_ = torch.ops.elman.layer(x, *absent, *weights, None, *[None] * 5, name, keep)
        gradients += torch.autograd.grad(output.sin().sum(), x)
    same(*gradients)


@pytest.mark.parametrize("with_to", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_resets_are_compiled_with_the_same_bits_and_stay_apart_for_samples(
    kind: str, with_to: bool
) -> None:
    layer = getattr(elman, kind)(3, 4)
    x, at = torch.randn(6, 5, 3, requires_grad=True), torch.rand(6, 5) < 0.3
    to = [torch.randn(1, 4, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    options = {"reset_to": tuple(to) if kind == "LSTM" else to[0]} if with_to else {}

    def run(x: Tensor, at: Tensor) -> Tensor:
        return layer(x, reset=at, **options)[0]

    leaves = [x, *(to if with_to else ()), *layer.parameters()]
    expected = run(x, at)
    gradients = torch.autograd.grad(expected.square().sum(), leaves)
    output = torch.compile(run, backend="aot_eager", fullgraph=True)(x, at)
    same(output, expected)
    found = torch.autograd.grad(output.square().sum(), leaves)
    for ours, theirs in zip(found, gradients, strict=True):
        same(ours, theirs)

    def loss(parameters: Any, x: Tensor, at: Tensor) -> Tensor:
        call = {"reset": at[:, None], **options}
        output, _ = torch.func.functional_call(layer, parameters, (x[:, None],), call)
        return output.square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    apart = torch.func.vmap(torch.func.grad(loss), (None, 1, 1))(parameters, x.detach(), at)
    for (name, _), whole in zip(
        layer.named_parameters(), gradients[-len(parameters) :], strict=True
    ):
        close = torch.testing.assert_close
        close(apart[name].sum(0), whole, rtol=1e-4, atol=1e-5)


# --- torch.compile ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["whole", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_compiled_stack_has_one_node_for_each_layer_and_the_bits_of_the_call(
    kind: str, form: str
) -> None:
    layer = getattr(elman, kind)(4, 5, 2, bidirectional=form == "whole")
    counter = Counter()
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for seq_len, batch in ((6, 3), (7, 3), (9, 4), (12, 5), (20, 8)):
        inputs = [torch.randn(seq_len, batch, 4, requires_grad=True), initial(layer, batch)]
        if form == "lengths":
            inputs.append(torch.randint(0, seq_len + 1, (batch,)))
        parameters = list(layer.parameters())
        same(solve(compiled, inputs, parameters), solve(layer, inputs, parameters))
        assert counter.layers() == 2
    assert len(counter.graphs) <= 3


@pytest.mark.parametrize("kind", LAYERS)
def test_the_graph_of_a_long_sequence_is_as_small_as_that_of_a_short_one(kind: str) -> None:
    layer, sizes = getattr(elman, kind)(4, 5, 2, bidirectional=True), []
    for seq_len in (5, 500):
        torch._dynamo.reset()
        counter = Counter()
        torch.compile(layer, fullgraph=True, backend=counter)(torch.randn(seq_len, 2, 4))
        sizes.append(len(counter.graphs[0].graph.nodes))
    assert sizes[0] == sizes[1] < 60


@pytest.mark.parametrize("kind", STEP_CELLS)
def test_a_compiled_cell_has_the_bits_of_the_call(kind: str) -> None:
    cell = getattr(elman, kind)(4, 5)
    counter = Counter()
    compiled = torch.compile(cell, fullgraph=True, backend=counter)
    h, c = (torch.randn(3, 5, requires_grad=True) for _ in "hc")
    for inputs in (
        [torch.randn(3, 4, requires_grad=True)],
        [torch.randn(3, 4, requires_grad=True), (h, c) if kind == "LSTMCell" else h],
        [torch.randn(4, requires_grad=True)],
    ):
        parameters = list(cell.parameters())
        if len(inputs) == 1:  # what no gradient reaches
            parameters = [p for name, p in cell.named_parameters() if name != "weight_hh"]
        same(solve(compiled, inputs, parameters), solve(cell, inputs, parameters))
        assert counter.layers() == 1


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences_go_into_a_graph_and_come_out_of_it(kind: str, with_hx: bool) -> None:
    layer = getattr(elman, kind)(4, 5, 2, bidirectional=True)
    counter = Counter()
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for lengths in ([5, 3, 1], [2, 6, 4, 4]):
        rows = [torch.randn(length, 4) for length in lengths]
        packed = pack_sequence(rows, enforce_sorted=lengths[0] == 5)
        inputs = [packed, initial(layer, len(lengths)) if with_hx else None]
        assert isinstance(compiled(*inputs)[0], PackedSequence)
        parameters = list(layer.parameters())
        same(solve(compiled, inputs, parameters), solve(layer, inputs, parameters))
        assert counter.layers() == 2


@pytest.mark.parametrize("kind", LAYERS)
def test_a_jagged_nested_tensor_passes_between_graphs(kind: str) -> None:
    layer = getattr(elman, kind)(4, 5)
    rows = [torch.randn(length, 4) for length in (5, 3, 1)]
    nested = torch.nested.nested_tensor(rows, layout=torch.jagged)
    counter = Counter()
    ours, theirs = torch.compile(layer, backend=counter)(nested)[0], layer(nested)[0]
    same(ours.values(), theirs.values())
    same(ours.offsets(), theirs.offsets())


def test_wrong_lengths_are_refused_where_a_graph_meets_them() -> None:
    layer = elman.GRU(4, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 3, 4)
    same(compiled(x, None, torch.tensor([1, 6, 0])), layer(x, None, torch.tensor([1, 6, 0])))
    for wrong in (7, -1):
        with pytest.raises(ShapeError) as caught:
            compiled(x, None, torch.tensor([1, wrong, 0]))
        text = f"elman::layer: lengths must be from 0 to L = 6, got {wrong}: "
        assert str(caught.value) == text + "give the steps of each sequence before padding"


@pytest.mark.parametrize(
    ("sizes", "with_hx", "text"),
    [
        ([2, 3, 1], False, "input.batch_sizes must be positive and never grow, got [2, 3, 1]"),
        ([3, 3, 0], False, "input.batch_sizes must be positive and never grow, got [3, 3, 0]"),
        ([3, 2, 2], False, "sum(batch_sizes) = 7 rows, got 6"),
        ([4, 1, 1], True, "must begin with N = 3, the sequences of hx, got 4"),
    ],
    ids=str,
)
def test_wrong_batch_sizes_are_refused_where_a_graph_meets_them(
    sizes: list[int], with_hx: bool, text: str
) -> None:
    layer = elman.GRU(4, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    hx = torch.randn(1, 3, 5) if with_hx else None
    data = torch.randn(6, 4)
    compiled(PackedSequence(data, torch.tensor([3, 2, 1])), hx)
    with pytest.raises(ShapeError) as caught:
        compiled(PackedSequence(data, torch.tensor(sizes)), hx)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [(torch.randn(6, 3, 7),), (torch.randn(6, 3, 4), torch.randn(1, 2, 5))],
    ids=["features", "state"],
)
def test_wrong_shapes_are_refused_while_a_graph_is_made(args: tuple[Any, ...]) -> None:
    compiled = torch.compile(elman.GRU(4, 5), backend="aot_eager")
    with pytest.raises(ShapeError, match=r"GRU: (input|h_0) must"):
        compiled(*args)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_within_a_graph_lowers_as_outside(kind: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = getattr(elman, kind)(4, 5, 2)

        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu"):
                return self.layer(x)

    model, x = Model(), torch.randn(6, 3, 4).bfloat16()
    ours, theirs = torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x)
    assert tree_leaves(ours)[0].dtype is torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)  # its products are of float32


def test_dropout_between_compiled_layers_draws_anew_at_each_call() -> None:
    layer = elman.LSTM(4, 5, 2, dropout=0.5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 3, 4)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    layer.eval()
    same(compiled(x), layer(x))


class Tagger(nn.Module):
    """A model in which something else stands on either side of a layer."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.layer = getattr(elman, kind)(4, 5, 2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(2 * options.get("proj_size", 5), 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(ids))[0])


@pytest.mark.filterwarnings("ignore")  # the compiler of C++ has more to say, by its version
def test_the_default_compiler_gives_the_same_model() -> None:
    model = Tagger("GRU")
    compiled = torch.compile(model, fullgraph=True)
    for shape in ((3, 6), (2, 300)):
        ids = torch.randint(0, 11, shape)
        torch.testing.assert_close(compiled(ids), model(ids))
        gradients = []
        for call in (compiled, model):
            model.zero_grad()
            call(ids).square().sum().backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


# --- torch.export -------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("RNN", {}), ("LSTM", {"proj_size": 3}), ("GRU", {}), ("GRU", {"reset_after": False})],
    ids=str,
)
def test_an_exported_model_runs_at_other_sizes_is_saved_and_trains(
    kind: str, options: dict[str, Any], strict: bool
) -> None:
    model = Tagger(kind, **options)
    ids = torch.randint(0, 11, (3, 6))
    dynamic = ({0: Dim("batch"), 1: Dim("time")},)
    program = torch.export.export(model, (ids,), dynamic_shapes=dynamic, strict=strict)
    assert count_layers(program.graph) == 2
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (program, torch.export.load(file)):
        module = exported.module()
        for shape in ((3, 6), (1, 9), (7, 1)):
            ids = torch.randint(0, 11, shape)
            same(module(ids), model(ids))
        # It was exported without what the backward pass needs, which that computes again.
        module(ids).square().sum().backward()
        model.zero_grad()
        model(ids).square().sum().backward()
        theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
        ours = {name: parameter.grad for name, parameter in module.named_parameters()}
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_and_states_are_inputs_of_an_exported_layer(kind: str) -> None:
    layer = getattr(elman, kind)(4, 5)
    batch, time = Dim("batch"), Dim("time")
    hx = initial(layer, 3)
    of_hx = ({1: batch}, {1: batch}) if kind == "LSTM" else {1: batch}
    program = torch.export.export(
        layer,
        (torch.randn(6, 3, 4), hx, torch.tensor([1, 6, 0])),
        dynamic_shapes=({0: time, 1: batch}, of_hx, {0: batch}),
    )
    inputs = torch.randn(9, 5, 4), initial(layer, 5), torch.tensor([1, 9, 0, 4, 9])
    same(program.module()(*inputs), layer(*inputs))
    with pytest.raises(ShapeError, match="lengths must be from 0 to L = 9, got 10"):
        program.module()(*inputs[:2], torch.tensor([1, 10, 0, 4, 9]))
