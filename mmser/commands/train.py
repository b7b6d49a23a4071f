"""``mmser train-head``: a cache becomes trained heads and a table."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from mmser.commands.defaults import default_of
from mmser.commands.output import Output, with_output
from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES
from mmser.train.names import default_folder
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

_OF_TRAINING = (
    *("epochs", "patience", "batch_size", "class_weights", "label_smoothing"),
    *("optimiser", "momentum", "crop_s"),
    *("schedule", "warmup", "categorical_weight", "dimension_weights"),
    *("metric_weight", "metric_temperature"),
)
"""The options that are fields of :class:`~mmser.train.options.Training`."""


def training_options(command: Any) -> Any:
    """The options of a training, with the defaults of :class:`~mmser.train.options.Experiment`."""
    default, of_training = partial(default_of, Experiment), partial(default_of, Training)
    count = click.IntRange(min=1)
    weights = click.Choice(["none", "balanced"])
    normalisation = click.Choice(NORMALISATIONS)
    for option in reversed(
        [
            click.option(
                "--head",
                default=default("head"),
                help="speech-probe, text-probe, coattention, cls-coattention, bayesian-coattention, "
                "crossmodal-transformer, mmer-cross, attention-pool, aligned-words, film, moe, cnn14, "
                "conditioned-cnn14, conditioned-states, text-network, late-fusion.",
            ),
            click.option(
                "--granularity",
                default=default("granularity"),
                help=f"Of speech: {', '.join(GRANULARITIES)}; several for a head that sees them all.",
            ),
            click.option(
                "--layer", default=default("layer"), help="Speech layer: a number, -1 (last), mix (learned), 4,8 (mix)."
            ),
            click.option("--text-layer", type=int, help="Text layer. [default: the last that is stored]"),
            click.option("--try-layers", default="", show_default=False, help="Layers, comma-separated; dev chooses."),
            click.option(
                "--task", type=click.Choice(TASKS), default=default("task"), help="Classes, ratings, or both."
            ),
            click.option(
                "--dimensions", default=",".join(default("dimensions")), help="Columns of the ratings, comma-separated."
            ),
            click.option(
                "--protocol", type=click.Choice(list(PRESETS)), help="Sets folds, dev, ... that are not given here."
            ),
            click.option("--folds", default=default("folds"), help="Column: each value is test once; or split."),
            click.option("--test-split", help="Test part to open, where --folds split has several."),
            click.option("--dev", type=click.Choice(DEV_RULES), default=default("dev"), help="Who selects."),
            click.option("--dev-share", type=float, default=default("dev_share"), help="Of speakers: --dev speaker."),
            click.option("--dev-seed", type=int, default=default("dev_seed"), help="Which speakers: --dev speaker."),
            click.option("--label", default=default("label"), help="Column of the classes."),
            click.option("--labels", default="", show_default=False, help="Classes, comma-separated. [default: all]"),
            click.option(
                "--soft", default="", show_default=False, metavar="PREFIX", help="Votes: columns PREFIXlabel."
            ),
            click.option(
                "--missing", type=click.Choice(MISSING), default=default("missing"), help="States: who lacks."
            ),
            click.option("--require", metavar="STATES", help="Who lacks any is left out: phone,word,token."),
            click.option("--seeds", type=count, default=default("seeds"), help="Runs of each fold."),
            click.option("--normalise", type=normalisation, default=default("normalise"), help="Features: by whom."),
            click.option("--members", default="", show_default=False, help="Of late-fusion: HEAD@GRANULARITY,HEAD,..."),
            click.option(
                "--fusion", type=click.Choice(FUSION_RULES), default=default("fusion"), help="How members are combined."
            ),
            click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Head option: width=128."),
            click.option("--learning-rate", default=str(default("learning_rate")), help="Several: dev chooses."),
            click.option("--weight-decay", default=str(default("weight_decay")), help="Several: dev chooses."),
            click.option(
                "--optimiser",
                type=click.Choice(OPTIMISERS),
                default=of_training("optimiser"),
                help="sgd: with Nesterov's momentum, run by run.",
            ),
            click.option("--momentum", type=float, default=of_training("momentum"), help="Of sgd."),
            click.option(
                "--crop-seconds",
                "crop_s",
                type=float,
                default=of_training("crop_s"),
                help="Of log-mel frames, in training; of cnn14 and conditioned-cnn14.",
            ),
            click.option(
                "--schedule", type=click.Choice(SCHEDULES), default=of_training("schedule"), help="Of the rate."
            ),
            click.option("--warmup", type=float, default=of_training("warmup"), help="Share of steps: rate rises."),
            click.option("--epochs", type=count, default=of_training("epochs"), help="At most."),
            click.option(
                "--patience", type=count, default=of_training("patience"), help="Epochs without a better score."
            ),
            click.option("--batch-size", type=count, default=of_training("batch_size"), help="Utterances a step."),
            click.option("--class-weights", type=weights, default=of_training("class_weights"), help="Of the loss."),
            click.option("--label-smoothing", type=float, default=of_training("label_smoothing"), help="0 to 1."),
            click.option(
                "--categorical-weight",
                type=float,
                default=of_training("categorical_weight"),
                help="--task both: 0 to 1.",
            ),
            click.option(
                "--metric-weight",
                type=float,
                default=of_training("metric_weight"),
                help="Of supervised contrast between utterances. 0: none.",
            ),
            click.option(
                "--metric-temperature", type=float, default=of_training("metric_temperature"), help="Of that."
            ),
            click.option(
                "--dimension-weights", default="", show_default=False, help="A number each. [default: all equal]"
            ),
            click.option(
                "--lexicon",
                default="",
                show_default=False,
                metavar="FILE",
                help="Table of word, weight: bayesian-coattention's prior=lexicon.",
            ),
            click.option("--speech-stream", help="Which stream, where several would do (mmser cache info)."),
            click.option("--text-stream", help="The same for text."),
            click.option("--device", default=default("device"), help="auto, cpu, cuda, ..."),
            click.option(
                "--report-oracle", is_flag=True, help="Say what choosing the epoch on test would give (leaks)."
            ),
        ]
    ):
        command = option(command)
    return command


def experiment_of(options: dict[str, Any]) -> Experiment:
    """The experiment that the options describe.

    Raises:
        ProtocolError: an option that is not understood.
    """
    wrong = [pair for pair in options["settings"] if "=" not in pair]
    if wrong:
        raise ProtocolError(f"--set {wrong[0]}: expected NAME=VALUE")
    settings = dict(pair.split("=", 1) for pair in options.pop("settings"))
    options["dimension_weights"] = _numbers("dimension-weights", options["dimension_weights"])
    for name in ("learning_rate", "weight_decay"):
        several = _numbers(name.replace("_", "-"), options[name])
        options[name] = several[0] if len(several) == 1 else several
    training = replace(Training(), **{name: options.pop(name) for name in _OF_TRAINING})
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


@click.command("train-head")
@click.argument("cache_path", metavar="CACHE", type=click.Path(path_type=Path))
@training_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/CACHE/HEAD-GRANULARITY-LAYER[-TASK]]"
)
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard, as it trains.")
@with_output
def train_head(cache_path: Path, out: Path | None, tensorboard: bool, output: Output, **options: Any) -> None:
    """Train a head on a CACHE over all folds and seeds, test it once, and print a table.

    The epoch is chosen on the dev part (the next value of the fold column, unless --dev says otherwise), and so is the
    setting where several are tried; no speaker is in two parts. Run again, only what is missing is trained.

    \b
    mmser train-head cache/iemocap --head coattention --granularity word --folds session --seeds 5
    mmser train-head cache/emodb --head speech-probe --granularity utterance --normalise speaker
    mmser train-head cache/emodb --head speech-probe --try-layers 3,6,9 --learning-rate 1e-4,1e-3
    mmser train-head cache/podcast --protocol msp-podcast --task dimensional
    """
    from mmser.commands.tables import show_training, training_json
    from mmser.train.run import train_head as run
    from mmser.train.tensorboard import FOLDER, check_installed

    context = click.get_current_context()
    given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    experiment = experiment_of(with_preset(options, lambda name: context.get_parameter_source(name) in given))
    folder = out or default_folder(cache_path, experiment)
    if tensorboard:
        check_installed()
    with output.meter() as progress:
        result = run(cache_path, experiment, folder, report=progress, tensorboard=tensorboard)
    output.give(training_json(result), lambda: show_training(result, say=output.say))
    if tensorboard:
        output.say(f"To look at: tensorboard --logdir {folder / FOLDER}")
