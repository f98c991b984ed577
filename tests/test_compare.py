"""The comparison of two commits: what it takes for a change, and that its processes do the work."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from elman.bench import Case

FILE = Path(__file__).parent.parent / "bench" / "compare.py"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["compare"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("ratios", "changed"),
    [
        ((1.0, 1.001, 0.999, 1.0, 1.002), False),
        ((1.01, 1.011, 1.01, 1.009, 1.01), False),  # sure, but nobody would care
        ((1.10, 1.11, 1.09, 1.10, 1.12), True),
        ((0.8, 0.81, 0.79, 0.8, 0.8), True),
        ((1.1, 0.7, 1.5, 0.9, 1.3), False),
        ((1.0, 1.0, 5.0, 1.0, 1.0), False),  # one turn that somebody disturbed
    ],
)
def test_what_is_more_than_noise_is_a_change(
    compare: ModuleType, ratios: tuple[float, ...], changed: bool
) -> None:
    row = compare.Ratio("LSTM (1, 1, 32), inference", 1e-5, 1e-5, ratios)
    assert row.is_changed is changed
    table = compare.table([row])
    assert ("LSTM" in table) is changed
    assert ("faster |" in table, "**slower** |" in table) == (
        changed and row.median < 1,
        changed and row.median > 1,
    )


def test_a_commit_that_is_not_there_is_told_in_a_sentence(compare: ModuleType) -> None:
    with pytest.raises(SystemExit, match="bench-compare: no-such is no commit here"):
        compare.build("no-such")


def test_two_processes_time_every_case_in_both_modes(compare: ModuleType) -> None:
    cases = (
        Case("LSTM", 2, 3, 4, num_layers=2, bidirectional=True, proj_size=2),
        Case("GRU", 3, 5, 4, ragged=True),
        Case("RNN", 1, 2, 4, dtype="float64"),
        Case("RNN", 1, 2, 4, dtype="bfloat16"),
        Case("GRU", 1, 2, 4, dtype="int8"),
    )
    rows = list(compare.compare(cases, None, None, threads=1, turns=2))
    assert [row.case for row in rows] == [f"{c}, {m}" for c in cases for m in c.modes]
    assert all(row.ours > 0 and row.theirs > 0 and len(row.ratios) == 2 for row in rows)
