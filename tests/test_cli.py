import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forks
import pytest
import typer

from elman import checkpoint
from elman.cli import main
from elman.cli.flags import seconds
from elman.cli.process import Stopping, stopped_by_signals
from elman.tasks import JOBS, samples, text
from elman.tasks.run import Run

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


def wait_for_records(run: Path, count: int, process: "subprocess.Popen[str] | BaseProcess") -> None:
    metrics = run / "metrics.jsonl"
    running = (
        process.is_alive if isinstance(process, BaseProcess) else lambda: process.poll() is None
    )
    while running():
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
    forks.end_well(forks.command(*flags, "--out", "whole", errors="errors"))
    assert Path("errors").read_text() == ""
    records = len(Path("whole", "metrics.jsonl").read_bytes().splitlines())
    killed = forks.command(*flags, "--out", "killed")
    kills = 0
    for _ in range(2):
        wait_for_records(Path("killed"), random.randrange(1, records - 5), killed)
        time.sleep(random.random() * 0.05)
        killed.kill()
        killed.join()
        kills += killed.exitcode == -signal.SIGKILL
        killed = forks.command("train", "text", "--resume", "--out", "killed", errors="errors")
    forks.end_well(killed)
    assert Path("errors").read_text() == ""
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
        f"elman: stopped at update {step} (SIGINT); all is saved. Go on with:"
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
        "weight_decay": 0.01, "warmup": 0.05, "seed": 5, "threads": None, "precision": "float32",
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
    data.write_bytes(b"\xff\x01\xfe" * 400)
    run = str(tmp_path / "run")
    flags = [str(data), "--level", "bytes", "--epochs", "8", "--hidden", "16", "--lr", "0.05"]
    flags += ["--out", run]
    assert main(["train", "text", *flags]) == 0
    capfdbinary.readouterr()
    assert main(["sample", run, "--length", "30", "--temperature", "0"]) == 0
    written = capfdbinary.readouterr().out
    assert len(written) == 31
    assert b"\xff\x01\xfe\xff\x01\xfe" in written


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
        ("train text book.txt --out book.txt", "cannot make the run book.txt: Not a directory"),
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
        (
            "sample taken --length -1",
            "--length must be at least 0 and at most 1000000000000, got -1",
        ),
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
    assert "runs/book was trained with --hidden 16, got 17" in capsys.readouterr().err
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
        (OSError(28, "No space left on device"), 1, "elman: No space left on device"),
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


def test_a_second_process_in_the_same_run_is_told_to_wait(book: Path) -> None:
    words = ["train", "text", str(book), *SMALL, "--epochs", "10000", "--out", "run"]
    first = forks.command(*words, errors="errors")
    wait_for_records(Path("run"), 1, first)
    second = start("train", "text", "--resume", "--out", "run")
    _, errors = second.communicate()
    assert second.returncode == 2
    assert errors.startswith("elman: run is in use, another process is training in it: wait")
    first.terminate()
    first.join()
    errors = Path("errors").read_text()
    assert first.exitcode == 128 + signal.SIGTERM
    assert "(SIGTERM); all is saved. Go on with: elman train text --resume --out run" in errors
    steps = [r["step"] for r in Run.open(Path("run")).records() if r["kind"] == "train"]
    assert steps == sorted(set(steps))


def test_suspended_time_does_not_count_as_training(book: Path) -> None:
    words = ["train", "text", str(book), *SMALL, "--epochs", "10000", "--out", "run"]
    process = forks.command(*words, errors="errors")
    wait_for_records(Path("run"), 3, process)
    os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(3.0)
    stopped = time.monotonic()
    os.kill(process.pid or 0, signal.SIGCONT)
    os.kill(process.pid or 0, signal.SIGHUP)  # the terminal closes
    process.join()
    assert process.exitcode == 128 + signal.SIGHUP
    assert "(SIGHUP); all is saved" in Path("errors").read_text()
    before, last = [r["clock"]["seconds"] for r in Run.open(Path("run")).records()][-2:]
    seconds = checkpoint.load(Path("run/last.safetensors"))[1]["position"]["seconds"]
    assert max(last, seconds) - before < 2.0 + time.monotonic() - stopped


