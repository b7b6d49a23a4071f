"""EmoDB, the Berlin Database of Emotional Speech: ten actors say ten German sentences in seven emotions.

F. Burkhardt, A. Paeschke, M. Rolfes, W. F. Sendlmeier, B. Weiss: "A database of German emotional speech",
Interspeech 2005. Everything about a recording is in its name: ``03a01Fa.wav`` is speaker 03, sentence a01,
happiness (Freude), version a.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from mmser.errors import ManifestError
from mmser.manifest import Manifest

EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
"""First letters of the German words Wut, Langeweile, Ekel, Angst, Freude, Trauer; N is neutral."""

COUNTS = {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "sadness": 62, "neutral": 79}
"""Recordings of each emotion in the published corpus; together 535."""

SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Blatt Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
"""What is said. The text is the same for every emotion: a head that sees text alone must stay at chance.

The corpus's page writes a05 with "Stück Papier"; the labels of all its 62 recordings say "Blatt", in both tiers.
"""

MEN = frozenset({"03", "10", "11", "12", "15"})
"""Speakers who are men; the others (08, 09, 13, 14, 16) are women."""

_NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-f])", re.ASCII)


def read_emodb(folder: Path) -> Manifest:
    """Make a manifest of EmoDB.

    Columns: utterance_id, audio, text, speaker, label, gender, sentence, version; rows in order of the names.
    Recordings whose names are not EmoDB's are left out, and named in the manifest's ``warnings``, as is every
    emotion whose number of recordings is not the published one.

    Args:
        folder: the corpus's folder, which holds ``wav/``, or that folder itself.

    Raises:
        ManifestError: there is no such folder, or no EmoDB recording in it.
    """
    folder = Path(folder)
    wav = folder / "wav" if (folder / "wav").is_dir() else folder
    if not wav.is_dir():
        raise ManifestError(f"EmoDB folder {str(folder)!r} is not there; expected the folder that holds 'wav/'")
    paths = sorted(p for p in wav.iterdir() if p.suffix.lower() == ".wav" and not p.name.startswith("._"))
    rows = [row for path in paths if (row := _row(path, folder))]
    if not rows:
        found = ", ".join(repr(p.name) for p in sorted(wav.iterdir())[:3]) or "nothing"
        raise ManifestError(
            f"EmoDB folder {str(wav)!r} holds no recording named like '03a01Fa.wav'; found {found}: "
            "give the folder that holds 'wav/'"
        )
    strangers = [path.name for path in paths if not _row(path, folder)]
    labels = Counter(row["label"] for row in rows)
    return Manifest(pd.DataFrame(rows), folder, warnings=(*_strange(strangers), *_miscounted(labels)))


def _row(path: Path, folder: Path) -> dict[str, str] | None:
    match = _NAME.fullmatch(path.stem)
    if match is None or match[2] not in SENTENCES:
        return None
    speaker, sentence, emotion, version = match.groups()
    return {
        "utterance_id": path.stem,
        "audio": path.relative_to(folder).as_posix(),
        "text": SENTENCES[sentence],
        "speaker": speaker,
        "label": EMOTIONS[emotion],
        "gender": "male" if speaker in MEN else "female",
        "sentence": sentence,
        "version": version,
    }


def _strange(names: list[str]) -> list[str]:
    if not names:
        return []
    first = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"EmoDB: left out {len(names)} recordings not named like '03a01Fa.wav': {first}"]


def _miscounted(labels: Counter[str]) -> list[str]:
    return [
        f"EmoDB: found {labels[label]} recordings of {label}, expected {expected} as published"
        for label, expected in COUNTS.items()
        if labels[label] != expected
    ]
