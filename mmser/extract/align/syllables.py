"""Syllables out of phones: every vowel is a nucleus, and the longest legal English onset goes with the vowel after it.

This is the maximal onset principle (Kahn 1976, "Syllable-based generalizations in English phonology"). It reads
ARPABET with or without stress digits, and the IPA of MFA's models, whose consonants are taken for their nearest
ARPABET relative where the legality of a cluster is asked.
"""

import math
import unicodedata
from collections.abc import Sequence
from itertools import groupby, pairwise

from mmser.extract.align.arpabet import PHONES, VOWELS, without_stress
from mmser.records import Kind, Segment

_REDUCED = frozenset({"AX", "AXR", "IX", "UX", "EL", "EM", "EN"})
"""Nuclei of the longer ARPABET that TIMIT uses."""

_IPA_VOWELS = frozenset("aeiouyɑɒæɐəɘɚɛɜɝɞɤɨɪɯɔɵøœɶʉʊʌʏ")

_IPA_CONSONANTS = {
    "p": "P", "b": "B", "t": "T", "ɾ": "T", "ʔ": "T", "d": "D", "k": "K", "c": "K", "ɡ": "G", "g": "G", "ɟ": "G",
    "f": "F", "v": "V", "ʋ": "V", "θ": "TH", "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH",
    "ç": "HH", "m": "M", "ɱ": "M", "n": "N", "ɲ": "N", "ŋ": "NG", "l": "L", "ɫ": "L", "ʎ": "L", "ɹ": "R", "r": "R",
    "j": "Y", "w": "W", "ʍ": "W", "tʃ": "CH", "dʒ": "JH",
}  # fmt: skip

_CLUSTERS = frozenset(
    {("P", "L"), ("P", "R"), ("P", "Y"), ("B", "L"), ("B", "R"), ("B", "Y"), ("T", "R"), ("T", "W"), ("D", "R"),
     ("D", "W"), ("K", "L"), ("K", "R"), ("K", "W"), ("K", "Y"), ("G", "L"), ("G", "R"), ("G", "W"), ("G", "Y"),
     ("F", "L"), ("F", "R"), ("F", "Y"), ("V", "Y"), ("TH", "R"), ("TH", "W"), ("SH", "R"), ("HH", "Y"), ("HH", "W"),
     ("M", "Y"), ("S", "P"), ("S", "T"), ("S", "K"), ("S", "F"), ("S", "M"), ("S", "N"), ("S", "L"), ("S", "W"),
     ("S", "P", "L"), ("S", "P", "R"), ("S", "P", "Y"), ("S", "T", "R"), ("S", "K", "R"), ("S", "K", "W"),
     ("S", "K", "L"), ("S", "K", "Y")}
)  # fmt: skip
"""Onsets of more than one consonant in American English, which drops the yod after T, D, N, L and S."""


def is_nucleus(phone: str) -> bool:
    """Whether a phone is the nucleus of a syllable: a vowel, or a syllabic consonant.

    >>> [is_nucleus(p) for p in ("AH0", "T", "aj", "n̩", "tʃ")]
    [True, False, True, True, False]
    """
    bare = without_stress(phone)
    if bare.upper() in PHONES | _REDUCED and not (len(bare) == 1 and bare.islower()):
        return bare.upper() in VOWELS | _REDUCED
    plain = unicodedata.normalize("NFD", bare).lstrip("ˈˌ")
    return bool(plain) and (plain[0].lower() in _IPA_VOWELS or "\N{COMBINING VERTICAL LINE BELOW}" in plain)


def _consonant(phone: str) -> str:
    """The ARPABET name of a consonant, or the phone itself where it has none."""
    bare = without_stress(phone)
    if bare.upper() in PHONES and not (len(bare) == 1 and bare.islower()):
        return bare.upper()
    # length, palatalisation, aspiration and the like do not decide which clusters are legal
    letters = "".join(c for c in unicodedata.normalize("NFD", bare) if unicodedata.category(c) == "Ll")
    return _IPA_CONSONANTS.get(letters, _IPA_CONSONANTS.get(letters[:1], bare))


def _onset_length(consonants: Sequence[str]) -> int:
    """How many of the consonants between two vowels belong to the second: the longest legal onset."""
    names = tuple(_consonant(phone) for phone in consonants)
    for start in range(max(0, len(names) - 3), len(names)):
        if names[start:] in _CLUSTERS or (start == len(names) - 1 and names[start] != "NG"):
            return len(names) - start
    return 0


def syllabify(phones: Sequence[str]) -> list[tuple[str, ...]]:
    """Divide the phones of one word into syllables.

    Args:
        phones: ARPABET (``AH0`` or ``AH``) or IPA, without pauses and unknown sounds.

    Returns:
        Groups that joined are ``phones`` again, each with exactly one nucleus. A word without a vowel ("hmm") is one
        group; no phones are none.

    >>> [" ".join(s) for s in syllabify("EH1 K S T R AH0".split())]
    ['EH1 K', 'S T R AH0']
    """
    nuclei = [i for i, phone in enumerate(phones) if is_nucleus(phone)]
    starts = [0]
    for before, nucleus in pairwise(nuclei):
        starts.append(nucleus - _onset_length(phones[before + 1 : nucleus]))
    return [tuple(phones[a:b]) for a, b in pairwise([*starts, len(phones)]) if a < b]


def syllables_of(words: Sequence[Segment], phones: Sequence[Segment]) -> tuple[Segment, ...]:
    """The syllable tier that belongs to a word and a phone tier.

    A syllable lasts from its first phone's start to its last phone's end; its score is the mean of theirs, weighted
    by duration. Pauses and phones outside any word have none, nor has a word with an unknown phone (``spn``).

    Args:
        words: the word tier.
        phones: the phone tier, in order; parents are indices into ``words``.

    Returns:
        Segments labelled with their phones, joined by blanks; parents are indices into ``words``.
    """
    syllables: list[Segment] = []
    for parent, group in groupby((p for p in phones if p.kind is not Kind.SILENCE), key=lambda p: p.parent):
        spoken = list(group)
        if parent < 0 or words[parent].kind is not Kind.SPEECH or any(p.kind is Kind.UNKNOWN for p in spoken):
            continue
        remaining = iter(spoken)
        for labels in syllabify([phone.label for phone in spoken]):
            parts = [next(remaining) for _ in labels]
            duration = math.fsum(p.end_s - p.start_s for p in parts)
            score = math.fsum(p.score * (p.end_s - p.start_s) for p in parts) / duration
            syllables.append(Segment(parts[0].start_s, parts[-1].end_s, " ".join(labels), parent, score=score))
    return tuple(syllables)