def test_a_signal_before_training_ends_it_at_once(
    book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("must not get here")

    monkeypatch.setattr("elman.tasks.text.job.Corpus.read", slow)
    assert main(["train", "text", "book.txt", "--epochs", "1"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == (
        "elman: stopped before the training began; nothing is lost\n"
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_clock_leaves_out_what_was_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    stopping = Stopping()
    begun = stopping.clock()
    now = 105.0
    assert stopping.clock() - begun == 5.0
    now = 1000.0
    stopping.wake(signal.SIGCONT, None)
    now = 1001.0
    assert stopping.clock() - begun == 6.0


def test_an_output_that_nobody_reads_stops_training_with_all_saved(book: Path) -> None:
    process = start("train", "text", str(book), *SMALL, "--epochs", "10000", "--out", "run")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    process.wait()
    assert process.stderr is not None
    with process.stderr as errors:
        told = errors.read()
    assert process.returncode == 1
    assert "(the output was closed); all is saved. Go on with: elman train text" in told
    step = checkpoint.load(Path("run/last.safetensors"))[1]["position"]["step"]
    assert f"stopped at update {step} " in told


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_output_and_names_in_no_encoding_do_no_harm(
    book: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    book.write_text(book.read_text().replace("that", "thât"), encoding="utf-8")
    run = os.fsdecode(b"a \x1b]0;title\x07 \xff")
    flags = ["--hidden", "8", "--batch", "4", "--chunk", "16", "--epochs", "1"]
    words = [sys.executable, "-m", "elman", "train", "text", "book.txt", *flags, "--out", run]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "MPLBACKEND": "none", "TERM": "dumb"}
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL)
    output, errors = capfdbinary.readouterr()
    assert (done.returncode, errors) == (0, b"")
    assert b"\x1b" not in output
    last = output.splitlines()[-1]
    assert last.endswith(rb"Use it with: elman sample $'a \x1b]0;title\x07 \xff'")
    assert (Path(run) / "loss.png").exists()


def test_closed_streams_do_no_harm(book: Path) -> None:
    flags = ["--hidden", "8", "--batch", "4", "--chunk", "16", "--epochs", "1", "--out", "run"]
    command = shlex.join([sys.executable, "-m", "elman", "train", "text", "book.txt", *flags])
    done = subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"])
    assert done.returncode == 0
    assert Run.open(Path("run")).records()[-1]["kind"] == "result"
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m elman sample run > /dev/full"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "elman: No space left on device\n")


def test_a_wrong_instruction_set_is_told_in_a_line(book: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "elman", "train", "text", "book.txt"],
        env=os.environ | {"ELMAN_ISA": "nonsense"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("elman: ELMAN_ISA must be one of this machine's")
    assert done.stderr.count("\n") == 1


def test_a_model_too_large_for_the_machine_is_refused(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--hidden", "16384", "--layers", "64", "--epochs", "1"]
    assert main(["train", "text", "book.txt", *flags]) == 2
    assert re.fullmatch(
        r"elman: a model of 1\d\d,\d{3},\d{3},\d{3} weights needs 2,\d\d\d GB to be trained, and"
        r" this machine has [\d,]+: lower --hidden or --layers\n",
        capsys.readouterr().err,
    )
    assert not Path("runs").exists()


def test_mistakes_are_told_without_loading_pytorch(book: Path) -> None:
    Path("taken").mkdir()
    Path("taken", "letter").write_text("dear")
    code = (
        "import sys; from elman.cli import main;"
        "t = ['train', 'text'];"
        "codes = [main([*t, *w.split()]) for w in ('none.txt', 'book.txt --hidden 0',"
        " 'book.txt --out taken', '--resume --out none', '--resume --out taken', '/dev/null')];"
        "assert codes == [2] * 6, codes; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_what_is_done_to_the_files_of_a_run_never_ends_in_a_traceback(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--hidden", "4", "--batch", "4", "--chunk", "16", "--epochs", "1", "--embed", "4"]
    book.write_text(book.read_text()[:1500])
    assert main(["train", "text", "book.txt", *small, "--out", "whole"]) == 0
    chance, run, codes = random.Random(0), Path("run"), []
    for _ in range(60):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree("whole", run)
        file = chance.choice([f for f in sorted(run.iterdir()) if f.suffix != ".png"])
        content = bytearray(file.read_bytes())
        place = chance.randrange(len(content) or 1)
        match chance.randrange(5):
            case 0:
                content[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del content[place:]
            case 2:
                content[place:place] = chance.choice([b"9" * 400, b"[" * 2000, b"null", b"\0"])
            case 3:
                values = [match.span(1) for match in re.finditer(rb": ([^,{}\n\[]+)", content)]
                begin, end = chance.choice(values or [(0, 0)])
                content[begin:end] = chance.choice([b"0", b"-1", b"1e999", b'"x"', b"null", b"{}"])
            case 4:
                content.clear()
        file.write_bytes(content)
        (run / "report.html").unlink(missing_ok=True)
        codes.append(main(chance.choice(USES)))
        errors = capsys.readouterr().err
        assert errors.count("\n") == (codes[-1] != 0), errors
    assert set(codes) == {0, 2}


USES = [
    ["train", "text", "--resume", "--out", "run"],
    ["sample", "run", "--length", "3"],
    ["info", "run"],
    ["compare", "run", "whole"],
    ["report", "run"],
]


@pytest.mark.parametrize("job", sorted(JOBS))
def test_the_job_of_a_file_is_guessed(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if job == "text":
        file = tmp_path / "song.txt"
        file.write_text("row, row, row your boat, gently down the stream.\n" * 40)
    else:
        file = samples.write(job, tmp_path)
    run = tmp_path / "run"
    assert main(["train", str(file), "--epochs", "1", "--dry-run", "--out", str(run)]) == 0
    assert f": elman train {job}\n" in capsys.readouterr().err
    assert not run.exists()
