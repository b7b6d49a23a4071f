"""Columns of a stream for utterances of which it may lack some."""

from collections.abc import Sequence

import numpy as np

from mmser.cache import PackedColumn, Stream

DESCRIPTORS = "opensmile"
"""The kind of streams that take the place of an encoder's states and have no layers to choose from."""


def stored_column(
    stream: Stream,
    granularity: str,
    column: str,
    utterance_ids: Sequence[str],
    layers: Sequence[int] | int | None = None,
) -> PackedColumn:
    """A column of these utterances; those that the stream lacks own no row of it."""
    there = np.array([uid in stream for uid in utterance_ids], dtype=bool)
    ids = [uid for uid, held in zip(utterance_ids, there, strict=True) if held]
    found = stream.packed(granularity, column, layers=layers, utterances=ids)
    lengths = np.zeros(len(there), dtype=np.int64)
    lengths[there] = np.diff(found.offsets)
    return PackedColumn(tuple(utterance_ids), np.concatenate([[0], np.cumsum(lengths)]), found.values)
