"""IEMOCAP's own alignments: the ``.wdseg``, ``.syseg`` and ``.phseg`` files of its release.

They are output of the aligner Sphinx-3: a header, then a line a segment with its first frame, its last frame (which
is *in* it), an acoustic score and a label, and a total at the end. Frames are 10 ms, counted from the start of the
utterance. Busso et al.: "IEMOCAP: interactive emotional dyadic motion capture database", Language Resources and
Evaluation 42 (2008).
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mmser.errors import AlignmentError
from mmser.extract.align import Closing, Failed, Spoken, digest_files
from mmser.extract.align.syllables import syllables_of
from mmser.extract.align.words import match_words
from mmser.records import Alignment, Kind, Segment
from mmser.units import SAMPLE_RATE

FRAME_S = 0.01
"""Hop of Sphinx-3's front end, seconds."""

TOLERANCE_S = 0.05
"""How far a segment may reach past the audio, to be clipped: its last frame may be begun and not filled."""

_SUFFIXES = {"word": ".wdseg", "syllable": ".syseg", "phone": ".phseg"}

_ROW = re.compile(r"\s*(?P<first>\d+)\s+(?P<last>\d+)(?:\s+(?P<score>-?\d+))?\s+(?P<label>\S+).*")
"""A segment. Syllables have no score; of a phone with its context (``AH D T i``) the first symbol is the phone."""

_SILENCES = frozenset({"<S>", "</S>", "<SIL>", "SIL"})

_NOISE = re.compile(r"\++[^+]+\++|\[.*\]")
"""``++LAUGHTER++``, ``++GARBAGE++``; in the phone tier ``+LAUGHTER+``."""


@dataclass(frozen=True)
class _Row:
    start_s: float
    end_s: float
    label: str
    score: float

    @property
    def kind(self) -> Kind:
        if self.label.upper() in _SILENCES:
            return Kind.SILENCE
        return Kind.UNKNOWN if _NOISE.fullmatch(self.label) else Kind.SPEECH


def _matches(path: Path) -> Iterator[tuple[int, re.Match[str]]]:
    """The lines that are segments, each with its number."""
    try:
        lines = path.read_bytes().decode("latin-1").splitlines()
    except OSError as error:
        raise AlignmentError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if match := _ROW.fullmatch(line):
            yield number, match
        elif line.lstrip()[:1].isdigit():  # the header and the total begin with letters
            raise AlignmentError(
                f"{path}, line {number}: {line.strip()!r} is no segment; expected first frame, last frame, score and "
                "label; the file is damaged, take it from the release"
            )


def read_segments(path: Path, duration_s: float) -> list[_Row]:
    """The segments of one file, in seconds.

    The header, the total and blank lines are known by not beginning with a digit.

    Args:
        path: a ``.wdseg``, ``.syseg`` or ``.phseg`` file.
        duration_s: length of the utterance's audio, at which the last segment is clipped.

    Raises:
        AlignmentError: the file cannot be read, holds no segment, a line of numbers that is none, or a segment that
            cannot be: ending before it begins, beginning before the one before it ends, or outside the audio.
    """
    rows: list[_Row] = []
    last = -1
    for number, match in _matches(path):
        first, final = int(match["first"]), int(match["last"])
        where = f"{path}, line {number}: {match['label']!r} from frame {first} to frame {final}"
        if not last < first <= final:
            raise AlignmentError(f"{where} does not follow frame {last}; the file is damaged, take it from the release")
        last = final
        start_s, end_s = first * FRAME_S, (final + 1) * FRAME_S
        if end_s > duration_s + TOLERANCE_S:
            raise AlignmentError(
                f"{where} ends at {end_s:.2f} s, outside the audio, which lasts {duration_s:.2f} s; check that they "
                "belong together"
            )
        if start_s < duration_s:
            score = float(match["score"]) / (final - first + 1) if match["score"] else math.nan
            rows.append(_Row(start_s, min(end_s, duration_s), match["label"], score))
    if not rows:
        raise AlignmentError(f"{path} holds no segment; expected lines of first frame, last frame, score and label")
    return rows


def _word(row: _Row, parent: int) -> Segment:
    label = re.sub(r"\(\d+\)$", "", row.label).lower() if row.kind is Kind.SPEECH else row.label
    return _segment(row, label, parent)


