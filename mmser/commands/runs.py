"""``mmser runs``: what was trained, and whether one is better than another."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser.commands.output import Output, with_output
from mmser.errors import MmserError, ProtocolError

if TYPE_CHECKING:
    from mmser.commands.tables import Lines
    from mmser.train.compare import Difference


@click.group()
def runs() -> None:
    """Look at run folders.

    \b
    mmser runs list
    mmser runs show runs/emodb/speech-probe-utterance-2
    mmser runs compare runs/iemocap/coattention-word-mix runs/iemocap/speech-probe-utterance-mix
    """


@runs.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=Path("runs"))
@with_output
def list_(root: Path, output: Output) -> None:
    """The run folders under ROOT, with the figure of each one's last head.

    \b
    mmser runs list
    """
    from mmser.train.runs import find_runs

    found = [_listed(folder) for folder in find_runs(root)]
    output.give({"root": str(root), "runs": found}, lambda: _show_list(root, found))
    for run in found:
        if run["damaged"]:
            click.echo(f"Damaged: {run['damaged']}", err=True)


def _listed(folder: Path) -> dict[str, Any]:
    """What the list tells of a run folder.

    ``untrained`` counts heads that diverged before they had a score; ``damaged`` says which file is, if one is.
    """
    from mmser.train.stored import read_config, read_results, read_summary

    fields = ("head", "task", "folds", "summary", "untrained", "damaged")
    told: dict[str, Any] = {"folder": str(folder), **dict.fromkeys(fields)}
    try:
        asked = read_config(folder)["experiment"]
        told |= {name: asked.get(name) for name in ("head", "task", "folds")}
        if (folder / "summary.json").exists():
            told["summary"] = read_summary(folder)
            if (folder / "results.csv").exists():
                told["untrained"] = int((read_results(folder)["best_epoch"] == 0).sum())
    except ProtocolError as error:
        told["damaged"] = str(error)
    return told


def _show_list(root: Path, found: Sequence[dict[str, Any]]) -> None:
    from mmser.show import print_table

    if not found:
        click.echo(f"{root}: no run folders; mmser train-head writes them")
        return
    rows = [(*(str(run[name] or "-") for name in ("folder", "head", "task", "folds")), _state(run)) for run in found]
    print_table(("run folder", "head", "task", "folds", "figure"), rows)


def _state(run: dict[str, Any]) -> str:
    if run["damaged"]:
        return "damaged"
    if not run["summary"]:
        return "not finished"
    untrained = f"; heads never trained: {run['untrained']}" if run["untrained"] else ""
    return _figure(run["summary"]) + untrained


def _figure(summary: dict[str, Any]) -> str:
    from mmser.commands.tables import number

    found = [f"UA {number(line['ua'])}" for line in summary["lines"][-1:]]
    last = summary["rating_lines"][-1]["head"] if summary["rating_lines"] else ""
    rated = [line for line in summary["rating_lines"] if line["head"] == last]
    return ", ".join([*found, *(f"CCC of {one['dimension']} {number(one['ccc'])}" for one in rated)])


@runs.command()
@click.argument("folder", type=click.Path(path_type=Path))
@with_output
def show(folder: Path, output: Output) -> None:
    """What was asked for in FOLDER, and what came out.

    \b
    mmser runs show runs/emodb/speech-probe-utterance-2
    """
    from mmser.train.command import command_of
    from mmser.train.stored import read_config, read_oracle, read_summary

    summary, config = read_summary(folder), read_config(folder)
    experiment = config["experiment"]
    command = command_of(experiment, Path("cache", config["cache"]), folder)
    leaks = experiment.get("report_oracle") and (folder / "oracle.json").exists()
    oracle = {"oracle": read_oracle(folder)} if leaks else {}
    output.give(
        {"folder": str(folder), "command": command, "experiment": experiment, **summary, **oracle},
        lambda: _show_run(experiment, command, {**summary, **oracle}, output),
    )


def _show_run(experiment: dict[str, Any], command: str, summary: dict[str, Any], output: Output) -> None:
    from mmser.commands.tables import number, print_lines, print_oracle, recalls
    from mmser.show import counted, one_line

    unread = _unread(experiment)
    for name, value in experiment.items():
        if name != "training" and name not in unread and value not in ("", None, [], {}):
            click.echo(one_line(f"{name}: {value}"))
    click.echo(f"command: {command}")
    for words, counts in (("Left out", summary["left_out"]), ("Kept, though there are", summary["kept"])):
        if counts:
            click.echo(one_line(f"{words}: {counted(counts)}"))
    for note in summary["notes"]:
        output.say(one_line(f"Note: {note}"))
    lines = _lines(summary)
    print_lines(*lines)
    if "oracle" in summary:
        print_oracle(lines, _lines(summary["oracle"]))
    for line in summary["lines"]:
        found = recalls(summary["labels"], line["confusion"])
        each = ", ".join(f"{one_line(name)} {number(value)}" for name, value in found.items())
        click.echo(f"{line['head']}: recall of {each}; ECE {number(line['ece'])}")


def _unread(experiment: dict[str, Any]) -> set[str]:
    """Fields that nothing in an experiment reads."""
    from mmser.train.members import FUSIONS
    from mmser.train.stored import stored_experiment
    from mmser.train.unread import unread_fields

    try:
        unread = unread_fields(stored_experiment(experiment))
    except (MmserError, TypeError, ValueError, AttributeError):
        return set()  # of another version of mmser, or edited: what was asked for is shown in full
    return unread if experiment["head"] in FUSIONS else {*unread, "fusion"}


def _lines(stored: dict[str, Any]) -> "Lines":
    from mmser.train.results import line_of, rating_line_of

    return [line_of(own) for own in stored["lines"]], [rating_line_of(own) for own in stored["rating_lines"]]


@runs.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_output
def compare(folders: tuple[Path, ...], output: Output) -> None:
    """Whether one of FOLDERS is better than another, on the same utterances.

    Paired permutation test, in which a speaker's predictions are swapped together (where no two speakers are known, an
    utterance's); adjusted for all pairs (Holm). Of one folder alone, all its heads are compared. Where one of a pair
    was not tested on a few utterances of the other (5 % at most), values and p are of those that both were tested on,
    and how many is printed.

    \b
    mmser runs compare runs/iemocap/coattention-word-mix runs/iemocap/speech-probe-utterance-mix
    """
    from mmser.train.compare import compare as run
    from mmser.train.folder import as_json

    found = run(folders)
    output.give({"differences": [as_json(asdict(one)) for one in found]}, lambda: _show_differences(found, output))


def _show_differences(found: Sequence["Difference"], output: Output) -> None:
    from mmser.commands.tables import number
    from mmser.show import print_table

    unlike = any(one.is_on_fewer for one in found)
    rows = [
        (
            f"{one.one} - {one.other}",
            one.figure,
            *((f"{one.utterances} of {one.utterances_one} and {one.utterances_other}",) if unlike else ()),
            f"{number(one.value_one)} - {number(one.value_other)}",
            number(one.value_one - one.value_other, signed=True),
            f"{one.p:.4f}",
            f"{one.p_holm:.4f}",
        )
        for one in found
    ]
    on = ("utterances",) if unlike else ()
    print_table(("runs", "figure", *on, "values", "difference", "p", "p (Holm)"), rows)
    units = list(dict.fromkeys(one.unit for one in found))
    for unit in units:
        own = [one for one in found if one.unit == unit]
        num, of = min(one.clusters for one in own), ", ".join(dict.fromkeys(one.figure for one in own))
        least = f"; with so few {unit}s p cannot fall below {2 / 2**num:.2g}" if num <= 10 else ""
        which = f"{of}: " if len(units) > 1 else ""  # a rating may be known of one speaker alone
        click.echo(f"{which}paired permutation test over {num} {unit}s{least}")
    if unlike:
        output.say("Note: values and p are of the utterances that both runs were tested on")
