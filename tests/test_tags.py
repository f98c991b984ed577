"""A tag for each token: what is read, kept and refused, how entities are scored."""

import io
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import tagged_sentences

from elman.cli import main
from elman.runtime.jobs.tags import likeliest
from elman.tasks import InputError, tags
from elman.tasks.tags.batches import Encoder, learn
from elman.tasks.tags.data import Document, Sentence, split
from elman.tasks.tags.measures import lookup, measure
from elman.tasks.tags.model import TagsModel
from elman.tasks.tags.settings import TagsSettings

SMALL: dict[str, Any] = {"hidden": 6, "embed": 5, "characters": 4, "batch": 4, "epochs": 1}

CONLLU = """# sent_id = 1
# text = Don't go .
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tV\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\tA=|B
2.1\tever\tever\tADV\tRB\t_\t_\t_\t3:advmod\t_
3\tgo\tgo\tVERB\tV\t_\t0\troot\t_\t_
4\t.\t.\tPUNCT\tFS\t_\t3\tpunct\t_\t_

# sent_id = 2
1\t#\t#\tSYM\tX\t_\t0\troot\t_\t_

"""


def sentence(words: str, named: str) -> Sentence:
    return Sentence(tuple(words.split()), tuple(named.split()), tuple(range(len(words.split()))))


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return folder / name


# --- what is read -------------------------------------------------------------------------------


def test_conllu_is_read_without_multiword_tokens_and_empty_nodes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conllu", CONLLU)
    first, second = Document.read(str(path)).sentences
    assert first == Sentence(
        ("Do", "n't", "go", "."), ("AUX", "PART", "VERB", "PUNCT"), (3, 4, 6, 7)
    )
    assert (second.words, second.tags) == (("#",), ("SYM",))
    assert Document.read(str(path), "XPOS").sentences[0].tags == ("V", "RB", "V", "FS")


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ("the DET\ncat NOUN\n\n\nit PRON", None, [("DET", "NOUN"), ("PRON",)]),
        ("the\tD T\tDET\ncat\tNN\tNOUN\n", None, [("DET", "NOUN")]),
        ("the DT DET\ncat NN NOUN\n", "2", [("DT", "NN")]),
        ("word\tpos\tner\nthe\tDT\tO\ncat\tNN\tO\n", "POS", [("DT", "NN")]),
        ("-DOCSTART- -X- O\n\n# a note\nthe DT O\n# NN O\n", "1", [("the", "#")]),
    ],
)
def test_columns_are_found(
    tmp_path: Path, content: str, column: str | None, expected: list[tuple[str, ...]]
) -> None:
    path = written(tmp_path, "a.conll", content)
    assert [s.tags for s in Document.read(str(path), column).sentences] == expected


def test_the_last_column_is_that_of_the_tags_where_many_lines_differ(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "7 NUM O\ncat noun sg O\n" * 10)
    document = Document.read(str(path))
    assert document.layout.width is None
    assert set(document.sentences[0].tags) == {"O"}


def test_a_file_is_written_again_with_nothing_but_its_tags_changed(tmp_path: Path) -> None:
    for name, content in {
        "a.conllu": CONLLU.replace("\n", "\r\n"),
        "a.conll": "# note\nthe  x DET\ncat\ty NOUN \n\n\nit z PRON",
        "a.tsv": "word\tpos\n\nthe\tDET\n",
    }.items():
        path = written(tmp_path, name, content)
        column = "pos" if name == "a.tsv" else None
        document = Document.read(str(path), column)
        same = document.tagged([s.tags for s in document.sentences])
        assert "\n".join(same) == content.removesuffix("\n")
        other = document.tagged([["?"] * len(s.words) for s in document.sentences])
        changed = [(a, b) for a, b in zip(same, other, strict=True) if a != b]
        assert len(changed) == sum(len(s.words) for s in document.sentences)
        for before, after in changed:
            assert after in {
                before.replace(tag, "?", 1) for s in document.sentences for tag in s.tags
            }


def test_a_tenth_of_the_sentences_is_held_out_and_all_tags_are_learnt() -> None:
    said = [sentence("a b", "X Y")] * 50 + [sentence("c", f"Z{i}") for i in range(5)]
    learnt, held_out = split(said)
    assert len(learnt) + len(held_out) == 55
    assert {tag for s in learnt for tag in s.tags} == {tag for s in said for tag in s.tags}
    assert 1 <= len(held_out) <= 6


