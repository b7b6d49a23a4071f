"""``mmser report``: run folders become tables and a page."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands.output import Output, with_output
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
@with_output
def report(
    folder: Path,
    baseline: str | None,
    cache_path: Path | None,
    with_audio: bool,
    explore_limit: int | None,
    rows: tuple[str, ...],
    output: Output,
) -> None:
    """Write table.csv, table.md, table.tex and a page, report.html, into FOLDER.

    FOLDER is an ablation, a run folder, or one that holds several. Every row is compared with the baseline by a paired
    permutation test over speakers, adjusted for all rows (Holm). The page is one file that opens without a network.

    With the CACHE that the runs were trained on, explorer.html shows every test utterance: its waveform and words, what
    each head said of it, and where those with attention looked.

    \b
    mmser report runs/emodb
    mmser report runs/zhao2022 --baseline "text alone"
    mmser report runs/emodb --explore cache/emodb --with-audio
    mmser report runs/zhao2022 --explore cache/iemocap --explore-row "early, word" --explore-row "text alone"
    """
    from mmser.report import explore, write_report

    if cache_path is None and (with_audio or explore_limit is not None or rows):
        raise ProtocolError("--with-audio, --explore-limit and --explore-row belong to --explore CACHE")
    explored = None
    with output.meter() as progress:
        if cache_path is not None:  # first: the report links to it
            asked = partial(explore, folder, cache_path, with_audio=with_audio, limit=explore_limit)
            explored = asked(rows=rows, report=progress)
        written = write_report(folder, baseline=baseline, report=progress)
    told = {**report_json(written), "explorer": None if explored is None else explored_json(explored)}
    output.give(told, lambda: show_report(written))
    if explored is not None and not output.as_json:
        show_explored(explored, say=output.say)


def report_json(written: "Written") -> dict[str, Any]:
    """What a report consists of: its files, its table in full, and what has no row in it."""
    from mmser.train.folder import as_json

    return {
        "page": str(written.page),
        "tables": [str(path) for path in written.tables],
        "rows": as_json(written.figures.to_dict("records")),
        "notes": list(written.table.notes),
        "failures": dict(written.table.failed),
    }


def explored_json(explored: "Explored") -> dict[str, Any]:
    """What an explorer holds and leaves out."""
    return {**asdict(explored), "path": str(explored.path), "notes": list(explored.notes)}


def show_explored(explored: "Explored", say: Callable[[str], Any] = click.echo) -> None:
    """Say where the explorer lies and how large it is; by ``say``, what it leaves out and who may have it."""
    from mmser.show import size

    for note in explored.notes:
        say(f"Note: {note}")
    audio = f", {size(explored.audio_bytes)} of it recordings" if explored.audio_bytes else ""
    click.echo(
        f"Explorer: {explored.path} ({size(explored.num_bytes)}{audio}): {explored.num_utterances} utterances, "
        f"{explored.num_detailed} of them in detail"
    )
    if explored.audio_bytes:
        say("It holds the corpus's recordings: pass it on only where the corpus's licence allows that")


def show_report(written: "Written") -> None:
    """Say where the report lies, and what has no row in it."""
    from mmser.show import size

    for name, reason in written.table.failed:
        click.echo(f"Not in the report: {name}: {reason}")
    tables = ", ".join(path.name for path in written.tables)
    num_bytes = written.page.stat().st_size
    click.echo(f"Report: {written.page} ({size(num_bytes)}, most of it plotly's script), beside {tables}")
