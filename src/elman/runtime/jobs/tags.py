"""The model of tagged sentences, and how tags are read off it.

    characters -> recurrent layer \\
                                   recurrent layers, both directions -> linear -> tags
    word       -> embedding       /

The model that is trained is `elman.tasks.tags.model`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime.file import FileError
from elman.runtime.jobs.job import JobModel, embedding, last_outputs, linear, padded, recurrent
from elman.runtime.modules import Floats

__all__ = ["CHARACTER", "Encoder", "Read", "Tags", "describe", "likeliest"]

CHARACTER = 32  # numbers that stand for a character
_TOGETHER = 64  # sentences
_LISTS = ("tags", "vocabulary", "characters", "forbidden")

Ints = NDArray[np.int64]


class Read(NamedTuple):
    """Sentences of similar lengths, as numbers.

    Args:
        words: (L, N) numbers of words, 0 for what is unknown.
        which: (L, N) the column of each word in `characters`.
        characters: (C, U) numbers of the characters of the U different words.
        spelling: (U,) the characters of each.
        lengths: (N,) the words of each sentence.
    """

    words: Ints
    which: Ints
    characters: Ints
    spelling: Ints
    lengths: Ints


class Encoder:
    """Turns sentences into numbers.

    Args:
        knowledge: the words and characters that have an embedding.

    Example:
        >>> read = Encoder({"vocabulary": ["a"], "characters": ["a", "b"]}).read([["A", "bb", "A"]])
        >>> read.words.tolist(), read.which.tolist(), read.characters.tolist()
        ([[1], [0], [1]], [[0], [1], [0]], [[0, 2], [0, 2]])
    """

    def __init__(self, knowledge: Mapping[str, Any]) -> None:
        """Make the tables once."""
        self._words = {word: i for i, word in enumerate(knowledge["vocabulary"], 1)}
        self._characters = {c: i for i, c in enumerate(knowledge["characters"], 1)}

    def read(self, sentences: Sequence[Sequence[str]]) -> Read:
        """Put sentences side by side; there may be none."""
        if not sentences:
            none = np.zeros((1, 0), np.int64)
            return Read(none, none, none, none[0], none[0])
        columns: dict[str, int] = {}
        for sentence in sentences:
            for word in sentence:
                columns.setdefault(word, len(columns))
        words, lengths = padded(
            [self._numbers(self._words, map(str.casefold, s)) for s in sentences]
        )
        which, _ = padded([self._numbers(columns, s) for s in sentences])
        characters, spelling = padded([self._numbers(self._characters, word) for word in columns])
        return Read(words, which, characters, spelling, lengths)

    @staticmethod
    def _numbers(table: Mapping[str, int], symbols: Any) -> Ints:
        return np.array([table.get(symbol, 0) for symbol in symbols], np.int64)


class Tags(JobModel):
    """A model that gives each word of a sentence a tag; see `JobModel`.

    Attributes:
        tags: the tags, in order.
    """

    job: ClassVar[str] = "tags"

    def _know(self) -> None:
        facts = self.facts
        self.tags = facts.texts("tags")
        words, characters = facts.texts("vocabulary"), facts.texts("characters")
        self._encoder = Encoder(self.knowledge)
        self._forbidden = self._pairs(facts.values.get("forbidden"))
        facts.truth("is_entities"), facts.part("layout")
        self._spelling = self.chain("spelling", 1 + len(characters), symbols=True)
        self._words = self.chain("words", 1 + len(words), symbols=True)
        if self.layers("spelling").directions != 2:
            raise FileError(say("the chain 'spelling' must have two directions"))
        inputs = self._words.width + self._spelling.width
        self._reader = self.chain("reader", inputs, len(self.tags))

    def _pairs(self, given: Any) -> list[tuple[int, int]]:
        count = len(self.tags)
        if not isinstance(given, list) or not all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(type(tag) is int for tag in pair)
            and -1 <= pair[0] < count
            and 0 <= pair[1] < count
            for pair in given
        ):
            raise FileError(
                say("the tags that never follow others must be pairs of numbers of tags")
            )
        return [(before, after) for before, after in given]

    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Tag the words of sentences.

        Args:
            sentences: the words of each, as they are written.

        Returns:
            For each sentence a tag for each word.

        Raises:
            InputError: a sentence has no word, or one that is no text or empty.
        """
        for number, sentence in enumerate(sentences):
            is_text = isinstance(sentence, str) or not all(
                isinstance(w, str) and w for w in sentence
            )
            if is_text or not len(sentence):
                raise InputError(
                    say(
                        "sentence {number} must be a list of words, none of them empty, got {got}",
                        number=number,
                        got=f"{sentence!r:.40}",
                    )
                )
        found: list[list[str]] = [[] for _ in sentences]
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        for start in range(0, len(order), _TOGETHER):
            rows = order[start : start + _TOGETHER]
            read = self._encoder.read([sentences[row] for row in rows])
            best = likeliest(self._logits(read), read.lengths, self._forbidden)
            for row, tags in zip(rows, best, strict=True):
                found[row] = [self.tags[tag] for tag in tags.tolist()]
        return found

    def _logits(self, read: Read) -> Floats:
        """(L, N, tags) logits; what stands at padding means nothing."""
        output = self._spelling.run(read.characters, read.spelling)
        spelled = last_outputs(output, read.spelling)
        words = self._words.run(read.words)
        x = np.concatenate([words, spelled[read.which]], -1)
        return self._reader.run(x, read.lengths)


