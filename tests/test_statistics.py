"""Intervals and tests against brute force."""

import itertools
import time
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from mmser.metrics import concordance_correlation, macro_f1, unweighted_average_recall, weighted_accuracy
from mmser.statistics import (
    Interval,
    bootstrap_interval,
    concordance_interval,
    holm,
    paired_concordance_test,
    paired_permutation_test,
)
from mmser.statistics.clusters import blocks

CONFUSION_METRICS = [weighted_accuracy, unweighted_average_recall, macro_f1]


def labels(n: int, right: float, seed: int) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    rng = np.random.default_rng(seed)
    emotions = np.array(["angry", "happy", "neutral", "sad"], dtype=object)
    truth = emotions[rng.integers(4, size=n)]
    return truth, np.where(rng.random(n) < right, truth, emotions[rng.integers(4, size=n)])


@pytest.mark.parametrize("metric", CONFUSION_METRICS)
@pytest.mark.parametrize("clusters", [None, [0, 0, 1, 1, 1, 2] * 10])
def test_the_fast_way_draws_and_scores_as_the_plain_one(metric, clusters, monkeypatch) -> None:
    truth, prediction = labels(60, 0.5, 0)
    _, other = labels(60, 0.4, 1)

    def plain(t, p):  # not one of those known to come from a confusion matrix
        return metric(t, p)

    fast = bootstrap_interval(metric, truth, prediction, clusters, num_resamples=50)
    slow = bootstrap_interval(plain, truth, prediction, clusters, num_resamples=50)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=1e-12)
    monkeypatch.setattr("mmser.statistics.clusters._CELLS", 7)
    assert bootstrap_interval(metric, truth, prediction, clusters, num_resamples=50) == fast
    p_values = {
        paired_permutation_test(f, truth, prediction, other, clusters, num_permutations=200) for f in (metric, plain)
    }
    assert len(p_values) == 1


def test_bootstrap_draws_whole_clusters() -> None:
    """Three speakers of 4, 2 and 1 utterances: the 27 equally likely draws give the distribution exactly."""
    clusters = np.array(["a", "a", "a", "a", "b", "b", "c"])
    truth = np.array([1, 1, 1, 1, 1, 1, 1])
    prediction = np.array([1, 1, 1, 0, 0, 0, 1])
    scores = []
    for drawn in itertools.product("abc", repeat=3):
        rows = np.concatenate([np.flatnonzero(clusters == name) for name in drawn])
        scores.append(weighted_accuracy(truth[rows], prediction[rows]))
    low, high = np.quantile(scores, [0.1, 0.9])
    interval = bootstrap_interval(weighted_accuracy, truth, prediction, clusters, num_resamples=20_000, level=0.8)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.clusters, interval.unit) == (3, "speaker")


def test_bootstrap_of_one_speaker_falls_back_on_utterances_and_says_so() -> None:
    truth, prediction = labels(40, 0.5, 0)
    one = bootstrap_interval(weighted_accuracy, truth, prediction, ["ann"] * 40)
    assert one == bootstrap_interval(weighted_accuracy, truth, prediction, None)
    assert (one.clusters, one.unit) == (40, "utterance")
    standard_error = np.sqrt(np.mean(truth == prediction) * np.mean(truth != prediction) / 40)
    assert one.high - one.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_bootstrap_knows_that_speakers_differ() -> None:
    """Where each speaker is all right or all wrong, forty utterances are worth four speakers."""
    truth, prediction = np.ones(40, dtype=int), np.repeat([1, 0, 1, 0], 10)
    by_speaker = bootstrap_interval(weighted_accuracy, truth, prediction, np.repeat(list("abcd"), 10))
    by_utterance = bootstrap_interval(weighted_accuracy, truth, prediction, None)
    assert by_speaker == Interval(0.0, 1.0, 4, "speaker")
    assert by_utterance.high - by_utterance.low < 0.4


