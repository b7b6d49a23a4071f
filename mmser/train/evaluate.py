"""What trained heads say: the engine's dev score, and the outputs that the caller asks for afterwards."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmser.train import serial
from mmser.train.plan import Trained
from mmser.train.sharing import Block, blocks_of, most_together, questions_of
from mmser.train.stack import Stack, flat, initial_head, pad_rows, restored_head, stacks
from mmser.train.table import Table

DEV_BATCHES = 4
"""Batches in one where nothing is padded and no gradient kept: fewer operations, and no other result."""

ASKED_AT_ONCE = 32
"""Heads whose answers are asked for together after training, at most."""


def unweighted_averages(truth: Tensor, prediction: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Mean recall (UA) of each of R runs over the classes that its truth holds, (R,) float64.

    Args:
        truth: (R, n) int64 class numbers.
        prediction: (R, n) int64 class numbers.
        valid: (R, n) bool; what is False counts nowhere.
        num_classes: number of classes.

    >>> hits = unweighted_averages(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]), torch.ones(1, 3).bool(), 3)
    >>> hits.tolist()
    [0.75]
    """
    classes = torch.arange(num_classes, device=truth.device)
    member = (truth.unsqueeze(-1) == classes) & valid.unsqueeze(-1)
    support = member.sum(1)
    recalled = (member & (prediction == truth).unsqueeze(-1)).sum(1)
    recall = recalled.double() / support.clamp(min=1)
    return recall.sum(1) / (support > 0).sum(1)


def concordances(truth: Tensor, prediction: Tensor) -> Tensor:
    """CCC of each of R runs and K dimensions over the rows whose truth is known, (R, K) float64.

    As :func:`mmser.metrics.concordance_correlation`, constants included; NaN where a prediction is no number.

    Args:
        truth: (R, n, K), NaN where not known.
        prediction: (R, n, K).
    """
    known = ~truth.isnan()
    count = known.sum(1, keepdim=True).clamp(min=1)
    t, p = (torch.where(known, values.double(), 0.0) for values in (truth, prediction))
    mean_t, mean_p = t.sum(1, keepdim=True) / count, p.sum(1, keepdim=True) / count
    off_t, off_p = torch.where(known, t - mean_t, 0.0), torch.where(known, p - mean_p, 0.0)
    above = 2 * (off_t * off_p).sum(1) / count.squeeze(1)
    below = (off_t.square() + off_p.square()).sum(1) / count.squeeze(1) + (mean_t - mean_p).squeeze(1).square()
    same = (t == p).all(1)  # the same constant on both sides: 0 / 0
    return torch.where(same, 1.0, above / torch.where(same, 1.0, below))


def scores(outputs: Tensor, classes: Tensor, ratings: Tensor) -> Tensor:
    """What selects an epoch, (R,) float64: UA for classes, the mean CCC for dimensions, the mean of the two for both.

    NaN for a run that answers a row of which the class or rating is known with what is no finite number.

    Args:
        outputs: (R, n, C + K).
        classes: (R, n) int64, -1 where not known.
        ratings: (R, n, K) on the scale of the outputs, NaN where not known.
    """
    num_classes = outputs.shape[-1] - ratings.shape[-1]
    found = []
    if num_classes:
        logits, told = outputs[..., :num_classes], classes >= 0
        averages = unweighted_averages(classes, logits.argmax(-1), told, num_classes)
        # argmax takes NaN for the largest: a head that gives no numbers would always say one class.
        numbers = (logits.isfinite().all(-1) | ~told).all(1)
        found.append(torch.where(numbers, averages, torch.nan))
    if ratings.shape[-1]:
        found.append(concordances(ratings, outputs[..., num_classes:]).mean(-1))
    return torch.stack(found).mean(0)


