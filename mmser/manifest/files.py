"""Manifests on disk: CSV, TSV, JSONL and Parquet.

Everything is read as text first and only then given its type, so that an id ``007`` or ``1e5`` and a transcript
``NA`` stay what they are.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from mmser.errors import ManifestError
from mmser.files import replacing
from mmser.manifest.table import NUMBER_COLUMNS, Manifest

_MAX_CELL = 10_000_000
"""Characters in one cell of a CSV file; more means a quotation mark that nothing closes."""

_BLOCK = 5_000
"""Rows held as lists at a time: a list of every row would keep the garbage collector busy (twice the time)."""


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest; the suffix says the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.

    Text files are UTF-8, with or without byte order mark, with LF or CRLF. Rows without any content are skipped and
    column names stripped; everything else stays as it is written. In errors, the header of a CSV or TSV file is
    row 1, as in a spreadsheet; rows of the other formats count from 1.

    Raises:
        ManifestError: the file is missing, of another format, malformed or empty, or the table does not hold what a
            :class:`Manifest` needs.
    """
    path = Path(path)
    reader, _ = _format(path)
    if not path.is_file():
        raise ManifestError(
            f"manifest {str(path)!r} is {'a folder' if path.is_dir() else 'not there'}; expected a file"
        )
    return _made(reader(path), path)


def parse_manifest(data: bytes, path: Path, delimiter: str = ",") -> Manifest:
    """A manifest from the bytes of a CSV file, such as a packed cache holds; ``path`` stands for the file.

    Raises:
        ManifestError: as :func:`read_manifest`.
    """
    return _made(_parse_csv(_text(data, path), path, delimiter), path)


