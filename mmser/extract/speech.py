"""Frozen speech encoders: waveforms in, layer states out, the same whatever they are batched with.

wav2vec2-base, HuBERT-base and WavLM-base normalise the output of their first convolution over time (a group norm with
one group a channel), so zeros padded to a waveform change every state of it, and the attention mask does not help.
Here that norm takes its statistics over each utterance's own frames. data2vec-audio stacks positional convolutions,
which carry what the first of them makes of the padding back into the utterance; here padding is 0 before each. Every
encoder is tried at loading, in float32: if its states still depend on the company in a batch, it is run one utterance
at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from mmser import products
from mmser.errors import EncoderError
from mmser.extract import builtin
from mmser.extract.loading import COMPUTE, load, load_model, parse_source, relative_error, weights_digest
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


class MaskedFrames(nn.Module):
    """A layer behind which the frames past each utterance's end are 0, as they are where nothing is padded.

    A convolution reads zeros beyond the end of a single utterance; the next one of a stack must do so in a batch too.
    ``lengths`` is set before each forward pass.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.lengths: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (batch, channels, frames)."""
        out = self.layer(x)
        for i, length in enumerate(self.lengths):
            out[i, :, length:] = 0
        return out


class InFloat32(nn.Module):
    """A layer that computes in float32 inside a model of lower precision, and gives what the next layer takes."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        return self.layer(x.float()).to(self.dtype)


class SpeechEncoder:
    """A frozen encoder with a convolutional front end (wav2vec 2.0, HuBERT, WavLM, data2vec-audio, XLS-R).

    Args:
        name: hub id, folder name or ``builtin:...``.
        model: the transformers model; a group norm is replaced by :class:`MaskedGroupNorm`, stacked positional
            convolutions by :class:`MaskedFrames`.
        normalise: whether each waveform is brought to mean 0 and variance 1, as the model's own processor says.
        revision: the commit of the hub repository, where there is one.
        device: where it runs.

    Raises:
        EncoderError: the model does not take waveforms, or its layers do not have one state a frame (SEW).
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
        self.compute = "float32"
        config = self.model.config
        kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
        front_end = getattr(getattr(self.model, "feature_extractor", None), "conv_layers", None)
        if not kernels or not strides or front_end is None:
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
        _fold_weight_norms(self.model)
        self._masked = _mask_padding(self.model, FrameGrid(strides[0], kernels[0]), self.grid)
        products.for_inference(self.model)
        self.model = self.model.to(self.device).eval()
        self.batchable = self._check_batching()

    def compute_in(self, compute: str) -> None:
        """Change the arithmetic, once, from float32 to ``bf16`` or ``fp16``.

        The first convolution and its norm stay in float32: they see the waveform itself, whose quiet parts 8 bits
        would round away, and statistics over thousands of frames.
        """
        assert self.compute == "float32"
        self.compute = compute
        if compute != "float32":
            layers = self.model.feature_extractor.conv_layers
            first, layers[0] = layers[0], nn.Identity()
            self.model.to(COMPUTE[compute])
            layers[0] = InFloat32(first, COMPUTE[compute])

    def identity(self) -> dict[str, object]:
        """What decides the states, for the recipe of a stream."""
        model = self.model
        return {
            "encoder": self.name,
            "revision": self.revision,
            "weights_sha256": self._digest,
            "architecture": type(model).__name__,
            "compute": self.compute,
            "normalise": self.normalise,
            "hop": self.grid.hop,
            "field": self.grid.field,
        }

    @torch.inference_mode()
    def states(self, waveforms: Sequence[NDArray[np.float32]], layers: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Layer states of a batch.

        Args:
            waveforms: mono, 16 kHz, each at least one receptive field long.
            layers: which layers; 0 is the input of the first block, i the output of block i. The last is the output of
                the encoder: where a closing layer norm follows the last block (as in the large models), behind it.

        Returns:
            States (num_layers, batch, frames, dim) on the encoder's device, in the type it computes in, and the frames
            of each utterance; what lies behind an utterance's frames has no meaning.
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
        for module, grid in self._masked:
            module.lengths = [grid.num_frames(n) for n in samples]
        # Without a mask the attention takes its faster path; nothing is padded then.
        mask = None
        if min(samples) < max(samples):
            mask = (torch.arange(max(samples))[None] < torch.tensor(samples)[:, None]).long().to(self.device)
        # ``enabled`` is False unless one says so, and convolutions then are not cuDNN's.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            output = self.model(batch.to(self.device), attention_mask=mask, output_hidden_states=True, return_dict=True)
        # Releases of transformers differ in whether the last of hidden_states is behind the closing layer norm.
        hidden = (*output.hidden_states[:-1], output.last_hidden_state)
        frames = [self.grid.num_frames(n) for n in samples]
        self._check_form(hidden, max(frames))
        return torch.stack([hidden[layer] for layer in layers]), frames

    def _check_form(self, hidden: Sequence[torch.Tensor], frames: int) -> None:
        found = (len(hidden), sorted({h.shape[1] for h in hidden}))
        if found != (self.num_layers, [frames]):
            raise EncoderError(
                f"speech model {self.name!r} ({self.model.config.model_type}) gives {found[0]} layers of {found[1]} "
                f"states where {self.num_layers} layers of {frames} frames were expected; give an encoder whose blocks "
                "keep the frames of its convolutions"
            )

    def _normalised(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.normalise:
            return waveform
        # As Wav2Vec2FeatureExtractor does, over the utterance's own samples
        return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)

    def _check_batching(self) -> bool:
        """Whether a padded utterance keeps its states, measured on noise."""
        self.batchable = True
        rng = np.random.default_rng(0)
        samples = (self.grid.field + extra for extra in (12 * self.grid.hop, 8 * self.grid.hop + self.grid.hop // 2))
        long, short = (rng.standard_normal(n).astype(np.float32) for n in samples)
        layers = range(self.num_layers)
        together, lengths = self.states([long, short], layers)
        alone, _ = self.states([short], layers)
        return relative_error(together[:, 1:, : lengths[1]], alone) <= TOLERANCE


def _fold_weight_norms(model: nn.Module) -> None:
    """Compute weight-normalised weights (the positional convolution's) once, not at every pass: the same numbers."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _mask_padding(
    model: Any, first: FrameGrid, last: FrameGrid
) -> list[tuple[MaskedGroupNorm | MaskedFrames, FrameGrid]]:
    """Make the parts of a model that see padding despite an attention mask heed it.

    Args:
        model: changed in place.
        first: frames of its first convolution.
        last: frames of its last.

    Returns:
        The parts that need to know how long each utterance is, and in which frames.
    """
    masked: list[tuple[MaskedGroupNorm | MaskedFrames, FrameGrid]] = []
    convolution = model.feature_extractor.conv_layers[0]
    if isinstance(getattr(convolution, "layer_norm", None), nn.GroupNorm):
        convolution.layer_norm = MaskedGroupNorm(convolution.layer_norm)
        masked.append((convolution.layer_norm, first))
    stacked = getattr(getattr(model.encoder, "pos_conv_embed", None), "layers", None)
    if isinstance(stacked, nn.ModuleList):
        for i, layer in enumerate(stacked):
            stacked[i] = wrapped = MaskedFrames(layer)
            masked.append((wrapped, last))
    return masked


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
