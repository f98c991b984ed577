"""torch.func over layers and cells, and the gradients of each sample."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import LAYERS, STEP_CELLS
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap

import elman
from elman import core, library, ops

pytestmark = pytest.mark.filterwarnings(
    # what PyTorch says of itself
    "ignore:.torch.jit.script.*:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

KINDS = [*((kind, {}) for kind in LAYERS), ("GRU", {"reset_after": False})]
KINDS.append(("LSTM", {"proj_size": 2}))


@pytest.fixture(params=KINDS, ids=lambda case: f"{case[0]}{list(case[1]) or ''}")
def layer(request: pytest.FixtureRequest) -> Any:
    kind, options = request.param
    torch.manual_seed(0)
    return getattr(elman, kind)(
        *(3, 4, 2), bidirectional=True, batch_first=True, dtype=torch.float64, **options
    )


@pytest.fixture
def x() -> Tensor:
    """Return (N, L, H_in) = (5, 6, 3)."""
    return torch.randn(5, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def reference_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid the reference, so that what passes was computed by the core."""
    if not core._compiled:
        pytest.skip("needs the native core")

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("computed by the reference")

    for module in (library.reference, ops.reference):
        for name in ("layer", "step", "gradients"):
            monkeypatch.setattr(module, name, fail)


