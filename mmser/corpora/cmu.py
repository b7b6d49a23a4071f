"""CMU-MOSI and CMU-MOSEI: opinions from YouTube, rated for sentiment (-3 to 3) and, in MOSEI, six emotions.

A. Zadeh, R. Zellers, E. Pincus, L.-P. Morency: "MOSI: multimodal corpus of sentiment intensity and subjectivity
analysis in online opinion videos", arXiv:1606.06259 (2016). A. Zadeh, P. P. Liang, S. Poria, E. Cambria, L.-P. Morency:
"Multimodal language analysis in the wild: CMU-MOSEI dataset", ACL 2018.

Two forms are read: ``label.csv`` and clips, as the tool MMSA hands them round, and for MOSEI the table
``CMU_MOSEI_Labels.csv`` that s3prl made of the release's labels, with the recordings of whole videos.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_below, files_in, relative, rows_of, text_of
from mmser.corpora.video import take_sound
from mmser.errors import ManifestError
from mmser.records import check_utterance_id

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""By s3prl's number: the strongest of six ratings, and "happy" where all are zero."""

PARTS = {"train": "train", "valid": "dev", "test": "test"}
"""MMSA's names of the official parts, which divide videos."""

_NUMBERED = {"0": "train", "1": "dev", "2": "test"}
"""s3prl's; 3 is in none."""

_MEETS_S = 0.05
"""How far a transcript's times may lie from a label's."""

_Spoken = tuple[float, float, str]
"""From, to (seconds of the video), and what is said."""


def read_mosi(request: Request) -> Found:
    """Read CMU-MOSI from ``label.csv`` and ``Raw/<video>/<clip>.mp4`` (or ``.wav``).

    Raises:
        ManifestError: ``label.csv`` is not there, or clips are videos and there is nowhere to put their sound.
        AudioError: ffmpeg is needed and not installed.
    """
    found = _read_clips(request, "CMU-MOSI")
    found.warnings.append("CMU-MOSI: a video stands for a speaker; the 93 are of 89 people, of whom no list is known")
    return found


def read_mosei(request: Request) -> Found:
    """Read CMU-MOSEI, from ``CMU_MOSEI_Labels.csv`` where it lies there, else as CMU-MOSI.

    Raises:
        ManifestError: neither table is there, or as in :func:`read_mosi`.
        AudioError: as in :func:`read_mosi`.
    """
    tables = {path.name: path for path in files_below(request.folder, ".csv")}
    if "CMU_MOSEI_Labels.csv" in tables:
        return _read_videos(request, tables["CMU_MOSEI_Labels.csv"])
    return _read_clips(request, "CMU-MOSEI")


def _read_clips(request: Request, title: str) -> Found:
    found = Found(request.folder)
    table = request.folder / "label.csv"
    if not table.is_file():
        raise ManifestError(
            f"{title}: folder {str(request.folder)!r} holds no 'label.csv': docs/corpora/cmu-mosi.md says whose"
        )
    videos: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    for row in rows_of(table, ("video_id", "clip_id", "text", "label", "mode")):
        video, clip = row["video_id"], row["clip_id"]
        check_utterance_id(video)
        check_utterance_id(clip)
        utterance_id = f"{video}_{clip}"
        home = request.folder / "Raw" / video
        if (home / f"{clip}.wav").is_file():
            sounds[utterance_id] = home / f"{clip}.wav"
        elif (home / f"{clip}.mp4").is_file():
            videos[utterance_id] = home / f"{clip}.mp4"
        else:
            found.excluded[utterance_id] = f"no clip Raw/{video}/{clip}.mp4"
            continue
        found.rows.append(_utterance(utterance_id, row, table))
    if videos:
        made, reasons = _sound_of(videos, request, title)
        sounds |= made
        found.excluded |= reasons
    found.rows = [row for row in found.rows if row["utterance_id"] in sounds]
    for row in found.rows:
        row["audio"] = relative(sounds[row["utterance_id"]], request.folder)
    return found


def _utterance(utterance_id: str, row: Mapping[str, str], table: Path) -> dict[str, str]:
    """The manifest's row of a row of ``label.csv``; its sound is not known yet."""
    try:
        sentiment = float(row["label"])
    except ValueError:
        raise ManifestError(f"{table}: {utterance_id!r} has label {row['label']!r}; expected a number") from None
    return {
        "utterance_id": utterance_id,
        "audio": "",
        "text": row["text"],
        "speaker": row["video_id"],
        "split": PARTS.get(row["mode"], row["mode"]),
        **_sentiments(sentiment),
    }


def _sound_of(videos: Mapping[str, Path], request: Request, title: str) -> tuple[dict[str, Path], dict[str, str]]:
    """The sound of each video, and the reason where there is none."""
    if request.audio is None:
        raise ManifestError(
            f"{title}: {len(videos)} clips are videos: give --audio FOLDER, where ffmpeg puts their sound"
        )
    return take_sound(videos, request.audio, title, request.report)


