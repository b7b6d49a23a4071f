"""Ratings, classes and both: losses against plain equations, the stacked engine against the serial loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_engine import (
    CLASSES,
    DIM,
    NUM,
    TEXT_DIM,
    a_table,
    assert_identical,
    assert_same,
    neighbours,
    of_unequal_dev,
)
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.metrics import concordance_correlation
from mmser.train.engine import Trained, Training, outputs, train
from mmser.train.evaluate import concordances, scores
from mmser.train.losses import mean_losses, rating_losses, task_losses
from mmser.train.options import Experiment
from mmser.train.plan import Run, class_weights_of
from mmser.train.schedule import rate_factors
from mmser.train.serial import train_serially
from mmser.train.targets import Goal, Targets

RNG = np.random.default_rng(5)
VOTES = torch.from_numpy(RNG.dirichlet(np.ones(CLASSES), NUM)).float()
RATINGS = torch.from_numpy(RNG.normal([3.0, 4.0], [0.7, 2.0], (NUM, 2))).float()
RATINGS[RNG.random((NUM, 2)) < 0.3] = torch.nan
LABELS = torch.from_numpy(RNG.integers(0, CLASSES, NUM))
SOME = torch.where(RATINGS.isnan().all(1) | torch.from_numpy(RNG.random(NUM) < 0.7), LABELS, -1)
NO_SHARES, NO_RATINGS = torch.empty(NUM, 0), torch.empty(NUM, 0)
NOT_KNOWN = torch.full((NUM,), -1)
RATED = torch.where(RATINGS.isnan(), RATINGS.nanmean(0), RATINGS)

TARGETS = {
    "dimensions": Targets(NOT_KNOWN, NO_SHARES, torch.cat([RATED[:, :1], RATINGS[:, 1:]], 1)),
    "both": Targets(SOME, Targets.of_classes(SOME, CLASSES).shares, RATINGS),
    "soft labels": Targets(VOTES.argmax(1), VOTES, NO_RATINGS),
    "soft labels, some by votes alone": Targets(
        torch.where(torch.arange(NUM) % 4 > 0, VOTES.argmax(1), -1), VOTES, NO_RATINGS
    ),
}


def a_build(targets: Targets, width: int = 8):
    kind = HEADS["coattention"]
    options = kind.options(width=width, heads=2)
    return lambda: kind.build(Inputs(DIM, TEXT_DIM, ("word",)), targets.num_outputs, options)


TRAINING = Training(
    epochs=4,
    batch_size=8,
    label_smoothing=0.1,
    class_weights="balanced",
    schedule="cosine",
    warmup=0.25,
    categorical_weight=0.3,
)


@pytest.mark.parametrize("case", TARGETS)
def test_every_task_alone_among_others_and_serially(case: str) -> None:
    targets, runs = TARGETS[case], neighbours("co-attention")
    training = replace(TRAINING, dimension_weights=(3.0, 1.0) if targets.num_ratings else ())
    build = a_build(targets)
    (alone,) = train(a_table(), targets, build, [runs[1]], training)
    among = train(a_table(), targets, build, runs, training)
    assert_same(alone, train_serially(a_table(), targets, build, runs[1], training))
    for run, trained in zip(runs, among, strict=True):
        assert_same(trained, train_serially(a_table(), targets, build, run, training))


def test_ratings_of_dev_parts_of_unequal_size_are_scored_each_by_itself() -> None:
    targets, runs = TARGETS["dimensions"], of_unequal_dev("co-attention")
    build = a_build(targets)
    for run, trained in zip(runs, train(a_table(), targets, build, runs, TRAINING), strict=True):
        assert_same(trained, train_serially(a_table(), targets, build, run, TRAINING))


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_other_schedules_too(schedule: str) -> None:
    targets, runs = TARGETS["both"], neighbours("co-attention")
    training = replace(TRAINING, schedule=schedule, warmup=0.0)
    among = train(a_table(), targets, a_build(targets), runs, training)
    assert_same(among[2], train_serially(a_table(), targets, a_build(targets), runs[2], training))
    other = train(a_table(), targets, a_build(targets), runs, replace(training, schedule="cosine"))
    assert not torch.equal(among[1].state["classify.weight"], other[1].state["classify.weight"])


def run_scores(trained: Trained, targets: Targets, build) -> list[float]:
    """UA and CCC by the library's plain metrics, of what the head of the best epoch says on its dev rows."""
    (said,) = outputs(a_table(), build, [trained], [trained.run.dev_rows])
    rows, found = torch.from_numpy(trained.run.dev_rows), []
    classes = targets.classes[rows].numpy()
    if targets.num_classes:
        answer = said[:, : targets.num_classes].argmax(1).numpy()
        found.append(np.mean([(answer[classes == c] == c).mean() for c in np.unique(classes[classes >= 0])]))
    mean, deviation = targets.scale_of(torch.from_numpy(trained.run.train_rows))
    rated = (said[:, targets.num_classes :] * deviation + mean).numpy()
    truth = targets.ratings[rows].numpy()
    cccs = [concordance_correlation(t[~np.isnan(t)], p[~np.isnan(t)]) for t, p in zip(truth.T, rated.T, strict=True)]
    return [*found, *([float(np.mean(cccs))] if cccs else [])]


