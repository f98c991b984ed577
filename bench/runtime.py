"""Measures the runtime beside ONNX Runtime and NumPy, in one process where calls take turns.

Times are microseconds of one step of one stream, the best of several rounds.
"""

import functools
import io
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import elman
from elman import runtime
from elman.bench import markdown_table
from elman.runtime import native

STREAMS = 1000
QUANTISED = [(1, 50, 512), (32, 100, 256), (1, 100, 128)]  # batch, steps, features and units
CLOCK = time.thread_time  # what others do on the machine is not counted


class Steps(nn.Module):
    """A chain with its states passed in and out, for ONNX Runtime."""

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        for part in self.chain:
            if isinstance(part, nn.LSTM):
                x, (h, c) = part(x, (h, c))
            else:
                x = part(x)
        return x, h, c


def onnx_step(chain: nn.Sequential, x: Any, hidden_size: int) -> Callable[[], Any]:
    """One step by ONNX Runtime with one thread; x is (1, N, inputs)."""
    h = torch.zeros(1, x.shape[1], hidden_size)
    content = io.BytesIO()
    torch.onnx.export(
        Steps(chain).eval(), (torch.from_numpy(x), h, h), content, dynamo=False,
        input_names=["x", "h", "c"], output_names=["y", "hn", "cn"],
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content.getvalue(), options, ["CPUExecutionProvider"])
    state = [h.numpy(), h.numpy()]

    def step() -> Any:
        y, state[0], state[1] = session.run(None, {"x": x, "h": state[0], "c": state[1]})
        return y

    return step


def numpy_step(layer: nn.LSTM, x: Any) -> Callable[[], Any]:
    """The leanest loop: one product of [x, h] with all weights, and arrays that are kept."""
    size = layer.hidden_size
    weights = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], 1).T.detach().numpy().copy()
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().numpy()
    joined = np.zeros(layer.input_size + size, np.float32)
    joined[: layer.input_size] = x.ravel()
    h, c, gates = joined[layer.input_size :], np.zeros(size, np.float32), np.empty_like(bias)
    i, f, g, o = np.split(gates, 4)
    scaled = bias.copy()
    # sigmoid(a) = tanh(a / 2) / 2 + 1 / 2, so that one call of tanh serves all gates
    half = np.full(4 * size, 0.5, np.float32)
    half[2 * size : 3 * size] = 1
    weights *= half
    scaled *= half
    rest = 1 - half

    def step() -> Any:
        nonlocal c
        np.dot(joined, weights, out=gates)
        np.add(gates, scaled, out=gates)
        np.tanh(gates, out=gates)
        np.multiply(gates, half, out=gates)
        np.add(gates, rest, out=gates)
        np.multiply(f, c, out=c)
        np.multiply(i, g, out=g)
        np.add(c, g, out=c)
        np.tanh(c, out=h)
        np.multiply(h, o, out=h)
        return h

    return step


def microseconds(
    contenders: dict[str, Callable[[], Any]],
    calls: int = 200,
    rounds: int = 40,
    more: dict[str, int] | None = None,
) -> dict[str, float]:
    """The best time of a call of each, over rounds in which they take turns of so many calls.

    Those in `more` have so many instead, where a turn would be too short to warm the caches.
    """
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, call in contenders.items():
            count = (more or {}).get(name, calls)
            start = CLOCK()
            for _ in range(count):
                call()
            best[name] = min(best[name], (CLOCK() - start) / count * 1e6)
    return best


def saved(chain: nn.Module, weights: str = "float32") -> runtime.Model:
    with tempfile.TemporaryDirectory() as folder:
        elman.save(chain, Path(folder) / "model.elman", weights)
        return runtime.load(Path(folder) / "model.elman")


def one_stream(size: int, weights: str = "float32") -> dict[str, float]:
    torch.manual_seed(0)
    layer = nn.LSTM(size, size)
    session, x = saved(layer, weights).session(), np.random.rand(1, size).astype(np.float32)
    out = np.empty((1, size), np.float32)
    return microseconds(
        {
            "elman": lambda: session.step(x, out),
            "ONNX Runtime": onnx_step(nn.Sequential(layer), x[None], size),
            "NumPy": numpy_step(layer, x),
        }
    )


