"""``mmser train-head``: a cache becomes trained heads and a table."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import Any

import click

from mmser.commands.output import Output, with_output
from mmser.commands.training import experiment_of, training_options, with_preset
from mmser.train.names import default_folder


@click.command("train-head")
@click.argument("cache_path", metavar="CACHE", type=click.Path(path_type=Path))
@training_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/CACHE/HEAD-GRANULARITY-LAYER[...]]"
)
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard, as it trains.")
@with_output
def train_head(cache_path: Path, out: Path | None, tensorboard: bool, output: Output, **options: Any) -> None:
    """Train a head on a CACHE over all folds and seeds, test it once, and print a table.

    The epoch is chosen on the dev part (the next value of the fold column, unless --dev says otherwise), and so is the
    setting where several are tried; no speaker is in two parts. Run again, only what is missing is trained. Where all
    runs diverge before their first epoch is over, the figures are written, but the exit code is 1.

    \b
    mmser train-head cache/iemocap --head coattention --granularity word --folds session --seeds 5
    mmser train-head cache/emodb --head speech-probe --granularity utterance --normalise speaker
    mmser train-head cache/emodb --head speech-probe --try-layers 3,6,9 --learning-rate 1e-4,1e-3
    mmser train-head cache/podcast --protocol msp-podcast --task dimensional
    """
    from mmser.commands.tables import show_training, training_json
    from mmser.errors import MmserError
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
    if result.nothing_trained:
        raise MmserError(
            f"nothing could be trained: all runs diverged before their first epoch was over, and what {folder} says is "
            "of heads as they were before training. Try a lower --learning-rate and another --out"
        )
