"""AdamW for many runs at once: a run's parameters are one row of a matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mmser.train.options import Training
from mmser.train.plan import Run


class StackedAdamW:
    """``torch.optim.AdamW`` (Loshchilov and Hutter 2019) for each row of a matrix, with its run's own rates and steps.

    All runs of a stack take part in every step, or the first few of them do: those that still have batches in this
    epoch. torch's fused kernel goes over the memory once, where the same in single operations goes over it a dozen
    times.
    """

    def __init__(self, weights: Tensor, runs: Sequence[Run], training: Training) -> None:
        """``weights``: (R, P), of the runs in their order."""
        self.training = training
        self.rates = [(run.learning_rate, run.weight_decay) for run in runs]
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros(len(weights), device=weights.device)

    def step(self, weights: Tensor, gradients: Tensor, factors: Sequence[float]) -> None:
        """Move the first ``len(gradients)`` rows of ``weights`` (R, P) in place.

        ``factors`` are the schedule's, one a row: each multiplies its run's rate.
        """
        for row, (factor, gradient) in enumerate(zip(factors, gradients, strict=True)):
            learning_rate, weight_decay = self.rates[row]
            adamw(
                [weights[row]],
                [gradient],
                [self.mean[row]],
                [self.square[row]],
                [],
                [self.steps[row]],
                fused=True,
                amsgrad=False,
                beta1=self.training.beta1,
                beta2=self.training.beta2,
                lr=learning_rate * factor,
                weight_decay=weight_decay,
                eps=self.training.epsilon,
                maximize=False,
            )

    def keep(self, kept: Sequence[int]) -> None:
        """Drop every run that is not in ``kept``."""
        rows = torch.tensor(kept, dtype=torch.int64, device=self.mean.device)
        self.rates = [self.rates[row] for row in kept]
        self.mean, self.square, self.steps = self.mean[rows], self.square[rows], self.steps[rows]


def clip_norms(gradients: Tensor, limit: float) -> None:
    """Scale each row of (R, P) down to the norm ``limit``, in place, as ``torch.nn.utils.clip_grad_norm_`` does."""
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients.mul_((limit / (norms + 1e-6)).clamp_(max=1.0))
