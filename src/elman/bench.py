"""Measures the layers beside others': how long a call takes, and how near that is to the bound.

Two contenders do the same work in one process and take turns, so that a machine which slows down
slows both: a figure to trust is a ratio of one row. Before anything is timed, what they computed is
compared. A call either infers (no gradients) or trains (forward, and backward for the input and all
weights).

The bound is the time of a call in which all floating-point operations run at the machine's peak of
fused multiply-adds, except that a step of the recurrence is no faster than reading its weights from
where they fit, each core its share. Peak and bandwidths are measured in the same run. The bound has
no term for the chain of activations from step to step, which small sizes at batch 1 cannot escape.

Symbols: L time steps, N sequences in the batch, H features, in and hidden.
"""

import json
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from elman.extras import needed

with needed("elman.bench", "train"):
    import torch
from rich import box
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
import elman.nn
from elman.cells import CELLS, Cell
from elman.core import _native

__all__ = [
    "DISTURBED",
    "ELMAN",
    "GRID",
    "MODES",
    "QUICK",
    "TORCH",
    "Case",
    "Contender",
    "Layers",
    "Machine",
    "Mode",
    "Prepared",
    "Report",
    "Row",
    "Spread",
    "Work",
    "bound",
    "markdown_table",
    "measure",
    "seconds_elsewhere",
    "take_turns",
]

Mode: TypeAlias = Literal["inference", "training"]
MODES: tuple[Mode, ...] = ("inference", "training")

TURN_S = 0.02
PAUSE_S = 0.005  # lets the other's worker threads, which spin for a while after a call, go to sleep
# How far results may be apart, beside the largest entry: in narrow types, twice what rounding does.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
DISTURBED = 0.1  # cores too few for a row's threads, from which it means little


@dataclass(frozen=True)
class Case:
    """One piece of work: a layer, or a stack of layers, over a batch of sequences.

    Attributes:
        cell: The name of the class, "RNN", "GRU" or "LSTM".
        batch: N, sequences.
        seq_len: L, time steps.
        hidden_size: H, features; input_size is the same.
        num_layers: Layers on top of each other.
        bidirectional: Both directions.
        proj_size: Features of the projected state, 0 for none (LSTM).
        ragged: Sequences of different lengths, packed: from L down to 0.24 L in even steps, so
            that 62 % of N L steps are real.
        dtype: "float32" or "float64"; "bfloat16", which is float32 under `torch.autocast`; or
            "int8", float32 with weights that were quantised, for inference alone.

    Example:
        >>> str(Case("LSTM", 32, 100, 128, num_layers=2, bidirectional=True))
        'LSTM (32, 100, 128), 2 layers, bidirectional'
    """

    cell: str
    batch: int
    seq_len: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    ragged: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        text = f"{self.cell} ({self.batch}, {self.seq_len}, {self.hidden_size})"
        text += f", {self.num_layers} layers" * (self.num_layers > 1)
        text += ", bidirectional" * self.bidirectional
        text += f", projected to {self.proj_size}" * bool(self.proj_size)
        text += ", ragged" * self.ragged
        return text + f", {self.dtype}" * (self.dtype != "float32")

    @property
    def kind(self) -> Cell:
        """The definition of the cell."""
        return CELLS["rnn_tanh" if self.cell == "RNN" else self.cell.lower()]

    @property
    def suffixes(self) -> list[list[str]]:
        """What the names of the parameters end with: of each layer, of each direction.

        Example:
            >>> Case("GRU", 4, 100, 32, num_layers=2, bidirectional=True).suffixes
            [['_l0', '_l0_reverse'], ['_l1', '_l1_reverse']]
        """
        ends = ["", "_reverse"][: 1 + self.bidirectional]
        return [[f"_l{layer}{end}" for end in ends] for layer in range(self.num_layers)]

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that there are of it."""
        return ("inference",) if self.dtype == "int8" else MODES

    @property
    def given(self) -> torch.dtype:
        """The dtype of the input, the states and the weights as they are given."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def lengths(self) -> list[int]:
        """The length of each sequence, longest first.

        Example:
            >>> Case("GRU", 4, 100, 32, ragged=True).lengths
            [100, 75, 49, 24]
        """
        fall = 0.76 / max(self.batch - 1, 1) if self.ragged else 0.0
        return [max(1, round(self.seq_len * (1 - fall * n))) for n in range(self.batch)]

    def module(self, namespace: Any) -> torch.nn.Module:
        """Make the layers of this case from torch.nn or a namespace that mirrors it.

        Their initial weights are drawn, but torch's generator is left where it was.
        """
        with torch.random.fork_rng(devices=[]):
            module: torch.nn.Module = getattr(namespace, self.cell)(
                self.hidden_size,
                self.hidden_size,
                num_layers=self.num_layers,
                bidirectional=self.bidirectional,
                dtype=self.given,
                **({"proj_size": self.proj_size} if self.proj_size else {}),
            )
        return module


