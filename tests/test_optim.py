"""The stacked optimiser against torch's plain one, run by run."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mmser.train.optim import clip_scales, stacked_optimizer
from mmser.train.options import Training
from mmser.train.plan import Run

RATES, DECAYS, STEPS = [1e-2, 3e-4, 0.1], [0.0, 0.5, 0.01], [30, 20, 5]
ROWS = np.arange(3)
RUNS = [Run("", ROWS, ROWS, 0, None, rate, decay) for rate, decay in zip(RATES, DECAYS, strict=True)]


def factor_of(run: int, step: int) -> float:
    """A schedule of each run's own."""
    return 1 / (1 + step * (run + 1) / 10)


def adamw(leaf: Tensor, rate: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([leaf], lr=rate, betas=(0.8, 0.98), eps=1e-6, weight_decay=decay, fused=False)


def sgd(leaf: Tensor, rate: float, decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([leaf], lr=rate, momentum=0.7, nesterov=True, weight_decay=decay, foreach=False)


PLAIN = {
    "adamw": (adamw, Training(beta1=0.8, beta2=0.98, epsilon=1e-6, clip_norm=0.3)),
    "sgd": (sgd, Training(optimiser="sgd", momentum=0.7, clip_norm=0.3)),
}


@pytest.mark.parametrize(("plain", "training"), PLAIN.values(), ids=PLAIN)
def test_each_row_moves_as_torchs_optimiser_moves_it(
    plain: Callable[[Tensor, float, float], torch.optim.Optimizer], training: Training
) -> None:
    """Runs with their own rates, decays and numbers of steps; gradients differ by orders of magnitude."""
    noise = torch.Generator().manual_seed(0)
    start = torch.randn(3, 7, generator=noise)
    scale = torch.logspace(-6, 3, 7)
    gradients = torch.randn(30, 3, 7, generator=noise) * scale
    stacked = start.clone()
    optimizer = stacked_optimizer(stacked, [4, 3], RUNS, training)
    for step in range(30):
        active = sum(step < steps for steps in STEPS)
        leaves = gradients[step, :active, :4].reshape(active, 2, 2), gradients[step, :active, 4:].clone()
        factors = [factor_of(run, step) for run in range(active)]
        optimizer.step(stacked, [leaf[:1].clone() for leaf in leaves], factors[:1])
        optimizer.step(stacked, [leaf[1:].clone() for leaf in leaves], factors[1:], first=1)
    for run, (rate, decay, steps) in enumerate(zip(RATES, DECAYS, STEPS, strict=True)):
        alone = start[run].clone().requires_grad_()
        theirs = plain(alone, rate, decay)
        for step in range(steps):
            alone.grad = gradients[step, run].clone()
            torch.nn.utils.clip_grad_norm_([alone], training.clip_norm)
            theirs.param_groups[0]["lr"] = rate * factor_of(run, step)
            theirs.step()
        torch.testing.assert_close(stacked[run], alone.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimiser", PLAIN)
def test_runs_that_are_kept_go_on_as_before(optimiser: str) -> None:
    gradients = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    results = []
    for drop in (False, True):
        weights = torch.ones(3, 5)
        optimizer = stacked_optimizer(weights, [5], RUNS, Training(optimiser=optimiser))
        kept = [0, 1, 2]
        for step in range(4):
            if drop and step == 2:
                kept = [2, 0]
                optimizer.keep(kept)
                weights = weights[kept]
            optimizer.step(weights, [gradients[step, kept]], [1.0] * len(kept))
        results.append(weights if drop else weights[[2, 0]])
    assert torch.equal(*results)


def test_clipping_is_torchs_run_by_run() -> None:
    gradients = torch.randn(3, 9, generator=torch.Generator().manual_seed(2)) * torch.tensor([[0.01], [1.0], [50.0]])
    scales = clip_scales([gradients[:, :4], gradients[:, 4:]], 1.0)
    for before, after in zip(gradients, gradients / scales[:, None], strict=True):
        parameter = torch.zeros(9, requires_grad=True)
        parameter.grad = before.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        torch.testing.assert_close(after, parameter.grad)
