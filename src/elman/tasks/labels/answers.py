"""What `elman predict` reads and writes with a model of labels."""

from collections.abc import Iterator

from elman.runtime import Labels
from elman.tasks import InputError
from elman.tasks.labels.data import read_unlabelled
from elman.tasks.labels.settings import LabelsPrediction, LabelsSource

__all__ = ["lines"]


def lines(model: Labels, given: str | None, options: LabelsPrediction) -> Iterator[str]:
    """Give the likeliest labels of each sequence, with their probabilities, tabs between.

    Args:
        model: the model.
        given: a text, a file, or "-" for standard input.
        options: how many labels.

    Raises:
        InputError: the input cannot be used.
    """
    if given is None:
        raise InputError("say what to label: a text, a file, or - for standard input")
    samples = read_unlabelled(
        given,
        LabelsSource(files=(), text=model.knowledge.get("text")),
        series=model.knowledge["level"] == "series",
        whole=model.knowledge["whole_files"],
    )
    for likely in model.predict(samples.inputs, options.top):
        yield "\t".join(f"{label}\t{share:.4f}" for label, share in likely)
