"""Figures of one run folder, drawn by plotly, which shows them in a notebook."""

import html
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.heads.layers import LayerMix
from mmser.heads.store import load_head
from mmser.train.results import Line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def confusion_figure(line: Line, labels: Sequence[str]) -> "Figure":
    """A matrix of the true class (rows) by the predicted one (columns): shares of the row as shades, and counts."""
    from plotly.graph_objects import Figure, Heatmap

    counts = np.array(line.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    texts = [
        [f"{share:.2f}<br>({count})" for share, count in zip(*row, strict=True)]
        for row in zip(shares, counts, strict=True)
    ]
    names = [_plain(label) for label in labels]
    drawn = Heatmap(
        z=shares,
        x=names,
        y=names,
        text=texts,
        texttemplate="%{text}",
        colorscale="Blues",
        zmin=0,
        zmax=1,
        hovertemplate="%{y} taken for %{x}: %{text}<extra></extra>",
    )
    figure = Figure(drawn)
    figure.update_layout(title=f"{_plain(line.head)}: UA {line.ua:.3f}", xaxis_title="predicted", yaxis_title="true")
    figure.update_yaxes(autorange="reversed")
    return figure


def layers_figure(folder: Path) -> "Figure":
    """The learned layer weights of all heads of a run folder: the mean, and bars of one standard deviation.

    Raises:
        ProtocolError: no head mixes layers.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for (name, layers), weights in layer_weights(folder).items():
        error = {"type": "data", "array": weights.std(0)}
        figure.add_trace(Scatter(x=layers, y=weights.mean(0), error_y=error, name=_plain(name), mode="lines+markers"))
    figure.update_layout(xaxis_title="speech layer", yaxis_title="weight", showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def layer_weights(folder: Path) -> dict[tuple[str, tuple[int, ...]], NDArray[np.float64]]:
    """The learned mixes (runs, layers) of a run folder by head, with its granularity, and the encoder's layers.

    Raises:
        ProtocolError: no head mixes layers.
    """
    found = defaultdict(list)
    for path in sorted(folder.glob("heads/*/config.json")):
        head, config = load_head(path.parent)
        member = path.parent.name.rpartition("-fold")[0]
        for place, module in head.named_modules():
            if isinstance(module, LayerMix):
                own = next((part for part in place.split(".") if part in config["inputs"]["granularities"]), "speech")
                weights = module.logits.detach().double().softmax(0).numpy()
                found[f"{member}, {own}", tuple(config["speech_layers_of_encoder"])].append(weights)
    if not found:
        raise ProtocolError(f'{folder}: no head of it mixes layers; train with layer="mix", or with several')
    return {key: np.stack(weights) for key, weights in found.items()}


def _plain(text: str) -> str:
    """Text that plotly shows as it is; it would take ``<b>`` or ``<a>`` for its own."""
    return html.escape(text, quote=False)
