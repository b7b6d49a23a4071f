"""From a folder of runs to the report that is written into it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmser.cache import Cache
from mmser.report.examine import examine
from mmser.report.explorer import MOST_HEADS, Explored, write_explorer
from mmser.report.page import page_of
from mmser.report.read import read_study
from mmser.report.tables import Table, frame_of, latex_of, markdown_of, table_of
from mmser.train.folder import write_csv, write_text
from mmser.train.once import Report

EXPLORER = "explorer.html"
"""A page beside the report that shows single utterances; linked to where it is there."""


@dataclass(frozen=True, eq=False)
class Written:
    """What a report consists of."""

    page: Path
    tables: tuple[Path, ...]
    """CSV, Markdown, LaTeX."""
    table: Table
    figures: pd.DataFrame
    """The table in full, as the CSV has it."""


def write_report(folder: Path, *, baseline: str | None = None, report: Report = lambda *_: None) -> Written:
    """Write ``table.csv``, ``table.md``, ``table.tex`` and ``report.html`` into a folder, each whole or not at all.

    Args:
        folder: of an ablation, of a run, or one that holds several runs.
        baseline: the row that the others are compared with; None: the ablation's own, or else the first.
        report: told how far it is.

    Raises:
        ProtocolError: nothing is finished in it, there is no such row, or a file is damaged.
    """
    study = read_study(folder)
    finished = {row.name for row in study.rows}
    usual = study.baseline if study.baseline in finished else study.rows[0].name
    row = study.row(baseline or usual)
    examined = examine(study, row, report)
    table = table_of(study, examined, row)
    paths = tuple(folder / f"table.{ending}" for ending in ("csv", "md", "tex"))
    figures = frame_of(study, examined, row)
    write_csv(figures, paths[0])
    write_text(paths[1], markdown_of(table))
    write_text(paths[2], latex_of(table))
    explorer = EXPLORER if (folder / EXPLORER).exists() else None
    page = folder / "report.html"
    write_text(page, page_of(study, examined, row, table, explorer))
    return Written(page, paths, table, figures)


def explore(
    folder: Path,
    cache: Path,
    *,
    with_audio: bool = False,
    limit: int | None = None,
    rows: Sequence[str] = (),
    report: Report = lambda *_: None,
) -> Explored:
    """Write ``explorer.html`` into a folder; write the report after it, which then links to it.

    Args:
        folder: as of :func:`write_report`.
        cache: the cache that its runs were trained on.
        with_audio: whether the page holds recordings.
        limit: utterances that are shown in detail; None: :data:`mmser.report.explorer.LIMIT`.
        rows: the rows of the report whose heads are shown; none: the best :data:`mmser.report.explorer.MOST_HEADS`.
        report: told how far it is.

    Raises:
        MmserError: as :func:`mmser.report.explorer.write_explorer`, and where nothing is finished in the folder.
    """
    study = read_study(folder)
    shown = [study.row(name) for name in rows] or study.rows
    labels = Counter(row.label for row in shown)
    names = {(row.folder, row.head): row.label if labels[row.label] == 1 else row.name for row in shown}
    return write_explorer(
        list(dict.fromkeys(row.folder for row in shown)),
        Cache(cache),
        folder / EXPLORER,
        with_audio=with_audio,
        limit=limit,
        names=names,
        most=None if rows else MOST_HEADS,
        back="report.html",
        report=report,
    )
