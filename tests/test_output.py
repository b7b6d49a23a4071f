"""``--quiet`` and ``--json``: what goes where, in a terminal and in a pipe."""

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from small_cache import POOLED, write_cache
from small_corpus import IDS, make_corpus, mmser

from mmser.cache import Cache
from mmser.cli import main
from mmser.commands.output import Output
from mmser.show import Meter, print_table
from mmser.train.compare import compare

QUICK = ("--head", "late-fusion", "--epochs", 3, "--set", "hidden=4", "--learning-rate", "0.03,0.01")


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that can be run, by its words."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    for name, own in command.commands.items():
        yield from commands(own, (*path, name))


@pytest.mark.parametrize("command", [pytest.param(own, id=name) for name, own in commands()])
def test_every_command_prints_its_result_alone_or_as_json(command: click.Command) -> None:
    """No exception so far: what prints nothing would need none, but every command says at least what it wrote."""
    helps = {flag: own.help for own in command.params if isinstance(own, click.Option) for flag in own.opts}
    assert helps["--quiet"] == helps["-q"] == "No progress and no notes, only the result and errors."
    assert helps["--json"] == "Print the result as one JSON object."


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("output") / "toy")


@pytest.fixture(scope="module")
def run(cache: Path) -> Path:
    folder = cache.parent / "runs" / "one"
    assert mmser("train-head", cache, *QUICK, "--out", folder).exit_code == 0
    return folder


def told(*arguments: str | Path) -> Any:
    """What a command gives as JSON, on a standard output that holds nothing else."""
    result = mmser(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=pytest.fail)


