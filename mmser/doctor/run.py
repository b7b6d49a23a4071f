"""The whole examination, in one function."""

from collections.abc import Mapping

import numpy as np

from mmser.cache import Cache
from mmser.corpora import CORPORA
from mmser.doctor.findings import Diagnosis, Limits
from mmser.doctor.recordings import Heard, Report, judge_recordings, listen
from mmser.doctor.table import count, judge_cache, judge_counts, judge_excluded, judge_parts, known_corpora
from mmser.doctor.texts import judge_fit, judge_leaks
from mmser.manifest import Manifest


def diagnose(
    manifest: Manifest,
    excluded: Mapping[str, str],
    *,
    corpus: str = "",
    cache: Cache | None = None,
    audio: bool = True,
    limits: Limits | None = None,
    report: Report = lambda *_: None,
) -> Diagnosis:
    """Look at everything that goes wrong with corpora before figures do.

    Args:
        manifest: the utterances.
        excluded: why others are not in it (:func:`mmser.corpora.corpus.read_excluded`).
        corpus: ``NAME`` or ``NAME:SET`` to compare counts with; "": what the manifest's own columns say.
        cache: what was extracted from it, to be compared as well.
        audio: whether to decode the recordings; without, nothing is known of sound and durations.
        limits: where the usual ends.
        report: told of the progress.

    Raises:
        ManifestError: no such corpus or label set.
        CacheError: the cache cannot be read.
    """
    limits = limits or Limits()
    groups = known_corpora(manifest, CORPORA, corpus)
    names = {group.partition(":")[0] for group in groups}
    explanations = [CORPORA[name].shared_speakers for name in sorted(names) if CORPORA[name].shared_speakers]
    findings = [*judge_counts(groups, CORPORA), *judge_parts(manifest, explanations, limits)]
    labels, speakers, texts = (_told(manifest, column) for column in ("label", "speaker", "text"))
    heard: dict[str, Heard] = {}
    if audio:
        heard = listen(manifest.utterances(), limits, report)
        published = {
            uid: CORPORA[group.partition(":")[0]].rates
            for group, rows in groups.items()
            for uid in rows["utterance_id"].tolist()
        }
        odd = {uid: rate for name in names for uid, rate in CORPORA[name].odd_rates.items()}
        findings += judge_recordings(heard, labels, published, odd, limits)
    durations_s = {uid: one.duration_s for uid, one in heard.items() if not one.error}
    findings += judge_fit(texts, durations_s, limits)
    findings += judge_leaks(texts, labels, speakers, limits)
    if cache is not None:
        findings += judge_cache(manifest, cache)
    findings += judge_excluded(excluded)
    return Diagnosis(len(manifest), count(manifest), dict(excluded), tuple(findings))


def _told(manifest: Manifest, column: str) -> dict[str, str]:
    """A column by utterance id; "" throughout where there is none."""
    there = column in manifest.table.columns
    values = manifest.column(column) if there else np.full(len(manifest), "", dtype=object)
    return dict(zip(manifest.ids, values.tolist(), strict=True))
