"""Every default, written out: to change one changes what commands of before do, and has to be meant."""

from dataclasses import asdict
from typing import Any

from mmser.heads import HEADS
from mmser.train.options import Experiment, Training

TRAINING = {
    "epochs": 50,
    "batch_size": 32,
    "patience": 10,
    "optimiser": "adamw",
    "momentum": 0.9,
    "crop_s": 5.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "clip_norm": 1.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "normalise": "global",
    "schedule": "constant",
    "warmup": 0.0,
    "categorical_weight": 0.5,
    "dimension_weights": (),
    "metric_weight": 0.0,
    "metric_temperature": 0.1,
    "memory_gb": 0.0,
}

EXPERIMENT = {
    "head": "coattention",
    "granularity": "word",
    "layer": "mix",
    "text_layer": "-1",
    "task": "categorical",
    "protocol": "",
    "folds": "speaker",
    "test_split": None,
    "dev": "next",
    "dev_share": 0.2,
    "dev_seed": 0,
    "label": "label",
    "labels": (),
    "soft": "",
    "dimensions": ("arousal", "valence", "dominance"),
    "missing": "drop",
    "require": None,
    "seeds": 1,
    "normalise": "global",
    "members": (),
    "fusion": "mean",
    "settings": {},
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "try_layers": (),
    "report_oracle": False,
    "lexicon": "",
    "speech_stream": None,
    "text_stream": None,
    "mel_stream": None,
    "device": "auto",
    "training": TRAINING,
}

ATTENDS = {"width": 256, "heads": 8, "feedforward": True, "block_dropout": 0.1, "dropout": 0.2}
CNN14 = {"width_multiplier": 1.0, "block_dropout": 0.2, "dropout": 0.5}

OF_HEADS: dict[str, dict[str, Any]] = {
    "speech-probe": {"hidden": 256, "pooling": "mean", "dropout": 0.0},
    "text-probe": {"hidden": 256, "pooling": "mean", "dropout": 0.0},
    "coattention": {
        **ATTENDS,
        "blocks": 1,
        "self_attention": "none",
        "queries": "all",
        "positions": "none",
        "pooling": "mean",
    },
    "cls-coattention": {**ATTENDS, "summary": "mean"},
    "bayesian-coattention": {**ATTENDS, "shape": 10.0, "prior": "contextual", "pooling": "mean"},
    "crossmodal-transformer": {
        **ATTENDS,
        "blocks": 4,
        "focus": 1.0,
        "self_attention": True,
        "positions": "none",
        "pooling": "mean",
    },
    "mmer-cross": ATTENDS,
    "attention-pool": {"width": 256, "positions": "none", "dropout": 0.2},
    "aligned-words": {**ATTENDS, "blocks": 1, "pooling": "attention"},
    "film": {"width": 256, "pooling": "mean", "dropout": 0.2},
    "moe": {"width": 256, "layers": "mix", "spectral": "none", "text": "mean", "gate_hidden": 0, "dropout": 0.2},
    "cnn14": CNN14,
    "conditioned-cnn14": {**CNN14, "conditioning": "multistage", "condition_at": "6"},
    "conditioned-states": {
        "width": 256,
        "blocks": 3,
        "kernel": 3,
        "pool": 1,
        "conditioning": "multistage",
        "condition_at": "last",
        "block_dropout": 0.2,
        "dropout": 0.2,
    },
    "text-network": {"hidden": 256, "hidden_layers": 2, "dropout": 0.2},
}


def test_defaults_of_training() -> None:
    assert asdict(Training()) == TRAINING


def test_defaults_of_an_experiment() -> None:
    assert asdict(Experiment()) == EXPERIMENT


def test_defaults_of_every_head() -> None:
    assert {name: asdict(kind.options()) for name, kind in HEADS.items()} == OF_HEADS
