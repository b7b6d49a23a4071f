"""Who trains, who selects, who tests. Nothing here can put one speaker, or one utterance, on two sides."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.train.plan import derive

PARTS = ("train", "dev", "test")

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}
"""What corpora call their training and development parts, in lower case; a test part begins with "test"."""


@dataclass(frozen=True)
class HoldOut:
    """Dev speakers are drawn from the training part of each fold."""

    share: float = 0.2
    """Of the training part's speakers, rounded; at least one, and never all."""
    seed: int = 0
    """Other seeds draw other speakers; each fold has a draw of its own."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of a corpus; the arrays hold row numbers in ascending order."""

    name: str
    """The value of the fold column that is tested, or the name of the test split."""
    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    """Selects the epoch, and whatever else is selected."""
    test: NDArray[np.int64]
    """Opened once, after training."""
    num_unchecked: int = 0
    """Utterances whose speaker is not known, which no check can keep apart."""

    def part(self, name: str) -> NDArray[np.int64]:
        """The rows of ``"train"``, ``"dev"`` or ``"test"``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]


def make_folds(
    fold_values: Sequence[str],
    speakers: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    *,
    hold_out: HoldOut | None = None,
    column: str = "fold",
) -> list[Fold]:
    """Leave one value of a column out: each value is test once, the next one is dev, the rest trains.

    Values are in natural order (``2`` before ``10``), and the next of the last is the first: session 1 is tested with
    session 2 as dev, ..., session 5 with session 1.

    Args:
        fold_values: each utterance's session, speaker or fold, never empty.
        speakers: each utterance's speaker, "" where not known; None: nobody's is known.
        labels: each utterance's label, "" where it has none; None: no labels to check (ratings).
        hold_out: how to draw dev speakers from the training part; None: the next value is dev.
        column: what messages call the column.

    Raises:
        ProtocolError: fewer than 3 values (2 with ``hold_out``); fewer than 2 speakers to draw from; an utterance
            without a value; a speaker in two parts of a fold; a label that occurs under one value only, or is missing
            from a fold's training part.

    >>> [(f.name, f.train.tolist(), f.dev.tolist(), f.test.tolist()) for f in make_folds(["s1", "s2", "s10", "s2"])]
    [('s1', [2], [1, 3], [0]), ('s2', [0], [2], [1, 3]), ('s10', [1, 3], [0], [2])]
    """
    values = np.asarray(fold_values, dtype=str)
    _check_filled(values, column)
    names = sorted(set(values.tolist()), key=_natural)
    if len(names) < (3 if hold_out is None else 2):
        takes = "one for dev takes at least 3" if hold_out is None else "training on another takes at least 2"
        raise ProtocolError(
            f"the {column} column has {len(names)} different values ({', '.join(names)}); leaving one out for test and "
            f"{takes}: choose another column, or give a split column"
        )
    if labels is not None:
        _check_labels_spread(values, np.asarray(labels, dtype=str))
    folds = []
    for number, name in enumerate(names):
        test, dev = values == name, values == names[(number + 1) % len(names)]
        if hold_out is not None:
            dev = _held_out(name, ~test, speakers, hold_out)
        folds.append(_fold(name, ~(test | dev), dev, test, speakers, labels))
    return folds


def folds_from_split(
    split_values: Sequence[str],
    speakers: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    *,
    test: str | None = None,
    hold_out: HoldOut | None = None,
) -> list[Fold]:
    """The corpus's own division, as one fold.

    Args:
        split_values: train (or training), dev (development, val, valid, validation), and test or any name that
            begins so (``Test1``), in any case.
        speakers: as in :func:`make_folds`.
        labels: as in :func:`make_folds`.
        test: which test part to open, where there are several; the others are then left out of the fold. MSP-Podcast's
            Test1, Test2 and Test3 share speakers, so they are never joined.
        hold_out: how to draw dev speakers from the training part, for splits that have no dev part of their own.

    Raises:
        ProtocolError: a dev part where one is to be drawn; a value that is no split, a part without utterances, several
            test parts and none chosen, a speaker in two parts, a label that is missing from training.

    >>> fold, = folds_from_split(["Train", "Development", "Test1", "Test2"], test="test1")
    >>> fold.name, fold.train.tolist(), fold.dev.tolist(), fold.test.tolist()
    ('test1', [0], [1], [2])
    """
    values = np.char.lower(np.char.strip(np.asarray(split_values, dtype=str)))
    _check_filled(values, "split")
    chosen = _chosen_test(values, test)
    parts = np.array([_SPLIT_NAMES.get(value, value) for value in values.tolist()], dtype=str)
    train, dev = parts == "train", parts == "dev"
    if hold_out is not None:
        if dev.any():
            raise ProtocolError(
                f"the split column gives a dev part ({int(dev.sum())} utterances): dev speakers are not drawn from the "
                "training part as well; leave --dev out"
            )
        dev = _held_out(chosen, train, speakers, hold_out)
    return [_fold(chosen, train & ~dev, dev, parts == chosen, speakers, labels)]


def _held_out(
    fold: str, train: NDArray[np.bool_], speakers: Sequence[str] | None, hold_out: HoldOut
) -> NDArray[np.bool_]:
    """The utterances of the dev speakers of a fold; a speaker's draw depends on who else is there in rank alone."""
    names = np.full(len(train), "") if speakers is None else np.asarray(speakers, dtype=str)
    known = sorted(set(names[train].tolist()) - {""}, key=_natural)
    if len(known) < 2:
        raise ProtocolError(
            f"fold {fold!r}: the training part has {len(known)} known speakers; holding some out for dev takes at "
            "least 2: choose another --dev, or name the speakers"
        )
    num = min(len(known) - 1, max(1, round(hold_out.share * len(known))))
    drawn = sorted(known, key=lambda name: derive(hold_out.seed, "dev", fold, name))[:num]
    return train & np.isin(names, drawn)


