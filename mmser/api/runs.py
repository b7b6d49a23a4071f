"""A run folder as a notebook wants it: tables for pandas, figures of plotly, the heads."""

import html
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmser.api.figures import confusion_figure, layers_figure
from mmser.heads import Head
from mmser.metrics import digits
from mmser.show import counted
from mmser.train.compare import compare as compare_folders
from mmser.train.predictions import read_predictions
from mmser.train.results import Line, RatingLine, line_of, rating_line_of
from mmser.train.stored import read_config, read_oracle, read_results, read_summary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Runs:
    """All folds and seeds of one experiment: a finished run folder, of whomever.

    In a notebook it shows its table and what has to be known to read it: notes, who was left out, the oracle.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a run folder.

        Raises:
            ProtocolError: it is not there, its training has not ended, or a file of it is damaged.
        """
        self.folder = Path(folder)
        self._summary = read_summary(self.folder)
        self.experiment: dict[str, Any] = read_config(self.folder)["experiment"]
        """What was asked for: the fields of :class:`~mmser.train.options.Experiment`."""
        self.labels: list[str] = self._summary["labels"]
        self.lines: list[Line] = [line_of(own) for own in self._summary["lines"]]
        """A line a head, where there are classes; of a late fusion, its members first."""
        self.rating_lines: list[RatingLine] = [rating_line_of(own) for own in self._summary["rating_lines"]]
        """A line a head and dimension, where there are ratings."""
        self.notes: list[str] = self._summary["notes"]
        """What has to be known beside the figures: runs that diverged, what dev chose, ..."""
        self.left_out: dict[str, int] = self._summary["left_out"]
        """Utterances that could not be used, counted by reason."""
        self.kept: dict[str, int] = self._summary["kept"]
        """Utterances that lack some states and were kept all the same, counted by reason."""
        self.oracle: pd.DataFrame = self._read_oracle()
        """What choosing the epoch on the test part would have given, which leaks: a row a head (and dimension) with its
        ``figure``, that of the ``oracle`` and its ``difference`` from the honest one. Without rows unless
        ``report_oracle`` asked for it."""

    def _read_oracle(self) -> pd.DataFrame:
        path = self.folder / "oracle.json"
        stored = read_oracle(self.folder) if path.exists() else {"lines": [], "rating_lines": []}
        # A late fusion that is fitted has no oracle; its members, which come before it, have.
        rows = [
            (honest.head, "UA", leaking.ua, leaking.ua - honest.ua)
            for honest, leaking in zip(self.lines, map(line_of, stored["lines"]), strict=False)
        ]
        rows += [
            (honest.head, f"CCC of {honest.dimension}", leaking.ccc, leaking.ccc - honest.ccc)
            for honest, leaking in zip(self.rating_lines, map(rating_line_of, stored["rating_lines"]), strict=False)
        ]
        return pd.DataFrame(rows, columns=["head", "figure", "oracle", "difference"])

    def remarks(self) -> list[str]:
        """Notes, counts and oracle, a line each, in the words of ``mmser train-head``."""
        counts = (("Left out", self.left_out), ("Kept, though there are", self.kept))
        return [
            *(f"Note: {note}" for note in self.notes),
            *(f"{words}: {counted(own)}" for words, own in counts if own),
            *(
                f"Oracle, LEAKS (epoch chosen on the test part): {head}, {figure} {digits(value, none='-')} "
                f"({digits(difference, none='-', signed=True)})"
                for head, figure, value, difference in self.oracle.itertuples(index=False)
            ),
        ]

    def to_pandas(self) -> pd.DataFrame:
        """The figures of every head, fold and seed: ``results.csv``."""
        return read_results(self.folder)

    def predictions(self) -> pd.DataFrame:
        """Every test utterance of every head, fold and seed, with posteriors and ratings: ``predictions.csv``.

        A truth that is not known is "", or NaN for ratings.
        """
        return read_predictions(self.folder)

    def summary(self) -> pd.DataFrame:
        """A row a head (and dimension): UA, WA and the rest of the classes, CCC of the ratings.

        ``low`` and ``high`` are the ends of the 95 % interval of UA or CCC.
        """
        rows = [_row(line, ("ua", "wa", "macro_f1", "ece", "ua_of_folds", "wa_of_folds")) for line in self.lines]
        rows += [_row(line, ("dimension", "ccc", "ccc_of_folds")) for line in self.rating_lines]
        return pd.DataFrame(rows)

    def plot_confusion(self, head: str | None = None) -> "Figure":
        """What was taken for what, over all folds and seeds: shares of the true class, and counts.

        Args:
            head: which head; None: the last one, of a late fusion the fusion itself.

        Raises:
            ProtocolError: no such head, or no classes.
        """
        return confusion_figure(self.folder, head)

    def plot_layers(self) -> "Figure":
        """The weights that heads learned for the layers of an encoder, over all folds and seeds.

        Of settings that dev chose among, those of the chosen ones alone.

        Raises:
            ProtocolError: the heads read one layer of each encoder.
        """
        return layers_figure(self.folder)

    def heads(self) -> Iterator[tuple[str, Head]]:
        """Every trained head with its name, one at a time, in evaluation mode on the CPU."""
        for path in sorted(self.folder.glob("heads/*/config.json")):
            yield path.parent.name, Head.from_pretrained(path.parent)

    def __repr__(self) -> str:
        return f"Runs({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """The table, and what has to be known beside it, for a notebook."""
        table = self.summary().to_html(index=False, border=0, float_format=digits, na_rep="")
        told = [*self.remarks(), f"{self._summary['num_utterances']} utterances, {self.folder}"]
        return table + "".join(f"<p>{html.escape(line)}</p>" for line in told)


def compare(*runs: Runs | str | Path) -> pd.DataFrame:
    """Whether one of several runs is better than another on the same utterances; of one, all its heads.

    Paired permutation test in which a speaker's predictions are swapped together (where no two speakers are known, an
    utterance's; ``unit`` says which), adjusted for all pairs (Holm): ``mmser runs compare``.

    Returns:
        A row a pair and figure, as :class:`mmser.train.compare.Difference`.

    Raises:
        ProtocolError: they have too few test utterances in common, or there is nothing to compare.
    """
    folders = [one.folder if isinstance(one, Runs) else Path(one) for one in runs]
    return pd.DataFrame([asdict(one) for one in compare_folders(folders)])


def _row(line: Line | RatingLine, names: tuple[str, ...]) -> dict[str, Any]:
    figures = {name: getattr(line, name) for name in names}
    ends = {"low": line.interval.low, "high": line.interval.high}
    return {"head": line.head, **figures, **ends, "num_runs": line.num_runs}
