"""Extraction as a whole: what lies in the cache is what the encoders say, however the work was cut up."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from small_corpus import DURATIONS_S, IDS, make_corpus, run, shards, write_noise
from transformers import Wav2Vec2FeatureExtractor

import mmser.extract.speech_stream
import mmser.extract.text_stream
from mmser.audio import read_audio
from mmser.cache import Cache, Stream
from mmser.errors import CacheError
from mmser.extract import builtin
from mmser.extract.align import ALIGNERS
from mmser.extract.speech import SpeechEncoder, load_speech_encoder
from mmser.extract.text import load_text_encoder
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.records import Kind

FRAMES, TOKENS, ALIGNED, POOLED = (
    "speech/builtin-tiny",
    "text/builtin-tiny",
    "align/textgrid",
    "pooled/builtin-tiny@textgrid",
)
ALL = ("frame", "phone", "syllable", "word", "utterance")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def cache(corpus: Path) -> Cache:
    """Everything in float32."""
    path = corpus.parent / "cache"
    summary = run(corpus, path, keep=ALL, dtype="float32", layers="0,2-3", text_layers="all")
    assert not summary.failures
    assert summary.added == dict.fromkeys((ALIGNED, TOKENS, FRAMES, POOLED), 6)
    assert summary.num_aligned == summary.num_utterances == 6
    assert summary.audio_s == pytest.approx(sum(DURATIONS_S.values()), abs=1e-3)
    return Cache(path)


# Two or three utterances a shard
SMALL_SHARDS = (
    (mmser.extract.speech_stream, "SHARD_SECONDS", 2.0),
    (mmser.extract.text_stream, "SHARD_BYTES", 20 * 192 * 2),
)
SMALL_ALIGNER = {"textgrid": replace(ALIGNERS["textgrid"], shard_seconds=2.0)}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL_SHARDS:
        monkeypatch.setattr(module, name, value)
    for name, backend in SMALL_ALIGNER.items():
        monkeypatch.setitem(ALIGNERS, name, backend)


def frames_inside(start_s: float, end_s: float, num_frames: int) -> list[int]:
    """Frames whose centre (200 + 320 i samples) lies in the segment; else the one nearest to its middle."""
    centres = [(200 + 320 * i) / 16_000 for i in range(num_frames)]
    inside = [i for i, centre in enumerate(centres) if start_s <= centre < end_s]
    middle = (start_s + end_s) / 2
    return inside or [min(range(num_frames), key=lambda i: abs(centres[i] - middle))]


POOL = {
    "mean": lambda x: x.mean(axis=1),
    "max": lambda x: x.max(axis=1),
    "mean+std": lambda x: np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=-1),
}


def pooled_by_hand(frames: Stream, aligned: Stream, tier: str, uid: str, how: str) -> tuple[list[int], NDArray]:
    states = frames.packed("frame", utterances=[uid]).values.astype(np.float64)
    if tier == "utterance":
        return [], POOL[how](states)[:, None]
    starts, ends, kinds = (
        aligned.packed(tier, c, utterances=[uid]).values.tolist() for c in ("start_s", "end_s", "kind")
    )
    spoken = [i for i, kind in enumerate(kinds) if kind != Kind.SILENCE]
    parts = [states[:, frames_inside(starts[i], ends[i], states.shape[1])] for i in spoken]
    return spoken, np.stack([POOL[how](part) for part in parts], axis=1)


@pytest.mark.parametrize("tier", ["phone", "syllable", "word", "utterance"])
@pytest.mark.parametrize("uid", IDS)
def test_pooled_states_are_the_frames_whose_centres_lie_in_the_segment(cache: Cache, tier: str, uid: str) -> None:
    pooled, aligned = cache.stream(POOLED), cache.stream(ALIGNED)
    spoken, expected = pooled_by_hand(cache.stream(FRAMES), aligned, tier, uid, "mean")
    found = pooled.packed(tier, utterances=[uid]).values
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)
    if tier == "utterance":
        return
    segment = pooled.packed(tier, "segment", utterances=[uid]).values.tolist()
    assert segment == spoken
    labels = aligned.packed(tier, "label", utterances=[uid]).values
    expected_labels = {
        "word": ["hi", "a", "word"],
        "syllable": ["HH AY1", "AH0", "W ER1 D"],
        "phone": ["HH", "AY1", "AH0", "W", "ER1", "D"],
    }
    assert [labels[i].decode() for i in segment] == expected_labels[tier]


@pytest.mark.parametrize("how", ["mean+std", "max"])
def test_other_poolings(cache: Cache, corpus: Path, tmp_path: Path, how: str) -> None:
    run(corpus, tmp_path, keep=ALL, dtype="float32", layers="0,2-3", pooling=how, text_model="none")
    pooled = Cache(tmp_path).stream(POOLED)
    for tier in ALL[1:]:
        for uid in ("u0", "u5"):
            _, expected = pooled_by_hand(cache.stream(FRAMES), cache.stream(ALIGNED), tier, uid, how)
            found = pooled.packed(tier, utterances=[uid]).values
            # a deviation is the root of a difference: its error is that of the states, rooted
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_float16_is_float32_rounded(cache: Cache, corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, keep=ALL, layers="0,2-3", text_layers="all")
    half = Cache(tmp_path)
    for name, granularities in ((FRAMES, ["frame"]), (POOLED, ALL[1:]), (TOKENS, ["token"])):
        for granularity in granularities:
            packed = half.stream(name).packed(granularity, utterances=IDS).values
            exact = cache.stream(name).packed(granularity, utterances=IDS).values
            assert packed.dtype == np.float16
            np.testing.assert_array_equal(packed, exact.astype(np.float16))


@pytest.mark.parametrize(("batch_seconds", "batch_tokens"), [(0.1, 1), (2.5, 20), (40.0, 4096)])
def test_states_are_those_of_each_utterance_alone(
    corpus: Path, tmp_path: Path, batch_seconds: float, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches fill a shard."""
    monkeypatch.setattr(mmser.extract.text_stream, "BATCH_TOKENS", batch_tokens)
    run(corpus, tmp_path, keep=("frame",), dtype="float32", layers="1,3", batch_seconds=batch_seconds, aligner="none",
        textgrids=None)  # fmt: skip
    speech, text = load_speech_encoder("builtin:tiny"), load_text_encoder("builtin:tiny")
    frames, tokens = Cache(tmp_path).stream(FRAMES), Cache(tmp_path).stream(TOKENS)
    assert frames.layers == [1, 3]
    assert tokens.layers == [3]
    assert len(frames.shards) == len(tokens.shards) == 1
    for utterance in read_manifest(corpus).utterances():
        uid = utterance.utterance_id
        alone, _ = speech.states([read_audio(utterance.audio).samples], [1, 3])
        found = frames.packed("frame", utterances=[uid]).values
        assert found.shape == (2, 1 + (round(DURATIONS_S[uid] * 16_000) - 400) // 320, 64)
        np.testing.assert_allclose(found, alone[:, 0].numpy(), atol=1e-5)
        written = text.tokenize(utterance.text or "")
        alone, _ = text.states([written], [3])
        np.testing.assert_allclose(tokens.packed("token", utterances=[uid]).values, alone[:, 0].numpy(), atol=1e-5)
        for column in ("token_id", "start", "end", "word"):
            stored = tokens.packed("token", column, utterances=[uid]).values
            np.testing.assert_array_equal(stored, getattr(written, column))


def test_a_part_of_a_recording_is_the_recording_cut(corpus: Path, tmp_path: Path) -> None:
    whole = write_noise(tmp_path / "whole.wav", 2.0, 7)
    rows = {
        "utterance_id": ["head", "tail", "all"],
        "audio": [whole.name] * 3,
        "start_s": ["", "0.5", ""],
        "end_s": ["0.5", "", ""],
    }
    write_manifest(Manifest(pd.DataFrame(rows), tmp_path), tmp_path / "corpus.csv")
    summary = run(tmp_path / "corpus.csv", tmp_path / "cache", keep=("frame",), layers="0", dtype="float32",
                  aligner="none", textgrids=None)  # fmt: skip
    assert summary.notes == ("the manifest has no text: no text stream was made",)
    frames = Cache(tmp_path / "cache").stream(FRAMES)
    encoder = load_speech_encoder("builtin:tiny")
    samples = read_audio(whole).samples
    for uid, part in (("head", samples[:8000]), ("tail", samples[8000:]), ("all", samples)):
        alone, _ = encoder.states([part], [0])
        np.testing.assert_allclose(frames.packed("frame", utterances=[uid]).values, alone[:, 0].numpy(), atol=1e-5)


# --- going on where it stopped


class Interruption:
    """Raises KeyboardInterrupt when the given stream reports for the nth time."""

    def __init__(self, stream: str, nth: int) -> None:
        self.stream, self.left = stream, nth

    def __call__(self, name: str, done: int, total: int, seconds: float) -> None:
        assert 0 <= done <= total
        self.left -= name == self.stream
        if self.left == 0 and name == self.stream:
            raise KeyboardInterrupt


@pytest.fixture
def undisturbed(corpus: Path, tmp_path: Path, small_shards: None) -> dict[str, bytes]:
    run(corpus, tmp_path / "undisturbed", keep=ALL, batch_seconds=1.0)
    made = shards(tmp_path / "undisturbed")
    assert all(sum(name.startswith(s) for name in made) >= 3 for s in (FRAMES, POOLED, ALIGNED, TOKENS)), list(made)
    return made


@pytest.mark.parametrize(("stream", "nth"), [(ALIGNED, 4), (TOKENS, 2), ("speech", 1), ("speech", 4)])
def test_an_interrupted_extraction_ends_in_the_same_bytes(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes], stream: str, nth: int
) -> None:
    path = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        run(corpus, path, Interruption(stream, nth), keep=ALL, batch_seconds=1.0)
    before = shards(path)
    assert 0 < len(before) < len(undisturbed)
    assert not list(path.rglob("*.tmp"))
    assert read_manifest(path / "manifest.csv").ids == IDS  # what is finished can be used
    summary = run(corpus, path, keep=ALL, batch_seconds=1.0)
    assert sum(summary.added.values()) == 4 * 6 - sum(len(s) for s in reopened(path, before))
    assert shards(path) == undisturbed


