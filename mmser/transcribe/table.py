"""A manifest with a column of recognised text, and what is kept beside it.

::

    M2.csv                      the manifest, with the column
    M2.csv.transcribe.json      what made the column: model, revision, digest of the weights, versions
    M2.csv.transcribe.jsonl     the texts as they are finished (mmser.transcribe.journal)
    M2.failed.csv               utterances without a text, and why; absent where there are none
"""

import csv
from pathlib import Path

from mmser.cache.json_files import write_json
from mmser.cache.root_files import write_failures
from mmser.errors import ManifestError
from mmser.extract.work import Report, provenance
from mmser.manifest import Manifest, add_column, check_new_column
from mmser.transcribe.options import Recognition
from mmser.transcribe.run import recognise
from mmser.transcribe.transcripts import Transcripts


def transcribe_manifest(
    manifest: Manifest, out: Path, options: Recognition, column: str, report: Report = lambda *_: None
) -> Transcripts:
    """Write a manifest with what a recogniser hears in its recordings; run again, only what is missing is heard.

    Args:
        manifest: the utterances.
        out: the manifest to write.
        options: the recogniser and how it is run.
        column: of the recognised text; an utterance that failed, or in which no word was heard, has none there.
        report: told how far it is.

    Raises:
        MmserError: the column is there already, the place or the model cannot be used.
    """
    check_new_column(manifest, column, out)
    found = recognise(manifest.utterances(), options, out.with_name(f"{out.name}.transcribe.jsonl"), report)
    write_failures(failures_path(out), {(uid, column): reason for uid, reason in found.failures.items()})
    about = {
        "column": column,
        "recipe": found.recipe,
        "provenance": provenance(found.device),
        "utterances": len(found.texts),
        "failures": len(found.failures),
    }
    write_json(out.with_name(f"{out.name}.transcribe.json"), about)
    add_column(manifest, column, [found.texts.get(uid, "") for uid in manifest.ids], out)
    return found


def failures_path(manifest: Path) -> Path:
    """The table of utterances without a text, beside a manifest.

    >>> failures_path(Path("tables/asr.csv")).as_posix()
    'tables/asr.failed.csv'
    """
    return manifest.with_name(f"{manifest.stem}.failed.csv")


def read_failed(manifest: Path, column: str) -> set[str]:
    """The utterances of a manifest that have no text in a column because they could not be transcribed.

    Raises:
        ManifestError: the table beside it is not mmser's.
    """
    path = failures_path(manifest)
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if any(not {"utterance_id", "streams", "reason"} <= row.keys() for row in rows):
        raise ManifestError(f"{path} is not the table that mmser transcribe writes; move it away")
    return {row["utterance_id"] for row in rows if row["streams"] == column}
