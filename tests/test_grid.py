"""What is tried, and which of it dev chooses."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmser.train.grid import chosen_by_dev


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
