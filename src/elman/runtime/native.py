"""The native core, as the runtime uses it: chains that are compiled, where the core is there."""

import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from elman import environment
from elman.language import say
from elman.runtime.modules import Module, Recurrent

try:
    from elman import _native as _native
except ImportError as error:
    warnings.warn(
        say(
            "elman: the native core could not be loaded ({error}); models are run by "
            "NumPy, slowly. Reinstall elman on a machine with a C++20 compiler to "
            "build the core.",
            error=error,
        ),
        stacklevel=2,
    )
    _native = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from elman._native import Chain32, Session32

__all__ = ["chain", "session"]


# When a model is first loaded, so that a mistake in the environment is told by who loads it.
@cache
def _cells() -> dict[str, tuple[int, str, str, int, int, bool]]:
    return environment.read(_native)


def chain(modules: Sequence[Module], dtype: "np.dtype[Any]") -> "Chain32 | None":
    """Return what runs the modules, their weights packed; None if NumPy has to."""
    cells = _cells()
    if any(m.cell.name not in cells for m in modules if isinstance(m, Recurrent)) or not cells:
        return None
    compiled = _native.Chain64() if dtype == np.float64 else _native.Chain32()
    for module in modules:
        module.add_to(compiled, dtype)
    return compiled


def session(chain: "Chain32", batch: int, states: Sequence[Any]) -> "Session32":
    """Return what advances the states, which are arrays (directions, batch, .) of each layer."""
    kind = _native.Session64 if isinstance(chain, _native.Chain64) else _native.Session32
    return kind(chain, batch, list(states))
