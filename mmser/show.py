"""How things look in a terminal: progress, tables, counts. Plain lines where the output is piped."""

import math
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_AFTER_S, _PLAIN_EVERY_S, _PLAIN_SHARE = 10.0, 60.0, 0.1
"""Where nobody watches, a line of progress comes after a tenth more of the work, but no sooner than the first and, if
the work is slow, no later than the second after the line before: a night's work is a page, not a book."""

_UNBOUNDED = 1_000_000
"""Columns of an output that has no edge."""


class Meter:
    """Progress of several tasks, each named as it begins: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, bars: Progress | None, *, quiet: bool = False) -> None:
        self.stop = False
        """Asked to stop: the next call raises KeyboardInterrupt."""
        self._bars, self._quiet = bars, quiet
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._printed: dict[str, tuple[float, int]] = {}

    def __call__(self, name: str, done: int, total: int, seconds: float = 0.0) -> None:
        """Show that ``done`` of ``total`` are done, and how much audio that was."""
        if self.stop:
            raise KeyboardInterrupt
        if self._quiet:
            return
        now = time.monotonic()
        began = self._began.setdefault(name, now)
        rate = f"{seconds / (now - began):.0f}x real time" if seconds and now > began else ""
        if self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, rate="")
            self._bars.update(self._tasks[name], completed=done, total=total, rate=rate)
        elif done == total or self._due(name, now, done, total):
            self._printed[name] = now, done
            click.echo(f"{name}: {done}/{total}" + (f", {rate}" if rate else ""), err=True)

    def _due(self, name: str, now: float, done: int, total: int) -> bool:
        """Whether it is time for another line."""
        when, before = self._printed.get(name, (self._began[name], 0))
        return now - when >= (_PLAIN_AFTER_S if done - before >= _PLAIN_SHARE * total else _PLAIN_EVERY_S)

    def say(self, text: str) -> None:
        """Print a line, above the bars where there are any."""
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False, emoji=False)
        elif not self._quiet:
            click.echo(text, err=True)


@contextmanager
def meter(*, quiet: bool = False) -> Iterator[Meter]:
    """Show progress on standard error until the end of the ``with`` block; Ctrl-C stops at the next sign of it.

    Args:
        quiet: show nothing; Ctrl-C stops in the same way.
    """
    console = Console(stderr=True)
    if quiet or not console.is_interactive:
        plain = Meter(None, quiet=quiet)
        with _stopping(plain):
            yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        shown = Meter(bars)
        with _stopping(shown):
            yield shown


@contextmanager
def _stopping(shown: Meter) -> Iterator[None]:
    """Let Ctrl-C end the work between two batches; the second Ctrl-C ends it at once.

    An interrupt that Python raises wherever it happens to be is lost when that is a destructor or a weak reference's
    callback, of which h5py and torch have many: the work would then go on as if nobody had asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: object) -> None:
        shown.stop = True
        # Not what was there before: a script's background job starts with the signal ignored, and could not be stopped.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"Stopping after this batch; once more stops at once.\n")

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table on standard output; the first column to the left, the others to the right."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    if not sys.stdout.isatty():  # as wide as it needs to be: nobody's screen has an end, and rows stay lines
        unbounded = console.options.update(max_width=_UNBOUNDED)
        console.width = max(1, Measurement.get(console, unbounded, shown).maximum)
    console.print(shown)


def counted(counts: Mapping[str, int]) -> str:
    """Counts as one phrase.

    >>> counted({"no label": 3, "no word states": 1})
    '3 no label, 1 no word states'
    """
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items(), key=lambda item: -item[1]))


def headed(title: str, *paragraphs: str) -> str:
    """A title, and below it text, indented.

    >>> print(headed("superb", "each session is test once", "4 classes"))
    superb
        each session is test once
        4 classes
    """
    indent = " " * 4
    fill = textwrap.TextWrapper(100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).fill
    return "\n".join([title, *map(fill, paragraphs)])


def one_line(text: str) -> str:
    r"""A name as it was given, but for what would break the line or move the cursor.

    >>> print(one_line("sad\nangry é"))
    sad\nangry é
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(num_bytes: float) -> str:
    """Bytes for people.

    >>> size(25_300_000)
    '25.3 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Time for people.

    >>> duration(0.4), duration(75), duration(7000)
    ('1 s', '2 min', '1.9 h')
    """
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
