"""A manifest in memory: one row an utterance, checked once, when it is made."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.errors import ManifestError
from mmser.records import Utterance, check_utterance_id

REQUIRED_COLUMNS = ("utterance_id", "audio")
"""Columns that every manifest has, filled in every row."""

NUMBER_COLUMNS = ("start_s", "end_s", "arousal", "valence", "dominance")
"""Columns that hold numbers (seconds; ratings on the corpus's own scale). Every other column is text."""

_OTHER_NAMES = {
    "utterance_id": ("id", "utt_id", "utt", "utterance", "segment_id", "name", "key"),
    "audio": ("file", "path", "wav", "filename", "file_name", "audio_path", "wav_path", "filepath"),
}
"""What other tools call a required column: named in the error, never taken silently."""

_MISSING_NUMBERS = frozenset({"", "nan", "na", "n/a", "none", "null"})

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Ids that :func:`check_utterance_id` surely accepts; it is asked about all others."""

_NAMED = 3
"""How many offenders an error names."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """Utterances and what is known about them. Checked and copied when made; treat ``table`` as immutable.

    Raises:
        ManifestError: a required column is missing or has an empty cell, an id is not unique or unfit as a file
            name, a number column holds something else, or ``start_s`` and ``end_s`` are no span of time. Rows are
            named by the index of the table given.
    """

    table: pd.DataFrame
    """One row an utterance, in the file's order and with the file's columns. ``NUMBER_COLUMNS`` are float64, NaN
    where missing; all others are text (Python ``str`` in object columns), ``""`` where missing."""
    base: Path
    """The folder against which relative audio paths are resolved: the manifest's own."""
    path: Path | None = None
    """The file it was read from; None for one made in memory."""
    warnings: tuple[str, ...] = ()
    """What whoever made the manifest wants known, such as recordings missing from a corpus."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _checked(self.table, self._where))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def ids(self) -> list[str]:
        """Utterance ids in the order of the rows."""
        return list(self.table["utterance_id"])

    @property
    def _where(self) -> str:
        return f"manifest {str(self.path)!r}" if self.path else "manifest"

    def utterances(self) -> list[Utterance]:
        """The rows as :class:`Utterance` values: audio resolved, missing cells left out of ``fields``."""
        own = ("utterance_id", "audio", "start_s", "end_s", "text")
        others = [name for name in self.table.columns if name not in own]
        rows = zip(*(self.table[name].tolist() for name in others), strict=True) if others else ((),) * len(self)
        spans = [self._cells(name) for name in ("start_s", "end_s", "text")]
        return [
            Utterance(
                utterance_id=utterance_id,
                audio=self.base / audio,
                start_s=_present(start_s),
                end_s=_present(end_s),
                text=_present(text),
                fields={k: v for k, v in zip(others, row, strict=True) if _present(v) is not None},
            )
            for utterance_id, audio, start_s, end_s, text, row in zip(
                self.ids, self.table["audio"], *spans, rows, strict=True
            )
        ]

    def column(self, name: str) -> NDArray[Any]:
        """A copy of one column: float64 for ``NUMBER_COLUMNS``, else an object array of ``str``; shape (rows,).

        Raises:
            ManifestError: there is no such column.
        """
        if name not in self.table.columns:
            raise ManifestError(
                f"{self._where} has no column {name!r}; it has {', '.join(self.table.columns)}"
                + _suggestion(name, self.table.columns)
            )
        return np.array(self.table[name].to_numpy())

    def select(self, keep: Sequence[str] | NDArray[np.bool_]) -> "Manifest":
        """The rows with the ids in ``keep``, in that order, or those where the boolean mask ``keep`` is true.

        Raises:
            ManifestError: an id is not in the manifest, or is named twice.
        """
        if isinstance(keep, np.ndarray) and keep.dtype == np.bool_:
            assert keep.shape == (len(self),), f"mask of shape {keep.shape} for {len(self)} rows"
            rows = np.flatnonzero(keep)
        else:
            place = {utterance_id: row for row, utterance_id in enumerate(self.ids)}
            absent = [utterance_id for utterance_id in keep if utterance_id not in place]
            if absent:
                raise ManifestError(
                    f"{self._where} has no utterance {_named(absent)}{_suggestion(absent[0], self.ids)}"
                )
            rows = np.array([place[utterance_id] for utterance_id in keep], dtype=np.intp)
        return Manifest(self.table.iloc[rows], self.base, self.path, self.warnings)

    def _cells(self, name: str) -> list[Any]:
        return self.table[name].tolist() if name in self.table.columns else [""] * len(self)


def merge(old: Manifest, new: Manifest) -> Manifest:
    """``old`` with the rows of ``new``: a row replaces that of the same id whole, new ids come after the others.

    The result has the columns of both; a cell that its row's manifest had no column for is missing. It lies where
    ``old`` lies; audio paths of ``new`` become absolute where its folder is another.

    >>> old = Manifest(pd.DataFrame({"utterance_id": ["a", "b"], "audio": ["a.wav", "b.wav"]}), Path("."))
    >>> new = Manifest(pd.DataFrame({"utterance_id": ["b"], "audio": ["b.flac"], "label": ["sad"]}), Path("."))
    >>> merge(old, new).table.values.tolist()
    [['a', 'a.wav', ''], ['b', 'b.flac', 'sad']]
    """
    columns = {
        name: [*old._cells(name), *new._cells(name)] for name in dict.fromkeys([*old.table.columns, *new.table.columns])
    }
    if os.path.abspath(old.base) != os.path.abspath(new.base):
        folder = os.path.abspath(new.base)
        columns["audio"][len(old) :] = [os.path.join(folder, audio) for audio in new.table["audio"]]
    # a dict keeps a key's first place and its last value
    rows = list({utterance_id: row for row, utterance_id in enumerate(columns["utterance_id"])}.values())
    table = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
    warnings = tuple(dict.fromkeys([*old.warnings, *new.warnings]))
    return Manifest(table.iloc[rows].reset_index(drop=True), old.base, old.path, warnings)


def _present(value: Any) -> Any:
    """The value, or None where the cell is empty (``""`` or NaN)."""
    return None if value == "" or value != value else value


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with text as text, numbers as numbers and a fresh index, or a ManifestError."""
    names = [str(name) for name in table.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(f"{where} has column {_named(twice)} twice: rename or delete one")
    _check_required(names, where)
    rows = list(table.index)
    columns = {}
    for name, (_, values) in zip(names, table.items(), strict=True):
        as_type = _as_numbers if name in NUMBER_COLUMNS else _as_text
        columns[name] = as_type(values, rows, f"{where}: column {name!r}")
    _check_ids(columns["utterance_id"], rows, where)
    _refuse(columns["audio"] == "", rows, columns["audio"], f"{where}: column 'audio'", "the path of a recording")
    _check_spans(columns, rows, where)
    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})


