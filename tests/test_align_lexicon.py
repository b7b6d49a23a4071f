import random
from collections import defaultdict
from pathlib import Path

import pocketsphinx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmser.errors import AlignmentError
from mmser.extract.align.arpabet import LETTER_NAMES, PHONES, VOWELS
from mmser.extract.align.letters import pronounce_by_letters
from mmser.extract.align.lexicon import derive, read_lexicon


@given(st.text("abcdefghijklmnopqrstuvwxyz'é", min_size=1).filter(lambda w: any(c in LETTER_NAMES for c in w)))
def test_every_word_gets_phones_with_a_vowel(word: str) -> None:
    phones = pronounce_by_letters(word)
    assert set(phones) <= PHONES
    assert set(phones) & VOWELS


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("knight", "N AY T"), ("photo", "F OW T OW"), ("station", "S T EY SH AH N"), ("cheese", "CH IY Z"),
        ("rate", "R EY T"), ("queen", "K W IY N"), ("tv", "T IY V IY"), ("q", "K Y UW"), ("lapped", "L AE P T"),
    ],
)  # fmt: skip
def test_spelling_rules(word: str, phones: str) -> None:
    assert " ".join(pronounce_by_letters(word)) == phones


def distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_rules_come_close_to_the_dictionary() -> None:
    dictionary: dict[str, list[list[str]]] = defaultdict(list)
    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        for line in lines:
            word, *phones = line.split()
            if word.split("(")[0].isalpha():
                dictionary[word.split("(")[0]].append(phones)
    wrong = phones_seen = syllables = 0
    words = random.Random(0).sample(sorted(dictionary), 2000)
    for word in words:
        found = list(pronounce_by_letters(word))
        nearest = min(dictionary[word], key=lambda phones: distance(found, phones))
        wrong += distance(found, nearest)
        phones_seen += len(nearest)
        syllables += sum(p in VOWELS for p in found) == sum(p in VOWELS for p in nearest)
    assert wrong / phones_seen < 0.20
    assert syllables / len(words) > 0.90


@pytest.mark.parametrize(
    ("form", "expected", "by_rule"),
    [
        ("cat's", "K AE T S", False), ("dog's", "D AO G Z", False), ("fox's", "F AA K S AH Z", False),
        ("dog'll", "D AO G AH L", False), ("dogs'", "D AO G Z", False), ("blick's", "B L IH K S", True),
    ],
)  # fmt: skip
def test_endings_are_added_to_known_words(form: str, expected: str, by_rule: bool) -> None:
    known = {"cat": "K AE T", "dog": "D AO G", "dogs": "D AO G Z", "fox": "F AA K S"}
    phones, guessed = derive(form, lambda word: tuple(known[word].split()) if word in known else None)
    assert (" ".join(phones), guessed) == (expected, by_rule)


def test_lexicon_in_cmu_format(tmp_path: Path) -> None:
    path = tmp_path / "own.dict"
    path.write_text(";;; mine\nChandler  CH AE1 N D L ER0 # the friend\nTHE DH AH0\nthe(2) dh iy0\nTHE DH AH1\n\n")
    lexicon = read_lexicon(path)
    assert lexicon.pronunciations == {
        "chandler": (("CH", "AE", "N", "D", "L", "ER"),),
        "the": (("DH", "AH"), ("DH", "IY")),
    }
    assert len(lexicon.digest) == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat K AE T\ndog D O G\n", r"line 2: word 'dog' has the phone 'O'; expected ARPABET"),
        (b"cat\n", r"line 1: word 'cat' has no phones"),
        (b"caf\xe9 K\n", r"not UTF-8 \(byte 3\)"),
    ],
)
def test_bad_lexicon_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.dict"
    path.write_bytes(content)
    with pytest.raises(AlignmentError, match=message):
        read_lexicon(path)


def test_missing_lexicon(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match=r"cannot read the lexicon .*none\.dict: No such file"):
        read_lexicon(tmp_path / "none.dict")
