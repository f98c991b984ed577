"""The directory of one training: its settings, what was measured, its checkpoints, its plot.

config.json         the job, its settings, and which data they were used on
metrics.jsonl       one line for every ten updates and for every evaluation
best.safetensors    the weights that did best on what was held out
last.safetensors    everything needed to go on from the last checkpoint as if never stopped
result.json         what the best weights are worth, beside the baselines, when training has ended
details.json        what the report shows beside that
loss.png            the losses, drawn when training ends or is stopped
"""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from elman.checkpoint import write_atomically
from elman.tasks import InputError

__all__ = ["Run"]

_BIT = math.log(2)  # nats


class Run:
    """The directory of one training, made or found.

    Args:
        path: the directory.
        config: what config.json holds.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        """See `create` and `open`, which are the ways to get a run."""
        self.path = path
        self.config = config
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.plot = path / "loss.png"
        self._metrics = path / "metrics.jsonl"

    @staticmethod
    def create(path: Path, config: dict[str, Any]) -> "Run":
        """Make the directory of a new run; one that is there and not empty is left as it is.

        Raises:
            InputError: something is there already, or the directory cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(
                    f"{path} exists: add --resume to go on with that run, or choose another"
                    f" directory with --out"
                )
            run = Run(path, config)
            run.configure(config)
        except OSError as error:
            raise InputError(f"cannot make the run {path}: {error.strerror}") from error
        return run

    @staticmethod
    def open(path: Path) -> "Run":
        """Find the run that an earlier training made.

        Raises:
            InputError: there is none.
        """
        try:
            config = json.loads((path / "config.json").read_text("utf-8"))
        except OSError as error:
            raise InputError(f"{path} is not a run: cannot read its config.json") from error
        except ValueError as error:
            raise InputError(f"{path} is not a run: its config.json is damaged") from error
        return Run(path, config)

    def configure(self, config: dict[str, Any]) -> None:
        """Write config.json anew."""
        self.config = config
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(self.path / "config.json", text.encode())

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Put metrics.jsonl on the disk, before a checkpoint that counts on it."""
        if self._metrics.exists():
            with self._metrics.open("a") as file:
                os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl, up to a line that a crash left unfinished."""
        found: list[dict[str, Any]] = []
        with suppress(FileNotFoundError, ValueError):
            found.extend(map(json.loads, self._metrics.read_text("utf-8").splitlines()))
        return found

    def rewind(self, step: int) -> None:
        """Drop from metrics.jsonl what was measured after update `step`: it will be made again."""
        kept = [r for r in self.records() if r["step"] <= step and r["kind"] != "result"]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self._metrics, text.encode())

    def conclude(self, result: dict[str, Any], details: list[dict[str, Any]]) -> None:
        """Write result.json and details.json anew; numbers that are none become null."""
        for name, value in (("details", details), ("result", result)):
            text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
            write_atomically(self.path / f"{name}.json", text.encode())

    def draw(self) -> None:
        """Draw loss.png from metrics.jsonl, with the job's name of the loss; nats also as bits."""
        from matplotlib.figure import Figure

        records = self.records()
        loss_name = str(self.config.get("loss", "loss"))
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot(xlabel="updates", ylabel=loss_name)
        for kind, name, style in (("train", "training", "-"), ("evaluation", "held out", "o-")):
            points = [(r["step"], r["loss"]) for r in records if r["kind"] == kind]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=name, markersize=3)
        if "nats" in loss_name:
            bits = axes.secondary_yaxis(
                "right",
                functions=(
                    lambda nats: np.divide(nats, _BIT),
                    lambda bits: np.multiply(bits, _BIT),
                ),
            )
            bits.set_ylabel(loss_name.replace("nats", "bits"))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        figure.savefig(self.plot, dpi=120)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
