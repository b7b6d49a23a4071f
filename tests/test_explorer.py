"""The explorer's page: what it embeds is what the runs wrote and what their heads say; what it leaves out, it names."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from small_cache import edit_manifest, make_rows, write_cache
from small_corpus import DURATIONS_S, IDS, alignment, mmser, options_for
from small_study import COATTENTION, SCRIPT, Study

from mmser.audio import read_audio
from mmser.cache import Cache
from mmser.errors import MmserError, ProtocolError
from mmser.extract.run import extract
from mmser.manifest import read_manifest
from mmser.records import Kind, Utterance
from mmser.report import explorer
from mmser.report.explorer import write_explorer
from mmser.report.explorer_answers import Answers, read_answers
from mmser.report.explorer_attention import STEPS
from mmser.report.explorer_sound import POINTS, envelope, sound_of
from mmser.train.apply import apply
from mmser.train.options import Training
from mmser.train.run import train_head


@pytest.fixture(scope="module")
def page(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "explorer.html"
    write_explorer([study.fusion, study.coattention], study.cache, path, with_audio=True)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(page: str) -> dict[str, Any]:
    return data_of(page)


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads, as a browser would find it: up to the first end of a script."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def weights_of(looks: dict[str, Any], name: str) -> np.ndarray:
    one = looks["maps"][name]
    return np.frombuffer(base64.b64decode(one["values"]), "<u2").reshape(one["shape"]) / STEPS


def test_embedded_predictions_are_those_of_the_run(study: Study, data: dict[str, Any]) -> None:
    tables = [pd.read_csv(folder / "predictions.csv") for folder in (study.fusion, study.coattention)]
    written = pd.concat(tables).set_index(["head", "utterance_id", "seed"])
    names = [(one.name, one.head) for one in read_answers([study.fusion, study.coattention])]
    assert [head["name"] for head in data["heads"]] == [name for name, _ in names]
    seen = 0
    for i, head in enumerate(data["heads"]):
        for one in data["utterances"]:
            for seed, p in zip(head["seeds"], one["said"][i]["p"], strict=True):
                row = written.loc[(names[i][1], one["id"], seed)]
                assert p == pytest.approx([row[f"p_{label}"] for label in head["labels"]], abs=5.1e-5)
                assert (one["said"][i]["fold"], one["truth"]) == (row["fold"], row["truth"])
                assert head["labels"][one["said"][i]["classes"][head["seeds"].index(seed)]] == row["prediction"]
                seen += 1
    assert seen == len(written) == 4 * 6 * 2


def test_figures_of_heads_are_those_of_the_tables(study: Study, data: dict[str, Any]) -> None:
    lines = [
        line
        for folder in (study.fusion, study.coattention)
        for line in json.loads((folder / "summary.json").read_text())["lines"]
    ]
    assert [one["score"] for one in data["heads"]] == pytest.approx([line["ua"] for line in lines], abs=5.1e-5)


def test_attention_is_that_of_the_head_that_never_saw_the_utterance(study: Study, data: dict[str, Any]) -> None:
    place = next(i for i, head in enumerate(data["heads"]) if head["name"] == "coattention")
    for one in data["utterances"]:
        fold = {"ann": 0, "bob": 1, "eve": 2}[one["fields"]["speaker"]]  # folds are by speaker
        head = study.coattention / "heads" / f"coattention-fold{fold}-seed0"
        asked = apply(head, study.cache, [one["id"]], attention=True)
        assert asked.attention is not None
        looks = one["detail"]["attention"][str(place)]
        assert looks["maps"].keys() == asked.attention[0].keys() == {"word.0.speech_to_text", "word.0.text_to_speech"}
        for name, weights in asked.attention[0].items():
            np.testing.assert_allclose(weights_of(looks, name), weights, atol=0.6 / STEPS)


def test_attention_knows_its_words_and_tokens(data: dict[str, Any]) -> None:
    for one in data["utterances"]:
        (looks,) = one["detail"]["attention"].values()
        spoken = [word for word in alignment(one["id"], DURATIONS_S[one["id"]]).words if word.label]
        assert looks["speech"]["word"] == [
            [w.label, pytest.approx(w.start_s, abs=1e-3), pytest.approx(w.end_s, abs=1e-3)] for w in spoken
        ]
        _, num_words, num_tokens = looks["maps"]["word.0.speech_to_text"]["shape"]
        assert (num_words, num_tokens) == (len(spoken), len(looks["tokens"]))
        said = "Hi, a word!" + " yes" * int(one["id"][1:])
        assert "".join(looks["tokens"]) == said.replace(" ", "")


def test_tokens_are_those_of_the_transcript_that_the_head_read(study: Study, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(study.cache.path, tmp_path / "cache"))
    edit_manifest(cache, lambda table: table.insert(2, "heard", "hey you"))
    extract(read_manifest(cache / "manifest.csv"), cache, options_for(study.corpus, text_column="heard"))
    again = replace(COATTENTION, seeds=1, text_stream="text/builtin-tiny@heard")
    train_head(cache, again, tmp_path / "run")
    write_explorer([tmp_path / "run"], Cache(cache), tmp_path / "explorer.html")
    for one in data_of((tmp_path / "explorer.html").read_text(encoding="utf-8"))["utterances"]:
        assert "".join(one["detail"]["attention"]["0"]["tokens"]) == "heyyou"


def test_segments_and_recordings_are_the_corpus_s(study: Study, data: dict[str, Any]) -> None:
    for one, utterance in zip(data["utterances"], study.cache.manifest.utterances(), strict=True):
        detail, aligned = one["detail"], alignment(one["id"], DURATIONS_S[one["id"]])
        for tier in ("word", "phone"):
            found = [(start, end, label) for start, end, label, kind in detail["tiers"][tier] if kind != Kind.SILENCE]
            want = [
                (pytest.approx(s.start_s, abs=1e-3), pytest.approx(s.end_s, abs=1e-3), s.label)
                for s in aligned.tier(tier)
                if s.kind != Kind.SILENCE
            ]
            assert found == want
        heard = read_audio(utterance.audio).samples
        assert detail["duration_s"] == len(heard) / 16_000
        kind, _, body = detail["audio"].partition(",")
        assert kind == "data:audio/flac;base64"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(body)))
        assert rate == 16_000
        np.testing.assert_allclose(samples, heard, atol=2**-15)


@pytest.mark.parametrize("length", [400, 401, 16_000, 12_345])
def test_envelope_is_the_lowest_and_highest_of_each_stretch(length: int) -> None:
    samples = np.random.default_rng(length).uniform(-0.3, 0.2, length).astype(np.float32)
    peak = max(abs(float(value)) for value in samples)
    for i in range(POINTS):
        own = [float(value) for value in samples[i * length // POINTS : (i + 1) * length // POINTS]]
        assert envelope(samples)[:, i] == pytest.approx([127 * min(own) / peak, 127 * max(own) / peak], abs=0.51)


def test_sound_is_of_the_utterance_and_not_of_the_whole_recording(study: Study) -> None:
    whole = study.cache.manifest.utterances()[5]
    part = Utterance("part", whole.audio, 0.25, 0.75)
    assert sound_of(part, with_audio=False).keys() == {"duration_s", "wave"}
    assert sound_of(part, with_audio=False)["duration_s"] == 0.5


def test_page_asks_nothing_of_anyone_and_no_text_ends_a_script(page: str, data: dict[str, Any]) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "url(" not in page
    assert "@import" not in page
    assert len(re.findall(r"<script", page)) == len(re.findall(r"</script", page)) == 2
    assert data["utterances"][1]["text"].endswith(SCRIPT)
    assert not {"<!--", "\u2028", "<b>"} & set(re.findall(r"<!--|\u2028|<b>", page.split("</style>")[1]))


def test_only_the_most_telling_have_details_and_the_page_says_so(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "explorer.html"
    explored = write_explorer([study.coattention], study.cache, path, limit=2)
    rows = data_of(path.read_text(encoding="utf-8"))["utterances"]
    (answers,) = read_answers([study.coattention])
    assert [one["id"] for one in rows] == IDS
    assert {one["id"] for one in rows if one["detail"]} == set(answers.most_telling()[:2])
    assert all("audio" not in one["detail"] for one in rows if one["detail"])
    assert (explored.num_utterances, explored.num_detailed) == (6, 2)
    assert explored.num_bytes == path.stat().st_size
    assert "2 of 6 utterances have waveform, segments and attention" in path.read_text(encoding="utf-8")


def answers_of(truth: list[str], posteriors: list[list[float]], **changes: Any) -> Answers:
    n = len(truth)
    given: dict[str, Any] = {
        "name": "head",
        "folder": Path("run"),
        "head": "head",
        "ids": tuple(f"u{i}" for i in range(n)),
        "folds": ("a",) * n,
        "seeds": (0,),
        "labels": ("calm", "wild"),
        "truth": tuple(truth),
        "posteriors": np.array(posteriors)[:, None],
        "dimensions": (),
        "true_ratings": np.zeros((n, 0)),
        "ratings": np.zeros((n, 1, 0)),
    }
    return Answers(**{**given, **changes})


def test_mistakes_come_first_the_surest_ahead_and_the_classes_in_turn() -> None:
    truth = ["calm", "calm", "calm", "wild", "wild", "", "calm"]
    said = [[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5], [np.nan, np.nan]]
    # wrong: calm u2 (by 0.8), u1 (by 0.2), u6 (no number); wild u4. Right: u0, u3. Not known: u5.
    assert answers_of(truth, said).most_telling() == ["u2", "u4", "u1", "u6", "u0", "u3", "u5"]


def test_classes_are_of_posteriors_as_they_are() -> None:
    said = answers_of(["wild"] * 3, [[0.49999, 0.50001], [0.5, 0.5], [np.nan, np.nan]])
    row = explorer._said(said)["u0"]
    assert row == {"fold": "a", "p": [[0.5, 0.5]], "r": [[]], "classes": [1], "class_of_mean": 1}
    assert said.prediction_by_seed.tolist() == [[1], [0], [-1]]
    assert said.prediction.tolist() == [1, 0, -1]


def test_of_ratings_the_largest_errors_come_first() -> None:
    rated = answers_of(
        ["", "", ""],
        [[], [], []],
        labels=(),
        dimensions=("valence",),
        true_ratings=np.array([[1.0], [2.0], [3.0]]),
        ratings=np.array([[[1.5], [1.5]], [[4.0], [5.0]], [[3.0], [1.0]]]),
    )
    assert rated.most_telling() == ["u1", "u2", "u0"]
    assert rated.prediction.tolist() == [-1, -1, -1]


def test_heads_are_called_as_in_the_report(study: Study, tmp_path: Path) -> None:
    for name, run in (("one/word", study.coattention), ("two/word", study.coattention), ("two/late", study.fusion)):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(run / "predictions.csv", tmp_path / name)
    folders = [tmp_path / "one/word", tmp_path / "two/word", tmp_path / "two/late"]
    names = [one.name for one in read_answers(folders)]
    assert names == ["one/word", "two/word", "two/late: speech-probe", "two/late: text-probe", "two/late"]
    assert [one.name for one in read_answers([study.fusion])] == ["speech-probe", "text-probe", "late-fusion"]
    with pytest.raises(ProtocolError, match="named twice"):
        read_answers([study.coattention, study.coattention])


def test_many_heads_are_the_best_and_the_others_are_named(study: Study, tmp_path: Path) -> None:
    path, folders = tmp_path / "explorer.html", [study.fusion, study.coattention]
    by_score = sorted(read_answers(folders), key=lambda one: -one.score)
    explored = write_explorer(folders, study.cache, path, most=2)
    shown = [head["name"] for head in data_of(path.read_text(encoding="utf-8"))["heads"]]
    assert len(shown) == 2
    assert set(shown) == {one.name for one in by_score[:2]}
    others = ", ".join(one.name for one in read_answers(folders) if one.name not in shown)
    assert f"The 2 best of 4 heads; not shown: {others}" in explored.notes


def test_rows_are_chosen_and_called_as_in_the_report_of_an_ablation(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    rows = {"fusion": "late", "word": "early <word>", "again": "early <word>"}
    for cell in rows:
        shutil.copytree(study.fusion if cell == "fusion" else study.coattention, folder / "cells" / cell)
    cells = [{"name": name, "row": row, "axes": {}, "experiment": {}} for name, row in rows.items()]
    about = {"format": 1, "name": "runs", "cache": "cache", "command": "", "baseline": None, "axes": [], "cells": cells}
    (folder / "ablation.json").write_text(json.dumps(about))

    def shown(*options: str) -> list[str]:
        result = mmser("report", folder, "--explore", study.cache.path, "--explore-limit", 0, *options)
        assert result.exit_code == 0, result.stderr
        return [head["name"] for head in data_of((folder / "explorer.html").read_text(encoding="utf-8"))["heads"]]

    assert shown() == ["late", "word", "again"]  # members of a fusion have no row; a label of two is of neither
    assert shown("--explore-row", "word", "--explore-row", "late") == ["early <word>", "late"]
    wrong = mmser("report", folder, "--explore", study.cache.path, "--explore-row", "wrod")
    assert "no row 'wrod' (did you mean 'word'?); there are fusion, word, again" in wrong.stderr


SHORT = Training(epochs=2, batch_size=16)
TOY = replace(COATTENTION, seeds=1, settings={"width": 4, "heads": 2}, training=SHORT)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache without alignments, whose recordings are not there."""
    return Cache(write_cache(tmp_path_factory.mktemp("toy") / "toy", make_rows()))


