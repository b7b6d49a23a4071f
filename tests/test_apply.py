"""A stored head, asked again: it says what it said in its test, of these states and of no others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_cache import LABELS, POOLED, TEXT, make_rows, num_words, toy_states, write_cache, write_stream

from mmser.cache import Cache
from mmser.errors import MmserError, ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Batch, Sequence
from mmser.heads.store import load_head
from mmser.train.apply import apply
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

SHORT = Training(epochs=3, batch_size=16)
PROBE = Experiment(head="speech-probe", settings={"hidden": 4}, learning_rate=0.03, training=SHORT)
COATTENTION = replace(PROBE, head="coattention", settings={"width": 4, "heads": 2})
SHARES = [f"p_{label}" for label in LABELS]


def rated_rows() -> pd.DataFrame:
    rows = make_rows()
    return rows.assign(
        arousal=[float(len(uid)) + i % 3 for i, uid in enumerate(rows["utterance_id"])],
        valence=[float(num_words(uid)) for uid in rows["utterance_id"]],
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(write_cache(tmp_path_factory.mktemp("apply") / "toy", rated_rows()))


@pytest.fixture(scope="module")
def coattention(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apply-runs") / "coattention"
    return train_head(cache.path, COATTENTION, folder).folder / "heads" / "coattention-fold0-seed0"


EXPERIMENTS = {
    "speech probe": PROBE,
    "utterances, one layer": replace(PROBE, granularity="utterance", layer="4"),
    "frames and words": replace(PROBE, granularity="frame,word", settings={"hidden": 4, "pooling": "mean+std"}),
    "co-attention": COATTENTION,
    "co-attention, one layer": replace(COATTENTION, layer="9", text_layer="1"),
    "co-attention, layers in another order": replace(COATTENTION, layer="9,0"),
    "text probe": replace(PROBE, head="text-probe", settings={}, text_layer="-2"),
    "co-attention, text mixed": replace(COATTENTION, layer="9", text_layer="mix"),
    "both mixed, in another order": replace(COATTENTION, layer="9,0", text_layer="2,1"),
    "text network, mixed": replace(PROBE, head="text-network", settings={"hidden": 4}, text_layer="mix"),
    "layers tried": replace(PROBE, try_layers=("0", "9")),
    "ratings": replace(PROBE, task="dimensional", dimensions=("arousal", "valence")),
    "classes and ratings": replace(COATTENTION, task="both", dimensions=("valence",)),
    "normalised per speaker": replace(PROBE, normalise="speaker"),
    "not normalised": replace(PROBE, normalise="none"),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_stored_head_says_what_it_said_in_its_test(cache: Cache, tmp_path: Path, experiment: Experiment) -> None:
    train_head(cache.path, experiment, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    tested = pd.read_csv(tmp_path / "run" / "results.csv")
    checked = 0
    for folder in sorted((tmp_path / "run" / "heads").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        own = table[(table["fold"] == config["fold"]) & (table["seed"] == config["seed"])]
        layers = tested.set_index("fold").loc[config["fold"], "layer"]
        if experiment.try_layers and int(layers) not in config["speech_layers_of_encoder"]:
            continue  # dev chose another
        said = apply(folder, cache, own["utterance_id"].tolist())
        if experiment.has_classes:
            assert said.labels == LABELS
            np.testing.assert_allclose(said.posteriors, own[SHARES], atol=1e-5)
        if experiment.has_ratings:
            assert said.ratings is not None
            for k, name in enumerate(said.dimensions):
                np.testing.assert_allclose(said.ratings[:, k], own[f"prediction_{name}"], rtol=1e-5)
        else:
            assert said.ratings is None
        checked += len(own)
    assert checked == 54


def test_without_ids_all_that_can_be_seen_are_asked_about(tmp_path: Path, coattention: Path) -> None:
    lacking, wordless = "s1_angry_0", "s2_sad_1"
    cache = Cache(write_cache(tmp_path / "toy", absent={TEXT: [lacking]}, wordless=[wordless]))
    said = apply(coattention, cache)
    assert said.left_out == {lacking: f"not in stream {TEXT}", wordless: "no token states"}
    assert said.ids == [uid for uid in make_rows()["utterance_id"] if uid not in (lacking, wordless)]
    named = apply(coattention, cache, [lacking, said.ids[7]])  # by what there is of it
    assert not named.left_out
    np.testing.assert_allclose(named.posteriors[1], said.posteriors[7], atol=1e-6)
    write_cache(tmp_path / "empty", absent={TEXT: [lacking], POOLED: [lacking]})
    with pytest.raises(ProtocolError, match=f"nothing is known of 1 utterances: '{lacking}' is not in stream"):
        apply(coattention, Cache(tmp_path / "empty"), [lacking])


# attention


def alone(uid: str) -> Batch:
    """An utterance as a batch of its own, by hand."""
    speech = torch.from_numpy(toy_states(uid, "word").astype(np.float32))[None]
    text = torch.from_numpy(toy_states(uid, "token")[-1:, 1:-1].astype(np.float32))
    masks = (torch.ones(1, own.shape[-2], dtype=torch.bool) for own in (speech, text))
    return Batch({"word": Sequence(speech, next(masks))}, Sequence(text, next(masks)), None)


def test_attention_is_that_of_each_utterance_alone(cache: Cache, coattention: Path) -> None:
    said = apply(coattention, cache, attention=True)
    head, _ = load_head(coattention)
    assert said.attention is not None
    assert len(said.attention) == 54
    for i, (uid, weights) in enumerate(zip(said.ids, said.attention, strict=True)):
        words = num_words(uid)
        assert weights["word.0.speech_to_text"].shape == (2, words, words)
        with torch.no_grad():
            outputs, expected = head.forward_with_attention(alone(uid))
        np.testing.assert_allclose(said.posteriors[i], outputs.softmax(-1)[0], atol=1e-6)
        assert weights.keys() == expected.keys()
        for name, own in weights.items():
            np.testing.assert_allclose(own.sum(-1), 1, atol=1e-6)
            np.testing.assert_allclose(own, expected[name][0], atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in HEADS if HEADS[kind].shows_attention])
def test_every_head_with_attention_tells_it_of_each_utterance_alone(cache: Cache, tmp_path: Path, kind: str) -> None:
    asked = replace(COATTENTION, head=kind, layer="9", folds="split", test_split="Test1")
    folder = train_head(cache.path, asked, tmp_path / "run").folder / "heads" / f"{kind}-fold0-seed0"
    said = apply(folder, cache, attention=True)
    head, _ = load_head(folder)
    assert said.attention is not None
    for uid, weights in list(zip(said.ids, said.attention, strict=True))[::7]:
        batch = alone(uid)
        speech = batch.speech["word"]._replace(values=batch.speech["word"].values[:, -1])  # layer 9 alone
        with torch.no_grad():
            _, expected = head.forward_with_attention(batch._replace(speech={"word": speech}))
        assert weights.keys() == expected.keys()
        for name, own in weights.items():
            np.testing.assert_allclose(own, expected[name][0], atol=1e-6)


def test_a_head_without_attention_shows_none(cache: Cache, tmp_path: Path) -> None:
    train_head(cache.path, replace(PROBE, folds="split", test_split="Test1"), tmp_path / "run")
    assert apply(tmp_path / "run" / "heads" / "speech-probe-fold0-seed0", cache, attention=True).attention is None


# other states


def test_states_of_another_recipe_are_refused(tmp_path: Path, coattention: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    change(cache / POOLED / "stream.json", recipe={"layers": [0, 4, 9], "weights_sha256": "another"})
    with pytest.raises(ProtocolError, match="another recipe: weights_sha256 was None, now 'another'"):
        apply(coattention, Cache(cache))


def test_streams_are_found_by_name_where_there_are_several(cache: Cache, tmp_path: Path, coattention: Path) -> None:
    other = write_cache(tmp_path / "toy")
    ids = make_rows()["utterance_id"].tolist()
    write_stream(other, POOLED + "2", ("word",), ids, edit=lambda _uid, _granularity, states: states * 0)
    np.testing.assert_array_equal(apply(coattention, Cache(other)).posteriors, apply(coattention, cache).posteriors)


def test_a_run_of_an_older_mmser_has_no_recipes_to_compare(
    cache: Cache, tmp_path: Path, coattention: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(coattention, tmp_path / "old", streams=None)
    np.testing.assert_array_equal(apply(folder, cache).posteriors, apply(coattention, cache).posteriors)
    monkeypatch.setattr("small_cache.DIM", 7)
    wide = write_cache(tmp_path / "wide")
    with pytest.raises(ProtocolError, match="word states are 7 numbers wide; the head was trained on states of 6"):
        apply(folder, Cache(wide))


def test_speakers_must_be_known_where_speech_is_normalised_by_them(cache: Cache, tmp_path: Path) -> None:
    train_head(cache.path, replace(PROBE, normalise="speaker", folds="split", test_split="Test1"), tmp_path / "run")
    nameless = write_cache(tmp_path / "toy", make_rows().drop(columns="speaker"))
    with pytest.raises(ProtocolError, match="54 utterances have no speaker"):
        apply(tmp_path / "run" / "heads" / "speech-probe-fold0-seed0", Cache(nameless))


# files from anywhere


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": "angry"}, "labels is 'angry'; expected a list"),
        ({"labels": ["angry"]}, "1 labels and 0 dimensions for 3 outputs"),
        ({"speech_layers_of_encoder": [0]}, "1 speech layers for a head of 3; the file is damaged"),
        ({"text_layers_of_encoder": [1, 2]}, "2 text layers for a head of 1; the file is damaged"),
        ({"text_layers_of_encoder": None}, "text_layers_of_encoder is None; expected a list"),
        ({"normalise": "loudly"}, "normalise is 'loudly'; expected one of global, speaker, none"),
        ({"streams": ["text/toy"]}, "expected the recipe of each"),
        (
            {"streams": {"text/toy": {"recipe": {}, "provenance": "x"}}},
            "provenance of a stream is 'x'; expected an obj",
        ),
        ({"features_of": ["text-probe"]}, "last layer of a late fusion"),
    ],
)
def test_damaged_configs_are_refused(
    cache: Cache, tmp_path: Path, coattention: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(MmserError, match=message):
        apply(copied(coattention, tmp_path / "head", **changed), cache)


def change(path: Path, **changes: Any) -> None:
    """Replace some of the values of a JSON object; None deletes."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a head with another config."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    change(to / "config.json", **changes)
    return to
