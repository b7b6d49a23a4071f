"""PocketSphinx's decoder in alignment mode: words in a first pass, their phones in a second.

PocketSphinx (Huggins-Daines et al., ICASSP 2006) brings a US English acoustic model and dictionary in its wheel.
Times here are frames of 10 ms, counted from the first sample given.
"""

import re
from dataclasses import dataclass
from itertools import count, takewhile

from pocketsphinx import Decoder

from mmser.extract.align.lexicon import Lexicon, Pronunciation, derive
from mmser.units import SAMPLE_RATE

FRAME_S = 0.01
"""Hop of the front end, seconds."""

FRAME_BYTES = int(FRAME_S * SAMPLE_RATE) * 2
"""Bytes of one hop of 16-bit samples."""

FEWEST_FRAMES = 3
"""Of a phone: its model has three emitting states and none can be skipped."""


@dataclass(frozen=True)
class SphinxPhone:
    """A phone as the second pass found it."""

    name: str
    start: int
    end: int
    """One past its last frame."""
    score: float
    """Acoustic score per frame: 0 at best, the lower the worse."""


@dataclass(frozen=True)
class SphinxWord:
    """A word, pause or noise as the second pass found it."""

    name: str
    """Its dictionary entry, the number of the variant off: ``the``, ``<sil>``."""
    phones: tuple[SphinxPhone, ...]

    @property
    def start(self) -> int:
        """First frame."""
        return self.phones[0].start

    @property
    def end(self) -> int:
        """One past the last frame."""
        return self.phones[-1].end

    @property
    def score(self) -> float:
        """Acoustic score per frame."""
        return sum(p.score * (p.end - p.start) for p in self.phones) / (self.end - self.start)


@dataclass(frozen=True)
class Entry:
    """A word of the decoder's dictionary."""

    token: str
    """Its name there."""
    fewest_phones: int
    """Length of its shortest pronunciation."""
    by_rule: bool
    """Whether letter rules made its pronunciation."""


@dataclass(frozen=True)
class _Span:
    """A word or pause of the first pass."""

    name: str
    start: int
    end: int

    @property
    def is_filler(self) -> bool:
        return self.name[0] in "<["


def _without_variant(name: str) -> str:
    return re.sub(r"\(\d+\)$", "", name)


