import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from praatio import textgrid as praatio_textgrid

from mmser.errors import AlignmentError
from mmser.extract.align import AlignerOptions, Failed, Spoken, make_aligner
from mmser.extract.align.textgrid import TextGridSettings, read_textgrid, write_textgrid
from mmser.records import Alignment, Kind, Segment

Tier = tuple[str, list[tuple[float, float, str]]]

WORDS: Tier = ("words", [(0.0, 0.1, ""), (0.1, 0.5, "Happy"), (0.5, 0.7, "sp"), (0.7, 1.0, "days")])
PHONES: Tier = (
    "phones",
    [(0.0, 0.1, ""), (0.1, 0.2, "HH"), (0.2, 0.3, "AE1"), (0.3, 0.4, "P"), (0.4, 0.5, "IY0"), (0.5, 0.7, "sil"),
     (0.7, 0.8, "D"), (0.8, 0.95, "EY1"), (0.95, 1.0, "Z")],
)  # fmt: skip


def as_text(*tiers: Tier, end: float = 1.0, points: bool = False) -> str:
    """A long TextGrid as Praat writes it."""
    size = len(tiers) + points
    out = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = {end} \ntiers? <exists> \n'
    out += f"size = {size} \nitem []: \n"
    for n, (name, intervals) in enumerate(tiers, 1):
        out += f'    item [{n}]:\n        class = "IntervalTier" \n        name = "{name}" \n        xmin = 0 \n'
        out += f"        xmax = {max(end, intervals[-1][1])} \n        intervals: size = {len(intervals)} \n"
        for i, (start, stop, label) in enumerate(intervals, 1):
            out += f"        intervals [{i}]:\n            xmin = {start} \n            xmax = {stop} \n"
            out += '            text = "' + label.replace('"', '""') + '" \n'
    if points:
        out += f'    item [{size}]:\n        class = "TextTier" \n        name = "words" \n        xmin = 0 \n'
        out += f"        xmax = {end} \n        points: size = 1 \n        points [1]:\n            number = 0.5 \n"
        out += '            mark = "x" \n'
    return out


