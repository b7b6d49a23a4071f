"""Two heads' predictions in one order, on the utterances that both were tested on; or why they do not compare."""

import pandas as pd

from mmser.errors import ProtocolError

MOST_LACKING = 0.05
"""Share of one head's test utterances that the other may not have been tested on: recordings without a tier of labels
or a transcript are few; more is another corpus, another part of it, or other classes."""

Named = tuple[str, pd.DataFrame]
"""A head's name and its rows of ``predictions.csv``."""


class ComparisonError(ProtocolError):
    """Two heads that no test can hold against each other."""

    def __init__(self, found: str, remedy: str) -> None:
        """``remedy`` is the same for all pairs that are in the same way unlike."""
        super().__init__(f"{found}; {remedy}")
        self.remedy = remedy


def aligned(one: Named, other: Named) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both on the utterances that both were tested on, in one order of seeds and utterances.

    Raises:
        ComparisonError: they have other seeds, too few utterances in common, none of some class, nothing to be compared
            in, or disagree on what is true or, where one lacks utterances, on the folds of the others.
    """
    _check_seeds(one, other)
    tables = _on_common(one, other)
    first, second = (own.sort_values(["seed", "utterance_id"], kind="stable").reset_index(drop=True) for own in tables)
    names = f"{one[0]} and {other[0]}"
    shared = [column for column in truths(first) if column in second]
    if not shared:
        raise ComparisonError(f"{names} have no target in common", "nothing to compare")
    remedy = "they were trained for other targets, or on another manifest"
    for column in shared:
        _check_same(names, column, first, second, remedy)
    if len(first) < max(len(one[1]), len(other[1])):
        _check_same(
            names, "fold", first, second, "where one lacks utterances, folds have to agree: take the same --folds"
        )
        _check_classes(names, first, (one[1], other[1]))
    return first, second


def truths(table: pd.DataFrame) -> list[str]:
    """The columns that say what is true: of the class, and of each dimension."""
    return [name for name in table.columns if name == "truth" or name.startswith("truth_")]


def num_utterances(table: pd.DataFrame) -> int:
    """Utterances, each counted once whatever the number of seeds."""
    return int(table["utterance_id"].nunique())


def _check_seeds(one: Named, other: Named) -> None:
    seeds = [sorted(set(table["seed"])) for _, table in (one, other)]
    if seeds[0] != seeds[1]:
        found = f"{one[0]} has {len(seeds[0])} seeds and {other[0]} {len(seeds[1])}"
        raise ComparisonError(found, "train both with the same --seeds")


def _on_common(one: Named, other: Named) -> list[pd.DataFrame]:
    ids = [set(table["utterance_id"]) for _, table in (one, other)]
    common, most = ids[0] & ids[1], max(map(len, ids))
    if most - len(common) > MOST_LACKING * most:
        only = sorted(ids[0] ^ ids[1])[0]
        raise ComparisonError(
            f"{one[0]} was tested on {len(ids[0])} utterances and {other[0]} on {len(ids[1])}, {len(common)} of them "
            f"the same ({only!r} is in one only)",
            f"at most {100 * MOST_LACKING:g} % of either may be missing in the other: train both with the same "
            "--labels, --folds and --missing, on streams of one corpus",
        )
    return [table[table["utterance_id"].isin(common)] for _, table in (one, other)]


def _check_same(names: str, column: str, first: pd.DataFrame, second: pd.DataFrame, remedy: str) -> None:
    unknown = first[column].isna() & second[column].isna()  # NaN is not itself
    differs = ((first[column] != second[column]) & ~unknown).to_numpy()
    if differs.any():
        uid = first["utterance_id"][int(differs.argmax())]
        raise ComparisonError(f"{names} do not agree on {column} of utterance {uid!r}", remedy)


def _check_classes(names: str, common: pd.DataFrame, whole: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Raise ComparisonError where all utterances of a class are among those that one of two heads lacks."""
    if not all("truth" in own for own in whole):
        return
    lost = sorted((set(whole[0]["truth"]) | set(whole[1]["truth"])) - {*common["truth"], ""})
    if lost:
        found = f"{names} were both tested on no utterance of class {lost[0]!r}"
        raise ComparisonError(found, "train both with the same --labels")
