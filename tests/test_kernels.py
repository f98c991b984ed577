"""The promises of the native core that no comparison with torch.nn shows: which bits, from whom."""

import math
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from elman import _native, core, ops
from elman.cells import CELLS, Cell

pytestmark = pytest.mark.usefixtures("isa")
CELL_LIST = sorted(CELLS.values(), key=lambda cell: cell.name)

# (input_size, hidden_size, projection), around the widths of vectors, panels and tiles
SIZES = [(1, 1, 0), (3, 7, 0), (17, 16, 0), (20, 33, 0), (5, 64, 0), (70, 130, 0)]


@pytest.fixture(params=CELL_LIST, ids=lambda cell: cell.name)
def cell(request: pytest.FixtureRequest) -> Cell:
    return request.param


@pytest.fixture
def threads() -> object:
    yield core.set_num_threads
    core.set_num_threads(None)


def make_weights(
    cell: Cell, input_size: int, hidden_size: int, projection: int = 0, directions: int = 1
) -> list[Tensor | None]:
    rows, out = len(cell.gates) * hidden_size, projection or hidden_size
    scale = 1 / math.sqrt(hidden_size)
    weights: list[Tensor | None] = []
    for _ in range(directions):
        weights += [torch.randn(rows, input_size) * scale, torch.randn(rows, out) * scale]
        weights += [torch.randn(rows) * scale, torch.randn(rows) * scale]
        weights.append(torch.randn(projection, hidden_size) * scale if projection else None)
    return weights


def make_state(cell: Cell, batch: int, hidden_size: int, projection: int = 0) -> tuple[Tensor, ...]:
    sizes = [projection or hidden_size] + [hidden_size] * (len(cell.states) - 1)
    return tuple(torch.randn(1, batch, size) for size in sizes)


def equal_bits(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("input_size", "hidden_size", "projection"), [*SIZES, (9, 24, 10)])
def test_a_row_has_the_same_bits_alone_in_a_batch_and_cut_into_calls(
    cell: Cell, input_size: int, hidden_size: int, projection: int, threads: object
) -> None:
    if projection and cell.name != "lstm":
        projection = 0
    torch.manual_seed(1)
    weights = make_weights(cell, input_size, hidden_size, projection)
    hx = make_state(cell, 19, hidden_size, projection)
    x = torch.randn(23, 19, input_size)
    output, *finals = ops.layer(cell, x, None, hx, weights)

    for row in (0, 7, 18):
        alone = slice(row, row + 1)
        part = ops.layer(cell, x[:, alone], None, tuple(s[:, alone] for s in hx), weights)
        for actual, whole in zip(part, (output, *finals), strict=True):
            equal_bits(actual, whole[:, alone])

    for batch in (2, 5, 11):
        part = ops.layer(cell, x[:, :batch], None, tuple(s[:, :batch] for s in hx), weights)
        equal_bits(part[0], output[:, :batch])

    state, pieces = hx, []
    for piece in x.split([1, 1, 5, 16]):
        y, *state = ops.layer(cell, piece, None, tuple(state), weights)
        pieces.append(y)
    equal_bits(torch.cat(pieces), output)
    for actual, final in zip(state, finals, strict=True):
        equal_bits(actual, final)

    if not projection:
        state = tuple(s[0] for s in hx)
        for t in range(3):
            state = ops.step(cell, x[t], tuple(state), weights[:4])
            equal_bits(state[0], output[t])


def test_packed_rows_have_the_bits_of_their_own_sequences(cell: Cell) -> None:
    torch.manual_seed(2)
    weights = make_weights(cell, 12, 21, directions=2)
    lengths = [30, 17, 17, 16, 9, 2, 1]
    sequences = [torch.randn(length, 12) for length in lengths]
    packed = torch.nn.utils.rnn.pack_sequence(sequences)
    output, *finals = ops.layer(cell, packed.data, packed.batch_sizes, None, weights)
    packed_output = torch.nn.utils.rnn.PackedSequence(output, packed.batch_sizes)
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_output)
    for n, sequence in enumerate(sequences):
        alone, *states = ops.layer(cell, sequence[:, None], None, None, weights)
        equal_bits(padded[: lengths[n], n], alone[:, 0])
        for actual, expected in zip(finals, states, strict=True):
            equal_bits(actual[:, n], expected[:, 0])


