"""``mmser transcribe`` from a manifest to a manifest: what is kept, what is gone on from, what fails by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_corpus import DURATIONS_S, IDS, make_corpus, mmser, write_noise
from small_recognisers import save_ctc

from mmser.errors import ManifestError, MmserError
from mmser.manifest import Manifest, add_column, read_manifest
from mmser.transcribe import Recognition, transcribe
from mmser.transcribe.ctc import CtcRecogniser
from mmser.transcribe.journal import open_journal
from mmser.transcribe.table import transcribe_manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ctc(tmp_path_factory.mktemp("models") / "ctc")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "corpus")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the waveforms that a recogniser was asked about, call by call."""
    lengths: list[int] = []
    texts = CtcRecogniser.texts

    def counted(self: CtcRecogniser, waveforms: Sequence[NDArray[np.float32]]) -> Any:
        lengths.extend(map(len, waveforms))
        return texts(self, waveforms)

    monkeypatch.setattr(CtcRecogniser, "texts", counted)
    return lengths


def run(corpus: Path, model: Path, out: Path, **options: Any) -> Any:
    asked = Recognition(str(model), device="cpu", jobs=2, **options)
    return transcribe_manifest(read_manifest(corpus), out, asked, "asr_text", options.pop("report", lambda *_: None))


def test_batches_do_not_change_the_texts(corpus: Path, model: Path) -> None:
    told: list[tuple[Any, ...]] = []
    utterances = read_manifest(corpus).utterances()
    found = transcribe(utterances, str(model), device="cpu", report=lambda *how: told.append(how))
    assert list(found.texts) == IDS
    assert all(found.texts.values())
    one_by_one = {u.utterance_id: transcribe([u], str(model), device="cpu").texts[u.utterance_id] for u in utterances}
    assert found.texts == one_by_one
    assert told[-1] == ("transcribe", 6, 6, pytest.approx(sum(DURATIONS_S.values()), abs=0.01))
    assert found.recipe["model"] == "ctc"
    assert len(str(found.recipe["weights_sha256"])) == 64


def test_the_column_is_added_and_every_other_byte_stays(corpus: Path, model: Path) -> None:
    # a byte order mark, CRLF, quotes that need not be, a number that is not the shortest, and a blank line
    rows = [f'{uid},"wav/{uid}.wav",0.00,"a ""b"", {uid}",x' for uid in IDS]
    rows.insert(2, "")
    before = "\ufeff" + "\r\n".join(["utterance_id,audio,start_s,text,label", *rows]) + "\r\n"
    corpus.write_bytes(before.encode())
    out = corpus.with_name("asr.csv")
    result = mmser("transcribe", corpus, "--model", model, "--out", out, "--device", "cpu", "--jobs", 2)
    assert result.exit_code == 0, result.stderr
    assert "6 of 6 utterances transcribed in column asr_text" in result.stdout
    texts = dict(zip(IDS, read_manifest(out).column("asr_text"), strict=True))
    assert out.read_bytes().decode() == before.replace(",label", ",label,asr_text").replace(
        ",x\r\n", ",x,{}\r\n"
    ).format(*texts.values())
    made = json.loads(out.with_name("asr.csv.transcribe.json").read_text())["columns"]["asr_text"]
    assert made["recipe"]["architecture"] == "Wav2Vec2ForCTC"
    assert {"mmser", "transformers", "device"} <= made["provenance"].keys()
    assert not out.with_name("asr.failed.csv").exists()


@pytest.mark.parametrize("name", ["elsewhere/asr.csv", "asr.tsv", "asr.jsonl", "asr.parquet"])
def test_another_place_or_format_means_the_same_table(name: str, corpus: Path) -> None:
    manifest, out = read_manifest(corpus), corpus.parent / name
    out.parent.mkdir(exist_ok=True)
    cells = ["", 'say "a",\tb', "line\nbreak", "=1", "ä", " "]
    add_column(manifest, "asr_text", cells, out)
    wider = read_manifest(out)
    assert wider.column("asr_text").tolist() == cells
    assert [u.audio.resolve() for u in wider.utterances()] == [u.audio.resolve() for u in manifest.utterances()]
    assert wider.column("text").tolist() == manifest.column("text").tolist()


def test_cells_that_need_quotes_and_ragged_rows_come_back_whole(corpus: Path) -> None:
    corpus.write_text("utterance_id,audio,text,label\nu0,wav/u0.wav\nu1,wav/u1.wav,b,c,,\n", encoding="utf-8")
    for source in (corpus, make_corpus(corpus.parent / "two", IDS[:2])):
        out = source.with_name("asr.csv")
        add_column(read_manifest(source), "asr_text", ['say "a",\r\nb', ""], out)
        assert read_manifest(out).column("asr_text").tolist() == ['say "a",\r\nb', ""]
        assert read_manifest(out).column("text").tolist() == read_manifest(source).column("text").tolist()


