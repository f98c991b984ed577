"""Labelled sequences from files: what the samples are, and which of them are held out.

A sample is a text or a series of numbers. Where it came from is kept beside it, so that a mistake
is found again in the file.
"""

import csv
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from elman.extras import needed
from elman.tasks import InputError
from elman.tasks.files import check, read_text
from elman.tasks.labels.settings import LabelsSource

__all__ = ["Samples", "read_samples", "read_unlabelled", "split"]

Series: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
_TABLES = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}  # and what parts the columns
_SERIES = (".npz", ".ts")
_HELD_OUT = 10  # every tenth sample of a label
_LEAST = 5  # samples of a label, for one of them to be held out


@dataclass(frozen=True)
class Samples:
    """Sequences and their labels.

    Args:
        inputs: texts, or series as (L, F) float32.
        labels: the label of each; empty where there are none.
        places: where each came from: a file and a row.
        whole_files: whether each text is a file of its own, and not a line or a row.
        digest: SHA-256 of the bytes of all files, in hexadecimal.
        notes: what is to be said of the files, a sentence each.
    """

    inputs: tuple[Any, ...]
    labels: tuple[str, ...]
    places: tuple[str, ...]
    whole_files: bool = False
    digest: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.inputs)

    @property
    def is_text(self) -> bool:
        """Whether the samples are texts, and not series."""
        return isinstance(self.inputs[0], str)

    def take(self, which: Iterable[int]) -> "Samples":
        """Return some of the samples, in the order of their numbers given."""
        which = list(which)
        return replace(
            self,
            inputs=tuple(self.inputs[i] for i in which),
            labels=tuple(self.labels[i] for i in which),
            places=tuple(self.places[i] for i in which),
        )


def read_samples(files: Sequence[str], source: LabelsSource) -> Samples:
    """Read labelled samples from files and directories.

    Args:
        files: directories of texts, tables or files of series, all of one kind.
        source: the columns of a table.

    Raises:
        InputError: one cannot be read or understood, has a sample without content or label, or is
            of another kind than those before; the message names file and row.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, text in {"Dutch": "Aalst\\nJansen\\n", "Irish": "Adair\\n"}.items():
        ...     _ = (folder / f"{name}.txt").write_text(text)
        >>> samples = read_samples([str(folder)], LabelsSource(files=()))
        >>> samples.inputs, samples.labels
        (('Aalst', 'Jansen', 'Adair'), ('Dutch', 'Dutch', 'Irish'))
    """
    digest = hashlib.sha256()
    parts = [_read(Path(file), source, digest) for file in files]
    for file, part in zip(files, parts, strict=True):
        if not len(part):
            raise InputError(f"cannot learn from {file}: there is no sample in it")
        if (part.is_text, part.whole_files) != (parts[0].is_text, parts[0].whole_files):
            raise InputError(
                f"{file} has samples of another kind than {files[0]}: train on one kind at a time"
            )
    samples = replace(_joined(parts), digest=digest.hexdigest())
    for place, label in zip(samples.places, samples.labels, strict=True):
        if not label.strip() or not label.isprintable():
            raise InputError(f"{place}: a label must be a word or words in one line, got {label!r}")
    _check_inputs(samples)
    return samples


def read_unlabelled(given: str, source: LabelsSource, *, series: bool, whole: bool) -> Samples:
    """Read what labels are asked for.

    Args:
        given: a file, "-" for standard input, or a text itself.
        source: the columns of a table, as the model was trained.
        series: whether the model takes series of numbers.
        whole: whether a text is a whole file for the model, and not a line of it.

    Raises:
        InputError: it cannot be read or understood; the message names file and row.

    Example:
        >>> read_unlabelled("Janssen", LabelsSource(files=()), series=False, whole=False).inputs
        ('Janssen',)
    """
    path = Path(given)
    if series:
        if path.suffix not in _SERIES:
            raise InputError(
                f"the model labels series of numbers: give a file .npz or .ts, got {given!r}"
            )
        samples = _read_series(path, is_labelled=False)
    elif given != "-" and _is_file(path) and path.suffix in _TABLES:
        rows = _read_table(path, (source.text or "text",))
        samples = Samples(tuple(row[0] for _, row in rows), (), tuple(place for place, _ in rows))
    elif given == "-" or _is_file(path):
        name = "standard input" if given == "-" else given
        if given == "-":
            text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        else:
            text = read_text(path).text
        samples = Samples((text,), (), (name,)) if whole else _lines(text, name)
    else:
        samples = Samples((given,), (), ("the text",))
    if not len(samples):
        raise InputError(f"there is nothing to label: {given} is empty")
    _check_inputs(samples)
    return samples


