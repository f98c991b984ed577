import itertools
import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import elman
from elman import runtime
from elman.runtime import FileError, InputError, native
from elman.shapes import KindError, ShapeError

LAYERS: list[tuple[str, dict[str, Any]]] = [
    (kind, {"num_layers": layers, "bidirectional": both, "bias": bias, **more})
    for layers, both, bias in itertools.product((1, 2), (False, True), (True, False))
    for kind, more in (
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu"}),
        ("GRU", {}),
        ("GRU", {"reset_after": False}),
        ("LSTM", {}),
        ("LSTM", {"proj_size": 3}),
    )
]


def layer(kind: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return getattr(elman, kind)(4, 5, **options, dtype=dtype)


def close(found: Any, expected: Any) -> None:
    tolerance = 3e-6 if found.dtype in (np.float32, torch.float32) else 1e-12
    np.testing.assert_allclose(found, np.asarray(expected), rtol=tolerance, atol=tolerance)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.fixture(params=["core", "numpy"])
def agree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How results agree with a layer's: the core's in every bit, NumPy's within rounding."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "_cells", dict)
        return close
    if not native._cells():
        pytest.skip("the native core is not in use")
    return same


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_whole_sequences_give_what_the_layer_gives(
    kind: str, options: dict[str, Any], dtype: torch.dtype, agree: Any, tmp_path: Path
) -> None:
    module = layer(kind, options, dtype)
    elman.save(module, tmp_path / "m")
    x = torch.randn(7, 3, 4, dtype=dtype)
    with torch.no_grad():
        for threads in (1, 2):
            model = runtime.load(tmp_path / "m", threads)
            agree(model.run(x.numpy()), module(x)[0])
            lengths = [7, 0, 3]
            agree(model.run(x.numpy(), lengths), module(x, lengths=lengths)[0])
        same(elman.load(tmp_path / "m")(x)[0], module(x)[0])


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize(
    ("kind", "options"), [x for x in LAYERS if not x[1]["bidirectional"]], ids=str
)
def test_a_session_goes_on_where_it_was(
    kind: str, options: dict[str, Any], batch: int, agree: Any, tmp_path: Path
) -> None:
    module = layer(kind, options)
    elman.save(module, tmp_path / "m")
    session = runtime.load(tmp_path / "m").session(batch)
    x = torch.randn(9, batch, 4)
    with torch.no_grad():
        expected, final = module(x)
    steps = [session.step(step) for step in x[:3].numpy()]
    rest = session.run(x[3:].numpy())
    agree(np.concatenate([np.stack(steps), rest]), expected)
    for part, state in zip(
        session.state().values(), final if isinstance(final, tuple) else (final,), strict=True
    ):
        agree(part, state)


@pytest.fixture(params=native._native.isas() if native._cells() else ["none"])
def isa(request: pytest.FixtureRequest) -> Any:
    """Every instruction set in turn."""
    if native._cells():
        before = native._native.isa()
        native._native.set_isa(request.param)
        yield
        native._native.set_isa(before)
    else:
        yield


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(torch.float32, "float32"), (torch.float64, "float32"), (torch.float32, "bf16")],
    ids=str,
)
@pytest.mark.parametrize("hidden_size", [5, 17, 70, 130])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.usefixtures("isa")
def test_sizes_around_those_of_vectors_keep_the_bits(
    kind: str, hidden_size: int, dtype: torch.dtype, weights: str, tmp_path: Path
) -> None:
    elman.save(getattr(elman, kind)(33, hidden_size, 2, dtype=dtype), tmp_path / "m", weights)
    module = elman.load(tmp_path / "m")
    model = runtime.load(tmp_path / "m", threads=2)
    for batch in (1, 2, 9):
        x = torch.randn(11, batch, 33, dtype=dtype)
        with torch.no_grad():
            expected = module(x)[0]
        session = model.session(batch)
        for found in (
            model.run(x.numpy()),
            model.session(batch).run(x.numpy()),
            np.stack([session.step(step) for step in x.numpy()]),
        ):
            (same if native._cells() else close)(found, expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("inputs", "hidden_size"), [(5300, 30), (8000, 17), (27000, 5)])
