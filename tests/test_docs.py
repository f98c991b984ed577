"""The pages: their code runs and prints what they show, in both languages the same facts stand, no
public name is missing, and the tables of what works and of speed are true."""

import ast
import contextlib
import importlib.util
import io
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import elman

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def load(name: str, folder: Path = DOCS) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


works = load("works")
pictures = load("pictures")
blocks = pictures.blocks
QUICK = [row for rows in works.ROWS.values() for row in rows if row.quick]


def title(page: Path) -> str:
    return str(page.relative_to(DOCS))


def shown_output(page: Path, code: str) -> str | None:
    """The block of text that stands right below a block of code, if there is one."""
    below = page.read_text(encoding="utf-8").split(code.lstrip("\n") + "```\n", 1)[1]
    found = re.match(r"\n```text\n(.*?)^```$", below, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def assert_prints(printed: str, shown: str) -> None:
    """Compare words exactly; numbers may differ a little, as processors do."""
    number = r"-?\d+\.\d+"
    assert re.split(number, printed) == re.split(number, shown)
    found, expected = ([float(x) for x in re.findall(number, text)] for text in (printed, shown))
    assert found == pytest.approx(expected, rel=0.05, abs=0.03)


# What PyTorch says of its own code, and of the name of a size. The code of the Chinese pages is
# that of the English ones, as another test says.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:# The axis name")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p) and p.parent.name != "zh"], ids=title
)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for code in blocks(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, str(page), "exec"), names)
        shown = shown_output(page, code)
        if page.parent.name == "learn" and shown is not None:
            assert_prints(printed.getvalue(), shown)


def test_a_page_that_shows_something_else_is_noticed() -> None:
    assert_prints("loss 0.123\n", "loss 0.124\n")
    for other in ("loss 0.323\n", "lost 0.123\n", "loss 0.123\nmore\n"):
        with pytest.raises(AssertionError):
            assert_prints(other, "loss 0.123\n")


# --- two languages ------------------------------------------------------------------------------

LEARN = sorted(path.name for path in (DOCS / "learn").glob("*.md"))


def facts(text: str) -> list[Counter[str]]:
    """The numbers, the names in code and the links of each section of a page, its code left out."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    code_or_link = r"`[^`]+`|\]\([^)]+\)|\[`[^`]+`\]\[\]"
    found = []
    for section in sections:
        names = re.findall(code_or_link, section)
        numbers = re.findall(r"\d[\d,.]*\d|\d", re.sub(code_or_link, "", section))
        found.append(Counter(names + numbers))
    return found


def test_both_languages_have_the_same_pages() -> None:
    assert sorted(path.name for path in (DOCS / "zh").glob("*.md")) == LEARN


@pytest.mark.parametrize("name", LEARN)
def test_both_languages_say_the_same_facts(name: str) -> None:
    english, chinese = (
        (DOCS / folder / name).read_text(encoding="utf-8") for folder in ("learn", "zh")
    )
    chinese = chinese.replace("../learn/", "../zh/")  # each links to the other
    assert facts(chinese) == facts(english)


@pytest.mark.parametrize("name", LEARN)
def test_both_languages_run_the_same_code(name: str) -> None:
    english, chinese = (blocks(DOCS / folder / name) for folder in ("learn", "zh"))
    for ours, theirs in zip(english, chinese, strict=True):
        assert ast.dump(ast.parse(ours)) == ast.dump(ast.parse(theirs))
        assert shown_output(DOCS / "learn" / name, ours) == shown_output(DOCS / "zh" / name, theirs)


def test_a_number_or_a_name_that_differs_is_noticed() -> None:
    page = "# A\n\n3 steps of `x`\n\n## B\n\nsee [b](b.md)\n"
    for other in ("4 steps of `x`", "3 steps of `y`", "3 steps of x"):
        assert facts(page.replace("3 steps of `x`", other)) != facts(page)
    assert facts(page.replace("b.md", "c.md")) != facts(page)


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["learn", "zh"])
def test_each_picture_is_drawn_by_the_script_and_shown(folder: str) -> None:
    drawn = {f"{name}.svg" for name in pictures.LEARN}
    files = {path.name: path for path in (DOCS / folder).glob("*.svg")}
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / folder).glob("*.md"))
    assert set(files) == drawn == set(re.findall(r"\]\((\w+\.svg)\)", pages))
    assert max(path.stat().st_size for path in files.values()) < 60_000


def test_pictures_are_drawn_again_as_they_are(tmp_path: Path) -> None:
    names = pictures.run(DOCS / "learn" / "network.md")
    for folder, translate in (("learn", {}), ("zh", pictures.CHINESE)):
        figure = pictures.network(names, lambda text, words=translate: words.get(text, text))
        pictures.save(figure, tmp_path / "network.svg")
        kept = (DOCS / folder / "network.svg").read_text(encoding="utf-8")
        drawn = (tmp_path / "network.svg").read_text(encoding="utf-8")
        found, expected = (re.findall(r">([^<>]+)</text>", svg) for svg in (drawn, kept))
        assert found == expected != []


# --- the reference ------------------------------------------------------------------------------


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


# --- speed --------------------------------------------------------------------------------------


def measured(text: str) -> dict[tuple[str, str], list[str]]:
    """The numbers of each line of a table of speed, by the case and the mode; 2 threads only."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    lines = [c for c in cells if re.match(r"(RNN|GRU|LSTM)\b", c[0])]
    return {
        (case, mode): [re.sub(r" ±.*|\*", "", number) for number in rest if number]
        for case, mode, *rest in lines
        if len(rest) < 5 or rest[0] == "2"
    }


@pytest.mark.parametrize("page", ["README.md", "docs/speed.md"])
def test_the_figures_of_speed_are_those_that_were_measured(page: str) -> None:
    results = measured((ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8"))
    figures = measured((ROOT / page).read_text(encoding="utf-8"))
    assert figures
    for case, numbers in figures.items():
        assert Counter(numbers) <= Counter(results[case]), case


def test_a_record_of_a_run_gives_the_pages_its_figures() -> None:
    record = load("record", ROOT / "bench")
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    for name in ("README.md", "docs/speed.md"):
        page = (ROOT / name).read_text(encoding="utf-8")
        assert record.renewed(page, results) == page  # which has them already
        titles, _, row = map(record.cells, record.table(page, record.CASES)[:3])
        figure = row[titles.index("elman µs")]
        wrong = page.replace(f"| {figure} |", "| 7 |", 1).replace("| 4.26x |", "| 7x |")
        assert wrong != page
        assert record.renewed(wrong, results) == page


def test_the_picture_of_speed_is_drawn_from_the_table_of_results() -> None:
    titles = "(N, L, H)|mode|threads|elman µs|of bound|best peer|ratio|torch.nn µs|ratio|A µs|ratio"
    lines = [
        titles,
        ":--|" * 10 + ":--",
        "RNN (1, 100, 256)|training|2|9|50%|A|2.00x|90|4.00x|18|2.00x",
        "GRU (1, 100, 256)|training|2|9|50%|torch.nn|1.00x|9|1.00x|72|8.00x",
        "GRU (1, 100, 256)|training|1|9|10%|torch.nn|1.00x|9|1.00x|72|8.00x",
        "GRU (1, 100, 256), float64|training|2|9|10%|torch.nn|1.00x|9|1.00x|72|8.00x",
    ]
    found = pictures.shares("\n".join(f"|{line}|" for line in lines))
    assert list(found) == [("training", "(1, 100, 256)")]
    (parts,) = found.values()
    assert parts == pytest.approx({"elman": 0.5, "others": 0.125, "torch.nn": 0.25})


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
