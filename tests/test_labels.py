"""One label for each sequence: what is read, what is refused, and what is predicted."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import words_of_two_tongues

from elman.cli import main
from elman.runtime.jobs.labels import tokens
from elman.tasks import InputError, labels, trained
from elman.tasks.labels.baselines import baselines
from elman.tasks.labels.batches import Batches, encode, learn
from elman.tasks.labels.data import Samples, read_samples, split
from elman.tasks.labels.job import JOB, choose
from elman.tasks.labels.model import LabelsModel, summary
from elman.tasks.labels.settings import LabelsSettings, LabelsSource
from elman.tasks.measures import confusion, measure, per_label
from elman.tasks.processes import Processes

SOURCE = LabelsSource(files=())
SMALL: dict[str, Any] = {"hidden": 6, "embed": 5, "batch": 8, "epochs": 2, "dropout": 0.1}


def series(lengths: list[int], features: int = 2) -> list[np.ndarray[Any, Any]]:
    chance = np.random.default_rng(0)
    return [chance.normal(size=(length, features)).astype(np.float32) for length in lengths]


# --- what is read -------------------------------------------------------------------------------


def test_a_directory_of_files_has_a_sample_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "Dutch.txt").write_text("Aalst\nÅke\n\n")
    (tmp_path / "Irish.txt").write_text("Adair\r\nBàn", encoding="utf-8", newline="")
    (tmp_path / ".hidden").write_text("no")
    found = read_samples([str(tmp_path)], SOURCE)
    assert found.inputs == ("Aalst", "Åke", "Adair", "Bàn")
    assert found.labels == ("Dutch", "Dutch", "Irish", "Irish")
    assert found.places[3] == f"{tmp_path / 'Irish.txt'}, line 2"
    assert not found.whole_files


def test_a_directory_of_directories_has_a_sample_in_each_file(tmp_path: Path) -> None:
    for label in ("pos", "neg"):
        (tmp_path / label / "more").mkdir(parents=True)
        (tmp_path / label / "a.txt").write_text(f"{label}\nin two lines")
        (tmp_path / label / "more" / "b.txt").write_text(label)
    found = read_samples([str(tmp_path)], SOURCE)
    assert found.labels == ("neg", "neg", "pos", "pos")
    assert found.inputs[0] == "neg\nin two lines"
    assert found.whole_files


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_table_has_a_sample_in_each_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"said": 'good, "very"', "stars": 5, "id": 1}, {"said": "bad\nreally", "stars": 1}]
    path = tmp_path / f"reviews.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        tab = {"csv": ",", "tsv": "\t"}[suffix]
        path.write_text(
            f'id{tab}said{tab}stars\n1{tab}"good, ""very"""{tab}5\n2{tab}"bad\nreally"{tab}1\n'
        )
    found = read_samples([str(path)], LabelsSource(files=(), text="said", label="stars"))
    assert found.inputs == ('good, "very"', "bad\nreally")
    assert found.labels == ("5", "1")


@pytest.mark.parametrize("form", ["even", "one feature", "ragged"])
def test_arrays_are_series_of_any_lengths(tmp_path: Path, form: str) -> None:
    rows = series([4, 4, 4] if form != "ragged" else [3, 5, 1], 1 if form == "one feature" else 2)
    x = np.concatenate(rows) if form == "ragged" else np.stack(rows)
    more = {"lengths": np.array([len(row) for row in rows])} if form == "ragged" else {}
    np.savez(tmp_path / "x.npz", x=x[:, :, 0] if form == "one feature" else x, y=[1, 0, 1], **more)
    found = read_samples([str(tmp_path / "x.npz")], SOURCE)
    assert found.labels == ("1", "0", "1")
    for mine, expected in zip(found.inputs, rows, strict=True):
        np.testing.assert_array_equal(mine, expected)


TS = """@problemName Taps
@timeStamps false
@missing true
@univariate false
@equalLength false
@classLabel true up down
@data
"""


