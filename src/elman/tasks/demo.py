"""The demonstration: what recurrent networks do, in a minute, with no file needed.

Four parts: "hello" learns to say "ohlol" in six ways, from a cell stepped by hand to a GRU; a wave
is forecast with the state carried on; a text is learnt by the code of `elman train text`; and the
same models are timed with these layers and with PyTorch's own.
"""

import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import elman
from elman.bench import DISTURBED, seconds_elsewhere, take_turns
from elman.tasks import text
from elman.tasks.display import Display
from elman.tasks.plot import new_figure, save_figure
from elman.tasks.terminal import printable
from elman.tasks.text.model import TextModel
from elman.tasks.trained import load

__all__ = ["forecast", "show", "spell", "ways_to_spell"]


def show(quick: bool = False, out: Path | None = None) -> Path:
    """Run all of it, print what happens, and keep plots and the trained model.

    Args:
        quick: do the same on smaller models and for a shorter time, about ten seconds.
        out: a directory for what is kept; None takes runs/demo, or runs/demo-2 if that exists, and
            so on.

    Returns:
        The directory.
    """
    console = Console(highlight=False, markup=False)
    out = out or next(p for p in _numbered(Path("runs", "demo")) if not p.exists())
    out.mkdir(parents=True)
    console.print(f"Everything made here is kept in {out}.", soft_wrap=True)
    with torch.random.fork_rng(devices=[]):
        _show_spelling(console, out / "hello.png")
        _show_forecast(console, out / "sine.png", updates=150 if quick else 600)
        model = _show_text(console, out, seconds=3.0 if quick else 25.0)
        _show_speed(console, model, seconds=0.3 if quick else 1.5)
    console.print("\nThe plots:")
    for plot in ("hello.png", "sine.png", "text/loss.png"):
        console.print(f"  {out / plot}", soft_wrap=True)
    console.print(f"Write with the text model: elman sample {out / 'text'}", soft_wrap=True)
    return out


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))


# --- "hello" -> "ohlol" ---------------------------------------------------------------------------

LETTERS = "ehlo"
HELLO = torch.tensor([LETTERS.index(letter) for letter in "hello"])
OHLOL = torch.tensor([LETTERS.index(letter) for letter in "ohlol"])
SEED = 3  # for each way; with some other seeds four units are not there yet after 15 epochs


class ByCell(nn.Module):
    """An RNNCell stepped letter by letter; its four units are the scores of the four letters."""

    def __init__(self, layers: ModuleType) -> None:
        """Take the cell from `layers`: elman or torch.nn."""
        super().__init__()
        self.cell = layers.RNNCell(input_size=4, hidden_size=4)

    def forward(self, ids: Tensor) -> Tensor:
        """Read letters, (L,), and score the letter for each, (L, 4)."""
        scores = []
        h = None  # no letter was read yet: a state of zeros
        for x in F.one_hot(ids, 4).float():
            h = self.cell(x, h)  # x (4,), h (4,): the new state is made of both
            scores.append(h)
        return torch.stack(scores)


class ByLayer(nn.Module):
    """An RNN, which is the loop over the letters with the cell inside it."""

    def __init__(self, layers: ModuleType) -> None:
        """Take the layer from `layers`: elman or torch.nn."""
        super().__init__()
        self.rnn = layers.RNN(input_size=4, hidden_size=4)

    def forward(self, ids: Tensor) -> Tensor:
        """Read letters, (L,), and score the letter for each, (L, 4)."""
        scores: Tensor
        scores, _ = self.rnn(F.one_hot(ids, 4).float())
        return scores


