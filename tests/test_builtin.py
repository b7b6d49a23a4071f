"""The built-in encoders: the same weights everywhere, a filter bank that is one, and tokens that keep their place."""

import numpy as np
import pytest
import torch

from mmser.errors import EncoderError
from mmser.extract import builtin
from mmser.extract.loading import weights_digest
from mmser.extract.speech import load_speech_encoder
from mmser.extract.text import load_text_encoder
from mmser.units import SAMPLE_RATE, FrameGrid

DIGESTS = {
    ("speech", "builtin:tiny"): "7ce44daf87f5ac72",
    ("speech", "builtin:small"): "37472fe882b5cbc9",
    ("text", "builtin:tiny"): "33e3865eae70b5f2",
    ("text", "builtin:small"): "88c9fcc1d9b9753a",
}
"""Whoever changes the weights changes every cache made with them: then give the encoder another name."""


def digest(kind: str, spec: str) -> str:
    return weights_digest(builtin.speech_model(spec) if kind == "speech" else builtin.text_model(spec)[0])


@pytest.mark.parametrize(("kind", "spec"), DIGESTS)
def test_weights_are_the_same_everywhere_and_for_every_seed(kind: str, spec: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = digest(kind, spec)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert digest(kind, spec) == first
    assert first[:16] == DIGESTS[kind, spec]


def test_what_is_loaded_is_what_is_made() -> None:
    encoder = load_speech_encoder("builtin:tiny")
    assert encoder.identity()["weights_sha256"] == digest("speech", "builtin:tiny")
    assert encoder.batchable
    assert encoder.normalise
    assert encoder.grid == FrameGrid()


@pytest.mark.parametrize("spec", [builtin.PREFIX + name for name in builtin.SIZES])
def test_each_band_peaks_at_its_centre(spec: str) -> None:
    bands = builtin.SIZES[spec.removeprefix("builtin:")].bands
    weights = builtin.speech_model(spec).feature_extractor.conv_layers[0].conv.weight.detach().squeeze(1).double()
    filters = weights.numpy().reshape(bands, 4, -1)
    # Mel after O'Shaughnessy: 2595 log10(1 + f / 700), evenly spaced from 60 to 7600 Hz
    mel = np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), bands)
    centres = 700 * (10 ** (mel / 2595) - 1)
    num_fft = 16_384
    power = (np.abs(np.fft.rfft(filters, num_fft)) ** 2).mean(axis=1)
    peaks = power.argmax(axis=1) * SAMPLE_RATE / num_fft
    # In the lowest band a cosine leans on its own mirror image at negative frequencies
    assert np.all(np.abs(peaks - centres) <= np.maximum(0.05 * np.gradient(centres), 3.0))
    assert np.all(np.diff(peaks) > 0)
    np.testing.assert_allclose(np.linalg.norm(filters, axis=2), 1, atol=1e-6)


def test_the_front_end_hears_a_tone_in_the_band_of_its_frequency() -> None:
    encoder = load_speech_encoder("builtin:tiny")
    bands = builtin.SIZES["tiny"].bands
    mel = np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), bands)
    centres = 700 * (10 ** (mel / 2595) - 1)
    convolution = encoder.model.feature_extractor.conv_layers[0].conv
    for band in (12, 24, 40):
        tone = torch.sin(2 * torch.pi * centres[band] * torch.arange(4000) / SAMPLE_RATE).float()
        with torch.no_grad():
            level = convolution(tone[None, None]).square().mean(-1).view(bands, 4).mean(1)
        assert int(level.argmax()) == band


@pytest.mark.parametrize("make", [builtin.speech_model, builtin.text_model, load_speech_encoder, load_text_encoder])
@pytest.mark.parametrize("spec", ["builtin:huge", "builtin:", "builtin:TINY"])
def test_unknown_names(make: object, spec: str) -> None:
    with pytest.raises(EncoderError, match=f"'{spec}': no such built-in.* there are: builtin:tiny, builtin:small"):
        make(spec)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "pieces", "word"),
    [
        ("I can't!", ["i", "can", "'", "t", "!"], [0, 1, 1, 1, 1]),
        ("YES - he won", ["yes", "-", "he", "won"], [0, -1, 1, 2]),
        ("[LAUGHTER] no", ["[", "laugh", "##t", "##e", "##r", "]", "no"], [0, 0, 0, 0, 0, 0, 1]),
        ("Maß, été", ["m", "##a", "##ß", ",", "é", "##t", "##é"], [0, 0, 0, 0, 1, 1, 1]),
        ("me 漢 you", ["me", "[UNK]", "you"], [0, 1, 2]),
    ],
)
def test_tokens_keep_their_characters_and_their_word(text: str, pieces: list[str], word: list[int]) -> None:
    encoder = load_text_encoder("builtin:tiny")
    tokens = encoder.tokenize(text)
    assert encoder.tokenizer.convert_ids_to_tokens(tokens.token_id.tolist()) == ["[CLS]", *pieces, "[SEP]"]
    assert tokens.word.tolist() == [-1, *word, -1]
    spans = [text[a:b].lower() for a, b in zip(tokens.start, tokens.end, strict=True)][1:-1]
    assert spans == [s if p == "[UNK]" else p.removeprefix("##") for s, p in zip(spans, pieces, strict=True)]
    assert "".join(spans) == "".join(text.lower().split())


def test_every_common_word_is_one_token_and_no_letter_is_unknown() -> None:
    tokenizer = builtin.text_model("builtin:tiny")[1]
    words = builtin.COMMON_WORDS.split()
    assert len(words) == len(set(words))
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    assert [tokenizer.convert_ids_to_tokens(i) for i in ids] == [[w] for w in words]
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789äöüß"
    spelled = tokenizer(f"x{alphabet}", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in spelled
    assert len(spelled) == len(alphabet) + 1