def gradients(cell: Cell, x: Tensor, sizes: Tensor | None, weights: list) -> list[Tensor]:
    leaves = [None if w is None else w.clone().requires_grad_() for w in weights]
    x = x.clone().requires_grad_()
    output, *finals = ops.layer(cell, x, sizes, None, leaves)
    torch.manual_seed(3)
    upstream = [torch.randn_like(t) for t in (output, *finals)]
    wanted = [x, *(leaf for leaf in leaves if leaf is not None)]
    return [output, *finals, *torch.autograd.grad([output, *finals], wanted, upstream)]


@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
def test_results_and_gradients_have_the_same_bits_for_any_number_of_threads(
    cell: Cell, directions: int, ragged: bool, threads
) -> None:
    torch.manual_seed(4)
    weights = make_weights(cell, 48, 96, directions=directions)
    x, sizes = torch.randn(60, 37, 48), None
    if ragged:
        lengths = [60, *sorted(torch.randint(1, 60, (36,)).tolist(), reverse=True)]
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths))
        x, sizes = packed.data, packed.batch_sizes
    threads(1)
    expected = gradients(cell, x, sizes, weights)
    for count in (1, 2, 2, 3, 7):
        threads(count)
        for actual, wanted in zip(gradients(cell, x, sizes, weights), expected, strict=True):
            equal_bits(actual, wanted)


@pytest.mark.parametrize("directions", [1, 2])
def test_padding_past_the_longest_sequence_changes_no_bit(cell: Cell, directions: int) -> None:
    # so many steps that the weights' gradients are summed in several chunks
    torch.manual_seed(10)
    weights = make_weights(cell, 8, 64, directions=directions)
    lengths = torch.randint(100, 150, (64,))
    lengths[3], lengths[5] = 150, 0

    def solve(padding: int) -> list[Tensor]:
        torch.manual_seed(11)
        x = torch.randn(150, 64, 8)
        x = torch.cat((x, torch.full((padding, 64, 8), math.nan))).requires_grad_()
        leaves = [x, *(None if w is None else w.clone().requires_grad_() for w in weights)]
        output, *finals = ops.layer(cell, x, None, None, leaves[1:], lengths)
        upstream = torch.randn(150, 64, 64 * directions)
        results = [output[:150], *finals]
        wanted = [leaf for leaf in leaves if leaf is not None]
        dx, *rest = torch.autograd.grad(
            results, wanted, [upstream, *(f.detach().cos() for f in finals)]
        )
        assert not output[150:].any()
        assert not dx[150:].any()
        return [*results, dx[:150], *rest]

    expected = solve(0)
    for padding in (1, 131):
        for actual, wanted in zip(solve(padding), expected, strict=True):
            equal_bits(actual, wanted)


def test_gradients_are_zeros_if_no_sequence_has_a_step(cell: Cell) -> None:
    weights = [None if w is None else w.requires_grad_() for w in make_weights(cell, 3, 5)]
    x = torch.randn(4, 2, 3, requires_grad=True)
    hx = tuple(s.requires_grad_() for s in make_state(cell, 2, 5))
    output, *finals = ops.layer(cell, x, None, hx, weights, torch.zeros(2, dtype=torch.long))
    for final, initial in zip(finals, hx, strict=True):
        equal_bits(final, initial)
    leaves = [x, *(w for w in weights if w is not None)]
    for gradient in torch.autograd.grad([output, *finals], leaves, [output + 1, *hx]):
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_activations_are_accurate_on_the_whole_line(dtype: torch.dtype) -> None:
    # every magnitude: all exponents and signs, the last bits at random; and densely around 0
    torch.manual_seed(5)
    info = torch.finfo(dtype)
    exponents = torch.linspace(math.log2(info.tiny), math.log2(info.max) - 1, 200_000).double()
    magnitudes = torch.exp2(exponents).to(dtype)
    dense = torch.linspace(-20, 20, 400_001, dtype=torch.float64).to(dtype)
    special = torch.tensor([0.0, math.inf, info.max, info.tiny], dtype=dtype)
    x = torch.cat([magnitudes, -magnitudes, dense, special, -special])
    tanh, sigmoid = torch.empty_like(x), torch.empty_like(x)
    _native.activations(
        dtype is torch.float64, x.data_ptr(), tanh.data_ptr(), sigmoid.data_ptr(), x.numel()
    )
    precise = x.numpy().astype(np.longdouble)
    with np.errstate(over="ignore", under="ignore"):
        exact_sigmoid = 1 / (1 + np.exp(-precise))
        exact_tanh = np.tanh(precise)
    limit = {torch.float32: 2.5, torch.float64: 4.0}[dtype]
    for name, actual, exact in (
        ("tanh", tanh, exact_tanh),
        ("sigmoid", sigmoid, exact_sigmoid),
    ):
        error = np.abs(actual.numpy() - exact)
        ulp = np.spacing(np.abs(exact).astype(x.numpy().dtype))
        normal = np.abs(exact) >= info.tiny
        worst = (error / ulp)[normal].max()
        assert worst <= limit, f"{name}: {worst} ULP"
        assert error.max() <= (1.2e-7 if dtype is torch.float32 else 4.5e-16), name
    equal_bits(tanh.abs().max(), torch.ones((), dtype=dtype))


