"""Whether a run of co-attention trains faster alone on a core or beside others, by either library for products.

    python -m benchmarks.together
    python -m benchmarks.together --widths 256 --utterances 1200

What :data:`mmser.train.sharing.ALONE_FLOP` and :data:`mmser.train.sharing.FLAT_TOGETHER` follow from: processor seconds
a run and epoch of one process with one thread, on features of :mod:`benchmarks.heads`, scaled up to IEMOCAP's 5531
utterances. Repetitions are interleaved, and the fastest counts.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.heads import (
    BATCH,
    TOKENS_A_WORD,
    UTTERANCES,
    WORDS_A_SECOND,
    build_of,
    lengths_of,
    packed,
    runs_of,
    targets_of,
)
from mmser import products
from mmser.train import sharing
from mmser.train.engine import Run, Training, train
from mmser.train.table import Table

LIBRARIES = ("torch", "oneDNN")
TOGETHER = {"alone": 1, "12 at once": 12, "2 at once": 2}
EPOCHS = 3


def table_of(num: int) -> Table:
    """Words and tokens of ``num`` utterances."""
    words, cpu = lengths_of(num, WORDS_A_SECOND), torch.device("cpu")
    tokens = np.ceil(TOKENS_A_WORD * words).astype(np.int64) + 2
    return Table(tuple(map(str, range(num))), {"word": packed(words, 1, cpu)}, packed(tokens, 1, cpu))


def seconds(table: Table, width: int, runs: list[Run]) -> float:
    """Processor seconds of an epoch of all ``runs``: what more epochs take than one."""
    build, targets = build_of("coattention", width=width), targets_of(len(table.ids))

    def of(epochs: int) -> float:
        before = time.process_time()
        train(table, targets, build, runs, Training(epochs=epochs, patience=epochs, batch_size=BATCH))
        return time.process_time() - before

    one = of(1)
    return (of(1 + EPOCHS) - one) / EPOCHS


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = table_of(given.utterances)
    cases = [(width, library, how) for width in given.widths for library in LIBRARIES for how in TOGETHER]
    found = dict.fromkeys(cases, float("inf"))
    for _ in range(given.repeats):
        for width, library, how in cases:
            runs = runs_of(given.utterances, layer=0)[: TOGETHER[how]]
            alone = patch.object(sharing, "ALONE_FLOP", 0 if how == "alone" else float("inf"))
            multiplied = patch.object(products, "by_onednn", lambda library=library: library == "oneDNN")
            with alone, multiplied:
                took = seconds(table, width, runs) / len(runs) * UTTERANCES / given.utterances
            found[width, library, how] = min(found[width, library, how], took)
    print(f"{'width':>5} {'products':>9}" + "".join(f"{how:>12}" for how in TOGETHER))
    for width in given.widths:
        for library in LIBRARIES:
            print(f"{width:5} {library:>9}" + "".join(f"{found[width, library, how]:12.2f}" for how in TOGETHER))


if __name__ == "__main__":
    main()
