"""Speech recognisers: batches against the plain model of transformers, one recording at a time."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from small_encoders import save_speech, save_text, voice
from small_recognisers import FOR_CTC, LETTERS, WINDOW_S, save_ctc, save_whisper

from mmser.errors import EncoderError, MmserError
from mmser.transcribe import Recognition
from mmser.transcribe.ctc import CtcRecogniser
from mmser.transcribe.recogniser import Unheard, load_recogniser
from mmser.transcribe.whisper import WhisperRecogniser
from mmser.units import SAMPLE_RATE


def ctc(folder: Path) -> CtcRecogniser:
    made = load_recogniser(Recognition(str(folder), device="cpu"))
    assert isinstance(made, CtcRecogniser)
    return made


def whisper(folder: Path, language: str | None = None, task: str = "transcribe") -> WhisperRecogniser:
    made = load_recogniser(Recognition(str(folder), language, task, device="cpu"))
    assert isinstance(made, WhisperRecogniser)
    return made


def humming(num_samples: int, step: float) -> NDArray[np.float32]:
    """A tone in noise: recordings that do not sound alike."""
    tone = 0.3 * np.sin(step * np.arange(num_samples))
    return (tone + 0.2 * voice(num_samples, num_samples)).astype(np.float32)


MIXED = [voice(n, i) for i, n in enumerate((9_000, 16_000, 5_123, 11_777))]
TONES = [humming(n, step) for n, step in ((8_000, 0.1), (16_000, 0.3), (30_000, 0.9), (12_345, 2.0))]


@pytest.mark.parametrize("kind", FOR_CTC)
def test_a_batch_gives_the_letters_that_the_plain_model_gives_one_by_one(kind: str, tmp_path: Path) -> None:
    folder = save_ctc(tmp_path / kind, kind)
    found = ctc(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    assert found.width(9_000) == 9_000, "not batched at all"
    logits, texts = found.logits(MIXED), found.texts(MIXED)
    for waveform, together, text in zip(MIXED, logits, texts, strict=True):
        with torch.inference_mode():
            inputs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
            alone = model(inputs).logits[0]
        assert together.shape == alone.shape
        assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()
        # Graves et al. 2006: join runs, drop blanks; the delimiter stands between words
        path = [symbol for symbol, _ in groupby(alone.argmax(-1).tolist())]
        spelled = "".join(LETTERS[symbol] for symbol in path if symbol not in (0, 1, 2, 3))
        assert text == " ".join(spelled.replace("|", " ").split())
        assert text


def test_a_blank_between_two_letters_that_are_alike_keeps_both(tmp_path: Path) -> None:
    found = ctc(save_ctc(tmp_path))
    said = "--HHE-LL-LO-||<II"
    symbols = [0 if sign == "-" else 1 if sign == "<" else LETTERS.index(sign) for sign in said]
    assert found._spelled(torch.tensor(symbols)) == "HELLO I"


def test_a_recording_too_long_for_ctc_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ctc(save_ctc(tmp_path))
    monkeypatch.setattr("mmser.transcribe.ctc.LONGEST_S", 0.8)
    texts = found.texts(MIXED)
    assert isinstance(texts[1], Unheard)
    assert "1.0 s long and at most 1 s" in texts[1].reason
    assert [texts[i] for i in (0, 2, 3)] == found.texts([MIXED[i] for i in (0, 2, 3)])


def plain_whisper(folder: Path, waveform: NDArray[np.float32], **asked: Any) -> str:
    """As transformers' own documentation transcribes one recording."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)
    is_long = len(waveform) > WINDOW_S * SAMPLE_RATE
    how = {"truncation": False, "padding": "longest", "return_attention_mask": True} if is_long else {}
    inputs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt", **how)
    ids = model.generate(**inputs, return_timestamps=is_long, num_beams=1, do_sample=False, **asked)
    return " ".join(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].split())


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.mark.parametrize("language", [None, "de", "German"])
def test_whisper_in_a_batch_writes_what_it_writes_alone(whisper_folder: Path, language: str | None) -> None:
    found = whisper(whisper_folder, language)
    asked = {"task": "transcribe"} if language is None else {"task": "transcribe", "language": "de"}
    expected = [plain_whisper(whisper_folder, waveform, **asked) for waveform in TONES]
    assert len(set(expected)) > 1
    assert found.texts(TONES) == expected
    if language is not None:
        assert expected != whisper(whisper_folder, "en").texts(TONES)