def stored(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_json_of_a_training_is_its_summary(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = mmser("train-head", cache, *QUICK, "--report-oracle", "--out", folder, "--json")
    found = json.loads(result.stdout)
    assert found.pop("folder") == str(folder)
    assert found.pop("oracle") == stored(folder / "oracle.json")
    assert found == stored(folder / "summary.json")
    assert [line["head"] for line in found["lines"]] == ["speech-probe", "text-probe", "late-fusion"]
    assert "text-probe: 36/36" in result.stderr  # progress is no result


def test_quiet_leaves_the_table_alone(cache: Path, run: Path, tmp_path: Path) -> None:
    loud = mmser("train-head", cache, *QUICK, "--out", run)
    quiet = mmser("train-head", cache, *QUICK, "--out", tmp_path / "run", "-q")
    lines = [line for line in loud.stdout.splitlines() if not line.startswith("Note: ")]
    assert len(lines) < len(loud.stdout.splitlines())
    assert quiet.stdout.replace(str(tmp_path / "run"), str(run)).splitlines() == lines
    assert quiet.stderr == ""
    refused = mmser("train-head", cache, "--head", "cnn", "-q", "--json")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: head is 'cnn'")


def test_runs_as_json(cache: Path, run: Path) -> None:
    (listed,) = told("runs", "list", run.parent)["runs"]
    assert listed["folder"] == str(run)
    assert listed["summary"] == stored(run / "summary.json")
    shown = told("runs", "show", run)
    command = shlex.split(shown.pop("command"))
    assert ("late-fusion" in command, command[-2:]) == (True, ["--out", str(run)])
    assert shown.pop("experiment") == stored(run / "config.json")["experiment"]
    assert shown == {"folder": str(run), **stored(run / "summary.json")}
    differences = told("runs", "compare", run)["differences"]
    assert [(one["one"], one["other"], one["p"]) for one in differences] == [
        (one.one, one.other, one.p) for one in compare([run])
    ]


def test_a_cache_as_json(cache: Path, tmp_path: Path) -> None:
    streams = {one["stream"]: one for one in told("cache", "info", cache)["streams"]}
    assert list(streams) == Cache(cache).stream_names
    assert (streams[POOLED]["utterances"], streams[POOLED]["layers"]) == (54, [0, 4, 9])
    assert 0 < streams[POOLED]["bytes"] < sum(path.stat().st_size for path in (cache / POOLED).glob("*.h5"))
    assert told("cache", "verify", cache) == {"cache": str(cache), "streams": 3, "faults": []}
    packed = told("cache", "pack", cache, "--out", tmp_path / "toy.h5")
    assert packed["bytes"] == (tmp_path / "toy.h5").stat().st_size
    broken = write_cache(tmp_path / "broken")
    shard = next((broken / POOLED).glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1])
    result = mmser("cache", "verify", broken, "--json")
    assert result.exit_code == 1
    assert shard.name in json.loads(result.stdout)["faults"][0]
    assert result.stderr == f"Error: {broken}: 1 fault\n"


def test_extraction_as_json(tmp_path: Path) -> None:
    corpus, cache = make_corpus(tmp_path, IDS[:2]), tmp_path / "cache"
    hand = ("--textgrids", tmp_path / "textgrid", "--jobs", "1")
    aligned = told("align", corpus, "--backend", "textgrid", *hand, "--out", tmp_path / "out")
    assert (aligned["written"], aligned["coverage"]["total"], aligned["failures"]) == (2, 2, {})
    options = ("--speech-model", "builtin:tiny", "--text-model", "none", "--device", "cpu", "--keep", "frame")
    first = told("extract", corpus, "--cache", cache, *options, "--align", "textgrid", *hand)
    assert first["added"] == dict.fromkeys(Cache(cache).stream_names, 2)
    assert first["failures"] == []
    pooled = told("pool", cache, "--align", "textgrid", "--keep", "word", "--pooling", "max", "-q")
    assert pooled["added"] == 2


GRID = """
[base]
head = "speech-probe"
epochs = 2
momentum = 0.5
set = { hidden = 4 }
[axes]
layer = [9, 7]
"""


def test_an_ablation_and_its_report_as_json(cache: Path, tmp_path: Path) -> None:
    grid, folder = tmp_path / "my.toml", tmp_path / "run"
    grid.write_text(GRID)
    asked = ("ablate", cache, grid, "--out", folder)
    plan = told(*asked, "--dry-run")
    (group,) = plan["groups"]
    assert (group["cells"], group["heads"], group["shared"], plan["finished"]) == (["9"], 6, 0, [])
    assert group["seconds"] > 0
    assert list(plan["failures"]) == ["7"]
    result = mmser(*asked, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["failures"] == plan["failures"]
    assert found["notes"] == {"layer 9": stored(folder / "cells" / "9" / "summary.json")["notes"]}
    assert "--momentum 0.5" in found["notes"]["layer 9"][0]
    assert found["lines"] == [stored(folder / "cells" / "9" / "summary.json")["lines"][0] | {"head": "layer 9"}]
    assert "1 of 2 cells could not be trained" in result.stderr
    quiet = mmser(*asked, "-q")
    assert quiet.stdout.splitlines()[0].startswith("head ")  # no plan before it
    assert quiet.stderr.count("\n") == 1
    presets = told("ablate", "--list-presets")["presets"]
    assert told("ablate", "--show-preset", "layers")["text"].startswith(f"# {presets['layers']}")

    report = told("report", folder, "--explore", cache, "--explore-limit", 2)
    assert report["failures"] == plan["failures"]
    assert [(row["row"], row["ua"]) for row in report["rows"]] == [("layer 9", found["lines"][0]["ua"])]
    assert report["rows"][0]["p_ua"] is None  # the baseline itself
    assert report["rows"][0]["baseline"] is True
    assert [Path(path).name for path in report["tables"]] == ["table.csv", "table.md", "table.tex"]
    assert report["explorer"]["num_detailed"] == 2
    assert Path(report["explorer"]["path"]).stat().st_size == report["explorer"]["num_bytes"]
    assert told("report", folder)["explorer"] is None


# --- where progress goes


def export(cache: Path, out: Path, *options: str) -> tuple[str, str]:
    """What a command prints with a terminal as its standard error, and a pipe as its standard output."""
    command = ("cache", "export", cache, "--stream", POOLED, "--granularity", "word", "--out", out, *options)
    return in_terminal("-m", "mmser", *map(str, command))


def in_terminal(*arguments: str) -> tuple[str, str]:
    """What Python prints with a terminal as its standard error, and a pipe as its standard output."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        check=True,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return done.stdout, shown.decode()


def test_a_terminal_has_a_bar_and_a_pipe_has_lines(cache: Path, tmp_path: Path) -> None:
    out, shown = export(cache, tmp_path / "a")
    assert out == f"{tmp_path / 'a'}: 54 utterances\n"
    assert "━" in shown
    assert "54/54" in shown
    assert "\x1b[" in shown
    out, shown = export(cache, tmp_path / "b", "--quiet", "--json")
    assert json.loads(out) == {"out": str(tmp_path / "b"), "utterances": 54}
    assert shown == ""
    piped = mmser(
        "cache", "export", cache, "--stream", POOLED, "--granularity", "word", "--out", tmp_path / "c", "--json"
    )
    assert json.loads(piped.stdout)["utterances"] == 54
    assert piped.stderr.splitlines()[-1].endswith(": 54/54")
    assert "\x1b" not in piped.stderr


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that progress is told by."""
    now = [0.0]
    monkeypatch.setattr("mmser.show.time.monotonic", lambda: now[0])
    return lambda second: now.__setitem__(0, second)


@pytest.mark.parametrize(
    ("seconds_each", "expected"),
    [
        (0.01, [1000]),  # done in ten seconds
        (0.3, [*range(100, 1001, 100)]),  # a line each tenth
        (0.05, [*range(200, 1001, 200)]),  # but none sooner than ten seconds after another
        (10.0, [*range(6, 1000, 6), 1000]),  # and one a minute
    ],
)
def test_lines_are_few(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], seconds_each: float, expected: list[int]
) -> None:
    meter = Meter(None)
    for done in range(1001):
        clock(done * seconds_each)
        meter("work", done, 1000)
    assert capsys.readouterr().err.splitlines() == [f"work: {done}/1000" for done in expected]


def test_names_in_a_terminal_are_neither_markup_nor_emoji() -> None:
    code = """
from mmser.show import meter
with meter() as progress:
    progress("words [early] [/x]", 1, 1)
    progress.say("speaker :angry: [b]")
"""
    shown = in_terminal("-c", code)[1]
    assert "words [early] [/x]" in shown
    assert "speaker :angry: [b]" in shown


def test_a_table_in_a_pipe_is_as_wide_as_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    long = f"{'x' * 300}/:sad:/[b]"
    print_table(("run", "figure"), [(long, "UA 0.5"), ("b", "0.25")])
    assert capsys.readouterr().out.splitlines() == [
        f"{'run':{len(long)}}  figure",
        f"{long}  UA 0.5",
        f"{'b':{len(long)}}    0.25",
    ]


def test_what_is_no_number_is_never_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output(as_json=True).give({"ccc": float("nan")}, lambda: None)
    Output(quiet=True).say("unheard")
    Output(as_json=True).say("aside")
    assert capsys.readouterr() == ("", "aside\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee ..."), "Tried to allocate 2.00"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_want_of_memory_is_one_line_and_a_way_on(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mmser.train.run.train_head", fails)
    result = mmser("train-head", write_cache(tmp_path / "toy"), "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: out of memory (")
    assert said in result.stderr
    assert "--memory-gb" in result.stderr
    assert "See ..." not in result.stderr


def test_another_error_of_torchs_is_a_defect_and_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmser.train.run.train_head", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    cache = write_cache(tmp_path / "toy")
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        mmser("train-head", cache, "--out", tmp_path / "run")
