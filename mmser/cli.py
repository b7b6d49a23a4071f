"""The command line: parse, call one function, print. What a command needs is imported when it runs."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmser import __version__
from mmser.errors import MmserError
from mmser.extract.options import Extraction
from mmser.flags import experiment_of, extraction_options, training_options

if TYPE_CHECKING:
    from mmser.extract.run import Summary
    from mmser.train.run import Result

EXIT_SOME_FAILED = 3
"""The work was done, but some utterances could not be processed; they are named in ``failed.csv``."""
EXIT_INTERRUPTED = 130
_DISK_SAYS_NO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full, over quota, read-only, not allowed: the user's to mend."""


class _Commands(click.Group):
    """Turns the user's mistakes into one line, and an interruption into a word on how to go on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MmserError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno not in _DISK_SAYS_NO:
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(
                f"{os.strerror(error.errno)}{where}. What is finished is kept; make room or choose another "
                "folder, and run the same command again"
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
    mmser extract emodb.csv --cache cache/emodb   encoders run once
    mmser train-head cache/emodb --head ...       heads train on the cache, as often as you like
    """


@main.group(cls=_Commands)
def cache() -> None:
    """Look at a cache.

    \b
    mmser cache info cache/emodb
    mmser cache verify cache/emodb
    """


@main.command()
@click.argument("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Manifest to write (.csv, ...). [default: CORPUS.csv]")
def manifest(corpus: str, folder: Path, out: Path | None) -> None:
    """Write the manifest of a known CORPUS from its FOLDER, as downloaded.

    \b
    mmser manifest emodb ~/corpora/emodb --out emodb.csv
    """
    from collections import Counter

    from mmser.corpora import CORPORA
    from mmser.manifest import write_manifest
    from mmser.show import counted

    if corpus not in CORPORA:
        raise MmserError(f"no corpus is called {corpus!r}; there are: {', '.join(CORPORA)}")
    found = CORPORA[corpus](folder)
    out = out or Path(f"{corpus}.csv")
    write_manifest(found, out)
    for warning in found.warnings:
        click.echo(f"Note: {warning}", err=True)
    click.echo(f"{out}: {len(found)} utterances ({counted(Counter(found.column('label').tolist()))})")


@main.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@extraction_options
def extract(manifest_path: Path, cache_path: Path, keep: str, **options: Any) -> None:
    """Run the encoders and the aligner once over a MANIFEST, into a cache.

    Run again, only what is missing is done. Utterances that cannot be processed are named in CACHE/failed.csv, the
    rest goes on, and the exit code is 3.

    \b
    mmser extract iemocap.csv --cache cache/iemocap --align pocketsphinx
    mmser extract emodb.csv --cache cache/emodb --text-model none --keep frame,utterance
    """
    from mmser.extract.run import extract as run
    from mmser.manifest import read_manifest
    from mmser.show import meter

    granularities = tuple(part.strip() for part in keep.split(",") if part.strip())
    asked = Extraction(keep=granularities, **options)
    table = read_manifest(manifest_path)
    with meter() as progress:
        summary = run(table, cache_path, asked, progress)
    _show_extraction(summary, cache_path)
    if summary.failures:
        sys.exit(EXIT_SOME_FAILED)


def _show_extraction(summary: "Summary", cache_path: Path) -> None:
    for name, number in summary.added.items():
        click.echo(f"{cache_path / name}: {number} utterances added")
    if not summary.added:
        click.echo(f"{cache_path}: nothing was missing")
    if summary.num_aligned is not None:
        rest = summary.num_utterances - summary.num_aligned
        click.echo(
            f"Aligned {summary.num_aligned} of {summary.num_utterances} utterances"
            + (f"; the other {rest} have no words, but frames and utterance states" if rest else "")
        )
    for note in summary.notes:
        click.echo(f"Note: {note}")
    if summary.failures:
        failed = summary.failed_utterances
        (uid, stream), reason = next(iter(summary.failures.items()))
        click.echo(
            f"{len(failed)} of {summary.num_utterances} utterances could not be processed whole; "
            f"{cache_path / 'failed.csv'} says why. The first: {uid!r} ({stream}): {reason}",
            err=True,
        )


