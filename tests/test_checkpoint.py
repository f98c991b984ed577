import json
import os
import random
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
    with pytest.raises(OSError, match=r"cannot write .*file: No space left.*; free some space"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # nothing half-written stays


def test_each_write_has_a_file_of_its_own_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace = os.replace

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        checkpoint.write_atomically(path, b"another's")
        assert path.read_bytes() == b"another's"
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    checkpoint.write_atomically(path, b"mine")
    assert path.read_bytes() == b"mine"


def test_what_a_killed_process_left_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", lambda source, target: None)  # killed just before
    checkpoint.write_atomically(tmp_path / "file", b"whole")
    (tmp_path / "letter.new").write_text("dear")
    (left,) = checkpoint.unfinished(tmp_path)
    assert left.read_bytes() == b"whole"


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_a_path_that_is_not_utf_8_will_do(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    checkpoint.save(folder / "c", {"w": torch.ones(2)}, 1)
    assert checkpoint.load(folder / "c")[1] == 1


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


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    tensors = {
        "w": torch.randn(3, 4),
        "none": torch.zeros(0, 2),
        "step": torch.tensor(3),
        "half": torch.randn(5).bfloat16(),
    }
    checkpoint.save(tmp_path / "whole", tensors, {"position": 12, "symbols": "abc"})
    return (tmp_path / "whole").read_bytes()


def test_every_flipped_bit_is_found(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "flipped"
    for bit in range(64, 8 * len(whole), 5):  # the first eight bytes are the size of the header
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.load(path)


def test_whatever_is_wrong_with_a_file_is_one_class_of_error(tmp_path: Path, whole: bytes) -> None:
    path, chance, refused = tmp_path / "mutated", random.Random(0), 0
    expected, beside = checkpoint.load(tmp_path / "whole")
    for _ in range(1000):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(mutated))
            match chance.randrange(4):
                case 0:
                    mutated[place] = chance.randrange(256)
                case 1:
                    del mutated[place : place + chance.randint(1, 9)]
                case 2:
                    mutated[place:place] = mutated[: chance.randint(1, 40)]
                case 3:
                    mutated[place : place + 1] = chance.choice([b"9" * 25, b"[[", b"{}", b'"'])
        path.write_bytes(mutated)
        try:
            tensors, extra = checkpoint.load(path)
        except checkpoint.CheckpointError:
            refused += 1
        else:  # what is not part of the values, such as blanks after the header
            assert extra == beside
            torch.testing.assert_close(tensors, expected, rtol=0, atol=0)
    assert refused > 900


def st(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def st_of(**tensor: object) -> bytes:
    return st({"__metadata__": {"elman": "1"}, "a": tensor}, b"1")


@pytest.mark.parametrize(
    "content",
    [
        st({"__metadata__": {"elman": "[" * 10**5, "sha256": ""}}),
        st_of(dtype="F32", shape=[0, 2**63], data_offsets=[0, 0]),
        st_of(dtype="F32", shape=[2**40], data_offsets=[0, 2**42]),
        st_of(dtype="F4", shape=[2], data_offsets=[0, 1]),
        st_of(dtype="U8", shape=[1], data_offsets=[0, 1]),
        st([]),
        st({}),
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (2**63).to_bytes(8, "little") + b"{}",
    ],
    ids=range(9),
)
def test_a_file_made_to_hurt_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="c must be a checkpoint"):
        checkpoint.load(tmp_path / "c")


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="is not a file"):
        checkpoint.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(checkpoint.CheckpointError, match="is not a file"):
            checkpoint.load(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none")
