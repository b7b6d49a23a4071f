"""Several learning rates, weight decays or layers: all train as runs of one stack, and each fold's dev part chooses."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from mmser.train.options import Experiment
from mmser.train.plan import Trained


@dataclass(frozen=True)
class Trial:
    """One cell of the grid."""

    learning_rate: float
    weight_decay: float
    layer: int | None
    """As an index into the table's layers; None where there is one, or a learned mix."""
    layer_name: str | None
    """As the user knows it; None for a head that hears no speech."""


def trials_of(experiment: Experiment, *, hears: bool) -> list[Trial]:
    """The grid of a head, in the order in which ties are settled: the first of equals is chosen."""
    layers: list[tuple[int | None, str | None]] = [(None, experiment.layer if hears else None)]
    if hears and experiment.try_layers:
        layers = list(enumerate(experiment.try_layers))
    cells = product(experiment.learning_rates, experiment.weight_decays, layers)
    return [Trial(rate, decay, *layer) for rate, decay, layer in cells]


def run_name(head: str, fold: int, seed: int, trial: int, num_trials: int) -> str:
    """What the run of a fold, seed and setting is called, all by number: a fold's own name comes from the user's table.

    >>> run_name("coattention", 0, 2, 1, 6)
    'coattention-fold0-seed2-trial1'
    """
    return f"{head}-fold{fold}-seed{seed}" + (f"-trial{trial}" if num_trials > 1 else "")


class Scored(Protocol):
    """A run that was trained."""

    @property
    def dev_score(self) -> float:
        """Of its best epoch; NaN if there is none."""
        ...


def chosen_by_dev(cells: Sequence[tuple[int, int]], trained: Sequence[Scored]) -> dict[int, int]:
    """The trial of each fold: that with the highest dev score, mean over the fold's seeds.

    A run without a dev score (its loss was never finite) counts as worse than any.

    Args:
        cells: fold number and trial number of each run.
        trained: the runs.
    """
    found: dict[int, dict[int, list[float]]] = {}
    for (fold, trial), one in zip(cells, trained, strict=True):
        score = one.dev_score if np.isfinite(one.dev_score) else -np.inf
        found.setdefault(fold, {}).setdefault(trial, []).append(score)
    return {
        fold: max(sorted(by_trial), key=lambda trial: float(np.mean(by_trial[trial])))
        for fold, by_trial in found.items()
    }


def described(name: str, trials: Sequence[Trial], chosen: dict[int, int]) -> str:
    """One sentence for the user: what was chosen, in how many folds.

    >>> described("probe", [Trial(0.1, 0.0, None, "mix"), Trial(0.01, 0.0, None, "mix")], {0: 1, 1: 1, 2: 0})
    'probe: of 2 settings dev chose learning rate 0.01 (2 folds); learning rate 0.1 (1 fold)'
    """
    varied = [
        (field, words)
        for field, words in (
            ("learning_rate", "learning rate"),
            ("weight_decay", "weight decay"),
            ("layer_name", "layer"),
        )
        if len({getattr(trial, field) for trial in trials}) > 1
    ]
    phrases = []
    for number, count in Counter(chosen.values()).most_common():
        what = ", ".join(f"{words} {getattr(trials[number], field)}" for field, words in varied)
        phrases.append(f"{what} ({count} fold{'s' if count > 1 else ''})")
    return f"{name}: of {len(trials)} settings dev chose {'; '.join(phrases)}"


def dev_scores_of(
    name: str, folds: Sequence[str], trials: Sequence[Trial], trained: Sequence[Trained], tested: Sequence[int]
) -> list[dict[str, Any]]:
    """A line for each run of a grid, all lists a place a run; only the runs at the places ``tested`` were tested."""
    return [
        {
            "head": name,
            "fold": fold,
            "seed": one.run.seed,
            "learning_rate": trial.learning_rate,
            "weight_decay": trial.weight_decay,
            "layer": trial.layer_name,
            "best_epoch": one.best_epoch,
            "dev_score": one.dev_score,
            "tested": place in tested,
        }
        for place, (fold, trial, one) in enumerate(zip(folds, trials, trained, strict=True))
    ]