def _grid() -> Iterator[Case]:
    sizes = (
        *((1, 1, 32), (1, 1, 128), (1, 1, 256), (1, 1, 512)),
        *((1, 100, 32), (1, 100, 128), (1, 100, 256), (1, 1000, 64), (8, 100, 64)),
        *((32, 100, 32), (32, 100, 128), (32, 100, 256), (64, 50, 512), (128, 35, 1024)),
    )
    for cell in ("RNN", "GRU", "LSTM"):
        for size in sizes:
            yield Case(cell, *size)
        yield Case(cell, 32, 100, 128, num_layers=2, bidirectional=True)
        yield Case(cell, 32, 100, 64, ragged=True)
        yield Case(cell, 32, 1000, 64, ragged=True)
        yield Case(cell, 32, 100, 128, dtype="float64")
        for size in ((1, 100, 256), (32, 100, 128), (32, 100, 256), (64, 50, 512)):
            yield Case(cell, *size, dtype="bfloat16")
        if cell != "RNN":  # no peer has it
            for size in ((1, 100, 128), (1, 50, 512), (32, 100, 256)):
                yield Case(cell, *size, dtype="int8")
    yield Case("LSTM", 32, 100, 128, proj_size=64)


GRID = tuple(_grid())
"""Every case that is measured, from a single step to the sizes of language models."""

QUICK = tuple(
    Case(cell, *size, ragged=size == (32, 100, 64))
    for cell in ("RNN", "GRU", "LSTM")
    for size in (
        *((1, 1, 32), (1, 100, 128), (1, 1000, 64)),
        *((32, 100, 128), (32, 100, 256), (32, 100, 64)),
    )
)
"""A part of the grid that shows each regime."""


@dataclass(frozen=True)
class Work:
    """The numbers of a case, which every contender is given alike.

    Attributes:
        case: The case.
        weights: The parameters, under the names of torch.nn.
        input: (L, N, H), padded if the case is ragged.
        hx: The initial states, h and for an LSTM c, each (D * num_layers, N, H_out or H).
        d_output: The gradient of the output, (L, N, D * H_out).
    """

    case: Case
    weights: dict[str, Tensor]
    input: Tensor
    hx: tuple[Tensor, ...]
    d_output: Tensor

    @classmethod
    def of(cls, case: Case) -> "Work":
        """Draw the numbers of a case, always the same ones; torch's generator stays as it is."""
        dtype = case.given
        states = case.num_layers * (1 + case.bidirectional)
        h_out = case.proj_size or case.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            input = torch.randn(case.seq_len, case.batch, case.hidden_size, dtype=dtype)
            h_0 = torch.randn(states, case.batch, h_out, dtype=dtype)
            c_0 = torch.randn(states, case.batch, case.hidden_size, dtype=dtype)
            width = h_out * (1 + case.bidirectional)
            d_output = torch.randn(case.seq_len, case.batch, width, dtype=dtype)
            weights = case.module(torch.nn).state_dict()
        return cls(case, weights, input, (h_0, c_0)[: len(case.kind.states)], d_output)

    def rows(self, padded: Tensor) -> Tensor:
        """Return the real steps of (L, N, .) as the rows (sum of lengths, .) of a packed sequence.

        A case that is not ragged keeps its (L, N, .).
        """
        return self.pack(padded).data if self.case.ragged else padded

    def pack(self, padded: Tensor) -> PackedSequence:
        """Pack (L, N, .) by the lengths of the case."""
        return pack_padded_sequence(padded, torch.tensor(self.case.lengths))


