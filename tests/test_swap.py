"""Models of torch.nn made ours and back: what is kept, what is left, and that results are equal."""

import copy
import functools
import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FORMS, LAYERS, STEP_CELLS, Problem, assert_as_accurate_as_torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import elman
from elman.shapes import KindError

DEEP = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
PROBLEMS = [
    Problem(kind, {"input_size": 5, "hidden_size": 6} | options, form, seed=3)
    for kind, options in (
        *(("RNN", DEEP | {"nonlinearity": "relu"}), ("LSTM", DEEP | {"proj_size": 3})),
        *(("GRU", DEEP | {"bias": False}), ("RNNCell", {"nonlinearity": "relu"})),
        *(("LSTMCell", {"bias": False}), ("GRUCell", {})),
    )
    for form in (("time_first", "unbatched") if kind in STEP_CELLS else FORMS)
]


class Tagger(nn.Module):
    """Embedding, shared encoder, packed or not, attention by a cell, head: as taggers are built."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.encoder = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.again = self.encoder
        self.steps = nn.ModuleList([nn.GRUCell(12, 4)])
        self.head = nn.Sequential(OrderedDict(norm=nn.LayerNorm(4), out=nn.Linear(4, 3)))

    def forward(self, tokens: Tensor) -> Tensor:
        output, _ = self.encoder(self.embed(tokens))
        h = None
        for x in output.unbind(1):
            h = self.steps[0](x, h)
        return self.head(h)


TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))


def tagger() -> Tagger:
    torch.manual_seed(0)
    return Tagger()


def near(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[Tensor]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(TOKENS), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def gradients(problem: Problem, module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    arguments = problem.arguments(dtype)
    results = problem.call(module, arguments)
    leaves = arguments | dict(module.named_parameters())
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(r.shape, generator=generator).to(dtype) for r in results]
    found = torch.autograd.grad(results, list(leaves.values()), upstream)
    named = {f"result {i}": result.detach() for i, result in enumerate(results)}
    return named | {f"d {name}": g for name, g in zip(leaves, found, strict=True)}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind}, {p.form}")
def test_a_converted_module_computes_what_it_did(problem: Problem) -> None:
    module = problem.module(nn)
    before = gradients(problem, module, torch.float32)
    exact = gradients(problem, problem.module(nn, torch.float64), torch.float64)
    text = repr(module)
    elman.convert(module)
    assert type(module) is getattr(elman, problem.kind)
    assert repr(module).startswith(text[:-1])  # cells of torch.nn print less
    assert_as_accurate_as_torch(gradients(problem, module, torch.float32), before, exact)
    elman.revert(module)
    assert type(module) is getattr(nn, problem.kind)
    torch.testing.assert_close(gradients(problem, module, torch.float32), before, rtol=0, atol=0)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind}, {p.form}")
def test_conversion_leaves_the_attributes_of_a_module_made_so(problem: Problem) -> None:
    for before, after, swap in ((nn, elman, elman.convert), (elman, nn, elman.revert)):
        module = problem.module(before)
        swap(module)
        assert vars(module).keys() == vars(problem.module(after)).keys()
        state, wanted = module.state_dict(), problem.module(after).state_dict()
        torch.testing.assert_close(state, wanted, rtol=0, atol=0)


def test_a_model_trains_on_with_its_optimiser() -> None:
    model, twin = tagger(), tagger()
    optimizers = [torch.optim.Adam(m.parameters(), 0.01) for m in (model, twin)]
    train(model, optimizers[0])
    train(twin, optimizers[1])
    parameters = list(model.parameters())
    elman.convert(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    near(train(model, optimizers[0]), train(twin, optimizers[1]))
    elman.revert(model)
    near(train(model, optimizers[0]), train(twin, optimizers[1]))
    near(model.state_dict(), twin.state_dict())


def test_names_sharing_and_references_stay() -> None:
    model = tagger()
    names, encoder = list(model.state_dict()), model.encoder
    elman.convert(model)
    assert list(model.state_dict()) == names
    assert model.encoder is model.again is encoder
    assert type(encoder) is elman.LSTM
    assert type(model.steps[0]) is elman.GRUCell


def test_flags_and_attributes_stay() -> None:
    module = nn.LSTM(3, 4)
    module.weight_ih_l0.requires_grad_(False)
    module.eval()
    module.note = "mine"
    module.register_buffer("count", torch.tensor(3))
    module.extra = nn.Linear(1, 1)
    elman.convert(module)
    assert not module.training
    assert not module.weight_ih_l0.requires_grad
    assert (module.note, module.count.item()) == ("mine", 3)
    assert isinstance(module.extra, nn.Linear)
    elman.revert(module)
    assert not module.training
    assert not module.weight_ih_l0.requires_grad
    assert (module.note, module.count.item()) == ("mine", 3)


def test_hooks_run_in_their_order_and_their_handles_remove_them() -> None:
    module, calls = nn.GRUCell(3, 4), []

    def hook(name: str) -> Any:
        return lambda *arguments: calls.append(name)

    register = {
        "pre": module.register_forward_pre_hook,
        "forward": module.register_forward_hook,
        "backward pre": module.register_full_backward_pre_hook,
        "backward": module.register_full_backward_hook,
        "save": module.register_state_dict_post_hook,
        "load": module.register_load_state_dict_post_hook,
    }
    handles = [r(hook(f"{name} {i}")) for name, r in register.items() for i in (1, 2)]
    elman.convert(module)
    module(torch.randn(2, 3, requires_grad=True)).sum().backward()
    module.load_state_dict(module.state_dict())
    assert calls == [f"{name} {i}" for name in register for i in (1, 2)]
    for handle in handles:
        handle.remove()
    calls.clear()
    module(torch.randn(2, 3, requires_grad=True)).sum().backward()
    module.load_state_dict(module.state_dict())
    assert calls == []


def parametrized(module: nn.Module) -> None:
    parametrizations.weight_norm(module, "weight_hh_l0")
    parametrizations.orthogonal(module, "weight_ih_l0")


def pruned(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight_hh_l0", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "change",
    [parametrized, pruned, lambda module: nn.utils.weight_norm(module, "weight_hh_l0")],
    ids=["parametrized", "pruned", "weight_norm by hooks"],
)
def test_computed_weights_stay_computed(kind: str, change: Any) -> None:
    torch.manual_seed(0)
    module, x = getattr(nn, kind)(3, 4), torch.randn(5, 2, 3)
    change(module)
    before, names = module(x), list(module.state_dict())
    elman.convert(module)
    assert isinstance(module, getattr(elman, kind))
    near(module(x), before)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    changed = module(x)
    assert not torch.equal(changed[0], before[0])
    elman.revert(module)
    assert isinstance(module, getattr(nn, kind))
    assert list(module.state_dict()) == names
    near(module(x), changed)


def test_a_deep_copy_of_a_parametrized_module_keeps_its_own_class() -> None:
    module = nn.GRU(3, 4)
    parametrized(module)
    twin, x = copy.deepcopy(module), torch.randn(5, 2, 3)
    elman.convert(module)
    assert isinstance(module, elman.GRU)
    assert isinstance(twin, nn.GRU)
    near(module(x), twin(x))
    near(copy.deepcopy(module)(x), twin(x))


def test_parametrizations_can_be_removed_after_conversion() -> None:
    module = nn.LSTM(3, 4)
    parametrized(module)
    x = torch.randn(5, 2, 3)
    before = module(x)[0]
    elman.convert(module)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    parametrize.remove_parametrizations(module, "weight_ih_l0")
    assert type(module) is elman.LSTM
    near(module(x)[0], before)


def test_what_a_model_was_converted_from_is_reported() -> None:
    model = tagger()
    report = elman.convert(model)
    assert [(e.name, e.before, e.after, e.reason) for e in report.replaced] == [
        ("encoder", "torch.nn.LSTM", "elman.LSTM", ""),
        ("steps.0", "torch.nn.GRUCell", "elman.GRUCell", ""),
    ]
    assert report.left == ()
    assert str(report) == (
        "2 replaced, 0 left\n"
        "encoder  torch.nn.LSTM -> elman.LSTM\n"
        "steps.0  torch.nn.GRUCell -> elman.GRUCell"
    )
    assert str(elman.convert(model)) == "nothing to replace"


class Own(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(input, hx)


class Named(nn.GRU):
    pass


def test_subclasses_are_left_with_the_reason() -> None:
    model = nn.ModuleDict({"own": Own(3, 4), "named": Named(3, 4)})
    report = elman.convert(model)
    assert report.replaced == ()
    assert [entry.reason for entry in report.left] == [
        "a subclass of torch.nn.LSTM that overrides forward",
        "a subclass of torch.nn.GRU",
    ]
    assert str(report).splitlines()[1:] == [
        f"own    left: {__name__}.Own, a subclass of torch.nn.LSTM that overrides forward",
        f"named  left: {__name__}.Named, a subclass of torch.nn.GRU",
    ]
    assert [type(module) for module in model.values()] == [Own, Named]


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*torch.ao", "ignore:.*quantize")
def test_scripted_and_quantized_modules_are_left_with_the_reason() -> None:
    model = nn.Sequential(nn.LSTM(3, 4))
    (entry,) = elman.convert(torch.jit.script(model)).left
    assert (entry.name, entry.reason) == ("0", "its code is fixed by TorchScript")
    quantized = torch.ao.nn.quantized.dynamic.LSTM(3, 4)
    for module in (quantized, torch.ao.nn.quantizable.LSTM(3, 4)):
        report = elman.convert(module)
        assert report.replaced == ()
        assert report.left[0].name == ""
        assert {entry.reason for entry in report.left} == {"it is quantized, or made to be"}


def test_a_module_whose_forward_was_replaced_is_left() -> None:
    module = nn.GRU(3, 4)
    old, x = module.forward, torch.randn(5, 2, 3)
    module.forward = lambda *arguments: old(*arguments)
    (entry,) = elman.convert(module).left
    assert entry.reason.startswith("its forward was replaced")
    assert module(x)[0].shape == (5, 2, 4)
    del module.forward
    assert elman.convert(module).left == ()


def test_weights_that_are_no_plain_tensors_are_left() -> None:
    class Counted(Tensor):
        pass

    module = nn.GRUCell(3, 4)
    module.weight_hh = nn.Parameter(torch.randn(12, 4).as_subclass(Counted))
    (entry,) = elman.convert(module).left
    assert entry.reason == "its weight_hh is a Counted and no plain tensor"


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_a_gru_that_resets_before_is_left_by_revert(kind: str) -> None:
    model = nn.ModuleList([getattr(elman, kind)(3, 4, reset_after=flag) for flag in (False, True)])
    report = elman.revert(model)
    assert [entry.name for entry in report.replaced] == ["1"]
    (entry,) = report.left
    assert entry.reason == "torch.nn has no GRU with reset_after=False"
    assert isinstance(model[0], getattr(elman, kind))


class Ours(elman.GRU):
    pass


def test_subclasses_of_ours_are_left_by_revert() -> None:
    (entry,) = elman.revert(Ours(3, 4)).left
    assert entry.reason == "a subclass of elman.GRU"


def test_modules_of_torch_are_nothing_to_revert() -> None:
    assert str(elman.revert(tagger())) == "nothing to replace"


@pytest.mark.parametrize("swap", [elman.convert, elman.revert])
def test_what_is_no_module_is_refused(swap: Any) -> None:
    with pytest.raises(KindError) as error:
        swap([nn.LSTM(3, 4)])
    assert str(error.value) == (
        f"{swap.__name__}: model must be a torch.nn.Module, got list: "
        "pass the module that has the layers"
    )


@pytest.mark.parametrize("swap", [elman.convert, elman.revert])
def test_a_model_that_cannot_be_exchanged_whole_is_as_it_was(
    swap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = nn if swap is elman.convert else elman
    model = nn.ModuleList([namespace.LSTM(3, 4), namespace.LSTMCell(3, 4), namespace.GRU(3, 4)])
    before = [dict(vars(module)) for module in model]
    kinds = [type(module) for module in model]

    def fail(self: Any) -> None:
        raise KeyboardInterrupt

    other = elman if namespace is nn else nn
    monkeypatch.setattr(other.GRU, "_init_flat_weights", fail)
    with pytest.raises(KeyboardInterrupt):
        swap(model)
    assert [type(module) for module in model] == kinds
    for module, attributes in zip(model, before, strict=True):
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
    model[0](torch.randn(5, 2, 3))


def without_biases(cell: nn.Module) -> nn.Module:
    cell.bias_ih = cell.bias_hh = None
    return cell


def with_a_bias(cell: nn.Module) -> nn.Module:
    cell.bias_ih = nn.Parameter(torch.randn(4))
    return cell


UNUSUAL: list[tuple[Any, str]] = [  # a module of torch.nn that runs, and why it is left
    (lambda: nn.LSTMCell(torch.tensor(3), torch.tensor(4)), ""),
    (lambda: nn.GRUCell(np.int64(3), np.int64(4), 1), ""),
    (lambda: nn.GRUCell(3, 4, 0), ""),
    (lambda: nn.RNNCell(3, 4, "relu"), ""),
    (lambda: nn.LSTMCell(3, 4, None), ""),
    (lambda: nn.RNNCell(3, 0), ""),
    (lambda: nn.LSTMCell(3, 4, False, "cpu", torch.float32), ""),
    (lambda: nn.LSTM(3, 4, 2, False, True, 0.5, True, 2), ""),
    (lambda: without_biases(nn.GRUCell(3, 4)), "it has no tensor bias_ih"),
    (lambda: with_a_bias(nn.RNNCell(3, 4, False)), "it has a bias_ih, and is constructed without"),
]


@pytest.mark.parametrize(("make", "reason"), UNUSUAL)
def test_a_module_that_runs_is_exchanged_or_left_with_a_reason(make: Any, reason: str) -> None:
    module = make()
    x = torch.randn(5, 3) if isinstance(module, nn.RNNCellBase) else torch.randn(5, 2, 3)
    module.eval()
    wanted = module(x)
    report = elman.convert(nn.ModuleList([module]))
    assert [entry.reason for entry in report.left] == [reason] * bool(reason)
    assert type(module).__module__.startswith("torch" if reason else "elman")
    near(module(x), wanted)
    assert len(elman.revert(module).replaced) == (not reason)
    near(module(x), wanted)


@pytest.mark.parametrize(
    ("kind", "name", "value", "reason"),
    [
        ("LSTM", "hidden_size", "4", "a elman.LSTM of its sizes cannot be made"),
        ("GRUCell", "hidden_size", 5, r"its weight_ih is \(12, 3\) and not \(15, 3\)"),
        ("RNN", "num_layers", 2, "it has no tensor weight_ih_l1"),
    ],
)
def test_a_module_whose_attributes_do_not_fit_is_left(
    kind: str, name: str, value: Any, reason: str
) -> None:
    model = nn.ModuleList([nn.LSTM(3, 4), getattr(nn, kind)(3, 4)])
    setattr(model[1], name, value)
    report = elman.convert(model)
    assert [entry.name for entry in report.replaced] == ["0"]
    assert re.match(reason, report.left[0].reason)
    assert type(model[1]) is getattr(nn, kind)


# --- code that asks what a module is ----------------------------------------------------------


@pytest.mark.parametrize("kind", STEP_CELLS + LAYERS)
def test_ours_are_what_torchs_are_as_far_as_compiling_allows(kind: str) -> None:
    module = getattr(elman, kind)(3, 4)
    assert isinstance(module, nn.RNNCellBase if kind in STEP_CELLS else nn.RNNBase)
    assert isinstance(module, getattr(nn, kind)) == (kind in STEP_CELLS)
    assert str(elman.convert(module)) == "nothing to replace"


class Queue(nn.Sequential):
    """Hands recurrent layers their states, and calls the others without, as pfrl's does."""

    def forward(self, x: Tensor) -> Any:
        states = []
        for layer in self:
            if is_recurrent(layer):
                x, state = layer(x)
                states.append(state)
            else:
                x = layer(x)
        return x, states


