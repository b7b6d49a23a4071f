"""Early fusion by co-attention, in the manner of Zhao, Wang and Wang (Interspeech 2022, arXiv 2207.04697).

The paper states that speech and text sequences meet in a co-attention; the authors' follow-up (arXiv 2302.09856) points
to ViLBERT's (Lu et al. 2019, section 3.1). What neither states is a default of ours, and marked so.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool, StreamInput, masked_softmax


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
    pooling: str = "mean"
    """How each stream becomes one vector: ``mean`` [D], ``mean+std`` or ``attention``."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds to its stream; BERT's and ViLBERT's rate [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "blocks"):
            check_number(name, getattr(self, name), least=1)
        if self.width % self.heads:
            raise ProtocolError(f"width {self.width} does not divide among {self.heads} heads; choose a multiple")
        check_choice("self_attention", self.self_attention, ("none", "before", "after"))
        check_choice("pooling", self.pooling, ("mean", "mean+std", "attention"))
        check_number("block_dropout", self.block_dropout, least=0, below=1)
        check_number("dropout", self.dropout, least=0, below=1)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2), in plain products so that it stacks and shows its weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        # A bias on the keys adds the same number to all scores of a query: softmax drops it, and what gradient it gets
        # is rounding noise, which AdamW would scale up to steps of full size.
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, query: Tensor, context: Sequence) -> tuple[Tensor, Tensor]:
        """Let ``query`` (B, T, width) ask ``context`` (B, N, width).

        Returns:
            Answers (B, T, width) and weights (B, heads, T, N), which are all zero where the context is empty.
        """
        q = self._split(self.query(query))
        k, v = self._split(self.key(context.values)), self._split(self.value(context.values))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = masked_softmax(scores, context.mask[:, None, None, :])
        return self.output((weights @ v).transpose(1, 2).flatten(2)), weights

    def _split(self, values: Tensor) -> Tensor:
        """(B, T, width) to (B, heads, T, width / heads)."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention, residual and LayerNorm; then feed-forward, residual and LayerNorm."""

    def __init__(self, options: CoAttentionOptions) -> None:
        super().__init__()
        width = options.width
        self.attention = Attention(width, options.heads)
        self.attention_dropout = KeyedDropout(options.block_dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width) if options.feedforward else None
        if options.feedforward:
            self.contract = nn.Linear(4 * width, width)
            self.feedforward_dropout = KeyedDropout(options.block_dropout)
            self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, query: Sequence, context: Sequence, key: Tensor | None) -> tuple[Sequence, Tensor]:
        """The ``query`` sequence after asking ``context``, and the weights (B, heads, T, N)."""
        answers, weights = self.attention(query.values, context)
        values = self.attention_norm(query.values + self.attention_dropout(answers, key))
        if self.expand is not None:
            thoughts = self.contract(F.gelu(self.expand(values)))
            values = self.feedforward_norm(values + self.feedforward_dropout(thoughts, key))
        return Sequence(values, query.mask), weights


class PairLayer(nn.Module):
    """One co-attention: each stream asks the other as it was before the layer. Self-attention before or after it."""

    def __init__(self, options: CoAttentionOptions) -> None:
        super().__init__()
        self.order = options.self_attention
        self.speech, self.text = Block(options), Block(options)
        if self.order != "none":
            self.speech_self, self.text_self = Block(options), Block(options)

    def forward(
        self, speech: Sequence, text: Sequence, key: Tensor | None
    ) -> tuple[Sequence, Sequence, dict[str, Tensor]]:
        """Both streams, and the weights of the co-attention by direction."""
        if self.order == "before":
            speech, text = self._look_inward(speech, text, key)
        asked_by_speech, speech_weights = self.speech(speech, text, key)
        asked_by_text, text_weights = self.text(text, speech, key)
        speech, text = asked_by_speech, asked_by_text
        if self.order == "after":
            speech, text = self._look_inward(speech, text, key)
        return speech, text, {"speech_to_text": speech_weights, "text_to_speech": text_weights}

    def _look_inward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> tuple[Sequence, Sequence]:
        return self.speech_self(speech, speech, key)[0], self.text_self(text, text, key)[0]


class Pair(nn.Module):
    """One granularity of speech and the text: project, co-attend, pool both, concatenate."""

    def __init__(self, granularity: str, inputs: Inputs, options: CoAttentionOptions) -> None:
        super().__init__()
        self.speech_input = StreamInput(granularity, inputs.speech_dim, inputs.speech_layers)
        self.text_input = StreamInput("text", inputs.text_dim)
        self.speech_project = nn.Linear(inputs.speech_dim, options.width)
        self.text_project = nn.Linear(inputs.text_dim, options.width)
        self.layers = nn.ModuleList([PairLayer(options) for _ in range(options.blocks)])
        self.speech_pool = Pool(options.width, options.pooling)
        self.text_pool = Pool(options.width, options.pooling)
        self.out_dim = self.speech_pool.out_dim + self.text_pool.out_dim

    def forward(self, speech: Sequence, text: Sequence, key: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The pooled pair (B, out_dim) and the weights by layer and direction."""
        speech = Sequence(self.speech_project(self.speech_input(speech.values)), speech.mask)
        text = Sequence(self.text_project(self.text_input(text.values)), text.mask)
        weights: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            speech, text, found = layer(speech, text, key)
            weights |= {f"{number}.{direction}": value for direction, value in found.items()}
        return torch.cat([self.speech_pool(*speech), self.text_pool(*text)], -1), weights


class CoAttention(Head):
    """Speech and text ask each other. Several granularities: one pair each, concatenated before the last layer."""

    def __init__(self, inputs: Inputs, num_outputs: int, options: CoAttentionOptions) -> None:
        super().__init__()
        self.inputs, self.num_outputs, self.options = inputs, num_outputs, options
        pairs = {name: Pair(name, inputs, options) for name in inputs.granularities}
        self.pairs = nn.ModuleDict(pairs)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(sum(pair.out_dim for pair in pairs.values()), num_outputs)
        number_dropouts(self)

    def forward(self, batch: Batch) -> Tensor:
        """Outputs (B, num_outputs)."""
        return self.forward_with_attention(batch)[0]

    def forward_with_attention(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs, and who looked where.

        Returns:
            Outputs (B, num_outputs), and weights by ``"<granularity>.<layer>.<direction>"``:
            ``speech_to_text`` (B, heads, T, N), in which each speech segment's weights over the tokens sum to 1, and
            ``text_to_speech`` (B, heads, N, T) the other way round.
        """
        assert batch.text is not None, "co-attention needs text in the batch"
        pooled: list[Tensor] = []
        weights: dict[str, Tensor] = {}
        for name, pair in self.pairs.items():
            vector, found = pair(batch.speech[name], batch.text, batch.key)
            pooled.append(vector)
            weights |= {f"{name}.{where}": value for where, value in found.items()}
        return self.classify(self.dropout(torch.cat(pooled, -1), batch.key)), weights
