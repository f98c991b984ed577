"""What is exported answers as the run does, and as its model in PyTorch, without PyTorch."""

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import CASES

from elman import runtime
from elman.cli import main
from elman.runtime import FileError, InputError
from elman.runtime.file import Stored, read, write
from elman.runtime.jobs.pairs import BOUNDARY, UNKNOWN
from elman.tasks import find, pairs, series, text, trained, training
from elman.tasks.exporting import export

JOBS = ("text", *CASES)
every_job = pytest.mark.parametrize("job", JOBS)
WORDS = ("that", "this", "time", "tide", "then", "than", "the", "of", "in", "was", "is", "his")


class Made:
    """A run of a job, what was exported of it, and an input that it answers.

    Attributes:
        run: The directory.
        file: The file, in float32.
        given: What `elman predict` is given.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self.job, self.run, self.file = job, folder / "run", folder / "model.elman"
        if job == "text":
            chance = random.Random(0)
            self.given = folder / "book.txt"
            self.given.write_text(" ".join(chance.choice(WORDS) for _ in range(1500)) + "\n")
            text.train([self.given], out=self.run, epochs=2, hidden=24, layers=2, dropout=0.1)
        else:
            data = CASES[job].make(folder, 0)
            training.train(find(job), self.run, files=(str(data),), **CASES[job].small)
            self.given = folder / {"tags": "new.conll", "series": "recent.csv"}.get(job, "new.txt")
            self.given.write_text(self._input(data))
        export(self.run, self.file)

    def _input(self, data: Path) -> str:
        if self.job == "series":
            head, *rows = data.read_text().splitlines()
            return "\n".join([head, *rows[100:160]]) + "\n"
        if self.job == "pairs":
            return "\n".join(["120", "6", "0021", "12021", "66"]) + "\n"
        if self.job == "tags":
            return "the\nabba\nrekks\n\nthe\ndod\n\nkekes\n"
        return "\n".join(["bedi", "kotu", "g", "titititibo", "zz"]) + "\n"

    def words(self, path: Path) -> list[str]:
        """A command that answers."""
        if self.job == "text":
            return ["sample", str(path), "--prime", "that", "--length", "60", "--seed", "3"]
        return ["predict", str(path), str(self.given)]

    def lines(self, path: Path) -> list[str]:
        """What is answered, from Python."""
        if self.job == "text":
            return ["".join(text.sample(path, prime="that", length=60, seed=3))]
        return list(trained.predict(path, str(self.given)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A run for each job, made once."""
    found: dict[str, Made] = {}

    def make(job: str) -> Made:
        if job not in found:
            found[job] = Made(tmp_path_factory.mktemp(job), job)
        return found[job]

    return make


# --- the same answers -----------------------------------------------------------------------------