def is_recurrent(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.LSTM, nn.RNN, nn.GRU))


KINDS = (nn.GRU, nn.LSTM)


class Asking(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.made = nn.LSTM if isinstance(part, nn.RNNBase) else None


class ByTuple(Asking):
    @torch.no_grad()
    def initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, KINDS):
                nn.init.zeros_(module.weight_hh_l0)


class ByType(Asking):
    @property
    def is_gated(self) -> bool:
        return type(self.part) in (nn.LSTMCell, nn.GRUCell) or self.part.__class__ == nn.LSTM


class ByMatch(Asking):
    def forward(self, x: Tensor) -> Any:
        match self.part:
            case nn.LSTM():
                return self.part(x)[0]
        return self.part(x)


@pytest.mark.parametrize(
    ("model", "who", "what"),
    [
        (lambda: Queue(nn.Linear(3, 3), nn.LSTM(3, 4)), "Queue asks in is_recurrent", "LSTM"),
        (lambda: ByTuple(nn.GRU(3, 4)), "ByTuple asks in ByTuple.initialize", "GRU"),
        (lambda: ByType(nn.LSTMCell(3, 4)), "ByType asks in ByType.is_gated", "LSTMCell"),
        (lambda: ByType(nn.LSTM(3, 4)), "ByType asks in ByType.is_gated", "LSTM"),
        (lambda: ByMatch(nn.LSTM(3, 4)), "ByMatch asks in ByMatch.forward", "LSTM"),
    ],
)
def test_a_class_that_asks_for_torchs_classes_is_warned_of(model: Any, who: str, what: str) -> None:
    with pytest.warns(UserWarning, match="convert: ") as record:
        report = elman.convert(nn.ModuleList([model(), model()]))
    assert len(report.replaced) == 2
    (warning,) = record
    assert warning.filename == __file__
    base = what if what.endswith("Cell") else "RNNBase"
    assert str(warning.message) == (
        f"convert: {__name__}.{who} for torch.nn.{what}, and elman.{what} is none: let it ask for "
        f"isinstance(module, torch.nn.{base}), or go back by elman.revert"
    )


