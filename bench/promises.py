"""Measures what is promised beside speed: that a call costs little more where others' cost a lot.

Each measure is the life of a process of its own and yields promises: our figure, torch.nn's, and
the most that ours may be. It needs Linux, which tells how much memory a process had. How cost grows
with size is measured in `scaling`.

Symbols: L time steps, N sequences in the batch, H features, in and hidden.
"""

import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

import elman
from elman.bench import ELMAN, MODES, TORCH, Case, Layers, Mode, Prepared, Work, take_turns

__all__ = ["CELLS", "MEASURES", "Promise", "measure", "medians", "table"]

SECONDS = 0.5  # for the calls of one figure
CELLS = ("RNN", "GRU", "LSTM")
LENGTHS = Layers("elman", elman.nn, lengths=True)
CONTENDERS = {layers.name: layers for layers in (ELMAN, TORCH)}  # namespaces cross no process


@dataclass(frozen=True)
class Promise:
    """One figure that must not be larger than another.

    Attributes:
        name: What is measured.
        case: The work.
        mode: Inference or training.
        unit: "x", "µs" or "MiB".
        ours: Our figure.
        theirs: torch.nn's; None if it cannot do the work.
        limit: The most that ours may be.
    """

    name: str
    case: str
    mode: Mode
    unit: str
    ours: float
    theirs: float | None
    limit: float

    @property
    def kept(self) -> bool:
        return self.ours <= self.limit


def table(promises: Sequence[Promise]) -> tuple[list[str], list[list[str]]]:
    """The titles and the cells, a line per promise."""

    def shown(value: float | None, unit: str) -> str:
        if value is None:
            return ""
        return f"{value:.2f}x" if unit == "x" else f"{value:,.1f} {unit}"

    return ["what", "(N, L, H)", "mode", "elman", "torch.nn", "at most", "kept"], [
        [
            *(p.name, p.case, p.mode),
            *(shown(value, p.unit) for value in (p.ours, p.theirs, p.limit)),
            "yes" if p.kept else "**no**",
        ]
        for p in promises
    ]


def medians(calls: Sequence[Prepared], mode: Mode, seconds: float = SECONDS) -> list[float]:
    """Microseconds of each of several calls that take turns."""
    with torch.set_grad_enabled(mode == "training"):
        for prepared in calls:
            prepared.call()
        return [times.median for times in take_turns([p.call for p in calls], seconds)]


def denormals() -> Iterator[Promise]:
    """Time with numbers that are denormal, over the time with ordinary ones."""
    torch.set_num_threads(1)
    for cell in CELLS:
        work = Work.of(Case(cell, 8, 100, 64))
        tiny = {
            "denormal weights": replace(
                work, weights={name: 1e-39 * weight for name, weight in work.weights.items()}
            ),
            "denormal input and states": replace(
                work, input=1e-39 * work.input, hx=tuple(1e-39 * state for state in work.hx)
            ),
        }
        for mode in MODES:
            for name, other in tiny.items():
                calls = [x.prepare(w, mode) for x in (ELMAN, TORCH) for w in (work, other)]
                ours, our_tiny, theirs, their_tiny = medians(calls, mode)
                figures = our_tiny / ours, their_tiny / theirs
                yield Promise(f"{name}, over normal", str(work.case), mode, "x", *figures, 1.5)


def ragged() -> Iterator[Promise]:
    """Time for 62 % of the steps, over the time for all of them."""
    torch.set_num_threads(1)
    for case in (Case(cell, 32, n, 64, ragged=True) for cell in CELLS for n in (100, 1000)):
        work, full = Work.of(case), Work.of(replace(case, ragged=False))
        for mode in MODES:
            calls = [x.prepare(w, mode) for x in (ELMAN, TORCH) for w in (full, work)]
            calls.append(LENGTHS.prepare(work, mode))
            ours, our_packed, theirs, their_packed, by_lengths = medians(calls, mode)
            packed = our_packed / ours, their_packed / theirs
            size = str(full.case)
            yield Promise("packed, 62 % real, over padded", size, mode, "x", *packed, 0.75)
            part = by_lengths / ours
            yield Promise("lengths=, 62 % real, over padded", size, mode, "x", part, None, 1.0)


