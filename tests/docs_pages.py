"""The documentation as tests see it: its pages, and the commands that they show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from mmser.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def sessions(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page's console blocks, each with the lines that it is shown to print."""
    found: list[tuple[str, list[str]]] = []
    for block in _CONSOLE.findall(page.read_text(encoding="utf-8")):
        # a backslash and indented lines go on with the command
        for line in re.sub(r"\\\n\s+", "", block).splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() and found:
                found[-1][1].append(line)
    return found


def calls(command: str) -> Iterator[list[str]]:
    """The programs that a command line runs, each with its arguments; what is piped or written elsewhere is cut off.

    >>> list(calls("conda activate x && mmser doctor m.csv --json > report.json  # a look"))
    [['conda', 'activate', 'x'], ['mmser', 'doctor', 'm.csv', '--json']]
    """
    words = shlex.split(command, comments=True)
    call: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "|", ";"):
            if call:
                yield call[: call.index(">")] if ">" in call else call
            call = []
        else:
            call.append(word)


def parsed(command: click.Command, words: list[str]) -> click.Context:
    """What click makes of a command's words, as a part of mmser: it keeps the first help option that it makes."""
    return command.make_context(command.name, list(words), parent=click.Context(main, **main.context_settings))
