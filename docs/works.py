"""What works in torch.nn and what in elman, found by trying: writes works.md beside this file.

A row is a demand of everyday work and a function that is given a namespace, torch.nn or elman, and
the name of a layer. It runs what people would write and checks the result, or raises. `quick` rows
take less than a second; the tests run those for elman and compare with the table. A second table
has wrong calls and what is said of each.

Left out: how fast it is, which is what `elman bench` tells.
"""

import copy
import inspect
import io
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import elman

PAGE = Path(__file__).with_name("works.md")
LAYERS = ("RNN", "LSTM", "GRU")
WORKS = "✓"

Check = Callable[[Any, str], None]


@dataclass(frozen=True)
class Row:
    """A demand, and the function that tries it with a namespace and the name of a layer."""

    demand: str
    check: Check
    layers: tuple[str, ...]
    quick: bool


ROWS: dict[str, list[Row]] = {}


def row(
    group: str, demand: str, *, layers: tuple[str, ...] = LAYERS, quick: bool = True
) -> Callable[[Check], Check]:
    """Enter the function into the table."""

    def enter(check: Check) -> Check:
        ROWS.setdefault(group, []).append(Row(demand, check, layers, quick))
        return check

    return enter


# --- what the rows are written with -----------------------------------------------------------


def make(nn: Any, layer: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(nn, layer)(3, 4, **options)


def sequences(*shape: int, **options: Any) -> Tensor:
    return torch.randn(shape or (5, 2, 3), generator=torch.Generator().manual_seed(1)).to(**options)


def tensors(result: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(result)


def close(actual: Any, expected: Any, **tolerances: float) -> None:
    try:
        torch.testing.assert_close(tensors(actual), tensors(expected), **tolerances)
    except AssertionError as error:
        where = next(
            line for line in str(error).splitlines() if "difference" in line or ":" in line
        )
        raise AssertionError(f"wrong result: {where.strip()}") from None


def gradients(module: Any, result: Any) -> list[Tensor]:
    loss = sum(t.sin().sum() for t in tensors(result))
    return list(torch.autograd.grad(loss, list(module.parameters())))


def run_ragged(layer: Any, x: Tensor, lengths: Any) -> Any:
    """Run a padded batch the way that the layer has for it; output is padded again."""
    if "lengths" in inspect.signature(layer.forward).parameters:
        return layer(x, lengths=lengths)
    output, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(output, total_length=len(x))[0], state


def check_ragged(layer: Any, lengths: Any) -> None:
    """Compare each row of a padded batch with the same sequence alone."""
    x = sequences(5, len(lengths), 3)
    output, state = run_ragged(layer, x, lengths)
    for n, length in enumerate(map(int, lengths)):
        if length:
            alone, end = layer(x[:length, n])
            close(output[:length, n], alone)
            close([s[:, n] for s in tensors(state)], end)
        close(output[length:, n], torch.zeros(5 - length, output.shape[-1]))


# --- the rows ---------------------------------------------------------------------------------

COMPILE = "Compiled and exported"


@row(COMPILE, "torch.compile(fullgraph=True), forward and backward", quick=False)
def _(nn: Any, layer: str) -> None:
    torch.compiler.reset()
    module, x = make(nn, layer, num_layers=2), sequences()
    compiled = torch.compile(module, fullgraph=True)
    close(compiled(x), module(x))
    close(gradients(module, compiled(x)), gradients(module, module(x)))


@row(COMPILE, "torch.compile once for any batch and length", quick=False)
def _(nn: Any, layer: str) -> None:
    torch.compiler.reset()
    module = make(nn, layer)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    compiled(sequences())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((7, 2, 3), (5, 4, 3), (11, 6, 3)):
            x = sequences(*shape)
            close(compiled(x), module(x))


def check_export(nn: Any, layer: str, dynamic: dict[int, Any], *shapes: tuple[int, ...]) -> None:
    module = make(nn, layer).eval()
    program = torch.export.export(module, (sequences(),), dynamic_shapes=(dynamic,))
    for shape in shapes:
        x = sequences(*shape)
        close(program.module()(x), module(x))


@row(COMPILE, "torch.export with any batch", quick=False)
def _(nn: Any, layer: str) -> None:
    check_export(nn, layer, {1: torch.export.Dim("batch")}, (5, 3, 3), (5, 8, 3))


@row(COMPILE, "torch.export with any number of steps", quick=False)
def _(nn: Any, layer: str) -> None:
    check_export(nn, layer, {0: torch.export.Dim("steps")}, (3, 2, 3), (9, 2, 3))


@row(COMPILE, "torch.onnx.export with any number of steps", quick=False)
def _(nn: Any, layer: str) -> None:
    import onnxruntime

    module = make(nn, layer).eval()
    table = {} if nn is torch.nn else elman.onnx.translation_table()
    file = io.BytesIO()
    program = torch.onnx.export(
        module,
        (sequences(),),
        dynamic_shapes=({0: torch.export.Dim("steps")},),
        custom_translation_table=table,
        dynamo=True,
        verbose=False,
    )
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    for steps in (3, 9):
        x = sequences(steps, 2, 3)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        close([torch.from_numpy(array) for array in found], module(x), rtol=1e-4, atol=1e-5)


TRANSFORM = "Derivatives and transforms"


@row(TRANSFORM, "vmap over the batch")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    output, state = module(x)
    found, end = vmap(module, in_dims=1, out_dims=1)(x)
    close([found, *tensors(end)], [output, *tensors(state)])


@row(TRANSFORM, "vmap over weights, an ensemble")
def _(nn: Any, layer: str) -> None:
    modules, x = [getattr(nn, layer)(3, 4) for _ in range(3)], sequences()
    parameters, buffers = stack_module_state(modules)

    def run(parameters: Any, buffers: Any) -> Any:
        return functional_call(modules[0], (parameters, buffers), (x,))

    for found, *expected in zip(
        tensors(vmap(run)(parameters, buffers)), *(tensors(m(x)) for m in modules), strict=True
    ):
        close(list(found), expected)


@row(TRANSFORM, "vmap(grad): the gradients of each sequence")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: Any, sequence: Tensor) -> Tensor:
        return functional_call(module, parameters, (sequence,))[0].sin().sum()

    found = vmap(grad(loss), in_dims=(None, 1))(parameters, x)
    for n in range(x.shape[1]):
        alone = grad(loss)(parameters, x[:, n])
        close({name: g[n] for name, g in found.items()}, alone)


@row(TRANSFORM, "jvp: forward-mode derivatives")
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer, dtype=torch.float64)
    x, direction = sequences(dtype=torch.float64), sequences(dtype=torch.float64) + 1
    _, found = jvp(lambda x: module(x)[0], (x,), (direction,))
    step = 1e-6
    ahead, behind = module(x + step * direction)[0], module(x - step * direction)[0]
    close(found, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@row(TRANSFORM, "gradients of gradients")
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer, dtype=torch.float64)
    x = sequences(2, 1, 3, dtype=torch.float64).requires_grad_()
    torch.autograd.gradgradcheck(lambda x: module(x)[0], x)


