"""AdamW and SGD for many runs at once: a run's parameters are a row of a matrix, its gradients come leaf by leaf."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from mmser.train.options import Training
from mmser.train.plan import Run

_Rates = tuple[float, float]
"""Learning rate, with the schedule's factor, and weight decay."""


class StackedOptimizer(ABC):
    """An optimiser of torch's for each row of a matrix, with its run's own rates.

    torch's fused kernels go over the memory once, where the same in single operations goes over it a dozen times; they
    take the gradients where autograd left them. Runs with the same rates go to them together.
    """

    def __init__(self, weights: Tensor, sizes: Sequence[int], runs: Sequence[Run], training: Training) -> None:
        """``weights``: (R, P), of the runs in their order; ``sizes``: of the leaves, P in all."""
        self.training, self.sizes = training, list(sizes)
        self.rates = [(run.learning_rate, run.weight_decay) for run in runs]
        self.state = self._begun(weights)

    def step(self, weights: Tensor, gradients: Sequence[Tensor], factors: Sequence[float], first: int = 0) -> None:
        """Move the rows from ``first`` on of ``weights`` (R, P) in place, as many as there are ``factors``.

        ``gradients`` are those of each leaf, (R', ...), and are overwritten; ``factors`` are the schedule's, one a
        row: each multiplies its run's rate.
        """
        flat = [gradient.flatten(1) for gradient in gradients]
        if self.training.clip_norm:
            _clip(flat, self.training.clip_norm)
        alike: dict[_Rates, list[int]] = {}
        for place, factor in enumerate(factors):
            learning_rate, weight_decay = self.rates[first + place]
            alike.setdefault((learning_rate * factor, weight_decay), []).append(place)
        for rates, places in alike.items():
            rows = [first + place for place in places]
            of_places = [leaf[place] for place in places for leaf in flat]
            self._move(self._leaves(weights, rows), of_places, rows, rates)

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with the runs in ``kept``, in their order."""
        self.rates = [self.rates[row] for row in kept]
        self.state = [own[torch.tensor(kept, dtype=torch.int64, device=own.device)] for own in self.state]

    def _leaves(self, matrix: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """The leaves of each of ``rows``, views of a matrix (R, P)."""
        return [leaf for row in rows for leaf in matrix[row].split(self.sizes)]

    @abstractmethod
    def _begun(self, weights: Tensor) -> list[Tensor]:
        """What is remembered from step to step, before the first: a row for each run."""

    @abstractmethod
    def _move(self, leaves: list[Tensor], gradients: list[Tensor], rows: Sequence[int], rates: _Rates) -> None:
        """Move the leaves of some rows, which share their rates, in place."""


class StackedAdamW(StackedOptimizer):
    """``torch.optim.AdamW`` (Loshchilov and Hutter 2019), with each run's own number of steps."""

    def _begun(self, weights: Tensor) -> list[Tensor]:
        steps = torch.zeros(len(weights), len(self.sizes), device=weights.device)  # a leaf's own: torch counts it
        return [torch.zeros_like(weights), torch.zeros_like(weights), steps]

    def _move(self, leaves: list[Tensor], gradients: list[Tensor], rows: Sequence[int], rates: _Rates) -> None:
        (learning_rate, weight_decay), (mean, square, steps) = rates, self.state
        adamw(
            leaves,
            gradients,
            self._leaves(mean, rows),
            self._leaves(square, rows),
            [],
            [step for row in rows for step in steps[row].unbind()],
            fused=True,
            amsgrad=False,
            beta1=self.training.beta1,
            beta2=self.training.beta2,
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=self.training.epsilon,
            maximize=False,
        )


class StackedSGD(StackedOptimizer):
    """``torch.optim.SGD`` with Nesterov's momentum (Sutskever et al. 2013); weight decay is L2."""

    def _begun(self, weights: Tensor) -> list[Tensor]:
        # torch begins with the first gradient: what comes of none before it.
        return [torch.zeros_like(weights)]

    def _move(self, leaves: list[Tensor], gradients: list[Tensor], rows: Sequence[int], rates: _Rates) -> None:
        learning_rate, weight_decay = rates
        sgd(
            leaves,
            gradients,
            [*self._leaves(self.state[0], rows)],
            fused=True,
            weight_decay=weight_decay,
            momentum=self.training.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )


def stacked_optimizer(
    weights: Tensor, sizes: Sequence[int], runs: Sequence[Run], training: Training
) -> StackedOptimizer:
    """The optimiser that ``training`` names, for the weights (R, P) of runs, in leaves of these sizes."""
    kind = {"adamw": StackedAdamW, "sgd": StackedSGD}[training.optimiser]
    return kind(weights, sizes, runs, training)


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
