"""Any recording that libsndfile reads becomes float32, mono, 16 kHz; one that cannot be used says why."""

import hashlib
import math
import re
import shlex
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmser.errors import AudioError
from mmser.units import SAMPLE_RATE

MINIMUM_SAMPLES = 400
"""Samples at 16 kHz: the receptive field of one frame (25 ms). Anything shorter has no frame."""

END_TOLERANCE_S = 0.05
"""How far ``end_s`` may lie beyond the end of the recording: transcripts round, and cutting tools drop a block."""

SILENCE_PEAK = 2.0**-15
"""Half the range of a 16-bit recording is 1.0, so this is one step of it: below lies digital silence."""

_BLOCK = 1 << 18
"""Source frames decoded at a time, so that an hour of stereo at 48 kHz need not be held at once."""

_LOSSY = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS", "OPUS")
"""Codecs (libsndfile's subtypes) that decode in floating point, so that the last bit depends on the CPU."""

_LENGTH_UNKNOWN = 1 << 48
"""libsndfile gives 2**63 - 1 frames where a streamed file's header leaves the length open."""

_TOLD = {
    "WAV": r"^data : (\d+) \(should be (\d+)\)",
    "WAVEX": r"^data : (\d+) \(should be (\d+)\)",
    "AIFF": r"^ SSND : (\d+) \(should be (\d+)\)",
    "AU": r"^ +Data Size +: (\d+) \(should be (\d+)\)",
    "RF64": r"^ +Data size : (\d+)",
    "W64": r"^data : (\d+)",
}
"""libsndfile's note, by format, on the bytes that a header tells, and on those that there are where it is others."""
_STREAMED = 0x7F000000
"""Who writes a file with lengths of 32 bits into a pipe cannot tell its own, and tells one from here on (sox, ffmpeg,
arecord)."""
_CUT_PAGE = re.compile(r"Ogg ?: Last page lacks an end-of-stream bit.*Ogg ?: Junk after the last page", re.DOTALL)
"""Its notes on an Ogg file that ends within a page. The end-of-stream bit alone is forgotten by some who record."""

_FOREIGN_MAGIC = {4: (b"ftyp",), 0: (b"\x30\x26\xb2\x75", b"\x1a\x45\xdf\xa3", b"#!AMR", b"\xff\xf1", b"\xff\xf9")}
"""First bytes, by offset, of MP4/M4A, ASF/WMA, Matroska/WebM, AMR and AAC, which libsndfile does not read."""


@dataclass(frozen=True, eq=False)
class Recording:
    """An utterance's samples, with a digest that tells whether its source is still the same."""

    samples: NDArray[np.float32]
    """Shape (num_samples,), mono, 16 kHz; 1.0 is full scale of an integer format."""
    digest: str
    """SHA-256 as 64 hexadecimal digits; see :func:`read_audio`."""


def read_audio(path: str | Path, start_s: float | None = None, end_s: float | None = None) -> Recording:
    """Decode a recording, or the part of it from ``start_s`` to ``end_s``; average its channels; resample to 16 kHz.

    Source frames ``floor(start_s * rate + 0.5)`` up to ``floor(end_s * rate + 0.5)`` are taken; ``n`` of them become
    exactly ``(16000 n + rate // 2) // rate`` samples (soxr, quality HQ), or themselves where the rate is 16 kHz.

    The digest is taken before resampling, whose last bit may differ between CPUs: lossless formats decode to the
    same bits everywhere, so a cache extracted on one machine is recognised on another. It covers the source samples
    (float32, little-endian, interleaved), then rate and channel count. Lossy formats (MP3, Vorbis, Opus) decode in
    floating point and are not exact, so for them it covers the file's bytes and the span of frames instead.

    Args:
        path: the recording; only ever opened for reading.
        start_s: start of the utterance in the recording, seconds; None is the recording's start.
        end_s: its end; None is the recording's end. Up to 0.05 s beyond the end is taken as the end.

    Raises:
        AudioError: the file is missing or cannot be decoded, the span lies outside it, or what it holds is empty,
            shorter than 400 samples at 16 kHz, not finite, or digital silence.
    """
    path = Path(path)
    with _opened(path) as file:
        rate = file.samplerate
        start, stop = _frames_of_span(path, file, start_s, end_s)
        mono, digest = _decode(path, file, start, stop)
        if file.subtype in _LOSSY:
            digest = _file_digest(path, file, start, len(mono))
    if stop is not None and len(mono) < stop - start - END_TOLERANCE_S * rate:
        raise AudioError(
            f"audio {str(path)!r}: end_s {end_s:g} lies beyond its end at {(start + len(mono)) / rate:.3f} s; "
            "correct the manifest, or leave end_s empty for the recording's end"
        )
    return Recording(_resampled(_usable(path, mono, rate), rate), digest)


