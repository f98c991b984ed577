"""Pairs: reading, batches, model, search, measures, and the promises that hold for every job."""

import io
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import elman
from elman import cli
from elman.runtime.jobs import pairs as of_runtime
from elman.runtime.jobs.pairs import BOUNDARY, UNKNOWN, Alphabet
from elman.tasks import InputError, pairs, trained, training
from elman.tasks.job import Data, Trained
from elman.tasks.pairs.batches import Batch
from elman.tasks.pairs.data import Knowledge, Pair, guess_level, read_pairs, split
from elman.tasks.pairs.drawings import Attention
from elman.tasks.pairs.job import JOB
from elman.tasks.pairs.measures import copied, measure, nearest
from elman.tasks.pairs.model import PairsModel
from elman.tasks.pairs.settings import PairsSettings, PairsSource, recognises
from elman.tasks.processes import Processes

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SMALL: dict[str, Any] = {
    "hidden": 16,
    "layers": 2,
    "embed": 8,
    "batch": 8,
    "epochs": 2,
    "lr": 0.01,
    "dropout": 0.2,
    "seed": 5,
}


def numbers(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Numbers of one to five digits, and how they are read out."""
    chance = random.Random(seed)
    made = {"".join(chance.choices("0123456789", k=chance.randint(1, 5))) for _ in range(count)}
    return [(digits, " ".join(NAMES[int(d)] for d in digits)) for digits in sorted(made)]


def write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: models so small are no work for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "numbers.tsv", numbers(70))


def train(file: Path, out: Path, **changes: Any) -> Any:
    return pairs.train([file], out=out, **SMALL | changes)


def read(file: Path, **how: Any) -> Data:
    return JOB.read(PairsSource(files=(str(file),), **how))


def settings(**changes: Any) -> PairsSettings:
    return PairsSettings(**SMALL | changes)


def a_model(seed: int = 0, **changes: Any) -> PairsModel:
    """A model of 6 source and 5 target symbols, its weights drawn large enough to disagree."""
    torch.manual_seed(seed)
    model = PairsModel(8, 7, settings(dropout=0.0, **changes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"one\t1\ntwo 2\n",
            "{file}, row 2: a pair needs a tab between source and target, got 'two 2': put one in,"
            " or take the row out",
        ),
        (
            b"\n\t1\n",
            "{file}, row 2: the source is empty: fill it in, or take the row out",
        ),
        (
            b"one\t1\ntwo\t \n",
            "{file}, row 2: the target is empty: fill it in, or take the row out",
        ),
        (
            b"one\t1\nt\two\t2\n",
            "{file}, row 2: expected 2 columns as in the rows before, got 3: look for a tab too"
            " many or too few in 't'",
        ),
        (b"one\t1\n\ntw\xff\t2\n", "{file}, row 3 is not UTF-8: save the file as UTF-8"),
        (b"\n \n", "cannot learn from {file}: there is no pair in it"),
        (
            b"one\t1\none\tI\n",
            "there are only 1 different sources: give 10 at the very least, and thousands to learn"
            " something",
        ),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_row(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        train(file, tmp_path / "run")
    assert str(error.value) == message.format(file=file)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*gone.tsv: No such file"):
        train(tmp_path / "gone.tsv", tmp_path / "run")


def test_marks_of_other_systems_and_quotes_are_no_symbols(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes('\ufeff"a\tb"\r\n\r\n c \td e\r\n'.encode())
    assert read_pairs([str(file)])[0] == [('"a', 'b"'), ("c", "d e")]


def test_further_columns_are_left_alone_and_said(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.tsv", [(*pair, "by me") for pair in numbers(70)])
    data = read(file)
    assert data.notes[1] == "of 3 columns the first two are read"
    assert data.digest != read(write(tmp_path / "two.tsv", numbers(70))).digest
    assert data.training == read(tmp_path / "two.tsv").training


def test_levels_are_guessed_for_each_side_and_can_be_given(file: Path) -> None:
    def levels(**how: Any) -> list[str]:
        known = read(file, **how).knowledge
        return [known[side]["level"] for side in ("source", "target")]

    assert levels() == ["chars", "words"]
    assert levels(level="chars") == ["chars", "chars"]
    assert levels(level="words") == ["words", "words"]
    assert levels(level="words", target_level="chars") == ["words", "chars"]
    assert guess_level(["a b c"]) == "words"
    assert guess_level(["a b c", "a b"]) == "chars"


def test_all_targets_of_a_source_are_on_one_side_whatever_the_order() -> None:
    rows = [Pair(f"s{i % 50}", f"t{i}") for i in range(200)]
    training, held_out = split(rows)
    assert {s for s, _ in training} & {s for s, _ in held_out} == set()
    assert (len(held_out), len(training)) == (20, 180)
    random.Random(1).shuffle(rows)
    assert set(split(rows)[1]) == set(held_out)


def test_a_file_of_its_own_is_held_out_and_nothing_else(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.tsv", [("12", "one two"), ("12", "twelve"), ("x", "one")])
    data = read(file, valid=str(other))
    assert data.held_out == {"12": ("one two", "twelve"), "x": ("one",)}
    assert len(data.training) == data.about["pairs"]
    assert "twelve" not in data.knowledge["target"]["symbols"]
    assert data.digest != read(file).digest
    result = train(file, tmp_path / "run", valid=str(other))
    assert result.metrics.keys() == {"loss", "exact_match", "symbol_error_rate", "chrf"}
    other.write_text("13\tone three\n")
    with pytest.raises(InputError, match="was trained on other data"):
        training.resume(tmp_path / "run")


# --- batches ------------------------------------------------------------------------------------


def test_each_epoch_reads_each_pair_once_beside_pairs_of_its_length(file: Path) -> None:
    data = read(file)
    epochs = []
    for epoch in (0, 1):
        rows, spread = [], []
        for batch in JOB.batches(data, settings(), epoch, Processes()):
            source, lengths, so_far, following = batch
            assert len(source) == lengths.max()
            spread.append(int(lengths.max() - lengths.min()))
            for n, length in enumerate(lengths.tolist()):
                target = following[:, n][following[:, n] != UNKNOWN].tolist()
                assert target[-1] == BOUNDARY
                assert so_far[: len(target), n].tolist() == [BOUNDARY, *target[:-1]]
                rows.append((source[:length, n].tolist(), target[:-1]))
        assert sorted(rows) == sorted(data.training)
        assert sum(spread) / len(spread) < 1
        epochs.append(rows)
    assert epochs[0] != epochs[1]


def test_processes_share_each_batch(file: Path) -> None:
    data = read(file)
    whole = JOB.batches(data, settings(), 3, Processes())
    parts = [JOB.batches(data, settings(), 3, Processes(rank, 3)) for rank in range(3)]
    assert {len(part) for part in parts} == {len(whole)}
    for i in range(len(whole)):
        lengths = torch.cat([part[i].lengths for part in parts])
        assert sorted(lengths.tolist()) == sorted(whole[i].lengths.tolist())


def test_a_batch_without_pairs_has_no_loss_and_no_gradient() -> None:
    model = a_model().train()
    total, units, _ = JOB.loss(model, Batch.of([]), None)
    assert (total.item(), units) == (0.0, 0)
    total.backward()
    assert all(w.grad is not None and not w.grad.any() for w in model.parameters())


def test_of_words_some_are_read_as_unknown_the_same_ones_each_time(tmp_path: Path) -> None:
    rows = [(f"{a} {b} {c}", f"{c}{b}{a}") for a, b, c in itertools.product("abcde", repeat=3)]
    data = read(write(tmp_path / "words.tsv", rows))
    one, again, other = (
        list(JOB.batches(data, settings(), epoch, Processes())) for epoch in (0, 0, 1)
    )
    unread = [sum(int((b.source == UNKNOWN).sum()) for b in batches) for batches in (one, other)]
    assert all(0 < count < 20 for count in unread)  # of 339
    assert all(torch.equal(a.source, b.source) for a, b in zip(one, again, strict=True))
    assert not any(
        (b.source == UNKNOWN).any()
        for b in JOB.batches(
            read(tmp_path / "words.tsv", level="chars"), settings(), 0, Processes()
        )
    )


# --- the model ----------------------------------------------------------------------------------

PAIRS = [([2, 3, 4, 5], [2, 6, 3]), ([7], [4]), ([6, 2], [5, 5, 5, 2, 3])]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_pair_alone_is_a_pair_in_a_batch(cell: str) -> None:
    model = a_model(cell=cell)
    batch = Batch.of(PAIRS)
    logits = model(batch.source, batch.lengths, batch.so_far)
    for n, pair in enumerate(PAIRS):
        alone = Batch.of([pair])
        expected = model(alone.source, alone.lengths, alone.so_far)[0]
        torch.testing.assert_close(logits[n, : len(expected)], expected)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_target_read_in_one_call_is_the_target_read_step_by_step(cell: str) -> None:
    model = a_model(cell=cell)
    batch = Batch.of(PAIRS)
    calls: list[int] = []
    layers = (model.lower, model.upper)
    hooks = [
        layer.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
        for layer in layers
    ]
    whole = model(batch.source, batch.lengths, batch.so_far)
    assert calls == [len(batch.so_far)] * 2
    for hook in hooks:
        hook.remove()
    memory, state = model.encode(batch.source, batch.lengths)
    for t, ids in enumerate(batch.so_far):
        logits, _, state = model.decode(ids[None], memory, state)
        torch.testing.assert_close(logits[0], whole[:, t])


def test_attention_goes_to_the_symbols_of_the_source_alone() -> None:
    model = a_model()
    batch = Batch.of(PAIRS)
    memory, state = model.encode(batch.source, batch.lengths)
    _, weights, _ = model.decode(batch.so_far, memory, state)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 3))
    assert weights[:, 1, 1:].abs().max() == 0
    assert (weights[:, 0] > 0).all()


def test_every_weight_learns() -> None:
    model = a_model().train()
    JOB.loss(model, Batch.of(PAIRS), None).total.backward()
    assert all(w.grad is not None and w.grad.any() for w in model.parameters())


def test_a_target_symbol_that_is_not_known_is_not_learnt() -> None:
    model = a_model().train()
    known = JOB.loss(model, Batch.of([([2, 3], [4])]), None)
    with_unknown = JOB.loss(model, Batch.of([([2, 3], [4, UNKNOWN])]), None)
    assert (known.units, with_unknown.units) == (2, 2)
    longer = JOB.loss(model, Batch.of([([2, 3], [4]), ([2], [3, 3, 3, 3])]), None)
    alone = JOB.loss(model, Batch.of([([2], [3, 3, 3, 3])]), None)
    torch.testing.assert_close(longer.total, known.total + alone.total)


def test_the_attention_of_examples_is_drawn_beside_their_symbols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Attention] = []
    monkeypatch.setattr(
        "elman.tasks.pairs.job.draw_attention", lambda seen, path: drawn.extend(seen)
    )
    known = Knowledge(
        Alphabet("chars", tuple("abcdef")), Alphabet("words", tuple("uvxyz")), 1.0, ()
    )
    trained = Trained(JOB, a_model(), PairsSource(files=()), settings(), known.as_json())
    JOB.draw(trained, {"abc": ("x",), "fedcba": ("y",)}, tmp_path)
    assert [seen.source for seen in drawn] == [list("abc"), list("fedcba")]
    for seen in drawn:
        weights = torch.tensor(seen.weights)
        assert weights.shape == (len(seen.answer) + 1, len(seen.source))
        torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        ("cat\tK AE1 T\ntea\tT IY1\n", True),
        ("a\tb\r\nc\td", True),
        ("time\tvalue\n2020\t1.5\n2021\t2\n", False),
        ("the\tDET\ncat\tNOUN\n\na\tDET\n", False),
        ("a\tb\tc\n", False),
        ("just a text\n", False),
        ("", False),
    ],
)
def test_pairs_are_recognised(tmp_path: Path, content: str, is_one: bool) -> None:
    file = tmp_path / "some.tsv"
    file.write_text(content, newline="")
    assert (recognises(file) is not None) is is_one
    assert recognises(tmp_path) is None


# --- the search ---------------------------------------------------------------------------------


def score_of(model: PairsModel, source: list[int], target: list[int], ended: bool = True) -> float:
    """The mean log probability of a target, read in one go."""
    batch = Batch.of([(source, target)])
    logits = model(batch.source, batch.lengths, batch.so_far)[0]
    logits[:, UNKNOWN] = -math.inf
    logits[0, BOUNDARY] = -math.inf
    gains = logits.log_softmax(-1)
    wanted = [*target, BOUNDARY] if ended else target
    return sum(gains[t, symbol].item() for t, symbol in enumerate(wanted)) / len(wanted)


def answer(model: PairsModel, sources: list[list[int]], longest: float, beam: int) -> Any:
    """What the runtime finds with the same weights."""
    cells = {elman.LSTM: "lstm", elman.GRU: "gru", elman.RNN: "rnn"}
    known = Knowledge(
        Alphabet("words", tuple("abcdef")), Alphabet("words", tuple("uvxyz")), longest, ()
    )
    how = settings(cell=cells[type(model.lower)])
    trained = Trained(JOB, model, PairsSource(files=()), how, known.as_json())
    return trained.shipped.answer(sources, beam)


SOURCES = [[2, 3, 4], [5], [7, 6, 5, 4, 3, 2], [3, 3]]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_beam_of_one_takes_the_likeliest_symbol_each_time(cell: str) -> None:
    model = a_model(seed=3, cell=cell)
    for source, (best,) in zip(SOURCES, answer(model, SOURCES, 1.0, 1), strict=True):
        symbols: list[int] = []
        while len(symbols) < len(source) + 10:
            batch = Batch.of([(source, symbols)])
            logits = model(batch.source, batch.lengths, batch.so_far)[0, -1]
            logits[UNKNOWN] = -math.inf
            if not symbols:
                logits[BOUNDARY] = -math.inf
            if (likeliest := int(logits.argmax())) == BOUNDARY:
                break
            symbols.append(likeliest)
        assert best.symbols == symbols


def test_a_beam_that_holds_all_finds_the_best_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_runtime, "_SPARE", 2)
    model = a_model(seed=1)
    for source in SOURCES:
        found = answer(model, [source], 0.01, 400)[0]
        expected = {}
        for length in (1, 2, 3):
            for symbols in itertools.product(range(2, 7), repeat=length):
                ended = length < 3  # the third symbol is the last, whatever it is
                expected[symbols] = score_of(model, source, list(symbols), ended)
        assert len(found) == len(expected) == 155
        for one in found:
            assert one.score == pytest.approx(expected[tuple(one.symbols)], abs=1e-4)
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)


def test_many_sources_are_answered_as_each_alone() -> None:
    model = a_model(seed=2)
    together = answer(model, SOURCES, 1.0, 4)
    for source, found in zip(SOURCES, together, strict=True):
        alone = answer(model, [source], 1.0, 4)[0]
        assert [a.symbols for a in found] == [a.symbols for a in alone]
        assert len({tuple(a.symbols) for a in found}) == 4
        for one in found:
            ended = len(one.symbols) < len(source) + 10
            expected = score_of(model, source, one.symbols, ended)
            assert one.score == pytest.approx(expected, abs=1e-4)


def test_an_answer_without_end_is_cut() -> None:
    model = a_model()
    with torch.no_grad():
        model.output.bias[BOUNDARY] = -1e9
    found = answer(model, SOURCES, 2.0, 2)
    assert [len(best[0].symbols) for best in found] == [2 * len(s) + 10 for s in SOURCES]


# --- measures -----------------------------------------------------------------------------------


def test_measures_count_symbols_and_any_target_is_right() -> None:
    references = {"a": ("x y z",), "b": ("x", "y y"), "c": ("z z",)}
    found = measure(["x z", "y y", "z z z"], references, Alphabet("words", ()))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["symbol_error_rate"] == pytest.approx(2 / 7)  # of 3 + 2 + 2 symbols
    assert 0 < found["chrf"] < 100
    found = measure(["x z"], {"a": ("x y z",)}, Alphabet("chars", ()))
    assert found == {"exact_match": 0.0, "symbol_error_rate": pytest.approx(2 / 5)}


def test_the_baselines_are_what_they_say() -> None:
    examples = [Pair("walk", "walked"), Pair("sing", "sang"), Pair("be", "was")]
    chars, words = Alphabet("chars", ()), Alphabet("words", ())
    assert copied(["walks", "ring  ring"], chars) == ["walks", "ring  ring"]
    assert copied(["walks", "ring  ring"], words) == ["walks", "ring ring"]
    assert nearest(["walks", "ring"], examples, chars) == ["walked", "sang"]
    assert nearest(["ring a b"], [Pair("a b", "x"), Pair("ring", "y")], words) == ["x"]


# --- a whole training ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt to read numbers out."""
    folder = tmp_path_factory.mktemp("numbers")
    file = write(folder / "numbers.tsv", numbers(400))
    sizes = {"hidden": 32, "embed": 16, "batch": 8}
    pairs.train([file], out=folder / "run", epochs=16, lr=0.01, dropout=0.0, **sizes)
    return folder / "run"


def test_what_has_a_rule_is_learnt_and_the_baselines_are_beaten(learnt: Path) -> None:
    result = json.loads((learnt / "result.json").read_text())
    assert result["metrics"]["exact_match"] > 0.9
    assert result["metrics"]["symbol_error_rate"] < 0.05
    copy, near = result["baselines"].values()
    assert copy["exact_match"] == 0
    assert 0 <= near["exact_match"] < 0.3
    assert 0.1 < near["symbol_error_rate"] < 1
    assert (learnt / "attention.png").stat().st_size > 1000


def test_predictions_are_one_line_for_each_row(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    assert list(pairs.predict(learnt, "31")) == ["three one"]
    (best,) = pairs.predict(learnt, "31", n_best=3)
    assert best.split("\t")[0] == "three one"
    assert len(set(best.split("\t"))) == 3
    file = write(tmp_path / "given.tsv", [("4",), ("56789", "what is after a tab is left alone")])
    expected = ["four", "five six seven eight nine"]
    assert list(pairs.predict(learnt, str(file), beam=1)) == expected
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"4\n56789\n")))
    assert list(pairs.predict(learnt, "-")) == expected
    capfdbinary.readouterr()
    assert cli.main(["predict", str(learnt), str(file), "--n-best", "2"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert [len(line.split("\t")) for line in lines] == [2, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "1x2y",
            "the text, row 1: the model has never seen 'x', 'y': give sources made of the"
            " characters it was trained on",
        ),
        ("1\n\n2", "the text, row 2 is empty: there has to be a source in each"),
        ("", "the text is empty: there is nothing to answer"),
    ],
)
def test_what_cannot_be_answered_is_told_before_the_first_answer(
    learnt: Path, given: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        next(pairs.predict(learnt, given))
    assert str(error.value) == message


def test_options_out_of_range_are_told(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(learnt), "1", "--n-best", "5", "--beam", "2"]) == 2
    assert "n_best must be at most beam = 2, got 5" in capsys.readouterr().err
    with pytest.raises(InputError, match="hidden must be even, got 15"):
        settings(hidden=15)


