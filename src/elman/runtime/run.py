"""The directory of a training, as far as its model is used: config.json and the checkpoints.

`elman.tasks.run` writes it, and reads the rest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from elman import checkpoint
from elman.language import say
from elman.runtime.file import FileError

__all__ = ["FREE", "check_same", "json_object", "read", "read_config", "weights"]

FREE = ("files", "epochs", "max_time", "patience", "threads")  # may be others when a run goes on


def read_config(path: Path) -> dict[str, Any]:
    """Read the config.json of a run.

    Raises:
        FileError: there is no run.
    """
    file = path / "config.json"
    try:
        if not path.exists():
            raise FileError(say("there is no run at {path}: give the directory of one", path=path))
        if not file.is_file():
            raise FileError(say("{path} is not a run: it has no config.json", path=path))
        config = json_object(file.read_bytes())
    except OSError as error:
        raise FileError(
            say("cannot read {file}: {reason}", file=file, reason=error.strerror)
        ) from error
    if not config:
        raise FileError(say("{path} is not a run: its config.json is damaged", path=path))
    return config


def weights(path: Path) -> Path:
    """Return the best checkpoint of a run, or the last if it was stopped before it was evaluated.

    Raises:
        FileError: there is none.
    """
    file = path / "best.safetensors"
    file = file if file.exists() else path / "last.safetensors"
    if not file.exists():
        raise FileError(
            say("{path} has no checkpoint yet: train it first, with --resume", path=path)
        )
    return file


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the model of a run.

    Args:
        path: the directory.

    Returns:
        The weights of the model by name, and what was saved beside them.

    Raises:
        FileError: there is none, it is damaged or of another run, or config.json was changed.
    """
    config, file = read_config(path), weights(path)
    try:
        tensors, extra = checkpoint.arrays(file, "model.")
    except OSError as error:
        raise FileError(
            say("cannot read {file}: {reason}", file=file, reason=error.strerror or error)
        ) from error
    except checkpoint.CheckpointError as error:
        raise FileError(str(error)) from error
    check_same(path, config, file, extra)
    return tensors, extra


def check_same(path: Path, config: Mapping[str, Any], file: Path, extra: Any) -> None:
    """Refuse a checkpoint that was not made with what config.json says, but for `FREE`.

    Args:
        path: the directory.
        config: what config.json holds.
        file: the checkpoint.
        extra: what was saved beside its tensors.

    Raises:
        FileError: it is of another run, or config.json was changed since.
    """
    then = extra.get("run") if isinstance(extra, dict) else None
    if not isinstance(then, dict) or then.get("id") != config.get("id"):
        raise FileError(
            say(
                "{file} belongs to another run: put that of {path} in its place",
                file=file,
                path=path,
            )
        )
    was, now = _facts(then), _facts(config)
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            raise FileError(
                say(
                    "{config} was changed: it says {name} {now}, but {file} was made with "
                    "{then}; put that back",
                    config=path / "config.json",
                    name=name,
                    now=now.get(name),
                    file=file.name,
                    then=was.get(name),
                )
            )


def json_object(content: bytes) -> dict[str, Any]:
    """Return the object that the JSON holds, empty if it is damaged or anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint depends on: the settings and what is told of the data, by name."""
    facts: dict[str, Any] = {}
    for part, value in json.loads(json.dumps(config)).items():
        names = value if isinstance(value, dict) else {part: value}
        facts |= {name: names[name] for name in names if name not in (*FREE, "version")}
    return facts
