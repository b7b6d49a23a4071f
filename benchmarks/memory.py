"""Peak memory of extraction as a corpus grows: every size in a process of its own, streams and all.

Synthetic utterances of half a second (noise, one file a hundred utterances), built-in encoders, all granularities that
need no alignment, and frames. Peak resident memory is what the operating system says of the ended process. Shards are
small, so that every size fills many of them in every stream: a corpus smaller than a shard needs less memory than one
shard does, and that is no growth.

    python benchmarks/memory.py                        # 200, 2,000: half a minute
    python benchmarks/memory.py --sizes 2000 20000     # some minutes
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from mmser.manifest import Manifest, write_manifest
from mmser.units import SAMPLE_RATE

PER_FILE = 100
SECONDS = 0.5

EXTRACT = """
import resource, sys
from pathlib import Path
import mmser.extract.speech_stream as speech
import mmser.extract.text_stream as text
from mmser.extract.options import Extraction
from mmser.extract.run import extract
from mmser.manifest import read_manifest

speech.SHARD_SECONDS, text.SHARD_TOKENS = float(sys.argv[3]), int(sys.argv[4])
options = Extraction(speech_model="builtin:tiny", text_model="builtin:tiny", keep=("frame", "utterance"), device="cpu")
summary = extract(read_manifest(Path(sys.argv[1])), Path(sys.argv[2]), options)
assert not summary.failures
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def make_corpus(folder: Path, number: int) -> Path:
    """Utterances that are parts of longer recordings."""
    rng = np.random.default_rng(0)
    for i in range(-(-number // PER_FILE)):
        noise = rng.uniform(-0.3, 0.3, round(PER_FILE * SECONDS * SAMPLE_RATE))
        soundfile.write(folder / f"r{i}.wav", noise, SAMPLE_RATE)
    rows = {
        "utterance_id": [f"u{i}" for i in range(number)],
        "audio": [f"r{i // PER_FILE}.wav" for i in range(number)],
        "start_s": [(i % PER_FILE) * SECONDS for i in range(number)],
        "end_s": [(i % PER_FILE + 1) * SECONDS for i in range(number)],
        "text": ["the door is open again"] * number,
    }
    write_manifest(Manifest(pd.DataFrame(rows), folder), folder / "corpus.csv")
    return folder / "corpus.csv"


def peak_bytes(number: int, shard_seconds: float, shard_tokens: int) -> int:
    """Peak resident memory of an extraction of so many utterances."""
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name), number)
        shards = [str(shard_seconds), str(shard_tokens)]
        command = [sys.executable, "-c", EXTRACT, str(corpus), str(Path(name) / "cache"), *shards]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--shard-seconds", type=float, default=60.0, help="audio in a shard; mmser's own is 1800")
    parser.add_argument("--shard-tokens", type=int, default=1000, help="tokens in a shard; mmser's own is 16,384")
    given = parser.parse_args()
    peaks = {number: peak_bytes(number, given.shard_seconds, given.shard_tokens) for number in given.sizes}
    first = peaks[given.sizes[0]]
    for number, peak in peaks.items():
        print(f"{number:8} utterances {peak / 1e6:8.1f} MB {peak / first:6.3f} of the first")
    print(json.dumps({"shard_seconds": given.shard_seconds, "shard_tokens": given.shard_tokens, "peak_bytes": peaks}))


if __name__ == "__main__":
    main()
