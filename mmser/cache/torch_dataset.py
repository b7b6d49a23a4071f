"""A stream as a torch dataset. Only this module of the cache imports torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mmser.cache.arrays import select
from mmser.cache.schema import STATES
from mmser.cache.stream import Stream
from mmser.errors import CacheError
from mmser.manifest import Manifest


class UtteranceDataset(Dataset[dict[str, Any]]):
    """One item an utterance: ``utterance_id``, ``states`` and, where a label column was named, ``label``.

    It holds where the data lie, not the data nor a handle, so that it can be sent to any number of workers, forked or
    spawned, while an extraction goes on; utterances written after it was made are not in it.

    Args:
        stream: where from.
        manifest: the utterances.
        granularity: e.g. ``"frame"``.
        layer: one layer for states (rows, dim); several or None (all) for (layers, rows, dim).
        utterances: ids, in this order; None for all that the manifest and the stream hold.
        label: a column whose values are the classes; None for items without a label.

    Raises:
        CacheError: the granularity, a layer or an utterance is not in the stream, or nothing is labelled.
        ManifestError: no such column.
    """

    def __init__(
        self,
        stream: Stream,
        manifest: Manifest,
        granularity: str,
        layer: int | Sequence[int] | None,
        utterances: Sequence[str] | None,
        label: str | None,
    ) -> None:
        chosen = select(stream, manifest, utterances)
        self.labels: tuple[str, ...] = ()
        """The classes, sorted: an item's ``label`` is a place in them."""
        self._truth: list[int] = []
        if label is not None:
            chosen = chosen.select(chosen.column(label).astype(str) != "")
            if not len(chosen):
                raise CacheError(f"{stream.folder}: no utterance of it has a {label!r} in the manifest")
            values = [str(value) for value in chosen.column(label)]
            self.labels = tuple(sorted(set(values)))
            place = {value: i for i, value in enumerate(self.labels)}
            self._truth = [place[value] for value in values]
        self.utterance_ids = chosen.ids
        self._name, self._one = f"{granularity}/{STATES}", isinstance(layer, int)
        self._layers = stream.layer_places(granularity, layer)
        shards, places = stream.located(self.utterance_ids)
        self._shards, self._of = stream.shards, shards
        self._first, self._past = np.zeros(len(shards), np.int64), np.zeros(len(shards), np.int64)
        for s in np.unique(shards).tolist():
            here, rows = shards == s, stream.shards[s].offsets(granularity)
            self._first[here], self._past[here] = rows[places[here]], rows[places[here] + 1]

    def __len__(self) -> int:
        return len(self.utterance_ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        shard, first = self._shards[self._of[i]], int(self._first[i])
        place = shard.places[self._name]
        states = np.empty((len(self._layers), int(self._past[i]) - first, place.shape[2]), place.dtype)
        for out, layer in enumerate(self._layers):
            shard.read(self._name, layer, first, states[out])
        tensor = torch.from_numpy(states[0] if self._one else states).float()
        item = {"utterance_id": self.utterance_ids[i], "states": tensor}
        return {**item, "label": self._truth[i]} if self.labels else item


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pad the items of an :class:`UtteranceDataset` into one batch, for ``DataLoader(..., collate_fn=collate)``.

    Returns:
        ``utterance_id`` (list of B), ``states`` (B, ..., T, dim) with zeros behind the end, ``mask`` (B, T), true where
        there are rows, and ``label`` (B,) where the items have one. T is the longest of the batch, at least 1.
    """
    lengths = [item["states"].shape[-2] for item in items]
    longest = max([1, *lengths])
    states = [
        torch.nn.functional.pad(item["states"], (0, 0, 0, longest - n)) for item, n in zip(items, lengths, strict=True)
    ]
    batch = {
        "utterance_id": [item["utterance_id"] for item in items],
        "states": torch.stack(states),
        "mask": torch.arange(longest) < torch.tensor(lengths)[:, None],
    }
    return {**batch, "label": torch.tensor([item["label"] for item in items])} if "label" in items[0] else batch
