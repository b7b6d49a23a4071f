"""The tables that a training ends with, printed once it is done and again by ``mmser runs show``."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mmser.metrics import digits
from mmser.show import counted, print_table

if TYPE_CHECKING:
    from mmser.train.conclude import Result
    from mmser.train.results import Line, RatingLine

    Lines = tuple[Sequence[Line], Sequence[RatingLine]]


def show_training(*results: "Result", say: Callable[[str], Any] = click.echo) -> None:
    """Print a line a head (and dimension), and what stands behind it; notes by ``say``."""
    first = results[0]
    for result in results:
        for note in result.notes:
            say(f"Note: {note}")
    for words, counts in (("Left out", first.left_out), ("Kept, though there are", first.kept)):
        if counts:
            click.echo(f"{words}: {counted(counts)}")
    lines = [line for result in results for line in result.lines]
    rating_lines = [line for result in results for line in result.rating_lines]
    print_lines(lines, rating_lines)
    for result in results:
        print_oracle((result.lines, result.rating_lines), (result.oracle_lines, result.oracle_rating_lines))
    some = "" if first.num_tested == first.num_utterances else f"{first.num_tested} tested of "
    about = [f"{some}{first.num_utterances} utterances"]
    if first.labels:
        about.append(f"{len(first.labels)} classes (chance UA {1 / len(first.labels):.3f})")
    interval = lines[0].interval if lines else rating_lines[0].interval
    click.echo(
        f"{', '.join(about)}; interval by bootstrap over {interval.clusters} {interval.unit}s. Written to "
        + ", ".join(str(result.folder) for result in results)
    )


def training_json(result: "Result") -> dict[str, Any]:
    """What a training came to, in the words of its ``summary.json``."""
    from mmser.train.runs import read_json

    told = {"folder": str(result.folder), **read_json(result.folder / "summary.json")}
    leaks = result.oracle_lines or result.oracle_rating_lines
    return {**told, "oracle": read_json(result.folder / "oracle.json")} if leaks else told


def print_lines(lines: Sequence["Line"], rating_lines: Sequence["RatingLine"]) -> None:
    """The tables of classes and of ratings, those that there are."""
    if lines:
        columns = ("head", "UA", "95 % of UA", "WA", "macro F1", "UA, mean of folds", "runs")
        print_table(
            columns,
            [
                (
                    line.head,
                    number(line.ua),
                    f"{number(line.interval.low)} to {number(line.interval.high)}",
                    number(line.wa),
                    number(line.macro_f1),
                    number(line.ua_of_folds),
                    str(line.num_runs),
                )
                for line in lines
            ],
        )
    if rating_lines:
        columns = ("head", "dimension", "CCC", "95 % of CCC", "CCC, mean of folds", "rated", "runs")
        print_table(
            columns,
            [
                (
                    line.head,
                    line.dimension,
                    number(line.ccc),
                    f"{number(line.interval.low)} to {number(line.interval.high)}",
                    number(line.ccc_of_folds),
                    str(line.num_utterances),
                    str(line.num_runs),
                )
                for line in rating_lines
            ],
        )


def number(value: float | None, *, signed: bool = False) -> str:
    """A figure (:func:`mmser.metrics.digits`), or what stands for one that is no number."""
    return digits(value, none="-", signed=signed)


def print_oracle(honest_lines: "Lines", oracle_lines: "Lines") -> None:
    """What choosing the epoch on the test part would have given, beside what choosing it on dev gave."""
    kinds = zip(honest_lines, oracle_lines, strict=True)
    pairs: list[tuple[Any, Any]] = [pair for kind in kinds for pair in zip(*kind, strict=False)]
    for honest, leaking in pairs:
        name, was, is_ = _figure(honest), _value(honest), _value(leaking)
        told = f"{name} {number(is_)} ({number(is_ - was, signed=True)})"
        click.echo(f"Oracle, LEAKS (epoch chosen on the test part): {told}")


def _figure(line: Any) -> str:
    return f"{line.head}, UA" if hasattr(line, "ua") else f"{line.head}, CCC of {line.dimension}"


def _value(line: Any) -> float:
    return float(line.ua if hasattr(line, "ua") else line.ccc)


def recalls(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> Mapping[str, float]:
    """Recall of each class that occurs.

    >>> recalls(["a", "b"], [[3, 1], [0, 0]])
    {'a': 0.75}
    """
    rows = zip(labels, confusion, strict=True)
    return {label: row[i] / sum(row) for i, (label, row) in enumerate(rows) if sum(row)}
