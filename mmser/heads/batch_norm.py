"""Batch normalisation that padding has no part in."""

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics are those of the valid steps; its parameters, buffers and defaults.

    Zeros that fill up a batch would pull mean and variance towards 0 by as much as the utterances of the batch differ
    in length, in training alone: the running statistics would then be wrong for every utterance that is not padded.
    """

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise (B, C, T, F); ``mask`` (B, T) bool, None: all is valid. What lies in the padding has no meaning."""
        if not self.training or mask is None:
            return super().forward(input)
        valid = mask[:, None, :, None].to(input.dtype)
        count = (valid.sum() * input.shape[3]).clamp(min=1)
        mean = (input * valid).sum((0, 2, 3)) / count
        centred = (input - mean[:, None, None]) * valid
        variance = centred.square().sum((0, 2, 3)) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by ``momentum``, as torch does (its variance is the unbiased one)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1
