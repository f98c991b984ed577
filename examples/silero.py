"""Voice activity by silero-vad, its LSTM run by elman.runtime and the rest by NumPy.

    pip install --no-deps silero-vad    # 11 MB; all that is read of it is one ONNX file
    python examples/silero.py

The package asks for PyTorch and torchaudio. Its network is small: a short Fourier transform, four
convolutions, an LSTM of 128 and a number between 0 and 1 for every 32 ms of sound. What has a state
is the LSTM alone; so everything before it is computed for as many frames at once as there are.

Prints how many frames a second each way does, and the largest difference from the package's ONNX
graph, of which the weights are taken: from the LSTM on, and in all, where the transform's rounding
counts for more. (silero_vad_16k.safetensors, beside it, is of another training than the graphs.)
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman import runtime

Floats = NDArray[np.float32]
RATE, FRAME, CONTEXT = 16000, 512, 64  # samples: a second, a frame, what a frame sees of the last


def find() -> Path | None:
    """Return the ONNX file of the package, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec("silero_vad")
    return Path(spec.origin).parent / "data/silero_vad_16k_op15.onnx" if spec else None


def weights_of(graph: Path) -> dict[str, Floats]:
    """Return the weights of an ONNX file by name."""
    import onnx

    stored = onnx.load(graph).graph.initializer
    return {tensor.name.removeprefix("model."): onnx.numpy_helper.to_array(tensor).copy()
            for tensor in stored}  # fmt: skip


def convert(weights: dict[str, Floats], path: Path) -> None:
    """Write what comes after the convolutions as a model file. This alone needs PyTorch, once."""
    import torch

    import elman

    lstm, last = torch.nn.LSTM(128, 128), torch.nn.Linear(128, 1)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(lstm, f"{name}_l0").data = torch.from_numpy(weights[f"decoder.rnn.{name}"])
    last.weight.data = torch.from_numpy(weights["decoder.decoder.2.weight"][:, :, 0])
    last.bias.data = torch.from_numpy(weights["decoder.decoder.2.bias"])
    elman.save(torch.nn.Sequential(lstm, torch.nn.ReLU(), last, torch.nn.Sigmoid()), path)


def frames(sound: Floats) -> Floats:
    """Cut sound into frames: (samples,) -> (frames, 64 + 512), each with the end of the last."""
    count = len(sound) // FRAME
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound[: count * FRAME]])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]


class FrontEnd:
    """From samples to what the LSTM takes.

    Args:
        weights: as `weights_of` returns them.
    """

    def __init__(self, weights: dict[str, Floats]) -> None:
        """Lay the weights out as matrices."""
        self.basis = weights["stft.forward_basis_buffer"][:, 0].T.copy()  # (256, 2 * 129)
        reflected = np.pad(np.arange(CONTEXT + FRAME), (0, 64), "reflect")
        self.windows = reflected[128 * np.arange(4)[:, None] + np.arange(256)]
        self.convolutions = []
        for i, stride in enumerate((1, 2, 2, 1)):
            matrix = weights[f"encoder.{i}.reparam_conv.weight"].T  # (3, inputs, outputs)
            bias = weights[f"encoder.{i}.reparam_conv.bias"]
            self.convolutions.append((matrix.reshape(-1, len(bias)).copy(), bias, stride))

    def __call__(self, samples: Floats) -> Floats:
        """Compute (N, 64 + 512) -> (N, 128)."""
        waves = samples[:, self.windows] @ self.basis
        x = np.sqrt(waves[..., :129] ** 2 + waves[..., 129:] ** 2)  # (N, times, features)
        for matrix, bias, stride in self.convolutions:
            times = x.shape[1]
            padded = np.zeros((len(x), times + 2, x.shape[2]), np.float32)
            padded[:, 1:-1] = x
            seen = padded[:, np.arange(0, times, stride)[:, None] + np.arange(3)]
            x = np.maximum(seen.reshape(*seen.shape[:2], -1) @ matrix + bias, 0)
        return x[:, 0]


def sound_like_speech(seconds: float) -> Floats:
    """Make vowels of a voice that rises and falls, with pauses, in some noise."""
    chance = np.random.default_rng(0)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = np.cumsum(120 + 25 * np.sin(2 * np.pi * 0.6 * t)) / RATE
    formants = 500 + 250 * np.sin(2 * np.pi * 2.1 * t), 1500 + 500 * np.sin(2 * np.pi * 1.3 * t)
    voice = np.zeros_like(t)
    for k in range(1, 30):
        loud = sum(np.exp(-(((k * 120 - f) / 160) ** 2)) for f in formants)
        voice += (loud + 0.02) * np.sin(2 * np.pi * k * pitch)
    syllables = np.maximum(np.sin(2 * np.pi * 3.3 * t), 0) * (np.sin(2 * np.pi * 0.21 * t) > -0.3)
    return (0.15 * voice * syllables + 0.003 * chance.standard_normal(len(t))).astype(np.float32)


def by_onnx(graph: Path, samples: Floats) -> tuple[Floats, Floats]:
    """Run the graph, a call for each frame; return (F,) and what its LSTM took, (F, 128)."""
    import onnx
    import onnxruntime

    model = onnx.load(graph)
    features = "/model/encoder/3/activation/Relu_output_0"
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(features))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    state, rate, found, taken = np.zeros((2, 1, 128), np.float32), np.array(RATE), [], []
    for frame in samples:
        y, state, x = session.run(None, {"input": frame[None], "state": state, "sr": rate})
        found.append(y[0, 0]), taken.append(x[0, :, 0])
    return np.array(found), np.array(taken)


def main(seconds: float = 60, show: Callable[[str], Any] = print) -> tuple[float, float]:
    """Compare and measure; return the largest difference of the LSTM's part, and of all."""
    graph = find()
    if graph is None:
        raise SystemExit("silero-vad must be installed: pip install --no-deps silero-vad")
    weights = weights_of(graph)
    with tempfile.TemporaryDirectory() as folder:
        convert(weights, Path(folder) / "vad.elman")
        model = runtime.load(Path(folder) / "vad.elman")
    front_end, samples = FrontEnd(weights), frames(sound_like_speech(seconds))
    one, many = model.session(), model.session(64)
    ways: dict[str, Callable[[], Any]] = {
        "one stream, frame by frame": lambda: [one.step(front_end(f[None])) for f in samples],
        "one call for the whole sound": lambda: model.run(front_end(samples)[:, None]),
        "64 streams, frame by frame": lambda: [
            many.step(front_end(np.repeat(f[None], 64, 0))) for f in samples
        ],
        "ONNX Runtime, frame by frame": lambda: by_onnx(graph, samples),
    }
    results = []
    for name, way in ways.items():
        start = time.perf_counter()
        results.append(way())
        rate = len(samples) * (64 if "64" in name else 1) / (time.perf_counter() - start)
        show(f"{name:30} {rate:9,.0f} frames/s")
    *ours, (theirs, features) = results
    whole = max(float(np.abs(np.reshape(y, (len(theirs), -1)).T - theirs).max()) for y in ours)
    lstm = float(np.abs(model.run(features[:, None])[:, 0, 0] - theirs).max())
    show(f"speech in {(theirs > 0.5).mean():.0%} of {len(theirs)} frames")
    show(f"differences of at most {lstm:.1e} from the LSTM on, of {whole:.1e} in all")
    return lstm, whole


if __name__ == "__main__":
    main()
