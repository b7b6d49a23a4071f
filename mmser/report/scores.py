"""Figures of how good rows are: intervals and seeds, and UA and CCC over layers and granularities."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmser.metrics import digits
from mmser.records import GRANULARITIES
from mmser.report.drawing import COLOURS, Drawing, Figure, errors, labelled, line, plain
from mmser.report.examine import Examined
from mmser.report.read import Row
from mmser.statistics import Interval


@dataclass(frozen=True, eq=False)
class Scored:
    """A row and how good it is in one measure."""

    row: Row
    value: float
    interval: Interval
    by_seed: tuple[float, ...]

    @property
    def digits(self) -> tuple[str, str, str]:
        """Value and interval as a table has them."""
        return digits(self.value), digits(self.interval.low), digits(self.interval.high)


Order = Callable[[str], tuple[Any, ...]]
"""From an option's value to where it belongs on an axis; the first is True of what is no step of a scale."""

_ALIKE = {"layer": ("cache", "shards"), "text_layer": ("cache", "shards"), "granularity": ("cache",)}
"""What rows of one line share beside their options, by axis; other granularities are read from other shards."""


def measured(examined: Sequence[Examined]) -> dict[str, list[Scored]]:
    """The rows by what they are measured in: ``UA``, and the CCC of each dimension."""
    found: dict[str, list[Scored]] = {}
    for one in examined:
        if (own := one.row.line) is not None:
            found.setdefault("UA", []).append(Scored(one.row, own.ua, own.interval, own.ua_by_seed))
        for rated in one.row.ratings:
            scored = Scored(one.row, rated.ccc, rated.interval, rated.ccc_by_seed)
            found.setdefault(f"CCC of {rated.dimension}", []).append(scored)
    return found


def intervals(examined: Sequence[Examined]) -> Figure:
    """Every row with its interval, and each of its seeds."""
    drawings = [_intervals(measure, rows) for measure, rows in measured(examined).items()]
    text = (
        "Large dots with the 95 % interval by bootstrap over speakers (over utterances where there are none); small "
        "dots are the seeds. That seeds lie close together says nothing about other speakers."
    )
    return Figure("intervals", "Intervals and seeds", text, tuple(drawings), "Measure")


def _intervals(measure: str, rows: Sequence[Scored]) -> Drawing:
    seeds = [(place, own.row.label, value) for place, own in enumerate(rows) for value in own.by_seed]
    bars = errors(*zip(*((own.value, own.interval.low, own.interval.high) for own in rows), strict=True))
    means = _dots([own.value for own in rows], range(len(rows)), [own.row.label for own in rows])
    each = _dots(
        [value for *_, value in seeds], [place + 0.25 for place, *_ in seeds], [label for _, label, _ in seeds]
    )
    layout = {
        "height": 120 + 34 * len(rows),
        "showlegend": True,
        "xaxis": {"title": {"text": plain(measure)}},
        "yaxis": {**labelled([own.row.label for own in rows]), "autorange": "reversed"},
    }
    return Drawing(
        name=measure,
        data=[
            {**means, "name": "all seeds", "error_x": bars, "marker": {"color": COLOURS[0], "size": 9}},
            {**each, "name": "each seed", "marker": {"color": COLOURS[1], "size": 6}},
        ],
        layout=layout,
        columns=("row", measure, "from", "to", "by seed"),
        rows=tuple((own.row.label, *own.digits, " ".join(map(digits, own.by_seed))) for own in rows),
    )


def _dots(x: Sequence[float], y: Sequence[float], labels: Sequence[str]) -> dict[str, Any]:
    trace = {"type": "scatter", "mode": "markers", "hovertemplate": "%{text}: %{x:.3f}<extra></extra>"}
    return {**trace, "x": list(x), "y": list(y), "text": list(map(plain, labels))}


def over_layers(examined: Sequence[Examined]) -> Figure | None:
    """UA and CCC over speech layers, of rows of one cache that differ in nothing else."""
    text = (
        "Rows of one cache that differ in nothing but the speech layer are joined. Layer 0 is the input of the first "
        "block, -1 the last that is stored, mix a learned sum. Bars are 95 % intervals."
    )
    return _over(examined, "layer", "Over layers", text, _order_of_layer)


def over_text_layers(examined: Sequence[Examined]) -> Figure | None:
    """UA and CCC over text layers, of rows of one cache that differ in nothing else."""
    text = (
        "Rows of one cache that differ in nothing but the text layer are joined. Layer 0 is the input of the first "
        "block, -1 the last that is stored, mix a learned sum. Bars are 95 % intervals."
    )
    return _over(examined, "text_layer", "Over text layers", text, _order_of_layer)


