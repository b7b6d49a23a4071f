"""How words sound: the user's lexicon first, then the dictionary of the acoustic model, then rules."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmser.errors import AlignmentError
from mmser.extract.align.arpabet import PHONES, without_stress
from mmser.extract.align.letters import pronounce_by_letters

Pronunciation = tuple[str, ...]
"""Phones of a word: ARPABET without stress digits."""

_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})


@dataclass(frozen=True)
class Lexicon:
    """The user's own pronunciations."""

    pronunciations: Mapping[str, tuple[Pronunciation, ...]] = field(default_factory=dict)
    """By word in lower case; several where the file gives variants."""
    digest: str = ""
    """SHA-256 of the file's bytes; empty where there is no file."""


def read_lexicon(path: Path) -> Lexicon:
    """Read pronunciations in the format of the CMU dictionary: ``word  W ER1 D``, one a line.

    Variants are further lines of the same word, with or without a number: ``the(2)  DH IY0``. Stress digits may
    be there or not. Lines that begin with ``;;;`` or ``#`` are comments, and so is what follows a `` #``.

    Raises:
        AlignmentError: the file cannot be read, is no UTF-8, or a line holds no phones or an unknown one.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise AlignmentError(f"cannot read the lexicon {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AlignmentError(f"the lexicon {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    found: dict[str, list[Pronunciation]] = {}
    for number, line in enumerate(lines, 1):
        word, *phones = line.split(" #")[0].split() or ["#"]
        if word.startswith((";;;", "#")):
            continue
        plain = tuple(without_stress(phone.upper()) for phone in phones)
        wrong = [phone for phone, sound in zip(phones, plain, strict=True) if sound not in PHONES]
        if not phones or wrong:
            raise AlignmentError(
                f"lexicon {path}, line {number}: word {word!r} has "
                + (f"the phone {wrong[0]!r}" if wrong else "no phones")
                + f"; expected ARPABET phones separated by blanks, out of {' '.join(sorted(PHONES))}"
            )
        variants = found.setdefault(re.sub(r"\(\d+\)$", "", word).lower(), [])
        if plain not in variants:
            variants.append(plain)
    return Lexicon({word: tuple(v) for word, v in found.items()}, hashlib.sha256(content).hexdigest())


def _with_ending(base: Pronunciation, ending: str) -> Pronunciation:
    """The phones of a word and a contracted ending: ``'s`` as in "cat's", "dog's", "fish's"."""
    if ending == "'s":
        if base[-1] in _SIBILANTS:
            return (*base, "AH", "Z")
        return (*base, "S" if base[-1] in _VOICELESS else "Z")
    return (*base, *{"'d": "D", "'ll": "AH L", "'ve": "AH V", "'re": "ER", "n't": "AH N T", "'": ""}[ending].split())


def derive(form: str, look_up: Callable[[str], Pronunciation | None]) -> tuple[Pronunciation, bool]:
    """A pronunciation for a word that the dictionary lacks.

    Args:
        form: the spoken form, lower case, with at least one letter a-z.
        look_up: the dictionary: a word's pronunciation, or None.

    Returns:
        The phones, never empty, and whether letter rules had to make them. ``wentworth's`` out of ``wentworth``
        and an ending is as sure as the dictionary itself; ``frobnicate`` is not.

    >>> derive("fox's", {"fox": ("F", "AA", "K", "S")}.get)
    (('F', 'AA', 'K', 'S', 'AH', 'Z'), False)
    """
    ending = re.search(r"(?<=[a-z])(?:'s|'d|'ll|'ve|'re|n't|')$", form)
    base = form[: ending.start()] if ending else form
    known = look_up(base) or look_up(base.replace("'", ""))
    phones = known or pronounce_by_letters(base)
    assert phones, f"no Latin letter in {form!r}"
    return (_with_ending(phones, ending.group()) if ending else phones), known is None


def can_be_pronounced(form: str) -> bool:
    """Whether a spoken form holds a Latin letter, the only ones that the English lexicon and rules read.

    >>> can_be_pronounced("o'clock"), can_be_pronounced("привет")
    (True, False)
    """
    return any("a" <= c <= "z" for c in form)


def shortest(pronunciations: tuple[Pronunciation, ...]) -> int:
    """Number of phones of the shortest pronunciation."""
    return min(len(phones) for phones in pronunciations)
