"""How fast a cache opens and reads, beside one ``.npy`` an utterance and one big pickle.

    python benchmarks/cache.py
    python benchmarks/cache.py --utterances 20000 --dim 768

Two synthetic corpora: a wide one (many utterances, narrow states) for opening and ``mmser cache info``, and a deep one
(fewer utterances, states of real width) for reading. Every contestant runs in a process of its own; repetitions are
interleaved and medians printed. "Cold" means that the files' pages were dropped from the page cache by
``posix_fadvise`` just before, which the kernel may refuse in part; "warm" means that they had just been read.
Nothing here has to do with real speech: word states are random numbers.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmser.cache import Cache, Column, StreamWriter

STREAM = "pooled/synthetic@none"
LAYERS = 3
BATCH = 32


def make(folder: Path, utterances: int, words: int, dim: int) -> list[str]:
    """Write a cache of word states, and a manifest; returns the ids."""
    ids = [f"synthetic_{i:07d}" for i in range(utterances)]
    rng = np.random.default_rng(0)
    lengths = dict(zip(ids, rng.integers(1, 2 * words, size=utterances).tolist(), strict=True))
    with StreamWriter(folder, STREAM, {"layers": list(range(LAYERS))}, {}) as writer:
        budget = 256e6 / (LAYERS * dim * 2)
        for unit in writer.plan({uid: float(n) for uid, n in lengths.items()}, budget):
            rows = [lengths[uid] for uid in unit.utterance_ids]
            columns = {"states": Column("<f2", LAYERS, dim), "segment": Column("<i4")}
            digests = {"audio": ["0" * 64] * len(rows)}
            with writer.shard(unit.number, unit.utterance_ids, digests, {"word": (rows, columns)}) as shard:
                shard.put("word", "states", 0, rng.standard_normal((LAYERS, sum(rows), dim), np.float32).astype("f2"))
                shard.put("word", "segment", 0, np.concatenate([np.arange(n, dtype="i4") for n in rows]))
                shard.commit()
    lines = ["utterance_id,audio,label", *(f"{uid},none.wav,{'ab'[i % 2]}" for i, uid in enumerate(ids))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ids


def make_rivals(cache: Path, folder: Path, ids: list[str]) -> None:
    """The same layer as one ``.npy`` an utterance, one pickle of a dict, and one plain file."""
    (folder / "npy").mkdir()
    packed = Cache(cache).stream(STREAM).packed("word", layers=1)
    states = {uid: packed.of(uid)[0].copy() for uid in ids}
    for uid, part in states.items():
        np.save(folder / "npy" / f"{uid}.npy", part)
    with (folder / "all.pkl").open("wb") as file:
        pickle.dump(states, file, protocol=4)
    packed.values.tofile(folder / "plain.bin")
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


def read_plain(folder: Path) -> int:
    """One layer as one plain file."""
    return np.fromfile(folder / "plain.bin", "f2").nbytes


def read_mmser(folder: Path) -> int:
    """One layer from the cache, in the order of the shards."""
    return Cache(folder / "deep").stream(STREAM).packed("word", layers=1).values.nbytes


def read_mmser_in_manifest_order(folder: Path) -> int:
    """One layer from the cache, in the order of the manifest."""
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return Cache(folder / "deep").stream(STREAM).packed("word", layers=1, utterances=ids).values.nbytes


def read_npy(folder: Path) -> int:
    """One layer from a file an utterance."""
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return np.concatenate([np.load(folder / "npy" / f"{uid}.npy") for uid in ids]).nbytes


def read_pickle(folder: Path) -> int:
    """One layer from one pickle."""
    with (folder / "all.pkl").open("rb") as file:
        return np.concatenate(list(pickle.load(file).values())).nbytes


def batch_mmser(folder: Path) -> int:
    """The first batch of utterances, from nothing."""
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))[:BATCH]
    return Cache(folder / "deep").stream(STREAM).packed("word", layers=1, utterances=ids).values.nbytes


def batch_npy(folder: Path) -> int:
    """The first batch from a file an utterance, found as EmoBox's readers find theirs: by the list of ids."""
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))[:BATCH]
    return np.concatenate([np.load(folder / "npy" / f"{uid}.npy") for uid in ids]).nbytes


def batch_pickle(folder: Path) -> int:
    """The first batch from one pickle, which has to be read whole."""
    with (folder / "all.pkl").open("rb") as file:
        states = pickle.load(file)
    return np.concatenate([states[uid] for uid in list(states)[:BATCH]]).nbytes


def open_wide(folder: Path) -> int:
    """Open every stream of the wide cache and count its utterances."""
    return sum(len(stream) for stream in Cache(folder / "wide").streams.values())


TASKS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "open": ("wide", open_wide),
    "layer, plain file": ("plain.bin", read_plain),
    "layer, mmser": ("deep", read_mmser),
    "layer, mmser, manifest order": ("deep", read_mmser_in_manifest_order),
    "layer, one .npy an utterance": ("npy", read_npy),
    "layer, one pickle": ("all.pkl", read_pickle),
    "first batch, mmser": ("deep", batch_mmser),
    "first batch, one .npy an utterance": ("npy", batch_npy),
    "first batch, one pickle": ("all.pkl", batch_pickle),
}


def peak_mb() -> float:
    """Peak resident memory of this process, MB (10^6 bytes); getrusage would give that of its parent, if larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def run_task(name: str, folder: Path) -> None:
    """In a process of its own: seconds of one task, and the memory it added."""
    before, began = peak_mb(), time.perf_counter()
    num_bytes = TASKS[name][1](folder)
    print(json.dumps({"s": time.perf_counter() - began, "bytes": num_bytes, "mb": peak_mb() - before}))


def drop_pages(path: Path) -> None:
    """Ask the kernel to forget the pages of a file or folder."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def measured(name: str, folder: Path) -> dict[str, float]:
    """One task in a new process."""
    answer = subprocess.run(
        [sys.executable, __file__, "--task", name, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


def info_seconds(folder: Path) -> float:
    """The whole of ``mmser cache info``, as a user waits for it."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmser", "cache", "info", str(folder)], capture_output=True, check=True)
    return time.perf_counter() - began


def size_on_disk(path: Path) -> int:
    """Bytes that the files occupy, in blocks as the file system gives them."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def compare(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Every task, cold and warm, the repetitions interleaved; medians."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(repeats):
        for name, (files, _) in TASKS.items():
            drop_pages(folder / files)
            found.setdefault(f"{name} (cold)", []).append(measured(name, folder))
            measured(name, folder)  # not counted: from here on it is warm, whatever the cold one left behind
            found.setdefault(f"{name} (warm)", []).append(measured(name, folder))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in ("s", "bytes", "mb")}
        for name, runs in found.items()
    }


def main() -> None:
    """Parse, make the corpora, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", type=int, default=200_000, help="utterances of the wide corpus (8 dimensions)")
    parser.add_argument("--utterances", type=int, default=20_000, help="utterances of the deep corpus")
    parser.add_argument("--words", type=int, default=10, help="words of an utterance, about")
    parser.add_argument("--dim", type=int, default=768, help="dimensions of the deep corpus")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=list(TASKS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        run_task(asked.task, asked.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "wide", asked.wide, asked.words, 8)
        ids = make(folder / "deep", asked.utterances, asked.words, asked.dim)
        make_rivals(folder / "deep", folder, ids)
        os.sync()  # pages that are not on the disk yet cannot be dropped
        figures = compare(folder, asked.repeats)
        info = statistics.median(info_seconds(folder / "wide") for _ in range(asked.repeats))
        sizes = {kind: size_on_disk(folder / kind) for kind in ("plain.bin", "npy", "all.pkl", "deep")}
    print(f"{asked.wide} utterances: mmser cache info, the whole process: {info:.2f} s")
    print(f"{asked.utterances} utterances, some {asked.words} words, {asked.dim} dimensions, one layer of {LAYERS}, f2")
    print(f"{'':42} {'s':>8} {'MB/s':>8} {'memory, MB':>11}")
    for task, run in figures.items():
        rate = f"{run['bytes'] / run['s'] / 1e6:8.0f}" if run["bytes"] > 1e6 else " " * 8
        print(f"{task:42} {run['s']:8.3f} {rate} {run['mb']:11.0f}")
    ratios = {
        kind: figures[f"layer, plain file ({kind})"]["s"] / figures[f"layer, mmser ({kind})"]["s"]
        for kind in ("cold", "warm")
    }
    print(f"rate of a layer as a share of the plain file's: cold {ratios['cold']:.0%}, warm {ratios['warm']:.0%}")
    print(
        f"on disk, MB: {', '.join(f'{kind} {size / 1e6:.0f}' for kind, size in sizes.items())} (deep: {LAYERS} layers)"
    )
    print(json.dumps({"info_s": info, "figures": figures, "ratios": ratios, "sizes": sizes}))


if __name__ == "__main__":
    main()
