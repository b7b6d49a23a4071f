"""The values that everything else passes around. Each checks itself when it is made and never changes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from mmser.errors import AlignmentError, ManifestError

TIERS = ("word", "syllable", "phone")
"""The tiers of an alignment, coarse to fine."""

GRANULARITIES = ("frame", "phone", "syllable", "word", "utterance")
"""What a speech state can stand for, fine to coarse."""

POOLINGS = ("mean", "mean+std", "max")
"""Ways to make one vector of a segment's frames; ``mean+std`` doubles the width."""


def check_utterance_id(utterance_id: str) -> None:
    """Refuse an id that could not be a file name anywhere, or that could leave its folder as one.

    Raises:
        ManifestError: empty, over 200 bytes, blank at an end, a dot or slash name, or control characters.
    """
    problem = None
    if not utterance_id or utterance_id != utterance_id.strip():
        problem = "is empty or begins or ends with a blank"
    elif any(c in utterance_id for c in "/\\") or utterance_id in (".", "..") or utterance_id.startswith("~"):
        problem = "looks like a path"
    elif not utterance_id.isprintable():
        problem = "holds a control character"
    elif len(utterance_id.encode()) > 200:
        problem = f"is {len(utterance_id.encode())} bytes long (200 at most)"
    if problem:
        raise ManifestError(
            f"utterance id {utterance_id!r} {problem}: ids become file names, so use letters, digits, '_', '-', '.'"
        )


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest: a recording or a part of one, with what is known about it."""

    utterance_id: str
    audio: Path
    """Where the recording lies, resolved against the manifest's folder."""
    start_s: float | None = None
    """Start of the utterance in the recording, seconds; None is the recording's start."""
    end_s: float | None = None
    """End of the utterance in the recording, seconds; None is the recording's end."""
    text: str | None = None
    """Transcript; None or empty where there is none."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """Every other column of the row: speaker, session, label, arousal, valence, dominance, split, ..."""

    def __post_init__(self) -> None:
        check_utterance_id(self.utterance_id)
        start, end = self.start_s or 0.0, self.end_s
        if not (math.isfinite(start) and start >= 0.0 and (end is None or (math.isfinite(end) and end > start))):
            raise ManifestError(
                f"utterance {self.utterance_id!r}: start_s {self.start_s} and end_s {self.end_s} are no span of time; "
                "expected 0 <= start_s < end_s, in seconds from the start of the recording"
            )


class Kind(IntEnum):
    """What a segment holds."""

    SPEECH = 0
    SILENCE = 1
    """A pause: kept in the alignment, left out of the sequences that heads see."""
    UNKNOWN = 2
    """Speech or noise that the aligner could not spell out (``spn``, ``<unk>``, laughter)."""


@dataclass(frozen=True)
class Segment:
    """A stretch of an utterance that one word, syllable or phone fills."""

    start_s: float
    """Seconds from the start of the utterance."""
    end_s: float
    label: str
    """The word as spoken, the syllable's phones joined by blanks, or the phone's symbol."""
    parent: int = -1
    """A word's parent is its word in the transcript (:mod:`mmser.transcript`); a syllable's or phone's parent is
    its segment in the word tier. -1: none."""
    kind: Kind = Kind.SPEECH
    score: float = math.nan
    """The aligner's own score, where it gives one (its scale is the aligner's)."""


@dataclass(frozen=True)
class Alignment:
    """Words, syllables and phones of one utterance in time.

    Each tier is in order and does not overlap; gaps are allowed (and are as good as silence).

    Raises:
        AlignmentError: a segment is empty, not finite, out of order, overlaps, or has a parent that is not there.
    """

    utterance_id: str
    words: tuple[Segment, ...]
    syllables: tuple[Segment, ...] = ()
    phones: tuple[Segment, ...] = ()
    flags: tuple[str, ...] = ()
    """What the aligner wants known: ``wide-beam``, ``spelled-by-rule:WORD``, ``low-score``, ..."""

    def __post_init__(self) -> None:
        for tier in TIERS:
            self._check(tier)

    def tier(self, name: str) -> tuple[Segment, ...]:
        """The segments of ``"word"``, ``"syllable"`` or ``"phone"``."""
        return {"word": self.words, "syllable": self.syllables, "phone": self.phones}[name]

    def _check(self, tier: str) -> None:
        where = f"utterance {self.utterance_id!r}: {tier} segment"
        before: Segment | None = None
        for i, segment in enumerate(self.tier(tier)):
            if not (0.0 <= segment.start_s < segment.end_s < math.inf):
                raise AlignmentError(
                    f"{where} {i} ({segment.label!r}) runs from {segment.start_s} s to {segment.end_s} s; "
                    "expected 0 <= start < end"
                )
            if before is not None and segment.start_s < before.end_s - 1e-6:
                raise AlignmentError(
                    f"{where} {i} ({segment.label!r}) starts at {segment.start_s:.3f} s, before segment {i - 1} "
                    f"({before.label!r}) ends at {before.end_s:.3f} s"
                )
            if tier != "word" and not -1 <= segment.parent < len(self.words):
                raise AlignmentError(
                    f"{where} {i} ({segment.label!r}) belongs to word {segment.parent}, but there are {len(self.words)}"
                )
            before = segment