def _chosen_test(values: NDArray[np.str_], test: str | None) -> str:
    """The test part to open, of those among the split column's values in lower case."""
    tests = sorted({value for value in values.tolist() if value.startswith("test")}, key=_natural)
    unknown = sorted(set(values.tolist()) - set(tests) - set(_SPLIT_NAMES))
    if unknown:
        raise ProtocolError(
            f"the split column holds {', '.join(map(repr, unknown))}; expected train, dev (development, validation) "
            "and test (test1, ...)"
        )
    counts = Counter(values.tolist())
    if test is None and len(tests) > 1:
        listed = ", ".join(f"{name} ({counts[name]})" for name in tests)
        raise ProtocolError(f"the split column holds several test parts: {listed}; choose one with --test-split")
    if test is None:
        return tests[0] if tests else "test"
    chosen = test.strip().lower()
    if chosen not in tests:
        raise ProtocolError(f"no utterance is in split {test!r}; test parts found: {', '.join(tests) or 'none'}")
    return chosen


def _fold(
    name: str,
    train: NDArray[np.bool_],
    dev: NDArray[np.bool_],
    test: NDArray[np.bool_],
    speakers: Sequence[str] | None,
    labels: Sequence[str] | None,
) -> Fold:
    """A fold that has passed every check."""
    used = train | dev | test
    known = np.zeros_like(used) if speakers is None else np.asarray(speakers, dtype=str) != ""
    unchecked = int((used & ~known).sum())
    fold = Fold(name, np.flatnonzero(train), np.flatnonzero(dev), np.flatnonzero(test), unchecked)
    for part in PARTS:
        if not len(fold.part(part)):
            raise ProtocolError(f"fold {name!r}: no utterance is in {part}")
    if speakers is not None:
        _check_speakers(fold, np.asarray(speakers, dtype=str))
    if labels is not None:
        _check_labels_trained(fold, np.asarray(labels, dtype=str))
    return fold


def _check_filled(values: NDArray[np.str_], column: str) -> None:
    empty = int((values == "").sum())
    if empty or not len(values):
        raise ProtocolError(
            f"{empty} of {len(values)} utterances have no value in the {column} column; fill it, or choose another"
        )


def _check_speakers(fold: Fold, speakers: NDArray[np.str_]) -> None:
    counts = {part: Counter(speakers[fold.part(part)].tolist()) for part in PARTS}
    for one, other in combinations(PARTS, 2):
        shared = sorted((counts[one].keys() & counts[other].keys()) - {""}, key=_natural)
        if shared:
            speaker = shared[0]
            more = f" (and {len(shared) - 1} more speakers)" if len(shared) > 1 else ""
            raise ProtocolError(
                f"fold {fold.name!r}: speaker {speaker!r} is in {one} ({counts[one][speaker]} utterances) and in "
                f"{other} ({counts[other][speaker]}){more}; folds must not share speakers: choose another fold column"
            )


def _check_labels_spread(values: NDArray[np.str_], labels: NDArray[np.str_]) -> None:
    for label in np.unique(labels[labels != ""]):
        homes = np.unique(values[labels == label])
        if len(homes) == 1:
            raise ProtocolError(
                f"label {str(label)!r} occurs only in fold {str(homes[0])!r} ({int((labels == label).sum())} "
                "utterances): it could be tested but never trained; drop it with --labels or choose other folds"
            )


def _check_labels_trained(fold: Fold, labels: NDArray[np.str_]) -> None:
    trained = set(labels[fold.train].tolist())
    for part in ("dev", "test"):
        for label, count in sorted(Counter(labels[fold.part(part)].tolist()).items()):
            if label and label not in trained:
                raise ProtocolError(
                    f"fold {fold.name!r}: label {label!r} is in {part} ({count} utterances) but not in train; "
                    "drop it with --labels or choose other folds"
                )


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key in which the numbers inside a name count as numbers."""
    pieces = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return tuple((not digits, int(digits or 0), digits or other) for digits, other in pieces)
