"""The command line: parse, call one function, print. What a command needs is imported when it runs."""

import click

from mmser import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mmser")
def main() -> None:
    """Frozen speech and text encoders run once; fusion heads for speech emotion trained many at a time."""
