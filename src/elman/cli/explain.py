"""The command `elman explain`: a layer or cell of the user's sizes, explained in the terminal."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from elman.language import LANGUAGES
from elman.tasks import InputError

__all__ = ["explain"]


class Kind(str, Enum):
    """What can be explained: the class, and as it is typed."""

    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"
    RNNCell = "rnncell"
    LSTMCell = "lstmcell"
    GRUCell = "grucell"


def explain(
    kind: Annotated[Kind, typer.Argument(help="What to explain.", show_choices=True)],
    input: Annotated[int, typer.Option(min=1, help="Features of each step.")] = 10,
    hidden: Annotated[int, typer.Option(min=1, help="Features of the state.")] = 20,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers. (default: 1)")] = None,
    bidirectional: Annotated[bool, typer.Option("--bidirectional", help="Two directions.")] = False,
    batch_first: Annotated[
        bool, typer.Option("--batch-first", help="(N, L, F) instead of (L, N, F).")
    ] = False,
    dropout: Annotated[
        float | None, typer.Option(min=0, max=1, help="Between layers. (default: 0)")
    ] = None,
    proj: Annotated[
        int | None, typer.Option(min=1, help="Features of the projected state of an LSTM.")
    ] = None,
    relu: Annotated[bool, typer.Option("--relu", help="An RNN with relu instead of tanh.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="N, sequences. (default: 3)")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="L, time steps. (default: 5)")] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="The steps of each sequence, as 5,3,0.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page there instead.")
    ] = None,
    lang: Annotated[
        str | None, typer.Option(metavar="en|zh", help="The language. (default: ELMAN_LANG, or en)")
    ] = None,
) -> None:
    """Explain a layer of your sizes: axes, states, equations, and what to do next."""
    is_cell = kind.value.endswith("cell")
    layer_only = {
        "layers": layers,
        "bidirectional": bidirectional,
        "batch_first": batch_first,
        "dropout": dropout,
        "steps": steps,
        "lengths": lengths,
    }
    given = [name for name, value in layer_only.items() if value]
    if is_cell and given:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} is for layers, and {kind.value} is a cell: leave it out")
    if proj is not None and kind.value != "lstm":
        raise InputError(f"--proj is for an LSTM, got {kind.value}: leave it out")
    if relu and not kind.value.startswith("rnn"):
        raise InputError(f"--relu is for an RNN, got {kind.value}: leave it out")
    if lang is not None and lang not in LANGUAGES:
        raise InputError(f"--lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    if html is not None and html.exists():
        raise InputError(f"{html} exists: name a new file, it is not written over")
    counts = None if lengths is None else _numbers(lengths)
    if counts is not None and (batch is not None or steps is not None):
        raise InputError(
            "--lengths says how many sequences and steps: leave out --batch and --steps"
        )

    import warnings

    import torch
    from rich.console import Console

    import elman
    from elman.explanation import explain as explain_module
    from elman.shapes import ShapeError

    options: dict[str, Any] = {"nonlinearity": "relu"} if relu else {}
    if not is_cell:
        options |= {
            "num_layers": layers or 1,
            "bidirectional": bidirectional,
            "batch_first": batch_first,
            "dropout": dropout or 0.0,
        }
    if proj is not None:
        options["proj_size"] = proj
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dropout in one layer: the explanation says it
            module = getattr(elman, kind.name)(input, hidden, **options)
        x = None
        if batch is not None or steps is not None:
            outer = [batch or 3] if is_cell else [steps or 5, batch or 3]
            x = torch.randn(*(outer[::-1] if batch_first else outer), input)
        told = explain_module(module, x, None, counts, lang)
    except ShapeError as error:
        raise InputError(str(error)) from error
    if html is not None:
        told.save(html)
        return
    console = Console(highlight=False)
    console.print(told, width=min(console.width, 100))


def _numbers(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0 or max(counts) < 1:
        raise InputError(f"--lengths must be numbers of steps such as 5,3,0, got {text!r}")
    return counts
