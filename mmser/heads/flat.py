"""States of several utterances end to end, without padding between them.

A batch padded to its longest utterance is mostly padding where lengths are spread as those of speech are. What a head
does to each state by itself (projections, feed-forward layers, norms) is most of its arithmetic and needs no padding;
only in attention do states meet, and there they stand utterance by utterance, a few utterances of about one length at
a time. Both changes of layout are one gather of rows, and so are their gradients: each place knows where its state
stands in the other layout.
"""

from collections.abc import Sequence as Listed
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmser.heads.batch import Sequence
from mmser.heads.function import Function


class _Rows(Function):
    """``source[index]`` of (N, D), whose gradient is ``gradient[back]`` where ``held``, and 0 elsewhere.

    torch's own gradient of a gather adds up whatever was taken of a row. Here at most one of the copies of a row sways
    the result, which ``back`` names, so the way back is a gather as fast as the way there.
    """

    @staticmethod
    def forward(source: Tensor, index: Tensor, back: Tensor, held: Tensor) -> Tensor:  # noqa: ARG004
        return source.index_select(0, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        back, held = ctx.saved_tensors
        return gradient.index_select(0, back).mul_(held.unsqueeze(-1)), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        """Many runs are one long list: each run's numbers count from where its rows begin."""
        size = info.batch_size
        source, index, back, held = (
            own.expand(size, *own.shape) if dim is None else own.movedim(dim, 0)
            for own, dim in zip(inputs, in_dims, strict=True)
        )
        runs = torch.arange(size, device=index.device).unsqueeze(-1)
        index, back = index + runs * source.shape[1], back + runs * index.shape[1]
        rows = _Rows.apply(source.flatten(0, 1), index.flatten(), back.flatten(), held.flatten())
        return rows.unflatten(0, (size, -1)), 0


def members(sequence: Sequence) -> Tensor:
    """Which states are whose: (B, S) bool, for a flat ``sequence``."""
    flat = sequence.flat
    assert flat is not None
    utterances = torch.arange(len(sequence.mask), device=flat.utterance.device)
    return (flat.utterance == utterances.unsqueeze(-1)) & flat.held


def padded(sequence: Sequence) -> Sequence:
    """The same states as (B, T, D), without what else they know; what stands in the padding is finite."""
    flat, mask = sequence.flat, sequence.mask
    if flat is None:
        return sequence
    assert sequence.values.dim() == 2, "layers are mixed before states are padded"
    index = flat.first.unsqueeze(-1) + torch.arange(mask.shape[1], device=mask.device)
    index = torch.minimum(index, (flat.first + mask.sum(-1) - 1).clamp(min=0).unsqueeze(-1))
    back = flat.utterance * mask.shape[1] + flat.step
    values = _Rows.apply(sequence.values, index.flatten(), back, flat.held)
    return Sequence(values.unflatten(0, mask.shape), mask)


class Layout(NamedTuple):
    """Where attention heads find their shares of S flat states, in P places utterance by utterance, and the way back.

    The places of a part of b utterances, of which the longest has T', are its (b, heads, T'); P are those of all parts.
    """

    rows: Tensor
    """(P,) int64: which of the S * heads shares stands at a place; in the padding any."""
    real: Tensor
    """(P,) bool: False in the padding."""
    back: Tensor
    """(S * heads,) int64: the place of each share."""
    held: Tensor
    """(S * heads,) bool: False for shares of what only fills up."""


def layout_of(sequence: Sequence, heads: int) -> Layout | None:
    """The layout for attention with so many ``heads``; None for a sequence that is not flat."""
    flat = sequence.flat
    if flat is None:
        return None
    number = torch.arange(heads, device=flat.places.device)
    sizes = [mask.shape for mask in flat.masks]
    states = [
        part.unflatten(0, size) for part, size in zip(flat.places.split([b * t for b, t in sizes]), sizes, strict=True)
    ]
    rows = [(part.unsqueeze(1) * heads + number.unsqueeze(-1)).flatten() for part in states]
    real = [mask.unsqueeze(1).expand(-1, heads, -1).flatten() for mask in flat.masks]
    back = (flat.begin * heads + flat.step).unsqueeze(-1) + number * flat.width.unsqueeze(-1)
    return Layout(torch.cat(rows), torch.cat(real), back.flatten(), flat.held.repeat_interleave(heads))


def split(values: Tensor, sequence: Sequence, layout: Layout | None, heads: int, parts: Listed[int]) -> list[Tensor]:
    """What attention heads see of a sequence's ``values``, a part of the utterances at a time.

    Args:
        values: (B, T, D), or (S, D) for a flat ``sequence``.
        sequence: whose values they are.
        layout: :func:`layout_of` the sequence and ``heads``.
        heads: among which D is shared out.
        parts: number of utterances in each part (:func:`parts_of`).

    Returns:
        For each part (b, heads, T', D / heads), T' the states of its longest utterance.
    """
    if sequence.flat is None or layout is None:
        return list(values.unflatten(-1, (heads, -1)).transpose(1, 2).split(list(parts)))
    found = _Rows.apply(values.unflatten(-1, (heads, -1)).flatten(0, 1), layout.rows, layout.back, layout.held)
    sizes = [(len(mask), heads, mask.shape[1]) for mask in sequence.flat.masks]
    pieces = found.split([b * h * t for b, h, t in sizes])
    return [piece.unflatten(0, size) for piece, size in zip(pieces, sizes, strict=True)]


def joined(found: Listed[Tensor], layout: Layout | None) -> Tensor:
    """The way back of :func:`split`: to (B, T, D), or to (S, D) for a flat sequence."""
    if layout is None:
        return torch.cat(list(found)).transpose(1, 2).flatten(2)
    source = torch.cat([one.flatten(0, 2) for one in found])
    shares = _Rows.apply(source, layout.back, layout.rows, layout.real)
    return shares.unflatten(0, (-1, found[0].shape[1])).flatten(1)


def parts_of(*sequences: Sequence) -> list[int]:
    """How many utterances meet at a time in attention between ``sequences``: all, if none of them is flat."""
    for sequence in sequences:
        if sequence.flat is not None:
            return [len(mask) for mask in sequence.flat.masks]
    return [len(sequences[0].mask)]


def masks_of(sequence: Sequence, parts: Listed[int]) -> list[Tensor]:
    """Where states are, for each part (b, T')."""
    return list(sequence.mask.split(list(parts))) if sequence.flat is None else list(sequence.flat.masks)
