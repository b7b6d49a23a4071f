"""TESS: two women say "Say the word ..." with 200 words in seven emotions.

M. K. Pichora-Fuller, K. Dupuis: "Toronto emotional speech set (TESS)", Borealis, 2020.
"""

import re

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import named_recordings, relative

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprise",
    "sad": "sad",
}
"""``ps`` is pleasant surprise."""

_NAME = re.compile(r"(OAF|OA|YAF)_([a-z-]+)_(angry|disgust|fear|happy|neutral|ps|sad)", re.ASCII | re.IGNORECASE)


def read_tess(request: Request) -> Found:
    """Read TESS. Its misnamed file, ``OA_bite_neutral``, is spoken by OAF and called so.

    Raises:
        ManifestError: there is no TESS recording in the folder.
    """
    found = Found(request.folder)
    named = named_recordings(request.folder, _NAME, "TESS", "OAF_back_angry", found.warnings, found.excluded)
    rows: dict[str, dict[str, str]] = {}
    for path, match in named:
        speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
        word, emotion = match[2].lower(), match[3].lower()
        utterance_id = f"{speaker}_{word}_{emotion}"
        row = {
            "utterance_id": utterance_id,
            "audio": relative(path, request.folder),
            "text": f"Say the word {word}",
            "speaker": speaker,
            "emotion": emotion,
            "gender": "female",
        }
        if utterance_id in rows:
            found.excluded[path.name] = f"the same as {rows[utterance_id]['audio']}"
        rows.setdefault(utterance_id, row)
    found.rows = list(rows.values())
    return found


TESS = Corpus(
    title="TESS",
    read=read_tess,
    label_sets={
        "7class": LabelSet(
            classes=EMOTIONS,
            published=(Published(2_800, {"label": dict.fromkeys(EMOTIONS.values(), 400)}),),
        )
    },
    rates=frozenset({24_414}),
)
