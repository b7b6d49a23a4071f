"""From values in TOML to experiments: the options of ``mmser train-head``, by their names there, of their own types."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from mmser.checks import did_you_mean
from mmser.errors import ProtocolError
from mmser.train.options import Experiment, Training
from mmser.train.presets import PRESETS

SETTING = "set."
"""What an option of the head itself begins with: ``set.width``."""

_OF_TRAINING = {f.name for f in fields(Training)} - {"normalise"}
"""Not normalise: an experiment has its own, which decides."""
_KINDS: dict[str, Any] = {
    name: kind
    for name, kind in {**get_type_hints(Training), **get_type_hints(Experiment)}.items()
    if name not in ("training", "settings")
}
_NAMED = {"crop_seconds": "crop_s"}
"""Options whose name in ``mmser train-head`` is not that of the field."""
OPTIONS = sorted({*_KINDS, *_NAMED} - set(_NAMED.values()))


def options_of(table: Mapping[str, Any], where: str, *, lists: bool = False) -> dict[str, Any]:
    """The options that a table of the grid gives, by field, ``set`` unfolded to ``set.width`` and the like.

    >>> options_of({"layer": 9, "learning-rate": [1e-3, 1e-4], "set": {"width": 64}}, "[base]")
    {'layer': '9', 'learning_rate': (0.001, 0.0001), 'set.width': 64}

    Args:
        table: as TOML has it.
        where: for messages.
        lists: every option has a list of values, of which each is read by itself.

    Raises:
        ProtocolError: an unknown option, a value of another type, or no list where one is wanted.
    """
    found: dict[str, Any] = {}
    for given, value in table.items():
        name = given.replace("-", "_")
        if name == "set":
            if not isinstance(value, Mapping):
                raise ProtocolError(f"{where}: set is {value!r}; expected a table, as set = {{ width = 64 }}")
            for own, setting in _unfolded(value).items():
                _put(found, SETTING + own, setting, where, lists)
        elif name in OPTIONS:
            _put(found, _NAMED.get(name, name), value, where, lists)
        else:
            raise ProtocolError(
                f"{where}: no option {given!r}{did_you_mean(name, [*OPTIONS, 'set'])}; known: {', '.join(OPTIONS)}, set"
            )
    return found


def _unfolded(table: Mapping[str, Any]) -> dict[str, Any]:
    """``coattention.width``, of one member alone, is a table in a table to TOML."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= {f"{name}.{own}": one for own, one in value.items()} if isinstance(value, Mapping) else {name: value}
    return found


def _put(found: dict[str, Any], name: str, value: Any, where: str, lists: bool) -> None:
    if not lists:
        found[name] = _typed(name, value, where)
        return
    if not isinstance(value, list) or not value:
        raise ProtocolError(f"{where}: {name} is {value!r}; expected a list of at least one value")
    values = [_typed(name, own, where) for own in value]
    twice = next((own for place, own in enumerate(values) if own in values[:place]), None)
    if twice is not None:
        raise ProtocolError(f"{where}: {name} has {twice!r} twice")
    found[name] = values


def _typed(name: str, value: Any, where: str) -> Any:
    """A value as the field wants it: numbers for text (``layer = 9``), lists or commas for several."""
    if name.startswith(SETTING):
        if isinstance(value, (str, bool, int, float)):
            return value
        raise ProtocolError(f"{where}: {name} is {value!r}; expected text, a number, true or false")
    kind = _KINDS[name]
    for wanted, words, read in (
        (bool, "true or false", _truth),
        (int, "a whole number", _whole),
        (int | None, "a whole number", _whole),
        (float, "a number", _number),
        (str, "text", _text),
        (str | None, "text", _text),
        (tuple[str, ...], "a list of texts", _texts),
        (tuple[float, ...], "a list of numbers", _numbers),
        (float | tuple[float, ...], "a number, or a list of numbers", _one_or_several),
    ):
        if kind == wanted:
            try:
                return read(value)
            except (TypeError, ValueError):
                raise ProtocolError(f"{where}: {name} is {value!r}; expected {words}") from None
    raise AssertionError(f"no reading of {name}, a {kind}")


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, list) and value:
        return ",".join(_text(own) for own in value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(own) for own in value)


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_number(own) for own in value)


def _one_or_several(value: Any) -> float | tuple[float, ...]:
    return _numbers(value) if isinstance(value, list) else _number(value)


def experiment_of(options: Mapping[str, Any], where: str) -> Experiment:
    """The experiment of some options, those of its protocol in place of defaults.

    Raises:
        ProtocolError: an unknown protocol, or values that no experiment has.
    """
    protocol = options.get("protocol", "")
    if protocol and protocol not in PRESETS:
        raise ProtocolError(
            f"{where}: no protocol {protocol!r}{did_you_mean(protocol, PRESETS)}; known: {', '.join(PRESETS)}"
        )
    given = {**(PRESETS[protocol].settings if protocol else {}), **options}
    settings = {name.removeprefix(SETTING): value for name, value in given.items() if name.startswith(SETTING)}
    training = {name: value for name, value in given.items() if name in _OF_TRAINING}
    rest = {name: value for name, value in given.items() if name not in training and not name.startswith(SETTING)}
    try:
        return Experiment(settings=settings, training=replace(Training(), **training), **rest)
    except ProtocolError as error:
        raise ProtocolError(f"{where}: {error}") from error
