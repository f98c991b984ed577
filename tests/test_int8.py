"""Models in int8: the core computes the definition, by any instructions and in any batch."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_runtime import LAYERS, layer, same
from torch import nn

import elman
from elman import runtime
from elman.runtime import FileError, native
from elman.runtime.file import Stored, read, write
from elman.runtime.modules import Matrix, quantise
from elman.shapes import ShapeError

# Every instruction set, with its instructions for int8 and without.
WAYS = (
    [(isa, may) for isa in native._native.isas() for may in (True, False)]
    if native._cells()
    else []
)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], list[runtime.Model]]]:
    """Load a file once for each way in which this machine can run it."""
    if not native._cells():
        pytest.skip("the native core is not in use")
    before, compiled = native._native.isa(), native._native.Chain32

    def load(path: Path, threads: int = 1) -> list[runtime.Model]:
        models = []
        for isa, may in WAYS:
            native._native.set_isa(isa)
            with monkeypatch.context() as patch:
                patch.setattr(native._native, "Chain32", functools.partial(compiled, may))
                models.append(runtime.load(path, threads))
        return models

    yield load
    native._native.set_isa(before)


def by_numpy(path: Path, monkeypatch: pytest.MonkeyPatch) -> runtime.Model:
    with monkeypatch.context() as patch:
        patch.setattr(native, "_cells", dict)
        return runtime.load(path)


def saved(module: nn.Module, path: Path) -> Path:
    elman.save(module, path, "int8")
    return path


def agree(found: Any, expected: Any) -> None:
    """Agree within rounding, but where that moved an h to the next integer: rarely, and little."""
    differences = np.abs(found - expected)
    assert (differences > 3e-6).mean() < 0.05
    assert differences.max() < 5e-3


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_layers_give_what_the_definition_gives(
    kind: str,
    options: dict[str, Any],
    ways: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = layer(kind, options)
    path = saved(module, tmp_path / "m")
    x, lengths = np.random.default_rng(0).standard_normal((7, 3, 4)).astype(np.float32), [7, 0, 3]
    definition = by_numpy(path, monkeypatch)
    is_exact = options.get("nonlinearity") == "relu"  # no function that is rounded otherwise
    for model in ways(path):
        (same if is_exact else agree)(model.run(x), definition.run(x))
        (same if is_exact else agree)(model.run(x, lengths), definition.run(x, lengths))
    with torch.no_grad():
        exact = module(torch.from_numpy(x))[0].numpy()
    assert 0 < np.abs(definition.run(x) - exact).max() < 0.05


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "options"), [x for x in LAYERS if not x[1]["bidirectional"]], ids=str
)
def test_each_step_is_that_of_the_definition(
    kind: str,
    options: dict[str, Any],
    batch: int,
    ways: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = saved(layer(kind, options), tmp_path / "m")
    definition = by_numpy(path, monkeypatch).session(batch)
    x = np.random.default_rng(1).standard_normal((9, batch, 4)).astype(np.float32)
    for model in ways(path):
        session = model.session(batch)
        for step in x:  # from the same state, which is what a difference would grow from
            definition.load_state(dict(session.state()))
            agree(session.step(step), definition.step(step))


def test_products_have_the_same_bits_everywhere(
    ways: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(2)
    for inputs, width in ((1, 1), (2, 3), (5, 70), (33, 17), (64, 130), (301, 65), (1100, 4)):
        torch.manual_seed(0)
        module = nn.Linear(inputs, width)
        with torch.no_grad():
            module.weight[0] = 0
        path = saved(module, tmp_path / "m")
        x = (
            chance.standard_normal((3, 37, inputs)) * 10.0 ** np.arange(-3, 0)[:, None, None]
        ).astype(np.float32)
        expected = by_numpy(path, monkeypatch).run(x)
        for model in ways(path):
            same(model.run(x), expected)
            same(model.run(x[:1, 5:6]), expected[:1, 5:6])


def test_odd_rows_are_as_defined(
    ways: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(nn.Sequential(nn.Linear(40, 9)), tmp_path / "m")
    x = np.random.default_rng(2).standard_normal((1, 9, 40)).astype(np.float32)
    x[0, 0] = 0
    x[0, 1, 39], x[0, 2, 3], x[0, 3, 7] = np.nan, np.inf, -np.inf
    x[0, 4] *= 1e-33
    x[0, 5] *= 1e-25
    x[0, 6] *= 1e35
    x[0, 7, :] = np.resize([0.5, 127, 1.5, -2.5], 40)  # halves go to the even integer
    expected = by_numpy(path, monkeypatch).run(x)
    assert np.isnan(expected[0, 1:4]).all()
    assert np.isfinite(np.delete(expected[0], [1, 2, 3], 0)).all()
    bias = expected[0, 0]
    same(expected[0, 4], bias)  # so little counts as zeros
    for model in ways(path):
        same(model.run(x), expected)


def test_rows_are_rounded_to_integers_of_their_own_scale() -> None:
    x = np.array([[0.5, -1.0, 127, 2.5], [0, 0, 0, 0], [0.25, -0.5, 0, 0]], np.float32)
    integers, scales = quantise(x)
    same(integers, [[0, -1, 127, 2], [0, 0, 0, 0], [64, -127, 0, 0]])
    same(scales, np.array([[1], [0], [0.5 / 127]], np.float32))
    integers, scales = quantise(x, least=1)
    same(integers[1:], [[0, 0, 0, 0], [32, -64, 0, 0]])  # 31.75 and 63.5
    same(scales[1:], np.full((2, 1), np.float32(1) / np.float32(127)))


@pytest.mark.parametrize("hidden_size", [5, 17, 70, 130])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_sizes_around_those_of_vectors_keep_the_bits(
    kind: str, hidden_size: int, ways: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = saved(getattr(elman, kind)(33, hidden_size, 2), tmp_path / "m")
    models = ways(path, threads=2)
    for batch in (1, 2, 9):
        x = np.random.default_rng(batch).standard_normal((11, batch, 33)).astype(np.float32)
        of_isa = {}
        for (isa, _), model in zip(WAYS, models, strict=True):
            session = model.session(batch)
            whole = of_isa.setdefault(isa, model.run(x))
            for found in (
                model.run(x),
                model.session(batch).run(x),
                np.stack([session.step(step) for step in x]),
            ):
                same(found, whole)
            same(model.session().run(x[:, :1]), whole[:, :1])
        if {"avx512", "avx2"} <= set(of_isa):  # both have fused multiply-adds for tanh
            same(of_isa["avx512"], of_isa["avx2"])


def test_a_loud_neighbour_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = runtime.load(saved(elman.LSTM(16, 32, 2), tmp_path / "m"))
    x = np.random.default_rng(0).standard_normal((20, 2, 16)).astype(np.float32)
    beside_quiet = model.run(x)
    x[:, 1] *= 1000
    same(model.run(x)[:, 0], beside_quiet[:, 0])
    x[:5, 0] *= 1000  # nor does the past, beyond the state it leaves
    session = model.session(2)
    session.run(x[:5])
    session.reset()
    x[5:, 1] /= 1000
    same(session.run(x[5:])[:, 0], model.run(x[5:])[:, 0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_an_initial_h_beyond_one_is_not_cut(
    kind: str, ways: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = getattr(elman, kind)(4, 24)
    path = saved(module, tmp_path / "m")
    definition = by_numpy(path, monkeypatch).session(2)
    h = np.random.default_rng(0).uniform(-5, 5, (1, 2, 24)).astype(np.float32)
    state = {name: h.copy() for name in definition.state()}
    x = np.random.default_rng(1).standard_normal((6, 2, 4)).astype(np.float32)
    definition.load_state(state)
    expected = definition.run(x)
    hx = torch.from_numpy(h)
    with torch.no_grad():
        exact = module(torch.from_numpy(x), (hx, hx) if kind == "LSTM" else hx)[0].numpy()
    assert np.abs(expected - exact).max() < 0.05
    for model in ways(path):
        session = model.session(2)
        session.load_state(state)
        agree(session.run(x), expected)


CODE = """
import hashlib, sys
import numpy as np
from elman import runtime
x = np.random.default_rng(0).standard_normal((20, 3, 40)).astype(np.float32)
print(hashlib.sha256(runtime.load(sys.argv[1]).run(x).tobytes()).hexdigest())
"""


@pytest.mark.skipif(not native._cells(), reason="the native core is not in use")
def test_processes_with_other_instructions_get_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    relu = elman.RNN(40, 50, nonlinearity="relu")
    path = saved(nn.Sequential(relu, nn.Linear(50, 7), nn.ReLU()), tmp_path / "m")
    digests = {
        subprocess.run(
            [sys.executable, "-c", CODE, str(path)],
            capture_output=True, text=True, check=True,
            env={**os.environ, "ELMAN_ISA": isa},
        ).stdout
        for isa in native._native.isas()
    }  # fmt: skip
    assert len(digests) == 1


# --- sessions -----------------------------------------------------------------------------------


def test_sessions_and_streams_of_a_chain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Embedding(11, 4), elman.LSTM(4, 6, 2), nn.LayerNorm(6), nn.Linear(6, 5), nn.Softmax(-1)
    )
    model = runtime.load(saved(chain, tmp_path / "m"))
    x = np.random.default_rng(2).integers(11, size=(12, 5))
    whole = model.run(x)
    session = model.session(5)
    same(session.run(x[:7]), whole[:7])
    kept, twin = session.state().tobytes(), session.fork()
    same(session.run(x[7:]), whole[7:])
    same(np.stack([twin.step(step) for step in x[7:]]), whole[7:])
    session.load_state(kept)
    same(session.run(x[7:]), whole[7:])
    streams = runtime.Streams(model, 5)
    for step, expected in zip(x, whole, strict=True):
        found = streams.step({f"{n}": step[n] for n in (3, 1, 4, 0, 2)})
        same(np.stack([found[f"{n}"] for n in range(5)]), expected)
    elman.save(chain, tmp_path / "float")
    assert np.abs(whole - runtime.load(tmp_path / "float").run(x)).max() < 0.02


# --- the file -----------------------------------------------------------------------------------


def test_the_file_holds_integers_and_scales(tmp_path: Path) -> None:
    import safetensors.torch

    torch.manual_seed(0)
    module = elman.LSTM(32, 64, proj_size=16)
    elman.save(module, tmp_path / "float")
    path = saved(module, tmp_path / "m")
    assert path.stat().st_size < 0.35 * (tmp_path / "float").stat().st_size
    stored = safetensors.torch.load_file(path)
    dequantised = elman.load(path).state_dict()
    for name, parameter in module.state_dict().items():
        integers = stored[f"0.{name}"]
        if parameter.dim() < 2:
            assert torch.equal(integers, parameter)
            continue
        scales = stored[f"0.{name}_scale"]
        assert integers.dtype == torch.int8
        assert integers.abs().amax(1).eq(127).all()
        assert torch.equal(scales, parameter.abs().amax(1) / 127)
        assert torch.equal(dequantised[name], integers * scales[:, None])
        assert ((dequantised[name] - parameter).abs() <= 0.501 * scales[:, None]).all()


def test_what_was_dequantised_is_stored_as_it_was(tmp_path: Path) -> None:
    path = saved(nn.Sequential(nn.Embedding(5, 8), elman.GRU(8, 9)), tmp_path / "m")
    again = saved(elman.load(path), tmp_path / "again")
    for name, stored in read(path)[1].items():
        if stored.dtype == "I8":
            same(read(again)[1][name].array, stored.array)


def test_float64_is_stored_in_int8_as_float32(tmp_path: Path) -> None:
    module = elman.GRU(3, 4, dtype=torch.float64)
    assert runtime.load(saved(module, tmp_path / "m")).dtype == np.float32


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(odd: float, tmp_path: Path) -> None:
    module = nn.Linear(3, 4)
    with torch.no_grad():
        module.weight[1, 2] = odd
    with pytest.raises(ShapeError, match=r"0\.weight must be finite to be stored in int8"):
        saved(module, tmp_path / "m")


def test_sums_that_could_overflow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"must have at most 131072 columns, got 131073"):
        saved(nn.Linear(2**17 + 1, 1), tmp_path / "m")
    module = nn.Linear(2**17, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1)
    model = runtime.load(saved(module, tmp_path / "m"))
    same(model.run(np.ones((1, 1, 2**17), np.float32)), np.full((1, 1, 1), 2.0**17, np.float32))
    write(
        tmp_path / "m",
        {"format": 1, "modules": [{"name": "0", "kind": "linear", "bias": False,
                                   "inputs": 2**17 + 1, "width": 1}]},
        {"0.weight": Stored("I8", np.ones((1, 2**17 + 1), np.int8)),
         "0.weight_scale": Stored("F32", np.ones(1, np.float32))},
    )  # fmt: skip
    with pytest.raises(FileError, match="weight in int8 must have at most 131072 columns"):
        runtime.load(tmp_path / "m")


def _without(tensors: dict[str, Stored]) -> None:
    del tensors["0.weight_ih_l0_scale"]


def _scales(values: Any) -> Any:
    def change(tensors: dict[str, Stored]) -> None:
        tensors["0.weight_ih_l0_scale"] = Stored("F32", np.asarray(values, np.float32))

    return change


def _too_low(tensors: dict[str, Stored]) -> None:
    array = tensors["0.weight_hh_l0"].array.copy()
    array[2, 1] = -128
    tensors["0.weight_hh_l0"] = Stored("I8", array)


def _floats(name: str) -> Any:
    def change(tensors: dict[str, Stored]) -> None:
        tensors[name] = Stored("F32", tensors[name].array.astype(np.float32))

    return change


def _bytes_for_a_bias(tensors: dict[str, Stored]) -> None:
    tensors["0.bias_ih_l0"] = Stored("I8", np.ones(9, np.int8))


def _double(tensors: dict[str, Stored]) -> None:
    tensors["0.bias_ih_l0"] = Stored("F64", np.ones(9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "the tensor '0.weight_ih_l0_scale' is missing"),
        (_scales(np.ones(8)), r"'0.weight_ih_l0_scale' must be \(9,\), got \(8,\)"),
        (
            _scales([*np.ones(8), np.nan]),
            "weight_ih_l0 must be finite and not negative",
        ),
        (
            _scales([*np.ones(8), np.inf]),
            "weight_ih_l0 must be finite and not negative",
        ),
        (_scales([*np.ones(8), -1]), "weight_ih_l0 must be finite and not negative"),
        (_too_low, "weight_hh_l0 must be from -127 to 127, got -128"),
        (_floats("0.weight_hh_l0"), "all of its matrices must be int8, or none"),
        (_bytes_for_a_bias, "bias_ih_l0 must be floating point, got int8"),
        (_double, "beside weight_ih_l0 in int8 all must be float32, got float64"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = saved(elman.GRU(2, 3), tmp_path / "m")
    description, tensors, _ = read(path)
    change(tensors)
    write(path, description, tensors)
    for load in (runtime.load, elman.load):
        with pytest.raises(FileError, match=message):
            load(path)


def test_damaged_files_give_one_error(tmp_path: Path) -> None:
    content = saved(nn.Sequential(elman.GRU(3, 4), nn.Linear(4, 2)), tmp_path / "m").read_bytes()
    chance = np.random.default_rng(5)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(int(chance.integers(1, 4))):
            damaged[int(chance.integers(len(damaged)))] = int(chance.integers(256))
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            runtime.load(tmp_path / "damaged")
        except FileError:
            refused += 1
    assert refused > 185


def test_a_matrix_multiplies_by_its_rows() -> None:
    matrix = Matrix(np.array([[127, 0], [1, -127]], np.int8), np.array([1, 0.5], np.float32))
    same(matrix.dense, np.array([[127, 0], [0.5, -63.5]], np.float32))
    same(matrix.times(np.array([[127, 0], [0, 127]], np.float32)), [[16129, 63.5], [0, -8064.5]])
    same(matrix[1:].times(np.array([[127, 0]], np.float32)), [[63.5]])
