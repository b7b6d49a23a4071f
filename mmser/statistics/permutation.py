"""Tests of whether one head is better than another, and what looking at many of them costs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmser.metrics import encode_labels
from mmser.statistics.clusters import (
    OF_CONFUSION,
    TIE,
    Metric,
    blocks,
    ccc_of_sums,
    clusters_of,
    confusion_per_cluster,
    sums_per_cluster,
)

_MAX_EXACT = 2**14
"""Assignments that are enumerated rather than sampled: all those of up to 14 clusters."""

_TIE_OF_CCC = 1e-9
"""Differences of CCCs this close are equal: they come from sums over many utterances, which round more."""


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

    >>> from mmser.metrics import weighted_accuracy
    >>> paired_permutation_test(weighted_accuracy, [1, 1, 1], [1, 1, 1], [0, 0, 0])  # 2 of 8 assignments
    0.25
    """
    t, a, b = np.asarray(truth), np.asarray(prediction_a), np.asarray(prediction_b)
    codes, num, _ = clusters_of(t, a, clusters)
    clusters_of(t, b, clusters)
    exact, swaps = _swaps(num, num_permutations, seed)
    if metric in OF_CONFUSION:
        differences = _swap_confusion(metric, t, a, b, codes, num, swaps)
    else:
        masks = (row[codes] for block in swaps for row in block)
        differences = np.array([metric(t, np.where(m, b, a)) - metric(t, np.where(m, a, b)) for m in masks])
    observed = abs(metric(t, a) - metric(t, b))
    return _p_value(differences, observed, exact, TIE)


def paired_concordance_test(
    truth: ArrayLike,
    prediction_a: ArrayLike,
    prediction_b: ArrayLike,
    clusters: ArrayLike | None,
    groups: ArrayLike,
    *,
    num_permutations: int = 9999,
    seed: int = 0,
) -> float:
    """:func:`paired_permutation_test` of the mean over groups (seeds) of the CCC within each.

    A cluster's sums decide what it adds to a CCC, so all assignments are a matrix product.

    Args:
        truth: ratings, shape (utterances,).
        prediction_a: as there.
        prediction_b: as there.
        clusters: as there; a cluster's predictions are swapped in all groups.
        groups: the seed of each utterance, same shape.
        num_permutations: as there, and likewise the rest.
        seed: the same seed gives the same p-value.

    Raises:
        ValueError: shapes differ, or something is no finite number.
    """
    t, a, b = (np.asarray(x, dtype=np.float64) for x in (truth, prediction_a, prediction_b))
    if not all(np.isfinite(x).all() for x in (t, a, b)):
        raise ValueError("truth or prediction holds values that are no finite numbers; expected numbers")
    codes, num, _ = clusters_of(t, a, clusters)
    clusters_of(t, b, clusters)
    clusters_of(t, np.asarray(groups), None)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    sums_a, sums_b = (sums_per_cluster(t, p, codes, num, group, len(names)) for p in (a, b))

    def difference(moved: NDArray[np.float64]) -> NDArray[np.float64]:
        pair = (sums_a.sum(0) + moved, sums_b.sum(0) - moved)
        score_a, score_b = (ccc_of_sums(sums.reshape(len(moved), len(names), -1)).mean(1) for sums in pair)
        return score_a - score_b

    exact, swaps = _swaps(num, num_permutations, seed)
    differences = np.concatenate([difference(block @ (sums_b - sums_a)) for block in swaps])
    observed = difference(np.zeros((1, sums_a.shape[1])))
    return _p_value(differences, abs(float(observed[0])), exact, _TIE_OF_CCC)


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


def _swaps(num: int, num_permutations: int, seed: int) -> tuple[bool, Iterator[NDArray[np.bool_]]]:
    """Whether all assignments are enumerated, and blocks of them: (assignments, clusters), True where swapped."""
    if 2**num <= _MAX_EXACT:
        every = np.arange(2**num)[:, None] >> np.arange(num) & 1
        return True, iter([every.astype(bool)])
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(2, size=(n, num), dtype=np.uint8).astype(bool) for n in blocks(num_permutations, num))
    return False, drawn


def _p_value(differences: NDArray[np.float64], observed: float, exact: bool, tie: float) -> float:
    hits = int((np.abs(differences) >= observed - tie).sum())
    return hits / len(differences) if exact else (1 + hits) / (1 + len(differences))


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
    a = confusion_per_cluster(rows[:n], columns[:n], k, codes, num)
    b = confusion_per_cluster(rows[n:], columns[n:], k, codes, num)
    change = b - a
    touched = change.any(axis=1)  # swapping equal predictions changes nothing
    differences = []
    for block in swaps:
        moved = block[:, touched] @ change[touched]
        score_a, score_b = (OF_CONFUSION[metric](c.reshape(-1, k, k)) for c in (a.sum(0) + moved, b.sum(0) - moved))
        differences.append(score_a - score_b)
    return np.concatenate(differences)
