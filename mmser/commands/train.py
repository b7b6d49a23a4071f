"""``mmser train-head``: a cache becomes trained heads and a table."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands.defaults import default_of
from mmser.errors import ProtocolError
from mmser.records import GRANULARITIES
from mmser.train.options import NORMALISATIONS, Experiment, Training

if TYPE_CHECKING:
    from mmser.train.run import Result


def training_options(command: Any) -> Any:
    """The options of a training, with the defaults of :class:`~mmser.train.options.Experiment`."""
    default, of_training = partial(default_of, Experiment), partial(default_of, Training)
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


@click.command("train-head")
@click.argument("cache_path", metavar="CACHE", type=click.Path(path_type=Path))
@training_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/CACHE/HEAD-GRANULARITY-LAYER]")
def train_head(cache_path: Path, out: Path | None, **options: Any) -> None:
    """Train a head on a CACHE over all folds and seeds, test it once, and print a table.

    The epoch is chosen on the dev fold (the next value of the fold column); no speaker is in two parts. Run again,
    only what is missing is trained.

    \b
    mmser train-head cache/iemocap --head coattention --granularity word --folds session --seeds 5
    mmser train-head cache/emodb --head speech-probe --granularity utterance --normalise speaker
    """
    from mmser.show import meter
    from mmser.train.run import train_head as run

    experiment = experiment_of(options)
    folder = out or Path("runs") / cache_path.name / f"{experiment.head}-{experiment.granularity}-{experiment.layer}"
    with meter() as progress:
        result = run(cache_path, experiment, folder, report=progress)
    show_training(result)


def show_training(*results: "Result") -> None:
    """Print a line a head, and what stands behind it."""
    from mmser.show import counted, print_table

    first = results[0]
    for result in results:
        for note in result.notes:
            click.echo(f"Note: {note}")
    if first.left_out:
        click.echo(f"Left out: {counted(first.left_out)}")
    lines = [line for result in results for line in result.lines]
    rows = [
        (
            line.head,
            f"{line.ua:.3f}",
            f"{line.interval.low:.3f} to {line.interval.high:.3f}",
            f"{line.wa:.3f}",
            f"{line.macro_f1:.3f}",
            f"{line.ua_of_folds:.3f}",
            str(line.num_runs),
        )
        for line in lines
    ]
    print_table(("head", "UA", "95 % of UA", "WA", "macro F1", "UA, mean of folds", "runs"), rows)
    unit = {line.interval.unit for line in lines}.pop()
    click.echo(
        f"{first.num_utterances} utterances, {len(first.labels)} classes (chance UA {1 / len(first.labels):.3f}); "
        f"interval by bootstrap over {lines[0].interval.clusters} {unit}s. Written to "
        + ", ".join(str(result.folder) for result in results)
    )
