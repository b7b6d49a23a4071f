"""IEMOCAP's own alignments, in miniature files of their format."""

from pathlib import Path

import numpy as np
import pytest

from mmser.errors import AlignmentError
from mmser.extract.align import AlignerOptions, Failed, Spoken, make_aligner
from mmser.extract.align.iemocap import IemocapAligner
from mmser.records import Alignment, Kind

WORDS = [(0, 40, "<s>"), (41, 73, "EXCUSE(2)"), (74, 90, "ME"), (91, 95, "<sil>"), (96, 110, "++LAUGHTER++"),
         (111, 120, "</s>")]  # fmt: skip
PHONES = [(0, 40, "SIL"), (41, 45, "IH SIL K b"), (46, 50, "K IH S i"), (51, 55, "S K K i"), (56, 60, "K S Y i"),
          (61, 64, "Y K UW i"), (65, 70, "UW Y S i"), (71, 73, "S UW M e"), (74, 80, "M S IY b"),
          (81, 90, "IY M SIL e"), (91, 95, "SIL"), (96, 110, "+LAUGHTER+"), (111, 120, "SIL")]  # fmt: skip
SYLLABLES = [(41, 50, "IH_K"), (51, 73, "S_K_Y_UW_S"), (74, 90, "M_IY"), (91, 120, "SIL")]
ID = "Ses01F_impro01_F000"


def segments(rows: list[tuple[int, int, str]], last: str) -> str:
    """What Sphinx-3 writes; syllables without scores."""
    if last == "Syll":
        return "\t SFrm  EFrm Syll\n" + "".join(f"\t{a:5d} {b:5d} {label}\n" for a, b, label in rows)
    body = "".join(f"\t{a:5d} {b:5d} {-1000 * (b - a + 1):10d} {label}\n" for a, b, label in rows)
    return f"\t SFrm  EFrm    SegAScr {last}\n{body} Total score: {-121000:11d}\n"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "IEMOCAP_full_release" / "Session1" / "sentences" / "ForcedAlignment" / "Ses01F_impro01"
    folder.mkdir(parents=True)
    (folder / f"{ID}.wdseg").write_text(segments(WORDS, "Word"))
    (folder / f"{ID}.phseg").write_text(segments(PHONES, "Phone"))
    (folder / f"{ID}.syseg").write_text(segments(SYLLABLES, "Syll"))
    (folder / f"._{ID}.wdseg").write_bytes(b"\0\5\x16\7")
    return tmp_path / "IEMOCAP_full_release"


def file(release: Path, suffix: str) -> Path:
    return next(release.glob(f"Session1/sentences/ForcedAlignment/*/{ID}{suffix}"))


def align(
    release: Path, seconds: float = 1.21, text: str = "Excuse me. [LAUGHTER]", uid: str = ID
) -> Alignment | Failed:
    (found,) = IemocapAligner(release).align([Spoken(uid, np.zeros(round(16_000 * seconds), np.float32), text)])
    return found


