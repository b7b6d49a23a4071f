"""Runs one by one, for what does not stack: heads with batch norms.

Running statistics of a batch norm are moved in ``forward``, which ``torch.func`` does not take; and what trains a CNN
fills a processor by itself. Each run is one plain loop (:mod:`mmser.train.serial`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mmser.train.options import Training
from mmser.train.plan import Epoch, Run, Trained, check_run
from mmser.train.serial import answers, check_states, train_serially
from mmser.train.stack import initial_head
from mmser.train.table import Table
from mmser.train.targets import Targets

Report = Callable[[int, int], None]
"""Called after every epoch with the epochs finished and the epochs to do, over all runs; a run that stops early
finishes all of its own."""

Ask = Callable[[Sequence[NDArray[np.int64]]], list[Tensor]]
"""From rows, one array for each run that was trained in this epoch, to what its head says of them now."""

Watch = Callable[[Sequence[int], Ask], None]
"""Called after every epoch with the places of the runs that were trained in it, and a way to ask their heads. It is
told nothing else and nothing comes back from it, so whatever it looks at, training goes on as without it."""

Log = Callable[[int, Epoch], None]
"""Called after every epoch with the place of each run that was trained in it, and that line of its history."""


def train_apart(
    table: Table,
    targets: Targets,
    build: Callable[[], nn.Module],
    runs: Sequence[Run],
    training: Training,
    progress: Report | None = None,
    finished: Callable[[int, Trained], None] | None = None,
    watch: Watch | None = None,
    log: Log | None = None,
) -> list[Trained]:
    """Train the runs one after the other; arguments and results as in :func:`mmser.train.engine.train`."""
    template = initial_head(build, 0)
    for run in runs:  # before the first has trained for an hour
        check_run(run, targets, int(template.num_outputs))  # type: ignore[arg-type]
        if training.normalise == "global":
            check_states(template, table, run)
    results: list[Trained] = []
    total = len(runs) * training.epochs
    for number, run in enumerate(runs):

        def after(epoch: Epoch, head: nn.Module, number: int = number, run: Run = run) -> None:
            def ask(rows: Sequence[NDArray[np.int64]]) -> list[Tensor]:
                return [answers(head, table, own, run.layer, training.batch_size) for own in rows]

            if watch is not None:
                watch([number], ask)
            if log is not None:
                log(number, epoch)
            if progress is not None and epoch.epoch < training.epochs:
                progress(number * training.epochs + epoch.epoch, total)

        results.append(train_serially(table, targets, build, run, training, after))
        if finished is not None:
            finished(number, results[-1])
        if progress is not None:
            progress((number + 1) * training.epochs, total)
    return results
