"""Writing a stream: one writer at a time, a plan made before work starts, shards that appear whole."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from mmser.cache.json_files import write_json
from mmser.cache.schema import PLAN_FILE, RECIPE_FILE, SCHEMA, Column, check_stream_name
from mmser.cache.shard_writer import ShardWriter
from mmser.cache.stream import Stream
from mmser.cache.stream_files import Unit, headless, is_headless, read_head, read_plan, shard_paths, write_plan
from mmser.errors import CacheError
from mmser.files import alone, sweep

MAX_UTTERANCES = 4096
"""A shard's utterances at most: a shard is the unit of work that a kill can cost."""


def cut(costs: Mapping[str, float], budget: float) -> list[tuple[str, ...]]:
    """Utterances into shards: longest first, so that batches are of like lengths and memory peaks at the start.

    A pure function of ids and costs: every machine that plans, plans the same.

    >>> cut({"a": 1.0, "b": 5.0, "c": 2.0}, budget=5.0)
    [('b',), ('c', 'a')]
    """
    shards: list[tuple[str, ...]] = []
    here: list[str] = []
    filled = 0.0
    for uid in sorted(costs, key=lambda u: (-costs[u], u)):
        if here and (filled + costs[uid] > budget or len(here) == MAX_UTTERANCES):
            shards.append(tuple(here))
            here, filled = [], 0.0
        here.append(uid)
        filled += costs[uid]
    return [*shards, tuple(here)] if here else shards


class StreamWriter:
    """The one writer of a stream, from ``with`` to its end.

    Args:
        cache: the cache's folder.
        name: the stream, e.g. ``"text/bert-base-uncased"``.
        recipe: everything that decides the stream's content. A stream is made by one recipe.
        provenance: what is good to know besides (versions, machine); the first writer's is kept.

    Raises:
        CacheError: another writer is at work, or the stream was made by another recipe (names the difference) or by one
            that is lost.
    """

    def __init__(self, cache: Path, name: str, recipe: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        check_stream_name(name)
        self.name, self.folder = name, cache / name
        # As JSON gives it back, so that a tuple and a list are no difference.
        self._recipe = json.loads(json.dumps(recipe))
        self._provenance = dict(provenance)
        self._held: ExitStack
        self.stream: Stream

    def __enter__(self) -> "StreamWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder}: another mmser is writing this stream; wait for it to end, or stop it first"
        with ExitStack() as stack:
            stack.enter_context(alone(self.folder / ".lock", CacheError(busy)))
            sweep(self.folder, "*")
            self._settle_recipe()
            self.stream = Stream.open(self.folder, self.name)
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # Stopped before any work was planned, as by the recipe of a sister stream: no empty stream is left behind.
        if error is not None and not (self.folder / PLAN_FILE).exists() and not shard_paths(self.folder):
            (self.folder / RECIPE_FILE).unlink(missing_ok=True)
        self._held.close()

    def _settle_recipe(self) -> None:
        path = self.folder / RECIPE_FILE
        if not path.exists():
            if is_headless(self.folder):  # a new recipe would claim what another may have made
                raise CacheError(headless(self.folder))
            head = {"schema": SCHEMA, "stream": self.name, "recipe": self._recipe, "provenance": self._provenance}
            write_json(path, head)
            return
        stored = read_head(self.folder).get("recipe", {})
        differences = difference(stored, self._recipe)
        if differences:
            raise CacheError(
                f"{self.folder} was made by another recipe: {'; '.join(differences)}. "
                "Use the same settings, another cache, or delete this stream"
            )

    def plan(self, costs: Mapping[str, float], budget: float, redo: Sequence[str] = ()) -> list[Unit]:
        """The shards still to be made, planned before and after a kill alike.

        Args:
            costs: every utterance wanted, with its cost (seconds, bytes, characters: as the budget).
            budget: cost of a shard at most (one utterance alone may exceed it).
            redo: utterances to make again although a shard holds them; the newest shard wins.
        """
        present = {shard.number for shard in self.stream.shards}
        units = read_plan(self.folder)
        # A planned shard that needs an utterance no longer wanted is given up; the rest of it is planned anew.
        kept = [u for u in units if u.number in present or all(uid in costs for uid in u.utterance_ids)]
        open_units = [u for u in kept if u.number not in present]
        planned = {uid for u in open_units for uid in u.utterance_ids}
        again = set(redo)
        pending = {
            uid: cost for uid, cost in costs.items() if uid not in planned and (uid in again or uid not in self.stream)
        }
        number = max([-1, *present, *(u.number for u in units)]) + 1
        fresh = [Unit(number + i, ids) for i, ids in enumerate(cut(pending, budget))]
        if fresh or kept != units:
            write_plan(self.folder, [*kept, *fresh])
        return [*open_units, *fresh]

    def shard(
        self,
        number: int,
        utterance_ids: Sequence[str],
        digests: Mapping[str, Sequence[str]],
        tables: Mapping[str, tuple[Sequence[int], Mapping[str, Column]]],
    ) -> ShardWriter:
        """Begin a shard of the plan (see :class:`mmser.cache.shard_writer.ShardWriter`)."""
        return ShardWriter(self.folder, number, self.name, utterance_ids, digests, tables)


def difference(stored: object, asked: object, at: str = "") -> list[str]:
    """What differs between two recipes, one phrase each.

    >>> difference({"layers": [1], "pooling": "mean"}, {"layers": [1], "pooling": "max"})
    ["pooling was 'mean', now 'max'"]
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = [*stored, *(key for key in asked if key not in stored)]
        return [
            phrase
            for key in keys
            for phrase in difference(stored.get(key), asked.get(key), f"{at}.{key}" if at else str(key))
        ]
    return [] if stored == asked else [f"{at} was {stored!r}, now {asked!r}"]
