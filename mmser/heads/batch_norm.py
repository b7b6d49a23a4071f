"""Batch normalisation that padding has no part in."""

from typing import Any

import torch
from torch import Tensor, nn

from mmser.heads.function import Function


class MaskedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics are those of the valid steps, then ReLU if asked; 0 in the padding.

    Zeros that fill up a batch would pull mean and variance towards 0 by as much as the utterances of the batch differ
    in length, in training alone: the running statistics would then be wrong for every utterance that is not padded.
    Parameters, buffers and defaults are those of ``nn.BatchNorm2d``.
    """

    def __init__(self, num_features: int, relu: bool = False) -> None:
        super().__init__(num_features)
        self.relu = relu

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise (B, C, T, F); ``mask`` (B, T) bool, None: all is valid. What lies in the padding has no meaning."""
        if self.training and mask is not None:
            values, mean, variance = _Normalise.apply(input, mask, self.weight, self.bias, self.eps, self.relu)
            self._note(mean, variance)
            return values
        values = super().forward(input)
        if self.relu:
            values = values.relu_()
        return values if mask is None else values * mask[:, None, :, None].to(values.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by ``momentum``, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


class _Normalise(Function):
    """Values, and the statistics of the valid steps: their mean and unbiased variance, both (C,).

    Written with torch's own operations on masked tensors, as many passes over memory as a convolution's time go into
    products with the mask and their gradients. Instead the padding is filled with the mean, and torch normalises the
    whole. The mean stays what it is, and the variance becomes ``share`` times as large, ``share`` being how much of the
    whole is valid; with ``share`` times the epsilon and the root of ``share`` times the weight, what comes out is the
    same.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, epsilon: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid = mask[:, None, :, None]
        steps = max(1, int(mask.sum()))
        count, share = steps * input.shape[3], steps / mask.numel()
        mean = (input.sum(3) * mask[:, None]).sum((0, 2)) / count
        # Less the mean, which torch would subtract from the product with the scale: it would lose digits.
        filled = (input - mean[:, None, None]).mul_(valid)
        weight, epsilon = weight * share**0.5, epsilon * share
        values, found, inverse = torch.native_batch_norm(filled, weight, bias, None, None, True, 0.0, epsilon)
        variance = (inverse.double().pow(-2) - epsilon).clamp(min=0) / share * (count / max(1, count - 1))
        if relu:
            values.relu_()
        values *= valid
        ctx.save_for_backward(values, filled, mask, weight, found, inverse)
        ctx.relu, ctx.epsilon, ctx.share = relu, epsilon, share
        variance = variance.to(mean.dtype)
        ctx.mark_non_differentiable(mean, variance)
        return values, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, filled, mask, weight, mean, inverse = ctx.saved_tensors
        valid = mask[:, None, :, None]
        # ReLU's is 0 wherever the value is, in the padding too.
        gradient = torch.ops.aten.threshold_backward(gradient, values, 0) if ctx.relu else gradient * valid
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, filled, weight, None, None, mean, inverse, True, ctx.epsilon, [True, True, True]
        )
        # That takes the filling for constants. It is the mean of the valid steps, which have its gradient to share.
        through_mean = weight * inverse * of_bias * (1 - 1 / ctx.share) / (mask.numel() * filled.shape[3])
        of_input = of_input.add_(through_mean[:, None, None]).mul_(valid)
        return of_input, None, of_weight * ctx.share**0.5, of_bias, None, None
