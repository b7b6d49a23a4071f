"""Speech recognisers: waveforms in, what is said in them out.

A recogniser is any object with the shape of :class:`Recogniser`; :func:`load_recogniser` makes the one that a model's
own configuration calls for. transformers is imported only then, so that importing this package costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmser.errors import EncoderError
from mmser.transcribe.options import Recognition

WHAT = "speech recogniser"
"""What errors call it."""


@dataclass(frozen=True)
class Unheard:
    """A recording without a transcript, and why. A value, so that one recording never stops the rest."""

    reason: str


class Recogniser(Protocol):
    """What every recogniser offers."""

    @property
    def recipe(self) -> dict[str, object]:
        """Everything that decides the texts, fit for JSON."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    def width(self, num_samples: int) -> int:
        """Samples that each recording of a batch takes where the longest has ``num_samples``."""
        ...

    def texts(self, waveforms: Sequence[NDArray[np.float32]]) -> list[str | Unheard]:
        """What is said in each of some waveforms (mono, 16 kHz), whichever company they are in.

        Raises:
            RuntimeError: the device's memory does not hold the batch (:func:`mmser.devices.is_out_of_memory`).
        """
        ...


def load_recogniser(options: Recognition) -> Recogniser:
    """Load the recogniser that some options name; no code from a model's repository is ever run.

    Raises:
        EncoderError: not found, incomplete, neither Whisper nor a model for CTC on waveforms, or without the language
            or the task that was asked for.
        MmserError: the device is not there.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

    from mmser.devices import pick_device
    from mmser.extract.loading import load, parse_source
    from mmser.transcribe.ctc import CtcRecogniser
    from mmser.transcribe.whisper import WhisperRecogniser

    source, device = parse_source(options.model), pick_device(options.device)
    config = load(source, WHAT, transformers.AutoConfig.from_pretrained)
    if config.model_type == "whisper":
        return WhisperRecogniser(source, options.language, options.task, device)
    if config.model_type not in MODEL_FOR_CTC_MAPPING_NAMES:
        raise EncoderError(
            f"{WHAT} {options.model!r} is a {config.model_type}; expected Whisper, or wav2vec 2.0, HuBERT, WavLM or "
            "data2vec-audio for CTC, such as facebook/wav2vec2-base-960h"
        )
    if options.language is not None or options.task != "transcribe":
        raise EncoderError(
            f"{WHAT} {options.model!r} is for CTC and writes the language that it learned; language and task are for "
            "Whisper alone"
        )
    return CtcRecogniser(source, device)
