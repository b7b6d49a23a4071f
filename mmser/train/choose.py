"""Which utterances an experiment is made on: those that every head can see and that have a class, and their folds."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.manifest import Manifest
from mmser.manifest.table import NUMBER_COLUMNS
from mmser.train.options import Experiment
from mmser.train.protocol import Fold, folds_from_split, make_folds

SPLIT = "split"
"""The column that gives the corpus's own parts."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The utterances of an experiment, a row each, in the order of the manifest."""

    ids: list[str]
    labels: tuple[str, ...]
    """The classes, by number."""
    truth: NDArray[np.int64]
    """(n,) class number of each row."""
    speakers: list[str]
    """Speaker of each row, "" where not known."""
    folds: list[Fold]
    left_out: dict[str, int]
    """Utterances of the manifest that are no rows, counted by reason."""

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
        return {
            "utterances": _digest(self.ids),
            "classes": _digest([self.labels, self.truth.tolist()]),
            "speakers": _digest(self.speakers),
            "folds": _digest(folds),
        }


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
        ProtocolError: a column of numbers for classes or folds, a class that nothing is labelled with, fewer than two
            classes, or folds that :mod:`mmser.train.protocol` refuses.
    """
    values, classes = (_text_column(manifest, name) for name in (experiment.folds, experiment.label))
    wanted = _wanted(classes, experiment)
    why = dict(reasons)
    for uid, label, value in zip(manifest.ids, classes, values, strict=True):
        if label not in wanted:
            why[uid] = "no label" if not label else "label not asked for"
        elif _in_other_test(value, experiment):
            why[uid] = "in another test part"
    keep = np.array([uid not in why for uid in manifest.ids], dtype=bool)
    left_out = dict(Counter(why[uid] for uid in manifest.ids if uid in why))
    if not keep.any():
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise ProtocolError(f"no utterance can be used: {counted}")
    labels = _labels(classes[keep], experiment)
    known = "speaker" in manifest.table.columns
    speakers = _text_column(manifest, "speaker")[keep].tolist() if known else [""] * int(keep.sum())
    number = {label: i for i, label in enumerate(labels)}
    return Chosen(
        ids=[uid for uid, kept in zip(manifest.ids, keep, strict=True) if kept],
        labels=labels,
        truth=np.array([number[label] for label in classes[keep]], dtype=np.int64),
        speakers=speakers,
        folds=_folds(values[keep].tolist(), speakers, classes[keep].tolist(), experiment),
        left_out=left_out,
    )


def _text_column(manifest: Manifest, name: str) -> NDArray[np.object_]:
    cells = manifest.column(name)
    if name in NUMBER_COLUMNS:
        raise ProtocolError(f"column {name!r} holds numbers; expected names, such as those of classes or speakers")
    return cells


def _wanted(classes: NDArray[np.object_], experiment: Experiment) -> set[str]:
    there = sorted(set(classes.tolist()) - {""})
    for label in experiment.labels:
        if label not in there:
            raise ProtocolError(f"--labels: no utterance is labelled {label!r}; there are {', '.join(there) or 'none'}")
    return set(experiment.labels or there)


def _in_other_test(value: str, experiment: Experiment) -> bool:
    """Whether it belongs to a test part that is not to be opened."""
    if experiment.folds != SPLIT or experiment.test_split is None:
        return False
    part = value.strip().lower()
    return part.startswith("test") and part != experiment.test_split.strip().lower()


def _labels(classes: Sequence[str] | NDArray[np.object_], experiment: Experiment) -> tuple[str, ...]:
    """The classes in the order asked for, or sorted; every one has an utterance."""
    there = set(classes)
    labels = experiment.labels or tuple(sorted(there))
    for label in labels:
        if label not in there:
            raise ProtocolError(f"no utterance labelled {label!r} can be used; drop it from --labels")
    if len(set(labels)) < len(labels):
        raise ProtocolError(f"--labels {','.join(labels)}: a class is named twice")
    if len(labels) < 2:
        raise ProtocolError(f"one class only ({', '.join(labels)}): there is nothing to tell apart")
    return labels


def _folds(values: list[str], speakers: list[str], classes: list[str], experiment: Experiment) -> list[Fold]:
    if experiment.folds == SPLIT:
        return folds_from_split(values, speakers, classes, test=experiment.test_split)
    if experiment.test_split is not None:
        raise ProtocolError(f"--test-split {experiment.test_split}: belongs to --folds {SPLIT}")
    return make_folds(values, speakers, classes)
