"""EmoDB's own labels, set by hand: phones (``lablaut/``) and syllables (``silb/``), as alignments.

Both kinds of file give a time and a label a line, and the time is the label's *start*: read so, releases of plosives
(``!t``) last 10 ms in the median, read as ends 34 ms, and after the closing ``.`` the recordings fall by 20 dB.

``silb`` has one line a syllable, however its label is spelled (``gehen`` + ``hn``), so words are counted off by the
sentence's known syllables. ``lablaut`` is narrow: closure, release and aspiration of a plosive have a line each, and so
has every change of voice within a phone (``-sth``, voiceless from here). Here they are one phone each, named by its
SAMPA symbol alone (``=`` for syllabic), without diacritics and degrees of stress.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mmser.errors import ManifestError
from mmser.records import Alignment, Segment

SYLLABLES = {
    "a01": "Der Lap-pen liegt auf dem Eis-schrank",
    "a02": "Das will sie am Mitt-woch ab-ge-ben",
    "a04": "Heu-te a-bend könn-te ich es ihm sa-gen",
    "a05": "Das schwar-ze Blatt Pa-pier be-fin-det sich da o-ben ne-ben dem Holz-stück",
    "a07": "In sie-ben Stun-den wird es so-weit sein",
    "b01": "Was sind denn das für Tü-ten die da un-ter dem Tisch ste-hen",
    "b02": "Sie ha-ben es ge-ra-de hoch-ge-tra-gen und jetzt ge-hen sie wie-der run-ter",
    "b03": "An den Wo-chen-en-den bin ich jetzt im-mer nach Hau-se ge-fah-ren und ha-be Ag-nes be-sucht",
    "b09": "Ich will das e-ben weg-brin-gen und dann mit Karl was trin-ken gehen",
    "b10": "Die wird auf dem Platz sein wo wir sie im-mer hin-le-gen",
}
"""The sentences' words, parted where the labels part them (all give the last word of b09 one line)."""

_PAUSES = ("(", "(gef")
"""Labels of pauses in both kinds of file; the second was quiet too, 22 dB below the recordings' mean."""

_END = "."

_FEATURES = frozenset(
    {"api", "asp", "beh", "den", "det", "eng", "fal", "flu", "fr", "ger", "ges", "har", "hoe", "lab", "lac", "lar",
     "lat", "na", "nas", "pal", "pha", "rue", "sil", "spr", "sth", "tie", "ung", "vel", "vor", "zen"}
)  # fmt: skip
"""Diacritics. A line of these alone says how the phone before it goes on."""

_LINE = re.compile(r"\s*(\d+(?:\.\d*)?)\s+(?:-?\d+\s)?(.*)")
"""Start, the colour that xlabel shows it in (in ``lablaut`` only), and the label."""

_SYMBOL = re.compile(r"_?(?P<release>!?)\s*(?P<name>[^\s+\-\[\]:_!]*)")
_ASPIRATION = re.compile(r"([ptkbdg])(?:asp|sap|as)")
"""``tasp``; two are misspelled."""

_PLACES = {"p": "p", "b": "p", "t": "t", "d": "t", "k": "k", "g": "k"}
"""A plosive's place: a closure ``d`` may be released as ``!t``."""


@dataclass(frozen=True)
class HandLabels:
    """The labels that come with a corpus."""

    alignments: dict[str, Alignment]
    """By utterance, in order of their names."""
    notes: tuple[str, ...]
    """Each file or line that could not be used, and why."""


@dataclass(frozen=True)
class _Mark:
    """A line of a label file and the next one's start."""

    start_s: float
    end_s: float
    label: str


@dataclass
class _Phone:
    start_s: float
    end_s: float
    name: str


def read_emodb_labels(folder: Path) -> HandLabels:
    """Read ``lablaut/`` and ``silb/`` of EmoDB.

    Flags of an alignment: ``no-phones``; ``no-words`` (no syllable labels, or not as many as the sentence has).

    Args:
        folder: the corpus's folder, which holds ``wav/``, ``lablaut/`` and ``silb/``.

    Raises:
        ManifestError: there is neither ``lablaut/`` nor ``silb/`` in it.
    """
    folder = Path(folder)
    folder = folder if (folder / "wav").is_dir() else folder.parent
    if not ((folder / "lablaut").is_dir() or (folder / "silb").is_dir()):
        raise ManifestError(
            f"EmoDB folder {str(folder)!r} holds no labels: there is neither 'lablaut/' (phones) nor 'silb/' "
            "(syllables); download them with the corpus, or leave the labels out"
        )
    notes: list[str] = []
    phones, syllables = _label_files(folder / "lablaut", notes), _label_files(folder / "silb", notes)
    recorded = {path.stem for path in (folder / "wav").glob("*.wav")}
    unheard = sorted((set(phones) | set(syllables)) - recorded)
    if unheard:
        notes.append(f"EmoDB: labels without a recording are left out: {', '.join(unheard)}")
    alignments = {}
    for utterance_id in sorted(recorded & (set(phones) | set(syllables))):
        alignment = _alignment(utterance_id, phones.get(utterance_id), syllables.get(utterance_id), notes)
        if alignment is not None:
            alignments[utterance_id] = alignment
    return HandLabels(alignments, tuple(notes))


