"""ONNX files: what we write computes the same elsewhere, what we read computes the same here."""

import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as node_tests
from onnx.reference import ReferenceEvaluator
from torch import Tensor

import elman
from elman.cells import CELLS
from elman.exchange import onnx_reading, onnx_writing
from elman.shapes import KindError, ShapeError

# PyTorch's exporter says the first of its own code, and the second of axes that have one name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:# The axis name. N will not be used"),
]

through_torch = pytest.mark.skipif(
    os.environ.get("ELMAN_BACKEND") == "reference", reason="the reference is exported op by op"
)

KINDS = {kind(1, 1)._cell.name: kind for kind in onnx_reading._KINDS}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unbiased": {"bias": False, "batch_first": True},
    "stacked": {"num_layers": 3},
    "both ways": {"bidirectional": True, "batch_first": True},
    "all": {"num_layers": 2, "bidirectional": True},
}
PROJECTED = partial(elman.LSTM, proj_size=2)
LAYERS = {**KINDS, "projected": PROJECTED}
SIZES = [(1, 1), (4, 7), (3, 20)]  # N, L


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layer.onnx"


def layer(name: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return LAYERS[name](3, 5, **options)


def step_cell(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    kind = KINDS[name]
    fixed = kind.keywords if isinstance(kind, partial) else {}
    base = kind.func if isinstance(kind, partial) else kind
    return getattr(elman, base.__name__ + "Cell")(3, 5, **fixed, **options)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(path: Path, batch: int, seq_len: int, dtype: Any = np.float32) -> dict[str, Any]:
    """Random values for every input that a file declares."""
    random = np.random.default_rng(seq_len)
    values = {}
    for declared in onnx.load(path).graph.input:
        axes = declared.type.tensor_type.shape.dim
        shape = [{"N": batch, "L": seq_len}.get(a.dim_param, a.dim_value) for a in axes]
        values[declared.name] = random.standard_normal(shape).astype(dtype)
    if "sequence_lens" in values:
        values["sequence_lens"] = random.integers(0, seq_len, batch, np.int32, endpoint=True)
    return values


def call(module: Any, values: Mapping[str, Any], **more: Any) -> list[Tensor]:
    """What the module makes of the same values: the outputs of a file, in their order."""
    tensors = {name: torch.from_numpy(value) for name, value in values.items()}
    states = tuple(tensors[name] for name in ("initial_h", "initial_c") if name in tensors)
    with torch.no_grad():
        result = module(tensors["input"], states if len(states) > 1 else states[0], **more)
    output, final = (result[0], result) if isinstance(module, CELL_TYPES) else result
    if isinstance(module, CELL_TYPES) and isinstance(result, Tensor):
        output = final = result
    return [output, *(final if isinstance(final, tuple) else (final,))]


CELL_TYPES = (elman.RNNCell, elman.LSTMCell, elman.GRUCell)


def assert_equal(got: Sequence[Any], expected: Sequence[Tensor], limit: float = 1e-5) -> None:
    for result, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(result), wanted, rtol=0, atol=limit)


# --- what we write ------------------------------------------------------------------------------


def test_every_cell_has_a_layer_that_a_file_can_become() -> None:
    assert KINDS.keys() == CELLS.keys()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_file_computes_what_its_layer_does_for_any_batch_and_lengths(
    name: str, options: dict[str, Any], path: Path
) -> None:
    module = layer(name, **options)
    elman.onnx.export(module, path)
    onnx.checker.check_model(path, full_check=True)
    runtime = session(path)
    for batch, seq_len in SIZES:
        values = feeds(path, batch, seq_len)
        if batch > 1:
            values["sequence_lens"][:2] = 0, seq_len
        expected = call(module, values, lengths=torch.from_numpy(values["sequence_lens"]))
        assert_equal(runtime.run(None, values), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_of_a_step_streams_what_the_layer_computes_at_once(name: str, path: Path) -> None:
    module = layer(name, num_layers=2, batch_first=True)
    elman.onnx.export(module, path, mode="step")
    runtime = session(path)
    values = feeds(path, 4, 0)
    x = torch.randn(4, 6, 3)
    expected = call(module, {**values, "input": x.numpy()})
    outputs = []
    for t in range(6):
        values["input"] = x[:, t].numpy()
        output, *final = runtime.run(None, values)
        outputs.append(output)
        values.update(zip(("initial_h", "initial_c"), final, strict=False))
    assert_equal([np.stack(outputs, 1), *final], expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_module_is_written_for_a_step_and_for_sequences(
    name: str, bias: bool, path: Path
) -> None:
    module = step_cell(name, bias=bias)
    elman.onnx.export(module, path, mode="step")
    values = feeds(path, 4, 0)
    assert_equal(session(path).run(None, values), call(module, values))

    elman.onnx.export(module, path)
    values = feeds(path, 2, 3)
    values["sequence_lens"][:] = 3
    states, outputs = dict(values), []
    for x in values["input"]:
        output, *final = call(module, {**states, "input": x})
        outputs.append(output)
        states.update(zip(("initial_h", "initial_c"), (f.numpy() for f in final), strict=False))
    assert_equal(session(path).run(None, values), [torch.stack(outputs), *final])


@pytest.mark.parametrize("name", LAYERS)
def test_onnxs_own_evaluator_agrees_in_float64(name: str, path: Path) -> None:
    if "Relu" in str(CELLS.get(name)):
        pytest.skip("the evaluator's RNN knows no Relu")
    # nor does its Scan go backwards
    module = layer(name, num_layers=2, bidirectional=name in CELLS).double()
    elman.onnx.export(module, path)
    values = feeds(path, 3, 4, np.float64)
    values["sequence_lens"][:] = 4  # which its RNN, LSTM and GRU do not read
    assert_equal(ReferenceEvaluator(onnx.load(path)).run(None, values), call(module, values), 1e-12)


def test_a_file_says_who_wrote_it_and_what_its_axes_are(path: Path) -> None:
    elman.onnx.export(layer("lstm", bidirectional=True, batch_first=True), path)
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("elman", elman.__version__)
    assert "LSTM(3, 5, batch_first=True, bidirectional=True)" in model.doc_string
    assert [node.op_type for node in model.graph.node if node.name == "LSTM_l0"] == ["LSTM"]

    def axes(values: Any) -> dict[str, list[Any]]:
        assert all(value.doc_string for value in values)
        return {
            v.name: [a.dim_param or a.dim_value for a in v.type.tensor_type.shape.dim]
            for v in values
        }

    state = [2, "N", 5]
    assert axes(model.graph.input) == {
        "input": ["N", "L", 3],
        "sequence_lens": ["N"],
        "initial_h": state,
        "initial_c": state,
    }
    assert axes(model.graph.output) == {
        "output": ["N", "L", 10],
        "final_h": state,
        "final_c": state,
    }


def test_parameters_are_written_as_they_are_read_at_a_call(path: Path) -> None:
    module = layer("gru")
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    elman.onnx.export(module, path)
    values = feeds(path, 2, 3)
    values["sequence_lens"][:] = 3
    assert_equal(session(path).run(None, values), call(module, values))


def test_an_export_that_stops_at_any_point_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"old")
    with pytest.raises(ShapeError):
        elman.onnx.export(layer("gru").bfloat16(), path)
    assert list(path.parent.iterdir()) == [path]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        elman.onnx.export(layer("gru"), path)
    assert path.read_bytes() == b"old"


# --- what is not written ------------------------------------------------------------------------

X = torch.zeros(2, 1, 3)


@pytest.mark.parametrize(
    ("module", "arguments", "error", "text"),
    [
        (
            partial(layer, "gru", bidirectional=True),
            {"mode": "step"},
            ShapeError,
            "mode must be 'sequence' for a bidirectional GRU, got 'step': its second direction "
            "begins at the end of the sequence, which a step does not know",
        ),
        (
            partial(layer, "gru"),
            {"mode": "stream"},
            ShapeError,
            "mode must be 'sequence' or 'step', got 'stream': choose one",
        ),
        (
            lambda: layer("lstm").bfloat16(),
            {},
            ShapeError,
            "the weights of LSTM must be float16, float32 or float64, got torch.bfloat16: ONNX's "
            "operators have no other, use .float()",
        ),
        (
            lambda: torch.nn.Sequential(layer("gru")),
            {},
            KindError,
            "module must be an RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell of elman, got "
            "Sequential: for another model pass example inputs, args=(x,)",
        ),
        (
            lambda: "gru",
            {},
            KindError,
            "module must be a torch.nn.Module, got str: pass the module",
        ),
        (
            partial(layer, "gru"),
            {"dynamic_shapes": {}},
            KindError,
            "dynamic_shapes must come with args, got none: pass args=(x,)",
        ),
        (
            partial(layer, "gru"),
            {"args": (X,), "mode": "step"},
            ShapeError,
            "mode must be left out where args are given, got 'step': args say it",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(
    module: Callable[[], Any], arguments: Any, error: type[Exception], text: str, path: Path
) -> None:
    with pytest.raises(error, match=f"^{re.escape('elman.onnx.export: ' + text)}$"):
        elman.onnx.export(module(), path, **arguments)
    assert not path.exists()


@pytest.mark.parametrize("arguments", [{}, {"args": (X,)}])
def test_weights_beyond_the_limit_of_the_format_are_refused(
    arguments: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_writing, "_MAX_BYTES", 600)
    with pytest.raises(ShapeError, match=r"at most 600 bytes.*got 800: .*external_data=True"):
        elman.onnx.export(layer("lstm"), path, **arguments)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_remedy(
    package: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    sentence = f"elman.onnx needs {package}: pip install 'elman[onnx]'"
    with pytest.raises(ImportError, match=re.escape(sentence)):
        elman.onnx.export(layer("gru"), path, args=(X,))


# --- through torch.onnx.export ------------------------------------------------------------------


class Tagger(torch.nn.Module):
    """A model as users have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 4)
        self.lstm = elman.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = torch.nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.lstm(self.embedding(tokens))[0])


class Many(torch.nn.Module):
    """Every cell, with and without a state and lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(kind(3, 3, bidirectional=True) for kind in KINDS.values())
        self.projected = elman.LSTM(3, 4, proj_size=2, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, lengths: Tensor) -> list[Tensor]:
        results = []
        for layer in self.layers:
            is_lstm = len(layer._cell.states) > 1
            for counts in (None, lengths):
                for hx in (None, (h, h) if is_lstm else h):
                    output, final = layer(x, hx, counts)
                    results += [output, *(final if is_lstm else (final,))]
        for hx in (None, (h[:, :, :2].repeat(2, 1, 1), c.repeat(2, 1, 1))):
            output, final = self.projected(x, hx, lengths if hx else None)
            results += [output, *final]
        return results


@through_torch
def test_a_model_is_exported_with_free_batch_and_time_and_its_layer_read_back(path: Path) -> None:
    torch.manual_seed(0)
    model = Tagger().eval()
    example = torch.zeros(2, 6, dtype=torch.int64)
    elman.onnx.export(model, path, args=(example,), dynamic_shapes=({0: "N", 1: "L"},))
    runtime = session(path)
    for shape in ((5, 3), (1, 9), (7, 1)):
        tokens = torch.randint(11, shape)
        with torch.no_grad():
            expected = model(tokens)
        assert_equal(runtime.run(None, {"tokens": tokens.numpy()}), [expected])
    written = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert written["elman_version"] == elman.__version__
    (again,) = elman.onnx.load(path).values()
    assert not again.batch_first  # its nodes are time-major
    for name, parameter in model.lstm.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)


@through_torch
def test_torchs_exporter_writes_every_cell_given_the_table(path: Path) -> None:
    torch.manual_seed(0)
    model = Many().eval()

    def arguments(batch: int, seq_len: int) -> tuple[Tensor, ...]:
        lengths = torch.randint(seq_len + 1, (batch,))
        lengths[:2] = torch.tensor([0, seq_len])
        states = torch.randn(2, batch, 3), torch.randn(2, batch, 4)
        return torch.randn(seq_len, batch, 3), *states, lengths

    program = torch.onnx.export(
        model,
        arguments(3, 4),
        dynamo=True,
        verbose=False,
        custom_translation_table=elman.onnx.translation_table(),
        dynamic_shapes=({0: "L", 1: "N"}, {1: "N"}, {1: "N"}, {0: "N"}),
    )
    assert program is not None
    program.save(path)
    runtime = session(path)
    for batch, seq_len in ((4, 9), (2, 1)):
        values = arguments(batch, seq_len)
        with torch.no_grad():
            expected = model(*values)
        named = zip(("x", "h", "c", "lengths"), (value.numpy() for value in values), strict=True)
        assert_equal(runtime.run(None, dict(named)), expected)


@through_torch
def test_packed_input_is_refused_with_what_to_do_instead(path: Path) -> None:
    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = elman.RNN(3, 5)

        def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
            weights = [*self.rnn._weights(), *[None] * 5]
            h_0 = rows.new_zeros(1, 3, 5)
            call = rows, sizes, None, None, h_0, *[None] * 3, *weights, self.rnn._cell.name, False
            return torch.ops.elman.layer(*call)[0]

    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        elman.onnx.export(Packed().eval(), path, args=(torch.zeros(5, 3), torch.tensor([3, 2])))
    causes, error = [], caught.value
    while error:
        causes.append(str(error))
        error = error.__cause__
    assert causes[-1].startswith("elman.onnx.export: input must be padded, got a PackedSequence")


# --- what we read -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", CELLS)
def test_a_layer_comes_back_in_every_bit(name: str, options: dict[str, Any], path: Path) -> None:
    module = layer(name, **options)
    elman.onnx.export(module, path)
    before = torch.get_rng_state()
    loaded = elman.onnx.load(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(loaded) == [f"{CELLS[name].onnx_op}_l0"]
    (again,) = loaded.values()
    assert type(again) is type(module)
    assert again._cell is module._cell
    assert again.state_dict().keys() == module.state_dict().keys()
    for key, value in module.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in again.parameters())
    x = torch.randn(4, 2, 3)
    turned = x.transpose(0, 1) if module.batch_first else x
    with torch.no_grad():
        expected = module(turned)[0]
        expected = expected.transpose(0, 1) if module.batch_first else expected
        torch.testing.assert_close(again(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_layer_comes_back_in_its_dtype(dtype: torch.dtype, path: Path) -> None:
    elman.onnx.export(layer("lstm").to(dtype), path)
    assert {p.dtype for p in elman.onnx.load(path)["LSTM_l0"].parameters()} == {dtype}


def recurrent_node_tests() -> dict[str, Any]:
    """The tests that the ONNX package has for RNN, LSTM and GRU."""
    for op in ("rnn", "lstm", "gru"):
        importlib.import_module(f"onnx.backend.test.case.node.{op}")
    found = {case.name: case for case in node_tests._NodeTestCases}
    ops = {name: case.model.graph.node[0].op_type for name, case in found.items()}
    return {name: case for name, case in found.items() if ops[name] in ("RNN", "LSTM", "GRU")}


NODE_TESTS = recurrent_node_tests()
REFUSED = {
    "test_simple_rnn_reverse": "no layer runs backwards only",
    "test_lstm_reverse": "no layer runs backwards only",
    "test_gru_reverse": "no layer runs backwards only",
    "test_lstm_with_peepholes": "P must be left out, got peepholes: no layer has them",
}


def test_the_node_tests_of_onnx_are_there() -> None:
    assert len(NODE_TESTS) >= 18
    assert NODE_TESTS.keys() >= REFUSED.keys()


@pytest.mark.parametrize("name", NODE_TESTS)
def test_a_node_test_of_onnx_is_met_or_refused(name: str, path: Path) -> None:
    case = NODE_TESTS[name]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    ((inputs, outputs),) = case.data_sets
    node = model.graph.node[0]
    values = dict(zip([value.name for value in model.graph.input], inputs, strict=True))
    wanted = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
    for weight in ("W", "R", "B"):  # the tests have even these as inputs
        if weight in values:
            model.graph.initializer.append(numpy_helper.from_array(values[weight], weight))
    onnx.save(model, path)
    if name in REFUSED:
        with pytest.raises(elman.onnx.OnnxError, match=re.escape(REFUSED[name])):
            elman.onnx.load(path)
        return
    ((key, module),) = elman.onnx.load(path).items()
    assert key == f"{node.op_type}_0"
    x = torch.from_numpy(values["X"])
    with torch.no_grad():
        output, final = module(x)
    states = final if isinstance(final, tuple) else (final,)
    split = output.unflatten(-1, (len(states[0]), -1))
    if module.batch_first:
        states = tuple(state.transpose(0, 1) for state in states)
    else:
        split = split.transpose(1, 2)
    got = dict(zip(("Y", "Y_h", "Y_c"), (split, *states), strict=False))
    assert wanted.keys() <= got.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], torch.from_numpy(value), rtol=0, atol=1e-5)


# --- files of others ----------------------------------------------------------------------------


def model_of(
    nodes: Sequence[Any], constants: Mapping[str, np.ndarray], opset: int = 18, **options: Any
) -> Any:
    """A model with inputs x, h, c and lengths, and the output of its last node."""
    real = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, real, None) for name in ("x", "h", "c")]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, None))
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], real, None)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options
    )


