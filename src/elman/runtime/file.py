"""The file of a model: the bytes of safetensors, and a description in its metadata.

    8 bytes     N, the length of the header, little-endian
    N bytes     JSON: {"__metadata__": {"elman": description, "sha256": ...}, name: {"dtype",
                "shape", "data_offsets"}, ...}
    the rest    the tensors

The package safetensors reads and writes the same; this module does with NumPy alone, and nothing in
a file is executed. A file is hostile until it is read: every size and place in it is checked before
memory is touched, with numbers that cannot overflow, and whatever is wrong is a `FileError`.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say

__all__ = ["FileError", "Stored", "digest", "read", "write"]

_MOST_HEADER = 2**26  # bytes
_MOST_FILE = 2**36
# dtype of safetensors -> how NumPy holds it; bfloat16 as the upper half of a float32
_DTYPES = {"F32": "<f4", "F64": "<f8", "BF16": "<u2", "I8": "|i1"}


class FileError(InputError):
    """A file is not a model file, is damaged, or does not fit its description."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored.

    Args:
        dtype: "F32", "F64", "BF16" or "I8", as safetensors writes it.
        array: its values; of BF16, the bits as uint16.
    """

    dtype: str
    array: NDArray[Any]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Stored], str]:
    """Read a model file.

    Args:
        path: the file.

    Returns:
        The description, the tensors by name, read-only, and the SHA-256 of all of the file's
        tensors and its description, in hexadecimal.

    Raises:
        FileError: it is no model file, is damaged, or is larger than can be.
        OSError: it cannot be opened.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise FileError(say("{path} must be a model file, but is not a file", path=path))
    size = path.stat().st_size
    if not 8 < size <= _MOST_FILE:
        raise FileError(
            say(
                "{path} must have from 9 to {most} bytes, got {got}",
                path=path,
                most=_MOST_FILE,
                got=size,
            )
        )
    content = path.read_bytes()
    header_size = int.from_bytes(content[:8], "little")
    if header_size > min(_MOST_HEADER, len(content) - 8):
        raise FileError(
            say(
                "{path} is no model file, or cut short: its header must have at most "
                "{most} bytes, got {got}",
                path=path,
                most=min(_MOST_HEADER, len(content) - 8),
                got=header_size,
            )
        )
    header = _json(path, content[8 : 8 + header_size])
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("elman"), str):
        raise FileError(
            say("{path} is not a model file of elman: its header has no description", path=path)
        )
    data = memoryview(content)[8 + header_size :]
    tensors = _tensors(path, header, data)
    checksum = _digest(metadata["elman"], tensors)
    if metadata.get("sha256") != checksum:
        raise FileError(
            say("{path} is damaged: its checksum is not that of what it holds", path=path)
        )
    return _json(path, _encoded(metadata["elman"])), tensors, checksum


def write(
    path: str | os.PathLike[str], description: Mapping[str, Any], tensors: Mapping[str, Stored]
) -> None:
    """Write a model file, wholly or not at all.

    Args:
        path: where it goes; its directory exists.
        description: a value for JSON.
        tensors: what is stored, by name.

    Raises:
        OSError: it cannot be written; what stood at `path` still stands there.
    """
    from elman.checkpoint import write_atomically  # it imports hashlib, see `_digest`

    text = json.dumps(description)
    header: dict[str, Any] = {"__metadata__": {"elman": text, "sha256": _digest(text, tensors)}}
    offset = 0
    for name, stored in tensors.items():
        end = offset + stored.array.nbytes
        shape = list(stored.array.shape)
        header[name] = {"dtype": stored.dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the tensors are aligned
    parts = [len(encoded).to_bytes(8, "little"), encoded]
    parts += [np.ascontiguousarray(s.array, _DTYPES[s.dtype]).tobytes() for s in tensors.values()]
    write_atomically(Path(path), b"".join(parts))


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(
            say("{path} is damaged: its header is not JSON ({error})", path=path, error=error)
        ) from error
    if not isinstance(found, dict):
        raise FileError(
            say(
                "{path} is damaged: its header must be an object, got {got}",
                path=path,
                got=f"{found!r:.40}",
            )
        )
    return found


def _tensors(path: Path, header: dict[str, Any], data: memoryview) -> dict[str, Stored]:
    """Check each entry of the header, and return what it names."""
    tensors, used = {}, 0
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            kind = np.dtype(_DTYPES[dtype])
            sizes = [*shape, begin, end]
        except (TypeError, KeyError, ValueError) as error:
            raise FileError(
                say(
                    "{path} is damaged: the entry of {name} is {error}",
                    path=path,
                    name=f"{name!r:.80}",
                    error=repr(error),
                )
            ) from error
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
            raise FileError(
                say(
                    "{path} is damaged: the sizes of {name} cannot be",
                    path=path,
                    name=f"{name!r:.80}",
                )
            )
        if not begin <= end <= len(data) or math.prod(shape) * kind.itemsize != end - begin:
            raise FileError(
                say(
                    "{path} is damaged, or cut short: {name} has not its place",
                    path=path,
                    name=f"{name!r:.80}",
                )
            )
        used += end - begin
        tensors[name] = Stored(dtype, np.frombuffer(data[begin:end], kind).reshape(shape))
    if used != len(data):
        raise FileError(
            say(
                "{path} is damaged: {count} bytes of tensors, {used} described",
                path=path,
                count=len(data),
                used=used,
            )
        )
    return tensors


def digest(description: Mapping[str, Any], tensors: Mapping[str, Stored]) -> str:
    """Return the SHA-256 of a description and its tensors, as `read` returns it of their file."""
    return _digest(json.dumps(description), tensors)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # JSON can hold half a surrogate pair


def _digest(description: str, tensors: Mapping[str, Stored]) -> str:
    import hashlib  # 10 ms, which the import of the runtime need not wait for

    digest = hashlib.sha256(_encoded(description))
    for name, stored in sorted(tensors.items()):
        array = np.ascontiguousarray(stored.array, _DTYPES[stored.dtype])
        digest.update(f"{name!r} {stored.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
