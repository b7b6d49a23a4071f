"""Words and times of states: read from a cache, they are those that the alignment and the transcript say."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_corpus import DURATIONS_S, IDS, TEXT, alignment, make_corpus, run

from mmser.cache import Cache, Column, PackedColumn, StreamWriter, import_features, open_foreign
from mmser.cache.schema import RECIPE_FILE
from mmser.errors import ProtocolError
from mmser.records import Kind
from mmser.train.features import Sources, load_table, open_sources
from mmser.train.links import Linker
from mmser.train.table import Table
from mmser.units import FrameGrid

CPU = torch.device("cpu")
GRANULARITIES = ("frame", "word", "syllable", "phone")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("links")
    manifest = make_corpus(folder)
    run(manifest, folder / "cache", keep=(*GRANULARITIES, "utterance"))
    return Cache(folder / "cache")


def load(sources: Sources, ids: Sequence[str]) -> Table:
    return load_table(sources, ids, [1], [] if sources.text is None else sources.text.layers[-1:], CPU)


@pytest.fixture(scope="module")
def table(cache: Cache) -> Table:
    sources = open_sources(cache, GRANULARITIES, text=True, speech_stream=None, text_stream=None, linked=True)
    return load(sources, IDS[::-1])


def of(table: Table, stream: str, uid: str) -> tuple[list[int], list[float]]:
    packed, row = table.streams[stream], table.ids.index(uid)
    own = slice(packed.offsets[row], packed.offsets[row + 1])
    return packed.word[own].tolist(), packed.time[own].tolist()


def spoken(uid: str) -> dict[int, tuple[float, float]]:
    """Word of the transcript to start and end: "Hi, a word! yes ..." has its first three words aligned."""
    words = [w for w in alignment(uid, DURATIONS_S[uid]).words if w.kind is Kind.SPEECH]
    return {i: (word.start_s, word.end_s) for i, word in enumerate(words)}


@pytest.mark.parametrize("uid", IDS)
def test_segments_and_frames_belong_to_the_word_around_them(table: Table, uid: str) -> None:
    words = spoken(uid)
    found, middles = of(table, "word", uid)
    assert found == [0, 1, 2]
    np.testing.assert_allclose(middles, [sum(words[i]) / 2 for i in range(3)], atol=1e-6)
    phones = alignment(uid, DURATIONS_S[uid]).phones
    found, middles = of(table, "phone", uid)
    assert found == [0, 0, 1, 2, 2, 2]
    np.testing.assert_allclose(middles, [(p.start_s + p.end_s) / 2 for p in phones], atol=1e-6)
    assert sorted(set(of(table, "syllable", uid)[0])) == [0, 1, 2]
    found, centres = of(table, "frame", uid)
    for n, (word, centre) in enumerate(zip(found, centres, strict=True)):
        assert centre == pytest.approx((200 + 320 * n) / 16000, abs=1e-6)
        assert word == next((i for i, (start, end) in words.items() if start <= centre < end), -1)


@pytest.mark.parametrize("uid", IDS)
def test_tokens_have_their_words_and_the_times_of_those(cache: Cache, table: Table, uid: str) -> None:
    stream = cache.stream("text/builtin-tiny")
    start, end = (stream.packed("token", name, utterances=[uid]).values for name in ("start", "end"))
    text = TEXT + " yes" * int(uid[1:])
    written = text.split()
    words, times = of(table, "text", uid)
    spans = [(a, b) for a, b in zip(start, end, strict=True) if a >= 0]
    assert len(spans) == len(words)
    for (a, _), word, time in zip(spans, words, times, strict=True):
        assert word == len(text[: a + 1].split()) - 1
        assert word < len(written)
        assert time == pytest.approx(sum(spoken(uid)[word]) / 2 if word in spoken(uid) else -1, abs=1e-6)


def test_frames_lie_in_time_as_their_recipe_says(cache: Cache, tmp_path: Path) -> None:
    """Another encoder's convolutions may be narrower, or nearer to one another."""
    path = shutil.copytree(cache.path, tmp_path / "cache") / "speech" / "builtin-tiny" / RECIPE_FILE
    stored = json.loads(path.read_text())
    assert (stored["recipe"]["hop"], stored["recipe"]["field"]) == (320, 400)
    stored["recipe"] |= {"hop": 160, "field": 240}
    path.write_text(json.dumps(stored))
    sources = open_sources(
        Cache(tmp_path / "cache"), ("frame",), text=True, speech_stream=None, text_stream=None, linked=True
    )
    table = load(sources, IDS)
    for uid in IDS:
        found, centres = of(table, "frame", uid)
        np.testing.assert_allclose(centres, (120 + 160 * np.arange(len(centres))) / 16_000, atol=1e-6)
        words = spoken(uid).items()
        assert found == [next((i for i, (a, b) in words if a <= t < b), -1) for t in centres]


