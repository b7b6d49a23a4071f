"""The probe of SUPERB (Yang et al. 2021): layer mix, linear, mean over time, linear."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_choice, check_number
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream


@dataclass(frozen=True)
class SpeechProbeOptions:
    """Options of :class:`SpeechProbe`; the defaults are SUPERB's emotion task. [S] stated there."""

    hidden: int = 256
    """Width of the projection [S]. 0: none, which is multinomial logistic regression."""
    pooling: str = "mean"
    """``mean`` [S] or ``mean+std``."""
    dropout: float = 0.0
    """Rate before the last linear layer; none in SUPERB [S]."""

    def __post_init__(self) -> None:
        check_number("hidden", self.hidden, least=0)
        check_choice("pooling", self.pooling, ("mean", "mean+std"))
        check_number("dropout", self.dropout, least=0, below=1)


class SpeechProbe(Head):
    """Is the emotion linearly there? Everything before the last layer is linear too.

    SUPERB projects every frame and then takes the mean. The mean of projections is the projection of the mean, so here
    the mean comes first: the same function with the same gradients for 1/T of the work. It follows that the probe on
    the ``utterance`` granularity *is* the probe on ``frame``, but for the statistics that training standardises by:
    there they are those of utterance means. Several granularities are pooled apart and concatenated.
    """

    pools_first = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: SpeechProbeOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        streams = {
            name: PooledStream(name, inputs.speech_dim, inputs.speech_layers, options.pooling)
            for name in inputs.granularities
        }
        self.streams = nn.ModuleDict(streams)
        dim = sum(stream.out_dim for stream in streams.values())
        self.project = nn.Linear(dim, options.hidden) if options.hidden else None
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(options.hidden or dim, num_outputs)
        number_dropouts(self)

    def forward(self, batch: Batch) -> Tensor:
        """Outputs (B, num_outputs)."""
        if self.options.pooling == "mean" and (batch.key is None or not self.options.dropout):
            return self._as_one_product(batch)
        return super().forward(batch)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, classify.in_features)."""
        pooled = torch.cat([stream(batch.speech[name]) for name, stream in self.streams.items()], -1)
        return pooled if self.project is None else self.project(pooled)

    def _as_one_product(self, batch: Batch) -> Tensor:
        """The same without dropout: two linear maps are one, of a few outputs instead of hundreds."""
        weight: Tensor = self.classify.weight
        outputs: Tensor = self.classify.bias
        if self.project is not None:
            outputs = weight @ self.project.bias + outputs
            weight = weight @ self.project.weight
        parts = weight.split([stream.out_dim for stream in self.streams.values()], 1)
        for (name, stream), part in zip(self.streams.items(), parts, strict=True):
            assert isinstance(stream, PooledStream)
            outputs = outputs + stream.product(part, batch.speech[name])
        return outputs
