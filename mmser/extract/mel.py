"""Log-mel spectrograms as CNN14 was trained on (Kong et al. 2020, "PANNs", section III), by transformers' audio tools.

Window 512, hop 160, 64 bins from 50 to 8000 Hz at 16 kHz are the figures of the paper's code for that rate. What the
numbers do not settle is settled as librosa's, which that code calls: a periodic Hann window, frames centred on their
hop with the signal mirrored at both ends, power, triangles of equal area on Slaney's mel scale, decibels re 1.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from mmser.cache import Column
from mmser.units import MEL_HOP, SAMPLE_RATE


@dataclass(frozen=True)
class MelRecipe:
    """What decides a log-mel spectrogram."""

    window: int = 512
    """Samples of the Hann window, and of the Fourier transform: 32 ms."""
    hop: int = MEL_HOP
    """Samples from one frame to the next: 10 ms."""
    bins: int = 64
    """Mel filters."""
    low_hz: float = 50.0
    """Where the lowest filter begins."""
    high_hz: float = 8000.0
    """Where the highest filter ends: half the sampling rate."""
    floor: float = 1e-10
    """The least power: digital silence is -100 dB, not minus infinity."""

    def num_frames(self, num_samples: int) -> int:
        """Frames of a signal: one centred on every ``hop``-th sample, the first on sample 0.

        >>> MelRecipe().num_frames(16_000), MelRecipe().num_frames(159)
        (101, 1)
        """
        return 1 + num_samples // self.hop


class LogMel:
    """The features of the stream ``mel/cnn14`` (see :class:`mmser.extract.feature_stream.Features`)."""

    stream = "mel/cnn14"
    note = ""

    def __init__(self, dtype: str) -> None:
        """``dtype``: numpy type of the stored frames."""
        self.setup = MelRecipe()
        self.recipe: dict[str, Any] = {
            "features": "log-mel",
            "sample_rate": SAMPLE_RATE,
            **asdict(self.setup),
            "layers": [0],
        }
        self.columns = {"frame": Column(dtype, layers=1, dim=self.setup.bins)}
        self._window = window_function(self.setup.window, "hann")
        self._filters = mel_filter_bank(
            num_frequency_bins=self.setup.window // 2 + 1,
            num_mel_filters=self.setup.bins,
            min_frequency=self.setup.low_hz,
            max_frequency=self.setup.high_hz,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )

    def num_rows(self, num_samples: int) -> dict[str, int]:
        """Frames of one utterance."""
        return {"frame": self.setup.num_frames(num_samples)}

    def compute(self, samples: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Frames (1 + num_samples // 160, 64) in decibels."""
        setup = self.setup
        frames = spectrogram(
            samples,
            self._window,
            frame_length=setup.window,
            hop_length=setup.hop,
            power=2.0,
            mel_filters=self._filters,
            mel_floor=setup.floor,
            log_mel="dB",
            dtype=np.float32,
        )
        assert frames.shape == (setup.bins, setup.num_frames(len(samples)))
        return {"frame": np.ascontiguousarray(frames.T)}