RAGGED = "Sequences of different lengths"


@row(RAGGED, "lengths in any order")
def _(nn: Any, layer: str) -> None:
    check_ragged(make(nn, layer), torch.tensor([2, 5, 1]))


@row(RAGGED, "a length of 0")
def _(nn: Any, layer: str) -> None:
    check_ragged(make(nn, layer), torch.tensor([2, 0, 5]))


@row(RAGGED, "lengths as int32")
def _(nn: Any, layer: str) -> None:
    check_ragged(make(nn, layer), torch.tensor([2, 5, 1], dtype=torch.int32))


@row(RAGGED, "lengths and torch.compile(fullgraph=True)", quick=False)
def _(nn: Any, layer: str) -> None:
    torch.compiler.reset()
    module, x, lengths = make(nn, layer), sequences(5, 3, 3), torch.tensor([2, 5, 1])
    compiled = torch.compile(lambda x, lengths: run_ragged(module, x, lengths), fullgraph=True)
    close(compiled(x, lengths), run_ragged(module, x, lengths))


@row(RAGGED, "a jagged nested tensor in and out")
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer, batch_first=True)
    parts = [sequences(length, 3) for length in (2, 5, 1)]
    output, _ = module(torch.nested.nested_tensor(parts, layout=torch.jagged))
    close(list(output.unbind()), [module(part)[0] for part in parts])


TOOLS = "Tools of PyTorch"


@row(TOOLS, "autocast to bfloat16 on the CPU")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    close([t.float() for t in tensors(found)], module(x), rtol=0, atol=0.03)
    assert all(g.isfinite().all() for g in gradients(module, found))


