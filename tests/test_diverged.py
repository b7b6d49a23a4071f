"""A head that gives no numbers is nobody's best epoch, and what is made of such heads says so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_cache import LABELS, make_rows, write_cache
from small_corpus import mmser
from test_engine import NUM, TRAINING, a_build, a_run, a_table, learnable_labels

from mmser.errors import ProtocolError
from mmser.train.engine import Run, Targets, outputs, train
from mmser.train.evaluate import scores
from mmser.train.options import Experiment, Training
from mmser.train.oracle import Oracle
from mmser.train.plan import Progress
from mmser.train.run import Result, train_head
from mmser.train.serial import train_serially

SHORT = Training(epochs=3, batch_size=16)
HEAD = Experiment(head="coattention", settings={"width": 4, "heads": 2}, learning_rate=1e30, training=SHORT)
FUSION = Experiment(head="late-fusion", settings={"hidden": 4}, learning_rate=1e30, training=SHORT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = make_rows()
    rows["arousal"] = [1.0 + LABELS.index(label) + 0.01 * n for n, label in enumerate(rows["label"])]
    return write_cache(tmp_path_factory.mktemp("diverged") / "toy", rows)


# what is scored


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_score_is_no_number_where_an_answer_that_counts_is_none(wrong: float) -> None:
    said = torch.eye(3).repeat(5, 2, 1)  # five runs that are right about six rows
    classes = torch.tensor([0, 1, 2, 0, 1, -1]).expand(5, -1)
    said[1, 0, 2] = wrong  # not even the largest
    said[2, :] = wrong
    said[3, 5] = wrong  # the class is not known: nothing is scored
    found = scores(said, classes, torch.empty(5, 6, 0))
    assert found.isnan().tolist() == [False, True, True, False, False]
    assert found[[0, 3, 4]].tolist() == [1.0] * 3


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_so_is_that_of_ratings_and_of_both_tasks(wrong: float) -> None:
    truth = torch.tensor([[1.0], [2.0], [4.0], [np.nan]]).expand(3, -1, -1)
    rated = torch.tensor([[1.0], [2.0], [4.0], [0.0]]).repeat(3, 1, 1)
    rated[1, 1] = wrong
    rated[2, 3] = wrong  # not known
    nobody = torch.full((3, 4), -1)
    assert scores(rated, nobody, truth).isnan().tolist() == [False, True, False]
    classed = torch.cat([torch.eye(2).repeat(3, 2, 1), rated], 2)
    assert scores(classed, torch.tensor([0, 1, 0, 1]).expand(3, -1), truth).isnan().tolist() == [False, True, False]


def test_an_epoch_without_a_score_is_never_the_best_and_ends_the_run() -> None:
    course = Progress(a_run("probe"), Training())
    assert course.record(1.0, 0.4)
    assert not course.record(0.9, np.nan)
    trained = course.finish({})
    assert course.done
    assert (trained.best_epoch, trained.dev_score, trained.diverged) == (1, 0.4, True)


# what is kept


def spoilt_by_its_last_step(case: str) -> Run:
    """One step an epoch: the first epoch's loss is that of the initial weights, and what it leaves is 1e30 off."""
    return replace(a_run(case, num_train=8), name="wild", learning_rate=1e30)


@pytest.mark.parametrize("case", ["plain co-attention", "experts"])
def test_engine_and_serial_loop_keep_the_initial_weights_of_a_run_that_never_gave_numbers(case: str) -> None:
    table, build, run = a_table(), a_build(case), spoilt_by_its_last_step(case)
    targets = learnable_labels(table)
    calm = a_run(case)
    stacked, other = train(table, targets, build, [run, calm], TRAINING)
    serially = train_serially(table, targets, build, run, TRAINING)
    for one in (stacked, serially):
        assert np.isfinite(one.history[0].train_loss)
        assert np.isnan(one.history[0].dev_score)
        assert (one.best_epoch, one.diverged, len(one.history)) == (0, True, 1)
        assert np.isnan(one.dev_score)
        (said,) = outputs(table, build, [one], [np.arange(NUM)])
        assert said.isfinite().all()
    for name in stacked.state:
        torch.testing.assert_close(stacked.state[name], serially.state[name])
    assert other.best_epoch > 0


