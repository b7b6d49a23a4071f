"""An utterance in time, for the explorer: its waveform, its recording, and what was spoken when."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Cache, Stream
from mmser.extract.alignments import read_alignment
from mmser.records import TIERS, Utterance
from mmser.units import SAMPLE_RATE

POINTS = 400
"""Stretches of a drawn waveform; every recording has at least as many samples (``MINIMUM_SAMPLES``)."""

_STEPS = 127
"""Steps from silence to the recording's peak: one signed byte."""


def envelope(samples: NDArray[np.float32], points: int = POINTS) -> NDArray[np.int8]:
    """The lowest and the highest sample of each of equal stretches, (2, points), in 127ths of the loudest.

    Args:
        samples: (n,), at least as many as points.
        points: stretches; stretch i begins at sample ``i * n // points``.

    >>> envelope(np.array([0.5, 0.0, -0.25, 0.25], np.float32), points=2).tolist()
    [[0, -64], [127, 64]]
    """
    starts = np.arange(points) * len(samples) // points
    found = np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)])
    return np.rint(found * (_STEPS / max(float(np.abs(samples).max()), 1e-9))).astype(np.int8)


def sound_of(utterance: Utterance, *, with_audio: bool) -> dict[str, Any]:
    """The length of an utterance in seconds, its envelope in base64 and, if asked for, its recording as a data URI.

    The recording is what the encoders heard: mono, 16 kHz; FLAC of 16 bits.

    Raises:
        AudioError: the recording is not there, or cannot be decoded.
    """
    import soundfile  # which a training must not load

    from mmser.audio import read_audio

    samples = read_audio(utterance.audio, utterance.start_s, utterance.end_s).samples
    found = {"duration_s": len(samples) / SAMPLE_RATE, "wave": encoded(envelope(samples))}
    if with_audio:
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        found["audio"] = "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return found


def encoded(values: NDArray[Any]) -> str:
    """The bytes of an array, little-endian, in base64."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def alignments_of(cache: Cache, streams: Sequence[str]) -> Stream | None:
    """The alignments to show: those that pooled ``streams`` were made from, else the cache's first; or None."""
    there = [name for name in cache.stream_names if name.startswith("align/")]
    used = [f"align/{name.rpartition('@')[2]}" for name in streams if name.startswith("pooled/")]
    chosen = [name for name in (*used, *there) if name in there]
    return cache.stream(chosen[0]) if chosen else None


def tiers_of(stream: Stream, utterance_id: str) -> tuple[dict[str, list[Any]], float]:
    """Start, end, label and kind of every segment by tier, and the utterance's length in seconds."""
    alignment, duration_s = read_alignment(stream, utterance_id)
    tiers = {
        name: [[round(s.start_s, 3), round(s.end_s, 3), s.label, int(s.kind)] for s in alignment.tier(name)]
        for name in TIERS
    }
    return {name: segments for name, segments in tiers.items() if segments}, duration_s
