"""Log-mel spectrograms and openSMILE's descriptors: what lies in the cache is what an independent computation gives."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from small_corpus import IDS, make_corpus, mmser, run, shards, write_noise

import mmser.extract.feature_stream as feature_stream
from mmser.audio import read_audio
from mmser.cache import Cache
from mmser.errors import CacheError, MmserError
from mmser.extract.mel import LogMel
from mmser.extract.work import Work
from mmser.units import SAMPLE_RATE

MEL, SMILE = "mel/cnn14", "opensmile/egemaps"
ALONE = {"speech_model": "none", "text_model": "none", "aligner": "none", "textgrids": None}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def cache(corpus: Path) -> Path:
    path = corpus.parent / "cache"
    summary = run(corpus, path, mel=True, **ALONE)
    assert summary.added == {MEL: 6}
    assert not summary.failures
    return path


def slaney_mel(hertz: float) -> float:
    """Linear below 1 kHz (200/3 Hz a mel), 27 mels for each factor of 6.4 above (Slaney's Auditory Toolbox, 1998)."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def slaney_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def log_mel_by_hand(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The definition, frame by frame and filter by filter."""
    edges = [slaney_hertz(m) for m in np.linspace(slaney_mel(50), slaney_mel(8000), 66)]
    hertz = np.arange(257) * 16_000 / 512
    filters = np.zeros((64, 257))
    for i in range(64):
        low, mid, high = edges[i : i + 3]
        triangle = np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid))
        filters[i] = np.maximum(triangle, 0) * 2 / (high - low)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    x = samples.astype(np.float64)
    mirrored = np.concatenate([x[256:0:-1], x, x[-2:-258:-1]])
    rows = []
    for start in range(0, len(x) + 1, 160):
        spectrum = np.fft.fft(mirrored[start : start + 512] * window)[:257]
        rows.append(10 * np.log10(np.maximum(filters @ np.abs(spectrum) ** 2, 1e-10)))
    return np.array(rows)


@pytest.mark.parametrize("num_samples", [400, 4000, 4001, 4159, 4160, 9123])
def test_log_mel_is_its_definition(num_samples: int) -> None:
    rng = np.random.default_rng(num_samples)
    samples = (0.3 * rng.standard_normal(num_samples)).astype(np.float32)
    samples[: num_samples // 4] = 0  # digital silence lies at the floor
    found = LogMel("<f4").compute(samples)["frame"]
    np.testing.assert_allclose(found, log_mel_by_hand(samples), atol=2e-3)


def test_a_tone_lies_in_its_bin_and_full_scale_fits_float16() -> None:
    time = np.arange(8000) / SAMPLE_RATE
    found = LogMel("<f2").compute(np.sin(2 * np.pi * 1000 * time).astype(np.float32))["frame"]
    edges = [slaney_hertz(m) for m in np.linspace(slaney_mel(50), slaney_mel(8000), 66)]
    assert np.argmin(np.abs(np.array(edges[1:-1]) - 1000)) == found[25].argmax()
    assert np.abs(found).max() < np.finfo(np.float16).max


def test_the_cache_holds_the_frames_of_each_recording(corpus: Path, cache: Path) -> None:
    stream = Cache(cache).stream(MEL)
    assert stream.granularities == ["frame"]
    assert stream.layers == [0]
    for uid in IDS:
        samples = read_audio(corpus.parent / "wav" / f"{uid}.wav").samples
        states = stream.packed("frame", utterances=[uid]).values
        assert states.dtype == np.float16
        assert states.shape == (1, 1 + len(samples) // 160, 64)
        expected = log_mel_by_hand(samples)
        np.testing.assert_allclose(states[0], expected, rtol=2**-11, atol=2e-3)  # half a step of float16


def test_interrupted_or_not_the_bytes_are_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_stream, "SHARD_SECONDS", 2.0)
    run(corpus, tmp_path / "whole", mel=True, **ALONE)
    whole = shards(tmp_path / "whole")
    assert len(whole) == 3

    def stop(_stream: str, done: int, _total: int, _seconds: float) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "cut", report=stop, mel=True, **ALONE)
    assert 0 < len(shards(tmp_path / "cut")) < 3
    run(corpus, tmp_path / "cut", mel=True, **ALONE)
    assert shards(tmp_path / "cut") == whole


def test_what_cannot_be_stored_or_read_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, ["u0", "u1", "u2"])
    (tmp_path / "wav" / "u0.wav").write_bytes(b"no recording")
    loud = np.random.default_rng(0).standard_normal(8000).astype(np.float64) * 1e250
    soundfile.write(tmp_path / "wav" / "u1.wav", loud, SAMPLE_RATE, subtype="DOUBLE")
    result = mmser(
        *("extract", corpus, "--cache", tmp_path / "c", "--speech-model", "none", "--text-model", "none", "--mel")
    )
    assert result.exit_code == 3, result.output
    assert Cache(tmp_path / "c").stream(MEL).utterance_ids == ["u2"]
    assert set(Cache(tmp_path / "c").failures) == {("u0", MEL), ("u1", MEL)}