def _check_required(names: list[str], where: str) -> None:
    for required in REQUIRED_COLUMNS:
        if required not in names:
            other = next((n for n in names if n.lower() in (required, *_OTHER_NAMES[required])), None)
            hint = f": rename {other!r} to {required!r}" if other else ""
            if len(names) == 1 and ";" in names[0]:
                hint = ": it is separated by semicolons; save it with commas"
            raise ManifestError(f"{where} has no column {required!r}; it has {', '.join(names)}{hint}")


def _check_ids(ids: NDArray[Any], rows: list[Any], where: str) -> None:
    for row, utterance_id in zip(rows, ids, strict=True):
        if _PLAIN_ID.fullmatch(utterance_id) is None:
            try:
                check_utterance_id(utterance_id)
            except ManifestError as error:
                raise ManifestError(f"{where}: row {row}: {error}") from None
    if len(set(ids)) == len(ids):
        return
    places: dict[str, list[Any]] = {}
    for row, utterance_id in zip(rows, ids, strict=True):
        places.setdefault(utterance_id, []).append(row)
    shared = [f"{i!r} (rows {_listed(where_)})" for i, where_ in places.items() if len(where_) > 1]
    raise ManifestError(f"{where}: utterance ids must be unique, but these are not: {_listed(shared)}")


def _check_spans(columns: dict[str, NDArray[Any]], rows: list[Any], where: str) -> None:
    missing = np.full(len(rows), np.nan)
    start, end = columns.get("start_s", missing), columns.get("end_s", missing)
    for i in np.flatnonzero((start < 0) | (end <= np.nan_to_num(start)))[:1]:
        raise ManifestError(
            f"{where}: row {rows[i]}: start_s {start[i]:g} and end_s {end[i]:g} are no span of time; "
            "expected 0 <= start_s < end_s, in seconds from the start of the recording"
        )


def _as_text(values: "pd.Series[Any]", rows: list[Any], where: str) -> NDArray[Any]:
    """Cells as ``str``, object dtype. Whole floats lose ``.0``: pandas makes integers floats to mark a missing one."""
    cells = values.tolist()
    out = np.empty(len(cells), dtype=object)
    out[:] = cells
    for i, cell in enumerate(cells):
        if type(cell) is str:
            continue
        if isinstance(cell, (Collection, bytes)) and not isinstance(cell, str):
            raise ManifestError(f"{where}, row {rows[i]}: found {cell!r}, expected one text or number")
        if cell is None or cell is pd.NA or cell != cell:
            out[i] = ""
        elif isinstance(cell, float) and cell.is_integer():
            out[i] = str(int(cell))
        else:
            out[i] = str(cell)
    return out


def _as_numbers(values: "pd.Series[Any]", rows: list[Any], where: str) -> NDArray[np.float64]:
    cells = values.tolist()
    # where that does not do, look closer: a missing value of another kind, or the cell to complain about
    with suppress(TypeError, ValueError, OverflowError):
        quick = np.array([float(cell) if cell != "" else math.nan for cell in cells], dtype=np.float64)
        if not np.isinf(quick).any():
            return quick
    out = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell is None or cell is pd.NA or (isinstance(cell, str) and cell.strip().lower() in _MISSING_NUMBERS):
            continue
        try:
            number = float(cell) if isinstance(cell, (str, numbers.Real)) else math.inf
        except (ValueError, OverflowError):  # a whole number may be too large for a float
            number = math.inf
        if math.isinf(number):
            raise ManifestError(f"{where}, row {rows[i]}: found {cell!r}, expected a number such as 2.5, or nothing")
        out[i] = number
    return out


def _refuse(bad: NDArray[np.bool_], rows: list[Any], cells: NDArray[Any], where: str, expected: str) -> None:
    for i in np.flatnonzero(bad)[:1]:
        raise ManifestError(f"{where}, row {rows[i]}: found {cells[i]!r}, expected {expected}")


def _suggestion(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def _named(names: Sequence[str]) -> str:
    return _listed([repr(name) for name in names])


def _listed(items: Sequence[Any]) -> str:
    """The first few items, then how many more there are."""
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(str(item) for item in items[:_NAMED]) + more
