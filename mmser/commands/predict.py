"""``mmser predict``: a trained head and new recordings become a table of emotions."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.align import aligner_options
from mmser.commands.output import Output, with_output
from mmser.errors import MmserError

if TYPE_CHECKING:
    from mmser.manifest import Manifest
    from mmser.predict import Predictions


def _with_aligner_options(command: Any) -> Any:
    for option in reversed(aligner_options()):
        command = option(command)
    return command


@click.command()
@click.argument("head", metavar="HEAD")
@click.argument("audio", metavar="[AUDIO]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--text", default="", show_default=False, help="What is said, where there is one recording.")
@click.option(
    "--text-file",
    type=click.Path(path_type=Path),
    help="The same in a .txt file; or a .csv or .tsv with columns utterance_id and text, a row a recording.",
)
@click.option(
    "--manifest", "manifest_path", type=click.Path(path_type=Path), help="In place of AUDIO, with text and speakers."
)
@click.option("--transcribe", metavar="MODEL", help="A recogniser for recordings without text: ID or FOLDER.")
@click.option("--speaker", default="", show_default=False, help="Who speaks in all recordings.")
@click.option("--fold", help="Of a run folder: only the heads that were tested on this fold. [default: all heads]")
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), help="Keep the states here, for the next time.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it here, .csv or .json. [default: print it]"
)
@click.option("--speech-model", help="Where the speech encoder lies, if the head's came from a local FOLDER.")
@click.option("--text-model", help="The same for the text encoder.")
@click.option("--batch-seconds", type=float, help="Padded audio in a batch. [default: what suits the device]")
@_with_aligner_options
@with_output
def predict(
    head: str,
    audio: tuple[Path, ...],
    text: str,
    text_file: Path | None,
    manifest_path: Path | None,
    transcribe: str | None,
    speaker: str,
    fold: str | None,
    cache_path: Path | None,
    out: Path | None,
    output: Output,
    **options: Any,
) -> None:
    """What a trained HEAD says of recordings, files or folders of them.

    HEAD is the folder of a head (runs/.../heads/...), a run folder (the mean over all its heads), or the id of a head
    on the Hugging Face hub. Encoders, layers, pooling and aligner are those that it was trained on, to the digest of
    their weights; others are refused. Recordings that cannot be processed are named, and the exit code is 3.

    \b
    mmser predict runs/emodb/speech-probe-utterance-2 recordings/ > emotions.csv
    mmser predict runs/iemocap/coattention-word-mix/heads/coattention-fold0-seed0 hello.wav --text "Hello there."
    mmser predict runs/iemocap/coattention-word-mix --manifest new.csv --out emotions.json
    """
    from mmser.predict import predict_manifest
    from mmser.predict.ensemble import open_ensemble

    _check_out(out)
    source = click.get_current_context().get_parameter_source
    given = {name: value for name, value in options.items() if source(name) is not click.core.ParameterSource.DEFAULT}
    manifest, unfit = _manifest(audio, manifest_path, text, text_file, speaker)
    ensemble = open_ensemble(head, fold=fold)
    with output.meter() as progress:
        found = predict_manifest(
            ensemble, manifest, given, unfit=unfit, transcribe=transcribe, cache=cache_path, report=progress
        )
    value = _value(found)
    if out is not None:
        _write(found, value, out)
    output.give(value, lambda: _show(found, out))
    for note in found.notes:
        output.say(f"Note: {note}", err=True)
    for uid, reason in found.failures.items():
        click.echo(f"{uid}: {reason}", err=True)
    if found.failures:
        click.echo(
            f"{len(found.failures)} of {len(found.table) + len(found.failures)} recordings could not be processed",
            err=True,
        )
        sys.exit(EXIT_SOME_FAILED)


def _check_out(out: Path | None) -> None:
    """Before the encoders run, not after."""
    if out is None:
        return
    if out.suffix.lower() not in (".csv", ".json"):
        raise MmserError(f"--out {out}: expected a name in .csv or .json, which says what is written")
    if not out.parent.is_dir():
        raise MmserError(f"--out {out}: its folder is not there; make it first")


def _manifest(
    audio: tuple[Path, ...], manifest_path: Path | None, text: str, text_file: Path | None, speaker: str
) -> tuple["Manifest", dict[str, str]]:
    """The recordings that the command line names, one way or the other, and why some can have no row."""
    from mmser.manifest import read_manifest
    from mmser.predict import read_texts, recordings_and_unfit

    if manifest_path is not None:
        if audio or text or text_file or speaker:
            raise MmserError("--manifest names recordings, texts and speakers itself; leave AUDIO and the others out")
        return read_manifest(manifest_path), {}
    if text and text_file:
        raise MmserError("--text and --text-file were both given; leave one of them out")
    texts = text if text_file is None else read_texts(text_file)
    return recordings_and_unfit(audio, text=texts, speaker=speaker)


def _value(found: "Predictions") -> dict[str, Any]:
    from mmser.train.folder import as_json

    return {
        "heads": [str(path) for path in found.heads],
        "predictions": as_json(found.table.to_dict("records")),
        "notes": list(found.notes),
        "failures": [{"utterance_id": uid, "reason": reason} for uid, reason in found.failures.items()],
    }


def _write(found: "Predictions", value: dict[str, Any], out: Path) -> None:
    from mmser.train.folder import write_csv, write_json

    if out.suffix.lower() == ".json":
        write_json(out, value)
    else:
        write_csv(found.table, out)


def _show(found: "Predictions", out: Path | None) -> None:
    if out is not None:
        click.echo(f"{out}: {len(found.table)} recordings")
    else:
        click.echo(found.table.to_csv(index=False, float_format="%.6g"), nl=False)