@pytest.mark.parametrize("case", TARGETS)
def test_the_dev_score_is_that_of_the_plain_metrics(case: str) -> None:
    """On the corpus's own scale: standardised ratings have the same CCC."""
    targets = TARGETS[case]
    for trained in train(a_table(), targets, a_build(targets), neighbours("co-attention"), TRAINING):
        assert trained.dev_score == pytest.approx(np.mean(run_scores(trained, targets, a_build(targets))), abs=1e-5)


def test_what_is_not_known_changes_nothing() -> None:
    """Rows of another task's target, and the value behind a NaN, which there is none of."""
    targets, runs = TARGETS["both"], neighbours("co-attention")[1:2]
    (clean,) = train(a_table(), targets, a_build(targets), runs, TRAINING)
    used = np.concatenate([runs[0].train_rows, runs[0].dev_rows])
    hidden = np.setdiff1d(np.arange(NUM), used)
    classes, ratings = targets.classes.clone(), targets.ratings.clone()
    classes[hidden], ratings[hidden] = 2, 1e9
    other = Targets(classes, Targets.of_classes(classes, CLASSES).shares, ratings)
    (again,) = train(a_table(), other, a_build(targets), runs, TRAINING)
    assert_identical(clean, again)


def test_ratings_are_learnt() -> None:
    """10 times the mean of the first feature, plus 500: a scale that is not the head's own."""
    table = a_table()
    word = table.speech["word"]
    means = [word.values[1, word.offsets[row] : word.offsets[row + 1], 0].float().mean() for row in range(NUM)]
    ratings = torch.stack(means)[:, None]
    targets = Targets(NOT_KNOWN, NO_SHARES, ratings * 10 + 500)
    kind = HEADS["speech-probe"]
    rows = np.flatnonzero(~ratings[:, 0].isnan().numpy())
    run = Run("a", rows[:40], rows[40:55], 0, 1, learning_rate=0.05)
    training = Training(epochs=60, patience=30, batch_size=16)
    build = lambda: kind.build(Inputs(DIM, 0, ("word",)), 1, kind.options(hidden=0))  # noqa: E731
    (trained,) = train(table.only(["word"], text=False), targets, build, [run], training)
    (said,) = outputs(table.only(["word"], text=False), build, [trained], [rows[55:]])
    mean, deviation = targets.scale_of(torch.from_numpy(run.train_rows))
    answer = (said * deviation + mean).numpy()
    assert concordance_correlation(targets.ratings[rows[55:], 0].numpy(), answer[:, 0]) > 0.9
    assert 490 < answer.mean() < 540


def test_ratings_need_two_utterances_a_step() -> None:
    for task in ("dimensional", "both"):
        with pytest.raises(ProtocolError, match="batch_size is 1; expected 2 or more for ratings"):
            Experiment(task=task, training=Training(batch_size=1))
    Experiment(training=Training(batch_size=1))


# losses


def test_rating_losses_are_one_minus_the_ccc_of_what_is_known() -> None:
    said, truth = RNG.normal(size=(3, 9, 2)), RNG.normal(size=(3, 9, 2))
    truth[0, :4, 1] = np.nan
    found = rating_losses(torch.from_numpy(said), torch.from_numpy(truth), (3.0, 1.0))
    for run in range(3):
        known = [~np.isnan(truth[run, :, k]) for k in range(2)]
        cccs = [concordance_correlation(truth[run, m, k], said[run, m, k]) for k, m in enumerate(known)]
        assert found[run].item() == pytest.approx(3 / 4 * (1 - cccs[0]) + 1 / 4 * (1 - cccs[1]))