def test_what_belongs_to_no_word_is_told_so(tmp_path: Path) -> None:
    """Gaps between words, phones without a word, words that the transcript lacks: in utterances after others, too."""
    words = {"a": [(0.1, 0.2, 0), (0.2, 0.3, -1), (0.5, 0.6, 1)], "b": [(0.1, 0.3, 1)], "c": []}
    phones = {"a": [(0.1, 0.2, 0), (0.2, 0.3, 1), (0.5, 0.6, 2)], "b": [(0.1, 0.2, -1), (0.2, 0.3, 0)], "c": []}
    columns = {"start_s": Column("<f8"), "end_s": Column("<f8"), "parent": Column("<i4")}
    with StreamWriter(tmp_path, "align/hand", {}, {}) as writer:
        (unit,) = writer.plan(dict.fromkeys("abc", 1.0), 9.0)
        tiers = {"word": words, "phone": phones}
        tables = {tier: ([len(own[uid]) for uid in unit.utterance_ids], columns) for tier, own in tiers.items()}
        with writer.shard(unit.number, unit.utterance_ids, {}, tables) as shard:
            for tier, own in tiers.items():
                for i, uid in enumerate(unit.utterance_ids):
                    for name, values in zip(columns, np.array(own[uid]).reshape(-1, 3).T, strict=True):
                        shard.put(tier, name, i, values.astype(columns[name].dtype))
            shard.commit()
    with StreamWriter(tmp_path, "pooled/toy@hand", {"layers": [0]}, {}) as writer:
        (unit,) = writer.plan(dict.fromkeys("abc", 1.0), 9.0)
        segments = {"a": [0, 1, 2], "b": [0, 1], "c": []}
        lengths = [len(segments[uid]) for uid in unit.utterance_ids]
        table = {"phone": (lengths, {"states": Column("<f2", 1, 2), "segment": Column("<i4")})}
        with writer.shard(unit.number, unit.utterance_ids, {}, table) as shard:
            for i, uid in enumerate(unit.utterance_ids):
                shard.put("phone", "segment", i, np.array(segments[uid], np.int32))
                shard.put("phone", "states", i, np.zeros((1, lengths[i], 2), np.float16))
            shard.commit()
    cache = Cache(tmp_path)
    linker = Linker(cache.stream("align/hand"), ["a", "b", "c"])
    found, middles = linker.of_segments(cache.stream("pooled/toy@hand"), "phone")
    assert found.tolist() == [0, -1, 1, -1, 1]
    np.testing.assert_allclose(middles, [0.15, 0.25, 0.55, 0.15, 0.25])
    found, centres = linker.of_frames(np.array([0, 31, 33, 35]), FrameGrid())
    expected = [0 if 0.1 <= t < 0.2 else 1 if 0.5 <= t < 0.6 else -1 for t in centres[:31]]
    assert found.tolist() == [*expected, -1, -1, -1, -1]
    assert {-1, 0, 1} == set(expected)
    found, centres = linker.of_frames(np.array([0, 62, 62, 62]), FrameGrid(hop=160, field=240))
    np.testing.assert_allclose(centres, (120 + 160 * np.arange(62)) / 16_000, rtol=1e-6)
    assert found.tolist() == [0 if 0.1 <= t < 0.2 else 1 if 0.5 <= t < 0.6 else -1 for t in centres]


def test_a_batch_carries_what_was_asked_for(table: Table) -> None:
    rows = torch.tensor([[0, 2, 5]])
    whole = table.gather(rows)
    for name, sequence in {**whole.speech, "text": whole.text}.items():
        assert sequence.word.shape == sequence.time.shape == sequence.mask.shape
        for b, row in enumerate(rows[0].tolist()):
            words, times = of(table, name, table.ids[row])
            assert sequence.word[0, b][sequence.mask[0, b]].tolist() == words
            assert sequence.time[0, b][sequence.mask[0, b]].tolist() == times
        assert (sequence.word[~sequence.mask] == -1).all()
        assert (sequence.time[~sequence.mask] == -1).all()
    some = table.only(["word"], text=True, links={"word"}).gather(rows)
    assert some.text.time is None
    assert some.speech["word"].time is None
    assert torch.equal(some.text.word, whole.text.word)
    assert table.only(["word"], text=False).gather(rows).speech["word"].word is None


def test_a_whole_utterance_belongs_to_no_word(cache: Cache) -> None:
    sources = open_sources(cache, ["utterance"], text=True, speech_stream=None, text_stream=None, linked=True)
    table = load(sources, IDS)
    assert table.only(["utterance"], text=True).speech["utterance"].word is None
    with pytest.raises(ProtocolError, match="utterance states belong to no word of the transcript: a head that reads"):
        table.only(["utterance"], text=True, links={"word"})


def test_states_of_another_alignment_are_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = open_sources(cache, ["word"], text=True, speech_stream=None, text_stream=None, linked=True)
    digests = {**sources.align.digests("alignment"), "u3": "other"}
    monkeypatch.setattr(sources.align, "digests", lambda _: digests)
    with pytest.raises(ProtocolError, match=r"utterance 'u3': pooled/.* was pooled over another alignment than align/"):
        load(sources, IDS)


