"""EmoDB, the Berlin Database of Emotional Speech: ten actors say ten German sentences in seven emotions.

F. Burkhardt, A. Paeschke, M. Rolfes, W. F. Sendlmeier, B. Weiss: "A database of German emotional speech",
Interspeech 2005. Everything about a recording is in its name: ``03a01Fa.wav`` is speaker 03, sentence a01,
happiness (Freude), version a.
"""

import re

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import named_recordings, relative

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


def read_emodb(request: Request) -> Found:
    """Read EmoDB: every recording of its ten sentences, in order of the names.

    Raises:
        ManifestError: there is no EmoDB recording in the folder.
    """
    found = Found(request.folder)
    wav = request.folder / "wav" if (request.folder / "wav").is_dir() else request.folder
    named = named_recordings(wav, _NAME, "EmoDB", "03a01Fa", found.warnings, found.excluded)
    for path, match in named:
        speaker, sentence, emotion, version = match.groups()
        if sentence not in SENTENCES:
            found.excluded[path.stem] = f"EmoDB has no sentence {sentence!r}"
            continue
        found.rows.append(
            {
                "utterance_id": path.stem,
                "audio": relative(path, request.folder),
                "text": SENTENCES[sentence],
                "speaker": speaker,
                "emotion": emotion,
                "gender": "male" if speaker in MEN else "female",
                "sentence": sentence,
                "version": version,
            }
        )
    return found


EMODB = Corpus(
    title="EmoDB",
    read=read_emodb,
    label_sets={"7class": LabelSet(classes=EMOTIONS, published=(Published(535, {"label": COUNTS}),))},
    rates=frozenset({16_000}),
    protocol="leave-one-speaker-out",
)
