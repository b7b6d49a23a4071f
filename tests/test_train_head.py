"""Stage 2 as a whole: what a run folder says is true, nothing leaks, and what is interrupted goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from small_cache import (
    DIM,
    LABELS,
    POOLED,
    SPEAKERS,
    TEXT,
    add_stream,
    edit_manifest,
    make_rows,
    toy_states,
    write_cache,
    write_stream,
)

from mmser.errors import MmserError, ProtocolError
from mmser.heads.batch import Batch, Sequence
from mmser.heads.store import load_head
from mmser.train.folder import TABLES
from mmser.train.options import Experiment, Training
from mmser.train.run import Result, train_head
from mmser.train.table import Table

SHORT = Training(epochs=6, batch_size=16, patience=2)
PROBE = Experiment(head="speech-probe", settings={"hidden": 4}, learning_rate=0.03, training=SHORT)
FUSION = replace(PROBE, head="late-fusion", seeds=2)
COATTENTION = replace(PROBE, head="coattention", settings={"width": 4, "heads": 2}, learning_rate=0.01)
TOGETHER = replace(COATTENTION, training=replace(SHORT, patience=SHORT.epochs))
"""No run leaves the stack early, so that products have one size, and equal runs equal bytes."""
SHARES = [f"p_{label}" for label in LABELS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("stage2") / "toy")


@pytest.fixture(scope="module")
def fusion(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train_head(cache, FUSION, tmp_path_factory.mktemp("runs") / "fusion")


def test_frames_are_averaged_once_where_the_head_takes_their_mean(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths, gather = set(), Table.gather

    def noted(self: Table, *given: Any, **options: Any) -> Batch:
        batch = gather(self, *given, **options)
        widths.add(batch.speech["frame"].mask.shape[-1])
        return batch

    monkeypatch.setattr(Table, "gather", noted)
    frames = replace(PROBE, granularity="frame", layer="4")
    train_head(cache, frames, tmp_path / "mean")
    assert widths == {1}
    train_head(cache, replace(frames, settings={"hidden": 4, "pooling": "mean+std"}), tmp_path / "both")
    assert max(widths) > 1


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def heads(folder: Path) -> dict[str, bytes]:
    """Weights and buffers of every run, as bytes."""
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("heads/*/model.safetensors"))}


def head_config(folder: Path, run: str) -> dict[str, Any]:
    return json.loads((folder / "heads" / run / "config.json").read_text())


def test_predictions_are_complete(fusion: Result) -> None:
    table, rows = predictions(fusion.folder), make_rows().set_index("utterance_id")
    assert len(table) == 3 * 2 * len(rows)
    assert not table.duplicated(["head", "seed", "utterance_id"]).any()
    assert set(table["head"]) == {"speech-probe", "text-probe", "late-fusion"}
    assert (table["fold"] == table["speaker"]).all()
    for column in ("speaker", "label"):
        told = table["truth" if column == "label" else column]
        assert told.tolist() == rows.loc[table["utterance_id"], column].tolist()
    np.testing.assert_allclose(table[SHARES].sum(axis=1), 1, atol=1e-5)
    assert table["prediction"].tolist() == [name[2:] for name in table[SHARES].idxmax(axis=1)]


def test_lines_and_results_follow_from_the_predictions(fusion: Result) -> None:
    table, results = predictions(fusion.folder), pd.read_csv(fusion.folder / "results.csv")
    assert [line.head for line in fusion.lines] == ["speech-probe", "text-probe", "late-fusion"]
    for line in fusion.lines:
        own = table[table["head"] == line.head]
        uas = [balanced_accuracy_score(seed["truth"], seed["prediction"]) for _, seed in own.groupby("seed")]
        assert line.ua == pytest.approx(np.mean(uas))
        assert line.wa == pytest.approx(accuracy_score(own["truth"], own["prediction"]))
        assert line.interval.low < line.ua <= line.interval.high <= 1
        assert (line.interval.clusters, line.num_runs) == (6, 12)
    assert min(line.ua for line in fusion.lines) > 0.6  # the planted emotion is found
    assert len(results) == 3 * 12
    for cell, own in table.groupby(["head", "fold", "seed"]):
        (_, figures), *others = results[(results[["head", "fold", "seed"]] == list(cell)).all(axis=1)].iterrows()
        assert not others
        assert (figures["num_train"], figures["num_dev"], figures["num_test"]) == (36, 9, 9)
        assert figures["ua"] == pytest.approx(balanced_accuracy_score(own["truth"], own["prediction"]), abs=1e-5)
        assert figures["wa"] == pytest.approx(accuracy_score(own["truth"], own["prediction"]), abs=1e-5)
        f1 = f1_score(own["truth"], own["prediction"], average="macro")
        assert figures["macro_f1"] == pytest.approx(f1, abs=1e-5)
    summary = json.loads((fusion.folder / "summary.json").read_text())
    assert [line["ua"] for line in summary["lines"]] == [line.ua for line in fusion.lines]


def test_late_fusion_is_the_mean_of_its_members(fusion: Result) -> None:
    table = predictions(fusion.folder).set_index(["head", "fold", "seed", "utterance_id"])[SHARES]
    mean = (table.loc["speech-probe"] + table.loc["text-probe"]) / 2
    fused = table.loc["late-fusion"].loc[mean.index]
    np.testing.assert_allclose(fused, mean, atol=2e-6)
    assert not np.allclose(fused, table.loc["speech-probe"].loc[mean.index], atol=0.01)


def test_members_may_have_granularities_of_their_own(cache: Path, tmp_path: Path) -> None:
    members = ("speech-probe@utterance", "speech-probe@frame", "text-probe")
    result = train_head(cache, replace(FUSION, members=members, seeds=1), tmp_path / "run")
    assert [line.head for line in result.lines] == [*members, "late-fusion"]
    table = predictions(tmp_path / "run").set_index(["head", "utterance_id"])[SHARES]
    mean = sum(table.loc[member] for member in members) / 3
    np.testing.assert_allclose(table.loc["late-fusion"].loc[mean.index], mean, atol=2e-6)
    for member, granularity in zip(members, ("utterance", "frame", "word"), strict=True):
        assert head_config(tmp_path / "run", f"{member}-fold0-seed0")["granularity"] == granularity


def padded(states: list[np.ndarray]) -> Sequence:
    """(layers, rows, dim) each to a batch (B, L, T, D), or (B, T, D) for one layer."""
    width = max(own.shape[1] for own in states)
    values = np.stack([np.pad(own, ((0, 0), (0, width - own.shape[1]), (0, 0))) for own in states])
    mask = np.arange(width) < np.array([own.shape[1] for own in states])[:, None]
    values = values[:, 0] if values.shape[1] == 1 else values
    return Sequence(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(mask))


@pytest.mark.parametrize(("layer", "indices"), [("mix", [0, 1, 2]), ("4", [1]), ("9,4", [2, 1])])
def test_saved_heads_run_by_hand_give_the_predictions(
    cache: Path, tmp_path: Path, layer: str, indices: list[int]
) -> None:
    train_head(cache, replace(COATTENTION, layer=layer), tmp_path / "run")
    table, checked = predictions(tmp_path / "run"), 0
    for path in sorted((tmp_path / "run" / "heads").iterdir()):
        head, config = load_head(path)
        assert config["labels"] == list(LABELS)
        own = table[(table["fold"] == config["fold"]) & (table["seed"] == config["seed"])]
        ids = own["utterance_id"].tolist()
        speech = padded([toy_states(uid, "word")[indices] for uid in ids])
        text = padded([toy_states(uid, "token")[[1], 1:-1] for uid in ids])
        with torch.no_grad():
            shares = head(Batch({"word": speech}, text, None)).softmax(-1).numpy()
        np.testing.assert_allclose(own[SHARES], shares, atol=2e-5)
        checked += len(own)
    assert checked == 54


def test_the_same_experiment_gives_the_same_bytes(cache: Path, fusion: Result, tmp_path: Path) -> None:
    again = train_head(cache, FUSION, tmp_path / "run")
    for name in ("predictions.csv", "results.csv", "summary.json", "config.json"):
        assert (again.folder / name).read_bytes() == (fusion.folder / name).read_bytes()
    assert heads(again.folder) == heads(fusion.folder)
    other = train_head(cache, replace(PROBE, settings={"hidden": 5}), tmp_path / "other")
    assert predictions(other.folder)[SHARES].to_numpy()[0] != pytest.approx(predictions(again.folder)[SHARES].iloc[0])


# leaks


def test_labels_of_a_folds_test_speaker_change_nothing_in_its_run(cache: Path, tmp_path: Path) -> None:
    def turn(table: pd.DataFrame) -> None:
        own = table["speaker"] == "s3"
        table.loc[own, "label"] = table.loc[own, "label"].map(dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True)))

    honest = train_head(cache, TOGETHER, tmp_path / "honest")
    lying = write_cache(tmp_path / "toy")
    edit_manifest(lying, turn)
    lied = train_head(lying, TOGETHER, tmp_path / "lied")
    before, after = heads(honest.folder), heads(lied.folder)
    assert len(before) == 6
    tested = "coattention-fold2-seed0"
    assert head_config(honest.folder, tested)["fold"] == "s3"
    assert head_config(honest.folder, tested) == head_config(lied.folder, tested)
    assert [run for run in before if before[run] == after[run]] == [tested]  # the others trained or selected on s3
    shares = [predictions(r.folder).query("fold == 's3'")[SHARES].to_numpy() for r in (honest, lied)]
    np.testing.assert_array_equal(*shares)


def test_states_of_a_folds_test_speaker_change_nothing_in_its_head(cache: Path, tmp_path: Path) -> None:
    def absurd(uid: str, granularity: str, states: np.ndarray) -> np.ndarray:
        return states * 50 + 700 if uid.startswith("s3_") else states

    honest = train_head(cache, TOGETHER, tmp_path / "honest")
    spoilt = train_head(write_cache(tmp_path / "toy", edit=absurd), TOGETHER, tmp_path / "spoilt")
    before, after = heads(honest.folder), heads(spoilt.folder)
    # fold 1 has s3 as dev: the states select its epoch, and may by chance select the same one
    equal = {run for run in before if before[run] == after[run]}
    assert {"coattention-fold2-seed0"} <= equal <= {"coattention-fold2-seed0", "coattention-fold1-seed0"}


def test_granularities_of_unequal_width_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    """As frames beside utterances pooled to means and deviations."""
    cache = write_cache(tmp_path / "toy")
    shutil.rmtree(cache / POOLED)
    add_stream(cache, POOLED, lambda _: {"utterance": np.zeros((1, 2 * DIM), np.float32)})
    asked = replace(PROBE, granularity="frame,utterance", layer="0")
    with pytest.raises(ProtocolError, match=rf"speech-probe: .* unequal width \(frame {DIM}, utterance {2 * DIM}\)"):
        train_head(cache, asked, tmp_path / "run")
    assert not (tmp_path / "run" / "heads").exists()


def test_statistics_are_those_of_the_training_rows(fusion: Result) -> None:
    for run, stream, granularity in (
        ("speech-probe-fold5-seed1", "streams.word", "word"),
        ("text-probe-fold5-seed1", "text", "token"),
    ):
        weights = load_file(fusion.folder / "heads" / run / "model.safetensors")
        # fold 5 tests s10 and selects on s1
        ids = [uid for uid in make_rows()["utterance_id"] if uid.split("_")[0] not in ("s10", "s1")]
        states = [toy_states(uid, granularity).astype(np.float64) for uid in ids]
        states = [own[-1:, 1:-1] for own in states] if granularity == "token" else states
        flat = np.concatenate(states, axis=1).squeeze()
        axis = flat.ndim - 2
        np.testing.assert_allclose(weights[f"{stream}.standardise.mean"], flat.mean(axis), atol=1e-5)
        np.testing.assert_allclose(weights[f"{stream}.standardise.std"], flat.std(axis), atol=1e-5)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each speaker's classes and ratings dealt out anew among his own utterances."""
    rows = make_rows()
    rows["arousal"] = [1.0 + LABELS.index(label) + 0.01 * n for n, label in enumerate(rows["label"])]
    generator = np.random.default_rng(3)
    for own in rows.groupby("speaker").groups.values():
        order = generator.permutation(own)
        rows.loc[own, ["label", "arousal"]] = rows.loc[order, ["label", "arousal"]].to_numpy()
    return write_cache(tmp_path_factory.mktemp("chance") / "toy", rows)


