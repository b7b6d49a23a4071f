"""From what heads said of the test parts to the tables of a run folder, and to what is printed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmser.train.choose import Chosen
from mmser.train.folder import as_json, write_csv, write_json
from mmser.train.results import (
    Line,
    Outcome,
    RatingLine,
    folds_table,
    predictions_table,
    summarise,
    summarise_ratings,
)


@dataclass(frozen=True, eq=False)
class Result:
    """What an experiment came to."""

    folder: Path
    lines: list[Line]
    """One a head, where there are classes; of a late fusion, its members first."""
    rating_lines: list[RatingLine]
    """One a head and dimension, where there are ratings."""
    oracle_lines: list[Line]
    """What choosing the epoch on the test part would have given; empty unless it was asked for."""
    oracle_rating_lines: list[RatingLine]
    labels: tuple[str, ...]
    num_utterances: int
    num_tested: int
    """Utterances that were test once: all of them, unless the folds are given splits."""
    left_out: Mapping[str, int]
    """Utterances that could not be used, counted by reason."""
    kept: Mapping[str, int]
    """Utterances that lack some states and were kept all the same, counted by reason."""
    notes: tuple[str, ...]
    nothing_trained: bool
    """All heads diverged before their first score: every figure is that of initial weights."""


def _diverged(outcomes: Sequence[Outcome]) -> list[str]:
    """A note for each head of which runs diverged, and for each fusion of such heads."""
    notes = []
    for head, num_runs in Counter(o.head for o in outcomes).items():
        own = [o for o in outcomes if o.head == head and o.diverged]
        fused, untrained = sum(o.best_epoch is None for o in own), sum(o.best_epoch == 0 for o in own)
        if fused:
            notes.append(f"{fused} of {num_runs} runs of {head} have a member that diverged")
        elif own:
            never = f"; {untrained} never had one, and count as they were before training" if untrained else ""
            notes.append(
                f"{len(own)} of {num_runs} runs of {head} diverged (a loss or an answer that is not finite) and count "
                f"as they were at their best epoch before{never}; try a lower --learning-rate"
            )
    return notes


def _without_answer(outcomes: Sequence[Outcome], labels: Sequence[str]) -> list[str]:
    """A note for each head of which some answers about the test part are no numbers: an output too large for its type.

    Where it was dev's answers, the run diverged and this epoch is none to be tested.
    """
    counts: Counter[str] = Counter()
    for o in outcomes:
        rated = np.empty((len(o.rows), 0)) if o.ratings is None else o.ratings
        counts[o.head] += int((~np.isfinite(np.concatenate([o.posteriors, rated], 1)).all(1)).sum())
    counted = f"count as {labels[0]!r}" if labels else "leave its CCC empty"
    return [
        f"{count} answers of {head} about test utterances are no finite numbers and {counted}; try a lower "
        "--learning-rate"
        for head, count in counts.items()
        if count
    ]


def conclude(
    folder: Path,
    outcomes: Sequence[Outcome],
    oracle: Sequence[Outcome],
    chosen: Chosen,
    kept: Mapping[str, int],
    notes: Sequence[str],
) -> Result:
    """Write the tables of an experiment into its run folder, and sum up."""
    notes = [*notes, *_diverged(outcomes), *_without_answer(outcomes, chosen.labels)]
    rated = (chosen.ratings, chosen.dimensions)
    predictions = predictions_table(outcomes, chosen.ids, chosen.speakers, chosen.truth, chosen.labels, *rated)
    write_csv(predictions, folder / "predictions.csv")
    write_csv(folds_table(outcomes, chosen.truth, *rated), folder / "results.csv")
    lines, rating_lines = _lines(outcomes, chosen)
    oracle_lines, oracle_rating_lines = _lines(oracle, chosen)
    about = {
        "labels": chosen.labels,
        "num_utterances": len(chosen.ids),
        "num_tested": chosen.num_tested,
        "left_out": chosen.left_out,
        "kept": kept,
        "notes": notes,
    }
    write_json(folder / "summary.json", as_json({**_as_dicts(lines, rating_lines), **about}))
    if oracle:
        write_json(folder / "oracle.json", as_json(_as_dicts(oracle_lines, oracle_rating_lines)))
    return Result(
        folder=folder,
        lines=lines,
        rating_lines=rating_lines,
        oracle_lines=oracle_lines,
        oracle_rating_lines=oracle_rating_lines,
        labels=chosen.labels,
        num_utterances=len(chosen.ids),
        num_tested=chosen.num_tested,
        left_out=chosen.left_out,
        kept=kept,
        notes=tuple(notes),
        nothing_trained=all(o.best_epoch == 0 for o in outcomes if o.best_epoch is not None),  # None: of a fusion
    )


def _lines(outcomes: Sequence[Outcome], chosen: Chosen) -> tuple[list[Line], list[RatingLine]]:
    lines = summarise(outcomes, chosen.truth, chosen.speakers, chosen.ids) if chosen.labels else []
    rated = (chosen.ratings, chosen.dimensions, chosen.speakers, chosen.ids)
    return lines, summarise_ratings(outcomes, *rated) if chosen.dimensions else []


def _as_dicts(lines: Sequence[Line], rating_lines: Sequence[RatingLine]) -> dict[str, Any]:
    return {"lines": [asdict(line) for line in lines], "rating_lines": [asdict(line) for line in rating_lines]}
