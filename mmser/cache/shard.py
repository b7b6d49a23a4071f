"""One shard: written whole or not at all, read without trust.

A shard is filled slice by slice under a temporary name, digested, flushed to disk and renamed to a name that holds its
own digest. A kill at any moment therefore leaves either the shard or a temporary file that nobody reads.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from mmser.cache.schema import SCHEMA, SHARD_NAME, Column, check_dtype
from mmser.errors import CacheError

_CHUNK = 1 << 22


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path) -> None:
    """Check every byte of a shard against the digest in its name, without letting HDF5 interpret any of them.

    Raises:
        CacheError: the file changed since it was written.
    """
    match = SHARD_NAME.fullmatch(path.name)
    if not match or not file_digest(path).startswith(match[2]):
        raise CacheError(f"{path}: changed since it was written; delete it and extract again")


def array_digest(array: NDArray) -> str:
    """SHA-256 of an array's bytes in C order, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).data if array.size else b"").hexdigest()


def encode_text(values: Sequence[str]) -> NDArray[np.bytes_]:
    """Text as fixed-width UTF-8, which HDF5 stores in place (variable-width text lies in a heap with no digest)."""
    encoded = [value.encode() for value in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


@dataclass(frozen=True)
class Place:
    """Where a dataset's bytes lie in its file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    sha256: str


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
        self._folder, self._number = folder, number
        self._temporary = folder / f".{number:05d}.{os.getpid()}.tmp"
        # "earliest" keeps headers identical from one version of HDF5 to the next, so that equal content is equal bytes
        self._file: h5py.File | None = h5py.File(self._temporary, "w", libver=("earliest", "v110"))
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self._unwritten: dict[str, int] = {}
        self._file.attrs.update({"mmser_schema": SCHEMA, "stream": stream, "shard": number})
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
                self._file.create_dataset(f"{granularity}/{name}", shape, np.dtype(column.dtype), dcpl=_allocate_now())
                self._unwritten[f"{granularity}/{name}"] = int(offsets[-1])

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
        self._unwritten[f"{granularity}/{column}"] -= rows

    def commit(self) -> Path:
        """Digest, flush to the disk and give the shard its name; from here on it never changes."""
        assert self._file is not None
        assert not any(self._unwritten.values()), self._unwritten
        self._file.flush()
        places = _places(self._file, self._temporary)
        for name, place in places.items():
            array = _map(self._temporary, place)
            self._file[name].attrs["sha256"] = array_digest(array)
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
        if self._file is not None:
            self._file.close()
            self._file = None
        self._temporary.unlink(missing_ok=True)


def _allocate_now() -> h5py.h5p.PropDCID:
    """Room for the whole dataset at once, and no fill value: every row is written exactly once."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can (Windows has no such call)."""
    with suppress(PermissionError, OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Shard:
    """A finished shard, opened for reading.

    The file is opened by HDF5 once, to learn where each dataset lies; the data are memory-mapped. No HDF5 handle stays
    open, so a shard can be read in forked and spawned processes and while others are being written.

    Raises:
        CacheError: not a shard of this schema, truncated, or holding anything but plain datasets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        match = SHARD_NAME.fullmatch(path.name)
        if not match:
            raise CacheError(f"{path}: expected a name like 00000-0123456789abcdef.h5")
        self.number = int(match[1])
        try:
            with h5py.File(path, "r", locking=False) as file:
                self._check_head(file)
                self._places = _places(file, path)
        except OSError as error:
            raise CacheError(
                f"{path}: not readable as HDF5 ({error}); delete it and run the extraction again"
            ) from error
        if "utterance_id" not in self._places:
            raise CacheError(f"{path}: has no utterance ids; not a shard of mmser")

    def _check_head(self, file: h5py.File) -> None:
        found = file.attrs.get("mmser_schema")
        if not isinstance(found, np.integer | int) or int(found) != SCHEMA:
            raise CacheError(
                f"{self.path}: cache schema {found}, this mmser reads {SCHEMA}; "
                "extract again, or use the mmser that wrote it"
            )

    @property
    def granularities(self) -> list[str]:
        """The granularities that this shard holds."""
        return sorted({name.split("/")[0] for name in self._places if name.endswith("/offsets")})

    @property
    def utterance_ids(self) -> list[str]:
        """The utterances, in the order in which they are packed."""
        return [value.decode() for value in self.array("utterance_id").tolist()]

    def digests(self) -> dict[str, list[str]]:
        """For each source (audio, text, alignment), the digest each utterance was made from."""
        names = [name for name in self._places if name.startswith("digest/")]
        return {name.split("/")[1]: [v.decode() for v in self.array(name).tolist()] for name in names}

    def offsets(self, granularity: str) -> NDArray[np.int64]:
        """Rows of each utterance at a granularity, shape (n + 1,): utterance i has offsets[i] to offsets[i + 1].

        Raises:
            CacheError: the shard lacks the granularity, or its offsets do not fit its columns.
        """
        offsets = np.array(self.array(f"{granularity}/offsets"), dtype=np.int64)
        rows = {
            place.shape[1 if len(place.shape) == 3 else 0]
            for name, place in self._places.items()
            if name.startswith(f"{granularity}/") and not name.endswith("/offsets")
        }
        expected = self._places["utterance_id"].shape[0] + 1
        if len(offsets) != expected or offsets[0] != 0 or (np.diff(offsets) < 0).any() or rows - {int(offsets[-1])}:
            raise CacheError(f"{self.path}: the offsets of {granularity!r} do not fit its rows; not written by mmser")
        return offsets

    def columns(self, granularity: str) -> dict[str, Column]:
        """What is stored at a granularity."""
        found = {}
        for name, place in self._places.items():
            head, _, column = name.partition("/")
            if head == granularity and column != "offsets":
                layered = len(place.shape) == 3
                found[column] = Column(
                    place.dtype.str, place.shape[0] if layered else 0, place.shape[-1] if len(place.shape) > 1 else 0
                )
        return found

    def array(self, name: str) -> NDArray:
        """A dataset, memory-mapped and read-only, e.g. ``"word/states"`` (layers, rows, dim).

        Raises:
            CacheError: the shard does not hold it.
        """
        if name not in self._places:
            raise CacheError(f"{self.path}: holds no {name!r}; it holds {', '.join(sorted(self._places))}")
        return _map(self.path, self._places[name])


def _map(path: Path, place: Place) -> NDArray:
    if 0 in place.shape:
        return np.zeros(place.shape, place.dtype)
    return np.memmap(path, place.dtype, "r", place.offset, place.shape)


def _places(file: h5py.File, path: Path) -> dict[str, Place]:
    """Every dataset of the file, at most two groups deep; nothing that HDF5 would have to follow or decode."""
    size = path.stat().st_size
    places: dict[str, Place] = {}

    def visit(group: h5py.Group, prefix: str) -> None:
        for name in group:
            where = f"{path}: {prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CacheError(f"{where} is a link; a cache of mmser holds none, and this one is not followed")
            item = group[name]
            if isinstance(item, h5py.Group) and not prefix:
                visit(item, f"{name}/")
            elif isinstance(item, h5py.Dataset):
                places[prefix + name] = _place(item, where, size)
            else:
                raise CacheError(f"{where} is neither a dataset nor a group of datasets; not a shard of mmser")

    visit(file, "")
    return places


def _place(dataset: h5py.Dataset, where: str, file_size: int) -> Place:
    if (
        dataset.is_virtual
        or dataset.external
        or dataset.chunks is not None
        or dataset.id.get_create_plist().get_nfilters()
    ):
        raise CacheError(
            f"{where} is virtual, external, chunked or filtered; a cache of mmser is plain, so it is refused"
        )
    check_dtype(dataset.dtype, where)
    shape = dataset.shape
    if shape is None or not 1 <= len(shape) <= 3:
        raise CacheError(f"{where} has shape {shape}; not a shard of mmser")
    offset = dataset.id.get_offset()
    num_bytes = int(np.prod([int(n) for n in shape], dtype=object)) * dataset.dtype.itemsize
    if num_bytes and offset is None:
        raise CacheError(f"{where} does not lie in one piece; not a shard of mmser")
    if num_bytes and offset + num_bytes > file_size:
        raise CacheError(
            f"{where} should be {num_bytes} bytes from byte {offset}, but the file has {file_size}: it is truncated; "
            "delete it and extract again"
        )
    digest = dataset.attrs.get("sha256", "")
    return Place(dataset.dtype, shape, int(offset or 0), digest if isinstance(digest, str) else "")
