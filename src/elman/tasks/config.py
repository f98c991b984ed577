"""What a training on text is told: its settings, their rules, and how those not given are chosen.

Nothing here imports PyTorch, so that the command line can be parsed, and refused, at once.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from elman.tasks import InputError

__all__ = ["TextConfig", "choose"]

_LEAST = {"hidden": 1, "layers": 1, "embed": 1, "batch": 1, "chunk": 1, "epochs": 1, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The settings of one training on text; with the text itself they say all about its result.

    The budget is `epochs`, or `max_time`, or both: training ends with the one that ends first, and
    the learning rate falls to zero by then. With `epochs` alone the result is a function of the
    settings and the text; with `max_time` it also depends on the machine's speed.

    Args:
        files: the text, in this order; kept so that a resumed training finds it again.
        cell: "lstm", "gru" or "rnn".
        hidden: units of each recurrent layer.
        layers: recurrent layers on top of each other.
        embed: numbers that stand for one character.
        batch: rows of text that are read side by side.
        chunk: characters of a row between two updates of the weights.
        epochs: passes over the text, or None.
        max_time: seconds of training, evaluations included, or None.
        lr: the learning rate at its highest.
        dropout: the share of numbers zeroed in training before, between and after the layers.
        clip: the gradient's norm over all weights is held at or below this.
        weight_decay: the share of each weight, times the learning rate, taken off at each update.
        warmup: the share of the budget in which the learning rate rises.
        seed: where all that is random in training starts.

    Raises:
        InputError: a setting is out of its range, or there is no budget.

    Example:
        >>> config = TextConfig(
        ...     files=("book.txt",), hidden=128, batch=16, chunk=64, lr=3e-3, dropout=0.1, epochs=5
        ... )
        >>> config.cell, config.layers
        ('lstm', 1)
    """

    files: tuple[str, ...]
    hidden: int
    batch: int
    chunk: int
    lr: float
    dropout: float
    cell: str = "lstm"
    layers: int = 1
    embed: int = 64
    epochs: int | None = None
    max_time: float | None = None
    clip: float = 0.3
    weight_decay: float = 0.01
    warmup: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.cell not in ("lstm", "gru", "rnn"):
            raise InputError(f"cell must be lstm, gru or rnn, got {self.cell!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        for name in ("lr", "clip", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be a number above 0, got {value}")
        for name in ("dropout", "warmup"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"{name} must be at least 0 and less than 1, got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.epochs is None and self.max_time is None:
            raise InputError("the budget is missing: give epochs or max_time")


def choose(characters: int, operations_per_second: float = math.inf, **given: Any) -> TextConfig:
    """Complete the settings that the user gave with what suits the text, the time and the machine.

    A model that is too small stops learning early, and one that is too big sees too little text in
    its time. For a fixed amount of arithmetic the best size is one that sees a fixed number of
    characters for each of its weights, so the size follows from the budget; it is also held below
    a multiple of the text's length, for a short text read many times is learnt by heart.

    Args:
        characters: the length of the text that is trained on.
        operations_per_second: the machine's speed in training, as additions and multiplications:
            what a time is worth; see `elman.tasks.text.measure_speed`.
        given: the settings that the user gave, under the names of TextConfig's.

    Returns:
        Settings in which everything given is as given.

    Raises:
        InputError: something given is out of range.

    Example:
        >>> small = choose(10_000, files=("note.txt",), epochs=10)
        >>> large = choose(10_000_000, files=("library.txt",), epochs=10)
        >>> small.hidden < large.hidden
        True
        >>> choose(10_000, files=("note.txt",), epochs=10, hidden=77).hidden
        77
    """
    chosen = dict(given)
    if chosen.get("epochs") is None and chosen.get("max_time") is None:
        chosen["max_time"] = 180.0
    # At least 50 updates an epoch, if the text is long enough for chunks worth their name.
    chunk = chosen.setdefault("chunk", max(16, min(64, characters // 800)))
    chosen.setdefault("batch", max(1, min(16, characters // (50 * chunk))))
    chosen.setdefault("lr", 2e-3 if chosen.get("cell") == "rnn" else 6e-3)
    config = TextConfig(**{"hidden": 1, "dropout": 0.0} | chosen)  # refuses what is out of range
    operations = math.inf
    if config.max_time is not None:
        operations = operations_per_second * config.max_time
    if "hidden" not in given:
        config = replace(config, hidden=_hidden(config, characters, operations))
    if "dropout" not in given:
        config = replace(config, dropout=_dropout(config, characters, operations))
    return config


_CHARACTERS_PER_WEIGHT = 7  # seen in training, repeated or not: best of 2 to 20 on small budgets
_WEIGHTS_PER_CHARACTER = 4  # of the text
_OPERATIONS_PER_WEIGHT = 6  # and character: one product forward, two backward, of two each
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def _hidden(config: TextConfig, characters: int, operations: float) -> int:
    """Return the hidden size, a multiple of 32 from 64 to 2048, that suits budget and text."""
    most = float(_WEIGHTS_PER_CHARACTER * characters)
    if config.epochs is not None:
        most = min(most, config.epochs * characters / _CHARACTERS_PER_WEIGHT)
    # operations = 6 * weights * seen, and seen is to be 7 * weights
    most = min(most, math.sqrt(operations / _OPERATIONS_PER_WEIGHT / _CHARACTERS_PER_WEIGHT))
    sizes = range(96, 2049, 32)
    return max((s for s in sizes if _weights(replace(config, hidden=s)) <= most), default=64)


def _dropout(config: TextConfig, characters: int, operations: float) -> float:
    """Return the dropout: none for a text that is read once or twice, more the more often."""
    passes = operations / _OPERATIONS_PER_WEIGHT / _weights(config) / characters
    if config.epochs is not None:
        passes = min(passes, config.epochs)
    return round(min(0.5, max(0.0, 0.025 * (passes - 2))), 2)


def _weights(config: TextConfig) -> int:
    """Count the weights of the recurrent layers that are multiplied for each character."""
    inputs = config.embed + (config.layers - 1) * config.hidden
    return _GATES[config.cell] * config.hidden * (inputs + config.layers * config.hidden)
