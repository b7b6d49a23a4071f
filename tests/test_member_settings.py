"""Settings of a late fusion's members: one for all, one for those of a head, one for a single member."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_cache import write_cache
from small_corpus import mmser

from mmser.ablate.grid import read_grid
from mmser.errors import ProtocolError
from mmser.heads.store import load_head
from mmser.train.members import head_options, members_of
from mmser.train.options import Experiment

MEMBERS = ("coattention@word", "coattention@frame", "crossmodal-transformer@word")


def widths(settings: Mapping[str, Any]) -> list[int]:
    asked = Experiment(head="late-fusion", members=MEMBERS, settings=settings)
    return [head_options(asked, member).width for member in members_of(asked)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [256, 256, 256]),
        ({"width": "8"}, [8, 8, 8]),
        ({"coattention.width": "8"}, [8, 8, 256]),
        ({"coattention@frame.width": 8}, [256, 8, 256]),
        # the order in which they are given says nothing; who is named more closely goes first
        ({"coattention@frame.width": 8, "coattention.width": 16, "width": 24}, [16, 8, 24]),
        ({"width": 24, "coattention.width": 16, "coattention@frame.width": 8}, [16, 8, 24]),
    ],
)
def test_the_closest_name_decides(settings: Mapping[str, Any], expected: list[int]) -> None:
    assert widths(settings) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"film.width": 8},
            r"--set film\.width: 'film' is no member of late-fusion; there are coattention@word, coatt",
        ),
        ({"coattention@wrod.width": 8}, r"'coattention@wrod' is no member .* \(did you mean 'coattention@word'\?\)"),
        ({"coattention@word.focus": 8}, "no option 'focus' of coattention@word; there are block_dropout, blocks"),
        ({"wdth": 8}, r"no option 'wdth' of late-fusion \(did you mean 'width'\?\)"),
        ({"coattention.width": "wide"}, r"option coattention\.width=wide: expected int"),
        (
            {"self_attention": "before"},
            r"crossmodal-transformer@word: option self_attention=before: expected bool; one member alone is set by "
            r"--set MEMBER\.NAME=VALUE",
        ),
        ({"coattention@frame.width": 9}, "coattention@frame: width 9 does not divide among 8 heads"),
        ({"coattention.self_attention": "never"}, "coattention@word: self_attention is 'never'; expected one of"),
    ],
)
def test_a_setting_that_does_not_fit_names_its_member(settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        widths(settings)


def test_members_that_understand_an_option_differently_train_together(tmp_path: Path) -> None:
    """``self_attention`` is a place to one head, yes or no to another; the folder goes on from what it keeps."""
    out = tmp_path / "run"
    settings = ("width=8", "heads=2", "coattention.self_attention=before", "coattention@frame.width=16")
    command = ["train-head", write_cache(tmp_path / "toy"), "--head", "late-fusion", "--members", ",".join(MEMBERS)]
    command += ["--epochs", 1, "--layer", 9, "--out", out, *(word for own in settings for word in ("--set", own))]
    first = mmser(*command)
    assert first.exit_code == 0, first.stderr
    options = {path.name.split("-fold")[0]: load_head(path)[0].options for path in (out / "heads").iterdir()}
    assert {name: (own.width, own.self_attention) for name, own in options.items()} == {
        "coattention@word": (8, "before"),
        "coattention@frame": (16, "before"),
        "crossmodal-transformer@word": (8, True),
    }
    assert mmser(*command).stdout == first.stdout
    kept = json.loads((out / "config.json").read_text())["experiment"]["settings"]
    assert kept == {"width": 8, "heads": 2, "coattention.self_attention": "before", "coattention@frame.width": 16}


def test_a_grid_takes_them_too() -> None:
    text = """
    [base]
    set = { width = 8, coattention.width = 16, "coattention@frame.width" = 24 }
    [[row]]
    name = "all"
    head = "late-fusion"
    members = ["coattention@word", "coattention@frame", "film@word"]
    [[row]]
    name = "film"
    head = "film"
    """
    fused, alone = (cell.experiment for cell in read_grid(text, "my.toml").cells)
    assert [head_options(fused, member).width for member in members_of(fused)] == [16, 24, 8]
    assert alone.settings == {"width": 8}
    with pytest.raises(ProtocolError, match=r"no head here has an option 'moe\.width'"):
        read_grid('[base]\nset.moe.width = 8\n[[row]]\nname = "film"\nhead = "film"', "my.toml")
