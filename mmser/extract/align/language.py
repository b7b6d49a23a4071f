"""Is it English? The embedded acoustic model knows nothing else, and aligns whatever letters it can read."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmser.extract.align.lexicon import read_lexicon
from mmser.extract.align.words import spoken_words
from mmser.records import Utterance

UNKNOWN_SHARE = 0.10
"""Share of running words that no dictionary knows from which a corpus is doubted to be English. 19 English transcripts
lacked 0.012 of 423 words together (one of them, of 21 words, 0.095), EmoDB's ten German sentences 0.44 of 97, four
Swedish transcripts 0.51 of 45, a Spanish one 0.41 of 44."""

FEWEST_WORDS = 20
"""Below this the share says nothing."""

_ENGLISH = frozenset({"en", "eng", "english"})

ONLY_ENGLISH = (
    "PocketSphinx's embedded model is English, so its times would mean nothing. Import TextGrids (--align textgrid "
    "--textgrids FOLDER), or align with MFA and the models of that language (--align mfa --dictionary NAME "
    "--acoustic-model NAME --g2p-model NAME)"
)


def foreign_language(utterance: Utterance) -> str | None:
    """What the manifest's column ``language`` says, where that is not English; None also where it says nothing.

    >>> foreign_language(Utterance("u", Path("u.wav"), fields={"language": "de"}))
    'de'
    >>> foreign_language(Utterance("u", Path("u.wav"), fields={"language": "en-GB"}))
    """
    said = str(utterance.fields.get("language", "")).strip()
    return None if not said or said.lower().replace("_", "-").split("-")[0] in _ENGLISH else said


def doubt_english(texts: Iterable[str], lexicon: Path | None = None) -> str | None:
    """A warning where too many words of a corpus are in no English dictionary.

    Args:
        texts: the transcripts.
        lexicon: the user's pronunciations, whose words count as known.

    Returns:
        The warning, with the share and the most frequent unknown words; None where there is no doubt, or where there
        are fewer than :data:`FEWEST_WORDS` words to go by.
    """
    counts = Counter(word.form for text in texts for word in spoken_words(text))
    total = sum(counts.values())
    if total < FEWEST_WORDS:
        return None
    known = _dictionary() | (set(read_lexicon(lexicon).pronunciations) if lexicon else set())
    unknown = Counter({form: number for form, number in counts.items() if form not in known})
    share = sum(unknown.values()) / total
    if share < UNKNOWN_SHARE:
        return None
    return (
        f"WARNING: is this English? {share:.0%} of {total} words are in no dictionary "
        f"({', '.join(form for form, _ in unknown.most_common(5))}, ...). If it is not: {ONLY_ENGLISH}. If it is: give "
        "their pronunciations (--lexicon), or a column language with 'en' in the manifest"
    )


def _dictionary() -> set[str]:
    from pocketsphinx import get_model_path

    path = Path(get_model_path("en-us")) / "cmudict-en-us.dict"
    with path.open(encoding="utf-8") as file:
        return {line.split(None, 1)[0] for line in file if line.strip()}
