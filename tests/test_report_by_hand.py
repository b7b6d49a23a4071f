"""The tables and figures of a report, of rows that are made up: every number, and where it stands."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mmser.report.examine import Dataset, Examined
from mmser.report.matrices import confusions, of_speakers
from mmser.report.read import Row, Study
from mmser.report.scores import intervals, over_granularities, over_layers
from mmser.report.tables import frame_of, table_of
from mmser.statistics import Interval
from mmser.train.aligned import ComparisonError
from mmser.train.compare import Difference
from mmser.train.options import Experiment
from mmser.train.results import Line, RatingLine

LABELS = ["hot", "cold", "mild"]
CONFUSION = ((3, 1, 0), (0, 0, 0), (2, 0, 2))
LINE = Line(
    head="probe",
    ua=0.5,
    interval=Interval(0.25, 0.625, 6, "speaker"),
    ua_by_seed=(0.375, 0.625),
    wa=0.75,
    macro_f1=0.125,
    ece=0.0625,
    ua_of_folds=0.4375,
    wa_of_folds=0.6875,
    confusion=CONFUSION,
    num_runs=12,
)
RATED = RatingLine(
    head="probe",
    dimension="joy",
    ccc=-0.25,
    interval=Interval(-0.75, 0.125, 6, "speaker"),
    ccc_by_seed=(-0.5, 0.0),
    ccc_of_folds=-0.375,
    num_utterances=8,
    num_runs=10,
)
TEST = Difference(
    one="a",
    other="b",
    figure="UA",
    value_one=0.5,
    value_other=0.25,
    p=0.0625,
    p_holm=0.1875,
    clusters=6,
    unit="speaker",
    utterances=9,
    utterances_one=9,
    utterances_other=9,
)


def a_row(name: str, line: Line | None = LINE, *ratings: RatingLine, **experiment: Any) -> Examined:
    """A row as a report reads it; ``cache``, ``shards``, ``is_member`` and ``folder`` are not the experiment's."""
    config = {"cache": experiment.pop("cache", "toy"), "shards": experiment.pop("shards", "1")}
    member, folder = experiment.pop("is_member", False), Path(experiment.pop("folder", name))
    config["experiment"] = asdict(Experiment(head="probe", **experiment))
    row = Row(name, f"<{name}>", folder, "probe", config, {"labels": LABELS}, line, ratings, {}, member)
    return Examined(row, Dataset(9, {}, {}), {}, {})


def ua(value: float) -> Line:
    return replace(LINE, ua=value, interval=Interval(value - 0.25, value + 0.125, 6, "speaker"))


# figures


def test_an_interval_goes_from_its_lower_to_its_upper_end_and_each_seed_stands_below_its_row() -> None:
    classes, ratings = intervals([a_row("a"), a_row("b", ua(0.25), RATED)]).drawings
    means, seeds = classes.data
    assert (means["x"], means["y"], means["text"]) == ([0.5, 0.25], [0, 1], ["&lt;a&gt;", "&lt;b&gt;"])
    assert (means["error_x"]["array"], means["error_x"]["arrayminus"]) == ([0.125, 0.125], [0.25, 0.25])
    assert (seeds["x"], seeds["y"]) == ([0.375, 0.625, 0.375, 0.625], [0.25, 0.25, 1.25, 1.25])
    assert seeds["text"] == ["&lt;a&gt;"] * 2 + ["&lt;b&gt;"] * 2
    assert classes.columns == ("row", "UA", "from", "to", "by seed")
    assert classes.rows == (
        ("<a>", "0.500", "0.250", "0.625", "0.375 0.625"),
        ("<b>", "0.250", "0.000", "0.375", "0.375 0.625"),
    )
    means, seeds = ratings.data
    assert (means["x"], means["error_x"]["array"], means["error_x"]["arrayminus"]) == ([-0.25], [0.375], [0.5])
    assert seeds["x"] == [-0.5, 0.0]
    assert (ratings.name, ratings.columns[1]) == ("CCC of joy", "CCC of joy")
    assert ratings.rows == (("<b>", "-0.250", "-0.750", "0.125", "-0.500 0.000"),)


