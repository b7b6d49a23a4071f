"""A second text stream, of recognised text: beside the first in one cache, and never mixed up with it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_corpus import IDS, make_corpus, mmser, run, shards
from small_recognisers import save_ctc

from mmser.cache import Cache
from mmser.errors import ManifestError
from mmser.extract.text import load_text_encoder
from mmser.manifest import Manifest, read_manifest, write_manifest

GOLD, HEARD = "text/builtin-tiny", "text/builtin-tiny@asr_text"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six utterances of three speakers and two classes, with what a recogniser hears in them."""
    folder = tmp_path_factory.mktemp("corpus")
    gold = read_manifest(make_corpus(folder))
    told = {"label": ["joy", "sad"] * 3, "speaker": ["s0", "s0", "s1", "s1", "s2", "s2"]}
    write_manifest(Manifest(gold.table.assign(**told), folder), folder / "corpus.csv")
    model, out = save_ctc(folder / "ctc"), folder / "asr.csv"
    result = mmser("transcribe", folder / "corpus.csv", "--model", model, "--out", out, "--jobs", 2)
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def cache(corpus: Path) -> Path:
    """Both texts, each from its own command."""
    path = corpus.parent / "cache"
    assert not run(corpus, path).failures
    before = shards(path)
    models = ["--speech-model", "none", "--text-model", "builtin:tiny"]
    result = mmser("extract", corpus, "--cache", path, *models, "--text-column", "asr_text", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert f"{path / HEARD}: 6 utterances added" in result.stdout
    assert before.items() < shards(path).items()
    return path


def test_one_ablation_compares_both(cache: Path, tmp_path: Path) -> None:
    """Each cell says what a run on its stream alone says."""
    grid = (
        '[base]\nhead = "text-probe"\nfolds = "speaker"\nseeds = 1\nepochs = 2\n\n[axes]\ntext_stream = ["{}", "{}"]\n'
    )
    (tmp_path / "texts.toml").write_text(grid.format(GOLD, HEARD))
    result = mmser("ablate", cache, tmp_path / "texts.toml", "--out", tmp_path / "both")
    assert result.exit_code == 0, result.output
    cells = json.loads((tmp_path / "both" / "ablation.json").read_text())["cells"]
    assert [cell["experiment"]["text_stream"] for cell in cells] == [GOLD, HEARD]
    answers = []
    for number, cell in enumerate(cells):
        alone = ["--head", "text-probe", "--folds", "speaker", "--seeds", 1, "--epochs", 2, "--device", "cpu"]
        stream = ["--text-stream", cell["experiment"]["text_stream"], "--out", tmp_path / f"alone{number}"]
        assert mmser("train-head", cache, *alone, *stream).exit_code == 0
        answers.append(pd.read_csv(tmp_path / f"alone{number}" / "predictions.csv"))
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "both" / "cells" / cell["name"] / "predictions.csv"), answers[-1]
        )
    assert not answers[0].equals(answers[1])


def test_each_stream_holds_the_states_of_its_own_column(cache: Path, corpus: Path) -> None:
    opened, manifest = Cache(cache), read_manifest(corpus)
    assert opened.stream(HEARD).recipe["text_column"] == "asr_text"
    assert "text_column" not in opened.stream(GOLD).recipe  # caches made before there was a choice stay as they are
    assert HEARD in mmser("cache", "info", cache).stdout
    assert mmser("cache", "verify", cache).exit_code == 0
    encoder = load_text_encoder("builtin:tiny")
    for stream, column in ((GOLD, "text"), (HEARD, "asr_text")):
        texts = dict(zip(manifest.ids, manifest.column(column), strict=True))
        packed = opened.stream(stream).packed("token")
        for uid in IDS:
            states, _ = encoder.states([encoder.tokenize(texts[uid])], [encoder.num_layers - 1])
            np.testing.assert_allclose(packed.of(uid), states[:, 0].numpy(), atol=2e-3)


def train(cache: Path, out: Path, *arguments: object) -> tuple[int, str]:
    how = ("--epochs", 1, "--device", "cpu", "--out", out)
    result = mmser("train-head", cache, *arguments, *how)
    return result.exit_code, result.stdout + result.stderr


def test_one_cache_trains_on_either_text(cache: Path, tmp_path: Path) -> None:
    for stream in (GOLD, HEARD):
        code, said = train(cache, tmp_path / stream, "--head", "text-probe", "--text-stream", stream)
        assert code == 0, said
        config = json.loads((tmp_path / stream / "config.json").read_text())
        assert list(config["shards"]) == [stream]
    first, second = (pd.read_csv(tmp_path / stream / "predictions.csv") for stream in (GOLD, HEARD))
    assert set(first["utterance_id"]) == set(second["utterance_id"]) == set(IDS)
    assert not first.equals(second)
    code, said = train(cache, tmp_path / "either", "--head", "text-probe")
    assert code == 1
    assert f"several streams would do: {GOLD}, {HEARD}; choose one with --text-stream" in said


def test_recognised_words_are_not_linked_to_the_alignment_of_others(cache: Path, tmp_path: Path) -> None:
    linked = ("--head", "aligned-words", "--granularity", "word", "--layer", "-1")
    code, said = train(cache, tmp_path / "gold", *linked, "--text-stream", GOLD)
    assert code == 0, said
    code, said = train(cache, tmp_path / "heard", *linked, "--text-stream", HEARD)
    assert code == 1
    assert f"{HEARD} was made from another transcript than align/textgrid" in said
    plain = ("--head", "coattention", "--granularity", "word", "--layer", "-1", "--text-stream", HEARD)
    code, said = train(cache, tmp_path / "plain", *plain)
    assert code == 0, said
    code, said = train(cache, tmp_path / "placed", *plain, "--set", "positions=word")
    assert code == 1
    assert "choose the text of the aligned transcript (--text-stream)" in said


def test_a_text_that_changes_makes_its_own_stream_stale_alone(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    only = {"speech_model": "none", "aligner": "none", "textgrids": None}
    run(corpus, path, **only)
    run(corpus, path, **only, text_column="asr_text")
    edited = read_manifest(corpus)
    edited.table.loc[0, "asr_text"] = "SOMETHING ELSE"
    write_manifest(edited, corpus.with_name("edited.csv"))
    assert not run(corpus.with_name("edited.csv"), path, **only).notes
    (note,) = run(corpus.with_name("edited.csv"), path, **only, text_column="asr_text").notes
    assert f"{HEARD}: 1 utterances have changed" in note
    redone = run(corpus.with_name("edited.csv"), path, **only, text_column="asr_text", refresh=True)
    assert redone.added == {HEARD: 1}


def test_a_column_that_holds_no_text_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no column 'asr'; it has .*asr_text"):
        run(corpus, tmp_path, text_column="asr")
    with pytest.raises(ManifestError, match="--text-column audio: expected a column of text"):
        run(corpus, tmp_path, text_column="audio")
    assert not list(tmp_path.iterdir())
    table = read_manifest(corpus).table.assign(silent="")
    write_manifest(Manifest(table, corpus.parent), corpus.with_name("silent.csv"))
    (note,) = run(
        corpus.with_name("silent.csv"), tmp_path, speech_model="none", aligner="none", textgrids=None,
        text_column="silent",
    ).notes  # fmt: skip
    assert note == "the manifest has no text in column 'silent': no text stream was made"
