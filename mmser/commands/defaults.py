"""The defaults of the command line are those of the dataclasses that the functions take."""

from dataclasses import fields
from typing import Any


def default_of(options: type[Any], name: str) -> Any:
    """The default of a dataclass's field."""
    return next(f.default for f in fields(options) if f.name == name)