def test_layers_are_in_the_order_of_their_numbers_and_what_is_none_is_behind_a_gap() -> None:
    of_layers = {"mix": 0.75, "10": 0.5, "-1": 0.625, "9": 0.375, "4,8": 0.25}
    figure = over_layers([a_row(layer, ua(value), layer=layer) for layer, value in of_layers.items()])
    assert figure is not None
    (drawn,) = figure.drawings
    (joined,) = drawn.data
    assert joined["x"] == ["9", "10", None, "-1", "4,8", "mix"]
    assert joined["y"] == [0.375, 0.5, None, 0.625, 0.25, 0.75]
    bars = joined["error_y"]
    assert (bars["array"], bars["arrayminus"]) == ([0.125] * 2 + [None] + [0.125] * 3, [0.25] * 2 + [None] + [0.25] * 3)
    assert drawn.layout["xaxis"]["categoryarray"] == ["9", "10", "-1", "4,8", "mix"]
    assert drawn.layout["showlegend"] is False
    assert drawn.rows[0] == ("probe", "9", "0.375", "0.125", "0.500")


def test_granularities_are_from_the_finest_to_the_coarsest() -> None:
    units = ("utterance", "phone,word", "word", "frame", "syllable", "phone")
    figure = over_granularities([a_row(unit, granularity=unit) for unit in units])
    assert figure is not None
    (joined,) = figure.drawings[0].data
    assert joined["x"] == ["frame", "phone", "syllable", "word", "utterance", None, "phone,word"]


def test_who_is_joined_with_whom() -> None:
    """Rows that differ in the layer alone, none that is a fusion's member or that tried several layers itself."""
    low, high = a_row("low", layer="0"), a_row("high", layer="9")
    assert over_layers([low]) is None
    assert over_layers([low, a_row("same", layer="0")]) is None
    for other in (
        a_row("member", layer="9", is_member=True),
        a_row("tried", layer="9", try_layers=("4", "9")),
        a_row("rate", layer="9", learning_rate=0.5),
        a_row("unit", layer="9", granularity="phone"),
        a_row("cache", layer="9", cache="other"),
        a_row("shards", layer="9", shards="2"),
    ):
        assert over_layers([low, other]) is None
        figure = over_layers([low, other, high])
        assert figure is not None
        assert [line["x"] for line in figure.drawings[0].data] == [["0", "9", None]]
    assert over_layers([a_row(layer, layer=layer, try_layers=("4", "9")) for layer in "09"]) is None
    assert over_granularities([low, a_row("unit", layer="0", granularity="phone", shards="2")]) is not None
    assert over_granularities([low, a_row("unit", layer="0", granularity="phone", cache="other")]) is None
    rates = [a_row(f"{layer} {rate}", layer=layer, learning_rate=rate) for rate in (0.5, 0.25) for layer in "09"]
    figure = over_layers(rates)
    assert figure is not None
    assert [line["name"] for line in figure.drawings[0].data] == [f"probe learning_rate {r}" for r in (0.5, 0.25)]
    assert figure.drawings[0].layout["showlegend"] is True


def test_a_confusion_matrix_has_a_line_for_each_true_class_and_the_best_row_is_first() -> None:
    figure = confusions([a_row("low"), a_row("none", None, RATED), a_row("best", ua(0.75)), a_row("mid", ua(0.625))])
    assert figure is not None
    assert [drawn.name for drawn in figure.drawings] == ["<best>", "<low>", "<mid>"]
    drawn = figure.drawings[0]
    (shades,) = drawn.data
    assert shades["z"] == [[0.75, 0.25, 0], [0, 0, 0], [0.5, 0, 0.5]]  # of cold there was nothing
    assert shades["text"][0] == ["0.75<br>(3)", "0.25<br>(1)", "0.00<br>(0)"]
    assert shades["customdata"][0][1] == "hot taken for cold: 0.250 (1)"
    assert drawn.layout["yaxis"]["title"] == {"text": "true"}
    assert drawn.columns == ("true, said", *LABELS)
    assert drawn.rows[0] == ("hot", "0.750 (3)", "0.250 (1)", "0.000 (0)")
    assert confusions([a_row("none", None, RATED)]) is None


def test_counts_are_left_out_of_matrices_too_wide_for_them() -> None:
    for num, shown in ((12, "1.00<br>(1)"), (13, "1.00")):
        line = replace(LINE, confusion=tuple(tuple(int(i == k) for k in range(num)) for i in range(num)))
        row = replace(a_row("wide", line).row, summary={"labels": [str(i) for i in range(num)]})
        figure = confusions([replace(a_row("wide"), row=row)])
        assert figure is not None
        assert figure.drawings[0].data[0]["text"][0][0] == shown


def test_speakers_are_columns_in_the_order_of_their_names() -> None:
    none, one, other = a_row("none", None, RATED), a_row("a"), a_row("b")
    one = replace(one, ua_of_speakers={"s2": 0.5, "s1": 1.0})
    other = replace(other, ua_of_speakers={"s3": 0.25, "s1": 0.75})
    figure = of_speakers([none, one, other])
    assert figure is not None
    (drawn,) = figure.drawings
    (shades,) = drawn.data
    assert shades["z"] == [[1.0, 0.5, None], [0.75, None, 0.25]]
    assert shades["text"] == [["1.00", "0.50", ""], ["0.75", "", "0.25"]]
    assert shades["customdata"][1][2] == "&lt;b&gt;, s3: 0.250"
    assert drawn.columns == ("speaker", "<a>", "<b>")
    assert drawn.rows == (("s1", "1.000", "0.750"), ("s2", "0.500", "–"), ("s3", "–", "0.250"))
    assert of_speakers([none, replace(one, ua_of_speakers={"s1": 0.5})]) is None
    assert of_speakers([replace(one, ua_of_speakers={"s1": 0.5, "s2": 0.5})]) is not None


# tables


def texts(*examined: Examined) -> list[list[str]]:
    study = Study("s", tuple(one.row for one in examined), {})
    return [[cell.text for cell in row] for row in table_of(study, examined, examined[0].row).rows]


def test_every_cell_is_under_its_column() -> None:
    second = replace(RATED, dimension="fear", ccc=0.5, interval=Interval(0.25, 0.75, 6, "speaker"))
    of_ratings = {"CCC of joy": replace(TEST, p_holm=0.5), "CCC of fear": replace(TEST, p_holm=0.75)}
    rows = [
        a_row("base", LINE, RATED),
        replace(a_row("both", LINE, RATED, second), differences={"UA": TEST, **of_ratings}),
        replace(a_row("rated", None, second), differences=of_ratings),
    ]
    table = table_of(Study("s", tuple(one.row for one in rows), {"x": "why"}), rows, rows[0].row)
    of_joy, of_fear = (f"CCC {name};95 % of CCC {name};p (CCC {name})".split(";") for name in ("joy", "fear"))
    assert table.columns == ("run", "UA", "95 % of UA", "WA", "macro F1", "p (UA)", *of_joy, *of_fear, "runs")
    classes, joy = ["0.500", "0.250 to 0.625", "0.750", "0.125"], ["-0.250", "-0.750 to 0.125"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["<base>", *classes, "baseline", *joy, "baseline", "–", "–", "–", "12"],
        ["<both>", *classes, "0.188", *joy, "0.500", "0.500", "0.250 to 0.750", "0.750", "12"],
        ["<rated>", *["–"] * 5, *["–"] * 3, "0.500", "0.250 to 0.750", "0.750", "10"],
    ]
    assert [cell.value for cell in table.rows[1][:6]] == ["<both>", 0.5, 0.25, 0.75, 0.125, 0.1875]
    assert table.failed == (("x", "why"),)


def test_rows_of_one_folder_are_its_heads() -> None:
    rows = [a_row("a", folder="one"), a_row("b", folder="one")]
    assert table_of(Study("s", (), {}), rows, rows[0].row).columns[0] == "head"


@pytest.mark.parametrize(("p", "said"), [(0.0009, "< 0.001"), (0.001, "0.001"), (0.04, "0.040"), (1.0, "1.000")])
def test_small_p_are_said_to_be_small(p: float, said: str) -> None:
    assert texts(a_row("a"), replace(a_row("b"), differences={"UA": replace(TEST, p_holm=p)}))[1][5] == said


