"""Where a report's figures come from: the utterances, the cache's streams, and the commands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmser.report.examine import Dataset, Examined
from mmser.report.read import Row
from mmser.train.command import command_of, unsaid


@dataclass(frozen=True)
class Tested:
    """Rows that were tested on the same utterances, and what those are."""

    labels: tuple[str, ...]
    """Of the rows."""
    dataset: Dataset
    left_out: Mapping[str, int]
    """Utterances that could not be used, by reason."""
    kept: Mapping[str, int]
    """Utterances that lack some states and were kept, by reason."""


@dataclass(frozen=True)
class Source:
    """A stream that heads read."""

    cache: str
    name: str
    shards: tuple[str, ...]
    """Their names hold the digests of their content."""
    recipe: str
    """As JSON, for people; "" where the run folder does not have it."""
    provenance: str
    """Likewise."""


@dataclass(frozen=True)
class Made:
    """How a run folder was made."""

    label: str
    command: str
    besides: str
    """What was set from Python and no option can say; "" where nothing was."""
    notes: tuple[str, ...]
    """What the training had to say."""


def tested_on(examined: Sequence[Examined]) -> list[Tested]:
    """The rows by what they were tested on."""
    groups: dict[str, list[Examined]] = {}
    for one in examined:
        about = (one.dataset.classes, one.dataset.speakers, one.row.summary["left_out"], one.row.summary["kept"])
        groups.setdefault(json.dumps((one.dataset.num_utterances, *map(dict, about))), []).append(one)
    return [
        Tested(
            tuple(one.row.label for one in own),
            own[0].dataset,
            own[0].row.summary["left_out"],
            own[0].row.summary["kept"],
        )
        for own in groups.values()
    ]


def sources_of(rows: Sequence[Row]) -> list[Source]:
    """Every stream that a row's heads read, once for each state of it."""
    found: dict[tuple[str, str, tuple[str, ...]], Source] = {}
    for row in rows:
        for name, shards in row.config["shards"].items():
            cache, about = row.config["cache"], row.config.get("streams", {}).get(name, {})
            recipe, provenance = (_shown(about.get(part)) for part in ("recipe", "provenance"))
            found[cache, name, tuple(shards)] = Source(cache, name, tuple(shards), recipe, provenance)
    return list(found.values())


def _shown(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) if value else ""


def made_by(rows: Sequence[Row]) -> list[Made]:
    """The command of each run folder. Of the cache only its name is known; by habit it lies in ``cache/``."""
    return [
        Made(
            label=row.label,
            command=command_of(row.experiment, Path("cache", row.config["cache"])),
            besides=", ".join(f"{name} {value}" for name, value in unsaid(row.experiment).items()),
            notes=tuple(row.summary["notes"]),
        )
        for row in rows
        if not row.is_member
    ]
