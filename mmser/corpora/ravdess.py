"""RAVDESS: 24 actors speak two sentences in eight emotions; the speech part, as sound.

S. R. Livingstone, F. A. Russo: "The Ryerson audio-visual database of emotional speech and song", PLoS ONE 13 (2018).
A name is seven numbers: modality, channel, emotion, intensity, statement, repetition, actor.
"""

import re

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import named_recordings, relative

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}

STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
"""Each is spoken in every emotion: a head that sees text alone must stay at chance."""

_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])", re.ASCII)


def read_ravdess(request: Request) -> Found:
    """Read the speech recordings of RAVDESS; songs are excluded.

    Raises:
        ManifestError: there is no RAVDESS recording in the folder.
    """
    found = Found(request.folder)
    named = named_recordings(request.folder, _NAME, "RAVDESS", "03-01-05-02-01-01-01", found.warnings, found.excluded)
    for path, match in named:
        _, channel, emotion, intensity, statement, repetition, actor = match.groups()
        if channel == "02":
            found.excluded[path.stem] = "a song, not speech"
            continue
        found.rows.append(
            {
                "utterance_id": path.stem,
                "audio": relative(path, request.folder),
                "text": STATEMENTS[statement],
                "speaker": actor,
                "emotion": EMOTIONS[emotion],
                "gender": "male" if int(actor) % 2 else "female",
                "intensity": "strong" if intensity == "02" else "normal",
                "sentence": statement,
                "repetition": repetition,
            }
        )
    return found


RAVDESS = Corpus(
    title="RAVDESS",
    read=read_ravdess,
    label_sets={
        "8class": LabelSet(
            published=(
                Published(1_440, {"label": {name: 96 if name == "neutral" else 192 for name in EMOTIONS.values()}}),
            )
        )
    },
    rates=frozenset({48_000}),
    protocol="leave-one-speaker-out",
)
