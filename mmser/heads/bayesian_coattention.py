"""Co-attention with random weights, in the manner of Zhao, Wang and Wang (ICASSP 2023, arXiv 2302.09856).

The randomness is that of Bayesian attention modules (Fan et al., NeurIPS 2020, arXiv 2010.10604): an attention weight
is not a number but a Weibull variable whose mean is the exponential of the score. The source takes its prior over words
from an emotion lexicon [S]. mmser brings none (they have licences of their own) and reads yours; without one, the prior
is a learned score. Either enters the weights as a factor [D]; the divergence from the prior that Fan et al. add to
their loss is left out. Marks: [S] stated by those sources, [D] our default where they could not be read.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.heads.attention import WAYS, Attention, Block, Projected, check_attention
from mmser.heads.batch import Inputs, Sequence
from mmser.heads.dropout import KeyedUniform
from mmser.heads.flat import layout_of, split
from mmser.heads.layers import Pool
from mmser.heads.pairs import Pairs


@dataclass(frozen=True)
class BayesianCoAttentionOptions:
    """Options of :class:`BayesianCoAttention`."""

    width: int = 256
    """Both streams are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    shape: float = 10.0
    """Weibull shape k: the larger, the less random; a weight's deviation is about 1.28 / k of it [D]."""
    prior: str = "contextual"
    """Over the states asked, the same for every query and head: ``contextual``, a learned linear score of each state
    (Fan et al.: a prior that depends on the keys [S]); ``lexicon``, the weight of its word in an emotion lexicon
    (:attr:`mmser.train.options.Experiment.lexicon`) times a learned number that begins at 1; or ``none``."""
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
        check_number("shape", self.shape, least=0)
        if self.shape == 0:
            raise ProtocolError("shape is 0; expected more: a Weibull variable has a positive shape")
        check_choice("prior", self.prior, ("contextual", "lexicon", "none"))


class StochasticAttention(Attention):
    """Attention whose weights before they are normalised are Weibull variables of mean exp(score + prior).

    With u even in (0, 1), exp(score) (-log u)^(1/k) / Gamma(1 + 1/k) is such a variable. Without a key, as in
    evaluation, each is its mean, which is plain attention.
    """

    def __init__(self, width: int, heads: int, shape: float, prior: str) -> None:
        super().__init__(width, heads)
        self.shape = shape
        self.prior = nn.Linear(width, 1, bias=False) if prior == "contextual" else None
        self.trust = nn.Parameter(torch.ones(1)) if prior == "lexicon" else None
        self.draw = KeyedUniform()

    def weigh(self, scores: list[Tensor], context: Sequence, parts: list[int], key: Tensor | None) -> list[Tensor]:
        """The scores under the prior, and drawn about their means by ``key`` (B,)."""
        if self.prior is not None:
            scores = self._with(scores, self.prior(context.values), context, parts)
        if self.trust is not None:
            assert context.lexicon is not None, "the batch holds no lexicon: HeadKind.links() asks for it"
            scores = self._with(scores, self.trust * context.lexicon.unsqueeze(-1), context, parts)
        return scores if key is None else [self._drawn(*own) for own in zip(scores, key.split(parts), strict=True)]

    def _with(self, scores: list[Tensor], prior: Tensor, context: Sequence, parts: list[int]) -> list[Tensor]:
        """Scores with a ``prior`` of each state of the context (B, N, 1)."""
        priors = split(prior, context, layout_of(context, 1), 1, parts)
        return [own + one.transpose(-1, -2) for own, one in zip(scores, priors, strict=True)]

    def _drawn(self, scores: Tensor, key: Tensor) -> Tensor:
        # exp(-log Gamma) cancels in the softmax but is the variable's scale: kept, so that its mean is exp(score)
        return scores + (-self.draw(scores.shape, key).log()).log() / self.shape - math.lgamma(1 + 1 / self.shape)


class Pair(nn.Module):
    """The text and one granularity of speech: project, co-attend, pool both, concatenate."""

    def __init__(self, granularity: str, inputs: Inputs, options: BayesianCoAttentionOptions) -> None:
        super().__init__()
        width = options.width
        self.speech_input = Projected(granularity, inputs, width)
        self.text_input = Projected("text", inputs, width)
        self.speech, self.text = (
            Block(
                width,
                options.heads,
                options.block_dropout,
                feedforward=options.feedforward,
                attention=StochasticAttention(width, options.heads, options.shape, options.prior),
            )
            for _ in range(2)
        )
        self.speech_pool, self.text_pool = Pool(width, options.pooling), Pool(width, options.pooling)
        self.out_dim = self.speech_pool.out_dim + self.text_pool.out_dim

    def forward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> Tensor:
        """The pooled pair (B, out_dim)."""
        speech, text = self.speech_input(speech), self.text_input(text)
        by_speech, by_text = self.speech(speech, text, key), self.text(text, speech, key)
        return torch.cat([self.speech_pool(by_speech), self.text_pool(by_text)], -1)


class BayesianCoAttention(Pairs):
    """Co-attention (one block each way) that draws its weights in training and uses their means in evaluation."""

    pair = Pair

    def attentions(self) -> dict[str, str]:
        """Both ways; without a key in the batch the weights are the means of those that training draws."""
        return {
            f"{name}.0.{way}": f"pairs.{name}.{stream}.attention" for name in self.pairs for way, stream in WAYS.items()
        }
