"""A manifest with one column more, and all else as it is written."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmser.errors import ManifestError
from mmser.files import replacing
from mmser.manifest.files import check_place, parse_manifest, write_manifest
from mmser.manifest.table import NUMBER_COLUMNS, REQUIRED_COLUMNS, Manifest

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MARK = b"\xef\xbb\xbf"
"""With which some programs begin a file of UTF-8."""


def check_new_column(manifest: Manifest, name: str, path: Path) -> None:
    """Refuse a column that the manifest has already, and a place where it could not be written.

    Raises:
        ManifestError: says which.
    """
    check_place(path)
    where = f"manifest {str(manifest.path)!r}" if manifest.path else "manifest"
    if name in manifest.table.columns:
        raise ManifestError(f"{where} has a column {name!r} already, which stays as it is; give another --column")
    if name in (*NUMBER_COLUMNS, *REQUIRED_COLUMNS) or not name.isprintable() or name != name.strip() or not name:
        raise ManifestError(f"{name!r} is no name for a column of text; give another --column, such as asr_text")


def add_column(manifest: Manifest, name: str, cells: Sequence[str], path: Path) -> None:
    """Write a manifest with a column of text after its others, whole or not at all.

    A CSV or TSV file that is written beside the one it was read from keeps every byte of the other columns; else it is
    written as :func:`write_manifest` writes.

    Args:
        manifest: the table.
        name: of the new column.
        cells: a text a row.
        path: the file to write.

    Raises:
        ManifestError: as :func:`check_new_column`.
    """
    check_new_column(manifest, name, path)
    wider = Manifest(manifest.table.assign(**{name: pd.Series(cells, dtype=object)}), manifest.base, manifest.path)
    data = _extended(manifest, name, cells, path)
    if data is None or not parse_manifest(data, path, _DELIMITERS[path.suffix.lower()]).table.equals(wider.table):
        write_manifest(wider, path)
        return
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(data)


def _extended(manifest: Manifest, name: str, cells: Sequence[str], path: Path) -> bytes | None:
    """The manifest's own file with a cell more in every row; None where it has to be written anew."""
    source = manifest.path
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if source is None or delimiter is None or source.suffix.lower() != path.suffix.lower():
        return None
    if os.path.abspath(source.parent) != os.path.abspath(path.parent) or not source.is_file():
        return None
    data = source.read_bytes()
    lines = list(io.StringIO(data.decode("utf-8-sig"), newline=""))
    if max(map(len, lines)) >= csv.field_size_limit():  # a cell that the module might not take
        return None
    reader = csv.reader(lines, delimiter=delimiter)
    more = iter([name, *cells])
    out, begin, width = [], 0, 0
    for record in reader:
        row, begin = "".join(lines[begin : reader.line_num]), reader.line_num
        if any(cell.strip() for cell in record):
            width = width or len(record)
            cell = next(more, None)
            if cell is None or len(record) != width:  # rows are cut short or drawn out, as spreadsheets do
                return None
            body = row.rstrip("\r\n")
            row = body + delimiter + _quoted(cell, delimiter) + (row[len(body) :] or "\n")
        out.append(row)
    return (_MARK if data.startswith(_MARK) else b"") + "".join(out).encode()


def _quoted(cell: str, delimiter: str) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow([cell])
    # alone in its row, an empty cell is quoted
    return line.getvalue() if cell else ""
