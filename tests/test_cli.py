import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from elman import checkpoint
from elman.cli import main
from elman.cli.flags import seconds
from elman.tasks import text

WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "it", "was", "for", "on", "with", "his")
SMALL = ["--hidden", "16", "--batch", "4", "--chunk", "16", "--seed", "5"]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(0)
    path = tmp_path / "book.txt"
    path.write_text(" ".join(chance.choice(WORDS) for _ in range(2000)) + "\n", encoding="utf-8")
    return path


def start(*words: str) -> "subprocess.Popen[str]":
    # One thread, for this machine may be busy; the main thread is the one that signals reach.
    return subprocess.Popen(
        [sys.executable, "-m", "elman", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_records(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    metrics = run / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)


def what_is_kept(run: Path) -> tuple[Any, ...]:
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        del record["clock"]
    tensors, extra = checkpoint.load(run / "last.safetensors")
    del extra["position"]["seconds"]
    return metrics, extra["position"], {name: t.tolist() for name, t in tensors.items()}


def test_a_killed_training_goes_on_as_if_nothing_had_happened(book: Path) -> None:
    flags = ["train", "text", str(book), *SMALL, "--epochs", "4", "--dropout", "0.2"]
    whole = start(*flags, "--out", "whole")
    _, errors = whole.communicate()
    assert (whole.returncode, errors) == (0, "")
    records = len(Path("whole", "metrics.jsonl").read_bytes().splitlines())
    killed = start(*flags, "--out", "killed")
    kills = 0
    for _ in range(2):
        wait_for_records(Path("killed"), random.randrange(1, records - 5), killed)
        time.sleep(random.random() * 0.05)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        kills += killed.returncode == -signal.SIGKILL
        killed = start("train", "text", "--resume", "--out", "killed")
    _, errors = killed.communicate()
    assert (killed.returncode, errors) == (0, "")
    assert kills > 0
    assert what_is_kept(Path("killed")) == what_is_kept(Path("whole"))


def test_ctrl_c_saves_and_says_how_to_go_on(book: Path) -> None:
    process = start("train", "text", str(book), *SMALL, "--epochs", "10000")
    wait_for_records(Path("runs", "book"), 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    step = checkpoint.load(Path("runs/book/last.safetensors"))[1]["position"]["step"]
    assert errors == (
        f"elman: stopped at update {step}; all is saved. Go on with:"
        f" elman train text --resume --out runs/book\n"
    )
    assert Path("runs/book/loss.png").exists()
    last_line = Path("runs/book/metrics.jsonl").read_text().splitlines()[-1]
    assert step - 10 < json.loads(last_line)["step"] <= step


def test_training_then_sampling(book: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [str(book), *SMALL, "--epochs", "2", "--cell", "gru", "--layers", "2", "--embed", "8"]
    flags += ["--lr", "0.01", "--dropout", "0.1", "--clip", "0.5", "--out", "run"]
    assert main(["train", "text", *flags]) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "GRU, 2 layers of 16" in output
    assert "all that is held out, best weights: loss " in output
    assert "elman sample run" in output
    config = json.loads(Path("run/config.json").read_text())
    assert config["source"]["files"] == [str(book)]
    assert config["settings"] == {
        "cell": "gru", "hidden": 16, "layers": 2, "embed": 8, "batch": 4, "chunk": 16, "epochs": 2,
        "max_time": None, "patience": None, "lr": 0.01, "dropout": 0.1, "clip": 0.5,
        "weight_decay": 0.01, "warmup": 0.05, "seed": 5,
    }  # fmt: skip
    assert sorted(path.name for path in Path("run").iterdir()) == [
        ".lock", "best.safetensors", "config.json", "details.json", "last.safetensors", "loss.png",
        "metrics.jsonl", "result.json",
    ]  # fmt: skip

    assert main(["sample", "run", "--prime", "that ", "--length", "20", "--seed", "1"]) == 0
    first = capfd.readouterr().out
    assert first.startswith("that ")
    assert len(first) == len("that ") + 20 + len("\n")
    options = ["--temperature", "0.5", "--top-k", "3"]
    assert main(["sample", "run", "--length", "30", "--seed", "1", *options]) == 0
    assert len(capfd.readouterr().out) == 31


def test_a_time_budget_chooses_the_rest(book: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "text", str(book), "--max-time", "1s"]) == 0
    config = json.loads(Path("runs/book/config.json").read_text())["settings"]
    assert (config["epochs"], config["max_time"]) == (None, 1.0)


def test_bytes_that_are_no_text_are_learnt_and_written_as_they_are(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"\xff\x00\xfe" * 400)
    run = str(tmp_path / "run")
    flags = [str(data), "--level", "bytes", "--epochs", "8", "--hidden", "16", "--lr", "0.05"]
    flags += ["--out", run]
    assert main(["train", "text", *flags]) == 0
    capfdbinary.readouterr()
    assert main(["sample", run, "--length", "30", "--temperature", "0"]) == 0
    written = capfdbinary.readouterr().out
    assert len(written) == 31
    assert b"\xff\x00\xfe\xff\x00\xfe" in written


def files_under(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train text", "FILE is missing"),
        ("train text --resume", "FILE is missing"),
        ("train text none.txt", "none.txt: No such file"),
        ("train text .", "Is a directory"),
        ("train text empty.txt", "empty.txt: it is empty"),
        ("train text short.txt", "the text is too short, 5 characters"),
        ("train text one.txt", "the text has only one symbol, 'a'"),
        ("train text book.txt --batch 1000 --chunk 100", "the text is too short"),
        ("train text book.txt --out taken", "taken exists: add --resume"),
        ("train text book.txt --out book.txt", "cannot make the run book.txt: File exists"),
        ("train text book.txt --hiden 3", "No such option: --hiden"),
        ("train text book.txt --hidden x", "--hidden"),
        ("train text book.txt --hidden 0", "hidden must be at least 1 and at most 16384, got 0"),
        ("train text book.txt --cell lsmt", "cell must be lstm, gru or rnn, got 'lsmt'"),
        ("train text book.txt --dropout 1", "dropout must be at least 0 and below 1, got 1.0"),
        ("train text book.txt --max-time soon", "must be a time such as 90s, 3m or 1h30m"),
        ("train text book.txt --max-time 0", "must be above 0"),
        ("train text --resume --out nothing", "there is no run at nothing"),
        ("train text --resume --out taken", "taken is not a run"),
        ("train", "Missing command"),
        ("train txt", "No such command 'txt'"),
        ("sample", "Missing argument 'RUN'"),
        ("sample nothing", "there is no run at nothing"),
        ("sample taken --length -1", "length must be at least 0, got -1"),
        ("demo --fast", "No such option: --fast"),
        ("--verbose", "No such option: --verbose"),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_line_and_changes_nothing(
    book: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    Path("taken").mkdir()
    Path("taken", "letter").write_text("dear")
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("short")
    Path("one.txt").write_text("a" * 5000)
    before = files_under(Path())
    assert main([*words.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("elman: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert files_under(Path()) == before


def test_a_file_that_may_not_be_read_is_a_mistake(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)  # root may read anything
    assert main(["train", "text", "book.txt", "--epochs", "1"]) == 2
    assert capsys.readouterr().err == f"elman: cannot read {book}: Permission denied\n"


def test_training_again_into_the_same_run_changes_nothing(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "text", "book.txt", *SMALL, "--epochs", "1"]) == 0
    before = files_under(Path())
    assert main(["train", "text", "book.txt", *SMALL, "--epochs", "1"]) == 2
    assert "runs/book exists: add --resume" in capsys.readouterr().err
    assert main(["train", "text", "book.txt", "--resume", "--hidden", "17"]) == 2
    assert "runs/book was trained with hidden 16, got 17" in capsys.readouterr().err
    assert files_under(Path()) == before


def test_divergence_ends_with_code_1_and_one_line(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "text", "book.txt", *SMALL, "--epochs", "9", "--lr", "1e7"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("elman: training diverged at update ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 1, "elman: [Errno 28] No space left on device"),
    ],
)
def test_what_the_world_does_to_a_command_is_told_in_a_line_at_most(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def disturbed(run: Path, **how: Any) -> None:
        raise error

    monkeypatch.setattr(text, "sample", disturbed)
    assert main(["sample", "run"]) == code
    assert capsys.readouterr().err.strip() == message


def test_help_and_version_load_no_pytorch() -> None:
    code = (
        "import sys; from elman.cli import main;"
        "codes = main([]), main(['--help']), main(['train', 'text', '--help']), main(['sample']);"
        "assert codes == (0, 0, 0, 2), codes; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert "--max-time" in done.stdout


def test_a_reader_that_has_seen_enough_ends_sampling_quietly(book: Path) -> None:
    assert main(["train", "text", "book.txt", *SMALL, "--epochs", "1"]) == 0
    process = start("sample", "runs/book", "--length", "1000000")
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()
    process.wait(timeout=60)
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [("90", 90), ("90s", 90), ("3m", 180), ("1h30m", 5400), ("1.5m", 90), ("1h1m1s", 3661)],
)
def test_a_duration_is_read(words: str, expected: float) -> None:
    assert seconds(words) == expected


@pytest.mark.parametrize("words", ["", "m", "3x", "-3m", "3m1h", "nan", "1e3"])
def test_what_is_no_duration_is_refused(words: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be a time such as 90s"):
        seconds(words)


def test_python_dash_m_elman_is_the_command_line() -> None:
    process = start("train", "text", "none.txt")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.startswith("elman: cannot read ")
