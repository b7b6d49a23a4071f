"""Corpus readers: on miniatures made here, and on the real thing where it is at hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from mmser.audio import read_audio
from mmser.cli import main
from mmser.corpora import CORPORA
from mmser.corpora.emodb import COUNTS, SENTENCES, read_emodb
from mmser.corpora.emodb_labels import SYLLABLES, read_emodb_labels
from mmser.errors import ManifestError
from mmser.extract.align import AlignerOptions, Spoken, make_aligner
from mmser.manifest import read_manifest, write_manifest
from mmser.records import TIERS, Alignment
from mmser.transcript import transcript_words


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    folder = tmp_path / "emodb"
    (folder / "wav").mkdir(parents=True)
    for name in ("16b10Wb", "03a01Fa", "08a05Nc"):
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, 1_600)
        soundfile.write(folder / "wav" / f"{name}.wav", samples, 16_000)
    (folder / "wav" / "._03a01Fa.wav").write_bytes(b"\0\5\x16\7")
    (folder / "wav" / "readme.txt").write_text("not a recording")
    return folder


def test_emodb_names_say_everything(emodb: Path) -> None:
    manifest = read_emodb(emodb)
    assert manifest.ids == ["03a01Fa", "08a05Nc", "16b10Wb"]
    first = manifest.utterances()[0]
    assert first.audio == emodb / "wav" / "03a01Fa.wav"
    assert first.text == "Der Lappen liegt auf dem Eisschrank."
    assert first.fields == {
        "speaker": "03",
        "label": "happiness",
        "gender": "male",
        "sentence": "a01",
        "version": "a",
    }
    assert list(manifest.column("label")) == ["happiness", "neutral", "anger"]
    assert list(manifest.column("gender")) == ["male", "female", "female"]


def test_emodb_is_found_by_either_folder(emodb: Path) -> None:
    outer, inner = read_emodb(emodb), read_emodb(emodb / "wav")
    assert [u.audio for u in outer.utterances()] == [u.audio for u in inner.utterances()]


def test_emodb_manifest_written_elsewhere_finds_its_audio(emodb: Path, tmp_path: Path) -> None:
    write_manifest(read_emodb(emodb), tmp_path / "manifest.csv")
    again = read_manifest(tmp_path / "manifest.csv")
    assert again.column("audio")[0] == "emodb/wav/03a01Fa.wav"
    assert again.column("speaker")[0] == "03"
    assert len(read_audio(again.utterances()[0].audio).samples) == 1_600


def test_emodb_says_what_is_missing_and_what_it_left_out(emodb: Path) -> None:
    (emodb / "wav" / "03a03Fa.wav").write_bytes(b"")  # there is no sentence a03
    (emodb / "wav" / "other.wav").write_bytes(b"")
    manifest = read_emodb(emodb)
    assert len(manifest) == 3
    assert manifest.warnings[0] == (
        "EmoDB: left out 2 recordings not named like '03a01Fa.wav': '03a03Fa.wav', 'other.wav'"
    )
    assert manifest.warnings[1] == "EmoDB: found 1 recordings of anger, expected 127 as published"
    assert len(manifest.warnings) == 1 + len(COUNTS)


def test_emodb_in_the_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none' is not there; expected the folder that holds 'wav/'"):
        read_emodb(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"no recording named like '03a01Fa\.wav'; found nothing"):
        read_emodb(tmp_path)
    (tmp_path / "1001_IEO_NEU_XX.wav").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"found '1001_IEO_NEU_XX\.wav': give the folder"):
        read_emodb(tmp_path)


@pytest.mark.data
def test_the_real_emodb(speech_data: Path) -> None:
    manifest = CORPORA["emodb"](speech_data / "emodb")
    assert len(manifest) == 535
    assert manifest.warnings == ()
    assert Counter(manifest.column("label")) == COUNTS
    assert len(set(manifest.column("speaker"))) == 10
    assert set(Counter(manifest.column("sentence"))) == {
        "a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10"
    }  # fmt: skip
    seconds = sum(len(read_audio(u.audio).samples) for u in manifest.utterances()) / 16_000
    assert seconds == pytest.approx(1487, abs=1)


HEADER = "signal x\ntype 0\nseparator ;\nnfields 1\n#\n"
PHONES = "_d\t-sth|!d|E6\t+lar\t3|\t-lar|l|a|(|p\t+na|m\t+sil|t|!k|kasp|?|.\t-eng"
SYLLABLE_ROWS = "der|la|(|ppen|liegt|auf|dem|eis|schrank|."


def write_labels(folder: Path, phones: str = PHONES, syllables: str = SYLLABLE_ROWS, joint: str = "\t") -> None:
    """Labels of 03a01Fa, 5 ms apart from 0.005 s on."""
    for part, name in (("lablaut", "03a01Faxx.lablaut"), ("silb", "03a01Fa.silb")):
        (folder / part).mkdir(exist_ok=True)
        rows = (phones if part == "lablaut" else syllables).split("|")
        colour = "   -1 " if part == "lablaut" else joint
        lines = [f"{0.005 * i:.6f}{colour}{row}\n" for i, row in enumerate(rows, 1) if row]
        (folder / part / name).write_bytes((HEADER * (part == "lablaut") + "".join(lines)).encode("latin-1"))


@pytest.mark.parametrize("joint", ["\t", "    "])
def test_emodb_labels_become_words_syllables_and_phones(emodb: Path, joint: str) -> None:
    write_labels(emodb, joint=joint)
    labels = read_emodb_labels(emodb)
    assert labels.notes == ()
    found = labels.alignments["03a01Fa"]

    def rows(tier: str) -> list[tuple[str, int, int, int]]:
        return [(s.label, round(200 * s.start_s), round(200 * s.end_s), s.parent) for s in found.tier(tier)]

    # a line's time is where its label begins; the pause inside "Lappen" stays inside the word
    assert rows("word") == [("Der", 1, 2, 0), ("Lappen", 2, 5, 1), ("liegt", 5, 6, 2), ("auf", 6, 7, 3),
                            ("dem", 7, 8, 4), ("Eisschrank", 8, 10, 5)]  # fmt: skip
    assert rows("syllable") == [("der", 1, 2, 0), ("lap", 2, 3, 1), ("pen", 4, 5, 1), ("liegt", 5, 6, 2),
                                ("auf", 6, 7, 3), ("dem", 7, 8, 4), ("eis", 8, 9, 5),
                                ("schrank", 9, 10, 5)]  # fmt: skip
    # closure + release; vowel + its change of voice; a release of another place is a phone of its own
    assert rows("phone") == [("d", 1, 3, 1), ("E6", 3, 5, 1), ("l", 5, 6, 2), ("a", 6, 7, 3), ("p", 8, 9, 5),
                             ("m=", 9, 10, 5), ("t", 10, 11, -1), ("k", 11, 13, -1), ("?", 13, 14, -1)]  # fmt: skip
    assert found.flags == ()


def test_emodb_labels_that_cannot_be_used_are_named(emodb: Path) -> None:
    write_labels(emodb, syllables=SYLLABLE_ROWS.replace("|liegt", ""))
    (emodb / "silb" / "08a05Nc.silb").write_text("")
    (emodb / "silb" / "12a02Ta.silb").write_text("0.1\tdas\n0.2\t.\n")
    (emodb / "silb" / "16b10Wb.silb").write_text("0.3\tdie\nwird\n0.2\t.\n")
    (emodb / "silb" / "notes.txt").write_text("")
    labels = read_emodb_labels(emodb)
    assert set(labels.alignments) == {"03a01Fa"}
    found = labels.alignments["03a01Fa"]
    assert (found.words, len(found.syllables), found.flags) == ((), 7, ("no-words",))
    assert {segment.parent for segment in (*found.syllables, *found.phones)} == {-1}
    assert sorted(labels.notes) == [
        "EmoDB: labels without a recording are left out: 12a02Ta",
        "EmoDB: silb/03a01Fa.silb has 7 syllables, its sentence 8: its words are left out",
        "EmoDB: silb/08a05Nc.silb holds no labels",
        "EmoDB: silb/16b10Wb.silb, line 2: 'wird' is no time and label; left out",
        "EmoDB: silb/16b10Wb.silb: its labels do not rise in time to a closing '.'; the file is left out",
        "EmoDB: silb/notes.txt is no label file (expected a name like 03a01Fa)",
    ]


def test_emodb_without_labels(emodb: Path) -> None:
    with pytest.raises(ManifestError, match=r"emodb' holds no labels: there is neither 'lablaut/' \(phones\) nor"):
        read_emodb_labels(emodb)


def test_emodb_syllables_spell_the_sentences() -> None:
    for code, sentence in SENTENCES.items():
        written = [word.text.strip(",.?") for word in transcript_words(sentence)]
        assert SYLLABLES[code].replace("-", "").split() == written


def test_labels_go_to_textgrids_and_back(emodb: Path, tmp_path: Path) -> None:
    write_labels(emodb)
    out = tmp_path / "grids"
    done = CliRunner().invoke(
        main, ["manifest", "emodb", str(emodb), "--out", str(tmp_path / "m.csv"), "--textgrids", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "TextGrids of 1 of 3 utterances (6 words, 8 syllables, 9 phones)" in done.output
    (found,) = make_aligner(AlignerOptions("textgrid", textgrids=out)).align(
        [Spoken("03a01Fa", np.zeros(1_600, np.float32), SENTENCES["a01"])]
    )
    made = read_emodb_labels(emodb).alignments["03a01Fa"]
    assert isinstance(found, Alignment), found
    for tier in TIERS:
        there, back = made.tier(tier), [s for s in found.tier(tier) if s.label]
        assert [s.label for s in back] == [s.label for s in there]
        times = [[(s.start_s, s.end_s) for s in segments] for segments in (back, there)]
        np.testing.assert_allclose(times[0], times[1], atol=1e-9)
    assert [w.parent for w in found.words if w.label] == [0, 1, 2, 3, 4, 5]


def test_labels_that_outlast_their_recording_are_named(emodb: Path, tmp_path: Path) -> None:
    write_labels(emodb)
    soundfile.write(emodb / "wav" / "03a01Fa.wav", np.full(800, 0.1), 16_000)
    arguments = ["manifest", "emodb", str(emodb), "--out", str(tmp_path / "m.csv"), "--textgrids", str(tmp_path / "g")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert (
        "Note: utterance '03a01Fa': its last phone ends at 0.070 s, after the end of the audio at 0.050" in done.output
    )
    assert "TextGrids of 0 of 3 utterances" in done.output


@pytest.mark.data
def test_the_labels_of_the_real_emodb(speech_data: Path) -> None:
    labels = read_emodb_labels(speech_data / "emodb")
    assert len(labels.alignments) == 535
    flags = {uid: a.flags for uid, a in labels.alignments.items() if a.flags}
    assert flags == {"08a01Ab": ("no-phones",), "08a01Wa": ("no-phones",), "13a01Wb": ("no-words",)}
    assert [note.removeprefix("EmoDB: ") for note in labels.notes if "no length" not in note] == [
        "lablaut/08a01Abxx.lablaut holds no labels",
        "lablaut/08a01Waxx.lablaut holds no labels",
        "silb/13a01Wb.silb holds no labels",
        "labels without a recording are left out: 03a04Wa, 12a02Ta",
    ]
    assert sum("no length" in note for note in labels.notes) == 5
    # times are starts: after the closing "." the recordings are quiet, before it they are not
    levels = []
    for utterance_id, alignment in labels.alignments.items():
        samples = read_audio(speech_data / "emodb" / "wav" / f"{utterance_id}.wav").samples
        end = round(16_000 * (alignment.phones or alignment.syllables)[-1].end_s)
        before, after = samples[end - 800 : end], samples[end : end + 800]
        levels.append(10 * np.log10(np.mean(after**2 + 1e-12) / np.mean(before**2 + 1e-12)))
    assert np.median(levels) < -10
    # the second word of a02 is "will", and its phones say so
    a02 = [a for uid, a in labels.alignments.items() if "a02" in uid]
    assert {next(p.label for p in a.phones if p.parent == 1) for a in a02} <= {"v", "V", "f"}
