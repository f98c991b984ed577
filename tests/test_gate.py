"""What is read as memory and what is not: tensors that change, that have none, that are watched."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

import elman
from elman import core
from elman.shapes import KindError, ShapeError, UnreadableError

pytestmark = [
    pytest.mark.skipif(not core._compiled, reason="needs the native core"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

tree_leaves = torch.utils._pytree.tree_leaves
MODULES = (*LAYERS, *STEP_CELLS)


# A module, a batch for it, and states.
def make(kind: str, **options: Any) -> tuple[Any, Tensor, Any]:
    torch.manual_seed(0)
    if kind in STEP_CELLS:
        module, x, shape = getattr(elman, kind)(3, 4, **options), torch.randn(2, 3), (2, 4)
    else:
        module = getattr(elman, kind)(3, 4, bidirectional=True, **options)
        x, shape = torch.randn(5, 2, 3), (2, 2, 4)
    states = [torch.randn(shape).to(x) for _ in "hc"]
    return module, x, tuple(states) if kind.startswith("LSTM") else states[0]


def first(results: Any) -> Tensor:
    return tree_leaves(results)[0]


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(tree_leaves(ours), tree_leaves(theirs), rtol=1e-5, atol=1e-6)


# --- tensors that change ------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], Any]] = {
    "freed": lambda t: t.untyped_storage().resize_(0),
    "cut": lambda t: t.untyped_storage().resize_(8),
    "half": lambda t: setattr(t, "data", t.data.half()),
    "double": lambda t: setattr(t, "data", t.data.double()),
    "smaller": lambda t: setattr(t, "data", t.data[:1].clone()),
    "empty": lambda t: setattr(t, "data", t.data.new_empty(0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", MODULES)
def test_what_changes_between_forward_and_backward_is_refused(kind: str, change: str) -> None:
    for name in ("input", "state", "weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        module, x, hx = make(kind)
        given = {"input": x, "state": first(hx)}
        output = first(module(x, hx))
        tensor = given.get(name)
        if tensor is None:
            tensor = next(p for key, p in module.named_parameters() if name in key)
        CHANGES[change](tensor)
        with pytest.raises(UnreadableError, match=r"must be \d+ values of torch.float"):
            output.sum().backward()


@pytest.mark.parametrize("change", ["freed", "cut"])
@pytest.mark.parametrize("kind", MODULES)
def test_memory_that_is_not_there_is_refused_before_it_is_read(kind: str, change: str) -> None:
    for name in ("input", "state", "weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        for grad_mode in (True, False):
            module, x, hx = make(kind)
            tensor = {"input": x, "state": first(hx)}.get(name)
            if tensor is None:
                tensor = next(p for key, p in module.named_parameters() if name in key)
            CHANGES[change](tensor)
            what = "h_0" if name == "state" else name
            rule = f"{what} must be values of torch.float32 in memory of the CPU, got a storage of "
            with torch.set_grad_enabled(grad_mode), pytest.raises(UnreadableError, match=rule):
                module(x, hx)


@pytest.mark.parametrize("change", ["freed", "cut", "double"])
def test_a_projection_that_changes_is_refused(change: str) -> None:
    module, x, _ = make("LSTM", proj_size=2)
    output = first(module(x))
    CHANGES[change](module.weight_hr_l0_reverse)
    with pytest.raises(UnreadableError, match=r"weight_hr must be 8 values of torch.float32"):
        output.sum().backward()


@pytest.mark.parametrize("kind", MODULES)
def test_upstream_gradients_and_results_are_looked_at_too(kind: str) -> None:
    module, x, hx = make(kind)
    output = first(module(x, hx))
    upstream = torch.randn_like(output)
    upstream.untyped_storage().resize_(4)
    with pytest.raises(UnreadableError, match=r"the gradient of output must be"):
        output.backward(upstream, retain_graph=True)
    upstream = torch.randn_like(output)
    output.untyped_storage().resize_(4)
    with pytest.raises(UnreadableError, match=r"output must be"):
        output.backward(upstream)


@pytest.mark.parametrize("kind", MODULES)
def test_a_strided_tensor_is_copied_only_if_all_of_it_is_there(kind: str) -> None:
    module, x, hx = make(kind)
    wide = torch.stack((x, x), -1)
    strided = wide[..., 0]
    close(module(strided, hx), module(x, hx))
    wide.untyped_storage().resize_(wide.untyped_storage().nbytes() - 8)
    with pytest.raises(UnreadableError, match=r"input must be values of torch.float32"):
        module(strided, hx)
    view = torch.zeros(3 * x.numel())[x.numel() : 2 * x.numel()].view_as(x)
    view.copy_(x)
    close(module(view, hx), module(x, hx))
    view.untyped_storage().resize_(4 * x.numel())
    with pytest.raises(UnreadableError, match=r"input must be values of torch.float32"):
        module(view, hx)


@pytest.mark.parametrize("which", ["numpy", "data"])
@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_are_those_of_the_call(kind: str, which: str) -> None:
    module, x, hx = make(kind)
    leaves = list(module.parameters())
    theirs = torch.autograd.grad(first(module(x, hx, [5, 2])).sin().sum(), leaves)
    for wrong in (10**9, 3, -1):
        lengths = torch.from_numpy(np.array([5, 2]))
        output = first(module(x, hx, lengths))
        lengths.numpy()[:] = wrong
        if which == "data":
            lengths.data.fill_(wrong)
        close(torch.autograd.grad(output.sin().sum(), leaves), theirs)


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_sizes_are_those_of_the_call(kind: str) -> None:
    module, x, hx = make(kind)
    leaves, results = list(module.parameters()), []
    for wrong in (None, 10**9, 1):
        packed = pack_padded_sequence(x, torch.tensor([5, 2]))
        output = module(packed, hx)[0].data
        if wrong:
            packed.batch_sizes.numpy()[:] = wrong
        results.append(torch.autograd.grad(output.sin().sum(), leaves))
    close(results[1], results[0])
    close(results[2], results[0])


# --- an output that is changed ------------------------------------------------------------------

IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "mul_": lambda y: y.mul_(torch.linspace(-1, 2, y.numel()).view_as(y)),
    "relu_": torch.relu_,
    "of a part": lambda y: y[1:].zero_(),
    "of a view": lambda y: y.view(-1).sin_(),
}


@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("kind", MODULES)
def test_an_output_may_be_changed_before_the_backward_pass(kind: str, change: str) -> None:
    module, x, hx = make(kind)
    states = [s.requires_grad_() for s in tree_leaves(hx)]
    leaves = [x.requires_grad_(), *states, *module.parameters()]

    def solve(apart: bool) -> list[Tensor]:
        results = [t.clone() if apart else t for t in tree_leaves(module(x, hx))]
        for result in results:
            IN_PLACE[change](result)
        loss = sum(result.sin().sum() for result in results)
        once = torch.autograd.grad(loss, leaves, retain_graph=True)
        assert all(map(torch.equal, once, torch.autograd.grad(loss, leaves, retain_graph=True)))
        twice = torch.autograd.grad(loss, leaves, create_graph=True)
        close(twice, once)
        return [*once, *torch.autograd.grad(sum(g.sum() for g in twice), leaves)]

    torch.testing.assert_close(solve(False), solve(True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_output_of_any_layout_may_be_changed(kind: str) -> None:
    for options in ({"batch_first": True}, {"num_layers": 2}):
        module, x, _ = make(kind, **options)
        gradients = []
        for apart in (True, False):
            output = module(x)[0]
            output = (output.clone() if apart else output).mul_(2)
            gradients.append(torch.autograd.grad(output.sin().sum(), list(module.parameters())))
        close(*gradients)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_output_may_be_changed_within_transforms_and_modes(kind: str) -> None:
    module, x, _ = make(kind)

    def loss(x: Tensor) -> Tensor:
        return module(x)[0].mul_(2).sin().sum()

    theirs = grad(loss)(x)
    loss(x.requires_grad_()).backward()
    close(x.grad, theirs)
    x.grad = None
    with FlopCounterMode(display=False):
        loss(x).backward()
    close(x.grad, theirs)


@pytest.mark.parametrize("kind", MODULES)
def test_inputs_and_weights_changed_in_place_are_still_noticed(kind: str) -> None:
    for index in range(3):
        module, x, hx = make(kind)
        output = first(module(x.requires_grad_(), hx))
        with torch.no_grad():
            (x, first(hx), next(module.parameters()))[index].mul_(2)
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("kind", MODULES)
def test_no_output_is_kept_alive_by_its_graph(kind: str) -> None:
    module, x, hx = make(kind)
    output = first(module(x, hx))
    saved = output.grad_fn
    while saved is not None and "_Layer" not in saved.name():
        saved = saved.next_functions[0][0]
    loss = output.sum()
    loss.backward()
    assert saved is not None
    with pytest.raises(RuntimeError, match=r"after they have already been freed"):
        _ = saved.saved_tensors
    assert saved.witness.untyped_storage().nbytes() == 0


# --- tensors that are not memory as it is -------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
def test_negative_and_zero_tensors_are_read_as_what_they_stand_for(kind: str) -> None:
    module, x, hx = make(kind)
    leaves = list(module.parameters())
    negative, zero = torch._neg_view, torch._efficientzerotensor
    states = tree_leaves(hx)
    negative_hx, plain_hx = (
        tuple(f(s) for s in states) if len(states) > 1 else f(states[0])
        for f in (negative, torch.neg)
    )
    close(module(negative(x), negative_hx), module(-x, plain_hx))
    close(module(zero(x.shape), hx), module(torch.zeros_like(x), hx))
    for lazy, plain in (
        (negative(x), -x),
        (zero(x.shape), torch.zeros_like(x)),
    ):
        gradients = []
        for given in (lazy, plain):
            output = first(module(given, hx))
            gradients.append(torch.autograd.grad(output.sin().sum(), leaves))
        close(*gradients)
    output = first(module(x, hx))
    upstream = torch.randn_like(output)
    for lazy, plain in (
        (negative(upstream), -upstream),
        (zero(output.shape), torch.zeros_like(output)),
    ):
        ours, theirs = (
            torch.autograd.grad(output, leaves, u, retain_graph=True) for u in (lazy, plain)
        )
        close(ours, theirs)


class Wrapped(Tensor):
    """A tensor without memory of its own, which unwraps for every operator."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        unwrap = torch.utils._pytree.tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        results = func(*unwrap[0], **unwrap[1])
        return torch.utils._pytree.tree_map_only(Tensor, cls, results)


