"""Recordings and texts that change under a cache: what was made of the old ones never passes for the new."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_cache import FRAMES, write_cache
from small_corpus import IDS, alignment, make_corpus, run, write_noise

from mmser.cache import Cache, Column, StreamWriter
from mmser.cache.export import export
from mmser.errors import CacheError, ProtocolError
from mmser.extract.alignments import _one_text, alignment_tables
from mmser.extract.options import Pooling
from mmser.extract.pool import pool_frames
from mmser.train.features import load_table, open_sources


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path, IDS)


def rewrite(corpus: Path, uid: str, text: str) -> None:
    table = pd.read_csv(corpus, keep_default_na=False)
    table.loc[table.utterance_id == uid, "text"] = text
    table.to_csv(corpus, index=False)


def digest(cache: Path, stream: str, uid: str, source: str = "audio") -> str:
    return Cache(cache).stream(stream).digests(source)[uid]


@pytest.mark.parametrize("text", ["", "a " * 600])
def test_a_text_that_can_no_longer_be_read_is_told(corpus: Path, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache, keep=("utterance",))
    rewrite(corpus, "u4", text)
    (note,) = (note for note in run(corpus, cache, keep=("utterance",)).notes if note.startswith("text/"))
    assert "1 utterances have changed since they were extracted ('u4' among them) and keep their old states" in note
    again = run(corpus, cache, keep=("utterance",), refresh=True)
    assert ("u4", "text/builtin-tiny") in again.failures
    assert {uid for uid, _ in again.failures} == {"u4"}


def test_a_recording_that_can_no_longer_be_read_is_told(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache)
    (tmp_path / "wav" / "u4.wav").write_bytes(b"junk")
    again = run(corpus, cache, refresh=True)
    streams = {stream for uid, stream in again.failures if uid == "u4"}
    assert {"align/textgrid", "pooled/builtin-tiny@textgrid"} <= streams
    assert all(reason.endswith("; what was made of it before stays") for reason in again.failures.values())


def test_frames_are_not_pooled_over_the_alignment_of_another_recording(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache, speech_model="none", text_model="none")
    write_noise(tmp_path / "wav" / "u4.wav", 0.9137, seed=9)
    found = run(corpus, cache, text_model="none")
    reason = "align/textgrid is of another recording; add --refresh to make both anew"
    assert found.failures == {("u4", "pooled/builtin-tiny@textgrid"): reason}
    assert run(corpus, cache, text_model="none", refresh=True).failures == {}
    assert digest(cache, "align/textgrid", "u4") == digest(cache, "pooled/builtin-tiny@textgrid", "u4")


def test_frames_and_words_of_one_pass_lose_the_same_utterances(corpus: Path, tmp_path: Path) -> None:
    cache, streams = tmp_path / "cache", ("speech/builtin-tiny", "pooled/builtin-tiny@textgrid")
    run(corpus, cache, speech_model="none", text_model="none")
    write_noise(tmp_path / "wav" / "u4.wav", 0.9137, seed=9)
    found = run(corpus, cache, text_model="none", keep=("frame", "word"))
    reason = "align/textgrid is of another recording; add --refresh to make both anew"
    assert found.failures == {("u4", stream): reason for stream in streams}
    for stream in streams:
        assert sorted(Cache(cache).stream(stream).utterance_ids) == [uid for uid in IDS if uid != "u4"]


def test_frames_of_a_new_recording_are_pooled_again(corpus: Path, tmp_path: Path) -> None:
    cache, plain = tmp_path / "cache", {"text_model": "none", "aligner": "none", "textgrids": None, "keep": ("frame",)}
    run(corpus, cache, **plain)
    pool_frames(cache, Pooling())
    write_noise(tmp_path / "wav" / "u4.wav", 0.8, seed=9)
    run(corpus, cache, **plain, refresh=True)
    kept = pool_frames(cache, Pooling())
    assert (kept.added, kept.changed) == (0, 1)
    redone = pool_frames(cache, Pooling(redo=True))
    assert (redone.added, redone.changed) == (1, 0)
    assert digest(cache, "pooled/builtin-tiny@none", "u4") == digest(cache, "speech/builtin-tiny", "u4")


def test_alignment_and_frames_of_two_recordings_are_refused(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(corpus, cache, speech_model="none")
    write_noise(tmp_path / "wav" / "u4.wav", 0.9137, seed=9)
    run(corpus, cache, text_model="none", aligner="none", textgrids=None, keep=("frame",))
    with pytest.raises(CacheError, match=r"'u4': speech/builtin-tiny is of another recording than align/textgrid"):
        pool_frames(cache, Pooling("textgrid"))
    opened = Cache(cache)
    sources = open_sources(opened, ("frame",), text=True, speech_stream=None, text_stream=None, linked=True)
    with pytest.raises(ProtocolError, match=r"'u4': speech/builtin-tiny is of another recording than align/textgrid"):
        load_table(sources, IDS, [1], [1], "cpu")  # type: ignore[arg-type]


def test_an_id_in_a_shard_becomes_no_path(tmp_path: Path) -> None:
    """Ids of manifests and imports are checked; a shard may come from anybody."""
    cache = write_cache(tmp_path / "toy")
    with StreamWriter(cache, "pooled/evil@hand", {"layers": [0]}, {}) as writer:
        writer.plan({"../../escaped": 1.0}, 9.0)
        with writer.shard(0, ["../../escaped"], {}, {"utterance": ([1], {"states": Column("<f2", 1, 2)})}) as shard:
            shard.put("utterance", "states", 0, np.zeros((1, 1, 2), np.float16))
            shard.commit()
    with pytest.raises(CacheError, match=r"\.h5: utterance id '../../escaped' looks like a path"):
        export(Cache(cache).stream("pooled/evil@hand"), "utterance", tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("escaped*"))
    assert len(Cache(cache).stream(FRAMES)) > 0


def test_flags_that_no_text_can_hold_are_cut_short() -> None:
    assert _one_text(("spelled-by-rule:a", "clipped")) == b"spelled-by-rule:a\nclipped"
    many = _one_text([f"spelled-by-rule:word{i:04}" for i in range(250)])
    *kept, last = many.decode().split("\n")
    assert last == "and-more"
    assert kept == [f"spelled-by-rule:word{i:04}" for i in range(len(kept))]
    assert len(many) <= 4096 < len(many) + len(kept[0]) + 1
    flagged = replace(alignment("u4", 0.9137), flags=tuple(f"spelled-by-rule:word{i:04}" for i in range(250)))
    _, values = alignment_tables([flagged], [0.9137], ["Hi"])
    assert values["utterance"]["flags"].tolist() == [many]


def test_an_alignment_that_no_shard_can_hold_is_one_utterance_s_failure(corpus: Path, tmp_path: Path) -> None:
    """A whole transcript as one interval; and so many flags that they are cut short."""
    grid = tmp_path / "textgrid" / "u4.TextGrid"
    grid.write_text(grid.read_text().replace('"word"', f'"{"w" * 5000}"'))
    found = run(corpus, tmp_path / "cache", speech_model="none", text_model="none")
    assert found.failures == {
        ("u4", "align/textgrid"): "a segment's label has 5000 bytes; expected 4096 at most: a word or a phone a segment"
    }
    assert found.num_aligned == len(IDS) - 1
