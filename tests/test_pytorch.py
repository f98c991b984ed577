"""Our modules under the tools of PyTorch: checkpointing, hooks, optimisers, autocast, processes.

Each tool is used as its documentation says, and what it gives is compared with torch.nn under the
same tool, or with our own module without it. What compiles, exports or transforms a module is
tested elsewhere.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import LAYERS, STEP_CELLS, Problem, medium
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import elman

DEEP = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("RNN", DEEP),
    "LSTM": ("LSTM", DEEP | {"proj_size": 3}),
    "GRU": ("GRU", DEEP),
    "GRU, reset before": ("GRU", DEEP | {"reset_after": False}),
    "RNNCell": ("RNNCell", {"nonlinearity": "relu"}),
    "LSTMCell": ("LSTMCell", {}),
    "GRUCell": ("GRUCell", {}),
    "GRUCell, reset before": ("GRUCell", {"reset_after": False}),
}
PROBLEMS = [
    Problem(kind, {"input_size": 5, "hidden_size": 6} | options, form, seed=7)
    for kind, options in OPTIONS.values()
    for form in (("time_first",) if kind in STEP_CELLS else ("batch_first", "unsorted"))
]
# those that torch.nn has too
SHARED = [problem for problem in PROBLEMS if "reset_after" not in problem.options]


def name(problem: Problem) -> str:
    before = "" if problem.options.get("reset_after", True) else ", reset before"
    return f"{problem.kind}{before}, {problem.form}"


each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=name)
each_shared_problem = pytest.mark.parametrize("problem", SHARED, ids=name)


def near(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def upstream(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]


Run = Callable[[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]], tuple[Tensor, ...]]


def solve_by(problem: Problem, run: Run, namespace: Any = elman) -> dict[str, Tensor]:
    """Return every result and gradient where `run` calls the module, as run(function, tensors)."""
    module, arguments = problem.module(namespace), problem.arguments()

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return problem.call(module, dict(zip(arguments, tensors, strict=True)))

    outputs = run(function, tuple(arguments.values()))
    torch.autograd.backward(outputs, upstream(outputs))
    leaves = arguments | dict(module.named_parameters())
    solved = {f"result {i}": output.detach() for i, output in enumerate(outputs)}
    for key, leaf in leaves.items():
        assert leaf.grad is not None, key
        solved[f"d {key}"] = leaf.grad
    return solved


def plainly(function: Callable[..., tuple[Tensor, ...]], tensors: Any) -> tuple[Tensor, ...]:
    return function(*tensors)


# --- what is kept for the backward pass -------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [False, True])
@each_problem
def test_checkpointing_changes_no_bit(problem: Problem, use_reentrant: bool) -> None:
    def checkpointed(function: Callable[..., Any], tensors: Any) -> Any:
        return checkpoint(function, *tensors, use_reentrant=use_reentrant)

    same(solve_by(problem, checkpointed), solve_by(problem, plainly))


@each_problem
def test_what_is_kept_for_the_backward_pass_may_lie_elsewhere_meanwhile(problem: Problem) -> None:
    stored: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        stored.append(tensor.detach().clone())
        return len(stored) - 1

    def stored_away(function: Callable[..., Any], tensors: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda i: stored[i].clone()):
            return function(*tensors)

    same(solve_by(problem, stored_away), solve_by(problem, plainly))
    assert stored


# --- hooks ------------------------------------------------------------------------------------


def flat(value: Any) -> list[Tensor | None]:
    return [
        None if leaf is None else leaf.detach().clone()
        for leaf in torch.utils._pytree.tree_leaves(value)
    ]


def watched(problem: Problem, namespace: Any) -> dict[str, list[Tensor | None]]:
    """Return what each kind of hook saw."""
    seen: dict[str, list[Tensor | None]] = {}

    def see(event: str) -> Callable[..., None]:
        return lambda *values: seen.setdefault(event, []).extend(flat(values))

    def attach(module: torch.nn.Module) -> torch.nn.Module:
        module.register_forward_pre_hook(lambda _, args: see("before")(args))
        module.register_forward_hook(lambda _, args, result: see("after")(args, result))
        module.register_full_backward_pre_hook(lambda _, upstream: see("gradient")(upstream))
        module.register_full_backward_hook(lambda _, down, up: see("gradients")(down, up))
        return module

    module, arguments = attach(problem.module(namespace)), problem.arguments()
    outputs = problem.call(module, arguments)
    for i, output in enumerate(outputs):
        output.register_hook(see(f"d result {i}"))
    torch.autograd.backward(outputs, upstream(outputs))
    return seen


@each_shared_problem
def test_hooks_see_what_they_see_in_torch(problem: Problem) -> None:
    ours, theirs = watched(problem, elman), watched(problem, torch.nn)
    assert {"before", "after", "d result 0"} <= ours.keys()
    # PyTorch calls the hooks on gradients only where a result is a tensor and not within a tuple.
    within_tuples = problem.kind == "LSTM" and problem.form == "unsorted"
    assert within_tuples or {"gradient", "gradients"} <= ours.keys()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@each_problem
def test_hooks_may_replace_what_goes_in_and_out(problem: Problem) -> None:
    pytree = torch.utils._pytree

    def doubled(value: Any) -> Any:
        return pytree.tree_map(
            lambda t: t * 2 if isinstance(t, Tensor) and t.is_floating_point() else t, value
        )

    def by_hooks(function: Callable[..., Any], tensors: Any) -> Any:
        module.register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
        module.register_forward_hook(lambda _, args, result: doubled(result))
        return problem.call(module, arguments)

    problem = Problem(problem.kind, problem.options, "time_first", seed=problem.seed)
    module, arguments = problem.module(elman), problem.arguments()
    by_hand = problem.call(module, arguments | {"input": arguments["input"] * 2})
    for a, b in zip(by_hooks(lambda: None, ()), by_hand, strict=True):
        same(a, b * 2)


@each_problem
def test_each_parameter_says_once_that_its_gradient_is_complete(problem: Problem) -> None:
    module, arguments = problem.module(elman), problem.arguments()
    seen: list[Tensor] = []
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    outputs = problem.call(module, arguments)
    torch.autograd.backward(outputs, upstream(outputs))
    assert sorted(map(id, seen)) == sorted(map(id, module.parameters()))
    assert all(parameter.grad is not None for parameter in seen)


@each_problem
def test_a_hook_on_a_parameter_changes_its_gradient_alone(problem: Problem) -> None:
    plain = solve_by(problem, plainly)
    module, arguments = problem.module(elman), problem.arguments()
    parameters = dict(module.named_parameters())
    chosen = next(key for key in parameters if key.startswith("weight_hh"))
    parameters[chosen].register_hook(lambda gradient: gradient * 3)
    outputs = problem.call(module, arguments)
    torch.autograd.backward(outputs, upstream(outputs))
    for key, parameter in parameters.items():
        same(parameter.grad, plain[f"d {key}"] * (3 if key == chosen else 1))


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STEP_CELLS)
def test_parametrizations_of_cells_work(kind: str) -> None:
    problem = Problem(kind, {"input_size": 5, "hidden_size": 6})
    solved = []
    for namespace in (elman, torch.nn):
        module, arguments = problem.module(namespace), problem.arguments()
        parametrizations.weight_norm(module, "weight_ih")
        parametrizations.spectral_norm(module, "weight_hh", n_power_iterations=3)
        outputs = problem.call(module, arguments)
        torch.autograd.backward(outputs, upstream(outputs))
        gradients = {key: p.grad for key, p in module.named_parameters()}
        assert any("original" in key for key in gradients)
        solved.append((outputs, gradients))
    torch.testing.assert_close(*solved, rtol=1e-4, atol=1e-5)


@each_problem
def test_functional_call_sends_gradients_into_what_it_was_given(problem: Problem) -> None:
    plain = solve_by(problem, plainly)
    module, arguments = problem.module(elman), problem.arguments()
    given = {key: p.detach().clone().requires_grad_() for key, p in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    problem.call(module, arguments)  # whose parameters are not to be remembered
    outputs = problem.call(lambda *args: functional_call(module, given, args), arguments)
    torch.autograd.backward(outputs, upstream(outputs))
    for key, tensor in given.items():
        same(tensor.grad, plain[f"d {key}"])
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("foreach", [False, True])
@each_problem
def test_gradients_are_clipped_by_norm_and_by_value(problem: Problem, foreach: bool) -> None:
    module, arguments = problem.module(elman), problem.arguments()
    outputs = problem.call(module, arguments)
    torch.autograd.backward(outputs, upstream(outputs))
    before = [p.grad.clone() for p in module.parameters()]
    norm = torch.cat([gradient.flatten() for gradient in before]).norm()
    near(clip_grad_norm_(module.parameters(), 0.5, foreach=foreach), norm)
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        near(parameter.grad, gradient * (0.5 / norm))
    clip_grad_value_(module.parameters(), 0.01, foreach=foreach)
    for parameter, gradient in zip(module.parameters(), before, strict=True):
        near(parameter.grad, (gradient * (0.5 / norm)).clamp(-0.01, 0.01))


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("kind", LAYERS + STEP_CELLS)
def test_optimisers_take_the_steps_they_take_in_torch(kind: str, optimiser: str) -> None:
    problem = Problem(kind, {"input_size": 5, "hidden_size": 6})
    trained, losses = [], []
    for namespace in (elman, torch.nn):
        # in float64, so that the steps of those that look at signs do not part by rounding
        module = problem.module(namespace, torch.float64)
        arguments = {key: t.detach() for key, t in problem.arguments(torch.float64).items()}
        steps = OPTIMISERS[optimiser](module.parameters())

        def loss(
            module: torch.nn.Module = module,
            arguments: dict[str, Tensor] = arguments,
            steps: torch.optim.Optimizer = steps,
        ) -> Tensor:
            steps.zero_grad()
            outputs = problem.call(module, arguments)
            total = sum((o - 0.1).square().mean() for o in outputs)
            total.backward()
            return total.detach()

        losses.append([float(steps.step(loss)) for _ in range(4)])
        trained.append(dict(module.named_parameters()))
    torch.testing.assert_close(*trained)
    torch.testing.assert_close(*losses)
    assert losses[0][-1] < losses[0][0]


@each_problem
def test_an_average_of_the_weights_is_a_module_that_computes_with_it(problem: Problem) -> None:
    module, arguments = problem.module(elman).eval(), problem.arguments()
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(module)
    by_hand = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
        for parameter in by_hand.parameters():
            parameter.mul_(2)  # half of 1 + 3
    averaged.update_parameters(module)
    for a, b in zip(
        problem.call(averaged, arguments), problem.call(by_hand, arguments), strict=True
    ):
        near(a, b)


# --- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_problem
def test_autocast_rounds_what_medium_precision_computes(
    problem: Problem, dtype: torch.dtype
) -> None:
    lowered = {key: t.detach().to(dtype) for key, t in problem.arguments().items()}
    solved = []
    for autocast in (True, False):
        module = problem.module(elman)
        arguments = {
            key: (t if autocast else t.float()).clone().requires_grad_()
            for key, t in lowered.items()
        }
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), medium(not autocast):
            outputs = problem.call(module, arguments)
        # upstream gradients that bfloat16 can hold
        given = [u.bfloat16().to(o.dtype) for u, o in zip(upstream(outputs), outputs, strict=True)]
        torch.autograd.backward(outputs, given)
        parameters = {key: p.grad for key, p in module.named_parameters()}
        solved.append((outputs, {key: t.grad for key, t in arguments.items()}, parameters))
    (outputs, gradients, weights), (wide, wide_gradients, wide_weights) = solved
    for ours, exact in zip(outputs, wide, strict=True):
        same(ours, exact.to(ours.dtype))
    for key, gradient in gradients.items():
        assert gradient.dtype is dtype
        same(gradient, wide_gradients[key].to(dtype))
    same(weights, wide_weights)


@each_problem
def test_inference_mode_computes_the_same_bits(problem: Problem) -> None:
    def inferred() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return problem.call(problem.module(elman), problem.arguments())

    for a, b in zip(
        inferred(), problem.call(problem.module(elman), problem.arguments()), strict=True
    ):
        assert a.is_inference()
        same(a.clone(), b.detach())


@each_problem
def test_deterministic_algorithms_can_be_demanded(problem: Problem) -> None:
    plain = solve_by(problem, plainly)
    torch.use_deterministic_algorithms(True)
    try:
        same(solve_by(problem, plainly), plain)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@each_problem
def test_anomaly_detection_finds_nothing_where_nothing_is(problem: Problem) -> None:
    with torch.autograd.detect_anomaly():
        solve_by(problem, plainly)


# --- many processes ---------------------------------------------------------------------------

# A layer, a cell and a head; the second layer of `Net` may be left out of a call.
KINDS = ("RNN", "LSTM", "GRU", "GRU, reset before")
ROWS, STEPS = 4, 5


class Net(torch.nn.Module):
    """One of our layers, one of our cells after it, and a layer that a call may leave out."""

    def __init__(self, which: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        kind, options = OPTIONS[which]
        self.layer = getattr(elman, kind)(3, 6, **(options | {"dropout": 0.0, "batch_first": True}))
        width = 2 * (options.get("proj_size") or 6)
        before = {"reset_after": False} if "reset_after" in options else {}
        self.cell = getattr(elman, kind + "Cell")(width, 4, **before)
        self.spare = elman.GRU(4, 4)

    def forward(self, x: Tensor, with_spare: bool) -> Tensor:
        output, _ = self.layer(x)
        state = self.cell(output[:, -1])
        h = state if isinstance(state, Tensor) else state[0] + state[1]
        return self.spare(h.unsqueeze(0))[0] if with_spare else h


def batch() -> Tensor:
    return torch.randn(ROWS, STEPS, 3, generator=torch.Generator().manual_seed(5))


def gradients_of(net: torch.nn.Module) -> dict[str, Tensor]:
    def whole(gradient: Any) -> Tensor:
        return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()

    return {
        key.removeprefix("module."): whole(p.grad)
        for key, p in net.named_parameters()
        if p.grad is not None
    }


def learn(net: torch.nn.Module, x: Tensor, with_spare: bool) -> dict[str, Tensor]:
    """Return the gradients after a step."""
    steps = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        steps.zero_grad()
        net(x, with_spare).square().mean().backward()
        gradients = gradients_of(net)
        steps.step()
    return gradients


def work(rank: int, folder: str) -> None:
    """Learn half of the batch in each way, in one of two processes, and write the gradients."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        x = batch().chunk(2)[rank]
        found: dict[tuple[str, str], dict[str, Tensor]] = {}
        for which in KINDS:
            ddp = DistributedDataParallel(Net(which), find_unused_parameters=True)
            found[which, "some unused"] = learn(ddp, x, False)
            ddp = DistributedDataParallel(Net(which), gradient_as_bucket_view=True)
            found[which, "all used"] = learn(ddp, x, True)
            net = Net(which)
            mesh = init_device_mesh("cpu", (2,))
            for part in net.children():
                fully_shard(part, mesh=mesh)
            fully_shard(net, mesh=mesh)
            assert isinstance(net.layer, FSDPModule)
            assert net.layer.weight_ih_l0.to_local().numel() * 2 == net.layer.weight_ih_l0.numel()
            found[which, "sharded"] = learn(net, x, True)
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two processes found, each with half of the batch."""
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("way", ["some unused", "all used", "sharded"])
@pytest.mark.parametrize("which", KINDS)
def test_two_processes_learn_what_one_learns(which: str, way: str, learned: list[Any]) -> None:
    alone = learn(Net(which), batch(), way != "some unused")
    for found in learned:
        assert found[which, way].keys() >= alone.keys()
        for key, gradient in alone.items():
            torch.testing.assert_close(found[which, way][key], gradient, rtol=1e-4, atol=1e-6)
