"""``mmser demo``: the whole way, offline."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from pathlib import Path

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.extract import show_extraction
from mmser.commands.report import show_report


@click.command()
@click.option(
    "--cache", "cache_path", type=click.Path(path_type=Path), default=Path("cache/demo"), help="Cache to make."
)
@click.option("--runs", "runs_path", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Run folders.")
def demo(cache_path: Path, runs_path: Path) -> None:
    """The whole way on a synthetic corpus: speak, align, extract, train, report. Needs no download.

    The corpus is spoken by espeak-ng and the encoders are untrained, so the figures say that everything works, and
    nothing about emotion in human speech.

    \b
    mmser demo
    """
    from mmser.commands.tables import show_training
    from mmser.demo.run import demo as run
    from mmser.show import meter

    with meter() as progress:
        outcome = run(cache_path, runs_path, say=lambda text: click.echo(text), report=progress)
    show_extraction(outcome.extraction, cache_path)
    show_training(*outcome.results)
    click.echo(outcome.next_steps)
    show_report(outcome.report)
    if outcome.extraction.failures:
        sys.exit(EXIT_SOME_FAILED)
