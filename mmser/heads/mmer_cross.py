"""Crossing twice and gating, in the manner of MMER (Ghosh et al., Interspeech 2023, arXiv 2203.16794).

MMER's auxiliary losses (contrastive learning, augmentation of the text) are not part of the head. Marks: [S] stated by
that source, [D] our default where it could not be read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.heads.attention import Block, Projected, check_attention
from mmser.heads.batch import Inputs, Sequence
from mmser.heads.flat import padded
from mmser.heads.layers import masked_max, masked_mean
from mmser.heads.pairs import Pairs


@dataclass(frozen=True)
class MmerCrossOptions:
    """Options of :class:`MmerCross`."""

    width: int = 256
    """Both streams are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    feedforward: bool = True
    """Feed-forward layer (four times the width, GELU) after each attention [D]."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds to its stream [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)


class Cross(nn.Module):
    """The text and one granularity of speech."""

    def __init__(self, granularity: str, inputs: Inputs, options: MmerCrossOptions) -> None:
        super().__init__()
        width = options.width
        self.speech_input = Projected(granularity, inputs, width)
        self.text_input = Projected("text", inputs, width)
        self.text_asks_speech, self.speech_asks_text, self.text_asks_answers = (
            Block(width, options.heads, options.block_dropout, feedforward=options.feedforward) for _ in range(3)
        )
        self.gate = nn.Linear(2 * width, width)
        self.out_dim = 3 * width

    def forward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> Tensor:
        """(B, 3 * width): the crossed text, what the gate lets through, and the mean of speech."""
        speech, text = self.speech_input(speech), self.text_input(text)
        heard = self.text_asks_speech(text, speech, key).values
        read = self.speech_asks_text(speech, text, key)
        back = self.text_asks_answers(text, read, key).values
        gated = self.gate(torch.cat([heard, back], -1)).sigmoid() * back
        answers = padded(text._replace(values=torch.cat([heard, gated], -1)))
        crossed = masked_max(answers.values, answers.mask)
        return torch.cat([crossed, masked_mean(padded(speech).values, speech.mask)], -1)


class MmerCross(Pairs):
    """Text asks speech, speech asks text, text asks those answers; gate, maximum over tokens, and pooled speech [S].

    The gate is a sigmoid of both crossings and scales the second [D]; pooled speech is its mean [D].
    """

    pair = Cross

    def attentions(self) -> dict[str, str]:
        """Both ways, and where text looked among the answers that speech got (``1.text_to_speech``)."""
        asking = {
            "0.speech_to_text": "speech_asks_text",
            "0.text_to_speech": "text_asks_speech",
            "1.text_to_speech": "text_asks_answers",
        }
        return {
            f"{name}.{where}": f"pairs.{name}.{block}.attention"
            for name in self.pairs
            for where, block in asking.items()
        }
