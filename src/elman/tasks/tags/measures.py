"""What a model of tags is worth: accuracy by token, F1 by entity, and the commonest errors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from elman.extras import needed
from elman.tasks.tags.data import Sentence

__all__ = ["errors", "lookup", "measure"]

_AS_BIO = {"S": "B", "U": "B", "E": "I", "L": "I", "M": "I"}


def measure(
    sentences: Sequence[Sentence], found: Sequence[Sequence[str]], knowledge: Mapping[str, Any]
) -> dict[str, float]:
    """Measure tags against those of the sentences.

    Args:
        sentences: what is right.
        found: the tags that a model gave each sentence.
        knowledge: the words that it knows, and whether the tags mark entities.

    Returns:
        accuracy over all tokens; accuracy_known and accuracy_unknown, over the words that were
        learnt from and the others; and for entities entity_f1, precision and recall: an entity
        counts if its kind and all its words are right.

    Example:
        >>> said = [Sentence(("a", "b"), ("X", "Y"), (0, 1))]
        >>> measure(said, [("X", "X")], {"words": {"a": 0}, "is_entities": False})
        {'accuracy': 0.5, 'accuracy_known': 1.0, 'accuracy_unknown': 0.0}
    """
    hits: Counter[bool] = Counter()
    tokens: Counter[bool] = Counter()
    for sentence, tags in zip(sentences, found, strict=True):
        for word, true, tag in zip(sentence.words, sentence.tags, tags, strict=True):
            tokens[word in knowledge["words"]] += 1
            hits[word in knowledge["words"]] += true == tag
    measured = {"accuracy": hits.total() / tokens.total()}
    for name, known in (("accuracy_known", True), ("accuracy_unknown", False)):
        if tokens[known]:
            measured[name] = hits[known] / tokens[known]
    if knowledge["is_entities"]:
        measured |= _by_entity([s.tags for s in sentences], found, knowledge["tags"])
    return measured


def _by_entity(
    true: Sequence[Sequence[str]], found: Sequence[Sequence[str]], tags: Sequence[str]
) -> dict[str, float]:
    with needed("scoring entities", "tags"):
        from nervaluate import Evaluator
    kinds = sorted({tag[2:] for tag in tags if tag != "O"})
    both = ([[_as_bio(tag) for tag in row] for row in rows] for rows in (true, found))
    score = Evaluator(*both, tags=kinds, loader="list").evaluate()["overall"]["strict"]
    return {
        "entity_f1": float(score.f1),
        "precision": float(score.precision),
        "recall": float(score.recall),
    }


def _as_bio(tag: str) -> str:
    return _AS_BIO.get(tag[0], tag[0]) + tag[1:]


def lookup(sentences: Sequence[Sentence], knowledge: Mapping[str, Any]) -> list[list[str]]:
    """Give each word the tag that it had most often, and an unknown word the commonest of all."""
    tags, words = knowledge["tags"], knowledge["words"]
    commonest = Counter(words.values()).most_common(1)[0][0]
    return [[tags[words.get(word, commonest)] for word in s.words] for s in sentences]


def errors(
    sentences: Sequence[Sentence], found: Sequence[Sequence[str]]
) -> list[tuple[str, str, int, str]]:
    """Return what was taken for what, how often, and the word of which it was said most often.

    Example:
        >>> errors([Sentence(("a", "b", "b"), ("X", "Y", "Y"), (0, 1, 2))], [("X", "X", "X")])
        [('Y', 'X', 2, 'b')]
    """
    wrong: dict[tuple[str, str], Counter[str]] = {}
    for sentence, tags in zip(sentences, found, strict=True):
        for word, true, tag in zip(sentence.words, sentence.tags, tags, strict=True):
            if true != tag:
                wrong.setdefault((true, tag), Counter())[word] += 1
    ordered = sorted(wrong.items(), key=lambda item: (-item[1].total(), item[0]))
    return [(*pair, n.total(), n.most_common(1)[0][0]) for pair, n in ordered]
