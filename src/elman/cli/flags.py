"""Flags made from settings, and the values that a user types."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

__all__ = ["Command", "Group", "flag", "seconds", "set_parameters", "with_flags"]


class Command(TyperCommand):
    """A command whose help shows an argument by its name, and not by its type in Python."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters."""
        found = super().get_params(ctx)
        for parameter in found:
            if isinstance(parameter, TyperArgument):
                parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        return found


class Group(TyperGroup):
    """The commands, training first."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "train")


def with_flags(message: str, settings: Iterable[str]) -> str:
    """Return a message with the names of settings as they are typed.

    Example:
        >>> with_flags("max_time must be above 0", ["max_time"])
        '--max-time must be above 0'
    """
    for name in settings:
        message = re.sub(rf"(?<![\w-]){name}(?!\w)", f"--{name.replace('_', '-')}", message)
    return message


def seconds(text: str) -> float:
    """Read a duration such as 90s, 3m or 1h30m; a bare number is seconds.

    Raises:
        typer.BadParameter: it is none.

    Example:
        >>> seconds("3m"), seconds("1h30m"), seconds("2.5")
        (180.0, 5400.0, 2.5)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text)
    if not text or not found:
        raise typer.BadParameter(f"must be a time such as 90s, 3m or 1h30m, got {text!r}")
    hours, minutes, rest = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + rest


def flag(field: Any) -> Any:
    """Return the annotation of the parameter for a field made by `setting`."""
    said = field.metadata
    default = said["chosen"] if field.default in (None, dataclasses.MISSING) else field.default
    kind = field.type.__args__[0] if hasattr(field.type, "__args__") else field.type
    options: dict[str, Any] = {"help": f"{said['help']} (default: {default})"}
    options["metavar"] = said["metavar"] or "|".join(said["choices"]) or _METAVARS.get(kind)
    if said["metavar"] == "TIME":
        options["parser"] = seconds
    name = f"--{field.name.replace('_', '-')}"
    if field.type is bool:
        options |= {"help": said["help"], "metavar": None}
        return Annotated[bool, typer.Option(name, **options)]
    if str(field.type).startswith("tuple"):
        kind = list[kind]  # type: ignore[valid-type]
    return Annotated[kind | None, typer.Option(name, **options)]


_METAVARS = {int: "N", float: "X", str: "TEXT"}


def set_parameters(command: Callable[..., Any], kinds: Mapping[str, Any]) -> None:
    """Give a function the parameters that typer reads, by name, each with its annotation."""
    parameters = []
    for name, kind in kinds.items():
        default: Any = None
        if not hasattr(kind, "__metadata__"):
            default = inspect.Parameter.empty  # the context
        elif kind.__args__[0] is bool:
            default = False
        elif type(None) not in getattr(kind.__args__[0], "__args__", ()):
            default = inspect.Parameter.empty  # one that is required
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
