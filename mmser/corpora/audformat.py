"""Any corpus in audformat, audEERING's table format: ``db.yaml`` and a file a table.

Read here without the audformat package, which would open pickled tables. Format: audeering.github.io/audformat.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mmser.corpora.corpus import Corpus, Found, LabelSet, Request
from mmser.corpora.files import listed
from mmser.errors import ManifestError

_RENAMED = {"transcription": "text", "transcript": "text", "sex": "gender"}
"""Columns that a manifest calls otherwise."""

_RESERVED = frozenset({"utterance_id", "audio", "start_s", "end_s", "label", "corpus", "label_set"})
"""Columns that are not the database's to give."""

_PARTS = {"train": "train", "dev": "dev", "test": "test"}

_Key = tuple[str, float, float | None]
"""A file, and the start and end in it in seconds; None is the file's end."""


def read_audformat(request: Request) -> Found:
    """Read an audformat database.

    The tables named by ``request.tables`` (by default those with a column ``emotion``) give the utterances; tables that
    know more about the same file or segment add their columns. A value that a scheme describes by attributes (a
    speaker's gender) brings them along as columns, and one that it translates (a sentence's code) becomes that.

    Raises:
        ManifestError: no ``db.yaml``, a table that is not there or only as pickle, or no table of emotions.
    """
    found = Found(request.folder)
    header = _header(request.folder)
    tables = header["tables"]
    chosen = _chosen(tables, request.tables, request.folder)
    rows: dict[_Key, dict[str, Any]] = {}
    for name in chosen:
        split = header["splits"].get(tables[name].get("split_id"), {}).get("type", "")
        for key, cells in _rows(request.folder, header, name):
            more = {"split": _PARTS[split]} if split in _PARTS else {}
            _join(rows.setdefault(key, {}), {**cells, **more})
    for name in tables:
        if name not in chosen:
            _add(rows, _rows(request.folder, header, name))
    _finish(rows, request.folder, found)
    return found


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "db.yaml"
    if not path.is_file():
        raise ManifestError(f"audformat: folder {str(folder)!r} holds no 'db.yaml': give a database's own folder")
    try:
        header = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not readable ({str(error).splitlines()[0]})") from error
    if not isinstance(header, dict):
        raise ManifestError(f"{path}: holds no database's header")
    for section in ("tables", "splits", "schemes"):
        entries = header.get(section) or {}
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise ManifestError(f"{path}: its {section} are not described as audformat does: a name and settings each")
        header[section] = {str(name): entry for name, entry in entries.items()}
    return header


def _chosen(tables: dict[str, Any], asked: tuple[str, ...], folder: Path) -> list[str]:
    for name in asked:
        if name not in tables:
            raise ManifestError(f"audformat: no table {name!r} in {str(folder)!r}; there are: {', '.join(tables)}")
    chosen = list(asked) or [name for name, table in tables.items() if "emotion" in (table.get("columns") or {})]
    if not chosen:
        raise ManifestError(
            f"audformat: no table in {str(folder)!r} has a column 'emotion'; name those that give the utterances with "
            f"--tables: {', '.join(tables)}"
        )
    return chosen


