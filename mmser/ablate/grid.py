"""The grid file: ``[base]``, ``[axes]``, ``[[exclude]]``, ``[[row]]`` and ``baseline`` become cells.

See docs/ablations.md for the file as a user writes it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from typing import Any

from mmser.ablate.names import label, name_part, shown, slug
from mmser.ablate.values import SETTING, experiment_of, options_of
from mmser.checks import did_you_mean
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.train.members import FUSIONS, Member, has_setting, head_options, members_of, settled
from mmser.train.options import Experiment
from mmser.train.unread import unread_by_heads

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_CELLS = 10_000
"""A grid of more is a slip: an axis too many."""

ALL = "all"
"""On the axes ``layer`` and ``text_layer``: every layer that the cache stores."""

_STREAMS = {"layer": ("speech_stream", ("speech", "pooled")), "text_layer": ("text_stream", ("text",))}
"""By axis of layers: the option that names the stream, and which kinds of streams have such layers."""

_PARTS = ("base", "axes", "exclude", "row", "baseline")


@dataclass(frozen=True)
class Cell:
    """One line of the table: an experiment with a name."""

    name: str
    """Of its run folder: letters, digits and ``. _ + -``."""
    row: str
    """What the table calls it."""
    axes: dict[str, str]
    """Its value on each axis that it has a place on; empty for a named row."""
    experiment: Experiment


@dataclass(frozen=True)
class Grid:
    """A grid file, read."""

    text: str
    cells: list[Cell]
    axes: list[str]
    baseline: str | None
    """Name of the cell that the others are compared with."""


def read_grid(
    text: str,
    where: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    stored_layers: Mapping[str, Sequence[int]] | None = None,
) -> Grid:
    """Read a grid.

    Args:
        text: TOML.
        where: the file's name, for messages.
        overrides: options that take the place of those in ``[base]``, as TOML has them.
        stored_layers: the layers of the cache's streams, by name: what ``all`` on an axis of layers stands for.

    Raises:
        ProtocolError: not TOML, an unknown or repeated name, a value of another type, an axis without values, a head
            that is none, or nothing left to train.
    """
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtocolError(f"{where}: not readable as TOML: {error}") from error
    for name in parsed:
        if name not in _PARTS:
            raise ProtocolError(
                f"{where}: unknown key {name!r}{did_you_mean(name, _PARTS)}; known: {', '.join(_PARTS)}"
            )
    tables = {name: _table(parsed, name, where) for name in ("base", "axes")}
    base = options_of(tables["base"], f"{where}, [base]") | options_of(overrides or {}, "--set-base")
    axes = options_of(tables["axes"], f"{where}, [axes]", lists=True)
    for axis in _STREAMS:
        if ALL in axes.get(axis, []):
            stored = _layers_of_all(axis, stored_layers or {}, base.get(_STREAMS[axis][0]), where)
            spread = [own for one in axes[axis] for own in (map(str, stored) if one == ALL else [one])]
            axes[axis] = list(dict.fromkeys(spread))
    cells = _of_axes(base, axes, _excluded(parsed, axes, where), where) if axes else []
    cells = _merged([*cells, *_of_rows(base, _tables(parsed, "row", where), where)], where)
    if not cells:
        raise ProtocolError(f"{where}: nothing to train; give [axes] or [[row]], and exclude not all of them")
    _check_settings(base, axes, cells, where)
    return Grid(text, cells, list(axes), _baseline(parsed.get("baseline"), cells, where))


def read_value(text: str) -> Any:
    """A value of the command line: as TOML has it, or else text.

    >>> read_value("20"), read_value("[0.1, 0.2]"), read_value("cuda")
    (20, [0.1, 0.2], 'cuda')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _layers_of_all(axis: str, stored: Mapping[str, Sequence[int]], named: str | None, where: str) -> Sequence[int]:
    """The layers of the stream that is ``named``, or of all of its kind, which must then agree."""
    option, kinds = _STREAMS[axis]
    found = {name: own for name, own in stored.items() if own and name.split("/")[0] in kinds and named in (None, name)}
    told = f"{where}, [axes]: {axis} {ALL!r} stands for the cache's {kinds[0]} layers"
    if not found:
        raise ProtocolError(f"{told}, and it holds none" + ("" if named is None else f" in {named}"))
    if len(set(map(tuple, found.values()))) > 1:
        each = "; ".join(f"{name} has {', '.join(map(str, own))}" for name, own in found.items())
        raise ProtocolError(f"{told}, but {each}: name one as {option} in [base]")
    return next(iter(found.values()))


