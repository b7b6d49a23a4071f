"""What the predictions of each row say beyond its summary: who is in them, each speaker's UA, and p against a row."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from mmser.metrics import unweighted_average_recall
from mmser.report.read import Row, Study
from mmser.train.aligned import ComparisonError
from mmser.train.compare import Difference, adjusted, compare_heads
from mmser.train.once import Report


@dataclass(frozen=True)
class Dataset:
    """The utterances that a row was tested on."""

    num_utterances: int
    classes: Mapping[str, int]
    """Utterances of each class, sorted; none where there are no classes."""
    speakers: Mapping[str, int]
    """Utterances of each speaker that is known, in the order of their names."""


@dataclass(frozen=True, eq=False)
class Examined:
    """A row and what its predictions say."""

    row: Row
    dataset: Dataset
    ua_of_speakers: Mapping[str, float]
    """UA over a speaker's own test utterances under all seeds, of the classes that he has."""
    differences: Mapping[str, Difference]
    """From the baseline, by figure (``UA``, ``CCC of valence``), p adjusted over the whole table."""
    not_compared: ComparisonError | None = None
    """Why there are none; None for the baseline itself."""


def examine(study: Study, baseline: Row, report: Report = lambda *_: None) -> list[Examined]:
    """Read every row's predictions once, and test each row against the baseline.

    Raises:
        ProtocolError: predictions are missing.
    """
    against = baseline.predictions()
    found: list[Difference] = []
    examined = []
    for number, row in enumerate(study.rows):
        report("report", number, len(study.rows))
        table, why_not = row.predictions(), None
        if row is not baseline:
            try:
                found += compare_heads((row.name, table), (baseline.name, against))
            except ComparisonError as error:  # other utterances or seeds: the row stays, without a p
                why_not = error.with_traceback(None)  # whose frames hold the tables
        examined.append((row, _dataset(table), _ua_of_speakers(table), why_not))
    report("report", len(study.rows), len(study.rows))
    by_row: dict[str, dict[str, Difference]] = {}
    for one in adjusted(found):
        by_row.setdefault(one.one, {})[one.figure] = one
    return [Examined(row, data, uas, by_row.get(row.name, {}), why) for row, data, uas, why in examined]


def _dataset(table: pd.DataFrame) -> Dataset:
    once = table.drop_duplicates("utterance_id")
    classes = (
        once["truth"][once["truth"] != ""].value_counts().sort_index() if "truth" in once else pd.Series(dtype=int)
    )
    speakers = once["speaker"][once["speaker"] != ""].value_counts().sort_index()
    return Dataset(
        len(once), {str(k): int(n) for k, n in classes.items()}, {str(k): int(n) for k, n in speakers.items()}
    )


def _ua_of_speakers(table: pd.DataFrame) -> dict[str, float]:
    if "truth" not in table:
        return {}
    known = table[(table["truth"] != "") & (table["speaker"] != "")]
    groups = known.groupby("speaker", sort=True)
    return {str(name): unweighted_average_recall(own["truth"], own["prediction"]) for name, own in groups}
