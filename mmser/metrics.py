"""How good predictions are: pure functions of ``truth`` and ``prediction``, in that order. And figures as text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def weighted_accuracy(truth: ArrayLike, prediction: ArrayLike) -> float:
    """WA: the share of utterances labelled correctly, which is plain accuracy.

    Papers disagree on the names: some call this UA, and some call the mean recall per class WA. Here, as in most
    work on IEMOCAP, "weighted" means that each class counts by its size. Look at the formula before comparing.

    Args:
        truth: labels, shape (utterances,), text or integers.
        prediction: predicted labels, same shape.

    Raises:
        ValueError: the shapes differ, are not one-dimensional, or there are no utterances.

    >>> weighted_accuracy(["sad", "sad", "sad", "happy"], ["sad", "sad", "sad", "sad"])
    0.75
    """
    return float(accuracy_of(confusion_matrix(truth, prediction)))


def unweighted_average_recall(truth: ArrayLike, prediction: ArrayLike) -> float:
    """UA: the mean of the classes' recalls, so that a rare class counts as much as a common one.

    A class that ``truth`` does not hold has no recall and is left out. See :func:`weighted_accuracy` on the names,
    the arguments and the errors.

    >>> unweighted_average_recall(["sad", "sad", "sad", "happy"], ["sad", "sad", "sad", "sad"])
    0.5
    """
    return float(average_recall_of(confusion_matrix(truth, prediction)))


def macro_f1(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN), for the classes in ``truth`` or ``prediction``.

    Arguments and errors as in :func:`weighted_accuracy`.

    >>> macro_f1(["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"])  # 0.8 and 2/3
    0.7333333333333334
    """
    return float(macro_f1_of(confusion_matrix(truth, prediction)))


def recall_per_class(truth: ArrayLike, prediction: ArrayLike) -> dict[Any, float]:
    """Recall of each class that ``truth`` holds, in sorted order.

    >>> recall_per_class(["sad", "sad", "happy"], ["sad", "happy", "happy"])
    {'happy': 1.0, 'sad': 0.5}
    """
    truth, prediction = _labels(truth, prediction)
    return {label.item(): float((prediction[truth == label] == label).mean()) for label in np.unique(truth)}


def confusion_matrix(
    truth: ArrayLike, prediction: ArrayLike, *, labels: Sequence[Any] | None = None
) -> NDArray[np.int64]:
    """Counts of utterances, shape (classes, classes): row by truth, column by prediction.

    Args:
        truth: labels, shape (utterances,).
        prediction: predicted labels, same shape.
        labels: the classes in the order wanted; None takes those that occur, sorted.

    Raises:
        ValueError: as in :func:`weighted_accuracy`, or a label is not among ``labels``, or one is there twice.

    >>> confusion_matrix(["a", "a", "b"], ["a", "b", "b"], labels=["b", "a"]).tolist()
    [[1, 0], [1, 1]]
    """
    rows, columns, classes = encode_labels(truth, prediction, labels=labels)
    num = len(classes)
    return np.bincount(rows * num + columns, minlength=num * num).reshape(num, num)


def encode_labels(
    truth: ArrayLike, prediction: ArrayLike, *, labels: Sequence[Any] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]:
    """Truth and prediction as indices into the classes, and the classes; arguments as in :func:`confusion_matrix`."""
    truth, prediction = _labels(truth, prediction)
    found, codes = np.unique(np.concatenate([truth, prediction]), return_inverse=True)
    if labels is not None:
        wanted = np.asarray(labels)
        place = {label: i for i, label in enumerate(wanted.tolist())}
        if len(place) < len(wanted):
            raise ValueError(f"labels are there twice: {list(labels)}")
        unknown = [label for label in found.tolist() if label not in place]
        if unknown:
            raise ValueError(f"found labels {unknown}, expected only {list(labels)}")
        codes = np.array([place[label] for label in found.tolist()], dtype=np.intp)[codes]
        found = wanted
    return codes[: len(truth)], codes[len(truth) :], found


def accuracy_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """WA of confusion matrices, shape (..., classes, classes) to (...)."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def average_recall_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """UA of confusion matrices, shape (..., classes, classes) to (...); classes with an empty row are left out."""
    present = confusion.sum(axis=-1)
    recalls = _diagonal(confusion) / np.maximum(present, 1)
    return recalls.sum(axis=-1) / (present > 0).sum(axis=-1)


def macro_f1_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Macro-F1 of confusion matrices, shape (..., classes, classes) to (...); classes that never occur are left out."""
    occurs = confusion.sum(axis=-1) + confusion.sum(axis=-2)  # 2 TP + FP + FN
    scores = 2 * _diagonal(confusion) / np.maximum(occurs, 1)
    return scores.sum(axis=-1) / (occurs > 0).sum(axis=-1)


