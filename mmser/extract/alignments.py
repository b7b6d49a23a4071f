"""Alignments as tables of a shard, and back."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Column, Stream
from mmser.cache.schema import MAX_TEXT
from mmser.extract.align.words import spoken_words
from mmser.records import TIERS, Alignment, Kind, Segment

_NUMBERS = {"start_s": "<f8", "end_s": "<f8", "parent": "<i4", "kind": "<u1", "score": "<f4"}

ABOUT = "utterance"
"""The table of an alignment stream that has one row an utterance: how long it is, and how its words fared."""


_MORE = "and-more"


def alignment_tables(
    alignments: Sequence[Alignment], durations_s: Sequence[float], texts: Sequence[str]
) -> tuple[dict[str, tuple[list[int], dict[str, Column]]], dict[str, dict[str, NDArray]]]:
    """The tables of a shard of alignments, and their values, by tier and column.

    Args:
        alignments: of the shard's utterances, in order.
        durations_s: length of the audio of each.
        texts: transcript of each.
    """
    tables, values = {}, {}
    for tier in TIERS:
        segments = [segment for alignment in alignments for segment in alignment.tier(tier)]
        labels = [segment.label.encode() for segment in segments]
        width = max([1, *map(len, labels)])
        columns = {name: Column(dtype) for name, dtype in _NUMBERS.items()}
        tables[tier] = ([len(a.tier(tier)) for a in alignments], {**columns, "label": Column(f"S{width}")})
        arrays = {n: np.array([getattr(s, n) for s in segments], dtype) for n, dtype in _NUMBERS.items()}
        values[tier] = {**arrays, "label": np.array(labels, f"S{width}")}
    words = [words_aligned(a, text) for a, text in zip(alignments, texts, strict=True)]
    flags = [_one_text(alignment.flags) for alignment in alignments]
    about = {
        "duration_s": np.array(durations_s, "<f8"),
        "words": np.array([total for _, total in words], "<i4"),
        "words_aligned": np.array([aligned for aligned, _ in words], "<i4"),
        "flags": np.array(flags, f"S{max([1, *map(len, flags)])}"),
    }
    tables[ABOUT] = ([1] * len(alignments), {name: Column(array.dtype.str) for name, array in about.items()})
    values[ABOUT] = about
    return tables, values


def _one_text(flags: Sequence[str]) -> bytes:
    """Flags line by line; where a text cannot hold them all (a word by word of a long transcript), ``and-more``."""
    kept = list(flags)
    while len(text := "\n".join(kept).encode()) > MAX_TEXT:
        kept = [*kept[: -2 if kept[-1] == _MORE else -1], _MORE]
    return text


def words_aligned(alignment: Alignment, text: str) -> tuple[int, int]:
    """How many of a transcript's words that are spoken (tags such as ``[LAUGHTER]`` are not) have a segment of speech.

    Returns:
        Those that have one, and all of them.
    """
    wanted = {word.parent for word in spoken_words(text)} - {-1}
    found = {word.parent for word in alignment.words if word.kind is Kind.SPEECH}
    return len(wanted & found), len(wanted)


def read_alignment(stream: Stream, utterance_id: str) -> tuple[Alignment, float]:
    """An alignment as it was stored, and the length of its audio in seconds.

    Raises:
        CacheError: the stream does not hold the utterance, or holds no lengths.
    """
    tiers = {}
    for tier in TIERS:
        names = [*_NUMBERS, "label"]
        columns = [stream.packed(tier, name, utterances=[utterance_id]).values.tolist() for name in names]
        tiers[tier] = tuple(
            Segment(start, end, label.decode(), parent, Kind(kind), score)
            for start, end, parent, kind, score, label in zip(*columns, strict=True)
        )
    (duration_s,), (flags,) = (
        stream.packed(ABOUT, column, utterances=[utterance_id]).values.tolist() for column in ("duration_s", "flags")
    )
    said = tuple(flags.decode().split("\n")) if flags else ()
    return Alignment(utterance_id, tiers["word"], tiers["syllable"], tiers["phone"], said), duration_s


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
