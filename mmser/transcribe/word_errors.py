"""Word error rate: how many words a recogniser got wrong, of how many were said."""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from mmser.errors import ManifestError
from mmser.extract.align.words import APOSTROPHE, TAG
from mmser.manifest import NUMBER_COLUMNS, Manifest
from mmser.statistics import Interval, bootstrap_interval
from mmser.transcript import with_characters_apart


@dataclass(frozen=True)
class Spelling:
    """What counts as a difference between two words."""

    case: bool = False
    """``A`` and ``a`` are two words."""
    punctuation: bool = False
    """``word,`` and ``word`` are two words."""


@dataclass(frozen=True)
class WordErrors:
    """The word errors of some utterances."""

    utterances: int
    words: int
    """Of the reference."""
    substitutions: int
    deletions: int
    insertions: int
    interval: Interval | None = None
    """Of the rate, 95 %, by bootstrap over speakers; None where there are fewer than two."""

    @property
    def rate(self) -> float:
        """Errors a word of the reference: more than 1 where much is inserted."""
        return (self.substitutions + self.deletions + self.insertions) / self.words

    def as_json(self) -> dict[str, Any]:
        """All of it, the rate first."""
        return {"rate": self.rate, **asdict(self)}


@dataclass(frozen=True)
class Comparison:
    """Recognised text against the reference."""

    gold: str
    """The column of the reference."""
    overall: WordErrors
    groups: dict[str, dict[str, WordErrors]]
    """By column (``label``, ``speaker``) and value; "" where an utterance has none."""
    num_without_reference: int
    """Utterances left out because no word is written in their reference."""
    num_not_transcribed: int
    """Utterances left out because the recogniser could not be run on them."""
    num_unheard: int
    """Utterances in which no word was heard: all of theirs count as deleted."""
    num_characters: int
    """Words of the reference that are a Han or kana character each: of these alone, the rate is one of characters."""

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "gold": self.gold,
            "overall": self.overall.as_json(),
            "groups": {c: {value: one.as_json() for value, one in own.items()} for c, own in self.groups.items()},
            "without_reference": self.num_without_reference,
            "not_transcribed": self.num_not_transcribed,
            "unheard": self.num_unheard,
            "characters": self.num_characters,
        }


def spell(text: str, spelling: Spelling = Spelling()) -> str:
    """A text as it is compared: words with single blanks between them, without tags such as ``[LAUGHTER]``.

    Each Han or kana character is a word, since Chinese and Japanese have no blanks between words. Unless the spelling
    says otherwise, letters are folded to one case, and all that is no letter, mark or digit becomes a blank, but for
    apostrophes inside words.

    >>> spell("Well -- I can’t, [LAUGHTER] really!")
    "well i can't really"
    >>> spell("你好，Anna")
    '你 好 anna'
    """
    plain = TAG.sub(" ", unicodedata.normalize("NFKC", APOSTROPHE.sub("'", text)))
    words = with_characters_apart(plain).split()
    if not spelling.punctuation:
        kept = ("".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in word) for word in words)
        words = [word.strip("'") for part in kept for word in part.split()]
    return " ".join(word if spelling.case else word.casefold() for word in words if word)


def compare(
    manifest: Manifest,
    gold: str,
    column: str,
    by: Sequence[str],
    *,
    spelling: Spelling = Spelling(),
    not_transcribed: Collection[str] = (),
) -> Comparison:
    """Compare a manifest's column of recognised text with its reference.

    Args:
        manifest: the utterances.
        gold: the column of the reference. An utterance without a word in it is left out, and counted.
        column: that of the recognised text. One without a word has all the reference's words deleted.
        by: columns whose values are told apart.
        spelling: what counts as a difference.
        not_transcribed: utterances to leave out, as those on which the recogniser failed.

    Raises:
        ManifestError: no such column, one of numbers, or nothing to compare.
    """
    columns = {name: _text(manifest, name) for name in dict.fromkeys((gold, column, *by))}
    truth = [spell(text, spelling) for text in columns[gold]]
    failed = np.isin(manifest.ids, list(not_transcribed))
    told = np.array([bool(text) for text in truth])
    rows = np.flatnonzero(told & ~failed)
    if not len(rows):
        raise ManifestError(
            f"{manifest.path or 'manifest'}: no utterance has a word in column {gold!r} to compare with; give --gold"
        )
    heard = [spell(columns[column][row], spelling) for row in rows]
    counts = count_errors([truth[row] for row in rows], heard)
    speakers = manifest.column("speaker")[rows] if "speaker" in manifest.table.columns else None
    groups = {}
    for name in by:
        own = columns[name][rows]
        groups[name] = {
            str(value): _summed(counts[own == value], None if speakers is None else speakers[own == value])
            for value in sorted(set(own))
        }
    return Comparison(
        gold,
        _summed(counts, speakers),
        groups,
        int((~told & ~failed).sum()),
        int(failed.sum()),
        sum(not text for text in heard),
        sum(with_characters_apart(word) != word for row in rows for word in truth[row].split()),
    )


def count_errors(truth: Sequence[str], heard: Sequence[str]) -> NDArray[np.int64]:
    """Words of the reference, substitutions, deletions and insertions of each utterance, (utterances, 4).

    Args:
        truth: the reference as words with blanks between them; at least one each.
        heard: the recognised text, in the same form; may be empty.
    """
    found = jiwer.process_words(list(truth), list(heard))
    counts = np.zeros((len(truth), 4), np.int64)
    for row, (words, chunks) in enumerate(zip(found.references, found.alignments, strict=True)):
        counts[row, 0] = len(words)
        for chunk in chunks:
            if chunk.type == "insert":
                counts[row, 3] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                counts[row, 1 if chunk.type == "substitute" else 2] += chunk.ref_end_idx - chunk.ref_start_idx
    return counts


def _summed(counts: NDArray[np.int64], speakers: NDArray[Any] | None) -> WordErrors:
    interval = None
    if speakers is not None and len(set(speakers)) > 1:
        interval = bootstrap_interval(_rate, counts[:, 0], counts[:, 1:].sum(1), speakers)
    words, substitutions, deletions, insertions = (int(n) for n in counts.sum(0))
    return WordErrors(len(counts), words, substitutions, deletions, insertions, interval)


def _rate(words: NDArray[np.int64], errors: NDArray[np.int64]) -> float:
    return float(errors.sum() / words.sum())


def _text(manifest: Manifest, name: str) -> NDArray[Any]:
    cells = manifest.column(name)
    if name in NUMBER_COLUMNS:
        raise ManifestError(f"column {name!r} holds numbers; expected text")
    return cells
