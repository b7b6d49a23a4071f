"""``mmser cache``: what a cache holds, and whether it is as it was written."""

# ruff: noqa: D301 - click keeps the lines of a paragraph that begins with the control character \b, not with its name

from pathlib import Path

import click

from mmser.errors import MmserError


@click.group()
def cache() -> None:
    """Look at a cache.

    \b
    mmser cache info cache/emodb
    mmser cache verify cache/emodb
    """


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
        num_bytes = sum(shard.num_bytes for shard in stream.shards)
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