class Closed(Wrapped):
    """The same, but that it knows no operator."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Marked(Tensor):
    """A tensor with memory of its own and another name."""


@pytest.mark.parametrize("kind", MODULES)
def test_a_subclass_says_what_an_operator_makes_of_it(kind: str) -> None:
    module, x, hx = make(kind)
    with torch.no_grad():
        ours = first(module(Wrapped(x), hx))
        assert isinstance(ours, Wrapped)
        close(ours.inner, first(module(x, hx)))
        with pytest.raises(TypeError, match=r"dispatch failed|no implementation"):
            module(Closed(x), hx)
    marked = first(module(x.as_subclass(Marked), hx))
    assert isinstance(marked, Marked)
    close(marked.as_subclass(Tensor), first(module(x, hx)))


@pytest.mark.parametrize("kind", MODULES)
def test_weights_without_memory_are_not_read(kind: str) -> None:
    module, x, hx = make(kind)
    for name, weight in list(module.named_parameters()):
        other = make(kind)[0]
        delattr(other, name)
        setattr(other, name, Closed(weight.detach()))
        with torch.no_grad(), pytest.raises((TypeError, RuntimeError)):
            other(x, hx)


@pytest.mark.parametrize("kind", MODULES)
def test_fake_tensors_have_the_shapes_of_the_results(kind: str) -> None:
    shapes = [t.shape for t in tree_leaves(make(kind)[0](*make(kind)[1:]))]
    with FakeTensorMode():
        module, x, hx = make(kind)
        fake = tree_leaves(module(x, hx))
        assert [t.shape for t in fake] == shapes
        fake[0].sum().backward()
        assert next(module.parameters()).grad.shape == next(module.parameters()).shape


class StandIn:
    """Not a tensor, but what stands for one by __torch_function__."""

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(cls, lambda t: t.inner, (args, kwargs))
        return torch.utils._pytree.tree_map_only(Tensor, cls, func(*args, **(kwargs or {})))


@pytest.mark.parametrize("kind", MODULES)
def test_an_object_that_stands_for_a_tensor_decides_what_a_call_is(kind: str) -> None:
    module, x, hx = make(kind)
    close([t.inner for t in tree_leaves(module(StandIn(x), hx))], module(x, hx))
    close([t.inner for t in tree_leaves(module(StandIn(x)))], module(x))
    with pytest.raises(KindError, match=r"hx must be"):
        module(x, StandIn(x))


# --- who watches operations ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
def test_a_recorded_graph_computes_what_the_module_does(kind: str) -> None:
    module, x, hx = make(kind)

    def gradients(x: Tensor, hx: Any) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            loss = first(module(x, hx)).sin().sum()
            return torch.autograd.grad(loss, [x, *module.parameters()])

    other = torch.utils._pytree.tree_map(lambda t: 2 * t, hx)
    for function in (module, gradients, functionalize(module)):
        graph = make_fx(function)(x, hx)
        assert any("elman" in str(node.target) for node in graph.graph.nodes)
        close(graph(2 * x, other), function(2 * x, other))
    close(functionalize(module)(x, hx), module(x, hx))


@pytest.mark.parametrize("kind", MODULES)
def test_a_backward_pass_alone_may_be_recorded(kind: str) -> None:
    module, x, hx = make(kind)
    output = first(module(x.requires_grad_(), hx))

    def backward(upstream: Tensor) -> Any:
        return torch.autograd.grad(output, [x, *module.parameters()], upstream, retain_graph=True)

    graph = make_fx(backward)(torch.ones_like(output))
    upstream = torch.randn_like(output)
    close(graph(upstream), backward(upstream))


@pytest.mark.parametrize("kind", MODULES)
def test_aot_function_compiles_forward_and_backward(kind: str) -> None:
    from functorch.compile import aot_function, nop

    module, x, hx = make(kind)
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, hx: Any, *weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        return first(torch.func.functional_call(module, named, (x, hx)))

    compiled = aot_function(call, fw_compiler=nop, bw_compiler=nop)
    for given in (x, 2 * x):
        leaves = [given.detach().requires_grad_(), *module.parameters()]
        ours, theirs = (f(leaves[0], hx, *leaves[1:]) for f in (compiled, call))
        close(ours, theirs)
        close(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (ours, theirs)))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("kind", MODULES)
def test_gradients_of_many_upstream_gradients_at_once(kind: str, create_graph: bool) -> None:
    module, x, hx = make(kind)
    results = tree_leaves(module(x.requires_grad_(), hx))
    leaves = [x, *module.parameters()]
    upstream = [torch.randn(3, *t.shape) for t in results]
    options: Any = {"retain_graph": True, "create_graph": create_graph}
    ours = torch.autograd.grad(results, leaves, upstream, is_grads_batched=True, **options)
    each = [
        torch.autograd.grad(results, leaves, [u[i] for u in upstream], **options) for i in range(3)
    ]
    close(ours, [torch.stack(parts) for parts in zip(*each, strict=True)])
    if create_graph:
        close(
            *(
                torch.autograd.grad(sum(g.sin().sum() for g in gs), leaves, retain_graph=True)
                for gs in (ours, [torch.stack(parts) for parts in zip(*each, strict=True)])
            )
        )


def test_many_upstream_gradients_at_once_of_unequal_sequences() -> None:
    layer = elman.GRU(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3, requires_grad=True)
    output, _ = layer(x, lengths=[2, 5])
    upstream = torch.randn(3, *output.shape)
    leaves, options = [x, *layer.parameters()], {"retain_graph": True}
    ours = torch.autograd.grad(output, leaves, upstream, is_grads_batched=True, **options)
    each = [torch.autograd.grad(output, leaves, u, **options) for u in upstream]
    close(ours, [torch.stack(parts) for parts in zip(*each, strict=True)])


@pytest.mark.parametrize("kind", MODULES)
def test_jacobians_and_hessians_are_vectorised(kind: str) -> None:
    module, x, hx = make(kind)
    for of, function in (
        (torch.autograd.functional.jacobian, lambda x: first(module(x, hx))),
        (torch.autograd.functional.hessian, lambda x: first(module(x, hx)).sin().sum()),
    ):
        close(of(function, x, vectorize=True), of(function, x))


@pytest.mark.parametrize("kind", LAYERS)
def test_operations_are_counted(kind: str) -> None:
    module = getattr(elman, kind)(3, 4)
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    with FlopCounterMode(display=False) as counter:
        output = module(torch.randn(5, 2, 3, requires_grad=True))[0]
    forward = 2 * 5 * 2 * gates * 4 * (3 + 4)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == 2 * forward


@pytest.mark.parametrize("batch_first", [False, True])
# Not LSTM, of which torch.nn's fails here too.
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_expanded_weights_give_the_gradients_of_each_sample(kind: str, batch_first: bool) -> None:
    found = []
    ours = getattr(elman, kind)(3, 4, batch_first=batch_first)
    theirs = getattr(nn, kind)(3, 4, batch_first=batch_first)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 2, 3)
    for module in (ours, theirs):
        output, _ = call_for_per_sample_grads(module, batch_first=batch_first)(x)
        output.sin().sum().backward()
        found.append([p.grad_sample for p in module.parameters()])
    close(*found)


class Model(nn.Module):
    """A module that gives a state or not, before something else."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module
        self.head = nn.Linear(
            module.hidden_size * (2 if isinstance(module, elman.nn.layers.Layer) else 1), 2
        )

    def forward(self, x: Tensor, hx: Any = None) -> Tensor:
        results = self.inner(x, hx)
        return self.head(
            results if isinstance(self.inner, (elman.RNNCell, elman.GRUCell)) else results[0]
        )


