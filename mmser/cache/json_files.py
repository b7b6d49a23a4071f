"""The JSON files of a cache, read without trust and replaced whole.

Each ends with the SHA-256 of its own content, for :func:`check_json`; readers do not insist on it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmser.errors import CacheError
from mmser.files import replacing

_DIGEST = "~sha256"
"""Sorted, it comes last."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the cache.

    Raises:
        CacheError: missing, or not a JSON object.
    """
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise CacheError(f"{path}: not found; is {path.parent} a cache of mmser?") from error
    except OSError as error:
        raise CacheError(f"{path}: not readable ({error})") from error


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from the bytes of such a file, without its digest.

    Raises:
        CacheError: not a JSON object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CacheError(f"{where}: expected a JSON object")
    value.pop(_DIGEST, None)
    return value


def check_json(data: bytes, where: str) -> None:
    """Check every byte of such a file against the digest that it ends with.

    Raises:
        CacheError: it changed since it was written.
    """
    try:
        same = format_json(parse_json(data, where)) == data
    except CacheError:
        same = False
    if not same:
        raise CacheError(f"{where}: changed since it was written; restore it, or delete the stream and extract again")


def format_json(value: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON object with its digest: equal objects give equal bytes."""
    plain = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**value, _DIGEST: digest}, indent=1, ensure_ascii=False, sort_keys=True).encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old one or the new one, never half."""
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(format_json(value))