def test_a_changed_recording_is_redone_on_request(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, ["u0", "u1"])
    run(corpus, tmp_path / "c", mel=True, **ALONE)
    write_noise(tmp_path / "wav" / "u1.wav", 0.7, 99)
    assert not run(corpus, tmp_path / "c", mel=True, **ALONE).added
    assert run(corpus, tmp_path / "c", mel=True, refresh=True, **ALONE).added == {MEL: 1}
    values = Cache(tmp_path / "c").stream(MEL).packed("frame", utterances=["u1"]).values
    expected = log_mel_by_hand(read_audio(tmp_path / "wav" / "u1.wav").samples)
    np.testing.assert_allclose(values[0], expected, rtol=2**-11, atol=2e-3)


def test_another_recipe_is_refused(corpus: Path, cache: Path) -> None:
    with pytest.raises(CacheError, match=r"dtype\.frame was '<f2', now '<f4'"):
        run(corpus, cache, mel=True, dtype="float32", **ALONE)


def test_without_opensmile_the_pip_line_is_given(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(MmserError, match=r"not installed: pip install 'mmser\[opensmile\]' \(free for research only\)"):
        run(corpus, tmp_path / "c", opensmile="egemaps", **ALONE)
    assert not (tmp_path / "c").exists()


def test_opensmile_descriptors_are_openSMILEs(corpus: Path, tmp_path: Path) -> None:  # noqa: N802 - its name
    opensmile = pytest.importorskip("opensmile")
    summary = run(corpus, tmp_path / "c", opensmile="egemaps", **ALONE)
    assert summary.added == {SMILE: 6}
    assert [note for note in summary.notes if "non-commercial use only" in note]
    stream = Cache(tmp_path / "c").stream(SMILE)
    assert stream.granularities == ["frame", "utterance"]
    levels = opensmile.FeatureLevel
    for granularity, level in (("frame", levels.LowLevelDescriptors), ("utterance", levels.Functionals)):
        theirs = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, level)
        assert stream.recipe["names"][granularity] == theirs.feature_names
        for uid in ("u0", "u3", "u5"):
            samples = read_audio(corpus.parent / "wav" / f"{uid}.wav").samples
            expected = theirs.process_signal(samples, SAMPLE_RATE).to_numpy(np.float32)
            np.testing.assert_array_equal(stream.packed(granularity, utterances=[uid]).values[0], expected)


def test_opensmile_hears_full_scale_as_loud_and_names_what_is_too_short(tmp_path: Path) -> None:
    pytest.importorskip("opensmile")
    corpus = make_corpus(tmp_path, ["u0", "u1"])
    write_noise(tmp_path / "wav" / "u0.wav", 0.04, 0)
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    # Peaks of exactly 1.0 would wrap around in 16 bits; a hair less does not.
    tone = np.clip(2 * np.sin(2 * np.pi * 220 * time), -1, 1)
    soundfile.write(tmp_path / "wav" / "u1.wav", tone, SAMPLE_RATE, subtype="FLOAT")
    summary = run(corpus, tmp_path / "c", opensmile="egemaps", **ALONE)
    assert list(summary.failures) == [("u0", SMILE)]
    assert "openSMILE finds no frame in 0.040 s" in summary.failures["u0", SMILE]
    loud = Cache(tmp_path / "c").stream(SMILE).packed("utterance", utterances=["u1"]).values
    soundfile.write(tmp_path / "wav" / "u1.wav", tone * 0.999, SAMPLE_RATE, subtype="FLOAT")
    run(corpus, tmp_path / "d", opensmile="egemaps", **ALONE)
    softer = Cache(tmp_path / "d").stream(SMILE).packed("utterance", utterances=["u1"]).values
    np.testing.assert_allclose(loud, softer, rtol=0.05, atol=0.5)


def test_nothing_to_extract_names_the_new_streams(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(MmserError, match="--align, --mel or --opensmile"):
        run(corpus, tmp_path / "c", **ALONE)
    with pytest.raises(MmserError, match="--opensmile compare: expected one of egemaps, none"):
        run(corpus, tmp_path / "c", opensmile="compare", **ALONE)


@pytest.mark.parametrize("asked", [{"mel": True}, {"opensmile": "egemaps"}])
def test_what_will_be_written_is_said_beforehand(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    if "opensmile" in asked:
        pytest.importorskip("opensmile")
    sizes: dict[str, float] = {}
    monkeypatch.setattr(Work, "announce", lambda self, said: sizes.update(said))
    run(corpus, tmp_path, **ALONE, **asked)
    ((name, stream),) = Cache(tmp_path).streams.items()
    written = sum(
        shard.array(f"{granularity}/states").nbytes for shard in stream.shards for granularity in shard.granularities
    )
    assert written <= sizes[name]
    # openSMILE leaves out up to its window of 60 ms at the end
    assert sizes[name] - written <= (0 if "mel" in asked else len(IDS) * 7 * 25 * 4)
