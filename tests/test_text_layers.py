"""One text layer, several, or a learned mix of them: what heads make of them, and what is told of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_cache import POOLED, TEXT_LAYERS, write_cache
from small_corpus import mmser

from mmser.cache import Cache
from mmser.errors import MmserError, ProtocolError
from mmser.heads import HEADS
from mmser.heads.batch import Batch, Inputs, Sequence
from mmser.heads.layers import masked_mean
from mmser.heads.store import load_head
from mmser.publish.card import card_of
from mmser.publish.trained import open_trained
from mmser.report.examine import examine
from mmser.report.heads import layer_weights
from mmser.report.learning import drawn_layers
from mmser.report.page import figures_of
from mmser.report.read import read_study
from mmser.report.run import write_report
from mmser.train.engine import train
from mmser.train.options import Experiment, Training
from mmser.train.packed import Packed
from mmser.train.plan import Run
from mmser.train.prepare import prepare
from mmser.train.run import train_head
from mmser.train.table import Table
from mmser.train.targets import Targets

NUM, DIM, LAYERS, CUE_LAYER = 120, 6, 5, 3

BOTH = Experiment(
    head="coattention",
    text_layer="mix",
    settings={"width": 8, "heads": 2},
    training=Training(epochs=2, batch_size=16),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("text-layers") / "toy")


@pytest.fixture(scope="module")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: co-attention that mixes both, a head that mixes text alone, and one of a single layer."""
    folder = tmp_path_factory.mktemp("text-layers-runs")
    alone = replace(BOTH, head="text-network", settings={"hidden": 8})
    for name, experiment in {"both": BOTH, "text": alone, "single": replace(alone, text_layer="1")}.items():
        train_head(cache, experiment, folder / name)
    return folder


def a_table() -> tuple[Table, np.ndarray]:
    """Tokens whose mean tells the class in one layer; all others are noise."""
    rng = np.random.default_rng(0)
    labels, lengths = rng.integers(0, 2, NUM), rng.integers(1, 6, NUM)
    values = rng.normal(size=(LAYERS, lengths.sum(), DIM))
    values[CUE_LAYER, :, 0] += np.repeat(np.where(labels, 2.0, -2.0), lengths)
    text = Packed(torch.from_numpy(values).half(), torch.tensor([0, *np.cumsum(lengths)]))
    return Table(tuple(f"u{n}" for n in range(NUM)), {}, text), labels


def test_the_learned_mix_weighs_the_text_layer_with_the_cue_most() -> None:
    table, labels = a_table()
    kind = HEADS["text-probe"]
    inputs = Inputs(0, DIM, (), text_layers=LAYERS)
    run = Run("cue", np.arange(80), np.arange(80, NUM), seed=0, learning_rate=3e-2)
    training = Training(epochs=30, patience=30, batch_size=16)
    targets = Targets.of_classes(torch.from_numpy(labels), 2)
    (found,) = train(table, targets, lambda: kind.build(inputs, 2, kind.options(hidden=0)), [run], training)
    assert found.dev_score > 0.95
    mix = found.state["text.mix.logits"].softmax(0)
    assert int(mix.argmax()) == CUE_LAYER
    assert mix[CUE_LAYER] > 2 / LAYERS


def test_the_probe_that_pools_first_mixes_as_if_token_by_token() -> None:
    """Gradients included: the order of the standardising, the mix and the mean changes nothing."""
    torch.manual_seed(0)
    kind = HEADS["text-probe"]
    probe = kind.build(Inputs(0, DIM, (), text_layers=LAYERS), 3, kind.options(hidden=4))
    text = probe.text
    text.mix.logits.data.normal_()
    text.standardise.mean.normal_()
    text.standardise.std.uniform_(0.5, 2)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4]])
    states = torch.randn(3, LAYERS, 7, DIM)
    weights = text.mix.logits.softmax(0)
    tokens = (states - text.standardise.mean[:, None]) / text.standardise.std[:, None]
    mixed = sum(weights[layer] * tokens[:, layer] for layer in range(LAYERS))
    by_hand = probe.classify(masked_mean(probe.project(mixed), mask))
    results = [
        (said, *torch.autograd.grad(said.logsumexp(-1).sum(), list(probe.parameters()), retain_graph=True))
        for said in (probe(Batch({}, Sequence(states, mask), None)), by_hand)
    ]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_mix_of_one_layer_by_name_is_that_layer(cache: Path, tmp_path: Path) -> None:
    """``-1`` and its number are the same runs; the other layer has other answers."""
    one = replace(BOTH, head="text-probe", settings={"hidden": 4})
    said = []
    for asked in ("-1", str(TEXT_LAYERS[-1]), str(TEXT_LAYERS[0])):
        train_head(cache, replace(one, text_layer=asked), tmp_path / asked)
        said.append(pd.read_csv(tmp_path / asked / "predictions.csv"))
    pd.testing.assert_frame_equal(said[0], said[1])
    assert not said[0].equals(said[2])
    assert [own.text_layers for own in prepare(Cache(cache), [replace(one, text_layer="mix")])] == [TEXT_LAYERS]


def test_heads_say_which_text_layers_they_read(trained: Path) -> None:
    expected = {"both": TEXT_LAYERS, "text": TEXT_LAYERS, "single": [1]}
    for name, layers in expected.items():
        paths = list(trained.glob(f"{name}/heads/*/config.json"))
        assert len(paths) == 6
        for path in paths:
            config = json.loads(path.read_text())
            assert config["text_layers_of_encoder"] == layers
            assert config["inputs"]["text_layers"] == len(layers)
            assert ("speech_layers_of_encoder" in config) == (name == "both")
    card = card_of(open_trained(next(trained.glob("both/heads/*"))), "me/head")
    assert "- `layers of the text encoder`: `1, 2`\n" in card


