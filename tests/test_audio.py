"""Recordings: every format becomes the same 16 kHz, and what cannot be used says why."""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mmser.audio import MINIMUM_SAMPLES, Recording, duration_s, read_audio
from mmser.errors import AudioError


def sine(rate: int, seconds: float = 1.0, hz: float = 440.0) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(num: int = 16_000) -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(-0.5, 0.5, num)


def saved(path: Path, samples: NDArray[Any], rate: int = 16_000, subtype: str | None = None) -> Path:
    kind = {".opus": "OGG", ".sph": "NIST"}.get(path.suffix)
    soundfile.write(path, samples, rate, subtype=subtype, format=kind)
    return path


@pytest.mark.parametrize(
    ("suffix", "subtype", "step"),
    [
        ("wav", "PCM_U8", 2**-7),
        ("wav", "PCM_16", 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "PCM_32", 2**-23),
        ("wav", "FLOAT", 2**-24),
        ("wav", "DOUBLE", 2**-24),
        ("flac", "PCM_16", 2**-15),
        ("flac", "PCM_24", 2**-23),
        ("aiff", "PCM_16", 2**-15),
    ],
)
def test_lossless_formats_come_back_to_the_step(tmp_path: Path, suffix: str, subtype: str, step: float) -> None:
    samples = read_audio(saved(tmp_path / f"a.{suffix}", noise(), subtype=subtype)).samples
    assert samples.dtype == np.float32
    assert np.abs(samples - noise()).max() <= step


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3"])
def test_lossy_formats_sound_the_same(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, sine(48_000), 48_000, subtype="OPUS" if name == "a.opus" else None)
    spectrum = np.abs(np.fft.rfft(read_audio(path).samples[:16_000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)  # one second, so bins are 1 Hz apart


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_414, 44_100, 48_000])
def test_resampling_keeps_the_sine(tmp_path: Path, rate: int) -> None:
    path = saved(tmp_path / "a.wav", sine(rate), rate, subtype="FLOAT")
    samples = read_audio(path).samples
    assert len(samples) == 16_000
    inner = slice(800, -800)  # the filter rings where the sine is cut off
    assert np.abs(samples - sine(16_000))[inner].max() < 1e-3


def test_resampling_lets_nothing_fold_back(tmp_path: Path) -> None:
    """A tone of 10 kHz does not fit in 16 kHz; a poor resampler turns it into one of 6 kHz."""
    both = sine(48_000) + sine(48_000, hz=10_000)
    samples = read_audio(saved(tmp_path / "a.wav", both / 2, 48_000, subtype="FLOAT")).samples
    assert np.abs(samples - sine(16_000) / 2)[800:-800].max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_414, 44_100, 192_000])
@pytest.mark.parametrize("num", [4_801, 10_000, 12_345])
def test_number_of_samples_follows_from_the_frames(tmp_path: Path, rate: int, num: int) -> None:
    path = saved(tmp_path / "a.wav", noise(num), rate)
    assert len(read_audio(path).samples) == int(num * 16_000 / rate + 0.5)
    assert duration_s(path) == num / rate


def test_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([noise(), noise() / 2, np.zeros(16_000)], axis=1)
    samples = read_audio(saved(tmp_path / "a.wav", channels, subtype="FLOAT")).samples
    np.testing.assert_allclose(samples, noise() / 2, atol=1e-7)


def test_decoding_by_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.flac", np.stack([noise(), -noise() / 3], axis=1), 44_100)
    whole = read_audio(path)
    monkeypatch.setattr("mmser.audio._BLOCK", 1_000)
    assert_same(read_audio(path), whole)


def assert_same(one: Recording, other: Recording) -> None:
    np.testing.assert_array_equal(one.samples, other.samples)
    assert one.digest == other.digest


