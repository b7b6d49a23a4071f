"""Peak memory of two extractions, the second of ten times the utterances. Run as a script; prints one JSON object.

Each is a fork of a process in which torch is imported and has never computed, so that both begin alike.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

import mmser.extract.speech_stream
import mmser.extract.text_stream
from mmser.extract.options import Extraction
from mmser.extract.run import extract
from mmser.manifest import Manifest, read_manifest, write_manifest
from mmser.units import SAMPLE_RATE

SECONDS = 0.5


def make_corpus(folder: Path, number: int) -> Path:
    """Utterances that are parts of one recording."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, round(SECONDS * SAMPLE_RATE * number))
    soundfile.write(folder / "noise.wav", noise, SAMPLE_RATE)
    starts = SECONDS * np.arange(number)
    rows = {
        "utterance_id": [f"u{i}" for i in range(number)],
        "audio": ["noise.wav"] * number,
        "start_s": starts,
        "end_s": starts + SECONDS,
        "text": ["the door is open again"] * number,
    }
    write_manifest(Manifest(pd.DataFrame(rows), folder), folder / "corpus.csv")
    return folder / "corpus.csv"


def peak_kilobytes(folder: Path, number: int) -> int:
    """Peak resident memory of an extraction of so many utterances, in shards of 50 of them."""
    folder.mkdir()
    manifest = make_corpus(folder, number)
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            mmser.extract.speech_stream.SHARD_SECONDS = 50 * SECONDS
            mmser.extract.text_stream.SHARD_BYTES = 50 * 8 * 192 * 2
            options = Extraction(
                speech_model="builtin:tiny",
                text_model="builtin:tiny",
                keep=("frame", "utterance"),
                device="cpu",
                jobs=2,
            )
            summary = extract(read_manifest(manifest), folder / "cache", options)
            assert set(summary.added.values()) == {number}
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    _, status, usage = os.wait4(child, 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0, "an extraction failed"
    return usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)


if __name__ == "__main__":
    base, few = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps([peak_kilobytes(base / str(number), number) for number in (few, 10 * few)]))
