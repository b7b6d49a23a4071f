"""Recordings for miniature corpora: a quarter of a second of noise, never the same twice."""

import itertools
from pathlib import Path

import numpy as np
import soundfile

_SEEDS = itertools.count()


def write_noise(path: Path, *, rate: int = 16_000, channels: int = 1, seconds: float = 0.25) -> None:
    """Write a recording; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(next(_SEEDS)).uniform(-0.1, 0.1, (round(rate * seconds), channels))
    soundfile.write(path, samples, rate)


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file byte by byte as given: line ends are not touched. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
