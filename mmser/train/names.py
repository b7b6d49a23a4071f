"""What a run folder is called unless the user says otherwise; the command line and Python agree."""

from pathlib import Path

from mmser.files import name_of
from mmser.train.options import Experiment


def run_name(experiment: Experiment) -> str:
    """The name of an experiment's run folder.

    >>> run_name(Experiment(task="both", layer="9"))
    'coattention-word-9-both'
    >>> run_name(Experiment(layer="4,9", text_layer="mix"))
    'coattention-word-4+9-text-mix'
    """
    layer = "-".join(("try", *experiment.try_layers)) if experiment.try_layers else experiment.layer
    text = "" if experiment.text_layer == Experiment.text_layer else f"-text-{experiment.text_layer}"
    task = "" if experiment.task == "categorical" else f"-{experiment.task}"
    fusion = "" if experiment.fusion == "mean" else f"-{experiment.fusion}"
    return f"{experiment.head}{fusion}-{experiment.granularity}-{layer}{text}{task}".replace(",", "+")


def default_folder(cache_path: Path, experiment: Experiment) -> Path:
    """Where an experiment on a cache goes, from the working directory.

    >>> default_folder(Path("cache/emodb"), Experiment()).as_posix()
    'runs/emodb/coattention-word-mix'
    """
    return Path("runs") / name_of(cache_path) / run_name(experiment)
