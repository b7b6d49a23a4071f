"""openSMILE's descriptors, the field's classical features: eGeMAPS (Eyben et al. 2016), low-level and functionals.

openSMILE is not part of mmser: it is an extra, and its licence allows research and other non-commercial use only.
"""

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.cache import Column
from mmser.errors import AudioError, EncoderError
from mmser.extract.options import OPENSMILE_SETS
from mmser.units import SAMPLE_RATE

LICENCE_NOTE = (
    "openSMILE is (c) audEERING GmbH and free for research and other non-commercial use only; cite Eyben et al. 2010, "
    "and for eGeMAPS Eyben et al. 2016"
)

LOUDEST = 32767 / 32768
"""openSMILE takes samples of 16 bits, and one of 1.0 would wrap around to -1.0."""


class OpenSmile:
    """The features of a stream ``opensmile/<set>`` (see :class:`mmser.extract.feature_stream.Features`).

    ``frame``: low-level descriptors, 100 a second (25 of eGeMAPS); ``utterance``: functionals of the whole (88).
    Always float32: they run from 1e-3 to 1e4, and are few.

    Raises:
        EncoderError: the package is not installed.
    """

    def __init__(self, name: str) -> None:
        """``name``: one of :data:`~mmser.extract.options.OPENSMILE_SETS`."""
        try:
            import opensmile
        except ImportError as error:
            raise EncoderError(
                f"--opensmile {name} needs openSMILE, which is not installed: pip install 'mmser[opensmile]' "
                "(free for research only)"
            ) from error
        levels = opensmile.FeatureLevel
        self.stream = f"opensmile/{name}"
        self.note = LICENCE_NOTE
        self._levels: dict[str, Any] = {
            granularity: opensmile.Smile(opensmile.FeatureSet[OPENSMILE_SETS[name]], level)
            for granularity, level in (("frame", levels.LowLevelDescriptors), ("utterance", levels.Functionals))
        }
        self.names = {granularity: list(smile.feature_names) for granularity, smile in self._levels.items()}
        self.recipe: dict[str, Any] = {
            "features": OPENSMILE_SETS[name],
            "opensmile": version("opensmile"),
            "sample_rate": SAMPLE_RATE,
            "layers": [0],
            "names": self.names,
        }
        self.columns = {g: Column("<f4", layers=1, dim=len(names)) for g, names in self.names.items()}

    def num_rows(self, num_samples: int) -> dict[str, int]:
        """A frame begins every 10 ms at most; openSMILE leaves out those at the end that are not whole."""
        return {"frame": 1 + 100 * num_samples // SAMPLE_RATE, "utterance": 1}

    def compute(self, samples: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Descriptors (frames, 25) and functionals (1, 88).

        Raises:
            AudioError: openSMILE finds no frame in a recording this short, or no number for a feature.
        """
        found = {}
        for granularity, smile in self._levels.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "too short": said below, of the utterance
                table = smile.process_signal(np.clip(samples, -1.0, LOUDEST), SAMPLE_RATE)
            values = table.to_numpy(np.float32, copy=True)
            wrong = np.flatnonzero(~np.isfinite(values).all(0))
            if len(wrong) == values.shape[1]:
                raise AudioError(
                    f"openSMILE finds no frame in {len(samples) / SAMPLE_RATE:.3f} s; leave the utterance out, or join "
                    "it to its neighbour"
                )
            if len(wrong):
                raise AudioError(f"openSMILE gives no number for {self.names[granularity][wrong[0]]}")
            found[granularity] = values
        return found
