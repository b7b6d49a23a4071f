"""``mmser report``: the tables say what predictions say, the figures what heads hold, and names stay text."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from small_ablation import CELLS, LABEL, ROWS
from small_cache import make_rows, write_cache
from test_cli_train import mmser
from test_runs import brute_force

from mmser.errors import ProtocolError
from mmser.metrics import unweighted_average_recall
from mmser.report.examine import Dataset, Examined, examine
from mmser.report.heads import course, head_folders, layer_weights
from mmser.report.page import figures_of
from mmser.report.read import Study, read_study
from mmser.report.run import write_report
from mmser.report.scores import over_granularities, over_layers
from mmser.report.tables import latex_of, markdown_of, table_of
from mmser.statistics import holm
from mmser.train.options import Experiment, Training
from mmser.train.run import train_head


@pytest.fixture(scope="module")
def study(ablation: Path) -> Study:
    return read_study(ablation)


def predictions(folder: Path, cell: str) -> pd.DataFrame:
    table = pd.read_csv(folder / "cells" / cell / "predictions.csv")
    own = table[table["head"] == CELLS[cell].head]
    return own.sort_values(["seed", "utterance_id"]).reset_index(drop=True)


def test_the_table_is_that_of_the_predictions(ablation: Path) -> None:
    table = pd.read_csv(ablation / "table.csv").set_index("name")
    assert list(table.index) == list(CELLS)
    assert table["row"].to_dict() == ROWS
    assert list(table["layer"].astype(str)) == [experiment.layer for experiment in CELLS.values()]
    for cell, line in table.iterrows():
        own = predictions(ablation, cell)
        of_seeds = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in own.groupby("seed")]
        assert line["ua"] == pytest.approx(np.mean(of_seeds), abs=1e-6)
        assert line["wa"] == pytest.approx(accuracy_score(own["truth"], own["prediction"]), abs=1e-6)
        assert line["macro_f1"] == pytest.approx(f1_score(own["truth"], own["prediction"], average="macro"), abs=1e-6)
        assert line["ua_low"] <= line["ua"] <= line["ua_high"]
        assert line["utterances"] == 54
        assert line["runs"] == 3 * CELLS[cell].seeds
    summary = json.loads((ablation / "cells" / "both" / "summary.json").read_text())
    assert table.loc["both", "ccc_valence"] == pytest.approx(summary["rating_lines"][0]["ccc"], abs=1e-6)
    assert table["ccc_valence"].notna().sum() == 1


def test_means_of_folds_are_those_of_the_summary(ablation: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ablation / "cells" / "both", tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    asked = {"ua_of_folds": 0.25, "wa_of_folds": 0.5}  # of the toy cache's even folds all would be one number
    summary["lines"][0] |= asked
    summary["rating_lines"][0]["ccc_of_folds"] = 0.75
    (folder / "summary.json").write_text(json.dumps(summary))
    write_report(folder)
    (line,) = pd.read_csv(folder / "table.csv").to_dict("records")
    assert {name: line[name] for name in (*asked, "ccc_valence_of_folds")} == {**asked, "ccc_valence_of_folds": 0.75}


def test_p_is_that_of_every_swap_of_speakers_and_adjusted_over_the_table(ablation: Path) -> None:
    table = pd.read_csv(ablation / "table.csv").set_index("name")
    base, by_hand = predictions(ablation, "probe-word-0"), {}
    for cell in CELLS:
        own = predictions(ablation, cell)
        if cell not in ("probe-word-0", "one-seed"):
            truth, speakers = (own[name].to_numpy() for name in ("truth", "speaker"))
            said = (own["prediction"].to_numpy(), base["prediction"].to_numpy())
            by_hand[cell] = brute_force(truth, *said, speakers, unweighted_average_recall)
    found = table["p_ua"].dropna()
    assert found.to_dict() == pytest.approx(by_hand, abs=1e-6)
    ordered = sorted(by_hand, key=by_hand.__getitem__)
    steps = [(len(ordered) - place) * by_hand[cell] for place, cell in enumerate(ordered)]
    adjusted = {cell: min(1.0, max(steps[: place + 1])) for place, cell in enumerate(ordered)}
    assert table["p_holm_ua"].dropna().to_dict() == pytest.approx(adjusted, abs=1e-6)
    assert holm(found.to_numpy()) == pytest.approx(table.loc[found.index, "p_holm_ua"].to_numpy(), abs=1e-6)
    assert "one-seed has 1 seeds and probe-word-0 2" in table.loc["one-seed", "not_compared"]
    assert table.index[table["baseline"]].to_list() == ["probe-word-0"]


def test_rows_that_lack_utterances_are_compared_on_the_rest_and_one_note_says_so(
    ablation: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(ablation, tmp_path / "lacking", ignore=shutil.ignore_patterns("heads"))
    lacking = {
        "probe-word-0": ["s1_sad_0"],
        "probe-word-4": ["s1_sad_0", "s2_sad_0"],
        "probe-word-9": [f"s1_{label}_{take}" for label in ("sad", "happy") for take in range(3)],
        "probe-word-mix": [f"s2_{label}_{take}" for label in ("sad", "happy") for take in range(2)],
    }
    for cell, ids in lacking.items():
        path = folder / "cells" / cell / "predictions.csv"
        table = pd.read_csv(path, keep_default_na=False)
        table = table[~table["utterance_id"].isin(ids)]
        table.to_csv(path, index=False)
        results = pd.read_csv(path.with_name("results.csv"), keep_default_na=False)
        results["num_test"] = [
            len(table[(table[["fold", "seed"]] == own).all(axis=1)])
            for own in results[["fold", "seed"]].to_numpy(object)
        ]
        results.to_csv(path.with_name("results.csv"), index=False)
    written = write_report(folder)
    place = written.table.columns.index("utterances")
    said = {row[0].text: row[place].text for row in written.table.rows}
    assert [said[ROWS[cell]] for cell in lacking] == ["53", "52", "48", "50"]
    assert said[ROWS["probe-utterance-9"]] == "53 of 54"
    figures = written.figures.set_index("name")
    assert figures.loc[["probe-word-0", "probe-word-4", "probe-utterance-9"], "compared_on"].tolist() == [0, 52, 53]
    base, own = predictions(folder, "probe-word-0"), predictions(folder, "probe-utterance-9")
    own = own[own["utterance_id"].isin(base["utterance_id"])]
    columns = (own["truth"], own["prediction"], base["prediction"], own["speaker"])
    by_hand = brute_force(*(column.to_numpy() for column in columns), unweighted_average_recall)
    assert figures.loc["probe-utterance-9", "p_ua"] == by_hand
    (note,) = [note for note in written.table.notes if "is not compared: probe-word-9 was tested on 48" in note]
    assert note.startswith(f"{ROWS['probe-word-9']} is not compared")
    assert note.endswith(f"Nor, for that reason: {ROWS['probe-word-mix']}")
    assert sum("Not all rows were tested on the same utterances" in note for note in written.table.notes) == 1
    assert len(written.table.notes) == 5  # the figures, p, unlike utterances, too few in common, other seeds


def test_the_notes_say_what_was_resampled_and_swapped_where_rows_differ(study: Study) -> None:
    baseline = study.row("probe-word-0")
    examined = examine(study, baseline)
    told = table_of(study, examined, baseline).notes
    assert "by bootstrap over speakers." in told[0]
    assert "by paired permutation of speakers, " in told[1]
    line = baseline.line
    assert line is not None
    of_one = replace(baseline, line=replace(line, interval=replace(line.interval, unit="utterance")))
    differences = {name: replace(own, unit="utterance", clusters=5) for name, own in examined[1].differences.items()}
    last = replace(examined[1], row=of_one, differences=differences)
    told = table_of(study, [examined[0], last, *examined[2:]], baseline).notes
    assert "by bootstrap over speakers (over utterances where no two speakers are known)." in told[0]
    assert "by paired permutation of speakers (of utterances where no two speakers are known), " in told[1]
    assert "With 5 utterances no p is below" in told[1]


def test_the_baseline_is_chosen_by_name_or_label(ablation: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(ablation, folder)
    result = mmser("report", folder, "--baseline", ROWS["fusion"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(folder / "table.csv").set_index("name")
    assert table.index[table["baseline"]].to_list() == ["fusion"]
    assert "Not in the report: broken: no word states <b>" in result.stdout
    assert re.search(r"Report: .*report.html \(4\.\d MB", result.stdout)
    wrong = mmser("report", folder, "--baseline", "fusoin")
    assert wrong.exit_code == 1
    assert "no row 'fusoin' (did you mean 'fusion'?); there are " in wrong.stderr


def test_latex_and_markdown_print_names_as_they_are(ablation: Path) -> None:
    latex, markdown = (ablation / "table.tex").read_text(), (ablation / "table.md").read_text()
    assert r"row a\_b\&c\% fusion & " in latex
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), latex)
    assert columns is not None
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}
    assert len(rows) == 1 + len(CELLS)
    assert [line for line in latex.splitlines() if "broken" in line] == ["% Failed: broken: no word states <b>"]
    assert r"| row a\_b&c% fusion |" in markdown
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}) == 1
    assert r"Failed: broken: no word states \<b\>" in markdown


def test_what_is_no_number_has_empty_cells_and_zero_no_minus(study: Study) -> None:
    row, nan = study.row("both"), np.nan
    (rated,) = row.ratings
    assert row.line is not None
    line = replace(row.line, interval=replace(row.line.interval, low=nan, high=nan))
    diverged = replace(rated, ccc=nan, interval=replace(rated.interval, low=nan, high=nan), ccc_by_seed=(nan, nan))
    small = replace(rated, ccc=-0.0003, interval=replace(rated.interval, low=-0.12, high=-0.0004))
    rows = [replace(row, name=name, line=line, ratings=(own,)) for name, own in (("x-1", diverged), ("y", small))]
    examined = [Examined(own, Dataset(9, {}, {}), {}, {}) for own in rows]
    table = table_of(study, examined, rows[0])
    cells = [cell for own in table.rows for cell in own]
    assert all(cell.value is None or isinstance(cell.value, str) or np.isfinite(cell.value) for cell in cells)
    assert [[cell.text for cell in own[6:8]] for own in table.rows] == [["–", "–"], ["0.000", "-0.120 to 0.000"]]
    assert "$-$0.120 to 0.000" in latex_of(table)
    shown = [text for drawing in figures_of(examined)[0].drawings for own in drawing.rows for text in own]
    for text in (*(cell.text for cell in cells), markdown_of(table), latex_of(table), *shown):
        assert "nan" not in text
        assert "-0.000" not in text


def test_figures_hold_the_numbers_of_the_runs(study: Study) -> None:
    figures = {figure.key: figure for figure in figures_of(examine(study, study.rows[0]))}
    assert list(figures) == ["intervals", "layer", "granularity", "confusion", "speakers", "weights", "training"]
    ua = {row.name: row.line.ua for row in study.rows if row.line is not None}
    (layers,) = figures["layer"].drawings[0].data
    assert layers["x"] == ["0", "4", "9", None, "mix"]  # broken before what is no layer
    assert layers["y"] == [ua["probe-word-0"], ua["probe-word-4"], ua["probe-word-9"], None, ua["probe-word-mix"]]
    (units,) = figures["granularity"].drawings[0].data
    assert units["x"][:2] == ["word", "utterance"]
    assert units["y"][:2] == [ua["probe-word-9"], ua["probe-utterance-9"]]
    row = study.row("probe-word-mix")
    own = predictions(row.folder.parents[1], row.name)
    drawn = next(one for one in figures["confusion"].drawings if one.name == row.name)
    by_hand = confusion_matrix(own["truth"], own["prediction"], labels=row.labels)
    assert drawn.data[0]["z"] == (by_hand / by_hand.sum(1, keepdims=True)).tolist()
    assert f"({by_hand[0, 0]})" in drawn.data[0]["text"][0][0]
    speakers = figures["speakers"].drawings[0]
    place = [one.name for one in study.rows].index(row.name)
    recalls = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in own.groupby("speaker")]
    assert speakers.data[0]["z"][place] == pytest.approx(recalls)


def test_no_line_joins_rows_of_unlike_caches(tmp_path: Path) -> None:
    one = Experiment(head="speech-probe", seeds=1, settings={"hidden": 4}, training=Training(epochs=1, batch_size=16))
    few = make_rows()[lambda rows: rows["speaker"] != "s1"]  # as from another corpus
    caches = [write_cache(tmp_path / "first"), write_cache(tmp_path / "other", few)]
    caches.append(write_cache(tmp_path / "moved" / "other", few[1:]))
    asked = [replace(one, layer=layer, granularity=unit) for layer in "49" for unit in ("word", "utterance")]
    for i, cache in enumerate(caches):
        for experiment in asked:
            train_head(cache, experiment, tmp_path / f"runs/{i} {experiment.layer} {experiment.granularity}")
    study = read_study(tmp_path / "runs")
    examined = {own.row.name: own for own in examine(study, study.rows[0])}
    apart = [examined["0 4 word"], examined["1 9 word"]]
    assert over_layers(apart) is None
    assert over_granularities([examined["0 4 word"], examined["1 4 utterance"]]) is None
    crossed = [own for name, own in examined.items() if name.startswith(("0", "1")) and "word" in name]
    figure = over_layers(crossed)
    assert figure is not None
    (drawn,) = figure.drawings
    assert [row[:2] for row in drawn.rows] == [
        (f"speech-probe cache {name}", layer) for name in ("first", "other") for layer in "49"
    ]
    assert [line["x"] for line in drawn.data] == [["4", "9", None]] * 2
    # of two caches that are called alike, the runs' names tell
    figure = over_layers([own for name, own in examined.items() if name[0] != "0" and "word" in name])
    assert figure is not None
    assert len({row[0] for row in figure.drawings[0].rows}) == 2
    figure = over_granularities([own for name, own in examined.items() if name.startswith(("0 4", "1 4"))])
    assert figure is not None
    assert [line["name"] for line in figure.drawings[0].data] == [
        "speech-probe cache first",
        "speech-probe cache other",
    ]


def test_ratings_have_figures_of_their_own(ablation: Path, study: Study, tmp_path: Path) -> None:
    both = study.row("both")
    shown = figures_of(examine(study, study.rows[0]))[0].drawings
    assert [drawing.name for drawing in shown] == ["UA", "CCC of valence"]
    assert shown[1].data[0]["x"] == [both.ratings[0].ccc]
    rated = replace(CELLS["both"], task="dimensional")
    train_head(ablation.parents[1] / "toy", rated, tmp_path / "rated")
    table = write_report(tmp_path / "rated").table
    assert table.columns == ("head", "CCC valence", "95 % of CCC valence", "p (CCC valence)", "runs")
    found = read_study(tmp_path / "rated")
    keys = [figure.key for figure in figures_of(examine(found, found.rows[0]))]
    assert keys == ["intervals", "training"]


def test_a_dimension_is_no_markup_on_an_axis(study: Study) -> None:
    (rated,) = study.row("both").ratings
    rows = [replace(study.row(name), ratings=(replace(rated, dimension="<b>x</b>"),)) for name in CELLS if "9" in name]
    examined = [replace(own, row=row) for own, row in zip(examine(study, rows[0]), rows, strict=False)]
    drawn = {
        figure.key: figure.drawings[1] for figure in figures_of(examined) if figure.key in ("intervals", "granularity")
    }
    titles = [drawn["intervals"].layout["xaxis"]["title"], drawn["granularity"].layout["yaxis"]["title"]]
    assert titles == [{"text": "CCC of &lt;b&gt;x&lt;/b&gt;"}] * 2


def test_every_drawing_is_what_plotly_knows(study: Study) -> None:
    for figure in figures_of(examine(study, study.rows[0])):
        for drawing in figure.drawings:
            plotly.graph_objects.Figure(data=drawing.data, layout=drawing.layout)  # refuses an unknown name or value
            assert {len(row) for row in drawing.rows} == {len(drawing.columns)}
            assert "<script>" not in json.dumps((drawing.data, drawing.layout))  # plotly would take it for markup


def test_learned_layers_are_those_of_the_stored_heads(study: Study) -> None:
    row = study.row("probe-word-mix")
    shares = []
    for path in row.folder.glob("heads/*/model.safetensors"):
        (logits,) = [value for name, value in load_file(path).items() if name.endswith("mix.logits")]
        shares.append(np.exp(logits) / np.exp(logits).sum())
    (found,) = layer_weights(row)
    assert (found.stream, found.layers, len(shares)) == ("word", (0, 4, 9), 6)
    assert found.mean == pytest.approx(np.mean(shares, axis=0), abs=1e-6)
    assert found.deviation == pytest.approx(np.std(shares, axis=0), abs=1e-6)
    assert layer_weights(study.row("probe-word-9")) == []


def test_only_heads_that_dev_chose_are_looked_at(study: Study) -> None:
    row = study.row("tried")
    results = pd.read_csv(row.folder / "results.csv", dtype={"fold": str})
    found = [json.loads((folder / "config.json").read_text()) for folder in head_folders(row)]
    chosen = {(config["fold"], config["seed"], config["learning_rate"]) for config in found}
    assert len(found) == 6
    assert chosen == set(zip(results["fold"], results["seed"], results["learning_rate"], strict=True))


def test_a_member_with_one_setting_is_looked_at_beside_others_with_several(tmp_path: Path) -> None:
    short = Training(epochs=1, batch_size=16)
    tried = Experiment(head="late-fusion", try_layers=("0", "9"), seeds=1, settings={"hidden": 4}, training=short)
    train_head(write_cache(tmp_path / "toy"), replace(tried, fusion="concat"), tmp_path / "run")
    rows = {row.head: row for row in read_study(tmp_path / "run").rows}
    assert {name: len(head_folders(row)) for name, row in rows.items()} == dict.fromkeys(rows, 6)
    assert "text-probe" in rows
    assert "late-fusion" in rows
    assert all(course(row) is not None for row in rows.values())


def test_courses_are_those_of_the_histories(study: Study) -> None:
    row = study.row("probe-word-4")
    configs = [json.loads(path.read_text()) for path in row.folder.glob("heads/*/config.json")]
    found = course(row)
    assert found is not None
    assert found.num_runs[0] == len(configs) == 6
    for epoch in range(len(found.num_runs)):
        lasting = [config["history"][epoch] for config in configs if len(config["history"]) > epoch]
        assert found.num_runs[epoch] == len(lasting)
        scores = [one["dev_score"] for one in lasting]
        assert found.dev_score[epoch] == pytest.approx(
            [np.quantile(scores, 0.1), np.mean(scores), np.quantile(scores, 0.9)]
        )
        assert found.train_loss[epoch, 1] == pytest.approx(np.mean([one["train_loss"] for one in lasting]))
    assert found.best_epoch == np.median([config["best_epoch"] for config in configs])
    assert course(study.row("fusion")) is None  # a mean of posteriors trains nothing


class _Page(HTMLParser):
    """What a page would load, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag == "script":
            self.scripts.append(dict(attrs))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text.append(data)


