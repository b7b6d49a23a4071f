"""A manifest with columns of recognised text, and what is kept beside it.

::

    M2.csv                              the manifest, with the column
    M2.csv.transcribe.json              what made each column: model, revision, digest of the weights, versions
    M2.csv.transcribe.DIGEST.jsonl      a recipe's texts as they are finished (mmser.transcribe.journal)
    M2.failed.csv                       utterances without a text, by column, and why; absent where there are none

Columns that the manifest had before keep what is told of them.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmser.cache.json_files import read_json, write_json
from mmser.cache.root_files import write_failed_rows
from mmser.errors import ManifestError
from mmser.extract.work import Report, provenance
from mmser.manifest import Manifest, add_column, check_new_column, read_manifest
from mmser.transcribe.options import Recognition
from mmser.transcribe.run import recognise
from mmser.transcribe.transcripts import Transcripts

_FIELDS = ("utterance_id", "streams", "reason")
"""Of the table of failures: that of a cache, but with a row a column, since a column's name may hold blanks."""


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
        MmserError: the column is there already, the place has columns that would be lost or files that are not
            mmser's, or the model cannot be used.
    """
    check_new_column(manifest, column, out)
    _check_nothing_is_lost(manifest, out, column)
    failures, made = _told_before(manifest, out)
    found = recognise(manifest.utterances(), options, out.with_name(f"{out.name}.transcribe.jsonl"), report)
    _check_nothing_is_lost(manifest, out, column)  # another process may have been faster
    about = {
        "recipe": found.recipe,
        "provenance": provenance(found.device),
        "utterances": len(found.texts),
        "failures": len(found.failures),
    }
    new = {(uid, column): reason for uid, reason in found.failures.items()}
    write_failed_rows(failures_path(out), [(*key, reason) for key, reason in sorted({**failures, **new}.items())])
    write_json(_about_path(out), {"columns": {**made, column: about}})
    add_column(manifest, column, [found.texts.get(uid, "") for uid in manifest.ids], out)
    return found


def _check_nothing_is_lost(manifest: Manifest, out: Path, column: str) -> None:
    """Refuse to replace a manifest that has columns which the new one would not have."""
    if not out.exists():
        return
    lost = [name for name in read_manifest(out).table.columns if name not in {*manifest.table.columns, column}]
    if lost:
        raise ManifestError(
            f"manifest {str(out)!r} is there already and has a column {lost[0]!r}, which {str(manifest.path)!r} lacks: "
            f"it would be lost; transcribe {str(out)!r} itself to add to it, or give another --out"
        )


def _told_before(manifest: Manifest, out: Path) -> tuple[dict[tuple[str, str], str], dict[str, Any]]:
    """What is told of the columns that a manifest has: why utterances have no text in them, and what made them.

    It lies beside the manifest, and beside one that is written again; of both, the manifest's own counts.
    """
    empty = {
        (uid, name)
        for name in manifest.table.columns
        for uid, cell in zip(manifest.ids, manifest.column(name).tolist(), strict=True)
        if cell == ""
    }
    failures: dict[tuple[str, str], str] = {}
    made: dict[str, Any] = {}
    for place in (out, manifest.path):
        if place is not None:
            failures |= {key: reason for key, reason in _read_failures(place).items() if key in empty}
            made |= {name: told for name, told in _read_about(place).items() if name in manifest.table.columns}
    return failures, made


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
    return {uid for uid, name in _read_failures(manifest) if name == column}


def _read_failures(manifest: Path) -> dict[tuple[str, str], str]:
    """Reason by utterance and column."""
    path = failures_path(manifest)
    if not path.exists():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        rows = [{}]
    if any(row.get(name) is None for row in rows for name in _FIELDS):
        raise ManifestError(f"{path} is not the table that mmser transcribe writes; move it away")
    return {(row["utterance_id"], row["streams"]): row["reason"] for row in rows}


def _about_path(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.transcribe.json")


def _read_about(manifest: Path) -> Mapping[str, Any]:
    """What made each column of recognised text."""
    path = _about_path(manifest)
    if not path.exists():
        return {}
    columns = read_json(path).get("columns")
    if not isinstance(columns, dict):
        raise ManifestError(f"{path} does not say what made each column, as mmser transcribe writes; move it away")
    return columns
