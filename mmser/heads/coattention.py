"""Early fusion by co-attention, in the manner of Zhao, Wang and Wang (Interspeech 2022, arXiv 2207.04697).

The paper states that speech and text sequences meet in a co-attention; the authors' follow-up (arXiv 2302.09856) points
to ViLBERT's (Lu et al. 2019, section 3.1). What neither states is a default of ours, and marked so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_choice
from mmser.errors import ProtocolError
from mmser.heads.attention import WAYS, Block, Projected, check_attention
from mmser.heads.batch import Inputs, Sequence
from mmser.heads.layers import Pool, last_state
from mmser.heads.pairs import Pairs


@dataclass(frozen=True)
class CoAttentionOptions:
    """Options of :class:`CoAttention`. [S] stated by the paper's line of work, [D] our default."""

    width: int = 256
    """Both streams are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    blocks: int = 1
    """Co-attention blocks one after the other [D]."""
    feedforward: bool = True
    """Feed-forward layer (four times the width, GELU) after each attention, as in ViLBERT's block [S]."""
    self_attention: str = "none"
    """``none`` [D], or a self-attention block on each stream ``before`` or ``after`` (ViLBERT) each co-attention."""
    queries: str = "all"
    """Who asks in the last co-attention: ``all`` states of a stream [D], or its ``last`` one alone, as MulT reads out
    its streams (Tsai et al. 2019); ``pooling`` finds one vector: ``mean``."""
    positions: str = "none"
    """Added to both streams: ``none`` [D], or a sinusoidal encoding (Vaswani et al. 2017, 3.5) of the ``word`` of the
    transcript that a state belongs to, or of the ``time`` of its middle; without it attention can only guess which word
    was spoken how. Ours."""
    pooling: str = "mean"
    """How each stream becomes one vector: ``mean`` [D], ``mean+std`` or ``attention``."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds to its stream; BERT's and ViLBERT's rate [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)
        check_choice("self_attention", self.self_attention, ("none", "before", "after"))
        check_choice("queries", self.queries, ("all", "last"))
        if self.queries == "last" and self.pooling != "mean":
            raise ProtocolError(
                f"pooling is {self.pooling!r}, and queries=last leaves one state a stream, which has no deviation and "
                "nothing beside it to be weighed against; expected pooling=mean, or queries=all"
            )


class PairLayer(nn.Module):
    """One co-attention: each stream asks the other as it was before the layer. Self-attention before or after it."""

    def __init__(self, options: CoAttentionOptions, *, last_alone: bool = False) -> None:
        """``last_alone``: only the last state of each stream asks, and only it remains."""
        super().__init__()
        self.order, self.last_alone = options.self_attention, last_alone
        self.speech, self.text = _block(options), _block(options)
        if self.order != "none":
            self.speech_self, self.text_self = _block(options), _block(options)

    def forward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> tuple[Sequence, Sequence]:
        """Both streams."""
        if self.order == "before":
            speech, text = self._look_inward(speech, text, key)
        asking = (last_state(speech), last_state(text)) if self.last_alone else (speech, text)
        speech, text = self.speech(asking[0], text, key), self.text(asking[1], speech, key)
        if self.order == "after":
            speech, text = self._look_inward(speech, text, key)
        return speech, text

    def _look_inward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> tuple[Sequence, Sequence]:
        return self.speech_self(speech, speech, key), self.text_self(text, text, key)


def _block(options: CoAttentionOptions) -> Block:
    return Block(
        options.width,
        options.heads,
        options.block_dropout,
        feedforward=options.feedforward,
        alike=options.positions != "none",
    )


class Pair(nn.Module):
    """One granularity of speech and the text: project, co-attend, pool both, concatenate."""

    def __init__(self, granularity: str, inputs: Inputs, options: CoAttentionOptions) -> None:
        super().__init__()
        self.speech_input = Projected(granularity, inputs, options.width, options.positions)
        self.text_input = Projected("text", inputs, options.width, options.positions)
        last = options.blocks - 1 if options.queries == "last" else None
        self.layers = nn.ModuleList(PairLayer(options, last_alone=i == last) for i in range(options.blocks))
        self.speech_pool = Pool(options.width, options.pooling)
        self.text_pool = Pool(options.width, options.pooling)
        self.out_dim = self.speech_pool.out_dim + self.text_pool.out_dim

    def forward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> Tensor:
        """The pooled pair (B, out_dim)."""
        speech, text = self.speech_input(speech), self.text_input(text)
        for layer in self.layers:
            speech, text = layer(speech, text, key)
        return torch.cat([self.speech_pool(speech), self.text_pool(text)], -1)


class CoAttention(Pairs):
    """Speech and text ask each other. Several granularities: one pair each, concatenated before the last layer."""

    pair = Pair

    def attentions(self) -> dict[str, str]:
        """Both ways in each block; where only the last state asks, its weights are a row."""
        return {
            f"{name}.{number}.{way}": f"pairs.{name}.layers.{number}.{stream}.attention"
            for name in self.pairs
            for number in range(self.options.blocks)
            for way, stream in WAYS.items()
        }
