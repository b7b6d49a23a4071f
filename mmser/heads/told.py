"""What heads and their options are, for people: read from their own docstrings, so that it is said once."""

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from mmser.heads import HeadKind

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
"""A name as documentation marks it up: ``:class:`~mmser.heads.Head```."""


@dataclass(frozen=True)
class OptionTold:
    """An option of a head."""

    name: str
    default: Any
    about: str
    """What stands below the field."""


def options_told(kind: HeadKind) -> list[OptionTold]:
    """The options of a head, in the order of their fields.

    >>> from mmser.heads import HEADS
    >>> next(one.about for one in options_told(HEADS["coattention"]) if one.name == "blocks")
    'Co-attention blocks one after the other [D].'
    """
    told = {name: about for one in reversed(kind.options.__mro__[:-1]) for name, about in _below_fields(one).items()}
    return [OptionTold(own.name, own.default, told[own.name]) for own in fields(kind.options)]


def reads(kind: HeadKind) -> list[str]:
    """The kinds of states that a head reads with its default options."""
    asked = (
        (kind.needs_speech, "speech"),
        (kind.needs_text, "text"),
        (kind.needs_mel, "log-mel"),
        (kind.needs_words, "alignment"),
    )
    return [name for needed, name in asked if needed]


def source_of(kind: HeadKind) -> str:
    """The first paragraph about the head's file: what it is after."""
    module = inspect.getmodule(kind.module)
    assert module is not None
    return _first_paragraph(module)


def summary(kind: HeadKind) -> str:
    """The first paragraph about the head itself."""
    return _first_paragraph(kind.module)


def _first_paragraph(documented: Any) -> str:
    return _plain((inspect.getdoc(documented) or "").partition("\n\n")[0])


def _below_fields(options: type[Any]) -> dict[str, str]:
    """By field of a dataclass: the text that stands below it in the source, which Python itself forgets."""
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    assert isinstance(parsed, ast.ClassDef)
    found = {}
    for field, below in pairwise(parsed.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = _plain(str(below.value.value))
    return found


def _plain(text: str) -> str:
    """A docstring as one line of plain text."""
    return " ".join(_ROLE.sub(r"\1", text).replace("``", "").split())
