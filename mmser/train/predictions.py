"""The predictions of a run folder, and whether they are those that its summary and its results are of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.errors import ProtocolError
from mmser.train.runs import BOTH_ANEW
from mmser.train.stored import read_results

_TEXT = {"utterance_id": str, "speaker": str, "truth": str, "prediction": str, "fold": str, "head": str}


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
    if table.empty:
        raise ProtocolError(f"{path}: no rows, expected one for each test utterance; {BOTH_ANEW}")
    if not pd.api.types.is_integer_dtype(table["seed"]):
        raise ProtocolError(f"{path}: not every seed is a whole number; {BOTH_ANEW}")
    for name in map(str, table):
        if name.startswith(("truth_", "prediction_")):  # ratings, among which some are not known
            table[name] = _numbers(table[name], path)
    return table


def check_predictions(folder: Path, table: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Refuse predictions that are not what a finished run writes: rows or columns lack, or hold something else.

    Args:
        folder: of the run.
        table: its predictions.
        summary: its summary.

    Raises:
        ProtocolError: what is wrong with ``predictions.csv``; or ``results.csv`` is not readable.
    """
    wrong = _wrong_rows(table, read_results(folder)) or _wrong_utterances(table) or _wrong_columns(table, summary)
    if wrong:
        raise ProtocolError(f"{folder / 'predictions.csv'}: {wrong}; {BOTH_ANEW}")


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    strange = column[numbers.isna() & column.notna() & (column.astype(str) != "")]
    if len(strange):
        raise ProtocolError(f"{path}: {column.name} {strange.iloc[0]!r}, expected a number; {BOTH_ANEW}")
    return numbers


def _wrong_rows(table: pd.DataFrame, results: pd.DataFrame) -> str:
    keys = ["head", "fold", "seed"]
    found = Counter(zip(*(table[name].astype(str) for name in keys), strict=True))
    told = dict(zip(zip(*(results[name].astype(str) for name in keys), strict=True), results["num_test"], strict=True))
    for key in dict.fromkeys([*told, *found]):
        if found[key] != told.get(key, 0):
            head, fold, seed = key
            return (
                f"{found[key]} rows of {head!r}, fold {fold!r}, seed {seed}; expected {told.get(key, 0)}, as "
                "results.csv has it"
            )
    return ""


def _wrong_utterances(table: pd.DataFrame) -> str:
    twice = table[table.duplicated(["head", "seed", "utterance_id"])]
    if len(twice):
        head, seed, uid = twice.iloc[0][["head", "seed", "utterance_id"]]
        return f"utterance {uid!r} twice of {head!r}, seed {seed}; expected once"
    times = table.groupby(["head", "utterance_id"])["seed"].transform("size")
    seeds = table.groupby("head")["seed"].transform("nunique")
    rare = table[times < seeds]
    if len(rare):
        head, uid = rare.iloc[0][["head", "utterance_id"]]
        return f"utterance {uid!r} of {head!r} under {times[rare.index[0]]} seeds; expected all {seeds[rare.index[0]]}"
    return ""


def _wrong_columns(table: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    labels: Sequence[str] = summary["labels"]
    dimensions = list(dict.fromkeys(line["dimension"] for line in summary["rating_lines"]))
    names = {"truth": {*labels, ""}, "prediction": {*labels}} if labels else {}
    numbers = [f"p_{label}" for label in labels]
    numbers += [f"{what}_{name}" for what in ("truth", "prediction") for name in dimensions]
    for column in (*names, *numbers):
        if column not in table:
            return f"no column {column!r}, which summary.json asks for"
    for column, known in names.items():
        strange = table[column][~table[column].isin(known)]
        if len(strange):
            return f"{column} {strange.iloc[0]!r}, which is none of the classes of summary.json"
    for column in numbers:
        given = table[column][(table[column] != "") & table[column].notna()]
        strange = given[pd.to_numeric(given, errors="coerce").isna()]
        if len(strange):
            return f"{column} {strange.iloc[0]!r}, expected a number, or nothing"
    return ""
