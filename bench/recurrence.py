"""Measures other cells than the three, and what the options of the recurrence cost.

Each cell is timed beside the reference, which computes it by PyTorch's operations, and beside our
LSTM of the same size; each option beside the same layer without it.

Times are those of the one thread that computes: what others do on the machine is not counted.

Symbols: L time steps, N sequences in the batch, H features in and out.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from resets import compare
from torch import Tensor

import elman
from elman import reference
from elman.bench import MODES, Mode, markdown_table
from elman.cells import MORE_CELLS

__all__ = ["CELLS", "OPTIONS", "Row", "measure", "table"]

SIZE = (32, 100, 128)  # N, L, H
SECONDS = 2.0  # for the calls of a row and what is beside it
CELLS = (*((name, 1) for name in MORE_CELLS), ("slstm", 4))  # with how many heads
OPTIONS: dict[str, dict[str, Any]] = {
    "recurrent_dropout=0.2": {"recurrent_dropout": 0.2},
    "zoneout=0.1": {"zoneout": 0.1},
    "weight_dropout=0.3": {"weight_dropout": 0.3},
    "layer_norm=True": {"layer_norm": True},
    "cell_clip=3": {"cell_clip": 3.0},
    "learn_initial_state=True": {"learn_initial_state": True},
}


@dataclass(frozen=True)
class Row:
    """The time of one work.

    Attributes:
        name: The cell, or the option of an LSTM.
        mode: Inference or training.
        ours: Microseconds of a call.
        of_lstm: How many times that of our LSTM without options it is.
        reference: How many times as long the reference takes; None for an option.
    """

    name: str
    mode: Mode
    ours: float
    of_lstm: float
    reference: float | None


def call_of(layer: Any, mode: Mode) -> Callable[[], list[Tensor]]:
    """A call in evaluation, or in training with its backward pass."""
    layer.train(mode == "training")
    batch, seq_len, features = SIZE
    x = torch.randn(seq_len, batch, features, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(seq_len, batch, features, generator=torch.Generator().manual_seed(2))

    def call() -> list[Tensor]:
        if mode == "inference":
            with torch.no_grad():
                return [layer(x)[0]]
        return list(torch.autograd.grad(layer(x)[0], [*layer.parameters()], upstream))

    return call


# The layer's weights by the reference.
def by_reference(layer: elman.Recurrent, mode: Mode) -> Callable[[], list[Tensor]]:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            weights = layer._weights()
            return reference.layer(layer._cell, x, None, None, weights)

    module = Module()
    module.layer = layer
    return call_of(module, mode)


def measure(seconds: float = SECONDS) -> list[Row]:
    """A row for each cell and option, and each mode."""
    torch.set_num_threads(1)
    hidden_size, rows = SIZE[-1], []
    for (name, heads), mode in itertools.product(CELLS, MODES):
        torch.manual_seed(0)
        layer = elman.Recurrent(name, hidden_size, hidden_size, heads=heads)
        ours, plain = call_of(layer, mode), call_of(elman.LSTM(hidden_size, hidden_size), mode)
        theirs = by_reference(layer, mode)
        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-3)
        time, ratio = compare(ours, plain, seconds)
        _, slower = compare(ours, theirs, seconds)
        label = name if heads == 1 else f"{name}, heads={heads}"
        rows.append(Row(label, mode, time, 1 / ratio, slower))
    for (name, given), mode in itertools.product(OPTIONS.items(), MODES):
        ours = call_of(elman.LSTM(hidden_size, hidden_size, **given), mode)
        time, ratio = compare(ours, call_of(elman.LSTM(hidden_size, hidden_size), mode), seconds)
        rows.append(Row(f"LSTM, {name}", mode, time, 1 / ratio, None))
    return rows


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """The titles and the cells."""
    titles = [f"(N, L, H) = {SIZE}, 1 thread", "mode", "elman µs", "of our LSTM", "reference"]
    return titles, [
        [
            row.name,
            row.mode,
            f"{row.ours:,.0f}",
            f"{row.of_lstm:.2f}x",
            "" if row.reference is None else f"{row.reference:.1f}x",
        ]
        for row in rows
    ]


if __name__ == "__main__":
    print(markdown_table(*table(measure())))
