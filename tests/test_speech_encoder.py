"""Speech encoders: the states of an utterance are those of the plain model on it alone, whatever it is batched with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_encoders import SPEECH, SPEECH_SIZE, save_speech, voice
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    SEWConfig,
    SEWModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

import mmser.extract.speech
from mmser.errors import EncoderError
from mmser.extract.speech import TOLERANCE, SpeechEncoder, load_speech_encoder
from mmser.units import FrameGrid

MIXED = (8000, 400, 5000, 719, 720, 400)
BATCHES = {
    "mixed": MIXED,
    "permuted": tuple(reversed(MIXED)),
    "other company": (400, 12_000),
    "equal": (5000, 5000, 5000),
    "one sample more": (5000, 5001, 4999),
    "alone": (400,),
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("speech")
    return {kind: save_speech(root / kind, kind) for kind in SPEECH}


def plain_states(folder: Path, waveforms: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
    """(layers, frames, dim) of each utterance alone, by transformers alone."""
    processor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    states = []
    for waveform in waveforms:
        values = processor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            output = model(values, output_hidden_states=True)
        states.append(torch.cat([*output.hidden_states[:-1], output.last_hidden_state]))
    return states


def assert_plain(
    folder: Path, encoder: SpeechEncoder, lengths: Sequence[int], share: float = TOLERANCE
) -> torch.Tensor:
    """Every layer of every utterance of a batch is what the plain model says of that utterance alone."""
    waveforms = [voice(n, seed) for seed, n in enumerate(lengths)]
    states, frames = encoder.states(waveforms, range(encoder.num_layers))
    assert states.shape == (encoder.num_layers, len(lengths), max(frames), encoder.dim)
    for i, expected in enumerate(plain_states(folder, waveforms)):
        assert expected.shape == (4, frames[i], 32)
        for layer in range(4):
            worst = (states[layer, i, : frames[i]].cpu() - expected[layer]).abs().max()
            assert worst <= share * expected[layer].abs().max(), (layer, lengths[i])
    return states


@pytest.mark.parametrize("kind", SPEECH)
def test_states_do_not_depend_on_the_batch(gallery: dict[str, Path], kind: str, library: str) -> None:
    encoder = load_speech_encoder(str(gallery[kind]))
    assert encoder.batchable
    for lengths in BATCHES.values():
        assert_plain(gallery[kind], encoder, lengths)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "hubert-group", "wavlm-group", "data2vec-audio"])
def test_without_masking_padding_would_change_the_states(
    gallery: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmser.extract.speech, "_mask_padding", lambda model, first, last: [])
    encoder = load_speech_encoder(str(gallery[kind]))
    assert not encoder.batchable  # found out at loading
    assert_plain(gallery[kind], encoder, MIXED)  # and still right, one by one
    encoder.batchable = True
    with pytest.raises(AssertionError):
        assert_plain(gallery[kind], encoder, MIXED, share=0.01)


def test_group_norm_of_unlike_lengths_is_that_of_each_alone(gallery: dict[str, Path]) -> None:
    # By the equation: mean 0 and variance 1 a channel, over time, then gain and bias
    norm = nn.GroupNorm(3, 3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.5, 3.0]))
    masked = mmser.extract.speech.MaskedGroupNorm(norm)
    masked.lengths = [6, 4]
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    out = masked(torch.from_numpy(x)).detach().numpy()
    for i, length in enumerate(masked.lengths):
        own = x[i, :, :length]
        unit = (own - own.mean(1, keepdims=True)) / np.sqrt(own.var(1, keepdims=True) + norm.eps)
        expected = unit * np.array([[1.0], [2.0], [-1.0]]) + np.array([[0.0], [0.5], [3.0]])
        np.testing.assert_allclose(out[i, :, :length], expected, atol=1e-5)
    assert (out[1, :, 4:] == 0).all()


@pytest.mark.parametrize("normalise", [True, False])
def test_waveforms_are_normalised_as_the_processor_does(tmp_path: Path, normalise: bool) -> None:
    folder = save_speech(tmp_path / "model", "wav2vec2-layer")
    Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    encoder = load_speech_encoder(str(folder))
    seen: list[torch.Tensor] = []
    encoder.model.feature_extractor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    waveform = voice(5000, 3)
    encoder.states([waveform], [0])
    processor = Wav2Vec2FeatureExtractor(do_normalize=normalise)
    expected = processor(waveform, sampling_rate=16_000, return_tensors="np").input_values
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-6)
    assert (abs(seen[0].mean()) < 1e-5) == normalise
    assert encoder.identity()["normalise"] is normalise


def test_normalising_one_utterance_leaves_its_padding_zero(gallery: dict[str, Path]) -> None:
    encoder = load_speech_encoder(str(gallery["wav2vec2-layer"]))
    seen: list[torch.Tensor] = []
    encoder.model.feature_extractor.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder.states([voice(5000, 0), voice(700, 1)], [0])
    assert seen[0].shape == (2, 5000)
    assert (seen[0][1, 700:] == 0).all()
    assert float(seen[0][1, :700].var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", SPEECH)
def test_layer_0_enters_the_first_block_and_layer_i_leaves_block_i(gallery: dict[str, Path], kind: str) -> None:
    encoder = load_speech_encoder(str(gallery[kind]))
    blocks = encoder.model.encoder.layers
    entered: list[torch.Tensor] = []
    left: list[torch.Tensor] = []

    def first(module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        entered.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(module: nn.Module, args: object, output: object) -> None:
        left.append((output[0] if isinstance(output, tuple) else output).clone())  # type: ignore[attr-defined]

    blocks[0].register_forward_pre_hook(first, with_kwargs=True)
    for block in blocks:
        block.register_forward_hook(leave)
    states, _ = encoder.states([voice(5000, 0)], range(encoder.num_layers))
    if kind in ("wav2vec2-layer", "xls-r"):
        with torch.inference_mode():
            left[-1] = encoder.model.encoder.layer_norm(left[-1])
    torch.testing.assert_close(states, torch.stack([entered[0], *left]), rtol=0, atol=1e-6)
    picked, _ = encoder.states([voice(5000, 0)], [3, 1])
    assert torch.equal(picked, states[[3, 1]])


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((240, 2), (160, 2)), ((7, 5, 3), (3, 4, 1))],
)
def test_frames_are_those_of_the_convolutions(kernels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    size = {**SPEECH_SIZE, "conv_dim": (8,) * len(kernels), "num_feat_extract_layers": len(kernels)}
    config = Wav2Vec2Config(**{**size, "conv_kernel": kernels, "conv_stride": strides, "num_hidden_layers": 1})
    encoder = SpeechEncoder("small", Wav2Vec2Model(config), normalise=False)
    field, hop = encoder.grid.field, encoder.grid.hop
    if len(kernels) == 7:
        assert encoder.grid == FrameGrid() == FrameGrid(320, 400)
    lengths = {field, field + 1, field + hop - 1, field + hop, *(field + 97 * k for k in range(40))}
    for n in sorted(lengths):
        with torch.inference_mode():
            encoder._masked[0][0].lengths = [(n - kernels[0]) // strides[0] + 1]
            frames = encoder.model.feature_extractor(torch.zeros(1, n)).shape[-1]
        assert frames == encoder.grid.num_frames(n), n
    assert encoder.grid.num_frames(field - 1) == 0


def test_a_model_whose_blocks_have_other_frames_is_refused() -> None:
    config = SEWConfig(**{**SPEECH_SIZE, "conv_kernel": (10, 3), "conv_stride": (5, 2), "conv_dim": (16, 16)})
    with pytest.raises(
        EncoderError, match=r"'sew-small' \(sew\) gives 4 layers of \[\d+, \d+\] states where 4 layers of \d+ frames"
    ):
        SpeechEncoder("sew-small", SEWModel(config), normalise=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", SPEECH)
def test_states_on_cuda_are_those_of_the_plain_model(gallery: dict[str, Path], kind: str) -> None:
    encoder = load_speech_encoder(str(gallery[kind]), "cuda")
    assert encoder._digest == load_speech_encoder(str(gallery[kind]))._digest
    assert assert_plain(gallery[kind], encoder, MIXED, share=1e-3).device.type == "cuda"


def test_the_first_convolution_computes_in_single_precision_whatever_the_others_do() -> None:
    encoder, seen = load_speech_encoder("builtin:tiny"), []
    first = encoder.model.feature_extractor.conv_layers[0]
    first.register_forward_hook(lambda _module, _given, made: seen.append(made.clone()))
    encoder.states([voice(5000, 0)], [0])
    encoder.compute_in("bf16")
    encoder.states([voice(5000, 0)], [0])
    assert seen[0].dtype == seen[1].dtype == torch.float32
    assert torch.equal(*seen)
