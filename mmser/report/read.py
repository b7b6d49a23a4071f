"""What a report is of: an ablation, one run folder, or a folder that holds several, as one list of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mmser.ablate.folder import FORMAT, cell_folder
from mmser.checks import did_you_mean
from mmser.errors import ProtocolError
from mmser.train.predictions import check_predictions, read_predictions
from mmser.train.results import Line, RatingLine, line_of, rating_line_of
from mmser.train.runs import find_runs, read_json
from mmser.train.stored import read_config, read_summary

_NOT_FINISHED = "not finished: run the same command again, which goes on from there"


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table: a head of a run folder over all folds and seeds."""

    name: str
    """Of the cell or the run folder; of a fusion's member, ``FOLDER: MEMBER``. No two rows share one."""
    label: str
    """What the table calls it."""
    folder: Path
    head: str
    """As ``predictions.csv`` has it."""
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    line: Line | None
    """None where there are no classes."""
    ratings: tuple[RatingLine, ...]
    """One a dimension."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Where it stands in an ablation's grid."""
    is_member: bool = False
    """Of a fusion that is a row as well."""

    @property
    def experiment(self) -> Mapping[str, Any]:
        """What was asked for."""
        experiment: Mapping[str, Any] = self.config["experiment"]
        return experiment

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of the confusion matrix."""
        return list(self.summary["labels"])

    def predictions(self) -> pd.DataFrame:
        """What the head said of every test utterance, read anew."""
        table = read_predictions(self.folder)
        return table[table["head"] == self.head]


@dataclass(frozen=True, eq=False)
class Study:
    """Everything a report is of."""

    name: str
    rows: tuple[Row, ...]
    failed: Mapping[str, str]
    """Reason of what has no row, by name."""
    baseline: str | None = None
    """The row that an ablation is to be compared with."""
    command: str = ""
    """That of the ablation."""
    axes: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """The row of a name, or else of a label.

        Raises:
            ProtocolError: there is none, or several rows have this label.
        """
        found = [row for row in self.rows if row.name == name] or [row for row in self.rows if row.label == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise ProtocolError(f"{len(found)} rows are called {name!r}; take one of {_listed(found)}")
        meant = did_you_mean(name, [row.name for row in self.rows])
        raise ProtocolError(f"no row {name!r}{meant}; there are {_listed(self.rows)}")


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(row.name for row in rows)


def read_study(folder: Path) -> Study:
    """Read the folder of ``mmser ablate`` or ``mmser train-head``, or one that holds several of the latter.

    Raises:
        ProtocolError: there is nothing finished in it, or a file is missing or damaged.
    """
    if (folder / "ablation.json").exists():
        study = _ablation(folder)
    elif (folder / "config.json").exists():
        own = [replace(row, name=row.head, label=row.head) for row in _rows_of(folder, folder.name)]
        study = Study(folder.resolve().name, tuple(own), {})
    else:
        study = _several(folder)
    if not study.rows:
        failed = "".join(f"; {name}: {reason}" for name, reason in study.failed.items())
        raise ProtocolError(f"{folder}: no finished run to report of; mmser train-head writes run folders{failed}")
    return study


def _several(root: Path) -> Study:
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for folder in find_runs(root):
        name = str(folder.relative_to(root))
        own, why_not = _rows_or_reason(folder, name)
        rows += own
        failed |= {name: why_not} if why_not else {}
    return Study(root.resolve().name, tuple(rows), failed)


def _rows_or_reason(folder: Path, name: str) -> tuple[tuple[Row, ...], str]:
    """The rows of one run among several, or why there are none: the others are to be seen all the same."""
    if not (folder / "summary.json").exists():
        return (), _NOT_FINISHED
    try:
        return _rows_of(folder, name), ""
    except ProtocolError as error:
        return (), str(error)


def _rows_of(folder: Path, name: str) -> tuple[Row, ...]:
    """A row for each head; the last one has the folder's name, and those before are its members.

    Raises:
        ProtocolError: a file is missing or damaged.
    """
    config, summary = read_config(folder), read_summary(folder)
    check_predictions(folder, read_predictions(folder), summary)
    lines = [line_of(stored) for stored in summary["lines"]]
    ratings = [rating_line_of(stored) for stored in summary["rating_lines"]]
    heads = list(dict.fromkeys([*(line.head for line in lines), *(line.head for line in ratings)]))
    return tuple(
        Row(
            name=name if head == heads[-1] else f"{name}: {head}",
            label=name if head == heads[-1] else f"{name}: {head}",
            folder=folder,
            head=head,
            config=config,
            summary=summary,
            line=next((line for line in lines if line.head == head), None),
            ratings=tuple(line for line in ratings if line.head == head),
            is_member=head != heads[-1],
        )
        for head in heads
    )


def _ablation(folder: Path) -> Study:
    path = folder / "ablation.json"
    about = read_json(path)
    if about.get("format") != FORMAT:
        raise ProtocolError(f"{path}: format {about.get('format')!r}; this version of mmser reads {FORMAT}")
    try:
        return _study(folder, about)
    except (KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"{path}: not what mmser ablate writes ({error!r}); run the ablation again") from error


def _study(folder: Path, about: Mapping[str, Any]) -> Study:
    failed = _failures(folder / "failed.csv")
    rows = []
    for cell in about["cells"]:
        own = cell_folder(folder, cell["name"])
        if cell["name"] in failed:
            continue
        found, why_not = _rows_or_reason(own, cell["name"])
        failed |= {cell["name"]: why_not} if why_not else {}
        axes = {axis: str(value) for axis, value in cell["axes"].items()}
        rows += [replace(last, label=cell["row"], axes=axes) for last in found[-1:]]
    return Study(
        name=about["name"],
        rows=tuple(rows),
        failed=failed,
        baseline=about["baseline"],
        command=about["command"],
        axes=tuple(about["axes"]),
    )


def _failures(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(table["cell"], table["reason"], strict=True))
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"{path}: not the table that mmser ablate writes ({error}); run it again") from error
