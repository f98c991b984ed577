"""The settings of a job: what each is called, what it may be, and what is said of it.

A setting is a field of a dataclass, made by `setting`; its name, its type, its default, its range
and its one line of help stand there and nowhere else. The command line makes its flags from these
fields, config.json and --config files are read by them, and whatever is out of range is refused
here, wherever it came from.

`Source` is what is read and how, `Settings` the model and its training, `Prediction` how it is
used. A job adds its own fields to each. Nothing here imports PyTorch, so that a command can be
parsed, and refused, at once.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from elman.language import say
from elman.tasks import InputError

__all__ = ["Prediction", "Settings", "Source", "build", "check", "setting"]

_S = TypeVar("_S", bound="_Checked")


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
    metavar: str | None = None,
    chosen: str = "chosen",
) -> Any:
    """Make a field of `Source` or `Settings`.

    Args:
        help: one line that says what it is.
        default: its value if it is not given; without one the job chooses it.
        least: the lowest number it may be.
        most: the highest number it may be.
        above: it must be higher than this.
        below: it must be lower than this.
        choices: the only words it may be.
        metavar: what stands for the value in the help of the command line.
        chosen: what the help says of the default where there is no value to show.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Mine(Settings):
        ...     beam: int = setting("Candidates kept.", 4, least=1)
        >>> Mine(hidden=1, batch=1, lr=0.1, dropout=0.0, epochs=1, beam=0)
        Traceback (most recent call last):
        ...
        elman.errors.InputError: beam must be at least 1, got 0
    """
    rules = {"least": least, "most": most, "above": above, "below": below}
    metadata = {
        "help": help,
        "rules": {name: value for name, value in rules.items() if value is not None},
        "choices": tuple(choices),
        "metavar": metavar,
        "chosen": chosen,
    }
    return field(default=default, metadata=metadata)


_RULES: dict[str, Callable[[float, float], bool]] = {
    "least": lambda value, bound: value >= bound,
    "most": lambda value, bound: value <= bound,
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
}


class _Checked:
    """A dataclass whose fields are made by `setting`: what is out of range is refused."""

    def __post_init__(self) -> None:
        """Check each field that is given."""
        check(type(self), vars(self))


def check(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Refuse what is out of range, before all the settings are known.

    Args:
        kind: `Source`, `Settings` or what a job makes of them.
        values: some of the fields by name; what is none of them is passed over.

    Raises:
        InputError: a value is of another type or out of range.

    Example:
        >>> check(Settings, {"hidden": 0})
        Traceback (most recent call last):
        ...
        elman.errors.InputError: hidden must be at least 1 and at most 16384, got 0
    """
    for made in dataclasses.fields(kind):
        if values.get(made.name) is not None:
            _check(made, values[made.name])


def _check(made: Any, value: Any) -> None:
    kinds = {"int": int, "float": (int, float), "str": str, "bool": bool}
    kind = getattr(made.type, "__name__", str(made.type)).split(" |")[0]
    if kind in kinds and (
        not isinstance(value, kinds[kind])  # type: ignore[arg-type]
        or (isinstance(value, bool) and kind != "bool")
    ):
        raise InputError(
            say(
                "{name} must be of type {kind}, got {got}",
                name=made.name,
                kind=kind,
                got=repr(value),
            ),
            made.name,
        )
    choices, rules = made.metadata["choices"], made.metadata["rules"]
    if choices and value not in choices:
        raise InputError(
            say(
                "{name} must be {choices}, got {got}",
                name=made.name,
                choices=_or(choices),
                got=repr(value),
            ),
            made.name,
        )
    if not rules:
        return
    is_number = isinstance(value, int) or math.isfinite(value)
    if not is_number or not all(_RULES[name](value, bound) for name, bound in rules.items()):
        raise InputError(
            say(
                "{name} must be {rule}, got {got}",
                name=made.name,
                rule=say(" and ").join(_said(name, bound) for name, bound in rules.items()),
                got=_short(value),
            ),
            made.name,
        )


def _short(value: float) -> str:
    """Write a number, but for the middle of one with very many digits."""
    digits = str(value) if abs(value) < 1e300 or not isinstance(value, int) else hex(value)
    return digits if len(digits) < 40 else f"{digits[:16]}... ({len(digits)} digits)"


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return ", ".join(first) + say(" or ") + last if first else last


def _said(rule: str, bound: float) -> str:
    if rule == "least":
        return say("at least {bound}", bound=bound)
    if rule == "most":
        return say("at most {bound}", bound=bound)
    if rule == "above":
        return say("above {bound}", bound=bound)
    return say("below {bound}", bound=bound)


