"""Intervals that know that utterances of one speaker belong together."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmser.metrics import encode_labels
from mmser.statistics.clusters import (
    OF_CONFUSION,
    Metric,
    blocks,
    ccc_of_sums,
    clusters_of,
    confusion_per_cluster,
    sums_per_cluster,
)


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval and what was resampled for it."""

    low: float
    high: float
    clusters: int
    """How many units were resampled. An interval of few speakers is narrower than it should be."""
    unit: Literal["speaker", "utterance"]
    """``"utterance"`` where there were fewer than two clusters; it then says nothing about other speakers."""


def bootstrap_interval(
    metric: Metric,
    truth: ArrayLike,
    prediction: ArrayLike,
    clusters: ArrayLike | None,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a metric, resampling whole clusters (speakers) with replacement.

    Utterances of one speaker resemble each other, so resampling utterances gives intervals that are too narrow
    (A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8, strategy 1:
    clusters are drawn, their members taken whole). With fewer than two clusters utterances are resampled.

    Args:
        metric: WA, UA and macro-F1 take a fast way; any other function of (truth, prediction) works too.
        truth: labels or ratings, shape (utterances,).
        prediction: same shape.
        clusters: the speaker of each utterance, same shape; None resamples utterances.
        num_resamples: how many; 1000 settle the ends of a 95 % interval to about a tenth of its width.
        level: share of the resamples inside.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: shapes differ, or ``level`` is not between 0 and 1.

    >>> from mmser.metrics import weighted_accuracy
    >>> truth, speakers = ["sad", "happy"] * 6, ["ann", "bob", "cem"] * 4
    >>> bootstrap_interval(weighted_accuracy, truth, truth, speakers)
    Interval(low=1.0, high=1.0, clusters=3, unit='speaker')
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; expected a share between 0 and 1, such as 0.95")
    t, p = np.asarray(truth), np.asarray(prediction)
    codes, num, unit = clusters_of(t, p, clusters)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num, size=(n, num)) for n in blocks(num_resamples, num))
    if metric in OF_CONFUSION:
        scores = _resample_confusion(metric, t, p, codes, num, draws)
    else:
        members = _members(codes, num)
        scores = np.array([metric(t[i], p[i]) for block in draws for i in (_join(members, row) for row in block)])
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num, unit)


def concordance_interval(
    truth: ArrayLike,
    prediction: ArrayLike,
    clusters: ArrayLike | None,
    groups: ArrayLike,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """:func:`bootstrap_interval` of the mean over groups (seeds) of the CCC within each.

    A cluster's sums of ratings, squares and products decide what it adds to a CCC, so a resample is a matrix product.
    Groups of which a resample holds nothing are left out of its mean.

    Args:
        truth: ratings, shape (utterances,).
        prediction: same shape.
        clusters: as there; a cluster is drawn with its answers in all groups.
        groups: the seed of each utterance, same shape.
        num_resamples: as there, and likewise the rest.
        level: share of the resamples inside.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: shapes differ, or ``level`` is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; expected a share between 0 and 1, such as 0.95")
    t, p = (np.asarray(x, dtype=np.float64) for x in (truth, prediction))
    codes, num, unit = clusters_of(t, p, clusters)
    clusters_of(t, np.asarray(groups), None)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    sums = sums_per_cluster(t, p, codes, num, group, len(names))
    rng = np.random.default_rng(seed)
    scores = []
    for n in blocks(num_resamples, num):
        times = _times_drawn(rng.integers(num, size=(n, num)), num)
        drawn = (times @ sums).reshape(n, len(names), -1)
        holds = drawn[..., 0] != 0  # a group of which nothing was drawn has no CCC
        scores.append(np.where(holds, ccc_of_sums(drawn), 0.0).sum(1) / holds.sum(1))
    low, high = np.quantile(np.concatenate(scores), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num, unit)


def _members(codes: NDArray[np.intp], num: int) -> list[NDArray[np.intp]]:
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=num))[:-1])


def _join(members: list[NDArray[np.intp]], drawn: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.concatenate([members[cluster] for cluster in drawn])


def _times_drawn(drawn: NDArray[Any], num: int) -> NDArray[np.intp]:
    """How often each of ``num`` clusters is in each row of draws (resamples, num)."""
    flat = drawn + num * np.arange(len(drawn))[:, None]
    return np.bincount(flat.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _resample_confusion(
    metric: Metric,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    codes: NDArray[np.intp],
    num: int,
    draws: Iterator[NDArray[Any]],
) -> NDArray[np.float64]:
    rows, columns, classes = encode_labels(truth, prediction)
    k = len(classes)
    counts = confusion_per_cluster(rows, columns, k, codes, num)
    scores = []
    for drawn in draws:
        scores.append(OF_CONFUSION[metric]((_times_drawn(drawn, num) @ counts).reshape(-1, k, k)))
    return np.concatenate(scores)
