"""Many runs as one: folds, seeds, layers and learning rates of one head train together.

A small head on a batch of 32 leaves a processor mostly idle, whatever its speed. So the parameters of all runs are
stacked, one forward and one backward pass serve them all, and each keeps to itself everything that makes it a run: its
rows, their order, its dropout, learning rate, early stopping and best weights. Alone or among others, a run comes to
the same result (up to the rounding of products of another size); :mod:`mmser.train.serial` is the loop to compare with.

The engine is told of training and dev rows and reads no others; a row that no run learns from or is chosen by comes
without its targets (:mod:`mmser.train.once`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmser.errors import ProtocolError
from mmser.heads.batch import Batch
from mmser.train.abreast import abreast
from mmser.train.apart import Ask, Log, Report, Watch, train_apart
from mmser.train.evaluate import (
    DEV_BATCHES,
    by_length,
    outputs,
    outputs_of,
    posteriors,
    scores,
    stacked_layers,
    stacked_outputs,
)
from mmser.train.losses import metric_losses, task_losses
from mmser.train.memory import max_stacked
from mmser.train.optim import stacked_optimizer
from mmser.train.plan import (
    Epoch,
    Progress,
    Run,
    Trained,
    Training,
    check_run,
    class_weights_of,
    dropout_keys,
    order_of,
    rates_of,
)
from mmser.train.sharing import Block, batches_of, blocks_of, in_order, most_together, pieces_of, questions_of
from mmser.train.stack import Stack, fill_standardise, flat, initial_head, pad_rows, part_of, stacks
from mmser.train.table import Table
from mmser.train.targets import Goal, Targets

__all__ = [
    "Ask",
    "Epoch",
    "Log",
    "Report",
    "Run",
    "Targets",
    "Trained",
    "Training",
    "Watch",
    "outputs",
    "posteriors",
    "train",
]


def train(
    table: Table,
    targets: Targets,
    build: Callable[[], nn.Module],
    runs: Sequence[Run],
    training: Training,
    *,
    progress: Report | None = None,
    finished: Callable[[int, Trained], None] | None = None,
    watch: Watch | None = None,
    log: Log | None = None,
) -> list[Trained]:
    """Train one head for each run.

    Args:
        table: features; only the rows named in ``runs`` are read.
        targets: classes and ratings of the rows; rows that are in no run may hold anything.
        build: makes an untrained head (:mod:`mmser.heads`) from torch's random state; every run's has one shape.
        runs: what to train; all with a layer, or all without.
        training: how.
        progress: told how far it is.
        finished: given each run's place in ``runs`` and its result as soon as it is done, so that it can be kept.
        watch: shown the heads after every epoch (:mod:`mmser.train.oracle`).
        log: told what every epoch of every run came to, as it ends (:mod:`mmser.train.tensorboard`).

    Returns:
        The results, in the order of ``runs``.

    Raises:
        ProtocolError: a run without rows, with a row in train and dev, or with targets that it could not learn or be
            chosen by; runs with and without a layer.
    """
    if not runs:
        return []
    head = initial_head(build, runs[0].seed)
    if not stacks(head):
        return train_apart(table, targets, build, runs, training, progress, finished, watch, log)
    for run in runs:
        check_run(run, targets, int(head.num_outputs))  # type: ignore[arg-type]
    if len({run.layer is None for run in runs}) == 2:
        raise ProtocolError("some runs name a speech layer and some do not: train them apart")
    order = in_order(runs)
    keys = batches_of([runs[number] for number in order])
    together, most = most_together(table, head, training.batch_size), max_stacked(table, head, runs, training)
    pieces = [_sorted(runs, order[piece]) for piece in pieces_of(keys, together, most)]
    left = [len(piece) * training.epochs for piece in pieces]
    results: dict[int, Trained] = {}

    def work(piece: int) -> Iterator[_News]:
        group = _Group(table, targets, build, [runs[number] for number in pieces[piece]], training)
        return group.news(piece, pieces[piece], watch)

    told = abreast(work, range(len(pieces)), table.device, most, one_memory=watch is not None)
    with closing(told):  # whatever ends this loop ends the processes
        for news in told:
            for number, epoch in news.epochs.items():
                if log is not None:
                    log(number, epoch)
            for number, trained in news.ended():
                results[number] = trained
                if finished is not None:
                    finished(number, trained)
            # After the results are kept: whoever is told may stop everything.
            left[news.piece] = news.left
            if progress is not None:
                progress(len(order) * training.epochs - sum(left), len(order) * training.epochs)
    return [results[number] for number in range(len(runs))]


def _sorted(runs: Sequence[Run], piece: Sequence[int]) -> list[int]:
    """The numbers of a piece's runs as they are stacked: where a group was cut, what is left of it is a smaller one."""
    return [piece[place] for place in in_order([runs[number] for number in piece])]


