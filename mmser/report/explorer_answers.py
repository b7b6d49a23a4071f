"""What the heads of run folders said of every test utterance, for the explorer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.train.predictions import read_predictions


@dataclass(frozen=True, eq=False)
class Answers:
    """What one head said of its n test utterances, under S seeds."""

    name: str
    """What it is called on the page; no two heads share one."""
    folder: Path
    """Its run folder."""
    head: str
    """What it is called in the run's own tables."""
    ids: tuple[str, ...]
    folds: tuple[str, ...]
    """The fold in which each utterance is a test utterance, (n,)."""
    seeds: tuple[int, ...]
    labels: tuple[str, ...]
    """The C classes; none where the head only rates."""
    truth: tuple[str, ...]
    """(n,); "" where the class is not known."""
    posteriors: NDArray[np.float64]
    """(n, S, C), NaN where a head gave no number."""
    dimensions: tuple[str, ...]
    """The K dimensions that are rated."""
    true_ratings: NDArray[np.float64]
    """(n, K), NaN where not known."""
    ratings: NDArray[np.float64]
    """(n, S, K)."""

    @cached_property
    def mean_posteriors(self) -> NDArray[np.float64]:
        """(n, C) over the seeds that gave numbers; NaN where none did."""
        return _mean(self.posteriors)

    @cached_property
    def prediction(self) -> NDArray[np.int64]:
        """(n,) the class with the highest mean posterior; -1 where there is none."""
        return _largest(self.mean_posteriors)

    @cached_property
    def prediction_by_seed(self) -> NDArray[np.int64]:
        """(n, S) the class with the highest posterior; -1 where a head gave no number."""
        return _largest(self.posteriors)

    @cached_property
    def number_of_truth(self) -> NDArray[np.int64]:
        """(n,) the class by number; -1 where it is not known."""
        number = {label: i for i, label in enumerate(self.labels)}
        return np.array([number.get(label, -1) for label in self.truth], dtype=np.int64)

    @cached_property
    def score(self) -> float:
        """UA, or of a head that only rates the mean CCC, each the mean over seeds, as in the tables; NaN: none."""
        if self.labels:
            known = self.number_of_truth >= 0
            said = self.posteriors.argmax(2)
            scores = [unweighted_average_recall(self.number_of_truth[known], own) for own in said[known].T]
        else:
            scores = [
                concordance_correlation(truth[known], own[known])
                for truth, said in zip(self.true_ratings.T, self.ratings.transpose(2, 1, 0), strict=True)
                for own in said
                if (known := np.isfinite(truth) & np.isfinite(own)).sum() > 1
            ]
        return float(np.mean(scores)) if scores else np.nan

    def most_telling(self) -> list[str]:
        """Its utterances, those worth a look first.

        Of classes: what is wrong (of the mean over seeds) before what is right, the true classes in turn, the surest
        mistakes first. Of ratings alone: the largest mean errors first.
        """
        if not self.labels:
            errors = np.abs(_mean(self.ratings) - self.true_ratings)
            return [self.ids[i] for i in np.argsort(-np.nan_to_num(errors).mean(1), kind="stable")]
        mean, n = self.mean_posteriors, np.arange(len(self.ids))
        sure = np.nan_to_num(mean[n, self.prediction] - mean[n, self.number_of_truth])
        surest_first = np.argsort(-sure, kind="stable").tolist()
        wrong, truth = self.prediction != self.number_of_truth, self.number_of_truth
        order: list[int] = []
        for kind in (True, False):
            classes = [[i for i in surest_first if wrong[i] == kind and truth[i] == c] for c in range(len(self.labels))]
            order += [i for turn in zip_longest(*classes) for i in turn if i is not None]
        order += np.flatnonzero(self.number_of_truth < 0).tolist()
        return [self.ids[i] for i in order]


