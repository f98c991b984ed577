"""The directory of one training: its settings, what was measured, its checkpoints, its plot.

config.json         the job, its settings, their data, and a name that no other run has
metrics.jsonl       one line for every ten updates and for every evaluation
best.safetensors    the weights that did best on what was held out
last.safetensors    everything needed to go on from the last checkpoint as if never stopped
result.json         what the best weights are worth, beside the baselines, when training has ended
details.json        what the report shows beside that
loss.png            the losses, drawn when training ends or is stopped
.lock               held by the process that trains

Each checkpoint repeats what config.json says, and is only taken for that run, those settings and
that data.
"""

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elman import checkpoint
from elman.checkpoint import unfinished, write_atomically, writing
from elman.extras import needed
from elman.language import say
from elman.runtime.run import FREE, check_same, json_object, read_config
from elman.tasks import InputError
from elman.tasks.plot import new_figure, save_figure

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FREE", "Run"]

_BIT = math.log(2)  # nats


class Run:
    """The directory of one training, made or found.

    Args:
        path: the directory.
        config: what config.json holds.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """See `create` and `open`, which are the ways to get a run."""
        self.path = path
        self.config: dict[str, Any] = dict(config)
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.plot = path / "loss.png"
        self._metrics = path / "metrics.jsonl"
        self._config = path / "config.json"

    @staticmethod
    def create(path: Path, config: Mapping[str, Any]) -> "Run":
        """Make the directory of a new run; one that is there and not empty is left as it is.

        What a run that was killed while it was made has left counts as empty.

        Args:
            path: the directory.
            config: what JSON can hold; all of it but `FREE` is what its checkpoints depend on.

        Raises:
            InputError: something is there already, or the directory cannot be made.
        """
        run = Run(path, {"id": secrets.token_hex(8), **config})
        try:
            path.mkdir(parents=True, exist_ok=True)
            Run.refuse_to_overwrite(path)
            with run.lock():
                Run.refuse_to_overwrite(path)  # for another process may have been as fast
                run.configure(run.config)
        except OSError as error:
            raise InputError(
                say(
                    "cannot make the run {path}: {reason}",
                    path=path,
                    reason=error.strerror or error,
                )
            ) from error
        return run

    @staticmethod
    def open(path: Path) -> "Run":
        """Find the run that an earlier training made.

        Raises:
            InputError: there is none.
        """
        return Run(path, read_config(path))

    @staticmethod
    def refuse_to_overwrite(path: Path) -> None:
        """Refuse a directory for a new run in which there is anything.

        Raises:
            InputError: there is something in it, or it is no directory.
        """
        try:
            ours = {".lock"} | {file.name for file in unfinished(path)}
            found = [file.name for file in path.iterdir()]
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(
                say("cannot make the run {path}: {reason}", path=path, reason=error.strerror)
            ) from error
        if not ours.issuperset(found):
            raise InputError(
                say(
                    "{path} exists: add --resume to go on with that run, or choose another "
                    "directory with --out",
                    path=path,
                )
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep all other processes from working in this directory, in a `with` statement.

        The lock ends with the process, however that ends.

        Raises:
            InputError: another process has the lock, or the directory cannot be written.

        Example:
            >>> import tempfile
            >>> run = Run.create(Path(tempfile.mkdtemp()), {})
            >>> with run.lock():
            ...     run.log({"kind": "train", "step": 10, "loss": 0.5})
        """
        with needed("training", "train"):
            from filelock import FileLock, Timeout
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                say(
                    "{path} is in use, another process is training in it: wait until that "
                    "has ended, or stop it",
                    path=self.path,
                )
            ) from error
        except OSError as error:
            raise InputError(
                say("cannot write into {path}: {reason}", path=self.path, reason=error.strerror)
            ) from error
        try:
            for file in unfinished(self.path):
                file.unlink()
            yield
        finally:
            lock.release()

    @property
    def has_begun(self) -> bool:
        """Whether anything was trained here."""
        return self.best.exists() or bool(self.records())

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write config.json anew."""
        self.config = dict(config)
        text = json.dumps(self.config, indent=2) + "\n"
        write_atomically(self._config, text.encode())

    def save(self, file: Path, tensors: Mapping[str, "Tensor"], extra: Mapping[str, Any]) -> None:
        """Write a checkpoint of this run.

        Args:
            file: `best` or `last`.
            tensors: see `elman.checkpoint.save`.
            extra: what JSON can hold.

        Raises:
            OSError: it cannot be written; the one before it is still there.
        """
        checkpoint.save(file, tensors, {**extra, "run": self.config})

    def load(self, file: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
        """Read a checkpoint of this run.

        Args:
            file: `best` or `last`.

        Returns:
            The tensors, and what was saved beside them.

        Raises:
            InputError: it cannot be read, is damaged or of another run, or config.json says
                anything else than when it was saved, but for the settings in `FREE`.
        """
        try:
            tensors, extra = checkpoint.load(file)
        except OSError as error:
            raise InputError(
                say("cannot read {file}: {reason}", file=file, reason=error.strerror or error)
            ) from error
        except checkpoint.CheckpointError as error:
            raise InputError(str(error)) from error
        check_same(self.path, self.config, file, extra)
        return tensors, extra

    def log(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            OSError: it cannot be written.
        """
        with writing(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Put metrics.jsonl on the disk, before a checkpoint that counts on it."""
        if self._metrics.exists():
            with writing(self._metrics), self._metrics.open("a") as file:
                os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl, but for lines that are damaged."""
        return self._read()[0]

    def rewind(self, step: int) -> list[int]:
        """Drop from metrics.jsonl what was measured after update `step`: it will be made again.

        Returns:
            The numbers of the lines that were damaged, from 1, and are dropped as well. A last
            line that a crash left unfinished is not counted.
        """
        records, damaged = self._read()
        kept = [r for r in records if r["step"] <= step and r["kind"] != "result"]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self._metrics, text.encode())
        return damaged

    def _read(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the records of metrics.jsonl, and the numbers of its damaged lines."""
        records: list[dict[str, Any]] = []
        damaged: list[int] = []
        if not self._metrics.is_file():
            return records, damaged
        *lines, _ = self._metrics.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            record = json_object(line)
            if isinstance(record.get("step"), int) and isinstance(record.get("kind"), str):
                records.append(record)
            else:
                damaged.append(number)
        return records, damaged

    def conclude(self, result: dict[str, Any], details: list[dict[str, Any]]) -> None:
        """Write result.json and details.json anew; numbers that are none become null."""
        for name, value in (("details", details), ("result", result)):
            text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
            write_atomically(self.path / f"{name}.json", text.encode())

    def draw(self) -> None:
        """Draw loss.png from metrics.jsonl, with the job's name of the loss; nats also as bits."""
        loss_name = str(self.config.get("loss", "loss"))
        figure = new_figure(8, 4.5)
        axes = figure.add_subplot(xlabel="updates", ylabel=loss_name)
        records = [r for r in self.records() if isinstance(r.get("loss"), float)]
        for kind, name, style in (("train", "training", "-"), ("evaluation", "held out", "o-")):
            points = [(r["step"], r["loss"]) for r in records if r["kind"] == kind]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=name, markersize=3)
        axes.set_title("Loss in training")
        best = [(r["step"], r["loss"]) for r in records if r.get("best") is True]
        if best:
            step, loss = best[-1]
            axes.plot([step], [loss], "*", color="black", markersize=10, label="best")
            axes.set_title(f"Best on what is held out: {loss:.4f}, after {step:,} updates")
        if "nats" in loss_name:
            bits = axes.secondary_yaxis("right", functions=(_as_bits, _as_nats))
            bits.set_ylabel(loss_name.replace("nats", "bits"))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        save_figure(figure, self.plot)


def _as_bits(nats: Any) -> Any:
    return nats / _BIT


def _as_nats(bits: Any) -> Any:
    return bits * _BIT


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
