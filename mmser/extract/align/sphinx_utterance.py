"""One utterance through PocketSphinx: what is checked before, and what its frames become afterwards."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmser.errors import AlignmentError
from mmser.extract.align import Failed, Spoken
from mmser.extract.align.lexicon import Lexicon, can_be_pronounced
from mmser.extract.align.sphinx import FEWEST_FRAMES, FRAME_S, Entry, SphinxDecoder, SphinxWord
from mmser.extract.align.syllables import syllables_of
from mmser.extract.align.words import SpokenWord, spoken_words
from mmser.records import Alignment, Kind, Segment
from mmser.units import SAMPLE_RATE


@dataclass(frozen=True)
class SphinxSettings:
    """What decides an alignment besides the model and the lexicon."""

    beam: float = 1e-100
    """Pruning beam on all levels. PocketSphinx's own, 1e-48, lost a correct transcript of 25 s."""
    retry_beam: float = 1e-200
    """Beam of the second try, whose result is flagged ``wide-beam``: it lets wrong transcripts through too."""
    padding_s: float = 0.3
    """Faint noise put before and after, for speech that begins or ends with the recording; taken off again."""
    padding_level: float = 1e-4
    """Standard deviation of that noise, of full scale 1."""
    seed: int = 0
    """Of that noise."""
    window_s: float = 30.0
    """Longer utterances are cut at pauses into pieces of at most this, to keep memory flat."""
    pause_s: float = 0.2
    """The shortest pause to cut at by choice."""
    longest_s: float = 600.0
    """Longer utterances are refused: 588 s took 81 s on one core and 312 MB in all, and both grow on."""
    quietest: float = 1 / 32768
    """A recording whose peak is below this, one step of 16 bits, holds no signal."""
    low_score: float = -40.0
    """Score per frame of words below which ``low-score`` is flagged. 20 recordings with their own transcript scored
    -7 to -37, 12 with another's -44 to -77; in larger sets the tails overlap, so it is a warning and no gate."""


_FILLERS = {"<s>": Kind.SILENCE, "</s>": Kind.SILENCE, "<sil>": Kind.SILENCE, "[NOISE]": Kind.UNKNOWN,
            "[SPEECH]": Kind.UNKNOWN}  # fmt: skip
"""What the decoder puts between words by itself."""


class UtteranceAligner:
    """Aligns one utterance after the other in this process. A result does not depend on those before it."""

    def __init__(self, settings: SphinxSettings, lexicon: Lexicon) -> None:
        self._settings = settings
        self._lexicon = lexicon
        self._decoders: dict[float, SphinxDecoder] = {}

    def align(self, spoken: Spoken) -> Alignment | Failed:
        """The alignment of one utterance, or why there is none.

        Flags: ``wide-beam``, ``low-score``, ``spelled-by-rule:WORD`` (letter rules made its phones), ``skipped:WORD``
        (no Latin letter, so left out), ``outside-audio:WORD`` (found only in the padding, so left out).
        """
        try:
            self._check_audio(spoken)
            words, skipped = _pronounceable(spoken.text)
            found, flags = self._decode(spoken, words)
            flags = [*(f"skipped:{word}" for word in skipped), *flags]
            return _assemble(spoken, words, found, flags, self._settings)
        except AlignmentError as error:
            return Failed(spoken.utterance_id, f"utterance {spoken.utterance_id!r}: {error}")

    def _check_audio(self, spoken: Spoken) -> None:
        settings, samples = self._settings, spoken.samples
        assert samples.ndim == 1, f"{spoken.utterance_id}: samples of shape {samples.shape}, expected (num_samples,)"
        if samples.size == 0:
            raise AlignmentError("there is no audio (0 samples)")
        if not np.isfinite(samples).all():
            raise AlignmentError("some samples are not finite; repair the recording")
        if float(np.abs(samples).max()) < settings.quietest:
            raise AlignmentError("the audio is silent: no sample reaches one step of 16 bits")
        if _duration_s(spoken) > settings.longest_s:
            raise AlignmentError(
                f"it is {_duration_s(spoken):.1f} s long and at most {settings.longest_s:.0f} s can be aligned; "
                "cut the recording into utterances"
            )

    def _decode(self, spoken: Spoken, words: list[SpokenWord]) -> tuple[list[SphinxWord], list[str]]:
        settings = self._settings
        pcm = _padded_pcm(spoken.samples, settings)
        window, pause = int(settings.window_s / FRAME_S), int(settings.pause_s / FRAME_S)
        for beam in (settings.beam, settings.retry_beam):
            try:
                decoder = self._decoder(beam)
                entries = [decoder.entry(word.form) for word in words]
                _check_room(spoken, entries)
                found = decoder.align(pcm, [entry.token for entry in entries], window=window, pause=pause)
            except (RuntimeError, LookupError, ValueError, MemoryError) as error:
                # a decoder that raised may crash the process when it is used again
                self._decoders.clear()
                raise AlignmentError(f"PocketSphinx stopped: {type(error).__name__}: {error}") from error
            if found is not None:
                by_rule = dict.fromkeys(w.form for w, entry in zip(words, entries, strict=True) if entry.by_rule)
                flags = [f"spelled-by-rule:{form}" for form in by_rule]
                return found, [*flags, *(["wide-beam"] if beam != settings.beam else [])]
        raise AlignmentError(
            f"its {len(words)} words (beginning {' '.join(word.form for word in words[:4])!r}) do not fit its "
            f"{_duration_s(spoken):.2f} s of audio; check that recording and transcript belong together"
        )

    def _decoder(self, beam: float) -> SphinxDecoder:
        if beam not in self._decoders:
            self._decoders[beam] = SphinxDecoder(beam, self._lexicon)
        return self._decoders[beam]


