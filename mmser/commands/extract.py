"""``mmser extract``: a manifest becomes a cache."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.align import aligner_options, coverage_json, show_coverage
from mmser.commands.defaults import default_of
from mmser.commands.output import Output, with_output
from mmser.extract.align import ALIGNERS, NONE
from mmser.extract.options import COMPUTES, DTYPES, OPENSMILE_SETS, Extraction
from mmser.records import POOLINGS

if TYPE_CHECKING:
    from mmser.extract.run import Summary


def extraction_options(command: Any) -> Any:
    """The options of an extraction, with the defaults of :class:`~mmser.extract.options.Extraction`."""
    default = partial(default_of, Extraction)
    model = "ID, ID@REVISION, FOLDER, builtin:tiny, or none."
    for option in reversed(
        [
            click.option("--speech-model", default=default("speech_model"), help=f"Speech encoder: {model}"),
            click.option("--text-model", default=default("text_model"), help=f"Text encoder: {model}"),
            click.option(
                "--text-column",
                default=default("text_column"),
                help="The column that it reads; any but text becomes a stream of its own.",
            ),
            click.option(
                "--align",
                "aligner",
                type=click.Choice([*ALIGNERS, NONE]),
                default=default("aligner"),
                help="Where words, syllables and phones in time come from (mmser align --help says more).",
            ),
            *aligner_options(),
            click.option("--mel", is_flag=True, help="Log-mel spectrograms too, for cnn14."),
            click.option(
                "--opensmile",
                type=click.Choice([*OPENSMILE_SETS, NONE]),
                default=default("opensmile"),
                help="openSMILE's descriptors too (pip install 'mmser[opensmile]'; free for research only).",
            ),
            click.option("--layers", default=default("layers"), help="Speech layers: all, 9, 0,6,12, 4-8, -1 (last)."),
            click.option("--text-layers", default=default("text_layers"), help="Text layers, in the same way."),
            click.option(
                "--keep",
                default="",
                show_default=False,
                help="Speech granularities: frame, phone, syllable, word, utterance (comma-separated). "
                "[default: all that the alignment gives, but not frame]",
            ),
            click.option("--pooling", type=click.Choice(POOLINGS), default=default("pooling"), help="Over segments."),
            click.option("--dtype", type=click.Choice(DTYPES), default=default("dtype"), help="Of the stored states."),
            click.option(
                "--compute", type=click.Choice(COMPUTES), default=default("compute"), help="Arithmetic of the encoders."
            ),
            click.option(
                "--batch-seconds",
                type=float,
                show_default=False,
                help="Padded audio in a batch. [default: what suits the device]",
            ),
            click.option("--refresh", is_flag=True, help="Redo what changed since it was extracted."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@extraction_options
@with_output
def extract(manifest_path: Path, cache_path: Path, keep: str, output: Output, **options: Any) -> None:
    """Run the encoders and the aligner once over a MANIFEST, into a cache.

    Run again, only what is missing is done. Utterances that cannot be processed are named in CACHE/failed.csv, the
    rest goes on, and the exit code is 3.

    \b
    mmser extract iemocap.csv --cache cache/iemocap --align pocketsphinx
    mmser extract emodb.csv --cache cache/emodb --text-model none --keep frame,utterance
    mmser extract asr.csv --cache cache/iemocap --speech-model none --text-column asr_text
    mmser extract emodb.csv --cache cache/emodb --speech-model none --text-model none --mel --opensmile egemaps
    """
    from mmser.extract.run import extract as run
    from mmser.manifest import read_manifest

    granularities = tuple(part.strip() for part in keep.split(",") if part.strip())
    asked = Extraction(keep=granularities, **options)
    table = read_manifest(manifest_path)
    with output.meter() as progress:
        summary = run(table, cache_path, asked, progress, progress.say)
    output.give(extraction_json(summary, cache_path), lambda: show_added(summary, cache_path))
    show_notes(summary, cache_path, say=output.say)
    if summary.failures:
        sys.exit(EXIT_SOME_FAILED)


def extraction_json(summary: "Summary", cache_path: Path) -> dict[str, Any]:
    """What an extraction added, what it leaves out and why."""
    return {
        "cache": str(cache_path),
        "utterances": summary.num_utterances,
        "added": summary.added,
        "aligned": summary.num_aligned,
        "coverage": coverage_json(summary.coverage),
        "notes": list(summary.notes),
        "failures": [
            {"utterance_id": uid, "stream": stream, "reason": why} for (uid, stream), why in summary.failures.items()
        ],
    }


def show_added(summary: "Summary", cache_path: Path) -> None:
    """Print what an extraction added to which stream."""
    for name, number in summary.added.items():
        click.echo(f"{cache_path / name}: {number} utterances added")
    if not summary.added:
        click.echo(f"{cache_path}: nothing was missing")
    if summary.coverage is not None:
        show_coverage(summary.coverage)
    if summary.num_aligned is not None:
        rest = summary.num_utterances - summary.num_aligned
        click.echo(
            f"Aligned {summary.num_aligned} of {summary.num_utterances} utterances"
            + (f"; the other {rest} have no words, but frames and utterance states" if rest else "")
        )


def show_notes(summary: "Summary", cache_path: Path, say: Callable[[str], Any] = click.echo) -> None:
    """Print what the user should know besides, by ``say``; and, on standard error, that utterances failed."""
    for note in summary.notes:
        say(f"Note: {note}")
    if summary.failures:
        failed = summary.failed_utterances
        (uid, stream), reason = next(iter(summary.failures.items()))
        click.echo(
            f"{len(failed)} of {summary.num_utterances} utterances could not be processed whole; "
            f"{cache_path / 'failed.csv'} says why. The first: {uid!r} ({stream}): {reason}",
            err=True,
        )
