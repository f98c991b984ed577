"""The modules: what torch.nn's do, as accurately, in every structure and under every treatment."""

import copy
import dataclasses
import inspect
import io
import math
import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    FORMS,
    LAYERS,
    RAGGED_FORMS,
    STEP_CELLS,
    Problem,
    assert_as_accurate_as_torch,
    by_the_reference,
    compare,
    medium,
    reference_layer,
    solve,
)
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import elman
from elman import ops, reference
from elman.cells import CELLS

# around the widths of the vectors, 4, 8 and 16
SIZES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 70)


def random_problem(kind: str, seed: int) -> Problem:
    rng = random.Random(f"{kind} {seed}")
    hidden = rng.choice(SIZES)
    options: dict[str, Any] = {
        "input_size": rng.choice(SIZES),
        "hidden_size": hidden,
        "bias": rng.random() < 0.7,
    }
    if kind in ("RNN", "RNNCell"):
        options["nonlinearity"] = rng.choice(("tanh", "relu"))
    if kind in STEP_CELLS:
        form = rng.choice(("time_first", "unbatched"))
    else:
        form = rng.choice(FORMS + RAGGED_FORMS)
        options["num_layers"] = rng.randint(1, 3)
        options["bidirectional"] = rng.random() < 0.5
        if options["num_layers"] > 1:
            options["dropout"] = rng.choice((0.0, 0.3))
        if kind == "LSTM" and hidden > 1 and rng.random() < 0.4:
            options["proj_size"] = rng.randint(1, hidden - 1)
    if "GRU" in kind and rng.random() < 0.5:
        options["reset_after"] = False
    length, batch = rng.randint(1, 30), rng.choice(SIZES[:10])
    return Problem(kind, options, form, length, batch, rng.random() < 0.6, seed)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# the same module in torch.nn and here, with the same parameters
def pair(kind: str, *args: Any, **options: Any) -> tuple[torch.nn.Module, Any]:
    modules = []
    for namespace in (torch.nn, elman):
        torch.manual_seed(0)
        modules.append(getattr(namespace, kind)(*args, **options))
    return modules[0], modules[1]


# --- accuracy -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_results_and_gradients_are_as_accurate_as_torchs(kind: str, seed: int) -> None:
    compare(random_problem(kind, seed))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("form", FORMS + RAGGED_FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_combination_of_options_is_as_accurate_as_torchs(kind: str, form: str) -> None:
    choices: dict[str, tuple[Any, ...]] = {
        "num_layers": (1, 2),
        "bidirectional": (False, True),
        "bias": (False, True),
    }
    if kind == "RNN":
        choices["nonlinearity"] = ("tanh", "relu")
    if kind == "LSTM":
        choices["proj_size"] = (0, 3)
    for number, values in enumerate(product(*choices.values())):
        options = dict(zip(choices, values, strict=True))
        with_hx = number.bit_count() % 2 == 1  # both with either value of each choice
        options |= {"input_size": 5, "hidden_size": 9}
        if options["num_layers"] > 1:
            options["dropout"] = 0.4
        compare(Problem(kind, options, form, with_hx=with_hx, seed=number))
        if kind == "GRU":
            options["reset_after"] = False
            compare(Problem(kind, options, form, with_hx=with_hx, seed=number))


def swap_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(cell, input, sizes, hx, weights, *more):
        step = cell.step
        count = len(cell.gates)

        def wrong(m, gx, gh, state):
            a, b = gx.chunk(count, -1), gh.chunk(count, -1)
            order = [1, 0, *range(2, count)]
            gx, gh = (torch.cat([x[i] for i in order], -1) for x in (a, b))
            return step(m, gx, gh, state)

        cell = dataclasses.replace(cell, step=wrong)
        return reference_layer(cell, input, sizes, hx, weights, *more)

    monkeypatch.setattr(ops, "layer", swapped)


def drop_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(cell, input, sizes, hx, weights, *more):
        w_ih, w_hh, b_ih, b_hh, w_hr = weights
        weights = [w_ih, w_hh, b_ih, b_hh * 0, w_hr]
        return reference_layer(cell, input, sizes, hx, weights, *more)

    monkeypatch.setattr(ops, "layer", wrong)


def scale_the_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "layer", reference_layer)
    monkeypatch.setattr(reference.TorchMath, "tanh", staticmethod(lambda x: 1.01 * torch.tanh(x)))


