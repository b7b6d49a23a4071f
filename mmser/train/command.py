"""The ``mmser train-head`` line of an experiment: what a run folder was made with, to be copied and run again."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmser.train.options import Experiment
from mmser.train.presets import PRESETS

_OPTIONS = {"settings": "set", "crop_s": "crop-seconds"}
"""Options that are not called like their field."""

_UNSAID = ("normalise", "beta1", "beta2", "epsilon")
"""Fields of a training that have no option: Python alone sets them."""


def command_of(experiment: Mapping[str, Any], cache: str | Path, out: str | Path | None = None) -> str:
    """The command that asks for an experiment: the preset, and what differs from the preset's and mmser's defaults.

    Args:
        experiment: an :class:`~mmser.train.options.Experiment` as ``asdict`` or ``config.json`` has it.
        cache: the cache to name.
        out: the run folder to name; None leaves it to mmser.

    >>> command_of(asdict(Experiment(layer="9", settings={"width": 64})), "cache/emodb")
    'mmser train-head cache/emodb --layer 9 --set width=64'
    """
    preset = experiment["protocol"] if _preset(experiment) else ""
    words = ["mmser", "train-head", str(cache), *(("--protocol", preset) if preset else ())]
    words += [word for own in given_options(experiment).values() for word in own]
    return shlex.join([*words, *(["--out", str(out)] if out is not None else [])])


def given_options(experiment: Mapping[str, Any]) -> dict[str, list[str]]:
    """The words of a command, by field, for what differs from the preset's and mmser's defaults.

    >>> given_options(asdict(Experiment(layer="9", protocol="leave-one-session-out", folds="session")))
    {'layer': ['--layer', '9']}
    """
    usual = _flat({**asdict(Experiment()), **_preset(experiment)})
    asked = {**usual, **_flat(experiment)}  # a run folder of an older version lacks what is newer
    names = [name for name in usual if name != "protocol" and asked[name] != usual[name]]
    return {name: _option(name, asked[name]) for name in names}


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command that ask for fields of an experiment, defaults too.

    >>> words_of({"folds": "speaker", "labels": ("neu", "hap")})
    ['--folds', 'speaker', '--labels', 'neu,hap']
    """
    asked = {name: list(own) if isinstance(own, tuple) else own for name, own in settings.items()}
    return [word for pair in asked.items() for word in _option(*pair)]


def unsaid(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What the command cannot say: fields of the training that were set from Python."""
    asked, usual = experiment["training"], asdict(Experiment())["training"]
    return {name: asked[name] for name in _UNSAID if asked.get(name, usual[name]) != usual[name]}


def _preset(experiment: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the experiment's preset sets; nothing where a command could not take it back, which None does in Python."""
    preset = PRESETS.get(experiment["protocol"])
    settings = preset.settings if preset is not None else {}
    return {} if any(experiment.get(name, "") is None for name in settings) else settings


def _flat(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the experiment and, under their own names, of its training that have an option; several as a list."""
    training = {name: own for name, own in experiment["training"].items() if name not in _UNSAID}
    fields = {**{name: own for name, own in experiment.items() if name != "training"}, **training}
    return {name: list(own) if isinstance(own, tuple) else own for name, own in fields.items()}


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
    if isinstance(value, Mapping):
        return [word for pair in value.items() for word in (flag, _pair(*pair))]
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _pair(name: str, value: Any) -> str:
    return f"{name}={','.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
