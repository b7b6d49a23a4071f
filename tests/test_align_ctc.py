"""CTC alignment: the path against every path there is, the model against plain transformers."""

import json
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from small_corpus import mmser
from small_encoders import SPEECH_SIZE, shake, voice
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from mmser.cache import Cache
from mmser.errors import MmserError
from mmser.extract.align import AlignerOptions, Failed, Spoken, make_aligner
from mmser.extract.align.ctc import CtcAligner, CtcSettings
from mmser.extract.align.ctc_path import best_path, fewest_frames
from mmser.records import Alignment

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'ÄÖÜß"]


def save_ctc(folder: Path, letters: list[str], *, normalise: bool = True) -> Path:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        **SPEECH_SIZE,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        vocab_size=len(letters),
        pad_token_id=0,
    )
    shake(Wav2Vec2ForCTC(config), 3).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True).save_pretrained(folder)
    (folder / "made.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "made.json")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ctc(tmp_path_factory.mktemp("ctc"), LETTERS)


@pytest.fixture(scope="module")
def aligner(model: Path) -> CtcAligner:
    return CtcAligner(str(model))


def noise(num_frames: int, num_symbols: int, seed: int) -> NDArray[np.float32]:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (num_frames, num_symbols)))
    return torch.log_softmax(logits, -1).numpy().astype(np.float32)


