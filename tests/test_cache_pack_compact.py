"""Packing and compacting: the same states and digests in fewer files and rows, and nothing lost on the way."""

import shutil
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_cache import DIM, FRAMES, FRAMES_RECIPE, LAYERS, POOLED, TEXT, toy_states, write_cache
from small_corpus import mmser

from mmser.cache import Cache, Column, StreamWriter, compact, pack, verify
from mmser.errors import CacheError
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head

GRANULARITY = {FRAMES: "frame", POOLED: "word", TEXT: "token"}


def redo(cache: Path, ids: list[str], value: float) -> None:
    """Write some utterances' frames again, as an extraction with --refresh does."""
    with StreamWriter(cache, FRAMES, FRAMES_RECIPE, {}) as writer:
        costs = dict.fromkeys(writer.stream.utterance_ids, 1.0)
        for unit in writer.plan(costs, 1000.0, redo=ids):
            lengths = [toy_states(uid, "frame").shape[1] for uid in unit.utterance_ids]
            tables = {"frame": (lengths, {"states": Column("<f2", len(LAYERS), DIM)})}
            with writer.shard(unit.number, unit.utterance_ids, {}, tables) as shard:
                shard.put("frame", "states", 0, np.full((len(LAYERS), sum(lengths), DIM), value, "f2"))
                shard.commit()


def everything(cache: Path) -> dict[str, list]:
    """Every utterance's states, by stream, in the order of their names."""
    found = {}
    for name, stream in Cache(cache).streams.items():
        packed = stream.packed(GRANULARITY[name], utterances=sorted(stream.utterance_ids))
        found[name] = [packed.offsets.tolist(), packed.values.tobytes()]
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")


# --- packed


