"""Between a transcript as written and the words as spoken: what is said, and which word of the transcript it is."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from mmser.extract.align.digits import CLOCK, NUMBER, SCALES, currency_unit, read_clock, read_number
from mmser.transcript import transcript_words


@dataclass(frozen=True)
class SpokenWord:
    """A word as it is said."""

    form: str
    """Lower case, letters and inner apostrophes only, accents off Latin letters: ``twenty``, ``can't``."""
    parent: int
    """Its word in :func:`mmser.transcript.transcript_words`; several spoken words may share one ("21")."""


TAG = re.compile(r"\[[^\[\]]*\]|<[^<>\s]*>|\{[^{}\s]*\}|\+\+\S*?\+\+")
"""What transcribers write for sounds that are no words: ``[LAUGHTER]``, ``[door slams]``, ``<unk>``, ``{CG}``,
``++BREATHING++``."""

APOSTROPHE = re.compile("[‘’‛`´ʼ]")
"""What is written for an apostrophe. It is looked for before NFKC, which makes a blank and an accent of some."""

_SYMBOLS = {"&": "and", "@": "at", "%": "percent", "+": "plus"}

_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "vs": "versus",
    "ok": "okay",
    "etc": "et cetera",
}

_CLIPPED = frozenset({"'em", "'til", "'cause", "'bout", "'round", "'tis", "'twas", "'kay", "'course", "'cuse", "'n"})
"""Words that begin with an apostrophe of their own; any other one there is a quotation mark."""

_PIECE = re.compile(
    rf"(?P<initials>(?<!\w)(?:[a-z]\.){{2,}}(?:[a-z](?![^\W\d_]))?)|(?P<clock>{CLOCK.pattern})"
    r"|(?P<number>-?[$£€¥]?\d[\d,]*(?:\.\d+)?(?:(?:st|nd|rd|th|'?s)(?![^\W\d_]))?%?)"
    r"|(?P<letters>[^\s\d.,:$£€¥&%@+-]+)|(?P<symbol>[&%@+])"
)


def _without_tags(text: str) -> str:
    """Blanks where there were tags, so that every other character keeps its place."""
    return TAG.sub(lambda tag: " " * len(tag[0]), text)