def test_bootstrap_of_ratings_is_repeatable_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    truth, clusters = rng.normal(size=100), rng.integers(5, size=100)
    prediction = truth + rng.normal(size=100)
    first, again, other = (
        bootstrap_interval(concordance_correlation, truth, prediction, clusters, num_resamples=200, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first.low < concordance_correlation(truth, prediction) < first.high


def test_a_thousand_resamples_of_iemocap_take_no_time() -> None:
    truth, prediction = labels(5531, 0.6, 0)
    speakers = np.arange(5531) % 10
    start = time.process_time()
    bootstrap_interval(unweighted_average_recall, truth, prediction, speakers)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("clusters", [None, list("aabbbcdd")])
def test_permutation_test_is_the_enumeration(clusters: list[str] | None) -> None:
    truth = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    a = np.array([0, 1, 0, 1, 1, 1, 1, 0])
    b = np.array([0, 0, 0, 1, 0, 0, 0, 1])
    names = np.array(clusters or list("abcdefgh"))
    differences = []
    for swap in itertools.product([False, True], repeat=len(set(names))):
        swapped = np.array([dict(zip(sorted(set(names)), swap, strict=True))[name] for name in names])
        first, second = np.where(swapped, b, a), np.where(swapped, a, b)
        differences.append(macro_f1(truth, first) - macro_f1(truth, second))
    expected = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-9)
    assert paired_permutation_test(macro_f1, truth, a, b, clusters) == pytest.approx(expected)
    assert 0 < expected < 1


def test_sampled_permutations_agree_with_the_binomial() -> None:
    """Of 30 utterances where the heads differ a is right in 22: a sign test."""
    truth = np.ones(40, dtype=int)
    a, b = np.ones(40, dtype=int), np.ones(40, dtype=int)
    b[:22], a[22:30] = 0, 0
    combinations = [1]
    for i in range(30):
        combinations.append(combinations[-1] * (30 - i) // (i + 1))
    expected = 2 * sum(combinations[22:]) / 2**30
    p = paired_permutation_test(weighted_accuracy, truth, a, b, num_permutations=20_000)
    assert p == pytest.approx(expected, abs=0.002)
    assert p == paired_permutation_test(weighted_accuracy, truth, b, a, num_permutations=20_000)


def test_permutation_test_of_equals_and_of_few_speakers() -> None:
    truth, a = labels(100, 0.9, 0)
    assert paired_permutation_test(weighted_accuracy, truth, a, a) == 1.0
    b = np.full(100, "none", dtype=object)
    five = np.arange(100) % 5
    assert paired_permutation_test(weighted_accuracy, truth, a, b, five) == 2 / 2**5
    assert paired_permutation_test(weighted_accuracy, truth, a, b, num_permutations=99) == 1 / 100


def test_differences_that_are_equal_but_for_rounding_are_ties() -> None:
    """Recalls are halves, thirds and sixths: in fractions, 1280 of the 2048 assignments differ as much."""
    truth = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    a, b = [0, 2, 1, 1, 1, 1, 0, 0, 2, 0, 0], [1, 2, 1, 2, 1, 0, 2, 2, 2, 0, 1]

    def ua(said: list[int]) -> Fraction:
        return sum((Fraction(int(t == p), truth.count(t)) for t, p in zip(truth, said, strict=True)), Fraction()) / 3

    hits = 0
    for swap in itertools.product([False, True], repeat=11):
        first, second = ([q if s else p for p, q, s in zip(x, y, swap, strict=True)] for x, y in ((a, b), (b, a)))
        hits += abs(ua(first) - ua(second)) >= abs(ua(a) - ua(b))
    assert hits == 1280
    assert paired_permutation_test(unweighted_average_recall, truth, a, b) == hits / 2**11


def test_up_to_fourteen_clusters_are_enumerated_and_more_are_sampled() -> None:
    """Where a is right and b wrong about all, none but swapping nobody or everybody gives as large a difference."""
    for num in (13, 14):
        assert paired_permutation_test(weighted_accuracy, [1] * num, [1] * num, [0] * num) == 2 / 2**num
    assert paired_permutation_test(weighted_accuracy, [1] * 15, [1] * 15, [0] * 15, num_permutations=9) == 1 / 10
    default = paired_permutation_test(weighted_accuracy, [1] * 40, [1] * 40, [0] * 40)
    assert default == 1 / 10_000
    half = [0, 1] * 20
    one, other = (
        paired_permutation_test(weighted_accuracy, [1] * 40, [1] * 30 + [0] * 10, half, seed=s) for s in (0, 1)
    )
    assert one != other


def test_draws_in_blocks_are_as_many_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmser.statistics.clusters._CELLS", 10)
    assert list(blocks(11, 3)) == [3, 3, 3, 2]
    assert list(blocks(3, 3)) == [3]
    assert list(blocks(2, 11)) == [1, 1]
    assert list(blocks(2, 10)) == [1, 1]


def test_permutation_p_values_are_uniform_under_the_null() -> None:
    p_values = []
    for seed in range(200):
        truth, a = labels(60, 0.6, seed)
        rng = np.random.default_rng(seed)
        b = np.where(rng.random(60) < 0.6, truth, rng.permutation(a))
        c = np.where(rng.random(60) < 0.6, truth, rng.permutation(a))
        p_values.append(paired_permutation_test(weighted_accuracy, truth, b, c, num_permutations=199, seed=seed))
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.1)


def test_holm_is_rs_p_adjust() -> None:
    np.testing.assert_allclose(holm([0.01, 0.02, 0.03, 0.04]), [0.04, 0.06, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.001, 0.9]), [1.0, 0.003, 1.0])
    assert holm([0.6, 0.7, 0.8]).tolist() == [1.0, 1.0, 1.0]
    assert holm([]).shape == (0,)


