"""The bits of layers and cells, forward and backward, are those that a file remembers.

`elman verify` asks a user's machine whether one model of each cell has the bits of the release.
This file has what that leaves out, so that a change of the core which moves a bit is seen: lengths,
packed sequences, projections, no biases, initial states and their gradients, steps of cells.

The numbers are those of `elman verify`, so that nothing but the core decides the bits. They may
differ where another compiler chose which products it fuses with sums, so the file names its own.

    python tests/test_bits.py    writes the file anew, for every instruction set of this machine
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ISAS, _native
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from elman import verification

KNOWN = Path(__file__).with_name("bits.json")
STEPS, BATCH, INPUTS, HIDDEN = 9, 5, 7, 19
LENGTHS = [4, 9, 1, 0, 6]

LAYERS: dict[str, tuple[type, dict[str, Any]]] = {
    "tanh": (elman.RNN, {}),
    "relu": (elman.RNN, {"nonlinearity": "relu"}),
    "lstm": (elman.LSTM, {}),
    "projected": (elman.LSTM, {"proj_size": 6}),
    "gru": (elman.GRU, {}),
    "reset_before": (elman.GRU, {"reset_after": False}),
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "bare": {"bias": False},
    "lengths": {"bidirectional": True},
    "packed": {"bidirectional": True},
}
STEP_CELLS = {"tanh": elman.RNNCell, "lstm": elman.LSTMCell, "gru": elman.GRUCell}


def run(kind: str, form: str, dtype: torch.dtype) -> str:
    """The digest of results and of gradients sent into all of them."""
    seeds = itertools.count()

    def draw(*shape: int) -> Tensor:
        """Numbers from [-1/2, 1/2); no two tensors are the same."""
        numbers = verification._numbers(shape, next(seeds), str(dtype)[6:]) / 2
        return torch.from_numpy(numbers).requires_grad_()

    batch, call = (BATCH,), {"lengths": LENGTHS} if form == "lengths" else {}
    if form == "cell":
        module: Any = STEP_CELLS[kind](INPUTS, HIDDEN, dtype=dtype)
        x = given = draw(BATCH, INPUTS)
        is_lstm = kind == "lstm"
    else:
        layer, own = LAYERS[kind]
        module = layer(INPUTS, HIDDEN, dtype=dtype, **own, **FORMS[form])
        x = given = draw(STEPS, BATCH, INPUTS)
        batch = (module.num_layers * (2 if module.bidirectional else 1), BATCH)
        is_lstm = layer is elman.LSTM
        if form == "packed":
            given = pack_padded_sequence(x, [max(n, 1) for n in LENGTHS], enforce_sorted=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(draw(*parameter.shape))
    h_0 = draw(*batch, getattr(module, "proj_size", 0) or HIDDEN)
    hx = (h_0, draw(*batch, HIDDEN)) if is_lstm else (h_0,)
    results = module(given, hx if is_lstm else h_0, **call)
    found: list[Tensor] = []
    rest = [results]
    while rest:
        result = rest.pop()
        if isinstance(result, PackedSequence):
            found.append(result.data)
        elif isinstance(result, tuple):
            rest += result
        else:
            found.append(result)
    upstream = [draw(*result.shape) for result in found]
    leaves = [x, *hx, *module.parameters()]
    results = [*found, *torch.autograd.grad(found, leaves, upstream)]
    return verification._hash([result.detach().numpy() for result in results])


CASES = [
    *((kind, form) for kind in LAYERS for form in FORMS),
    *((kind, "cell") for kind in STEP_CELLS),
]


def computed() -> Iterator[tuple[str, str]]:
    for dtype in (torch.float32, torch.float64):
        for kind, form in CASES:
            yield f"{kind} {form} {str(dtype)[6:]}", run(kind, form, dtype)


def compiler() -> str:
    return "" if _native is None else _native.compiler()


def known() -> dict[str, Any]:
    return json.loads(KNOWN.read_text("utf-8"))


@pytest.mark.skipif(compiler() != known()["compiler"], reason="made by another compiler")
def test_the_bits_are_those_of_before(isa: str) -> None:
    if isa not in known():
        pytest.skip("nothing is remembered of this instruction set")
    found = dict(computed())
    assert {case: bits for case, bits in known()[isa].items() if found[case] != bits} == {}
    assert found.keys() == known()[isa].keys()


if __name__ == "__main__":
    recorded: dict[str, Any] = {"compiler": compiler()}
    for name in ISAS:
        _native.set_isa(name)
        recorded[name] = dict(computed())
    KNOWN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", "utf-8")
