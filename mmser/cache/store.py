"""Caches and streams, for reading: the shards of a stream seen as one table."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache.json_files import read_json
from mmser.cache.schema import KINDS, SCHEMA, SHARD_NAME, STATES, Column, check_stream_name
from mmser.cache.shard import Shard
from mmser.errors import CacheError

RECIPE_FILE = "stream.json"
PLAN_FILE = "plan.json"


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
        i = self.utterance_ids.index(utterance_id)
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.values[:, rows] if self.values.ndim == 3 else self.values[rows]


class Stream:
    """One thing extracted, such as ``pooled/facebook--wav2vec2-base@pocketsphinx``.

    Opening reads ``stream.json`` and the ids of every shard; the states stay on the disk until asked for. What is
    written later is seen by a stream opened later.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        head = read_head(folder)
        self.recipe: dict[str, Any] = head.get("recipe", {})
        self.provenance: dict[str, Any] = head.get("provenance", {})
        self.shards = [Shard(path) for path in shard_paths(folder)]

    @cached_property
    def _index(self) -> dict[str, tuple[int, int]]:
        """Shard and position of each utterance; where two shards hold one, the newest."""
        return {uid: (s, i) for s, shard in enumerate(self.shards) for i, uid in enumerate(shard.utterance_ids)}

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

    def digests(self, source: str) -> dict[str, str]:
        """For each utterance, the digest of the ``audio``, ``text`` or ``alignment`` it was made from."""
        stored = [shard.digests().get(source, []) for shard in self.shards]
        return {uid: stored[s][i] if stored[s] else "" for uid, (s, i) in self._index.items()}

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
        ids = self.utterance_ids if utterances is None else list(utterances)
        self._check(granularity, column, ids)
        places = np.array([self._index[uid] for uid in ids], dtype=np.int64).reshape(-1, 2)
        starts, lengths = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        for s in np.unique(places[:, 0]):
            here = places[:, 0] == s
            rows = self.shards[s].offsets(granularity)
            starts[here] = rows[places[here, 1]]
            lengths[here] = np.diff(rows)[places[here, 1]]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        which = self._layer_indices(layers) if column == STATES else None
        values = self._allocate(granularity, column, which, int(offsets[-1]))
        for s in np.unique(places[:, 0]):
            here = np.flatnonzero(places[:, 0] == s)
            stored = self.shards[s].array(f"{granularity}/{column}")
            source = _rows(starts[here], lengths[here])
            target = _rows(offsets[here], lengths[here])
            if which is None:
                values[target] = stored[source]
            else:
                for out, layer in enumerate(which):
                    values[out, target] = stored[layer][source]
        return PackedColumn(tuple(ids), offsets, values)

    def _check(self, granularity: str, column: str, ids: Sequence[str]) -> None:
        if not self.shards:
            raise CacheError(f"{self.folder}: stream {self.name!r} is still empty; run the extraction first")
        if granularity not in self.granularities:
            raise CacheError(
                f"{self.folder}: stream {self.name!r} holds no {granularity!r} states; it holds "
                f"{', '.join(self.granularities)}"
            )
        if column not in self.columns(granularity):
            columns = ", ".join(self.columns(granularity))
            raise CacheError(f"{self.folder}: {granularity!r} has no column {column!r}; it has {columns}")
        absent = [uid for uid in ids if uid not in self._index]
        if absent:
            raise CacheError(
                f"{self.folder}: {len(absent)} utterances are not in stream {self.name!r}, {absent[0]!r} among them; "
                "run the extraction for them"
            )

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


def _rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Row numbers of several stretches, as a slice where they follow one another (a copy at memory speed)."""
    if len(starts) == 0:
        return slice(0, 0)
    if np.array_equal(starts[1:], starts[:-1] + lengths[:-1]):
        return slice(int(starts[0]), int(starts[-1] + lengths[-1]))
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


@dataclass(frozen=True)
class Unit:
    """A shard as planned: its number and its utterances, in order."""

    number: int
    utterance_ids: tuple[str, ...]


def read_plan(folder: Path) -> list[Unit]:
    """The plan of a stream; empty where none was made."""
    path = folder / PLAN_FILE
    if not path.exists():
        return []
    units = read_json(path).get("shards", [])
    try:
        return [Unit(int(unit["shard"]), tuple(map(str, unit["utterances"]))) for unit in units]
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: not a plan of mmser ({error}); delete it, and the rest is planned anew") from error


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a stream, oldest first."""
    return sorted(path for path in folder.glob("*.h5") if SHARD_NAME.fullmatch(path.name))


def read_head(folder: Path) -> dict[str, Any]:
    """What made a stream: its recipe and its provenance.

    Raises:
        CacheError: missing, damaged, or of another schema.
    """
    head = read_json(folder / RECIPE_FILE)
    if head.get("schema") != SCHEMA:
        raise CacheError(
            f"{folder / RECIPE_FILE}: cache schema {head.get('schema')}, this mmser reads {SCHEMA}; "
            "extract again, or use the mmser that wrote it"
        )
    return head


class Cache:
    """A folder of streams.

    >>> Cache(Path("no/such/folder"))
    Traceback (most recent call last):
    ...
    mmser.errors.CacheError: no/such/folder: no such cache; make one with: mmser extract MANIFEST --cache no/such/folder

    Raises:
        CacheError: the folder does not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CacheError(f"{path}: no such cache; make one with: mmser extract MANIFEST --cache {path}")

    @property
    def manifest_path(self) -> Path:
        """The rows the cache was made from."""
        return self.path / "manifest.csv"

    @property
    def failures_path(self) -> Path:
        """What could not be extracted."""
        return self.path / "failed.csv"

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """Why an utterance could not be extracted, by (utterance, stream); empty where nothing failed."""
        if not self.failures_path.exists():
            return {}
        with self.failures_path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if missing := {"utterance_id", "streams", "reason"} - set(rows.fieldnames or ()):
                raise CacheError(
                    f"{self.failures_path}: has no column {min(missing)!r}; delete it; an extraction makes it anew"
                )
            return {(row["utterance_id"], name): row["reason"] for row in rows for name in row["streams"].split()}

    @property
    def stream_names(self) -> list[str]:
        """The streams of the cache, by name."""
        return [
            f"{kind}/{folder.name}"
            for kind in KINDS
            for folder in sorted((self.path / kind).glob("*"))
            if (folder / RECIPE_FILE).is_file()
        ]

    @property
    def streams(self) -> dict[str, Stream]:
        """Every stream, opened."""
        return {name: self.stream(name) for name in self.stream_names}

    def stream(self, name: str) -> Stream:
        """Open one stream.

        Raises:
            CacheError: not there; names those that are.
        """
        check_stream_name(name)
        if name not in self.stream_names:
            raise CacheError(f"{self.path}: no stream {name!r}; there are: {', '.join(self.stream_names) or 'none'}")
        return Stream(self.path / name, name)
