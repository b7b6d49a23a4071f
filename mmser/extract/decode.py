"""Recordings of a shard, decoded ahead of the encoder in threads (libsndfile and soxr let go of the interpreter)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from mmser.audio import Recording, duration_s, read_audio
from mmser.cache import Unit
from mmser.errors import AudioError
from mmser.records import Utterance


@dataclass(frozen=True)
class DecodedUnit:
    """A shard's utterances that could be decoded, in the planned order, and why the others could not."""

    unit: Unit
    recordings: dict[str, Recording]
    failures: dict[str, str]


def _decode(utterance: Utterance) -> Recording:
    return read_audio(utterance.audio, utterance.start_s, utterance.end_s)


def decode_units(units: Sequence[Unit], utterances: dict[str, Utterance], jobs: int | None) -> Iterator[DecodedUnit]:
    """Decode the planned shards one by one, the next one while the caller works on this one."""
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:

        def start(unit: Unit) -> list[Future[Recording]]:
            return [pool.submit(_decode, utterances[uid]) for uid in unit.utterance_ids]

        try:
            ahead = start(units[0]) if units else []
            for i, unit in enumerate(units):
                futures, ahead = ahead, start(units[i + 1]) if i + 1 < len(units) else []
                recordings, failures = {}, {}
                for uid, future in zip(unit.utterance_ids, futures, strict=True):
                    try:
                        recordings[uid] = future.result()
                    except AudioError as error:
                        failures[uid] = str(error)
                yield DecodedUnit(unit, recordings, failures)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def durations(utterances: Iterable[Utterance], jobs: int | None) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each utterance from its file's header, and the reason where there are none to be had."""

    def look(utterance: Utterance) -> tuple[str, float, str]:
        try:
            return utterance.utterance_id, duration_s(utterance.audio, utterance.start_s, utterance.end_s), ""
        except AudioError as error:
            return utterance.utterance_id, 0.0, str(error)

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        found = list(pool.map(look, utterances))
    return {uid: s for uid, s, why in found if not why}, {uid: why for uid, _, why in found if why}
