"""Recurrent reinforcement learning: what the field asks of resets, its page and its bench."""

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_docs import DOCS, ROOT, blocks
from torch import Tensor, nn

import elman

L, N, F, H = 12, 5, 3, 4
KINDS = ["RNN", "LSTM", "GRU"]
State = tuple[Tensor, ...]


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(elman, kind)(F, H, dtype=torch.float64, **options)


def parts(state: Any) -> State:
    return state if isinstance(state, tuple) else (state,)


def whole(state: State) -> Any:
    return state if len(state) > 1 else state[0]


def rollout(kind: str, layers: int = 1) -> tuple[Tensor, Any, Tensor]:
    """Observations, the state before them, and where episodes start: at the first step too."""
    torch.manual_seed(1)
    x = torch.randn(L, N, F, dtype=torch.float64, requires_grad=True)
    state = tuple(
        torch.randn(layers, N, H, dtype=torch.float64, requires_grad=True)
        for _ in range(2 if kind == "LSTM" else 1)
    )
    starts = torch.rand(L, N) < 0.2
    starts[0] = torch.tensor([True, False, False, True, False])
    starts[7] = True  # all at once
    starts[:, 4] = False  # but one, which never starts
    return x, whole(state), starts


def loop(layer: Any, x: Tensor, state: Any, starts: Tensor) -> tuple[Tensor, Any]:
    """A step at a time: the state is multiplied by 0 before a step at which an episode starts."""
    outputs = []
    for t in range(len(x)):
        keep = 1 - starts[t].to(x.dtype)
        state = whole(tuple(keep.view(1, -1, 1) * s for s in parts(state)))
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
    return torch.cat(outputs), state


def gradients(results: Any, wanted: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(2)
    output, state = results
    values = [output, *parts(state)]
    upstream = [torch.randn_like(value) for value in values]
    found = torch.autograd.grad(values, wanted, upstream, retain_graph=True, materialize_grads=True)
    return list(found)


def check(found: Any, expected: Any, wanted: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, wanted), gradients(expected, wanted))


