"""The explorer: one page on which every test utterance can be looked at, listened to, and asked who got it wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from mmser import __version__
from mmser.cache import Cache
from mmser.errors import MmserError, ProtocolError
from mmser.files import name_of
from mmser.records import Utterance
from mmser.report.explorer_answers import Answers, read_answers
from mmser.report.explorer_details import Details, best_first, details_of
from mmser.train.folder import write_text
from mmser.train.once import Report

LIMIT = 200
"""Utterances with waveform, segments and attention, unless told otherwise."""

MOST_HEADS = 12
"""Heads that the page shows, unless told otherwise: a table of more is not read beside an utterance."""

MAX_BYTES = 200_000_000
"""Of a page; browsers take long over more, or give up."""


@dataclass(frozen=True)
class Explored:
    """What the page holds."""

    path: Path
    num_bytes: int
    num_utterances: int
    num_detailed: int
    """Utterances with waveform, segments and attention."""
    audio_bytes: int
    """Of the page, what the recordings take."""
    notes: tuple[str, ...]
    """What was left out, and what else the user should know; the page has them, too."""


def write_explorer(
    folders: Sequence[Path],
    cache: Cache,
    path: Path,
    *,
    with_audio: bool = False,
    limit: int | None = None,
    names: Mapping[tuple[Path, str], str] | None = None,
    most: int | None = MOST_HEADS,
    back: str | None = None,
    report: Report = lambda *_: None,
) -> Explored:
    """Write one self-contained page of what the heads of run folders said of every test utterance.

    Predictions are kept of all utterances; waveform, segments and attention of the ``limit`` most telling ones: the
    mistakes of the best head first (:meth:`~mmser.report.explorer_answers.Answers.most_telling`).

    Args:
        folders: finished run folders.
        cache: the cache that they were trained on.
        path: the HTML file, which appears whole or not at all.
        with_audio: whether the page holds those utterances' recordings, to be played.
        limit: utterances with details; None is :data:`LIMIT`.
        names: the heads and what the page calls them (:func:`~mmser.report.explorer_answers.read_answers`); None: all.
        most: heads that the page shows, the best of them by UA, or CCC, on the test part; None: all.
        back: a page beside it to link back to.
        report: told how far it is.

    Raises:
        ProtocolError: a folder is not finished, or the cache is not the one that it was trained on.
        MmserError: the page would be too large to open, the limit is negative, or a stored head is damaged.
    """
    limit = LIMIT if limit is None else limit
    if limit < 0:
        raise MmserError(f"limit is {limit}; expected a number of utterances, 0 or more")
    heads, left_out = _best(read_answers(folders, names), most)
    utterances = _tested(heads, cache)
    best = heads[best_first(heads)[0]]
    telling = set(list(dict.fromkeys([*best.most_telling(), *utterances]))[:limit])
    shown = [one for uid, one in utterances.items() if uid in telling]
    details, notes = details_of(heads, cache, shown, with_audio=with_audio, report=report)
    if left_out:
        notes.insert(
            0, f"The {len(heads)} best of {len(heads) + len(left_out)} heads; not shown: {', '.join(left_out)}"
        )
    if len(shown) < len(utterances):
        notes.insert(
            0,
            f"{len(shown)} of {len(utterances)} utterances have waveform, segments and attention, the mistakes of "
            f"{best.name} first; all have predictions",
        )
    page = _page(_data(heads, utterances, details), name_of(cache.path), notes, back)
    size = len(page.encode())
    if size > MAX_BYTES:
        raise MmserError(
            f"{path} would be {size / 1e6:.0f} MB; expected {MAX_BYTES / 1e6:.0f} MB at most, which browsers open: "
            f"show fewer than {len(shown)} utterances in detail, fewer heads, or no audio"
        )
    write_text(path, page)
    audio_bytes = sum(len(own.get("audio", "")) for own in details.values())
    return Explored(path, size, len(utterances), len(shown), audio_bytes, tuple(notes))


def _best(heads: Sequence[Answers], most: int | None) -> tuple[list[Answers], list[str]]:
    """The best heads in their own order, and the names of the others."""
    kept = set(best_first(heads)[:most])
    return [one for i, one in enumerate(heads) if i in kept], [one.name for i, one in enumerate(heads) if i not in kept]


def _tested(heads: Sequence[Answers], cache: Cache) -> dict[str, Utterance]:
    """The utterances that a head was tested on, in the order of the manifest.

    Raises:
        ProtocolError: the cache's manifest lacks one.
    """
    wanted = {uid: one for one in heads for uid in one.ids}
    found = {one.utterance_id: one for one in cache.manifest.utterances() if one.utterance_id in wanted}
    absent = [uid for uid in wanted if uid not in found]
    if absent:
        raise ProtocolError(
            f"{cache.path}: its manifest lacks {len(absent)} utterances that {wanted[absent[0]].folder} was tested on, "
            f"{absent[0]!r} among them; give the cache that it was trained on"
        )
    return found


def _data(heads: Sequence[Answers], utterances: Mapping[str, Utterance], details: Details) -> dict[str, Any]:
    """All that the page's script reads."""
    said = [_said(one) for one in heads]
    truths: dict[str, str] = {}
    ratings: dict[str, dict[str, Any]] = {}
    for one in heads:
        truths |= {uid: truth for uid, truth in zip(one.ids, one.truth, strict=True) if truth}
        for uid, values in zip(one.ids, _numbers(one.true_ratings), strict=True):
            ratings.setdefault(uid, {}).update(zip(one.dimensions, values, strict=True))
    about = [
        {
            "name": one.name,
            "labels": one.labels,
            "dimensions": one.dimensions,
            "seeds": one.seeds,
            "figure": "UA" if one.labels else "CCC",
            "score": None if np.isnan(one.score) else round(one.score, 4),
        }
        for one in heads
    ]
    rows = [
        {
            "id": uid,
            "text": utterance.text or "",
            "truth": truths.get(uid, ""),
            "ratings": ratings[uid],
            "fields": {name: str(value) for name, value in utterance.fields.items()},
            "said": [own.get(uid) for own in said],
            "detail": details.get(uid),
        }
        for uid, utterance in utterances.items()
    ]
    return {"heads": about, "utterances": rows}


def _said(answers: Answers) -> dict[str, dict[str, Any]]:
    """Fold, posteriors (S, C), ratings (S, K), classes (S,) and that of the mean posteriors of each utterance.

    Classes are of the posteriors as they are: those of the page are rounded, and may be even where these are not.
    """
    columns = {
        "fold": answers.folds,
        "p": _numbers(answers.posteriors),
        "r": _numbers(answers.ratings),
        "classes": answers.prediction_by_seed.tolist(),
        "class_of_mean": answers.prediction.tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    return {uid: dict(zip(columns, row, strict=True)) for uid, row in zip(answers.ids, rows, strict=True)}


def _numbers(values: NDArray[np.float64]) -> Any:
    """Nested lists of four digits, None for what is no number."""
    rounded = np.asarray(values.round(4), dtype=object)
    return np.where(np.isfinite(values), rounded, np.array(None)).tolist()


def _page(data: Mapping[str, Any], name: str, notes: Sequence[str], back: str | None) -> str:
    environment = Environment(loader=PackageLoader("mmser.report"), autoescape=True, undefined=StrictUndefined)
    # its tojson writes <, >, & and all that is not ASCII as escapes: no text can end the script that holds it
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    template = environment.get_template("explorer.html")
    return template.render(data=data, name=name, notes=notes, back=back, version=__version__)
