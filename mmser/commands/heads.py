"""``mmser heads``: what can be trained, and its options."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from mmser.commands.output import Output, with_output

_MARKS = "[S] stated by the source, [C] in public code, [M] remembered, [D] a default of ours, [A] an adaptation"


@click.command()
@click.argument("head", required=False)
@with_output
def heads(head: str | None, output: Output) -> None:
    """Name all heads, or tell the options of one HEAD, which train-head takes by --set.

    \b
    mmser heads
    mmser heads coattention
    """
    from mmser.checks import check_choice
    from mmser.errors import ProtocolError
    from mmser.heads import HEADS
    from mmser.heads.told import options_told, reads, source_of, summary
    from mmser.train.members import FUSIONS

    if head in FUSIONS:
        raise ProtocolError(
            f"{head} has no options of its own: it combines the answers of heads (mmser train-head --members, --fusion)"
        )
    if head is not None:
        check_choice("head", head, HEADS)
    told = [
        {
            "head": name,
            "reads": reads(kind),
            "about": summary(kind),
            "source": source_of(kind),
            "options": [asdict(one) for one in options_told(kind)],
        }
        for name, kind in HEADS.items()
        if head in (None, name)
    ]
    output.give({"heads": told}, lambda: _show_all(told, output) if head is None else _show(told[0], output))


def _show_all(told: list[dict[str, Any]], output: Output) -> None:
    from mmser.show import headed

    for one in told:
        click.echo(headed(f"{one['head']} ({', '.join(one['reads'])})", one["about"]))
    output.say("\nlate-fusion combines them (--members, --fusion). The options of one: mmser heads HEAD")


def _show(one: Mapping[str, Any], output: Output) -> None:
    from mmser.show import headed

    click.echo(headed(f"{one['head']} ({', '.join(one['reads'])})", f"{one['about']} {one['source']}"))
    for option in one["options"]:
        click.echo(headed(f"--set {option['name']}={option['default']}", option["about"]))
    output.say(f"\n{_MARKS}")