def _label_files(folder: Path, notes: list[str]) -> dict[str, list[_Mark]]:
    """The labels by utterance; of two files for one recording (``14b09Ea``) the one with labels counts."""
    found: dict[str, list[_Mark]] = {}
    empty: dict[str, Path] = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        match = re.fullmatch(r"(\d\d[ab]\d\d[A-Z][a-z])(?:xx)?\.(?:lablaut|silb)", path.name)
        if match is None:
            if not path.name.startswith("."):
                notes.append(f"EmoDB: {folder.name}/{path.name} is no label file (expected a name like 03a01Fa)")
            continue
        starts = _starts(path, notes)
        if not starts:
            empty[match[1]] = path
        elif not starts[-1][1].startswith(_END) or any(a > b for (a, _), (b, _) in pairwise(starts)):
            where = f"EmoDB: {folder.name}/{path.name}"
            notes.append(f"{where}: its labels do not rise in time to a closing '.'; the file is left out")
        else:
            found[match[1]] = [_Mark(start, end, label) for (start, label), (end, _) in pairwise(starts)]
    notes += [f"EmoDB: {folder.name}/{path.name} holds no labels" for uid, path in empty.items() if uid not in found]
    return found


def _starts(path: Path, notes: list[str]) -> list[tuple[float, str]]:
    """The lines of a label file, time and label; a line that is none is named."""
    lines = path.read_bytes().decode("latin-1").splitlines()
    after_header = lines.index("#") + 1 if "#" in lines else 0
    starts: list[tuple[float, str]] = []
    for number, line in enumerate(lines[after_header:], after_header + 1):
        match = _LINE.fullmatch(line)
        if match:
            starts.append((float(match[1]), match[2].strip()))
        elif line.strip():
            where = f"EmoDB: {path.parent.name}/{path.name}, line {number}"
            notes.append(f"{where}: {line.strip()!r} is no time and label; left out")
    return starts


def _alignment(
    utterance_id: str, phone_marks: list[_Mark] | None, syllable_marks: list[_Mark] | None, notes: list[str]
) -> Alignment | None:
    words, syllables = _words_and_syllables(utterance_id, syllable_marks or [], notes)
    phones = _phones(utterance_id, phone_marks or [], words, notes)
    if not syllables and not phones:
        return None
    flags = [*([] if words else ["no-words"]), *([] if phones else ["no-phones"])]
    return Alignment(utterance_id, words, syllables, phones, tuple(flags))


def _words_and_syllables(
    utterance_id: str, marks: list[_Mark], notes: list[str]
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Words counted off by the sentence's syllables; no words where the labels are more or fewer."""
    spoken = [mark for mark in marks if mark.label not in _PAUSES]
    for mark in spoken:
        if mark.start_s == mark.end_s:
            notes.append(
                f"EmoDB: silb/{utterance_id}.silb: {mark.label!r} at {mark.start_s:.3f} s has no length; left out"
            )
    expected = [word.split("-") for word in SYLLABLES[utterance_id[2:5]].split()]
    if len(spoken) != sum(map(len, expected)):
        if spoken:
            notes.append(
                f"EmoDB: silb/{utterance_id}.silb has {len(spoken)} syllables, its sentence {sum(map(len, expected))}: "
                "its words are left out"
            )
        return (), tuple(Segment(m.start_s, m.end_s, m.label) for m in spoken if m.start_s < m.end_s)
    words: list[Segment] = []
    syllables: list[Segment] = []
    remaining = iter(spoken)
    for place, parts in enumerate(expected):
        pairs = [(name, mark) for name, mark in zip(parts, remaining, strict=False) if mark.start_s < mark.end_s]
        if pairs:
            syllables += [Segment(mark.start_s, mark.end_s, name.lower(), len(words)) for name, mark in pairs]
            words.append(Segment(pairs[0][1].start_s, pairs[-1][1].end_s, "".join(parts), place))
    return tuple(words), tuple(syllables)


def _phones(utterance_id: str, marks: list[_Mark], words: tuple[Segment, ...], notes: list[str]) -> tuple[Segment, ...]:
    """One segment a phone, with the word that holds its middle."""
    segments = []
    for phone in _joined(marks):
        if phone.start_s == phone.end_s:
            notes.append(f"EmoDB: lablaut of {utterance_id}: {phone.name!r} at {phone.start_s:.3f} s has no length")
            continue
        middle = (phone.start_s + phone.end_s) / 2
        parent = next((i for i, word in enumerate(words) if word.start_s <= middle < word.end_s), -1)
        segments.append(Segment(phone.start_s, phone.end_s, phone.name, parent))
    return tuple(segments)


def _joined(marks: list[_Mark]) -> Iterator[_Phone]:
    """Phones with their closures, releases, aspirations and changes in one; pauses part them."""
    phone: _Phone | None = None
    for mark in marks:
        name, is_part = _symbol(mark.label)
        if phone is not None and (not name or (is_part and _PLACES.get(name) == _PLACES.get(phone.name, ""))):
            phone.end_s = mark.end_s
            continue
        if phone is not None:
            yield phone
        phone = _Phone(mark.start_s, mark.end_s, name) if name and mark.label not in _PAUSES else None
        if phone is not None and re.search(r"\+sil\b", mark.label):
            phone.name += "="
    if phone is not None:
        yield phone


def _symbol(label: str) -> tuple[str, bool]:
    """The phone that a line names, empty where it names none, and whether it is the release or breath of a plosive.

    >>> [_symbol(label) for label in ("_d -sth", "!t", "tasp", "-lar", "m +sil")]
    [('d', False), ('t', True), ('t', True), ('', False), ('m', False)]
    """
    match = _SYMBOL.match(label)
    assert match is not None, "every part of the expression may be empty"
    name = match["name"]
    aspiration = _ASPIRATION.fullmatch(name)
    if aspiration:
        return aspiration[1], True
    if name in _FEATURES:
        return "", False
    return name, bool(match["release"])
