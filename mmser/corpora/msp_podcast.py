"""MSP-Podcast: turns cut from podcasts, in releases of growing size.

R. Lotfian, C. Busso: "Building naturalistic emotionally balanced speech corpus by retrieving emotional speech from
existing podcast recordings", IEEE Transactions on Affective Computing 10 (2019).
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_in, listed, number, present, relative, rows_of, text_of
from mmser.errors import ManifestError

LABEL_FOLDERS = ("Labels", "labels", "label")
LABEL_FILES = ("labels_consensus.csv", "labels_concensus.csv", "labels_consensus.json", "labels_concensus.json")
"""Releases up to 1.9 misspell the name."""

CODES = {
    "A": "Angry",
    "S": "Sad",
    "H": "Happy",
    "U": "Surprise",
    "F": "Fear",
    "D": "Disgust",
    "C": "Contempt",
    "N": "Neutral",
    "O": "Other",
    "X": "",
}
"""Codes of the consensus and the words that workers chose from; X: no agreement."""

_COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")

VOTE_FILES = ("labels.txt", "labels_detailed.csv")
"""Workers' judgements one by one, in two forms of which either will do."""

_WORKER = re.compile(r"WORKER\d+;\s*(?P<label>[A-Za-z]+)", re.ASCII)
"""A worker's line in ``labels.txt``; the first label is the primary one, and ``Other-tired`` is Other."""

_PRIMARY = re.compile(r"(?P<label>[A-Za-z]+)", re.ASCII)
"""The same where it has a column of its own."""

_OF_WORD = {word: code for code, word in CODES.items() if word}


def read_msp_podcast(request: Request) -> Found:
    """Read MSP-Podcast: the consensus labels, the partitions and, where unpacked, the transcripts and workers' votes.

    ``split`` is as the release has it (Train, Development or Validation, Test1, Test2); turns without labels, as all
    of Test3, are excluded.

    Raises:
        ManifestError: there are no consensus labels in the folder, or not in the form of a release.
    """
    found = Found(request.folder)
    labels = present(request.folder, LABEL_FOLDERS) or request.folder
    consensus = present(labels, LABEL_FILES)
    if consensus is None:
        raise ManifestError(
            f"MSP-Podcast: folder {str(labels)!r} holds no 'labels_consensus.csv' (nor '.json'): unpack the "
            "release's labels"
        )
    audio = present(request.folder, ("Audios", "Audio", "audios")) or request.folder / "Audios"
    recordings = files_in(audio, ".wav")
    votes = _votes(labels, found)
    spoken = _transcripts(request.folder, found)
    rated = _consensus(consensus)
    for name, labelled in rated.items():
        stem = name.removesuffix(".wav")
        if stem not in recordings:
            found.excluded[stem] = "its recording is not there"
            continue
        row = _row(stem, labelled) | {"audio": relative(recordings[stem], request.folder)}
        if stem in spoken:
            row["text"] = " ".join(text_of(spoken[stem]).split())
        if votes:
            row["votes"] = votes.get(stem, Counter())
        found.rows.append(row)
    parts = _partitions(request.folder)
    found.excluded |= {
        stem: f"{part}: no labels are published" for stem, part in parts.items() if f"{stem}.wav" not in rated
    }
    moved = [row["utterance_id"] for row in found.rows if parts.get(row["utterance_id"], row["split"]) != row["split"]]
    if moved:
        found.warnings.append(
            f"MSP-Podcast: {len(moved)} turns are in another part by Partitions.txt than by {consensus.name}, which is "
            "taken; are they of one release?"
        )
    return found


def _consensus(path: Path) -> dict[str, dict[str, str]]:
    """Labels by file name."""
    if path.suffix == ".csv":
        return {row["FileName"]: row for row in rows_of(path, _COLUMNS)}
    try:
        table = json.loads(text_of(path))
        rows = {name: {key: str(value) for key, value in row.items()} for name, row in table.items()}
    except (ValueError, AttributeError) as error:
        raise ManifestError(f"{path}: not readable ({error}); copy or download it again") from error
    for name, row in rows.items():
        missing = [column for column in _COLUMNS[1:] if column not in row]
        if missing:
            raise ManifestError(f"{path}: {name!r} has no {missing[0]!r}; expected the release's own file")
    return rows


