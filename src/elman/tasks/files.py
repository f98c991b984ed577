"""The user's files: what can be learnt from, and text in whatever way it was written down.

Nothing here imports PyTorch, so that a mistake in a file's name is told at once.
"""

import codecs
import stat
from dataclasses import dataclass
from pathlib import Path

from elman.language import say
from elman.tasks import InputError

__all__ = ["TextFile", "check", "read_text"]

# A mark at the start of a file, and how it is written on; the longer marks first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_PACKED = {
    b"\x1f\x8b": ("gzip", "gzip -d"),
    b"BZh": ("bzip2", "bzip2 -d"),
    b"\xfd7zXZ\0": ("xz", "xz -d"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"PK\3\4": ("zip", "unzip"),
}


@dataclass(frozen=True)
class TextFile:
    """A file that was read.

    Args:
        text: its characters; a byte that is not UTF-8 is the character of Python's error handler
            "surrogateescape".
        content: its bytes.
        notes: what is to be said of it, a sentence each.
    """

    text: str
    content: bytes
    notes: tuple[str, ...]


def check(name: str | Path) -> None:
    """Refuse what cannot be read, and read again when a training is resumed.

    Raises:
        InputError: there is no such file, it is empty, or anything else than a file.

    Example:
        >>> check("none.txt")
        Traceback (most recent call last):
        ...
        elman.errors.InputError: cannot read none.txt: No such file or directory
    """
    path = Path(name)
    try:
        about = path.stat()
    except OSError as error:
        raise InputError(
            say("cannot read {name}: {reason}", name=name, reason=error.strerror)
        ) from error
    except ValueError as error:
        raise InputError(
            say("cannot read {name}: {error}", name=repr(name), error=error)
        ) from error
    if stat.S_ISDIR(about.st_mode):
        raise InputError(say("cannot read {name}: Is a directory; name the files in it", name=name))
    if not stat.S_ISREG(about.st_mode) or path.absolute().parts[1:2] in (("dev",), ("proc",)):
        raise InputError(
            say(
                "cannot learn from {name}: it could not be read again when the training "
                "is resumed; write it to a file, and name that",
                name=name,
            )
        )
    if about.st_size == 0:
        raise InputError(say("cannot learn from {name}: it is empty", name=name))


def read_text(name: str | Path) -> TextFile:
    """Read a file as text.

    UTF-16 and UTF-32 are known by their mark, and all else is UTF-8; the mark is not part of the
    text. Ends of lines are kept as they are, and so are bytes that are not UTF-8.

    Args:
        name: the file.

    Raises:
        InputError: it cannot be read, is empty, or is no text.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "song.txt"
        >>> _ = path.write_bytes("la".encode("utf-16"))
        >>> read_text(path).text
        'la'
    """
    check(name)
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise InputError(
            say("cannot read {name}: {reason}", name=name, reason=error.strerror)
        ) from error
    for start, (kind, command) in _PACKED.items():
        if content.startswith(start):
            raise InputError(
                say(
                    "cannot learn from {name}: it is packed ({kind}); first {command}",
                    name=name,
                    kind=kind,
                    command=command,
                )
            )
    notes = []
    mark, encoding, title = next(
        (found for found in _MARKS if content.startswith(found[0])), (b"", "utf-8", "UTF-8")
    )
    try:
        text = content[len(mark) :].decode(
            encoding, "surrogateescape" if encoding == "utf-8" else "strict"
        )
    except UnicodeDecodeError as error:
        raise InputError(
            say(
                "cannot learn from {name}: it begins as {title}, and is damaged at byte "
                "{byte}; convert it to UTF-8",
                name=name,
                title=title,
                byte=len(mark) + error.start,
            )
        ) from error
    if "\0" in text:
        raise InputError(
            say(
                "cannot learn from {name}: it has NUL characters, as only binary files "
                "have, and text in UTF-16 without its mark; convert it to UTF-8 if it is "
                "text, or learn bytes",
                name=name,
            )
        )
    if not text:
        raise InputError(say("cannot learn from {name}: it is empty", name=name))
    if mark:
        notes.append(f"{name} is read as {title}, without the mark at its start")
    if strange := sum("\udc80" <= c <= "\udcff" for c in text):
        notes.append(
            f"{name} is not all UTF-8: {strange:,} bytes are learnt as they are; convert it if it"
            " is text in another encoding"
        )
    if "\r\n" in text:
        notes.append(f"{name} ends its lines with CR LF, and so will what is written")
    return TextFile(text, content, tuple(notes))
