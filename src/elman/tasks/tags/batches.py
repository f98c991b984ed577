"""Sentences as numbers, and batches of sentences of similar lengths."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import elman
from elman.runtime.jobs import tags as of_runtime
from elman.tasks.processes import Processes
from elman.tasks.tags.data import Sentence

__all__ = ["NO_TAG", "Batch", "Batches", "Encoder", "learn"]

NO_TAG = -100  # what pads tags, and is not counted
_ENTITY = re.compile(r"O|[BIESULM]-.+")
_GOES_ON = re.compile(r"[IEML]-")


def learn(sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Return what a model must know of the sentences that it learns from; see `Data.knowledge`.

    tags: in order. words: the tag that each is most often given, as a number. vocabulary and
    characters: those that have an embedding, which occur more than once, words in lower case; the
    others stand for all that is never seen. is_entities: whether the tags mark entities, such as
    B-LOC, I-LOC, O. forbidden: what never follows what, -1 standing for the start, of the tags that
    go on with an entity.
    """
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    follow: set[tuple[str, str]] = set()
    for sentence in sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            seen[word][tag] += 1
        follow |= set(zip(("", *sentence.tags), sentence.tags, strict=False))
    tags = sorted({tag for counts in seen.values() for tag in counts})
    number = {tag: index for index, tag in enumerate(tags)}
    is_entities = len(tags) > 1 and all(map(_ENTITY.fullmatch, tags))
    folded: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for word, counts in seen.items():
        folded[word.casefold()] += counts.total()
        for character in word:
            characters[character] += counts.total()
    return {
        "tags": tags,
        "words": {word: number[counts.most_common(1)[0][0]] for word, counts in seen.items()},
        "vocabulary": _often(folded),
        "characters": _often(characters),
        "is_entities": is_entities,
        "forbidden": [
            [number.get(before, -1), number[tag]]
            for tag in tags
            if is_entities and _GOES_ON.match(tag)
            for before in ("", *tags)
            if (before, tag) not in follow
        ],
    }


def _often(counts: Counter[str]) -> list[str]:
    return sorted(name for name, times in counts.items() if times > 1) or sorted(counts)


class Batch(NamedTuple):
    """Sentences of similar lengths.

    Args:
        words: (L, N) numbers of words, 0 for what is unknown.
        which: (L, N) the column of each word in `characters`.
        characters: (C, U) numbers of the characters of the U different words.
        spelling: (U,) the characters of each.
        lengths: (N,) the words of each sentence.
        tags: (L, N) numbers of tags, NO_TAG where there is none.
    """

    words: Tensor
    which: Tensor
    characters: Tensor
    spelling: Tensor
    lengths: Tensor
    tags: Tensor


class Encoder:
    """Turns sentences into batches of numbers.

    Args:
        knowledge: what `learn` found.

    Example:
        >>> said = [Sentence(("a", "bb", "a"), ("X", "Y", "X"), (0, 1, 2))]
        >>> batch = Encoder(learn(said)).batch(said)
        >>> batch.words.tolist(), batch.tags.tolist(), batch.spelling.tolist()
        ([[1], [0], [1]], [[0], [1], [0]], [1, 2])
    """

    def __init__(self, knowledge: Mapping[str, Any]) -> None:
        """Make the tables once."""
        self._encoder = of_runtime.Encoder(knowledge)
        self._tags = {tag: i for i, tag in enumerate(knowledge["tags"])}

    def batch(self, sentences: Sequence[Sentence]) -> Batch:
        """Put sentences side by side; there may be none."""
        read = self._encoder.read([s.words for s in sentences])
        tags = torch.full(read.words.shape, NO_TAG)
        for column, sentence in enumerate(sentences):
            known = torch.tensor([self._tags[tag] for tag in sentence.tags])
            tags[: len(known), column] = known
        words, which, characters, spelling, lengths = map(torch.from_numpy, read)
        return Batch(words, which, characters, spelling, lengths, tags)


@dataclass(frozen=True)
class Batches(Sequence[Batch]):
    """The batches of an epoch, this process's share of each.

    Args:
        encoder: makes them of sentences.
        sentences: the sentences of each batch.
    """

    encoder: Encoder
    sentences: list[list[Sentence]]

    @staticmethod
    def of(
        sentences: Sequence[Sentence],
        encoder: Encoder,
        settings: Any,
        epoch: int,
        processes: Processes,
    ) -> "Batches":
        """Shuffle the sentences into batches of similar lengths, others in each epoch."""
        lengths = [len(sentence.words) for sentence in sentences]
        sampler = elman.BucketBatchSampler(lengths, settings.batch, seed=settings.seed)
        sampler.set_epoch(epoch)
        return Batches(
            encoder, [[sentences[i] for i in processes.share(batch)] for batch in sampler]
        )

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.sentences)

    def __getitem__(self, index: Any) -> Any:
        """Return a batch."""
        return self.encoder.batch(self.sentences[index])