def split(labels: Sequence[str]) -> tuple[list[int], list[int]]:
    """Part the samples into those to learn from and those held out: a tenth of each label.

    A label with fewer than five samples has none held out. The choice is a function of the labels
    alone.

    Args:
        labels: the label of each sample.

    Returns:
        The numbers of the samples to learn from, and of those held out, both in order.

    Example:
        >>> learnt, held_out = split(["a"] * 30 + ["b"] * 5 + ["c"] * 4)
        >>> len(learnt), sum(i < 30 for i in held_out), sum(i >= 30 for i in held_out)
        (35, 3, 1)
    """
    chance = np.random.default_rng(0)
    found = np.asarray(labels)
    held_out: list[int] = []
    for label in sorted(set(labels)):
        (rows,) = np.nonzero(found == label)
        share = max(1, round(len(rows) / _HELD_OUT)) if len(rows) >= _LEAST else 0
        held_out += chance.permutation(rows)[:share].tolist()
    return sorted(set(range(len(labels))) - set(held_out)), sorted(held_out)


# --- files --------------------------------------------------------------------------------------


def _read(path: Path, source: LabelsSource, digest: Any) -> Samples:
    if path.is_dir():
        return _read_directory(path, digest)
    check(path)
    digest.update(path.read_bytes())
    if path.suffix in _SERIES:
        return _read_series(path, is_labelled=True)
    if path.suffix in _TABLES:
        rows = _read_table(path, (source.text or "text", source.label or "label"))
        return Samples(
            tuple(text for _, (text, _) in rows),
            tuple(label for _, (_, label) in rows),
            tuple(place for place, _ in rows),
        )
    raise InputError(
        f"cannot tell the labels of {path}: give a directory with a file or a directory for each"
        " label, a table (.csv, .tsv, .jsonl) with a column of texts and one of labels, or series"
        " (.npz, .ts)"
    )


def _read_directory(path: Path, digest: Any) -> Samples:
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(folders) < len(entries):
        stray = next(entry for entry in entries if not entry.is_dir())
        raise InputError(
            f"{path} has files beside directories, such as {stray.name}: it must have either a"
            " file for each label or a directory for each label"
        )
    parts = []
    for entry in entries:
        files = entry.rglob("*") if folders else (entry,)
        for file in sorted(f for f in files if f.is_file() and not f.name.startswith(".")):
            read = read_text(file)
            digest.update(f"{file.relative_to(path)}\0".encode("utf-8", "surrogateescape"))
            digest.update(read.content)
            if folders:
                samples = Samples((read.text,), (entry.name,), (str(file),), True)
            else:
                samples = _lines(read.text, str(file))
                samples = replace(samples, labels=(file.stem,) * len(samples))
            parts.append(replace(samples, notes=read.notes))
    return _joined(parts) if parts else Samples((), (), ())


def _joined(parts: Sequence[Samples]) -> Samples:
    """Return the samples of several files as one; they are of one kind."""
    return Samples(
        inputs=tuple(sample for part in parts for sample in part.inputs),
        labels=tuple(label for part in parts for label in part.labels),
        places=tuple(place for part in parts for place in part.places),
        whole_files=parts[0].whole_files,
        notes=tuple(note for part in parts for note in part.notes),
    )


def _lines(text: str, name: str) -> Samples:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    places = tuple(f"{name}, line {number}" for number in range(1, len(lines) + 1))
    return Samples(tuple(lines), (), places) if lines != [""] else Samples((), (), ())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no name of a file
        return False


# The place of each row, and its cells in the columns asked for.
def _read_table(path: Path, columns: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    separator = _TABLES[path.suffix]
    names, rows = (_read_cells if separator else _read_objects)(path, read_text(path).text)
    for column in columns:
        if column not in names:
            flags = " and ".join(f"--{name} COL" for name in ("text", "label")[: len(columns)])
            raise InputError(
                f"{path} has no column {column!r}, only {', '.join(map(repr, names))}:"
                f" name the columns with {flags}"
            )
    found = []
    for place, row in rows:
        cells = tuple(row.get(column) for column in columns)
        for index, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            if cell is None:
                raise InputError(f"{place}: column {column!r} is empty: fill it, or drop the row")
            if not isinstance(cell, str) and (index == 0 or not isinstance(cell, (int, bool))):
                raise InputError(f"{place}: column {column!r} must be text, got {cell!r}")
        found.append((place, tuple(str(cell).strip() for cell in cells)))
    return found


# The names of the columns, and each row with its place; what is missing or empty is left out.
_Rows: TypeAlias = tuple[Sequence[str], list[tuple[str, dict[str, Any]]]]


def _read_cells(path: Path, text: str) -> _Rows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_TABLES[path.suffix])
    names: list[str] = []
    found: list[tuple[str, dict[str, Any]]] = []
    usual = csv.field_size_limit(len(text) + 1)  # a text may be longer than csv expects of a cell
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = cells
                continue
            place = f"{path}, row {len(found) + 1}"
            if len(cells) > len(names):
                raise InputError(
                    f"{place}: {len(cells)} columns, but the header has {len(names)}; mend the file"
                )
            filled = zip(names, cells, strict=False)
            found.append((place, {name: cell for name, cell in filled if cell}))
    except csv.Error as error:
        raise InputError(f"{path}, row {len(found) + 1}: {error}; mend the file") from error
    finally:
        csv.field_size_limit(usual)
    return names, found


