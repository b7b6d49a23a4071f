"""Ablations as a whole: cells that train as one come to what each comes to alone, and what is killed goes on."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from small_cache import SPEAKERS, TEXT, add_stream, edit_manifest, make_rows, write_cache
from small_corpus import mmser

from mmser.ablate.estimate import Estimates, clock_of
from mmser.ablate.grid import Grid, read_grid
from mmser.ablate.plan import Plan, grouped, plan_ablation
from mmser.ablate.run import Ablation, ablate
from mmser.cache import Cache
from mmser.errors import ProtocolError
from mmser.show import size
from mmser.train.assemble import runs_of
from mmser.train.command import command_of
from mmser.train.engine import train
from mmser.train.prepare import prepare
from mmser.train.run import train_head, train_heads
from mmser.train.table import Table

GRID = """
baseline = "text"
[base]
head = "speech-probe"
learning_rate = 0.03
epochs = 4
batch_size = 16
set = { hidden = 4 }
[axes]
layer = [0, 9, "mix"]
learning_rate = [0.03, 0.003]
[[exclude]]
layer = "mix"
learning_rate = 0.003
[[row]]
name = "text"
head = "text-probe"
[[row]]
name = "speech, more seeds"
layer = 4
seeds = 2
[[row]]
name = "both"
head = "late-fusion"
layer = 9
[[row]]
name = "both, concatenated"
head = "late-fusion"
layer = 9
fusion = "concat"
"""
FAILING = '[[row]]\nname = "syllables"\ngranularity = "syllable"\n[[row]]\nname = "layer 7"\nlayer = 7\n'


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("ablate") / "toy")


def run(cache: Path, text: str, folder: Path, **told: Any) -> tuple[Plan, Ablation]:
    grid = read_grid(text, "my.toml")
    plan = plan_ablation(cache, grid, folder)
    return plan, ablate(cache, grid, plan, folder, **told)


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Ablation]:
    return run(cache, GRID, tmp_path_factory.mktemp("runs") / "whole", command="mmser ablate ...")


def a_grid() -> Grid:
    return read_grid(GRID, "my.toml")


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted(folder.glob("heads/*/model.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, predictions, epochs and figures, up to the rounding of products of another size."""
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5, atol=1e-5)
    tables = [pd.read_csv(folder / "predictions.csv") for folder in (one, other)]
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "results.csv") for folder in (one, other)), rtol=1e-5)
    for path in one.glob("heads/*/config.json"):
        was, now = (
            json.loads((folder / "heads" / path.parent.name / "config.json").read_text()) for folder in (one, other)
        )
        assert len(was.pop("history")) == len(now.pop("history"))
        assert was.pop("dev_score") == pytest.approx(now.pop("dev_score"))
        assert was == now


def test_what_differs_in_layer_rate_and_seeds_alone_trains_as_one() -> None:
    names = [[cell.name for cell in group] for group in grouped(a_grid().cells)]
    assert names == [
        [f"{layer}-learning_rate{rate}" for layer in (0, 9) for rate in (0.03, 0.003)] + ["speech-more-seeds"],
        ["mix-learning_rate0.03"],
        ["text"],
        ["both"],
        ["both-concatenated"],
    ]


def test_a_cell_is_what_its_experiment_comes_to_alone(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path
) -> None:
    for cell in a_grid().cells:
        alone = train_head(cache, cell.experiment, tmp_path / cell.name)
        folder = undisturbed[1].folder / "cells" / cell.name
        assert (alone.folder / "config.json").read_bytes() == (folder / "config.json").read_bytes()
        assert_same_run(alone.folder, folder)


def test_a_cell_can_be_made_again_by_its_command(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed[1].folder / "cells" / "both-concatenated", tmp_path / "both")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")}
    experiment = json.loads((folder / "config.json").read_text())["experiment"]
    result = mmser(*shlex.split(command_of(experiment, cache, folder))[1:])
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")} == before
    assert "late-fusion" in result.stdout


