"""Files that are either whole or not there: tensors as safetensors, what surrounds them as JSON.

A checkpoint is one safetensors file: tensors by name, and beside them one JSON value, kept in the
file's own metadata. Nothing in it is executed on loading. Every file is written beside its place,
flushed to the disk and then moved over the old one, so a crash at any moment leaves the old file
or the new one, never half of one.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

__all__ = ["CheckpointError", "load", "save", "write_atomically"]


class CheckpointError(ValueError):
    """A file that should be a checkpoint cannot be read as one."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content``: wholly, or not at all.

    Args:
        path: where the file goes; its directory exists.
        content: all of the file's bytes. They are on the disk when this returns.

    Raises:
        OSError: if the file cannot be written; what stood at ``path`` still stands there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(path, b"kept")
        >>> path.read_bytes()
        b'kept'
    """
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    if os.name == "posix":  # elsewhere a directory cannot be opened, nor need its entry be flushed
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def save(path: Path, tensors: Mapping[str, Tensor], extra: object) -> None:
    """Write ``tensors`` and the JSON value ``extra`` to ``path``, wholly or not at all.

    Args:
        path: where the checkpoint goes; its directory exists.
        tensors: tensors on the CPU, by name; no two of them may share memory.
        extra: anything that JSON can hold.

    Raises:
        OSError: if the file cannot be written; what stood at ``path`` still stands there.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save(path, {"w": torch.ones(2)}, {"step": 3})
        >>> load(path)
        ({'w': tensor([1., 1.])}, {'step': 3})
    """
    metadata = {"elman": json.dumps(extra)}
    write_atomically(path, safetensors.torch.save(dict(tensors), metadata))


def load(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `save` wrote.

    Args:
        path: the checkpoint.

    Returns:
        The tensors by name, each in memory of its own, and the JSON value.

    Raises:
        OSError: if the file cannot be read.
        CheckpointError: if it is not a checkpoint of this library, or a damaged one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            extra = json.loads((file.metadata() or {})["elman"])
            # A copy is aligned as PyTorch aligns its own tensors. Products of matrices may round
            # differently on other alignments, and a resumed training must not.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, extra  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} must be a checkpoint written by elman, but cannot be read as one ({error})"
        ) from error
