"""TextGrids, Praat's format: import alignments that exist (MFA's, WebMAUS's, made by hand), and write ours."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from praatio.data_classes.interval_tier import IntervalTier
from praatio.data_classes.textgrid import Textgrid

from mmser.errors import AlignmentError
from mmser.extract.align import Closing, Failed, Spoken, digest_files
from mmser.extract.align.praat import Interval, Tier, read_tiers
from mmser.extract.align.syllables import syllables_of
from mmser.extract.align.words import match_words, spoken_words
from mmser.records import TIERS, Alignment, Kind, Segment
from mmser.units import SAMPLE_RATE

_SILENCES = frozenset(
    {"", "sil", "sp", "spr", "pau", "pause", "silence", "#", "_", "-", "...", "h#", "epi", "<eps>", "<sil>", "<p:>",
     "<p>", "<s>", "</s>", "{sl}", "[sil]", "[silence]", "(.)", "(...)"}
)  # fmt: skip
"""Labels of pauses: Praat's own empty one, MFA's, Kaldi's, WebMAUS's, TIMIT's, P2FA's and people's."""

_UNKNOWNS = frozenset({"spn", "nsn", "lau", "ns", "oov", "unk"})
"""Labels of sounds that nobody spelled out; so is every label in brackets or plus signs (``<unk>``, ``+SPN+``)."""

_SAMPA_TIER = "MAU"
"""WebMAUS's phones are SAMPA; :mod:`~mmser.extract.align.syllables` does not know its vowels (``@``, ``6``, ``{``)."""

_BRACKETED = re.compile(r"<.*>|\[.*\]|\{.*\}|\++[^+]+\++", re.DOTALL)


@dataclass(frozen=True)
class TextGridSettings:
    """What decides an import besides the files."""

    tolerance_s: float = 0.05
    """How far intervals may reach past the audio, to be clipped: tools round times, or took them from a recording
    that was at another sampling rate."""
    rest_s: float = 0.005
    """How far before its own end a tier may stop before the file counts as cut short: less than any phone lasts."""
    word_tier: str = r"(?:.*\S - )?words?|ORT-MAU"
    """Regular expression for the whole name of the word tier, in any case: ours and MFA's ("speaker - words" where it
    knew several), or WebMAUS's."""
    syllable_tier: str = r"(?:.*\S - )?syllables?|MAS"
    """The same for syllables, which WebMAUS has from its service Pho2Syl."""
    phone_tier: str = r"(?:.*\S - )?phones?|MAU"
    """The same for phones."""

    def pattern(self, tier: str) -> re.Pattern[str]:
        """How the tier ``word``, ``syllable`` or ``phone`` may be called."""
        patterns = {"word": self.word_tier, "syllable": self.syllable_tier, "phone": self.phone_tier}
        return re.compile(patterns[tier], re.IGNORECASE)


def _one_tier(tiers: list[Tier], noun: str, settings: TextGridSettings, path: Path) -> Tier | None:
    """The tier of words, syllables or phones; None where there is none."""
    found = [tier for tier in tiers if settings.pattern(noun).fullmatch(tier.name)]
    if len(found) > 1:
        raise AlignmentError(
            f"{path} has {len(found)} {noun} tiers ({', '.join(repr(tier.name) for tier in found)}), probably of "
            "several speakers; an utterance has one: write one TextGrid per utterance"
        )
    return found[0] if found else None


def _clip(tier: Tier, duration_s: float, settings: TextGridSettings, path: Path) -> tuple[Interval, ...]:
    """The intervals inside the audio; empty pauses go.

    Raises:
        AlignmentError: the tier is cut short, or an interval leaves the audio by more than the tolerance, or is empty
            and holds speech.
    """
    # Praat's tiers are filled to their end, and praatio takes a file that stops between two intervals for whole
    last_s = tier.intervals[-1].end_s if tier.intervals else 0.0
    if last_s < tier.end_s - settings.rest_s:
        raise AlignmentError(
            f"{path} is cut short: its tier {tier.name!r} should reach {tier.end_s:.3f} s and stops at {last_s:.3f} s; "
            "copy or export it again"
        )
    kept: list[Interval] = []
    for interval in tier.intervals:
        where = f"{path}, tier {tier.name!r}: {interval.label!r} from {interval.start_s} s to {interval.end_s} s"
        if not (math.isfinite(interval.start_s) and math.isfinite(interval.end_s)):
            raise AlignmentError(f"{where} is no stretch of time")
        if interval.end_s > duration_s + settings.tolerance_s or interval.start_s < -settings.tolerance_s:
            raise AlignmentError(
                f"{where} lies outside the audio, which lasts {duration_s:.3f} s; check that they belong together"
            )
        start, end = max(0.0, interval.start_s), min(duration_s, interval.end_s)
        if start < end:
            kept.append(Interval(start, end, interval.label))
        elif interval.label.lower() not in _SILENCES:
            raise AlignmentError(f"{where} is empty within the audio, which lasts {duration_s:.3f} s; mend its borders")
    return tuple(kept)


