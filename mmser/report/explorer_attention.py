"""Where heads looked, for the explorer: the weights of heads that never trained on the utterance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Cache, Stream
from mmser.errors import ProtocolError
from mmser.extract.options import TEXT_COLUMN
from mmser.heads import HEADS
from mmser.manifest import Manifest
from mmser.records import TIERS
from mmser.report.explorer_answers import Answers
from mmser.report.explorer_sound import encoded
from mmser.train.about import load_about
from mmser.train.apply import Applied, apply, sources_of
from mmser.train.columns import stored_column
from mmser.train.features import Sources
from mmser.train.once import Report
from mmser.train.runs import read_json
from mmser.train.stored import rejected_heads
from mmser.units import FrameGrid

STEPS = 65535
"""Steps of a weight from 0 to 1: two bytes, which is more than the page's three digits."""

_TOLERANCE = 0.01
"""How far a stored head may be from what its run wrote down: another device's rounding, and no more."""

Looks = dict[str, dict[str, Any]]
"""For each utterance ``{"speech": {granularity: labels and times}, "tokens": labels, "maps": {name: weights},
"summary": whether one vector asks for all of a stream}``."""


def has_attention(answers: Answers) -> bool:
    """Whether the head can say where it looked."""
    kinds = [HEADS.get(str(read_json(path / "config.json").get("kind"))) for path in _stored(answers)[:1]]
    return any(kind is not None and kind.shows_attention for kind in kinds)


def attention_of(answers: Answers, cache: Cache, ids: Sequence[str], report: Report = lambda *_: None) -> Looks:
    """Where a head looked in some of its test utterances: each is asked of the fold that tests it, of the first seed.

    Heads of other seeds look elsewhere with the same numbers, so that a mean over seeds would be of nothing.

    Raises:
        ProtocolError: the cache is not the one that the run was trained on.
        MmserError: a stored head is missing or damaged.
    """
    fold_of = dict(zip(answers.ids, answers.folds, strict=True))
    asked = [uid for uid in ids if uid in fold_of]
    folds = list(dict.fromkeys(fold_of[uid] for uid in asked))
    found: Looks = {}
    for done, fold in enumerate(folds):
        report(f"attention of {answers.name}", done, len(folds))
        wanted = [uid for uid in asked if fold_of[uid] == fold]
        found |= _looks(_head_of(answers, fold), answers, cache, wanted)
    report(f"attention of {answers.name}", len(folds), len(folds))
    return found


def _stored(answers: Answers) -> list[Path]:
    """The folders of a head's runs."""
    paths = sorted((answers.folder / "heads").glob("*/config.json"))
    return [path.parent for path in paths if path.parent.name.rpartition("-fold")[0] == answers.head]


def _head_of(answers: Answers, fold: str) -> Path:
    """The stored head of a fold and the first seed: the one that was tested, where several settings were tried."""
    seed, rejected = answers.seeds[0], rejected_heads(answers.folder, answers.head)
    found = []
    for path in _stored(answers):
        config = read_json(path / "config.json")
        if (config.get("fold"), config.get("seed")) == (fold, seed) and path.name not in rejected:
            found.append(path)
    if len(found) != 1:
        raise ProtocolError(
            f"{answers.folder / 'heads'}: expected one head of fold {fold!r} and seed {seed}, found {len(found)}; "
            "train the run to its end again"
        )
    return found[0]


def _looks(path: Path, answers: Answers, cache: Cache, wanted: Sequence[str]) -> Looks:
    head, about = load_about(path)
    manifest = cache.manifest
    asked = list(wanted)
    if about.normalise == "speaker":  # by all that the run knew of the speaker, not by the few that are shown
        speaker = dict(zip(manifest.ids, manifest.column("speaker").tolist(), strict=True))
        speakers = {speaker[uid] for uid in wanted}
        asked = [uid for uid in answers.ids if speaker[uid] in speakers]
    applied = apply(path, cache, asked, attention=True)
    _check(applied, answers, path)
    assert applied.attention is not None, f"{path} shows no attention"
    weights = dict(zip(applied.ids, applied.attention, strict=True))
    sources = sources_of(head, about, cache)
    rows = {name: _segments(sources, name, cache, wanted) for name in about.granularities}
    tokens = _tokens(sources, manifest, wanted)
    return {
        uid: {
            "speech": {name: rows[name][uid] for name in rows},
            "tokens": tokens[uid],
            "maps": {name: _map(own) for name, own in weights[uid].items()},
            "summary": head.summary_asks,
        }
        for uid in wanted
    }