def _plain(written: str) -> str:
    """Lower case, one kind of apostrophe, Latin letters without accents, other signs as blanks."""
    kept = []
    for sign in unicodedata.normalize("NFKC", APOSTROPHE.sub("'", written)).lower():
        base = unicodedata.normalize("NFKD", sign)[0]
        sign = (
            base if base.isascii() and base.isalpha() else {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o"}.get(sign, sign)
        )
        kept.append(sign if unicodedata.category(sign[0])[0] in "LMN" or sign in "'.,:$£€¥&%@+-" else " ")
    return "".join(kept)


def _letters(piece: str) -> list[str]:
    if piece in _CLIPPED:
        return [piece]
    # "goin'" keeps its apostrophe; "'goin'" is a quotation
    form = piece if piece.endswith("in'") and len(piece) > 4 and piece[0] != "'" else piece.strip("'")
    return _ABBREVIATIONS.get(form, form).split() if any(c.isalnum() for c in form) else []


def _forms(written: str, *, with_unit: bool = True) -> list[str]:
    """The spoken forms of one word of a transcript, or of one label of a TextGrid, tags taken out."""
    forms: list[str] = []
    plain = _plain(written)
    for piece in _PIECE.finditer(plain):
        if piece["initials"]:
            forms += [letter for letter in piece["initials"] if letter != "."]
        elif piece["clock"]:
            forms += read_clock(piece)
        elif piece["number"]:
            for match in NUMBER.finditer(plain[: piece.end()], piece.start()):
                forms += read_number(match, with_unit=with_unit)
        elif piece["letters"]:
            forms += _letters(piece["letters"])
        else:
            forms.append(_SYMBOLS[piece["symbol"]])
    return forms


def _unit_after_scale(written: str, following: str) -> str:
    """``dollars`` for ``$5`` before ``million``; else empty."""
    match = NUMBER.match(_plain(written).strip())
    return currency_unit(match) if match and (_forms(following) or [""])[0] in SCALES else ""


def spoken_words(text: str) -> list[SpokenWord]:
    """What a speaker of ``text`` says, word by word, each with its word in the transcript.

    Punctuation goes, hyphens part, numbers are read out, tags such as ``[LAUGHTER]`` are not spoken.
    Letters of every script stay: whether they can be pronounced is the aligner's question.

    >>> [(w.form, w.parent) for w in spoken_words("[LAUGHTER] I’m twenty-one, not 22!")]
    [("i'm", 1), ('twenty', 2), ('one', 2), ('not', 3), ('twenty', 4), ('two', 4)]
    """
    # at once over the text: a tag of several words ("[door slams],") is one only there
    plain = _without_tags(text)
    words = transcript_words(text)
    written = [plain[word.start : word.end] for word in words]
    spoken: list[SpokenWord] = []
    unit, end = "", 0
    for i, word in enumerate(words):
        spoken += [SpokenWord(_SYMBOLS[sign], -1) for sign in plain[end : word.start].split() if sign in _SYMBOLS]
        end = word.end
        if not any(c.isalnum() for c in written[i]):
            continue
        held, unit = unit, _unit_after_scale(written[i], written[i + 1]) if i + 1 < len(words) else ""
        spoken += [SpokenWord(form, i) for form in _forms(written[i], with_unit=not unit)]
        spoken += [SpokenWord(held, i)] if held else []
    return spoken


def _by_letters(labels: list[str], words: list[SpokenWord]) -> list[int]:
    """For each label the word that shares most letters with it, at least half, in order; -1 where none does."""
    owner = [i for i, word in enumerate(words) for _ in word.form]
    place = [i for i, label in enumerate(labels) for _ in label]
    shared: dict[tuple[int, int], int] = {}
    matcher = SequenceMatcher(a="".join(labels), b="".join(w.form for w in words), autojunk=False)
    for block in matcher.get_matching_blocks():
        for k in range(block.size):
            pair = place[block.a + k], owner[block.b + k]
            shared[pair] = shared.get(pair, 0) + 1
    found = [-1] * len(labels)
    for label in range(len(labels)):
        enough = len(labels[label]) / 2
        candidates = [(count, -word) for (other, word), count in shared.items() if other == label and count >= enough]
        if candidates:
            found[label] = words[-max(candidates)[1]].parent
    return found


def _opcodes(said: list[str], written: list[str]) -> Sequence[tuple[str, int, int, int, int]]:
    """:mod:`difflib`'s steps from one to the other; a single one where one for one has as many equal pairs."""
    matcher = SequenceMatcher(a=said, b=written, autojunk=False)
    if len(said) == len(written):
        # "no <unk> no" in "no no no": the runs pair the first two, and leave the unknown word out
        pairs = sum(a == b for a, b in zip(said, written, strict=True))
        if pairs >= sum(block.size for block in matcher.get_matching_blocks()):
            return [("replace", 0, len(said), 0, len(written))]
    return matcher.get_opcodes()


def match_words(spoken: list[str], text: str) -> list[int]:
    """Which word of the transcript each spoken word is.

    Equal words are matched first (Ratcliff and Obershelp's longest common runs, :mod:`difflib`). Between them, as many
    spoken words as transcript words are taken one for one (an unknown word ``<unk>``, another spelling), and so is
    the whole where that finds no fewer equal words; otherwise the letters decide (``wizard`` + ``'s`` for "wizard's",
    ``chad`` + ``like`` for "chad-like"). Order is kept.

    Args:
        spoken: labels of the word tier, without pauses.
        text: the transcript as written.

    Returns:
        For each label an index into ``transcript_words(text)``, never falling; -1 where none belongs to it.

    >>> match_words(["he", "<unk>", "the", "wizard", "'s", "twenty", "one"], "He saw the wizard's 21")
    [0, 1, 2, 3, 3, 4, 4]
    """
    # an unknown word stays as an empty form: it matches nothing, but it holds its place
    said = [(form, i) for i, label in enumerate(spoken) for form in (_forms(_without_tags(label)) or [""])]
    written = spoken_words(text)
    votes: list[list[int]] = [[] for _ in spoken]
    for _, a, a_end, b, b_end in _opcodes([form for form, _ in said], [w.form for w in written]):
        if a_end - a == b_end - b:
            parents = [word.parent for word in written[b:b_end]]
        else:
            parents = _by_letters([form for form, _ in said[a:a_end]], written[b:b_end])
        for (_, label), parent in zip(said[a:a_end], parents, strict=True):
            if parent >= 0:
                votes[label].append(parent)
    return [max(set(found), key=lambda parent: (found.count(parent), -parent)) if found else -1 for found in votes]
