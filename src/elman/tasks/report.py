"""One page that tells of a run: a single HTML file that needs nothing else and no network.

What the page shows comes from the files of the run alone: its settings, its curves, its pictures,
and the tables and coloured texts that its job keeps in details.json.
"""

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from elman.checkpoint import write_atomically
from elman.extras import needed
from elman.tasks.facts import Facts, read
from elman.tasks.run import Run

__all__ = ["write"]

_SAMPLES = 3


def write(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        run: the directory of the run.
        out: the file to write; RUN/report.html if None.

    Returns:
        The path of the file.

    Raises:
        InputError: there is no run, or one of its files is damaged.
        MissingError: jinja2 is not installed.
        OSError: the file cannot be written.
    """
    with needed("a report", "train"):
        from jinja2 import Environment
    facts = read(Path(run))
    Run.open(Path(run)).draw()
    template = files("elman.tasks").joinpath("report.html.jinja").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.globals.update(number=_number, words=_words, zip=zip)
    page = environment.from_string(template).render(
        facts=facts,
        weights=sum(_product(shape) for shape in facts.weights.values()),
        duration=_duration(facts.seconds),
        pictures=_pictures(facts.path),
        samples=_samples(facts),
    )
    path = Path(out) if out is not None else facts.path / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def _pictures(run: Path) -> list[dict[str, str]]:
    found = sorted(run.glob("*.png"), key=lambda path: (path.name != "loss.png", path.name))
    return [
        {
            "caption": path.stem.replace("_", " ").replace("-", " "),
            "data": base64.b64encode(path.read_bytes()).decode("ascii"),
        }
        for path in found
    ]


def _samples(facts: Facts) -> list[dict[str, Any]]:
    shown = [record for record in facts.records if record.get("preview")]
    return [shown[i * (len(shown) - 1) // (_SAMPLES - 1)] for i in range(_SAMPLES)] if shown else []


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
