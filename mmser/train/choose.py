"""Which utterances an experiment is made on: those that heads can see and that have a target, and their folds."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.manifest import Manifest
from mmser.train.options import Experiment
from mmser.train.protocol import Fold, HoldOut, folds_from_split, make_folds
from mmser.train.wanted import check_labels, text_column, wanted_of

SPLIT = "split"
"""The column that gives the corpus's own parts."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The utterances of an experiment, a row each, in the order of the manifest."""

    ids: list[str]
    labels: tuple[str, ...]
    """The classes, by number."""
    truth: NDArray[np.int64]
    """(n,) class number of each row; -1 where it is not known."""
    shares: NDArray[np.float32]
    """(n, classes) what the loss asks for: the votes, or all to the label; zeros where neither is known."""
    dimensions: tuple[str, ...]
    """What is rated."""
    ratings: NDArray[np.float64]
    """(n, dimensions), NaN where not known."""
    speakers: list[str]
    """Speaker of each row, "" where not known."""
    folds: list[Fold]
    left_out: dict[str, int]
    """Utterances of the manifest that are no rows, counted by reason."""

    @property
    def num_tested(self) -> int:
        """Utterances that are in a test part."""
        return len(np.unique(np.concatenate([fold.test for fold in self.folds])))

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        unchecked = max(fold.num_unchecked for fold in self.folds)
        if not unchecked:
            return []
        return [f"the speaker of {unchecked} utterances is not known: nothing can check that folds share no speaker"]

    def digests(self) -> dict[str, str]:
        """A digest of each thing that a trained head depends on, to tell whether it may be used again."""
        folds = [[fold.name, *(fold.part(part).tolist() for part in ("train", "dev", "test"))] for fold in self.folds]
        digests = {
            "utterances": _digest(self.ids),
            "classes": _digest([self.labels, self.truth.tolist(), self.shares.tolist()]),
            "speakers": _digest(self.speakers),
            "folds": _digest(folds),
        }
        return digests | ({"ratings": _digest(self.ratings.tolist())} if self.dimensions else {})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def choose(manifest: Manifest, reasons: Mapping[str, str], experiment: Experiment) -> Chosen:
    """Take the utterances that can be used, and divide them.

    Args:
        manifest: all utterances.
        reasons: those that some head could not see, with the reason (:meth:`mmser.train.features.Sources.without`).
        experiment: its columns and classes.

    Raises:
        ManifestError: no such column.
        ProtocolError: a column of the wrong kind, a class that nothing is labelled with, fewer than two classes, or
            folds that :mod:`mmser.train.protocol` refuses.
    """
    values, wanted = text_column(manifest, experiment.folds), wanted_of(manifest, experiment)
    why = dict(reasons)
    for uid, nothing, value in zip(manifest.ids, wanted.why_not, values, strict=True):
        if nothing:
            why[uid] = nothing
        elif _in_other_test(value, experiment):
            why[uid] = "in another test part"
    keep = np.array([uid not in why for uid in manifest.ids], dtype=bool)
    left_out = dict(Counter(why[uid] for uid in manifest.ids if uid in why))
    if not keep.any():
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise ProtocolError(f"no utterance can be used: {counted}")
    classes, votes = wanted.classes[keep], wanted.votes[keep]
    there = set(classes) - {""}
    order = [i for i, label in enumerate(wanted.labels) if experiment.labels or label in there]
    labels = tuple(wanted.labels[i] for i in order)
    if experiment.has_classes:
        check_labels(labels, there)
    known = "speaker" in manifest.table.columns
    speakers = text_column(manifest, "speaker")[keep].tolist() if known else [""] * int(keep.sum())
    number = {label: i for i, label in enumerate(labels)} | {"": -1}
    truth = np.array([number[label] for label in classes], dtype=np.int64)
    return Chosen(
        ids=[uid for uid, kept in zip(manifest.ids, keep, strict=True) if kept],
        labels=labels,
        truth=truth,
        shares=_shares(truth, votes[:, order]),
        dimensions=experiment.dimensions if experiment.has_ratings else (),
        ratings=wanted.ratings[keep],
        speakers=speakers,
        folds=_folds(values[keep].tolist(), speakers, classes.tolist() if experiment.has_classes else None, experiment),
        left_out=left_out,
    )


def _shares(truth: NDArray[np.int64], votes: NDArray[np.float64]) -> NDArray[np.float32]:
    """The votes where there are any, else all to the label."""
    one_hot = (truth[:, None] == np.arange(votes.shape[1])).astype(np.float64)
    return np.where(votes.any(1, keepdims=True), votes, one_hot).astype(np.float32)


def _in_other_test(value: str, experiment: Experiment) -> bool:
    """Whether it belongs to a test part that is not to be opened."""
    if experiment.folds != SPLIT or experiment.test_split is None:
        return False
    part = value.strip().lower()
    return part.startswith("test") and part != experiment.test_split.strip().lower()


def _folds(values: list[str], speakers: list[str], classes: list[str] | None, experiment: Experiment) -> list[Fold]:
    hold_out = HoldOut(experiment.dev_share, experiment.dev_seed) if experiment.dev == "speaker" else None
    if experiment.folds == SPLIT:
        return folds_from_split(values, speakers, classes, test=experiment.test_split, hold_out=hold_out)
    if experiment.test_split is not None:
        raise ProtocolError(f"--test-split {experiment.test_split}: belongs to --folds {SPLIT}")
    return make_folds(values, speakers, classes, hold_out=hold_out, column=experiment.folds)