def reopened(path: Path, names: dict[str, bytes]) -> Iterator[list[str]]:
    """The utterances of some shards."""
    for stream in Cache(path).streams.values():
        for shard in stream.shards:
            if shard.path.relative_to(path).as_posix() in names:
                yield shard.utterance_ids


def extract_slowly(corpus: Path, path: Path) -> None:
    """What the killed process does: enough time between shards for the killer to strike."""
    for module, name, value in SMALL_SHARDS:
        setattr(module, name, value)
    ALIGNERS.update(SMALL_ALIGNER)
    run(corpus, path, lambda *_: time.sleep(0.1), keep=ALL, batch_seconds=1.0)


def test_a_killed_extraction_ends_in_the_same_bytes(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("killing by signal needs a POSIX system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmser.extract.run"])
    path = tmp_path / "cache"
    for kills in range(1, 4):
        process = context.Process(target=extract_slowly, args=(corpus, path))
        process.start()
        had, deadline = len(shards(path)), time.monotonic() + 300
        while len(list(path.rglob("*.h5"))) < had + 3 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -9, f"ended by itself before kill {kills}"
        assert set(shards(path)) < set(undisturbed)
    run(corpus, path, keep=ALL, batch_seconds=1.0)
    assert shards(path) == undisturbed
    assert not list(path.rglob("*.tmp"))