def test_settings_may_be_written_as_text(cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path) -> None:
    folder = shutil.copytree(undisturbed[1].folder, tmp_path / "run")
    plan, _ = run(cache, GRID.replace("hidden = 4", 'hidden = "4"'), folder)
    assert (plan.groups, plan.failures) == ([], {})
    path = folder / "ablation.json"
    path.write_text(path.read_text().replace('"hidden": 4', '"hidden": "4"'))  # as an older one has them
    assert run(cache, GRID, folder)[0].groups == []


def test_the_plan_counts_the_layer_of_a_fusion_for_each_rate(cache: Path, tmp_path: Path) -> None:
    text = '[[row]]\nname = "both"\nhead = "late-fusion"\nfusion = "concat"\nlearning_rate = [0.1, 0.01]\n'
    plan, done = run(cache, "[base]\nepochs = 1\n" + text, tmp_path / "runs")
    heads = list((done.folder / "cells").glob("*/heads/*"))
    assert [group.num_heads for group in plan.groups] == [len(heads)] == [3 * 2 * len(SPEAKERS)]


def test_the_plan_counts_heads_once(undisturbed: tuple[Plan, Ablation]) -> None:
    plan, done = undisturbed
    assert [(group.num_heads, group.num_copied) for group in plan.groups] == [(36, 0), (6, 0), (6, 0), (0, 12), (6, 12)]
    assert [group.epochs for group in plan.groups] == [36 * 4, 24, 24, 0, 24]
    cells = done.folder / "cells"
    for fold in range(6):  # copied byte for byte
        alone = cells / "9-learning_rate0.03" / "heads" / f"speech-probe-fold{fold}-seed0" / "model.safetensors"
        member = cells / "both" / "heads" / f"speech-probe-fold{fold}-seed0" / "model.safetensors"
        assert member.read_bytes() == alone.read_bytes()


def test_the_folder_says_what_it_holds(undisturbed: tuple[Plan, Ablation]) -> None:
    folder, grid = undisturbed[1].folder, a_grid()
    assert (folder / "grid.toml").read_text() == GRID
    facts = json.loads((folder / "ablation.json").read_text())
    about = [facts[name] for name in ("format", "name", "cache", "command", "baseline", "axes")]
    assert about == [1, "whole", "toy", "mmser ablate ...", "text", ["layer", "learning_rate"]]
    assert [cell["name"] for cell in facts["cells"]] == [cell.name for cell in grid.cells]
    first = facts["cells"][0]
    assert (first["row"], first["axes"]) == ("layer 0, learning rate 0.03", {"layer": "0", "learning_rate": "0.03"})
    for cell in facts["cells"]:
        config = json.loads((folder / "cells" / cell["name"] / "config.json").read_text())
        assert config["experiment"] == cell["experiment"]
    assert not (folder / "failed.csv").exists()
    assert [line.head for line in undisturbed[1].lines] == [cell.row for cell in grid.cells]


class StopError(Exception):
    pass


