"""What cells are called: in the table, and as folders."""

import re
from typing import Any

from mmser.ablate.values import SETTING

MAX_CHARACTERS = 120
"""Of a folder's name; file systems take 255 bytes."""

_PLAIN = ("head", "granularity", "layer", "fusion", "normalise", "task", "members", "folds", "protocol")
"""Axes whose values speak for themselves."""


def shown(value: Any) -> str:
    """An option's value as text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def label(axis: str, value: Any) -> str:
    """A value in the table.

    >>> label("layer", "9"), label("head", "coattention"), label("set.width", 64)
    ('layer 9', 'coattention', 'width 64')
    """
    words = axis.removeprefix(SETTING).replace("_", " ")
    return shown(value) if axis in _PLAIN and axis != "layer" else f"{words} {shown(value)}"


def name_part(axis: str, value: Any) -> str:
    """A value in a cell's name; the last layer is ``last``, since ``-`` stands between the parts.

    >>> name_part("layer", "-1"), name_part("text_layer", "9"), name_part("set.width", 64)
    ('last', 'text9', 'width64')
    """
    text = shown(value)
    if axis in ("layer", "text_layer") and text.startswith("-"):
        text = "last" if text == "-1" else f"last{text}"
    return text if axis in _PLAIN else f"{axis.removeprefix(SETTING).removesuffix('_layer')}{text}"


def slug(text: str) -> str:
    """Text as it may stand in a folder's name: letters, digits and ``. _ + -``, the first a letter or digit.

    >>> slug("Late fusion (a): speech, text"), slug("4,8,12"), slug("../..")
    ('Late-fusion-a-speech-text', '4+8+12', '')
    """
    joined = re.sub(r"(?<=\w),(?=\w)", "+", text)
    return re.sub(r"[^A-Za-z0-9._+]+", "-", joined).strip("-._+")[:MAX_CHARACTERS]
