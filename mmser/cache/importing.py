"""Features made elsewhere, into a cache: one stream, one write."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser import __version__
from mmser.cache.foreign import Foreign
from mmser.cache.root_files import add_to_manifest
from mmser.cache.schema import IMPORTED, STATES, Column, stream_folder_name
from mmser.cache.shard_writer import ShardWriter
from mmser.cache.writer import StreamWriter
from mmser.errors import CacheError
from mmser.manifest import Manifest

GRANULARITIES = ("frame", "utterance", "token")
"""What can be imported: words, syllables and phones need an alignment, to say which segment a row stands for."""

DTYPES = {"float16": "<f2", "float32": "<f4"}

_SHARD_BYTES = 256e6


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    stream: str
    granularity: str
    added: int
    """Utterances written in this run."""
    present: int
    """Utterances of the manifest that the stream holds now."""
    unknown: tuple[str, ...]
    """Utterances of the source that are in no row of the manifest, and were left out."""


def told_manifest(source: Foreign, path: Path) -> Manifest:
    """The manifest that features made elsewhere tell themselves; its recordings need not be there.

    Raises:
        CacheError: they tell nothing of their utterances.
    """
    if not source.rows:
        raise CacheError(f"{path}: says nothing of its utterances but their ids; give --manifest FILE")
    columns = dict.fromkeys(name for row in source.rows.values() for name in row)
    table = {name: [row.get(name, "") for row in source.rows.values()] for name in columns}
    return Manifest(pd.DataFrame({"utterance_id": list(source.rows), **table}), path.parent)


def import_features(
    source: Foreign,
    cache: Path,
    name: str,
    manifest: Manifest,
    *,
    granularity: str | None = None,
    dtype: str | None = None,
    report: Callable[[str, int, int], Any] = lambda *_: None,
) -> Imported:
    """Write features made elsewhere as a stream.

    Frames go to ``speech/<name>``, utterances to ``pooled/<name>@none``, tokens of text to ``text/<name>``: states
    alone, for whose token is whose word is not known.

    Run again after an interruption, only what is missing is done.

    Args:
        source: the features.
        cache: the cache's folder; made if it is not there.
        name: what made them, e.g. the encoder's name.
        manifest: the utterances; its rows are kept in the cache.
        granularity: frame, utterance or token; None takes what the source says, else utterance where each is one
            vector, else frame.
        dtype: float16 or float32; None keeps what they are (float64 becomes float32).
        report: told the stream, utterances done and utterances to do.

    Raises:
        CacheError: shapes that differ or do not fit the granularity, values that are not finite or that the type
            cannot hold, nothing that the manifest knows, or a stream made from something else. Names the utterance.
    """
    granularity = granularity or source.granularity or _likely(source)
    if granularity not in GRANULARITIES:
        raise CacheError(
            f"{granularity!r} features cannot be imported: {', '.join(GRANULARITIES)} ones can; words, syllables "
            "and phones are pooled from frames over an alignment, by mmser extract"
        )
    wanted = _known_to(manifest, source)
    column, recipe = _layout(source, wanted, granularity, dtype)
    folder = stream_folder_name(name)
    stream = {"frame": f"speech/{folder}", "utterance": f"pooled/{folder}@none", "token": f"text/{folder}"}[granularity]
    cache.mkdir(parents=True, exist_ok=True)
    with StreamWriter(cache, stream, recipe, {"mmser": __version__, "name": name}) as writer:
        done = _write_shards(writer, source, wanted, granularity, column, lambda *counts: report(stream, *counts))
        present = sum(uid in writer.stream for uid in wanted)
    add_to_manifest(cache, manifest)
    return Imported(stream, granularity, done, present + done, tuple(u for u in source.shapes if u not in wanted))


def _known_to(manifest: Manifest, source: Foreign) -> dict[str, tuple[int, ...]]:
    """The shapes of the utterances that the manifest has, by id."""
    known = set(manifest.ids)
    wanted = {uid: shape for uid, shape in source.shapes.items() if uid in known}
    if not wanted:
        raise CacheError(
            f"none of the {len(source.shapes)} utterances to import ({next(iter(source.shapes))!r}, ...) is among the "
            f"manifest's {len(known)} ({manifest.ids[0]!r}, ...); ids must be the same in both"
        )
    return wanted


def _layout(
    source: Foreign, wanted: Mapping[str, tuple[int, ...]], granularity: str, dtype: str | None
) -> tuple[Column, dict[str, Any]]:
    """The column of states, and the recipe of the stream."""
    num_layers, dim = _agreed(wanted, granularity)
    layers = list(source.layers) or list(range(num_layers))
    if len(layers) != num_layers:
        raise CacheError(f"the export names {len(layers)} layers, its features have {num_layers}; export them again")
    stored = dtype or ("float16" if source.dtype.itemsize == 2 else "float32")
    recipe = {IMPORTED: source.origin, "granularity": granularity, "layers": layers, "dtype": stored, "dim": dim}
    return Column(DTYPES[stored], num_layers, dim), recipe


def _write_shards(
    writer: StreamWriter,
    source: Foreign,
    wanted: Mapping[str, tuple[int, ...]],
    granularity: str,
    column: Column,
    report: Callable[[int, int], Any],
) -> int:
    """Write what is missing; how many utterances that was."""
    lengths = {uid: shape[-2] if len(shape) > 1 else 1 for uid, shape in wanted.items()}
    row_bytes = column.layers * column.dim * np.dtype(column.dtype).itemsize
    units = writer.plan({uid: float(max(n, 1) * row_bytes) for uid, n in lengths.items()}, _SHARD_BYTES)
    total, done = sum(len(unit.utterance_ids) for unit in units), 0
    for unit in units:
        tables = {granularity: ([lengths[uid] for uid in unit.utterance_ids], {STATES: column})}
        digests = {s: [given.get(u, "") for u in unit.utterance_ids] for s, given in source.digests.items()}
        with writer.shard(unit.number, unit.utterance_ids, digests, tables) as shard:
            _fill(shard, source, granularity, column, unit.utterance_ids)
            shard.commit()
        done += len(unit.utterance_ids)
        report(done, total)
    return done


def _likely(source: Foreign) -> str:
    return "utterance" if {len(shape) for shape in source.shapes.values()} == {1} else "frame"


def _agreed(shapes: Mapping[str, tuple[int, ...]], granularity: str) -> tuple[int, int]:
    """Layers and width that all utterances share."""
    whole = {}
    for uid, shape in shapes.items():
        if not 1 <= len(shape) <= 3 or 0 in (shape[-1], *shape[:-2]):
            raise CacheError(
                f"utterance {uid!r}: features of shape {shape}; expected (D,), (rows, D) or (layers, rows, D)"
            )
        whole[uid] = ((1, 1, *shape), (1, *shape), shape)[len(shape) - 1]
    # among rows, one vector is one row: MERBench drops the axis of what is one frame long
    vectors = all(len(shape) == 1 for shape in shapes.values())
    for uid, shape in shapes.items():
        if vectors and granularity == "frame":
            raise CacheError(
                f"utterance {uid!r}: one vector, shape {shape}; expected frames (rows, D): import as utterance"
            )
        if granularity == "utterance" and whole[uid][1] != 1:
            raise CacheError(
                f"utterance {uid!r}: {whole[uid][1]} rows, shape {shape}; expected one: import them as frame"
            )
    (shape, _), *_ = Counter((w[0], w[2]) for w in whole.values()).most_common(1)
    for uid, w in whole.items():
        if (w[0], w[2]) != shape:
            raise CacheError(
                f"utterance {uid!r}: {w[0]} layers of {w[2]} dimensions, unlike the others ({shape[0]} of {shape[1]}); "
                "features of one stream have one shape"
            )
    return shape


def _fill(shard: ShardWriter, source: Foreign, granularity: str, column: Column, ids: tuple[str, ...]) -> None:
    for i, uid in enumerate(ids):
        given = source.read(uid)
        shard.put(granularity, STATES, i, _storable(uid, given.reshape(column.layers, -1, column.dim), column.dtype))


def _storable(uid: str, values: NDArray, dtype: str) -> NDArray:
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        worst = values.ravel()[int(np.argmin(np.isfinite(stored)))]
        raise CacheError(
            f"utterance {uid!r}: a value is {worst:g}, not a number or more than {np.dtype(dtype)} holds; mend its "
            "features, or take float32"
        )
    return stored