def duration_s(path: str | Path, start_s: float | None = None, end_s: float | None = None) -> float:
    """Seconds that :func:`read_audio` will give, from the header alone.

    An estimate for planning: the header of an MP3 file may be wrong by some frames, or by more without a Xing header.

    Raises:
        AudioError: the file is missing or no recording, or ``start_s`` lies beyond its end.
    """
    path = Path(path)
    with _opened(path) as file:
        start, stop = _frames_of_span(path, file, start_s, end_s)
        return (min(file.frames if stop is None else stop, file.frames) - start) / file.samplerate


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "is not there"
            raise AudioError(f"audio {str(path)!r} {found}; expected a recording: check the manifest's audio column")
        with path.open("rb") as head_of:
            head = head_of.read(64)
        file = soundfile.SoundFile(path)
    except OSError as error:  # of is_file too, where a name is too long or a folder may not be looked into
        raise AudioError(f"audio {str(path)!r} cannot be opened: {error.strerror}") from None
    # a name that ends in .raw makes soundfile ask for a sample rate by TypeError
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(f"audio {str(path)!r} {_why_unreadable(path, head, error)}") from None
    with file:
        if file.frames > _LENGTH_UNKNOWN:
            raise AudioError(
                f"audio {str(path)!r} does not tell its length (it was streamed); rewrite it: {_conversion(path)}"
            )
        yield file


def _why_unreadable(path: Path, head: bytes, error: Exception) -> str:
    if not head:
        return "is empty (0 bytes); copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the recording; run 'git lfs pull' in its repository"
    if any(head[at:].startswith(magic) for at, magics in _FOREIGN_MAGIC.items() for magic in magics):
        return f"is of a format that libsndfile cannot read; convert it: {_conversion(path)}"
    return (
        f"cannot be decoded ({str(error).rstrip('.')}): it begins with {head[:16]!r}; expected WAV, FLAC, OGG, Opus, "
        f"MP3 or another format of libsndfile. If it is a recording, convert it: {_conversion(path)}"
    )


def _conversion(path: Path) -> str:
    name = "out.wav" if path.suffix.lower() == ".wav" else f"{path.stem}.wav"
    return f"ffmpeg -i {shlex.quote(path.name)} -ac 1 -ar 16000 {shlex.quote(name)}"


def _frames_of_span(
    path: Path, file: soundfile.SoundFile, start_s: float | None, end_s: float | None
) -> tuple[int, int | None]:
    rate = file.samplerate
    if file.frames == 0:
        raise AudioError(f"audio {str(path)!r} holds no samples (a header alone); record or copy it again")
    begin, end = start_s or 0.0, math.inf if end_s is None else end_s
    if not 0.0 <= begin < end:
        raise AudioError(
            f"audio {str(path)!r}: start_s {start_s} and end_s {end_s} are no span of time; expected 0 <= start < end"
        )
    if begin >= file.frames / rate:
        raise AudioError(
            f"audio {str(path)!r}: start_s {begin:g} lies beyond its end at {file.frames / rate:.3f} s; "
            "correct the manifest: times are seconds from the start of this recording"
        )
    if math.isinf(end):
        _check_whole(path, file)
    start = min(math.floor(begin * rate + 0.5), file.frames - 1)
    return start, None if math.isinf(end) else math.floor(end * rate + 0.5)


def _check_whole(path: Path, file: soundfile.SoundFile) -> None:
    """Refuse a file that was copied in part: libsndfile reads it up to where it ends, and at most notes it."""
    end_s = file.frames / file.samplerate
    told, there = _lengths(path, file)
    if file.format == "MP3":  # whose frames are those that the header tells
        end_s *= min(1.0, there / told)
    lacking_s = end_s * (told / there - 1.0)
    if lacking_s > END_TOLERANCE_S:
        early = f"{lacking_s:.3f} s before its header says"
    elif file.format == "OGG" and _CUT_PAGE.search(file.extra_info):
        early = "within a page of its stream"
    else:
        return
    raise AudioError(
        f"audio {str(path)!r} ends after {end_s:.3f} s, {early}: it was cut short; copy or download it again, or give "
        "end_s in the manifest"
    )


