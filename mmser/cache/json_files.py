"""The JSON files of a cache, read without trust and replaced whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmser.cache.shard import sync_folder
from mmser.errors import CacheError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the cache.

    Raises:
        CacheError: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CacheError(f"{path}: not found; is {path.parent} a cache of mmser?") from error
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CacheError(f"{path}: expected a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old one or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
