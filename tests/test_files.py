import codecs
import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from elman.tasks import InputError
from elman.tasks.files import check, read_text


def read(tmp_path: Path, content: bytes) -> tuple[str, list[str]]:
    path = tmp_path / "file"
    path.write_bytes(content)
    found = read_text(path)
    assert found.content == content
    return found.text, [note.removeprefix(f"{path} ") for note in found.notes]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("utf-8", codecs.BOM_UTF8),
    ],
)
def test_text_is_read_by_its_mark_and_without_it(
    tmp_path: Path, encoding: str, mark: bytes
) -> None:
    title = encoding.upper()[:6].rstrip("-")
    text, notes = read(tmp_path, mark + "naïve 漢字 🙂".encode(encoding))
    assert text == "naïve 漢字 🙂"
    assert notes == [f"is read as {title}, without the mark at its start"]


def test_plain_utf_8_needs_no_word(tmp_path: Path) -> None:
    assert read(tmp_path, "naïve \ufeff漢字\n".encode()) == ("naïve \ufeff漢字\n", [])


def test_ends_of_lines_are_kept_and_told(tmp_path: Path) -> None:
    text, notes = read(tmp_path, b"one\r\ntwo\r\n")
    assert text == "one\r\ntwo\r\n"
    assert notes == ["ends its lines with CR LF, and so will what is written"]


def test_bytes_of_another_encoding_are_kept_and_told(tmp_path: Path) -> None:
    text, notes = read(tmp_path, "naïveté".encode("latin-1"))
    assert text.encode("utf-8", "surrogateescape") == "naïveté".encode("latin-1")
    assert notes == [
        "is not all UTF-8: 2 bytes are learnt as they are; convert it if it is text in another"
        " encoding"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"text" * 100), r"is packed \(gzip\); first gzip -d"),
        (b"PK\3\4....", r"is packed \(zip\); first unzip"),
        (b"\x7fELF\x02\x01\x01\0\0", "has NUL characters, as only binary files have"),
        ("text".encode("utf-16-le"), "text in UTF-16 without its mark; convert it to UTF-8"),
        (codecs.BOM_UTF16_LE + b"abc", "begins as UTF-16, and is damaged at byte 4; convert"),
        (codecs.BOM_UTF16_LE + b"\0\xd8a\0", "begins as UTF-16, and is damaged at byte 2"),
        (codecs.BOM_UTF8, "it is empty"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"cannot learn from .*file: .*{message}"):
        read(tmp_path, content)


def test_what_cannot_be_read_again_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory; name the files in it"):
        check(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*none: No such file or directory"):
        check(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read"):
        check("nul\0")
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        for name in (tmp_path / "pipe", "/dev/zero", "/dev/stdin"):
            with pytest.raises(InputError, match="could not be read again when the training is"):
                check(name)


def test_a_mistake_in_a_name_is_told_without_pytorch() -> None:
    code = "import sys, elman.tasks.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