def _sentiments(sentiment: float) -> dict[str, str]:
    """A rating and the classes that the field makes of it."""
    sign = "negative" if sentiment < 0 else "positive" if sentiment > 0 else "neutral"
    return {
        "sentiment": f"{sentiment:g}",
        "sentiment2": "negative" if sentiment < 0 else "non-negative",
        "sentiment3": sign,
        "sentiment7": f"{min(3, max(-3, round(sentiment))):+d}",
    }


def _read_videos(request: Request, table: Path) -> Found:
    found = Found(request.folder)
    recordings = {path.stem: path for path in files_below(request.folder, ".wav") if path.parent.name == "WAV_16000"}
    transcripts = _transcripts(request.folder)
    clamped = 0
    for row in rows_of(table, ("file", "index", "start", "end", "label2a", "label2b", "label6", "label7", "split")):
        utterance_id = f"{row['file']}_{row['index']}"
        if row["split"] not in _NUMBERED:
            found.excluded[utterance_id] = "in none of the official parts"
        elif row["file"] not in recordings:
            found.excluded[utterance_id] = f"no recording WAV_16000/{row['file']}.wav"
        else:
            try:
                told = _rated(row, transcripts)
            except (ValueError, KeyError, IndexError):
                raise ManifestError(f"{table}: the row of {utterance_id!r} is not as s3prl writes it: {row}") from None
            clamped += float(row["start"]) < 0
            audio = relative(recordings[row["file"]], request.folder)
            found.rows.append({"utterance_id": utterance_id, "audio": audio, **told})
    if clamped:
        found.warnings.append(f"CMU-MOSEI: {clamped} utterances begin before their video does: they begin with it")
    without = sum(1 for row in found.rows if not row["text"])
    if without:
        found.warnings.append(f"CMU-MOSEI: {without} utterances have no transcript whose times are theirs")
    return found


def _rated(row: dict[str, str], transcripts: dict[str, list[_Spoken]]) -> dict[str, Any]:
    """What s3prl's table tells of an utterance; some begin before their video, and then begin with it.

    Of the rating it has classes alone, of which ``label7`` is rounded away from zero, as the release's readme does.
    """
    start, end = float(row["start"]), float(row["end"])
    return {
        "start_s": max(start, 0.0),
        "end_s": end,
        "text": _spoken(transcripts.get(row["file"], []), start, end),
        "speaker": row["file"],
        "split": _NUMBERED[row["split"]],
        "emotion": EMOTIONS[int(float(row["label6"]))],
        **_sentiments(float(row["label7"])),
        "sentiment2": "negative" if float(row["label2a"]) == 0 else "non-negative",
        "sentiment3": {-1.0: "negative", 0.0: "neutral", 1.0: "positive"}[float(row["label2b"])],
    }


def _transcripts(folder: Path) -> dict[str, list[_Spoken]]:
    """What is said in each video, with times. Clips are joined by them, as their numbers differ from the labels'."""
    home = next((path for path in sorted(folder.rglob("Combined")) if path.parent.name == "Segmented"), None)
    if home is None:
        return {}
    spoken: dict[str, list[_Spoken]] = {}
    for video, path in files_in(home, ".txt").items():
        fields: list[list[Any]] = [line.split("___", 4) for line in text_of(path).splitlines()]
        spoken[video] = [(float(f[2]), float(f[3]), f[4].strip()) for f in fields if len(f) == 5]
    return spoken


def _spoken(clips: list[_Spoken], start_s: float, end_s: float) -> str:
    near = (text for a, b, text in clips if abs(a - start_s) < _MEETS_S and abs(b - end_s) < _MEETS_S)
    return next(near, "")


_SENTIMENTS = {
    "sentiment3": LabelSet(column="sentiment3"),
    "sentiment2": LabelSet(column="sentiment2", note="negative against all others; papers also leave neutral out"),
    "sentiment7": LabelSet(
        column="sentiment7",
        note="MMSA's ratings are rounded, s3prl's were rounded away from zero (0.33 is 1): the two do not compare",
    ),
}

_OF_MOSI = Published(2_199, {"split": {"train": 1_284, "dev": 229, "test": 686}})

_OF_S3PRL = Published(22_860, {"split": {"train": 16_327, "dev": 1_871, "test": 4_662}}, release="CMU_MOSEI_Labels.csv")
_OF_MMSA = Published(22_856, {"split": {"train": 16_326, "dev": 1_871, "test": 4_659}}, release="label.csv")


def _sentiment_sets(*published: Published) -> dict[str, LabelSet]:
    return {name: replace(label_set, published=published) for name, label_set in _SENTIMENTS.items()}


CMU_MOSI = Corpus(
    title="CMU-MOSI",
    read=read_mosi,
    label_sets=_sentiment_sets(_OF_MOSI),
    protocol="cmu-sentiment",
)

CMU_MOSEI = Corpus(
    title="CMU-MOSEI",
    read=read_mosei,
    label_sets={
        **_sentiment_sets(_OF_S3PRL, _OF_MMSA),
        "emotion6": LabelSet(
            published=(_OF_S3PRL,), note="the strongest emotion, happy where all six are zero; not in label.csv"
        ),
    },
    protocol="cmu-sentiment",
)
