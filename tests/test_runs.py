"""``mmser runs``: what is listed, shown and compared, and what cannot be."""

import json
import re
import shutil
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from small_cache import LABELS, make_rows, write_cache
from test_cli_train import mmser
from test_train_head import FUSION, PROBE, predictions

from mmser.api import Runs
from mmser.errors import ProtocolError
from mmser.heads import Head
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.report.read import read_study
from mmser.statistics import holm
from mmser.train.compare import Difference, compare, compare_heads
from mmser.train.folder import as_json
from mmser.train.run import train_head
from mmser.train.runs import find_runs


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


def test_no_minus_stands_before_zero(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(stored: dict) -> None:
        line = stored["rating_lines"][0]
        line.update(ccc=-0.0003, ccc_of_folds=-0.0, interval={**line["interval"], "low": -0.12, "high": -0.0004})

    folder = edited(runs / "layer-9", tmp_path / "run", "summary.json", small)
    listed, shown = (mmser("runs", name, folder).stdout for name in ("list", "show"))
    assert listed.rstrip().endswith("CCC of valence 0.000")
    assert any(line.split()[2:7] == ["0.000", "-0.120", "to", "0.000", "0.000"] for line in shown.splitlines())
    leaking = replace(Runs(folder).rating_lines[0], ccc=-0.0002)
    (folder / "oracle.json").write_text(json.dumps(as_json({"lines": [], "rating_lines": [asdict(leaking)]})))
    edited(folder, tmp_path / "leaks", "config.json", lambda own: own["experiment"].update(report_oracle=True))
    leak = "Oracle, LEAKS (epoch chosen on the test part): speech-probe, CCC of valence 0.000 (+0.000)"
    assert leak in mmser("runs", "show", tmp_path / "leaks").stdout.splitlines()
    notebook = Runs(tmp_path / "leaks")
    assert leak in notebook.remarks()
    assert "-0.000" not in notebook._repr_html_()
    (one,) = compare([runs / "fusion"])[:1]
    equal = replace(one, value_one=-0.0004, value_other=-0.0001)
    monkeypatch.setattr("mmser.train.compare.compare", lambda _: [equal])
    assert " 0.000 - 0.000      +0.000 " in mmser("runs", "compare", runs / "fusion").stdout


def shown_fields(folder: Path) -> dict[str, str]:
    """What ``runs show`` prints of the experiment."""
    lines = mmser("runs", "show", folder).stdout.splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if line.startswith("command: "))]
    return dict(line.split(": ", 1) for line in head)


def test_what_nothing_reads_is_not_shown(runs: Path, tmp_path: Path) -> None:
    rated, fused = shown_fields(runs / "layer-9"), shown_fields(runs / "fusion")
    assert rated["dimensions"] == "['valence']"
    assert not {"fusion", "dev_share", "dev_seed"} & set(rated)
    assert fused["fusion"] == "mean"
    assert "dimensions" not in fused
    assert {"head", "layer", "granularity", "label", "folds", "seeds", "learning_rate"} <= set(rated)
    for of_another_version in ({"wings": 2}, {"head": "unheard-of"}, {"members": 3}):
        folder = tmp_path / next(iter(of_another_version))
        edited(runs / "fusion", folder, "config.json", lambda own: own["experiment"].update(of_another_version))  # noqa: B023
        assert "dimensions" in shown_fields(folder)


def test_the_oracle_is_shown_again(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--head", "late-fusion", "--task", "both", "--dimensions", "valence", "--epochs", 1, "--set", "hidden=4")
    trained = mmser("train-head", runs.parent / "toy", *options, "--report-oracle", "--out", folder)
    assert trained.exit_code == 0, trained.output
    leaks = [line for line in trained.stdout.splitlines() if line.startswith("Oracle, LEAKS")]
    assert len(leaks) == 6
    again = mmser("runs", "show", folder).stdout.splitlines()
    assert [line for line in again if line.startswith("Oracle")] == leaks
    told = json.loads(mmser("runs", "show", folder, "--json").stdout)["oracle"]
    assert told == json.loads((folder / "oracle.json").read_text())
    (folder / "oracle.json").write_text("{}")
    assert "oracle.json: it lacks 'lines'; delete the run's summary.json and" in mmser("runs", "show", folder).stderr


def test_a_label_that_breaks_lines_is_shown_escaped(tmp_path: Path) -> None:
    rows = make_rows()
    rows["label"] = rows["label"].replace("sad", "sad\n\x1b[2J")
    train_head(write_cache(tmp_path / "toy", rows), replace(PROBE, label="label"), tmp_path / "run")
    result = mmser("runs", "show", tmp_path / "run")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "recall of" in line]
    assert r"sad\n\x1b[2J " in line
    assert "ECE" in line


