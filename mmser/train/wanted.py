"""What is asked of an utterance, from the manifest's columns: its class, its votes, its ratings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.manifest import Manifest
from mmser.manifest.table import NUMBER_COLUMNS
from mmser.train.options import Experiment


@dataclass(frozen=True, eq=False)
class Wanted:
    """The targets of all utterances of a manifest, a row each."""

    labels: tuple[str, ...]
    """The classes asked for; empty where there are none to tell."""
    classes: NDArray[np.object_]
    """(n,) one of ``labels``; "" where not known."""
    votes: NDArray[np.float64]
    """(n, len(labels)) shares of the votes, or zeros."""
    ratings: NDArray[np.float64]
    """(n, dimensions), NaN where not known."""
    why_not: list[str]
    """(n,) why an utterance has nothing to learn from; "" where it has."""


def wanted_of(manifest: Manifest, experiment: Experiment) -> Wanted:
    """Read the columns that an experiment names.

    Raises:
        ManifestError: no such column.
        ProtocolError: a column of numbers for classes, a rating or a vote that is no number, or a class that nothing
            is labelled with.
    """
    num = len(manifest)
    told = text_column(manifest, experiment.label) if experiment.has_classes else np.full(num, "", dtype=object)
    labels = _labels_there(told, experiment) if experiment.has_classes else ()
    votes = np.zeros((num, len(labels)))
    if experiment.soft:
        votes = np.stack([_numbers(manifest, experiment.soft + label, least=0.0) for label in labels], 1)
        votes = np.nan_to_num(votes)
        votes /= np.maximum(votes.sum(1, keepdims=True), 1e-12)
    asked = np.isin(told.astype(str), labels)
    # Of an utterance of another class the votes for ours are not what it is; one without a consensus has only votes.
    votes[(told != "") & ~asked] = 0.0
    names = experiment.dimensions if experiment.has_ratings else ()
    ratings = np.stack([_numbers(manifest, name) for name in names], 1) if names else np.empty((num, 0))
    return Wanted(
        labels, np.where(asked, told, ""), votes, ratings, _why_not(told, asked | votes.any(1), ratings, experiment)
    )


def text_column(manifest: Manifest, name: str) -> NDArray[np.object_]:
    """A column of names.

    Raises:
        ManifestError: there is none.
        ProtocolError: it holds numbers.
    """
    cells = manifest.column(name)
    if name in NUMBER_COLUMNS:
        raise ProtocolError(f"column {name!r} holds numbers; expected names, such as those of classes or speakers")
    return cells


def _why_not(
    told: NDArray[np.object_], classed: NDArray[np.bool_], ratings: NDArray[np.float64], experiment: Experiment
) -> list[str]:
    rated = np.asarray((~np.isnan(ratings)).any(1))  # nobody is, where no ratings are asked for
    if experiment.task == "dimensional":
        return ["" if known else "no rating" for known in rated]
    if experiment.task == "both":
        return ["" if known else "no label and no rating" for known in rated | classed]
    return [
        "" if known else ("label not asked for" if label else "no label")
        for label, known in zip(told, classed, strict=True)
    ]


def _labels_there(told: NDArray[np.object_], experiment: Experiment) -> tuple[str, ...]:
    there = sorted(set(told.tolist()) - {""})
    for label in experiment.labels:
        if label not in there:
            raise ProtocolError(f"--labels: no utterance is labelled {label!r}; there are {', '.join(there) or 'none'}")
    return experiment.labels or tuple(there)


def check_labels(labels: Sequence[str], there: set[str]) -> None:
    """Raise ProtocolError unless each class is named once, has an utterance that can be used, and is not alone."""
    for label in labels:
        if label not in there:
            raise ProtocolError(f"no utterance labelled {label!r} can be used; drop it from --labels")
    if len(set(labels)) < len(labels):
        raise ProtocolError(f"--labels {','.join(labels)}: a class is named twice")
    if len(labels) < 2:
        raise ProtocolError(f"one class only ({', '.join(labels)}): there is nothing to tell apart")


def _numbers(manifest: Manifest, name: str, least: float = -np.inf) -> NDArray[np.float64]:
    """A column as numbers, NaN where empty; columns other than the manifest's own numbers come as text."""
    cells = manifest.column(name)
    if name in NUMBER_COLUMNS:
        return cells
    values = np.full(len(cells), np.nan)
    for row, (uid, cell) in enumerate(zip(manifest.ids, cells, strict=True)):
        if not cell:
            continue
        try:
            values[row] = float(cell)
        except ValueError:
            values[row] = np.nan
        if not (np.isfinite(values[row]) and values[row] >= least):
            kind = "a number" if least == -np.inf else f"a number of at least {least:g}"
            raise ProtocolError(f"utterance {uid!r}: column {name!r} holds {cell!r}; expected {kind}, or nothing")
    return values