def test_what_is_stopped_again_and_again_goes_on_to_the_same_end(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path
) -> None:
    folder, said = tmp_path / "run", []

    def stop(text: str) -> None:
        said.append(text)
        raise StopError

    for finished in (5, 6, 7):  # a group is finished each time
        with pytest.raises(StopError):
            run(cache, GRID, folder, say=stop)
        assert len(list(folder.glob("cells/*/summary.json"))) == finished
    times = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/heads/*/*")}
    plan, done = run(cache, GRID, folder)
    assert {cell.name for cell in a_grid().cells} - {cell.name for cell in plan.finished} == {
        "both",
        "both-concatenated",
    }
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for cell in a_grid().cells:
        assert_same_run(done.folder / "cells" / cell.name, undisturbed[1].folder / "cells" / cell.name)
    assert [(line.head, round(line.ua, 6)) for line in done.lines] == [
        (line.head, round(line.ua, 6)) for line in undisturbed[1].lines
    ]
    assert run(cache, GRID, folder)[0].groups == []


def test_what_is_killed_goes_on_to_the_same_end(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path
) -> None:
    path, folder = tmp_path / "my.toml", tmp_path / "run"
    path.write_text(GRID)
    command = [sys.executable, "-m", "mmser", "ablate", str(cache), str(path), "--out", str(folder)]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(folder.glob("cells/*/heads/*/config.json")) and victim.poll() is None:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    _, done = run(cache, GRID, folder)
    for cell in a_grid().cells:
        assert_same_run(done.folder / "cells" / cell.name, undisturbed[1].folder / "cells" / cell.name)


# what fails


def test_a_cell_that_fails_is_reported_and_the_rest_goes_on(cache: Path, tmp_path: Path) -> None:
    text = (
        GRID[: GRID.index("[axes]")].replace('baseline = "text"\n', "")
        + FAILING
        + '[[row]]\nname = "last"\nlayer = 9\n'
    )
    plan, done = run(cache, text, tmp_path / "run")
    assert list(plan.failures) == ["syllables", "layer-7"]
    failed = pd.read_csv(tmp_path / "run" / "failed.csv")
    assert failed["cell"].tolist() == ["syllables", "layer-7"]
    assert "no 'syllable' states" in failed["reason"][0]
    assert "--layer 7: stored layers are 0, 4, 9" in failed["reason"][1]
    assert [line.head for line in done.lines] == ["last"]
    assert (tmp_path / "run" / "cells" / "last" / "summary.json").exists()


def test_the_notes_of_cells_are_said_once_and_a_fitted_fusion_goes_without_an_oracle(
    cache: Path, tmp_path: Path
) -> None:
    fitted = '[[row]]\nname = "{}"\nhead = "late-fusion"\nfusion = "svm"\nlayer = {}\n'
    base = 'baseline = "text"\n[base]\nreport_oracle = true\nepochs = 1\n[[row]]\nname = "text"\nhead = "text-probe"\n'
    said: list[str] = []
    text = base + fitted.format("svm", 9) + fitted.format("svm again", 4)
    _, done = run(cache, text, tmp_path / "ablation", say=said.append)
    assert [line.head for line in done.lines] == ["text", "svm", "svm again"]
    (note,) = (line for line in said if line.startswith("Note: "))
    assert note.startswith("Note: svm: no oracle figure of late-fusion: svm is fitted on what its members say after")
    cells = tmp_path / "ablation" / "cells"
    assert list(done.notes) == ["svm", "svm again"]
    assert done.notes["svm again"] == json.loads((cells / "svm-again" / "summary.json").read_text())["notes"]
    assert done.notes["svm again"][0].startswith("no oracle figure of late-fusion")
    leaking = {path.parent.name: json.loads(path.read_text())["lines"] for path in cells.glob("*/oracle.json")}
    assert {name: [line["head"] for line in lines] for name, lines in leaking.items()} == {
        "text": ["text-probe"],
        "svm": ["speech-probe", "text-probe"],
        "svm-again": ["speech-probe", "text-probe"],
    }


def test_a_cell_whose_tables_are_damaged_has_failed_until_they_are_deleted(cache: Path, tmp_path: Path) -> None:
    text = '[base]\nhead = "speech-probe"\nepochs = 1\n[[row]]\nname = "a"\nlayer = 0\n[[row]]\nname = "b"\nlayer = 9\n'
    _, before = run(cache, text, tmp_path / "run")
    path = tmp_path / "run" / "cells" / "a" / "summary.json"
    path.write_text("{}")
    _, done = run(cache, text, tmp_path / "run")
    assert [line.head for line in done.lines] == ["b"]
    assert done.failures == {
        "a": f"{path}: it lacks 'lines'; delete it and run the same command again, which writes it anew from the "
        "heads that are there"
    }
    path.unlink()
    _, done = run(cache, text, tmp_path / "run")
    assert (done.lines, done.failures) == (before.lines, {})
    results = path.with_name("results.csv")
    results.write_text("head,fold\n")
    _, done = run(cache, text, tmp_path / "run")
    assert [line.head for line in done.lines] == ["b"]
    assert done.failures["a"].startswith(f"{results}: no column 'seed'")


