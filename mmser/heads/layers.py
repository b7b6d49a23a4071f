"""What several heads are built from. Everything keeps the contract of :mod:`mmser.heads`: padding changes nothing."""

import torch
from torch import Tensor, nn

from mmser.heads.batch import Sequence
from mmser.heads.flat import members, padded


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps; zeros where there are none.

    A product of matrices: no copy of ``values`` is made.

    Args:
        values: (B, ..., T, D), finite in the padding too.
        mask: (B, T) bool.

    Returns:
        (B, ..., D)

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).tolist()
    [[2.0]]
    """
    weights = mask.to(values.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)
    for _ in range(values.dim() - 2):
        weights = weights.unsqueeze(1)
    return (weights @ values).squeeze(-2)


def masked_std(values: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation (divisor: the number of valid steps), from centred values; shapes as in :func:`masked_mean`.

    The square root's slope is infinite at 0, so a deviation below 1e-5 comes out as 1e-5 with no gradient.

    >>> round(masked_std(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).item(), 6)
    1.0
    """
    centred = values - masked_mean(values, mask).unsqueeze(-2)
    return masked_mean(centred.square(), mask).clamp(min=1e-10).sqrt()


class Standardise(nn.Module):
    """Subtract ``mean``, divide by ``std``: buffers that are the identity until training fills them in.

    They are filled from the training rows of each run (:meth:`mmser.train.table.Packed.moments`) and saved with the
    head, which therefore takes raw states for ever after.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stream: str, dim: int, layers: int = 1) -> None:
        """``stream``: the granularity, or ``"text"``; the buffers are (D,), or (L, D) for several layers."""
        super().__init__()
        self.stream = stream
        shape = (dim,) if layers == 1 else (layers, dim)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise a sequence (B, T, D) or (B, L, T, D)."""
        if self.mean.dim() == 1:
            return (values - self.mean) / self.std
        return (values - self.mean.unsqueeze(-2)) / self.std.unsqueeze(-2)

    def of_mean(self, mean: Tensor) -> Tensor:
        """What the mean (B, D) or (B, L, D) of a sequence is after standardising the sequence."""
        return (mean - self.mean) / self.std

    def of_std(self, std: Tensor) -> Tensor:
        """What the deviation (B, D) or (B, L, D) of a sequence is after standardising the sequence."""
        return std / self.std


