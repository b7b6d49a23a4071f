"""``mmser report``: run folders become tables and a page."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mmser.report import Written


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--baseline", metavar="NAME", help="Row to compare with. [default: the ablation's own, or the first]")
def report(folder: Path, baseline: str | None) -> None:
    """Write table.csv, table.md, table.tex and a page, report.html, into FOLDER.

    FOLDER is an ablation, a run folder, or one that holds several. Every row is compared with the baseline by a paired
    permutation test over speakers, adjusted for all rows (Holm). The page is one file that opens without a network.

    \b
    mmser report runs/emodb
    mmser report runs/zhao2022 --baseline text-probe
    """
    from mmser.report import write_report
    from mmser.show import meter

    with meter() as progress:
        written = write_report(folder, baseline=baseline, report=progress)
    show_report(written)


def show_report(written: "Written") -> None:
    """Say where the report lies, and what has no row in it."""
    from mmser.show import size

    for name, reason in written.table.failed:
        click.echo(f"Not in the report: {name}: {reason}")
    tables = ", ".join(path.name for path in written.tables)
    num_bytes = written.page.stat().st_size
    click.echo(f"Report: {written.page} ({size(num_bytes)}, most of it plotly's script), beside {tables}")
