"""Summaries ask: co-attention in the manner of Siriwardhana et al. (Interspeech 2020, arXiv 2008.06682).

Marks: [S] stated by that source, [D] our default where it could not be read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_choice
from mmser.heads.attention import WAYS, Block, Projected, check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool, as_one


@dataclass(frozen=True)
class ClsCoAttentionOptions:
    """Options of :class:`ClsCoAttention`."""

    width: int = 256
    """Both streams are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    summary: str = "mean"
    """What stands for a stream: its ``mean`` [D], or a learned ``attention`` over it. The source has the encoders' own
    CLS states [S]; wav2vec 2.0 has none, and BERT's special tokens are not among the states that heads see."""
    feedforward: bool = True
    """Feed-forward layer (four times the width, GELU) after each attention [D]."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds to its stream [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)
        check_choice("summary", self.summary, ("mean", "attention"))


class ClsCoAttention(Head):
    """Only each stream's summary vector asks the other stream's sequence, both ways [S]; both answers, concatenated.

    One query a stream: the cost grows with T + N, not with T x N.
    """

    flat = True
    summary_asks = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: ClsCoAttentionOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text_input = Projected("text", inputs, options.width)
        self.text_summary = Pool(options.width, options.summary)
        self.speech_inputs, self.speech_summaries = nn.ModuleDict(), nn.ModuleDict()
        self.speech_asks, self.text_asks = nn.ModuleDict(), nn.ModuleDict()
        for name in inputs.granularities:
            self.speech_inputs[name] = Projected(name, inputs, options.width)
            self.speech_summaries[name] = Pool(options.width, options.summary)
            for asks in (self.speech_asks, self.text_asks):
                asks[name] = Block(options.width, options.heads, options.block_dropout, feedforward=options.feedforward)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(2 * len(inputs.granularities) * options.width, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees: two vectors a granularity, (B, classify.in_features)."""
        assert batch.text is not None, "cls-coattention needs text in the batch"
        text = self.text_input(batch.text)
        of_text = _summary(self.text_summary, text)
        found = []
        for name, project in self.speech_inputs.items():
            speech = project(batch.speech[name])
            of_speech = _summary(self.speech_summaries[name], speech)
            found.append(self.speech_asks[name](of_speech, text, batch.key))
            found.append(self.text_asks[name](of_text, speech, batch.key))
        return torch.cat([answer.values.squeeze(-2) for answer in found], -1)

    def attentions(self) -> dict[str, str]:
        """Both ways, a row each: the summary's."""
        return {
            f"{name}.0.{way}": f"{stream}_asks.{name}.attention"
            for name in self.speech_inputs
            for way, stream in WAYS.items()
        }


def _summary(pool: nn.Module, sequence: Sequence) -> Sequence:
    return as_one(pool(sequence), sequence.mask)
