"""A head of an experiment on its way: ready to train, then tested."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmser.train.evaluate import outputs
from mmser.train.grid import Trial
from mmser.train.memory import max_asked
from mmser.train.plan import Run, Trained, Training
from mmser.train.protocol import Fold
from mmser.train.results import Outcome
from mmser.train.stack import initial_head
from mmser.train.table import Table
from mmser.train.targets import Targets


@dataclass(frozen=True, eq=False)
class Part:
    """A head of the experiment, ready to train on its folds, seeds and settings."""

    name: str
    table: Table
    """The streams that it reads."""
    targets: Targets
    build: Callable[[], nn.Module]
    about: dict[str, Any]
    """What a user of the saved head must know."""
    folds: list[Fold]
    trials: list[Trial]
    cells: list[tuple[int, int]]
    """Fold and trial of each run, by number."""
    runs: list[Run]
    digests: list[str]
    """Of each run, of all that its weights follow from (:func:`mmser.train.assemble.digests_of`)."""

    def ask(self, trained: Sequence[Trained], rows: Sequence[NDArray[np.int64]], training: Training) -> list[Tensor]:
        """What heads say of rows of their own, (len(rows[i]), C + K) each; as many at once as memory may hold."""
        layers = [one.run.layer for one in trained]
        most = max_asked(self.table, initial_head(self.build, 0), rows, layers, training)
        return outputs(self.table, self.build, trained, rows, batch_size=training.batch_size, max_stacked=most)

    def answers(self, trained: Trained, said: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What a head's outputs (n, C + K) mean: posteriors (n, C), and ratings (n, K) on the corpus's own scale."""
        num_classes = self.targets.num_classes
        mean, deviation = self.targets.scale_of(torch.from_numpy(trained.run.train_rows))
        return said[:, :num_classes].softmax(-1).numpy(), (said[:, num_classes:] * deviation + mean).numpy()


@dataclass(frozen=True, eq=False)
class Tested:
    """A part after its test; all lists a place a run that dev chose, fold by fold, seed by seed."""

    part: Part
    folds: list[int]
    """By number."""
    trained: list[Trained]
    outcomes: list[Outcome]
    oracle: list[Outcome]
    """What the epochs that the test part would have chosen say of it; empty unless it was asked for."""
    note: str | None
    """Which settings dev chose; None where there was no choice."""
    dev_scores: list[dict[str, Any]]
    """A line a run of the grid; empty where there was no choice."""

    @property
    def digests(self) -> list[str]:
        """Of each run, of all that its weights follow from."""
        by_name = {run.name: own for run, own in zip(self.part.runs, self.part.digests, strict=True)}
        return [by_name[trained.run.name] for trained in self.trained]
