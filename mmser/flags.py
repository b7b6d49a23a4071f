"""The options of the two stages on the command line, with the defaults and names of their dataclasses."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from mmser.errors import ProtocolError
from mmser.extract.options import DTYPES, Extraction
from mmser.records import GRANULARITIES, POOLINGS
from mmser.train.options import NORMALISATIONS, Experiment, Training


def _default(options: type[Any], name: str) -> Any:
    return next(f.default for f in fields(options) if f.name == name)


def extraction_options(command: Any) -> Any:
    """The options of an extraction, with the defaults of :class:`~mmser.extract.options.Extraction`."""
    default = partial(_default, Extraction)
    path = click.Path(path_type=Path)
    model = "ID, ID@REVISION, FOLDER, builtin:tiny, or none."
    for option in reversed(
        [
            click.option("--speech-model", default=default("speech_model"), help=f"Speech encoder: {model}"),
            click.option("--text-model", default=default("text_model"), help=f"Text encoder: {model}"),
            click.option(
                "--align",
                "aligner",
                type=click.Choice(["pocketsphinx", "textgrid", "none"]),
                default=default("aligner"),
                help="Words, syllables and phones: by PocketSphinx (English), from TextGrids, or none.",
            ),
            click.option("--textgrids", type=path, help="Folder of <utterance_id>.TextGrid, for --align textgrid."),
            click.option("--lexicon", type=path, help="Pronunciations in CMU format, for --align pocketsphinx."),
            click.option("--layers", default=default("layers"), help="Speech layers: all, 9, 0,6,12, 4-8, -1 (last)."),
            click.option("--text-layers", default=default("text_layers"), help="Text layers, in the same way."),
            click.option(
                "--keep",
                default="",
                show_default=False,
                help="Speech granularities: frame, phone, syllable, word, utterance (comma-separated). "
                "[default: all that the alignment gives, but not frame]",
            ),
            click.option("--pooling", type=click.Choice(POOLINGS), default=default("pooling"), help="Over segments."),
            click.option("--dtype", type=click.Choice(DTYPES), default=default("dtype"), help="Of the stored states."),
            click.option("--device", default=default("device"), help="auto, cpu, cuda, cuda:1, mps."),
            click.option(
                "--batch-seconds",
                type=float,
                show_default=False,
                help="Padded audio in a batch. [default: 6 on a CPU, 80 on a GPU]",
            ),
            click.option("--jobs", type=click.IntRange(min=1), help="Aligners and decoders. [default: one a core]"),
            click.option("--refresh", is_flag=True, help="Redo what changed since it was extracted."),
        ]
    ):
        command = option(command)
    return command


def training_options(command: Any) -> Any:
    """The options of a training, with the defaults of :class:`~mmser.train.options.Experiment`."""
    default, of_training = partial(_default, Experiment), partial(_default, Training)
    count = click.IntRange(min=1)
    weights = click.Choice(["none", "balanced"])
    normalisation = click.Choice(NORMALISATIONS)
    for option in reversed(
        [
            click.option("--head", default=default("head"), help="speech-probe, text-probe, coattention, late-fusion."),
            click.option(
                "--granularity", type=click.Choice(GRANULARITIES), default=default("granularity"), help="Of speech."
            ),
            click.option("--layer", default=default("layer"), help="Speech layer: a number, -1 (last), mix (learned)."),
            click.option("--text-layer", type=int, help="Text layer. [default: the last that is stored]"),
            click.option("--folds", default=default("folds"), help="Column: each value is test once; or split."),
            click.option("--test-split", help="Test part to open, where --folds split has several."),
            click.option("--label", default=default("label"), help="Column of the classes."),
            click.option("--labels", default="", show_default=False, help="Classes, comma-separated. [default: all]"),
            click.option("--seeds", type=count, default=default("seeds"), help="Runs of each fold."),
            click.option("--normalise", type=normalisation, default=default("normalise"), help="Features: by whom."),
            click.option("--members", default="", show_default=False, help="Of late-fusion: HEAD@GRANULARITY,HEAD,..."),
            click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Head option: width=128."),
            click.option("--learning-rate", type=float, default=default("learning_rate"), help="Of AdamW."),
            click.option("--weight-decay", type=float, default=default("weight_decay"), help="Of AdamW."),
            click.option("--epochs", type=count, default=of_training("epochs"), help="At most."),
            click.option("--patience", type=count, default=of_training("patience"), help="Epochs without a better UA."),
            click.option("--batch-size", type=count, default=of_training("batch_size"), help="Utterances a step."),
            click.option("--class-weights", type=weights, default=of_training("class_weights"), help="Of the loss."),
            click.option("--label-smoothing", type=float, default=of_training("label_smoothing"), help="0 to 1."),
            click.option("--speech-stream", help="Which stream, where several would do (mmser cache info)."),
            click.option("--text-stream", help="The same for text."),
            click.option("--device", default=default("device"), help="auto, cpu, cuda, ..."),
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
    names = ("epochs", "patience", "batch_size", "class_weights", "label_smoothing")
    training = replace(Training(), **{name: options.pop(name) for name in names})
    for name in ("labels", "members"):
        options[name] = tuple(part.strip() for part in options[name].split(",") if part.strip())
    return Experiment(settings=settings, training=training, **options)