def test_the_oracle_takes_no_epoch_without_numbers() -> None:
    runs, rows = [a_run("probe", train_rows=np.arange(4))] * 2, [np.arange(4)] * 2
    oracle = Oracle(Targets.of_classes(torch.arange(6) % 2, 2), runs, rows)
    right = torch.eye(2).repeat(2, 1)
    lost = torch.full_like(right, np.nan)  # of which argmax takes class 0: half of them right
    for said in ([lost, lost], [right.flip(1), lost], [lost, lost]):
        oracle.watch([0, 1], lambda asked, said=said: said)
    assert torch.equal(oracle.outputs[0], right.flip(1))
    assert 1 not in oracle.outputs


# whole experiments


def finite_predictions(result: Result) -> pd.DataFrame:
    table = pd.read_csv(result.folder / "predictions.csv")
    numbers = table[[name for name in table if name.startswith(("p_", "prediction_"))]]
    assert np.isfinite(numbers).all(axis=None)
    return table


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_figures_of_runs_that_diverged_are_those_before_and_the_oracles_too(
    cache: Path, tmp_path: Path, optimiser: str
) -> None:
    wild = replace(HEAD, report_oracle=True, training=replace(SHORT, optimiser=optimiser))
    result = train_head(cache, wild, tmp_path / "run")
    finite_predictions(result)
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert (results["best_epoch"] == 0).all()
    assert results["dev_score"].isna().all()
    assert result.notes == (
        "6 of 6 runs of coattention diverged (a loss or an answer that is not finite) and count as they were at their "
        "best epoch before; 6 never had one, and count as they were before training; try a lower --learning-rate",
    )
    assert mmser("runs", "list", tmp_path / "run").stdout.rstrip().endswith("; heads never trained: 6")
    # there was no epoch to choose from
    assert [line.confusion for line in result.oracle_lines] == [line.confusion for line in result.lines]
    untrained = train_head(cache, replace(wild, learning_rate=1e-30, report_oracle=False), tmp_path / "untrained")
    assert [line.confusion for line in untrained.lines] == [line.confusion for line in result.lines]
    assert "never trained" not in mmser("runs", "list", tmp_path / "untrained").stdout  # it had epochs, if of no use


def test_a_script_sees_that_nothing_could_be_trained(cache: Path, tmp_path: Path) -> None:
    """Everything is written all the same; one trained head is enough for a table."""
    out = tmp_path / "run"
    words = ("train-head", cache, "--head", "coattention", "--set", "width=4", "--set", "heads=2", "--epochs", 1)
    wild = mmser(*words, "--learning-rate", 1e30, "--out", out, "--json")
    assert wild.exit_code == 1
    assert json.loads(wild.stdout) == {"folder": str(out), **json.loads((out / "summary.json").read_text())}
    (said,) = [line for line in wild.stderr.splitlines() if line.startswith("Error: ")]
    assert said.startswith("Error: nothing could be trained: all runs diverged before their first epoch was over")
    assert (pd.read_csv(out / "results.csv")["best_epoch"] == 0).all()
    head, *_ = sorted(out.glob("heads/*/config.json"))
    head.write_text(json.dumps({**json.loads(head.read_text()), "best_epoch": 1, "dev_score": 0.5}))
    partly = mmser(*words, "--learning-rate", 1e30, "--out", out)
    assert (partly.exit_code, partly.stderr) == (0, "")
    assert "6 of 6 runs of coattention diverged" in partly.stdout
    assert "; 5 never had one" in partly.stdout
    fused = mmser(
        *("train-head", cache, "--head", "late-fusion", "--members", "coattention@word,coattention@utterance"),
        *("--set", "width=4", "--set", "heads=2", "--epochs", 1, "--learning-rate", 1e30, "--out", tmp_path / "fused"),
    )
    assert "Error: nothing could be trained" in fused.stderr
    assert fused.exit_code == 1


WILD_GRID = """
[base]
head = "late-fusion"
members = ["coattention", "text-probe"]
set = { "coattention.width" = 4, "coattention.heads" = 2 }
epochs = 1
[axes]
learning_rate = [1e30, 1e-3]
"""