def test_nothing_is_done_twice(cache: Cache, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*.h5")}
    summary = run(corpus, cache.path, keep=ALL, dtype="float32", layers="0,2-3", text_layers="all")
    assert summary.added == {}
    assert summary.failures == {}
    assert {path: path.stat().st_mtime_ns for path in cache.path.rglob("*.h5")} == before


# --- a cache that grows


def test_later_utterances_are_added_and_nothing_else_is_touched(corpus: Path, tmp_path: Path) -> None:
    first = make_corpus(tmp_path / "first", IDS[:4])
    path = tmp_path / "cache"
    run(first, path)
    before = shards(path)
    summary = run(corpus, path)
    assert summary.added == dict.fromkeys((ALIGNED, TOKENS, POOLED), 2)
    after = shards(path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)
    assert sorted(Cache(path).stream(POOLED).utterance_ids) == IDS
    manifest = read_manifest(path / "manifest.csv")
    assert manifest.ids == IDS
    # rows that both manifests have are the later one's
    assert {u.audio.resolve() for u in manifest.utterances()} == {corpus.parent / "wav" / f"{uid}.wav" for uid in IDS}


def test_frames_are_added_later_and_pooled_states_stay(corpus: Path, tmp_path: Path, cache: Cache) -> None:
    run(corpus, tmp_path, layers="0,2-3")
    before = shards(tmp_path)
    summary = run(corpus, tmp_path, layers="0,2-3", keep=("frame",))
    assert summary.added == {FRAMES: 6}
    after = shards(tmp_path)
    assert {name: after[name] for name in after if not name.startswith(FRAMES)} == before
    found = Cache(tmp_path).stream(FRAMES).packed("frame", utterances=IDS).values
    exact = cache.stream(FRAMES).packed("frame", utterances=IDS).values
    np.testing.assert_array_equal(found, exact.astype(np.float16))


def test_two_text_models_lie_side_by_side(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, speech_model="none", aligner="none", textgrids=None)
    before = shards(tmp_path)
    summary = run(corpus, tmp_path, speech_model="none", text_model="builtin:small", aligner="none", textgrids=None)
    assert summary.added == {"text/builtin-small": 6}
    streams = Cache(tmp_path).streams
    assert list(streams) == ["text/builtin-small", "text/builtin-tiny"]
    assert [s.columns("token")["states"].dim for s in streams.values()] == [384, 192]
    assert {name: data for name, data in shards(tmp_path).items() if name in before} == before


# --- sources that change


def test_changed_text_is_reported_and_redone_when_asked(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", IDS[:3])
    path = tmp_path / "cache"
    run(corpus, path)
    manifest = read_manifest(corpus)
    manifest.table.loc[1, "text"] = "Hi, a word that is new!"
    write_manifest(Manifest(manifest.table, manifest.base), corpus)
    summary = run(corpus, path)
    assert summary.added == {}
    assert [note.split(":")[0] for note in summary.notes[:2]] == [ALIGNED, TOKENS]
    assert all("1 utterances have changed" in n and "'u1'" in n and "--refresh" in n for n in summary.notes[:2])
    old = Cache(path).stream(TOKENS).packed("token", "token_id", utterances=["u1"]).values
    summary = run(corpus, path, refresh=True)
    assert summary.added == {ALIGNED: 1, TOKENS: 1}  # the words lie where they lay: the pooled states hold
    assert not any("changed" in note for note in summary.notes)
    tokens = Cache(path).stream(TOKENS)
    assert len(tokens) == 3
    new = tokens.packed("token", "token_id", utterances=["u1"]).values
    assert len(new) > len(old)
    np.testing.assert_array_equal(new, load_text_encoder("builtin:tiny").tokenize("Hi, a word that is new!").token_id)
    assert run(corpus, path, refresh=True).added == {}


def test_changed_audio_is_redone_when_asked(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", IDS[:3])
    path = tmp_path / "cache"
    run(corpus, path, keep=ALL)
    old = Cache(path).stream(FRAMES).packed("frame", utterances=IDS[:3])
    write_noise(corpus.parent / "wav" / "u2.wav", DURATIONS_S["u2"], seed=99)
    summary = run(corpus, path, keep=ALL, refresh=True)
    assert summary.added == {ALIGNED: 1, FRAMES: 1, POOLED: 1}
    assert not any("changed" in note for note in summary.notes)
    new = Cache(path).stream(FRAMES).packed("frame", utterances=IDS[:3])
    for uid in IDS[:3]:
        assert np.array_equal(new.of(uid), old.of(uid)) == (uid != "u2")
    assert run(corpus, path, keep=ALL, refresh=True).added == {}


def test_a_textgrid_that_comes_later_gives_words_when_refreshed(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", IDS[:3])
    path, grid = tmp_path / "cache", tmp_path / "corpus" / "textgrid" / "u1.TextGrid"
    content = grid.read_bytes()
    grid.unlink()
    summary = run(corpus, path)
    assert summary.failures.keys() == {("u1", ALIGNED)}
    assert summary.num_aligned == 2
    pooled = Cache(path).stream(POOLED)
    assert np.diff(pooled.packed("word", "segment", utterances=["u0", "u1", "u2"]).offsets).tolist() == [3, 0, 3]
    assert pooled.packed("utterance", utterances=["u1"]).values.shape == (4, 1, 64)
    grid.write_bytes(content)
    summary = run(corpus, path)
    assert summary.added == {ALIGNED: 1}
    assert summary.notes[0].startswith(f"{POOLED}: 1 utterances have changed")
    assert run(corpus, path, refresh=True).added == {POOLED: 1}
    pooled = Cache(path).stream(POOLED)
    assert np.diff(pooled.packed("word", "segment", utterances=["u0", "u1", "u2"]).offsets).tolist() == [3, 3, 3]


def test_an_edited_textgrid_is_noted_and_redone_when_refreshed(tmp_path: Path) -> None:
    corpus, path = make_corpus(tmp_path, IDS[:3]), tmp_path / "cache"
    run(corpus, path, text_model="none")
    before = Cache(path).stream(POOLED).packed("word", utterances=["u2"]).values
    edited = tmp_path / "textgrid" / "u2.TextGrid"
    words, phones = edited.read_text().split("item [2]")
    edited.write_text(words.replace("0.22 ", "0.24 ") + "item [2]" + phones)
    summary = run(corpus, path, text_model="none")
    assert summary.added == {}
    assert [n for n in summary.notes if n.startswith(f"{ALIGNED}: 1 utterances have changed") and "'u2'" in n]
    summary = run(corpus, path, text_model="none", refresh=True)
    assert summary.added == {ALIGNED: 1, POOLED: 1}
    aligned, pooled = Cache(path).stream(ALIGNED), Cache(path).stream(POOLED)
    assert 0.24 in aligned.packed("word", "start_s", utterances=["u2"]).values
    assert pooled.digests("alignment") == aligned.digests("alignment")
    assert not np.array_equal(pooled.packed("word", utterances=["u2"]).values, before)
    assert run(corpus, path, text_model="none", refresh=True).added == {}


# --- recipes


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"layers": "1-2"}, r"layers was \[0, 2, 3\], now \[1, 2\]"),
        ({"pooling": "max"}, "pooling was 'mean', now 'max'"),
        ({"dtype": "float16"}, "dtype was 'float32', now 'float16'"),
        ({"keep": ("word",)}, r"granularities was \['phone', 'syllable', 'word', 'utterance'\], now \['word'\]"),
    ],
)
def test_another_recipe_is_refused_with_the_difference(
    cache: Cache, corpus: Path, change: dict[str, object], difference: str
) -> None:
    before = shards(cache.path)
    with pytest.raises(CacheError, match=f"was made by another recipe: {difference}. Use the same settings"):
        run(corpus, cache.path, **{"keep": ALL, "dtype": "float32", "layers": "0,2-3", "text_model": "none", **change})
    assert shards(cache.path) == before


