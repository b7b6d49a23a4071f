"""``mmser runs``: what is listed, shown and compared, and what cannot be."""

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from small_cache import LABELS, make_rows, write_cache
from test_cli_train import mmser
from test_train_head import FUSION, PROBE, predictions

from mmser.errors import ProtocolError
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.train.compare import compare, find_runs
from mmser.train.run import train_head


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fusion of two seeds; two runs that rate and classify; one that was not finished."""
    root = tmp_path_factory.mktemp("runs")
    rows = make_rows()
    rows["valence"] = rows["label"].map({"angry": 1.0, "happy": 5.0, "sad": 2.0})
    rows.loc[3, "valence"] = np.nan
    cache = write_cache(root / "toy", rows)
    train_head(cache, FUSION, root / "runs" / "fusion")
    both = replace(PROBE, task="both", dimensions=("valence",), seeds=2, layer="9")
    train_head(cache, both, root / "runs" / "layer-9")
    train_head(cache, replace(both, layer="0"), root / "runs" / "layer-0")
    shutil.copytree(
        root / "runs" / "fusion", root / "runs" / "begun", ignore=shutil.ignore_patterns("*.csv", "s*.json")
    )
    return root / "runs"


def test_every_run_folder_is_listed_and_no_head(runs: Path) -> None:
    assert [folder.name for folder in find_runs(runs)] == ["begun", "fusion", "layer-0", "layer-9"]
    result = mmser("runs", "list", runs)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].endswith("not finished")
    assert lines[2].split()[1:5] == ["late-fusion", "categorical", "speaker", "UA"]
    assert "UA 0." in lines[4]
    assert ", CCC of valence " in lines[4]
    assert "no such folder" in mmser("runs", "list", runs / "nowhere").stderr


def test_a_run_is_shown_as_it_was_printed(runs: Path) -> None:
    result = mmser("runs", "show", runs / "layer-9")
    assert result.exit_code == 0, result.output
    table = predictions(runs / "layer-9")
    own = table[table["truth"] == "sad"]
    assert f"sad {(own['prediction'] == 'sad').mean():.3f}" in result.stdout
    assert "task: both" in result.stdout
    assert "ECE 0." in result.stdout
    assert any(line.split()[:2] == ["speech-probe", "valence"] for line in result.stdout.splitlines())
    broken = mmser("runs", "show", runs / "begun")
    assert broken.exit_code == 1
    assert "summary.json: no such file; expected the folder of a finished mmser train-head" in broken.stderr


def brute_force(truth: np.ndarray, one: np.ndarray, other: np.ndarray, speakers: np.ndarray, figure) -> float:
    """Exact p-value, every assignment of speakers swapped by hand."""
    names, observed, hits = np.unique(speakers), abs(figure(truth, one) - figure(truth, other)), 0
    for swap in product([False, True], repeat=len(names)):
        turned = np.isin(speakers, names[list(swap)])
        a, b = np.where(turned, other, one), np.where(turned, one, other)
        hits += abs(figure(truth, a) - figure(truth, b)) >= observed - 1e-12
    return hits / 2 ** len(names)


def test_two_runs_are_compared_on_the_same_utterances(runs: Path) -> None:
    found = {one.figure: one for one in compare([runs / "layer-9", runs / "layer-0"])}
    assert list(found) == ["UA", "CCC of valence"]
    tables = [
        predictions(runs / name).sort_values(["seed", "utterance_id"]).reset_index() for name in ("layer-9", "layer-0")
    ]
    truth, speakers = (tables[0][name].to_numpy() for name in ("truth", "speaker"))
    said = [table["prediction"].to_numpy() for table in tables]
    ua = found["UA"]
    assert ua.value_one == pytest.approx(
        np.mean(
            [unweighted_average_recall(truth[:54], said[0][:54]), unweighted_average_recall(truth[54:], said[0][54:])]
        )
    )
    assert ua.p == brute_force(truth, *said, speakers, unweighted_average_recall)
    known = tables[0]["truth_valence"].notna().to_numpy()
    rated = [table["prediction_valence"].to_numpy()[known] for table in tables]
    seeds, told = tables[0]["seed"].to_numpy()[known], tables[0]["truth_valence"].to_numpy()[known]

    def mean_ccc(truth: np.ndarray, said: np.ndarray) -> float:
        return float(np.mean([concordance_correlation(truth[seeds == s], said[seeds == s]) for s in (0, 1)]))

    ccc = found["CCC of valence"]
    assert ccc.value_one == pytest.approx(mean_ccc(told, rated[0]), abs=1e-5)
    assert ccc.p == brute_force(told, *rated, speakers[known], mean_ccc)
    ps = sorted(one.p for one in found.values())
    assert sorted(one.p_holm for one in found.values()) == pytest.approx([min(1, 2 * ps[0]), max(2 * ps[0], ps[1])])
    assert ua.clusters == 6


def test_the_heads_of_one_fusion_are_compared(runs: Path) -> None:
    result = mmser("runs", "compare", runs / "fusion")
    assert result.exit_code == 0, result.output
    for pair in ("speech-probe - text-probe", "speech-probe - late-fusion", "text-probe - late-fusion"):
        assert pair in result.stdout
    assert "permutation test over 6 speakers; with so few speakers p cannot fall below 0.031" in result.stdout


def change(folder: Path, edit, to: Path) -> Path:
    shutil.copytree(folder, to)
    table = edit(pd.read_csv(to / "predictions.csv", keep_default_na=False))
    table.to_csv(to / "predictions.csv", index=False)
    return to


def without(*ids: str):
    return lambda table: table[~table["utterance_id"].isin(ids)]


def test_where_each_lacks_some_they_are_compared_on_what_both_have(runs: Path, tmp_path: Path) -> None:
    lacking = {"layer-9": ("s1_sad_0", "s2_happy_1"), "layer-0": ("s3_angry_2",)}
    folders = [change(runs / name, without(*ids), tmp_path / name) for name, ids in lacking.items()]
    found = {one.figure: one for one in compare(folders)}["UA"]
    assert (found.utterances, found.utterances_one, found.utterances_other) == (51, 52, 53)
    tables = [without(*sum(lacking.values(), ()))(predictions(runs / name)) for name in lacking]
    truth, speakers = (tables[0][name].to_numpy() for name in ("truth", "speaker"))
    said = [table["prediction"].to_numpy() for table in tables]
    assert len(truth) == 2 * 51
    assert found.value_one == pytest.approx(balanced_accuracy_score(truth, said[0]))
    assert found.value_other == pytest.approx(balanced_accuracy_score(truth, said[1]))
    assert found.p == brute_force(truth, *said, speakers, unweighted_average_recall)
    whole = {one.figure: one for one in compare([runs / name for name in lacking])}["UA"]
    assert found.value_one != whole.value_one
    result = mmser("runs", "compare", *folders)
    assert "51 of 52 and 53" in result.stdout
    assert "of the utterances that both runs were tested on" in result.stdout + result.stderr


def test_what_lacks_more_than_a_few_is_not_compared(runs: Path, tmp_path: Path) -> None:
    nine = runs / "layer-9"
    fewer = change(nine, without("s1_sad_0", "s1_sad_1", "s1_sad_2"), tmp_path / "fewer")
    message = r"on 54 utterances and .* on 51, 51 of them the same \('s1_sad_0' is in one only\); at most 5 % of either"
    with pytest.raises(ProtocolError, match=message):
        compare([nine, fewer])
    moved = change(nine, lambda table: without("s1_sad_0")(table).assign(fold="s9"), tmp_path / "moved")
    with pytest.raises(ProtocolError, match=r"do not agree on fold of utterance .* take the same --folds"):
        compare([nine, moved])
    rare = {"s1_sad_0": "rare", "s1_sad_1": "rare"}
    named = lambda table: table.assign(truth=table["utterance_id"].map(rare).fillna(table["truth"]))  # noqa: E731
    five = change(nine, named, tmp_path / "five")
    four = change(five, without(*rare), tmp_path / "four")
    with pytest.raises(ProtocolError, match="both tested on no utterance of class 'rare'"):
        compare([five, four])


def test_what_cannot_be_compared(runs: Path, tmp_path: Path) -> None:
    nine = runs / "layer-9"
    swapped = dict(zip(LABELS, LABELS[::-1], strict=True))
    other = change(nine, lambda table: table.assign(truth=table["truth"].map(swapped)), tmp_path / "other")
    with pytest.raises(ProtocolError, match="do not agree on truth of utterance 's10_angry_0'"):
        compare([nine, other])
    single = change(nine, lambda table: table[table["seed"] == 0], tmp_path / "single")
    with pytest.raises(ProtocolError, match=r"has 2 seeds and .* 1; train both with the same --seeds"):
        compare([nine, single])
    assert [one.figure for one in compare([nine, runs / "fusion"])] == ["UA"]  # what both have
    bare = change(nine, lambda table: table.drop(columns=["truth", "prediction"]), tmp_path / "bare")
    with pytest.raises(ProtocolError, match="have no target in common"):
        compare([bare, runs / "fusion"])
    for folders, message in (
        ([nine], "one head only"),
        ([nine, nine], "a run folder is named twice"),
        ([nine, runs / "begun"], "begun is no finished run folder"),
    ):
        with pytest.raises(ProtocolError, match=message):
            compare(folders)
