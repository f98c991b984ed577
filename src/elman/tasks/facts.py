"""What is known of a run: the facts of `elman info`, `elman compare` and `elman report`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elman.tasks import InputError
from elman.tasks.run import Run
from elman.tasks.trained import described, load

__all__ = ["Facts", "compare", "read"]


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