@pytest.mark.parametrize(
    "model",
    [
        lambda: ByTuple(nn.RNN(3, 4)),  # asks for others
        lambda: Asking(nn.LSTM(3, 4)),  # names the class, and does not ask for it
        lambda: Queue(nn.Linear(3, 3)),
        lambda: elman.LSTM(3, 4),
    ],
)
def test_others_are_not_warned_of(model: Any) -> None:
    elman.convert(model())


def test_code_that_cannot_be_read_is_no_obstacle() -> None:
    class Proxy:
        """Stands for what is not there yet, as that of a request or of a lazy import does."""

        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("there is none yet")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("there is none yet")

    proxy = Proxy()
    without_source: dict[str, Any] = {"nn": nn}
    exec("def asks(self): return isinstance(self.part, nn.LSTM)", without_source)

    class Odd(Asking):
        call, length, asks = functools.partial(isinstance, proxy), len, without_source["asks"]

        @functools.wraps(len)
        def wrapped(self) -> Any:
            return isinstance(self.part, later)

        def asks_for_a_proxy(self) -> Any:
            return isinstance(self.part, proxy) or type(self.part) is proxy.LSTM

        def asks_for_what_comes_later(self) -> Any:
            return isinstance(self.part, later)

    model = Odd(nn.LSTM(3, 4))
    assert len(elman.convert(model).replaced) == 1
    later = nn.LSTM
    elman.revert(model)
    with pytest.warns(UserWarning, match=r"asks_for_what_comes_later for torch\.nn\.LSTM"):
        elman.convert(model)


