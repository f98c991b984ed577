"""The benchmark: the work is the same for everybody, the clock is fair, the bound is a bound."""

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from elman import bench
from elman.bench import (
    ELMAN,
    GRID,
    MODES,
    QUICK,
    TORCH,
    Case,
    Layers,
    Machine,
    Mode,
    Prepared,
    Report,
    Row,
    Spread,
    Work,
    bound,
    measure,
    take_turns,
)
from elman.cli import main

ROOT = Path(__file__).parent.parent
ENDLESS = Machine("a CPU", 2, {}, {2**13: 1e30, 2**27: 1e30})  # reads in no time
CASES = [
    Case(cell, 5, 7, 6, **options, ragged=ragged)
    for cell, options in [
        ("RNN", {}),
        ("GRU", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"dtype": "float64"}),
        ("LSTM", {"proj_size": 3}),
        ("GRU", {"dtype": "bfloat16"}),
    ]
    for ragged in (False, True)
]
INT8 = Case("LSTM", 5, 7, 6, num_layers=2, dtype="int8")


@pytest.fixture(autouse=True)
def _steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench._native, "fma_peak", lambda threads, seconds: 100.0 * threads)
    monkeypatch.setattr(bench, "TURN_S", 0.001)
    monkeypatch.setattr(bench, "PAUSE_S", 0.0)


def some_rows(peer: str = "torch.nn", elsewhere: float = 0.0) -> Iterator[Row]:
    for case, ratio in zip(QUICK, (2.0, 8.0), strict=False):
        ours, theirs = Spread(10.0, 9.0, 11.0, 50), Spread(10.0 * ratio, 20.0, 90.0, 50)
        yield Row(case, "inference", 1, peer, ours, theirs, 100.0, 5.0, elsewhere)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_layers_do_the_work_as_torch_nn_does(case: Case, mode: Mode) -> None:
    (row,) = measure([case], [mode], 1, ENDLESS, seconds=0.0)
    assert (row.case, row.mode, row.threads, row.peer) == (case, mode, 1, "torch.nn")
    assert row.ours.low <= row.ours.median <= row.ours.high
    assert row.peak == 100.0
    assert row.bound == bound(case, mode, 1, 100.0, ENDLESS)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_in_int8_there_is_inference_alone(cell: str, ragged: bool) -> None:
    case = dataclasses.replace(INT8, cell=cell, ragged=ragged)
    (row,) = measure([case], MODES, 1, ENDLESS, seconds=0.0)
    assert (row.case, row.mode, row.peer) == (case, "inference", "torch.nn")
    assert ELMAN.prepare(Work.of(case), "inference").read()[0].dtype is torch.float32


def test_a_layer_of_which_the_peer_has_no_int8_is_passed_over() -> None:
    assert list(measure([dataclasses.replace(INT8, cell="RNN")], MODES, 1, ENDLESS)) == []


def test_narrow_types_are_computed_in() -> None:
    wide = dataclasses.replace(INT8, dtype="float32")
    exact = ELMAN.prepare(Work.of(wide), "inference").read()[0]
    for dtype in ("bfloat16", "int8"):
        work = Work.of(dataclasses.replace(wide, dtype=dtype))
        for contender in (ELMAN, TORCH):
            found = contender.prepare(work, "inference").read()[0].float()
            assert 1e-4 < (found - exact).abs().max() < 0.1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_returns_a_gradient_for_the_input_and_each_weight(case: Case) -> None:
    work = Work.of(case)
    gradients = ELMAN.prepare(work, "training").read()
    wanted = [work.rows(work.input), *work.weights.values()]
    assert [x.shape for x in gradients] == [x.shape for x in wanted]
    assert all(x.abs().max() > 0 for x in gradients)


def test_gradients_do_not_add_up_from_call_to_call() -> None:
    prepared = ELMAN.prepare(Work.of(CASES[0]), "training")
    once = [x.clone() for x in prepared.read()]
    prepared.call()
    torch.testing.assert_close(prepared.read(), once)


