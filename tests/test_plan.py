"""What a run owns: its order, its keys, when it stops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmser.train.plan import Progress, Run, Training, class_weights_of, derive, dropout_keys, order_of, rates_of
from mmser.train.targets import Targets

RUN = Run("a", np.arange(10, 60), np.arange(60, 70), seed=5)


def test_numbers_derived_from_a_seed_never_change() -> None:
    """A change here would change every result ever published with a seed."""
    assert derive(0) == derive(np.int64(0)) == 2631537505891389924
    assert derive(1, "order", 2) == 1671847539343688486


LENGTHS = np.random.default_rng(0).integers(1, 100, 70)


def test_each_epoch_has_its_own_order_of_the_same_rows() -> None:
    def order(run: Run, epoch: int) -> np.ndarray:
        return order_of(run, epoch, LENGTHS, 8)

    orders = [order(RUN, 1), order(RUN, 2), order(replace(RUN, seed=6), 1)]
    for one in orders:
        assert sorted(one) == sorted(RUN.train_rows)
        assert sum(np.array_equal(one, other) for other in orders) == 1
    assert np.array_equal(orders[0], order(replace(RUN, name="b", layer=3, learning_rate=1.0), 1))


def test_batches_are_a_plain_shuffle_and_only_their_places_are_arranged() -> None:
    """Which utterances share a batch must not depend on their lengths: only when the batch comes does."""
    batches = [
        {frozenset(batch) for batch in np.split(order_of(RUN, 1, lengths, 8), range(8, 50, 8))}
        for lengths in (LENGTHS, np.ones(70, dtype=np.int64), LENGTHS[::-1])
    ]
    assert batches[0] == batches[1] == batches[2]
    assert len(batches[0]) == 7


def test_the_batches_of_one_step_are_alike_in_length_whatever_the_seed() -> None:
    lengths = np.exp(np.random.default_rng(0).normal(2.2, 0.75, 3200)).astype(np.int64) + 1
    runs = [Run("r", np.arange(first, 3200), np.arange(1), seed=first) for first in range(20)]
    longest = np.array([lengths[order_of(run, 1, lengths, 32)[:3168].reshape(99, 32)].max(1) for run in runs])
    assert longest.max(0).mean() < 1.15 * longest.mean()
    # and not from short to long: the first and the second half of an epoch are alike
    assert longest[:, :50].mean() == pytest.approx(longest[:, 50:].mean(), rel=0.15)


def test_each_batch_lies_from_short_to_long() -> None:
    for batch in np.split(order_of(RUN, 3, LENGTHS, 8), range(8, 50, 8)):
        assert (np.diff(LENGTHS[batch]) >= 0).all()


def test_fewer_rows_than_a_batch_are_just_shuffled() -> None:
    assert sorted(order_of(RUN, 1, LENGTHS, 64)) == sorted(RUN.train_rows)


def test_no_two_places_share_a_key() -> None:
    keys = [dropout_keys(replace(RUN, seed=seed), epoch, 50) for seed in range(4) for epoch in range(1, 20)]
    assert len(torch.cat(keys).unique()) == 4 * 19 * 50
    assert (torch.cat(keys) >= 0).all()


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.from_numpy(np.random.default_rng(0).choice(3, 70, p=[0.6, 0.3, 0.1]))
    labels[60:] = -1  # rows that are not the run's to train on
    found = class_weights_of(RUN, Targets.of_classes(labels, 4), Training(class_weights="balanced"))
    seen = labels[10:60].numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=seen) * 3 / 4
    np.testing.assert_allclose(found[:3].numpy(), expected, rtol=1e-6)
    assert found[3] == 0  # not there: nothing to weigh


def test_the_first_of_equal_epochs_is_best_and_patience_counts_from_it() -> None:
    course = Progress(RUN, Training(epochs=9, patience=2))
    kept = []
    for score in (0.3, 0.5, 0.5, 0.4):
        assert not course.done
        kept.append(course.record(1.0, score))
    assert kept == [True, True, False, False]
    assert course.done
    trained = course.finish({})
    assert (trained.best_epoch, trained.dev_score, trained.diverged) == (2, 0.5, False)
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3, 4]


def test_a_run_that_never_had_a_finite_loss_has_no_best_epoch() -> None:
    course = Progress(RUN, Training())
    assert not course.record(float("nan"), 0.9)
    trained = course.finish({})
    assert course.done
    assert (trained.best_epoch, trained.diverged) == (0, True)
    assert np.isnan(trained.dev_score)


def test_a_runs_rates_go_through_the_schedule_of_all_epochs_it_may_take() -> None:
    training = Training(epochs=4, patience=2, schedule="cosine", warmup=0.25)
    found = np.concatenate([rates_of(epoch, 3, training) for epoch in range(1, 5)])
    falling = [(1 + np.cos(np.pi * past / 9)) / 2 for past in range(9)]
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1, *falling])