@torch.no_grad()
def stacked_outputs(
    stack: Stack,
    table: Table,
    rows: Tensor,
    layer: Tensor | None,
    batch_size: int,
    blocks: Sequence[Block],
) -> Tensor:
    """Outputs of R heads on rows (R, n), dropout off: (R, n, num_outputs) on the device.

    ``blocks`` say which heads have the same rows.
    """
    end_to_end = flat(stack.template, table)
    found = []
    for block in blocks:
        leaves = stack.leaves(block.span)
        own = None if layer is None else layer[block.leaders]
        parts = rows[block.leaders].split(batch_size, dim=1)
        batches = (table.gather(part, own, flat=end_to_end) for part in parts)
        found.append(torch.cat([stack(leaves, batch, block.span, block.members) for batch in batches], 1))
    return torch.cat(found)


def by_length(table: Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places in ``rows`` from the shortest utterance to the longest: in this order batches hold little padding."""
    return np.argsort(table.read_lengths[rows], kind="stable")


def stacked_layers(layers: Sequence[int | None]) -> Tensor | None:
    """Each run's layer (R,); None if the runs take all layers."""
    chosen = [layer for layer in layers if layer is not None]
    assert len(chosen) in (0, len(layers)), "runs with and without a layer do not stack"
    return torch.tensor(chosen) if chosen else None


def outputs_of(
    stack: Stack, table: Table, rows: Sequence[NDArray[np.int64]], layers: Sequence[int | None], batch_size: int
) -> list[Tensor]:
    """What each head of a stack says of its own rows, dropout off: (len(rows[i]), num_outputs) on the CPU."""
    orders = [by_length(table, own) for own in rows]
    padded, _ = pad_rows([own[order] for own, order in zip(rows, orders, strict=True)])
    together = most_together(table, stack.template, batch_size)
    blocks = blocks_of(questions_of(rows, layers), together or len(rows))
    said = stacked_outputs(stack, table, padded, stacked_layers(layers), batch_size, blocks).cpu()
    return [own[: len(order)][np.argsort(order)] for own, order in zip(said, orders, strict=True)]


def outputs(
    table: Table,
    build: Callable[[], nn.Module],
    trained: Sequence[Trained],
    rows: Sequence[NDArray[np.int64]],
    *,
    batch_size: int = 32,
    max_stacked: int = ASKED_AT_ONCE,
) -> list[Tensor]:
    """What trained heads say: the caller's one look at the test rows.

    Args:
        table: features, as in training.
        build: makes a head of the trained ones' shape.
        trained: the heads.
        rows: the rows that each head is asked about, one array a head.
        batch_size: utterances at a time.
        max_stacked: heads at a time.

    Returns:
        One tensor (len(rows[i]), num_outputs) a head, in the order of its rows, on the CPU.
    """
    assert len(trained) == len(rows), "one array of rows for each head"
    assert all(len(own) for own in rows), "at least one row for each head"
    if trained and not stacks(initial_head(build, 0)):
        return [
            serial.answers(restored_head(build, one.state).to(table.device), table, own, one.run.layer, batch_size)
            for one, own in zip(trained, rows, strict=True)
        ]
    answers: list[Tensor] = []
    for first in range(0, len(trained), max_stacked):
        some = trained[first : first + max_stacked]
        stack = Stack((restored_head(build, one.state) for one in some), table.device)
        layers = [one.run.layer for one in some]
        answers += outputs_of(stack, table, rows[first : first + max_stacked], layers, batch_size)
    return answers


def posteriors(
    table: Table,
    build: Callable[[], nn.Module],
    trained: Sequence[Trained],
    rows: Sequence[NDArray[np.int64]],
    *,
    batch_size: int = 32,
    max_stacked: int = ASKED_AT_ONCE,
) -> list[NDArray[np.float32]]:
    """Class probabilities of trained heads; arguments as in :func:`outputs`, of heads that rate nothing."""
    said = outputs(table, build, trained, rows, batch_size=batch_size, max_stacked=max_stacked)
    return [own.softmax(-1).numpy() for own in said]