def test_whisper_reads_a_long_recording_to_its_end(whisper_folder: Path) -> None:
    found = whisper(whisper_folder, "en")
    long = humming(5 * WINDOW_S * SAMPLE_RATE // 2, 0.5)
    alone = plain_whisper(whisper_folder, long, task="transcribe", language="en")
    first = found.texts([long[: WINDOW_S * SAMPLE_RATE]])[0]
    assert isinstance(first, str)
    assert len(alone) > 2 * len(first)
    assert found.texts([TONES[0], long]) == [*found.texts([TONES[0]]), alone]
    assert found.width(len(long)) > found.width(len(TONES[0])) == WINDOW_S * SAMPLE_RATE


def test_a_whisper_that_does_not_end_is_a_failure_not_half_a_text(tmp_path: Path) -> None:
    found = whisper(save_whisper(tmp_path, ends=False), "en")
    for waveform in (TONES[0], humming(3 * WINDOW_S * SAMPLE_RATE, 0.5)):
        (text,) = found.texts([waveform])
        assert isinstance(text, Unheard)
        assert "did not come to an end" in text.reason


def change_generation(folder: Path, **changes: Any) -> None:
    """Of a saved model; None takes a setting out."""
    path = folder / "generation_config.json"
    told = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}), encoding="utf-8")


def test_a_whisper_that_knows_no_times_fails_on_long_recordings_alone(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path)
    change_generation(folder, no_timestamps_token_id=None)
    (long, short) = whisper(folder, "en").texts([humming(5 * WINDOW_S * SAMPLE_RATE // 2, 0.5), TONES[0]])
    assert isinstance(long, Unheard)
    assert "5.0 s long, and beyond 2 s the recogniser needs a generation_config.json" in long.reason
    assert isinstance(short, str)


def test_how_a_whisper_generates_is_in_its_recipe(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path)
    recipe = whisper(folder, "de").recipe
    change_generation(folder, transformers_version="0.0")
    assert whisper(folder, "de").recipe == recipe
    change_generation(folder, suppress_tokens=[1, 2, 3])
    assert whisper(folder, "de").recipe != recipe


def test_a_language_is_one_however_it_is_written(whisper_folder: Path) -> None:
    assert whisper(whisper_folder, "de").recipe["language"] == "de"
    assert whisper(whisper_folder, "DE").recipe == whisper(whisper_folder, "German").recipe
    assert whisper(whisper_folder, "de").recipe == whisper(whisper_folder, "German").recipe
    assert whisper(whisper_folder, "en").recipe != whisper(whisper_folder).recipe


def test_an_english_whisper_takes_english_alone(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path, multilingual=False)
    assert whisper(folder, "en").texts(TONES) == whisper(folder).texts(TONES)
    with pytest.raises(EncoderError, match="knows English alone, not 'de'"):
        whisper(folder, "de")
    with pytest.raises(EncoderError, match="does not translate"):
        whisper(folder, None, "translate")


def test_what_cannot_transcribe_is_refused_by_name(tmp_path: Path, whisper_folder: Path) -> None:
    with pytest.raises(EncoderError, match="does not know the language 'tlh'; it knows de, en"):
        whisper(whisper_folder, "tlh")
    with pytest.raises(EncoderError, match="is a bert; expected Whisper"):
        ctc(save_text(tmp_path / "bert", "bert"))
    with pytest.raises(EncoderError, match=r"lacks 2 weights \(lm_head"):
        ctc(save_speech(tmp_path / "bare", "wav2vec2-group"))
    with pytest.raises(EncoderError, match=r"speech recogniser .* could not be loaded"):
        ctc(tmp_path / "nowhere")
    folder = save_ctc(tmp_path / "ctc")
    with pytest.raises(EncoderError, match="language and task are for Whisper alone"):
        load_recogniser(Recognition(str(folder), language="en", device="cpu"))
    other = save_ctc(tmp_path / "more", letters=[*LETTERS, "Ä"])
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(EncoderError, match="32 signs, its blank is number 0, and the model puts out 33 symbols"):
        ctc(folder)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(MmserError, match="task 'sing': expected one of transcribe, translate"):
        Recognition("model", task="sing")
    with pytest.raises(MmserError, match="0 processes is impossible"):
        Recognition("model", jobs=0)
    with pytest.raises(MmserError, match="more than 0"):
        Recognition("model", batch_seconds=0.0)
