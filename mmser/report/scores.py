"""Figures of how good rows are: intervals and seeds, and UA over layers and granularities."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmser.records import GRANULARITIES
from mmser.report.drawing import COLOURS, Drawing, Figure, digits, errors, labelled, line, plain
from mmser.report.examine import Examined
from mmser.report.read import Row
from mmser.train.results import Line

Scored = tuple[Row, Line]
"""A row that tells classes, and its figures."""

Order = Callable[[str], tuple[Any, ...]]
"""From an option's value to where it belongs on an axis; the first is True of what is no step of a scale."""


def scored(examined: Sequence[Examined]) -> list[Scored]:
    """The rows that tell classes."""
    return [(one.row, one.row.line) for one in examined if one.row.line is not None]


def intervals(examined: Sequence[Examined]) -> Figure | None:
    """UA with its interval, and the UA of each seed."""
    rows = scored(examined)
    if not rows:
        return None
    seeds = [(place, row, ua) for place, (row, own) in enumerate(rows) for ua in own.ua_by_seed]
    means = {
        **_dots([own.ua for _, own in rows], range(len(rows)), [row.label for row, _ in rows], 9, COLOURS[0]),
        "name": "all seeds",
        "error_x": errors(*zip(*((own.ua, own.interval.low, own.interval.high) for _, own in rows), strict=True)),
    }
    each = {
        **_dots([ua for *_, ua in seeds], [place + 0.25 for place, *_ in seeds], [row.label for _, row, _ in seeds], 6),
        "name": "each seed",
    }
    layout = {
        "height": 120 + 34 * len(rows),
        "showlegend": True,
        "xaxis": {"title": {"text": "UA"}},
        "yaxis": {**labelled([row.label for row, _ in rows]), "autorange": "reversed"},
    }
    table = [(row.label, *_ua(own), " ".join(map(digits, own.ua_by_seed))) for row, own in rows]
    text = (
        f"Large dots with the 95 % interval by bootstrap over {rows[0][1].interval.unit}s; small dots are the seeds. "
        "That seeds lie close together says nothing about other speakers."
    )
    drawing = Drawing("", [means, each], layout, ("row", "UA", "from", "to", "by seed"), tuple(table))
    return Figure("intervals", "UA with its interval, and by seed", text, (drawing,))


def _dots(x: Sequence[float], y: Sequence[float], labels: Sequence[str], size: int, colour: str = COLOURS[1]) -> Any:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour, "size": size},
        "text": list(map(plain, labels)),
        "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
    }


def _ua(own: Line) -> tuple[str, str, str]:
    return digits(own.ua), digits(own.interval.low), digits(own.interval.high)


def over_layers(examined: Sequence[Examined]) -> Figure | None:
    """UA over speech layers, of rows that differ in nothing else."""
    text = (
        "Rows that differ in nothing but the speech layer are joined. Layer 0 is the input of the first block, -1 the "
        "last that is stored, mix a learned sum. Bars are 95 % intervals."
    )
    return _over(examined, "layer", "UA over layers", text, _order_of_layer)


def _order_of_layer(layer: str) -> tuple[Any, ...]:
    return (not layer.isdigit(), int(layer) if layer.isdigit() else 0, layer)


def over_granularities(examined: Sequence[Examined]) -> Figure | None:
    """UA over granularities, of rows that differ in nothing else."""
    text = (
        "Rows that differ in nothing but the unit over which speech is pooled are joined, from the finest unit to the "
        "coarsest. Bars are 95 % intervals."
    )
    return _over(examined, "granularity", "UA over granularities", text, _order_of_granularity)


def _order_of_granularity(granularity: str) -> tuple[Any, ...]:
    known = granularity in GRANULARITIES
    return (not known, list(GRANULARITIES).index(granularity) if known else 0, granularity)


def _over(examined: Sequence[Examined], axis: str, title: str, text: str, order: Order) -> Figure | None:
    """UA over an option, a line for each set of rows that share all other options."""
    groups: dict[str, list[Scored]] = {}
    for row, own in scored(examined):
        if not row.is_member and not row.experiment.get("try_layers"):
            groups.setdefault(_without(row.experiment, axis), []).append((row, own))
    shared = [
        sorted(rows, key=lambda one: order(one[0].experiment[axis]))
        for rows in groups.values()
        if len({row.experiment[axis] for row, _ in rows}) > 1
    ]
    if not shared:
        return None
    names = _told_apart([rows[0][0].experiment for rows in shared], axis)
    ticks = sorted({row.experiment[axis] for rows in shared for row, _ in rows}, key=order)
    data = [_joined(*named, number, axis, order) for number, named in enumerate(zip(shared, names, strict=True))]
    layout = {
        "height": 380,
        "xaxis": {"type": "category", "categoryarray": list(map(plain, ticks)), "title": {"text": axis}},
        "yaxis": {"title": {"text": "UA"}},
        "showlegend": len(shared) > 1,
    }
    table = [
        (name, row.experiment[axis], *_ua(own)) for rows, name in zip(shared, names, strict=True) for row, own in rows
    ]
    return Figure(axis, title, text, (Drawing("", data, layout, ("rows", axis, "UA", "from", "to"), tuple(table)),))


def _joined(rows: Sequence[Scored], name: str, number: int, axis: str, order: Order) -> dict[str, Any]:
    """The line of a set of rows, broken before what is no step of a scale, such as a mix of layers."""
    first = sum(not order(row.experiment[axis])[0] for row, _ in rows)
    x: list[str | None] = [plain(row.experiment[axis]) for row, _ in rows]
    y, low, high = ([*part] for part in zip(*((o.ua, o.interval.low, o.interval.high) for _, o in rows), strict=True))
    bars = errors(y, low, high)
    for values in (x, y, bars["array"], bars["arrayminus"]):
        values.insert(first, None)
    return {**line(x, y, name, number), "error_y": bars}


def _without(experiment: Mapping[str, Any], axis: str) -> str:
    return json.dumps({name: value for name, value in experiment.items() if name != axis}, sort_keys=True)


def _told_apart(experiments: Sequence[Mapping[str, Any]], axis: str) -> list[str]:
    """A name for each experiment: its head, and the other options in which they differ."""
    flat = [{**own["training"], **own["settings"], **own} for own in experiments]
    fields = dict.fromkeys(name for own in flat for name in own if name not in ("head", axis, "settings", "training"))
    varied = [name for name in fields if len({str(own.get(name)) for own in flat}) > 1]
    return [" ".join([own["head"], *(f"{name} {own[name]}" for name in varied if name in own)]) for own in flat]
