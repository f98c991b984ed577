"""The model of pairs: an encoder, a decoder, attention between them, and the search for targets.

    source -> embedding -> recurrent layers, both directions -> memory, last state
                                                                  |         |
    target so far -> embedding -> recurrent layers (lower) -> attention     from that state
        -> recurrent layer (upper) -> linear -> how likely each symbol comes next

The likeliest candidates are kept at each step, for many sources. All candidates of all sources are
rows of one batch. A step reads the last symbol of each from the state that its row carries; then
each row goes on from the state of the candidate it came from.

The model that is trained, and read in one call for each layer, is `elman.tasks.pairs.model`; it
says what the attention is.

Symbols: S steps of a source, N sources, K candidates of each, H hidden, V numbers of symbols.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime.file import FileError
from elman.runtime.jobs.job import (
    JobModel,
    check_integer,
    embedding,
    function,
    largest,
    linear,
    padded,
    recurrent,
)
from elman.runtime.model import Session
from elman.runtime.modules import Floats, log_softmax, softmax

__all__ = ["BOUNDARY", "LEVELS", "UNKNOWN", "Alphabet", "Answer", "Pairs", "describe"]

BOUNDARY = 0  # before the first symbol of a target, and after its last
UNKNOWN = 1  # a symbol that is not in the alphabet; of a target also what is not there to be learnt
_FIRST = 2
LEVELS = ("chars", "words")

_SYMBOLS_MOST = 20_000  # of a side
_TOGETHER = 128  # sources
_SPARE = 10  # symbols
_MOST_BEAM = 1000
_LONGEST = 10_000  # times a source


@dataclass(frozen=True)
class Alphabet:
    """The symbols of one side, and how its text is cut into them.

    Args:
        level: "chars" or "words".
        symbols: every symbol once; the number of the first is 2, see `BOUNDARY` and `UNKNOWN`.

    Example:
        >>> sounds = Alphabet.of("words", ["K AE1 T", "T IY1"])
        >>> sounds.symbols
        ('AE1', 'IY1', 'K', 'T')
        >>> sounds.encode("T IY1 Z"), sounds.text(["T", "IY1"])
        ([5, 3, 1], 'T IY1')
    """

    level: str
    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        numbers = {symbol: i for i, symbol in enumerate(self.symbols, _FIRST)}
        object.__setattr__(self, "_numbers", numbers)

    @staticmethod
    def of(level: str, texts: Iterable[str]) -> "Alphabet":
        """Collect the symbols of texts, the 20,000 commonest if there are more."""
        found = Counter(symbol for text in texts for symbol in _cut(text, level))
        return Alphabet(level, tuple(sorted(s for s, _ in found.most_common(_SYMBOLS_MOST))))

    def __len__(self) -> int:
        """Count the numbers that a symbol can have, those without a symbol included."""
        return _FIRST + len(self.symbols)

    def cut(self, text: str) -> list[str]:
        """Cut a text into symbols."""
        return _cut(text, self.level)

    def text(self, symbols: Iterable[str]) -> str:
        """Put symbols together again."""
        return (" " if self.level == "words" else "").join(symbols)

    def encode(self, text: str) -> list[int]:
        """Turn a text into numbers."""
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        return [numbers.get(symbol, UNKNOWN) for symbol in self.cut(text)]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Turn numbers of symbols back into these."""
        return [self.symbols[number - _FIRST] for number in numbers]

    def check(self, text: str, where: str) -> None:
        """Refuse a text that is empty or, where symbols are characters, has unknown ones.

        Words that are not in the alphabet are let through: a model of words knows that there are
        others.

        Args:
            text: the text, without blanks at either end.
            where: what it is called in the message.

        Raises:
            InputError: it is one.
        """
        if not text:
            raise InputError(say("{where} is empty: there has to be a source in each", where=where))
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        unknown = [symbol for symbol in dict.fromkeys(self.cut(text)) if symbol not in numbers]
        if unknown and self.level == "chars":
            raise InputError(
                say(
                    "{where}: the model has never seen {names}: give sources made of the "
                    "characters it was trained on",
                    where=where,
                    names=", ".join(map(repr, unknown)),
                )
            )


def _cut(text: str, level: str) -> list[str]:
    return text.split() if level == "words" else list(text)


class Answer(NamedTuple):
    """A target that was found.

    Args:
        symbols: their numbers.
        score: the mean logarithm of their probabilities, that of the end included.
    """

    symbols: list[int]
    score: float


