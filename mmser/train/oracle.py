"""What choosing the epoch on the test part would have given: a figure that leaks, for comparison with those that do.

Training stays as it is: the engine shows its heads after each epoch (:data:`mmser.train.engine.Watch`) and takes
nothing back. Here the test rows are asked about, and only here; what comes out goes into files of its own.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmser.errors import ProtocolError
from mmser.files import replacing
from mmser.train.engine import Ask
from mmser.train.evaluate import scores
from mmser.train.plan import Run
from mmser.train.targets import Targets


class Oracle:
    """Watches runs and remembers, of each, what its head said of the test rows in the epoch when it scored best.

    A run that never has a score (its answers are no numbers, or no class of its test rows is known) is not in it.
    """

    def __init__(self, targets: Targets, runs: Sequence[Run], test_rows: Sequence[NDArray[np.int64]]) -> None:
        self.targets, self.runs, self.test_rows = targets, runs, test_rows
        self.outputs: dict[int, Tensor] = {}
        """By the run's place: outputs (len(test_rows[place]), C + K)."""
        self._best: dict[int, float] = {}

    def watch(self, places: Sequence[int], ask: Ask) -> None:
        """Look at the heads of the runs that were trained in this epoch."""
        for place, said in zip(places, ask([self.test_rows[place] for place in places]), strict=True):
            score = self._score(place, said)
            if score > self._best.get(place, -math.inf):  # never where it is NaN
                self._best[place], self.outputs[place] = score, said.clone()

    def _score(self, place: int, said: Tensor) -> float:
        """As the dev part is scored; NaN for a head that gives no number."""
        rows = torch.from_numpy(self.test_rows[place])
        mean, deviation = self.targets.scale_of(torch.from_numpy(self.runs[place].train_rows))
        ratings = (self.targets.ratings[rows] - mean) / deviation
        return float(scores(said[None], self.targets.classes[rows][None], ratings[None])[0])


def save_outputs(folder: Path, run: Run, outputs: Tensor) -> None:
    """Keep what the head of ``run`` said, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{run.name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, outputs.numpy(), allow_pickle=False)


def load_outputs(folder: Path, run: Run, shape: tuple[int, int]) -> Tensor:
    """What :func:`save_outputs` kept.

    Args:
        folder: where it was kept.
        run: whose outputs they are.
        shape: test utterances, and outputs (C + K).

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    path, again = folder / f"{run.name}.npy", "delete the run folder and train again"
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ProtocolError(f"{path}: not readable ({error}); {again}") from error
    if found.dtype != np.float32 or found.shape != shape:
        raise ProtocolError(
            f"{path}: an array of {found.dtype} and shape {found.shape}; expected float32 and {shape}: {again}"
        )
    return torch.from_numpy(found)
