"""One shard, read without trust. What a shard looks like is in :mod:`mmser.cache.schema`."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmser.cache.places import Place, array_digest, gone, map_place, open_hdf5, places_of
from mmser.cache.schema import SHARD_NAME, Column
from mmser.errors import CacheError, ManifestError
from mmser.records import check_utterance_id

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


class Shard:
    """A finished shard, for reading.

    HDF5 opens the file once, to learn where each dataset lies; the data are read from there or memory-mapped. No HDF5
    handle stays open, so a shard can be read in forked and spawned processes and while others are being written.

    Args:
        path: the file that it lies in: its own, or a packed cache.
        name: the name of its own file, which holds the digest of its content.
        places: its datasets.

    Raises:
        CacheError: has no utterance ids, or a granularity without offsets.
    """

    def __init__(self, path: Path, name: str, places: dict[str, Place]) -> None:
        match = SHARD_NAME.fullmatch(name)
        if not match:
            raise CacheError(f"{path}: {name!r} is no shard; expected a name like 00000-0123456789abcdef.h5")
        self.path, self.name, self.number, self.places = path, name, int(match[1]), places
        ids = places.get("utterance_id")
        if ids is None or ids.dtype.kind != "S" or len(ids.shape) != 1:
            raise CacheError(f"{path}: has no utterance ids; not a shard of mmser")
        self.granularities = sorted({place.split("/")[0] for place in places if place.endswith("/offsets")})
        """The granularities that this shard holds."""

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Open the shard that a file is.

        Raises:
            CacheError: not a shard of this schema, truncated, or holding anything but plain datasets.
        """
        with open_hdf5(path) as file:
            return cls(path, path.name, places_of(file, path, f"{path}: "))

    def __len__(self) -> int:
        return self.places["utterance_id"].shape[0]

    @property
    def num_bytes(self) -> int:
        """Size of its data."""
        return sum(place.num_bytes for place in self.places.values())

    @cached_property
    def utterance_ids(self) -> list[str]:
        """The utterances, in the order in which they are packed.

        Raises:
            CacheError: an id that could leave its folder as a file name: whoever exports takes them for names.
        """
        ids = self._texts("utterance_id")
        for uid in ids:
            try:
                check_utterance_id(uid)
            except ManifestError as error:
                raise CacheError(f"{self.path}: {error}; not a shard of mmser") from error
        return ids

    def digests(self) -> dict[str, list[str]]:
        """For each source (audio, text, alignment), the digest each utterance was made from."""
        found = {}
        for name in [name for name in self.places if name.startswith("digest/")]:
            found[name.split("/")[1]] = texts = self._texts(name)
            if len(texts) != len(self):
                raise CacheError(f"{self.path}: has {len(texts)} digests in {name!r} for {len(self)} utterances")
        return found

    def _texts(self, name: str) -> list[str]:
        try:
            return [value.decode() for value in np.asarray(self.array(name)).tolist()]
        except (UnicodeDecodeError, AttributeError) as error:
            raise CacheError(f"{self.path}: {name!r} holds no UTF-8 text ({error}); not a shard of mmser") from error

    def check_arrays(self) -> None:
        """Check every dataset against its digest, and the offsets against the rows.

        Raises:
            CacheError: names the first dataset that changed since it was written.
        """
        for name in self.places:
            if array_digest(self.array(name)) != self.places[name].sha256:
                raise CacheError(f"{self.path}: {self.name}/{name} changed since it was written; extract again")
        for granularity in self.granularities:
            self.offsets(granularity)

    def offsets(self, granularity: str) -> NDArray[np.int64]:
        """Rows of each utterance at a granularity, shape (n + 1,): utterance i has offsets[i] to offsets[i + 1].

        Raises:
            CacheError: the shard lacks the granularity, or its offsets do not fit its columns.
        """
        offsets = np.array(self.array(f"{granularity}/offsets"))
        if offsets.dtype != np.int64 or offsets.ndim != 1:
            raise CacheError(f"{self.path}: the offsets of {granularity!r} are no row numbers; not written by mmser")
        rows = {
            place.shape[1 if len(place.shape) == 3 else 0]
            for name, place in self.places.items()
            if name.startswith(f"{granularity}/") and not name.endswith("/offsets")
        }
        expected = self.places["utterance_id"].shape[0] + 1
        if len(offsets) != expected or offsets[0] != 0 or (np.diff(offsets) < 0).any() or rows - {int(offsets[-1])}:
            raise CacheError(f"{self.path}: the offsets of {granularity!r} do not fit its rows; not written by mmser")
        return offsets

    def columns(self, granularity: str) -> dict[str, Column]:
        """What is stored at a granularity."""
        found = {}
        for name, place in self.places.items():
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
        if name not in self.places:
            raise CacheError(f"{self.path}: holds no {name!r}; it holds {', '.join(sorted(self.places))}")
        return map_place(self.path, self.places[name])

    def read(self, name: str, layer: int | None, first: int, out: NDArray) -> None:
        """Read consecutive rows of a dataset into an array, past the page tables: as fast as a plain file.

        Args:
            name: e.g. ``"word/states"``.
            layer: which place of the layer axis; None for a column without one.
            first: the first row.
            out: (rows, ...) of the dataset's own type, contiguous; filled.
        """
        place = self.places[name]
        assert out.flags.c_contiguous
        assert out.dtype == place.dtype
        assert out.shape[1:] == place.shape[1 + (layer is not None) :]
        if not out.size:
            return
        rows = place.shape[0 if layer is None else 1]
        assert 0 <= first <= first + len(out) <= rows
        start = place.offset + ((layer or 0) * rows + first) * (out.nbytes // len(out))
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                left = out.reshape(-1).view(np.uint8).data
                while left:
                    got = file.readinto(left)
                    if not got:
                        raise OSError(f"it ends at byte {file.tell()}")
                    left = left[got:]
        except OSError as error:
            raise gone(self.path, error) from error
