"""Whole experiments: ratings, missing states, grids, dev speakers, the oracle. What leaks is looked for bit by bit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from sklearn.metrics import balanced_accuracy_score
from small_cache import LABELS, edit_manifest, make_rows, num_words, write_cache
from small_corpus import mmser
from test_engine import TRAINING, a_build, a_table, learnable_labels, neighbours
from test_train_head import COATTENTION, PROBE, SHARES, SHORT, TOGETHER, head_config, heads, predictions

from mmser.errors import ManifestError, ProtocolError
from mmser.heads import Head
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.train.engine import Ask, outputs, train
from mmser.train.options import Experiment
from mmser.train.oracle import Oracle
from mmser.train.plan import Run, Trained
from mmser.train.presets import PRESETS
from mmser.train.run import train_head
from mmser.train.table import Table
from mmser.train.targets import Targets

DIMENSIONS = ("arousal", "trust")
RATED = replace(PROBE, task="dimensional", dimensions=DIMENSIONS, learning_rate=0.05)
BOTH = replace(RATED, task="both")


def rated_rows() -> pd.DataFrame:
    """The class decides the rating, 1 to 5, of arousal; trust (a column that mmser does not know) follows its words."""
    rows = make_rows()
    level = rows["label"].map({"angry": 5.0, "happy": 3.5, "sad": 1.0})
    rows["arousal"] = level + np.random.default_rng(0).normal(0, 0.2, len(rows))
    rows["trust"] = [str(num_words(uid)) for uid in rows["utterance_id"]]
    rows.loc[::7, "arousal"] = np.nan
    rows.loc[3::11, "trust"] = ""
    rows.loc[2::9, "label"] = ""
    return rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("protocol") / "toy", rated_rows())


def test_ratings_are_on_the_corpus_own_scale_and_figures_follow_from_them(cache: Path, tmp_path: Path) -> None:
    result = train_head(cache, replace(RATED, seeds=2), tmp_path / "run")
    table, rows = predictions(tmp_path / "run"), rated_rows().set_index("utterance_id")
    assert len(table) == 2 * 53
    assert result.left_out == {"no rating": 1}
    assert not {"truth", "prediction"} & set(table.columns)
    assert result.lines == []
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert "ua" not in results
    for line in result.rating_lines:
        own = table[["seed", "fold", "utterance_id", f"truth_{line.dimension}", f"prediction_{line.dimension}"]]
        told = pd.to_numeric(rows.loc[own["utterance_id"], line.dimension]).to_numpy()
        np.testing.assert_allclose(own[f"truth_{line.dimension}"], told, rtol=1e-5)
        known = own[~np.isnan(told)]
        cccs = [concordance_correlation(*part.iloc[:, 3:].to_numpy().T) for _, part in known.groupby("seed")]
        assert line.ccc_by_seed == pytest.approx(cccs, abs=1e-5)
        assert line.ccc == pytest.approx(np.mean(cccs), abs=1e-5)
        parts = [part.iloc[:, 3:].to_numpy().T for _, part in known.groupby(["fold", "seed"])]
        of_folds = [concordance_correlation(*part) for part in parts]
        assert line.ccc_of_folds == pytest.approx(np.mean(of_folds), abs=1e-5)
        assert results[f"ccc_{line.dimension}"].mean() == pytest.approx(line.ccc_of_folds, abs=1e-5)
        assert line.num_utterances == known["utterance_id"].nunique() < 54
        assert line.interval.low < line.ccc < line.interval.high
    assert result.rating_lines[0].ccc > 0.5  # the planted class tells the arousal
    assert 1 < table["prediction_arousal"].mean() < 5


def test_both_tasks_by_one_head(cache: Path, tmp_path: Path) -> None:
    result = train_head(cache, BOTH, tmp_path / "run")
    table = predictions(tmp_path / "run")
    assert len(table) == 54  # without a label too: rated
    known = table[table["truth"].notna()]
    assert len(known) == 48
    assert result.lines[0].ua == pytest.approx(balanced_accuracy_score(known["truth"], known["prediction"]))
    assert np.sum(result.lines[0].confusion) == 48
    assert [line.dimension for line in result.rating_lines] == list(DIMENSIONS)
    assert result.lines[0].ua > 0.6
    head = Head.from_pretrained(tmp_path / "run" / "heads" / "speech-probe-fold0-seed0")
    assert head.num_outputs == 5
    config = head_config(tmp_path / "run", "speech-probe-fold0-seed0")
    assert (config["labels"], config["dimensions"]) == (list(LABELS), list(DIMENSIONS))
    trained = rated_rows()[lambda rows: ~rows["speaker"].isin(["s1", "s2"])]
    assert config["rating_mean"][0] == pytest.approx(trained["arousal"].mean(), rel=1e-5)
    assert config["rating_deviation"][0] == pytest.approx(trained["arousal"].std(ddof=0), rel=1e-5)


def test_late_fusion_of_ratings_is_the_mean(cache: Path, tmp_path: Path) -> None:
    train_head(cache, replace(BOTH, head="late-fusion"), tmp_path / "run")
    table = predictions(tmp_path / "run").set_index(["head", "utterance_id"])
    for column in ("prediction_arousal", *SHARES):
        mean = (table.loc["speech-probe", column] + table.loc["text-probe", column]) / 2
        np.testing.assert_allclose(table.loc["late-fusion", column].loc[mean.index], mean, rtol=1e-4, atol=1e-5)


def test_soft_labels_train_and_plain_ones_score(tmp_path: Path) -> None:
    rows = make_rows()
    for label in LABELS:
        rows[f"votes_{label}"] = [str(3 * (label == own)) for own in rows["label"]]
    plain = train_head(write_cache(tmp_path / "plain", rows), PROBE, tmp_path / "hard")
    same = train_head(tmp_path / "plain", replace(PROBE, soft="votes_"), tmp_path / "sure")
    assert heads(same.folder) == heads(plain.folder)  # three votes of three are the label
    rows.loc[rows["label"] == "sad", "votes_happy"] = "2"
    rows.loc[0, "label"] = ""
    other = train_head(write_cache(tmp_path / "torn", rows), replace(PROBE, soft="votes_"), tmp_path / "torn-run")
    assert heads(other.folder) != heads(plain.folder)
    table = predictions(other.folder)
    assert len(table) == 54
    assert table["truth"].isna().sum() == 1
    assert np.sum(other.lines[0].confusion) == 53


# leaks


def flipped(table: pd.DataFrame) -> None:
    """Every target of the only test part, turned round."""
    own = table["split"] == "Test2"
    turned = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
    table.loc[own, "label"] = table.loc[own, "label"].map(turned).fillna("")
    table.loc[own, "arousal"] = 6 - table.loc[own, "arousal"]


def test_flipping_every_test_target_changes_no_weight_no_epoch_and_no_choice(tmp_path: Path) -> None:
    """Bit for bit, with a grid and the oracle: both look at scores."""
    experiment = replace(
        BOTH, folds="split", test_split="Test2", learning_rate=(0.05, 0.003), seeds=2, report_oracle=True
    )
    honest = train_head(write_cache(tmp_path / "a", rated_rows()), experiment, tmp_path / "honest")
    lying = write_cache(tmp_path / "b", rated_rows())
    edit_manifest(lying, flipped)
    lied = train_head(lying, experiment, tmp_path / "lied")
    before, after = heads(honest.folder), heads(lied.folder)
    assert len(before) == 4
    assert before == after
    for run in before:
        assert head_config(honest.folder, run) == head_config(lied.folder, run)
    assert (honest.folder / "trials.csv").read_bytes() == (lied.folder / "trials.csv").read_bytes()
    told = [column for column in predictions(honest.folder) if not column.startswith("truth")]
    pd.testing.assert_frame_equal(predictions(honest.folder)[told], predictions(lied.folder)[told])
    assert honest.lines[0].ua != lied.lines[0].ua
    assert honest.oracle_lines[0].ua != lied.oracle_lines[0].ua  # the flip was seen by whom it may concern


def test_the_engine_is_not_given_the_targets_of_a_test_part(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no run learns from or is chosen by is unknown to it, and nothing else is; heads come out the same."""
    given: list[Targets] = []

    def spied(table: Table, targets: Targets, *rest: Any, **options: Any) -> list[Trained]:
        given.append(targets)
        return train(table, targets, *rest, **options)

    monkeypatch.setattr("mmser.train.once.train", spied)
    experiment = replace(BOTH, folds="split", test_split="Test2", report_oracle=True)
    masked = train_head(cache, experiment, tmp_path / "masked")
    monkeypatch.setattr(Targets, "only", lambda self, rows: self)
    whole = train_head(cache, experiment, tmp_path / "whole")
    ids = predictions(masked.folder)["utterance_id"]
    chosen = [uid for uid in rated_rows()["utterance_id"] if uid.split("_")[0] != "s5"]  # Test1 is left out
    test = torch.tensor([uid in set(ids) for uid in chosen])
    assert test.sum() == len(ids) == 9
    mine, all_of_them = given
    assert all_of_them.known[test].all()
    assert not mine.known[test].any()
    for part in ("classes", "shares", "ratings"):
        torch.testing.assert_close(getattr(mine, part)[~test], getattr(all_of_them, part)[~test], equal_nan=True)
    assert heads(masked.folder) == heads(whole.folder)
    assert masked.lines == whole.lines
    assert masked.oracle_lines == whole.oracle_lines