def weights(
    gates: int, size: int, directions: int = 1, dtype: Any = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    """W, R and B of a node of 2 hidden units."""
    random = np.random.default_rng(seed)
    shapes = {"W": (gates * 2, size), "R": (gates * 2, 2), "B": (gates * 4,)}
    return {
        name: random.standard_normal((directions, *shape)).astype(dtype)
        for name, shape in shapes.items()
    }


def make(op: str, *, inputs: Sequence[str] = ("x", "W", "R", "B"), **attributes: Any) -> Any:
    return helper.make_node(op, inputs, ["Y", "Y_h"], name="n", **attributes)


GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
INPUTS = ("x", "W", "R", "B")


@pytest.mark.parametrize(
    ("node", "constants", "text"),
    [
        (make("LSTM", clip=0.5), {}, "clip must be left out, got 0.5: no layer has it"),
        (make("LSTM", input_forget=1), {}, "input_forget must be left out, got 1: no layer has it"),
        (
            make("RNN", activation_alpha=[0.5]),
            {},
            "activation_alpha must be left out, got [0.5]: no layer has it",
        ),
        (
            make("GRU", activation_beta=[0.5]),
            {},
            "activation_beta must be left out, got [0.5]: no layer has it",
        ),
        (
            make("RNN", activations=["Affine"]),
            {},
            "activations must be ['Tanh'] or ['Relu'], got ['Affine']: no layer has others",
        ),
        (
            make("GRU", activations=["HardSigmoid", "Tanh"]),
            {},
            "activations must be ['Sigmoid', 'Tanh'], got ['HardSigmoid', 'Tanh']: no layer has "
            "others",
        ),
        (
            make("LSTM", direction="reverse"),
            {},
            "direction must be 'forward' or 'bidirectional', got 'reverse': no layer runs "
            "backwards only",
        ),
        (
            make("LSTM", inputs=[*INPUTS, "", "", "", "P"]),
            {"P": np.zeros((1, 6), np.float32)},
            "P must be left out, got peepholes: no layer has them",
        ),
        (
            make("LSTM", inputs=[*INPUTS, "", "", "c_0"]),
            {"c_0": np.ones((1, 1, 2), np.float32)},
            "initial_c must be zeros or an input of the model, got constants: a layer keeps no "
            "initial state",
        ),
        (
            make("GRU", inputs=[*INPUTS, "n_0"]),
            {"n_0": np.ones(1, np.int32)},
            "sequence_lens must be an input of the model, got a constant: a layer keeps no lengths",
        ),
        (
            make("GRU", inputs=["x", "W", "h"]),
            {},
            "R must be a constant of the file, got 'h'",
        ),
        (
            make("GRU", inputs=[*INPUTS, "", "h_0"]),
            {"h_0": np.ones((1, 1, 2), np.float32)},
            "initial_h must be zeros or an input of the model, got constants: a layer keeps no "
            "initial state",
        ),
        (
            make("GRU", direction="sideways"),
            {},
            "direction must be 'forward' or 'bidirectional', got 'sideways'",
        ),
        (make("GRU", layout=7), {}, "layout must be 0 or 1, got 7"),
        (
            make("GRU", linear_before_reset=3),
            {},
            "linear_before_reset must be 0 or 1, got 3",
        ),
        (
            make("RNN", activations=["Tanh"] * 5),
            {},
            "activations must be ['Tanh'] or ['Relu'], got ['Tanh', 'Tanh', 'Tanh', 'Tanh', "
            "'Tanh']: no layer has others",
        ),
        (make("RNN", hidden_size=-2), {}, "hidden_size must be at least 1, got -2"),
        (
            make("RNN"),
            {"W": np.ones((2, 3), np.float32)},
            "W must be (1, 1 * hidden_size, input_size), got (2, 3)",
        ),
        (
            make("GRU", hidden_size=7),
            {},
            "W must be (1, 21, 3), got (1, 6, 3)",
        ),
        (
            make("GRU"),
            {"B": np.ones((1, 12), np.float64)},
            "W, R and B must all be float16, float32 or float64, got float32, float64",
        ),
    ],
    ids=lambda value: "",
)
def test_what_no_layer_does_is_refused_in_a_sentence(
    node: Any, constants: Any, text: str, path: Path
) -> None:
    op = node.op_type
    onnx.save(model_of([node], {**weights(GATES[op], 3), **constants}), path)
    expected = f"elman.onnx.load: {path}, node n ({op}): {text}"
    with pytest.raises(elman.onnx.OnnxError, match=f"^{re.escape(expected)}$"):
        elman.onnx.load(path)


def test_a_node_inside_another_is_refused(path: Path) -> None:
    inner = helper.make_graph(
        [make("RNN")], "b", [], [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)]
    )
    chosen = helper.make_node("If", ["h"], ["z"], then_branch=inner, else_branch=inner)
    onnx.save(model_of([chosen], weights(1, 3)), path)
    with pytest.raises(
        elman.onnx.OnnxError, match=r"must not stand in another node, got it in a If$"
    ):
        elman.onnx.load(path)


def test_a_file_without_a_recurrent_node_is_refused(path: Path) -> None:
    elman.onnx.export(layer("projected"), path)
    with pytest.raises(
        elman.onnx.OnnxError, match=r"must have an RNN, LSTM or GRU node, got none: .* Scan"
    ):
        elman.onnx.load(path)


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(
        elman.onnx.OnnxError, match=r"layer.onnx must be an ONNX file, got something else"
    ):
        elman.onnx.load(path)
    with pytest.raises(FileNotFoundError):
        elman.onnx.load(path.with_name("nothing.onnx"))


def test_states_that_are_zeros_and_attributes_at_their_defaults_are_accepted(path: Path) -> None:
    node = make(
        "LSTM",
        inputs=[*INPUTS, "lengths", "h_0", "c"],
        input_forget=0,
        activations=["sigmoid", "tanh", "tanh"],
        direction="forward",
    )
    constants = {**weights(4, 3), "h_0": np.zeros((1, 1, 2), np.float32)}
    onnx.save(model_of([node], constants), path)
    (module,) = elman.onnx.load(path).values()
    assert isinstance(module, elman.LSTM)


def test_the_default_activations_of_rnn_may_be_written_out(path: Path) -> None:
    onnx.save(model_of([make("RNN", activations=["Tanh", "Tanh"])], weights(1, 3)), path)
    assert elman.onnx.load(path)["n"]._cell is CELLS["rnn_tanh"]


def test_weights_that_are_computed_from_constants_are_read(path: Path) -> None:
    parts = weights(4, 3)
    nodes = [
        helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(parts["W"])),
        helper.make_node("Transpose", ["turned"], ["R"], perm=[0, 2, 1]),
        make("LSTM"),
    ]
    turned = {"turned": parts["R"].transpose(0, 2, 1).copy(), "B": parts["B"]}
    onnx.save(model_of(nodes, turned), path)
    computed = elman.onnx.load(path)["n"].state_dict()
    onnx.save(model_of([make("LSTM")], parts), path)
    for name, value in elman.onnx.load(path)["n"].state_dict().items():
        torch.testing.assert_close(computed[name], value, rtol=0, atol=0)


def test_weights_may_stand_in_a_file_beside(path: Path) -> None:
    model = model_of([make("GRU")], weights(3, 3))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.SetInParent()
    model.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(1, ["L", "N", 3]))
    onnx.save(model, path, save_as_external_data=True, location="beside", size_threshold=0)
    assert (path.parent / "beside").stat().st_size > 0
    module = elman.onnx.load(path)["n"]
    onnx.save(model_of([make("GRU")], weights(3, 3)), path)
    torch.testing.assert_close(module.weight_hh_l0, elman.onnx.load(path)["n"].weight_hh_l0)


def test_a_node_in_a_function_of_the_model_is_read(path: Path) -> None:
    opsets = [helper.make_opsetid("", 18)]
    names = ["x", "W", "R", "B"]
    function = helper.make_function("mine", "F", names, ["Y"], [make("GRU")], opsets)
    called = helper.make_node("F", names, ["z"], domain="mine")
    model = model_of([called], weights(3, 3), functions=[function])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    (module,) = elman.onnx.load(path).values()
    assert isinstance(module, elman.GRU)


def stack(layout: int, directions: int, **changes: Any) -> Any:
    """Two LSTM nodes, of which the first feeds the second in the way that is usual."""
    first, second = weights(4, 3, directions), weights(4, 2 * directions, directions, seed=1)
    constants = {f"{k}0": v for k, v in first.items()} | {f"{k}1": v for k, v in second.items()}
    constants |= {"axes": np.array([1 + layout]), "shape": np.array([0, 0, -1])}
    options = {"layout": layout, "direction": "bidirectional" if directions == 2 else "forward"}
    feed = [helper.make_node("Squeeze", ["Y0", "axes"], ["x1"])]
    if directions == 2:
        feed = [helper.make_node("Reshape", ["Y0" if layout else "t", "shape"], ["x1"])]
        if not layout:
            feed.insert(0, helper.make_node("Transpose", ["Y0"], ["t"], perm=[0, 2, 1, 3]))
    nodes = [
        helper.make_node("LSTM", ["x", "W0", "R0", "B0"], ["Y0"], name="a", **options),
        *feed,
        helper.make_node(
            "LSTM", ["x1", "W1", "R1", "B1", changes.get("lengths", "")], ["Y1"], "b", **options
        ),
    ]
    if "also" in changes:
        nodes.append(helper.make_node("Identity", [changes["also"]], ["also"]))
        nodes.append(helper.make_node("Identity", ["Y1"], ["z"]))
    return model_of(nodes, constants)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layout", [0, 1])
def test_nodes_that_only_feed_each_other_are_one_layer(
    layout: int, directions: int, path: Path
) -> None:
    onnx.save(stack(layout, directions), path)
    ((name, module),) = elman.onnx.load(path).items()
    assert name == "a"
    assert (module.num_layers, module.batch_first) == (2, layout == 1)
    assert module.bidirectional == (directions == 2)
    # layout = 1 has no other way to be run than onnx's own
    x = np.random.default_rng(0).standard_normal((4, 3, 3)).astype(np.float32)
    (y,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    with torch.no_grad():
        got = module(torch.from_numpy(x))[0].unflatten(-1, (directions, 2))
    expected = torch.from_numpy(y) if layout else torch.from_numpy(y).transpose(1, 2)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{"also": "Y0"}, {"also": "x1"}, {"lengths": "lengths"}])
def test_nodes_that_are_not_a_plain_stack_are_layers_apart(changes: Any, path: Path) -> None:
    onnx.save(stack(0, 1, **changes), path)
    loaded = elman.onnx.load(path)
    assert {name: module.num_layers for name, module in loaded.items()} == {"a": 1, "b": 1}


def test_nodes_of_one_name_are_all_read(path: Path) -> None:
    model = stack(0, 1, also="Y0")
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, path)
    assert list(elman.onnx.load(path)) == ["LSTM_0", "LSTM_1"]


def test_squeeze_with_its_axes_as_an_attribute_is_understood(path: Path) -> None:
    model = stack(0, 1)
    (squeeze,) = [node for node in model.graph.node if node.op_type == "Squeeze"]
    del squeeze.input[1]
    for node in model.graph.node:  # there was no layout then
        kept = [attribute for attribute in node.attribute if attribute.name != "layout"]
        del node.attribute[:]
        node.attribute.extend(kept)
    squeeze.attribute.append(helper.make_attribute("axes", [1]))
    model.opset_import[0].version = 11
    onnx.save(model, path)
    assert elman.onnx.load(path)["a"].num_layers == 2


# --- files made to hurt -------------------------------------------------------------------------


def constant_gru(*nodes: Any, **constants: np.ndarray) -> Any:
    """A GRU whose W is made by nodes."""
    rest = weights(3, 3)
    del rest["W"]
    return model_of([*nodes, make("GRU")], {**rest, **constants})


def doubled(op: str) -> Any:
    nodes = [
        helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(34)
    ]
    return constant_gru(*nodes, helper.make_node(op, ["v34"], ["W"]), v0=np.ones(8, np.float32))


def filled(op: str) -> Any:
    shape, one = np.array([2**20, 2**20]), np.float32(1)
    inputs = {"ConstantOfShape": ["s"], "Expand": ["one", "s"], "Tile": ["ones", "s"]}[op]
    node = helper.make_node(op, inputs, ["W"])
    return constant_gru(node, s=shape, one=one, ones=np.ones((1, 1), np.float32))


def made_by(op: str, **attributes: Any) -> Any:
    return constant_gru(helper.make_node(op, [], ["W"], **attributes))


def defined_twice() -> Any:
    model = model_of([make("GRU")], weights(3, 3))
    model.graph.initializer.append(model.graph.initializer[0])
    return model


def made_and_stored() -> Any:
    nodes = [helper.make_node("Identity", ["R"], ["W"]), make("GRU")]
    return model_of(nodes, weights(3, 3))


def nested_functions(count: int, calls_itself: bool = False) -> Any:
    """Functions of which each calls the next twice."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    functions = []
    for i in range(count):
        if i < count - 1:
            then = "F0" if calls_itself else f"F{i + 1}"
            nodes = [
                helper.make_node(then, ["x"], ["a"], domain="mine"),
                helper.make_node(then, ["a"], ["y"], domain="mine"),
            ]
        else:
            nodes = [helper.make_node("Identity", ["x"], ["y"])]
        functions.append(helper.make_function("mine", f"F{i}", ["x"], ["y"], nodes, opsets))
    nodes = [helper.make_node("F0", ["x"], ["x1"], domain="mine"), make("GRU")]
    model = model_of(nodes, weights(3, 3), functions=functions)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model


def many_layers_of_one_weight() -> Any:
    constants = weights(3, 200000)
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], [f"Y{i}"], name=f"n{i}") for i in range(100)
    ]
    return model_of(nodes, constants)


def of_opset(version: int) -> Any:
    return model_of([make("GRU")], weights(3, 3), opset=version)


def missing_data() -> Any:
    model = model_of([make("GRU")], weights(3, 3))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="nothing")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.SetInParent()
    return model


def declared(shape: list[Any]) -> Any:
    model = model_of([make("GRU")], weights(3, 3))
    model.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(1, shape))
    return model


def learnt(value: float) -> Any:
    """A GRU whose initial state is one row for every sequence, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=1, end=2),
        helper.make_node("Concat", ["one", "n", "two"], ["s"], axis=0),
        helper.make_node("Expand", ["row", "s"], ["h_0"]),
        make("GRU", inputs=[*INPUTS, "", "h_0"]),
    ]
    row = np.full((1, 1, 2), value, np.float32)
    sizes = {"one": np.array([1]), "two": np.array([2])}
    return model_of(nodes, {**weights(3, 3), **sizes, "row": row})


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "doubled": (partial(doubled, "Identity"), "must be at most 64 times the file"),
    "ConstantOfShape": (partial(filled, "ConstantOfShape"), "must be at most 64 times the file"),
    "Expand": (partial(filled, "Expand"), "must be at most 64 times the file"),
    "Tile": (partial(filled, "Tile"), "must be at most 64 times the file"),
    "layers": (many_layers_of_one_weight, "must be at most 64 times the file"),
    "random": (
        partial(made_by, "RandomNormal", shape=[1, 6, 3]),
        "W must be a constant of the file, got what RandomNormal makes",
    ),
    "twice": (defined_twice, "W initializer name is not unique"),
    "made and stored": (made_and_stored, "'W'"),
    "functions": (partial(nested_functions, 30), "the functions' nodes must be at most"),
    "recursion": (
        partial(nested_functions, 30, True),
        "Model-local functions must not be recursive",
    ),
    "depth": (partial(nested_functions, 100), "must call each other at most 64 deep"),
    "opset 999": (partial(of_opset, 999), "the opset must be one from 1 to"),
    "opset 0": (partial(of_opset, 0), "the opset must be one from 1 to"),
    "missing data": (missing_data, "nothing"),
    "rank of x": (partial(declared, ["N", 3]), "X must be [L, N, 3], as W is, got ['N', 3]"),
    "size of x": (partial(declared, [1, 1, 4]), "X must be [L, N, 3], as W is, got [1, 1, 4]"),
    "learnt state": (partial(learnt, 1.0), "initial_h must be zeros or an input of the model"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_made_to_hurt_is_refused_within_seconds(name: str, path: Path) -> None:
    make_model, text = HOSTILE[name]
    path.write_bytes(make_model().SerializeToString())
    before = time.process_time()
    with pytest.raises(elman.onnx.OnnxError, match=re.escape(text)):
        elman.onnx.load(path)
    assert time.process_time() - before < 10


def test_zeros_for_every_sequence_are_an_initial_state_like_none(path: Path) -> None:
    onnx.save(learnt(0.0), path)
    assert elman.onnx.load(path).keys() == {"n"}


def test_a_long_chain_of_constants_is_computed(path: Path) -> None:
    parts = weights(3, 3)
    chain = [helper.make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(900)]
    nodes = [*chain, make("GRU", inputs=["x", "v900", "R", "B"])]
    onnx.save(model_of(nodes, {"v0": parts["W"], "R": parts["R"], "B": parts["B"]}), path)
    assert elman.onnx.load(path)["n"].input_size == 3


def test_more_constants_than_the_bound_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_reading, "_MAX_COMPUTED", 2)
    nodes = [helper.make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(3)]
    nodes.append(helper.make_node("Identity", ["v3"], ["W"]))
    onnx.save(constant_gru(*nodes, v0=weights(3, 3)["W"]), path)
    with pytest.raises(elman.onnx.OnnxError, match="at most 2 constants must be computed"):
        elman.onnx.load(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes in the file system")
def test_a_pipe_and_a_directory_are_refused_unopened(path: Path) -> None:
    os.mkfifo(path)
    for place in (path, path.parent, Path("/dev/zero")):
        with pytest.raises(elman.onnx.OnnxError, match="must be a regular file"):
            elman.onnx.load(place)


@pytest.mark.parametrize("opset", [13, 18, 19])
def test_quantised_weights_are_read_whatever_the_opset(opset: int, path: Path) -> None:
    whole = np.random.default_rng(0).integers(-9, 9, (1, 6, 3)).astype(np.int8)
    constants = {"q": whole, "scale": np.float32(0.5), "zero": np.int8(1)}
    node = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["W"])
    model = constant_gru(node, **constants)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    got = elman.onnx.load(path)["n"].weight_ih_l0.detach().numpy().reshape(3, 2, 3)
    expected = ((whole[0].astype(np.float32) - 1) * 0.5).reshape(3, 2, 3)[[1, 0, 2]]
    np.testing.assert_array_equal(got, expected)


def test_a_name_that_looks_like_a_number_hides_no_layer(path: Path) -> None:
    model = stack(0, 1, also="Y0")
    for node in model.graph.node:
        node.name = "LSTM_0" if node.output[0] == "Y1" else ""
    onnx.save(model, path)
    assert list(elman.onnx.load(path)) == ["LSTM_1", "LSTM_0"]


class Holder(torch.nn.Module):
    """A model of one layer."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


# PyTorch's exporter warns of its own code.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "options", "fixed"),
    [
        (torch.nn.LSTM, {}, True),
        (torch.nn.LSTM, {"bidirectional": True, "batch_first": True}, False),
        (torch.nn.GRU, {}, False),
    ],
)
def test_a_stack_of_torchs_exporter_is_one_layer(
    kind: Any, options: dict[str, Any], fixed: bool, path: Path
) -> None:
    torch.manual_seed(0)
    module = kind(3, 4, num_layers=3, **options).eval()
    axes = {0: torch.export.Dim("A"), 1: torch.export.Dim("B")}
    x = torch.randn(5, 2, 3)
    shapes = None if fixed else (axes,)
    torch.onnx.export(
        Holder(module).eval(), (x,), path, dynamo=True, verbose=False, dynamic_shapes=shapes
    )
    (layer,) = elman.onnx.load(path).values()
    assert layer.num_layers == 3
    if options:  # what is transposed around the nodes stays the caller's
        x = x.transpose(0, 1)
    with torch.no_grad():
        got, expected = layer(x)[0], module(x.transpose(0, 1) if options else x)[0]
    expected = expected.transpose(0, 1) if options else expected
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("asked", [np.array([-1, 7, 4]), np.float32(4), np.zeros((0, 3))])
def test_a_reshape_that_mixes_steps_joins_nothing(asked: np.ndarray, path: Path) -> None:
    model = stack(0, 2)
    (shape,) = [tensor for tensor in model.graph.initializer if tensor.name == "shape"]
    shape.CopyFrom(numpy_helper.from_array(asked, "shape"))
    onnx.save(model, path)
    assert [module.num_layers for module in elman.onnx.load(path).values()] == [1, 1]