def test_who_was_never_aligned_has_frames_that_belong_to_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_corpus(tmp_path)
    (tmp_path / "textgrid" / "u3.TextGrid").unlink()
    run(manifest, tmp_path / "cache", keep=GRANULARITIES)
    sources = open_sources(
        Cache(tmp_path / "cache"), GRANULARITIES, text=True, speech_stream=None, text_stream=None, linked=True
    )
    table = load(sources, IDS)
    assert [of(table, name, "u3") for name in ("word", "syllable", "phone")] == [([], [])] * 3
    assert set(of(table, "frame", "u3")[0]) == {-1}
    assert of(table, "word", "u4")[0] == [0, 1, 2]
    digests = {source: sources.align.digests(source) for source in ("alignment", "audio", "text")}
    digests["alignment"]["u3"] = "aligned since"
    monkeypatch.setattr(sources.align, "digests", digests.get)
    with pytest.raises(ProtocolError, match=r"utterance 'u3': .* was pooled over another alignment"):
        load(sources, IDS)


def test_frames_alone_take_the_one_alignment(cache: Cache) -> None:
    sources = open_sources(cache, ["frame"], text=False, speech_stream=None, text_stream=None, linked=True)
    assert sources.align.name == "align/textgrid"
    assert sources.align in sources.streams
    assert set(replace(sources, speech={}).without(["u1", "nobody"])) == {"nobody"}


def test_imported_frames_know_no_times(tmp_path: Path) -> None:
    """There is an alignment, but whether a frame is 10 or 20 ms is anyone's guess."""
    run(make_corpus(tmp_path), tmp_path / "cache", keep=("word",))
    cache = Cache(tmp_path / "cache")
    (tmp_path / "features").mkdir()
    for uid in IDS:
        np.save(tmp_path / "features" / f"{uid}.npy", np.zeros((3, 4), "f4"))
    import_features(open_foreign(tmp_path / "features"), cache.path, "other", cache.manifest)
    given = {"text": True, "speech_stream": None, "text_stream": None}
    with pytest.raises(ProtocolError, match="speech/other was imported, and how long each of its frames lasts is not"):
        open_sources(Cache(cache.path), ["frame"], linked=True, **given)
    assert open_sources(Cache(cache.path), ["frame"], **given).speech["frame"].imported


def test_imported_tokens_know_no_words(tmp_path: Path) -> None:
    run(make_corpus(tmp_path), tmp_path / "cache", keep=("word",))
    cache = Cache(tmp_path / "cache")
    (tmp_path / "features").mkdir()
    for uid in IDS:
        np.save(tmp_path / "features" / f"{uid}.npy", np.zeros((3, 4), "f4"))
    import_features(open_foreign(tmp_path / "features"), cache.path, "other", cache.manifest, granularity="token")
    given = {"text": True, "speech_stream": None, "text_stream": "text/other"}
    linked = open_sources(Cache(cache.path), ["word"], linked=True, **given)
    with pytest.raises(ProtocolError, match=r"text/other was imported, and its tokens know no words"):
        load(linked, IDS)
    table = load(open_sources(Cache(cache.path), ["word"], **given), IDS)
    assert table.streams["text"].offsets.diff().tolist() == [3] * len(IDS)


class Grid:
    """Frames whose centres lie where they are put."""

    def __init__(self, *centres: float) -> None:
        self.centres = np.array(centres)

    def centres_s(self, num_frames: int) -> np.ndarray:
        assert num_frames == len(self.centres)
        return self.centres


@pytest.fixture
def linker(cache: Cache) -> Linker:
    """Of one utterance: word 0 is said in two parts, word 1 between them, and word 2 not at all."""
    linker = Linker(cache.stream("align/textgrid"), ["u0"])
    linker.offsets, linker.word = np.array([0, 4]), np.array([0, 1, -1, 0])
    linker.start_s, linker.end_s = np.array([0.0, 0.5, 1.0, 1.5]), np.array([0.5, 1.0, 1.5, 2.5])
    return linker


def test_a_frame_is_of_the_word_that_begins_at_its_centre_not_of_the_one_that_ends(linker: Linker) -> None:
    found, _ = linker.of_frames(np.array([0, 6]), Grid(0.0, 0.5, 1.0, 1.5, 2.5, 2.6))  # type: ignore[arg-type]
    assert found.tolist() == [0, 1, -1, 0, -1, -1]


def test_a_token_of_a_word_in_parts_lies_at_their_mean_and_an_unspoken_one_nowhere(linker: Linker) -> None:
    words = PackedColumn(("u0",), np.array([0, 4]), np.array([0, 1, 2, -1]))
    np.testing.assert_allclose(linker.of_tokens(words), [(0.25 + 2.0) / 2, 0.75, -1.0, -1.0])
