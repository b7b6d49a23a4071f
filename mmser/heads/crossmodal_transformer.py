"""Stacks of cross-modal blocks with a focus on their attention, in the manner of cross-modal transformers (2023).

They follow MulT (Tsai et al., ACL 2019, arXiv 1906.00295), which is the source of what is marked so here.

The metric-learning loss that some add lies between utterances: it is an option of training, for every head
(:attr:`mmser.train.options.Training.metric_weight`).
Marks: [S] stated by MulT, [M] remembered of it and not confirmed, [D] our default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_number
from mmser.errors import ProtocolError
from mmser.heads.attention import WAYS, Block, Projected, check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool


@dataclass(frozen=True)
class CrossmodalTransformerOptions:
    """Options of :class:`CrossmodalTransformer`."""

    width: int = 256
    """Both streams are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    blocks: int = 4
    """Cross-modal blocks each way; MulT has four or five, by data set [M]."""
    focus: float = 1.0
    """Attention scores are multiplied by it: above 1 attention gathers on few states, below 1 it spreads [D]."""
    self_attention: bool = True
    """A self-attention block on each crossed stream, as MulT has before it reads out [M]."""
    positions: str = "none"
    """Added to both streams: ``none`` [D], or an encoding of the ``word`` or ``time`` of each state; ours."""
    feedforward: bool = True
    """Feed-forward layer (four times the width, GELU) after each attention [D]."""
    pooling: str = "mean"
    """How each stream becomes one vector: ``mean`` [D], ``mean+std`` or ``attention``."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds to its stream [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)
        check_number("focus", self.focus, least=0)
        if self.focus == 0:
            raise ProtocolError("focus is 0; expected more: nothing would be told apart")


class Crossing(nn.Module):
    """One stream, remade block by block from the other, which stays as it was: (B, T, width) to (B, out_dim)."""

    def __init__(self, options: CrossmodalTransformerOptions) -> None:
        super().__init__()

        def block(focus: float) -> Block:
            return Block(
                options.width,
                options.heads,
                options.block_dropout,
                feedforward=options.feedforward,
                focus=focus,
                alike=options.positions != "none",
            )

        self.blocks = nn.ModuleList(block(options.focus) for _ in range(options.blocks))
        self.inward = block(1.0) if options.self_attention else None
        self.pool = Pool(options.width, options.pooling)
        self.out_dim = self.pool.out_dim

    def forward(self, query: Sequence, context: Sequence, key: Tensor | None) -> Tensor:
        """The pooled stream."""
        for block in self.blocks:
            query = block(query, context, key)
        if self.inward is not None:
            query = self.inward(query, query, key)
        return self.pool(query)


class CrossmodalTransformer(Head):
    """Each stream asks the other's input again and again [S]; its answers it never sees, unlike co-attention."""

    flat = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: CrossmodalTransformerOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text_input = Projected("text", inputs, options.width, options.positions)
        self.speech_inputs, self.speech, self.text = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        dim = 0
        for name in inputs.granularities:
            self.speech_inputs[name] = Projected(name, inputs, options.width, options.positions)
            self.speech[name], self.text[name] = Crossing(options), Crossing(options)
            dim += 2 * Pool(options.width, options.pooling).out_dim
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(dim, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees: both streams of every granularity pooled, (B, classify.in_features)."""
        assert batch.text is not None, "crossmodal-transformer needs text in the batch"
        text = self.text_input(batch.text)
        found = []
        for name, project in self.speech_inputs.items():
            speech = project(batch.speech[name])
            found.append(self.speech[name](speech, text, batch.key))
            found.append(self.text[name](text, speech, batch.key))
        return torch.cat(found, -1)

    def attentions(self) -> dict[str, str]:
        """Both ways in each block; self-attention looks at no other stream."""
        return {
            f"{name}.{number}.{way}": f"{stream}.{name}.blocks.{number}.attention"
            for name in self.speech_inputs
            for number in range(self.options.blocks)
            for way, stream in WAYS.items()
        }