def test_a_script_sees_which_cells_never_trained(cache: Path, tmp_path: Path) -> None:
    """They are named each time, though their folders are finished; what did train has its row."""
    grid, out = tmp_path / "wild.toml", tmp_path / "wild"
    grid.write_text(WILD_GRID)
    for _ in range(2):
        found = mmser("ablate", cache, grid, "--out", out, "--json")
        assert found.exit_code == 3
        told = json.loads(found.stdout)
        assert (told["untrained"], told["failures"]) == (["learning_rate1e+30"], {})
        assert len(told["lines"]) == 2
        assert "1 of 2 cells never trained: all their runs diverged before their first epoch was over" in found.stderr
    table = out / "cells" / "learning_rate1e+30" / "results.csv"
    results = pd.read_csv(table)
    results.loc[0, "best_epoch"] = 1  # one head is enough for a cell
    results.to_csv(table, index=False)
    partly = mmser("ablate", cache, grid, "--out", out, "--json")
    assert (partly.exit_code, json.loads(partly.stdout)["untrained"]) == (0, [])


@pytest.mark.parametrize("rule", ["mean", "dev-weighted", "svm", "logistic", "concat"])
def test_a_fusion_of_members_that_diverged_is_made_from_their_last_finite_epoch(
    cache: Path, tmp_path: Path, rule: str
) -> None:
    result = train_head(cache, replace(FUSION, fusion=rule), tmp_path / "run")
    assert [line.head for line in result.lines] == ["speech-probe", "text-probe", "late-fusion"]
    finite_predictions(result)
    assert [note.split(" diverged")[0] for note in result.notes[:2]] == [
        "6 of 6 runs of speech-probe",
        "6 of 6 runs of text-probe",
    ]
    if rule != "concat":  # whose own layer is a head like any other
        assert result.notes[2:] == ("6 of 6 runs of late-fusion have a member that diverged",)


@pytest.mark.parametrize("rule", ["dev-weighted", "svm"])
def test_ratings_of_members_that_diverged_are_fused_too(cache: Path, tmp_path: Path, rule: str) -> None:
    rated = replace(FUSION, fusion=rule, task="dimensional", dimensions=("arousal",))
    finite_predictions(train_head(cache, rated, tmp_path / "run"))


@pytest.mark.parametrize("rule", ["dev-weighted", "svm", "logistic", "concat"])
def test_a_stored_member_that_gives_no_numbers_is_named_and_trained_again_once_deleted(
    cache: Path, tmp_path: Path, rule: str
) -> None:
    calm, folder = replace(FUSION, fusion=rule, learning_rate=0.03), tmp_path / "run"
    before = finite_predictions(train_head(cache, calm, folder))
    head = folder / "heads" / "text-probe-fold2-seed0"
    weights = load_file(head / "model.safetensors")
    save_file({name: torch.full_like(value, np.nan) for name, value in weights.items()}, head / "model.safetensors")
    said = rf"text-probe, fold s3, seed 0: what the head says of \d+ of \d+ utterances is no finite number; {rule} fusi"
    with pytest.raises(ProtocolError, match=said + ".*Delete heads/text-probe-fold2-seed0 in the run folder"):
        train_head(cache, calm, folder)
    for file in head.iterdir():
        file.unlink()
    train_head(cache, calm, folder)
    pd.testing.assert_frame_equal(finite_predictions(train_head(cache, calm, folder)), before, atol=1e-4)


def test_answers_on_the_test_part_that_are_no_numbers_are_counted(cache: Path, tmp_path: Path) -> None:
    result = train_head(cache, replace(FUSION, learning_rate=0.03), tmp_path / "run")
    head = tmp_path / "run" / "heads" / "speech-probe-fold0-seed0" / "model.safetensors"
    save_file({name: torch.full_like(value, np.nan) for name, value in load_file(head).items()}, head)
    notes = train_head(cache, replace(FUSION, learning_rate=0.03), result.folder).notes
    assert [note.split(";")[0] for note in notes] == [
        f"9 answers of {name} about test utterances are no finite numbers and count as 'angry'"
        for name in ("speech-probe", "late-fusion")
    ]
    summary = json.loads((result.folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["notes"] == list(notes)