def brute_force(log_probs: NDArray[np.float32], tokens: list[int], blank: int) -> tuple[float, list[tuple[int, int]]]:
    """The best of all paths that spell the tokens: its log probability and the frames of each token."""
    best, spans = -np.inf, []
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        runs = [(symbol, len(list(run))) for symbol, run in groupby(path)]
        if [symbol for symbol, _ in runs if symbol != blank] != tokens:
            continue
        score = float(sum(log_probs[frame, symbol] for frame, symbol in enumerate(path)))
        if score > best:
            ends = np.cumsum([length for _, length in runs])
            best = score
            spans = [(int(e) - n, int(e)) for (symbol, n), e in zip(runs, ends, strict=True) if symbol != blank]
    return best, spans


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1], [1, 2, 1, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_best_of_all_paths(tokens: list[int], seed: int) -> None:
    log_probs = noise(7, 3, seed)
    spans = best_path(log_probs, tokens, blank=0)
    _, expected = brute_force(log_probs, tokens, blank=0)
    assert [(s.first, s.end) for s in spans] == expected
    for span, token in zip(spans, tokens, strict=True):
        assert span.score == pytest.approx(log_probs[span.first : span.end, token].mean())


@pytest.mark.parametrize("tokens", [[1, 1, 1], [1, 2, 3, 3]])
def test_a_text_that_just_fits(tokens: list[int]) -> None:
    assert fewest_frames(tokens) == 5
    spans = best_path(noise(5, 4, 0), tokens, blank=0)
    assert all(s.end == s.first + 1 for s in spans)
    assert spans[0].first == 0
    assert spans[-1].end == 5


def test_log_probs_are_those_of_the_plain_model(model: Path, aligner: CtcAligner) -> None:
    samples = voice(12_000, 1)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(model)
    with torch.inference_mode():
        inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
        plain = Wav2Vec2ForCTC.from_pretrained(model).eval()(inputs).logits[0].log_softmax(-1).numpy()
    found = aligner.log_probs(samples)
    np.testing.assert_allclose(found, plain, atol=1e-4)
    # in pieces, each with all the rest as its context, the frames and their values stay
    cut = CtcAligner(str(model), settings=CtcSettings(window_s=0.3, context_s=10.0)).log_probs(samples)
    np.testing.assert_allclose(cut, found, atol=1e-4)


def planted(letters: str) -> NDArray[np.float32]:
    """What a sure model puts out: ``letters`` names each frame's letter, ``-`` the blank."""
    probs = np.full((len(letters), len(LETTERS)), 1e-4, np.float32)
    for frame, letter in enumerate(letters):
        probs[frame, 0 if letter == "-" else LETTERS.index(letter)] = 1.0
    return np.log(probs / probs.sum(1, keepdims=True))


def test_words_are_where_the_model_names_their_letters(aligner: CtcAligner, monkeypatch: pytest.MonkeyPatch) -> None:
    # frames               0    5    10   15
    said = planted("--DDAS-|--IS-ST|----")
    monkeypatch.setattr(aligner, "log_probs", lambda _: said)
    (found,) = aligner.align([Spoken("u1", voice(6_600, 0), "Das [BREATHING] isst!")])
    assert isinstance(found, Alignment), found
    # frame i runs from 40 + 320 i samples on: its centre, less half a hop
    assert [(w.label, w.parent, round(w.start_s * 16_000), round(w.end_s * 16_000)) for w in found.words] == [
        ("das", 0, 40 + 320 * 2, 40 + 320 * 6),
        ("isst", 2, 40 + 320 * 10, 40 + 320 * 15),
    ]
    assert found.flags == ("no-phones",)
    assert (found.syllables, found.phones) == ((), ())
    assert all(-0.01 < word.score < 0 for word in found.words[:1])


@pytest.mark.parametrize(
    ("text", "spelled", "flags"),
    [
        ("Well-known, isn't it?", ["well", "known", "isn't", "it"], []),
        ("Müßig [LAUGHTER] café", ["müßig", "cafe"], []),
        ("Room 21", ["room", "twenty", "one"], []),
        ("да yes", ["yes"], ["skipped:да"]),
        ("xда", ["xда"], ["letters-left-out:xда"]),
        ("'quoted' — rock ’n’ roll", ["quoted", "rock", "n", "roll"], []),
        ("—  [NOISE]", [], []),
    ],
)
def test_spelling(aligner: CtcAligner, text: str, spelled: list[str], flags: list[str]) -> None:
    words, found = aligner.spell(text)
    assert [word.form for word, _ in words] == spelled
    assert found == flags


@pytest.mark.parametrize(
    ("samples", "text", "reason"),
    [
        (voice(0, 0), "word", r"'u1': 0 samples are too few: the model sees 400 at once"),
        (np.zeros(16_000, np.float32), "word", r"the audio is silent"),
        (np.full(16_000, np.nan, np.float32), "word", r"not finite"),
        (voice(16_000, 0), "  ", r"it has no transcript"),
        (voice(16_000, 0), "да", r"no letter of the transcript 'да' is in the vocabulary of"),
        (voice(3_200, 0), "far too many words for this", r"0\.20 s of audio \(9 frames\) cannot hold the 27 letters"),
        (voice(16_000, 0), "word " * 40, r"cannot hold"),
    ],
)
def test_what_cannot_be_aligned_says_why(
    aligner: CtcAligner, samples: NDArray[np.float32], text: str, reason: str
) -> None:
    (found,) = aligner.align([Spoken("u1", samples, text)])
    assert isinstance(found, Failed)
    with pytest.raises(MmserError, match=reason):
        raise MmserError(found.reason)


def test_a_recipe_names_the_model_and_its_letters(aligner: CtcAligner, model: Path) -> None:
    recipe = json.loads(json.dumps(aligner.recipe))
    assert recipe["model"] == model.name
    assert recipe["letters"]["ß"] == LETTERS.index("ß")
    assert "|" not in recipe["letters"]
    assert CtcAligner(str(model)).recipe == aligner.recipe


def test_models_that_cannot_spell(tmp_path: Path) -> None:
    with pytest.raises(MmserError, match="could not be loaded"):
        CtcAligner(str(tmp_path / "none"))
    codes = save_ctc(tmp_path / "codes", ["<pad>", "<s>", "</s>", "<unk>", "|", "AA", "IY"])
    with pytest.raises(MmserError, match=r"its vocabulary has 0 signs .* expected one letter a symbol"):
        CtcAligner(str(codes))


def test_words_of_a_ctc_model_pool_the_states_of_an_encoder(model: Path, tmp_path: Path) -> None:
    rows = ["utterance_id,audio,text"]
    for i, text in enumerate(["das ist gut", "да"]):
        soundfile.write(tmp_path / f"u{i}.wav", voice(16_000, i), 16_000)
        rows.append(f"u{i},u{i}.wav,{text}")
    (tmp_path / "m.csv").write_text("\n".join(rows), encoding="utf-8")
    models = ("--ctc-model", model, "--speech-model", "builtin:tiny", "--text-model", "none")
    where = (tmp_path / "m.csv", "--cache", tmp_path / "cache")
    done = mmser("extract", *where, "--align", "ctc", *models, "--keep", "word", "--device", "cpu")
    assert done.exit_code == 3, done.output
    assert "no letter of the transcript 'да'" in done.output
    cache = Cache(tmp_path / "cache")
    assert len(cache.stream("align/ctc").packed("word", "start_s", utterances=["u0"]).values) == 3
    assert len(cache.stream("pooled/builtin-tiny@ctc").packed("word", "segment", utterances=["u0"]).values) == 3


def test_a_ctc_model_must_be_named() -> None:
    with pytest.raises(MmserError, match=r"'ctc' needs a transformers model for CTC .* add --ctc-model"):
        make_aligner(AlignerOptions("ctc"))