def test_a_column_that_is_there_stays_as_it_is(corpus: Path, model: Path) -> None:
    for column, message in (("text", "has a column 'text' already"), ("valence", "no name for a column of text")):
        result = mmser("transcribe", corpus, "--model", model, "--out", corpus.with_name("o.csv"), "--column", column)
        assert result.exit_code == 1
        assert message in result.stderr
    with pytest.raises(ManifestError, match=r"has the suffix '.txt'"):
        run(corpus, model, corpus.with_name("asr.txt"))


def test_what_fails_is_named_and_the_rest_goes_on(corpus: Path, model: Path) -> None:
    (corpus.parent / "wav" / "u2.wav").write_bytes(b"no sound")
    (corpus.parent / "wav" / "u4.wav").unlink()
    out = corpus.with_name("asr.csv")
    result = mmser("transcribe", corpus, "--model", model, "--out", out, "--jobs", 2)
    assert result.exit_code == 3
    assert "2 of 6 utterances could not be transcribed" in result.stderr
    assert "Left out: 2 not transcribed" in result.stdout
    again = mmser("transcribe", corpus, "--model", model, "--out", out, "--jobs", 2, "--json")
    told = json.loads(again.stdout)
    assert (again.exit_code, told["transcribed"], told["kept"]) == (3, 4, 4)
    assert [one["utterance_id"] for one in told["failures"]] == ["u2", "u4"]
    assert "u4.wav' is not there" in told["failures"][1]["reason"]
    assert told["word_errors"]["not_transcribed"] == 2
    failed = (corpus.with_name("asr.failed.csv")).read_text(encoding="utf-8")
    assert 'u2,asr_text,"audio' in failed
    assert "u4.wav' is not there" in failed
    table = read_manifest(out)
    assert table.ids == IDS
    assert [bool(text) for text in table.column("asr_text")] == [True, True, False, True, False, True]
    write_noise(corpus.parent / "wav" / "u2.wav", 0.61, 2)
    write_noise(corpus.parent / "wav" / "u4.wav", 0.91, 4)
    result = mmser("transcribe", corpus, "--model", model, "--out", out, "--jobs", 2)
    assert result.exit_code == 0
    assert "6 of 6 utterances transcribed in column asr_text, 4 of them in an earlier run" in result.stdout
    assert not corpus.with_name("asr.failed.csv").exists()


