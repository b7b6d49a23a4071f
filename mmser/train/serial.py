"""One run, one head, one plain loop: what :mod:`mmser.train.engine` has to come to, in torch's own words.

It serves the tests as an oracle and the benchmarks as a baseline, and it trains heads that do not stack
(:mod:`mmser.train.apart`). It takes from
the engine's side only what a run owns by definition (:mod:`mmser.train.plan`): its order, its keys, when to stop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mmser.heads.batch import LINKS, Batch, Sequence
from mmser.heads.layers import Standardise
from mmser.metrics import concordance_correlation
from mmser.train.crops import crops_of, whole_batches
from mmser.train.packed import NO_LINK, Packed
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
from mmser.train.stack import initial_head, stacks
from mmser.train.table import Table
from mmser.train.targets import Targets

_repeatable = partial(torch.backends.cudnn.flags, enabled=True, deterministic=True, allow_tf32=False)
"""Convolutions on a GPU that say the same each time, in all of float32's digits."""


@_repeatable()
def train_serially(
    table: Table,
    targets: Targets,
    build: Callable[[], nn.Module],
    run: Run,
    training: Training,
    after: Callable[[Epoch, nn.Module], None] = lambda *_: None,
) -> Trained:
    """Train one run; arguments and result as in :func:`mmser.train.engine.train`.

    ``after`` is given every epoch as it ends, and the head as it is then.
    """
    head = initial_head(build, run.seed).to(table.device)
    check_run(run, targets, int(head.num_outputs))  # type: ignore[arg-type]
    if training.normalise == "global":
        _standardise(head, table, run)
    optimizer = _optimizer(head, run, training)
    loss_of = _loss_of(run, targets, training)
    course = Progress(run, training)
    best = _state(head)
    while not course.done:
        loss = _train_epoch(head, optimizer, table, targets, loss_of, run, training, len(course.history) + 1)
        if course.record(loss, _score(head, table, targets, run, training.batch_size)):
            best = _state(head)
        after(course.history[-1], head)
    return course.finish(best)


def _optimizer(head: nn.Module, run: Run, training: Training) -> torch.optim.Optimizer:
    rate, decay = run.learning_rate, run.weight_decay
    if training.optimiser == "sgd":
        return torch.optim.SGD(
            head.parameters(), lr=rate, momentum=training.momentum, nesterov=True, weight_decay=decay
        )
    return torch.optim.AdamW(
        head.parameters(),
        lr=rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        weight_decay=decay,
    )


def _train_epoch(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    table: Table,
    targets: Targets,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    run: Run,
    training: Training,
    epoch: int,
) -> float:
    head.train()
    order = order_of(run, epoch, table.read_lengths, training.batch_size)
    batches = np.split(order, range(training.batch_size, len(order), training.batch_size))
    keys = dropout_keys(run, epoch, len(order)).split(training.batch_size)
    total = 0.0
    rates = rates_of(epoch, len(batches), training)
    for rows, key, rate in zip(batches, keys, rates, strict=True):
        crops = None if stacks(head) else crops_of(table, run, epoch, rows, training)
        batch = _batch(table, rows, run.layer, key, crops)
        if training.metric_weight:
            features = head.features(batch)  # type: ignore[operator]
            said = head.classify(head.dropout(features, key.to(table.device)))  # type: ignore[operator]
            contrast = _contrast(features, targets.shares[torch.from_numpy(rows)], training.metric_temperature)
            loss = loss_of(said, torch.from_numpy(rows)) + training.metric_weight * contrast
        else:
            loss = loss_of(head(batch), torch.from_numpy(rows))
        optimizer.param_groups[0]["lr"] = run.learning_rate * float(rate)
        optimizer.zero_grad()
        loss.backward()
        if training.clip_norm:
            nn.utils.clip_grad_norm_(head.parameters(), training.clip_norm)
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(run.train_rows)


def _loss_of(run: Run, targets: Targets, training: Training) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of outputs (B, C + K) and their rows (B,)."""
    num_classes = targets.num_classes
    class_weights = class_weights_of(run, targets, training)
    mean, deviation = targets.scale_of(torch.from_numpy(run.train_rows))

    def of_classes(logits: Tensor, rows: Tensor) -> Tensor:
        shares = targets.shares[rows].to(logits.device)
        known, weights = shares.sum(1) > 0, class_weights.to(logits.device)
        if not known.any():
            return logits.sum() * 0
        total = F.cross_entropy(
            logits[known], shares[known], weight=weights, label_smoothing=training.label_smoothing, reduction="sum"
        )
        return total / (shares[known] @ weights).sum()

    def of_ratings(said: Tensor, rows: Tensor) -> Tensor:
        truth = ((targets.ratings[rows] - mean) / deviation).to(said.device)
        distances = []
        for t, p in zip(truth.T, said.T, strict=True):
            t, p = t[~t.isnan()], p[~t.isnan()]
            if len(t) < 2:
                distances.append(p.sum() * 0)
                continue
            t, p = t.double(), p.double()
            covariance = torch.cov(torch.stack([t, p]), correction=0)
            below = covariance[0, 0] + covariance[1, 1] + (t.mean() - p.mean()) ** 2
            distances.append((1 - 2 * covariance[0, 1] / below).float())
        weights = training.dimension_weights or (1.0,) * len(distances)
        return sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)

    def both(outputs: Tensor, rows: Tensor) -> Tensor:
        logits, said = outputs[:, :num_classes], outputs[:, num_classes:]
        if not targets.num_ratings:
            return of_classes(logits, rows)
        if not num_classes:
            return of_ratings(said, rows)
        share = training.categorical_weight
        return share * of_classes(logits, rows) + (1 - share) * of_ratings(said, rows)

    return both


def _contrast(features: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (Khosla et al. 2020, equation 2), utterance by utterance."""
    known = torch.nonzero(shares.sum(1) > 0).flatten().tolist()
    classes = shares.argmax(1).tolist()
    directions = F.normalize(features, dim=1)
    terms = []
    for i in known:
        others = [j for j in known if j != i]
        alike = [j for j in others if classes[j] == classes[i]]
        if alike:
            logs = (directions[others] @ directions[i] / temperature).log_softmax(0)
            terms.append(-torch.stack([logs[others.index(j)] for j in alike]).mean())
    return torch.stack(terms).mean() if terms else features.sum() * 0