@pytest.mark.parametrize(
    "experiment",
    [
        replace(FUSION, seeds=3),
        replace(FUSION, seeds=3, fusion="svm"),
        replace(COATTENTION, seeds=3),
        replace(COATTENTION, seeds=3, task="dimensional", dimensions=("arousal",)),
        replace(FUSION, seeds=3, task="dimensional", dimensions=("arousal",), fusion="svm"),
    ],
    ids=["mean", "svm", "co-attention", "rating co-attention", "svm of ratings"],
)
def test_targets_by_chance_give_chance(shuffled: Path, tmp_path: Path, experiment: Experiment) -> None:
    result = train_head(shuffled, experiment, tmp_path / "run")
    for line in result.lines:
        assert line.interval.low <= 1 / 3 <= line.interval.high
        assert line.ua < 0.55
    for rated in result.rating_lines:
        assert rated.interval.low <= 0 <= rated.interval.high
        assert rated.ccc < 0.3
    assert len(result.lines) + len(result.rating_lines) == (3 if experiment.head == "late-fusion" else 1)


def test_a_preset_split_is_one_fold_and_opens_one_test_part(cache: Path, tmp_path: Path) -> None:
    result = train_head(cache, replace(PROBE, folds="split", test_split="Test2"), tmp_path / "run")
    assert set(predictions(result.folder)["speaker"]) == {"s10"}
    assert result.left_out == {"in another test part": 9}
    assert len(heads(result.folder)) == 1
    figures = pd.read_csv(result.folder / "results.csv").iloc[0]
    assert (figures["fold"], figures["num_train"], figures["num_dev"], figures["num_test"]) == ("test2", 27, 9, 9)


