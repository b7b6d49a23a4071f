"""What came out of an experiment: predictions of every test utterance, figures per fold, and a summary."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.metrics import macro_f1, unweighted_average_recall, weighted_accuracy
from mmser.statistics import Interval, bootstrap_interval


@dataclass(frozen=True, eq=False)
class Outcome:
    """One trained head (or fusion) on the test part of one fold."""

    head: str
    fold: str
    seed: int
    rows: NDArray[np.int64]
    """Test rows."""
    posteriors: NDArray[np.float32]
    """(len(rows), num_labels)"""
    num_train: int
    num_dev: int
    best_epoch: int | None = None
    """None for a fusion."""
    dev_ua: float | None = None
    diverged: bool = False
    """Its loss became infinite or no number, and training ended there."""


@dataclass(frozen=True)
class Line:
    """A head over all folds and seeds: one line of the table."""

    head: str
    ua: float
    """UA over the test utterances of all folds together, mean over seeds."""
    interval: Interval
    """95 % of the UA, by bootstrap over speakers."""
    ua_by_seed: tuple[float, ...]
    wa: float
    macro_f1: float
    ua_of_folds: float
    """Mean of the folds' own UA, as many papers report it."""
    num_runs: int


def predictions_table(
    outcomes: Sequence[Outcome], ids: Sequence[str], speakers: Sequence[str], truth: NDArray, labels: Sequence[str]
) -> pd.DataFrame:
    """Every test utterance of every head, fold and seed, with its posterior probabilities."""
    parts = []
    names = np.asarray(labels, dtype=object)
    for o in outcomes:
        columns: dict[str, object] = {
            "head": o.head,
            "fold": o.fold,
            "seed": o.seed,
            "utterance_id": [ids[row] for row in o.rows],
            "speaker": [speakers[row] for row in o.rows],
            "truth": names[truth[o.rows]],
            "prediction": names[o.posteriors.argmax(1)],
        }
        columns |= {f"p_{label}": o.posteriors[:, i] for i, label in enumerate(labels)}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def folds_table(outcomes: Sequence[Outcome], truth: NDArray) -> pd.DataFrame:
    """The figures of every head, fold and seed."""
    return pd.DataFrame(
        [
            {
                "head": o.head,
                "fold": o.fold,
                "seed": o.seed,
                "num_train": o.num_train,
                "num_dev": o.num_dev,
                "num_test": len(o.rows),
                "best_epoch": o.best_epoch,
                "dev_ua": o.dev_ua,
                "ua": unweighted_average_recall(truth[o.rows], o.posteriors.argmax(1)),
                "wa": weighted_accuracy(truth[o.rows], o.posteriors.argmax(1)),
                "macro_f1": macro_f1(truth[o.rows], o.posteriors.argmax(1)),
            }
            for o in outcomes
        ]
    )


def summarise(outcomes: Sequence[Outcome], truth: NDArray, speakers: Sequence[str], ids: Sequence[str]) -> list[Line]:
    """One line a head.

    UA and WA are taken over the test utterances of all folds together: a speaker who lacks a class would make the
    UA of his own fold a mean over fewer classes. The interval resamples speakers; an utterance whose speaker is not
    known is its own cluster, with its answers under all seeds.
    """
    cluster = np.array([s or f"?{uid}" for s, uid in zip(speakers, ids, strict=True)], dtype=object)
    lines = []
    for head in dict.fromkeys(o.head for o in outcomes):
        own = [o for o in outcomes if o.head == head]
        by_seed = []
        for seed in sorted({o.seed for o in own}):
            of_seed = [o for o in own if o.seed == seed]
            by_seed.append(
                tuple(np.concatenate(p) for p in zip(*((o.rows, o.posteriors) for o in of_seed), strict=True))
            )
        rows = np.concatenate([r for r, _ in by_seed])
        prediction = np.concatenate([p.argmax(1) for _, p in by_seed])
        uas = tuple(float(unweighted_average_recall(truth[r], p.argmax(1))) for r, p in by_seed)
        interval = bootstrap_interval(unweighted_average_recall, truth[rows], prediction, cluster[rows])
        if not any(speakers):
            interval = replace(interval, unit="utterance")
        table = folds_table(own, truth)
        lines.append(
            Line(
                head=head,
                ua=float(np.mean(uas)),
                interval=interval,
                ua_by_seed=uas,
                wa=float(weighted_accuracy(truth[rows], prediction)),
                macro_f1=float(macro_f1(truth[rows], prediction)),
                ua_of_folds=float(table["ua"].mean()),
                num_runs=len(own),
            )
        )
    return lines