def test_large_matrices_in_bfloat16_keep_the_bits(
    inputs: int, hidden_size: int, tmp_path: Path
) -> None:
    elman.save(elman.LSTM(inputs, hidden_size), tmp_path / "m", "bf16")
    module, model = elman.load(tmp_path / "m"), runtime.load(tmp_path / "m")
    for batch in (1, 2, 9):
        x = torch.randn(3, batch, inputs)
        with torch.no_grad():
            expected = module(x)[0]
        session = model.session(batch)
        for found in (model.run(x.numpy()), np.stack([session.step(s) for s in x.numpy()])):
            (same if native._cells() else close)(found, expected)


def test_a_session_of_many_rows_keeps_the_bits(tmp_path: Path) -> None:
    elman.save(nn.Sequential(elman.GRU(3, 8, 2), nn.Linear(8, 2)), tmp_path / "m")
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((3, 300, 3), np.float32)
    session = model.session(300)
    same(np.stack([session.step(step) for step in x]), model.run(x))
    streams = runtime.Streams(model, 300)
    order = np.random.default_rng(2).permutation(300)
    for step, expected in zip(x, model.run(x), strict=True):
        found = streams.step({f"{n}": step[n] for n in order})
        same(np.stack([found[f"{n}"] for n in range(300)]), expected)


ODD: dict[str, Any] = {
    "a list": lambda x: x.tolist(),
    "float64": lambda x: x.astype(np.float64),
    "strided": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "other bytes": lambda x: x.astype(">f4"),
    "unaligned": lambda x: np.frombuffer(b"?" + x.tobytes(), np.float32, offset=1).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
}


@pytest.mark.usefixtures("agree")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_whatever_can_be_read_as_numbers_is_taken(odd: Any, tmp_path: Path) -> None:
    elman.save(nn.Sequential(elman.GRU(4, 6), nn.Linear(6, 4)), tmp_path / "m")
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((5, 2, 4), np.float32)
    expected = model.session(2).run(x)
    session = model.session(2)
    same(np.stack([session.step(odd(step)) for step in x]), expected)
    same(model.session(2).run(odd(x)), expected)
    same(model.run(odd(x)), expected)


@pytest.mark.usefixtures("agree")
def test_results_go_where_they_are_wanted(tmp_path: Path) -> None:
    elman.save(nn.Sequential(elman.GRU(4, 6), nn.Linear(6, 4)), tmp_path / "m")
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((5, 2, 4), np.float32)
    expected = model.session(2).run(x)
    places = [np.empty((2, 4), np.float32), np.empty((2, 8), np.float32)[:, ::2], x[4].copy()]
    for out in places:  # dense, strided, and where x is
        session = model.session(2)
        session.run(x[:4], out=np.empty((4, 2, 4), np.float32))
        given = x[4] if out is not places[2] else out
        assert session.step(given, out=out) is out
        same(out, expected[4])
    whole = x.copy()
    assert model.session(2).run(whole, out=whole) is whole
    same(whole, expected)
    session = model.session(2)
    fixed = np.empty((2, 4), np.float32)
    fixed.flags.writeable = False
    for call in (
        lambda: session.step(x[0], out=fixed),
        lambda: session.step(x[0], out=np.empty((2, 4))),
        lambda: session.run(x, out=np.empty((4, 2, 4), np.float32)),
        lambda: session.step(x[0, :1]),
        lambda: session.step(x[0, :, :3]),
    ):
        with pytest.raises(InputError):
            call()
    same(session.run(x), expected)  # the state is as before


@pytest.mark.usefixtures("agree")
def test_a_result_may_stand_where_the_input_was(tmp_path: Path) -> None:
    elman.save(nn.Linear(300, 300), tmp_path / "m")  # writes before all is read
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((3, 2, 300), np.float32)
    expected, whole, step = model.run(x), x.copy(), x[0].copy()
    same(model.session(2).run(whole, out=whole), expected)
    same(model.session(2).step(step, out=step), expected[0])