@pytest.mark.parametrize("num_known", [0, 1])
def test_a_dimension_that_a_batch_does_not_know_adds_nothing(num_known: int) -> None:
    said = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)
    truth = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(2))
    truth[:, num_known:, 0] = torch.nan
    loss = rating_losses(said, truth)
    (gradient,) = torch.autograd.grad(loss.sum(), said)
    assert gradient.isfinite().all()
    assert not gradient[..., 0].any()
    assert gradient[..., 1].any()
    second = concordance_correlation(truth[0, :, 1].numpy(), said[0, :, 1].detach().numpy())
    assert loss.item() == pytest.approx((0 + 1 - second) / 2, abs=1e-6)


@pytest.mark.parametrize(("said", "expected"), [([2.0, 2.0, 2.0], 0.0), ([3.0, 3.0, 3.0], 1.0), ([1.0, 2.0, 3.0], 1.0)])
def test_a_batch_rated_all_alike_poisons_no_gradient(said: list[float], expected: float) -> None:
    answer = torch.tensor(said).reshape(1, 3, 1).requires_grad_()
    loss = rating_losses(answer, torch.full((1, 3, 1), 2.0))
    (gradient,) = torch.autograd.grad(loss.sum(), answer)
    assert gradient.isfinite().all()
    assert loss.item() == pytest.approx(expected)


def test_soft_losses_are_torchs_and_shares_of_one_are_labels() -> None:
    logits = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    votes, weights = VOTES[None, :6], torch.tensor([[0.5, 1.0, 2.0]])
    expected = F.cross_entropy(logits[0], votes[0], label_smoothing=0.2)
    torch.testing.assert_close(mean_losses(logits, votes, torch.ones(1, 3), 0.2)[0], expected)
    one_hot = F.one_hot(LABELS[None, :6], 3).float()
    expected = F.cross_entropy(logits[0], LABELS[:6], weight=weights[0])
    torch.testing.assert_close(mean_losses(logits, one_hot, weights, 0.0)[0], expected)


def test_a_batch_without_a_class_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    shares = torch.zeros(2, 4, 3)
    shares[1, 2, 0] = 1
    losses = mean_losses(logits, shares, torch.ones(2, 3), 0.1)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses[0] == 0
    assert not gradient[0].any()
    assert gradient[1, 2].any()
    assert not gradient[1, [0, 1, 3]].any()


def test_both_tasks_are_weighed() -> None:
    said = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(3))
    goal = Goal(F.one_hot(LABELS[:16].reshape(2, 8), 3).float(), torch.randn(2, 8, 2))
    weights = torch.ones(2, 3)
    found = task_losses(said, goal, weights, Training(categorical_weight=0.3))
    parts = mean_losses(said[..., :3], goal.shares, weights, 0.0), rating_losses(said[..., 3:], goal.ratings)
    torch.testing.assert_close(found, 0.3 * parts[0] + 0.7 * parts[1])


def test_scores_of_many_runs_are_the_plain_metrics() -> None:
    truth, said = RNG.normal(size=(4, 30, 2)), RNG.normal(size=(4, 30, 2))
    truth[1, 5:20, 0], said[2, :, 1] = np.nan, 0.25
    truth[3, :, 0] = said[3, :, 0] = 7.5
    found = concordances(torch.from_numpy(truth), torch.from_numpy(said))
    for run in range(4):
        for k in range(2):
            known = ~np.isnan(truth[run, :, k])
            expected = concordance_correlation(truth[run, known, k], said[run, known, k])
            assert found[run, k].item() == pytest.approx(expected, abs=1e-12)
    classes = torch.from_numpy(RNG.integers(-1, 3, (4, 30)))
    logits = torch.randn(4, 30, 3)
    both = scores(torch.cat([logits, torch.from_numpy(said).float()], -1), classes, torch.from_numpy(truth))
    of_classes = scores(logits, classes, torch.empty(4, 30, 0))
    torch.testing.assert_close(both, (of_classes + found.mean(-1)) / 2, atol=1e-6, rtol=0)
    said[0, 3, 0] = np.nan
    assert concordances(torch.from_numpy(truth), torch.from_numpy(said))[0, 0].isnan()


