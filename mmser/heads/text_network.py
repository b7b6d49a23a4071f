"""The text model of system B: a feed-forward network on the mean of the token states.

Triantafyllopoulos et al. (arXiv 2110.06650) compare with text alone; the network's shape is not at hand, so every
figure here is our default.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from mmser.checks import check_number
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream


@dataclass(frozen=True)
class TextNetworkOptions:
    """Options of :class:`TextNetwork`; all defaults are ours [D]."""

    hidden: int = 256
    """Width of each hidden layer [D]."""
    hidden_layers: int = 2
    """Linear layers with ReLU before the last one [D]."""
    dropout: float = 0.2
    """Rate behind each hidden layer [D]."""

    def __post_init__(self) -> None:
        check_number("hidden", self.hidden, least=1)
        check_number("hidden_layers", self.hidden_layers, least=1)
        check_number("dropout", self.dropout, least=0, below=1)


class TextNetwork(Head):
    """e, the mean of the token states without [CLS] and [SEP], through hidden layers with ReLU."""

    pools_first = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: TextNetworkOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, "mean")
        dims = [inputs.text_dim] + [options.hidden] * options.hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.dropouts = nn.ModuleList(KeyedDropout(options.dropout) for _ in dims[2:])
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(options.hidden, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees, before its dropout: (B, classify.in_features)."""
        assert batch.text is not None, "a text head needs text in the batch"
        values = self.hidden[0](self.text(batch.text)).relu()
        for layer, dropout in zip(self.hidden[1:], self.dropouts, strict=True):
            values = layer(dropout(values, batch.key)).relu()
        return values
