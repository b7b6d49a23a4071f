"""Which runs of a stack see the same data, so that a batch is gathered once for all of them.

The order of an epoch and its dropout follow from a run's seed, so runs that differ in learning rate or weight decay
alone see the same batches; those of one fold, whatever their seeds, are scored on the same dev rows.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmser import products
from mmser.train.plan import Run
from mmser.train.stack import flat
from mmser.train.table import Table

CPU_TOGETHER = 40
"""Runs that a core computes at once, or about so many: by then it is busy, and more would only hold more memory."""
FLAT_TOGETHER = 12
"""The same for runs that take whole batches end to end (:mod:`mmser.heads.flat`). Each is computed as long as the one
with the most states, so fewer hold less that is only filled up."""
ALONE_FLOP = 2e9
"""Operations of a step from which such a run fills a core by itself: there is then nothing to fill up, and nothing to
rewrite for many. Measured (docs/benchmarks.md): co-attention of width 128 is about as fast alone as among 12. Twice as
many where oneDNN makes products twice as fast, and all else in a step weighs twice as much."""


def most_together(table: Table, head: nn.Module, batch_size: int) -> int | None:
    """How many runs of ``head`` a core computes at once; None on a GPU: as many as it holds."""
    if table.device.type != "cpu":
        return None
    if not flat(head, table):
        return CPU_TOGETHER
    # A product takes 2 operations a weight and state forward, and twice that backward.
    parameters = sum(parameter.numel() for parameter in head.parameters())
    step = 6.0 * parameters * batch_size * float(np.mean(table.lengths))
    return 1 if step >= ALONE_FLOP * (2 if products.by_onednn() else 1) else FLAT_TOGETHER


def pieces_of(keys: Sequence[Hashable], together: int | None, most: int) -> list[slice]:
    """Runs that train together to their end, of a stack in the order of :func:`in_order`.

    On a CPU pieces are of about one size, and as many as keep every core at work.

    Args:
        keys: what each run shares with its neighbours (:func:`batches_of`): pieces end between groups of equal ones
            where one lies near, and within a group otherwise.
        together: :func:`most_together`.
        most: how many runs memory holds at once.
    """
    num, count, cores = len(keys), 1, torch.get_num_threads()
    if together == 1:
        return [slice(place, place + 1) for place in range(num)]
    if together is not None:
        count, most = cores * max(1, round(num / (cores * together))), max(1, most // cores)
    starts = [place for place in range(1, num) if keys[place] != keys[place - 1]] + [num]
    ends = [0]
    while ends[-1] < num:
        begin, left = ends[-1], max(1, count + 1 - len(ends))
        wanted = min(-(-(num - begin) // left), most)
        near = min(starts, key=lambda start: abs(start - begin - wanted))
        whole = abs(near - begin - wanted) <= wanted / 3 and near - begin <= most
        ends.append(near if whole else begin + wanted)
    return [slice(*pair) for pair in pairwise(ends)]


class Block(NamedTuple):
    """Runs next to each other in a stack that are computed at once: groups of equal size, each of one data."""

    first: int
    """Place of the first run."""
    groups: int
    members: int
    """Runs in each group."""

    @property
    def span(self) -> slice:
        """Their places in the stack."""
        return slice(self.first, self.first + self.groups * self.members)

    @property
    def leaders(self) -> slice:
        """The first run of each group."""
        return slice(self.first, self.first + self.groups * self.members, self.members)


def batches_of(runs: Sequence[Run]) -> list[Hashable]:
    """For each run, what its training batches follow from: equal where they are the same."""
    return [(_digest(run.train_rows), run.layer, run.seed) for run in runs]


def questions_of(rows: Sequence[NDArray[np.int64]], layers: Sequence[int | None]) -> list[Hashable]:
    """For each run, what it is asked about: equal where the batches are the same."""
    return [(_digest(own), layer) for own, layer in zip(rows, layers, strict=True)]


def _digest(rows: NDArray[np.int64]) -> Hashable:
    return np.ascontiguousarray(rows, dtype=np.int64).tobytes()


def in_order(runs: Sequence[Run]) -> list[int]:
    """The numbers of ``runs`` as they are stacked.

    The runs that see the same batches are neighbours, and so are groups of them of one size, the largest first. Among
    these those with more steps an epoch come first, so that the ones still at work are always the first so many of a
    block; then the runs with the same dev rows are neighbours.
    """
    batches = batches_of(runs)
    questions = questions_of([run.dev_rows for run in runs], [run.layer for run in runs])
    sizes = Counter(batches)
    seen: dict[Hashable, int] = {}
    for key in (*questions, *batches):
        seen.setdefault(key, len(seen))
    # Of a group with several dev parts the first says where the group stands: the group stays together.
    asked: dict[Hashable, int] = {}
    for batch, question in zip(batches, questions, strict=True):
        asked.setdefault(batch, seen[question])

    def place(number: int) -> tuple[int, ...]:
        batch = batches[number]
        return (
            -sizes[batch],
            -len(runs[number].train_rows),
            asked[batch],
            seen[batch],
            seen[questions[number]],
            number,
        )

    return sorted(range(len(runs)), key=place)


def blocks_of(keys: Sequence[Hashable], most: int) -> list[Block]:
    """Neighbours with equal keys are a group, and neighbouring groups of one size a block of at most ``most`` runs.

    A block holds at least one group, however many runs are in it.

    >>> blocks_of("aabbccdee", 4)
    [Block(first=0, groups=2, members=2), Block(first=4, groups=1, members=2), Block(first=6, groups=1, members=1), \
Block(first=7, groups=1, members=2)]
    """
    found: list[Block] = []
    first = 0
    for members, some in groupby(len(list(group)) for _, group in groupby(keys)):
        left = len(list(some))
        while left:
            groups = min(left, max(1, most // members))
            found.append(Block(first, groups, members))
            first += groups * members
            left -= groups
    return found
