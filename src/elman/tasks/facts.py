"""What is known of a run or of a file made of one: for `elman info`, `compare` and `report`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elman import runtime
from elman.runtime.file import read as read_model
from elman.tasks import InputError
from elman.tasks.run import Run
from elman.tasks.trained import described, load

__all__ = ["Facts", "compare", "read", "read_file"]

_LISTED = 12  # of what is told of a file; of more, their number


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    Args:
        path: its directory.
        job: what it was trained for.
        version: of elman, that made it.
        source: what was read, by name.
        settings: how it was trained, by name.
        data: counts, and the digest of the data.
        weights: the shape of each weight, by name; empty before the first checkpoint.
        step: updates of the weights.
        seconds: time in training.
        metrics: of the best weights on all that is held out, or of the best evaluation so far.
        baselines: for each baseline its measures by name.
        lines: what is to be said of them.
        details: what the report shows beside, as in details.json.
        records: what metrics.jsonl has.
        finished: whether the training has ended.
    """

    path: Path
    job: str
    version: str
    source: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    weights: dict[str, tuple[int, ...]]
    step: int
    seconds: float
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    lines: tuple[str, ...]
    details: list[dict[str, Any]]
    records: list[dict[str, Any]]
    finished: bool


def read(path: Path) -> Facts:
    """Gather what is known of a run.

    Args:
        path: its directory.

    Raises:
        InputError: there is no run, or one of its files is damaged.
    """
    run = Run.open(path)
    job, _, _ = described(run)
    records = run.records()
    results = [record for record in records if record["kind"] == "result"]
    judged = [record for record in records if record["kind"] == "evaluation" and record.get("best")]
    shown = (results or judged or [{}])[-1]
    has_weights = run.best.exists() or run.last.exists()
    weights = load(path).model.state_dict() if has_weights else {}
    return Facts(
        path=path,
        job=job.name,
        version=str(run.config.get("version", "")),
        source=run.config["source"],
        settings=run.config["settings"],
        data=run.config.get("data", {}),
        weights={name: tuple(weight.shape) for name, weight in weights.items()},
        step=records[-1]["step"] if records else 0,
        seconds=records[-1]["clock"]["seconds"] if records else 0.0,
        metrics=shown.get("metrics", {}),
        baselines=shown.get("baselines", {}),
        lines=tuple(shown.get("lines", ())),
        details=_details(path) if results else [],
        records=records,
        finished=bool(results),
    )


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Tell what is in a file that `elman export` or `elman.save` wrote.

    Args:
        path: the file.

    Returns:
        What is to be told of it, by name, and the shape of each weight.

    Raises:
        InputError: it is none, or damaged.
    """
    try:
        description, tensors, _ = read_model(path)
        model = runtime.load(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    told: dict[str, Any] = {
        "job": getattr(model, "job", None),
        "format": description["format"],
        "weights": description.get("weights"),
        "bytes": path.stat().st_size,
    }
    for name, value in getattr(model, "knowledge", {}).items():
        is_long = isinstance(value, (str, list, dict)) and len(value) > _LISTED
        told[name] = f"{len(value):,}" if is_long else value
    chains = description.get("chains") or {"modules": description.get("modules")}
    for name, entries in chains.items():
        told[f"chain {name}"] = " -> ".join(map(_module, entries))
    return told, {name: stored.array.shape for name, stored in sorted(tensors.items())}


def _module(entry: Mapping[str, Any]) -> str:
    """Say what a module is, with the width of what it gives."""
    if entry["kind"] != "recurrent":
        return f"{entry.get('function', entry['kind'])} ({entry['width']})"
    layers = f" x {entry['num_layers']}" if entry["num_layers"] > 1 else ""
    both = ", both directions" if entry["bidirectional"] else ""
    return f"{entry['cell']} ({entry['proj_size'] or entry['hidden_size']}{layers}{both})"


def _details(path: Path) -> list[dict[str, Any]]:
    file = path / "details.json"
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({error}): train on with --resume to renew it") from (
            error
        )
    return found if isinstance(found, list) else []


def compare(runs: list[Facts]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return what differs between runs, and what they are worth, side by side.

    Args:
        runs: the facts of each.

    Returns:
        The settings that differ, and the measures, each by name: a value for each run, None where a
        run has none.

    Example:
        >>> facts = dict.fromkeys(Facts.__dataclass_fields__)
        >>> one = Facts(**facts | {"source": {}, "settings": {"lr": 1}, "metrics": {"mae": 2.0}})
        >>> other = Facts(**facts | {"source": {}, "settings": {"lr": 2}, "metrics": {}})
        >>> compare([one, other])
        ({'lr': [1, 2]}, {'mae': [2.0, None]})
    """
    settings = [{"job": facts.job, **facts.source, **facts.settings} for facts in runs]
    columns = {
        name: [of.get(name) for of in settings]
        for name in dict.fromkeys(n for s in settings for n in s)
    }
    differing = {
        name: values
        for name, values in columns.items()
        if any(value != values[0] for value in values)
    }
    names = dict.fromkeys(name for facts in runs for name in facts.metrics)
    return differing, {name: [facts.metrics.get(name) for facts in runs] for name in names}
