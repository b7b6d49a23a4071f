"""``mmser protocols``: the presets that ``--protocol`` takes, with what makes figures differ under each name."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import shlex
from collections.abc import Mapping
from typing import Any

import click

from mmser.commands.output import Output, with_output


@click.group()
def protocols() -> None:
    """Published protocols by name, which train-head and ablate take by --protocol.

    \b
    mmser protocols list
    mmser protocols show iemocap-loso
    """


@protocols.command("list")
@with_output
def list_(output: Output) -> None:
    """Name all protocols, with what is done under each.

    \b
    mmser protocols list
    """
    from mmser.train.presets import PRESETS

    told = [_told(name) for name in PRESETS]
    output.give({"protocols": told}, lambda: _show_all(told, output))


@protocols.command()
@click.argument("name")
@with_output
def show(name: str, output: Output) -> None:
    """What the protocol NAME sets, where it was published, and where figures of that name stop being comparable.

    \b
    mmser protocols show superb
    """
    from mmser.checks import check_choice
    from mmser.train.presets import PRESETS

    check_choice("protocol", name, PRESETS)
    told = _told(name)
    output.give({"protocols": [told]}, lambda: _show(told))


def _told(name: str) -> dict[str, Any]:
    from mmser.train.command import words_of
    from mmser.train.presets import PRESETS

    preset = PRESETS[name]
    settings = {field: list(own) if isinstance(own, tuple) else own for field, own in preset.settings.items()}
    return {
        "protocol": name,
        "options": shlex.join(words_of(preset.settings)),
        "settings": settings,
        "source": preset.source,
        "done": preset.done,
        "traps": list(preset.traps),
    }


def _show_all(told: list[dict[str, Any]], output: Output) -> None:
    from mmser.show import headed

    for one in told:
        click.echo(headed(one["protocol"], one["done"]))
    output.say("\nTheir sources and traps: mmser protocols show NAME. To take one: --protocol NAME")


def _show(one: Mapping[str, Any]) -> None:
    from mmser.show import headed

    click.echo(headed(one["protocol"], one["done"]))
    click.echo(headed("source", one["source"]))
    click.echo(headed("sets what is not given otherwise", one["options"]))
    click.echo(headed("traps", *one["traps"]))
