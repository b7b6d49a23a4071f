"""mmser in notebooks: the same as the command line, and tables, figures and heads that say what the files say."""

import doctest
import html
import json
import shutil
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from small_cache import LABELS, make_rows, write_cache
from small_corpus import mmser
from test_cache_python import page_of

from mmser.api import Runs, compare, train_head
from mmser.api.training import experiment_of
from mmser.cache import Cache
from mmser.commands.train import train_head as train_command
from mmser.errors import MmserError, ProtocolError
from mmser.train.compare import compare as compare_folders
from mmser.train.options import Experiment, Training
from mmser.train.presets import PRESETS

QUICK = {"epochs": 3, "learning_rate": 0.03, "quiet": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    rows = make_rows()
    rows["valence"] = rows["label"].map({"angry": 1.0, "happy": 5.0, "sad": 2.0})
    write_cache(folder / "toy", rows)
    return folder


@pytest.fixture(scope="module")
def runs(root: Path) -> Runs:
    """A late fusion of a probe and co-attention that both mix layers."""
    return train_head(
        root / "toy",
        "late-fusion",
        members=["speech-probe", "coattention"],
        seeds=2,
        hidden=4,
        width=8,
        heads=2,
        out=root / "runs" / "fusion",
        **QUICK,
    )


def test_it_is_the_command(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    made = train_head("toy", "speech-probe", layer=9, hidden=4, **QUICK)
    assert made.folder == Path("runs/toy/speech-probe-word-9")
    assert capsys.readouterr() == ("", "")
    options = ("--head", "speech-probe", "--layer", 9, "--set", "hidden=4", "--epochs", 3, "--learning-rate", 0.03)
    told = mmser("train-head", "toy", *options, "--out", "runs/command", "--json")
    same = json.loads(told.stdout)
    assert same.pop("folder") == "runs/command"
    assert same == json.loads((made.folder / "summary.json").read_text())
    again = train_head("toy", "speech-probe", layer=9, hidden=4, **QUICK | {"quiet": False})
    assert (capsys.readouterr().err, repr(again)) == ("", "Runs('runs/toy/speech-probe-word-9')")  # all was there
    with pytest.raises(ProtocolError, match="holds another experiment: normalise was 'global', now 'none'"):
        train_head("toy", "speech-probe", layer=9, normalise="none", hidden=4, **QUICK)


def test_keywords_become_an_experiment() -> None:
    assert experiment_of("coattention", {}) == Experiment()
    asked = {
        "granularity": ["phone", "word"],
        "layer": range(4, 7),
        "labels": ["sad", "happy"],
        "try_layers": (3, 9),
        "learning_rate": [0.1, 0.01],
        "dimensions": "valence",
        "dimension_weights": [2.0],
        "task": "both",
        "normalise": "speaker",
        "epochs": 7,
        "settings": {"dropout": 0.3},
        "width": 16,
    }
    assert experiment_of("coattention", asked) == Experiment(
        granularity="phone,word",
        layer="4,5,6",
        labels=("sad", "happy"),
        try_layers=("3", "9"),
        learning_rate=(0.1, 0.01),
        dimensions=("valence",),
        task="both",
        normalise="speaker",
        settings={"dropout": 0.3, "width": 16},
        training=Training(epochs=7, dimension_weights=(2.0,)),
    )
    base = Training(batch_size=4)
    assert experiment_of("moe", {"training": base, "epochs": 2}).training == replace(base, epochs=2)
    preset = experiment_of("coattention", {"protocol": "superb"})
    assert preset == replace(Experiment(), protocol="superb", **PRESETS["superb"].settings)
    given = experiment_of("coattention", {"protocol": "superb", "folds": "speaker"})  # a default, but asked for
    assert (given.folds, given.labels) == ("speaker", preset.labels)


@pytest.mark.parametrize(
    ("head", "asked", "message"),
    [
        ("coattention", {"epocs": 3}, "no option 'epocs' of coattention or of its training .did you mean 'epochs'"),
        ("coattention", {"widht": 3}, "did you mean 'width'"),
        ("speech-probe", {"width": 3}, "no option 'width' of speech-probe or of .* its own are dropout, hidden, poo"),
        ("coattntion", {"width": 3}, "head is 'coattntion'.* expected one of: speech-probe"),
        ("coattention", {"protocol": "iemocap"}, "protocol is 'iemocap'.* expected one of: leave-one-session-out"),
        ("coattention", {"seeds": 0}, "seeds is 0; expected at least 1"),
        (None, {}, "head is None; expected one of: speech-probe"),
        ("coattention", {"seeds": "3"}, "train_head: seeds is '3'; expected a whole number"),
        ("coattention", {"seeds": [0, 1]}, r"seeds is \[0, 1\]; expected a whole number"),
        ("coattention", {"epochs": np.float64(3)}, "epochs is 3.0; expected a whole number"),
        ("coattention", {"epochs": np.int64}, "epochs is <class 'numpy.int64'>; expected a whole number"),
        ("coattention", {"learning_rate": "1e-3"}, "learning_rate is '1e-3'; expected a number, or a list of numbers"),
        ("coattention", {"learning_rate": np.ones((2, 2))}, r"learning_rate is \[\[1.0, 1.0\], .* a list of numbers"),
        ("coattention", {"learning_rate": np.array([])}, "no learning rate is named; expected one or more"),
        ("coattention", {"weight_decay": ()}, "no weight decay is named; expected one or more"),
        ("coattention", {"crop_seconds": "5"}, "crop_s is '5'; expected a number"),
        ("coattention", {"crop_seconds": 5, "crop_s": 5}, "crop_s and crop_seconds are one option; give one of them"),
        ("coattention", {"labels": {"sad", "happy"}}, "labels is .*; expected a list of texts"),
        ("coattention", {"require": 3.5}, "require is 3.5; expected text"),
        ("coattention", {"protocol": ["superb", {}]}, "protocol is .*; expected text"),
        ("coattention", {"report_oracle": "yes"}, "report_oracle is 'yes'; expected true or false"),
        ("coattention", {"width": [64]}, r"option width=\[64\] of the head: expected text, a number, True or False"),
        ("coattention", {"settings": "width=64"}, "settings is 'width=64'; expected a dict, as settings={'width': 64}"),
        ("coattention", {"settings": {3: 4}}, "option 3=4 of the head: expected"),
        ("coattention", {"training": {"epochs": 3}}, "training is {'epochs': 3}; expected a Training"),
    ],
)
def test_what_is_no_option(
    head: str, asked: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cache(tmp_path / "toy")
    with pytest.raises(ProtocolError, match=message):
        train_head("toy", head, **asked)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("asked", [{"layer": "deep"}, {"text_layer": 7}, {"width": "wide"}, {"device": "abacus"}])
def test_what_only_the_cache_refuses_leaves_nothing_either(
    root: Path, asked: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(MmserError):
        train_head(root / "toy", "coattention", out=tmp_path / "run", **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_commands_own_names_are_keywords() -> None:
    """But for --set, which is settings, and how the command prints."""
    for option in train_command.params:
        name = max(option.opts, key=len).removeprefix("--").replace("-", "_")
        if name not in ("cache_path", "set", "json", *signature(train_head).parameters):
            assert experiment_of("cnn14", {name: None}) == Experiment(head="cnn14")
    for name in ("crop_seconds", "crop_s"):
        assert experiment_of("cnn14", {name: 3}).training.crop_s == 3


def test_numpy_and_text_mean_what_python_and_the_command_mean() -> None:
    asked = {
        "seeds": np.int64(2),
        "learning_rate": np.array([0.5, 0.25], dtype=np.float32),
        "weight_decay": np.float32(0.5),
        "layer": np.arange(4, 7),
        "try_layers": np.array([3, 9]),
        "dimension_weights": np.array([1.0, 0.5]),
        "dimensions": pd.Series(["valence", "arousal"]),
        "labels": np.array(["sad", "happy"]),
        "require": ["phone", "word"],
        "members": "coattention@word, text-probe",
        "report_oracle": np.bool_(True),
        "lexicon": Path("words.csv"),
        "width": np.int32(16),
        "protocol": None,
        "folds": None,
        "text_layer": "-1",
    }
    found = experiment_of("late-fusion", asked)
    assert found == Experiment(
        head="late-fusion",
        seeds=2,
        learning_rate=(0.5, 0.25),
        weight_decay=0.5,
        layer="4,5,6",
        try_layers=("3", "9"),
        dimensions=("valence", "arousal"),
        labels=("sad", "happy"),
        require="phone,word",
        members=("coattention@word", "text-probe"),
        report_oracle=True,
        lexicon="words.csv",
        settings={"width": 16},
        training=Training(dimension_weights=(1.0, 0.5)),
    )
    json.dumps(asdict(found))  # as a run folder keeps it
    opened = experiment_of("speech-probe", {"protocol": "msp-podcast", "test_split": None})
    assert opened.test_split is None  # a value of its own, which a preset does not fill in


def test_a_cache_that_is_open_is_taken_and_anything_else_refused(root: Path, tmp_path: Path) -> None:
    options = {"layer": 9, "hidden": 4, "tensorboard": True, **QUICK}
    made = train_head(Cache(root / "toy"), "speech-probe", out=str(tmp_path / "run"), **options)
    assert made.folder == tmp_path / "run"
    assert len(list(made.folder.glob("tensorboard/*/events.out.*"))) == 6
    with pytest.raises(ProtocolError, match="cache is 3; expected a path"):
        train_head(3, "speech-probe")  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="out is 3; expected a path"):
        train_head(root / "toy", "speech-probe", out=3)  # type: ignore[arg-type]


def test_tables_are_the_files_and_agree(runs: Runs) -> None:
    each, predictions, summary = runs.to_pandas(), runs.predictions(), runs.summary()
    assert len(each) == 3 * 6 * 2
    assert summary["head"].tolist() == ["speech-probe", "coattention", "late-fusion"]
    for row in summary.to_dict("records"):
        own = predictions[predictions["head"] == row["head"]]
        uas = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in own.groupby("seed")]
        assert row["ua"] == pytest.approx(np.mean(uas))
        assert row["low"] <= row["ua"] <= row["high"]
        assert row["ua_of_folds"] == pytest.approx(each[each["head"] == row["head"]]["ua"].mean(), abs=1e-6)
    assert runs.labels == list(LABELS)
    assert runs.experiment["members"] == ["speech-probe", "coattention"]


def test_a_fold_may_be_called_na(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.folder, tmp_path / "run")
    table = runs.to_pandas()
    first, *others = table["fold"].unique()
    table.assign(fold=table["fold"].replace(first, "NA")).to_csv(folder / "results.csv", index=False)
    assert set(Runs(folder).to_pandas()["fold"]) == {"NA", *others}


def test_ratings_have_their_own_rows(root: Path) -> None:
    options = {"task": "both", "dimensions": "valence", "layer": 9, "hidden": 4}
    both = train_head(root / "toy", "speech-probe", out=root / "runs" / "both", **options, **QUICK)
    table = both.summary()
    assert table["dimension"].fillna("").tolist() == ["", "valence"]
    assert table["ccc"].notna().tolist() == [False, True]
    assert "valence" in both._repr_html_()
    with pytest.raises(ProtocolError, match="no head of it mixes layers; train with layer="):
        both.plot_layers()
    rated = train_head(
        root / "toy", "speech-probe", out=root / "runs" / "rated", **options | {"task": "dimensional"}, **QUICK
    )
    with pytest.raises(ProtocolError, match="rates dimensions; it has no classes to confuse"):
        rated.plot_confusion()


def test_what_the_command_says_beside_the_table_is_said_and_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    rows = make_rows()
    rows["valence"] = 1.0 + np.arange(len(rows)) % 5
    rows.loc[3, ["label", "valence"]] = ["", np.nan]
    write_cache(root / "odd", rows, absent={"text/toy": {"s1_happy_0", "s2_sad_1"}})
    asked = {"task": "both", "dimensions": "valence", "layer": 9, "missing": "keep", "width": 4, "heads": 2}
    wild = QUICK | {"learning_rate": 1e30, "quiet": False}
    made = train_head("odd", "coattention", report_oracle=True, **asked, **wild)
    said = capsys.readouterr()
    options = ("--task", "both", "--dimensions", "valence", "--layer", 9, "--missing", "keep", "--report-oracle")
    settings = ("--set", "width=4", "--set", "heads=2", "--epochs", 3, "--learning-rate", 1e30)
    told = mmser("train-head", "odd", *options, *settings, "--out", made.folder).stdout.splitlines()
    kinds = ("Note:", "Left out:", "Kept,", "Oracle,")
    assert [line for line in told if line.startswith(kinds)] == made.remarks()
    assert [line for line in said.err.splitlines() if line.startswith(kinds)] == made.remarks()
    assert {line.split(" ")[0] for line in made.remarks()} == {"Note:", "Left", "Kept,", "Oracle,"}
    assert made.notes[0].startswith("6 of 6 runs of coattention diverged")
    assert sum(made.left_out.values()) == 1
    assert sum(made.kept.values()) == 2
    assert made.oracle[["head", "figure"]].values.tolist() == [["coattention", "UA"], ["coattention", "CCC of valence"]]
    honest = [made.lines[0].ua, made.rating_lines[0].ccc]
    np.testing.assert_allclose(made.oracle["oracle"] - made.oracle["difference"], honest)
    summary = json.loads((made.folder / "summary.json").read_text())
    summary["notes"].append("<script>alert(1)</script>")
    (made.folder / "summary.json").write_text(json.dumps(summary))
    shown = Runs(made.folder)._repr_html_()
    assert all(html.escape(line) in shown for line in made.remarks())
    assert "<p>Note: &lt;script&gt;alert(1)&lt;/script&gt;</p>" in shown


def test_nothing_to_note_is_nothing_said(runs: Runs) -> None:
    assert (runs.notes, runs.left_out, runs.kept, len(runs.oracle), runs.remarks()) == ([], {}, {}, 0, [])


def test_the_confusion_that_is_drawn(runs: Runs) -> None:
    (drawn,) = runs.plot_confusion("coattention").data
    own = runs.predictions().query("head == 'coattention'")
    layout = runs.plot_confusion("coattention").layout
    assert list(layout.xaxis.ticktext) == list(layout.yaxis.ticktext) == list(LABELS)
    np.testing.assert_allclose(
        np.asarray(drawn.z, float), confusion_matrix(own["truth"], own["prediction"], normalize="true")
    )
    counts = confusion_matrix(own["truth"], own["prediction"])
    assert drawn.text[0][1].endswith(f"({counts[0, 1]})")
    assert runs.plot_confusion().layout.title.text.startswith("late-fusion: UA 0.")
    with pytest.raises(ProtocolError, match="no head 'film'; there are speech-probe, coattention, late-fusion"):
        runs.plot_confusion("film")


def test_the_layer_weights_that_are_drawn(runs: Runs) -> None:
    drawn = {trace.name: trace for trace in runs.plot_layers().data}
    assert list(drawn) == ["speech-probe", "coattention"]
    weights = []
    for path in sorted(runs.folder.glob("heads/speech-probe-*/model.safetensors")):
        (logits,) = (value for name, value in load_file(path).items() if name.endswith("mix.logits"))
        weights.append(np.exp(logits) / np.exp(logits).sum())
    assert len(weights) == 12
    trace = drawn["speech-probe"]
    assert list(trace.x) == [0, 4, 9]
    np.testing.assert_allclose(np.asarray(trace.y, float), np.mean(weights, 0), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(trace.error_y.array, float), np.std(weights, 0), rtol=1e-5)


def test_only_heads_that_dev_chose_are_drawn(root: Path) -> None:
    tried = train_head(
        root / "toy", "speech-probe", hidden=4, out=root / "runs" / "tried", **QUICK | {"learning_rate": (0.3, 0.003)}
    )
    chosen = tried.to_pandas().set_index("fold")["learning_rate"]
    assert len(chosen) == 6
    weights = []
    for path in sorted(tried.folder.glob("heads/*/model.safetensors")):
        fold = sorted(chosen.index)[int(path.parent.name.split("-fold")[1][0])]
        if path.parent.name.endswith(f"-trial{int(chosen[fold] == 0.003)}"):
            (logits,) = (value for name, value in load_file(path).items() if name.endswith("mix.logits"))
            weights.append(np.exp(logits) / np.exp(logits).sum())
    assert len(weights) == 6
    (trace,) = tried.plot_layers().data
    np.testing.assert_allclose(np.asarray(trace.y, float), np.mean(weights, 0), rtol=1e-5)


def test_heads_come_one_by_one(runs: Runs) -> None:
    heads = runs.heads()
    name, first = next(heads)
    assert name == "coattention-fold0-seed0"
    assert not first.training
    assert len(list(heads)) == 2 * 6 * 2 - 1


def test_runs_are_compared(runs: Runs, root: Path) -> None:
    found = compare(runs)
    assert found["p"].tolist() == [one.p for one in compare_folders([runs.folder])]
    other = train_head(root / "toy", "text-probe", seeds=2, out=root / "runs" / "text", **QUICK)
    (row,) = compare(runs, other.folder).to_dict("records")
    assert row["value_one"] == pytest.approx(runs.summary()["ua"].iloc[-1])
    assert row["value_other"] == pytest.approx(other.summary()["ua"].iloc[-1])


def test_a_name_is_text_not_markup(runs: Runs, tmp_path: Path) -> None:
    folder = shutil.copytree(runs.folder, tmp_path / "<b>run")
    evil = "<script>alert(1)</script>"
    for name in ("summary.json", "predictions.csv", "results.csv"):
        (folder / name).write_text((folder / name).read_text().replace("late-fusion", evil).replace("sad", evil))
    opened = Runs(folder)
    shown = opened._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "&lt;b&gt;run" in shown
    figure = opened.plot_confusion()
    assert figure.layout.title.text.startswith("&lt;script&gt;")
    assert figure.layout.xaxis.ticktext[2] == "&lt;script&gt;ale…"


def test_what_is_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"summary\.json: no such file; expected the folder of a finished"):
        Runs(tmp_path)


def test_an_unknown_truth_is_empty(root: Path, tmp_path: Path) -> None:
    rows = make_rows()
    rows["valence"] = 1.0 + np.arange(len(rows)) % 5
    rows.loc[3, "label"] = ""
    cache = write_cache(tmp_path / "toy", rows)
    made = train_head(
        cache, "speech-probe", task="both", dimensions=["valence"], layer=9, out=tmp_path / "run", **QUICK
    )
    table = made.predictions()
    assert table.loc[table["utterance_id"] == rows["utterance_id"][3], "truth"].tolist() == [""]
    assert isinstance(table["truth"][0], str)
    assert pd.api.types.is_float_dtype(table["prediction_valence"])


def test_the_page_on_notebooks_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of("notebooks.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted > 35
    assert outcome.failed == 0


@pytest.mark.parametrize(
    ("file", "message"), [("summary.json", "lacks 'lines'"), ("config.json", "lacks 'experiment'")]
)
def test_a_damaged_file_of_a_run_is_named(runs: Runs, tmp_path: Path, file: str, message: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs.folder, folder)
    (folder / file).write_text("{}")
    with pytest.raises(ProtocolError, match=f"{file}: .*{message}"):
        Runs(folder)