def test_balanced_weights_count_shares() -> None:
    run = Run("a", np.arange(40), np.arange(40, 50), 0)
    found = class_weights_of(run, TARGETS["soft labels"], Training(class_weights="balanced"))
    np.testing.assert_allclose(found, 40 / (3 * VOTES[:40].sum(0)), rtol=1e-5)


# schedules


def test_schedules_are_torchs() -> None:
    def by_torch(schedule) -> list[float]:
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        made, rates = schedule(optimizer), []
        for _ in range(12):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.step()
        return rates

    linear = by_torch(lambda one: LinearLR(one, start_factor=1.0, end_factor=0.0, total_iters=12))
    cosine = by_torch(lambda one: CosineAnnealingLR(one, T_max=12))
    np.testing.assert_allclose(rate_factors("linear", 0.0, 0, 12, 12), linear, atol=1e-12)
    np.testing.assert_allclose(rate_factors("cosine", 0.0, 0, 12, 12), cosine, atol=1e-12)
    assert rate_factors("constant", 0.0, 3, 5, 12).tolist() == [1.0] * 5
    assert rate_factors("constant", 0.5, 0, 12, 12).tolist() == [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1.0] * 7
    pieces = [rate_factors("cosine", 0.25, first, 4, 12) for first in (0, 4, 8)]
    np.testing.assert_array_equal(np.concatenate(pieces), rate_factors("cosine", 0.25, 0, 12, 12))


def test_a_warm_up_takes_whole_steps_alone() -> None:
    """0.3 of 11 steps are 3.3: three rise by thirds, and what falls begins at the fourth, over the other eight."""
    assert rate_factors("linear", 0.3, 0, 11, 11).tolist() == [1 / 3, 2 / 3, 1, *(1 - step / 8 for step in range(8))]
    assert rate_factors("linear", 0.19, 0, 5, 5).tolist() == [1 - step / 5 for step in range(5)]  # 0.95 of one: none
    # one step, which rises to all of it; then there is no way down but the last
    assert rate_factors("cosine", 0.5, 0, 3, 2).tolist() == [1.0, 1.0, 0.0]


# what is refused


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (Targets(NOT_KNOWN, torch.zeros(NUM, CLASSES), RATED), "no train utterance has a class"),
        (
            Targets(NOT_KNOWN, NO_SHARES, torch.cat([RATED[:, :1], torch.full((NUM, 1), torch.nan)], 1)),
            "dimension 2 of 2 is rated for 0 train utterances; a CCC takes at least 2",
        ),
        (Targets.of_classes(LABELS, 7), "the head has 5 outputs; expected 7: 7 classes and 0 ratings"),
    ],
)
def test_targets_that_teach_nothing(targets: Targets, message: str) -> None:
    build = a_build(targets if targets.num_classes < 7 else TARGETS["both"])
    with pytest.raises(ProtocolError, match=message):
        train(a_table(), targets, build, neighbours("co-attention")[:1], TRAINING)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Targets.of_classes(torch.tensor([0, 3]), 3), "row 1 has label 3; expected 0 to 2, or -1 where"),
        (lambda: Targets(NOT_KNOWN, -VOTES, NO_RATINGS), "a row's share of a class is below 0"),
        (lambda: Targets(NOT_KNOWN, VOTES[:5], NO_RATINGS), r"expected \(n,\), \(n, C\) and \(n, K\)"),
        (lambda: Training(schedule="step"), "schedule is 'step'; expected one of: constant, linear, cosine"),
        (lambda: Training(warmup=1.0), "warmup is 1; expected at least 0 and less than 1"),
        (lambda: Training(categorical_weight=1.0), "categorical_weight is 1; expected more than 0 and less than 1"),
        (lambda: Training(dimension_weights=(0.0, 0.0)), "weights are all 0"),
    ],
)
def test_options_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        make()


def test_a_runs_scale_is_of_the_ratings_that_its_rows_have() -> None:
    ratings = torch.tensor([[1.0, np.nan], [4.0, 2.0], [np.nan, 2.0], [2.0, np.nan], [99.0, 99.0]])
    targets = Targets(torch.full((5,), -1), torch.zeros(5, 0), ratings)
    mean, deviation = targets.scale_of(torch.arange(4))
    torch.testing.assert_close(mean, torch.from_numpy(np.nanmean(ratings[:4].numpy(), 0)))
    torch.testing.assert_close(deviation, torch.tensor([np.std([1.0, 4.0, 2.0]), 1.0], dtype=torch.float32))
