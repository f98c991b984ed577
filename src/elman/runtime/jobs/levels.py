"""What a text is made of for a model: characters, bytes, words or pieces of words.

A `Vocabulary` turns text into numbers and back. Its `knowledge` is a value for JSON from which it
is made again, so that a model can be used without the text it was trained on.

Byte pair encoding is the package tokenizers': byte-level BPE after Sennrich, Haddow and Birch,
"Neural Machine Translation of Rare Words with Subword Units", 2016,
https://arxiv.org/abs/1508.07909.
"""

import codecs
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.extras import needed
from elman.language import say
from elman.runtime.facts import Facts
from elman.runtime.file import FileError

__all__ = ["LEVELS", "Vocabulary", "learn", "recall"]

LEVELS = ("chars", "bytes", "words", "bpe")

_CODE_POINTS = 0x110000
_WORDS = 20_000  # the commonest; others are unknown
_PIECES = 4096
_UNKNOWN = "\ufffd"


class Vocabulary(ABC):
    """The symbols that a model knows."""

    level: str

    @abstractmethod
    def __len__(self) -> int:
        """Count the symbols."""

    @property
    @abstractmethod
    def knowledge(self) -> dict[str, Any]:
        """What `recall` makes the vocabulary from."""

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.int32]:
        """Turn text into numbers, (symbols,).

        Raises:
            InputError: the text has a character that the model does not know.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Turn numbers into text, a piece for each number as it comes; some pieces are empty."""

    @property
    def new_line(self) -> NDArray[np.int32]:
        """What writing starts from where nothing is given: a new line, if the text has any."""
        try:
            return self.encode("\n")[:1]
        except InputError:
            return np.zeros(1, np.int32)


class Characters(Vocabulary):
    """Every character of a text, or every byte.

    A byte of a file that is not UTF-8 is a character too, in Python's own way of keeping such bytes
    (the error handler "surrogateescape"), so that what is sampled turns into the very bytes that
    were learnt. At the level of bytes a symbol is the character with the number of the byte.

    Args:
        symbols: every symbol once, in the order of their code points.
        level: "chars" or "bytes".
    """

    def __init__(self, symbols: str, level: str = "chars") -> None:
        """Number the symbols."""
        self.symbols, self.level = symbols, level
        self._ids = np.full(_CODE_POINTS, -1, np.int32)
        self._ids[[ord(symbol) for symbol in symbols]] = np.arange(len(symbols))

    def __len__(self) -> int:
        """Count the symbols."""
        return len(self.symbols)

    @property
    def knowledge(self) -> dict[str, Any]:
        """The level and the symbols."""
        return {"level": self.level, "symbols": self.symbols}

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turn text into numbers."""
        text = _as_bytes(text) if self.level == "bytes" else text
        ids: NDArray[np.int32] = self._ids[_codes(text)]
        if (ids < 0).any():
            unknown = sorted({c for c, i in zip(text, ids, strict=True) if i < 0})
            raise InputError(
                say(
                    "the model has never seen {names}: give text made of the characters it "
                    "was trained on",
                    names=", ".join(map(repr, unknown[:10])),
                )
            )
        return ids

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Turn numbers into text; a character of several bytes comes whole."""
        if self.level == "chars":
            return (self.symbols[i] for i in ids)
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        return (decoder.decode(bytes([ord(self.symbols[i])])) for i in ids)


class Words(Vocabulary):
    """The commonest words of a text, its punctuation and its spaces; all others are unknown.

    Args:
        symbols: the words; the first stands for all that is unknown.
    """

    level = "words"

    def __init__(self, symbols: list[str]) -> None:
        """Number the words."""
        self.symbols = symbols
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}

    def __len__(self) -> int:
        """Count the symbols."""
        return len(self.symbols)

    @property
    def knowledge(self) -> dict[str, Any]:
        """The level and the words."""
        return {"level": self.level, "symbols": self.symbols}

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turn text into numbers."""
        return np.array([self._ids.get(word, 0) for word in _words(text)], np.int32)

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Turn numbers into text."""
        return (self.symbols[i] for i in ids)