def test_digest_is_that_of_the_source(tmp_path: Path) -> None:
    stereo = np.stack([noise(), -noise() / 4], axis=1).astype("<f4")
    path = saved(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    digest = hashlib.sha256(stereo.tobytes() + struct.pack("<II", 44_100, 2)).hexdigest()
    assert read_audio(path).digest == digest
    part = hashlib.sha256(stereo[4_410:8_820].tobytes() + struct.pack("<II", 44_100, 2)).hexdigest()
    assert read_audio(path, 0.1, 0.2).digest == part


def test_digest_is_the_same_in_any_lossless_container(tmp_path: Path) -> None:
    steps = (noise() * 2**15).astype(np.int16)  # each writer rounds in its own way, so round before
    digests = {read_audio(saved(tmp_path / name, steps)).digest for name in ("a.wav", "a.flac", "a.aiff")}
    digests |= {read_audio(saved(tmp_path / "b.wav", steps, 8_000)).digest}
    assert len(digests) == 2, "one for the samples at 16 kHz, another at 8 kHz"


def test_digest_of_a_lossy_file_is_that_of_its_bytes_and_span(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ogg", noise(), 16_000)
    expected = hashlib.sha256(path.read_bytes() + struct.pack("<IIqq", 16_000, 1, 1_600, 8_000)).hexdigest()
    assert read_audio(path, 0.1, 0.6).digest == expected


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_spans(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", noise())
    whole = read_audio(path).samples
    np.testing.assert_array_equal(read_audio(path, 0.25, 0.5).samples, whole[4_000:8_000])
    np.testing.assert_array_equal(read_audio(path, None, 0.5).samples, whole[:8_000])
    np.testing.assert_array_equal(read_audio(path, 0.9).samples, whole[14_400:])
    np.testing.assert_array_equal(read_audio(path, 0.9, 1.04).samples, whole[14_400:])
    assert duration_s(path, 0.25, 0.5) == 0.25
    assert duration_s(path, 0.9, 1.04) == pytest.approx(0.1)


def test_a_symbolic_link_and_a_read_only_file_will_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.wav", noise())
    path.chmod(0o400)
    (tmp_path / "link.wav").symlink_to(path)
    assert_same(read_audio(tmp_path / "link.wav"), read_audio(str(path)))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0), "holds no samples"),
        (noise(MINIMUM_SAMPLES - 1), r"gives 0\.0249 s \(399 samples at 16 kHz\); expected at least 0\.025 s"),
        (np.zeros(16_000), r"is silent: its samples lie within 0 of their mean, expected at least 2\*\*-15 \(3\.1e-05"),
        (np.full(16_000, 0.25), "is silent"),
        (np.stack([noise(), -noise()], axis=1), "is silent: .* check whether its channels cancel"),
        (np.where(np.arange(16_000) == 8_000, np.nan, noise()), r"holds 1 samples .* the first \(nan\) at 0\.5000 s"),
        (np.where(np.arange(16_000) == 8_000, -np.inf, noise()), r"the first \(-inf\) at 0\.5000 s"),
    ],
)
def test_unusable_samples_are_refused(tmp_path: Path, samples: NDArray[np.float64], message: str) -> None:
    path = saved(tmp_path / "bad.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav'.* " + message):
        read_audio(path)


