"""nEMO: nine actors speak Polish in six emotions.

I. Christop: "nEMO: Dataset of emotional speech in Polish", LREC-COLING 2024. ``data.tsv`` pads some speaker ids with
blanks.
"""

from mmser.corpora.corpus import Corpus, Found, LabelSet, Published, Request
from mmser.corpora.files import files_in, rows_of
from mmser.errors import ManifestError

COUNTS = {"neutral": 809, "sadness": 769, "anger": 749, "happiness": 749, "fear": 736, "surprised": 669}

_COLUMNS = ("file_id", "emotion", "raw_text", "normalized_text", "speaker_id", "gender", "age")


def read_nemo(request: Request) -> Found:
    """Read nEMO: ``data.tsv`` and ``samples/``.

    Raises:
        ManifestError: ``data.tsv`` is not there, or not as published.
    """
    found = Found(request.folder)
    table = request.folder / "data.tsv"
    if not table.is_file():
        raise ManifestError(f"nEMO: folder {str(request.folder)!r} holds no 'data.tsv': give the repository's folder")
    there = files_in(request.folder / "samples", ".wav")
    for row in rows_of(table, _COLUMNS, tabs=True):
        utterance_id = row["file_id"].removesuffix(".wav")
        if utterance_id not in there:
            found.excluded[utterance_id] = "its recording is not there"
            continue
        found.rows.append(
            {
                "utterance_id": utterance_id,
                "audio": f"samples/{there[utterance_id].name}",
                "text": row["raw_text"],
                "speaker": row["speaker_id"],
                "emotion": row["emotion"],
                "gender": row["gender"],
                "age": row["age"],
                "normalized_text": row["normalized_text"],
            }
        )
    return found


NEMO = Corpus(
    title="nEMO",
    read=read_nemo,
    label_sets={"6class": LabelSet(published=(Published(4_481, {"label": COUNTS}),))},
    rates=frozenset({24_000}),
    protocol="leave-one-speaker-out",
)