# normalisation


def test_speaker_normalisation_forgets_a_speakers_scale(tmp_path: Path) -> None:
    def louder(uid: str, granularity: str, states: np.ndarray) -> np.ndarray:
        # powers of two, so that float16 rounds nothing
        return states if granularity == "token" else states * 2.0 ** (SPEAKERS.index(uid.split("_")[0]) - 2)

    plain, loud = write_cache(tmp_path / "plain"), write_cache(tmp_path / "loud", edit=louder)
    for normalise, same in (("speaker", True), ("global", False), ("none", False)):
        experiment = replace(PROBE, normalise=normalise)
        results = [train_head(path, experiment, tmp_path / f"{path.name}-{normalise}") for path in (plain, loud)]
        one, other = (predictions(result.folder)[SHARES].to_numpy() for result in results)
        assert np.allclose(one, other, atol=1e-4) == same


def test_what_is_standardised(cache: Path, tmp_path: Path) -> None:
    def buffers(normalise: str) -> dict[str, np.ndarray]:
        folder = train_head(cache, replace(FUSION, normalise=normalise, seeds=1), tmp_path / normalise).folder
        runs = ("speech-probe-fold0-seed0", "text-probe-fold0-seed0")
        speech, text = (load_file(folder / "heads" / run / "model.safetensors") for run in runs)
        return {"speech": speech["streams.word.standardise.mean"], "text": text["text.standardise.mean"]}

    of_none, of_all, of_speakers = buffers("none"), buffers("global"), buffers("speaker")
    assert not of_none["speech"].any()
    assert not of_none["text"].any()
    np.testing.assert_array_equal(of_speakers["text"], of_all["text"])
    assert np.abs(of_all["text"]).max() > 0.5
    np.testing.assert_allclose(of_speakers["speech"], 0, atol=1e-3)
    assert np.abs(of_all["speech"]).max() > 0.5


