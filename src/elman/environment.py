"""What the environment asks of the core, read once, when the layers are loaded.

Variables:
    ELMAN_BACKEND: "native", the default, or "reference" to compute everything by the reference.
    ELMAN_ISA: The instruction set to use, one of those that `elman.show_config` names.

This needs no PyTorch, so that the command line can name a mistake at once.
"""

import os
from typing import Any

from elman.language import say

__all__ = ["SettingError", "read"]

_BACKENDS = ("native", "reference")


class SettingError(ValueError):
    """A variable of the environment asks for what is not there; the message says what to do."""


def read(native: Any) -> dict[str, tuple[int, str, str, int, int, bool]]:
    """Return the cells that the core is to compute, and choose its instruction set.

    Args:
        native: The module `elman._native`, or None if it could not be loaded.

    Returns:
        What `_native.cells` does; nothing without the core.

    Raises:
        SettingError: If a variable has a value that it cannot have here.

    Example:
        >>> read(None)
        {}
    """
    backend = os.environ.get("ELMAN_BACKEND") or "native"
    if backend not in _BACKENDS:
        raise SettingError(
            say(
                "ELMAN_BACKEND must be one of {known}, got {got}: unset it for the native core",
                known=", ".join(_BACKENDS),
                got=repr(backend),
            )
        )
    if native is None or backend == "reference":
        return {}
    try:
        return native.cells()  # type: ignore[no-any-return]
    except ValueError as error:
        raise SettingError(str(error)) from None
