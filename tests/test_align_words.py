import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmser.extract.align.words import match_words, spoken_words
from mmser.transcript import transcript_words


def said(text: str) -> str:
    return " ".join(word.form for word in spoken_words(text))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("I can’t, REALLY!", "i can't really"),
        ("they - they ... 'said 'so' “now”", "they they said so now"),
        ("twenty-one well—known wait,what", "twenty one well known wait what"),
        ("goin' 'em 'tis o'clock dogs' ‘you", "goin' 'em 'tis o'clock dogs you"),
        ("café naïve Straße Œuvre", "cafe naive strasse oeuvre"),
        ("Mr. Green, Dr. No", "mister green doctor no"),
        ("the U.S.A. at 5 p.m.", "the u s a at five p m"),
        ("AT&T you & me", "at and t you and me"),
        ("hello[LAUGHTER] [door slams] <unk> {CG} ++GARBAGE++ bye", "hello bye"),
        ("[door slams], hello", "hello"),
        ("hello [coughs loudly]... bye", "hello bye"),
        ("[music & laughter] hello", "hello"),
        ("привет 你好 हूं", "привет 你好 हूं"),
        ("", ""),
        ("... - !", ""),
        # numbers
        ("21", "twenty one"),
        ("3rd 21st 1st.", "third twenty first first"),
        ("$5 $1 £1.01 €2.50", "five dollars one dollar one pound and one penny two euros and fifty cents"),
        ("$5 million, please", "five million dollars please"),
        ("1990 1990s '90s 1905", "nineteen ninety nineteen nineties nineties nineteen oh five"),
        ("2005 2015", "two thousand five twenty fifteen"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("3.14 50% -5 6s", "three point one four fifty percent minus five sixes"),
        ("007 5551234", "zero zero seven five five five one two three four"),
        ("10:05 10:30 7:00", "ten oh five ten thirty seven"),
        ("MP3 5pm 24/7 x²", "mp three five pm twenty four seven x two"),
        ("9" * 400, " ".join(["nine"] * 400)),
    ],
)  # fmt: skip
def test_what_is_said(written: str, expected: str) -> None:
    assert said(written) == expected


def test_every_spoken_word_knows_its_word_in_the_transcript() -> None:
    text = "[LAUGHTER] Well, 21 — no: $5 million & up"
    words = transcript_words(text)
    assert [(w.form, words[w.parent].text if w.parent >= 0 else None) for w in spoken_words(text)] == [
        ("well", "Well,"), ("twenty", "21"), ("one", "21"), ("no", "no:"), ("five", "$5"), ("million", "million"),
        ("dollars", "million"), ("and", None), ("up", "up"),
    ]  # fmt: skip


def test_tags_of_several_words_count_among_the_words() -> None:
    assert [(w.form, w.parent) for w in spoken_words("[door slams], well[coughs loudly]... bye & [x]")] == [
        ("well", 2), ("bye", 4), ("and", -1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "text", "expected"),
    [
        ("mary rolled the barrel", "Mary rolled the barrel.", [0, 1, 2, 3]),
        ("a a a", "A, a! a?", [0, 1, 2]),
        ("<unk> said spn", "Zxcv said qwerty", [0, 1, 2]),
        ("no <unk> no", "No, no, no!", [0, 1, 2]),
        ("<unk> no", "No, no!", [0, 1]),
        ("so no", "No, so", [1, -1]),
        ("the wizard 's hat", "the wizard's hat", [0, 1, 1, 2]),
        ("i'm chad like", "I’m chad-like", [0, 1, 1]),
        ("platchat", "plat chat", [0]),
        ("twenty one men", "21 men", [0, 0, 1]),
        ("21 men", "twenty one men", [0, 2]),
        ("uh well so", "well so", [-1, 0, 1]),
        ("well so", "[LAUGHTER] well [BREATHING] so", [1, 3]),
        ("he colour it", "he color it", [0, 1, 2]),
        ("привет мир", "Привет, мир!", [0, 1]),
        ("你好 世界", "你好 世界", [0, 1]),
        ("hello", "", [-1]),
        ("", "hello", []),
    ],
)
def test_labels_meet_their_words(labels: str, text: str, expected: list[int]) -> None:
    assert match_words(labels.split(), text) == expected


def test_matches_never_fall_back_whatever_is_matched() -> None:
    text = "no no yes no well no yes no the the end of 22 no"
    for labels in ("no yes no no the end", "well the no 22 of of", "<unk> no <unk> yes <unk>", "end no no no"):
        found = [m for m in match_words(labels.split(), text) if m >= 0]
        assert found == sorted(found)


WRITTEN = st.text(st.sampled_from("aé'’- .,:$€%&+@0123456789[]<>{}stnd½Ⅳ٣你\u0902½\n"), max_size=30) | st.text(
    max_size=20
)


@given(WRITTEN)
def test_any_transcript_can_be_read(text: str) -> None:
    spoken = spoken_words(text)
    words = transcript_words(text)
    assert [w.parent for w in spoken if w.parent >= 0] == sorted(w.parent for w in spoken if w.parent >= 0)
    for word in spoken:
        assert -1 <= word.parent < len(words)
        assert any(c.isalnum() for c in word.form)
        assert not any(c.isspace() or c in "0123456789.,:$%" for c in word.form)


@given(st.lists(WRITTEN, max_size=6), WRITTEN)
def test_any_labels_can_be_matched(labels: list[str], text: str) -> None:
    found = match_words(labels, text)
    assert len(found) == len(labels)
    kept = [m for m in found if m >= 0]
    assert kept == sorted(kept)
    assert all(m < len(transcript_words(text)) for m in kept)


@given(WRITTEN)
def test_a_transcript_that_is_spoken_as_read_is_matched_word_by_word(text: str) -> None:
    """An aligner's labels are the spoken forms; each must come back to the word that it was read from."""
    spoken = [word for word in spoken_words(text) if word.parent >= 0]
    signs = [word for word in spoken_words(text) if word.parent < 0]
    if not signs:  # a lone "&" is said and belongs to no word
        assert match_words([word.form for word in spoken], text) == [word.parent for word in spoken]


@given(WRITTEN)
def test_every_word_is_spoken_once_or_is_no_speech(text: str) -> None:
    """Words that are left out are tags or hold nothing to say; none is said twice, and their order is kept."""
    words = transcript_words(text)
    said = {word.parent for word in spoken_words(text)}
    for i, word in enumerate(words):
        alone = [w.form for w in spoken_words(word.text)]
        if not alone and "[" not in text:  # a tag over several words decides otherwise than one of them alone
            assert i not in said
        letters = [c for c in word.text if c.isascii() and c.isalpha()]
        if letters and not set("[]<>{}+") & set(text):
            assert i in said, f"{word.text!r} is not spoken"