@pytest.fixture
def grid(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "u1.TextGrid"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Grid = Callable[[str | bytes], Path]


def rows(segments: tuple[Segment, ...]) -> list[tuple[float, float, str, int, str]]:
    return [(s.start_s, s.end_s, s.label, s.parent, s.kind.name.lower()) for s in segments]


def test_words_phones_and_syllables(grid: Grid) -> None:
    found = read_textgrid(grid(as_text(WORDS, PHONES)), "u1", duration_s=1.0, text="[LAUGHTER] Happy days!")
    assert rows(found.words) == [
        (0.0, 0.1, "", -1, "silence"), (0.1, 0.5, "Happy", 1, "speech"), (0.5, 0.7, "", -1, "silence"),
        (0.7, 1.0, "days", 2, "speech"),
    ]  # fmt: skip
    assert [(s.label, s.start_s, s.end_s, s.parent) for s in found.syllables] == [
        ("HH AE1", 0.1, 0.3, 1), ("P IY0", 0.3, 0.5, 1), ("D EY1 Z", 0.7, 1.0, 3),
    ]  # fmt: skip
    assert [(s.label, s.parent) for s in found.phones] == [
        ("", 0), ("HH", 1), ("AE1", 1), ("P", 1), ("IY0", 1), ("", 2), ("D", 3), ("EY1", 3), ("Z", 3),
    ]  # fmt: skip
    assert found.flags == ()


@pytest.mark.parametrize("silence", ["", "sil", "SP", "<eps>", "pau", "<p:>", "silence", "#"])
def test_every_spelling_of_a_pause(grid: Grid, silence: str) -> None:
    words: Tier = ("Word", [(0.0, 0.4, "yes"), (0.4, 1.0, silence)])
    assert [w.kind for w in read_textgrid(grid(as_text(words)), "u1", duration_s=1.0).words] == [
        Kind.SPEECH,
        Kind.SILENCE,
    ]


def test_a_spoken_silence_is_a_word(grid: Grid) -> None:
    words: Tier = ("words", [(0.0, 0.4, "silence"), (0.4, 1.0, "sil")])
    found = read_textgrid(grid(as_text(words)), "u1", duration_s=1.0, text="Silence!")
    assert [(w.label, w.kind, w.parent) for w in found.words] == [("silence", Kind.SPEECH, 0), ("", Kind.SILENCE, -1)]


def test_unknown_words_have_no_syllables(grid: Grid) -> None:
    words: Tier = ("speaker - words", [(0.0, 0.4, "<unk>"), (0.4, 0.7, "zxcv"), (0.7, 1.0, "days")])
    phones: Tier = ("Speaker - Phones", [(0.0, 0.4, "spn"), (0.4, 0.7, "spn"), *PHONES[1][-3:]])
    found = read_textgrid(grid(as_text(words, phones)), "u1", duration_s=1.0, text="Qwerty zxcv days")
    assert [(w.kind, w.parent) for w in found.words] == [(Kind.UNKNOWN, 0), (Kind.SPEECH, 1), (Kind.SPEECH, 2)]
    assert [s.label for s in found.syllables] == ["D EY1 Z"]
    assert found.flags == ("out-of-vocabulary:zxcv",)


def test_words_alone_are_enough_and_points_are_passed_over(grid: Grid) -> None:
    found = read_textgrid(grid(as_text(WORDS, points=True)), "u1", duration_s=1.0, text="Other words")
    assert (len(found.words), found.phones, found.syllables) == (4, (), ())
    assert found.flags == ("no-phones",)
    assert read_textgrid(grid(as_text(WORDS)), "u1", duration_s=1.0, text="so happy and nothing").flags == (
        "transcript-differs",
        "no-phones",
    )


def test_syllables_of_the_file_come_before_derived_ones(grid: Grid) -> None:
    syllables: Tier = ("syllables", [(0.0, 0.1, ""), (0.1, 0.5, "hap.py"), (0.5, 0.7, ""), (0.7, 1.0, "days")])
    found = read_textgrid(grid(as_text(WORDS, syllables, PHONES)), "u1", duration_s=1.0, text="Happy days!")
    assert rows(found.syllables) == [(0.1, 0.5, "hap.py", 1, "speech"), (0.7, 1.0, "days", 3, "speech")]
    assert [p.parent for p in found.phones] == [0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert found.flags == ()


def test_sampa_of_webmaus_makes_no_syllables(grid: Grid) -> None:
    words: Tier = ("ORT-MAU", [(0.0, 1.0, "about")])
    phones: Tier = ("MAU", [(0.0, 0.2, "@"), (0.2, 0.4, "b"), (0.4, 0.8, "aU"), (0.8, 1.0, "t")])
    found = read_textgrid(grid(as_text(words, phones)), "u1", duration_s=1.0, text="About")
    assert (len(found.words), len(found.phones), found.syllables) == (1, 4, ())
    assert found.flags == ("no-syllables",)
    syllables: Tier = ("MAS", [(0.0, 0.2, "@"), (0.2, 1.0, "b aU t")])
    found = read_textgrid(grid(as_text(words, phones, syllables)), "u1", duration_s=1.0, text="About")
    assert ([s.label for s in found.syllables], found.flags) == (["@", "b aU t"], ())


def test_phones_or_syllables_alone_are_taken_without_words(grid: Grid) -> None:
    found = read_textgrid(grid(as_text(PHONES)), "u1", duration_s=1.0, text="Happy days!")
    assert (found.words, found.syllables, found.flags) == ((), (), ("no-words",))
    assert {phone.parent for phone in found.phones} == {-1}
    syllables: Tier = ("syllables", [(0.0, 0.5, "hap"), (0.5, 1.0, "py")])
    found = read_textgrid(grid(as_text(syllables)), "u1", duration_s=1.0)
    assert rows(found.syllables) == [(0.0, 0.5, "hap", -1, "speech"), (0.5, 1.0, "py", -1, "speech")]
    assert found.flags == ("no-words", "no-phones")


@pytest.mark.parametrize(
    ("words", "syllables", "phones"),
    [("ORT-MAU", "MAS", "MAU"), ("Mary - words", "Mary - syllables", "Mary - phones"), ("WORD", "Syllable", "Phone")],
)
def test_tiers_are_known_by_the_names_that_tools_give_them(grid: Grid, words: str, syllables: str, phones: str) -> None:
    named: list[Tier] = [
        ("KAN-MAU", [(0.0, 1.0, "h { p i")]),
        (words, WORDS[1]),
        (syllables, [(0.0, 1.0, "x")]),
        (phones, PHONES[1]),
    ]
    found = read_textgrid(grid(as_text(*named)), "u1", duration_s=1.0)
    assert (len(found.words), len(found.syllables), len(found.phones)) == (4, 1, 9)
    settings = TextGridSettings(word_tier="ort", phone_tier="segments")
    found = read_textgrid(
        grid(as_text(("ort", WORDS[1]), ("Segments", PHONES[1]))), "u1", duration_s=1.0, settings=settings
    )
    assert (len(found.words), len(found.phones)) == (4, 9)


def test_what_reaches_a_little_past_the_audio_is_clipped(grid: Grid) -> None:
    words: Tier = ("words", [(0.0, 0.97, "yes"), (0.97, 1.0, "")])
    assert rows(read_textgrid(grid(as_text(words)), "u1", duration_s=0.96).words) == [(0.0, 0.96, "yes", -1, "speech")]


@pytest.mark.parametrize(
    ("tiers", "duration_s", "message"),
    [
        ([("Mary", WORDS[1])], 1.0, r"u1\.TextGrid has no interval tier called 'words' or 'word', only \['Mary'\]"),
        ([("Mary", WORDS[1]), PHONES], 1.0, r"no interval tier called 'words' or 'word', only \['Mary', 'phones'\]"),
        ([("phones", [(0.0, 1.0, "sil")])], 1.0, r"its tier 'phones' holds no speech"),
        ([("A - words", WORDS[1]), ("B - words", WORDS[1])], 1.0, r"has 2 word tiers \('A - words', 'B - words'\)"),
        ([WORDS], 0.9, r"tier 'words': 'days' from 0.7 s to 1.0 s lies outside the audio, which lasts 0.900 s"),
        ([("words", [(0.0, 0.98, "a"), (0.98, 1.0, "b")])], 0.97, r"'b' from 0.98 s to 1.0 s is empty"),
        ([("words", [(0.0, 0.6, "a"), (0.5, 1.0, "b")])], 1.0, r"u1\.TextGrid: .*starts at 0.500 s, before segment 0"),
        ([("words", [(0.0, 1.0, "")])], 1.0, r"its tier 'words' holds no word"),
        ([("words", [(0.0, 0.5, "cut")])], 1.0, r"cut short: its tier 'words' should reach 1.000 s and stops at 0.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(grid: Grid, tiers: list[Tier], duration_s: float, message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        read_textgrid(grid(as_text(*tiers)), "u1", duration_s=duration_s)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "latin-1"])
def test_encodings(grid: Grid, encoding: str) -> None:
    text = as_text(("words", [(0.0, 1.0, "café")]))
    content = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
    assert read_textgrid(grid(content), "u1", duration_s=1.0, text="café").words[0].label == "café"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"RIFF\x00\x00WAVE", b'File type = "ooTextFile"\n', b"[1, 2]", b'{"start": 0}'],
)
def test_malformed_files_are_named(grid: Grid, content: bytes) -> None:
    with pytest.raises(AlignmentError, match=r"u1\.TextGrid is no TextGrid that can be read"):
        read_textgrid(grid(content), "u1", duration_s=1.0)


def test_truncated_files_never_pass(grid: Grid) -> None:
    """However a file is cut, it is refused, unless only blanks at its end are missing."""
    whole = as_text(WORDS, PHONES)
    expected = read_textgrid(grid(whole), "u1", duration_s=1.0)
    for length in range(0, len(whole.rstrip()), 4):
        with pytest.raises(AlignmentError):
            read_textgrid(grid(whole[:length]), "u1", duration_s=1.0)
    assert repr(read_textgrid(grid(whole.rstrip()), "u1", duration_s=1.0)) == repr(expected)


def test_short_and_json_forms_say_the_same(grid: Grid, tmp_path: Path) -> None:
    path = grid(as_text(WORDS, PHONES))
    expected = read_textgrid(path, "u1", duration_s=1.0)
    for form in ("short_textgrid", "textgrid_json"):
        loaded = praatio_textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
        loaded.save(str(tmp_path / form), format=form, includeBlankSpaces=True)
        assert repr(read_textgrid(tmp_path / form, "u1", duration_s=1.0)) == repr(expected)
    assert json.loads((tmp_path / "textgrid_json").read_text())["tiers"]


def test_written_textgrids_read_back(tmp_path: Path, grid: Grid) -> None:
    words: Tier = (
        "words",
        [(0.0, 0.1, ""), (0.1, 0.5, 'say "hé"'), (0.5, 0.7, "sp"), (0.7, 0.95, "days"), (0.95, 1, "")],
    )
    phones: Tier = ("phones", [*PHONES[1][:-2], (0.8, 0.95, "EY1"), (0.95, 1.0, "")])
    first = read_textgrid(grid(as_text(words, phones)), "u1", duration_s=1.0)
    write_textgrid(first, 1.0, tmp_path / "out.TextGrid")
    assert repr(read_textgrid(tmp_path / "out.TextGrid", "u1", duration_s=1.0)) == repr(first)
    with_praatio = praatio_textgrid.openTextgrid(str(tmp_path / "out.TextGrid"), includeEmptyIntervals=False)
    assert with_praatio.tierNames == ("words", "syllables", "phones")
    assert [tuple(e) for e in with_praatio.getTier("syllables").entries] == [
        (s.start_s, s.end_s, s.label) for s in first.syllables
    ]


def test_times_of_numpy_and_tiny_ones_are_written_as_numbers(tmp_path: Path) -> None:
    start, end = np.float64(1e-5), np.float64(0.123456789)
    alignment = Alignment("u1", (Segment(start, end, "a"),))  # type: ignore[arg-type]
    write_textgrid(alignment, 1.0, tmp_path / "out.TextGrid")
    assert rows(read_textgrid(tmp_path / "out.TextGrid", "u1", duration_s=1.0).words) == [
        (0.0, 0.123456789, "a", -1, "speech"),
        (0.123456789, 1.0, "", -1, "silence"),
    ]


def test_no_textgrid_is_written_past_the_audio_or_nowhere(tmp_path: Path) -> None:
    alignment = Alignment("u1", (Segment(0.0, 1.5, "a"),))
    with pytest.raises(AlignmentError, match=r"utterance 'u1': its last word ends at 1.500 s, after .* 1.000 s"):
        write_textgrid(alignment, 1.0, tmp_path / "out.TextGrid")
    with pytest.raises(AlignmentError, match=r"cannot be written: No such file"):
        write_textgrid(alignment, 2.0, tmp_path / "none" / "out.TextGrid")


def spoken(utterance_id: str) -> Spoken:
    return Spoken(utterance_id, np.zeros(16_000, np.float32), "happy days")


def test_a_folder_of_them_gives_one_result_for_each_utterance(tmp_path: Path) -> None:
    for name in ("deep/er/u1.TextGrid", "u2.textgrid", "a/twice.TextGrid", "b/twice.TextGrid", "bad.TextGrid"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if name == "bad.TextGrid" else as_text(WORDS, PHONES))
    with make_aligner(AlignerOptions("textgrid", textgrids=tmp_path)) as aligner:
        found = list(aligner.align(spoken(i) for i in ("u1", "none", "twice", "bad", "../u1", "u2")))
        json.dumps(aligner.recipe)
    assert [isinstance(f, Failed) for f in found] == [False, True, True, True, True, False]
    reasons = [f.reason for f in found if isinstance(f, Failed)]
    assert reasons[0].startswith("utterance 'none': there is no none.TextGrid in ")
    assert "there are 2 TextGrids" in reasons[1]
    assert "bad.TextGrid is no TextGrid" in reasons[2]


def test_folders_are_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="does not exist"):
        make_aligner(AlignerOptions("textgrid", textgrids=tmp_path / "none"))
    with pytest.raises(AlignmentError, match="holds no file called"):
        make_aligner(AlignerOptions("textgrid", textgrids=tmp_path))
    with pytest.raises(AlignmentError, match="needs the folder"):
        AlignerOptions("textgrid")
    with pytest.raises(AlignmentError, match="is for --align pocketsphinx, but the aligner asked for is 'textgrid'"):
        AlignerOptions("textgrid", textgrids=tmp_path, lexicon=tmp_path)