def test_sessions_of_one_model_run_in_many_threads(tmp_path: Path) -> None:
    elman.save(elman.LSTM(64, 256), tmp_path / "m")  # so large that steps let other threads run
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((10, 8, 64), np.float32)
    expected = model.run(x)

    def steps(_: int) -> Any:
        session = model.session(8)
        return np.stack([session.step(step) for step in x])

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(steps, range(8)):
            same(found, expected)


def test_the_state_of_a_session_may_be_any_bytes(model: runtime.Model) -> None:
    session, chance = model.session(), np.random.default_rng(3)
    for _ in range(20):
        parts = {
            name: chance.integers(256, size=part.nbytes, dtype=np.uint8)
            .view(part.dtype)
            .reshape(part.shape)
            for name, part in session.state().items()
        }
        session.load_state(parts)
        session.step([3])


@pytest.fixture
def model(tmp_path: Path) -> runtime.Model:
    torch.manual_seed(1)
    chain = nn.Sequential(
        nn.Embedding(11, 4),
        nn.Sequential(elman.LSTM(4, 6, num_layers=2), nn.Dropout(0.5)),
        nn.LayerNorm(6),
        nn.Linear(6, 5),
        nn.LogSoftmax(-1),
    )
    elman.save(chain, tmp_path / "chain")
    return runtime.load(tmp_path / "chain")


@pytest.mark.usefixtures("agree")
def test_a_chain_gives_what_its_modules_give(model: runtime.Model, tmp_path: Path) -> None:
    x = torch.randint(11, (8, 3))
    chain = elman.load(tmp_path / "chain")
    with torch.no_grad():
        close(model.run(x.numpy()), chain(x))
    assert model.description["outputs"] == {"y": ["L", "N", 5]}


def test_a_chain_gives_the_same_bits_however_it_is_cut(model: runtime.Model) -> None:
    x = np.random.default_rng(2).integers(11, size=(12, 5))
    whole = model.run(x)
    session, each = model.session(5), [model.session() for _ in range(5)]
    same(np.concatenate([session.run(x[:7]), session.run(x[7:8]), [session.step(x[8])]]), whole[:9])
    for n, alone in enumerate(each):
        same(np.stack([alone.step(step) for step in x[:, n : n + 1]]), whole[:, n : n + 1])


FUNCTIONS = [
    *(nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.Softplus(), nn.Identity()),
    *(nn.Softmax(-1), nn.LogSoftmax(dim=2), nn.LayerNorm(6), nn.LayerNorm(6, bias=False)),
    *(nn.LayerNorm(6, elementwise_affine=False, eps=0.1), nn.Linear(6, 3, bias=False)),
]


@pytest.mark.parametrize("module", FUNCTIONS, ids=str)
def test_every_module_of_a_chain(module: nn.Module, tmp_path: Path) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    chain = nn.Sequential(elman.GRU(4, 6), module)
    elman.save(chain, tmp_path / "m")
    x = torch.randn(5, 2, 4)
    with torch.no_grad():
        expected = module(chain[0](x)[0])
        close(runtime.load(tmp_path / "m").run(x.numpy()), expected)
        close(elman.load(tmp_path / "m")(x), expected)


def test_torchs_layers_are_saved_too(tmp_path: Path) -> None:
    theirs = nn.GRU(4, 5, bidirectional=True)
    elman.save(theirs, tmp_path / "m")
    x = torch.randn(6, 2, 4)
    with torch.no_grad():
        close(runtime.load(tmp_path / "m").run(x.numpy()), theirs(x)[0])