def likeliest(logits: Floats, lengths: Ints, forbidden: Sequence[Sequence[int]]) -> list[Ints]:
    """Return the likeliest tags of each sentence among those that may follow each other.

    Args:
        logits: (L, N, tags).
        lengths: (N,) words of each sentence.
        forbidden: pairs of tags of which the second does not follow the first; -1 is the start.

    Returns:
        For each sentence (words,) numbers of tags.

    Example:
        >>> logits = np.array([[[2.0, 1.0]], [[0.0, 3.0]]])
        >>> likeliest(logits, np.array([2]), [])[0].tolist()
        [0, 1]
        >>> likeliest(logits, np.array([2]), [[0, 1]])[0].tolist()
        [1, 1]
    """
    if not forbidden:
        best = logits.argmax(-1)
        return [best[:length, n] for n, length in enumerate(lengths.tolist())]
    tags = logits.shape[-1]
    barred = np.zeros((tags + 1, tags), logits.dtype)  # the last row is that of the start
    barred[tuple(np.array(forbidden).T)] = -np.inf
    # Viterbi: the best way to each tag, and from which tag it came.
    scores = logits[0] + barred[-1]
    came = []
    for step in logits[1:]:
        ways = scores[:, :, None] + barred[:-1]
        came.append((scores, ways.argmax(1)))
        scores = ways.max(1) + step
    came.append((scores, np.zeros(scores.shape, np.int64)))
    found = []
    for n, length in enumerate(lengths.tolist()):
        tag = int(came[length - 1][0][n].argmax())
        way = [tag]
        for _, before in reversed(came[: length - 1]):
            tag = int(before[n, tag])
            way.append(tag)
        found.append(np.array(way[::-1], np.int64))
    return found


def describe(run: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the model of a run; see `elman.runtime.jobs.describe`."""
    settings, knowledge = run["settings"], run["knowledge"]
    embed, spelled, hidden = (settings[name] for name in ("embed", "characters", "hidden"))
    words, characters = (1 + len(knowledge[name]) for name in ("vocabulary", "characters"))
    return {
        "chains": {
            "spelling": [
                embedding("character", characters, CHARACTER),
                recurrent("spelling", settings, CHARACTER, spelled, 1, both=True),
            ],
            "words": [embedding("embedding", words, embed)],
            "reader": [
                recurrent(
                    *("recurrent", settings, embed + 2 * spelled, hidden, settings["layers"]),
                    both=True,
                ),
                linear("output", 2 * hidden, len(knowledge["tags"])),
            ],
        },
        "knowledge": {name: knowledge[name] for name in (*_LISTS, "is_entities", "layout")},
    }
