"""The table of a report: for people (page, Markdown, LaTeX) and for programs (CSV)."""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mmser.metrics import digits
from mmser.report.examine import Examined
from mmser.report.read import Row, Study
from mmser.statistics import Interval
from mmser.train.results import RatingLine

_SMALLEST_P = 0.001
"""Below, p is printed as less than that."""


class Cell(NamedTuple):
    """What is printed, and what the page sorts by."""

    text: str
    value: float | str | None
    """None sorts last; NaN would sort nowhere."""


@dataclass(frozen=True)
class Table:
    """The table as it is printed; the first column to the left, the others to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    """What the figures are, and what could not be compared."""
    failed: tuple[tuple[str, str], ...]
    """Names without a row, and why."""


def table_of(study: Study, examined: Sequence[Examined], baseline: Row) -> Table:
    """The table of a study: UA, WA, macro F1 where there are classes, and the CCC of each dimension."""
    has_classes = any(one.row.line is not None for one in examined)
    dimensions = _dimensions(examined)
    columns = ["head" if len({one.row.folder for one in examined}) == 1 else "run"]
    if has_classes:
        columns += ["UA", "95 % of UA", "WA", "macro F1", "p (UA)"]
    for name in dimensions:
        columns += [f"CCC {name}", f"95 % of CCC {name}", f"p (CCC {name})"]
    unlike = len({one.dataset.num_utterances for one in examined}) > 1 or any(map(_is_on_fewer, examined))
    columns += ["utterances"] if unlike else []
    rows = [
        (
            Cell(one.row.label, one.row.label),
            *(_of_classes(one, baseline) if has_classes else ()),
            *(cell for name in dimensions for cell in _of_dimension(one, baseline, name)),
            *((_utterances(one),) if unlike else ()),
            _count(one.row),
        )
        for one in examined
    ]
    return Table((*columns, "runs"), tuple(rows), tuple(_notes(examined, baseline)), tuple(study.failed.items()))


def _dimensions(examined: Sequence[Examined]) -> list[str]:
    return list(dict.fromkeys(line.dimension for one in examined for line in one.row.ratings))


def _of_classes(one: Examined, baseline: Row) -> tuple[Cell, ...]:
    line = one.row.line
    if line is None:
        return (_EMPTY,) * 5
    return (
        _number(line.ua),
        _interval(line.interval),
        _number(line.wa),
        _number(line.macro_f1),
        _p(one, baseline, "UA"),
    )


def _of_dimension(one: Examined, baseline: Row, name: str) -> tuple[Cell, ...]:
    line = _rating(one.row, name)
    if line is None:
        return (_EMPTY,) * 3
    return (_number(line.ccc), _interval(line.interval), _p(one, baseline, f"CCC of {name}"))


def _rating(row: Row, dimension: str) -> RatingLine | None:
    return next((line for line in row.ratings if line.dimension == dimension), None)


_EMPTY = Cell("–", None)


def _number(value: float) -> Cell:
    return Cell(digits(value), value) if np.isfinite(value) else _EMPTY


def _interval(found: Interval) -> Cell:
    """Both bounds, sorted by the lower one; empty where answers are not finite and so have none."""
    if not np.isfinite([found.low, found.high]).all():
        return _EMPTY
    return Cell(f"{digits(found.low)} to {digits(found.high)}", found.low)


def _p(one: Examined, baseline: Row, figure: str) -> Cell:
    if one.row is baseline:
        return Cell("baseline", None)
    if figure not in one.differences:
        return Cell("–" if one.not_compared is None else "not comparable", None)
    p = one.differences[figure].p_holm
    return Cell(f"< {_SMALLEST_P}" if p < _SMALLEST_P else digits(p), p)


def _count(row: Row) -> Cell:
    runs = row.line.num_runs if row.line is not None else row.ratings[0].num_runs
    return Cell(str(runs), runs)


def _compared_on(one: Examined) -> int:
    """Utterances that a row and the baseline were both tested on, of the figure that most are known of; 0: of none."""
    return max((test.utterances for test in one.differences.values()), default=0)


def _is_on_fewer(one: Examined) -> bool:
    """Whether a p is not of all utterances that its row and the baseline were tested on."""
    return any(test.is_on_fewer for test in one.differences.values())


def _utterances(one: Examined) -> Cell:
    num, compared = one.dataset.num_utterances, _compared_on(one)
    return Cell(f"{compared} of {num}" if _is_on_fewer(one) and compared < num else str(num), num)


def _notes(examined: Sequence[Examined], baseline: Row) -> list[str]:
    lines = [line for one in examined for line in (one.row.line, *one.row.ratings) if line is not None]
    notes = [
        "UA, WA, macro F1 and CCC are of the test utterances of all folds together, UA and CCC the mean over seeds; "
        f"the intervals are by bootstrap {_of_units('over', {line.interval.unit for line in lines})}."
    ]
    tests = [test for one in examined for test in one.differences.values()]
    if tests:
        num, unit = min((test.clusters, test.unit) for test in tests)
        least = f" With {num} {unit}s no p is below {2 / 2**num:.2g} before that." if num <= 10 else ""
        notes.append(
            f"p: difference from {baseline.label}, two-sided, by paired permutation "
            f"{_of_units('of', {test.unit for test in tests})}, adjusted for all {len(tests)} tests of the table "
            f"(Holm).{least}"
        )
    if any(map(_is_on_fewer, examined)):
        notes.append(
            f"Not all rows were tested on the same utterances: each p is of those that the row and {baseline.label} "
            "were both tested on and of which the truth is known ('9 of 10': nine of the row's ten), all else of the "
            "row's own."
        )
    return notes + _not_compared(examined)


def _of_units(preposition: str, units: Set[str]) -> str:
    """What was resampled or swapped, in all rows together.

    >>> _of_units("over", {"utterance"})
    'over utterances'
    """
    if len(units) > 1:
        return f"{preposition} speakers ({preposition} utterances where no two speakers are known)"
    (unit,) = units
    return f"{preposition} {unit}s"


def _not_compared(examined: Sequence[Examined]) -> list[str]:
    """A note for all rows that are not compared for the same reason: of the first in full, of the others by name."""
    by_remedy: dict[str, list[Examined]] = {}
    for one in examined:
        if one.not_compared is not None:
            by_remedy.setdefault(one.not_compared.remedy, []).append(one)
    return [
        f"{first.row.label} is not compared: {first.not_compared}"
        + (f". Nor, for that reason: {'; '.join(one.row.label for one in others)}" if others else "")
        for first, *others in by_remedy.values()
    ]


def frame_of(study: Study, examined: Sequence[Examined], baseline: Row) -> pd.DataFrame:
    """Every figure in full, a row each: ``table.csv``."""
    rows = []
    for one in examined:
        row: dict[str, Any] = {"name": one.row.name, "row": one.row.label, "head": one.row.head}
        row |= {axis: one.row.axes.get(axis, "") for axis in study.axes if axis not in row}
        row |= {"utterances": one.dataset.num_utterances, "compared_on": _compared_on(one)}
        row |= {"runs": _count(one.row).value}
        if one.row.line is not None:
            line = one.row.line
            row |= {"ua": line.ua, "ua_low": line.interval.low, "ua_high": line.interval.high, "wa": line.wa}
            row |= {"macro_f1": line.macro_f1, "ece": line.ece}
            row |= {"ua_of_folds": line.ua_of_folds, "wa_of_folds": line.wa_of_folds}
            row |= _p_values(one, "UA", "ua")
        for rated in one.row.ratings:
            key = f"ccc_{rated.dimension}"
            row |= {key: rated.ccc, f"{key}_low": rated.interval.low, f"{key}_high": rated.interval.high}
            row |= {f"{key}_of_folds": rated.ccc_of_folds}
            row |= _p_values(one, f"CCC of {rated.dimension}", key)
        rows.append({**row, "baseline": one.row is baseline, "not_compared": str(one.not_compared or "")})
    table = pd.DataFrame(rows)
    last = ["baseline", "not_compared"]  # a row with ratings alone may bring columns after them
    return table[[*(name for name in table.columns if name not in last), *last]]


def _p_values(one: Examined, figure: str, key: str) -> dict[str, float]:
    test = one.differences.get(figure)
    return {f"p_{key}": np.nan if test is None else test.p, f"p_holm_{key}": np.nan if test is None else test.p_holm}


def markdown_of(table: Table) -> str:
    """The table in GitHub's Markdown."""
    lines = [_pipes(table.columns), "|---|" + "--:|" * (len(table.columns) - 1)]
    lines += [_pipes([cell.text for cell in row]) for row in table.rows]
    lines += [f"\n{_markdown(note)}" for note in table.notes]
    lines += [f"\nFailed: {_markdown(name)}: {_markdown(reason)}" for name, reason in table.failed]
    return "\n".join(lines) + "\n"


def _pipes(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, texts)) + " |"


def _markdown(text: str) -> str:
    r"""Text that Markdown shows as it is.

    >>> print(_markdown("a|b_c"))
    a\|b\_c
    """
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


_LATEX = {
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
}


def latex_of(table: Table) -> str:
    """The table for a paper, for the package booktabs."""
    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule"]
    lines += [_ampersands(map(_latex, table.columns)), r"\midrule"]
    lines += [_ampersands([_latex(row[0].text), *(_latex_figure(cell.text) for cell in row[1:])]) for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {' '.join(note.split())}" for note in table.notes]
    lines += [f"% Failed: {' '.join(f'{name}: {reason}'.split())}" for name, reason in table.failed]
    return "\n".join(lines) + "\n"


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> print(_latex("a_b&c%"))
    a\_b\&c\%
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_figure(text: str) -> str:
    """A cell of figures: a minus before a number, where LaTeX would print a hyphen.

    >>> _latex_figure("-0.120 to 0.100")
    '$-$0.120 to 0.100'
    """
    return re.sub(r"(?<!\S)-(?=\d)", "$-$", _latex(text))
