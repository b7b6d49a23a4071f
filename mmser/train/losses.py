"""What training makes small: cross-entropy over classes, 1 - CCC over dimensions, or a weighted sum of both.

Where it is asked for, contrast between the utterances of a batch is added.

All are written for R runs at once, without a decision that depends on data, and with sums in place of scatters: their
gradients are the same on every call, on a GPU too.
"""

import torch
from torch import Tensor

from mmser.train.options import Training
from mmser.train.targets import Goal


def task_losses(outputs: Tensor, goal: Goal, class_weights: Tensor, training: Training) -> Tensor:
    """Each run's loss on its batch, (R,).

    Classes alone: cross-entropy. Ratings alone: the weighted mean over dimensions of 1 - CCC. Both: ``w`` times the
    first and ``1 - w`` times the second, w = ``training.categorical_weight``.

    Args:
        outputs: (R, B, C + K): C logits, then K standardised ratings.
        goal: targets of the same rows.
        class_weights: (R, C).
        training: smoothing and weights.
    """
    num_classes = goal.shares.shape[-1]
    ratings = outputs[..., num_classes:]
    if not num_classes:
        return rating_losses(ratings, goal.ratings, training.dimension_weights)
    of_classes = mean_losses(outputs[..., :num_classes], goal.shares, class_weights, training.label_smoothing)
    if not ratings.shape[-1]:
        return of_classes
    share = training.categorical_weight
    return share * of_classes + (1 - share) * rating_losses(ratings, goal.ratings, training.dimension_weights)


def mean_losses(logits: Tensor, shares: Tensor, class_weights: Tensor, smoothing: float) -> Tensor:
    """Each run's cross-entropy, as ``torch.nn.functional.cross_entropy`` defines it with weights and smoothing.

    With soft targets too it is a weighted mean: a row weighs what its shares of the classes weigh, so that shares of 0
    and 1 give what plain labels give. (torch divides by the number of rows there.)

    Args:
        logits: (R, B, C).
        shares: (R, B, C); rows of zeros have no say. A batch of only such rows has loss 0.
        class_weights: (R, C).
        smoothing: share of the target spread evenly over all classes.

    Returns:
        (R,)
    """
    known = (shares.sum(-1, keepdim=True) > 0).to(logits.dtype)
    weights = class_weights.unsqueeze(1) * known
    smoothed = shares * (1 - smoothing) + smoothing / shares.shape[-1]
    total = (shares * weights).sum((1, 2))
    return -(smoothed * weights * logits.log_softmax(-1)).sum((1, 2)) / torch.where(total > 0, total, 1.0)


def rating_losses(outputs: Tensor, ratings: Tensor, dimension_weights: tuple[float, ...] = ()) -> Tensor:
    """Each run's weighted mean over dimensions of 1 - CCC on its batch, (R,).

    The CCC is that of :func:`mmser.metrics.concordance_correlation`, of the rows whose rating is known. A dimension of
    which a batch knows fewer than two ratings adds 0 and moves no weight: one rating has no correlation.

    Args:
        outputs: (R, B, K).
        ratings: (R, B, K), NaN where not known.
        dimension_weights: K weights; empty: all equal.
    """
    known = ~ratings.isnan()
    num = known.sum(1)
    count = num.clamp(min=1)
    truth, said = torch.where(known, ratings, 0.0), torch.where(known, outputs, 0.0)
    mean_truth, mean_said = truth.sum(1) / count, said.sum(1) / count
    off_truth = torch.where(known, truth - mean_truth.unsqueeze(1), 0.0)
    off_said = torch.where(known, said - mean_said.unsqueeze(1), 0.0)
    above = 2 * (off_truth * off_said).sum(1) / count
    spread = (off_truth.square() + off_said.square()).sum(1) / count
    below = spread + (mean_truth - mean_said).square()
    # Both sides the same constant: nothing to learn, and 0 / 0 would poison the gradient.
    defined = (num >= 2) & (below > 0)
    distance = torch.where(defined, 1 - above / torch.where(defined, below, 1.0), 0.0)
    weights = distance.new_tensor(dimension_weights or (1.0,) * distance.shape[-1])
    return (distance * weights).sum(-1) / weights.sum()


def metric_losses(features: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """Each run's supervised contrastive loss on its batch, (R,): Khosla et al. 2020, equation 2.

    For each utterance, the mean over the others of its class of -log softmax of the cosines to all others; the mean of
    that over the utterances that have another of their class. A class is the largest share; a row whose class is not
    known is compared with nothing. A batch without two of a class has loss 0.

    Args:
        features: (R, B, F), of any length.
        shares: (R, B, C); rows of zeros have no say.
        temperature: divides the cosines.
    """
    known = shares.sum(-1) > 0
    # Not normalize(): its slope at a vector of zeros (a head of silence) is no number under a maximum.
    direction = features / (features.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    others = known.unsqueeze(1) & known.unsqueeze(2) & ~torch.eye(known.shape[1], dtype=torch.bool, device=known.device)
    classes = shares.argmax(-1)
    same = others & (classes.unsqueeze(1) == classes.unsqueeze(2))
    cosines = (direction @ direction.transpose(1, 2)) / temperature
    logs = cosines.masked_fill(~others, torch.finfo(cosines.dtype).min).log_softmax(-1)
    count = same.sum(-1)
    of_each = -(torch.where(same, logs, 0.0)).sum(-1) / count.clamp(min=1)
    return of_each.sum(-1) / (count > 0).sum(-1).clamp(min=1)