def test_a_model_is_judged_on_other_pairs(learnt: Path, tmp_path: Path) -> None:
    rows = [("1234", "one two three four"), ("1234", "a lot"), ("99", "ninety nine")]
    found = pairs.evaluate(learnt, [write(tmp_path / "other.tsv", rows)])
    assert found.metrics["exact_match"] == 0.5
    assert found.metrics["symbol_error_rate"] == pytest.approx(1 / 6)
    assert list(found.baselines) == ["copy of the source", "nearest source's target"]
    assert found.details[0].rows == (("99", "nine nine", "ninety nine"),)
    assert "50.0% of the answers to 2 sources are right" in found.lines[0]


def test_a_baseline_that_wins_is_said(tmp_path: Path) -> None:
    rows = [(f"{a}{b}", f"{a}{b}") for a, b in itertools.product("abcdefgh", repeat=2)]
    result = train(write(tmp_path / "same.tsv", rows), tmp_path / "run", epochs=1, lr=1e-6)
    assert any(
        line.startswith("The copy of the source does better: 100.0%") for line in result.lines
    )


def test_a_model_is_trained_further_on_the_symbols_it_knows(learnt: Path, tmp_path: Path) -> None:
    rows = [(s, f"{t} !") for s, t in numbers(60, seed=1)] + [("77", "seven seven")]
    file = write(tmp_path / "more.tsv", rows)
    given = {"init_from": learnt, "batch": 8, "lr": 1e-6, "dropout": 0.0, "epochs": 1}
    result = pairs.train([file], out=tmp_path / "run", **given)
    run = trained.load(tmp_path / "run")
    assert run.knowledge == trained.load(learnt).knowledge
    assert result.metrics["loss"] < 0.5  # what it knew
    with pytest.raises(InputError, match="each of the targets has symbols that the model has"):
        pairs.train(
            [write(tmp_path / "new.tsv", rows[:-1])], out=tmp_path / "other", init_from=learnt
        )


