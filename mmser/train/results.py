"""What came out of an experiment: predictions of every test utterance, figures per fold, and a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.metrics import (
    concordance_correlation,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    unweighted_average_recall,
    weighted_accuracy,
)
from mmser.statistics import Interval, bootstrap_interval, concordance_interval

NO_RATINGS = np.empty((0, 0))
"""The ratings of a corpus of which none are asked for."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One trained head (or fusion) on the test part of one fold."""

    head: str
    fold: str
    seed: int
    rows: NDArray[np.int64]
    """Test rows."""
    posteriors: NDArray[np.float32]
    """(len(rows), num_labels); no columns where there are no classes to tell."""
    num_train: int
    num_dev: int
    best_epoch: int | None = None
    """None for a fusion."""
    dev_score: float | None = None
    diverged: bool = False
    """Its loss became infinite or no number, and training ended there."""
    ratings: NDArray[np.float32] | None = None
    """(len(rows), dimensions) on the corpus's own scale; None where nothing is rated."""
    learning_rate: float | None = None
    weight_decay: float | None = None
    layer: str | None = None
    """Speech layer; None where the head hears none, or for a fusion."""
    are_probabilities: bool = True
    """Whether the posteriors mean what they say; where they do not, there is no calibration to tell."""


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
    ece: float
    """Expected calibration error, over all seeds together; NaN where the posteriors are no probabilities."""
    ua_of_folds: float
    """Mean of the folds' own UA, as many papers report it."""
    wa_of_folds: float
    """Mean of the folds' own WA, which is what SUPERB reports."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts over all seeds: row by truth, column by prediction, in the order of the classes."""
    num_runs: int


@dataclass(frozen=True)
class RatingLine:
    """A head's ratings on one dimension over all folds and seeds."""

    head: str
    dimension: str
    ccc: float
    """CCC over the test utterances of all folds together, mean over seeds."""
    interval: Interval
    """95 % of that, by bootstrap over speakers."""
    ccc_by_seed: tuple[float, ...]
    ccc_of_folds: float
    """Mean of the folds' own CCC."""
    num_utterances: int
    """Whose rating is known."""
    num_runs: int


def line_of(stored: Mapping[str, Any]) -> Line:
    """A line as ``summary.json`` has it; null is NaN."""
    return Line(**_as_stored(stored))


def rating_line_of(stored: Mapping[str, Any]) -> RatingLine:
    """The same for ratings."""
    return RatingLine(**_as_stored(stored))


def _as_stored(stored: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: np.nan if value is None else value for name, value in stored.items()}
    bounds: dict[str, Any] = {name: np.nan if value is None else value for name, value in stored["interval"].items()}
    return {**values, "interval": Interval(**bounds)}


def predictions_table(
    outcomes: Sequence[Outcome],
    ids: Sequence[str],
    speakers: Sequence[str],
    truth: NDArray,
    labels: Sequence[str],
    ratings: NDArray = NO_RATINGS,
    dimensions: Sequence[str] = (),
) -> pd.DataFrame:
    """Every test utterance of every head, fold and seed, with its posterior probabilities and ratings.

    What is not known is empty: a truth of "", or NaN.
    """
    parts = []
    names = np.array([*labels, ""], dtype=object)  # -1, not known, is the last
    for o in outcomes:
        columns: dict[str, object] = {
            "head": o.head,
            "fold": o.fold,
            "seed": o.seed,
            "utterance_id": [ids[row] for row in o.rows],
            "speaker": [speakers[row] for row in o.rows],
        }
        if labels:
            columns |= {"truth": names[truth[o.rows]], "prediction": names[o.posteriors.argmax(1)]}
            columns |= {f"p_{label}": o.posteriors[:, i] for i, label in enumerate(labels)}
        if o.ratings is not None:
            columns |= {f"truth_{name}": ratings[o.rows, k] for k, name in enumerate(dimensions)}
            columns |= {f"prediction_{name}": o.ratings[:, k] for k, name in enumerate(dimensions)}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def folds_table(
    outcomes: Sequence[Outcome], truth: NDArray, ratings: NDArray = NO_RATINGS, dimensions: Sequence[str] = ()
) -> pd.DataFrame:
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
                "learning_rate": o.learning_rate,
                "weight_decay": o.weight_decay,
                "layer": o.layer,
                "best_epoch": o.best_epoch,
                "dev_score": o.dev_score,
                **_class_figures(o, truth),
                **{f"ccc_{name}": _ccc(o, ratings, k) for k, name in enumerate(dimensions)},
            }
            for o in outcomes
        ]
    )


def _class_figures(outcome: Outcome, truth: NDArray) -> dict[str, float]:
    """NaN where the fold's test part has no class; nothing where there are none to tell."""
    if not outcome.posteriors.shape[1]:
        return {}
    known = truth[outcome.rows] >= 0
    if not known.any():
        return dict.fromkeys(("ua", "wa", "macro_f1", "ece"), np.nan)
    told, said = truth[outcome.rows][known], outcome.posteriors[known]
    return {
        "ua": unweighted_average_recall(told, said.argmax(1)),
        "wa": weighted_accuracy(told, said.argmax(1)),
        "macro_f1": macro_f1(told, said.argmax(1)),
        "ece": _ece_or_nan(told, said, [outcome]),
    }