@torch.no_grad()
@_repeatable()
def answers(head: nn.Module, table: Table, rows: NDArray[np.int64], layer: int | None, batch_size: int) -> Tensor:
    """What one head says of ``rows``, dropout off, whole utterances: (len(rows), C + K) on the CPU."""
    head.eval()
    parts = whole_batches(table, rows, batch_size)
    said = torch.cat([head(_batch(table, rows[part], layer, None)) for part in parts]).cpu()
    return said[np.argsort(np.concatenate(parts))]


def _score(head: nn.Module, table: Table, targets: Targets, run: Run, batch_size: int) -> float:
    """On the dev rows: UA (mean over the classes there of the share recognised), mean CCC, or their mean."""
    outputs = answers(head, table, run.dev_rows, run.layer, batch_size)
    found = []
    if targets.num_classes:
        logits, truth = outputs[:, : targets.num_classes], targets.classes[torch.from_numpy(run.dev_rows)]
        said = logits.argmax(-1)
        recalls = [float((said[truth == name] == name).double().mean()) for name in truth[truth >= 0].unique()]
        finite = bool(logits[truth >= 0].isfinite().all())
        found.append(sum(recalls) / len(recalls) if finite else np.nan)
    if targets.num_ratings:
        mean, deviation = targets.scale_of(torch.from_numpy(run.train_rows))
        rated = (outputs[:, targets.num_classes :] * deviation + mean).double().numpy()
        asked = targets.ratings[torch.from_numpy(run.dev_rows)].double().numpy()
        pairs = [(t[~np.isnan(t)], p[~np.isnan(t)]) for t, p in zip(asked.T, rated.T, strict=True)]
        finite = all(np.isfinite(p).all() for _, p in pairs)
        found.append(float(np.mean([concordance_correlation(*pair) for pair in pairs])) if finite else np.nan)
    return float(np.mean(found))


def _state(head: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in head.state_dict().items()}


def _batch(
    table: Table, rows: NDArray[np.int64], layer: int | None, key: Tensor | None, crops: list[slice] | None = None
) -> Batch:
    speech = {name: _sequence(stream, rows, layer) for name, stream in table.speech.items()}
    text = None if table.text is None else _sequence(table.text, rows, None)
    mel = None if table.mel is None else _sequence(table.mel, rows, 0, crops)
    return Batch(speech, text, None if key is None else key.to(table.device), mel)


def _sequence(stream: Packed, rows: NDArray[np.int64], layer: int | None, crops: list[slice] | None = None) -> Sequence:
    """The states of ``rows``, or crops of them, padded; all layers where there are several and none is named."""
    states = [_states(stream, row, layer) for row in rows.tolist()]
    if crops is not None:
        states = [own[crop] for own, crop in zip(states, crops, strict=True)]
    lengths = torch.tensor([len(own) for own in states], device=stream.values.device)
    values = pad_sequence(states, batch_first=True).float()  # (B, T, D) or (B, T, L, D)
    if not values.shape[1]:
        values = values.new_zeros(len(states), 1, *values.shape[2:])
    mask = torch.arange(values.shape[1], device=lengths.device) < lengths[:, None]
    links: dict[str, Any] = {name: _links(stream, name, rows, values.shape[1]) for name in LINKS}
    return Sequence(values.transpose(1, 2) if values.dim() == 4 else values, mask, **links)


def _links(stream: Packed, name: str, rows: NDArray[np.int64], width: int) -> Tensor | None:
    """The words, times or weights of ``rows``; in the padding what stands for none."""
    link = getattr(stream, name)
    if link is None:
        return None
    found = torch.full((len(rows), width), NO_LINK[name], dtype=link.dtype, device=link.device)
    for place, row in enumerate(rows.tolist()):
        own = link[stream.offsets[row] : stream.offsets[row + 1]]
        found[place, : len(own)] = own
    return found


def _states(stream: Packed, row: int, layer: int | None) -> Tensor:
    """One utterance's states (T, D), or (T, L, D)."""
    own = stream.values[:, stream.offsets[row] : stream.offsets[row + 1]].transpose(0, 1)
    if layer is None and len(stream.values) > 1:
        return own
    return own[:, layer or 0]


def check_states(head: nn.Module, table: Table, run: Run) -> None:
    """Raise ProtocolError where a run's training rows have no states of a stream that the head standardises."""
    for module in head.modules():
        if isinstance(module, Standardise):
            table.streams[module.stream].origin.check_states(run.train_rows)


def _standardise(head: nn.Module, table: Table, run: Run) -> None:
    """Mean and deviation of every feature over the training rows, from all their states at once."""
    check_states(head, table, run)
    for module in head.modules():
        if isinstance(module, Standardise):
            layer = run.layer if module.stream in table.speech else None
            stream = table.streams[module.stream].origin
            states = torch.cat([_states(stream, row, layer) for row in run.train_rows.tolist()]).double()
            deviation = states.std(0, correction=0)
            module.mean.copy_(states.mean(0))
            module.std.copy_(torch.where(deviation > 0, deviation, 1.0))