def _kind(label: str, words: frozenset[str] = frozenset()) -> Kind:
    """What a label stands for. A label that is also a word of the transcript ("silence", "pause") is that word."""
    lowered = label.lower()
    if lowered in words:
        return Kind.SPEECH
    if lowered in _SILENCES:
        return Kind.SILENCE
    return Kind.UNKNOWN if lowered in _UNKNOWNS or _BRACKETED.fullmatch(label) else Kind.SPEECH


def _segment(interval: Interval, parent: int, kind: Kind) -> Segment:
    label = "" if kind is Kind.SILENCE else interval.label
    return Segment(interval.start_s, interval.end_s, label, parent, kind)


def _word_segments(intervals: Sequence[Interval], text: str) -> tuple[Segment, ...]:
    kinds = [_kind(i.label, frozenset(word.form for word in spoken_words(text))) for i in intervals]
    spoken = [i.label for i, kind in zip(intervals, kinds, strict=True) if kind is not Kind.SILENCE]
    parents = iter(match_words(spoken, text))
    return tuple(
        _segment(i, -1 if kind is Kind.SILENCE else next(parents), kind)
        for i, kind in zip(intervals, kinds, strict=True)
    )


def _part_segments(intervals: Sequence[Interval], words: Sequence[Segment]) -> tuple[Segment, ...]:
    """Syllables or phones, each with the word that holds its middle."""
    parts: list[Segment] = []
    word = 0
    for interval in intervals:
        middle = (interval.start_s + interval.end_s) / 2
        while word < len(words) and words[word].end_s <= middle:
            word += 1
        inside = word < len(words) and words[word].start_s <= middle
        parts.append(_segment(interval, word if inside else -1, _kind(interval.label)))
    return tuple(parts)


def _flags(words: Sequence[Segment], phones: Sequence[Segment], text: str) -> tuple[str, ...]:
    speech = [word for word in words if word.kind is Kind.SPEECH]
    flags = ["transcript-differs"] if text.strip() and any(word.parent < 0 for word in speech) else []
    flags += [] if words else ["no-words"]
    flags += [] if phones else ["no-phones"]
    spelled = {phone.parent for phone in phones if phone.kind is Kind.SPEECH}
    if phones:
        flags += [
            f"out-of-vocabulary:{w.label}" for i, w in enumerate(words) if w.kind is Kind.SPEECH and i not in spelled
        ]
    return tuple(flags)


def read_textgrid(
    path: Path, utterance_id: str, *, duration_s: float, text: str = "", settings: TextGridSettings = TextGridSettings()
) -> Alignment:
    """Import one TextGrid: its words, syllables and phones.

    The tiers are found by name (:class:`TextGridSettings`); point tiers and others are passed over. Syllables are the
    file's own where it has such a tier, else made from the phones, but not from WebMAUS's, which are SAMPA. A file of
    syllables or phones alone is taken without words. Pauses are known by their usual labels and keep an empty one.
    Stress digits of phones are kept.

    Args:
        path: long, short or JSON TextGrid in UTF-8, UTF-16 or Latin-1.
        utterance_id: whose alignment it is.
        duration_s: length of the utterance's audio.
        text: transcript, to which the words are matched; empty for none.
        settings: tolerances and names of tiers.

    Returns:
        The alignment. Flags: ``no-words``; ``no-phones``; ``no-syllables`` (WebMAUS's phones without its syllables);
        ``transcript-differs`` (a word is not in the transcript); ``out-of-vocabulary:WORD`` (a word without a known
        phone, so without syllables of ours).

    Raises:
        AlignmentError: the file is no TextGrid; has no tier of words, unless all its tiers are of syllables or phones;
            has several of a kind; holds no speech; or does not fit the audio.
    """
    tiers = read_tiers(path)
    found = {noun: _one_tier(tiers, noun, settings, path) for noun in TIERS}
    known = [tier for tier in found.values() if tier is not None]
    if found["word"] is None and (not known or len(known) < len(tiers)):
        # which of the others holds the words is not for us to guess
        raise AlignmentError(
            f"{path} has no interval tier called 'words' or 'word', only {[tier.name for tier in tiers]}; "
            "rename the tier that holds the words"
        )
    clipped = {noun: _clip(tier, duration_s, settings, path) for noun, tier in found.items() if tier is not None}
    words = _word_segments(clipped.get("word", ()), text)
    phones = _part_segments(clipped.get("phone", ()), words)
    own = [s for s in _part_segments(clipped.get("syllable", ()), words) if s.kind is not Kind.SILENCE]
    if all(segment.kind is Kind.SILENCE for segment in (words or [*own, *phones])):
        raise AlignmentError(f"{path}: its tier {known[0].name!r} holds no {TIERS[0] if words else 'speech'}")
    sampa = "syllable" not in clipped and any(tier.name.upper() == _SAMPA_TIER for tier in known)
    flags = (*_flags(words, phones, text), *(["no-syllables"] if sampa else []))
    try:
        syllables = tuple(own) if "syllable" in clipped or sampa else syllables_of(words, phones)
        return Alignment(utterance_id, words, syllables, phones, flags)
    except AlignmentError as error:
        raise AlignmentError(f"{path}: {error}") from error