def _read(folder: Path, name: str) -> pd.DataFrame:
    if Path(name).name != name:
        raise ManifestError(f"audformat: table {name!r} is named like a path; expected a name")
    parquet, plain = folder / f"db.{name}.parquet", folder / f"db.{name}.csv"
    try:
        if parquet.is_file():
            return pd.read_parquet(parquet)
        if plain.is_file():
            return pd.read_csv(plain, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise ManifestError(f"audformat: table {name!r} is not readable ({str(error).splitlines()[0]})") from error
    if (folder / f"db.{name}.pkl").is_file():
        raise ManifestError(
            f"audformat: table {name!r} is there as pickle alone, which can run code and is never opened: where you "
            "trust it, save it anew with audformat's Database.save(..., storage_format='parquet')"
        )
    raise ManifestError(f"audformat: table {name!r} is not there; expected {parquet.name!r} or {plain.name!r}")


def _rows(folder: Path, header: dict[str, Any], name: str) -> list[tuple[_Key, dict[str, Any]]]:
    """A table's rows as cells of a manifest."""
    table = _read(folder, name)
    if "file" not in table.columns:
        raise ManifestError(f"audformat: table {name!r} has no column 'file'; it has {', '.join(table.columns)}")
    starts, ends = _seconds(table, "start", name), _seconds(table, "end", name)
    keys = [
        (str(file), 0.0 if pd.isna(start) else start, None if pd.isna(end) else end)
        for file, start, end in zip(table["file"], starts, ends, strict=True)
    ]
    columns = header["tables"][name].get("columns") or {}
    cells: list[dict[str, Any]] = [{} for _ in keys]
    for column, settings in columns.items():
        if column not in table.columns:
            raise ManifestError(f"audformat: table {name!r} has no column {column!r}, which db.yaml says it has")
        scheme = header["schemes"].get((settings or {}).get("scheme_id"), {})
        meanings = _meanings(folder, scheme.get("labels"))
        for row, value in zip(cells, table[column].tolist(), strict=True):
            row.update(_cells(column, value, meanings))
    return list(zip(keys, cells, strict=True))


def _seconds(table: pd.DataFrame, column: str, name: str) -> list[float]:
    if column not in table.columns:
        return [float("nan")] * len(table)
    try:
        cells = [None if cell == "" else cell for cell in table[column].tolist()]
        times = pd.to_timedelta(pd.Series(cells, dtype=object))
    except ValueError as error:
        raise ManifestError(f"audformat: table {name!r}: column {column!r} holds no times ({error})") from error
    return [float(seconds) for seconds in times.dt.total_seconds()]


def _meanings(folder: Path, labels: Any) -> dict[str, Any]:
    """What a scheme's values mean: a word, or attributes; a scheme may leave that to a table of its own."""
    if isinstance(labels, str):
        table = _read(folder, labels)
        key = table.columns[0]
        return {str(row.pop(key)): row for row in table.astype(object).to_dict("records")}
    return {str(value): meaning for value, meaning in labels.items()} if isinstance(labels, dict) else {}


def _cells(column: str, value: Any, meanings: dict[str, Any]) -> dict[str, Any]:
    """A value as cells of a manifest, with what it means."""
    if value is None or value is pd.NA or value != value or value == "":
        return {}
    meaning = meanings.get(str(value))
    if isinstance(meaning, dict):
        own = {_name(key): _plain(told) for key, told in meaning.items() if _plain(told) != ""}
        return own | {_name(column): _plain(value)}
    return {_name(column): _plain(value if meaning is None else meaning)}


def _name(column: str) -> str:
    name = _RENAMED.get(column, column)
    return f"{name}_of_corpus" if name in _RESERVED else name


def _plain(value: Any) -> Any:
    return (
        "" if value is None or value is pd.NA or value != value else value if isinstance(value, float) else str(value)
    )


def _join(row: dict[str, Any], more: dict[str, Any]) -> None:
    """Add cells; those that are there stay."""
    for column, value in more.items():
        row.setdefault(column, value)


def _add(rows: dict[_Key, dict[str, Any]], more: list[tuple[_Key, dict[str, Any]]]) -> None:
    """Add what another table knows, of the very segment, or of the file that a segment lies in."""
    of_file = {file: cells for (file, start, end), cells in more if start == 0.0 and end is None}
    of_segment = dict(more)
    for key, row in rows.items():
        _join(row, of_segment.get(key, {}))
        _join(row, of_file.get(key[0], {}))


def _finish(rows: dict[_Key, dict[str, Any]], folder: Path, found: Found) -> None:
    stems = [Path(file).stem for file in dict.fromkeys(file for file, _, _ in rows)]
    # a stem is enough of an id where no two files share it
    unique = len(set(stems)) == len(stems)
    outside, absent = [], []
    for (file, start, end), cells in rows.items():
        whole = Path(file).stem if unique else Path(file).with_suffix("").as_posix().replace("/", "__")
        segment = start > 0.0 or end is not None
        utterance_id = (
            f"{whole}_{round(1000 * start)}-{'end' if end is None else round(1000 * end)}" if segment else whole
        )
        if Path(file).is_absolute() or ".." in Path(file).parts:
            outside.append(file)
            found.excluded[utterance_id] = f"its file {file!r} lies outside the database"
        elif not (folder / file).is_file():
            absent.append(file)
            found.excluded[utterance_id] = "its recording is not there"
        else:
            span = {"start_s": start or "", "end_s": "" if end is None else end}
            found.rows.append(
                {"utterance_id": utterance_id, "audio": file, **(span if segment else {}), "emotion": "", **cells}
            )
    for what, names in (("lie outside the database", outside), ("are not there", absent)):
        if names:
            found.warnings.append(f"audformat: {len(names)} recordings {what}: {listed(names)}")


AUDFORMAT = Corpus(
    title="audformat",
    read=read_audformat,
    label_sets={"emotion": LabelSet(), "all": LabelSet(keep_all=True)},
)