def test_series_of_the_archives_are_read_with_their_missing_values(tmp_path: Path) -> None:
    pytest.importorskip("aeon")
    (tmp_path / "taps.ts").write_text(TS + "1,2,3:4,5,6:up\n7,?:8,9:down\n")
    found = read_samples([str(tmp_path / "taps.ts")], SOURCE)
    assert found.labels == ("up", "down")
    np.testing.assert_array_equal(found.inputs[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(found.inputs[1], [[7, 8], [np.nan, 9]])
    encoded = encode(found, learn(found, None))
    assert encoded.inputs[1][1, 0] == 0  # the mean
    steps = torch.cat(encoded.inputs)
    torch.testing.assert_close(steps.mean(0), torch.zeros(2), rtol=0, atol=1e-6)


def test_a_tenth_of_each_label_is_held_out() -> None:
    chance = random.Random(0)
    names = ["a"] * 100 + ["b"] * 20 + ["c"] * 5 + ["d"] * 4
    chance.shuffle(names)
    learnt, held_out = split(names)
    assert sorted(learnt + held_out) == list(range(len(names)))
    held = [names[i] for i in held_out]
    assert [held.count(label) for label in "abcd"] == [10, 2, 1, 0]
    assert split(names) == (learnt, held_out)


def test_what_occurs_once_stands_for_what_is_never_seen() -> None:
    samples = Samples(("aab", "bc"), ("x", "y"), ("", ""))
    knowledge = learn(samples, "chars")
    assert knowledge["symbols"] == ["a", "b"]
    assert encode(samples, knowledge).inputs[1].tolist() == [2, 0]
    assert learn(Samples(("ab",), ("x",), ("",)), "chars")["symbols"] == ["a", "b"]


def test_long_texts_are_cut_into_words() -> None:
    long = Samples(("a rose is a rose " * 20,), ("x",), ("",))
    assert learn(long, None)["level"] == "words"
    assert learn(long, "chars")["level"] == "chars"
    assert tokens("Don't SHOUT!", "words") == ["don", "'", "t", "shout", "!"]


# --- what is refused ----------------------------------------------------------------------------


def _text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        return folder / name

    return make


def _folder(**files: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, content in files.items():
            _text(f"texts/{name.replace('__', '/')}.txt", content)(folder)
        return folder / "texts"

    return make


def _arrays(**arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return make


FIVE = "a\nb\nc\nd\ne\n"
MISTAKES = {
    "one label": (_folder(a=FIVE), r"all samples have the one label 'a'"),
    "an empty line": (_folder(a="x\n\ny", b=FIVE), r"a\.txt, line 2: the sequence is empty"),
    "an empty file": (_folder(a="", b=FIVE), r"a\.txt: it is empty"),
    "few": (_folder(a="x\ny", b="z"), r"no label has five samples or more"),
    "files beside": (_folder(a=FIVE, b__c="x"), r"files beside directories, such as a\.txt"),
    "nothing": (lambda folder: folder, r"there is no sample in it"),
    "not there": (lambda folder: folder / "none.csv", r"cannot read .*none\.csv: No such file"),
    "unknown": (_text("x.doc", "hello"), r"cannot tell the labels of .*x\.doc: give a directory"),
    "no column": (_text("x.csv", "a,label\n1,2\n"), r"no column 'text', only 'a', 'label': name"),
    "a gap": (_text("x.csv", "text,label\nhi,a\nho,\n"), r"x\.csv, row 2: column 'label' is empty"),
    "wide": (
        _text("x.csv", "text,label\nhi,a\nho,b,c\n"),
        r"row 2: 3 columns, but the header has 2",
    ),
    "no JSON": (_text("x.jsonl", '{"text": "a", "label": "b"}\n{"te\n'), r"row 2: it is not JSON"),
    "a number": (_text("x.jsonl", '{"text": 5, "label": "b"}\n'), r"row 1: column 'text' must be"),
    "a tab": (_text("x.jsonl", '{"text": "a", "label": "b\\tc"}\n'), r"row 1: a label must be"),
    "no x": (_arrays(z=np.zeros((2, 3)), y=[0, 1]), r"has no x, only z, y: it must hold x"),
    "no y": (_arrays(x=np.zeros((2, 3))), r"x\.npz has no y, only x"),
    "words as x": (_arrays(x=np.array(["a", "b"]), y=[0, 1]), r"x must be numbers, got <U1"),
    "objects": (_arrays(x=np.array([[1], [1, 2]], object), y=[0, 1]), r"cannot read .* lengths"),
    "lengths": (_arrays(x=np.zeros((5, 1)), y=[0, 1], lengths=[2, 2]), r"= \(4, F\), got \(5, 1\)"),
    "labels": (_arrays(x=np.zeros((2, 3)), y=[0, 1, 2]), r"y must be \(N,\) = \(2,\), got \(3,\)"),
    "fractions": (_arrays(x=np.zeros((2, 3)), y=[0.5, 1]), r"y must be words or whole numbers"),
    "no steps": (_arrays(x=np.zeros((3, 1)), y=[0, 1], lengths=[3, 0]), r"series 2: the sequence"),
    "infinite": (_arrays(x=[[0.0], [np.inf]], y=[0, 1]), r"series 2, step 1, feature 1: it is inf"),
    "no archive": (_text("x.npz", "hello"), r"cannot read .*x\.npz"),
    "no series": (_text("x.ts", "hello\n"), r"x\.ts: there is no sample in it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_a_line_and_nothing_is_written(
    tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    make, message = MISTAKES[mistake]
    data = make(tmp_path / "data")
    out = tmp_path / "run"
    with pytest.raises(InputError, match=message) as found:
        labels.train([data], out=out, **SMALL)
    assert "\n" not in str(found.value)
    assert not out.exists()
    assert main(["train", "labels", str(data), "--out", str(out), "--epochs", "1"]) == 2
    assert str(found.value) in capsys.readouterr().err


def test_samples_of_two_kinds_and_of_other_features_are_refused(tmp_path: Path) -> None:
    words = words_of_two_tongues(tmp_path, 0)
    for features in (1, 2):
        np.savez(tmp_path / f"{features}.npz", x=np.zeros((9, 4, features)), y=[0] * 5 + [1] * 4)
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    with pytest.raises(InputError, match=r"1\.npz has samples of another kind than .*tongues0"):
        labels.train([words, one], out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match=r"2\.npz, series 1: it has 2 features, but .* has 1"):
        labels.train([one, two], out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match=r"2\.npz, series 1: it has 2 features, but the model"):
        labels.train([one], valid=str(two), out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match=r"1\.npz, series 1: the model was trained on texts"):
        labels.train([words], valid=str(one), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_label_that_is_not_learnt_is_named_with_its_row(tmp_path: Path) -> None:
    words = words_of_two_tongues(tmp_path, 0)
    (tmp_path / "new.csv").write_text("text,label\nbe,high\nbo,middle\n")
    message = r"new\.csv, row 2: the label 'middle' is not among .* or use high, low"
    with pytest.raises(InputError, match=message):
        labels.train([words], valid=str(tmp_path / "new.csv"), out=tmp_path / "run", **SMALL)
    labels.train([words], out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match=message):
        labels.evaluate(tmp_path / "run", [tmp_path / "new.csv"])


# --- the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["chars", "series"])
@pytest.mark.parametrize("window", [1, 3])
def test_a_sequence_has_the_same_label_alone_and_in_any_batch(level: str, window: int) -> None:
    torch.manual_seed(0)
    lengths = [1, 7, 3, 6, 2]
    rows: Any = series(lengths) if level == "series" else ["abcabca"[:n] for n in lengths]
    samples = Samples(tuple(rows), tuple("xyxyx"), ("",) * 5)
    knowledge = learn(samples, None)
    assert knowledge["level"] == level
    settings = LabelsSettings(hidden=4, batch=5, lr=0.1, dropout=0.5, epochs=1, window=window)
    model = LabelsModel(settings, knowledge).eval()
    (batch,) = Batches.of(encode(samples, knowledge), torch.ones(2), settings, 0, Processes())
    together = model(batch.input, batch.lengths)
    for column, length in enumerate(batch.lengths.tolist()):
        alone = model(batch.input[:length, column : column + 1], batch.lengths[[column]])
        torch.testing.assert_close(alone[0], together[column])


def test_the_summary_sees_no_padding() -> None:
    output = torch.tensor([[1.0, -3.0], [2.0, -1.0], [99.0, 99.0]])[:, None] / 100
    found = summary(output, torch.tensor([2]))[0] * 100
    torch.testing.assert_close(found, torch.tensor([2.0, -3.0, 1.5, -2.0, 2.0, -1.0]))


def test_noise_is_a_function_of_seed_epoch_and_sample() -> None:
    samples = Samples(tuple(series([4, 4, 4])), tuple("xyx"), ("",) * 3)
    knowledge = learn(samples, None)
    settings = LabelsSettings(hidden=4, batch=3, lr=0.1, dropout=0.5, epochs=1, noise=0.1)
    encoded = encode(samples, knowledge)

    def batch(epoch: int, processes: Processes) -> Any:
        return Batches.of(encoded, torch.ones(2), settings, epoch, processes)[0]

    whole, part = batch(0, Processes()), batch(0, Processes(1, 2))
    torch.testing.assert_close(whole.input[:, 1:2], part.input, rtol=0, atol=0)
    clean, noisy = (Batches(encoded, [[0, 1, 2]], torch.ones(2), n, (0, 0))[0] for n in (0, 0.1))
    assert 0.05 < (noisy.input - clean.input).std() < 0.2
    assert not torch.equal(whole.input.sum(1), batch(1, Processes()).input.sum(1))


def test_class_weights_make_each_label_count_as_much(tmp_path: Path) -> None:
    (tmp_path / "rare.txt").write_text("a\n" * 5)
    (tmp_path / "common.txt").write_text("b\n" * 45)
    data = JOB.read(LabelsSource(files=(str(tmp_path),)))
    sums = []
    for even in (False, True):
        settings = LabelsSettings(**SMALL, lr=0.1, class_weights=even)
        found = [0.0, 0.0]
        for batch in JOB.batches(data, settings, 0, Processes()):
            for label, weight in zip(batch.labels.tolist(), batch.weights.tolist(), strict=True):
                found[label] += weight
        sums.append(found)
    assert sums[0] == [41, 4]
    assert sums[1] == pytest.approx([22.5, 22.5], rel=1e-5)


def test_few_samples_do_not_choose_the_weights() -> None:
    assert JOB.score({"loss": 2.0, "samples": 99}) == JOB.score({"loss": 1.0, "samples": 99})
    assert JOB.score({"loss": 2.0, "samples": 100}) > JOB.score({"loss": 1.0, "samples": 100})


# --- what it is worth, and what it says ---------------------------------------------------------


def test_the_measures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    chance = np.random.default_rng(0)
    true, given = chance.integers(0, 5, 200), chance.integers(0, 6, 200)
    counts = confusion(true, given, 7)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(true, given, labels=range(7)))
    found = measure(counts)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, given))
    expected = metrics.f1_score(true, given, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)
    each = metrics.precision_recall_fscore_support(true, given, labels=range(7), zero_division=0)
    np.testing.assert_allclose(per_label(counts), np.transpose(each))


def test_the_nearest_neighbour_is_a_baseline_of_series() -> None:
    pytest.importorskip("aeon")
    t = np.linspace(0, 3, 12, dtype=np.float32)
    rows = [np.sin(t * k + shift)[:, None] for k in (1, 3) for shift in (0.0, 0.1, 0.2)]
    samples = Samples(tuple(rows), tuple("aaabbb"), ("",) * 6)
    learnt, held_out = samples.take([0, 2, 3, 5]), samples.take([1, 4])
    found = baselines(held_out, learnt, learn(learnt, None))
    assert found["1-NN with DTW"]["accuracy"] == 1.0
    assert found["commonest label"]["accuracy"] == 0.5
    assert list(baselines(held_out, None, learn(learnt, None))) == ["commonest label"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    data = words_of_two_tongues(folder, 0)
    labels.train([data], out=folder / "run", epochs=12, hidden=12, batch=9, lr=0.02, dropout=0.0)
    return folder / "run"


def test_the_likeliest_labels_come_with_their_probabilities(run: Path, tmp_path: Path) -> None:
    assert [line.split("\t")[0] for line in labels.predict(run, "bedi")] == ["high"]
    (tmp_path / "new.txt").write_text("bedi\ndoka\n")
    (tmp_path / "new.csv").write_text("n,text\n1,bedi\n2,doka\n")
    found = list(labels.predict(run, tmp_path / "new.txt", top=5))
    assert found == list(labels.predict(run, tmp_path / "new.csv", top=2))
    for line, best in zip(found, ("high", "low"), strict=True):
        first, p, second, q = line.split("\t")
        assert first == best != second
        assert float(p) + float(q) == pytest.approx(1, abs=2e-4)
        assert float(p) > float(q)


def test_standard_input_is_labelled_line_by_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    import io
    import sys

    stdin = io.TextIOWrapper(io.BytesIO(b"bedi\ndoka\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["predict", str(run), "-", "--top", "2"]) == 0
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert [line.split("\t")[::2] for line in lines] == [["high", "low"], ["low", "high"]]


def test_what_cannot_be_labelled_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "gap.txt").write_text("bedi\n\ndoka\n")
    (tmp_path / "none.txt").write_text("\n")
    for given, message in (
        (tmp_path / "gap.txt", r"gap\.txt, line 2: the sequence is empty"),
        (tmp_path / "none.txt", "there is nothing to label"),
        ("", "the text: the sequence is empty"),
    ):
        with pytest.raises(InputError, match=message):
            list(labels.predict(run, given))
    with pytest.raises(InputError, match="say what to label"):
        list(trained.predict(run, None))
    with pytest.raises(InputError, match="top must be at least 1"):
        list(labels.predict(run, "bedi", top=0))


def test_a_model_of_series_takes_series(tmp_path: Path) -> None:
    rows = np.stack(series([6] * 20))
    rows[:10] += 2
    np.savez(tmp_path / "x.npz", x=rows, y=["up"] * 10 + ["down"] * 10)
    result = labels.train([tmp_path / "x.npz"], out=tmp_path / "run", **SMALL | {"epochs": 15})
    assert result.metrics["accuracy"] == 1.0
    np.savez(tmp_path / "new.npz", x=rows[[0, 19]])
    found = [line.split("\t")[0] for line in labels.predict(tmp_path / "run", tmp_path / "new.npz")]
    assert found == ["up", "down"]
    with pytest.raises(InputError, match=r"give a file \.npz or \.ts, got 'hello'"):
        list(labels.predict(tmp_path / "run", "hello"))


def test_the_settings_suit_the_samples() -> None:
    text = {"level": "chars"}
    few = choose([8] * 100, text, math.inf, {})
    many = choose([8] * 50_000, text, math.inf, {"epochs": 10})
    assert (few.batch, few.dropout) == (6, 0.5)
    assert few.epochs is not None
    assert few.max_time == 180
    assert many.batch == 64
    assert few.hidden < many.hidden
    assert choose([400] * 50, {"level": "series"}, math.inf, {}).window == 10
    assert choose([20] * 50, {"level": "series"}, math.inf, {"window": 7}).window == 7
