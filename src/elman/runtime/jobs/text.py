"""The model of a text, and how it writes: a chain, and the symbols that its numbers stand for."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime.file import FileError, Stored
from elman.runtime.jobs.job import check_integer, embedding, linear, recurrent
from elman.runtime.jobs.levels import recall
from elman.runtime.model import Model

__all__ = ["Text", "describe"]

_MOST_LENGTH = 10**12
_MOST_SEED = 2**63 - 1


class Text(Model):
    """A model of a text, which writes on like it; also a `Model`, with its sessions.

    Args:
        description: what the file says of it.
        tensors: its weights.
        digest: the checksum of both.
        threads: how many threads a call over many steps may use.

    Attributes:
        job: "text".
        vocabulary: what its numbers stand for.

    Raises:
        FileError: the description is not complete, or does not fit the weights or itself.
        InputError: threads is out of range, or the package tokenizers is missing for a model of
            pieces of words.
    """

    job: ClassVar[str] = "text"

    def __init__(
        self,
        description: Mapping[str, Any],
        tensors: Mapping[str, Stored],
        digest: str,
        threads: int = 1,
    ) -> None:
        """Make the chain and the vocabulary."""
        super().__init__(description, tensors, digest, threads)
        self.vocabulary = recall(description.get("knowledge"))  # type: ignore[arg-type]
        self.knowledge = self.vocabulary.knowledge
        symbols = getattr(self.modules[0], "symbols", None)
        if not symbols == self.width == len(self.vocabulary):
            raise FileError(
                say(
                    "a model of {count} symbols must take and give as many, got {got} and {width}",
                    count=len(self.vocabulary),
                    got=symbols,
                    width=self.width,
                )
            )

    def sample(
        self,
        prime: str = "",
        length: int = 500,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Write on from a text, one symbol at a time.

        Args:
            prime: the text to go on from; it is not repeated.
            length: symbols to write: characters, unless the model is of another level.
            temperature: below 1 the likely becomes likelier, above 1 less so; 0 takes the
                likeliest.
            top_k: choose among so many of the likeliest symbols only.
            seed: the same seed writes the same text; None writes another each time.

        Returns:
            The text, piece by piece as it is made.

        Raises:
            InputError: it has never seen a character of `prime`, or an argument is out of range.
        """
        check_sampling(length, temperature, top_k, seed)
        start = self.vocabulary.encode(prime) if prime else self.vocabulary.new_line
        chance = np.random.default_rng(seed)
        written = self._write(start.astype(np.int64), temperature, top_k, chance)
        return self.vocabulary.decode(itertools.islice(written, length))

    def nats(self, rows: NDArray[np.int64], context: int) -> float:
        """Return the mean loss over a text, in nats per symbol.

        Args:
            rows: (L, N) parts of a text side by side.
            context: so many symbols at the start of each row, at least 1, are read and not judged.
        """
        session, total = self.session(rows.shape[1]), 0.0
        if context > 1:
            session.run(rows[: context - 1])
        rows = rows[context - 1 :]
        for start in range(0, len(rows) - 1, 128):  # symbols at once
            following = rows[start + 1 : start + 129]
            logits = session.run(rows[start : start + len(following)]).astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chosen = np.take_along_axis(logits, following[:, :, None], -1)[..., 0]
            total += float((np.log(np.exp(logits).sum(-1)) - chosen).sum())
        return total / rows[1:].size

    def _write(
        self,
        ids: NDArray[np.int64],
        temperature: float,
        top_k: int | None,
        chance: np.random.Generator,
    ) -> Iterator[int]:
        """Write on without end from some symbols, at least one."""
        session = self.session()
        logits = session.run(ids[:, None])[-1, 0]
        while True:
            if temperature == 0:
                chosen = int(logits.argmax())
            else:
                likely = logits.astype(np.float64)
                if top_k is not None and top_k < len(likely):
                    likely[likely < np.partition(likely, -top_k)[-top_k]] = -math.inf
                # Less the largest: divided by a tiny temperature all others are -inf, not NaN.
                with np.errstate(over="ignore"):
                    shares = np.exp((likely - likely.max()) / temperature).cumsum()
                drawn = np.searchsorted(shares, chance.random() * shares[-1], side="right")
                chosen = min(int(drawn), len(shares) - 1)
            yield chosen
            logits = session.step(np.array([chosen]))[0]


def check_sampling(length: Any, temperature: Any, top_k: Any, seed: Any) -> None:
    """Refuse arguments of `Text.sample` that are out of range.

    Raises:
        InputError: one is.
    """
    check_integer("length", length, 0, _MOST_LENGTH)
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not 0 <= temperature < math.inf:
        raise InputError(
            say("temperature must be at least 0, got {got}", got=f"{temperature!r:.40}"),
            "temperature",
        )
    if top_k is not None:
        check_integer("top_k", top_k, 1)
    if seed is not None:
        check_integer("seed", seed, 0, _MOST_SEED)


def describe(run: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of the model of a run; see `elman.runtime.jobs.describe`."""
    settings, knowledge = run["settings"], run["knowledge"]
    symbols = len(recall(knowledge))
    return {
        "modules": [
            embedding("embedding", symbols, settings["embed"]),
            recurrent(
                "recurrent",
                settings,
                settings["embed"],
                settings["hidden"],
                settings["layers"],
                both=False,
            ),
            linear("output", settings["hidden"], symbols),
        ],
        "inputs": {"x": ["L", "N"]},
        "outputs": {"y": ["L", "N", symbols]},
        "knowledge": dict(knowledge),
    }
