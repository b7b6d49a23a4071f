"""MSP-IMPROV: twelve actors in six dyads, 8,438 turns around sentences that must be said.

C. Busso, S. Parthasarathy, A. Burmania, M. AbdelWahab, N. Sadoughi, E. Mower Provost: "MSP-IMPROV: an acted corpus of
dyadic interactions to study emotion perception", IEEE Transactions on Affective Computing 8 (2017).

Its activation is inverted, 1 is active and 5 is calm: ``arousal`` is 6 minus what the file says.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import by_stem, files_below, number, present, relative, text_of
from mmser.errors import ManifestError

CONDITIONS = {
    "S": "other-improvised",
    "P": "natural",
    "T": "target-improvised",
    "R": "target-read",
}
"""How a turn came about, by the letter in its name."""

SCALE_SUM = 6
"""Least and greatest rating together: what an inverted rating is taken from."""

EVALUATIONS = ("Evaluation.txt", "Evalution.txt")
"""Releases spell it both ways."""

_LABELS = {"Neutral": "N", "Happy": "H", "Sad": "S", "Angry": "A", "Other": "O"}

_NAME = re.compile(
    r"MSP-IMPROV-S(?P<sentence>\d\d)(?P<intended>[AHNS])-(?P<speaker>(?P<sex>[FM])0(?P<session>[1-6]))-"
    r"(?P<condition>[PRST])-(?:FF|FM|MF|MM)\d\d",
    re.ASCII,
)

_NUMBER = r"\d+(?:\.\d+)?|NaN"
_RATINGS = rf"A:(?P<a>{_NUMBER});\s*V:(?P<v>{_NUMBER});\s*D:(?P<d>{_NUMBER})\s*;\s*N:(?P<n>{_NUMBER});"
_HEAD = re.compile(rf"UTD-IMPROV-(?P<id>[A-Z0-9-]+)\.avi;\s*(?P<emotion>[A-Z]);\s*{_RATINGS}\s*", re.ASCII)
_RATER = re.compile(r"[\w-]+;\s*(?P<label>Sad|Angry|Happy|Neutral|Other);", re.ASCII)

_INTENDED = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}


def read_msp_improv(request: Request) -> Found:
    """Read MSP-IMPROV: the evaluation, the recordings and, where they lie there, the transcripts.

    Raises:
        ManifestError: there is no evaluation in the folder.
    """
    found = Found(request.folder)
    path = present(request.folder, EVALUATIONS)
    if path is None:
        raise ManifestError(
            f"MSP-IMPROV: folder {str(request.folder)!r} holds no {' or '.join(map(repr, EVALUATIONS))}: give the "
            "folder that does"
        )
    recordings = by_stem(files_below(request.folder, ".wav"), found.warnings, "MSP-IMPROV")
    spoken = _transcripts(request.folder, found)
    for row in _turns(path, found):
        utterance_id = row["utterance_id"]
        if utterance_id not in recordings:
            found.excluded[utterance_id] = "its recording is not there"
            continue
        row["audio"] = relative(recordings.pop(utterance_id), request.folder)
        if utterance_id in spoken:
            row["text"] = " ".join(text_of(spoken[utterance_id]).split())
        found.rows.append(row)
    for stem in recordings:
        found.excluded[stem] = f"not in {path.name}"
    return found


def _transcripts(folder: Path, found: Found) -> dict[str, Path]:
    """Transcripts by recording."""
    home = present(folder, ("All_human_transcriptions", "Text"))
    if home is None:
        found.warnings.append("MSP-IMPROV: neither 'All_human_transcriptions' nor 'Text' is there: no transcripts")
        return {}
    return by_stem(files_below(home, ".txt"), [], "MSP-IMPROV")


def _turns(path: Path, found: Found) -> list[dict[str, Any]]:
    """The evaluation's turns, each a head and then a line a rater."""
    turns: list[dict[str, Any]] = []
    votes: Counter[str] = Counter()
    for at, line in enumerate(text_of(path).splitlines(), 1):
        if line.startswith("UTD-IMPROV-"):
            head = _HEAD.fullmatch(line)
            name = head and _NAME.fullmatch(f"MSP-IMPROV-{head['id']}")
            if head is None or name is None:
                found.warnings.append(f"MSP-IMPROV: {path.name}, line {at}: not the head of a turn: {line!r}")
                votes = Counter()  # belongs to no turn: what follows is not of the turn before
                continue
            turns.append(_row(head, name))
            votes = turns[-1]["votes"]
        elif rater := _RATER.match(line):
            votes[_LABELS[rater["label"]]] += 1
    return turns


def _row(head: re.Match[str], name: re.Match[str]) -> dict[str, Any]:
    activation = number(head["a"])
    return {
        "utterance_id": name[0],
        "audio": "",
        "text": "",
        "speaker": name["speaker"],
        "session": name["session"],
        "emotion": "" if head["emotion"] == "X" else head["emotion"],
        # rounded, because 6 - 2.8 is 3.2 and not 3.2000000000000002
        "arousal": f"{round(SCALE_SUM - float(activation), 6):g}" if activation else "",
        "valence": number(head["v"]),
        "dominance": number(head["d"]),
        "gender": "female" if name["sex"] == "F" else "male",
        "naturalness": number(head["n"]),
        "condition": CONDITIONS[name["condition"]],
        "sentence": name["sentence"],
        "intended": _INTENDED[name["intended"]],
        "votes": Counter(),
    }


_FOUR = {"N": 3_477, "H": 2_644, "S": 885, "A": 792}

MSP_IMPROV = Corpus(
    title="MSP-IMPROV",
    read=read_msp_improv,
    label_sets={
        "4class": LabelSet(
            classes={name: name for name in _FOUR},
            published=(Published(7_798, {"label": _FOUR}),),
        ),
        "dimensional": LabelSet(
            classes={name: name for name in (*_FOUR, "O")},
            keep_all=True,
            published=(
                Published(
                    8_438,
                    {
                        "label": {**_FOUR, "O": 85},
                        "condition": {
                            "other-improvised": 4_381,
                            "natural": 2_785,
                            "target-improvised": 652,
                            "target-read": 620,
                        },
                    },
                ),
            ),
            note="every turn, with its ratings; the label is empty where raters did not agree (555)",
        ),
    },
    rates=frozenset({48_000}),
    protocol="msp-improv-loso",
)
