"""``mmser demo``: the whole way, offline."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from pathlib import Path

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.extract import extraction_json, show_added, show_notes
from mmser.commands.output import Output, with_output
from mmser.commands.report import report_json, show_report


@click.command()
@click.option(
    "--cache", "cache_path", type=click.Path(path_type=Path), default=Path("cache/demo"), help="Cache to make."
)
@click.option("--runs", "runs_path", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Run folders.")
@with_output
def demo(cache_path: Path, runs_path: Path, output: Output) -> None:
    """The whole way on a synthetic corpus: speak, align, extract, train, report. Needs no download.

    The corpus is spoken by espeak-ng and the encoders are untrained, so the figures say that everything works, and
    nothing about emotion in human speech.

    \b
    mmser demo
    """
    from mmser.commands.tables import show_training, training_json
    from mmser.demo.run import demo as run

    with output.meter() as progress:
        outcome = run(cache_path, runs_path, say=output.say, report=progress, aside=progress.say)

    def show() -> None:
        show_added(outcome.extraction, cache_path)
        show_notes(outcome.extraction, cache_path, say=output.say)
        show_training(*outcome.results, say=output.say)
        output.say(outcome.next_steps)
        show_report(outcome.report)

    told = {
        "extraction": extraction_json(outcome.extraction, cache_path),
        "runs": [training_json(result) for result in outcome.results],
        "report": report_json(outcome.report),
    }
    output.give(told, show)
    if outcome.extraction.failures:
        sys.exit(EXIT_SOME_FAILED)
