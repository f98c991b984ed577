"""Random wrong use: of layers, files and the command line. Only what is documented may come of it.

`make fuzz` runs this for as long as one likes, with a new seed each time; `tests/test_fuzz.py` runs
the first cases of a fixed seed. A case is made of a number alone, so that its number is enough to
see it again: `python tests/fuzz.py --case NUMBER`.
"""

import argparse
import contextlib
import copy
import io
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import elman
from elman import checkpoint, cli, runtime
from elman.runtime import file

KINDS = (elman.RNN, elman.LSTM, elman.GRU)
CELLS = (elman.RNNCell, elman.LSTMCell, elman.GRUCell)
STRANGE = (0, -1, 1, 2, 2**31, 2**63, 1.5, float("nan"), "x", "", None, True, b"\xff", [], (), [1])


class Place:
    """A directory with one good file of each kind, from which damaged ones are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        torch.manual_seed(0)
        self.files = []
        for i, kind in enumerate(KINDS):
            file = path / f"{i}.onnx"
            elman.onnx.export(kind(3, 4, num_layers=2, bidirectional=i == 1), file)
            self.files.append(file.read_bytes())
        self.models = [onnx.ModelProto.FromString(content) for content in self.files]
        checkpoint.save(path / "good", {"w": torch.randn(3, 4), "b": torch.ones(2)}, {"step": [3]})
        self.checkpoint = (path / "good").read_bytes()
        self.model_files = []
        for i, module in enumerate(some_models()):
            for weights in ("float32", "bf16", "int8") if i < 2 else ("float32",):
                elman.save(module, path / "model", weights)
                self.model_files.append((path / "model").read_bytes())
        self.runtimes = []
        for content in self.model_files:
            (path / "model").write_bytes(content)
            self.runtimes.append(runtime.load(path / "model"))
        self.text = path / "text.txt"
        self.text.write_text("the cat sat on the mat. " * 60, encoding="utf-8")
        self.run = path / "run"
        code, said = quietly(["train", "text", str(self.text), *SMALL, "--out", str(self.run)])
        assert code == 0, said


def some_models() -> list[torch.nn.Module]:
    """A model of each kind of module and cell, small."""
    nn = torch.nn
    return [
        nn.Sequential(
            nn.Embedding(5, 3), elman.LSTM(3, 4, 2, proj_size=2), nn.LayerNorm(2), nn.Linear(2, 3)
        ),
        nn.Sequential(
            nn.Linear(2, 3), nn.Tanh(), elman.GRU(3, 4, reset_after=False), nn.Softmax(-1)
        ),
        elman.LSTM(2, 3, bidirectional=True),
        elman.RNN(2, 3, nonlinearity="relu", dtype=torch.float64),
    ]


SMALL = ["--hidden", "4", "--batch", "2", "--chunk", "8", "--epochs", "1", "--seed", "1"]


def quietly(words: list[str]) -> tuple[int, str]:
    """Run the command line here, and return its exit code and what it wrote to standard error."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return cli.main(words), err.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Change bytes here and there, or cut, repeat or insert some."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0:
            del data[at:]
        elif what == 1:
            data[at : at + chance.randrange(9)] = b""
        elif what == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif what == 3:
            data[at:at] = data[at : at + chance.randrange(1, 99)]
        elif at < len(data):
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def deranged(model: Any, chance: random.Random) -> Any:
    """Change fields of a model: names, operators, attributes, shapes, edges."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    names = ["", *(t.name for t in graph.initializer), *(n for m in graph.node for n in m.output)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        node, tensor = chance.choice(graph.node), chance.choice(graph.initializer)
        what = chance.randrange(10)
        if what == 0 and node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(names)
        elif what == 1 and node.output:
            node.output[chance.randrange(len(node.output))] = chance.choice(names)
        elif what == 2:
            node.op_type = chance.choice(
                ("RNN", "LSTM", "GRU", "Scan", "Expand", "Tile", "Shape", "RandomNormal", "Nothing")
            )
        elif what == 3 and node.attribute:
            attribute = chance.choice(node.attribute)
            key = chance.choice((attribute.name, "direction", "layout", "activations", "clip"))
            value = chance.choice(
                (0, -1, 7, 2**62, 0.5, "sideways", "reverse", b"\xff", ["Tanh"] * 5, [1, 2])
            )
            attribute.CopyFrom(helper.make_attribute(key, value))
        elif what == 4:
            tensor.dims[:] = [chance.choice((0, 1, 2, 3, -1, 2**40)) for _ in range(3)]
        elif what == 5:
            tensor.data_type = chance.randrange(30)
        elif what == 6:
            shape = chance.choice(((), (1,), (1, 12, 3), (2, 16, 4), (3,)))
            tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), tensor.name))
        elif what == 7:
            graph.node.insert(chance.randrange(len(graph.node) + 1), node)
        elif what == 8:
            changed.opset_import[0].version = chance.choice((0, 1, 6, 7, 11, 14, 999, 2**62))
        else:
            node = helper.make_node(
                chance.choice(("ConstantOfShape", "Expand", "Tile", "Concat", "Identity")),
                [chance.choice(names) for _ in range(2)],
                [f"{tensor.name}_made"],
            )
            graph.node.insert(0, node)
            chance.choice(graph.node).input.append(f"{tensor.name}_made")
    return changed


def read_onnx(place: Place, chance: random.Random) -> None:
    """A damaged ONNX file is read, or refused with the one error."""
    i, file = chance.randrange(len(place.files)), place.path / "case.onnx"
    if chance.random() < 0.5:
        file.write_bytes(damaged(place.files[i], chance))
    else:
        file.write_bytes(deranged(place.models[i], chance).SerializeToString())
    with contextlib.suppress(elman.onnx.OnnxError, OSError):
        for layer in elman.onnx.load(file).values():
            layer(torch.zeros(2, 1, layer.input_size))


def read_checkpoint(place: Place, chance: random.Random) -> None:
    """A damaged checkpoint is read, or refused with the one error."""
    file = place.path / "case"
    file.write_bytes(damaged(place.checkpoint, chance))
    with contextlib.suppress(checkpoint.CheckpointError, OSError):
        checkpoint.load(file)


def assembled(header: dict[str, Any], data: bytes) -> bytes:
    """A model file, its checksum that of what it holds, wherever that can be said."""
    meta = header.get("__metadata__")
    if isinstance(meta, dict) and isinstance(meta.get("elman"), str):
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        with contextlib.suppress(file.FileError, UnicodeError):
            tensors = file._tensors(Path("case"), entries, memoryview(data))
            meta["sha256"] = file._digest(meta["elman"], tensors)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


ODD_JSON = (
    *(0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**70, 1e300, 1.5, float("nan"), float("inf"), "", "x"),
    *(
        "\ud800",
        "relu",
        "lstm",
        "linear",
        "F64",
        "BF16",
        "F16",
        None,
        True,
        False,
        [],
        {},
        [1],
        [[]],
    ),
    *([0, 2**40], {"kind": []}, {"a": {}}),
)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value of JSON with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)):
            found += places_in(value[key])
    return found


def changed(value: Any, chance: random.Random) -> None:
    """Change, remove, repeat, rename or exchange something inside a value of JSON."""
    found = places_in(value)
    if not found:
        return
    holder, key = chance.choice(found)
    other, other_key = chance.choice(found)
    what = chance.randrange(8)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, list):
        holder.insert(key, json.loads(json.dumps(holder[key])))
    elif what == 2 and isinstance(holder, dict):
        holder[chance.choice(("x", "", "\ud800", *map(str, holder)))] = holder.pop(key)
    elif what == 3:
        holder[key], other[other_key] = (
            json.loads(json.dumps(part)) for part in (other[other_key], holder[key])
        )
    elif what in (4, 5) and type(holder[key]) is int:
        holder[key] += chance.choice((-8, -4, -1, 1, 4, 8))
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD_JSON))


def damaged_model(content: bytes, chance: random.Random) -> bytes:
    """A model file with its bytes, header, description or tensors changed, the checksum not so."""
    what = chance.randrange(4)
    if what == 0:
        return damaged(content, chance)
    size = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:size]), content[size:]
    times = chance.choice((1, 1, 1, 2, 4))
    if what == 1:
        for _ in range(times):
            changed(header, chance)
    elif what == 2:
        description = json.loads(header["__metadata__"]["elman"])
        for _ in range(times):
            changed(description, chance)
        header["__metadata__"]["elman"] = json.dumps(description)
    else:
        data = chance.randbytes(len(data))
        if chance.random() < 0.3:
            data = data[: chance.randrange(len(data))]
    return assembled(header, data)


def read_model(place: Place, chance: random.Random) -> None:
    """A damaged model file runs, or is refused with the one error."""
    path = place.path / "case.elman"
    path.write_bytes(damaged_model(chance.choice(place.model_files), chance))
    with contextlib.suppress(runtime.FileError):
        model = runtime.load(path)
        if (model.inputs or 1) > 99:
            return  # of a layer norm, say, which has no weights
        shape = (3, 2) if model.takes_integers else (3, 2, model.inputs)
        x = np.zeros(shape, np.int64 if model.takes_integers else np.float32)
        assert model.run(x).shape == (3, 2, model.width)
        with contextlib.suppress(runtime.InputError):  # one that reads backwards has no sessions
            session = model.session(2)
            assert session.step(x[0]).shape == (2, model.width)


def use_runtime(place: Place, chance: random.Random) -> None:
    """What a model, session or streams are given is taken, or refused, and no state is lost."""
    model = chance.choice([m for m in place.runtimes if len(m.modules) > 1 or m.width != 6])
    batch = chance.randrange(1, 4)

    def good(*outer: int) -> Any:
        if model.takes_integers:
            return np.array([chance.randrange(5) for _ in range(int(np.prod(outer)))]).reshape(
                outer
            )
        return np.full((*outer, model.inputs), chance.random(), model.dtype)

    def array() -> Any:
        if chance.random() < 0.2:
            return chance.choice((*STRANGE, [[1], [1, 2]], object(), {}, {"0.h": 1}))
        kinds = (np.float32,) * 4 + (
            np.float64,
            np.int64,
            np.bool_,
            np.float16,
            ">f4",
            "U3",
            object,
        )
        shape = [chance.choice((0, 1, 2, 3, 4)) for _ in range(chance.randrange(5))]
        made = np.zeros(shape, chance.choice(kinds))
        if chance.random() < 0.2:
            made.flags.writeable = False
        return made.T if chance.random() < 0.3 else made

    def bytes_of(state: Any) -> Any:
        return damaged(state.tobytes(), chance)

    session, streams = model.session(batch), runtime.Streams(model, 3)
    session.run(good(2, batch))
    streams.step({"a": good(), "b": good()})
    names = ("a", "b", "c", "d", None, 5, [])
    calls: tuple[Callable[[], Any], ...] = (
        lambda: session.step(array(), chance.choice((None, array()))),
        lambda: session.step(good(batch), array()),
        lambda: session.run(array(), chance.choice((None, array()))),
        lambda: session.run(good(3, batch), array()),
        lambda: model.run(array(), array()),
        lambda: model.run(good(3, 2), array()),
        lambda: model.session(chance.choice((*STRANGE, array()))),
        lambda: session.reset(array()),
        lambda: session.load_state(array()),
        lambda: session.load_state({name: array() for name in session.state()}),
        lambda: session.load_state(bytes_of(session.state())),
        lambda: streams.step({"a": good(), "b": array()}),
        lambda: streams.step({name: good() for name in "abcd"[: chance.randrange(5)]}),
        lambda: streams.step(array()),
        lambda: streams.drop(chance.choice(names)),
        lambda: streams.state(chance.choice(names)),
        lambda: streams.load_state(chance.choice(names), array()),
        lambda: streams.load_state("c", bytes_of(streams.state("b"))),
        lambda: runtime.Streams(model, chance.choice((0, -1, 1.5, None, "x"))),
    )
    for _ in range(3):
        before = session.state().tobytes(), streams._session.state().tobytes(), len(streams)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                chance.choice(calls)()
            except runtime.InputError:
                after = session.state().tobytes(), streams._session.state().tobytes(), len(streams)
                assert before == after, "what was refused changed a state"
    assert session.step(good(batch)).shape == (batch, model.width)


def use_layer(place: Place, chance: random.Random) -> None:
    """A layer or cell made or called in a wrong way computes, or says why not."""
    kind = chance.choice((*KINDS, *CELLS))
    torch.manual_seed(chance.randrange(2**31))
    strange = [value for value in STRANGE if not isinstance(value, int) or value < 2**31]

    def size() -> Any:
        return chance.choice(strange) if chance.random() < 0.1 else chance.randrange(1, 5)

    def tensor() -> Any:
        if chance.random() < 0.15:
            return chance.choice(strange)
        shape = [chance.randrange(5) for _ in range(chance.randrange(5))]
        kinds = (torch.float32,) * 6 + (torch.float64, torch.int64, torch.bool, torch.float16)
        made = torch.zeros(shape, dtype=chance.choice(kinds))
        return made.transpose(0, -1) if shape and chance.random() < 0.3 else made

    names = ("bias", "num_layers", "bidirectional", "batch_first", "dropout", "proj_size")
    options = {n: chance.choice((1, 2, 0, True, *strange)) for n in names if chance.random() < 0.2}
    if kind in CELLS:
        options = {name: value for name, value in options.items() if name == "bias"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # One of the two is a ValueError and a RuntimeError, the other a TypeError besides.
        with contextlib.suppress(elman.shapes.ShapeError, TypeError):
            layer = kind(size(), size(), **options)
            x = tensor()
            if chance.random() < 0.5:
                x = torch.zeros(*[chance.randrange(1, 4) for _ in range(2)], layer.input_size)
                x = x[0] if kind in CELLS else x
            hx = chance.choice((None, tensor(), (tensor(), tensor())))
            more = {"lengths": tensor()} if kind in KINDS and chance.random() < 0.3 else {}
            layer(x, hx, **more)


def run_command(place: Place, chance: random.Random) -> None:
    """Random words end with a documented exit code, and no traceback."""
    words = chance.choice(
        (["sample"], ["sample", str(place.run)], ["train", "text"], ["bench"], [])
    )
    options = ("--length", "--temperature", "--top-k", "--seed", "--prime", "--out", "--nothing")
    values = ("0", "-1", "1.5", "nan", "x", "", "--", "é\x1b[0m", "1e5", str(place.text))
    for _ in range(chance.randrange(1, 4)):
        words = [*words, chance.choice(options), chance.choice(values)]
    if words[:1] == ["bench"]:
        words.append("--no-such-option")  # or it would measure for minutes
    if "--length" not in words and words[:1] == ["sample"]:
        words += ["--length", "3"]
    code, said = quietly(words)
    assert code in (0, 1, 2, 130), f"exit code {code}"
    assert "Traceback" not in said


def open_run(place: Place, chance: random.Random) -> None:
    """A run with a damaged file is used, or refused with a documented exit code."""
    run = place.path / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(place.run, run)
    file = chance.choice([f for f in sorted(run.iterdir()) if f.suffix != ".png"])
    file.write_bytes(damaged(file.read_bytes(), chance))
    code, said = quietly(["sample", str(run), "--length", "2"])
    assert code in (0, 1, 2, 130), f"exit code {code}"
    assert "Traceback" not in said


# Those that cost least come most often.
KINDS_OF_CASE: dict[str, tuple[Callable[[Place, random.Random], None], int]] = {
    "onnx": (read_onnx, 8),
    "checkpoint": (read_checkpoint, 6),
    "layer": (use_layer, 8),
    "model": (read_model, 8),
    "runtime": (use_runtime, 8),
    "command": (run_command, 1),
    "run": (open_run, 1),
}
LIMIT_S = 20.0


def case(place: Place, name: str, seed: int) -> None:
    """One case; an error that is not documented, or a time beyond the limit, is raised."""
    before = time.process_time()
    KINDS_OF_CASE[name][0](place, random.Random(f"{name} {seed}"))
    took = time.process_time() - before
    assert took < LIMIT_S, f"took {took:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="until Ctrl-C if left")
    parser.add_argument("--seed", type=int, default=None, help="another each time if left out")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="for inputs that fail")
    parser.add_argument("--kind", choices=KINDS_OF_CASE, help="cases of this kind alone")
    parser.add_argument("--cases", type=int, default=None, help="how many")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "NUMBER"), help="one case again")
    given = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "big") if given.seed is None else given.seed
    names = [name for name, (_, weight) in KINDS_OF_CASE.items() for _ in range(weight)]
    if given.kind:
        names = [given.kind]
    failed = done = 0
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory))
        if given.case:
            case(place, given.case[0], int(given.case[1]))
            return 0
        print(f"seed {seed}", flush=True)
        until = time.monotonic() + given.seconds
        with contextlib.suppress(KeyboardInterrupt):
            for number in itertools.count(seed * 10**6):
                if time.monotonic() > until or done == given.cases:
                    break
                name = names[number % len(names)]
                try:
                    case(place, name, number)
                except Exception:
                    failed += 1
                    kept = given.keep / f"{name}-{number}"
                    shutil.copytree(place.path, kept, dirs_exist_ok=True)
                    print(f"--case {name} {number}, kept in {kept}", flush=True)
                    traceback.print_exc()
                done += 1
    print(f"{done} cases, {failed} failed, seed {seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
