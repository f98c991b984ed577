"""The picture of a layer: unrolled over time, layers upwards, directions, lengths and padding.

What is drawn is decided here, once; `characters` draws it for a terminal and `svg` for a page. Of a
box each tells the same: it is one layer at one time step, `output` is what leaves the highest row
upwards, h_n what leaves a row at its side.
"""

from html import escape

from elman.explanation.blocks import Box, Picture
from elman.explanation.call import Call
from elman.explanation.checks import joined
from elman.explanation.hand import by_hand
from elman.language import say

__all__ = ["characters", "picture", "svg"]

_TIMES, _LAYERS, _ROWS = 5, 4, 8


def picture(call: Call, language: str | None) -> Picture:
    """Return what is drawn of a call, with the numbers of its longest sequence."""
    d, k, length = call.directions, call.num_layers, call.seq_len
    times = tuple(range(length)) if length <= _TIMES else (0, 1, 2, length - 1)
    layers = tuple(range(k)) if k <= _LAYERS else (0, 1, k - 1)
    row = max(range(call.batch), key=lambda n: call.steps[n], default=None)
    boxes = []
    hand = by_hand(call)
    for layer in layers:
        for t in times:
            values = tuple(
                f"{letter}{'' if d == 1 else ('→', '←')[j]} = {_numbers(state[t, row])}"
                for j in range(d)
                for letter, state in zip(call.cell.states, hand[layer][j], strict=True)
                if row is not None and t < len(state)
            )
            steps = call.steps[row] if row is not None else length
            last = tuple(t == (0 if j else steps - 1) for j in range(d))
            boxes.append(Box(layer, t, values, last, t >= steps))
    letters = call.cell.states
    names, more = (letters, "") if len(letters) < 3 else (letters[0], ", ...")
    first = {
        (layer, j): ", ".join(f"{s}_0[{layer * d + j}]" for s in names) + more
        if call.hx is not None
        else "0"
        for layer in layers
        for j in range(d)
    }
    ends = {
        (layer, j): ", ".join(f"{s}_n[{layer * d + j}]" for s in names) + more
        for layer in layers
        for j in range(d)
    }
    batch = "" if call.form == "single" else f"N={call.batch}, "
    rows = tuple(enumerate(call.steps))[:_ROWS] if call.lengths is not None else ()
    words = {
        "time": say("time", language=language),
        "layer": say("layer", language=language),
        "step": say("a step", language=language),
        "last": say("the last step of a sequence, where h_n is taken", language=language),
        "padding": say("padding: not read, output is 0", language=language),
        "hover": say("Point at a box to see its numbers.", language=language),
        "sequence": say("sequence", language=language),
    }
    caption = say(
        "Width: L = {length} time steps, from the data. Height: num_layers = {layers}. Each box "
        "is {width} numbers wide: hidden_size. What leaves at the top is output, at every step; "
        "what leaves at the side is the state h_n, once.",
        language=language,
        length=length,
        layers=k,
        width=call.hidden_size,
    )
    if d == 2:
        sides = say(
            "The upper line of a box runs forward, the lower one backward and ends at t = 0. "
            "output has both side by side.",
            language=language,
        )
        caption = joined((caption, sides), language)
    return Picture(
        names,
        times,
        layers,
        d,
        tuple(boxes),
        f"input[t] ({batch}H_in={call.input_size})",
        f"output[t] ({batch}D*H_out={d * call.width})",
        first,
        ends,
        rows,
        len(rows) < call.batch and bool(rows),
        length,
        words,
        caption,
    )


def _numbers(values: object) -> str:
    numbers = [float(v) for v in values]  # type: ignore[attr-defined]
    shown = ", ".join(f"{v:.2f}" for v in numbers[:4])
    return f"[{shown}{', ...' if len(numbers) > 4 else ''}]"


# --- characters ---------------------------------------------------------------------------------

Piece = tuple[str, str]  # some characters, and what they are of


