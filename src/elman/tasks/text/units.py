"""What single units of a text model respond to.

Some units of a trained model follow something that a reader sees too: whether a quotation is open,
how far the line has come, whether a bracket is open. For each such feature of the text this finds
the unit whose activation the feature predicts best, by a straight line over all characters read,
and shows a passage coloured by that unit's activation.

Karpathy, Johnson and Li, "Visualizing and Understanding Recurrent Networks", 2015,
https://arxiv.org/abs/1506.02078; departs from it in that the units are found by their correlation
with a feature, and not by eye.
"""

import re

import numpy as np
import torch
from numpy.typing import NDArray

from elman.tasks.job import Coloured
from elman.tasks.text.model import TextModel

__all__ = ["features", "respond"]

_SHOWN = 600  # characters of a passage
_SHOWN_UNITS = 4
_LEAST = 0.3  # of the variance that a feature must explain to be shown


def features(text: str) -> dict[str, NDArray[np.float64]]:
    """Return what a reader sees at each character of a text, (characters,) numbers by name.

    Features that do not vary in this text are left out.

    Example:
        >>> features('a "b" c')["inside quotes"]
        array([0., 0., 1., 1., 0., 0., 0.])
    """
    found = {
        "inside quotes": _between(text, '"', '"'),
        "inside “quotes”": _between(text, "“", "”"),
        "inside (brackets)": _between(text, "(", ")"),
        "inside [brackets]": _between(text, "[", "]"),
        "position in the line": _since(text, "\n"),
        "position in the word": _since(text, " \n"),
        "inside a word of capitals": _inside(text, r"\b[A-Z]{2,}\b"),
        "inside a number": _inside(text, r"\d+"),
        "at the start of a line": _inside(text, r"(?m)^.{1,3}"),
    }
    return {name: values for name, values in found.items() if values.std() > 0}


def _between(text: str, opens: str, closes: str) -> NDArray[np.float64]:
    values, is_open = np.zeros(len(text)), False
    for i, c in enumerate(text):
        is_open = c == opens if not is_open else c != closes
        values[i] = is_open
    return values


def _since(text: str, ends: str) -> NDArray[np.float64]:
    values, since = np.zeros(len(text)), 0
    for i, c in enumerate(text):
        since = 0 if c in ends else since + 1
        values[i] = min(since, 80)
    return values


def _inside(text: str, pattern: str) -> NDArray[np.float64]:
    values = np.zeros(len(text))
    for found in re.finditer(pattern, text):
        values[found.start() : found.end()] = 1
    return values


@torch.no_grad()
def respond(model: TextModel, ids: torch.Tensor, text: str) -> tuple[Coloured, ...]:
    """Find the units of the last layer that follow a feature of the text.

    Args:
        model: in evaluation mode.
        ids: (characters,) the text as the model reads it.
        text: the same, as it is shown.

    Returns:
        Passages coloured by the activation of a unit each, those that follow their feature best
        first; none where no feature explains a third of a unit's variance.
    """
    output, _ = model.recurrent(model.embedding(ids[:, None]))
    activations = output[:, 0].numpy().astype(np.float64)
    centred = activations - activations.mean(0)
    scale = np.sqrt((centred**2).sum(0)) + 1e-12
    ranked = []
    for name, values in features(text).items():
        values = values - values.mean()
        correlation = values @ centred / (scale * np.sqrt(values @ values))
        unit = int(np.abs(correlation).argmax())
        ranked.append((float(correlation[unit] ** 2), name, unit))
    shown = [found for found in sorted(ranked, reverse=True) if found[0] >= _LEAST][:_SHOWN_UNITS]
    return tuple(
        Coloured(
            title=f"Unit {unit} follows “{name}”, which explains {share:.0%} of its variance",
            parts=tuple(passage),
            values=tuple(np.round(activations[start : start + len(passage), unit], 3).tolist()),
        )
        for share, name, unit in shown
        for start in (_where(features(text)[name]),)
        for passage in (text[start : start + _SHOWN],)
    )


# Where the passage starts in which the feature changes most.
def _where(values: NDArray[np.float64]) -> int:
    changes = np.abs(np.diff(values, prepend=values[0]))
    total = np.concatenate([[0.0], np.cumsum(changes)])
    sums = total[_SHOWN:] - total[:-_SHOWN] if len(total) > _SHOWN else np.zeros(1)
    return int(sums.argmax())
