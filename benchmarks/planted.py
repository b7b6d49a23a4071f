"""What heads make of planted truths: the table of docs/planted_truths.md.

    python -m benchmarks.planted

Problems, claims and their margins are those of ``tests/planted.py``; the figure is UA, or CCC for ratings.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from mmser.train.run import train_head
from tests.planted import CLAIMS, DEAR, PROBLEMS, write_planted


def main() -> None:
    """Print one line a claim, problem by problem."""
    print("| problem | label | head | figure | chance | |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for problem in PROBLEMS:
            cache = write_planted(problem, Path(folder) / problem)
            own = [claim for claim in (*CLAIMS, *DEAR) if claim.problem == problem]
            for number, claim in enumerate(own):
                run = Path(folder) / "runs" / f"{problem}-{number}"
                train_head(cache, claim.experiment(), run)
                results = pd.read_csv(run / "results.csv").iloc[-1]
                found = float(results[f"ccc_{claim.label}" if problem == "ratings" else "ua"])
                band = f"{claim.chance:.2f} ± {claim.margin:.2f}"
                print(f"| {problem} | {claim.label} | {claim.name} | {found:.3f} | {band} | {claim.verdict} |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