class Pairs(JobModel):
    """A model that answers sources with targets; see `JobModel`.

    Attributes:
        source: the symbols of the sources.
        target: the symbols of the targets.
        beam: candidates that are kept in the search, if none are asked for.
    """

    job: ClassVar[str] = "pairs"

    def _know(self) -> None:
        self.source, self.target = (
            Alphabet(facts.word("level", LEVELS), facts.texts("symbols"))
            for facts in (self.facts.part("source"), self.facts.part("target"))
        )
        self.beam = self.facts.size("beam", most=_MOST_BEAM)
        self._longest = self.facts.number("longest", above=0)
        if self._longest > _LONGEST:
            raise FileError(
                say(
                    "a target must be at most {longest} times its source, got {got}",
                    longest=_LONGEST,
                    got=self._longest,
                )
            )
        self._encoder = self.chain("encoder", len(self.source), symbols=True)
        hidden = self._encoder.width
        self._key = self.chain("key", hidden, hidden)
        self._lower = self.chain("lower", len(self.target), hidden, symbols=True)
        self._upper = self.chain("upper", 2 * hidden, hidden)
        self._output = self.chain("output", 3 * hidden, len(self.target))
        encoder, lower, upper = map(self.layers, ("encoder", "lower", "upper"))
        if not (
            encoder.cell == lower.cell == upper.cell
            and (encoder.directions, lower.directions, upper.directions) == (2, 1, 1)
            and (lower.num_layers, upper.num_layers) == (encoder.num_layers, 1)
            and not (encoder.proj_size or lower.proj_size or upper.proj_size)
        ):
            raise FileError(
                say("the encoder of the file and its decoder must be of one kind and size")
            )

    def predict(
        self, sources: Sequence[str], n_best: int = 1, beam: int | None = None
    ) -> list[list[str]]:
        """Answer sources with targets.

        Args:
            sources: the texts.
            n_best: answers for each source, the likeliest first.
            beam: candidates that are kept in the search, 1 is greedy; that of the training if None,
                and at least `n_best`.

        Returns:
            For each source up to `n_best` targets.

        Raises:
            InputError: a source is empty or has characters that the model has never seen, or an
                argument is out of range.
        """
        check_integer("n_best", n_best, 1, _MOST_BEAM)
        beam = max(self.beam, n_best) if beam is None else beam
        check_integer("beam", beam, n_best, _MOST_BEAM)
        texts = []
        for number, text in enumerate(sources):
            if not isinstance(text, str):
                raise InputError(
                    say(
                        "source {number} must be a text, got {got}",
                        number=number,
                        got=f"{text!r:.40}",
                    )
                )
            texts.append(text.strip())
            self.source.check(texts[-1], say("source {number}", number=number))
        return self.targets(texts, n_best, beam)

    def targets(self, texts: Sequence[str], n_best: int, beam: int) -> list[list[str]]:
        """Answer sources as `predict` does, also such as have symbols that are not known."""
        found = self.answer([self.source.encode(text) for text in texts], beam)
        return [
            [self.target.text(self.target.decode(a.symbols)) for a in best[:n_best]]
            for best in found
        ]

    def answer(self, sources: Sequence[Sequence[int]], beam: int) -> list[list[Answer]]:
        """Look for the targets of sources.

        Args:
            sources: the numbers of their symbols; none is empty.
            beam: candidates that are kept at each step; 1 takes the likeliest symbol each time.

        Returns:
            For each source up to `beam` answers, the best first.
        """
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        answers: list[list[Answer]] = [[] for _ in sources]
        for start in range(0, len(order), _TOGETHER):
            rows = order[start : start + _TOGETHER]
            found = self._search([sources[i] for i in rows], beam)
            for i, best in zip(rows, found, strict=True):
                answers[i] = best
        return answers

    def _search(self, sources: Sequence[Sequence[int]], beam: int) -> list[list[Answer]]:
        batch = len(sources)
        decoder = _Decoder(self, sources, beam)
        limits = np.ceil(decoder.lengths * self._longest).astype(np.int64) + _SPARE
        first = beam * np.arange(batch)[:, None]  # the row of each source's first candidate

        # Of each candidate, (N, K): its symbols, how many with the end, their log probability, and
        # whether it has ended. At first there is one, empty; the others are impossible.
        symbols = np.full((batch, beam, 0), BOUNDARY)
        count = np.zeros((batch, beam), np.int64)
        likely: Floats = np.full((batch, beam), -np.inf, np.float32)
        likely[:, 0] = 0.0
        ended = np.zeros((batch, beam), bool)
        last = np.full((batch, beam), BOUNDARY)
        while not ended.all():
            logits = decoder.step(last.ravel()).reshape(batch, beam, -1)
            logits[..., UNKNOWN] = -np.inf
            if not symbols.shape[-1]:
                logits[..., BOUNDARY] = -np.inf  # no target is empty
            gains = log_softmax(logits)
            # What has ended stays as it is: it goes on with nothing, at no cost.
            gains[ended] = -np.inf
            gains[ended, BOUNDARY] = 0.0
            totals = likely[..., None] + gains
            counts = count + ~ended
            means = (totals / counts[..., None].astype(np.float32)).reshape(batch, -1)
            chosen = largest(means, beam)
            came_from, last = chosen // gains.shape[-1], chosen % gains.shape[-1]

            likely = np.take_along_axis(totals.reshape(batch, -1), chosen, 1)
            count = np.take_along_axis(counts, came_from, 1)
            ended = np.take_along_axis(ended, came_from, 1)
            ended |= (last == BOUNDARY) | (symbols.shape[-1] + 1 >= limits)[:, None]
            before = np.take_along_axis(symbols, came_from[..., None], 1)
            symbols = np.concatenate([before, last[..., None]], -1)
            decoder.go_on_from((first + came_from).ravel())

        scores = (likely / count.astype(np.float32)).tolist()
        return [
            [
                Answer([symbol for symbol in row if symbol != BOUNDARY], score)
                for row, score in zip(rows, of, strict=True)
                if score > -math.inf
            ]
            for rows, of in zip(symbols.tolist(), scores, strict=True)
        ]


