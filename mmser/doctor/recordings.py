"""The recordings themselves: every one is decoded once."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmser.audio import Recording, read_audio
from mmser.doctor.findings import NOTE, PROBLEM, Finding, Limits
from mmser.errors import AudioError
from mmser.records import Utterance
from mmser.units import SAMPLE_RATE

_LARGEST = {"ULAW": 32_124 / 2**15, "ALAW": 32_256 / 2**15}
"""The largest sample of codecs (libsndfile's subtypes) that do not reach 1.0 (ITU-T G.711). Their steps are coarse
there: what comes within 3 % of it cannot be told from what is clipped."""

Report = Callable[[str, int, int], None]
"""Called with what is done, how many of it, and of how many."""


@dataclass(frozen=True)
class Heard:
    """What is known of a recording once it is decoded."""

    duration_s: float = 0.0
    rate: int = 0
    """Of the file, Hz."""
    channels: int = 0
    digest: str = ""
    """Of the samples (:func:`mmser.audio.read_audio`)."""
    num_clipped: int = 0
    """Samples that are the third or later of equal ones at full scale, in all channels."""
    error: str = ""
    """Why it cannot be used, in which case nothing else is known."""


def listen(utterances: Sequence[Utterance], limits: Limits, report: Report) -> dict[str, Heard]:
    """Decode every utterance, several at a time."""
    heard = {}
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        results = pool.map(lambda utterance: _listen(utterance, limits), utterances)
        for number, (utterance, result) in enumerate(zip(utterances, results, strict=True), 1):
            heard[utterance.utterance_id] = result
            report("recordings", number, len(utterances))
    finally:
        pool.shutdown(cancel_futures=True)
    return heard


def _listen(utterance: Utterance, limits: Limits) -> Heard:
    try:
        recording = read_audio(utterance.audio, utterance.start_s, utterance.end_s)
    except AudioError as error:
        return Heard(error=str(error))
    about = soundfile.info(utterance.audio)
    clipped = _num_clipped(utterance, recording, about, limits)
    return Heard(len(recording.samples) / SAMPLE_RATE, about.samplerate, about.channels, recording.digest, clipped)


def _num_clipped(utterance: Utterance, recording: Recording, about: Any, limits: Limits) -> int:
    """Of the file's own samples: resampling rounds off what was clipped."""
    full_scale = limits.full_scale * _LARGEST.get(about.subtype, 1.0)
    # resampling leaves more than half of it: no file need be read again; of several channels, the mean may be anything
    if about.channels == 1 and np.abs(recording.samples).max() < full_scale / 2:
        return 0
    start = round((utterance.start_s or 0.0) * about.samplerate)
    stop = None if utterance.end_s is None else round(utterance.end_s * about.samplerate)
    samples, _ = soundfile.read(utterance.audio, start=start, stop=stop, dtype="float32", always_2d=True)
    return sum(_flat(channel, full_scale) for channel in samples.T)


def _flat(channel: NDArray[np.float32], full_scale: float) -> int:
    same = (channel[1:] == channel[:-1]) & (np.abs(channel[1:]) >= full_scale)
    return int((same[1:] & same[:-1]).sum())


def judge_recordings(
    heard: Mapping[str, Heard],
    labels: Mapping[str, str],
    published: Mapping[str, frozenset[int]],
    odd_rates: Mapping[str, int],
    limits: Limits,
) -> list[Finding]:
    """What is wrong with the recordings.

    Args:
        heard: by utterance id.
        labels: the same utterances' labels, "" where not known.
        published: sample rates that an utterance's corpus is published with; none where not known.
        odd_rates: recordings known to have another one.
        limits: where the usual ends.
    """
    usable = {uid: one for uid, one in heard.items() if not one.error}
    findings = [
        *_unusable(heard),
        *_duplicates(usable, labels),
        *_wrong_rates(usable, published, odd_rates),
        *_channels(usable),
    ]
    if long := [uid for uid, one in usable.items() if one.duration_s > limits.long_s]:
        longest = max(long, key=lambda uid: usable[uid].duration_s)
        findings.append(
            Finding(
                "length",
                PROBLEM,
                f"{len(long)} utterances are longer than {limits.long_s:g} s; the longest, {longest!r}, is "
                f"{usable[longest].duration_s:.1f} s",
                "are they whole dialogues? Give start_s and end_s, or the cut recordings",
                tuple(long),
            )
        )
    if clipped := [uid for uid, one in usable.items() if one.num_clipped >= limits.clipped_samples]:
        findings.append(
            Finding(
                "clipping",
                NOTE,
                f"{len(clipped)} recordings are clipped ({limits.clipped_samples} or more flat samples at full scale)",
                "loud emotions clip first: see whether the classes are clipped alike",
                tuple(clipped),
            )
        )
    return findings


def _unusable(heard: Mapping[str, Heard]) -> list[Finding]:
    errors = {uid: one.error for uid, one in heard.items() if one.error}
    if not errors:
        return []
    first = next(iter(errors))
    return [
        Finding(
            "recordings",
            PROBLEM,
            f"{len(errors)} recordings cannot be used; the first is of {first!r}: {errors[first]}",
            "mend them, or take them out of the manifest; an extraction leaves them out and says so",
            tuple(errors),
        )
    ]


def _duplicates(heard: Mapping[str, Heard], labels: Mapping[str, str]) -> list[Finding]:
    """The same sound under several ids."""
    groups: dict[str, list[str]] = defaultdict(list)
    for uid, one in heard.items():
        groups[one.digest].append(uid)
    several = [uids for uids in groups.values() if len(uids) > 1]
    if not several:
        return []
    at_odds = [uids for uids in several if len({labels[uid] for uid in uids}) > 1]
    odd = f"; in {len(at_odds)} the labels differ" if at_odds else ""
    example = (at_odds or several)[0]
    return [
        Finding(
            "duplicates",
            PROBLEM,
            f"{len(several)} recordings are there under several ids{odd}, such as "
            f"{' and '.join(map(repr, example[:2]))}",
            "keep one of each: copies in training and test are known answers",
            tuple(uid for uids in several for uid in uids),
        )
    ]


def _wrong_rates(
    heard: Mapping[str, Heard], published: Mapping[str, frozenset[int]], odd_rates: Mapping[str, int]
) -> list[Finding]:
    findings = []
    of_rates: dict[frozenset[int], list[str]] = defaultdict(list)
    for uid in heard:
        if rates := published.get(uid):
            of_rates[rates].append(uid)
    for rates, uids in of_rates.items():
        wrong = [uid for uid in uids if heard[uid].rate not in rates and heard[uid].rate != odd_rates.get(uid)]
        if wrong:
            findings.append(
                Finding(
                    "rate",
                    PROBLEM,
                    f"{_counted_rates([heard[uid] for uid in uids])}; the corpus is published at "
                    f"{' or '.join(map(str, sorted(rates)))} Hz",
                    "is it a converted copy? What conversion does to sound, heads may learn",
                    tuple(wrong),
                )
            )
    if not findings and len({one.rate for one in heard.values()}) > 1:
        there = _counted_rates(heard.values())
        findings.append(
            Finding("rate", NOTE, f"sample rates differ: {there}", "all become 16 kHz; see that no class has its own")
        )
    if low := [uid for uid, one in heard.items() if one.rate < SAMPLE_RATE]:
        findings.append(
            Finding(
                "rate",
                NOTE,
                f"{len(low)} recordings are below {SAMPLE_RATE} Hz: their upper band is empty once resampled",
                utterances=tuple(low),
            )
        )
    return findings


def _counted_rates(heard: Iterable[Heard]) -> str:
    counts = Counter(one.rate for one in heard)
    return ", ".join(f"{number} at {rate} Hz" for rate, number in counts.most_common())


def _channels(heard: Mapping[str, Heard]) -> list[Finding]:
    counts = Counter(one.channels for one in heard.values()).most_common()
    if len(counts) < 2:
        return []
    there = ", ".join(f"{number} of {channels}" for channels, number in counts)
    return [
        Finding(
            "channels",
            NOTE,
            f"numbers of channels differ: {there}",
            "they are averaged; see that no class has its own, and that no other speaker is on one of them",
            tuple(uid for uid, one in heard.items() if one.channels != counts[0][0]),
        )
    ]
