"""Features that another tool made, as files: what is in them, found out without unpickling anything."""

import csv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mmser.cache.json_files import read_json
from mmser.cache.places import array_digest
from mmser.errors import CacheError, ManifestError
from mmser.records import check_utterance_id

EXPORT_FILE, INDEX_FILE, MATRIX_FILE = "export.json", "index.csv", "features.npy"
"""What ``mmser cache export`` writes beside the features, or instead of one file an utterance."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """Features made elsewhere. Another format is another function that returns this."""

    shapes: Mapping[str, tuple[int, ...]]
    """(D,), (rows, D) or (layers, rows, D) of each utterance, known before any is read."""
    dtype: np.dtype
    """float16, float32 or float64."""
    read: Callable[[str], NDArray]
    """The features of one utterance; raises CacheError where they are damaged."""
    origin: str
    """Kind of the source, for the recipe: ``npy folder``, ..."""
    granularity: str | None = None
    """Where the source says so itself."""
    layers: tuple[int, ...] = ()
    """The encoder's own numbers of the layers, where the source says so."""
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For each source (audio, text, alignment), the digest of what each utterance was made from, where known."""
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the source says of its utterances besides, as columns of a manifest: label, split, text, ..."""


def map_npy(path: Path) -> NDArray:
    """A ``.npy`` file as a read-only array, paged in when read.

    Raises:
        CacheError: not one, cut short, or holding Python objects (which are never unpickled).
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise CacheError(f"{path}: not an array that can be read ({str(error).splitlines()[0]})") from error


def folder_of_npy(path: Path) -> Foreign:
    """``<utterance_id>.npy`` in a folder, or in folders below it (as EmoBox mirrors a corpus's folders)."""
    found = sorted(path.glob("*.npy")) or sorted(path.rglob("*.npy"))
    if not found:
        raise CacheError(f"{path}: holds no <utterance_id>.npy")
    files: dict[str, Path] = {}
    for file in found:
        if file.stem in files:
            raise CacheError(
                f"{path}: {file.relative_to(path)} and {files[file.stem].relative_to(path)} have one name; names of "
                "files are utterance ids (a folder an utterance, as of pictures of faces, is not read)"
            )
        files[file.stem] = file
    check_ids(list(files), path)
    headers = {uid: _header(file) for uid, file in files.items()}
    dtypes = {dtype for _, dtype in headers.values()}
    if len(dtypes) > 1:
        raise CacheError(f"{path}: its files hold {', '.join(sorted(map(str, dtypes)))}; expected one type in all")
    return Foreign(
        {uid: shape for uid, (shape, _) in headers.items()},
        floats(dtypes.pop(), path),
        lambda uid: map_npy(files[uid]),
        "npy folder",
    )


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    array = map_npy(path)
    return array.shape, array.dtype


def exported(path: Path) -> Foreign:
    """What ``mmser cache export`` wrote; each array is checked against its digest when read."""
    about = read_json(path / EXPORT_FILE)
    try:
        layers, granularity = tuple(int(layer) for layer in about["layers"]), str(about["granularity"])
        with (path / INDEX_FILE).open(encoding="utf-8", newline="") as file:
            rows = {row["utterance_id"]: row for row in csv.DictReader(file)}
            counts = {uid: int(row["rows"]) for uid, row in rows.items()}
            expected = {uid: row["sha256"] for uid, row in rows.items()}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise CacheError(
            f"{path}: its {EXPORT_FILE} or {INDEX_FILE} is damaged ({error!r}); export it again"
        ) from error
    check_ids(list(rows), path / INDEX_FILE)
    if not rows:
        raise CacheError(f"{path / INDEX_FILE}: names no utterance")
    if (path / MATRIX_FILE).exists():
        matrix = map_npy(path / MATRIX_FILE)
        firsts = dict(zip(rows, np.cumsum([0, *counts.values()]).tolist(), strict=False))
        if matrix.ndim not in (2, 3) or matrix.shape[-2] != sum(counts.values()) or min(counts.values()) < 0:
            raise CacheError(f"{path / MATRIX_FILE}: has shape {matrix.shape}, unlike {INDEX_FILE}; export it again")
        shapes = {uid: (*matrix.shape[:-2], n, matrix.shape[-1]) for uid, n in counts.items()}
        dtype = matrix.dtype

        def read(uid: str) -> NDArray:
            return matrix[..., firsts[uid] : firsts[uid] + counts[uid], :]
    else:
        headers = {uid: _header(path / f"{uid}.npy") for uid in rows}
        shapes, dtype = {uid: shape for uid, (shape, _) in headers.items()}, next(iter(headers.values()))[1]

        def read(uid: str) -> NDArray:
            return map_npy(path / f"{uid}.npy")

    def checked(uid: str) -> NDArray:
        array = read(uid)
        if array_digest(array) != expected[uid]:
            raise CacheError(
                f"{path}: the features of {uid!r} have changed since they were exported; export them again"
            )
        return array

    sources = [name for name in next(iter(rows.values())) if name and name.startswith("digest_")]
    digests = {name[len("digest_") :]: {uid: row[name] or "" for uid, row in rows.items()} for name in sources}
    return Foreign(shapes, floats(dtype, path), checked, "export of mmser", granularity, layers, digests)


def npz(path: Path) -> tuple[NDArray, list[str] | None]:
    """The matrix of a ``.npz``, and its ids where it holds them."""
    matrix, ids = None, None
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    array = _from_archive(file, info.file_size)
                if array.dtype.kind in "US" and array.ndim == 1:
                    ids = [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]
                elif array.dtype.kind == "f" and matrix is None:
                    matrix = array
                else:
                    raise CacheError(f"{path}: {info.filename} is one array too many; expected one matrix and its ids")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CacheError(f"{path}: not an archive of arrays that can be read ({error})") from error
    if matrix is None:
        raise CacheError(f"{path}: holds no matrix of floats")
    return matrix, ids


def _from_archive(file: IO[bytes], size: int) -> NDArray:
    """One array of a ``.npz``; its claimed shape is believed only where the archive holds as many bytes."""
    version = npy.read_magic(file)
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    count = int(np.prod([int(n) for n in shape], dtype=object))
    if dtype.hasobject or count * dtype.itemsize != size - file.tell():
        raise ValueError(f"an array of shape {shape} and type {dtype} in {size} bytes")
    array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CacheError(f"{path}: not a list of utterance ids ({error})") from error
    return [line for line in lines if line]


def check_ids(ids: Sequence[str], where: Path) -> None:
    """Refuse ids that are no file names, or that come twice."""
    for uid in ids:
        try:
            check_utterance_id(uid)
        except ManifestError as error:
            raise CacheError(f"{where}: {error}") from None
    if len(set(ids)) < len(ids):
        twice = next(uid for uid in ids if list(ids).count(uid) > 1)
        raise CacheError(f"{where}: names utterance {twice!r} twice")


def floats(dtype: np.dtype, where: Path) -> np.dtype:
    """The type, if its numbers can be stored."""
    little: Any = dtype.newbyteorder("<")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise CacheError(f"{where}: holds {dtype}, expected float16, float32 or float64")
    return np.dtype(little)
