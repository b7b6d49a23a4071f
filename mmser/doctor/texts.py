"""Transcripts: whether they fit their recordings, and whether they give the label away."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from mmser.doctor.findings import NOTE, PROBLEM, Finding, Limits
from mmser.metrics import unweighted_average_recall
from mmser.transcript import transcript_words, with_characters_apart

_SYLLABIC = 3
"""Letters that a wide character counts for: Han, kana and Hangul write a syllable each."""

_SIGNS = ".,;:!?\"'。，、；：！？…"
"""What may end a sentence or not without making another of it."""

_FOLDS = 5

_TAG = re.compile(r"\[[^\]]*\]")


def num_letters(text: str) -> int:
    """How much there is to say; tags such as ``[LAUGHTER]`` are not said.

    >>> num_letters("It's [LAUGHTER] 7."), num_letters("你好"), num_letters("سلام")
    (4, 6, 4)
    """
    said = unicodedata.normalize("NFC", _TAG.sub("", text))  # a syllable of Hangul may be written as two or three
    return sum(_SYLLABIC if _is_wide(c) else 1 for c in said if c.isalnum())


def _is_wide(character: str) -> bool:
    return unicodedata.category(character) == "Lo" and unicodedata.east_asian_width(character) == "W"


def judge_fit(texts: Mapping[str, str], durations_s: Mapping[str, float], limits: Limits) -> list[Finding]:
    """Transcripts that are too long, or far too short, for how long their recordings are."""
    told = {uid: num_letters(text) for uid, text in texts.items() if uid in durations_s and text}
    fast = [
        uid for uid, letters in told.items() if letters > limits.letters_free + limits.letters_per_s * durations_s[uid]
    ]
    sparse = [
        uid
        for uid, letters in told.items()
        if durations_s[uid] >= limits.sparse_from_s and letters < limits.sparse_letters_per_s * durations_s[uid]
    ]
    findings = []
    if fast:
        worst = max(fast, key=lambda uid: told[uid] / durations_s[uid])
        findings.append(
            Finding(
                "transcripts",
                PROBLEM,
                f"{len(fast)} transcripts cannot be said in their recordings' time, such as that of {worst!r}: "
                f"{told[worst]} letters in {durations_s[worst]:.2f} s",
                "is the recording cut short, or the transcript another's?",
                tuple(fast),
            )
        )
    if sparse:
        findings.append(
            Finding(
                "transcripts",
                NOTE,
                f"{len(sparse)} utterances of {limits.sparse_from_s:g} s and more have less than "
                f"{limits.sparse_letters_per_s:g} letter a second",
                "is the recording longer than the turn, or is it laughter and silence?",
                tuple(sparse),
            )
        )
    without = [uid for uid, text in texts.items() if not transcript_words(text)]
    if without and len(without) < len(texts):
        findings.append(
            Finding(
                "transcripts", NOTE, f"{len(without)} utterances have no transcript", "text heads leave them out",
                tuple(without),
            )
        )  # fmt: skip
    return findings


def judge_leaks(
    texts: Mapping[str, str], labels: Mapping[str, str], speakers: Mapping[str, str], limits: Limits
) -> list[Finding]:
    """Whether words alone tell the label to those who have heard other speakers only.

    Two learners that know nothing of sound: one remembers sentences, the other counts words (naive Bayes, speakers in
    five groups, each tested on the other four). A Han or kana character is a word to them.
    Utterances without text, label or speaker have no part.
    """
    uids = [uid for uid, text in texts.items() if labels[uid] and speakers[uid] and transcript_words(text)]
    if len({labels[uid] for uid in uids}) < 2 or len({speakers[uid] for uid in uids}) < 2:
        return []
    words = {uid: transcript_words(with_characters_apart(texts[uid])) for uid in uids}
    said = {uid: tuple(word.text.strip(_SIGNS).lower() for word in own) for uid, own in words.items()}
    return [
        *_repeated(said, {uid: labels[uid] for uid in uids}, {uid: speakers[uid] for uid in uids}, limits),
        *_by_words(said, {uid: labels[uid] for uid in uids}, {uid: speakers[uid] for uid in uids}, limits),
    ]


def _repeated(
    said: Mapping[str, tuple[str, ...]], labels: Mapping[str, str], speakers: Mapping[str, str], limits: Limits
) -> list[Finding]:
    """Predict an utterance by what other speakers' utterances of the very sentence are labelled most often."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for uid, words in said.items():
        if len(words) >= limits.repeated_words:
            groups[words].append(uid)
    truth, guess, uids = [], [], []
    for group in groups.values():
        by_speaker: dict[str, Counter[str]] = defaultdict(Counter)
        for uid in group:
            by_speaker[speakers[uid]][labels[uid]] += 1
        everyone = sum(by_speaker.values(), Counter())
        for uid in group:
            others = everyone - by_speaker[speakers[uid]]
            if others:
                truth.append(labels[uid])
                # of equal counts the first by name: no row's own label may decide
                guess.append(min(others, key=lambda label: (-others[label], label)))
                uids.append(uid)
    share = len(truth) / len(said)
    if share < limits.repeated_share or len(set(truth)) < 2:
        return []
    ua, chance = unweighted_average_recall(truth, guess), 1 / len(set(truth))
    away = (ua - chance) / (1 - chance) >= limits.given_away
    return [
        Finding(
            "text leak",
            PROBLEM if away else NOTE,
            f"{share:.0%} of the sentences are said by another speaker too; what they are labelled there tells the "
            f"label with UA {ua:.2f} (chance {chance:.2f})",
            "heads that see text remember the script: hold it out, or judge text on improvised speech"
            if away
            else "the sentences are spread over the classes",
            tuple(uids) if away else (),
        )
    ]


def _by_words(
    said: Mapping[str, tuple[str, ...]], labels: Mapping[str, str], speakers: Mapping[str, str], limits: Limits
) -> list[Finding]:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.model_selection import GroupKFold
    from sklearn.naive_bayes import MultinomialNB

    truth = np.array([labels[uid] for uid in said])
    groups = np.array([speakers[uid] for uid in said])
    counts = CountVectorizer(analyzer=list, binary=True).fit_transform(list(said.values()))
    guess = np.empty_like(truth)
    for train, test in GroupKFold(min(_FOLDS, len(set(groups.tolist())))).split(counts, truth, groups):
        # classes count alike, because UA does
        model = MultinomialNB(fit_prior=False).fit(counts[train], truth[train])
        guess[test] = model.predict(counts[test])
    ua, chance = unweighted_average_recall(truth.tolist(), guess.tolist()), 1 / len(set(truth.tolist()))
    away = (ua - chance) / (1 - chance) >= limits.told_by_words
    return [
        Finding(
            "text leak",
            PROBLEM if away else NOTE,
            f"words alone tell the label of unheard speakers with UA {ua:.2f} (chance {chance:.2f}; bag of words, "
            "naive Bayes)",
            "look for the label, or what only one class says, in the transcripts"
            if away
            else "what a head adds to this is what it hears",
        )
    ]
