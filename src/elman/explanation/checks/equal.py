"""One check, and what it is for two results to be equal."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from elman.explanation.call import Call, States
from elman.language import say

__all__ = ["Check", "all_same", "checked", "is_ragged", "joined", "near", "same"]


@dataclass(frozen=True)
class Check:
    """An equation about a call.

    Attributes:
        key: Its name for programs, the same in every language.
        code: The equation as a line of code.
        holds: Whether it holds in this call.
        why: The reason, and where it does not hold, what does.
    """

    key: str
    code: str
    holds: bool
    why: str

    @property
    def sentence(self) -> str:
        """The equation, its truth and its reason in one line."""
        return f"{self.code}: {self.holds}. {self.why}"


def joined(sentences: Iterable[str], language: str | None) -> str:
    """Return sentences one after the other; Chinese has no space between them."""
    return ("" if language == "zh" else " ").join(sentences)


def checked(
    key: str, code: str, holds: bool, yes: str = "", no: str = "", language: str | None = None
) -> Check:
    """Return a check with the reason that fits; without one, say that none explains the result."""
    why = (yes if holds else no) or say(
        "That is not what the equations lead to expect: the class of the module computes "
        "something else, or numbers are equal by chance.",
        language=language,
    )
    return Check(key, code, holds, why)


_ERRORS = {torch.float64: 1e-9, torch.float32: 3e-5}


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same size and, but for rounding, the same numbers."""
    if a.shape != b.shape:
        return False
    error = _ERRORS.get(a.dtype, 3e-2)
    return torch.allclose(a.double(), b.double(), rtol=error, atol=error)


def near(a: Any, b: Any) -> bool:
    """Return whether two results agree to two digits."""
    plain = (
        v.data if isinstance(v, PackedSequence) else v.values() if v.is_nested else v
        for v in (a, b)
    )
    x, y = (v.double() for v in plain)
    return torch.allclose(x, y, rtol=2e-2, atol=2e-2)


def all_same(a: States, b: States) -> bool:
    """Return whether all states are the same but for rounding."""
    return all(same(x, y) for x, y in zip(a, b, strict=True))


def is_ragged(call: Call) -> bool:
    """Return whether a sequence is shorter than the axis of time."""
    return len(set(call.steps)) > 1 or call.steps[:1] != [call.seq_len]