def concordance_correlation(truth: ArrayLike, prediction: ArrayLike) -> float:
    """CCC: 2 cov(t, p) / (var(t) + var(p) + (mean(t) - mean(p))²), with population moments.

    L. I-K. Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45(1), 1989, p. 258.
    Where one side is constant the covariance is 0, and so is the CCC; where both are the same constant, it is 1.

    Args:
        truth: ratings, shape (utterances,).
        prediction: predicted ratings, same shape and scale.

    Raises:
        ValueError: as in :func:`weighted_accuracy`, or a value is not finite.

    >>> round(concordance_correlation([1, 2, 3], [2, 3, 4]), 6)  # cov = var = 2/3, means 1 apart: 4/7
    0.571429
    """
    t, p = (np.asarray(x, dtype=np.float64) for x in _pair(truth, prediction))
    if not (np.isfinite(t).all() and np.isfinite(p).all()):
        raise ValueError("truth or prediction holds NaN or infinity: leave such utterances out first")
    if np.array_equal(t, p):
        return 1.0
    if np.ptp(t) == 0.0 or np.ptp(p) == 0.0:
        return 0.0
    covariance = ((t - t.mean()) * (p - p.mean())).mean()
    return float(2 * covariance / (t.var() + p.var() + (t.mean() - p.mean()) ** 2))


def expected_calibration_error(truth: ArrayLike, posteriors: ArrayLike, *, num_bins: int = 15) -> float:
    """ECE: the mean distance of confidence and accuracy over bins of equal width, weighted by the bins' sizes.

    C. Guo et al., "On calibration of modern neural networks", ICML 2017, equations 2 to 5: bin m of M holds the
    utterances whose greatest posterior lies in ((m - 1)/M, m/M]. Of equal posteriors the first class is predicted.

    Args:
        truth: class indices, shape (utterances,).
        posteriors: probabilities, shape (utterances, classes); rows sum to 1.
        num_bins: M; 15 as in the paper.

    Raises:
        ValueError: the shapes do not fit, an index names no class, or a row is no distribution.

    >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])  # says 0.75, is right half the time
    0.25
    """
    t, p = np.asarray(truth), np.asarray(posteriors, dtype=np.float64)
    if p.ndim != 2 or t.shape != p.shape[:1] or not len(t):
        raise ValueError(f"truth has shape {t.shape}, posteriors {p.shape}; expected (N,) and (N, classes), N > 0")
    if not np.issubdtype(t.dtype, np.integer) or t.min() < 0 or t.max() >= p.shape[1]:
        raise ValueError(f"truth must hold class indices 0 to {p.shape[1] - 1}, as integers")
    if not ((p >= 0).all() and np.allclose(p.sum(axis=1), 1.0, atol=1e-3)):
        raise ValueError("posteriors must be at least 0 and sum to 1 in every row")
    confidence = p.max(axis=1)
    gap = (p.argmax(axis=1) == t) - confidence
    bins = np.digitize(confidence, np.linspace(0.0, 1.0, num_bins + 1)[1:-1], right=True)
    # |accuracy - confidence| * size of the bin is the absolute sum of its gaps
    return float(np.abs(np.bincount(bins, weights=gap, minlength=num_bins)).sum() / len(t))


def digits(value: float | None, *, none: str = "–", signed: bool = False) -> str:
    """A figure as every table has it: three digits, and no minus before zero.

    Args:
        value: the figure.
        none: what stands for one that is not there, or no finite number.
        signed: as a difference, with its sign: plus too.

    >>> digits(0.5), digits(None), digits(float("nan"), none="-"), digits(-0.0003), digits(-0.0003, signed=True)
    ('0.500', '–', '-', '0.000', '+0.000')
    """
    if value is None or not math.isfinite(value):
        return none
    rounded = round(float(value), 3) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:+.3f}" if signed else f"{rounded:.3f}"


def _diagonal(confusion: NDArray[Any]) -> NDArray[Any]:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _pair(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    t, p = np.asarray(truth), np.asarray(prediction)
    if t.ndim != 1 or t.shape != p.shape or not len(t):
        raise ValueError(f"truth has shape {t.shape}, prediction {p.shape}; expected the same (N,) with N > 0")
    return t, p


def _labels(truth: ArrayLike, prediction: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels as arrays that sort fast: columns of a table are objects, which numpy would compare one by one."""
    t, p = _pair(truth, prediction)
    t, p = (np.array(x.tolist()) if x.dtype == object else x for x in (t, p))
    if (t.dtype.kind in "US") != (p.dtype.kind in "US"):
        raise ValueError(f"truth holds {t.dtype} and prediction {p.dtype}; expected both text or both integers")
    return t, p
