from pathlib import Path

import pytest
import torch

from elman.tasks import InputError
from elman.tasks.text.corpus import Corpus, decode, encode


def corpus_of(tmp_path: Path, *contents: bytes) -> Corpus:
    paths = []
    for index, content in enumerate(contents):
        paths.append(tmp_path / f"{index}.txt")
        paths[-1].write_bytes(content)
    return Corpus.read(paths)


def test_text_comes_back_byte_for_byte_even_where_it_is_not_text(tmp_path: Path) -> None:
    content = "naïve 漢字 🙂\r\n".encode() + b"\xff\xfe\x00" + "é".encode()[:1] + b" end"
    corpus = corpus_of(tmp_path, content)
    text = decode(corpus.ids.tolist(), corpus.symbols)
    assert text.encode("utf-8", "surrogateescape") == content
    assert list(corpus.symbols) == sorted(set(text))
    assert torch.equal(encode(text, corpus.symbols), corpus.ids.long())


def test_files_are_one_text_in_the_order_given(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, b"second ", b"first 1234")
    assert decode(corpus.ids.tolist(), corpus.symbols) == "second first 1234"


def test_more_than_256_symbols_fit(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    corpus = corpus_of(tmp_path, text.encode())
    assert decode(corpus.ids.tolist(), corpus.symbols) == text


def test_the_last_tenth_is_held_out_up_to_a_limit(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, bytes(range(100)))
    assert corpus.held_out == 10
    assert torch.equal(corpus.training, corpus.ids[:90])
    assert corpus_of(tmp_path, b"ab" * 2_000_000).held_out == 2**18


@pytest.mark.parametrize("batch", [1, 3, 7, 90])
@pytest.mark.parametrize("shift", [0, 1, 44, 89])
def test_each_training_row_goes_on_in_the_next(tmp_path: Path, batch: int, shift: int) -> None:
    corpus = corpus_of(tmp_path, bytes(range(100)))
    rows = corpus.training_rows(batch, shift)
    length = 90 // batch
    assert rows.shape == (length + 1, batch)
    for n in range(batch):
        expected = [(shift + n * length + t) % 90 for t in range(length + 1)]
        assert rows[:, n].tolist() == expected


@pytest.mark.parametrize(("batch", "context"), [(1, 1), (1, 90), (3, 5), (10, 2)])
def test_held_out_rows_cover_the_tail_after_their_context(
    tmp_path: Path, batch: int, context: int
) -> None:
    corpus = corpus_of(tmp_path, bytes(range(100)))
    rows = corpus.held_out_rows(batch, context)
    assert rows.shape == (context + 10 // batch, batch)
    judged = rows[context:].T.flatten().tolist()
    assert judged == list(range(100 - len(judged), 100))
    for n in range(batch):
        assert rows[:, n].diff().unique().tolist() == [1]


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
        encode("abxé", "abc")
