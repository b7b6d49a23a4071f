"""Features in and out: the same bytes, the ids' own rows, and nothing unpickled."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_cache import FRAMES, LAYERS, POOLED, make_rows, toy_states, write_cache
from small_corpus import mmser

from mmser.cache import Cache, export, open_foreign
from mmser.manifest import Manifest, write_manifest


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(Manifest(make_rows(), tmp_path), tmp_path / "rows.csv")
    return tmp_path / "rows.csv"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")


IDS = make_rows()["utterance_id"].tolist()


def write_npy(folder: Path, granularity: str = "utterance", layer: int | None = -1, dtype: str = "f4") -> Path:
    folder.mkdir()
    for uid in IDS:
        states = toy_states(uid, granularity).astype(dtype)
        part = states if layer is None else states[layer]
        np.save(folder / f"{uid}.npy", part[0] if granularity == "utterance" and layer is not None else part)
    return folder


# --- in


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_a_head_learns_on_a_folder_of_npy(tmp_path: Path, manifest: Path, granularity: str) -> None:
    features = write_npy(tmp_path / "features", granularity)
    path = tmp_path / "cache"
    result = mmser("cache", "import", features, "--cache", path, "--name", "toy/net", "--manifest", manifest)
    assert result.exit_code == 0, result.output
    assert f"54 utterances added ({granularity} states)" in result.stdout
    assert mmser("cache", "verify", path).exit_code == 0
    train = ["train-head", path, "--head", "speech-probe", "--granularity", granularity, "--folds", "session"]
    result = mmser(
        *train, "--layer", "-1", "--seeds", "1", "--epochs", "8", "--device", "cpu", "--out", tmp_path / "run"
    )
    assert result.exit_code == 0, result.output
    predicted = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(predicted) == 54
    # the class is planted in the last layer, so the head must do far better than chance
    assert (predicted["truth"] == predicted[["p_angry", "p_happy", "p_sad"]].idxmax(axis=1).str[2:]).mean() > 0.6
    result = mmser("train-head", path, "--head", "speech-probe", "--granularity", "word", "--out", tmp_path / "no")
    assert result.exit_code == 1
    assert "no 'word' states" in result.stderr or "holds no pooled speech states" in result.stderr


def test_all_layers_of_a_folder(tmp_path: Path, manifest: Path) -> None:
    features = write_npy(tmp_path / "features", "frame", None, "f2")
    assert (
        mmser("cache", "import", features, "--cache", tmp_path / "c", "--name", "x", "--manifest", manifest).exit_code
        == 0
    )
    stream = Cache(tmp_path / "c").stream("speech/x")
    assert stream.layers == [0, 1, 2]
    for uid in IDS[:5]:
        np.testing.assert_array_equal(
            stream.packed("frame", utterances=[uid]).values.view("u2"), toy_states(uid, "frame").view("u2")
        )


@pytest.mark.parametrize("form", ["npy", "npz", "npz without ids"])
def test_a_matrix_and_its_ids(tmp_path: Path, manifest: Path, form: str) -> None:
    matrix = np.stack([toy_states(uid, "utterance")[-1, 0] for uid in reversed(IDS)]).astype("f8")
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(reversed(IDS)) + "\n")
    given = ["--ids", ids]
    if form == "npy":
        np.save(tmp_path / "m.npy", matrix)
    elif form == "npz":
        np.savez_compressed(tmp_path / "m.npz", x=np.asfortranarray(matrix), ids=np.array(IDS[::-1]))
        given = []
    else:
        np.savez(tmp_path / "m.npz", x=matrix)
    source = tmp_path / f"m.{form[:3]}"
    result = mmser("cache", "import", source, "--cache", tmp_path / "c", "--name", "x", "--manifest", manifest, *given)
    assert result.exit_code == 0, result.output
    features = Cache(tmp_path / "c").to_numpy(layer=0)
    assert features.utterance_ids == IDS
    assert features.values.dtype == np.float32
    np.testing.assert_array_equal(features.values, matrix[::-1].astype("f4"))


def test_what_one_side_alone_knows_is_told(tmp_path: Path, manifest: Path) -> None:
    features = write_npy(tmp_path / "features")
    (features / f"{IDS[0]}.npy").rename(features / "stranger.npy")
    result = mmser("cache", "import", features, "--cache", tmp_path / "c", "--name", "x", "--manifest", manifest)
    assert "1 are not in the manifest and were left out ('stranger', ...)" in result.stdout
    assert "1 of the manifest's 54 utterances have none" in result.stdout
    # given later, it is added; the manifest need not be named again
    (features / "stranger.npy").rename(features / f"{IDS[0]}.npy")
    result = mmser("cache", "import", features, "--cache", tmp_path / "c", "--name", "x")
    assert "1 utterances added" in result.stdout
    assert "have none" not in result.stdout
    result = mmser("cache", "import", features, "--cache", tmp_path / "c", "--name", "x", "--dtype", "float16")
    assert result.exit_code == 1
    assert "was made by another recipe: dtype was 'float32', now 'float16'" in result.stderr


class Evil:
    def __reduce__(self):
        return (Path("unpickled").touch, ())


def _spoil(features: Path, kind: str) -> None:
    path = features / f"{IDS[3]}.npy"
    if kind == "objects":
        np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:-4])
    elif kind == "absurd shape":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
        path.write_bytes(header.getvalue())
    elif kind == "not finite":
        np.save(path, np.full(6, np.nan, "f4"))
    elif kind == "other width":
        np.save(path, np.zeros(7, "f4"))
    elif kind == "other type":
        np.save(path, np.zeros(6, "f8"))
    elif kind == "integers":
        for file in features.iterdir():
            np.save(file, np.zeros(6, "i4"))
    elif kind == "four axes":
        np.save(path, np.zeros((1, 1, 1, 6), "f4"))
    elif kind == "no file":
        for file in features.iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("objects", "not an array that can be read"),
        ("pickle", "not an array that can be read"),
        ("cut short", "not an array that can be read"),
        ("absurd shape", "not an array that can be read"),
        ("not finite", f"utterance '{IDS[3]}': a value is nan, not a number"),
        ("other width", f"utterance '{IDS[3]}': 1 layers of 7 dimensions, unlike the others (1 of 6)"),
        ("other type", "its files hold float32, float64; expected one type in all"),
        ("integers", "holds int32, expected float16, float32 or float64"),
        ("four axes", f"utterance '{IDS[3]}': features of shape (1, 1, 1, 6); expected (D,)"),
        ("no file", "holds no <utterance_id>.npy"),
    ],
)
def test_bad_features_are_one_clear_error(tmp_path: Path, manifest: Path, monkeypatch, kind: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    features = write_npy(tmp_path / "features")
    _spoil(features, kind)
    result = mmser("cache", "import", features, "--cache", tmp_path / "c", "--name", "x", "--manifest", manifest)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not Path("unpickled").exists()
    assert list((tmp_path / "c").rglob("*.h5")) == []


def test_an_archive_that_claims_more_than_it_holds(tmp_path: Path, manifest: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 34, 4)})
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    given = ["--cache", tmp_path / "c", "--name", "x", "--manifest", manifest]
    result = mmser("cache", "import", tmp_path / "m.npz", *given)
    assert result.exit_code == 1
    assert "not an archive of arrays that can be read" in result.stderr
    np.save(tmp_path / "m.npy", np.zeros((3, 2), "f4"))
    assert "Give --ids FILE" in mmser("cache", "import", tmp_path / "m.npy", *given).stderr
    (tmp_path / "ids.txt").write_text("../a\nb\nc\n")
    result = mmser("cache", "import", tmp_path / "m.npy", *given, "--ids", tmp_path / "ids.txt")
    assert "looks like a path" in result.stderr
    (tmp_path / "ids.txt").write_text("a\nb\n")
    result = mmser("cache", "import", tmp_path / "m.npy", *given, "--ids", tmp_path / "ids.txt")
    assert "expected 2 rows, one an id" in result.stderr
    assert "not there" in mmser("cache", "import", tmp_path / "none", *given).stderr


def test_features_of_nobody_and_of_segments(tmp_path: Path, manifest: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    np.save(features / "nobody.npy", np.zeros(4, "f4"))
    given = ["--cache", tmp_path / "c", "--name", "x", "--manifest", manifest]
    result = mmser("cache", "import", features, *given)
    assert "none of the 1 utterances to import ('nobody', ...) is among the manifest's 54" in result.stderr
    np.save(features / f"{IDS[0]}.npy", np.zeros((3, 4), "f4"))
    (features / "nobody.npy").unlink()
    result = mmser("cache", "import", features, *given, "--granularity", "utterance")
    assert "3 rows, shape (3, 4); expected one" in result.stderr


# --- out, and back


@pytest.mark.parametrize("form", ["files", "matrix"])
@pytest.mark.parametrize(("stream", "granularity", "layers"), [(FRAMES, "frame", LAYERS), (POOLED, "utterance", [4])])
def test_out_and_back_and_out_again_is_the_same_bytes(
    cache: Path, tmp_path: Path, form: str, stream: str, granularity: str, layers: list[int]
) -> None:
    given = ["--stream", stream, "--granularity", granularity, "--as", form]
    for layer in layers:
        given += ["--layer", layer]
    result = mmser("cache", "export", cache, *given, "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    manifest = cache / "manifest.csv"
    result = mmser(
        "cache", "import", tmp_path / "one", "--cache", tmp_path / "c", "--name", "t", "--manifest", manifest
    )
    assert result.exit_code == 0, result.output
    (name,) = Cache(tmp_path / "c").stream_names
    again = Cache(tmp_path / "c").stream(name)
    assert again.layers == layers
    first = Cache(cache).stream(stream).packed(granularity, layers=layers, utterances=IDS)
    second = again.packed(granularity, utterances=IDS)
    assert first.values.tobytes() == second.values.tobytes()
    given[1] = name
    assert mmser("cache", "export", tmp_path / "c", *given, "--out", tmp_path / "two").exit_code == 0
    one, two = (pd.read_csv(tmp_path / n / "index.csv").set_index("utterance_id").sort_index() for n in ("one", "two"))
    assert one.equals(two)
    if form == "files":
        one_, two_ = (content(tmp_path / n) for n in ("one", "two"))
        assert {k: v for k, v in one_.items() if k.endswith("npy")} == {
            k: v for k, v in two_.items() if k.endswith("npy")
        }
        plain = np.load(tmp_path / "one" / f"{IDS[0]}.npy", allow_pickle=False)
        np.testing.assert_array_equal(plain, first.of(IDS[0])[0 if len(layers) == 1 else slice(None)])


def test_source_digests_survive_and_changed_files_are_found(tmp_path: Path) -> None:
    from test_cache import NAME, write_toy

    write_toy(tmp_path / "toy")
    stream = Cache(tmp_path / "toy").stream(NAME)
    export(stream, "word", tmp_path / "out")
    source = open_foreign(tmp_path / "out")
    assert source.digests == {"audio": stream.digests("audio")}
    assert source.layers == (0, 4, 9)
    path = tmp_path / "out" / "u7.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match=r"the features of 'u7' have changed since they were exported"):
        source.read("u7")
    source.read("u6")


def test_export_refuses_what_is_not_there_or_damaged(cache: Path, tmp_path: Path) -> None:
    given = ["--stream", FRAMES, "--granularity", "frame", "--out", tmp_path / "out"]
    for more, message in (
        (["--granularity", "word"], "holds no 'word' states"),
        (["--layer", "5"], "layer 5 is not in stream"),
        (["--stream", "text/none"], "no stream 'text/none'"),
    ):
        result = mmser("cache", "export", cache, *given, *more)
        assert result.exit_code == 1
        assert message in result.stderr
    shard = Cache(cache).stream(FRAMES).shards[0]
    data = bytearray(shard.path.read_bytes())
    data[shard.places["frame/states"].offset] ^= 1
    shard.path.write_bytes(data)
    result = mmser("cache", "export", cache, *given)
    assert "frame/states changed since it was written" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert "there already" in mmser("cache", "export", cache, *given).stderr
