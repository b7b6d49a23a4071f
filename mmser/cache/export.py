"""A stream as files that any tool reads, so that nobody is locked in."""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache.foreign import EXPORT_FILE, INDEX_FILE, MATRIX_FILE
from mmser.cache.json_files import write_json
from mmser.cache.places import array_digest
from mmser.cache.schema import STATES
from mmser.cache.stream import Stream
from mmser.errors import CacheError

FORMS = ("files", "matrix")


def export(
    stream: Stream,
    granularity: str,
    out: Path,
    *,
    layers: Sequence[int] | None = None,
    form: str = "files",
    report: Callable[[str, int, int], Any] = lambda *_: None,
) -> int:
    """Write the states of a stream as ``.npy``, whole or not at all.

    The folder holds one ``<utterance_id>.npy`` an utterance, (rows, dim) of one layer or (layers, rows, dim) of
    several; or all of them end to end in ``features.npy``. ``index.csv`` has a row an utterance, in that order: its
    rows, the SHA-256 of its array's bytes, and the digests of what it was made from. ``export.json`` says what made it.

    Args:
        stream: what to export.
        granularity: e.g. ``"utterance"``.
        out: the folder to write; must not be there yet.
        layers: encoder layers; None for all that are stored.
        form: ``files`` or ``matrix``.
        report: told the stream, utterances done and utterances to do.

    Returns:
        The number of utterances.

    Raises:
        CacheError: not there, damaged (a digest does not fit), or ``out`` is there already.
    """
    assert form in FORMS
    if out.exists():
        raise CacheError(f"{out}: there already; delete it, or give another --out")
    places = stream.layer_places(granularity, layers)
    chosen = [stream.layers[place] for place in places]
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        _write(stream, granularity, chosen, form, temporary, report)
        about = {"stream": stream.name, "granularity": granularity, "layers": chosen, "recipe": stream.recipe}
        write_json(temporary / EXPORT_FILE, {**about, "provenance": stream.provenance})
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(stream)


def _write(
    stream: Stream,
    granularity: str,
    layers: list[int],
    form: str,
    folder: Path,
    report: Callable[[str, int, int], Any],
) -> None:
    sources = sorted({source for shard in stream.shards for source in shard.digests()})
    digests = {source: stream.digests(source) for source in sources}
    ids = stream.utterance_ids
    shards, _ = stream.located(ids)
    matrix = _matrix(stream, granularity, layers, folder) if form == "matrix" else None
    first = done = 0
    with (folder / INDEX_FILE).open("w", encoding="utf-8", newline="") as file:
        index = csv.writer(file)
        index.writerow(["utterance_id", "rows", "sha256", *(f"digest_{source}" for source in sources)])
        for s in np.unique(shards).tolist():
            stream.shards[s].check_arrays()
            here = [ids[i] for i in np.flatnonzero(shards == s).tolist()]
            packed = stream.packed(granularity, layers=layers, utterances=here)
            for uid, a, b in zip(here, packed.offsets, packed.offsets[1:], strict=False):
                states = np.ascontiguousarray(packed.values[0, a:b] if len(layers) == 1 else packed.values[:, a:b])
                index.writerow([uid, b - a, array_digest(states), *(digests[source][uid] for source in sources)])
                if matrix is None:
                    np.save(folder / f"{uid}.npy", states, allow_pickle=False)
                else:
                    matrix[..., first : first + (b - a), :] = states
                first += int(b - a)
            done += len(here)
            report(stream.name, done, len(ids))


def _matrix(stream: Stream, granularity: str, layers: list[int], folder: Path) -> NDArray:
    column = stream.columns(granularity)[STATES]
    rows = int(stream.lengths(granularity).sum())
    shape = (rows, column.dim) if len(layers) == 1 else (len(layers), rows, column.dim)
    return np.lib.format.open_memmap(folder / MATRIX_FILE, "w+", np.dtype(column.dtype), shape)