def _table(parsed: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = parsed.get(name, {})
    if not isinstance(found, dict):
        raise ProtocolError(f"{where}: {name} is {found!r}; expected a table, [{name}]")
    return found


def _tables(parsed: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = parsed.get(name, [])
    if not isinstance(found, list) or not all(isinstance(own, dict) for own in found):
        raise ProtocolError(f"{where}: {name} is {found!r}; expected tables, each begun by [[{name}]]")
    return found


def _excluded(parsed: Mapping[str, Any], axes: Mapping[str, list[Any]], where: str) -> list[dict[str, Any]]:
    found = []
    for number, table in enumerate(_tables(parsed, "exclude", where), 1):
        here = f"{where}, [[exclude]] {number}"
        match = options_of(table, here)
        if not match:
            raise ProtocolError(f"{here}: is empty, and would exclude everything")
        for name, value in match.items():
            if name not in axes:
                raise ProtocolError(f"{here}: {name} is no axis; there are {', '.join(axes) or 'none'}")
            if value not in axes[name]:
                known = [shown(own) for own in axes[name]]
                raise ProtocolError(
                    f"{here}: {value!r} is not on axis {name}{did_you_mean(str(value), known)}; there are "
                    f"{', '.join(known)}"
                )
        found.append(match)
    return found


def _of_axes(
    base: Mapping[str, Any], axes: Mapping[str, list[Any]], excluded: Sequence[Mapping[str, Any]], where: str
) -> list[Cell]:
    count = prod(len(values) for values in axes.values())
    if count > MAX_CELLS:
        raise ProtocolError(f"{where}, [axes]: {count} cells; at most {MAX_CELLS} are taken")
    cells = []
    for values in product(*axes.values()):
        own = dict(zip(axes, values, strict=True))
        if any(all(own[name] == value for name, value in match.items()) for match in excluded):
            continue
        here = f"{where}, [axes] with {', '.join(shown(value) for name, value in own.items())}"
        options = _concerning({**base, **own}, here)
        placed = {name: value for name, value in own.items() if name in options}
        name = "-".join(slug(name_part(axis, value)) for axis, value in placed.items())
        row = ", ".join(label(axis, value) for axis, value in placed.items())
        places = {axis: shown(value) for axis, value in placed.items()}
        cells.append(Cell(name, row, places, _checked(options, here)))
    return cells


def _of_rows(base: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], where: str) -> list[Cell]:
    cells = []
    for number, table in enumerate(rows, 1):
        row = table.get("name")
        if not isinstance(row, str) or not row.strip():
            raise ProtocolError(f'{where}, [[row]] {number}: expected a name, as name = "text alone"')
        here = f"{where}, [[row]] {row!r}"
        own = options_of({name: value for name, value in table.items() if name != "name"}, here)
        head = {name: value for name, value in own.items() if name in ("head", "members")}
        options = _concerning({**base, **head}, here) | own
        cells.append(Cell(slug(row) or f"row-{number}", row.strip(), {}, _checked(options, here)))
    return cells


def _merged(cells: Sequence[Cell], where: str) -> list[Cell]:
    """The cells without those of the axes that say the same twice: a text head has no granularity.

    Raises:
        ProtocolError: two cells of one name.
    """
    kept: dict[str, Cell] = {}
    for cell in cells:
        if cell.name not in kept:
            kept[cell.name] = cell
        elif not (cell.axes and cell == kept[cell.name]):
            raise ProtocolError(
                f"{where}: two cells are called {cell.name!r} ({kept[cell.name].row!r} and {cell.row!r}); call one "
                "otherwise, as a [[row]]"
            )
    return list(kept.values())


def _concerning(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options without those that its head has no use for: a granularity of text, another head's width."""
    fuses = options.get("head", Experiment().head) in FUSIONS
    members = _members(options if fuses else {**options, "members": ()}, where)
    kinds = [HEADS[member.head] for member in members]
    text = any(kind.needs_text for kind in kinds)
    mel = any(kind.needs_mel or "spectral" in {f.name for f in fields(kind.options)} for kind in kinds)
    useless = unread_by_heads(members, text=text, mel=mel) | (set() if fuses else {"members", "fusion"})
    for name in options:
        if name.startswith(SETTING) and not any(has_setting(own, name.removeprefix(SETTING)) for own in members):
            useless.add(name)
    return {name: value for name, value in options.items() if name not in useless}


def _members(options: Mapping[str, Any], where: str) -> list[Member]:
    """The heads that options name."""
    named = {name: options[name] for name in ("head", "members", "granularity") if name in options}
    try:
        return members_of(Experiment(**named))
    except ProtocolError as error:
        raise ProtocolError(f"{where}: {error}") from error


def _checked(options: Mapping[str, Any], where: str) -> Experiment:
    """The experiment, its head's options known to be some; what depends on the cache shows when it trains."""
    asked = experiment_of(options, where)
    try:
        experiment = settled(asked)
        for member in members_of(experiment):
            head_options(experiment, member)
    except ProtocolError as error:
        raise ProtocolError(f"{where}: {error}") from error
    return experiment


def _check_settings(base: Mapping[str, Any], axes: Mapping[str, Any], cells: Sequence[Cell], where: str) -> None:
    """Raise ProtocolError for an option of a head that no head of the grid has: a slip of the pen."""
    members = [member for cell in cells for member in members_of(cell.experiment)]
    for name in (*base, *axes):
        own = name.removeprefix(SETTING)
        if own != name and not any(has_setting(member, own) for member in members):
            known = {f.name for member in members for f in fields(HEADS[member.head].options)}
            raise ProtocolError(
                f"{where}: no head here has an option {own!r}{did_you_mean(own, sorted(known))}; there are "
                f"{', '.join(sorted(known))}"
            )


def _baseline(asked: Any, cells: Sequence[Cell], where: str) -> str | None:
    if asked is None:
        return None
    for cell in cells:
        if asked in (cell.name, cell.row):
            return cell.name
    names = [cell.row for cell in cells] + [cell.name for cell in cells]
    raise ProtocolError(
        f"{where}: baseline {asked!r} is no row or cell{did_you_mean(str(asked), names)}; there are "
        f"{', '.join(cell.name for cell in cells)}"
    )
