"""Recordings as they come, files and folders of them with or without texts, become a manifest."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mmser.errors import ManifestError
from mmser.manifest import Manifest
from mmser.records import check_utterance_id
from mmser.show import one_line

if TYPE_CHECKING:
    from mmser.extract.work import Report

SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")
"""What is taken for a recording in a folder. A file that is named is one, whatever it is called."""

_JOINT = "__"
"""Between the folders and the name of a recording in its id, which cannot hold a slash."""


def recordings(
    audio: Sequence[str | Path],
    *,
    text: str | Mapping[str, str] = "",
    speaker: str = "",
) -> Manifest:
    """A manifest of recordings.

    An id is the file's path below the folder that was named (for files, below the folder that holds them all), without
    its suffix and with ``__`` for slashes; with its suffix where two would be the same.

    Args:
        audio: files, and folders that are searched at any depth.
        text: what is said in the one recording, or in each, by id (:func:`read_texts`).
        speaker: who speaks in all of them, where that is known.

    Raises:
        ManifestError: no recording at all, the same id twice, one text for several recordings, texts of recordings that
            are not there, or a file whose name cannot be an id (:func:`recordings_and_unfit` takes the others).
    """
    manifest, unfit = recordings_and_unfit(audio, text=text, speaker=speaker)
    if unfit:
        raise ManifestError(next(iter(unfit.values())))
    return manifest


def recordings_and_unfit(
    audio: Sequence[str | Path],
    *,
    text: str | Mapping[str, str] = "",
    speaker: str = "",
) -> tuple[Manifest, dict[str, str]]:
    """A manifest of those recordings that can have a row, and why others cannot, by what their id would be.

    Arguments and errors are those of :func:`recordings`, but for names that cannot be an id.
    """
    named = _named([Path(one) for one in audio])
    texts = text if isinstance(text, Mapping) else dict.fromkeys(named, text)
    if isinstance(text, str) and text and len(named) > 1:
        raise ManifestError(f"one text was given for {len(named)} recordings; give a table of texts, or a manifest")
    absent = [uid for uid in texts if uid not in named]
    if absent:
        raise ManifestError(
            f"there is a text of {absent[0]!r}, but no such recording; there are {', '.join(list(named)[:3])}"
            + (", ..." if len(named) > 3 else "")
        )
    unfit = {uid: why for uid, path in named.items() if (why := _why_unfit(uid, path))}
    rows = [
        {"utterance_id": uid, "audio": os.path.abspath(path), "text": texts.get(uid, ""), "speaker": speaker}
        for uid, path in named.items()
        if uid not in unfit
    ]
    columns = ["utterance_id", "audio", "text", "speaker"]
    return Manifest(pd.DataFrame(rows, columns=columns), Path()), {one_line(uid): why for uid, why in unfit.items()}


def read_texts(path: Path) -> str | dict[str, str]:
    """The text of one recording (a ``.txt`` file), or texts by id (``.csv`` or ``.tsv`` with utterance_id and text).

    Raises:
        ManifestError: it cannot be read, is of another format, or lacks a column.
    """
    try:
        if path.suffix.lower() == ".txt":
            return path.read_text(encoding="utf-8-sig").strip()
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise ManifestError(f"{path}: expected texts as .txt (of one recording), .csv or .tsv (of several)")
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ManifestError(f"{path}: not readable as texts ({error})") from error
    missing = [name for name in ("utterance_id", "text") if name not in table.columns]
    if missing:
        raise ManifestError(f"{path} has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    twice = table["utterance_id"][table["utterance_id"].duplicated()]
    if len(twice):
        raise ManifestError(f"{path}: {twice.iloc[0]!r} is there twice; expected one text a recording")
    return dict(zip(table["utterance_id"], table["text"], strict=True))


def with_recognised(
    manifest: Manifest, model: str, device: str, report: "Report" = lambda *_: None
) -> tuple[Manifest, dict[str, str]]:
    """The manifest with recognised text where it has none, and why some could not be recognised.

    Raises:
        MmserError: the model cannot be used.
    """
    from mmser.transcribe import transcribe

    silent = [one for one in manifest.utterances() if not (one.text or "").strip()]
    if not silent:
        return manifest, {}
    heard = transcribe(silent, model, device=device, report=report)
    given = {one.utterance_id: one.text or "" for one in manifest.utterances()}
    texts = [heard.texts.get(uid, text) for uid, text in given.items()]
    reasons = {uid: f"{model} hears no words in it" for uid, text in heard.texts.items() if not text.strip()}
    return Manifest(manifest.table.assign(text=texts), manifest.base, manifest.path), {**reasons, **heard.failures}


def _why_unfit(uid: str, path: Path) -> str:
    """Why a file cannot be a row of a manifest, "" if it can."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return f"{one_line(os.fspath(path))}: its name is not in UTF-8, in which tables are written; rename it"
    try:
        check_utterance_id(uid)
    except ManifestError as error:
        return str(error)
    return ""


def _named(audio: Sequence[Path]) -> dict[str, Path]:
    """Every recording once, by its id."""
    files = [path for path in audio if not path.is_dir()]
    above = Path(os.path.commonpath([os.path.abspath(path.parent) for path in files])) if files else Path()
    found = {Path(os.path.abspath(path)): above for path in files}
    for folder in (path for path in audio if path.is_dir()):
        below = _recordings_below(folder)
        if not below:
            raise ManifestError(f"{folder} holds no recording ({', '.join(SUFFIXES)}); name files, or another folder")
        found |= {Path(os.path.abspath(path)): Path(os.path.abspath(folder)) for path in below}
    if not found:
        raise ManifestError("no recording was given: name files or folders, or give a manifest")
    short = {path: _JOINT.join(path.relative_to(top).with_suffix("").parts) for path, top in found.items()}
    often = Counter(short.values())
    ids = {path: uid if often[uid] == 1 else uid + path.suffix for path, uid in short.items()}
    twice = [uid for uid, count in Counter(ids.values()).items() if count > 1]
    if twice:
        raise ManifestError(f"several recordings would be called {twice[0]!r}: name the folder that holds them all")
    return {uid: path for path, uid in ids.items()}


def _recordings_below(folder: Path) -> list[Path]:
    """Recordings at any depth, sorted; hidden ones (``._name`` of macOS among them) are skipped."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
