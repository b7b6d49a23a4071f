"""Options that nothing reads: they change no weight, and whoever gives one is told."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_cache import FRAMES, TEXT, edit_manifest, write_cache
from small_corpus import mmser

from mmser.ablate.grid import read_grid
from mmser.ablate.presets import preset_names, preset_text
from mmser.train.command import _UNSAID
from mmser.train.options import Experiment, Training
from mmser.train.presets import PRESETS
from mmser.train.run import train_head
from mmser.train.unread import unread_fields, unread_notes

ALWAYS = {
    *(
        "head",
        "task",
        "protocol",
        "folds",
        "dev",
        "missing",
        "require",
        "seeds",
        "normalise",
        "device",
        "report_oracle",
    ),
    *("learning_rate", "weight_decay", "optimiser", "schedule", "warmup", "clip_norm", "metric_weight"),
    *("epochs", "patience", "batch_size", "memory_gb"),
}
REFUSED = {"members", "fusion", "settings", "lexicon", "soft", "test_split"}
"""Where they are not read, by a word of their own."""

SPEECH = Experiment(head="speech-probe", granularity="utterance", layer="9")
TEXTUAL = Experiment(head="text-probe")
RATED = replace(SPEECH, task="dimensional", dimensions=("arousal",))
OTHERS = {
    "granularity": "phone",
    "layer": "77",
    "try_layers": ("0", "99"),
    "speech_stream": FRAMES,
    "text_layer": "99",
    "text_stream": TEXT,
    "mel_stream": "mel/none",
    "label": "none",
    "labels": ("none", "such"),
    "dimensions": ("none",),
    "dev_share": 0.9,
    "dev_seed": 7,
}
OF_TRAINING = {
    "momentum": 0.5,
    "crop_s": 9.0,
    "class_weights": "balanced",
    "label_smoothing": 0.3,
    "dimension_weights": (2.0,),
    "categorical_weight": 0.1,
    "metric_temperature": 3.0,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, rated by the number in each id."""
    folder = write_cache(tmp_path_factory.mktemp("unread") / "toy")

    def rate(rows) -> None:  # type: ignore[no-untyped-def]
        rows["arousal"] = rows["utterance_id"].str[-1].astype(float) + rows["label"].eq("angry")

    edit_manifest(folder, rate)
    return folder


def test_every_option_is_decided() -> None:
    """A new option is always read, refused where it is not, or told in :mod:`mmser.train.unread`."""
    mute = replace(TEXTUAL, try_layers=("0",))
    told = unread_fields(mute) | unread_fields(RATED)
    assert told == {*OTHERS, *OF_TRAINING}
    named = {field.name for own in (Experiment, Training) for field in fields(own)} - {"training", *_UNSAID}
    assert ALWAYS | REFUSED | told == named | {"normalise"}
    assert not (ALWAYS | REFUSED) & told


@pytest.mark.parametrize("experiment", [SPEECH, TEXTUAL, RATED], ids=["speech", "text", "ratings"])
def test_what_is_not_read_changes_no_weight(cache: Path, tmp_path: Path, experiment: Experiment) -> None:
    """All that is said not to be read, at once, to the byte."""
    unread, training = unread_fields(experiment), Training(epochs=2)
    other = {name: value for name, value in OF_TRAINING.items() if name in unread}
    if experiment.has_ratings:
        other.pop("dimension_weights", None)
    elif "dimension_weights" in other:  # as many as there are dimensions, whether they are rated or not
        other["dimension_weights"] = (2.0,) * len(OTHERS["dimensions"])  # type: ignore[arg-type]
    changed = {name: value for name, value in OTHERS.items() if name in unread}
    odd = replace(experiment, **changed, training=replace(training, **other))
    train_head(cache, replace(experiment, training=training), tmp_path / "plain")
    result = train_head(cache, odd, tmp_path / "odd")
    plain = {path.parent.name: load_file(path) for path in (tmp_path / "plain").rglob("model.safetensors")}
    found = {path.parent.name.removesuffix("-trial0"): path for path in (tmp_path / "odd").rglob("model.safetensors")}
    assert set(plain) == set(found)
    for name, weights in plain.items():
        again = load_file(found[name])
        assert all(torch.equal(again[own], value) for own, value in weights.items())
    (note,) = result.notes
    assert note.startswith(f"not read by {experiment.head}")
    assert note.count(" --") == len(changed) + len(other)