def test_the_page_loads_nothing_and_shows_names_as_text(ablation: Path) -> None:
    page = _Page((ablation / "report.html").read_text(encoding="utf-8"))
    assert page.loads
    assert all(target.startswith("#") for target in page.loads)
    assert len(page.scripts) == 3  # the figures as JSON, plotly's, our own
    text = "".join(page.text)
    assert LABEL in text
    assert "no word states <b>" in text
    assert "mmser ablate cache/toy grid.toml" in text
    command = "mmser train-head cache/toy --head speech-probe --layer 9 --folds session --set hidden=4"
    assert command in text
    assert "angry 18, happy 18" in text
    assert "not finished" in text


def test_the_page_links_to_an_explorer_beside_it(ablation: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    shutil.copytree(ablation, folder, ignore=shutil.ignore_patterns("heads"))
    (folder / "explorer.html").write_text("")
    page = _Page(write_report(folder).page.read_text(encoding="utf-8"))
    assert "explorer.html" in page.loads
    assert "Learned layer weights" not in "".join(page.text)  # a figure is there where its data are


def test_recipes_are_shown_where_run_folders_have_them(ablation: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(ablation / "cells" / "probe-word-9", folder)
    config = json.loads((folder / "config.json").read_text())
    name = next(iter(config["shards"]))
    config["streams"] = {name: {"recipe": {"model": "<i>toy</i>"}, "provenance": {"torch": "9.9"}}}
    (folder / "config.json").write_text(json.dumps(config))
    text = "".join(_Page(write_report(folder).page.read_text(encoding="utf-8")).text)
    assert '"model": "<i>toy</i>"' in text
    assert '"torch": "9.9"' in text


def test_a_fusion_stands_with_its_members_where_it_is_no_cell(ablation: Path, tmp_path: Path) -> None:
    shutil.copytree(ablation / "cells" / "fusion", tmp_path / "runs" / "fusion")
    shutil.copytree(ablation / "cells" / "probe-word-9", tmp_path / "runs" / "probe")
    shutil.copytree(ablation / "cells" / "one-seed", tmp_path / "runs" / "begun")
    (tmp_path / "runs" / "begun" / "summary.json").unlink()
    several = read_study(tmp_path / "runs")
    names = ["fusion: speech-probe", "fusion: text-probe", "fusion", "probe"]
    assert [row.name for row in several.rows] == names
    assert [row.is_member for row in several.rows] == [True, True, False, False]
    assert "begun" in several.failed
    assert [row.name for row in read_study(tmp_path / "runs" / "fusion").rows] == [
        "speech-probe",
        "text-probe",
        "late-fusion",
    ]
    table = write_report(tmp_path / "runs").table
    assert [row[0].text for row in table.rows] == names
    assert "fusion: text\\-probe" not in markdown_of(table)
    assert r"fusion: text-probe" in latex_of(table)


def test_folders_that_are_no_study_are_refused(ablation: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="no such folder"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(ProtocolError, match="no finished run to report of"):
        read_study(tmp_path)
    about = json.loads((ablation / "ablation.json").read_text())
    about["cells"][0]["name"] = "../cells/probe-word-9"
    (tmp_path / "ablation.json").write_text(json.dumps(about))
    with pytest.raises(ProtocolError, match=r"cell '\.\./cells/probe-word-9': expected letters, digits"):
        read_study(tmp_path)
    (tmp_path / "ablation.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(ProtocolError, match="format 2; this version of mmser reads 1"):
        read_study(tmp_path)
    (tmp_path / "ablation.json").write_text(json.dumps({"format": 1, "cells": 3}))
    with pytest.raises(ProtocolError, match="not what mmser ablate writes"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("cell", "edit", "message"),
    [
        ("probe-word-mix", lambda _: {}, r"it lacks 'history'"),
        ("probe-word-9", lambda config: {**config, "history": 3}, r"history is 3, expected a list"),
        ("probe-word-9", lambda config: {**config, "history": [{"epoch": 1}]}, r"history\[0\] lacks 'train_loss'"),
        ("probe-word-9", lambda config: {**config, "best_epoch": "3"}, r"best_epoch is '3', expected a whole number"),
        (
            "probe-word-mix",
            lambda config: {**config, "speech_layers_of_encoder": [0]},
            r"1 speech_layers_of_encoder, and .*mix\.logits in model\.safetensors is of shape \(3,\)",
        ),
    ],
)
def test_a_damaged_head_is_named(ablation: Path, tmp_path: Path, cell: str, edit, message: str) -> None:
    folder = shutil.copytree(ablation / "cells" / cell, tmp_path / "run")
    path = sorted(folder.glob("heads/*/config.json"))[0]
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    again = "; delete this head's folder and the run's summary.json and run the same command again"
    with pytest.raises(ProtocolError, match=rf"{path}: {message}{again}"):
        write_report(folder)


def test_a_damaged_table_of_trials_is_named(ablation: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ablation / "cells" / "tried", tmp_path / "run")
    (folder / "trials.csv").write_text("")
    with pytest.raises(ProtocolError, match=r"trials\.csv: not readable as CSV .*; delete the run's summary"):
        write_report(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as CSV"),
        ("a,b\n1,2,3,4\n1\n1,2,3,4,5\n", "not readable as CSV"),
        ("utterance_id,head\nu1,speech-probe\n", "no column 'speaker'; expected what mmser train-head writes"),
    ],
)
def test_damaged_predictions_are_said(ablation: Path, tmp_path: Path, text: str, message: str) -> None:
    folder = shutil.copytree(ablation / "cells" / "one-seed", tmp_path / "run")
    (folder / "predictions.csv").write_text(text)
    with pytest.raises(ProtocolError, match=rf"predictions\.csv: {message}"):
        write_report(folder)


def changed(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """With one cell of another value."""
    table = table.astype({column: object})
    table.loc[1, column] = value
    return table


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda table: table[:-1], r"17 rows of 'speech-probe', fold 'Ses3', seed 1; expected 18, as results"),
        (lambda table: table[table["seed"] == 0], r"0 rows of 'speech-probe', fold 'Ses1', seed 1; expected 18"),
        (lambda table: pd.concat([table, table[:1]]), r"19 rows of 'speech-probe', fold 'Ses1', seed 0; expected 18"),
        (lambda table: table.assign(head="other"), r"0 rows of 'speech-probe', fold 'Ses1', seed 0; expected 18"),
        (lambda table: table.drop(columns="p_angry"), r"no column 'p_angry', which summary\.json asks for"),
        (lambda table: table.drop(columns="truth_valence"), r"no column 'truth_valence', which summary\.json asks for"),
        (lambda table: changed(table, "truth", "no"), r"truth 'no', which is none of the classes of summary\.json"),
        (lambda table: changed(table, "prediction", ""), r"prediction '', which is none of the classes"),
        (lambda table: changed(table, "prediction_valence", "0,5"), r"prediction_valence '0,5', expected a number"),
    ],
)
def test_predictions_that_are_not_those_of_the_summary_are_refused(
    ablation: Path, tmp_path: Path, edit, message: str
) -> None:
    folder = shutil.copytree(ablation / "cells" / "both", tmp_path / "runs" / "both")
    path = folder / "predictions.csv"
    edit(pd.read_csv(path, keep_default_na=False)).to_csv(path, index=False)
    again = "; delete the run's summary.json and run the same command again, which writes both anew"
    with pytest.raises(ProtocolError, match=rf"^{path}: {message}.*{again}$"):
        write_report(folder)
    shutil.copytree(ablation / "cells" / "one-seed", tmp_path / "runs" / "one-seed")
    table = write_report(tmp_path / "runs").table
    assert [row[0].text for row in table.rows] == ["one-seed"]
    ((name, reason),) = table.failed
    assert name == "both"
    assert re.match(rf"{path}: {message}", reason)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "not readable as CSV"),
        ("head,fold,seed\n", "no column 'learning_rate', which mmser train-head writes"),
        (lambda stored: re.sub("(?m)^(.*?),0,", r"\1,x,", stored), "not every seed is a number"),
    ],
)
def test_damaged_results_are_said(
    ablation: Path, tmp_path: Path, text: str | Callable[[str], str] | None, message: str
) -> None:
    folder = shutil.copytree(ablation / "cells" / "one-seed", tmp_path / "run")
    path = folder / "results.csv"
    if text is None:
        path.unlink()
    else:
        path.write_text(text if isinstance(text, str) else text(path.read_text()))
    with pytest.raises(ProtocolError, match=rf"results\.csv: {message}.*; delete the run's summary\.json and"):
        write_report(folder)


def test_a_damaged_list_of_failures_is_said(ablation: Path, tmp_path: Path) -> None:
    shutil.copy(ablation / "ablation.json", tmp_path)
    (tmp_path / "failed.csv").write_text("name,reason\n")
    with pytest.raises(ProtocolError, match=r"failed\.csv: not the table that mmser ablate writes"):
        read_study(tmp_path)