def write_textgrid(alignment: Alignment, duration_s: float, path: Path) -> None:
    """Write an alignment as a long TextGrid that Praat opens, tiers ``words``, ``syllables`` and ``phones``.

    Pauses become empty intervals, and empty tiers are left out.

    Args:
        alignment: what to write.
        duration_s: length of the utterance's audio, the end of all tiers.
        path: the file, made or replaced; its folder must be there.

    Raises:
        AlignmentError: a segment ends after ``duration_s``, or the file cannot be written.
    """
    grid = Textgrid(0.0, duration_s)
    for name in TIERS:
        segments = alignment.tier(name)
        if segments and segments[-1].end_s > duration_s + 1e-6:
            raise AlignmentError(
                f"utterance {alignment.utterance_id!r}: its last {name} ends at {segments[-1].end_s:.3f} s, after the "
                f"end of the audio at {duration_s:.3f} s"
            )
        entries = [
            # below 0.1 ms Python writes 1e-05, which not every reader takes for a number
            (0.0 if s.start_s < 1e-4 else float(s.start_s), min(float(s.end_s), duration_s), s.label)
            for s in segments
            if s.kind is not Kind.SILENCE
        ]
        if segments:
            grid.addTier(IntervalTier(f"{name}s", entries, 0.0, duration_s))
    try:
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
    except OSError as error:
        raise AlignmentError(f"{path} cannot be written: {error.strerror}") from error


class TextGridAligner(Closing):
    """Takes alignments from a folder of ``<utterance_id>.TextGrid``, at any depth."""

    name = "textgrid"

    def __init__(self, folder: Path, settings: TextGridSettings = TextGridSettings()) -> None:
        """List the folder, once.

        Raises:
            AlignmentError: there is no such folder, or no TextGrid in it.
        """
        if not folder.is_dir():
            raise AlignmentError(f"the folder of TextGrids {folder} does not exist")
        self._folder = folder
        self._settings = settings
        self._paths: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() == ".textgrid":
                self._paths.setdefault(path.stem, []).append(path)
        if not self._paths:
            raise AlignmentError(f"the folder {folder} holds no file called <utterance_id>.TextGrid, at any depth")

    @property
    def recipe(self) -> dict[str, object]:
        """Versions and settings. The files are not in it: more of them may come later."""
        return {
            "aligner": self.name,
            "rules": 3,  # raise when tiers, kinds, matches or syllables come out differently
            "praatio": version("praatio"),
            "num2words": version("num2words"),
            **asdict(self._settings),
        }

    def align(self, spoken: Iterable[Spoken]) -> Iterator[Alignment | Failed]:
        """One result for each utterance, in their order."""
        for one in spoken:
            try:
                yield self._align(one)
            except AlignmentError as error:
                yield Failed(one.utterance_id, f"utterance {one.utterance_id!r}: {error}")

    def file_digest(self, utterance_id: str) -> str | None:
        """SHA-256 of the utterance's TextGrid, in hex; None where there is none, or several."""
        paths = self._paths.get(utterance_id, [])
        return digest_files(paths) if len(paths) == 1 else None

    def _align(self, spoken: Spoken) -> Alignment:
        paths = self._paths.get(spoken.utterance_id, [])
        if not paths:
            raise AlignmentError(f"there is no {spoken.utterance_id}.TextGrid in {self._folder} or the folders in it")
        if len(paths) > 1:
            raise AlignmentError(f"there are {len(paths)} TextGrids, {', '.join(map(str, paths))}; keep one")
        duration_s = len(spoken.samples) / SAMPLE_RATE
        return read_textgrid(
            paths[0], spoken.utterance_id, duration_s=duration_s, text=spoken.text, settings=self._settings
        )
