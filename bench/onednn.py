"""oneDNN's recurrent primitives, called directly: what torch.nn.LSTM calls, without what is around.

A stack has a primitive for each layer. Inference has its weights packed beforehand, as a program
that only infers would; training packs them in every call, since an optimiser has changed them.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import cache
from importlib.metadata import files
from typing import Any

import torch
from torch import Tensor

from elman.bench import Mode, Prepared, Work

__all__ = ["OneDnn"]

# The numbers of dnnl_types.h that are used here.
CPU, IN_ORDER, F32, TANH, EXEC_ARG = 1, 1, 3, 33, 255
ANY, TNC, LDNC, LDGOI, LDGO = 1, 4, 5, 31, 5
TRAINING, INFERENCE, BACKWARD = 64, 96, 128
LEFT_TO_RIGHT, BOTH = 1, 3
SRC, DST, WEIGHTS, BIAS, WORKSPACE = 1, 17, 33, 41, 64
DIFF = 128  # more than an argument is its gradient


class Library:
    """The shared library, with an engine and a stream of the CPU."""

    def __init__(self) -> None:
        paths = [path for path in files("onednn-cpu-gomp") or [] if path.name == "libdnnl.so.3"]
        # After torch, so that both have one OpenMP, whose threads torch.set_num_threads sets.
        self._functions = ctypes.CDLL(str(paths[0].locate()))
        self._functions.dnnl_primitive_desc_query_md.restype = c_void_p
        self._functions.dnnl_memory_desc_get_size.restype = c_size_t
        self.engine = self.make("dnnl_engine_create", c_int(CPU), c_size_t(0))
        self.stream = self.make("dnnl_stream_create", self.engine, c_uint(IN_ORDER))

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._functions, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} answers {status}")

    def make(self, name: str, *arguments: Any) -> c_void_p:
        """Call a function whose first argument is where to write what it makes."""
        made = c_void_p()
        self.call(name, byref(made), *arguments)
        return made

    def layout(self, tag: int, *sizes: int) -> c_void_p:
        dims = (c_int64 * len(sizes))(*sizes)
        name = "dnnl_memory_desc_create_with_tag"
        return self.make(name, c_int(len(sizes)), dims, c_int(F32), c_int(tag))

    def layout_of(self, description: c_void_p, argument: int) -> c_void_p:
        """The layout of an argument in the description of a primitive."""
        query = self._functions.dnnl_primitive_desc_query_md
        return c_void_p(query(description, c_int(EXEC_ARG), c_int(argument)))

    def bytes(self, layout: c_void_p) -> int:
        return int(self._functions.dnnl_memory_desc_get_size(layout))


@cache
def library() -> Library:
    """The library, loaded when first needed."""
    return Library()


class Memory:
    """A tensor in a layout of oneDNN; without a tensor, zeros."""

    def __init__(self, layout: c_void_p, tensor: Tensor | None = None) -> None:
        self.layout = layout
        size = library().bytes(layout)
        self.tensor = torch.zeros(size, dtype=torch.uint8) if tensor is None else tensor
        assert self.tensor.is_contiguous()
        assert self.tensor.nbytes == size
        address = c_void_p(self.tensor.data_ptr())
        self.handle = library().make("dnnl_memory_create", layout, library().engine, address)


class Argument(ctypes.Structure):
    """A number of an argument, and its memory."""

    _fields_ = (("number", c_int), ("memory", c_void_p))


class Primitive:
    """What computes, with the memory of each of its arguments."""

    def __init__(self, description: c_void_p, memory: dict[int, Memory]) -> None:
        self._memory = memory  # which the library knows by address only
        self._made = library().make("dnnl_primitive_create", description)
        self._arguments = (Argument * len(memory))(*((n, m.handle) for n, m in memory.items()))

    def __call__(self) -> None:
        count, stream = c_int(len(self._arguments)), library().stream
        library().call("dnnl_primitive_execute", self._made, stream, count, self._arguments)


def reorder(source: Memory, target: Memory) -> Primitive:
    """What copies a tensor into another layout."""
    name, engine = "dnnl_reorder_primitive_desc_create", library().engine
    description = library().make(name, source.layout, engine, target.layout, engine, None)
    return Primitive(description, {SRC: source, DST: target})


def swapped(gates: Tensor, cell: str) -> Tensor:
    """Blocks of rows (D, G * H, ...) from torch's order of gates to oneDNN's, or back."""
    if cell != "GRU":
        return gates
    r, z, *rest = gates.chunk(3, 1)
    return torch.cat([z, r, *rest], 1)


class Layer:
    """One layer of a stack, in all its directions.

    Attributes:
        output: (L, N, D * H).
        finals: (D, N, H) for each state.
        forward: what computes them, one after another.
        d_output: (L, N, D * H), in training to be filled before `backward`.
        d_input: (L, N, I).
    """

    def __init__(self, work: Work, index: int, input: Memory, mode: Mode) -> None:
        case, self.suffixes = work.case, work.case.suffixes[index]
        self.cell, hidden, count = case.cell, case.hidden_size, len(self.suffixes)
        steps, batch = case.seq_len, case.batch
        gates, width = len(case.kind.gates), input.tensor.shape[-1]
        biases = 4 if self.cell == "GRU" else gates
        lib = library()
        sequence = lib.layout(TNC, steps, batch, count * hidden)
        state = lib.layout(LDNC, 1, count, batch, hidden)
        vectors = lib.layout(LDGO, 1, count, biases, hidden)
        matrices = [(1, count, size, gates, hidden) for size in (width, hidden)]

        self.weights = [
            Memory(
                lib.layout(LDGOI, *sizes),
                swapped(torch.stack([work.weights[name + s] for s in self.suffixes]), self.cell),
            )
            for name, sizes in zip(("weight_ih", "weight_hh"), matrices, strict=True)
        ]
        bias = Memory(vectors, self._bias(work))
        starts = [
            Memory(state, hx[index * count : (index + 1) * count].contiguous()) for hx in work.hx
        ]
        self.output = Memory(sequence, torch.zeros(steps, batch, count * hidden))
        self.finals = [Memory(state, torch.zeros(count, batch, hidden)) for _ in starts]

        none = [None, None] * (self.cell == "LSTM")  # peepholes and a projection
        anywhere = [lib.layout(ANY, *sizes) for sizes in matrices]
        states = [state] * len(starts)
        layouts = [input.layout, *states, *anywhere, *none, vectors, sequence, *states]
        direction = BOTH if count == 2 else LEFT_TO_RIGHT
        kind = INFERENCE if mode == "inference" else TRAINING
        forward = self._describe("forward", kind, direction, layouts)
        packed = [Memory(lib.layout_of(forward, WEIGHTS + i)) for i in range(2)]
        self.pack = [reorder(a, b) for a, b in zip(self.weights, packed, strict=True)]
        memory = {
            **{SRC + i: m for i, m in enumerate((input, *starts))},
            **{WEIGHTS + i: m for i, m in enumerate(packed)},
            BIAS: bias,
            **{DST + i: m for i, m in enumerate((self.output, *self.finals))},
        }
        if mode == "inference":
            self.forward = [Primitive(forward, memory)]
            for primitive in self.pack:
                primitive()
            return

        memory[WORKSPACE] = Memory(lib.layout_of(forward, WORKSPACE))
        self.forward = [*self.pack, Primitive(forward, memory)]
        backward = self._describe("backward", BACKWARD, direction, layouts * 2, forward)
        packed = [Memory(lib.layout_of(backward, WEIGHTS + i)) for i in range(2)]
        self.sums = [Memory(lib.layout_of(backward, DIFF + WEIGHTS + i)) for i in range(2)]
        self.d_weights = [Memory(m.layout, torch.zeros_like(m.tensor)) for m in self.weights]
        self.d_bias = Memory(vectors, torch.zeros_like(bias.tensor))
        self.d_input = Memory(input.layout, torch.zeros_like(input.tensor))
        self.d_output = Memory(sequence, torch.zeros_like(self.output.tensor))
        memory |= {
            **{WEIGHTS + i: m for i, m in enumerate(packed)},
            DIFF + SRC: self.d_input,
            **{DIFF + SRC + 1 + i: Memory(state) for i in range(len(starts))},
            **{DIFF + WEIGHTS + i: m for i, m in enumerate(self.sums)},
            DIFF + BIAS: self.d_bias,
            DIFF + DST: self.d_output,
            **{DIFF + DST + 1 + i: Memory(state) for i in range(len(starts))},  # zeros
        }
        self.backward = [
            *(reorder(a, b) for a, b in zip(self.weights, packed, strict=True)),
            Primitive(backward, memory),
            *(reorder(a, b) for a, b in zip(self.sums, self.d_weights, strict=True)),
        ]

    def _bias(self, work: Work) -> Tensor:
        """(D, G or for the GRU 4, H): the GRU keeps apart the two biases of its last gate."""
        ih, hh = (
            swapped(torch.stack([work.weights[name + s] for s in self.suffixes]), self.cell)
            for name in ("bias_ih", "bias_hh")
        )
        if self.cell != "GRU":
            return ih + hh
        h = work.case.hidden_size
        return torch.cat([ih[:, : 2 * h] + hh[:, : 2 * h], ih[:, 2 * h :], hh[:, 2 * h :]], 1)

    def _describe(
        self,
        way: str,
        kind: int,
        direction: int,
        layouts: Sequence[c_void_p | None],
        *hint: c_void_p,
    ) -> c_void_p:
        """Make the description of the primitive of this cell."""
        name = {"RNN": "vanilla_rnn", "LSTM": "lstm", "GRU": "lbr_gru"}[self.cell]
        is_rnn = self.cell == "RNN"
        return library().make(
            f"dnnl_{name}_{way}_primitive_desc_create",
            library().engine,
            c_int(kind),
            *[c_int(TANH)] * is_rnn,
            c_int(direction),
            *layouts,
            c_uint(0),
            *[c_float(0), c_float(0)] * is_rnn,
            *hint,
            None,
        )

    def zero(self) -> None:
        """Make the gradients of the weights zeros, to which the library adds."""
        for memory in (*self.sums, self.d_bias):
            memory.tensor.zero_()

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the parameters, under their names."""
        d_bias, h = self.d_bias.tensor, self.output.tensor.shape[-1] // len(self.suffixes)
        last = slice(2 * h, 3 * h), slice(3 * h, 4 * h)
        d_biases = (
            [torch.cat([d_bias[:, : 2 * h], d_bias[:, part]], 1) for part in last]
            if self.cell == "GRU"
            else [d_bias, d_bias]
        )
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        found = [*(m.tensor for m in self.d_weights), *d_biases]
        return {
            name + suffix: tensor[d].clone()
            for name, tensor in zip(names, (swapped(x, self.cell) for x in found), strict=True)
            for d, suffix in enumerate(self.suffixes)
        }