def test_speakers_of_a_single_utterance_are_counted(tmp_path: Path) -> None:
    rows = make_rows()
    alone = [rows.index[rows["speaker"] == name][0] for name in ("s1", "s2")]
    rows.loc[alone, "speaker"] = ["once", "just once"]
    cache = write_cache(tmp_path / "toy", rows)
    experiment = replace(PROBE, granularity="utterance", folds="session")
    told = {
        own: train_head(cache, replace(experiment, normalise=own), tmp_path / own).notes
        for own in ("speaker", "global")
    }
    assert told["global"] == ()
    assert told["speaker"] == (
        "2 of 8 speakers have utterance states in one utterance alone, of which --normalise speaker leaves nothing",
    )


def test_speaker_normalisation_needs_speakers(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", make_rows().drop(columns="speaker"))
    experiment = replace(PROBE, folds="session")
    with pytest.raises(ProtocolError, match="54 utterances have no speaker"):
        train_head(cache, replace(experiment, normalise="speaker"), tmp_path / "run")
    # what failed before its first head does not stand in the way of the next command
    result = train_head(cache, experiment, tmp_path / "run")
    assert result.notes[0].startswith("the speaker of 54 utterances is not known")
    assert (result.lines[0].interval.unit, result.lines[0].interval.clusters) == ("utterance", 54)


# resumption


class StopOnceKept:
    """Interrupts once a run folder keeps so many heads, as Ctrl-C does."""

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder, self.kept = folder, kept

    def __call__(self, *_: object) -> None:
        if len(heads(self.folder)) >= self.kept:
            raise KeyboardInterrupt


def test_what_is_interrupted_goes_on_to_the_same_end(cache: Path, fusion: Result, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    counts = []
    for _ in range(3):  # runs that stop early are kept before others
        kept = counts[-1] + 1 if counts else 0
        with pytest.raises(KeyboardInterrupt):
            train_head(cache, FUSION, folder, report=StopOnceKept(folder, kept))
        assert not (folder / "predictions.csv").exists()
        counts.append(len(heads(folder)))
    assert counts[0] == 0 < counts[1] < counts[2] < 24
    times = {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")}
    train_head(cache, FUSION, folder)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    one, other = predictions(folder), predictions(fusion.folder)
    assert one["utterance_id"].tolist() == other["utterance_id"].tolist()
    np.testing.assert_allclose(one[SHARES], other[SHARES], atol=1e-4)  # products of another size round differently
    epochs = [pd.read_csv(path / "results.csv")["best_epoch"].tolist() for path in (folder, fusion.folder)]
    np.testing.assert_array_equal(*epochs)


def test_what_is_reported_as_done_is_kept(cache: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    train_head(
        cache,
        PROBE,
        tmp_path / "run",
        report=lambda _, done, total: told.append((done, total, len(heads(tmp_path / "run")))),
    )
    assert told[-1] == (36, 36, 6)
    assert [kept for *_, kept in told] == sorted(kept for *_, kept in told)


def test_a_lost_head_alone_is_trained_again(cache: Path, fusion: Result, tmp_path: Path) -> None:
    folder = train_head(cache, FUSION, tmp_path / "run").folder
    lost = folder / "heads" / "text-probe-fold3-seed1"
    (lost / "config.json").unlink()  # killed between the two files
    times = {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*") if path.parent != lost}
    reports: list[tuple[str, int, int]] = []
    train_head(cache, FUSION, folder, report=lambda *told: reports.append(told))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {(head, total) for head, _, total in reports} == {("text-probe", FUSION.training.epochs)}
    np.testing.assert_allclose(predictions(folder)[SHARES], predictions(fusion.folder)[SHARES], atol=1e-4)


def test_a_damaged_head_is_named(cache: Path, tmp_path: Path) -> None:
    folder = train_head(cache, PROBE, tmp_path / "run").folder
    path = folder / "heads" / "speech-probe-fold1-seed0" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(MmserError, match=r"speech-probe-fold1-seed0/model\.safetensors: not readable as safetensors"):
        train_head(cache, PROBE, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 2, "learning_rate": 0.01}, r"learning_rate was 0\.03, now 0\.01\. Give another"),
        ({"learning_rate": 0.01, "layer": "9"}, "layer was 'mix', now '9'; learning_rate was 0.03, now 0.01"),
        ({"training": replace(SHORT, epochs=7)}, "training.epochs was 6, now 7"),
        ({"settings": {"hidden": 4, "dropout": 0.1}}, "settings.dropout was None, now 0.1"),
    ],
)
def test_another_experiment_is_refused(cache: Path, tmp_path: Path, changes: dict, message: str) -> None:
    train_head(cache, PROBE, tmp_path / "run")
    before = heads(tmp_path / "run")
    with pytest.raises(ProtocolError, match=f"run holds another experiment: {message}"):
        train_head(cache, replace(PROBE, **changes), tmp_path / "run")
    assert heads(tmp_path / "run") == before


@pytest.mark.parametrize("few", [PROBE, replace(FUSION, seeds=1, fusion="svm")], ids=["head", "fusion"])
def test_seeds_are_added_to_those_that_are_there(cache: Path, tmp_path: Path, few: Experiment) -> None:
    many, folder = replace(few, seeds=3), tmp_path / "run"
    train_head(cache, few, folder)
    before = heads(folder)
    train_head(cache, many, folder)
    assert before.items() <= heads(folder).items()  # nothing is trained again
    fresh = train_head(cache, many, tmp_path / "fresh").folder
    assert set(heads(folder)) == set(heads(fresh))
    assert (folder / "config.json").read_text() == (fresh / "config.json").read_text()
    ours, theirs = predictions(folder), predictions(fresh)
    assert ours.drop(columns=[*SHARES, "prediction"]).equals(theirs.drop(columns=[*SHARES, "prediction"]))
    fused = ours["head"] == "late-fusion"
    np.testing.assert_allclose(ours[~fused][SHARES], theirs[~fused][SHARES], atol=1e-5)
    # libsvm fits its probabilities to a tolerance, so that a rounding before it is seen behind it
    np.testing.assert_allclose(ours[fused][SHARES], theirs[fused][SHARES], atol=1e-3)
    with pytest.raises(ProtocolError, match=r"run holds another experiment: seeds was 3, now 1\."):
        train_head(cache, few, folder)


def test_until_added_seeds_are_trained_there_are_no_tables(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of fewer seeds are not those of the experiment that the folder says it holds."""
    few = replace(PROBE, report_oracle=True)
    many, folder = replace(few, seeds=2), train_head(cache, few, tmp_path / "run").folder
    tables = [folder / name for name in (*TABLES, "oracle.json")]
    assert all(path.exists() for path in tables)
    with monkeypatch.context() as patch:
        patch.setattr("mmser.train.once.train", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_head(cache, many, folder)
    assert not any(path.exists() for path in tables)
    assert json.loads((folder / "config.json").read_text())["experiment"]["seeds"] == 2
    result = train_head(cache, many, folder)
    assert [line.num_runs for line in (*result.lines, *result.oracle_lines)] == [2 * len(SPEAKERS)] * 2
    assert all(path.exists() for path in tables)


def test_seeds_are_not_added_where_a_layer_is_trained_on_what_members_say(cache: Path, tmp_path: Path) -> None:
    concat = replace(FUSION, seeds=1, fusion="concat")
    train_head(cache, concat, tmp_path / "run")
    with pytest.raises(ProtocolError, match=r"run holds another experiment: seeds was 1, now 2\."):
        train_head(cache, replace(concat, seeds=2), tmp_path / "run")


def test_less_memory_is_the_same_experiment(cache: Path, tmp_path: Path) -> None:
    train_head(cache, PROBE, tmp_path / "run")
    before = heads(tmp_path / "run")
    train_head(cache, replace(PROBE, training=replace(SHORT, memory_gb=0.001)), tmp_path / "run")
    assert heads(tmp_path / "run") == before


@pytest.mark.parametrize(("normalise", "same"), [("global", True), ("speaker", False)])
def test_what_a_head_is_made_of_names_the_speakers_where_they_sway_it(
    tmp_path: Path, normalise: str, same: bool
) -> None:
    """Else a head would be lent to one whose features were standardised over other speakers' recordings."""
    rows = make_rows()
    swapped = rows.assign(speaker=rows["speaker"].replace({"s1": "s2", "s2": "s1"}).where(rows["label"] == "sad"))
    swapped["speaker"] = swapped["speaker"].fillna(rows["speaker"])  # both train: folds and rows stay
    experiment = replace(PROBE, folds="split", test_split="Test1", layer="9", normalise=normalise)
    made_of = []
    for name, own in (("before", rows), ("after", swapped)):
        train_head(write_cache(tmp_path / "toy" / name, own), experiment, tmp_path / name)
        made_of.append(head_config(tmp_path / name, "speech-probe-fold0-seed0")["made_of"])
    assert (made_of[0] == made_of[1]) == same


def swap_speakers(table: pd.DataFrame) -> None:
    table["speaker"] = table["speaker"].map(dict(zip(SPEAKERS, SPEAKERS[::-1], strict=True)))


def swap_labels(table: pd.DataFrame) -> None:
    table["label"] = table["label"].map(dict(zip(LABELS, LABELS[::-1], strict=True)))


def drop_a_label(table: pd.DataFrame) -> None:
    table.loc[0, "label"] = ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_speakers, "the speakers have changed; the folds have changed"),
        (swap_labels, "the classes have changed"),
        (drop_a_label, "the utterances have changed"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    """Else a finished head of a former division would be tested on what it was trained on."""
    cache = write_cache(tmp_path / "toy")
    train_head(cache, PROBE, tmp_path / "run")
    edit_manifest(cache, change)
    with pytest.raises(ProtocolError, match=f"run holds another experiment: {message}"):
        train_head(cache, PROBE, tmp_path / "run")


def test_a_changed_stream_is_refused(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    train_head(cache, PROBE, tmp_path / "run")
    write_stream(cache, TEXT, ("token",), ["new_sad_0"])
    train_head(cache, PROBE, tmp_path / "run")  # which reads no text
    write_stream(cache, POOLED, ("word", "utterance"), ["new_sad_0"])
    with pytest.raises(ProtocolError, match=rf"run holds another experiment: stream {POOLED} has changed\. Give"):
        train_head(cache, PROBE, tmp_path / "run")


def test_a_run_folder_that_cannot_be_read(cache: Path, tmp_path: Path) -> None:
    train_head(cache, PROBE, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ProtocolError, match=r"config\.json: not readable as JSON"):
        train_head(cache, PROBE, tmp_path / "run")


# what the user is told


def test_runs_that_diverge_are_reported_also_when_they_are_read_again(cache: Path, tmp_path: Path) -> None:
    experiment = replace(PROBE, learning_rate=1e30)
    message = "6 of 6 runs of speech-probe diverged (a loss or an answer that is not finite)"
    for _ in range(2):
        assert train_head(cache, experiment, tmp_path / "run").notes[0].startswith(message)
    for path in (tmp_path / "run").rglob("*.json"):  # no NaN, which is no JSON
        json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"head": "transformer"},
            r"head is 'transformer' \(did you mean 'crossmodal-transformer'\?\); expected one of: speech-probe",
        ),
        ({"members": ("text-probe",)}, "--members belongs to a late fusion, but the head is 'speech-probe'"),
        ({"head": "late-fusion", "members": ("late-fusion",)}, "a member's head is 'late-fusion'"),
        ({"head": "late-fusion", "members": ("text-probe", "text-probe")}, "a member is named twice"),
        (
            {"head": "late-fusion", "members": ("coattention@syll",)},
            r"granularity is 'syll' \(did you mean 'syllable'\?\); expected one of",
        ),
        ({"granularity": "token"}, "granularity is 'token'; expected one of"),
        ({"settings": {"width": 8}}, "no option 'width' of speech-probe; there are dropout, hidden, pooling"),
        ({"settings": {"hidden": "big"}}, "option hidden=big: expected int"),
        ({"settings": {"hidden": 8.5}}, "option hidden=8.5: expected int"),
        ({"settings": {"hidden": None}}, "option hidden=None: expected int"),
        ({"settings": {"dropout": "1.5"}}, "dropout is 1.5; expected at least 0 and less than 1"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used here"),
    ],
)
def test_options_that_are_refused_leave_nothing_behind(
    cache: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    kind = MmserError if "device" in changes else ProtocolError
    with pytest.raises(kind, match=message):
        train_head(cache, replace(PROBE, **changes), tmp_path / "run")
    assert heads(tmp_path / "run") == {}


@pytest.mark.parametrize(
    "changes", [{"seeds": 0}, {"learning_rate": -1.0}, {"learning_rate": 0.0}, {"normalise": "session"}]
)
def test_experiments_that_are_none(changes: dict) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        replace(PROBE, **changes)


def test_settings_from_text_reach_the_head(cache: Path, tmp_path: Path) -> None:
    settings = {"hidden": "3", "pooling": "mean+std", "dropout": "0.25"}
    train_head(cache, replace(PROBE, settings=settings), tmp_path / "run")
    options = head_config(tmp_path / "run", "speech-probe-fold0-seed0")["options"]
    assert options == {"hidden": 3, "pooling": "mean+std", "dropout": 0.25}
