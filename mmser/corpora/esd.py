"""ESD: ten speakers of Mandarin and ten of English read 350 sentences each in five emotions.

K. Zhou, B. Sisman, R. Liu, H. Li: "Emotional voice conversion: theory, databases and ESD", Speech Communication 137
(2022). Its transcripts come in four encodings, some with broken lines: the folder a recording lies in is its label.
"""

import re
from pathlib import Path

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import listed, named_recordings, relative, text_of

EMOTIONS = ("Angry", "Happy", "Neutral", "Sad", "Surprise")

BLOCKS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
"""Numbers 1 to 350 are neutral, 351 to 700 angry, ..."""

PER_BLOCK = 350

PARTS = {"train": "train", "evaluation": "dev", "test": "test"}
"""The corpus's own parts: of sentences, not of speakers."""

MANDARIN = frozenset(f"{speaker:04d}" for speaker in range(1, 11))

MEN = frozenset(f"{speaker:04d}" for speaker in (4, 5, 6, 8, 10, 11, 12, 13, 14, 20))

_WRITTEN = {*EMOTIONS, "中立", "快乐", "伤心", "生气", "惊喜"}
"""What the last field of a transcript's line may be."""

_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\ue000-\ufaff\U00020000-\U0003ffff]")
"""Ideographs and signs for private use: what letters of Latin-1 become where they are read as GB 18030."""

_NAME = re.compile(r"(\d{4})_(\d{6})", re.ASCII)
_LINE = re.compile(r"(\d{4}_\d{6})\s+(.*\S)", re.ASCII)


def read_esd(request: Request) -> Found:
    """Read ESD.

    Raises:
        ManifestError: there is no ESD recording in the folder, or a transcript is in no known encoding.
    """
    found = Found(request.folder)
    named = named_recordings(request.folder, _NAME, "ESD", "0011_000001", found.warnings, found.excluded)
    # by where a speaker's recordings lie, because copies put the folders into others
    homes = {match[1]: _home(path, match[1]) for path, match in named}
    texts = {speaker: _texts(home, speaker) for speaker, home in homes.items()}
    for path, match in named:
        speaker, number = match.groups()
        folders = path.relative_to(request.folder).parts[:-1]
        emotion = next((folder for folder in reversed(folders) if folder in EMOTIONS), "")
        block = (int(number) - 1) // PER_BLOCK
        meant = BLOCKS[block] if 0 <= block < len(BLOCKS) else "none"
        if emotion != meant:
            found.excluded[path.stem] = f"its folder is {emotion or path.parent.name!r}, and its number is of {meant!r}"
            continue
        part = next((PARTS[folder] for folder in folders if folder in PARTS), "")
        found.rows.append(
            {
                "utterance_id": path.stem,
                "audio": relative(path, request.folder),
                "text": texts[speaker].get(path.stem, ""),
                "speaker": speaker,
                "emotion": emotion,
                "gender": "male" if speaker in MEN else "female",
                "language": "zh" if speaker in MANDARIN else "en",
                "split": part,
            }
        )
    without = [row["utterance_id"] for row in found.rows if not row["text"]]
    if without:
        found.warnings.append(f"ESD: {len(without)} recordings have no transcript: {listed(without)}")
    return found


def _home(path: Path, speaker: str) -> Path:
    """The folder of a speaker, which holds the transcripts."""
    return next((parent for parent in path.parents if parent.name == speaker), path.parent)


def _texts(home: Path, speaker: str) -> dict[str, str]:
    """What a speaker says, by recording. A line without its label, or with it behind a blank, is read all the same."""
    path = home / f"{speaker}.txt"
    if not path.is_file():
        return {}
    texts = {}
    for line in text_of(path, _encodings(path, speaker)).splitlines():
        if match := _LINE.search(line):
            words = match[2].rsplit(None, 1)
            label = words[-1] in _WRITTEN and len(words) == 2
            texts[match[1]] = (words[0] if label else match[2]).strip()
    return texts


def _encodings(path: Path, speaker: str) -> tuple[str, ...]:
    """UTF-16 has zero bytes where there is a letter or digit; Chinese that is not UTF-8 is GB2312.

    English is GB2312 (curly apostrophes) or Latin-1.
    """
    data = path.read_bytes()
    head = data[:64]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16",)
    if b"\0" in head:
        return ("utf-16-be" if head[0] == 0 else "utf-16-le",)
    if speaker in MANDARIN or _is_western_gb(data):
        return ("utf-8-sig", "gb18030")
    return ("utf-8-sig", "latin-1")


def _is_western_gb(data: bytes) -> bool:
    """Whether it reads as GB 18030 without a Chinese character."""
    try:
        return _CHINESE.search(data.decode("gb18030")) is None
    except UnicodeError:
        return False


def _label_set(language: str | None, each: int) -> LabelSet:
    only = {"language": language} if language else {}
    return LabelSet(only=only, published=(Published(each * len(EMOTIONS), {"label": dict.fromkeys(EMOTIONS, each)}),))


ESD = Corpus(
    title="ESD",
    read=read_esd,
    label_sets={
        "5class": _label_set(None, 7_000),
        "english": _label_set("en", 3_500),
        "mandarin": _label_set("zh", 3_500),
    },
    rates=frozenset({16_000}),
    shared_speakers="its parts are of sentences: every speaker is in all three",
    protocol="leave-one-speaker-out",
)
