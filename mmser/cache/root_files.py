"""The files of a cache that belong to no stream: its manifest, and what could not be extracted.

Every extraction and import adds to them, so they are read, merged and written by one process at a time.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmser.cache.cache import Cache
from mmser.cache.schema import FAILURES_FILE, MANIFEST_FILE
from mmser.files import alone, replacing, sweep
from mmser.manifest import Manifest, merge, read_manifest, write_manifest


def check_root_files(folder: Path) -> None:
    """Make sure that what an extraction will add to can be added to, before there is anything to add.

    Raises:
        ManifestError: the cache's manifest is damaged.
        CacheError: the table of failures is.
    """
    cache = Cache(folder)
    if cache.manifest_path.exists():
        read_manifest(cache.manifest_path)
    cache.failures  # noqa: B018  reads them


def add_to_manifest(folder: Path, manifest: Manifest) -> None:
    """Put rows into a cache's manifest, in place of those of the same utterances.

    Raises:
        ManifestError: the cache's manifest is damaged.
    """
    path = folder / MANIFEST_FILE
    with _changing(folder):
        write_manifest(merge(read_manifest(path), manifest) if path.exists() else manifest, path)


def add_to_failures(folder: Path, failures: Mapping[tuple[str, str], str]) -> None:
    """Put failures into a cache's table of them, from which go those whose utterances their streams hold by now.

    Those of others stay: an extraction looks at some of the utterances and streams.

    Args:
        folder: the cache.
        failures: the reason by (utterance, stream).

    Raises:
        CacheError: the table is damaged.
    """
    with _changing(folder):
        cache = Cache(folder)
        before = cache.failures
        streams = {name: cache.stream(name) for name in {name for _, name in before} & set(cache.stream_names)}
        unmended = {key: why for key, why in before.items() if key[1] in streams and key[0] not in streams[key[1]]}
        write_failures(cache.failures_path, {**unmended, **failures})


def write_failures(path: Path, failures: Mapping[tuple[str, str], str]) -> None:
    """One row an utterance and reason, with the streams that lack it; no file where nothing failed."""
    streams: dict[tuple[str, str], list[str]] = {}
    for (uid, stream), reason in failures.items():
        streams.setdefault((uid, reason), []).append(stream)
    write_failed_rows(path, [(uid, " ".join(names), reason) for (uid, reason), names in sorted(streams.items())])


def write_failed_rows(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """A table of utterances, what lacks them, and why; no file where there are none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("utterance_id", "streams", "reason"), *rows])
    with replacing(path) as temporary:
        temporary.write_bytes(table.getvalue().encode())


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    with alone(folder / ".lock"):
        sweep(folder, MANIFEST_FILE, FAILURES_FILE)
        yield
