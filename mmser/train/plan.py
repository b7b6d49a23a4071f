"""What to train, what comes out, and the randomness that each run owns.

The stacked engine and the serial loop share this file and nothing else of substance, so that they can be compared.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmser.errors import ProtocolError
from mmser.train.options import Training
from mmser.train.schedule import rate_factors
from mmser.train.targets import Targets


@dataclass(frozen=True, eq=False)
class Run:
    """One head to train. What it may see is written here: there is no test set."""

    name: str
    train_rows: NDArray[np.int64]
    """Rows of the table that give gradients, and the statistics for standardising."""
    dev_rows: NDArray[np.int64]
    """Rows that select the epoch."""
    seed: int
    """Initial weights, order of the data and dropout follow from it, whatever else is trained beside."""
    layer: int | None = None
    """Speech layer, as an index into the table's; None: its only one, or all of them for a learned mix."""
    learning_rate: float = 1e-3
    """AdamW's. 1e-3 suits heads of a few layers on states that were standardised; our default."""
    weight_decay: float = 1e-2
    """AdamW's, decoupled (Loshchilov and Hutter 2019); torch's default."""


class Epoch(NamedTuple):
    """One line of a run's history."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's utterances, dropout on, as the weights moved."""
    dev_score: float
    """On the dev rows, dropout off, at the end of the epoch: UA of classes, mean CCC of dimensions, or their mean."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run came to."""

    run: Run
    state: dict[str, Tensor]
    """Parameters and buffers at the best epoch, on the CPU: what ``load_state_dict`` takes."""
    best_epoch: int
    """The first epoch with the highest dev score; 0, the initial weights, if loss and outputs never were finite."""
    dev_score: float
    """Of the best epoch; NaN if there is none."""
    history: tuple[Epoch, ...]
    diverged: bool = False
    """The loss, or what the head said of the dev rows, was not finite in the last epoch of the history, and the run
    ended there."""


class Progress:
    """The course of one run: history, best epoch, when to stop."""

    def __init__(self, run: Run, training: Training) -> None:
        self.run, self.training = run, training
        self.history: list[Epoch] = []
        self.best_epoch, self.best_score = 0, -math.inf
        self.diverged = False

    def record(self, train_loss: float, dev_score: float) -> bool:
        """Note an epoch. True if it is the best so far, and its weights are to be kept.

        The score is NaN if the head gave the dev rows no numbers: the last step of an epoch of finite losses may have
        spoilt the weights.
        """
        self.history.append(Epoch(len(self.history) + 1, train_loss, dev_score))
        self.diverged = not (math.isfinite(train_loss) and math.isfinite(dev_score))
        if self.diverged or not dev_score > self.best_score:
            return False
        self.best_epoch, self.best_score = len(self.history), dev_score
        return True

    @property
    def done(self) -> bool:
        """Whether to stop here."""
        epoch = len(self.history)
        return self.diverged or epoch >= self.training.epochs or epoch - self.best_epoch >= self.training.patience

    def finish(self, state: dict[str, Tensor]) -> Trained:
        """The result, given the weights of the best epoch."""
        score = self.best_score if self.best_epoch else math.nan
        return Trained(self.run, state, self.best_epoch, score, tuple(self.history), self.diverged)


