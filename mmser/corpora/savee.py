"""SAVEE: four men speak British English in seven emotions.

S. Haq, P. J. B. Jackson: "Speaker-dependent audio-visual emotion recognition", AVSP 2009. Recordings lie in a folder a
speaker (``AudioData/DC/a01.wav``) or, in a widespread copy, all in one (``ALL/DC_a01.wav``). What is said is not told.
"""

import re

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_below, listed, relative
from mmser.errors import ManifestError

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}

SPEAKERS = ("DC", "JE", "JK", "KL")

_NAME = re.compile(rf"(?:({'|'.join(SPEAKERS)})_?)?(sa|su|a|d|f|h|n)(\d\d)", re.ASCII)


def read_savee(request: Request) -> Found:
    """Read SAVEE; an utterance is called ``DC_a01``, whatever the copy calls it.

    Raises:
        ManifestError: there is no SAVEE recording in the folder.
    """
    found = Found(request.folder)
    again = []
    taken = set()
    for path in files_below(request.folder, ".wav"):
        match = _NAME.fullmatch(path.stem)
        speaker = match and (match[1] or path.parent.name)
        if match is None or speaker not in SPEAKERS:
            found.excluded[path.name] = "not named like 'DC/a01' or 'DC_a01'"
            continue
        utterance_id = f"{speaker}_{match[2]}{match[3]}"
        if utterance_id in taken:
            again.append(utterance_id)
            continue
        taken.add(utterance_id)
        found.rows.append(
            {
                "utterance_id": utterance_id,
                "audio": relative(path, request.folder),
                "speaker": speaker,
                "emotion": match[2],
                "gender": "male",
            }
        )
    if not found.rows:
        raise ManifestError(
            f"SAVEE: folder {str(request.folder)!r} holds no recording named like 'DC/a01.wav' or 'DC_a01.wav': give "
            "the folder 'AudioData'"
        )
    if again:
        found.warnings.append(f"SAVEE: {len(again)} recordings lie there twice, one of each is taken: {listed(again)}")
    found.rows.sort(key=lambda row: row["utterance_id"])
    return found


SAVEE = Corpus(
    title="SAVEE",
    read=read_savee,
    label_sets={
        "7class": LabelSet(
            classes=EMOTIONS,
            published=(
                Published(480, {"label": {name: 120 if name == "neutral" else 60 for name in EMOTIONS.values()}}),
            ),
        )
    },
    rates=frozenset({44_100}),
    protocol="leave-one-speaker-out",
)
