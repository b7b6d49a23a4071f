"""``--quiet`` and ``--json``: the same two options, with the same meaning, for every command that prints a result.

A command takes them by one decorator, and prints through what it is handed::

    @click.command()
    @click.argument("path")
    @with_output
    def look(path: Path, output: Output) -> None:
        with output.meter() as progress:
            found = run(path, progress)
        output.give(asdict(found), lambda: show_found(found))
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmser.show import Meter


@dataclass(frozen=True)
class Output:
    """What a command prints. Only its result goes to standard output when that is to be JSON."""

    quiet: bool = False
    """The result and errors, and nothing else."""
    as_json: bool = False
    """The result as one JSON object."""

    def meter(self) -> "AbstractContextManager[Meter]":
        """Progress on standard error until the end of the ``with`` block, unless quiet."""
        from mmser.show import meter

        return meter(quiet=self.quiet)

    def say(self, text: str, *, err: bool = False) -> None:
        """Print what is good to know, but is no result."""
        if not self.quiet:
            click.echo(text, err=err or self.as_json)

    def give(self, value: Mapping[str, Any], show: Callable[[], Any]) -> None:
        """Print the result.

        Args:
            value: all of it, in JSON's own types; what is no number is None (:func:`mmser.train.folder.as_json`).
            show: prints it for people.
        """
        if self.as_json:
            click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
        else:
            show()


def with_output(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the two options, and ``output``, which is what they ask for."""

    @click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only the result and errors.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
    @wraps(command)
    def with_both(*args: Any, quiet: bool, as_json: bool, **options: Any) -> None:
        command(*args, output=Output(quiet, as_json), **options)

    return with_both
