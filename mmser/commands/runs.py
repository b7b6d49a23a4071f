"""``mmser runs``: what was trained, and whether one is better than another."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path
from typing import Any

import click


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
def list_(root: Path) -> None:
    """The run folders under ROOT, with the figure of each one's last head.

    \b
    mmser runs list
    """
    from mmser.show import print_table
    from mmser.train.compare import find_runs, read_json

    rows = []
    for folder in find_runs(root):
        asked = read_json(folder / "config.json").get("experiment", {})
        about = (str(folder), str(asked.get("head")), str(asked.get("task")), str(asked.get("folds")))
        finished = (folder / "summary.json").exists()
        rows.append((*about, _figure(read_json(folder / "summary.json")) if finished else "not finished"))
    if not rows:
        click.echo(f"{root}: no run folders; mmser train-head writes them")
        return
    print_table(("run folder", "head", "task", "folds", "figure"), rows)


def _figure(summary: dict[str, Any]) -> str:
    found = [f"UA {line['ua']:.3f}" for line in summary["lines"][-1:]]
    last = summary["rating_lines"][-1]["head"] if summary["rating_lines"] else ""
    rated = [line for line in summary["rating_lines"] if line["head"] == last]
    return ", ".join([*found, *(f"CCC of {one['dimension']} {_number(one['ccc'])}" for one in rated)])


@runs.command()
@click.argument("folder", type=click.Path(path_type=Path))
def show(folder: Path) -> None:
    """What was asked for in FOLDER, and what came out.

    \b
    mmser runs show runs/emodb/speech-probe-utterance-2
    """
    from mmser.commands.tables import print_lines, recalls
    from mmser.show import counted
    from mmser.train.command import command_of
    from mmser.train.compare import read_json
    from mmser.train.results import line_of, rating_line_of

    summary, config = read_json(folder / "summary.json"), read_json(folder / "config.json")
    for name, value in config["experiment"].items():
        if name != "training" and value not in ("", None, [], {}):
            click.echo(f"{name}: {value}")
    click.echo(f"command: {command_of(config['experiment'], Path('cache', config['cache']))}")
    for words, counts in (("Left out", summary["left_out"]), ("Kept, though there are", summary["kept"])):
        if counts:
            click.echo(f"{words}: {counted(counts)}")
    for note in summary["notes"]:
        click.echo(f"Note: {note}")
    print_lines([line_of(own) for own in summary["lines"]], [rating_line_of(own) for own in summary["rating_lines"]])
    for line in summary["lines"]:
        each = ", ".join(f"{name} {value:.3f}" for name, value in recalls(summary["labels"], line["confusion"]).items())
        click.echo(f"{line['head']}: recall of {each}; ECE {_number(line['ece'])}")


def _number(value: float | None) -> str:
    """A figure, or what stands for one that is no number."""
    return "-" if value is None else f"{value:.3f}"


@runs.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(folders: tuple[Path, ...]) -> None:
    """Whether one of FOLDERS is better than another, on the same utterances.

    Paired permutation test, in which a speaker's predictions are swapped together; adjusted for all pairs (Holm). Of
    one folder alone, all its heads are compared.

    \b
    mmser runs compare runs/iemocap/coattention-word-mix runs/iemocap/speech-probe-utterance-mix
    """
    from mmser.show import print_table
    from mmser.train.compare import compare as run

    found = run(folders)
    rows = [
        (
            f"{one.one} - {one.other}",
            one.figure,
            f"{one.value_one:.3f} - {one.value_other:.3f}",
            f"{one.value_one - one.value_other:+.3f}",
            f"{one.p:.4f}",
            f"{one.p_holm:.4f}",
        )
        for one in found
    ]
    print_table(("runs", "figure", "values", "difference", "p", "p (Holm)"), rows)
    num = min(one.clusters for one in found)
    least = f"; with so few speakers p cannot fall below {2 / 2**num:.2g}" if num <= 10 else ""
    click.echo(f"paired permutation test over {num} speakers{least}")
