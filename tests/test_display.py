import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from elman.tasks import display
from elman.tasks.display import Display

CLOCK = {"seconds": 5.0, "seconds_left": 3725.0, "units_per_second": 12345.6, "unit": "steps"}
UPDATE = {
    "kind": "train",
    "step": 1200,
    "epoch": 1.5,
    "progress": 0.25,
    "loss": 1.5,
    "metrics": {"loss": 1.5, "bits_per_character": 2.164},
    "lr": 1e-3,
    "gradient_norm": 0.5,
    "clock": CLOCK,
}
EVALUATION = UPDATE | {"kind": "evaluation", "best": True, "preview": "[bold]a\x1b[2J\n\udcffb"}
BASELINES = {"chance": {"loss": 4.5}, "a longer name": {"loss": 2.0, "other": 1.0}}
RESULT = UPDATE | {"kind": "result", "baselines": BASELINES, "lines": ["The model wins."]}


def shown(*records: dict[str, Any], terminal: bool, width: int = 80) -> str:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, width=width, highlight=False, markup=False
    )
    with Display(console) as show:
        for record in records:
            show(record)
    return file.getvalue()


def test_lines_say_where_it_stands_and_show_a_sample() -> None:
    assert shown(EVALUATION, RESULT, terminal=False) == (
        "update  1,200  epoch 1.50  held out: loss 1.5, bits per character 2.164 (best)\n"
        "    [bold]a\ufffd[2J\n"
        "    \ufffdb\n"
        "update  1,200  epoch 1.50  all that is held out, best weights: loss 1.5,"
        " bits per character 2.164\n"
        "                     loss\n"
        "model                 1.5\n"
        "chance                4.5\n"
        "a longer name           2\n"
        "The model wins.\n"
    )


def test_without_a_terminal_updates_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(*[UPDATE] * 50, terminal=False) == ""
    monkeypatch.setattr(display, "_LINE_EVERY_S", -1.0)
    assert shown(UPDATE, terminal=False) == (
        "update  1,200  epoch 1.50  loss 1.500  12,346 steps/s  1:02:05 left\n"
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_bar_on_one_line(width: int) -> None:
    shows = shown(UPDATE, terminal=True, width=width)
    bar = max(shows.splitlines(), key=len)
    for part in ("loss 1.500", "12,346 steps/s", "1:02:05 left", "━"):
        assert part in bar
    assert cell_len(Text.from_ansi(bar).plain) <= width


def test_a_terminal_that_cannot_move_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(display, "_LINE_EVERY_S", -1.0)
    shows = shown(UPDATE, EVALUATION, terminal=True)
    assert "loss 1.500" in shows
    assert "(best)" in shows
    assert "\x1b[" not in shows.replace("\x1b[2m", "").replace("\x1b[0m", "")


def test_names_of_runs_and_files_do_nothing_to_a_terminal() -> None:
    note = {"kind": "note", "note": "run \x1b]0;title\x07\x9b2J \udcff"}
    assert shown(note, terminal=False) == "run \ufffd]0;title\ufffd\ufffd2J \ufffd\n"


def test_it_is_seen_that_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError), Display() as show:
        show(EVALUATION)
