"""Attention between two sequences, and where the states of both lie in the utterance."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.heads.batch import Inputs, Sequence
from mmser.heads.dropout import KeyedDropout
from mmser.heads.flat import joined, layout_of, masks_of, parts_of, split
from mmser.heads.layers import StreamInput, masked_softmax
from mmser.heads.linear import Linear

POSITIONS = ("none", "word", "time")
"""What an encoding added to both streams can tell: nothing, which word of the transcript, or when it was spoken."""

WAYS = {"speech_to_text": "speech", "text_to_speech": "text"}
"""Who asks, by the direction in which weights look (:meth:`mmser.heads.base.Head.attentions`)."""

_LONGEST = 100.0
"""Longest wavelength of the encoding, in units of 2 pi positions: 628 words, or a minute; ours. With the 10,000 of
Vaswani et al. (2017, 3.5) most of the width hardly changes over an utterance, and no word is found by its number
(docs/planted_truths.md)."""

_TIME_UNIT_S = 0.1
"""Seconds to a position: the shortest wavelength is 0.63 s, two words or so; ours."""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, 3.2), in plain products so that it stacks and shows its weights."""

    def __init__(self, width: int, heads: int, focus: float = 1.0, *, alike: bool = False) -> None:
        """``focus`` multiplies the scores before the softmax: above 1 the weights gather on fewer states.

        ``alike``: queries and keys begin with the same weights, so that states that share an encoding attract each
        other from the first step; training takes each its way. For streams with positions; ours.
        """
        super().__init__()
        self.heads, self.focus = heads, focus
        self.query = Linear(width, width)
        # A bias on the keys adds the same number to all scores of a query: softmax drops it, and what gradient it gets
        # is rounding noise, which AdamW would scale up to steps of full size.
        self.key = Linear(width, width, bias=False)
        if alike:
            self.key.load_state_dict({"weight": self.query.weight})
        self.value = Linear(width, width)
        self.output = Linear(width, width)

    def forward(self, query: Sequence, context: Sequence, key: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Let ``query`` (B, T, width) ask ``context`` (B, N, width); either may be flat.

        ``key`` is for attention that draws at random.

        Returns:
            Answers, laid out as the query is, and weights (b, heads, T, N) of the utterances that were asked at a time
            (:func:`mmser.heads.flat.parts_of`): all B at once unless flat. They are zero where the context is empty.
        """
        parts = parts_of(query, context)
        asked = self.query(query.values) * (self.focus * (query.values.shape[-1] // self.heads) ** -0.5)
        of_query, of_context = (layout_of(sequence, self.heads) for sequence in (query, context))
        q = split(asked, query, of_query, self.heads, parts)
        k, v = (
            split(layer(context.values), context, of_context, self.heads, parts) for layer in (self.key, self.value)
        )
        scores = self.weigh([a @ b.transpose(-1, -2) for a, b in zip(q, k, strict=True)], context, parts, key)
        masks = masks_of(context, parts)
        weights = [masked_softmax(own, mask[:, None, None, :]) for own, mask in zip(scores, masks, strict=True)]
        answers = joined([a @ b for a, b in zip(weights, v, strict=True)], of_query)
        return self.output(answers), weights

    def weigh(self, scores: list[Tensor], context: Sequence, parts: list[int], key: Tensor | None) -> list[Tensor]:  # noqa: ARG002
        """What a subclass makes of the scores (b, heads, T, N) of each part before the softmax; here nothing."""
        return scores


class Block(nn.Module):
    """Attention, residual and LayerNorm; then feed-forward (four times the width, GELU), residual and LayerNorm."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        *,
        feedforward: bool = True,
        focus: float = 1.0,
        alike: bool = False,
        attention: Attention | None = None,
    ) -> None:
        """``dropout`` is the rate on what each part adds; ``attention`` takes the place of :class:`Attention`."""
        super().__init__()
        self.attention = Attention(width, heads, focus, alike=alike) if attention is None else attention
        self.attention_dropout = KeyedDropout(dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = Linear(width, 4 * width) if feedforward else None
        if feedforward:
            self.contract = Linear(4 * width, width)
            self.feedforward_dropout = KeyedDropout(dropout)
            self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, query: Sequence, context: Sequence, key: Tensor | None) -> Sequence:
        """The ``query`` sequence after asking ``context``."""
        answers, _ = self.attention(query, context, key)
        values = self.attention_norm(query.values + self.attention_dropout(answers, key, query.flat))
        if self.expand is not None:
            thoughts = self.contract(F.gelu(self.expand(values)))
            values = self.feedforward_norm(values + self.feedforward_dropout(thoughts, key, query.flat))
        return query._replace(values=values)


class Projected(nn.Module):
    """A stream as attention takes it: standardised, layers mixed, projected to ``width``, places added."""

    def __init__(self, stream: str, inputs: Inputs, width: int, positions: str = "none") -> None:
        """``stream``: a granularity, or ``"text"``."""
        super().__init__()
        is_text = stream == "text"
        dim = inputs.text_dim if is_text else inputs.speech_dim
        layers = inputs.text_layers if is_text else inputs.speech_layers
        self.input = StreamInput(stream, dim, layers)
        self.project = Linear(dim, width)
        self.positions = positions

    def forward(self, sequence: Sequence) -> Sequence:
        """(B, T, D) or (B, L, T, D) to (B, T, width), or flat as it came; the mask stays."""
        if sequence.flat is None:
            values = self.project(self.input(sequence.values))
        else:  # to what sees each state by itself, S states are one utterance's
            values = self.project(self.input(sequence.values.unsqueeze(0)).squeeze(0))
        if self.positions != "none":
            values = values + encoding(places(sequence, self.positions), values.shape[-1])
        return sequence._replace(values=values)


def places(sequence: Sequence, positions: str) -> Tensor:
    """Where each state lies, (B, T) float32: words, or tenths of a second; below 0 where that is not known."""
    found = sequence.word if positions == "word" else sequence.time
    assert found is not None, f"positions={positions} needs a batch that holds them: HeadKind.links() asks for them"
    return found.float() if positions == "word" else found / _TIME_UNIT_S


def encoding(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of places (..., T), as (..., T, width); zeros where a place is below 0 (Vaswani et al. 3.5).

    >>> encoding(torch.tensor([0.0, -1.0]), 4).tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    half = (width + 1) // 2
    steps = torch.arange(half, device=positions.device) * (-math.log(_LONGEST) / half)
    angles = positions.unsqueeze(-1) * steps.exp()
    waves = torch.cat([angles.sin(), angles.cos()], -1)[..., :width]
    return waves.masked_fill((positions < 0).unsqueeze(-1), 0.0)


def check_attention(options: object, *, blockless: bool = False) -> None:
    """Check what the options of heads with attention share, where they have it.

    Args:
        options: the dataclass.
        blockless: whether it may have no block at all.

    Raises:
        ProtocolError: a width that does not divide among the heads, or a number or word out of range.
    """
    known = vars(options)
    for name, least in (("width", 1), ("heads", 1), ("blocks", 0 if blockless else 1)):
        if name in known:
            check_number(name, known[name], least=least)
    if "heads" in known and known.get("blocks") != 0 and known["width"] % known["heads"]:
        raise ProtocolError(f"width {known['width']} does not divide among {known['heads']} heads; choose a multiple")
    for name in ("block_dropout", "dropout"):
        if name in known:
            check_number(name, known[name], least=0, below=1)
    if "pooling" in known:
        check_choice("pooling", known["pooling"], ("mean", "mean+std", "attention"))
    if "positions" in known:
        check_choice("positions", known["positions"], POSITIONS)