@row(TOOLS, "activation checkpointing")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences().requires_grad_()
    for reentrant in (False, True):
        output, _ = checkpoint(module, x, use_reentrant=reentrant)
        output.sum().backward()
        found = [p.grad for p in module.parameters()]
        module.zero_grad()
        module(x)[0].sum().backward()
        close(found, [p.grad for p in module.parameters()])
        module.zero_grad()


def _process(rank: int, folder: str, package: str, layer: str) -> None:
    nn: Any = {"torch.nn": torch.nn, "elman": elman}[package]
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    module = DistributedDataParallel(make(nn, layer))
    module(sequences().chunk(2, 1)[rank])[0].square().mean().backward()
    torch.save([p.grad for p in module.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@row(TOOLS, "DistributedDataParallel, two processes as one", quick=False)
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer)
    module(sequences())[0].square().mean().backward()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, "elman" if nn is elman else "torch.nn", layer)
        torch.multiprocessing.spawn(_process, arguments, nprocs=2)
        for rank in range(2):
            found = torch.load(f"{folder}/{rank}.pt")
            close(found, [p.grad for p in module.parameters()], rtol=1e-4, atol=1e-6)


@row(TOOLS, "the output changed in place before the backward pass")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    output, _ = module(x)
    found = torch.autograd.grad(output.relu_().sum(), list(module.parameters()))
    expected = torch.autograd.grad(module(x)[0].clone().relu_().sum(), list(module.parameters()))
    close(found, expected)


@row(TOOLS, "torch.fx.symbolic_trace: one node for a layer")
def _(nn: Any, layer: str) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make(nn, layer)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x)[0]

    graph = torch.fx.symbolic_trace(Model()).graph
    assert [node.op for node in graph.nodes].count("call_module") == 1


@row(TOOLS, "make_fx: a graph for other values")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    close(make_fx(module)(x)(2 * x), module(2 * x))


@row(TOOLS, "torch.jit.trace, with any number of steps")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences(9, 4, 3)
    close(torch.jit.trace(module, sequences())(x), module(x), rtol=1e-4, atol=1e-6)


@row(TOOLS, "jacobian(vectorize=True)")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    jacobian = torch.autograd.functional.jacobian
    close(jacobian(lambda x: module(x)[0], x, vectorize=True), jacobian(lambda x: module(x)[0], x))


@row(TOOLS, "FlopCounterMode counts the products")
def _(nn: Any, layer: str) -> None:
    with FlopCounterMode(display=False) as counter:
        make(nn, layer)(sequences())
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[layer]
    found, expected = counter.get_total_flops(), 2 * 10 * gates * 4 * (3 + 4)
    assert found == expected, f"{found} operations instead of {expected}"


@row(TOOLS, "deepcopy of a layer whose weights are computed")
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer), sequences()
    parametrizations.weight_norm(module, "weight_hh_l0")
    module(x)
    close(copy.deepcopy(module)(x), module(x))


NUMBERS = "Numbers and sizes"


@row(NUMBERS, "bfloat16 and float16 on the CPU, forward and backward")
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer)
    exact = tensors(module(sequences()))
    for dtype in (torch.bfloat16, torch.float16):
        found = module.to(dtype)(sequences(dtype=dtype))
        close([t.float() for t in tensors(found)], exact, rtol=0, atol=0.03)
        assert all(g.isfinite().all() for g in gradients(module, found))


@row(NUMBERS, "projections: proj_size", layers=("LSTM",))
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer, proj_size=2), sequences()
    output, (h_n, c_n) = module(x)
    close(output[-1:], h_n)
    assert c_n.shape[-1] == 4


@row(NUMBERS, "the GRU of its paper and of Keras: reset before the product", layers=("GRU",))
def _(nn: Any, layer: str) -> None:
    module, x = make(nn, layer, reset_after=False), sequences(1, 2, 3)
    h = sequences(1, 2, 4)
    w_ih, w_hh, b_ih, b_hh = module.parameters()
    (xr, xz, xn), (wr, wz, wn) = (x[0] @ w_ih.T + b_ih).chunk(3, -1), w_hh.chunk(3)
    br, bz, bn = b_hh.chunk(3)
    r, z = torch.sigmoid(xr + h[0] @ wr.T + br), torch.sigmoid(xz + h[0] @ wz.T + bz)
    n = torch.tanh(xn + (r * h[0]) @ wn.T + bn)
    close(module(x, h)[0][0], (1 - z) * n + z * h[0])


