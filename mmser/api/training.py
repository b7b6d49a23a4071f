"""``train_head`` with every option as a keyword."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mmser.api.runs import Runs
from mmser.checks import check_choice, did_you_mean
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.show import meter
from mmser.train.members import FUSIONS
from mmser.train.names import default_folder
from mmser.train.options import Experiment, Training
from mmser.train.presets import settings_of
from mmser.train.run import train_head as run

_OF_EXPERIMENT = tuple(field.name for field in fields(Experiment))
_OF_TRAINING = tuple(field.name for field in fields(Training) if field.name not in _OF_EXPERIMENT)
"""``normalise`` is in both: the experiment's decides."""
_SEVERAL = ("labels", "dimensions", "members", "try_layers", "learning_rate", "weight_decay", "dimension_weights")
"""Fields that take several values, as any sequence."""
_JOINED = ("granularity", "layer")
"""Fields that take several values joined by commas."""


def train_head(
    cache: str | Path,
    head: str = Experiment.head,
    granularity: str | Sequence[str] | None = None,
    layer: int | str | Sequence[int] | None = None,
    seeds: int | None = None,
    folds: str | None = None,
    out: str | Path | None = None,
    *,
    quiet: bool = False,
    **options: Any,
) -> Runs:
    """Train a head over all folds and seeds and test it once, as ``mmser train-head`` does.

    Called again with the same arguments, only what is missing is trained.

    Args:
        cache: a cache of ``mmser extract``.
        head: a head of :data:`mmser.heads.HEADS`, or ``late-fusion``.
        granularity: of speech; several for a head that sees them all. None: the default of
            :class:`~mmser.train.options.Experiment`, as for what follows.
        layer: speech layer: a number, -1 for the last, several or ``mix`` for a learned weighted sum.
        seeds: runs of each fold.
        folds: column whose every value is test once, or ``split``. None: what the preset ``protocol`` says, if one is
            given.
        out: the run folder. None: ``runs/CACHE/HEAD-GRANULARITY-LAYER``, as on the command line.
        quiet: show neither progress nor what there is to note (:meth:`Runs.remarks`).
        options: the other fields of :class:`~mmser.train.options.Experiment` and
            :class:`~mmser.train.options.Training` (``normalise="speaker"``, ``learning_rate=(1e-4, 1e-3)``,
            ``epochs=20``), and the head's own options (``width=64``); those of one member of a late fusion as
            ``settings={"coattention@word.width": 64}``.

    Returns:
        The finished run folder.

    Raises:
        ProtocolError: no such option; folds, labels or options do not allow it; the folder holds another experiment.
        CacheError: the cache, or what the head reads, is not there.
    """
    named = {"granularity": granularity, "layer": layer, "seeds": seeds, "folds": folds}
    asked = {name: value for name, value in named.items() if value is not None}
    experiment = experiment_of(head, {**asked, **options})
    folder = default_folder(Path(cache), experiment) if out is None else Path(out)
    with meter(quiet=quiet) as progress:
        run(cache, experiment, folder, report=progress)
        runs = Runs(folder)
        for line in runs.remarks():
            progress.say(line)
    return runs


def experiment_of(head: str, asked: Mapping[str, Any]) -> Experiment:
    """The experiment that keywords describe; a preset's fields stand back behind them.

    >>> experiment_of("speech-probe", {"layer": 9, "hidden": 64, "epochs": 20}).settings
    {'hidden': 64}

    Raises:
        ProtocolError: no such head; a keyword that neither the experiment, nor its training, nor the head has.
    """
    check_choice("head", head, [*HEADS, *FUSIONS])
    asked = {**settings_of(asked.get("protocol", "")), **asked}
    of_head = {name: value for name, value in asked.items() if name not in (*_OF_EXPERIMENT, *_OF_TRAINING)}
    own = {name: _as_field(name, value) for name, value in asked.items() if name not in of_head}
    _refuse_unknown(of_head, head, own.get("members", ()))
    training = replace(own.pop("training", Training()), **{name: own.pop(name) for name in _OF_TRAINING if name in own})
    settings = {**own.pop("settings", {}), **of_head}
    return Experiment(head=head, settings=settings, training=training, **own)


def _as_field(name: str, value: Any) -> Any:
    """A value as its field holds it: several as a tuple or joined by commas, layers by name."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if name in _JOINED:
        return ",".join(map(str, value)) if several else str(value)
    if name in _SEVERAL and (several or name not in ("learning_rate", "weight_decay")):
        values = tuple(value) if several else (value,)
        return tuple(map(str, values)) if name == "try_layers" else values
    return value


def _refuse_unknown(names: Collection[str], head: str, members: Sequence[str]) -> None:
    heads = [name.partition("@")[0] for name in members or FUSIONS.get(head, (head,))]
    of_heads = {field.name for name in heads if name in HEADS for field in fields(HEADS[name].options)}
    known = {*_OF_EXPERIMENT, *_OF_TRAINING, *of_heads, "out", "quiet"}
    for name in names:
        if name not in of_heads:
            hint = did_you_mean(name, known) or f"; its own are {', '.join(sorted(of_heads))}"
            raise ProtocolError(f"no option {name!r} of {head} or of its training{hint}")