def test_frames_become_seconds_and_the_last_one_is_inside(release: Path) -> None:
    found = align(release)
    assert isinstance(found, Alignment), found
    assert [(w.label, round(w.start_s, 6), round(w.end_s, 6), w.parent, w.kind) for w in found.words] == [
        ("", 0.0, 0.41, -1, Kind.SILENCE),
        ("excuse", 0.41, 0.74, 0, Kind.SPEECH),
        ("me", 0.74, 0.91, 1, Kind.SPEECH),
        ("", 0.91, 0.96, -1, Kind.SILENCE),
        ("++LAUGHTER++", 0.96, 1.11, -1, Kind.UNKNOWN),
        ("", 1.11, 1.21, -1, Kind.SILENCE),
    ]
    assert [(s.label, s.parent) for s in found.syllables] == [("IH K", 1), ("S K Y UW S", 1), ("M IY", 2)]
    assert [(p.label, p.parent) for p in found.phones] == [
        ("", 0), ("IH", 1), ("K", 1), ("S", 1), ("K", 1), ("Y", 1), ("UW", 1), ("S", 1), ("M", 2), ("IY", 2), ("", 3),
        ("+LAUGHTER+", 4), ("", 5),
    ]  # fmt: skip
    assert {w.score for w in found.words} == {-1000.0}
    assert found.flags == ()


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_what_is_missing_is_made_or_flagged(release: Path, ending: str) -> None:
    path = file(release, ".wdseg")
    path.write_bytes(path.read_text().replace("\n", ending).encode())
    file(release, ".syseg").write_text("no syllables here\n")
    found = align(release)
    assert isinstance(found, Alignment), found
    assert [s.label for s in found.syllables] == ["IH K", "S K Y UW S", "M IY"]
    assert found.flags == ("syllables-unreadable",)
    file(release, ".syseg").unlink()
    file(release, ".phseg").unlink()
    found = align(release, text="Pardon you")
    assert isinstance(found, Alignment), found
    assert (found.syllables, found.phones, found.flags) == ((), (), ("no-phones",))
    found = align(release, text="Oh no, excuse")
    assert isinstance(found, Alignment), found
    assert found.flags == ("transcript-differs", "no-phones")


@pytest.mark.parametrize(
    ("rows", "seconds", "reason"),
    [
        (
            WORDS,
            1.0,
            r"wdseg, line 6: '\+\+LAUGHTER\+\+' from frame 96 to frame 110 ends at 1\.11 s, outside the audio",
        ),
        ([(0, 9, "A"), (9, 20, "B")], 1.21, r"line 3: 'B' from frame 9 to frame 20 does not follow frame 9"),
        ([(5, 4, "A")], 1.21, r"'A' from frame 5 to frame 4 does not follow"),
        ([(0, 9, "<s>"), (10, 20, "++GARBAGE++")], 1.21, rf"'{ID}': {ID}\.wdseg holds no word"),
        ([], 1.21, r"wdseg holds no segment; expected lines of first frame"),
    ],
)
def test_what_cannot_be_used_is_named(
    release: Path, rows: list[tuple[int, int, str]], seconds: float, reason: str
) -> None:
    file(release, ".wdseg").write_text(segments(rows, "Word"))
    found = align(release, seconds)
    assert isinstance(found, Failed)
    with pytest.raises(AlignmentError, match=reason):
        raise AlignmentError(found.reason)


def test_a_damaged_row_is_no_header(release: Path) -> None:
    path = file(release, ".wdseg")
    path.write_text(path.read_text().replace("   41    73", "   41    7x"))
    found = align(release)
    assert isinstance(found, Failed)
    assert f"{path}, line 3: '41    7x" in found.reason
    assert "is no segment; expected first frame, last frame, score and label; the file is damaged" in found.reason


def test_the_last_frame_may_be_begun_and_not_filled(release: Path) -> None:
    found = align(release, seconds=1.203)
    assert isinstance(found, Alignment), found
    assert found.words[-1].end_s == found.phones[-1].end_s == 1.203


def test_an_utterance_that_the_release_lacks(release: Path, tmp_path: Path) -> None:
    found = align(release, uid="Ses03M_impro03_M001")
    assert isinstance(found, Failed)
    assert "there is no Ses03M_impro03_M001.wdseg in" in found.reason
    with pytest.raises(AlignmentError, match="none does not exist"):
        IemocapAligner(tmp_path / "none")
    with pytest.raises(AlignmentError, match=r"holds no alignment; expected Session1/sentences/ForcedAlignment/"):
        IemocapAligner(tmp_path)


def test_it_is_made_by_name(release: Path) -> None:
    with make_aligner(AlignerOptions("iemocap", release=release)) as aligner:
        assert isinstance(aligner, IemocapAligner)
        assert aligner.recipe["aligner"] == aligner.name == "iemocap"
    with pytest.raises(AlignmentError, match=r"'iemocap' needs the folder of the IEMOCAP release.* add --release"):
        AlignerOptions("iemocap")
