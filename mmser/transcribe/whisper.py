"""Whisper, decoded greedily: no beams and no sampling, so that the same recording gives the same text.

A recording is padded to 30 s whatever it is batched with; one that is longer is read window by window, each from where
the text before it ended (transformers' long-form generation; Radford et al., "Robust Speech Recognition via
Large-Scale Weak Supervision", 2022, section 3.8).
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from mmser.errors import EncoderError
from mmser.extract.loading import Source, load, load_model, quiet_transformers, weights_digest
from mmser.transcribe.recogniser import WHAT, Unheard
from mmser.units import SAMPLE_RATE


class WhisperRecogniser:
    """A Whisper model with its tokenizer.

    Args:
        source: where the model comes from.
        language: name or code of what is spoken; None: the model guesses, for each recording.
        task: ``transcribe`` or ``translate``.
        device: where it runs.

    Raises:
        EncoderError: the model cannot be loaded, lacks weights, takes another rate than 16 kHz or another window than
            its processor gives, or does not know the language or the task.
    """

    def __init__(self, source: Source, language: str | None, task: str, device: torch.device) -> None:
        model: Any = load_model(source, WHAT, transformers.WhisperForConditionalGeneration)
        self._processor = load(source, f"the processor of {WHAT}", transformers.AutoFeatureExtractor.from_pretrained)
        self._tokenizer = load(source, f"the tokenizer of {WHAT}", transformers.AutoTokenizer.from_pretrained)
        self._window = 2 * int(model.config.max_source_positions) * int(self._processor.hop_length)
        if self._processor.sampling_rate != SAMPLE_RATE or self._processor.n_samples != self._window:
            raise EncoderError(
                f"{WHAT} {source.given!r}: its processor gives {self._processor.n_samples} samples at "
                f"{self._processor.sampling_rate} Hz, and {self._window} at {SAMPLE_RATE} Hz were expected; give a "
                "folder whose preprocessor_config.json and config.json belong together"
            )
        self._asked = _asked(source, model.generation_config, language, task)
        self._recipe: dict[str, object] = {
            "model": source.name,
            "revision": getattr(model.config, "_commit_hash", None) or source.revision,
            "weights_sha256": weights_digest(model),
            "architecture": type(model).__name__,
            "generation_sha256": _generation_digest(model.generation_config),
            "language": None if language is None else _code(language),
            "task": task,
            "rules": 1,  # raise when the same output is written differently
        }
        self._model, self._device = model.to(device), device
        self._end = model.generation_config.eos_token_id
        self._has_times = getattr(model.generation_config, "no_timestamps_token_id", None) is not None

    @property
    def recipe(self) -> dict[str, object]:
        """The model and how it generates, the language and the task."""
        return dict(self._recipe)

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._device)

    def width(self, num_samples: int) -> int:
        """A window each, however short; recordings of several windows go alone."""
        return self._window if num_samples <= self._window else 1 << 62

    @torch.inference_mode()
    def texts(self, waveforms: Sequence[NDArray[np.float32]]) -> list[str | Unheard]:
        """What is said in each waveform, as the model writes it, punctuation and all."""
        if any(len(waveform) > self._window for waveform in waveforms) and len(waveforms) > 1:
            return [self.texts([waveform])[0] for waveform in waveforms]
        is_long = len(waveforms[0]) > self._window
        if is_long and not self._has_times:
            return [
                Unheard(
                    f"{len(waveforms[0]) / SAMPLE_RATE:.1f} s long, and beyond {self._window / SAMPLE_RATE:g} s the "
                    "recogniser needs a generation_config.json that names its token no_timestamps_token_id; take that "
                    "of the newest revision, or cut the recording"
                )
            ]
        inputs = self._processor(
            list(waveforms),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            truncation=False,
            padding="longest" if is_long else "max_length",
        )
        with quiet_transformers():
            found = self._model.generate(
                inputs.input_features.to(self._device),
                return_timestamps=is_long,
                return_segments=True,
                return_dict_in_generate=False,
                # one pass: without times, what looks like one must not send it back to an earlier place
                force_unique_generate_call=not is_long,
                num_beams=1,
                do_sample=False,
                **self._asked,
            )
        return [self._written(segments, is_long) for segments in found["segments"]]

    def _written(self, segments: Sequence[Any], is_long: bool) -> str | Unheard:
        """The text of a recording's segments, if in each window the model came to an end by itself."""
        if any(self._end not in segment["result"] for segment in segments):
            return Unheard(
                "the recogniser did not come to an end within the tokens it may write, as when it repeats itself; the "
                "rest would be cut off: listen to the recording, cut it, or give another model"
            )
        # of a single pass, the whole of it: segments leave out what follows the last time
        parts = [segment["tokens"] for segment in segments] if is_long else [s["result"] for s in segments[:1]]
        tokens = [token for part in parts for token in part.tolist()]
        return " ".join(self._tokenizer.decode(tokens, skip_special_tokens=True).split())


def _code(language: str) -> str:
    """The code of a language, however it is given: ``de`` for de, DE and German."""
    return TO_LANGUAGE_CODE.get(language.lower(), language.lower())


def _generation_digest(generation: Any) -> str:
    """Of what decides the next token besides the weights: the tokens that are never written, and so on."""
    told = {name: value for name, value in generation.to_diff_dict().items() if name != "transformers_version"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _asked(source: Source, generation: Any, language: str | None, task: str) -> dict[str, str]:
    """What to tell ``generate`` about language and task: English-only models must not be told anything."""
    if not getattr(generation, "is_multilingual", True):
        if language is not None and _code(language) != "en":
            raise EncoderError(
                f"{WHAT} {source.given!r} knows English alone, not {language!r}; give a multilingual one"
            )
        if task != "transcribe":
            raise EncoderError(f"{WHAT} {source.given!r} knows English alone and does not translate")
        return {}
    known = sorted(getattr(generation, "lang_to_id", None) or {})
    if language is not None and f"<|{_code(language)}|>" not in known:
        raise EncoderError(
            f"{WHAT} {source.given!r} does not know the language {language!r}; it knows "
            f"{', '.join(mark.strip('<|>') for mark in known) or 'none by name: its generation_config.json is too old'}"
        )
    if not known and task == "transcribe":
        return {}
    if not getattr(generation, "task_to_id", None):
        raise EncoderError(
            f"{WHAT} {source.given!r}: its generation_config.json names no tasks; take that of the newest revision"
        )
    return {"task": task} if language is None else {"task": task, "language": _code(language)}