# Whatever is not in an environment with NumPy and typer alone cannot be imported.
ALONE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"{{name}} is not there", name=name)
sys.meta_path.insert(0, Refused())
{code}
assert not {{name.split(".")[0] for name in sys.modules}} & {refused}
"""
EXTRAS = {
    *("torch", "safetensors", "filelock", "matplotlib", "jinja2", "polars", "aeon", "sklearn"),
    *("nervaluate", "rapidfuzz", "sacrebleu", "tokenizers", "onnx", "tensorboard", "scipy"),
}


def alone(code: str, refused: set[str] = EXTRAS) -> bytes:
    words = [sys.executable, "-W", "error", "-c", ALONE.format(refused=refused, code=code)]
    done = subprocess.run(words, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.replace(b"\r\n", b"\n")


@every_job
def test_a_run_and_its_file_answer_the_same_with_numpy_and_typer_alone(
    made: Callable[[str], Made], job: str
) -> None:
    of = made(job)
    expected = of.lines(of.run)
    assert of.lines(of.file) == expected
    for path in (of.run, of.file):
        code = f"from elman.cli import main\nassert main({of.words(path)!r}) == 0"
        said = alone(code).decode()
        prime = "that" if job == "text" else ""
        assert said == "".join(f"{prime}{line}\n" for line in expected)


@every_job
def test_a_file_is_described_with_numpy_and_typer_alone(
    made: Callable[[str], Made], job: str
) -> None:
    said = alone(f"from elman.cli import main\nassert main(['info', {str(made(job).file)!r}]) == 0")
    assert job in said.decode().split()


PYTHON = {
    "text": "''.join(model.sample(prime='that', length=60, seed=3))",
    "labels": "model.predict(['bedi', 'kotu'], top=2)",
    "tags": "model.predict([['the', 'abba', 'rekks'], ['kekes']])",
    "pairs": "model.predict(['120', '0021'], n_best=2)",
    "series": "model.predict(list(range(30)), '2024-01-31').quantiles.tolist()",
}


@every_job
def test_the_functions_of_python_answer_with_numpy_alone(
    made: Callable[[str], Made], job: str
) -> None:
    of = made(job)
    code = f"import elman.runtime\nmodel = elman.runtime.load({str(of.file)!r})\n"
    found = alone(code + f"print(repr({PYTHON[job]}))", EXTRAS | {"typer", "rich", "click"})
    expected = eval(PYTHON[job], {"model": runtime.load(of.run)})
    assert found.decode().strip() == repr(expected)


@torch.no_grad()
def of_torch(of: Made) -> list[str]:
    """The lines that the model in PyTorch gives; of text and pairs those of the likeliest way."""
    have = trained.load(of.run)
    if of.job == "text":
        vocabulary = runtime.load(of.run).vocabulary
        ids, hx, found = torch.from_numpy(vocabulary.encode("that")).long(), None, []
        for _ in range(60):
            logits, hx = have.model(ids[:, None], hx)
            ids = logits[-1, 0].argmax(keepdim=True)
            found.append(int(ids))
        return ["".join(vocabulary.decode(found))]
    if of.job == "labels":
        from elman.tasks.labels import batches, data, job

        samples = data.Samples(tuple(of.given.read_text().split()), (), ())
        logs = job._log_probabilities(have.model, batches.encode(samples, have.knowledge))
        likely, best = logs.exp().max(-1)
        names = list(have.knowledge["labels"])
        return [f"{names[n]}\t{p:.4f}" for n, p in zip(best, likely.tolist(), strict=True)]
    if of.job == "tags":
        from elman.tasks.tags.data import Document
        from elman.tasks.tags.job import _tagged

        read = Document.read_like("new", of.given.read_text(), have.knowledge["layout"])
        return read.tagged(_tagged(have, read.sentences)[0])
    if of.job == "pairs":
        from elman.tasks.pairs.batches import Batch
        from elman.tasks.pairs.data import Knowledge

        known = Knowledge.from_json(have.knowledge)
        found = [
            likeliest_way(have.model, known.source.encode(row), Batch, known)
            for row in of.given.read_text().split()
        ]
        return [known.target.text(known.target.decode(numbers)) for numbers in found]
    from elman.tasks.series import job as of_series
    from elman.tasks.series.data import read_again
    from elman.tasks.series.windows import Windows

    windows = Windows(read_again(str(of.given), have.knowledge), have.settings)
    quantiles = of_series.forecast(have, windows, windows.origins("end")).quantiles[0]
    return [",".join(f"{number:.6g}" for number in row) for row in quantiles]


def likeliest_way(model: Any, source: list[int], kind: Any, known: Any) -> list[int]:
    """Read the target so far again for each symbol, and take the likeliest each time."""
    symbols: list[int] = []
    while len(symbols) < math.ceil(len(source) * known.longest) + 10:
        batch = kind.of([(source, symbols)])
        logits = model(batch.source, batch.lengths, batch.so_far)[0, -1]
        logits[UNKNOWN] = -math.inf
        if not symbols:
            logits[BOUNDARY] = -math.inf
        if (best := int(logits.argmax())) == BOUNDARY:
            break
        symbols.append(best)
    return symbols


@every_job
def test_what_is_exported_answers_as_the_model_in_pytorch(
    made: Callable[[str], Made], job: str
) -> None:
    of = made(job)
    if job == "text":
        found = ["".join(text.sample(of.file, prime="that", length=60, temperature=0))]
    elif job == "pairs":
        found = list(pairs.predict(of.file, str(of.given), beam=1))
    else:
        found = of.lines(of.file)
    expected = of_torch(of)
    if job != "series":
        assert found == expected
        return
    numbers = [[float(cell) for cell in line.split(",")[2:]] for line in found[1:]]
    wanted = [[float(cell) for cell in line.split(",")] for line in expected]
    np.testing.assert_allclose(numbers, wanted, rtol=2e-5)


def test_a_series_in_python_is_forecast_as_its_table_is(made: Callable[[str], Made]) -> None:
    of = made("series")
    rows = [line.split(",") for line in of.given.read_text().splitlines()[1:]]
    model = runtime.load(of.file)
    found = model.predict([float(value) for _, value in rows], rows[-1][0], horizon=4)
    lines = list(series.predict(of.file, of.given, horizon=4))
    assert [line.split(",")[0] for line in lines[1:]] == list(found.times)
    shown = [",".join(f"{number:.6g}" for number in row) for row in found.quantiles]
    assert [line.split(",", 2)[2] for line in lines[1:]] == shown
    assert found.point.tolist() == found.quantiles[:, 1].tolist()


# --- weights of fewer bits, and ONNX --------------------------------------------------------------


@every_job
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_the_cost_of_fewer_bits_is_told_and_the_file_is_smaller(
    made: Callable[[str], Made],
    job: str,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of = made(job)
    path = tmp_path / "small.elman"
    assert main(["export", str(of.run), str(path), "--weights", weights]) == 0
    wrote, cost = capsys.readouterr().out.splitlines()
    assert wrote == f"{path}: {path.stat().st_size:,} bytes, weights in {weights}"
    assert cost.endswith("(held out)")
    _, tensors, _ = read(path)
    stored = {"bf16": "BF16", "int8": "I8"}[weights]
    assert {t.dtype for t in tensors.values() if t.array.ndim == 2} == {stored}
    small, full = (sum(t.array.nbytes for t in read(p)[1].values()) for p in (path, of.file))
    assert small < full
    was, now = [float(word.rstrip(",")) for word in cost.split() if word[0].isdigit()][:2]
    assert was == pytest.approx(now, rel=0.05, abs=0.02)
    metrics = json.loads((of.run / "result.json").read_text())["metrics"]
    name = {
        **{"text": "nats_per_character", "labels": "accuracy", "tags": "accuracy"},
        **{"pairs": "exact_match", "series": "mase"},
    }[job]
    assert was == pytest.approx(metrics[name], abs=1e-3)
    assert of.lines(path)


def test_a_cost_that_cannot_be_measured_is_said(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    data = CASES["labels"].make(tmp_path, 1)
    training.train(find("labels"), tmp_path / "run", files=(str(data),), **CASES["labels"].small)
    for file in data.iterdir():
        file.unlink()
    data.rmdir()
    said = export(tmp_path / "run", tmp_path / "m.elman", "bf16")
    assert said[1].startswith("what that costs was not measured: cannot read")
    assert runtime.load(tmp_path / "m.elman").predict(["bedi"])


@pytest.mark.parametrize("job", ["text", "labels", "tags", "series"])
def test_a_model_is_exported_to_onnx(made: Callable[[str], Made], job: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    of = made(job)
    have = trained.load(of.run)
    example = have.job.example(have)
    assert export(of.run, tmp_path / "m.onnx")[0].endswith("weights in float32")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    args = [part for arg in example.args for part in (arg if isinstance(arg, tuple) else (arg,))]
    torch.manual_seed(0)
    args = [torch.randn(arg.shape) if arg.is_floating_point() else arg for arg in args]
    names = [given.name for given in session.get_inputs()]
    feeds = {name: arg.numpy() for name, arg in zip(names, args, strict=True)}
    called = [args[0], tuple(args[1:])] if job == "text" else args
    with torch.no_grad():
        expected = example.module(*called)
    first = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(session.run(None, feeds)[0], first, rtol=1e-4, atol=1e-5)


# --- mistakes -------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    made: Callable[[str], Made], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made("pairs").run
    (tmp_path / "there.elman").write_text("mine")
    for words, message in (
        ([run, "there.elman"], "there.elman exists: name a new file, it is not written over"),
        ([run, "model.bin"], "must end in .elman or .onnx"),
        ([run, "none/m.elman"], "is not a directory: make it first"),
        (
            [run, "m.elman", "--weights", "int3"],
            "--weights must be one of float32, bf16, int8, got",
        ),
        ([run, "m.onnx", "--weights", "bf16"], "--weights of ONNX are float32, got 'bf16'"),
        ([run, "m.onnx"], "a model of pairs is more than one graph, which ONNX cannot hold"),
        ([tmp_path / "nothing", "m.elman"], "there is no run at"),
    ):
        path, out, *more = map(str, words)
        assert main(["export", path, str(tmp_path / out), *more]) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.elman"]
    assert (tmp_path / "there.elman").read_text() == "mine"


def test_a_file_of_no_job_has_no_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[str], Made]
) -> None:
    import elman

    elman.save(elman.GRU(3, 4), tmp_path / "layer.elman")
    (tmp_path / "torn.elman").write_bytes(made("text").file.read_bytes()[:500])
    for words, message in (
        (["predict", tmp_path / "layer.elman", "x"], "is a chain of modules, and no job knows"),
        (["sample", tmp_path / "torn.elman"], "torn.elman is no model file, or cut short"),
        (["sample", made("tags").file], "is a model of tags, not of text: use elman predict"),
        (["predict", made("text").file], "a model of text writes: use elman sample"),
        (["predict", made("series").file], "say what to forecast from: a table with the columns"),
        (["predict", made("labels").file, "bedi", "--beam", "3"], "is a model of labels: there is"),
        (["info", tmp_path / "torn.elman"], "torn.elman is no model file, or cut short"),
    ):
        assert main([str(word) for word in words]) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1
    with pytest.raises(FileError, match="a model of 'tags', of several chains"):
        elman.load(made("tags").file)


@every_job
def test_info_tells_what_is_in_a_file(
    made: Callable[[str], Made], job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(made(job).file)]) == 0
    said = capsys.readouterr().out
    for word in (job, "float32", "lstm" if job != "series" else "gru", "output.weight"):
        assert word in said


def test_a_file_of_text_is_a_model_and_a_chain_of_modules(made: Callable[[str], Made]) -> None:
    import elman

    of = made("text")
    model, module = runtime.load(of.file), elman.load(of.file)
    ids = np.array([[1], [2], [3]])
    with torch.no_grad():
        expected = module(torch.from_numpy(ids))
    np.testing.assert_allclose(model.session().run(ids), expected, rtol=1e-5, atol=1e-6)
    assert runtime.load(of.run).digest == model.digest
    state = model.session().state().tobytes()
    runtime.load(of.run).session().load_state(state)


BAD_CALLS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "text": [
        ({"prime": "µ"}, "the model has never seen 'µ'"),
        ({"length": -1}, "length must be at least 0"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"seed": 1.5}, "seed must be at least 0"),
    ],
    "labels": [
        ({"inputs": ["a", " "]}, "sequence 1 must be a text, got ' '"),
        ({"inputs": ["a"], "top": 0}, "top must be at least 1"),
    ],
    "tags": [
        ({"sentences": ["the cat"]}, "sentence 0 must be a list of words"),
        ({"sentences": [["the"], []]}, "sentence 1 must be a list of words"),
        ({"sentences": [["the", ""]]}, "none of them empty"),
    ],
    "pairs": [
        ({"sources": ["12", "9x"]}, "source 1: the model has never seen '9', 'x'"),
        ({"sources": [""]}, "source 0 is empty"),
        ({"sources": ["1"], "n_best": 0}, "n_best must be at least 1"),
        ({"sources": ["1"], "n_best": 4, "beam": 3}, "beam must be at least 4"),
    ],
    "series": [
        ({"values": [1.0] * 5, "last": "2024-01-31"}, r"values must be \(T,\) numbers, T at least"),
        ({"values": ["x"] * 30, "last": "2024-01-31"}, "values must be"),
        ({"values": [math.nan] * 30, "last": "2024-01-31"}, "must have a number among them"),
        ({"values": [1.0] * 30, "last": "soon"}, "last must be a time such as 1970-01-01, got"),
        ({"values": [1.0] * 30}, "last must be the time of the last value, got None"),
        ({"values": [1.0] * 30, "last": "9999-12-31"}, "is after all dates"),
        ({"values": [1.0] * 30, "last": "2024-01-31", "horizon": 99}, "forecasts 6 steps, got"),
        ({"values": [1.0] * 30, "last": "2024-01-31", "series": "x"}, "series must be one of sold"),
        ({"values": [1.0] * 30, "last": "2024-01-31", "known": [[1]]}, "known must be"),
    ],
}


@pytest.mark.parametrize(
    ("job", "call", "message"), [(job, *bad) for job, bads in BAD_CALLS.items() for bad in bads]
)
def test_wrong_calls_are_refused_by_a_sentence(
    made: Callable[[str], Made], job: str, call: dict[str, Any], message: str
) -> None:
    model = runtime.load(made(job).file)
    with pytest.raises(InputError, match=message):
        (model.sample if job == "text" else model.predict)(**call)


# --- hostile files --------------------------------------------------------------------------------

ODD: list[Any] = [None, -1, 0, 1, 2**40, 1.5, 1e300, True, "", "x", "lstm", [], [1], ["a"], {}]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is anything in a value of JSON; of a long list the first two and the last."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = [(i, value[i]) for i in sorted({0, 1, len(value) - 1} & set(range(len(value))))]
    else:
        inner = []
    return [path, *itertools.chain(*(places(v, (*path, k)) for k, v in inner))][not path :]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with something else in one place, or without it."""
    if not path:
        return new
    copy = value.copy()
    if len(path) == 1 and new is places:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def answer(of: Made, path: Path) -> None:
    """Load a file and use it, in every way that reads what it knows."""
    runtime.load(path)
    if of.job == "text":
        "".join(text.sample(path, length=3, seed=0))
    else:
        list(trained.predict(path, str(of.given)))
    main(["info", str(path)])


