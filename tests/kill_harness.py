"""Kills an extraction at random moments until it has died often enough, and says what it left. Run as a script.

A process of its own, in which torch is imported and has never computed, forks each victim: an attempt costs no imports.
Prints one JSON object.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from small_corpus import run, shards

import mmser.extract.align_stream
import mmser.extract.speech_stream
import mmser.extract.text_stream
from mmser.cache import Cache
from mmser.cache.shard import check_file

ALL = ("frame", "phone", "syllable", "word", "utterance")


def extract(corpus: Path, cache: Path) -> None:
    """One attempt, of a dozen shards."""
    torch.set_num_threads(1)
    mmser.extract.align_stream.SHARD_SECONDS = mmser.extract.speech_stream.SHARD_SECONDS = 1.3
    mmser.extract.text_stream.SHARD_BYTES = 10 * 192 * 2
    run(corpus, cache, keep=ALL, batch_seconds=1.0)


def attempt(corpus: Path, cache: Path, seconds: float | None) -> bool:
    """Whether an attempt came to its end before it was killed."""
    child = os.fork()
    if child == 0:
        try:
            extract(corpus, cache)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "an attempt failed by itself"
    return not os.WIFSIGNALED(status)


def main(corpus: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill, look, go on; a finished cache is compared, and the next one begun."""
    chance = random.Random(seed)
    began = time.monotonic()
    attempt(corpus, folder / "undisturbed", None)
    whole = time.monotonic() - began
    expected = shards(folder / "undisturbed")
    killed, finished, left = 0, 0, set()
    while killed < kills or finished == 0:
        cache = folder / f"cache{finished}"
        # The last caches are finished in peace, so that every kill is followed by an end.
        if attempt(corpus, cache, chance.uniform(0, whole) if killed < kills else None):
            assert shards(cache) == expected
            assert not list(cache.rglob("*.tmp"))
            assert not (cache / "failed.csv").exists()
            finished += 1
            continue
        killed += 1
        found = [path.relative_to(cache).as_posix() for path in cache.rglob("*.h5")]
        assert set(found) <= set(expected)
        for name in found:
            check_file(cache / name)
        if cache.exists():
            assert sum(len(s) for s in Cache(cache).streams.values()) <= 4 * 6
        left.add(len(found))
    if cache.exists() and shards(cache) != expected:
        assert attempt(corpus, cache, None)
        assert shards(cache) == expected
    print(json.dumps({"killed": killed, "finished": finished, "left": sorted(left), "shards": len(expected)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
