"""``mmser train-head --tensorboard``: the event files say what the histories say, once, and are there in time."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_cache import write_cache
from small_corpus import mmser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mmser.errors import MmserError
from mmser.train.options import Experiment, Training
from mmser.train.plan import Epoch
from mmser.train.run import train_head, train_heads
from mmser.train.tensorboard import EventLog

PROBE = Experiment(
    head="speech-probe",
    settings={"hidden": 4},
    learning_rate=(0.03, 0.003),
    training=Training(epochs=5, batch_size=16, patience=2),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("events") / "toy")


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """What is kept beside each head."""
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("heads/*/config.json")}


def shown(folder: Path, run: str) -> EventAccumulator:
    """What TensorBoard reads of a run."""
    found = EventAccumulator(str(folder / "tensorboard" / run), size_guidance={"scalars": 0})
    return found.Reload()


def assert_told(folder: Path, run: str, facts: dict[str, Any]) -> None:
    events = shown(folder, run)
    for name in ("train_loss", "dev_score"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in facts["history"]]
    (best,) = events.Scalars("best/dev_score")
    assert (best.step, best.value) == (facts["best_epoch"], pytest.approx(facts["dev_score"], rel=1e-6))


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_event_files_say_what_the_histories_say(cache: Path, tmp_path: Path, optimiser: str) -> None:
    experiment = replace(PROBE, training=replace(PROBE.training, optimiser=optimiser))
    plain = train_head(cache, experiment, tmp_path / "plain")
    train_head(cache, experiment, tmp_path / "told", tensorboard=True)
    facts = stored(tmp_path / "told")
    assert facts == stored(plain.folder)
    assert len(facts) == 2 * 6 == len(list((tmp_path / "told" / "tensorboard").iterdir()))
    for run, own in facts.items():
        assert_told(tmp_path / "told", run, own)


def test_experiments_that_train_as_one_are_told_apart(cache: Path, tmp_path: Path) -> None:
    """The third trains nothing of its own: its runs are the first's, and in the fourth's folder they are copied."""
    experiments = [replace(PROBE, learning_rate=0.03, layer=layer) for layer in ("0", "9", "0")]
    folders = [tmp_path / str(number) for number in range(3)]
    train_heads(cache, experiments, folders, tensorboard=True)
    lent = {facts["made_of"]: folders[0] / "heads" / run for run, facts in stored(folders[0]).items()}
    train_heads(cache, experiments[:1], [tmp_path / "copied"], lent=lent, tensorboard=True)
    for folder in (*folders, tmp_path / "copied"):
        assert len(stored(folder)) == 6
        for run, facts in stored(folder).items():
            assert_told(folder, run, facts)


def test_settings_can_be_compared(cache: Path, tmp_path: Path) -> None:
    both = replace(PROBE, head="late-fusion", settings={}, text_layer="mix")
    train_head(cache, both, tmp_path, tensorboard=True)
    told = {}
    for head in ("speech-probe", "text-probe"):
        content = shown(tmp_path, f"{head}-fold0-seed0-trial1").SummaryMetadata(SESSION_START_INFO_TAG)
        told[head] = HParamsPluginData.FromString(content.plugin_data.content).session_start_info.hparams
        assert told[head]["head"].string_value == head
        assert told[head]["learning_rate"].number_value == 0.003
    assert told["speech-probe"]["speech_layers"].string_value == "0,4,9"
    assert told["text-probe"]["text_layers"].string_value == "1,2"
    assert "text_layers" not in told["speech-probe"]


def test_epochs_are_there_as_they_end_and_a_run_that_goes_on_tells_nothing_twice(cache: Path, tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        heads = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
        counts = {len(shown(tmp_path, run).Scalars("train_loss")) for run in heads}
        assert max(counts) == 3 if done > 2 * len(heads) else counts <= {1, 2}
        if done > 2 * len(heads):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_head(cache, PROBE, tmp_path, report=stop, tensorboard=True)
    train_head(cache, PROBE, tmp_path, tensorboard=True)
    for run, facts in stored(tmp_path).items():
        assert_told(tmp_path, run, facts)


def test_runs_that_were_finished_without_are_told_from_their_histories(cache: Path, tmp_path: Path) -> None:
    train_head(cache, PROBE, tmp_path)
    for _ in range(2):
        train_head(cache, PROBE, tmp_path, tensorboard=True)
        for run, facts in stored(tmp_path).items():
            assert_told(tmp_path, run, facts)
            assert len(list((tmp_path / "tensorboard" / run).iterdir())) == 1


def test_cells_of_an_ablation_are_told_those_that_were_finished_before_too(cache: Path, tmp_path: Path) -> None:
    grid, folder = tmp_path / "my.toml", tmp_path / "run"
    asked = ["ablate", str(cache), str(grid), "--out", str(folder)]
    text = '[base]\nhead = "speech-probe"\nepochs = 2\n[axes]\nlayer = [0, 9]\n'
    grid.write_text(text)
    assert mmser(*asked).exit_code == 0
    assert not list(folder.glob("cells/*/tensorboard"))
    grid.write_text(text.replace("[0, 9]", "[0, 9, 4]"))
    result = mmser(*asked, "--tensorboard")
    assert f"To look at: tensorboard --logdir {folder / 'cells'}" in result.stdout
    for cell in ("0", "9", "4"):
        facts = stored(folder / "cells" / cell)
        assert len(facts) == 6
        for run, own in facts.items():
            assert_told(folder / "cells" / cell, run, own)


def test_a_loss_that_is_no_number_is_shown_as_such(tmp_path: Path) -> None:
    events = EventLog(tmp_path)
    events.epoch("film-fold0-seed0", Epoch(1, math.nan, 0.25))
    events.finish("film-fold0-seed0", {"dev_score": None, "best_epoch": 0})
    told = shown(tmp_path, "film-fold0-seed0")
    assert math.isnan(told.Scalars("train_loss")[0].value)
    assert math.isnan(told.Scalars("best/dev_score")[0].value)


def test_the_command_says_where_to_look(cache: Path, tmp_path: Path) -> None:
    asked = ["train-head", str(cache), "--head", "text-probe", "--epochs", "1", "--out", str(tmp_path / "run")]
    result = mmser(*asked, "--tensorboard")
    assert result.exit_code == 0, result.output
    assert f"To look at: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}" in result.stdout
    assert len(list(tmp_path.glob("run/tensorboard/*/events.out.tfevents.*"))) == 6


def test_without_the_extra_nothing_is_trained(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = mmser("train-head", cache, "--out", tmp_path / "run", "--tensorboard")
    assert result.exit_code == 1
    assert "Error: --tensorboard needs the package tensorboard: pip install mmser[tensorboard]" in result.stderr
    assert not (tmp_path / "run").exists()
    with pytest.raises(MmserError, match="needs the package tensorboard"):
        EventLog(tmp_path)
    asked = ["ablate", str(cache), "--preset", "layers", "--out", str(tmp_path / "run"), "--tensorboard"]
    assert "needs the package tensorboard" in mmser(*asked).stderr
    assert not (tmp_path / "run").exists()