class _News(NamedTuple):
    """What one epoch of a piece came to, without tensors: it may travel between processes."""

    piece: int
    left: int
    """Epochs that its runs may still train."""
    epochs: dict[int, Epoch]
    """The epoch of each run that was trained in it, by its number among all runs."""
    results: dict[int, tuple[Trained, dict[str, NDArray[np.generic]]]]
    """Of each run that stopped: its result without the state, and the state."""

    def ended(self) -> Iterator[tuple[int, Trained]]:
        """Numbers and results of the runs that stopped."""
        for number, (trained, state) in self.results.items():
            yield number, replace(trained, state={name: torch.from_numpy(value) for name, value in state.items()})


class _Group:
    """Runs that train together, epoch by epoch, in the order of :func:`mmser.train.sharing.in_order`."""

    def __init__(
        self,
        table: Table,
        targets: Targets,
        build: Callable[[], nn.Module],
        runs: list[Run],
        training: Training,
    ) -> None:
        self.table, self.targets, self.training = table, targets, training
        self.stack = Stack((initial_head(build, run.seed) for run in runs), table.device)
        if training.normalise == "global":
            fill_standardise(self.stack, table, runs)
        self.places = list(range(len(runs)))
        self.courses = [Progress(run, training) for run in runs]
        self.best = self.stack.weights.clone()
        self.optimizer = stacked_optimizer(self.stack.weights, self.stack.sizes, runs, training)
        self.flat = flat(self.stack.template, table)
        self.part = part_of(self.stack.template, table, training.batch_size)
        self._prepare()

    def _prepare(self) -> None:
        """Lay out what stays the same from epoch to epoch for the runs at work."""
        runs, device = [course.run for course in self.courses], self.table.device
        self.layer = stacked_layers([run.layer for run in runs])
        self.blocks = blocks_of(batches_of(runs), len(runs))
        questions = questions_of([run.dev_rows for run in runs], [run.layer for run in runs])
        self.dev_blocks = blocks_of(questions, len(runs))
        weights = [class_weights_of(run, self.targets, self.training) for run in runs]
        self.class_weights = torch.stack(weights).to(device)
        scales = [self.targets.scale_of(torch.from_numpy(run.train_rows)) for run in runs]
        self.mean, self.deviation = (torch.stack(part) for part in zip(*scales, strict=True))
        sorted_dev = [run.dev_rows[by_length(self.table, run.dev_rows)] for run in runs]
        self.dev_rows, valid = pad_rows(sorted_dev)
        goal = self.targets.goal(self.dev_rows, valid, self.mean, self.deviation)
        self.dev_classes = torch.where(valid, self.targets.classes[self.dev_rows], -1).to(device)
        self.dev_ratings = goal.ratings.to(device)

    def news(self, piece: int, numbers: Sequence[int], watch: Watch | None) -> Iterator[_News]:
        """Train until every run has stopped, and tell of each epoch; ``numbers`` are the runs' among all."""
        while self.courses:
            self._epoch()
            if watch is not None:
                watch([numbers[place] for place in self.places], self._ask)
            at_work = zip(self.places, self.courses, strict=True)
            epochs = {numbers[place]: course.history[-1] for place, course in at_work}
            ended = {numbers[place]: trained for place, trained in self._retire().items()}
            states = {number: {name: t.numpy() for name, t in one.state.items()} for number, one in ended.items()}
            results = {number: (replace(one, state={}), states[number]) for number, one in ended.items()}
            yield _News(piece, sum(self.training.epochs - len(c.history) for c in self.courses), epochs, results)

    def _epoch(self) -> None:
        """Train every run for one epoch, score it, and keep the weights of those that got better."""
        losses = torch.cat([self._train_epoch(block) for block in self.blocks])
        size = self.training.batch_size * (DEV_BATCHES if self.flat else 1)
        said = stacked_outputs(self.stack, self.table, self.dev_rows, self.layer, size, self.dev_blocks)
        found = scores(said, self.dev_classes, self.dev_ratings)
        better = [
            place
            for place, (course, loss, score) in enumerate(
                zip(self.courses, losses.tolist(), found.tolist(), strict=True)
            )
            if course.record(loss, score)
        ]
        self.best[better] = self.stack.weights[better]

    def _ask(self, rows: Sequence[NDArray[np.int64]]) -> list[Tensor]:
        layers = [course.run.layer for course in self.courses]
        return outputs_of(self.stack, self.table, rows, layers, self.training.batch_size)

    def _train_epoch(self, block: Block) -> Tensor:
        """One pass of a block's runs over their training rows; mean losses (R',).

        Blocks train one after the other, each for the epoch: what a block holds stays in the processor's cache.
        """
        size, device, members = self.training.batch_size, self.table.device, block.members
        leaders = [course.run for course in self.courses[block.leaders]]
        number = len(self.courses[0].history) + 1  # all runs of a group are in the same epoch
        rows, valid = pad_rows([order_of(run, number, self.table.read_lengths, size) for run in leaders], size)
        counts = valid.unflatten(1, (-1, size)).sum(-1)
        steps = (counts > 0).sum(1)
        assert bool((steps.diff() <= 0).all()), "the runs that have steps left are not the first of their block"
        at_work, widest = (counts > 0).sum(0).tolist(), counts.amax(0).tolist()
        keys = torch.stack([dropout_keys(run, number, rows.shape[1]) for run in leaders])
        # A step is one of the run's own: one with fewer batches is further in its schedule.
        rates = [rates_of(number, int(own), self.training) for own in steps]
        factors = pad_sequence(rates, batch_first=True).repeat_interleave(members, 0)
        goal = self.targets.goal(rows, valid, self.mean[block.leaders], self.deviation[block.leaders])
        goal = Goal(*(part.to(device).repeat_interleave(members, 0) for part in goal))
        counts, keys = counts.to(device).repeat_interleave(members, 0), keys.to(device)
        totals = torch.zeros(len(counts), device=device)
        for step, groups in enumerate(at_work):
            runs = groups * members
            span = slice(step * size, step * size + widest[step])
            layer = None if self.layer is None else self.layer[block.leaders][:groups]
            parts = zip(rows[:groups, span].split(self.part, 1), keys[:groups, span].split(self.part, 1), strict=True)
            batches = (self.table.gather(some, layer, key, flat=self.flat) for some, key in parts)
            wanted = Goal(*(part[:runs, span] for part in goal))
            losses = self._step(block._replace(groups=groups), batches, wanted, factors[:runs, step].tolist())
            totals[:runs] += losses * counts[:runs, step]
        return totals / counts.sum(1)

    def _step(self, block: Block, parts: Iterable[Batch], goal: Goal, factors: list[float]) -> Tensor:
        """One step of a block's runs, on a batch in parts; their losses before it."""
        leaves = self.stack.leaves(block.span)
        weight, num = self.training.metric_weight, self.targets.num_outputs
        said = torch.cat(
            [self.stack(leaves, part, block.span, block.members, features=weight > 0) for part in parts], 1
        )
        losses = task_losses(said[..., :num], goal, self.class_weights[block.span], self.training)
        if weight:
            losses = losses + weight * metric_losses(said[..., num:], goal.shares, self.training.metric_temperature)
        # A run's parameters sway its own loss alone, so the gradient of the sum is each run's own gradient.
        gradients = torch.autograd.grad(losses.sum(), leaves)
        self.optimizer.step(self.stack.weights, gradients, factors, block.first)
        return losses.detach()

    def _retire(self) -> dict[int, Trained]:
        """Take the runs that are done out of the stack, so that they cost nothing more; their results by place."""
        done = [place for place, course in enumerate(self.courses) if course.done]
        if not done:
            return {}
        results: dict[int, Trained] = {}
        for place in done:
            state = self.stack.state(place, self.best[place])
            results[self.places[place]] = self.courses[place].finish(state)
        kept = [place for place in range(len(self.courses)) if place not in set(done)]
        kept = [kept[number] for number in in_order([self.courses[place].run for place in kept])]
        rows = torch.tensor(kept, dtype=torch.int64, device=self.table.device)
        self.stack.keep(rows)
        self.optimizer.keep(kept)
        self.best = self.best[rows]
        self.places = [self.places[place] for place in kept]
        self.courses = [self.courses[place] for place in kept]
        if kept:
            self._prepare()
        return results
