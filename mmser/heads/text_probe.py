"""The probe's counterpart on text: mean of the token states, linear, linear."""

from dataclasses import dataclass

from torch import Tensor, nn

from mmser.checks import check_choice, check_number
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream


@dataclass(frozen=True)
class TextProbeOptions:
    """Options of :class:`TextProbe`; all defaults are ours [D], chosen to match the speech probe."""

    hidden: int = 256
    """Width of the projection [D]. 0: none, which is multinomial logistic regression."""
    pooling: str = "mean"
    """``mean`` [D] or ``mean+std``, over the tokens in the batch."""
    dropout: float = 0.0
    """Rate before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_number("hidden", self.hidden, least=0)
        check_choice("pooling", self.pooling, ("mean", "mean+std"))
        check_number("dropout", self.dropout, least=0, below=1)


class TextProbe(Head):
    """Text alone, linearly. It ignores the speech in the batch."""

    pools_first = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: TextProbeOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, options.pooling)
        dim = self.text.out_dim
        self.project = nn.Linear(dim, options.hidden) if options.hidden else None
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(options.hidden or dim, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, classify.in_features)."""
        assert batch.text is not None, "a text head needs text in the batch"
        pooled = self.text(batch.text)
        return pooled if self.project is None else self.project(pooled)
