"""AdamW for many runs at once: a run's parameters are one row of a matrix."""

import torch
from torch import Tensor


class StackedAdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) as ``torch.optim.AdamW`` has it, with each run's own rates.

    All runs of a stack take part in every step, or the first few of them do: those that still have batches in this
    epoch. A run's step count is therefore its own.
    """

    def __init__(
        self,
        shape: torch.Size,
        learning_rates: Tensor,
        weight_decays: Tensor,
        *,
        beta1: float,
        beta2: float,
        epsilon: float,
    ) -> None:
        """``shape``: (R, P), runs and parameters; ``learning_rates``, ``weight_decays``: (R,), on the device."""
        self.learning_rates = learning_rates.double()
        self.weight_decays = weight_decays.double()
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.mean = torch.zeros(shape, device=learning_rates.device)
        self.square = torch.zeros_like(self.mean)
        self.steps = torch.zeros(len(learning_rates), dtype=torch.float64, device=learning_rates.device)

    def step(self, parameters: Tensor, gradients: Tensor) -> None:
        """Move the first ``len(gradients)`` rows of ``parameters`` (R, P) in place."""
        active = len(gradients)
        self.steps[:active] += 1
        steps, rates = self.steps[:active], self.learning_rates[:active]
        mean, square = self.mean[:active], self.square[:active]
        mean.lerp_(gradients, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(gradients, gradients, value=1 - self.beta2)
        root = square.sqrt().div_(_column((1 - self.beta2**steps).sqrt())).add_(self.epsilon)
        parameters[:active].mul_(_column(1 - rates * self.weight_decays[:active]))
        parameters[:active].sub_(root.reciprocal_().mul_(mean).mul_(_column(rates / (1 - self.beta1**steps))))

    def keep(self, rows: Tensor) -> None:
        """Drop every run that is not in ``rows`` (int64, ascending)."""
        for name in ("learning_rates", "weight_decays", "mean", "square", "steps"):
            setattr(self, name, getattr(self, name)[rows])


def clip_norms(gradients: Tensor, limit: float) -> None:
    """Scale each row of (R, P) down to the norm ``limit``, in place, as ``torch.nn.utils.clip_grad_norm_`` does."""
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients.mul_((limit / (norms + 1e-6)).clamp_(max=1.0))


def _column(values: Tensor) -> Tensor:
    return values.float().unsqueeze(1)
