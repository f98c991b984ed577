"""Makes the figures of the last `make bench` those of the pages: `make bench-record`.

bench/RESULTS.md and the plot beside it are replaced; each line of a table of README.md and of
docs/speed.md gets its figures anew, and so do the means. Prose that quotes them is for a person.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = ROOT / "runs" / "bench"
RESULTS = ROOT / "bench" / "RESULTS.md"
PAGES = ROOT / "README.md", ROOT / "docs" / "speed.md"
CASES, MEANS = "(N, L, H)", "geometric mean over"

Row = list[str]


def cells(line: str) -> Row:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(text: str, first: str) -> list[str]:
    """The lines of the first table whose first title starts so."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return lines[start:end]


def renewed(page: str, results: str) -> str:
    """A page with the figures of the results, and the lines that it has."""
    measured = [cells(line) for line in table(results, CASES)]
    titles, most = measured[0], max(int(row[2]) for row in measured[2:])
    rows = {tuple(row[:3]): row for row in measured[2:]}
    old = table(page, CASES)
    wanted = cells(old[0])
    lines = [f"| {' | '.join(titles)} |", f"| {' | '.join(measured[1])} |"]
    if "threads" not in wanted:  # chosen columns, without the spread
        lines = old[:2]
    for line in old[2:]:
        case, mode = cells(line)[:2]
        row = rows[case, mode, str(most)]
        if "threads" not in wanted:
            row = [case, *(row[titles.index(t)].partition(" ±")[0] for t in wanted[1:])]
        lines.append(f"| {' | '.join(row)} |")
    page = page.replace("\n".join(old), "\n".join(lines))
    if MEANS in page:
        page = page.replace("\n".join(table(page, MEANS)), "\n".join(table(results, MEANS)))
    machine = next(line for line in results.splitlines() if "GFLOP/s" in line)
    return re.sub(
        r"^Measured by `make bench`: .*GFLOP/s.*$",
        lambda _: f"Measured by `make bench`: {machine}.",
        page,
        flags=re.MULTILINE,
    )


def main() -> None:
    results = (RUN / RESULTS.name).read_text(encoding="utf-8")
    pages = {page: renewed(page.read_text(encoding="utf-8"), results) for page in PAGES}
    for path, text in {RESULTS: results, **pages}.items():
        path.write_text(text, encoding="utf-8")
    shutil.copy(RUN / "scaling.png", RESULTS.with_name("scaling.png"))


if __name__ == "__main__":
    main()
