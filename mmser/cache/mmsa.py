"""Features of MMSA and MMSA-FET: a pickle of padded arrays, read without unpickling (:mod:`mmser.cache.safe_pickle`).

``{"train" | "valid" | "test": {"id", "raw_text", "audio", "vision", "text", "text_bert", "audio_lengths",
"vision_lengths", "annotations", "regression_labels", ...}}``. Features are (utterances, longest, D); behind an
utterance's length lie zeros. "aligned" files have no lengths: all follow the tokens, whose mask is ``text_bert[:, 1]``.
Ids are ``video$_$clip``, and become ``video_clip``, as ``mmser manifest`` has them. https://github.com/thuiar/MMSA
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmser.cache.foreign import Foreign, check_ids, floats
from mmser.cache.safe_pickle import read_pickle
from mmser.errors import CacheError

AUDIO: Final = "audio"
TEXT: Final = "text"
_MASKED: Final = "text_bert"
_PARTS: Final = {"train": "train", "valid": "dev", "test": "test"}
_MOST: Final = 100
"""A rating beyond this is none (MOSI's and MOSEI's reach 3, SIMS's 1)."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the features of an utterance lie."""

    array: NDArray
    """(longest, D), or (D,)."""
    first: int
    end: int


def open_mmsa(path: Path, key: str) -> Foreign:
    """Open a pickle of MMSA.

    Values of minus infinity (COVAREP's logarithms of nothing) become 0, as MMSA itself makes them. Of text, the first
    and the last token of the mask ([CLS], [SEP]) are left out. An utterance of no rows is left out.

    Args:
        path: the ``.pkl``; untrusted.
        key: which features: ``audio``, ``text`` or any other that is (utterances, longest, D) or (utterances, D).

    Raises:
        CacheError: not such a file, no such features, or lengths that do not fit.
    """
    data = read_pickle(path)
    parts = [name for name in _PARTS if isinstance(data, dict) and isinstance(data.get(name), dict)]
    if not parts:
        raise CacheError(f"{path}: holds no part 'train', 'valid' or 'test'; expected a pickle of MMSA")
    if key == _MASKED:
        raise CacheError(f"{path}: {_MASKED} holds numbers of tokens, no states; take --key {TEXT}")
    places: dict[str, _Place] = {}
    rows: dict[str, dict[str, str]] = {}
    ids: list[str] = []
    for name in parts:
        where, part = f"{path}: {name}", data[name]
        names, states = _ids(part, where), _states(part, key, where)
        if len(names) != len(states):
            raise CacheError(f"{where}: {len(names)} ids, but {key} is of shape {states.shape}")
        spans = _spans(part, key, states, where)
        told = _rows(part, names, _PARTS[name])
        for i, (uid, (first, end)) in enumerate(zip(names, spans, strict=True)):
            # (BERT makes something of the padding too)
            if states.ndim == 3 and key != TEXT and states[i, end:].any():
                raise CacheError(
                    f"{where}: {key} of {uid!r} is of {end} rows, but not 0 behind them; padded in front? Pad behind"
                )
            if end > first:
                places[uid] = _Place(states[i], first, end)
                rows[uid] = told[i]
        ids += names
    check_ids(ids, path)
    if not places:
        raise CacheError(f"{path}: {key} has no rows in any utterance")
    dtype = floats(np.result_type(*(place.array.dtype for place in places.values())), path)

    def read(uid: str) -> NDArray:
        place = places[uid]
        values = place.array if place.array.ndim == 1 else place.array[place.first : place.end]
        return np.where(np.isneginf(values), 0, values).astype(dtype)

    shapes = {
        uid: place.array.shape if place.array.ndim == 1 else (place.end - place.first, place.array.shape[1])
        for uid, place in places.items()
    }
    granularity = "token" if key == TEXT else None
    return Foreign(shapes, dtype, read, f"pickle of MMSA, {key}", granularity, rows=rows)


def _ids(part: Mapping[str, Any], where: str) -> list[str]:
    found = _listed(part.get("id"))
    if not found or not all(isinstance(uid, str) for uid in found):
        raise CacheError(f"{where}: expected utterance ids as 'id'; it holds {', '.join(list(part)[:20]) or 'nothing'}")
    return [str(uid).replace("$_$", "_") for uid in found]


def _states(part: Mapping[str, Any], key: str, where: str) -> NDArray:
    states = part.get(key)
    if not isinstance(states, np.ndarray) or states.dtype.kind != "f" or states.ndim not in (2, 3):
        fit = [k for k, v in part.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.ndim > 1]
        raise CacheError(f"{where}: no features {key!r}; choose with --key from {', '.join(fit) or 'none'}")
    return states


def _spans(part: Mapping[str, Any], key: str, states: NDArray, where: str) -> list[tuple[int, int]]:
    """First row and end of each utterance."""
    if states.ndim == 2:
        return [(0, 1)] * len(states)
    mask = part.get(_MASKED)
    given = _listed(part.get(f"{key}_lengths"))
    masked = False
    if isinstance(mask, np.ndarray) and mask.shape[1:] == (3, states.shape[1]) and (key == TEXT or not given):
        masked = True
        lengths = [int(n) for n in mask[:, 1].astype(bool).sum(axis=1)]
    else:
        if not all(isinstance(n, int | np.integer) or (isinstance(n, float) and n.is_integer()) for n in given):
            raise CacheError(f"{where}: {key}_lengths are not all whole numbers")
        lengths = [int(n) for n in given]
    if len(lengths) != len(states) or not all(0 <= n <= states.shape[1] for n in lengths):
        raise CacheError(
            f"{where}: {len(lengths)} lengths up to {max(lengths, default=0)} for {key} of shape {states.shape}; "
            f"expected {key}_lengths, or {_MASKED} (utterances, 3, {states.shape[1]}) with the mask of the tokens"
        )
    return [(1, n - 1) if key == TEXT and masked else (0, n) for n in lengths]


def _rows(part: Mapping[str, Any], names: list[str], split: str) -> list[dict[str, str]]:
    """Columns of a manifest: what MMSA's files tell of each utterance."""
    texts, labels, ratings = (_listed(part.get(name)) for name in ("raw_text", "annotations", "regression_labels"))
    rows = []
    for i, uid in enumerate(names):
        video, _, clip = uid.rpartition("_")
        row = {"audio": f"Raw/{video}/{clip}.mp4", "speaker": video, "split": split}
        if i < len(texts) and isinstance(texts[i], str):
            row["text"] = " ".join(texts[i].split())
        if i < len(ratings) and isinstance(ratings[i], int | float) and abs(ratings[i]) <= _MOST:
            row["sentiment"] = f"{ratings[i]:g}"
            row["label"] = "negative" if ratings[i] < 0 else "positive" if ratings[i] > 0 else "neutral"
        if i < len(labels) and isinstance(labels[i], str) and labels[i]:
            row["label"] = labels[i].lower()
        rows.append(row)
    return rows


def _listed(values: Any) -> list[Any]:
    """An array or list as a list; empty for anything else."""
    if isinstance(values, np.ndarray):
        return list(values.reshape(len(values), -1)[:, 0].tolist()) if values.ndim and values.size else []
    return values if isinstance(values, list) else []
