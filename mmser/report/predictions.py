"""Whether the predictions of a run are those that its summary and its results are of; a report takes no others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.errors import ProtocolError
from mmser.train.compare import BOTH_ANEW, read_predictions
from mmser.train.stored import read_results


def check_predictions(folder: Path, summary: Mapping[str, Any]) -> None:
    """Refuse predictions that are not what a finished run writes: rows or columns lack, or hold something else.

    Args:
        folder: of the run.
        summary: its summary.

    Raises:
        ProtocolError: what is wrong with ``predictions.csv``; or it or ``results.csv`` is not readable.
    """
    path, table = folder / "predictions.csv", read_predictions(folder)
    wrong = _wrong_rows(table, read_results(folder)) or _wrong_columns(table, summary)
    if wrong:
        raise ProtocolError(f"{path}: {wrong}; {BOTH_ANEW}")


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
