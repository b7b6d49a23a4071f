"""Figures that are matrices: what was taken for what, and how each row does on each speaker."""

from collections.abc import Sequence

import numpy as np

from mmser.metrics import digits
from mmser.report.drawing import Drawing, Figure, heatmap, labelled, plain
from mmser.report.examine import Examined
from mmser.report.read import Row
from mmser.train.results import Line

_READABLE = 12
"""Columns of numbers that fit side by side on a screen; of more, only the shades are shown."""

_NAMED = 40
"""Speakers whose names fit under an axis."""


def confusions(examined: Sequence[Examined]) -> Figure | None:
    """A confusion matrix a row: shares of the true class, and counts. The row with the highest UA comes first."""
    rows = [(one.row, one.row.line) for one in examined if one.row.line is not None]
    if not rows:
        return None
    best = max(rows, key=lambda one: one[1].ua)
    text = (
        "Each line is what utterances of one class were taken for: the share of them and, in brackets, their number "
        "over all folds and seeds."
    )
    ordered = [best, *(one for one in rows if one is not best)]
    return Figure("confusion", "Confusion matrices", text, tuple(drawn_confusion(*one) for one in ordered))


def drawn_confusion(row: Row, line: Line) -> Drawing:
    """The confusion matrix of a row, whose line it is."""
    labels, counts = row.labels, np.array(line.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    places = range(len(labels))
    inside = "{:.2f}<br>({})" if len(labels) <= _READABLE else "{:.2f}"
    texts = [[inside.format(shares[i, k], counts[i, k]) for k in places] for i in places]
    shown = [
        [f"{plain(labels[i])} taken for {plain(labels[k])}: {shares[i, k]:.3f} ({counts[i, k]})" for k in places]
        for i in places
    ]
    layout = {
        "height": 150 + 50 * len(labels),
        "xaxis": {**labelled(labels, 12), "title": {"text": "said"}, "showgrid": False},
        "yaxis": {**labelled(labels, 12), "title": {"text": "true"}, "autorange": "reversed", "showgrid": False},
        "showlegend": False,
    }
    table = [(labels[i], *(f"{shares[i, k]:.3f} ({counts[i, k]})" for k in places)) for i in places]
    data = [heatmap(shares.tolist(), texts, shown)]
    return Drawing(row.label, data, layout, ("true, said", *labels), tuple(table))


def of_speakers(examined: Sequence[Examined]) -> Figure | None:
    """UA of each speaker, row by row; none of a single speaker."""
    rows = [one for one in examined if one.ua_of_speakers]
    speakers = sorted({name for one in rows for name in one.ua_of_speakers})
    if len(speakers) < 2:
        return None
    values = [[one.ua_of_speakers.get(name) for name in speakers] for one in rows]
    readable = len(speakers) <= _READABLE
    texts = [["" if value is None or not readable else f"{value:.2f}" for value in own] for own in values]
    shown = [
        [f"{plain(one.row.label)}, {plain(name)}: {digits(value)}" for name, value in zip(speakers, own, strict=True)]
        for one, own in zip(rows, values, strict=True)
    ]
    layout = {
        "height": 90 + 34 * len(rows),
        "showlegend": False,
        "xaxis": {
            **(labelled(speakers, 12) if len(speakers) <= _NAMED else {"showticklabels": False}),
            "showgrid": False,
        },
        "yaxis": {**labelled([one.row.label for one in rows]), "autorange": "reversed", "showgrid": False},
    }
    columns = ("speaker", *(one.row.label for one in rows))
    table = [(name, *map(digits, of_rows)) for name, of_rows in zip(speakers, zip(*values, strict=True), strict=True)]
    text = (
        "Over each speaker's own test utterances under all seeds, of the classes among them. No head was trained on "
        "the speakers that it is tested on."
    )
    drawing = Drawing("", [heatmap(values, texts, shown)], layout, columns, tuple(table))
    return Figure("speakers", "UA of each speaker", text, (drawing,))
