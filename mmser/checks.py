"""Checks that the options of heads and trainings share."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from mmser.errors import ProtocolError


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ProtocolError unless ``value`` is one of ``choices``.

    >>> check_choice("pooling", "mean", ("mean", "max"))
    """
    if value not in choices:
        meant = did_you_mean(str(value), choices)
        raise ProtocolError(f"{name} is {value!r}{meant}; expected one of: {', '.join(choices)}")


def check_number(name: str, value: float, *, least: float, below: float = float("inf")) -> None:
    """Raise ProtocolError unless ``least <= value < below``.

    >>> check_number("dropout", 0.2, least=0, below=1)
    """
    if not least <= value < below:
        bound = f" and less than {below:g}" if below != float("inf") else ""
        raise ProtocolError(f"{name} is {value:g}; expected at least {least:g}{bound}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to put behind a name that is not known, where something known is close.

    >>> did_you_mean("granularty", ["granularity", "layer"])
    " (did you mean 'granularity'?)"
    """
    close = get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