def swapped(labels: pd.Series) -> pd.Series:
    return labels.map({"angry": "sad", "sad": "angry"}).fillna(labels)


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy")
    text = '[base]\nepochs = 2\nhead = "speech-probe"\n[[row]]\nname = "a"\n[[row]]\nname = "b"\nlabel = "emotion"\n'
    _, done = run(cache, text, tmp_path / "run")
    assert list(done.failures) == ["b"]
    head = tmp_path / "run" / "cells" / "a" / "heads" / "speech-probe-fold0-seed0" / "model.safetensors"
    before = head.stat().st_mtime_ns
    edit_manifest(cache, lambda table: table.insert(len(table.columns), "emotion", table["label"]))
    edit_manifest(cache, lambda table: table.insert(len(table.columns), "turned", swapped(table["label"])))
    plan, done = run(cache, text + '[[row]]\nname = "c"\nlabel = "turned"\n', tmp_path / "run")
    assert (done.failures, [cell.name for cell in plan.finished]) == ({}, ["a"])
    assert not (tmp_path / "run" / "failed.csv").exists()
    assert head.stat().st_mtime_ns == before
    assert plan.groups[0].num_copied == 6  # the same labels by another name
    assert plan.groups[1].num_copied == 0  # other labels


def test_cells_that_fail_together_still_train_what_they_share_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[base]\nhead = "late-fusion"\nepochs = 1\n[axes]\nlayer = [0, 4, 9]\n'
    grid, folder = read_grid(text, "my.toml"), tmp_path / "run"
    plan = plan_ablation(cache, grid, folder)
    train_head(cache, replace(grid.cells[0].experiment, learning_rate=0.5), folder / "cells" / "9")  # a stranger
    trained: list[str] = []

    def count(table: Any, targets: Any, build: Any, runs: Any, *args: Any, **told: Any) -> Any:
        trained.extend(run.name.split("-fold")[0] for run in runs)
        return train(table, targets, build, runs, *args, **told)

    monkeypatch.setattr("mmser.train.once.train", count)
    assert list(ablate(cache, grid, plan, folder).failures) == ["9"]
    assert {name: trained.count(name) for name in trained} == {"speech-probe": 12, "text-probe": 6}


def test_heads_that_report_an_oracle_are_not_counted_as_copied(cache: Path, tmp_path: Path) -> None:
    """What they would have said is not kept with them, so they train in every cell."""
    text = (
        '[base]\nepochs = 1\nreport_oracle = true\n[[row]]\nname = "text"\nhead = "text-probe"\n'
        '[[row]]\nname = "both"\nhead = "late-fusion"\nlayer = 9\n'
    )
    plan, _ = run(cache, text, tmp_path / "run")
    assert [(group.num_heads, group.num_copied) for group in plan.groups] == [(6, 0), (12, 0)]
    (tmp_path / "run" / "cells" / "both" / "summary.json").unlink()
    (again,) = run(cache, text, tmp_path / "run")[0].groups
    assert (again.num_heads, again.num_copied) == (0, 12)  # its own


