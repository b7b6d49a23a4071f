"""Frozen speech encoders: waveforms in, layer states out, the same whatever they are batched with.

wav2vec2-base, HuBERT-base and WavLM-base normalise the output of their first convolution over time (a group norm with
one group a channel), so zeros padded to a waveform change every state of it, and the attention mask does not help.
Here that norm takes its statistics over each utterance's own frames. Every encoder is tried at loading: if its states
still depend on the company in a batch, it is run one utterance at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import nn

from mmser.errors import EncoderError
from mmser.extract import builtin
from mmser.extract.loading import load, load_model, parse_source, relative_error, weights_digest
from mmser.units import SAMPLE_RATE, FrameGrid

TOLERANCE = 1e-5
"""Largest difference between batched and single states, as a share of the largest value (float32)."""


class MaskedGroupNorm(nn.Module):
    """Group norm over each utterance's own frames, for inputs padded in time.

    Runs torch's own group norm on each utterance without its padding, so the result is the single utterance's to the
    last bit. ``lengths`` is set before each forward pass.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.lengths: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (batch, channels, frames); frames behind an utterance's end become 0."""
        if all(length == x.shape[-1] for length in self.lengths):
            return self.norm(x)
        out = torch.zeros_like(x)
        for i, length in enumerate(self.lengths):
            out[i, :, :length] = self.norm(x[i : i + 1, :, :length])[0]
        return out


class SpeechEncoder:
    """A frozen encoder with a convolutional front end (wav2vec 2.0, HuBERT, WavLM, data2vec-audio, XLS-R).

    Args:
        name: hub id, folder name or ``builtin:...``.
        model: the transformers model; its group norm, if it has one, is replaced by :class:`MaskedGroupNorm`.
        normalise: whether each waveform is brought to mean 0 and variance 1, as the model's own processor says.
        revision: the commit of the hub repository, where there is one.
        device: where it runs.

    Raises:
        EncoderError: the model does not take waveforms.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        normalise: bool,
        revision: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.model, self.normalise, self.revision = name, model, normalise, revision
        self.device = torch.device(device)
        self._digest = weights_digest(model)
        config = self.model.config
        kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
        if not kernels or not strides:
            raise EncoderError(
                f"speech model {self.name!r} ({config.model_type}) has no convolutional front end on waveforms; "
                "expected wav2vec 2.0, HuBERT, WavLM or data2vec-audio"
            )
        hop, field = 1, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        self.grid = FrameGrid(hop, field)
        self.dim = int(config.hidden_size)
        self.num_layers = int(config.num_hidden_layers) + 1
        self._first = FrameGrid(strides[0], kernels[0])
        self._masked_norm: MaskedGroupNorm | None = None
        first = self.model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = self._masked_norm = MaskedGroupNorm(first.layer_norm)
        self.model = self.model.to(self.device).eval()
        self.batchable = self._check_batching()

    def identity(self) -> dict[str, object]:
        """What decides the states, for the recipe of a stream."""
        model = self.model
        return {
            "encoder": self.name,
            "revision": self.revision,
            "weights_sha256": self._digest,
            "architecture": type(model).__name__,
            "normalise": self.normalise,
            "hop": self.grid.hop,
            "field": self.grid.field,
        }

    @torch.inference_mode()
    def states(self, waveforms: Sequence[NDArray[np.float32]], layers: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Layer states of a batch.

        Args:
            waveforms: mono, 16 kHz, each at least one receptive field long.
            layers: which layers; 0 is the input of the first block, i the output of block i.

        Returns:
            States (num_layers, batch, frames, dim) on the encoder's device, and the frames of each utterance; what lies
            behind an utterance's frames has no meaning.
        """
        assert all(len(w) >= self.grid.field for w in waveforms)
        if not self.batchable and len(waveforms) > 1:
            parts = [self.states([w], layers) for w in waveforms]
            longest = max(lengths[0] for _, lengths in parts)
            padded = [F.pad(s, (0, 0, 0, longest - s.shape[2])) for s, _ in parts]
            return torch.cat(padded, dim=1), [lengths[0] for _, lengths in parts]
        samples = [len(w) for w in waveforms]
        batch = torch.zeros(len(waveforms), max(samples))
        for i, waveform in enumerate(waveforms):
            batch[i, : len(waveform)] = torch.from_numpy(self._normalised(waveform))
        if self._masked_norm is not None:
            self._masked_norm.lengths = [self._first.num_frames(n) for n in samples]
        # Without a mask the attention takes its faster path; nothing is padded then.
        mask = None
        if min(samples) < max(samples):
            mask = (torch.arange(max(samples))[None] < torch.tensor(samples)[:, None]).long().to(self.device)
        with torch.backends.cudnn.flags(allow_tf32=False):
            hidden = self.model(
                batch.to(self.device), attention_mask=mask, output_hidden_states=True, return_dict=True
            ).hidden_states
        return torch.stack([hidden[layer] for layer in layers]), [self.grid.num_frames(n) for n in samples]

    def _normalised(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.normalise:
            return waveform
        # As Wav2Vec2FeatureExtractor does, over the utterance's own samples
        return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)

    def _check_batching(self) -> bool:
        """Whether a padded utterance keeps its states, measured on noise."""
        self.batchable = True
        rng = np.random.default_rng(0)
        long, short = (rng.standard_normal(n).astype(np.float32) for n in (12 * self.grid.hop + self.grid.field, 3000))
        layers = range(self.num_layers)
        together, lengths = self.states([long, short], layers)
        alone, _ = self.states([short], layers)
        return relative_error(together[:, 1:, : lengths[1]], alone) <= TOLERANCE


def load_speech_encoder(given: str, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load a speech encoder by hub id (``ID`` or ``ID@REVISION``), local folder, or ``builtin:...``.

    Raises:
        EncoderError: not found, incomplete, not a waveform encoder, or trained at another rate than 16 kHz.
    """
    if given.startswith(builtin.PREFIX):
        model, name, normalise, revision = builtin.speech_model(given), given, True, None
    else:
        source = parse_source(given)
        processor = load(source, "the processor of speech model", transformers.AutoFeatureExtractor.from_pretrained)
        if processor.sampling_rate != SAMPLE_RATE:
            raise EncoderError(
                f"speech model {given!r} expects {processor.sampling_rate} Hz; mmser extracts at {SAMPLE_RATE} Hz"
            )
        model = load_model(source, "speech model")
        name, normalise = source.name, bool(getattr(processor, "do_normalize", False))
        revision = getattr(model.config, "_commit_hash", None) or source.revision
    return SpeechEncoder(name, model, normalise=normalise, revision=revision, device=device)
