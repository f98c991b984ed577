"""What a model of labels is measured beside: what needs no training, or is done by a library."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from elman.tasks.labels.data import Samples
from elman.tasks.measures import confusion, measure

__all__ = ["baselines"]

_DTW_STEPS = 2e9  # of the tables of dynamic time warping, in all: about half a minute
_BAYES = 10**7  # characters for naive Bayes, at most


def baselines(
    held_out: Samples, training: Samples | None, knowledge: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Measure what needs no training: a constant, and the nearest or likeliest by a library.

    Args:
        held_out: what is judged.
        training: what was learnt from; None if it is no longer there, and then only the constant
            is measured.
        knowledge: the labels and how often each occurs.

    Returns:
        Measures by baseline: the commonest label; for texts naive Bayes over their words or over
        runs of up to three characters, if scikit-learn is installed; for series the nearest
        neighbour under dynamic time warping, if aeon is installed and the series are not too many.
    """
    names = list(knowledge["labels"])
    number = {name: index for index, name in enumerate(names)}
    true = [number[label] for label in held_out.labels]
    commonest = max(names, key=knowledge["labels"].__getitem__)
    found = {
        "commonest label": measure(confusion(true, [number[commonest]] * len(true), len(names)))
    }
    guesses = {} if training is None else _by_library(held_out, training, knowledge["level"])
    for name, guess in guesses.items():
        found[name] = measure(confusion(true, [number[label] for label in guess], len(names)))
    return found


def _by_library(held_out: Samples, training: Samples, level: str) -> dict[str, Sequence[str]]:
    if held_out.is_text:
        if sum(map(len, training.inputs)) > _BAYES:
            return {}
        try:
            from sklearn.feature_extraction.text import CountVectorizer
            from sklearn.naive_bayes import MultinomialNB
        except ImportError:
            return {}
        words = {"analyzer": "word", "token_pattern": r"\w+"}
        cut = words if level == "words" else {"analyzer": "char_wb", "ngram_range": (1, 3)}
        counter, bayes = CountVectorizer(**cut), MultinomialNB()
        try:
            bayes.fit(counter.fit_transform(training.inputs), training.labels)
        except ValueError:  # texts without a word
            return {}
        return {"naive Bayes": bayes.predict(counter.transform(held_out.inputs)).tolist()}
    lengths = [sum(len(row) for row in samples.inputs) for samples in (held_out, training)]
    if lengths[0] * lengths[1] > _DTW_STEPS or any(
        np.isnan(row).any() for samples in (held_out, training) for row in samples.inputs
    ):
        return {}
    try:
        from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier
    except ImportError:
        return {}
    nearest = KNeighborsTimeSeriesClassifier(n_neighbors=1, distance="dtw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what numba says of aeon's code
        nearest.fit([row.T.astype(float) for row in training.inputs], np.asarray(training.labels))
        guess = nearest.predict([row.T.astype(float) for row in held_out.inputs])
    return {"1-NN with DTW": [str(label) for label in guess]}
