"""``mmser doctor``: what is wrong with a corpus, before figures are."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmser.commands import EXIT_PROBLEMS
from mmser.commands.output import Output, with_output

if TYPE_CHECKING:
    from mmser.doctor import Diagnosis, Finding

_SHOWN = 12
"""Values of a column that are counted on the screen; --json has all."""

_NAMED = 5
"""Utterances that a finding names on the screen."""


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), help="Compare with this cache as well.")
@click.option(
    "--corpus", default="", show_default=False, metavar="NAME[:SET]", help="Compare counts with this corpus's."
)
@click.option("--no-audio", is_flag=True, help="Leave the recordings unopened: quick, and blind to sound.")
@with_output
def doctor(manifest_path: Path, cache_path: Path | None, corpus: str, no_audio: bool, output: Output) -> None:
    """Say what is wrong with the corpus of a MANIFEST, and what to do.

    Counts against the published ones; what is left out and why; the same sound under two ids; recordings that are
    unusable, clipped, too long or of another rate; transcripts that do not fit; speakers in several parts; text that
    gives the label away. The exit code is 4 where there is a problem, and 0 where there are notes alone.

    \b
    mmser doctor iemocap.csv
    mmser doctor iemocap.csv --cache cache/iemocap --json > report.json
    mmser doctor mine.csv --corpus iemocap:6class
    """
    from mmser.cache import Cache
    from mmser.corpora.corpus import read_excluded
    from mmser.doctor import diagnose
    from mmser.manifest import read_manifest

    table = read_manifest(manifest_path)
    cache = Cache(cache_path) if cache_path else None
    if cache is not None:
        cache.check()
    excluded = read_excluded(manifest_path)
    with output.meter() as progress:
        diagnosis = diagnose(table, excluded, corpus=corpus, cache=cache, audio=not no_audio, report=progress)
    output.give(
        {"manifest": str(manifest_path), **diagnosis.as_json()}, lambda: show_diagnosis(diagnosis, manifest_path)
    )
    if diagnosis.problems:
        sys.exit(EXIT_PROBLEMS)


def show_diagnosis(diagnosis: "Diagnosis", manifest_path: Path) -> None:
    """Print the counts, the problems and then the notes."""
    from mmser.corpora.corpus import excluded_path
    from mmser.show import counted

    click.echo(f"{manifest_path}: {diagnosis.num_utterances} utterances")
    for column, counts in diagnosis.counts.items():
        named = {value or "(none)": number for value, number in counts.items()}
        many = len(named) > _SHOWN
        click.echo(f"  {column}: {f'{len(named)} values' if many else counted(named)}")
    for finding in (*diagnosis.problems, *(one for one in diagnosis.findings if one not in diagnosis.problems)):
        _show(finding)
    if diagnosis.excluded:
        click.echo(f"{excluded_path(manifest_path)} names all {len(diagnosis.excluded)} that are left out, and why")
    number = len(diagnosis.problems)
    click.echo(f"{number} problem{'' if number == 1 else 's'}" if number else "No problems")


def _show(finding: "Finding") -> None:
    click.echo(f"{finding.level.capitalize()} ({finding.check}): {finding.message}")
    if finding.utterances:
        more = f" and {len(finding.utterances) - _NAMED} more" if len(finding.utterances) > _NAMED else ""
        click.echo(f"    {', '.join(finding.utterances[:_NAMED])}{more}")
    if finding.advice:
        click.echo(f"    {finding.advice}")