@pytest.mark.parametrize("kind", MODULES)
def test_a_symbolic_trace_has_one_node_for_a_module(kind: str) -> None:
    module, x, hx = make(kind)
    model = Model(module)
    graph = torch.fx.symbolic_trace(model)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == ["inner", "head"]
    close(graph(x, hx), model(x, hx))
    graph = torch.fx.symbolic_trace(model, concrete_args={"hx": None})
    close(graph(x), model(x))


# --- torch.jit.trace ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["padded", "lengths", "packed"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_trace_takes_any_length_and_batch(kind: str, batch_first: bool, form: str) -> None:
    layer = getattr(elman, kind)(3, 4, 2, bidirectional=True, batch_first=batch_first)

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            if form == "padded":
                return self.layer(x)
            if form == "lengths":
                return self.layer(x, None, lengths)
            options: Any = {"batch_first": batch_first}
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False, **options)
            output, state = self.layer(packed)
            return pad_packed_sequence(output, **options)[0], state

    def arguments(lengths: list[int]) -> tuple[Tensor, Tensor]:
        x = torch.randn(max(lengths), len(lengths), 3)
        return x.transpose(0, 1) if batch_first else x, torch.tensor(lengths)

    call = Call()
    traced = torch.jit.trace(call, arguments([5, 3]))
    for lengths in ([5, 3], [2, 7, 1], [1], [9, 0, 4] if form != "packed" else [9, 1, 4]):
        x = arguments(lengths)
        close(traced(*x), call(*x))


