"""Checks that the options of heads and trainings share."""

from collections.abc import Collection

from mmser.errors import ProtocolError


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise ProtocolError unless ``value`` is one of ``choices``.

    >>> check_choice("pooling", "mean", ("mean", "max"))
    """
    if value not in choices:
        raise ProtocolError(f"{name} is {value!r}; expected one of: {', '.join(choices)}")


def check_number(name: str, value: float, *, least: float, below: float = float("inf")) -> None:
    """Raise ProtocolError unless ``least <= value < below``.

    >>> check_number("dropout", 0.2, least=0, below=1)
    """
    if not least <= value < below:
        bound = f" and less than {below:g}" if below != float("inf") else ""
        raise ProtocolError(f"{name} is {value:g}; expected at least {least:g}{bound}")
