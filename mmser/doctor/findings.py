"""What the doctor looks for, and how it says what it found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PROBLEM, NOTE = "problem", "note"
"""A problem changes figures or stops the work; a note is good to know."""


@dataclass(frozen=True)
class Limits:
    """Where the usual ends. All are ours, chosen wide: what lies beyond them deserves a look."""

    long_s: float = 60.0
    """Longest utterance, seconds; the longest turn of IEMOCAP is 34 s, its dialogues are minutes."""
    clipped_samples: int = 10
    """Samples, each the third or later of equal ones at full scale, from which on a recording counts as clipped."""
    full_scale: float = 0.99
    """Where full scale begins, as a share of the largest sample that the format can hold."""
    letters_per_s: float = 35.0
    """Fastest speech; about twice the pace of a hurried reader."""
    letters_free: int = 10
    """Letters on top of that, so that a word cut short is no alarm."""
    sparse_from_s: float = 10.0
    """Utterances of this length ..."""
    sparse_letters_per_s: float = 1.0
    """... with fewer letters a second are named."""
    imbalance: float = 10.0
    """Largest class over smallest."""
    repeated_share: float = 0.05
    """Share of utterances whose sentence another speaker says too, from which on the sentences are looked at."""
    repeated_words: int = 3
    """Shortest sentence that counts as repeated; "Yes." is said by everyone."""
    given_away: float = 0.5
    """How far a repeated sentence's UA may lie from chance (0) towards certainty (1)."""
    told_by_words: float = 0.9
    """The same for the bag of words, which may tell much about emotion by right, but not everything."""


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    check: str
    """What was looked at: counts, recordings, duplicates, ..."""
    level: str
    """``problem`` or ``note``."""
    message: str
    """What was found, and what was expected."""
    advice: str = ""
    """What to do."""
    utterances: tuple[str, ...] = ()
    """Whom it concerns."""


@dataclass(frozen=True)
class Diagnosis:
    """All that was found in a manifest."""

    num_utterances: int
    counts: Mapping[str, Mapping[str, int]]
    """Utterances by label, session, speaker and split, those columns that there are."""
    excluded: Mapping[str, str]
    """Why an utterance of the corpus is not in the manifest."""
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def problems(self) -> list[Finding]:
        """The findings that are no mere notes."""
        return [finding for finding in self.findings if finding.level == PROBLEM]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {
            "num_utterances": self.num_utterances,
            "num_problems": len(self.problems),
            "counts": {column: dict(counts) for column, counts in self.counts.items()},
            "excluded": dict(self.excluded),
            "findings": [asdict(finding) for finding in self.findings],
        }