def test_what_is_read_is_not_told() -> None:
    fused = Experiment(head="late-fusion", members=("speech-probe@utterance", "text-probe"), granularity="phone")
    assert "granularity" in unread_fields(fused)
    assert "granularity" not in unread_fields(replace(fused, members=("speech-probe", "text-probe")))
    assert not unread_fields(fused) & {"layer", "text_layer", "try_layers"}
    both = Experiment(task="both", dev="speaker", training=Training(optimiser="sgd", metric_weight=0.1))
    assert unread_fields(both) == {"crop_s", "mel_stream"}
    assert not unread_fields(Experiment(head="cnn14")) & {"crop_s", "mel_stream"}
    # moe is shown whole utterances, in training too
    assert unread_fields(Experiment(head="moe", settings={"spectral": "mel"})) == {
        *("crop_s", "momentum", "metric_temperature", "dev_share", "dev_seed"),
        *("dimensions", "dimension_weights", "categorical_weight"),
    }
    assert {"crop_s", "mel_stream", "layer"} <= unread_fields(Experiment(head="moe", try_layers=("0", "4")))


def test_normalising_is_read_by_whom_it_concerns() -> None:
    """Text is standardised by the training part or not at all, log-mel frames never."""
    for head, read in {"speech-probe": ["none", "speaker"], "text-network": ["none"], "cnn14": []}.items():
        told = {own: unread_notes(Experiment(head=head, normalise=own)) for own in ("none", "speaker")}
        assert [own for own, notes in told.items() if not notes] == read
        assert all(notes == [f"not read by {head}: --normalise {own}"] for own, notes in told.items() if notes)
    experts = Experiment(head="moe", settings={"layers": "experts"})
    assert unread_notes(replace(experts, layer="9")) == ["not read by moe: --set layers=experts"]
    assert unread_notes(replace(experts, try_layers=("0", "9"))) == ["not read by moe: --set layers=experts"]
    assert [unread_notes(replace(experts, layer=several)) for several in ("mix", "0,9")] == [[], []]
    wordless = Experiment(head="moe", settings={"text": "none"}, text_layer="3")
    assert unread_notes(wordless) == ["not read by moe: --text-layer 3"]


@pytest.mark.parametrize("task", ["categorical", "dimensional", "both"])
def test_presets_are_told_nothing_for_what_they_set(task: str) -> None:
    for name, preset in PRESETS.items():
        asked = Experiment(**{**preset.settings, "protocol": name, "task": task})
        assert not unread_notes(asked)


def test_grids_that_come_with_mmser_ask_for_nothing_that_is_not_read() -> None:
    for name in preset_names():
        for cell in read_grid(preset_text(name), name, stored_layers={"pooled/a": [0, 4], "text/a": [1]}).cells:
            assert not unread_notes(cell.experiment)


def test_whoever_gives_one_is_told_once_it_is_trained(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ("--granularity", "phone", "--layer", 77, "--try-layers", "0,99", "--momentum", 0.5, "--crop-seconds", 9)
    result = mmser("train-head", cache, "--head", "text-probe", *given, "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    told = "not read by text-probe: --granularity phone --layer 77 --try-layers 0,99 --momentum 0.5 --crop-seconds 9.0"
    assert f"Note: {told}\n" in result.stdout
    assert json.loads((out / "summary.json").read_text())["notes"] == [told]
    rated = ("--task", "dimensional", "--dimensions", "arousal", "--class-weights", "balanced", "--epochs", 1)
    result = mmser("train-head", cache, "--head", "text-probe", *rated, "--out", tmp_path / "rated")
    assert "Note: not read by text-probe (dimensional): --class-weights balanced\n" in result.stdout


def test_a_plan_tells_before_it_trains(cache: Path, tmp_path: Path) -> None:
    grid = tmp_path / "my.toml"
    grid.write_text('[base]\nhead = "text-probe"\nlayer = 9\nmomentum = 0.5\n[axes]\nlearning_rate = [0.1, 0.2]\n')
    result = mmser("ablate", cache, grid, "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Note: not read by text-probe: --momentum 0.5\n" in result.stdout  # what heads lack is not asked of them
