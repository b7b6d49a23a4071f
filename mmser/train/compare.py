"""Run folders beside each other: what each holds, and whether one is better than another on the same utterances."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmser.errors import ProtocolError
from mmser.metrics import concordance_correlation, unweighted_average_recall
from mmser.statistics import holm, paired_concordance_test, paired_permutation_test

_TEXT = {"utterance_id": str, "speaker": str, "truth": str, "prediction": str, "fold": str, "head": str}


@dataclass(frozen=True)
class Difference:
    """Two heads on the same utterances."""

    one: str
    other: str
    figure: str
    """``UA``, or ``CCC of <dimension>``."""
    value_one: float
    """Mean over seeds, of all test utterances together."""
    value_other: float
    p: float
    """Two-sided, by paired permutation of speakers."""
    p_holm: float
    """Adjusted for all differences that were looked at together."""
    clusters: int
    """Speakers whose predictions were swapped; with n of them p cannot fall below 2 / 2**n."""


def find_runs(root: Path) -> list[Path]:
    """Run folders at or below ``root``, sorted.

    Raises:
        ProtocolError: there is no such folder.
    """
    if not root.is_dir():
        raise ProtocolError(f"{root}: no such folder; run folders are written by mmser train-head")
    return sorted(path.parent for path in root.rglob("config.json") if path.parent.parent.name != "heads")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder.

    Raises:
        ProtocolError: it is not there, or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProtocolError(f"{path}: no such file; expected the folder of a finished mmser train-head") from None
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ProtocolError(f"{path}: expected a JSON object")
    return found


def compare(folders: Sequence[Path], *, num_permutations: int = 9999) -> list[Difference]:
    """Test every pair of run folders, or all heads of one folder, and adjust for having looked at all pairs (Holm).

    Of several folders each stands for its last head: a late fusion, not its members. Predictions of all seeds are
    compared seed by seed; those of one speaker are swapped together, under all seeds.

    Raises:
        ProtocolError: a folder is not finished; utterances, seeds, or what is true of them differ; nothing to compare.
            (Of runs for several tasks, the figures that both have are compared.)
    """
    tables = [read_predictions(folder) for folder in folders]
    if len(folders) == 1:
        named = [(str(head), own) for head, own in tables[0].groupby("head", sort=False)]
        if len(named) < 2:
            raise ProtocolError(f"{folders[0]}: one head only; name two run folders, or a late fusion with its members")
    else:
        if len(set(folders)) < len(folders):
            raise ProtocolError("a run folder is named twice; name different ones")
        last = [table[table["head"] == table["head"].iloc[-1]] for table in tables]
        named = [(str(folder), own) for folder, own in zip(folders, last, strict=True)]
    aligned = _aligned(named)
    found = []
    for i, k in combinations(range(len(named)), 2):
        pair = (named[i][0], aligned[i]), (named[k][0], aligned[k])
        found += _differences(*pair, _truths(aligned[0]), num_permutations)
    return adjusted(found)


def compare_heads(
    one: tuple[str, pd.DataFrame], other: tuple[str, pd.DataFrame], *, num_permutations: int = 9999
) -> list[Difference]:
    """Test two heads, each a name and its predictions, in every figure that both have; :func:`adjusted` is up to you.

    Raises:
        ProtocolError: as in :func:`compare`.
    """
    aligned = _aligned([one, other])
    return _differences((one[0], aligned[0]), (other[0], aligned[1]), _truths(aligned[0]), num_permutations)


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with p adjusted for having looked at all of them together (Holm)."""
    p_values = holm([one.p for one in differences])
    return [replace(one, p_holm=float(p)) for one, p in zip(differences, p_values, strict=True)]


