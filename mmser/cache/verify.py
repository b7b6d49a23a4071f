"""Does a cache hold what it says, byte for byte?"""

from collections.abc import Iterator

from mmser.cache.cache import Cache
from mmser.cache.json_files import check_json, parse_json
from mmser.cache.schema import PLAN_FILE, RECIPE_FILE
from mmser.cache.shard import Shard, check_file
from mmser.cache.stream import comparable
from mmser.cache.stream_files import check_head, headless, parse_plan, shard_paths
from mmser.errors import CacheError


def verify(cache: Cache) -> Iterator[str]:
    """Every fault of a cache, one sentence each; nothing where all is well.

    Reads every byte of every shard, ``stream.json`` and ``plan.json``: changed bytes, truncated or unreadable files,
    tables that do not fit, repeated utterances, planned shards that are not there, shards unlike the others of their
    stream, shards without a ``stream.json``. The manifest is the user's to change; of it, nothing is asked.

    Raises:
        CacheError: no cache at all (:meth:`mmser.cache.Cache.check`).
    """
    cache.check()
    failures: dict[tuple[str, str], str] = {}
    try:
        if cache.packed is not None:
            cache.packed.check()
        failures = cache.failures
    except CacheError as error:
        yield str(error)
    for folder in cache.headless:
        yield headless(folder)
    for name in cache.stream_names:
        yield from _Check(cache, name, {uid for uid, stream in failures if stream == name}).faults()


class _Check:
    """One stream, being checked."""

    def __init__(self, cache: Cache, name: str, failed: set[str]) -> None:
        self.cache, self.name, self.failed, self.folder = cache, name, failed, cache.path / name
        self.present: dict[int, list[str]] = {}
        """Utterances of the sound shards, by number."""
        self.damaged: set[int] = set()

    def faults(self) -> Iterator[str]:
        try:
            head = self._file(RECIPE_FILE)
            check_json(head, str(self.folder / RECIPE_FILE))
            check_head(parse_json(head, str(self.folder / RECIPE_FILE)), str(self.folder / RECIPE_FILE))
        except CacheError as error:
            yield str(error)
        yield from self._shards()
        yield from self._plan()

    def _file(self, name: str) -> bytes:
        """The bytes of one of the stream's files; none where there is none."""
        if self.cache.packed is not None:
            return self.cache.packed.file(f"{self.name}/{name}") or b""
        path = self.folder / name
        return path.read_bytes() if path.exists() else b""

    def _opened(self) -> Iterator[Shard | CacheError]:
        if self.cache.packed is not None:
            yield from self.cache.packed.streams[self.name]
            return
        for path in shard_paths(self.folder):
            try:
                check_file(path)
                yield Shard.open(path)
            except CacheError as error:
                self.damaged.add(int(path.name[:5]))
                yield error

    def _shards(self) -> Iterator[str]:
        layout: object = None
        for shard in self._opened():
            if isinstance(shard, CacheError):
                yield str(shard)
                continue
            where = f"{self.folder / shard.name}"
            try:
                shard.check_arrays()
                ids, _ = shard.utterance_ids, shard.digests()
            except CacheError as error:
                self.damaged.add(shard.number)
                yield str(error)
                continue
            if len(set(ids)) < len(ids):
                yield f"{where}: holds an utterance twice; delete it and extract again"
            if shard.number in self.present:
                yield (
                    f"{where}: there are two shards of this number; a compaction was stopped, and nothing is lost: "
                    "run mmser cache compact again"
                )
            self.present[shard.number] = ids
            columns = {g: {c: comparable(v) for c, v in shard.columns(g).items()} for g in shard.granularities}
            layout = layout or columns
            if columns != layout:
                yield (
                    f"{where}: holds {columns}, unlike the stream's first shard ({layout}); delete it and extract again"
                )

    def _plan(self) -> Iterator[str]:
        data, where = self._file(PLAN_FILE), str(self.folder / PLAN_FILE)
        if not data:
            if self.present:
                yield f"{where}: not there, but its shards are; nobody can say whether any is missing"
            return
        try:
            check_json(data, where)
            plan = parse_plan(parse_json(data, where), where)
        except CacheError as error:
            yield str(error)
            return
        stored = {uid for ids in self.present.values() for uid in ids}
        for unit in plan:
            lost = [uid for uid in unit.utterance_ids if uid not in stored and uid not in self.failed]
            if unit.number not in self.present and unit.number not in self.damaged and lost:
                yield (
                    f"{self.folder}: shard {unit.number:05d} ({len(lost)} utterances) is planned but not there: the "
                    "extraction is not finished, or the file was lost; run the extraction again"
                )