def _duration_s(spoken: Spoken) -> float:
    return len(spoken.samples) / SAMPLE_RATE


def _pronounceable(text: str) -> tuple[list[SpokenWord], list[str]]:
    """The words to align, and the transcript's words without a Latin letter.

    Raises:
        AlignmentError: there is nothing to align.
    """
    spoken = spoken_words(text)
    words = [word for word in spoken if can_be_pronounced(word.form)]
    skipped = [word.form for word in spoken if not can_be_pronounced(word.form)]
    if words:
        return words, skipped
    if skipped:
        raise AlignmentError(
            f"no word of the transcript {_shortened(text)} has a Latin letter, and PocketSphinx's embedded model is "
            "English; align other languages with MFA, and import its TextGrids with the aligner 'textgrid'"
        )
    raise AlignmentError(
        f"the transcript {_shortened(text)} holds no spoken word" if text.strip() else "it has no transcript"
    )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _padded_pcm(samples: NDArray[np.float32], settings: SphinxSettings) -> bytes:
    """16-bit samples with noise on both sides; what exceeds full scale is clipped."""
    padding = round(settings.padding_s * SAMPLE_RATE)
    noise = np.random.default_rng(settings.seed).standard_normal((2, padding)) * settings.padding_level
    padded = np.concatenate([noise[0], samples, noise[1]])
    return np.round(np.clip(padded, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def _check_room(spoken: Spoken, entries: list[Entry]) -> None:
    num_phones = sum(entry.fewest_phones for entry in entries)
    needed_s = num_phones * FEWEST_FRAMES * FRAME_S
    if needed_s > _duration_s(spoken):
        raise AlignmentError(
            f"{_duration_s(spoken):.2f} s of audio cannot hold the {num_phones} phones of its {len(entries)} words, "
            f"which take {needed_s:.2f} s at least; check that recording and transcript belong together"
        )


def _assemble(
    spoken: Spoken, words: list[SpokenWord], found: list[SphinxWord], flags: list[str], settings: SphinxSettings
) -> Alignment:
    """Segments in seconds of the utterance, the padding taken off, parents set."""
    tier: list[Segment] = []
    phones: list[Segment] = []
    to_say = iter(words)
    for word in found:
        kind = _FILLERS.get(word.name, Kind.SPEECH)
        said = next(to_say) if kind is Kind.SPEECH else None
        label = said.form if said else ("" if kind is Kind.SILENCE else word.name)
        parent = said.parent if said else -1
        for phone in word.phones:
            name = "" if kind is Kind.SILENCE else phone.name
            phones.append(Segment(_seconds(phone.start), _seconds(phone.end), name, len(tier), kind, phone.score))
        tier.append(Segment(_seconds(word.start), _seconds(word.end), label, parent, kind, word.score))
    assert next(to_say, None) is None, f"{spoken.utterance_id}: the decoder returned fewer words than it was given"
    speech = [w for w in found if w.name not in _FILLERS]
    frames = sum(word.end - word.start for word in speech)
    if sum(word.score * (word.end - word.start) for word in speech) / frames < settings.low_score:
        flags = [*flags, "low-score"]
    # syllables come before clipping, so that a phone lost in the padding does not change where they divide
    syllables = list(syllables_of(tier, phones))
    return _clipped(spoken, tier, syllables, phones, flags, settings)


def _seconds(frame: int) -> float:
    return frame * FRAME_S


def _clipped(
    spoken: Spoken,
    words: list[Segment],
    syllables: list[Segment],
    phones: list[Segment],
    flags: list[str],
    settings: SphinxSettings,
) -> Alignment:
    """The alignment without the padding: segments wholly in it go, parents follow."""
    end_s = _duration_s(spoken)

    def clip(segment: Segment) -> Segment | None:
        start = round(max(0.0, segment.start_s - settings.padding_s), 6)
        end = round(min(end_s, segment.end_s - settings.padding_s), 6)
        return replace(segment, start_s=start, end_s=end) if start < end else None

    kept: list[Segment] = []
    place: dict[int, int] = {}
    for i, word in enumerate(words):
        inside = clip(word)
        if inside is not None:
            place[i] = len(kept)
            kept.append(inside)
        elif word.kind is Kind.SPEECH:
            flags = [*flags, f"outside-audio:{word.label}"]
    parts = [
        tuple(replace(s, parent=place[s.parent]) for s in map(clip, tier) if s is not None)
        for tier in (syllables, phones)
    ]
    return Alignment(spoken.utterance_id, tuple(kept), parts[0], parts[1], tuple(flags))
