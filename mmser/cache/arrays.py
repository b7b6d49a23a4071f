"""States beside the manifest's columns, as scikit-learn and pandas users want them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.cache.schema import STATES
from mmser.cache.stream import Stream
from mmser.errors import CacheError
from mmser.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Features:
    """States of some utterances, and what the manifest says of them."""

    values: NDArray
    """(rows, dim) of one layer, or (layers, rows, dim), in the type they are stored in."""
    offsets: NDArray[np.int64]
    """(n + 1,): utterance i has the rows offsets[i] to offsets[i + 1]."""
    manifest: Manifest
    """The rows of these utterances, in the same order."""

    @property
    def utterance_ids(self) -> list[str]:
        """The utterances, in order."""
        return self.manifest.ids

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(rows,) the utterance of every row of ``values``, by its place."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def column(self, name: str) -> NDArray[Any]:
        """(rows,) a column of the manifest for every row of ``values``: labels, or the speakers as groups.

        Raises:
            ManifestError: no such column.
        """
        return self.manifest.column(name)[self.rows]


def select(stream: Stream, manifest: Manifest, utterances: Sequence[str] | None) -> Manifest:
    """The manifest's rows of the utterances asked for; None asks for all that the stream holds.

    Raises:
        ManifestError: an utterance is not in the manifest.
        CacheError: the stream and the manifest share no utterance.
    """
    wanted = [uid for uid in manifest.ids if uid in stream] if utterances is None else list(utterances)
    if not wanted:
        raise CacheError(f"{stream.folder}: holds none of the manifest's {len(manifest)} utterances; nothing to read")
    return manifest.select(wanted)


def read_features(
    stream: Stream,
    manifest: Manifest,
    granularity: str,
    layer: int | Sequence[int] | None,
    utterances: Sequence[str] | None,
) -> Features:
    """See :meth:`mmser.cache.cache.Cache.to_numpy`."""
    chosen = select(stream, manifest, utterances)
    packed = stream.packed(granularity, layers=layer, utterances=chosen.ids)
    return Features(packed.values[0] if isinstance(layer, int) else packed.values, packed.offsets, chosen)


def read_segments(
    stream: Stream,
    aligned: Stream | None,
    manifest: Manifest,
    granularity: str,
    layer: int | None,
    utterances: Sequence[str] | None,
) -> pd.DataFrame:
    """See :meth:`mmser.cache.cache.Cache.to_pandas`; ``aligned`` is the alignment that the states were pooled over."""
    chosen = select(stream, manifest, utterances)
    lengths = stream.lengths(granularity, chosen.ids)
    columns = [name for name in stream.columns(granularity) if name != STATES]
    packed = {name: stream.packed(granularity, name, utterances=chosen.ids) for name in columns}
    states = stream.packed(granularity, layers=layer, utterances=chosen.ids) if layer is not None else None
    rows = np.repeat(np.arange(len(chosen)), lengths)
    found = chosen.table.iloc[rows].reset_index(drop=True)
    more = {name: column.values for name, column in packed.items()}
    if aligned is not None and "segment" in more and granularity in aligned.granularities:
        more |= _segments(aligned, granularity, chosen.ids, rows, more["segment"])
    added = {f"{granularity}_{name}": _text(values) for name, values in more.items() if values.ndim == 1}
    tables = [found, pd.DataFrame(added, index=found.index)]
    if states is not None:
        names = [f"state_{i}" for i in range(states.values.shape[2])]
        tables.append(pd.DataFrame(states.values[0], columns=names))
    return pd.concat(tables, axis=1)


def _segments(
    aligned: Stream, granularity: str, ids: Sequence[str], rows: NDArray[np.int64], segment: NDArray
) -> dict[str, NDArray]:
    """The alignment's columns for every row: its utterance, and the segment's place in its tier."""
    there = [uid for uid in ids if uid in aligned]
    first = dict.fromkeys(ids, -1)
    found: dict[str, NDArray] = {}
    for name in aligned.columns(granularity):
        packed = aligned.packed(granularity, name, utterances=there)
        first.update(zip(there, packed.offsets.tolist(), strict=False))
        starts = np.array([first[uid] for uid in ids], np.int64)[rows]
        if len(starts) and (starts.min() < 0 or (starts + segment).max() >= len(packed.values)):
            raise CacheError(f"{aligned.folder}: lacks segments that states were pooled over; extract again")
        found[name] = packed.values[starts + segment]
    return found


def _text(values: NDArray) -> NDArray:
    return np.array([v.decode() for v in values.tolist()], dtype=object) if values.dtype.kind == "S" else values
