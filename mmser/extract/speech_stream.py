"""The streams of speech: recordings and alignments in, frame states and pooled states out, one pass of the encoder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from mmser.audio import Recording
from mmser.cache import Column, Stream, StreamWriter, Unit, stream_folder_name
from mmser.errors import AudioError
from mmser.extract.alignments import Spans, read_spans
from mmser.extract.decode import decode_units
from mmser.extract.loading import pick_layers
from mmser.extract.options import NONE
from mmser.extract.speech import SpeechEncoder, load_speech_encoder
from mmser.extract.work import DTYPES, SHARD_BYTES, Meter, Work, check_storable, pick_device, provenance
from mmser.pooling import frame_ranges, num_without_centre, pool, pooled_dim
from mmser.records import TIERS
from mmser.units import SAMPLE_RATE, FrameGrid

SHARD_SECONDS = 1800.0
"""Of audio in a shard at most: it is held decoded, 115 MB."""
_SEGMENTS_PER_SECOND = 20.0
"""Phones, syllables and words of fast speech together, for cutting shards."""


@dataclass
class _Job:
    """The encoder and the streams it fills."""

    work: Work
    encoder: SpeechEncoder
    layers: list[int]
    aligned: Stream | None
    frames: StreamWriter | None
    pooled: StreamWriter | None
    granularities: tuple[str, ...]
    """Pooled ones."""
    zero_frame_segments: int = 0

    @property
    def tiers(self) -> list[str]:
        return [g for g in self.granularities if g in TIERS]


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
    recipe = {**encoder.identity(), "layers": layers, "dtype": options.dtype}
    name = stream_folder_name(encoder.name)
    made = provenance(encoder.device)
    made["batches"] = f"{_batch_seconds(work, encoder):g} s" if encoder.batchable else "one utterance"
    with ExitStack() as stack:
        frames_writer = pooled_writer = None
        if "frame" in options.granularities:
            frames_writer = stack.enter_context(StreamWriter(work.cache, f"speech/{name}", recipe, made))
        if pooled:
            pooled_recipe = {
                **recipe,
                "pooling": options.pooling,
                "granularities": list(pooled),
                "aligner": aligned.recipe if aligned else None,
            }
            where = f"pooled/{name}@{options.aligner if aligned else NONE}"
            pooled_writer = stack.enter_context(StreamWriter(work.cache, where, pooled_recipe, made))
        job = _Job(work, encoder, layers, aligned, frames_writer, pooled_writer, pooled)
        _fill(job)
    if job.zero_frame_segments:
        work.notes.append(f"{job.zero_frame_segments} segments were too short to hold a frame and took the nearest one")


def _fill(job: _Job) -> None:
    work = job.work
    todo: dict[tuple[str, ...], dict[str, int]] = {}
    for writer in (job.frames, job.pooled):
        if writer is None:
            continue
        # Planned alike, both streams have the same shards, and one pass of the encoder fills both.
        for unit in _plan(job, writer):
            todo.setdefault(unit.utterance_ids, {})[writer.name] = unit.number
    units = [Unit(i, ids) for i, ids in enumerate(todo)]
    meter = Meter(work, "speech", sum(len(unit.utterance_ids) for unit in units))
    for decoded in decode_units(units, work.utterances, work.options.jobs):
        ids = decoded.unit.utterance_ids
        numbers = todo[ids]
        for uid, reason in decoded.failures.items():
            for name in numbers:
                work.fail(uid, name, reason)
        work.write_storable(numbers, decoded.recordings, partial(_write_shards, job, numbers, meter))
        meter.done += len(ids)
        meter.seconds += sum(work.seconds[uid] for uid in ids)
        meter.show()


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
    itemsize = 2 if work.options.dtype == "float16" else 4
    budget = SHARD_BYTES / (rate * len(job.layers) * job.encoder.dim * itemsize)
    return writer.plan(costs, min(SHARD_SECONDS, budget), redo)


def _write_shards(job: _Job, numbers: Mapping[str, int], meter: Meter, recordings: Mapping[str, Recording]) -> None:
    """Encode one shard's recordings and write them to the streams that want them."""
    ids = list(recordings)
    num_frames = [job.encoder.grid.num_frames(len(recordings[uid].samples)) for uid in ids]
    spans = read_spans(job.aligned, ids, job.tiers) if job.aligned is not None else {}
    with ExitStack() as stack:
        frames = pooled = None
        audio = {"audio": [recordings[uid].digest for uid in ids]}
        stored = DTYPES[job.work.options.dtype]
        if job.frames is not None and job.frames.name in numbers:
            table = {"frame": (num_frames, {"states": Column(stored, len(job.layers), job.encoder.dim)})}
            frames = stack.enter_context(job.frames.shard(numbers[job.frames.name], ids, audio, table))
        if job.pooled is not None and job.pooled.name in numbers:
            if job.aligned is not None:
                digests = job.aligned.digests("alignment")
                audio = {**audio, "alignment": [digests.get(uid, "") for uid in ids]}
            states = Column(stored, len(job.layers), pooled_dim(job.encoder.dim, job.work.options.pooling))
            tables = pooled_tables(job.granularities, ids, spans, states)
            pooled = stack.enter_context(job.pooled.shard(numbers[job.pooled.name], ids, audio, tables))
            for tier in job.tiers:
                pooled.put(tier, "segment", 0, np.concatenate([spans[tier][uid].index for uid in ids]))
        first, budget = 0, _batch_seconds(job.work, job.encoder) * SAMPLE_RATE
        while first < len(ids):
            # The plan has the longest first, so the first of a batch decides how wide it is.
            size = max(1, int(budget // len(recordings[ids[first]].samples)))
            batch = ids[first : first + size]
            packed, lengths = _encode(job, [recordings[uid].samples for uid in batch], batch)
            if frames is not None:
                frames.put("frame", "states", first, packed.cpu().numpy().astype(stored))
            if pooled is not None:
                for granularity in job.granularities:
                    of_tier = spans.get(granularity, {})
                    ranges = segment_ranges(job.encoder.grid, granularity, batch, lengths, of_tier)
                    values = pool(packed, ranges, job.work.options.pooling)
                    pooled.put(granularity, "states", first, values.cpu().numpy().astype(stored))
                    if granularity in TIERS:
                        job.zero_frame_segments += num_too_short(job.encoder.grid, batch, lengths, of_tier)
            first += len(batch)
            meter.show(first, sum(len(recordings[uid].samples) for uid in ids[:first]) / SAMPLE_RATE)
        for shard in (frames, pooled):
            if shard is not None:
                shard.commit()


def _batch_seconds(work: Work, encoder: SpeechEncoder) -> float:
    return work.options.batch_seconds or (6.0 if encoder.device.type == "cpu" else 80.0)


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


def _encode(job: _Job, samples: Sequence[NDArray[np.float32]], ids: Sequence[str]) -> tuple[torch.Tensor, list[int]]:
    """States of a batch end to end (num_layers, frames of all, dim), checked, and the frames of each."""
    try:
        states, lengths = job.encoder.states(samples, job.layers)
    except torch.OutOfMemoryError as error:
        raise AudioError(
            f"a batch of {len(ids)} utterances, the longest {max(map(len, samples)) / SAMPLE_RATE:.1f} s ({ids[0]!r}), "
            "does not fit in the device's memory; give a smaller --batch-seconds, or cut long recordings"
        ) from error
    parts = [states[:, i, :length] for i, length in enumerate(lengths)]
    for uid, part in zip(ids, parts, strict=True):
        check_storable(uid, part, job.work.options.dtype, job.layers)
    return torch.cat(parts, dim=1), lengths


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