@every_job
def test_a_description_that_was_changed_is_refused_or_answers(
    made: Callable[[str], Made], job: str, tmp_path: Path
) -> None:
    of = made(job)
    description, tensors, _ = read(of.file)
    chance = random.Random(job)
    refused, file = 0, tmp_path / "changed.elman"
    every = [(place, odd) for place in places(description) for odd in (*ODD, places)]
    for place, odd in chance.sample(every, min(len(every), 120)):
        write(file, changed(description, place, odd), tensors)
        with suppress(InputError):
            answer(of, file)
            continue
        refused += 1
    assert refused > 60


@every_job
def test_a_description_without_a_part_of_it_is_refused(
    made: Callable[[str], Made], job: str, tmp_path: Path
) -> None:
    of = made(job)
    description, tensors, _ = read(of.file)
    for name in description["knowledge"]:
        write(tmp_path / "m", changed(description, ("knowledge", name), places), tensors)
        if name in ("is_entities", "text"):
            continue
        with pytest.raises(FileError):
            runtime.load(tmp_path / "m")
    for name in description.get("chains", ()):
        write(tmp_path / "m", changed(description, ("chains", name), places), tensors)
        with pytest.raises(FileError, match=f"must have a chain '{name}'"):
            runtime.load(tmp_path / "m")
    write(tmp_path / "m", description | {"format": 2}, tensors)
    with pytest.raises(FileError, match="written by a newer elman"):
        runtime.load(tmp_path / "m")


