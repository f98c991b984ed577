"""The layers in processes that fork, that exit while they compute, and that run out of memory.

Each in a Python of its own, since what is tested depends on what the process has done before.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import elman
from elman import core

pytestmark = pytest.mark.skipif(core._native is None, reason="needs the native core")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import faulthandler\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )


FORK = """
import os
import torch, elman
from elman import core

def solve():
    output, state = layer(x)
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], upstream)]

# what the child does with the results is NumPy's: PyTorch's operations may wait for its threads
def same_in_a_child(expected):
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)  # a hang is told, and ends
        ours = [tensor.detach().numpy() for tensor in solve()]
        os._exit(3 if any((a != b).any() for a, b in zip(ours, expected)) else 0)
    assert os.waitpid(pid, 0)[1] == 0

torch.set_num_threads(2)
torch.randn(4_000_000).exp()  # the threads of PyTorch stand ready
x = torch.randn(64, 64, 64, requires_grad=True)
upstream = torch.randn(128, 64, 64).permute(2, 1, 0)  # gradients come in as views, too
assert x.numel() > core._SHARED_OUT
"""


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("before", [False, True], ids=["first_call", "later_call"])
def test_a_child_forked_beside_pytorchs_threads_computes(before: bool, batch_first: bool) -> None:
    code = f"""
layer = elman.GRU(64, 128, batch_first={batch_first})
expected = [tensor.detach().numpy() for tensor in solve()] if {before} else []
same_in_a_child(expected)
same_in_a_child([tensor.detach().numpy() for tensor in solve()])
"""
    result = run_python(FORK + code)
    assert result.returncode == 0, result.stderr


class Gradients(torch.utils.data.Dataset):
    """A data set whose elements take a layer, forward and backward."""

    def __init__(self) -> None:
        torch.manual_seed(12)
        self.layer = elman.LSTM(16, 64, batch_first=True)
        self.x = torch.randn(6, 40, 64, 16)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        x = self.x[i].clone().requires_grad_()
        output, _ = self.layer(x)
        return torch.autograd.grad(output, x, torch.ones(64, 64, 40).permute(2, 1, 0))[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("count", [None, 2])
def test_workers_of_a_data_loader_may_call_layers(count: int | None) -> None:
    data = Gradients()
    expected = [data[i] for i in range(len(data))]
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    core.set_num_threads(count)
    try:
        for actual, wanted in zip(loader, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
    finally:
        core.set_num_threads(None)


EXIT = """
import sys, threading, time
faulthandler.dump_traceback_later(40, exit=True)
import torch
from elman import core
from elman.cells import CELLS

cell = CELLS["lstm"]
core.set_num_threads({threads})
states, weights = (torch.randn(1, 32, 256), torch.randn(1, 32, 256)), []
for shape in ((1024, 64), (1024, 256), (1024,), (1024,)):
    weights.append(torch.randn(shape) / 16)
call = cell, torch.randn(100, 32, 64), None, None, states, [*weights, None]
output, *finals, kept = core.forward(*call, True)
running, given = threading.Event(), []
native = core._native

class Recorder:
    forward = staticmethod(lambda *args: (given.append(args), native.forward(*args)))
    backward = staticmethod(lambda *args: (given.append(args), native.backward(*args)))
    addresses = staticmethod(native.addresses)
    forward_of = backward_of = staticmethod(lambda *args: None)

core._native = Recorder
held = {call}
compute = native.backward if "backward" in {call!r} else native.forward

def work():  # of the core alone: PyTorch gives the lock up in its own functions, and aborts there
    while True:
        running.set()
        compute(*given[-1])

threading.Thread(target=work, daemon=True).start()
running.wait()
time.sleep(0.2)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "call",
    [
        "core.forward(*call, False)",
        "core.backward(*call, output, kept, [output, *finals], [True] * 7 + [False])",
    ],
    ids=["forward", "backward"],
)
def test_python_may_exit_while_a_thread_computes(call: str, threads: int) -> None:
    result = run_python(EXIT.format(call=call, threads=threads))
    assert (result.returncode, result.stderr) == (0, "")


MEMORY = """
import resource
import torch
from elman import core
from elman.cells import CELLS

core.set_num_threads({threads})
torch.manual_seed(13)
cell = CELLS["gru"]
torch.randn(4_000_000).exp()  # the threads of PyTorch stand ready

def solve(hidden_size):
    shapes = (3 * hidden_size, 16), (3 * hidden_size, hidden_size), 3 * hidden_size, 3 * hidden_size
    weights = [torch.full(shape if isinstance(shape, tuple) else (shape,), .01) for shape in shapes]
    call = cell, torch.ones(3, 24, 16), None, None, [None], [*weights, None]
    return call

def run(call, wanted):
    output, h_n, kept = core.forward(*call, True)
    return output, *core.backward(*call, output, kept, [output, None], wanted)

def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    size = used + more if more else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

small, large = solve(32), solve(1500)  # whose weights, and their packed copy, are 27 MB
wanted = [True] + [False] * 6
before = run(small, wanted)
output, h_n, kept = core.forward(*small, True)
for _ in range(3):
    limit(12 << 20)
    try:
        run(large, wanted)
    except MemoryError:
        pass
    else:
        raise SystemExit("there was memory enough")
    for ours, theirs in zip(run(small, wanted), before):
        assert ours is theirs is None or torch.equal(ours, theirs)
    limit(None)
right = run(large, wanted)
core.set_num_threads(1)
for ours, theirs in zip(run(large, wanted), right):
    assert ours is theirs is None or torch.equal(ours, theirs)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory that holds")
@pytest.mark.parametrize("threads", [1, 2])
def test_running_out_of_memory_is_a_memory_error_and_no_more(threads: int) -> None:
    result = run_python(MEMORY.format(threads=threads))
    assert result.returncode == 0, result.stderr