def test_a_gru_that_pytorch_has_no_kernel_of_is_not_traced() -> None:
    with pytest.raises(ShapeError, match=r"GRU: reset_after must be True in torch.jit.trace, got"):
        torch.jit.trace(elman.GRU(3, 4, reset_after=False), torch.randn(5, 2, 3))


# --- operators that are called directly ---------------------------------------------------------

WRONG: list[Any] = [
    None,
    *(torch.randn(shape) for shape in ((), (0,), (1,), (16,), (16, 3), (16, 4), (1, 2, 4), (7, 7))),
    torch.randn(16, 4).double(),
    torch.randn(5, 2, 3).half(),
    torch.tensor([5, 5]),
    torch.tensor([10**9, 3]),
    torch.tensor([2, 2, 2, 2, 2]),
]


def test_wrong_operands_are_refused() -> None:
    state, to, weights = (1, 2, 4), (4,), [(16, 3), (16, 4), (16,), (16,)]
    shapes: Any = [(5, 2, 3), None, None, None, state, state, to, to, *weights]
    read = [None if shape is None else torch.randn(shape) for shape in shapes] + [None] * 6
    read[3] = torch.rand(5, 2) < 0.5
    output, h_n, c_n, kept = torch.ops.elman.layer(*read, "lstm", True)
    rest = ["lstm", output, kept, output, h_n, c_n, [True] * 9 + [False] * 6, 1]
    refused = 0
    for i, wrong in itertools.product(range(len(read) + 6), WRONG):
        arguments = [*read, *rest]
        if i == len(read):  # the name of the cell
            continue
        arguments[i] = wrong
        for operator, given in (
            (torch.ops.elman.layer, [*arguments[: len(read)], "lstm", True]),
            (torch.ops.elman.layer_backward, arguments),
        ):
            if operator is torch.ops.elman.layer and i >= len(read):
                continue
            try:
                operator(*given)
            except ShapeError:
                refused += 1
    assert refused > 300
    for name, wanted, groups, text in (
        ("lstn", rest[6], 1, "cell must be one of"),
        ("lstm", [True], 1, "wanted must be 15 flags"),
        ("lstm", [True] * 15, 1, "wanted must be 15 flags"),
        ("lstm", rest[6], 0, "groups must be 1, or divide the 2 sequences"),
        ("lstm", rest[6], 3, "groups must be 1, or divide the 2 sequences"),
    ):
        with pytest.raises(ShapeError, match=text):
            torch.ops.elman.layer_backward(*read, name, *rest[1:6], wanted, groups)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_on_the_meta_device_change_no_shape(kind: str) -> None:
    layer = getattr(elman, kind)(3, 4, device="meta")
    x = torch.randn(5, 2, 3, device="meta")
    for lengths in ([5, 2], torch.tensor([0, 5]), torch.tensor([0, 5], device="meta")):
        shapes = [t.shape for t in tree_leaves(layer(x, lengths=lengths))]
        assert shapes == [t.shape for t in tree_leaves(layer(x))]