def _row(stem: str, labelled: dict[str, str]) -> dict[str, Any]:
    speaker, gender = labelled["SpkrID"].strip(), labelled["Gender"].strip().lower()
    emotion = labelled["EmoClass"].strip()
    return {
        "utterance_id": stem,
        "audio": "",
        "text": "",
        "speaker": "" if speaker.lower() == "unknown" else speaker,
        "emotion": "" if emotion == "X" else emotion,
        "arousal": number(labelled["EmoAct"]),
        "valence": number(labelled["EmoVal"]),
        "dominance": number(labelled["EmoDom"]),
        "split": labelled["Split_Set"].strip(),
        "gender": "" if gender == "unknown" else gender,
    }


def _transcripts(folder: Path, found: Found) -> dict[str, Path]:
    home = present(folder, ("Transcripts", "transcripts"))
    if home is None or home.is_file():
        found.warnings.append("MSP-Podcast: no folder 'Transcripts' (unpack Transcripts.zip): no transcripts")
        return {}
    return files_in(home, ".txt")


def _votes(labels: Path, found: Found) -> dict[str, Counter[str]]:
    """Workers' primary labels by turn; none where no file of them is there."""
    path = present(labels, VOTE_FILES)
    if path is None:
        found.warnings.append(f"MSP-Podcast: neither {' nor '.join(VOTE_FILES)} is there: workers' votes are not known")
        return {}
    return _votes_of_table(path, found) if path.suffix == ".csv" else _votes_of_blocks(path)


def _votes_of_blocks(path: Path) -> dict[str, Counter[str]]:
    votes: dict[str, Counter[str]] = {}
    turn = ""
    for line in text_of(path).splitlines():
        if line.startswith("MSP-PODCAST"):
            turn = line.split(";")[0].strip().removesuffix(".wav")
            votes[turn] = Counter()
        elif turn and (worker := _WORKER.match(line.strip())):
            votes[turn][_OF_WORD.get(worker["label"], "O")] += 1
    return votes


def _votes_of_table(path: Path, found: Found) -> dict[str, Counter[str]]:
    """A row a judgement: 1.7 to 1.12 have the worker's line in one cell, releases before and after a column a label."""
    rows = rows_of(path, ("FileName",))
    column, pattern = ("EmoDetail", _WORKER) if rows and "EmoDetail" in rows[0] else ("EmoClass_Major", _PRIMARY)
    if rows and column not in rows[0]:
        raise ManifestError(f"{path}: has no column 'EmoDetail' or 'EmoClass_Major'; expected the release's own file")
    votes: dict[str, Counter[str]] = {}
    told = [(row["FileName"].removesuffix(".wav"), pattern.match(row[column])) for row in rows]
    for turn, worker in told:
        if worker is not None:
            votes.setdefault(turn, Counter())[_OF_WORD.get(worker["label"], "O")] += 1
    if without := [turn for turn, worker in told if worker is None]:
        found.warnings.append(f"MSP-Podcast: {len(without)} judgements in {path.name} name no label: {listed(without)}")
    return votes


def _partitions(folder: Path) -> dict[str, str]:
    """Parts by turn, from ``Partitions.txt`` (in some releases ``Partition.txt``); none where it is not there."""
    path = present(folder, ("Partitions.txt", "Partition.txt"))
    if path is None:
        return {}
    lines = (line.split(";") for line in text_of(path).splitlines())
    return {fields[1].strip().removesuffix(".wav"): fields[0].strip() for fields in lines if len(fields) == 2}


_EIGHT = tuple(code for code in CODES if code not in "OX")

_RELEASES = (
    Published(73_042, {"split": {"Test1": 15_326, "Test2": 5_037}}, release="1.8"),
    Published(149_307, {"split": {"Train": 84_030, "Test1": 30_647, "Test2": 14_815}}, release="1.11"),
    Published(116_221, {}, release="Odyssey 2024"),
)
"""With labels, so without Test3."""

MSP_PODCAST = Corpus(
    title="MSP-Podcast",
    read=read_msp_podcast,
    label_sets={
        "4class": LabelSet(
            classes={code: code for code in "ASHN"},
            published=(Published(46_160, {"split": {"Train": 28_601, "Test1": 9_304, "Test2": 3_483}}, release="1.8"),),
        ),
        "8class": LabelSet(classes={code: code for code in _EIGHT}),
        "dimensional": LabelSet(classes={code: code for code in (*_EIGHT, "O")}, keep_all=True, published=_RELEASES),
    },
    rates=frozenset({16_000}),
    odd_rates={"MSP-PODCAST_1023_0235": 44_100},
    shared_speakers="Test1, Test2 and Test3 share speakers with each other: they are never joined",
    protocol="msp-podcast",
)
