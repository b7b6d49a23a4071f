"""The command line. The commands are in :mod:`mmser.commands`; what a command needs is imported when it runs."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import errno
import os
import sys
from typing import Any

import click

from mmser import __version__
from mmser.commands import (
    ablate,
    align,
    cache,
    corpora,
    demo,
    doctor,
    extract,
    heads,
    pool,
    predict,
    protocols,
    publish,
    report,
    runs,
    train,
    transcribe,
)
from mmser.errors import MmserError

EXIT_INTERRUPTED = 130
_DISK_SAYS_NO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full, over quota, read-only, not allowed: the user's to mend."""
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""A file where a folder is asked for or the other way round, or a name that no file can have."""


class _Commands(click.Group):
    """Turns the user's mistakes into one line, and an interruption into a word on how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MmserError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise click.ClickException(
                    f"{error.filename2 or error.filename}: {os.strerror(error.errno)}; give another path to write to"
                ) from error
            if error.errno not in _DISK_SAYS_NO:
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(
                f"{os.strerror(error.errno)}{where}. What is finished is kept; make room or choose another "
                "folder, and run the same command again"
            ) from error
        except (RuntimeError, MemoryError) as error:
            from mmser.devices import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            what = (str(error) or type(error).__name__).splitlines()[0]
            raise click.ClickException(
                f"out of memory ({what}). What is finished is kept; run the same command again with less at once "
                "(train-head, ablate: --memory-gb; extract, predict: --batch-seconds), or on another --device"
            ) from error
        except KeyboardInterrupt:
            click.echo("Stopped. What is finished is kept; the same command goes on from there.", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="mmser")
def main() -> None:
    """Frozen speech and text encoders run once; fusion heads for speech emotion trained many at a time.

    \b
    mmser manifest emodb DIR --out emodb.csv      a corpus becomes a table
    mmser doctor emodb.csv                        is anything wrong with it?
    mmser extract emodb.csv --cache cache/emodb   encoders run once
    mmser heads                                   what can be trained on it?
    mmser protocols list                          and who is train, dev and test?
    mmser train-head cache/emodb --head ...       heads train on the cache, as often as you like
    mmser ablate cache/emodb grid.toml            a table of them, from a file
    mmser runs compare runs/emodb/...             is one better than another?
    mmser report runs/emodb                       tables for the paper, and a page with figures
    mmser predict runs/emodb/... hello.wav        what does it say of a new recording?
    """
    # Read when torch is loaded. A thread that waits for the others of an operation then sleeps, where it would spin for
    # milliseconds: beside other work, on the same core as what it waits for (docs/benchmarks.md). Scripts that import
    # mmser have a say of their own.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for command in (
    corpora.manifest,
    doctor.doctor,
    align.align,
    transcribe.transcribe,
    transcribe.wer,
    extract.extract,
    pool.pool,
    heads.heads,
    protocols.protocols,
    train.train_head,
    ablate.ablate,
    runs.runs,
    report.report,
    predict.predict,
    publish.export,
    publish.hub,
    cache.cache,
    demo.demo,
):
    main.add_command(command)
