"""Words in time by a CTC model of the user's own, in any language that a wav2vec 2.0, HuBERT or WavLM learned to spell.

The model says how probable each letter is in each frame of 20 ms; the transcript's best path through that
(:mod:`~mmser.extract.align.ctc_path`) gives its words. CTC models name a letter in a frame or two and are blank
between, so a word runs from its first letter's frame to its last one's and gaps are left between words. There are no
phones and no syllables.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from mmser.errors import AlignmentError, EncoderError
from mmser.extract.align import Closing, Failed, Spoken
from mmser.extract.align.ctc_path import best_path, fewest_frames
from mmser.extract.align.words import SpokenWord, spoken_words
from mmser.extract.loading import load, load_model, parse_source, weights_digest
from mmser.records import Alignment, Segment
from mmser.transcript import transcript_words
from mmser.units import SAMPLE_RATE, FrameGrid


@dataclass(frozen=True)
class CtcSettings:
    """What decides an alignment besides the model."""

    window_s: float = 30.0
    """Longer utterances go through the model in pieces of this, to keep memory flat."""
    context_s: float = 2.0
    """What a piece sees of its neighbours on either side."""
    longest_s: float = 300.0
    """Longer utterances are refused: the best path takes memory with the square of the length, 140 MB for 300 s at
    15 letters a second."""
    quietest: float = 1 / 32768
    """A recording whose peak is below this, one step of 16 bits, holds no signal."""


class CtcAligner(Closing):
    """Forced alignment of words with a transformers model for CTC."""

    name = "ctc"

    def __init__(
        self, model: str, *, device: torch.device | str = "cpu", settings: CtcSettings = CtcSettings()
    ) -> None:
        """Load the model.

        Args:
            model: Hugging Face id (``ID`` or ``ID@REVISION``) or local folder of a model for CTC with its vocabulary.
            device: where it runs.
            settings: everything else that decides the result.

        Raises:
            EncoderError: the model cannot be loaded, lacks weights, or takes another rate than 16 kHz.
            AlignmentError: its vocabulary has no letters, or does not fit its output.
        """
        source = parse_source(model)
        what = "CTC model"
        processor = load(source, f"the processor of {what}", transformers.AutoFeatureExtractor.from_pretrained)
        if processor.sampling_rate != SAMPLE_RATE:
            raise EncoderError(
                f"CTC model {model!r} expects {processor.sampling_rate} Hz; mmser aligns at {SAMPLE_RATE} Hz"
            )
        tokenizer = load(source, f"the vocabulary of {what}", transformers.AutoTokenizer.from_pretrained)
        self._model = load_model(source, what, transformers.AutoModelForCTC).to(device)
        self._device = torch.device(device)
        self._settings = settings
        self._normalise = bool(getattr(processor, "do_normalize", False))
        config: Any = self._model.config
        hop, field = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            hop, field = hop * stride, field + (kernel - 1) * hop
        self._grid = FrameGrid(hop, field)
        self._blank = int(config.pad_token_id)
        self._delimiter = tokenizer.get_vocab().get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        special = set(tokenizer.all_special_ids) | {self._blank, self._delimiter}
        self._letters = {
            letter: index
            for letter, index in tokenizer.get_vocab().items()
            if index not in special and len(letter) == 1
        }
        if not any(letter.isalpha() for letter in self._letters) or max(self._letters.values()) >= config.vocab_size:
            raise AlignmentError(
                f"CTC model {model!r}: its vocabulary has {len(self._letters)} signs and the model puts out "
                f"{config.vocab_size} symbols; expected one letter a symbol, as in facebook/wav2vec2-base-960h"
            )
        self._identity = {
            "model": source.name,
            "revision": getattr(config, "_commit_hash", None) or source.revision,
            "weights_sha256": weights_digest(self._model),
            "letters": dict(sorted(self._letters.items())),
        }

    @property
    def recipe(self) -> dict[str, object]:
        """The model, its letters and the settings."""
        return {
            "aligner": self.name,
            "rules": 2,  # raise when words or letters come out differently
            "num2words": version("num2words"),
            "transformers": transformers.__version__,
            **self._identity,
            **asdict(self._settings),
        }

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order.

        Flags: ``no-phones``; ``skipped:WORD`` (none of its letters is in the vocabulary);
        ``letters-left-out:WORD`` (some are not).
        """
        for one in spoken:
            try:
                yield self._align(one)
            except AlignmentError as error:
                yield Failed(one.utterance_id, f"utterance {one.utterance_id!r}: {error}")

    def _align(self, spoken: Spoken) -> Alignment:
        duration_s = len(spoken.samples) / SAMPLE_RATE
        self._check_audio(spoken.samples, duration_s)
        words, flags = self.spell(spoken.text)
        if not words:
            raise AlignmentError(
                f"no letter of the transcript {spoken.text[:40]!r} is in the vocabulary of {self._identity['model']}"
                if spoken.text.strip()
                else "it has no transcript"
            )
        tokens, owners = self._tokens([letters for _, letters in words])
        log_probs = self.log_probs(spoken.samples)
        if len(log_probs) < fewest_frames(tokens):
            raise AlignmentError(
                f"{duration_s:.2f} s of audio ({len(log_probs)} frames) cannot hold the {len(tokens)} letters of its "
                f"{len(words)} words; check that recording and transcript belong together"
            )
        spans = best_path(log_probs, tokens, self._blank)
        segments = []
        for i, (word, _) in enumerate(words):
            own = [span for span, owner in zip(spans, owners, strict=True) if owner == i]
            frames = sum(span.end - span.first for span in own)
            score = math.fsum(span.score * (span.end - span.first) for span in own) / frames
            start_s, end_s = self._seconds(own[0].first), min(duration_s, self._seconds(own[-1].end))
            segments.append(Segment(start_s, end_s, word.form, word.parent, score=score))
        return Alignment(spoken.utterance_id, tuple(segments), flags=(*flags, "no-phones"))

    def _check_audio(self, samples: NDArray[np.float32], duration_s: float) -> None:
        if len(samples) < self._grid.field:
            raise AlignmentError(f"{len(samples)} samples are too few: the model sees {self._grid.field} at once")
        if not np.isfinite(samples).all():
            raise AlignmentError("some samples are not finite; repair the recording")
        if float(np.abs(samples).max()) < self._settings.quietest:
            raise AlignmentError("the audio is silent: no sample reaches one step of 16 bits")
        if duration_s > self._settings.longest_s:
            raise AlignmentError(
                f"it is {duration_s:.1f} s long and at most {self._settings.longest_s:.0f} s can be aligned; "
                "cut the recording into utterances"
            )

    def spell(self, text: str) -> tuple[list[tuple[SpokenWord, list[int]]], list[str]]:
        """The words of a transcript in the model's letters, and the flags of those that do not spell.

        A word is spelled as it is written where the vocabulary has all its letters and digits. Else, as read in
        English (:mod:`~mmser.extract.align.words`): numbers written out, accents off. Tags are not spoken.
        """
        read: dict[int, list[str]] = {}
        for spoken in spoken_words(text):
            read.setdefault(spoken.parent, []).append(spoken.form)
        words: list[tuple[SpokenWord, list[int]]] = []
        flags: list[str] = []
        for parent, word in enumerate(transcript_words(text)):
            if parent not in read:
                continue
            plain = unicodedata.normalize("NFC", word.text).lower().replace("’", "'")
            written = [piece.strip("'") for piece in re.split(r"[^\w']|_", plain) if piece.strip("'")]
            forms = written if all(map(self._letter, "".join(written).replace("'", ""))) else read[parent]
            spelled = [(form, [i for i in map(self._letter, form) if i is not None]) for form in forms]
            if not any(letters for _, letters in spelled):
                flags.append(f"skipped:{word.text}")
            elif any(self._letter(sign) is None for form in forms for sign in form if sign != "'"):
                flags.append(f"letters-left-out:{word.text}")
            words += [(SpokenWord(form, parent), letters) for form, letters in spelled if letters]
        return words, flags

    def _letter(self, sign: str) -> int | None:
        return self._letters.get(sign, self._letters.get(sign.upper()))

    def _tokens(self, words: list[list[int]]) -> tuple[list[int], list[int]]:
        """Symbols to spell, delimiters between words, and the word of each; -1 for a delimiter."""
        tokens: list[int] = []
        owners: list[int] = []
        for i, letters in enumerate(words):
            if i and self._delimiter is not None:
                tokens.append(self._delimiter)
                owners.append(-1)
            tokens += letters
            owners += [i] * len(letters)
        return tokens, owners

    def _seconds(self, frame: int) -> float:
        """Where a frame begins, half a hop before its centre."""
        return max(0.0, (self._grid.field - self._grid.hop) / 2 + self._grid.hop * frame) / SAMPLE_RATE

    @torch.inference_mode()
    def log_probs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log probabilities (num_frames, num_symbols) of an utterance; long ones in pieces with context."""
        if self._normalise:
            # as Wav2Vec2FeatureExtractor does, over the whole utterance
            samples = ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
        grid = self._grid
        num_frames = grid.num_frames(len(samples))
        window, context = (
            round(s * SAMPLE_RATE / grid.hop) for s in (self._settings.window_s, self._settings.context_s)
        )
        pieces = []
        for begin in range(0, num_frames, window):
            end = min(num_frames, begin + window)
            first, last = max(0, begin - context), min(num_frames, end + context)
            piece = samples[first * grid.hop : (last - 1) * grid.hop + grid.field]
            logits = self._model(torch.from_numpy(piece)[None].to(self._device)).logits[0].float()
            assert len(logits) == last - first, f"{len(logits)} frames where {last - first} were expected"
            pieces.append(torch.log_softmax(logits[begin - first : end - first], dim=-1).cpu().numpy())
        return np.concatenate(pieces)