class Prepared(NamedTuple):
    """Work made ready for a contender.

    Attributes:
        call: Does the work once; this is what is timed.
        read: Does the work once and returns what it computed: the output and final states, or in
            training the gradients of the input and of the weights in the order of `Work.weights`.
            Steps stand as `Work.rows` returns them.
    """

    call: Callable[[], object]
    read: Callable[[], list[Tensor]]


class Contender(Protocol):
    """Somebody who can do the work."""

    @property
    def name(self) -> str:
        """What the contender is called in tables."""

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        """Make the work ready; None if the contender cannot do it."""


@dataclass(frozen=True)
class Layers:
    """The layers of torch.nn, or of a namespace that mirrors it.

    Attributes:
        name: What it is called in tables.
        namespace: The module that has RNN, GRU and LSTM.
        quantize: Makes a layer one of int8, or returns None for a layer of which it has none.
        lengths: Whether ragged work comes padded, with its lengths, and not packed.
    """

    name: str
    namespace: Any
    quantize: Callable[[torch.nn.Module], torch.nn.Module | None] = elman.quantize
    lengths: bool = False

    def prepare(self, work: Work, mode: Mode) -> Prepared | None:
        """Make a module of the namespace with the weights of the work."""
        module: Callable[..., Any] | None
        module = layer = work.case.module(self.namespace)
        layer.load_state_dict(work.weights)
        if work.case.dtype == "int8":
            module = self.quantize(layer)
        elif work.case.dtype == "bfloat16":
            module = _under_autocast(layer)
        if module is None:
            return None
        hx = work.hx if len(work.hx) > 1 else work.hx[0]
        packed = work.case.ragged and not self.lengths
        lengths = {"lengths": work.case.lengths} if work.case.ragged and self.lengths else {}

        def given(padded: Tensor) -> Tensor:
            return work.rows(padded) if packed else padded

        def read(result: Tensor) -> Tensor:
            return result if packed else work.rows(result)

        values = given(work.input).clone().requires_grad_(mode == "training")
        input = work.pack(work.input)._replace(data=values) if packed else values
        leaves = [values, *layer.parameters()]

        def infer() -> tuple[Tensor, Any]:
            output, states = module(input, hx, **lengths)
            return output.data if packed else output, states

        def read_inference() -> list[Tensor]:
            output, states = infer()
            return [read(output), *(states if isinstance(states, tuple) else (states,))]

        if mode == "inference":
            return Prepared(infer, read_inference)
        d_output = given(work.d_output)
        if (
            work.case.dtype == "bfloat16"
        ):  # of which cells the outputs are, too, is for PyTorch to say
            d_output = d_output.to(infer()[0].dtype)

        def train() -> None:
            for leaf in leaves:
                leaf.grad = None
            torch.autograd.backward(infer()[0], d_output)

        def read_training() -> list[Tensor]:
            train()
            d_input, *d_weights = [leaf.grad for leaf in leaves if leaf.grad is not None]
            return [read(d_input), *d_weights]

        return Prepared(train, read_training)


def _under_autocast(layer: torch.nn.Module) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(*args, **options)

    return call


def _quantize_dynamic(layer: torch.nn.Module) -> torch.nn.Module | None:
    if isinstance(layer, torch.nn.RNN):
        return None  # PyTorch has its LSTM and GRU alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is being retired
        whole = torch.nn.Sequential(layer).eval()  # children alone are exchanged
        make: Any = torch.ao.quantization.quantize_dynamic
        whole = make(whole, {type(layer)}, torch.qint8)
    quantized: torch.nn.Module = whole[0]
    return quantized


