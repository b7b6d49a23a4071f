"""The command of a stored experiment: read back by the command line, it asks for the same."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from mmser.commands import train
from mmser.train.command import command_of, unsaid
from mmser.train.options import Experiment, Training
from mmser.train.presets import PRESETS


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The experiment that ``mmser train-head`` would run for a command."""
    asked: list[Experiment] = []

    def keep(_cache: Any, experiment: Experiment, _folder: Any, **_: Any) -> SimpleNamespace:
        asked.append(experiment)
        return SimpleNamespace(nothing_trained=False)

    monkeypatch.setattr("mmser.train.run.train_head", keep)
    monkeypatch.setattr("mmser.commands.tables.training_json", lambda _: {})
    monkeypatch.setattr("mmser.commands.tables.show_training", lambda _, say: None)
    words = shlex.split(command)
    assert words[:2] == ["mmser", "train-head"]
    train.train_head.main(words[2:], standalone_mode=False)
    return asked[0]


def stored(experiment: Experiment) -> Mapping[str, Any]:
    """As ``config.json`` has it: tuples are lists."""
    return json.loads(json.dumps(asdict(experiment)))


TRAINING = Training(
    epochs=3, batch_size=8, patience=2, optimiser="sgd", momentum=0.5, crop_s=2.0, schedule="cosine", clip_norm=0.0
)
EXPERIMENTS = {
    "defaults": Experiment(),
    "most options": Experiment(
        head="late-fusion",
        granularity="phone,word",
        layer="-1",
        text_layer="3",
        folds="session",
        dev="speaker",
        dev_share=0.25,
        dev_seed=7,
        label="emotion",
        labels=("neu", "very happy"),
        soft="votes_",
        missing="keep",
        require="phone,word",
        seeds=5,
        normalise="speaker",
        members=("speech-probe@phone+word", "text-probe"),
        fusion="dev-weighted",
        settings={"hidden": "32", "pooling": "mean+std"},
        learning_rate=(1e-4, 0.001),
        weight_decay=0.0,
        report_oracle=True,
        speech_stream="pooled/builtin-tiny@pocketsphinx",
        text_stream="text/it's",
        mel_stream="mel/64",
        device="cpu",
        training=TRAINING,
    ),
    "dimensions": Experiment(
        task="both",
        dimensions=("valence", "arousal"),
        try_layers=("6", "12"),
        test_split="test2",
        folds="split",
        training=Training(warmup=0.1, label_smoothing=0.1, categorical_weight=0.3, dimension_weights=(1.0, 0.0)),
    ),
    "class weights": Experiment(normalise="none", training=Training(class_weights="balanced", schedule="linear")),
    **{name: Experiment(protocol=name, **preset.settings) for name, preset in PRESETS.items()},
    "a preset but for one": Experiment(protocol="superb", folds="speaker", dev="speaker", labels=()),
    "a preset's name alone": Experiment(protocol="msp-podcast", folds="split"),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_the_command_line_reads_back_the_experiment(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    again = parsed(command_of(stored(experiment), "cache/demo", "runs/with space"), monkeypatch)
    if experiment == EXPERIMENTS["a preset's name alone"]:
        experiment = replace(experiment, protocol="")  # its test_split of None is nothing that an option can say
    assert again == experiment


def test_the_command_is_as_short_as_it_can_be() -> None:
    assert command_of(stored(Experiment()), "c") == "mmser train-head c"
    preset = Experiment(protocol="superb", **PRESETS["superb"].settings)
    assert command_of(stored(preset), "c", "o") == "mmser train-head c --protocol superb --out o"


def test_every_field_has_an_option_or_is_known_to_have_none() -> None:
    fields = {**asdict(Training()), **asdict(Experiment())}
    options = {parameter.name for parameter in train.train_head.params}
    without = {"beta1", "beta2", "epsilon", "training"}
    assert set(fields) - options == without
    assert unsaid(stored(Experiment(training=Training(beta1=0.5, clip_norm=2.0)))) == {"beta1": 0.5}
    assert unsaid(stored(Experiment(normalise="speaker"))) == {}


def test_an_older_run_folder_has_a_command_too() -> None:
    older = dict(stored(Experiment(seeds=2, protocol="gone")))
    del older["missing"]
    assert command_of(older, "c") == "mmser train-head c --seeds 2"
