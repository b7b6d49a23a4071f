"""The files of a stream's folder: what made it, what is planned, and its shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmser.cache.json_files import read_json, write_json
from mmser.cache.schema import PLAN_FILE, RECIPE_FILE, SCHEMA, SHARD_NAME
from mmser.errors import CacheError


@dataclass(frozen=True)
class Unit:
    """A shard as planned: its number and its utterances, in order."""

    number: int
    utterance_ids: tuple[str, ...]


def read_plan(folder: Path) -> list[Unit]:
    """The plan of a stream; empty where none was made."""
    path = folder / PLAN_FILE
    if not path.exists():
        return []
    return parse_plan(read_json(path), str(path))


def parse_plan(plan: Mapping[str, Any], where: str) -> list[Unit]:
    """The units that a ``plan.json`` names.

    Raises:
        CacheError: not a plan.
    """
    units = plan.get("shards", [])
    try:
        return [Unit(int(unit["shard"]), tuple(map(str, unit["utterances"]))) for unit in units]
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{where}: not a plan of mmser ({error}); delete it, and the rest is planned anew") from error


def write_plan(folder: Path, units: Sequence[Unit]) -> None:
    """Replace the plan of a stream."""
    shards = [{"shard": unit.number, "utterances": unit.utterance_ids} for unit in units]
    write_json(folder / PLAN_FILE, {"shards": shards})


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a stream, oldest first."""
    return sorted(path for path in folder.glob("*.h5") if SHARD_NAME.fullmatch(path.name))


def is_headless(folder: Path) -> bool:
    """Whether a folder holds a stream that has lost its ``stream.json``."""
    return not (folder / RECIPE_FILE).is_file() and ((folder / PLAN_FILE).is_file() or bool(shard_paths(folder)))


def headless(folder: Path) -> str:
    """What to tell of such a folder."""
    return (
        f"{folder / RECIPE_FILE}: not there, but the stream's plan or shards are; nobody can say what made them: put a "
        "copy of the file back, or delete the folder and extract again"
    )


def read_head(folder: Path) -> dict[str, Any]:
    """What made a stream: its recipe and its provenance.

    Raises:
        CacheError: missing, damaged, or of another schema.
    """
    head = read_json(folder / RECIPE_FILE)
    check_head(head, str(folder / RECIPE_FILE))
    return head


def check_head(head: Mapping[str, Any], where: str) -> None:
    """Refuse a ``stream.json`` that no writer of this schema wrote.

    Raises:
        CacheError: another schema, or a recipe that is none.
    """
    if head.get("schema") != SCHEMA:
        raise CacheError(
            f"{where}: cache schema {head.get('schema')}, this mmser reads {SCHEMA}; "
            "extract again, or use the mmser that wrote it"
        )
    recipe = head.get("recipe", {})
    if not isinstance(recipe, dict) or not isinstance(head.get("provenance", {}), dict):
        raise CacheError(f"{where}: its recipe and provenance are no JSON objects; not written by mmser")
    layers = recipe.get("layers", [])
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise CacheError(f"{where}: its layers are {layers!r}, expected a list of whole numbers")
