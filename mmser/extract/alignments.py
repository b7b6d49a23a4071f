"""Alignments as tables of a shard, and back."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Column, Stream
from mmser.records import TIERS, Alignment, Kind

_NUMBERS = {"start_s": "<f8", "end_s": "<f8", "parent": "<i4", "kind": "<u1", "score": "<f4"}


def alignment_tables(
    alignments: Sequence[Alignment],
) -> tuple[dict[str, tuple[list[int], dict[str, Column]]], dict[str, dict[str, NDArray]]]:
    """The tables of a shard of alignments, and their values, by tier and column."""
    tables, values = {}, {}
    for tier in TIERS:
        segments = [segment for alignment in alignments for segment in alignment.tier(tier)]
        labels = [segment.label.encode() for segment in segments]
        width = max([1, *map(len, labels)])
        columns = {name: Column(dtype) for name, dtype in _NUMBERS.items()}
        tables[tier] = ([len(a.tier(tier)) for a in alignments], {**columns, "label": Column(f"S{width}")})
        arrays = {n: np.array([getattr(s, n) for s in segments], dtype) for n, dtype in _NUMBERS.items()}
        values[tier] = {**arrays, "label": np.array(labels, f"S{width}")}
    return tables, values


def alignment_digest(alignment: Alignment) -> str:
    """SHA-256 over every segment of every tier, in hex: what the states pooled over it were made from."""
    digest = hashlib.sha256()
    for tier in TIERS:
        for s in alignment.tier(tier):
            digest.update(f"{tier}\t{s.start_s:.6f}\t{s.end_s:.6f}\t{s.label}\t{s.parent}\t{int(s.kind)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Spans:
    """The segments of one tier of one utterance that heads will see."""

    index: NDArray[np.int32]
    """(num_segments,), place of each in its tier; silences are left out."""
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]


NO_SPANS = Spans(np.zeros(0, np.int32), np.zeros(0), np.zeros(0))


def read_spans(stream: Stream, utterance_ids: Sequence[str], tiers: Sequence[str]) -> Mapping[str, dict[str, Spans]]:
    """The segments of some utterances by tier and utterance; an utterance that is not aligned has none."""
    aligned = [uid for uid in utterance_ids if uid in stream]
    found: dict[str, dict[str, Spans]] = {}
    for tier in tiers:
        found[tier] = dict.fromkeys(utterance_ids, NO_SPANS)
        if not aligned:
            continue
        starts, ends, kinds = (stream.packed(tier, c, utterances=aligned) for c in ("start_s", "end_s", "kind"))
        for uid, a, b in zip(aligned, starts.offsets, starts.offsets[1:], strict=False):
            index = np.flatnonzero(kinds.values[a:b] != Kind.SILENCE).astype(np.int32)
            found[tier][uid] = Spans(index, starts.values[a:b][index], ends.values[a:b][index])
    return found