def test_the_report_draws_the_weights_of_both_encoders(trained: Path) -> None:
    study = read_study(trained)
    both = {own.stream: own for own in layer_weights(study.row("both"))}
    assert {stream: own.layers for stream, own in both.items()} == {"word": (0, 4, 9), "text for word": (1, 2)}
    (alone,) = layer_weights(study.row("text"))
    assert (alone.stream, alone.layers) == ("text", (1, 2))
    shares = []
    for path in trained.glob("text/heads/*/model.safetensors"):
        logits = load_file(path)["text.mix.logits"].astype(float)
        shares.append(np.exp(logits) / np.exp(logits).sum())
    assert len(shares) == 6
    assert alone.mean == pytest.approx(np.mean(shares, axis=0), abs=1e-6)
    assert layer_weights(study.row("single")) == []
    drawing = drawn_layers(study.rows)
    assert drawing is not None
    assert sorted(line["name"] for line in drawing.data) == ["both, text for word", "both, word", "text, text"]


def test_no_line_over_text_layers_joins_rows_that_read_none_of_them(cache: Path, tmp_path: Path) -> None:
    """Heads that hear alone have no text layer; what dev chooses of speech leaves the text layer as it was."""
    short = Training(epochs=1, batch_size=16)
    hears = Experiment(head="speech-probe", granularity="utterance", settings={"hidden": 4}, training=short)
    tried = replace(BOTH, training=short, layer="mix", try_layers=("0", "9"))
    for number, layer in enumerate(("1", "2")):
        train_head(cache, replace(hears, text_layer=layer), tmp_path / f"hears {number}")
        train_head(cache, replace(tried, text_layer=layer), tmp_path / f"tried {number}")
    study = read_study(tmp_path)
    figures = {figure.title: figure for figure in figures_of(examine(study, study.rows[0]))}
    (drawn,) = figures["Over text layers"].drawings
    assert [row[:2] for row in drawn.rows] == [("coattention", "1"), ("coattention", "2")]
    assert "Over layers" not in figures


@pytest.mark.parametrize("before", [None, "absent", -1])
def test_a_run_folder_that_names_its_text_layer_as_an_older_mmser_did_is_gone_on_with(
    cache: Path, tmp_path: Path, before: int | str | None
) -> None:
    one = Experiment(head="speech-probe", settings={"hidden": 4}, training=Training(epochs=1, batch_size=16))
    folder = tmp_path / "run"
    train_head(cache, one, folder)
    config = json.loads((folder / "config.json").read_text())
    config["experiment"]["text_layer"] = before
    if before == "absent":
        del config["experiment"]["text_layer"]
    (folder / "config.json").write_text(json.dumps(config))
    write_report(folder)
    shown = mmser("runs", "show", folder)
    assert "mmser train-head" in shown.stdout
    assert "--text-layer" not in shown.stdout
    times = [path.stat().st_mtime_ns for path in sorted(folder.glob("heads/*/model.safetensors"))]
    train_head(cache, replace(one, seeds=2), folder)
    assert [path.stat().st_mtime_ns for path in sorted(folder.glob("heads/*seed0/model.safetensors"))] == times
    with pytest.raises(ProtocolError, match="text_layer was '-1', now 'mix'"):
        train_head(cache, replace(one, text_layer="mix"), folder)


def test_a_head_that_an_older_mmser_stored_is_said_to_be_that(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(next(trained.glob("text/heads/*")), tmp_path / "head")
    weights = load_file(folder / "model.safetensors")
    save_file({name.replace("text.", "stream."): own for name, own in weights.items()}, folder / "model.safetensors")
    with pytest.raises(MmserError, match="or an older mmser wrote both: train the head anew"):
        load_head(folder)


@pytest.mark.parametrize("layer", [1, None])
def test_a_text_layer_is_text(layer: int | None) -> None:
    with pytest.raises(ProtocolError, match=f"text_layer is {layer}; expected text: a number, several"):
        replace(BOTH, text_layer=layer)


def test_a_stream_that_holds_no_tokens_is_no_text_stream(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=f"--text-stream {POOLED}: token states lie in text/"):
        train_head(cache, replace(BOTH, text_stream=POOLED), tmp_path / "run")


def test_a_sweep_of_text_layers_is_a_table_and_a_line(cache: Path, tmp_path: Path) -> None:
    given = ["--set-base", "epochs=1", "--set-base", "set.hidden=4", "--seeds", 1, "--out", tmp_path / "sweep"]
    done = mmser("ablate", cache, "--preset", "text-layers", *given)
    assert done.exit_code == 0, done.stderr
    write_report(tmp_path / "sweep")
    table = pd.read_csv(tmp_path / "sweep" / "table.csv").set_index("name")
    assert list(table["row"]) == ["text layer mix", "text layer 1", "text layer 2"]
    assert table.index[table["baseline"]].to_list() == ["textmix"]
    study = read_study(tmp_path / "sweep")
    figures = {figure.title: figure for figure in figures_of(examine(study, study.rows[0]))}
    (drawn,) = figures["Over text layers"].drawings
    assert drawn.columns[1] == "text layer"
    assert [row[1] for row in drawn.rows] == ["1", "2", "mix"]
    assert "Over layers" not in figures