class Both(elman.LSTM, nn.LSTM):
    """Ours, for programs that ask for torch.nn.LSTM."""


def test_a_class_may_be_ours_and_torchs() -> None:
    torch.manual_seed(0)
    model, x = Queue(Both(3, 4), nn.Linear(4, 2)), torch.randn(5, 2, 3)
    assert len(model(x)[1]) == 1
    twin = nn.LSTM(3, 4)
    twin.load_state_dict(model[0].state_dict())
    near(copy.deepcopy(model)[0](x), twin(x))
    assert model[0].double()(x.double())[0].dtype is torch.float64
    assert str(elman.convert(model)) == "nothing to replace"


def test_the_compiler_refuses_what_is_an_instance_of_torchs_layers() -> None:
    # Once it does not, ours can be instances of these.
    torch.compiler.reset()
    x = torch.randn(5, 2, 3)
    torch.compile(elman.LSTM(3, 4), backend="eager", fullgraph=True)(x)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
        torch.compile(Both(3, 4), backend="eager", fullgraph=True)(x)


def test_conversion_draws_no_random_numbers() -> None:
    model = tagger()
    before = torch.get_rng_state()
    elman.convert(model)
    elman.revert(model)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_conversion_says_nothing_of_dropout_without_a_second_layer() -> None:
    with pytest.warns(UserWarning, match="dropout"):
        module = nn.LSTM(3, 4, dropout=0.5)
    elman.convert(module)
    assert module.dropout == 0.5
    elman.revert(module)


