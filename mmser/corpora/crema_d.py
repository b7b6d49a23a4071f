"""CREMA-D: 91 actors speak twelve sentences in six emotions; thousands of listeners said what they heard.

H. Cao, D. G. Cooper, M. K. Keutmann, R. C. Gur, A. Nenkova, R. Verma: "CREMA-D: Crowd-sourced emotional multimodal
actors dataset", IEEE Transactions on Affective Computing 5 (2014). The label is the emotion that was asked for;
``votes_*`` and ``heard`` are what those heard who had the voice alone.
"""

import re
from collections import Counter
from pathlib import Path

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import named_recordings, relative, rows_of
from mmser.errors import ManifestError

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}

LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}
"""Intensity asked for; only the sentence IEO has it."""

SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}

SILENT = "1076_MTI_SAD_XX"
"""The one recording without a signal."""

_NAME = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)", re.ASCII)

_LETTERS = {name[0]: name for name in EMOTIONS}
"""``tabulatedVotes.csv`` has a column a letter."""

_VOICE = "1"
"""First digit of the row names of votes on the voice alone (2: the face, 3: both)."""


def read_crema_d(request: Request) -> Found:
    """Read CREMA-D, with its actors' sex and age and its listeners' votes where those files lie in the folder.

    Raises:
        ManifestError: there is no recording in the folder, all are git-lfs pointers, or a table is not as published.
    """
    found = Found(request.folder)
    folder = request.folder / "AudioWAV" if (request.folder / "AudioWAV").is_dir() else request.folder
    named = named_recordings(folder, _NAME, "CREMA-D", "1001_IEO_NEU_XX", found.warnings, found.excluded)
    actors, votes = _actors(request.folder, found), _votes(request.folder, found)
    for path, match in named:
        actor, sentence, emotion, level = match.groups()
        if path.stem == SILENT:
            found.excluded[path.stem] = "known to hold no signal"
            continue
        row = {
            "utterance_id": path.stem,
            "audio": relative(path, request.folder),
            "text": SENTENCES.get(sentence, ""),
            "speaker": actor,
            "emotion": emotion,
            "sentence": sentence,
            "intensity": LEVELS[level],
            **actors.get(actor, {}),
        }
        if votes:
            heard = votes.get(path.stem, Counter())
            row |= {"heard": _majority(heard), "votes": heard}
        found.rows.append(row)
    return found


def _actors(folder: Path, found: Found) -> dict[str, dict[str, str]]:
    path = folder / "VideoDemographics.csv"
    if not path.is_file():
        found.warnings.append("CREMA-D: VideoDemographics.csv is not there: gender and age are not known")
        return {}
    rows = rows_of(path, ("ActorID", "Age", "Sex"))
    return {row["ActorID"]: {"gender": row["Sex"].lower(), "age": row["Age"]} for row in rows}


def _votes(folder: Path, found: Found) -> dict[str, Counter[str]]:
    """Votes on the voice alone, by recording."""
    path = folder / "processedResults" / "tabulatedVotes.csv"
    if not path.is_file():
        found.warnings.append("CREMA-D: processedResults/tabulatedVotes.csv is not there: votes are not known")
        return {}
    rows = [row for row in rows_of(path, ("", *_LETTERS, "fileName")) if row[""].startswith(_VOICE)]
    try:
        return {row["fileName"]: Counter({name: int(row[one] or 0) for one, name in _LETTERS.items()}) for row in rows}
    except ValueError as error:
        raise ManifestError(f"{path}: a count of votes is no number ({error}); download it again") from None


def _majority(votes: Counter[str]) -> str:
    """The class that most heard; "" for a tie."""
    best = votes.most_common(2)
    if not best or not best[0][1] or (len(best) > 1 and best[0][1] == best[1][1]):
        return ""
    return EMOTIONS[best[0][0]]


_COUNTS = {name: 1_087 if name == "neutral" else 1_271 for name in EMOTIONS.values()}

CREMA_D = Corpus(
    title="CREMA-D",
    read=read_crema_d,
    label_sets={
        "6class": LabelSet(
            classes=EMOTIONS,
            published=(Published(7_441, {"label": _COUNTS | {"sad": 1_270}}),),
            note="the emotion asked for; what was heard is in the column 'heard' (7,442 with the one silent recording)",
        )
    },
    rates=frozenset({16_000}),
    protocol="leave-one-speaker-out",
)
