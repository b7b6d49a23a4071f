"""The streams of speech: recordings and alignments in, frame states and pooled states out, one pass of the encoder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from mmser.audio import Recording
from mmser.cache import Column, Stream, StreamWriter, Unit, stream_folder_name
from mmser.cache.shard_writer import ShardWriter
from mmser.devices import pick_device
from mmser.extract.alignments import Spans, read_spans
from mmser.extract.batches import Batches, default_batch_seconds
from mmser.extract.loading import measure_drift, pick_layers
from mmser.extract.options import NONE
from mmser.extract.speech import SpeechEncoder, load_speech_encoder
from mmser.extract.work import DTYPES, ITEMSIZE, SHARD_BYTES, Meter, Work, provenance
from mmser.extract.writing import Task, WriterThread, fetch
from mmser.pooling import frame_ranges, num_without_centre, pool, pooled_dim
from mmser.records import TIERS
from mmser.units import SAMPLE_RATE, FrameGrid

SHARD_SECONDS = 1800.0
"""Of audio in a shard at most: it is held decoded, 115 MB."""
DRIFT_UTTERANCES = 8
"""Of the manifest's first, on which lower precision is compared with float32."""
DRIFT_SECONDS = 15.0
"""Of each of them at most: float32 takes its time."""
_SEGMENTS_PER_SECOND = 20.0
"""Phones, syllables and words of fast speech together, for cutting shards."""


@dataclass
class _Job:
    """The encoder and the streams it fills."""

    work: Work
    batches: Batches
    aligned: Stream | None
    frames: StreamWriter | None
    pooled: StreamWriter | None
    granularities: tuple[str, ...]
    """Pooled ones."""
    zero_frame_segments: int = 0

    @property
    def encoder(self) -> SpeechEncoder:
        return self.batches.encoder

    @property
    def tiers(self) -> list[str]:
        return [g for g in self.granularities if g in TIERS]

    @cached_property
    def aligned_audio(self) -> dict[str, str]:
        """The digest of the recording that each utterance was aligned on."""
        return self.aligned.digests("audio") if self.aligned is not None else {}


def load_speech(work: Work) -> tuple[SpeechEncoder, list[int]] | None:
    """The encoder and the layers that were asked for; None where no speech is to be encoded."""
    if work.options.speech_model == NONE:
        return None
    encoder = load_speech_encoder(work.options.speech_model, pick_device(work.options.device))
    return encoder, pick_layers(work.options.layers, encoder.num_layers)


def fill_speech(work: Work, encoder: SpeechEncoder, layers: list[int], aligned: Stream | None) -> None:
    """Encode the recordings that the frame stream or the pooled stream lacks."""
    options = work.options
    if not encoder.batchable:
        work.notes.append(f"{encoder.name}: padding changes its states, so it was run one utterance at a time")
    pooled = tuple(g for g in options.granularities if g != "frame")
    name = stream_folder_name(encoder.name)
    made = provenance(encoder.device)
    batch_seconds = options.batch_seconds or default_batch_seconds(encoder.device)
    made["batches"] = f"{batch_seconds:g} s" if encoder.batchable else "one utterance"
    if options.compute != "float32":
        made["drift"] = _lower(work, encoder, layers)
    recipe = {**encoder.identity(), "layers": layers, "dtype": options.dtype}
    with ExitStack() as stack:
        frames_writer = pooled_writer = None
        if "frame" in options.granularities:
            frames_writer = stack.enter_context(StreamWriter(work.cache, f"speech/{name}", recipe, made))
        if pooled:
            pooled_recipe = {
                **recipe,
                "pooling": options.pooling,
                "granularities": list(pooled),
                "aligner": aligned.recipe if aligned is not None else None,
            }
            where = f"pooled/{name}@{options.aligner if aligned is not None else NONE}"
            pooled_writer = stack.enter_context(StreamWriter(work.cache, where, pooled_recipe, made))
        batches = Batches(work, encoder, layers, batch_seconds)
        job = _Job(work, batches, aligned, frames_writer, pooled_writer, pooled)
        _fill(job)
    if job.zero_frame_segments:
        work.notes.append(f"{job.zero_frame_segments} segments were too short to hold a frame and took the nearest one")


def _lower(work: Work, encoder: SpeechEncoder, layers: list[int]) -> str:
    """Lower the encoder's precision, and say what that does to the states of the manifest's first utterances."""
    first = dict(list(work.utterances.items())[:DRIFT_UTTERANCES])
    (decoded,) = work.decoders.units([Unit(0, tuple(first))], first)
    samples = [r.samples[: int(DRIFT_SECONDS * SAMPLE_RATE)] for r in decoded.recordings.values()]
    exact = [encoder.states([s], layers)[0][:, 0] for s in samples]
    encoder.compute_in(work.options.compute)
    if not samples:
        return "not measured: none of the first utterances could be decoded"
    drift = measure_drift([encoder.states([s], layers)[0][:, 0] for s in samples], exact)
    shown = f"{drift} ({len(samples)} utterances, {work.options.compute} against float32)"
    work.say(f"{encoder.name}: {shown}")
    return shown


