"""The files of a run folder as whoever looks at it reads them: checked, for they may be damaged or edited.

What has passed here has the fields that this version of mmser writes, each of its own type, so that nobody who reads a
run folder has to look twice.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd

from mmser.errors import ProtocolError
from mmser.train.options import Experiment, Training, with_text_layer
from mmser.train.results import Line, RatingLine
from mmser.train.runs import BOTH_ANEW, is_run, read_json

_CONFIG = {
    "experiment": {
        "head": str,
        "protocol": str,
        "granularity": str,
        "layer": str,
        "settings": dict[str, Any],
        "training": dict[str, Any],
    },
    "cache": str,
    "shards": dict[str, tuple[str, ...]],
}
_LINES = {"lines": tuple[Line, ...], "rating_lines": tuple[RatingLine, ...]}
_SUMMARY = {
    **_LINES,
    "labels": tuple[str, ...],
    "num_utterances": int,
    "left_out": dict[str, int],
    "kept": dict[str, int],
    "notes": tuple[str, ...],
}
_TEXT = ("head", "fold", "layer")
"""Columns in which nothing is a text. In others nothing stands for no number: a fusion has no best epoch."""
_RUN = {"head": str, "fold": str, "seed": int, "learning_rate": float, "weight_decay": float, "best_epoch": int}
_OF_RESULTS = {**_RUN, "num_test": int, "dev_score": float}
_OF_TRIALS = {**_RUN, "dev_score": float, "tested": bool}


@dataclass(frozen=True)
class _Epoch:
    """As a head's history has it."""

    epoch: int
    train_loss: float
    dev_score: float


_HEAD = {
    "history": tuple[_Epoch, ...],
    "best_epoch": int,
    "fold": str,
    "seed": int,
    "learning_rate": float,
    "weight_decay": float,
}

# An ablation takes a cell that has all its files for finished, so the same command alone would not do.
_ANEW = "delete it and run the same command again, which writes it anew from the heads that are there"
HEAD_ANEW = "delete this head's folder and the run's summary.json and run the same command again, which trains it anew"
"""What to do about a head's file that is damaged."""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run folder: what was asked for, of which cache and shards.

    Raises:
        ProtocolError: it is not there or damaged, or the folder is none of a run.
    """
    path = folder / "config.json"
    if path.exists() and not is_run(folder):
        raise ProtocolError(f"{path}: no 'experiment' in it; expected a run folder, which mmser train-head writes")
    found = _read(path, _CONFIG, _ANEW)
    _check(path, found.get("streams", {}), dict[str, dict[str, Any]], "streams", _ANEW)  # older runs have none
    return {**found, "experiment": with_text_layer(found["experiment"])}


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a finished run folder; its lines are what :func:`mmser.train.results.line_of` takes.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    path = folder / "summary.json"
    found = _read(path, _SUMMARY, _ANEW)
    if not found["lines"] and not found["rating_lines"]:
        raise ProtocolError(f"{path}: no line of any head; {_ANEW}")
    num = len(found["labels"])
    for line in found["lines"]:
        if [len(row) for row in line["confusion"]] != [num] * num:
            raise ProtocolError(f"{path}: the confusion of {line['head']} is not of its {num} labels; {_ANEW}")
    return found


def read_oracle(folder: Path) -> dict[str, Any]:
    """``oracle.json`` of a run that was made with ``--report-oracle``: lines as those of the summary.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    return _read(folder / "oracle.json", _LINES, BOTH_ANEW)


def read_results(folder: Path) -> pd.DataFrame:
    """``results.csv`` of a finished run folder: a row for each head, fold and seed, ``num_test`` and the rest.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    return _read_table(folder / "results.csv", _OF_RESULTS)


def read_trials(folder: Path) -> pd.DataFrame:
    """``trials.csv`` of a run that tried several settings: a row for each head, fold, setting and seed.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    return _read_table(folder / "trials.csv", _OF_TRIALS)


def rejected_heads(folder: Path, head: str) -> set[str]:
    """Names of the stored heads that were not tested: dev chose another setting. None where there was one setting.

    Args:
        folder: of the run.
        head: as ``results.csv`` has it.

    Raises:
        ProtocolError: several settings were tried, and ``trials.csv`` is not there, or damaged.
    """
    named = re.compile(re.escape(head) + r"-fold\d+-seed\d+-trial\d+")
    tried = {path.parent.name for path in folder.glob("heads/*/config.json") if named.fullmatch(path.parent.name)}
    if not tried:
        return set()
    trials = read_trials(folder)
    own = trials[trials["head"] == head]
    # folds, and the trials of a fold and seed, are lines in the order of their numbers
    folds, numbers = pd.factorize(own["fold"])[0], own.groupby(["fold", "seed"]).cumcount()
    cells = zip(folds, own["seed"], numbers, own["tested"], strict=True)
    return tried - {f"{head}-fold{fold}-seed{seed}-trial{number}" for fold, seed, number, tested in cells if tested}


