"""What a run owns: its order, its keys, when it stops; and how many runs are held at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.memory import max_stacked
from mmser.train.plan import Progress, Run, Training, class_weights_of, derive, dropout_keys, order_of
from mmser.train.table import Packed, Table

RUN = Run("a", np.arange(10, 60), np.arange(60, 70), seed=5)


def test_numbers_derived_from_a_seed_never_change() -> None:
    """A change here would change every result ever published with a seed."""
    assert derive(0) == derive(np.int64(0)) == 2631537505891389924
    assert derive(1, "order", 2) == 1671847539343688486


def test_each_epoch_has_its_own_order_of_the_same_rows() -> None:
    orders = [order_of(RUN, epoch) for epoch in (1, 2)] + [order_of(replace(RUN, seed=6), 1)]
    for order in orders:
        assert sorted(order) == sorted(RUN.train_rows)
        assert sum(np.array_equal(order, other) for other in orders) == 1
    assert np.array_equal(orders[0], order_of(replace(RUN, name="b", layer=3, learning_rate=1.0), 1))


def test_no_two_steps_share_a_key() -> None:
    keys = [dropout_keys(replace(RUN, seed=seed), epoch, 50) for seed in range(4) for epoch in range(1, 20)]
    assert len(torch.cat(keys).unique()) == 4 * 19 * 50
    assert (torch.cat(keys) >= 0).all()


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.from_numpy(np.random.default_rng(0).choice(3, 70, p=[0.6, 0.3, 0.1]))
    labels[60:] = -1  # rows that are not the run's to train on
    found = class_weights_of(RUN, labels, 4, Training(class_weights="balanced"))
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


@pytest.mark.parametrize("width", [16, 64])
def test_memory_for_a_run_covers_parameters_and_activations(width: int) -> None:
    """What a run is known to need: six times its parameters, and what it gathers for one batch."""
    lengths = torch.full((70,), 9)
    stream = Packed(torch.zeros(1, 630, 8), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))
    table = Table(tuple(map(str, range(70))), {"word": stream}, stream)
    kind = HEADS["coattention"]
    head = kind.build(Inputs(8, 8, ("word",)), 3, kind.options(width=width))
    fits = max_stacked(table, head, [RUN], Training(memory_gb=1.0))
    parameters = sum(parameter.numel() for parameter in head.parameters())
    activations = 32 * 9 * width * 2 * 4  # one tensor after each feed-forward's expansion, of each stream
    assert fits * 4 * (6 * parameters + activations + 2 * 32 * 9 * 8) < 1e9
    assert max_stacked(table, head, [RUN], Training(memory_gb=2.0)) in (2 * fits, 2 * fits + 1)
