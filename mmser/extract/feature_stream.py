"""Streams of features that are computed from samples alone: recordings in, log-mel frames or descriptors out."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmser.audio import Recording
from mmser.cache import Column, StreamWriter, Unit
from mmser.cache.shard_writer import ShardWriter
from mmser.errors import AudioError
from mmser.extract.mel import LogMel
from mmser.extract.opensmile_sets import OpenSmile
from mmser.extract.options import NONE, Extraction
from mmser.extract.work import DTYPES, Meter, Work, provenance
from mmser.extract.writing import Task, WriterThread, check_storable
from mmser.units import SAMPLE_RATE

SHARD_SECONDS = 1800.0
"""Of audio in a shard at most: it is held decoded, 115 MB, with its features, 23 MB of log-mel."""


class Features(Protocol):
    """A kind of features and the stream that it fills."""

    stream: str
    """The stream's name."""
    note: str
    """What the user must know who extracts them; empty: nothing."""
    recipe: dict[str, Any]
    """What decides the numbers."""
    columns: dict[str, Column]
    """How the features are stored, by granularity."""

    def num_rows(self, num_samples: int) -> dict[str, int]:
        """Rows of one utterance at most, by granularity."""
        ...

    def compute(self, samples: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Features (rows, dim) of one utterance, by granularity.

        Raises:
            AudioError: this recording has none; says why.
        """


def load_features(options: Extraction) -> list[Features]:
    """The kinds of features that were asked for.

    Raises:
        EncoderError: openSMILE is asked for and not installed.
    """
    kinds: list[Features] = []
    if options.mel:
        kinds.append(LogMel(DTYPES[options.dtype]))
    if options.opensmile != NONE:
        kinds.append(OpenSmile(options.opensmile))
    return kinds


def fill_features(work: Work, features: Features) -> None:
    """Compute the features that a stream lacks, shard by shard."""
    name = features.stream
    dtypes = {granularity: column.dtype for granularity, column in features.columns.items()}
    if features.note:
        work.notes.append(features.note)
    with StreamWriter(work.cache, name, {**features.recipe, "dtype": dtypes}, provenance("cpu")) as writer:
        redo = work.stale(writer.stream, {"audio": work.digest_audio()})
        pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
        costs = work.look_at_audio(pending, name)
        units = writer.plan(costs, SHARD_SECONDS, redo)
        lengths = [costs[uid] for unit in units for uid in unit.utterance_ids]
        work.announce({name: sum(_num_bytes(features, seconds) for seconds in lengths)})
        meter = Meter(work, name, sum(len(unit.utterance_ids) for unit in units))
        with WriterThread(work) as thread:
            for decoded in work.decoders.units(units, work.utterances):
                for uid, reason in decoded.failures.items():
                    work.fail(uid, name, reason)
                found = _compute(meter, features, decoded.recordings)
                thread.fill([name], found, partial(_shard, writer, decoded.unit, features, decoded.recordings))
                meter.done += len(decoded.unit.utterance_ids)
                meter.seconds += sum(costs[uid] for uid in decoded.unit.utterance_ids)
                meter.show()


def _num_bytes(features: Features, seconds: float) -> float:
    """Bytes that the features of an utterance take at most."""
    rows = features.num_rows(int(seconds * SAMPLE_RATE + 0.5))
    return float(sum(rows[g] * c.dim * np.dtype(c.dtype).itemsize for g, c in features.columns.items()))


def _compute(
    meter: Meter, features: Features, recordings: Mapping[str, Recording]
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The features of each utterance that has some; the others are noted as failures."""
    found = {}
    seconds = 0.0
    for number, (uid, recording) in enumerate(recordings.items(), start=1):
        try:
            found[uid] = features.compute(recording.samples)
        except AudioError as error:
            meter.work.fail(uid, meter.stream, str(error))
        seconds += len(recording.samples) / SAMPLE_RATE
        meter.show(number, seconds)
    return found


def _shard(
    writer: StreamWriter,
    unit: Unit,
    features: Features,
    recordings: Mapping[str, Recording],
    found: Mapping[str, Mapping[str, NDArray[np.float32]]],
) -> tuple[list[ShardWriter], Iterator[Task]]:
    """A shard of these features, and the tasks that fill it."""
    ids = list(found)
    tables = {
        granularity: ([len(found[uid][granularity]) for uid in ids], {"states": column})
        for granularity, column in features.columns.items()
    }
    shard = writer.shard(unit.number, ids, {"audio": [recordings[uid].digest for uid in ids]}, tables)
    tasks = [partial(_put, shard, granularity, column, found) for granularity, column in features.columns.items()]
    return [shard], iter(tasks)


def _put(
    shard: ShardWriter, granularity: str, column: Column, found: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> None:
    for place, (uid, own) in enumerate(found.items()):
        states = own[granularity][None]
        peak = np.abs(states).max(axis=(1, 2))[:, None]
        check_storable([uid], peak, np.dtype(column.dtype).name, "float32", [0])
        shard.put(granularity, "states", place, states.astype(column.dtype))