def _lengths(path: Path, file: soundfile.SoundFile) -> tuple[int, int]:
    """How long a file is by its header, and how long it is, in whatever unit; the same where the header does not tell.

    FLAC is not among them: its decoder does not read what was cut.
    """
    size = path.stat().st_size
    if file.format == "NIST":
        with path.open("rb") as content:
            found = re.search(rb"^sample_count -i (\d+)", content.read(1024), re.MULTILINE)
        return (int(found[1]), file.frames) if found else (1, 1)
    if file.format == "MP3":
        told, there = _mp3_lengths(path, size)
    else:
        note = re.search(_TOLD.get(file.format, r"(?!)"), file.extra_info, re.MULTILINE)
        told, there = (int(note[1]), int((*note.groups(), size)[1])) if note else (1, 1)
    unknown = _LENGTH_UNKNOWN if file.format in ("RF64", "W64") else _STREAMED
    return (told, there) if there > 0 and 0 < told < unknown else (1, 1)


def _mp3_lengths(path: Path, size: int) -> tuple[int, int]:
    """Bytes from the first frame on, by its Xing or Info tag, and as they are."""
    with path.open("rb") as content:
        head = content.read(10)
        begin = 0
        if head.startswith(b"ID3"):  # a tag before the sound; seven bits a byte tell its length
            begin = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
        content.seek(begin)
        found = re.search(rb"(?:Xing|Info)(.{4})(.{8})", content.read(64), re.DOTALL)
    flags = found[1][3] if found else 0
    if found is None or not flags & 2:
        return 1, 1
    at = 4 if flags & 1 else 0  # behind the number of frames, where there is one
    return int.from_bytes(found[2][at : at + 4], "big"), size - begin


def _decode(path: Path, file: soundfile.SoundFile, start: int, stop: int | None) -> tuple[NDArray[np.float32], str]:
    """Mean of the channels, shape (frames,), and the digest of all of them."""
    digest = hashlib.sha256()
    parts: list[NDArray[np.float32]] = []
    left = math.inf if stop is None else stop - start
    buffer = np.empty((_BLOCK, file.channels), dtype=np.float32)
    try:
        file.seek(start)
        while left > 0:
            asked = int(min(left, _BLOCK))
            block = file.read(out=buffer[:asked])
            digest.update(block.astype("<f4", copy=False).tobytes())
            with np.errstate(invalid="ignore", over="ignore"):  # infinities are refused later, by name
                parts.append(block.mean(axis=1, dtype=np.float64).astype(np.float32))
            left -= len(block)
            if len(block) < asked:
                break
    except soundfile.SoundFileError as error:
        done = (start + sum(map(len, parts))) / file.samplerate
        raise AudioError(
            f"audio {str(path)!r} cannot be decoded beyond {done:.3f} s ({str(error).rstrip('.')}): "
            "it is damaged or cut short; copy or download it again"
        ) from None
    digest.update(struct.pack("<II", file.samplerate, file.channels))
    return np.concatenate(parts or [np.empty(0, np.float32)]), digest.hexdigest()


def _file_digest(path: Path, file: soundfile.SoundFile, start: int, num_frames: int) -> str:
    digest = hashlib.sha256(path.read_bytes())
    digest.update(struct.pack("<IIqq", file.samplerate, file.channels, start, num_frames))
    return digest.hexdigest()


def _usable(path: Path, mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """The samples unchanged, or an AudioError: too short, not finite, silent."""
    num_samples = _num_resampled(len(mono), rate)
    if num_samples < MINIMUM_SAMPLES:
        raise AudioError(
            f"audio {str(path)!r} gives {len(mono) / rate:.4f} s ({num_samples} samples at 16 kHz); expected at least "
            f"{MINIMUM_SAMPLES / SAMPLE_RATE} s ({MINIMUM_SAMPLES} samples), which one frame of the encoders spans"
        )
    finite = np.isfinite(mono)
    if not finite.all():
        first = int(np.argmin(finite))
        raise AudioError(
            f"audio {str(path)!r} holds {len(mono) - int(finite.sum())} samples that are not finite, the first "
            f"({mono[first]}) at {first / rate:.4f} s of the utterance; expected numbers: export it again"
        )
    peak = float(np.abs(mono - mono.mean(dtype=np.float64)).max())
    if peak < SILENCE_PEAK:
        raise AudioError(
            f"audio {str(path)!r} is silent: its samples lie within {peak:.2g} of their mean, expected at least "
            f"2**-15 ({SILENCE_PEAK:.2g}); remove it from the manifest, or check whether its channels cancel out"
        )
    return mono


def _num_resampled(num_frames: int, rate: int) -> int:
    return (num_frames * SAMPLE_RATE + rate // 2) // rate


def _resampled(mono: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == SAMPLE_RATE:
        return mono
    samples = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    assert len(samples) == _num_resampled(len(mono), rate), (len(samples), len(mono), rate)
    return samples