def test_what_is_not_compared_says_why() -> None:
    odd = replace(a_row("b"), not_compared=ComparisonError("found", "remedy"))
    assert [row[5] for row in texts(a_row("a"), odd, a_row("c"))] == ["baseline", "not comparable", "–"]


def test_utterances_are_counted_where_rows_are_on_others() -> None:
    base, alike = a_row("a"), replace(a_row("b"), differences={"UA": TEST})
    assert len(texts(base, alike)[0]) == 7
    longer = replace(alike, dataset=Dataset(10, {}, {}))  # of its ten, nine are the baseline's
    assert [row[6] for row in texts(base, longer)] == ["9", "10"]
    lacking = {"UA": replace(TEST, utterances_other=12), "CCC of joy": replace(TEST, utterances=7, utterances_one=12)}
    fewer = replace(longer, differences=lacking)
    assert [row[6] for row in texts(base, fewer)] == ["9", "9 of 10"]
    whole = replace(alike, differences={"UA": replace(TEST, utterances_other=12)})  # the baseline has more
    assert [row[6] for row in texts(base, whole)] == ["9", "9"]
    assert any(
        "Not all rows were tested on the same" in note
        for note in table_of(Study("s", (), {}), [base, whole], base.row).notes
    )


@pytest.mark.parametrize(
    ("clusters", "least"),
    [(6, " With 6 speakers no p is below 0.031 before that."), (10, "0.002 before that."), (11, "")],
)
def test_the_least_p_is_told_of_few_speakers(clusters: int, least: str) -> None:
    some, many = (replace(TEST, clusters=num) for num in (clusters, 20))
    rows = [a_row("a"), replace(a_row("b"), differences={"UA": many}), replace(a_row("c"), differences={"UA": some})]
    (note,) = (note for note in table_of(Study("s", (), {}), rows, rows[0].row).notes if note.startswith("p:"))
    assert note.startswith(
        "p: difference from <a>, two-sided, by paired permutation of speakers, adjusted for all 2 tests"
    )
    assert note.endswith(least or "(Holm).")


def test_the_table_for_programs_has_every_figure_under_its_name() -> None:
    rows = [
        a_row("a", None, replace(RATED, dimension="fear")),
        replace(
            a_row("b", LINE, RATED),
            differences={"UA": TEST, "CCC of joy": replace(TEST, p=0.25, p_holm=0.5, utterances=7)},
            row=replace(a_row("b", LINE, RATED).row, axes={"layer": "9", "head": "not this"}),
        ),
    ]
    frame = frame_of(Study("s", (), {}, axes=("layer", "head")), rows, rows[0].row)
    assert list(frame.columns[-2:]) == ["baseline", "not_compared"]
    first, second = ({k: v for k, v in own.items() if not pd.isna(v)} for own in frame.to_dict("records"))
    assert first == {
        "name": "a",
        "row": "<a>",
        "head": "probe",
        "layer": "",
        "utterances": 9,
        "compared_on": 0,
        "runs": 10,
        "ccc_fear": -0.25,
        "ccc_fear_low": -0.75,
        "ccc_fear_high": 0.125,
        "ccc_fear_of_folds": -0.375,
        "baseline": True,
        "not_compared": "",
    }
    assert second == {
        "name": "b",
        "row": "<b>",
        "head": "probe",
        "layer": "9",
        "utterances": 9,
        "compared_on": 9,
        "runs": 12,
        "ua": 0.5,
        "ua_low": 0.25,
        "ua_high": 0.625,
        "wa": 0.75,
        "macro_f1": 0.125,
        "ece": 0.0625,
        "ua_of_folds": 0.4375,
        "wa_of_folds": 0.6875,
        "p_ua": 0.0625,
        "p_holm_ua": 0.1875,
        "ccc_joy": -0.25,
        "ccc_joy_low": -0.75,
        "ccc_joy_high": 0.125,
        "ccc_joy_of_folds": -0.375,
        "p_ccc_joy": 0.25,
        "p_holm_ccc_joy": 0.5,
        "baseline": False,
        "not_compared": "",
    }
