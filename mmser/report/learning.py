"""Figures of what heads learnt, and how: the layers that they weigh, and the course of their training."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mmser.metrics import digits
from mmser.report.drawing import COLOURS, Drawing, Figure, errors, line
from mmser.report.examine import Examined
from mmser.report.heads import TEXT, Course, course, layer_weights
from mmser.report.read import Row


def learned_layers(examined: Sequence[Examined]) -> Figure | None:
    """What each row's heads learnt to weigh encoder layers by."""
    drawing = drawn_layers([one.row for one in examined])
    text = (
        "The softmax weights of heads that mix layers: mean over folds and seeds, bars of one standard deviation. "
        "Training begins with equal weights, so mind the scale: heads that barely moved differ from those by chance."
    )
    return None if drawing is None else Figure("weights", "Learned layer weights", text, (drawing,))


def drawn_layers(rows: Sequence[Row]) -> Drawing | None:
    """The layer weights of rows whose heads mix layers; None where none does.

    Raises:
        ProtocolError: a head's file is damaged.
    """
    by_row = [(row.label, layer_weights(row)) for row in rows]
    named = [
        (label if len(several) == 1 and not own.stream.startswith(TEXT) else f"{label}, {own.stream}", own)
        for label, several in by_row
        for own in several
    ]
    if not named:
        return None
    data, table = [], []
    marks = sorted({layer for _, own in named for layer in own.layers})
    for number, (name, own) in enumerate(named):
        mean, low, high = (own.mean + sign * own.deviation for sign in (0, -1, 1))
        bars = errors(mean.tolist(), low.tolist(), high.tolist())
        data.append({**line(own.layers, mean.tolist(), name, number), "error_y": bars})
        table += [
            (name, str(layer), *map(digits, pair))
            for layer, *pair in zip(own.layers, own.mean, own.deviation, strict=True)
        ]
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": "layer of the encoder"}, "tickvals": marks},
        "yaxis": {"title": {"text": "weight"}},
        "showlegend": len(named) > 1,
    }
    return Drawing("", data, layout, ("row", "layer", "weight", "deviation"), tuple(table))


def courses(examined: Sequence[Examined]) -> Figure | None:
    """Training loss and dev score over epochs, a drawing a row."""
    found = [(one.row.label, own) for one in examined if (own := course(one.row)) is not None]
    if not found:
        return None
    text = (
        "Mean over folds and seeds, and the band from the 10th to the 90th percentile; a run is in it as long as it "
        "lasted, so late epochs are of few runs. Above the loss on the training part, below the score on the dev part, "
        "which chooses the epoch."
    )
    return Figure("training", "Training curves", text, tuple(_course(label, own) for label, own in found))


def _course(label: str, own: Course) -> Drawing:
    epochs = list(range(1, len(own.num_runs) + 1))
    data = [*_band(epochs, own.train_loss, 0, "training loss", ""), *_band(epochs, own.dev_score, 1, "dev score", "2")]
    layout: dict[str, Any] = {
        "height": 460,
        "grid": {"rows": 2, "columns": 1, "pattern": "coupled"},
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "training loss"}, "domain": [0.55, 1]},
        "yaxis2": {"title": {"text": "dev score"}, "domain": [0, 0.45]},
        "showlegend": False,
    }
    if own.best_epoch == own.best_epoch:  # NaN where no run has one
        best = {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"dash": "dot", "color": "gray"},
        }
        words = {"x": own.best_epoch, "yref": "paper", "y": 1, "text": "median of the best epochs", "showarrow": False}
        layout["shapes"] = [{**best, "x0": own.best_epoch, "x1": own.best_epoch}]
        layout["annotations"] = [{**words, "xanchor": "left", "xshift": 4}]
    columns = zip(epochs, own.num_runs, own.train_loss[:, 1], own.dev_score[:, 1], strict=True)
    table = [(str(epoch), str(num), digits(loss), digits(score)) for epoch, num, loss, score in columns]
    return Drawing(label, data, layout, ("epoch", "runs", "training loss", "dev score"), tuple(table))


def _band(epochs: list[int], values: NDArray[Any], number: int, name: str, axis: str) -> list[dict[str, Any]]:
    """A line for the mean and a band around it. ``axis``: the y axis, "" or "2"."""
    colour = COLOURS[number]
    faint = f"rgba({', '.join(map(str, bytes.fromhex(colour[1:])))}, 0.25)"
    low, mean, high = values.T.tolist()
    common = {"type": "scatter", "mode": "lines", "x": epochs, "yaxis": f"y{axis}"}
    hidden = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    return [
        {**common, "y": low, **hidden},
        {**common, "y": high, **hidden, "fill": "tonexty", "fillcolor": faint},
        {**common, "y": mean, "name": name, "line": {"color": colour}},
    ]
