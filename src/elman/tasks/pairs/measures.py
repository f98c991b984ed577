"""How good answers are, and what can be had without a model: the measures and the baselines."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elman.extras import needed
from elman.runtime.jobs.pairs import Alphabet
from elman.tasks.pairs.data import Pair, References

__all__ = ["copied", "measure", "nearest", "need_libraries", "verdict"]

_COMPARED = 500  # sources at a time


def need_libraries(level: str) -> None:
    """Find the libraries that measure answers of a level.

    Raises:
        MissingError: one is not installed.
    """
    with needed("measuring a model of pairs", "pairs"):
        import rapidfuzz  # noqa: F401

        if level == "words":
            import sacrebleu  # noqa: F401


def measure(answers: Sequence[str], references: References, alphabet: Alphabet) -> dict[str, float]:
    """Compare answers with what is right.

    Args:
        answers: one for each source.
        references: the sources with all their targets, in the same order.
        alphabet: how a target is cut into symbols.

    Returns:
        `exact_match`, the share of the answers that are one of the targets, and
        `symbol_error_rate`, the symbols to insert, delete or replace to make of each answer the
        closest of its targets, for each symbol of these targets. Of words also `chrf`, the F-score
        of runs of characters, 0 to 100.

    Example:
        >>> right = {"tea": ("T IY1",), "tear": ("T EH1 R", "T IH1 R")}
        >>> found = measure(["T IY1", "T IH1"], right, Alphabet("words", ()))
        >>> found["exact_match"], found["symbol_error_rate"]
        (0.5, 0.2)
    """
    from rapidfuzz.distance import Levenshtein

    exact = errors = symbols = 0
    for given, targets in zip(answers, references.values(), strict=True):
        found = alphabet.cut(given)
        distance, length = min(
            (Levenshtein.distance(found, cut), len(cut)) for cut in map(alphabet.cut, targets)
        )
        exact += not distance
        errors, symbols = errors + distance, symbols + length
    measures = {"exact_match": exact / len(answers), "symbol_error_rate": errors / symbols}
    if alphabet.level == "words":
        from sacrebleu.metrics.chrf import CHRF

        most = max(map(len, references.values()))
        columns: list[list[Any]] = [
            [targets[i] if i < len(targets) else None for targets in references.values()]
            for i in range(most)
        ]
        measures["chrf"] = CHRF().corpus_score(list(answers), columns).score
    return measures


def copied(sources: Iterable[str], alphabet: Alphabet) -> list[str]:
    """Answer each source with itself, cut into symbols as a target is."""
    return [alphabet.text(alphabet.cut(source)) for source in sources]


def nearest(sources: Iterable[str], examples: Sequence[Pair], alphabet: Alphabet) -> list[str]:
    """Answer each source with the target of the example that is most like it.

    Args:
        sources: what is asked.
        examples: pairs that were trained on.
        alphabet: how a source is cut into symbols, by the insertions, deletions and replacements
            of which two are compared.
    """
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    ids: dict[str, str] = {}  # a character for each symbol: strings are compared much faster

    def coded(text: str) -> str:
        return "".join(ids.setdefault(s, chr(len(ids) + 1)) for s in alphabet.cut(text))

    asked, known = [coded(s) for s in sources], [coded(pair.source) for pair in examples]
    answers: list[str] = []
    for start in range(0, len(asked), _COMPARED):
        part = asked[start : start + _COMPARED]
        rows = process.cdist(part, known, scorer=Levenshtein.distance).argmin(1)
        answers += [examples[row].target for row in rows]
    return answers


def verdict(
    metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]], count: int
) -> tuple[str, ...]:
    """Say in plain words what the measures mean."""
    right, wrong = metrics["exact_match"], metrics["symbol_error_rate"]
    lines = [
        f"{right:.1%} of the answers to {count:,} sources are right in every symbol;"
        f" {wrong:.1%} of the symbols are wrong."
    ]
    for name, of in baselines.items():
        if of["exact_match"] > right or of["symbol_error_rate"] < wrong:
            lines.append(
                f"The {name} does better: {of['exact_match']:.1%} are right,"
                f" {of['symbol_error_rate']:.1%} of the symbols wrong. Give more pairs or more"
                " time, or use that."
            )
    if len(lines) == 1:
        lines.append("No baseline does better.")
    return tuple(lines)
