r"""A hook of ``mkdocs.yml``: the commands' help becomes Markdown; examples (behind ``\b``) keep their lines."""

import inspect
import re
from typing import Any

import click

from mmser.cli import main

_EXAMPLES = re.compile(r"^\x08\n((?:.+\n?)+)", re.MULTILINE)


def on_startup(**_: Any) -> None:
    """Called once by mkdocs, before mkdocs-click writes down what the commands say of themselves."""
    _rewrite(main)


def _rewrite(command: click.Command) -> None:
    """The help of a command and of those below it."""
    plain = inspect.cleandoc(command.help or "")
    paragraphs = _EXAMPLES.split(plain)
    # <utterance_id> would be a tag
    paragraphs[::2] = [paragraph.replace("<", "&lt;") for paragraph in paragraphs[::2]]
    paragraphs[1::2] = [f"```text\n{examples.rstrip()}\n```\n" for examples in paragraphs[1::2]]
    command.help = "".join(paragraphs)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _rewrite(below)
