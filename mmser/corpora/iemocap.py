"""IEMOCAP: ten actors in five sessions, improvising and acting scripts; 10,039 turns.

C. Busso, M. Bulut, C.-C. Lee, A. Kazemzadeh, E. Mower, S. Kim, J. N. Chang, S. Lee, S. S. Narayanan: "IEMOCAP:
interactive emotional dyadic motion capture database", Language Resources and Evaluation 42 (2008).

The speaker is the session and the letter of the id's *last* part: ``Ses01F_impro01_M002`` is spoken by the man of
session 1, while the woman wears the markers.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_in, relative, text_of
from mmser.errors import ManifestError

NAMES = {
    "neutral": "neu",
    "neutral state": "neu",
    "frustration": "fru",
    "anger": "ang",
    "sadness": "sad",
    "excited": "exc",
    "happiness": "hap",
    "surprise": "sur",
    "fear": "fea",
    "disgust": "dis",
    "other": "oth",
}
"""Labels by the words that annotators were given."""

NO_MAJORITY = "xxx"
"""What the release writes where the annotators did not agree."""

_NAME = re.compile(
    r"(?P<dialogue>Ses0(?P<session>[1-5])[FM]_(?P<kind>impro|script)\d\d[a-z0-9_]*)_(?P<letter>[FM])\d{3}", re.ASCII
)

_TURN = re.compile(
    r"\[(?P<start>\d+\.\d+) - (?P<end>\d+\.\d+)\]\t(?P<id>\w+)\t(?P<emotion>\w+)\t"
    r"\[(?P<valence>-?\d+\.\d+), (?P<arousal>-?\d+\.\d+), (?P<dominance>-?\d+\.\d+)\]",
    re.ASCII,
)
"""The head of a turn; the order is valence, activation, dominance."""

_OBSERVER = re.compile(r"C-E\d+:\s*(?P<labels>[^()]*)", re.ASCII)
"""An observer's labels, each closed by ``;``. F1 and M1 judge themselves, and have no say in the release's label."""

_SPOKEN = re.compile(r"(?P<id>Ses\S+) \[\d+\.\d+-\d+\.\d+\]:\s*(?P<text>.*)", re.ASCII)


def read_iemocap(request: Request) -> Found:
    """Read IEMOCAP: ``Session1`` to ``Session5``.

    Ratings are on the release's scale of 1 to 5, which it leaves by half a point in seven turns; they stay as they are.
    ``votes`` counts every label of every observer; one may give several.

    Raises:
        ManifestError: there is no session in the folder, or no evaluation in one.
    """
    found = Found(request.folder)
    top = _top(request.folder)
    sessions = [top / f"Session{number}" for number in range(1, 6)]
    absent = [session.name for session in sessions if not session.is_dir()]
    if len(absent) == len(sessions):
        raise ManifestError(
            f"IEMOCAP: folder {str(request.folder)!r} holds no 'Session1' to 'Session5'; give the folder that does "
            "(IEMOCAP_full_release)"
        )
    if absent:
        found.warnings.append(f"IEMOCAP: {', '.join(absent)} not there")
    for session in sessions:
        if session.is_dir():
            _read_session(session, found)
    return found


def _top(folder: Path) -> Path:
    inner = folder / "IEMOCAP_full_release"
    return inner if inner.is_dir() else folder


def _read_session(session: Path, found: Found) -> None:
    # the folders Attribute, Categorical and Self-evaluation beside the files hold the same judgements one by one
    evaluations = files_in(session / "dialog" / "EmoEvaluation", ".txt")
    if not evaluations:
        raise ManifestError(f"IEMOCAP: {session} holds no 'dialog/EmoEvaluation/Ses*.txt': unpack the whole release")
    for dialogue, path in evaluations.items():
        if not dialogue.startswith("Ses"):
            continue
        spoken = _transcript(session / "dialog" / "transcriptions" / f"{dialogue}.txt", found)
        there = files_in(session / "sentences" / "wav" / dialogue, ".wav")
        for row in _turns(path, found):
            utterance_id = row["utterance_id"]
            if utterance_id not in there:
                found.excluded[utterance_id] = "its recording is not there"
            else:
                row["audio"] = relative(there[utterance_id], found.base)
                row["text"] = spoken.get(utterance_id, "")
                found.rows.append(row)


def _turns(path: Path, found: Found) -> list[dict[str, Any]]:
    """The turns of a dialogue, without audio and text."""
    turns: list[dict[str, Any]] = []
    votes: Counter[str] = Counter()
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if line.startswith("["):
            turn = _TURN.fullmatch(line.rstrip())
            name = turn and _NAME.fullmatch(turn["id"])
            if turn is None or name is None:
                found.warnings.append(f"IEMOCAP: {path.name}, line {number}: not the head of a turn: {line!r}")
                votes = Counter()  # belongs to no turn: what follows is not of the turn before
                continue
            turns.append(_row(turn, name))
            votes = turns[-1]["votes"]
        elif observer := _OBSERVER.match(line):
            labels = [label.strip().lower() for label in observer["labels"].split(";") if label.strip()]
            votes.update(NAMES.get(label, label) for label in labels)
    return turns


def _row(turn: re.Match[str], name: re.Match[str]) -> dict[str, Any]:
    emotion = turn["emotion"]
    return {
        "utterance_id": turn["id"],
        "audio": "",
        "text": "",
        "speaker": f"Ses0{name['session']}_{name['letter']}",
        "session": f"Ses0{name['session']}",
        "emotion": "" if emotion == NO_MAJORITY else emotion,
        "arousal": turn["arousal"],
        "valence": turn["valence"],
        "dominance": turn["dominance"],
        "gender": "female" if name["letter"] == "F" else "male",
        "dialogue": name["dialogue"],
        "scenario": "improvised" if name["kind"] == "impro" else "scripted",
        "dialogue_start_s": turn["start"],
        "dialogue_end_s": turn["end"],
        "votes": Counter(),
    }


def _transcript(path: Path, found: Found) -> dict[str, str]:
    """What is said in a dialogue, by turn; lines that are no turn (``..._MXX0``, remarks) are skipped."""
    if not path.is_file():
        found.warnings.append(f"IEMOCAP: no transcript {path.name}: its turns have no text")
        return {}
    spoken = (_SPOKEN.fullmatch(line.strip()) for line in text_of(path).splitlines())
    return {match["id"]: match["text"].strip() for match in spoken if match}


_FOUR = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
_SIX = ("neu", "hap", "exc", "ang", "sad", "fru")
_OF_SIX = {"neu": 1_708, "hap": 595, "exc": 1_041, "ang": 1_103, "sad": 1_084, "fru": 1_849}


def _by_session(*counts: int) -> dict[str, int]:
    return {f"Ses0{number}": count for number, count in enumerate(counts, 1)}


IEMOCAP = Corpus(
    title="IEMOCAP",
    read=read_iemocap,
    label_sets={
        "4class-exc-as-hap": LabelSet(
            classes=_FOUR,
            published=(
                Published(
                    5_531,
                    {
                        "label": {"neu": 1_708, "hap": 1_636, "ang": 1_103, "sad": 1_084},
                        "session": _by_session(1_085, 1_023, 1_151, 1_031, 1_241),
                    },
                ),
            ),
            note="excitement counts as happiness; without it the four classes are 4,490, another task",
        ),
        "4class-improvised": LabelSet(
            classes=_FOUR,
            only={"scenario": "improvised"},
            published=(Published(2_943, {"label": {"neu": 1_099, "hap": 947, "ang": 289, "sad": 608}}),),
            note="improvised turns alone: scripts say the same words in the same emotion",
        ),
        "6class": LabelSet(
            classes={name: name for name in _SIX},
            published=(Published(7_380, {"label": _OF_SIX}),),
            note="7,380 by the release's text labels; the list that DialogueRNN published has 7,433, with 53 turns of "
            "happiness more: the two do not compare",
        ),
        "dimensional": LabelSet(
            classes={name: name for name in dict.fromkeys(NAMES.values())},
            keep_all=True,
            published=(
                Published(10_039, {"session": _by_session(1_819, 1_811, 2_136, 2_103, 2_170), "label": _OF_SIX}),
            ),
            note="every turn, with its ratings; the label is empty where observers did not agree (2,507)",
        ),
    },
    rates=frozenset({16_000}),
    protocol="iemocap-loso",
)
