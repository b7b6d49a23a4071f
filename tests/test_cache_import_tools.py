"""Miniatures in the exact layouts of other tools: imported, byte for byte, and a head learns on each."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_cache import make_rows, toy_states
from test_cache_import_export import IDS, mmser

from mmser.cache import Cache
from mmser.manifest import Manifest, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(Manifest(make_rows(), tmp_path), tmp_path / "rows.csv")
    return tmp_path / "rows.csv"


def frames(uid: str) -> np.ndarray:
    return toy_states(uid, "frame")[-1].astype("f4")


def brought(source: Path, folder: Path, *more: object) -> Path:
    result = mmser("cache", "import", source, "--cache", folder / "cache", "--name", "x", *more)
    assert result.exit_code == 0, result.output
    assert mmser("cache", "verify", folder / "cache").exit_code == 0
    return folder / "cache"


def refused(source: Path, folder: Path, *more: object) -> str:
    result = mmser("cache", "import", source, "--cache", folder / "cache", "--name", "x", *more)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr


def learns(cache: Path, *more: object, head: str = "speech-probe", number: int = 54) -> None:
    """The class is planted in the states, so the head must do far better than chance."""
    out = cache.parent / "run"
    train = ["train-head", cache, "--head", head, "--seeds", "1", "--epochs", "8", "--device", "cpu", "--out", out]
    result = mmser(*train, *more)
    assert result.exit_code == 0, result.output
    predicted = pd.read_csv(out / "predictions.csv")
    assert len(predicted) == number
    chosen = predicted.filter(regex="^p_").idxmax(axis=1).str[2:]
    assert (predicted["truth"] == chosen).mean() > 0.6


def same_frames(cache: Path, name: str = "speech/x", granularity: str = "frame") -> None:
    stream = Cache(cache).stream(name)
    for uid in IDS[:7]:
        expected = frames(uid) if granularity == "frame" else toy_states(uid, "token")[-1, 1:-1].astype("f4")
        np.testing.assert_array_equal(stream.packed(granularity, utterances=[uid]).values[0], expected)


# --- EmoBox and MERBench: a file an utterance


@pytest.mark.parametrize("layered", [False, True])
def test_emobox_mirrors_the_folders_of_a_corpus(tmp_path: Path, manifest: Path, layered: bool) -> None:
    for uid in IDS:
        folder = tmp_path / "features" / uid.split("_")[0] / "wav"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{uid}.npy", toy_states(uid, "frame").astype("f4") if layered else frames(uid))
    cache = brought(tmp_path / "features", tmp_path, "--manifest", manifest)
    if not layered:
        same_frames(cache)
    learns(cache, "--granularity", "frame", "--folds", "session", "--layer", "mix" if layered else "-1")


def test_a_folder_an_utterance_is_refused(tmp_path: Path, manifest: Path) -> None:
    for uid in IDS[:2]:  # as MERBench lays out faces
        (tmp_path / "faces" / uid).mkdir(parents=True)
        np.save(tmp_path / "faces" / uid / "frame_1.npy", np.zeros(3, "f4"))
    assert "have one name; names of files are utterance ids" in refused(
        tmp_path / "faces", tmp_path, "--manifest", manifest
    )


@pytest.mark.parametrize("level", ["FRA", "UTT", "text"])
def test_merbench_drops_the_axis_of_one_row(tmp_path: Path, manifest: Path, level: str) -> None:
    features = tmp_path / f"model-{level}"
    features.mkdir()
    for i, uid in enumerate(IDS):
        states = frames(uid) if level == "FRA" else toy_states(uid, "token")[-1, 1:-1].astype("f4")
        if level == "UTT":
            states = frames(uid).mean(axis=0)
        elif i % 9 == 0:
            states = states[:1]
        np.save(features / f"{uid}.npy", states.squeeze())
    if level == "text":
        cache = brought(features, tmp_path, "--manifest", manifest, "--granularity", "token")
        learns(cache, "--folds", "session", head="text-probe")
        return
    cache = brought(features, tmp_path, "--manifest", manifest)
    if level == "FRA":
        np.testing.assert_array_equal(
            Cache(cache).stream("speech/x").packed("frame", utterances=[IDS[0]]).values[0], frames(IDS[0])[:1]
        )
    learns(cache, "--granularity", "frame" if level == "FRA" else "utterance", "--folds", "session", "--layer", "-1")


FRAMES_ONLY = "utterances and segments are pooled from frames: read these with --granularity frame"


@pytest.mark.parametrize(
    ("level", "head", "granularity", "message"),
    [
        ("FRA", "speech-probe", "word", FRAMES_ONLY),
        ("FRA", "coattention", "phone", FRAMES_ONLY),
        ("FRA", "speech-probe", "utterance", FRAMES_ONLY),
        ("FRA", "aligned-words", "frame", "speech/x was imported, and how long each of its frames lasts is not known"),
        (
            "UTT",
            "speech-probe",
            "word",
            "no 'word' states; pooled/x@none holds utterance. Extract with --keep word and",
        ),
        ("UTT", "coattention", "frame", "holds no frame states"),
        ("UTT", "aligned-words", "utterance", "needs the alignments align/none, which are not there"),
        ("UTT", "cnn14", "utterance", "holds no log-mel states"),
    ],
)
def test_heads_that_need_what_was_not_imported_say_so(
    tmp_path: Path, manifest: Path, level: str, head: str, granularity: str, message: str
) -> None:
    for name in ("features", "text"):
        (tmp_path / name).mkdir()
    for uid in IDS:
        np.save(tmp_path / "features" / f"{uid}.npy", frames(uid) if level == "FRA" else frames(uid).mean(axis=0))
        np.save(tmp_path / "text" / f"{uid}.npy", toy_states(uid, "token")[-1, 1:-1])
    cache = brought(tmp_path / "features", tmp_path, "--manifest", manifest)
    brought(tmp_path / "text", tmp_path, "--granularity", "token")
    asked = ["--head", head, "--granularity", granularity, "--layer", "-1", "--out", tmp_path / "no"]
    result = mmser("train-head", cache, *asked)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr


def test_imported_frames_are_not_pooled_over_an_alignment(tmp_path: Path, manifest: Path) -> None:
    """Nobody knows whether a frame is 10, 20 or 40 ms."""
    source = packed(tmp_path / "feats")
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    cache = brought(source, tmp_path, "--manifest", manifest, "--ids", tmp_path / "ids.txt")
    result = mmser("pool", cache, "--align", "none")
    assert result.exit_code == 1
    assert "its frames were imported, and how long each lasts is not known, so they cannot be pooled" in result.stderr


def test_the_help_shows_commands_that_work(tmp_path: Path, manifest: Path) -> None:
    """Imported features are one layer, and a mix, which is the default, takes several."""
    (tmp_path / "features").mkdir()
    for uid in IDS:
        np.save(tmp_path / "features" / f"{uid}.npy", frames(uid))
    cache = brought(tmp_path / "features", tmp_path, "--manifest", manifest)
    shown = next(
        line.split() for line in mmser("cache", "import", "--help").stdout.splitlines() if "train-head" in line
    )
    asked = ["--folds", "session", "--seeds", "1", "--epochs", "1", "--out", tmp_path / "run"]
    result = mmser("train-head", cache, *shown[3:], *asked)
    assert result.exit_code == 0, result.output


# --- emotion2vec: one .npy and .lengths


def packed(folder: Path) -> Path:
    folder.mkdir()
    np.save(folder / "train.npy", np.concatenate([frames(uid) for uid in IDS]))
    (folder / "train.lengths").write_text("".join(f"{len(frames(uid))}\n" for uid in IDS))
    return folder / "train.npy"


@pytest.mark.parametrize("told", ["emo", "tsv", "ids"])
def test_emotion2vec_packs_frames(tmp_path: Path, manifest: Path, told: str) -> None:
    source = packed(tmp_path / "feats")
    given: list[object] = ["--manifest", manifest]
    if told == "emo":
        source.with_suffix(".emo").write_text("".join(f"{uid}\t{uid.split('_')[1]}\n" for uid in IDS))
    elif told == "tsv":
        lines = [f"Session1/sentences/wav/{uid[:5]}/{uid}.wav\t16000\n" for uid in IDS]
        source.with_suffix(".tsv").write_text("/data/corpus\n" + "".join(lines))
    else:
        assert "Put train.emo or train.tsv beside it" in refused(source, tmp_path, *given)
        (tmp_path / "ids.txt").write_text("\n".join(IDS))
        given += ["--ids", tmp_path / "ids.txt"]
    cache = brought(source, tmp_path, *given)
    same_frames(cache)
    if told == "emo":
        learns(cache, "--granularity", "frame", "--folds", "session", "--layer", "-1")
        own = brought(source, tmp_path / "feats", "--own-manifest")
        assert Cache(own).manifest.table.set_index("utterance_id")["label"].to_dict() == {
            uid: uid.split("_")[1] for uid in IDS
        }


def test_lengths_that_contradict_the_frames(tmp_path: Path, manifest: Path) -> None:
    source = packed(tmp_path / "feats")
    source.with_suffix(".emo").write_text("".join(f"{uid}\tneu\n" for uid in IDS))
    lengths = source.with_suffix(".lengths")
    whole = lengths.read_text()
    for text, message in (
        (whole + "1\n", "counts"),
        (whole + "0\n", "counts the frames of 55 utterances, but 54 are named"),
        (whole.replace("\n", "x\n", 1), "expected a number of frames a line"),
        ("-" + whole, "counts"),
    ):
        lengths.write_text(text)
        assert message in refused(source, tmp_path, "--manifest", manifest)
    lengths.write_text(whole)
    source.with_suffix(".emo").write_text("alone\n")
    assert "expected an id and a label a line" in refused(source, tmp_path, "--manifest", manifest)


# --- MMSA: a pickle


_SPEAKERS = {"train": ("s1", "s2", "s3"), "valid": ("s4",), "test": ("s5", "s10")}
PARTS = {part: [uid for uid in IDS if uid.split("_")[0] in who] for part, who in _SPEAKERS.items()}


def mmsa(aligned: bool = False) -> dict[str, Any]:
    """The layout of unaligned_50.pkl, or of aligned_50.pkl, whose audio follows the tokens."""
    data = {}
    for part, ids in PARTS.items():
        tokens = [toy_states(uid, "token")[-1].astype("f4") for uid in ids]
        # what BERT makes of padding is not 0
        text, mask = np.full((len(ids), 9, 5), 77.0, "f4"), np.zeros((len(ids), 3, 9), "f4")
        longest = 9 if aligned else 20
        audio = np.zeros((len(ids), longest, 6), "f4")
        for i, uid in enumerate(ids):
            text[i, : len(tokens[i])], mask[i, 1, : len(tokens[i])] = tokens[i], 1
            audio[i, : len(tokens[i]) if aligned else len(frames(uid))] = (
                frames(uid)[: len(tokens[i])].mean(axis=0) if aligned else frames(uid)
            )
        emotion = [uid.split("_")[1] for uid in ids]
        data[part] = {
            "raw_text": np.array([f"{uid}  said" for uid in ids]),
            "audio": audio,
            "vision": np.zeros((len(ids), 4, 2), "f4"),
            "id": ["$_$".join(uid.rsplit("_", 1)) for uid in ids],
            "text": text,
            "text_bert": mask,
            "annotations": np.array([name.title() for name in emotion]),
            "classification_labels": np.zeros(len(ids), "f4"),
            "regression_labels": np.array([("angry", "happy", "sad").index(name) - 1 for name in emotion], "f4"),
        }
        if not aligned:
            data[part]["audio_lengths"] = [len(frames(uid)) for uid in ids]
            data[part]["vision_lengths"] = np.full(len(ids), 4)
    return data


def dumped(tmp_path: Path, data: object, protocol: int = 4) -> Path:
    path = tmp_path / "unaligned_50.pkl"
    path.write_bytes(pickle.dumps(data, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_audio_of_mmsa_with_its_own_splits_and_labels(tmp_path: Path, protocol: int) -> None:
    cache = brought(dumped(tmp_path, mmsa(), protocol), tmp_path, "--own-manifest")
    same_frames(cache)
    rows = Cache(cache).manifest.table.set_index("utterance_id").loc[IDS]
    assert rows["split"].value_counts().to_dict() == {"train": 27, "test": 18, "dev": 9}
    assert rows["label"].tolist() == [uid.split("_")[1] for uid in IDS]
    assert rows["sentiment"].tolist() == [{"angry": "-1", "happy": "0", "sad": "1"}[uid.split("_")[1]] for uid in IDS]
    assert rows["text"].iloc[0] == f"{IDS[0]} said"
    assert rows["speaker"].iloc[0] == IDS[0].rsplit("_", 1)[0]
    if protocol == 4:
        learns(cache, "--granularity", "frame", "--folds", "split", "--layer", "-1", number=18)


def test_text_of_mmsa_has_no_special_tokens_and_no_padding(tmp_path: Path, manifest: Path) -> None:
    cache = brought(dumped(tmp_path, mmsa()), tmp_path, "--manifest", manifest, "--key", "text")
    same_frames(cache, "text/x", "token")
    learns(cache, "--folds", "session", head="text-probe")


def test_audio_of_aligned_mmsa_is_as_long_as_the_tokens(tmp_path: Path, manifest: Path) -> None:
    cache = brought(dumped(tmp_path, mmsa(aligned=True)), tmp_path, "--manifest", manifest)
    stream = Cache(cache).stream("speech/x")
    for uid in IDS[:5]:
        assert stream.packed("frame", utterances=[uid]).values.shape[1] == toy_states(uid, "token").shape[1]


def test_minus_infinity_is_0_and_no_rows_are_no_features(tmp_path: Path, manifest: Path) -> None:
    data = mmsa()
    data["train"]["audio"][0, 0, 0] = -np.inf
    data["train"]["audio"][1], data["train"]["audio_lengths"][1] = 0, 0
    path = dumped(tmp_path, data)
    result = mmser("cache", "import", path, "--cache", tmp_path / "c", "--name", "x", "--manifest", manifest)
    assert "1 of the manifest's 54 utterances have none" in result.stdout
    assert Cache(tmp_path / "c").stream("speech/x").packed("frame", utterances=[IDS[0]]).values[0, 0, 0] == 0


class Evil:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_bad_pickles_are_one_clear_error(tmp_path: Path, manifest: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def error(change: Any, *more: object) -> str:
        data = mmsa()
        given = change(data) or data
        return refused(dumped(tmp_path, given), tmp_path, "--manifest", manifest, *more)

    assert "asks for posix.system" in error(lambda d: d["test"].update(more=Evil()))
    assert "asks for posix.system" in error(lambda d: Evil())
    assert not Path("ran").exists()
    assert "holds no part 'train'" in error(lambda d: [1])
    assert "no features 'speech'; choose with --key from audio, vision, text" in error(
        lambda d: None, "--key", "speech"
    )
    assert "text_bert holds numbers of tokens" in error(lambda d: None, "--key", "text_bert")
    assert "expected utterance ids as 'id'" in error(lambda d: d["train"].pop("id") and None)
    assert "26 ids, but audio is of shape" in error(lambda d: d["train"]["id"].pop() and None)
    assert "lengths up to 99 for audio" in error(lambda d: d["valid"].update(audio_lengths=[99] * 9))
    assert "audio_lengths are not all whole" in error(lambda d: d["valid"].update(audio_lengths=[1.5] * 9))
    assert "but not 0 behind them" in error(lambda d: d["valid"].update(audio_lengths=[1] * 9))
    assert "looks like a path" in error(lambda d: d["test"]["id"].__setitem__(0, "../../x"))
    assert "--key a names features of a .pkl" in refused(tmp_path, tmp_path, "--manifest", manifest, "--key", "a")
    path = dumped(tmp_path, mmsa())
    path.write_bytes(path.read_bytes()[:5000])
    assert "cut short" in refused(path, tmp_path, "--manifest", manifest)