def characters() -> dict[str, float]:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Embedding(65, 64), nn.LSTM(64, 128), nn.Linear(128, 65))
    session, x = saved(chain).session(), np.array([3])
    out = np.empty((1, 65), np.float32)
    return microseconds(
        {
            "elman": lambda: session.step(x, out),
            "ONNX Runtime": onnx_step(chain, x[None], 128),
        }
    )


def onnx_batch(layer: nn.LSTM, x: Any) -> Callable[[], Any]:
    """One step of all streams in one call of ONNX Runtime, in the order of its arrays."""
    return onnx_step(nn.Sequential(layer), x[None], layer.hidden_size)


def many_streams(inputs: int) -> dict[str, float]:
    """Microseconds of a step of one of STREAMS streams of an LSTM of 128, and the bound.

    The bound is the time of the multiply-adds alone at the machine's peak, without tanh.
    """
    torch.manual_seed(0)
    layer = nn.LSTM(inputs, 128)
    model = saved(layer)
    streams = runtime.Streams(model, STREAMS)
    x = {f"{i}": np.random.rand(inputs).astype(np.float32) for i in range(STREAMS)}
    together = np.stack(list(x.values()))
    whole, out = model.session(STREAMS), np.empty((STREAMS, 128), np.float32)
    sessions = [(model.session(), value[None]) for value in x.values()]
    one = onnx_step(nn.Sequential(layer), x["0"][None, None], 128)
    times = microseconds(
        {
            "elman": lambda: streams.step(x),
            "one session of all": lambda: whole.step(together, out),
            "a session each": lambda: [session.step(value) for session, value in sessions],
            "ONNX Runtime": lambda: [one() for _ in range(STREAMS)],
            "ONNX Runtime, one call": onnx_batch(layer, together),
        },
        calls=1,
        more={"elman": 10, "one session of all": 10, "ONNX Runtime, one call": 10},
    )
    multiply_adds = 4 * 128 * (inputs + 128)
    bound = 2e-3 * multiply_adds / native._native.fma_peak(1, 0.3)
    return {name: time / STREAMS for name, time in times.items()} | {"bound": bound}


STEPS = 1_000_000
PARTS = (0.5, 0.99, 0.999, 1)


def longest_steps(steps: int = STEPS) -> dict[str, list[float]]:
    """Microseconds below which those parts of the steps of one stream of an LSTM 32 stay.

    By the clock on the wall, so that whatever interrupts a step counts.
    """
    torch.manual_seed(0)
    layer = nn.LSTM(32, 32)
    session, x = saved(layer).session(), np.random.rand(1, 32).astype(np.float32)
    out = np.empty((1, 32), np.float32)
    onnx = onnx_step(nn.Sequential(layer), x[None], 32)

    def parts(step: Callable[[], Any]) -> list[float]:
        took, now = np.empty(steps), time.perf_counter
        for i in range(steps):
            start = now()
            step()
            took[i] = now() - start
        return [float(value) for value in np.quantile(took[100:], PARTS) * 1e6]

    return {"elman": parts(lambda: session.step(x, out)), "ONNX Runtime": parts(onnx)}


def quantised() -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """Whole sequences by layers in int8: for each size its times, and its largest errors."""
    rows = []
    for kind in (nn.LSTM, nn.GRU):
        for batch, steps, size in QUANTISED:
            torch.manual_seed(0)
            layer, x = nn.Sequential(kind(size, size)).eval(), torch.rand(steps, batch, size)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is being retired
                theirs = torch.ao.quantization.quantize_dynamic(layer, {kind}, torch.qint8)
            models = {"elman": elman.quantize(layer), "quantize_dynamic": theirs, "float32": layer}
            with torch.no_grad():
                results = {name: model(x)[0] for name, model in models.items()}
                times = microseconds(
                    {n: functools.partial(model, x) for n, model in models.items()}, 1, 15
                )
            errors = {n: (y - results["float32"]).abs().max().item() for n, y in results.items()}
            rows.append((f"{kind.__name__} ({batch}, {steps}, {size})", times, errors))
    return rows


IMPORT = """
import resource, time, numpy
pages = lambda: int(open("/proc/self/statm").read().split()[1])
memory = lambda: pages() * resource.getpagesize() / 2**20
start, before = time.perf_counter(), memory()
import elman.runtime
print((time.perf_counter() - start) * 1e3, memory() - before)
"""


