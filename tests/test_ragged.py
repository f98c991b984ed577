import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import elman
from elman.shapes import KindError, ShapeError

# --- the last output ----------------------------------------------------------------------------

LENGTHS = [2, 5, 1, 4]
FORMS = ("whole", "lengths", "batch_first", "unbatched", "sorted", "unsorted", "jagged")


def layer(kind: str, **options: Any) -> Any:
    torch.manual_seed(3)
    return getattr(elman, kind)(3, 4, 2, **options)


def final(hx: Any, bidirectional: bool) -> Tensor:
    """What h_n says of the last layer."""
    h_n = hx[0] if isinstance(hx, tuple) else hx
    return torch.cat((h_n[-2], h_n[-1]), -1) if bidirectional else h_n[-1]


def initial(kind: str, bidirectional: bool, batch: tuple[int, ...] = (4,)) -> Any:
    states = tuple(torch.randn(2 * (1 + bidirectional), *batch, 4) for _ in "hc")
    return states if kind == "LSTM" else states[0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_last_output_is_h_n_of_the_last_layer(
    kind: str, form: str, bidirectional: bool
) -> None:
    batch_first = form == "batch_first"
    module = layer(kind, bidirectional=bidirectional, batch_first=batch_first)
    input = torch.randn(5, 4, 3)
    hx = initial(kind, bidirectional, () if form == "unbatched" else (4,))
    lengths = sorted(LENGTHS, reverse=True) if form == "sorted" else LENGTHS
    packed = pack_padded_sequence(input, lengths, enforce_sorted=form == "sorted")
    given = None
    if form == "whole":
        output, hx = module(input, hx)
    elif form == "unbatched":
        output, hx = module(input[:, 0], hx)
    elif form in ("sorted", "unsorted"):
        output, hx = module(packed, hx)
    else:  # by way of packing, so that it is right whatever the layer makes of lengths
        if batch_first:
            packed = pack_padded_sequence(
                input.transpose(0, 1), lengths, batch_first=True, enforce_sorted=False
            )
        output, hx = module(packed, hx)
        output, given = pad_packed_sequence(output, batch_first=form != "lengths")
        if form == "jagged":
            rows = [row[:length] for row, length in zip(output, lengths, strict=True)]
            output, given = torch.nested.as_nested_tensor(rows, layout=torch.jagged), None
    found = elman.last(output, given, bidirectional=bidirectional, batch_first=batch_first)
    torch.testing.assert_close(found, final(hx, bidirectional), rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_of_a_layer_with_lengths_it_is_h_n_too_but_for_empty_rows(
    kind: str, bidirectional: bool
) -> None:
    module = layer(kind, bidirectional=bidirectional)
    lengths = torch.tensor([0, 5, 1, 4])
    output, hx = module(torch.randn(5, 4, 3), initial(kind, bidirectional), lengths=lengths)
    found = elman.last(output, lengths, bidirectional=bidirectional)
    torch.testing.assert_close(found[1:], final(hx, bidirectional)[1:], rtol=0, atol=0)
    assert final(hx, bidirectional)[0].abs().min() > 0  # the initial state, which is no output
    assert not found[0].any()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_of_a_layer_with_jagged_input_it_is_h_n(kind: str, bidirectional: bool) -> None:
    module = layer(kind, bidirectional=bidirectional)
    rows = [torch.randn(length, 3) for length in LENGTHS]
    input = torch.nested.nested_tensor(rows, layout=torch.jagged)
    output, hx = module(input, initial(kind, bidirectional))
    found = elman.last(output, bidirectional=bidirectional)
    torch.testing.assert_close(found, final(hx, bidirectional), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_it_takes_what_torch_nn_returns(kind: str) -> None:
    module = getattr(torch.nn, kind)(3, 4, bidirectional=True)
    input = torch.randn(5, 4, 3)
    output, hx = module(pack_padded_sequence(input, LENGTHS, enforce_sorted=False))
    found = elman.last(pad_packed_sequence(output)[0], LENGTHS, bidirectional=True)
    torch.testing.assert_close(found, final(hx, True), rtol=0, atol=0)


def jagged(rows: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[0, 3, 1, 0], [0, 0, 0, 0]])
def test_an_empty_row_has_zeros_whatever_its_padding_holds(
    lengths: list[int], bidirectional: bool
) -> None:
    output = torch.randn(3, 4, 6)
    found = elman.last(output, lengths, bidirectional)
    expected = torch.zeros(4, 6)
    for row, length in enumerate(lengths):
        if length:
            expected[row] = output[length - 1, row]
            if bidirectional:
                expected[row, 3:] = output[0, row, 3:]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    rows = [output[:length, row] for row, length in enumerate(lengths)]
    nested = elman.last(jagged(rows), bidirectional=bidirectional)
    torch.testing.assert_close(nested, expected, rtol=0, atol=0)


def test_a_jagged_output_with_holes_is_read_by_its_lengths() -> None:
    output = torch.randn(3, 5, 4)
    starts, lengths = torch.tensor([1, 0, 2]), torch.tensor([3, 0, 2])
    nested = torch.nested.narrow(output, 1, starts, lengths, layout=torch.jagged)
    found = elman.last(nested, bidirectional=True)
    expected = torch.cat((output[[0, 1, 2], [3, 0, 3], :2], output[[0, 1, 2], [1, 0, 2], 2:]), -1)
    expected[1] = 0
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@pytest.mark.parametrize("lengths", [*(torch.tensor(LENGTHS, dtype=d) for d in INTEGERS), LENGTHS,
    tuple(LENGTHS), np.array(LENGTHS)], ids=str)  # fmt: skip
def test_lengths_may_be_any_integers(lengths: Any) -> None:
    output = torch.randn(5, 4, 6)
    expected = output[[1, 4, 0, 3], [0, 1, 2, 3]]
    torch.testing.assert_close(elman.last(output, lengths), expected, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_lengths_may_be_on_another_device(devices: tuple[str, str]) -> None:
    output, lengths = torch.randn(5, 4, 6), torch.tensor(LENGTHS)
    expected = elman.last(output, lengths, bidirectional=True)
    found = elman.last(output.to(devices[0]), lengths.to(devices[1]), bidirectional=True)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)


def test_a_batch_of_no_rows_has_no_last_outputs() -> None:
    assert elman.last(torch.randn(5, 0, 6)).shape == (0, 6)
    assert elman.last(torch.randn(5, 0, 6), []).shape == (0, 6)
    assert elman.last(torch.randn(5, 0, 6), torch.empty(0, dtype=torch.int64)).shape == (0, 6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_outputs_that_were_taken_and_no_others(form: str) -> None:
    output = torch.randn(5, 4, 6, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(4, 6, dtype=torch.double)
    lengths = [0, 5, 1, 4]
    expected = torch.zeros_like(output)
    whole = form in ("whole", "unbatched")
    if form in ("sorted", "unsorted"):
        lengths = [5, 4, 3, 1] if form == "sorted" else LENGTHS
    for row, length in enumerate([5] * 4 if whole else lengths):
        if length:
            expected[length - 1, row, :3] = upstream[row, :3]
            expected[0, row, 3:] = upstream[row, 3:]

    def take(output: Tensor) -> Tensor:
        if form == "whole":
            return elman.last(output, bidirectional=True)
        if form == "unbatched":
            rows = [elman.last(row, bidirectional=True) for row in output.unbind(1)]
            return torch.stack(rows)
        if form == "lengths":
            return elman.last(output, lengths, bidirectional=True)
        if form == "batch_first":
            by_row = output.transpose(0, 1)
            return elman.last(by_row, lengths, bidirectional=True, batch_first=True)
        if form == "jagged":
            rows = [output[:length, row] for row, length in enumerate(lengths)]
            return elman.last(jagged(rows), bidirectional=True)
        packed = pack_padded_sequence(output, lengths, enforce_sorted=form == "sorted")
        return elman.last(packed, bidirectional=True)

    (found,) = torch.autograd.grad(take(output), output, upstream)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if form != "jagged":  # nested tensors have no derivatives of derivatives
        assert torch.autograd.gradgradcheck(take, (output,))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "form", ["whole", "lengths", "batch_first", "unbatched", "jagged", "packed"]
)
def test_it_compiles_into_one_graph(form: str, bidirectional: bool) -> None:
    torch._dynamo.reset()
    steps = [0, 5, 1, 4]
    lengths = torch.tensor(steps) if form in ("lengths", "batch_first") else None
    output = torch.randn((5, 6) if form == "unbatched" else (4, 5, 6))
    if form == "jagged":
        output = jagged([row[:length] for row, length in zip(output, steps, strict=True)])
    elif form == "lengths":
        output = output.transpose(0, 1)
    given: Any = output
    if form == "packed":
        given = pack_padded_sequence(output, LENGTHS, batch_first=True, enforce_sorted=False)
        output = given.data
    output.requires_grad_()

    def take(output: Any, lengths: Any) -> Tensor:
        return elman.last(output, lengths, bidirectional, form == "batch_first").tanh()

    compiled = torch.compile(take, backend="aot_eager", fullgraph=True)
    found, expected = compiled(given, lengths), take(given, lengths)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (ours,), (theirs,) = (torch.autograd.grad(r.sum(), output) for r in (found, expected))
    if form == "jagged":
        ours, theirs = ours.values(), theirs.values()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_compiled_graph_finds_lengths_out_of_range() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(elman.last, backend="eager", fullgraph=True)
    output = torch.randn(5, 2, 6)
    for wrong in (6, -1):
        with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
            compiled(output, torch.tensor([1, wrong]))


def packed_output() -> PackedSequence:
    return pack_padded_sequence(torch.randn(5, 4, 6), LENGTHS, enforce_sorted=False)


OUTPUT = torch.randn(5, 4, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ((OUTPUT, OUTPUT[-1:]),),
            KindError,
            r"output must be a tensor or a PackedSequence, got tuple: .* output, hx = layer\(input",
        ),
        ((OUTPUT[0, 0],), ShapeError, r"output must be \(L, N, F\) or, .* got \(6,\)"),
        ((OUTPUT[None],), ShapeError, r"\(L, N, F\) or, .* got \(1, 5, 4, 6\)"),
        ((OUTPUT[:0],), ShapeError, r"at least one time step, got L = 0 in \(0, 4, 6\)"),
        ((OUTPUT[..., :5], None, True), ShapeError, r"even number of features, .* got 5"),
        ((OUTPUT, [1, 6, 2, 3]), ShapeError, r"lengths must be from 0 to L = 5, got 6"),
        ((OUTPUT, [1, -1, 2, 3]), ShapeError, r"lengths must be from 0 to L = 5, got -1"),
        ((OUTPUT, [1, 2]), ShapeError, r"lengths must be \(N,\) = \(4,\), .* got \(2,\)"),
        ((OUTPUT, [1, 2, 3, 4], False, True), ShapeError, r"\(N,\) = \(5,\), .* got \(4,\)"),
        ((OUTPUT, 3), ShapeError, r"\(N,\) = \(4,\), .* got \(\)"),
        ((OUTPUT, [1.0, 2.0, 3.0, 4.0]), KindError, r"must be integers, got torch.float32"),
        ((OUTPUT, torch.ones(4).bool()), KindError, r"must be integers, got torch.bool"),
        ((OUTPUT, "2514"), KindError, r"lengths must be integers, got '2514'"),
        ((OUTPUT[:, 0], [3]), KindError, r"None for one sequence .* cut the input"),
        ((packed_output(), LENGTHS), ShapeError, r"None with a PackedSequence, .* its own"),
        ((jagged([OUTPUT[:, 0]]), [5]), ShapeError, r"None with a nested tensor, .* its own"),
        ((jagged([OUTPUT[:, 0]]).transpose(1, 2),), KindError, "must be jagged"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        elman.last(*arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_a_nested_tensor_of_another_layout_is_refused() -> None:
    strided = torch.nested.as_nested_tensor([OUTPUT[0]], layout=torch.strided)
    with pytest.raises(KindError, match=r"jagged, \(N, L, F\), got layout torch.strided of 3 axes"):
        elman.last(strided)


# --- batches of similar lengths -----------------------------------------------------------------


def lengths_of(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """As those of sentences: most short, some long."""
    drawn = np.random.default_rng(seed).lognormal(3, 0.7, rows)
    return drawn.astype(np.int64).clip(1, 200)


def padding(batches: Sequence[Sequence[int]], lengths: np.ndarray[Any, Any]) -> float:
    """The share of the steps that are padding."""
    steps = sum(len(batch) * lengths[batch].max() for batch in batches)
    return float(1 - lengths[np.concatenate(batches)].sum() / steps)


HOW: list[dict[str, int]] = [{"batch_size": 32}, {"max_steps": 1000}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("rows", [1, 31, 32, 1001])
def test_every_row_comes_once_per_epoch(how: dict[str, int], rows: int) -> None:
    sampler = elman.BucketBatchSampler(lengths_of(rows), **how, pool=5)
    for _ in range(2):
        count, batches = len(sampler), list(sampler)
        assert len(batches) == count
        assert sorted(i for batch in batches for i in batch) == list(range(rows))


def test_no_batch_is_larger_than_asked_for() -> None:
    lengths = lengths_of(2000)
    lengths[:10] = 0
    for batch in elman.BucketBatchSampler(lengths, 32):
        assert 1 <= len(batch) <= 32
    sizes = [
        len(batch) * max(1, lengths[batch].max())
        for batch in elman.BucketBatchSampler(lengths, max_steps=500)
    ]
    assert max(sizes) <= 500
    assert np.mean(sizes) > 400
    empty = elman.BucketBatchSampler([0] * 12, max_steps=9)
    assert sorted(len(batch) for batch in empty) == [3, 9]


def test_it_saves_most_of_the_padding() -> None:
    lengths = lengths_of(20_000)
    shuffled = torch.randperm(20_000, generator=torch.Generator().manual_seed(0)).tolist()
    before = padding([shuffled[i : i + 32] for i in range(0, 20_000, 32)], lengths)
    after = padding(list(elman.BucketBatchSampler(lengths, 32)), lengths)
    budget = padding(list(elman.BucketBatchSampler(lengths, max_steps=32 * 25)), lengths)
    # Measured: 72 % of the steps are padding in shuffled batches, 5 % and 2 % in these.
    assert before > 0.6
    assert after < 0.06
    assert budget < 0.03
    more_random = padding(list(elman.BucketBatchSampler(lengths, 32, pool=10)), lengths)
    assert after < more_random < before / 2


@pytest.mark.parametrize("how", HOW, ids=str)
def test_no_two_epochs_are_alike_and_seed_and_epoch_say_which_it_is(how: dict[str, int]) -> None:
    lengths = lengths_of(500)
    one, other = (elman.BucketBatchSampler(lengths, **how, pool=3) for _ in range(2))
    epochs = [list(one) for _ in range(3)]
    assert epochs == [list(other) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    together = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert not together[0] & together[1]  # other company, and not only another order
    resumed = elman.BucketBatchSampler(lengths, **how, pool=3)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(elman.BucketBatchSampler(lengths, **how, pool=3, seed=1)) not in epochs


def test_the_batches_of_an_epoch_do_not_come_by_length() -> None:
    lengths = lengths_of(5000)
    means = [lengths[batch].mean() for batch in elman.BucketBatchSampler(lengths, 16)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_drop_last_leaves_out_other_rows_each_epoch_of_any_length() -> None:
    lengths = np.arange(103)
    sampler = elman.BucketBatchSampler(lengths, 10, pool=3, drop_last=True)
    left_out = []
    for _ in range(200):
        batches = list(sampler)
        assert [len(batch) for batch in batches] == [10] * 10 == [10] * len(sampler)
        left_out += set(range(103)) - {i for batch in batches for i in batch}
    assert len(left_out) == 600
    assert lengths[left_out].mean() == pytest.approx(51, abs=4 * 30 / math.sqrt(600))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows", [5, 103, 320])
def test_ranks_share_an_epoch_and_have_equally_many_batches(rows: int, drop_last: bool) -> None:
    lengths = lengths_of(rows)
    options: dict[str, Any] = {"pool": 3, "drop_last": drop_last}
    whole = list(elman.BucketBatchSampler(lengths, 10, **options))
    parts = [
        list(elman.BucketBatchSampler(lengths, 10, **options, num_replicas=4, rank=rank))
        for rank in range(4)
    ]
    rounds = (math.floor if drop_last else math.ceil)(len(whole) / 4)
    assert [len(part) for part in parts] == [rounds] * 4
    dealt = [batch for turn in zip(*parts, strict=True) for batch in turn]
    if drop_last:
        assert dealt == whole[: 4 * rounds]
    else:
        assert dealt == (whole * 4)[: 4 * rounds]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_with_any_workers_gives_the_same_batches(workers: int) -> None:
    data = torch.arange(60)
    sampler = elman.BucketBatchSampler(lengths_of(60), 8, pool=2)
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    assert len(loader) == 8
    fresh = elman.BucketBatchSampler(lengths_of(60), 8, pool=2)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == list(fresh)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_lengths_come_as_any_sequence_of_integers(kind: Any) -> None:
    expected = list(elman.BucketBatchSampler([3, 1, 2, 5], 2))
    assert list(elman.BucketBatchSampler(kind([3, 1, 2, 5]), 2)) == expected


@pytest.mark.parametrize("how", [{"batch_size": 3}, {"max_steps": 3}], ids=str)
def test_no_rows_are_no_batches(how: dict[str, int]) -> None:
    assert list(elman.BucketBatchSampler([], **how)) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ShapeError, r"either batch_size or max_steps must be given, got batch_size=None"),
        ({"batch_size": 2, "max_steps": 9}, ShapeError, r"got batch_size=2 and max_steps=9"),
        ({"batch_size": 0}, ShapeError, r"batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, KindError, r"batch_size must be an int, got 2.0"),
        ({"batch_size": True}, KindError, r"batch_size must be an int, got True"),
        ({"batch_size": 2, "pool": None}, KindError, r"pool must be an int, got None"),
        ({"batch_size": 2, "seed": -1}, ShapeError, r"seed must be at least 0, got -1"),
        (
            {"batch_size": 2, "num_replicas": 2, "rank": 2},
            ShapeError,
            r"rank must be below num_replicas = 2, got 2",
        ),
        ({"max_steps": 9, "drop_last": True}, ShapeError, r"drop_last must be False with max_s"),
        (
            {"max_steps": 4},
            ShapeError,
            r"no row may be longer than max_steps = 4, got 5 steps in row 1",
        ),
        ({"lengths": [1, -2], "batch_size": 2}, ShapeError, r"at least 0, got -2 for row 1"),
        ({"lengths": [1.5], "batch_size": 2}, KindError, r"integers, got float64 of shape \(1,\)"),
        ({"lengths": 3, "batch_size": 2}, KindError, r"integers, got int64 of shape \(\)"),
        (
            {"lengths": [torch.ones(2), torch.ones(3)], "batch_size": 2},
            KindError,
            r"integers, got list: give \[len\(row\) for row in rows\]",
        ),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_to_do(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="BucketBatchSampler: .*" + message):
        elman.BucketBatchSampler(**{"lengths": [3, 5, 1]} | arguments)


def test_an_epoch_is_a_number() -> None:
    sampler = elman.BucketBatchSampler([1, 2], 1)
    with pytest.raises(ShapeError, match="epoch must be at least 0, got -1"):
        sampler.set_epoch(-1)
    with pytest.raises(KindError, match="epoch must be an int, got '1'"):
        sampler.set_epoch("1")  # type: ignore[arg-type]
