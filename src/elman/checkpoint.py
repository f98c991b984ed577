"""Files that are either whole or not there: tensors as safetensors, what surrounds them as JSON.

A checkpoint is one safetensors file: tensors by name, and beside them one JSON value and a checksum
over both, kept in the file's own metadata. Nothing in it is executed on loading, and nothing is
returned that is not what was saved. Every file is written beside its place, flushed to the disk and
then moved over the old one, so a crash at any moment leaves the old file or the new one, never half
of one. PyTorch is imported only where there are tensors.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

from elman.language import say

__all__ = [
    "CheckpointError",
    "arrays",
    "load",
    "over",
    "save",
    "under",
    "unfinished",
    "write_atomically",
    "writing",
]

_UNFINISHED = ".elman-*.new"


class CheckpointError(ValueError):
    """A file that should be a checkpoint cannot be read as one, or is damaged."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content``: wholly, or not at all.

    Args:
        path: where the file goes; its directory exists.
        content: all of the file's bytes. They are on the disk when this returns.

    Raises:
        OSError: if the file cannot be written; its message names the file and the remedy. What
            stood at ``path`` still stands there, and nothing is left beside it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(path, b"kept")
        >>> path.read_bytes()
        b'kept'
    """
    # The name is this call's own: two processes may write the same file, and one of them wins.
    beside = path.with_name(_UNFINISHED.replace("*", f"{os.getpid()}-{secrets.token_hex(4)}"))
    with writing(path):
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        if os.name == "posix":  # elsewhere a directory cannot be opened, nor must it be flushed
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an OSError in a `with` statement say which file could not be written, and the remedy.

    Example:
        >>> with writing(Path("note.txt")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] cannot write note.txt: No space left on device; free some space on \
that disk and try again
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            say(
                "cannot write {path}: {reason}; {remedy} and try again",
                path=path,
                reason=error.strerror or error,
                remedy=_remedy(error.errno),
            ),
        ) from error


def _remedy(number: int | None) -> str:
    if number == errno.ENOSPC:
        return say("free some space on that disk")
    if number == errno.EDQUOT:
        return say("free some of the space that you are allowed there")
    if number in (errno.EACCES, errno.EPERM):
        return say("choose a directory that you may write to")
    if number == errno.EROFS:
        return say("choose a disk that can be written")
    return say("mend that")


def unfinished(directory: Path) -> list[Path]:
    """Return the files that `write_atomically` left when its process was killed, or writes now."""
    return list(directory.glob(_UNFINISHED))


def save(path: Path, tensors: Mapping[str, "Tensor"], extra: object) -> None:
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
    import safetensors.torch

    text = json.dumps(extra)
    metadata = {"elman": text, "sha256": _checksum(tensors, text)}
    write_atomically(path, safetensors.torch.save(dict(tensors), metadata))


def load(path: Path) -> tuple[dict[str, "Tensor"], Any]:
    """Read what `save` wrote.

    Args:
        path: the checkpoint.

    Returns:
        The tensors by name, in its order, each in memory of its own, and the JSON value.

    Raises:
        OSError: if the file cannot be read.
        CheckpointError: if it is not a checkpoint of this library, or a damaged one.
    """
    import safetensors.torch

    content = _read(path)  # safetensors opens no path that is not UTF-8
    with _reading(path):
        # A copy is aligned as PyTorch aligns its own tensors. Products of matrices may round
        # differently on other alignments, and a resumed training must not.
        found = safetensors.torch.load(content)  # in no order
        tensors = {name: found[name].clone() for name in sorted(found)}
        return tensors, _checked(content, _checksum(tensors, _text(content)))


def arrays(path: Path, prefix: str) -> "tuple[dict[str, NDArray[Any]], Any]":
    """Read some tensors of what `save` wrote, without PyTorch.

    Args:
        path: the checkpoint.
        prefix: how the names begin of those that are wanted; they are of float32 or float64.

    Returns:
        The tensors by name, without the prefix and read-only, and the JSON value.

    Raises:
        OSError: if the file cannot be read.
        CheckpointError: if it is not a checkpoint of this library, or a damaged one.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save(path, {"model.w": torch.ones(2), "step": torch.ones(1)}, {"step": 3})
        >>> arrays(path, "model.")
        ({'w': array([1., 1.], dtype=float32)}, {'step': 3})
    """
    import numpy as np

    content = _read(path)
    with _reading(path):
        header = _header(content)
        data = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
        text = _text(content)
        digest, found = hashlib.sha256(text.encode()), {}
        for name in sorted(header.keys() - {"__metadata__"}):
            entry = header[name]
            shape, (begin, end) = tuple(map(int, entry["shape"])), entry["data_offsets"]
            part = data[int(begin) : int(end)]
            digest.update(f"{name!r} {_TORCH_NAMES[entry['dtype']]} {shape}".encode())
            digest.update(part)
            if name.startswith(prefix):
                kind = {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]
                found[name.removeprefix(prefix)] = np.frombuffer(part, kind).reshape(shape)
        return found, _checked(content, digest.hexdigest())


_TORCH_NAMES = {
    **{"F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16"},
    **{"BF16": "torch.bfloat16", "I64": "torch.int64", "I32": "torch.int32"},
    **{"I16": "torch.int16", "I8": "torch.int8", "U8": "torch.uint8", "BOOL": "torch.bool"},
}


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise CheckpointError(
            say("{path} must be a checkpoint written by elman, but is not a file", path=path)
        )
    return path.read_bytes()


def _header(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def _text(content: bytes) -> str:
    text: str = _header(content)["__metadata__"]["elman"]
    return text


def _checked(content: bytes, checksum: str) -> Any:
    """Return the JSON value of a checkpoint whose checksum should be this."""
    if _header(content)["__metadata__"]["sha256"] != checksum:
        raise CheckpointError(say("what it holds is not what was saved: its checksum differs"))
    return json.loads(_text(content))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Let whatever goes wrong in a `with` statement be a CheckpointError, and say what to do."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged file makes the reader raise whatever it comes to
        raise CheckpointError(
            say(
                "{path} must be a checkpoint written by elman, but cannot be read as one "
                "({reason}); if it was damaged, put a copy in its place",
                path=path,
                reason=str(error) or type(error).__name__,
            )
        ) from error


def _checksum(tensors: Mapping[str, "Tensor"], extra: str) -> str:
    """Return the SHA-256 of every tensor's name, form and numbers, and of what is beside them."""
    import torch

    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def over(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Put a prefix before the names of tensors, so that several sets go into one file.

    Example:
        >>> import torch
        >>> over("model.", {"w": torch.ones(1)})
        {'model.w': tensor([1.])}
    """
    return {prefix + name: tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Take the tensors whose names have a prefix, without it.

    Example:
        >>> import torch
        >>> under("model.", {"model.w": torch.ones(1), "step": torch.ones(1)})
        {'w': tensor([1.])}
    """
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