@pytest.mark.parametrize(
    ("kind", "sabotage"),
    [
        ("LSTM", swap_gates),
        ("GRU", swap_gates),
        *product(LAYERS, (drop_a_bias, scale_the_activation)),
    ],
)
def test_the_comparator_objects_to_a_wrong_cell(
    kind: str,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = Problem(kind, {"input_size": 5, "hidden_size": 9})
    compare(problem)
    monkeypatch.setattr(ops, "at_once", lambda *args: None)  # so that all goes by what is spoilt
    sabotage(monkeypatch)
    with pytest.raises(AssertionError, match=r"torch\.nn errs by"):
        compare(problem)


def test_the_comparator_looks_at_every_result_and_gradient() -> None:
    problem = Problem("LSTM", {"input_size": 3, "hidden_size": 4})
    ours, exact = solve(problem, elman), solve(problem, torch.nn, torch.float64)
    theirs = solve(problem, torch.nn)
    assert len(ours) == 3 + 3 + 4  # output, h_n, c_n; input, h_0, c_0; the parameters
    for name in ours:
        with pytest.raises(AssertionError, match=name):
            assert_as_accurate_as_torch(ours | {name: ours[name] * 1.0001}, theirs, exact)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("form", ["time_first", "unsorted", "ragged"])
@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("RNN", {"nonlinearity": "tanh"}),
        ("RNN", {"nonlinearity": "relu"}),
        ("LSTM", {}),
        ("LSTM", {"proj_size": 2}),
        ("GRU", {}),
        ("GRU", {"reset_after": False}),
        *((kind, None) for kind in STEP_CELLS),
    ],
)
def test_gradients_are_the_derivatives_of_the_results(
    kind: str, extra: dict[str, Any] | None, form: str
) -> None:
    options = {"input_size": 2, "hidden_size": 3}
    if extra is not None:
        options |= {"num_layers": 2, "bidirectional": True} | extra
    elif form != "time_first":
        form = "unbatched"
    problem = Problem(kind, options, form, seq_len=3, batch=2, seed=1)
    module = problem.module(elman, torch.float64)
    arguments = problem.arguments(torch.float64)
    parameters = dict(module.named_parameters())

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip((*arguments, *parameters), leaves, strict=True))
        inputs = {name: given[name] for name in arguments}
        weights = {name: given[name] for name in parameters}
        return problem.call(lambda *a: functional_call(module, weights, a), inputs)

    leaves = (*arguments.values(), *parameters.values())
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", LAYERS)
def test_any_subset_of_the_leaves_may_want_gradients(kind: str) -> None:
    problem = Problem(kind, {"input_size": 3, "hidden_size": 4, "num_layers": 2})
    exact = solve(problem, elman)
    rng = random.Random(0)
    for _ in range(10):
        module, arguments = problem.module(elman), problem.arguments()
        leaves = arguments | dict(module.named_parameters())
        wanted = [name for name in leaves if rng.random() < 0.4] or ["input"]
        for name, leaf in leaves.items():
            leaf.requires_grad_(name in wanted)
        outputs = problem.call(module, arguments)
        generator = torch.Generator().manual_seed(problem.seed + 1)
        upstream = [torch.randn(o.shape, generator=generator) for o in outputs]
        torch.autograd.backward(outputs, upstream)
        for name, leaf in leaves.items():
            if name in wanted:
                near(leaf.grad, exact[f"d {name}"])
            else:
                assert leaf.grad is None


# --- construction -------------------------------------------------------------------------------

CONSTRUCTIONS = [
    ("RNN", (3, 4), {}),
    ("RNN", (3, 4, 2, "relu", False, True, 0.5, True), {}),
    ("RNN", (), {"input_size": 3, "hidden_size": 4, "nonlinearity": "relu", "num_layers": 3}),
    ("LSTM", (3, 4), {}),
    ("LSTM", (3, 4, 2, False, True, 0.5, True, 2), {}),
    ("LSTM", (3, 4, 2, True, False, 1, True, 2, "cpu", torch.float64), {}),
    ("LSTM", (3, 5), {"proj_size": 2, "bidirectional": True, "dtype": torch.bfloat16}),
    ("GRU", (3, 4), {}),
    ("GRU", (3, 4, 2, False, True, 0.5, True), {}),
    ("GRU", (3, 4), {"bias": False, "dtype": torch.float64}),
    ("GRU", (3, 4, 2, True, False, 0.5, False, 0, "cpu", torch.float64), {}),
    ("RNN", (3, 4, 2, "relu", True, False, 0.5, True, 0, "cpu", torch.float64), {}),
    ("RNNCell", (3, 4), {}),
    ("RNNCell", (3, 4, False, "relu", "cpu", torch.float64), {}),
    ("LSTMCell", (3, 4, False, "cpu", torch.float64), {}),
    ("LSTMCell", (3, 4), {}),
    ("GRUCell", (3, 4), {"bias": False}),
    ("GRUCell", (3, 4, True, None, torch.float16), {}),
]


