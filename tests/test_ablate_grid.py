"""The grid file of an ablation: which cells it means, and what is said of one that means none."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from mmser.ablate.folder import cell_folder
from mmser.ablate.grid import read_grid
from mmser.ablate.presets import preset_names, preset_text
from mmser.ablate.values import OPTIONS, options_of
from mmser.commands.train import train_head
from mmser.errors import ProtocolError
from mmser.heads import HEADS
from mmser.train.options import Experiment, Training

GRID = """
baseline = "text alone"
[base]
seeds = 3
epochs = 7
set = { width = 64 }
[axes]
head = ["speech-probe", "coattention", "text-probe"]
granularity = ["phone", "word"]
layer = [9, "mix", [4, 9]]
[[exclude]]
head = "speech-probe"
layer = "mix"
[[row]]
name = "text alone"
head = "text-probe"
learning_rate = [1e-3, 1e-4]
"""


def grid(text: str, **overrides: Any):
    return read_grid(
        text, "my.toml", overrides, stored_layers={"align/toy": [], "pooled/toy@hand": [0, 4, 9], "text/toy": [1, 2]}
    )


def test_axes_are_crossed_and_what_is_excluded_is_not_there() -> None:
    found = grid(GRID)
    expected = {
        (head, granularity, layer)
        for head, granularity, layer in itertools.product(
            ("speech-probe", "coattention"), ("phone", "word"), ("9", "mix", "4,9")
        )
        if not (head == "speech-probe" and layer == "mix")
    }
    placed = [cell for cell in found.cells if "granularity" in cell.axes]
    assert {(own.axes["head"], own.axes["granularity"], own.axes["layer"]) for own in placed} == expected
    for cell in placed:
        asked = cell.experiment
        assert (asked.head, asked.granularity, asked.layer) == tuple(cell.axes.values())
        assert (asked.seeds, asked.training) == (3, Training(epochs=7))
        # a probe has no width; what does not concern a head is not asked of it
        assert asked.settings == ({"width": 64} if asked.head == "coattention" else {})
    names = [cell.name for cell in found.cells]
    assert len(set(names)) == len(names) == len(expected) + 2
    assert {"coattention-word-9", "coattention-phone-4+9", "speech-probe-phone-9"} < set(names)
    assert found.axes == ["head", "granularity", "layer"]


def test_a_text_head_has_one_cell_however_many_granularities() -> None:
    (cell,) = [cell for cell in grid(GRID).cells if cell.axes == {"head": "text-probe"}]
    assert cell.experiment == Experiment(head="text-probe", seeds=3, training=Training(epochs=7))


def test_rows_have_options_of_their_own_and_stand_after_the_axes() -> None:
    found = grid(GRID)
    last = found.cells[-1]
    assert (last.name, last.row, last.axes, found.baseline) == ("text-alone", "text alone", {}, "text-alone")
    assert last.experiment.learning_rate == (1e-3, 1e-4)
    assert last.experiment.seeds == 3


def test_the_command_line_changes_the_base_and_a_protocol_fills_in_what_nobody_gave() -> None:
    text = '[base]\nfolds = "speaker"\n[[row]]\nname = "a"\nhead = "text-probe"\ndev_share = 0.3\n'
    asked = grid(text, seeds=2, protocol="superb", set={}).cells[0].experiment
    assert (asked.seeds, asked.protocol, asked.dev, asked.dev_share) == (2, "superb", "speaker", 0.3)
    assert asked.folds == "speaker"  # given in the file
    assert asked.labels == ("neu", "hap", "ang", "sad")


def test_all_stands_for_the_stored_layers() -> None:
    found = grid('[axes]\nlayer = ["mix", "all", 9]')
    assert [cell.experiment.layer for cell in found.cells] == ["mix", "0", "4", "9"]
    found = grid('[base]\nhead = "text-probe"\n[axes]\ntext_layer = ["mix", "all", 1]')
    assert [cell.experiment.text_layer for cell in found.cells] == ["mix", "1", "2"]
    assert [cell.name for cell in found.cells] == ["textmix", "text1", "text2"]
    for axis, encoder in {"layer": "speech", "text_layer": "text"}.items():
        with pytest.raises(ProtocolError, match=f"stands for the cache's {encoder} layers, and it holds none"):
            read_grid(f'[axes]\n{axis} = ["all"]', "my.toml")


def test_all_is_of_the_stream_that_is_read() -> None:
    text, stored = '[base]\nhead = "text-probe"\n{}[axes]\ntext_layer = ["all"]', {"text/a": [0], "text/b": [1, 2]}
    with pytest.raises(ProtocolError, match="but text/a has 0; text/b has 1, 2: name one as text_stream in"):
        read_grid(text.format(""), "my.toml", stored_layers=stored)
    found = read_grid(text.format('text_stream = "text/b"\n'), "my.toml", stored_layers=stored)
    assert [cell.experiment.text_layer for cell in found.cells] == ["1", "2"]
    found = read_grid(text.format(""), "my.toml", {"text_stream": "text/a"}, stored_layers=stored)
    assert [cell.experiment.text_layer for cell in found.cells] == ["0"]
    with pytest.raises(ProtocolError, match="and it holds none in text/c"):
        read_grid(text.format('text_stream = "text/c"\n'), "my.toml", stored_layers=stored)
    found = read_grid(text.format(""), "my.toml", stored_layers={"text/a": [1, 2], "text/b": [1, 2]})
    assert len(found.cells) == 2


def test_every_option_of_train_head_can_be_given() -> None:
    """The names that click has are those that a grid takes, but for what is of the command alone."""
    asked = {option.opts[-1].removeprefix("--").replace("-", "_") for option in train_head.params if option.opts}
    assert asked - {"cache_path", "out", "set", "quiet", "json", "tensorboard"} == set(OPTIONS) - {
        "beta1",
        "beta2",
        "epsilon",
    }


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"layer": 9}, {"layer": "9"}),
        ({"layer": -1}, {"layer": "-1"}),
        ({"granularity": ["phone", "word"]}, {"granularity": "phone,word"}),
        ({"learning-rate": [0.1, 1]}, {"learning_rate": (0.1, 1.0)}),
        ({"crop_seconds": 3}, {"crop_s": 3.0}),
        ({"labels": "a, b"}, {"labels": ("a", "b")}),
        ({"report_oracle": True, "text_layer": 2}, {"report_oracle": True, "text_layer": "2"}),
        ({"set": {"width": 64, "feedforward": False}}, {"set.width": 64, "set.feedforward": False}),
    ],
)
def test_values_are_read_as_their_fields_want_them(table: dict, expected: dict) -> None:
    found = options_of(table, "[base]")
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base", "my.toml: not readable as TOML"),
        ("[bases]", r"unknown key 'bases' \(did you mean 'base'\?\); known: base, axes, exclude, row, baseline"),
        ("base = 3", r"base is 3; expected a table, \[base\]"),
        ("row = 3", r"row is 3; expected tables, each begun by \[\[row\]\]"),
        ("[base]\nlearning_rat = 1", r"\[base\]: no option 'learning_rat' \(did you mean 'learning_rate'\?\); known"),
        ('[base]\nseeds = "3"', r"\[base\]: seeds is '3'; expected a whole number"),
        ("[base]\nseeds = true", "seeds is True; expected a whole number"),
        ("[base]\nlearning_rate = [true]", "expected a number, or a list of numbers"),
        ("[base]\nset = 3", r"set is 3; expected a table, as set = \{ width = 64 \}"),
        ("[base]\nset.width = [1]", r"set.width is \[1\]; expected text, a number, true or false"),
        ('[axes]\nlayer = "mix"', r"\[axes\]: layer is 'mix'; expected a list of at least one value"),
        ("[axes]\nlayer = []", r"layer is \[\]; expected a list of at least one value"),
        ("[axes]\nlayer = [9, 9]", "layer has '9' twice"),
        ("", r"nothing to train; give \[axes\] or \[\[row\]\]"),
        ('[axes]\nhead = ["film"]\n[[exclude]]\nhead = "film"', "nothing to train"),
        ("[axes]\nlayer = [1]\n[[exclude]]", r"\[\[exclude\]\] 1: is empty"),
        ("[axes]\nlayer = [1]\n[[exclude]]\nseeds = 1", "seeds is no axis; there are layer"),
        (
            '[axes]\ngranularity = ["word"]\n[[exclude]]\ngranularity = "words"',
            r"'words' is not on axis granularity \(did you mean 'word'\?\)",
        ),
        ('[axes]\nhead = ["coatention"]', r"did you mean 'coattention'\?"),
        (
            '[axes]\ngranularity = ["wort"]',
            r"with wort: granularity is 'wort' \(did you mean 'word'\?\); expected one of",
        ),
        ("[axes]\nset.wdth = [3]", r"no head here has an option 'wdth' \(did you mean 'width'\?\)"),
        ('[[row]]\nhead = "film"', r"\[\[row\]\] 1: expected a name"),
        ('[[row]]\nname = "a"\nset.hidden = 3', r"\[\[row\]\] 'a': no option 'hidden' of coattention"),
        ('[[row]]\nname = "a"\nfusion = "svm"', "--fusion svm belongs to a late fusion"),
        ('[[row]]\nname = "a"\n[[row]]\nname = "a "', "two cells are called 'a'"),
        ('baseline = "b"\n[[row]]\nname = "a"', "baseline 'b' is no row or cell; there are a"),
        ('[base]\nprotocol = "suberb"\n[[row]]\nname = "a"', r"no protocol 'suberb' \(did you mean 'superb'\?\)"),
        ('[[row]]\nname = "a"\nseeds = 0', r"\[\[row\]\] 'a': seeds is 0; expected at least 1"),
        (f"[axes]\nseeds = {list(range(1, 200))}\ndev_seed = {list(range(60))}", "11940 cells; at most 10000"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        grid(text)


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b", "-a", "ä"])
def test_a_cells_name_never_leads_elsewhere(name: str) -> None:
    with pytest.raises(ProtocolError, match="expected letters, digits"):
        cell_folder(Path("runs"), name)


@pytest.mark.parametrize("row", ["../../etc/passwd", "späte Fusion", "ä", "a" * 300, "late (a): x, y"])
def test_any_row_has_a_name_that_a_folder_may_have(row: str) -> None:
    (cell,) = grid(f'[[row]]\nname = "{row}"').cells
    assert cell_folder(Path("runs"), cell.name).parent == Path("runs/cells")
    assert len(cell.name) <= 120


def test_the_presets_are_grids_of_heads_that_there_are() -> None:
    assert preset_names() == [
        "granularities",
        "heads",
        "layers",
        "superb",
        "text-layers",
        "triantafyllopoulos2021",
        "zhao2022",
    ]
    for name in preset_names():
        found = grid(preset_text(name))
        assert found.cells
        assert preset_text(name).startswith("# ")
    rows = {cell.row: cell.experiment for cell in grid(preset_text("zhao2022")).cells}
    early = {own.granularity for own in rows.values() if own.head == "coattention"}
    assert early == {"frame", "phone", "syllable", "word", "phone,syllable,word"}
    assert {own.fusion for own in rows.values() if own.head == "late-fusion"} == {"mean", "concat"}
    heads = {own.head for own in (cell.experiment for cell in grid(preset_text("triantafyllopoulos2021")).cells)}
    assert heads == {"text-network", "cnn14", "conditioned-cnn14", "conditioned-states", "late-fusion"}
    assert heads - {"late-fusion"} <= set(HEADS)
    assert {cell.experiment.head for cell in grid(preset_text("heads")).cells} == {*HEADS, "late-fusion"}


def test_the_page_shows_a_grid_that_can_be_read() -> None:
    page = (Path(__file__).parent.parent / "docs" / "ablations.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    found = grid(example)
    assert [cell.name for cell in found.cells if not cell.axes] == ["text-alone", "late-fusion-of-both"]
    assert found.baseline == "text-alone"
    assert len(found.cells) == 9