def _segment(row: _Row, label: str, parent: int) -> Segment:
    return Segment(
        row.start_s, row.end_s, "" if row.kind is Kind.SILENCE else label, parent, kind=row.kind, score=row.score
    )


def _parent(row: _Row, words: list[Segment]) -> int:
    """The word that holds the middle of a syllable or phone; -1 for none."""
    middle = (row.start_s + row.end_s) / 2
    return next((i for i, word in enumerate(words) if word.start_s <= middle < word.end_s), -1)


class IemocapAligner(Closing):
    """Takes alignments from the folder of the IEMOCAP release."""

    name = "iemocap"

    def __init__(self, release: Path) -> None:
        """List the files of ``Session*/sentences/ForcedAlignment``, once.

        Args:
            release: the folder that holds ``Session1`` to ``Session5``.

        Raises:
            AlignmentError: there is no such folder, or no alignment in it.
        """
        if not release.is_dir():
            raise AlignmentError(f"the folder of the IEMOCAP release {release} does not exist")
        self._release = release
        self._paths = {
            (path.stem, path.suffix): path
            for path in sorted(release.glob("Session[1-5]/sentences/ForcedAlignment/*/*.*seg"))
        }
        if not self._paths:
            raise AlignmentError(
                f"{release} holds no alignment; expected Session1/sentences/ForcedAlignment/DIALOG/UTTERANCE.wdseg and "
                "so on: give the folder IEMOCAP_full_release"
            )

    @property
    def recipe(self) -> dict[str, object]:
        """What decides an import besides the files, which are the release's."""
        return {
            "aligner": self.name,
            "rules": 2,  # raise when kinds, matches or syllables come out differently
            "num2words": version("num2words"),
            "tolerance_s": TOLERANCE_S,
        }

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order.

        Flags: ``no-phones``; ``syllables-unreadable`` (so they are made from the phones, as where there is no
        ``.syseg``); ``transcript-differs`` (a word is not in the transcript).
        """
        for one in spoken:
            try:
                yield self._align(one)
            except AlignmentError as error:
                yield Failed(one.utterance_id, f"utterance {one.utterance_id!r}: {error}")

    def file_digest(self, utterance_id: str) -> str | None:
        """SHA-256 of the utterance's files, in hex; None where there are none."""
        paths = (self._paths.get((utterance_id, suffix)) for suffix in _SUFFIXES.values())
        return digest_files(path for path in paths if path is not None)

    def _align(self, spoken: Spoken) -> Alignment:
        duration_s = len(spoken.samples) / SAMPLE_RATE
        rows = {tier: self._rows(spoken.utterance_id, tier, duration_s) for tier in ("word", "phone")}
        if not rows["word"]:
            raise AlignmentError(
                f"there is no {spoken.utterance_id}.wdseg in {self._release}/Session*/sentences/ForcedAlignment; the "
                "release lacks some (Ses03M_impro03_M001 for one)"
            )
        said = [row for row in rows["word"] if row.kind is Kind.SPEECH]
        if not said:
            raise AlignmentError(f"{spoken.utterance_id}.wdseg holds no word")
        parents = iter(match_words([_word(row, -1).label for row in said], spoken.text))
        words = [_word(row, next(parents) if row.kind is Kind.SPEECH else -1) for row in rows["word"]]
        phones = [_segment(row, row.label, _parent(row, words)) for row in rows["phone"]]
        flags = [] if phones else ["no-phones"]
        try:
            rows["syllable"] = self._rows(spoken.utterance_id, "syllable", duration_s)
        except AlignmentError:
            # words and phones are good without them, and give syllables too
            rows["syllable"], flags = [], [*flags, "syllables-unreadable"]
        syllables = tuple(
            _segment(row, row.label.replace("_", " "), _parent(row, words))
            for row in rows["syllable"]
            if row.kind is not Kind.SILENCE
        ) or syllables_of(words, phones)
        differs = spoken.text.strip() and any(w.parent < 0 for w in words if w.kind is Kind.SPEECH)
        flags = ["transcript-differs", *flags] if differs else flags
        return Alignment(spoken.utterance_id, tuple(words), syllables, tuple(phones), tuple(flags))

    def _rows(self, utterance_id: str, tier: str, duration_s: float) -> list[_Row]:
        path = self._paths.get((utterance_id, _SUFFIXES[tier]))
        return read_segments(path, duration_s) if path is not None else []
