"""CNN14 over log-mel spectrograms, alone or with linguistic conditioning of its blocks (system B).

CNN14 is that of Kong et al. (2020, "PANNs", IEEE/ACM TASLP 28, table I); conditioning is in the manner of
Triantafyllopoulos et al. (arXiv 2110.06650; Frontiers in Computer Science 2023). Marks: [S] stated by the latter, [C]
in public code by PANNs or the same first author, [M] remembered, [D] our default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmser.checks import check_choice, check_number
from mmser.errors import ProtocolError
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.batch_norm import MaskedBatchNorm
from mmser.heads.conditioning import EMBEDDING, Condition, check_place, places_of
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream, masked_mean

CHANNELS = (64, 128, 256, 512, 1024, 2048)
"""Of the six blocks [C]."""
POOLS = (2, 2, 2, 2, 2, 1)
"""Average pooling behind each block, in time and frequency [C]."""
LEAST_FRAMES = 32
"""What the poolings need to leave one frame: 0.32 s."""


@dataclass(frozen=True)
class Cnn14Options:
    """Options of :class:`Cnn14`."""

    width_multiplier: float = 1.0
    """Share of CNN14's channels (64 to 2048) in each block; 1.0 is CNN14 [C], with 80 million
    parameters."""
    block_dropout: float = 0.2
    """Rate behind each block [C]."""
    dropout: float = 0.5
    """Rate before and behind the linear layer of 2048 [C]."""

    def __post_init__(self) -> None:
        check_number("width_multiplier", self.width_multiplier, least=1 / CHANNELS[0])
        check_number("block_dropout", self.block_dropout, least=0, below=1)
        check_number("dropout", self.dropout, least=0, below=1)

    @property
    def places(self) -> list[str]:
        """Where text is added: nowhere."""
        return []


@dataclass(frozen=True)
class ConditionedCnn14Options(Cnn14Options):
    """Options of :class:`ConditionedCnn14`."""

    conditioning: str = "multistage"
    """``multistage``: every block [S]; ``single``: one place [S]."""
    condition_at: str = "6"
    """The place of ``single``: a block, ``1`` to ``6`` (the last [D]), or ``embedding``, the 2048 features before the
    last layer [M]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("conditioning", self.conditioning, ("single", "multistage"))
        check_choice("condition_at", self.condition_at, [*map(str, range(1, len(CHANNELS) + 1)), EMBEDDING])
        check_place(self.conditioning, self.condition_at, "6")

    @property
    def places(self) -> list[str]:
        """Where text is added."""
        return places_of(self.conditioning, self.condition_at, len(CHANNELS))


class ConvBlock(nn.Module):
    """(3x3 convolution without bias, batch norm, ReLU) twice, then average pooling."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = MaskedBatchNorm(outputs, relu=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = MaskedBatchNorm(outputs, relu=True)
        self.pool = pool

    def forward(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Values (B, C, T, F), 0 in the padding, to (B, C', T // pool, F // pool), and the mask of that."""
        values = self.norm1(self.conv1(values), mask)
        values = self.norm2(self.conv2(values), mask)
        values = F.avg_pool2d(values, self.pool)
        # As for one utterance alone, an odd frame at its end is dropped: a pair counts if its second frame does.
        return values, None if mask is None else mask[:, self.pool - 1 :: self.pool]


class Cnn14(Head):
    """CNN14 on log-mel frames. It reads no text and no encoder's states.

    Padding changes nothing: behind every norm it is 0 again, as convolutions pad a single utterance, and the batch
    norms' statistics are those of the valid frames (:class:`~mmser.heads.batch_norm.MaskedBatchNorm`). An utterance of
    fewer than 32 frames is filled up with zeros behind the first norm, the mean of the training data.
    """

    stacks = False

    def __init__(self, inputs: Inputs, num_outputs: int, options: Cnn14Options) -> None:
        super().__init__(inputs, num_outputs, options)
        if inputs.mel_dim < LEAST_FRAMES:
            raise ProtocolError(f"CNN14 halves the mel bins five times: expected at least 32, found {inputs.mel_dim}")
        channels = [round(options.width_multiplier * number) for number in CHANNELS]
        self.norm = MaskedBatchNorm(inputs.mel_dim)
        self.blocks = nn.ModuleList(
            ConvBlock(before, after, pool) for before, after, pool in zip([1, *channels], channels, POOLS, strict=False)
        )
        self.block_dropouts = nn.ModuleList(KeyedDropout(options.block_dropout) for _ in channels)
        self.pooled_dropout = KeyedDropout(options.dropout)
        self.embed = nn.Linear(channels[-1], channels[-1])
        widths = {str(number): width for number, width in enumerate(channels, start=1)} | {EMBEDDING: channels[-1]}
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, "mean") if options.places else None
        self.condition = Condition(inputs.text_dim, widths, options.places)
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(channels[-1], num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # [C]
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees: the embedding, (B, classify.in_features)."""
        assert batch.mel is not None, "CNN14 needs log-mel frames in the batch"
        summary = None
        if self.text is not None:
            assert batch.text is not None, "a conditioned head needs text in the batch"
            summary = self.text(batch.text)
        values, mask = self._normalised(batch.mel)
        for number, (block, dropout) in enumerate(zip(self.blocks, self.block_dropouts, strict=True), start=1):
            values, mask = block(values, mask)
            added = self.condition(str(number), summary)
            if added is not None:
                values = values + added[:, :, None, None]
            values = _hold(dropout(values, batch.key), mask)
        frames = values.mean(3).transpose(1, 2)
        if mask is None:
            mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        largest = frames.masked_fill(~mask.unsqueeze(-1), torch.finfo(frames.dtype).min).amax(1)
        pooled = largest + masked_mean(frames, mask)
        embedding = self.embed(self.pooled_dropout(pooled, batch.key)).relu()
        added = self.condition(EMBEDDING, summary)
        return embedding if added is None else embedding + added

    def _normalised(self, mel: Sequence) -> tuple[Tensor, Tensor | None]:
        """Standardised frames (B, 1, T, bins) of at least 32 frames, and their mask; None where nothing is padded."""
        values, mask = mel.values, mel.mask
        missing = LEAST_FRAMES - values.shape[1]
        if missing > 0:
            values, mask = F.pad(values, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        # A graph that is being exported serves any mask, and so takes no decision by this one.
        heard = mask if torch.compiler.is_compiling() or not bool(mask.all()) else None
        values = self.norm(values.transpose(1, 2).unsqueeze(3), heard).transpose(1, 3)  # norm of (B, bins, T, 1)
        if heard is None:
            return values, None
        lengths = mask.sum(1, keepdim=True).clamp(min=LEAST_FRAMES)
        return values, torch.arange(values.shape[2], device=mask.device) < lengths


class ConditionedCnn14(Cnn14):
    """CNN14 whose blocks are told what was said: e is the mean of the token states, without [CLS] and [SEP] [S].

    z_l = ConvBlock_l(z_(l-1)) + ReLU(W_l e + b_l), behind the block's norm, ReLU and pooling and before its dropout
    [C]. e is standardised as text is for every head; the encoder's layer, or mix of layers, is ``--text-layer``'s.
    """


def _hold(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, C, T, F) with 0 in the padding; ``mask`` (B, T), None: there is none."""
    return values if mask is None else values * mask[:, None, :, None].to(values.dtype)
