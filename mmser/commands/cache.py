"""``mmser cache``: what a cache holds, whether it is as it was written, and the ways in and out."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mmser.commands.output import Output, with_output
from mmser.errors import MmserError


@click.group()
def cache() -> None:
    """Look at a cache, and bring features in and out.

    \b
    mmser cache info cache/emodb
    mmser cache verify cache/emodb
    """


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@with_output
def info(path: Path, output: Output) -> None:
    """What a cache holds.

    \b
    mmser cache info cache/emodb
    """
    from mmser.cache import Cache

    opened = Cache(path)
    opened.check()
    streams: list[dict[str, Any]] = [
        {
            "stream": name,
            "utterances": len(stream),
            "granularities": list(stream.granularities),
            "layers": list(stream.layers),
            "shards": len(stream.shards),
            "bytes": sum(shard.num_bytes for shard in stream.shards),
        }
        for name, stream in opened.streams.items()
    ]
    output.give({"cache": str(path), "streams": streams}, lambda: _show_streams(streams))


def _show_streams(streams: Sequence[dict[str, Any]]) -> None:
    from mmser.show import print_table, size

    rows = [
        (
            one["stream"],
            str(one["utterances"]),
            " ".join(one["granularities"]) or "-",
            ",".join(map(str, one["layers"])) or "-",
            str(one["shards"]),
            size(one["bytes"]),
        )
        for one in streams
    ]
    print_table(("stream", "utterances", "granularities", "layers", "shards", "size"), rows)


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@with_output
def verify(path: Path, output: Output) -> None:
    """Check every byte of a cache; exit code 1 if anything is wrong.

    \b
    mmser cache verify cache/emodb
    """
    from mmser.cache import Cache
    from mmser.cache import verify as run

    opened = Cache(path)
    faults = [str(fault) for fault in run(opened)]
    whole = f"{path}: {len(opened.stream_names)} streams, every byte as it was written"
    output.give(
        {"cache": str(path), "streams": len(opened.stream_names), "faults": faults},
        lambda: click.echo("\n".join(faults or [whole])),
    )
    if faults:
        raise MmserError(f"{path}: {len(faults)} fault{'s' * (len(faults) > 1)}")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@with_output
def compact(path: Path, output: Output) -> None:
    """Drop what newer shards hold again, as after extract --refresh.

    \b
    mmser cache compact cache/emodb
    """
    from mmser.cache import Cache
    from mmser.cache import compact as run
    from mmser.show import size

    with output.meter() as progress:
        done = run(Cache(path), progress)
    lines = [
        f"{path / name}: {what.utterances} superseded utterances dropped, {size(what.num_bytes)} freed"
        for name, what in done.items()
    ]
    output.give(
        {"cache": str(path), "compacted": {name: asdict(what) for name, what in done.items()}},
        lambda: click.echo("\n".join(lines or [f"{path}: nothing is superseded"])),
    )


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write, e.g. emodb.h5.")
@with_output
def pack(path: Path, out: Path, output: Output) -> None:
    """Write a cache as one file, which every command that reads a cache opens too.

    \b
    mmser cache pack cache/emodb --out emodb.h5
    mmser cache verify emodb.h5
    """
    from mmser.cache import Cache
    from mmser.cache import pack as run
    from mmser.show import size

    opened = Cache(path)
    if opened.packed is not None:
        raise MmserError(f"{path}: is packed already; copy the file")
    opened.check()
    num_streams, num_bytes = len(opened.stream_names), run(path, out)
    output.give(
        {"out": str(out), "streams": num_streams, "bytes": num_bytes},
        lambda: click.echo(f"{out}: {num_streams} streams, {size(num_bytes)}"),
    )


@cache.command("import")
@click.argument("features", type=click.Path(path_type=Path))
@click.option("--cache", "path", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
@click.option("--name", required=True, help="What made them, e.g. emotion2vec: the stream's name.")
@click.option(
    "--manifest", "manifest_path", type=click.Path(path_type=Path), help="The utterances. [default: the cache's own]"
)
@click.option("--ids", type=click.Path(path_type=Path), help="For a matrix: a text file, one utterance id a line.")
@click.option(
    "--granularity",
    type=click.Choice(["frame", "utterance", "token"]),
    help="What a row stands for. [default: utterance where each has one vector, else frame; token for MMSA's text]",
)
@click.option("--key", help="For a .pkl of MMSA: which features, e.g. text. [default: audio]")
@click.option("--own-manifest", is_flag=True, help="Take the utterances, and labels and splits, from FEATURES.")
@click.option(
    "--dtype", type=click.Choice(["float16", "float32"]), help="Stored type. [default: as given; float64: float32]"
)
@with_output
def import_(
    features: Path,
    path: Path,
    name: str,
    manifest_path: Path | None,
    ids: Path | None,
    granularity: str | None,
    dtype: str | None,
    key: str | None,
    own_manifest: bool,
    output: Output,
) -> None:
    """Bring in FEATURES made elsewhere.

    A folder of <utterance_id>.npy, each (D,), (rows, D) or (layers, rows, D), as of EmoBox and MERBench; emotion2vec's
    .npy with .lengths beside it; a .pkl of MMSA, of which nothing is run; a .npy matrix with --ids; a .npz with a
    matrix and its ids; or what mmser cache export wrote.

    \b
    mmser cache import features/ --cache cache/emodb --name emotion2vec --manifest emodb.csv
    mmser train-head cache/emodb --head speech-probe --granularity frame --layer -1
    mmser cache import unaligned_50.pkl --cache cache/mosi --name covarep --own-manifest
    mmser cache import unaligned_50.pkl --cache cache/mosi --name bert --key text
    """
    from mmser.cache import Cache, import_features, open_foreign, told_manifest
    from mmser.manifest import read_manifest

    if own_manifest and manifest_path is not None:
        raise click.UsageError("--own-manifest and --manifest both say who the utterances are; give one.")
    source = open_foreign(features, ids, key)
    if own_manifest:
        manifest = told_manifest(source, features)
    else:
        manifest = read_manifest(manifest_path) if manifest_path is not None else Cache(path).manifest
    with output.meter() as progress:
        done = import_features(source, path, name, manifest, granularity=granularity, dtype=dtype, report=progress)
    output.give(
        {"cache": str(path), "utterances": len(manifest), **asdict(done)},
        lambda: click.echo(f"{path / done.stream}: {done.added} utterances added ({done.granularity} states)"),
    )
    if done.unknown:
        output.say(f"Note: {len(done.unknown)} are not in the manifest and were left out ({done.unknown[0]!r}, ...)")
    if done.present < len(manifest):
        output.say(f"Note: {len(manifest) - done.present} of the manifest's {len(manifest)} utterances have none")


@cache.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--stream", required=True, help="Which stream (mmser cache info names them).")
@click.option("--granularity", required=True, help="Which of its granularities.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--layer", "layers", type=int, multiple=True, help="Encoder layer; may be repeated. [default: all]")
@click.option(
    "--as",
    "form",
    type=click.Choice(["files", "matrix"]),
    default="files",
    help="One .npy an utterance, or one of all.",
)
@with_output
def export(
    path: Path, stream: str, granularity: str, out: Path, layers: tuple[int, ...], form: str, output: Output
) -> None:
    """Write states as .npy, with an index, for other tools.

    \b
    mmser cache export cache/emodb --stream pooled/builtin-tiny@none --granularity utterance --layer 3 --out features
    """
    from mmser.cache import Cache
    from mmser.cache import export as run

    opened = Cache(path).stream(stream)
    with output.meter() as progress:
        number = run(opened, granularity, out, layers=layers or None, form=form, report=progress)
    output.give({"out": str(out), "utterances": number}, lambda: click.echo(f"{out}: {number} utterances"))
