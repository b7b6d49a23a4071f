"""``mmser train-head`` and ``mmser demo``: what is printed, what is refused, and with which exit code."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from small_cache import FRAMES, POOLED, edit_manifest, make_rows, write_cache
from small_corpus import mmser

from mmser.cache import Cache, StreamWriter, verify
from mmser.cli import EXIT_INTERRUPTED, main
from mmser.demo import corpus as demo_corpus
from mmser.demo import run as demo_run
from mmser.errors import MmserError, ProtocolError
from mmser.heads import HEADS
from mmser.metrics import concordance_correlation
from mmser.train.command import command_of
from mmser.train.members import FUSIONS
from mmser.train.names import default_folder
from mmser.train.options import Experiment, Training
from mmser.train.presets import PRESETS
from mmser.train.run import train_head

QUICK = ["--epochs", "4", "--set", "hidden=4", "--learning-rate", "0.03"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cli") / "toy")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table_of(output: str) -> tuple[list[str], dict[str, list[str]]]:
    """The columns of the table that was printed, and its rows by their first cell."""
    lines = output.splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("head "))
    split = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[top:]]
    rows = {row[0]: row[1:] for row in split[1:] if len(row) == len(split[0])}
    return split[0], rows


def test_the_table_says_what_the_predictions_say(cache: Path, inside: Path) -> None:
    result = mmser("train-head", cache, "--head", "late-fusion", "--seeds", 2, *QUICK)
    assert result.exit_code == 0, result.output
    folder = Path("runs/toy/late-fusion-word-mix")
    columns, rows = table_of(result.stdout)
    assert columns == ["head", "UA", "95 % of UA", "WA", "macro F1", "UA, mean of folds", "runs"]
    assert list(rows) == ["speech-probe", "text-probe", "late-fusion"]
    predictions = pd.read_csv(folder / "predictions.csv")
    for head, cells in rows.items():
        own = predictions[predictions["head"] == head]
        uas = [balanced_accuracy_score(part["truth"], part["prediction"]) for _, part in own.groupby("seed")]
        assert cells[0] == f"{sum(uas) / 2:.3f}"
        low, high = map(float, cells[1].split(" to "))
        assert low <= float(cells[0]) <= high
        assert cells[2] == f"{accuracy_score(own['truth'], own['prediction']):.3f}"
        assert cells[3] == f"{f1_score(own['truth'], own['prediction'], average='macro'):.3f}"
        assert cells[5] == "12"
    assert "54 utterances, 3 classes (chance UA 0.333); interval by bootstrap over 6 speakers." in result.stdout
    assert f"Written to {folder}" in result.stdout
    assert "speech-probe: 48/48" in result.stderr  # progress does not disturb what is piped
    assert "48/48" not in result.stdout


def test_the_same_command_again_trains_nothing_and_says_the_same(cache: Path, inside: Path) -> None:
    command = ("train-head", cache, "--head", "speech-probe", *QUICK)
    first, second = mmser(*command), mmser(*command)
    assert first.stdout == second.stdout
    assert (first.stderr, second.stderr) == ("speech-probe: 24/24\n", "")


class AskedError(Exception):
    """Carries what the command line asked for."""


def test_every_option_reaches_the_experiment(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def catch(path: Path, experiment: Experiment, folder: Path, **_: object) -> None:
        raise AskedError(path, experiment, folder)

    monkeypatch.setattr("mmser.train.run.train_head", catch)
    options = shlex.split("""
        --head late-fusion --granularity phone --layer 9 --text-layer -1 --folds split --test-split Test2
        --label emotion --labels sad,happy --seeds 5 --normalise speaker --members coattention@word,text-probe
        --fusion svm --set width=64 --learning-rate 0.1 --weight-decay 0 --epochs 7 --patience 3 --batch-size 5
        --class-weights balanced --label-smoothing 0.1 --speech-stream pooled/a --text-stream text/b --device cpu
        --task both --dimensions valence,trust --protocol msp-podcast --dev speaker --dev-share 0.3 --dev-seed 7
        --soft votes_ --missing keep --try-layers 3,9 --schedule cosine --warmup 0.1 --categorical-weight 0.7
        --dimension-weights 1,2 --report-oracle --optimiser sgd --momentum 0.8 --crop-seconds 3
        --metric-weight 0.2 --metric-temperature 0.3 --lexicon words.csv --require word,token
        --mel-stream mel/c --clip-norm 2 --memory-gb 3
    """)
    with pytest.raises(AskedError) as asked:
        mmser("train-head", cache, *options, "--out", tmp_path / "run")
    training = Training(
        epochs=7,
        patience=3,
        batch_size=5,
        class_weights="balanced",
        label_smoothing=0.1,
        optimiser="sgd",
        momentum=0.8,
        crop_s=3.0,
        schedule="cosine",
        warmup=0.1,
        categorical_weight=0.7,
        dimension_weights=(1.0, 2.0),
        metric_weight=0.2,
        metric_temperature=0.3,
        clip_norm=2.0,
        memory_gb=3.0,
    )
    expected = Experiment(
        head="late-fusion",
        granularity="phone",
        layer="9",
        text_layer="-1",
        folds="split",
        test_split="Test2",
        label="emotion",
        labels=("sad", "happy"),
        seeds=5,
        normalise="speaker",
        members=("coattention@word", "text-probe"),
        fusion="svm",
        settings={"width": "64"},
        learning_rate=0.1,
        weight_decay=0.0,
        speech_stream="pooled/a",
        text_stream="text/b",
        mel_stream="mel/c",
        device="cpu",
        training=training,
        task="both",
        dimensions=("valence", "trust"),
        protocol="msp-podcast",
        dev="speaker",
        dev_share=0.3,
        dev_seed=7,
        soft="votes_",
        missing="keep",
        require="word,token",
        try_layers=("3", "9"),
        report_oracle=True,
        lexicon="words.csv",
    )
    assert asked.value.args == (cache, expected, tmp_path / "run")
    there = {flag for parameter in main.commands["train-head"].params for flag in parameter.opts}
    assert there == {option for option in options if option.startswith("--")} | {
        "--out",
        "--tensorboard",
        "cache_path",
        "--json",
        "--quiet",
        "-q",
    }
    # and nothing asked for is the defaults, which stand in one place
    with pytest.raises(AskedError) as asked:
        mmser("train-head", cache)
    assert asked.value.args == (cache, Experiment(), Path("runs/toy/coattention-word-mix"))


def test_a_preset_sets_what_is_not_given(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def catch(path: Path, experiment: Experiment, folder: Path, **_: object) -> None:
        raise AskedError(experiment)

    monkeypatch.setattr("mmser.train.run.train_head", catch)

    def asked(*options: str) -> Experiment:
        with pytest.raises(AskedError) as error:
            mmser("train-head", cache, *options)
        return error.value.args[0]

    for name, preset in PRESETS.items():
        assert asked("--protocol", name) == replace(Experiment(), protocol=name, **preset.settings)
    given = asked("--protocol", "superb", "--labels", "sad,happy", "--dev", "next")  # a default, but asked for
    assert (given.folds, given.labels, given.dev) == ("session", ("sad", "happy"), "next")
    several = asked("--learning-rate", "0.1, 0.01", "--weight-decay", "0")
    assert (several.learning_rates, several.weight_decay) == ((0.1, 0.01), 0.0)


def test_ratings_a_grid_and_the_oracle_are_printed(tmp_path: Path, inside: Path) -> None:
    rows = make_rows()
    rows["valence"] = rows["label"].map({"angry": 1.0, "happy": 5.0, "sad": 2.0})
    cache = write_cache(tmp_path / "toy", rows, absent={"text/toy": ["s1_sad_0"]})
    options = shlex.split(
        "--head late-fusion --task both --dimensions valence --missing keep --report-oracle --learning-rate 0.03,0.001"
    )
    result = mmser("train-head", cache, *options, "--epochs", 3, "--set", "hidden=4")
    assert result.exit_code == 0, result.output
    assert "Note: text-probe: of 2 settings dev chose learning rate 0.0" in result.stdout
    assert "Kept, though there are: 1 not in stream text/toy" in result.stdout
    assert "54 utterances, 3 classes (chance UA 0.333); interval by bootstrap over 6 speakers." in result.stdout
    assert "Written to runs/toy/late-fusion-word-mix-both" in result.stdout
    table = pd.read_csv("runs/toy/late-fusion-word-mix-both/predictions.csv")
    own = table[table["head"] == "late-fusion"]
    ccc = concordance_correlation(own["truth_valence"], own["prediction_valence"])
    (line,) = [line.split() for line in result.stdout.splitlines() if line.split()[:2] == ["late-fusion", "valence"]]
    assert line[2] == f"{ccc:.3f}"
    leaks = [line for line in result.stdout.splitlines() if line.startswith("Oracle, LEAKS")]
    assert len(leaks) == 6
    assert leaks[0].startswith("Oracle, LEAKS (epoch chosen on the test part): speech-probe, UA 0.")
    again = mmser("runs", "show", "runs/toy/late-fusion-word-mix-both")
    assert " ".join(line) in " ".join(again.stdout.split())


def test_the_help_names_every_head(cache: Path) -> None:
    heads = next(p for p in main.commands["train-head"].params if p.name == "head")
    assert isinstance(heads, click.Option)
    assert heads.help == ", ".join((*HEADS, *FUSIONS)) + "."
    option = next(p for p in main.commands["train-head"].params if p.name == "folds")
    assert isinstance(option, click.Option)
    assert option.default == Experiment().folds


def test_settings_reach_the_head(cache: Path, inside: Path) -> None:
    result = mmser("train-head", cache, "--set", "width=8", "--set", "heads=2", "--epochs", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    config = next(Path("run/heads").iterdir()) / "config.json"
    assert '"width": 8' in config.read_text()


FUSED = {"head": "late-fusion", "members": ("coattention", "cls-coattention"), "layer": "9"}
"""Members that do not agree on the type of self_attention: text of one, true or false of the other."""


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(
            settings={"width": 8, "heads": np.int64(2), "dropout": 0, "feedforward": True}, learning_rate=(0.01,)
        ),
        Experiment(settings={"width": "8", "heads": "2", "dropout": "0", "feedforward": "yes"}, learning_rate=0.01),
        Experiment(**FUSED, settings={"width": 8, "heads": 2}),
    ],
    ids=["numbers", "text", "members"],
)
def test_whoever_asks_the_experiment_is_the_same(cache: Path, inside: Path, experiment: Experiment) -> None:
    folder = Path("run")
    train_head(cache, replace(experiment, training=Training(epochs=1)), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"]["settings"]["width"] == 8
    before = {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")}
    shown = mmser("runs", "show", folder)
    command = shlex.split(command_of(config["experiment"], cache, folder))
    again = mmser(*command[1:])
    assert again.exit_code == 0, again.output
    assert again.stderr == ""  # no head had to be trained
    assert {path: path.stat().st_mtime_ns for path in folder.glob("heads/*/*")} == before
    table = [line for line in shown.stdout.splitlines() if line.startswith((*HEADS, *FUSIONS)) and "ECE" not in line]
    assert table == [line for line in again.stdout.splitlines() if line.startswith((*HEADS, *FUSIONS))]


def test_a_folder_that_keeps_settings_as_text_goes_on(cache: Path, inside: Path) -> None:
    experiment = Experiment(settings={"width": 8, "heads": 2}, training=Training(epochs=1))
    train_head(cache, experiment, Path("run"))
    path = Path("run/config.json")
    older = json.loads(path.read_text())
    older["experiment"] |= {"settings": {"width": "8", "heads": "2"}, "learning_rate": [0.001]}
    path.write_text(json.dumps(older))
    train_head(cache, experiment, Path("run"))
    with pytest.raises(ProtocolError, match=r"holds another experiment: settings\.width was 8, now 16\. Give"):
        train_head(cache, replace(experiment, settings={"width": "16", "heads": "2"}), Path("run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "width"], "--set width: expected NAME=VALUE"),
        (["--set", "widht=8"], "no option 'widht' of coattention (did you mean 'width'?); there are block_dropout"),
        (["--set", "width=wide"], "option width=wide: expected int"),
        (["--set", "width=9"], "width 9 does not divide among 8 heads; choose a multiple"),
        (["--set", "feedforward=maybe"], "option feedforward=maybe: expected bool"),
        (["--head", "cnn"], "head is 'cnn' (did you mean 'cnn14'?); expected one of: speech-probe, text-probe, "),
        (
            ["--granularity", "token"],
            "granularity is 'token'; expected one of: frame, phone, syllable, word",
        ),
        (["--head", "late-fusion", "--members", "film@word"], "film@word: one head alone is no fusion; name several"),
        (["--granularity", "word,word"], "granularity word,word: one is named twice"),
        (["--head", "aligned-words"], "needs the alignments align/hand, which are not there; extract with --align"),
        (["--members", "text-probe"], "--members belongs to a late fusion, but the head is 'coattention'"),
        (["--folds", "sesion"], "no column 'sesion'; it has utterance_id, audio, speaker, session, split, label. Did"),
        (["--folds", "split"], "several test parts: test1 (9), test2 (9); choose one with --test-split"),
        (["--labels", "sad,fear"], "no utterance is labelled 'fear'; there are angry, happy, sad"),
        (["--labels", "sad"], "one class only (sad)"),
        (["--layer", "7"], "--layer 7: stored layers are 0, 4, 9"),
        (["--text-layer", "7"], "--text-layer 7: stored layers are 1, 2"),
        (["--granularity", "phone"], f"no 'phone' states; {POOLED} holds utterance, word. Extract with --keep phone"),
        (["--speech-stream", FRAMES], f"--speech-stream {FRAMES}: word states are read from {POOLED}"),
        (["--label-smoothing", "1"], "label_smoothing is 1; expected at least 0 and less than 1"),
        (["--learning-rate", "fast"], "--learning-rate fast: expected numbers, separated by commas"),
        (["--learning-rate", "-1"], "learning rate is -1; expected more than 0"),
        (["--device", "tpu"], "device 'tpu' cannot be used here"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cache: Path, inside: Path, arguments: list[str], message: str) -> None:
    result = mmser("train-head", cache, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not list(Path("runs").rglob("config.json"))


@pytest.mark.parametrize("out", ["file", "file/run", "file/runs/run", "n" * 300])
@pytest.mark.parametrize(
    "command",
    [
        ["train-head", "--head", "text-probe", "--epochs", "1"],
        ["ablate", "--preset", "superb", "--set-base", "folds=speaker", "--set-base", "epochs=1", "--quiet"],
        ["cache", "export", "--stream", FRAMES, "--granularity", "frame"],
    ],
    ids=["train-head", "ablate", "cache-export"],
)
def test_what_is_in_the_way_of_a_folder_is_named(cache: Path, inside: Path, command: list[str], out: str) -> None:
    Path("file").write_text("mine")
    result = mmser(*command, cache, "--out", out)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {out.rpartition('/')[0]}")
    assert result.stderr.endswith((" to write to\n", "give another --out\n"))
    assert result.stderr.count("\n") == 1
    assert ([path.name for path in inside.iterdir()], Path("file").read_text()) == (["file"], "mine")


@pytest.mark.parametrize(
    "command",
    [
        ["export", "head", "--onnx"],
        ["predict", "head", "a.wav", "--out"],
        ["transcribe", "m.csv", "--model", "ctc", "--out"],
        ["manifest", "emodb", "emodb", "--out"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_in_the_way_of_a_file_is_named_before_the_work(inside: Path, command: list[str]) -> None:
    Path("a.csv").mkdir()
    result = mmser(*command, "a.csv")
    assert (result.exit_code, "File 'a.csv' is a directory" in result.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--normalise", "session"]])
def test_what_click_knows_to_be_wrong(cache: Path, inside: Path, arguments: list[str]) -> None:
    result = mmser("train-head", cache, *arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.stderr


def test_a_cache_that_is_none(inside: Path) -> None:
    result = mmser("train-head", "nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: nowhere: no such cache; make one with: mmser extract MANIFEST")
    Path("empty").mkdir()
    result = mmser("train-head", "empty")
    assert result.exit_code == 1
    assert "empty: holds no pooled speech states (streams: none); extract them first" in result.stderr


def test_the_folder_above_a_cache_is_none(inside: Path, cache: Path) -> None:
    result = mmser("train-head", cache.parent)
    assert result.stderr == f"Error: {cache.parent} is no cache, but toy in it could be: name one of them\n"
    result = mmser("train-head", cache / "manifest.csv")
    assert "manifest.csv: not a packed cache of mmser; expected a file of mmser cache pack, or the" in result.stderr


def test_a_cache_that_is_still_empty(inside: Path, cache: Path) -> None:
    """An extraction that was stopped before its first shard."""
    write_cache(inside / "begun", make_rows().iloc[:0])
    with StreamWriter(inside / "begun", POOLED, {"layers": [0, 4, 9]}, {}):
        pass
    result = mmser("train-head", "begun", "--head", "speech-probe")
    assert result.exit_code == 1
    assert f"{POOLED} holds nothing yet" in result.stderr


def test_who_is_left_out_and_who_is_not_known_is_said(tmp_path: Path, inside: Path) -> None:
    rows = make_rows()
    rows.loc[rows["label"] == "happy", "label"] = ""
    cache = write_cache(tmp_path / "toy", rows, wordless=["s1_sad_0"])
    edit_manifest(cache, lambda table: table.__setitem__("speaker", ""))
    result = mmser("train-head", cache, "--head", "speech-probe", "--folds", "session", *QUICK)
    assert result.exit_code == 0, result.output
    assert "Left out: 18 no label, 1 no word states\n" in result.stdout
    assert "Note: the speaker of 35 utterances is not known" in result.stdout
    assert "35 utterances, 2 classes (chance UA 0.500); interval by bootstrap over 35 utterances." in result.stdout


def test_an_interruption_is_no_error_and_the_same_command_goes_on(
    cache: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train-head", cache, "--head", "late-fusion", *QUICK)

    def stop(self: object, name: str, *_: object) -> None:
        if name == "text-probe":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmser.show.Meter.__call__", stop)
        result = mmser(*command)
    assert result.exit_code == EXIT_INTERRUPTED == 130
    assert "Stopped. What is finished is kept; the same command goes on from there." in result.stderr
    assert len(list(Path("runs").rglob("model.safetensors"))) == 6
    result = mmser(*command)
    assert result.exit_code == 0
    assert "speech-probe" not in result.stderr  # it was finished
    assert list(table_of(result.stdout)[1]) == ["speech-probe", "text-probe", "late-fusion"]


def test_another_experiment_in_the_same_folder(cache: Path, inside: Path) -> None:
    command = ("train-head", cache, "--head", "speech-probe", *QUICK)
    assert mmser(*command).exit_code == 0
    result = mmser(*command, "--normalise", "none")
    assert result.exit_code == 1
    assert "speech-probe-word-mix holds another experiment: normalise was 'global', now 'none'" in result.stderr
    assert "Give another --out" in result.stderr


def test_a_cache_given_as_a_dot_has_its_name(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be refused under its real path, and folders be named after nothing."""
    monkeypatch.chdir(cache)
    asked = ("--head", "text-probe", "--epochs", 1, "--out", tmp_path / "run")
    assert mmser("train-head", ".", *asked).exit_code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["cache"] == cache.name
    assert mmser("train-head", cache, *asked).exit_code == 0
    assert default_folder(Path("."), Experiment()).parts[:2] == ("runs", cache.name)
    assert default_folder(Path(".."), Experiment()).parts[:2] == ("runs", cache.parent.name)
    (tmp_path / "grid.toml").write_text('[base]\nhead = "text-probe"\nepochs = 1\n[axes]\nseeds = [1]\n')
    told = mmser("ablate", ".", tmp_path / "grid.toml", "--dry-run", "--json")
    assert json.loads(told.stdout)["folder"] == f"runs/{cache.name}/grid"


