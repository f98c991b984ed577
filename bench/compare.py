"""Times the checkout beside another commit: `make bench-compare COMMIT=v0.1.0`.

The other commit is built beside this one, into build/compare, in a minute or two. Two processes,
one of each, take turns at every case, a burst of calls at a time, so that both see the same
machine. A case has changed if its ratio differs from 1 by more than the noise, which is three
standard errors of the median of its turns, and by more than two per cent.

    python bench/compare.py COMMIT [--threads 1] [--all]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from elman.bench import GRID, QUICK, Case, Machine, markdown_table

__all__ = ["Ratio", "Side", "build", "compare", "table"]

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("burst.py")
BURST_S, TURNS = 0.03, 15
NOISE = 3.0  # standard errors


@dataclass(frozen=True)
class Ratio:
    """The time of one case, this commit's over the other's.

    Attributes:
        case: The case and the mode.
        ours: Median seconds of a call.
        theirs: The other's.
        ratios: One of each turn.
    """

    case: str
    ours: float
    theirs: float
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the turns' ratios; below 1 this commit is faster."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """How far from 1 the median may be by chance."""
        middle = self.median
        spread = 1.4826 * statistics.median(abs(ratio - middle) for ratio in self.ratios)
        return NOISE * 1.2533 * spread / math.sqrt(len(self.ratios))

    @property
    def is_changed(self) -> bool:
        """Whether the two differ by more than the noise, and by more than two per cent."""
        return abs(self.median - 1) > max(self.noise, 0.02)


class Side:
    """A process that has one version of elman, and times the cases it is told.

    Without a site it has the version that is installed. -S keeps that away from the other, whose
    dependencies are then named by the path.
    """

    def __init__(self, site: Path | None, threads: int) -> None:
        path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
        self._process = subprocess.Popen(
            [sys.executable, *([] if site is None else ["-S"]), str(WORKER), str(threads)],
            env=os.environ | ({} if site is None else {"PYTHONPATH": path}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout

    def ask(self, **question: object) -> float:
        """Return the seconds of a call, or 0.0 for a case that was made ready."""
        self._in.write(json.dumps(question) + "\n")
        self._in.flush()
        answer = self._out.readline()
        if not answer:
            raise SystemExit("bench-compare: a process ended; its error stands above")
        return float(answer)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.wait(10)
        self._out.close()


def compare(
    cases: Sequence[Case], ours: Path | None, theirs: Path | None, threads: int, turns: int = TURNS
) -> Iterator[Ratio]:
    """Time cases in turns; `ours` and `theirs` are where each version stands, None for here."""
    with ExitStack() as stack:
        sides = [stack.enter_context(Side(site, threads)) for site in (ours, theirs)]
        for case in cases:
            for mode in case.modes:
                for side in sides:
                    side.ask(case=asdict(case), mode=mode)
                seconds: list[list[float]] = [[], []]
                for turn in range(turns):
                    for at in (0, 1) if turn % 2 else (1, 0):  # neither is always the first
                        seconds[at].append(sides[at].ask(burst=BURST_S))
                ratios = tuple(a / b for a, b in zip(*seconds, strict=True))
                yield Ratio(f"{case}, {mode}", *map(statistics.median, seconds), ratios)


def table(ratios: Sequence[Ratio]) -> str:
    """The cases whose time has changed, as a table, or the sentence that there are none."""
    changed = sorted((r for r in ratios if r.is_changed), key=lambda r: r.median)
    if not changed:
        return f"No case of {len(ratios)} has changed by more than the noise."
    rows = [
        [
            r.case,
            f"{r.theirs * 1e6:.1f}",
            f"{r.ours * 1e6:.1f}",
            f"{r.median:.2f}x ± {r.noise:.2f}",
            "faster" if r.median < 1 else "**slower**",
        ]
        for r in changed
    ]
    slower = sum(r.median > 1 for r in changed)
    counted = f"Of {len(ratios)} cases {slower} are slower, {len(changed) - slower} are faster."
    titles = ["case", "before, µs", "now, µs", "now / before", "now it is"]
    return f"{markdown_table(titles, rows)}\n\n{counted}"


def build(commit: str) -> Path:
    """Install a commit into build/compare, if it is not there yet; return where."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", f"{commit}^{{commit}}"]
    found = subprocess.run(asked, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"bench-compare: {commit} is no commit here; git log names them")
    revision = found.stdout.strip()
    site = ROOT / "build" / "compare" / revision
    if (site / "elman").exists():
        return site
    source = site.with_suffix(".source")
    source.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(source)], input=files.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-build-isolation", "--no-deps", "--target", str(site)]
    print(f"building {revision} into {site}", flush=True)
    if subprocess.run([*pip, *options, str(source)]).returncode:
        raise SystemExit(f"bench-compare: {revision} could not be built; the error stands above")
    return site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="the whole grid")
    asked = parser.parse_args()
    start, site, ratios = time.monotonic(), build(asked.commit), []
    print(f"{site.name}, threads: {asked.threads}, on {Machine.here().cpu}")
    print("time now / time before, so below 1 is faster:", flush=True)
    for ratio in compare(GRID if asked.all else QUICK, None, site, asked.threads):
        ratios.append(ratio)
        print(f"{ratio.case}: {ratio.median:.2f}x", flush=True)
    print(f"\n{table(ratios)}\n\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