def _check(applied: Applied, answers: Answers, path: Path) -> None:
    """The stored head must say what its run wrote down: else these are not the states that it was tested on."""
    place = {uid: i for i, uid in enumerate(answers.ids)}
    rows = [place[uid] for uid in applied.ids]
    said = [(applied.posteriors, answers.posteriors[rows, 0])] if answers.labels else []
    if applied.ratings is not None:
        said.append((applied.ratings, answers.ratings[rows, 0]))
    for now, then in said:
        off = np.nan_to_num(np.abs(now - then)).max(1)
        if off.max() > _TOLERANCE:
            raise ProtocolError(
                f"{path} now says something else of {applied.ids[int(off.argmax())]!r} (by {off.max():.2f}) than "
                f"{answers.folder / 'predictions.csv'}: give the cache that it was trained on, or train it anew"
            )


def _map(weights: NDArray[np.float32]) -> dict[str, Any]:
    """Weights (heads, asking, asked) as the page reads them."""
    return {"shape": list(weights.shape), "values": encoded(np.rint(weights * STEPS).astype(np.uint16))}


def _of_frame(centre: float, grid: FrameGrid) -> list[Any]:
    return [f"{centre:.2f} s", round(centre - grid.hop_s / 2, 4), round(centre + grid.hop_s / 2, 4)]


def _segments(sources: Sources, granularity: str, cache: Cache, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Label, start and end of the speech states that a head saw of each utterance; times are None where not known."""
    stream = sources.speech[granularity]
    if granularity == "frame" and not stream.imported:
        grid = FrameGrid.of(stream.recipe)
        times = [grid.centres_s(n).round(4).tolist() for n in _lengths(stream, granularity, ids)]
        return {uid: [_of_frame(t, grid) for t in own] for uid, own in zip(ids, times, strict=True)}
    if granularity == "utterance":
        return {uid: [["utterance", None, None]] for uid in ids}
    aligned = f"align/{stream.name.rpartition('@')[2]}"
    if granularity not in TIERS or aligned not in cache.stream_names:
        lengths = zip(ids, _lengths(stream, granularity, ids), strict=True)
        return {uid: [[f"{granularity} {i + 1}", None, None] for i in range(n)] for uid, n in lengths}
    places, align = stored_column(stream, granularity, "segment", ids), cache.stream(aligned)
    labels, starts, ends = (stored_column(align, granularity, name, ids) for name in ("label", "start_s", "end_s"))
    return {
        uid: [
            [labels.of(uid)[i].decode(), round(float(starts.of(uid)[i]), 3), round(float(ends.of(uid)[i]), 3)]
            for i in places.of(uid)
        ]
        for uid in ids
    }


def _lengths(stream: Stream, granularity: str, ids: Sequence[str]) -> list[int]:
    """States of each utterance; none of one that the stream lacks."""
    there = [uid for uid in ids if uid in stream]
    known = dict(zip(there, stream.lengths(granularity, there).tolist(), strict=True))
    return [known.get(uid, 0) for uid in ids]


def _tokens(sources: Sources, manifest: Manifest, ids: Sequence[str]) -> dict[str, list[str]]:
    """The tokens that a head saw, as they stand in the transcript; numbered where their places are not known."""
    assert sources.text is not None, "attention between streams reads text"
    if "start" not in sources.text.columns("token"):
        lengths = zip(ids, _lengths(sources.text, "token", ids), strict=True)
        return {uid: [f"token {i + 1}" for i in range(n)] for uid, n in lengths}
    column = sources.text.recipe.get("text_column", TEXT_COLUMN)
    known = column in manifest.table.columns
    texts = dict(zip(manifest.ids, manifest.column(column).tolist(), strict=True)) if known else {}
    starts, ends = (stored_column(sources.text, "token", name, ids) for name in ("start", "end"))
    spans = {uid: zip(starts.of(uid).tolist(), ends.of(uid).tolist(), strict=True) for uid in ids}
    written = {uid: [texts.get(uid, "")[a:b] for a, b in spans[uid] if a >= 0] for uid in ids}
    return {uid: [token or f"token {i}" for i, token in enumerate(written[uid], 1)] for uid in ids}