def test_missing_recordings_and_alignments_are_said_and_no_error(toy: Cache, tmp_path: Path) -> None:
    run = replace(TOY, learning_rate=(1e-3, 0.1), granularity="word,frame")
    train_head(toy.path, run, tmp_path / "run")
    explored = write_explorer([tmp_path / "run"], toy, tmp_path / "explorer.html", limit=9)
    assert any("no alignment" in note for note in explored.notes)
    assert any("9 of 9 recordings could not be read" in note for note in explored.notes)
    details = [one for one in data_of((tmp_path / "explorer.html").read_text())["utterances"] if one["detail"]]
    trials = pd.read_csv(tmp_path / "run" / "trials.csv", dtype=str)
    tested = trials[trials["tested"] == "True"].set_index("fold")["learning_rate"]
    assert set(tested) == {"0.001", "0.1"}, "else the test does not tell which setting was taken"
    for one in details:
        looks = one["detail"]["attention"]["0"]
        assert looks["speech"]["word"][0] == ["word 1", None, None]
        assert looks["speech"]["frame"][0][0] == "0.01 s"
        assert looks["tokens"][:1] == ["token 1"], "the toy has no transcripts"
    trials.drop(columns="tested").to_csv(tmp_path / "run" / "trials.csv", index=False)
    with pytest.raises(ProtocolError, match=r"run/trials\.csv: no column 'tested'"):
        write_explorer([tmp_path / "run"], toy, tmp_path / "explorer.html", limit=9)


