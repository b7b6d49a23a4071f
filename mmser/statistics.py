"""How sure a result is: intervals and tests that know that utterances of one speaker belong together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmser.metrics import (
    accuracy_of,
    average_recall_of,
    encode_labels,
    macro_f1,
    macro_f1_of,
    unweighted_average_recall,
    weighted_accuracy,
)

Metric = Callable[[Any, Any], float]
"""A function of truth and prediction, such as those of :mod:`mmser.metrics`."""

_OF_CONFUSION: dict[Metric, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    weighted_accuracy: accuracy_of,
    unweighted_average_recall: average_recall_of,
    macro_f1: macro_f1_of,
}
"""Metrics that a confusion matrix decides: confusion matrices of clusters add up, so a resample is a matrix product."""

_MAX_EXACT = 2**14
"""Assignments that are enumerated rather than sampled: all those of up to 14 clusters."""

_TIE = 1e-12
"""Differences this close are equal: sums in another order differ in the last bits, and a tie must count."""

_CELLS = 4_000_000
"""Draws held at a time (32 MB)."""


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

    >>> truth, speakers = ["sad", "happy"] * 6, ["ann", "bob", "cem"] * 4
    >>> bootstrap_interval(weighted_accuracy, truth, truth, speakers)
    Interval(low=1.0, high=1.0, clusters=3, unit='speaker')
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; expected a share between 0 and 1, such as 0.95")
    t, p = np.asarray(truth), np.asarray(prediction)
    codes, num, unit = _clusters(t, p, clusters)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(num, size=(n, num)) for n in _blocks(num_resamples, num))
    if metric in _OF_CONFUSION:
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
    codes, num, unit = _clusters(t, p, clusters)
    _clusters(t, np.asarray(groups), None)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    middle = t.mean()  # both sides shifted alike: the CCC stays, and squares stay small
    terms = np.stack([np.ones(len(t)), t - middle, p - middle, (t - middle) ** 2, (p - middle) ** 2], 1)
    terms = np.concatenate([terms, terms[:, 1:2] * terms[:, 2:3]], 1)
    sums = np.zeros((num * len(names), terms.shape[1]))
    np.add.at(sums, codes * len(names) + group, terms)
    rng = np.random.default_rng(seed)
    scores = []
    for n in _blocks(num_resamples, num):
        times = _times_drawn(rng.integers(num, size=(n, num)), num)
        scores.append(_ccc_of_sums((times @ sums.reshape(num, -1)).reshape(n, len(names), -1)).mean(1))
    low, high = np.quantile(np.concatenate(scores), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num, unit)


def _ccc_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """CCC from counts, sums, squares and products (..., 6) to (...); 1 where both sides are one constant."""
    count, t, p, tt, pp, tp = np.moveaxis(sums, -1, 0)
    count = np.maximum(count, 1)  # a group of which nothing was drawn
    above = 2 * (tp / count - t * p / count**2)
    below = tt / count - (t / count) ** 2 + pp / count - (p / count) ** 2 + ((t - p) / count) ** 2
    return np.where(below > _TIE, above / np.where(below > _TIE, below, 1.0), 1.0)


def paired_permutation_test(
    metric: Metric,
    truth: ArrayLike,
    prediction_a: ArrayLike,
    prediction_b: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    num_permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p-value of "a and b are equally good": how often a difference as large comes from chance swaps.

    Under the null hypothesis the two predictions of an utterance could be swapped. Those of one cluster (speaker)
    depend on each other, so they are swapped together. Up to 14 clusters, all assignments are enumerated and p is
    exact; beyond, they are sampled and p = (1 + hits) / (1 + permutations), which is never 0 (B. Phipson and
    G. K. Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9(1), 2010).
    With n clusters p cannot fall below 2 / 2**n: five speakers can never show p < 0.05.

    Args:
        metric: as in :func:`bootstrap_interval`.
        truth: labels or ratings, shape (utterances,).
        prediction_a: of one head, same shape.
        prediction_b: of the other, for the same utterances in the same order.
        clusters: the speaker of each utterance; None, or fewer than two speakers, swaps single utterances.
        num_permutations: how many assignments are sampled, where they are not enumerated.
        seed: the same seed gives the same p-value.

    Raises:
        ValueError: shapes differ.

    >>> paired_permutation_test(weighted_accuracy, [1, 1, 1], [1, 1, 1], [0, 0, 0])  # 2 of 8 assignments
    0.25
    """
    t, a, b = np.asarray(truth), np.asarray(prediction_a), np.asarray(prediction_b)
    codes, num, _ = _clusters(t, a, clusters)
    _clusters(t, b, clusters)
    exact = 2**num <= _MAX_EXACT
    if exact:
        every = np.arange(2**num)[:, None] >> np.arange(num) & 1
        swaps: Iterator[NDArray[Any]] = iter([every.astype(bool)])
    else:
        rng = np.random.default_rng(seed)
        swaps = (rng.integers(2, size=(n, num), dtype=np.uint8).astype(bool) for n in _blocks(num_permutations, num))
    if metric in _OF_CONFUSION:
        differences = _swap_confusion(metric, t, a, b, codes, num, swaps)
    else:
        masks = (row[codes] for block in swaps for row in block)
        differences = np.array([metric(t, np.where(m, b, a)) - metric(t, np.where(m, a, b)) for m in masks])
    observed = abs(metric(t, a) - metric(t, b))
    hits = int((np.abs(differences) >= observed - _TIE).sum())
    return hits / len(differences) if exact else (1 + hits) / (1 + len(differences))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for having looked at all of them, in the order given, shape (tests,).

    S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6(2), 1979: the i-th
    smallest of n is multiplied by n - i + 1, and none may fall below a smaller one.

    Raises:
        ValueError: a value is not between 0 and 1.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must be a list of numbers between 0 and 1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _clusters(
    truth: NDArray[Any], prediction: NDArray[Any], clusters: ArrayLike | None
) -> tuple[NDArray[np.intp], int, Literal["speaker", "utterance"]]:
    """The cluster of each utterance as an index, how many there are, and what they are."""
    shapes = [truth.shape, prediction.shape]
    if clusters is not None:
        given = np.asarray(clusters)
        shapes.append(given.shape)
    if truth.ndim != 1 or len(set(shapes)) != 1 or not len(truth):
        raise ValueError(f"truth, prediction and clusters have shapes {shapes}; expected the same (N,) with N > 0")
    if clusters is not None:
        names, codes = np.unique(given.astype(str) if given.dtype == object else given, return_inverse=True)
        if len(names) > 1:
            return codes, len(names), "speaker"
    return np.arange(len(truth)), len(truth), "utterance"


