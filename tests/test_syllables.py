import math

import pocketsphinx
import pytest

from mmser.extract.align.syllables import is_nucleus, syllabify, syllables_of
from mmser.records import Kind, Segment

# Divided by hand: the longest onset that an English word may begin with goes to the second vowel.
BY_HAND = """
emotion    IH . M OW . SH AH N
speech     S P IY CH
happy      HH AE . P IY
angry      AE NG . G R IY
sadness    S AE D . N AH S
extra      EH K . S T R AH
explain    IH K . S P L EY N
construct  K AH N . S T R AH K T
monster    M AA N . S T ER
abstract   AE B . S T R AE K T
instinct   IH N . S T IH NG K T
hamster    HH AE M . S T ER
singer     S IH NG . ER
finger     F IH NG . G ER
atlas      AE T . L AH S
algebra    AE L . JH AH . B R AH
agree      AH . G R IY
apply      AH . P L AY
obtain     AH B . T EY N
admit      AH D . M IH T
beauty     B Y UW . T IY
argue      AA R . G Y UW
value      V AE L . Y UW
menu       M EH N . Y UW
computer   K AH M . P Y UW . T ER
execute    EH K . S AH . K Y UW T
million    M IH L . Y AH N
equal      IY . K W AH L
language   L AE NG . G W AH JH
away       AH . W EY
idea       AY . D IY . AH
chaos      K EY . AA S
create     K R IY . EY T
museum     M Y UW . Z IY . AH M
mother     M AH . DH ER
measure    M EH . ZH ER
pressure   P R EH . SH ER
butter     B AH . T ER
teacher    T IY . CH ER
major      M EY . JH ER
athlete    AE TH . L IY T
fifths     F IH F TH S
strengths  S T R EH NG K TH S
twelfth    T W EH L F TH
describe   D IH . S K R AY B
misquote   M IH . S K W OW T
esclandre  EH . S K L AA N . D ER
asphalt    AE . S F AO L T
cosmic     K AA Z . M IH K
asthma     AE Z . M AH
mushroom   M AH . SH R UW M
bathrobe   B AE . TH R OW B
birthday   B ER TH . D EY
university Y UW . N AH . V ER . S AH . T IY
hmm        HH M
"""


CASES = dict(line.split(maxsplit=1) for line in BY_HAND.strip().splitlines())


@pytest.mark.parametrize("divided", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("stress", ["", "1"], ids=["plain", "stressed"])
def test_words_divided_by_hand(divided: str, stress: str) -> None:
    marked = " ".join(p + stress if p[0] in "AEIOU" else p for p in divided.split(" "))
    phones = marked.replace(". ", "").split()
    assert " . ".join(" ".join(s) for s in syllabify(phones)) == marked


@pytest.mark.parametrize(
    ("phones", "expected"),
    [
        ("m ɑ n tʲ ɹ i ɒː ɫ", "m ɑ n . tʲ ɹ i . ɒː ɫ"),
        ("f ɔ ɹ s t", "f ɔ ɹ s t"),
        ("ə l aj n ɚ", "ə . l aj . n ɚ"),
        ("b ɐ t n̩", "b ɐ . t n̩"),
        ("ɪ k s t ɹ ə", "ɪ k . s t ɹ ə"),
        ("s ɪ ŋ ɪ ŋ", "s ɪ ŋ . ɪ ŋ"),
        ("ˈæ ɾ l ə s", "ˈæ ɾ . l ə s"),
        ("cʰ ɪ tʃ ə n", "cʰ ɪ . tʃ ə n"),
        ("vʲ j uː", "vʲ j uː"),
        ("bʲ ɪ ɡ ɡ ɹ iː n", "bʲ ɪ ɡ . ɡ ɹ iː n"),
    ],
)
def test_ipa_of_mfa_models(phones: str, expected: str) -> None:
    assert " . ".join(" ".join(s) for s in syllabify(phones.split())) == expected


def test_every_word_of_the_dictionary_keeps_its_phones_and_has_one_nucleus_a_syllable() -> None:
    vowels = {"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
    words = 0
    with open(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        for line in lines:
            word, *phones = line.split()
            syllables = syllabify(phones)
            assert [p for s in syllables for p in s] == phones, word
            nuclei = [sum(p in vowels for p in s) for s in syllables]
            assert set(nuclei) == {1} or (nuclei == [0] and not vowels & set(phones)), word
            words += 1
    assert words > 130_000


def test_no_phones_make_no_syllable() -> None:
    assert syllabify([]) == []


def test_lower_case_arpabet_is_read_as_such_but_single_letters_are_ipa() -> None:
    assert [is_nucleus(p) for p in ("ah0", "hh", "e", "y", "Y", "w", "axr")] == [
        True,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def segment(start: int, label: str, parent: int, kind: Kind = Kind.SPEECH, score: float = math.nan) -> Segment:
    return Segment(start / 10, start / 10 + 0.1, label, parent, kind, score)


def test_tier_takes_times_and_scores_from_phones_and_leaves_out_what_has_no_syllables() -> None:
    words = [
        Segment(0.0, 0.4, "happy", 0),
        Segment(0.4, 0.5, "", -1, Kind.SILENCE),
        Segment(0.5, 0.6, "xyzzy", 1),
        Segment(0.6, 0.8, "oh", 2),
    ]
    phones = [segment(i, p, 0, score=-i) for i, p in enumerate(("HH", "AE1", "P", "IY0"))]
    phones += [segment(4, "", 1, Kind.SILENCE), segment(5, "spn", 2, Kind.UNKNOWN), segment(6, "OW1", 3)]
    phones += [segment(8, "AH0", -1)]
    found = syllables_of(words, phones)
    assert [(s.start_s, s.end_s, s.label, s.parent) for s in found] == [
        (0.0, 0.2, "HH AE1", 0),
        (0.2, 0.4, "P IY0", 0),
        (0.6, 0.7, "OW1", 3),
    ]
    assert found[0].score == pytest.approx(-0.5)
    assert math.isnan(found[2].score)