@pytest.mark.parametrize("normalise", ["global", "speaker"])
def test_a_test_speakers_states_change_no_weight(tmp_path: Path, normalise: str) -> None:
    """Nor statistics, which are stored beside the weights. With ``speaker`` his own are taken off his own states."""

    def absurd(uid: str, granularity: str, states: np.ndarray) -> np.ndarray:
        return states * 4 + 64 if uid.startswith("s10_") else states

    experiment = replace(TOGETHER, folds="split", test_split="Test2", normalise=normalise)
    plain = train_head(write_cache(tmp_path / "a"), experiment, tmp_path / "plain")
    odd = train_head(write_cache(tmp_path / "b", edit=absurd), experiment, tmp_path / "odd")
    assert heads(plain.folder) == heads(odd.folder)
    assert not np.allclose(predictions(plain.folder)[SHARES], predictions(odd.folder)[SHARES], atol=0.01)


def test_the_oracle_changes_nothing_but_what_it_adds(cache: Path, tmp_path: Path) -> None:
    experiment = replace(COATTENTION, task="both", dimensions=DIMENSIONS, seeds=2)
    plain = train_head(cache, experiment, tmp_path / "plain")
    watched = train_head(cache, replace(experiment, report_oracle=True), tmp_path / "watched")
    for name in ("results.csv", "predictions.csv", "summary.json"):
        assert (plain.folder / name).read_bytes() == (watched.folder / name).read_bytes()
    assert heads(plain.folder) == heads(watched.folder)
    assert not (plain.folder / "oracle.json").exists()
    assert plain.oracle_lines == []
    leaking = json.loads((watched.folder / "oracle.json").read_text())
    assert leaking["lines"][0]["ua"] == watched.oracle_lines[0].ua
    # again, from what is kept
    again = train_head(cache, replace(experiment, report_oracle=True), tmp_path / "watched")
    assert again.oracle_lines == watched.oracle_lines
    path = sorted((watched.folder / "oracle").glob("*.npy"))[0]
    kept = np.load(path)
    for damaged, message in (
        (kept[1:], "an array of float32 and shape"),
        (kept.astype(np.float64), "an array of float64 and shape"),
        (np.array([{}]), "not readable"),
    ):
        np.save(path, damaged, allow_pickle=True)
        (watched.folder / "summary.json").unlink(missing_ok=True)
        with pytest.raises(ProtocolError, match=rf"{path}: {message}.*delete the run folder and train again"):
            train_head(cache, replace(experiment, report_oracle=True), tmp_path / "watched")


