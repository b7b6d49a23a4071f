"""Metrics against scikit-learn and the plain equations."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmser.metrics import (
    accuracy_of,
    average_recall_of,
    concordance_correlation,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    macro_f1_of,
    recall_per_class,
    unweighted_average_recall,
    weighted_accuracy,
)

EMOTIONS = ["angry", "happy", "neutral", "sad"]
PAIRS = st.lists(st.tuples(st.sampled_from(EMOTIONS), st.sampled_from(EMOTIONS)), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_classification_metrics_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, prediction = (list(column) for column in zip(*pairs, strict=True))
    for t, p in ((truth, prediction), (np.array(truth, dtype=object), np.array(prediction, dtype=object))):
        assert weighted_accuracy(t, p) == pytest.approx(sklearn.metrics.accuracy_score(truth, prediction))
        assert unweighted_average_recall(t, p) == pytest.approx(
            sklearn.metrics.balanced_accuracy_score(truth, prediction)
        )
        assert macro_f1(t, p) == pytest.approx(
            sklearn.metrics.f1_score(truth, prediction, average="macro", zero_division=0)
        )
        np.testing.assert_array_equal(
            confusion_matrix(t, p, labels=EMOTIONS),
            sklearn.metrics.confusion_matrix(truth, prediction, labels=EMOTIONS),
        )
        present = sorted(set(truth))
        recalls = sklearn.metrics.recall_score(truth, prediction, labels=present, average=None, zero_division=0)
        assert recall_per_class(t, p) == pytest.approx(dict(zip(present, recalls, strict=True)))


def test_wa_and_ua_by_hand() -> None:
    truth = ["neutral"] * 8 + ["sad"] * 2
    prediction = ["neutral"] * 9 + ["sad"]
    assert weighted_accuracy(truth, prediction) == 0.9
    assert unweighted_average_recall(truth, prediction) == 0.75


def test_a_class_that_truth_lacks_has_no_recall_but_an_f1() -> None:
    assert unweighted_average_recall(["sad", "sad"], ["sad", "happy"]) == 0.5
    assert recall_per_class([3, 3], [3, 4]) == {3: 0.5}
    assert macro_f1(["sad", "sad"], ["sad", "happy"]) == pytest.approx((2 / 3 + 0) / 2)


def test_confusion_matrices_in_a_stack_are_scored_one_by_one() -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 3, size=(50, 4, 4))
    stack[:, 0, 0] += 1
    for of in (accuracy_of, average_recall_of, macro_f1_of):
        np.testing.assert_allclose(of(stack), [of(one) for one in stack])


def plain_ccc(t: list[float], p: list[float]) -> float:
    n = len(t)
    mean_t, mean_p = sum(t) / n, sum(p) / n
    var_t, var_p = sum((x - mean_t) ** 2 for x in t) / n, sum((x - mean_p) ** 2 for x in p) / n
    covariance = sum((x - mean_t) * (y - mean_p) for x, y in zip(t, p, strict=True)) / n
    return 2 * covariance / (var_t + var_p + (mean_t - mean_p) ** 2)


def test_ccc_is_lins_equation() -> None:
    rng = np.random.default_rng(1)
    for n in (2, 3, 50):
        t, p = rng.normal(3, 1, n), rng.normal(2, 2, n)
        assert concordance_correlation(t, p) == pytest.approx(plain_ccc(t.tolist(), p.tolist()))


def test_ccc_punishes_scale_and_shift_where_pearson_does_not() -> None:
    t = np.array([1.0, 2.0, 3.0, 4.0])
    assert concordance_correlation(t, t) == 1.0
    assert concordance_correlation(t, -t + 5) == pytest.approx(-1.0)
    assert concordance_correlation(t, 2 * t) < concordance_correlation(t, t + 1) < 1.0


@pytest.mark.parametrize(
    ("t", "p", "expected"),
    [([0.1] * 3, [0.1] * 3, 1.0), ([0.1] * 3, [0.3] * 3, 0.0), ([0.1] * 3, [1, 2, 3], 0.0), ([2.0], [3.0], 0.0)],
)
def test_ccc_of_constants(t: list[float], p: list[float], expected: float) -> None:
    assert concordance_correlation(t, p) == expected
    assert concordance_correlation(p, t) == expected


def plain_ece(truth: NDArray[np.int64], posteriors: NDArray[np.float64], num_bins: int) -> float:
    total = 0.0
    for m in range(1, num_bins + 1):
        inside = [i for i, row in enumerate(posteriors) if (m - 1) / num_bins < row.max() <= m / num_bins]
        if inside:
            accuracy = np.mean([posteriors[i].argmax() == truth[i] for i in inside])
            confidence = np.mean([posteriors[i].max() for i in inside])
            total += len(inside) / len(truth) * abs(accuracy - confidence)
    return float(total)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_is_the_plain_sum_over_bins(num_bins: int) -> None:
    rng = np.random.default_rng(2)
    posteriors = rng.dirichlet(np.ones(4), size=200)
    posteriors[:20] = np.eye(4)[rng.integers(4, size=20)]
    truth = rng.integers(4, size=200)
    expected = plain_ece(truth, posteriors, num_bins)
    assert expected_calibration_error(truth, posteriors, num_bins=num_bins) == pytest.approx(expected)


def test_ece_bins_are_open_below_and_closed_above() -> None:
    """Right with confidence 0.5, in (0, 0.5], and wrong with 0.6, in (0.5, 1]: the gaps do not cancel."""
    ece = expected_calibration_error([0, 1], [[0.5, 0.5], [0.6, 0.4]], num_bins=2)
    assert ece == pytest.approx((0.5 + 0.6) / 2)


def test_ece_takes_posteriors_that_were_rounded() -> None:
    assert expected_calibration_error([0, 1], [[0.6667, 0.3334], [0.333, 0.666]]) == pytest.approx(0.33365)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weighted_accuracy([1, 2], [1]), r"truth has shape \(2,\), prediction \(1,\); expected the same"),
        (lambda: unweighted_average_recall([], []), "with N > 0"),
        (lambda: macro_f1(["a"], [1]), "expected both text or both integers"),
        (lambda: confusion_matrix(["a"], ["b"], labels=["a"]), r"found labels \['b'\], expected only \['a'\]"),
        (lambda: confusion_matrix(["a"], ["a"], labels=["a", "a"]), "labels are there twice"),
        (lambda: weighted_accuracy([[1, 2]], [[1, 2]]), r"truth has shape \(1, 2\), prediction \(1, 2\); expected"),
        (lambda: concordance_correlation([1.0, np.nan], [1.0, 2.0]), "NaN or infinity"),
        (lambda: concordance_correlation([1.0, 2.0], [1.0, np.inf]), "NaN or infinity"),
        (lambda: expected_calibration_error([0], [[0.5, 0.4]]), "sum to 1"),
        (lambda: expected_calibration_error([0], [[1.5, -0.5]]), "at least 0"),
        (lambda: expected_calibration_error([2], [[0.5, 0.5]]), "class indices 0 to 1"),
        (lambda: expected_calibration_error([-1], [[0.5, 0.5]]), "class indices 0 to 1"),
        (lambda: expected_calibration_error([0.0], [[0.5, 0.5]]), "as integers"),
        (lambda: expected_calibration_error([0, 1], [0.5, 0.5]), r"posteriors \(2,\)"),
        (lambda: expected_calibration_error([], np.empty((0, 2))), "N > 0"),
        (lambda: expected_calibration_error([0, 1], [[0.5, 0.5]]), r"truth has shape \(2,\), posteriors \(1, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