ELMAN = Layers("elman", elman.nn)
TORCH = Layers("torch.nn", torch.nn, _quantize_dynamic)


@dataclass(frozen=True)
class Spread:
    """The times of many calls.

    Attributes:
        median: Microseconds that half of the calls took at most.
        low: Microseconds that a quarter of them took at most.
        high: Microseconds that three quarters of them took at most.
        calls: How many were timed.

    Example:
        >>> print(Spread(median=200, low=195, high=205, calls=100))
        200 ± 2%
    """

    median: float
    low: float
    high: float
    calls: int

    def __str__(self) -> str:
        shown = f"{self.median:,.1f}" if self.median < 100 else f"{self.median:,.0f}"
        return f"{shown} ± {(self.high - self.low) / 2 / self.median:.0%}"

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Summarise the times of at least two calls."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(round(median * 1e6, 3), round(low * 1e6, 3), round(high * 1e6, 3), len(seconds))


def take_turns(calls: Sequence[Callable[[], object]], seconds: float) -> list[Spread]:
    """Time several functions that alternate in turns of some milliseconds.

    The first call of a turn finds cold caches, so it counts only if it filled the turn by itself.

    Args:
        calls: The functions.
        seconds: How long to go on, in all; each function gets three turns at least.

    Example:
        >>> fast, slow = take_turns([lambda: None, lambda: sum(range(10_000))], seconds=0.2)
        >>> fast.median < slow.median
        True
    """
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        for call, own in zip(calls, times, strict=True):
            own += _turn(call)
        turns += 1
    return [Spread.of(own) for own in times]


def _turn(call: Callable[[], object]) -> list[float]:
    time.sleep(PAUSE_S)
    times: list[float] = []
    over = time.perf_counter() + TURN_S
    while (start := time.perf_counter()) < over:
        call()
        times.append(time.perf_counter() - start)
    return times[1:] or times