def test_a_packed_cache_holds_the_same_streams_digests_and_manifest(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.h5"
    pack(cache, out)
    folder, packed = Cache(cache), Cache(out)
    assert packed.stream_names == folder.stream_names
    assert everything(out) == everything(cache)
    assert packed.manifest.table.equals(folder.manifest.table)
    for name, stream in folder.streams.items():
        other = packed.stream(name)
        assert (other.recipe, other.provenance, other.granularities) == (
            stream.recipe,
            stream.provenance,
            stream.granularities,
        )
        assert [shard.name for shard in other.shards] == [shard.name for shard in stream.shards]
        for one, two in zip(stream.shards, other.shards, strict=True):
            assert {n: p.sha256 for n, p in one.places.items()} == {n: p.sha256 for n, p in two.places.items()}
    with h5py.File(out) as file:  # portable: plain HDF5 to anyone
        shard = file[FRAMES][folder.stream(FRAMES).shards[0].name[:-3]]
        np.testing.assert_array_equal(shard["frame/states"], folder.stream(FRAMES).shards[0].array("frame/states"))


def test_equal_caches_pack_to_equal_bytes(cache: Path, tmp_path: Path) -> None:
    pack(cache, tmp_path / "a.h5")
    pack(cache, tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5", "cache"]


def test_every_command_reads_a_packed_cache(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.h5"
    assert mmser("cache", "pack", cache, "--out", out).exit_code == 0
    assert "word" in mmser("cache", "info", out).stdout
    result = mmser("cache", "verify", out)
    assert result.exit_code == 0, result.output
    experiment = Experiment(
        head="speech-probe", granularity="word", folds="session", seeds=1, training=Training(epochs=2), device="cpu"
    )
    one, other = (train_head(path, experiment, tmp_path / "runs" / path.stem) for path in (cache, out))
    assert (one.folder / "predictions.csv").read_bytes() == (other.folder / "predictions.csv").read_bytes()
    for asked in (["compact", out], ["pack", out, "--out", tmp_path / "two.h5"]):
        result = mmser("cache", *asked)
        assert result.exit_code == 1
        assert "Error: " in result.stderr
        assert "packed" in result.stderr


def test_verify_finds_every_flipped_byte_of_a_packed_cache(cache: Path, tmp_path: Path) -> None:
    shutil.rmtree(cache / "text")
    shutil.rmtree(cache / "pooled")
    out = tmp_path / "one.h5"
    pack(cache, out)
    original, rng = out.read_bytes(), np.random.default_rng(0)
    positions = [0, 30, 60, 130, 511, 512, *rng.integers(512, len(original), size=200).tolist()]
    for position in positions:
        flipped = bytearray(original)
        flipped[position] ^= 1 << int(rng.integers(8))
        out.write_bytes(flipped)
        try:
            faults = list(verify(Cache(out)))
        except CacheError as error:  # a structure that HDF5 can no longer read is refused when it is opened
            faults = [str(error)]
        assert faults, f"byte {position} of {len(original)}"
    out.write_bytes(original)
    assert list(verify(Cache(out))) == []


def test_a_damaged_shard_is_not_packed_with_a_new_digest(cache: Path, tmp_path: Path) -> None:
    shard = Cache(cache).stream(FRAMES).shards[0]
    data = bytearray(shard.path.read_bytes())
    data[shard.places["frame/states"].offset] ^= 1
    shard.path.write_bytes(data)
    with pytest.raises(CacheError, match=f"{shard.name}: changed since it was written"):
        pack(cache, tmp_path / "one.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]


def test_pack_does_not_overwrite_and_other_files_are_no_cache(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "one.h5").write_bytes(b"mine")
    with pytest.raises(CacheError, match="there already"):
        pack(cache, tmp_path / "one.h5")
    with pytest.raises(CacheError, match="not a packed cache"):
        Cache(tmp_path / "one.h5")
    with pytest.raises(CacheError, match="not a packed cache"):
        Cache(Cache(cache).stream(FRAMES).shards[0].path)


# --- compacted


def test_compaction_drops_superseded_rows_and_nothing_else(cache: Path) -> None:
    uids = Cache(cache).stream(FRAMES).utterance_ids
    whole_shard = Cache(cache).stream(FRAMES).shards[1].utterance_ids
    redo(cache, [uids[0], uids[2], *whole_shard], 7)
    redo(cache, [uids[0]], 8)
    before, size = everything(cache), sum(p.stat().st_size for p in cache.rglob("*.h5"))
    assert Cache(cache).stream(FRAMES).num_superseded == 3 + len(whole_shard)
    result = mmser("cache", "compact", cache)
    assert result.exit_code == 0, result.output
    assert f"{3 + len(whole_shard)} superseded utterances dropped" in result.stdout
    assert everything(cache) == before
    assert sum(p.stat().st_size for p in cache.rglob("*.h5")) < size
    assert Cache(cache).stream(FRAMES).num_superseded == 0
    assert list(verify(Cache(cache))) == []
    with StreamWriter(cache, FRAMES, FRAMES_RECIPE, {}) as writer:  # nothing is to be done again
        assert writer.plan(dict.fromkeys(uids, 1.0), 1000.0) == []
    assert "nothing is superseded" in mmser("cache", "compact", cache).stdout


@pytest.mark.parametrize("step", range(9))
def test_a_compaction_killed_at_any_step_loses_nothing(cache: Path, monkeypatch, step: int) -> None:
    uids = Cache(cache).stream(FRAMES).utterance_ids
    redo(cache, [uids[0], uids[-1], *Cache(cache).stream(FRAMES).shards[1].utterance_ids], 7)
    before = everything(cache)
    steps = 0

    class Killed(BaseException):
        pass

    def dying(original):
        def run(*args, **kwargs):
            nonlocal steps
            if steps == step:
                raise Killed
            steps += 1
            return original(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying(Path.unlink))
        module = import_module("mmser.cache.compact")
        for name in ("_rewrite", "write_plan"):
            patch.setattr(module, name, dying(getattr(module, name)))
        try:
            compact(Cache(cache))
            finished = True
        except Killed:
            finished = False
    assert finished == (step == 8)  # every step has been the last one
    assert everything(cache) == before
    compact(Cache(cache))
    assert everything(cache) == before
    assert list(verify(Cache(cache))) == []
    assert Cache(cache).stream(FRAMES).num_superseded == 0
    with StreamWriter(cache, FRAMES, FRAMES_RECIPE, {}) as writer:
        assert writer.plan(dict.fromkeys(uids, 1.0), 1000.0) == []


def test_compaction_keeps_the_digests_of_the_sources(tmp_path: Path) -> None:
    tables = {"frame": ([1, 1], {"states": Column("<f2", 1, 2)})}
    for number, (ids, value) in enumerate([(["a", "b"], 1.0), (["b"], 2.0)]):
        with StreamWriter(tmp_path, FRAMES, {"layers": [3]}, {}) as writer:
            (unit,) = writer.plan({"a": 1.0, "b": 1.0}, 9.0, redo=ids if number else [])
            lengths = [1] * len(unit.utterance_ids)
            tables = {"frame": (lengths, {"states": Column("<f2", 1, 2)})}
            digests = {"audio": [f"{uid}{number}" for uid in unit.utterance_ids]}
            with writer.shard(unit.number, unit.utterance_ids, digests, tables) as shard:
                shard.put("frame", "states", 0, np.full((1, len(lengths), 2), value, "f2"))
                shard.commit()
    compact(Cache(tmp_path))
    stream = Cache(tmp_path).stream(FRAMES)
    assert stream.digests("audio") == {"a": "a0", "b": "b1"}
    assert [len(shard) for shard in stream.shards] == [1, 1]


def test_a_damaged_shard_is_not_compacted(cache: Path) -> None:
    uids = Cache(cache).stream(FRAMES).utterance_ids
    redo(cache, [uids[0]], 7)
    shard = Cache(cache).stream(FRAMES).shards[0]
    data = bytearray(shard.path.read_bytes())
    data[shard.places["frame/states"].offset] ^= 1
    shard.path.write_bytes(data)
    before = {p.name for p in cache.rglob("*.h5")}
    with pytest.raises(CacheError, match=f"{shard.name}: changed since it was written"):
        compact(Cache(cache))
    assert {p.name for p in cache.rglob("*.h5")} == before


def test_a_stream_opened_before_compaction_says_so(cache: Path) -> None:
    uids = Cache(cache).stream(FRAMES).utterance_ids
    redo(cache, [uids[0]], 7)
    stream = Cache(cache).stream(FRAMES)
    compact(Cache(cache))
    with pytest.raises(CacheError, match="compacted or changed since it was opened: open it again"):
        stream.packed("frame")


# --- the JSON files


@pytest.mark.parametrize("name", ["stream.json", "plan.json"])
def test_verify_finds_every_flipped_byte_of_the_json_files(cache: Path, name: str) -> None:
    shutil.rmtree(cache / "text")
    shutil.rmtree(cache / "pooled")
    path = cache / FRAMES / name
    original, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(len(original), size=40).tolist():
        flipped = bytearray(original)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert list(verify(Cache(cache))), f"byte {position}: {flipped[position - 9 : position + 9]!r}"
    path.unlink()
    assert name == "stream.json" or list(verify(Cache(cache)))
    path.write_bytes(original)
    assert list(verify(Cache(cache))) == []


def test_verify_finds_an_utterance_twice(tmp_path: Path) -> None:
    with StreamWriter(tmp_path, FRAMES, {"layers": [3]}, {}) as writer:
        writer.plan({"a": 1.0}, 9.0)
        tables = {"frame": ([1, 1], {"states": Column("<f2", 1, 2)})}
        with writer.shard(0, ["a", "a"], {}, tables) as shard:
            shard.put("frame", "states", 0, np.zeros((1, 2, 2), "f2"))
            shard.commit()
    (fault,) = verify(Cache(tmp_path))
    assert "holds an utterance twice" in fault
