"""``train_head`` with every option as a keyword."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mmser.ablate.values import options_of
from mmser.api.runs import Runs
from mmser.cache import Cache
from mmser.checks import check_choice, did_you_mean
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.show import meter
from mmser.train.members import FUSIONS
from mmser.train.names import default_folder
from mmser.train.options import Experiment, Training
from mmser.train.presets import settings_of
from mmser.train.run import train_head as run
from mmser.train.tensorboard import check_installed

_OF_EXPERIMENT = tuple(field.name for field in fields(Experiment))
_OF_TRAINING = tuple(field.name for field in fields(Training) if field.name not in _OF_EXPERIMENT)
"""``normalise`` is in both: the experiment's decides."""
_OPTIONS = tuple(name for name in (*_OF_EXPERIMENT, *_OF_TRAINING) if name not in ("head", "settings", "training"))
_DEFAULTS = {field.name: field.default for kind in (Training, Experiment) for field in fields(kind)}
_AS_COMMAND = {"crop_s": "crop_seconds"}
"""Fields whose option has another name; either is a keyword."""


def train_head(
    cache: str | Path | Cache,
    head: str = Experiment.head,
    granularity: str | Sequence[str] | None = None,
    layer: int | str | Sequence[int] | None = None,
    seeds: int | None = None,
    folds: str | None = None,
    out: str | Path | None = None,
    *,
    tensorboard: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Runs:
    """Train a head over all folds and seeds and test it once, as ``mmser train-head`` does.

    Called again with the same arguments, only what is missing is trained.

    Args:
        cache: a cache of ``mmser extract``, or its path.
        head: a head of :data:`mmser.heads.HEADS`, or ``late-fusion``.
        granularity: of speech; several for a head that sees them all. None: the default of
            :class:`~mmser.train.options.Experiment`, as for what follows.
        layer: speech layer: a number, -1 for the last, several or ``mix`` for a learned weighted sum.
        seeds: runs of each fold.
        folds: column whose every value is test once, or ``split``. None: what the preset ``protocol`` says, if one is
            given.
        out: the run folder. None: ``runs/CACHE/HEAD-GRANULARITY-LAYER...``, as on the command line.
        tensorboard: write event files for TensorBoard, as it trains.
        quiet: show neither progress nor what there is to note (:meth:`Runs.remarks`).
        options: the other fields of :class:`~mmser.train.options.Experiment` and
            :class:`~mmser.train.options.Training` (``normalise="speaker"``, ``learning_rate=(1e-4, 1e-3)``,
            ``epochs=20``), and the head's own options (``width=64``); those of one member of a late fusion as
            ``settings={"coattention@word.width": 64}``. Several values are any sequence or an array of numpy; names
            also one text, with commas. None is the default.

    Returns:
        The finished run folder.

    Raises:
        ProtocolError: no such option, or a value that it cannot have; folds, labels or options do not allow it; the
            folder holds another experiment.
        CacheError: the cache, or what the head reads, is not there.
        MmserError: ``tensorboard`` without that package.
    """
    path = cache.path if isinstance(cache, Cache) else _path("cache", cache)
    named = {"granularity": granularity, "layer": layer, "seeds": seeds, "folds": folds}
    experiment = experiment_of(head, {**named, **options})
    folder = default_folder(path, experiment) if out is None else _path("out", out)
    if tensorboard:
        check_installed()
    with meter(quiet=quiet) as progress:
        run(path, experiment, folder, report=progress, tensorboard=tensorboard)
        runs = Runs(folder)
        for line in runs.remarks():
            progress.say(line)
    return runs


def experiment_of(head: str, asked: Mapping[str, Any]) -> Experiment:
    """The experiment that keywords describe; a preset's fields stand back behind them.

    >>> experiment_of("speech-probe", {"layer": 9, "hidden": 64, "epochs": 20}).settings
    {'hidden': 64}

    Raises:
        ProtocolError: no such head; a keyword that neither the experiment, nor its training, nor the head has; a value
            of another type.
    """
    check_choice("head", head, [*HEADS, *FUSIONS])
    training, settings = asked.get("training"), asked.get("settings")
    if not isinstance(training, Training | None):
        raise ProtocolError(f"training is {training!r}; expected a Training (mmser.train.options)")
    if not isinstance(settings, Mapping | None):
        raise ProtocolError(f"settings is {settings!r}; expected a dict, as settings={{'width': 64}}")
    rest = {name: value for name, value in asked.items() if name not in ("training", "settings")}
    own = _as_fields(rest)
    own = {**settings_of(own.get("protocol", "")), **own}
    of_head = {name: value for name, value in rest.items() if name not in (*_OPTIONS, *_AS_COMMAND.values())}
    _refuse_unknown(of_head, head, own.get("members", ()))
    of_training = {name: own.pop(name) for name in _OF_TRAINING if name in own}
    return Experiment(
        head=head,
        settings=_as_settings({**(settings or {}), **of_head}),
        training=replace(training or Training(), **of_training),
        **own,
    )


def _as_fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Those keywords that are fields, as these hold them: read as the grid of an ablation is, which takes fewer types.

    None is left out where it is no value of the field.
    """
    named = {name: _AS_COMMAND.get(name, name) for name in _OPTIONS}
    table: dict[str, Any] = {}
    for name, option in named.items():
        given = [own for own in dict.fromkeys((name, option)) if asked.get(own) is not None]
        if len(given) > 1:
            raise ProtocolError(f"{' and '.join(given)} are one option; give one of them")
        if given:
            table[option] = _as_table(name, asked[given[0]])
    nothing = {name: None for name in named if name in asked and asked[name] is None and _DEFAULTS[name] is None}
    return {**options_of(table, "train_head"), **nothing}


def _as_table(name: str, value: Any) -> Any:
    """A value in the types that TOML has; alone where the field has several, as a list."""
    value = _plain(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    alone = isinstance(_DEFAULTS[name], tuple) and not isinstance(value, (str, list))
    return [value] if alone else value


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, and whatever else knows it, as Python's own; sequences as lists."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(own) for own in value]
    return value


def _as_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: _plain(value) for name, value in asked.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not isinstance(value, (str, bool, int, float)):
            raise ProtocolError(f"option {name}={value!r} of the head: expected text, a number, True or False")
    return settings


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise ProtocolError(f"{name} is {value!r}; expected a path")
    return Path(value)


def _refuse_unknown(names: Collection[str], head: str, members: Sequence[str]) -> None:
    heads = [name.partition("@")[0] for name in members or FUSIONS.get(head, (head,))]
    of_heads = {field.name for name in heads if name in HEADS for field in fields(HEADS[name].options)}
    known = {*_OPTIONS, *_AS_COMMAND.values(), "training", "settings", "out", "tensorboard", "quiet", *of_heads}
    for name in names:
        if name not in of_heads:
            hint = did_you_mean(name, known) or f"; its own are {', '.join(sorted(of_heads))}"
            raise ProtocolError(f"no option {name!r} of {head} or of its training{hint}")