def test_the_quietest_usable_recording(tmp_path: Path) -> None:
    one_step = np.where(np.arange(16_000) % 2, 2.0**-15, -(2.0**-15))
    assert len(read_audio(saved(tmp_path / "a.wav", one_step)).samples) == 16_000
    assert len(read_audio(saved(tmp_path / "b.wav", noise(MINIMUM_SAMPLES))).samples) == MINIMUM_SAMPLES


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0.5, 1.1), r"end_s 1\.1 lies beyond its end at 1\.000 s; correct the manifest"),
        ((1.0, 1.04), r"start_s 1 lies beyond its end at 1\.000 s"),
        ((1.5, None), r"start_s 1\.5 lies beyond its end"),
        ((0.5, 0.5), r"start_s 0\.5 and end_s 0\.5 are no span of time"),
        ((-0.1, 0.5), "no span of time"),
        ((float("nan"), 0.5), "no span of time"),
        ((0.5, 0.51), r"gives 0\.0100 s \(160 samples"),
    ],
)
def test_spans_outside_the_recording_are_refused(
    tmp_path: Path, span: tuple[float, float | None], message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        read_audio(saved(tmp_path / "a.wav", noise()), *span)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", b"", r"is empty \(0 bytes\)"),
        ("a.wav", b"this is no recording", r"cannot be decoded .*begins with b'this is no recor'; expected WAV, FLAC"),
        ("a.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer.*run 'git lfs pull'"),
        ("dia 1.mp4", b"\0\0\0\x20ftypisom\0\0", r"convert it: ffmpeg -i 'dia 1\.mp4' -ac 1 -ar 16000 'dia 1\.wav'"),
        ("a.wma", b"\x30\x26\xb2\x75\x8e\x66", "a format that libsndfile cannot read; convert it: ffmpeg -i a.wma"),
        ("a.wav", b"\0\0\0\x20ftypM4A ", r"convert it: ffmpeg -i a\.wav -ac 1 -ar 16000 out\.wav"),
        ("a.raw", b"\1\2\3\4", "cannot be decoded"),
    ],
)
@pytest.mark.parametrize("function", [read_audio, duration_s])
def test_files_that_are_no_recordings(tmp_path: Path, function, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=message):
        function(tmp_path / name)


def test_missing_files_folders_and_forbidden_files(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"none\.wav' is not there; expected a recording: check the manifest"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)
    for function in (read_audio, duration_s):
        with pytest.raises(AudioError, match=r"x\.wav' cannot be opened: File name too long"):
            function(tmp_path / f"{'x' * 300}.wav")
    if os.geteuid():  # the superuser may read everything
        path = saved(tmp_path / "a.wav", noise())
        path.chmod(0)
        with pytest.raises(AudioError, match="cannot be opened: Permission denied"):
            read_audio(path)
        path.chmod(0o400)
        tmp_path.chmod(0)
        with pytest.raises(AudioError, match="cannot be opened: Permission denied"):
            read_audio(path)
        tmp_path.chmod(0o700)


def test_a_damaged_file_says_how_far_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.flac", noise(64_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr("mmser.audio._BLOCK", 4_096)
    with pytest.raises(AudioError, match=r"beyond [12]\.\d+ s \(.*\): it is damaged or cut short"):
        read_audio(path)


@pytest.mark.parametrize(
    ("name", "subtype", "early"),
    [
        ("a.wav", "PCM_16", "2.* s before its header says"),
        ("a.wav", "FLOAT", "2.* s before its header says"),
        ("a.aiff", "PCM_16", "2.* s before its header says"),
        ("a.au", "ULAW", "2.* s before its header says"),
        ("a.rf64", "PCM_16", "2.* s before its header says"),
        ("a.w64", "PCM_16", "2.* s before its header says"),
        ("a.sph", "PCM_16", "2.* s before its header says"),
        ("a.mp3", "MPEG_LAYER_III", "2.* s before its header says"),
        ("a.ogg", "VORBIS", "within a page of its stream"),
        ("a.opus", "OPUS", "within a page of its stream"),
    ],
)
def test_a_file_that_was_copied_in_part_is_refused(tmp_path: Path, name: str, subtype: str, early: str) -> None:
    """The decoder itself reads what is there and says nothing."""
    path = saved(tmp_path / name, noise(64_000), subtype=subtype)
    assert len(read_audio(path).samples) == 64_000
    assert duration_s(path) == 4.0
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 - 300])
    for function in (read_audio, duration_s):
        with pytest.raises(AudioError, match=rf"ends after [012]\.\d+ s, {early}: it was cut short"):
            function(path)
    assert len(read_audio(path, end_s=0.75).samples) == 12_000


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.rf64", "a.w64", "a.sph"])
def test_a_file_that_lacks_as_little_as_an_end_may_is_read(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, noise(64_000), subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-400])
    assert len(read_audio(path).samples) >= 64_000 - 200


