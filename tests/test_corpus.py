import json
from pathlib import Path

import pytest

from elman.runtime.jobs.levels import learn, recall
from elman.tasks import InputError
from elman.tasks.text.corpus import Corpus, training_rows

LEVELS = ("chars", "bytes", "words", "bpe")


def text_of(corpus: Corpus) -> str:
    return "".join(corpus.vocabulary.decode(corpus.ids.tolist()))


def corpus_of(tmp_path: Path, *contents: bytes, level: str = "chars") -> Corpus:
    paths = []
    for index, content in enumerate(contents):
        paths.append(tmp_path / f"{index}.txt")
        paths[-1].write_bytes(content)
    return Corpus.read(paths, level)


@pytest.mark.parametrize("level", ["chars", "bytes"])
def test_text_comes_back_byte_for_byte_even_where_it_is_not_text(
    tmp_path: Path, level: str
) -> None:
    content = "naïve 漢字 🙂\r\n".encode() + b"\xff\xfe\x01" + "é".encode()[:1] + b" end"
    corpus = corpus_of(tmp_path, content, level=level)
    text = text_of(corpus)
    assert text.encode("utf-8", "surrogateescape") == content
    assert len(corpus.vocabulary) == len(set(content if level == "bytes" else text))
    assert corpus.vocabulary.encode(text).tolist() == corpus.ids.tolist()


def test_files_are_one_text_in_the_order_given(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, b"second ", b"first 1234")
    assert text_of(corpus) == "second first 1234"


def test_more_than_256_symbols_fit(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    corpus = corpus_of(tmp_path, text.encode())
    assert text_of(corpus) == text


def test_each_file_is_read_as_it_was_written_down(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "é, ".encode("utf-16"), b"\xef\xbb\xbfto \r\n", b"and fro")
    assert text_of(corpus) == "é, to \r\nand fro"
    assert [note.split(" ", 1)[1] for note in corpus.notes] == [
        "is read as UTF-16, without the mark at its start",
        "is read as UTF-8, without the mark at its start",
        "ends its lines with CR LF, and so will what is written",
    ]


def test_a_tenth_is_held_out_from_all_parts_of_the_text(tmp_path: Path) -> None:
    languages = [bytes([letter]) * 4000 for letter in b"abcdefgh"]
    corpus = corpus_of(tmp_path, *languages)
    held_out = corpus.held_out
    assert held_out.judged == 3200
    assert len(corpus.training) == 32_000 - 3200
    judged = held_out.rows[held_out.context :].flatten()
    shares = judged.unique(return_counts=True)[1]
    assert len(shares) == 8
    assert all(abs(share - 400) <= 128 for share in shares.tolist())  # a block more or less


@pytest.mark.parametrize("batch", [1, 3, 7, 90])
@pytest.mark.parametrize("shift", [0, 1, 44, 89])
def test_each_training_row_goes_on_in_the_next(tmp_path: Path, batch: int, shift: int) -> None:
    corpus = corpus_of(tmp_path, bytes(range(1, 101)))
    rows = training_rows(corpus.training, batch, shift)
    length = 90 // batch
    assert rows.shape == (length + 1, batch)
    for n in range(batch):
        expected = [(shift + n * length + t) % 90 for t in range(length + 1)]
        assert rows[:, n].tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot learn from .*: it is empty"),
        (b"123456789", "the text is too short, 9 characters"),
        (b"a" * 1000, "the text has only one symbol, 'a'"),
    ],
)
def test_a_text_that_teaches_nothing_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        corpus_of(tmp_path, content)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.txt: No such file"):
        Corpus.read([tmp_path / "none.txt"])
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        Corpus.read([tmp_path])


def test_characters_that_a_model_never_saw_are_named() -> None:
    with pytest.raises(InputError, match="the model has never seen 'x', 'é'"):
        learn("chars", "abc").encode("abxé")


@pytest.mark.parametrize("level", LEVELS)
def test_text_of_every_level_comes_back(tmp_path: Path, level: str) -> None:
    content = "To be, or not to be: that is the question. 漢字 🙂\n" * 40
    corpus = corpus_of(tmp_path, content.encode(), level=level)
    assert text_of(corpus) == content
    known = recall(json.loads(json.dumps(corpus.vocabulary.knowledge)))
    assert known.encode(content).tolist() == corpus.ids.tolist()
    assert known.level == level
    assert "".join(known.decode(known.new_line.tolist())) == "\n"


def test_a_word_that_is_not_known_is_written_as_such() -> None:
    words = learn("words", "to be or not to be")
    assert "".join(words.decode(words.encode("to seem").tolist())) == "to \ufffd"


def test_pieces_of_words_are_fewer_than_characters(tmp_path: Path) -> None:
    content = b"To be, or not to be: that is the question.\n" * 40
    lengths = [len(corpus_of(tmp_path, content, level=level).ids) for level in ("bpe", "chars")]
    assert lengths[0] < lengths[1] / 3


def test_all_of_a_text_is_judged_but_what_is_only_read(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, bytes(range(32, 127)) * 50)
    whole = corpus.whole
    assert whole.judged > 0.95 * len(corpus.ids)
    judged = whole.rows[whole.context :].T.flatten()
    assert judged.tolist() == corpus.ids[whole.context : whole.context + whole.judged].tolist()
