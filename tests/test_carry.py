import copy
import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FORMS, LAYERS, STEP_CELLS, needs_proc, resident
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import elman
from elman.shapes import KindError, ShapeError

NAMESPACES = (elman, nn)

GRU = elman.GRU(3, 4, 2)

same = partial(torch.testing.assert_close, rtol=0, atol=0)


def build(namespace: Any, kind: str, *sizes: int, **options: Any) -> Any:
    """A module whose state matters: weights are larger than they are drawn."""
    torch.manual_seed(4)
    module = getattr(namespace, kind)(*sizes, **options)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.5)
    return module


def detached(hx: Any) -> Any:
    return tuple(state.detach() for state in hx) if isinstance(hx, tuple) else hx.detach()


def data_of(output: Any) -> Tensor:
    return output.data if isinstance(output, PackedSequence) else output


class Tagger(nn.Module):
    """Two recurrent layers, one inside another module, and something around them."""

    def __init__(self, namespace: Any = elman) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Sequential()
        self.first.add_module("rnn", namespace.LSTM(3, 4, 2))
        self.second = namespace.GRU(4, 5)
        self.head = nn.Linear(5, 2)
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(1.5)

    def forward(self, input: Tensor) -> Tensor:
        output, _ = self.first(input)
        output, _ = self.second(output, None)
        return self.head(output)