def test_a_converted_model_is_copied_pickled_and_saved(tmp_path: Path) -> None:
    model = tagger()
    wanted = model(TOKENS)
    elman.convert(model)
    torch.save(model, tmp_path / "model.pt")
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    for twin in copies:
        assert type(twin.encoder) is elman.LSTM
        assert twin.encoder is twin.again
        near(twin(TOKENS), wanted)
        elman.revert(twin)
        assert type(twin.encoder) is nn.LSTM
        near(twin(TOKENS), wanted)
        near(copy.deepcopy(twin)(TOKENS), wanted)


def test_state_dicts_go_between_the_two() -> None:
    model, other = tagger(), tagger()
    elman.convert(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    near(other(TOKENS), model(TOKENS))


def test_a_reverted_module_follows_its_parameters_to_another_dtype() -> None:
    module, x = nn.LSTM(3, 4, 2), torch.randn(5, 2, 3, dtype=torch.float64)
    elman.convert(module)
    module.double()
    wanted = module(x)
    elman.revert(module)
    near(module(x), wanted)
    assert module.float()(x.float())[0].dtype is torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_reverted_module_can_be_scripted() -> None:
    model, x = nn.Sequential(nn.LSTM(3, 4)), torch.randn(5, 2, 3)
    elman.convert(model)
    elman.revert(model)
    near(torch.jit.script(model)(x), model(x))


def test_modules_without_memory_are_converted() -> None:
    with torch.device("meta"):
        model = Tagger()
    elman.convert(model)
    model.to_empty(device="cpu").load_state_dict(tagger().state_dict())
    near(model(TOKENS), tagger()(TOKENS))


@pytest.mark.parametrize("where", ["inside", "outside", "in place"])
def test_a_compiled_model_runs_its_new_class(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    model = tagger()
    if where == "in place":
        model.compile(backend="eager")
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        wanted = compiled(TOKENS)
        elman.convert(compiled if where == "outside" else model)
        calls: list[Any] = []
        model.encoder.register_forward_hook(lambda module, *rest: calls.append(type(module)))
        near(compiled(TOKENS), wanted)
    assert type(model.encoder) is elman.LSTM
    assert calls == [elman.LSTM]


def test_a_model_in_data_parallel_is_converted() -> None:
    model = nn.DataParallel(tagger())
    wanted = model(TOKENS)
    report = elman.convert(model)
    assert [entry.name for entry in report.replaced] == ["module.encoder", "module.steps.0"]
    near(model(TOKENS), wanted)


def test_a_traced_graph_calls_the_new_class() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0].relu()

    graph, x = torch.fx.symbolic_trace(Stack()), torch.randn(5, 2, 3)
    wanted = graph(x)
    elman.convert(graph)
    assert type(graph.rnn) is elman.RNN
    near(graph(x), wanted)


def test_the_function_is_there_after_its_module_was_imported() -> None:
    import elman.swap

    assert callable(elman.convert)
    assert callable(elman.revert)
