"""The cache: what goes in comes out, a shard is whole or absent, and every changed byte is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mmser.cache import Cache, Column, Stream, StreamWriter, pack, verify
from mmser.cache.schema import SCHEMA
from mmser.cache.writer import cut
from mmser.errors import CacheError

NAME = "pooled/toy@none"
RECIPE = {"layers": [0, 4, 9], "dtype": "float16"}


def toy_states(uid: str, dim: int = 4) -> np.ndarray:
    """States (layers, rows, dim) that tell the utterance they belong to; some utterances have no rows."""
    rng = np.random.default_rng(abs(hash(uid)) % 2**32 if not uid.startswith("u") else int(uid[1:]))
    return rng.normal(size=(3, int(uid[1:]) % 4, dim)).astype("float16")


def write_toy(folder: Path, num: int = 10, budget: float = 6.0, stop_after: int | None = None) -> None:
    costs = {f"u{i}": 1.0 + i % 3 for i in range(num)}
    with StreamWriter(folder, NAME, RECIPE, {"made": "by a test"}) as writer:
        for done, unit in enumerate(writer.plan(costs, budget)):
            if done == stop_after:
                return
            lengths = [toy_states(uid).shape[1] for uid in unit.utterance_ids]
            tables = {
                "word": (lengths, {"states": Column("<f2", 3, 4), "segment": Column("<i4")}),
                "utterance": ([1] * len(lengths), {"label": Column("S5")}),
            }
            digests = {"audio": [uid * 2 for uid in unit.utterance_ids]}
            with writer.shard(unit.number, unit.utterance_ids, digests, tables) as shard:
                for i, uid in enumerate(unit.utterance_ids):
                    shard.put("word", "states", i, toy_states(uid))
                    shard.put("word", "segment", i, np.arange(lengths[i], dtype="i4"))
                shard.put("utterance", "label", 0, np.array([uid.encode() for uid in unit.utterance_ids], "S5"))
                shard.commit()


def content(folder: Path) -> dict[str, str]:
    return {p.name: p.read_bytes().hex() for p in sorted(folder.rglob("*.h5"))}


def test_what_goes_in_comes_out_in_any_order(tmp_path):
    write_toy(tmp_path)
    stream = Cache(tmp_path).stream(NAME)
    assert len(stream.shards) > 2
    assert stream.granularities == ["utterance", "word"]
    for ids in ([f"u{i}" for i in range(10)], ["u7", "u0", "u3"], stream.utterance_ids, []):
        packed = stream.packed("word", layers=[9, 0], utterances=ids)
        expected = [toy_states(uid)[[2, 0]] for uid in ids]
        assert packed.offsets.tolist() == np.cumsum([0] + [e.shape[1] for e in expected]).tolist()
        np.testing.assert_array_equal(packed.values, np.concatenate([np.zeros((2, 0, 4)), *expected], axis=1))
    assert stream.packed("utterance", "label", utterances=["u9"]).values.tolist() == [b"u9"]
    np.testing.assert_array_equal(stream.packed("word", layers=4).of("u7"), toy_states("u7")[[1]])
    assert stream.digests("audio")["u3"] == "u3u3"


def test_equal_content_is_equal_bytes_whether_or_not_it_was_interrupted(tmp_path):
    write_toy(tmp_path / "whole")
    write_toy(tmp_path / "parts", stop_after=1)
    assert len(Cache(tmp_path / "parts").stream(NAME)) < 10
    write_toy(tmp_path / "parts", stop_after=1)
    write_toy(tmp_path / "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert list(verify(Cache(tmp_path / "parts"))) == []


def test_later_utterances_are_appended_and_finished_shards_stay(tmp_path):
    write_toy(tmp_path, num=6)
    before = content(tmp_path)
    write_toy(tmp_path, num=12)
    after = content(tmp_path)
    assert before.items() <= after.items()
    assert sorted(Cache(tmp_path).stream(NAME).utterance_ids) == sorted(f"u{i}" for i in range(12))


def write_one_each(folder, ids, redo=(), stop_after=None, width=5):
    """A shard an utterance: what the stream lacks, and what is to be made again."""
    with StreamWriter(folder, NAME, RECIPE, {}) as writer:
        wanted = {uid: 1.0 for uid in ids if uid in redo or uid not in writer.stream}
        for done, unit in enumerate(writer.plan(wanted, 1.0, redo=redo)):
            if done == stop_after:
                return
            table = {"utterance": ([1], {"label": Column(f"S{width}")})}
            (uid,) = unit.utterance_ids
            with writer.shard(unit.number, unit.utterance_ids, {}, table) as shard:
                shard.put("utterance", "label", 0, np.array([uid.encode().ljust(width, b"x")], f"S{width}"))
                shard.commit()


def test_more_utterances_while_some_are_planned_get_shards_of_their_own(tmp_path):
    write_one_each(tmp_path, ["u1", "u2", "u3", "u4"], stop_after=1)
    write_one_each(tmp_path, ["u1", "u2", "u3", "u4", "u5", "u6"])
    stream = Cache(tmp_path).stream(NAME)
    assert sorted(stream.utterance_ids) == ["u1", "u2", "u3", "u4", "u5", "u6"]
    assert [shard.number for shard in stream.shards] == list(range(6))
    assert list(verify(Cache(tmp_path))) == []


def test_a_planned_shard_with_an_utterance_that_is_wanted_no_more_is_planned_anew(tmp_path):
    planned = []
    for ids in (["u1", "u2", "u3", "u4"], ["u1", "u2", "u3"]):
        with StreamWriter(tmp_path, NAME, RECIPE, {}) as writer:
            planned.append([unit.utterance_ids for unit in writer.plan(dict.fromkeys(ids, 1.0), 2.0)])
    assert planned == [[("u1", "u2"), ("u3", "u4")], [("u1", "u2"), ("u3",)]]


def test_a_second_making_that_was_interrupted_makes_none_a_third_time(tmp_path):
    ids = ["u1", "u2", "u3"]
    write_one_each(tmp_path, ids)
    write_one_each(tmp_path, ids, redo=ids, stop_after=1)
    made = Cache(tmp_path).stream(NAME).shards[-1].utterance_ids
    write_one_each(tmp_path, ids, redo=[uid for uid in ids if uid not in made])
    assert Cache(tmp_path).stream(NAME).num_superseded == 3


def test_a_shard_that_is_lost_of_a_cache_that_has_grown_since_is_missed(tmp_path):
    write_one_each(tmp_path, ["u1", "u2"])
    write_one_each(tmp_path, ["u1", "u2", "u3"])
    min((tmp_path / NAME).glob("*.h5")).unlink()
    assert any("planned but not there" in fault for fault in verify(Cache(tmp_path)))


def test_texts_of_the_widest_shard_are_read_whole_beside_those_of_others(tmp_path):
    write_one_each(tmp_path, ["u1"], width=3)
    write_one_each(tmp_path, ["u1", "u2"], width=12)
    for ids in (["u1", "u2"], ["u2"], ["u2", "u1"]):
        found = Cache(tmp_path).stream(NAME).packed("utterance", "label", utterances=ids).values.tolist()
        assert found == [{"u1": b"u1x", "u2": b"u2" + b"x" * 10}[uid] for uid in ids]


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([(0, 2), (1, 1), (2, 3)], True),
        ([(2, 3), (0, 3)], True),  # in any order, several utterances at a time
        ([(0, 2), (0, 2), (1, 1), (1, 1)], False),  # as many rows as there are, three of them never
        ([(0, 3), (1, 1), (1, 1), (1, 1)], False),
        ([(0, 2), (1, 3), (2, 1)], False),  # one row twice, the last never
        ([(0, 2), (1, 1)], False),
        ([], False),
    ],
)
def test_a_shard_has_every_row_written_once(tmp_path, pieces, whole):
    """Nothing fills what is not written: it would be whatever lay on the disk."""
    tables = {"word": ([2, 1, 3], {"segment": Column("<i4")})}
    with (
        StreamWriter(tmp_path, NAME, RECIPE, {}) as writer,
        writer.shard(0, ["a", "b", "c"], {}, tables) as shard,
    ):
        for first, rows in pieces:
            shard.put("word", "segment", first, np.zeros(rows, "i4"))
        if whole:
            assert shard.commit().exists()
        else:
            with pytest.raises(AssertionError, match="word/segment: not every row is written once"):
                shard.commit()
    assert len(list((tmp_path / NAME).glob("*.h5"))) == whole


def test_a_shard_that_is_not_committed_leaves_nothing(tmp_path):
    with (
        StreamWriter(tmp_path, NAME, RECIPE, {}) as writer,
        pytest.raises(RuntimeError),
        writer.shard(0, ["a"], {}, {"word": ([1], {"segment": Column("<i4")})}),
    ):
        raise RuntimeError
    assert [p.name for p in (tmp_path / NAME).iterdir() if p.suffix in (".h5", ".tmp")] == []


def test_what_a_killed_writer_left_is_removed_and_never_read(tmp_path):
    write_toy(tmp_path)
    leftover = tmp_path / NAME / ".00099.1234.tmp"
    leftover.write_bytes(b"half a shard")
    assert len(Cache(tmp_path).stream(NAME)) == 10
    write_toy(tmp_path)
    assert not leftover.exists()


def test_the_second_writer_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; from mmser.cache import StreamWriter\n"
        "try:\n    StreamWriter(Path(sys.argv[1]), sys.argv[2], {}, {}).__enter__()\n"
        "except Exception as error:\n    print(error); sys.exit(7)"
    )
    with StreamWriter(tmp_path, NAME, {}, {}):
        second = subprocess.run(
            [sys.executable, "-c", code, tmp_path, NAME], capture_output=True, text=True, check=False
        )
    assert second.returncode == 7
    assert "another mmser is writing this stream" in second.stdout


def test_another_recipe_is_refused_with_the_difference(tmp_path):
    write_toy(tmp_path)
    with pytest.raises(CacheError, match=r"dtype was 'float16', now 'float32'"):
        StreamWriter(tmp_path, NAME, {**RECIPE, "dtype": "float32"}, {}).__enter__()
    write_toy(tmp_path)  # and the lock was given back


def test_remade_utterances_win_over_the_older_shard(tmp_path):
    write_toy(tmp_path)
    with StreamWriter(tmp_path, NAME, RECIPE, {}) as writer:
        (unit,) = writer.plan({f"u{i}": 1.0 + i % 3 for i in range(10)}, 6.0, redo=["u3"])
        assert unit.utterance_ids == ("u3",)
        tables = {
            "word": ([1], {"states": Column("<f2", 3, 4), "segment": Column("<i4")}),
            "utterance": ([1], {"label": Column("S5")}),
        }
        with writer.shard(unit.number, ["u3"], {"audio": ["new"]}, tables) as shard:
            shard.put("word", "states", 0, np.full((3, 1, 4), 7, "f2"))
            shard.put("word", "segment", 0, np.zeros(1, "i4"))
            with pytest.raises(AssertionError):
                shard.commit()
            shard.put("utterance", "label", 0, np.array([b"u3"]))
            shard.commit()
    stream = Cache(tmp_path).stream(NAME)
    assert len(stream) == 10
    assert (stream.packed("word", utterances=["u3"]).values == 7).all()
    assert stream.digests("audio")["u3"] == "new"


def test_verify_finds_every_flipped_byte(tmp_path):
    write_toy(tmp_path)
    path = max((tmp_path / NAME).glob("*.h5"), key=lambda p: p.stat().st_size)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(len(original), size=200):
        flipped = bytearray(original)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        assert any(path.name in fault for fault in verify(Cache(tmp_path))), f"byte {position} of {len(original)}"
    path.write_bytes(original)
    assert list(verify(Cache(tmp_path))) == []


def test_verify_names_the_damaged_shard_and_the_lost_one(tmp_path):
    write_toy(tmp_path)
    first, second = sorted((tmp_path / NAME).glob("*.h5"))[:2]
    stored = Cache(tmp_path).stream(NAME).shards[0].array("word/states")
    data = bytearray(first.read_bytes())
    data[stored.offset] ^= 1
    first.write_bytes(data)
    second.unlink()
    faults = list(verify(Cache(tmp_path)))
    assert len(faults) == 2
    assert f"{first.name}: changed since it was written" in faults[0]
    assert "shard 00001" in faults[1]


def test_verify_misses_no_shard_of_which_every_utterance_failed(tmp_path):
    """Of any other it counts those that did not fail."""
    write_toy(tmp_path, stop_after=1)
    units = json.loads((tmp_path / NAME / "plan.json").read_text())["shards"]
    lost = [uid for unit in units[1:] for uid in unit["utterances"]]
    failed = tmp_path / "failed.csv"

    def faults(uids: list[str], stream: str = NAME) -> list[str]:
        rows = "".join(f"{uid},{stream},why not\n" for uid in uids)
        failed.write_text(f"utterance_id,streams,reason\n{rows}", encoding="utf-8")
        return list(verify(Cache(tmp_path)))

    assert len(units) > 2
    assert faults(lost) == []
    (fault,) = faults([uid for uid in lost if uid != units[2]["utterances"][0]])
    assert "shard 00002 (1 utterances) is planned but not there" in fault
    assert len(faults(lost, "text/toy")) == len(units) - 1  # failed for another stream


def test_a_source_that_is_not_known_of_an_utterance_has_an_empty_digest(tmp_path):
    with StreamWriter(tmp_path, NAME, RECIPE, {}) as writer:
        for number, (ids, digests) in enumerate(
            [
                (["a", "b"], {"audio": ["1", ""]}),
                (["c"], {"text": ["2"]}),
                (["d", "a"], {"audio": ["", "3"], "text": ["4", ""]}),
            ]
        ):
            with writer.shard(number, ids, digests, {"utterance": ([1] * len(ids), {"label": Column("S1")})}) as shard:
                shard.put("utterance", "label", 0, np.array([b"x"] * len(ids)))
                shard.commit()
    stream = Cache(tmp_path).stream(NAME)
    assert stream.digests("audio") == {"a": "3", "b": "", "c": "", "d": ""}
    assert stream.digests("text") == {"a": "", "b": "", "c": "2", "d": "4"}
    assert stream.digests("alignment") == dict.fromkeys("abcd", "")


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    write_toy(tmp_path)
    path = next((tmp_path / NAME).glob("*.h5"))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CacheError, match=path.name):
        Cache(tmp_path).stream(NAME)


def test_another_schema_is_refused(tmp_path):
    write_toy(tmp_path)
    head = tmp_path / NAME / "stream.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema": 99}))
    with pytest.raises(CacheError, match=f"cache schema 99, this mmser reads {SCHEMA}"):
        Cache(tmp_path).stream(NAME)
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema": SCHEMA}))
    path = next((tmp_path / NAME).glob("*.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["mmser_schema"] = 99
    with pytest.raises(CacheError, match="cache schema 99"):
        Cache(tmp_path).stream(NAME)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"granularity": "phone"}, "holds no 'phone' states; it holds utterance, word"),
        ({"granularity": "word", "layers": 5}, "layer 5 is not in stream .* it holds layers 0, 4, 9"),
        ({"granularity": "word", "column": "pitch"}, "no column 'pitch'; it has segment, states"),
        ({"granularity": "word", "utterances": ["u1", "nobody"]}, "1 utterances are not in stream .*'nobody'"),
    ],
)
def test_asking_for_what_is_not_there_says_what_is(tmp_path, ask, message):
    write_toy(tmp_path)
    with pytest.raises(CacheError, match=message):
        Cache(tmp_path).stream(NAME).packed(**ask)


def test_unknown_stream_and_unsafe_names(tmp_path):
    write_toy(tmp_path)
    with pytest.raises(CacheError, match=r"no stream 'text/bert'; there are: pooled/toy@none"):
        Cache(tmp_path).stream("text/bert")
    for name in ("../x", "text/../../x", "text/", "nowhere/x", "text/.hidden"):
        with pytest.raises(CacheError, match="no stream name"):
            Cache(tmp_path).stream(name)


def spoil(kind: str, path: Path, elsewhere: Path, inside: str = "") -> None:
    """Turn a sound shard into one that tries to read ``elsewhere`` or to run a filter."""
    with h5py.File(elsewhere, "w") as file:
        file["secret"] = np.arange(8, dtype="f2")
    with h5py.File(path, "r+") as file:
        if kind == "external link":
            file[inside + "word/more"] = h5py.ExternalLink(str(elsewhere), "secret")
        elif kind == "soft link":
            file[inside + "word/more"] = h5py.SoftLink(f"/{inside}word/states")
        elif kind == "external storage":
            file.create_dataset(inside + "word/more", (4,), "f2", external=[(str(elsewhere), 0, 8)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((8,), "f2")
            layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (8,))
            file.create_virtual_dataset(inside + "word/more", layout)
        elif kind == "filter":
            file.create_dataset(inside + "word/more", data=np.zeros(8, "f2"), compression="gzip")
        elif kind == "object":
            file.create_dataset(inside + "word/more", data=["text of any length"], dtype=h5py.string_dtype())
        elif kind == "deep group":
            file.create_group(inside + "word/deeper")
        elif kind == "cycle":
            file[inside + "word/loop"] = file["/"]
        elif kind == "compact storage":
            plain = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plain.set_layout(h5py.h5d.COMPACT)
            file.create_dataset(inside + "word/more", data=np.zeros(8, "f2"), dcpl=plain)
        elif kind == "named type":
            file[inside + "word/more"] = np.dtype("f2")
        elif kind == "reference":
            file.create_dataset(inside + "word/more", data=[file.ref], dtype=h5py.ref_dtype)
        elif kind == "compound":
            file.create_dataset(inside + "word/more", data=np.zeros(2, [("a", "f2")]))
        elif kind == "big-endian":
            file.create_dataset(inside + "word/more", data=np.zeros(2, ">f4"))
        elif kind == "endless text":
            file.create_dataset(inside + "word/more", data=np.zeros(1, "S100000"))
        elif kind == "absurd shape":
            file.create_dataset(inside + "word/more", (1 << 40, 1 << 20, 1), "f8")
        elif kind == "absurd empty shape":
            file.create_dataset(inside + "word/more", (0, 1 << 62, 1 << 62), "f8")
        elif kind == "four axes":
            file.create_dataset(inside + "word/more", data=np.zeros((1, 1, 1, 1), "f2"))


NOT_PLAIN = [
    *("external link", "soft link", "external storage", "virtual", "filter", "object", "deep group", "cycle"),
    *("compact storage", "named type", "reference", "compound", "big-endian", "endless text"),
    *("absurd shape", "absurd empty shape", "four axes"),
]


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_shard_that_is_not_plain_is_refused_and_not_followed(tmp_path, kind):
    write_toy(tmp_path / "cache")
    path = next((tmp_path / "cache" / NAME).glob("*.h5"))
    spoil(kind, path, tmp_path / "elsewhere.h5")
    with pytest.raises(CacheError, match=r"link|refused|not a shard|truncated|4096 at most"):
        Cache(tmp_path / "cache").stream(NAME)


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_packed_cache_that_is_not_plain_is_refused_and_not_followed(tmp_path, kind):
    """Even where whoever made it gave it a digest that fits: the structure itself is not believed."""
    write_toy(tmp_path / "cache")
    path = tmp_path / "one.h5"
    pack(tmp_path / "cache", path)
    with h5py.File(path, "r+") as file:
        shard = next(name for name, item in file[NAME].items() if isinstance(item, h5py.Group))
    spoil(kind, path, tmp_path / "elsewhere.h5", f"{NAME}/{shard}/")
    with pytest.raises(CacheError, match=r"link|refused|not a shard|truncated|4096 at most"):
        Cache(path)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_structure_never_ends_in_a_traceback(tmp_path, seed):
    write_toy(tmp_path, num=3)
    path = next((tmp_path / NAME).glob("*.h5"))
    original, rng = path.read_bytes(), np.random.default_rng(seed)
    refused = 0
    for _ in range(100):
        spoilt = bytearray(original)
        for position in rng.integers(len(original), size=20):
            spoilt[position] = int(rng.integers(256))
        path.write_bytes(spoilt)
        try:
            stream = Cache(tmp_path).stream(NAME)
            for granularity in stream.granularities:
                for column in stream.columns(granularity):
                    stream.packed(granularity, column)
        except CacheError:
            refused += 1
    assert refused > 20


def test_shards_and_recipes_that_contradict_each_other_are_refused(tmp_path):
    write_toy(tmp_path)
    head = tmp_path / NAME / "stream.json"
    whole = json.loads(head.read_text())
    for recipe, message in (
        ({"layers": [0, 1]}, "the recipe names 2 layers, the shards hold 3"),
        ({"layers": "all"}, "its layers are 'all', expected a list of whole numbers"),
        ([1], "no JSON objects"),
    ):
        head.write_text(json.dumps({**whole, "recipe": recipe}))
        with pytest.raises(CacheError, match=message):
            Cache(tmp_path).stream(NAME).packed("word")
    head.write_text(json.dumps(whole))
    with StreamWriter(tmp_path, NAME, RECIPE, {}) as writer:
        tables = {
            "word": ([1], {"states": Column("<f2", 3, 5), "segment": Column("<i4")}),
            "utterance": ([0], {"label": Column("S5")}),
        }
        with writer.shard(99, ["wider"], {}, tables) as shard:
            shard.put("word", "states", 0, np.zeros((3, 1, 5), "f2"))
            shard.put("word", "segment", 0, np.zeros(1, "i4"))
            shard.commit()
    with pytest.raises(CacheError, match=r"00099-.*word/states is unlike that of the stream's first shard"):
        Cache(tmp_path).stream(NAME).packed("word")
    assert any("00099" in fault and "unlike" in fault for fault in verify(Cache(tmp_path)))


@pytest.mark.parametrize("offsets", [[0, 3, 1, 4], [1, 2, 3, 4], [-1, 2, 3, 4], [0, 2, 3, 5], [0, 2, 3, 3]])
def test_offsets_that_do_not_fit_the_rows_are_refused(tmp_path, offsets):
    """Backwards, they would give one utterance the rows of another, or fewer than none."""
    tables = {"word": ([2, 1, 1], {"segment": Column("<i4")})}
    with (
        StreamWriter(tmp_path, NAME, RECIPE, {}) as writer,
        writer.shard(0, ["a", "b", "c"], {}, tables) as shard,
    ):
        shard.put("word", "segment", 0, np.arange(4, dtype="i4"))
        path = shard.commit()
    assert Cache(tmp_path).stream(NAME).lengths("word").tolist() == [2, 1, 1]
    with h5py.File(path, "r+") as file:
        file["word/offsets"][:] = offsets
    for read in (Stream.lengths, Stream.packed):
        with pytest.raises(CacheError, match=r"the offsets of 'word' do not fit its rows; not written by mmser"):
            read(Cache(tmp_path).stream(NAME), "word", *(["segment"] if read is Stream.packed else []))


def test_readers_do_not_need_to_write(tmp_path):
    write_toy(tmp_path)
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(Cache(tmp_path).stream(NAME)) == 10
        assert list(verify(Cache(tmp_path))) == []
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)


def test_an_open_stream_can_be_read_in_a_forked_process(tmp_path):
    write_toy(tmp_path)
    stream = Cache(tmp_path).stream(NAME)
    child = os.fork()
    if child == 0:
        os._exit(int(stream.packed("word").values.shape[0] != 3))
    assert os.waitpid(child, 0)[1] == 0


def test_cut_keeps_the_budget_and_every_utterance():
    costs = {f"u{i}": float(1 + i * 7 % 13) for i in range(100)}
    shards = cut(costs, 20.0)
    assert sorted(uid for shard in shards for uid in shard) == sorted(costs)
    assert all(len(s) == 1 or sum(costs[u] for u in s) <= 20.0 for s in shards)
    assert cut({"long": 99.0}, 20.0) == [("long",)]
    assert cut({}, 1.0) == []
