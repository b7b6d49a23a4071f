"""``mmser heads``: every option of every head, as its dataclass has it and as its docstring says."""

import json
from dataclasses import fields

import pytest
from small_corpus import mmser

from mmser.heads import HEADS
from mmser.heads.told import _below_fields
from mmser.train.options import Experiment, Training

SOURCES = ("[S]", "[C]", "[M]", "[D]", "[A]", "Ours")
NAMES = {
    *("head", "protocol", "folds", "test_split", "dev_seed", "label", "labels", "soft", "dimensions", "require"),
    *("settings", "report_oracle", "lexicon", "speech_stream", "text_stream", "mel_stream", "device", "training"),
}
"""Fields of an experiment that name something: a column, a file, a stream, this machine. They come from the user."""


@pytest.mark.parametrize("kind", HEADS)
def test_every_option_is_told_with_its_default(kind: str) -> None:
    (told,) = json.loads(mmser("heads", kind, "--json").stdout)["heads"]
    asked = {own.name: own.default for own in fields(HEADS[kind].options)}
    assert {option["name"]: option["default"] for option in told["options"]} == asked
    unsourced = [one["name"] for one in told["options"] if not any(mark in one["about"] for mark in SOURCES)]
    assert not unsourced
    shown = mmser("heads", kind)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert [line.removeprefix("--set ") for line in shown.stdout.splitlines() if line.startswith("--set ")] == [
        f"{name}={default}" for name, default in asked.items()
    ]


def test_options_outside_heads_have_a_source_too() -> None:
    for options in (Experiment, Training):
        told = _below_fields(options)
        assert set(told) == {own.name for own in fields(options)}
        unsourced = {name for name, about in told.items() if not any(mark in about for mark in SOURCES)}
        assert unsourced == (NAMES if options is Experiment else set())


def test_all_heads_are_named_with_what_they_read() -> None:
    shown = mmser("heads").stdout
    assert [line.split()[0] for line in shown.splitlines() if line.endswith(")") and not line.startswith(" ")][
        : len(HEADS)
    ] == list(HEADS)
    assert "aligned-words (speech, text, alignment)" in shown
    assert "conditioned-cnn14 (text, log-mel)" in shown
    assert "``" not in shown
    assert ":class:" not in shown


def test_options_that_a_head_has_from_another() -> None:
    (told,) = json.loads(mmser("heads", "conditioned-cnn14", "--json").stdout)["heads"]
    (width,) = [one for one in told["options"] if one["name"] == "width_multiplier"]
    assert width["about"].startswith("Share of CNN14's channels (64 to 2048) in each block")


def test_a_head_that_is_none() -> None:
    result = mmser("heads", "coatention")
    assert result.exit_code == 1
    assert "head is 'coatention' (did you mean 'coattention'?); expected one of: speech-probe" in result.stderr


def test_a_late_fusion_is_explained() -> None:
    result = mmser("heads", "late-fusion")
    assert result.exit_code == 1
    assert "late-fusion has no options of its own: it combines the answers of heads (mmser train-head --members" in (
        result.output
    )