def test_the_oracle_keeps_what_was_said_in_the_best_epoch_on_test() -> None:
    table, targets, runs = a_table(), learnable_labels(a_table()), neighbours("probe")
    tests = [np.setdiff1d(np.arange(90), np.concatenate([run.train_rows, run.dev_rows])) for run in runs]
    oracle = Oracle(targets, runs, tests)
    said: list[list[torch.Tensor]] = [[] for _ in runs]

    def watch(places: Sequence[int], ask: Ask) -> None:
        for place, own in zip(places, ask([tests[place] for place in places]), strict=True):
            said[place].append(own)
        oracle.watch(places, ask)

    training = replace(TRAINING, epochs=8, patience=3)
    trained = train(table, targets, a_build("probe"), runs, training, watch=watch)
    for place, one in enumerate(trained):
        assert len(said[place]) == len(one.history)
        truth = targets.classes[tests[place]].numpy()
        uas = [unweighted_average_recall(truth, own.argmax(1).numpy()) for own in said[place]]
        assert torch.equal(oracle.outputs[place], said[place][int(np.argmax(uas))])
        (final,) = outputs(table, a_build("probe"), [one], [tests[place]])
        torch.testing.assert_close(said[place][one.best_epoch - 1], final)


def test_the_oracle_scores_ratings_on_the_scale_of_the_training_rows_and_keeps_a_copy() -> None:
    rated = torch.tensor([0.0, 2.0, 4.0, 6.0, 10.0, 11.0, 12.0, 14.0]).unsqueeze(1)  # 0 to 6: mean 3, deviation √5
    targets = Targets(torch.full((8,), -1), torch.empty(8, 0), rated)
    train_rows, test = np.arange(4), np.arange(4, 8)
    oracle = Oracle(targets, [Run("one", train_rows, test, 0)], [test])
    right = (rated[4:] - 3) / 5**0.5
    by_itself = (rated[4:] - rated[4:].mean()) / rated[4:].std(correction=0)
    for said in (right.clone(), by_itself.clone()):
        oracle.watch([0], lambda _, said=said: said.unsqueeze(0))
        said.zero_()  # the engine may use the memory again
    assert torch.equal(oracle.outputs[0], right)