@main.command("train-head")
@click.argument("cache_path", metavar="CACHE", type=click.Path(path_type=Path))
@training_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/CACHE/HEAD-GRANULARITY-LAYER]")
def train_head(cache_path: Path, out: Path | None, **options: Any) -> None:
    """Train a head on a CACHE over all folds and seeds, test it once, and print a table.

    The epoch is chosen on the dev fold (the next value of the fold column); no speaker is in two parts. Run again,
    only what is missing is trained.

    \b
    mmser train-head cache/iemocap --head coattention --granularity word --folds session --seeds 5
    mmser train-head cache/emodb --head speech-probe --granularity utterance --normalise speaker
    """
    from mmser.show import meter
    from mmser.train.run import train_head as run

    experiment = experiment_of(options)
    folder = out or Path("runs") / cache_path.name / f"{experiment.head}-{experiment.granularity}-{experiment.layer}"
    with meter() as progress:
        result = run(cache_path, experiment, folder, report=progress)
    _show_training(result)


def _show_training(*results: "Result") -> None:
    from mmser.show import counted, print_table

    first = results[0]
    for result in results:
        for note in result.notes:
            click.echo(f"Note: {note}")
    if first.left_out:
        click.echo(f"Left out: {counted(first.left_out)}")
    lines = [line for result in results for line in result.lines]
    rows = [
        (
            line.head,
            f"{line.ua:.3f}",
            f"{line.interval.low:.3f} to {line.interval.high:.3f}",
            f"{line.wa:.3f}",
            f"{line.macro_f1:.3f}",
            f"{line.ua_of_folds:.3f}",
            str(line.num_runs),
        )
        for line in lines
    ]
    print_table(("head", "UA", "95 % of UA", "WA", "macro F1", "UA, mean of folds", "runs"), rows)
    unit = {line.interval.unit for line in lines}.pop()
    click.echo(
        f"{first.num_utterances} utterances, {len(first.labels)} classes (chance UA {1 / len(first.labels):.3f}); "
        f"interval by bootstrap over {lines[0].interval.clusters} {unit}s. Written to "
        + ", ".join(str(result.folder) for result in results)
    )


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
def info(path: Path) -> None:
    """What a cache holds.

    \b
    mmser cache info cache/emodb
    """
    from mmser.cache import Cache
    from mmser.show import print_table, size

    rows = []
    for name, stream in Cache(path).streams.items():
        num_bytes = sum(shard.path.stat().st_size for shard in stream.shards)
        layers = ",".join(map(str, stream.layers)) or "-"
        rows.append(
            (
                name,
                str(len(stream)),
                " ".join(stream.granularities) or "-",
                layers,
                str(len(stream.shards)),
                size(num_bytes),
            )
        )
    print_table(("stream", "utterances", "granularities", "layers", "shards", "size"), rows)


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Check every byte of a cache; exit code 1 if anything is wrong.

    \b
    mmser cache verify cache/emodb
    """
    from mmser.cache import Cache
    from mmser.cache import verify as run

    opened = Cache(path)
    faults = list(run(opened))
    for fault in faults:
        click.echo(fault)
    if faults:
        raise MmserError(f"{path}: {len(faults)} faults")
    click.echo(f"{path}: {len(opened.stream_names)} streams, every byte as it was written")


@main.command()
@click.option(
    "--cache", "cache_path", type=click.Path(path_type=Path), default=Path("cache/demo"), help="Cache to make."
)
@click.option("--runs", "runs_path", type=click.Path(path_type=Path), default=Path("runs/demo"), help="Run folders.")
def demo(cache_path: Path, runs_path: Path) -> None:
    """The whole way on a synthetic corpus: speak, align, extract, train, compare. Needs no download.

    The corpus is spoken by espeak-ng and the encoders are untrained, so the figures say that everything works, and
    nothing about emotion in human speech.

    \b
    mmser demo
    """
    from mmser.demo.run import demo as run
    from mmser.show import meter

    with meter() as progress:
        outcome = run(cache_path, runs_path, say=lambda text: click.echo(text), report=progress)
    _show_extraction(outcome.extraction, cache_path)
    _show_training(*outcome.results)
    click.echo(outcome.next_steps)
    if outcome.extraction.failures:
        sys.exit(EXIT_SOME_FAILED)
