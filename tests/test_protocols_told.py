"""``mmser protocols``: every preset with its source and traps, and options that ask for the same."""

import json
import shlex
from dataclasses import asdict

import pytest
from docs_pages import DOCS, parsed, sessions
from small_corpus import mmser

from mmser.cli import main
from mmser.commands.training import experiment_of, with_preset
from mmser.train.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_protocol_is_told_in_full(name: str) -> None:
    preset = PRESETS[name]
    (told,) = json.loads(mmser("protocols", "show", name, "--json").stdout)["protocols"]
    assert (told["source"], told["done"], told["traps"]) == (preset.source, preset.done, list(preset.traps))
    shown = mmser("protocols", "show", name)
    assert (shown.exit_code, shown.stderr) == (0, "")
    words = " ".join(shown.stdout.split())
    assert all(text in words for text in (preset.source, preset.done, told["options"], *preset.traps))
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())


def asked_by(*words: str) -> dict:
    """The experiment that train-head makes of options, without the preset's name."""
    command = parsed(main.commands["train-head"], ["cache/x", *words])
    options = {field: own for field, own in command.params.items() if field not in _OF_COMMAND}
    given = {field for field in options if command.get_parameter_source(field).name == "COMMANDLINE"}
    return {**asdict(experiment_of(with_preset(options, given.__contains__))), "protocol": ""}


_OF_COMMAND = ("cache_path", "out", "tensorboard", "quiet", "as_json")


@pytest.mark.parametrize("name", PRESETS)
def test_its_options_ask_for_the_same(name: str) -> None:
    (told,) = json.loads(mmser("protocols", "show", name, "--json").stdout)["protocols"]
    assert asked_by(*shlex.split(told["options"])) == asked_by("--protocol", name)
    assert set(told["settings"]) == set(PRESETS[name].settings)


def test_all_are_named() -> None:
    shown = mmser("protocols", "list")
    assert [line for line in shown.stdout.splitlines() if line in PRESETS] == list(PRESETS)
    assert "mmser protocols show NAME" in shown.stdout
    assert "mmser protocols show NAME" not in mmser("protocols", "list", "--quiet").stdout
    listed = json.loads(mmser("protocols", "list", "--json").stdout)["protocols"]
    assert [one["protocol"] for one in listed] == list(PRESETS)


def test_one_that_is_none() -> None:
    result = mmser("protocols", "show", "iemocap-lso")
    assert result.exit_code == 1
    assert "protocol is 'iemocap-lso' (did you mean 'iemocap-loso'?); expected one of: " in result.stderr


def test_the_page_shows_what_is_printed() -> None:
    (expected,) = [lines for call, lines in sessions(DOCS / "protocol.md") if call.startswith("mmser protocols show ")]
    assert mmser("protocols", "show", "msp-improv-loso").stdout.splitlines() == expected