def derive(seed: int, *parts: str | int) -> int:
    """A number in [0, 2^63) that depends on every part, the same on every machine and in every version.

    >>> derive(1, "order", 2) == derive(1, "order", 2) != derive(1, "order", 3)
    True
    """
    digest = blake2b(repr((int(seed), *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def order_of(run: Run, epoch: int, lengths: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """The training rows in the order of one epoch, batch after batch, each batch from its shortest to its longest.

    Which rows form a batch is a plain shuffle by the run's seed. In which order the full batches come is drawn too, but
    the draw is the epoch's, not the run's: it says that the third batch, say, is the longest-but-four. So the batches
    that a stack meets at one step are of about one length, whatever the seeds, and little padding is computed. (With
    25 runs on sentences as long as IEMOCAP's, the padded length falls from 1.8 to 1.05 times what one run alone would
    have.) Within a batch the order sways nothing but rounding; sorted, a batch can be computed in parts that hold
    little padding.

    Args:
        run: its seed and training rows.
        epoch: from 1.
        lengths: (n,) states of each row of the table.
        batch_size: utterances a step.
    """
    generator = torch.Generator().manual_seed(derive(run.seed, "order", epoch))
    rows = np.asarray(run.train_rows)[torch.randperm(len(run.train_rows), generator=generator).numpy()]
    num_full = len(rows) // batch_size
    batches = rows[: num_full * batch_size].reshape(num_full, batch_size)
    from_shortest = np.argsort(lengths[batches].max(1), kind="stable") if num_full else np.arange(0)
    placed = batches[from_shortest[_ranks(epoch, num_full)]]
    return np.concatenate([_sorted(batch, lengths) for batch in (*placed, rows[num_full * batch_size :])])


def _sorted(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.argsort(lengths[rows], kind="stable")]


@lru_cache(maxsize=256)
def _ranks(epoch: int, num_batches: int) -> NDArray[np.int64]:
    """By place in the epoch: the rank of the batch that comes there, counted from the shortest. Do not write to it.

    Each place draws a number, whatever the count of batches: so a place early in the order of lengths for a run of 90
    batches is early for one of 100 too.
    """
    draws = np.array([derive(0, "place", epoch, place) for place in range(num_batches)], dtype=np.int64)
    return np.argsort(np.argsort(draws))


def dropout_keys(run: Run, epoch: int, num_places: int) -> Tensor:
    """(num_places,) int64: the key of each place in the order of an epoch, on the CPU."""
    start = derive(run.seed, "dropout", epoch) >> 1  # room to count up without leaving int64
    return start + torch.arange(num_places)


def class_weights_of(run: Run, targets: Targets, training: Training) -> Tensor:
    """(C,) float32: each class's weight in the loss, from the run's training rows; of soft labels, from their shares.

    A class that the rows lack has weight 0: there is nothing to weigh.
    """
    if training.class_weights == "none":
        return torch.ones(targets.num_classes)
    counts = targets.shares[torch.from_numpy(run.train_rows)].double().sum(0)
    return torch.where(counts > 0, counts.sum() / (targets.num_classes * counts.clamp(min=1e-12)), 0.0).float()


def rates_of(epoch: int, num_steps: int, training: Training) -> Tensor:
    """(num_steps,) float64: the factor of the learning rate at each step of an epoch, on the CPU."""
    total = num_steps * training.epochs
    return torch.from_numpy(rate_factors(training.schedule, training.warmup, (epoch - 1) * num_steps, num_steps, total))


def check_run(run: Run, targets: Targets, num_outputs: int) -> None:
    """Raise ProtocolError where a run cannot be trained, or could not be trusted."""
    if num_outputs != targets.num_outputs:
        raise ProtocolError(
            f"the head has {num_outputs} outputs; expected {targets.num_outputs}: {targets.num_classes} classes and "
            f"{targets.num_ratings} ratings"
        )
    for part, rows in (("train", run.train_rows), ("dev", run.dev_rows)):
        if not len(rows):
            raise ProtocolError(f"run {run.name!r} has no {part} utterances")
        if rows.min() < 0 or rows.max() >= len(targets.classes):
            raise ProtocolError(
                f"run {run.name!r}: {part} row {rows.max()} is not in the table of {len(targets.classes)}"
            )
        _check_targets(run, part, torch.from_numpy(rows), targets)
    shared = np.intersect1d(run.train_rows, run.dev_rows)
    if len(shared):
        raise ProtocolError(f"run {run.name!r}: {len(shared)} utterances are in train and in dev (row {shared[0]})")
    if run.learning_rate <= 0 or run.weight_decay < 0:
        raise ProtocolError(
            f"run {run.name!r}: learning rate {run.learning_rate:g} and weight decay {run.weight_decay:g}; expected "
            "a positive rate and a decay of at least 0"
        )


def _check_targets(run: Run, part: str, rows: Tensor, targets: Targets) -> None:
    """A part must know enough to learn from, or to choose an epoch by."""
    unknown = rows[~targets.known[rows]]
    if len(unknown):
        raise ProtocolError(f"run {run.name!r}: of {part} row {int(unknown[0])} neither class nor rating is known")
    classed = targets.shares[rows].sum(1) > 0 if part == "train" else targets.classes[rows] >= 0
    if targets.num_classes and not bool(classed.any()):
        raise ProtocolError(f"run {run.name!r}: no {part} utterance has a class")
    rated = (~targets.ratings[rows].isnan()).sum(0)
    if targets.num_ratings and int(rated.min()) < 2:
        raise ProtocolError(
            f"run {run.name!r}: dimension {int(rated.argmin()) + 1} of {targets.num_ratings} is rated for "
            f"{int(rated.min())} {part} utterances; a CCC takes at least 2"
        )
