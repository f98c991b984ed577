"""The command `elman verify`: whether this machine computes the bits of the release."""

from elman.verification import Check

__all__ = ["verify"]


def verify() -> int:
    """Compare this machine's results with those of the release, bit for bit.

    The exit code is 1 if a result differs.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from elman import verification

    checks = verification.verify()
    columns = list(dict.fromkeys(check.what for check in checks))
    table = Table(box=box.SIMPLE)
    table.add_column("cell", no_wrap=True)
    for column in columns:
        table.add_column(column)
    for cell in dict.fromkeys(check.cell for check in checks):
        table.add_row(cell, *(_said(check) for check in checks if check.cell == cell))
    console = Console(highlight=False)
    console.print(table)
    different = sum(check.is_same is False for check in checks)
    unknown = sum(check.is_same is None for check in checks)
    console.print(f"{verification.machine()}, {len(checks)} results:", end=" ")
    if different:
        console.print(
            f"{different} differ from the release. Was this core made by another compiler?"
            " elman.show_config() names it."
        )
    elif unknown:
        console.print(
            f"{unknown} cannot be compared, because the release has none of such a machine;"
            " their hashes are shown."
        )
    else:
        console.print("the same bits as on the machine of the release.")
    return int(different > 0)


def _said(check: Check) -> str:
    if check.is_same is None:
        return check.found
    return "same" if check.is_same else "[bold]different[/bold]"
