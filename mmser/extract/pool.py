"""Pooling from stored frames: another alignment, or another way to pool, without running the encoder again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmser.cache import Cache, Column, Stream, StreamWriter, stream_folder_name
from mmser.errors import CacheError
from mmser.extract.alignments import read_spans
from mmser.extract.options import NONE, Pooling
from mmser.extract.speech_stream import num_too_short, pooled_tables, segment_ranges
from mmser.extract.work import SHARD_BYTES, Report, provenance
from mmser.pooling import pool, pooled_dim
from mmser.records import TIERS
from mmser.units import FrameGrid

_BATCH_BYTES = 64e6
"""Frame states read at once, in the type they are stored in."""


@dataclass(frozen=True)
class Pooled:
    """What :func:`pool_frames` did."""

    stream: str
    added: int
    num_frames_stored: int
    """Utterances whose frames are stored."""
    not_aligned: int
    """Those of them without an alignment: they have utterance states, and no segments."""
    zero_frame_segments: int
    """Segments written in this run that were too short to hold a frame, and took the nearest one."""
    changed: int
    """Utterances whose alignment or recording changed since they were pooled, and that keep their old states."""
    wall_s: float


def pool_frames(path: Path, options: Pooling, report: Report = lambda *_: None) -> Pooled:
    """Fill ``pooled/<encoder>@<aligner>`` from ``speech/<encoder>`` and ``align/<aligner>`` of a cache.

    The stream is the one that an extraction would have made: its recipe is the same, and so are its states, up to the
    rounding of frames that were stored in float16. Either goes on where the other stopped.

    Args:
        path: the cache.
        options: what to pool.
        report: told how far it is.

    Raises:
        CacheError: the frames or the alignment are not in the cache (says what to run), they are of different
            recordings, or the pooled stream was made in another way.
    """
    began = time.monotonic()
    cache = Cache(path)
    frames = _frames(cache, options.encoder)
    aligned = _aligned(cache, options.aligner)
    encoder = frames.name.removeprefix("speech/")
    recipe = {
        **frames.recipe,
        "pooling": options.pooling,
        "granularities": list(options.granularities),
        "aligner": aligned.recipe if aligned is not None else None,
    }
    name = f"pooled/{encoder}@{options.aligner}"
    made = {**provenance("cpu"), "pooled_from": frames.name}
    digests = aligned.digests("alignment") if aligned is not None else {}
    ids = frames.utterance_ids
    with StreamWriter(path, name, recipe, made) as writer:
        job = _Job(frames, aligned, options, digests)
        now = {"audio": job.audio, **({"alignment": digests} if aligned is not None else {})}
        stored = {source: writer.stream.digests(source) for source in now}
        changed = [
            uid
            for uid in ids
            if any(uid in was and was[uid] != now[source].get(uid, "") for source, was in stored.items())
        ]
        redo = changed if options.redo else []
        units = writer.plan(job.costs([u for u in ids if u not in writer.stream or u in set(redo)]), SHARD_BYTES, redo)
        total = sum(len(unit.utterance_ids) for unit in units)
        added = 0
        for unit in units:
            job.write(writer, unit.number, unit.utterance_ids)
            added += len(unit.utterance_ids)
            report(name, added, total, 0.0)
    return Pooled(
        name,
        added,
        len(ids),
        sum(uid not in aligned for uid in ids) if aligned is not None else 0,
        job.zero_frame_segments,
        0 if options.redo else len(changed),
        time.monotonic() - began,
    )


class _Job:
    """The streams that are read, and how they are pooled."""

    def __init__(self, frames: Stream, aligned: Stream | None, options: Pooling, digests: Mapping[str, str]) -> None:
        self.frames, self.aligned, self.options, self.digests = frames, aligned, options, digests
        self.audio = frames.digests("audio")
        self.column = frames.columns("frame")["states"]
        self.grid = FrameGrid.of(frames.recipe)
        self.tiers = [g for g in options.granularities if g in TIERS]
        self.zero_frame_segments = 0
        if aligned is not None and self.tiers:
            self._check_recordings(aligned)

    def _check_recordings(self, aligned: Stream) -> None:
        """Segments of one recording say nothing of the frames of another."""
        for uid, digest in aligned.digests("audio").items():
            if digest and self.audio.get(uid, "") not in ("", digest):
                raise CacheError(
                    f"utterance {uid!r}: {self.frames.name} is of another recording than {aligned.name}; extract both "
                    "again with --refresh"
                )

    def costs(self, ids: Sequence[str]) -> dict[str, float]:
        """Bytes of the frames of each: what is read bounds a shard, and pooled states are fewer."""
        if not ids:
            return {}
        offsets = self.frames.packed("frame", layers=[], utterances=ids).offsets
        row = self.column.layers * self.column.dim * np.dtype(self.column.dtype).itemsize
        return {uid: float(n) * row for uid, n in zip(ids, np.diff(offsets), strict=True)}

    def write(self, writer: StreamWriter, number: int, ids: Sequence[str]) -> None:
        """Pool one shard's utterances and write it."""
        spans = read_spans(self.aligned, ids, self.tiers) if self.aligned else {}
        sources = {"audio": [self.audio[uid] for uid in ids]}
        if self.aligned is not None:
            sources["alignment"] = [self.digests.get(uid, "") for uid in ids]
        dim = pooled_dim(self.column.dim, self.options.pooling)
        states = Column(self.column.dtype, self.column.layers, dim)
        tables = pooled_tables(self.options.granularities, ids, spans, states)
        costs = self.costs(ids)
        with writer.shard(number, ids, sources, tables) as shard:
            for tier in self.tiers:
                shard.put(tier, "segment", 0, np.concatenate([spans[tier][uid].index for uid in ids]))
            first = 0
            while first < len(ids):
                # The plan has the longest first, so the first of a batch decides how much it takes at most.
                batch = ids[first : first + max(1, int(_BATCH_BYTES // costs[ids[first]]))]
                packed = self.frames.packed("frame", utterances=batch)
                lengths = np.diff(packed.offsets).tolist()
                values = torch.from_numpy(packed.values)
                for granularity in self.options.granularities:
                    of_tier = spans.get(granularity, {})
                    ranges = segment_ranges(self.grid, granularity, batch, lengths, of_tier)
                    pooled = pool(values, ranges, self.options.pooling)
                    shard.put(granularity, "states", first, pooled.numpy().astype(self.column.dtype))
                    if granularity in TIERS:
                        self.zero_frame_segments += num_too_short(self.grid, batch, lengths, of_tier)
                first += len(batch)
            shard.commit()


def _frames(cache: Cache, encoder: str | None) -> Stream:
    there = [name.removeprefix("speech/") for name in cache.stream_names if name.startswith("speech/")]
    hint = f"store them with: mmser extract MANIFEST --cache {cache.path} --keep frame --speech-model ID"
    if not there:
        raise CacheError(f"{cache.path} holds no frame states, which pooling needs; {hint}")
    encoder = None if encoder is None else stream_folder_name(encoder)
    if encoder is None and len(there) > 1:
        raise CacheError(f"{cache.path} holds frames of {', '.join(there)}; choose with --encoder NAME")
    if encoder is not None and encoder not in there:
        raise CacheError(f"{cache.path} holds no frame states of {encoder!r}, but of {', '.join(there)}; or {hint}")
    stream = cache.stream(f"speech/{encoder or there[0]}")
    if not len(stream):
        raise CacheError(f"{stream.folder} is still empty; {hint}")
    if stream.imported:
        raise CacheError(
            f"{stream.folder}: its frames were imported, and how long each lasts is not known, so they cannot be "
            f"pooled; {hint}, or train on the frames themselves (--granularity frame)"
        )
    return stream


def _aligned(cache: Cache, aligner: str) -> Stream | None:
    if aligner == NONE:
        return None
    there = [name.removeprefix("align/") for name in cache.stream_names if name.startswith("align/")]
    if aligner not in there:
        raise CacheError(
            f"{cache.path} holds no alignment of {aligner!r}"
            + (f", but of {', '.join(there)}" if there else "")
            + f"; make it with: mmser extract MANIFEST --cache {cache.path} --speech-model none --text-model none "
            f"--align {aligner}"
        )
    return cache.stream(f"align/{aligner}")
