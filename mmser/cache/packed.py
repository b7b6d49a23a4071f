"""A cache in one file: everything of its folder in one HDF5 file, behind a block that holds the digest of the rest."""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from mmser.cache.places import Place, array_digest, children, map_place, open_hdf5, place_of, places_of
from mmser.cache.schema import FAILURES_FILE, KINDS, MANIFEST_FILE, PLAN_FILE, RECIPE_FILE, SCHEMA, check_stream_name
from mmser.cache.shard import Shard, check_file
from mmser.cache.shard_writer import plain_layout
from mmser.cache.stream_files import headless, is_headless, shard_paths
from mmser.errors import CacheError
from mmser.files import replacing

_BLOCK = 512
"""Bytes before the HDF5: the smallest user block that HDF5 can skip."""
_MAGIC = b"mmser packed cache 1, SHA-256 of what follows byte 512: "
_CHUNK = 1 << 22


class PackedFile:
    """A packed cache, opened for reading. As with a shard, no handle stays open.

    Raises:
        CacheError: not a packed cache, or one that holds anything but plain datasets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if not file.read(_BLOCK).startswith(_MAGIC):
                raise CacheError(
                    f"{path}: not a packed cache of mmser; expected a file of mmser cache pack, or the folder that "
                    "mmser extract --cache wrote"
                )
        self._files: dict[str, Place] = {}
        self.streams: dict[str, list[Shard]] = {}
        """Shards by stream, oldest first."""
        with open_hdf5(path) as file:
            self._look(file)

    def _look(self, file: h5py.File) -> None:
        size = self.path.stat().st_size
        for name, item in children(file, f"{self.path}: "):
            if isinstance(item, h5py.Dataset):
                self._note(name, item, size)
                continue
            for below, stream in children(item, f"{self.path}: {name}/"):
                check_stream_name(f"{name}/{below}")
                if isinstance(stream, h5py.Dataset):
                    raise CacheError(f"{self.path}: {name}/{below} is a dataset, expected a stream")
                self._look_at_stream(stream, f"{name}/{below}", size)

    def _look_at_stream(self, group: h5py.Group, name: str, size: int) -> None:
        shards = []
        for below, item in children(group, f"{self.path}: {name}/"):
            where = f"{name}/{below}"
            if isinstance(item, h5py.Dataset):
                self._note(where, item, size)
            else:
                places = places_of(item, self.path, f"{self.path}: {where}/")
                shards.append(Shard(self.path, f"{below}.h5", places))
        if f"{name}/{RECIPE_FILE}" not in self._files:
            raise CacheError(f"{self.path}: stream {name!r} has no {RECIPE_FILE}; not written by mmser")
        self.streams[name] = sorted(shards, key=lambda shard: shard.name)

    def _note(self, name: str, dataset: h5py.Dataset, size: int) -> None:
        place = place_of(dataset, f"{self.path}: {name}", size)
        if place.dtype != np.uint8 or len(place.shape) != 1:
            raise CacheError(f"{self.path}: {name} is no file; not written by mmser")
        self._files[name] = place

    def file(self, name: str) -> bytes | None:
        """The bytes of a file that was packed, e.g. ``manifest.csv``; None where there was none."""
        return map_place(self.path, self._files[name]).tobytes() if name in self._files else None

    def check(self) -> None:
        """Check every byte against the digest before the HDF5.

        Raises:
            CacheError: the file changed since it was written.
        """
        with self.path.open("rb") as file:
            found = file.read(_BLOCK)
        if found != _block(_digest_behind(self.path)):
            raise CacheError(f"{self.path}: changed since it was written; pack the cache again, or copy the file again")


def pack(folder: Path, out: Path) -> int:
    """Write a cache as one file, whole or not at all. Equal caches give equal files.

    Args:
        folder: the cache; every shard is checked against its digest on the way.
        out: the file to write.

    Returns:
        The file's size in bytes.

    Raises:
        CacheError: a shard is damaged, a stream has lost its recipe, or there is something at ``out`` already.
    """
    if out.exists():
        raise CacheError(f"{out}: there already; delete it, or give another --out")
    if not out.parent.is_dir():
        raise CacheError(f"{out}: its folder is not there; make it first")
    with replacing(out, durable=True) as temporary:
        with h5py.File(temporary, "w", libver=("earliest", "v110"), userblock_size=_BLOCK) as file:
            file.attrs["mmser_schema"] = SCHEMA
            _put_files(file, folder, (MANIFEST_FILE, FAILURES_FILE))
            for kind in KINDS:
                for stream in sorted((folder / kind).glob("*")):
                    if is_headless(stream):
                        raise CacheError(headless(stream))
                    if (stream / RECIPE_FILE).is_file():
                        _put_stream(file.create_group(f"{kind}/{stream.name}"), stream)
        with temporary.open("rb+") as file:
            file.write(_block(_digest_behind(temporary)))
    return out.stat().st_size


def _put_stream(group: h5py.Group, folder: Path) -> None:
    _put_files(group, folder, (RECIPE_FILE, PLAN_FILE))
    for path in shard_paths(folder):
        check_file(path)
        shard = Shard.open(path)
        target = group.create_group(path.stem)
        for name, place in shard.places.items():
            data = shard.array(name)
            dataset = target.create_dataset(name, place.shape, place.dtype, dcpl=plain_layout())
            dataset[...] = data
            dataset.attrs["sha256"] = np.bytes_(place.sha256)


def _put_files(group: h5py.Group, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (folder / name).is_file():
            data = np.frombuffer((folder / name).read_bytes(), np.uint8)
            group.create_dataset(name, data=data).attrs["sha256"] = np.bytes_(array_digest(data))


def _digest_behind(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(_BLOCK)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _block(digest: str) -> bytes:
    return (_MAGIC + digest.encode() + b"\n").ljust(_BLOCK, b"\0")
