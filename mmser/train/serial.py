"""One run, one head, one plain loop: what :mod:`mmser.train.engine` has to come to, in torch's own words.

It serves the tests as an oracle and the benchmarks as a baseline, and it trains heads that do not stack. It takes from
the engine's side only what a run owns by definition (:mod:`mmser.train.plan`): its order, its keys, when to stop.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mmser.heads.batch import Batch, Sequence
from mmser.heads.layers import Standardise
from mmser.train.plan import Progress, Run, Trained, Training, check_run, class_weights_of, dropout_keys, order_of
from mmser.train.stack import initial_head
from mmser.train.table import Packed, Table


def train_serially(
    table: Table, labels: Tensor, build: Callable[[], nn.Module], run: Run, training: Training
) -> Trained:
    """Train one run; arguments and result as in :func:`mmser.train.engine.train`."""
    head = initial_head(build, run.seed).to(table.device)
    num_classes = int(head.num_outputs)  # type: ignore[arg-type]
    labels = labels.cpu()
    check_run(run, labels, num_classes)
    if training.normalise == "global":
        _standardise(head, table, run)
    optimizer = torch.optim.AdamW(
        head.parameters(),
        lr=run.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        weight_decay=run.weight_decay,
    )
    weights = class_weights_of(run, labels, num_classes, training).to(table.device)
    course = Progress(run, training)
    best = _state(head)
    while not course.done:
        loss = _train_epoch(head, optimizer, table, labels, weights, run, training, len(course.history) + 1)
        if course.record(loss, _score(head, table, labels, run, training.batch_size)):
            best = _state(head)
    return course.finish(best)


def _train_epoch(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    table: Table,
    labels: Tensor,
    weights: Tensor,
    run: Run,
    training: Training,
    epoch: int,
) -> float:
    head.train()
    order = order_of(run, epoch, table.lengths, training.batch_size)
    batches = np.split(order, range(training.batch_size, len(order), training.batch_size))
    keys = dropout_keys(run, epoch, len(order)).split(training.batch_size)
    total = 0.0
    for rows, key in zip(batches, keys, strict=True):
        outputs = head(_batch(table, rows, run.layer, key))
        target = labels[torch.from_numpy(rows)].to(table.device)
        loss = F.cross_entropy(outputs, target, weight=weights, label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if training.clip_norm:
            nn.utils.clip_grad_norm_(head.parameters(), training.clip_norm)
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(run.train_rows)


@torch.no_grad()
def _score(head: nn.Module, table: Table, labels: Tensor, run: Run, batch_size: int) -> float:
    """UA on the dev rows: the mean over the classes present of the share that is recognised."""
    head.eval()
    batches = np.split(run.dev_rows, range(batch_size, len(run.dev_rows), batch_size))
    outputs = torch.cat([head(_batch(table, rows, run.layer, None)) for rows in batches])
    found, truth = outputs.argmax(-1).cpu(), labels[torch.from_numpy(run.dev_rows)]
    recalls = [float((found[truth == name] == name).double().mean()) for name in truth.unique()]
    return sum(recalls) / len(recalls)


def _state(head: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in head.state_dict().items()}


def _batch(table: Table, rows: NDArray[np.int64], layer: int | None, key: Tensor | None) -> Batch:
    speech = {name: _sequence(stream, rows, layer) for name, stream in table.speech.items()}
    text = None if table.text is None else _sequence(table.text, rows, 0)
    return Batch(speech, text, None if key is None else key.to(table.device))


def _sequence(stream: Packed, rows: NDArray[np.int64], layer: int | None) -> Sequence:
    """The states of ``rows``, padded; all layers where there are several and none is named."""
    states = [_states(stream, row, layer) for row in rows.tolist()]
    lengths = torch.tensor([len(own) for own in states], device=stream.values.device)
    values = pad_sequence(states, batch_first=True).float()  # (B, T, D) or (B, T, L, D)
    if not values.shape[1]:
        values = values.new_zeros(len(states), 1, *values.shape[2:])
    mask = torch.arange(values.shape[1], device=lengths.device) < lengths[:, None]
    return Sequence(values.transpose(1, 2) if values.dim() == 4 else values, mask)


def _states(stream: Packed, row: int, layer: int | None) -> Tensor:
    """One utterance's states (T, D), or (T, L, D)."""
    own = stream.values[:, stream.offsets[row] : stream.offsets[row + 1]].transpose(0, 1)
    if layer is None and len(stream.values) > 1:
        return own
    return own[:, layer or 0]


def _standardise(head: nn.Module, table: Table, run: Run) -> None:
    """Mean and deviation of every feature over the training rows, from all their states at once."""
    for module in head.modules():
        if isinstance(module, Standardise):
            layer = 0 if module.stream == "text" else run.layer
            stream = table.streams[module.stream]
            states = torch.cat([_states(stream, row, layer) for row in run.train_rows.tolist()]).double()
            deviation = states.std(0, correction=0)
            module.mean.copy_(states.mean(0))
            module.std.copy_(torch.where(deviation > 0, deviation, 1.0))