def imported() -> tuple[float, float]:
    """Milliseconds and MiB that the import costs beyond NumPy's own, the best of five."""
    runs = [subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True)
            for _ in range(5)]  # fmt: skip
    figures = [[float(word) for word in run.stdout.split()] for run in runs]
    return min(ms for ms, _ in figures), min(mib for _, mib in figures)


@dataclass(frozen=True)
class Figure:
    """One figure and the most that it may be."""

    name: str
    value: float
    unit: str
    limit: float

    @property
    def kept(self) -> bool:
        return self.value <= self.limit


def measure() -> list[Figure]:
    """What is promised of the runtime, and what was measured."""
    small, large, text, many = one_stream(32), one_stream(256), characters(), many_streams(64)
    halves, integers = one_stream(256, "bf16"), one_stream(256, "int8")
    threads = torch.get_num_threads(), elman.get_num_threads()
    torch.set_num_threads(1), elman.set_num_threads(1)
    layers = quantised()
    torch.set_num_threads(threads[0]), elman.set_num_threads(threads[1])
    ratios = {name: t["elman"] / t["quantize_dynamic"] for name, t, _ in layers}
    mean = math.prod(ratios.values()) ** (1 / len(ratios))
    milliseconds, mebibytes = imported()
    return [
        Figure("a step of LSTM 32", small["elman"], "us", 2),
        Figure("of the leanest NumPy's", small["elman"] / small["NumPy"], "x", 1 / 2.5),
        Figure("of ONNX Runtime's", small["elman"] / small["ONNX Runtime"], "x", 1 / 4),
        Figure("a step of LSTM 256", large["elman"] / large["ONNX Runtime"], "x", 0.6),
        Figure("the same in bfloat16", halves["elman"] / halves["ONNX Runtime"], "x", 0.6),
        Figure("the same in int8", integers["elman"] / integers["ONNX Runtime"], "x", 0.25),
        Figure("embedding, LSTM 128, linear", text["elman"] / text["ONNX Runtime"], "x", 0.35),
        Figure("1,000 streams of LSTM 128", many["elman"] / many["ONNX Runtime"], "x", 1 / 15),
        Figure("a session for each of them", many["a session each"] / many["ONNX Runtime"], "x", 1),
        *(Figure(f"int8 {n} of quantize_dynamic's", ratio, "x", 1) for n, ratio in ratios.items()),
        Figure("their geometric mean", mean, "x", 1 / 1.3),
        *(
            Figure(
                f"int8 {name}: error of quantize_dynamic's",
                e["elman"] / e["quantize_dynamic"],
                "x",
                1.25,
            )
            for name, _, e in layers
        ),
        Figure("import", milliseconds, "ms", 30),
        Figure("memory of the import", mebibytes, "MiB", 10),
    ]


def table(figures: list[Figure]) -> tuple[list[str], list[list[str]]]:
    """The titles and the cells, a line per figure; ratios are of ONNX Runtime's step."""
    return ["what", "elman", "at most", "kept"], [
        [f.name, f"{f.value:.3g} {f.unit}", f"{f.limit:.3g}", "yes" if f.kept else "**no**"]
        for f in figures
    ]


def streams_table() -> tuple[list[str], list[list[str]]]:
    """Microseconds of a step of one of many streams, for some widths of the input."""
    rows = {inputs: many_streams(inputs) for inputs in (16, 64, 128)}
    names = list(rows[16])
    return ["streams of LSTM 128", *names, "ratio"], [
        [f"{inputs} inputs", *(f"{times[name]:.2f}" for name in names),
         f"{times['ONNX Runtime'] / times['elman']:.1f}x"]
        for inputs, times in rows.items()
    ]  # fmt: skip


def histogram_table() -> tuple[list[str], list[list[str]]]:
    """Microseconds below which parts of a million steps of one stream stay."""
    return ["a step of LSTM 32, us", *(f"{part:.1%}" for part in PARTS)], [
        [name, *(f"{value:.2f}" for value in values)] for name, values in longest_steps().items()
    ]


if __name__ == "__main__":
    for part in (table(measure()), streams_table(), histogram_table()):
        print(markdown_table(*part), end="\n\n")
