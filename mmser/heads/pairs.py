"""What heads share in which the text meets each granularity of speech by itself."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs
from mmser.heads.dropout import KeyedDropout, number_dropouts


class Pairs(Head):
    """A pair for each granularity, and what they find side by side before the last layer."""

    flat = True
    pair: ClassVar[type[nn.Module]]
    """Made of granularity, inputs and options; has ``out_dim``, and makes (B, out_dim) of speech, text and a key."""

    def __init__(self, inputs: Inputs, num_outputs: int, options: Any) -> None:
        super().__init__(inputs, num_outputs, options)
        self.pairs = nn.ModuleDict({name: self.pair(name, inputs, options) for name in inputs.granularities})
        self.dropout = KeyedDropout(options.dropout)
        dims: list[Any] = [pair.out_dim for pair in self.pairs.values()]
        self.classify = nn.Linear(sum(dims), num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, classify.in_features)."""
        assert batch.text is not None, f"{type(self).__name__} needs text in the batch"
        found = [pair(batch.speech[name], batch.text, batch.key) for name, pair in self.pairs.items()]
        return torch.cat(found, -1)