@pytest.mark.parametrize("given", [".", ".."])
def test_the_demo_lays_its_corpus_beside_a_cache_given_as_a_dot(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" if given == "." else tmp_path / "mine" / "below")
    spoken = []

    def speak(folder: Path, **_: int) -> None:
        spoken.append(folder)
        raise MmserError("enough")

    monkeypatch.setattr(demo_run, "speak_corpus", speak)
    assert mmser("demo", "--cache", given, "--runs", tmp_path / "runs").stderr.endswith("Error: enough\n")
    assert spoken == [tmp_path / "mine-corpus"]


# the demo


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, inside: Path) -> Path:
    """The demo with one sentence an emotion and speaker, and short trainings."""
    for name, experiment in demo_run.EXPERIMENTS.items():
        short = replace(experiment, seeds=1, training=Training(epochs=3))
        monkeypatch.setitem(demo_run.EXPERIMENTS, name, short)
    monkeypatch.setattr(demo_run, "demo", partial(demo_run.demo, num_sentences=1))
    return inside


def test_the_demo_goes_the_whole_way(small_demo: Path) -> None:
    result = mmser("demo")
    assert result.exit_code == 0, result.output
    assert "Speaking 24 utterances: 6 voices, 4 emotions" in result.stdout
    assert "To be written by this stage: " in result.stderr
    assert "Aligned 24 of 24 utterances" in result.stdout
    assert list(table_of(result.stdout)[1]) == ["speech-probe", "text-probe", "late-fusion", "coattention"]
    assert "24 utterances, 4 classes (chance UA 0.250); interval by bootstrap over 6 speakers." in result.stdout
    assert "Written to runs/demo/late-fusion, runs/demo/coattention" in result.stdout
    assert "the encoders are untrained" in result.stdout
    cache = Cache("cache/demo")
    assert cache.stream_names == ["text/builtin-tiny", "align/pocketsphinx", "pooled/builtin-tiny@pocketsphinx"]
    assert list(verify(cache)) == []
    for name in ("late-fusion", "coattention"):
        predictions = pd.read_csv(Path("runs/demo") / name / "predictions.csv")
        assert set(predictions["utterance_id"]) == set(cache.stream("text/builtin-tiny").utterance_ids)
    assert "Report: runs/demo/report.html (" in result.stdout.splitlines()[-1]
    assert Path("runs/demo/report.html").exists()
    # again: all of it is there
    times = {path: path.stat().st_mtime_ns for path in small_demo.rglob("*") if path.suffix in (".h5", ".safetensors")}
    again = mmser("demo")
    assert again.exit_code == 0
    assert "cache/demo: nothing was missing" in again.stdout
    assert table_of(again.stdout) == table_of(result.stdout)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    told = json.loads(mmser("demo", "--json").stdout)
    assert (told["extraction"]["added"], told["report"]["page"]) == ({}, "runs/demo/report.html")
    assert [run["folder"] for run in told["runs"]] == ["runs/demo/late-fusion", "runs/demo/coattention"]
    uas = {row["name"]: row["ua"] for row in told["report"]["rows"]}
    assert [uas[name] for name in ("late-fusion", "coattention")] == [run["lines"][-1]["ua"] for run in told["runs"]]
    # and it is a cache like any other
    assert mmser("cache", "verify", "cache/demo").exit_code == 0
    assert mmser("train-head", "cache/demo", "--head", "text-probe", "--epochs", 1).exit_code == 0