def read_answers(folders: Sequence[Path], names: Mapping[tuple[Path, str], str] | None = None) -> list[Answers]:
    """The heads of finished run folders, in their order.

    Args:
        folders: the run folders.
        names: what to call each head, by its folder and what it is called there; heads that are not among them are left
            out. None: all heads, called after their folders.

    Raises:
        ProtocolError: no folder, one that is not finished or whose table is not that of mmser, or heads that do not
            agree on what is true.
    """
    if not folders:
        raise ProtocolError("no run folder to explore; mmser train-head writes them")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ProtocolError(f"{folders[0]}: a run folder is named twice; name different ones")
    tables = [(folder, head, own) for folder in folders for head, own in _by_head(folder)]
    if names is None:
        heads = [(folder, head) for folder, head, _ in tables]
        names = dict(zip(heads, _names(heads), strict=True))
    found = [_answers(names[one[:2]], *one) for one in tables if one[:2] in names]
    _check_truth(found)
    return found


def _by_head(folder: Path) -> list[tuple[str, pd.DataFrame]]:
    return [(str(head), own) for head, own in read_predictions(folder).groupby("head", sort=False)]


def _names(heads: Sequence[tuple[Path, str]]) -> list[str]:
    """Of one folder the heads' names; of several, as in the report: the folder's, and ``FOLDER: MEMBER`` of a fusion.

    >>> _names([(Path("runs/fusion"), "probe"), (Path("runs/fusion"), "late-fusion"), (Path("runs/word"), "film")])
    ['fusion: probe', 'fusion', 'word']
    """
    folders = {folder: folder.resolve() for folder, _ in heads}
    if len(folders) == 1:
        return [head for _, head in heads]
    root, last = os.path.commonpath([str(own.parent) for own in folders.values()]), dict(heads)
    names = {folder: str(own.relative_to(root)) for folder, own in folders.items()}
    return [names[folder] + ("" if head == last[folder] else f": {head}") for folder, head in heads]


def _answers(name: str, folder: Path, head: str, table: pd.DataFrame) -> Answers:
    ids = tuple(table["utterance_id"].unique())
    first = table.drop_duplicates("utterance_id").set_index("utterance_id").loc[list(ids)]
    seeds = tuple(sorted(int(seed) for seed in table["seed"].unique()))
    of_seed = [
        own.drop_duplicates("utterance_id").set_index("utterance_id").reindex(list(ids))
        for own in (table[table["seed"] == seed] for seed in seeds)
    ]
    labels = tuple(column[2:] for column in table.columns if column.startswith("p_"))
    dimensions = tuple(column[6:] for column in table.columns if column.startswith("truth_"))
    return Answers(
        name=name,
        folder=folder,
        head=head,
        ids=ids,
        folds=tuple(first["fold"]),
        seeds=seeds,
        labels=labels,
        truth=tuple(first["truth"]) if labels else ("",) * len(ids),
        posteriors=np.stack([_numbers(own, [f"p_{label}" for label in labels]) for own in of_seed], 1),
        dimensions=dimensions,
        true_ratings=_numbers(first, [f"truth_{name}" for name in dimensions]),
        ratings=np.stack([_numbers(own, [f"prediction_{name}" for name in dimensions]) for own in of_seed], 1),
    )


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, S, X) to (n, X): the mean over the seeds that gave numbers, NaN where none did."""
    there = np.isfinite(values)
    total = np.where(there, values, 0.0).sum(1)
    return np.where(there.any(1), total / np.maximum(there.sum(1), 1), np.nan)


def _largest(posteriors: NDArray[np.float64]) -> NDArray[np.int64]:
    """(..., C) to (...): the number of the largest; -1 where there are no classes, or not only numbers."""
    if not posteriors.shape[-1]:
        return np.full(posteriors.shape[:-1], -1)
    return np.where(np.isfinite(posteriors).all(-1), posteriors.argmax(-1), -1)


def _numbers(table: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    """(rows, columns) as numbers, NaN where a cell is empty.

    Raises:
        ProtocolError: a cell holds something else.
    """
    try:
        return table[columns].apply(pd.to_numeric).to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"predictions.csv, {', '.join(columns)}: {error}; expected numbers, or nothing") from error


def _check_truth(found: Sequence[Answers]) -> None:
    told: dict[str, tuple[str, str]] = {}
    for own in found:
        for uid, truth in zip(own.ids, own.truth, strict=True):
            if not truth:
                continue
            other, name = told.setdefault(uid, (truth, own.name))
            if truth != other:
                raise ProtocolError(
                    f"{name} and {own.name} do not agree on the class of {uid!r} ({other!r}, {truth!r}); they "
                    "were trained for other targets: explore them apart"
                )
