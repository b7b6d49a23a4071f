"""``mmser align``: TextGrids that another library opens, a report that adds up, nothing done twice or overwritten."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from praatio import textgrid
from small_corpus import DURATIONS_S, IDS, Said, alignment, make_corpus, mmser, write_noise
from stand_in_mfa import StandIn

import mmser.extract.textgrids as textgrids
from mmser.cache import Cache
from mmser.corpora.emodb import SENTENCES
from mmser.extract.align import ALIGNERS
from mmser.extract.align.language import doubt_english
from mmser.extract.alignments import alignment_tables, read_alignment, words_aligned
from mmser.manifest import Manifest, write_manifest
from mmser.records import Alignment, Kind, Segment

TEXTS = ("hi there", "Er, 21 words.", "a hard one", "we are lost", "")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five noises of two speakers and of nobody, one without a transcript."""
    rows = []
    for i, text in enumerate(TEXTS):
        write_noise(tmp_path / f"n{i}.wav", 1.0 + 0.1 * i, i)
        rows.append(
            {"utterance_id": f"n{i}", "audio": f"n{i}.wav", "text": text, "speaker": ("A", "B", "A", "", "")[i]}
        )
    write_manifest(Manifest(pd.DataFrame(rows), tmp_path), tmp_path / "corpus.csv")
    return tmp_path / "corpus.csv"


def align_with(stand_in: StandIn, corpus: Path, out: Path, *more: object) -> Said:
    return mmser("align", corpus, "--out", out, "--backend", "mfa", "--mfa-command", stand_in.command, *more)


def test_mfa_to_textgrids_and_a_report_and_again(tmp_path: Path, corpus: Path) -> None:
    stand_in, out = StandIn(tmp_path, fail=["lost"], wide=["hard"], unknown=["er"]), tmp_path / "out put"
    result = align_with(stand_in, corpus, out)
    assert result.exit_code == 3, result.output
    assert f"{out}: 3 TextGrids written\n" in result.stdout
    assert f"2 of 5 utterances could not be aligned; {out / 'failed.csv'} says why" in result.stderr
    assert sorted(path.name for path in out.glob("*.TextGrid")) == ["n0.TextGrid", "n1.TextGrid", "n2.TextGrid"]
    grid = textgrid.openTextgrid(str(out / "n1.TextGrid"), includeEmptyIntervals=False)
    assert grid.tierNames == ("words", "syllables", "phones")
    assert [entry.label for entry in grid.getTier("words").entries] == ["er", "twenty", "one", "words"]
    assert [entry.label for entry in grid.getTier("syllables").entries] == ["HH AY1"] * 3
    assert grid.maxTimestamp == pytest.approx(1.1)
    report = json.loads((out / "coverage.json").read_text())
    assert {key: report[key] for key in ("total", "aligned", "partly", "failed", "words", "words_aligned")} == {
        "total": 5, "aligned": 2, "partly": 1, "failed": 2, "words": 8, "words_aligned": 8,
    }  # fmt: skip
    assert report["unknown_words"] == [["er", 1]]
    assert report["flags"] == {"out-of-vocabulary": 1, "wide-beam": 1}
    assert report["reasons"].keys() == {"n3", "n4"}
    assert report == json.loads((out / "align" / "mfa" / "coverage.json").read_text())
    with (out / "failed.csv").open(newline="") as file:
        assert {row["utterance_id"]: row["reason"] for row in csv.DictReader(file)} == report["reasons"]
    for line in ("aligned  2 (40.0%)", "partly  1 (20.0%)", "failed  2 (40.0%)", "words with a segment  8 of 8"):
        assert line.split() in [shown.split() for shown in result.stdout.splitlines()]

    calls, before = len(stand_in.calls), {p: p.stat().st_mtime_ns for p in out.glob("*.TextGrid")}
    (out / "n0.TextGrid").unlink()
    stand_in.set(fail=[])
    again = align_with(stand_in, corpus, out)
    assert again.exit_code == 3  # one has no text
    assert f"{out}: 2 TextGrids written, 2 were there\n" in again.stdout
    assert len(stand_in.calls) == calls + 1
    assert [file["words"] for file in stand_in.seen[-1]] == [["we", "are", "lost"]]
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path.name != "n0.TextGrid")
    assert json.loads((out / "coverage.json").read_text())["failed"] == 1


