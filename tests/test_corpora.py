"""Corpora in general, and EmoDB: label sets, counts, what is left out; on miniatures, and on the real EmoDB."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_corpus import mmser
from small_speech import write_noise

from mmser.audio import read_audio
from mmser.corpora import CORPORA, Reading, Request, read_corpus
from mmser.corpora.corpus import (
    Corpus,
    Found,
    LabelSet,
    Published,
    excluded_path,
    read_excluded,
    write_excluded,
)
from mmser.corpora.corpus import read_corpus as read_with
from mmser.corpora.emodb import COUNTS, SENTENCES
from mmser.corpora.emodb_labels import SYLLABLES, read_emodb_labels
from mmser.errors import ManifestError
from mmser.extract.align import AlignerOptions, Spoken, make_aligner
from mmser.manifest import read_manifest
from mmser.records import TIERS, Alignment
from mmser.train.presets import PRESETS
from mmser.transcript import transcript_words


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    folder = tmp_path / "emodb"
    for name in ("16b10Wb", "03a01Fa", "08a05Nc"):
        write_noise(folder / "wav" / f"{name}.wav", seconds=0.1)
    (folder / "wav" / "._03a01Fa.wav").write_bytes(b"\0\5\x16\7")
    (folder / "wav" / "readme.txt").write_text("not a recording")
    return folder


def emodb_of(folder: Path) -> Reading:
    return read_corpus("emodb", Request(folder))


def test_emodb_names_say_everything(emodb: Path) -> None:
    manifest = emodb_of(emodb).manifest
    assert manifest.ids == ["03a01Fa", "08a05Nc", "16b10Wb"]
    first = manifest.utterances()[0]
    assert first.audio == emodb / "wav" / "03a01Fa.wav"
    assert first.text == "Der Lappen liegt auf dem Eisschrank."
    assert first.fields == {
        "speaker": "03",
        "emotion": "F",
        "label": "happiness",
        "gender": "male",
        "sentence": "a01",
        "version": "a",
        "corpus": "emodb",
        "label_set": "7class",
    }
    assert list(manifest.column("label")) == ["happiness", "neutral", "anger"]
    assert list(manifest.column("gender")) == ["male", "female", "female"]


def test_emodb_is_found_by_either_folder(emodb: Path) -> None:
    outer, inner = emodb_of(emodb).manifest, emodb_of(emodb / "wav").manifest
    assert [u.audio for u in outer.utterances()] == [u.audio for u in inner.utterances()]


def test_emodb_says_what_is_missing_and_what_it_left_out(emodb: Path) -> None:
    (emodb / "wav" / "03a03Fa.wav").write_bytes(b"")  # there is no sentence a03
    (emodb / "wav" / "other.wav").write_bytes(b"")
    reading = emodb_of(emodb)
    assert len(reading.manifest) == 3
    assert reading.excluded == {"other.wav": "not named like '03a01Fa'", "03a03Fa": "EmoDB has no sentence 'a03'"}
    assert reading.manifest.warnings[0] == "EmoDB: found 3 utterances, expected 535 as published"
    assert reading.manifest.warnings[1] == "EmoDB: found 1 utterances of label 'anger', expected 127 as published"
    assert len(reading.manifest.warnings) == 1 + len(COUNTS)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"EmoDB: folder '.*none' is not there"):
        emodb_of(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"no recording named like '03a01Fa'; found nothing"):
        emodb_of(tmp_path)
    (tmp_path / "1001_IEO_NEU_XX.wav").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"found '1001_IEO_NEU_XX\.wav': give the corpus's own folder"):
        emodb_of(tmp_path)


@pytest.mark.parametrize("name", CORPORA)
def test_every_reader_says_what_it_misses_in_an_empty_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=rf"^{CORPORA[name].title}: folder '.*' holds no"):
        read_corpus(name, Request(tmp_path))
    with pytest.raises(ManifestError, match=rf"^{CORPORA[name].title}: folder '.*gone' is not there"):
        read_corpus(name, Request(tmp_path / "gone"))


@pytest.mark.parametrize("name", CORPORA)
def test_published_counts_add_up(name: str) -> None:
    """Counts of classes or sessions that say how large a corpus is can be no more than it; most are all of it."""
    for label_set in CORPORA[name].label_sets.values():
        for published in label_set.published:
            for column, counts in published.counts.items():
                assert sum(counts.values()) <= published.total
                if column == "session" or (column == "label" and not label_set.keep_all and not label_set.note):
                    assert sum(counts.values()) == published.total, (name, column)
                if column == "label" and label_set.classes is not None:
                    assert set(counts) <= set(label_set.classes.values())


@pytest.mark.parametrize("name", CORPORA)
def test_protocols_of_corpora_are_presets_that_fit_their_classes(name: str) -> None:
    corpus = CORPORA[name]
    if corpus.protocol:
        asked = set(PRESETS[corpus.protocol].settings.get("labels", ()))
        classes = next(iter(corpus.label_sets.values())).classes
        assert not asked or (classes is not None and asked == set(classes.values()))


def test_the_documentation_names_every_corpus_label_set_and_count() -> None:
    text = (Path(__file__).parent.parent / "docs" / "corpora.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| [`")}
    assert list(rows) == list(CORPORA)
    for name, corpus in CORPORA.items():
        assert all(f"`{label_set}`" in text for label_set in corpus.label_sets)
        if corpus.protocol:
            assert f"--protocol {corpus.protocol}" in rows[name]
        for label_set in corpus.label_sets.values():
            if label_set.published and name != "msp-podcast":
                assert f"{label_set.published[0].total:,}" in rows[name]


def _toy(**label_sets: LabelSet) -> dict[str, Corpus]:
    def read(request: Request) -> Found:
        rows = [
            {"utterance_id": uid, "audio": f"{uid}.wav", "emotion": emotion, "kind": kind, "votes": Counter(votes)}
            for uid, emotion, kind, votes in (
                ("a", "joy", "x", "jjh"),
                ("b", "happy", "y", "h"),
                ("c", "sad", "x", "s"),
                ("d", "", "x", "sj"),
            )
        ]
        names = {"j": "joy", "h": "happy", "s": "sad"}
        for row in rows:
            row["votes"] = Counter({names[letter]: n for letter, n in row["votes"].items()})
        return Found(request.folder, rows, {"e": "broken"}, ["Toy: e is broken"])

    return {"toy": Corpus("Toy", read, label_sets)}


def test_a_label_set_merges_keeps_and_excludes(tmp_path: Path) -> None:
    corpora = _toy(
        merged=LabelSet(classes={"joy": "hap", "happy": "hap"}),
        ratings=LabelSet(classes={"sad": "sad"}, keep_all=True),
        only=LabelSet(only={"kind": "x"}),
    )
    merged = read_with("toy", corpora, Request(tmp_path))
    assert list(merged.manifest.column("label")) == ["hap", "hap"]
    assert list(merged.manifest.column("label_set")) == ["merged", "merged"]
    assert list(merged.manifest.column("votes_hap")) == ["3", "1"]
    assert list(merged.manifest.column("votes_other")) == ["0", "0"]
    assert merged.excluded == {
        "e": "broken",
        "c": "label 'sad' is no class of label set merged",
        "d": "it has no label",
    }
    ratings = read_with("toy", corpora, Request(tmp_path), "ratings")
    assert list(ratings.manifest.column("label")) == ["", "", "sad", ""]
    assert list(ratings.manifest.column("votes_other")) == ["3", "1", "0", "1"]
    only = read_with("toy", corpora, Request(tmp_path), "only")
    assert list(only.manifest.column("label")) == ["joy", "sad"]
    assert only.excluded["b"] == "kind 'y' is not 'x', which label set only asks for"
    assert "votes_joy" not in only.manifest.table.columns  # every label is a class: which there are is not known
    with pytest.raises(ManifestError, match="toy has no label set 'six'; there are: merged, ratings, only"):
        read_with("toy", corpora, Request(tmp_path), "six")


def test_of_several_releases_one_has_to_fit(tmp_path: Path) -> None:
    releases = (Published(9, release="1"), Published(4, release="2"))
    fits = read_with("toy", _toy(s=LabelSet(keep_all=True, published=releases)), Request(tmp_path))
    assert fits.manifest.warnings == ("Toy: e is broken",)
    other = read_with("toy", _toy(s=LabelSet(keep_all=True, published=releases[:1])), Request(tmp_path))
    assert other.manifest.warnings[1] == "Toy: 4 utterances fit none of the releases that are known here: 1 (9)"


def test_what_is_left_out_is_written_beside_the_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    excluded = {"a": "its label, 'x', is none", "ß": "zwei\nZeilen"}
    write_excluded(excluded, manifest)
    assert excluded_path(manifest) == tmp_path / "m.excluded.csv"
    assert read_excluded(manifest) == excluded
    write_excluded({}, manifest)
    assert not excluded_path(manifest).exists()
    assert read_excluded(manifest) == {}
    excluded_path(manifest).write_text("id,why\n")
    with pytest.raises(ManifestError, match=r"m\.excluded\.csv: has no column 'reason'"):
        read_excluded(manifest)


def test_the_command_writes_both(emodb: Path, tmp_path: Path) -> None:
    (emodb / "wav" / "other.wav").write_bytes(b"")
    result = mmser("manifest", "emodb", emodb, "--out", tmp_path / "m.csv")
    assert result.exit_code == 0, result.output
    assert "m.csv: 3 utterances (1 happiness, 1 neutral, 1 anger)" in result.stdout
    assert "1 left out; " in result.stderr
    again = read_manifest(tmp_path / "m.csv")
    assert again.column("audio")[0] == "emodb/wav/03a01Fa.wav"
    assert again.column("speaker")[0] == "03"
    assert len(read_audio(again.utterances()[0].audio).samples) == 1_600
    assert read_excluded(tmp_path / "m.csv") == {"other.wav": "not named like '03a01Fa'"}
    wrong = mmser("manifest", "nowhere", emodb)
    assert wrong.exit_code == 1
    assert "Error: no corpus is called 'nowhere'; there are: iemocap, " in wrong.stderr


@pytest.mark.data
def test_the_real_emodb(speech_data: Path) -> None:
    reading = emodb_of(speech_data / "emodb")
    manifest = reading.manifest
    assert len(manifest) == 535
    assert manifest.warnings == ()
    assert reading.excluded == {}
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
    done = mmser("manifest", "emodb", emodb, "--out", tmp_path / "m.csv", "--textgrids", out)
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
    done = mmser("manifest", "emodb", emodb, "--out", tmp_path / "m.csv", "--textgrids", tmp_path / "g")
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
