"""Measures of labels: accuracy, F1 of each label, and what is taken for what."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Counts", "confusion", "measure", "per_label"]

Counts: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def confusion(true: Sequence[int], found: Sequence[int], labels: int) -> Counts:
    """Count for each label what was found in its place: (labels, labels), a row for each true one.

    Example:
        >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    counts = np.zeros((labels, labels), np.int64)
    np.add.at(counts, (np.asarray(true, int), np.asarray(found, int)), 1)
    return counts


def per_label(counts: Counts) -> list[tuple[float, float, float, int]]:
    """Return precision, recall, F1 and the number of samples of each label.

    Example:
        >>> per_label(confusion([0, 0, 1], [0, 1, 1], 2))[1]
        (0.5, 1.0, 0.6666666666666666, 1)
    """
    found = []
    for label, hits in enumerate(counts.diagonal().tolist()):
        taken, there = int(counts[:, label].sum()), int(counts[label].sum())
        f1 = 2 * hits / (taken + there) if taken + there else 0.0
        found.append((hits / taken if taken else 0.0, hits / there if there else 0.0, f1, there))
    return found


def measure(counts: Counts) -> dict[str, float]:
    """Return accuracy, and F1 averaged over the labels that occur or were found.

    Example:
        >>> measure(confusion([0, 0, 1], [0, 1, 1], 3))
        {'accuracy': 0.6666666666666666, 'macro_f1': 0.6666666666666666}
    """
    seen = (counts.sum(0) + counts.sum(1)) > 0
    f1 = [row[2] for row, counts_too in zip(per_label(counts), seen, strict=True) if counts_too]
    return {
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "macro_f1": float(np.mean(f1)),
    }