def word_errors(manifest: Path, column: str) -> Any:
    result = mmser("wer", manifest, "--column", column, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_second_recogniser_keeps_what_is_told_of_the_first(corpus: Path, model: Path, tmp_path: Path) -> None:
    """Whom the first could not hear is no error of its words, whatever is written afterwards, and where."""
    out, (gone, kept) = corpus.with_name("asr.csv"), (corpus.parent / "wav" / name for name in ("u2.wav", "aside"))
    gone.rename(kept)
    options = ("--model", model, "--jobs", 2)
    assert mmser("transcribe", corpus, "--out", out, "--column", "asr a", *options).exit_code == 3
    expected = word_errors(out, "asr a")
    assert (expected["not_transcribed"], expected["overall"]["utterances"]) == (1, 5)
    kept.rename(gone)
    both = corpus.with_name("both.csv")
    other = ("--model", save_ctc(tmp_path / "other", conv_bias=True), "--jobs", 2)
    for place in (both, out):
        assert mmser("transcribe", out, "--out", place, "--column", "asr b", *other).exit_code == 0
        assert {**word_errors(place, "asr a"), "manifest": str(out)} == expected
        assert word_errors(place, "asr b")["not_transcribed"] == 0
        made = json.loads(place.with_name(f"{place.name}.transcribe.json").read_text())["columns"]
        assert [(name, one["failures"]) for name, one in made.items()] == [("asr a", 1), ("asr b", 0)]
        assert made["asr a"]["recipe"] != made["asr b"]["recipe"]
    # one utterance that fails for one reason in two columns is a failure of both
    gone.rename(kept)
    assert mmser("transcribe", both, "--out", both, "--column", "c", *options).exit_code == 3
    assert [word_errors(both, column)["not_transcribed"] for column in ("asr a", "asr b", "c")] == [1, 0, 1]


def test_a_manifest_with_another_column_is_not_replaced_by_one_without(corpus: Path, model: Path) -> None:
    out = corpus.with_name("asr.csv")
    run(corpus, model, out)
    before = out.read_bytes()
    result = mmser("transcribe", corpus, "--model", model, "--out", out, "--column", "asr_b")
    assert result.exit_code == 1
    assert "has a column 'asr_text', which" in result.stderr
    assert "it would be lost" in result.stderr
    assert out.read_bytes() == before


def test_a_table_of_failures_from_a_spreadsheet_is_read_or_refused(corpus: Path, model: Path) -> None:
    out, failed = corpus.with_name("asr.csv"), corpus.with_name("asr.failed.csv")
    run(corpus, model, out)
    table = "utterance_id,streams,reason\r\nu2,asr_text,gestört\r\n"
    failed.write_bytes(table.encode("utf-8-sig"))
    assert word_errors(out, "asr_text")["not_transcribed"] == 1
    for damaged in (table.encode("cp1252"), b"utterance_id,streams,reason\r\nu2\r\n", b"id\r\nu2\r\n"):
        failed.write_bytes(damaged)
        result = mmser("wer", out)
        assert result.exit_code == 1
        assert "asr.failed.csv is not the table that mmser transcribe writes; move it away" in result.stderr


def test_what_was_finished_before_a_kill_is_not_done_again(corpus: Path, model: Path, heard: list[int]) -> None:
    out = corpus.with_name("asr.csv")
    manifest = read_manifest(corpus)
    asked = Recognition(str(model), device="cpu", jobs=2, batch_seconds=1.2)

    def die(_stage: str, done: int, _total: int, _seconds: float) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcribe_manifest(manifest, out, asked, "asr_text", die)
    assert not out.exists()
    finished = len(heard)
    assert 3 <= finished < 6
    (journal,) = corpus.parent.glob("asr.csv.transcribe.*.jsonl")
    with journal.open("ab") as file:  # as a kill amid a line leaves it
        file.write(b'{"utterance_id": "u0", "audio')
    heard.clear()
    found = transcribe_manifest(manifest, out, asked, "asr_text")
    assert (len(heard), found.num_kept) == (6 - finished, finished)
    assert found.texts == transcribe(manifest.utterances(), str(model), device="cpu").texts
    heard.clear()
    assert transcribe_manifest(manifest, out, asked, "asr_text").num_kept == 6
    assert not heard


def test_another_recording_or_another_model_is_done_again(
    corpus: Path, model: Path, heard: list[int], tmp_path: Path
) -> None:
    out = corpus.with_name("asr.csv")
    run(corpus, model, out)
    write_noise(corpus.parent / "wav" / "u1.wav", 0.5, 9)
    heard.clear()
    assert run(corpus, model, out).num_kept == 5
    assert heard == [8_000]
    heard.clear()
    assert run(corpus, save_ctc(tmp_path / "ctc", conv_bias=True), out).num_kept == 0
    assert len(heard) == 6


def test_a_journal_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "asr.csv.transcribe.jsonl"
    with open_journal(path, {"model": "m"}) as journal:
        journal.add({("u1", "d1"): 'a "b"\nä'})
        with pytest.raises(MmserError, match="another mmser is transcribing"), open_journal(path, {}):
            pass
    with open_journal(path, {"model": "m"}) as journal:
        assert journal.text_of("u1", "d1") == 'a "b"\nä'
        assert journal.text_of("u1", "d2") is None
    (kept,) = tmp_path.glob("asr.csv.transcribe.*.jsonl")
    kept.write_bytes(b"\xff not json\n" + kept.read_bytes())
    with open_journal(path, {"model": "m"}) as journal:
        assert journal.text_of("u1", "d1") is None


def test_another_recipe_takes_nothing_from_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "asr.csv.transcribe.jsonl"
    with open_journal(path, {"model": "a"}) as journal:
        journal.add({("u1", "d1"): "days of work"})
    with open_journal(path, {"model": "b"}) as journal:
        assert journal.text_of("u1", "d1") is None
        journal.add({("u1", "d1"): "a typing error"})
    with open_journal(path, {"model": "a"}) as journal:
        assert journal.text_of("u1", "d1") == "days of work"


def test_a_batch_that_memory_does_not_hold_is_halved(
    corpus: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    expected = transcribe(read_manifest(corpus).utterances(), str(model), device="cpu").texts
    texts = CtcRecogniser.texts

    def small(self: CtcRecogniser, waveforms: Sequence[NDArray[np.float32]]) -> Any:
        if len(waveforms) > 2 or len(waveforms[0]) > 16_000:
            raise torch.OutOfMemoryError
        return texts(self, waveforms)

    monkeypatch.setattr(CtcRecogniser, "texts", small)
    found = run(corpus, model, corpus.with_name("asr.csv"), batch_seconds=60.0)
    assert found.texts == {uid: expected[uid] for uid in IDS[:5]}
    assert "1.2 s do not fit in the memory of cpu" in found.failures["u5"]


def test_a_manifest_made_in_memory_can_be_written(corpus: Path) -> None:
    manifest = read_manifest(corpus)
    add_column(Manifest(manifest.table, manifest.base), "asr_text", IDS, corpus.with_name("asr.csv"))
    assert read_manifest(corpus.with_name("asr.csv")).column("asr_text").tolist() == IDS
