import os
import subprocess

import pytest

from elman.tasks.terminal import printable, quoted


@pytest.mark.parametrize(
    "text",
    [
        "naïve 漢字 🙂\n\ttabs",
        "no\u00a0break, ideographic\u3000space, thin\u2009space",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 is one family, \u2764\ufe0f a red heart",
        "\u0645\u06cc\u200c\u062e\u0648\u0627 and soft\u00adhyphens",
        "e\u0301",
    ],
)
def test_what_can_be_shown_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\rtwo", "one\ufffdtwo"),  # a bare return writes over the line
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("\x7f\x00\x08", "\ufffd" * 3),
        ("\u202eabc\u2066", "\ufffdabc\ufffd"),  # direction
        ("\u2028\u2029\x85\x0b\x0c", "\ufffd" * 5),
        ("\ud800\udcff\ue000\uffff", "\ufffd" * 4),
    ],
)
def test_what_disturbs_a_terminal_is_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_stays_on_one_line() -> None:
    assert printable("a\nb\tc", breaks="") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    "name", [b"book", b"my book", b"it's", b"a\x1b]0;t\x07'\\b", b"\xff\xc3\xa9", b"\n", b"$HOME"]
)
def test_a_quoted_name_is_that_name_in_a_shell(name: bytes) -> None:
    words = quoted(os.fsdecode(name))
    assert words.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {words}"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == name