def test_the_demo_learns_from_the_corpus_as_it_is_spoken_now(small_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mmser("demo").exit_code == 0
    before = Cache("cache/demo").to_numpy("utterance", layer=2)
    faster = {name: replace(style, rate=style.rate + 20) for name, style in demo_corpus.STYLES.items()}
    monkeypatch.setattr(demo_corpus, "STYLES", faster)
    result = mmser("demo")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: runs/demo/late-fusion holds heads of other states than those of cache/demo, as of the corpus before it "
        "was spoken anew; delete the folder runs/demo, or give another --runs"
    )
    assert "keep their old states" not in result.output
    after = Cache("cache/demo").to_numpy("utterance", layer=2)
    assert (before.values != after.values).any(1).all()
    assert mmser("demo", "--runs", "runs/again").exit_code == 0


def test_the_demo_says_before_it_works_that_a_file_is_in_the_way(inside: Path) -> None:
    (inside / "mine").write_text("a file")
    result = mmser("demo", "--runs", "mine")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: mine: File exists; give another path to write to"
    assert [path.name for path in inside.iterdir()] == ["mine"]


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which says what it does, is Linux's")
@pytest.mark.parametrize(("asked", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")])
def test_threads_that_wait_sleep_unless_the_user_wants_them_to_spin(asked: dict[str, str], spins: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-m", "mmser", "heads"]
    told = subprocess.run(words, env=kept | asked | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in told.stderr.decode()
