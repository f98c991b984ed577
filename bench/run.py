"""Measures elman against every peer over the whole grid, and what else is promised: `make bench`.

Whatever is compared has a process of its own, in which ours and the other's calls take turns.
Written to runs/bench are all figures, in results.json (the grid) and promises.json, their tables,
and RESULTS.md with scaling.png, which `make bench-record` makes those of the pages.
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import promises
import recurrence
import resets
import runtime
import scaling

from elman.bench import (
    GRID,
    MODES,
    QUICK,
    TORCH,
    Contender,
    Machine,
    Report,
    Row,
    markdown_table,
    measure,
)

OUT = Path("runs/bench")
THREADS = (1, 2)
RESULTS = """\
# What `make bench` printed

{grid}
## What else is promised

From the same run, 1 thread but for the busy cores. A doubled size costs more than its share where
arrays leave a cache, and where memory is new to the process.

{promised}

![The cost of a call as each size grows](scaling.png)
"""
PEERS = ("torch", "onnx", "onednn", "jax", "keras")
PACKAGES = ("onnxruntime", "onednn-cpu-gomp", "jax", "keras")


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns that is the whole life of a process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def contender(peer: str) -> Contender:
    """Load a peer, in a process that has no other."""
    if peer == "torch":
        return TORCH
    if peer == "onednn":
        from onednn import OneDnn

        return OneDnn()
    import peers

    return {"onnx": peers.OnnxRuntime, "jax": peers.Jax, "keras": peers.Keras}[peer]()


def compare(peer: str, threads: int, machine: Machine) -> list[Row]:
    """Run all the rows of one comparison."""
    if peer in ("jax", "keras"):  # no other setting; before the import, which counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    rows = []
    cases = QUICK if peer == "keras" else GRID  # which compiles for seconds
    for row in measure(cases, MODES, threads, machine, contender(peer)):
        rows.append(row)
        print(f"{row.case}, {row.mode}: {row.ratio:.2f}x, {row.fraction:.0%}", flush=True)
    return rows


def grid(machine: Machine) -> None:
    start = time.monotonic()
    report = Report(machine)
    for peer in PEERS:
        for threads in THREADS:
            print(f"--- {peer}, {threads} threads, {time.monotonic() - start:.0f} s", flush=True)
            report.rows.extend(alone(compare, peer, threads, machine))
            (OUT / "results.json").write_text(report.json())
            (OUT / "table.md").write_text(report.markdown())
    print(report.markdown())


def keep_promises(machine: Machine) -> None:
    print("--- runtime", flush=True)
    of_runtime = alone(runtime.measure)
    tables = [
        runtime.table(of_runtime),
        alone(runtime.streams_table),
        alone(runtime.histogram_table),
    ]
    runtime_text = "\n\n".join(markdown_table(*table) for table in tables) + "\n"
    kept = []
    for name in promises.MEASURES:
        print(f"--- {name}", flush=True)
        kept += alone(promises.measure, name)
    print("--- resets", flush=True)
    of_resets = alone(resets.measure)
    resets_text = markdown_table(*resets.table(of_resets)) + "\n"
    kept += resets.promised(of_resets)
    print("--- recurrence", flush=True)
    of_recurrence = alone(recurrence.measure)
    recurrence_text = markdown_table(*recurrence.table(of_recurrence)) + "\n"
    print("--- scaling", flush=True)
    series = alone(scaling.measure, machine)
    kept += [line.promise() for line in series]
    figures = {
        "machine": asdict(machine),
        "promises": [asdict(promise) for promise in kept],
        "runtime": [asdict(figure) for figure in of_runtime],
        "resets": [asdict(row) for row in of_resets],
        "recurrence": [asdict(row) for row in of_recurrence],
        "scaling": [asdict(line) for line in series],
    }
    (OUT / "promises.json").write_text(json.dumps(figures, indent=1))
    (OUT / "promises.md").write_text(markdown_table(*promises.table(kept)) + "\n")
    (OUT / "runtime.md").write_text(runtime_text)
    (OUT / "resets.md").write_text(resets_text)
    (OUT / "recurrence.md").write_text(recurrence_text)
    (OUT / "scaling.png").write_bytes(scaling.draw(series, f"{machine.cpu}, 1 thread"))
    promised = markdown_table(*promises.table(kept))
    (OUT / "RESULTS.md").write_text(
        RESULTS.format(grid=(OUT / "table.md").read_text(), promised=promised)
    )
    print(markdown_table(*promises.table(kept)))
    print(runtime_text)
    print(resets_text)
    print(recurrence_text)


def main() -> None:
    here = Machine.here()
    peers = {name: version(name) for name in PACKAGES}
    OUT.mkdir(parents=True, exist_ok=True)
    grid(replace(here, versions={**here.versions, **peers}))
    keep_promises(here)


if __name__ == "__main__":
    main()
