"""The cache in numpy, pandas and torch: the same numbers as on the disk, beside the right rows of the manifest."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from small_cache import DIM, FRAMES, LAYERS, POOLED, edit_manifest, make_rows, toy_states, write_cache, write_stream
from torch.utils.data import DataLoader

from mmser.cache import Cache, Column, StreamWriter, pack
from mmser.cache.torch_dataset import collate
from mmser.errors import CacheError, ManifestError

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache", wordless={"s1_sad_0"})


def write_alignment(folder: Path) -> None:
    """Segments for the words of small_cache, with a silence before each."""
    ids = make_rows()["utterance_id"].tolist()
    with StreamWriter(folder, "align/hand", {}, {}) as writer:
        for unit in writer.plan(dict.fromkeys(ids, 1.0), 20.0):
            lengths = [2 * toy_states(uid, "word").shape[1] for uid in unit.utterance_ids]
            columns = {"start_s": Column("<f8"), "end_s": Column("<f8"), "label": Column("S24")}
            with writer.shard(unit.number, unit.utterance_ids, {}, {"word": (lengths, columns)}) as shard:
                for i, (uid, n) in enumerate(zip(unit.utterance_ids, lengths, strict=True)):
                    shard.put("word", "start_s", i, np.arange(n) / 10)
                    shard.put("word", "end_s", i, np.arange(1, n + 1) / 10)
                    shard.put("word", "label", i, np.array([f"{uid}/{k}".encode() for k in range(n)], "S24"))
                shard.commit()


@pytest.mark.parametrize("packed", [False, True])
def test_numpy_gives_each_row_its_own_label(cache: Path, tmp_path: Path, packed: bool) -> None:
    if packed:
        pack(cache, tmp_path / "one.h5")
    opened = Cache(tmp_path / "one.h5" if packed else cache)
    features = opened.to_numpy("word", layer=4)
    expected = {uid: toy_states(uid, "word")[1] for uid in make_rows()["utterance_id"] if uid != "s1_sad_0"}
    expected["s1_sad_0"] = np.zeros((0, DIM), "f2")
    assert features.utterance_ids == make_rows()["utterance_id"].tolist()
    np.testing.assert_array_equal(features.values, np.concatenate([expected[uid] for uid in features.utterance_ids]))
    rows = [uid for uid in features.utterance_ids for _ in expected[uid]]
    assert features.column("label").tolist() == [uid.split("_")[1] for uid in rows]
    assert features.column("speaker").tolist() == [uid.split("_")[0] for uid in rows]
    chosen = opened.to_numpy("utterance", layer=[9, 0], utterances=["s2_sad_1", "s1_happy_0"])
    assert chosen.values.shape == (2, 2, DIM)
    np.testing.assert_array_equal(chosen.values[:, 0], toy_states("s2_sad_1", "utterance")[[2, 0], 0])
    assert chosen.column("label").tolist() == ["sad", "happy"]


def test_pandas_has_a_row_a_segment_with_its_time(cache: Path) -> None:
    plain = Cache(cache).to_pandas("word", layer=0)
    write_alignment(cache)
    table = Cache(cache).to_pandas("word", layer=0)
    assert len(table) == sum(
        toy_states(uid, "word").shape[1] for uid in make_rows()["utterance_id"] if uid != "s1_sad_0"
    )
    assert set(plain.columns) <= set(table.columns)
    for row in table.to_dict("records")[::7]:
        assert row["word_label"] == f"{row['utterance_id']}/{row['word_segment']}"
        assert row["word_start_s"] == row["word_segment"] / 10
        assert row["state_1"] == toy_states(row["utterance_id"], "word")[0, row["word_segment"], 1]
        assert row["label"] == row["utterance_id"].split("_")[1]
    utterances = Cache(cache).to_pandas("utterance")
    assert utterances["utterance_id"].tolist() == make_rows()["utterance_id"].tolist()
    segments = Cache(cache).to_pandas("word", stream="align/hand", utterances=["s2_sad_1"])
    assert segments["word_label"].tolist() == [f"s2_sad_1/{k}" for k in range(len(segments))]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_while_an_extraction_writes(cache: Path, start: str) -> None:
    dataset = Cache(cache).to_torch("word", layer=[0, 9], label="label")
    loader = DataLoader(dataset, batch_size=9, num_workers=1, multiprocessing_context=start, collate_fn=collate)
    seen = []
    for number, batch in enumerate(loader):
        if number < 3:  # another extraction goes on meanwhile
            write_stream(cache, POOLED, ("word", "utterance"), [f"s1_sad_{10 * number + k}" for k in range(10, 14)])
        for uid, states, mask, label in zip(
            *(batch[k] for k in ("utterance_id", "states", "mask", "label")), strict=True
        ):
            expected = toy_states(uid, "word")[[0, 2]][:, : 0 if uid == "s1_sad_0" else None]
            np.testing.assert_array_equal(states[:, mask], expected.astype("f4"))
            assert not states[:, ~mask].any()
            assert dataset.labels[label] == uid.split("_")[1]
            seen.append(uid)
    assert seen == make_rows()["utterance_id"].tolist()
    assert len(Cache(cache).stream(POOLED)) == 54 + 12


def test_torch_leaves_out_what_has_no_label(cache: Path) -> None:
    edit_manifest(cache, lambda table: table.__setitem__("label", ["", *table["label"][1:]]))
    assert len(Cache(cache).to_torch("frame", layer=0, label="label")) == 53
    item = Cache(cache).to_torch("frame")[0]
    assert item["states"].shape[0] == len(LAYERS)
    assert "label" not in item


def test_what_is_not_there_is_said(cache: Path) -> None:
    opened = Cache(cache)
    with pytest.raises(CacheError, match="no stream holds 'phone' states; speech/toy holds frame; "):
        opened.to_numpy("phone")
    with pytest.raises(CacheError, match="layer 5 is not in stream"):
        opened.to_torch("word", layer=5)
    with pytest.raises(ManifestError, match="no utterance 'nobody'"):
        opened.to_numpy("word", utterances=["nobody"])
    with pytest.raises(ManifestError, match="no column 'mood'"):
        opened.to_torch("word", label="mood")
    write_stream(cache, "pooled/other@hand", ("word",), ["s1_sad_0"])
    with pytest.raises(CacheError, match="several streams hold 'word' states; choose one: stream='pooled/other@hand'"):
        opened.to_numpy("word")
    (cache / "manifest.csv").unlink()
    with pytest.raises(ManifestError, match=r"holds no manifest\.csv"):
        Cache(cache).to_numpy("word", stream=POOLED)
    assert FRAMES in opened.stream_names


def page_of(name: str, folder: Path) -> Path:
    """A page of the documentation for doctest, with its cache: small_cache's, under the demo's names and layers."""
    path = write_cache(folder / "cache" / "demo")
    write_alignment(path)
    (path / "pooled" / "toy@hand").rename(path / "pooled" / "builtin-tiny@pocketsphinx")
    (path / "align" / "hand").rename(path / "align" / "pocketsphinx")
    (path / "text" / "toy").rename(path / "text" / "builtin-tiny")
    for part in (path / "speech" / "toy").iterdir():
        part.unlink()
    (path / "speech" / "toy").rmdir()
    head = path / "pooled" / "builtin-tiny@pocketsphinx" / "stream.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "recipe": {"layers": [1, 2, 3]}}))
    page = folder / name
    page.write_text((DOCS / name).read_text(encoding="utf-8").replace("```", ""), encoding="utf-8")
    return page


def test_the_page_on_python_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of("python.md", tmp_path)
    text = page.read_text(encoding="utf-8").replace("[0, 1, 2, 3]", "[1, 2, 3]")
    text = text.replace("['phone', 'syllable', 'utterance', 'word']", "['utterance', 'word']")
    page.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted > 12
    assert outcome.failed == 0