def _read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    try:
        # "NA" may be the name of a fold
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise ProtocolError(f"{path}: no such file; {BOTH_ANEW}") from None
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path}: not readable as CSV ({error}); {BOTH_ANEW}") from error
    for name in columns:
        if name not in table:
            raise ProtocolError(f"{path}: no column {name!r}, which mmser train-head writes; {BOTH_ANEW}")
    for name, kind in columns.items():
        if kind is not str and not pd.api.types.is_numeric_dtype(table[name]):
            raise ProtocolError(f"{path}: not every {name} is a number; {BOTH_ANEW}")
    text = [name for name in _TEXT if name in table]
    return table.assign(**{name: table[name].fillna("") for name in text})


def read_head_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a head that a training has stored: how it was trained, and the layers that it reads.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    path = folder / "config.json"
    found = _read(path, _HEAD, HEAD_ANEW)
    for name in ("speech_layers_of_encoder", "text_layers_of_encoder"):
        _check(path, found.get(name, []), tuple[int, ...], name, HEAD_ANEW)
    return found


def stored_experiment(stored: Mapping[str, Any]) -> Experiment:
    """The experiment of a run's config, which another version of mmser may have written.

    Raises:
        ProtocolError: a value that this version does not know.
        TypeError: a field that it does not know, or a value of another type.
    """
    fields: dict[str, Any] = {name: _tupled(value) for name, value in stored.items()}
    training: dict[str, Any] = {name: _tupled(value) for name, value in stored["training"].items()}
    return Experiment(**{**fields, "training": Training(**training)})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read(path: Path, kind: Any, remedy: str) -> dict[str, Any]:
    found = read_json(path, remedy=remedy)
    _check(path, found, kind, "", remedy)
    return found


def _check(path: Path, value: Any, kind: Any, name: str, remedy: str) -> None:
    wrong = _wrong(value, kind, name)
    if wrong:
        raise ProtocolError(f"{path}: {wrong}; {remedy}")


def _wrong(value: Any, kind: Any, name: str = "") -> str:
    """What keeps a value of a JSON file from being of a kind, "" where nothing does. Of numbers, null is NaN.

    Args:
        value: as the file has it.
        kind: a type, a data class, or the kinds of an object's fields by name, which may have others beside them.
        name: where the value stands.

    >>> _wrong({"ua": [0.5, None, "x"]}, {"ua": tuple[float, ...]})
    "ua[2] is 'x', expected a number"
    """
    if isinstance(kind, Mapping) or is_dataclass(kind):
        fields = kind if isinstance(kind, Mapping) else get_type_hints(kind)
        if not isinstance(value, dict):
            return f"{name} is {shortened(value)}, expected an object"
        lacking, unknown = [key for key in fields if key not in value], [key for key in value if key not in fields]
        if lacking:
            return f"{name or 'it'} lacks {lacking[0]!r}"
        if unknown and is_dataclass(kind):
            return f"{name} has {unknown[0]!r}, which this version of mmser does not know"
        inner = [(value[key], own, f"{name}.{key}".lstrip(".")) for key, own in fields.items()]
    elif get_origin(kind) is tuple:
        if not isinstance(value, list):
            return f"{name} is {shortened(value)}, expected a list"
        inner = [(own, get_args(kind)[0], f"{name}[{place}]") for place, own in enumerate(value)]
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            return f"{name} is {shortened(value)}, expected an object"
        inner = [(own, get_args(kind)[1], f"{name}.{key}") for key, own in value.items()]
    elif get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"{name} is {shortened(value)}, expected one of {get_args(kind)}"
    else:
        is_one, expected = _PLAIN[kind]
        return "" if is_one(value) else f"{name} is {shortened(value)}, expected {expected}"
    return next((wrong for one in inner if (wrong := _wrong(*one))), "")


_PLAIN: dict[Any, tuple[Any, str]] = {
    Any: (lambda _: True, ""),
    str: (lambda value: isinstance(value, str), "text"),
    int: (lambda value: type(value) is int, "a whole number"),
    float: (lambda value: value is None or (type(value) in (int, float) and math.isfinite(value)), "a number"),
}
"""What tells values of types that hold no others, and what they are called."""