class _Decoder:
    """Sources that were read, and the state of each of their candidates."""

    def __init__(self, model: Pairs, sources: Sequence[Sequence[int]], beam: int) -> None:
        self._model, self._beam = model, beam
        symbols, self.lengths = padded([np.array(source, np.int64) for source in sources])
        outputs, state = model._encoder.read(symbols, self.lengths)
        self._values = np.ascontiguousarray(outputs.transpose(1, 0, 2))  # (N, S, H)
        self._keys = model._key.run(outputs).transpose(1, 2, 0)  # (N, H, S)
        padding = np.arange(len(symbols)) >= self.lengths[:, None]
        self._hidden = np.where(padding, -np.inf, 0.0).astype(outputs.dtype)[:, None]
        rows = len(sources) * beam
        self._lower, self._upper = model._lower.session(rows), model._upper.session(rows)
        # The two directions side by side are the state of a decoder of twice their width.
        parts = [np.concatenate([part[0::2], part[1::2]], -1) for part in state.values()]
        spread = [part.repeat(beam, axis=1) for part in parts]
        _load(self._lower, spread)
        _load(self._upper, [part[-1:] for part in spread])

    def step(self, last: NDArray[np.int64]) -> Floats:
        """Read the last symbol of each candidate; (N * K,) -> (N * K, V) logits of the next."""
        lower = self._lower.step(last)
        width = lower.shape[-1]
        queries = lower.reshape(-1, self._beam, width)
        scores = queries @ self._keys / np.asarray(math.sqrt(width), lower.dtype) + self._hidden
        found = np.concatenate([(softmax(scores) @ self._values).reshape(-1, width), lower], -1)
        above = self._upper.step(found)
        combined = np.concatenate([above, found], -1)
        return np.asarray(self._model._output.run(combined[None])[0])

    def go_on_from(self, rows: NDArray[np.int64]) -> None:
        """Let each row have the state of another."""
        for session in (self._lower, self._upper):
            _load(session, [part[:, rows] for part in session.state().values()])


def _load(session: Session, parts: Sequence[Floats]) -> None:
    session.load_state(dict(zip(session.state(), parts, strict=True)))


def describe(run: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the model of a run; see `elman.runtime.jobs.describe`."""
    settings, knowledge = run["settings"], run["knowledge"]
    embed, hidden, layers = (settings[name] for name in ("embed", "hidden", "layers"))
    sources, targets = (_FIRST + len(knowledge[side]["symbols"]) for side in ("source", "target"))
    return {
        "chains": {
            "encoder": [
                embedding("source_embedding", sources, embed),
                recurrent("encoder", settings, embed, hidden // 2, layers, both=True),
            ],
            "key": [linear("key", hidden, hidden, bias=False)],
            "lower": [
                embedding("target_embedding", targets, embed),
                recurrent("lower", settings, embed, hidden, layers, both=False),
            ],
            "upper": [recurrent("upper", settings, 2 * hidden, hidden, 1, both=False)],
            "output": [
                linear("combine", 3 * hidden, hidden),
                function("tanh", "tanh", hidden),
                linear("output", hidden, targets),
            ],
        },
        "knowledge": {
            **{side: knowledge[side] for side in ("source", "target")},
            **{"longest": knowledge["longest"], "beam": settings["beam"]},
        },
    }
