"""What `elman verify` computes, compares and says."""

import json
from pathlib import Path

import numpy as np
import pytest

from elman import runtime, verification
from elman.cells import CELLS
from elman.cli import main

BITS = Path(verification.__file__).with_name("bits.json")


def test_every_cell_is_checked_forward_and_backward_in_both_types_and_in_int8() -> None:
    found = {(check.cell, check.what) for check in verification.verify()}
    passes = [f"{way} {dtype}" for way in ("forward", "backward") for dtype in verification._DTYPES]
    assert found == {(cell, what) for cell in CELLS for what in (*passes, "step int8")}


@pytest.mark.parametrize("cell", CELLS)
def test_the_step_in_int8_is_near_that_of_float32(cell: str, tmp_path: Path) -> None:
    x, found = verification._numbers((11, 5, 13), seed=1, dtype="float32"), []
    for weights in ("float32", "int8"):
        verification._write(tmp_path / "m", cell, weights, directions=1)
        model = runtime.load(tmp_path / "m")
        assert model.description["weights"] == weights
        found.append(model.run(x))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=0.05 * abs(found[0]).max())
    assert (found[1] != found[0]).any()


def test_the_problem_depends_on_no_version_of_anything() -> None:
    numbers = verification._numbers((4,), seed=1, dtype="float64") * 2**23
    assert numbers.tolist() == [-3798724.0, 6815617.0, 1699251.0, -6426146.0]
    many = verification._numbers((1000,), seed=2, dtype="float32")
    assert (many >= -1).all()
    assert (many < 1).all()
    assert len(np.unique(many)) > 990


def test_each_weight_is_another() -> None:
    a, b = (verification._numbers((50,), seed, "float32") for seed in (2, 3))
    assert not (a == b).any()


def test_the_hashes_of_every_instruction_set_are_of_every_check() -> None:
    known = json.loads(BITS.read_text("utf-8"))
    checks = {f"{check.cell} {check.what}" for check in verification.verify()}
    assert {kind: set(hashes) for kind, hashes in known.items()} == dict.fromkeys(known, checks)
    assert set(known) >= {f"x86_64 {isa}" for isa in ("avx512", "avx2", "baseline")}


def test_int8_has_the_same_bits_for_every_instruction_set_where_no_tanh_is() -> None:
    known = json.loads(BITS.read_text("utf-8"))
    assert len({hashes["rnn_relu step int8"] for hashes in known.values()}) == 1
    both = (known[f"x86_64 {isa}"] for isa in ("avx512", "avx2"))
    a, b = ([hashes[f"{cell} step int8"] for cell in CELLS] for hashes in both)
    assert a == b


def test_the_results_are_hashed_and_not_something_beside_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {check.what: check.found for check in verification.verify() if check.cell == "lstm"}
    monkeypatch.setattr(verification, "_STEPS", 12)
    after = {check.what: check.found for check in verification.verify() if check.cell == "lstm"}
    assert all(before[what] != after[what] for what in before)


def expect(monkeypatch: pytest.MonkeyPatch, found: str, expected: str | None) -> None:
    check = verification.Check("lstm", "forward float32", found, expected)
    monkeypatch.setattr(verification, "verify", lambda: [check])


def test_the_command_says_what_is_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(monkeypatch, "a1", "a1")
    assert main(["verify"]) == 0
    assert "the same bits as on the machine of the release" in capsys.readouterr().out


def test_the_command_says_what_differs_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(monkeypatch, "a1", "b2")
    assert main(["verify"]) == 1
    said = capsys.readouterr().out
    assert "different" in said
    assert "1 differ from the release" in said


def test_the_command_shows_what_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(monkeypatch, "a1", None)
    assert main(["verify"]) == 0
    said = capsys.readouterr().out
    assert "a1" in said
    assert "1 cannot be compared" in said
