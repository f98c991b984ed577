"""A trained model written to one file: for `elman.runtime`, or as ONNX."""

import logging
import warnings
from pathlib import Path
from typing import Any

from elman import onnx, runtime
from elman.runtime import jobs, run
from elman.runtime.file import write
from elman.saved import WEIGHTS, reduced
from elman.shapes import ShapeError
from elman.tasks import InputError
from elman.tasks.trained import load

__all__ = ["export"]


def export(path: str | Path, out: str | Path, weights: str = "float32") -> list[str]:
    """Write the model of a run to one file, with all that its answers need.

    Args:
        path: the directory of the run; its best weights are used.
        out: the file, not there yet: OUT.elman for `elman.runtime.load`, or OUT.onnx.
        weights: how matrices are stored, as `elman.save` takes it. ONNX has float32 alone.

    Returns:
        What is to be said: what was written, and for weights of fewer bits what they cost on what
        the run held out, a sentence each.

    Raises:
        InputError: there is no trained model, `out` is there already or has another ending, or the
            model cannot be written so.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from elman.tasks import text
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "song.txt").write_text("row, row, row your boat, gently down " * 30)
        >>> _ = text.train([folder / "song.txt"], out=folder / "run", epochs=1, hidden=16)
        >>> said = export(folder / "run", folder / "song.elman", weights="bf16")
        >>> said[1].split()[:3]
        ['nats', 'per', 'character']
    """
    path, out = Path(path), Path(out)
    if weights not in WEIGHTS:
        raise InputError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}", "weights")
    if out.suffix not in (".elman", ".onnx"):
        raise InputError(f"{out} must end in .elman or .onnx, which says what is written")
    if out.exists():
        raise InputError(f"{out} exists: name a new file, it is not written over")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.parent} is not a directory: make it first")
    if out.suffix == ".onnx":
        _write_onnx(path, out, weights)
        return [_told(out, weights)]
    tensors, saved = run.read(path)
    description, stored = jobs.describe(saved, tensors)
    if weights == "float32":
        write(out, description, stored)
        return [_told(out, weights)]
    before = jobs.make(description, stored, "")
    try:
        write(out, {**description, "weights": weights}, reduced(stored, weights))
    except ShapeError as error:
        raise InputError(f"{path} cannot be exported: {error}") from error
    return [_told(out, weights), _cost(path, before, runtime.load(out))]


def _told(out: Path, weights: str) -> str:
    return f"{out}: {out.stat().st_size:,} bytes, weights in {weights}"


def _cost(path: Path, before: Any, after: Any) -> str:
    """Say what two models of a run are worth on what it held out."""
    trained = load(path)
    try:
        held_out = trained.job.read(trained.source, trained.knowledge).held_out
    except InputError as error:
        return f"what that costs was not measured: {error}"
    was, now = (trained.job.measure(model, held_out) for model in (before, after))
    told = (f"{name} {value:.4f} -> {now[name]:.4f}" for name, value in was.items())
    return f"{', '.join(told)} (held out)"


def _write_onnx(path: Path, out: Path, weights: str) -> None:
    if weights != "float32":
        raise InputError(f"weights of ONNX are float32, got {weights!r}", "weights")
    trained = load(path)
    example = trained.job.example(trained)
    if example is None:
        raise InputError(
            f"a model of {trained.job.name} is more than one graph, which ONNX cannot hold: export"
            " it as .elman"
        )
    # PyTorch warns of what it leaves out, and that is nothing that the user can change.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            onnx.export(example.module, out, args=example.args, **example.options)
        except ImportError as error:
            raise InputError(str(error)) from error
        finally:
            logger.setLevel(level)
