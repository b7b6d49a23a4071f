"""One learned query pools speech and text as one sequence, in the manner of arXiv 2407.12467 (BSC-UPC, IberLEF 2024).

Marks: [S] stated by that source, [D] our default where it could not be read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.heads.attention import Projected, check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool


@dataclass(frozen=True)
class AttentionPoolOptions:
    """Options of :class:`AttentionPool`."""

    width: int = 256
    """Both streams are projected to this width, so that they fit in one sequence [D]."""
    positions: str = "none"
    """Added to both streams: ``none`` [D], or an encoding of the ``word`` or ``time`` of each state; ours."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)


class AttentionPool(Head):
    """LayerNorm on each stream, streams end to end in time, weights over all states from one learned query [S].

    Speech and text compete for the same weights: an utterance that says it in words is read there. Several
    granularities are further streams.
    """

    def __init__(self, inputs: Inputs, num_outputs: int, options: AttentionPoolOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        names = (*inputs.granularities, "text")
        self.streams = nn.ModuleDict(
            {name: Projected(name, inputs, options.width, options.positions) for name in names}
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(options.width) for name in names})
        self.pool = Pool(options.width, "attention")
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(options.width, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, width)."""
        assert batch.text is not None, "attention-pool needs text in the batch"
        given = {**batch.speech, "text": batch.text}
        found = {name: stream(given[name]) for name, stream in self.streams.items()}
        values = torch.cat([self.norms[name](sequence.values) for name, sequence in found.items()], -2)
        return self.pool(Sequence(values, torch.cat([sequence.mask for sequence in found.values()], -1)))