def edited(folder: Path, to: Path, name: str, edit) -> Path:
    """A copy of a run folder, the JSON of one file of which was edited in place, or given anew."""
    shutil.copytree(folder, to)
    stored = json.loads((to / name).read_text())
    given = edit(stored)
    (to / name).write_text(json.dumps(stored if given is None else given))
    return to


def renamed(stored: dict) -> None:
    stored["lines"][0]["UA"] = stored["lines"][0].pop("ua")


DAMAGED = [
    ("summary.json", lambda _: {}, r"it lacks 'lines'"),
    ("summary.json", lambda _: [], r"expected a JSON object"),
    ("summary.json", renamed, r"lines\[0\] lacks 'ua'"),
    ("summary.json", lambda stored: stored["lines"][0].update(ua="x"), r"lines\[0\]\.ua is 'x', expected a number"),
    ("summary.json", lambda stored: stored["lines"][0].update(ua=np.nan), r"lines\[0\]\.ua is nan, expected a number"),
    ("summary.json", lambda stored: stored["lines"][0].update(more=1), r"lines\[0\] has 'more', which this version"),
    (
        "summary.json",
        lambda stored: stored["lines"][0]["interval"].update(unit=3),
        r"unit is 3, expected one of",
    ),
    ("summary.json", lambda stored: stored["lines"][0].update(interval=[]), r"interval is \[\], expected an object"),
    ("summary.json", lambda stored: stored.update(left_out=None), r"left_out is None, expected an object"),
    ("summary.json", lambda stored: stored.update(notes="none"), r"notes is 'none', expected a list"),
    (
        "summary.json",
        lambda stored: stored["labels"].remove("sad"),
        r"of speech-probe is not of its 2 labels",
    ),
    ("summary.json", lambda stored: stored.update(lines=[], rating_lines=[]), r"no line of any head"),
    ("config.json", lambda _: {}, r"it lacks 'experiment'"),
    ("config.json", lambda stored: stored.update(experiment=3), r"experiment is 3, expected an object"),
    ("config.json", lambda stored: stored["experiment"].clear(), r"experiment lacks 'head'"),
    ("config.json", lambda stored: stored["experiment"].__delitem__("settings"), r"experiment lacks 'settings'"),
    ("config.json", lambda stored: stored["experiment"].update(settings=3), r"settings is 3, expected an object"),
    ("config.json", lambda stored: stored.update(streams=[]), r"streams is \[\], expected an object"),
]


@pytest.mark.parametrize(("name", "edit", "message"), DAMAGED)
def test_a_damaged_file_is_named_with_what_is_wrong_and_how_it_is_mended(
    runs: Path, tmp_path: Path, name: str, edit, message: str
) -> None:
    folder = edited(runs / "layer-9", tmp_path / "run", name, edit)
    shown = mmser("runs", "show", folder)
    assert shown.exit_code == 1
    again = "; delete it and run the same command again, which writes it anew from the heads that are there\n"
    assert re.fullmatch(rf"Error: {folder / name}: .*{message}.*{again}", shown.stderr)
    with pytest.raises(ProtocolError, match=message):
        read_study(folder)


