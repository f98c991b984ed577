"""Draws the pictures of the pages, each from a real run: `python docs/pictures.py [NAME ...]`.

A picture of a Learn page runs the code of that page and draws what it computed, so the two cannot
differ. It is drawn once for each language. The picture of speed is drawn from bench/RESULTS.md.
"""

import contextlib
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

import elman

DOCS = Path(__file__).parent
FOLDERS = {"en": DOCS / "learn", "zh": DOCS / "zh"}
INK = "#010203"  # becomes the colour of text: dark on a light page, light on a dark one
BLUE, ORANGE, GREEN, PINK, VIOLET, GREY = (
    *("#4a78d4", "#d9722b", "#2f9e6e", "#d0508f", "#8a63d2", "#909090"),
)
STYLE = "<style>svg{color:#222}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
mpl.rcParams |= {
    "svg.fonttype": "none",
    "svg.hashsalt": "elman",
    "font.family": ["DejaVu Sans", "Noto Sans CJK JP"],  # only to measure; the reader's are used
    "font.size": 11,
    "path.simplify_threshold": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": False,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}

Names = dict[str, Any]
Picture = Callable[[Names, Callable[[str], str]], Figure]
LEARN: dict[str, tuple[str, Picture]] = {}  # by name: the page whose code it draws, and how

CHINESE = {
    "time step": "时间步",
    "epoch": "轮数",
    "loss": "损失",
    "true": "真实值",
    "forecast": "预测",
    "past": "过去",
    "one-step forecast": "单步预测",
    "steps after the last known value": "最后一个已知值之后的步数",
    "LSTM by hand": "手写 LSTM",
    "many to one": "多对一",
    "many to many": "多对多",
    "sequence to sequence": "序列到序列",
    "value": "输入值",
    "answer": "答案",
    "padding": "填充",
    "encoder": "编码器",
    "decoder": "解码器",
}


def blocks(page: Path) -> list[str]:
    """The Python of a page, with as many lines before it as in the page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: m.start(1)].count("\n") + m[1] for m in found]


def run(page: Path) -> Names:
    """Run the Python of a page in an empty folder, and return its names."""
    names: Names = {"__name__": page.stem}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        here = Path.cwd()
        os.chdir(folder)
        try:
            for code in blocks(page):
                exec(compile(code, str(page), "exec"), names)
        finally:
            os.chdir(here)
    return names


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a small SVG whose text is text, in the colours of the reader's page."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", text).replace(INK, "currentColor")
    head, tail = text.split("<defs>", 1)
    path.write_text(f"{head}{STYLE}<defs>{tail}", encoding="utf-8")


def picture(page: str) -> Callable[[Picture], Picture]:
    """Make a function the picture that has its name, of the code of a page."""

    def add(draw: Picture) -> Picture:
        LEARN[draw.__name__] = (page, draw)
        return draw

    return add


# --- drawings of networks -----------------------------------------------------------------------


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A drawing surface in which one unit is the distance of two boxes."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_aspect("equal")
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, color: str = INK, **style: Any) -> None:
    size = 0.56
    corner = (x - size / 2, y - size / 2)
    options = {"fill": False, "edgecolor": color, "linewidth": 1.2} | style
    axes.add_patch(
        FancyBboxPatch(corner, size, size, boxstyle="round,pad=0,rounding_size=.09", **options)
    )
    axes.text(x, y, text, ha="center", va="center")


def frame(axes: Axes, left: float, bottom: float, right: float, top: float, **style: Any) -> None:
    options = {"fill": False, "linewidth": 2.2} | style
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), right - left, top - bottom,
            boxstyle="round,pad=0,rounding_size=.14", **options,
        )
    )  # fmt: skip


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "color": INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def unrolled(axes: Axes, layers: int, steps: int, left: float = 0) -> None:
    """Boxes of h, with the inputs below and the states that come in at the left."""
    for k in range(layers):
        axes.text(left - 1, k, f"h_0[{k}]" if layers > 1 else "h_0", ha="center", va="center")
        for t in range(steps):
            box(axes, left + t, k, f"h$_{{{t + 1}}}$")
            arrow(axes, (left + t - 0.68, k), (left + t - 0.3, k))
            arrow(axes, (left + t, k - 0.7), (left + t, k - 0.3))
    for t in range(steps):
        axes.text(left + t, -0.9, f"x$_{{{t + 1}}}$", ha="center", va="center")


@picture("network")
def network(names: Names, say: Callable[[str], str]) -> Figure:
    steps, layers = len(names["output"]), len(names["h_n"])
    figure, axes = sheet(5.4, 3.2)
    unrolled(axes, layers, steps)
    for t in range(steps):
        arrow(axes, (t, layers - 0.7), (t, layers - 0.3))
        axes.text(t, layers - 0.15, f"output[{t}]", ha="center", va="center", fontsize=9.5)
    axes.annotate(
        "", (steps - 0.6, -1.3), (-0.4, -1.3), arrowprops={"arrowstyle": "->", "color": GREY}
    )
    axes.text((steps - 1) / 2, -1.52, say("time step"), ha="center", va="center", color=GREY)
    axes.set(xlim=(-1.5, steps - 0.3), ylim=(-1.7, layers + 0.1))
    return figure


@picture("output")
def output(names: Names, say: Callable[[str], str]) -> Figure:
    steps, layers = 4, names["rnn"].num_layers
    figure, axes = sheet(5.4, 3.2)
    unrolled(axes, layers, steps)
    top = layers - 1
    frame(axes, -0.42, top - 0.38, steps - 0.58, top + 0.38, edgecolor=BLUE)
    frame(axes, steps - 1.4, -0.4, steps - 0.6, top + 0.48, edgecolor=ORANGE, linestyle="--")
    axes.text(-0.42, top + 0.58, "output", color=BLUE, weight="bold")
    axes.text(steps - 0.5, -0.1, "h_n", color=ORANGE, weight="bold")
    axes.text((steps - 1) / 2, -1.3, say("time step") + " →", ha="center", va="center", color=GREY)
    axes.set(xlim=(-1.5, steps), ylim=(-1.5, layers - 0.1))
    return figure


@picture("ragged")
def ragged(names: Names, say: Callable[[str], str]) -> Figure:
    lengths, steps = names["lengths"], names["x"].shape[1]
    figure, axes = sheet(4.6, 2.5)
    for n, length in enumerate(lengths):
        row = len(lengths) - 1 - n
        axes.text(-0.9, row, f"n = {n}", ha="center", va="center")
        for t in range(steps):
            last = {"edgecolor": ORANGE, "linewidth": 2.2} if t == length - 1 else {}
            if t < length:
                box(axes, t, row, f"h$_{{{t + 1}}}$", **last)
            else:
                box(axes, t, row, "0", edgecolor=GREY, hatch="////", alpha=0.5)
    axes.text(0, -0.75, "h_n", color=ORANGE, weight="bold", ha="center", va="center")
    axes.text(steps - 1, -0.75, say("padding"), color=GREY, ha="center", va="center")
    axes.set(xlim=(-1.4, steps - 0.5), ylim=(-1, len(lengths) - 0.5))
    return figure


@picture("tasks")
def tasks(names: Names, say: Callable[[str], str]) -> Figure:
    figure, axes = sheet(5, 4.4)
    read, written = names["source"].shape[0], names["target"].shape[0]

    def write(x: float, y: float, text: str, **style: Any) -> None:
        axes.text(x, y, text, **({"ha": "center", "va": "center"} | style))

    def chain(left: float, y: float, steps: int, answers: Iterable[int]) -> None:
        for t in range(steps):
            box(axes, left + t, y, "h")
            arrow(axes, (left + t, y - 0.7), (left + t, y - 0.3))
            write(left + t, y - 0.9, f"x$_{{{t + 1}}}$")
            if t:
                arrow(axes, (left + t - 0.7, y), (left + t - 0.3, y))
        for t in answers:
            arrow(axes, (left + t, y + 0.3), (left + t, y + 0.7))
            write(left + t, y + 0.9, f"y$_{{{t + 1}}}$", color=ORANGE)

    chain(0, 3.6, 3, [2])
    write(1, 5.1, say("many to one"))
    chain(3.8, 3.6, 3, range(3))
    write(4.8, 5.1, say("many to many"))

    chain(0.4, 0, read, [])
    for t in range(written):
        x = read + t + 0.8
        box(axes, x, 0, "h", BLUE)
        arrow(axes, (x - (0.7 if t else 1.1), 0), (x - 0.3, 0))
        arrow(axes, (x, 0.3), (x, 0.7))
        write(x, 0.9, f"y$_{{{t + 1}}}$", color=ORANGE)
        arrow(axes, (x, -0.7), (x, -0.3))
        below, color = (f"y$_{{{t}}}$", ORANGE) if t else ("START", INK)
        write(x, -0.9, below, color=color, fontsize=9.5)
    write(0.4 + (read - 1) / 2, -1.35, say("encoder"), color=GREY)
    write(read + 0.8 + (written - 1) / 2, -1.35, say("decoder"), color=BLUE)
    write((read + written + 0.2) / 2, 1.5, say("sequence to sequence"))
    axes.set(xlim=(-0.5, 6.3), ylim=(-1.6, 5.4))
    return figure


# --- what was computed --------------------------------------------------------------------------


def plot(height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, height))
    axes = figure.subplots(rows, **({"sharex": True} | options))
    for each in np.atleast_1d(axes):
        each.grid(alpha=0.25)
    return figure, axes


@picture("hello")
def hello(names: Names, say: Callable[[str], str]) -> Figure:
    figure, axes = plot(3.4)
    colors = (GREY, INK, GREEN, PINK, BLUE, ORANGE)
    for (name, losses), color in zip(names["losses"].items(), colors, strict=True):
        style = {"linewidth": 5, "alpha": 0.5} if name == "RNNCell" else {}
        axes.plot(range(1, len(losses) + 1), losses, color=color, label=say(name), **style)
    axes.set(xlabel=say("epoch"), ylabel=say("loss"), ylim=(0, None))
    axes.legend()
    return figure


@picture("wave")
def wave(names: Names, say: Callable[[str], str]) -> Figure:
    figure, axes = plot(2.6)
    past, future = names["past"].flatten(), names["future"].flatten()
    axes.plot(range(-99, 1), past[-100:], color=GREY, linewidth=3, label=say("past"))
    axes.plot(range(1, 201), future, color=GREY, linewidth=3, alpha=0.5, label=say("true"))
    foretold = continued_sine(names)
    axes.plot(range(1, 201), foretold, color=BLUE, label=say("forecast"))
    axes.axvline(0.5, color=INK, linewidth=0.8)
    axes.set(xlabel=say("steps after the last known value"), ylim=(-1.25, 1.7))
    axes.legend(ncols=3, loc="upper right")
    return figure


def continued_sine(names: Names) -> torch.Tensor:
    return names["continued"](names["model"], names["past"], 200).flatten()


@picture("wave")
def shifted(names: Names, say: Callable[[str], str]) -> Figure:
    figure, (above, below) = plot(4.8, 2, sharex=False)
    steps = np.arange(300, 400)
    truth, forecast = names["truth"].flatten(), names["forecast"].flatten()
    for axes, part in ((above, slice(None)), (below, slice(60, 85))):
        axes.plot(steps[part], truth[part], color=GREY, linewidth=3, label=say("true"), marker=None)
        axes.plot(steps[part], forecast[part], color=BLUE, label=say("one-step forecast"))
    above.legend(loc="best")
    below.set(xlabel=say("time step"))
    return figure


def trace(
    names: Names, say: Callable[[str], str], gates: dict[str, torch.Tensor], shown: str, state: str
) -> Figure:
    """Draw one sequence: its value, two gates and the state of the unit that follows the answer."""
    n = 1
    value, flag = names["x"][:, n].unbind(-1)
    answer, states = names["answer"][:, n], gates[state]
    flat = torch.cat((names["answer"].reshape(1, -1), states.flatten(0, 1).T))
    fit = torch.corrcoef(flat)[0, 1:]
    unit = int(fit.abs().argmax())
    steps = np.arange(1, len(value) + 1)
    figure, (top, middle, bottom) = plot(5.2, 3)
    dots = {"marker": "o", "markersize": 3}
    top.plot(steps, value, color=GREY, **dots, label=say("value"))
    top.plot(steps, answer, color=ORANGE, drawstyle="steps-post", label=say("answer"))
    for name, color in zip(shown, (BLUE, GREEN), strict=True):
        middle.plot(steps, gates[name][:, n, unit], color=color, label=name, **dots)
    sign = float(fit[unit].sign())
    label = state if sign > 0 else f"-{state}"
    bottom.plot(steps, sign * states[:, n, unit], color=VIOLET, label=label, **dots)
    middle.set(ylim=(-0.05, 1.05))
    bottom.set(xlabel=say("time step"))
    for axes in (top, middle, bottom):
        for t in steps[flag == 1]:
            axes.axvline(t, color=INK, linestyle=":", linewidth=1)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@picture("gates")
def lstm(names: Names, say: Callable[[str], str]) -> Figure:
    return trace(names, say, names["gates"], "if", "c")


@picture("gates")
def traces(names: Names, say: Callable[[str], str]) -> Figure:
    return elman.plot_gates(names["inside"], names["flags"], sequence=1)


@picture("gates")
def gru(names: Names, say: Callable[[str], str]) -> Figure:
    return trace(names, say, names["gates_gru"], "rz", "h")


# --- speed --------------------------------------------------------------------------------------


RESULTS = DOCS.parent / "bench" / "RESULTS.md"
SIZES = {  # of a call in the table of results: what a reader calls it
    "(1, 100, 256)": "1 sequence,\n256 units",
    "(1, 1000, 64)": "1 long sequence,\n64 units",
    "(32, 100, 128)": "32 sequences,\n128 units",
    "(32, 1000, 64), ragged": "32 of different\nlengths, 64 units",
    "(64, 50, 512)": "64 sequences,\n512 units",
}


def shares(results: str) -> dict[tuple[str, str], dict[str, float]]:
    """What part of the machine's best each contender reaches, by mode and size.

    Read from the table that `make bench` writes, at its largest number of threads: the geometric
    mean over the cells. "others" is the best peer of each cell that is not torch.nn.
    """
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results.splitlines()
        if line.startswith("|")
    ]
    start = next(i for i, row in enumerate(rows) if row[0] == "(N, L, H)")
    titles = rows[start]
    most = max(int(row[2]) for row in rows[start + 2 :] if len(row) == len(titles))
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows[start + 2 :]:
        size = row[0].partition(" ")[2]
        if len(row) != len(titles) or size not in SIZES or int(row[2]) != most:
            continue
        ours = float(row[titles.index("of bound")].rstrip("%")) / 100
        ratios = {
            title.removesuffix(" µs"): float(row[i + 1].rstrip("x"))
            for i, title in enumerate(titles)
            if title.endswith(" µs") and titles[i + 1] == "ratio" and row[i + 1]
        }
        theirs = ratios.pop("torch.nn")
        parts = {"elman": ours, "others": ours / min(ratios.values()), "torch.nn": ours / theirs}
        for who, part in parts.items():
            found.setdefault((row[1], size), {}).setdefault(who, []).append(part)
    return {
        key: {who: math.prod(parts) ** (1 / len(parts)) for who, parts in by_who.items()}
        for key, by_who in found.items()
    }


def speed() -> Figure:
    """Draw how near to the machine's best each comes, from the results that are kept."""
    results = RESULTS.read_text(encoding="utf-8")
    found = shares(results)
    others = ", ".join(p for p in peers(results) if p != "torch.nn")
    looks = {
        "elman": (BLUE, "elman"),
        "others": (ORANGE, f"the best of {others}"),
        "torch.nn": (GREEN, "torch.nn"),
    }
    figure = Figure(figsize=(5.4, 7.2))
    panels = figure.subplots(2, sharex=True)
    for axes, mode in zip(panels, ("inference", "training"), strict=True):
        for y, size in enumerate(SIZES):
            for k, (who, (color, _)) in enumerate(looks.items()):
                part = 100 * found[mode, size][who]
                axes.barh(y + 0.27 * (k - 1), part, 0.25, color=color)
                shown = f"{part:.0f} %" if part >= 1 else "below 1 %"
                axes.text(part + 1, y + 0.27 * (k - 1), shown, va="center", fontsize=9)
        axes.axvline(100, color=INK, linewidth=2.5, clip_on=False)
        axes.set_yticks(range(len(SIZES)), list(SIZES.values()))
        axes.set(xlim=(0, 100), ylim=(len(SIZES) - 0.5, -0.6))
        axes.tick_params(axis="y", length=0)
        axes.set_title(mode, loc="left", fontsize=12, fontweight="bold")
    panels[0].text(99, -0.75, "as fast as this\nprocessor can be", ha="right", va="bottom")
    panels[1].set_xlabel("speed, in % of what this processor can do")
    bars = [Rectangle((0, 0), 1, 1, color=color) for color, _ in looks.values()]
    figure.legend(
        bars, [label for _, label in looks.values()], loc="lower left", bbox_to_anchor=(0.0, 0.93)
    )
    figure.subplots_adjust(hspace=0.22, top=0.88)
    return figure


def peers(results: str) -> list[str]:
    """The other contenders of the results, as the columns of the means name them."""
    line = next(x for x in results.splitlines() if x.startswith("| geometric mean over"))
    return [cell.strip() for cell in line.strip("|").split("|")][3:]


def main(wanted: list[str]) -> None:
    """Draw the pictures named, or all."""
    made: dict[str, Names] = {}
    for name, (page, draw) in LEARN.items():
        if wanted and name not in wanted:
            continue
        if page not in made:
            made[page] = run(FOLDERS["en"] / f"{page}.md")
        for language, folder in FOLDERS.items():
            elman.set_language(language)
            say = CHINESE.get if language == "zh" else dict[str, str]().get
            save(draw(made[page], lambda text, say=say: say(text, text)), folder / f"{name}.svg")
    if not wanted or "speed" in wanted:
        save(speed(), DOCS / "speed.svg")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
