"""Run folders: which folders are, and the JSON files in them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmser.errors import ProtocolError

BOTH_ANEW = "delete the run's summary.json and run the same command again, which writes both anew"
"""What to do about a table that is damaged."""


def find_runs(root: Path) -> list[Path]:
    """Run folders at or below ``root``, sorted, those of which a file is damaged too.

    Raises:
        ProtocolError: there is no such folder.
    """
    if not root.is_dir():
        raise ProtocolError(f"{root}: no such folder; run folders are written by mmser train-head")
    return sorted(path.parent for path in root.rglob("config.json") if is_run(path.parent))


def is_run(folder: Path) -> bool:
    """Whether a folder that has a ``config.json`` is that of a run: models and heads have such a file too."""
    if folder.parent.name == "heads" and (folder.parent.parent / "config.json").exists():
        return False  # a head of a run; there are many, so they are not read
    # a run whose config is damaged is one still, by what else it has: who reads it next says what is damaged
    with suppress(ProtocolError):
        if "experiment" in read_json(folder / "config.json"):
            return True
    return (folder / "summary.json").exists() or any(folder.glob("heads/*/config.json"))


def read_json(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """A JSON object of a run folder.

    Args:
        path: the file.
        remedy: what to do where it is damaged.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProtocolError(f"{path}: no such file; expected the folder of a finished mmser train-head") from None
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path}: not readable as JSON ({error}){end}") from error
    if not isinstance(found, dict):
        raise ProtocolError(f"{path}: expected a JSON object{end}")
    return found
