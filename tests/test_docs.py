"""The pages: their code runs, no public name is missing, and the table of what works is true."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import elman

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


works = load("works")
QUICK = [row for rows in works.ROWS.values() for row in rows if row.quick]


def blocks(page: Path) -> list[str]:
    """The Python of a page, with as many lines before it as in the page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: m.start(1)].count("\n") + m[1] for m in found]


def title(page: Path) -> str:
    return str(page.relative_to(DOCS))


# What PyTorch says of its own code, and of the name of a size.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:# The axis name")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=title)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), names)


def test_every_public_name_is_in_the_reference() -> None:
    api = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: (\S+)$", api, re.MULTILINE)) | {"elman.__version__"}
    wanted = {f"elman.{name}" for name in elman.__all__ if name not in ("onnx", "runtime")}
    wanted |= {f"elman.onnx.{name}" for name in elman.onnx.__all__}
    wanted |= {f"elman.runtime.{name}" for name in elman.runtime.__all__}
    assert wanted - shown == set()
    assert "elman.__version__" in api


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f'"{title(page)}"' not in menu] == []


# --- the table of what works ------------------------------------------------------------------


def table() -> dict[str, list[str]]:
    """The cells of each line of the tables, by the first."""
    lines = re.findall(r"^\| (\w.*) \|$", works.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {first: rest for first, *rest in (re.split(r" (?<!\\)\| ", line) for line in lines)}


def test_the_table_has_all_that_is_tried() -> None:
    demands = [row.demand for rows in works.ROWS.values() for row in rows]
    assert list(table()) == [*demands, *works.MISTAKES]


@pytest.mark.parametrize("row", QUICK, ids=lambda row: row.demand)
def test_the_table_says_of_elman_what_is_so(row: works.Row) -> None:
    assert table()[row.demand][1] == works.verdicts(row, elman)


@pytest.mark.parametrize("mistake", works.MISTAKES)
def test_the_table_quotes_our_messages(mistake: str) -> None:
    assert table()[mistake][1] == works.attempt(works.MISTAKES[mistake], elman)


def test_a_wrong_result_is_not_called_working() -> None:
    def check(nn: ModuleType, layer: str) -> None:
        module = works.make(nn, layer)
        works.close(module(works.sequences()), module(works.sequences() + 1e-3))

    found = works.verdicts(works.Row("", check, works.LAYERS, True), elman)
    assert "AssertionError: wrong result" in found
    assert works.WORKS not in found