# dev, grids


def test_dev_speakers_are_held_out_and_named_by_no_other_part(cache: Path, tmp_path: Path) -> None:
    experiment = replace(BOTH, folds="session", dev="speaker", dev_share=0.5)
    result = train_head(cache, experiment, tmp_path / "run")
    results = pd.read_csv(result.folder / "results.csv")
    assert (results["num_dev"] == 18).all()  # 2 of 4 speakers
    assert (results["num_train"] == 18).all()


def test_a_grid_is_chosen_on_dev_fold_by_fold(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    grid = replace(PROBE, try_layers=("0", "9"), learning_rate=(1e-5, 0.03), seeds=2)
    result = train_head(cache, grid, tmp_path / "run")
    trials, results = (pd.read_csv(result.folder / name) for name in ("trials.csv", "results.csv"))
    assert len(trials) == 6 * 2 * 4
    assert len(results) == 6 * 2 == result.lines[0].num_runs
    for fold, own in trials.groupby("fold"):
        means = own.groupby(["learning_rate", "layer"])["dev_score"].mean()
        tested = own[own["tested"]]
        assert len(tested) == 2
        (cell,) = {(rate, layer) for rate, layer in zip(tested["learning_rate"], tested["layer"], strict=True)}
        assert means[cell] == means.max()
        assert set(results[results["fold"] == fold]["layer"]) == {cell[1]}
    # the emotion is planted in layer 9 alone, and nothing is learnt at 1e-5
    assert set(results["layer"]) == {9}
    assert set(results["learning_rate"]) == {0.03}
    assert "of 4 settings dev chose learning rate 0.03, layer 9 (6 folds)" in result.notes[0]
    assert head_config(result.folder, "speech-probe-fold0-seed0-trial3")["speech_layers_of_encoder"] == [9]
    # a cell of the grid is what it is alone
    alone = train_head(cache, replace(PROBE, layer="9", seeds=2), tmp_path / "alone")
    np.testing.assert_allclose(predictions(result.folder)[SHARES], predictions(alone.folder)[SHARES], atol=1e-4)


def test_a_text_head_of_a_fusion_tries_no_layers(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    experiment = replace(PROBE, head="late-fusion", try_layers=("0", "9"))
    result = train_head(cache, experiment, tmp_path / "run")
    assert [line.head for line in result.lines] == ["speech-probe", "text-probe", "late-fusion"]
    assert len(heads(result.folder)) == 6 * 2 + 6


# missing states


def test_utterances_that_lack_states_are_dropped_or_kept_and_counted(tmp_path: Path) -> None:
    rows = make_rows()
    absent = {"text/toy": ["s1_sad_0", "s2_sad_0"], "pooled/toy@hand": ["s2_sad_0"]}
    cache = write_cache(tmp_path / "toy", rows, absent=absent, wordless=["s3_happy_1"])
    dropped = train_head(cache, COATTENTION, tmp_path / "dropped")
    assert dropped.num_utterances == 51
    assert sum(dropped.left_out.values()) == 3
    kept = train_head(cache, replace(COATTENTION, missing="keep"), tmp_path / "kept")
    # s2_sad_0 is in no stream, and s3_happy_1 has neither word nor token
    assert kept.num_utterances == 52
    assert kept.kept == {"not in stream text/toy": 1}
    assert sum(kept.left_out.values()) == 2
    assert np.isfinite(predictions(kept.folder)[SHARES]).all(axis=None)
    assert json.loads((kept.folder / "summary.json").read_text())["kept"] == {"not in stream text/toy": 1}


# folders


def test_two_trainings_into_one_folder_are_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ProtocolError, match="another mmser is training into"):
        train_head(cache, RATED, tmp_path / "run")
    train_head(cache, RATED, tmp_path / "run")


# what is refused


@pytest.mark.parametrize(
    ("experiment", "error", "message"),
    [
        (replace(RATED, dimensions=("arousal", "joy")), ManifestError, "no column 'joy'"),
        (replace(RATED, dimensions=("session",)), ProtocolError, r"column 'session' holds 'Ses\d'; expected a number"),
        (replace(PROBE, soft="share_"), ManifestError, "no column 'share_angry'"),
        (replace(PROBE, try_layers=("0", "mix")), ProtocolError, "--try-layers takes numbers"),
        (
            replace(PROBE, try_layers=("0,4", "9")),
            ProtocolError,
            "'0,4' are several layers; expected an entry",
        ),
        (replace(PROBE, try_layers=("9", "-1")), ProtocolError, "a layer is named twice"),
        (replace(PROBE, folds="split", test_split="Test1", dev="speaker"), ProtocolError, "gives a dev part"),
    ],
)
def test_what_cannot_be_done(cache: Path, tmp_path: Path, experiment: Experiment, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        train_head(cache, experiment, tmp_path / "run")


@pytest.mark.parametrize("cell", ["-inf", "inf", "nan"])
def test_a_rating_that_is_not_finite_is_refused(tmp_path: Path, cell: str) -> None:
    rows = make_rows()
    rows["joy"] = "1"
    rows.loc[3, "joy"] = cell
    experiment = replace(RATED, dimensions=("joy",))
    message = f"utterance {rows['utterance_id'][3]!r}: column 'joy' holds {cell!r}; expected a number, or nothing"
    with pytest.raises(ProtocolError, match=message):
        train_head(write_cache(tmp_path / "toy", rows), experiment, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ordinal"}, "task is 'ordinal'"),
        ({"dev": "random"}, "dev is 'random'; expected one of: next, speaker"),
        ({"dev_share": 1.0}, "dev_share is 1; expected more than 0 and less than 1"),
        ({"learning_rate": (0.1, 0.1)}, "learning rate 0.1 is named twice"),
        ({"task": "both", "dimensions": ()}, "no dimension is named"),
        ({"training": replace(SHORT, dimension_weights=(1.0,))}, "1 weights for 3 dimensions"),
        ({"task": "dimensional", "soft": "v_"}, "are for classes"),
        ({"missing": "fill"}, "missing is 'fill'; expected one of: drop, keep"),
    ],
)
def test_experiments_that_contradict_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        replace(Experiment(), **changes)


def test_every_preset_is_an_experiment() -> None:
    for preset in PRESETS.values():
        Experiment(**preset.settings)
        assert preset.source
        assert preset.traps


def test_msp_podcasts_protocol_end_to_end(tmp_path: Path) -> None:
    """On a manifest as the corpus has it: speakers of part of Train unknown, and one who is in two test parts."""
    rows = make_rows()
    rows["split"] = rows["split"].replace("dev", "Development")
    rows.loc[rows["split"] == "Test2", "speaker"] = "s5"  # who is in Test1, too
    rows.loc[rows["speaker"] == "s2", "speaker"] = ""
    rows.loc[rows["utterance_id"] == "s1_sad_0", "label"] = "O"
    cache = write_cache(tmp_path / "toy", rows)
    command = ("train-head", cache, "--protocol", "msp-podcast", "--head", "speech-probe", "--learning-rate", 0.03)
    done = mmser(*command, "--epochs", 6, "--labels", ",".join(LABELS), "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    table = predictions(tmp_path / "run")
    assert set(table["utterance_id"]) == {uid for uid in rows["utterance_id"] if uid.startswith("s5_")}
    assert set(table["fold"]) == {"test1"}
    figures = pd.read_csv(tmp_path / "run" / "results.csv").iloc[0]
    assert (figures["num_train"], figures["num_dev"], figures["num_test"]) == (26, 9, 9)
    assert figures["ua"] > 0.6
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left_out"] == {"in another test part": 9, "label not asked for": 1}
    assert "the speaker of 9 utterances is not known" in done.output
    other = mmser(*command, "--test-split", "Test2", "--epochs", 1, "--out", tmp_path / "other")
    assert other.exit_code == 0, other.output
    assert set(predictions(tmp_path / "other")["utterance_id"].str[:4]) == {"s10_"}