def _made(table: pd.DataFrame, path: Path) -> Manifest:
    if not len(table):
        raise ManifestError(f"manifest {str(path)!r} has no rows: expected one an utterance")
    return Manifest(table, path.parent, path)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest in the format that the suffix names, whole or not at all.

    Audio paths are written relative to the new file's folder where the recording lies below it, and absolute where
    it does not, so that the file means the same recordings wherever ``manifest`` came from.

    Raises:
        ManifestError: unknown suffix, or the folder is not there.
    """
    path = Path(path)
    check_place(path)
    _, writer = _format(path)
    folder, base = os.path.abspath(path.parent), os.path.abspath(manifest.base)
    audio = [_seen_from(folder, base, name) for name in manifest.table["audio"]]
    with replacing(path, durable=True) as temporary:
        writer(manifest.table.assign(audio=pd.Series(audio, dtype=object)), temporary)


def check_place(path: Path) -> None:
    """Refuse a file that no manifest could be written to, before there is anything to write.

    Raises:
        ManifestError: unknown suffix, or the folder is not there.
    """
    _format(path)
    if not path.parent.is_dir():
        raise ManifestError(f"manifest {str(path)!r} cannot be written: its folder is not there; make it first")


def _seen_from(folder: str, base: str, audio: str) -> str:
    whole = os.path.normpath(os.path.join(base, audio))
    below = whole.startswith(os.path.join(folder, ""))
    return whole[len(folder) :].lstrip(os.sep).replace(os.sep, "/") if below else whole


def _format(path: Path) -> tuple[Callable[[Path], pd.DataFrame], Callable[[pd.DataFrame, Path], None]]:
    formats = {
        ".csv": (_read_csv, _write_csv),
        ".tsv": (_read_tsv, _write_tsv),
        ".jsonl": (_read_jsonl, _write_jsonl),
        ".parquet": (_read_parquet, _write_parquet),
    }
    if path.suffix.lower() not in formats:
        raise ManifestError(
            f"manifest {str(path)!r} has the suffix {path.suffix!r}; expected one of {', '.join(formats)}"
        )
    return formats[path.suffix.lower()]


def _decoded(path: Path) -> str:
    try:
        return _text(path.read_bytes(), path)
    except OSError as error:
        raise ManifestError(f"manifest {str(path)!r} cannot be read: {error.strerror}") from None


def _text(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"manifest {str(path)!r} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; "
            "save it as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from None
    if not text.strip():
        raise ManifestError(f"manifest {str(path)!r} is empty: expected a header and a row an utterance")
    return text


def _read_csv(path: Path, delimiter: str = ",") -> pd.DataFrame:
    return _parse_csv(_decoded(path), path, delimiter)


def _parse_csv(text: str, path: Path, delimiter: str = ",") -> pd.DataFrame:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = ((row, cells) for row, cells in enumerate(lines, 1) if cells and (cells[0].strip() or _filled(cells)))
    old_limit = csv.field_size_limit(_MAX_CELL)
    rows: list[int] = []
    try:
        names = _header(next(records, (0, []))[1], path)
        columns: list[list[str]] = [[] for _ in names]
        while block := list(islice(records, _BLOCK)):
            if any(len(cells) != len(names) for _, cells in block):
                block = [(row, _fitted(cells, names, row, delimiter, path)) for row, cells in block]
            rows += [row for row, _ in block]
            for column, cells in zip(columns, zip(*(cells for _, cells in block), strict=True), strict=True):
                column += cells
    except csv.Error as error:
        raise ManifestError(f"manifest {str(path)!r}, line {lines.line_num}: {error}") from None
    finally:
        csv.field_size_limit(old_limit)
    return _table(names, columns, rows)


def _header(cells: list[str], path: Path) -> list[str]:
    names = [name.strip() for name in cells]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ManifestError(f"manifest {str(path)!r} has no header: expected column names in its first row")
    if "" in names:
        raise ManifestError(f"manifest {str(path)!r}: column {names.index('') + 1} has no name: name or delete it")
    return names


def _fitted(cells: list[str], names: list[str], row: int, delimiter: str, path: Path) -> list[str]:
    """The cells of a row whose trailing empty fields are too many or left out, as spreadsheets write them."""
    if _filled(cells[len(names) :]):
        raise ManifestError(
            f"manifest {str(path)!r}, row {row}: found {len(cells)} fields, expected {len(names)} "
            f"({', '.join(names)}); put text that holds {delimiter!r} in double quotes"
        )
    return [*cells[: len(names)], *[""] * (len(names) - len(cells))]


def _table(names: list[str], columns: Iterable[Iterable[Any]], rows: Sequence[int]) -> pd.DataFrame:
    """Columns beside each other, not by name: a name that is there twice must reach the check."""
    series = [pd.Series(list(cells), dtype=object) for cells in columns]
    return pd.concat(series, axis=1, keys=range(len(names))).set_axis(names, axis=1).set_axis(rows, axis=0)


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_csv(path, delimiter="\t")


def _filled(cells: Iterable[str]) -> bool:
    return any(cell.strip() for cell in cells)


def _read_jsonl(path: Path) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    numbers = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"manifest {str(path)!r}, line {number}"
        try:
            # numbers as they are written: an id 1e5 is no 100000.0
            record = json.loads(line, object_pairs_hook=_once, parse_int=str, parse_float=str)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair could never be written
        except (ValueError, RecursionError) as error:  # malformed JSON, or a key that is there twice
            raise ManifestError(f"{where}: {error}; expected one JSON object a line") from None
        if not isinstance(record, dict):
            raise ManifestError(f"{where}: found {line.strip()[:40]!r}, expected a JSON object such as {{...}}")
        records.append({name.strip(): cell for name, cell in record.items()})
        numbers.append(number)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {n: pd.Series([r.get(n) for r in records], index=numbers, dtype=object) for n in names}
    return pd.DataFrame(columns, index=numbers)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return record


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"manifest {str(path)!r} is no readable Parquet file: {error}") from None
    kept = [i for i, name in enumerate(table.column_names) if not name.startswith("__index_level_")]
    if not kept:
        raise ManifestError(f"manifest {str(path)!r} has no columns")
    names = [table.column_names[i].strip() for i in kept]
    # as Python values: through pandas a large integer beside a missing one would lose digits
    return _table(names, (table.column(i).to_pylist() for i in kept), range(1, table.num_rows + 1))


def _write_csv(table: pd.DataFrame, path: Path, delimiter: str = ",") -> None:
    columns = [_printed(name, table[name].tolist()) for name in table.columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        # the module quotes a cell with a carriage return only where that is part of the line's end
        lines = SimpleNamespace(write=lambda line: file.write(line[:-2] + "\n"))
        writer = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(table.columns)
        writer.writerows(zip(*columns, strict=True))


def _write_tsv(table: pd.DataFrame, path: Path) -> None:
    _write_csv(table, path, delimiter="\t")


def _printed(name: str, cells: list[Any]) -> list[str]:
    """Cells as text: the shortest that reads back as the same number, nothing for a missing one."""
    return ["" if cell != cell else repr(cell) for cell in cells] if name in NUMBER_COLUMNS else cells


def _write_jsonl(table: pd.DataFrame, path: Path) -> None:
    names = list(table.columns)
    with path.open("w", encoding="utf-8", newline="") as file:
        for cells in zip(*(table[name].tolist() for name in names), strict=True):
            record = {n: c if c == c and c != "" else None for n, c in zip(names, cells, strict=True)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        name: pyarrow.array([None if cell != cell or cell == "" else cell for cell in table[name].tolist()], kind)
        for name, kind in (
            (name, pyarrow.float64() if name in NUMBER_COLUMNS else pyarrow.string()) for name in table.columns
        )
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
