"""What a figure of the page consists of, and how all of them look. Plotly's script draws them, in the page.

Colours read on white and on black: whatever is neither a line nor a dot is left to the page, which knows its own.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = ("#3f84c8", "#dd8226", "#2f9e77", "#c55a9b", "#8870c4", "#b2613a", "#7b8f22", "#4fa5c0")
"""Told apart on white and on black, and by most who do not see all colours."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
"""For who does not see colours at all."""

_SHADE = [[0, "rgba(63,132,200,0)"], [1, "rgba(63,132,200,0.75)"]]
"""From the page's own background to blue."""


@dataclass(frozen=True)
class Drawing:
    """One plot, and the same in numbers for who does not see it."""

    name: str
    """What it shows, where a figure has several to choose from."""
    data: list[dict[str, Any]]
    """Traces of plotly."""
    layout: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A figure of the page."""

    key: str
    title: str
    text: str
    """What is drawn."""
    drawings: tuple[Drawing, ...]
    """One, or several to choose from."""
    choice: str = "Row"
    """What one chooses by."""


def plain(text: str) -> str:
    """Text that plotly shows as it is; it would take ``<b>`` or ``<a>`` for its own.

    >>> plain("a <b> & c")
    'a &lt;b&gt; &amp; c'
    """
    return html.escape(text, quote=False)


def shortened(text: str, longest: int = 26) -> str:
    """A label that leaves room for the plot beside it; the whole label is shown on hovering.

    >>> shortened("coattention-word-mix", 12)
    'coattention…'
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def labelled(labels: Sequence[str], longest: int = 26) -> dict[str, Any]:
    """An axis with a label at 0, 1, ...: labels that are alike once shortened stay apart."""
    ticks = [plain(shortened(label, longest)) for label in labels]
    return {"tickvals": list(range(len(labels))), "ticktext": ticks, "zeroline": False}


def errors(middle: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    """Plotly's error bars from ``low`` to ``high``."""
    up = [above - own for above, own in zip(high, middle, strict=True)]
    down = [own - below for below, own in zip(low, middle, strict=True)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2}


def line(x: Sequence[Any], y: Sequence[Any], name: str, number: int) -> dict[str, Any]:
    """The trace of the ``number``-th of several lines, told apart by colour and symbol; None breaks it."""
    colour = COLOURS[number % len(COLOURS)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(shortened(name)),
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour, "size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)]},
        "line": {"color": colour},
    }


def heatmap(values: Sequence[Sequence[Any]], texts: Sequence[Sequence[str]], shown: Any) -> dict[str, Any]:
    """Shares from 0 to 1 as shades of blue, with ``texts`` in them and ``shown`` on hovering."""
    return {
        "type": "heatmap",
        "z": [list(row) for row in values],
        "text": [list(row) for row in texts],
        "customdata": shown,
        "texttemplate": "%{text}",
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": _SHADE,
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
