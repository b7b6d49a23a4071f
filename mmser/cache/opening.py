"""Find out what a file or folder of features is, and open it."""

from pathlib import Path

from mmser.cache.foreign import EXPORT_FILE, Foreign, check_ids, exported, floats, folder_of_npy, lines_of, map_npy, npz
from mmser.cache.lengths import LENGTHS, open_lengths
from mmser.cache.mmsa import AUDIO, open_mmsa
from mmser.errors import CacheError

_EXPECTED = "expected a folder of <utterance_id>.npy, a .npy, a .npz or a .pkl of MMSA"


def open_foreign(path: Path, ids: Path | None = None, key: str | None = None) -> Foreign:
    """Find out what a file or folder of features is.

    Args:
        path: a folder of ``<utterance_id>.npy`` (EmoBox, MERBench), a folder that ``mmser cache export`` wrote, a
            ``.npy`` of all frames beside a ``.lengths`` (emotion2vec), a ``.npy`` matrix, a ``.npz`` that holds the
            matrix and, as ``ids`` or ``utterance_id``, its ids, or a ``.pkl`` of MMSA.
        ids: a text file with one utterance id a line, a line a row of the matrix or a line of the ``.lengths``.
        key: of a ``.pkl``, the features to take; None is audio.

    Raises:
        CacheError: none of these; says what was found.
    """
    if key is not None and path.suffix != ".pkl":
        raise CacheError(f"{path}: --key {key} names features of a .pkl; here there are only one kind")
    if ids is not None and (path.is_dir() or path.suffix == ".pkl"):
        raise CacheError(f"{ids}: a list of ids is for a matrix; a folder and a .pkl name their utterances themselves")
    if path.is_dir():
        return exported(path) if (path / EXPORT_FILE).exists() else folder_of_npy(path)
    if not path.is_file():
        raise CacheError(f"{path}: not there; {_EXPECTED}")
    if path.suffix == ".pkl":
        return open_mmsa(path, key or AUDIO)
    if path.suffix == ".npy" and path.with_suffix(LENGTHS).exists():
        return open_lengths(path, ids)
    if path.suffix == ".npz":
        matrix, names = npz(path)
    elif path.suffix == ".npy":
        matrix, names = map_npy(path), None
    else:
        raise CacheError(f"{path}: {_EXPECTED}")
    if ids is not None:
        names = lines_of(ids)
    if names is None:
        raise CacheError(f"{path}: whose features are its rows? Give --ids FILE, with one utterance id a line")
    if matrix.ndim != 2 or len(names) != len(matrix):
        raise CacheError(f"{path}: holds an array of shape {matrix.shape}, expected {len(names)} rows, one an id")
    check_ids(names, ids or path)
    places = dict(zip(names, range(len(names)), strict=True))
    return Foreign(
        dict.fromkeys(names, (matrix.shape[1],)), floats(matrix.dtype, path), lambda uid: matrix[places[uid]], "matrix"
    )
