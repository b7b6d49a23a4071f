"""MELD: 13,708 utterances of the television series Friends, in seven emotions and three sentiments.

S. Poria, D. Hazarika, N. Majumder, G. Naik, E. Cambria, R. Mihalcea: "MELD: A multimodal multi-party dataset for
emotion recognition in conversations", ACL 2019. The clips are videos. Known faults are those of the issues of
github.com/declare-lab/MELD.
"""

import re
from pathlib import Path

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_below, files_in, listed, relative, rows_of
from mmser.corpora.video import take_sound
from mmser.errors import ManifestError

PARTS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
"""Folder of each part's clips."""

FAULTS = {
    "train_dia125_utt3": "a corrupt video (issue 39)",
    "dev_dia110_utt7": "its video is not in the corpus (issue 27)",
    "test_dia38_utt4": "miscut: its clip is 305 s long (issue 20)",
    "test_dia220_utt0": "miscut: its clip is 235 s long (issue 20)",
    "train_dia309_utt0": "miscut: its clip is 41 s long (issue 20)",
}
"""Utterances that cannot be used."""

_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")

_CLIP = re.compile(r"dia(\d+)_utt(\d+)", re.ASCII)


def read_meld(request: Request) -> Found:
    """Read MELD: a table and a folder of clips a part.

    A ``.wav`` beside a clip is taken for its sound; where there is none, ffmpeg makes it in ``request.audio``.

    Raises:
        ManifestError: no table of a part is in the folder, or clips are videos and there is nowhere to put their sound.
        AudioError: ffmpeg is needed and not installed.
    """
    found = Found(request.folder)
    tables = {path.name: path for path in files_below(request.folder, ".csv")}
    homes = {path.name: path for path in sorted(request.folder.rglob("*")) if path.name in PARTS.values()}
    if not any(f"{part}_sent_emo.csv" in tables for part in PARTS):
        raise ManifestError(
            f"MELD: folder {str(request.folder)!r} holds no 'train_sent_emo.csv', 'dev_sent_emo.csv' or "
            "'test_sent_emo.csv': give the folder MELD.Raw, with its archives unpacked"
        )
    videos: dict[str, Path] = {}
    sounds: dict[str, Path] = {}
    for part, home in PARTS.items():
        table = tables.get(f"{part}_sent_emo.csv")
        if table is None:
            found.warnings.append(f"MELD: no {part}_sent_emo.csv: nothing of part {part}")
            continue
        clips = files_in(homes.get(home, request.folder / home), ".mp4")
        ready = files_in(homes.get(home, request.folder / home), ".wav")
        _read_part(part, table, found, set(clips) | set(ready))
        videos |= {f"{part}_{stem}": path for stem, path in clips.items() if stem not in ready}
        sounds |= {f"{part}_{stem}": path for stem, path in ready.items()}
    wanted = {row["utterance_id"]: videos[row["utterance_id"]] for row in found.rows if row["utterance_id"] in videos}
    _add_sound(found, request, sounds, wanted)
    return found


def _read_part(part: str, table: Path, found: Found, clips: set[str]) -> None:
    """Rows without audio; clips without a row, and rows without a clip, are excluded."""
    rows = rows_of(table, _COLUMNS)
    told = {f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}" for row in rows}
    strangers = sorted(clip for clip in clips if not _CLIP.fullmatch(clip))
    if strangers:
        found.warnings.append(f"MELD: {len(strangers)} files in {PARTS[part]} are no clips: {listed(strangers)}")
    for clip in sorted(clips - told - set(strangers)):
        found.excluded[f"{part}_{clip}"] = f"a clip without a row in {table.name}"
    for row in rows:
        clip = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        if not _CLIP.fullmatch(clip):
            raise ManifestError(f"{table}: {clip!r} is no dialogue and utterance; expected numbers")
        utterance_id = f"{part}_{clip}"
        if utterance_id in FAULTS:
            found.excluded[utterance_id] = FAULTS[utterance_id]
        elif clip not in clips:
            found.excluded[utterance_id] = f"no clip {clip}.mp4 in {PARTS[part]}"
        else:
            found.rows.append(
                {
                    "utterance_id": utterance_id,
                    "audio": "",
                    "text": row["Utterance"],
                    "speaker": row["Speaker"],
                    "emotion": row["Emotion"],
                    "sentiment": row["Sentiment"],
                    "split": part,
                    "dialogue": f"{part}_dia{row['Dialogue_ID']}",
                    "season": row["Season"],
                    "episode": row["Episode"],
                }
            )


def _add_sound(found: Found, request: Request, sounds: dict[str, Path], videos: dict[str, Path]) -> None:
    if videos and request.audio is None:
        raise ManifestError(
            f"MELD: {len(videos)} clips are videos: give --audio FOLDER, where ffmpeg puts their sound (16 kHz, mono)"
        )
    if videos and request.audio is not None:
        made, reasons = take_sound(videos, request.audio, "MELD", request.report)
        sounds |= made
        found.excluded |= reasons
    found.rows = [row for row in found.rows if row["utterance_id"] in sounds]
    for row in found.rows:
        row["audio"] = relative(sounds[row["utterance_id"]], request.folder)


_EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
_ROWS = {"train": 9_989, "dev": 1_109, "test": 2_610}
"""Rows of the tables, the faulty ones with them."""

_USABLE = {part: rows - sum(name.startswith(part) for name in FAULTS) for part, rows in _ROWS.items()}

MELD = Corpus(
    title="MELD",
    read=read_meld,
    label_sets={
        # what the faulty rows are labelled is not known here, so classes are not compared
        "7class": LabelSet(
            classes={name: name for name in _EMOTIONS},
            published=(Published(sum(_USABLE.values()), {"split": _USABLE}),),
        ),
        "sentiment": LabelSet(column="sentiment", published=(Published(sum(_USABLE.values()), {"split": _USABLE}),)),
    },
    shared_speakers="its parts share the six main characters of the series",
)