def _blocks(num_rows: int, width: int) -> Iterator[int]:
    """Row counts that add up to ``num_rows`` and keep each block of draws small."""
    rows = max(1, _CELLS // width)
    for start in range(0, num_rows, rows):
        yield min(rows, num_rows - start)


def _members(codes: NDArray[np.intp], num: int) -> list[NDArray[np.intp]]:
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes, minlength=num))[:-1])


def _join(members: list[NDArray[np.intp]], drawn: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.concatenate([members[cluster] for cluster in drawn])


def _per_cluster(
    rows: NDArray[np.intp], columns: NDArray[np.intp], num_classes: int, codes: NDArray[np.intp], num: int
) -> NDArray[np.float64]:
    """Confusion matrix of each cluster, flat: shape (clusters, classes * classes)."""
    cells = num_classes * num_classes
    flat = codes * cells + rows * num_classes + columns
    return np.bincount(flat, minlength=num * cells).reshape(num, cells).astype(np.float64)


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
    counts = _per_cluster(rows, columns, k, codes, num)
    scores = []
    for drawn in draws:
        scores.append(_OF_CONFUSION[metric]((_times_drawn(drawn, num) @ counts).reshape(-1, k, k)))
    return np.concatenate(scores)


def _swap_confusion(
    metric: Metric,
    truth: NDArray[Any],
    prediction_a: NDArray[Any],
    prediction_b: NDArray[Any],
    codes: NDArray[np.intp],
    num: int,
    swaps: Iterator[NDArray[np.bool_]],
) -> NDArray[np.float64]:
    rows, columns, classes = encode_labels(np.tile(truth, 2), np.concatenate([prediction_a, prediction_b]))
    k, n = len(classes), len(truth)
    a = _per_cluster(rows[:n], columns[:n], k, codes, num)
    b = _per_cluster(rows[n:], columns[n:], k, codes, num)
    change = b - a
    touched = change.any(axis=1)  # swapping equal predictions changes nothing
    differences = []
    for block in swaps:
        moved = block[:, touched] @ change[touched]
        score_a, score_b = (_OF_CONFUSION[metric](c.reshape(-1, k, k)) for c in (a.sum(0) + moved, b.sum(0) - moved))
        differences.append(score_a - score_b)
    return np.concatenate(differences)