class OneDnn:
    """Its layers in float32, without lengths and projections."""

    name = "oneDNN"

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        case = work.case
        if case.ragged or case.proj_size or case.dtype != "float32":
            return None
        tnc = library().layout(TNC, *work.input.shape)
        layers, stream = [], Memory(tnc, work.input)
        for index in range(case.num_layers):
            layers.append(Layer(work, index, stream, mode))
            stream = layers[-1].output

        def infer() -> None:
            for layer in layers:
                for primitive in layer.forward:
                    primitive()

        def read_inference() -> list[Tensor]:
            infer()
            finals = zip(*([m.tensor for m in layer.finals] for layer in layers), strict=True)
            return [stream.tensor.clone(), *map(torch.cat, finals)]

        def train() -> None:
            infer()
            gradient = work.d_output
            for layer in reversed(layers):
                layer.d_output.tensor.copy_(gradient)
                layer.zero()
                for primitive in layer.backward:
                    primitive()
                gradient = layer.d_input.tensor

        def read_training() -> list[Tensor]:
            train()
            found = {k: v for layer in layers for k, v in layer.gradients().items()}
            return [layers[0].d_input.tensor.clone(), *(found[name] for name in work.weights)]

        if mode == "inference":
            return Prepared(infer, read_inference)
        return Prepared(train, read_training)
