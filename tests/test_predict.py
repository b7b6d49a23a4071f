"""New recordings: what a head says of them is what it says by way of the cache; other states are refused."""

import json
import os
import re
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_corpus import IDS, TEXT, make_corpus, mmser, run, write_noise
from small_encoders import save_speech
from small_recognisers import save_ctc

from mmser.errors import ManifestError, MmserError, ProtocolError
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.predict import predict, recordings
from mmser.predict.ensemble import open_ensemble
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head
from mmser.transcribe import transcribe

SHORT = Training(epochs=2, batch_size=4)
PROBE = Experiment(head="speech-probe", granularity="utterance", layer="2", learning_rate=0.03, training=SHORT)
COATTENTION = replace(
    PROBE, head="coattention", granularity="word", layer="mix", settings={"width": 4, "heads": 2}, seeds=2
)
SHARES = ["p_glad", "p_grim"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noises of three speakers, labelled and rated."""
    path = make_corpus(tmp_path_factory.mktemp("corpus"))
    manifest = read_manifest(path)
    table = manifest.table.assign(
        speaker=[f"s{i // 2}" for i in range(6)],
        label=["glad", "grim"] * 3,
        valence=[1.0, 4.0, 2.0, 5.0, 3.0, 3.5],
    )
    write_manifest(Manifest(table, path.parent), path)
    return path


@pytest.fixture(scope="module")
def cache(corpus: Path) -> Path:
    run(corpus, corpus.parent / "cache", keep=("frame", "word", "utterance"), mel=True)
    return corpus.parent / "cache"


@pytest.fixture(scope="module")
def kept(corpus: Path) -> Path:
    """A folder that keeps the states of recordings, as ``--cache`` does."""
    return corpus.parent / "kept"


@pytest.fixture(scope="module")
def probe(cache: Path) -> Path:
    return train_head(cache, PROBE, cache.parent / "probe").folder


@pytest.fixture(scope="module")
def coattention(cache: Path) -> Path:
    return train_head(cache, COATTENTION, cache.parent / "coattention").folder


def predicted(folder: Path, fold: str) -> pd.DataFrame:
    """What the run said in its test of a fold: the mean over seeds and members, by utterance."""
    table = pd.read_csv(folder / "predictions.csv")
    numbers = [name for name in table.columns if name.startswith(("p_", "prediction_"))]
    return table[table["fold"] == fold].groupby("utterance_id")[numbers].mean()


EXPERIMENTS = {
    "utterances": PROBE,
    "co-attention": COATTENTION,
    "one layer, with words' positions": replace(
        COATTENTION, layer="1", seeds=1, settings={**COATTENTION.settings, "positions": "word"}
    ),
    "frames": replace(PROBE, granularity="frame", layer="-1", settings={"pooling": "mean+std"}),
    "frames and words": replace(COATTENTION, granularity="frame,word", seeds=1),
    "text": replace(PROBE, head="text-probe", task="both", dimensions=("valence",)),
    "log-mel": replace(PROBE, head="cnn14", settings={"width_multiplier": 1 / 32}, training=replace(SHORT, epochs=1)),
    "normalised per speaker": replace(PROBE, normalise="speaker"),
    "layers tried": replace(PROBE, try_layers=("0", "3"), learning_rate=(0.1, 0.001)),
    "late fusion": replace(PROBE, head="late-fusion", granularity="word"),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_corpus_own_recordings_get_the_predictions_of_its_test(
    corpus: Path, cache: Path, kept: Path, tmp_path: Path, experiment: Experiment
) -> None:
    folder = train_head(cache, experiment, tmp_path / "run").folder
    aligned = {"textgrids": corpus.parent / "textgrid"} if "word" in experiment.granularity else {}
    found = predict(folder, read_manifest(corpus), fold="s2", cache=kept, device="cpu", **aligned)
    assert found["utterance_id"].tolist() == IDS
    expected = predicted(folder, "s2")
    assert len(expected) == 2
    own = found.set_index("utterance_id").loc[expected.index, expected.columns]
    np.testing.assert_allclose(own, expected, atol=1e-5)


# the command


def test_a_folder_becomes_a_table_and_what_fails_is_named(
    probe: Path, corpus: Path, kept: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    shutil.copytree(corpus.parent / "wav", folder / "day1")
    (folder / "broken.wav").write_bytes(b"no recording")
    (folder / "notes.md").write_text("not a recording either")
    result = mmser("predict", probe, folder, "--device", "cpu")
    assert result.exit_code == 3
    table = pd.read_csv(StringIO(result.stdout))
    assert table["utterance_id"].tolist() == [f"day1__{uid}" for uid in IDS]
    expected = predict(probe, read_manifest(corpus), cache=kept, device="cpu")
    np.testing.assert_allclose(table[SHARES], expected[SHARES], atol=1e-5)
    assert table["prediction"].tolist() == [name[2:] for name in table[SHARES].idxmax(axis=1)]
    assert "broken: audio" in result.stderr
    assert "1 of 7 recordings could not be processed" in result.stderr


def test_where_nothing_can_be_processed_the_table_is_empty(
    probe: Path, coattention: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no recording")
    textgrids = ("--textgrids", corpus.parent / "textgrid", "--text", TEXT)
    for head, others in ((probe, ()), (coattention, textgrids)):
        result = mmser("predict", head, tmp_path / "broken.wav", "--device", "cpu", *others)
        assert (result.exit_code, result.stdout) == (3, f"utterance_id,prediction,{','.join(SHARES)}\n")
        assert "broken: audio" in result.stderr


def test_json_and_files(coattention: Path, corpus: Path, kept: Path, tmp_path: Path) -> None:
    head = coattention / "heads" / "coattention-fold1-seed0"
    asked = ("predict", head, corpus.parent / "wav" / "u4.wav", "--textgrids", corpus.parent / "textgrid")
    asked = (*asked, "--device", "cpu", "--cache", tmp_path / "states")
    told = mmser(*asked, "--text", TEXT + " yes" * 4, "--out", tmp_path / "told.json")
    assert (told.exit_code, told.stdout) == (0, f"{tmp_path / 'told.json'}: 1 recordings\n")
    (tmp_path / "u4.csv").write_text(f'utterance_id,text\nu4,"{TEXT}{" yes" * 4}"\n')
    found = mmser(*asked, "--text-file", tmp_path / "u4.csv", "--json")
    value = json.loads(found.stdout)
    assert {**value, "notes": []} == {**json.loads((tmp_path / "told.json").read_text()), "notes": []}
    assert value["heads"] == [str(head)]
    assert (value["failures"], value["predictions"][0]["utterance_id"]) == ([], "u4")
    # alone it is encoded in another batch than with the others: float16 may round some states the other way
    manifest = read_manifest(corpus)
    every = predict(head, manifest, cache=kept, device="cpu", textgrids=corpus.parent / "textgrid")
    shares = [value["predictions"][0][name] for name in SHARES]
    np.testing.assert_allclose(shares, every.set_index("utterance_id").loc["u4", SHARES].astype(float), atol=1e-3)
    other = json.loads(mmser(*asked, "--text", TEXT, "--json").stdout)["predictions"][0]
    assert not np.allclose([other[name] for name in SHARES], shares, atol=1e-5)  # the words are read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "reads the words that are said, and no text is given: give --text"),
        (("--text", TEXT), "the aligner 'textgrid' needs the folder that holds"),
        (("--text", TEXT, "--text-file", "texts.csv"), "leave one of them out"),
        (("--manifest", "corpus.csv"), "leave AUDIO and the others out"),
        (("--fold", "s9"), "no head of fold 's9'; its folds are s0, s1, s2"),
        (("--text", TEXT, "--out", "no/such/folder.csv"), "its folder is not there"),
        (("--text", TEXT, "--out", "table.xlsx"), "expected a name in .csv or .json"),
        (("--text-file", "texts.doc"), r"expected texts as .txt"),
    ],
)
def test_what_is_missing_is_said_before_any_work(
    coattention: Path, corpus: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = mmser("predict", coattention, corpus.parent / "wav" / "u1.wav", *arguments)
    assert result.exit_code == 1
    assert re.search(message, result.stderr)


# the same encoders


def test_an_encoder_of_a_local_folder_is_asked_for_and_its_weights_are_compared(corpus: Path, tmp_path: Path) -> None:
    encoder = save_speech(tmp_path / "mine", "wav2vec2-group")
    run(corpus, tmp_path / "cache", speech_model=str(encoder), text_model="none", aligner="none", textgrids=None)
    folder = train_head(tmp_path / "cache", PROBE, tmp_path / "run").folder
    manifest = read_manifest(corpus)
    with pytest.raises(ProtocolError, match=r"in a local folder called 'mine'; .* give --speech-model FOLDER"):
        predict(folder, manifest, device="cpu")
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(encoder, moved)
    found = predict(folder, manifest, fold="s1", speech_model=str(moved), device="cpu").set_index("utterance_id")
    expected = predicted(folder, "s1")
    np.testing.assert_allclose(found.loc[expected.index, SHARES], expected, atol=1e-5)
    other = save_speech(tmp_path / "other" / "mine", "wav2vec2-group", initializer_range=0.03)
    with pytest.raises(ProtocolError, match=r"another recipe: weights_sha256 was '\w+', now '\w+'\. Extract with"):
        predict(folder, manifest, speech_model=str(other), device="cpu", cache=tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*.h5"))  # found out before any work


def test_a_kept_recording_that_changed_is_extracted_anew(probe: Path, tmp_path: Path) -> None:
    recording = write_noise(tmp_path / "a.wav", 0.5, 1)
    before = predict(probe, [recording], cache=tmp_path / "kept", device="cpu")
    write_noise(recording, 0.7, 2)
    after = predict(probe, [recording], cache=tmp_path / "kept", device="cpu")
    assert not np.allclose(before[SHARES], after[SHARES], atol=1e-4)
    np.testing.assert_allclose(after[SHARES], predict(probe, [recording], device="cpu")[SHARES], atol=1e-6)


def test_a_kept_recording_that_is_broken_now_has_no_prediction(probe: Path, tmp_path: Path) -> None:
    """What was made of it before is there still, and is not what was asked about."""
    one, other = (write_noise(tmp_path / name, 0.5, seed) for seed, name in enumerate(("a.wav", "b.wav")))
    predict(probe, [one, other], cache=tmp_path / "kept", device="cpu")
    one.write_bytes(b"junk")
    after = predict(probe, [one, other], cache=tmp_path / "kept", device="cpu")
    assert after["utterance_id"].tolist() == ["b"]


def test_what_recipes_decide_cannot_be_given(probe: Path, tmp_path: Path) -> None:
    with pytest.raises(MmserError, match="pooling is decided by the head's recipes"):
        predict(probe, [write_noise(tmp_path / "a.wav", 0.5, 1)], pooling="max")


# recognised text


def test_recordings_without_text_are_recognised(cache: Path, corpus: Path, tmp_path: Path) -> None:
    recogniser = save_ctc(tmp_path / "ctc")
    folder = train_head(cache, replace(PROBE, head="text-probe"), tmp_path / "run").folder
    manifest = recordings([corpus.parent / "wav"])
    heard = transcribe(manifest.utterances(), str(recogniser), device="cpu")
    assert all(text.strip() for text in heard.texts.values())
    given = {uid: text for uid, text in heard.texts.items() if uid != "u3"} | {"u3": TEXT}
    expected = predict(folder, recordings([corpus.parent / "wav"], text=given), device="cpu")
    some = recordings([corpus.parent / "wav"], text={"u3": TEXT})  # what is there is left as it is
    found = predict(folder, some, transcribe=str(recogniser), device="cpu")
    np.testing.assert_allclose(found[SHARES], expected[SHARES], atol=1e-6)


# heads


def test_the_mean_of_a_run_is_that_of_its_heads(coattention: Path) -> None:
    assert len(open_ensemble(coattention).heads) == 6
    assert [head.path.name for head in open_ensemble(coattention, fold="s1").heads] == [
        "coattention-fold1-seed0",
        "coattention-fold1-seed1",
    ]


def test_runs_that_cannot_be_asked_are_refused(probe: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"--fold s1: .* is one head"):
        open_ensemble(probe / "heads" / "speech-probe-fold0-seed0", fold="s1")
    damaged = shutil.copytree(probe, tmp_path / "damaged")
    (damaged / "config.json").write_text('{"experiment": []}')
    with pytest.raises(ProtocolError, match=r"damaged/config\.json: it lacks 'cache'; delete it and run"):
        open_ensemble(damaged)
    shutil.rmtree(damaged)
    fused = replace(PROBE, head="late-fusion", granularity="word", fusion="concat")
    with pytest.raises(ProtocolError, match="fuses its heads by concat"):
        open_ensemble(train_head(cache, fused, tmp_path / "fused").folder)
    copied = tmp_path / "copied"
    shutil.copytree(probe, copied)
    for path in copied.glob("heads/*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "streams": {}}))
    with pytest.raises(ProtocolError, match="an older mmser trained it"):
        predict(copied, [tmp_path / "a.wav"])
    with pytest.raises(ProtocolError, match=r"holds 2 runs; name one of them, such as .*copied \(mmser runs list"):
        open_ensemble(tmp_path)
    (copied / "summary.json").unlink()
    with pytest.raises(ProtocolError, match="is not finished"):
        open_ensemble(copied)


def test_one_speaker_is_supposed_where_nobody_says(cache: Path, corpus: Path, tmp_path: Path) -> None:
    folder = train_head(cache, replace(PROBE, normalise="speaker"), tmp_path / "run").folder
    wav = corpus.parent / "wav"
    result = mmser("predict", folder, wav / "u4.wav", wav / "u5.wav", "--fold", "s2", "--device", "cpu")
    assert "All recordings are taken to be of one speaker" in result.stderr
    expected = predicted(folder, "s2")  # as they are
    np.testing.assert_allclose(pd.read_csv(StringIO(result.stdout))[SHARES], expected, atol=1e-3)


def test_the_only_recording_of_a_speaker_gets_no_answer(cache: Path, corpus: Path, tmp_path: Path) -> None:
    """Standardised by itself it is 0, and so would every other be."""
    folder = train_head(cache, replace(PROBE, normalise="speaker"), tmp_path / "run").folder
    for uid in ("u1", "u5"):
        result = mmser("predict", folder, corpus.parent / "wav" / f"{uid}.wav", "--device", "cpu")
        assert (result.exit_code, result.stdout) == (3, f"utterance_id,prediction,{','.join(SHARES)}\n")
        assert f"{uid}: no other recording of speaker 'speaker' has utterance states" in result.stderr
    table = read_manifest(corpus).table[1:]  # of the first speaker one is left
    write_manifest(Manifest(table, corpus.parent), corpus.parent / "less.csv")
    result = mmser("predict", folder, "--manifest", corpus.parent / "less.csv", "--device", "cpu", "--fold", "s2")
    assert result.exit_code == 3
    assert "u1: no other recording of speaker 's0' has utterance states" in result.stderr
    told = pd.read_csv(StringIO(result.stdout)).set_index("utterance_id")
    assert told.index.tolist() == IDS[2:]
    expected = predicted(folder, "s2")
    np.testing.assert_allclose(told.loc[expected.index, SHARES], expected, atol=1e-3)


def test_one_recording_of_several_states_is_answered_unless_they_are_pooled_first(
    cache: Path, corpus: Path, tmp_path: Path
) -> None:
    """Mean 0 and deviation 1 are those of every recording that is standardised by itself."""
    wavs = [corpus.parent / "wav" / f"{uid}.wav" for uid in ("u1", "u5")]
    pooling = replace(EXPERIMENTS["frames"], normalise="speaker")
    folder = train_head(cache, pooling, tmp_path / "pooling").folder
    assert [len(predict(folder, [wav], device="cpu")) for wav in wavs] == [0, 0]
    assert len(predict(folder, wavs, device="cpu")) == 2
    attending = replace(pooling, head="coattention", settings={"width": 4, "heads": 2}, learning_rate=1e-3)
    folder = train_head(cache, attending, tmp_path / "attending").folder
    one, other = (predict(folder, [wav], text=TEXT, device="cpu")[SHARES].to_numpy(float) for wav in wavs)
    assert not np.allclose(one, other, atol=1e-4)


def test_heads_that_never_trained_are_counted(cache: Path, corpus: Path, kept: Path, tmp_path: Path) -> None:
    folder = train_head(cache, replace(PROBE, learning_rate=1e30), tmp_path / "run").folder
    one = folder / "heads" / "speech-probe-fold0-seed0" / "config.json"
    one.write_text(json.dumps({**json.loads(one.read_text()), "best_epoch": 1}))
    result = mmser("predict", folder, corpus.parent / "wav" / "u1.wav", "--device", "cpu")
    assert result.exit_code == 0
    assert "Note: 2 of 3 heads never trained: they diverged before their first score" in result.stderr
    one.write_text(json.dumps({**json.loads(one.read_text()), "best_epoch": "1"}))
    with pytest.raises(MmserError, match=r"config\.json: best_epoch is '1'; expected a whole number"):
        open_ensemble(folder)


def test_a_recording_without_a_speaker_is_a_failure_where_others_have_one(
    cache: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = train_head(cache, replace(PROBE, normalise="speaker"), tmp_path / "run").folder
    table = read_manifest(corpus).table
    table.loc[table["utterance_id"] == "u1", "speaker"] = ""
    table.loc[table["utterance_id"] == "u0", "speaker"] = "s1"
    write_manifest(Manifest(table, corpus.parent), corpus.parent / "blank.csv")
    result = mmser("predict", folder, "--manifest", corpus.parent / "blank.csv", "--device", "cpu")
    assert result.exit_code == 3
    assert "u1: no speaker is named" in result.stderr
    assert "1 of 6 recordings could not be processed" in result.stderr
    assert pd.read_csv(StringIO(result.stdout))["utterance_id"].tolist() == [uid for uid in IDS if uid != "u1"]


# recordings


ODD = {b"caf\xe9.wav": "caf\\udce9", b"a\nb.wav": "a\\nb", b"~c.wav": "~c", b"d .wav": "d "}
"""Names that no id can have, and what is printed of them."""


def test_files_whose_names_can_be_no_id_are_failures(probe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    sound = write_noise(folder / "ok.wav", 0.5, 1)
    for name in ODD:
        shutil.copy(sound, os.path.join(os.fsencode(folder), name))
    result = mmser("predict", probe, folder, "--device", "cpu")
    assert result.exit_code == 3
    assert pd.read_csv(StringIO(result.stdout))["utterance_id"].tolist() == ["ok"]
    for shown in ODD.values():
        assert f"\n{shown}: " in f"\n{result.stderr}"
    assert "its name is not in UTF-8, in which tables are written; rename it" in result.stderr
    assert "4 of 5 recordings could not be processed" in result.stderr
    alone = mmser("predict", probe, folder / "a\nb.wav", "--json")
    told = json.loads(alone.stdout)
    assert (alone.exit_code, told["predictions"], [one["utterance_id"] for one in told["failures"]]) == (
        3,
        [],
        ["a\\nb"],
    )
    with pytest.raises(ManifestError):
        recordings([folder])


def test_ids_are_paths_below_what_was_named(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/x.flac", "a/b/Y.WAV", "a/._x.wav", "c/z.opus", "c/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(recordings([tmp_path / "a"]).ids) == {"x.wav", "x.flac", "b__Y"}
    assert recordings([tmp_path / "a" / "b" / "Y.WAV"]).ids == ["Y"]
    files = [tmp_path / "a" / "x.wav", tmp_path / "c" / "z.opus", tmp_path / "a" / ".." / "a" / "x.wav"]
    assert recordings(files, text={"a__x": "hi"}).column("text").tolist() == ["hi", ""]
    with pytest.raises(ManifestError, match="no such recording; there are a__x, c__z"):
        recordings(files, text={"x": "hi"})
    with pytest.raises(ManifestError, match="one text was given for 2 recordings"):
        recordings(files, text="hi")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds no recording"):
        recordings([tmp_path / "empty"])
    with pytest.raises(ManifestError, match="no recording was given"):
        recordings([])
