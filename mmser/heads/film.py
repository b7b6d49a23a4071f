"""Text scales and shifts speech: feature-wise linear modulation, in the manner of MSF-SER (arXiv 2510.05749).

FiLM is Perez et al. (AAAI 2018, arXiv 1709.07871). Marks: [S] stated by these sources, [D] our default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.heads.attention import Projected, check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool, PooledStream


@dataclass(frozen=True)
class FilmOptions:
    """Options of :class:`Film`."""

    width: int = 256
    """Speech is projected to this width before text modulates it [D]."""
    pooling: str = "mean"
    """How the modulated speech becomes one vector: ``mean`` [D], ``mean+std`` or ``attention``."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)


class Film(Head):
    """relu((1 + scale(e)) * speech + shift(e)) at every speech state, with e the mean of the token states.

    Scale and shift are linear in e [S]; their sum with 1 leaves speech as it is where text says nothing [S]. The
    ReLU is Perez et al.'s [S]; without it the mean would commute with the modulation, and the states
    would matter by their mean alone.
    """

    def __init__(self, inputs: Inputs, num_outputs: int, options: FilmOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, "mean")
        self.speech, self.films, pools = nn.ModuleDict(), nn.ModuleDict(), {}
        for name in inputs.granularities:
            self.speech[name] = Projected(name, inputs, options.width)
            self.films[name] = nn.Linear(self.text.out_dim, 2 * options.width)
            pools[name] = Pool(options.width, options.pooling)
        self.pools = nn.ModuleDict(pools)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(sum(pool.out_dim for pool in pools.values()), num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees: modulated speech, pooled, (B, classify.in_features)."""
        assert batch.text is not None, "film needs text in the batch"
        summary = self.text(batch.text)
        found = []
        for name, project in self.speech.items():
            speech = project(batch.speech[name])
            scale, shift = self.films[name](summary).unsqueeze(-2).chunk(2, -1)
            modulated = ((1 + scale) * speech.values + shift).relu()
            found.append(self.pools[name](speech._replace(values=modulated)))
        return torch.cat(found, -1)
