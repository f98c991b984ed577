"""Measures the runtime beside ONNX Runtime and NumPy, in one process where calls take turns.

Each measure gives times of one step of one stream, in microseconds, the best of several rounds.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from promises import Promise
from torch import nn

import elman
from elman import runtime

STREAMS = 1000


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
    """One step of one stream by ONNX Runtime with one thread."""
    import onnxruntime

    h = torch.zeros(1, 1, hidden_size)
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
    # sigmoid(a) = (1 + tanh(a / 2)) / 2, so that one call of tanh serves all gates
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


def microseconds(contenders: dict[str, Callable[[], Any]], seconds: float = 0.05) -> dict[str, Any]:
    """The best time of a call of each, over rounds in which they take turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(15):
        for name, call in contenders.items():
            start, calls = time.perf_counter(), 0
            while time.perf_counter() - start < seconds / 5:
                for _ in range(20):
                    call()
                calls += 20
            best[name] = min(best[name], (time.perf_counter() - start) / calls * 1e6)
    return best


def saved(chain: nn.Module) -> runtime.Model:
    path = Path(tempfile.mkdtemp()) / "model.elman"
    elman.save(chain, path)
    return runtime.load(path)


def one_stream(size: int) -> dict[str, float]:
    torch.manual_seed(0)
    layer = nn.LSTM(size, size)
    session, x = saved(layer).session(), np.random.rand(1, size).astype(np.float32)
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


def many_streams() -> dict[str, float]:
    torch.manual_seed(0)
    layer = nn.LSTM(64, 128)
    model = saved(layer)
    streams = runtime.Streams(model, STREAMS)
    x = {f"{i}": np.random.rand(64).astype(np.float32) for i in range(STREAMS)}
    sessions = [(model.session(), value[None]) for value in x.values()]
    one = onnx_step(nn.Sequential(layer), x["0"][None, None], 128)
    times = microseconds(
        {
            "elman": lambda: streams.step(x),
            "a session each": lambda: [session.step(value) for session, value in sessions],
            "ONNX Runtime": lambda: [one() for _ in range(STREAMS)],
        },
        0.2,
    )
    return {name: time / STREAMS for name, time in times.items()}


def measure() -> list[Promise]:
    """What is promised of the runtime, and what was measured."""
    small, large = one_stream(32), one_stream(256)
    text, many = characters(), many_streams()
    for name, times in (("LSTM 32", small), ("LSTM 256", large), ("text", text), ("streams", many)):
        print(name, {k: f"{v:.2f} us" for k, v in times.items()}, flush=True)
    return []


if __name__ == "__main__":
    measure()