@dataclasses.dataclass(frozen=True)
class Wrong(Layers):
    """Computes everything but for one weight of the last bias."""

    def prepare(self, work: Work, mode: Mode) -> Prepared:
        weights = dict(work.weights)
        name = next(name for name in reversed(weights) if name.startswith("bias"))
        weights[name] = weights[name].clone()
        weights[name][-1] += 0.01 if work.case.dtype != "bfloat16" else 0.5
        return super().prepare(dataclasses.replace(work, weights=weights), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_who_computes_something_else_is_not_timed(case: Case, mode: Mode) -> None:
    with pytest.raises(AssertionError, match=r"elman and wrong disagree"):
        list(measure([case], [mode], 1, ENDLESS, peer=Wrong("wrong", torch.nn), seconds=0.0))


def test_what_the_peer_cannot_do_is_passed_over() -> None:
    class Inference(Layers):
        def prepare(self, work: Work, mode: Mode) -> Prepared | None:  # type: ignore[override]
            return super().prepare(work, mode) if mode == "inference" else None

    rows = measure(CASES[:2], MODES, 1, ENDLESS, peer=Inference("half", torch.nn), seconds=0.0)
    assert [(row.case, row.mode) for row in rows] == [(c, "inference") for c in CASES[:2]]


def test_each_contender_is_given_as_many_threads() -> None:
    seen = []

    class Counting(Layers):
        def prepare(self, work: Work, mode: Mode) -> Prepared:
            seen.append(torch.get_num_threads())
            return super().prepare(work, mode)

    threads = torch.get_num_threads() + 1
    list(measure(CASES[:1], MODES, threads, ENDLESS, peer=Counting("x", torch.nn), seconds=0.0))
    assert seen == [threads, threads]


def test_measuring_leaves_threads_gradients_and_generator_as_they_were() -> None:
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state()
    rows = list(measure(CASES[:1], MODES, before[0] + 1, ENDLESS, seconds=0.0))
    assert {row.threads for row in rows} == {before[0] + 1}
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[:2]
    torch.testing.assert_close(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("case", [case for case in GRID if case.ragged], ids=str)
def test_in_ragged_work_62_percent_of_the_steps_are_real(case: Case) -> None:
    assert max(case.lengths) == case.seq_len
    assert sum(case.lengths) / (case.batch * case.seq_len) == pytest.approx(0.62, abs=0.005)


def test_the_grid_has_every_case_once_and_the_quick_one_is_part_of_it() -> None:
    assert len(set(GRID)) == len(GRID) == 3 * (18 + 4) + 2 * 3 + 1
    assert set(QUICK) < set(GRID)
    assert {case.cell for case in QUICK} == {"RNN", "GRU", "LSTM"}


def test_calls_alternate_and_the_first_of_a_turn_is_not_counted() -> None:
    made = []
    spreads = take_turns([lambda: made.append("a"), lambda: made.append("b")], seconds=0.05)
    turns = "".join(made).replace("ba", "b a").replace("ab", "a b").split()
    assert [turn[0] for turn in turns] == ["a", "b"] * (len(turns) // 2)
    assert len(turns) >= 6
    for letter, spread in zip("ab", spreads, strict=True):
        own = [turn for turn in turns if turn[0] == letter]
        assert spread.calls <= sum(len(turn) - 1 for turn in own)


def test_a_call_that_fills_its_turn_counts() -> None:
    (spread,) = take_turns([lambda: time.sleep(0.002)], seconds=0.0)
    assert spread.calls == 3
    assert spread.median >= 2000


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_work_of_other_processes_is_seen_and_own_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    start = bench.seconds_elsewhere()
    subprocess.run([sys.executable, "-c", burn], check=True)
    end = bench.seconds_elsewhere()
    assert end - start > 0.4
    own = time.process_time()
    monkeypatch.setattr(time, "process_time", lambda: own + 1000.0)
    assert bench.seconds_elsewhere() < end - 900.0


def test_a_row_tells_how_busy_the_machine_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "seconds_elsewhere", lambda: 1.5 * time.perf_counter())
    (row,) = measure(CASES[:1], ["inference"], 1, ENDLESS, seconds=0.1)
    assert row.elsewhere == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(
    ("threads", "elsewhere", "disturbed"), [(1, 1.0, False), (1, 1.5, True), (2, 0.5, True)]
)
def test_a_row_is_disturbed_if_its_threads_lack_cores(
    threads: int, elsewhere: float, disturbed: bool
) -> None:
    row = dataclasses.replace(next(some_rows()), threads=threads, elsewhere=elsewhere)
    assert Report(ENDLESS, [row]).disturbed(row) == disturbed  # a machine of two cores


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "case", [dataclasses.replace(case, dtype="float64") for case in CASES[:-2]], ids=str
)
def test_the_bound_counts_the_products_that_torch_nn_makes(case: Case, mode: Mode) -> None:
    # at 1 GFLOP/s of float32, so half of it in float64, a microsecond is 500 operations
    least = bound(case, mode, 1, 1.0, ENDLESS) * 500
    with torch.set_grad_enabled(mode == "training"), FlopCounterMode(display=False) as counter:
        TORCH.prepare(Work.of(case), mode).call()
    made = counter.get_total_flops()
    # torch.nn runs a packed reverse direction over more rows than there are, and the bound leaves
    # out the projection of the first state's gradient
    exact = mode == "inference" or not (case.proj_size or (case.ragged and case.bidirectional))
    assert least <= made * (1 + 1e-6)
    assert least >= made * (1 - 1e-6 if exact else 0.97)


def test_narrow_types_have_a_lower_bound() -> None:
    wide = bound(Case("LSTM", 32, 100, 128), "inference", 1, 1.0, ENDLESS)
    for dtype, part in (("float64", 2), ("bfloat16", 1 / 2), ("int8", 1 / 4)):
        case = Case("LSTM", 32, 100, 128, dtype=dtype)
        assert bound(case, "inference", 1, 1.0, ENDLESS) == pytest.approx(part * wide)


def test_a_step_is_no_faster_than_reading_its_weights() -> None:
    machine = Machine("a CPU", 2, {}, {2**16: 100.0, 2**20: 10.0})
    small, large = Case("GRU", 1, 50, 64), Case("GRU", 1, 50, 1024)  # 48 KiB and 12 MiB
    fast = 1e9
    assert bound(small, "inference", 1, fast, machine) == pytest.approx(50 * 49152 / 100e3, 1e-3)
    assert bound(large, "inference", 1, fast, machine) == pytest.approx(50 * 12582912 / 10e3, 1e-3)
    assert bound(large, "inference", 2, fast, machine) == pytest.approx(50 * 6291456 / 10e3, 1e-3)
    assert bound(large, "training", 1, fast, machine) == pytest.approx(99 * 12582912 / 10e3, 1e-3)


def test_a_dip_in_the_bandwidth_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {2**13: 100.0, 2**14: 20.0, 2**15: 90.0}
    monkeypatch.setattr(bench._native, "read_bandwidth", lambda size, _: rates.get(size, 30.0))
    bandwidth = Machine.here().bandwidth
    assert [bandwidth[size] for size in (2**13, 2**14, 2**15, 2**16)] == [100.0, 90.0, 90.0, 30.0]


def test_the_summary_is_the_geometric_mean_over_undisturbed_rows() -> None:
    report = Report(ENDLESS, [*some_rows(), *some_rows("busy", elsewhere=1.5)])
    _, lines = report.summary()
    assert lines == [["RNN, 2 cases", "inference", "1", "4.00x", ""]]


def test_the_table_has_a_line_per_case_and_columns_per_peer() -> None:
    first, second = some_rows("JAX", elsewhere=1.5)
    report = Report(ENDLESS, [*some_rows(), first])
    titles, lines = report.lines()
    assert titles[3:7] == ["elman µs", "of bound", "best peer", "ratio"]
    assert titles[7:] == ["torch.nn µs", "ratio", "JAX µs", "ratio"]
    start = [str(first.case), "inference", "1"]
    times = ["20.0 ± 175%", "2.00x"]
    assert lines[0] == [*start, "10.0 ± 10% ~", "50%", "torch.nn", "2.00x", *times, *times]
    start = [str(second.case), "inference", "1"]
    assert lines[1] == [
        *start,
        "10.0 ± 10%",
        "50%",
        "torch.nn",
        "8.00x",
        "80.0 ± 44%",
        "8.00x",
        "",
        "",
    ]
    for line in lines:
        assert f"| {' | '.join(line)} |" in report.markdown()


def test_the_best_peer_is_the_nearest_one_and_the_only_one_needs_no_name() -> None:
    first, second = some_rows()
    near = dataclasses.replace(first, peer="near", theirs=Spread(15.0, 14.0, 16.0, 50))
    titles, lines = Report(ENDLESS, [first, second, near]).lines()
    assert [line[titles.index("best peer")] for line in lines] == ["near", "torch.nn"]
    assert [line[titles.index("ratio")] for line in lines] == ["1.50x", "8.00x"]
    assert "best peer" not in Report(ENDLESS, [first, second]).lines()[0]


def test_narrow_types_have_means_of_their_own() -> None:
    rows = list(some_rows())
    rows[1] = dataclasses.replace(
        rows[1], case=dataclasses.replace(rows[0].case, dtype="int8"), threads=2
    )
    rows.append(dataclasses.replace(rows[0], threads=2))
    _, lines = Report(ENDLESS, rows).summary()
    assert [line[:3] for line in lines] == [
        ["RNN, 1 case", "inference", "1"],
        ["RNN, 1 case", "inference", "2"],
        ["RNN in int8, 1 case", "inference", "2"],
    ]


def test_the_json_has_all_that_was_measured() -> None:
    report = Report(ENDLESS, list(some_rows()))
    data = json.loads(report.json())
    assert data["machine"]["cpu"] == "a CPU"
    assert data["rows"][0]["case"] == dataclasses.asdict(QUICK[0])
    assert [row["ratio"] for row in data["rows"]] == [2.0, 8.0]
    assert data["rows"][1]["theirs"] == {"median": 80.0, "low": 20.0, "high": 90.0, "calls": 50}


def test_the_command_prints_the_table_and_writes_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "QUICK", CASES[:1])
    monkeypatch.setattr(bench, "measure", lambda *args, **_: measure(*args, seconds=0.0))
    files = ["--json", f"{tmp_path}/all.json", "--markdown", f"{tmp_path}/table.md"]
    assert main(["bench", "--threads", "1", "--threads", "2", *files]) == 0
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["threads"] for row in rows] == [1, 1, 2, 2]
    assert (tmp_path / "table.md").read_text().count(f"| {CASES[0]} |") == 4
    printed = capsys.readouterr().out
    assert printed.count(str(CASES[0])) == 4
    assert "GFLOP/s on 2 threads" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", __file__], "exists: name a new file"),
        (["--markdown", "no/such/x.md"], "no/such is not a directory"),
        (["--threads", "0"], "Invalid value for '--threads'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


PACKAGES = {"onnx": "onnxruntime", "onednn": "onednn-cpu-gomp", "jax": "jax", "keras": "jax"}
PEER = """
import dataclasses
from elman import bench
import run
bench.TURN_S, bench.PAUSE_S = 0.001, 0.0
machine = bench.Machine("a CPU", 2, {}, {2**13: 1e30, 2**27: 1e30})
plain = [bench.Case(cell, 3, 5, 6) for cell in ("RNN", "GRU", "LSTM")]
more = {"num_layers": 2, "bidirectional": True}, {"ragged": True}, {"dtype": "int8"}
cases = [*plain, *(dataclasses.replace(plain[1], **options) for options in more)]
rows = bench.measure(cases, bench.MODES, 1, machine, run.contender(PEER), seconds=0.0)
print(*(f"{row.case}, {row.mode}" for row in rows), sep="\\n")
"""


@pytest.mark.parametrize("peer", PACKAGES)
def test_a_peer_computes_what_the_layers_do(peer: str) -> None:
    try:
        for needed in (PACKAGES[peer], "jax"):  # the peers stand in one file
            importlib.metadata.version(needed)
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEER.replace("PEER", repr(peer))],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "bench")},
    )
    assert done.returncode == 0, done.stderr
    measured = set(done.stdout.splitlines())
    mode = "inference" if peer == "onnx" else "training"
    assert {f"{cell} (3, 5, 6), {mode}" for cell in ("RNN", "GRU", "LSTM")} <= measured
    assert not any("int8" in line for line in measured)
