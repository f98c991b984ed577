"""The command `elman bench`: our layers beside torch.nn's, on the machine of the user."""

from pathlib import Path
from typing import Annotated

import typer

from elman.cli.process import interruptible
from elman.tasks import InputError

__all__ = ["bench"]


def bench(
    full: Annotated[
        bool, typer.Option("--full", help="The whole grid, in about six minutes.")
    ] = False,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="May be given again. (default: 1, and PyTorch's own number)"),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all that was measured.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the tables.")
    ] = None,
) -> None:
    """Compare the speed with torch.nn on this machine, in less than two minutes."""
    for path in (json, markdown):
        if path is not None and path.exists():
            raise InputError(f"{path} exists: name a new file, it is not written over")
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path.parent} is not a directory: make it first")

    import torch
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from elman import core
    from elman.bench import GRID, MODES, QUICK, Machine, Report, measure

    interruptible()
    if core._native is None:
        raise InputError(
            "the native core could not be loaded, and there is nothing to measure without it:"
            " reinstall elman on a machine with a C++20 compiler"
        )
    cases = GRID if full else QUICK
    counts = list(dict.fromkeys(threads or (1, torch.get_num_threads())))
    console = Console(highlight=False)
    columns = (*Progress.get_default_columns(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=console, transient=True) as progress:
        total = sum(len(case.modes) for case in cases) * len(counts)
        task = progress.add_task("the machine", total=total)
        report = Report(Machine.here())
        for count in counts:
            for row in measure(cases, MODES, count, report.machine, seconds=1.0 if full else 0.8):
                report.rows.append(row)
                progress.update(task, advance=1, description=f"{row.case}, {row.mode}")
    for table in report.tables():
        console.print(table)
    console.print(report.header(), report.note(), sep="\n\n", soft_wrap=not console.is_terminal)
    if json is not None:
        json.write_text(report.json())
    if markdown is not None:
        markdown.write_text(report.markdown())
