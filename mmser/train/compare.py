"""Run folders beside each other: whether one is better than another where both were tested."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.statistics import holm, paired_concordance_test, paired_permutation_test
from mmser.train.aligned import ComparisonError, Named, aligned, num_utterances, truths
from mmser.train.predictions import check_predictions, read_predictions
from mmser.train.results import clusters
from mmser.train.stored import read_summary


@dataclass(frozen=True)
class Difference:
    """Two heads on the utterances that both were tested on."""

    one: str
    other: str
    figure: str
    """``UA``, or ``CCC of <dimension>``."""
    value_one: float
    """Mean over seeds, of all these utterances together."""
    value_other: float
    p: float
    """Two-sided, by paired permutation of ``unit``."""
    p_holm: float
    """Adjusted for all differences that were looked at together."""
    clusters: int
    """How many units were swapped; with n of them p cannot fall below 2 / 2**n."""
    unit: Literal["speaker", "utterance"]
    """Whose predictions were swapped together, under all seeds; ``"utterance"`` where no speaker is known, or all are
    one's."""
    utterances: int
    """Those that both were tested on and whose class, or rating, is known: values and p are of them."""
    utterances_one: int
    """Those that the one was tested on and whose class, or rating, is known."""
    utterances_other: int

    @property
    def is_on_fewer(self) -> bool:
        """Whether one of them was tested on utterances that the other was not."""
        return self.utterances < max(self.utterances_one, self.utterances_other)


def compare(folders: Sequence[Path], *, num_permutations: int = 9999) -> list[Difference]:
    """Test every pair of run folders, or all heads of one folder, and adjust for having looked at all pairs (Holm).

    Of several folders each stands for its last head: a late fusion, not its members. Predictions of all seeds are
    compared seed by seed; those of one speaker are swapped together, under all seeds (where no two speakers are known,
    those of one utterance). Where one of a pair was not tested on some utterances of the other, which are few, the pair
    is compared on those of both.

    Raises:
        ProtocolError: a folder is not finished, a file of it is damaged, or there is one head only.
        ComparisonError: as of :func:`mmser.train.aligned.aligned`. (Of runs for several tasks, the figures that both
            have are compared.)
    """
    tables = [_checked(folder) for folder in folders]
    if len(folders) == 1:
        named = [(str(head), own) for head, own in tables[0].groupby("head", sort=False)]
        if len(named) < 2:
            raise ProtocolError(f"{folders[0]}: one head only; name two run folders, or a late fusion with its members")
    else:
        if len(set(folders)) < len(folders):
            raise ProtocolError("a run folder is named twice; name different ones")
        last = [table[table["head"] == table["head"].iloc[-1]] for table in tables]
        named = [(str(folder), own) for folder, own in zip(folders, last, strict=True)]
    pairs = combinations(named, 2)
    return adjusted([found for pair in pairs for found in compare_heads(*pair, num_permutations=num_permutations)])


def _checked(folder: Path) -> pd.DataFrame:
    table = read_predictions(folder)
    check_predictions(folder, table, read_summary(folder))
    return table


def compare_heads(one: Named, other: Named, *, num_permutations: int = 9999) -> list[Difference]:
    """Test two heads in every figure that both have; :func:`adjusted` is up to you.

    Raises:
        ComparisonError: as of :func:`mmser.train.aligned.aligned`.
    """
    first, second = aligned(one, other)
    speakers, ids = first["speaker"].tolist(), first["utterance_id"].tolist()
    found = []
    for figure, column in _figures(first, second):
        known, said = _is_known(first[column]), column.replace("truth", "prediction", 1)
        seeds, (who, unit) = first["seed"].to_numpy()[known], clusters(np.flatnonzero(known), speakers, ids)
        told, a, b = (part.to_numpy()[known] for part in (first[column], first[said], second[said]))
        if figure == "UA":  # every seed has the same truths, so all together is the mean over seeds
            metric: Callable[[Any, Any], float] = unweighted_average_recall
            p = paired_permutation_test(metric, told, a, b, who, num_permutations=num_permutations)
        else:
            for name, own in ((one[0], a), (other[0], b)):
                _check_finite(own, name, figure)
            metric = _over_seeds(seeds)
            p = paired_concordance_test(told, a, b, who, seeds, num_permutations=num_permutations)
        values, num = (metric(told, a), metric(told, b)), len(np.unique(who))
        counts = [num_utterances(own[_is_known(own[column])]) for own in (first, one[1], other[1])]
        found.append(Difference(one[0], other[0], figure, *values, p, p, num, unit, *counts))
    return found


def _check_finite(said: NDArray[Any], name: str, figure: str) -> None:
    odd = int((~np.isfinite(said)).sum())
    if odd:
        raise ComparisonError(
            f"{odd} of the {len(said)} answers of {name} that make its {figure} are no finite numbers",
            "train it with a lower --learning-rate, or compare others",
        )


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with p adjusted for having looked at all of them together (Holm)."""
    p_values = holm([one.p for one in differences])
    return [replace(one, p_holm=float(p)) for one, p in zip(differences, p_values, strict=True)]


def _figures(one: pd.DataFrame, other: pd.DataFrame) -> list[tuple[str, str]]:
    """What can be compared: its name, and the column of the truth."""
    shared = [column for column in truths(one) if column in other]
    return [("UA" if name == "truth" else f"CCC of {name.removeprefix('truth_')}", name) for name in shared]


def _is_known(truth: pd.Series) -> NDArray[np.bool_]:
    return np.asarray(truth.notna() & (truth != ""), dtype=bool)


def _over_seeds(seeds: NDArray[Any]) -> Callable[[Any, Any], float]:
    """The CCC as the tables have it: mean over seeds."""
    rows = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    return lambda truth, said: float(np.mean([concordance_correlation(truth[own], said[own]) for own in rows]))
