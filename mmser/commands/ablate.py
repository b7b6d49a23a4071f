"""``mmser ablate``: a grid becomes a table."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands import EXIT_SOME_FAILED
from mmser.commands.output import Output, with_output
from mmser.errors import ProtocolError
from mmser.files import name_of
from mmser.train.presets import PRESETS

if TYPE_CHECKING:
    from mmser.ablate.grid import Grid
    from mmser.ablate.plan import Plan
    from mmser.ablate.run import Ablation


@click.command()
@click.argument("cache_path", metavar="[CACHE]", required=False, type=click.Path(path_type=Path))
@click.argument("grid_path", metavar="[GRID.toml]", required=False, type=click.Path(path_type=Path))
@click.option("--preset", help="A grid that comes with mmser, in place of GRID.toml.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: runs/CACHE/GRID]")
@click.option("--protocol", type=click.Choice(list(PRESETS)), help="In place of the one in [base].")
@click.option("--seeds", type=click.IntRange(min=1), help="In place of those in [base].")
@click.option("--set-base", multiple=True, metavar="NAME=VALUE", help="Any option of [base]: epochs=20.")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard into each cell.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--list-presets", is_flag=True, help="Name the presets and stop.")
@click.option("--show-preset", metavar="NAME", help="Print a preset, to be edited, and stop.")
@with_output
def ablate(
    cache_path: Path | None,
    grid_path: Path | None,
    preset: str | None,
    out: Path | None,
    tensorboard: bool,
    dry_run: bool,
    list_presets: bool,
    show_preset: str | None,
    output: Output,
    **changes: Any,
) -> None:
    """Train the cells of a grid on a CACHE, and print their table.

    GRID.toml names axes, exclusions and rows (docs/ablations.md). Cells of one shape train as one. Run again, only what
    is missing or failed is trained. Cells that fail are named in failed.csv, the rest goes on, and the exit code is 3;
    it is 3 too where all runs of a cell diverge before their first epoch is over.

    \b
    mmser ablate cache/iemocap --preset zhao2022 --protocol iemocap-loso --dry-run
    mmser ablate cache/iemocap my.toml --out runs/my
    mmser ablate --show-preset layers > my.toml
    """
    from mmser.ablate.plan import plan_ablation
    from mmser.ablate.presets import preset_names, preset_purpose, preset_text
    from mmser.ablate.run import ablate as run

    if list_presets:
        purposes = {name: preset_purpose(name) for name in preset_names()}
        output.give({"presets": purposes}, lambda: _show_purposes(purposes))
        return
    if show_preset is not None:
        text = preset_text(show_preset)
        output.give({"preset": show_preset, "text": text}, lambda: click.echo(text, nl=False))
        return
    if cache_path is None or (grid_path is None) == (preset is None):
        raise click.UsageError("name a CACHE, and either GRID.toml or --preset NAME (--list-presets)")
    grid = _grid(cache_path, grid_path, preset, changes)
    folder = out or Path("runs") / name_of(cache_path) / (preset or Path(str(grid_path)).stem)
    plan = plan_ablation(cache_path, grid, folder)
    if dry_run:
        output.give({"folder": str(folder), **_plan_json(plan)}, lambda: _show_plan(grid, plan))
        return
    if not (output.quiet or output.as_json):
        _show_plan(grid, plan)
    command = shlex.join(["mmser", *sys.argv[1:]])
    train = partial(run, cache_path, grid, plan, folder, command=command, tensorboard=tensorboard)
    with output.meter() as progress:
        done = train(report=progress, say=progress.say)
    output.give(_ablation_json(done), lambda: _show_ablation(done))
    if tensorboard:
        output.say(f"To look at: tensorboard --logdir {folder / 'cells'}")
    if done.failures or done.untrained:
        _show_failures(done, len(grid.cells))
        sys.exit(EXIT_SOME_FAILED)


def _show_purposes(purposes: dict[str, str]) -> None:
    for name, purpose in purposes.items():
        click.echo(f"{name:24}{purpose}")


def _grid(cache_path: Path, grid_path: Path | None, preset: str | None, changes: dict[str, Any]) -> "Grid":
    """The grid that was asked for, with what the command line changes in its ``[base]``."""
    from mmser.ablate.grid import read_grid, read_value
    from mmser.ablate.presets import preset_text
    from mmser.cache import Cache

    overrides = {name: changes[name] for name in ("protocol", "seeds") if changes[name] is not None}
    for pair in changes["set_base"]:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ProtocolError(f"--set-base {pair}: expected NAME=VALUE")
        outer, dot, inner = name.partition(".")
        if dot:
            overrides.setdefault(outer, {})[inner] = read_value(value)
        else:
            overrides[name] = read_value(value)
    if preset is not None:
        text, where = preset_text(preset), f"preset {preset}"
    else:
        text, where = _text_of(Path(str(grid_path))), str(grid_path)
    stored = {own.name: own.layers for own in Cache(cache_path).streams.values()}
    return read_grid(text, where, overrides, stored_layers=stored)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: not readable ({error}); expected a grid, in TOML (docs/ablations.md)") from error


def _show_plan(grid: "Grid", plan: "Plan") -> None:
    from mmser.show import duration, print_table, size

    unlike = len({group.num_utterances for group in plan.groups}) > 1
    rows = [
        (
            "; ".join(cell.row for cell in group.cells),
            *((str(group.num_utterances),) if unlike else ()),
            str(group.num_heads),
            str(group.num_copied or "-"),
            duration(group.seconds) if group.num_heads else "-",
        )
        for group in plan.groups
    ]
    if rows:
        on = ("utterances",) if unlike else ()
        print_table(("cells that train as one", *on, "heads", "shared", "at most"), rows)
    _show_utterances(plan)
    _show_unread(grid)
    heads, seconds = sum(group.num_heads for group in plan.groups), sum(group.seconds for group in plan.groups)
    done = f", {len(plan.finished)} finished" if plan.finished else ""
    failing = f", {len(plan.failures)} that this cache cannot serve" if plan.failures else ""
    todo = f"to train: {heads} heads in {len(plan.groups)} stacks, at most {duration(seconds)}"
    how = " (tried on a few utterances, as if no head stopped early and nothing else used the processor)"
    click.echo(f"{len(grid.cells)} cells{done}{failing}; {todo + how if plan.groups else 'nothing to train'}")
    if plan.groups:
        held = max(group.state_bytes for group in plan.groups)
        beside = "and beside them what memory_gb allows the heads at work"
        click.echo(f"In memory: at most {size(held)} of states, {beside}")
    for name, reason in plan.failures.items():
        click.echo(f"{name}: {reason}", err=True)


def _show_utterances(plan: "Plan") -> None:
    """Say which utterances are left out and, where cells differ in that, what has all of them on the same."""
    from mmser.show import counted

    counts = sorted({group.num_utterances for group in plan.groups})
    reasons: dict[str, int] = {}
    for group in plan.groups:
        reasons |= {why: max(num, reasons.get(why, 0)) for why, num in group.left_out.items()}
    if len(counts) > 1:
        states = list(dict.fromkeys(name for group in plan.groups for name in group.states))
        click.echo(
            f"Cells are on {counts[0]} to {counts[-1]} utterances; left out of some: {counted(reasons)}. "
            f"All are on the same with --set-base require={','.join(states)}"
        )
    elif reasons:
        click.echo(f"Cells are on {counts[0]} utterances; left out: {counted(reasons)}")


def _show_unread(grid: "Grid") -> None:
    """Say which options the file gives to heads that do not read them."""
    from mmser.train.unread import unread_options

    heads: dict[str, list[str]] = {}
    for cell in grid.cells:
        heads.setdefault(unread_options(cell.experiment), []).append(cell.experiment.head)
    for words, own in heads.items():
        if words:
            click.echo(f"Note: not read by {', '.join(dict.fromkeys(own))}: {words}")


def _plan_json(plan: "Plan") -> dict[str, Any]:
    """What there is to train; the seconds are an estimate."""
    groups = [
        {
            "cells": [cell.name for cell in group.cells],
            "utterances": group.num_utterances,
            "left_out": group.left_out,
            "heads": group.num_heads,
            "shared": group.num_copied,
            "seconds": group.seconds,
            "state_bytes": group.state_bytes,
        }
        for group in plan.groups
    ]
    return {"groups": groups, "finished": [cell.name for cell in plan.finished], "failures": plan.failures}


def _ablation_json(done: "Ablation") -> dict[str, Any]:
    """The rows of the table, what must be known of them, and the cells that have none."""
    from mmser.train.folder import as_json

    return {
        "folder": str(done.folder),
        "lines": [as_json(asdict(line)) for line in done.lines],
        "rating_lines": [as_json(asdict(line)) for line in done.rating_lines],
        "failures": dict(done.failures),
        "notes": {row: list(notes) for row, notes in done.notes.items()},
        "untrained": list(done.untrained),
    }


def _show_failures(done: "Ablation", num_cells: int) -> None:
    if done.failures:
        click.echo(
            f"{len(done.failures)} of {num_cells} cells could not be trained; {done.folder / 'failed.csv'} says why: "
            f"{', '.join(done.failures)}",
            err=True,
        )
    if done.untrained:
        click.echo(
            f"{len(done.untrained)} of {num_cells} cells never trained: all their runs diverged before their first "
            f"epoch was over, and their figures are of heads before training: {', '.join(done.untrained)}. Try a lower "
            "learning_rate in them and another --out",
            err=True,
        )


def _show_ablation(done: "Ablation") -> None:
    from mmser.commands.tables import print_lines

    print_lines(done.lines, done.rating_lines)
    click.echo(f"Written to {done.folder}. A page and tables for a paper: mmser report {done.folder}")