def characters(drawn: Picture) -> list[list[Piece]]:
    """Return the picture as lines of pieces, each with its kind, at most 79 characters wide."""
    left = max(10, *(len(text) for text in (*drawn.begins.values(), *drawn.ends.values()))) + 1
    margin = " " * left + "    "
    gaps = [b - a > 1 for a, b in zip(drawn.times, drawn.times[1:], strict=False)]

    def across(marks: list[str], kind: str) -> list[Piece]:
        pieces: list[Piece] = [(margin, "")]
        for i, mark in enumerate(marks):
            pieces.append((mark.center(5), kind))
            if i < len(gaps):
                pieces.append((" " * (7 if gaps[i] else 3), ""))
        return pieces

    labels = [f"t={t}" for t in drawn.times]
    arrows = ["▲"] * len(drawn.times)
    lines: list[list[Piece]] = [[(margin, ""), (drawn.output, "output")], across(arrows, "output")]
    previous = None
    for layer in reversed(drawn.layers):
        if previous is not None:
            between = ["▲"] * len(drawn.times)
            if previous - layer > 1:
                between = ["⋮"] * len(drawn.times)
            lines.append(across(between, "line"))
        previous = layer
        lines += _row(drawn, layer, left, gaps)
    lines += [across(arrows, "line"), [(margin, ""), (drawn.input, "input")]]
    lines.append([*across(labels, "dim"), (f"   {drawn.words['time']} →", "dim")])
    if drawn.rows:
        lines += [[], *_lengths(drawn)]
    return lines


def _row(drawn: Picture, layer: int, left: int, gaps: list[bool]) -> list[list[Piece]]:
    boxes = [drawn.box(layer, t) for t in drawn.times]
    top = layer == drawn.layers[-1]

    def edge(begin: str, end: str, label: str = "") -> list[Piece]:
        pieces: list[Piece] = [(f"{label:{left}}    ", "dim")]
        for i, box in enumerate(boxes):
            kind = "state" if any(box.ends) else "output" if top else "box"
            pieces.append((f"{begin}───{end}", kind))
            if i < len(gaps):
                pieces.append((" " * (7 if gaps[i] else 3), ""))
        return pieces

    title = f"{drawn.words['layer']} {layer}"
    # Chinese letters are two columns wide.
    wide = sum(ord(c) > 0x2E7F for c in title)
    top_edge = edge("┌", "┐", title)
    top_edge[0] = (title + " " * (left + 4 - len(title) - wide), "dim")
    lines = [top_edge]
    inner = " ".join(drawn.states).center(3)
    for j in range(drawn.directions):
        begin, end = drawn.begins[layer, j], drawn.ends[layer, j]
        ahead = j == 0
        side = (begin, "dim") if ahead else (end, "state")
        pieces: list[Piece] = [
            (f"{side[0]:>{left}}", side[1]),
            (" ──▶" if ahead else " ◀──", "line"),
        ]
        for i, box in enumerate(boxes):
            kind = "state" if box.ends[j] else "output" if top else "box"
            pieces += [("│", kind), (inner, kind), ("│", kind)]
            if i < len(gaps):
                arrow = "──▶" if ahead else "◀──"
                if gaps[i]:
                    arrow = "─ ⋯ ──▶" if ahead else "◀── ⋯ ─"
                pieces.append((arrow, "line"))
        side = (end, "state") if ahead else (begin, "dim")
        pieces += [("──▶ " if ahead else "◀── ", "line"), side]
        lines.append(pieces)
    lines.append(edge("└", "┘"))
    return lines


