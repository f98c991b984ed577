"""Random problems, what a module makes of them, and the comparator; the instruction sets to test.

The measure of accuracy is torch.nn itself: on the same float32 problem, our largest error against
torch.nn in float64 may be twice torch.nn's own float32 error, plus a floor for where that is nearly
nothing by luck. Of what torch.nn does not have, given lengths and the GRU that resets before the
product, our reference stands in its place.
"""

import mmap
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from elman import ops, reference

try:
    from elman import _native
except ImportError:
    _native = None

LAYERS = ("RNN", "LSTM", "GRU")
STEP_CELLS = ("RNNCell", "LSTMCell", "GRUCell")

ISAS = (
    ["reference"]
    if _native is None or os.environ.get("ELMAN_BACKEND") == "reference"
    else list(_native.isas())
)


def pytest_configure(config: pytest.Config) -> None:
    # torch.nn says this once of itself when it has a projection to do.
    config.addinivalue_line("filterwarnings", "ignore:LSTM with projections is not supported")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute with one of the instruction sets of this machine."""
    if _native is None or request.param == "reference":
        yield request.param
        return
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@contextmanager
def medium(asked: bool = True) -> Iterator[None]:
    """Round what is multiplied to bfloat16 in modules of float32 too, where the machine can."""
    torch.set_float32_matmul_precision("medium" if asked else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


# --- memory -------------------------------------------------------------------------------------

STATM = Path("/proc/self/statm")
needs_proc = pytest.mark.skipif(not STATM.exists(), reason="needs Linux's /proc")


def resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE


# --- random problems ----------------------------------------------------------------------------

FORMS = ("time_first", "batch_first", "unbatched", "sorted", "unsorted")
RAGGED_FORMS = ("ragged", "ragged_batch_first")


@dataclass(frozen=True)
class Problem:
    """One module and one call of it, drawn from a seed.

    Attributes:
        kind: The name of the class, in torch.nn as in elman.
        options: Arguments of its constructor.
        form: How the input of a layer comes; the last two of FORMS are packed, and with
            RAGGED_FORMS goes `lengths`, which then has a zero if there are several sequences.
        seq_len: L.
        batch: N.
        with_hx: Whether an initial state is given.
        seed: Decides all numbers: parameters, input, states, upstream gradients, dropout.
    """

    kind: str
    options: Mapping[str, Any]
    form: str = "time_first"
    seq_len: int = 5
    batch: int = 3
    with_hx: bool = True
    seed: int = 0
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        lengths = random.Random(self.seed).choices(range(1, self.seq_len + 1), k=self.batch)
        lengths[-1] = self.seq_len
        if self.form in RAGGED_FORMS and self.batch > 1:
            lengths[self.batch // 2 - 1] = 0
        if self.form == "sorted":
            lengths.sort(reverse=True)
        object.__setattr__(self, "lengths", lengths)

    @property
    def is_cell(self) -> bool:
        return self.kind in STEP_CELLS

    @property
    def is_in_torch(self) -> bool:
        return self.form in FORMS and self.options.get("reset_after", True)

    @property
    def state_shapes(self) -> list[tuple[int, ...]]:
        hidden = self.options["hidden_size"]
        batch = () if self.form == "unbatched" else (self.batch,)
        if self.is_cell:
            rows: tuple[int, ...] = ()
        else:
            directions = 1 + self.options.get("bidirectional", False)
            rows = (self.options.get("num_layers", 1) * directions,)
        widths = [self.options.get("proj_size", 0) or hidden, hidden]
        return [(*rows, *batch, width) for width in widths[: 1 + ("LSTM" in self.kind)]]

    @property
    def input_shape(self) -> tuple[int, ...]:
        batch = () if self.form == "unbatched" else (self.batch,)
        length = () if self.is_cell else (self.seq_len,)
        outer = batch + length if self.form.endswith("batch_first") else length + batch
        return (*outer, self.options["input_size"])

    def module(self, namespace: Any, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """Construct the module; equal seeds give equal parameters in either namespace."""
        torch.manual_seed(self.seed)
        options = dict(self.options)
        if self.form.endswith("batch_first"):
            options["batch_first"] = True
        return getattr(namespace, self.kind)(**options).to(dtype)

    def arguments(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Draw the input and the states, as leaves."""
        generator = torch.Generator().manual_seed(self.seed)
        shapes = {"input": self.input_shape}
        if self.with_hx:
            shapes |= dict(zip(("h_0", "c_0"), self.state_shapes, strict=False))
        return {
            name: torch.randn(shape, generator=generator).to(dtype).requires_grad_()
            for name, shape in shapes.items()
        }

    def call(
        self, module: Callable[..., Any], arguments: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Call the module: (output, h_n[, c_n]) of a layer, (h[, c]) of a cell."""
        input: Any = arguments["input"]
        if self.form in ("sorted", "unsorted"):
            input = pack_padded_sequence(input, self.lengths, enforce_sorted=self.form == "sorted")
        hx = tuple(value for name, value in arguments.items() if name != "input")
        torch.manual_seed(self.seed)  # for dropout
        ragged = (self.lengths,) if self.form in RAGGED_FORMS else ()
        result = module(input, None if not hx else hx if "LSTM" in self.kind else hx[0], *ragged)
        if self.is_cell:
            return result if isinstance(result, tuple) else (result,)
        output, state = result
        output = output.data if isinstance(output, PackedSequence) else output
        return (output, *state) if isinstance(state, tuple) else (output, state)


def solve(
    problem: Problem, namespace: Any, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return every output and, with random gradients upon all outputs, every gradient."""
    module = problem.module(namespace, dtype)
    arguments = problem.arguments(dtype)
    results = problem.call(module, arguments)
    outputs = {f"result {i}": result for i, result in enumerate(results)}
    leaves = arguments | dict(module.named_parameters())
    generator = torch.Generator().manual_seed(problem.seed + 1)
    upstream = [torch.randn(o.shape, generator=generator).to(dtype) for o in outputs.values()]
    gradients = torch.autograd.grad(list(outputs.values()), list(leaves.values()), upstream)
    named = {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in (outputs | named).items()}


# --- the comparator -----------------------------------------------------------------------------

FLOOR = 3e-6
"""What is allowed beyond twice torch.nn's error, relative to the largest element: 25 ulp.

The largest seen in 12,830 tensors of random problems was 2.0e-6, in a sum that nearly cancels; but
for the two of that problem, 1.3e-6.
"""


def assert_as_accurate_as_torch(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> None:
    """Raise unless each of our tensors is about as near to the exact one as torch.nn's is."""
    assert ours.keys() == theirs.keys() == exact.keys()
    for name, truth in exact.items():
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].shape == theirs[name].shape == truth.shape, name
        if truth.numel() == 0:
            continue
        scale = truth.abs().max().item()
        own = (theirs[name].double() - truth).abs().max().item()
        budget = 2 * own + FLOOR * scale
        torch.testing.assert_close(
            ours[name].double(),
            truth,
            rtol=0,
            atol=budget,
            msg=lambda text, name=name, own=own: f"{name}: torch.nn errs by {own:.2e}; {text}",
        )


def reference_layer(*call: Any) -> tuple[Tensor, ...]:
    """Compute what `ops.layer` is given; its last argument, recompute, changes no result."""
    return reference.layer(*call[:8])


@contextmanager
def by_the_reference() -> Iterator[None]:
    """Compute by the reference whatever the dtype."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "layer", reference_layer)
        patch.setattr(ops, "step", reference.step)
        patch.setattr(ops, "at_once", lambda *_: None)
        yield


_SOLVED: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}


def oracles(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Solve a problem in float32 and float64, once for all instruction sets, which play no part."""
    key = repr(problem)
    if key not in _SOLVED:
        if problem.is_in_torch:
            theirs, exact = (solve(problem, torch.nn, t) for t in (torch.float32, torch.float64))
        else:
            with by_the_reference():
                theirs, exact = (solve(problem, elman, t) for t in (torch.float32, torch.float64))
        _SOLVED[key] = theirs, exact
    return _SOLVED[key]


def compare(problem: Problem) -> None:
    """Solve a problem with elman and with torch.nn, and require ours to be as accurate."""
    assert_as_accurate_as_torch(solve(problem, elman), *oracles(problem))
