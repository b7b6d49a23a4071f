"""What a word of a transcript is, and which transcript it was: decided here once, for all that read them."""

import hashlib
import re
from dataclasses import dataclass

_WORD = re.compile(r"\[[^\]\s]+\]|\S+")

_CHARACTER = re.compile(
    r"[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
    r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff][^\w\s]*"
)
"""A Han or kana character, with the signs behind it that are no letters."""


@dataclass(frozen=True)
class TranscriptWord:
    """A word as written, with its place in the transcript."""

    text: str
    start: int
    """First character, counted from 0."""
    end: int
    """One past the last character."""


def transcript_words(text: str) -> list[TranscriptWord]:
    """Words of a transcript: runs without white space that hold a letter or digit, or a ``[TAG]``.

    Punctuation stays with its word (``"can't,"``), and a dash alone is no word, so that a character of the
    transcript belongs to at most one word and every letter belongs to one.

    >>> [w.text for w in transcript_words("Well - I can't, [LAUGHTER] really!")]
    ['Well', 'I', "can't,", '[LAUGHTER]', 'really!']
    """
    return [
        TranscriptWord(match.group(), match.start(), match.end())
        for match in _WORD.finditer(text)
        if any(c.isalnum() for c in match.group())
    ]


def with_characters_apart(text: str) -> str:
    """A text with blanks around each Han or kana character, for counts: Chinese and Japanese are written without any.

    >>> with_characters_apart("我用Python。").split()
    ['我', '用', 'Python。']
    """
    return _CHARACTER.sub(r" \g<0> ", text)


def word_of_span(words: list[TranscriptWord], start: int, end: int) -> int:
    """Index of the word that shares most characters with ``text[start:end]``; -1 where none does.

    >>> word_of_span(transcript_words("It is."), 5, 6)
    1
    """
    best, shared = -1, 0
    for i, word in enumerate(words):
        overlap = min(end, word.end) - max(start, word.start)
        if overlap > shared:
            best, shared = i, overlap
    return best


def text_digest(text: str) -> str:
    """SHA-256 of a transcript, in hex: streams keep it, to tell later whether they were made from this very one."""
    return hashlib.sha256(text.encode()).hexdigest()
