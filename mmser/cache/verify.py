"""Does a cache hold what it says, byte for byte?"""

from collections.abc import Iterator
from pathlib import Path

from mmser.cache.shard import Shard, check_file
from mmser.cache.store import Cache, Stream, read_plan, shard_paths
from mmser.errors import CacheError


def verify(cache: Cache) -> Iterator[str]:
    """Every fault of a cache, one sentence each; nothing where all is well.

    Reads every byte of every shard: changed bytes, truncated or unreadable files, tables that do not fit, repeated
    utterances, planned shards that are not there, shards unlike the others of their stream.
    """
    failures: dict[tuple[str, str], str] = {}
    try:
        failures = cache.failures
    except CacheError as error:
        yield str(error)
    for name in cache.stream_names:
        failed = {uid for uid, stream in failures if stream == name}
        yield from _verify_stream(cache.path / name, name, failed)


def _verify_stream(folder: Path, name: str, failed: set[str]) -> Iterator[str]:
    present: dict[int, list[str]] = {}
    layout: object = None
    damaged: set[int] = set()
    for path in shard_paths(folder):
        number = int(path.name[:5])
        try:
            check_file(path)
            shard = Shard(path)
            for granularity in shard.granularities:
                shard.offsets(granularity)
        except CacheError as error:
            damaged.add(number)
            yield str(error)
            continue
        ids = present[shard.number] = shard.utterance_ids
        if len(set(ids)) < len(ids):
            yield f"{path}: holds an utterance twice; delete it and extract again"
        # The widths of text columns follow their longest text; all else is alike throughout a stream.
        columns = {g: {c: v for c, v in shard.columns(g).items() if v.dtype[1] != "S"} for g in shard.granularities}
        layout = layout or columns
        if columns != layout:
            yield f"{path}: holds {columns}, unlike the stream's first shard ({layout}); delete it and extract again"
    stored = {uid for ids in present.values() for uid in ids}
    try:
        if not damaged:
            Stream(folder, name)
        plan = read_plan(folder)
    except CacheError as error:
        yield str(error)
        return
    for unit in plan:
        lost = [uid for uid in unit.utterance_ids if uid not in stored and uid not in failed]
        if unit.number not in present and unit.number not in damaged and lost:
            yield (
                f"{folder}: shard {unit.number:05d} ({len(lost)} utterances) is planned but not there: the extraction "
                "is not finished, or the file was lost; run the extraction again"
            )