def flat(result: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(result)


def sines(result: Any) -> Tensor:
    return sum(tensor.sin().sum() for tensor in flat(result))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


# the loss of every output, as a function of parameters and input
def loss_of(module: nn.Module) -> Callable[..., Tensor]:
    return lambda parameters, *args: sines(functional_call(module, parameters, args))


def gradients_of(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def stacked(each: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def near(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


# --- torch.func ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("reference_fails")
def test_vmap_over_sequences_is_a_batch(layer: Any, x: Tensor) -> None:
    near(vmap(lambda one: flat(layer(one))[0])(x), layer(x)[0])
    batches = torch.stack((x, x.flip(0), x.cos()))
    for axis in (0, 1, 2):
        ours = vmap(lambda batch: flat(layer(batch)), in_dims=axis)(batches.movedim(0, axis))
        each = [flat(layer(batch)) for batch in batches]
        near(ours, [torch.stack(parts) for parts in zip(*each, strict=True)])


@pytest.mark.usefixtures("reference_fails")
def test_vmap_over_states_alone_shares_the_input(layer: Any, x: Tensor) -> None:
    width = layer.proj_size or 4
    h_0 = torch.randn(3, 4, 5, width, dtype=torch.float64)
    c_0 = torch.randn(4, 5, 4, dtype=torch.float64)

    def run(h: Tensor) -> list[Tensor]:
        return flat(layer(x, (h, c_0) if layer.mode == "LSTM" else h))

    each = [run(h) for h in h_0]
    near(vmap(run)(h_0), [torch.stack(parts) for parts in zip(*each, strict=True)])


@pytest.mark.usefixtures("reference_fails")
def test_grad_is_the_gradient_of_autograd(layer: Any, x: Tensor) -> None:
    loss = loss_of(layer)
    near(grad(loss)(weights(layer), x), gradients_of(layer, sines(layer(x))))


@pytest.mark.usefixtures("reference_fails")
@pytest.mark.parametrize("batched", [False, True], ids=["sequence", "batch of one"])
def test_vmap_of_grad_is_the_gradient_of_each_sample(layer: Any, x: Tensor, batched: bool) -> None:
    samples = x[:, None] if batched else x
    ours = vmap(grad(loss_of(layer)), in_dims=(None, 0))(weights(layer), samples)
    near(ours, stacked([gradients_of(layer, sines(layer(one))) for one in samples]))


@pytest.mark.usefixtures("reference_fails")
def test_each_sample_may_have_its_length(layer: Any, x: Tensor) -> None:
    lengths = torch.tensor([3, 0, 6, 1, 5])

    def run(parameters: dict[str, Tensor], one: Tensor, length: Tensor) -> Tensor:
        return sines(functional_call(layer, parameters, (one[None], None, length[None])))

    ours = vmap(grad(run), in_dims=(None, 0, 0))(weights(layer), x, lengths)
    each = [
        gradients_of(layer, sines(layer(x[i : i + 1], None, lengths[i : i + 1]))) for i in range(5)
    ]
    near(ours, stacked(each))


@pytest.mark.usefixtures("reference_fails")
def test_an_ensemble_is_its_members(layer: Any, x: Tensor) -> None:
    members = [type(layer)(3, 4, 2, batch_first=True, dtype=torch.float64) for _ in range(3)]
    parameters, _ = stack_module_state(members)
    parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    for inputs, axis in ((x, None), (torch.stack((x, x.sin(), x.cos())), 0)):
        given = [inputs] * 3 if axis is None else list(inputs)
        ours = vmap(lambda p, i: flat(functional_call(members[0], p, (i,))), in_dims=(0, axis))(
            parameters, inputs
        )
        each = [flat(member(i)) for member, i in zip(members, given, strict=True)]
        near(ours, [torch.stack(parts) for parts in zip(*each, strict=True)])
        ours = vmap(grad(loss_of(members[0])), in_dims=(0, axis))(parameters, inputs)
        each = [
            gradients_of(member, sines(member(i))) for member, i in zip(members, given, strict=True)
        ]
        near(ours, stacked(each))


def test_jacobians_and_hessians_are_those_of_autograd(layer: Any, x: Tensor) -> None:
    def run(one: Tensor) -> Tensor:
        return layer(one)[0]

    near(jacrev(run)(x[0, :3]), torch.autograd.functional.jacobian(run, x[0, :3]))

    def loss(one: Tensor) -> Tensor:
        return sines(layer(one))

    near(hessian(loss)(x[0, :2]), torch.autograd.functional.hessian(loss, x[0, :2]))


def test_forward_mode_pushes_the_derivative_of_autograd(layer: Any, x: Tensor) -> None:
    tangent = torch.randn_like(x)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(layer(x)))

    ours = jvp(run, (x,), (tangent,))[1]
    near(ours, torch.autograd.functional.jvp(run, x, tangent)[1])
    with forward_ad.dual_level():
        pushed = [forward_ad.unpack_dual(t).tangent for t in run(forward_ad.make_dual(x, tangent))]
    near(pushed, list(ours))


def test_grad_of_grad_is_the_second_derivative(layer: Any, x: Tensor) -> None:
    loss = loss_of(layer)
    parameters = weights(layer)
    ours = grad(lambda x: grad(loss, argnums=1)(parameters, x).square().sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(sines(layer(leaf)), leaf, create_graph=True)
    near(ours, torch.autograd.grad(first.square().sum(), leaf)[0])


@pytest.mark.parametrize("given_lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["batch", "per sample"])
def test_autograd_goes_through_grad_to_second_derivatives(
    layer: Any, x: Tensor, per_sample: bool, given_lengths: bool
) -> None:
    parameters = dict(layer.named_parameters())
    lengths = torch.tensor([3, 0, 6, 1, 5]) if given_lengths else None
    step = 1 if per_sample else 5
    parts = [slice(i, i + step) for i in range(0, 5, step)]

    def run(parameters: dict[str, Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
        return sines(functional_call(layer, parameters, (x, None, lengths)))

    if per_sample:
        of_lengths = None if lengths is None else lengths[:, None]
        in_dims = (None, 0, None if lengths is None else 0)
        ours = vmap(grad(run), in_dims=in_dims)(parameters, x[:, None], of_lengths)
    else:
        ours = grad(run)(parameters, x, lengths)
    norm = sum(gradient.square().sum() for gradient in ours.values())
    expected = torch.zeros((), dtype=torch.float64)
    for part in parts:
        loss = run(parameters, x[part], None if lengths is None else lengths[part])
        first = torch.autograd.grad(
            loss, list(parameters.values()), create_graph=True, allow_unused=True
        )
        expected = expected + sum(g.square().sum() for g in first if g is not None)
    near(gradients_of(layer, norm), gradients_of(layer, expected))


@pytest.mark.usefixtures("reference_fails")
def test_autograd_goes_through_vmap(layer: Any, x: Tensor) -> None:
    ours = gradients_of(layer, vmap(lambda one: layer(one)[0])(x).sin().sum())
    near(ours, gradients_of(layer, layer(x)[0].sin().sum()))


@pytest.mark.usefixtures("reference_fails")
@pytest.mark.parametrize("kind", STEP_CELLS)
def test_cells_are_transformed_as_layers(kind: str, x: Tensor) -> None:
    cell = getattr(elman, kind)(3, 4, dtype=torch.float64)
    h = torch.randn(5, 4, dtype=torch.float64)
    hx = (h, h.cos()) if kind == "LSTMCell" else h
    near(flat(vmap(cell)(x[:, 0], hx)), flat(cell(x[:, 0], hx)))
    ours = vmap(grad(loss_of(cell)), in_dims=(None, 0, 0))(weights(cell), x[:, 0], hx)
    each = []
    for i in range(5):
        one = (hx[0][i], hx[1][i]) if kind == "LSTMCell" else hx[i]
        each.append(gradients_of(cell, sines(cell(x[i, 0], one))))
    near(ours, stacked(each))


@pytest.mark.parametrize("kind", STEP_CELLS)
def test_forward_mode_of_cells_agrees_with_differences(kind: str, x: Tensor) -> None:
    cell = getattr(elman, kind)(3, 4, dtype=torch.float64)
    point, tangent, step = x[:, 0], x[:, 1], 1e-6

    def run(x: Tensor) -> Tensor:
        return sines(cell(x))

    difference = (run(point + step * tangent) - run(point - step * tangent)) / (2 * step)
    torch.testing.assert_close(jvp(run, (point,), (tangent,))[1], difference, rtol=1e-6, atol=1e-7)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("kind", LAYERS)
def test_transforms_may_be_compiled(kind: str) -> None:
    layer, x = getattr(elman, kind)(3, 4, batch_first=True), torch.randn(4, 3, 3)
    per_sample = vmap(grad(loss_of(layer)), in_dims=(None, 0))
    parameters = weights(layer)
    ours = torch.compile(per_sample, backend="aot_eager")(parameters, x)
    torch.testing.assert_close(ours, per_sample(parameters, x))


# --- the gradients of each sample ---------------------------------------------------------------


class Classifier(nn.Module):
    """What else stands in a model: an embedding, a buffer, a layer that is frozen."""

    def __init__(self, kind: str = "LSTM", dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3)
        self.norm = nn.BatchNorm1d(4)
        self.layer = getattr(elman, kind)(3, 4, 2, batch_first=True, dropout=dropout)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        h_n = flat(self.layer(self.embedding(ids), None, lengths))[1]
        return self.head(self.norm(h_n[-1]))


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("given_lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_gradients_of_the_samples_are_those_of_a_loop(
    kind: str, given_lengths: bool, chunk_size: int | None
) -> None:
    torch.manual_seed(0)
    model = Classifier(kind).eval()
    model.head.bias.requires_grad_(False)
    ids, targets = torch.randint(0, 11, (6, 7)), torch.randint(0, 3, (6,))
    lengths = torch.tensor([3, 0, 7, 1, 7, 5])
    loss = nn.functional.cross_entropy
    inputs = (ids, lengths) if given_lengths else ids
    ours = elman.per_sample_grads(model, inputs, loss, targets=targets, chunk_size=chunk_size)
    each = []
    for i in range(6):
        model.zero_grad()
        sample = ids[i : i + 1], lengths[i : i + 1] if given_lengths else None
        loss(model(*sample), targets[i : i + 1]).backward()
        each.append(
            {
                name: torch.zeros_like(p) if p.grad is None else p.grad
                for name, p in model.named_parameters()
                if p.requires_grad
            }
        )
    assert "head.bias" not in ours
    close(ours, stacked(each))


@pytest.mark.parametrize("kind", LAYERS)
def test_samples_may_be_on_the_second_axis_with_their_states(kind: str) -> None:
    layer = getattr(elman, kind)(3, 4)
    x, states = torch.randn(5, 6, 3), tuple(torch.randn(1, 6, 4) for _ in "hc")
    hx = states if kind == "LSTM" else states[0]
    targets = torch.randn(6, 4), torch.rand(6)

    def loss(result: Any, target: Tensor, weight: Tensor) -> Tensor:
        return (weight * (flat(result)[0][-1] - target).square()).sum()

    ours = elman.per_sample_grads(layer, (x, hx), loss, targets=targets, in_dims=1)
    each = []
    for i in range(6):
        part = slice(i, i + 1)
        one = tuple(s[:, part] for s in states) if kind == "LSTM" else states[0][:, part]
        result = layer(x[:, part], one)
        each.append(gradients_of(layer, loss(result, targets[0][part], targets[1][part])))
    close(ours, stacked(each))
    shared = tuple(s[:, :1] for s in states) if kind == "LSTM" else states[0][:, :1]
    none = (None, None) if kind == "LSTM" else None
    ours = elman.per_sample_grads(layer, (x, shared), sines, in_dims=(1, none))
    each = [gradients_of(layer, sines(layer(x[:, i : i + 1], shared))) for i in range(6)]
    close(ours, stacked(each))


def test_targets_may_have_their_samples_on_another_axis() -> None:
    layer = elman.GRU(3, 4, batch_first=True)
    x, targets = torch.randn(6, 5, 3), torch.randn(5, 6, 4)

    def loss(result: Any, target: Tensor) -> Tensor:
        return (result[0].transpose(0, 1) * target).sum()

    ours = elman.per_sample_grads(layer, x, loss, targets=targets, target_dims=1)
    each = [gradients_of(layer, loss(layer(x[i : i + 1]), targets[:, i : i + 1])) for i in range(6)]
    close(ours, stacked(each))


def test_the_sum_over_the_samples_is_the_gradient_of_the_batch() -> None:
    layer, x = elman.LSTM(3, 4, 2, batch_first=True), torch.randn(6, 5, 3)
    ours = elman.per_sample_grads(layer, x, sines)
    total = {name: gradient.sum(0) for name, gradient in ours.items()}
    close(total, gradients_of(layer, sines(layer(x))))
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_each_sample_draws_its_own_dropout_in_training() -> None:
    layer = elman.LSTM(3, 8, 2, batch_first=True, dropout=0.5)
    x = torch.randn(1, 5, 3).expand(4, 5, 3)
    drawn = elman.per_sample_grads(layer, x, sines)["weight_ih_l1"]
    for i in range(3):
        assert not torch.equal(drawn[i], drawn[i + 1])
    plain = elman.per_sample_grads(layer.eval(), x, sines)["weight_ih_l1"]
    torch.testing.assert_close(plain[1:], plain[:1].expand(3, 32, 8))


def test_tied_weights_have_one_gradient_for_each_sample() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = elman.RNN(4, 4), elman.RNN(4, 4)
            self.second.weight_hh_l0 = self.first.weight_hh_l0

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)[0])[0]

    model, x = Tied(), torch.randn(5, 6, 4)
    ours = elman.per_sample_grads(model, x, sines, in_dims=1)
    assert "second.weight_hh_l0" not in ours
    each = [gradients_of(model, sines(model(x[:, i : i + 1]))) for i in range(6)]
    close(ours, stacked(each))


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        pytest.param(
            *(torch.randn(0, 5, 3), {}),
            marks=pytest.mark.skipif(not core._compiled, reason="needs the native core"),
        ),
        (torch.randn(6, 5, 3), {"in_dims": (0, 1)}),
        (torch.randn(6, 5, 3), {"in_dims": 7}),
        ((torch.randn(6, 5, 3), torch.randn(1, 4, 4)), {"in_dims": (0, 1)}),
        (torch.randn(6, 5, 3), {"targets": torch.randn(5, 4)}),
        (torch.randn(6, 5, 3), {"in_dims": None}),
    ],
    ids=["no samples", "two axes", "no such axis", "unequal", "targets", "no axis"],
)
def test_samples_that_do_not_match_are_refused(inputs: Any, options: dict[str, Any]) -> None:
    layer = elman.GRU(3, 4, batch_first=True)
    with pytest.raises(ValueError):  # noqa: PT011 - its text is torch.func's
        elman.per_sample_grads(layer, inputs, lambda output, *_: output[0].sum(), **options)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(RuntimeError, match="scalar"):
        elman.per_sample_grads(elman.GRU(3, 4), torch.randn(6, 5, 3), lambda output: output[0])