@pytest.mark.parametrize(
    ("name", "chunk", "told"),
    [
        ("a.wav", b"data", struct.pack("<I", 0x7FFFFFFF)),
        ("a.wav", b"data", struct.pack("<I", 0xFFFFFFFF)),
        ("a.wav", b"data", struct.pack("<I", 0x7FFFF000)),
        ("a.aiff", b"SSND", struct.pack(">I", 0x7F000008)),
        ("a.au", b".snd\0\0\0\x18", struct.pack(">I", 0xFFFFFFFF)),
        ("a.w64", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", b"\xff" * 7 + b"\x7f"),
    ],
)
def test_a_file_that_came_through_a_pipe_is_whole(tmp_path: Path, name: str, chunk: bytes, told: bytes) -> None:
    """Who wrote it could not know its length."""
    path = saved(tmp_path / name, noise(64_000), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(chunk) + len(chunk)
    content[at : at + len(told)] = told
    path.write_bytes(content)
    assert len(read_audio(path).samples) == 64_000


def ogg_checksum(page: bytes) -> int:
    """RFC 3533: CRC-32 of a page whose own checksum is 0, from 0 on and without reflection."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x104C11DB7 if crc & 0x80000000 else 0)
    return crc


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.opus", "OPUS")])
def test_an_ogg_file_whose_end_is_not_marked_is_whole(tmp_path: Path, name: str, subtype: str) -> None:
    path = saved(tmp_path / name, noise(64_000), subtype=subtype)
    content = path.read_bytes()
    at = content.rindex(b"OggS")
    page = bytearray(content[at:])
    assert page[5] & 4
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", ogg_checksum(page))
    path.write_bytes(content[:at] + page)
    assert "lacks an end-of-stream bit" in soundfile.SoundFile(path).extra_info
    assert duration_s(path) > 3.9  # as read_audio, refuses what was cut


def test_tags_around_an_mp3_file_are_no_sound(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mp3", noise(64_000))
    sound = path.read_bytes()
    before = b"ID3\3\0\0" + bytes([0, 0, 300 >> 7, 300 & 127]) + bytes(300)
    path.write_bytes(before + sound + b"TAG" + bytes(125))
    assert len(read_audio(path).samples) == 64_000
    at = sound.index(b"Info") if b"Info" in sound[:64] else sound.index(b"Xing")
    path.write_bytes(sound[: at + 12] + bytes(4) + sound[at + 16 :])  # as who could not tell how many bytes come
    assert len(read_audio(path).samples) == 64_000
    path.write_bytes(before + sound[: len(sound) // 2])
    with pytest.raises(AudioError, match=r"ends after 2\.0\d+ s, [12]\.\d+ s before its header says"):
        read_audio(path)


def test_a_streamed_file_without_length_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.flac", noise())
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: the lower 36 bits from byte 21 on are the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"does not tell its length .*rewrite it: ffmpeg -i a\.flac"):
        read_audio(path)


@pytest.mark.data
def test_real_recordings_decode(speech_data: Path) -> None:
    paths = sorted((speech_data / "speech_en" / "mfa" / "wav").iterdir())
    assert len(paths) == 81
    for path in paths:
        samples = read_audio(path).samples
        assert samples.dtype == np.float32
        assert len(samples) >= MINIMUM_SAMPLES
        assert np.isfinite(samples).all()
        assert duration_s(path) == pytest.approx(len(samples) / 16_000, abs=0.05)


@pytest.mark.data
def test_bit_depths_of_one_real_recording_agree(speech_data: Path) -> None:
    folder = speech_data / "speech_en" / "mfa" / "wav"
    reference = read_audio(folder / "cold_corpus.wav").samples
    for name in ("cold_corpus_24bit.wav", "cold_corpus_32bit_float.wav"):
        np.testing.assert_allclose(read_audio(folder / name).samples, reference, atol=2**-14)
