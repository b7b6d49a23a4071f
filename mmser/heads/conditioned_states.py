"""Linguistic conditioning over cached layer states: an adaptation of system B to what an encoder has heard.

Triantafyllopoulos et al. (arXiv 2110.06650) condition a CNN14 on log-mel spectrograms. Here the same conditioning meets
a stack of one-dimensional convolutions over frame, phone, syllable or word states. This is ours, not the paper's: [A]
marks what is carried over from it, [D] our defaults.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.conditioning import CONDITIONINGS, EMBEDDING, Condition, check_place, places_of
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream, StreamInput, masked_mean


@dataclass(frozen=True)
class ConditionedStatesOptions:
    """Options of :class:`ConditionedStates`."""

    width: int = 256
    """Channels of each block [D]."""
    blocks: int = 3
    """Blocks of two convolutions each [D]; CNN14 has six [A]."""
    kernel: int = 3
    """States that a convolution sees, an odd number [A]."""
    pool: int = 1
    """States that become one behind each block; 1, none, because a sentence has few words [D]. CNN14 takes 2 [A]."""
    conditioning: str = "multistage"
    """``multistage``: every block; ``single``: one place; ``none``: text is read and ignored, so that the same
    utterances count [A]."""
    condition_at: str = "last"
    """The place of ``single``: ``last``, a block by its number from 1, or ``embedding``, before the last layer [A]."""
    block_dropout: float = 0.2
    """Rate behind each block [A]."""
    dropout: float = 0.2
    """Rate before the last layer [D]."""

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "kernel", "pool"):
            check_number(name, getattr(self, name), least=1)
        if self.kernel % 2 == 0:
            raise ProtocolError(f"kernel is {self.kernel}; expected an odd number, so that a state lies in its middle")
        check_choice("conditioning", self.conditioning, CONDITIONINGS)
        check_choice("condition_at", self.condition_at, ["last", *map(str, range(1, self.blocks + 1)), EMBEDDING])
        check_place(self.conditioning, self.condition_at, "last")
        check_number("block_dropout", self.block_dropout, least=0, below=1)
        check_number("dropout", self.dropout, least=0, below=1)

    @property
    def places(self) -> list[str]:
        """Where text is added."""
        at = str(self.blocks) if self.condition_at == "last" else self.condition_at
        return places_of(self.conditioning, at, self.blocks)


class Convolution(nn.Module):
    """A convolution over time as one product of matrices, so that many runs stack; then layer norm and ReLU.

    Layer norm in place of CNN14's batch norm: its statistics are a state's own, so runs train as one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.linear = nn.Linear(kernel * inputs, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, values: Tensor) -> Tensor:
        """(B, T, D), 0 in the padding, to (B, T, outputs)."""
        reach, width = self.kernel // 2, values.shape[1]
        padded = F.pad(values, (0, 0, reach, reach))
        seen = torch.cat([padded[:, step : step + width] for step in range(self.kernel)], -1)
        return self.norm(self.linear(seen)).relu()


class Stack(nn.Module):
    """The blocks over one granularity: two convolutions, pooling in time, conditioning, dropout; then one vector."""

    def __init__(self, granularity: str, inputs: Inputs, options: ConditionedStatesOptions) -> None:
        super().__init__()
        width = options.width
        self.input = StreamInput(granularity, inputs.speech_dim, inputs.speech_layers)
        dims = [inputs.speech_dim] + [width] * options.blocks
        self.first = nn.ModuleList(Convolution(dim, width, options.kernel) for dim in dims[:-1])
        self.second = nn.ModuleList(Convolution(width, width, options.kernel) for _ in dims[:-1])
        self.dropouts = nn.ModuleList(KeyedDropout(options.block_dropout) for _ in dims[:-1])
        widths = {str(number): width for number in range(1, options.blocks + 1)}
        self.condition = Condition(inputs.text_dim, widths, [place for place in options.places if place in widths])
        self.pool = options.pool

    def forward(self, speech: Sequence, summary: Tensor | None, key: Tensor | None) -> Tensor:
        """Largest plus mean state (B, width); 0 where there is none."""
        mask = speech.mask
        values = self.input(speech.values) * mask.unsqueeze(-1)
        blocks = zip(self.first, self.second, self.dropouts, strict=True)
        for number, (first, second, dropout) in enumerate(blocks, start=1):
            values = second(first(values) * mask.unsqueeze(-1)) * mask.unsqueeze(-1)
            values, mask = _pooled(values, mask, self.pool)
            added = self.condition(str(number), summary)
            if added is not None:
                values = values + added.unsqueeze(1)
            values = dropout(values, key) * mask.unsqueeze(-1)
        lowest = torch.finfo(values.dtype).min
        largest = values.masked_fill(~mask.unsqueeze(-1), lowest).amax(1)
        return largest * mask.any(1, keepdim=True) + masked_mean(values, mask)


class ConditionedStates(Head):
    """Convolutions over layer states, told what was said; several granularities: one stack each, concatenated."""

    def __init__(self, inputs: Inputs, num_outputs: int, options: ConditionedStatesOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, "mean") if options.places else None
        self.stacks_of = nn.ModuleDict({name: Stack(name, inputs, options) for name in inputs.granularities})
        dim = options.width * len(inputs.granularities)
        places = [place for place in options.places if place == EMBEDDING]
        self.condition = Condition(inputs.text_dim, {EMBEDDING: dim}, places)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(dim, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees, (B, classify.in_features)."""
        summary = None
        if self.text is not None:
            assert batch.text is not None, "a conditioned head needs text in the batch"
            summary = self.text(batch.text)
        found = [stack(batch.speech[name], summary, batch.key) for name, stack in self.stacks_of.items()]
        embedding = torch.cat(found, -1)
        added = self.condition(EMBEDDING, summary)
        return embedding if added is None else embedding + added


def _pooled(values: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means over every ``size`` states, of those that are valid; the last may have fewer."""
    if size == 1:
        return values, mask
    missing = -values.shape[1] % size
    values = F.pad(values, (0, 0, 0, missing)).unflatten(1, (-1, size)).flatten(0, 1)
    mask = F.pad(mask, (0, missing)).unflatten(1, (-1, size))
    means = masked_mean(values, mask.flatten(0, 1)).unflatten(0, mask.shape[:2])
    return means, mask.any(2)