@row(NUMBERS, "an empty batch, forward and backward")
def _(nn: Any, layer: str) -> None:
    module = make(nn, layer)
    output, state = module(sequences(5, 0, 3).requires_grad_())
    assert output.shape == (5, 0, 4)
    assert all(s.shape == (1, 0, 4) for s in tensors(state))
    output.sum().backward()


@row(NUMBERS, "a NaN shows, in its own sequence and from its own step")
def _(nn: Any, layer: str) -> None:
    options = {"nonlinearity": "relu"} if layer == "RNN" else {}
    module, x = make(nn, layer, **options), sequences(5, 3, 3)
    clean, _ = module(x)
    x[2, 1, 0] = float("nan")
    output, _ = module(x)
    assert output[2:, 1].isnan().all()
    close(output[:, [0, 2]], clean[:, [0, 2]])
    close(output[:2, 1], clean[:2, 1])


@row(NUMBERS, "a sequence has the same bits alone and in a batch")
def _(nn: Any, layer: str) -> None:
    torch.manual_seed(0)
    module, x = getattr(nn, layer)(64, 64), torch.randn(20, 33, 64)
    together, _ = module(x)
    for n in (0, 7, 32):
        close(module(x[:, n : n + 1])[0][:, 0], together[:, n], rtol=0, atol=0)


# --- wrong calls ------------------------------------------------------------------------------

MISTAKES: dict[str, Check] = {
    "a state without c_0": lambda nn, _: nn.LSTM(3, 4)(sequences(), torch.zeros(1, 2, 4)),
    "a state of another batch": lambda nn, _: nn.GRU(3, 4)(sequences(), torch.zeros(1, 3, 4)),
    "a state with the batch first": lambda nn, _: nn.LSTM(3, 4, batch_first=True)(
        sequences(), (torch.zeros(5, 1, 4), torch.zeros(5, 1, 4))
    ),
    "features on the wrong axis": lambda nn, _: nn.RNN(3, 4)(sequences(5, 3, 2)),
    "no axis for one feature": lambda nn, _: nn.GRU(1, 4)(sequences(7)),
    "integers, such as tokens": lambda nn, _: nn.LSTM(3, 4)(sequences().long()),
    "a NumPy array": lambda nn, _: nn.LSTM(3, 4)(sequences().numpy()),
    "a whole sequence for a cell": lambda nn, _: nn.LSTMCell(3, 4)(sequences()),
    "dropout as a string": lambda nn, _: nn.LSTM(3, 4, 2, dropout="0.5"),
}


# --- the page ---------------------------------------------------------------------------------


def attempt(check: Check, nn: Any, layer: str = "", longest: int = 250) -> str:
    """Return WORKS, or what was raised and the first line of its text, or the start of that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(nn, layer)
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0].strip()
        line = line if len(line) <= longest else line[:longest].rstrip() + "…"
        return f"`{type(error).__name__}: {line.replace('`', chr(39))}`".replace("|", r"\|")
    return WORKS


def verdicts(row: Row, nn: Any) -> str:
    """Return one verdict for all layers of a row, or each with the layers it is true of."""
    found: dict[str, list[str]] = {}
    for layer in row.layers:
        found.setdefault(attempt(row.check, nn, layer, 80), []).append(layer)
    if len(found) == 1 and row.layers == LAYERS:
        return next(iter(found))
    return "<br>".join(f"{', '.join(layers)}: {verdict}" for verdict, layers in found.items())


INTRODUCTION = """\
# What works where

Each line is a common task. `docs/works.py` tries it on the CPU with `torch.nn.RNN`, `LSTM` and
`GRU` and with ours, and checks the results. If it fails, the table shows the first line of the
error. PyTorch is {version}, with its default settings.
"""


def main() -> None:
    """Try everything and write the page."""
    lines = [INTRODUCTION.format(version=torch.__version__.split("+")[0])]
    head = "| | torch.nn | elman |\n| :-- | :-- | :-- |"
    for group, rows in ROWS.items():
        lines += [f"## {group}\n", head]
        for each in rows:
            print(each.demand, file=sys.stderr)
            cells = [each.demand, verdicts(each, torch.nn), verdicts(each, elman)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Error messages for wrong calls\n", head]
    for mistake, check in MISTAKES.items():
        lines.append(f"| {mistake} | {attempt(check, torch.nn)} | {attempt(check, elman)} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
