"""Writing one shard: whole, or not at all.

A shard is filled slice by slice under a temporary name, digested, flushed to disk and renamed to a name that holds its
own digest. A kill at any moment therefore leaves either the shard or a temporary file that nobody reads.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from mmser.cache.places import array_digest, map_place, places_of
from mmser.cache.room import check_room, reserve
from mmser.cache.schema import MAX_TEXT, SCHEMA, Column
from mmser.cache.shard import file_digest
from mmser.errors import CacheError
from mmser.files import sync_folder


def encode_text(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Text as fixed-width UTF-8, which HDF5 stores in place (variable-width text lies in a heap with no digest)."""
    encoded = [value.encode() for value in values]
    width = max([1, *map(len, encoded)])
    if width > MAX_TEXT:
        raise CacheError(f"{max(values, key=len)[:40]!r}...: a text of {width} bytes, {MAX_TEXT} at most can be stored")
    return np.array(encoded, dtype=f"S{width}")


class ShardWriter:
    """Fills one shard. Leaving the ``with`` block without :meth:`commit` removes what was written.

    Args:
        folder: the stream's folder.
        number: the shard's number in the plan.
        stream: the stream's name, kept in the shard.
        utterance_ids: the utterances, in the order in which they will be packed.
        digests: for each source (audio, text, alignment), one SHA-256 an utterance.
        tables: for each granularity, rows per utterance and the columns.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        stream: str,
        utterance_ids: Sequence[str],
        digests: Mapping[str, Sequence[str]],
        tables: Mapping[str, tuple[Sequence[int], Mapping[str, Column]]],
    ) -> None:
        check_room(folder, tables)
        self._folder, self._number = folder, number
        self._temporary = folder / f".{number:05d}.{os.getpid()}.tmp"
        # "earliest" keeps headers identical from one version of HDF5 to the next, so that equal content is equal bytes
        self._file: h5py.File | None = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._written: dict[str, list[tuple[int, int]]] = {}
        """First row and past the last of every piece, by column."""
        self._file.attrs.update({"mmser_schema": SCHEMA, "stream": np.bytes_(stream), "shard": number})
        self._file.create_dataset("utterance_id", data=encode_text(utterance_ids))
        for source, values in digests.items():
            assert len(values) == len(utterance_ids)
            self._file.create_dataset(f"digest/{source}", data=encode_text(values))
        for granularity, (lengths, columns) in tables.items():
            assert len(lengths) == len(utterance_ids)
            offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
            self._offsets[granularity] = offsets
            self._file.create_dataset(f"{granularity}/offsets", data=offsets)
            for name, column in columns.items():
                shape = column.shape(int(offsets[-1]))
                self._file.create_dataset(f"{granularity}/{name}", shape, np.dtype(column.dtype), dcpl=plain_layout())
                self._written[f"{granularity}/{name}"] = []
        try:
            self._file.flush()
            reserve(self._temporary)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def put(self, granularity: str, column: str, first: int, values: NDArray) -> None:
        """Write the rows of consecutive utterances, beginning with utterance ``first``.

        Args:
            granularity: one of the tables given at the start.
            column: one of its columns.
            first: index of the first utterance.
            values: (rows, ...), or (layers, rows, dim) for a column with a layer axis.
        """
        assert self._file is not None
        dataset = self._file[f"{granularity}/{column}"]
        start = int(self._offsets[granularity][first])
        rows = values.shape[1] if dataset.ndim == 3 else len(values)
        if dataset.ndim == 3:
            dataset[:, start : start + rows] = values
        else:
            dataset[start : start + rows] = values
        self._written[f"{granularity}/{column}"].append((start, start + rows))

    def commit(self) -> Path:
        """Digest, flush to the disk and give the shard its name; from here on it never changes."""
        assert self._file is not None
        for name, pieces in self._written.items():
            starts, ends = zip(*sorted(pieces), strict=True) if pieces else ((), ())
            num_rows = int(self._offsets[name.split("/")[0]][-1])
            assert (*starts, num_rows) == (0, *ends), f"{name}: not every row is written once: {sorted(pieces)}"
        self._file.flush()
        for name, place in places_of(self._file, self._temporary, f"{self._temporary}: ").items():
            self._file[name].attrs["sha256"] = np.bytes_(array_digest(map_place(self._temporary, place)))
        self._file.close()
        self._file = None
        digest = file_digest(self._temporary)
        path = self._folder / f"{self._number:05d}-{digest[:16]}.h5"
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.replace(path)
        sync_folder(self._folder)
        return path

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self._file is not None:
                self._file.close()
                self._file = None
        finally:
            self._temporary.unlink(missing_ok=True)


def plain_layout() -> h5py.h5p.PropDCID:
    """Room for the whole dataset at once, and no fill value: every row is written exactly once."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties
