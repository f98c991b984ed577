"""An explanation as a page: one HTML file without a script, which needs nothing beside it."""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from elman.explanation.blocks import Block, Checks, Code, Equations, Section, Table, Text
from elman.explanation.picture import svg

__all__ = ["fragment", "page"]


def page(title: str, sections: Sequence[Section], language: str) -> str:
    """Return a whole page."""
    code = {"zh": "zh-Hans"}.get(language, language)
    return (
        f'<!doctype html>\n<html lang="{code}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>body {{ margin: 0; }}</style>\n</head>\n<body>\n"
        f"{fragment(title, sections)}</body>\n</html>\n"
    )


def fragment(title: str, sections: Sequence[Section]) -> str:
    """Return what stands in the body of the page, with its styles: a notebook shows it as it is."""
    style = files("elman.explanation").joinpath("page.css").read_text("utf-8")
    parts = [f'<style>{style}</style>\n<div class="elman-explain">\n<h1>{escape(title)}</h1>']
    for section in sections:
        parts.append(f"<section>\n<h2>{escape(section.title)}</h2>")
        parts += [_drawn(block) for block in section.blocks]
        parts.append("</section>")
    return "\n".join(parts) + "\n</div>\n"


def _drawn(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_marked(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Code):
        return f"<p>{_marked(block.title)}:</p>\n<pre>{escape(block.text)}</pre>"
    if isinstance(block, Checks):
        return _checks(block)
    if isinstance(block, Equations):
        return _equations(block)
    return (
        f'<figure><div class="scroll">{svg(block)}</div>'
        f"<figcaption>{_marked(block.caption)}</figcaption></figure>"
    )


def _marked(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _table(block: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in block.head)
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{"name" if i == 0 else "text"}">{_cell(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in block.rows
    )
    kind = ' class="wide"' if len(block.head) > 2 else ""  # one under the other on a phone
    return f'<div class="scroll"><table{kind}><tr>{head}</tr>\n{rows}\n</table></div>'


# Sizes and numbers stand in the type of code.
def _cell(text: str) -> str:
    is_size = re.fullmatch(r"\(.*=.*\)|[-\d., ]+", text.strip())
    return f"<code>{escape(text)}</code>" if is_size else escape(text)


def _checks(block: Checks) -> str:
    rows = "\n".join(
        f'<li class="{"yes" if check.holds else "no"}"><span class="sign">'
        f"{'✓' if check.holds else '✗'}</span><div><code>{escape(check.code)}</code> "
        f'<b>{check.holds}</b><br><span class="why">{_marked(check.why)}</span></div></li>'
        for check in block.checks
    )
    title = f"<h3>{escape(block.title)}</h3>\n" if block.title else ""
    return f'{title}<ul class="checks">\n{rows}\n</ul>'


def _equations(block: Equations) -> str:
    lines = []
    for terms, meaning in block.lines:
        pieces = "".join(
            f'<span class="term"><span>{_letters(term)}</span><small>{escape(size)}</small></span>'
            if size
            else f'<span class="sign">{escape(term)}</span>'
            for term, size in terms
        )
        lines.append(
            f'<div class="equation"><div class="terms">{pieces}</div>'
            f'<span class="why">{escape(meaning)}</span></div>'
        )
    return f'<div class="equations scroll">{"".join(lines)}</div>'


# W_ii and h_(t-1) with what follows the underscore below the line
def _letters(term: str) -> str:
    return re.sub(r"_(\(t-1\)|[a-z]+)", r"<sub>\1</sub>", escape(term))
