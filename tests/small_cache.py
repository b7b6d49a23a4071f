"""A cache that is made in milliseconds, with the emotion planted in known states. Shared by tests of stage 2."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.cache import Column, StreamWriter
from mmser.manifest import Manifest, read_manifest, write_manifest

SPEAKERS = ("s1", "s2", "s3", "s4", "s5", "s10")
LABELS = ("angry", "happy", "sad")
PER_CELL = 3
"""Utterances of each speaker and class."""

FRAMES, POOLED, TEXT = "speech/toy", "pooled/toy@hand", "text/toy"
LAYERS, TEXT_LAYERS = [0, 4, 9], [1, 2]
DIM, TEXT_DIM = 6, 5
FRAMES_RECIPE = {"layers": LAYERS, "hop": 320, "field": 400}

Edit = Callable[[str, str, NDArray], NDArray]
"""From utterance, granularity and states to the states that are stored."""


def make_rows() -> pd.DataFrame:
    """54 utterances, in an order that is neither that of their lengths nor that of their names."""
    rows = [
        {
            "utterance_id": f"{speaker}_{label}_{take}",
            "audio": "none.wav",
            "speaker": speaker,
            "session": f"Ses{1 + SPEAKERS.index(speaker) // 2}",
            "split": ("Train", "Train", "Train", "dev", "Test1", "Test2")[SPEAKERS.index(speaker)],
            "label": label,
        }
        for take in range(PER_CELL)
        for label in LABELS
        for speaker in SPEAKERS
    ]
    return pd.DataFrame(rows)


def num_words(uid: str) -> int:
    """One to five."""
    return 1 + crc32(uid.encode()) % 5


def toy_states(uid: str, granularity: str) -> NDArray[np.float16]:
    """States (layers, rows, dim) that tell their utterance and, in the last layer, the class that its id names."""
    words = num_words(uid)
    num_rows = {"frame": 3 * words + 1, "word": words, "utterance": 1, "token": words + 2}[granularity]
    layers, dim = (len(TEXT_LAYERS), TEXT_DIM) if granularity == "token" else (len(LAYERS), DIM)
    states = np.random.default_rng(crc32(f"{uid}/{granularity}".encode())).normal(size=(layers, num_rows, dim))
    states[-1, :, LABELS.index(uid.split("_")[1])] += 3.0
    if granularity == "token":
        states[:, [0, -1]] = 1000.0  # special tokens: who reads them, notices
    return states.astype(np.float16)


def write_cache(
    folder: Path,
    rows: pd.DataFrame | None = None,
    *,
    absent: Mapping[str, Collection[str]] | None = None,
    wordless: Collection[str] = (),
    edit: Edit = lambda _uid, _granularity, states: states,
) -> Path:
    """Write frames, pooled words and utterances, tokens, and the manifest.

    Args:
        folder: the cache.
        rows: the manifest; None: :func:`make_rows`.
        absent: utterances that a stream lacks, by stream.
        wordless: utterances without words and without tokens but the special ones.
        edit: changes states before they are stored.
    """
    rows = make_rows() if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(Manifest(rows, folder), folder / "manifest.csv")
    streams = {FRAMES: ("frame",), POOLED: ("word", "utterance"), TEXT: ("token",)}
    for name, granularities in streams.items():
        ids = [uid for uid in rows["utterance_id"] if uid not in (absent or {}).get(name, ())]
        write_stream(folder, name, granularities, ids, wordless, edit)
    return folder


def write_stream(
    folder: Path,
    name: str,
    granularities: Collection[str],
    ids: list[str],
    wordless: Collection[str] = (),
    edit: Edit = lambda _uid, _granularity, states: states,
) -> None:
    """Write (or go on writing) one stream, the longest utterances first, some 15 a shard."""

    def stored(uid: str, granularity: str) -> NDArray:
        states = edit(uid, granularity, toy_states(uid, granularity))
        if uid in wordless:
            return {"word": states[:, :0], "token": states[:, [0, -1]]}.get(granularity, states)
        return states

    layers, dim = (TEXT_LAYERS, TEXT_DIM) if name == TEXT else (LAYERS, DIM)
    recipe = FRAMES_RECIPE if name.startswith("speech/") else {"layers": layers}
    with StreamWriter(folder, name, recipe, {}) as writer:
        for unit in writer.plan({uid: float(num_words(uid)) for uid in ids}, 45.0):
            parts = {g: [stored(uid, g) for uid in unit.utterance_ids] for g in granularities}
            integers = {"token": ("token_id", "start", "end", "word"), "word": ("segment",)}
            tables = {
                g: (
                    [part.shape[1] for part in own],
                    {"states": Column("<f2", len(layers), dim), **{c: Column("<i4") for c in integers.get(g, ())}},
                )
                for g, own in parts.items()
            }
            with writer.shard(unit.number, unit.utterance_ids, {}, tables) as shard:
                for g, own in parts.items():
                    for i, part in enumerate(own):
                        shard.put(g, "states", i, part)
                        for column in integers.get(g, ()):
                            shard.put(g, column, i, _integers(column, part.shape[1]))
                shard.commit()


def _integers(column: str, num_rows: int) -> NDArray[np.int32]:
    places = np.arange(num_rows, dtype=np.int32)
    if column in ("start", "end", "word"):
        places[[0, -1]] = -1
    return places


def edit_manifest(cache: Path, change: Callable[[pd.DataFrame], None]) -> None:
    """Change the table of a cache's manifest in place."""
    table = read_manifest(cache / "manifest.csv").table.copy()
    change(table)
    write_manifest(Manifest(table, cache), cache / "manifest.csv")


def add_stream(folder: Path, name: str, frames: Callable[[str], dict[str, NDArray[np.float32]]]) -> None:
    """Write a stream of one layer: ``frames`` says the states of an utterance by granularity, (N, D) each."""
    ids = list(make_rows()["utterance_id"])
    with StreamWriter(folder, name, {**FRAMES_RECIPE, "layers": [0]}, {}) as writer:
        for unit in writer.plan(dict.fromkeys(ids, 1.0), 20.0):
            found = [frames(uid) for uid in unit.utterance_ids]
            tables = {
                granularity: ([len(own[granularity]) for own in found], {"states": Column("<f2", 1, values.shape[1])})
                for granularity, values in found[0].items()
            }
            with writer.shard(unit.number, unit.utterance_ids, {}, tables) as shard:
                for place, own in enumerate(found):
                    for granularity, values in own.items():
                        shard.put(granularity, "states", place, values[None].astype(np.float16))
                shard.commit()
