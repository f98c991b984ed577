"""What a user types as one value, read."""

import re

import typer

__all__ = ["seconds"]


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
