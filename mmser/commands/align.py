"""``mmser align``: a manifest becomes TextGrids; and the options of aligners, which ``mmser extract`` takes too."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.defaults import default_of
from mmser.commands.output import Output, with_output
from mmser.extract.align import ALIGNERS, NONE, AlignerOptions

if TYPE_CHECKING:
    from mmser.extract.coverage import Coverage
    from mmser.extract.textgrids import Written


def aligner_options() -> list[Any]:
    """The options of :class:`~mmser.extract.align.AlignerOptions` but the aligner's name, with their defaults."""
    default = partial(default_of, AlignerOptions)
    path = click.Path(path_type=Path)
    return [
        click.option("--textgrids", type=path, help="textgrid: folder of <utterance_id>.TextGrid, at any depth."),
        click.option("--release", type=path, help="iemocap: folder of the release, which holds Session1."),
        click.option("--ctc-model", help="ctc: ID, ID@REVISION or FOLDER of a transformers model for CTC."),
        click.option("--lexicon", type=path, help="pocketsphinx: pronunciations in CMU format."),
        click.option("--mfa-command", default=default("mfa_command"), help='mfa: e.g. "conda run -n aligner mfa".'),
        click.option("--dictionary", default=default("dictionary"), help="mfa: an installed dictionary, or a file."),
        click.option("--acoustic-model", default=default("acoustic_model"), help="mfa: an installed one, or a file."),
        click.option("--g2p-model", default=default("g2p_model"), help="mfa: an installed one, a file, or none."),
        click.option("--mfa-model", help="mfa: instead of these three, ID or folder of a model of MFA 3.4 or newer."),
        click.option("--device", default=default("device"), help="auto, cpu, cuda, cuda:1, mps."),
        click.option("--jobs", type=click.IntRange(min=1), help="Aligners and decoders. [default: one a core]"),
    ]


def _with_aligner_options(command: Any) -> Any:
    for option in reversed(aligner_options()):
        command = option(command)
    return command


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the TextGrids.")
@click.option(
    "--backend", type=click.Choice([*ALIGNERS]), required=True, help="mfa, pocketsphinx (English), ctc, or an import."
)
@_with_aligner_options
@click.option("--refresh", is_flag=True, help="Redo what changed since it was aligned.")
@with_output
def align(manifest_path: Path, out: Path, backend: str, output: Output, **options: Any) -> None:
    """Find when each word, syllable and phone of a MANIFEST is spoken, and write TextGrids, which Praat opens.

    Run again, only what is missing is done. OUT/coverage.json says what is aligned; what could not be is named in
    OUT/failed.csv, and the exit code is 3. `mmser extract --align` does the same into a cache.

    \b
    mmser align iemocap.csv --out aligned/iemocap --backend mfa --mfa-command "conda run -n aligner mfa"
    mmser align iemocap.csv --out aligned/quick --backend pocketsphinx
    """
    from mmser.extract.options import Extraction
    from mmser.extract.textgrids import align as run
    from mmser.manifest import read_manifest

    asked = Extraction(speech_model=NONE, text_model=NONE, aligner=backend, **options)
    table = read_manifest(manifest_path)
    with output.meter() as progress:
        done = run(table, out, asked, progress)
    summary = done.summary
    output.give(
        {
            "out": str(out),
            "written": done.num_written,
            "present": done.num_present,
            "utterances": summary.num_utterances,
            "coverage": coverage_json(summary.coverage),
            "notes": list(summary.notes),
            "failures": {uid: why for (uid, _), why in summary.failures.items()},
        },
        lambda: _show_written(done, out),
    )
    for note in summary.notes:
        output.say(f"Note: {note}")
    if summary.failures:
        uid, reason = next((uid, why) for (uid, _), why in summary.failures.items())
        click.echo(
            f"{len(summary.failures)} of {summary.num_utterances} utterances could not be aligned; "
            f"{out / 'failed.csv'} says why. The first: {uid!r}: {reason}",
            err=True,
        )
        sys.exit(EXIT_SOME_FAILED)


def _show_written(done: "Written", out: Path) -> None:
    there = done.num_present - done.num_written
    click.echo(f"{out}: {done.num_written} TextGrids written" + (f", {there} were there" if there else ""))
    assert done.summary.coverage is not None
    show_coverage(done.summary.coverage)


def coverage_json(found: "Coverage | None") -> dict[str, Any] | None:
    """What an alignment covers, as JSON has it."""
    return None if found is None else {"total": found.total, **asdict(found)}


def show_coverage(found: "Coverage") -> None:
    """Print what an alignment covers."""
    from mmser.extract.coverage import coverage_rows
    from mmser.show import print_table

    print_table((found.stream, ""), coverage_rows(found))
