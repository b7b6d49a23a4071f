"""The manifest's columns: counts, published counts, speakers and parts, balance; and what a cache lacks."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import pandas as pd

from mmser.cache import Cache
from mmser.corpora.corpus import Corpus, corpus_of, label_set_of, miscounted
from mmser.doctor.findings import NOTE, PROBLEM, Finding, Limits
from mmser.manifest import NUMBER_COLUMNS, Manifest

COUNTED = ("label", "session", "speaker", "split")
"""Columns whose values are counted."""


def count(manifest: Manifest) -> dict[str, dict[str, int]]:
    """How many utterances have each value, by column."""
    return {
        column: dict(sorted(Counter(manifest.column(column).tolist()).items()))
        for column in COUNTED
        if column in manifest.table.columns
    }


def known_corpora(manifest: Manifest, corpora: Mapping[str, Corpus], told: str) -> dict[str, pd.DataFrame]:
    """The rows of each known corpus, by ``NAME:SET``: what ``told`` says, else the columns corpus and label_set.

    Raises:
        ManifestError: ``told`` is no known corpus or label set.
    """
    if told:
        name, _, labels = told.partition(":")
        chosen, _ = label_set_of(name, corpus_of(name, corpora), labels or None)
        return {f"{name}:{chosen}": manifest.table}
    if not {"corpus", "label_set"} <= set(manifest.table.columns):
        return {}
    names, sets = manifest.column("corpus"), manifest.column("label_set")
    return {
        f"{name}:{labels}": manifest.table[(names == name) & (sets == labels)]
        for name, labels in dict.fromkeys(zip(names.tolist(), sets.tolist(), strict=True))
        if name in corpora and labels in corpora[name].label_sets
    }


def judge_counts(groups: Mapping[str, pd.DataFrame], corpora: Mapping[str, Corpus]) -> list[Finding]:
    """Counts that are not the published ones."""
    findings = []
    for group, rows in groups.items():
        name, _, labels = group.partition(":")
        label_set = corpora[name].label_sets[labels]
        lines = miscounted(corpora[name].title, label_set, rows)
        releases = bool(label_set.published and label_set.published[0].release)
        # a release that is not known here is no fault of the corpus
        level = NOTE if releases else PROBLEM
        advice = "name the release with your figures" if releases else "see what is excluded, and docs/corpora.md"
        findings += [Finding("counts", level, line, advice) for line in lines]
        if label_set.published and not lines:
            findings.append(Finding("counts", NOTE, f"{corpora[name].title}, {labels}: counts are as published"))
    return findings


def judge_parts(manifest: Manifest, explanations: list[str], limits: Limits) -> list[Finding]:
    """Speakers that are in several parts or not known, and classes of unlike size."""
    columns = manifest.table.columns
    findings = []
    if "speaker" not in columns or not any(manifest.column("speaker")):
        findings.append(
            Finding("speakers", PROBLEM, "no speaker is known", "nothing can keep a speaker out of training and test")
        )
    else:
        findings += _speakers(manifest, explanations)
    if "label" in columns:
        findings += _balance(manifest, limits)
    return findings


def _speakers(manifest: Manifest, explanations: list[str]) -> list[Finding]:
    speakers, ids = manifest.column("speaker").tolist(), manifest.ids
    findings = []
    if unknown := [uid for uid, speaker in zip(ids, speakers, strict=True) if not speaker]:
        findings.append(
            Finding(
                "speakers", NOTE, f"the speaker of {len(unknown)} utterances is not known",
                "nothing can check that they are in one part only", tuple(unknown),
            )
        )  # fmt: skip
    if "split" in manifest.table.columns:
        parts: dict[str, set[str]] = defaultdict(set)
        for speaker, part in zip(speakers, manifest.column("split").tolist(), strict=True):
            if speaker and part:
                parts[speaker].add(part.strip().lower())
        # test parts are never joined, so what they share harms nobody
        shared = {speaker for speaker, there in parts.items() if len({_side(part) for part in there}) > 1}
        if shared:
            some = ", ".join(map(repr, sorted(shared)[:3]))
            why = f" ({'; '.join(explanations)})" if explanations else ""
            findings.append(
                Finding(
                    "speakers",
                    PROBLEM,
                    f"{len(shared)} speakers are in several parts of the split: {some}{why}",
                    "--folds split refuses them; leave speakers out instead (--folds speaker)",
                    tuple(uid for uid, speaker in zip(ids, speakers, strict=True) if speaker in shared),
                )
            )
    return findings


def _side(part: str) -> str:
    return "test" if part.startswith("test") else part


def _balance(manifest: Manifest, limits: Limits) -> list[Finding]:
    classes = Counter(label for label in manifest.column("label").tolist() if label)
    if not classes:
        return [Finding("labels", NOTE, "no utterance has a label", "only ratings and soft labels can be learnt")]
    (most, largest), (least, smallest) = classes.most_common()[0], classes.most_common()[-1]
    if largest < limits.imbalance * smallest:
        return []
    return [
        Finding(
            "labels",
            NOTE,
            f"{most!r} has {largest} utterances and {least!r} has {smallest}",
            "report UA beside WA; --class-weights balanced, or --labels without the rarest",
        )
    ]


def judge_excluded(excluded: Mapping[str, str]) -> list[Finding]:
    """What the manifest leaves out, by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for uid, reason in excluded.items():
        reasons[reason].append(uid)
    return [
        Finding("excluded", NOTE, f"{len(uids)} left out: {reason}", utterances=tuple(uids))
        for reason, uids in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]


def judge_cache(manifest: Manifest, cache: Cache) -> list[Finding]:
    """What a cache lacks of the manifest, or has under another label."""
    findings = []
    for name, stream in cache.streams.items():
        absent = [uid for uid in manifest.ids if uid not in stream]
        if absent:
            reasons = {uid: cache.failures.get((uid, name), "") for uid in absent}
            why = Counter(reason for reason in reasons.values() if reason).most_common(1)
            told = f"; for {why[0][1]} of them failed.csv says: {why[0][0]}" if why else ""
            findings.append(
                Finding(
                    "cache",
                    PROBLEM,
                    f"{cache.path}: {len(absent)} of {len(manifest)} utterances are not in {name}{told}",
                    "run the extraction again; heads leave out whom they cannot see",
                    tuple(absent),
                )
            )
    findings += _relabelled(manifest, cache)
    return findings


def _relabelled(manifest: Manifest, cache: Cache) -> list[Finding]:
    own = cache.manifest.table.set_index("utterance_id")
    table = manifest.table.set_index("utterance_id")
    both = table.index.intersection(own.index)
    findings = []
    for column in (*COUNTED, "text", *NUMBER_COLUMNS):
        if column not in own.columns or column not in table.columns:
            continue
        here, there = table.loc[both, column], own.loc[both, column]
        differ = both[((here != there) & ~(here.isna() & there.isna())).to_numpy()]
        if len(differ):
            findings.append(
                Finding(
                    "cache",
                    PROBLEM,
                    f"{cache.path}: {len(differ)} utterances have another {column} in the cache's manifest, such as "
                    f"{differ[0]!r}: {there[differ[0]]!r} there, {here[differ[0]]!r} here",
                    "training reads the cache's: run mmser extract with this manifest (--refresh for new texts)",
                    tuple(differ),
                )
            )
    return findings
