"""Greedy CTC: the most probable letter of every frame, runs of one letter joined, blanks taken out.

The encoder is :class:`~mmser.extract.speech.SpeechEncoder`, so that what a recording was batched with has no say.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from mmser.errors import EncoderError
from mmser.extract.loading import Source, load, load_model, weights_digest
from mmser.extract.speech import SpeechEncoder
from mmser.transcribe.recogniser import WHAT, Unheard
from mmser.units import SAMPLE_RATE

LONGEST_S = 120.0
"""Longer recordings are refused: attention takes memory with the square of the length, 1.7 GB for 12 heads here."""


class CtcRecogniser:
    """A frozen encoder with a head of letters (wav2vec 2.0, HuBERT, WavLM, data2vec-audio).

    Args:
        source: where the model comes from.
        device: where it runs.

    Raises:
        EncoderError: the model cannot be loaded, lacks weights, takes no waveforms of 16 kHz, or has a vocabulary that
            does not fit its output.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        model: Any = load_model(source, WHAT, transformers.AutoModelForCTC)
        processor = load(source, f"the processor of {WHAT}", transformers.AutoFeatureExtractor.from_pretrained)
        if processor.sampling_rate != SAMPLE_RATE:
            raise EncoderError(
                f"{WHAT} {source.given!r} expects {processor.sampling_rate} Hz; mmser transcribes at {SAMPLE_RATE} Hz"
            )
        self._tokenizer = load(source, f"the vocabulary of {WHAT}", transformers.AutoTokenizer.from_pretrained)
        _check_vocabulary(source, self._tokenizer, model.config)
        self._recipe: dict[str, object] = {
            "model": source.name,
            "revision": getattr(model.config, "_commit_hash", None) or source.revision,
            "weights_sha256": weights_digest(model),
            "architecture": type(model).__name__,
            "vocabulary": dict(sorted(self._tokenizer.get_vocab().items())),
            "rules": 1,  # raise when the same output is written differently
        }
        self._encoder = SpeechEncoder(
            source.name, model.base_model, normalise=bool(getattr(processor, "do_normalize", False)), device=device
        )
        self._recipe["normalise"] = self._encoder.normalise
        self._head = model.lm_head.to(device)
        special = {*self._tokenizer.all_special_ids} - {self._tokenizer.word_delimiter_token_id}
        self._unwritten = special | {int(model.config.pad_token_id)}

    @property
    def recipe(self) -> dict[str, object]:
        """The model, its vocabulary and what is done to a waveform before."""
        return dict(self._recipe)

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._encoder.device)

    def width(self, num_samples: int) -> int:
        """A batch is as wide as its longest recording; one at a time where padding would have a say."""
        return num_samples if self._encoder.batchable else 1 << 62

    @torch.inference_mode()
    def logits(self, waveforms: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Scores (num_frames, num_symbols) of each waveform, on the device."""
        states, lengths = self._encoder.states(waveforms, [self._encoder.num_layers - 1])
        return [self._head(own[:length]) for own, length in zip(states[0], lengths, strict=True)]

    def texts(self, waveforms: Sequence[NDArray[np.float32]]) -> list[str | Unheard]:
        """What is said in each waveform, in the model's own letters and case."""
        short = [waveform for waveform in waveforms if len(waveform) <= LONGEST_S * SAMPLE_RATE]
        said = iter([self._spelled(own.argmax(-1)) for own in self.logits(short)] if short else [])
        return [
            next(said) if len(waveform) <= LONGEST_S * SAMPLE_RATE else _too_long(len(waveform) / SAMPLE_RATE)
            for waveform in waveforms
        ]

    def _spelled(self, best: torch.Tensor) -> str:
        # The tokenizer joins runs too, but where asked to skip special tokens it drops the blanks first, and with them
        # the second of two letters that are alike.
        joined = torch.unique_consecutive(best).tolist()
        written = [symbol for symbol in joined if symbol not in self._unwritten]
        text = self._tokenizer.decode(written, group_tokens=False, clean_up_tokenization_spaces=False)
        return " ".join(text.split())


def _too_long(seconds: float) -> Unheard:
    return Unheard(
        f"it is {seconds:.1f} s long and at most {LONGEST_S:.0f} s can be transcribed at once by a model for CTC; cut "
        "the recording into utterances (start_s, end_s), or give a Whisper model"
    )


def _check_vocabulary(source: Source, tokenizer: Any, config: Any) -> None:
    if not isinstance(tokenizer, transformers.Wav2Vec2CTCTokenizer):
        raise EncoderError(
            f"{WHAT} {source.given!r}: its tokenizer ({type(tokenizer).__name__}) does not write words from the output "
            "of CTC; expected a Wav2Vec2CTCTokenizer of letters, as in facebook/wav2vec2-base-960h"
        )
    if len(tokenizer) < config.vocab_size or tokenizer.pad_token_id != config.pad_token_id:
        raise EncoderError(
            f"{WHAT} {source.given!r}: its vocabulary has {len(tokenizer)} signs, its blank is number "
            f"{tokenizer.pad_token_id}, and the model puts out {config.vocab_size} symbols with number "
            f"{config.pad_token_id} as the blank; give a folder whose vocab.json and config.json belong together"
        )
