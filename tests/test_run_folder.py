"""A run folder holds one experiment, whole: what is another's is refused, and what is missing is made again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_cache import LABELS, edit_manifest, make_rows, write_cache
from small_corpus import mmser

from mmser.errors import MmserError, ProtocolError
from mmser.predict.ensemble import open_ensemble
from mmser.train.folder import HEAD_FILES, TABLES
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head, train_heads

PROBE = Experiment(
    head="speech-probe", settings={"hidden": 4}, learning_rate=0.03, training=Training(epochs=2, batch_size=16)
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("folder") / "toy")


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_head(cache, PROBE, tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lost", ["heads", "summary.json"])
def test_what_is_left_of_a_run_keeps_another_out(cache: Path, run: Path, lost: str) -> None:
    """Its tables would else stand under the other's name until that one is done, if ever."""
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    before = contents(run)
    with pytest.raises(ProtocolError, match=r"run holds another experiment: head was 'speech-probe', now 'text-probe'"):
        train_head(cache, replace(PROBE, head="text-probe"), run)
    assert contents(run) == before


def test_a_run_that_is_refused_costs_those_beside_it_nothing(cache: Path, run: Path, tmp_path: Path) -> None:
    """One that is asked for more seeds has its tables made anew, but not before all may begin."""
    other = train_head(cache, replace(PROBE, settings={"hidden": 8}), tmp_path / "other").folder
    before = contents(tmp_path)
    with pytest.raises(ProtocolError, match=r"other holds another experiment: settings\.hidden was 8, now 4"):
        train_heads(cache, [replace(PROBE, seeds=2), PROBE], [run, other])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lost", ["heads", *TABLES, *(f"heads/speech-probe-fold1-seed0/{name}" for name in HEAD_FILES)])
def test_what_is_missing_is_made_again(cache: Path, finished: Path, run: Path, lost: str) -> None:
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    train_head(cache, PROBE, run)
    tables = [pd.read_csv(folder / "predictions.csv") for folder in (finished, run)]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
    assert set(contents(run)) == set(contents(finished))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": '{"model_type": "wav2vec2"}'}, "config.json: not what mmser train-head writes, and would be"),
        ({"config.json": "[1]"}, "config.json: not what mmser train-head writes, and would be overwritten; give"),
        ({"results.csv": "mine"}, "mine holds results.csv and no config.json that says of which experiment"),
        (
            {"manifest.csv": "utterance_id"},
            r"mine is the folder of a cache \(it holds manifest.csv\); give another --out",
        ),
        ({"ablation.json": "{}"}, r"mine is the folder of an ablation \(it holds ablation.json\); give another --out"),
    ],
)
def test_other_peoples_files_are_not_overwritten(
    cache: Path, tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    before = contents(tmp_path / "mine")
    with pytest.raises(ProtocolError, match=message):
        train_head(cache, PROBE, tmp_path / "mine")
    assert contents(tmp_path / "mine") == before


def test_an_ablation_is_not_put_into_the_folder_of_a_run(cache: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text('[[row]]\nname = "text"\nhead = "text-probe"\n')
    for folder, what in ((run, r"of a run \(it holds config.json\)"), (cache, r"of a cache \(it holds manifest.csv\)")):
        before = contents(folder)
        result = mmser("ablate", cache, tmp_path / "grid.toml", "--out", folder)
        assert result.exit_code == 1
        assert f"{folder} is the folder {what.replace(chr(92), '')}; give another --out" in result.output
        assert contents(folder) == before


@pytest.mark.parametrize(
    ("head", "lost"),
    [
        ("text-probe", "predictions.csv"),
        ("text-probe", "heads"),
        ("text-probe", "heads/text-probe-fold0-seed0/model.safetensors"),
        ('late-fusion"\nfusion = "concat', "heads/late-fusion-fold1-seed0/model.safetensors"),
    ],
)
def test_a_cell_that_lacks_a_file_is_not_taken_for_finished(cache: Path, tmp_path: Path, head: str, lost: str) -> None:
    (tmp_path / "grid.toml").write_text(f'[base]\nepochs = 1\n[[row]]\nname = "text"\nhead = "{head}"\n')
    ablate = ("ablate", cache, tmp_path / "grid.toml", "--out", tmp_path / "runs")
    assert mmser(*ablate).exit_code == 0
    there = set(contents(tmp_path / "runs"))
    path = tmp_path / "runs" / "cells" / "text" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert mmser(*ablate).exit_code == 0
    assert set(contents(tmp_path / "runs")) == there


def test_the_head_of_another_run_is_not_taken_for_this_one(cache: Path, run: Path) -> None:
    """It may have learnt from what this run is tested on."""
    shutil.copytree(
        run / "heads" / "speech-probe-fold1-seed0", run / "heads" / "speech-probe-fold0-seed0", dirs_exist_ok=True
    )
    with pytest.raises(MmserError, match=r"speech-probe-fold0-seed0 holds another run's head, which may have learnt"):
        train_head(cache, PROBE, run)


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"history": [1]}, "TypeError"), ({"diverged": None}, "KeyError"), ({"history": [{"epoch": 1}]}, "KeyError")],
)
def test_a_damaged_record_of_a_head_is_named(cache: Path, run: Path, changes: dict, found: str) -> None:
    path = run / "heads" / "speech-probe-fold0-seed0" / "config.json"
    config = json.loads(path.read_text())
    config |= changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    with pytest.raises(
        MmserError, match=rf"config.json: not what mmser train-head writes \({found}.*run the same command"
    ):
        train_head(cache, PROBE, run)


