"""Times bursts of calls as it is told on standard input: one of the two processes of `compare`.

It knows of elman only what every version has, the classes of the layers and their arguments. A line
is a case to make ready, answered by 0, or seconds for a burst, answered by the median seconds of a
call.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence

import elman


def prepare(case: dict[str, Any], mode: str) -> Callable[[], object]:
    """A call of a layer with random weights, forward or forward and backward."""
    torch.manual_seed(0)
    size, narrow = case["hidden_size"], case["dtype"] in ("bfloat16", "int8")
    dtype = torch.float32 if narrow else getattr(torch, case["dtype"])
    options = {name: case[name] for name in ("num_layers", "bidirectional")}
    if case["proj_size"]:
        options["proj_size"] = case["proj_size"]
    layer = getattr(elman, case["cell"])(size, size, dtype=dtype, **options)
    if case["dtype"] == "int8":
        layer = elman.quantize(layer)
    training = mode == "training"
    shape = case["seq_len"], case["batch"], size
    x = torch.randn(*shape, dtype=dtype, requires_grad=training)
    given: Any = x
    if case["ragged"]:
        fall = 0.76 / max(case["batch"] - 1, 1)
        lengths = [round(case["seq_len"] * (1 - fall * n)) for n in range(case["batch"])]
        given = pack_padded_sequence(x, torch.tensor(lengths))

    is_lowered = case["dtype"] == "bfloat16"

    def call() -> None:
        with torch.set_grad_enabled(training):
            with torch.autocast("cpu", torch.bfloat16) if is_lowered else nullcontext():
                output, _ = layer(given)
            if training:
                rows = output.data if case["ragged"] else output
                wanted = [x, *layer.parameters()]
                # The packing is part of every graph, and is done once.
                torch.autograd.grad(rows.sum(), wanted, retain_graph=case["ragged"])

    call()
    return call


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    call: Callable[[], object] = list
    for line in sys.stdin:
        asked = json.loads(line)
        if "case" in asked:
            call, answer = prepare(asked["case"], asked["mode"]), 0.0
        else:
            took, end = [], time.perf_counter() + asked["burst"]
            while not took or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                took.append(time.perf_counter() - start)
            answer = statistics.median(took)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
