"""What training occupies beside the features, against what :mod:`mmser.train.memory` says beforehand. Linux.

    python -m benchmarks.heads_memory
    python -m benchmarks.heads_memory --cases coattention-64 probe-mix --runs 1 24 --threads 2

Features are those of :mod:`benchmarks.heads`. Every training is a process of its own, watched from outside: the
anonymous memory of it and of the processes that it forks (of pages that they share, each one's share) is added up every
10 ms; the highest sum, less what there was before training, is what was occupied.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.heads import (
    BATCH,
    CLASSES,
    DIM,
    FRAMES_A_SECOND,
    LAYERS,
    TOKENS_A_WORD,
    WORDS_A_SECOND,
    lengths_of,
    packed,
    runs_of,
    targets_of,
)
from mmser.heads import HEADS
from mmser.heads.batch import Inputs
from mmser.train.engine import Run, Training, train
from mmser.train.memory import FLAT_ROOM, PROCESS_BYTES, ROOM, bytes_of_a_run, max_stacked
from mmser.train.sharing import batches_of, in_order, most_together, pieces_of
from mmser.train.stack import flat, initial_head
from mmser.train.table import Table

STATES_A_SECOND = {"word": WORDS_A_SECOND, "frame": FRAMES_A_SECOND}


class Case(NamedTuple):
    """A head, and what it reads."""

    head: str
    options: Mapping[str, Any] = MappingProxyType({})
    granularity: str = "word"
    layers: int = 1
    rates: int = 1
    """Learning rates that are tried: so many runs share their batches."""


CASES = {
    "probe": Case("speech-probe", granularity="utterance"),
    "probe-mix": Case("speech-probe", granularity="utterance", layers=LAYERS),
    "probe-mix-rates": Case("speech-probe", layers=LAYERS, rates=5),
    "coattention-64": Case("coattention", {"width": 64}),
    "coattention-64-rates": Case("coattention", {"width": 64}, rates=5),
    "coattention-128": Case("coattention", {"width": 128}),
    "coattention-256": Case("coattention"),
    "coattention-frames": Case("coattention", {"width": 64}, granularity="frame"),
    "attention-pool": Case("attention-pool"),
    "film": Case("film"),
    "crossmodal-64": Case("crossmodal-transformer", {"width": 64}),
    "cls-64": Case("cls-coattention", {"width": 64}),
    "conditioned-64": Case("conditioned-states", {"width": 64}),
}


def table_of(case: Case, num: int) -> Table:
    """Random states of the case's granularity, and tokens where its head reads them."""
    device, alike = torch.device("cpu"), case.granularity == "utterance"
    lengths = np.ones(num, np.int64) if alike else lengths_of(num, STATES_A_SECOND[case.granularity])
    text = packed(lengths_of(num, WORDS_A_SECOND * TOKENS_A_WORD), 1, device) if HEADS[case.head].needs_text else None
    return Table(tuple(map(str, range(num))), {case.granularity: packed(lengths, case.layers, device)}, text)


def some_runs(case: Case, num: int, number: int) -> list[Run]:
    """All folds and rates of the first seed, then of the next."""
    rates, layer = [1e-3 / 2**n for n in range(case.rates)], None if case.layers > 1 else 0
    seeds = -(-number // (5 * case.rates))
    return sorted(runs_of(num, layer=layer, seeds=seeds, rates=rates), key=lambda run: run.seed)[:number]


def train_one(case: Case, number: int, num: int, threads: int) -> None:
    """In a process of its own: say what is expected, wait until it is watched, train."""
    torch.set_num_threads(threads)
    table, targets, runs = table_of(case, num), targets_of(num), some_runs(case, num, number)
    kind, inputs = HEADS[case.head], Inputs(DIM, DIM, (case.granularity,), case.layers)
    training = Training(epochs=2, patience=2, batch_size=BATCH)

    def build() -> torch.nn.Module:
        return kind.build(inputs, CLASSES, kind.options(**case.options))

    head = initial_head(build, 0)
    a_run = (FLAT_ROOM if flat(head, table) else ROOM) * bytes_of_a_run(table, head, runs, training)
    most, keys = max_stacked(table, head, runs, training), batches_of([runs[n] for n in in_order(runs)])
    pieces = [piece.stop - piece.start for piece in pieces_of(keys, most_together(table, head, BATCH), most)]
    cores = min(threads, len(pieces), most)
    at_once = sum(sorted(pieces)[-cores:])
    said = at_once * a_run + PROCESS_BYTES * (cores + (cores > 1))
    weights = number * sum(parameter.nbytes for parameter in head.parameters())
    print(json.dumps({"at_once": at_once, "said": said, "weights": weights}), flush=True)
    sys.stdin.readline()
    train(table, targets, build, runs, training)


def anonymous(pid: int) -> int:
    """Bytes of a process and of those that it forked; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
        own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
        tasks = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(anonymous(int(child)) for children in tasks for child in children)


def watched(name: str, number: int, num: int, threads: int) -> dict[str, float]:
    """What a training is expected to occupy, and what it does."""
    command = [sys.executable, "-m", "benchmarks.heads_memory", "--cases", name, "--runs", str(number), "--alone"]
    command += ["--utterances", str(num), "--threads", str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found: dict[str, float] = json.loads(process.stdout.readline())
        before = highest = anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        while process.poll() is None:
            highest = max(highest, anonymous(process.pid))
            time.sleep(0.01)
        assert process.returncode == 0
    return {**found, "occupied": highest - before}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--runs", nargs="+", type=int, default=[1, 12, 40])
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="train one, to be watched from another process")
    given = parser.parse_args()
    if given.alone:
        train_one(CASES[given.cases[0]], given.runs[0], given.utterances, given.threads)
        return
    print(f"{'MB':20} runs at once     said  weights occupied  share of both")
    for name in given.cases:
        for number in given.runs:
            found = watched(name, number, given.utterances, given.threads)
            sizes = [found[key] / 1e6 for key in ("said", "weights", "occupied")]
            print(f"{name:20}{number:5}{found['at_once']:8}", *(f"{size:8.1f}" for size in sizes), end=" ")
            print(f"{sizes[2] / (sizes[0] + sizes[1]):14.2f}", flush=True)


if __name__ == "__main__":
    main()