class SphinxDecoder:
    """One PocketSphinx decoder of about 75 MB, with one beam. Not for several threads at once.

    After any exception out of it, drop it: PocketSphinx may crash the process when a decoder that raised is used
    again. Never give it zero samples.
    """

    def __init__(self, beam: float, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        # bestpath=True gives impossible durations in alignment mode
        self._decoder = Decoder(
            lm=None, samprate=SAMPLE_RATE, bestpath=False, loglevel="FATAL", beam=beam, wbeam=beam, pbeam=beam
        )
        self._entries: dict[str, Entry] = {}

    def entry(self, form: str) -> Entry:
        """The dictionary entry of a spoken form with a Latin letter: the lexicon's, the model's, or made by rule."""
        if form not in self._entries:
            self._entries[form] = self._find(form)
        return self._entries[form]

    def _find(self, form: str) -> Entry:
        own = self._lexicon.pronunciations.get(form)
        if own is not None:
            return self._add(f"@{form}", own, by_rule=False)
        if self._decoder.lookup_word(form) is not None:
            variants = [form, *self._variants(form)]
            lengths = [len(self._decoder.lookup_word(variant).split()) for variant in variants]
            return Entry(form, min(lengths), by_rule=False)
        phones, by_rule = derive(form, self._look_up)
        return self._add(f"@{form}", (phones,), by_rule=by_rule)

    def _variants(self, form: str) -> list[str]:
        numbered = (f"{form}({i})" for i in count(2))
        return list(takewhile(lambda variant: self._decoder.lookup_word(variant) is not None, numbered))

    def _look_up(self, form: str) -> Pronunciation | None:
        own = self._lexicon.pronunciations.get(form)
        if own is not None:
            return own[0]
        known = self._decoder.lookup_word(form) if form else None
        return tuple(known.split()) if known else None

    def _add(self, token: str, pronunciations: tuple[Pronunciation, ...], *, by_rule: bool) -> Entry:
        # "@" keeps these apart from the model's own entries of the same spelling
        for i, phones in enumerate(pronunciations, 1):
            self._decoder.add_word(token if i == 1 else f"{token}({i})", " ".join(phones), False)
        return Entry(token, min(len(phones) for phones in pronunciations), by_rule)

    def align(self, pcm: bytes, tokens: list[str], *, window: int, pause: int) -> list[SphinxWord] | None:
        """Words with their phones; None where the tokens do not fit the audio under this beam.

        The second pass holds every frame times every state (1 GB at 214 s), the first grows only linearly. So audio
        longer than a window is cut where the first pass found pauses, and each piece aligned by itself.

        Args:
            pcm: 16-bit samples at 16 kHz.
            tokens: names of dictionary entries, in order, all of them spoken.
            window: frames of the longest piece.
            pause: frames of the shortest pause to cut at by choice.
        """
        spans = self._first_pass(pcm, tokens)
        if spans is None:
            return None
        if len(pcm) <= window * FRAME_BYTES:
            return self._second_pass(pcm)
        words: list[SphinxWord] = []
        begin, spoken = 0, 0
        for end in [*cut_points(spans, window=window, pause=pause), -(-len(pcm) // FRAME_BYTES)]:
            piece = pcm[begin * FRAME_BYTES : end * FRAME_BYTES]
            num_words = sum(begin <= span.start < end for span in spans if not span.is_filler)
            held, spoken = tokens[spoken : spoken + num_words], spoken + num_words
            if held:
                if self._first_pass(piece, held) is None:
                    return None
                words += [_moved(word, begin) for word in self._second_pass(piece)]
            begin = end
        assert spoken == len(tokens)
        return words

    def _run(self, pcm: bytes) -> None:
        # without this, noise and cepstral means left by earlier audio would change the result
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()

    def _first_pass(self, pcm: bytes, tokens: list[str]) -> list[_Span] | None:
        self._decoder.set_align_text(" ".join(tokens))
        self._run(pcm)
        if self._decoder.hyp() is None:
            return None
        spans = [_Span(_without_variant(s.word), s.start_frame, s.end_frame + 1) for s in self._decoder.seg()]
        # a search that was pruned before the end may still tell how far it came
        return spans if [span.name for span in spans if not span.is_filler] == tokens else None

    def _second_pass(self, pcm: bytes) -> list[SphinxWord]:
        self._decoder.set_alignment()
        self._run(pcm)
        return [
            SphinxWord(
                _without_variant(word.name),
                tuple(SphinxPhone(p.name, p.start, p.start + p.duration, p.score / p.duration) for p in word),
            )
            for word in self._decoder.get_alignment()
        ]


def _moved(word: SphinxWord, by: int) -> SphinxWord:
    return SphinxWord(word.name, tuple(SphinxPhone(p.name, p.start + by, p.end + by, p.score) for p in word.phones))


def cut_points(spans: list[_Span], *, window: int, pause: int) -> list[int]:
    """Frames at which to cut a long first pass: the middles of pauses, at most a window apart.

    Taken is the last pause of full length in reach, else the last pause of any length, else the last end of a word.
    Where not even a word ends within a window, the next end of one.
    """
    pauses = [((span.start + span.end) // 2, span.end - span.start) for span in spans if span.is_filler]
    choices = [
        [middle for middle, length in pauses if length >= pause],
        [middle for middle, _ in pauses],
        [span.end for span in spans],
    ]
    cuts: list[int] = []
    begin, last = 0, spans[-1].end
    while last - begin > window:
        in_reach = [max((c for c in choice if begin < c <= begin + window), default=0) for choice in choices]
        begin = next((cut for cut in in_reach if cut), min(c for c in choices[2] if c > begin))
        if begin < last:
            cuts.append(begin)
    return cuts
