import os
from pathlib import Path

import pytest
import torch

from elman import checkpoint


def test_a_checkpoint_returns_tensors_bit_for_bit_and_what_is_beside_them(tmp_path: Path) -> None:
    tensors = {
        "float": torch.randn(3, 5),
        "double": torch.randn(2, dtype=torch.float64),
        "bytes": torch.randint(256, (7,), dtype=torch.uint8),
        "scalar": torch.tensor(float("nan")),
        "empty": torch.empty(0, 4),
    }
    extra = {"loss": 0.1 + 0.2, "none": None, "byte": "\udcff", "list": [1, "é"]}
    checkpoint.save(tmp_path / "c.safetensors", tensors, extra)
    found, beside = checkpoint.load(tmp_path / "c.safetensors")
    assert beside == extra
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert found[name].data_ptr() % 64 == 0  # as PyTorch's own allocator aligns


def test_a_write_that_fails_half_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    checkpoint.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_was_half_written_before_a_crash_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".file.new").write_bytes(b"left by a crash, and longer than what comes")
    checkpoint.write_atomically(tmp_path / "file", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"w": torch.randn(100)}, {})
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-50], "empty": b"", "text": b"hello " * 50}.get(damage, b""))
    if damage == "foreign":
        import safetensors.torch

        safetensors.torch.save_file({"w": torch.ones(1)}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"c\.safetensors must be a checkpoint"):
        checkpoint.load(path)