def _ccc(outcome: Outcome, ratings: NDArray, dimension: int) -> float:
    assert outcome.ratings is not None
    told = ratings[outcome.rows, dimension]
    known = ~np.isnan(told)
    return _ccc_or_nan(told[known], outcome.ratings[known, dimension])


def summarise(outcomes: Sequence[Outcome], truth: NDArray, speakers: Sequence[str], ids: Sequence[str]) -> list[Line]:
    """One line a head, over the utterances whose class is known.

    UA and WA are taken over the test utterances of all folds together: a speaker who lacks a class would make the
    UA of his own fold a mean over fewer classes. The interval resamples speakers; an utterance whose speaker is not
    known is its own cluster, with its answers under all seeds.
    """
    lines = []
    for head in dict.fromkeys(o.head for o in outcomes):
        own = [o for o in outcomes if o.head == head]
        by_seed = []
        for seed in sorted({o.seed for o in own}):
            rows = np.concatenate([o.rows for o in own if o.seed == seed])
            shares = np.concatenate([o.posteriors for o in own if o.seed == seed])
            known = truth[rows] >= 0
            by_seed.append((rows[known], shares[known]))
        rows = np.concatenate([r for r, _ in by_seed])
        posteriors = np.concatenate([p for _, p in by_seed])
        prediction = posteriors.argmax(1)
        uas = tuple(float(unweighted_average_recall(truth[r], p.argmax(1))) for r, p in by_seed)
        table = pd.DataFrame([_class_figures(o, truth) for o in own])
        who, unit = clusters(rows, speakers, ids)
        interval = bootstrap_interval(unweighted_average_recall, truth[rows], prediction, who)
        confusion = confusion_matrix(truth[rows], prediction, labels=range(posteriors.shape[1]))
        lines.append(
            Line(
                head=head,
                ua=float(np.mean(uas)),
                interval=replace(interval, unit=unit),
                ua_by_seed=uas,
                wa=float(weighted_accuracy(truth[rows], prediction)),
                macro_f1=float(macro_f1(truth[rows], prediction)),
                ece=_ece_or_nan(truth[rows], posteriors, own),
                ua_of_folds=float(table["ua"].mean()),
                wa_of_folds=float(table["wa"].mean()),
                confusion=tuple(tuple(row) for row in confusion.tolist()),
                num_runs=len(own),
            )
        )
    return lines


def summarise_ratings(
    outcomes: Sequence[Outcome],
    ratings: NDArray,
    dimensions: Sequence[str],
    speakers: Sequence[str],
    ids: Sequence[str],
) -> list[RatingLine]:
    """One line a head and dimension, over the utterances whose rating is known; as :func:`summarise`."""
    lines = []
    for head in dict.fromkeys(o.head for o in outcomes):
        own = [o for o in outcomes if o.head == head and o.ratings is not None]
        rows = np.concatenate([o.rows for o in own])
        seeds = np.concatenate([np.full(len(o.rows), o.seed) for o in own])
        for k, name in enumerate(dimensions):
            said = np.concatenate([o.ratings[:, k] for o in own if o.ratings is not None])
            known = ~np.isnan(ratings[rows, k])
            told, answered, of_seed = ratings[rows[known], k], said[known], seeds[known]
            cccs = tuple(_ccc_or_nan(told[of_seed == s], answered[of_seed == s]) for s in np.unique(seeds))
            who, unit = clusters(rows[known], speakers, ids)
            interval = concordance_interval(told, answered, who, of_seed)
            lines.append(
                RatingLine(
                    head=head,
                    dimension=name,
                    ccc=float(np.mean(cccs)),
                    interval=replace(interval, unit=unit),
                    ccc_by_seed=cccs,
                    ccc_of_folds=float(np.nanmean([_ccc(o, ratings, k) for o in own])),
                    num_utterances=len(np.unique(rows[known])),
                    num_runs=len(own),
                )
            )
    return lines


def clusters(
    rows: NDArray[np.int64], speakers: Sequence[str], ids: Sequence[str]
) -> tuple[NDArray[np.object_], Literal["speaker", "utterance"]]:
    """Whose each of ``rows`` is, and what these are: what is resampled, or swapped, whole.

    An utterance whose speaker is not known is its own, with its answers under all seeds; and so is every utterance
    where all are one speaker's.
    """
    who = np.array([speakers[row] or f"?{ids[row]}" for row in rows], dtype=object)
    known = {speakers[row] for row in rows} - {""}
    if known and len(set(who)) > 1:
        return who, "speaker"
    return np.array([ids[row] for row in rows], dtype=object), "utterance"


def _ccc_or_nan(truth: NDArray, prediction: NDArray) -> float:
    """NaN of fewer than two ratings, or of a head that gave no number."""
    if len(truth) < 2 or not np.isfinite(prediction).all():
        return np.nan
    return concordance_correlation(truth, prediction)


def _ece_or_nan(truth: NDArray, posteriors: NDArray, of: Sequence[Outcome]) -> float:
    """NaN of answers that are no probabilities, or no numbers."""
    if not all(one.are_probabilities for one in of) or not np.isfinite(posteriors).all():
        return np.nan
    return expected_calibration_error(truth, posteriors)
