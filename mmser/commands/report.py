"""``mmser report``: run folders become tables and a page."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.errors import ProtocolError

if TYPE_CHECKING:
    from mmser.report import Written
    from mmser.report.explorer import Explored


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--baseline", metavar="NAME", help="Row to compare with. [default: the ablation's own, or the first]")
@click.option(
    "--explore", "cache_path", metavar="CACHE", type=click.Path(path_type=Path), help="Write an explorer, too."
)
@click.option("--with-audio", is_flag=True, help="Recordings go into the explorer, to be played.")
@click.option(
    "--explore-limit",
    metavar="N",
    type=click.IntRange(min=0),
    help="Utterances that the explorer shows in detail. [default: 200]",
)
@click.option(
    "--explore-row",
    "rows",
    multiple=True,
    metavar="NAME",
    help="Row that the explorer shows; again for another. [default: the 12 best]",
)
def report(
    folder: Path,
    baseline: str | None,
    cache_path: Path | None,
    with_audio: bool,
    explore_limit: int | None,
    rows: tuple[str, ...],
) -> None:
    """Write table.csv, table.md, table.tex and a page, report.html, into FOLDER.

    FOLDER is an ablation, a run folder, or one that holds several. Every row is compared with the baseline by a paired
    permutation test over speakers, adjusted for all rows (Holm). The page is one file that opens without a network.

    With the CACHE that the runs were trained on, explorer.html shows every test utterance: its waveform and words, what
    each head said of it, and where co-attention looked.

    \b
    mmser report runs/emodb
    mmser report runs/zhao2022 --baseline text-probe
    mmser report runs/emodb --explore cache/emodb --with-audio
    mmser report runs/zhao2022 --explore cache/iemocap --explore-row "early, word" --explore-row "text alone"
    """
    from mmser.report import explore, write_report
    from mmser.show import meter

    if cache_path is None and (with_audio or explore_limit is not None or rows):
        raise ProtocolError("--with-audio, --explore-limit and --explore-row belong to --explore CACHE")
    with meter() as progress:
        if cache_path is not None:  # first: the report links to it
            asked = partial(explore, folder, cache_path, with_audio=with_audio, limit=explore_limit)
            explored = asked(rows=rows, report=progress)
        written = write_report(folder, baseline=baseline, report=progress)
    show_report(written)
    if cache_path is not None:
        show_explored(explored)


def show_explored(explored: "Explored") -> None:
    """Say where the explorer lies, how large it is and what it leaves out."""
    from mmser.show import size

    for note in explored.notes:
        click.echo(f"Note: {note}")
    audio = f", {size(explored.audio_bytes)} of it recordings" if explored.audio_bytes else ""
    click.echo(
        f"Explorer: {explored.path} ({size(explored.num_bytes)}{audio}): {explored.num_utterances} utterances, "
        f"{explored.num_detailed} of them in detail"
    )
    if explored.audio_bytes:
        click.echo("It holds the corpus's recordings: pass it on only where the corpus's licence allows that")


def show_report(written: "Written") -> None:
    """Say where the report lies, and what has no row in it."""
    from mmser.show import size

    for name, reason in written.table.failed:
        click.echo(f"Not in the report: {name}: {reason}")
    tables = ", ".join(path.name for path in written.tables)
    num_bytes = written.page.stat().st_size
    click.echo(f"Report: {written.page} ({size(num_bytes)}, most of it plotly's script), beside {tables}")