def test_means_are_taken_once_for_all_cells_of_a_shape(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, take = [], Table.means
    monkeypatch.setattr(Table, "means", lambda table: tables.append(table) or take(table))
    text = '[base]\nhead = "speech-probe"\nepochs = 1\n[axes]\nlayer = [0, 4, 9]\n'
    grid = read_grid(text, "my.toml")
    plan = plan_ablation(cache, grid, tmp_path / "run")
    tables.clear()  # of the estimate
    assert len(ablate(cache, grid, plan, tmp_path / "run").lines) == 3
    assert len(tables) == 1


def test_a_plan_is_made_where_few_utterances_have_text(tmp_path: Path) -> None:
    """Such as a corpus of which one session was transcribed."""
    ids = make_rows()["utterance_id"]
    cache = write_cache(tmp_path / "toy", absent={TEXT: set(ids[17:])})
    text = '[base]\nmissing = "keep"\nepochs = 1\n[[row]]\nname = "film"\nhead = "film"\nlayer = 9\n'
    plan, done = run(cache, text, tmp_path / "run")
    assert (len(plan.groups), plan.failures, done.failures) == (1, {}, {})


def test_a_head_of_one_cell_that_fails_in_training_does_not_stop_its_group(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[base]\nhead = "speech-probe"\nepochs = 2\n[axes]\nlayer = [0, 9]\n'
    grid = read_grid(text, "my.toml")
    folder = tmp_path / "run"
    plan = plan_ablation(cache, grid, folder)
    other = grid.cells[0].experiment
    train_head(cache, other, folder / "cells" / "9")  # a stranger in the place of cell 9
    done = ablate(cache, grid, plan, folder)
    assert list(done.failures) == ["9"]
    assert "holds another experiment: layer was '0', now '9'" in done.failures["9"]
    assert [line.head for line in done.lines] == ["layer 0"]


def test_what_a_failed_attempt_held_is_let_go_before_its_cells_train_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def too_much(_cache: Path, experiments: Any, folders: Any, **told: Any) -> Any:
        alive.extend(own() is not None for own in held)
        if len(experiments) == 1:
            return train_heads(_cache, experiments, folders, **told)
        states = np.zeros(3)
        held.append(weakref.ref(states))
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr("mmser.ablate.run.train_heads", too_much)
    _, done = run(
        cache, '[base]\nhead = "text-probe"\nepochs = 1\n[axes]\nlearning_rate = [0.1, 0.2]\n', tmp_path / "run"
    )
    assert (len(done.lines), alive) == (2, [False, False])


@pytest.mark.parametrize("text", ['{"cache": "toy"}', '{"cache": "toy", "cells": [{"name": "text"}]}'])
def test_a_damaged_record_is_said(cache: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(ProtocolError, match=r"ablation\.json: not what mmser ablate writes .*; give another --out"):
        plan_ablation(cache, a_grid(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("epochs = 4", "epochs = 5"),
            "cell '0-learning_rate0.03' was trained otherwise: training.epochs was 4, now 5",
        ),
        (("seeds = 2", "seeds = 1"), "cell 'speech-more-seeds' was trained otherwise: seeds was 2, now 1"),
    ],
)
def test_a_cell_is_never_trained_under_another_name(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[1].folder, folder)
    with pytest.raises(ProtocolError, match=message):
        run(cache, GRID.replace(*change), folder)
    assert (folder / "grid.toml").read_text() == GRID


def test_an_ablation_of_another_cache_is_refused(
    cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[1].folder, folder)
    with pytest.raises(ProtocolError, match="holds an ablation of cache 'toy', not 'other'"):
        run(write_cache(tmp_path / "other"), GRID, folder)


def test_seeds_may_be_added(cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[1].folder, folder)
    more = GRID.replace("seeds = 2", "seeds = 3")
    plan = plan_ablation(cache, read_grid(more, "my.toml"), folder)
    assert (folder / "cells" / "speech-more-seeds" / "summary.json").exists()  # to plan changes nothing
    assert [[cell.name for cell in group.cells] for group in plan.groups] == [["speech-more-seeds"]]
    assert sum(group.num_heads for group in plan.groups) == len(SPEAKERS)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/heads/*/model.safetensors")}
    _, done = run(cache, more, folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is trained again
    assert len(list(folder.glob("cells/*/heads/*/model.safetensors"))) == len(before) + len(SPEAKERS)
    numbers = {line.head: line.num_runs for line in done.lines}
    assert (numbers["speech, more seeds"], done.failures) == (3 * len(SPEAKERS), {})
    _, fresh = run(cache, more, tmp_path / "fresh")
    assert_same_run(*(of.folder / "cells" / "speech-more-seeds" for of in (done, fresh)))


def test_less_memory_is_the_same_table(cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[1].folder, folder)
    plan, done = run(cache, GRID.replace("[base]", "[base]\nmemory_gb = 0.001"), folder)
    assert (plan.groups, done.failures, len(plan.finished)) == ([], {}, len(a_grid().cells))


def test_cells_may_be_added(cache: Path, undisturbed: tuple[Plan, Ablation], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[1].folder, folder)
    plan, done = run(cache, GRID + '[[row]]\nname = "frames"\ngranularity = "frame"\nlayer = 9\n', folder)
    assert [[cell.name for cell in group.cells] for group in plan.groups] == [["frames"]]
    assert [line.head for line in done.lines][-1] == "frames"


def test_cells_of_a_changed_cache_are_not_taken_for_finished(tmp_path: Path) -> None:
    cache, text = write_cache(tmp_path / "toy"), '[[row]]\nname = "a"\nhead = "text-probe"\nepochs = 2\n'
    run(cache, text, tmp_path / "run")
    edit_manifest(cache, lambda table: table.__setitem__("label", swapped(table["label"])))
    plan, done = run(cache, text, tmp_path / "run")
    assert plan.finished == []
    assert "the classes have changed" in done.failures["a"]


def test_an_estimate_grows_with_heads_rows_and_epochs(cache: Path) -> None:
    """By a clock of which the second epoch of all heads on 36 utterances takes 9 s and the third, which counts, 2 s."""
    experiment = next(cell.experiment for cell in a_grid().cells if cell.name == "text")
    prepared = prepare(Cache(cache), [experiment])
    _, runs = runs_of(prepared[0], 0, [])
    ticks = iter((1000.0, 1009.0, 1011.0))
    estimates = Estimates(lambda: next(ticks))
    assert estimates.of(prepared, 0, runs) == pytest.approx(2 * sum(36 + 9 for _ in runs) * 4 / (len(runs) * 36))
    assert estimates.of(prepared, 0, runs[:1]) == pytest.approx(2 * (36 + 9) * 4 / (len(runs) * 36))  # not tried again


@pytest.mark.parametrize(("head", "given"), [("cnn14", "width_multiplier = 0.03125"), ("speech-probe", "hidden = 4")])
def test_few_utterances_with_ratings_can_be_planned(tmp_path: Path, head: str, given: str) -> None:
    """A CCC is of two utterances or more, those that are tried too."""
    cache = write_cache(tmp_path / "toy", rows=make_rows().iloc[:6])
    edit_manifest(cache, lambda rows: rows.__setitem__("arousal", np.arange(len(rows)) / 4))
    add_stream(cache, "mel/cnn14", lambda _: {"frame": np.random.default_rng(0).normal(size=(40, 32))})
    text = f"""
[base]
task = "dimensional"
dimensions = ["arousal"]
folds = "session"
layer = 9
epochs = 1
[[row]]
name = "rated"
head = "{head}"
set = {{ {given} }}
"""
    plan = plan_ablation(cache, read_grid(text, "my.toml"), tmp_path / "run")
    assert plan.failures == {}
    assert [group.num_utterances for group in plan.groups] == [6]
    assert plan.groups[0].seconds > 0


UNLIKE = """
[base]
epochs = 1
set = { hidden = 4 }
[[row]]
name = "whole"
head = "speech-probe"
granularity = "utterance"
[[row]]
name = "words"
head = "speech-probe"
[[row]]
name = "text"
head = "text-probe"
missing = "keep"
"""


def test_cells_are_on_the_same_utterances_where_the_same_states_are_required(tmp_path: Path) -> None:
    lacking = {"s1_sad_0", "s2_happy_1"}
    cache = write_cache(tmp_path / "toy", wordless={"s1_sad_0"}, absent={TEXT: {"s2_happy_1"}})
    unlike = plan_ablation(cache, read_grid(UNLIKE, "my.toml"), tmp_path / "none")
    assert [group.num_utterances for group in unlike.groups] == [54, 53, 52]
    assert [group.left_out for group in unlike.groups][:2] == [{}, {"no word states": 1}]
    (tmp_path / "my.toml").write_text(UNLIKE)
    planned = mmser("ablate", cache, tmp_path / "my.toml", "--dry-run")
    assert "Cells are on 52 to 54 utterances; left out of some: 1 no word states" in planned.stdout
    assert "All are on the same with --set-base require=utterance,word,token" in planned.stdout
    held = max(group.state_bytes for group in unlike.groups)
    assert f"In memory: at most {size(held)} of states, and beside them what memory_gb allows" in planned.stdout
    text = UNLIKE.replace("[base]", '[base]\nrequire = ["utterance", "word", "token"]')
    plan, done = run(cache, text, tmp_path / "runs")
    assert {group.num_utterances for group in plan.groups} == {52}
    assert {sum(group.left_out.values()) for group in plan.groups} == {2}
    assert len({tuple(group.left_out.items()) for group in plan.groups}) == 1  # for one reason
    there = set(make_rows()["utterance_id"]) - lacking
    for name in ("whole", "words", "text"):
        own = pd.read_csv(done.folder / "cells" / name / "predictions.csv")
        assert set(own["utterance_id"]) == there
    with pytest.raises(ProtocolError, match=r"require is 'fone' .*; expected one of: frame, phone"):
        read_grid(UNLIKE.replace("[base]", '[base]\nrequire = "word, fone"'), "my.toml")


def test_other_work_on_the_machine_is_in_no_estimate_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the work of all threads of the process is: heads train in several."""
    monkeypatch.setattr(time, "process_time", lambda: 6.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert clock_of(torch.device("cpu"))() == 2.0
    assert clock_of(torch.device("cuda")) is time.perf_counter  # the processor waits while a GPU works


# the command


def test_the_command_shows_a_plan_trains_and_says_where_to_go(cache: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "my.toml", tmp_path / "run"
    path.write_text('[base]\nhead = "speech-probe"\n[axes]\nlayer = [0, 9]\n' + FAILING)
    options = ("--seeds", 2, "--set-base", "epochs=2", "--set-base", "set.hidden=4", "--out", folder)
    planned = mmser("ablate", cache, path, *options, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "layer 0; layer 9" in planned.stdout
    assert "4 cells, 2 that this cache cannot serve; to train: 24 heads in 1 stacks, at most" in planned.stdout
    assert not folder.exists()
    result = mmser("ablate", cache, path, *options)
    assert result.exit_code == 3, result.output
    rows = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert rows[rows.index("head") + 1 :][:2] == ["layer 0", "layer 9"]
    assert f"mmser report {folder}" in result.stdout
    assert "2 of 4 cells could not be trained" in result.stderr
    assert "heads, in epochs: 48/48" in result.stderr
    experiment = json.loads((folder / "ablation.json").read_text())["cells"][0]["experiment"]
    assert (experiment["seeds"], experiment["training"]["epochs"], experiment["settings"]) == (2, 2, {"hidden": 4})
    again = mmser("ablate", cache, path, *options)
    assert "2 finished" in again.stdout
    assert "nothing to train" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--preset", "zhao"), 1, "no preset 'zhao' (did you mean 'zhao2022'?); there are granularities"),
        (("nowhere.toml",), 1, "nowhere.toml: not readable"),
        ((), 2, "either GRID.toml or --preset NAME"),
        (("--preset", "layers", "--set-base", "epochs"), 1, "--set-base epochs: expected NAME=VALUE"),
        (("--preset", "layers", "--set-base", "epoch=3"), 1, "no option 'epoch' (did you mean 'epochs'?)"),
    ],
)
def test_a_command_that_is_refused(cache: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = mmser("ablate", cache, *arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output


def test_presets_are_listed_and_printed(tmp_path: Path) -> None:
    listed = mmser("ablate", "--list-presets").stdout
    for line in listed.splitlines():
        text = mmser("ablate", "--show-preset", line.split()[0]).stdout
        assert read_grid(text, "preset", stored_layers={"speech/a": [1], "text/a": [1]}).cells