def test_speech_normalised_per_speaker_is_so_by_all_that_the_run_knew(toy: Cache, tmp_path: Path) -> None:
    train_head(toy.path, replace(TOY, normalise="speaker"), tmp_path / "run")
    write_explorer([tmp_path / "run"], toy, tmp_path / "explorer.html", limit=1)
    (one,) = [one for one in data_of((tmp_path / "explorer.html").read_text())["utterances"] if one["detail"]]
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    same = predictions[predictions["speaker"] == one["fields"]["speaker"]]
    fold = sorted(predictions["fold"].unique(), key=lambda name: (len(name), name)).index(same["fold"].iloc[0])
    asked = apply(tmp_path / f"run/heads/coattention-fold{fold}-seed0", toy, list(same["utterance_id"]), attention=True)
    assert asked.attention is not None
    want = asked.attention[asked.ids.index(one["id"])]["word.0.speech_to_text"]
    np.testing.assert_allclose(
        weights_of(one["detail"]["attention"]["0"], "word.0.speech_to_text"), want, atol=0.6 / STEPS
    )


def test_a_head_that_says_something_else_now_is_refused(study: Study, tmp_path: Path) -> None:
    folder = shutil.copytree(study.coattention, tmp_path / "run")
    table = pd.read_csv(folder / "predictions.csv")
    table.assign(p_calm=table["p_wild"], p_wild=table["p_calm"]).to_csv(folder / "predictions.csv", index=False)
    with pytest.raises(ProtocolError, match="give the cache that it was trained on"):
        write_explorer([folder], study.cache, tmp_path / "explorer.html")
    assert not (tmp_path / "explorer.html").exists()