def _lengths(drawn: Picture) -> list[list[Piece]]:
    marks = {"step": "■", "last": "◆", "padding": "·"}
    lines: list[list[Piece]] = []
    shown = min(drawn.seq_len, 48)
    for n, steps in drawn.rows:
        pieces: list[Piece] = [(f"  n={n:<3}", "dim")]
        for t in range(shown):
            kind = "padding" if t >= steps else "last" if t == steps - 1 else "step"
            pieces.append((f"{marks[kind]} ", {"last": "state", "step": "box"}.get(kind, "dim")))
        pieces.append((" ⋯" if shown < drawn.seq_len else "", "dim"))
        lines.append([*pieces, (f" {steps}", "dim")])
    if drawn.has_more_rows:
        lines.append([("  ⋮", "dim")])
    lines += [[(f"  {marks[kind]} {drawn.words[kind]}", "dim")] for kind in marks]
    return lines


# --- SVG ----------------------------------------------------------------------------------------

# In units of the drawing: the width of a box, from box to box, and added where steps are left out;
# the height of a line of a box, and between layers.
_BOX, _STEP, _GAP = 76, 118, 60
_LINE, _SPACE = 30, 46


def svg(drawn: Picture) -> str:
    """Return the picture as SVG, whose colours are those of the page and whose boxes answer."""
    d = drawn.directions
    side = 26 + 9 * max(len(t) for t in (*drawn.begins.values(), *drawn.ends.values()))
    xs: list[float] = []
    x = float(side + 34)
    for i, t in enumerate(drawn.times):
        if i and t - drawn.times[i - 1] > 1:
            x += _GAP
        xs.append(x)
        x += _STEP
    width = xs[-1] + _BOX + side + 34 if xs else 2 * side
    high = _LINE * d + 14
    tops = {}
    y = 64
    for position, layer in enumerate(reversed(drawn.layers)):
        if position and drawn.layers[-position] - layer > 1:
            y += 18
        tops[layer] = y
        y += high + _SPACE
    bottom = y
    parts = [*_arrows(drawn, xs, tops, high), *_boxes(drawn, xs, tops, high)]
    parts.append(_word(xs[0] if xs else side, 22, drawn.output, "output", "start"))
    for i, t in enumerate(drawn.times):
        centre = xs[i] + _BOX / 2
        parts.append(_path(f"M{centre} {tops[drawn.layers[-1]] - 2}V34", "output"))
        parts.append(_path(f"M{centre} {bottom - 4}V{tops[drawn.layers[0]] + high + 8}", "line"))
        parts.append(_word(centre, bottom + 14, f"t={t}", "quiet"))
    parts.append(_word(xs[0] if xs else side, bottom + 38, drawn.input, "input", "start"))
    end = (xs[-1] if xs else side) + _BOX + 24
    parts.append(_word(end, bottom + 14, f"{drawn.words['time']} →", "quiet", "start"))
    height = float(bottom + 50)
    if drawn.rows:
        pieces, height = _svg_lengths(drawn, side, height)
        parts += pieces
    tips = height + 8
    parts.append(_word(side, tips + 14, drawn.words["hover"], "quiet hint", "start"))
    body = "\n".join(parts).replace("TIP_Y", str(tips + 14)).replace("TIP_X", str(side))
    height = tips + 22 + 20 * (d * len(drawn.states))
    label = escape(drawn.caption.replace("`", ""))
    return (
        f'<svg class="unrolled" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg">\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" '
        'fill="context-stroke"/></marker></defs>\n'
        f"{body}\n</svg>"
    )


def _path(line: str, kind: str) -> str:
    return f'<path class="{kind}" d="{line}" marker-end="url(#head)"/>'