class Pieces(Vocabulary):
    """Pieces of words, by byte pair encoding.

    Args:
        tokenizer: what the package tokenizers writes of a tokenizer, as JSON.

    Raises:
        FileError: it is not one.
        InputError: the package tokenizers is not installed.
    """

    level = "bpe"

    def __init__(self, tokenizer: str) -> None:
        """Make the tokenizer again."""
        package, self._json = _tokenizers(), tokenizer
        try:
            self._tokenizer = package.Tokenizer.from_str(tokenizer)
        except Exception as error:  # it has no class of its own
            raise FileError(
                say("what is known of the text is no tokenizer: {error}", error=error)
            ) from error
        alphabet = _bytes_to_characters()
        self._bytes = {shown: byte for byte, shown in alphabet.items()}

    def __len__(self) -> int:
        """Count the symbols."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def knowledge(self) -> dict[str, Any]:
        """The level and the tokenizer."""
        return {"level": self.level, "tokenizer": self._json}

    def encode(self, text: str) -> NDArray[np.int32]:
        """Turn text into numbers."""
        # What is not UTF-8 cannot be given to it.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return np.array(self._tokenizer.encode(clean).ids, np.int32)

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        """Turn numbers into text; a character whose bytes are spread over pieces comes whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            piece = self._tokenizer.id_to_token(int(i)) or ""
            yield decoder.decode(bytes(self._bytes[c] for c in piece if c in self._bytes))


def learn(level: str, text: str) -> Vocabulary:
    """Make the vocabulary of a text.

    Args:
        level: "chars", "bytes", "words" or "bpe".
        text: the text.

    Raises:
        InputError: the text has only one symbol, or the package tokenizers is missing for "bpe".

    Example:
        >>> vocabulary = learn("words", "to be, or not to be")
        >>> ids = vocabulary.encode("not to be seen")
        >>> "".join(vocabulary.decode(ids))
        'not to be �'
    """
    if level in ("chars", "bytes"):
        text = _as_bytes(text) if level == "bytes" else text
        present = np.zeros(_CODE_POINTS, bool)
        present[_codes(text)] = True
        points = np.flatnonzero(present)
        if len(points) < 2:
            raise InputError(say("the text has only one symbol, {got}", got=repr(chr(points[0]))))
        return Characters("".join(map(chr, points)), level)
    if level == "words":
        counts = Counter(_words(text))
        if len(counts) < 2:
            raise InputError(say("the text has only one word, {got}", got=repr(next(iter(counts)))))
        return Words([_UNKNOWN, *(w for w, _ in counts.most_common(_WORDS) if w != _UNKNOWN)])
    package = _tokenizers()
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = package.trainers.BpeTrainer(
        vocab_size=_PIECES,
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    clean = text.encode("utf-8", "replace").decode("utf-8")
    tokenizer.train_from_iterator(clean.splitlines(keepends=True), trainer)
    return Pieces(tokenizer.to_str())


def recall(knowledge: Mapping[str, Any]) -> Vocabulary:
    """Make a vocabulary again from its `knowledge`.

    Raises:
        FileError: it is not one.
        InputError: the package tokenizers is missing for "bpe".

    Example:
        >>> len(recall(learn("chars", "banana").knowledge))
        3
    """
    facts = Facts(say("what is known of the text"), knowledge)
    level = facts.word("level", LEVELS)
    if level == "bpe":
        return Pieces(facts.text("tokenizer"))
    if level == "words":
        return Words(list(facts.texts("symbols", least=2)))
    symbols = facts.text("symbols")
    if len(set(symbols)) < max(2, len(symbols)):
        raise FileError(
            say("the symbols of a text must be two or more, and no two of them the same")
        )
    if level == "bytes" and max(symbols) > "\xff":
        raise FileError(
            say("the symbols of bytes must be below 256, got {got}", got=repr(max(symbols)))
        )
    return Characters(symbols, level)


# Each byte of the text as the character of that number.
def _as_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]|\s", text)


def _tokenizers() -> Any:
    with needed("--level bpe", "text"):
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    return tokenizers


# The character that byte-level BPE writes for each byte: itself if it can be seen, else one from
# 256 on, in order.
def _bytes_to_characters() -> dict[int, str]:
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }
