"""Contenders beyond torch.nn: ONNX Runtime, JAX and Keras, each used as its own users would."""

import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # which trains faster than its others; read by the import

import jax
import jax.numpy as jnp
import keras
import numpy as np
import onnx
import onnxruntime
import torch
from jax import Array, lax
from torch import Tensor

from elman.bench import Case, Mode, Prepared, Work

__all__ = ["Jax", "Keras", "OnnxRuntime"]

jax.config.update("jax_enable_x64", True)  # lets float64 be; float32 arrays stay float32


class OnnxRuntime:
    """Inference by the recurrent operators of ONNX, one node per layer."""

    name = "ONNX Runtime"

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        case = work.case
        if mode == "training" or case.proj_size or case.dtype != "float32":
            return None  # its operators know neither
        options = onnxruntime.SessionOptions()
        # Its threads would go on looking for work on the cores that ours need next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = torch.get_num_threads()
        model = self.model(work).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = {"input": work.input.numpy(), "lengths": np.array(case.lengths, np.int32)}
        for letter, state in zip("hc", work.hx, strict=False):
            for layer, part in enumerate(state.chunk(case.num_layers)):
                feeds[f"{letter}_0_l{layer}"] = part.numpy()
        if not case.ragged:
            del feeds["lengths"]

        def read() -> list[Tensor]:
            output, *states = (torch.from_numpy(x) for x in session.run(None, feeds))
            count = case.num_layers
            merged = [torch.cat(states[i : i + count]) for i in range(0, len(states), count)]
            return [work.rows(output), *merged]

        return Prepared(lambda: session.run(None, feeds), read)

    def model(self, work: Work) -> Any:
        """The graph: inputs input, lengths (if ragged), h_0_l0, ...; outputs output, h_n_l0, ..."""
        case, cell = work.case, work.case.kind
        order = [cell.gates.index(gate) for gate in cell.onnx_gates]
        count = 1 + case.bidirectional
        letters = cell.states
        make, real = onnx.helper, onnx.TensorProto.FLOAT
        nodes, constants = [], []

        def constant(name: str, value: np.ndarray) -> str:
            constants.append(onnx.numpy_helper.from_array(value, name))
            return name

        def stacked(name: str, suffixes: list[str]) -> np.ndarray:
            # one parameter of all directions, its blocks of rows in ONNX's order of gates
            blocks = [work.weights[name + suffix].chunk(len(order)) for suffix in suffixes]
            return torch.stack([torch.cat([b[i] for i in order]) for b in blocks]).numpy()

        # (L, D, N, H) -> (L, N, D * H) after each layer
        width = constant("width", np.array([0, 0, -1]))
        stream = "input"
        for layer, suffixes in enumerate(case.suffixes):
            biases = [stacked("bias_ih", suffixes), stacked("bias_hh", suffixes)]
            inputs = [
                stream,
                constant(f"W{layer}", stacked("weight_ih", suffixes)),
                constant(f"R{layer}", stacked("weight_hh", suffixes)),
                constant(f"B{layer}", np.concatenate(biases, axis=1)),
                "lengths" if case.ragged else "",
                *(f"{letter}_0_l{layer}" for letter in letters),
            ]
            outputs = [f"y{layer}", *(f"{letter}_n_l{layer}" for letter in letters)]
            attributes: dict[str, Any] = {"hidden_size": case.hidden_size}
            if case.bidirectional:
                attributes["direction"] = "bidirectional"
            if case.cell == "GRU":
                attributes["linear_before_reset"] = 1
            nodes.append(make.make_node(cell.onnx_op, inputs, outputs, **attributes))
            turned = f"turned{layer}"
            stream = "output" if layer == case.num_layers - 1 else f"output{layer}"
            nodes.append(make.make_node("Transpose", [f"y{layer}"], [turned], perm=[0, 2, 1, 3]))
            nodes.append(make.make_node("Reshape", [turned, width], [stream]))

        shape = [case.seq_len, case.batch, case.hidden_size]
        state = [count, case.batch, case.hidden_size]
        names = [f"{x}_{{}}_l{layer}" for x in letters for layer in range(case.num_layers)]
        ins = [make.make_tensor_value_info("input", real, shape)]
        if case.ragged:
            ins.append(make.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [case.batch]))
        ins += [make.make_tensor_value_info(name.format(0), real, state) for name in names]
        outs = [make.make_tensor_value_info("output", real, [*shape[:2], count * case.hidden_size])]
        outs += [make.make_tensor_value_info(name.format("n"), real, state) for name in names]
        graph = make.make_graph(nodes, "layers", ins, outs, constants)
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        return model


class JaxMath:
    """The operations of a cell's step in JAX."""

    sigmoid = staticmethod(jax.nn.sigmoid)
    tanh = staticmethod(jnp.tanh)
    relu = staticmethod(jax.nn.relu)

    @staticmethod
    def split(x: Array, parts: int) -> list[Array]:
        return jnp.split(x, parts, axis=-1)


Weights = dict[str, Array]


def forward(
    case: Case, weights: Weights, input: Array, hx: tuple[Array, ...], real: Array | None
) -> tuple[Array, ...]:
    """The layers as a scan over time; matrices are stored as (in, out); real is (L, N, 1)."""
    cell = case.kind

    def direction(xs: Array, state: tuple[Array, ...], end: str) -> tuple[Array, ...]:
        gx = xs @ weights["weight_ih" + end] + weights["bias_ih" + end]

        def step(state: tuple[Array, ...], at: tuple[Array, Array | None]) -> tuple[Any, Array]:
            gx_t, real_t = at
            gh = state[0] @ weights["weight_hh" + end] + weights["bias_hh" + end]
            new = cell.step(JaxMath, gx_t, gh, state)
            if case.proj_size:
                new = (new[0] @ weights["weight_hr" + end], *new[1:])
            if real_t is None:
                return new, new[0]
            kept = tuple(jnp.where(real_t, x, old) for x, old in zip(new, state, strict=True))
            return kept, jnp.where(real_t, new[0], 0)

        final, output = lax.scan(step, state, (gx, real), reverse=end.endswith("_reverse"))
        return output, *final

    output, finals, at = input, [], 0
    for layer in case.suffixes:
        runs = [
            direction(output, tuple(state[at + i] for state in hx), end)
            for i, end in enumerate(layer)
        ]
        at += len(layer)
        output = jnp.concatenate([run[0] for run in runs], axis=-1)
        finals += [run[1:] for run in runs]
    return output, *(jnp.stack(states) for states in zip(*finals, strict=True))


class Jax:
    """A jitted scan, weights as arguments; the input projection stands before the loop.

    JAX has no run-time setting of threads: the process is bound to as many cores beforehand.
    """

    name = "JAX"

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        case = work.case
        if case.dtype in ("bfloat16", "int8"):
            return None
        weights = {name: jnp.asarray(w.t().numpy()) for name, w in work.weights.items()}
        input, d_output = jnp.asarray(work.input.numpy()), jnp.asarray(work.d_output.numpy())
        hx = tuple(jnp.asarray(state.numpy()) for state in work.hx)
        steps = jnp.arange(case.seq_len)[:, None, None]
        real = steps < jnp.asarray(case.lengths)[:, None] if case.ragged else None

        def loss(weights: Weights, input: Array, hx: tuple[Array, ...]) -> Array:
            return (forward(case, weights, input, hx, real)[0] * d_output).sum()

        function: Callable[..., Any]
        if mode == "inference":
            function = jax.jit(lambda w, x, hx: forward(case, w, x, hx, real))
        else:
            function = jax.jit(jax.grad(loss, argnums=(0, 1)))

        def call() -> Any:
            return jax.block_until_ready(function(weights, input, hx))

        def tensor(x: Array) -> Tensor:
            return torch.from_numpy(np.array(x))

        def read() -> list[Tensor]:
            if mode == "inference":
                output, *states = call()
                return [work.rows(tensor(output)), *map(tensor, states)]
            d_weights, d_input = call()
            return [work.rows(tensor(d_input)), *(tensor(d_weights[k]).t() for k in work.weights)]

        return Prepared(call, read)


class Keras:
    """Training by the layers of Keras in a jitted step; like JAX, with as many threads as cores."""

    name = "Keras"

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        case = work.case
        is_plain = case.num_layers == 1 and not (
            case.bidirectional or case.proj_size or case.ragged
        )
        if mode == "inference" or case.dtype != "float32" or not is_plain:
            return None
        swap = [1, 0, 2] if case.cell == "GRU" else range(len(case.kind.gates))  # z, r, n

        def turned(gates: Tensor) -> Tensor:
            """Blocks of rows from torch's order of gates to that of Keras, or back."""
            blocks = gates.chunk(len(swap))
            return torch.cat([blocks[i] for i in swap])

        w_ih, w_hh, b_ih, b_hh = map(turned, work.weights.values())
        bias = torch.stack([b_ih, b_hh]) if case.cell == "GRU" else b_ih + b_hh
        kind = getattr(keras.layers, "SimpleRNN" if case.cell == "RNN" else case.cell)
        layer = kind(case.hidden_size, return_sequences=True)
        layer.build((case.batch, case.seq_len, case.hidden_size))
        layer.set_weights([w_ih.t().numpy(), w_hh.t().numpy(), bias.numpy()])
        weights = [variable.value for variable in layer.trainable_variables]
        rest = [variable.value for variable in layer.non_trainable_variables]
        # (N, L, H), as it has them
        input, d_output = (
            jnp.asarray(x.transpose(0, 1).numpy()) for x in (work.input, work.d_output)
        )
        hx = [jnp.asarray(state[0].numpy()) for state in work.hx]

        def loss(weights: list[Array], input: Array, hx: list[Array]) -> Array:
            output, _ = layer.stateless_call(weights, rest, input, initial_state=hx)
            return (output * d_output).sum()

        function = jax.jit(jax.grad(loss, argnums=(0, 1)))

        def call() -> Any:
            return jax.block_until_ready(function(weights, input, hx))

        def read() -> list[Tensor]:
            d_weights, d_input = call()
            dw_ih, dw_hh, d_bias = (torch.from_numpy(np.array(x)) for x in d_weights)
            d_biases = d_bias if case.cell == "GRU" else [d_bias, d_bias]
            found = [turned(x) for x in (dw_ih.t(), dw_hh.t(), *d_biases)]
            return [torch.from_numpy(np.array(d_input)).transpose(0, 1), *found]

        return Prepared(call, read)
