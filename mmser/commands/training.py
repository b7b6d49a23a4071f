"""The options of a training, group by group, and the experiment that they describe."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import click

from mmser.commands.defaults import default_of
from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES
from mmser.train.options import (
    DEV_RULES,
    FUSION_RULES,
    MISSING,
    NORMALISATIONS,
    OPTIMISERS,
    SCHEDULES,
    TASKS,
    Experiment,
    Training,
)
from mmser.train.presets import PRESETS, settings_of

Option = Callable[[Any], Any]
"""What click makes of an option: a decorator of commands."""

_COUNT = click.IntRange(min=1)
_OF_TRAINING = {field.name for field in fields(Training)} - {"normalise"}
"""Not normalise: an experiment has its own, which decides."""


def _option(name: str, told: str, kind: Any = None, *, flag: str | None = None, **more: Any) -> Option:
    """An option for a field of the experiment or of its training, with the default that the field has."""
    default = default_of(Training if name in _OF_TRAINING else Experiment, name)
    if isinstance(default, tuple):
        default = ",".join(default)
    more = {"show_default": default not in ("", None), **more}
    return click.option(flag or f"--{name.replace('_', '-')}", name, default=default, type=kind, help=told, **more)


_HEAD = (
    _option(
        "head",
        "speech-probe, text-probe, coattention, cls-coattention, bayesian-coattention, crossmodal-transformer, "
        "mmer-cross, attention-pool, aligned-words, film, moe, cnn14, conditioned-cnn14, conditioned-states, "
        "text-network, late-fusion.",
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="[MEMBER.]NAME=VALUE", help="Option of the head (mmser heads)."
    ),
    _option("members", "Of late-fusion: HEAD@GRANULARITY,HEAD,..."),
    _option("fusion", "How members are combined.", click.Choice(FUSION_RULES)),
    _option("lexicon", "Table of word, weight: bayesian-coattention's prior=lexicon.", metavar="FILE"),
)
_STATES = (
    _option("granularity", f"Of speech: {', '.join(GRANULARITIES)}; several for a head that sees them all."),
    _option("layer", "Speech layer: a number, -1 (last), mix (learned), 4,8 (mix)."),
    _option("try_layers", "Speech layers, comma-separated; dev chooses."),
    _option("text_layer", "Text layer, as --layer has them."),
    _option("speech_stream", "Which stream, where several would do (mmser cache info)."),
    _option("text_stream", "The same for text."),
    _option("mel_stream", "The same for log-mel frames."),
    _option("missing", "Utterances that lack some of the states.", click.Choice(MISSING)),
    _option("require", "Who lacks any is left out: phone,word,token.", metavar="STATES"),
    _option("normalise", "Features: by whom.", click.Choice(NORMALISATIONS)),
)
_TASK = (
    _option("task", "Classes, ratings, or both.", click.Choice(TASKS)),
    _option("label", "Column of the classes."),
    _option("labels", "Classes, comma-separated. [default: all]"),
    _option("soft", "Votes: columns PREFIXlabel.", metavar="PREFIX"),
    _option("dimensions", "Columns of the ratings, comma-separated."),
)
_PROTOCOL = (
    click.option("--protocol", type=click.Choice(list(PRESETS)), help="Sets folds, dev, ... that are not given here."),
    _option("folds", "Column: each value is test once; or split."),
    _option("test_split", "Test part to open, where --folds split has several."),
    _option("dev", "Who selects.", click.Choice(DEV_RULES)),
    _option("dev_share", "Of speakers: --dev speaker.", float),
    _option("dev_seed", "Which speakers: --dev speaker.", int),
    _option("seeds", "Runs of each fold.", _COUNT),
    click.option("--report-oracle", is_flag=True, help="Say what choosing the epoch on test would give (leaks)."),
)
_LOSS = (
    _option("class_weights", "Of the loss.", click.Choice(["none", "balanced"])),
    _option("label_smoothing", "0 to 1.", float),
    _option("categorical_weight", "--task both: 0 to 1.", float),
    _option("dimension_weights", "A number each. [default: all equal]"),
    _option("metric_weight", "Of supervised contrast between utterances. 0: none.", float),
    _option("metric_temperature", "Of that.", float),
)
_OPTIMISATION = (
    _option("learning_rate", "Several: dev chooses.", str),
    _option("weight_decay", "Several: dev chooses.", str),
    _option("optimiser", "sgd: with Nesterov's momentum.", click.Choice(OPTIMISERS)),
    _option("momentum", "Of sgd.", float),
    _option("schedule", "Of the rate.", click.Choice(SCHEDULES)),
    _option("warmup", "Share of steps: rate rises.", float),
    _option("clip_norm", "Longest gradient of a run. 0: no limit.", float),
    _option("epochs", "At most.", _COUNT),
    _option("patience", "Epochs without a better score.", _COUNT),
    _option("batch_size", "Utterances a step.", _COUNT),
    _option(
        "crop_s",
        "Of log-mel frames, in training; of cnn14 and conditioned-cnn14.",
        float,
        flag="--crop-seconds",
    ),
    _option("device", "auto, cpu, cuda, ..."),
    _option("memory_gb", "For the runs at work, beside the features. 0: half of a GPU's, or 4.", float),
)


def training_options(command: Any) -> Any:
    """The options of a training, with the defaults of :class:`~mmser.train.options.Experiment`."""
    for option in reversed((*_HEAD, *_STATES, *_TASK, *_PROTOCOL, *_LOSS, *_OPTIMISATION)):
        command = option(command)
    return command


def experiment_of(options: dict[str, Any]) -> Experiment:
    """The experiment that the options describe.

    Raises:
        ProtocolError: an option that is not understood.
    """
    wrong = [pair for pair in options["settings"] if "=" not in pair]
    if wrong:
        raise ProtocolError(f"--set {wrong[0]}: expected NAME=VALUE, or MEMBER.NAME=VALUE")
    settings = dict(pair.split("=", 1) for pair in options.pop("settings"))
    options["dimension_weights"] = _numbers("dimension-weights", options["dimension_weights"])
    for name in ("learning_rate", "weight_decay"):
        several = _numbers(name.replace("_", "-"), options[name])
        options[name] = several[0] if len(several) == 1 else several
    training = replace(Training(), **{name: options.pop(name) for name in _OF_TRAINING & set(options)})
    for name in ("labels", "members", "dimensions", "try_layers"):
        options[name] = _listed(options[name])
    return Experiment(settings=settings, training=training, **options)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _listed(text))
    except ValueError as error:
        raise ProtocolError(f"--{name} {text}: expected numbers, separated by commas") from error


def with_preset(options: dict[str, Any], given: Callable[[str], bool]) -> dict[str, Any]:
    """Options with those of the preset in place of defaults.

    Args:
        options: as click parsed them.
        given: whether the user gave an option, by name.
    """
    name = options["protocol"] or ""
    of_preset = {
        field: ",".join(value) if isinstance(value, tuple) else value
        for field, value in settings_of(name).items()
        if not given(field)
    }
    return {**options, "protocol": name, **of_preset}
