"""What intervals and tests share: clusters, and what each of them adds to a figure."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmser.metrics import (
    accuracy_of,
    average_recall_of,
    macro_f1,
    macro_f1_of,
    unweighted_average_recall,
    weighted_accuracy,
)

Metric = Callable[[Any, Any], float]
"""A function of truth and prediction, such as those of :mod:`mmser.metrics`."""

OF_CONFUSION: dict[Metric, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    weighted_accuracy: accuracy_of,
    unweighted_average_recall: average_recall_of,
    macro_f1: macro_f1_of,
}
"""Metrics that a confusion matrix decides: confusion matrices of clusters add up, so a resample is a matrix product."""

TIE = 1e-12
"""Differences this close are equal: sums in another order differ in the last bits, and a tie must count."""

_CELLS = 4_000_000
"""Draws held at a time (32 MB)."""


def clusters_of(
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


def blocks(num_rows: int, width: int) -> Iterator[int]:
    """Row counts that add up to ``num_rows`` and keep each block of draws small."""
    rows = max(1, _CELLS // width)
    for start in range(0, num_rows, rows):
        yield min(rows, num_rows - start)


def confusion_per_cluster(
    rows: NDArray[np.intp], columns: NDArray[np.intp], num_classes: int, codes: NDArray[np.intp], num: int
) -> NDArray[np.float64]:
    """Confusion matrix of each cluster, flat: shape (clusters, classes * classes)."""
    cells = num_classes * num_classes
    flat = codes * cells + rows * num_classes + columns
    return np.bincount(flat, minlength=num * cells).reshape(num, cells).astype(np.float64)


def sums_per_cluster(
    truth: NDArray[np.float64],
    prediction: NDArray[np.float64],
    codes: NDArray[np.intp],
    num: int,
    group: NDArray[np.intp],
    num_groups: int,
) -> NDArray[np.float64]:
    """What each cluster adds to the CCC of each group, for :func:`ccc_of_sums`: shape (clusters, groups * 6)."""
    # Both sides shifted and scaled alike, and by the truth alone, so that predictions of two heads may be swapped: the
    # CCC stays, and squares are of an order that TIE is small for.
    middle, scale = truth.mean(), truth.std() or 1.0
    t, p = (truth - middle) / scale, (prediction - middle) / scale
    sums = np.zeros((num * num_groups, 6))
    np.add.at(sums, codes * num_groups + group, np.stack([np.ones(len(t)), t, p, t**2, p**2, t * p], 1))
    return sums.reshape(num, -1)


def ccc_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """CCC from counts, sums, squares and products (..., 6) to (...); 1 where both sides are one constant.

    NaN where something summed is no number.
    """
    count, t, p, tt, pp, tp = np.moveaxis(sums, -1, 0)
    count = np.maximum(count, 1)  # a group of which nothing was drawn
    above = 2 * (tp / count - t * p / count**2)
    below = tt / count - (t / count) ** 2 + pp / count - (p / count) ** 2 + ((t - p) / count) ** 2
    constant = below <= TIE
    return np.where(constant, 1.0, above / np.where(constant, 1.0, below))
