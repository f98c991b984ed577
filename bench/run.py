"""Measures elman against every peer over the whole grid: `make bench`.

Each comparison, of one peer with one number of threads, has a process of its own, in which ours and
the peer's calls take turns. Written are runs/bench/results.json and runs/bench/table.md.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from elman.bench import GRID, MODES, TORCH, Machine, Report, Row, measure

OUT = Path("runs/bench")
THREADS = (1, 2)


def compare(peer: str, threads: int, machine: Machine) -> list[Row]:
    """Run all the rows of one comparison; this is the whole life of a process."""
    if peer == "jax":  # has no other setting; before the import, which counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if peer == "torch":
        contender = TORCH
    else:
        import peers

        contender = peers.Jax() if peer == "jax" else peers.OnnxRuntime()
    rows = []
    for row in measure(GRID, MODES, threads, machine, contender):
        rows.append(row)
        print(f"{row.case}, {row.mode}: {row.ratio:.2f}x, {row.fraction:.0%}", flush=True)
    return rows


def main() -> None:
    start = time.monotonic()
    here = Machine.here()
    peers = {name: version(name) for name in ("onnxruntime", "jax")}
    report = Report(replace(here, versions={**here.versions, **peers}))
    OUT.mkdir(parents=True, exist_ok=True)
    for peer in ("torch", "onnx", "jax"):
        for threads in THREADS:
            print(f"--- {peer}, {threads} threads, {time.monotonic() - start:.0f} s", flush=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                report.rows.extend(process.submit(compare, peer, threads, report.machine).result())
            (OUT / "results.json").write_text(report.json())
            (OUT / "table.md").write_text(report.markdown())
    print(report.markdown())


if __name__ == "__main__":
    main()