def test_weights_may_be_stored_in_less(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = elman.LSTM(32, 64)
    sizes = {}
    for form in ("float32", "bf16"):
        elman.save(module, tmp_path / form, form)
        sizes[form] = (tmp_path / form).stat().st_size
    assert sizes["bf16"] < 0.6 * sizes["float32"]
    x = torch.randn(20, 3, 32)
    with torch.no_grad():
        found, exact = runtime.load(tmp_path / "bf16").run(x.numpy()), module(x)[0].numpy()
        assert 0 < np.abs(found - exact).max() < 0.02
        same(elman.load(tmp_path / "bf16")(x)[0], found)


def test_states_are_kept_reset_and_forked(model: runtime.Model) -> None:
    session = model.session(batch=3)
    x = np.random.default_rng(0).integers(11, size=(6, 3))
    session.run(x[:3])
    kept, twin = session.state(), session.fork()
    later = session.run(x[3:])
    np.testing.assert_array_equal(twin.run(x[3:]), later)
    session.load_state(kept)
    np.testing.assert_array_equal(session.run(x[3:]), later)
    session.load_state(kept.tobytes())
    np.testing.assert_array_equal(session.run(x[3:]), later)
    session.load_state(dict(kept))
    session.reset(np.array([False, True, False]))
    after = session.run(x[3:])
    fresh = model.session(batch=3).run(x[3:])
    np.testing.assert_array_equal(after[:, [0, 2]], later[:, [0, 2]])
    np.testing.assert_array_equal(after[:, 1], fresh[:, 1])
    assert np.abs(after[:, 1] - later[:, 1]).max() > 1e-3
    session.reset()
    np.testing.assert_array_equal(session.run(x[3:]), fresh)


def test_a_state_of_something_else_is_refused(model: runtime.Model, tmp_path: Path) -> None:
    session = model.session(batch=2)
    before = session.state()
    elman.save(nn.Sequential(nn.Embedding(11, 4), elman.LSTM(4, 6, 2)), tmp_path / "other")
    other = runtime.load(tmp_path / "other").session(batch=2)
    good = before.tobytes()
    for state, message in (
        (other.state(), "belongs to another model"),
        (other.state().tobytes(), "belongs to another model"),
        (model.session(batch=3).state(), r"1.h must be \(2, 2, 6\) of float32, got \(2, 3, 6\)"),
        ({"1.h": before["1.h"]}, "the state must have 1.h, 1.c, got 1.h"),
        ({n: p.astype(np.float64) for n, p in before.items()}, "of float32, got .* of float64"),
        (b"", "not a state"),
        (good[:-1], "cut short"),
        (good + b"x", "too long"),
        (good.replace(b"elman-state", b"elman_state"), "does not begin as one"),
    ):
        with pytest.raises(InputError, match=message):
            session.load_state(state)
    for name, part in session.state().items():
        np.testing.assert_array_equal(part, before[name])


def test_named_streams_get_what_sessions_of_their_own_get(model: runtime.Model) -> None:
    chance = np.random.default_rng(3)
    streams = runtime.Streams(model, capacity=4)
    sessions: dict[str, runtime.Session] = {}
    for _ in range(40):
        names = [n for n in "abcd" if chance.random() < 0.5]
        inputs = {name: int(chance.integers(11)) for name in names}
        for name, output in streams.step(inputs).items():
            own = sessions.setdefault(name, model.session())
            close(output, own.step([inputs[name]])[0])
        if sessions and chance.random() < 0.2:
            gone = sorted(sessions)[0]
            streams.drop(gone)
            del sessions[gone]
    assert len(streams) == len(sessions)
    kept = streams.state("b").tobytes()
    streams.drop("b")
    streams.load_state("b", kept)
    close(streams.step({"b": 3})["b"], sessions["b"].step([3])[0])


@pytest.mark.usefixtures("agree")
def test_streams_take_whatever_a_session_takes(tmp_path: Path) -> None:
    elman.save(elman.LSTM(4, 6, 2), tmp_path / "m")
    model = runtime.load(tmp_path / "m")
    x = np.random.default_rng(1).random((3, 150, 4), np.float32)
    given = {str(n): list(ODD.values())[n % len(ODD)] for n in range(0, 150, 7)}
    streams, whole = runtime.Streams(model, 150), model.session(150)
    for step in x:
        inputs = {str(n): given.get(str(n), lambda v: v)(step[n]) for n in range(150)}
        found = streams.step(inputs)
        assert list(found) == list(inputs)
        close(np.stack(list(found.values())), whole.step(step))


def test_streams_begin_from_zeros_where_others_ended(model: runtime.Model) -> None:
    streams = runtime.Streams(model, capacity=3)
    first = streams.step({"a": 1, "b": 2, "c": 3})
    streams.step({"c": 4, "a": 5})
    streams.drop("a")
    streams.drop("c")
    again = streams.step({"d": 3, "e": 1})
    same(again["d"], first["c"])
    same(again["e"], first["a"])


def test_a_step_into_an_array_allocates_nothing(tmp_path: Path) -> None:
    if not native._cells():
        pytest.skip("the native core is not in use")
    elman.save(nn.Sequential(elman.LSTM(8, 16, 2), nn.Linear(16, 4)), tmp_path / "m")
    session = runtime.load(tmp_path / "m").session()
    x, out = np.zeros((1, 8), np.float32), np.empty((1, 4), np.float32)
    several, outs = np.zeros((5, 1, 8), np.float32), np.empty((5, 1, 4), np.float32)

    def most(call: Any, times: int) -> int:
        """The bytes that Python and NumPy have held at once; those of the core: test_core.cpp."""
        call()
        tracemalloc.start()
        for _ in range(times):
            call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert most(lambda: session.step(x, out), 1000) < 300  # counters of the loop, a small tuple
    assert most(lambda: session.run(several, outs), 100) < outs.nbytes + 1500
    assert most(lambda: session.step(x), 1000) > out.nbytes  # what would be seen


def test_a_large_step_lets_other_threads_run(tmp_path: Path) -> None:
    if not native._cells():
        pytest.skip("the native core is not in use")
    elman.save(elman.LSTM(128, 512), tmp_path / "m")
    session = runtime.load(tmp_path / "m").session(64)
    x, out = np.zeros((64, 128), np.float32), np.empty((64, 512), np.float32)
    go, ran = threading.Lock(), []
    go.acquire()
    other = threading.Thread(target=lambda: ran.append(go.acquire()))
    interval = sys.getswitchinterval()
    other.start()
    sys.setswitchinterval(1000)  # from here on another thread runs only if this one lets it
    try:
        go.release()
        for _ in range(1000):
            session.step(x, out)
            if ran:
                break
        has_run = bool(ran)
    finally:
        sys.setswitchinterval(interval)
        other.join()
    assert has_run


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads threads from Linux")
def test_a_step_wakes_no_thread_and_leaves_none_spinning(tmp_path: Path) -> None:
    elman.save(elman.LSTM(64, 256), tmp_path / "m")
    code = (
        "import os, sys, time, numpy as np; sys.modules['torch'] = None\n"
        "import elman.runtime\n"
        "def cpu(): return {t: open(f'/proc/self/task/{t}/schedstat').read().split()[2] for t in"
        " os.listdir('/proc/self/task') if t != str(os.getpid())}\n"
        f"session = elman.runtime.load({str(tmp_path / 'm')!r}, threads=4).session(200)\n"
        "streams = elman.runtime.Streams(session.model, 200)\n"
        "x, before = np.zeros((200, 64), np.float32), cpu()\n"
        "for _ in range(20): session.step(x); streams.step(dict(enumerate(x)))\n"
        "assert cpu() == before, 'another thread has run'\n"
        "start = time.process_time(); time.sleep(0.3)\n"
        "assert time.process_time() - start < 0.1, 'something spins'\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_streams_refuse_what_does_not_fit(model: runtime.Model) -> None:
    streams = runtime.Streams(model, capacity=2)
    streams.step({"a": 1})
    for call, message in (
        (lambda: streams.step({"a": 1, "b": 2, "c": 3}), "there is room for 2 streams"),
        (lambda: streams.step({"a": 11}), "x must be from 0 to 10, got 11"),
        (lambda: streams.step({"a": 0.5}), "x must be integers"),
        (lambda: streams.drop("b"), "there is no stream 'b'"),
        (lambda: streams.state("b"), "there is no stream 'b'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert len(streams) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.session(batch=0), "batch must be an integer from 1 to 2147483647, got 0"),
        (lambda m: m.session().step([1, 2]), r"x must have a batch of 1, .* got \(2,\)"),
        (lambda m: m.session().step([[1]]), r"x must be \(N\), got \(1, 1\)"),
        (lambda m: m.session().step([-1]), "x must be from 0 to 10, got -1"),
        (lambda m: m.session().step([1.0]), "x must be integers, got float64"),
        (lambda m: m.session().step([1], out=np.zeros((1, 4))), r"out must be \(1, 5\)"),
        (lambda m: m.session().reset([True, False]), r"rows must be \(1,\) booleans"),
        (lambda m: m.run(np.zeros((3, 2), int), lengths=[4, 0]), "lengths must be from 0 to L = 3"),
        (lambda m: m.run(np.zeros((3, 2), int), lengths=[1]), r"lengths must be \(N,\) = \(2,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_model_is_refused(
    model: runtime.Model, call: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(model)


def test_a_model_that_reads_backwards_has_no_sessions(tmp_path: Path) -> None:
    elman.save(elman.GRU(3, 4, bidirectional=True), tmp_path / "m")
    with pytest.raises(InputError, match="reads sequences from their end too"):
        runtime.load(tmp_path / "m").session()


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Own(), "the module is Own, whose forward cannot be stored"),
        (nn.Sequential(elman.GRU(3, 4), nn.Sequential(Own())), r"1\.0 is Own"),
        (nn.Sequential(elman.GRU(3, 4), nn.Softmax(0)), "Softmax must be over the features"),
        (nn.Sequential(nn.ReLU()), "ReLU cannot be the first"),
        (nn.Sequential(), "nothing that computes"),
        (nn.Embedding(3, 4, max_norm=1.0), "Embedding with max_norm"),
    ],
    ids=str,
)
def test_what_cannot_be_saved_is_named(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(KindError, match=message):
        elman.save(module, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_modules_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    elman.save(nn.Sequential(elman.GRU(3, 4), nn.Linear(5, 2)), tmp_path / "m")
    with pytest.raises(FileError, match="must take 4 numbers, as the one before gives, got 5"):
        runtime.load(tmp_path / "m")
    with pytest.raises(ShapeError, match="weights must be one of float32, bf16, int8, got 'fp"):
        elman.save(elman.GRU(3, 4), tmp_path / "m", "fp16")


def test_the_package_safetensors_reads_the_file(tmp_path: Path) -> None:
    import safetensors.torch

    module = elman.LSTM(3, 4)
    elman.save(module, tmp_path / "m")
    found = safetensors.torch.load_file(tmp_path / "m")
    for name, parameter in module.state_dict().items():
        torch.testing.assert_close(found[f"0.{name}"], parameter, rtol=0, atol=0)


def test_the_runtime_does_not_import_torch(model: runtime.Model, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import elman.runtime\n"
        f"session = elman.runtime.load({str(tmp_path / 'chain')!r}).session()\n"
        "print(session.step([3]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 5)\n"


def test_damaged_files_give_one_error(model: runtime.Model, tmp_path: Path) -> None:
    content = (tmp_path / "chain").read_bytes()
    chance = np.random.default_rng(5)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(int(chance.integers(1, 4))):
            at = int(chance.integers(len(damaged) if chance.random() < 0.3 else 1200))
            damaged[at] = int(chance.integers(256))
        if chance.random() < 0.2:
            damaged = damaged[: int(chance.integers(len(damaged)))]
        path.write_bytes(damaged)
        try:
            runtime.load(path)
        except FileError:
            refused += 1
    assert refused > 280
    for odd in (tmp_path, tmp_path / "none"):
        with pytest.raises((FileError, OSError)):
            runtime.load(odd)


@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_sequences_that_are_read_end_in_the_states_of_the_layer(
    kind: str, options: dict[str, Any], agree: Any, tmp_path: Path
) -> None:
    module = layer(kind, options)
    elman.save(module, tmp_path / "m")
    x, lengths = torch.randn(7, 3, 4), [7, 1, 3]
    with torch.no_grad():
        output, final = module(x, lengths=lengths)
    found, state = runtime.load(tmp_path / "m").read(x.numpy(), lengths)
    agree(found, output)
    expected = final if isinstance(final, tuple) else (final,)
    for part, wanted in zip(state.values(), expected, strict=True):
        agree(part, wanted)
