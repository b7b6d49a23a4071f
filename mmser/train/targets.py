"""What heads are to say about each row: classes, ratings on dimensions, or both; what is not known is masked."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmser.errors import ProtocolError


class Goal(NamedTuple):
    """The targets of R batches of B rows; rows that do not count say nothing."""

    shares: Tensor
    """(R, B, C) float32: how much each row is of each class; a row of zeros where that is not known."""
    ratings: Tensor
    """(R, B, K) float32, standardised; NaN where not known."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of all rows, on the CPU. A head's outputs are C logits, then K standardised ratings.

    Raises:
        ProtocolError: shapes that do not fit, a class that does not exist, or a share below 0.
    """

    classes: Tensor
    """(n,) int64 class of each row, -1 where not known: what predictions are scored by."""
    shares: Tensor
    """(n, C) float32: the distribution that the loss asks for; a row of zeros where not known. One-hot for plain
    labels, the raters' votes for soft ones. C is 0 where there are no classes to tell."""
    ratings: Tensor
    """(n, K) float32 on the corpus's own scale, NaN where not known. K is 0 where there is nothing to rate."""

    def __post_init__(self) -> None:
        num = len(self.classes)
        if self.shares.shape != (num, self.num_classes) or self.ratings.shape != (num, self.num_ratings):
            raise ProtocolError(
                f"targets have shapes {tuple(self.classes.shape)}, {tuple(self.shares.shape)} and "
                f"{tuple(self.ratings.shape)}; expected (n,), (n, C) and (n, K)"
            )
        wrong = torch.nonzero((self.classes < -1) | (self.classes >= self.num_classes)).flatten()
        if len(wrong):
            row = int(wrong[0])
            expected = f"0 to {self.num_classes - 1}, or -1 where it is not known" if self.num_classes else "-1"
            raise ProtocolError(f"row {row} has label {int(self.classes[row])}; expected {expected}")
        if not bool((self.shares >= 0).all()):
            raise ProtocolError("a row's share of a class is below 0, or no number")

    @classmethod
    def of_classes(cls, classes: Tensor, num_classes: int) -> "Targets":
        """Plain labels: one class each, -1 where not known.

        >>> Targets.of_classes(torch.tensor([1, -1]), 2).shares.tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        """
        classes = classes.cpu()
        shares = (classes.unsqueeze(1) == torch.arange(num_classes)).float()
        return cls(classes, shares, torch.empty(len(classes), 0))

    @property
    def num_classes(self) -> int:
        """C."""
        return self.shares.shape[-1]

    @property
    def num_ratings(self) -> int:
        """K."""
        return self.ratings.shape[-1]

    @property
    def num_outputs(self) -> int:
        """Outputs of a head: C + K."""
        return self.num_classes + self.num_ratings

    @property
    def known(self) -> Tensor:
        """(n,) bool: rows of which a class, a share or a rating is known."""
        return (self.classes >= 0) | (self.shares.sum(1) > 0) | ~self.ratings.isnan().all(1) & (self.num_ratings > 0)

    def only(self, rows: Tensor) -> "Targets":
        """The targets of ``rows``; of all others nothing is known.

        >>> Targets.of_classes(torch.tensor([1, 0]), 2).only(torch.tensor([1])).classes.tolist()
        [-1, 0]
        """
        kept = torch.zeros(len(self.classes), dtype=torch.bool)
        kept[rows] = True
        shares = torch.where(kept.unsqueeze(1), self.shares, 0.0)
        ratings = torch.where(kept.unsqueeze(1), self.ratings, torch.nan)
        return Targets(torch.where(kept, self.classes, -1), shares, ratings)

    def scale_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (K,) of the ratings known in ``rows``: a run's own scale, of its training rows.

        A head learns ratings with mean 0 and deviation 1. The CCC is the same on any scale, if truth and prediction
        share it, so this changes what the outputs mean and nothing about how good they are.
        """
        known = self.ratings[rows].double()
        mean = known.nanmean(0)
        deviation = (known - mean).square().nanmean(0).sqrt()
        return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()

    def goal(self, rows: Tensor, valid: Tensor, mean: Tensor, deviation: Tensor) -> Goal:
        """The targets of rows (R, B) where ``valid`` (R, B), ratings on the runs' scales: mean and deviation (R, K)."""
        shares = self.shares[rows] * valid.unsqueeze(-1)
        ratings = (self.ratings[rows] - mean.unsqueeze(1)) / deviation.unsqueeze(1)
        return Goal(shares, torch.where(valid.unsqueeze(-1), ratings, torch.nan))
