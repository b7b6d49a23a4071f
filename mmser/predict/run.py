"""From recordings to a table: extract as the head's recipes say, ask the heads, average what they say."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from mmser.cache import Cache
from mmser.errors import MmserError
from mmser.extract.options import Extraction
from mmser.extract.run import extract
from mmser.extract.work import Report
from mmser.manifest import Manifest
from mmser.predict.ensemble import Ensemble, open_ensemble
from mmser.predict.extractions import extractions
from mmser.predict.recordings import recordings_and_unfit, with_recognised
from mmser.train.about import About
from mmser.train.apply import Applied, alone_in, apply, unseen_by

ONE_SPEAKER = "speaker"
"""Who is taken to speak in all recordings where nobody says."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What heads say of some recordings."""

    table: pd.DataFrame
    """A row a recording: ``utterance_id``; ``prediction`` and ``p_<label>``, where classes are told;
    ``prediction_<dimension>``, where dimensions are rated."""
    failures: dict[str, str]
    """Why a recording has no row, by its id."""
    heads: tuple[Path, ...]
    """The heads whose answers were averaged."""
    notes: tuple[str, ...]
    """What the user should know besides."""


def predict(
    head: str | Path,
    audio: Sequence[str | Path] | Manifest,
    *,
    text: str | Mapping[str, str] = "",
    speaker: str = "",
    fold: str | None = None,
    transcribe: str | None = None,
    cache: Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """What a trained head says of new recordings; those that cannot be processed have no row.

    Args:
        head: as in :func:`~mmser.predict.ensemble.open_ensemble`.
        audio: files and folders (:func:`~mmser.predict.recordings.recordings`), or a manifest.
        text: what is said in the one recording, or in each, by id; a manifest has its own.
        speaker: who speaks in all of them; a manifest says so itself.
        fold: as in :func:`~mmser.predict.ensemble.open_ensemble`.
        transcribe: a recogniser for recordings without text: id or local folder of a model for CTC, or of Whisper.
        cache: a folder that keeps the states, for the next time; None: they are thrown away.
        options: what recipes do not hold (:data:`~mmser.predict.extractions.GIVEN`): ``speech_model="FOLDER"``, ...

    Raises:
        MmserError: as :func:`predict_manifest`.
    """
    if isinstance(audio, Manifest):
        manifest, unfit = audio, dict[str, str]()
    else:
        manifest, unfit = recordings_and_unfit(audio, text=text, speaker=speaker)
    ensemble = open_ensemble(head, fold=fold)
    return predict_manifest(ensemble, manifest, options, unfit=unfit, transcribe=transcribe, cache=cache).table


def predict_manifest(
    ensemble: Ensemble,
    manifest: Manifest,
    options: Mapping[str, Any],
    *,
    unfit: Mapping[str, str] | None = None,
    transcribe: str | None = None,
    cache: Path | None = None,
    report: Report = lambda *_: None,
) -> Predictions:
    """What heads say of the recordings of a manifest, and why they say nothing of some.

    Args:
        ensemble: the heads; their posteriors and ratings are averaged.
        manifest: the recordings, with ``text`` where the heads read words.
        options: what recipes do not hold (:data:`~mmser.predict.extractions.GIVEN`).
        unfit: why other recordings cannot be in the manifest; they are failures.
        transcribe: a recogniser (:func:`mmser.transcribe.transcribe`) for recordings that have no text, where the heads
            read words.
        cache: a folder that keeps the states; None: they are thrown away. Recordings and texts that changed since they
            were kept are extracted anew.
        report: told how far it is.

    Raises:
        MmserError: a text is needed and none is there, an encoder or aligner cannot be had.
        ProtocolError: it is not the one that a head was trained on (says what differs), or recipes are not known.
    """
    unfit, heads = dict(unfit or {}), tuple(one.path for one in ensemble.heads)
    untrained = _untrained(ensemble)
    if not len(manifest):
        return Predictions(_tabulated([], ensemble.heads[0]), unfit, heads, tuple(untrained))
    if transcribe is None:
        _check_texts(ensemble, manifest)
    asked = [replace(one, refresh=cache is not None) for one in extractions(ensemble.heads, options)]
    manifest, notes, nobodys = _with_speakers(ensemble, manifest)
    unheard: dict[str, str] = {}
    if transcribe is not None and ensemble.needs_text:
        manifest, unheard = with_recognised(manifest, transcribe, str(options.get("device", "auto")), report)
        _check_texts(ensemble, manifest)
    with _folder(cache) as folder:
        reasons, changed, told = _extract(ensemble, manifest, folder, asked, report)
        opened = Cache(folder)
        failures = {**unfit, **nobodys, **changed}
        failures |= _failures(ensemble, opened, manifest.ids, {**reasons, **unheard})
        failures |= _alone(ensemble, opened, [uid for uid in manifest.ids if uid not in failures])
        ids = [uid for uid in manifest.ids if uid not in failures]
        answers = [apply(one.path, opened, ids) for one in ensemble.heads] if ids else []
    return Predictions(_tabulated(answers, ensemble.heads[0]), failures, heads, (*untrained, *notes, *told))


def _untrained(ensemble: Ensemble) -> list[str]:
    """What to tell the user of heads whose answers are those of chance."""
    untrained = sum(head.is_untrained for head in ensemble.heads)
    if not untrained:
        return []
    return [
        f"{untrained} of {len(ensemble.heads)} heads never trained: they diverged before their first score and answer "
        "by random weights; train them again by a lower --learning-rate"
    ]


def _failures(ensemble: Ensemble, cache: Cache, ids: Sequence[str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Why a recording cannot be seen whole by every head; ``reasons`` say why it is not in a stream."""
    if all(uid in reasons for uid in ids) and not all(len(stream) for stream in cache.streams.values()):
        return {uid: reasons[uid] for uid in ids}  # a stream without any state has not even granularities to ask for
    lacking: dict[str, str] = {}
    for head in ensemble.heads:
        lacking |= unseen_by(head.path, cache, ids)
    return {uid: reasons.get(uid, lacking[uid]) for uid in ids if uid in lacking}


def _alone(ensemble: Ensemble, cache: Cache, ids: Sequence[str]) -> dict[str, str]:
    """Why some head could tell nothing of a recording, since it is all that is there of its speaker."""
    return {uid: reason for head in ensemble.heads for uid, reason in alone_in(head.path, cache, ids).items()}


def _tabulated(answers: Sequence[Applied], head: About) -> pd.DataFrame:
    """The mean of some heads' answers as a table, with the columns of ``predictions.csv``; no rows of no answers."""
    shares = [f"p_{label}" for label in head.labels]
    rated = [f"prediction_{name}" for name in head.dimensions]
    if not answers:
        return pd.DataFrame(columns=["utterance_id", *(["prediction"] if shares else []), *shares, *rated])
    columns: dict[str, Any] = {"utterance_id": answers[0].ids}
    if shares:
        posteriors = np.mean([one.posteriors for one in answers], axis=0)
        columns["prediction"] = [head.labels[number] for number in posteriors.argmax(1)]
        columns |= dict(zip(shares, posteriors.T, strict=True))
    if rated:
        ratings = np.mean([one.ratings for one in answers if one.ratings is not None], axis=0)
        columns |= dict(zip(rated, ratings.T, strict=True))
    return pd.DataFrame(columns)


def _check_texts(ensemble: Ensemble, manifest: Manifest) -> None:
    if ensemble.needs_text and not any((utterance.text or "").strip() for utterance in manifest.utterances()):
        raise MmserError(
            f"{ensemble.name} reads the words that are said, and no text is given: give --text, --text-file, "
            "--transcribe MODEL, or a --manifest with a column text"
        )


def _with_speakers(ensemble: Ensemble, manifest: Manifest) -> tuple[Manifest, list[str], dict[str, str]]:
    """The recordings whose speaker is known where a head asks, what to tell the user, and why the others fail.

    Where nobody is named, all are of one speaker.
    """
    if not any(head.by_speaker for head in ensemble.heads):
        return manifest, [], {}
    table = manifest.table
    note = "speech is standardised by what is heard here of each speaker: the more, and the more varied, the better"
    if "speaker" in table.columns and (table["speaker"] != "").any():
        known = manifest.column("speaker") != ""
        why = "no speaker is named, by whose recordings the head standardises speech; name the speaker"
        nobodys = {uid: why for uid, is_known in zip(manifest.ids, known, strict=True) if not is_known}
        return manifest.select(known), [note], nobodys
    alone = Manifest(table.assign(speaker=ONE_SPEAKER), manifest.base, manifest.path)
    return alone, [f"{note}. All recordings are taken to be of one speaker; a manifest can say who speaks"], {}


@contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory(prefix="mmser-predict-") as folder:
        yield Path(folder)


def _extract(
    ensemble: Ensemble, manifest: Manifest, folder: Path, asked: Sequence[Extraction], report: Report
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Fill the cache; why utterances failed, which of them have old states there, and what to tell the user."""
    check = _Check(ensemble, folder)

    def checked(stream: str, done: int, total: int, seconds: float) -> None:
        check()
        report(stream, done, total, seconds)

    reasons: dict[str, str] = {}
    changed: dict[str, str] = {}
    notes: list[str] = []
    for options in asked:
        summary = extract(manifest, folder, options, checked, say=lambda _: check())
        streams = Cache(folder).streams
        for (uid, stream), reason in summary.failures.items():
            reasons.setdefault(uid, reason)
            if stream in streams and uid in streams[stream]:
                changed.setdefault(uid, reason)
        notes += [note for note in summary.notes if note not in notes]
    return reasons, changed, notes


class _Check:
    """Compares the recipes of streams with the heads' as soon as they are begun, before any work goes into them.

    Streams that were there before are not looked at: they may be those of other heads.
    """

    def __init__(self, ensemble: Ensemble, folder: Path) -> None:
        self._heads, self._folder = ensemble.heads, folder
        self._families = {name.partition("@")[0] for head in ensemble.heads for name in head.streams}
        self._checked = set(Cache(folder).stream_names) if folder.is_dir() else set()

    def __call__(self) -> None:
        cache = Cache(self._folder)
        for name in sorted(set(cache.stream_names) - self._checked):
            self._checked.add(name)
            if name.partition("@")[0] in self._families:
                for head in self._heads:
                    head.check(cache.stream(name))