def test_a_run_that_lost_heads_does_not_speak_for_all(run: Path) -> None:
    assert len(open_ensemble(run).heads) == 6
    shutil.rmtree(run / "heads" / "speech-probe-fold0-seed0")
    (run / "heads" / "speech-probe-fold3-seed0" / "config.json").unlink()
    with pytest.raises(
        ProtocolError, match=r"run: 2 of its 6 heads are not there \(first: speech-probe, fold 's1', seed 0"
    ):
        open_ensemble(run)


def test_a_dimension_that_nobody_rated_is_named_before_anything_is_written(tmp_path: Path) -> None:
    rows = make_rows().assign(arousal=1.0, dominance=np.nan, valence=np.nan)
    rows.loc[rows["speaker"] == "s2", "arousal"] = np.nan
    rows.loc[rows["speaker"].isin(["s1", "s2"]), "valence"] = 1.0
    cache = write_cache(tmp_path / "toy", rows)
    for dimension, told in {
        "dominance": "column 'dominance' rates 0 of the 54 test utterances; expected 2 or more",
        "valence": r"column 'valence' rates 0 of the \d+ train utterances of fold 's1'; expected 2 or more",
        "arousal": r"column 'arousal' rates 0 of the \d+ dev utterances of fold 's1'",
    }.items():
        rated = replace(PROBE, task="both", dimensions=(dimension,))
        with pytest.raises(ProtocolError, match=told):
            train_head(cache, rated, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tested_utterances_are_counted_apart_from_all(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    shutil.copytree(cache, folder)

    def split(rows: pd.DataFrame) -> None:
        rows["split"] = rows["speaker"].map({"s1": "test", "s2": "dev"}).fillna("train")

    edit_manifest(folder, split)
    probe = ("--head", "speech-probe", "--epochs", 1)
    result = mmser("train-head", folder, *probe, "--folds", "split", "--out", tmp_path / "run")
    tested = len(pd.read_csv(tmp_path / "run" / "predictions.csv"))
    assert f"{tested} tested of {len(make_rows())} utterances, {len(LABELS)} classes" in result.output
    result = mmser("train-head", cache, *probe, "--out", tmp_path / "all")
    assert f"\n{len(make_rows())} utterances, {len(LABELS)} classes" in result.output