@dataclass(frozen=True, kw_only=True)
class Source(_Checked):
    """What is read, and how.

    Args:
        files: the data; kept, as absolute paths, so that a resumed training finds it again.
        valid: a file that is held out, instead of a part of the data.

    Raises:
        InputError: something is out of its range.
    """

    files: tuple[str, ...] = setting("The data.")
    valid: str | None = setting(
        "Evaluate on this file, instead of a part of the data.", None, metavar="FILE", chosen="none"
    )


@dataclass(frozen=True, kw_only=True)
class Settings(_Checked):
    """The model and its training.

    The budget is `epochs`, or `max_time`, or both: training ends with the one that ends first, and
    the learning rate falls to zero by then. With `epochs` alone the result is a function of the
    settings and the data; with `max_time` it also depends on the machine's speed.

    Args:
        hidden: units of each recurrent layer.
        batch: sequences of an update, those of all processes together.
        lr: the learning rate at its highest.
        dropout: the share of numbers zeroed in training.
        cell: "lstm", "gru" or "rnn".
        layers: recurrent layers on top of each other.
        epochs: passes over the data, or None.
        max_time: seconds of training, evaluations included, or None.
        patience: end after so many evaluations in a row without a better one, or None.
        clip: the gradient's norm over all weights is held at or below this.
        weight_decay: the share of each weight, times the learning rate, taken off at each update.
        warmup: the share of the budget in which the learning rate rises.
        seed: where all that is random in training starts.
        threads: how many threads compute, or None for PyTorch's own number.
        precision: "float32", or "bf16" for products of numbers rounded to bfloat16, where the
            processor has instructions for them; weights, states and sums stay float32.

    Raises:
        InputError: a setting is out of its range, or there is no budget.

    Example:
        >>> Settings(hidden=128, batch=16, lr=3e-3, dropout=0.1, epochs=5).cell
        'lstm'
    """

    hidden: int = setting("Units of each recurrent layer.", least=1, most=16384)
    batch: int = setting("Sequences in one update (batch size).", least=1, most=2**20)
    lr: float = setting("Highest learning rate.", above=0)
    dropout: float = setting("Dropout probability in training.", least=0, below=1)
    cell: str = setting("lstm, gru or rnn.", "lstm", choices=("lstm", "gru", "rnn"))
    layers: int = setting("Recurrent layers.", 1, least=1, most=64)
    epochs: int | None = setting(
        "Total passes over the data.", None, least=1, most=10**9, chosen="none"
    )
    max_time: float | None = setting(
        "Total training time, such as 90s, 3m, 1h30m.",
        None,
        above=0,
        metavar="TIME",
        chosen="3m, if no --epochs",
    )
    patience: int | None = setting(
        "Stop after this many evaluations without improvement.", None, least=1, chosen="never"
    )
    clip: float = setting("Largest norm of the gradient.", 0.3, above=0)
    weight_decay: float = setting("Weight decay.", 0.01, least=0)
    warmup: float = setting(
        "Fraction of the budget in which the learning rate rises.", 0.05, least=0, below=1
    )
    seed: int = setting("Seed of the random numbers.", 0, least=0, below=2**63)
    threads: int | None = setting(
        "Number of threads.", None, least=1, most=1024, chosen="as many as cores"
    )
    precision: str = setting(
        "float32 or bf16: what is multiplied.", "float32", choices=("float32", "bf16")
    )

    def __post_init__(self) -> None:
        """Refuse what is out of range, and a training without a budget."""
        super().__post_init__()
        if self.epochs is None and self.max_time is None:
            raise InputError(
                say("the budget is missing: give epochs or max_time"), "epochs", "max_time"
            )


@dataclass(frozen=True, kw_only=True)
class Prediction(_Checked):
    """How a model is used; every job has options of its own.

    Raises:
        InputError: an option is out of its range.
    """


def build(kind: type[_S], values: Mapping[str, Any]) -> _S:
    """Make settings from a mapping, such as a part of config.json.

    Args:
        kind: `Source`, `Settings` or what a job makes of them.
        values: the fields by name; lists stand for tuples.

    Raises:
        InputError: one is unknown, missing, of another type or out of range.

    Example:
        >>> build(Source, {"files": ["book.txt"]})
        Source(files=('book.txt',), valid=None)
    """
    try:
        names = {made.name for made in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - names):
            raise InputError(
                say(
                    "there is no setting {names}: use {known}",
                    names=_or(unknown),
                    known=_or(sorted(names)),
                )
            )
        return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    except TypeError as error:
        raise InputError(say("the settings are not complete: {error}", error=error)) from error
