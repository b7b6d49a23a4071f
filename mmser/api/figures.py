"""Figures of one run folder, those of its report, as plotly shows them in a notebook."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmser.errors import ProtocolError
from mmser.report.drawing import Drawing, plain
from mmser.report.learning import drawn_layers
from mmser.report.matrices import drawn_confusion
from mmser.report.read import read_study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def confusion_figure(folder: Path, head: str | None) -> "Figure":
    """A matrix of the true class (rows) by the predicted one (columns): shares of the row as shades, and counts.

    Raises:
        ProtocolError: no such head, or no classes.
    """
    rows = {row.head: (row, row.line) for row in read_study(folder).rows if row.line is not None}
    if not rows:
        raise ProtocolError(f"{folder}: rates dimensions; it has no classes to confuse")
    head = head or list(rows)[-1]
    if head not in rows:
        raise ProtocolError(f"{folder}: no head {head!r}; there are {', '.join(rows)}")
    row, line = rows[head]
    figure = _figure(drawn_confusion(row, line))
    figure.update_layout(title=f"{plain(head)}: UA {line.ua:.3f}")
    return figure


def layers_figure(folder: Path) -> "Figure":
    """The learned layer weights of the heads that were tested: the mean, and bars of one standard deviation.

    Raises:
        ProtocolError: no head mixes layers.
    """
    drawing = drawn_layers(read_study(folder).rows)
    if drawing is None:
        raise ProtocolError(
            f'{folder}: no head of it mixes layers; train with layer="mix" or text_layer="mix", or with several'
        )
    figure = _figure(drawing)
    figure.update_layout(showlegend=True)
    return figure


def _figure(drawing: Drawing) -> "Figure":
    from plotly.graph_objects import Figure

    return Figure(drawing.data, drawing.layout)
