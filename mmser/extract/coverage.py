"""How much of a corpus an alignment covers: aligned, in part, not at all, and what it could not spell."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmser.cache import Cache, Stream
from mmser.cache.json_files import write_json
from mmser.extract.alignments import ABOUT, read_spans
from mmser.pooling import num_without_centre
from mmser.records import TIERS
from mmser.units import SAMPLE_RATE, FrameGrid

COVERAGE_FILE = "coverage.json"
"""Beside the shards of an alignment stream."""

_GRID = FrameGrid()

_UNKNOWN = ("out-of-vocabulary", "skipped", "outside-audio", "letters-left-out")
"""Flags ``NAME:WORD`` of words without all of their sounds."""
_BY_RULE = "spelled-by-rule"
"""Flag of a word that no dictionary holds, and that was aligned all the same."""


@dataclass(frozen=True)
class Coverage:
    """What an alignment covers. Counts are of utterances unless they say otherwise."""

    stream: str
    aligned: int
    """Every word of the transcript has a segment of speech, and none is without its sounds."""
    partly: int
    """Some words have no segment, or no known sounds."""
    failed: int
    """No alignment: usable at frame and utterance level, not as words, syllables or phones."""
    words: int
    """Words of the transcripts of aligned utterances, tags left out."""
    words_aligned: int
    """Those of them with a segment of speech."""
    segments: Mapping[str, int]
    """Segments by tier, pauses left out."""
    without_frame: Mapping[str, int]
    """Those of them that hold the centre of no frame of 20 ms (wav2vec 2.0's), and take the nearest one."""
    unknown_words: Mapping[str, int]
    """Words without known sounds or left out, with the number of utterances; most frequent first."""
    spelled_by_rule: Mapping[str, int]
    """Words in no dictionary that letter rules spelled, in the same way."""
    flags: Mapping[str, int]
    """Every flag of the aligner, without its word, and the number of utterances that have it."""
    reasons: Mapping[str, str]
    """Why an utterance has no alignment."""

    @property
    def total(self) -> int:
        """All utterances that the stream knows of."""
        return self.aligned + self.partly + self.failed


def coverage(cache: Cache, name: str) -> Coverage:
    """What the alignment stream of that name covers: the utterances it holds, and those that failed for it.

    Raises:
        CacheError: there is no such stream.
    """
    stream = cache.stream(name)
    reasons = {uid: why for (uid, at), why in sorted(cache.failures.items()) if at == name and uid not in stream}
    if not len(stream):
        none = dict.fromkeys(TIERS, 0)
        return Coverage(name, 0, 0, len(reasons), 0, 0, none, none, {}, {}, {}, reasons)
    ids = stream.utterance_ids
    words, found = (stream.packed(ABOUT, column, utterances=ids).values for column in ("words", "words_aligned"))
    flags = [raw.decode().split("\n") if raw else [] for raw in stream.packed(ABOUT, "flags").values.tolist()]
    lost = np.array([any(_part(flag)[0] in _UNKNOWN for flag in of_one) for of_one in flags])
    whole = (found == words) & ~lost
    segments, without = _segments(stream, ids)
    return Coverage(
        name,
        aligned=int(whole.sum()),
        partly=int((~whole).sum()),
        failed=len(reasons),
        words=int(words.sum()),
        words_aligned=int(found.sum()),
        segments=segments,
        without_frame=without,
        unknown_words=_words(flags, _UNKNOWN),
        spelled_by_rule=_words(flags, (_BY_RULE,)),
        flags=_counted(name for of_one in flags for name in {_part(flag)[0] for flag in of_one}),
        reasons=reasons,
    )


def write_coverage(found: Coverage, path: Path) -> None:
    """Write the report as JSON, whole or not at all; words as pairs, to keep their order."""
    words = {name: list(getattr(found, name).items()) for name in ("unknown_words", "spelled_by_rule")}
    write_json(path, {"total": found.total, **asdict(found), **words})


def coverage_rows(found: Coverage) -> list[tuple[str, str]]:
    """The report for people: what, and how much of it."""
    total = max(found.total, 1)
    rows = [
        ("utterances", str(found.total)),
        *(
            (f"  {what}", f"{number} ({number / total:.1%})")
            for what, number in (("aligned", found.aligned), ("partly", found.partly), ("failed", found.failed))
        ),
        ("words with a segment", f"{found.words_aligned} of {found.words}"),
    ]
    rows += [
        (f"{tier}s without a frame of their own", f"{found.without_frame[tier]} of {found.segments[tier]}")
        for tier in TIERS
    ]
    for what, words in (("unknown words", found.unknown_words), ("spelled by rule", found.spelled_by_rule)):
        if words:
            first = ", ".join(list(words)[:5]) + (", ..." if len(words) > 5 else "")
            rows.append((what, f"{len(words)} ({first})"))
    return rows


def _segments(stream: Stream, ids: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    durations_s = dict(zip(ids, stream.packed(ABOUT, "duration_s", utterances=ids).values.tolist(), strict=True))
    spans = read_spans(stream, ids, TIERS)
    frames = {uid: _GRID.num_frames(round(seconds * SAMPLE_RATE)) for uid, seconds in durations_s.items()}
    segments = {tier: sum(len(span.index) for span in spans[tier].values()) for tier in TIERS}
    without = {
        tier: sum(num_without_centre(s.starts_s, s.ends_s, frames[uid], _GRID) for uid, s in spans[tier].items())
        for tier in TIERS
    }
    return segments, without


def _part(flag: str) -> tuple[str, str]:
    name, _, word = flag.partition(":")
    return name, word


def _words(flags: list[list[str]], names: tuple[str, ...]) -> dict[str, int]:
    return _counted(word for of_one in flags for word in {w for name, w in map(_part, of_one) if name in names and w})


def _counted(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(items).items(), key=lambda item: (-item[1], item[0])))