def test_a_changed_transcript_is_aligned_again_where_asked(tmp_path: Path, corpus: Path) -> None:
    stand_in, out = StandIn(tmp_path), tmp_path / "out"
    align_with(stand_in, corpus, out)
    corpus.write_text(corpus.read_text().replace("hi there", "hello there you"))
    kept = align_with(stand_in, corpus, out)
    assert "add --refresh to redo them" in kept.stdout
    assert "hi" in (out / "n0.TextGrid").read_text()
    assert f"{out}: 1 TextGrids written, 3 were there" in align_with(stand_in, corpus, out, "--refresh").stdout
    assert "hello" in (out / "n0.TextGrid").read_text()


def test_extract_uses_the_same_code(tmp_path: Path, corpus: Path) -> None:
    stand_in = StandIn(tmp_path)
    align_with(stand_in, corpus, tmp_path / "out")
    options = ["--speech-model", "builtin:tiny", "--text-model", "none", "--device", "cpu", "--layers", "-1"]
    options += ["--align", "mfa", "--mfa-command", stand_in.command]
    result = mmser("extract", corpus, "--cache", tmp_path / "cache", *options)
    assert result.exit_code == 3, result.output
    assert "Aligned 4 of 5 utterances; the other 1 have no words, but frames and utterance states" in result.stdout
    assert len(Cache(tmp_path / "cache").stream("pooled/builtin-tiny@mfa")) == 5
    own, other = (sorted((folder / "align" / "mfa").glob("*.h5")) for folder in (tmp_path / "out", tmp_path / "cache"))
    assert [path.name for path in own] == [path.name for path in other]  # the name is the digest
    assert (tmp_path / "cache" / "align" / "mfa" / "coverage.json").is_file()


def test_a_kill_leaves_shards_and_the_rest_is_done_next_time(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALIGNERS, "mfa", replace(ALIGNERS["mfa"], shard_seconds=2.5))
    stand_in, out = StandIn(tmp_path), tmp_path / "out"
    align_with(stand_in, corpus, out)
    shards = sorted((out / "align" / "mfa").glob("*.h5"))
    assert len(stand_in.calls) == len(shards) == 2
    shards[1].unlink()
    align_with(stand_in, corpus, out)
    assert len(stand_in.calls) == 3
    assert sorted((out / "align" / "mfa").glob("*.h5")) == shards


def test_nothing_that_mmser_did_not_write_is_overwritten(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, IDS[:2])
    mine = tmp_path / "textgrid"
    before = {path: path.read_bytes() for path in mine.iterdir()}
    arguments = ("align", corpus, "--backend", "textgrid", "--textgrids", mine)
    result = mmser(*arguments, "--out", mine)
    assert result.exit_code == 1
    assert "u0.TextGrid was not written by mmser, nor were 1 others; nothing is overwritten" in result.stderr
    assert {path: path.read_bytes() for path in mine.iterdir()} == before
    assert mmser(*arguments, "--out", tmp_path / "out").exit_code == 0
    other = mmser("align", corpus, "--backend", "pocketsphinx", "--out", tmp_path / "out")
    assert other.exit_code == 1
    assert "holds TextGrids of the aligner 'textgrid'; give another --out" in other.stderr


def test_a_kill_between_textgrids_leaves_none_that_is_outdated_or_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = make_corpus(tmp_path, IDS[:3]), tmp_path / "out"
    arguments = ("align", corpus, "--backend", "textgrid", "--textgrids", tmp_path / "textgrid", "--out", out)
    write, done = textgrids.write_textgrid, []

    def once(*given: object) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(write(*given))

    monkeypatch.setattr(textgrids, "write_textgrid", once)
    assert mmser(*arguments).exit_code == 130
    assert len(list(out.glob("*.TextGrid"))) == 1
    monkeypatch.setattr(textgrids, "write_textgrid", write)
    assert f"{out}: 2 TextGrids written, 1 were there" in mmser(*arguments).stdout
    assert textgrid.openTextgrid(str(out / "u2.TextGrid"), includeEmptyIntervals=False).tierNames


# --- the stream


def test_an_alignment_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, IDS[:2])
    mmser("align", corpus, "--backend", "textgrid", "--textgrids", tmp_path / "textgrid", "--out", tmp_path / "out")
    found, duration_s = read_alignment(Cache(tmp_path / "out").stream("align/textgrid"), "u1")
    assert duration_s == DURATIONS_S["u1"]
    expected = alignment("u1", DURATIONS_S["u1"])
    assert [(w.start_s, w.end_s, w.label, w.kind) for w in found.words] == [
        (w.start_s, w.end_s, w.label, w.kind) for w in expected.words
    ]
    assert [(p.label, p.parent) for p in found.phones if p.kind is Kind.SPEECH] == [
        (p.label, p.parent) for p in expected.phones
    ]


