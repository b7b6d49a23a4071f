"""Samples, frames and seconds: the only place where one becomes another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz. Every encoder named in the documentation was trained at this rate; audio is resampled to it once."""

MEL_HOP = 160
"""Samples from one log-mel frame to the next: 10 ms."""


@dataclass(frozen=True)
class FrameGrid:
    """Where the frames of a convolutional front end lie in time.

    The default is that of wav2vec 2.0, HuBERT, WavLM and data2vec-audio (Baevski et al. 2020, section 2:
    seven convolutions without padding, together 400 samples wide and 320 apart).
    """

    hop: int = 320
    """Samples from one frame to the next."""
    field: int = 400
    """Samples that one frame sees (its receptive field)."""

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> "FrameGrid":
        """That of the frames that a recipe made (:mod:`mmser.extract.speech`)."""
        return cls(int(recipe["hop"]), int(recipe["field"]))

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / SAMPLE_RATE

    def num_frames(self, num_samples: int) -> int:
        """Frames that come out of ``num_samples`` samples; 0 if there are fewer than one receptive field.

        Floors of floors compose, so this equals the layer-by-layer count exactly.

        >>> FrameGrid().num_frames(16_000), FrameGrid().num_frames(400), FrameGrid().num_frames(399)
        (49, 1, 0)
        """
        return max(0, (num_samples - self.field) // self.hop + 1)

    def centres_s(self, num_frames: int) -> NDArray[np.float64]:
        """Time of the centre of each frame, in seconds from the start of the utterance, shape (num_frames,).

        >>> [float(t) for t in FrameGrid().centres_s(2)]
        [0.0125, 0.0325]
        """
        return (self.field / 2 + self.hop * np.arange(num_frames)) / SAMPLE_RATE