class Embedded(nn.Module):
    """Ten learnt numbers for each letter, any recurrent layer, and a Linear that scores."""

    def __init__(self, layer: nn.Module) -> None:
        """Put `layer`, from 10 features to 8, between the embedding and the Linear."""
        super().__init__()
        self.embedding = nn.Embedding(4, 10)
        self.layer = layer
        self.linear = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Read letters, (L,), and score the letter for each, (L, 4)."""
        output, _ = self.layer(self.embedding(ids))
        scores: Tensor = self.linear(output)
        return scores


class LSTMByHand(nn.Module):
    """The equations of the LSTM, with PyTorch's operations."""

    def __init__(self) -> None:
        """Make one Linear for the letter and another for the state: they share nothing."""
        super().__init__()
        self.of_input = nn.Linear(10, 4 * 8)
        self.of_state = nn.Linear(8, 4 * 8)

    def forward(self, input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read (L, 10); return the output, (L, 8), and the last state, as a layer does."""
        h = c = torch.zeros(8)
        output = []
        for x in input:
            i, f, g, o = (self.of_input(x) + self.of_state(h)).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            output.append(h)
        return torch.stack(output), (h, c)


def ways_to_spell(layers: ModuleType = elman) -> dict[str, Callable[[], nn.Module]]:
    """Return ways to make a model that turns letters, (L,), into scores of letters, (L, 4).

    Args:
        layers: where the recurrent layers are taken from: elman or torch.nn.
    """
    return {
        "RNNCell": lambda: ByCell(layers),
        "RNN": lambda: ByLayer(layers),
        "Embedding RNN": lambda: Embedded(layers.RNN(10, 8, num_layers=2)),
        "LSTM by hand": lambda: Embedded(LSTMByHand()),
        "LSTM": lambda: Embedded(layers.LSTM(10, 8)),
        "GRU": lambda: Embedded(layers.GRU(10, 8)),
    }


def spell(model: nn.Module, epochs: int = 15) -> list[tuple[str, float]]:
    """Train a model to turn "hello" into "ohlol".

    Args:
        model: one of `ways_to_spell`.
        epochs: how many updates.

    Returns:
        For each epoch what the model spelt, and its loss.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> spell(ways_to_spell()["GRU"]())[-1][0]
        'ohlol'
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    told = []
    for _ in range(epochs):
        scores = model(HELLO)
        loss = F.cross_entropy(scores, OHLOL)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        told.append(("".join(LETTERS[i] for i in scores.argmax(dim=1)), loss.item()))
    return told


def _show_spelling(console: Console, plot: Path) -> None:
    told = {}
    for name, make in ways_to_spell().items():
        torch.manual_seed(SEED)
        told[name] = spell(make())
    console.print('\n1. "hello" learns to say "ohlol": what each way spells, and its loss\n')
    table = Table("epoch", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in told:
        table.add_column(name)
    for epoch, row in enumerate(zip(*told.values(), strict=True), start=1):
        table.add_row(str(epoch), *(f"{word} {loss:.2f}" for word, loss in row))
    console.print(table)
    console.print("RNNCell and RNN start from the same weights: an RNN is the loop over its cell.")

    figure = new_figure(8, 4.5)
    axes = figure.add_subplot(
        xlabel="epochs", ylabel="loss (nats per letter)", title='"hello" to "ohlol"'
    )
    for name, spelt in told.items():
        axes.plot(range(1, len(spelt) + 1), [loss for _, loss in spelt], label=name)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, plot)


# --- a wave ---------------------------------------------------------------------------------------

STEPS_PER_WAVE = 50
CHUNK = 25  # steps between two updates: half a wave, so that the rest must be in the state


class Forecaster(nn.Module):
    """An RNN over one feature, and a Linear that says what comes next."""

    def __init__(self, layers: ModuleType = elman) -> None:
        """Take the layer from `layers`: elman or torch.nn."""
        super().__init__()
        self.rnn = layers.RNN(input_size=1, hidden_size=32)
        self.linear = nn.Linear(32, 1)

    def forward(self, input: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read (L, 1) on from the state h, (1, 32); return the next values, (L, 1), and state."""
        output, h = self.rnn(input, h)
        return self.linear(output), h


def forecast(updates: int, steps: int = 4 * STEPS_PER_WAVE) -> tuple[Tensor, Tensor]:
    """Train on a sine wave, one step ahead, then let the model go on by itself.

    The state is carried from one update to the next, and detached: no gradient flows back from one
    chunk into another, but what was read is not forgotten. In the end the model reads what it has
    itself foretold.

    Args:
        updates: updates of the weights, each on the next half of a wave.
        steps: how far to forecast.

    Returns:
        What the model foretold, (steps,), and what the wave did, (steps,).
    """
    torch.manual_seed(0)
    length = updates * CHUNK
    wave = torch.sin(torch.arange(length + steps + 1) * (2 * math.pi / STEPS_PER_WAVE))[:, None]
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    h = None
    for start in range(0, length, CHUNK):
        foretold, h = model(wave[start : start + CHUNK], h)
        loss = F.mse_loss(foretold, wave[start + 1 : start + CHUNK + 1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        h = h.detach()
    said, value = [], wave[length : length + 1]
    with torch.no_grad():
        for _ in range(steps):
            value, h = model(value, h)
            said.append(value)
    return torch.cat(said).flatten(), wave[length + 1 :].flatten()


def _show_forecast(console: Console, plot: Path, updates: int) -> None:
    console.print("\n2. A wave, forecast one step at a time, each step from the one before\n")
    foretold, truth = forecast(updates)
    error = (foretold - truth).square().mean().sqrt().item()
    spread = truth.square().mean().sqrt().item()
    console.print(
        f"{len(truth)} steps ahead, {len(truth) // STEPS_PER_WAVE} waves: root-mean-square error"
        f" {error:.3f}; always saying 0 would have {spread:.3f}."
    )
    figure = new_figure(8, 3.5)
    axes = figure.add_subplot(xlabel="steps after the last value seen", ylabel="value")
    axes.plot(truth, color="0.7", linewidth=4, label="the wave")
    axes.plot(foretold, label="the forecast")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    save_figure(figure, plot)


# --- a text ---------------------------------------------------------------------------------------


_UPDATES_TO_LEARN = 30


def _show_text(console: Console, out: Path, seconds: float) -> TextModel:
    from pydoc_data.topics import topics

    console.print("\n3. English, learnt letter by letter from the help texts of Python itself\n")
    source = out / "topics.txt"
    source.write_text("\n".join(topics.values()), encoding="utf-8")
    with Display(console) as display:
        result = text.train([source], out=out / "text", max_time=seconds, report=display)
    if result.step < _UPDATES_TO_LEARN:
        console.print(
            f"The machine is busy: {result.step} updates are too few to learn to write. Run the"
            " demo again when it is idle.",
            soft_wrap=True,
        )
    else:
        written = "".join(text.sample(out / "text", length=300, temperature=0.7, seed=0))
        console.print("\nWhat the best weights write:\n")
        for line in printable(written).split("\n"):
            console.print(f"    {line}", style="dim")
    model = load(out / "text").model
    assert isinstance(model, TextModel)
    return model


# --- speed ----------------------------------------------------------------------------------------


def _show_speed(console: Console, model: TextModel, seconds: float) -> None:
    console.print(
        "\n4. Forward and backward through the same models, with elman and with torch.nn\n"
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    busy = False
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("model")
    for title in ("elman", "torch.nn", "times faster"):
        table.add_column(title, justify="right")
    for name, (ours, theirs) in _same_models(model).items():
        begun, before = time.perf_counter(), seconds_elsewhere()
        us, them = take_turns([ours, theirs], seconds)
        elsewhere = (seconds_elsewhere() - before) / (time.perf_counter() - begun)
        if torch.get_num_threads() + elsewhere > cores + DISTURBED:
            busy = True
            table.add_row(name, "busy", "busy", "")
            continue
        table.add_row(
            name, f"{us.median:,.0f} us", f"{them.median:,.0f} us", f"{them.median / us.median:.1f}"
        )
    console.print(table)
    console.print(f"Medians, in turns in one process, {torch.get_num_threads()} threads.")
    if busy:
        console.print(
            '"busy" is where other processes took the cores, and times would say nothing of the'
            " layers."
        )


def _same_models(model: TextModel) -> dict[str, tuple[Callable[[], None], ...]]:
    """Return for each model one pass through it, with elman's layers and with PyTorch's."""
    wave, chunk = torch.zeros(CHUNK, 1), torch.zeros(64, 32, dtype=torch.int64)
    twin = copy.deepcopy(model)
    twin.recurrent = nn.LSTM(model.recurrent.input_size, model.recurrent.hidden_size)
    hidden = model.recurrent.hidden_size
    passes: dict[str, tuple[Callable[[], None], ...]] = {}
    for way in ("RNNCell", "RNN", "LSTM", "GRU"):
        models = (ways_to_spell(layers)[way]() for layers in (elman, nn))
        passes[f'"hello", {way}'] = tuple(_pass(m, HELLO) for m in models)
    passes[f"wave, {CHUNK} steps"] = tuple(
        _pass(Forecaster(layers), wave, None) for layers in (elman, nn)
    )
    passes[f"text, LSTM of {hidden}, 64 x 32"] = (
        _pass(model, chunk, None),
        _pass(twin, chunk, None),
    )
    return passes


def _pass(model: nn.Module, *inputs: Tensor | None) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad()
        result = model(*inputs)
        output = result[0] if isinstance(result, tuple) else result
        output.sum().backward()

    return run