@dataclass(frozen=True)
class Machine:
    """What a run was measured on.

    Attributes:
        cpu: The model's name.
        cores: Its cores.
        versions: The version of each package, by its name.
        bandwidth: GB/s at which one core reads so many bytes again and again, by bytes, ascending.
    """

    cpu: str
    cores: int
    versions: dict[str, str]
    bandwidth: dict[int, float]

    @classmethod
    def here(cls) -> "Machine":
        """Measure the machine that this runs on, in about a second."""
        sizes = [2**power for power in range(13, 28)]
        best = [max(_native.read_bandwidth(size, 0.02) for _ in range(3)) for size in sizes]
        # Fewer bytes are never read more slowly: a dip is a disturbance.
        envelope = np.maximum.accumulate(best[::-1])[::-1]
        return cls(
            cpu=_cpu_name(),
            cores=os.cpu_count() or 1,
            versions={
                "elman": elman.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            bandwidth={size: round(float(x), 1) for size, x in zip(sizes, envelope, strict=True)},
        )

    def read_seconds(self, bytes: float) -> float:
        """Return the time in which one core reads so many bytes that it has read before."""
        sizes = np.log2(list(self.bandwidth))
        rate = np.interp(math.log2(bytes), sizes, list(self.bandwidth.values()))
        return bytes / (float(rate) * 1e9)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def bound(case: Case, mode: Mode, threads: int, peak: float, machine: Machine) -> float:
    """Return the least time of a call, in microseconds, as the module's text defines it.

    Counted are the two projections of each layer and direction, the projection of the state if
    there is one, and in training three times as much: forward, gradients of what went in, gradients
    of the weights. Training walks the recurrence a second time, all of it but the step that leads
    back to the initial state, whose gradient nobody asks for.

    Args:
        case: The work.
        mode: Inference or training.
        threads: Cores that share the work.
        peak: float32 GFLOP/s of these cores together. Of float64 half of it is taken, of bfloat16
            twice and of int8 four times as much, as vector instructions do; those that multiply
            whole matrices do more.
        machine: Where the weights are read.

    Example:
        >>> machine = Machine("a CPU", 2, {}, {2**13: 100.0, 2**27: 100.0})
        >>> bound(Case("RNN", 1, 1, 1000), "inference", 2, peak=400.0, machine=machine)
        25.0
    """
    itemsize = getattr(torch, case.dtype).itemsize
    flops_per_s = peak * 1e9 * 4 / itemsize
    gates = len(case.kind.gates)
    h_out = case.proj_size or case.hidden_size
    directions = 1 + case.bidirectional
    real = sum(case.lengths)
    running = [sum(n > t for n in case.lengths) for t in range(max(case.lengths))]

    recurrent_weights = gates * case.hidden_size * h_out + case.hidden_size * case.proj_size
    read = machine.read_seconds(recurrent_weights * itemsize / threads)
    product = 2 * recurrent_weights / flops_per_s  # seconds per row
    steps = [max(n * product, read) for n in running]
    total = 0.0
    for layer in range(case.num_layers):
        width = case.hidden_size if layer == 0 else directions * h_out
        projection = 2 * real * gates * case.hidden_size * width / flops_per_s
        seconds = projection + sum(steps)
        if mode == "training":
            seconds += 2 * projection + sum(steps[1:]) + real * product
        total += directions * seconds
    return round(total * 1e6, 3)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: The work.
        mode: Inference or training.
        threads: Threads that each contender was given.
        peer: The other contender.
        ours: Our times.
        theirs: The other's.
        peak: float32 GFLOP/s of so many threads, the better of just before and just after.
        bound: Microseconds, see `bound`.
        elsewhere: How many cores other processes kept busy meanwhile, on average.
    """

    case: Case
    mode: Mode
    threads: int
    peer: str
    ours: Spread
    theirs: Spread
    peak: float
    bound: float
    elsewhere: float

    @property
    def ratio(self) -> float:
        """How many times the other's call is longer than ours."""
        return self.theirs.median / self.ours.median

    @property
    def fraction(self) -> float:
        """How much of our call's time the bound would take."""
        return self.bound / self.ours.median


def measure(
    cases: Iterable[Case],
    modes: Iterable[Mode],
    threads: int,
    machine: Machine,
    peer: Contender = TORCH,
    ours: Contender = ELMAN,
    seconds: float = 1.0,
) -> Iterator[Row]:
    """Compare two contenders over many cases, and yield each row when it is ready.

    PyTorch's number of threads is set while a row is measured.

    Args:
        cases: The work; what the peer cannot do is passed over.
        modes: Inference, training or both.
        threads: How many threads each may use.
        machine: What this runs on.
        peer: The other contender.
        ours: The one whose nearness to the bound is of interest.
        seconds: How long to time a row; those with slow calls take longer.

    Raises:
        AssertionError: The two did not compute the same.
    """
    modes = tuple(modes)
    for case in cases:
        work = Work.of(case)
        for mode in (mode for mode in modes if mode in case.modes):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                with warnings.catch_warnings():
                    # torch.nn tells once that it has no fast path here
                    warnings.filterwarnings("ignore", "LSTM with projections is not supported")
                    row = _row(work, mode, threads, machine, peer, ours, seconds)
            finally:
                torch.set_num_threads(before)
            if row is not None:
                yield row


def _row(
    work: Work,
    mode: Mode,
    threads: int,
    machine: Machine,
    peer: Contender,
    ours: Contender,
    seconds: float,
) -> Row | None:
    us, them = ours.prepare(work, mode), peer.prepare(work, mode)
    if us is None or them is None:
        return None
    with torch.set_grad_enabled(mode == "training"):
        who = f"{work.case}, {mode}: {ours.name} and {peer.name}"
        _check_same(us.read(), them.read(), TOLERANCE[work.case.dtype], who)
        peaks = [_native.fma_peak(threads, 0.01)]
        start, elsewhere = time.perf_counter(), seconds_elsewhere()
        our_times, their_times = take_turns([us.call, them.call], seconds)
        elsewhere = (seconds_elsewhere() - elsewhere) / (time.perf_counter() - start)
        peaks.append(_native.fma_peak(threads, 0.01))
    peak = round(max(peaks), 1)
    limit = bound(work.case, mode, threads, peak, machine)
    return Row(
        work.case,
        mode,
        threads,
        peer.name,
        our_times,
        their_times,
        peak,
        limit,
        round(max(0.0, elsewhere), 2),
    )


def seconds_elsewhere() -> float:
    """Return the processor time of all other processes since the machine started.

    Only Linux tells, in hundredths of a second; elsewhere it is 0.
    """
    # The fields: user, nice, system, idle, iowait, irq, softirq, steal.
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ticks = [int(x) for x in stat.read_text().split(maxsplit=9)[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def _check_same(us: list[Tensor], them: list[Tensor], rtol: float, who: str) -> None:
    # Sums over many steps round differently in each: the largest entry of a tensor sets its scale.
    if len(us) != len(them):
        raise AssertionError(f"{who} returned {len(us)} and {len(them)} tensors")
    for x, y in zip(us, them, strict=True):
        scale = max(1.0, y.abs().max().item())
        torch.testing.assert_close(
            x, y, rtol=rtol, atol=rtol * scale, msg=lambda text: f"{who} disagree. {text}"
        )


@dataclass(frozen=True)
class Report:
    """The rows of a run, and the machine.

    Attributes:
        machine: What it was measured on.
        rows: The comparisons; those of one case against several peers become one line of the table.
    """

    machine: Machine
    rows: list[Row] = field(default_factory=list)

    def json(self) -> str:
        """Return everything measured, as JSON; times in microseconds."""
        rows = [{**asdict(row), "ratio": row.ratio, "fraction": row.fraction} for row in self.rows]
        return json.dumps({"machine": asdict(self.machine), "rows": rows}, indent=1)

    @property
    def peers(self) -> list[str]:
        """The other contenders, in the order in which they first appear."""
        return list(dict.fromkeys(row.peer for row in self.rows))

    def disturbed(self, row: Row) -> bool:
        """Tell whether other processes took cores that the threads of this row needed."""
        return row.threads + row.elsewhere > self.machine.cores + DISTURBED

    def header(self) -> str:
        """Return one line that names the machine and what it reached."""
        peaks = {n: max(r.peak for r in self.rows if r.threads == n) for n in self._threads()}
        reached = ", ".join(f"{peak:.0f} GFLOP/s on {_threads(n)}" for n, peak in peaks.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.machine.versions.items())
        return f"{self.machine.cpu}, {_threads(self.machine.cores, 'core')}: {reached}; {versions}"

    def grouped(self, threads: int | None = None) -> dict[tuple[Case, Mode, int], dict[str, Row]]:
        """Return the rows by case, mode and threads, and then by peer.

        Args:
            threads: Only rows with so many threads.
        """
        grouped: dict[tuple[Case, Mode, int], dict[str, Row]] = {}
        for row in self.rows:
            if threads in (None, row.threads):
                grouped.setdefault((row.case, row.mode, row.threads), {})[row.peer] = row
        return grouped

    def lines(self, threads: int | None = None) -> tuple[list[str], list[list[str]]]:
        """Return the titles and the cells of the table, a line per case, mode and threads.

        Of several peers, the best is the one whose time is the shortest beside ours.

        Args:
            threads: Only lines with so many threads, and no column of threads.
        """
        several = len(self.peers) > 1
        titles = ["(N, L, H)", "mode", "threads", "elman µs", "of bound"]
        titles += ["best peer", "ratio"] * several
        titles += [title for peer in self.peers for title in (f"{peer} µs", "ratio")]
        lines = []
        for (case, mode, count), by_peer in self.grouped(threads).items():
            first, best = (
                next(iter(by_peer.values())),
                min(by_peer.values(), key=lambda row: row.ratio),
            )
            mark = " ~" * any(map(self.disturbed, by_peer.values()))
            line = [str(case), mode, str(count), f"{first.ours}{mark}", f"{first.fraction:.0%}"]
            line += [best.peer, f"{best.ratio:.2f}x"] * several
            for peer in self.peers:
                other = by_peer.get(peer)
                line += [str(other.theirs), f"{other.ratio:.2f}x"] if other else ["", ""]
            lines.append(line)
        if threads is not None:
            for line in (titles, *lines):
                del line[2]
        return titles, lines

    def summary(self) -> tuple[list[str], list[list[str]]]:
        """Return the titles and cells of a table of the ratios' geometric means over the cases.

        Disturbed rows are left out: some peers take a thousand times longer on a busy machine.
        """
        titles = ["geometric mean over", "mode", "threads", *self.peers]
        groups: dict[tuple[str, Mode, int], dict[str, list[float]]] = {}
        for row in self.rows:
            case = row.case
            narrow = f" in {case.dtype}" * (case.dtype in ("bfloat16", "int8"))
            by_peer = groups.setdefault((case.cell + narrow, row.mode, row.threads), {})
            if not self.disturbed(row):
                by_peer.setdefault(row.peer, []).append(row.ratio)
        names = list(dict.fromkeys(layers for layers, _, _ in groups))
        lines = []
        for group in sorted(groups, key=lambda g: (names.index(g[0]), MODES.index(g[1]), g[2])):
            layers, mode, threads = group
            by_peer = groups[group]
            cases = max(map(len, by_peer.values()), default=0)
            means = [
                f"{statistics.geometric_mean(by_peer[peer]):.2f}x" if peer in by_peer else ""
                for peer in self.peers
            ]
            counted = f"{layers}, {cases} case{'s' * (cases != 1)}"
            lines.append([counted, mode, str(threads), *means])
        return titles, lines

    def markdown(self) -> str:
        """Return the report as Markdown: the machine, the summary, every line."""
        parts = [
            self.header(),
            markdown_table(*self.summary()),
            markdown_table(*self.lines()),
            self.note(),
        ]
        return "\n\n".join(parts) + "\n"

    def tables(self) -> list[Table]:
        """Return tables for the terminal: one per number of threads, and the summary."""
        counts = self._threads()
        return [*(_rich(_threads(n), *self.lines(n)) for n in counts), _rich("", *self.summary())]

    def note(self) -> str:
        """Return what a reader of the table has to know."""
        return (
            "Sizes are (N, L, H): sequences, steps, features in and hidden. Times are medians, ± "
            "half of what lies between the quartiles, of calls that take turns with the peer's in "
            "one process. Ratio: the peer's time over ours in that process. Of bound: the time in "
            "which the machine could do the arithmetic and read the weights, over ours. "
            "~: other processes took cores that this line needed; no mean counts it."
        )

    def _threads(self) -> list[int]:
        return list(dict.fromkeys(row.threads for row in self.rows))


def _threads(count: int, noun: str = "thread") -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def markdown_table(titles: list[str], lines: list[list[str]]) -> str:
    """Return a table as Markdown, with columns of numbers to the right.

    Example:
        >>> print(markdown_table(["mode", "ratio"], [["training", "1.20x"], ["inference", ""]]))
        | mode | ratio |
        | :-- | --: |
        | training | 1.20x |
        | inference |  |
    """
    rule = ["--:" if numbers else ":--" for numbers in _numbers(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, rule, *lines))


def _rich(caption: str, titles: list[str], lines: list[list[str]]) -> Table:
    table = Table(title=caption, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title, numbers in zip(titles, _numbers(lines), strict=True):
        table.add_column(title, justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*line)
    return table


# Of each column, whether all that stands in it begins with a digit.
def _numbers(lines: list[list[str]]) -> list[bool]:
    columns = zip(*lines, strict=True)
    return [all(not cell or cell[0].isdigit() for cell in column) for column in columns]