def test_holm_rejects_as_the_stepwise_rule_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (6 - step):
                break
            rejected.add(int(i))
        assert {int(i) for i in np.flatnonzero(holm(p) <= 0.05)} == rejected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(weighted_accuracy, [1], [1], [1, 2]), r"have shapes \[\(1,\), \(1,\), \(2,\)\]"),
        (lambda: bootstrap_interval(weighted_accuracy, [1], [1], [1], level=95), "level is 95; expected a share"),
        (lambda: bootstrap_interval(weighted_accuracy, [1], [1], [1], level=1.0), "level is 1.0; expected a share"),
        (lambda: bootstrap_interval(weighted_accuracy, [1], [1], [1], level=0.0), "level is 0.0; expected a share"),
        (lambda: bootstrap_interval(weighted_accuracy, [], [], None), r"have shapes \[\(0,\), \(0,\)\]"),
        (lambda: bootstrap_interval(weighted_accuracy, [[1]], [[1]], None), r"have shapes \[\(1, 1\), \(1, 1\)\]"),
        (lambda: paired_permutation_test(weighted_accuracy, [1, 1], [1, 1], [1]), "expected the same"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
        (lambda: holm([0.5, -0.5]), "between 0 and 1"),
        (lambda: holm([0.5, np.nan]), "between 0 and 1"),
        (lambda: holm([[0.5]]), "must be a list"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_concordance_interval_is_the_bootstrap_of_the_mean_over_seeds() -> None:
    rng = np.random.default_rng(3)
    num, seeds = 60, np.repeat([0, 1, 2], 60)
    truth = np.tile(rng.normal(500, 1, num), 3)
    said = truth + rng.normal(0, 0.8, 3 * num) + np.repeat([0.0, 0.5, -0.3], num)
    speakers = np.tile([f"s{i % 7}" for i in range(num)], 3)

    found = concordance_interval(truth, said, speakers, seeds, num_resamples=300, seed=4)
    draws, names, scores = np.random.default_rng(4).integers(7, size=(300, 7)), np.unique(speakers), []
    for drawn in draws:
        rows = np.concatenate([np.flatnonzero(speakers == names[i]) for i in drawn])
        each = [concordance_correlation(truth[own], said[own]) for s in (0, 1, 2) if len(own := rows[seeds[rows] == s])]
        scores.append(np.mean(each))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-9)
    assert (found.clusters, found.unit) == (7, "speaker")


def test_a_seed_of_which_nothing_is_drawn_has_no_say() -> None:
    """Neither speaker is there under both seeds: of four draws two are of one of them alone."""
    seeds, speakers = np.repeat([0, 1], 4), np.repeat(["ann", "bob"], 4)
    truth = np.array([1.0, 2.0, 3.0, 4.0] * 2)
    said = np.array([1.0, 3.0, 2.0, 4.0, 4.0, 1.0, 2.0, 3.0])
    of_ann, of_bob = (concordance_correlation(truth[seeds == s], said[seeds == s]) for s in (0, 1))
    found = concordance_interval(truth, said, speakers, seeds, level=0.9)
    assert (found.low, found.high) == pytest.approx((of_bob, of_ann))
    assert (found.clusters, found.unit) == (2, "speaker")
    middle = concordance_interval(truth, said, speakers, seeds, level=0.2)
    assert (middle.low, middle.high) == pytest.approx([(of_ann + of_bob) / 2] * 2)


def test_a_small_scale_is_no_constant_and_what_is_no_number_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    truth, speakers, seeds = rng.normal(size=40), list("abcd") * 10, np.zeros(40)
    said = truth + rng.normal(size=40)
    plain, small = (concordance_interval(scale * truth, scale * said, speakers, seeds) for scale in (1.0, 1e-7))
    assert (small.low, small.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert plain.high < 0.99
    far = concordance_interval(truth + 1e6, said + 1e6, speakers, seeds)
    assert (far.low, far.high) == pytest.approx((plain.low, plain.high), abs=1e-8)
    said[3] = np.nan
    assert np.isnan(concordance_interval(truth, said, speakers, seeds).low)
    for three in ((said, truth, truth), (truth, said, truth), (truth, truth, said)):
        with pytest.raises(ValueError, match="no finite numbers"):
            paired_concordance_test(*three, speakers, seeds)
    for three in ((truth, truth[:5], truth, seeds), (truth, truth, truth[:5], seeds), (truth, truth, truth, seeds[:5])):
        with pytest.raises(ValueError, match="expected the same"):
            paired_concordance_test(*three[:3], speakers, three[3])


def test_concordance_intervals_of_constants() -> None:
    ones, speakers, seeds = np.ones(6), list("aabbcc"), np.zeros(6)
    assert concordance_interval(ones, ones, speakers, seeds).low == 1.0
    assert concordance_interval(np.arange(6.0), ones, speakers, seeds).high == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"level is 1\.5"):
        concordance_interval(ones, ones, speakers, seeds, level=1.5)
    with pytest.raises(ValueError, match="expected the same"):
        concordance_interval(ones, ones, speakers, seeds[:5])


@pytest.mark.parametrize("num_speakers", [4, 16], ids=["exact", "sampled"])
def test_concordance_test_is_the_permutation_test_of_the_mean_over_seeds(num_speakers: int) -> None:
    rng = np.random.default_rng(num_speakers)
    seeds, speakers = np.repeat([0, 1, 2], 40), np.tile(np.arange(40) % num_speakers, 3).astype(str)
    truth = np.tile(rng.normal(3.0, 1.0, 40), 3)
    one, other = truth + rng.normal(0.0, 1.0, 120), truth + rng.normal(0.1, 1.3, 120)

    def mean_ccc(truth: np.ndarray, said: np.ndarray) -> float:
        return float(np.mean([concordance_correlation(truth[seeds == s], said[seeds == s]) for s in (0, 1, 2)]))

    expected = paired_permutation_test(mean_ccc, truth, one, other, speakers, num_permutations=200, seed=3)
    found = paired_concordance_test(truth, one, other, speakers, seeds, num_permutations=200, seed=3)
    assert found == expected
    assert paired_concordance_test(truth, one, one, speakers, seeds, num_permutations=200) == 1.0
    constant = np.full(120, 3.0)
    by_hand = paired_permutation_test(mean_ccc, truth, one, constant, speakers, num_permutations=200)
    assert paired_concordance_test(truth, one, constant, speakers, seeds, num_permutations=200) == by_hand


@pytest.mark.parametrize("seed", range(3))
def test_speakers_who_said_the_same_tie_in_ccc_too(seed: int) -> None:
    """Swapping one of such a pair is as swapping the other, but for the order in which sums are taken."""
    rng = np.random.default_rng(seed)
    truth, one, other = (np.tile(rng.normal(3, 1, 8), 2) for _ in range(3))
    speakers = np.repeat(list("abcd"), 4)
    expected = paired_permutation_test(concordance_correlation, truth, one, other, speakers)
    assert paired_concordance_test(truth, one, other, speakers, np.zeros(16)) == expected
    assert paired_concordance_test(truth, other, one, speakers, np.zeros(16)) == expected
    assert expected >= 2 / 2**4