def test_a_training_from_another_is_resumed_with_what_that_one_knew(
    learnt: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "few.tsv", [(s, t) for s, t in numbers(60, seed=1) if "9" not in s])
    given = {"init_from": learnt, "batch": 8, "lr": 0.01, "dropout": 0.0, "epochs": 2}
    pairs.train([file], out=tmp_path / "whole", **given)
    stops = iter([False] * 3 + [True])
    pairs.train([file], out=tmp_path / "run", stop=lambda: next(stops), **given)
    assert training.resume(tmp_path / "run").finished
    expected = trained.load(tmp_path / "whole").model.state_dict()
    for name, weight in trained.load(tmp_path / "run").model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


# --- the promises of every job ------------------------------------------------------------------


def test_sizes_grow_with_the_data_and_the_time(tmp_path: Path) -> None:
    small, large = (read(write(tmp_path / f"{count}.tsv", numbers(count))) for count in (70, 9000))
    chosen = [JOB.choose(data, 1e11, {"max_time": 600.0}) for data in (small, large)]
    assert chosen[0].hidden < chosen[1].hidden
    assert chosen[0].batch < chosen[1].batch
    assert JOB.choose(large, 1e9, {"max_time": 10.0}).hidden < chosen[1].hidden
    assert JOB.choose(large, 1e11, {"hidden": 30, "dropout": 0.4, "epochs": 1}).hidden == 30