# --- what the field asks ----------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_the_loop_over_steps(kind: str, layers: int) -> None:
    layer = make(kind, num_layers=layers)
    x, state, starts = rollout(kind, layers)
    wanted = [x, *parts(state), *layer.parameters()]
    expected = loop(layer, x, state, starts)
    check(layer(x, state, reset=starts), expected, wanted)
    check(layer(x, state, reset=starts.float()), expected, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_one_environment_works_like_many(kind: str) -> None:
    layer = make(kind, num_layers=2)
    x, state, starts = rollout(kind, 2)
    together, after = layer(x, state, reset=starts)
    for n in range(N):
        mine = whole(tuple(s[:, n : n + 1] for s in parts(state)))
        alone, end = layer(x[:, n : n + 1], mine, reset=starts[:, n : n + 1])
        assert torch.equal(alone[:, 0], together[:, n])
        assert all(
            torch.equal(a[:, 0], b[:, n]) for a, b in zip(parts(end), parts(after), strict=True)
        )
        without = whole(tuple(s[:, n] for s in parts(state)))
        unbatched, _ = layer(x[:, n], without, reset=starts[:, n])
        assert torch.equal(unbatched, together[:, n])


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_at_each_step_forgets_all(kind: str) -> None:
    layer = make(kind)
    x, state, _ = rollout(kind)
    output, after = layer(x, state, reset=torch.ones(L, N))
    apart, last = layer(x.view(1, L * N, F))
    assert torch.equal(output.view(1, L * N, H), apart)
    assert all(
        torch.equal(a, s.view(L, N, H)[-1:]) for a, s in zip(parts(after), parts(last), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_at_step_0_forgets_every_state(kind: str) -> None:
    layer = make(kind, num_layers=2)
    x, state, _ = rollout(kind, 2)
    for position, given in enumerate(parts(state)):  # of the LSTM, h alone and c alone
        other = list(parts(state))
        other[position] = given + 1
        starts = torch.zeros(L, N)
        starts[0, 2] = 1
        one, other_one = (layer(x, s, reset=starts)[0] for s in (state, whole(tuple(other))))
        assert torch.equal(one[:, 2], other_one[:, 2])
        assert (one[0, 1] != other_one[0, 1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_boundary_of_truncation(kind: str) -> None:
    layer = make(kind)
    x, state, starts = rollout(kind)
    starts[5] = torch.tensor([True, False, False, False, True])  # on the boundary itself
    before, middle = layer(x[:5], state, reset=starts[:5])
    middle = whole(tuple(s.detach() for s in parts(middle)))
    after, end = layer(x[5:], middle, reset=starts[5:])
    output, expected_end = layer(x, state, reset=starts)
    assert torch.equal(torch.cat([before, after]), output)
    assert all(map(torch.equal, parts(end), parts(expected_end)))
    (cut,) = torch.autograd.grad(after[:2].sum(), x, retain_graph=True)
    (uncut,) = torch.autograd.grad(output[5:7].sum(), x)
    assert not cut[:5].any()
    torch.testing.assert_close(cut[5:], uncut[5:])
    crossing = uncut[4].abs().sum(-1) > 0
    assert crossing.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_burn_in_is_a_stored_state_to_the_gradients(kind: str) -> None:
    layer = make(kind)
    x, state, starts = rollout(kind)
    to = tuple(torch.randn(1, H, dtype=torch.float64, requires_grad=True) for _ in parts(state))
    given = whole(to)
    burned = layer.burn_in(x[:6], state, reset=starts[:6], reset_to=given)
    assert not any(s.requires_grad for s in parts(burned))
    stored = whole(tuple(s.clone() for s in parts(burned)))
    wanted = [x, *parts(state), *to, *layer.parameters()]
    found = layer(x[6:], burned, reset=starts[6:], reset_to=given)
    check(found, layer(x[6:], stored, reset=starts[6:], reset_to=given), wanted)
    assert torch.equal(found[0], layer(x, state, reset=starts, reset_to=given)[0][6:])
    to_x, to_state, to_start = gradients(found, [x, parts(state)[0], to[0]])
    assert not to_x[:6].any()
    assert not to_state.any()
    assert to_start.all()  # of the starts after burning in


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_state_are_taken_and_replaced_by_their_numbers(kind: str) -> None:
    layer = make(kind, num_layers=2)
    x, state, starts = rollout(kind, 2)
    after = layer(x, state, reset=starts)[1]
    rows = torch.tensor([3, 0, 3])
    some = whole(tuple(s[:, rows] for s in parts(after)))
    output, _ = layer(x[:, rows], some)
    assert torch.equal(output, layer(x, after)[0][:, rows])
    output.sum().backward()  # through the rows, to the state of the row that was taken twice
    assert x.grad is not None
    assert x.grad[:, [3, 0]].any()

    rows, new = torch.tensor([4, 1]), layer(x[:3, :2])[1]
    replaced = tuple(
        s.index_copy(1, rows, n) for s, n in zip(parts(after), parts(new), strict=True)
    )
    output, _ = layer(x, whole(replaced))
    assert torch.equal(output[:, rows], layer(x[:, rows], new)[0])
    assert torch.equal(output[:, [0, 2, 3]], layer(x, after)[0][:, [0, 2, 3]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_starts_may_be_filled_anew_before_the_backward_pass(kind: str) -> None:
    layer = make(kind)
    x, state, starts = rollout(kind)
    done = starts.numpy().copy()
    found, expected = layer(x, state, reset=done), layer(x, state, reset=starts)
    done[:] = False
    check(found, expected, [x, *parts(state), *layer.parameters()])


# --- the functions of the page ----------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks(DOCS / "rl.md"):
        exec(compile(block, "rl.md", "exec"), names)
    return names


def test_process_sequence_is_the_loop(page: dict[str, Any]) -> None:
    layer = make("LSTM")
    x, state, starts = rollout("LSTM")
    output, after = loop(layer, x, state, starts)
    features = x.transpose(0, 1).reshape(N * L, F)
    found = page["process_sequence"](features, state, starts.T.reshape(-1).float(), layer)
    expected = output.transpose(0, 1).reshape(N * L, H), after
    check(found, expected, [x, *state, *layer.parameters()])


def test_process_sequence_is_that_of_sb3_contrib(page: dict[str, Any]) -> None:
    policies = pytest.importorskip("sb3_contrib.common.recurrent.policies")
    original = policies.RecurrentActorCriticPolicy._process_sequence
    ours = make("LSTM")
    theirs = nn.LSTM(F, H, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x, state, starts = rollout("LSTM")
    for mask in (starts, torch.zeros_like(starts)):
        given = x.detach().transpose(0, 1).reshape(N * L, F), state, mask.T.reshape(-1).double()
        found = page["process_sequence"](*given, ours)
        expected = original(*given, theirs)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            gradients(found, [*state, *ours.parameters()]),
            gradients(expected, [*state, *theirs.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_get_states_is_the_loop(page: dict[str, Any]) -> None:
    layer = make("LSTM")
    x, state, starts = rollout("LSTM")
    network: Callable[[Tensor], Tensor] = torch.tanh
    agent = SimpleNamespace(network=network, lstm=layer)
    found = page["get_states"](agent, 255 * x.reshape(L * N, F), state, starts.float().reshape(-1))
    output, after = loop(layer, torch.tanh(x), state, starts)
    check(found, (output.reshape(L * N, H), after), [x, *state, *layer.parameters()])


# --- the bench -------------------------------------------------------------------------------


@pytest.fixture
def _threads() -> Iterator[None]:
    """What is measured sets the threads of PyTorch."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_threads")
def test_the_bench_times_ways_that_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    resets = importlib.import_module("resets")
    monkeypatch.setattr(resets, "RATE", 0.2)
    rows = resets.measure(sizes=((3, 9, 4, 5), (1, 4, 3, 2)), seconds=0.0)
    assert len(rows) == 2 * 2 * 2
    promised = list(resets.promised(rows))
    assert len(promised) == len(rows) * (len(resets.WAYS) - 1)
    titles, lines = resets.table(rows)
    assert all(len(line) == len(titles) for line in lines)


@pytest.mark.usefixtures("_threads")
def test_the_bench_refuses_to_time_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    resets = importlib.import_module("resets")

    def forgets_nothing(*call: Any) -> Any:
        return resets.plain(*call)

    monkeypatch.setitem(resets.WAYS, "torch.nn, loop", (nn, forgets_nothing))
    with pytest.raises(AssertionError, match=r"torch\.nn, loop differs"):
        resets.measure(sizes=((3, 9, 4, 5),), seconds=0.0)