def test_a_cell_that_is_no_number_is_refused(study: Study, tmp_path: Path) -> None:
    table = pd.read_csv(study.coattention / "predictions.csv").astype({"p_calm": object})
    table.loc[1, "p_calm"] = "0,5"
    table.to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(ProtocolError, match=r"predictions.csv, p_calm, p_wild: .*0,5.*; expected numbers, or nothing"):
        read_answers([tmp_path])


def test_another_corpus_is_refused(study: Study, toy: Cache, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"lacks 6 utterances that .* was tested on, 'u0' among them"):
        write_explorer([study.coattention], toy, tmp_path / "explorer.html")


def test_folders_that_are_no_finished_runs_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="no finished run folder"):
        write_explorer([tmp_path], study.cache, tmp_path / "explorer.html")
    (tmp_path / "predictions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ProtocolError, match="no column 'utterance_id'; expected what mmser train-head writes"):
        write_explorer([tmp_path], study.cache, tmp_path / "explorer.html")
    with pytest.raises(ProtocolError, match="no run folder to explore"):
        write_explorer([], study.cache, tmp_path / "explorer.html")
    with pytest.raises(MmserError, match="limit is -1; expected"):
        write_explorer([study.coattention], study.cache, tmp_path / "explorer.html", limit=-1)


def test_targets_that_differ_are_not_shown_as_one(study: Study, tmp_path: Path) -> None:
    table = pd.read_csv(study.coattention / "predictions.csv")
    table["truth"] = table["truth"].map({"calm": "wild", "wild": "calm"})
    table.to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(ProtocolError, match="do not agree on the class of 'u0'"):
        read_answers([study.coattention, tmp_path])


def test_a_page_that_no_browser_would_open_is_not_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "MAX_BYTES", 30_000)
    with pytest.raises(MmserError, match=r"expected 0 MB at most, .* fewer than 6 utterances"):
        write_explorer([study.coattention], study.cache, tmp_path / "explorer.html", with_audio=True)
    assert not list(tmp_path.iterdir())


