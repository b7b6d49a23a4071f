"""What trained heads say: the engine's dev score, and the posteriors that the caller asks for afterwards."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmser.train.plan import Trained
from mmser.train.stack import Stack, pad_rows, restored_head
from mmser.train.table import Table


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


@torch.no_grad()
def stacked_logits(stack: Stack, table: Table, rows: Tensor, layer: Tensor | None, batch_size: int) -> Tensor:
    """Outputs of R heads on rows (R, n), dropout off: (R, n, num_outputs) on the device.

    ``n`` is a multiple of the batch size, or one smaller batch.
    """
    leaves = stack.leaves(len(stack))
    parts = [stack(leaves, table.gather(some, layer)) for some in rows.split(batch_size, dim=1)]
    return torch.cat(parts, 1)


def by_length(table: Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places in ``rows`` from the shortest utterance to the longest: in this order batches hold little padding."""
    return np.argsort(table.lengths[rows], kind="stable")


def stacked_layers(layers: Sequence[int | None]) -> Tensor | None:
    """Each run's layer (R,); None if the runs take all layers."""
    chosen = [layer for layer in layers if layer is not None]
    assert len(chosen) in (0, len(layers)), "runs with and without a layer do not stack"
    return torch.tensor(chosen) if chosen else None


def posteriors(
    table: Table,
    build: Callable[[], nn.Module],
    trained: Sequence[Trained],
    rows: Sequence[NDArray[np.int64]],
    *,
    batch_size: int = 32,
    max_stacked: int = 32,
) -> list[NDArray[np.float32]]:
    """Class probabilities of trained heads: the caller's one look at the test rows.

    Args:
        table: features, as in training.
        build: makes a head of the trained ones' shape.
        trained: the heads.
        rows: the rows that each head is asked about, one array a head.
        batch_size: utterances at a time.
        max_stacked: heads at a time.

    Returns:
        One array (len(rows[i]), num_outputs) a head, in the order of its rows.
    """
    assert len(trained) == len(rows), "one array of rows for each head"
    assert all(len(own) for own in rows), "at least one row for each head"
    answers: list[NDArray[np.float32]] = []
    for first in range(0, len(trained), max_stacked):
        some, wanted = trained[first : first + max_stacked], rows[first : first + max_stacked]
        stack = Stack((restored_head(build, one.state) for one in some), table.device)
        orders = [by_length(table, own) for own in wanted]
        padded, _ = pad_rows([own[order] for own, order in zip(wanted, orders, strict=True)], batch_size)
        layer = stacked_layers([one.run.layer for one in some])
        shares = stacked_logits(stack, table, padded, layer, batch_size).softmax(-1).cpu().numpy()
        for share, order in zip(shares, orders, strict=True):
            answer = np.empty((len(order), share.shape[-1]), dtype=np.float32)
            answer[order] = share[: len(order)]
            answers.append(answer)
    return answers
