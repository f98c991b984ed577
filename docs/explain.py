"""The sample in explain.md and the pages that it shows, made by running elman.explain.

    python docs/explain.py

writes the part of explain.md between its two marks, and explain/lstm.html and explain/lstm-zh.html.
These pages need nothing beside them, so each has a copy of elman/explanation/page.css: run this
again after a change there.
"""

import re
from pathlib import Path

import torch

import elman
from elman.explanation import Explanation

PAGE = Path(__file__).with_suffix(".md")
MARKS = ("<!-- made by explain.py -->", "<!-- end -->")


def explanation(lang: str) -> Explanation:
    """Explain the layer of the page."""
    torch.manual_seed(0)
    lstm = elman.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
    return elman.explain(lstm, torch.randn(3, 5, 10), lengths=[5, 3, 0], lang=lang)


def sample() -> str:
    """The beginning of what is printed, as a block of text."""
    lines = explanation("en").text.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("The sequences of a batch"))
    return "```text\n" + "\n".join(lines[:end]).rstrip() + "\n...\n```\n"


def pages() -> dict[Path, str]:
    """The pages that are shown, by their files."""
    folder = PAGE.with_suffix("")
    return {
        folder / f"{name}.html": explanation(lang).html
        for lang, name in (("en", "lstm"), ("zh", "lstm-zh"))
    }


def written(page: str) -> str:
    """The page with the sample as it is now."""
    begin, end = map(re.escape, MARKS)
    replacement = f"{MARKS[0]}\n{sample()}{MARKS[1]}"
    return re.sub(f"{begin}.*?{end}", lambda _: replacement, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for file, html in pages().items():
        file.write_text(html, encoding="utf-8")