def test_nan_and_infinity_propagate_as_in_the_reference(cell: Cell) -> None:
    from elman import reference

    torch.manual_seed(6)
    weights = make_weights(cell, 5, 18)
    x = torch.randn(6, 7, 5)
    x[2, 1, 3] = math.nan
    x[3, 4, 0] = math.inf
    x[3, 5, 0] = -math.inf
    actual = ops.layer(cell, x, None, None, weights)
    expected = reference.layer(cell, x, None, None, weights)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert actual[0][2:, 1].isnan().all()
    assert not actual[0][:, 0].isnan().any()


def test_the_threads_floating_point_mode_is_left_as_it_was(cell: Cell) -> None:
    tiny = torch.tensor([1e-40])
    weights = make_weights(cell, 4, 8)
    ops.layer(cell, torch.randn(3, 2, 4), None, None, weights)
    assert (tiny * 0.5).item() > 0  # flushed to 0 if denormals were still flushed


def test_threads_of_python_may_call_at_once(cell: Cell, threads) -> None:
    threads(2)
    torch.manual_seed(7)
    weights = make_weights(cell, 32, 64)
    inputs = [torch.randn(20, 5 + i, 32) for i in range(8)]
    expected = [gradients(cell, x, None, weights) for x in inputs]
    failures: list[BaseException] = []
    # torch.manual_seed is global: each thread's upstream gradients are made from its own output
    barrier = threading.Barrier(len(inputs))

    def work(i: int) -> None:
        try:
            barrier.wait()
            for _ in range(20):
                output, *finals = ops.layer(cell, inputs[i], None, None, weights)
                for actual, wanted in zip((output, *finals), expected[i], strict=False):
                    equal_bits(actual, wanted)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures[0]


def _in_child(cell_name: str, x: Tensor, weights: list, queue) -> None:
    torch.set_num_threads(1)
    # Its helpers are the core's own. One that is late for a call must not disturb the next one,
    # which has another number of tasks.
    for call in range(200):
        core.set_num_threads(2 + call % 3)
        ops.layer(CELLS[cell_name], x[:, : 4 + call % 29], None, None, weights)
    queue.put(ops.layer(CELLS[cell_name], x, None, None, weights)[0].numpy())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_the_same(cell: Cell, threads) -> None:
    torch.manual_seed(8)
    weights = make_weights(cell, 64, 128)
    x = torch.randn(30, 32, 64)
    threads(2)
    expected = ops.layer(cell, x, None, None, weights)[0]  # the helpers run before the fork
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(cell.name, x, weights, queue))
    child.start()
    actual = torch.from_numpy(queue.get())
    child.join(timeout=60)
    assert child.exitcode == 0
    equal_bits(actual, expected)


# Sizes of which 8 threads take a part each: of the units of a step, or of the rows.
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("batch", "hidden_size"), [(1, 512), (9, 512), (32, 48)])
def test_eight_threads_compute_the_same_bits(
    cell: Cell, batch: int, hidden_size: int, directions: int, threads
) -> None:
    torch.manual_seed(14)
    weights = make_weights(cell, 16, hidden_size, directions=directions)
    x = torch.randn(12, batch, 16)
    threads(1)
    expected = gradients(cell, x, None, weights)
    threads(8)
    for _ in range(3):
        for actual, wanted in zip(gradients(cell, x, None, weights), expected, strict=True):
            equal_bits(actual, wanted)
