"""``mmser transcribe`` and ``mmser wer``: what a recogniser hears, and how much of it is right."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.defaults import default_of
from mmser.commands.output import Output, with_output
from mmser.transcribe.options import COLUMN, TASKS, Recognition

if TYPE_CHECKING:
    from mmser.manifest import Manifest
    from mmser.transcribe.transcripts import Transcripts
    from mmser.transcribe.word_errors import Comparison, WordErrors

_GROUPS = ("label", "speaker")
"""Columns that word errors are told apart by, where they are there."""


def _recognition_options(command: Any) -> Any:
    """The options of a transcription, with the defaults of :class:`~mmser.transcribe.options.Recognition`."""
    default = partial(default_of, Recognition)
    for option in reversed(
        [
            click.option("--model", required=True, help="ID, ID@REVISION or FOLDER: Whisper, or a model for CTC."),
            click.option("--language", help="Whisper: what is spoken, e.g. de. [default: it guesses]"),
            click.option("--task", type=click.Choice(TASKS), default=default("task"), help="Whisper's own."),
            click.option("--device", default=default("device"), help="auto, cpu, cuda, cuda:1, mps."),
            click.option("--jobs", type=click.IntRange(min=1), help="Decoders. [default: one a core]"),
            click.option(
                "--batch-seconds",
                type=float,
                show_default=False,
                help="Padded audio in a batch. [default: what suits the device]",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The manifest to write.")
@click.option("--column", default=COLUMN, help="Of the recognised text.")
@_recognition_options
@with_output
def transcribe(manifest_path: Path, out: Path, column: str, output: Output, **options: Any) -> None:
    """Add what a speech recogniser hears to a MANIFEST, as a column of text.

    Models are those of transformers: Whisper, or wav2vec 2.0, HuBERT, WavLM and data2vec-audio for CTC. Run again, only
    what is missing is done. Utterances that cannot be transcribed are named in OUT's .failed.csv, the rest goes on,
    and the exit code is 3. Where the manifest has a column text, word error rates against it are shown.

    \b
    mmser transcribe iemocap.csv --model facebook/wav2vec2-base-960h --out asr.csv
    mmser transcribe emodb.csv --model openai/whisper-small --language de --out asr.csv
    mmser transcribe mine.csv --model models/whisper --column text --out told.csv
    """
    from mmser.manifest import read_manifest
    from mmser.transcribe.table import failures_path, transcribe_manifest
    from mmser.transcribe.word_errors import spell

    table = read_manifest(manifest_path)
    with output.meter() as progress:
        found = transcribe_manifest(table, out, Recognition(**options), column, progress)
    told = any(u.text and spell(u.text) for u in table.utterances() if u.utterance_id in found.texts)
    errors = _compare(read_manifest(out), out, "text", column, None) if told else None
    output.give(
        {
            "out": str(out),
            "column": column,
            "utterances": len(table),
            "transcribed": len(found.texts),
            "kept": found.num_kept,
            "word_errors": None if errors is None else errors.as_json(),
            "failures": [{"utterance_id": uid, "reason": reason} for uid, reason in found.failures.items()],
        },
        lambda: _show_transcripts(out, column, len(table), found, errors),
    )
    if found.failures:
        uid, reason = next(iter(found.failures.items()))
        click.echo(
            f"{len(found.failures)} of {len(table)} utterances could not be transcribed; {failures_path(out)} says "
            f"why. The first: {uid!r}: {reason}",
            err=True,
        )
        sys.exit(EXIT_SOME_FAILED)


def _show_transcripts(
    out: Path, column: str, num_utterances: int, found: "Transcripts", errors: "Comparison | None"
) -> None:
    kept = f", {found.num_kept} of them in an earlier run" if found.num_kept else ""
    click.echo(f"{out}: {len(found.texts)} of {num_utterances} utterances transcribed in column {column}{kept}")
    if errors is not None:
        show_comparison(errors)


@click.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--gold", default="text", help="The column of what was said.")
@click.option("--column", default=COLUMN, help="The column of what was heard.")
@click.option("--by", show_default=False, help="Columns to tell apart. [default: label,speaker, where there are such]")
@click.option("--case", is_flag=True, help="Capitals count.")
@click.option("--punctuation", is_flag=True, help="Punctuation counts.")
@with_output
def wer(
    manifest_path: Path, gold: str, column: str, by: str | None, case: bool, punctuation: bool, output: Output
) -> None:
    """Word error rates of a MANIFEST's recognised text, per class and per speaker.

    Utterances without a word in the gold column are left out, as are those that could not be transcribed; both are
    counted. [TAGS] are no words; each Han or kana character is one, so that of Chinese or Japanese the rate is one of
    characters. It has no meaning for other scripts without blanks between words, such as Thai.

    \b
    mmser wer asr.csv
    mmser wer asr.csv --gold text --column asr_text --by label,session --json
    """
    from mmser.manifest import read_manifest

    asked = None if by is None else [part.strip() for part in by.split(",") if part.strip()]
    table = read_manifest(manifest_path)
    found = _compare(table, manifest_path, gold, column, asked, case=case, punctuation=punctuation)
    about = {"manifest": str(manifest_path), "column": column, "case": case, "punctuation": punctuation}
    output.give({**about, **found.as_json()}, lambda: show_comparison(found))


def _compare(
    table: "Manifest", path: Path, gold: str, column: str, by: list[str] | None, **spelling: bool
) -> "Comparison":
    from mmser.transcribe.table import read_failed
    from mmser.transcribe.word_errors import Spelling, compare

    there = [name for name in _GROUPS if name in table.table.columns] if by is None else by
    failed = read_failed(path, column)
    return compare(table, gold, column, there, spelling=Spelling(**spelling), not_transcribed=failed)


def show_comparison(found: "Comparison") -> None:
    """Print word error rates, a line a group, and what was left out."""
    from mmser.show import counted, print_table

    columns = ("WER", "95 % of WER", "utterances", "words", "substituted", "deleted", "inserted")
    print_table(("", *columns), [_row("all", found.overall)])
    for name, groups in found.groups.items():
        click.echo()
        print_table((name, *columns), [_row(value or "(none)", own) for value, own in groups.items()])
    without = {
        f"without a word in column {found.gold}": found.num_without_reference,
        "not transcribed": found.num_not_transcribed,
    }
    if any(without.values()):
        click.echo(f"Left out: {counted({what: number for what, number in without.items() if number})}")
    if found.num_unheard:
        click.echo(f"Counted as deleted: all words of {found.num_unheard} utterances in which none was heard")
    if found.num_characters:
        click.echo(f"Counted as words: {found.num_characters} Han or kana characters of the reference, each for itself")


def _row(name: str, errors: "WordErrors") -> tuple[str, ...]:
    interval = errors.interval
    return (
        name,
        f"{errors.rate:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}" if interval is not None else "-",
        *map(str, (errors.utterances, errors.words, errors.substitutions, errors.deletions, errors.insertions)),
    )