def _order_of_layer(layer: str) -> tuple[Any, ...]:
    return (not layer.isdigit(), int(layer) if layer.isdigit() else 0, layer)


def over_granularities(examined: Sequence[Examined]) -> Figure | None:
    """UA and CCC over granularities, of rows of one cache that differ in nothing else."""
    text = (
        "Rows of one cache that differ in nothing but the unit over which speech is pooled are joined, from the finest "
        "unit to the coarsest. Bars are 95 % intervals."
    )
    return _over(examined, "granularity", "Over granularities", text, _order_of_granularity)


def _order_of_granularity(granularity: str) -> tuple[Any, ...]:
    known = granularity in GRANULARITIES
    return (not known, list(GRANULARITIES).index(granularity) if known else 0, granularity)


def _over(examined: Sequence[Examined], axis: str, title: str, text: str, order: Order) -> Figure | None:
    drawings = [_drawn_over(measure, rows, axis, order) for measure, rows in measured(examined).items()]
    drawn = tuple(one for one in drawings if one is not None)
    return Figure(axis, title, text, drawn, "Measure") if drawn else None


def _drawn_over(measure: str, rows: Sequence[Scored], axis: str, order: Order) -> Drawing | None:
    """A line for each set of rows of one cache that share all options but one; None where there is no such set."""
    groups: dict[str, list[Scored]] = {}
    for own in rows:
        if not own.row.is_member and _reads(own.row, axis):
            groups.setdefault(_without(own.row, axis), []).append(own)
    shared = [
        sorted(group, key=lambda own: order(own.row.experiment[axis]))
        for group in groups.values()
        if len({own.row.experiment[axis] for own in group}) > 1
    ]
    if not shared:
        return None
    names = _told_apart([group[0].row for group in shared], axis)
    ticks = sorted({own.row.experiment[axis] for group in shared for own in group}, key=order)
    title = axis.replace("_", " ")
    layout = {
        "height": 380,
        "xaxis": {"type": "category", "categoryarray": list(map(plain, ticks)), "title": {"text": title}},
        "yaxis": {"title": {"text": plain(measure)}},
        "showlegend": len(shared) > 1,
    }
    named = list(zip(shared, names, strict=True))
    return Drawing(
        name=measure,
        data=[_joined(*pair, number, axis, order) for number, pair in enumerate(named)],
        layout=layout,
        columns=("rows", title, measure, "from", "to"),
        rows=tuple((name, own.row.experiment[axis], *own.digits) for group, name in named for own in group),
    )


def _joined(group: Sequence[Scored], name: str, number: int, axis: str, order: Order) -> dict[str, Any]:
    """The line of a set of rows, broken before what is no step of a scale, such as a mix of layers."""
    first = sum(not order(own.row.experiment[axis])[0] for own in group)
    x: list[str | None] = [plain(own.row.experiment[axis]) for own in group]
    y: list[float | None] = [own.value for own in group]
    bars = errors(*zip(*((own.value, own.interval.low, own.interval.high) for own in group), strict=True))
    for values in (x, y, bars["array"], bars["arrayminus"]):
        values.insert(first, None)
    return {**line(x, y, name, number), "error_y": bars}


def _reads(row: Row, axis: str) -> bool:
    """Whether an option makes a difference to a row: not where dev chose the layer, or no head reads text."""
    if axis == "text_layer":
        return any(name.split("/")[0] == "text" for name in row.config.get("streams", {}))
    return axis != "layer" or not row.experiment.get("try_layers")


def _without(row: Row, axis: str) -> str:
    """All that a row shares with those on its line: its options but one, and what it was trained on."""
    options = {name: value for name, value in row.experiment.items() if name != axis}
    return json.dumps([options, *(row.config[name] for name in _ALIKE[axis])], sort_keys=True)


def _told_apart(rows: Sequence[Row], axis: str) -> list[str]:
    """A name for each line by its first row: the head, and the cache and other options in which the lines differ."""
    flat = [
        {"cache": row.config["cache"], **row.experiment["training"], **row.experiment["settings"], **row.experiment}
        for row in rows
    ]
    fields = dict.fromkeys(name for own in flat for name in own if name not in ("head", axis, "settings", "training"))
    varied = [name for name in fields if len({str(own.get(name)) for own in flat}) > 1]
    names = [" ".join([own["head"], *(f"{name} {own[name]}" for name in varied if name in own)]) for own in flat]
    # caches of one name in different folders, or one cache before and after it grew
    return [f"{name} ({row.label})" if names.count(name) > 1 else name for name, row in zip(names, rows, strict=True)]