def _fill(job: _Job) -> None:
    work = job.work
    todo: dict[tuple[str, ...], dict[str, int]] = {}
    sizes: dict[str, float] = {}
    for writer in (job.frames, job.pooled):
        if writer is None:
            continue
        # Planned alike, both streams have the same shards, and one pass of the encoder fills both.
        units = _plan(job, writer)
        sizes[writer.name] = _bytes_to_write(job, writer, [uid for unit in units for uid in unit.utterance_ids])
        for unit in units:
            todo.setdefault(unit.utterance_ids, {})[writer.name] = unit.number
    work.announce(sizes)
    units = [Unit(i, ids) for i, ids in enumerate(todo)]
    meter = Meter(work, "speech", sum(len(unit.utterance_ids) for unit in units))
    with WriterThread(work) as thread:
        for decoded in work.decoders.units(units, work.utterances):
            ids = decoded.unit.utterance_ids
            numbers = todo[ids]
            for uid, reason in decoded.failures.items():
                for name in numbers:
                    work.fail(uid, name, reason)
            fitting = _as_aligned(job, decoded.recordings, numbers)
            thread.fill(list(numbers), fitting, partial(_shards, job, numbers, meter))
            meter.done += len(ids)
            meter.seconds += sum(work.seconds[uid] for uid in ids)
            meter.show()


def _as_aligned(job: _Job, recordings: Mapping[str, Recording], streams: Mapping[str, int]) -> Mapping[str, Recording]:
    """Those that were aligned as they are now, where segments are pooled; the others become failures of the streams."""
    if job.aligned is None or not job.tiers or job.pooled is None or job.pooled.name not in streams:
        return recordings
    fitting = {uid: own for uid, own in recordings.items() if job.aligned_audio.get(uid, "") in ("", own.digest)}
    for uid in recordings.keys() - fitting:
        for name in streams:
            job.work.fail(uid, name, f"{job.aligned.name} is of another recording; add --refresh to make both anew")
    return fitting


def _bytes_to_write(job: _Job, writer: StreamWriter, ids: Sequence[str]) -> float:
    """Bytes of states that a stream will get: the frames follow from the headers, the segments from the alignments."""
    options = job.work.options
    row = len(job.batches.layers) * ITEMSIZE[options.dtype]
    if writer is job.frames:
        samples = (int(job.work.seconds[uid] * SAMPLE_RATE + 0.5) for uid in ids)
        return float(sum(map(job.encoder.grid.num_frames, samples)) * row * job.encoder.dim)
    spans = read_spans(job.aligned, ids, job.tiers) if job.aligned is not None else {}
    segments = sum(len(found.index) for tier in spans.values() for found in tier.values())
    states = segments + len(ids) * ("utterance" in job.granularities)
    return float(states * row * pooled_dim(job.encoder.dim, options.pooling) + 4 * segments)


def _plan(job: _Job, writer: StreamWriter) -> list[Unit]:
    work = job.work
    now = {"audio": work.digest_audio()}
    if job.aligned is not None and writer is job.pooled:
        now["alignment"] = job.aligned.digests("alignment")
    redo = work.stale(writer.stream, now)
    pending = [uid for uid in work.utterances if uid not in writer.stream or uid in set(redo)]
    costs = work.look_at_audio(pending, writer.name)
    rate = SAMPLE_RATE / job.encoder.grid.hop * (job.frames is not None) + _SEGMENTS_PER_SECOND * (
        job.pooled is not None
    )
    budget = SHARD_BYTES / (rate * len(job.batches.layers) * job.encoder.dim * ITEMSIZE[work.options.dtype])
    return writer.plan(costs, min(SHARD_SECONDS, budget), redo)