def _read_objects(path: Path, text: str) -> _Rows:
    names: dict[str, None] = {}
    found: list[tuple[str, dict[str, Any]]] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        place = f"{path}, row {len(found) + 1}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: it is not JSON: {error}; mend the file") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: it is not a JSON object; mend the file")
        names |= dict.fromkeys(row)
        found.append((place, row))
    return list(names), found


def _read_series(path: Path, *, is_labelled: bool) -> Samples:
    rows, labels = (_read_npz if path.suffix == ".npz" else _read_ts)(path, is_labelled)
    places = tuple(f"{path}, series {number}" for number in range(1, len(rows) + 1))
    return Samples(tuple(row.astype(np.float32) for row in rows), tuple(labels), places)


def _read_npz(path: Path, is_labelled: bool) -> tuple[list[Series], list[str]]:
    form = (
        "it must hold x, numbers (N, L, F), and y, (N,) labels; series of different lengths are"
        " put one after another, x (sum of L, F), with their lengths, (N,)"
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile, NumPy and zlib each have their own
        raise InputError(f"cannot read {path}: {error}; {form}") from error
    if missing := [name for name in ("x", "y")[: 1 + is_labelled] if name not in arrays]:
        raise InputError(f"{path} has no {missing[0]}, only {', '.join(arrays)}: {form}")
    x, lengths = arrays["x"], arrays.get("lengths")
    if x.dtype.kind not in "fiub":
        raise InputError(f"{path}: x must be numbers, got {x.dtype}; {form}")
    if lengths is None:
        if x.ndim == 2:
            x = x[:, :, None]
        if x.ndim != 3:
            raise InputError(f"{path}: x must be (N, L, F) or (N, L), got {x.shape}; {form}")
        rows = list(x)
    else:
        if x.ndim == 1:
            x = x[:, None]
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
            raise InputError(f"{path}: lengths must be (N,) whole numbers from 0; {form}")
        if x.ndim != 2 or len(x) != lengths.sum():
            raise InputError(
                f"{path}: x must be (sum of lengths, F) = ({lengths.sum()}, F), got {x.shape}"
            )
        rows = np.split(x, np.cumsum(lengths)[:-1]) if len(lengths) else []
    if not is_labelled:
        return rows, []
    y = arrays["y"]
    if y.shape != (len(rows),):
        raise InputError(
            f"{path}: y must be (N,) = ({len(rows)},), got {y.shape}: a label a series"
        )
    if y.dtype.kind == "f" and (y == np.round(y)).all():
        y = y.astype(np.int64)
    if y.dtype.kind not in "UiubS":
        raise InputError(f"{path}: y must be words or whole numbers, got {y.dtype}")
    return rows, [v.decode() if isinstance(v, bytes) else str(v) for v in y.tolist()]


def _read_ts(path: Path, is_labelled: bool) -> tuple[list[Series], list[str]]:
    with needed(f"reading {path}", "labels"):
        from aeon.datasets import load_from_ts_file
    try:
        rows, labels, about = load_from_ts_file(str(path), return_meta_data=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # its parser lets through whatever goes wrong
        raise InputError(f"cannot read {path} as a file of time series: {error}") from error
    if is_labelled and not about["classlabel"]:
        raise InputError(f"{path} has no labels: its @classLabel must be true, with their names")
    return [np.asarray(row).T for row in rows], [str(label) for label in labels]


def _check_inputs(samples: Samples) -> None:
    for place, sample in zip(samples.places, samples.inputs, strict=True):
        if not len(sample) or (isinstance(sample, str) and not sample.strip()):
            raise InputError(f"{place}: the sequence is empty: fill it, or take it out")
        if isinstance(sample, str):
            continue
        first = samples.inputs[0]
        if sample.shape[1] != first.shape[1]:
            raise InputError(
                f"{place}: it has {sample.shape[1]} features, but {samples.places[0]} has"
                f" {first.shape[1]}"
            )
        if np.isinf(sample).any():
            step, feature = np.argwhere(np.isinf(sample))[0]
            raise InputError(
                f"{place}, step {step + 1}, feature {feature + 1}: it is infinite: give a number,"
                " or NaN for one that is missing"
            )


def counted(labels: Iterable[str]) -> dict[str, int]:
    """Return how often each label occurs, in the order of the labels."""
    return dict(sorted(Counter(labels).items()))
