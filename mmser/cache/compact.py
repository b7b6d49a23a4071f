"""Dropping the rows that newer shards hold again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mmser.cache.cache import Cache
from mmser.cache.shard import Shard, check_file
from mmser.cache.stream import Stream
from mmser.cache.stream_files import read_head, read_plan, write_plan
from mmser.cache.writer import StreamWriter
from mmser.errors import CacheError

_ROWS = 1 << 16
"""Rows copied at a time."""


@dataclass(frozen=True)
class Compacted:
    """What a compaction did to a stream."""

    utterances: int
    """Superseded utterances that were dropped."""
    num_bytes: int
    """Bytes that the stream is smaller by."""


def compact(cache: Cache, report: Callable[[str, int, int], Any] = lambda *_: None) -> dict[str, Compacted]:
    """Drop, from every stream, the utterances that a newer shard holds again.

    A shard that loses some of its utterances is written anew under its number, whole or not at all, and the old one
    deleted behind it; the utterances that both hold meanwhile are the same. So a kill loses nothing, and the next
    compaction goes on. Streams without such utterances are not touched.

    Args:
        cache: a folder; nothing else may write to it meanwhile.
        report: told the stream, the shards done and the shards to do.

    Returns:
        What was done, by stream; streams that were not touched are left out.

    Raises:
        CacheError: no cache, a packed one, a stream that another process writes, or a damaged shard (nothing of it is
            lost).
    """
    cache.check()
    if cache.packed is not None:
        raise CacheError(f"{cache.path}: a packed cache never changes; compact the folder, and pack it again")
    done = {}
    for name, stream in cache.streams.items():
        if stream.num_superseded:
            head = read_head(stream.folder)
            with StreamWriter(cache.path, name, head.get("recipe", {}), head.get("provenance", {})) as writer:
                done[name] = _compact(writer, partial(report, name))
    return done


def _compact(writer: StreamWriter, report: Callable[[int, int], Any]) -> Compacted:
    stream = writer.stream
    shards, places = stream.located()
    kept = {s: np.sort(places[shards == s]) for s in range(len(stream.shards))}
    changed = [s for s, rows in kept.items() if len(rows) < len(stream.shards[s])]
    dropped = stream.num_superseded
    for s in changed:
        check_file(stream.shards[s].path)  # a damaged shard must not be given a new digest
    before = _size(stream)
    _settle_plan(stream, kept)
    # Wholly superseded shards first: one may be what an interrupted compaction wrote under the name to come.
    for i, s in enumerate(sorted(changed, key=lambda s: len(kept[s]) > 0), 1):
        old = stream.shards[s]
        if len(kept[s]):
            _rewrite(writer, old, kept[s].tolist())
        old.path.unlink()
        report(i, len(changed))
    return Compacted(dropped, before - _size(Stream.open(stream.folder, stream.name)))


def _size(stream: Stream) -> int:
    return sum(shard.path.stat().st_size for shard in stream.shards)


def _settle_plan(stream: Stream, kept: dict[int, Any]) -> None:
    """Take what is dropped out of the plan, before it is: a planned shard that is gone would be extracted again."""
    utterances: dict[int, set[str]] = {}
    for s, rows in kept.items():
        shard = stream.shards[s]
        utterances.setdefault(shard.number, set()).update(shard.utterance_ids[i] for i in rows.tolist())
    units = []
    for unit in read_plan(stream.folder):
        if unit.number in utterances:
            unit = replace(unit, utterance_ids=tuple(u for u in unit.utterance_ids if u in utterances[unit.number]))
            if not utterances[unit.number]:
                continue
        units.append(unit)
    write_plan(stream.folder, units)


def _rewrite(writer: StreamWriter, old: Shard, keep: list[int]) -> None:
    """Write a shard anew with some of its utterances."""
    tables = {}
    for granularity in old.granularities:
        lengths = np.diff(old.offsets(granularity))[keep]
        tables[granularity] = (lengths.tolist(), old.columns(granularity))
    digests = {source: [values[i] for i in keep] for source, values in old.digests().items()}
    ids = [old.utterance_ids[i] for i in keep]
    with writer.shard(old.number, ids, digests, tables) as shard:
        for granularity, (_, columns) in tables.items():
            offsets = old.offsets(granularity)
            for column in columns:
                stored = old.array(f"{granularity}/{column}")
                first = 0
                while first < len(keep):
                    past = first + 1
                    while (
                        past < len(keep)
                        and keep[past] == keep[past - 1] + 1
                        and (offsets[keep[past] + 1] - offsets[keep[first]] <= _ROWS)
                    ):
                        past += 1
                    rows = slice(offsets[keep[first]], offsets[keep[past - 1] + 1])
                    shard.put(granularity, column, first, stored[:, rows] if stored.ndim == 3 else stored[rows])
                    first = past
        shard.commit()