def test_a_refused_recipe_leaves_no_empty_stream(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path, text_model="none")
    with pytest.raises(CacheError, match="pooling was 'mean', now 'max'"):
        run(corpus, tmp_path, text_model="none", keep=ALL, pooling="max")
    assert Cache(tmp_path).stream_names == [ALIGNED, POOLED]


def test_stream_json_tells_the_recipe_and_no_path(corpus: Path, tmp_path: Path) -> None:
    text_model, tokenizer = builtin.text_model("builtin:tiny")
    for part in (text_model, tokenizer):
        part.save_pretrained(tmp_path / "models" / "my-bert")
    builtin.speech_model("builtin:tiny").save_pretrained(tmp_path / "models" / "my-wav2vec2")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "models" / "my-wav2vec2")
    run(
        corpus,
        tmp_path / "cache",
        keep=ALL,
        speech_model=str(tmp_path / "models" / "my-wav2vec2"),
        text_model=str(tmp_path / "models" / "my-bert"),
    )
    cache = Cache(tmp_path / "cache")
    assert cache.stream_names == [
        "speech/my-wav2vec2", "text/my-bert", ALIGNED, "pooled/my-wav2vec2@textgrid"
    ]  # fmt: skip
    for name in cache.stream_names:
        content = (cache.path / name / "stream.json").read_text(encoding="utf-8")
        assert "models" not in content
        assert str(Path.home()) not in content
        assert str(tmp_path) not in content
        assert str(corpus.parent) not in content
        head = json.loads(content)
        assert head["stream"] == name
        assert {"mmser", "torch", "transformers", "numpy", "h5py", "python", "device"} <= set(head["provenance"])
    recipe = cache.stream("pooled/my-wav2vec2@textgrid").recipe
    assert recipe["encoder"] == "my-wav2vec2"
    assert recipe["normalise"] is True
    assert (recipe["hop"], recipe["field"], recipe["pooling"]) == (320, 400, "mean")
    assert recipe["layers"] == [0, 1, 2, 3]
    assert len(recipe["weights_sha256"]) == 64
    assert recipe["aligner"]["aligner"] == "textgrid"


def test_an_encoder_that_cannot_be_batched_is_run_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeechEncoder, "_check_batching", lambda self: False)
    summary = run(corpus, tmp_path, text_model="none", layers="3")
    assert summary.notes[0] == "builtin:tiny: padding changes its states, so it was run one utterance at a time"
    assert Cache(tmp_path).stream(POOLED).provenance["batches"] == "one utterance"


def test_segments_too_short_for_a_frame_are_counted(cache: Cache, corpus: Path, tmp_path: Path) -> None:
    summary = run(corpus, tmp_path, text_model="none", layers="3")
    aligned = cache.stream(ALIGNED)
    short = 0
    for tier in ("phone", "syllable", "word"):
        for uid in IDS:
            centres = (200 + 320 * np.arange(1000)) / 16_000
            starts, ends, kinds = (
                aligned.packed(tier, c, utterances=[uid]).values for c in ("start_s", "end_s", "kind")
            )
            short += sum(
                not ((centres >= a) & (centres < b)).any()
                for a, b, k in zip(starts, ends, kinds, strict=True)
                if k != 1
            )
    assert short >= 3 * len(IDS)
    assert summary.notes[-1] == f"{short} segments were too short to hold a frame and took the nearest one"
