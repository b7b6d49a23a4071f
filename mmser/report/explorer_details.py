"""What the explorer shows of the utterances that are worth a look: sound, segments, and where heads looked."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmser.cache import Cache
from mmser.errors import AudioError
from mmser.records import Utterance
from mmser.report.explorer_answers import Answers
from mmser.report.explorer_attention import attention_of, has_attention
from mmser.report.explorer_sound import alignments_of, sound_of, tiers_of
from mmser.train.once import Report
from mmser.train.stored import read_config

MOST_ATTENDING = 3
"""Heads whose attention is kept, the best ones: each adds some 10 kB an utterance."""

Details = dict[str, dict[str, Any]]
"""What is shown of each utterance, by its id."""


def best_first(heads: Sequence[Answers]) -> list[int]:
    """The places of heads by their figures, those without one last."""
    return sorted(range(len(heads)), key=lambda i: -np.nan_to_num(heads[i].score, nan=-np.inf))


def details_of(
    heads: Sequence[Answers],
    cache: Cache,
    utterances: Sequence[Utterance],
    *,
    with_audio: bool = False,
    report: Report = lambda *_: None,
) -> tuple[Details, list[str]]:
    """What is shown of each utterance beside the predictions, and what the user should know of it.

    Raises:
        ProtocolError: the cache is not the one that a head was trained on.
        MmserError: a stored head is missing or damaged.
    """
    details: Details = {one.utterance_id: {} for one in utterances}
    notes = _add_segments(heads, cache, details)
    notes += _add_sound(utterances, details, report, with_audio=with_audio)
    notes += _add_attention(heads, cache, details, report)
    return details, notes


def _add_segments(heads: Sequence[Answers], cache: Cache, details: Details) -> list[str]:
    """Words, syllables and phones in time, and the length that the aligner heard."""
    folders = dict.fromkeys(one.folder for one in heads)
    read = [name for folder in folders for name in read_config(folder)["shards"]]
    stream = alignments_of(cache, read)
    if stream is None:
        return ["The cache holds no alignment: no words, syllables and phones in time"]
    for uid in details:
        if uid in stream:
            details[uid]["tiers"], details[uid]["duration_s"] = tiers_of(stream, uid)
    return [f"Words, syllables and phones: {stream.name}"]


def _add_sound(utterances: Sequence[Utterance], details: Details, report: Report, *, with_audio: bool) -> list[str]:
    """Waveforms, and recordings where they are asked for; what cannot be read is left out."""
    reasons: list[str] = []
    for done, one in enumerate(utterances, 1):
        try:
            details[one.utterance_id] |= sound_of(one, with_audio=with_audio)
        except AudioError as error:
            reasons.append(str(error))
        report("waveforms", done, len(utterances))
    if not reasons:
        return []
    return [f"{len(reasons)} of {len(utterances)} recordings could not be read and have no waveform: {reasons[0]}"]


def _add_attention(heads: Sequence[Answers], cache: Cache, details: Details, report: Report) -> list[str]:
    """Where the best of the heads that can tell looked."""
    attending = [i for i in best_first(heads) if details and has_attention(heads[i])]
    if not attending:
        return []
    kept, left = attending[:MOST_ATTENDING], len(attending[MOST_ATTENDING:])
    for i in kept:
        for uid, looks in attention_of(heads[i], cache, list(details), report).items():
            details[uid].setdefault("attention", {})[str(i)] = looks
    seeds = ", ".join(sorted({str(heads[i].seeds[0]) for i in kept}))
    note = f"Attention: of the head of the fold that tests the utterance, seed {seeds}"
    return [note + (f"; of the best {MOST_ATTENDING} heads alone, {left} more have some" if left else "")]
