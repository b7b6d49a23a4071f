"""Linguistic conditioning of convolutions: what the blocks of :mod:`cnn14` and :mod:`conditioned_states` share.

Multistage conditioning (Triantafyllopoulos et al., arXiv 2110.06650; Frontiers in Computer Science 2023) adds to the
output of every block l what it makes of the sentence: z_l = ConvBlock_l(z_(l-1)) + ReLU(W_l e + b_l), the same at every
time and frequency. Single-stage conditioning does so at one point.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmser.errors import ProtocolError

CONDITIONINGS = ("none", "single", "multistage")
EMBEDDING = "embedding"
"""As a place to condition at: the vector before the last layer."""


class Condition(nn.Module):
    """ReLU(W_l e + b_l) for the places l that are conditioned, 0 for the others."""

    def __init__(self, dim: int, widths: dict[str, int], places: Sequence[str]) -> None:
        """From e (B, ``dim``) to ``widths[place]`` features at each of ``places``."""
        super().__init__()
        self.projections = nn.ModuleDict({place: nn.Linear(dim, widths[place]) for place in places})

    def forward(self, place: str, summary: Tensor | None) -> Tensor | None:
        """What to add at ``place``, (B, widths[place]); None: nothing."""
        if place not in self.projections:
            return None
        assert summary is not None, "a conditioned head needs text in the batch"
        return torch.relu(self.projections[place](summary))


def check_place(conditioning: str, condition_at: str, default: str) -> None:
    """Refuse a place that is named and that nothing would be added at.

    Raises:
        ProtocolError: ``condition_at`` is not its ``default``, and ``conditioning`` is not ``single``.
    """
    if conditioning != "single" and condition_at != default:
        raise ProtocolError(
            f"condition_at is {condition_at!r}, which is the place of conditioning=single; found {conditioning}: give "
            "conditioning=single too, or leave condition_at out"
        )


def places_of(conditioning: str, condition_at: str, blocks: int) -> list[str]:
    """Where ``conditioning`` adds: blocks by number from 1, or the embedding.

    >>> places_of("multistage", "", 3), places_of("single", "embedding", 3), places_of("none", "", 3)
    (['1', '2', '3'], ['embedding'], [])
    """
    every = [str(number) for number in range(1, blocks + 1)]
    return {"none": [], "single": [condition_at], "multistage": every}[conditioning]