def test_command_writes_the_explorer_first_and_the_report_links_to_it(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.coattention, tmp_path / "runs" / "word")
    shutil.copytree(study.fusion, tmp_path / "runs" / "late")
    result = mmser("report", tmp_path / "runs", "--explore", study.cache.path, "--with-audio", "--explore-limit", 4)
    assert result.exit_code == 0, result.stderr
    page = tmp_path / "runs" / "explorer.html"
    assert f"Explorer: {page}" in result.stdout
    assert "6 utterances, 4 of them in detail" in result.stdout
    assert "Note: 4 of 6 utterances have waveform" in result.stdout
    assert "pass it on only where the corpus's licence allows that" in result.stdout
    assert 'href="explorer.html"' in (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert 'href="report.html"' in page.read_text(encoding="utf-8")


def test_command_says_what_belongs_to_the_explorer() -> None:
    result = mmser("report", "runs", "--with-audio")
    assert (result.exit_code, "belong to --explore CACHE" in result.stderr) == (1, True)
    assert f"[default: the {explorer.MOST_HEADS} best]" in " ".join(mmser("report", "--help").stdout.split())
    assert f"[default: {explorer.LIMIT}]" in " ".join(mmser("report", "--help").stdout.split())


def test_nothing_that_only_extraction_needs_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, mmser.report; sys.exit(bool({'transformers', 'soundfile', 'plotly'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
