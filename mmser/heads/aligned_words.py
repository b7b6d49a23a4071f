"""Each word as it was written beside the same word as it was spoken. Ours.

Attention between the streams has to find out which segment is which word; the alignment knows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.heads.attention import Block, check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import Pool, StreamInput


@dataclass(frozen=True)
class AlignedWordsOptions:
    """Options of :class:`AlignedWords`; all defaults are ours [D]."""

    width: int = 256
    """Speech and text of a word, concatenated, are projected to this width [D]."""
    heads: int = 8
    """Attention heads; they share the width [D]."""
    blocks: int = 1
    """Self-attention blocks over the words [D]; 0: none."""
    feedforward: bool = True
    """Feed-forward layer (four times the width, GELU) after each attention [D]."""
    pooling: str = "attention"
    """How the words become one vector: ``attention`` [D], ``mean`` or ``mean+std``."""
    block_dropout: float = 0.1
    """Rate on what each attention and feed-forward adds [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self, blockless=True)


class AlignedWords(Head):
    """For each word of the transcript: [mean of its speech states; mean of its tokens], then self-attention, pooling.

    A word's speech states are its segments of each granularity (at ``phone``, its phones; at ``frame``, its frames). A
    word that the aligner did not find has zeros for speech, the training data's mean; speech that belongs to no word
    of the transcript is not seen.
    """

    def __init__(self, inputs: Inputs, num_outputs: int, options: AlignedWordsOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        self.text_input = StreamInput("text", inputs.text_dim, inputs.text_layers)
        self.speech_inputs = nn.ModuleDict(
            {name: StreamInput(name, inputs.speech_dim, inputs.speech_layers) for name in inputs.granularities}
        )
        dim = inputs.text_dim + len(inputs.granularities) * inputs.speech_dim
        self.project = nn.Linear(dim, options.width)
        self.blocks = nn.ModuleList(
            Block(options.width, options.heads, options.block_dropout, feedforward=options.feedforward)
            for _ in range(options.blocks)
        )
        self.pool = Pool(options.width, options.pooling)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(self.pool.out_dim, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees (B, classify.in_features)."""
        assert batch.text is not None, "aligned-words needs text in the batch"
        text = batch.text._replace(values=self.text_input(batch.text.values))
        speech = [
            batch.speech[name]._replace(values=stream(batch.speech[name].values))
            for name, stream in self.speech_inputs.items()
        ]
        parts = [mean_of_word(text, text), *(mean_of_word(text, own) for own in speech)]
        words = Sequence(self.project(torch.cat(parts, -1)), first_of_word(text))
        for block in self.blocks:
            words = block(words, words, batch.key)
        return self.pool(words)


def mean_of_word(tokens: Sequence, states: Sequence) -> Tensor:
    """For each token, the mean of the ``states`` of its word: (B, N, D); zeros where there are none.

    A product with the matrix of who shares a word, so that nothing depends on how many words there are.
    """
    assert tokens.word is not None, "the batch holds no words: HeadKind.links() asks for them"
    assert states.word is not None, "the batch holds no words: HeadKind.links() asks for them"
    same = tokens.word.unsqueeze(-1) == states.word.unsqueeze(-2)
    same = same & (tokens.word >= 0).unsqueeze(-1) & states.mask.unsqueeze(-2)
    return (same / same.sum(-1, keepdim=True).clamp(min=1)) @ states.values


def first_of_word(tokens: Sequence) -> Tensor:
    """Which tokens are the first of a word, (B, N) bool: as many as there are words."""
    assert tokens.word is not None, "the batch holds no words: HeadKind.links() asks for them"
    same = (tokens.word.unsqueeze(-1) == tokens.word.unsqueeze(-2)) & tokens.mask.unsqueeze(-2)
    return (same.tril(-1).sum(-1) == 0) & tokens.mask & (tokens.word >= 0)
