"""All frames of a corpus in one ``.npy``, with a ``.lengths`` beside it: how emotion2vec's recipe packs features.

``train.npy`` is (frames, D), one utterance after the other; ``train.lengths`` has a line an utterance, its number of
frames. Whose they are stands in ``train.emo`` (id, tabulator, label) or in the ``train.tsv`` that the features were
made from (first line: the folder; then path, tabulator, number of samples).
https://github.com/ddlBoJack/emotion2vec/tree/main/iemocap_downstream
"""

from itertools import accumulate
from pathlib import Path, PurePosixPath

from mmser.cache.foreign import Foreign, check_ids, floats, lines_of, map_npy
from mmser.errors import CacheError

LENGTHS = ".lengths"


def open_lengths(path: Path, ids: Path | None) -> Foreign:
    """Open a packed ``.npy``. An utterance of no frames has no features, and is left out.

    Args:
        path: the ``.npy``; the other files lie beside it.
        ids: a text file with an id a line; None: ``.emo`` or ``.tsv`` say them.

    Raises:
        CacheError: no ids, or the files contradict each other.
    """
    frames, where = map_npy(path), path.with_suffix(LENGTHS)
    try:
        counts = [int(line) for line in lines_of(where)]
    except ValueError as error:
        raise CacheError(f"{where}: expected a number of frames a line ({error})") from None
    if frames.ndim != 2 or sum(counts) != len(frames) or min(counts, default=0) < 0:
        raise CacheError(f"{path}: has shape {frames.shape}, but {where.name} counts {sum(counts)} frames")
    names, rows = _told(path, ids)
    if len(names) != len(counts):
        raise CacheError(f"{where}: counts the frames of {len(counts)} utterances, but {len(names)} are named")
    check_ids(names, ids or path)
    spans = {
        uid: (end - count, end) for uid, count, end in zip(names, counts, accumulate(counts), strict=True) if count
    }
    shapes = {uid: (end - start, frames.shape[1]) for uid, (start, end) in spans.items()}
    return Foreign(
        shapes,
        floats(frames.dtype, path),
        lambda uid: frames[slice(*spans[uid])],
        "npy and lengths",
        "frame",
        rows={uid: row for uid, row in rows.items() if uid in spans},
    )


def _told(path: Path, ids: Path | None) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The ids in order, and what else is known."""
    labels, table = path.with_suffix(".emo"), path.with_suffix(".tsv")
    if ids is not None:
        return lines_of(ids), {}
    if labels.exists():
        cells = [line.split() for line in lines_of(labels)]
        short = next((row for row in cells if len(row) < 2), None)
        if short is not None:
            raise CacheError(f"{labels}: expected an id and a label a line, found {' '.join(short)!r}")
        return [row[0] for row in cells], {row[0]: {"audio": f"{row[0]}.wav", "label": row[1]} for row in cells}
    if table.exists():
        root, *files = lines_of(table) or [""]
        paths = [line.split("\t")[0] for line in files]
        names = [PurePosixPath(audio).stem for audio in paths]
        return names, {uid: {"audio": str(PurePosixPath(root, audio))} for uid, audio in zip(names, paths, strict=True)}
    raise CacheError(
        f"{path}: whose frames are these? Put {labels.name} or {table.name} beside it, or give --ids FILE, with one "
        "utterance id a line"
    )
