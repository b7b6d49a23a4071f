"""What heads make of planted truths: the tables of docs/planted_truths.md.

    python -m benchmarks.planted --seeds 0 1 2 3
    python -m benchmarks.planted --problems stress --speakers 12 --epochs 20

Problems, claims and their margins are those of ``tests/planted.py``; the figure is UA, or CCC for ratings. A seed
draws a corpus; the tests hold the claims on that of seed 0. The last column is what is claimed at the default size and
epochs, and on how many of these corpora it holds, if not on all.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmser.train.options import Training
from mmser.train.run import train_head
from tests.planted import CLAIMS, DEAR, PROBLEMS, STRESS_TRAIN, Claim, write_planted

_ALL = (*CLAIMS, *DEAR)


def main() -> None:
    """Print one line a claim, problem by problem, with a figure for each corpus."""
    asked = _arguments()
    print("| problem | label | head |", *(f"corpus {seed} |" for seed in asked.seeds), "chance | |")
    print("|---" * (5 + len(asked.seeds)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for problem in asked.problems:
            claims = [claim for claim in _ALL if claim.problem == problem and claim.head in asked.heads]
            caches = [
                write_planted(problem, Path(folder) / f"{problem}-{seed}", seed, stress_train=asked.speakers)
                for seed in asked.seeds
                if claims
            ]
            for claim in claims:
                _print_line(claim, caches, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    heads = sorted({claim.head for claim in _ALL})
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one corpus each")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--heads", nargs="+", choices=heads, default=heads, metavar="HEAD@GRANULARITY")
    parser.add_argument("--speakers", type=int, default=STRESS_TRAIN, help="who train on stress")
    parser.add_argument("--epochs", type=int, help="of every head, in place of each claim's own")
    parser.add_argument("--learning-rate", type=float, help="of every head, in place of each claim's own")
    return parser.parse_args()


def _print_line(claim: Claim, caches: Sequence[Path], asked: argparse.Namespace) -> None:
    if asked.learning_rate is not None:
        claim = replace(claim, changes={**claim.changes, "learning_rate": asked.learning_rate})
    print(f"| {claim.problem} | {claim.label} | {claim.name} |", end="", flush=True)
    figures = []
    for cache in caches:
        with tempfile.TemporaryDirectory() as runs:
            figures.append(_figure(claim, cache, Path(runs) / "run", asked.epochs or claim.epochs))
        print(f" {figures[-1]:.3f} |", end="", flush=True)
    held = sum(map(claim.holds, figures))
    verdict = claim.verdict if held == len(figures) else f"{claim.verdict}, on {held} of {len(figures)}"
    print(f" {claim.chance:.2f} ± {claim.margin:.2f} | {verdict} |", flush=True)


def _figure(claim: Claim, cache: Path, run: Path, epochs: int) -> float:
    train_head(cache, claim.experiment(training=Training(epochs=epochs, patience=epochs)), run)
    results = pd.read_csv(run / "results.csv").iloc[-1]  # of a late fusion, the fusion itself
    return float(results[f"ccc_{claim.label}" if claim.problem == "ratings" else "ua"])


if __name__ == "__main__":
    main()