def _shards(
    job: _Job, numbers: Mapping[str, int], meter: Meter, recordings: Mapping[str, Recording]
) -> tuple[list[ShardWriter], Iterator[Task]]:
    """One shard of each stream that wants these recordings, and the tasks that fill them."""
    ids = list(recordings)
    num_frames = [job.encoder.grid.num_frames(len(recordings[uid].samples)) for uid in ids]
    spans = read_spans(job.aligned, ids, job.tiers) if job.aligned is not None else {}
    audio = {"audio": [recordings[uid].digest for uid in ids]}
    stored = DTYPES[job.work.options.dtype]
    frames = pooled = None
    if job.frames is not None and job.frames.name in numbers:
        table = {"frame": (num_frames, {"states": Column(stored, len(job.batches.layers), job.encoder.dim)})}
        frames = job.frames.shard(numbers[job.frames.name], ids, audio, table)
    if job.pooled is not None and job.pooled.name in numbers:
        if job.aligned is not None:
            digests = job.aligned.digests("alignment")
            audio = {**audio, "alignment": [digests.get(uid, "") for uid in ids]}
        states = Column(stored, len(job.batches.layers), pooled_dim(job.encoder.dim, job.work.options.pooling))
        tables = pooled_tables(job.granularities, ids, spans, states)
        pooled = job.pooled.shard(numbers[job.pooled.name], ids, audio, tables)
    tasks = _tasks(job, meter, recordings, spans, frames, pooled)
    return [shard for shard in (frames, pooled) if shard is not None], tasks


def _tasks(
    job: _Job,
    meter: Meter,
    recordings: Mapping[str, Recording],
    spans: Mapping[str, Mapping[str, Spans]],
    frames: ShardWriter | None,
    pooled: ShardWriter | None,
) -> Iterator[Task]:
    """Encode one batch after the other, and pool it on the device; each becomes a task that writes it."""
    ids, options = list(recordings), job.work.options
    if pooled is not None:
        for tier in job.tiers:
            index = np.concatenate([spans[tier][uid].index for uid in ids])
            yield partial(pooled.put, tier, "segment", 0, index)
    first, seconds = 0, 0.0
    for batch, packed, lengths, check in job.batches.encode({uid: recordings[uid].samples for uid in ids}):
        puts = []
        if frames is not None:
            puts.append(partial(_put, frames, "frame", first, fetch(packed, options.dtype)))
        if pooled is not None:
            for granularity in job.granularities:
                of_tier = spans.get(granularity, {})
                ranges = segment_ranges(job.encoder.grid, granularity, batch, lengths, of_tier)
                states = pool(packed, ranges, options.pooling)
                puts.append(partial(_put, pooled, granularity, first, fetch(states, options.dtype)))
                if granularity in TIERS:
                    job.zero_frame_segments += num_too_short(job.encoder.grid, batch, lengths, of_tier)
        yield partial(_all, [check, *puts])
        first += len(batch)
        seconds += sum(len(recordings[uid].samples) for uid in batch) / SAMPLE_RATE
        meter.show(first, seconds)


def _put(shard: ShardWriter, granularity: str, first: int, states: Callable[[], NDArray]) -> None:
    shard.put(granularity, "states", first, states())


def _all(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()


def pooled_tables(
    granularities: Sequence[str], ids: Sequence[str], spans: Mapping[str, Mapping[str, Spans]], states: Column
) -> dict[str, tuple[list[int], dict[str, Column]]]:
    """The tables of a shard of pooled states.

    Args:
        granularities: pooled ones.
        ids: the shard's utterances.
        spans: the segments of each, by tier.
        states: how the states are stored.
    """
    tables: dict[str, tuple[list[int], dict[str, Column]]] = {
        tier: ([len(spans[tier][uid].index) for uid in ids], {"states": states, "segment": Column("<i4")})
        for tier in granularities
        if tier in TIERS
    }
    if "utterance" in granularities:
        tables["utterance"] = ([1] * len(ids), {"states": states})
    return tables


def segment_ranges(
    grid: FrameGrid, granularity: str, ids: Sequence[str], lengths: Sequence[int], spans: Mapping[str, Spans]
) -> NDArray:
    """Frame ranges of every segment of a batch, counted in the batch's frames end to end, shape (num_segments, 2).

    Args:
        grid: where the frames lie in time.
        granularity: a tier, or ``utterance``: all frames of each.
        ids: the batch's utterances.
        lengths: frames of each.
        spans: the tier's segments of each; not looked at for ``utterance``.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if granularity == "utterance":
        return np.stack([starts[:-1], starts[1:]], axis=1)
    ranges = [np.zeros((0, 2), np.int64)]
    for uid, start, length in zip(ids, starts, lengths, strict=False):
        span = spans[uid]
        if len(span.index):
            ranges.append(start + frame_ranges(span.starts_s, span.ends_s, length, grid))
    return np.concatenate(ranges)


def num_too_short(grid: FrameGrid, ids: Sequence[str], lengths: Sequence[int], spans: Mapping[str, Spans]) -> int:
    """Segments of a batch that hold no frame's centre, and take the nearest frame."""
    return sum(
        num_without_centre(spans[uid].starts_s, spans[uid].ends_s, length, grid)
        for uid, length in zip(ids, lengths, strict=True)
    )