class Loop(nn.Module):
    """A cell that is stepped through time by its model."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, input: Tensor) -> Tensor:
        hx, steps = None, []
        for x in input:
            hx = self.cell(x, hx)
            steps.append(hx[0] if isinstance(hx, tuple) else hx)
        return torch.stack(steps)


# --- what is carried ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_layer_goes_on_as_with_its_detached_state_passed_by_hand(
    namespace: Any, kind: str, form: str
) -> None:
    layer = build(namespace, kind, 3, 4, 2, batch_first=form == "batch_first")
    carry, hx = elman.Carry(layer), None
    for lengths in ([5, 3, 2], [1, 4, 4], [2, 2, 6]):
        shape = (6,) if form == "unbatched" else (3, 6) if form == "batch_first" else (6, 3)
        input: Any = torch.randn(*shape, 3)
        if form in ("sorted", "unsorted"):
            lengths = sorted(lengths, reverse=True) if form == "sorted" else lengths
            input = pack_padded_sequence(input, lengths, enforce_sorted=form == "sorted")
        output, ended = carry(input)
        expected, hx = layer(input, hx)
        same(data_of(output), data_of(expected))
        same(ended, hx)
        found = torch.autograd.grad(data_of(output).square().sum(), list(layer.parameters()))
        wanted = torch.autograd.grad(data_of(expected).square().sum(), list(layer.parameters()))
        same(found, wanted)
        hx = detached(hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_ragged_chunks_go_on_each_row_from_its_own_end(kind: str) -> None:
    layer = build(elman, kind, 3, 4, 2)
    carry, hx = elman.Carry(layer), None
    for lengths in ([5, 0, 2], [0, 4, 4], [2, 2, 0]):
        input = torch.randn(6, 3, 3)
        output, ended = carry(input, lengths=lengths)
        expected, hx = layer(input, hx, lengths)
        same(output, expected)
        same(ended, hx)
        same(carry(input, None, torch.zeros(3, dtype=torch.int64))[1], hx)  # all are empty
        hx = detached(hx)


@pytest.mark.parametrize("kind", LAYERS)
def test_jagged_chunks_go_on(kind: str) -> None:
    layer = build(elman, kind, 3, 4)
    carry, x = elman.Carry(layer), torch.randn(2, 9, 3)
    for cuts in ((0, 2), (2, 7), (5, 9)):
        rows = [x[0, slice(*cuts)], x[1, cuts[0] : cuts[1]]]
        _, ended = carry(torch.nested.nested_tensor(rows, layout=torch.jagged))
    _, expected = layer(torch.cat([x[:, :2], x[:, 2:7], x[:, 5:9]], 1).transpose(0, 1))
    torch.testing.assert_close(ended, expected)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kind", STEP_CELLS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_cell_goes_on_step_by_step_and_in_its_models_loop(
    namespace: Any, kind: str, batch: tuple[int, ...]
) -> None:
    cell = build(namespace, kind, 3, 4)
    x = torch.randn(9, *batch, 3)
    expected = Loop(cell)(x)
    carry = elman.Carry(cell)
    steps = [carry(step) for step in x]
    same(torch.stack([hx[0] if isinstance(hx, tuple) else hx for hx in steps]), expected)
    carry = elman.Carry(Loop(cell))
    same(torch.cat([carry(chunk) for chunk in x.split(4)]), expected)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_all_layers_of_a_model_go_on(namespace: Any) -> None:
    model = Tagger(namespace)
    x = torch.randn(20, 2, 3)
    carry = elman.Carry(model)
    torch.testing.assert_close(torch.cat([carry(chunk) for chunk in x.split(6)]), model(x))
    shapes = {name: tuple(state.shape) for name, state in carry.state_dict().items()}
    assert shapes == {"first.rnn.h": (2, 2, 4), "first.rnn.c": (2, 2, 4), "second.h": (1, 2, 5)}


def test_layers_that_are_not_among_those_carried_start_anew() -> None:
    model = Tagger()
    x = torch.randn(8, 2, 3)
    carry = elman.Carry(model, layers=[model.second])
    carry(x[:5])
    between = torch.cat([model.first(x[:5])[0], model.first(x[5:])[0]])
    torch.testing.assert_close(carry(x[5:]), model.head(model.second(between)[0])[5:])
    assert set(carry.state_dict()) == {"second.h"}


def test_a_model_that_is_called_directly_starts_from_zeros_and_keeps_nothing() -> None:
    model, x = Tagger(), torch.randn(8, 2, 3)
    before = model(x)
    carry = elman.Carry(model)
    carry(x)
    state = copy.deepcopy(carry.state_dict())
    same(model(x), before)
    same(carry.state_dict(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_two_streams_have_two_carries() -> None:
    lstm = build(elman, "LSTM", 3, 4)
    x, y = torch.randn(2, 8, 2, 3)
    one, other = elman.Carry(lstm), elman.Carry(lstm)
    found = [(one(x[i : i + 2])[0], other(y[i : i + 2])[0]) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.cat([a for a, _ in found]), lstm(x)[0])
    torch.testing.assert_close(torch.cat([b for _, b in found]), lstm(y)[0])


def test_streams_in_threads_do_not_mix() -> None:
    model = Loop(build(elman, "GRUCell", 3, 4))
    xs = torch.randn(4, 60, 2, 3)
    expected = [model(x) for x in xs]
    found: list[Any] = [None] * 4
    gate = threading.Barrier(4)

    def stream(i: int) -> None:
        carry = elman.Carry(model)
        gate.wait()
        found[i] = torch.cat([carry(step) for step in xs[i].split(1)])

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(found, expected)


def test_no_gradient_flows_into_the_call_before() -> None:
    carry = elman.Carry(build(elman, "LSTM", 3, 4))
    first, second = torch.randn(2, 5, 2, 3).requires_grad_().unbind(0)
    first.retain_grad()
    carry(first)
    output, (h_n, c_n) = carry(second)
    (output.sum() + h_n.sum() + c_n.sum()).backward()  # once more through first would raise
    assert first.grad is None
    assert not any(state.requires_grad for state in carry.state_dict().values())


def test_what_the_caller_writes_into_a_result_is_not_carried() -> None:
    cell = build(elman, "GRUCell", 3, 4)
    carry, x = elman.Carry(cell), torch.randn(2, 2, 3)
    h = carry(x[0])
    expected = cell(x[1], h.detach().clone())
    h.data.zero_()
    same(carry(x[1]), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_stream_is_read_without_gradients_and_then_trained_on(mode: Any) -> None:
    lstm = build(elman, "LSTM", 3, 4)
    carry, x = elman.Carry(lstm), torch.randn(8, 2, 3)
    with mode():
        carry(x[:5])
    output, _ = carry(x[5:])
    output.sum().backward()
    _, hx = lstm(x[:5])
    same(output, lstm(x[5:], detached(hx))[0])
    assert lstm.weight_hh_l0.grad.abs().sum() > 0


def test_eval_and_train_leave_the_state_alone() -> None:
    gru = build(elman, "GRU", 3, 4, 2, dropout=0.5)
    carry, x = elman.Carry(gru.eval()), torch.randn(8, 2, 3)
    first, _ = carry(x[:5])
    gru.train()
    gru.eval()
    torch.testing.assert_close(torch.cat([first, carry(x[5:])[0]]), gru(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_it_goes_on_under_autocast(kind: str) -> None:
    layer = build(elman, kind, 3, 4)
    carry, hx = elman.Carry(layer), None
    for x in torch.randn(3, 5, 2, 3):
        with torch.autocast("cpu"):
            output, _ = carry(x)
            expected, hx = layer(x, hx)
        same(output, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_compiled_model_goes_on_in_one_graph(kind: str) -> None:
    torch._dynamo.reset()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = build(elman, kind, 3, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, input: Tensor) -> Tensor:
            return self.head(self.rnn(input)[0])

    model = Model()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    one, other = elman.Carry(compiled), elman.Carry(compiled)
    x, y = torch.randn(2, 20, 2, 3)
    pieces = [(one(a), other(b)) for a, b in zip(x.split(4), y.split(4), strict=True)]
    torch.testing.assert_close(torch.cat([a for a, _ in pieces]), model(x))
    torch.testing.assert_close(torch.cat([b for _, b in pieces]), model(y))
    torch.testing.assert_close(compiled(x[:4]), model(x[:4]))
    sum(a.sum() for a, _ in pieces).backward()


def test_a_compiled_model_that_does_not_see_the_carry_is_refused() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(Tagger(), backend="eager")
    x = torch.randn(4, 2, 3)
    compiled(x)
    with pytest.raises(ShapeError, match=r"did not call .*if it was compiled and called without"):
        elman.Carry(compiled)(x)


# --- when it is reset ---------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_reset_starts_all_rows_from_zeros_and_in_any_number(namespace: Any) -> None:
    model, x = Tagger(namespace), torch.randn(5, 3, 3)
    carry = elman.Carry(model)
    carry.reset()
    carry(x[:, :2])
    carry.reset()
    assert carry.state_dict() == {}
    same(carry(x), model(x))


@pytest.mark.parametrize("as_rows", [list, tuple, torch.tensor])
def test_reset_of_some_rows_leaves_the_others(as_rows: Callable[..., Any]) -> None:
    model, x = Tagger(), torch.randn(8, 3, 3)
    carry = elman.Carry(model)
    carry(x[:5])
    carry.reset(rows=as_rows([False, True, False]))
    found = carry(x[5:])
    torch.testing.assert_close(found[:, [0, 2]], model(x)[5:, [0, 2]])
    torch.testing.assert_close(found[:, 1], model(x[5:])[:, 1])
    carry.reset(rows=[True] * 3)
    torch.testing.assert_close(carry(x), model(x))


def test_a_reset_does_not_write_into_what_was_returned() -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4))
    output, h_n = carry(torch.randn(5, 2, 3))
    before, kept = h_n.clone(), carry.state_dict()["h"]
    carry.reset([True, True])
    same(h_n, before)
    same(kept, before.detach())
    output.sum().backward()


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("kind", [*LAYERS, *STEP_CELLS])
def test_an_initial_state_stands_for_zeros_and_is_learnt(kind: str, batch: tuple[int, ...]) -> None:
    cell = kind in STEP_CELLS
    module = build(elman, kind, 3, 4) if cell else build(elman, kind, 3, 4, 2)
    letters = "hc" if "LSTM" in kind else "h"
    initial = {x: nn.Parameter(torch.randn((4,) if cell else (2, 4))) for x in letters}
    carry = elman.Carry(module, initial=initial)
    xs = torch.randn(3, *(() if cell else (5,)), *batch, 3)

    def expanded(count: int | None) -> Any:
        states = initial.values()
        if count is not None:
            states = [state.unsqueeze(-2).repeat_interleave(count, -2) for state in states]
        return tuple(states) if len(letters) > 1 else next(iter(states))

    hx = expanded(batch[0] if batch else None)
    found, expected = carry(xs[0]), module(xs[0], hx)
    same(found, expected)
    leaves = list(initial.values())
    totals = [sum(t.sum() for t in torch.utils._pytree.tree_leaves(r)) for r in (found, expected)]
    ours, theirs = (torch.autograd.grad(total, leaves) for total in totals)
    torch.testing.assert_close(ours, theirs)
    assert all(gradient.abs().sum() > 0 for gradient in ours)
    found = carry(xs[1])
    last = torch.utils._pytree.tree_leaves(found)[-1]
    assert torch.autograd.grad(last.sum(), leaves, allow_unused=True) == (None,) * len(leaves)
    if batch:
        carry.reset([False, True, False])
        assert not any(state.requires_grad for state in carry.state_dict().values())
        parts = [carry(xs[2]), module(xs[2], expanded(3))]
        results = [torch.utils._pytree.tree_leaves(part)[-1] for part in parts]
        torch.testing.assert_close(results[0][..., 1, :], results[1][..., 1, :])
        assert not torch.equal(results[0][..., 0, :], results[1][..., 0, :])


def test_a_call_that_raises_leaves_the_carry_as_it_was() -> None:
    model, x = Tagger(), torch.randn(8, 2, 3)
    carry = elman.Carry(model)
    carry(x[:5])
    state = copy.deepcopy(carry.state_dict())
    handle = model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        carry(x[5:])
    handle.remove()
    same(carry.state_dict(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(carry(x[5:]), model(x)[5:])


# --- torch.utils.checkpoint ---------------------------------------------------------------------


def learn(model: nn.Module, x: Tensor, chunks: int, call: Callable[..., Any]) -> list[Tensor]:
    """Return the outputs, gradients and states of a stream with a backward pass per few chunks."""
    carry, found = elman.Carry(model), []
    for pieces in x.chunk(3):
        model.zero_grad()
        outputs = [call(carry, piece.clone().requires_grad_()) for piece in pieces.chunk(chunks)]
        torch.stack([(output * output.detach().cos()).sum() for output in outputs]).sum().backward()
        found += [output.detach() for output in outputs]
        found += [parameter.grad.clone() for parameter in model.parameters()]
        found += carry.state_dict().values()
    return found


def first_of(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def plainly(carry: elman.Carry, x: Tensor) -> Tensor:
    return first_of(carry(x))


def checkpointed(carry: elman.Carry, x: Tensor, use_reentrant: bool = False) -> Tensor:
    return first_of(checkpoint(carry, x, use_reentrant=use_reentrant))


def in_a_function(carry: elman.Carry, x: Tensor) -> Tensor:
    return checkpoint(lambda x: first_of(carry(x)).tanh().atanh(), x, use_reentrant=False)


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("model", [Tagger, *LAYERS, *STEP_CELLS])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_call_computed_once_more_begins_as_it_began(
    namespace: Any, model: Any, chunks: int
) -> None:
    made = model(namespace) if model is Tagger else build(namespace, model, 3, 4)
    x = torch.randn(6, 3) if model in STEP_CELLS else torch.randn(12, 2, 3)
    same(learn(made, x, chunks, checkpointed), learn(made, x, chunks, plainly))
    near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    near(learn(made, x, chunks, in_a_function), learn(made, x, chunks, plainly))


def test_a_call_is_computed_once_more_as_often_as_asked_and_after_a_reset() -> None:
    gru, (first, second) = build(elman, "GRU", 3, 4), torch.randn(2, 5, 2, 3)
    wanted = None
    for call in (plainly, checkpointed):
        carry = elman.Carry(gru)
        carry(first)
        loss = call(carry, second).square().sum()
        carry.reset()
        gradients = [torch.autograd.grad(loss, gru.weight_hh_l0, retain_graph=True) for _ in "ab"]
        same(gradients, [wanted or gradients[0]] * 2)
        wanted = gradients[0]
        assert carry.state_dict() == {}


def test_a_call_whose_graph_is_kept_is_not_taken_for_a_later_one() -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4))
    x = torch.randn(5, 2, 3, requires_grad=True)
    first = checkpointed(carry, x).sum()
    first.backward(retain_graph=True)
    checkpointed(carry, x)
    second = checkpointed(carry, x).sum()
    for loss in (first, second):
        with pytest.raises(ShapeError, match="got several"):
            loss.backward(retain_graph=True)


def test_an_input_may_come_again_once_its_gradients_were_taken() -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    gradients = {}
    for call in (plainly, checkpointed):
        carry = elman.Carry(gru)
        for epoch in range(3):
            loss = call(carry, x).square().sum()  # the loss before is alive meanwhile
            gradients[call, epoch] = torch.autograd.grad(loss, gru.weight_hh_l0)
    for epoch in range(3):
        same(gradients[checkpointed, epoch], gradients[plainly, epoch])


def test_what_a_call_began_with_is_kept_no_longer_than_its_graph() -> None:
    carry, x = elman.Carry(build(elman, "GRU", 3, 4)), torch.randn(5, 2, 3)
    output = carry(x)[0]
    assert [len(calls) for calls in carry._alive.values()] == [1]
    del output
    gc.collect()
    assert [len(calls) for calls in carry._alive.values()] == [0]
    with torch.no_grad():
        carry(x)
    assert [len(calls) for calls in carry._alive.values()] == [0]


class Checkpointing(nn.Module):
    def __init__(self, namespace: Any, use_reentrant: bool) -> None:
        super().__init__()
        self.rnn, self.use_reentrant = namespace.GRU(3, 4), use_reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.rnn, x, use_reentrant=self.use_reentrant)[0]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_layer_computed_once_more_without_the_carry_is_refused(
    namespace: Any, use_reentrant: bool
) -> None:
    carry = elman.Carry(Checkpointing(namespace, use_reentrant))
    with pytest.raises(ShapeError, match=r"'rnn' \(GRU\) must not be called by .* out of layers"):
        carry(torch.randn(5, 2, 3, requires_grad=True))
    assert carry.state_dict() == {}


def test_a_call_that_cannot_be_told_is_refused_in_the_backward_pass() -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    reentrant = partial(checkpointed, use_reentrant=True)

    def within(carry: elman.Carry, x: Tensor) -> Tensor:  # its input is another tensor each time
        return checkpoint(lambda x: carry(x * 2)[0], x, use_reentrant=False)

    for call, count, found in ((reentrant, 1, "none"), (within, 1, "none"), (checkpointed, 2, "s")):
        carry = elman.Carry(gru)
        loss = sum(call(carry, x).square().sum() for _ in range(count))
        before = carry.state_dict()
        with pytest.raises(ShapeError, match=f"computes once more must be .* got {found}"):
            loss.backward()
        same(carry.state_dict(), before)


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["torch.save", "pickle", "deepcopy"])
def test_a_stream_is_resumed_bit_for_bit(way: str, tmp_path: Path) -> None:
    model, x = Tagger(), torch.randn(9, 2, 3)
    carry = elman.Carry(model)
    carry(x[:5])
    if way == "torch.save":
        torch.save(carry.state_dict(), tmp_path / "state.pt")
        resumed = elman.Carry(model)
        resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    else:
        resumed = pickle.loads(pickle.dumps(carry)) if way == "pickle" else copy.deepcopy(carry)
    carry_on = carry(x[5:])
    same(resumed(x[5:]), carry_on)
    same(resumed.state_dict(), carry.state_dict())


def test_a_state_dict_is_not_changed_by_going_on() -> None:
    carry = elman.Carry(build(elman, "LSTM", 3, 4))
    carry(torch.randn(5, 2, 3))
    state = carry.state_dict()
    before = copy.deepcopy(state)
    carry(torch.randn(5, 2, 3))
    same(state, before)
    carry.load_state_dict(state)
    state["h"].zero_()
    same(carry.state_dict(), before)


def test_an_empty_state_is_a_start_from_zeros() -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4))
    assert carry.state_dict() == {}
    carry(torch.randn(5, 2, 3))
    carry.load_state_dict({})
    assert carry.state_dict() == {}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"h": torch.zeros(2, 5, 4)}, ShapeError, r"LSTM must be h and c, got h alone"),
        (
            {"h": torch.zeros(1, 5, 4), "c": torch.zeros(2, 5, 4)},
            ShapeError,
            r"h must be \(2, N, 4\) or \(2, 4\), got \(1, 5, 4\)",
        ),
        ({"h": torch.zeros(2, 4), "c": 0}, KindError, r"c must be a tensor, got int"),
        (
            {"rnn.h": torch.zeros(2, 4)},
            ShapeError,
            r"names of states must be among h, c, got rnn.h: they come from another model",
        ),
    ],
)
def test_a_state_of_another_model_is_refused_and_the_old_one_kept(
    state: dict[str, Any], error: type[Exception], message: str
) -> None:
    carry = elman.Carry(build(elman, "LSTM", 3, 4, 2))
    carry(torch.randn(5, 2, 3))
    before = carry.state_dict()
    with pytest.raises(error, match=message):
        carry.load_state_dict(state)
    same(carry.state_dict(), before)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["time_first", "batch_first", "packed", "cell"])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_another_batch_size_is_refused_until_a_reset(namespace: Any, form: str) -> None:
    def batch(count: int) -> Any:
        if form == "cell":
            return torch.randn(count, 3)
        x = torch.randn(*((count, 5) if form == "batch_first" else (5, count)), 3)
        return pack_padded_sequence(x, [5] * count) if form == "packed" else x

    if form == "cell":
        module = build(namespace, "LSTMCell", 3, 4)
    else:
        module = build(namespace, "LSTM", 3, 4, batch_first=form == "batch_first")
    carry = elman.Carry(module)
    carry(batch(4))
    state = carry.state_dict()
    with pytest.raises(
        ShapeError,
        match=r"Carry: input of LSTM(Cell)? must have N = 4, which it goes on with, got N = 3: "
        r"call reset\(\) where other sequences start, and leave out a smaller last batch",
    ):
        carry(batch(3))
    same(carry.state_dict(), state)
    carry.reset()
    carry(batch(3))


def test_one_sequence_does_not_go_on_with_a_batch() -> None:
    carry = elman.Carry(Tagger())
    carry(torch.randn(5, 2, 3))
    with pytest.raises(
        ShapeError, match=r"'first.rnn' \(LSTM\) must have N = 2, .* got no batch axis"
    ):
        carry(torch.randn(5, 3))
    carry.reset()
    carry(torch.randn(5, 3))
    with pytest.raises(ShapeError, match=r"must have no batch axis, .* got N = 2"):
        carry(torch.randn(5, 2, 3))
    with pytest.raises(ShapeError, match=r"no batch axis, .* got N = 2: call reset\(\) to start"):
        carry.reset([True, False])


def test_another_dtype_or_device_is_refused() -> None:
    gru = build(elman, "GRU", 3, 4)
    carry, x = elman.Carry(gru), torch.randn(5, 2, 3)
    carry(x)
    gru.double()
    with pytest.raises(
        ShapeError, match=r"input of GRU must have the dtype .*float32, got torch.float64: .*reset"
    ):
        carry(x.double())
    gru.to("meta")
    with pytest.raises(ShapeError, match=r"must have the device .* cpu, got meta: carry.load"):
        carry(x.to("meta"))
    carry.load_state_dict(carry.state_dict())
    assert carry.state_dict()["h"].is_meta


def test_a_wrong_input_is_for_the_layer_to_refuse() -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4))
    for _ in range(2):
        with pytest.raises(KindError, match="GRU: input must be a tensor"):
            carry([1.0])
        with pytest.raises(ShapeError, match=r"GRU: input must be \(L, N, H_in\)"):
            carry(torch.randn(3))
        carry(torch.randn(5, 2, 3))


class Given(nn.Module):
    def __init__(self, hx: Any = None, times: int = 1) -> None:
        super().__init__()
        self.rnn = elman.GRU(3, 4)
        self.hx, self.times = hx, times

    def forward(self, input: Tensor) -> Tensor:
        for _ in range(self.times):
            output, _ = self.rnn(input, hx=self.hx)
        return output


def test_a_model_that_gives_a_state_itself_is_refused() -> None:
    x = torch.randn(5, 2, 3)
    with pytest.raises(
        ShapeError, match=r"'rnn' \(GRU\) must be called without hx at first, .* got Tensor: leave"
    ):
        elman.Carry(Given(torch.zeros(1, 2, 4)))(x)
    with pytest.raises(ShapeError, match=r"GRU must be called without hx at first"):
        elman.Carry(GRU)(x, torch.zeros(2, 2, 4))


def test_a_layer_that_is_called_twice_from_the_start_is_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"'rnn' \(GRU\) must be given hx where the model calls it a second time"
    ):
        elman.Carry(Given(times=2))(torch.randn(5, 2, 3))


def test_a_layer_that_is_not_called_is_refused() -> None:
    model = nn.Sequential()
    model.add_module("used", elman.GRUCell(3, 4))
    model.used.add_module("unused", elman.GRU(3, 4))
    with pytest.raises(ShapeError, match=r"Sequential must call all the layers .* 'used.unused'"):
        elman.Carry(model)(torch.randn(2, 3))
    elman.Carry(model, layers=[model.used])(torch.randn(2, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: elman.Carry(3), KindError, r"module must be a torch.nn.Module, got int"),
        (lambda: elman.Carry(nn.Linear(3, 4)), ShapeError, r"recurrent .* got Linear with none"),
        (lambda: elman.Carry(GRU, []), ShapeError, r"recurrent .* got GRU with none"),
        (
            lambda: elman.Carry(nn.Sequential(GRU), [elman.GRU(3, 4)]),
            KindError,
            r"recurrent layers or cells within Sequential, got GRU: they are '0'",
        ),
        (
            lambda: elman.Carry(elman.GRU(3, 4, bidirectional=True)),
            ShapeError,
            r"GRU must have one direction, got bidirectional: .* leave it out of layers",
        ),
        (
            lambda: elman.Carry(GRU, initial={"h": torch.zeros(2, 3, 4)}),
            ShapeError,
            r"h must be \(2, 4\), of one sequence, got \(2, 3, 4\)",
        ),
        (lambda: elman.Carry(GRU, initial={"c": torch.zeros(2, 4)}), ShapeError, r"among h, got c"),
        (lambda: elman.Carry(GRU).reset([1, 0]), KindError, r"bools, got torch.int64 of shape"),
        (lambda: elman.Carry(GRU).reset(True), KindError, r"bools, got torch.bool of shape \(\)"),
    ],
)
def test_a_carry_that_cannot_be_is_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="Carry: .*" + message):
        make()


def test_a_mask_for_another_batch_is_refused_and_resets_nothing() -> None:
    carry = elman.Carry(Tagger())
    carry(torch.randn(5, 2, 3))
    state = carry.state_dict()
    with pytest.raises(
        ShapeError, match=r"rows must be \(N,\) bools with N = 2, as the state of 'first.rnn' \(LS"
    ):
        carry.reset([True, False, True])
    same(carry.state_dict(), state)


# --- truncated backpropagation through time -----------------------------------------------------


def run(carry: Any, chunks: Iterator[Tensor]) -> list[Tensor]:
    """The outputs of a carried layer."""
    return [carry(chunk)[0] for chunk in chunks]


def train_by_hand(
    module: Any, head: Any, input: Tensor, target: Tensor, chunk: int
) -> Iterator[float]:
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.01)
    time = int(module.batch_first)
    for _ in range(2):
        hx = None
        for start in range(0, input.shape[time], chunk):
            x = input.narrow(time, start, min(chunk, input.shape[time] - start))
            y = target.narrow(time, start, min(chunk, input.shape[time] - start))
            output, hx = module(x, hx)
            hx = detached(hx)
            loss = F.mse_loss(head(output), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def train_by_tbptt(
    module: Any, head: Any, input: Tensor, target: Tensor, chunk: int
) -> Iterator[float]:
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.01)
    carry = elman.Carry(module)
    for _ in range(2):
        for x, y in elman.tbptt(carry, input, target, chunk=chunk):
            output, _ = carry(x)
            loss = F.mse_loss(head(output), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_losses_gradients_and_weights_are_those_of_the_loop_by_hand(
    namespace: Any, kind: str, batch_first: bool
) -> None:
    shape = (2, 40) if batch_first else (40, 2)
    input, target = torch.randn(*shape, 3), torch.randn(*shape, 1)
    results = []
    for train in (train_by_hand, train_by_tbptt):
        module = build(namespace, kind, 3, 4, 2, batch_first=batch_first)
        head = nn.Linear(4, 1)
        losses = list(train(module, head, input, target, 7))
        parameters = [*module.parameters(), *head.parameters()]
        results.append((losses, [w.grad for w in parameters], [w.detach() for w in parameters]))
    assert len(results[0][0]) == 12
    assert results[0][0] == results[1][0]
    same(results[0][1:], results[1][1:])


@needs_proc
def test_memory_stays_flat_over_a_thousand_chunks() -> None:
    # What a backward through one chunk needs: about 300 KiB, of all 1,000 chunks 300 MiB.
    lstm, head = build(elman, "LSTM", 8, 64), nn.Linear(64, 1)
    optimizer = torch.optim.SGD([*lstm.parameters(), *head.parameters()], lr=1e-3)
    input, target = torch.randn(20 * 1100, 8, 8), torch.randn(20 * 1100, 8, 1)
    carry, seen = elman.Carry(lstm), []
    for step, (x, y) in enumerate(elman.tbptt(carry, input, target, chunk=20)):
        output, _ = carry(x)
        loss = F.mse_loss(head(output), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (99, 1099):
            gc.collect()
            seen.append((resident(), len(gc.get_objects())))
    assert seen[1][0] - seen[0][0] < 8 * 2**20
    assert seen[1][1] - seen[0][1] < 100


def test_tensors_are_cut_alike_without_copies() -> None:
    carry = elman.Carry(Loop(build(elman, "RNNCell", 3, 4)))
    x, y, z = torch.randn(10, 2, 3), torch.arange(10), torch.randn(10, 2)
    chunks = []
    for chunk in elman.tbptt(carry, x, y, z, chunk=4):
        carry(chunk[0])
        chunks.append(chunk)
    assert [len(chunk[0]) for chunk in chunks] == [4, 4, 2]
    same(tuple(torch.cat(parts) for parts in zip(*chunks, strict=True)), (x, y, z))
    assert chunks[1][0].data_ptr() == x[4].data_ptr()
    pieces = []
    for piece in elman.tbptt(carry, x, chunk=100):
        carry(piece)
        pieces.append(piece)
    same(pieces, [x])
    for only in elman.tbptt(carry, (x, y), chunk=100):  # a tuple is what a batch is
        carry(only[0])
        same(only, (x, y))


def test_the_time_axis_is_the_layers_unless_told() -> None:
    gru = build(elman, "GRU", 3, 4, batch_first=True)
    carry, x = elman.Carry(gru), torch.randn(2, 10, 3)
    pieces = run(carry, elman.tbptt(carry, x, chunk=4))
    torch.testing.assert_close(torch.cat(pieces, 1), gru(x)[0])

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = gru

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x.transpose(0, 1))[0]

    carry = elman.Carry(Turned())
    chunks = elman.tbptt(carry, x.transpose(0, 1), chunk=4, batch_first=False)
    pieces = [carry(piece) for piece in chunks]
    torch.testing.assert_close(torch.cat(pieces, 1), gru(x)[0])
    both = nn.Sequential(gru, elman.GRU(4, 4))
    with pytest.raises(ShapeError, match="batch_first must be given, since the carried layers"):
        elman.tbptt(elman.Carry(both), x, chunk=4)


@pytest.mark.parametrize("start", [1, 3])
def test_a_pass_is_resumed_in_the_middle(start: int) -> None:
    lstm, x = build(elman, "LSTM", 3, 4), torch.randn(40, 2, 3)
    carry, outputs, states = elman.Carry(lstm), [], []
    for piece in elman.tbptt(carry, x, chunk=9):
        outputs.append(carry(piece)[0])
        states.append(carry.state_dict())
    resumed = elman.Carry(lstm)
    resumed.load_state_dict(states[start - 1])
    same(run(resumed, elman.tbptt(resumed, x, chunk=9, start=start)), outputs[start:])
    with pytest.raises(ShapeError, match=r"start must be 0 where the carry has no state .* got 2"):
        next(elman.tbptt(elman.Carry(lstm), x, chunk=9, start=2))


def test_each_pass_starts_anew() -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(10, 2, 3)
    carry = elman.Carry(gru)
    passes = [run(carry, elman.tbptt(carry, x, chunk=4)) for _ in range(2)]
    same(passes[0], passes[1])


@pytest.mark.parametrize("as_lengths", [list, torch.tensor])
@pytest.mark.parametrize("kind", LAYERS)
def test_rows_that_have_ended_keep_their_state(kind: str, as_lengths: Callable[..., Any]) -> None:
    layer, x = build(elman, kind, 3, 4), torch.randn(15, 4, 3)
    lengths = [3, 12, 0, 8]
    carry, pieces = elman.Carry(layer), []
    for piece, steps in elman.tbptt(carry, x, lengths=as_lengths(lengths), chunk=5):
        output, hx = carry(piece, lengths=steps)
        pieces.append(output)
    expected, ended = layer(x, None, lengths)
    assert [len(piece) for piece in pieces] == [5, 5, 2]  # after that there is only padding
    torch.testing.assert_close(torch.cat(pieces), expected[:12])
    torch.testing.assert_close(hx, ended)


@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_start_anew_where_resets_say(batch_first: bool) -> None:
    lstm = build(elman, "LSTM", 3, 4, batch_first=batch_first)
    x = torch.randn(50, 3, 3)
    resets = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) < 0.05
    resets[0, 1] = resets[30, 0] = resets[30, 2] = True
    expected = torch.empty(50, 3, 4)
    for row in range(3):
        steps = sorted({0, *resets[:, row].nonzero().flatten().tolist()})
        for first, end in zip(steps, [*steps[1:], 50], strict=True):
            expected[first:end, row] = lstm(x[first:end, row])[0]
    arguments = (x.transpose(0, 1), resets.T) if batch_first else (x, resets)
    carry, pieces, states = elman.Carry(lstm), [], []
    for piece in elman.tbptt(carry, arguments[0], resets=arguments[1], chunk=8):
        pieces.append(carry(piece)[0])
        states.append(carry.state_dict())
        assert piece.shape[batch_first] <= 8
    found = torch.cat(pieces, 1).transpose(0, 1) if batch_first else torch.cat(pieces)
    torch.testing.assert_close(found, expected)
    resumed = elman.Carry(lstm)
    resumed.load_state_dict(states[4])
    rest = elman.tbptt(resumed, arguments[0], resets=arguments[1], chunk=8, start=5)
    same(run(resumed, rest), pieces[5:])


def test_one_sequence_starts_anew_where_resets_say() -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(20, 3)
    resets = torch.zeros(20, dtype=torch.bool)
    resets[11] = True
    carry = elman.Carry(gru)
    pieces = run(carry, elman.tbptt(carry, x, resets=resets, chunk=8))
    assert [len(piece) for piece in pieces] == [8, 3, 8, 1]
    torch.testing.assert_close(torch.cat(pieces), torch.cat([gru(x[:11])[0], gru(x[11:])[0]]))


@pytest.mark.parametrize("source", ["loader", "iterator"])
def test_the_state_goes_through_consecutive_batches(source: str) -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(40, 2, 3)
    # Items in the order in which rows go on: row n of batch k is item k * N + n.
    items = x.view(4, 10, 2, 3).transpose(1, 2).flatten(0, 1)
    loader = DataLoader(
        TensorDataset(items, torch.arange(8)),
        batch_size=2,
        collate_fn=lambda batch: torch.stack([row for row, _ in batch], 1),
    )
    batches: Any = loader if source == "loader" else iter(list(loader))
    carry = elman.Carry(gru)
    pieces = run(carry, elman.tbptt(carry, batches, chunk=4))
    assert [len(piece) for piece in pieces] == [4, 4, 2] * 4
    torch.testing.assert_close(torch.cat(pieces), gru(x)[0])


def loaders(data: Any) -> dict[str, DataLoader[Any]]:
    return {
        "RandomSampler": DataLoader(data, batch_size=2, shuffle=True),
        "SubsetRandomSampler": DataLoader(
            data, sampler=torch.utils.data.SubsetRandomSampler(range(8))
        ),
        "WeightedRandomSampler": DataLoader(data, sampler=WeightedRandomSampler([1.0] * 8, 8)),
        "DistributedSampler": DataLoader(
            data, sampler=DistributedSampler(data, num_replicas=2, rank=0)
        ),
        "RandomSampler in a BatchSampler": DataLoader(
            data, batch_sampler=BatchSampler(RandomSampler(data), 2, False)
        ),
        "BucketBatchSampler": DataLoader(data, batch_sampler=elman.BucketBatchSampler([5] * 8, 2)),
        "RandomSampler alone": DataLoader(data, batch_size=None, shuffle=True),
    }


DATA = TensorDataset(torch.randn(8, 5, 3))


@pytest.mark.parametrize("name", loaders(DATA))
def test_a_loader_that_shuffles_is_pointed_out(name: str) -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4, batch_first=True))
    with pytest.raises(ShapeError, match=f"in order, .* shuffles by {name.split()[0]}: use shuff"):
        elman.tbptt(carry, loaders(DATA)[name], chunk=2)


def test_a_distributed_sampler_in_order_is_taken() -> None:
    carry = elman.Carry(build(elman, "GRU", 3, 4, batch_first=True))
    sampler = DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=False)
    for (x,) in elman.tbptt(carry, DataLoader(DATA, batch_size=2, sampler=sampler), chunk=2):
        carry(x)


@pytest.mark.parametrize("times", [0, 2])
def test_a_chunk_that_does_not_go_through_the_carry_once_is_pointed_out(times: int) -> None:
    gru, x = build(elman, "GRU", 3, 4), torch.randn(10, 2, 3)
    carry = elman.Carry(gru)
    chunks = elman.tbptt(carry, x, chunk=4)
    piece = next(chunks)
    gru(piece)  # does not count
    for _ in range(times):
        carry(piece)
    with pytest.raises(ShapeError, match=rf"once for each chunk, got {times} calls: use carry\("):
        next(chunks)


CARRY = elman.Carry(GRU)
X = torch.randn(10, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((GRU, X), {}, KindError, r"carry must be an elman.Carry, got GRU: wrap the model"),
        ((CARRY,), {}, KindError, r"data must be tensors, .* got nothing"),
        ((CARRY, X, X.numpy()), {}, KindError, r"got Tensor, ndarray: convert .*as_tensor"),
        (
            (CARRY, torch.nested.as_nested_tensor([X[0]], layout=torch.jagged)),
            {},
            KindError,
            r"data must be tensors, .* got NestedTensor",
        ),
        ((CARRY, X, X[1:]), {}, ShapeError, r"equal L, got \(10, 2, 3\), \(9, 2, 3\)"),
        ((CARRY, X, X[:, 0, 0]), {"batch_first": True}, ShapeError, r"\(N, L, ...\) with equal L"),
        ((CARRY, X), {"chunk": 0}, ShapeError, r"chunk must be at least 1, got 0"),
        ((CARRY, X), {"chunk": 2.5}, KindError, r"chunk must be an int, got 2.5"),
        ((CARRY, X), {"start": -1}, ShapeError, r"start must be at least 0, got -1"),
        ((CARRY, X), {"lengths": [1, 11]}, ShapeError, r"lengths must be from 0 to L = 10, got 11"),
        ((CARRY, X), {"lengths": [1]}, ShapeError, r"lengths must be \(N,\) = \(2,\), .* got"),
        ((CARRY, X), {"resets": X[:, :, 0]}, KindError, r"resets must be bools .* got torch.float"),
        (
            (CARRY, X),
            {"resets": torch.ones(2, 10).bool()},
            ShapeError,
            r"resets must have L = 10 steps, got 2",
        ),
        (
            (CARRY, iter([X])),
            {"lengths": [1, 2]},
            ShapeError,
            r"lengths and resets must be None with a loader, .* call tbptt for each batch",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_at_once(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="tbptt: .*" + message):
        elman.tbptt(*arguments, **{"chunk": 4} | options)
