"""AdamW for many runs at once: a run's parameters are one row of a matrix, its gradients come leaf by leaf."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mmser.train.options import Training
from mmser.train.plan import Run


class StackedAdamW:
    """``torch.optim.AdamW`` (Loshchilov and Hutter 2019) for each row of a matrix, with its run's own rates and steps.

    torch's fused kernel goes over the memory once, where the same in single operations goes over it a dozen times; it
    takes the gradients where autograd left them. Runs with the same rates go to it together.
    """

    def __init__(self, weights: Tensor, sizes: Sequence[int], runs: Sequence[Run], training: Training) -> None:
        """``weights``: (R, P), of the runs in their order; ``sizes``: of the leaves, P in all."""
        self.training, self.sizes = training, list(sizes)
        self.rates = [(run.learning_rate, run.weight_decay) for run in runs]
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros(len(weights), len(self.sizes), device=weights.device)  # a leaf's own: torch counts it

    def step(self, weights: Tensor, gradients: Sequence[Tensor], factors: Sequence[float], first: int = 0) -> None:
        """Move the rows from ``first`` on of ``weights`` (R, P) in place, as many as there are ``factors``.

        ``gradients`` are those of each leaf, (R', ...), and are overwritten; ``factors`` are the schedule's, one a
        row: each multiplies its run's rate.
        """
        flat = [gradient.flatten(1) for gradient in gradients]
        if self.training.clip_norm:
            _clip(flat, self.training.clip_norm)
        alike: dict[tuple[float, float], list[int]] = {}
        for place, factor in enumerate(factors):
            learning_rate, weight_decay = self.rates[first + place]
            alike.setdefault((learning_rate * factor, weight_decay), []).append(place)
        for (learning_rate, weight_decay), places in alike.items():
            rows = [first + place for place in places]
            adamw(
                [leaf for row in rows for leaf in weights[row].split(self.sizes)],
                [leaf[place] for place in places for leaf in flat],
                [leaf for row in rows for leaf in self.mean[row].split(self.sizes)],
                [leaf for row in rows for leaf in self.square[row].split(self.sizes)],
                [],
                [step for row in rows for step in self.steps[row].unbind()],
                fused=True,
                amsgrad=False,
                beta1=self.training.beta1,
                beta2=self.training.beta2,
                lr=learning_rate,
                weight_decay=weight_decay,
                eps=self.training.epsilon,
                maximize=False,
            )

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with the runs in ``kept``, in their order."""
        rows = torch.tensor(kept, dtype=torch.int64, device=self.mean.device)
        self.rates = [self.rates[row] for row in kept]
        self.mean, self.square, self.steps = self.mean[rows], self.square[rows], self.steps[rows]


def _clip(gradients: Sequence[Tensor], limit: float) -> None:
    """Shorten each run's gradients in place where their norm is above ``limit``."""
    scales = clip_scales(gradients, limit)
    if scales.device.type != "cpu":  # to ask which would wait for the device
        for leaf in gradients:
            leaf.div_(scales.unsqueeze(1))
        return
    for place in torch.nonzero(scales > 1).flatten().tolist():
        for leaf in gradients:
            leaf[place].div_(scales[place])


def clip_scales(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """By what to divide each run's gradients so that their norm is at most ``limit``, (R,).

    As ``torch.nn.utils.clip_grad_norm_`` does it.

    Args:
        gradients: of each leaf, (R, ...) flattened to two axes.
        limit: longest norm of a run's gradients, all leaves together.
    """
    norms = torch.stack([torch.linalg.vector_norm(leaf, dim=1) for leaf in gradients])
    return ((torch.linalg.vector_norm(norms, dim=0) + 1e-6) / limit).clamp_(min=1.0)
