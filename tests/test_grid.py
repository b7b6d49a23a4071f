"""What is tried, and which of it dev chooses."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmser.train.grid import Trial, chosen_by_dev, described, run_name, trials_of
from mmser.train.options import Experiment


@dataclass
class Scored:
    dev_score: float


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([(0.5, 0.5), (0.9, 0.05)], 0),  # the mean over seeds, not the best of them
        ([(0.5, 0.5), (0.4, 0.7)], 1),
        ([(0.5, 0.5), (0.5, 0.5)], 0),  # of equals the first
        ([(-0.3, -0.2), (np.nan, np.nan)], 0),  # no score is worse than any: a CCC may be negative
        ([(0.9, np.nan), (0.1, 0.1)], 1),
    ],
)
def test_dev_chooses_the_highest_mean_over_seeds(scores: list[tuple[float, float]], chosen: int) -> None:
    cells = [(fold, trial) for fold in (0, 1) for trial in (0, 1) for _ in range(2)]
    of_fold_1 = [(0.0, 0.0), (0.0, 0.1)]  # each fold for itself
    trained = [Scored(score) for own in (scores, of_fold_1) for trial in own for score in trial]
    assert chosen_by_dev(cells, trained) == {0: chosen, 1: 1}


GRID = Experiment(layer="mix", learning_rate=(0.1, 0.01), weight_decay=(0.5, 0.0), try_layers=("9", "4"))


def test_of_equals_the_first_rate_wins_then_the_first_decay_then_the_first_layer_as_they_were_named() -> None:
    trials = trials_of(GRID, hears=True)
    assert len(trials) == 8
    ties = {
        lambda trial: True: Trial(0.1, 0.5, 0, "9"),
        lambda trial: trial != Trial(0.1, 0.5, 0, "9"): Trial(0.1, 0.5, 1, "4"),
        lambda trial: trial.learning_rate == 0.01 or trial.weight_decay == 0.0: Trial(0.1, 0.0, 0, "9"),
        lambda trial: trial.learning_rate == 0.01: Trial(0.01, 0.5, 0, "9"),
        lambda trial: trial.layer == 1 and trial.weight_decay == 0.0: Trial(0.1, 0.0, 1, "4"),
    }
    for is_best, first in ties.items():
        scored = [Scored(0.7 if is_best(trial) else 0.3) for trial in trials]
        chosen = chosen_by_dev([(0, number) for number in range(8)], scored)
        assert trials[chosen[0]] == first


def test_layers_are_tried_where_there_are_some_and_by_heads_that_hear_alone() -> None:
    assert trials_of(Experiment(layer="4"), hears=True) == [Trial(1e-3, 1e-2, None, "4")]
    assert trials_of(Experiment(layer="4"), hears=False) == [Trial(1e-3, 1e-2, None, None)]
    deaf = trials_of(GRID, hears=False)
    assert deaf == [Trial(rate, decay, None, None) for rate in (0.1, 0.01) for decay in (0.5, 0.0)]


def test_a_setting_is_named_where_there_are_several() -> None:
    assert run_name("probe", 3, 1, 0, 1) == "probe-fold3-seed1"
    assert run_name("probe", 3, 1, 0, 2) == "probe-fold3-seed1-trial0"


def test_what_varies_is_said_of_what_was_chosen_the_most_frequent_first() -> None:
    trials = trials_of(GRID, hears=True)
    assert described("probe", trials, {0: 7, 1: 0, 2: 0}) == (
        "probe: of 8 settings dev chose learning rate 0.1, weight decay 0.5, layer 9 (2 folds); "
        "learning rate 0.01, weight decay 0.0, layer 4 (1 fold)"
    )
