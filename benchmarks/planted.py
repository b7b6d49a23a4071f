"""What heads make of planted truths: the table of docs/planted_truths.md.

    python -m benchmarks.planted --seeds 0 1 2 3

Problems, claims and their margins are those of ``tests/planted.py``; the figure is UA, or CCC for ratings. A seed
draws a corpus; the tests hold the claims on that of seed 0.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd

from mmser.train.run import train_head
from tests.planted import CLAIMS, DEAR, PROBLEMS, Claim, write_planted


def main() -> None:
    """Print one line a claim, problem by problem, with a figure for each corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one corpus each")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    asked = parser.parse_args()
    print("| problem | label | head |", *(f"corpus {seed} |" for seed in asked.seeds), "chance | |")
    print("|---" * (5 + len(asked.seeds)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for problem in asked.problems:
            caches = [write_planted(problem, Path(folder) / f"{problem}-{seed}", seed) for seed in asked.seeds]
            for claim in (claim for claim in (*CLAIMS, *DEAR) if claim.problem == problem):
                print(f"| {problem} | {claim.label} | {claim.name} |", end="")
                for cache in caches:
                    sys.stdout.flush()
                    with tempfile.TemporaryDirectory() as runs:
                        print(f" {_figure(claim, cache, Path(runs) / 'run'):.3f} |", end="")
                print(f" {claim.chance:.2f} ± {claim.margin:.2f} | {claim.verdict} |", flush=True)


def _figure(claim: Claim, cache: Path, run: Path) -> float:
    train_head(cache, claim.experiment(), run)
    results = pd.read_csv(run / "results.csv").iloc[-1]  # of a late fusion, the fusion itself
    return float(results[f"ccc_{claim.label}" if claim.problem == "ratings" else "ua"])


if __name__ == "__main__":
    main()