def overhead() -> Iterator[Promise]:
    """Time of a call with next to nothing to compute; torch.nn.RNNCell's is the least of others."""
    torch.set_num_threads(1)

    def prepared(namespace: object, name: str) -> Prepared:
        module = getattr(namespace, name)(32, 32)
        shape = (1, 32) if name.endswith("Cell") else (1, 1, 32)
        state = torch.randn(shape)
        input, hx = torch.randn(shape), (state, state) if name.startswith("LSTM") else state
        return Prepared(lambda: module(input, hx), list)

    names = [cell + kind for kind in ("", "Cell") for cell in CELLS]
    calls = [prepared(namespace, name) for namespace in (elman, torch.nn) for name in names]
    times = medians(calls, "inference", SECONDS * len(names))
    ours, theirs = times[: len(names)], times[len(names) :]
    least = theirs[names.index("RNNCell")]
    for name, *figures in zip(names, ours, theirs, strict=True):
        yield Promise("a single step", f"{name} (1, 1, 32)", "inference", "µs", *figures, least)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep so many processes busy, one for each core."""
    burn = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    others = [subprocess.Popen(burn, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it runs
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def contention() -> Iterator[Promise]:
    """Times of 200 calls while every core has other work, over the idle time of one thread.

    A contender that takes too long for 200 calls makes as many as it can in 5 seconds.
    """
    cores = os.cpu_count() or 1
    for case in (Case(cell, 8, 100, 64) for cell in CELLS):
        work = Work.of(case)
        for mode in MODES:
            torch.set_num_threads(1)
            calls = [layers.prepare(work, mode) for layers in (ELMAN, TORCH)]
            idle = medians(calls, mode)
            torch.set_num_threads(cores)
            crowded = []
            with busy_cores(cores), torch.set_grad_enabled(mode == "training"):
                for prepared, alone in zip(calls, idle, strict=True):
                    times = samples(prepared.call, 200, 5)
                    crowded.append((statistics.median(times) / alone, max(times) / alone))
            for name, limit, *figures in zip(
                ("median", "worst"), (3.0, 30.0), *crowded, strict=True
            ):
                name = f"{name} of 200 calls with every core busy, over idle"
                yield Promise(name, str(case), mode, "x", *figures, limit)


def samples(call: Callable[[], object], count: int, seconds: float) -> list[float]:
    """Microseconds of each of `count` calls, or of fewer if time runs out."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < count and (start := time.perf_counter()) < end:
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return times


def memory() -> Iterator[Promise]:
    """How far a training raises the memory of a process."""
    for size in ((64, 50, 512), (32, 1000, 64), (128, 35, 1024)):
        for case in (Case(cell, *size) for cell in CELLS):
            figures = []
            for name in CONTENDERS:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                    figures.append(process.submit(training_memory, name, case).result())
            name = "peak memory of a call, less what it was given"
            yield Promise(name, str(case), "training", "MiB", *figures, figures[1])


def training_memory(contender: str, case: Case) -> float:
    """MiB by which two calls raise the peak; weights, input and states are there before."""
    layers = CONTENDERS[contender]
    small = replace(case, batch=2, seq_len=2, hidden_size=8)
    layers.prepare(Work.of(small), "training").call()  # loads what is loaded at the first call
    prepared = layers.prepare(Work.of(case), "training")
    ctypes.CDLL(None).malloc_trim(0)  # or the calls would find memory that is counted already
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    for _ in range(2):
        prepared.call()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A field of this process's status, in MiB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def per_sample() -> Iterator[Promise]:
    """Gradients of every sample apart, beside torch.nn called for one after another."""
    torch.set_num_threads(1)
    for case in (Case(cell, 32, 50, 64) for cell in CELLS):
        work = Work.of(case)
        ours, theirs = case.module(elman), case.module(torch.nn)

        def loss(output: tuple[Tensor, object], weight: Tensor) -> Tensor:
            return (output[0] * weight).sum()

        def together(module: torch.nn.Module = ours, work: Work = work) -> object:
            return elman.per_sample_grads(
                module, work.input, loss, targets=work.d_output, in_dims=1, target_dims=1
            )

        def one_by_one(module: torch.nn.Module = theirs, work: Work = work) -> object:
            parameters = list(module.parameters())
            pairs = zip(work.input.split(1, 1), work.d_output.split(1, 1), strict=True)
            losses = (loss(module(x), weight) for x, weight in pairs)
            return [torch.autograd.grad(value, parameters) for value in losses]

        calls = [Prepared(call, list) for call in (together, one_by_one)]
        figures = medians(calls, "training")
        yield Promise("gradients per sample", str(case), "training", "µs", *figures, figures[1])


MEASURES: dict[str, Callable[[], Iterator[Promise]]] = {
    function.__name__: function
    for function in (overhead, denormals, ragged, per_sample, memory, contention)
}


def measure(name: str) -> list[Promise]:
    """The promises of one measure."""
    kept = []
    for promise in MEASURES[name]():
        kept.append(promise)
        print(" ".join(table([promise])[1][0]), flush=True)
    return kept
