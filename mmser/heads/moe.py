"""A gated mixture of experts, one a stream, in the manner of Data & Knowledge Engineering 150 (2024).

The source's experts read self-supervised states and spectral features [S]: ``text=none``, ``spectral=mel``. Here they
read speech states (each granularity, or each encoder layer of it), text unless told otherwise, and log-mel frames where
that is asked for. Marks: [S] stated by the source, [D] our default where it could not be read. The mechanism is Jacobs
et al. (Neural Computation, 1991).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmser.checks import check_choice, check_number
from mmser.heads.attention import check_attention
from mmser.heads.base import Head
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.dropout import KeyedDropout, number_dropouts
from mmser.heads.layers import PooledStream, Standardise, masked_mean


@dataclass(frozen=True)
class MixtureOfExpertsOptions:
    """Options of :class:`MixtureOfExperts`."""

    width: int = 256
    """Width of each expert's answer, and of its hidden layer [D]."""
    layers: str = "mix"
    """What becomes of several speech layers: a learned ``mix`` for one expert [D], or ``experts``: one a layer."""
    spectral: str = "none"
    """An expert on the mean and deviation of each bin of the ``mel`` spectrogram, or ``none`` [D]: extraction makes
    log-mel frames only where asked (``--mel``)."""
    text: str = "mean"
    """An expert on the ``mean`` of the token states [D], or ``none`` [S]."""
    gate_hidden: int = 0
    """Width of a hidden layer of the gate; 0: the gate is linear [D]."""
    dropout: float = 0.2
    """Rate on the pooled vector before the last linear layer [D]."""

    def __post_init__(self) -> None:
        check_attention(self)
        check_choice("layers", self.layers, ("mix", "experts"))
        check_choice("spectral", self.spectral, ("none", "mel"))
        check_choice("text", self.text, ("mean", "none"))
        check_number("gate_hidden", self.gate_hidden, least=0)


class Layers(nn.Module):
    """The mean of each layer of a stream, standardised: (B, L, T, D) to L vectors (B, D)."""

    def __init__(self, granularity: str, dim: int, layers: int) -> None:
        super().__init__()
        self.standardise = Standardise(granularity, dim, layers)

    def forward(self, sequence: Sequence) -> tuple[Tensor, ...]:
        """An empty sequence gives zeros, the training data's mean."""
        filled = sequence.mask.any(-1)[:, None, None]
        return (self.standardise.of_mean(masked_mean(sequence.values, sequence.mask)) * filled).unbind(-2)


class MixtureOfExperts(Head):
    """sum_i g_i E_i(x_i): each expert a two-layer network on the mean of its stream, g a softmax that sees them all."""

    pools_first = True

    def __init__(self, inputs: Inputs, num_outputs: int, options: MixtureOfExpertsOptions) -> None:
        super().__init__(inputs, num_outputs, options)
        apart = options.layers == "experts" and inputs.speech_layers > 1
        self.speech = nn.ModuleDict(
            {
                name: Layers(name, inputs.speech_dim, inputs.speech_layers)
                if apart
                else PooledStream(name, inputs.speech_dim, inputs.speech_layers, "mean")
                for name in inputs.granularities
            }
        )
        reads_text = options.text == "mean"
        self.text = PooledStream("text", inputs.text_dim, inputs.text_layers, "mean") if reads_text else None
        self.mel = PooledStream("mel", inputs.mel_dim, 1, "mean+std") if options.spectral == "mel" else None
        num_speech = len(inputs.granularities) * (inputs.speech_layers if apart else 1)
        dims = [inputs.speech_dim] * num_speech
        if self.text is not None:
            dims.append(inputs.text_dim)
        if self.mel is not None:
            dims.append(self.mel.out_dim)
        width, hidden = options.width, options.gate_hidden
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width)) for dim in dims
        )
        self.gate = (
            nn.Sequential(nn.Linear(sum(dims), hidden), nn.GELU(), nn.Linear(hidden, len(dims)))
            if hidden
            else nn.Linear(sum(dims), len(dims))
        )
        self.dropout = KeyedDropout(options.dropout)
        self.classify = nn.Linear(width, num_outputs)
        number_dropouts(self)

    def features(self, batch: Batch) -> Tensor:
        """What the last layer sees: the experts' answers under the gate, (B, width)."""
        means: list[Tensor] = []
        for name, stream in self.speech.items():
            found = stream(batch.speech[name])
            means += found if isinstance(found, tuple) else [found]
        if self.text is not None:
            assert batch.text is not None, "moe's text expert needs text in the batch"
            means.append(self.text(batch.text))
        if self.mel is not None:
            assert batch.mel is not None, "moe's spectral expert needs log-mel frames in the batch"
            means.append(self.mel(batch.mel))
        gates = self.gate(torch.cat(means, -1)).softmax(-1)
        answers = torch.stack([expert(mean) for expert, mean in zip(self.experts, means, strict=True)], -2)
        return (gates.unsqueeze(-2) @ answers).squeeze(-2)
