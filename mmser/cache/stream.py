"""A stream, for reading: its shards seen as one table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache.json_files import read_json
from mmser.cache.schema import IMPORTED, RECIPE_FILE, STATES, Column
from mmser.cache.shard import Shard
from mmser.cache.stream_files import check_head, shard_paths
from mmser.errors import CacheError

_SCATTERED = 4
"""Rows of a shard that lie scattered over more than this many times their number are picked, not read through."""


@dataclass(frozen=True)
class PackedColumn:
    """One column of many utterances, end to end."""

    utterance_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    """(n + 1,): utterance i has the rows offsets[i] to offsets[i + 1]; none where they are equal."""
    values: NDArray
    """(rows,) or, for states, (layers, rows, dim) in the type they are stored in."""

    def of(self, utterance_id: str) -> NDArray:
        """The rows of one utterance: (rows,) or (layers, rows, dim)."""
        if utterance_id not in self._places:
            raise CacheError(f"utterance {utterance_id!r} was not read; {len(self.utterance_ids)} others were")
        i = self._places[utterance_id]
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.values[:, rows] if self.values.ndim == 3 else self.values[rows]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {uid: i for i, uid in enumerate(self.utterance_ids)}


class Stream:
    """One thing extracted, such as ``pooled/facebook--wav2vec2-base@pocketsphinx``.

    Opening reads ``stream.json`` and where the data lie in every shard; the data stay on the disk until asked for.
    What is written later is seen by a stream opened later. A stream can be pickled, and read in other processes.

    Args:
        folder: where it lies; in a packed cache, the file and the stream's name.
        name: its name.
        head: what ``stream.json`` says.
        shards: its shards, oldest first.

    Raises:
        CacheError: what ``stream.json`` says is not what a writer says.
    """

    def __init__(self, folder: Path, name: str, head: dict[str, Any], shards: Sequence[Shard]) -> None:
        self.folder, self.name, self.shards = folder, name, list(shards)
        check_head(head, str(folder / RECIPE_FILE))
        self.recipe: dict[str, Any] = head.get("recipe", {})
        self.provenance: dict[str, Any] = head.get("provenance", {})
        self._firsts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        """How many utterances before each shard."""

    @classmethod
    def open(cls, folder: Path, name: str) -> "Stream":
        """Open the stream that lies in a folder."""
        return cls(folder, name, read_json(folder / RECIPE_FILE), [Shard.open(path) for path in shard_paths(folder)])

    @cached_property
    def _index(self) -> dict[str, int]:
        """Place of each utterance, counted through all shards; where two shards hold one, in the newest."""
        ids = [uid for shard in self.shards for uid in shard.utterance_ids]
        return dict(zip(ids, range(len(ids)), strict=True))

    def located(self, utterance_ids: Sequence[str] | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard that holds each utterance, and its place there; both (n,). All utterances where None.

        Raises:
            CacheError: an utterance is not in the stream.
        """
        if utterance_ids is None:
            places = np.fromiter(self._index.values(), np.int64, len(self._index))
        else:
            absent = [uid for uid in utterance_ids if uid not in self._index]
            if absent:
                raise CacheError(
                    f"{self.folder}: {len(absent)} utterances are not in stream {self.name!r}, {absent[0]!r} among "
                    "them; run the extraction for them"
                )
            places = np.fromiter((self._index[uid] for uid in utterance_ids), np.int64, len(utterance_ids))
        shards = np.searchsorted(self._firsts, places, side="right") - 1
        return shards, places - self._firsts[shards]

    @property
    def num_superseded(self) -> int:
        """Utterances that a newer shard holds again; ``mmser cache compact`` drops them."""
        return int(self._firsts[-1]) - len(self)

    @property
    def utterance_ids(self) -> list[str]:
        """Every utterance of the stream, in the order of the shards."""
        return list(self._index)

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def granularities(self) -> list[str]:
        """The granularities the stream holds; empty while no shard is finished."""
        return self.shards[0].granularities if self.shards else []

    def columns(self, granularity: str) -> dict[str, Column]:
        """What is stored at a granularity."""
        return self.shards[0].columns(granularity) if self.shards else {}

    @property
    def layers(self) -> list[int]:
        """The encoder layers that are stored, by the encoder's own numbers (0 is the input of its first block)."""
        return list(self.recipe.get("layers", []))

    @property
    def imported(self) -> bool:
        """Whether its states were made elsewhere: which spans of the sound or the text they stand for is not known."""
        return IMPORTED in self.recipe

    def digests(self, source: str) -> dict[str, str]:
        """For each utterance, the digest of the ``audio``, ``text`` or ``alignment`` it was made from."""
        stored = [shard.digests().get(source, []) for shard in self.shards]
        return {
            uid: stored[s][i] if stored[s] else ""
            for uid, s, i in zip(self._index, *(part.tolist() for part in self.located()), strict=True)
        }

    def packed(
        self,
        granularity: str,
        column: str = STATES,
        *,
        layers: int | Sequence[int] | None = None,
        utterances: Sequence[str] | None = None,
    ) -> PackedColumn:
        """Read one column of many utterances, one sequential read a layer and shard.

        Args:
            granularity: e.g. ``"word"``.
            column: ``"states"``, or another column of the granularity.
            layers: encoder layer or layers to read (states only); None reads all that are stored.
            utterances: ids to read, in this order; None reads all, in the order of the shards.

        Raises:
            CacheError: the granularity, a layer or an utterance is not in the stream; says what is.
        """
        self._check(granularity, column)
        shards, places = self.located(utterances)
        starts, lengths = np.zeros(len(shards), np.int64), np.zeros(len(shards), np.int64)
        wanted = [(s, np.flatnonzero(shards == s)) for s in np.unique(shards).tolist()]
        for s, here in wanted:
            rows = self.shards[s].offsets(granularity)
            starts[here] = rows[places[here]]
            lengths[here] = np.diff(rows)[places[here]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        which = self._layer_indices(layers) if column == STATES else None
        values = self._allocate(granularity, column, which, int(offsets[-1]))
        name = f"{granularity}/{column}"
        for s, here in wanted:
            source, target = _rows(starts[here], lengths[here]), _rows(offsets[here], lengths[here])
            for out, layer in enumerate([None] if which is None else which):
                _copy(self.shards[s], name, layer, source, values if which is None else values[out], target)
        return PackedColumn(tuple(self._index if utterances is None else utterances), offsets, values)

    def _check(self, granularity: str, column: str) -> None:
        if not self.shards:
            raise CacheError(f"{self.folder}: stream {self.name!r} is still empty; run the extraction first")
        if granularity not in self.granularities:
            raise CacheError(
                f"{self.folder}: stream {self.name!r} holds no {granularity!r} states; it holds "
                f"{', '.join(self.granularities)}"
            )
        first = self.columns(granularity)
        if column not in first:
            raise CacheError(f"{self.folder}: {granularity!r} has no column {column!r}; it has {', '.join(first)}")
        if column != STATES and first[column].layers:
            raise CacheError(f"{self.folder}: {granularity}/{column} has a layer axis; not written by mmser")
        if column == STATES and first[STATES].layers != len(self.layers):
            raise CacheError(
                f"{self.folder}: the recipe names {len(self.layers)} layers, the shards hold {first[STATES].layers}; "
                "not written by mmser"
            )
        for shard in self.shards:
            if comparable(shard.columns(granularity).get(column)) != comparable(first[column]):
                raise CacheError(
                    f"{shard.path}: {granularity}/{column} is unlike that of the stream's first shard; delete the "
                    "shard and extract again"
                )

    def lengths(self, granularity: str, utterances: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Rows of each utterance at a granularity, (n,); of all utterances where None.

        Raises:
            CacheError: the granularity or an utterance is not in the stream; says what is.
        """
        self._check(granularity, next(iter(self.columns(granularity)), STATES))
        shards, places = self.located(utterances)
        lengths = np.zeros(len(shards), np.int64)
        for s in np.unique(shards).tolist():
            lengths[shards == s] = np.diff(self.shards[s].offsets(granularity))[places[shards == s]]
        return lengths

    def layer_places(self, granularity: str, layers: int | Sequence[int] | None) -> list[int]:
        """Where some encoder layers lie on the layer axis of a granularity's states; None asks for all.

        Raises:
            CacheError: the granularity or a layer is not in the stream; says what is.
        """
        self._check(granularity, STATES)
        return self._layer_indices(layers)

    def _layer_indices(self, layers: int | Sequence[int] | None) -> list[int]:
        wanted = self.layers if layers is None else [layers] if isinstance(layers, int) else list(layers)
        missing = [layer for layer in wanted if layer not in self.layers]
        if missing:
            raise CacheError(
                f"{self.folder}: layer {missing[0]} is not in stream {self.name!r}; it holds layers "
                f"{', '.join(map(str, self.layers))}"
            )
        return [self.layers.index(layer) for layer in wanted]

    def _allocate(self, granularity: str, column: str, which: Sequence[int] | None, rows: int) -> NDArray:
        stored = self.columns(granularity)[column]
        # Text columns are as wide as their shard needs; numbers are alike in all shards.
        dtype = max((np.dtype(s.columns(granularity)[column].dtype) for s in self.shards), key=lambda d: d.itemsize)
        return np.empty(stored.shape(rows) if which is None else (len(which), rows, stored.dim), dtype)


def comparable(column: Column | None) -> Column | None:
    """What of a column is alike in all shards: the width of a text follows the longest of its shard."""
    return replace(column, dtype="S") if column is not None and column.dtype[1] == "S" else column


def _copy(
    shard: Shard,
    name: str,
    layer: int | None,
    source: NDArray[np.int64] | slice,
    values: NDArray,
    target: NDArray[np.int64] | slice,
) -> None:
    """Copy rows of one shard into ``values``; one read where they lie together, or nearly so."""
    dtype, shape = shard.places[name].dtype, values.shape[1:]
    if isinstance(source, slice):
        if isinstance(target, slice) and dtype == values.dtype:
            shard.read(name, layer, source.start, values[target])
            return
        block = np.empty((source.stop - source.start, *shape), dtype)
        shard.read(name, layer, source.start, block)
        values[target] = block
        return
    if not len(source):
        return
    first, past = int(source.min()), int(source.max()) + 1
    if past - first > _SCATTERED * len(source):
        stored = shard.array(name)
        values[target] = (stored if layer is None else stored[layer])[source]
        return
    block = np.empty((past - first, *shape), dtype)
    shard.read(name, layer, first, block)
    values[target] = block[source - first]


def _rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Row numbers of several stretches, as a slice where they follow one another (a copy at memory speed)."""
    if len(starts) == 0:
        return slice(0, 0)
    if np.array_equal(starts[1:], starts[:-1] + lengths[:-1]):
        return slice(int(starts[0]), int(starts[-1] + lengths[-1]))
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
