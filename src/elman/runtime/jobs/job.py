"""What the models of the jobs have in common: chains, what is known beside them, and padding.

A model of a job is one or more chains with NumPy between them. What it takes and gives are values
of Python: texts, sentences, arrays. Files and lines are `elman.tasks`'.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.language import say
from elman.runtime.facts import Facts
from elman.runtime.file import FileError, Stored
from elman.runtime.model import Model, check_format
from elman.runtime.modules import Embedding, Floats, Recurrent

__all__ = [
    "Entry",
    "JobModel",
    "check_integer",
    "embedding",
    "function",
    "largest",
    "last_outputs",
    "linear",
    "padded",
    "recurrent",
]

Entry = dict[str, Any]  # a module of a chain, as a file describes it


class JobModel(ABC):
    """A model that a job of `elman train` made.

    Args:
        description: what the file says of it.
        tensors: its weights.
        digest: the checksum of both.
        threads: how many threads a call over many steps may use.

    Attributes:
        job: the name of the job.
        knowledge: what it knows of the data that it learnt from, a value for JSON.

    Raises:
        FileError: the description is not complete, or does not fit the weights or itself.
        InputError: threads is out of range.
    """

    job: ClassVar[str]

    def __init__(
        self,
        description: Mapping[str, Any],
        tensors: Mapping[str, Stored],
        digest: str,
        threads: int = 1,
    ) -> None:
        """Make the chains, and check that they fit what is known."""
        check_format(description)
        self.description, self.digest = dict(description), digest
        self.facts = Facts(say("the knowledge of the file"), description.get("knowledge"))
        self.knowledge = dict(self.facts.values)
        chains = Facts(say("the chains of the file"), description.get("chains"))
        self.chains = {
            str(name): Model({**description, "modules": entries}, tensors, digest, threads)
            for name, entries in chains.values.items()
        }
        self._know()

    @abstractmethod
    def _know(self) -> None:
        """Take what the job needs from the knowledge, and check that the chains fit it.

        Raises:
            FileError: it is not complete, or they do not.
        """

    def chain(
        self, name: str, inputs: int, width: int | None = None, *, symbols: bool = False
    ) -> Model:
        """Return a chain, of the sizes that what surrounds it needs.

        Args:
            name: what it is called.
            inputs: how many numbers, or different symbols, it takes.
            width: how many numbers it gives; None for any.
            symbols: whether it takes symbols.

        Raises:
            FileError: there is none, or it has other sizes.
        """
        chain = self.chains.get(name)
        if chain is None:
            raise FileError(
                say(
                    "the file must have a chain {name}, got {got}",
                    name=repr(name),
                    got=", ".join(self.chains),
                )
            )
        first = chain.modules[0]
        takes = first.symbols if isinstance(first, Embedding) else chain.inputs
        if takes != inputs or chain.takes_integers != symbols:
            what = say("different symbols") if symbols else say("numbers")
            raise FileError(
                say(
                    "the chain {name} must take {inputs} {what}, got {got}",
                    name=repr(name),
                    inputs=inputs,
                    what=what,
                    got=takes,
                )
            )
        if width is not None and chain.width != width:
            raise FileError(
                say(
                    "the chain {name} must give {width} numbers, got {got}",
                    name=repr(name),
                    width=width,
                    got=chain.width,
                )
            )
        return chain

    def layers(self, name: str) -> Recurrent:
        """Return the recurrent module of a chain that has one.

        Raises:
            FileError: the chain has none, or several.
        """
        found = [m for m in self.chains[name].modules if isinstance(m, Recurrent)]
        if len(found) != 1:
            raise FileError(
                say(
                    "the chain {name} must have one recurrent module, got {count}",
                    name=repr(name),
                    count=len(found),
                )
            )
        return found[0]


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return an argument that must be an integer within bounds.

    Raises:
        InputError: it is something else.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        got = repr(value)
        if isinstance(value, int) and abs(value) >= 10**30:
            got = say("more")
        if most is None:
            text = say(
                "{name} must be at least {least}, got {got}", name=name, least=least, got=got
            )
        else:
            text = say(
                "{name} must be at least {least} and at most {most}, got {got}",
                name=name,
                least=least,
                most=most,
                got=got,
            )
        raise InputError(text, name)
    return value


def padded(rows: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Put rows side by side, with zeros after the shorter ones.

    Args:
        rows: at least one, (L, ...) each.

    Returns:
        (the longest L, N, ...), and the (N,) lengths.

    Example:
        >>> array, lengths = padded([np.array([5, 6, 7]), np.array([8])])
        >>> array.tolist(), lengths.tolist()
        ([[5, 8], [6, 0], [7, 0]], [3, 1])
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    array = np.zeros((lengths.max(), len(rows), *rows[0].shape[1:]), rows[0].dtype)
    for column, row in enumerate(rows):
        array[: len(row), column] = row
    return array, lengths


def last_outputs(output: Floats, lengths: NDArray[np.int64]) -> Floats:
    """Return what each of two directions gave last, the second of them at the first step.

    Args:
        output: (L, N, F), the directions side by side.
        lengths: (N,) steps of each sequence, at least 1.

    Returns:
        (N, F).
    """
    half, columns = output.shape[-1] // 2, np.arange(len(lengths))
    return np.concatenate([output[lengths - 1, columns, :half], output[0, :, half:]], -1)


def largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Return where the largest numbers of each row are, the largest first.

    Args:
        values: (N, M).
        count: how many, from 1 to M.

    Returns:
        (N, count) places.

    Example:
        >>> largest(np.array([[2.0, 5.0, 1.0, 5.0]]), 3)
        array([[1, 3, 0]])
    """
    found = np.sort(np.argpartition(-values, count - 1, axis=-1)[:, :count], axis=-1)
    order = np.argsort(-np.take_along_axis(values, found, 1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, 1)


# --- how the modules of a chain are described ----------------------------------------------------


def embedding(name: str, symbols: int, width: int) -> Entry:
    """Describe a table with a row for each symbol."""
    return {"name": name, "kind": "embedding", "symbols": symbols, "width": width}


def linear(name: str, inputs: int, width: int, *, bias: bool = True) -> Entry:
    """Describe y = x W^T + b."""
    return {"name": name, "kind": "linear", "inputs": inputs, "width": width, "bias": bias}


def function(name: str, of: str, width: int) -> Entry:
    """Describe a function of the features."""
    return {"name": name, "kind": "function", "function": of, "width": width}


def recurrent(
    name: str, settings: Mapping[str, Any], inputs: int, hidden: int, layers: int, *, both: bool
) -> Entry:
    """Describe recurrent layers of the cell that the settings name.

    Args:
        name: that of the module.
        settings: those of the training.
        inputs: numbers in.
        hidden: units of a direction.
        layers: how many are on top of each other.
        both: whether they have two directions.
    """
    cell = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}[settings["cell"]]
    return {
        **{"name": name, "kind": "recurrent", "cell": cell, "inputs": inputs},
        **{"hidden_size": hidden, "num_layers": layers, "proj_size": 0},
        **{"bidirectional": both, "bias": True, "batch_first": False},
    }