def _word(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _arrows(drawn: Picture, xs: list[float], tops: dict[int, int], high: int) -> list[str]:
    parts = []
    for layer, top in tops.items():
        for j in range(drawn.directions):
            y = top + 7 + _LINE * j + _LINE / 2
            ahead = j == 0
            begin, end = drawn.begins[layer, j], drawn.ends[layer, j]
            left, right = xs[0] - 6, xs[-1] + _BOX + 6
            if ahead:
                parts.append(_path(f"M{left - 32} {y}H{left}", "line"))
                parts.append(_word(left - 38, y + 5, begin, "quiet", "end"))
                parts.append(_path(f"M{right} {y}H{right + 30}", "state"))
                parts.append(_word(right + 38, y + 5, end, "state", "start"))
            else:
                parts.append(_path(f"M{right + 32} {y}H{right}", "line"))
                parts.append(_word(right + 38, y + 5, begin, "quiet", "start"))
                parts.append(_path(f"M{left} {y}H{left - 30}", "state"))
                parts.append(_word(left - 38, y + 5, end, "state", "end"))
            for i in range(len(xs) - 1):
                a, b = xs[i] + _BOX + 4, xs[i + 1] - 6
                gap = drawn.times[i + 1] - drawn.times[i] > 1
                line = f"M{a} {y}H{b}" if ahead else f"M{b} {y}H{a + 2}"
                parts.append(_path(line, "line gap" if gap else "line"))
        if layer != drawn.layers[0]:
            below = drawn.layers[drawn.layers.index(layer) - 1]
            for x in xs:
                line = f"M{x + _BOX / 2} {tops[below] - 2}V{top + high + 8}"
                parts.append(_path(line, "line" if layer - below == 1 else "line gap"))
    return parts


def _boxes(drawn: Picture, xs: list[float], tops: dict[int, int], high: int) -> list[str]:
    parts = []
    for layer, top in tops.items():
        title = f"{drawn.words['layer']} {layer}"
        parts.append(_word(10, top - 8, title, "quiet", "start"))
        for x, t in zip(xs, drawn.times, strict=True):
            box = drawn.box(layer, t)
            kind = "top " * (layer == drawn.layers[-1]) + "end" * any(box.ends)
            words = []
            for j in range(drawn.directions):
                y = top + 7 + _LINE * j + _LINE / 2 + 5
                name = "state" if box.ends[j] else ""
                arrow = "" if drawn.directions == 1 else (" →", " ←")[j]
                words.append(_word(x + _BOX / 2, y, ", ".join(drawn.states) + arrow, name))
            tips = (
                "".join(
                    f'<tspan x="TIP_X" dy="{20 * bool(i)}">{escape(value)}</tspan>'
                    for i, value in enumerate(
                        (f"{title}, t={t}:  {box.values[0]}", *box.values[1:])
                    )
                )
                if box.values
                else ""
            )
            hint = escape("\n".join((f"{title}, t={t}", *box.values)))
            parts.append(
                f'<g class="box {kind.strip()}" tabindex="0"><title>{hint}</title>'
                f'<rect x="{x:g}" y="{top}" width="{_BOX}" height="{high}" rx="9"/>'
                f'{"".join(words)}<text class="tip" x="TIP_X" y="TIP_Y">{tips}</text></g>'
            )
    return parts


def _svg_lengths(drawn: Picture, side: int, top: float) -> tuple[list[str], float]:
    parts, y = [], top + 14
    size = 18
    shown = min(drawn.seq_len, 24)
    for n, steps in drawn.rows:
        parts.append(_word(side - 12, y + 14, f"{drawn.words['sequence']} {n}", "quiet", "end"))
        for t in range(shown):
            kind = "padding" if t >= steps else "last" if t == steps - 1 else "step"
            x = side + t * (size + 4)
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y:g}" width="{size}" height="{size}" rx="4"/>'
            )
        more = "⋯ " if shown < drawn.seq_len else ""
        x = side + shown * (size + 4) + 8
        parts.append(_word(x, y + 14, f"{more}{steps}", "quiet", "start"))
        y += size + 6
    if drawn.has_more_rows:
        parts.append(_word(side, y + 12, "⋮", "quiet"))
        y += 18
    for kind in ("step", "last", "padding"):
        parts.append(
            f'<rect class="{kind}" x="{side}" y="{y + 8:g}" width="14" height="14" rx="3"/>'
        )
        parts.append(_word(side + 22, y + 20, drawn.words[kind], "quiet", "start"))
        y += 22
    return parts, y + 14