def test_a_chain_with_more_recurrent_modules_than_one_is_refused(
    made: Callable[[str], Made], tmp_path: Path
) -> None:
    description, tensors, _ = read(made("series").file)
    layers, *rest = description["chains"]["writer"]
    chains = description["chains"] | {"writer": [layers, layers, *rest]}
    write(tmp_path / "m", description | {"chains": chains}, tensors)
    with pytest.raises(FileError, match="'writer' must have one recurrent module, got 2"):
        runtime.load(tmp_path / "m")


@pytest.mark.parametrize(("job", "chain"), [("labels", "reader"), ("tags", "spelling")])
def test_a_chain_of_one_direction_is_refused_where_two_are_read(
    made: Callable[[str], Made], job: str, chain: str, tmp_path: Path
) -> None:
    description, tensors, _ = read(made(job).file)
    (entry,) = (e for e in description["chains"][chain] if e["kind"] == "recurrent")
    entry["bidirectional"], entry["hidden_size"] = False, 2 * entry["hidden_size"]
    for name in [name for name in tensors if name.startswith(f"{entry['name']}.")]:
        old = tensors.pop(name)
        if not name.endswith("_reverse"):  # as wide as both directions were
            shape = [2 * size for size in old.array.shape]
            if name.endswith("weight_ih_l0"):
                shape[1] //= 2
            tensors[name] = Stored(old.dtype, np.zeros(shape, old.array.dtype))
    write(tmp_path / "m", description, tensors)
    with pytest.raises(FileError, match=f"'{chain}' must have two directions"):
        runtime.load(tmp_path / "m")