# --- what is refused ----------------------------------------------------------------------------

PAIRS = "a X\nb Y\n\n" * 10
MISTAKES = {
    "empty": ("a.conll", "", None, r"a\.conll: it is empty"),
    "blank": ("a.conll", "\n\n", None, r"there is no token in it"),
    "one column": ("a.conll", "a\nb\n", None, r"has only one column: give words and tags"),
    "no such column": ("a.tsv", "word\tpos\na\tb\n", "ner", r"no column 'ner': use"),
    "no such number": ("a.conll", PAIRS, "3", r"has no column '3': use --column 1, 2"),
    "a short line": ("a.conll", PAIRS * 6 + "c\n", None, r"line 181: it has 1 column, the others"),
    "a long line": ("a.conll", PAIRS * 6 + "c d Z\n", None, r"line 181: it has 3 columns, the"),
    "other columns": ("a.conll", "a X 1\nb Y\n", "2", r"line 2: it has 2 columns, the"),
    "not CoNLL-U": ("a.conllu", "a\tX\n", None, r"line 1: it has 2 columns, the others have 10"),
    "no number": ("a.conllu", CONLLU + "x" + "\t_" * 9, None, r"line 13: the first column must"),
    "no word": ("a.conllu", CONLLU + "1\t" + "\t_" * 8, None, r"line 13: the word is empty"),
    "no tag": ("a.tsv", "a\tX\nb\t\n", None, r"line 2: the tag is empty: fill it in"),
    "one tag": ("a.conll", "a X\n\n" * 10, None, r"all tokens have the one tag 'X': is it"),
    "one sentence": ("a.conll", "a X\nb Y\n", None, r"1 sentences are too few"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_a_line_and_nothing_is_written(
    tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, column, message = MISTAKES[mistake]
    path, out = written(tmp_path, name, content), tmp_path / "run"
    with pytest.raises(InputError, match=message) as found:
        tags.train([path], out=out, column=column, **SMALL)
    assert "\n" not in str(found.value)
    flags = ["--column", column] if column else []
    command = ["train", "tags", str(path), "--out", str(out), "--epochs", "1", *flags]
    assert main(command) == 2
    assert str(found.value) in capsys.readouterr().err
    assert not out.exists()


def test_a_tag_that_is_not_learnt_is_named_with_its_line(tmp_path: Path) -> None:
    path = tagged_sentences(tmp_path, 0)
    new = written(tmp_path, "new.conll", "the DET\n\nwow INTJ\n")
    message = r"new\.conll, line 3: the tag 'INTJ' is not among .*use DET, NOUN, VERB"
    with pytest.raises(InputError, match=message):
        tags.train([path], valid=str(new), out=tmp_path / "run", **SMALL)
    tags.train([path], out=tmp_path / "run", **SMALL)
    with pytest.raises(InputError, match=message):
        tags.evaluate(tmp_path / "run", [new])
    other = written(tmp_path, "other.conll", "the x DET\n")
    with pytest.raises(InputError, match=r"other\.conll has other columns than what is learnt"):
        tags.evaluate(tmp_path / "run", [other])


# --- the model ----------------------------------------------------------------------------------


def test_a_sentence_has_the_same_tags_alone_and_in_any_batch() -> None:
    torch.manual_seed(0)
    said = [sentence("a bb a ccc", "X Y X Z"), sentence("bb", "Y"), sentence("ccc a", "Z X")]
    knowledge = learn(said)
    settings = TagsSettings(**SMALL, lr=0.1, dropout=0.5, word_dropout=0.5)
    model, encoder = TagsModel(settings, knowledge).eval(), Encoder(knowledge)
    together = model(encoder.batch(said))
    for column, one in enumerate(said):
        alone = model(encoder.batch([one]))
        torch.testing.assert_close(alone[:, 0], together[: len(one.words), column])


def test_words_are_hidden_in_training_only() -> None:
    torch.manual_seed(0)
    said = [sentence("a bb a bb", "X Y X Y")]
    settings = TagsSettings(**SMALL, lr=0.1, dropout=0.0, word_dropout=0.5)
    model, batch = TagsModel(settings, learn(said)), Encoder(learn(said)).batch(said)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_the_likeliest_way_is_the_best_of_all_that_are_allowed() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 4, 3)
    lengths = torch.tensor([5, 1, 3, 4])
    forbidden = [[-1, 2], [0, 2], [1, 0]]
    for n, found in enumerate(likeliest(logits.numpy(), lengths.numpy(), forbidden)):
        length = int(lengths[n])
        ways = [
            way
            for way in itertools.product(range(3), repeat=length)
            if all([a, b] not in forbidden for a, b in zip((-1, *way), way, strict=False))
        ]
        best = max(ways, key=lambda way: sum(float(logits[t, n, k]) for t, k in enumerate(way)))
        assert found.tolist() == list(best)


def test_an_entity_goes_on_only_with_its_own_kind() -> None:
    said = [sentence("a b c d", "B-A I-A O B-B"), sentence("a b", "B-B I-B")]
    knowledge = learn(said)
    assert knowledge["is_entities"]
    names = ["", *knowledge["tags"]]
    found = {(names[a + 1], names[b + 1]) for a, b in knowledge["forbidden"]}
    assert found == {
        *((before, "I-A") for before in ("", "O", "I-A", "B-B", "I-B")),
        *((before, "I-B") for before in ("", "O", "I-B", "B-A", "I-A")),
    }
    assert not learn([sentence("a b", "X Y")])["is_entities"]


# --- what it is worth, and what it writes -------------------------------------------------------


@pytest.mark.parametrize("inside", ["I I", "I E"])
def test_an_entity_counts_if_all_of_it_is_right(inside: str) -> None:
    pytest.importorskip("nervaluate")
    middle, end = inside.split()
    said = [sentence("a b c d e", f"B-A {middle}-A {end}-A O B-B")]
    knowledge = learn(said)
    found = [["B-A", f"{middle}-A", "O", "O", "B-B"]]
    measured = measure(said, found, knowledge)
    assert measured["accuracy"] == 0.8
    assert measured["entity_f1"] == measured["precision"] == measured["recall"] == 0.5
    assert measure(said, [s.tags for s in said], knowledge)["entity_f1"] == 1.0


def test_known_and_unknown_words_are_measured_apart() -> None:
    knowledge = learn([sentence("a a b", "X X Y")])
    said = [sentence("a b c c", "X X X Y")]
    guess = lookup(said, knowledge)
    assert guess == [["X", "Y", "X", "X"]]
    measured = measure(said, guess, knowledge)
    assert measured == {"accuracy": 0.5, "accuracy_known": 0.5, "accuracy_unknown": 0.5}
    assert "accuracy_unknown" not in measure([sentence("a", "X")], [["X"]], knowledge)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tags")
    data = tagged_sentences(folder, 0)
    tags.train(
        [data], out=folder / "run", epochs=15, hidden=12, characters=8, batch=6, lr=0.02, dropout=0
    )
    return folder / "run"


def test_the_column_is_filled_in_or_added(run: Path, tmp_path: Path) -> None:
    given = written(tmp_path, "new.conll", "# note\nthe ?\nabb ?\nkers ?\n\nthe X\n")
    expected = ["# note", "the DET", "abb NOUN", "kers VERB", "", "the DET"]
    assert list(tags.predict(run, given)) == expected
    words = written(tmp_path, "words.txt", "the\nabb\nkers\n")
    assert list(tags.predict(run, words)) == expected[1:4]


def test_standard_input_is_tagged_byte_for_byte(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the ?\r\n\xff\xfes ?\n\n")))
    assert main(["predict", str(run), "-"]) == 0
    first, second, _, _ = capsysbinary.readouterr().out.split(b"\n")
    assert first == b"the DET\r"
    assert second.startswith(b"\xff\xfes ")
    assert second.split()[1] in (b"NOUN", b"VERB", b"DET")


def test_what_cannot_be_tagged_is_refused(run: Path, tmp_path: Path) -> None:
    wide = written(tmp_path, "wide.conll", "the DET\na b c\n")
    with pytest.raises(InputError, match=r"wide\.conll, line 2: it has 3 columns, the others"):
        list(tags.predict(run, wide))
    none = written(tmp_path, "none.conll", "\n")
    with pytest.raises(InputError, match="has no sentence"):
        list(tags.predict(run, none))
    with pytest.raises(InputError, match="cannot read"):
        list(tags.predict(run, tmp_path / "not there"))