@pytest.mark.parametrize(("kind", "args", "options"), CONSTRUCTIONS)
def test_a_module_is_constructed_as_in_torch(
    kind: str, args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    theirs, ours = pair(kind, *args, **options)
    assert repr(ours) == repr(theirs)
    ours_named, theirs_named = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(ours_named) == list(theirs_named)
    for name in ours_named:
        same(ours_named[name].data, theirs_named[name].data)
        assert ours_named[name].dtype == theirs_named[name].dtype
    for name, value in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(ours, name) == value, name
    if kind in LAYERS:
        assert [[w.shape for w in ws] for ws in ours.all_weights] == [
            [w.shape for w in ws] for ws in theirs.all_weights
        ]
        assert ours.all_weights[0][0] is ours.weight_ih_l0
    assert hasattr(ours, "bias_ih") == hasattr(theirs, "bias_ih")
    assert hasattr(ours, "bias_ih_l0") == hasattr(theirs, "bias_ih_l0")
    # state dicts both ways, and the parameters drawn anew
    for module in (ours, theirs):
        torch.manual_seed(1)
        module.reset_parameters()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for name, weight in ours.state_dict().items():
        same(weight, theirs.state_dict()[name])


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_the_signature_is_that_of_torch(kind: str) -> None:
    theirs = getattr(torch.nn, kind if kind in STEP_CELLS else "RNNBase")
    expected = [name for name in inspect.signature(theirs).parameters if name != "mode"]
    if kind == "RNN":  # which hands on all but this
        expected.insert(3, "nonlinearity")
    parameters = inspect.signature(getattr(elman, kind)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == expected
    call = list(inspect.signature(getattr(elman, kind).forward).parameters)
    ours = ["lengths", "reset", "reset_to"] if kind in LAYERS else []
    assert call == ["self", "input", "hx", *ours]


def test_the_initial_values_have_the_documented_bound() -> None:
    lstm = elman.LSTM(7, 16, 2)
    for parameter in lstm.parameters():
        assert 0.2 < parameter.abs().max().item() <= 1 / math.sqrt(16)


def test_modules_can_be_made_without_memory_and_filled_later() -> None:
    lstm = torch.nn.utils.skip_init(elman.LSTM, 3, 4)
    assert lstm.weight_ih_l0.device.type == "cpu"
    lstm.reset_parameters()
    assert lstm(torch.randn(2, 1, 3))[0].isfinite().all()


# --- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_a_packed_result_is_packed_as_the_input(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    for lengths in ([5, 3, 1], [1, 5, 3]):
        packed = pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=lengths[0] > 1)
        (a, _), (b, _) = ours(packed), theirs(packed)
        assert type(a) is type(b)
        near(a.data, b.data)
        same(a.batch_sizes, b.batch_sizes)
        if b.sorted_indices is None:
            assert a.sorted_indices is a.unsorted_indices is None
        else:
            same(a.sorted_indices, b.sorted_indices)
            same(a.unsorted_indices, b.unsorted_indices)


@pytest.mark.parametrize("kind", LAYERS)
def test_each_sequence_of_a_packed_batch_ends_at_its_own_last_step(kind: str) -> None:
    ours = getattr(elman, kind)(3, 4, 2, bidirectional=True)
    sequences = [torch.randn(n, 3) for n in (2, 5, 1, 4)]
    _, state = ours(pack_sequence(sequences, enforce_sorted=False))
    for i, sequence in enumerate(sequences):
        _, alone = ours(sequence)
        pairs = zip(state, alone, strict=True) if kind == "LSTM" else [(state, alone)]
        for together, single in pairs:
            near(together[:, i], single)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_initial_state_goes_by_position_or_as_hx(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    x, h = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    hx = (h, h + 1) if kind == "LSTM" else h
    same(ours(x, hx)[0], ours(input=x, hx=hx)[0])
    near(ours(x, hx)[0], theirs(x, hx)[0])
    if kind == "LSTM":
        same(ours(x, hx)[0], ours(x, list(hx))[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_results_are_structured_as_in_torch(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    (a, s), (b, t) = ours(x), theirs(x)
    assert type(s) is type(t)
    assert a.shape == b.shape
    assert a.stride() == b.stride()
    assert [u.shape for u in s] == [u.shape for u in t]


@pytest.mark.parametrize("kind", LAYERS)
def test_an_empty_batch_works(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4, 2, bidirectional=True)
    for x in (torch.zeros(5, 0, 3), torch.zeros(5, 0, 3, requires_grad=True)):
        (a, s), (b, t) = ours(x), theirs(x)
        assert a.shape == b.shape
        assert [u.shape for u in s] == [u.shape for u in t]
    a.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in ours.parameters())


@pytest.mark.parametrize("kind", STEP_CELLS)
def test_a_cell_takes_an_empty_batch(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    a, b = ours(torch.zeros(0, 3)), theirs(torch.zeros(0, 3))
    assert a[0].shape == b[0].shape if kind == "LSTMCell" else a.shape == b.shape


@pytest.mark.parametrize("kind", LAYERS)
def test_input_may_have_any_strides(kind: str) -> None:
    ours = getattr(elman, kind)(3, 4)
    x = torch.randn(3, 2, 10)[:, :, ::2].permute(2, 1, 0)
    assert not x.is_contiguous()
    same(ours(x)[0], ours(x.contiguous())[0])
    same(ours(x[:1].expand(4, 2, 3))[0], ours(x[:1].repeat(4, 1, 1))[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_no_two_results_share_memory(kind: str) -> None:
    for options in ({}, {"num_layers": 2}, {"bidirectional": True}):
        output, state = getattr(elman, kind)(3, 4, **options)(torch.randn(1, 1, 3))
        results = [output, *(state if kind == "LSTM" else [state])]
        assert len({r.untyped_storage().data_ptr() for r in results}) == len(results)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_acts_in_training_only(kind: str) -> None:
    ours = getattr(elman, kind)(3, 4, 2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    ours.eval()
    same(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_of_everything_leaves_the_biases(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4, 2, dropout=1.0)
    x = torch.randn(5, 2, 3)
    near(ours(x)[0], theirs(x)[0])


# --- what programs read of torch.nn's layers ----------------------------------------------------

# The structures of a layer that differ in which parameters there are.
PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in LAYERS),
    ("RNN", {"bias": False, "num_layers": 2}),
    ("GRU", {"bidirectional": True, "batch_first": True}),
    ("LSTM", {"bidirectional": True, "num_layers": 2, "proj_size": 2}),
]
each_parameters = pytest.mark.parametrize(("kind", "options"), PARAMETERS, ids=str)


def parts(value: Any) -> Any:
    return [parts(part) for part in value] if isinstance(value, (list, tuple)) else value


@each_parameters
def test_lists_of_the_parameters_are_those_of_torch(kind: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(kind, 3, 4, **options)
    assert parts(ours._flat_weights_names) == theirs._flat_weights_names
    assert parts(ours._all_weights) == theirs._all_weights
    for a, b in zip(ours._flat_weights, theirs._flat_weights, strict=True):
        same(a, b)
    assert parts(ours.all_weights) == [[getattr(ours, n) for n in ns] for ns in ours._all_weights]


def test_lists_of_the_parameters_are_made_when_they_are_read() -> None:
    lstm = elman.LSTM(3, 4)
    weight = torch.nn.Parameter(torch.randn(16, 3))
    lstm.weight_ih_l0 = weight
    assert lstm._flat_weights[0] is weight
    lstm.double()
    assert {w.dtype for w in lstm._flat_weights} == {torch.float64}
    del lstm.weight_hh_l0
    assert lstm._flat_weights[1] is None
    assert not [name for name, value in vars(lstm).items() if value is weight]
    for views in (lstm._flat_weights, lstm._flat_weights_names, lstm._all_weights):
        with pytest.raises(TypeError):  # there would be nothing that it changes
            views[0] = weight


def test_a_list_of_parameters_that_is_written_takes_effect_or_is_refused() -> None:
    theirs, ours = pair("LSTM", 3, 4)
    x = torch.randn(5, 2, 3)
    new = [torch.nn.Parameter(weight * 2) for weight in theirs._flat_weights]
    for module in (theirs, ours):
        module._flat_weights = new
    near(ours(x)[0], torch.nn.LSTM.forward(ours, x)[0])
    assert all(a is b for a, b in zip(ours.parameters(), new, strict=True))
    ours._flat_weights = ours._flat_weights
    for wrong, error in (
        ([weight.detach() for weight in new], TypeError),
        (new[:3], ValueError),
    ):
        with pytest.raises(error):
            ours._flat_weights = wrong
    for name in ("_flat_weights_names", "_all_weights", "all_weights"):
        with pytest.raises(AttributeError):
            setattr(ours, name, [])
    assert all(a is b for a, b in zip(ours.parameters(), new, strict=True))


@each_parameters
def test_checks_and_sizes_are_those_of_torch(kind: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(kind, 3, 4, **options)
    x, packed = torch.randn(5, 2, 3), torch.randn(7, 3)
    sizes = torch.tensor([2, 2, 1, 1, 1])
    _, state = theirs(x if not ours.batch_first else x.transpose(0, 1))
    order = torch.tensor([1, 0])
    for input, batch_sizes in (
        (x.transpose(0, 1) if ours.batch_first else x, None),
        (packed, sizes),
    ):
        wanted = theirs.get_expected_hidden_size(input, batch_sizes)
        assert ours.get_expected_hidden_size(input, batch_sizes) == wanted
        if kind == "LSTM":
            wanted = theirs.get_expected_cell_size(input, batch_sizes)
            assert ours.get_expected_cell_size(input, batch_sizes) == wanted
        for module in (theirs, ours):
            module.check_input(input, batch_sizes)
            module.check_forward_args(input, state, batch_sizes)
            wrong = (state[0][:, :1], state[1]) if kind == "LSTM" else state[:, :1]
            with pytest.raises(RuntimeError, match="Expected hidden"):
                module.check_forward_args(input, wrong, batch_sizes)
            with pytest.raises(RuntimeError, match="must be equal to input_size"):
                module.check_input(input[..., :2], batch_sizes)
    a, b = (module.permute_hidden(state, order) for module in (theirs, ours))
    for p, q in zip(a, b, strict=True):
        same(p, q)


def test_a_subclass_may_call_pytorchs_kernel_itself() -> None:
    class Own(elman.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
            if hx is None:
                h = input.new_zeros(self.get_expected_hidden_size(input, None))
                hx = (h, input.new_zeros(self.get_expected_cell_size(input, None)))
            self.check_forward_args(input, hx, None)
            options = (self.bias, self.num_layers, self.dropout, self.training)
            options += (self.bidirectional, self.batch_first)
            output, *state = torch._VF.lstm(input, hx, self._flat_weights, *options)
            return output, tuple(state)

    own, x = Own(3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    near(own(x)[0], elman.LSTM.forward(own, x)[0])
    own.double()
    own(x.double())[0].sum().backward()
    assert all(parameter.grad is not None for parameter in own.parameters())


class Flexible(ABC, torch.nn.RNNBase):
    """Takes sequences of length 0 by packing them at least 1 long, as pytorch-forecasting does."""

    @abstractmethod
    def keep(self, state: Any, empty: Tensor, before: Any) -> Any: ...

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        if lengths is None:
            return super().forward(x, hx=hx)
        packed = pack_padded_sequence(x, lengths.clamp(min=1), enforce_sorted=False)
        output, state = super().forward(packed, hx=hx)
        return pad_packed_sequence(output)[0], self.keep(state, (lengths == 0)[:, None], hx)


class KeepsTwo:
    def keep(self, state: Any, empty: Tensor, before: Any) -> Any:
        return tuple(torch.where(empty, b, s) for s, b in zip(state, before, strict=True))


class KeepsOne:
    def keep(self, state: Any, empty: Tensor, before: Any) -> Any:
        return torch.where(empty, before, state)


@pytest.mark.parametrize("kind", LAYERS)
def test_ours_may_stand_behind_a_mixin_of_torchs_base(kind: str) -> None:
    keeps = KeepsTwo if kind == "LSTM" else KeepsOne
    modules = []
    for namespace in (torch.nn, elman):
        base = getattr(namespace, kind)
        torch.manual_seed(0)
        cls = type(kind, (keeps, Flexible, base), {})
        modules.append(cls(3, 4, num_layers=2, dropout=0.1).eval())
    h = torch.randn(2, 4, 4)
    hx = (h, h + 1) if kind == "LSTM" else h
    x, lengths = torch.randn(5, 4, 3), torch.tensor([5, 0, 3, 1])
    for a, b in zip(*(flat(module(x, hx, lengths)) for module in modules), strict=True):
        near(a, b)
    for a, b in zip(*(flat(module(x)) for module in modules), strict=True):
        near(a, b)
    for module in modules:
        assert repr(module) == f"{kind}(3, 4, num_layers=2, dropout=0.1)"


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_a_subclass_hands_its_arguments_on_and_mixins_are_initialised(kind: str) -> None:
    made = []

    class Mixin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made.append(type(self))

    base: Any = getattr(elman, kind)

    class Own(base, Mixin):
        def __init__(self, *args: Any, scale: float = 1.0, **options: Any) -> None:
            super().__init__(*args, **options)
            self.scale = scale

    own = Own(3, hidden_size=4, scale=2.0)
    assert made == [Own]
    assert (own.input_size, own.hidden_size, own.scale) == (3, 4, 2.0)
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    same(own(x)[0], base.forward(own, x)[0])


# --- parameters are read at each call -----------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_a_write_behind_the_modules_back_shows_in_the_next_call(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    with torch.no_grad():
        before = ours(x)[0]
        for module in (theirs, ours):
            first = next(module.parameters())
            first.data.mul_(2)
            first.detach().numpy()[0] = 3
        assert not torch.equal(ours(x)[0], before)
        near(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_a_parameter_replaced_by_a_computed_tensor_takes_effect(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    name = next(name for name, _ in ours.named_parameters() if name.startswith("weight_hh"))
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    scale = torch.tensor(0.5, requires_grad=True)
    for module in (theirs, ours):
        value = getattr(module, name).detach()
        delattr(module, name)
        setattr(module, name, value * scale)
    a, b = ours(x)[0], theirs(x)[0]
    near(a, b)
    (da,), (db,) = (torch.autograd.grad(y.square().sum(), scale) for y in (a, b))
    near(da, db)


@pytest.mark.parametrize("kind", LAYERS)
def test_parametrizations_and_pruning_work(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4, 2)
    x = torch.randn(5, 2, 3)
    for module in (theirs, ours):
        torch.manual_seed(0)
        parametrizations.weight_norm(module, "weight_ih_l0")
        parametrizations.orthogonal(module, "weight_hh_l0")
        prune.l1_unstructured(module, "weight_ih_l1", amount=0.5)
        with torch.no_grad():
            module.parametrizations.weight_ih_l0.original0.mul_(2)
    near(ours(x)[0], theirs(x)[0])
    ours(x)[0].sum().backward()
    theirs(x)[0].sum().backward()
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
    assert (ours.weight_ih_l1 == 0).any()
    parametrize.remove_parametrizations(ours, "weight_ih_l0")
    near(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_functional_call_uses_the_given_parameters(kind: str) -> None:
    theirs, ours = pair(kind, 3, 4)
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    given = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    before = ours(x)[0]
    near(functional_call(ours, given, (x,))[0], functional_call(theirs, given, (x,))[0])
    same(ours(x)[0], before)


def test_tied_weights_are_one_parameter() -> None:
    theirs, ours = pair("GRU", 4, 4)
    x = torch.randn(5, 2, 4)
    for module in (theirs, ours):
        module.weight_hh_l0 = module.weight_ih_l0
        module(x)[0].sum().backward()
    assert len(list(ours.parameters())) == 3
    near(ours.weight_ih_l0.grad, theirs.weight_ih_l0.grad)


# --- copies and conversions ---------------------------------------------------------------------


def through_pickle(module: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(module))


def through_a_file(module: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
def test_a_copy_computes_the_same_on_its_own_parameters(
    kind: str, copied: Callable[[torch.nn.Module], torch.nn.Module]
) -> None:
    ours = getattr(elman, kind)(3, 4, bias=False)
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    other = copied(ours)
    before = ours(x)[0]
    same(other(x)[0], before)
    with torch.no_grad():
        next(other.parameters()).mul_(3)
    same(ours(x)[0], before)
    assert not torch.equal(other(x)[0], before)


def test_a_shallow_copy_shares_its_parameters() -> None:
    lstm = elman.LSTM(3, 4)
    other = copy.copy(lstm)
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        lstm.weight_ih_l0.mul_(3)
    same(other(x)[0], lstm(x)[0])


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_a_module_can_change_its_dtype(kind: str) -> None:
    ours = getattr(elman, kind)(3, 4)
    x = torch.randn(2, 3) if kind in STEP_CELLS else torch.randn(5, 2, 3)
    before = ours(x)[0]
    for convert in (lambda m: m.double(), lambda m: m.to(torch.float32), lambda m: m.bfloat16()):
        convert(ours)
        dtype = next(ours.parameters()).dtype
        after = ours(x.to(dtype))[0]
        assert after.dtype is dtype
        torch.testing.assert_close(after.float(), before, rtol=0, atol=0.03)


def test_parameters_may_lie_in_shared_memory() -> None:
    gru = elman.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    before = gru(x)[0]
    assert gru.share_memory().weight_ih_l0.is_shared()
    same(gru(x)[0], before)


# --- lengths ------------------------------------------------------------------------------------

# The structures of a layer in which a row's own end matters.
STRUCTURES = [
    *((kind, {}) for kind in LAYERS),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    ("GRU", {"num_layers": 2, "bidirectional": True}),
    ("GRU", {"bidirectional": True, "reset_after": False}),
]
each_structure = pytest.mark.parametrize(("kind", "extra"), STRUCTURES, ids=str)
SPREAD = [3, 0, 7, 1, 7, 0]


def ragged(kind: str, extra: dict[str, Any], form: str = "ragged", **given: Any) -> Problem:
    options = {"input_size": 4, "hidden_size": 5} | extra
    problem = Problem(kind, options, form, seq_len=7, batch=len(SPREAD), **given)
    object.__setattr__(problem, "lengths", SPREAD)
    return problem


def flat(result: tuple[Any, Any]) -> tuple[Tensor, ...]:
    output, state = result
    return (output, *state) if isinstance(state, tuple) else (output, state)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("form", RAGGED_FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_structure
def test_a_row_given_its_length_is_computed_as_that_sequence_alone(
    kind: str, extra: dict[str, Any], dtype: torch.dtype, form: str
) -> None:
    problem = ragged(kind, extra, form)
    layer, arguments = problem.module(elman, dtype), problem.arguments(dtype)
    leaves = [*arguments.values(), *layer.parameters()]
    results = problem.call(layer, arguments)
    upstream = [torch.randn_like(result) for result in results]
    gradients = torch.autograd.grad(results, leaves, upstream)

    x, *states = arguments.values()
    axis = int(form == "ragged")
    rows = []
    for row, length in enumerate(SPREAD):
        hx = tuple(state[:, row : row + 1] for state in states)
        final = hx
        if length:
            part = x.narrow(axis, row, 1).narrow(1 - axis, 0, length)
            output, *final = flat(layer(part, hx if kind == "LSTM" else hx[0]))
            same(results[0].narrow(axis, row, 1).narrow(1 - axis, 0, length), output)
            above = upstream[0].narrow(axis, row, 1).narrow(1 - axis, 0, length)
            rows.append((output * above).sum())
        rest = results[0].narrow(axis, row, 1).narrow(1 - axis, length, 7 - length)
        same(rest, torch.zeros_like(rest))
        for state, alone, above in zip(results[1:], final, upstream[1:], strict=True):
            same(state[:, row : row + 1], alone)
            rows.append((alone * above[:, row : row + 1]).sum())
    expected = torch.autograd.grad(sum(rows), leaves)
    budget = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-12, 1e-13)}[dtype]
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=budget[0], atol=budget[1])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("with_hx", [False, True])
@each_structure
def test_a_row_of_length_zero_keeps_its_state(
    kind: str, extra: dict[str, Any], with_hx: bool
) -> None:
    problem = ragged(kind, extra, with_hx=with_hx)
    arguments = problem.arguments()
    for lengths in (SPREAD, [0] * 6):
        object.__setattr__(problem, "lengths", lengths)
        output, *final = problem.call(problem.module(elman), arguments)
        empty = torch.tensor(lengths) == 0
        same(output[:, empty], torch.zeros_like(output[:, empty]))
        for number, state in enumerate(final):
            before = list(arguments.values())[1 + number] if with_hx else torch.zeros_like(state)
            same(state[:, empty], before[:, empty])
    upstream = [torch.randn_like(state) for state in final]
    (gradient, *of_states) = torch.autograd.grad(
        [output, *final], [*arguments.values()], [torch.randn_like(output), *upstream]
    )
    same(gradient, torch.zeros_like(gradient))
    for ours, above in zip(of_states, upstream, strict=False):
        same(ours, above)


@pytest.mark.parametrize("path", [nullcontext, by_the_reference], ids=["core", "reference"])
@each_structure
def test_what_the_padding_holds_is_not_read_and_gets_no_gradient(
    kind: str, extra: dict[str, Any], path: Any
) -> None:
    problem = ragged(kind, extra)
    past = torch.arange(7)[:, None] >= torch.tensor(SPREAD)
    solutions = []
    for padding in (0.0, math.nan, math.inf):
        layer, arguments = problem.module(elman), problem.arguments()
        with torch.no_grad():
            arguments["input"][past] = padding
        with path():
            results = problem.call(layer, arguments)
            leaves = [*arguments.values(), *layer.parameters()]
            gradients = torch.autograd.grad(results, leaves, [r.detach().cos() for r in results])
        same(gradients[0][past], torch.zeros_like(gradients[0][past]))
        solutions.append([*results, *gradients])
    for solution in solutions[1:]:
        for ours, expected in zip(solution, solutions[0], strict=True):
            same(ours, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_are_a_list_or_a_tensor_of_any_integers_in_any_order(kind: str) -> None:
    layer, x = getattr(elman, kind)(3, 4), torch.randn(7, 6, 3)
    expected = flat(layer(x, None, torch.tensor(SPREAD)))
    types = (torch.uint8, torch.int8, torch.int16, torch.int32)
    others: list[Any] = [torch.tensor(SPREAD, dtype=dtype) for dtype in types]
    others += [tuple(SPREAD), np.array(SPREAD), torch.tensor([SPREAD, SPREAD]).t()[:, 0]]
    for lengths in (SPREAD, *others):
        for ours, theirs in zip(flat(layer(x, lengths=lengths)), expected, strict=True):
            same(ours, theirs)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    for ours, theirs in zip(
        flat(layer(x[:, order], None, torch.tensor(SPREAD)[order])), expected, strict=True
    ):
        same(ours, theirs[:, order])
    empty = flat(layer(torch.zeros(7, 0, 3), lengths=[]))
    assert [result.shape[1] for result in empty] == [0] * len(empty)


@pytest.mark.usefixtures("isa")
@each_structure
def test_full_lengths_change_no_bit(kind: str, extra: dict[str, Any]) -> None:
    problem = ragged(kind, extra)
    object.__setattr__(problem, "lengths", [7] * 6)
    whole = dataclasses.replace(problem, form="time_first")
    ours, theirs = solve(problem, elman), solve(whole, elman)
    for name in ours:
        same(ours[name], theirs[name])


# input as (L, N, .) with lengths, the same packed, and the same nested -> results as of the first
def in_every_form(
    layer: Any, x: Tensor, hx: Any, lengths: list[int]
) -> dict[str, tuple[Tensor, ...]]:
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    rows = [x[:length, n] for n, length in enumerate(lengths)]
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    results = {"lengths": flat(layer(x, hx, lengths))}
    output, *final = flat(layer(packed, hx))
    results["packed"] = (pad_packed_sequence(output)[0], *final)
    output, *final = flat(layer(nested, hx))
    assert output.layout is torch.jagged
    same(output.offsets(), nested.offsets())
    padded = torch.nested.to_padded_tensor(output, 0.0).transpose(0, 1)
    results["nested"] = (padded, *final)
    return results


@pytest.mark.usefixtures("isa")
@each_structure
def test_lengths_packed_and_nested_give_the_same_bits(kind: str, extra: dict[str, Any]) -> None:
    problem = ragged(kind, extra)
    layer, (x, *states) = problem.module(elman), problem.arguments().values()
    hx = tuple(states) if kind == "LSTM" else states[0]
    leaves = [x, *states, *layer.parameters()]
    forms = in_every_form(layer, x, hx, [3, 2, 7, 1, 6, 7])  # packed has no room for zeros
    upstream = [torch.randn_like(result) for result in forms["lengths"]]
    solutions = {
        form: [*results, *torch.autograd.grad(results, leaves, upstream)]
        for form, results in forms.items()
    }
    for form in ("packed", "nested"):
        for ours, theirs in zip(solutions[form], solutions["lengths"], strict=True):
            same(ours, theirs)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_nested_batch_may_have_empty_sequences(kind: str, batch_first: bool) -> None:
    layer = getattr(elman, kind)(3, 4, 2, bidirectional=True)
    x = torch.randn(7, 6, 3)
    for lengths in (SPREAD, [0] * 6):
        padded, *expected = flat(layer(x, lengths=lengths))
        rows = [x[:length, n] for n, length in enumerate(lengths)]
        nested = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
        layer.batch_first = batch_first  # which does not say how a nested tensor lies
        output, *final = flat(layer(nested))
        layer.batch_first = False
        same(output.values(), torch.cat([padded[:length, n] for n, length in enumerate(lengths)]))
        for ours, theirs in zip(final, expected, strict=True):
            same(ours, theirs)
        output.values().sum().backward()
        same(nested.grad.offsets(), nested.offsets())


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_lowers_ragged_results_too(kind: str) -> None:
    layer, x = getattr(elman, kind)(3, 4), torch.randn(7, 6, 3)
    expected = flat(layer(x, lengths=SPREAD))
    with torch.autocast("cpu"):
        ours = flat(layer(x.bfloat16(), lengths=SPREAD))
    for result, exact in zip(ours, expected, strict=True):
        assert result.dtype is torch.bfloat16
        torch.testing.assert_close(result.float(), exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_takes_lengths(dtype: torch.dtype) -> None:
    layer, x = elman.LSTM(3, 4, bidirectional=True), torch.randn(7, 6, 3)
    x = x.to(dtype).float()
    layer.to(dtype).float()
    with medium(dtype is torch.bfloat16):
        expected = flat(layer(x, lengths=SPREAD))
    for ours, exact in zip(
        flat(layer.to(dtype)(x.to(dtype), lengths=SPREAD)), expected, strict=True
    ):
        same(ours, exact.to(dtype))


@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize(
    ("kind", "extra"), [case for case in STRUCTURES if "reset_after" not in case[1]], ids=str
)
def test_pytorchs_kernels_are_given_lengths_by_packing(
    kind: str, extra: dict[str, Any], with_hx: bool
) -> None:
    problem = ragged(kind, extra)
    layer, (x, *states) = problem.module(elman), problem.arguments().values()
    if not with_hx:
        states = [torch.zeros_like(state) for state in states]
    lengths = torch.tensor(SPREAD)
    ours = layer._run_elsewhere(
        layer._cell, x, None, tuple(states) if with_hx else None, layer._weights(), lengths
    )
    expected = layer._run(x, None, tuple(states), layer._weights(), lengths)
    leaves = [x, *layer.parameters()]
    upstream = [torch.randn_like(result) for result in expected]
    for a, b in zip(
        [*ours, *torch.autograd.grad(ours, leaves, upstream)],
        [*expected, *torch.autograd.grad(expected, leaves, upstream)],
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- the GRU of the paper -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_the_gru_of_the_paper_differs_in_one_attribute(kind: str) -> None:
    modules = {}
    for reset_after in (True, False):
        torch.manual_seed(0)
        modules[reset_after] = getattr(elman, kind)(3, 4, reset_after=reset_after)
    before, after = modules[False], modules[True]
    assert (before.reset_after, after.reset_after) == (False, True)
    assert repr(before) == f"{kind}(3, 4, reset_after=False)"
    assert repr(after) == f"{kind}(3, 4)"
    x = torch.randn(2, 3) if kind == "GRUCell" else torch.randn(5, 2, 3)
    h = torch.randn(2, 4) if kind == "GRUCell" else torch.randn(1, 2, 4)
    assert not torch.equal(before(x, h)[0], after(x, h)[0])
    before.load_state_dict(after.state_dict())
    before.reset_after = True
    same(before(x, h)[0], after(x, h)[0])


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
def test_a_copy_of_the_gru_of_the_paper_is_one(kind: str, copied: Callable[[Any], Any]) -> None:
    module = getattr(elman, kind)(3, 4, reset_after=False)
    other = copied(module)
    assert other.reset_after is False
    x = torch.randn(2, 3) if kind == "GRUCell" else torch.randn(5, 2, 3)
    h = torch.randn(2, 4) if kind == "GRUCell" else torch.randn(1, 2, 4)
    same(other(x, h)[0], module(x, h)[0])


def test_a_gru_cell_of_the_paper_takes_the_steps_of_its_layer() -> None:
    layer = elman.GRU(3, 4, reset_after=False)
    cell = elman.GRUCell(3, 4, reset_after=False)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, h = torch.randn(5, 2, 3), torch.randn(2, 4)
    output, _ = layer(x, h[None])
    for t in range(5):
        h = cell(x[t], h)
        same(h, output[t])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_of_the_gru_of_the_paper_is_rounded_float32(dtype: torch.dtype) -> None:
    layer = elman.GRU(3, 4, reset_after=False).to(dtype)
    x = torch.randn(5, 2, 3).to(dtype)
    ours = flat(layer(x))
    with medium(dtype is torch.bfloat16):
        wide = flat(layer.float()(x.float()))
    for result, exact in zip(ours, wide, strict=True):
        same(result, exact.to(dtype))


# --- other dtypes and devices -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", LAYERS)
def test_half_precision_is_as_accurate_as_torchs(kind: str, dtype: torch.dtype) -> None:
    theirs, ours = pair(kind, 5, 8, 2, bidirectional=True, dtype=dtype)
    x = torch.randn(6, 3, 5).to(dtype)
    exact = copy.deepcopy(theirs).double()(x.double())[0]
    a, b = ours(x)[0], theirs(x)[0]
    assert a.dtype is dtype
    errors = [(y.double() - exact).abs().max().item() for y in (a, b)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_hx", [False, True])
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_autocast_gives_the_dtypes_of_torch(kind: str, with_hx: bool, dtype: torch.dtype) -> None:
    theirs, ours = pair(kind, 3, 4, dtype=dtype)
    x = torch.randn(2, 3, dtype=dtype) if kind in STEP_CELLS else torch.randn(5, 2, 3, dtype=dtype)
    h = torch.randn(2, 4, dtype=dtype) if kind in STEP_CELLS else torch.randn(1, 2, 4, dtype=dtype)
    hx = None if not with_hx else (h, h) if "LSTM" in kind else h
    flat = torch.utils._pytree.tree_leaves
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = flat(ours(x, hx)), flat(theirs(x, hx))
    assert [t.dtype for t in a] == [t.dtype for t in b]
    for s, t in zip(a, b, strict=True):
        torch.testing.assert_close(s, t, rtol=0, atol=0.05)
    sum(t.sum() for t in a).backward()
    assert {p.grad.dtype for p in ours.parameters()} == {dtype}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_autocast_leaves_computed_weights_as_they_are(kind: str) -> None:
    module = getattr(elman, kind)(3, 4)
    name = "weight_ih" if kind.endswith("Cell") else "weight_ih_l0"
    torch.nn.utils.parametrizations.orthogonal(module, name)  # products, which autocast lowers
    x = torch.randn(2, 3) if kind.endswith("Cell") else torch.randn(5, 2, 3)
    with torch.autocast("cpu"):
        lowered = module(x)
    torch.testing.assert_close(lowered, module(x), rtol=2e-2, atol=2e-2, check_dtype=False)
    first = lowered[0] if isinstance(lowered, tuple) else lowered
    first.sum().backward()
    grad = getattr(module.parametrizations, name).original.grad
    assert grad is not None
    assert grad.any()


def test_autocast_tells_states_of_lowered_input_and_computed_weights() -> None:
    layer = elman.LSTM(3, 4)
    torch.nn.utils.parametrizations.orthogonal(layer, "weight_hh_l0")
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu"):
        found = layer.states(x.bfloat16())
    with medium():
        expected = layer.states(x.bfloat16().float())
    torch.testing.assert_close(found, expected)


def test_autocast_takes_what_a_lowered_layer_gives() -> None:
    embedding, gru = torch.nn.Linear(3, 3), elman.GRU(3, 4)
    lstm, head = elman.LSTM(4, 4), torch.nn.Linear(4, 2)
    with torch.autocast("cpu"):
        x = embedding(torch.randn(5, 2, 3))
        assert x.dtype is torch.bfloat16
        output, (h_n, c_n) = lstm(gru(x)[0])
        assert lstm(output, (h_n, c_n))[0].dtype is torch.bfloat16
        packed = pack_padded_sequence(output, [5, 3])
        assert lstm(packed, (h_n, c_n))[0].data.dtype is torch.bfloat16
        head(output).float().sum().backward()
    assert embedding.weight.grad is not None
    with torch.autocast("cpu"), pytest.raises(ValueError, match="dtype"):
        gru(torch.zeros(5, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_meta_tensors_give_the_shapes(kind: str) -> None:
    flat = torch.utils._pytree.tree_leaves
    for options in ({}, {"num_layers": 2, "bidirectional": True, "bias": False}):
        if kind in STEP_CELLS and options:
            options = {"bias": False}
        theirs, ours = pair(kind, 3, 4, device="meta", **options)
        if kind in STEP_CELLS:
            inputs = [torch.zeros(2, 3), torch.zeros(3)]
        else:
            inputs = [torch.zeros(5, 2, 3), torch.zeros(5, 3), pack_sequence([torch.zeros(2, 3)])]
        for x in inputs:
            a, b = flat(ours(x.to("meta"))), flat(theirs(x.to("meta")))
            assert [t.shape for t in a if t is not None] == [t.shape for t in b if t is not None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_cuda_tensors_go_to_torchs_kernels(kind: str) -> None:
    forms = ("time_first", "unbatched") if kind in STEP_CELLS else FORMS
    for form, with_hx in product(forms, (False, True)):
        options = {"input_size": 3, "hidden_size": 4}
        if kind in LAYERS:
            options |= {"num_layers": 2, "bidirectional": True}
        problem = Problem(kind, options, form, with_hx=with_hx)
        results = []
        for namespace in (elman, torch.nn):
            module = problem.module(namespace).cuda()
            arguments = {name: value.cuda() for name, value in problem.arguments().items()}
            results.append(problem.call(module, arguments))
        for a, b in zip(*results, strict=True):
            assert a.is_cuda
            same(a, b)


def test_every_cell_has_a_layer() -> None:
    layers = (elman.RNN(1, 1), elman.RNN(1, 1, 1, "relu"), elman.LSTM(1, 1), elman.GRU(1, 1))
    layers += (elman.GRU(1, 1, reset_after=False),)
    assert {layer._cell.name for layer in layers} == set(CELLS)
