"""Where the data of an HDF5 file lie, found without trust: nothing that HDF5 would follow or decode is accepted."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mmser.cache.schema import MAX_TEXT, SCHEMA, check_dtype
from mmser.errors import CacheError

_MOST_BYTES = 1 << 60
"""Of one dataset. A shape beyond it is no shape of data, and numpy would count past its own integers."""


@dataclass(frozen=True)
class Place:
    """Where a dataset's bytes lie in its file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Size of the data."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def array_digest(array: NDArray) -> str:
    """SHA-256 of an array's bytes in C order, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).data if array.size else b"").hexdigest()


def map_place(path: Path, place: Place) -> NDArray:
    """A dataset as a read-only array that the system pages in when it is read.

    Raises:
        CacheError: the file is no longer there, or shorter than it was.
    """
    if 0 in place.shape:
        return np.zeros(place.shape, place.dtype)
    try:
        return np.memmap(path, place.dtype, "r", place.offset, place.shape)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise gone(path, error) from error


def gone(path: Path, error: Exception) -> CacheError:
    """What to say of a file that was there when its stream was opened."""
    return CacheError(
        f"{path}: can no longer be read ({error}); the cache was compacted or changed since it was opened: "
        "open it again"
    )


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file of this schema, open for as long as it takes to learn where its data lie.

    Raises:
        CacheError: HDF5 cannot make sense of it, or it is of another schema.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = plain_attribute(file, "mmser_schema")
            if found != SCHEMA:
                raise CacheError(
                    f"{path}: cache schema {found!r}, this mmser reads {SCHEMA}; "
                    "extract again, or use the mmser that wrote it"
                )
            yield file
    # What h5py raises over a damaged file depends on which structure is damaged.
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise CacheError(f"{path}: not readable as HDF5 ({error}); delete it and run the extraction again") from error


def children(group: h5py.Group, where: str) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """What lies in a group, by name.

    Raises:
        CacheError: a link, or an object that is neither a group nor a dataset.
    """
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CacheError(f"{where}{name} is a link; a cache of mmser holds none, and this one is not followed")
        item = group[name]
        if not isinstance(item, h5py.Group | h5py.Dataset):
            raise CacheError(f"{where}{name} is neither a dataset nor a group of datasets; not a shard of mmser")
        yield name, item


def places_of(group: h5py.Group, path: Path, where: str) -> dict[str, Place]:
    """Every dataset of a shard, two groups deep at most.

    Args:
        group: the shard: a file, or a group of a packed file.
        path: the file.
        where: how to call the group in an error.
    """
    size = path.stat().st_size
    places: dict[str, Place] = {}
    for name, item in children(group, where):
        if isinstance(item, h5py.Dataset):
            places[name] = place_of(item, where + name, size)
            continue
        for below, dataset in children(item, f"{where}{name}/"):
            if not isinstance(dataset, h5py.Dataset):
                raise CacheError(f"{where}{name}/{below} is not a dataset; not a shard of mmser")
            places[f"{name}/{below}"] = place_of(dataset, f"{where}{name}/{below}", size)
    return places


def place_of(dataset: h5py.Dataset, where: str, file_size: int) -> Place:
    """Where one dataset lies.

    Raises:
        CacheError: it is not plain, not in one piece, or not wholly inside the file.
    """
    plain = dataset.id.get_create_plist()
    if plain.get_layout() != h5py.h5d.CONTIGUOUS or plain.get_external_count() or plain.get_nfilters():
        raise CacheError(
            f"{where} is virtual, external, chunked or filtered; a cache of mmser is plain, so it is refused"
        )
    check_dtype(dataset.dtype, where)
    shape = dataset.shape
    if shape is None or not 1 <= len(shape) <= 3:
        raise CacheError(f"{where} has shape {shape}; not a shard of mmser")
    # The product without its zeros: an empty dataset may claim any size along its other axes.
    claimed = int(np.prod([int(n) or 1 for n in shape], dtype=object)) * dataset.dtype.itemsize
    if claimed > _MOST_BYTES:
        raise CacheError(f"{where} has shape {shape}, more than any file holds; not a shard of mmser")
    num_bytes = claimed if 0 not in shape else 0
    offset = dataset.id.get_offset()
    if num_bytes and offset is None:
        raise CacheError(f"{where} does not lie in one piece; not a shard of mmser")
    if num_bytes and offset + num_bytes > file_size:
        raise CacheError(
            f"{where} should be {num_bytes} bytes from byte {offset}, but the file has {file_size}: it is truncated; "
            "delete it and extract again"
        )
    digest = plain_attribute(dataset, "sha256")
    return Place(dataset.dtype, shape, int(offset or 0), digest.decode("ascii") if isinstance(digest, bytes) else "")


def plain_attribute(item: h5py.File | h5py.Dataset, name: str) -> int | bytes | None:
    """An attribute that is one number or one text of fixed width; None where it is absent or anything else.

    Texts of any width lie in a heap of their own, and HDF5 crashes over a damaged one.
    """
    if not h5py.h5a.exists(item.id, name.encode()):
        return None
    attribute = h5py.h5a.open(item.id, name.encode())
    kind, shape = attribute.get_type(), attribute.get_space()
    plain_text = isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str() and kind.get_size() <= MAX_TEXT
    if shape.get_simple_extent_type() != h5py.h5s.SCALAR or not (
        plain_text or isinstance(kind, h5py.h5t.TypeIntegerID)
    ):
        return None
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    return value.item()