def test_the_same_command_again_mends_what_was_deleted(runs: Path, tmp_path: Path) -> None:
    both = replace(PROBE, task="both", dimensions=("valence",), seeds=2, layer="9")
    folder = shutil.copytree(runs / "layer-9", tmp_path / "run")
    heads = {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")}
    for name in ("summary.json", "config.json"):
        (folder / name).unlink()
    train_head(runs.parent / "toy", both, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")} == heads
    for name in ("summary.json", "config.json"):
        assert (folder / name).read_text() == (runs / "layer-9" / name).read_text()


def test_a_damaged_run_is_listed_as_such_and_the_others_go_on(runs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("begun"))
    for folder in ("a", "b", "c"):
        shutil.copytree(runs / "fusion", root / folder)
    (root / "a" / "summary.json").write_text("{}")
    (root / "b" / "config.json").write_text("{}")
    (root / "c" / "config.json").write_text("{")
    result = mmser("runs", "list", root)
    assert result.exit_code == 0, result.output
    states = {line.split()[0].removeprefix(f"{root}/"): line.split()[4] for line in result.stdout.splitlines()[1:]}
    assert states == {**dict.fromkeys("abc", "damaged"), **dict.fromkeys(("fusion", "layer-0", "layer-9"), "UA")}
    told = result.stderr.splitlines()
    assert told[0].startswith(f"Damaged: {root / 'a' / 'summary.json'}: it lacks 'lines'; delete it")
    assert told[1].startswith(f"Damaged: {root / 'b' / 'config.json'}: it lacks 'experiment'; delete it")
    assert told[2].startswith(f"Damaged: {root / 'c' / 'config.json'}: not readable as JSON")
    assert "; delete it and run the same command again" in told[2]
    listed = {Path(run["folder"]).name: run for run in json.loads(mmser("runs", "list", root, "--json").stdout)["runs"]}
    assert listed["a"]["damaged"] == told[0].removeprefix("Damaged: ")
    assert (listed["a"]["head"], listed["a"]["summary"], listed["fusion"]["damaged"]) == ("late-fusion", None, None)
    study = read_study(root)
    assert {row.folder.name for row in study.rows} == {"fusion", "layer-0", "layer-9"}
    assert list(study.failed.values()) == [line.removeprefix("Damaged: ") for line in told]


def test_models_and_heads_are_no_runs(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs / "layer-9", root / "heads" / "layer-9")  # whatever a run is called
    for name in ("bert", "broken"):
        (root / name).mkdir(parents=True)
    (root / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (root / "broken" / "config.json").write_text("{")
    stored = next((runs / "layer-9" / "heads").iterdir())
    shutil.copytree(stored, root / "pushed")
    Head.from_pretrained(stored).save_pretrained(root / "saved")
    assert find_runs(root) == [root / "heads" / "layer-9"]
    assert len(mmser("runs", "list", root).stdout.splitlines()) == 2
    with pytest.raises(ProtocolError, match=rf"{root / 'saved'}/config\.json: no 'experiment' in it; expected a run"):
        read_study(root / "saved")


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
    assert (ua.clusters, ua.unit) == (6, "speaker")


def test_where_no_two_speakers_are_known_utterances_are_swapped_and_it_is_said(runs: Path, tmp_path: Path) -> None:
    names = ("layer-9", "layer-0")
    alone = [change(runs / name, lambda own: own.assign(speaker=""), tmp_path / "alone" / name) for name in names]
    found = compare(alone, num_permutations=99)
    assert {(one.clusters, one.unit) for one in found} == {(54, "utterance"), (53, "utterance")}
    assert [100 * one.p for one in found] == pytest.approx([round(100 * one.p) for one in found])
    told = mmser("runs", "compare", *alone).stdout.splitlines()[-1]
    assert told == "paired permutation test over 53 utterances"

    def rated_of_one(own: pd.DataFrame) -> pd.DataFrame:
        return own.assign(truth_valence=own["truth_valence"].where(own["speaker"] == own["speaker"].iloc[0], ""))

    mixed = [change(runs / name, rated_of_one, tmp_path / "mixed" / name) for name in names]
    assert mmser("runs", "compare", *mixed).stdout.splitlines()[-2:] == [
        "UA: paired permutation test over 6 speakers; with so few speakers p cannot fall below 0.031",
        "CCC of valence: paired permutation test over 9 utterances; with so few utterances p cannot fall below 0.0039",
    ]


def test_the_heads_of_one_fusion_are_compared(runs: Path) -> None:
    result = mmser("runs", "compare", runs / "fusion")
    assert result.exit_code == 0, result.output
    for pair in ("speech-probe - text-probe", "speech-probe - late-fusion", "text-probe - late-fusion"):
        assert pair in result.stdout
    assert "permutation test over 6 speakers; with so few speakers p cannot fall below 0.031" in result.stdout


def test_p_is_adjusted_for_all_pairs_together(runs: Path) -> None:
    found = compare([runs / "fusion"])
    assert len(found) == 3
    assert [one.p_holm for one in found] == pytest.approx(holm([one.p for one in found]).tolist())


def test_of_several_folders_a_fusion_stands_for_itself_and_not_for_its_members(runs: Path) -> None:
    ua = {one.figure: one for one in compare([runs / "fusion", runs / "layer-9"])}["UA"]
    table = predictions(runs / "fusion")
    of_heads = {head: balanced_accuracy_score(own["truth"], own["prediction"]) for head, own in table.groupby("head")}
    assert len(set(of_heads.values())) == 3
    assert ua.value_one == pytest.approx(of_heads["late-fusion"])


def of_twenty(**changes: float) -> pd.DataFrame:
    """A speaker an utterance: too many to enumerate. Of the first no class is known, of the last two no rating."""
    truth = ["", *["hot", "cold"] * 9, "hot"]
    rated = np.array([*range(1, 19), np.nan, np.nan])
    table = pd.DataFrame(
        {
            "fold": "f",
            "seed": 0,
            "utterance_id": [f"u{n:02d}" for n in range(20)],
            "speaker": [f"s{n}" for n in range(20)],
            "truth": truth,
            "prediction": [own or "hot" for own in truth],
            "truth_valence": rated,
            "prediction_valence": rated,
        }
    )
    for name, value in changes.items():
        table.loc[3, name] = value
    return table


def test_figures_are_of_what_is_known_and_p_of_as_many_swaps_as_were_asked_for() -> None:
    """One is right about all, the other wrong: no swap of some makes as large a difference."""
    right = of_twenty()
    wrong = right.assign(prediction=right["truth"].map({"hot": "cold", "cold": "hot", "": "hot"}))
    wrong["prediction_valence"] = 19 - wrong["prediction_valence"]
    for asked, p in (({"num_permutations": 99}, 1 / 100), ({}, 1 / 10_000)):
        ua, ccc = compare_heads(("a", right), ("b", wrong), **asked)
        assert (ua.p, ccc.p) == (p, p)
        assert (ua.value_one, ua.value_other, ua.utterances, ua.clusters) == (1.0, 0.0, 19, 19)
        assert (ccc.value_one, ccc.utterances, ccc.clusters) == (1.0, 18, 18)
        assert ccc.value_other == pytest.approx(-1.0)


def test_whose_answers_are_no_numbers_is_named() -> None:
    sound, odd = of_twenty(), of_twenty(prediction_valence=np.inf)
    for one, other in ((sound, odd), (odd, sound)):
        name = "one" if one is odd else "other"
        with pytest.raises(ProtocolError, match=f"1 of the 18 answers of {name} that make its CCC of valence are no"):
            compare_heads(("one", one), ("other", other))


@pytest.mark.parametrize(("counts", "fewer"), [((9, 9, 9), False), ((9, 12, 9), True), ((9, 9, 12), True)])
def test_a_pair_is_on_fewer_utterances_where_either_has_more(counts: tuple[int, int, int], fewer: bool) -> None:
    one = Difference("a", "b", "UA", 0.5, 0.5, 1.0, 1.0, 6, "speaker", *counts)
    assert one.is_on_fewer is fewer


def change(folder: Path, edit, to: Path) -> Path:
    """A copy of a run folder with other predictions, and with results and a summary of the same rows and classes."""
    shutil.copytree(folder, to)
    table = edit(pd.read_csv(to / "predictions.csv", keep_default_na=False))
    labels = sorted(set(table.get("truth", [])))
    table = table.assign(**{f"p_{label}": 0.0 for label in labels if f"p_{label}" not in table})
    table.to_csv(to / "predictions.csv", index=False)
    results = table.groupby(["head", "fold", "seed"]).size().rename("num_test").reset_index()
    rest = {"learning_rate": 0.1, "weight_decay": 0.0, "best_epoch": 1, "dev_score": 0.5}
    results.assign(**rest).to_csv(to / "results.csv", index=False)
    summary = json.loads((to / "summary.json").read_text())
    for line in summary["lines"]:
        line["confusion"] = [[0] * len(labels)] * len(labels)
    (to / "summary.json").write_text(json.dumps({**summary, "labels": labels}))
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
    # of s4_angry_0 no rating is known
    ccc = {one.figure: one for one in compare(folders)}["CCC of valence"]
    assert (ccc.utterances, ccc.utterances_one, ccc.utterances_other) == (50, 51, 52)
    ccc = {one.figure: one for one in compare([runs / name for name in lacking])}["CCC of valence"]
    assert (ccc.utterances, ccc.utterances_one, ccc.utterances_other, ccc.is_on_fewer) == (53, 53, 53, False)
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


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda own: own[:-1], r"\d rows of 'speech-probe', fold 's10', seed 1; expected 9, as results\.csv has it"),
        (lambda own: own[:0], "no rows, expected one for each test utterance"),
        (lambda own: own.drop(columns="prediction"), r"no column 'prediction', which summary\.json asks for"),
        (lambda own: own.assign(seed=["x", *own["seed"][1:]]), "not every seed is a whole number"),
        (lambda own: own.iloc[[1, *range(1, len(own))]], r"utterance '\w+' twice of 'speech-probe', seed 0; expected"),
        (
            lambda own: own.assign(utterance_id=["other", *own["utterance_id"][1:]]),
            "utterance 'other' of 'speech-probe' under 1 seeds; expected all 2",
        ),
    ],
)
def test_damaged_predictions_are_not_compared(runs: Path, tmp_path: Path, edit, message: str) -> None:
    folder = shutil.copytree(runs / "layer-9", tmp_path / "run")
    edit(pd.read_csv(folder / "predictions.csv", keep_default_na=False)).to_csv(folder / "predictions.csv", index=False)
    again = "; delete the run's summary.json and run the same command again, which writes both anew"
    with pytest.raises(ProtocolError, match=rf"^{folder / 'predictions.csv'}: {message}.*{again}$"):
        compare([runs / "layer-0", folder])