def _differences(
    named: tuple[str, pd.DataFrame], named_other: tuple[str, pd.DataFrame], truths: Sequence[str], num_permutations: int
) -> list[Difference]:
    """A test for each figure of two aligned tables whose truth is agreed on; p is not adjusted yet."""
    (name, one), (other_name, other) = named, named_other
    clusters = np.where(one["speaker"] != "", one["speaker"], "?" + one["utterance_id"]).astype(str)
    found = []
    for figure, truth, said in _figures(truths, one, other):
        known = np.array([t == t and t != "" for t in truth], dtype=bool)  # NaN is not itself
        seeds, who = one["seed"].to_numpy()[known], clusters[known]
        told, (a, b) = truth[known], (own[known] for own in said)
        if figure == "UA":  # every seed has the same truths, so all together is the mean over seeds
            metric: Callable[[Any, Any], float] = unweighted_average_recall
            p = paired_permutation_test(metric, told, a, b, who, num_permutations=num_permutations)
        else:
            metric = _over_seeds(seeds)
            p = paired_concordance_test(told, a, b, who, seeds, num_permutations=num_permutations)
        values, num = (metric(told, a), metric(told, b)), len(np.unique(who))
        found.append(Difference(name, other_name, figure, *values, p=p, p_holm=p, clusters=num))
    return found


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions of a finished run folder, names as text.

    Raises:
        ProtocolError: it is not finished, or the file is damaged.
    """
    path = folder / "predictions.csv"
    if not path.exists():
        raise ProtocolError(f"{path}: no such file; {folder} is no finished run folder: train it to its end first")
    try:
        table = pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values={})
    except ValueError as error:  # pandas' own for an empty file or rows of unlike lengths are of this kind
        raise ProtocolError(f"{path}: not readable as CSV ({error}); train the run again") from error
    lacking = [name for name in ("utterance_id", "speaker", "fold", "seed", "head") if name not in table]
    if lacking:
        raise ProtocolError(f"{path}: no column {lacking[0]!r}; expected what mmser train-head writes: train it again")
    return table


def _aligned(named: Sequence[tuple[str, pd.DataFrame]]) -> list[pd.DataFrame]:
    """The tables in one order of seeds and utterances, after a check that it is the same for all."""
    tables = [own.sort_values(["seed", "utterance_id"], kind="stable").reset_index(drop=True) for _, own in named]
    (name, first) = named[0][0], tables[0]
    for (other_name, _), other in zip(named[1:], tables[1:], strict=True):
        seeds = [sorted(set(table["seed"])) for table in (first, other)]
        if seeds[0] != seeds[1]:
            raise ProtocolError(
                f"{name} has {len(seeds[0])} seeds and {other_name} {len(seeds[1])}; train both with the same --seeds"
            )
        ids = [set(table["utterance_id"]) for table in (first, other)]
        if ids[0] != ids[1]:
            only = sorted(ids[0] ^ ids[1])[0]
            raise ProtocolError(
                f"{name} was tested on {len(ids[0])} utterances and {other_name} on {len(ids[1])}, "
                f"{len(ids[0] & ids[1])} of them the same ({only!r} is in one only); only runs on the same utterances "
                "can be compared: train them with the same --labels, --folds and --missing, on streams of one corpus"
            )
        shared = [column for column in _truths(first) if column in other]
        if not shared:
            raise ProtocolError(f"{name} and {other_name} have no target in common: nothing to compare")
        for column in shared:
            differs = (first[column] != other[column]).to_numpy()
            if differs.any():
                row = int(differs.argmax())
                raise ProtocolError(
                    f"{name} and {other_name} do not agree on {column} of utterance {first['utterance_id'][row]!r}; "
                    "they were trained for other targets, or on another manifest"
                )
    return tables


def _truths(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name == "truth" or name.startswith("truth_")]


def _figures(
    truths: Sequence[str], one: pd.DataFrame, other: pd.DataFrame
) -> list[tuple[str, NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]]:
    """What can be compared: its name, the truth, and the predictions of both."""
    figures: list[tuple[str, NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]] = []
    for column in truths:
        if column not in one or column not in other:
            continue
        said = "prediction" + column.removeprefix("truth")
        if column == "truth":
            figures.append(("UA", one[column].to_numpy(), (one[said].to_numpy(), other[said].to_numpy())))
            continue
        truth, a, b = (pd.to_numeric(part).to_numpy(dtype=float) for part in (one[column], one[said], other[said]))
        figures.append((f"CCC of {column.removeprefix('truth_')}", truth, (a, b)))
    return figures


def _over_seeds(seeds: NDArray[Any]) -> Callable[[Any, Any], float]:
    """The CCC as the tables have it: mean over seeds."""
    rows = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    return lambda truth, said: float(np.mean([concordance_correlation(truth[own], said[own]) for own in rows]))