class LayerMix(nn.Module):
    """Sum of encoder layers under softmax weights that are learned, equal at first (SUPERB, Yang et al. 2021, 3.2)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))

    def forward(self, values: Tensor) -> Tensor:
        """(B, L, T, D) to (B, T, D), or (B, L, D) to (B, D). A product of matrices: no copy of ``values`` is made."""
        weights = self.logits.softmax(0).unsqueeze(0)
        return (weights @ values.flatten(2)).squeeze(1).unflatten(1, values.shape[2:])


class PooledStream(nn.Module):
    """Standardise, mix layers and pool in time, in the order that costs least: time first.

    Standardising and mixing are affine, so they commute with the mean over time: the result is that of the order in
    the name, and so are its gradients, but only one vector per layer and utterance is standardised and mixed. For
    ``mean+std`` the deviation is that of each layer's own standardised sequence, mixed like the mean (a deviation does
    not commute with the mix: this is a choice, made so that utterance statistics suffice).
    An empty sequence pools to the mean of the training data, which is 0 after standardising.
    """

    def __init__(self, stream: str, dim: int, layers: int, pooling: str) -> None:
        super().__init__()
        self.standardise = Standardise(stream, dim, layers)
        self.mix = LayerMix(layers) if layers > 1 else None
        self.with_std = pooling == "mean+std"
        self.out_dim = 2 * dim if self.with_std else dim

    def product(self, weight: Tensor, sequence: Sequence) -> Tensor:
        """What ``self(sequence) @ weight.T`` is, for a ``weight`` (C, D) and ``mean`` pooling: (B, C).

        All before the product is affine, so it goes into the weight, C x L x D numbers, instead of into every
        utterance's L x D; the result and its gradients are the same, to rounding, which grows with
        a mean of many deviations as that of the states themselves does.
        """
        assert not self.with_std
        values, mask = sequence.values, sequence.mask
        scale, shift = self.standardise.std.reciprocal(), self.standardise.mean
        if self.mix is not None:
            scale = scale * self.mix.logits.softmax(0).unsqueeze(-1)
        weight = (weight.unsqueeze(1) * scale).flatten(1)
        values = values.squeeze(-2) if values.shape[-2] == 1 else masked_mean(values, mask)
        filled = mask.any(-1, keepdim=True).to(values.dtype)
        # The weight stands on the left: of many runs that share the values it is then one tall matrix to torch, where
        # it would copy the values for each run if they stood there.
        return ((weight @ values.flatten(1).T).T - weight @ shift.flatten()) * filled

    def forward(self, sequence: Sequence) -> Tensor:
        """Pool to (B, out_dim)."""
        values, mask = sequence.values, sequence.mask
        filled = mask.any(-1, keepdim=True).to(values.dtype)
        if values.dim() == 4:
            filled = filled.unsqueeze(-1)
        pooled = self.standardise.of_mean(masked_mean(values, mask)) * filled
        if self.with_std:
            deviation = self.standardise.of_std(masked_std(values, mask)) * filled
            pooled = torch.cat([pooled, deviation], -1)
        return pooled if self.mix is None else self.mix(pooled)


class StreamInput(nn.Module):
    """Standardise a sequence and mix its layers, if it has several: (B, T, D) or (B, L, T, D) to (B, T, D)."""

    def __init__(self, stream: str, dim: int, layers: int = 1) -> None:
        super().__init__()
        self.standardise = Standardise(stream, dim, layers)
        self.mix = LayerMix(layers) if layers > 1 else None

    def forward(self, values: Tensor) -> Tensor:
        """One state a step."""
        values = self.standardise(values)
        return values if self.mix is None else self.mix(values)


class Pool(nn.Module):
    """From a sequence (B, T, D) to one vector (B, out_dim).

    ``mean``; ``mean+std`` (statistics pooling, Snyder et al. 2018); ``attention``: weights from one learned query
    (self-attention pooling, Lin et al. 2017, with one hop and without its hidden layer).
    """

    def __init__(self, dim: int, pooling: str) -> None:
        super().__init__()
        self.with_std = pooling == "mean+std"
        self.score = nn.Linear(dim, 1, bias=False) if pooling == "attention" else None
        self.out_dim = 2 * dim if self.with_std else dim

    def forward(self, sequence: Sequence) -> Tensor:
        """Pool over the valid steps; zeros (and the least deviation) where there are none."""
        if sequence.flat is not None and not self.with_std:
            return self._weights_of_flat(sequence) @ sequence.values
        values, mask = padded(sequence).values, sequence.mask
        if self.score is not None:
            weights = masked_softmax(self.score(values).squeeze(-1), mask)
            return (weights.unsqueeze(-2) @ values).squeeze(-2)
        mean = masked_mean(values, mask)
        return torch.cat([mean, masked_std(values, mask)], -1) if self.with_std else mean

    def _weights_of_flat(self, sequence: Sequence) -> Tensor:
        """Each utterance's weights over all S states, its own and others': (B, S)."""
        own = members(sequence)
        if self.score is not None:
            return masked_softmax(self.score(sequence.values).squeeze(-1), own)
        return own / own.sum(-1, keepdim=True).clamp(min=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis, among the valid entries; all zeros where there are none.

    >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1) * mask


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each feature over the valid steps, (B, T, D) to (B, D); zeros where there are none.

    >>> masked_max(torch.tensor([[[1.0], [-3.0], [9.0]]]), torch.tensor([[True, True, False]])).tolist()
    [[1.0]]
    """
    lowest = torch.finfo(values.dtype).min
    largest = values.masked_fill(~mask.unsqueeze(-1), lowest).amax(-2)
    return largest.masked_fill(~mask.any(-1, keepdim=True), 0.0)


def last_state(sequence: Sequence) -> Sequence:
    """The last valid state of each row, as a sequence of one; zeros, and not valid, where there is none."""
    after = torch.nn.functional.pad(sequence.mask, (0, 1))[..., 1:]
    return as_one(masked_mean(padded(sequence).values, sequence.mask & ~after), sequence.mask)


def as_one(vector: Tensor, mask: Tensor) -> Sequence:
    """A vector (B, D) that stands for a sequence with ``mask`` (B, T), as a sequence of one state."""
    return Sequence(vector.unsqueeze(-2), mask.any(-1, keepdim=True))
