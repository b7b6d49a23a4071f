"""From a cache to a table: the right rows of the right utterances, and a reason for every one that is left out."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_cache import (
    DIM,
    FRAMES,
    LAYERS,
    POOLED,
    TEXT,
    TEXT_LAYERS,
    edit_manifest,
    make_rows,
    num_words,
    toy_states,
    write_cache,
    write_stream,
)

from mmser.cache import Cache, StreamWriter
from mmser.errors import CacheError, ManifestError, ProtocolError
from mmser.manifest import read_manifest
from mmser.train import features as features_module
from mmser.train.choose import Chosen, choose
from mmser.train.features import load_table, open_sources, resident_bytes
from mmser.train.layers import TEXT_OPTION, layers_of
from mmser.train.options import Experiment
from mmser.train.packed import Packed
from mmser.train.protocol import HoldOut, folds_from_split, make_folds
from mmser.train.required import without_required

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(write_cache(tmp_path_factory.mktemp("features") / "toy"))


def opened(cache: Cache, *granularities: str, text: bool = False, speech: str | None = None, named: str | None = None):
    return open_sources(cache, granularities, text=text, speech_stream=speech, text_stream=named)


def of_utterance(packed: Packed, row: int) -> np.ndarray:
    return packed.values[:, packed.offsets[row] : packed.offsets[row + 1]].numpy()


def test_a_table_is_a_gather_by_hand_in_the_order_asked_for(cache: Cache) -> None:
    ids = make_rows()["utterance_id"].tolist()[::-1]
    sources = opened(cache, "word", "frame", "utterance", text=True)
    assert len(sources.speech["word"].shards) > 2
    assert ids not in (sources.speech["word"].utterance_ids, sources.text.utterance_ids)
    table = load_table(sources, ids, [9, 0], [1], CPU)
    assert table.ids == tuple(ids)
    for row, uid in enumerate(ids):
        for granularity, packed in table.speech.items():
            np.testing.assert_array_equal(of_utterance(packed, row), toy_states(uid, granularity)[[2, 0]])
        np.testing.assert_array_equal(of_utterance(table.text, row), toy_states(uid, "token")[[0], 1:-1])


@pytest.mark.parametrize("text_layers", [[1], [2, 1]])
def test_what_a_table_takes_is_known_before_it_is_read(cache: Cache, text_layers: list[int]) -> None:
    ids, sources, num = make_rows()["utterance_id"], opened(cache, "word", "utterance", text=True), len(text_layers)
    table = load_table(sources, ids, [9, 0], text_layers, CPU)
    held = sum(stream.values.nbytes for stream in table.streams.values())
    special = sources.text.packed("token", "start").values < 0  # type: ignore[union-attr]
    of_special = int(special.sum()) * num * table.text.values[0, 0].nbytes  # type: ignore[union-attr]
    assert resident_bytes(sources, ids, 2, num) == held + of_special
    means = table.means()
    beside = sum(stream.values.nbytes for stream in (means.speech["word"], means.text))  # type: ignore[union-attr]
    assert means.speech["utterance"] is table.speech["utterance"]
    assert resident_bytes(sources, ids, 2, num, ["utterance", "word", "token"]) == held + of_special + beside
    speech = sum(stream.values.nbytes for stream in table.speech.values())
    assert resident_bytes(sources, ids, 2, num, twice=True) == held + of_special + speech
    first = of_utterance(table.speech["word"], 0)[0]
    assert resident_bytes(opened(cache, "word"), ids[:1], 1, 0) == first.nbytes


@pytest.mark.parametrize(
    ("asked", "rows"), [("-1", [1]), ("-2", [0]), ("1", [0]), ("2", [1]), ("mix", [0, 1]), ("2,1", [1, 0])]
)
def test_text_layers_from_either_end(cache: Cache, asked: str, rows: list[int]) -> None:
    uid, sources = make_rows()["utterance_id"][5], opened(cache, text=True)
    assert sources.text is not None
    table = load_table(sources, [uid], [], layers_of(sources.text, asked, TEXT_OPTION), CPU)
    np.testing.assert_array_equal(table.text.values.numpy(), toy_states(uid, "token")[rows, 1:-1])


def test_a_text_layer_that_is_not_stored(cache: Cache) -> None:
    for layer in (0, -3):
        with pytest.raises(ProtocolError, match=f"--text-layer {layer}: stored layers are 1, 2"):
            layers_of(opened(cache, text=True).text, str(layer), TEXT_OPTION)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "layers"), [("mix", LAYERS), ("-1", [9]), ("-3", [0]), ("4", [4]), ("0", [0]), ("9,4", [9, 4])]
)
def test_speech_layers(cache: Cache, asked: str, layers: list[int]) -> None:
    assert layers_of(opened(cache, "word").speech["word"], asked) == layers


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("1", "--layer 1: stored layers are 0, 4, 9"),
        ("-4", "--layer -4: stored layers are 0, 4, 9"),
        ("last", "--layer last: expected a number, several (4,8,12), or mix"),
        ("4.0", "--layer 4.0: expected a number, several (4,8,12), or mix"),
        ("4,9,", "--layer 4,9,: expected a number, several"),
        ("4,5", "--layer 4,5: stored layers are 0, 4, 9"),
        ("9,-1", "--layer 9,-1: a layer is named twice"),
    ],
)
def test_speech_layers_that_are_none(cache: Cache, asked: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(message)):
        layers_of(opened(cache, "word").speech["word"], asked)


def test_a_mix_takes_several_layers(tmp_path: Path) -> None:
    with StreamWriter(tmp_path, "pooled/one@none", {"layers": [12]}, {}) as writer:
        stream = writer.stream
    with pytest.raises(ProtocolError, match=r"--layer mix: only layer 12 is stored; give --layer 12, .* --layers"):
        layers_of(stream, "mix")
    with pytest.raises(ProtocolError, match=r"--text-layer mix: .*; give --text-layer 12, .* --text-layers"):
        layers_of(stream, "mix", TEXT_OPTION)


@pytest.mark.parametrize(
    ("granularity", "options", "error", "message"),
    [
        (
            "phone",
            {},
            ProtocolError,
            f"no 'phone' states; {POOLED} holds utterance, word. Extract with --keep phone and an alignment (--align)",
        ),
        ("word", {"speech": "pooled/other@hand"}, CacheError, f"no stream 'pooled/other@hand'; there are: {FRAMES}"),
        ("word", {"speech": FRAMES}, ProtocolError, f"--speech-stream {FRAMES}: word states are read from {POOLED}"),
        ("frame", {"speech": POOLED}, ProtocolError, f"--speech-stream {POOLED}: frame states are read from {FRAMES}"),
        ("word", {"text": True, "named": "text/bert"}, CacheError, "no stream 'text/bert'; there are:"),
    ],
)
def test_sources_that_are_not_there(
    cache: Cache, granularity: str, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        opened(cache, granularity, **options)


def test_a_cache_without_the_kind_of_stream_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"holds no pooled speech states \(streams: none\).*--speech-model"):
        opened(Cache(tmp_path), "word")
    write_stream(tmp_path, POOLED, ("utterance",), ["s1_sad_0"])
    with pytest.raises(ProtocolError, match=rf"holds no frame states \(streams: {POOLED}\).*--keep frame\)"):
        opened(Cache(tmp_path), "frame")
    with pytest.raises(ProtocolError, match=r"holds no token states .*--text-model\)"):
        opened(Cache(tmp_path), text=True)


def test_what_is_missing_of_a_granularity_that_needs_no_alignment(tmp_path: Path) -> None:
    write_stream(tmp_path, POOLED, ("word",), ["s1_sad_0"])
    with pytest.raises(ProtocolError, match=r"Extract with --keep utterance$"):
        opened(Cache(tmp_path), "utterance")


def test_of_several_streams_one_has_to_be_named(tmp_path: Path) -> None:
    for name in (POOLED, "pooled/toy@none"):
        write_stream(tmp_path, name, ("utterance",), ["s1_sad_0"])
    for name in (TEXT, "text/other"):
        with StreamWriter(tmp_path, name, {"layers": TEXT_LAYERS}, {}):
            pass
    cache = Cache(tmp_path)
    message = "several streams would do: pooled/toy@hand, pooled/toy@none; choose one with --speech-stream"
    with pytest.raises(ProtocolError, match=message):
        opened(cache, "utterance")
    assert opened(cache, "utterance", speech="pooled/toy@none").speech["utterance"].name == "pooled/toy@none"
    with pytest.raises(ProtocolError, match=f"text/other, {TEXT}; choose one with --text-stream"):
        opened(cache, text=True)
    assert opened(cache, text=True, named="text/other").text.name == "text/other"


# which utterances


def chosen(cache: Cache, experiment: Experiment, *granularities: str, text: bool = False) -> Chosen:
    manifest = read_manifest(cache.manifest_path)
    return choose(manifest, opened(cache, *granularities, text=text).without(manifest.ids), experiment)


@pytest.mark.parametrize(("granularity", "stream"), [("word", POOLED), ("token", TEXT)])
@pytest.mark.parametrize("layers", [[9], [0, 9]])
def test_states_that_are_no_numbers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granularity: str, stream: str, layers: list[int]
) -> None:
    """One of them would make all runs diverge."""
    monkeypatch.setattr(features_module, "_CHECKED", 7)

    def edit(uid: str, own: str, states: NDArray) -> NDArray:
        if (uid, own) == ("s3_sad_1", granularity):
            states[-1, -2:] = np.inf
        return states

    opened = Cache(write_cache(tmp_path / "toy", edit=edit))
    sources = open_sources(opened, ["word"], text=True, speech_stream=None, text_stream=None)
    with pytest.raises(CacheError, match=f"utterance 's3_sad_1': {stream} holds states that are no finite numbers"):
        load_table(sources, opened.manifest.ids, layers, [2], torch.device("cpu"))


def test_rows_are_in_the_order_of_the_manifest(cache: Cache) -> None:
    rows = make_rows()
    data = chosen(cache, Experiment(), "word")
    assert data.ids == rows["utterance_id"].tolist()
    assert [data.labels[number] for number in data.truth] == rows["label"].tolist()
    assert data.speakers == rows["speaker"].tolist()
    assert [fold.name for fold in data.folds] == ["s1", "s2", "s3", "s4", "s5", "s10"]
    assert data.left_out == {}
    assert data.notes == []


def test_who_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    rows = make_rows()
    rows.loc[[0, 1], "label"] = ""
    ids = rows["utterance_id"].tolist()
    cache = Cache(write_cache(tmp_path, rows, absent={POOLED: ids[1:5], TEXT: ids[5:7]}, wordless=ids[7:11]))
    assert chosen(cache, Experiment(), "word").left_out == {  # the second has neither label nor states
        "no label": 2,
        f"not in stream {POOLED}": 3,
        "no word states": 4,
    }
    assert chosen(cache, Experiment(), "word").ids == ids[5:7] + ids[11:]
    assert chosen(cache, Experiment(), text=True).left_out == {
        "no label": 2,
        f"not in stream {TEXT}": 2,
        "no token states": 4,  # they have special tokens alone
    }
    assert chosen(cache, Experiment(), "utterance").left_out == {"no label": 2, f"not in stream {POOLED}": 3}
    assert chosen(cache, Experiment(), "frame").left_out == {"no label": 2}
    both = chosen(cache, Experiment(), "word", "frame", text=True)
    assert both.ids == ids[11:]
    table = load_table(opened(cache, "word", text=True), both.ids, [9], [2], CPU)
    lengths = [num_words(uid) for uid in both.ids]
    assert table.speech["word"].lengths.tolist() == table.text.lengths.tolist() == lengths
    assert table.speech["word"].values.shape == (1, sum(lengths), DIM)


def test_only_the_classes_asked_for_in_that_order(cache: Cache) -> None:
    data = chosen(cache, Experiment(labels=("sad", "angry")), "word")
    assert data.labels == ("sad", "angry")
    assert data.left_out == {"label not asked for": 18}
    assert [("sad", "angry")[number] for number in data.truth] == [uid.split("_")[1] for uid in data.ids]


def test_a_class_of_which_nothing_can_be_used_is_no_class(tmp_path: Path) -> None:
    rows = make_rows()
    sad = rows["utterance_id"][rows["label"] == "sad"].tolist()
    cache = Cache(write_cache(tmp_path, rows, absent={POOLED: sad}))
    assert chosen(cache, Experiment(), "word").labels == ("angry", "happy")
    with pytest.raises(ProtocolError, match="no utterance labelled 'sad' can be used; drop it from --labels"):
        chosen(cache, Experiment(labels=("sad", "happy")), "word")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": ("sad", "fear")}, ProtocolError, "no utterance is labelled 'fear'; there are angry, happy, sad"),
        ({"labels": ("sad",)}, ProtocolError, "one class only (sad): there is nothing to tell apart"),
        ({"labels": ("sad", "sad")}, ProtocolError, "--labels sad,sad: a class is named twice"),
        ({"label": "audio"}, ProtocolError, "one class only (none.wav)"),
        ({"label": "emotion"}, ManifestError, "no column 'emotion'; it has utterance_id, audio, speaker, session"),
        ({"folds": "sesion"}, ManifestError, "no column 'sesion'; it has"),
        ({"folds": "sesion"}, ManifestError, "Did you mean 'session'?"),
        ({"folds": "split", "test_split": "test9"}, ProtocolError, "no utterance is in split 'test9'"),
        ({"folds": "split"}, ProtocolError, "test1 (9), test2 (9); choose one with --test-split"),
        ({"test_split": "test1"}, ProtocolError, "--test-split test1: belongs to --folds split"),
        ({"folds": "label"}, ProtocolError, "label 'angry' occurs only in fold 'angry'"),
        ({"folds": "utterance_id"}, ProtocolError, "speaker 's1' is in train"),
    ],
)
def test_choices_that_are_refused(cache: Cache, changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        chosen(cache, Experiment(**changes), "word")


def test_numbers_are_no_classes(tmp_path: Path) -> None:
    cache = Cache(write_cache(tmp_path))
    edit_manifest(cache.path, lambda table: table.insert(2, "arousal", 3.5))
    for column in ("label", "folds"):
        with pytest.raises(ProtocolError, match="column 'arousal' holds numbers; expected names"):
            chosen(cache, Experiment(**{column: "arousal"}), "word")


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    rows = make_rows().iloc[:5]
    cache = Cache(write_cache(tmp_path, rows, wordless=rows["utterance_id"].tolist()[:-1]))
    edit_manifest(cache.path, lambda table: table.__setitem__("label", ["a", "b", "a", "b", ""]))
    with pytest.raises(ProtocolError, match="no utterance can be used: 1 no label, 4 no word states"):
        chosen(cache, Experiment(), "word")


@pytest.mark.parametrize("asked", ["test2", "Test2", " TEST2 "])
def test_of_several_test_parts_the_others_are_left_out(cache: Cache, asked: str) -> None:
    data = chosen(cache, Experiment(folds="split", test_split=asked), "word")
    assert data.left_out == {"in another test part": 9}
    (fold,) = data.folds
    parts = {name: {data.speakers[row] for row in fold.part(name)} for name in ("train", "dev", "test")}
    assert parts == {"train": {"s1", "s2", "s3"}, "dev": {"s4"}, "test": {"s10"}}


def test_sessions_keep_two_speakers_together(cache: Cache) -> None:
    data = chosen(cache, Experiment(folds="session"), "word")
    assert [{data.speakers[row] for row in fold.test} for fold in data.folds] == [
        {"s1", "s2"},
        {"s3", "s4"},
        {"s5", "s10"},
    ]


@pytest.mark.parametrize("seed", [0, 3])
def test_dev_speakers_are_drawn_by_the_share_and_the_seed_asked_for(tmp_path: Path, seed: int) -> None:
    rows, drawn = make_rows().replace({"split": {"dev": "Train"}}), HoldOut(0.4, seed)
    cache = Cache(write_cache(tmp_path, rows))
    asked = Experiment(dev="speaker", dev_share=0.4, dev_seed=seed)
    speakers, labels = rows["speaker"].tolist(), rows["label"].tolist()
    kept = rows[rows["split"] != "Test2"]
    for found, expected in (
        (chosen(cache, asked, "word"), make_folds(speakers, speakers, labels, hold_out=drawn)),
        (
            chosen(cache, replace(asked, folds="split", test_split="test1"), "word"),
            folds_from_split(
                *(kept[name].tolist() for name in ("split", "speaker", "label")), test="test1", hold_out=drawn
            ),
        ),
    ):
        assert [[fold.part(name).tolist() for name in ("train", "dev", "test")] for fold in found.folds] == [
            [fold.part(name).tolist() for name in ("train", "dev", "test")] for fold in expected
        ]
    by_default = chosen(cache, Experiment(dev="speaker"), "word")
    by_hand = make_folds(speakers, speakers, labels, hold_out=HoldOut(0.2, 0))
    assert [fold.dev.tolist() for fold in by_default.folds] == [fold.dev.tolist() for fold in by_hand]


def test_without_speakers_the_user_is_told(tmp_path: Path) -> None:
    cache = Cache(write_cache(tmp_path, make_rows().drop(columns="speaker")))
    data = chosen(cache, Experiment(folds="session"), "word")
    assert data.notes == ["the speaker of 54 utterances is not known: nothing can check that folds share no speaker"]
    assert set(data.speakers) == {""}


def test_digests_tell_what_has_changed(cache: Cache) -> None:
    def changed(**changes: object) -> set[str]:
        now = chosen(cache, Experiment(**changes), "word").digests()
        return {name for name in now if now[name] != before[name]}

    before = chosen(cache, Experiment(), "word").digests()
    assert changed() == set()
    assert changed(folds="session") == {"folds"}
    assert changed(labels=("sad", "happy", "angry")) == {"classes"}
    assert changed(labels=("sad", "happy")) == {"utterances", "classes", "speakers", "folds"}


def test_all_that_a_head_depends_on_is_in_a_digest_of_its_own(cache: Cache) -> None:
    data = replace(chosen(cache, Experiment(), "word"), dimensions=("arousal",), ratings=np.zeros((54, 1)))
    before, (first, *others) = data.digests(), data.folds
    of_first = ({"name": "x"}, {"train": first.train[1:]}, {"dev": first.dev[1:]}, {"test": first.test[1:]})
    for name, change in (
        ("utterances", {"ids": data.ids[::-1]}),
        ("classes", {"labels": data.labels[::-1]}),
        ("classes", {"truth": data.truth[::-1]}),
        ("classes", {"shares": data.shares[::-1]}),
        ("ratings", {"ratings": data.ratings + 1}),
        ("speakers", {"speakers": data.speakers[::-1]}),
        ("folds", {"folds": others}),
        *(("folds", {"folds": [replace(first, **own), *others]}) for own in of_first),
    ):
        now = replace(data, **change).digests()
        assert {key for key in now if now[key] != before[key]} == {name}
    assert replace(data, dimensions=()).digests().keys() == before.keys() - {"ratings"}
    told = replace(data, folds=[replace(first, num_unchecked=2), *others]).notes  # of the fold that has most
    assert told == ["the speaker of 2 utterances is not known: nothing can check that folds share no speaker"]


def test_states_that_are_required_are_missed_in_the_streams_that_are_named(tmp_path: Path) -> None:
    rows = make_rows()
    ids = rows["utterance_id"].tolist()
    path = write_cache(tmp_path / "toy", rows, absent={POOLED: ids[:2], TEXT: ids[2:5]})

    def missed(require: str | None, **named: str) -> dict[str, str]:
        return without_required(Cache(path), Experiment(require=require, **named), ids)

    of_words, of_tokens = (dict.fromkeys(own, f"not in stream {n}") for n, own in ((POOLED, ids[:2]), (TEXT, ids[2:5])))
    assert missed(None) == {}
    assert missed("word") == of_words
    assert missed("token") == of_tokens
    assert missed("token, word") == of_words | of_tokens
    other = write_cache(tmp_path / "other", rows, absent={POOLED: ids[7:], TEXT: ids[:1]})
    for name in ("pooled/b", "text/b"):
        shutil.copytree(other / {"pooled/b": POOLED, "text/b": TEXT}[name], path / name)
    assert missed("word", speech_stream="pooled/b") == dict.fromkeys(ids[7:], "not in stream pooled/b")
    assert missed("token", text_stream="text/b") == dict.fromkeys(ids[:1], "not in stream text/b")
    with pytest.raises(ProtocolError, match="pooled/b"):
        missed("word")
