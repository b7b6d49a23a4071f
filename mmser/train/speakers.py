"""What speech that is standardised per speaker needs of each of them: something to compare a recording with."""

from collections import Counter
from collections.abc import Sequence

from mmser.heads import HEADS
from mmser.train.features import Sources
from mmser.train.prepare import Prepared


def lone_utterances(sources: Sources, ids: Sequence[str], speakers: Sequence[str], *, pooled: bool) -> dict[str, str]:
    """Utterances of which nothing is left once their speech is standardised per speaker, with the granularity.

    A state that is the only one of its speaker is 0 then, and so is the mean over an utterance's states where there is
    no other utterance (their deviation is 1).

    Args:
        sources: the streams that are read.
        ids: utterances, the only ones that there are.
        speakers: who speaks in each.
        pooled: whether mean or deviation over each utterance's states is all that is read of them.
    """
    found: dict[str, str] = {}
    for granularity, stream in sources.speech.items():
        there = [uid for uid in ids if uid in stream]
        lengths = stream.lengths(granularity, there)
        held = dict(zip(there, (lengths.clip(max=1) if pooled else lengths).tolist(), strict=True))
        of_speaker: Counter[str] = Counter()
        for uid, speaker in zip(ids, speakers, strict=True):
            of_speaker[speaker] += held.get(uid, 0)
        found |= {
            uid: granularity
            for uid, speaker in zip(ids, speakers, strict=True)
            if held.get(uid, 0) == of_speaker[speaker] == 1
        }
    return found


def speaker_notes(one: Prepared) -> list[str]:
    """What the user should know of speakers of whom ``--normalise speaker`` leaves nothing, if there are any."""
    if one.experiment.normalise != "speaker":
        return []
    pooled = any(HEADS[member.head].needs_speech and HEADS[member.head].pools_first for member in one.members)
    lone = lone_utterances(one.sources, one.chosen.ids, one.chosen.speakers, pooled=pooled)
    return [
        f"{number} of {len(set(one.chosen.speakers))} speakers have {granularity} states in one utterance alone, of "
        "which --normalise speaker leaves nothing"
        for granularity, number in Counter(lone.values()).items()
    ]