def test_flags_are_stored_one_by_one() -> None:
    one = Alignment("u", (Segment(0.0, 0.5, "hi", 0),), flags=("wide-beam", "skipped:grüß gott"))
    _, values = alignment_tables([one], [0.6], ["Hi, grüß gott"])
    about = values["utterance"]
    assert about["flags"][0].decode().split("\n") == ["wide-beam", "skipped:grüß gott"]
    assert (about["words"][0], about["words_aligned"][0], about["duration_s"][0]) == (3, 1, 0.6)


def test_words_that_are_not_spoken_are_not_missed() -> None:
    segments = (
        Segment(0.0, 0.2, "twenty", 1),
        Segment(0.2, 0.4, "one", 1),
        Segment(0.4, 0.5, "<unk>", 2, Kind.UNKNOWN),
    )
    assert words_aligned(Alignment("u", segments), "[LAUGHTER] 21 -- gronk") == (1, 2)


def test_zero_frame_segments_are_those_between_two_centres(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, IDS)
    mmser("align", corpus, "--backend", "textgrid", "--textgrids", tmp_path / "textgrid", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "coverage.json").read_text())
    for tier in ("word", "phone"):
        spans = [
            (s.start_s, s.end_s, math.floor((DURATIONS_S[uid] * 16_000 - 400) / 320) + 1)
            for uid in IDS
            for s in alignment(uid, DURATIONS_S[uid]).tier(tier)
            if s.kind is not Kind.SILENCE
        ]
        centres = (200 + 320 * np.arange(100)) / 16_000
        empty = sum(not any(a <= c < b for c in centres[:n]) for a, b, n in spans)
        assert (report["without_frame"][tier], report["segments"][tier]) == (empty, len(spans))
        assert empty


# --- language


def test_german_is_doubted_and_english_is_not(tmp_path: Path) -> None:
    doubt = doubt_english(SENTENCES.values())
    assert doubt is not None
    assert "is this English? 44% of 97 words are in no dictionary" in doubt
    assert "--align textgrid" in doubt
    assert "--align mfa" in doubt
    english = [
        "He said that it was the best of times, and we believed him at 21.",
        "Excuse me, do you have your forms?",
    ]
    assert doubt_english(english) is None
    assert doubt_english(["Guten Tag"]) is None  # too little to go by
    words = {word for text in SENTENCES.values() for word in text.lower().replace(",", "").strip("?.").split()}
    (tmp_path / "german.dict").write_text("".join(f"{word}  AH\n" for word in words))
    assert doubt_english(SENTENCES.values(), tmp_path / "german.dict") is None


def foreign_corpus(folder: Path, languages: list[str]) -> Path:
    rows = []
    for i, (language, text) in enumerate(zip(languages, SENTENCES.values(), strict=False)):
        write_noise(folder / f"g{i}.wav", 0.5, i)
        rows.append({"utterance_id": f"g{i}", "audio": f"g{i}.wav", "text": text, "language": language})
    write_manifest(Manifest(pd.DataFrame(rows), folder), folder / "german.csv")
    return folder / "german.csv"


def test_a_column_language_stops_the_english_aligner(tmp_path: Path) -> None:
    corpus = foreign_corpus(tmp_path, ["de", "German"])
    result = mmser("align", corpus, "--backend", "pocketsphinx", "--out", tmp_path / "out", "--jobs", "1")
    assert result.exit_code == 1
    assert "the manifest's language is German, de; PocketSphinx's embedded model is English" in result.stderr
    assert "--align textgrid --textgrids FOLDER" in result.stderr


def test_some_foreign_utterances_fail_by_name_and_a_doubt_is_told(tmp_path: Path) -> None:
    corpus = foreign_corpus(tmp_path, ["de", *[""] * 9])
    result = mmser("align", corpus, "--backend", "pocketsphinx", "--out", tmp_path / "out", "--jobs", "1")
    assert result.exit_code == 3
    with (tmp_path / "out" / "failed.csv").open(newline="") as file:
        reasons = {row["utterance_id"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons["g0"].startswith("its language is de; PocketSphinx's embedded model is English")
    assert "Note: WARNING: is this English?" in result.stdout
