"""The folder of an ablation: the grid, what it came to, and a run folder for each cell.

::

    RUNS/
      grid.toml             the grid as it was given
      ablation.json         the cells: names, rows of the table, places on the axes, experiments
      cells/<cell>/         a run folder each (mmser.train.folder)
      failed.csv            cells that could not be trained, with the reason; absent where there are none
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.ablate.grid import Cell, Grid
from mmser.cache.schema import MANIFEST_FILE
from mmser.errors import ProtocolError
from mmser.files import name_of
from mmser.train.folder import changes, is_whole, write_csv, write_json, write_text
from mmser.train.members import settled_like
from mmser.train.runs import read_json

FORMAT = 1
"""Version of ``ablation.json``."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def cell_folder(folder: Path, name: str) -> Path:
    """The run folder of a cell.

    Raises:
        ProtocolError: a name that could lead elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise ProtocolError(f"cell {name!r}: expected letters, digits and . _ + -, the first a letter or digit")
    return folder / "cells" / name


def check_same(folder: Path, grid: Grid, cache: Path) -> None:
    """Raise ProtocolError where the folder holds an ablation of another cache, or cells trained otherwise.

    New cells may come to it, and old ones be left out.
    """
    path = folder / "ablation.json"
    for name, what in {"config.json": "a run", MANIFEST_FILE: "a cache"}.items():
        if (folder / name).exists():
            raise ProtocolError(f"{folder} is the folder of {what} (it holds {name}); give another --out")
    if not path.exists():
        return
    stored = read_json(path)
    if stored.get("cache") != name_of(cache):
        raise ProtocolError(
            f"{folder} holds an ablation of cache {stored.get('cache')!r}, not {name_of(cache)!r}; give another --out"
        )
    try:
        before = {cell["name"]: dict(cell["experiment"]) for cell in stored["cells"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"{path}: not what mmser ablate writes ({error!r}); give another --out") from error
    for cell in grid.cells:
        begun = any((cell_folder(folder, cell.name) / "heads").glob("*/config.json"))
        if not begun or cell.name not in before:
            continue
        changed = changes(settled_like(before[cell.name], cell.experiment), _as_json(cell.experiment))
        if changed:
            raise ProtocolError(
                f"{folder}: cell {cell.name!r} was trained otherwise: {'; '.join(changed)}. Give another --out, or "
                f"delete {cell_folder(folder, cell.name)}"
            )


def write_ablation(folder: Path, grid: Grid, cache: Path, command: str) -> None:
    """Write down what is to be trained."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "grid.toml", grid.text)
    facts = {
        "format": FORMAT,
        "name": folder.resolve().name,
        "cache": name_of(cache),
        "command": command,
        "baseline": grid.baseline,
        "axes": grid.axes,
        "cells": [_described(cell) for cell in grid.cells],
    }
    write_json(folder / "ablation.json", facts)


def _described(cell: Cell) -> dict[str, Any]:
    return {"name": cell.name, "row": cell.row, "axes": cell.axes, "experiment": _as_json(cell.experiment)}


def _as_json(experiment: Any) -> dict[str, Any]:
    return dict(json.loads(json.dumps(asdict(experiment))))


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Say which cells could not be trained; where there are none, the file goes."""
    path = folder / "failed.csv"
    if failures:
        write_csv(pd.DataFrame({"cell": list(failures), "reason": list(failures.values())}), path)
    else:
        path.unlink(missing_ok=True)


def trained_heads(folder: Path, cells: Sequence[Cell]) -> dict[str, Path]:
    """Folders of the heads that cells have trained, by what their weights follow from."""
    found = {}
    for cell in cells:
        for path in sorted((cell_folder(folder, cell.name) / "heads").glob("*/config.json")):
            made_of = read_json(path).get("made_of")
            if isinstance(made_of, str) and is_whole(path.parent):
                found[made_of] = path.parent
    return found
